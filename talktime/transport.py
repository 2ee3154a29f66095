"""How calls reach the service: the same course for both clients, over httpx's two."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Generic, NoReturn, Self, TypeVar

import httpx

from talktime import __version__
from talktime.calls import (
    JSON,
    Answer,
    Call,
    checked_base_url,
    checked_credential,
    is_expected,
    is_retried,
    kind_of,
    problem_of,
    result_of,
)
from talktime.errors import ConnectionFailed, NoAnswer, TalktimeError, TimedOut, UnexpectedAnswer
from talktime.retries import Course, Retry, RetryPolicy, retry_after_s
from talktime.streams import AsyncEvents, AsyncLines, Events, Lines

T = TypeVar("T")

MOST_BYTES: Final = 256 << 20
"""What an answer that is read whole may have."""

TIMEOUT_S: Final = 30.0
CONNECT_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a client was made with, but for its key."""

    base_url: str
    timeout_s: float
    retries: RetryPolicy
    on_retry: Callable[[Retry], None] | None

    def changed(self, timeout_s: float | None, retries: RetryPolicy | None) -> "Settings":
        return Settings(
            base_url=self.base_url,
            timeout_s=self.timeout_s if timeout_s is None else checked_timeout(timeout_s),
            retries=retries or self.retries,
            on_retry=self.on_retry,
        )


def checked_timeout(timeout_s: float) -> float:
    """Raises ``ValueError`` unless it is a number of seconds over 0."""
    if not 0 < timeout_s < float("inf"):
        raise ValueError("timeout_s: a number of seconds over 0")
    return timeout_s


def _headers_of_all(api_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {checked_credential(api_key)}", "User-Agent": f"talktime-python/{__version__}"}


class _Attempts:
    """The attempts of one call: what is sent, and what comes of each failure."""

    def __init__(self, settings: Settings, call: Call[Any]) -> None:
        self._settings = settings
        self._call = call
        self._course = Course(settings.retries)
        self.url = settings.base_url + call.target
        self.headers = {"Accept": call.accept}
        if call.accept != JSON:
            self.headers["Accept"] += ", application/problem+json"
        if call.body is not None:
            self.headers["Content-Type"] = call.body_kind
        if call.last_event_id is not None:
            self.headers["Last-Event-ID"] = call.last_event_id
        if call.key is not None:
            self.headers["Idempotency-Key"] = call.key

    @property
    def left_s(self) -> float:
        return self._course.left_s

    def begin(self) -> httpx.Timeout:
        """Count an attempt; how long its parts may take."""
        self._course.begin()
        whole = max(min(self._settings.timeout_s, self.left_s), 0.001)
        return httpx.Timeout(whole, connect=min(whole, CONNECT_TIMEOUT_S))

    def look_at_the_time(self) -> None:
        """While an answer is read. Raises ``TimeoutError`` past the deadline."""
        if self.left_s <= 0:
            raise TimeoutError

    def wait_after_no_answer(self, error: Exception) -> float:
        """What is waited before the next attempt; raises :class:`~talktime.errors.NoAnswer` if there is none."""
        timed_out = isinstance(error, httpx.TimeoutException | TimeoutError)
        detail = f"{self._call.name}: {'no answer in time' if timed_out else error or type(error).__name__}"
        wait = self._course.wait_s(None)
        if wait is None:
            kind: type[NoAnswer] = TimedOut if timed_out else ConnectionFailed
            raise kind(detail, attempts=self._course.attempts, idempotency_key=self._call.key) from error
        return self._told(detail, wait)

    def wait_after_refusal(self, answer: Answer) -> float:
        """What is waited before the next attempt; raises what the answer says if there is none."""
        failure = problem_of(self._call, answer)
        after = retry_after_s(answer.headers.get("retry-after"))
        wait = self._course.wait_s(after) if is_retried(failure) else None
        if wait is None:
            raise failure
        return self._told(str(failure), wait)

    def _told(self, why: str, wait: float) -> float:
        if self._settings.on_retry is not None:
            call = self._call
            self._settings.on_retry(Retry(call.name, self._course.attempts, why, wait, call.key))
        return wait

    def unreadable(self, response: httpx.Response, why: str) -> NoReturn:
        raise UnexpectedAnswer(f"{self._call.name}: {why}", status=response.status_code, idempotency_key=self._call.key)


def _lost(call: Call[Any], error: Exception) -> TalktimeError:
    """What a stream that ends too early is raised as: what was read of it is not all."""
    kind = TimedOut if isinstance(error, httpx.TimeoutException) else ConnectionFailed
    return kind(f"{call.name}: the answer was cut off", attempts=1)


def _ok(response: httpx.Response, call: Call[Any]) -> bool:
    return is_expected(call, response.status_code, kind_of(response.headers.get("content-type", "")))


def _answer(response: httpx.Response, body: bytes) -> Answer:
    return Answer(response.status_code, {name.lower(): value for name, value in response.headers.items()}, body)


# In one thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """``next_cursor``: to be given as ``cursor`` for the next page; null on the last one."""

    data: tuple[T, ...]
    next_cursor: str | None


class Listing(Generic[T]):
    """All rows of a list, asked for page by page while they are gone through; each ``for`` asks anew."""

    def __init__(self, page_at: Callable[[str | None], Page[T]], cursor: str | None) -> None:
        self._page_at = page_at
        self._cursor = cursor

    def __iter__(self) -> Iterator[T]:
        for page in self.pages():
            yield from page.data

    def pages(self) -> Iterator[Page[T]]:
        """The same, page by page: ``next_cursor`` is where another run can go on."""
        cursor = self._cursor
        while True:
            page = self._page_at(cursor)
            yield page
            cursor = page.next_cursor
            if cursor is None:
                return


class SyncCaller:
    """What ``Talktime`` stands on."""

    def __init__(self, settings: Settings, http: httpx.Client, *, owns_http: bool) -> None:
        self._settings = settings
        self._http = http
        self._owns_http = owns_http

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings.base_url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. A client that :meth:`with_options` gave shares those of another, and closes none."""
        if self._owns_http:
            self._http.close()

    def with_options(self, *, timeout_s: float | None = None, retries: RetryPolicy | None = None) -> Self:
        """The same client with another timeout or other retries, over the same connections."""
        return type(self)._over(self._settings.changed(timeout_s, retries), self._http)

    @classmethod
    def _over(cls, settings: Settings, http: httpx.Client) -> Self:
        made = cls.__new__(cls)
        SyncCaller.__init__(made, settings, http, owns_http=False)
        return made

    def _run(self, call: Call[T]) -> T:
        attempts = _Attempts(self._settings, call)
        while True:
            try:
                answer = self._once(call, attempts)
            except (httpx.TransportError, TimeoutError) as error:
                wait = attempts.wait_after_no_answer(error)
            else:
                if answer.status < 300:
                    return result_of(call, answer)
                wait = attempts.wait_after_refusal(answer)
            time.sleep(wait)

    def _once(self, call: Call[Any], attempts: _Attempts) -> Answer:
        timeout = attempts.begin()
        with self._http.stream(
            call.method, attempts.url, content=call.body, headers=attempts.headers, timeout=timeout
        ) as response:
            return _answer(response, self._whole(response, attempts))

    def _whole(self, response: httpx.Response, attempts: _Attempts) -> bytes:
        body = bytearray()
        try:
            for piece in response.iter_bytes():
                body += piece
                if len(body) > MOST_BYTES:
                    attempts.unreadable(response, f"an answer of over {MOST_BYTES} bytes")
                attempts.look_at_the_time()
        except httpx.DecodingError:
            attempts.unreadable(response, "an answer that cannot be unpacked")
        return bytes(body)

    def _list(self, page_at: Callable[[str | None], Call[Page[T]]], cursor: str | None) -> Listing[T]:
        return Listing(lambda at: self._run(page_at(at)), cursor)

    @contextmanager
    def _lines(self, call: Call[Any]) -> Generator[Lines]:
        response = self._opened(call)
        try:
            yield Lines(_pieces(response, call))
        finally:
            response.close()

    @contextmanager
    def _events(self, call: Call[Any]) -> Generator[Events]:
        response = self._opened(call)
        try:
            yield Events(_pieces(response, call))
        finally:
            response.close()

    def _opened(self, call: Call[Any]) -> httpx.Response:
        attempts = _Attempts(self._settings, call)
        while True:
            try:
                asked = self._http.build_request(
                    call.method, attempts.url, headers=attempts.headers, timeout=attempts.begin()
                )
                response = self._http.send(asked, stream=True)
                if _ok(response, call):
                    return response
                try:
                    answer = _answer(response, self._whole(response, attempts))
                finally:
                    response.close()
            except (httpx.TransportError, TimeoutError) as error:
                wait = attempts.wait_after_no_answer(error)
            else:
                wait = attempts.wait_after_refusal(answer)
            time.sleep(wait)


def _pieces(response: httpx.Response, call: Call[Any]) -> Iterator[bytes]:
    try:
        yield from response.iter_bytes()
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise _lost(call, error) from error


# In an event loop


class AsyncListing(Generic[T]):
    """All rows of a list, asked for page by page while they are gone through; each ``async for`` asks anew."""

    def __init__(self, page_at: Callable[[str | None], Any], cursor: str | None) -> None:
        self._page_at = page_at
        self._cursor = cursor

    async def __aiter__(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for row in page.data:
                yield row

    async def pages(self) -> AsyncIterator[Page[T]]:
        """The same, page by page: ``next_cursor`` is where another run can go on."""
        cursor = self._cursor
        while True:
            page: Page[T] = await self._page_at(cursor)
            yield page
            cursor = page.next_cursor
            if cursor is None:
                return


class AsyncCaller:
    """What ``AsyncTalktime`` stands on."""

    def __init__(self, settings: Settings, http: httpx.AsyncClient, *, owns_http: bool) -> None:
        self._settings = settings
        self._http = http
        self._owns_http = owns_http

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings.base_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. A client that :meth:`with_options` gave shares those of another, and closes none."""
        if self._owns_http:
            await self._http.aclose()

    def with_options(self, *, timeout_s: float | None = None, retries: RetryPolicy | None = None) -> Self:
        """The same client with another timeout or other retries, over the same connections."""
        return type(self)._over(self._settings.changed(timeout_s, retries), self._http)

    @classmethod
    def _over(cls, settings: Settings, http: httpx.AsyncClient) -> Self:
        made = cls.__new__(cls)
        AsyncCaller.__init__(made, settings, http, owns_http=False)
        return made

    async def _run(self, call: Call[T]) -> T:
        attempts = _Attempts(self._settings, call)
        while True:
            try:
                timeout = attempts.begin()
                async with asyncio.timeout(attempts.left_s):
                    answer = await self._once(call, attempts, timeout)
            except (httpx.TransportError, TimeoutError) as error:
                wait = attempts.wait_after_no_answer(error)
            else:
                if answer.status < 300:
                    return result_of(call, answer)
                wait = attempts.wait_after_refusal(answer)
            await asyncio.sleep(wait)

    async def _once(self, call: Call[Any], attempts: _Attempts, timeout: httpx.Timeout) -> Answer:  # noqa: ASYNC109
        async with self._http.stream(
            call.method, attempts.url, content=call.body, headers=attempts.headers, timeout=timeout
        ) as response:
            return _answer(response, await self._whole(response, attempts))

    async def _whole(self, response: httpx.Response, attempts: _Attempts) -> bytes:
        body = bytearray()
        try:
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > MOST_BYTES:
                    attempts.unreadable(response, f"an answer of over {MOST_BYTES} bytes")
        except httpx.DecodingError:
            attempts.unreadable(response, "an answer that cannot be unpacked")
        return bytes(body)

    def _list(self, page_at: Callable[[str | None], Call[Page[T]]], cursor: str | None) -> AsyncListing[T]:
        return AsyncListing(lambda at: self._run(page_at(at)), cursor)

    @asynccontextmanager
    async def _lines(self, call: Call[Any]) -> AsyncGenerator[AsyncLines]:
        response = await self._opened(call)
        try:
            yield AsyncLines(_async_pieces(response, call))
        finally:
            await response.aclose()

    @asynccontextmanager
    async def _events(self, call: Call[Any]) -> AsyncGenerator[AsyncEvents]:
        response = await self._opened(call)
        try:
            yield AsyncEvents(_async_pieces(response, call))
        finally:
            await response.aclose()

    async def _opened(self, call: Call[Any]) -> httpx.Response:
        attempts = _Attempts(self._settings, call)
        while True:
            try:
                asked = self._http.build_request(
                    call.method, attempts.url, headers=attempts.headers, timeout=attempts.begin()
                )
                async with asyncio.timeout(attempts.left_s):
                    response = await self._http.send(asked, stream=True)
                    if _ok(response, call):
                        return response
                    try:
                        answer = _answer(response, await self._whole(response, attempts))
                    finally:
                        await response.aclose()
            except (httpx.TransportError, TimeoutError) as error:
                wait = attempts.wait_after_no_answer(error)
            else:
                wait = attempts.wait_after_refusal(answer)
            await asyncio.sleep(wait)


async def _async_pieces(response: httpx.Response, call: Call[Any]) -> AsyncIterator[bytes]:
    try:
        async for piece in response.aiter_bytes():
            yield piece
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise _lost(call, error) from error


# Making one


def settings_of(
    base_url: str,
    *,
    timeout_s: float,
    retries: RetryPolicy | None,
    on_retry: Callable[[Retry], None] | None,
    allow_http: bool,
) -> Settings:
    """Raises ``ValueError`` for what cannot work."""
    checked = checked_base_url(base_url, allow_http=allow_http)
    try:
        httpx.URL(checked)
    except httpx.InvalidURL:
        raise ValueError("the base URL is no URL") from None
    return Settings(
        base_url=checked,
        timeout_s=checked_timeout(timeout_s),
        retries=retries or RetryPolicy(),
        on_retry=on_retry,
    )


def http_options(api_key: str, settings: Settings, most_connections: int) -> dict[str, Any]:
    """For httpx's clients.

    Redirects are not followed, as the key would go to wherever the answer says. Nor is plain HTTP sent to a proxy that
    the environment names, which could read it.
    """
    return {
        "headers": _headers_of_all(api_key),
        "follow_redirects": False,
        "trust_env": settings.base_url.startswith("https:"),
        "limits": httpx.Limits(max_connections=most_connections, max_keepalive_connections=most_connections),
    }
