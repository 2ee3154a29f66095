"""Every microsecond of the timeline gets exactly one bucket (docs/charging.md §7)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from app.core.liveness import Envelope
from app.core.rate_card import FULL_FACTOR
from app.core.timeline import SPEECH, Segment, SegmentType, Timeline
from app.core.units import Micros


class Reason(StrEnum):
    """Why time is not billed."""

    OPEN_SEGMENT = "open_segment"
    AFTER_TIME_LIMIT = "after_time_limit"
    BEYOND_ELAPSED = "beyond_elapsed"
    UNKNOWN_TYPE = "unknown_type"
    AFTER_LAST_PROOF = "after_last_proof"
    NO_PROOF_OF_LIFE = "no_proof_of_life"
    BEFORE_CHARGE_START = "before_charge_start"
    SILENCE_CAP = "silence_cap"
    SHORT_SESSION = "short_session"
    INCLUDED = "included"


class Piece(NamedTuple):
    """A stretch of one segment in one bucket: billed (``reason`` is null) at ``factor`` millionths of its type's rate
    or not billed for ``reason`` (``factor`` is 0). ``reduced`` marks silence past its full-rate time."""

    type: SegmentType
    start: Micros
    end: Micros
    factor: int
    reduced: bool
    reason: Reason | None

    @property
    def length(self) -> Micros:
        return Micros(self.end - self.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What decides the bucket of an offset, all as offsets from the origin.

    ``charge_from`` null: there is none of what charging starts from, so nothing is charged.
    """

    time_limit: Micros | None
    elapsed: Micros | None
    envelopes: Sequence[Envelope] | None
    """Null: all time counts as proven."""
    charge_from: Micros | None
    full_rate_first: Micros | None
    factor_after: int
    open_from: Micros | None = None
    """From here on the timeline is still growing (interim charges only)."""


def sort_into_buckets(timeline: Timeline, policy: Policy) -> list[Piece]:
    """Cut the timeline into pieces at every edge where a bucket may change: in order, tiling 0 … Σ exactly."""
    pieces: list[Piece] = []
    edges = _Edges(policy)
    speech_end = Micros(0)
    for segment in timeline.segments:
        if policy.open_from is not None and segment.start >= policy.open_from:
            pieces.append(_unbilled(segment, segment.start, segment.end, Reason.OPEN_SEGMENT))
            continue
        reduced_from: Micros | None = None
        if segment.type is SegmentType.SILENCE and policy.full_rate_first is not None:
            reduced_from = Micros(speech_end + policy.full_rate_first)
        pieces.extend(_cut(segment, policy, edges, reduced_from))
        if segment.type in SPEECH:
            speech_end = segment.end
    return pieces


class _Edges:
    """The offsets at which a bucket may change, whatever the segment; walked once, from left to right."""

    def __init__(self, policy: Policy) -> None:
        edges = {edge for edge in (policy.time_limit, policy.elapsed, policy.charge_from) if edge is not None}
        for envelope in policy.envelopes or ():
            edges.update(envelope)
        self._edges = sorted(edges)
        self._next = 0

    def within(self, start: Micros, end: Micros) -> list[Micros]:
        """Edges strictly between ``start`` and ``end``; calls must not go back."""
        while self._next < len(self._edges) and self._edges[self._next] <= start:
            self._next += 1
        first = self._next
        while self._next < len(self._edges) and self._edges[self._next] < end:
            self._next += 1
        return self._edges[first : self._next]


def _cut(segment: Segment, policy: Policy, edges: _Edges, reduced_from: Micros | None) -> Iterator[Piece]:
    cuts = edges.within(segment.start, segment.end)
    if reduced_from is not None and segment.start < reduced_from < segment.end and reduced_from not in cuts:
        cuts = sorted([*cuts, reduced_from])
    start = segment.start
    for end in (*cuts, segment.end):
        reason = _reason(segment.type, start, policy)
        if reason is not None:
            yield _unbilled(segment, start, end, reason)
        elif reduced_from is None or start < reduced_from:
            yield Piece(segment.type, start, end, FULL_FACTOR, False, None)
        elif policy.factor_after == 0:
            yield _unbilled(segment, start, end, Reason.SILENCE_CAP)
        else:
            yield Piece(segment.type, start, end, policy.factor_after, True, None)
        start = end


def _reason(kind: SegmentType, offset: Micros, policy: Policy) -> Reason | None:
    """The first rule that keeps the time from ``offset`` on from being billed; rules in the order of the contract."""
    if policy.time_limit is not None and offset >= policy.time_limit:
        return Reason.AFTER_TIME_LIMIT
    if policy.elapsed is not None and offset >= policy.elapsed:
        return Reason.BEYOND_ELAPSED
    if kind is SegmentType.UNKNOWN:
        return Reason.UNKNOWN_TYPE
    if policy.envelopes is not None:
        if offset >= policy.envelopes[-1].end:
            return Reason.AFTER_LAST_PROOF
        if not _covered(offset, policy.envelopes):
            return Reason.NO_PROOF_OF_LIFE
    if policy.charge_from is None or offset < policy.charge_from:
        return Reason.BEFORE_CHARGE_START
    return None


def _covered(offset: Micros, envelopes: Sequence[Envelope]) -> bool:
    low, high = 0, len(envelopes)
    while low < high:
        middle = (low + high) // 2
        if envelopes[middle].end <= offset:
            low = middle + 1
        else:
            high = middle
    return low < len(envelopes) and envelopes[low].start <= offset


def _unbilled(segment: Segment, start: Micros, end: Micros, reason: Reason) -> Piece:
    return Piece(segment.type, start, end, 0, False, reason)


def joined(pieces: Iterable[Piece], timeline: Timeline) -> list[Piece]:
    """Join neighbours of one segment that are in the same bucket: an edge without effect had cut them apart."""
    starts = {segment.start for segment in timeline.segments}
    whole: list[Piece] = []
    for piece in pieces:
        if whole and whole[-1][3:] == piece[3:] and piece.start not in starts:
            whole[-1] = whole[-1]._replace(end=piece.end)
        else:
            whole.append(piece)
    return whole
