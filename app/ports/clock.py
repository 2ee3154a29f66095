"""Clocks. Everything that stamps or waits does so through a :class:`Clock`; nothing else asks what time it is."""

import asyncio
import heapq
import time
from itertools import count
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


class LeapingClock:
    """A clock that stands still while work is done, and leaps when it is led on: weeks pass in the time of the work.

    Whoever leads it calls :meth:`lead_on` again and again, and never waits for a sleeper otherwise: no one but him
    moves the time. Time-outs run in real time. From :meth:`let_go` on it is a system clock. For one event loop.
    """

    def __init__(self, origin: Instant) -> None:
        self._now = origin
        self._real: SystemClock | None = None
        self._order = count()
        self._sleepers: list[tuple[Instant, int, asyncio.Future[None]]] = []
        self._asleep: dict[asyncio.Task[object], asyncio.Future[None]] = {}
        self._stirring = asyncio.Event()

    def now(self) -> Instant:
        if self._real is not None:
            # What was led on further than real time has come stands still until that has caught up.
            self._now = max(self._now, self._real.now())
        return self._now

    async def sleep(self, duration: Micros) -> None:
        if self._real is not None or duration <= 0:
            await asyncio.sleep(self.real_seconds(duration))
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (Instant(self._now + duration), next(self._order), woken))
        task = asyncio.current_task()
        if task is not None:
            self._asleep[task] = woken
        self._stirring.set()
        try:
            await woken
        finally:
            if task is not None:
                self._asleep.pop(task, None)

    def real_seconds(self, duration: Micros) -> float:
        return max(0, duration) / 1_000_000

    async def lead_on(self, until: Instant) -> None:
        """Leap to ``until``, or to the first sleeper's waking if that is earlier.

        Ends when whoever wakes there is asleep again or done; what they began in other tasks may still be going on.
        """
        self._awake_only()
        self._now = max(self._now, min(until, self._sleepers[0][0]) if self._sleepers else until)
        stirring = []
        while self._sleepers and self._sleepers[0][0] <= self._now:
            woken = heapq.heappop(self._sleepers)[2]
            for task in [task for task, asleep in self._asleep.items() if asleep is woken]:
                del self._asleep[task]
                task.add_done_callback(lambda _: self._stirring.set())
                stirring.append(task)
            woken.set_result(None)
        while any(not task.done() and task not in self._asleep for task in stirring):
            self._stirring.clear()
            await self._stirring.wait()

    def let_go(self) -> None:
        """Be a system clock from now on; who sleeps, wakes in real time."""
        self._awake_only()
        self._real = SystemClock()
        loop = asyncio.get_running_loop()
        for wakes_at, _, woken in self._sleepers:
            loop.call_later(self.real_seconds(Micros(wakes_at - self._real.now())), _wake, woken)
        self._sleepers.clear()
        self._asleep.clear()

    def _awake_only(self) -> None:
        """Forget sleepers that were cancelled."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
