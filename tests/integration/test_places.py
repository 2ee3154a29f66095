"""Connections are given in the order of asking: nobody waits longer because others ask again and again."""

import asyncio
import itertools
from random import Random

import pytest
from sqlalchemy import text

from app.db.database import Database, DatabaseUnavailable
from tests.support.postgres import WorkerDatabases

pytestmark = pytest.mark.anyio


async def test_hardly_anybody_who_asks_later_comes_first(databases: WorkerDatabases) -> None:
    database = Database(databases.urls.service, pool_size=3)
    asked, served, chance = itertools.count(), list[int](), Random(1)

    async def client() -> None:
        for _ in range(40):
            for _ in range(chance.randint(0, 60)):
                await asyncio.sleep(0)
            mine = next(asked)
            async with database.transaction() as transaction:
                served.append(mine)
                await transaction.execute(text("select 1"))

    await asyncio.gather(*(client() for _ in range(30)))
    await database.close()
    passed_by = [sum(other > mine for other in served[:n]) for n, mine in enumerate(served)]
    # One of the database's processes may be slow at any time: whoever it serves is passed by many, but few are.
    assert sum(passed > 12 for passed in passed_by[30:]) <= len(served) // 100


async def test_who_waits_too_long_for_a_connection_is_told_so(
    databases: WorkerDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.database.POOL_TIMEOUT_S", 0.05)
    database = Database(databases.urls.service, pool_size=1)
    async with database.transaction():
        with pytest.raises(DatabaseUnavailable):
            async with database.reading():
                pytest.fail("there is but one connection")
    async with database.reading():
        pass
    await database.close()
