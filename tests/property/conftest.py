"""How hard the property tests try: ``HYPOTHESIS_PROFILE=thorough`` for tens of thousands of examples each."""

import os

from hypothesis import HealthCheck, settings

# The fast profile is derandomized, so that a red run is red again; the thorough one finds new documents each time.
settings.register_profile("fast", max_examples=40, derandomize=True, deadline=None, database=None)
settings.register_profile(
    "thorough",
    max_examples=20_000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))
