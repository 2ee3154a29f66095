"""Events: what happened, newest first, over all users or of one."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, select
from starlette.responses import Response

from app.core.ids import Kind, account_id_of, public_id
from app.core.lossless_json import dumps
from app.core.units import format_instant
from app.db.database import Database, Transaction
from app.db.keyset import beyond
from app.db.tables import accounts, events
from app.events.outbox import EventType
from app.http.pages import DEFAULT_LIMIT, cursor_instant, cursor_uuid, make_cursor, page, read_cursor
from app.web.site import ADMIN, Page, Visit

EVENTS: Final = ADMIN + "/events"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPages:
    database: Database

    def pages(self) -> list[Page]:
        return [Page(EVENTS, self._list)]

    async def _list(self, visit: Visit) -> Response:
        user_id, kind, cursor = visit.asked("user_id"), visit.asked("type"), visit.asked("cursor") or None
        kind = kind if kind in set(EventType) else ""
        async with self.database.reading() as transaction:
            found = await events_page(
                transaction, limit=DEFAULT_LIMIT, cursor=cursor, user_id=user_id or None, kind=kind or None
            )
        asked = {"user_id": user_id, "type": kind}
        return visit.page(
            "events.html",
            nav="events",
            found=found,
            asked=asked,
            given={name: value for name, value in asked.items() if value},
            types=[one.value for one in EventType],
            first=cursor is None,
        )


async def events_page(
    transaction: Transaction, *, limit: int, cursor: str | None, user_id: str | None = None, kind: str | None = None
) -> dict[str, Any]:
    """A page of events, newest first. Raises a :class:`~app.errors.Problem`, 422, for a cursor of something else."""
    newest = select(events).order_by(events.c.created_at.desc(), events.c.id.desc()).limit(limit + 1)
    if user_id is not None:
        newest = newest.where(events.c.account_id == account_id_of(user_id))
    if kind is not None:
        newest = newest.where(events.c.type == kind)
    position = read_cursor(cursor, int, str)
    if position is not None:
        last = cursor_instant(position[0]), cursor_uuid(position[1])
        newest = newest.where(beyond((events.c.created_at, events.c.id), last, down=True))
    these = newest.subquery()
    statement = (
        select(these, accounts.c.user_id)
        # What belongs to no account has no row there.
        .join_from(these, accounts, accounts.c.account_id == these.c.account_id, isouter=True)
        .order_by(these.c.created_at.desc(), these.c.id.desc())
    )
    rows = (await transaction.execute(statement)).all()
    shown = rows[:limit]
    more = make_cursor(shown[-1].created_at, str(shown[-1].id)) if len(rows) > limit else None
    return page([event_document(row) for row in shown], more)


def event_document(row: Row[Any]) -> dict[str, Any]:
    data: dict[str, Any] = row.data
    return {
        "id": public_id(Kind.EVENT, row.account_id, row.id),
        "type": row.type,
        "user_id": row.user_id,
        "session_id": data.get("session_id"),
        "grant_id": data.get("grant_id"),
        "why": data.get("why"),
        "charged": data.get("charged"),
        "data": dumps(data),
        "at": format_instant(row.created_at),
    }
