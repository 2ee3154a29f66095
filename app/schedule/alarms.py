"""Functions that are woken at intervals of real time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC
from typing import Final

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from app.db.database import DatabaseUnavailable
from app.schedule.failures import Failures

log = structlog.get_logger(__name__)

# A round that takes longer than its interval is no news: the next one takes up what is due.
logging.getLogger("apscheduler").setLevel(logging.ERROR)


LOOK_EVERY_S: Final = 1.0
"""How often it is looked for alarms that are overdue, in seconds by the loop's own clock."""


@dataclass(slots=True)
class _Alarm:
    """``woken_s``: when it last came, by the loop's own clock, which only goes forward."""

    every_s: float
    woken_s: float
    at_work: bool = False


class Alarms:
    """Wakes each function at its interval, never twice at once; missed alarms become one.

    The library reads the wall clock, and sleeps through an hour by which that is set back. So whatever is overdue by
    the clock of the loop is set anew.
    """

    def __init__(self) -> None:
        self._alarms: dict[str, _Alarm] = {}
        self._looking: asyncio.Task[None] | None = None
        self._scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )

    def every(self, seconds: float, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Wake ``work`` every ``seconds`` of real time. What it raises is logged; the next alarm comes all the same.

        Identical failures are logged once a minute, with ``repeated`` for those in between; a database that is down,
        without a traceback.
        """
        failures = Failures()
        alarm = self._alarms[name] = _Alarm(seconds, 0.0)

        async def woken() -> None:
            alarm.woken_s, alarm.at_work = asyncio.get_running_loop().time(), True
            try:
                await work()
            except asyncio.CancelledError:
                log.debug("alarm.cancelled", alarm=name)  # the service stops, and waits for the work itself
            except Exception as error:
                repeated = failures.untold(error, asyncio.get_running_loop().time())
                if repeated is None:
                    return
                if isinstance(error, DatabaseUnavailable):
                    log.warning("alarm.database_unavailable", alarm=name, error=str(error), repeated=repeated)
                else:
                    log.exception("alarm.failed", alarm=name, repeated=repeated)
            finally:
                alarm.woken_s, alarm.at_work = asyncio.get_running_loop().time(), False

        self._scheduler.add_job(woken, "interval", seconds=seconds, id=name, name=name)

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        for alarm in self._alarms.values():
            alarm.woken_s = loop.time()
        self._scheduler.start()
        self._looking = loop.create_task(self._look(), name="overdue-alarms")

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            for name, alarm in self._alarms.items():
                if not alarm.at_work and loop.time() - alarm.woken_s > 2 * alarm.every_s + LOOK_EVERY_S:
                    log.warning("alarm.overdue", alarm=name)
                    alarm.woken_s = loop.time()
                    self._scheduler.reschedule_job(name, trigger="interval", seconds=alarm.every_s)

    def stop(self) -> None:
        """No more alarms; what is running runs on."""
        if self._looking is not None:
            self._looking.cancel()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
