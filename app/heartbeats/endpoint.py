"""``POST /webhooks/gabber/{token}``: a small ASGI application in front of the others.

In order: the token is checked without a look-up; our clock must agree with the database's; the token's calls are
counted; the body is read, bounded; the arrival is stamped once, from one clock; the session in the body must be the
token's; the tick is made durable; 204. A heartbeat of a session whose provider id is known takes the fast path; the
first one binds it in an ordinary transaction. Every failure of the token is the same empty 404.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import Receive, Scope, Send

from app.core.ids import AccountThing
from app.core.lossless_json import InvalidJson, dumps, loads, with_texts
from app.core.units import InvalidQuantity
from app.db.database import DatabaseUnavailable
from app.documents import printable
from app.errors import (
    BODY_TOO_LARGE,
    BUSY,
    INTERNAL,
    INVALID_REQUEST,
    RATE_LIMITED,
    SESSION_MISMATCH,
    UNAVAILABLE,
    Problem,
    invalid,
)
from app.heartbeats.binding import Bindings, SecurityEvent, UnknownSession
from app.heartbeats.writer import QueueFull, Tick, TickWriter
from app.http.answers import internal_problem, problem_response
from app.http.front import WRONG_CLOCK
from app.http.headers import RawHeaders
from app.http.rate_limits import Meter, too_many
from app.ports.clock import Clock
from app.ports.randomness import Randomness
from app.sessions.tokens import WebhookTokens

log = structlog.get_logger(__name__)

PATH: Final = "/webhooks/gabber/"
MAX_BODY: Final = 16 * 1024
REMOVED: Final = "[removed]"
MAX_PROVIDER_ID: Final = 200
MAX_BOUND_CACHE: Final = 200_000
"""Bindings are immutable, so they may be remembered; the least recently used go first."""


PROBLEMS: Final = (SESSION_MISMATCH, BODY_TOO_LARGE, INVALID_REQUEST, RATE_LIMITED, BUSY, UNAVAILABLE, INTERNAL)
"""What a heartbeat with a valid token may be answered, besides 204."""


class HeartbeatEndpoint:
    """See the module."""

    def __init__(
        self,
        *,
        tokens: WebhookTokens,
        writer: TickWriter,
        bindings: Bindings,
        clock: Clock,
        randomness: Randomness,
        meter: Meter,
        clock_agrees: Callable[[], bool],
        headers: RawHeaders = (),
        secrets: Sequence[str] = (),
    ) -> None:
        """``meter`` counts the calls of each webhook; ``headers`` go with every answer; ``secrets`` are never kept.

        ``clock_agrees``: whether our clock may be gone by; while not, no heartbeat is taken.
        """
        self._tokens = tokens
        self._writer = writer
        self._bindings = bindings
        self._clock = clock
        self._randomness = randomness
        self._meter = meter
        self._clock_agrees = clock_agrees
        self._headers = list(headers)
        self._secrets = tuple(secrets)
        self._empty = {204: self._headers, 404: [(b"content-length", b"0"), *headers]}
        self._bound: OrderedDict[AccountThing, str] = OrderedDict()
        self._first_user: OrderedDict[str, UUID] = OrderedDict()
        """Whose session was the first one here that is bound to the provider's id."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        webhook = scope["path"].removeprefix(PATH)
        session = self._tokens.read(webhook)
        if session is None or scope["method"] != "POST":
            await self._answer_empty(send, 404)
            return
        try:
            self._admit(session)
            await self._receive(session, webhook, receive)
        except UnknownSession:
            await self._answer_empty(send, 404)
        except Problem as problem:
            await self._answer(problem, scope, receive, send)
        except (DatabaseUnavailable, SQLAlchemyError):
            await self._answer(Problem(UNAVAILABLE, "the heartbeat was not stored"), scope, receive, send)
        except QueueFull:
            await self._answer(Problem(BUSY, "too many heartbeats are waiting"), scope, receive, send)
        except Exception as error:  # noqa: BLE001 - it is logged where the answer is made
            await self._answer(internal_problem(error), scope, receive, send)
        else:
            await self._answer_empty(send, 204)

    async def _answer(self, problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
        response = problem_response(problem)
        response.raw_headers.extend(self._headers)
        await response(scope, receive, send)

    async def _answer_empty(self, send: Send, status: int) -> None:
        await send({"type": "http.response.start", "status": status, "headers": self._empty[status]})
        await send({"type": "http.response.body", "body": b""})

    def _admit(self, session: AccountThing) -> None:
        if not self._clock_agrees():
            raise Problem(UNAVAILABLE, WRONG_CLOCK)
        taken = self._meter.take(session)
        if taken is not None and taken.wait:
            raise too_many(taken, "this webhook is called far more often than heartbeats come")

    async def _receive(self, session: AccountThing, webhook: str, receive: Receive) -> None:
        body = await _body(receive)
        received_at = self._clock.now()
        provider_id, extra = _read(body)
        if extra is not None:
            extra = _without(extra, (webhook, *self._secrets))
        tick = Tick(session, received_at, int.from_bytes(self._randomness.token(8)) >> 1, extra)
        known = self._bound.get(session)
        if known is None:
            bound = await self._bindings.bind(tick, provider_id)
            if bound is not None:
                known = bound.provider_session_id
                if self._remember(session, known):
                    await self._bindings.count(session, received_at, SecurityEvent.ID_OF_ANOTHER_USER)
                if bound.stored:
                    return
        else:
            self._bound.move_to_end(session)
        if known != provider_id:
            await self._bindings.count(session, received_at, SecurityEvent.SESSION_MISMATCH)
            raise Problem(SESSION_MISMATCH, "this webhook belongs to another session")
        await self._writer.put(tick)

    def _remember(self, session: AccountThing, provider_id: str) -> bool:
        """Remember what the session is bound to; whether a session of another user is bound to it as well."""
        self._bound[session] = provider_id
        if len(self._bound) > MAX_BOUND_CACHE:
            self._bound.popitem(last=False)
        first = self._first_user.setdefault(provider_id, session.account_id)
        if len(self._first_user) > MAX_BOUND_CACHE:
            self._first_user.popitem(last=False)
        return first != session.account_id


async def _body(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise invalid("", "the connection was closed before the body was whole")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > MAX_BODY:
            raise Problem(BODY_TOO_LARGE, f"at most {MAX_BODY} bytes are taken", headers={"Connection": "close"})
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _without(extra: str, secrets: Sequence[str]) -> str:
    """Further fields without our secrets, of which a provider may echo what it was sent; all else digit for digit."""
    if not any(secret in extra for secret in secrets):
        return extra

    def removed(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, REMOVED)
        return text

    return dumps(with_texts(loads(extra), removed))


def _read(body: bytes) -> tuple[str, str | None]:
    """The provider's session id and all other fields as JSON text, digit for digit; 422 if it is no heartbeat."""
    try:
        document = loads(body.decode("utf-8"), unique_names=True, strict=True)
    except InvalidJson as error:
        raise invalid("", str(error)) from None
    except UnicodeDecodeError:
        raise invalid("", "not UTF-8") from None
    if not isinstance(document, dict):
        raise invalid("", "must be a JSON object")
    provider_id: Any = document.pop("session_id", None)
    if type(provider_id) is not str:
        raise invalid("/session_id", "must be a string")
    try:
        printable(provider_id, MAX_PROVIDER_ID)
    except InvalidQuantity as error:
        raise invalid("/session_id", str(error)) from None
    return provider_id, dumps(document) if document else None
