"""Alarms go on after failures, and what failed is told without filling the log."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, tzinfo
from typing import Self

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from app.db.database import DatabaseUnavailable
from app.schedule.alarms import Alarms

pytestmark = pytest.mark.anyio


async def woken(times: int, work: Callable[[], Awaitable[object]]) -> list[EventDict]:
    """What is logged while ``work`` is woken so many times."""
    enough, count = asyncio.Event(), 0

    async def counted() -> None:
        nonlocal count
        count += 1
        if count > times:
            enough.set()
        await work()

    alarms = Alarms()
    alarms.every(0.01, "counted", counted)
    with capture_logs() as logged:
        alarms.start()
        async with asyncio.timeout(20):
            await enough.wait()
        alarms.stop()
    return logged


async def test_a_database_that_is_down_is_one_line_without_a_traceback() -> None:
    async def down() -> None:
        raise DatabaseUnavailable("OperationalError")

    (line,) = await woken(20, down)
    assert line == {
        "event": "alarm.database_unavailable",
        "log_level": "warning",
        "alarm": "counted",
        "error": "OperationalError",
        "repeated": 0,
    }


async def test_any_other_failure_has_its_traceback_once() -> None:
    async def broken() -> None:
        raise ValueError("broken")

    (line,) = await woken(20, broken)
    assert (line["event"], line["log_level"], line["exc_info"]) == ("alarm.failed", "error", True)


async def test_work_that_succeeds_is_not_told() -> None:
    async def fine() -> None:
        pass

    assert await woken(5, fine) == []


class SetBack(datetime):
    """The wall clock, an hour slow from some time on."""

    slow_by = timedelta(0)

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) - cls.slow_by


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> type[SetBack]:
    for module in ("apscheduler.schedulers.base", "apscheduler.triggers.interval", "apscheduler.executors.base"):
        monkeypatch.setattr(f"{module}.datetime", SetBack)
    monkeypatch.setattr(SetBack, "slow_by", timedelta(0))
    return SetBack


async def test_a_wall_clock_that_is_set_back_stops_nothing(wall_clock: type[SetBack]) -> None:
    woken, more = 0, asyncio.Event()

    async def work() -> None:
        nonlocal woken
        woken += 1
        more.set()

    async def wait_for_more() -> None:
        more.clear()
        async with asyncio.timeout(20):
            await more.wait()

    alarms = Alarms()
    alarms.every(0.05, "counted", work)
    alarms.start()
    await wait_for_more()
    wall_clock.slow_by = timedelta(hours=1)
    await asyncio.sleep(0.2)  # what was due by the old time comes
    with capture_logs() as logged:
        before = woken
        for _ in range(3):
            await wait_for_more()
    alarms.stop()
    assert woken >= before + 3
    assert [line["event"] for line in logged] == ["alarm.overdue"]


async def test_work_that_takes_long_is_not_overdue() -> None:
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(2.5)
        done.set()

    alarms = Alarms()
    alarms.every(0.05, "slow", work)
    with capture_logs() as logged:
        alarms.start()
        async with asyncio.timeout(20):
            await done.wait()
        alarms.stop()
    assert logged == []
