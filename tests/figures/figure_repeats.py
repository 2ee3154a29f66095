"""200 identical requests at once under each of 200 keys: 200 effects, one answer each."""

import os

import pytest

from tests.figures.repeats import measure
from tests.support.invariants import findings
from tests.support.postgres import WorkerDatabases
from tests.support.scripted_provider import ProviderHost
from tests.support.world import world

pytestmark = pytest.mark.anyio

SHARE = int(os.environ.get("FIGURES_SHARE", "100"))
"""Percent of the whole."""
KEYS, TIMES, AT_ONCE = max(20, 2 * SHARE), 200, 4


async def test_200_identical_requests_at_once_have_one_effect_and_one_answer(
    databases: WorkerDatabases, providers: ProviderHost
) -> None:
    with databases.fresh() as urls:
        provider = providers.script()
        async with world(urls.service, provider) as one, world(urls.service, provider, clock=one.clock) as other:
            figures = await measure([one, other], KEYS, TIMES, AT_ONCE)
        print(f"\n{TIMES} identical requests at once under each of {KEYS} keys, {AT_ONCE} keys at a time, ", end="")
        print(f"two services on one database\n{figures}")
        found = await findings(urls.service)
        assert found == []
