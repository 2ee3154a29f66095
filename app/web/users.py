"""Users: the list, a user's page, the statement, the grants, and the curve of a balance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from starlette.responses import JSONResponse, RedirectResponse, Response

from app.accounts.balances import balance_document
from app.accounts.curve import Point, balance_curve
from app.accounts.grants import grants_page, unspent_grants
from app.accounts.limits import find_user
from app.accounts.recurring import MAX_RECURRING, recurring_page
from app.accounts.statements import CSV_HEADER, EntryFilter, entry_filter, statement_page, statement_rows
from app.accounts.users import UserSort, user_sort, users_page
from app.core.entries import EntryKind
from app.core.ids import Kind, account_id_of, parse_public_id
from app.core.units import US_PER_DAY, US_PER_S, Instant, Micros, format_credits, format_instant
from app.db.database import Database, Transaction
from app.db.tables import accounts
from app.errors import Problem
from app.http.bodies import checked_user_id, instant_parameter
from app.http.csv_answers import csv_response
from app.http.pages import DEFAULT_LIMIT
from app.ledger.book import LedgerPorts
from app.sessions.queries import session_of_provider, sessions_page
from app.web.forms import as_moment
from app.web.site import ADMIN, Page, Visit

USERS: Final = ADMIN + "/users"
USER: Final = USERS + "/{user_id}"
SHOWN_AT_ONCE: Final = 8
"""Entries and sessions on a user's page; the rest is a click away."""

BARS: Final = 12
PERIODS: Final[Mapping[str, int | None]] = {"7 days": 7, "30 days": 30, "1 year": 365, "all": None}
DEFAULT_PERIOD: Final = "30 days"
ORDERS: Final = (
    (UserSort.USER_ID, "by name"),
    (UserSort.AVAILABLE, "low first"),
    (UserSort.AVAILABLE_DOWN, "high first"),
)


def user_address(user_id: str, *more: str) -> str:
    """The address of a user's page, or of one behind it."""
    return "/".join((USERS, quote(user_id, safe=""), *more))


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPages:
    """``longest``: the longest session, which bounds the talk time that is told."""

    database: Database
    ledger: LedgerPorts
    longest: Micros

    def pages(self) -> list[Page]:
        return [
            Page(USERS, self._list),
            Page(USER, self._user),
            Page(USER + "/curve.json", self._curve),
            Page(USER + "/statement", self._statement),
            Page(USER + "/statement.csv", self._csv),
            Page(USER + "/grants", self._grants),
            Page(ADMIN + "/find", self._find),
        ]

    async def _list(self, visit: Visit) -> Response:
        q, cursor = visit.asked("q"), visit.asked("cursor") or None
        sort = user_sort(visit.asked("sort") or None)
        async with self.database.reading() as transaction:
            found = await users_page(transaction, limit=DEFAULT_LIMIT, cursor=cursor, sort=sort, begins=q or None)
        values: dict[str, Any] = {"q": q, "sort": sort.value, "orders": ORDERS, "found": found, "first": cursor is None}
        if visit.request.headers.get("hx-target") == "list":
            return visit.page("users_list.html", **values)
        return visit.page("users.html", nav="users", **values)

    async def _user(self, visit: Visit) -> Response:
        user_id = checked_user_id(visit.part("user_id"))
        since, period = _since(visit)
        async with self.database.reading() as transaction:
            user = await find_user(transaction, user_id)
            balance = await balance_document(transaction, user_id, visit.now, self.longest, self.ledger.keys)
            unspent, more = await unspent_grants(transaction, user_id, BARS)
            statement = await statement_page(transaction, user_id, EntryFilter(), limit=SHOWN_AT_ONCE, cursor=None)
            recurring = await recurring_page(transaction, user_id, limit=MAX_RECURRING, cursor=None)
            sessions = await sessions_page(
                transaction,
                limit=SHOWN_AT_ONCE,
                cursor=None,
                user_id=user_id,
                state=None,
                started_after=None,
                started_before=None,
            )
            curve = await _curve(transaction, user_id, since, visit.now)
        return visit.page(
            "user.html",
            nav="users",
            user=user,
            balance=balance,
            unspent=unspent,
            more_grants=more,
            entries=statement,
            recurring=[] if recurring is None else recurring["data"],
            sessions=sessions,
            curve=_told(curve),
            period=period,
            periods=tuple(PERIODS),
        )

    async def _curve(self, visit: Visit) -> Response:
        """What the curve is drawn of: seconds since 1970, and credits."""
        user_id = checked_user_id(visit.part("user_id"))
        since, _ = _since(visit)
        async with self.database.reading() as transaction:
            await find_user(transaction, user_id)
            curve = await _curve(transaction, user_id, since, visit.now)
        # For the eye alone, which sees no more digits than a script's numbers have.
        points = [[point.at / US_PER_S for point in curve], [point.balance / 1_000_000 for point in curve]]
        return JSONResponse(points)

    async def _statement(self, visit: Visit) -> Response:
        user_id = checked_user_id(visit.part("user_id"))
        problem: Problem | None = None
        entries: dict[str, Any] = {"data": [], "next_cursor": None}
        cursor = visit.asked("cursor") or None
        async with self.database.reading() as transaction:
            await find_user(transaction, user_id)
            try:
                wanted = _wanted(visit)
                entries = await statement_page(transaction, user_id, wanted, limit=DEFAULT_LIMIT, cursor=cursor)
            except Problem as refused:
                problem = refused
        asked = {name: visit.asked(name) for name in ("kind", "after", "before", "session_id", "grant_id")}
        return visit.page(
            "statement.html",
            200 if problem is None else problem.status,
            nav="users",
            user_id=user_id,
            entries=entries,
            asked=asked,
            given={name: value for name, value in asked.items() if value},
            kinds=[kind.value for kind in EntryKind],
            problem=problem,
            first=cursor is None,
        )

    async def _csv(self, visit: Visit) -> Response:
        user_id = checked_user_id(visit.part("user_id"))
        rows = statement_rows(self.database, user_id, _wanted(visit))
        return await csv_response(f"statement-{user_id}", CSV_HEADER, rows)

    async def _grants(self, visit: Visit) -> Response:
        user_id = checked_user_id(visit.part("user_id"))
        cursor = visit.asked("cursor") or None
        async with self.database.reading() as transaction:
            await find_user(transaction, user_id)
            found = await grants_page(transaction, user_id, limit=DEFAULT_LIMIT, cursor=cursor)
        return visit.page("grants.html", nav="users", user_id=user_id, found=found, first=cursor is None)

    async def _find(self, visit: Visit) -> Response:
        """Whatever somebody reads out: a user, a session, ours or the provider's id of it, a grant, an entry."""
        q = visit.asked("q")
        async with self.database.reading() as transaction:
            address = await _address_of(transaction, q)
        return RedirectResponse(address or f"{USERS}?q={quote(q, safe='')}", 303)


async def _address_of(transaction: Transaction, text: str) -> str | None:
    if parse_public_id(Kind.SESSION, text) is not None:
        return f"{ADMIN}/sessions/{text}"
    for kind, where in ((Kind.GRANT, "grants"), (Kind.ENTRY, "statement")):
        thing = parse_public_id(kind, text)
        if thing is not None:
            find = accounts.select().where(accounts.c.account_id == thing.account_id)
            row = (await transaction.execute(find)).one_or_none()
            return None if row is None else f"{user_address(row.user_id, where)}#{text}"
    found = await session_of_provider(transaction, text) if text else None
    if found is not None:
        return f"{ADMIN}/sessions/{found}"
    exact = accounts.select().where(accounts.c.account_id == account_id_of(text))
    row = (await transaction.execute(exact)).one_or_none()
    return None if row is None else user_address(row.user_id)


def _wanted(visit: Visit) -> EntryFilter:
    """The filter of a statement from its form; 422 if a field is not as it must be."""
    return entry_filter(
        kind=visit.asked("kind") or None,
        session_id=visit.asked("session_id") or None,
        grant_id=visit.asked("grant_id") or None,
        after=instant_parameter("after", as_moment(visit.asked("after"))),
        before=instant_parameter("before", as_moment(visit.asked("before"))),
    )


def _since(visit: Visit) -> tuple[Instant | None, str]:
    """From when on the curve is drawn (null: from the account's beginning), and how that is called."""
    period = visit.asked("period")
    period = period if period in PERIODS else DEFAULT_PERIOD
    days = PERIODS[period]
    return None if days is None else Instant(visit.now - days * US_PER_DAY), period


async def _curve(transaction: Transaction, user_id: str, since: Instant | None, now: Instant) -> list[Point]:
    account_id = account_id_of(user_id)
    created = (await transaction.execute(accounts.select().where(accounts.c.account_id == account_id))).one().created_at
    return await balance_curve(transaction, account_id, max(created, since or created), now)


def _told(curve: Sequence[Point]) -> dict[str, Any]:
    """The curve in words, and as a path for those who run no scripts."""
    low, high = min(curve, key=lambda point: point.balance), max(curve, key=lambda point: point.balance)
    return {
        "first": _point(curve[0]),
        "last": _point(curve[-1]),
        "low": _point(low),
        "high": _point(high),
        "path": _path(curve),
    }


def _point(point: Point) -> dict[str, str]:
    return {"at": format_instant(point.at), "balance": format_credits(point.balance)}


WIDTH: Final = 1000
HEIGHT: Final = 160


def _path(curve: Sequence[Point]) -> str:
    """Steps from point to point, in a field of :data:`WIDTH` by :data:`HEIGHT` whose foot is 0 or the lowest debt."""
    start, span = curve[0].at, max(1, curve[-1].at - curve[0].at)
    lowest = min(0, *(point.balance for point in curve))
    height = max(1, max(point.balance for point in curve) - lowest)
    steps: list[str] = []
    for point in curve:
        x = (point.at - start) * WIDTH // span
        y = HEIGHT - (point.balance - lowest) * HEIGHT // height
        steps.append(f"H{x}V{y}" if steps else f"M{x} {y}")
    return "".join(steps)
