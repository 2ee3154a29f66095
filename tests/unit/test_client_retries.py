"""When the client tries again: edges that a service cannot be made to show at will, before a transport that plays."""

import asyncio
import gzip
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from app import errors as service
from talktime import problems, transport
from talktime.client import AsyncTalktime, Retry, RetryPolicy, Talktime
from talktime.errors import ConnectionFailed, NoAnswer, TalktimeError, TimedOut, UnexpectedAnswer
from talktime.models import Balance, Grant
from talktime.retries import RETRIED, Course, retry_after_s
from tests.unit.test_client_values import GRANT

URL = "http://127.0.0.1:8000"
KEY = "ttk_a_key_that_nobody_may_see"
FAST = RetryPolicy(attempts=4, first_wait_s=0, longest_wait_s=0)


@dataclass(frozen=True)
class Packed:
    """An answer that says it is packed, as it goes over the wire."""

    body: bytes


Played = httpx.Response | Exception | Packed
BALANCE = {
    "user_id": "ada", "balance": "1", "held": "0", "available": "1", "credit_limit": "0", "accrued": None,
    "talk_time_s": None, "expiring_next": None, "as_of": "2026-01-31T12:00:00Z",
}  # fmt: skip


def ok(document: Any = GRANT, status: int = 201) -> httpx.Response:
    return httpx.Response(status, json=document)


def problem(code: str, status: int, **headers: str) -> httpx.Response:
    document = {"type": f"/problems/{code}", "title": "", "status": status, "detail": "so it is"}
    kind = {"content-type": "application/problem+json"}
    return httpx.Response(status, content=json.dumps(document), headers={**kind, **headers})


class Play:
    """Answers the n-th request with the n-th of ``scenes``, the last one again and again."""

    def __init__(self, *scenes: Played) -> None:
        self._scenes = scenes
        self.requests: list[httpx.Request] = []
        self.retries: list[Retry] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        scene = self._scenes[min(len(self.requests), len(self._scenes)) - 1]
        if isinstance(scene, Exception):
            raise scene
        if isinstance(scene, Packed):
            headers = {"content-type": "application/json", "content-encoding": "gzip"}
            return httpx.Response(200, headers=headers, stream=httpx.ByteStream(scene.body))
        return httpx.Response(scene.status_code, headers=scene.headers, content=scene.content)

    @property
    def keys(self) -> list[str]:
        return [request.headers["Idempotency-Key"] for request in self.requests]


Call = Callable[[Any], Any]


def run(kind: str, play: Play, call: Call, **given: Any) -> Any:
    """What ``call`` of the client of this kind answers."""
    options: dict[str, Any] = {"retries": FAST, "on_retry": play.retries.append, **given}
    if kind == "sync":
        with Talktime(URL, KEY, transport=httpx.MockTransport(play), **options) as client:
            return call(client)

    async def asked() -> Any:
        async with AsyncTalktime(URL, KEY, transport=httpx.MockTransport(play), **options) as client:
            return await call(client)

    return asyncio.run(asked())


both = pytest.mark.parametrize("kind", ["sync", "async"])


def grant(client: Any) -> Any:
    return client.grant("ada", amount=1)


def balance(client: Any) -> Any:
    return client.balance("ada")


LOST: list[Exception] = [
    httpx.ConnectError("refused"),
    httpx.ConnectTimeout("slow"),
    httpx.ReadError("reset"),
    httpx.ReadTimeout("silent"),
    httpx.WriteError("reset"),
    httpx.RemoteProtocolError("went away without an answer"),
    httpx.PoolTimeout("all are busy"),
]
LATER = [
    problem("unavailable", 503),
    problem("busy", 503),
    problem("provider-busy", 503),
    problem("provider-unavailable", 502),
    problem("end-unconfirmed", 504),
    problem("idempotency-in-flight", 409),
    problem("rate-limited", 429),
    problem("request-timeout", 408),
    httpx.Response(502, content=b"<html>bad gateway</html>", headers={"content-type": "text/html"}),
    httpx.Response(503),
    httpx.Response(504),
    httpx.Response(429),
]
FINAL = [
    problem("provider-refused", 502, **{"retry-after": "0"}),
    problem("provider-unconfirmed", 504),
    problem("persona-not-accepted", 422),
    problem("insufficient-credits", 402),
    problem("end-refused", 502, **{"retry-after": "0"}),
    problem("starts-stopped", 503, **{"retry-after": "0"}),
    problem("too-many-simulations", 409, **{"retry-after": "0"}),
    problem("internal-error", 500),
    problem("unauthorized", 401),
    problem("of-a-later-version", 503),
    httpx.Response(500),
    httpx.Response(404),
]


def told(scene: Any) -> str:
    if isinstance(scene, Exception):
        return type(scene).__name__
    return json.loads(scene.content)["type"] if b"/problems/" in scene.content else f"bare {scene.status_code}"


@both
@pytest.mark.parametrize("scene", [*LOST, *LATER], ids=told)
def test_what_nobody_answered_or_who_says_later_is_asked_again_under_the_same_key(kind: str, scene: Played) -> None:
    play = Play(scene, scene, ok())
    assert isinstance(run(kind, play, grant), Grant)
    assert len(play.keys) == 3
    assert len(set(play.keys)) == 1
    assert len({request.content for request in play.requests}) == 1
    assert [retry.attempt for retry in play.retries] == [1, 2]
    assert {(retry.call, retry.idempotency_key) for retry in play.retries} == {("grant", play.keys[0])}


@both
@pytest.mark.parametrize("scene", FINAL, ids=told)
def test_an_answer_that_says_what_became_of_it_is_the_last(kind: str, scene: Played) -> None:
    play = Play(scene, ok())
    with pytest.raises(TalktimeError) as raised:
        run(kind, play, grant)
    assert not isinstance(raised.value, NoAnswer)
    assert raised.value.idempotency_key == play.keys[0]
    assert len(play.requests) == 1


def test_what_is_tried_again_is_what_the_service_calls_retryable() -> None:
    codes = {code for code in vars(service).values() if isinstance(code, service.Code)}
    of_people = {"starts-stopped", "too-many-simulations"}
    assert {code.name for code in codes if code.retryable} - of_people == RETRIED


@both
def test_attempts_are_bounded_and_the_key_is_told(kind: str) -> None:
    play = Play(httpx.ConnectError("refused"))
    with pytest.raises(ConnectionFailed, match="grant: refused") as lost:
        run(kind, play, grant)
    assert (lost.value.attempts, len(play.requests)) == (4, 4)
    assert lost.value.idempotency_key == play.keys[0]
    play = Play(httpx.ReadTimeout(""))
    with pytest.raises(TimedOut, match="no answer in time") as late:
        run(kind, play, lambda client: client.grant("ada", amount=1, idempotency_key="mine"))
    assert (late.value.idempotency_key, play.keys) == ("mine", ["mine"] * 4)
    play = Play(problem("unavailable", 503))
    with pytest.raises(problems.Unavailable):
        run(kind, play, grant, retries=RetryPolicy(attempts=1))
    assert len(play.requests) == 1


@both
def test_a_read_has_no_key_and_is_asked_again(kind: str) -> None:
    play = Play(httpx.ReadError("reset"), ok(BALANCE, 200))
    assert isinstance(run(kind, play, balance), Balance)
    assert all("Idempotency-Key" not in request.headers for request in play.requests)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits are written down instead of being waited."""
    found: list[float] = []

    async def sleep(wait_s: float) -> None:
        found.append(wait_s)

    monkeypatch.setattr("talktime.transport.time.sleep", found.append)
    monkeypatch.setattr("talktime.transport.asyncio.sleep", sleep)
    return found


@both
def test_retry_after_is_waited_for_and_not_beyond_the_deadline(kind: str, waits: list[float]) -> None:
    run(kind, Play(problem("rate-limited", 429, **{"retry-after": "7"}), ok()), grant)
    run(kind, Play(httpx.Response(503, headers={"retry-after": "9"}), ok()), grant)
    assert waits == [7, 9]
    play = Play(problem("rate-limited", 429, **{"retry-after": "3600"}), ok())
    with pytest.raises(problems.RateLimited) as limited:
        run(kind, play, grant)
    assert (limited.value.retry_after, len(play.requests), waits) == (3600, 1, [7, 9])


@both
def test_a_redirect_is_not_followed_and_the_key_goes_nowhere_else(kind: str) -> None:
    play = Play(httpx.Response(307, headers={"location": "https://evil.example/v1/users/ada/grants"}), ok())
    with pytest.raises(UnexpectedAnswer, match=r"redirect, which is not followed \(status 307\)"):
        run(kind, play, grant)
    assert {request.url.host for request in play.requests} == {"127.0.0.1"}
    assert len(play.requests) == 1


@both
@pytest.mark.parametrize(
    ("scene", "why"),
    [
        (httpx.Response(200, text="<html>welcome to the hotel</html>"), "an answer of type text/plain"),
        (httpx.Response(200, content=b"{", headers={"content-type": "application/json"}), "no JSON"),
        (httpx.Response(200, content=b"[" * 100_000, headers={"content-type": "application/json"}), "no JSON"),
        (httpx.Response(200, json={"amount": "NaN"}), "/id is missing"),
        (httpx.Response(204), "an answer of type none"),
    ],
    ids=["a portal", "half a document", "a deep document", "another document", "nothing"],
)
def test_an_answer_that_is_none_of_ours_is_neither_believed_nor_asked_for_again(
    kind: str, scene: Played, why: str
) -> None:
    play = Play(scene, ok())
    with pytest.raises(UnexpectedAnswer, match=why):
        run(kind, play, grant)
    assert len(play.requests) == 1


@both
def test_an_answer_that_never_ends_is_given_up(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MOST_BYTES", 1000)
    with pytest.raises(UnexpectedAnswer, match="over 1000 bytes"):
        run(kind, Play(Packed(gzip.compress(b" " * 100_000))), grant)


@both
def test_a_packed_answer_that_is_broken_is_told(kind: str) -> None:
    with pytest.raises(UnexpectedAnswer, match="cannot be unpacked"):
        run(kind, Play(Packed(b"no gzip")), grant)


# How long


def test_waits_double_and_lose_up_to_half_at_random() -> None:
    policy = RetryPolicy(attempts=9, deadline_s=1000, first_wait_s=1, longest_wait_s=8)
    for chance, waits in ((0.0, [1, 2, 4, 8, 8, 8, 8, 8]), (1.0, [0.5, 1, 2, 4, 4, 4, 4, 4])):
        course = Course(policy, clock=lambda: 0.0, chance=lambda held=chance: held)  # type: ignore[misc]
        assert list(all_waits(course)) == waits


def all_waits(course: Course) -> Iterator[float]:
    while True:
        course.begin()
        wait = course.wait_s(None)
        if wait is None:
            return
        yield wait


def test_no_wait_goes_past_the_deadline() -> None:
    now = [100.0]
    course = Course(RetryPolicy(deadline_s=10, first_wait_s=1), clock=lambda: now[0], chance=lambda: 0.0)
    course.begin()
    assert course.wait_s(9.9) == 9.9
    assert course.wait_s(10.0) is None
    now[0] = 109.5
    assert course.wait_s(None) is None
    assert course.left_s == 0.5
    now[0] = 200
    assert course.left_s == 0


def test_a_retry_after_can_be_a_date() -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert retry_after_s("120") == 120
    assert retry_after_s(format_datetime(now + timedelta(seconds=90), usegmt=True), now) == 90
    assert retry_after_s(format_datetime(now - timedelta(seconds=90), usegmt=True), now) == 0
    assert retry_after_s(None) is None
    for odd in ("soon", "-1", "1.5", "", "²", "Sat, 99 Foo"):
        assert retry_after_s(odd) is None


@pytest.mark.parametrize(
    "figures",
    [{"attempts": 0}, {"deadline_s": 0}, {"deadline_s": float("inf")}, {"first_wait_s": -1}, {"first_wait_s": 9}],
)
def test_figures_that_make_no_sense_are_refused(figures: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(figures))):
        RetryPolicy(**figures)


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan")])
def test_a_timeout_is_a_time(timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        Talktime(URL, KEY, timeout_s=timeout_s)


# The key is a secret


@both
def test_nothing_shows_the_key(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []

    def call(client: Any) -> Any:
        shown.extend([repr(client), str(client), repr(vars(client)), repr(client.with_options(timeout_s=1))])
        return client.grant("ada", amount=1)

    for scene in (ok(), problem("unauthorized", 401), httpx.ConnectError("refused"), httpx.Response(302)):
        play = Play(scene)
        try:
            run(kind, play, call)
        except TalktimeError as error:
            shown += [str(error), repr(error), repr(vars(error)), repr(error.__cause__)]
        assert play.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in "".join(shown) + caplog.text


@both
def test_other_options_share_the_connections(kind: str) -> None:
    play = Play(httpx.ConnectError("refused"))

    def call(client: Any) -> Any:
        return client.with_options(retries=RetryPolicy(attempts=2, first_wait_s=0), timeout_s=3).grant("ada", amount=1)

    with pytest.raises(ConnectionFailed) as lost:
        run(kind, play, call)
    assert lost.value.attempts == 2
    assert play.requests[0].extensions["timeout"]["read"] == 3


def test_closing_a_client_of_other_options_closes_nothing() -> None:
    play = Play(ok(BALANCE, 200))
    with Talktime(URL, KEY, transport=httpx.MockTransport(play)) as client:
        with client.with_options(timeout_s=1) as other:
            other.balance("ada")
        client.balance("ada")
    with pytest.raises(RuntimeError, match="closed"):
        client.balance("ada")


# Streams


CSV = httpx.Response(
    200, content='id,reason\r\n1,"two\r\nlines, ü"\r\n2,'.encode(), headers={"content-type": "text/csv"}
)


def lines_of(kind: str, play: Play) -> list[str]:
    def read(client: Talktime) -> list[str]:
        with client.entries_csv("ada") as lines:
            return list(lines)

    async def read_async(client: AsyncTalktime) -> list[str]:
        async with client.entries_csv("ada") as lines:
            return [line async for line in lines]

    found: list[str] = run(kind, play, read if kind == "sync" else read_async)
    return found


@both
def test_a_stream_is_opened_again_and_keeps_its_line_ends(kind: str) -> None:
    play = Play(httpx.ConnectError("refused"), problem("busy", 503), CSV)
    assert lines_of(kind, play) == ["id,reason\r\n", '1,"two\r\n', 'lines, ü"\r\n', "2,"]
    assert len(play.requests) == 3
    assert play.requests[0].headers["Accept"] == "text/csv, application/problem+json"
    with pytest.raises(problems.NotFound):
        lines_of(kind, Play(problem("not-found", 404)))
    with pytest.raises(UnexpectedAnswer):
        lines_of(kind, Play(ok(BALANCE, 200)))


def test_an_error_in_the_callers_block_is_the_callers() -> None:
    play = Play(CSV)
    with (
        Talktime(URL, KEY, transport=httpx.MockTransport(play), retries=FAST) as client,
        pytest.raises(TimeoutError, match="mine"),
        client.entries_csv("ada"),
    ):
        raise TimeoutError("mine")
    assert len(play.requests) == 1
