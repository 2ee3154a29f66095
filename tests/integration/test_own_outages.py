"""What we did not hear because we were not there: nobody is charged for it, and no session ends because of it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.core.budget import NotNow
from app.core.units import US_PER_DAY, Instant, parse_instant
from app.db.database import DatabaseUnavailable
from app.receiving import COMPACT_AFTER, Receiving
from app.settlement.steps import Outcome
from tests.support.postgres import WorkerDatabases, ask, tell
from tests.support.scripted_provider import ProviderHost
from tests.support.world import World, world

pytestmark = pytest.mark.anyio


@pytest.fixture
async def alone(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator[World]:
    """A service that says when it receives, on a database of its own."""
    with databases.fresh() as urls:
        async with world(urls.service, providers.script(), reports=True) as talktime:
            yield talktime


async def receive(talktime: World, seconds: int) -> None:
    """Let time pass in which heartbeats are received."""
    for _ in range(seconds // 5):
        talktime.clock.advance(5)
        await talktime.service.receiving.report()


def rows(talktime: World) -> list[tuple[int, int]]:
    """From when to when heartbeats were received, in seconds after noon."""
    statement = """
        select extract(epoch from from_at - timestamptz '2026-03-01T12:00:00Z')::int,
               extract(epoch from to_at - timestamptz '2026-03-01T12:00:00Z')::int
        from receiving order by from_at, to_at"""
    return [(start, end) for start, end in ask(talktime.service.database.conninfo, statement)]


async def reconcile(talktime: World, session: dict[str, Any]) -> Outcome | NotNow:
    """Pull a timeline of 10 s of the agent, and of silence since then."""
    silence_us = talktime.clock.now() - parse_instant(session["requested_at"]) - 10_000_000
    silence = ("silence", silence_us / 1e6) if silence_us > 0 else ("silence", 0)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), silence)
    return await talktime.service.reconciler.reconcile(talktime.key(session), now_please=True)


async def talking(talktime: World) -> dict[str, Any]:
    """A session with 10 s of the agent, alive for 60 s."""
    user = talktime.user()
    await talktime.grant(user, "1000")
    session = await talktime.start(user)
    for _ in range(2):
        await receive(talktime, 30)
        assert (await talktime.heartbeat(session)).status_code == 204
    assert await reconcile(talktime, session) is Outcome.UPDATED
    return session


# What is recorded


async def test_a_process_moves_the_end_of_its_row(alone: World) -> None:
    await receive(alone, 60)
    assert rows(alone) == [(0, 60)]


async def test_a_process_that_stood_still_goes_on_with_a_new_row(alone: World) -> None:
    await receive(alone, 20)
    alone.clock.advance(15.000001)
    await alone.service.receiving.report()
    await receive(alone, 10)
    assert [end - start for start, end in rows(alone)] == [20, 10]


async def test_reports_that_fail_leave_a_hole(alone: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await receive(alone, 20)
    with monkeypatch.context() as broken:

        def away() -> Any:
            raise DatabaseUnavailable("away")

        broken.setattr(alone.service.database, "transaction", away)
        alone.clock.advance(5)
        with pytest.raises(DatabaseUnavailable):
            await alone.service.receiving.report()
        await alone.service.receiving.report_the_end()
    alone.clock.advance(5)
    await alone.service.receiving.report()
    await receive(alone, 10)
    assert rows(alone) == [(0, 20), (30, 40)]


async def test_an_orderly_stop_says_when(databases: WorkerDatabases, providers: ProviderHost) -> None:
    with databases.fresh() as urls:
        async with world(urls.service, providers.script(), reports=True) as talktime:
            talktime.clock.advance(3)
        assert rows(talktime) == [(0, 3)]


async def test_a_clock_set_back_begins_a_row(alone: World) -> None:
    await receive(alone, 60)
    alone.clock.advance(-30)
    await alone.service.receiving.report()
    await receive(alone, 10)
    assert rows(alone) == [(0, 60), (30, 40)]


async def test_old_rows_are_joined(alone: World) -> None:
    service = alone.service
    await receive(alone, 20)
    others = [Receiving(service.database, alone.clock, service._ids) for _ in range(3)]
    for other in others:
        await other.report()
        alone.clock.advance(10)
        await other.report()
    alone.clock.advance(COMPACT_AFTER / 1e6)
    await service.receiving.compact()
    assert rows(alone) == [(0, 40), (40, 50)], "the last is not old enough"
    alone.clock.advance(0.000001)
    late = alone.clock.now()
    await service.receiving.report()
    await service.receiving.compact()
    assert rows(alone) == [(0, 50), (86450, 86450)]
    async with service.database.reading() as transaction:
        found = await service.receiving.outages(transaction, Instant(late - US_PER_DAY))
    assert [(outage.end, outage.end - outage.start) for outage in found] == [(late, US_PER_DAY)]
    await service.receiving.compact()
    assert rows(alone) == [(0, 50), (86450, 86450)]


# What it means


async def test_a_session_is_not_over_because_we_were_away(alone: World) -> None:
    session = await talking(alone)
    alone.clock.advance(600)
    await alone.service.receiving.report()
    assert await reconcile(alone, session) is Outcome.UPDATED
    assert (await alone.session(session))["state"] == "live"
    await receive(alone, 70)
    assert await reconcile(alone, session) is Outcome.UPDATED
    assert (await alone.session(session))["state"] == "live", "75 s without a heartbeat have not passed while we heard"
    await receive(alone, 10)
    assert await reconcile(alone, session) is Outcome.UPDATED
    over = await alone.session(session)
    assert (over["state"], over["over_at"]) == ("over", "2026-03-01T12:12:15.000000Z")


async def test_nobody_is_over_while_nobody_receives(alone: World) -> None:
    """Reconciliation may well go on where heartbeats do not arrive."""
    session = await talking(alone)
    for _ in range(5):
        alone.clock.advance(200)
        assert await reconcile(alone, session) is Outcome.UPDATED
        assert (await alone.session(session))["state"] == "live"


async def test_the_time_limit_ends_a_session_all_the_same(alone: World) -> None:
    user = alone.user()
    await alone.grant(user, "1000")
    session = await alone.start(user, time_limit_s=100)
    await alone.heartbeat(session)
    alone.clock.advance(176)
    assert await reconcile(alone, session) is Outcome.UPDATED
    assert (await alone.session(session))["state"] == "over"


async def test_the_charge_says_which_silence_was_our_fault(alone: World) -> None:
    session = await talking(alone)
    alone.clock.advance(300)
    await alone.service.receiving.report()
    await receive(alone, 30)
    assert (await alone.heartbeat(session)).status_code == 204
    for _ in range(30):
        await receive(alone, 20)
        await reconcile(alone, session)
    assert (await alone.session(session))["state"] == "settled"
    charge = await alone.get(f"/v1/sessions/{session['id']}/charge")
    assert charge["own_outages"] == [
        {"from": "2026-03-01T12:01:00.000000Z", "to": "2026-03-01T12:06:00.000000Z", "from_s": 60, "to_s": 360}
    ]
    assert charge["heartbeat_gaps"] == [
        {
            "from": "2026-03-01T12:01:00.000000Z",
            "to": "2026-03-01T12:06:30.000000Z",
            "from_s": 60,
            "to_s": 390,
            "own_outage": True,
        }
    ]
    marked = [(piece["reason"], piece["from_s"], piece["to_s"]) for piece in charge["pieces"] if piece["own_outage"]]
    assert marked == [("no_proof_of_life", 60, 390)]
    assert charge["not_billed"]["no_proof_of_life"] == 330, "it stays unbilled"


async def test_silence_that_the_agents_own_end_left_is_not_our_fault(alone: World) -> None:
    session = await talking(alone)
    for _ in range(20):
        await receive(alone, 20)
        await reconcile(alone, session)
    alone.clock.advance(500)
    await alone.service.receiving.report()
    charge = await alone.get(f"/v1/sessions/{session['id']}/charge")
    assert (charge["final"], charge["own_outages"], charge["heartbeat_gaps"]) == (True, [], [])
    assert not any(piece["own_outage"] for piece in charge["pieces"])


async def test_an_outage_at_the_end_is_told(alone: World) -> None:
    session = await talking(alone)
    alone.clock.advance(100)
    await alone.service.receiving.report()
    for _ in range(20):
        await receive(alone, 20)
        await reconcile(alone, session)
    charge = await alone.get(f"/v1/sessions/{session['id']}/charge")
    assert [gap["own_outage"] for gap in charge["heartbeat_gaps"]] == [True]
    assert [(gap["from_s"], gap["to_s"]) for gap in charge["heartbeat_gaps"]] == [(60, 160)]
    assert [piece["reason"] for piece in charge["pieces"] if piece["own_outage"]] == ["after_last_proof"]


async def test_an_ambiguous_start_is_given_the_time_in_which_we_would_have_heard(alone: World) -> None:
    user = alone.user()
    await alone.grant(user, "1000")
    session = await alone.start_unconfirmed(user)
    await receive(alone, 60)
    alone.clock.advance(1000)
    await alone.service.receiving.report()
    assert await reconcile(alone, session) is Outcome.UNCONFIRMED
    await receive(alone, 115)
    await alone.reconcile()
    assert (await alone.session(session))["state"] == "unconfirmed"
    assert (await alone.balance(user))["held"] != "0"
    await receive(alone, 5)
    await alone.reconcile()
    assert (await alone.session(session))["state"] == "failed"
    assert (await alone.balance(user))["held"] == "0"


async def test_an_outage_long_after_a_session_is_none_of_its_business(alone: World) -> None:
    """A start that was given up and then heard of waits for a person, and was never seen to be over."""
    user = alone.user()
    await alone.grant(user, "1000")
    session = await alone.start_unconfirmed(user, time_limit_s=60)
    await receive(alone, 200)
    await alone.reconcile()
    session["provider_session_id"] = "gab-late"
    assert (await alone.heartbeat(session)).status_code == 204
    assert (await alone.session(session))["state"] == "review"
    alone.clock.advance(86_400)
    await alone.service.receiving.report()
    charge = await alone.get(f"/v1/sessions/{session['id']}/charge")
    assert (charge["own_outages"], [gap["own_outage"] for gap in charge["heartbeat_gaps"]]) == ([], [False])


async def test_before_the_first_report_nothing_is_called_an_outage(alone: World) -> None:
    session = await talking(alone)
    tell(alone.service.database.conninfo, "delete from receiving")
    alone.clock.advance(100)
    await alone.service.receiving.report()
    assert await reconcile(alone, session) is Outcome.UPDATED
    assert (await alone.session(session))["state"] == "over"
