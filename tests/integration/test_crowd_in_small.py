"""Some of the operations of the crowd that ``make figures`` lets loose, so that it cannot rot."""

import pytest

from tests.figures.crowd import measure
from tests.support.postgres import WorkerDatabases
from tests.support.scripted_provider import ProviderHost

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("users", [1, 10])
async def test_a_small_crowd_leaves_a_ledger_that_adds_up(
    databases: WorkerDatabases, providers: ProviderHost, users: int
) -> None:
    with databases.fresh() as urls:
        figures, done = await measure(urls.service, providers, seed=7, users=users, operations=80, clients=12)
    assert done.faults == [], figures
    assert done.operations >= 80
    assert done.seen.snapshots > 1
