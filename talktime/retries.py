"""When a call is tried again, and how long it waits before: decided here for both clients, without any I/O.

A call has one ``Idempotency-Key`` for all its attempts, so that one more of them never has a second effect. What is
tried again is what nobody answered, and answers by which the service says that the same request may succeed later. An
answer that says what became of the request is the end of it, also when it is 502 or 504: of a start, another attempt
under another key would be a second session.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

RETRIED: Final = frozenset(
    {
        "busy",
        "end-unconfirmed",
        "idempotency-in-flight",
        "no-stream-free",
        "provider-busy",
        "provider-unavailable",
        "rate-limited",
        "request-timeout",
        "too-many-streams",
        "unavailable",
    }
)
"""Codes of problems after which the same request is sent again.

Not ``starts-stopped`` and ``too-many-simulations``, though they name a time: the one ends when an operator says so, the
other when work of minutes is done.
"""

RETRIED_STATUSES: Final = frozenset({408, 429, 502, 503, 504})
"""Of answers without a problem document, which something in between gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how long a call is tried. All durations in seconds.

    ``attempts``: at most so many requests, the first one included; 1: no retries. ``deadline_s``: all of it, waits
    included; a wait that would last longer is not begun, and the last failure is raised at once. ``first_wait_s``: what
    is waited at most before the second attempt; doubles each time up to ``longest_wait_s``, and a random half of it is
    taken off. A ``Retry-After`` is waited for in full. Raises ``ValueError`` for figures that make no sense.
    """

    attempts: int = 6
    deadline_s: float = 60.0
    first_wait_s: float = 0.25
    longest_wait_s: float = 8.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError("attempts: at least 1")
        if not 0 < self.deadline_s < float("inf"):
            raise ValueError("deadline_s: a number of seconds over 0")
        if not 0 <= self.first_wait_s <= self.longest_wait_s < float("inf"):
            raise ValueError("first_wait_s: from 0 to longest_wait_s")


@dataclass(frozen=True, slots=True)
class Retry:
    """Told before a wait: ``call`` is the client's method, ``attempt`` the one that failed, from 1, ``why`` how."""

    call: str
    attempt: int
    why: str
    wait_s: float
    idempotency_key: str | None


class Course:
    """Of one call: how many attempts it had, and how much time is left."""

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._chance = chance
        self._ends = clock() + policy.deadline_s
        self.attempts = 0

    @property
    def left_s(self) -> float:
        """What is left until the deadline; 0: it has passed."""
        return max(self._ends - self._clock(), 0.0)

    def begin(self) -> None:
        """Count an attempt."""
        self.attempts += 1

    def wait_s(self, retry_after: float | None) -> float | None:
        """How long to wait before the next attempt; null: there is none."""
        if self.attempts >= self._policy.attempts:
            return None
        most = min(self._policy.first_wait_s * 2.0 ** min(self.attempts - 1, 60), self._policy.longest_wait_s)
        jittered = most * (1 - self._chance() / 2)
        wait = jittered if retry_after is None else retry_after + jittered * self._chance()
        return wait if wait < self.left_s else None


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """A ``Retry-After``, in seconds or as a date, as seconds from now; null if there is none that can be read."""
    if header is None:
        return None
    if header.isascii() and header.strip().isdigit():
        return float(header)
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    at = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return max((at - (now or datetime.now(UTC))).total_seconds(), 0.0)
