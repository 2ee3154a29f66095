"""The database's clock, which all processes follow, is set back: nothing waits for what it said before."""

from typing import Any

import pytest

from app.core.units import US_PER_MINUTE, US_PER_S, Instant, Micros
from app.core.waits import CLOCK_MARGIN
from app.gabber import Gabber
from app.schedule.jobs import LEASE, Jobs
from tests.support.clock import ManualClock
from tests.support.invariants import findings
from tests.support.postgres import ask, tell
from tests.support.world import World

pytestmark = pytest.mark.anyio

YEAR_S = 365 * 86_400


async def funded(talktime: World) -> str:
    user = talktime.user()
    await talktime.grant(user, "1000")
    return user


async def live(talktime: World, user: str) -> dict[str, Any]:
    session = await talktime.start(user)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 50))
    await talktime.heartbeats_until(session, 60)
    await talktime.reconcile()
    return session


async def over(talktime: World, user: str) -> dict[str, Any]:
    session = await live(talktime, user)
    talktime.clock.advance(100)
    await talktime.reconcile()
    assert (await talktime.session(session))["state"] == "over"
    return session


async def in_review(talktime: World, user: str) -> dict[str, Any]:
    session = await live(talktime, user)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", "null"))
    assert (await talktime.settle(session))["state"] == "review"
    return session


async def set_back(talktime: World, seconds: float) -> None:
    """All processes start anew and take over the database's clock."""
    talktime.clock.advance(-seconds)
    await talktime.service.bring_nearer()


async def held(talktime: World, user: str) -> bool:
    return bool((await talktime.balance(user))["held"] != "0")


async def pass_time(talktime: World, session: dict[str, Any], seconds: int) -> None:
    """Hour by hour, as the alarms would find it."""
    for _ in range(seconds // 3_600 + 1):
        await talktime.service.bring_nearer()
        await talktime.live_through(session, min(seconds, 3_600))


@pytest.mark.parametrize("made", [live, over])
async def test_a_session_that_runs_comes_into_review_and_its_credits_free(talktime: World, made: Any) -> None:
    user = await funded(talktime)
    session = await made(talktime, user)
    await set_back(talktime, YEAR_S)
    await talktime.reconcile()
    shown = await talktime.session(session)
    assert (shown["state"], shown["steps"][-1]["why"]) == ("review", "our clock was set back while it ran")
    assert await held(talktime, user)
    await pass_time(talktime, session, 86_400 + 3_600)
    assert not await held(talktime, user)
    response = await talktime.client.post(
        f"/v1/sessions/{session['id']}/review", json={"action": "settle", "reason": "seen"}
    )
    assert (response.status_code, response.json()["state"]) == (200, "settled")
    assert await findings(talktime.service.database.conninfo) == []


async def test_a_session_whose_timeline_cannot_be_had_comes_into_review(talktime: World) -> None:
    user = await funded(talktime)
    session = await live(talktime, user)
    talktime.provider.timeline_status = 500
    await talktime.reconcile()
    await set_back(talktime, YEAR_S)
    await pass_time(talktime, session, 100_000)
    assert (await talktime.session(session))["state"] == "review"


async def test_a_start_of_unknown_outcome_is_given_up(talktime: World) -> None:
    user = await funded(talktime)
    session = await talktime.start_unconfirmed(user)
    await set_back(talktime, YEAR_S)
    await talktime.live_through(session, 170)
    assert (await talktime.session(session))["state"] == "unconfirmed", "its wait begins anew"
    await talktime.live_through(session, 20)
    assert (await talktime.session(session))["state"] == "failed"
    assert not await held(talktime, user)


async def test_a_start_that_was_cut_off_is_given_up(talktime: World, monkeypatch: pytest.MonkeyPatch) -> None:
    user = await funded(talktime)

    async def die(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(Gabber, "start", die)
        body = {"user_id": user, "persona": "tutor", "scenario": "talk"}
        assert (await talktime.client.post("/v1/sessions", json=body)).status_code == 500
    (session,) = (await talktime.get(f"/v1/sessions?user_id={user}"))["data"]
    assert session["state"] == "starting"
    await set_back(talktime, YEAR_S)
    await talktime.live_through(session, 1)
    assert (await talktime.session(session))["state"] == "unconfirmed"
    await talktime.live_through(session, 200)
    assert (await talktime.session(session))["state"] == "failed"
    assert not await held(talktime, user)


async def test_a_review_frees_its_credits(talktime: World) -> None:
    user = await funded(talktime)
    session = await in_review(talktime, user)
    await set_back(talktime, YEAR_S)
    await talktime.reconcile()
    assert await held(talktime, user), "but not before it had its time"
    await pass_time(talktime, session, 86_400 + 3_600)
    assert not await held(talktime, user)


async def test_a_settled_session_is_looked_at(talktime: World) -> None:
    session = await over(talktime, await funded(talktime))
    assert (await talktime.settle(session))["state"] == "settled"
    pulls = len(talktime.provider.pulls)
    await talktime.service.bring_nearer()
    await talktime.reconcile()
    assert len(talktime.provider.pulls) == pulls, "a look after a third of the window is none too late"
    await set_back(talktime, YEAR_S)
    await talktime.reconcile()
    assert len(talktime.provider.pulls) == pulls + 1


@pytest.mark.parametrize("status", [429, 500])
async def test_the_longest_wait_that_there_can_be_is_waited_for(talktime: World, status: int) -> None:
    """Twelve failures, or the longest ``Retry-After`` that is heeded."""
    session = await live(talktime, await funded(talktime))
    talktime.provider.timeline_status, talktime.provider.retry_after = status, "3600"
    await talktime.live_through(session, 40_000)
    before = due_at(talktime, session)
    await talktime.service.bring_nearer()
    assert due_at(talktime, session) == before


def due_at(talktime: World, session: dict[str, Any]) -> Any:
    statement = f"select due_at from sessions where id = '{talktime.key(session).id}'"
    return ask(talktime.service.database.conninfo, statement)


async def test_a_lease_of_before_holds_nobody_up(talktime: World) -> None:
    session = await live(talktime, await funded(talktime))
    leases = talktime.service.reconciler._leases
    assert await leases.take(talktime.key(session), even_if_not_due=True) is not None
    assert await leases.take(talktime.key(session), even_if_not_due=True) is None
    await set_back(talktime, CLOCK_MARGIN / US_PER_S)
    assert await leases.free_far(talktime.key(session)) == 0, "by another process's clock"
    await set_back(talktime, 1)
    response = await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile")
    assert response.status_code != 503, response.text
    assert await leases.take(talktime.key(session), even_if_not_due=True) is not None


async def test_a_lease_that_was_taken_meanwhile_is_not_freed_by_whoever_slept(talktime: World) -> None:
    """The stale one saw the lease before it slept; its idea of the time is older than the lease of now."""
    session = await live(talktime, await funded(talktime))
    key, leases = talktime.key(session), talktime.service.reconciler._leases
    asleep = talktime.clock.now()
    talktime.clock.advance(3_600)
    assert await leases.take(key, even_if_not_due=True) is not None
    taken_at = talktime.clock.now()
    readings = iter([asleep, taken_at, taken_at])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(talktime.clock, "now", lambda: next(readings))
        assert await leases.free_far(key) == 0
    assert await leases.take(key, even_if_not_due=True) is None


async def test_rounds_find_sessions_that_are_leased_by_the_clock_of_before(talktime: World) -> None:
    session = await live(talktime, await funded(talktime))
    assert await talktime.service.reconciler._leases.take(talktime.key(session), even_if_not_due=True) is not None
    await set_back(talktime, YEAR_S)
    await talktime.service.bring_nearer()
    await talktime.reconcile()
    assert (await talktime.session(session))["state"] == "review"


async def test_a_job_whose_process_died_is_taken_over(talktime: World) -> None:
    clock = ManualClock(Instant(talktime.clock.now()))
    name = talktime.user()
    minute = Micros(US_PER_MINUTE)
    runs: list[str] = []

    async def work() -> None:
        runs.append("done")

    jobs = Jobs(talktime.service.database, clock, talktime.service.ledger.ids)
    assert await jobs.run(name, minute, work)

    def leased_for(duration: int) -> None:
        until = f"to_timestamp({int(clock.now()) + duration} / 1e6)"
        statement = f"update job_leases set leased_until = {until}, next_run_at = {until} where job = '{name}'"
        tell(talktime.service.database.conninfo, statement)

    leased_for(LEASE + CLOCK_MARGIN)
    assert not await jobs.run(name, minute, work), "somebody is at it"
    leased_for(LEASE + CLOCK_MARGIN + 1)
    assert await jobs.run(name, minute, work)
    assert runs == ["done", "done"]
