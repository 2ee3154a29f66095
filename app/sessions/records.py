"""The rows of sessions and their steps."""

from dataclasses import dataclass, fields
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, bindparam, insert, select, update

from app.core.ids import AccountThing, Kind, public_id
from app.core.lifecycle import State, step
from app.core.rate_card import ChargeFrom
from app.core.units import Instant, MicroCredits, Micros
from app.db.database import Transaction
from app.db.tables import idempotency, session_steps, sessions
from app.events.outbox import EventType

STEP_EVENTS: Final = {
    State.LIVE: EventType.SESSION_LIVE,
    State.OVER: EventType.SESSION_OVER,
    State.REVIEW: EventType.SESSION_REVIEW,
    State.SETTLED: EventType.SESSION_SETTLED,
    State.FAILED: EventType.SESSION_FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session as it is stored. ``authorized`` is what was held at the start; ``charged`` is null until settled."""

    account_id: UUID
    id: UUID
    provider_session_id: str | None
    persona: str
    scenario: str
    metadata: Any
    state: State
    rate_card_id: UUID
    charge_from: ChargeFrom | None
    time_limit: Micros
    authorized: MicroCredits
    accrued: MicroCredits
    charged: MicroCredits | None
    leakage: MicroCredits | None
    written_off: bool
    anomalies: list[str]
    requested_at: Instant
    started_at: Instant | None
    over_at: Instant | None
    settled_at: Instant | None
    steps: int
    due_at: Instant | None
    lease_token: UUID | None
    lease_until: Instant | None
    attempts: int
    failing_since: Instant | None = None
    """Since when its pulls have come to nothing, moved on by what was no fault of theirs; null if the last did not."""
    hold_until: Instant | None = None
    """In review: until when its hold is kept; null where there is none to release."""
    accepted_snapshot: int | None = None
    """The snapshot with which an operator accepted evidence that contradicts itself; null: none was."""
    ended_at: Instant | None = None
    """When the provider confirmed that it had ended the session; null: it was not asked to, or did not say so."""

    @property
    def key(self) -> AccountThing:
        return AccountThing(self.account_id, self.id)

    @property
    def public_id(self) -> str:
        return public_id(Kind.SESSION, self.account_id, self.id)


SESSION_COLUMNS: Final = [sessions.c[column.name] for column in fields(Session)]

_SESSION: Final = select(*SESSION_COLUMNS).where(
    sessions.c.account_id == bindparam("of"), sessions.c.id == bindparam("session")
)
_LOCKED: Final = _SESSION.with_for_update()
_CHANGE: Final = update(sessions).where(
    sessions.c.account_id == bindparam("of_account"), sessions.c.id == bindparam("of_session")
)
_INSERT_STEP: Final = insert(session_steps)


def session_of(row: Row[Any]) -> Session:
    """The session in a row that holds :data:`SESSION_COLUMNS`."""
    values = {column.name: row._mapping[column.name] for column in fields(Session)}
    values["state"] = State(values["state"])
    if values["charge_from"] is not None:
        values["charge_from"] = ChargeFrom(values["charge_from"])
    return Session(**values)


async def load_session(transaction: Transaction, key: AccountThing, *, lock: bool = False) -> Session | None:
    """The session; locked if asked for, after its account."""
    found = await transaction.execute(_LOCKED if lock else _SESSION, {"of": key.account_id, "session": key.id})
    row = found.one_or_none()
    return None if row is None else session_of(row)


async def is_bound(transaction: Transaction, account_id: UUID, provider_id: str) -> bool:
    """Whether a session of the account has this id at the provider."""
    statement = select(sessions.c.id).where(
        sessions.c.account_id == account_id, sessions.c.provider_session_id == provider_id
    )
    return (await transaction.execute(statement)).one_or_none() is not None


async def insert_session(transaction: Transaction, session: Session, start_key: bytes | None, why: str) -> None:
    """A new session with its first step.

    Raises :class:`~app.core.lifecycle.IllegalStep` if no session begins in its state.
    """
    step(None, session.state)
    values = {column.name: getattr(session, column.name) for column in fields(Session)}
    values["state"] = session.state.value
    await transaction.execute(insert(sessions).values(**values, start_key=start_key))
    await _record_step(transaction, session, None, session.state, 1, why, session.requested_at)


async def take_step(
    transaction: Transaction, session: Session, to: State, why: str, now: Instant, **values: Any
) -> None:
    """Move a locked session to ``to`` and change ``values`` with it.

    Raises :class:`~app.core.lifecycle.IllegalStep` if the step is not a legal one.
    """
    step(session.state, to)
    n = session.steps + 1
    if to in {State.OVER, State.FAILED}:
        await _drop_sealed_part(transaction, session)
    await change_session(transaction, session, state=to.value, steps=n, **values)
    await _record_step(transaction, session, session.state, to, n, why, now)


async def _drop_sealed_part(transaction: Transaction, session: Session) -> None:
    """Nobody can join a session that is over, or start one whose hold is gone: its secret is kept no longer."""
    start_key = (
        select(sessions.c.start_key)
        .where(sessions.c.account_id == session.account_id, sessions.c.id == session.id)
        .scalar_subquery()
    )
    await transaction.execute(
        update(idempotency)
        .where(idempotency.c.account_id == session.account_id, idempotency.c.key_hash == start_key)
        .values(sealed=None)
    )


async def is_adopted(transaction: Transaction, key: AccountThing) -> bool:
    """Whether the customer's own backend was to start the session: its first step says so, and no step ever changes."""
    statement = select(session_steps.c.to_state).where(
        session_steps.c.account_id == key.account_id, session_steps.c.session_id == key.id, session_steps.c.n == 1
    )
    return State((await transaction.execute(statement)).scalar_one()) is State.UNCONFIRMED


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a session as it was recorded; ``before`` is null for the first one."""

    before: State | None
    after: State
    why: str
    at: Instant


async def load_steps(transaction: Transaction, key: AccountThing) -> list[Step]:
    """The session's steps in the order in which they were taken."""
    rows = await transaction.execute(
        select(session_steps.c.from_state, session_steps.c.to_state, session_steps.c.why, session_steps.c.at)
        .where(session_steps.c.account_id == key.account_id, session_steps.c.session_id == key.id)
        .order_by(session_steps.c.n)
    )
    return [
        Step(None if row.from_state is None else State(row.from_state), State(row.to_state), row.why, row.at)
        for row in rows
    ]


async def change_session(transaction: Transaction, session: Session, **values: Any) -> None:
    """Change columns of a locked session."""
    await transaction.execute(_CHANGE, {"of_account": session.account_id, "of_session": session.id, **values})


async def _record_step(
    transaction: Transaction, session: Session, before: State | None, after: State, n: int, why: str, at: Instant
) -> None:
    made = {
        "account_id": session.account_id,
        "session_id": session.id,
        "n": n,
        "from_state": None if before is None else before.value,
        "to_state": after.value,
        "why": why,
        "at": at,
    }
    await transaction.execute(_INSERT_STEP, made)
