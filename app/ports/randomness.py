"""Randomness: unguessable bytes and jitter."""

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
