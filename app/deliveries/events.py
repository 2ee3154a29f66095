"""Events as they are told: the document of one, which deliveries send, and lists of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Row, and_, select, tuple_

from app.core.ids import AccountThing, Kind, account_id_of, parse_public_id, public_id
from app.core.lossless_json import dumps
from app.core.units import Instant, format_instant
from app.db.database import Transaction
from app.db.tables import events
from app.errors import NOT_FOUND, Problem, invalid
from app.events.outbox import EventType
from app.http.pages import cursor_instant, cursor_uuid, make_cursor, page, read_cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which events are meant; what is null does not matter. ``after`` is included, ``before`` is not."""

    user_id: str | None = None
    kind: str | None = None
    after: Instant | None = None
    before: Instant | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        if self.user_id is not None:
            found.append(events.c.account_id == account_id_of(self.user_id))
        if self.kind is not None:
            found.append(events.c.type == self.kind)
        if self.after is not None:
            found.append(events.c.created_at >= self.after)
        if self.before is not None:
            found.append(events.c.created_at < self.before)
        return found


def known_type(text: str | None) -> str | None:
    """A type of event from a query; 422 if there is none such."""
    if text is not None and text not in set(EventType):
        raise invalid("/type", "is no type of event")
    return text


def event_key(text: str) -> AccountThing:
    """Where the event with this public id lives. Raises a :class:`~app.errors.Problem`, 404."""
    found = parse_public_id(Kind.EVENT, text)
    if found is None:
        raise unknown_event()
    return found


def unknown_event() -> Problem:
    return Problem(NOT_FOUND, "there is no event with this id")


def event_id(account_id: UUID, own_id: UUID) -> str:
    return public_id(Kind.EVENT, account_id, own_id)


def event_document(row: Row[Any]) -> dict[str, Any]:
    """An event. ``user_id`` and ``sequence``: its order; null for what belongs to no user, which is one order too."""
    data: Mapping[str, Any] = row.data
    return {
        "id": event_id(row.account_id, row.id),
        "type": row.type,
        "timestamp": format_instant(row.created_at),
        "user_id": data.get("user_id"),
        "sequence": row.seq,
        "data": data,
    }


def event_answer(row: Row[Any]) -> dict[str, Any]:
    """The same for an answer: numbers in ``data`` keep their digits as they do in :func:`event_body`."""
    return {**event_document(row), "data": msgspec.Raw(dumps(row.data).encode())}


def event_body(row: Row[Any]) -> bytes:
    """The event's document as it is sent: the same bytes in every attempt."""
    return dumps(event_document(row)).encode()


async def load_event(transaction: Transaction, key: AccountThing) -> Row[Any]:
    """The event's row. Raises a :class:`~app.errors.Problem`, 404."""
    this = and_(events.c.account_id == key.account_id, events.c.id == key.id)
    row = (await transaction.execute(select(events).where(this))).one_or_none()
    if row is None:
        raise unknown_event()
    return row


async def events_page(
    transaction: Transaction, asked: Asked, *, limit: int, cursor: str | None
) -> tuple[list[Row[Any]], str | None]:
    """Rows of events, newest first, and the cursor of the next page.

    Raises a :class:`~app.errors.Problem`, 422, for a cursor of something else.
    """
    statement = select(events).where(*asked.conditions())
    position = read_cursor(cursor, int, str)
    if position is not None:
        place = tuple_(events.c.created_at, events.c.id)
        statement = statement.where(place < (cursor_instant(position[0]), cursor_uuid(position[1])))
    newest = statement.order_by(events.c.created_at.desc(), events.c.id.desc()).limit(limit + 1)
    rows = (await transaction.execute(newest)).all()
    shown = list(rows[:limit])
    return shown, make_cursor(shown[-1].created_at, str(shown[-1].id)) if len(rows) > limit else None


def events_answer(rows: list[Row[Any]], more: str | None) -> dict[str, Any]:
    return page([event_answer(row) for row in rows], more)
