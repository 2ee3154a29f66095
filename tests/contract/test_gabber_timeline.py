"""The adapter pulls a timeline: all pages or nothing, whatever the provider sends. One line per case."""

import gzip
import json
import logging
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from app.core.budget import NotNow
from app.core.lossless_json import MAX_DEPTH, JsonNumber
from app.core.units import US_PER_S, Instant, Micros, datetime_of
from app.gabber import Gabber, PulledTimeline, PullFailed, PullFailure
from app.gabber import client as client_module
from app.gabber import pages as pages_module
from app.gabber.pages import MAX_PAGE_TOKEN_CHARS, MAX_PAGES, MAX_VALUES
from app.gabber.wire import MAX_BODY_BYTES, MAX_TEXT_CHARS, TooLarge, plain, read_body
from app.ports.clock import SystemClock
from tests.support.raw_server import Answer, Pause, RawServer, http, page, raw_server

pytestmark = pytest.mark.anyio
KEY = "service-key-of-the-tests"
PATH = "/api/v1/session/s1/timeline"
A, B, C = ({"type": t, "seconds": 1.5} for t in ("user", "agent", "silence"))


@asynccontextmanager
async def gabber(base_url: str, timeout_ms: int = 2000) -> AsyncIterator[Gabber]:
    async with Gabber(
        base_url=base_url, api_key=KEY, timeout=Micros(timeout_ms * 1000), clock=SystemClock()
    ) as adapter:
        yield adapter


async def pull(*answers: Answer, timeout_ms: int = 2000) -> tuple[PulledTimeline | PullFailed, RawServer]:
    async with raw_server(*answers) as server, gabber(server.url, timeout_ms) as adapter:
        outcome = await adapter.timeline("s1")
        assert not isinstance(outcome, NotNow)
        return outcome, server


def ok(*args: object) -> list[bytes]:
    return [http(200, page(*args))]


def wrapped(status: object, body: str) -> list[bytes]:
    return [http(200, f'{{"status": {json.dumps(status)}, "body": {body}}}')]


# Two pages, the first naming the second in each known way: what is asked for second.
NEXT = {
    "a token": ("abc", f"{PATH}?page=abc"),
    "a token with base64's characters": ("/a+b/c==", f"{PATH}?page=%2Fa%2Bb%2Fc%3D%3D"),
    "a token like a host": ("//evil.example", f"{PATH}?page=%2F%2Fevil.example"),
    "a token of digits": ("7", f"{PATH}?page=7"),
    "an integer": (2, f"{PATH}?page=2"),
    "zero": (0, f"{PATH}?page=0"),
    "a relative path": (f"{PATH}?cursor=x", f"{PATH}?cursor=x"),
    "a relative path without a query": (f"{PATH}/2", f"{PATH}/2"),
    "a relative query": ("?cursor=x", f"{PATH}?cursor=x"),
    "a path from here": ("timeline?cursor=x", f"{PATH}?cursor=x"),
    "an absolute URL": ("{base}" + PATH + "?cursor=x#here", f"{PATH}?cursor=x"),
    "an absolute URL of no scheme": ("{noscheme}" + PATH + "?cursor=x", f"{PATH}?cursor=x"),
}


@pytest.mark.parametrize("case", NEXT)
async def test_it_follows_next_page_as(case: str) -> None:
    following, expected = NEXT[case]
    async with raw_server() as server, gabber(server.url) as adapter:
        if isinstance(following, str):
            following = following.format(base=server.url, noscheme=server.url.removeprefix("http:"))
        server.answers = [ok([A, B], following, 3), ok([C], None, 3)]
        pulled = await adapter.timeline("s1")
        assert isinstance(pulled, PulledTimeline), pulled
        assert [v["type"] for v in pulled.values if isinstance(v, dict)] == ["user", "agent", "silence"]
        assert server.targets == [PATH, expected]
        assert all(f"x-api-key: {KEY}".encode() in request for request in server.requests)


# One page, answered 200: the values that come out.
GOOD: dict[str, tuple[list[bytes | Pause], list[object]]] = {
    "the guide's envelope": (list(wrapped(200, page([A, B]))), [A, B]),
    "an envelope without a status": ([http(200, '{"body": ' + page([A]) + "}")], [A]),
    "a bare page": (list(ok([A])), [A]),
    "nothing was said yet": (list(ok([])), []),
    "next_page left out": ([http(200, '{"values": [], "total_count": 0}')], []),
    "next_page empty": (list(ok([A], "")), [A]),
    "unknown and missing fields": (
        list(ok([{}, {"type": None}, {"kind": 1}, 7, None, "x"])),
        [{}, {"type": None}, {"kind": "1"}, "7", None, "x"],
    ),
    "numbers digit for digit": (
        [http(200, '{"values": [1.50, NaN, -Infinity, 1e400, 0.1000], "next_page": null, "total_count": 5}')],
        ["1.50", "NaN", "-Infinity", "1e400", "0.1000"],
    ),
    "lone surrogates and NUL": (
        [http(200, '{"values": ["\\ud800\\u0000"], "next_page": null, "total_count": 1}')],
        ["\ud800\0"],
    ),
    "a byte order mark": ([http(200, b"\xef\xbb\xbf" + page([A]).encode())], [A]),
    "gzip": ([http(200, gzip.compress(page([A]).encode()), "Content-Encoding: gzip")], [A]),
    "chunks": (
        [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            *(b"%x\r\n%b\r\n" % (1, page([A])[i : i + 1].encode()) for i in range(len(page([A])))),
            b"0\r\n\r\n",
        ],
        [A],
    ),
    "an answer in two halves": ([http(200, page([A]))[:90], Pause(0.05), http(200, page([A]))[90:]], [A]),
    "an early hint before it": ([b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", *ok([A])], [A]),
    "a status of 201": ([http(201, page([A]))], [A]),
}


@pytest.mark.parametrize("case", GOOD)
async def test_it_reads(case: str) -> None:
    answer, expected = GOOD[case]
    pulled, _ = await pull(answer)
    assert isinstance(pulled, PulledTimeline), pulled
    texts = json.loads(json.dumps(expected), parse_float=JsonNumber, parse_int=JsonNumber)
    assert list(pulled.values) == texts


bomb = gzip.compress(b" " * (MAX_BODY_BYTES * 12))
deep = "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)
F = PullFailure
# What a pull comes to, the answers that lead there, and the number of requests (3 pulls where repeating could help).
BAD: dict[str, tuple[PullFailure, list[Answer], int]] = {
    "404": (F.NOT_FOUND, [[http(404, "{}")]], 1),
    "410": (F.NOT_FOUND, [[http(410, "{}")]], 1),
    "401": (F.UNAUTHORIZED, [[http(401, "{}")]], 1),
    "403": (F.UNAUTHORIZED, [[http(403, "")]], 1),
    "400": (F.REFUSED, [[http(400, '{"type": "project_disabled"}')]], 1),
    "429": (F.RATE_LIMITED, [[http(429, "slow down")]], 1),
    "408": (F.TIMEOUT, [[http(408, "")]], 1),
    "500": (F.SERVER_ERROR, [[http(500, '{"error": "x"}')]], 1),
    "503": (F.SERVER_ERROR, [[http(503, "<html>")]], 1),
    "a redirect within": (F.REDIRECTED, [[http(302, "", "Location: /elsewhere")]], 1),
    "a redirect to another origin": (F.REDIRECTED, [[http(307, "", "Location: http://127.0.0.1:9/")]], 1),
    "an unknown status": (F.MALFORMED, [[http(600, "{}")]], 1),
    "204 without a body": (F.MALFORMED, [[b"HTTP/1.1 204 No Content\r\n\r\n"]], 1),
    "an error inside the envelope": (F.NOT_FOUND, [wrapped(404, "null")], 1),
    "an error on the second page": (F.SERVER_ERROR, [ok([A], 2, 2), [http(500, "")]], 2),
    "no JSON": (F.MALFORMED, [[http(200, "<html>")]], 1),
    "half a JSON": (F.MALFORMED, [[http(200, page([A])[:-2])]], 1),
    "no UTF-8": (F.MALFORMED, [[http(200, b'{"values": ["\xff"], "total_count": 1}')]], 1),
    "nested too deeply": (F.MALFORMED, [[http(200, deep)]], 1),
    "nested without end": (F.MALFORMED, [[http(200, "[" * 1_000_000)]], 1),
    "an array": (F.MALFORMED, [[http(200, "[]")]], 1),
    "a null": (F.MALFORMED, [[http(200, "null")]], 1),
    "no values": (F.MALFORMED, [[http(200, '{"next_page": null, "total_count": 0}')]], 1),
    "values that are no list": (F.MALFORMED, [ok({"0": A}, None, 1)], 1),
    "no total_count": (F.MALFORMED, [[http(200, '{"values": [], "next_page": null}')]], 1),
    "a negative total_count": (F.MALFORMED, [ok([], None, -1)], 1),
    "a broken total_count": (F.MALFORMED, [ok([A], None, 1.5)], 1),
    "total_count as a text": (F.MALFORMED, [ok([A], None, "1")], 1),
    "total_count true": (F.MALFORMED, [ok([A], None, True)], 1),
    "a total_count beyond the limit": (F.TOO_LARGE, [ok([], "x", MAX_VALUES + 1)], 1),
    "next_page true": (F.MALFORMED, [ok([A], True, 2)], 1),
    "next_page a list": (F.MALFORMED, [ok([A], [2], 2)], 1),
    "next_page a fraction": (F.MALFORMED, [ok([A], 1.5, 2)], 1),
    "next_page negative": (F.MALFORMED, [ok([A], -1, 2)], 1),
    "next_page with a line break": (F.MALFORMED, [ok([A], "a\r\nx-evil: 1", 2)], 1),
    "next_page a lone surrogate": (F.MALFORMED, [ok([A], "\ud800", 2)], 1),
    "next_page no URL": (F.MALFORMED, [ok([A], "http://[::1/x", 2)], 1),
    "next_page too long": (F.TOO_LARGE, [ok([A], "x" * (MAX_PAGE_TOKEN_CHARS + 1), 2)], 1),
    "another host": (F.FOREIGN_PAGE, [ok([A], "http://127.0.0.2/x?page=2", 2)], 1),
    "another port": (F.FOREIGN_PAGE, [ok([A], "http://127.0.0.1:9/x?page=2", 2)], 1),
    "another scheme": (F.FOREIGN_PAGE, [ok([A], "https://127.0.0.1/x?page=2", 2)], 1),
    "another host without a scheme": (F.FOREIGN_PAGE, [ok([A], "//evil.example/x?page=2", 2)], 1),
    "a file": (F.FOREIGN_PAGE, [ok([A], "file:///etc/passwd", 2)], 1),
    "a page that names itself": (F.INCONSISTENT, [ok([A], "x", 9)], 6),
    "fewer values than the total": (F.INCONSISTENT, [ok([A], None, 2)], 3),
    "more values than the total": (F.INCONSISTENT, [ok([A, B], None, 1)], 3),
    "a total that always changes": (F.INCONSISTENT, [ok([A], n % 2 or None, n) for n in range(3, 9)], 6),
    "a body over the limit": (F.TOO_LARGE, [[http(200, b" " * (MAX_BODY_BYTES + 1))]], 1),
    "a compression bomb": (F.TOO_LARGE, [[http(200, bomb, "Content-Encoding: gzip")]], 1),
    "broken gzip": (F.MALFORMED, [[http(200, gzip.compress(page([A]).encode())[:-9], "Content-Encoding: gzip")]], 1),
    "no gzip at all": (F.MALFORMED, [[http(200, "{}", "Content-Encoding: gzip")]], 1),
    "gzip with a tail": (F.MALFORMED, [[http(200, gzip.compress(b"{}") + b"tail", "Content-Encoding: gzip")]], 1),
    "an encoding not asked for": (F.MALFORMED, [[http(200, "x", "Content-Encoding: br")]], 1),
    "half an answer": (F.CONNECTION, [[http(200, page([A]), length=500)]], 1),
    "half a head": (F.CONNECTION, [[b"HTTP/1.1 200 OK\r\nContent-"]], 1),
    "no answer": (F.CONNECTION, [[]], 1),
    "no HTTP": (F.CONNECTION, [[b"SSH-2.0-OpenSSH\r\n\r\n"]], 1),
    "a head without end": (F.CONNECTION, [[b"HTTP/1.1 200 OK\r\n", *[b"X-A: " + b"a" * 9000 + b"\r\n"] * 200]], 1),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
async def test_it_takes_nothing_of(case: str) -> None:
    kind, answers, requests = BAD[case]
    failed, server = await pull(*answers)
    assert isinstance(failed, PullFailed)
    assert (failed.kind, len(server.requests)) == (kind, requests), failed


async def test_it_gives_up_on_a_silent_provider() -> None:
    failed, _ = await pull([Pause(5)], timeout_ms=200)
    assert isinstance(failed, PullFailed)
    assert failed.kind is PullFailure.TIMEOUT


async def test_it_gives_up_on_a_drip_that_each_single_read_would_accept() -> None:
    began = time.monotonic()
    drip: list[bytes | Pause] = [http(200, page([A]))[:90]]
    drip += [Pause(0.05), b" "] * 100
    failed, _ = await pull(drip, timeout_ms=300)
    assert isinstance(failed, PullFailed)
    # Its own deadline ends it, not that of the whole pull.
    assert (failed.kind, failed.detail) == (PullFailure.TIMEOUT, "the provider did not answer in time")
    assert time.monotonic() - began < 1


async def test_pages_that_each_come_in_time_do_not_stretch_the_pull_for_ever() -> None:
    slow: list[Answer] = [[Pause(0.15), *ok([A], f"page-{n}", 99)] for n in range(20)]
    began = time.monotonic()
    failed, server = await pull(*slow, timeout_ms=200)
    assert isinstance(failed, PullFailed)
    assert failed.kind is PullFailure.TIMEOUT
    assert 2 <= len(server.requests) <= client_module.PULL_DEADLINE_TIMEOUTS * 2
    assert time.monotonic() - began < 1.5


async def test_a_provider_that_is_not_there_is_a_connection_failure() -> None:
    async with raw_server([]) as server:
        url = server.url
    async with gabber(url) as adapter:
        failed = await adapter.timeline("s1")
    assert isinstance(failed, PullFailed)
    assert failed.kind is PullFailure.CONNECTION


async def test_a_total_that_changed_once_is_pulled_again() -> None:
    before = SystemClock().now()
    pulled, server = await pull(ok([A], 2, 2), ok([B], 3, 3), [Pause(0.1), *ok([A], 2, 3)], ok([B, C], None, 3))
    assert isinstance(pulled, PulledTimeline)
    assert len(pulled.values) == 3
    assert len(server.requests) == 4
    # Both stamps belong to the pull that counted: the evidence is not older than what it says.
    assert before < pulled.requested_at
    assert 100_000 <= pulled.received_at - pulled.requested_at < 1_000_000


async def test_the_stamps_enclose_all_pages() -> None:
    pulled, _ = await pull([Pause(0.05), *ok([A], 2, 2)], [http(200, page([B], None, 2))[:-1], Pause(0.05), b"}"])
    assert isinstance(pulled, PulledTimeline)
    assert pulled.received_at - pulled.requested_at >= 100_000


async def test_the_number_of_pages_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_PAGES", 4)
    failed, server = await pull(*(ok([A], f"page-{n}", 99) for n in range(9)))
    assert isinstance(failed, PullFailed)
    assert failed.kind is PullFailure.TOO_LARGE
    assert len(server.requests) == 4
    assert MAX_PAGES == 500


async def test_the_bytes_of_all_pages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_TIMELINE_BYTES", 200)
    failed, server = await pull(*(ok([A], f"page-{n}", 99) for n in range(9)))
    assert isinstance(failed, PullFailed)
    assert failed.kind is PullFailure.TOO_LARGE
    assert len(server.requests) == 3


IDS = {
    "a/../b": "a%2F..%2Fb",
    "a?b#c": "a%3Fb%23c",
    "é ü": "%C3%A9%20%C3%BC",
    "%2e": "%252e",
    "a\r\nb": "a%0D%0Ab",
}


@pytest.mark.parametrize("session_id", IDS)
async def test_an_odd_session_id_stays_one_part_of_the_path(session_id: str) -> None:
    async with raw_server(ok([])) as server, gabber(server.url) as adapter:
        assert isinstance(await adapter.timeline(session_id), PulledTimeline)
        assert server.targets == [f"/api/v1/session/{IDS[session_id]}/timeline"]


@pytest.mark.parametrize("session_id", ["", ".", "..", "\ud800", "x" * 256])
async def test_what_can_be_no_session_id_is_not_asked_for(session_id: str) -> None:
    async with raw_server(ok([])) as server, gabber(server.url) as adapter:
        failed = await adapter.timeline(session_id)
        assert isinstance(failed, PullFailed)
        assert failed.kind is PullFailure.NOT_FOUND
        assert server.requests == []


def _http_date(offset_s: int) -> str:
    return datetime_of(Instant(SystemClock().now() + offset_s * US_PER_S)).strftime("%a, %d %b %Y %H:%M:%S GMT")


RETRY_AFTER: dict[str, tuple[str | int, int | None, int | None]] = {
    "seconds": ("7", 7, 7),
    "zero": ("0", 0, 0),
    "a date": (100, 60, 100),
    "a date in the past": (-100, 0, 0),
    "far too long": ("99999999999999999999", 3600, 3600),
    "a date without a zone": ("Fri, 31 Dec 9999 23:59:59 -0000", 3600, 3600),
    "negative": ("-5", None, None),
    "nonsense": ("soon", None, None),
    "other digits": ("\xb2", None, None),
    "an impossible date": ("Fri, 99 Dec 2026 25:61:61 GMT", None, None),
}  # fmt: skip


@pytest.mark.parametrize("case", RETRY_AFTER)
async def test_retry_after_is_read_from(case: str) -> None:
    header, low, high = RETRY_AFTER[case]
    text = header if isinstance(header, str) else _http_date(header)  # seconds from now, when it is asked for
    failed, _ = await pull(
        [http(429, "{}").replace(b"\r\n\r\n", b"\r\nRetry-After: " + text.encode("latin-1") + b"\r\n\r\n")]
    )
    assert isinstance(failed, PullFailed)
    if low is None or high is None:
        assert failed.retry_after is None
    else:
        assert failed.retry_after is not None
        assert low * US_PER_S <= failed.retry_after <= high * US_PER_S


async def test_no_proxy_no_netrc_and_no_cookies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    answer = [http(200, page([A], 2, 2), "Set-Cookie: a=b; Path=/")]
    pulled, server = await pull(answer, ok([B], None, 2))
    assert isinstance(pulled, PulledTimeline)
    assert all(b"cookie" not in r.lower() and b"authorization" not in r.lower() for r in server.requests)


async def test_neither_urls_nor_the_key_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("something.else").setLevel(logging.DEBUG)
    with caplog.at_level(logging.DEBUG):
        await pull(ok([A]))
    assert not [r for r in caplog.records if r.name.startswith("http")]
    assert KEY not in caplog.text


async def test_the_key_is_in_no_text_of_the_adapter() -> None:
    async with gabber("http://127.0.0.1:1") as adapter:
        assert KEY not in repr(adapter)


@pytest.mark.parametrize(
    "base_url",
    ["", "app.gabber.dev", "ftp://x", "https://u:p@x", "https://x?y", "http://[::1", "https:///x", "https://\ud800"],
)
def test_a_bad_base_url_stops_the_start(base_url: str) -> None:
    with pytest.raises(ValueError, match="base URL") as caught:
        Gabber(base_url=base_url, api_key=KEY, timeout=Micros(1), clock=SystemClock())
    assert not base_url or base_url not in str(caught.value)


@pytest.mark.parametrize("key", ["", " k", "k\n", "k\x00", "ключ"])
def test_a_bad_key_stops_the_start(key: str) -> None:
    with pytest.raises(ValueError, match="provider key"):
        Gabber(base_url="https://x", api_key=key, timeout=Micros(1), clock=SystemClock())


async def test_a_base_url_may_have_a_path() -> None:
    async with raw_server(ok([A], "abc", 2), ok([B], None, 2)) as server, gabber(server.url + "/gw/") as adapter:
        assert isinstance(await adapter.timeline("s1"), PulledTimeline)
        assert server.targets == [f"/gw{PATH}", f"/gw{PATH}?page=abc"]


def test_which_failures_are_worth_a_new_attempt_soon() -> None:
    assert {f.name for f in PullFailure if f.transient} == {
        "RATE_LIMITED",
        "SERVER_ERROR",
        "TIMEOUT",
        "CONNECTION",
        "INCONSISTENT",
    }


def test_one_origin_is_one_scheme_host_and_port() -> None:
    first = httpx.URL("https://app.gabber.dev" + PATH)
    for same in ("https://app.gabber.dev:443/x?y", "HTTPS://APP.gabber.dev/x?y", "/x?y"):
        assert isinstance(pages_module.next_url(first, same), httpx.URL), same
    for foreign in (
        "http://app.gabber.dev:443/x?y",
        "https://app.gabber.dev.evil/x?y",
        "https://k@app.gabber.dev/x?y",
        "https://app.gabber.dev\\@evil/x?y",
        "https://evil\\@app.gabber.dev/x?y",
    ):
        assert isinstance(pages_module.next_url(first, foreign), PullFailed), foreign


async def test_a_compression_bomb_is_never_inflated() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            await read_body(httpx.Response(200, headers={"content-encoding": "gzip"}, stream=_Stream(bomb)))
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_BODY_BYTES
    finally:
        tracemalloc.stop()


class _Stream(httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content


def test_a_foreign_text_is_read_only_so_far() -> None:
    assert plain("a" + "\0" * (4 * MAX_TEXT_CHARS) + "b") == "a"
