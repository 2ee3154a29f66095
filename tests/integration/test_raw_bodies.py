"""What the provider answered to pulls is kept as it came: behind snapshots, and of failed pulls the first and last."""

import hashlib
import json
from typing import Any

import httpx
import pytest

from app.gabber import PulledTimeline, PullFailed, PullFailure
from app.gabber.bodies import MAX_KEPT_OF_FAILED, Recording
from app.settlement.steps import Outcome
from app.timelines.raw import FIRST_FAILED, MOST_FAILED
from tests.support.postgres import ask
from tests.support.problems import problem
from tests.support.world import SECRET, World

pytestmark = pytest.mark.anyio


async def live(talktime: World) -> dict[str, Any]:
    user = talktime.user()
    await talktime.grant(user, "1000")
    return await talktime.start(user)


async def reconcile(talktime: World, session: dict[str, Any]) -> Outcome:
    outcome = await talktime.service.reconciler.reconcile(talktime.key(session), now_please=True)
    assert isinstance(outcome, Outcome)
    return outcome


async def pulls(talktime: World, session: dict[str, Any]) -> list[dict[str, Any]]:
    return list((await talktime.get(f"/v1/sessions/{session['id']}/pulls?limit=500"))["data"])


async def body(talktime: World, session: dict[str, Any], sha256: str) -> bytes:
    response = await talktime.client.get(f"/v1/sessions/{session['id']}/bodies/{sha256}")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"].startswith("attachment")
    assert hashlib.sha256(response.content).hexdigest() == sha256
    return response.content


def count(talktime: World, session: dict[str, Any], table: str = "raw_bodies") -> int:
    statement = f"select count(*) from {table} where session_id = '{talktime.key(session).id}'"
    return int(ask(talktime.service.database.conninfo, statement)[0][0])


def say_json(talktime: World, text: str, status: int = 200) -> None:
    talktime.provider.timeline_status, talktime.provider.timeline_body = status, text


# Spaces, order of keys and unknown fields are what values alone do not tell.
ODD = (
    '{ "total_count":2,\n "more": {"x": [1.50]}, "values":[{"seconds":1.50,"type":"agent"}, '
    '{"type":"silence","seconds":%d.0}],"next_page":null }'
)


async def test_the_body_behind_each_snapshot_is_kept_byte_for_byte(talktime: World) -> None:
    session = await live(talktime)
    for seconds in (5, 9):
        talktime.clock.advance(10)
        say_json(talktime, ODD % seconds)
        assert await reconcile(talktime, session) is Outcome.UPDATED
    first, second = await pulls(talktime, session)
    assert [first["snapshot"], second["snapshot"]] == [1, 2]
    for pull, seconds in ((first, 5), (second, 9)):
        (page,) = pull["pages"]
        sent = (ODD % seconds).encode()
        assert await body(talktime, session, page["sha256"]) == sent
        assert page == page | {
            "page": 1, "status": 200, "content_type": "application/json", "size": len(sent), "truncated": False,
            "redacted": False, "kept": True,
        }  # fmt: skip
        assert page["received_at"] == pull["received_at"]
        assert (pull["failure"], pull["detail"], pull["times"]) == (None, None, 1)


async def test_a_settled_session_shows_all_that_was_answered(talktime: World) -> None:
    session = await live(talktime)
    talktime.provider.say(session["provider_session_id"], ("agent", "10.000"), ("silence", "20.50"))
    await talktime.heartbeats_until(session, 30)
    talktime.provider.timeline_status = 503
    await reconcile(talktime, session)
    talktime.provider.timeline_status = 200
    document = await talktime.settle(session)
    assert (document["state"], document["charged"]) == ("settled", "10")
    found = await pulls(talktime, session)
    kept = [await body(talktime, session, page["sha256"]) for pull in found for page in pull["pages"]]
    assert kept == talktime.provider.answered[-len(kept) :]
    assert found[0]["failure"] == "server_error"
    assert len(kept) >= 3
    snapshots = (await talktime.get(f"/v1/sessions/{session['id']}/snapshots"))["data"]
    assert [pull["snapshot"] for pull in found[1:]] == list(range(1, len(snapshots) + 1))


async def test_a_pull_of_a_settled_session_that_fails_is_kept_as_well(talktime: World) -> None:
    session = await live(talktime)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 20))
    await talktime.heartbeats_until(session, 30)
    await talktime.settle(session)
    say_json(talktime, "late trouble", 500)
    assert await reconcile(talktime, session) is Outcome.PULL_FAILED
    last = (await pulls(talktime, session))[-1]
    assert last["failure"] == "server_error"
    assert await body(talktime, session, last["pages"][0]["sha256"]) == b"late trouble"


async def test_what_is_no_news_for_a_charge_is_not_kept(talktime: World) -> None:
    session = await live(talktime)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 20))
    await talktime.heartbeats_until(session, 30)
    await talktime.settle(session)
    before = await pulls(talktime, session)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 999))
    assert await reconcile(talktime, session) is Outcome.UPDATED
    assert await pulls(talktime, session) == before


@pytest.mark.parametrize("sha256", ["0" * 64, "0" * 63, "A" * 64, "x", "é"])
async def test_what_is_no_body_of_the_session_is_not_found(talktime: World, sha256: str) -> None:
    session, other = await live(talktime), await live(talktime)
    await reconcile(talktime, other)
    (pull,) = await pulls(talktime, other)
    for wanted in (sha256, pull["pages"][0]["sha256"]):
        problem(await talktime.client.get(f"/v1/sessions/{session['id']}/bodies/{wanted}"), 404, "not-found")


async def test_a_body_that_came_before_is_stored_once(talktime: World) -> None:
    session = await live(talktime)
    for seconds in (5, 5, 9, 5):
        talktime.clock.advance(10)
        say_json(talktime, ODD % seconds)
        await reconcile(talktime, session)
    found = await pulls(talktime, session)
    assert len(found) == 4
    assert count(talktime, session) == 2
    one, two, three, four = (pull["pages"][0]["sha256"] for pull in found)
    assert one == two == four != three


FAILURES = {
    "server_error": (500, '{"error": "no luck"}'),
    "not_found": (404, ""),
    "unauthorized": (401, '{"error": "who are you"}'),
    "rate_limited": (429, "slow down"),
    "refused": (400, '{"type": "project_disabled"}'),
    "malformed": (200, '{"values": [{"type": "agent"'),
    "inconsistent": (200, '{"values": [], "next_page": null, "total_count": 3}'),
    "foreign_page": (200, '{"values": [], "next_page": "https://evil.example/?x", "total_count": 3}'),
    "too_large": (200, '{"values": [], "next_page": null, "total_count": 200001}'),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_what_was_answered_to_a_failed_pull_is_kept(talktime: World, failure: str) -> None:
    session = await live(talktime)
    status, text = FAILURES[failure]
    say_json(talktime, text, status)
    talktime.clock.advance(10)
    assert await reconcile(talktime, session) is Outcome.PULL_FAILED
    (pull,) = await pulls(talktime, session)
    assert (pull["snapshot"], pull["failure"], pull["times"]) == (None, failure, 1)
    assert pull["detail"]
    (page,) = pull["pages"]
    assert (page["status"], page["size"], page["truncated"]) == (status, len(text), False)
    assert await body(talktime, session, page["sha256"]) == text.encode()


async def test_the_same_failure_again_is_counted_not_stored(talktime: World) -> None:
    session = await live(talktime)
    say_json(talktime, '{"error": "x"}', 500)
    for _ in range(3):
        talktime.clock.advance(10)
        await reconcile(talktime, session)
    (pull,) = await pulls(talktime, session)
    assert pull["times"] == 3
    assert pull["first_received_at"] < pull["received_at"]
    assert count(talktime, session, "failed_pulls") == 1


async def test_of_failed_pulls_the_first_and_the_last_are_kept(talktime: World) -> None:
    session = await live(talktime)
    many = MOST_FAILED + 9
    for n in range(many):
        talktime.clock.advance(10)
        say_json(talktime, f'{{"error": {n}}}', 500)
        assert await reconcile(talktime, session) is Outcome.PULL_FAILED
    found = await pulls(talktime, session)
    assert count(talktime, session, "failed_pulls") == len(found) == MOST_FAILED
    said = [await body(talktime, session, pull["pages"][0]["sha256"]) for pull in found]
    kept = [*range(FIRST_FAILED), *range(many - (MOST_FAILED - FIRST_FAILED), many)]
    assert said == [f'{{"error": {n}}}'.encode() for n in kept]


async def test_of_a_large_body_of_a_failed_pull_the_beginning_is_kept(talktime: World) -> None:
    session = await live(talktime)
    text = "[" + "1," * MAX_KEPT_OF_FAILED
    say_json(talktime, text)
    await reconcile(talktime, session)
    (pull,) = await pulls(talktime, session)
    (page,) = pull["pages"]
    assert (pull["failure"], page["size"], page["truncated"]) == ("malformed", len(text), True)
    assert await body(talktime, session, page["sha256"]) == text[:MAX_KEPT_OF_FAILED].encode()


async def test_no_secret_is_kept_though_the_provider_sends_it_back(talktime: World) -> None:
    session = await live(talktime)
    key, token = talktime.provider.api_key, talktime.webhook(session).rpartition("/")[2]
    webhook = talktime.provider.starts[-1]["webhook"]
    assert webhook.endswith(token)
    for n, (status, text) in enumerate(
        (
            (401, f'{{"error": "the key {key} is unknown", "webhook": {json.dumps(webhook)}}}'),
            (200, f'{{"values": [], "next_page": null, "total_count": 0, "key": "{key}", "webhook": "{webhook}"}}'),
        ),
        1,
    ):
        talktime.clock.advance(10)
        say_json(talktime, text, status)
        await reconcile(talktime, session)
        found = await pulls(talktime, session)
        assert len(found) == n
        (page,) = found[-1]["pages"]
        assert (page["redacted"], page["truncated"]) == (True, False)
        expected = text.replace(key, "[removed]").replace(token, "[removed]")
        assert (await body(talktime, session, page["sha256"])).decode() == expected
    where = f"where session_id = '{talktime.key(session).id}'"
    stored = ask(talktime.service.database.conninfo, f"select row_to_json(t)::text from failed_pulls t {where}")
    stored += ask(talktime.service.database.conninfo, f"select row_to_json(t)::text from raw_bodies t {where}")
    assert len(stored) == 2
    for (row,) in stored:
        for secret in (key, token, SECRET):
            assert secret not in row
            assert secret.encode().hex() not in row


async def test_whoever_lost_the_lease_keeps_nothing(talktime: World) -> None:
    session = await live(talktime)
    key, reconciler = talktime.key(session), talktime.service.reconciler
    token = await reconciler._leases.take(key, even_if_not_due=True)
    assert token is not None
    requested_at = talktime.clock.now()
    talktime.clock.advance(61)
    say_json(talktime, ODD % 9)
    assert await reconcile(talktime, session) is Outcome.UPDATED
    recording = Recording("k" * 20)
    recording.add(httpx.Response(500), b"late", b"late", talktime.clock.now())
    bodies = tuple(recording.bodies)
    late = PulledTimeline(requested_at=requested_at, received_at=talktime.clock.now(), values=(), bodies=bodies)
    failed = PullFailed(kind=PullFailure.SERVER_ERROR, detail="late", bodies=bodies)
    for outcome in (late, failed):
        assert await reconciler._write(key, token, outcome) is Outcome.NOT_OURS
    assert [pull["snapshot"] for pull in await pulls(talktime, session)] == [1]
    assert (count(talktime, session), count(talktime, session, "failed_pulls")) == (1, 0)
