"""An event loop whose time is virtual: when nothing is ready, time jumps to the next timer.

Nothing here waits for the outside: statements block (:mod:`tests.simulation.statements`), the provider is in process.
So whatever is ready runs in the order in which it became ready, and a run is the same each time.
"""

import asyncio
import math
import selectors
from collections.abc import Mapping
from typing import Any, Final

from app.core.units import US_PER_S, Instant, Micros
from app.ports.clock import SystemClock

FIRST_OFF: Final = 3600 * US_PER_S
"""By how many µs a process's clock is behind before it is compared for the first time."""


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
    """The true time of the simulated world, which is that of its database."""

    def __init__(self, loop: VirtualLoop, origin: Instant) -> None:
        self._loop = loop
        self._origin = origin

    def now(self) -> Instant:
        return Instant(self._origin + self._loop.now_us)

    async def sleep(self, duration: Micros) -> None:
        await asyncio.sleep(self.real_seconds(duration))

    def real_seconds(self, duration: Micros) -> float:
        return max(0, duration) / US_PER_S

    def of_process(self, skew: int) -> "ProcessClock":
        """A process's own clock, which makes a mistake of ``skew`` µs when it is compared with the database's."""
        return ProcessClock(self._loop, self, skew)


class ProcessClock(SystemClock):
    """The clock of a process, as the product has it, on the monotonic time of a machine that can jump."""

    def __init__(self, loop: VirtualLoop, true: WorldClock, skew: int) -> None:
        super().__init__()
        self._loop = loop
        self._true = true
        self._skew = skew
        self._jumped = 0
        # What its machine says at first is of no use.
        self._offset_us = true.now() - loop.now_us - FIRST_OFF

    def reading(self) -> Instant:
        return Instant(self._loop.now_us + self._jumped + self._offset_us)

    def jump(self, by: int) -> None:
        """The machine's time goes forward by ``by`` µs at once, or back."""
        self._jumped += by

    async def database(self) -> Instant:
        """The database's clock, as it is read from here."""
        return Instant(self._true.now() + self._skew)
