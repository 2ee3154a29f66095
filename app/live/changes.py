"""Which accounts have changed since the last look: one indexed query, whatever is waited for.

Each update of an account leaves the number of its transaction in the row. A look sees what was committed by then, and
keeps which transactions were still open and from which number on there were none yet. What the next look sees by one
of those, and by no other, was committed in between: nothing is missed, however long a transaction took, and no clock is
asked (decision 34). It needs nothing of its session, so a transaction-pooling proxy may stand between.
"""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Text, and_, cast, func, or_, select

from app.core.units import Instant
from app.db.database import Transaction
from app.db.tables import accounts, rate_cards

MOST: Final = 10_000
"""Of more accounts than that it is not asked which: then any may have changed."""

_SNAPSHOT: Final = select(cast(func.pg_current_snapshot(), Text))


@dataclass(frozen=True, slots=True)
class Mark:
    """What a look saw: all transactions before ``following`` but the ``open`` ones."""

    following: int
    open: tuple[int, ...]


async def changed_since(transaction: Transaction, mark: Mark | None) -> tuple[set[UUID] | None, Mark]:
    """The accounts that changed since ``mark``, and the mark for the next look. Null: any may have.

    ``transaction``: one in which all statements see the same, of which this is the first.
    """
    now = _mark((await transaction.execute(_SNAPSHOT)).scalar_one())
    # The numbers run backwards only where the database was restored into another server.
    if mark is None or mark.following > now.following:
        return None, now
    statement = select(accounts.c.account_id).where(_since(mark, now)).limit(MOST + 1)
    found = set((await transaction.execute(statement)).scalars())
    return (None if len(found) > MOST else found), now


async def cards_in_force(transaction: Transaction, at: Instant) -> int:
    """How many versions of rate cards have come into force by ``at``: another number, other prices."""
    statement = select(func.count()).select_from(rate_cards).where(rate_cards.c.effective_at <= at)
    return int((await transaction.execute(statement)).scalar_one())


def _since(mark: Mark, now: Mark) -> ColumnElement[bool]:
    by = accounts.c.changed_by
    # What a restored row bears may lie ahead of this server's numbers: it was changed by nobody here.
    later: ColumnElement[bool] = and_(by >= mark.following, by < now.following)
    return or_(later, by.in_(mark.open)) if mark.open else later


def _mark(snapshot: Any) -> Mark:
    """A snapshot in the database's own form: ``xmin:xmax:xip,xip,…``."""
    _, following, still_open = str(snapshot).split(":")
    return Mark(int(following), tuple(int(number) for number in still_open.split(",") if number))
