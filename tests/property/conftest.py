"""How hard the property tests try: ``HYPOTHESIS_PROFILE=thorough`` for tens of thousands of examples each.

``steady`` is between the two, for a minute or two of looking before a change of the charging rules is committed.
"""

import os

from hypothesis import HealthCheck, settings

# The fast profile is derandomized, so that a red run is red again; the others find new documents each time.
settings.register_profile("fast", max_examples=40, derandomize=True, deadline=None, database=None)
for name, examples in (("steady", 1_000), ("thorough", 20_000)):
    settings.register_profile(
        name,
        max_examples=examples,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))
