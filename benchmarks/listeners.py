"""Holds streams open, in a process of its own: ``python -m benchmarks.listeners PORT``.

Each line that comes in holds the path and token of one user; ``wait`` ends them. It answers ``open N`` when that many
have been told a state. From then on it says of each further state whose it is and when it came, by the machine's
monotonic clock.
"""

import asyncio
import sys
import time
from typing import Final

from uvloop import run

AT_ONCE: Final = 50
"""Streams that are being opened at the same time."""


class _Stream(asyncio.Protocol):
    def __init__(self, number: int, request: bytes, opened: asyncio.Future[None]) -> None:
        self._number = number
        self._request = request
        self._opened = opened

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if b"event: state" not in data:
            return
        if self._opened.done():
            print(f"told {self._number} {time.monotonic()}", flush=True)
        else:
            self._opened.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._opened.done():
            self._opened.set_exception(ConnectionError("a stream ended before it began"))
        else:
            print(f"lost {self._number} {time.monotonic()}", flush=True)


async def _hold(port: int, users: list[list[str]]) -> None:
    loop = asyncio.get_running_loop()
    places = asyncio.Semaphore(AT_ONCE)

    async def listen(number: int, path: str, token: str) -> None:
        head = f"GET {path} HTTP/1.1\r\nHost: talktime\r\nAccept: text/event-stream\r\nAuthorization: Bearer {token}"
        async with places:
            opened: asyncio.Future[None] = loop.create_future()
            request = f"{head}\r\n\r\n".encode()
            await loop.create_connection(lambda: _Stream(number, request, opened), "127.0.0.1", port)
            await opened

    await asyncio.gather(*(listen(number, path, token) for number, (path, token) in enumerate(users)))
    print(f"open {len(users)}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    users = []
    for line in sys.stdin:
        if line.strip() == "wait":
            break
        users.append(line.split())
    run(_hold(int(sys.argv[1]), users))


if __name__ == "__main__":
    main()
