"""POSTs of heartbeats: many small requests to few servers.

Plain streams and a parser instead of an HTTP client, because the simulator must beat for thousands of sessions at many
times real time on one core: several thousand POSTs a second, which is ten times what the client library manages.
"""

import asyncio
import ssl
from collections import defaultdict
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MAX_CONNECTIONS: Final = 32
POST_TIMEOUT_S: Final = 10
"""Real time for one POST, waiting for a connection included."""

MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_URL_CHARS: Final = 2048


class PostFailed(Exception):
    """No HTTP answer came. The message names the kind of failure only: the URL is a secret."""


def checked_webhook(text: str) -> SplitResult | None:
    """The parts of an ``http`` or ``https`` URL that can be posted to; ``None`` for anything else."""
    if not 0 < len(text) <= MAX_URL_CHARS or not text.isascii() or not text.isprintable() or " " in text:
        return None
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        return None
    return parts if usable else None


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def usable(self) -> bool:
        return not (self.reader.at_eof() or self.writer.is_closing())


class _Answer:
    """Callbacks of the parser."""

    def __init__(self) -> None:
        self.complete = False

    def on_message_complete(self) -> None:
        self.complete = True


class Poster:
    """A small pool of kept connections. ``aclose`` it; POSTs under way then fail."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)
        self._idle: defaultdict[tuple[str, str, int], list[_Connection]] = defaultdict(list)

    async def post(self, webhook: SplitResult, body: bytes) -> int:
        """POST JSON and return the answer's status. Raises :class:`PostFailed`. Never sends anything twice."""
        try:
            async with asyncio.timeout(POST_TIMEOUT_S), self._places:
                return await self._exchange(webhook, body)
        except TimeoutError:
            raise PostFailed("timeout") from None
        except (OSError, HttpParserError, HttpParserUpgrade, ssl.SSLError) as error:
            raise PostFailed(type(error).__name__) from None

    async def _exchange(self, webhook: SplitResult, body: bytes) -> int:
        host = webhook.hostname or ""
        port = webhook.port or (443 if webhook.scheme == "https" else 80)
        idle = self._idle[(webhook.scheme, host, port)]
        connection: _Connection | None = None
        while idle and connection is None:
            candidate = idle.pop()
            if candidate.usable():
                connection = candidate
            else:
                candidate.writer.close()
        if connection is None:
            tls = ssl.create_default_context() if webhook.scheme == "https" else None
            connection = _Connection(*await asyncio.open_connection(host, port, ssl=tls))
        keep = False
        try:
            target = (webhook.path or "/") + (f"?{webhook.query}" if webhook.query else "")
            head = (
                f"POST {target} HTTP/1.1\r\nHost: {webhook.netloc}\r\nContent-Type: application/json\r\n"
                f"User-Agent: gabber-sim\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            connection.writer.write(head.encode() + body)
            status, keep = await _read(connection.reader)
            return status
        finally:
            if keep:
                idle.append(connection)
            else:
                connection.writer.close()

    async def aclose(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.writer.close()
        self._idle.clear()


async def _read(reader: asyncio.StreamReader) -> tuple[int, bool]:
    answer = _Answer()
    parser = HttpResponseParser(answer)
    size = 0
    while not answer.complete:
        data = await reader.read(8192)
        if not data:
            raise ConnectionResetError
        size += len(data)
        if size > MAX_ANSWER_BYTES:
            raise ConnectionAbortedError
        parser.feed_data(data)
    return parser.get_status_code(), parser.should_keep_alive()
