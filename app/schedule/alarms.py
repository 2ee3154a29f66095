"""Functions that are woken at intervals of real time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from app.db.database import DatabaseUnavailable
from app.schedule.failures import Failures

log = structlog.get_logger(__name__)

# A round that takes longer than its interval is no news: the next one takes up what is due.
logging.getLogger("apscheduler").setLevel(logging.ERROR)


class Alarms:
    """Wakes each function at its interval, never twice at once; missed alarms become one."""

    def __init__(self) -> None:
        self._scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )

    def every(self, seconds: float, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Wake ``work`` every ``seconds`` of real time. What it raises is logged; the next alarm comes all the same.

        Identical failures are logged once a minute, with ``repeated`` for those in between; a database that is down,
        without a traceback.
        """
        failures = Failures()

        async def woken() -> None:
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

        self._scheduler.add_job(woken, "interval", seconds=seconds, id=name, name=name)

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        """No more alarms; what is running runs on."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
