"""What stands before the framework: heartbeats pass by it, and an address reaches it as the client wrote it."""

import re
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ADDRESS_TOO_LONG, INVALID_REQUEST, UNAVAILABLE, FieldError, Problem
from app.http.answers import problem_response
from app.http.headers import CrossOrigin, RawHeaders, WithHeaders

MAX_ADDRESS: Final = 8 * 1024
"""Bytes of path and query, with the question mark between them."""

READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
WRONG_CLOCK: Final = "our clock and the database's disagree; nothing was stored, try again"

_BROKEN_ENCODING: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Front:
    """Heartbeats, under ``heartbeat_path``, pass by the framework; all else goes through it, and gets ``headers``."""

    def __init__(
        self,
        *,
        heartbeats: ASGIApp,
        heartbeat_path: str,
        api: ASGIApp,
        clock_agrees: Callable[[], bool],
        origins: Sequence[str],
        headers: RawHeaders,
    ) -> None:
        """``clock_agrees``: whether our clock may be gone by; while not, only what reads is let through.

        ``origins``: those whose pages may call the API.
        """
        self._heartbeats = heartbeats
        self._heartbeat_path = heartbeat_path
        self._api = api
        self._clock_agrees = clock_agrees
        inner: ASGIApp = CrossOrigin(self._call_api, origins) if origins else self._call_api
        self._with_headers = WithHeaders(inner, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(self._heartbeat_path):
            await self._heartbeats(scope, receive, send)
        else:
            await self._with_headers(scope, receive, send)

    async def _call_api(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._api(scope, receive, send)
        elif len(scope.get("raw_path", b"")) + len(scope.get("query_string", b"")) > MAX_ADDRESS:
            await problem_response(address_too_long())(scope, receive, send)
        elif scope["method"] not in READS and not self._clock_agrees():
            await problem_response(Problem(UNAVAILABLE, WRONG_CLOCK))(scope, receive, send)
        elif (fault := _address_fault(scope)) is not None:
            await problem_response(Problem(INVALID_REQUEST, fault.detail, errors=[fault]))(scope, receive, send)
        else:
            await self._answered(_segmented(scope), receive, send)

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
