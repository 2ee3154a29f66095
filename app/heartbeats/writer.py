"""Group commit: whatever queued up while the last commit ran goes into the next one.

One writer, no timer: a lone heartbeat is written at once, a thousand share one statement. The queue is bounded; when it
is full, :class:`QueueFull` turns into a 503 and the sender tries again.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

import psycopg
import structlog

from app.core.ids import AccountThing
from app.core.units import Instant, datetime_of
from app.db.database import DatabaseUnavailable
from app.db.durable import DurableStatements

MAX_QUEUED: Final = 10_000
MAX_BATCH: Final = 1_000
ATTEMPTS: Final = 2
"""A batch whose connection was lost is sent once more; its keys make that harmless."""

_INSERT: Final = """
insert into ticks (account_id, session_id, received_at, id, extra)
select * from unnest(%s::uuid[], %s::uuid[], %s::timestamptz[], %s::bigint[], %s::text[])
on conflict do nothing
"""

log = structlog.get_logger(__name__)


class Tick(NamedTuple):
    """One heartbeat: when we received it, and what its body held besides the session id, as JSON text."""

    session: AccountThing
    received_at: Instant
    id: int
    extra: str | None


class QueueFull(Exception):
    """More heartbeats are waiting than :data:`MAX_QUEUED`; this one was not taken."""


class TickWriter:
    """Makes ticks durable. :meth:`run` does the writing; :meth:`close` drains what was accepted."""

    def __init__(self, statements: DurableStatements) -> None:
        self._statements = statements
        self._waiting: list[tuple[Tick, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="tick-writer")

    async def put(self, tick: Tick) -> None:
        """Return when the tick is durable.

        Raises :class:`QueueFull` or :class:`~app.db.database.DatabaseUnavailable`; the tick may be sent again then.
        """
        if self._closing or len(self._waiting) >= MAX_QUEUED:
            raise QueueFull
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((tick, done))
        self._wake.set()
        await done

    async def close(self) -> None:
        """Take no more, write all that was taken, and stop."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        await self._statements.close()

    async def _run(self) -> None:
        while self._waiting or not self._closing:
            if not self._waiting:
                await self._wake.wait()
                self._wake.clear()
                continue
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            try:
                await self._write(batch)
            except Exception as error:
                # Whatever broke, the heartbeats to come must not wait for ever on a writer that is gone.
                log.exception("tick-writer.broke")
                _settle(batch, DatabaseUnavailable(type(error).__name__))

    async def _write(self, batch: list[tuple[Tick, asyncio.Future[None]]]) -> None:
        try:
            await self._insert([tick for tick, _ in batch])
        except DatabaseUnavailable as error:
            _settle(batch, error)
        except (psycopg.Error, ValueError, OverflowError) as error:
            # One value that cannot be stored, or not even be sent, must not fail its neighbours.
            if len(batch) == 1:
                log.warning("tick.refused", session_id=str(batch[0][0].session.id), kind=type(error).__name__)
                _settle(batch, DatabaseUnavailable(type(error).__name__))
                return
            middle = len(batch) // 2
            await self._write(batch[:middle])
            await self._write(batch[middle:])
        else:
            _settle(batch, None)

    async def _insert(self, ticks: Sequence[Tick]) -> None:
        columns: tuple[list[UUID], list[UUID], list[object], list[int], list[str | None]] = (
            [tick.session.account_id for tick in ticks],
            [tick.session.id for tick in ticks],
            [datetime_of(tick.received_at) for tick in ticks],
            [tick.id for tick in ticks],
            [tick.extra for tick in ticks],
        )
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._statements.execute(_INSERT, columns)
            except DatabaseUnavailable:
                if attempt == ATTEMPTS:
                    raise
            else:
                return


def _settle(batch: Sequence[tuple[Tick, asyncio.Future[None]]], error: Exception | None) -> None:
    for _, done in batch:
        if done.done():
            continue  # its request was cancelled; the tick is written all the same
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
