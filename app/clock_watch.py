"""Whether this process's clock may be gone by: it is compared with the database's, which all processes follow.

Within a second it follows; further off, nothing is stamped or judged by it until it agrees again, or until the
database's clock, which was set then, has been off by the same for long enough (decision 24).
"""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from app.core.units import US_PER_S, Micros
from app.db.database import Database, disagreement
from app.ports.clock import Clock, SystemClock

CHECK_EVERY_S: Final = 2.0

FOLLOWED_AFTER: Final = 5
"""Comparisons in a row by which the database's clock was off by the same: then ours is set by it, as at a start."""

MAX_DISAGREEMENT: Final = Micros(US_PER_S)
"""Our clock may be this far from the database's; further off, the service is not ready."""

log = structlog.get_logger(__name__)


class ClockWatch:
    """One for each process. Clocks other than the system's are told by others, and always agree."""

    def __init__(self, clock: Clock, database: Database) -> None:
        self._clock = clock
        self._database = database
        self._disagreement: Micros | None = None
        self._apart: list[Micros] = []

    def agrees(self) -> bool:
        """Whether our clock may be gone by; so it is before the first comparison."""
        return self._disagreement is None or abs(self._disagreement) <= MAX_DISAGREEMENT

    async def if_it_agrees(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do ``work``, unless our clock is wrong."""
        if self.agrees():
            await work()

    async def check(self) -> None:
        """Measure how far our clock is from the database's, and follow it if that is not far.

        Raises :class:`~app.db.database.DatabaseUnavailable`.
        """
        if not isinstance(self._clock, SystemClock):
            return
        first = self._disagreement is None
        # By what it reads: a clock that stands still since it went back would seem to agree for a while.
        before = self._clock.reading()
        database, after = await self._database.clock(), self._clock.reading()
        if not first and after - before > MAX_DISAGREEMENT:
            return  # answered so late that it says too little
        measured = disagreement(before, database, after)
        if first:
            self._clock.set_anew(measured)
            self._disagreement = Micros(0)
            return
        near = abs(measured) <= MAX_DISAGREEMENT
        if near:
            self._clock.adjust(measured)
        # As long as it stands still, what it stamps lies ahead.
        self._disagreement = Micros(self._clock.reading() - self._clock.now()) if near else measured
        if self.agrees():
            self._apart.clear()
        elif self._stays_apart(measured):
            # It was set, and stays so: all processes follow it, and a restarted one would at once.
            log.error("clock.followed", microseconds=self._disagreement)
            self._clock.set_anew(Micros(0) if near else measured)
            self._disagreement = Micros(0)
            self._apart.clear()
        else:
            log.error("clock.disagrees", microseconds=self._disagreement)

    def _stays_apart(self, measured: Micros) -> bool:
        """Whether the database's clock has been off by the same for so many comparisons that it will stay so."""
        if self._apart and abs(measured - self._apart[-1]) > MAX_DISAGREEMENT:
            self._apart.clear()
        self._apart.append(measured)
        return len(self._apart) >= FOLLOWED_AFTER
