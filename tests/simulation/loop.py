"""An event loop whose time is virtual: when nothing is ready, time jumps to the next timer.

Nothing here waits for the outside: statements block (:mod:`tests.simulation.statements`), the provider is in process.
So whatever is ready runs in the order in which it became ready, and a run is the same each time.
"""

import asyncio
import math
import selectors
from collections.abc import Mapping
from typing import Any

from app.core.units import US_PER_S, Instant, Micros


class Standstill(Exception):
    """Nothing is ready, and no timer will ever make it so: somebody waits for what cannot happen."""


class _Selector(selectors.BaseSelector):
    """Files are registered and never ready; waiting moves the loop's time."""

    def __init__(self) -> None:
        self.now_us = 0
        self._files: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        self._files[number] = selectors.SelectorKey(fileobj, number, events, data)
        return self._files[number]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._files.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Standstill
        if timeout > 0:
            self.now_us += max(1, math.ceil(timeout * US_PER_S))
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._files


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A task of a process that died has nobody to tell; any other failure that nobody took is shown."""
    error = context.get("exception")
    if error is None or isinstance(error, Exception):
        loop.default_exception_handler(context)


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self.set_exception_handler(_tell)

    def time(self) -> float:
        return self._virtual.now_us / US_PER_S

    @property
    def now_us(self) -> int:
        return self._virtual.now_us


class WorldClock:
    """The true time of the simulated world; ``skew``: how far a process's clock is ahead of it."""

    def __init__(self, loop: VirtualLoop, origin: Instant, skew: int = 0) -> None:
        self._loop = loop
        self._origin = origin
        self._skew = skew

    def now(self) -> Instant:
        return Instant(self._origin + self._skew + self._loop.now_us)

    async def sleep(self, duration: Micros) -> None:
        await asyncio.sleep(self.real_seconds(duration))

    def real_seconds(self, duration: Micros) -> float:
        return max(0, duration) / US_PER_S

    def skewed(self, skew: int) -> "WorldClock":
        return WorldClock(self._loop, self._origin, skew)
