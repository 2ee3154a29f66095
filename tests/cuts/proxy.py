"""A proxy in front of PostgreSQL that cuts a connection at a chosen COMMIT.

It reads the frontend's messages (simple Query, and Parse of the extended protocol). A commit is what ends a transaction
for good: ``COMMIT``, or a statement outside a transaction, as autocommit runs it. Cut *before*, the server never sees
it; cut *after*, the server has done it and its answer is thrown away.
"""

import asyncio
import contextlib
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import URL

READY = b"Z"
IDLE = b"I"


class Side(StrEnum):
    BEFORE = "before"
    AFTER = "after"


@dataclass
class Cutter:
    """Counts commits that change something; cuts the ``at``-th of them (from 1) and, if ``times`` is over 1, those that
    follow it, all on one side."""

    at: int | None = None
    side: Side = Side.BEFORE
    times: int = 1
    commits: int = 0
    cuts: int = 0

    def begin(self, at: int | None = None, side: Side = Side.BEFORE, times: int = 1) -> None:
        """Count from 0; cut where told, or nowhere."""
        self.at, self.side, self.times, self.commits, self.cuts = at, side, times, 0, 0

    def commit(self) -> Side | None:
        """Count one more; which side to cut it on, if it is the one."""
        self.commits += 1
        if self.at is None or self.commits < self.at or self.cuts == self.times:
            return None
        self.cuts += 1
        return self.side


class _Line:
    """One client's connection."""

    def __init__(
        self, cutter: Cutter, client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:  # fmt: skip
        self._cutter = cutter
        self._from_client, self._to_client = client
        self._from_server, self._to_server = server
        self._in_transaction = False
        self._writes = False
        self._statement = b""
        self._mute = False
        """The answer to the commit is thrown away; once the server is ready again, all is cut."""

    async def run(self) -> None:
        both = [asyncio.create_task(self._forward()), asyncio.create_task(self._back())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            for writer in (self._to_client, self._to_server):
                writer.transport.abort()

    async def _forward(self) -> None:
        await self._start_up()
        while True:
            head = await self._from_client.readexactly(5)
            kind, length = head[:1], struct.unpack("!I", head[1:])[0]
            body = await self._from_client.readexactly(length - 4)
            if kind == b"Q":
                self._statement = body.rstrip(b"\0")
            elif kind == b"P":
                self._statement = body.split(b"\0", 2)[1]
            if kind in {b"Q", b"E"} and self._ends_here():
                side = self._cutter.commit()
                if side is Side.BEFORE:
                    return
                self._mute = side is Side.AFTER
            self._to_server.write(head + body)
            await self._to_server.drain()

    def _ends_here(self) -> bool:
        """Whether running the statement at hand commits something that was written."""
        words = self._statement.strip().upper().split(None, 1)
        verb = words[0].rstrip(b";") if words else b""
        writes = verb in {b"INSERT", b"UPDATE", b"DELETE"} or b"FOR UPDATE" in self._statement.upper()
        if not self._in_transaction and verb != b"BEGIN":
            return writes
        self._writes |= writes
        if verb not in {b"COMMIT", b"ROLLBACK"} or b"TO SAVEPOINT" in self._statement.upper():
            return False
        ended, self._writes = self._writes, False
        return ended and verb == b"COMMIT"

    async def _start_up(self) -> None:
        """The first message has no type; encryption is declined, so that what follows can be read."""
        while True:
            length = struct.unpack("!I", await self._from_client.readexactly(4))[0]
            body = await self._from_client.readexactly(length - 4)
            if struct.unpack("!I", body[:4])[0] in {80877103, 80877104}:
                self._to_client.write(b"N")
                continue
            self._to_server.write(struct.pack("!I", length) + body)
            return

    async def _back(self) -> None:
        while True:
            head = await self._from_server.readexactly(5)
            body = await self._from_server.readexactly(struct.unpack("!I", head[1:])[0] - 4)
            if head[:1] == READY:
                if self._mute:
                    return
                self._in_transaction = body != IDLE
            if not self._mute:
                self._to_client.write(head + body)
                await self._to_client.drain()


@contextmanager
def proxy(server: URL, cutter: Cutter) -> Iterator[int]:
    """Listen on a port of this machine, in front of the ``server`` that a URL names; on a loop and a thread of its own,
    so that clients may block."""
    folder = server.query.get("host")
    lines: set[asyncio.Task[None]] = set()
    listening: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = asyncio.current_task()
        assert line is not None
        lines.add(line)
        line.add_done_callback(lines.discard)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            if isinstance(folder, str):
                behind = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{server.query.get('port', 5432)}")
            else:
                behind = await asyncio.open_connection(server.host, server.port or 5432)
            await _Line(cutter, (reader, writer), behind).run()

    async def listen() -> None:
        stop = asyncio.Event()
        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = int(listener.sockets[0].getsockname()[1])
        listening.set_result((asyncio.get_running_loop(), stop, port))
        await stop.wait()
        listener.close()
        left = list(lines)
        for line in left:
            line.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(listen()), name="proxy", daemon=True)
    thread.start()
    loop, stop, port = listening.result(timeout=10)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
