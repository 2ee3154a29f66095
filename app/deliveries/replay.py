"""Deliveries that are asked for anew: by the id of an event, by a range of time, or all dead letters of an endpoint.

What is asked for is sent after that was asked, whatever is under way: a worker that has it already loses its lease, and
what comes of its attempt does not count.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import and_, or_, select, tuple_
from sqlalchemy.dialects.postgresql import insert as upsert

from app.core.access import Actor
from app.core.ids import NIL_ACCOUNT, AccountThing, Kind, parse_public_id, parse_reference_id
from app.core.units import Instant, format_instant
from app.db.database import Transaction
from app.db.tables import deliveries, events
from app.deliveries.endpoints import Endpoint, EndpointPorts, active_endpoints, load_active
from app.deliveries.events import event_id, load_event
from app.documents import Document, Moment, PlainString, Text
from app.errors import INVALID_REQUEST, FieldError, Problem, invalid
from app.events.outbox import EventType, emit_of_nobody
from app.http.pages import cursor_instant, cursor_uuid, make_cursor, read_cursor
from app.ledger.audit import Audit, record_audits
from app.ports.ids import Ids

MOST_AT_ONCE: Final = 1_000
"""Events that one call asks for anew; the next one goes on behind them."""

MOST_IDS: Final = 100


class ReplayDocument(Document):
    """Which events: by their ids, or all from ``after`` on and before ``before``, of ``event_types`` if any are named,
    else of those that the endpoint wants.

    ``cursor``: the ``next_cursor`` of the call before.
    """

    event_ids: Annotated[list[Text], Field(min_length=1, max_length=MOST_IDS)] | None = None
    after: Moment | None = None
    before: Moment | None = None
    event_types: Annotated[list[Annotated[EventType, PlainString]], Field(max_length=len(EventType))] = []  # noqa: RUF012
    cursor: Text | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "ReplayDocument":
        by_time = self.after is not None or self.before is not None
        if (self.event_ids is None) != by_time:
            raise PydanticCustomError("which", "give event_ids, or after or before")
        if self.event_ids is not None and (self.event_types or self.cursor is not None):
            raise PydanticCustomError("which", "event_types and cursor go with after and before")
        return self


class RedeliverDocument(Document):
    """To which endpoint; absent: to all active ones that want its type."""

    endpoint_id: Text | None = None


async def replay(
    transaction: Transaction, ids: Ids, endpoint_id: UUID, asked: ReplayDocument, *, now: Instant, actor: Actor
) -> dict[str, Any]:
    """Ask for events anew: how many, and where the next call goes on.

    Raises a :class:`~app.errors.Problem`: 404, 409 if the endpoint is disabled, 422 for ids that are none.
    """
    endpoint = await load_active(transaction, endpoint_id)
    if asked.event_ids is not None:
        keys, more = await _by_ids(transaction, asked.event_ids), None
    else:
        keys, more = await _by_time(transaction, endpoint, asked)
    await _ask_anew(transaction, endpoint, keys, now)
    told: dict[str, Any] = {"replayed": len(keys)}
    if asked.event_ids is None:
        told |= {
            name: None if moment is None else format_instant(moment)
            for name, moment in (("after", asked.after), ("before", asked.before))
        }
    await _audit(transaction, ids, actor, "webhook_endpoint.replay", endpoint.public_id, now, told)
    return {"replayed": len(keys), "next_cursor": more}


async def redeliver(
    transaction: Transaction, ids: Ids, key: AccountThing, asked: RedeliverDocument, *, now: Instant, actor: Actor
) -> dict[str, Any]:
    """Ask for one event anew, at one endpoint or at all that want it; at which.

    Raises a :class:`~app.errors.Problem`: 404, 409 if the endpoint is disabled.
    """
    event = await load_event(transaction, key)
    if asked.endpoint_id is None:
        these = [one for one in await active_endpoints(transaction) if one.wants(event.type)]
    else:
        asked_for = parse_reference_id(Kind.ENDPOINT, asked.endpoint_id)
        if asked_for is None:
            raise invalid("/endpoint_id", "is no endpoint's id")
        these = [await load_active(transaction, asked_for)]
    for endpoint in these:
        await _ask_anew(transaction, endpoint, [key], now)
    told = [endpoint.public_id for endpoint in these]
    # The event's own account: whoever looks up what concerns a user finds it.
    audit = Audit(actor=actor, action="event.redeliver", target=event_id(*key), after={"endpoint_ids": told})
    await record_audits(transaction, ids, key.account_id, [audit], now)
    return {"event_id": event_id(*key), "endpoint_ids": told}


async def send_test(
    transaction: Transaction, ports: EndpointPorts, endpoint_id: UUID, *, now: Instant, actor: Actor
) -> dict[str, Any]:
    """Have an event of its own sent to an endpoint, to see whether it arrives; its id.

    Raises a :class:`~app.errors.Problem`: 404, 409 if the endpoint is disabled.
    """
    endpoint = await load_active(transaction, endpoint_id)
    told = {"endpoint_id": endpoint.public_id}
    key = AccountThing(NIL_ACCOUNT, await emit_of_nobody(transaction, ports.ids, now, EventType.ENDPOINT_TEST, told))
    await _ask_anew(transaction, endpoint, [key], now)
    answer = {"event_id": event_id(*key)}
    await _audit(transaction, ports.ids, actor, "webhook_endpoint.test", endpoint.public_id, now, answer)
    return answer


async def retry_dead_letters(
    transaction: Transaction, ids: Ids, endpoint_id: UUID, *, now: Instant, actor: Actor
) -> dict[str, Any]:
    """Let the dead letters of an endpoint wait again, oldest first; how many, and whether there are more.

    Raises a :class:`~app.errors.Problem`: 404, 409 if the endpoint is disabled.
    """
    endpoint = await load_active(transaction, endpoint_id)
    statement = (
        select(deliveries.c.account_id, deliveries.c.event_id)
        .where(deliveries.c.endpoint_id == endpoint.id, deliveries.c.state == "dead")
        .order_by(deliveries.c.created_at, deliveries.c.event_id)
        .limit(MOST_AT_ONCE + 1)
    )
    found = [AccountThing(row.account_id, row.event_id) for row in await transaction.execute(statement)]
    these = found[:MOST_AT_ONCE]
    await _ask_anew(transaction, endpoint, these, now)
    await _audit(transaction, ids, actor, "webhook_endpoint.retry", endpoint.public_id, now, {"retried": len(these)})
    return {"retried": len(these), "more": len(found) > MOST_AT_ONCE}


async def _by_ids(transaction: Transaction, texts: Sequence[str]) -> list[AccountThing]:
    keys = [parse_public_id(Kind.EVENT, text) for text in texts]
    known: set[AccountThing] = set()
    asked = [key for key in keys if key is not None]
    if asked:
        statement = select(events.c.account_id, events.c.id).where(
            or_(*(and_(events.c.account_id == key.account_id, events.c.id == key.id) for key in asked))
        )
        known = {AccountThing(row.account_id, row.id) for row in await transaction.execute(statement)}
    wrong = [
        FieldError(f"/event_ids/{place}", "is no event's id") for place, key in enumerate(keys) if key not in known
    ]
    if wrong:
        raise Problem(INVALID_REQUEST, "event_ids: there are no events with some of these ids", errors=wrong)
    return sorted(known)


async def _by_time(
    transaction: Transaction, endpoint: Endpoint, asked: ReplayDocument
) -> tuple[list[AccountThing], str | None]:
    """Events in the order of their time, and the cursor behind the last of them, if there are more."""
    wanted = [kind.value for kind in asked.event_types or EventType if asked.event_types or endpoint.wants(kind)]
    statement = select(events.c.account_id, events.c.id, events.c.created_at).where(events.c.type.in_(wanted))
    if asked.after is not None:
        statement = statement.where(events.c.created_at >= asked.after)
    if asked.before is not None:
        statement = statement.where(events.c.created_at < asked.before)
    position = read_cursor(asked.cursor, int, str)
    if position is not None:
        place = tuple_(events.c.created_at, events.c.id)
        statement = statement.where(place > (cursor_instant(position[0]), cursor_uuid(position[1])))
    oldest = statement.order_by(events.c.created_at, events.c.id).limit(MOST_AT_ONCE + 1)
    rows = list(await transaction.execute(oldest))
    shown = rows[:MOST_AT_ONCE]
    more = make_cursor(shown[-1].created_at, str(shown[-1].id)) if len(rows) > MOST_AT_ONCE else None
    return [AccountThing(row.account_id, row.id) for row in shown], more


async def _ask_anew(transaction: Transaction, endpoint: Endpoint, keys: Sequence[AccountThing], now: Instant) -> None:
    """Make deliveries due, new ones and old ones, from the first attempt on, and take them from whoever has them."""
    rows = [
        {
            "account_id": key.account_id,
            "event_id": key.id,
            "endpoint_id": endpoint.id,
            "state": "waiting",
            "attempts": 0,
            "due_at": now,
            "created_at": now,
            "total_attempts": 0,
        }
        for key in sorted(keys)  # in one order, as the dispatcher does, so that neither waits for the other in a ring
    ]
    if not rows:
        return
    again = upsert(deliveries).values(rows)
    waiting = {"state": "waiting", "attempts": 0, "due_at": now, "finished_at": None}
    await transaction.execute(
        again.on_conflict_do_update(
            index_elements=list(deliveries.primary_key.columns),
            set_={**waiting, "lease_token": None, "lease_until": None},
        )
    )


async def _audit(
    transaction: Transaction, ids: Ids, actor: Actor, action: str, target: str, now: Instant, after: dict[str, Any]
) -> None:
    audit = Audit(actor=actor, action=action, target=target, after=after)
    await record_audits(transaction, ids, NIL_ACCOUNT, [audit], now)
