"""What a stranger can do to a real ``talktime serve`` with a raw connection: little, and never for long."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.http.front import MAX_ADDRESS
from app.http.wire import MAX_HEAD
from tests.e2e.test_serve import KEY, serving
from tests.support.postgres import open_folder, scratch_folder
from tests.support.scripted_provider import provider_host

RECEIVE_S = 2.0
ORIGIN = "https://app.example"
MIB = 1 << 20


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    port: int

    def resident(self) -> int:
        """Bytes of memory in use, at most so far since :meth:`forget_the_most`."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the kernel tells no memory")

    def forget_the_most(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            yield connection


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    for folder in open_folder(scratch_folder()):
        with provider_host() as host:
            limit = {"TALKTIME_RECEIVE_TIMEOUT_S": str(RECEIVE_S), "TALKTIME_CORS_ORIGINS": ORIGIN}
            with serving(folder, host.script(), **limit) as (process, url):
                yield Server(process, int(url.rpartition(":")[2]))


def answer(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """The status, headers and document of one answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        assert piece, "closed without an answer"
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(status.split()[1]), headers, json.loads(body)


def refused(connection: socket.socket, status: int, code: str) -> None:
    """One problem document, with the headers of every answer; then the connection is closed."""
    found, headers, document = answer(connection)
    assert (found, document["type"]) == (status, f"/problems/{code}")
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["connection"] == "close"
    assert connection.recv(1) == b""


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    first = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {KEY}"]
    return "\r\n".join([*first, *lines, "", ""]).encode()


@pytest.mark.parametrize("path", ["/v1/users/u/grants", "/v1/charges/preview", "/v1/sessions/ses_x/end"])
@pytest.mark.parametrize("chunked", [True, False])
def test_two_hundred_megabytes_cost_no_memory(server: Server, path: str, chunked: bool) -> None:
    most = 8 * MIB if "preview" in path else MIB
    server.forget_the_most()
    before = server.resident()
    piece = b" " * (1 << 16)
    sent = 0
    with server.connection() as connection:
        connection.sendall(head(path, "Transfer-Encoding: chunked" if chunked else f"Content-Length: {200 * MIB}"))
        try:
            while sent < 200 * MIB:
                connection.sendall(b"10000\r\n" + piece + b"\r\n" if chunked else piece)
                sent += len(piece)
        except OSError:
            pass  # it reads no further
        with suppress(ConnectionResetError):  # our own bytes on their way can make the kernel drop the answer
            assert answer(connection)[0] == 413
    assert sent < most + 20 * MIB, "it read on"
    assert server.resident() - before <= 5 * MIB


def test_a_length_over_the_limit_is_refused_before_the_body(server: Server) -> None:
    with server.connection() as connection:
        connection.sendall(head("/v1/users/u/grants", f"Content-Length: {200 * MIB}"))
        refused(connection, 413, "body-too-large")


def test_an_endless_header_is_refused(server: Server) -> None:
    before = server.resident()
    with server.connection() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        sent = 0
        try:
            while sent < 50 * MIB:
                connection.sendall(b"x" * 65536)
                sent += 65536
        except OSError:
            pass
        assert sent < 20 * MIB
    assert server.resident() - before <= 5 * MIB


def test_an_endless_address_is_refused(server: Server) -> None:
    with server.connection() as connection:
        connection.sendall(b"GET /" + b"x" * MAX_HEAD)
        time.sleep(0.3)
        connection.sendall(b"x")
        refused(connection, 414, "address-too-long")


def test_an_address_of_just_the_greatest_length_is_taken(server: Server) -> None:
    with server.connection() as connection:
        connection.sendall(head("/" + "x" * (MAX_ADDRESS - 1), method="GET"))
        assert answer(connection)[0] == 404


@pytest.mark.parametrize("pieces", [1, 2, 30])
def test_a_page_of_an_allowed_origin_learns_that_its_address_is_too_long(server: Server, pieces: int) -> None:
    sent = head("/v1/sessions?user_id=" + "x" * 20_000, f"Origin: {ORIGIN}", method="GET")
    step = -(-len(sent) // pieces)
    with server.connection() as connection:
        for start in range(0, len(sent), step):
            connection.sendall(sent[start : start + step])
            time.sleep(0.01)
        status, headers, document = answer(connection)
    assert (status, document["type"]) == (414, "/problems/address-too-long")
    assert headers["access-control-allow-origin"] == ORIGIN
    assert headers["x-request-id"].startswith("req_")


def test_an_endless_trailer_is_refused(server: Server) -> None:
    before = server.resident()
    with server.connection() as connection:
        connection.sendall(head("/v1/users/u/grants", "Transfer-Encoding: chunked") + b"1\r\n{\r\n0\r\nX: ")
        sent = 0
        try:
            while sent < 50 * MIB:
                connection.sendall(b"x" * 65536)
                sent += 65536
        except OSError:
            pass
        assert sent < 20 * MIB
    assert server.resident() - before <= 5 * MIB


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "malformed-request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "malformed-request"),
        (b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed-request"),
        (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed-request"),
        (head("/v1/rate-cards", "Content-Length: 1", "Content-Length: 2"), 400, "malformed-request"),
        (head("/v1/rate-cards", "Content-Length: -1"), 400, "malformed-request"),
        (head("/v1/rate-cards", "Transfer-Encoding: chunked") + b"zz\r\n", 400, "malformed-request"),
        (head("/" + "x" * 8192, method="GET"), 414, "address-too-long"),
        (head("/?" + "x" * 8192, method="POST"), 414, "address-too-long"),
        (head("http://x/v1/sessions?" + "x" * 9000, method="GET"), 414, "address-too-long"),
        (head("/webhooks/gabber/" + "x" * 30_000), 414, "address-too-long"),
        (head("/healthz", *(f"X-{n}: x" for n in range(120)), method="GET"), 431, "headers-too-large"),
        (head("/healthz", "X: " + "x" * (MAX_HEAD + 1), method="GET"), 431, "headers-too-large"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_request_is_refused_with_a_problem(server: Server, sent: bytes, status: int, code: str) -> None:
    with server.connection() as connection:
        connection.sendall(sent)
        refused(connection, status, code)


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /healthz HTT",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX",
        head("/v1/users/u/grants", "Content-Length: 100"),
        head("/v1/users/u/grants", "Content-Length: 100") + b'{"amount":',
        head("/v1/users/u/grants", "Transfer-Encoding: chunked") + b"5\r\n{",
    ],
    ids=["request line", "headers", "no body", "body", "chunk"],
)
def test_a_request_that_does_not_end_is_given_up(server: Server, begun: bytes) -> None:
    with server.connection() as connection:
        began = time.monotonic()
        connection.sendall(begun)
        refused(connection, 408, "request-timeout")
        assert RECEIVE_S - 0.5 < time.monotonic() - began < RECEIVE_S + 5


def test_a_request_that_drips_is_given_up_as_well(server: Server) -> None:
    with server.connection() as connection:
        connection.sendall(head("/v1/users/u/grants", "Content-Length: 1000"))
        began = time.monotonic()
        with suppress(OSError):
            while time.monotonic() - began < RECEIVE_S + 10:
                connection.sendall(b" ")
                time.sleep(0.1)
        assert time.monotonic() - began < RECEIVE_S + 5


def test_a_connection_that_says_nothing_is_closed(server: Server) -> None:
    with server.connection() as connection:
        assert connection.recv(1) == b""


def test_a_slow_but_whole_request_and_those_after_it_are_answered(server: Server) -> None:
    """The time of one request is not counted for the next on the same connection."""
    with server.connection() as connection:
        for _ in range(3):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHo")
            time.sleep(RECEIVE_S * 0.6)
            connection.sendall(b"st: x\r\n\r\n")
            assert answer(connection)[0] == 200


def test_a_head_in_two_pieces_before_a_large_body_is_taken(server: Server) -> None:
    body = b" " * 500_000 + b"{}"
    begun = head("/v1/users/u/grants", f"Content-Length: {len(body)}")
    with server.connection() as connection:
        connection.sendall(begun[:20])
        time.sleep(0.2)
        connection.sendall(begun[20:] + body)
        assert answer(connection)[0] == 422


def test_an_upgrade_is_ignored(server: Server) -> None:
    with server.connection() as connection:
        connection.sendall(
            b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert answer(connection)[0] == 200


def test_nobody_says_where_he_comes_from(server: Server) -> None:
    """Not even whoever calls from this machine, whom the server would believe by itself."""
    headers = {"Authorization": f"Bearer {KEY}", "X-Forwarded-For": "<script>"}
    url = f"http://127.0.0.1:{server.port}/v1"
    made = httpx.post(f"{url}/users/somebody/grants", json={"amount": "1"}, headers=headers)
    assert made.status_code == 201
    request_id = made.headers["x-request-id"]
    (row,) = httpx.get(f"{url}/audit-log", params={"request_id": request_id}, headers=headers).json()["data"]
    assert row["address"] == "127.0.0.1"
