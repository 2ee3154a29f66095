"""The provider's timeline: consecutive segments with durations and no timestamps, made exact (docs/charging.md §4)."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from app.core.lossless_json import JsonNumber, dumps
from app.core.units import Micros


class SegmentType(StrEnum):
    USER = "user"
    AGENT = "agent"
    SILENCE = "silence"
    UNKNOWN = "unknown"
    """A type we have no price for: it keeps its place on the time axis and is never billed."""


SPEECH: Final = frozenset({SegmentType.USER, SegmentType.AGENT})


class Anomaly(StrEnum):
    """What is odd about the evidence of a charge."""

    ALIVE_BEYOND_TIMELINE = "alive_beyond_timeline"
    BAD_SEGMENT = "bad_segment"
    TIMELINE_LONGER_THAN_ELAPSED = "timeline_longer_than_elapsed"
    TIMELINE_SHRANK = "timeline_shrank"
    UNKNOWN_SEGMENT_TYPE = "unknown_segment_type"
    UNWITNESSED_SPEECH = "unwitnessed_speech"


class Segment(NamedTuple):
    """One stretch of the timeline, from ``start`` (inclusive) to ``end`` (exclusive), offsets from its origin."""

    type: SegmentType
    start: Micros
    end: Micros


@dataclass(frozen=True, slots=True)
class Timeline:
    """A normalised timeline. Segments are never empty and follow each other without a gap from 0 to ``end`` (Σ)."""

    segments: tuple[Segment, ...]
    end: Micros
    anomalies: frozenset[Anomaly]

    @property
    def speech(self) -> Micros:
        """The time in which the user or the agent speaks."""
        return Micros(sum(segment.end - segment.start for segment in self.segments if segment.type in SPEECH))

    @property
    def trailing_silence_start(self) -> Micros:
        """Where the silence at the end begins, all adjacent silence together; ``end`` if there is none."""
        start = self.end
        for segment in reversed(self.segments):
            if segment.type is not SegmentType.SILENCE:
                break
            start = segment.start
        return start

    @property
    def open_start(self) -> Micros:
        """Where the part begins that may still change while the session lives: the silence at the end or, if the
        timeline ends in anything else, its last segment."""
        start = self.trailing_silence_start
        return self.segments[-1].start if start == self.end and self.segments else start


_TYPES: Final = {
    "user": SegmentType.USER,
    "agent": SegmentType.AGENT,
    "silence": SegmentType.SILENCE,
}
_NUMBER: Final = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?", re.ASCII)
_PICOSECONDS_PER_US: Final = 1_000_000
_KEPT_DECIMALS: Final = 12
_MAX_WHOLE_DIGITS: Final = 9
_EXPONENT_DIGITS: Final = 12


def normalise(values: Iterable[object]) -> Timeline:
    """Make offsets of the durations in ``values`` (as :func:`app.core.lossless_json.loads` gives them).

    Offsets are cut to the microsecond cumulatively, never segment by segment. A segment that is no object, or whose
    ``seconds`` is no usable number, is dropped; one of unknown type is kept.
    """
    segments: list[Segment] = []
    anomalies: set[Anomaly] = set()
    picoseconds = 0
    start = Micros(0)
    for value in values:
        length = _length(value)
        if length is None:
            anomalies.add(Anomaly.BAD_SEGMENT)
            continue
        picoseconds += length
        end = Micros(picoseconds // _PICOSECONDS_PER_US)
        if end == start:
            continue
        name = value.get("type") if isinstance(value, dict) else None
        kind = _TYPES.get(name, SegmentType.UNKNOWN) if isinstance(name, str) else SegmentType.UNKNOWN
        if kind is SegmentType.UNKNOWN:
            anomalies.add(Anomaly.UNKNOWN_SEGMENT_TYPE)
        segments.append(Segment(kind, start, end))
        start = end
    return Timeline(tuple(segments), start, frozenset(anomalies))


def unusable(values: Iterable[object]) -> Counter[str]:
    """What :func:`normalise` drops of ``values``, as JSON, and how often each is there."""
    return Counter(dumps(value) for value in values if _length(value) is None)


def _length(value: object) -> int | None:
    return _picoseconds(value.get("seconds")) if isinstance(value, dict) else None


def _picoseconds(number: object) -> int | None:
    """A duration in seconds, cut to 12 decimals; ``None`` if it is no number, not finite, negative or ≥ 10^9.

    Works on the digits, so that no exponent and no length of a hostile number costs more than reading it.
    """
    if not isinstance(number, JsonNumber):
        return None
    match = _NUMBER.fullmatch(number)
    if match is None:
        return None
    sign, whole, decimals, exponent_text = match.groups()
    digits = whole + (decimals or "")
    significant = digits.lstrip("0")
    if not significant:
        return 0
    if sign:
        return None
    point = len(whole) - (len(digits) - len(significant))
    if exponent_text:
        point += _bounded_exponent(exponent_text)
    if point > _MAX_WHOLE_DIGITS:
        return None
    kept = point + _KEPT_DECIMALS
    return int(significant[:kept].ljust(kept, "0")) if kept > 0 else 0


def _bounded_exponent(text: str) -> int:
    digits = text.lstrip("+-").lstrip("0")[:_EXPONENT_DIGITS] or "0"
    return -int(digits) if text.startswith("-") else int(digits)
