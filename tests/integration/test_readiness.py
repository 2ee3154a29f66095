"""A process is ready only where nothing that it acknowledges can be lost."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.clock_watch import FOLLOWED_AFTER, MAX_DISAGREEMENT
from app.core.units import US_PER_S, Instant, Micros, format_instant
from app.ports.clock import SystemClock
from tests.support.clock import ManualClock
from tests.support.postgres import WorkerDatabases, tell
from tests.support.problems import problem
from tests.support.scripted_provider import ProviderHost
from tests.support.unchanged import contents
from tests.support.world import FORGET_REPORTS, World, world

pytestmark = pytest.mark.anyio


async def readiness(talktime: World) -> tuple[int, dict[str, Any]]:
    response = await talktime.client.get("/readyz")
    return response.status_code, response.json()


async def test_settings_that_lose_commits_are_refused(talktime: World) -> None:
    """The tests' own server is such a one."""
    status, told = await readiness(talktime)
    assert (status, told["status"]) == (503, "unready")
    assert "fsync is off: acknowledged heartbeats could be lost" in told["faults"]


async def test_a_schema_of_another_version_is_refused(databases: WorkerDatabases, providers: ProviderHost) -> None:
    with databases.fresh() as urls:
        async with world(urls.service, providers.script()) as talktime:
            tell(urls.owner, "update alembic_version set version_num = '0001'")
            status, told = await readiness(talktime)
            assert status == 503
            assert any("run talktime migrate" in fault for fault in told["faults"])
            assert (await talktime.client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("alter table ticks rename column extra to other", "1 columns are missing: run talktime migrate"),
        ("alter table accounts drop column alerts, drop column limits", "2 columns are missing: run talktime migrate"),
        (
            "revoke insert on ticks from talktime_service",
            "1 tables are missing or closed to the service's role: run talktime migrate",
        ),
    ],
)
async def test_a_schema_that_only_seems_to_be_there_is_refused(
    databases: WorkerDatabases, providers: ProviderHost, change: str, fault: str
) -> None:
    with databases.fresh() as urls:
        async with world(urls.service, providers.script()) as talktime:
            before = (await readiness(talktime))[1]["faults"]
            tell(urls.owner, change)
            status, told = await readiness(talktime)
            assert (status, set(told["faults"]) - set(before)) == (503, {fault})


async def test_a_database_that_is_away_is_told(
    databases: WorkerDatabases, providers: ProviderHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with databases.fresh() as urls:
        async with world(urls.service, providers.script()) as talktime:
            away = urls.service.replace("talktime_test", "talktime_gone", 1)
            assert away != urls.service
            gone = type(talktime.service.database)(away)
            monkeypatch.setattr(talktime.service, "database", gone)
            assert await talktime.service.faults() == [
                "the database cannot be reached",
            ]
            await gone.close()
            monkeypatch.undo()


async def test_a_clock_far_from_the_databases_is_refused(
    databases: WorkerDatabases, providers: ProviderHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(databases.urls.service, providers.script()) as talktime:
        clock = SystemClock()
        monkeypatch.setattr(talktime.service.clock_watch, "_clock", clock)
        await talktime.service.clock_watch.check()
        assert not any("clock" in fault for fault in await talktime.service.faults())
        clock.adjust(Micros(5 * US_PER_S))
        await talktime.service.clock_watch.check()
        assert any("clock" in fault for fault in await talktime.service.faults())
        monkeypatch.setattr(talktime.service.clock_watch, "_clock", ManualClock())


async def test_while_its_clock_is_wrong_a_process_does_nothing_that_has_a_time(
    talktime: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = talktime.service
    alarms: dict[str, Callable[[], Awaitable[object]]] = {}
    monkeypatch.setattr(service._alarms, "every", lambda _seconds, name, work: alarms.update({name: work}))
    monkeypatch.setattr(service._alarms, "start", lambda: None)
    service.set_alarms()
    user = talktime.user()
    await talktime.grant(user, "1000", expires_at=format_instant(Instant(talktime.clock.now() + 7_200 * US_PER_S)))
    session = await talktime.start(user)
    talktime.provider.say(session["provider_session_id"], ("agent", 10))
    talktime.clock.advance(10_000)

    monkeypatch.setattr(service.clock_watch, "_disagreement", Micros(MAX_DISAGREEMENT + 1))
    before, pulls = contents(service.database.conninfo), len(talktime.provider.pulls)
    for work in alarms.values():
        await work()
    await service.reconciler.finish()
    problem(await talktime.heartbeat(session), 503, "unavailable")
    problem(await talktime.client.post(f"/v1/users/{user}/grants", json={"amount": "1"}), 503, "unavailable")
    problem(await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile"), 503, "unavailable")
    assert (await readiness(talktime))[0] == 503
    assert (await talktime.client.get("/healthz")).status_code == 200
    assert (await talktime.session(session))["heartbeat_count"] == 0
    assert contents(service.database.conninfo) == before
    assert len(talktime.provider.pulls) == pulls

    monkeypatch.setattr(service.clock_watch, "_disagreement", Micros(-MAX_DISAGREEMENT))
    for work in alarms.values():
        await work()
    await service.reconciler.finish()
    assert len(talktime.provider.pulls) == pulls + 1
    assert (await talktime.heartbeat(session)).status_code == 204
    tell(service.database.conninfo, FORGET_REPORTS)


async def test_a_process_goes_on_by_itself_once_its_clock_agrees_again(
    databases: WorkerDatabases, providers: ProviderHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(databases.urls.service, providers.script()) as talktime:
        clock = SystemClock()
        monkeypatch.setattr(talktime.service.clock_watch, "_clock", clock)
        await talktime.service.clock_watch.check()
        jump = Micros(5 * US_PER_S)
        told = talktime.service.database.clock

        async def jumped() -> Instant:
            return Instant(await told() + jump)

        monkeypatch.setattr(talktime.service.database, "clock", jumped)
        await talktime.service.clock_watch.check()
        assert not talktime.service.clock_watch.agrees()

        async def late() -> Instant:
            clock.adjust(Micros(2 * US_PER_S))
            return await told()

        monkeypatch.setattr(talktime.service.database, "clock", late)
        await talktime.service.clock_watch.check()
        assert not talktime.service.clock_watch.agrees(), "an answer that took so long says nothing"
        clock.adjust(Micros(-2 * US_PER_S))
        monkeypatch.setattr(talktime.service.database, "clock", told)
        await asyncio.sleep(2.1)  # what was moved back shows as time that stands still
        await talktime.service.clock_watch.check()
        assert talktime.service.clock_watch.agrees()
        monkeypatch.setattr(talktime.service.clock_watch, "_clock", ManualClock())


@pytest.mark.parametrize("jump_s", [-400 * 86_400, -10, 5, 3_600])
async def test_a_database_clock_that_was_set_and_stays_so_is_followed(
    databases: WorkerDatabases, providers: ProviderHost, monkeypatch: pytest.MonkeyPatch, jump_s: int
) -> None:
    async with world(databases.urls.service, providers.script()) as talktime:
        service, clock = talktime.service, SystemClock()
        monkeypatch.setattr(service.clock_watch, "_clock", clock)
        await service.clock_watch.check()
        told, moved = service.database.clock, Micros(jump_s * US_PER_S)

        async def jumped() -> Instant:
            return Instant(await told() + moved)

        monkeypatch.setattr(service.database, "clock", jumped)
        for _ in range(3):
            await service.clock_watch.check()
        moved = Micros((jump_s + 2) * US_PER_S)  # it still moves: that is no new time yet
        for _ in range(FOLLOWED_AFTER - 1):
            await service.clock_watch.check()
            assert not service.clock_watch.agrees()
        with capture_logs() as logs:
            await service.clock_watch.check()
        assert [line["event"] for line in logs] == ["clock.followed"]
        assert service.clock_watch.agrees()
        assert abs(clock.now() - await jumped()) < US_PER_S
        monkeypatch.setattr(service.clock_watch, "_clock", ManualClock())


async def test_a_clock_that_stands_still_is_measured_by_what_it_reads(
    talktime: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = talktime.service
    with monkeypatch.context() as patched:
        clock = SystemClock()
        patched.setattr(service.clock_watch, "_clock", clock)
        await service.clock_watch.check()
        clock.now()
        clock.adjust(Micros(-600 * US_PER_S))
        await service.clock_watch.check()
        assert not service.clock_watch.agrees(), "it went back this moment, and what it says has not changed yet"
        clock.adjust(Micros(1_200 * US_PER_S))
        clock.now()
        clock.adjust(Micros(-600 * US_PER_S))
        await service.clock_watch.check()
        assert not service.clock_watch.agrees(), "it is right again, but says what it said when it was ahead"
        for _ in range(FOLLOWED_AFTER):
            await service.clock_watch.check()
        assert service.clock_watch.agrees(), "it is not waited for until the time of before has come"


async def test_while_its_clock_is_wrong_a_process_still_tells_nothing_of_a_token(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    session = await talktime.start(user)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(talktime.service.clock_watch, "_disagreement", Micros(MAX_DISAGREEMENT + 1))
        problem(await talktime.heartbeat(session), 503, "unavailable")
        for method, path in (("POST", talktime.webhook(session)[:-1] + "!"), ("GET", talktime.webhook(session))):
            answer = await talktime.client.request(method, path)
            assert (answer.status_code, answer.content) == (404, b"")
