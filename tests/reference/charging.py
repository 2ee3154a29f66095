"""The charging rules of ``docs/charging.md`` a second time, as slowly and plainly as they are written.

The engine sweeps; this cuts the timeline at every instant at which any rule could change its mind and asks the rules
of §7 about each of the resulting pieces, one after the other. It shares no code with the engine but the JSON reader,
so that a difference between the two is a mistake in one of them.

Times are whole microseconds, money is a :class:`~fractions.Fraction` of credits.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any, Final

from app.core.lossless_json import JsonNumber

SECOND: Final = 1_000_000
SPEECH: Final = ("user", "agent")
TYPES: Final = ("user", "agent", "silence")
FULL: Final = "full rate"
REDUCED: Final = "reduced rate"
BILLED: Final = (FULL, REDUCED)
UNKNOWN: Final = "unknown"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER: Final = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?")


@dataclass(frozen=True)
class Card:
    """A rate card (§9) with its defaults filled in."""

    rates: Mapping[str, Fraction]
    full_rate_first: int | None
    factor: Fraction
    initial: int
    subsequent: int
    scope: str
    fee: Fraction
    included: int
    exemption: int
    minimum_duration: int
    minimum: Fraction
    maximum: Fraction | None
    quantum: Fraction
    mode: str
    tolerance: int
    charge_from: str

    def price(self, kind: str, bucket: str) -> Fraction:
        """Credits per minute of billed time of one type in one bucket."""
        return self.rates[kind] * (self.factor if bucket == REDUCED else 1)

    def lowest_price(self, kinds: Iterable[str] = TYPES) -> Fraction:
        """The lowest positive price on the card among those of ``kinds`` (§8.3)."""
        prices = [self.rates[kind] for kind in kinds]
        if "silence" in kinds:
            prices.append(self.rates["silence"] * self.factor)
        return min(price for price in prices if price > 0)


@dataclass(frozen=True)
class Segment:
    kind: str
    start: int
    end: int


@dataclass(frozen=True)
class Reading:
    """One snapshot, normalised (§4). ``segments`` holds only those that have a length."""

    segments: tuple[Segment, ...]
    sigma: int
    bad: bool
    q: int = 0
    r: int = 0

    @property
    def speech(self) -> int:
        return sum(segment.end - segment.start for segment in self.segments if segment.kind in SPEECH)


@dataclass(frozen=True)
class Piece:
    segment: int
    kind: str
    start: int
    end: int
    bucket: str

    @property
    def length(self) -> int:
        return self.end - self.start


def instant(text: str) -> int:
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)


def instant_text(at: int) -> str:
    return (_EPOCH + timedelta(microseconds=at)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def micros(number: Any) -> int:
    return int(Fraction(str(number)) * SECOND)


def in_seconds(duration: int) -> Decimal:
    return Decimal(plain(Fraction(duration, SECOND)))


def plain(value: Fraction) -> str:
    """The shortest plain decimal of ``value`` at 12 decimals, half even."""
    scaled = round(value * 10**12)
    digits = f"{abs(scaled):013d}"
    text = f"{digits[:-12]}.{digits[-12:]}".rstrip("0").rstrip(".")
    return f"-{text}" if scaled < 0 else text


def read_card(value: Mapping[str, Any]) -> Card:
    """Fill in what a valid card leaves out (§9). Validation is not the reference's business."""
    silence = {"full_rate_first_s": "5", "factor_after": "0", **value.get("silence", {})}
    increments = {"initial_s": "0", "subsequent_s": "0", "scope": "session", **value.get("increments", {})}
    rounding = {"quantum": "0.000001", "mode": "half_even", **value.get("rounding", {})}
    measurement = {
        "heartbeat_interval_s": "30",
        "missed_heartbeats_tolerated": "1",
        "heartbeat_jitter_s": "15",
        "charge_from": "origin",
        **value.get("measurement", {}),
    }
    first, maximum = silence["full_rate_first_s"], value.get("maximum_charge")
    tolerated = int(Fraction(measurement["missed_heartbeats_tolerated"]))
    return Card(
        rates={kind: Fraction(value["rates"][kind]) for kind in TYPES},
        full_rate_first=None if first is None else micros(first),
        factor=Fraction(silence["factor_after"]),
        initial=micros(increments["initial_s"]),
        subsequent=micros(increments["subsequent_s"]),
        scope=increments["scope"],
        fee=Fraction(value.get("connection_fee", "0")),
        included=micros(value.get("included_s", "0")),
        exemption=micros(value.get("short_session_exemption_s", "0")),
        minimum_duration=micros(value.get("minimum_duration_s", "0")),
        minimum=Fraction(value.get("minimum_charge", "0")),
        maximum=None if maximum is None else Fraction(maximum),
        quantum=Fraction(rounding["quantum"]),
        mode=rounding["mode"],
        tolerance=micros(measurement["heartbeat_interval_s"]) * (1 + tolerated)
        + micros(measurement["heartbeat_jitter_s"]),
        charge_from=measurement["charge_from"],
    )


DEFAULT_CARD: Final[Mapping[str, Any]] = {"name": "default", "rates": {"user": "60", "agent": "60", "silence": "60"}}


def usable_seconds(value: object) -> Fraction | None:
    """The seconds of a segment cut to 12 decimals, or None for a bad segment (§4.1 and §4.2)."""
    match = _NUMBER.fullmatch(value) if isinstance(value, JsonNumber) else None
    if match is None:
        return None
    sign, whole, decimals, exponent_text = match.group(1), match.group(2), match.group(3) or "", match.group(4) or "0"
    digits = (whole + decimals).lstrip("0")
    if not digits:
        return Fraction(0)
    if sign:
        return None
    exponent = int(exponent_text) - len(decimals)
    size = len(digits) + exponent  # the value is below 10^size and at least 10^(size-1)
    if size > 9:
        return None
    kept = digits[: max(0, size + 12)]  # down to the 12th decimal
    return Fraction(int(kept)) * Fraction(10) ** (size - len(kept)) if kept else Fraction(0)


def normalise(values: Sequence[object]) -> Reading:
    """§4: cumulative offsets, each cut down to a microsecond from the exact sum."""
    segments: list[Segment] = []
    bad = False
    total = Fraction(0)
    for value in values:
        seconds = usable_seconds(value.get("seconds")) if isinstance(value, dict) else None
        if seconds is None or not isinstance(value, dict):
            bad = True
            continue
        start = math.floor(total * SECOND)
        total += seconds
        end = math.floor(total * SECOND)
        kind = value.get("type")
        if end > start:
            segments.append(Segment(kind if isinstance(kind, str) and kind in TYPES else UNKNOWN, start, end))
    return Reading(tuple(segments), math.floor(total * SECOND), bad)


def overlap(one: Reading, other: Reading) -> bool:
    return max(one.q - one.sigma, other.q - other.sigma) <= min(one.r - one.sigma, other.r - other.sigma)


def runs(segments: Iterable[Segment]) -> list[Segment]:
    """Adjacent segments joined into one."""
    joined: list[Segment] = []
    for segment in segments:
        if joined and joined[-1].end == segment.start:
            joined[-1] = replace(joined[-1], end=segment.end)
        else:
            joined.append(segment)
    return joined


def envelopes_of(evidence: Iterable[tuple[int, int]], tolerance: int) -> list[tuple[int, int]]:
    """§6: merge any two intervals at most ``tolerance`` apart until no two are left that can be merged."""
    merged = sorted(set(evidence))
    while True:
        for one, other in pairwise(merged):
            if other[0] - one[1] <= tolerance:
                merged.remove(one)
                merged.remove(other)
                merged = sorted([*merged, (one[0], max(one[1], other[1]))])
                break
        else:
            return merged


def charge(document: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of ``POST /v1/charges/preview`` for a valid parsed body, but for its card and engine version."""
    card = read_card(document.get("rate_card", DEFAULT_CARD))
    s0 = instant(document["requested_at"])
    limit_value, authorized_value = document.get("time_limit_s"), document.get("authorized")
    limit = None if limit_value is None else micros(limit_value)
    interim = bool(document.get("interim", False))
    readings = [
        replace(normalise(item["values"]), q=instant(item["requested_at"]), r=instant(item["received_at"]))
        for item in document["snapshots"]
    ]
    # `max` takes the first of equals; of equal snapshots the last given one counts.
    n = max(reversed(readings), key=lambda reading: (reading.r, reading.q))
    anomalies: set[str] = set()

    # §4 and §5
    smallest = min(reading.r - reading.sigma for reading in readings)
    t0 = max(s0, smallest)
    if n.bad:
        anomalies.add("bad_segment")
    if any(segment.kind == UNKNOWN for segment in n.segments):
        anomalies.add("unknown_segment_type")
    if any(reading.speech - n.speech > SECOND for reading in readings):
        anomalies.add("timeline_shrank")
    if smallest < s0 - 5 * SECOND:
        anomalies.add("timeline_longer_than_elapsed")
    anchored = any(one.sigma != other.sigma and overlap(one, other) for one in readings for other in readings)

    # §6
    def counts(begin: int) -> bool:
        return limit is None or begin <= limit + card.tolerance

    received = [at for at in map(instant, document["heartbeats"]) if at >= s0 and counts(max(0, at - t0))]
    points = sorted(max(0, at - t0) for at in received)
    speech = [segment for segment in n.segments if segment.kind in SPEECH and counts(segment.start)]
    envelopes = envelopes_of(
        [(0, 0), *((point, point) for point in points), *((segment.start, segment.end) for segment in speech)],
        card.tolerance,
    )
    for run in runs(speech):
        if not any(run.start - card.tolerance <= point <= run.end + card.tolerance for point in [0, *points]):
            anomalies.add("unwitnessed_speech")
    if any(at <= n.r and at - t0 > n.sigma + SECOND for at in received):
        anomalies.add("alive_beyond_timeline")

    # §7
    starts = {
        "origin": [0],
        "first_heartbeat": points,
        "first_speech": [segment.start for segment in speech],
        "first_user_speech": [segment.start for segment in speech if segment.kind == "user"],
    }[card.charge_from]
    charge_start = min(starts, default=None)
    open_from = n.sigma
    for segment in reversed(n.segments):
        if not interim or segment.kind != "silence":
            break
        open_from = segment.start
    speech_ends = [0, *(segment.end for segment in n.segments if segment.kind in SPEECH)]

    def bucket(kind: str, offset: int) -> str:
        since_speech = offset - max(end for end in speech_ends if end <= offset)
        rules = [
            (offset >= open_from, "open_segment"),
            (limit is not None and offset >= limit, "after_time_limit"),
            (offset >= n.r - t0, "beyond_elapsed"),
            (kind == UNKNOWN, "unknown_type"),
            (offset >= envelopes[-1][1], "after_last_proof"),
            (not any(start <= offset < end for start, end in envelopes), "no_proof_of_life"),
            (charge_start is None or offset < charge_start, "before_charge_start"),
        ]
        for holds, reason in rules:
            if holds:
                return reason
        if kind == "silence" and card.full_rate_first is not None and since_speech >= card.full_rate_first:
            return REDUCED if card.factor > 0 else "silence_cap"
        return FULL

    cuts = {0, n.sigma, n.r - t0, open_from, charge_start, limit}
    cuts.update(edge for envelope in envelopes for edge in envelope)
    cuts.update(edge for segment in n.segments for edge in (segment.start, segment.end))
    cuts.update(end + (card.full_rate_first or 0) for end in speech_ends)
    at_cuts = sorted(cut for cut in cuts if cut is not None and 0 <= cut <= n.sigma)
    pieces = [
        Piece(number, segment.kind, start, end, bucket(segment.kind, start))
        for start, end in pairwise(at_cuts)
        for number, segment in enumerate(n.segments)
        if segment.start <= start and end <= segment.end
    ]

    pieces, lines, amount, beyond = rate(card, pieces, authorized_value)
    return answer(card, pieces, n.sigma) | {
        "amount": plain(amount),
        "beyond_authorization": plain(beyond),
        "origin": {"at": instant_text(t0), "quality": "anchored" if anchored else "bounded"},
        "lines": lines,
        "envelopes": [[in_seconds(start), in_seconds(end)] for start, end in envelopes],
        "anomalies": sorted(anomalies),
    }


def answer(card: Card, pieces: Sequence[Piece], sigma: int) -> dict[str, Any]:
    """The sums of the pieces, and the pieces joined within their segments."""
    factors = {FULL: "1", REDUCED: plain(card.factor)}
    joined: list[Piece] = []
    for piece in pieces:
        if joined and (joined[-1].segment, joined[-1].bucket) == (piece.segment, piece.bucket):
            joined[-1] = replace(joined[-1], end=piece.end)
        else:
            joined.append(piece)
    reasons = {piece.bucket for piece in pieces} - set(BILLED)
    return {
        "timeline_s": in_seconds(sigma),
        "billed": {
            "user_s": in_seconds(billed_time(pieces, "user")),
            "agent_s": in_seconds(billed_time(pieces, "agent")),
            "silence_s": in_seconds(billed_time(pieces, "silence", FULL)),
            "reduced_rate_s": in_seconds(billed_time(pieces, "silence", REDUCED)),
            "total_s": in_seconds(sum(piece.length for piece in pieces if piece.bucket in BILLED)),
        },
        "not_billed": {
            reason: in_seconds(sum(piece.length for piece in pieces if piece.bucket == reason)) for reason in reasons
        },
        "pieces": [
            {
                "type": piece.kind,
                "from_s": in_seconds(piece.start),
                "to_s": in_seconds(piece.end),
                "billed": piece.bucket in BILLED,
                "factor": factors.get(piece.bucket, "0"),
                "reason": None if piece.bucket in BILLED else piece.bucket,
            }
            for piece in joined
        ],
    }


def billed_time(pieces: Iterable[Piece], kind: str, *buckets: str) -> int:
    return sum(piece.length for piece in pieces if piece.kind == kind and piece.bucket in (buckets or BILLED))


def rate(
    card: Card, pieces: Sequence[Piece], authorized: str | None
) -> tuple[list[Piece], list[dict[str, Any]], Fraction, Fraction]:
    """§8: the pieces after exemption and included time, the lines, what is charged, and what was cut off."""
    if sum(piece.length for piece in pieces if piece.bucket in BILLED) < card.exemption:
        exempt = [replace(piece, bucket="short_session") if piece.bucket in BILLED else piece for piece in pieces]
        return exempt, [{"type": "rounding", "amount": "0"}], Fraction(0), Fraction(0)

    def has_price(piece: Piece) -> bool:
        return piece.bucket in BILLED and card.price(piece.kind, piece.bucket) > 0

    remaining: list[Piece] = []
    free = card.included
    for piece in pieces:
        taken = min(free, piece.length) if has_price(piece) else 0
        free -= taken
        middle = piece.start + taken
        if taken:
            remaining.append(replace(piece, end=middle, bucket="included"))
        if middle < piece.end:
            remaining.append(replace(piece, start=middle))
    used = card.included - free
    priced = [piece for piece in remaining if has_price(piece)]
    total = sum(piece.length for piece in priced)

    lines = [
        time_line(name, billed_time(remaining, kind, bucket), card.price(kind, bucket))
        for name, kind, bucket in (
            ("user", "user", FULL),
            ("agent", "agent", FULL),
            ("silence", "silence", FULL),
            ("reduced_rate", "silence", REDUCED),
        )
        if billed_time(remaining, kind, bucket)
    ]
    if total == 0:
        return remaining, [*lines, {"type": "rounding", "amount": "0"}], Fraction(0), Fraction(0)

    exact = sum((cost(piece.length, card.price(piece.kind, piece.bucket)) for piece in priced), Fraction(0))
    added = 0
    if card.scope == "session":
        groups: dict[str | None, tuple[int, Fraction]] = {None: (total, card.lowest_price())}
    else:
        groups = {
            kind: (billed_time(priced, kind), card.lowest_price([kind])) for kind in TYPES if billed_time(priced, kind)
        }
    for of, (duration, price) in groups.items():
        extra = stepped_up(card, duration) - duration
        added += extra
        exact += cost(extra, price)
        if extra:
            lines.append(time_line("increments", extra, price) | ({} if of is None else {"of": of}))
    missing = max(0, card.minimum_duration - total - added - used)
    exact += cost(missing, card.lowest_price()) + card.fee
    if missing:
        lines.append(time_line("minimum_duration", missing, card.lowest_price()))
    if card.fee:
        lines.append({"type": "connection_fee", "amount": plain(card.fee)})

    quanta = exact / card.quantum
    whole = {"half_even": round(quanta), "up": math.ceil(quanta), "down": math.floor(quanta)}[card.mode]
    rounded = whole * card.quantum
    lines.append({"type": "rounding", "amount": plain(rounded - sum(Fraction(line["amount"]) for line in lines))})
    raised = max(rounded, card.minimum)
    bounded = raised if card.maximum is None else min(raised, card.maximum)
    if raised != rounded:
        lines.append({"type": "minimum_charge", "amount": plain(raised - rounded)})
    if bounded != raised:
        lines.append({"type": "maximum_charge", "amount": plain(bounded - raised)})
    charged = bounded if authorized is None else min(bounded, Fraction(authorized))
    return remaining, lines, charged, bounded - charged


def cost(duration: int, price: Fraction) -> Fraction:
    return Fraction(duration, 60 * SECOND) * price


def stepped_up(card: Card, duration: int) -> int:
    if card.subsequent == 0:
        return max(duration, card.initial)
    return card.initial + math.ceil(Fraction(max(0, duration - card.initial), card.subsequent)) * card.subsequent


def time_line(kind: str, duration: int, price: Fraction) -> dict[str, Any]:
    return {
        "type": kind,
        "seconds": in_seconds(duration),
        "rate_per_minute": plain(price),
        "amount": plain(cost(duration, price)),
    }
