"""A webhook receiver: a real server that notes what is posted to it, and when on a given clock."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from app.core.units import Instant
from app.ports.clock import Clock


@dataclass
class Receiver:
    """What came: path, JSON body, arrival. ``statuses`` are answered in turn, then 204; ``delay_s`` is real time."""

    url: str
    clock: Clock
    statuses: list[int] = field(default_factory=list)
    delay_s: float = 0
    posts: list[tuple[str, dict[str, Any], Instant]] = field(default_factory=list)
    connections: int = 0

    def wait_for(self, count: int, within_s: float = 5) -> None:
        deadline = time.monotonic() + within_s
        while len(self.posts) < count:
            assert time.monotonic() < deadline, f"{len(self.posts)} of {count} heartbeats came"
            time.sleep(0.005)


@contextlib.contextmanager
def receiver(clock: Clock) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            noted.connections += 1

        def do_POST(self) -> None:
            arrived = clock.now()
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            assert self.headers["content-type"] == "application/json"
            noted.posts.append((self.path, body, arrived))
            time.sleep(noted.delay_s)
            self.send_response(noted.statuses.pop(0) if noted.statuses else 204)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    noted = Receiver(f"http://127.0.0.1:{server.server_port}", clock)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), name="webhook receiver")
    thread.start()
    try:
        yield noted
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
