"""The one place that commits.

Everything that changes rows does so inside :meth:`Database.transaction`, which begins, commits and rolls back; no other
module does (``tests/architecture``). Connections carry no session state, so a transaction-pooling proxy may stand
between: prepared statements are off and limits are set per transaction.

The driver begins nothing by itself: a transaction begins with its limits in one message, which saves one round trip of
each. COMMIT and ROLLBACK are the driver's, which asks the server's last answer whether there is anything to end.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from enum import StrEnum
from typing import Any, Final

import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from app.core.lossless_json import dumps, loads
from app.core.units import Instant, Micros, datetime_of, instant_of
from app.db.migrate import expected_version
from app.db.tables import metadata
from app.db.turns import Turns

LOCK_TIMEOUT_MS: Final = 5_000
"""A transaction waits at most so long for a row that another one holds."""

STATEMENT_TIMEOUT_MS: Final = 20_000
POOL_SIZE: Final = 10
POOL_TIMEOUT_S: Final = 15
"""A transaction waits at most so long for a connection. Those who wait are served in order; whoever is sent away asks
again, at the end of the queue."""

CONNECT_TIMEOUT_S: Final = 5
READINESS_TIMEOUT_MS: Final = 5_000
"""What is asked to know whether the database is fit for work has an answer by then, or it is not."""

ANSWER_MARGIN_S: Final = 5
"""A server that does not end a statement by itself, so long after it should have, is taken for lost: it hangs, or what
lies between us does."""

WAIT_INTERVAL_S: Final = 0.1
"""So often whoever waits for the server looks whether it has waited long enough."""

Transaction = AsyncConnection
"""A connection inside a transaction that its owner will commit: execute on it, never commit it."""

_READING: Final = " ISOLATION LEVEL REPEATABLE READ READ ONLY"

_TICK_DAYS: Final = text(
    "select to_date(right(c.relname, 8), 'YYYYMMDD') as day from pg_inherits i join pg_class c on c.oid = i.inhrelid "
    "where i.inhparent = 'ticks'::regclass and c.relname ~ '^ticks_[0-9]{8}$' order by day"
)
_DROP_TICK_PARTITION: Final = text("select outcome, unsettled from drop_tick_partition(:day)")
_DROP_STRAY_TICKS: Final = text("select drop_stray_ticks(:older_than, :most)")
_DROP_OLD_BODIES: Final = text("select drop_old_bodies(:older_than, :most)")

_NOT_READABLE: Final = text(
    "select count(*) from unnest(cast(:names as text[])) name "
    "where to_regclass(name) is null or not has_table_privilege(to_regclass(name), 'select')"
    " or (name = 'ticks' and not has_table_privilege(to_regclass(name), 'insert'))"
)
_MISSING_COLUMNS: Final = text(
    "select count(*) from unnest(cast(:names as text[]), cast(:columns as text[])) expected (name, column_name) "
    "where not exists (select from pg_attribute a where a.attrelid = to_regclass(expected.name) "
    "and a.attname = expected.column_name and not a.attisdropped)"
)

_UNSAFE: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
}


class TickDay(StrEnum):
    """What became of a day's heartbeats that were to be dropped."""

    DROPPED = "dropped"
    KEPT = "kept"
    """Sessions that have not come to their end have heartbeats among them."""
    MISSING = "missing"
    BUSY = "busy"
    """They could not be locked at once."""
    TOO_YOUNG = "too_young"
    """They are less than a week old by the database's clock."""


class DatabaseUnavailable(Exception):
    """The database could not be reached, or gave up waiting; the outcome of a commit under way is unknown.

    Safe to try again with the same natural or idempotency key.
    """


class DatabaseUnfit(DatabaseUnavailable):
    """The database lacks a table, a column or a right that the service needs; nothing was changed.

    The message says which, and holds no value.
    """


_UNFIT: Final = (errors.InsufficientPrivilege, errors.UndefinedTable, errors.UndefinedColumn)


class _Connection(psycopg.AsyncConnection[Any]):
    """Waits ``patience_s`` at most for anything: the server's own time limits are worth nothing if it hangs."""

    patience_s: float = STATEMENT_TIMEOUT_MS / 1_000 + ANSWER_MARGIN_S

    async def wait(
        self,
        gen: PQGen[Any],
        interval: float = WAIT_INTERVAL_S,
        timeout: float | None = None,  # noqa: ASYNC109 - the driver's own signature
    ) -> Any:
        try:
            return await super().wait(gen, interval, self.patience_s if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()  # nobody knows what comes of what was asked: so no answer is waited for either
            raise


class Database:
    """A pool of connections of the service's role."""

    def __init__(self, url: str, *, pool_size: int = POOL_SIZE) -> None:
        self.turns = Turns()
        # The pool itself lets newcomers pass those who wait, so that under load some wait until they are refused.
        self._places = asyncio.Semaphore(pool_size)
        self._url = make_url(url).set(drivername="postgresql+psycopg")
        self._engine = create_async_engine(
            self._url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            pool_pre_ping=False,
            hide_parameters=True,  # in errors and in echoed statements: values are for nobody who reads logs
            connect_args={
                "autocommit": True,
                "prepare_threshold": None,
                "connect_timeout": CONNECT_TIMEOUT_S,
                "async_creator_fn": _Connection.connect,
            },
            use_native_hstore=False,  # there is none, and looking for it costs each first connection a query
            # Clients' documents keep the digits of their numbers on the way in and out.
            json_serializer=dumps,
            json_deserializer=loads,
        )

    @property
    def conninfo(self) -> str:
        """The connection string for the driver itself, where a pool of statements is in the way."""
        return self._url.set(drivername="postgresql").render_as_string(hide_password=False)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """One transaction: committed at the end of the block, rolled back if it raises.

        Raises :class:`DatabaseUnavailable` for a lost connection, an exhausted pool, a lock or statement that waited
        too long, a server that does not answer, or a deadlock.
        """
        async with self._begun("", STATEMENT_TIMEOUT_MS) as connection:
            yield connection

    @asynccontextmanager
    async def rehearsal(self) -> AsyncIterator[Transaction]:
        """A transaction like any other that is always rolled back: to see what something would come to."""
        async with self._begun("", STATEMENT_TIMEOUT_MS) as connection:
            yield connection
            await connection.rollback()

    @asynccontextmanager
    async def reading(self, *, statement_timeout_ms: int = STATEMENT_TIMEOUT_MS) -> AsyncIterator[Transaction]:
        """One read-only transaction in which every statement sees the same state."""
        async with self._begun(_READING, statement_timeout_ms) as connection:
            yield connection

    @asynccontextmanager
    async def _begun(self, mode: str, statement_timeout_ms: int) -> AsyncIterator[Transaction]:
        async with self._translated(), self._place(), self._engine.begin() as connection:
            # Handed to the driver itself: through the layers above, this would be half the cost of a transaction.
            driver: Any = (await connection.get_raw_connection()).driver_connection
            begin = _begin(mode, statement_timeout_ms)
            driver.patience_s = min(statement_timeout_ms, STATEMENT_TIMEOUT_MS) / 1_000 + ANSWER_MARGIN_S
            try:
                await driver.execute(begin)
                driver.patience_s = statement_timeout_ms / 1_000 + ANSWER_MARGIN_S
            except BaseException as error:
                if isinstance(error, psycopg.Error) and driver.closed:
                    # Raises as well, and lets the pool give up all connections that are as old as this one.
                    await connection.exec_driver_sql(begin)
                await connection.invalidate(error)
                if isinstance(error, psycopg.Error):
                    raise DatabaseUnavailable(type(error).__name__) from error
                raise
            yield connection

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """One of the pool's connections, in the order of asking."""
        try:
            if self._places.locked():
                async with asyncio.timeout(POOL_TIMEOUT_S):
                    await self._places.acquire()
            else:
                await self._places.acquire()
        except TimeoutError as error:
            raise DatabaseUnavailable("no connection is free") from error
        try:
            yield
        finally:
            self._places.release()

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except PoolTimeout as error:
            raise DatabaseUnavailable(type(error).__name__) from error
        except DBAPIError as error:
            if isinstance(error, OperationalError) or error.connection_invalidated:
                raise DatabaseUnavailable(type(error.orig).__name__) from error
            if isinstance(error.orig, _UNFIT):
                raise DatabaseUnfit(error.orig.diag.message_primary or type(error.orig).__name__) from error
            raise

    async def clock(self) -> Instant:
        """The database's clock now."""
        async with self.reading(statement_timeout_ms=READINESS_TIMEOUT_MS) as connection:
            return instant_of((await connection.execute(text("select clock_timestamp()"))).scalar_one())

    async def create_tick_partitions(self, first_day: str, days: int) -> None:
        """Make sure that heartbeats of ``days`` days from ``first_day`` (ISO, UTC) on have their partitions."""
        async with self.transaction() as transaction:
            await transaction.execute(
                text("select create_tick_partitions(cast(:first as date), :days)"), {"first": first_day, "days": days}
            )

    async def tick_days(self) -> list[date]:
        """The days (UTC) whose heartbeats have a partition of their own, oldest first."""
        async with self.reading() as transaction:
            return list((await transaction.execute(_TICK_DAYS)).scalars())

    async def drop_tick_partition(self, day: date) -> tuple[TickDay, int]:
        """Drop a day's heartbeats; what came of it, and how many sessions the day is kept for.

        Waits at most a quarter of a second for transactions that use any heartbeats, as new ones wait behind it.
        """
        async with self.transaction() as transaction:
            row = (await transaction.execute(_DROP_TICK_PARTITION, {"day": day})).one()
            return TickDay(row.outcome), row.unsettled

    async def drop_stray_ticks(self, older_than: Instant, most: int) -> int:
        """Drop at most ``most`` heartbeats that are in no day's partition; how many were dropped.

        Those of sessions that have not come to their end stay, and so do those of the last week.
        """
        async with self.transaction() as transaction:
            old = {"older_than": datetime_of(older_than), "most": most}
            return int((await transaction.execute(_DROP_STRAY_TICKS, old)).scalar_one())

    async def drop_old_bodies(self, older_than: Instant, most: int) -> int:
        """Drop at most ``most`` rows of what the provider answered to pulls; how many were dropped.

        Those of sessions that have not come to their end stay, and so do those of the last week.
        """
        async with self.transaction() as transaction:
            old = {"older_than": datetime_of(older_than), "most": most}
            return int((await transaction.execute(_DROP_OLD_BODIES, old)).scalar_one())

    async def faults(self) -> list[str]:
        """Why this database must not be worked on: wrong schema version, settings that lose commits, a standby."""
        found: list[str] = []
        async with self.reading(statement_timeout_ms=READINESS_TIMEOUT_MS) as connection:
            version = (await connection.execute(text("select version_num from alembic_version"))).scalar_one_or_none()
            if version != expected_version():
                found.append(f"schema version {version} where {expected_version()} is expected: run talktime migrate")
            lacking = (await connection.execute(_NOT_READABLE, {"names": sorted(metadata.tables)})).scalar_one()
            if lacking:
                found.append(f"{lacking} tables are missing or closed to the service's role: run talktime migrate")
            expected = [(table.name, column.name) for table in metadata.tables.values() for column in table.columns]
            names, columns = map(list, zip(*expected, strict=True))
            missing = (await connection.execute(_MISSING_COLUMNS, {"names": names, "columns": columns})).scalar_one()
            if missing:
                found.append(f"{missing} columns are missing: run talktime migrate")
            for name, unsafe in _UNSAFE.items():
                if (await connection.execute(text(f"show {name}"))).scalar_one() == unsafe:
                    found.append(f"{name} is off: acknowledged heartbeats could be lost")
            if (await connection.execute(text("select pg_is_in_recovery()"))).scalar_one():
                found.append("the database is a standby")
        return found

    async def close(self) -> None:
        await self._engine.dispose()


def _begin(mode: str, statement_timeout_ms: int) -> str:
    """What begins a transaction; without parameters, as only then the driver sends several statements as one."""
    return (
        f"BEGIN{mode}; SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; "
        f"SET LOCAL statement_timeout = {statement_timeout_ms:d}"
    )


def disagreement(before: Instant, database: Instant, after: Instant) -> Micros:
    """How far our clock is behind the database's, judged by a reading taken between ``before`` and ``after``."""
    return Micros(database - (before + after) // 2)
