"""What stands before the framework: heartbeats pass by it, and an address reaches it as the client wrote it."""

import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Final, Protocol
from urllib.parse import quote, unquote_to_bytes

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ADDRESS_TOO_LONG, INVALID_REQUEST, UNAVAILABLE, FieldError, Problem
from app.http.answers import problem_response
from app.http.headers import CrossOrigin, RawHeaders, WithHeaders
from app.http.proxies import BehindProxies

MAX_ADDRESS: Final = 8 * 1024
"""Bytes of path and query, with the question mark between them."""

READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
WRONG_CLOCK: Final = "our clock and the database's disagree; nothing was stored, try again"

_BROKEN_ENCODING: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Pages(Protocol):
    """Pages for people, whose errors are pages as well."""

    def serves(self, path: str) -> bool:
        """Whether an address is one of theirs."""
        ...

    def refusal(self, path: str, problem: Problem) -> ASGIApp:
        """A problem as a page, for a request to ``path``."""
        ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Front:
    """Heartbeats, under ``heartbeat_path``, pass by the framework, pages too; all but heartbeats gets ``headers``."""

    def __init__(
        self,
        *,
        heartbeats: ASGIApp,
        heartbeat_path: str,
        api: ASGIApp,
        pages: Pages,
        proxies: Sequence[IPv4Network | IPv6Network],
        clock_agrees: Callable[[], bool],
        origins: Sequence[str],
        headers: RawHeaders,
    ) -> None:
        """``clock_agrees``: whether our clock may be gone by; while not, only what reads is let through.

        ``origins``: those whose pages may call the API. ``proxies``: see :class:`~app.http.proxies.BehindProxies`.
        """
        self._heartbeats = heartbeats
        self._heartbeat_path = heartbeat_path
        self._api = api
        self._pages = pages
        self._clock_agrees = clock_agrees
        called = BehindProxies(self._call_api, proxies)
        inner: ASGIApp = CrossOrigin(called, origins) if origins else called
        self._with_headers = WithHeaders(inner, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(self._heartbeat_path):
            await self._heartbeats(scope, receive, send)
        else:
            await self._with_headers(scope, receive, send)

    async def _call_api(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._api(scope, receive, send)
            return
        is_page = self._pages.serves(scope["path"])
        problem = self._problem(scope)
        if problem is not None:
            refused = self._pages.refusal(scope["path"], problem) if is_page else problem_response(problem)
            await refused(scope, receive, send)
        elif is_page:
            await self._pages(_segmented(scope), receive, send)
        else:
            await self._answered(_segmented(scope), receive, send)

    def _problem(self, scope: Scope) -> Problem | None:
        """Why a request goes no further; null if it does."""
        if len(scope.get("raw_path", b"")) + len(scope.get("query_string", b"")) > MAX_ADDRESS:
            return address_too_long()
        if scope["method"] not in READS and not self._clock_agrees():
            return Problem(UNAVAILABLE, WRONG_CLOCK)
        fault = _address_fault(scope)
        return None if fault is None else Problem(INVALID_REQUEST, fault.detail, errors=[fault])

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What broke and was answered as a problem all the same is raised once more by the framework.

        It is logged by then; the server would log it again, and cut a connection on which the next request may be.
        """
        whole = False

        async def sending(message: Message) -> None:
            nonlocal whole
            await send(message)
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._api(scope, receive, sending)
        except Exception:
            if not whole:
                raise


def address_too_long() -> Problem:
    return Problem(ADDRESS_TOO_LONG, f"at most {MAX_ADDRESS} bytes are taken", headers={"Connection": "close"})


def _segmented(scope: Scope) -> Scope:
    """The request with its path still percent-encoded, so that a user's id with a slash in it stays one segment."""
    raw_path: bytes | None = scope.get("raw_path")
    if raw_path is None or b"%" not in raw_path:
        return scope
    return {**scope, "path": "/".join(quote(unquote_to_bytes(part), safe="") for part in raw_path.split(b"/"))}


def _address_fault(scope: Scope) -> FieldError | None:
    """Why an address is not to be taken as the server decoded it: many user ids would become one; null if it may be."""
    for part, raw in (("path", scope.get("raw_path", b"")), ("query", scope.get("query_string", b""))):
        if _BROKEN_ENCODING.search(raw):
            return FieldError(f"/{part}", f"a % in the {part} is not followed by two hexadecimal digits")
        try:
            decoded = unquote_to_bytes(raw).decode("utf-8")
        except UnicodeDecodeError:
            return FieldError(f"/{part}", f"the {part} is not UTF-8, percent-encoded")
        if part == "path" and _CONTROL.search(decoded):
            return FieldError("/path", "the path holds a control character")
    return None
