"""The adapter asks for the end of a session: what is certain, and what is not. One line per case."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from app.core.budget import NotNow
from app.core.units import US_PER_S, Micros
from app.gabber import Capabilities, Ended, EndUnconfirmed, Gabber, NotEnded
from app.gabber.client import MAX_ID_CHARS
from app.gabber.wire import MAX_BODY_BYTES
from app.ports.clock import SystemClock
from tests.support.raw_server import Answer, Pause, RawServer, http, raw_server

pytestmark = pytest.mark.anyio
KEY = "service-key-of-the-tests"
CAN_END = Capabilities(can_end=True)


@asynccontextmanager
async def gabber(
    base_url: str, timeout_ms: int = 2000, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[Gabber]:
    async with Gabber(
        base_url=base_url,
        api_key=KEY,
        timeout=Micros(timeout_ms * 1000),
        clock=SystemClock(),
        transport=transport,
        capabilities=CAN_END,
    ) as adapter:
        yield adapter


async def end(
    *steps: bytes | Pause, timeout_ms: int = 2000, session: str = "ses-1"
) -> tuple[Ended | NotEnded | EndUnconfirmed, RawServer]:
    async with raw_server(steps) as server, gabber(server.url, timeout_ms) as adapter:
        outcome = await adapter.end(session)
        assert not isinstance(outcome, NotNow)
        return outcome, server


async def test_it_sends_the_key_and_nothing_else() -> None:
    outcome, server = await end(http(200, "{}"), session="a/b?c")
    assert outcome == Ended()
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /api/v1/session/a%2Fb%3Fc/end HTTP/1.1\r\n")
    assert f"x-api-key: {KEY}".encode() in head
    assert body == b""


ENDED: dict[str, Answer] = {
    "an empty object": [http(200, "{}")],
    "the session": [http(200, '{"id": "ses-1", "state": "ended"}')],
    "the envelope": [http(200, '{"status": 200, "body": {}}')],
    "no body": [http(204, "")],
    "202": [http(202, "")],
    "no JSON": [http(200, "<html>")],
    "a body that breaks off": [http(200, "{}", length=99)],
    "a body that never comes": [http(200, "", length=99), Pause(2)],
    "a body too large": [http(200, b" " * (MAX_BODY_BYTES + 1))],
    "a body wrongly encoded": [http(200, "x", "Content-Encoding: gzip")],
}


@pytest.mark.parametrize("case", ENDED)
async def test_it_is_ended_by_2xx_and(case: str) -> None:
    outcome, server = await end(*ENDED[case], timeout_ms=800)
    assert outcome == Ended()
    assert len(server.requests) == 1


# The answer, then status, code, message and Retry-After.
NOT_ENDED: dict[str, tuple[Answer, int, str, str, int | None]] = {
    "400 with a reason": ([http(400, '{"type": "invalid_input", "message": "no"}')], 400, "invalid_input", "no", None),
    "401": ([http(401, "{}")], 401, "http_401", "", None),
    "403": ([http(403, "")], 403, "http_403", "", None),
    "404": ([http(404, '{"error": "no such session"}')], 404, "http_404", "no such session", None),
    "409": ([http(409, "{}")], 409, "http_409", "", None),
    "429": ([http(429, "{}", "Retry-After: 7")], 429, "http_429", "", 7),
    "200 around a 404": ([http(200, '{"status": 404, "body": {"type": "gone"}}')], 404, "gone", "", None),
    "400 echoing the key": ([http(400, f'{{"message": "bad {KEY}!"}}')], 400, "http_400", "bad [removed]!", None),
    "4xx whose body never comes": ([http(404, "", length=99), Pause(2)], 404, "http_404", "", None),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_ENDED)
async def test_it_is_not_ended_by(case: str) -> None:
    answer, status, code, message, wait_s = NOT_ENDED[case]
    outcome, server = await end(*answer, timeout_ms=800)
    wait = None if wait_s is None else Micros(wait_s * US_PER_S)
    assert outcome == NotEnded(status=status, code=code, message=message, retry_after=wait)
    assert len(server.requests) == 1


UNCONFIRMED: dict[str, Answer] = {
    "500": [http(500, '{"error": "x"}')],
    "503": [http(503, "", "Retry-After: 1")],
    "a redirect": [http(307, "", "Location: /elsewhere")],
    "a redirect to another origin": [http(302, "", "Location: http://127.0.0.1:9/")],
    "200 around a 500": [http(200, '{"status": 500, "body": {}}')],
    "no answer": [],
    "no HTTP": [b"\x00\x01\x02\x03\r\n\r\n"],
    "half a head": [b"HTTP/1.1 40"],
    "silence": [Pause(2)],
}


@pytest.mark.parametrize("case", UNCONFIRMED)
async def test_it_is_uncertain_after(case: str) -> None:
    outcome, server = await end(*UNCONFIRMED[case], timeout_ms=300)
    assert isinstance(outcome, EndUnconfirmed), outcome
    assert len(outcome.why) < 100
    assert len(server.requests) == 1, "it is for the caller to ask again"


RAISED: dict[type[httpx.TransportError], str | None] = {
    httpx.ConnectError: "unreachable",
    httpx.ConnectTimeout: "unreachable",
    httpx.PoolTimeout: "busy",
    httpx.ReadTimeout: None,
    httpx.WriteTimeout: None,
    httpx.ReadError: None,
    httpx.RemoteProtocolError: None,
}


@pytest.mark.parametrize("error", RAISED)
async def test_the_transport_fails_with(error: type[httpx.TransportError]) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error("it failed")

    async with gabber("https://x", transport=httpx.MockTransport(fail)) as adapter:
        outcome = await adapter.end("ses-1")
    match outcome:
        case NotEnded(status=None, code=code):
            assert code == RAISED[error]
        case EndUnconfirmed():
            assert RAISED[error] is None
        case _:
            pytest.fail(f"{outcome}")


@pytest.mark.parametrize("session", ["", ".", "..", "x" * (MAX_ID_CHARS + 1), "\ud800"])
async def test_an_id_that_no_session_can_have_is_not_sent(session: str) -> None:
    outcome, server = await end(http(200, "{}"), session=session)
    assert isinstance(outcome, NotEnded)
    assert (outcome.status, outcome.code, server.requests) == (None, "not_found", [])


async def test_where_the_provider_cannot_it_is_not_asked() -> None:
    async with (
        raw_server([http(200, "{}")]) as server,
        Gabber(base_url=server.url, api_key=KEY, timeout=Micros(US_PER_S), clock=SystemClock()) as adapter,
    ):
        with pytest.raises(RuntimeError, match="cannot end"):
            await adapter.end("ses-1")
        assert server.requests == []
