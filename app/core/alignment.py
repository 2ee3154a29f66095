"""Where the timeline's offset 0 lies on our clock (docs/charging.md §5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from app.core.timeline import Anomaly
from app.core.units import US_PER_S, Instant, Micros

ELAPSED_TOLERANCE: Final = Micros(5 * US_PER_S)
"""A timeline may seem to begin this much before the start request left, for clocks and rounding."""

SHRINK_TOLERANCE: Final = Micros(US_PER_S)
"""Speech may add up to this much less than in an earlier pull without being an anomaly."""


class Pull(NamedTuple):
    """What one pull of the timeline says about time: sent at ``requested_at`` (q), received at ``received_at`` (r),
    ``end`` (Σ) long, of which ``speech`` is speech."""

    requested_at: Instant
    received_at: Instant
    end: Micros
    speech: Micros


class OriginQuality(StrEnum):
    ANCHORED = "anchored"
    """At least two pulls of different length agree where the origin lies: the timeline was seen to grow."""
    BOUNDED = "bounded"
    """The pulls only bound the origin from above."""


@dataclass(frozen=True, slots=True)
class Origin:
    at: Instant
    quality: OriginQuality
    anomalies: frozenset[Anomaly]


def latest(pulls: Sequence[Pull]) -> int:
    """The index of the pull that is rated: the latest received, then the latest sent, then the last given."""
    return max(range(len(pulls)), key=lambda i: (pulls[i].received_at, pulls[i].requested_at, i))


def align(requested_at: Instant, pulls: Sequence[Pull], accepted: int = 0) -> Origin:
    """The latest origin that fits all pulls, never before the start request left (S0 = ``requested_at``).

    A timeline cannot be longer than the time that has passed, so each pull says: the origin is at most r − Σ.
    ``accepted``: the index of the first pull that still counts as a measure of how much was said.
    """
    bound = min(pull.received_at - pull.end for pull in pulls)
    anomalies: set[Anomaly] = set()
    if bound < requested_at - ELAPSED_TOLERANCE:
        anomalies.add(Anomaly.TIMELINE_LONGER_THAN_ELAPSED)
    rated = pulls[latest(pulls)]
    if max(pull.speech for pull in pulls[accepted:]) - rated.speech > SHRINK_TOLERANCE:
        anomalies.add(Anomaly.TIMELINE_SHRANK)
    quality = OriginQuality.ANCHORED if _two_agree(pulls) else OriginQuality.BOUNDED
    return Origin(Instant(max(requested_at, bound)), quality, frozenset(anomalies))


def _two_agree(pulls: Sequence[Pull]) -> bool:
    """Whether the intervals [q − Σ, r − Σ] of two pulls of different length overlap.

    Swept by lower end: an interval overlaps an earlier one of another length exactly if it begins before the furthest
    end among those. The two furthest ends of different lengths are enough to know that.
    """
    intervals = sorted((pull.requested_at - pull.end, pull.received_at - pull.end, pull.end) for pull in pulls)
    furthest: dict[Micros, int] = {}
    for start, stop, end in intervals:
        if any(other != end and start <= reach for other, reach in furthest.items()):
            return True
        furthest[end] = max(stop, furthest.get(end, stop))
        if len(furthest) > 2:
            del furthest[min(furthest, key=furthest.__getitem__)]
    return False
