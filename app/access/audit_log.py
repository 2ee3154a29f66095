"""Reading the audit log: who changed what, newest first."""

from typing import Any, Final

import msgspec
from sqlalchemy import Row, select

from app.core.ids import NIL_ACCOUNT, AccountThing, Kind, account_id_of, public_id
from app.core.lossless_json import dumps
from app.core.units import Instant, InvalidQuantity, format_instant
from app.db.database import Transaction
from app.db.keyset import beyond, end_unless_passed
from app.db.tables import accounts, audit_log
from app.documents import printable
from app.errors import invalid
from app.http.pages import cursor_instant, cursor_uuid, make_cursor, page, read_cursor

MAX_FILTER: Final = 200
"""Characters of a filter: those of an actor are a user's id and what stands before it."""


async def audit_page(
    transaction: Transaction,
    *,
    limit: int,
    cursor: str | None,
    user_id: str | None,
    actor: str | None,
    action: str | None,
    target: str | None,
    request_id: str | None,
    after: Instant | None,
    before: Instant | None,
) -> dict[str, Any]:
    """A page of the audit log, newest first. ``after`` is inclusive, ``before`` is not; the other filters are exact."""
    whose = accounts.c.account_id == audit_log.c.account_id
    statement = (
        select(audit_log, accounts.c.user_id)
        .join_from(audit_log, accounts, whose, isouter=True)
        .order_by(audit_log.c.at.desc(), audit_log.c.id.desc())
    )
    if user_id is not None:
        statement = statement.where(audit_log.c.account_id == account_id_of(user_id))
    wanted = {"actor": actor, "action": action, "target": target, "request_id": request_id}
    for name, value in wanted.items():
        if value is not None:
            statement = statement.where(audit_log.c[name] == _text(name, value))
    if after is not None:
        statement = statement.where(audit_log.c.at >= after)
    position = read_cursor(cursor, int, str)
    if position is not None:
        last = cursor_instant(position[0]), cursor_uuid(position[1])
        statement = statement.where(beyond((audit_log.c.at, audit_log.c.id), last, down=True))
        before = end_unless_passed(before, last[0])
    if before is not None:
        statement = statement.where(audit_log.c.at < before)
    rows = (await transaction.execute(statement.limit(limit + 1))).all()
    shown = rows[:limit]
    more = make_cursor(shown[-1].at, str(shown[-1].id)) if len(rows) > limit else None
    return page([_document(row) for row in shown], more)


def _text(name: str, value: str) -> str:
    try:
        return printable(value, MAX_FILTER)
    except InvalidQuantity as error:
        raise invalid(f"/{name}", str(error)) from None


def _as_stored(document: Any) -> Any:
    """With the digits of its numbers."""
    return None if document is None else msgspec.Raw(dumps(document).encode())


def _document(row: Row[Any]) -> dict[str, Any]:
    key = AccountThing(row.account_id, row.id)
    return {
        "id": public_id(Kind.AUDIT, key.account_id, key.id),
        "at": format_instant(row.at),
        "actor": row.actor,
        "action": row.action,
        "target": row.target,
        "user_id": None if key.account_id == NIL_ACCOUNT else row.user_id,
        "before": _as_stored(row.before),
        "after": _as_stored(row.after),
        "reason": row.reason,
        "request_id": row.request_id,
        "address": row.address,
    }
