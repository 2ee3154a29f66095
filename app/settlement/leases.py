"""Who works on which session: a lease on its row, with a token that fences off whoever comes too late.

Candidates are read without locks; each is claimed by a conditional update of its own row, so replicas that saw the same
candidates get different sessions, and no statement touches two accounts.
"""

from typing import Final
from uuid import UUID

from sqlalchemy import or_, select, update

from app.core.ids import AccountThing
from app.core.units import US_PER_S, Instant, Micros
from app.db.database import Database
from app.db.tables import sessions
from app.ports.clock import Clock
from app.ports.ids import Ids

LEASE_MARGIN: Final = Micros(30 * US_PER_S)
"""A lease outlives the longest pull by this."""


class Leases:
    """Leases sessions that are due."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, lease: Micros) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._lease = lease

    async def due(self, limit: int) -> list[AccountThing]:
        """Sessions that are due and leased to nobody, longest due first."""
        now = self._clock.now()
        async with self._database.reading() as transaction:
            rows = await transaction.execute(
                select(sessions.c.account_id, sessions.c.id)
                .where(sessions.c.due_at <= now, or_(sessions.c.lease_until.is_(None), sessions.c.lease_until < now))
                .order_by(sessions.c.due_at)
                .limit(limit)
            )
            return [AccountThing(row.account_id, row.id) for row in rows]

    async def take(self, session: AccountThing, *, even_if_not_due: bool = False) -> UUID | None:
        """The token of a lease on the session; null if it is leased to somebody or not due (any more)."""
        now = self._clock.now()
        token = self._ids.new()
        free = or_(sessions.c.lease_until.is_(None), sessions.c.lease_until < now)
        due = sessions.c.due_at.is_not(None) if even_if_not_due else sessions.c.due_at <= now
        async with self._database.transaction() as transaction:
            claimed = await transaction.execute(
                update(sessions)
                .where(sessions.c.account_id == session.account_id, sessions.c.id == session.id, free, due)
                .values(lease_token=token, lease_until=Instant(now + self._lease))
                .returning(sessions.c.id)
            )
            return token if claimed.one_or_none() is not None else None
