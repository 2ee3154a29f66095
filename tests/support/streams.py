"""A client of streams, at the application itself: it reads on or not, goes away or not, as a test wants it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message

PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Told:
    """One event."""

    name: str
    id: str | None
    data: dict[str, Any]


class Stream:
    """One answer that goes on. ``reading`` cleared: the client takes nothing, and whoever sends waits."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = b""
        self.ended = False
        self.aborted = False
        self.reading = asyncio.Event()
        self.reading.set()
        self._gone = asyncio.Event()
        self._asked = False
        self._news = asyncio.Event()

    async def receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.reading.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.ended = not message.get("more_body", False)
        self._news.set()

    def go(self) -> None:
        """The client closes its connection."""
        self._gone.set()

    def abort(self) -> None:
        self.aborted = True
        self._gone.set()

    @property
    def problem(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    @property
    def events(self) -> list[Told]:
        """All events so far, read as the standard says (WHATWG HTML, 9.2.6)."""
        found: list[Told] = []
        for block in self.body.decode().split("\n\n")[:-1]:
            fields: dict[str, str] = {}
            for line in block.split("\n"):
                name, _, value = line.partition(":")
                if name:
                    fields[name] = value.removeprefix(" ")
            if "data" in fields:
                found.append(Told(fields.get("event", "message"), fields.get("id"), json.loads(fields["data"])))
        return found

    @property
    def states(self) -> list[dict[str, Any]]:
        return [event.data for event in self.events if event.name == "state"]

    @property
    def beats(self) -> int:
        return self.body.split(b"\n\n").count(b":")

    async def until(self, condition: Callable[["Stream"], bool]) -> None:
        """Wait until it has been told enough. Fails if it is not in time."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition(self):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"it was not told in time; so far: {self.body!r}") from None

    async def told(self, number: int) -> dict[str, Any]:
        """The data of state number ``number``, the first one being 1, once it is there."""
        await self.until(lambda stream: len(stream.states) >= number)
        return self.states[number - 1]


@asynccontextmanager
async def stream(
    app: ASGIApp, path: str, headers: Mapping[str, str], *, query: str = "", abort: bool = False
) -> AsyncIterator[Stream]:
    """Ask for a stream; it has begun, or was refused. ``abort``: the server lets it be cut off."""
    made = Stream()
    raw = path.encode()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": raw,
        "query_string": query.encode(),
        "headers": [(b"host", b"talktime.example"), *((k.lower().encode(), v.encode()) for k, v in headers.items())],
        "client": ("127.0.0.1", 5000),
        "server": ("talktime.example", 80),
        "root_path": "",
        "state": {"abort_connection": made.abort} if abort else {},
    }

    async def serve() -> None:
        await app(scope, made.receive, made.send)

    serving = asyncio.create_task(serve())
    try:
        await made.until(lambda stream: stream.status is not None and (stream.ended or b"\n\n" in stream.body))
        yield made
    finally:
        made.reading.set()
        made.go()
        async with asyncio.timeout(PATIENCE_S):
            await serving
