"""The adapter starts a session: refused only where it is certain that none was started. One line per case."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from app.core.units import US_PER_S, Micros
from app.gabber import Capabilities, Gabber, Refused, Started, StartRequest, Unconfirmed
from app.gabber.client import MAX_CONNECTION_CHARS, MAX_CONNECTIONS, MAX_ID_CHARS
from app.gabber.wire import MAX_BODY_BYTES, MAX_CODE_CHARS, MAX_TEXT_CHARS
from app.ports.clock import SystemClock
from tests.support.raw_server import Answer, Pause, RawServer, http, raw_server

pytestmark = pytest.mark.anyio
KEY = "service-key-of-the-tests"
TOKEN = "an-unguessable-token-of-one-session"
ASKED = StartRequest(
    persona="p", scenario="s", time_limit_s=90, webhook=f"https://talk.example/webhooks/gabber/{TOKEN}"
)
CONFIRMED = {
    "session": {"id": "ses-1"},
    "persona": "P",
    "scenario": "S",
    "connection_details": {"url": "wss://x", "token": "t"},
}


@asynccontextmanager
async def gabber(base_url: str, timeout_ms: int = 2000) -> AsyncIterator[Gabber]:
    timeout = Micros(timeout_ms * 1000)
    async with Gabber(base_url=base_url, api_key=KEY, timeout=timeout, clock=SystemClock()) as adapter:
        yield adapter


async def start(*steps: bytes | Pause, timeout_ms: int = 2000) -> tuple[Started | Refused | Unconfirmed, RawServer]:
    async with raw_server(steps) as server, gabber(server.url, timeout_ms) as adapter:
        return await adapter.start(ASKED), server


def confirmed(**changes: object) -> str:
    return json.dumps(CONFIRMED | changes)


async def test_it_sends_what_the_guide_says() -> None:
    started, server = await start(http(200, confirmed()))
    assert started == Started(
        provider_session_id="ses-1", connection_url="wss://x", connection_token="t", persona="P", scenario="S"
    )
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /api/v1/session/start HTTP/1.1\r\n")
    assert f"x-api-key: {KEY}".encode() in head
    assert b"content-type: application/json" in head
    assert json.loads(body) == {"persona": "p", "scenario": "s", "time_limit_s": 90, "webhook": ASKED.webhook}


STARTED = {
    "the bare answer": (http(200, confirmed()), ("P", "S")),
    "201": (http(201, confirmed()), ("P", "S")),
    "the envelope of the other call": (http(200, json.dumps({"status": 200, "body": CONFIRMED})), ("P", "S")),
    "no echo of persona and scenario": (http(200, confirmed(persona=None, scenario=7)), ("p", "s")),
    "an odd echo": (http(200, confirmed(persona="a\x00b\ud800c\u202e")), ("a b c", "S")),
    "further fields": (http(200, confirmed(session={"id": "ses-1", "state": "x"}, more=[1])), ("P", "S")),
}


@pytest.mark.parametrize("case", STARTED)
async def test_a_session_is_started_by(case: str) -> None:
    answer, names = STARTED[case]
    started, _ = await start(answer)
    assert isinstance(started, Started), started
    assert (started.provider_session_id, started.persona, started.scenario) == ("ses-1", *names)


LIMIT = '{"type": "usage_limit_exceeded", "message": "out of credit"}'


def no(**said: object) -> Answer:
    return [http(400, json.dumps(said))]


# The answer, then status, code, message and Retry-After of the refusal.
REFUSED: dict[str, tuple[Answer, int, str, str, int | None]] = {
    "out of credit": ([http(400, LIMIT)], 400, "usage_limit_exceeded", "out of credit", None),
    "in the envelope": ([http(400, '{"body": ' + LIMIT + "}")], 400, "usage_limit_exceeded", "out of credit", None),
    "400 without a type": ([http(400, '{"error": "no"}')], 400, "http_400", "no", None),
    "400 with an odd type": ([http(400, '{"type": ["x"], "message": {"a": 1}}')], 400, "http_400", "", None),
    "400 with a type that is a text": ([http(400, '{"type": "No such <b>thing</b>"}')], 400, "http_400", "", None),
    "400 with an endless type": (no(type="x" * (MAX_CODE_CHARS + 1)), 400, "http_400", "", None),
    "400 that is no JSON": ([http(400, "<html>")], 400, "http_400", "", None),
    "400 with a text too long": (no(message="xy." * 9999), 400, "http_400", ("xy." * 9999)[:MAX_TEXT_CHARS], None),
    "400 echoing another's token": (no(message=f"for {'x-_9' * 16}."), 400, "http_400", "for [removed].", None),
    "400 with odd characters": (no(message="a\0\x1b[31m\n b\ud800\u202e\u2028c"), 400, "http_400", "a [31m b c", None),
    "400 echoing the key": (no(type=KEY, message=f"bad {KEY}!"), 400, "http_400", "bad [removed]!", None),
    "400 echoing the URL": (no(error=f"{ASKED.webhook}, {TOKEN}"), 400, "http_400", "[removed], [removed]", None),
    "401": ([http(401, "{}")], 401, "http_401", "", None),
    "403": ([http(403, "")], 403, "http_403", "", None),
    "404": ([http(404, "{}")], 404, "http_404", "", None),
    "409": ([http(409, "{}")], 409, "http_409", "", None),
    "429": ([http(429, "{}", "Retry-After: 7")], 429, "http_429", "", 7),
    "4xx whose body breaks off": ([http(400, LIMIT, length=999)], 400, "http_400", "", None),
    "4xx whose body never comes": ([http(400, "", length=999), Pause(2)], 400, "http_400", "", None),
    "4xx whose body is too large": ([http(400, b" " * (MAX_BODY_BYTES + 1))], 400, "http_400", "", None),
    "4xx whose body is wrongly encoded": ([http(400, "{}", "Content-Encoding: br")], 400, "http_400", "", None),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_it_is_refused_by(case: str) -> None:
    answer, status, code, message, wait_s = REFUSED[case]
    refused, server = await start(*answer, timeout_ms=800)
    assert refused == Refused(
        status=status, code=code, message=message, retry_after=None if wait_s is None else Micros(wait_s * US_PER_S)
    )
    assert len(server.requests) == 1


LONG = "x" * (MAX_CONNECTION_CHARS + 1)
DRIP: list[bytes | Pause] = [http(200, "", length=99), *[step for _ in range(30) for step in (Pause(0.1), b" ")]]
UNCONFIRMED: dict[str, Answer] = {
    "500": [http(500, '{"error": "x"}')],
    "502": [http(502, "")],
    "503 with Retry-After": [http(503, "", "Retry-After: 1")],
    "a redirect": [http(307, "", "Location: /api/v1/session/start")],
    "a redirect to another origin": [http(302, "", "Location: http://127.0.0.1:9/")],
    "an unknown status": [http(600, "")],
    "2xx without a body": [http(200, "")],
    "2xx that is no JSON": [http(200, "<html>")],
    "2xx that is null": [http(200, "null")],
    "2xx that is a list": [http(200, "[]")],
    "2xx without a session": [http(200, confirmed(session=None))],
    "2xx without an id": [http(200, confirmed(session={}))],
    "2xx with an empty id": [http(200, confirmed(session={"id": ""}))],
    "2xx with a number as id": [http(200, confirmed(session={"id": 7}))],
    "2xx with an id too long": [http(200, confirmed(session={"id": "x" * (MAX_ID_CHARS + 1)}))],
    "2xx with NUL in the id": [http(200, confirmed(session={"id": "a\x00"}))],
    "2xx with half a character in the id": [http(200, confirmed(session={"id": "a\ud800"}))],
    "2xx without connection details": [http(200, confirmed(connection_details=None))],
    "2xx without a token": [http(200, confirmed(connection_details={"url": "x"}))],
    "2xx with a token too long": [http(200, confirmed(connection_details={"url": "x", "token": LONG}))],
    "2xx around an error": [http(200, '{"status": 400, "body": {"type": "invalid_input"}}')],
    "2xx nested without end": [http(200, "[" * 100_000)],
    "2xx too large": [http(200, b" " * (MAX_BODY_BYTES + 1))],
    "2xx wrongly encoded": [http(200, "x", "Content-Encoding: gzip")],
    "2xx that breaks off": [http(200, confirmed(), length=999)],
    "no answer": [],
    "no HTTP": [b"\x00\x01\x02\x03\r\n\r\n"],
    "half a head": [b"HTTP/1.1 40"],
    "silence": [Pause(2)],
    "a drip": DRIP,
}  # fmt: skip


@pytest.mark.parametrize("case", UNCONFIRMED)
async def test_it_is_uncertain_after(case: str) -> None:
    began = time.monotonic()
    outcome, server = await start(*UNCONFIRMED[case], timeout_ms=300)
    assert isinstance(outcome, Unconfirmed), outcome
    assert len(outcome.why) < 100
    assert len(server.requests) == 1, "a start is never repeated"
    assert time.monotonic() - began < 1.5


# What the transport raises, and whether a byte of the request may have left by then.
RAISED: dict[type[httpx.TransportError], str | None] = {
    httpx.ConnectError: "unreachable",
    httpx.ConnectTimeout: "unreachable",
    httpx.PoolTimeout: "busy",
    httpx.ReadTimeout: None,
    httpx.WriteTimeout: None,
    httpx.ReadError: None,
    httpx.WriteError: None,
    httpx.CloseError: None,
    httpx.RemoteProtocolError: None,
    httpx.LocalProtocolError: None,
    httpx.ProxyError: None,
}


@pytest.mark.parametrize("error", RAISED)
async def test_the_transport_fails_with(error: type[httpx.TransportError]) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error("it failed")

    transport = httpx.MockTransport(fail)
    timeout = Micros(US_PER_S)
    async with Gabber(
        base_url="https://x", api_key=KEY, timeout=timeout, clock=SystemClock(), transport=transport
    ) as adapter:
        outcome = await adapter.start(ASKED)
    match outcome:
        case Refused(status=None, code=code):
            assert code == RAISED[error]
        case Unconfirmed():
            assert RAISED[error] is None
        case _:
            pytest.fail(f"{outcome}")


async def test_nobody_listens() -> None:
    async with raw_server([]) as server:
        url = server.url
    async with gabber(url) as adapter:
        outcome = await adapter.start(ASKED)
    assert isinstance(outcome, Refused)
    assert (outcome.status, outcome.code) == (None, "unreachable")


async def test_a_handshake_that_never_ends_is_a_refusal() -> None:
    """TLS: the request is written only after the handshake, so not a byte of it has left."""
    async with raw_server([Pause(5)]) as server, gabber(server.url.replace("http:", "https:"), 400) as adapter:
        began = time.monotonic()
        outcome = await adapter.start(ASKED)
        assert isinstance(outcome, Refused)
        assert outcome.code == "unreachable"
        assert time.monotonic() - began < 1


async def test_the_connections_are_few_and_a_start_that_finds_none_is_a_refusal() -> None:
    async with raw_server([Pause(0.6), http(200, confirmed())]) as server, gabber(server.url, 2000) as adapter:
        outcomes = await asyncio.gather(*(adapter.start(ASKED) for _ in range(MAX_CONNECTIONS + 2)))
        assert len(server.requests) == MAX_CONNECTIONS
    assert sum(isinstance(o, Started) for o in outcomes) == MAX_CONNECTIONS
    assert [o.code for o in outcomes if isinstance(o, Refused)] == ["busy"] * 2


async def test_the_secrets_of_a_session_are_in_no_repr() -> None:
    started, _ = await start(http(200, confirmed(connection_details={"url": "wss://secret", "token": "secret"})))
    assert "secret" not in repr(started)
    assert TOKEN not in repr(ASKED)


async def test_odd_names_are_sent_as_they_are() -> None:
    odd = StartRequest(persona="\ud800\0é", scenario='"', time_limit_s=1, webhook="https://x/")
    async with raw_server([http(200, confirmed())]) as server, gabber(server.url) as adapter:
        assert isinstance(await adapter.start(odd), Started)
        sent = json.loads(server.requests[0].partition(b"\r\n\r\n")[2])
        assert (sent["persona"], sent["scenario"]) == (odd.persona, odd.scenario)


async def test_the_first_generation_promises_nothing_more() -> None:
    async with gabber("https://x") as adapter:
        assert adapter.capabilities == Capabilities(
            can_end=False, can_change_limit=False, reports_end=False, signs_webhooks=False
        )
