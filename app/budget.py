"""Leases of the provider's rate: slices of permits from the one row that all processes share.

The rules are in :mod:`app.core.budget`. A process uses its slice up without a statement, then leases the next in a
short transaction of its own. What it last saw of the row it remembers: if nobody else has written since, one
conditional update is all; else it locks the row and looks.
"""

import asyncio
import heapq
from typing import Final

import structlog
from sqlalchemy import bindparam, case, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from app.core.budget import (
    CLOCKS_DIFFER,
    MAX_BLOCK,
    MAX_LEAD,
    NotNow,
    Permit,
    Purpose,
    Row,
    Slice,
    blocked_for,
    lease,
    most_at_once,
    next_count,
    spacing,
)
from app.core.units import US_PER_S, Instant, Micros
from app.db.database import Database, DatabaseUnavailable, Transaction
from app.db.tables import provider_budget
from app.errors import PROVIDER_BUSY, Problem
from app.ports.clock import Clock

PROVIDER: Final = "gabber"
PATIENCE: Final[dict[Purpose, Micros]] = {
    Purpose.START: Micros(0),
    Purpose.PAGE: Micros(5 * US_PER_S),
    Purpose.PULL: Micros(US_PER_S),
}
"""So long a request waits for its instant to be given, beyond the reach that its purpose has."""

HELD_PATIENCE: Final = Micros(5 * US_PER_S)
"""So long a start waits for another permit if the first lapsed while its hold was made: too late to send it away."""

READY_PATIENCE: Final = Micros(10 * US_PER_S)
"""So long a request whose permits keep lapsing, on a machine that is too busy to use them, asks for others."""

IDLE: Final = Micros(2 * US_PER_S)
"""A process that leased nothing for so long begins with a small slice again; by then ten busy ones had their turn."""

FIRST_LEAD: Final = Micros(US_PER_S // 40)

_MOVE_ON: Final = (
    update(provider_budget)
    .where(
        provider_budget.c.provider == bindparam("of"),
        provider_budget.c.next_at == bindparam("seen_next_at"),
        provider_budget.c.blocked_until.is_not_distinct_from(bindparam("seen_blocked_until")),
    )
    .values(next_at=bindparam("next_at"))
)

log = structlog.get_logger(__name__)


class ProviderBudget:
    """:class:`~app.ports.permits.Permits` of one process, at most ``rate`` a second with all others together."""

    def __init__(self, database: Database, clock: Clock, rate: int, *, provider: str = PROVIDER) -> None:
        self._database = database
        self._clock = clock
        self._provider = provider
        self._between = spacing(rate)
        self._most = most_at_once(self._between)
        self._hand: list[Instant] = []
        self._row: Row | None = None
        self._leasing = asyncio.Lock()
        self._count = 0
        self._used = 0
        self._slice_ends = Instant(0)

    async def reserve(self, purpose: Purpose) -> Permit | NotNow:
        """See the port. Raises :class:`~app.db.database.DatabaseUnavailable`."""
        return await self._reserve(purpose, PATIENCE[purpose])

    async def _reserve(self, purpose: Purpose, patience: Micros) -> Permit | NotNow:
        give_up = self._clock.now() + patience
        lead = Micros(0)
        while True:
            now = self._clock.now()
            blocked = self._blocked(now)
            if blocked is not None:
                return blocked
            permit = self._from_hand(now)
            if permit is not None:
                return permit
            refused = await self._fill_hand(purpose, lead)
            if refused is not None:
                if refused.blocked or self._clock.now() + refused.wait > give_up:
                    return refused
                await self._clock.sleep(refused.wait)
            elif self._clock.now() > give_up + READY_PATIENCE:
                return NotNow(wait=Micros(US_PER_S))
            # A slice that took so long to write that it has lapsed: the next one is to begin later.
            lead = Micros(min(max(2 * lead, FIRST_LEAD), MAX_LEAD)) if refused is None else lead

    async def ready(self, purpose: Purpose, permit: Permit | None = None) -> NotNow | None:
        """See the port. With the database away there are no permits but those in hand."""
        give_up = self._clock.now() + READY_PATIENCE
        while True:
            if permit is not None:
                while (early := permit.at - self._clock.now()) > 0:
                    await self._clock.sleep(Micros(early))
                now = self._clock.now()
                blocked = self._blocked(now)
                if blocked is not None or not permit.lapsed(now):
                    return blocked
                if now > give_up:
                    return NotNow(wait=Micros(US_PER_S))
            try:
                reserved = await self._reserve(purpose, max(PATIENCE[purpose], HELD_PATIENCE))
            except DatabaseUnavailable:
                return NotNow(wait=Micros(US_PER_S))
            if isinstance(reserved, NotNow):
                return reserved
            permit = reserved

    def give_back(self, permit: Permit) -> None:
        """See the port."""
        self._used -= 1
        heapq.heappush(self._hand, permit.at)

    async def block(self, wait: Micros) -> None:
        """See the port."""
        now = self._clock.now()
        until = Instant(now + min(wait, MAX_BLOCK))
        seen = self._row or Row(now)
        if until - now > blocked_for(seen, now):
            self._row = Row(seen.next_at, until)
        stored = provider_budget.c.blocked_until
        # One further off than any may be was written by a clock that was set back since.
        longer = stored.between(until, Instant(now + MAX_BLOCK + CLOCKS_DIFFER))
        told = upsert(provider_budget).values(provider=self._provider, next_at=now, blocked_until=until)
        statement = told.on_conflict_do_update(
            index_elements=[provider_budget.c.provider],
            set_={"blocked_until": case((longer, stored), else_=told.excluded.blocked_until)},
        )
        try:
            async with self._database.transaction() as transaction:
                await transaction.execute(statement)
        except DatabaseUnavailable:
            # The others will hear it from the provider themselves.
            log.warning("provider_budget.block_not_shared", microseconds=wait)

    def _blocked(self, now: Instant) -> NotNow | None:
        wait = Micros(0) if self._row is None else blocked_for(self._row, now)
        return NotNow(wait=wait, blocked=True) if wait > 0 else None

    def _from_hand(self, now: Instant) -> Permit | None:
        while self._hand:
            permit = Permit(heapq.heappop(self._hand))
            if not permit.lapsed(now):
                self._used += 1
                return permit
        return None

    async def _fill_hand(self, purpose: Purpose, lead: Micros) -> NotNow | None:
        """Lease a slice, unless somebody else of this process did meanwhile; null if it is worth looking now."""
        async with self._leasing:
            now = self._clock.now()
            if any(not Permit(at).lapsed(now) for at in self._hand):
                return None
            # The row only moves on, so what it refuses as we know it, it refuses.
            count = self._next_count(now)
            if self._row is not None:
                refused = lease(self._row, now, self._between, purpose, count, lead)
                if isinstance(refused, NotNow):
                    return refused
            leased = await self._lease(purpose, count, lead)
            if isinstance(leased, NotNow):
                return leased
            self._count, self._used = count, 0
            self._slice_ends = leased.row.next_at
            for number in range(leased.count):
                heapq.heappush(self._hand, Instant(leased.first + number * self._between))
            return None

    def _next_count(self, now: Instant) -> int:
        if now > self._slice_ends + IDLE:
            return 1
        return next_count(self._count, self._used, self._most)

    async def _lease(self, purpose: Purpose, count: int, lead: Micros) -> Slice | NotNow:
        async with self._database.transaction() as transaction:
            leased: Slice | NotNow | None = None
            seen = self._row
            if seen is not None:
                leased = lease(seen, self._clock.now(), self._between, purpose, count, lead)
                if isinstance(leased, Slice) and not await self._replace(transaction, seen, leased.row):
                    leased = None  # another process was at the row
            if leased is None:
                seen = await self._locked(transaction)
                leased = lease(seen, self._clock.now(), self._between, purpose, count, lead)
                if isinstance(leased, Slice):
                    await self._replace(transaction, seen, leased.row)
        # Told by the provider while the statement ran: that stays.
        blocked = self._row if self._row is not None and self._row.blocked_until is not None else None
        self._row = leased.row if isinstance(leased, Slice) else seen
        if blocked is not None and self._row is not None:
            now = self._clock.now()
            if blocked_for(blocked, now) > blocked_for(self._row, now):
                self._row = Row(self._row.next_at, blocked.blocked_until)
        return leased

    async def _locked(self, transaction: Transaction) -> Row:
        """The row under lock; made if nobody ever leased."""
        statement = (
            select(provider_budget.c.next_at, provider_budget.c.blocked_until)
            .where(provider_budget.c.provider == self._provider)
            .with_for_update()
        )
        found = (await transaction.execute(statement)).one_or_none()
        if found is None:
            await transaction.execute(
                upsert(provider_budget)
                .values(provider=self._provider, next_at=self._clock.now(), blocked_until=None)
                .on_conflict_do_nothing()
            )
            found = (await transaction.execute(statement)).one()
        return Row(found.next_at, found.blocked_until)

    async def _replace(self, transaction: Transaction, seen: Row, row: Row) -> bool:
        """Move the row on, if it is still as it was seen."""
        moved = await transaction.execute(
            _MOVE_ON,
            {
                "of": self._provider,
                "seen_next_at": seen.next_at,
                "seen_blocked_until": seen.blocked_until,
                "next_at": row.next_at,
            },
        )
        return moved.rowcount == 1


def provider_busy(refused: NotNow) -> Problem:
    """The 503 of a request that got no permit, with ``Retry-After``."""
    headers = {"Retry-After": str(max(1, -(-refused.wait // US_PER_S)))}
    return Problem(PROVIDER_BUSY, "nothing was started, held or ended; try again later", headers=headers)
