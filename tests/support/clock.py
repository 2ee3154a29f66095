"""A clock that stands still until it is moved."""

import asyncio

from app.core.units import US_PER_S, Instant, Micros, parse_instant


class ManualClock:
    """Stands at ``now`` until :meth:`advance`; whoever sleeps on it moves it. Time-outs run in real time."""

    def __init__(self, now: Instant | None = None) -> None:
        self._now = parse_instant("2026-03-01T12:00:00Z") if now is None else now

    def now(self) -> Instant:
        return self._now

    def advance(self, seconds: float) -> Instant:
        """Move on by ``seconds``, exact to the microsecond; answers the new instant."""
        self._now = Instant(self._now + round(seconds * US_PER_S))
        return self._now

    def set(self, instant: Instant) -> None:
        self._now = instant

    async def sleep(self, duration: Micros) -> None:
        self._now = Instant(self._now + duration)
        await asyncio.sleep(0)

    def real_seconds(self, duration: Micros) -> float:
        return duration / US_PER_S
