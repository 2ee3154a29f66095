"""The words of pictures, in one place."""

from collections.abc import Mapping
from typing import Final

from app.core.buckets import Reason
from app.core.rating import LineType
from app.core.timeline import Anomaly, SegmentType

TYPES: Final[Mapping[str, str]] = {
    SegmentType.USER: "user",
    SegmentType.AGENT: "agent",
    SegmentType.SILENCE: "silence",
    SegmentType.UNKNOWN: "unknown",
}

BILLED: Final[Mapping[str, str]] = {
    LineType.USER: "user",
    LineType.AGENT: "agent",
    LineType.SILENCE: "silence",
    LineType.REDUCED_RATE: "reduced silence",
}

REASONS: Final[Mapping[Reason, str]] = {
    Reason.OPEN_SEGMENT: "still growing",
    Reason.AFTER_TIME_LIMIT: "past the time limit",
    Reason.BEYOND_ELAPSED: "longer than the time that passed",
    Reason.UNKNOWN_TYPE: "of an unknown type",
    Reason.AFTER_LAST_PROOF: "after the last sign of life",
    Reason.NO_PROOF_OF_LIFE: "without a sign of life",
    Reason.BEFORE_CHARGE_START: "before charging starts",
    Reason.SILENCE_CAP: "long silence",
    Reason.SHORT_SESSION: "short session",
    Reason.INCLUDED: "included",
}

ANOMALIES: Final[Mapping[Anomaly, str]] = {
    Anomaly.ALIVE_BEYOND_TIMELINE: "heartbeats beyond the timeline",
    Anomaly.BAD_SEGMENT: "unusable segments",
    Anomaly.TIMELINE_LONGER_THAN_ELAPSED: "timeline longer than the time that passed",
    Anomaly.TIMELINE_SHRANK: "timeline lost speech",
    Anomaly.UNKNOWN_SEGMENT_TYPE: "segments of an unknown type",
    Anomaly.UNWITNESSED_SPEECH: "speech without heartbeats",
}
