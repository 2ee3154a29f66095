"""The user's portal: own balance, time left, sessions and why each cost what it cost, and the statement.

A link with a signed token opens it, or a user's own token; from there on the browser keeps the token in a cookie, so
that no address holds it. The token is all there is: no session is stored, and nothing can be changed here. Pages of the
origins that the settings name may frame it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Match, Route
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from app.access.authentication import Authentication
from app.access.user_tokens import Bearer
from app.accounts.balances import is_known
from app.accounts.statements import CSV_HEADER, EntryFilter, statement_page, statement_rows
from app.core.access import Caller
from app.core.ids import Kind, account_id_of, parse_public_id
from app.core.lifecycle import State
from app.core.units import Instant, Micros, parse_instant, seconds
from app.db.database import Database, DatabaseUnavailable, Transaction
from app.errors import METHOD_NOT_ALLOWED, NOT_FOUND, UNAUTHORIZED, UNAVAILABLE, Problem
from app.http.accept import EVENT_STREAM
from app.http.access import MAX_CREDENTIALS, not_valid
from app.http.answers import internal_problem
from app.http.csv_answers import csv_response
from app.http.pages import DEFAULT_LIMIT
from app.http.rate_limits import Meter, address_of, too_many
from app.ledger.keys import LedgerKeys
from app.live.hub import Hub
from app.live.state import known_id, read_state
from app.live.stream import STREAM_HEADERS, EventStream
from app.pictures import draw
from app.ports.clock import Clock
from app.receiving import Receiving
from app.sessions.documents import session_with_steps
from app.sessions.queries import sessions_page
from app.sessions.routes import unknown_session
from app.settlement.explained import charge_document, load_explained, picture_of
from app.web.forms import read_form
from app.web.portal_words import ENGLISH
from app.web.rendering import POLICY, Renderer

log = structlog.get_logger(__name__)

PORTAL: Final = "/portal"
LIVE: Final = PORTAL + "/live"
COOKIE: Final = "talktime_portal"
SHOWN_AT_ONCE: Final = 5
_NOBODY: Final = "'none'"
_READS: Final = frozenset({"GET", "HEAD"})


class Portal:
    """See the module."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        authentication: Authentication,
        receiving: Receiving,
        ledger_keys: LedgerKeys,
        renderer: Renderer,
        live: Hub,
        failures: Meter,
        longest: Micros,
        rerate_window: Micros,
        secure: bool,
        framed_by: Sequence[str],
    ) -> None:
        """``failures``: how often an address may be wrong. ``secure``: the service is reached by https.

        ``framed_by``: origins whose pages may frame the portal.
        """
        self._database = database
        self._clock = clock
        self._authentication = authentication
        self._receiving = receiving
        self._ledger_keys = ledger_keys
        self._renderer = renderer
        self._live = live
        self._failures = failures
        self._longest = longest
        self._rerate_window = rerate_window
        self._secure = secure
        self._framed = bool(framed_by)
        self._headers = {
            "Content-Security-Policy": f"{POLICY}; frame-ancestors {' '.join(framed_by) or _NOBODY}",
            "Referrer-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "cross-origin" if framed_by else "same-origin",
        }
        self._routes = [
            Route(PORTAL, self._home),
            Route(PORTAL + "/sessions", self._sessions),
            Route(PORTAL + "/sessions/{session_id}", self._session),
            Route(PORTAL + "/statement", self._statement),
            Route(PORTAL + "/statement.csv", self._csv),
        ]

    @property
    def paths(self) -> list[str]:
        """Where its pages are."""
        return [route.path for route in self._routes]

    def refusal(self, problem: Problem) -> Response:
        """A problem in the user's words."""
        name = {401: "expired", 404: "lost", 405: "lost"}.get(problem.status, "broken")
        headers = {**self._headers, **{k: v for k, v in problem.headers.items() if k.lower() != "www-authenticate"}}
        return self._page("portal_problem.html", {"name": name}, problem.status, headers)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except Problem as problem:
            response = self.refusal(problem)
        except DatabaseUnavailable as gone:
            log.warning("request.database_unavailable", why=str(gone))
            response = self.refusal(Problem(UNAVAILABLE, "the database cannot be reached"))
        except Exception as error:  # noqa: BLE001 - whatever it is, a page has to say so
            response = self.refusal(internal_problem(error))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path: str = request.scope["path"]
        if path == PORTAL and request.method == "POST":
            return await self._enter(request, (await read_form(request)).one("token"))
        if path == PORTAL + "/leave" and request.method == "POST":
            response = self._page("portal_problem.html", {"name": "left"}, 200, self._headers)
            response.headers.append("Set-Cookie", self._cookie("", 0))
            return response
        if request.method not in _READS:
            raise Problem(METHOD_NOT_ALLOWED, "the portal changes nothing")
        token = request.query_params.get("token")
        if path == PORTAL and token is not None:
            return await self._enter(request, token)
        bearer = await self._bearer(request, request.cookies.get(COOKIE, ""))
        user_id = bearer.user_id
        if path == LIVE:
            return await self._stream(request, bearer)
        for route in self._routes:
            match, found = route.matches(request.scope)
            if match is Match.FULL:
                request.scope["path_params"] = found["path_params"]
                request.state.user_id = user_id
                answered: Response = await route.endpoint(request)
                return answered
        raise Problem(NOT_FOUND, "there is no such page")

    async def _enter(self, request: Request, token: str) -> Response:
        """Take the token out of the address and into a cookie."""
        await self._bearer(request, token)
        response = RedirectResponse(PORTAL, 303, headers=self._headers)
        response.headers.append("Set-Cookie", self._cookie(token))
        return response

    async def _bearer(self, request: Request, token: str) -> Bearer:
        address = address_of(request)
        taken = self._failures.look(address)
        if taken is not None and taken.wait:
            raise too_many(taken, "too many attempts from this address")
        try:
            if not token:
                raise not_valid("there is no token")
            if len(token) > MAX_CREDENTIALS or not token.isascii():
                raise not_valid("this is no token")
            return await self._authentication.portal_bearer(token)
        except Problem as problem:
            if problem.kind is UNAUTHORIZED and token:
                self._failures.take(address)
            raise

    async def _stream(self, request: Request, bearer: Bearer) -> Response:
        """The user's state as it changes, the same that the API tells. ``since``: the one that the page shows."""
        if request.method == "HEAD":
            return Response(headers={**self._headers, **STREAM_HEADERS}, media_type=EVENT_STREAM)
        # A browser that comes again by itself says what it was told last; what the page showed is older.
        seen = known_id(request.headers.get("last-event-id") or request.query_params.get("since"))
        caller = Caller(f"user:{bearer.user_id}", user_id=bearer.user_id, expires_at=bearer.expires_at)
        listener = await self._live.join(bearer.user_id, caller, seen)
        return EventStream(self._live, listener, self._clock, self._headers)

    def _cookie(self, token: str, lasts_s: int | None = None) -> str:
        """For the portal alone. In a frame of another site it is kept apart for that site (CHIPS)."""
        parts = [f"{COOKIE}={token}", f"Path={PORTAL}", "HttpOnly"]
        if lasts_s is not None:
            parts.append(f"Max-Age={lasts_s}")
        if self._framed and self._secure:
            parts += ["SameSite=None", "Secure", "Partitioned"]
        else:
            parts += ["SameSite=Lax", *(["Secure"] if self._secure else [])]
        return "; ".join(parts)

    def _page(
        self, template: str, values: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
    ) -> HTMLResponse:
        common = {"t": ENGLISH, "now": self._clock.now(), "inside": "user_id" in values, "live": None}
        return self._renderer.page(template, {**common, **values}, status, headers or self._headers)

    async def _home(self, request: Request) -> Response:
        user_id, now = request.state.user_id, self._clock.now()
        async with self._database.reading() as transaction:
            known = await is_known(transaction, account_id_of(user_id))
            if not known:
                return self._page("portal_new.html", {"user_id": user_id})
            state = await read_state(transaction, user_id, now, self._longest, self._ledger_keys)
            sessions = await _own_sessions(transaction, user_id, now, SHOWN_AT_ONCE, None)
            wanted = EntryFilter()
            entries = await statement_page(transaction, user_id, wanted, limit=SHOWN_AT_ONCE, cursor=None)
        values = {"user_id": user_id, "live": state.id, "balance": state.document}
        values |= {"sessions": sessions, "entries": entries}
        return self._page("portal_home.html", values)

    async def _sessions(self, request: Request) -> Response:
        user_id, now = request.state.user_id, self._clock.now()
        cursor = request.query_params.get("cursor") or None
        async with self._database.reading() as transaction:
            found = await _own_sessions(transaction, user_id, now, DEFAULT_LIMIT, cursor)
            # What is on a further page is past, and who has no session has no account, maybe.
            live = None if cursor or not found["data"] else await self._live_id(transaction, user_id, now)
        values = {"user_id": user_id, "live": live, "sessions": found, "first": cursor is None}
        return self._page("portal_sessions.html", values)

    async def _session(self, request: Request) -> Response:
        key = parse_public_id(Kind.SESSION, request.path_params["session_id"])
        if key is None or key.account_id != account_id_of(request.state.user_id):
            raise unknown_session()
        now = self._clock.now()
        async with self._database.reading() as transaction:
            explained = await load_explained(transaction, key, self._receiving.outages)
            charge = await charge_document(transaction, explained, now=now, rerate_window=self._rerate_window)
            session = await session_with_steps(transaction, explained.session)
            user_id: str = request.state.user_id
            live = await self._live_id(transaction, user_id, now)
        # What we drew ourselves is escaped already.
        svg = Markup(draw(picture_of(explained), in_page=True))  # noqa: S704
        values = {"user_id": user_id, "live": live, "session": session, "charge": charge, "picture": svg}
        return self._page("portal_session.html", values)

    async def _live_id(self, transaction: Transaction, user_id: str, now: Instant) -> str:
        """Which of the user's states a page shows that is made in this transaction."""
        return (await read_state(transaction, user_id, now, self._longest, self._ledger_keys)).id

    async def _statement(self, request: Request) -> Response:
        user_id, cursor = request.state.user_id, request.query_params.get("cursor") or None
        async with self._database.reading() as transaction:
            found = await statement_page(transaction, user_id, EntryFilter(), limit=DEFAULT_LIMIT, cursor=cursor)
        return self._page("portal_statement.html", {"user_id": user_id, "entries": found, "first": cursor is None})

    async def _csv(self, request: Request) -> Response:
        user_id = request.state.user_id
        return await csv_response("statement", CSV_HEADER, statement_rows(self._database, user_id, EntryFilter()))


async def _own_sessions(
    transaction: Transaction, user_id: str, now: Instant, limit: int, cursor: str | None
) -> dict[str, Any]:
    """A page of the user's sessions, each with ``left_s``: how long it can still last, in whole seconds, if it runs."""
    found = await sessions_page(
        transaction,
        limit=limit,
        cursor=cursor,
        user_id=user_id,
        state=None,
        started_after=None,
        started_before=None,
    )
    return {**found, "data": [{**session, "left_s": _left(session, now)} for session in found["data"]]}


def _left(session: Mapping[str, Any], now: Instant) -> int | None:
    if session["state"] != State.LIVE.value or session["started_at"] is None:
        return None
    gone = seconds(Micros(max(0, now - parse_instant(session["started_at"]))))
    return max(0, int(session["time_limit_s"] - gone))
