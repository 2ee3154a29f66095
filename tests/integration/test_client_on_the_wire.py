"""The Python client over real sockets: answers that are cut, that drip, that never come; and how requests look."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from talktime.client import AsyncTalktime, RetryPolicy, Talktime
from talktime.errors import ConnectionFailed, TimedOut
from tests.support.raw_server import Answer, Pause, RawServer, raw_server
from tests.unit.test_client_values import GRANT

pytestmark = pytest.mark.anyio

KEY = "ttk_a_key_that_nobody_may_see"
BODY = json.dumps(GRANT).encode()
HEAD = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
GOOD: Answer = [HEAD + BODY]
QUICK = RetryPolicy(attempts=3, first_wait_s=0, longest_wait_s=0)

Grant = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["sync", "async"])
def grant(request: pytest.FixtureRequest) -> Grant:
    """Grants a credit by a client of this kind at this URL."""

    def in_a_thread(url: str, options: dict[str, Any]) -> Any:
        with Talktime(url, KEY, **options) as client:
            return client.grant("ada", amount=1)

    async def granted(url: str, **options: Any) -> Any:
        if request.param == "sync":
            return await asyncio.to_thread(in_a_thread, url, options)
        async with AsyncTalktime(url, KEY, **options) as client:
            return await client.grant("ada", amount=1)

    return granted


def headers_of(server: RawServer, name: str) -> list[str]:
    found = []
    for request in server.requests:
        head = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        found += [line.partition(": ")[2] for line in head if line.lower().startswith(f"{name}:")]
    return found


@pytest.mark.parametrize(
    "broken",
    [[b""], [HEAD[:20]], [HEAD], [HEAD + BODY[:-1]], [b"nonsense\r\n\r\n"]],
    ids=["nothing", "half a head", "a head", "all but a byte", "no HTTP"],
)
async def test_an_answer_that_is_cut_is_asked_for_again_under_the_same_key(grant: Grant, broken: Answer) -> None:
    async with raw_server(broken, broken, GOOD) as server:
        assert (await grant(server.url, retries=QUICK)).id == GRANT["id"]
    keys = headers_of(server, "idempotency-key")
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert len({request.partition(b"\r\n\r\n")[2] for request in server.requests}) == 1


async def test_what_a_request_looks_like(grant: Grant) -> None:
    async with raw_server(GOOD) as server:
        await grant(f"{server.url}/behind/a/proxy/")
    (request,) = server.requests
    assert request.startswith(b"POST /behind/a/proxy/v1/users/ada/grants HTTP/1.1\r\n")
    assert request.endswith(b'\r\n\r\n{"amount":"1"}')
    assert headers_of(server, "authorization") == [f"Bearer {KEY}"]
    assert headers_of(server, "content-type") == headers_of(server, "accept") == ["application/json"]
    assert headers_of(server, "user-agent")[0].startswith("talktime-python/")


async def test_an_answer_that_never_comes_is_given_up_in_time(grant: Grant) -> None:
    async with raw_server([Pause(5)]) as server:
        began = time.monotonic()
        with pytest.raises(TimedOut) as late:
            await grant(server.url, timeout_s=0.1, retries=QUICK)
        assert time.monotonic() - began < 2
    assert late.value.attempts == 3
    assert {late.value.idempotency_key} == set(headers_of(server, "idempotency-key"))


async def test_an_answer_that_drips_ends_at_the_deadline(grant: Grant) -> None:
    """Each byte comes in time, and all of them never would."""
    drops: list[bytes | Pause] = [HEAD]
    for byte in BODY:
        drops += [bytes([byte]), Pause(0.1)]
    async with raw_server(drops) as server:
        began = time.monotonic()
        with pytest.raises(TimedOut):
            await grant(server.url, timeout_s=5, retries=RetryPolicy(attempts=3, deadline_s=0.6))
        assert time.monotonic() - began < 2


async def test_a_closed_port_is_no_answer(grant: Grant) -> None:
    async with raw_server(GOOD) as server:
        url = server.url
    with pytest.raises(ConnectionFailed) as nobody:
        await grant(url, retries=QUICK)
    assert nobody.value.attempts == 3


async def test_logs_do_not_show_the_key(grant: Grant, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("httpx", "httpcore.connection", "httpcore.http11"):  # another test may have quietened them
        caplog.set_level(logging.DEBUG, logger=name)
    async with raw_server(GOOD) as server:
        await grant(server.url)
    assert "httpcore" in {record.name.partition(".")[0] for record in caplog.records}
    assert KEY not in caplog.text


async def test_plain_http_goes_through_no_proxy_of_the_environment(
    grant: Grant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with raw_server(GOOD) as server, raw_server(GOOD) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        await grant(server.url)
    assert proxy.requests == []
