"""The provider's rate among processes: counted at the provider, refused before any hold, ``Retry-After`` for all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import httpx
import pytest

from app.budget import ProviderBudget
from app.core.budget import MARGIN, PERMIT_LASTS, NotNow, Permit, Purpose, furthest, spacing
from app.core.units import US_PER_S, Instant, Micros
from app.db.database import Database
from app.gabber import Capabilities, Gabber, PulledTimeline
from app.ports.clock import SystemClock
from app.ports.permits import Unlimited
from app.settlement.reconciler import MAX_AT_ONCE, MAX_FAILED_AT_ONCE
from tests.support.clock import ManualClock
from tests.support.postgres import WorkerDatabases, ask, tell
from tests.support.problems import problem
from tests.support.scripted_provider import ProviderHost
from tests.support.unchanged import unchanged
from tests.support.world import World, world

pytestmark = pytest.mark.anyio

CALM = "update provider_budget set next_at = '2000-01-01', blocked_until = null"


@pytest.fixture
async def pair(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator[tuple[World, World]]:
    """Two processes around one database and one provider, which nobody has asked for anything yet."""
    url, provider, clock = databases.urls.service, providers.script(), ManualClock()
    tell(url, CALM)
    async with (
        world(url, provider, clock=clock, permits=None, gabber_capabilities="end") as one,
        world(url, provider, clock=clock, permits=None, gabber_capabilities="end") as other,
    ):
        yield one, other


@asynccontextmanager
async def budgets(url: str, rate: int, clock: Any, count: int = 2) -> AsyncIterator[list[ProviderBudget]]:
    tell(url, CALM)
    found = [Database(url) for _ in range(count)]
    try:
        yield [ProviderBudget(database, clock, rate) for database in found]
    finally:
        for database in found:
            await database.close()


async def start(talktime: World, user: str, key: str) -> httpx.Response:
    body = {"user_id": user, "persona": "tutor", "scenario": "talk"}
    return await talktime.client.post("/v1/sessions", json=body, headers={"Idempotency-Key": key})


async def live(talktime: World) -> dict[str, Any]:
    user = talktime.user()
    await talktime.grant(user, "1000")
    session = await talktime.start(user)
    talktime.provider.say(session["provider_session_id"], ("agent", 10))
    return session


def row_of(talktime: World, session: dict[str, Any]) -> tuple[int, bool, bool]:
    """Attempts, whether it is due, whether it is leased."""
    key = talktime.key(session)
    now = talktime.clock.now()
    ((attempts, due_us, leased),) = ask(
        talktime.service.database.conninfo,
        "select attempts, (extract(epoch from due_at) * 1000000)::bigint, lease_token is not null "
        f"from sessions where id = '{key.id}'",
    )
    return attempts, due_us <= now, leased


# The rate


@pytest.mark.parametrize("rate", [40])
async def test_two_processes_never_ask_above_the_rate(
    databases: WorkerDatabases, providers: ProviderHost, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, clock = providers.script(), SystemClock()
    provider.say("s", ("agent", 1))
    leases = 0
    lease = ProviderBudget._lease

    async def counted(self: ProviderBudget, *given: Any) -> Any:
        nonlocal leases
        leases += 1
        return await lease(self, *given)

    monkeypatch.setattr(ProviderBudget, "_lease", counted)
    async with budgets(databases.urls.service, rate, clock) as found:
        gabbers = [
            Gabber(
                base_url=provider.url,
                api_key=provider.api_key,
                timeout=Micros(5 * US_PER_S),
                clock=clock,
                capabilities=Capabilities(can_end=True),
                permits=budget,
            )
            for budget in found
        ]

        async def ask_often(gabber: Gabber) -> None:
            for _ in range(6):
                pulled = await gabber.timeline("s")
                assert isinstance(pulled, PulledTimeline), pulled
            await gabber.end("s")

        try:
            await asyncio.gather(*(ask_often(gabber) for gabber in gabbers for _ in range(7)))
        finally:
            for gabber in gabbers:
                await gabber.aclose()
    arrived = sorted(provider.arrived)
    assert len(arrived) == 2 * 7 * 7
    seconds = arrived[-1] - arrived[0]
    assert max(sum(at <= other < at + 1 for other in arrived) for at in arrived) <= rate
    assert seconds < 4 * len(arrived) / rate
    assert leases <= len(arrived) // 2


async def test_a_permit_that_lapsed_is_not_used(databases: WorkerDatabases) -> None:
    clock = ManualClock()
    async with budgets(databases.urls.service, 50, clock, 1) as (budget,):
        permit = await budget.reserve(Purpose.START)
        assert permit == Permit(clock.now())
        clock.set(Instant(clock.now() + PERMIT_LASTS + 1))
        assert await budget.ready(Purpose.START, permit) is None
        ((ahead,),) = ask(
            databases.urls.service, "select count(*) from provider_budget where next_at > '2026-03-01T12:00:00.1Z'"
        )
        assert ahead == 1


async def test_a_permit_that_was_given_back_is_used_by_another(databases: WorkerDatabases) -> None:
    clock = ManualClock()
    async with budgets(databases.urls.service, 50, clock, 1) as (budget,):
        permit = await budget.reserve(Purpose.START)
        assert isinstance(permit, Permit)
        budget.give_back(permit)
        with unchanged(databases.urls.service):
            assert await budget.reserve(Purpose.PULL) == permit


async def test_a_start_gets_a_permit_where_a_pull_gets_none(databases: WorkerDatabases) -> None:
    clock = ManualClock()
    async with budgets(databases.urls.service, 1, clock) as (one, other):
        assert isinstance(await one.reserve(Purpose.PULL), Permit)
        pull = await other.reserve(Purpose.PULL)
        assert pull == NotNow(wait=spacing(1))
        assert await other.reserve(Purpose.START) == Permit(Instant(clock.now() + spacing(1)))


async def test_permits_of_two_processes_are_a_spacing_apart(databases: WorkerDatabases) -> None:
    clock = ManualClock()
    given = []
    async with budgets(databases.urls.service, 50, clock) as found:
        for number in range(40):
            permit = await found[number % 2].reserve(Purpose.START)
            assert isinstance(permit, Permit)
            given.append(permit.at)
    given.sort()
    assert all(later - earlier >= spacing(50) for earlier, later in pairwise(given))
    assert spacing(50) * 50 >= US_PER_S + MARGIN


async def test_a_clock_that_was_set_back_blocks_nobody_for_ever(databases: WorkerDatabases) -> None:
    clock = ManualClock()
    async with budgets(databases.urls.service, 50, clock) as (one, other):
        assert isinstance(await one.reserve(Purpose.START), Permit)
        await one.block(Micros(3600 * US_PER_S))
        clock.set(Instant(clock.now() - 86_400 * US_PER_S))
        assert isinstance(await other.reserve(Purpose.PULL), Permit)
        clock.set(Instant(clock.now() - furthest(spacing(50)) - US_PER_S))
        assert isinstance(await other.reserve(Purpose.START), Permit)


async def test_a_new_block_replaces_one_that_cannot_be(databases: WorkerDatabases) -> None:
    clock = ManualClock()
    async with budgets(databases.urls.service, 50, clock) as (one, other):
        await one.block(Micros(3600 * US_PER_S))
        clock.set(Instant(clock.now() - 86_400 * US_PER_S))
        await one.block(Micros(5 * US_PER_S))
        assert await other.reserve(Purpose.START) == NotNow(wait=Micros(5 * US_PER_S), blocked=True)


async def test_a_shorter_block_does_not_end_a_longer_one(databases: WorkerDatabases) -> None:
    async with budgets(databases.urls.service, 50, ManualClock()) as (one, other):
        await one.block(Micros(30 * US_PER_S))
        await one.block(Micros(5 * US_PER_S))
        for budget in (one, other):
            assert await budget.reserve(Purpose.START) == NotNow(wait=Micros(30 * US_PER_S), blocked=True)


async def test_no_block_is_longer_than_an_hour(databases: WorkerDatabases) -> None:
    async with budgets(databases.urls.service, 50, ManualClock()) as (one, other):
        await one.block(Micros(86_400 * US_PER_S))
        assert await other.reserve(Purpose.PULL) == NotNow(wait=Micros(3600 * US_PER_S), blocked=True)


# Retry-After


async def test_what_one_process_is_told_another_keeps_to(pair: tuple[World, World]) -> None:
    one, other = pair
    user = one.user()
    await one.grant(user, "1000")
    one.provider.start_status, one.provider.retry_after = 429, "30"
    problem(await start(one, user, "first"), 502, "provider-refused")
    one.provider.start_status = 200
    asked = len(one.provider.starts)
    url = one.service.database.conninfo
    for talktime in pair:
        with unchanged(url):
            answer = await start(talktime, user, "second")
        problem(answer, 503, "provider-busy")
        assert answer.headers["Retry-After"] == "30"
    assert len(one.provider.starts) == asked
    one.clock.advance(30)
    assert (await start(other, user, "second")).status_code == 201


async def test_an_earlier_answer_is_given_again_while_the_provider_takes_nothing(pair: tuple[World, World]) -> None:
    one, other = pair
    user = one.user()
    await one.grant(user, "1000")
    first = await start(one, user, "again")
    assert first.status_code == 201
    await one.service.permits.block(Micros(60 * US_PER_S))
    again = await start(other, user, "again")
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["Idempotency-Replayed"] == "true"
    body = {"user_id": user, "persona": "another", "scenario": "talk"}
    misused = await other.client.post("/v1/sessions", json=body, headers={"Idempotency-Key": "again"})
    problem(misused, 422, "idempotency-conflict")


async def test_an_end_is_refused_and_leaves_nothing(pair: tuple[World, World]) -> None:
    one, other = pair
    session = await live(one)
    await one.service.permits.block(Micros(20 * US_PER_S))
    with unchanged(one.service.database.conninfo):
        answer = await other.client.post(f"/v1/sessions/{session['id']}/end")
    problem(answer, 503, "provider-busy")
    assert answer.headers["Retry-After"] == "20"
    assert one.provider.ends == []


async def test_an_end_that_is_told_to_wait_tells_all(pair: tuple[World, World]) -> None:
    one, other = pair
    session = await live(one)
    one.provider.end_status, one.provider.retry_after = 503, "20"
    problem(await one.client.post(f"/v1/sessions/{session['id']}/end"), 504, "end-unconfirmed")
    answer = await other.client.post(f"/v1/sessions/{session['id']}/end")
    problem(answer, 503, "provider-busy")
    assert len(one.provider.ends) == 1


async def test_a_pull_by_hand_is_refused_and_leaves_nothing(pair: tuple[World, World]) -> None:
    one, other = pair
    session = await live(one)
    await one.service.permits.block(Micros(20 * US_PER_S))
    before = row_of(one, session)
    answer = await other.client.post(f"/v1/sessions/{session['id']}/reconcile")
    problem(answer, 503, "provider-busy")
    assert row_of(one, session) == before
    assert one.provider.pulls == []


@pytest.mark.parametrize(("status", "retry_after", "wait"), [(429, "7", 7), (429, None, 2), (503, "7", 7)])
async def test_pulls_wait_for_as_long_as_the_provider_says(
    pair: tuple[World, World], status: int, retry_after: str | None, wait: int
) -> None:
    one, other = pair
    told = await live(one)
    one.clock.advance(1)
    waiting = await live(one)
    one.clock.advance(60)
    one.provider.timeline_status, one.provider.retry_after = status, retry_after
    assert await one.service.reconciler.reconcile(one.key(told)) == "pull_failed"
    one.provider.timeline_status = 200
    assert row_of(one, told)[0] == (0 if status == 429 else 1)
    assert await one.reconcile() == await other.reconcile() == 0
    assert one.provider.pulls == [told["provider_session_id"]]
    assert row_of(one, waiting) == (0, True, False)
    one.clock.advance(wait)
    assert await other.reconcile() >= 1
    assert one.provider.pulls[1] == waiting["provider_session_id"]


async def test_a_503_without_retry_after_keeps_nobody_else_back(pair: tuple[World, World]) -> None:
    one, other = pair
    session = await live(one)
    one.clock.advance(61)
    one.provider.timeline_status = 503
    assert await one.service.reconciler.reconcile(one.key(session)) == "pull_failed"
    assert isinstance(await other.service.permits.reserve(Purpose.PULL), Permit)


async def test_what_needs_no_pull_goes_on_while_the_provider_takes_nothing(pair: tuple[World, World]) -> None:
    one, _ = pair
    user = one.user()
    await one.grant(user, "1000")
    session = await one.start_unconfirmed(user)
    one.clock.advance(181)
    await one.service.permits.block(Micros(600 * US_PER_S))
    await one.reconcile()
    assert (await one.session(session))["state"] == "failed"


# Between permit and call


class Scripted(Unlimited):
    """Permits that can be had, and are refused when the request is to leave."""

    def __init__(self) -> None:
        self.given_back: list[Permit] = []
        self.refuses: NotNow | None = None

    async def ready(self, purpose: Purpose, permit: Permit | None = None) -> NotNow | None:
        del purpose, permit
        return self.refuses

    def give_back(self, permit: Permit) -> None:
        self.given_back.append(permit)


async def test_a_block_between_hold_and_call_is_a_definite_refusal(
    databases: WorkerDatabases, providers: ProviderHost
) -> None:
    permits = Scripted()
    async with world(databases.urls.service, providers.script(), permits=permits) as talktime:
        user = talktime.user()
        await talktime.grant(user, "1000")
        permits.refuses = NotNow(wait=Micros(US_PER_S), blocked=True)
        document = problem(await start(talktime, user, "late"), 502, "provider-refused")
        assert (document["provider_status"], document["provider_code"]) == (None, "busy")
        assert (await talktime.balance(user))["held"] == "0"
        assert talktime.provider.starts == []


async def test_a_start_without_credits_gives_its_permit_back(
    databases: WorkerDatabases, providers: ProviderHost
) -> None:
    permits = Scripted()
    async with world(databases.urls.service, providers.script(), permits=permits) as talktime:
        user = talktime.user()
        problem(await start(talktime, user, "poor"), 402, "insufficient-credits")
        assert len(permits.given_back) == 1
        await talktime.grant(user, "1000")
        assert (await start(talktime, user, "rich")).status_code == 201
        assert len(permits.given_back) == 1


# Catching up


async def rounds(talktime: World) -> list[str]:
    """One round: which sessions were begun, in order."""
    tasks = await talktime.service.reconciler.fill()
    await asyncio.gather(*tasks)
    return [task.get_name().rpartition(" ")[2] for task in tasks]


async def test_after_an_outage_the_oldest_come_first(databases: WorkerDatabases, providers: ProviderHost) -> None:
    async with world(databases.urls.service, providers.script()) as talktime:
        expected = []
        for _ in range(12):
            session = await live(talktime)
            expected.append(str(talktime.key(session).id))
            talktime.clock.advance(20)
        talktime.clock.advance(86_000)
        assert await rounds(talktime) == expected
        assert len(talktime.provider.pulls) == 12


async def test_a_round_begins_no_more_than_there_are_permits(pair: tuple[World, World]) -> None:
    one, _ = pair
    sessions = [await live(one) for _ in range(3)]
    one.clock.advance(3600)

    class One(Scripted):
        async def reserve(self, purpose: Purpose) -> Permit | NotNow:
            del purpose
            self.given, given = True, self.given
            return NotNow(wait=Micros(US_PER_S)) if given else Permit(Instant(0))

        given = False

    one.service.reconciler._permits = One()
    assert await rounds(one) == [str(one.key(sessions[0]).id)]
    assert [row_of(one, session) for session in sessions[1:]] == [(0, True, False)] * 2


async def test_pulls_that_hang_leave_places_to_the_others(databases: WorkerDatabases, providers: ProviderHost) -> None:
    async with world(databases.urls.service, providers.script()) as talktime:
        slow = [await live(talktime) for _ in range(MAX_AT_ONCE)]
        talktime.clock.advance(70)
        talktime.provider.timeline_status = 500
        assert await talktime.reconcile() == MAX_AT_ONCE
        talktime.provider.timeline_status = 200
        talktime.provider.hanging |= {session["provider_session_id"] for session in slow}
        talktime.clock.advance(100)
        reconciler = talktime.service.reconciler
        hanging = await reconciler.fill()
        assert len(hanging) == MAX_FAILED_AT_ONCE
        # While these hang, others become due, and the rounds go on.
        for _ in range(2):
            other = await live(talktime)
            talktime.clock.advance(61)
            assert str(talktime.key(other).id) in await rounds(talktime)
            assert (await talktime.session(other))["accrued"] != "0"
        assert not any(task.done() for task in hanging)
        talktime.provider.hanging.clear()
        await reconciler.finish()


async def test_after_an_outage_of_the_provider_a_round_works_on_all_that_failed(
    databases: WorkerDatabases, providers: ProviderHost
) -> None:
    async with world(databases.urls.service, providers.script()) as talktime:
        sessions = [await live(talktime) for _ in range(3 * MAX_FAILED_AT_ONCE)]
        talktime.clock.advance(70)
        talktime.provider.timeline_status = 500
        assert await talktime.reconcile() >= len(sessions)
        assert {row_of(talktime, session)[0] for session in sessions} == {1}
        talktime.provider.timeline_status = 200
        talktime.clock.advance(100)
        await talktime.reconcile()
        assert [(await talktime.session(session))["accrued"] for session in sessions].count("0") == 0


async def test_a_round_does_not_wait_for_each_of_a_crowd_that_hangs(
    databases: WorkerDatabases, providers: ProviderHost
) -> None:
    async with world(databases.urls.service, providers.script()) as talktime:
        slow = [await live(talktime) for _ in range(3 * MAX_AT_ONCE)]
        talktime.provider.hanging |= {session["provider_session_id"] for session in slow}
        talktime.clock.advance(70)
        begun = await talktime.service.reconciler.fill()
        assert len(begun) == MAX_AT_ONCE
        assert not any(task.done() for task in begun), "the round was over before the first of them was given up"
        talktime.provider.hanging.clear()
        await talktime.service.reconciler.finish()


async def test_a_place_that_becomes_free_is_taken_at_once(databases: WorkerDatabases, providers: ProviderHost) -> None:
    async with world(databases.urls.service, providers.script()) as talktime:
        slow = [await live(talktime) for _ in range(MAX_AT_ONCE)]
        talktime.clock.advance(1)
        fine = await live(talktime)
        talktime.clock.advance(70)
        hanging = {session["provider_session_id"] for session in slow}
        talktime.provider.hanging |= hanging
        filling = asyncio.create_task(talktime.service.reconciler.fill())
        while len(talktime.service.reconciler._working) < MAX_AT_ONCE:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        talktime.provider.hanging.discard(slow[3]["provider_session_id"])
        begun = await filling
        assert len(begun) == MAX_AT_ONCE + 1
        freed = str(talktime.key(slow[3]).id)  # those that are due at the same instant come in any order
        await asyncio.wait({*(task for task in begun if task.get_name().endswith(freed)), begun[-1]})
        assert begun[-1].get_name().endswith(str(talktime.key(fine).id))
        assert sum(task.done() for task in begun) == 2
        talktime.provider.hanging.clear()
        await talktime.service.reconciler.finish()


async def test_many_sessions_whose_pulls_fail_do_not_hide_the_others(
    databases: WorkerDatabases, providers: ProviderHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.settlement.reconciler.MAX_BATCH", 3)
    async with world(databases.urls.service, providers.script()) as talktime:
        for _ in range(4):
            await live(talktime)
        talktime.clock.advance(70)
        talktime.provider.timeline_status = 500
        while await talktime.reconcile():
            pass
        talktime.provider.timeline_status = 200
        fine = await live(talktime)
        talktime.clock.advance(600)
        assert str(talktime.key(fine).id) in await rounds(talktime)


async def test_a_start_whose_permit_lapsed_while_its_hold_was_made_waits_for_another(
    databases: WorkerDatabases,
) -> None:
    """It could be sent away before; now its session would have failed for it."""
    clock = ManualClock()
    async with budgets(databases.urls.service, 2, clock) as (one, other):
        permit = await one.reserve(Purpose.START)
        assert isinstance(permit, Permit)
        clock.advance(1)
        while isinstance(await other.reserve(Purpose.START), Permit):
            pass
        assert isinstance(await one.reserve(Purpose.START), NotNow), "whoever holds nothing yet is sent away"
        before = clock.now()
        assert await one.ready(Purpose.START, permit) is None
        assert 0 < clock.now() - before <= 5 * US_PER_S
