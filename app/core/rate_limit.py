"""How often somebody may call: the generic cell rate algorithm (GCRA), as a bucket that empties steadily.

All that is kept of a caller is one instant: when the bucket will be empty. A call moves it on by ``spacing``; one that
would move it further ahead of now than the whole burst is refused, and moves nothing.
"""

from dataclasses import dataclass

from app.core.units import Instant, Micros


@dataclass(frozen=True, slots=True)
class RateLimit:
    """``burst`` calls at once (from 1), and one more each ``spacing`` µs (from 1)."""

    burst: int
    spacing: Micros

    @property
    def window(self) -> Micros:
        """µs in which ``burst`` calls come free."""
        return Micros(self.burst * self.spacing)


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a call: ``wait`` is 0 if it may be done, else the µs after which one may.

    ``empty_at`` is to be kept; ``remaining`` calls may come at once; after ``reset`` µs without any, a whole burst.
    """

    empty_at: Instant
    remaining: int
    reset: Micros
    wait: Micros


def take(empty_at: Instant | None, now: Instant, limit: RateLimit) -> Taken:
    """One call at ``now`` of a caller whose bucket is empty at ``empty_at`` (null: it was never seen).

    An instant further ahead than any call can have moved it was made by a clock that was set back since: it counts as
    none.
    """
    start = now if empty_at is None or not now < empty_at <= now + limit.window else empty_at
    moved = Instant(start + limit.spacing)
    full_at = now + limit.window
    if moved > full_at:
        return Taken(start, 0, Micros(start - now), Micros(moved - full_at))
    return Taken(moved, (full_at - moved) // limit.spacing, Micros(moved - now), Micros(0))
