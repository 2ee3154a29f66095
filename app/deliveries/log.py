"""What became of deliveries: lists of them, the attempts of one, what waits for whom."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, and_, func, select, tuple_

from app.core.ids import AccountThing, Kind, parse_reference_id, reference_id
from app.core.units import Instant, format_instant, seconds
from app.db.database import Transaction
from app.db.tables import deliveries, delivery_attempts, endpoints, events
from app.deliveries.events import event_id
from app.errors import NOT_FOUND, Problem, invalid
from app.http.pages import cursor_instant, cursor_uuid, make_cursor, page, read_cursor

MOST_ATTEMPTS: Final = 100
"""Attempts of a delivery that are shown, the last ones."""


class DeliveryState(StrEnum):
    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"
    """Tried often enough: it waits for a person."""
    DROPPED = "dropped"
    """Its endpoint was deleted before it came to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedDeliveries:
    """Which deliveries are meant; what is null does not matter."""

    endpoint_id: UUID | None = None
    event: AccountThing | None = None
    state: DeliveryState | None = None


def known_state(text: str | None) -> DeliveryState | None:
    """A state of deliveries from a query; 422 if there is none such."""
    if text is None:
        return None
    try:
        return DeliveryState(text)
    except ValueError:
        raise invalid("/state", f"must be one of {', '.join(DeliveryState)}") from None


def endpoint_parameter(text: str | None) -> UUID | None:
    """An endpoint's id from a query; 422 if it is none."""
    if text is None:
        return None
    found = parse_reference_id(Kind.ENDPOINT, text)
    if found is None:
        raise invalid("/endpoint_id", "is no endpoint's id")
    return found


async def deliveries_page(
    transaction: Transaction, asked: AskedDeliveries, *, limit: int, cursor: str | None
) -> dict[str, Any]:
    """A page of deliveries, those made last first. Raises a :class:`~app.errors.Problem`, 422, for the cursor."""
    statement = select(deliveries)
    if asked.endpoint_id is not None:
        statement = statement.where(deliveries.c.endpoint_id == asked.endpoint_id)
    if asked.event is not None:
        statement = statement.where(
            deliveries.c.account_id == asked.event.account_id, deliveries.c.event_id == asked.event.id
        )
    if asked.state is not None:
        statement = statement.where(deliveries.c.state == asked.state.value)
    place = (deliveries.c.created_at, deliveries.c.event_id, deliveries.c.endpoint_id)
    position = read_cursor(cursor, int, str, str)
    if position is not None:
        last = cursor_instant(position[0]), cursor_uuid(position[1]), cursor_uuid(position[2])
        statement = statement.where(tuple_(*place) < last)
    newest = statement.order_by(*(one.desc() for one in place)).limit(limit + 1).subquery()
    told = (
        select(newest, events.c.type, events.c.data)
        .join_from(newest, events, and_(events.c.account_id == newest.c.account_id, events.c.id == newest.c.event_id))
        .order_by(newest.c.created_at.desc(), newest.c.event_id.desc(), newest.c.endpoint_id.desc())
    )
    rows = (await transaction.execute(told)).all()
    shown = rows[:limit]
    more = None
    if len(rows) > limit:
        more = make_cursor(shown[-1].created_at, str(shown[-1].event_id), str(shown[-1].endpoint_id))
    return page([delivery_document(row) for row in shown], more)


async def load_delivery(transaction: Transaction, endpoint_id: UUID, event: AccountThing) -> dict[str, Any]:
    """A delivery with its last attempts, newest first. Raises a :class:`~app.errors.Problem`, 404."""
    whole = await deliveries_page(
        transaction, AskedDeliveries(endpoint_id=endpoint_id, event=event), limit=1, cursor=None
    )
    if not whole["data"]:
        raise Problem(NOT_FOUND, "this event was not dispatched to this endpoint, or that is no longer kept")
    of_it = and_(
        delivery_attempts.c.account_id == event.account_id,
        delivery_attempts.c.event_id == event.id,
        delivery_attempts.c.endpoint_id == endpoint_id,
    )
    last = (
        select(delivery_attempts)
        .where(of_it)
        .order_by(delivery_attempts.c.at.desc(), delivery_attempts.c.id.desc())
        .limit(MOST_ATTEMPTS)
    )
    return {**whole["data"][0], "attempts": [_attempt(row) for row in await transaction.execute(last)]}


def delivery_document(row: Row[Any]) -> dict[str, Any]:
    return {
        "event_id": event_id(row.account_id, row.event_id),
        "event_type": row.type,
        "user_id": row.data.get("user_id"),
        "endpoint_id": reference_id(Kind.ENDPOINT, row.endpoint_id),
        "state": row.state,
        "created_at": format_instant(row.created_at),
        "due_at": _instant(row.due_at),
        "attempts_made": row.total_attempts,
        "last_attempt_at": _instant(row.last_at),
        "last_status": row.last_status,
        "last_error": row.last_error,
        "finished_at": _instant(row.finished_at),
    }


@dataclass(frozen=True, slots=True)
class Backlog:
    """What has not arrived at an endpoint. ``oldest_due_at``: of what waits; null if nothing does."""

    waiting: int = 0
    due: int = 0
    dead: int = 0
    oldest_due_at: Instant | None = None

    def document(self) -> dict[str, Any]:
        return {
            "waiting": self.waiting,
            "due": self.due,
            "dead": self.dead,
            "oldest_due_at": _instant(self.oldest_due_at),
        }


async def backlogs(transaction: Transaction, now: Instant, endpoint_id: UUID | None = None) -> Mapping[UUID, Backlog]:
    """What has not arrived, by endpoint, of those at which that is anything."""
    waits, dead = deliveries.c.state == "waiting", deliveries.c.state == "dead"
    waiting = (
        select(
            deliveries.c.endpoint_id,
            func.count().label("waiting"),
            func.count().filter(deliveries.c.due_at <= now).label("due"),
            func.min(deliveries.c.due_at).label("oldest"),
        )
        .where(waits)
        .group_by(deliveries.c.endpoint_id)
    )
    letters = (
        select(deliveries.c.endpoint_id, func.count().label("dead")).where(dead).group_by(deliveries.c.endpoint_id)
    )
    if endpoint_id is not None:
        waiting = waiting.where(deliveries.c.endpoint_id == endpoint_id)
        letters = letters.where(deliveries.c.endpoint_id == endpoint_id)
    found = {
        row.endpoint_id: Backlog(row.waiting, row.due, 0, row.oldest) for row in await transaction.execute(waiting)
    }
    for row in await transaction.execute(letters):
        known = found.get(row.endpoint_id, Backlog())
        found[row.endpoint_id] = Backlog(known.waiting, known.due, row.dead, known.oldest_due_at)
    return found


async def urls_of(transaction: Transaction, ids: set[UUID]) -> Mapping[UUID, str]:
    """Where endpoints are, those that were deleted too."""
    statement = select(endpoints.c.id, endpoints.c.url).where(endpoints.c.id.in_(ids))
    return {row.id: row.url for row in await transaction.execute(statement)}


def _attempt(row: Row[Any]) -> dict[str, Any]:
    return {
        "at": format_instant(row.at),
        "took_s": seconds(row.took),
        "status": row.status,
        "error": row.error,
        "body": None if row.body is None else row.body.decode("utf-8", errors="replace").replace("\x00", "�"),
        "counted": row.counted,
    }


def _instant(instant: Instant | None) -> str | None:
    return None if instant is None else format_instant(instant)
