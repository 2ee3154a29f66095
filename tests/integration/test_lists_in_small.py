"""The lists that ``python -m benchmarks.lists`` measures with a million users, so that it cannot rot."""

import pytest

from benchmarks.lists import SMALL, first_card, measure
from benchmarks.many_users import fill
from tests.support.postgres import WorkerDatabases
from tests.support.scripted_provider import ProviderHost

pytestmark = pytest.mark.anyio


async def test_each_list_of_few_users_in_small(databases: WorkerDatabases, providers: ProviderHost) -> None:
    with databases.fresh() as urls:
        await first_card(urls.service)
        rows = fill(urls.superuser, urls.service, *SMALL)
        found = await measure(urls.service, urls.service, providers, only="/admin", rounds=1)
    assert (rows["accounts"], rows["entries"]) == SMALL
    lists = [one for one in found if one.large[0] is not None]
    assert len(lists) > 40
    assert sum(one.large[1] is not None for one in lists) > 30, "most lists have a page in the middle"
