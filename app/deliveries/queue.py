"""Deliveries that wait: which are due, whose turn they are, and what came of them.

A worker leases some deliveries of one endpoint by a conditional update of their rows, which leaves a token in them, and
writes what came of them only where that token still stands. So a worker that slept past its lease, or was too late
because the delivery was asked for anew, changes nothing; its attempt is noted all the same, as it was made.

Locks are taken in one order: the endpoint's row, the outbox's, the deliveries'.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Integer,
    Row,
    Select,
    SmallInteger,
    Text,
    Uuid,
    and_,
    bindparam,
    column,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from app.core.delivery import (
    DISABLED_AFTER,
    LONGEST_WAIT,
    DeadLetter,
    Delivered,
    EndpointGone,
    TryAgain,
    Verdict,
)
from app.core.ids import AccountThing
from app.core.units import US_PER_S, Instant, Micros
from app.core.waits import CLOCK_MARGIN
from app.db.database import Database, Transaction
from app.db.tables import deliveries, delivery_attempts, endpoints, events
from app.db.types import InstantType
from app.deliveries.endpoints import Endpoint, EndpointState, WhyDisabled, disabled, load_endpoint
from app.deliveries.sending import PLACES
from app.errors import Problem
from app.events.outbox import EventType, emit_of_nobody
from app.ports.clock import Clock
from app.ports.ids import Ids

BATCH: Final = 4 * PLACES
"""Deliveries to one endpoint that are leased at once."""

LEASE_ROUNDS: Final = 2
"""A lease lasts for so many deliveries, one after the other, to an endpoint that takes all the time it has. What is not
sent by then is given back."""

LEASE_MARGIN: Final = Micros(5 * US_PER_S)
"""And for this, in which what came of them is written."""


@dataclass(frozen=True, slots=True)
class Leased:
    """A delivery that is ours to make. ``attempts``: those before, since it was last asked for."""

    event: Row[Any]
    attempts: int

    @property
    def key(self) -> AccountThing:
        return AccountThing(self.event.account_id, self.event.id)


@dataclass(frozen=True, slots=True)
class Batch:
    """Deliveries to one endpoint that are leased together, until ``until``."""

    endpoint: Endpoint
    token: UUID
    until: Instant
    leased: Sequence[Leased]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of a delivery. ``status`` null: there was no answer, and ``error`` says why."""

    delivery: Leased
    at: Instant
    took: Micros
    status: int | None
    error: str | None
    body: bytes | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Recorded:
    """How many attempts counted; why the endpoint was disabled, if it was."""

    counted: int
    disabled: WhyDisabled | None


class DeliveryQueue:
    """See the module."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, *, limit: Micros) -> None:
        """``limit``: how long one delivery takes at most."""
        self._database = database
        self._clock = clock
        self._ids = ids
        self._lease = Micros(LEASE_ROUNDS * limit + LEASE_MARGIN)

    async def endpoints_due(self) -> Sequence[UUID]:
        """Active endpoints for which something is due that nobody has leased."""
        async with self._database.reading() as transaction:
            return list((await transaction.execute(_ENDPOINTS_DUE, self._times())).scalars())

    async def take(self, endpoint_id: UUID) -> Batch | None:
        """Lease what is due for an endpoint, longest due first; null if there is nothing, or it is not active."""
        times = self._times()
        token, until = self._ids.new(), Instant(times["now"] + self._lease)
        async with self._database.transaction() as transaction:
            try:
                endpoint = await load_endpoint(transaction, endpoint_id)
            except Problem:
                return None
            if endpoint.state is not EndpointState.ACTIVE:
                return None
            found = (await transaction.execute(_DUE, {**times, "whose": endpoint_id})).all()
            if not found:
                return None
            these = {"accounts": [row.account_id for row in found], "events": [row.event_id for row in found]}
            lease = {"lease_token": token, "lease_until": until}
            claimed = await transaction.execute(_TAKE, {**times, **these, **lease, "whose": endpoint_id})
            attempts = {(row.account_id, row.event_id): row.attempts for row in claimed}
            rows = (await transaction.execute(_EVENTS, these)).all()
        order = {(row.account_id, row.event_id): place for place, row in enumerate(found)}
        leased = [
            Leased(row, attempts[row.account_id, row.id])
            for row in sorted(rows, key=lambda row: order[row.account_id, row.id])
            if (row.account_id, row.id) in attempts
        ]
        return Batch(endpoint, token, until, leased) if leased else None

    async def record(self, batch: Batch, attempts: Sequence[Attempt]) -> Recorded:
        """Write what came of a batch, and give the rest of it back."""
        now = self._clock.now()
        made = {attempt.delivery.key for attempt in attempts}
        unmade = [leased.key for leased in batch.leased if leased.key not in made]
        async with self._database.transaction() as transaction:
            why = await self._judge_endpoint(transaction, batch.endpoint, attempts, now)
            counted = await _write(transaction, batch, attempts, now)
            if attempts:
                await transaction.execute(insert(delivery_attempts), self._attempt_rows(batch, attempts, counted))
            if unmade:
                these = {"accounts": [key.account_id for key in unmade], "events": [key.id for key in unmade]}
                await transaction.execute(_RELEASE, {**these, "whose": batch.endpoint.id, "ours": batch.token})
        return Recorded(len(counted), why)

    async def _judge_endpoint(
        self, transaction: Transaction, endpoint: Endpoint, attempts: Sequence[Attempt], now: Instant
    ) -> WhyDisabled | None:
        """Keep note of since when an endpoint fails; disable one that is gone, or fails for too long."""
        if not attempts:
            return None
        verdicts = [attempt.verdict for attempt in attempts]
        this = endpoints.c.id == endpoint.id
        if any(isinstance(verdict, EndpointGone) for verdict in verdicts):
            return await self._disable(transaction, endpoint, WhyDisabled.GONE, now)
        if any(isinstance(verdict, Delivered) for verdict in verdicts):
            if endpoint.failing_since is not None:
                recovered = update(endpoints).where(this, endpoints.c.failing_since.is_not(None))
                await transaction.execute(recovered.values(failing_since=None))
            return None
        if endpoint.failing_since is None:
            since = min(attempt.at for attempt in attempts)
            begins = update(endpoints).where(this, endpoints.c.failing_since.is_(None))
            await transaction.execute(begins.values(failing_since=since))
        elif now - endpoint.failing_since >= DISABLED_AFTER:
            return await self._disable(transaction, endpoint, WhyDisabled.FAILING, now)
        return None

    async def _disable(
        self, transaction: Transaction, endpoint: Endpoint, why: WhyDisabled, now: Instant
    ) -> WhyDisabled | None:
        """Disable the endpoint, unless it was changed since: then it was another one that failed."""
        same = [endpoints.c.id == endpoint.id, endpoints.c.state == EndpointState.ACTIVE.value]
        same.append(endpoints.c.url == endpoint.url)
        if why is WhyDisabled.FAILING:
            same.append(endpoints.c.failing_since == endpoint.failing_since)
        done = await transaction.execute(update(endpoints).where(*same).values(disabled(why, now)))
        if not done.rowcount:
            return None
        told = {"endpoint_id": endpoint.public_id, "url": endpoint.url, "why": why.value}
        await emit_of_nobody(transaction, self._ids, now, EventType.ENDPOINT_DISABLED, told)
        return why

    def _attempt_rows(
        self, batch: Batch, attempts: Sequence[Attempt], counted: set[AccountThing]
    ) -> list[dict[str, Any]]:
        return [
            {
                "account_id": attempt.delivery.key.account_id,
                "event_id": attempt.delivery.key.id,
                "endpoint_id": batch.endpoint.id,
                "id": self._ids.new(),
                "at": attempt.at,
                "took": attempt.took,
                "status": attempt.status,
                "error": attempt.error,
                "body": attempt.body,
                "counted": attempt.delivery.key in counted,
            }
            for attempt in attempts
        ]

    def _times(self) -> dict[str, Instant]:
        """What is due and free now. What lies further ahead than it can, was written before our clock was set back."""
        now = self._clock.now()
        return {
            "now": now,
            "latest": Instant(now + LONGEST_WAIT + CLOCK_MARGIN),
            "longest": Instant(now + self._lease + CLOCK_MARGIN),
        }


async def _write(
    transaction: Transaction, batch: Batch, attempts: Sequence[Attempt], now: Instant
) -> set[AccountThing]:
    """Which of the deliveries were still ours."""
    if not attempts:
        return set()
    columns: dict[str, list[Any]] = {name: [] for name in _RESULT}
    for attempt in sorted(attempts, key=lambda attempt: attempt.delivery.key):
        values = _after(attempt, now) | {
            "account_id": attempt.delivery.key.account_id,
            "event_id": attempt.delivery.key.id,
            "status": attempt.status,
            "error": attempt.error,
            "at": attempt.at,
        }
        for name in _RESULT:
            columns[name].append(values[name])
    ours = {"whose": batch.endpoint.id, "ours": batch.token}
    written = await transaction.execute(_WRITE, {**{f"all_{name}": columns[name] for name in _RESULT}, **ours})
    return {AccountThing(row.account_id, row.event_id) for row in written}


def _after(attempt: Attempt, now: Instant) -> dict[str, Any]:
    """State, attempts, due time and end of a delivery after an attempt."""
    attempts = attempt.delivery.attempts + 1
    match attempt.verdict:
        case Delivered():
            return {"state": "delivered", "attempts": attempts, "due_at": None, "finished_at": now}
        case DeadLetter():
            return {"state": "dead", "attempts": attempts, "due_at": None, "finished_at": now}
        case TryAgain(wait):
            return {"state": "waiting", "attempts": attempts, "due_at": Instant(now + wait), "finished_at": None}
        case EndpointGone():
            # It is due as soon as the endpoint is enabled again, and this attempt is not held against it.
            return {"state": "waiting", "attempts": attempts - 1, "due_at": now, "finished_at": None}


_RESULT: Final = {
    "account_id": Uuid,
    "event_id": Uuid,
    "state": Text,
    "attempts": Integer,
    "due_at": InstantType,
    "finished_at": InstantType,
    "status": SmallInteger,
    "error": Text,
    "at": InstantType,
}
"""What is written of each delivery, by its type."""


def _these(table: Any, event_id: Any) -> Any:
    """A table of keys, and the condition that joins it."""
    told = func.unnest(bindparam("accounts", type_=ARRAY(Uuid)), bindparam("events", type_=ARRAY(Uuid)))
    these = told.table_valued(column("account_id", Uuid), column("event_id", Uuid), name="these").render_derived()
    return these, and_(table.c.account_id == these.c.account_id, event_id == these.c.event_id)


def _due_and_free() -> ColumnElement[bool]:
    now, latest, longest = (bindparam(name, type_=InstantType) for name in ("now", "latest", "longest"))
    return and_(
        deliveries.c.state == "waiting",
        or_(deliveries.c.due_at <= now, deliveries.c.due_at > latest),
        or_(deliveries.c.lease_until.is_(None), deliveries.c.lease_until < now, deliveries.c.lease_until > longest),
    )


def _endpoints_due() -> Select[Any]:
    waiting = exists().where(deliveries.c.endpoint_id == endpoints.c.id, _due_and_free())
    return select(endpoints.c.id).where(endpoints.c.state == EndpointState.ACTIVE.value, waiting)


def _due() -> Select[Any]:
    return (
        select(deliveries.c.account_id, deliveries.c.event_id)
        .where(deliveries.c.endpoint_id == bindparam("whose"), _due_and_free())
        .order_by(deliveries.c.due_at, deliveries.c.account_id, deliveries.c.event_id)
        .limit(BATCH)
    )


def _take() -> Any:
    _, same = _these(deliveries, deliveries.c.event_id)
    claim = update(deliveries).where(same, deliveries.c.endpoint_id == bindparam("whose"), _due_and_free())
    return claim.returning(deliveries.c.account_id, deliveries.c.event_id, deliveries.c.attempts)


def _release() -> Any:
    _, same = _these(deliveries, deliveries.c.event_id)
    mine = and_(deliveries.c.endpoint_id == bindparam("whose"), deliveries.c.lease_token == bindparam("ours"))
    return update(deliveries).where(same, mine).values(lease_token=None, lease_until=None)


def _events() -> Select[Any]:
    these, same = _these(events, events.c.id)
    return select(events).join(these, same)


def _write_results() -> Any:
    told = func.unnest(*(bindparam(f"all_{name}", type_=ARRAY(kind)) for name, kind in _RESULT.items()))
    result = told.table_valued(*(column(name, kind) for name, kind in _RESULT.items()), name="result").render_derived()
    same = and_(
        deliveries.c.account_id == result.c.account_id,
        deliveries.c.event_id == result.c.event_id,
        deliveries.c.endpoint_id == bindparam("whose"),
        deliveries.c.lease_token == bindparam("ours"),
    )
    return (
        update(deliveries)
        .where(same)
        .values(
            state=result.c.state,
            attempts=result.c.attempts,
            due_at=result.c.due_at,
            finished_at=result.c.finished_at,
            last_status=result.c.status,
            last_error=result.c.error,
            last_at=result.c.at,
            total_attempts=deliveries.c.total_attempts + 1,
            lease_token=None,
            lease_until=None,
        )
        .returning(deliveries.c.account_id, deliveries.c.event_id)
    )


_ENDPOINTS_DUE: Final = _endpoints_due()
_DUE: Final = _due()
_TAKE: Final = _take()
_RELEASE: Final = _release()
_EVENTS: Final = _events()
_WRITE: Final = _write_results()
