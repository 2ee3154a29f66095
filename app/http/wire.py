"""The server's side of a connection: how much of a request's head, and how slow a request, is taken at all.

uvicorn's own protocol takes heads of any size and waits for a request for ever. Here the bytes of a head, its lines
and the address are counted while they come, and a request that is not whole in time is given up. A request that
arrives in one piece, as a heartbeat does, costs one comparison. What is refused here has not reached the application;
it is answered with a problem document all the same, and the connection is closed.
"""

import asyncio
from typing import Any, Final
from uuid import uuid4

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from app.errors import HEADERS_TOO_LARGE, MALFORMED_REQUEST, REQUEST_TIMEOUT, Problem
from app.http.answers import encode, problem_document
from app.http.front import MAX_ADDRESS, address_too_long
from app.http.headers import RawHeaders

MAX_HEADERS: Final = 100
MAX_HEAD: Final = 32 * 1024
"""Bytes of the request line and all headers. What came with them in one read is let pass: at most 256 KiB."""


ABORT: Final = "abort_connection"
"""In the state of a request: cuts its connection at once, whatever of the answer is still on its way."""

_TOO_LONG: Final = b"/" + b"x" * MAX_ADDRESS
"""Stands for every address that is too long, of which nothing is kept. The application refuses it, once the headers
have told from which origin it comes, so that a page can read why."""


class _Refused(Exception):
    """Ends the parser's work; the parser tells the protocol that a callback broke."""


def protocol_of(receive_timeout_s: float, headers: RawHeaders) -> type[asyncio.Protocol]:
    """The protocol for uvicorn: a request may take ``receive_timeout_s`` to arrive; ``headers`` go with refusals."""

    class BoundedProtocol(_Bounded):
        timeout = receive_timeout_s
        answer_headers = headers

    return BoundedProtocol


class _Bounded(HttpToolsProtocol):
    timeout: float
    answer_headers: RawHeaders

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._in_head = True
        self._in_request = False
        self._kept = 0
        """Bytes that came since the parser last made something of them: at most so many are kept in it."""
        self._too_slow: asyncio.TimerHandle | None = None
        self._why = Problem(MALFORMED_REQUEST, "this is no HTTP request that can be understood")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._too_slow = self.loop.call_later(self.timeout, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._kept > MAX_HEAD:
            # The parser keeps a header, or a trailer after a body, that does not end.
            if self._in_head and self._in_request and self.url is _TOO_LONG:
                self._refuse(address_too_long())
            else:
                self._refuse(Problem(HEADERS_TOO_LARGE, f"at most {MAX_HEAD} bytes of headers are taken"))
            return
        self._kept += len(data)
        super().data_received(data)
        if self._in_request:
            if self._too_slow is None:
                self._too_slow = self.loop.call_later(self.timeout, self._give_up)
        elif self._too_slow is not None:
            self._stop_waiting()

    # The parser's callbacks

    def on_message_begin(self) -> None:
        self._in_head = self._in_request = True
        super().on_message_begin()
        self.scope["state"][ABORT] = self.transport.abort

    def on_url(self, url: bytes) -> None:
        if self.url is _TOO_LONG:
            return
        super().on_url(url)
        if len(self.url) > MAX_ADDRESS:
            self.url = _TOO_LONG

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self._why = Problem(HEADERS_TOO_LARGE, f"at most {MAX_HEADERS} headers are taken")
            raise _Refused

    def on_headers_complete(self) -> None:
        if self._kept > MAX_HEAD and sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD:
            self._why = Problem(HEADERS_TOO_LARGE, f"at most {MAX_HEAD} bytes of headers are taken")
            raise _Refused
        self._in_head = False
        self._kept = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._kept = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head, self._in_request = True, False
        self._kept = 0
        super().on_message_complete()

    # What is refused

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._why)

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade may be ignored (RFC 9110, 7.8); a line in the log for each would be the caller's to fill."""

    def _stop_waiting(self) -> None:
        if self._too_slow is not None:
            self._too_slow.cancel()
            self._too_slow = None

    def _give_up(self) -> None:
        self._too_slow = None
        answered = self.cycle is not None and self.cycle.response_complete and not self._in_head
        if self._in_request and not answered:
            self._refuse(Problem(REQUEST_TIMEOUT, "the request was not whole in time"))
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Answer and close, unless an answer of ours is on its way already: then only close."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        answering = bool(self.pipeline)
        if cycle is not None and not cycle.response_complete:
            answering = answering or cycle.response_started or self._in_head
            cycle.disconnected = True
            cycle.message_event.set()
        if not answering:
            self.transport.write(self._answer(problem))
        self.transport.close()

    def _answer(self, problem: Problem) -> bytes:
        body = encode(problem_document(problem))
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            (b"x-request-id", f"req_{uuid4().hex}".encode()),
            *self.answer_headers,
        ]
        if problem.kind.retryable:
            headers.append((b"retry-after", b"1"))
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return STATUS_LINE[problem.status] + lines + b"\r\n" + body
