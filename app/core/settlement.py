"""When a session is over and what comes next (docs/charging.md §10)."""

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from app.core.alignment import ELAPSED_TOLERANCE, Pull
from app.core.charge import Charge
from app.core.outages import Outage, passed_by
from app.core.timeline import Anomaly
from app.core.units import US_PER_S, Instant, Micros
from app.core.waits import too_far

END_TOLERANCE: Final = Micros(5 * US_PER_S)
"""Proof of life may lie so long after the provider said that it had ended a session: it was on its way, or the origin
is not known exactly. What lies later proves that the session went on (docs/charging.md §10)."""

STOPS_SETTLEMENT: Final = frozenset(
    {Anomaly.BAD_SEGMENT, Anomaly.TIMELINE_LONGER_THAN_ELAPSED, Anomaly.TIMELINE_SHRANK}
)
"""With one of these the evidence contradicts itself: an operator decides."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Evidence that contradicted itself, and was settled all the same by an operator.

    ``pull``: the index of the last pull in it, the one that was rated; ``unusable``: what its timeline held that is no
    segment.
    """

    pull: int
    unusable: Counter[str]


@dataclass(frozen=True, slots=True)
class StillLive:
    """``over_at``: when it will be over without further proof of life."""

    over_at: Instant


@dataclass(frozen=True, slots=True)
class Over:
    """Over since ``over_at``; its final timeline may be pulled from ``final_from`` on."""

    over_at: Instant
    final_from: Instant


@dataclass(frozen=True, slots=True)
class Settle:
    over_at: Instant


@dataclass(frozen=True, slots=True)
class Review:
    over_at: Instant
    why: str


def contradictions(
    anomalies: AbstractSet[Anomaly],
    *,
    pulls: Sequence[Pull],
    unusable: Counter[str],
    accepted: Accepted | None,
) -> list[str]:
    """The names of the anomalies because of which a person must look, in order: all but what a person has ``accepted``.

    ``unusable``: what the timeline that was rated holds that is no segment. How much speech may be missing, the charge
    itself knows (:attr:`~app.core.charge.Evidence.accepted`); a timeline that was too long for the time that had passed
    stays so, and may be so by no more than :data:`~app.core.alignment.ELAPSED_TOLERANCE` more.
    """
    stops = set(anomalies & STOPS_SETTLEMENT)
    if accepted is not None:
        if unusable <= accepted.unusable:
            stops.discard(Anomaly.BAD_SEGMENT)
        before, since = pulls[: accepted.pull + 1], pulls[accepted.pull + 1 :]
        if not since or _origin_bound(since) >= _origin_bound(before) - ELAPSED_TOLERANCE:
            stops.discard(Anomaly.TIMELINE_LONGER_THAN_ELAPSED)
    return sorted(anomaly.value for anomaly in stops)


def _origin_bound(pulls: Sequence[Pull]) -> Micros:
    return Micros(min(pull.received_at - pull.end for pull in pulls))


def over_at(
    charge: Charge,
    *,
    gap: Micros,
    time_limit: Micros,
    heard: bool,
    no_heartbeat_grace: Micros,
    ended_at: Instant | None = None,
    outages: Sequence[Outage] = (),
) -> Instant:
    """When the session is or will be over: G after its last proof of life, at the latest G after its time limit.

    ``ended_at``: when the provider confirmed that it had ended it. It was over by then or by its last proof of life,
    unless that lies over :data:`END_TOLERANCE` later.

    ``heard``: a heartbeat came. Without any, the provider may simply not reach us, so ``no_heartbeat_grace`` takes the
    place of a shorter G. While ``outages`` lasted nobody could prove that it lives, so they do not count. The time
    limit is the provider's to keep, whether it reaches us or not.
    """
    patience = gap if heard else max(gap, no_heartbeat_grace)
    alive_at = Instant(charge.origin.at + charge.last_proof)
    over = min(passed_by(alive_at, patience, outages), Instant(charge.origin.at + time_limit + gap))
    if ended_at is not None and alive_at <= ended_at + END_TOLERANCE:
        over = min(over, max(ended_at, alive_at))
    return over


def decide(
    contradictions: Sequence[str],
    *,
    over: Instant,
    pulled_at: Instant,
    now: Instant,
    settle_delay: Micros,
    longest: Micros,
) -> StillLive | Over | Settle | Review:
    """What comes next for a live session whose timeline was just pulled, by a request sent at ``pulled_at``.

    ``contradictions``: why a person must look at its evidence. ``longest``: how long it can still live at most, L + G.
    If it seems to live for longer, its evidence lies in the future, and nobody can tell any more when it ended.
    """
    if too_far(over, longest, now):
        return Review(now, "our clock was set back while it ran")
    if now < over:
        return StillLive(over)
    final_from = Instant(over + settle_delay)
    if pulled_at < final_from:
        return Over(over, final_from)
    if contradictions:
        return Review(over, "the evidence contradicts itself: " + ", ".join(contradictions))
    return Settle(over)
