"""64 clients at once on one account, and on 100: nothing below the floor, no deadlock, every snapshot adds up."""

import os

import pytest

from tests.figures.crowd import measure
from tests.support.postgres import WorkerDatabases
from tests.support.scripted_provider import ProviderHost

pytestmark = pytest.mark.anyio

SEED = 20_261_124
SHARE = int(os.environ.get("FIGURES_SHARE", "100"))
"""Percent of the whole."""


@pytest.mark.parametrize(("users", "operations"), [(1, 80 * SHARE), (100, 120 * SHARE)])
async def test_a_crowd_leaves_a_ledger_that_adds_up(
    databases: WorkerDatabases, providers: ProviderHost, users: int, operations: int
) -> None:
    with databases.fresh() as urls:
        figures, done = await measure(urls.service, providers, seed=SEED, users=users, operations=operations)
    print(f"\n{figures}")
    assert done.faults == []
    assert done.operations >= operations
