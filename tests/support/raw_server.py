"""A server that sends scripted bytes: for answers that no well-behaved HTTP server can be made to give."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait between two pieces of an answer."""

    seconds: float


Answer = Sequence[bytes | Pause]


@dataclass
class RawServer:
    """Answers the n-th request with the n-th of ``answers`` (the last one again and again), then closes."""

    answers: list[Answer]
    port: int = 0
    requests: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def targets(self) -> list[str]:
        return [request.split(b" ", 2)[1].decode() for request in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            body = b""
            for line in head.split(b"\r\n"):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    body = await reader.readexactly(int(value))
            self.requests.append(head + body)
            for step in self.answers[min(len(self.requests), len(self.answers)) - 1]:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                else:
                    writer.write(step)
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client hung up, which is what many of these answers are for
        finally:
            writer.transport.abort() if writer.transport.is_closing() else writer.close()


@asynccontextmanager
async def raw_server(*answers: Answer) -> AsyncIterator[RawServer]:
    raw = RawServer(list(answers))
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
    raw.port = server.sockets[0].getsockname()[1]
    try:
        yield raw
    finally:
        server.close()


def http(status: int, body: bytes | str, *headers: str, length: int | None = None) -> bytes:
    """A whole HTTP/1.1 answer; ``length`` is the Content-Length to claim, if another than the true one."""
    content = body.encode() if isinstance(body, str) else body
    lines = [
        f"HTTP/1.1 {status} X",
        "Content-Type: application/json",
        f"Content-Length: {len(content) if length is None else length}",
        "Connection: close",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + content


def page(values: object, following: object = None, total: object = None) -> str:
    """A bare page; its total is the number of its values unless given."""
    count = len(values) if total is None and isinstance(values, list) else total
    return json.dumps({"values": values, "next_page": following, "total_count": count})
