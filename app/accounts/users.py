"""The list of users with their balances: a keyset page of an index, however many users there are."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Row, func, select

from app.core.units import InvalidQuantity, MicroCredits, format_credits, format_instant, parse_credits
from app.db.database import Transaction
from app.db.keyset import beyond
from app.db.tables import AVAILABLE, LOWER_USER_ID, accounts
from app.documents import printable
from app.errors import invalid
from app.http.pages import cursor_uuid, make_cursor, page, read_cursor


class UserSort(StrEnum):
    """In which order; a minus means the last ones first."""

    USER_ID = "user_id"
    USER_ID_DOWN = "-user_id"
    AVAILABLE = "available"
    AVAILABLE_DOWN = "-available"

    @property
    def down(self) -> bool:
        return self.startswith("-")


_BY: Final[dict[str, ColumnElement[Any]]] = {"user_id": LOWER_USER_ID, "available": AVAILABLE}
_COLUMNS: Final[tuple[Any, ...]] = (
    accounts.c.account_id,
    accounts.c.user_id,
    accounts.c.balance,
    accounts.c.held,
    accounts.c.credit_limit,
    accounts.c.suspended,
    accounts.c.alert_level,
    accounts.c.created_at,
    AVAILABLE.label("available"),
)


def user_sort(text: str | None) -> UserSort:
    """A client's word for an order; 422 for none of ours."""
    if text is None:
        return UserSort.USER_ID
    if text not in set(UserSort):
        raise invalid("/sort", "must be one of " + ", ".join(UserSort))
    return UserSort(text)


def amount_parameter(name: str, text: str | None) -> MicroCredits | None:
    """An amount in a query, which may be negative; 422 if it is none."""
    try:
        return None if text is None else parse_credits(text)
    except InvalidQuantity as error:
        raise invalid(f"/{name}", str(error)) from None


async def users_page(
    transaction: Transaction,
    *,
    limit: int,
    cursor: str | None,
    sort: UserSort = UserSort.USER_ID,
    begins: str | None = None,
    least: MicroCredits | None = None,
    most: MicroCredits | None = None,
) -> dict[str, Any]:
    """A page of users whose id ``begins`` so, whatever its case, and who can spend from ``least`` to ``most``.

    Amounts are those of the last posting: what has come due since is not in them, for a second or so.
    Raises a :class:`~app.errors.Problem`, 422.
    """
    by = _BY[sort.removeprefix("-")]
    statement = select(*_COLUMNS)
    if begins is not None:
        statement = statement.where(_begins(begins))
    if least is not None:
        statement = statement.where(least <= AVAILABLE)
    if most is not None:
        statement = statement.where(most >= AVAILABLE)
    last = await _place(transaction, cursor, by)
    if last is not None:
        statement = statement.where(beyond((by, accounts.c.account_id), last, down=sort.down))
    order = (by.desc(), accounts.c.account_id.desc()) if sort.down else (by, accounts.c.account_id)
    rows: Sequence[Row[Any]] = (await transaction.execute(statement.order_by(*order).limit(limit + 1))).all()
    shown = rows[:limit]
    more = None
    if len(rows) > limit:
        last_row = shown[-1]
        more = make_cursor(*((last_row.available,) if by is AVAILABLE else ()), str(last_row.account_id))
    documents = [_document(row) for row in shown]
    return page(documents, more)


async def _place(transaction: Transaction, cursor: str | None, by: ColumnElement[Any]) -> tuple[Any, UUID] | None:
    """Where the last page ended.

    What a user can spend changes, so a cursor holds what it was. A user's id does not, and may be too long for one: it
    is looked up.
    """
    if by is AVAILABLE:
        position = read_cursor(cursor, int, str)
        return None if position is None else (position[0], cursor_uuid(position[1]))
    position = read_cursor(cursor, str)
    if position is None:
        return None
    account_id = cursor_uuid(position[0])
    last = (await transaction.execute(select(by).where(accounts.c.account_id == account_id))).scalar_one_or_none()
    if last is None:
        raise invalid("/cursor", "is not a cursor of this list")
    return last, account_id


def _begins(text: str) -> ColumnElement[bool]:
    try:
        start = func.lower(printable(text))
    except InvalidQuantity as error:
        raise invalid("/q", str(error)) from None
    # A range of the index: from the text itself to before the first one that begins otherwise.
    last = start.concat("\U0010ffff")
    return (start.collate("C") <= LOWER_USER_ID) & (last.collate("C") > LOWER_USER_ID)


def _document(row: Row[Any]) -> dict[str, Any]:
    return {
        "user_id": row.user_id,
        "balance": format_credits(row.balance),
        "held": format_credits(row.held),
        "available": format_credits(MicroCredits(row.available)),
        "credit_limit": format_credits(row.credit_limit),
        "suspended": row.suspended,
        "alert_level": row.alert_level,
        "created_at": format_instant(row.created_at),
    }
