"""A process is ready only where nothing that it acknowledges can be lost."""

from typing import Any

import pytest

from app.core.units import US_PER_S, Micros
from app.ports.clock import SystemClock
from tests.support.clock import ManualClock
from tests.support.postgres import WorkerDatabases, tell
from tests.support.scripted_provider import ProviderHost
from tests.support.world import World, world

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
                "the database cannot be reached, or holds no schema of ours",
            ]
            await gone.close()
            monkeypatch.undo()


async def test_a_clock_far_from_the_databases_is_refused(
    databases: WorkerDatabases, providers: ProviderHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(databases.urls.service, providers.script()) as talktime:
        clock = SystemClock()
        monkeypatch.setattr(talktime.service, "_clock", clock)
        await talktime.service.check_clock()
        assert not any("clock" in fault for fault in await talktime.service.faults())
        clock.adjust(Micros(5 * US_PER_S))
        await talktime.service.check_clock()
        assert any("clock" in fault for fault in await talktime.service.faults())
        monkeypatch.setattr(talktime.service, "_clock", ManualClock())
