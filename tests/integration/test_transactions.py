"""How transactions begin and end: with their limits, in one message, and not at all without one."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

import app.db.database
from app.db.database import LOCK_TIMEOUT_MS, STATEMENT_TIMEOUT_MS, Database, DatabaseUnavailable, Transaction
from tests.support.postgres import WorkerDatabases, ask, tell

pytestmark = pytest.mark.anyio
_WRITE = "insert into receiving (process_id, from_at, to_at) values (gen_random_uuid(), '2001-01-01', '2001-01-01')"
_COUNT = "select count(*) from receiving where from_at = '2001-01-01'"
_HELD = "select name, setting from pg_settings where name in ('lock_timeout', 'statement_timeout')"


@pytest.fixture
async def database(databases: WorkerDatabases) -> AsyncIterator[Database]:
    found = Database(databases.urls.service, pool_size=1)
    yield found
    await found.close()


async def settings(transaction: Transaction) -> dict[str, str]:
    return {row.name: row.setting for row in await transaction.execute(text(_HELD))}


async def shown(transaction: Transaction, name: str) -> str:
    return str((await transaction.execute(text(f"show {name}"))).scalar_one())


async def test_each_begins_with_its_limits_and_leaves_the_session_as_it_was(database: Database) -> None:
    async with database.transaction() as transaction:
        limits = {"lock_timeout": str(LOCK_TIMEOUT_MS), "statement_timeout": str(STATEMENT_TIMEOUT_MS)}
        assert await settings(transaction) == limits
        assert await shown(transaction, "transaction_isolation") == "read committed"
        assert await shown(transaction, "transaction_read_only") == "off"
    async with database.reading(statement_timeout_ms=700) as transaction:
        assert await settings(transaction) == limits | {"statement_timeout": "700"}
        assert await shown(transaction, "transaction_isolation") == "repeatable read"
        assert await shown(transaction, "transaction_read_only") == "on"
    async with database._engine.connect() as bare:
        assert await settings(bare) == {"lock_timeout": "0", "statement_timeout": "0"}


async def test_reading_sees_one_state_from_its_first_statement_on(database: Database) -> None:
    count = text(_COUNT)
    try:
        async with database.reading() as transaction:
            assert (await transaction.execute(count)).scalar_one() == 0
            tell(database.conninfo, _WRITE)
            assert (await transaction.execute(count)).scalar_one() == 0
    finally:
        tell(database.conninfo, "delete from receiving where from_at = '2001-01-01'")


@pytest.mark.parametrize("how", ["raised", "refused", "cancelled", "cut"])
async def test_what_does_not_come_to_its_end_leaves_nothing(database: Database, how: str) -> None:
    async def broken() -> None:
        async with database.transaction() as transaction:
            await transaction.execute(text(_WRITE))
            if how == "raised":
                raise LookupError
            if how == "cut":
                pid = (await transaction.execute(text("select pg_backend_pid()"))).scalar_one()
                await transaction.execute(text(f"select pg_terminate_backend({pid})"))
            await transaction.execute(text("select no_such_thing()" if how == "refused" else "select pg_sleep(30)"))

    task = asyncio.create_task(broken())
    if how == "cancelled":
        await asyncio.sleep(0.3)
        task.cancel()
    expected = {"raised": LookupError, "refused": ProgrammingError, "cut": DatabaseUnavailable}
    with pytest.raises(expected.get(how, asyncio.CancelledError)):
        await task
    assert ask(database.conninfo, _COUNT) == [(0,)]
    # The one connection, or a new one, is as good as before.
    async with database.transaction() as transaction:
        assert await settings(transaction) == {
            "lock_timeout": str(LOCK_TIMEOUT_MS),
            "statement_timeout": str(STATEMENT_TIMEOUT_MS),
        }


async def test_one_dead_connection_tells_of_all(databases: WorkerDatabases) -> None:
    """Else each of them failed a request of its own."""
    database = Database(databases.urls.service, pool_size=2)
    async with database.transaction() as one, database.transaction() as other:
        pids = [(await each.execute(text("select pg_backend_pid()"))).scalar_one() for each in (one, other)]
    for pid in pids:
        ask(databases.urls.superuser, f"select pg_terminate_backend({pid}, 5000)")
    with pytest.raises(DatabaseUnavailable):
        await database.clock()
    async with database.transaction() as one, database.transaction() as other:
        assert [(await each.execute(text("select 1"))).scalar_one() for each in (one, other)] == [1, 1]
    await database.close()


async def test_a_server_that_hangs_is_taken_for_lost(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot end a statement by itself then, whatever its own limits are."""
    monkeypatch.setattr(app.db.database, "ANSWER_MARGIN_S", 0.2)

    async def read() -> None:
        async with database.reading(statement_timeout_ms=300) as transaction:
            stop((await transaction.execute(text("select pg_backend_pid()"))).scalar_one())
            await transaction.execute(text("select 1"))

    begun = time.monotonic()
    with stopped() as stop, pytest.raises(DatabaseUnavailable):
        await read()
    assert time.monotonic() - begun < 10, "it would be for ever"
    async with database.transaction() as transaction:
        assert (await transaction.execute(text("select 1"))).scalar_one() == 1


async def test_so_is_one_that_hangs_at_a_commit(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.db.database, "ANSWER_MARGIN_S", -STATEMENT_TIMEOUT_MS / 1_000 + 0.5)

    async def write() -> None:
        async with database.transaction() as transaction:
            stop((await transaction.execute(text("select pg_backend_pid()"))).scalar_one())

    with stopped() as stop, pytest.raises(DatabaseUnavailable):
        await write()


@contextmanager
def stopped() -> Iterator[Callable[[int], None]]:
    """Stops processes of the server until the end of the block."""
    pids: list[int] = []

    def stop(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        pids.append(pid)

    try:
        yield stop
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def test_a_beginning_is_one_message(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async with database.transaction():
        pass
    waits: list[str] = []
    wait = psycopg.AsyncConnection.wait

    async def counted(self: psycopg.AsyncConnection, gen: object, *given: object) -> object:
        waits.append(self.info.transaction_status.name)
        return await wait(self, gen, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(psycopg.AsyncConnection, "wait", counted)
    async with database.transaction() as transaction:
        await transaction.execute(text("select 1"))
    assert waits[:3] == ["IDLE", "INTRANS", "INTRANS"], "it begins, asks, and commits"
