"""The Python client, in both its forms, before the service in process; requests are held against the API document."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol
from urllib.parse import parse_qsl

import httpx

from talktime.client import AsyncTalktime, RetryPolicy, Talktime
from tests.support.documented import Documented
from tests.support.world import ADMIN_KEY, PUBLIC_URL, World

ONCE = RetryPolicy(attempts=1)
"""The clock stands still here: nothing comes free by waiting."""


class Asked(httpx.AsyncBaseTransport):
    """Leads to the service in process. ``calls``: the operations that were asked for, of which each has its form."""

    def __init__(self, world: World) -> None:
        self._inner = httpx.ASGITransport(app=world.service.app, raise_app_exceptions=False)
        self._documented = Documented(world.service.api_document)
        self.calls: list[str] = []
        self.queries: set[tuple[str, str]] = set()
        """Query parameters by their operation."""
        self.fields: set[tuple[str, str]] = set()
        """Members of bodies by theirs."""
        self.keys: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path, _, query = request.url.raw_path.decode("ascii").partition("?")
        call = self._documented.call_of(request.method, path)
        assert call is not None, f"{request.method} {path} is no operation"
        self.calls.append(call)
        method, _, template = call.partition(" ")
        operation = self._documented.document["paths"][template][method.lower()]
        self._look_at_parameters(call, operation, dict(parse_qsl(query)), request.headers)
        self._look_at_body(call, operation, await request.aread())
        answer = await self._inner.handle_async_request(request)
        answer.request = request
        if not answer.headers.get("content-type", "").startswith("text/"):
            await answer.aread()
            self._documented.check(answer)
        return answer

    def _look_at_parameters(
        self, call: str, operation: Any, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> None:
        known = {one["name"]: one for one in operation["parameters"] if one["in"] == "query"}
        assert set(query) <= set(known), call
        self.queries |= {(call, name) for name in query}
        keyed = any(one["name"] == "Idempotency-Key" for one in operation["parameters"])
        assert keyed == ("Idempotency-Key" in headers), call
        if keyed:
            self.keys.append(headers["Idempotency-Key"])

    def _look_at_body(self, call: str, operation: Any, body: bytes) -> None:
        if "requestBody" not in operation:
            assert not body, call
            return
        taken = operation["requestBody"]["content"]
        if "text/csv" in taken:
            assert body.startswith(b"user_id,"), call
            return
        schema = taken["application/json"]["schema"]
        document = json.loads(body)
        faults = [str(fault) for fault in self._documented.validator_of(schema).iter_errors(document)]
        assert not faults, (call, faults)
        self.fields |= {(call, name) for name in document}


class Driver(Protocol):
    """One of the clients, so that a test can be written once."""

    async def do(self, name: str, /, *given: Any, **named: Any) -> Any:
        """What a call answers."""

    async def rows(self, name: str, /, *given: Any, **named: Any) -> list[Any]:
        """All rows of a list."""

    async def lines(self, name: str, /, *given: Any, **named: Any) -> list[str]:
        """All lines of a text that is streamed."""


class AsyncDriver:
    def __init__(self, client: AsyncTalktime) -> None:
        self.client = client

    async def do(self, name: str, /, *given: Any, **named: Any) -> Any:
        return await getattr(self.client, name)(*given, **named)

    async def rows(self, name: str, /, *given: Any, **named: Any) -> list[Any]:
        return [row async for row in getattr(self.client, name)(*given, **named)]

    async def lines(self, name: str, /, *given: Any, **named: Any) -> list[str]:
        async with getattr(self.client, name)(*given, **named) as lines:
            return [line async for line in lines]


class SyncDriver:
    """Waits in a thread, as code without an event loop does."""

    def __init__(self, client: Talktime) -> None:
        self.client = client

    async def do(self, name: str, /, *given: Any, **named: Any) -> Any:
        return await asyncio.to_thread(getattr(self.client, name), *given, **named)

    async def rows(self, name: str, /, *given: Any, **named: Any) -> list[Any]:
        return await asyncio.to_thread(lambda: list(getattr(self.client, name)(*given, **named)))

    async def lines(self, name: str, /, *given: Any, **named: Any) -> list[str]:
        def read() -> list[str]:
            with getattr(self.client, name)(*given, **named) as lines:
                return list(lines)

        return await asyncio.to_thread(read)


class _Bridge(httpx.BaseTransport):
    """From a thread to a transport of the event loop."""

    def __init__(self, inner: httpx.AsyncBaseTransport, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        asked = httpx.Request(
            request.method,
            request.url,
            headers=request.headers,
            content=request.read(),
            extensions=request.extensions,
        )

        async def answered() -> httpx.Response:
            answer = await self._inner.handle_async_request(asked)
            body = b"".join([piece async for piece in answer.stream]) if not answer.is_closed else answer.content  # type: ignore[union-attr]
            return httpx.Response(answer.status_code, headers=answer.headers, content=body)

        return asyncio.run_coroutine_threadsafe(answered(), self._loop).result()


@asynccontextmanager
async def driver(kind: str, asked: Asked, key: str = ADMIN_KEY) -> AsyncIterator[Driver]:
    """``kind``: ``sync`` or ``async``."""
    if kind == "async":
        async with AsyncTalktime(PUBLIC_URL, key, transport=asked, retries=ONCE, allow_http=True) as client:
            yield AsyncDriver(client)
        return
    bridge = _Bridge(asked, asyncio.get_running_loop())
    with Talktime(PUBLIC_URL, key, transport=bridge, retries=ONCE, allow_http=True) as client:
        yield SyncDriver(client)
