"""Clocks. Everything that stamps or waits does so through a :class:`Clock`; nothing else asks what time it is."""

import asyncio
import time
from typing import Protocol

from app.core.units import Instant, Micros


class Clock(Protocol):
    """Tells the time and waits. Instants never run backwards within one process."""

    def now(self) -> Instant:
        """The present instant on our clock."""
        ...

    async def sleep(self, duration: Micros) -> None:
        """Wait until ``duration`` has passed on this clock."""
        ...

    def real_seconds(self, duration: Micros) -> float:
        """The seconds of real time in which ``duration`` passes on this clock: for time-outs and timers."""
        ...


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1000


class SystemClock:
    """The process's monotonic clock plus an offset, which :meth:`adjust` sets from the database's clock.

    All replicas share the database, so their stamps agree whatever their own wall clocks say. A jump of the wall
    clock changes nothing here.
    """

    def __init__(self) -> None:
        self._offset_us = time.time_ns() // 1000 - _monotonic_us()
        self._latest = Instant(0)

    def now(self) -> Instant:
        self._latest = max(self._latest, self.reading())
        return self._latest

    def reading(self) -> Instant:
        """What the clock would say if it did not stand still after a move back: by this it is measured."""
        return Instant(_monotonic_us() + self._offset_us)

    def adjust(self, disagreement: Micros) -> None:
        """Move the clock by ``disagreement`` (positive: forward). A move back shows as time standing still."""
        self._offset_us += disagreement

    def set_anew(self, disagreement: Micros) -> None:
        """Move the clock as at a start, before anything is stamped with it: a move back is no standing still then."""
        self._offset_us += disagreement
        self._latest = Instant(0)

    async def sleep(self, duration: Micros) -> None:
        await asyncio.sleep(self.real_seconds(duration))

    def real_seconds(self, duration: Micros) -> float:
        return max(0, duration) / 1_000_000


class ScaledClock:
    """A clock that runs ``speed`` times as fast as real time, shared by processes of one machine.

    ``now = origin + speed × (monotonic − anchor)``. The monotonic clock is the machine's, so processes that are given
    the same origin, anchor and speed agree to the microsecond.
    """

    def __init__(self, *, origin: Instant, anchor_us: int, speed: int) -> None:
        if speed < 1:
            raise ValueError("a scaled clock runs at 1 or more times real time")
        self._origin = origin
        self._anchor_us = anchor_us
        self._speed = speed

    @classmethod
    def starting_now(cls, speed: int) -> "ScaledClock":
        """A clock that agrees with the wall clock now and runs ``speed`` times as fast from here on."""
        return cls(origin=Instant(time.time_ns() // 1000), anchor_us=_monotonic_us(), speed=speed)

    @classmethod
    def parse(cls, text: str) -> "ScaledClock":
        """Read the form that :meth:`__str__` writes: ``speed@origin_us@anchor_us``. Raises ``ValueError``."""
        speed, origin, anchor = (int(part) for part in text.split("@"))
        return cls(origin=Instant(origin), anchor_us=anchor, speed=speed)

    def __str__(self) -> str:
        return f"{self._speed}@{self._origin}@{self._anchor_us}"

    @property
    def speed(self) -> int:
        return self._speed

    def now(self) -> Instant:
        return Instant(self._origin + self._speed * (_monotonic_us() - self._anchor_us))

    async def sleep(self, duration: Micros) -> None:
        await asyncio.sleep(self.real_seconds(duration))

    def real_seconds(self, duration: Micros) -> float:
        return max(0, duration) / 1_000_000 / self._speed
