"""The overview: how it stands now, in figures over all accounts, and the last events. It updates itself."""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import bindparam, func, select
from starlette.responses import Response

from app.core.entries import EntryKind
from app.core.ledger import GrantKind
from app.core.lifecycle import State
from app.core.units import US_PER_DAY, US_PER_S, Instant, MicroCredits, Micros, format_credits, format_instant, seconds
from app.db.database import Database, Transaction
from app.db.tables import (
    RUNNING,
    accounts,
    entries,
    failed_pulls,
    grants,
    provider_budget,
    receiving,
    sessions,
)
from app.ports.clock import Clock
from app.web.events import events_page
from app.web.site import ADMIN, Page, Visit

FRESH: Final = Micros(5 * US_PER_S)
"""Figures are read anew at most so often, whoever looks and however many do."""

COST_SHARE: Final = 20
"""Reading them takes at most one part in so many of one connection's time: they grow with the number of users."""

LAST_EVENTS: Final = 12
LEAKAGE_DAYS: Final = 30
PULLS_LOOKED_BACK: Final = Micros(600 * US_PER_S)
DEAF_AFTER: Final = Micros(30 * US_PER_S)
WEEK: Final = 7 * US_PER_DAY
_DEBITS: Final = tuple(kind.value for kind in (EntryKind.CHARGE, EntryKind.RERATE, EntryKind.REFUND))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How it stands at ``at``; amounts as decimal strings, durations in seconds."""

    at: str
    sessions: dict[str, int]
    accrued: str
    outstanding: dict[str, str]
    debt: str
    debited_today: str
    debited_last_week: str
    lag_s: Any
    failing: int
    failing_since: str | None
    failed_lately: int
    blocked_until: str | None
    received_until: str | None
    deaf: bool
    """No process has said for a while that it receives heartbeats."""
    leaked: str
    leaked_sessions: int
    written_off: str
    written_off_sessions: int
    events: list[dict[str, Any]]


class Overview:
    """Reads the figures, no more often than need be."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._reading = asyncio.Lock()
        self._last: tuple[Figures, Instant] | None = None
        """The figures, and until when they are fresh."""

    async def figures(self) -> Figures:
        """Figures of now, or of a moment ago: who comes while they are read gets the last ones."""
        last = self._last
        if last is not None and (self._clock.now() < last[1] or self._reading.locked()):
            return last[0]
        async with self._reading:
            last = self._last
            before = self._clock.now()
            if last is not None and before < last[1]:
                return last[0]
            async with self._database.reading() as transaction:
                read = await _read(transaction, before)
            after = self._clock.now()
            self._last = read, Instant(after + max(FRESH, COST_SHARE * (after - before)))
            return read

    def pages(self) -> list[Page]:
        async def overview(visit: Visit) -> Response:
            return visit.page("overview.html", nav="overview", figures=await self.figures())

        async def anew(visit: Visit) -> Response:
            return visit.page("figures.html", figures=await self.figures())

        return [Page(ADMIN, overview), Page(ADMIN + "/figures", anew)]


async def _read(transaction: Transaction, now: Instant) -> Figures:
    # As literals, so that the planner sees that the index of running sessions covers it.
    running = sessions.c.state.in_(bindparam("running", RUNNING, expanding=True, literal_execute=True))
    states = dict.fromkeys(RUNNING, 0)
    accrued = failing = 0
    failing_since: Instant | None = None
    by_state = select(
        sessions.c.state,
        func.count().label("number"),
        func.coalesce(func.sum(sessions.c.accrued), 0).label("accrued"),
        func.count(sessions.c.failing_since).label("failing"),
        func.min(sessions.c.failing_since).label("failing_since"),
    )
    for row in await transaction.execute(by_state.where(running).group_by(sessions.c.state)):
        states[row.state] = row.number
        if row.state != State.REVIEW:
            accrued += int(row.accrued)
            failing += row.failing
            failing_since = min(filter(None, (failing_since, row.failing_since)), default=None)
    due = await _one(transaction, select(func.min(sessions.c.due_at)).where(sessions.c.due_at.is_not(None)))
    kinds = select(grants.c.kind, func.sum(grants.c.remaining)).where(grants.c.remaining > 0).group_by(grants.c.kind)
    outstanding = {row[0]: int(row[1]) for row in await transaction.execute(kinds)}
    owed = select(func.coalesce(func.sum(accounts.c.debt), 0)).where(accounts.c.debt > 0)
    debt = await _one(transaction, owed)
    today = now - now % US_PER_DAY
    leaked = await _leakage(transaction, Instant(now - LEAKAGE_DAYS * US_PER_DAY))
    lately = select(func.count()).select_from(failed_pulls).where(failed_pulls.c.last_at > now - PULLS_LOOKED_BACK)
    blocked = await _one(transaction, select(func.max(provider_budget.c.blocked_until)))
    received = await _one(transaction, select(func.max(receiving.c.to_at)))
    return Figures(
        at=format_instant(now),
        sessions=states,
        accrued=_amount(accrued),
        outstanding={kind.value: _amount(outstanding.get(kind.value, 0)) for kind in GrantKind},
        debt=_amount(int(debt)),
        debited_today=await _debited(transaction, today, now),
        debited_last_week=await _debited(transaction, today - WEEK, now - WEEK),
        lag_s=seconds(Micros(0 if due is None else max(0, now - due))),
        failing=failing,
        failing_since=_instant(failing_since),
        failed_lately=int(await _one(transaction, lately)),
        blocked_until=None if blocked is None or blocked <= now else format_instant(blocked),
        received_until=_instant(received),
        deaf=received is None or received < now - DEAF_AFTER,
        leaked=_amount(leaked[False][1]),
        leaked_sessions=leaked[False][0],
        written_off=_amount(leaked[True][1]),
        written_off_sessions=leaked[True][0],
        events=(await events_page(transaction, limit=LAST_EVENTS, cursor=None))["data"],
    )


async def _debited(transaction: Transaction, start: int, end: int) -> str:
    """What sessions cost in a stretch of time: charges and later ratings, less what was given back of them."""
    statement = select(func.coalesce(func.sum(entries.c.amount), 0)).where(
        entries.c.created_at >= Instant(start), entries.c.created_at < Instant(end), entries.c.kind.in_(_DEBITS)
    )
    return _amount(-int(await _one(transaction, statement)))


async def _leakage(transaction: Transaction, since: Instant) -> dict[bool, tuple[int, int]]:
    """Sessions that cost more than their users paid, and how much: those written off, and others."""
    statement = (
        select(sessions.c.written_off, func.count(), func.sum(sessions.c.leakage))
        .where(sessions.c.leakage > 0, sessions.c.settled_at >= since)
        .group_by(sessions.c.written_off)
    )
    found = {row[0]: (int(row[1]), int(row[2])) for row in await transaction.execute(statement)}
    return {written_off: found.get(written_off, (0, 0)) for written_off in (False, True)}


async def _one(transaction: Transaction, statement: Any) -> Any:
    return (await transaction.execute(statement)).scalar_one_or_none()


def _amount(micro: int) -> str:
    return format_credits(MicroCredits(micro))


def _instant(instant: Instant | None) -> str | None:
    return None if instant is None else format_instant(instant)
