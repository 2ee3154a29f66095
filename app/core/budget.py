"""The provider's rate: which instants requests may leave at, so that it is kept by any number of processes.

One row, which all processes share, says from when on instants are free (a virtual schedule, as in GCRA). A process
leases a *slice*: the next few instants, a fixed spacing apart; the row moves past them. A permit is one of these
instants: one request may leave at it, or at most :data:`PERMIT_LASTS` later. What is not used by then lapses.

**The bound.** No instant is given twice, and they are a spacing apart. A request leaves within ``PERMIT_LASTS`` after
its instant by the clock of its process. Let clocks differ by at most ``d``: then requests that leave within any ``w``
µs have instants within ``w + PERMIT_LASTS + d``, and are at most ``(w + PERMIT_LASTS + d) // spacing + 1``. The spacing
is that of ``rate`` permits in a second and :data:`MARGIN`; so no second sees more than ``rate`` while clocks differ by
less than ``MARGIN - PERMIT_LASTS``, and with the second by which they may differ at most, fewer than twice as many.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from app.core.units import US_PER_S, Instant, Micros

MAX_RATE: Final = 10_000
PERMIT_LASTS: Final = Micros(US_PER_S // 10)
MARGIN: Final = Micros(US_PER_S // 5)
SLICE: Final = Micros(US_PER_S // 5)
"""A slice spans at most this, or one spacing where that is longer."""

MAX_SLICE: Final = 64
MAX_LEAD: Final = Micros(US_PER_S)
"""A process whose permits lapse before it has them asks for later ones: at most so much later."""

MAX_BLOCK: Final = Micros(3600 * US_PER_S)
"""No answer of the provider's silences us for longer."""

CLOCKS_DIFFER: Final = Micros(US_PER_S)
"""Processes whose clocks differ by more are not ready to work."""


class Purpose(IntEnum):
    """What a request is for; the lower comes first."""

    START = 0
    """Somebody is waiting for it: a start, or an end by request."""
    PAGE = 1
    """A pull that is under way, or that an operator asked for."""
    PULL = 2
    """A further pull."""


REACH: Final[dict[Purpose, Micros]] = {
    Purpose.START: Micros(2 * US_PER_S),
    Purpose.PAGE: Micros(US_PER_S),
    Purpose.PULL: Micros(0),
}
"""How far ahead of now the first free instant may be. So pulls take what nobody else wants: while starts keep the row
ahead of now, no pull begins; and a start never queues behind more than the slices that pulls have already."""


@dataclass(frozen=True, slots=True)
class Permit:
    """One request may leave at ``at``, or at most :data:`PERMIT_LASTS` later."""

    at: Instant

    def lapsed(self, now: Instant) -> bool:
        return now > self.at + PERMIT_LASTS


@dataclass(frozen=True, slots=True, kw_only=True)
class NotNow:
    """No permit. ``blocked``: the provider told us to stay away. It is worth asking again in ``wait`` µs (> 0)."""

    wait: Micros
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """What all processes share: from when on instants are free, and until when the provider wants no request."""

    next_at: Instant
    blocked_until: Instant | None = None


@dataclass(frozen=True, slots=True)
class Slice:
    """``count`` permits from ``first`` on, and the row after it."""

    first: Instant
    count: int
    row: Row


def spacing(rate: int) -> Micros:
    """µs between two permits, for a provider that takes ``rate`` requests a second (1 to :data:`MAX_RATE`)."""
    return Micros(-(-(US_PER_S + MARGIN) // rate))


def most_at_once(between: Micros) -> int:
    """How many permits a slice has at most."""
    return max(1, min(SLICE // between, MAX_SLICE))


def furthest(between: Micros) -> Micros:
    """How far ahead of now the row can be unless a clock ran ahead of ours by more than clocks may differ."""
    return Micros(CLOCKS_DIFFER + max(REACH.values()) + MAX_LEAD + max(SLICE, between))


def blocked_for(row: Row, now: Instant) -> Micros:
    """µs until the provider wants to hear of us again; 0 if it does now."""
    if row.blocked_until is None or row.blocked_until > now + MAX_BLOCK + CLOCKS_DIFFER:
        return Micros(0)  # nobody is blocked for so long: a clock ran ahead of ours and was set back
    return Micros(max(0, row.blocked_until - now))


def lease(row: Row, now: Instant, between: Micros, purpose: Purpose, count: int, lead: Micros) -> Slice | NotNow:
    """The next ``count`` instants (1 to :func:`most_at_once`), none before ``lead`` from now.

    A row further ahead than :func:`furthest` was written by a clock that was set back since, and begins anew: at that
    one time the bound does not hold.
    """
    blocked = blocked_for(row, now)
    if blocked > 0:
        return NotNow(wait=blocked, blocked=True)
    free_at = row.next_at if row.next_at <= now + furthest(between) else now
    if free_at > now + REACH[purpose]:
        return NotNow(wait=Micros(free_at - now - REACH[purpose]))
    first = Instant(max(free_at, now + lead))
    return Slice(first, count, Row(Instant(first + count * between), row.blocked_until))


def next_count(count: int, used: int, most: int) -> int:
    """How many permits to lease after a slice of ``count`` of which ``used`` were used: twice as many if all were.

    What lapses is lost to all processes, so a process that asks now and then leases one or two at a time.
    """
    return max(1, min(2 * count if used >= count else used, most))
