"""Heartbeats of the simulated provider: when they come, what they say, and how they go wrong."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from app.core.units import US_PER_S, parse_instant
from app.simulator import poster as poster_module
from app.simulator import world as world_module
from app.simulator.poster import Poster, PostFailed, checked_webhook
from app.simulator.script import built_in, parse_script
from tests.support.provider import Provider, provider
from tests.support.raw_server import Pause, http, raw_server
from tests.support.receiver import Receiver, receiver

SPEED = 600


@pytest.fixture(scope="module")
def simulated() -> Iterator[Provider]:
    with provider(speed=SPEED) as running:
        yield running


@pytest.fixture
def hook(simulated: Provider) -> Iterator[Receiver]:
    simulated.misbehave()
    with receiver(simulated.clock) as running:
        yield running


def ended(simulated: Provider, session_id: str) -> Any:
    """The truth once the agent has left and no heartbeat is on its way any more."""
    deadline = time.monotonic() + 10
    while (truth := simulated.truth(session_id))["agent_alive"] or not truth["quiet"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return truth


def offsets_s(truth: Any) -> list[float]:
    connected_at = parse_instant(truth["connected_at"])
    return [(parse_instant(h["due_at"]) - connected_at) / US_PER_S for h in truth["heartbeats"]]


def test_one_comes_every_30_s_while_the_agent_lives(simulated: Provider, hook: Receiver) -> None:
    session_id = simulated.start("ghost", time_limit_s=100, webhook=f"{hook.url}/webhooks/gabber/token?x=y")
    hook.wait_for(3)
    truth = ended(simulated, session_id)
    assert offsets_s(truth) == [30, 60, 90]
    assert [(path, body) for path, body, _ in hook.posts] == [
        ("/webhooks/gabber/token?x=y", {"session_id": session_id})
    ] * 3
    for record, (_, _, arrived) in zip(truth["heartbeats"], hook.posts, strict=True):
        sent_at = parse_instant(record["sent_at"])
        # On the clock that both share: due, sent, arrived, in this order and close together in real time.
        assert parse_instant(record["due_at"]) <= sent_at <= arrived <= parse_instant(record["done_at"])
        assert arrived - parse_instant(record["due_at"]) < SPEED * US_PER_S
        assert (record["status"], record["fault"], record["failure"]) == (204, None, None)
    assert hook.connections == 1, "a connection is kept from one heartbeat to the next"


def test_they_go_on_while_the_user_is_away(simulated: Provider, hook: Receiver) -> None:
    session_id = simulated.start("disconnect", webhook=hook.url)
    hook.wait_for(4)
    away = max(simulated.truth(session_id)["talk"], key=lambda value: value["seconds"])
    inside = [at for at in offsets_s(ended(simulated, session_id)) if away["from_s"] < at < away["from_s"] + 75]
    assert inside == [30, 60, 90]


@pytest.mark.parametrize("scenario", ["silent", "talk"])
def test_none_comes_where_none_is_due(scenario: str, simulated: Provider, hook: Receiver) -> None:
    session_id = simulated.start(scenario, time_limit_s=30, webhook=hook.url)
    assert ended(simulated, session_id)["heartbeats"] == []
    time.sleep(0.05)
    assert hook.posts == []


def test_a_start_without_a_webhook_sends_nothing(simulated: Provider) -> None:
    assert ended(simulated, simulated.start("ghost", time_limit_s=61))["heartbeats"] == []


def test_none_comes_after_an_end(simulated: Provider, hook: Receiver) -> None:
    session_id = simulated.start("ghost", time_limit_s=3600, webhook=hook.url)
    hook.wait_for(2)
    assert simulated.call("POST", f"/api/v1/session/{session_id}/end").status_code == 200
    truth = ended(simulated, session_id)
    assert all(parse_instant(h["due_at"]) <= parse_instant(truth["ended_at"]) for h in truth["heartbeats"])
    heard = len(hook.posts)
    until = simulated.clock.now() + 90 * US_PER_S
    while simulated.clock.now() < until:
        time.sleep(0.005)
    assert len(hook.posts) == heard == len(truth["heartbeats"])


def test_lost(simulated: Provider, hook: Receiver) -> None:
    simulated.misbehave(heartbeat_lost={"count": 2})
    truth = ended(simulated, simulated.start("ghost", time_limit_s=100, webhook=hook.url))
    hook.wait_for(1)
    assert [(h["fault"], h["sent_at"] is None) for h in truth["heartbeats"]] == [
        ("lost", True),
        ("lost", True),
        (None, False),
    ]
    assert len(hook.posts) == 1


def test_doubled(simulated: Provider, hook: Receiver) -> None:
    simulated.misbehave(heartbeat_doubled={"count": 1})
    truth = ended(simulated, simulated.start("ghost", time_limit_s=61, webhook=hook.url))
    hook.wait_for(3)
    assert offsets_s(truth) == [30, 30, 60]
    assert len({body["session_id"] for _, body, _ in hook.posts}) == 1


def test_late(simulated: Provider, hook: Receiver) -> None:
    simulated.misbehave(heartbeat_late={"count": 1})
    truth = ended(simulated, simulated.start("ghost", time_limit_s=31, webhook=hook.url))
    hook.wait_for(1)
    due_at, arrived = parse_instant(truth["heartbeats"][0]["due_at"]), hook.posts[0][2]
    assert arrived - due_at >= 20 * US_PER_S


def test_foreign(simulated: Provider, hook: Receiver) -> None:
    simulated.misbehave(heartbeat_foreign={"count": 1})
    session_id = simulated.start("ghost", time_limit_s=61, webhook=hook.url)
    hook.wait_for(2)
    assert [body["session_id"] == session_id for _, body, _ in hook.posts] == [False, True]


def test_a_slow_receiver_delays_no_later_heartbeat(simulated: Provider, hook: Receiver) -> None:
    hook.delay_s = 0.5
    session_id = simulated.start("ghost", time_limit_s=100, webhook=hook.url)
    hook.wait_for(3)
    arrivals = [arrived for _, _, arrived in hook.posts]
    # Real time between the first and the last: 60 s on the clock are 0.1 s, one slow answer alone is 0.5 s.
    assert (arrivals[-1] - arrivals[0]) / SPEED < 0.45 * US_PER_S
    ended(simulated, session_id)


@pytest.mark.parametrize(("retries", "posts"), [(0, 1), (2, 3)])
def test_retries_are_off_unless_asked_for(retries: int, posts: int) -> None:
    with provider(speed=SPEED, heartbeat_retries=retries) as simulated, receiver(simulated.clock) as hook:
        hook.statuses = [503, 429, 204]
        session_id = simulated.start("ghost", time_limit_s=31, webhook=hook.url)
        hook.wait_for(posts)
        truth = ended(simulated, session_id)
        time.sleep(0.05)
        assert len(hook.posts) == posts
        assert simulated.truth(session_id)["heartbeats"][0]["status"] == (503 if retries == 0 else 204), truth


def test_a_refused_heartbeat_is_not_repeated(hook: Receiver, simulated: Provider) -> None:
    hook.statuses = [404]
    truth = ended(simulated, simulated.start("ghost", time_limit_s=31, webhook=hook.url))
    assert truth["heartbeats"][0]["status"] == 404


def test_nobody_listens(simulated: Provider) -> None:
    with receiver(simulated.clock) as gone:
        pass
    truth = ended(simulated, simulated.start("ghost", time_limit_s=61, webhook=gone.url))
    assert [h["status"] for h in truth["heartbeats"]] == [None, None]
    assert all("Error" in h["failure"] for h in truth["heartbeats"])


def test_a_receiver_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poster_module, "POST_TIMEOUT_S", 0.1)
    with provider(speed=SPEED) as simulated, receiver(simulated.clock) as hook:
        hook.delay_s = 0.4
        truth = ended(simulated, simulated.start("ghost", time_limit_s=31, webhook=hook.url))
        assert truth["heartbeats"][0]["failure"] == "timeout"


def test_connections_are_bounded_and_every_heartbeat_of_many_sessions_arrives() -> None:
    often = parse_script(b'{"name": "often", "heartbeats": {"first_s": 0, "every_s": 30}, "agent_leaves_s": 91}')
    with provider(speed=SPEED, scripts=built_in() | {"often": often}) as simulated, receiver(simulated.clock) as hook:
        sessions = [simulated.start("often", webhook=hook.url) for _ in range(60)]
        hook.wait_for(60 * 4, within_s=10)
        counts = dict.fromkeys(sessions, 0)
        for _, body, _ in hook.posts:
            counts[body["session_id"]] += 1
        assert set(counts.values()) == {4}
        assert hook.connections <= poster_module.MAX_CONNECTIONS


def test_stopping_does_not_wait_for_live_sessions(hook: Receiver) -> None:
    with provider(speed=1) as simulated:
        simulated.start("ghost", webhook=hook.url)
        began = time.monotonic()
    simulated.thread.join(5)
    assert not simulated.thread.is_alive()
    assert time.monotonic() - began < 2


def test_heartbeats_on_their_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "MAX_HEARTBEATS_WAITING", 1)
    with provider(speed=SPEED) as simulated, receiver(simulated.clock) as hook:
        hook.delay_s = 0.3
        truth = ended(simulated, simulated.start("ghost", time_limit_s=91, webhook=hook.url))
    assert [h["failure"] for h in truth["heartbeats"]] == [None, *["too many heartbeats are waiting"] * 2]


def test_records_of_heartbeats_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "MAX_HEARTBEATS_KEPT", 2)
    with provider(speed=SPEED) as simulated, receiver(simulated.clock) as hook:
        truth = ended(simulated, simulated.start("ghost", time_limit_s=121, webhook=hook.url))
    assert offsets_s(truth) == [90, 120]


BAD_ANSWERS: dict[str, tuple[list[bytes | Pause], str]] = {
    "none": ([], "ConnectionResetError"),
    "half a head": ([b"HTTP/1.1 204"], "ConnectionResetError"),
    "no HTTP": ([b"SSH-2.0-OpenSSH\r\n\r\n"], "HttpParser"),
    "too large": ([http(200, b" " * (poster_module.MAX_ANSWER_BYTES + 1))], "ConnectionAbortedError"),
}


@pytest.mark.anyio
@pytest.mark.parametrize("case", BAD_ANSWERS)
async def test_an_odd_answer_is_a_failure(case: str) -> None:
    answer, failure = BAD_ANSWERS[case]
    poster = Poster()
    async with raw_server(answer) as server:
        webhook = checked_webhook(server.url)
        assert webhook is not None
        with pytest.raises(PostFailed, match=failure):
            await poster.post(webhook, b"{}")
    await poster.aclose()
