"""Proof of life: which stretches of the timeline the evidence vouches for (docs/charging.md §6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from app.core.timeline import SPEECH, Anomaly, Segment, Timeline
from app.core.units import US_PER_S, Instant, Micros

ALIVE_TOLERANCE: Final = Micros(US_PER_S)
"""A heartbeat may lie this far beyond the pulled timeline without being an anomaly."""


class Envelope(NamedTuple):
    """A stretch in which no two neighbouring proofs of life are further apart than G."""

    start: Micros
    end: Micros


@dataclass(frozen=True, slots=True)
class Liveness:
    """``points`` are the offsets of the heartbeats that count, in order; ``envelopes`` are apart by more than G."""

    points: tuple[Micros, ...]
    envelopes: tuple[Envelope, ...]
    anomalies: frozenset[Anomaly]

    @property
    def last_proof(self) -> Micros:
        return self.envelopes[-1].end


def prove(
    timeline: Timeline,
    *,
    origin: Instant,
    requested_at: Instant,
    heartbeats: Sequence[Instant],
    received_at: Instant,
    gap: Micros,
    time_limit: Micros | None,
) -> Liveness:
    """Merge the start, the heartbeats and all speech into envelopes.

    Heartbeats before ``requested_at`` are ignored; evidence that begins more than ``gap`` after ``time_limit`` plays no
    part. ``received_at`` is when the rated timeline was received: heartbeats up to then should lie within it.
    """
    horizon = None if time_limit is None else time_limit + gap
    arrivals = sorted({arrival for arrival in heartbeats if arrival >= requested_at})
    witnessed = [(Micros(max(0, arrival - origin)), arrival) for arrival in arrivals]
    if horizon is not None:
        witnessed = [(point, arrival) for point, arrival in witnessed if point <= horizon]
    points = tuple(point for point, _ in witnessed)
    speech = [
        segment
        for segment in timeline.segments
        if segment.type in SPEECH and (horizon is None or segment.start <= horizon)
    ]
    anomalies: set[Anomaly] = set()
    limit_of_elapsed = timeline.end + ALIVE_TOLERANCE
    if any(point > limit_of_elapsed and arrival <= received_at for point, arrival in witnessed):
        anomalies.add(Anomaly.ALIVE_BEYOND_TIMELINE)
    if _any_unwitnessed(speech, (Micros(0), *points), gap):
        anomalies.add(Anomaly.UNWITNESSED_SPEECH)
    return Liveness(points, _merge(points, speech, gap), frozenset(anomalies))


def _merge(points: Sequence[Micros], speech: Sequence[Segment], gap: Micros) -> tuple[Envelope, ...]:
    evidence = [(point, point) for point in points]
    evidence.extend((segment.start, segment.end) for segment in speech)
    evidence.sort()
    envelopes: list[Envelope] = []
    start, end = Micros(0), Micros(0)
    for proof_start, proof_end in evidence:
        if proof_start - end > gap:
            envelopes.append(Envelope(start, end))
            start = end = proof_start
        end = max(end, proof_end)
    envelopes.append(Envelope(start, end))
    return tuple(envelopes)


def _any_unwitnessed(speech: Sequence[Segment], points: Sequence[Micros], gap: Micros) -> bool:
    """Whether some run of adjacent speech has no point within ``gap`` of it. ``points`` are in order and not empty."""
    position = 0
    for start, end in _runs(speech):
        while position < len(points) and points[position] < start - gap:
            position += 1
        if position == len(points) or points[position] > end + gap:
            return True
    return False


def _runs(speech: Sequence[Segment]) -> list[Envelope]:
    if not speech:
        return []
    breaks = [(before.end, after.start) for before, after in pairwise(speech) if before.end != after.start]
    starts = [speech[0].start, *(after for _, after in breaks)]
    ends = [*(before for before, _ in breaks), speech[-1].end]
    return [Envelope(start, end) for start, end in zip(starts, ends, strict=True)]
