"""A user's balance over time, in a bounded number of points."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import ARRAY, bindparam, column, func, select, true

from app.core.units import Instant, MicroCredits
from app.db.database import Transaction
from app.db.tables import entries
from app.db.types import InstantType

MOST_POINTS: Final = 300


@dataclass(frozen=True, slots=True)
class Point:
    """What the balance was from ``at`` on."""

    at: Instant
    balance: MicroCredits


async def balance_curve(transaction: Transaction, account_id: UUID, since: Instant, now: Instant) -> list[Point]:
    """The balance from ``since`` to ``now``: each change of it, or where there are many the last one of each stretch.

    At most :data:`MOST_POINTS` and two more, for the beginning and the end; its cost does not grow with the entries.
    """
    before = await _balance_at(transaction, account_id, since)
    changes = await _changes(transaction, account_id, since, now)
    if changes is None:
        changes = await _sampled(transaction, account_id, since, now)
    last = changes[-1].balance if changes else before
    return [Point(since, before), *changes, Point(now, last)]


async def _balance_at(transaction: Transaction, account_id: UUID, at: Instant) -> MicroCredits:
    statement = (
        select(entries.c.balance_after)
        .where(entries.c.account_id == account_id, entries.c.created_at <= at)
        .order_by(entries.c.created_at.desc(), entries.c.seq.desc())
        .limit(1)
    )
    return MicroCredits((await transaction.execute(statement)).scalar_one_or_none() or 0)


async def _changes(transaction: Transaction, account_id: UUID, since: Instant, now: Instant) -> list[Point] | None:
    """Every change; null if there are too many."""
    statement = (
        select(entries.c.created_at, entries.c.balance_after)
        .where(entries.c.account_id == account_id, entries.c.created_at > since, entries.c.created_at <= now)
        .order_by(entries.c.created_at, entries.c.seq)
        .limit(MOST_POINTS + 1)
    )
    rows = (await transaction.execute(statement)).all()
    return None if len(rows) > MOST_POINTS else [Point(row.created_at, row.balance_after) for row in rows]


async def _sampled(transaction: Transaction, account_id: UUID, since: Instant, now: Instant) -> list[Point]:
    """The balance at the end of each of many stretches, each found by the index."""
    instants = [Instant(since + (now - since) * n // MOST_POINTS) for n in range(1, MOST_POINTS + 1)]
    given = func.unnest(bindparam("ends", instants, type_=ARRAY(InstantType)))
    ends = given.table_valued(column("at", InstantType())).render_derived()
    latest = (
        select(entries.c.balance_after)
        .where(entries.c.account_id == account_id, entries.c.created_at <= ends.c.at)
        .order_by(entries.c.created_at.desc(), entries.c.seq.desc())
        .limit(1)
        .lateral()
    )
    rows = await transaction.execute(select(ends.c.at, latest.c.balance_after).join_from(ends, latest, true()))
    return [Point(row.at, row.balance_after) for row in rows]
