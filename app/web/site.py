"""The pages as an ASGI application: who visits, whether a page may be seen or a form sent, and errors as pages.

A form is taken only from a page of ours: it carries a token made of the visitor's session (OWASP's synchronizer token),
and where the browser says from which site it comes (Fetch Metadata, or else the header Origin) it must be this one.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match, Route, compile_path
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from app.access.sign_ins import SignedIn, SignIns
from app.core.access import Actor, Scope
from app.core.units import Instant
from app.db.database import DatabaseUnavailable
from app.errors import FORBIDDEN, METHOD_NOT_ALLOWED, NOT_FOUND, UNAVAILABLE, Problem
from app.http.answers import internal_problem
from app.logs import current_request
from app.ports.clock import Clock
from app.web.assets import PREFIX, Assets
from app.web.forms import Form, read_form
from app.web.rendering import HEADERS, Renderer

log = structlog.get_logger(__name__)

ADMIN: Final = "/admin"
SIGN_IN: Final = "/admin/sign-in"
COOKIE: Final = "talktime_admin"
SECURE_COOKIE: Final = "__Host-talktime_admin"
"""By https. The prefix binds it to this host, so that no neighbouring site can set it."""

CSRF: Final = "csrf"
_ANY_SITE: Final = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Visit:
    """One request for a page. ``who``: null on pages that anybody may see. ``token``: of the visitor's session."""

    request: Request
    site: "Site"
    now: Instant
    who: SignedIn | None = None
    token: str = ""

    @property
    def actor(self) -> Actor:
        """The visitor as the audit log keeps him."""
        client = self.request.client
        name = "visitor" if self.who is None else self.who.name
        return Actor(name, current_request.get(), None if client is None else client.host)

    @property
    def csrf(self) -> str:
        """What a form of this visitor's carries. Whoever cannot read his session's cookie cannot make it."""
        return hashlib.sha256(b"talktime/csrf\x00" + self.token.encode()).hexdigest() if self.token else ""

    def may(self, scope: Scope) -> bool:
        return self.who is not None and self.who.caller.has(scope)

    def asked(self, name: str, default: str = "") -> str:
        """A parameter of the address, without the blanks around it."""
        return self.request.query_params.get(name, default).strip()

    def part(self, name: str) -> str:
        """A part of the address."""
        return unquote(self.request.path_params[name])

    async def form(self) -> Form:
        """The form that was sent. Raises a :class:`~app.errors.Problem`, 403, if it is not from a page of ours."""
        form = await read_form(self.request)
        if not self.token or not hmac.compare_digest(form.one(CSRF).encode(), self.csrf.encode()):
            raise Problem(FORBIDDEN, "this form is of an earlier sign-in: nothing was changed; load the page anew")
        return form

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        return self.site.renderer.page(template, {**self._common, **values}, status)

    def part_of_page(self, template: str, **values: Any) -> Response:
        """A piece of a page that is there already."""
        return self.page(template, **values)

    @property
    def _common(self) -> Mapping[str, Any]:
        return {
            "visit": self,
            "now": self.now,
            "csrf": self.csrf,
            "who": self.who,
            "scopes": Scope,
            "done": self.asked("done"),
            "nav": "",
        }


Handler = Callable[[Visit], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Page:
    """A page, or what a form of it is sent to.

    ``scope``: what a visitor must be allowed; null: anybody may see it, signed in or not.
    """

    path: str
    handler: Handler
    method: str = "GET"
    scope: Scope | None = Scope.READ
    route: Route = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.method != "GET" and self.scope is Scope.READ:
            raise TypeError(f"{self.path} changes something and asks for no more than reading")
        compile_path(self.path)
        object.__setattr__(self, "route", Route(self.path, self.handler, methods=[self.method]))


class Site:
    """See the module."""

    def __init__(self, *, sign_ins: SignIns, clock: Clock, renderer: Renderer, assets: Assets, secure: bool) -> None:
        """``secure``: the service is reached by https, so the session's cookie is for https alone."""
        self.renderer = renderer
        self._sign_ins = sign_ins
        self._clock = clock
        self._assets = assets
        self._secure = secure
        self._pages: list[Page] = []

    def add(self, pages: Sequence[Page]) -> None:
        self._pages.extend(pages)

    @property
    def pages(self) -> Sequence[Page]:
        return tuple(self._pages)

    @property
    def cookie(self) -> str:
        return SECURE_COOKIE if self._secure else COOKIE

    def refusal(self, problem: Problem) -> Response:
        """A problem as a page."""
        values = {"problem": problem, "request_id": current_request.get(), "who": None, "done": ""}
        headers = {**HEADERS, **problem.headers}
        return self.renderer.page("problem.html", values, problem.status, headers)

    def sign_in(self, response: Response, token: str) -> None:
        """Give the visitor's browser the token of his session."""
        response.set_cookie(
            self.cookie, token, path="/" if self._secure else ADMIN, secure=self._secure, httponly=True, samesite="lax"
        )

    def sign_out(self, response: Response) -> None:
        response.delete_cookie(
            self.cookie, path="/" if self._secure else ADMIN, secure=self._secure, httponly=True, samesite="lax"
        )

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except Problem as problem:
            response = self.refusal(problem)
        except DatabaseUnavailable as gone:
            log.warning("request.database_unavailable", why=str(gone))
            detail = "the database cannot be reached; nothing may have been changed"
            response = self.refusal(Problem(UNAVAILABLE, detail))
        except Exception as error:  # noqa: BLE001 - whatever it is, a page has to say so
            response = self.refusal(internal_problem(error))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path: str = request.scope["path"]
        if path.startswith(PREFIX):
            found = self._assets.answer(path) if request.method in _ANY_SITE else None
            if found is None:
                raise Problem(NOT_FOUND, "there is no such file in this version")
            return found
        if request.method not in _ANY_SITE and not _is_from_here(request):
            raise Problem(FORBIDDEN, "this form was sent from another site: nothing was changed")
        page = self._page(request)
        if page is not None and page.scope is None:
            return await page.handler(Visit(request, self, self._clock.now(), token=self._token(request)))
        visit = await self._visit(request)
        if visit is None:
            return _to_sign_in(request)
        if page is None:
            raise Problem(NOT_FOUND, "there is no such page")
        if page.scope is not None and not visit.may(page.scope):
            raise Problem(FORBIDDEN, "you may look, and change nothing: ask an admin with the role full")
        return await page.handler(visit)

    def _page(self, request: Request) -> Page | None:
        method = "GET" if request.method == "HEAD" else request.method
        elsewhere = False
        for page in self._pages:
            match, found = page.route.matches({**request.scope, "method": page.method})
            if match is not Match.FULL:
                continue
            if page.method == method:
                request.scope["path_params"] = found["path_params"]
                return page
            elsewhere = True
        if elsewhere:
            raise Problem(METHOD_NOT_ALLOWED, "this page is not asked in this way")
        return None

    def _token(self, request: Request) -> str:
        return request.cookies.get(self.cookie, "")

    async def _visit(self, request: Request) -> Visit | None:
        token = self._token(request)
        who = await self._sign_ins.find(token)
        return None if who is None else Visit(request, self, self._clock.now(), who, token)


def _is_from_here(request: Request) -> bool:
    told = request.headers.get("sec-fetch-site")
    if told is not None:
        return told in {"same-origin", "none"}
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def _to_sign_in(request: Request) -> Response:
    """Sign in, then go on where it was asked for; to the page of a form, since what was sent to it is gone."""
    path = request.scope["path"]
    query = request.scope.get("query_string", b"").decode("latin-1")
    if request.method not in _ANY_SITE:
        path, query = urlsplit(request.headers.get("referer", "")).path, ""
    back = local_path(f"{path}?{query}" if query else path)
    address = f"{SIGN_IN}?next={quote(back, safe='')}" if back != ADMIN else SIGN_IN
    if request.method not in _ANY_SITE:
        address += ("&" if "?" in address else "?") + "expired=1"
    if request.headers.get("hx-request") == "true":
        return Response(status_code=204, headers={"HX-Redirect": address})
    return RedirectResponse(address, 303)


def local_path(text: str) -> str:
    """``text`` if it is an address of the admin's pages, else where those begin: no sign-in leads elsewhere."""
    plain = text.isascii() and text.isprintable() and "\\" not in text
    path = text.partition("?")[0]
    inside = path == ADMIN or (path.startswith(ADMIN + "/") and "//" not in path and ".." not in path)
    return text if plain and inside and not path.startswith(SIGN_IN) else ADMIN
