"""Load on a server of this machine: kept connections that send one request after the other, in a process of their own.

``python -m benchmarks.load HOST PORT CONNECTIONS SECONDS`` reads whole requests from standard input, separated by NUL
bytes, deals them out to the connections and prints how many were answered 204 and how many otherwise.
"""

import asyncio
import sys
import time

import uvloop


async def _one(host: str, port: int, requests: list[bytes], until: float) -> tuple[int, int]:
    good = bad = 0
    reader, writer = await asyncio.open_connection(host, port)
    while time.monotonic() < until:
        for request in requests:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 204"):
                good += 1
            else:
                bad += 1
                length = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                await reader.readexactly(length)
            if time.monotonic() >= until:
                break
    writer.close()
    return good, bad


async def _run(host: str, port: int, connections: int, seconds: float, requests: list[bytes]) -> tuple[int, int]:
    until = time.monotonic() + seconds
    shares = [requests[number::connections] or requests for number in range(connections)]
    counts = await asyncio.gather(*(_one(host, port, share, until) for share in shares))
    return sum(good for good, _ in counts), sum(bad for _, bad in counts)


def main() -> None:
    host, port, connections, seconds = sys.argv[1:]
    requests = sys.stdin.buffer.read().split(b"\0")
    good, bad = uvloop.run(_run(host, int(port), int(connections), float(seconds), requests))
    print(good, bad)


if __name__ == "__main__":
    main()
