"""Who works on which session: a lease on its row, with a token that fences off whoever comes too late.

Candidates are read without locks; each is claimed by a conditional update of its own row, so replicas that saw the same
candidates get different sessions, and no statement touches two accounts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Executable,
    Select,
    and_,
    bindparam,
    not_,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from app.core.ids import AccountThing
from app.core.lifecycle import RECONCILED, State
from app.core.units import US_PER_S, Instant, Micros
from app.core.waits import CLOCK_MARGIN, too_far
from app.db.database import Database
from app.db.tables import sessions
from app.db.types import InstantType
from app.ports.clock import Clock
from app.ports.ids import Ids

MAX_NEARER: Final = 1_000
"""Due times that one call brings nearer."""

LEASE_MARGIN: Final = Micros(30 * US_PER_S)
"""A lease outlives the longest pull by this."""


@dataclass(frozen=True, slots=True)
class Due:
    """A session that is due. ``pulls``: its timeline has to be had; ``failed``: its last pull came to nothing.

    ``failing_since``: since when there was no usable timeline; null while there was.
    """

    session: AccountThing
    pulls: bool
    failed: bool
    state: State
    due_at: Instant
    failing_since: Instant | None


_PULLED: Final = RECONCILED | {State.SETTLED}
_answers_to_requests = sessions.c.state.in_([State.SETTLED.value, State.REVIEW.value])


_TOLD: Final = (
    sessions.c.account_id,
    sessions.c.id,
    sessions.c.state,
    sessions.c.due_at,
    sessions.c.failing_since,
)


def _due() -> Select[Any]:
    now = bindparam("now", type_=InstantType)
    # The hold of a review that took too long is freed before anything else, which needs no pull.
    looked_at = (sessions.c.state == State.REVIEW.value) & ((sessions.c.hold_until > now).is_not(False))
    pulls = and_(or_(sessions.c.state.in_(_PULLED), looked_at), sessions.c.provider_session_id.is_not(None))
    failed = sessions.c.attempts > 0
    found = [
        select(*_TOLD, pulls.label("pulls"), failed.label("failed"))
        .where(sessions.c.due_at <= now, _free(now), kind)
        .order_by(sessions.c.due_at)
        .limit(bindparam("limit"))
        .subquery()
        # A crowd of one kind, which cannot be pulled while the provider refuses us, hides none of another.
        for kind in (not_(pulls), and_(pulls, not_(failed)), and_(pulls, failed))
    ]
    all_kinds = union_all(*(select(part) for part in found)).subquery()
    return select(all_kinds).order_by(all_kinds.c.due_at)


def _in_vain() -> CompoundSelect[Any]:
    """Those whose wait for evidence has to begin, and those for whom it has passed; each leaves by being dealt with."""
    now, due_before = bindparam("now", type_=InstantType), bindparam("due_before", type_=InstantType)
    failing_before = bindparam("failing_before", type_=InstantType)
    found = [
        select(*_TOLD, true().label("pulls"), (sessions.c.attempts > 0).label("failed"))
        .where(sessions.c.due_at <= due_before, _free(now), sessions.c.state.in_(RECONCILED), kind)
        .order_by(sessions.c.due_at)
        .limit(bindparam("limit"))
        .subquery()
        for kind in (sessions.c.failing_since.is_(None), sessions.c.failing_since <= failing_before)
    ]
    return union_all(*(select(part) for part in found))


def _free(now: Any) -> ColumnElement[bool]:
    return or_(sessions.c.lease_until.is_(None), sessions.c.lease_until < now)


def _far(state: State, at: Instant) -> ColumnElement[bool]:
    return and_(sessions.c.state == state.value, sessions.c.due_at > at)


def _take(*, even_if_not_due: bool) -> ReturningUpdate[Any]:
    now = bindparam("now", type_=InstantType)
    due = or_(sessions.c.due_at.is_not(None), _answers_to_requests) if even_if_not_due else sessions.c.due_at <= now
    this = and_(sessions.c.account_id == bindparam("of_account"), sessions.c.id == bindparam("of_session"))
    return update(sessions).where(this, _free(now), due).returning(sessions.c.id)


_DUE: Final = _due()
_IN_VAIN: Final = _in_vain()
_TAKE: Final = _take(even_if_not_due=False)
_TAKE_ANY: Final = _take(even_if_not_due=True)


class Leases:
    """Leases sessions that are due."""

    def __init__(
        self, database: Database, clock: Clock, ids: Ids, lease: Micros, waits: Mapping[State, Micros]
    ) -> None:
        """``lease``: how long one lasts. ``waits``: how far ahead a due time may lie, by the session's state."""
        self._waits = waits
        self._database = database
        self._clock = clock
        self._ids = ids
        self._lease = lease

    async def due(self, limit: int) -> list[Due]:
        """Sessions that are due and leased to nobody, longest due first.

        At most ``limit`` that need no pull, ``limit`` that do, and ``limit`` whose last pull failed. Each kind is
        looked for by itself, so that any number of one never hides another.
        """
        return await self._found(_DUE, {"now": self._clock.now(), "limit": limit})

    async def in_vain(self, limit: int, *, due_before: Instant, failing_before: Instant) -> list[Due]:
        """Sessions that still run, leased to nobody and due since ``due_before``, which nobody can pull.

        At most ``limit`` whose wait for evidence has not begun, and ``limit`` for whom it began by ``failing_before``.
        """
        asked = {"due_before": due_before, "failing_before": failing_before}
        return await self._found(_IN_VAIN, {"now": self._clock.now(), "limit": limit, **asked})

    async def _found(self, statement: Executable, asked: Mapping[str, Any]) -> list[Due]:
        async with self._database.reading() as transaction:
            return [
                Due(
                    AccountThing(row.account_id, row.id),
                    row.pulls,
                    row.failed,
                    State(row.state),
                    row.due_at,
                    row.failing_since,
                )
                for row in await transaction.execute(statement, asked)
            ]

    async def take(self, session: AccountThing, *, even_if_not_due: bool = False) -> UUID | None:
        """The token of a lease on the session; null if it is leased to somebody or not due (any more)."""
        now = self._clock.now()
        token = self._ids.new()
        lease = {"lease_token": token, "lease_until": Instant(now + self._lease)}
        this = {"of_account": session.account_id, "of_session": session.id, "now": now}
        async with self._database.transaction() as transaction:
            claimed = await transaction.execute(_TAKE_ANY if even_if_not_due else _TAKE, {**this, **lease})
            return token if claimed.one_or_none() is not None else None

    async def mark_failing(self, session: AccountThing, now: Instant) -> None:
        """Let the wait for evidence begin ``now``, unless it has begun, or a timeline came meanwhile."""
        async with self._database.transaction() as transaction:
            await transaction.execute(
                update(sessions)
                .where(sessions.c.account_id == session.account_id, sessions.c.id == session.id)
                .where(sessions.c.failing_since.is_(None), sessions.c.due_at <= now)
                .values(failing_since=now)
            )

    async def free_far(self, session: AccountThing | None = None) -> int:
        """Free leases that end later than any can that was taken by now: by a clock that was set back since; how many.

        That of one ``session``, or those of all that are due.
        The time is read after the lease was seen, and the lease must still be the same. So a process that was stopped
        for a while takes no lease from whoever has it now, however old its own idea of the time is.
        """
        now = self._clock.now()
        if session is None:
            these = sessions.c.due_at <= now
        else:
            these = and_(sessions.c.account_id == session.account_id, sessions.c.id == session.id)
        found = (
            select(sessions.c.account_id, sessions.c.id, sessions.c.lease_token, sessions.c.lease_until)
            .where(these, sessions.c.lease_until > Instant(now + self._lease + CLOCK_MARGIN))
            .limit(MAX_NEARER)
        )
        async with self._database.reading() as transaction:
            rows = (await transaction.execute(found)).all()
        freed = 0
        for row in rows:
            if not too_far(row.lease_until, self._lease, self._clock.now()):
                continue
            async with self._database.transaction() as transaction:
                done = await transaction.execute(
                    update(sessions)
                    .where(sessions.c.account_id == row.account_id, sessions.c.id == row.id)
                    .where(sessions.c.lease_token == row.lease_token, sessions.c.lease_until == row.lease_until)
                    .values(lease_token=None, lease_until=None)
                )
                freed += done.rowcount
        return freed

    async def bring_nearer(self) -> int:
        """Make due what our clock, which was set back since, would keep waiting for too long; how many that were.

        A wait whose end decides against a session, that for its first heartbeat, begins anew; whatever is merely
        looked at when it is due is due now.
        """
        now = self._clock.now()
        waits = self._waits.items()
        far = or_(*(_far(state, Instant(now + wait + CLOCK_MARGIN)) for state, wait in waits))
        # The first condition is what the index of due times answers.
        nearest = Instant(now + min(self._waits.values()) + CLOCK_MARGIN)
        found = (
            select(sessions.c.account_id, sessions.c.id, sessions.c.state, sessions.c.due_at)
            .where(sessions.c.due_at > nearest, far)
            .limit(MAX_NEARER)
        )
        async with self._database.reading() as transaction:
            rows = (await transaction.execute(found)).all()
        for row in rows:
            anew = State(row.state) is State.UNCONFIRMED
            async with self._database.transaction() as transaction:
                await transaction.execute(
                    update(sessions)
                    .where(sessions.c.account_id == row.account_id, sessions.c.id == row.id)
                    .where(sessions.c.state == row.state, sessions.c.due_at == row.due_at)
                    .values(due_at=Instant(now + self._waits[State.UNCONFIRMED]) if anew else now)
                )
        return len(rows)

    async def release(self, session: AccountThing, token: UUID) -> None:
        """Give a lease back, if it is still ours: nothing was done, and the session is due as before."""
        async with self._database.transaction() as transaction:
            await transaction.execute(
                update(sessions)
                .where(
                    sessions.c.account_id == session.account_id,
                    sessions.c.id == session.id,
                    sessions.c.lease_token == token,
                )
                .values(lease_token=None, lease_until=None)
            )
