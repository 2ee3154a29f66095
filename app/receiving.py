"""When our processes were receiving heartbeats, as they say themselves while they can store any.

Each process keeps a row and moves its end forward, every few seconds. A row that could not be moved, because the
process was dead or stood still or the database was away, ends where it ended; the process goes on with a new one. What
no row covers was an outage of our own. Before the first row of all nothing is known, and nothing is called an outage.
"""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Executable, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from app.core.outages import Outage, find_outages
from app.core.units import US_PER_DAY, US_PER_S, Instant, Micros
from app.db.database import Database, DatabaseUnavailable, Transaction
from app.db.tables import receiving
from app.ports.clock import Clock
from app.ports.ids import Ids

REPORT_EVERY: Final = Micros(5 * US_PER_S)
"""How often a process says that it receives; after three times as long without a word it did not."""

MISSED_REPORTS: Final = 3
COMPACT_AFTER: Final = Micros(US_PER_DAY)
"""Rows that ended so long ago are joined: of each unbroken stretch one row is left."""

NOBODY: Final = UUID(int=0)
"""The process of joined rows."""

_GO_ON: Final = (
    update(receiving)
    .where(receiving.c.process_id == bindparam("process"), receiving.c.from_at == bindparam("since"))
    .values(to_at=bindparam("to_at"))
    .returning(receiving.c.to_at)
)
_BEGIN: Final = insert(receiving)
_KNOWN_FROM: Final = select(func.min(receiving.c.from_at))
_REACHING: Final = select(receiving.c.from_at, receiving.c.to_at).where(
    receiving.c.to_at >= bindparam("since"), receiving.c.from_at <= bindparam("until")
)


class Receiving:
    """This process's row, and what all rows say."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, every: Micros = REPORT_EVERY) -> None:
        self._database = database
        self._clock = clock
        self._process = ids.new()
        self._patience = Micros(MISSED_REPORTS * every)
        self._row: tuple[Instant, Instant] | None = None

    async def report(self) -> None:
        """Say that heartbeats were received up to now.

        Raises :class:`~app.db.database.DatabaseUnavailable`; what then passes until the next report is an outage.
        """
        now = self._clock.now()
        row, self._row = self._row, None
        async with self._database.transaction() as transaction:
            if row is not None and 0 <= now - row[1] <= self._patience:
                moved = await transaction.execute(_GO_ON, {"process": self._process, "since": row[0], "to_at": now})
                since = row[0] if moved.one_or_none() is not None else None
            else:
                since = None
            if since is None:
                since = now
                await transaction.execute(_BEGIN, {"process_id": self._process, "from_at": now, "to_at": now})
        self._row = (since, now)

    async def report_the_end(self) -> None:
        """As far as the database lets us: an end that cannot be said is found by the others."""
        try:
            await self.report()
        except (DatabaseUnavailable, SQLAlchemyError):
            self._row = None

    async def outages(self, transaction: Transaction, since: Instant) -> tuple[Outage, ...]:
        """Our outages from ``since`` to now, in order, as far as they lie in there."""
        return await load_outages(transaction, since, self._clock.now(), patience=self._patience)

    async def compact(self) -> None:
        """Join what ended long ago, so that restarts do not add up to a long table."""
        old = receiving.c.to_at < Instant(self._clock.now() - COMPACT_AFTER)
        async with self._database.transaction() as transaction:
            rows = await _stretches(transaction, select(receiving.c.from_at, receiving.c.to_at).where(old))
            if len(_joined(rows)) == len(rows):
                return
            # Only what this statement itself removed is put back: another process may be at it, too.
            removed = await _stretches(
                transaction, delete(receiving).where(old).returning(receiving.c.from_at, receiving.c.to_at)
            )
            if removed:
                joined = [{"process_id": NOBODY, "from_at": start, "to_at": end} for start, end in _joined(removed)]
                await transaction.execute(_BEGIN, joined)


async def load_outages(
    transaction: Transaction, since: Instant, now: Instant, *, patience: Micros = Micros(MISSED_REPORTS * REPORT_EVERY)
) -> tuple[Outage, ...]:
    """Our outages from ``since`` to ``now``, in order, as far as they lie in there.

    Nothing said for up to ``patience`` before ``now`` is no outage yet.
    """
    known_from = (await transaction.execute(_KNOWN_FROM)).scalar_one()
    if known_from is None:
        return ()
    return find_outages(
        await _stretches(transaction, _REACHING, {"since": since, "until": now}),
        known_from=max(since, known_from),
        now=now,
        patience=patience,
    )


async def _stretches(
    transaction: Transaction, statement: Executable, asked: Mapping[str, Any] | None = None
) -> list[tuple[Instant, Instant]]:
    return [(row.from_at, row.to_at) for row in await transaction.execute(statement, asked)]


def _joined(rows: list[tuple[Instant, Instant]]) -> list[tuple[Instant, Instant]]:
    found: list[tuple[Instant, Instant]] = []
    for start, end in sorted(rows):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found
