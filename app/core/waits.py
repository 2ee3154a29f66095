"""How long anything waits at most. A time that lies further ahead was written before our clock was set back.

Times are stored as instants. When the database's clock, which all processes follow, is set back, those that were
written before may lie hours or years ahead, and whoever waited for them would stand still. So what lies further ahead
than it can is not waited for.
"""

from collections.abc import Mapping
from typing import Final

from app.core.lifecycle import State
from app.core.units import US_PER_S, Instant, Micros

CLOCK_MARGIN: Final = Micros(60 * US_PER_S)
"""Clocks of processes differ, by a second from the database's at most: by so much a time may lie further ahead than it
can, and no clock was set back. A clock that is set back by less delays things by no more than that."""

JITTER_PARTS: Final = 10
"""A wait is lengthened by up to this part of it, so that sessions started together do not stay together."""


def jittered(wait: Micros) -> Micros:
    """The longest that may come of ``wait``."""
    return Micros(wait + max(1, wait // JITTER_PARTS))


def too_far(at: Instant, longest: Micros, now: Instant) -> bool:
    """Whether ``at`` lies further ahead than a wait of ``longest`` that begins ``now`` can end."""
    return at > now + longest + CLOCK_MARGIN


def longest_waits(
    *,
    provider_timeout: Micros,
    starting_margin: Micros,
    unconfirmed_ttl: Micros,
    retry: Micros,
    settle_delay: Micros,
    review_after: Micros,
    review_look: Micros,
    late_look: Micros,
) -> Mapping[State, Micros]:
    """How far ahead a session's due time may lie, by its state. A failed session is never due.

    ``retry``: the longest wait until a pull is tried again: the reconcile interval, the longest backoff, the longest
    that the provider may tell us to wait. ``review_look``: the longest until a review that holds no credits is looked
    at again. ``late_look``: from a settlement to the look for late evidence.
    """
    again = jittered(retry)
    return {
        State.STARTING: Micros(provider_timeout + starting_margin),
        State.UNCONFIRMED: unconfirmed_ttl,
        State.LIVE: again,
        State.OVER: max(again, settle_delay),
        State.REVIEW: max(again, review_after, jittered(review_look)),
        State.SETTLED: max(again, jittered(late_look)),
    }
