"""Alarms go on after failures, and what failed is told without filling the log."""

import asyncio
from collections.abc import Awaitable, Callable

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
