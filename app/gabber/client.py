"""The first generation of Gabber's session API: start a session, pull its timeline, end it where that can be done.

Every outcome that the provider or the network can bring about is a value of :mod:`app.gabber.outcomes`; an exception
from here is a mistake in the caller or in this code.
"""

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote, urlsplit

import httpx

from app.core.budget import NotNow, Permit, Purpose
from app.core.lossless_json import InvalidJson, loads
from app.core.units import US_PER_S, Instant, Micros
from app.gabber.bodies import MAX_KEPT_OF_FAILED, Recording, of_a_failure
from app.gabber.outcomes import (
    Capabilities,
    Ended,
    EndUnconfirmed,
    NotEnded,
    PulledTimeline,
    PullFailed,
    PullFailure,
    Refused,
    Started,
    StartRequest,
    Unconfirmed,
)
from app.gabber.pages import MAX_PAGES, MAX_VALUES, Page, next_url, unwrap
from app.gabber.wire import BadEncoding, TooLarge, code_of, plain, read_body, retry_after
from app.ports.clock import Clock
from app.ports.permits import Permits, Unlimited

DEFAULT_BASE_URL: Final = "https://app.gabber.dev"
MAX_CONNECTIONS: Final = 8
"""Per process and purpose. The library is slower, not faster, with more (measured: 0.8k pulls/s at 8, 0.34k at 256)."""

MAX_PULLS_OF_ONE_TIMELINE: Final = 3
"""How often the pages are pulled anew when the timeline changed under the pull."""

PULL_DEADLINE_TIMEOUTS: Final = 3
"""A whole pull, all its pages and repetitions, may take so many times the time-out of one answer."""

MAX_ID_CHARS: Final = 255
MAX_CONNECTION_CHARS: Final = 16_384
"""Of the connection's URL and of its token, each."""

LARGE_BODY: Final = 256 * 1024
"""Bytes of a page; what is larger takes some tenths of a second to be read."""

MIN_TOKEN_CHARS: Final = 16
"""The last part of a webhook's path is a secret from this length on, and removed from the provider's messages."""

SHORT_BLOCK: Final = Micros(2 * US_PER_S)
"""A 429 that does not say for how long keeps all requests back for so long."""

MAX_TIMELINE_BYTES: Final = 16 * 1024 * 1024
"""All pages of one pull."""

# The library logs every full URL at INFO, and ours hold session ids; the transport logs headers at DEBUG. Whatever
# level the process logs at, these two stay silent below a warning.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class Gabber:
    """An asynchronous client of one provider account; close it, or use it as ``async with``.

    ``timeout`` bounds one answer from the first byte sent to the last byte read, ``PULL_DEADLINE_TIMEOUTS`` times it a
    whole pull; it is time on ``clock``, waited for in real time. Each request, each page of a timeline too, takes one
    of ``permits`` and is made only then; where the provider says 429, or 503 with ``Retry-After``, they are told.
    Raises ``ValueError`` for a base URL that is not plain ``http(s)://host[:port][/path]`` or a key that cannot stand
    in a header; neither message holds the value.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        timeout: Micros,
        clock: Clock,
        transport: httpx.AsyncBaseTransport | None = None,
        capabilities: Capabilities | None = None,
        permits: Permits | None = None,
    ) -> None:
        self._base_url = _checked_base_url(base_url)
        if not (api_key and api_key.isascii() and api_key.isprintable() and api_key == api_key.strip()):
            raise ValueError("the provider key must be printable ASCII without spaces around it")
        self._api_key = api_key
        self._clock = clock
        self._answer_s = clock.real_seconds(timeout)
        self.capabilities = capabilities or Capabilities()
        self._permits = permits or Unlimited()
        tls = _tls()
        # A quarter each: waiting for a place in the pool, connecting and shaking hands end before the whole deadline
        # does, so that the deadline never cuts off a start of which not a byte was sent and makes it look ambiguous.
        part_s = self._answer_s / 4
        timeouts = httpx.Timeout(self._answer_s, connect=part_s, pool=part_s)
        jar = CookieJar(policy=DefaultCookiePolicy(allowed_domains=()))

        def connections(keep: int) -> httpx.AsyncClient:
            return httpx.AsyncClient(
                headers={"x-api-key": api_key, "user-agent": "talktime", "accept-encoding": "gzip"},
                cookies=jar,
                timeout=timeouts,
                limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=keep),
                transport=transport,
                verify=tls,
                trust_env=False,
                follow_redirects=False,
            )

        # A start never reuses a connection: one that the provider has just closed fails after the request was written,
        # which cannot be told from a session that was started and not reported.
        self._starts = connections(0)
        self._pulls = connections(MAX_CONNECTIONS)

    def __repr__(self) -> str:
        return f"Gabber({self._base_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections; calls under way fail."""
        await self._starts.aclose()
        await self._pulls.aclose()

    async def start(self, request: StartRequest, permit: Permit | None = None) -> Started | Refused | Unconfirmed:
        """Ask for a session, once: never retried here, as a second request may start a second session.

        Refused: any 4xx (429 included), no permit (code ``busy``; ``permit`` is one that was reserved), and errors
        before a byte of the request was sent. Everything else but a 2xx that is understood is Unconfirmed.
        """
        refused = await self._permits.ready(Purpose.START, permit)
        if refused is not None:
            message = "the provider takes no request at the moment"
            return Refused(status=None, code="busy", message=message, retry_after=refused.wait)
        body = {
            "persona": request.persona,
            "scenario": request.scenario,
            "time_limit_s": request.time_limit_s,
            "webhook": request.webhook,
        }
        status: int | None = None
        pause: Micros | None = None
        try:
            async with (
                asyncio.timeout(self._answer_s),
                self._starts.stream(
                    "POST",
                    f"{self._base_url}/api/v1/session/start",
                    content=json.dumps(body).encode(),
                    headers={"content-type": "application/json"},
                ) as response,
            ):
                status = response.status_code
                pause = self._pause(status, response)
                if 400 <= status < 500:
                    return await self._refusal(response, request.webhook)
                if not 200 <= status < 300:
                    return Unconfirmed(why=f"the provider answered {status}")
                return _started(await read_body(response), request)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            # Raised while connecting and shaking hands, and nowhere else.
            return Refused(status=None, code="unreachable", message="no connection to the provider could be made")
        except httpx.PoolTimeout:
            return Refused(status=None, code="busy", message="all connections to the provider are in use")
        except (TimeoutError, httpx.TimeoutException):
            return Unconfirmed(why="the provider did not answer in time")
        except TooLarge:
            return Unconfirmed(why="the provider's answer is too large")
        except BadEncoding:
            return Unconfirmed(why="the provider's answer is wrongly encoded")
        except httpx.HTTPError as error:
            return Unconfirmed(why=f"the exchange with the provider broke off ({type(error).__name__})")
        finally:
            await self._keep_away(pause)

    async def end(self, provider_session_id: str) -> Ended | NotEnded | EndUnconfirmed | NotNow:
        """Ask the provider to end a session, once. To ask for it again does no harm: what has ended stays so.

        NotEnded: any 4xx, and errors before a byte of the request was sent. Any 2xx is Ended, whatever its body, which
        no schema describes; but for the guide's envelope around an error. NotNow: no permit was to be had. Raises
        ``RuntimeError`` where :attr:`capabilities` lack it.
        """
        if not self.capabilities.can_end:
            raise RuntimeError("this provider cannot end a session")
        path = _path_part(provider_session_id)
        if path is None:
            return NotEnded(status=None, code="not_found", message="no session can have this id")
        refused = await self._permits.ready(Purpose.START)
        if refused is not None:
            return refused
        pause: Micros | None = None
        try:
            async with (
                asyncio.timeout(self._answer_s),
                # A connection of its own, as for a start: so an outcome is unknown only where it has to be.
                self._starts.stream("POST", f"{self._base_url}/api/v1/session/{path}/end") as response,
            ):
                status = response.status_code
                said = await self._said(response)
                inner, content = unwrap(said)
                if 200 <= status < 300 and inner is not None:
                    status = inner
                pause = self._pause(status, response)
                if 200 <= status < 300:
                    return Ended()
                if 400 <= status < 500:
                    code, message = self._reason(content, status)
                    wait = retry_after(response, self._clock.now())
                    return NotEnded(status=status, code=code, message=message, retry_after=wait)
                return EndUnconfirmed(why=f"the provider answered {status}")
        except (httpx.ConnectError, httpx.ConnectTimeout):
            return NotEnded(status=None, code="unreachable", message="no connection to the provider could be made")
        except httpx.PoolTimeout:
            return NotEnded(status=None, code="busy", message="all connections to the provider are in use")
        except (TimeoutError, httpx.TimeoutException):
            return EndUnconfirmed(why="the provider did not answer in time")
        except httpx.HTTPError as error:
            return EndUnconfirmed(why=f"the exchange with the provider broke off ({type(error).__name__})")
        finally:
            await self._keep_away(pause)

    async def _refusal(self, response: httpx.Response, webhook: str) -> Refused:
        """The status alone decides; a body that is late, broken or odd takes nothing from it."""
        status = response.status_code
        said = unwrap(await self._said(response))[1]
        token = urlsplit(webhook).path.rpartition("/")[2]
        # A short last part is no token, and taking out each "w" would leave no message.
        code, message = self._reason(said, status, webhook, *((token,) if len(token) >= MIN_TOKEN_CHARS else ()))
        wait = retry_after(response, self._clock.now())
        return Refused(status=status, code=code, message=message, retry_after=wait)

    async def _said(self, response: httpx.Response) -> object:
        """The JSON of an answer whose status has decided already; ``None`` if there is none to be had."""
        try:
            # Well inside the deadline of the whole call, which would make an ambiguous outcome of a clear one.
            async with asyncio.timeout(self._answer_s / 8):
                return loads(await read_body(response))
        except (TimeoutError, httpx.HTTPError, TooLarge, BadEncoding, InvalidJson):
            return None

    def _reason(self, said: object, status: int, *secrets: str) -> tuple[str, str]:
        """Code and message of a refusal, fit to be stored and shown."""
        answer = said if isinstance(said, dict) else {}
        secrets = (self._api_key, *secrets)
        message = answer.get("message") or answer.get("error")
        return (
            code_of(answer.get("type"), otherwise=f"http_{status}", secrets=secrets),
            plain(message, secrets=secrets) if isinstance(message, str) else "",
        )

    async def timeline(
        self, provider_session_id: str, permit: Permit | None = None
    ) -> PulledTimeline | PullFailed | NotNow:
        """Pull all pages of a session's timeline, or nothing. NotNow: some page got no permit.

        ``permit``: one that was reserved, for the first page.
        """
        path = _path_part(provider_session_id)
        if path is None:
            return PullFailed(kind=PullFailure.NOT_FOUND, detail="no session can have this id")
        first = httpx.URL(f"{self._base_url}/api/v1/session/{path}/timeline")
        recording = Recording(self._api_key)
        late = PullFailed(kind=PullFailure.TIMEOUT, detail="the pull took longer than its deadline")
        outcome: PulledTimeline | PullFailed | NotNow = late
        try:
            async with asyncio.timeout(self._answer_s * PULL_DEADLINE_TIMEOUTS):
                for _ in range(MAX_PULLS_OF_ONE_TIMELINE):
                    recording.begin_anew()
                    outcome = await self._pull(first, permit, recording)
                    permit = None
                    if not isinstance(outcome, PullFailed):
                        break
                    outcome = replace(outcome, bodies=of_a_failure(recording.bodies))
                    if outcome.kind is not PullFailure.INCONSISTENT:
                        break
        except TimeoutError:
            # A status that was read says more than the deadline, which cut off its body.
            if outcome is late or recording.decided is not None:
                outcome = replace(recording.decided or late, bodies=of_a_failure(recording.bodies))
        if isinstance(outcome, PullFailed):
            await self._keep_away(outcome.pause)
        return outcome

    async def _pull(
        self, first: httpx.URL, permit: Permit | None, recording: Recording
    ) -> PulledTimeline | PullFailed | NotNow:
        requested_at: Instant | None = None
        values: list[object] = []
        visited: set[str] = set()
        total: int | None = None
        size = 0
        url = first
        while True:
            refused = await self._permits.ready(Purpose.PAGE, permit)
            if refused is not None:
                return refused
            permit = None
            requested_at = requested_at or self._clock.now()
            fetched = await self._page(url, recording)
            if isinstance(fetched, PullFailed):
                return fetched
            page, received_at, page_bytes = fetched
            values.extend(page.values)
            visited.add(str(url))
            size += page_bytes
            failed = _out_of_bounds(page, values, total, size)
            if failed is not None:
                return failed
            total = page.total_count
            if page.next_page is None:
                break
            target = next_url(first, page.next_page)
            if isinstance(target, PullFailed):
                return target
            if str(target) in visited:
                return _inconsistent("the pages lead back to one already read")
            if len(visited) == MAX_PAGES:
                return PullFailed(kind=PullFailure.TOO_LARGE, detail=f"the timeline has more than {MAX_PAGES} pages")
            url = target
        if len(values) != total:
            return _inconsistent("the number of values is not total_count")
        return PulledTimeline(
            requested_at=requested_at, received_at=received_at, values=tuple(values), bodies=tuple(recording.bodies)
        )

    async def _page(self, url: httpx.URL, recording: Recording) -> tuple[Page, Instant, int] | PullFailed:
        head: httpx.Response | None = None
        wire, body = bytearray(), None
        failed: PullFailed | None = None
        try:
            async with self._answer(url) as response:
                head = response
                if not 200 <= response.status_code < 300:
                    failed = recording.decided = self._failure(response.status_code, response)
                    body = await self._rest_of_a_failure(response, wire)
                    return failed
                body = await read_body(response, wire)
                received_at = self._clock.now()
                # In a thread where it takes long: heartbeats of other sessions come meanwhile.
                large = len(body) > LARGE_BODY
                page = await asyncio.to_thread(recording.read, body) if large else recording.read(body)
                if isinstance(page, int):
                    return self._failure(page, response)
        except httpx.TimeoutException:
            # Its status had decided before, whatever became of its body.
            return failed or PullFailed(kind=PullFailure.TIMEOUT, detail="the provider did not answer in time")
        except TooLarge:
            return PullFailed(kind=PullFailure.TOO_LARGE, detail="a page is too large")
        except BadEncoding:
            return PullFailed(kind=PullFailure.MALFORMED, detail="a page is wrongly encoded")
        except httpx.HTTPError as error:
            return failed or PullFailed(
                kind=PullFailure.CONNECTION, detail=f"the exchange broke off ({type(error).__name__})"
            )
        finally:
            if head is not None:
                recording.add(head, bytes(wire), body, self._clock.now())
        return page if isinstance(page, PullFailed) else (page, received_at, len(body))

    async def _rest_of_a_failure(self, response: httpx.Response, wire: bytearray) -> bytes | None:
        """The body of an answer whose status has decided already; ``None`` if it is too long, late or broken."""
        try:
            async with asyncio.timeout(self._answer_s / 8):
                return await read_body(response, wire, most=MAX_KEPT_OF_FAILED)
        except (TimeoutError, httpx.HTTPError, TooLarge, BadEncoding):
            return None

    @asynccontextmanager
    async def _answer(self, url: httpx.URL) -> AsyncIterator[httpx.Response]:
        # The library's time-outs are per read: a server that sends a byte a second would pass them for ever.
        try:
            async with asyncio.timeout(self._answer_s), self._pulls.stream("GET", url) as response:
                yield response
        except TimeoutError:
            raise httpx.ReadTimeout("the answer took too long") from None

    def _pause(self, status: int, response: httpx.Response) -> Micros | None:
        """For how long the provider wants no request at all, if that is what it says."""
        wait = retry_after(response, self._clock.now()) or None
        if status == TOO_MANY_REQUESTS:
            return wait or SHORT_BLOCK
        return wait if status == UNAVAILABLE else None

    async def _keep_away(self, pause: Micros | None) -> None:
        # After the exchange and its deadline: what the provider has said stays said while we write it down.
        if pause is not None:
            await self._permits.block(pause)

    def _failure(self, status: int, response: httpx.Response) -> PullFailed:
        kind = _KIND_OF_STATUS.get(status)
        if kind is None:
            kind = {3: PullFailure.REDIRECTED, 4: PullFailure.REFUSED, 5: PullFailure.SERVER_ERROR}.get(
                status // 100, PullFailure.MALFORMED
            )
        wait = retry_after(response, self._clock.now())
        return PullFailed(
            kind=kind,
            detail=f"the provider answered {status}",
            retry_after=wait,
            pause=self._pause(status, response),
        )


TOO_MANY_REQUESTS: Final = 429
UNAVAILABLE: Final = 503
_KIND_OF_STATUS: Final = {
    401: PullFailure.UNAUTHORIZED,
    403: PullFailure.UNAUTHORIZED,
    404: PullFailure.NOT_FOUND,
    408: PullFailure.TIMEOUT,
    410: PullFailure.NOT_FOUND,
    429: PullFailure.RATE_LIMITED,
}


def _out_of_bounds(page: Page, values: list[object], total: int | None, size: int) -> PullFailed | None:
    if total is not None and page.total_count != total:
        return _inconsistent("total_count changed between pages")
    if len(values) > page.total_count:
        return _inconsistent("there are more values than total_count")
    if size > MAX_TIMELINE_BYTES or len(values) > MAX_VALUES:
        return PullFailed(kind=PullFailure.TOO_LARGE, detail="the timeline is too large")
    return None


def _inconsistent(detail: str) -> PullFailed:
    return PullFailed(kind=PullFailure.INCONSISTENT, detail=detail)


def _started(body: bytes, request: StartRequest) -> Started | Unconfirmed:
    try:
        status, answer = unwrap(loads(body))
    except InvalidJson as error:
        return Unconfirmed(why=f"the provider's answer is {error}")
    if status is not None and not 200 <= status < 300:
        return Unconfirmed(why=f"the provider answered 2xx around a status of {status}")
    session = answer.get("session") if isinstance(answer, dict) else None
    details = answer.get("connection_details") if isinstance(answer, dict) else None
    if not (isinstance(answer, dict) and isinstance(session, dict) and isinstance(details, dict)):
        return Unconfirmed(why="the provider's answer has no session or no connection_details")
    session_id, url, token = session.get("id"), details.get("url"), details.get("token")
    if not _usable(session_id, MAX_ID_CHARS):
        return Unconfirmed(why="the provider's answer has no usable session id")
    if not (_usable(url, MAX_CONNECTION_CHARS) and _usable(token, MAX_CONNECTION_CHARS)):
        return Unconfirmed(why="the provider's answer has no usable connection_details")
    return Started(
        provider_session_id=str(session_id),
        connection_url=str(url),
        connection_token=str(token),
        persona=_echo(answer.get("persona"), request.persona),
        scenario=_echo(answer.get("scenario"), request.scenario),
    )


def _usable(value: object, limit: int) -> bool:
    # type(): a JSON number is a str here as well, but it is no id.
    return type(value) is str and 0 < len(value) <= limit and value.isprintable()


def _echo(value: object, asked_for: str) -> str:
    return plain(value) if type(value) is str else asked_for


def _path_part(provider_session_id: str) -> str | None:
    """The id percent-encoded for a path; ``None`` for what can be no id: empty, too long, or a step in the path."""
    if provider_session_id in ("", ".", "..") or len(provider_session_id) > MAX_ID_CHARS:
        return None
    try:
        return quote(provider_session_id, safe="")
    except UnicodeEncodeError:
        return None


@cache
def _tls() -> ssl.SSLContext:
    # Reading the authorities takes some 50 ms; all adapters of a process trust the same ones.
    return httpx.create_ssl_context(trust_env=False)


def _checked_base_url(text: str) -> str:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise ValueError("the provider's base URL is not a URL") from None
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
        raise ValueError("the provider's base URL must be http(s)://host[:port][/path]")
    return str(url).rstrip("/")
