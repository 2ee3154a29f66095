"""A receiver of events: a real HTTP server that notes what is posted to it and answers as it is told."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Received:
    """One POST. ``at``: when it was here, by the loop's own clock, in seconds."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


@dataclass(frozen=True, slots=True)
class Reply:
    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    after_s: float = 0


HANG = None
CUT = "cut"
"""The connection is closed without an answer, after the request was read."""

Behaviour = Callable[[Received], Reply | str | None]


@dataclass
class Hooks:
    """``behave`` says what is answered, 204 unless it is set; :data:`HANG`: nothing, ever."""

    port: int = 0
    behave: Behaviour = lambda _: Reply()
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def at(self, path: str) -> list[Received]:
        return [one for one in self.received if one.path == path]

    async def wait_for(self, number: int, within_s: float = 10) -> None:
        """Until so many were received."""
        async with asyncio.timeout(within_s):
            while len(self.received) < number:
                self._more.clear()
                await self._more.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        received = Received(first.split(" ")[1], headers, body, asyncio.get_running_loop().time())
        self.received.append(received)
        self._more.set()
        reply = self.behave(received)
        if reply is HANG:
            await reader.read()
            return False
        if not isinstance(reply, Reply):
            return False
        await asyncio.sleep(reply.after_s)
        told = {"content-length": str(len(reply.body)), **reply.headers}
        answer = f"HTTP/1.1 {reply.status} X\r\n" + "".join(f"{name}: {value}\r\n" for name, value in told.items())
        writer.write(answer.encode() + b"\r\n" + reply.body)
        await writer.drain()
        return True


@asynccontextmanager
async def hooks(port: int = 0) -> AsyncIterator[Hooks]:
    made = Hooks()
    server = await asyncio.start_server(made.serve, "127.0.0.1", port)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
