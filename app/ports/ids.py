"""New ids: time-ordered UUIDs, made by the application and never by a sequence of the database."""

from typing import Protocol
from uuid import UUID

from app.ports.clock import Clock
from app.ports.randomness import Randomness


class Ids(Protocol):
    def new(self) -> UUID:
        """A UUID never given before, ordered by the time of its making."""
        ...


class TimeOrderedIds:
    """UUIDv7 (RFC 9562 §5.7) with 12 bits of sub-millisecond time and 62 random bits."""

    def __init__(self, clock: Clock, randomness: Randomness) -> None:
        self._clock = clock
        self._randomness = randomness

    def new(self) -> UUID:
        milliseconds, rest_us = divmod(self._clock.now(), 1000)
        value = (milliseconds & (1 << 48) - 1) << 80
        value |= 0x7 << 76
        value |= (rest_us * 4096 // 1000) << 64
        value |= 0b10 << 62
        value |= int.from_bytes(self._randomness.token(8)) & (1 << 62) - 1
        return UUID(int=value)
