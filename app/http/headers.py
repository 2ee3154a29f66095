"""Headers of every answer: what browsers may do with it, and which pages of other origins may read it (CORS).

Pure ASGI: an answer's list of headers gets a part that was made once, when the service was built. A header that the
answer has already stays as it is, as the policy of a page does.
"""

from collections.abc import Sequence
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

RawHeaders = Sequence[tuple[bytes, bytes]]

_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_TLS_ONLY: Final = (b"strict-transport-security", b"max-age=31536000")

ALLOWED_METHODS: Final = "GET, POST, PATCH, DELETE"
ALLOWED_REQUEST_HEADERS: Final = "Accept, Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
EXPOSED_HEADERS: Final = (
    "Idempotency-Replayed, RateLimit, RateLimit-Policy, Retry-After, X-Request-Id, X-Session-Id, Content-Disposition"
)
PREFLIGHT_KEPT_S: Final = 600
_VARY_ORIGIN: Final = (b"vary", b"Origin")


ANSWER_HEADERS: Final = "answer_headers"
"""In the state of a request: headers for its answer, whatever answer that will be."""


def headers_of(public_url: str) -> RawHeaders:
    """What goes with every answer of a service that is reached at ``public_url``."""
    return (*_HEADERS, _TLS_ONLY) if public_url.startswith("https://") else _HEADERS


class WithHeaders:
    """An ASGI application whose answers have ``headers``, unless they have one of that name already."""

    def __init__(self, app: ASGIApp, headers: RawHeaders) -> None:
        self._app = app
        self._headers = list(headers)
        self._names = frozenset(name for name, _ in headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        state = scope.setdefault("state", {})

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*self._joined(message.get("headers", ())), *state.get(ANSWER_HEADERS, ())]
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _joined(self, own: RawHeaders) -> list[tuple[bytes, bytes]]:
        named = {name.lower() for name, _ in own} & self._names
        if not named:
            return [*own, *self._headers]
        return [*own, *(header for header in self._headers if header[0] not in named)]


class CrossOrigin:
    """CORS (the Fetch standard) for pages of exactly these ``origins``, and never with credentials.

    A preflight is answered here, for any address: it says nothing of what is there, and carries no key. Other origins
    get the answers that everybody gets, which their browser keeps from them.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._answered = {
            origin.encode(): [
                (b"access-control-allow-origin", origin.encode()),
                (b"access-control-expose-headers", EXPOSED_HEADERS.encode()),
                _VARY_ORIGIN,
            ]
            for origin in origins
        }
        self._preflight = [
            (b"access-control-allow-methods", ALLOWED_METHODS.encode()),
            (b"access-control-allow-headers", ALLOWED_REQUEST_HEADERS.encode()),
            (b"access-control-max-age", str(PREFLIGHT_KEPT_S).encode()),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        origin: bytes | None = None
        asks = False
        for name, value in scope["headers"]:
            if name == b"origin":
                origin = value
            elif name == b"access-control-request-method":
                asks = True
        allowed = None if origin is None else self._answered.get(origin)
        if allowed is not None and asks and scope["method"] == "OPTIONS":
            headers = [allowed[0], *self._preflight, _VARY_ORIGIN]
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        added = [_VARY_ORIGIN] if allowed is None else allowed

        async def send_allowed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        await self._app(scope, receive, send_allowed)
