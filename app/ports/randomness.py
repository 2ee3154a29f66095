"""Randomness: unguessable bytes and jitter."""

import random
import secrets
from typing import Protocol


class Randomness(Protocol):
    """A source of randomness; the real one is the operating system's."""

    def token(self, size: int) -> bytes:
        """``size`` unguessable bytes."""
        ...

    def below(self, bound: int) -> int:
        """A whole number, evenly spread over 0 ≤ n < ``bound``; ``bound`` ≥ 1."""
        ...


class SystemRandomness:
    def token(self, size: int) -> bytes:
        return secrets.token_bytes(size)

    def below(self, bound: int) -> int:
        return secrets.randbelow(bound)


class SeededRandomness:
    """The same numbers for the same seed: for simulated worlds only, as all of it can be guessed.

    ``stream`` separates uses, so that a further draw for one purpose does not shift the draws for another.
    """

    def __init__(self, seed: int, stream: str = "") -> None:
        self._random = random.Random(f"{seed}/{stream}")  # noqa: S311 - meant to be repeatable

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def below(self, bound: int) -> int:
        return self._random.randrange(bound)
