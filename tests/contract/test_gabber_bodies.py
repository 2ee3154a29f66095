"""The adapter hands over what was answered to a pull, byte for byte, whatever became of it; but no secret of ours."""

import asyncio
import gzip
import hashlib
import json
from urllib.parse import quote

import httpx
import pytest

from app.core.lossless_json import dumps
from app.core.units import Instant, Micros
from app.gabber import Gabber, PulledTimeline, PullFailed, PullFailure, RawBody
from app.gabber.bodies import MAX_KEPT_OF_FAILED, MAX_PAGES_OF_FAILED, MIN_PART_OF_KEY, REMOVED, Recording, of_a_failure
from app.gabber.client import LARGE_BODY
from app.gabber.pages import Page
from app.gabber.wire import MAX_BODY_BYTES
from app.ports.clock import SystemClock
from tests.contract.test_gabber_timeline import BAD, KEY, A, B, gabber, ok, pull
from tests.support.provider import provider
from tests.support.raw_server import Answer, Pause, http, page, raw_server

pytestmark = pytest.mark.anyio

NOTHING_CAME = {"half a head", "no answer", "no HTTP", "a head without end"}
NOT_WHOLE = {
    "a body over the limit", "a compression bomb", "broken gzip", "no gzip at all", "gzip with a tail",
    "an encoding not asked for", "half an answer",
}  # fmt: skip


def sent(answer: Answer) -> bytes:
    """The body of a whole answer."""
    return b"".join(part for part in answer if isinstance(part, bytes)).partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("case", BAD)
async def test_what_was_answered_to_a_failed_pull_comes_with_it(case: str) -> None:
    _, answers, _ = BAD[case]
    failed, server = await pull(*answers)
    assert isinstance(failed, PullFailed)
    if case in NOTHING_CAME:
        assert failed.bodies == ()
        return
    last = failed.bodies[-1]
    assert last.digest == hashlib.sha256(last.content).digest()
    assert not last.redacted
    assert last.truncated == (case in NOT_WHOLE or last.size > MAX_KEPT_OF_FAILED)
    if case not in NOT_WHOLE:
        body = sent(answers[min(len(server.requests), len(answers)) - 1])
        assert (last.content, last.size) == (body[:MAX_KEPT_OF_FAILED], len(body))


# Of answers that are not whole: what is kept, and how much of it was read.
CUT: dict[str, tuple[bytes | None, int]] = {
    "a body over the limit": (b" " * MAX_KEPT_OF_FAILED, MAX_BODY_BYTES + 1),
    "a compression bomb": (b" " * MAX_KEPT_OF_FAILED, MAX_BODY_BYTES + 1),
    "no gzip at all": (b"", 0),
    "gzip with a tail": (b"{}", 2),
    "an encoding not asked for": (b"", 0),
    "half an answer": (page([A]).encode(), len(page([A]))),
}


@pytest.mark.parametrize("case", CUT)
async def test_of_an_answer_that_is_not_whole_there_is_what_could_be_read(case: str) -> None:
    failed, _ = await pull(*BAD[case][1])
    (body,) = failed.bodies
    assert (body.content, body.size, body.truncated) == (*CUT[case], True)


async def test_of_a_timeline_all_pages_come_as_they_were() -> None:
    first, second = page([A], "x", 2), json.dumps(json.loads(page([B], None, 2)), indent=3)
    pulled, _ = await pull([http(200, first)], [http(201, second)])
    assert isinstance(pulled, PulledTimeline)
    found = [(body.page, body.status, body.content_type, body.content.decode()) for body in pulled.bodies]
    assert found == [(1, 200, "application/json", first), (2, 201, "application/json", second)]
    assert pulled.requested_at <= pulled.bodies[0].received_at <= pulled.bodies[1].received_at
    assert [(body.size, body.truncated, body.redacted) for body in pulled.bodies] == [
        (len(first), False, False),
        (len(second), False, False),
    ]


async def test_gzip_is_kept_as_what_it_holds() -> None:
    pulled, _ = await pull([http(200, gzip.compress(page([A]).encode()), "Content-Encoding: gzip")])
    assert [body.content for body in pulled.bodies] == [page([A]).encode()]


async def test_only_the_pull_that_counted_is_kept() -> None:
    pulled, _ = await pull(ok([A], 2, 2), ok([B], 3, 3), ok([A], 2, 3), ok([B, A], None, 3))
    assert isinstance(pulled, PulledTimeline)
    assert [body.content.decode() for body in pulled.bodies] == [page([A], 2, 3), page([B, A], None, 3)]


async def test_of_many_pages_that_came_to_nothing_there_are_the_first_and_the_last() -> None:
    failed, _ = await pull(*(ok([A], f"page-{n}", 99) for n in range(8)), [http(500, "x")])
    assert [body.page for body in failed.bodies] == [1, 7, 8, 9]
    assert len(failed.bodies) == MAX_PAGES_OF_FAILED


async def test_a_status_decides_though_its_body_never_ends() -> None:
    drip: list[bytes | Pause] = [http(429, "wait", "Retry-After: 7", length=9999)]
    failed, _ = await pull([*drip, Pause(3)], timeout_ms=400)
    assert isinstance(failed, PullFailed)
    assert (failed.kind, failed.pause) == (PullFailure.RATE_LIMITED, 7_000_000)
    (body,) = failed.bodies
    assert (body.status, body.content, body.truncated) == (429, b"wait", True)


async def test_a_status_decides_though_the_deadline_of_the_pull_cuts_off_its_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(*_: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(Gabber, "_rest_of_a_failure", never)
    monkeypatch.setattr("app.gabber.client.PULL_DEADLINE_TIMEOUTS", 0.5)
    failed, _ = await pull([http(429, "wait")], timeout_ms=600)
    assert isinstance(failed, PullFailed)
    assert failed.kind is PullFailure.RATE_LIMITED
    assert [body.status for body in failed.bodies] == [429]


async def test_a_pull_that_took_too_long_has_the_pages_that_came() -> None:
    slow: list[Answer] = [[Pause(0.15), *ok([A], f"page-{n}", 99)] for n in range(20)]
    failed, _ = await pull(*slow, timeout_ms=200)
    assert isinstance(failed, PullFailed)
    assert failed.kind is PullFailure.TIMEOUT
    assert failed.bodies[0].content.decode() == page([A], "page-0", 99)


# Secrets

ODD_KEY = 'key/with "odd" & signs\\='
TOKEN = "A1_-" * 23
HOOK = f"https://talktime.example/webhooks/gabber/{TOKEN}"
ECHOES = {
    "as it is": ODD_KEY.encode(),
    "in JSON": json.dumps(ODD_KEY)[1:-1].encode(),
    "in JSON with slashes escaped": json.dumps(ODD_KEY)[1:-1].replace("/", "\\/").encode(),
    "percent-encoded": quote(ODD_KEY, safe="").encode(),
}


def recorded(content: bytes, *, whole: bool = True, key: str = ODD_KEY, kind: str = "text/plain") -> RawBody:
    recording = Recording(key)
    response = httpx.Response(500, headers={"content-type": kind})
    recording.add(response, content, content if whole else None, Instant(1))
    return recording.bodies[0]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("case", ECHOES)
async def test_the_key_is_taken_out_however_it_is_written(case: str, whole: bool) -> None:
    body = recorded(b"x" + ECHOES[case] + b"y" + ECHOES[case], whole=whole)
    assert (body.content, body.redacted) == (b"x" + REMOVED + b"y" + REMOVED, True)


@pytest.mark.parametrize("hook", [HOOK, HOOK.replace("/", "\\/"), quote(HOOK, safe="")])
async def test_tokens_of_webhooks_are_taken_out(hook: str) -> None:
    body = recorded(f'{{"webhook": "{hook}"}}'.encode())
    assert (body.content.decode(), body.redacted) == (f'{{"webhook": "{hook.replace(TOKEN, "[removed]")}"}}', True)
    assert TOKEN[:20].encode() not in recorded(hook[:-3].encode(), whole=False).content


HIDDEN = {
    "slashes as numbers": HOOK.replace("/", "\\u002f"),
    "more as numbers": HOOK.replace("/", "\\u002F").replace("-", "\\u002d"),
    "percent, twice": quote(quote(HOOK, safe=""), safe=""),
    "UTF-16": HOOK.encode("utf-16-le").decode("latin-1"),
    "the whole key as numbers": "".join(f"\\u{ord(letter):04x}" for letter in ODD_KEY),
    "the whole key in percent": "".join(f"%{ord(letter):02X}" for letter in ODD_KEY),
}


@pytest.mark.parametrize("hidden", [*HIDDEN.values(), json.dumps(json.dumps({"webhook": HOOK.replace("/", "\\/")}))])
async def test_what_hides_a_secret_behind_escapes_is_not_kept(hidden: str) -> None:
    body = recorded(f'{{"webhook": "{hidden}"}}'.encode("latin-1"))
    assert body.redacted
    assert TOKEN.encode() not in body.content
    # Where the token itself stands in the open, it is enough to take that out.
    assert body.content == REMOVED or TOKEN in hidden


@pytest.mark.parametrize("hidden", HIDDEN)
async def test_a_timeline_that_hides_a_secret_is_read_without_it(hidden: str) -> None:
    text = HIDDEN[hidden]
    values = f'[{{"type": "agent", "seconds": 1.50, "note": "{text}", "{text}": 7}}, "ü\\ud800"]'
    body = f'{{"values": {values}, "next_page": "{text}", "total_count": 1}}'
    if hidden == "UTF-16":
        body = body.replace(text, HOOK)
    found = Recording(ODD_KEY).read(body.encode("utf-16-le" if hidden == "UTF-16" else "utf-8"))
    assert isinstance(found, Page)
    first, second = found.values
    assert isinstance(first, dict)
    note = first["note"]
    assert "[removed]" in note
    assert first == {"type": "agent", "seconds": "1.50", "note": note, note: "7"}
    assert second == "ü\ud800"
    for secret in (TOKEN, ODD_KEY):
        assert secret not in dumps([found.values, found.next_page])
        assert secret not in note


@pytest.mark.parametrize(
    "hidden",
    [
        TOKEN.replace("_", "\\u005f"),
        TOKEN.replace("-", "%2D"),
        "".join(f"\\u{ord(letter):04x}" for letter in TOKEN),
        json.dumps(TOKEN.replace("_", "\\u005f"))[1:-1],
    ],
)
async def test_neither_does_a_bare_token_hide_behind_escapes(hidden: str) -> None:
    body = f'{{"values": [{{"type": "agent", "note": "{hidden}"}}], "next_page": null, "total_count": 1}}'.encode()
    assert recorded(body).content == REMOVED
    for encoding in ("utf-8", "utf-16-le"):
        found = Recording(ODD_KEY).read(body.decode().encode(encoding))
        assert isinstance(found, Page)
        assert found.values == [{"type": "agent", "note": "[removed]"}]
    assert TOKEN not in repr(recorded(b"x", kind=f"text/{quote(ODD_KEY, safe='')}"))
    assert recorded(b"x", kind=f"text/{quote(quote(ODD_KEY, safe=''), safe='')}").content_type == "[removed]"


async def test_a_token_is_taken_out_wherever_it_stands_and_no_number_is() -> None:
    long = "1" * 95
    said = f'{{"token": "{TOKEN}", "seconds": 0.{long}, "other": 3.{long}e-7, "third": 0.{long}E+2, "minus": -{long}}}'
    body = recorded(said.encode())
    assert (body.content.decode(), body.redacted) == (said.replace(TOKEN, "[removed]"), True)
    assert not recorded(said.replace(TOKEN, "short").encode()).redacted


async def test_no_secret_comes_into_the_values_of_a_timeline() -> None:
    pulled, _ = await pull(ok([[f'"{KEY}"', "1"], ['"x/webhooks/gabber/' + TOKEN + '"', "2"]]))
    assert KEY not in repr(pulled)
    assert TOKEN not in repr(pulled)
    assert "[removed]" in repr(pulled)


def answered(values: str, count: int) -> list[bytes]:
    return [http(200, f'{{"values": {values}, "next_page": null, "total_count": {count}}}')]


async def test_a_bare_token_does_not_either() -> None:
    pulled, _ = await pull(answered(f'["{TOKEN}", {{"{TOKEN}": ["{TOKEN}", 1.50]}}]', 2))
    assert TOKEN not in repr(pulled)
    assert isinstance(pulled, PulledTimeline)
    assert dumps(list(pulled.values)) == '["[removed]",{"[removed]":["[removed]",1.50]}]'


async def test_a_large_page_is_read_like_a_small_one() -> None:
    many = ",".join(f'{{"type":"user","seconds":{n}.50}}' for n in range(12_000))
    assert len(many) > LARGE_BODY
    pulled, _ = await pull(answered(f"[{many}]", 12_000))
    assert isinstance(pulled, PulledTimeline)
    assert dumps(list(pulled.values)) == f"[{many}]"


@pytest.mark.parametrize("length", range(1, len(ODD_KEY)))
async def test_half_a_key_at_the_end_of_what_came_is_taken_out(length: int) -> None:
    part = ODD_KEY[:length].encode()
    body = recorded(b"the key " + part, whole=False)
    gone = length >= MIN_PART_OF_KEY
    assert (body.content, body.redacted) == (b"the key " + (REMOVED if gone else part), gone)


async def test_a_key_at_the_edge_of_what_is_kept_is_taken_out() -> None:
    for before in range(MAX_KEPT_OF_FAILED - len(KEY), MAX_KEPT_OF_FAILED + 1, 5):
        content = b"x" * before + KEY.encode() + b"y" * 100
        for body in (recorded(content, whole=False, key=KEY), *of_a_failure([recorded(content, key=KEY)])):
            assert body.content.rstrip(b"[removed]y") == b"x" * before
            assert KEY[:MIN_PART_OF_KEY].encode() not in body.content
            assert len(body.content) <= MAX_KEPT_OF_FAILED + len(REMOVED)


async def test_the_key_is_in_no_content_type_and_no_repr() -> None:
    body = recorded(b"secret words", key=KEY, kind=f"text/{KEY};{'x' * 500}")
    assert body.content_type is not None
    assert KEY not in body.content_type
    assert len(body.content_type) <= 100
    assert "secret" not in repr(body)


async def test_an_echo_of_the_key_in_an_answer_is_taken_out() -> None:
    failed, _ = await pull([http(401, json.dumps({"error": f"unknown key {KEY}"}))])
    (body,) = failed.bodies
    assert (json.loads(body.content), body.redacted) == ({"error": "unknown key [removed]"}, True)


async def test_the_simulated_providers_answers_are_kept_byte_for_byte() -> None:
    with provider(speed=1000, page_size=2) as simulated:
        session_id = simulated.start("guide", time_limit_s=30)
        while len(simulated.truth(session_id)["timeline"]) < 12:
            pass
        async with Gabber(
            base_url=simulated.url, api_key=simulated.key, timeout=Micros(2_000_000), clock=SystemClock()
        ) as adapter:
            pulled = await adapter.timeline(session_id)
        first = simulated.call("GET", f"/api/v1/session/{session_id}/timeline")
    assert isinstance(pulled, PulledTimeline)
    assert len(pulled.bodies) == 6
    assert pulled.bodies[0].content == first.content
    assert pulled.bodies[0].content_type == first.headers["content-type"]


async def test_a_base_url_that_answers_nothing_leaves_nothing() -> None:
    async with raw_server([]) as server:
        url = server.url
    async with gabber(url) as adapter:
        failed = await adapter.timeline("s1")
    assert isinstance(failed, PullFailed)
    assert failed.bodies == ()
