"""Ending a session by request: who may ask, what the provider says, and what evidence makes of that."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.core.units import US_PER_S, Instant, format_instant
from tests.support.postgres import WorkerDatabases, ask
from tests.support.problems import problem
from tests.support.provider import provider
from tests.support.scripted_provider import ProviderHost, ScriptedProvider
from tests.support.unchanged import unchanged
from tests.support.world import World, world

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def world_that_can_end(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator[World]:
    async with world(databases.urls.service, providers.script(), gabber_capabilities="end") as found:
        yield found


@pytest.fixture
async def able(world_that_can_end: World) -> World:
    """A service whose provider can end sessions."""
    world_that_can_end.renew()
    return world_that_can_end


async def live(talktime: World, **asked: Any) -> dict[str, Any]:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await talktime.start(user, **asked)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 2), ("user", 3))
    return session


async def end(talktime: World, session: dict[str, Any], key: str | None = None) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await talktime.client.post(f"/v1/sessions/{session['id']}/end", headers=headers)


def audits(talktime: World, session: dict[str, Any]) -> list[Any]:
    statement = "select after from audit_log where action = 'session.end' and target = "
    statement += f"'{session['id']}' order by at, id"
    return [after for (after,) in ask(talktime.service.database.conninfo, statement)]


def due_in_s(talktime: World, session: dict[str, Any]) -> float:
    statement = f"select due_at from sessions where id = '{talktime.key(session).id}'"
    ((due_at,),) = ask(talktime.service.database.conninfo, statement)
    return float(round(due_at.timestamp() * US_PER_S) - talktime.clock.now()) / US_PER_S


# Who may ask


async def test_where_the_provider_cannot_it_is_not_asked(talktime: World) -> None:
    session = await live(talktime)
    with unchanged(talktime.service.database.conninfo):
        problem(await end(talktime, session, uuid4().hex), 409, "capability-missing")
    assert talktime.provider.ends == []
    assert (await talktime.session(session))["state"] == "live"


async def test_a_session_that_does_not_run_cannot_be_ended(able: World) -> None:
    user = able.user()
    await able.grant(user, "1000")
    failed = await able.start_unconfirmed(user, time_limit_s=30)
    settled = await live(able)
    await able.heartbeats_until(settled, 30)
    assert (await able.settle(settled))["state"] == "settled"
    assert (await able.session(failed))["state"] == "failed"
    unconfirmed = await able.start_unconfirmed(user, time_limit_s=30)
    adopted = await able.start(user, time_limit_s=30, start=False)
    for session in (failed, settled, unconfirmed, adopted):
        with unchanged(able.service.database.conninfo):
            problem(await end(able, session, uuid4().hex), 409, "session-not-live")
    assert able.provider.ends == []
    problem(await able.client.post("/v1/sessions/ses_x/end"), 404, "not-found")


# The provider takes it


async def test_the_provider_says_that_it_is_over(able: World) -> None:
    session = await live(able)
    await able.heartbeats_until(session, 60)
    await able.reconcile()
    able.clock.advance(1)
    assert due_in_s(able, session) > 0
    answer = await end(able, session)
    assert answer.status_code == 202
    assert (answer.json()["id"], answer.json()["state"]) == (session["id"], "over")
    last = (await able.session(session))["steps"][-1]
    assert (last["why"], last["at"]) == ("the provider ended it", format_instant(able.clock.now()))
    ended_at = able.clock.now()
    assert able.provider.ends == [session["provider_session_id"]]
    assert audits(able, session) == [{"state": "over", "provider": "ended"}]
    pulls = len(able.provider.pulls)
    assert due_in_s(able, session) == 0
    assert await able.reconcile() == 1
    assert len(able.provider.pulls) == pulls + 1
    shown = await able.session(session)
    assert (shown["state"], shown["over_at"]) == ("over", format_instant(ended_at)), "although it was heard of just now"
    assert due_in_s(able, session) == 120
    able.clock.advance(119)
    assert await able.reconcile() == 0
    able.clock.advance(1)
    assert await able.reconcile() == 1
    settled = await able.session(session)
    assert (settled["state"], settled["charged"], settled["held"]) == ("settled", "15", "0")
    assert [taken["state"] for taken in settled["steps"]] == ["starting", "live", "over", "settled"]


async def test_a_provider_that_only_says_so_ends_nothing(able: World) -> None:
    session = await live(able)
    await able.heartbeats_until(session, 30)
    assert (await end(able, session)).status_code == 202
    assert (await able.session(session))["state"] == "over"
    await able.heartbeats_until(session, 60)
    await able.reconcile()
    shown = await able.session(session)
    assert (shown["state"], shown["over_at"]) == ("live", None)
    assert shown["steps"][-1]["why"] == "proof of life came back"
    await able.heartbeats_until(session, 120)
    settled = await able.settle(session)
    assert (settled["state"], settled["steps"][-2]["why"]) == ("settled", "no proof of life any more")


async def test_a_heartbeat_that_was_on_its_way_takes_nothing_back(able: World) -> None:
    session = await live(able)
    await able.heartbeats_until(session, 30)
    assert (await end(able, session)).status_code == 202
    able.clock.advance(5)
    assert (await able.heartbeat(session)).status_code == 204
    await able.reconcile()
    assert (await able.session(session))["state"] == "over"


async def test_one_of_which_nothing_was_heard_keeps_no_credits_after_its_end(able: World) -> None:
    """Without the word it would be waited for, for ten minutes."""
    session = await live(able)
    able.clock.advance(20)
    assert (await end(able, session)).status_code == 202
    await able.live_through(session, 121)
    settled = await able.session(session)
    assert (settled["state"], settled["held"]) == ("settled", "0")


async def test_a_later_word_counts_where_the_first_was_wrong(able: World) -> None:
    session = await live(able)
    able.clock.advance(60)
    assert (await end(able, session)).status_code == 202
    able.clock.advance(30)
    able.provider.say(session["provider_session_id"], ("agent", 80), ("silence", 8))
    assert (await end(able, session)).status_code == 202
    ended_at = able.clock.now()
    await able.live_through(session, 150)
    shown = await able.session(session)
    assert (shown["state"], shown["over_at"]) == ("settled", format_instant(ended_at))
    assert [taken["state"] for taken in shown["steps"]] == ["starting", "live", "over", "settled"]


async def test_an_unknown_outcome_is_no_word(able: World) -> None:
    session = await live(able)
    await able.heartbeats_until(session, 30)
    able.provider.end_status = 500
    problem(await end(able, session), 504, "end-unconfirmed")
    assert (await able.session(session))["state"] == "live"


async def test_a_session_that_seems_over_can_still_be_ended(able: World) -> None:
    session = await live(able)
    await able.heartbeats_until(session, 30)
    for wait in (1, 80):
        able.clock.advance(wait)
        await able.client.post(f"/v1/sessions/{session['id']}/reconcile")
    assert (await able.session(session))["state"] == "over"
    due = due_in_s(able, session)
    assert due > 0
    assert (await end(able, session)).json()["state"] == "over"
    assert due_in_s(able, session) == due  # its final timeline is not there before its time


# The provider does not take it


@pytest.mark.parametrize(
    ("status", "said", "code", "detail"),
    [
        (400, {"type": "invalid_input", "message": "no such session"}, "invalid_input", "no such session"),
        (404, {}, "http_404", "http_404"),
        (429, {"error": "slow down"}, "http_429", "slow down"),
    ],
)
async def test_a_refusal_is_told_with_the_providers_reason_and_changes_nothing(
    able: World, status: int, said: Any, code: str, detail: str
) -> None:
    session, key = await live(able), uuid4().hex
    able.provider.end_status, able.provider.end_body = status, said
    with unchanged(able.service.database.conninfo):
        document = problem(await end(able, session, key), 502, "end-refused")
    assert (document["provider_status"], document["provider_code"]) == (status, code)
    assert document["detail"] == detail
    able.provider.end_status, able.provider.end_body = 200, {}
    assert (await end(able, session, key)).status_code == 202


async def test_an_outcome_that_is_not_known_is_looked_at_and_may_be_asked_for_again(able: World) -> None:
    session, key = await live(able), uuid4().hex
    able.provider.end_status = 500
    response = await end(able, session, key)
    problem(response, 504, "end-unconfirmed")
    assert int(response.headers["retry-after"]) >= 1
    assert due_in_s(able, session) == 0
    assert audits(able, session) == [{"state": "live", "provider": "unknown", "why": "the provider answered 500"}]
    able.provider.end_status = 200
    again = await end(able, session, key)
    assert again.status_code == 202
    assert "idempotency-replayed" not in again.headers
    assert len(able.provider.ends) == 2


async def test_a_provider_that_cannot_be_reached_has_ended_nothing(
    able: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await live(able)
    monkeypatch.setattr(able.service._gabber, "_base_url", "http://127.0.0.1:9")
    with unchanged(able.service.database.conninfo):
        document = problem(await end(able, session), 502, "end-refused")
    assert (document["provider_status"], document["provider_code"]) == (None, "unreachable")


# The same request again


async def test_a_repetition_gets_the_first_answer_and_the_provider_is_not_asked_again(able: World) -> None:
    session, key = await live(able), uuid4().hex
    await able.heartbeats_until(session, 30)
    first = await end(able, session, key)
    assert (await able.settle(session))["state"] == "settled"
    again = await end(able, session, key)
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert len(able.provider.ends) == len(audits(able, session)) == 1
    problem(await end(able, session, uuid4().hex), 409, "session-not-live")
    assert (await end(able, await live(able), key)).status_code == 202  # a key is a user's own


async def test_another_request_with_the_same_key_is_refused_before_the_provider_is_asked(able: World) -> None:
    user, key = able.user(), uuid4().hex
    await able.grant(user, "100")
    one, other = [await able.start(user, time_limit_s=30) for _ in range(2)]
    assert (await end(able, one, key)).status_code == 202
    problem(await end(able, other, key), 422, "idempotency-conflict")
    assert able.provider.ends == [one["provider_session_id"]]


async def test_identical_requests_at_once_have_one_effect_and_one_answer(able: World) -> None:
    session, key = await live(able), uuid4().hex
    answers = await asyncio.gather(*(end(able, session, key) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert len(audits(able, session)) == 1


async def test_no_lock_is_held_while_the_provider_is_asked(able: World) -> None:
    session = await live(able)
    loop = asyncio.get_running_loop()
    meanwhile: list[str] = []

    async def work(_: str) -> None:
        async def settle() -> str:
            assert (await able.heartbeat(session)).status_code == 204
            return str((await able.settle(session))["state"])

        meanwhile.append(await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(settle(), loop)))

    able.provider.before_end = work
    answer = await end(able, session, uuid4().hex)
    assert (answer.status_code, answer.json()["state"]) == (202, "settled")
    assert meanwhile == ["settled"]


# With the simulated provider


async def test_what_was_said_until_the_end_is_charged_and_no_more(databases: WorkerDatabases) -> None:
    with provider(speed=200) as simulated:
        clock: Any = simulated.clock
        script = ScriptedProvider(simulated.url, simulated.key)
        async with world(
            databases.urls.service, script, clock=clock, gabber_capabilities="end", provider_timeout_s="1000"
        ) as talktime:
            user = talktime.user()
            await talktime.grant(user, "10000")
            session = await talktime.start(user, persona="default", scenario="endless", time_limit_s=3000)
            talking_until = Instant(clock.now() + 40 * US_PER_S)
            await clock.sleep(40 * US_PER_S)
            assert (await talktime.heartbeat(session)).status_code == 204
            assert (await end(talktime, session)).status_code == 202
            truth = simulated.truth(session["provider_session_id"])
            assert truth["ended_at"] is not None
            said = round(sum(value["seconds"] for value in truth["talk"]) * US_PER_S)
            while (shown := await talktime.session(session))["state"] != "settled":
                assert shown["state"] in {"live", "over"}
                assert clock.now() < talking_until + 2_000 * US_PER_S
                await talktime.reconcile()
                await asyncio.sleep(0.02)
    assert 0 < round(float(shown["charged"]) * US_PER_S) <= said
