"""One charge, from evidence to amount: the whole of docs/charging.md in the order of its sections."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.core.alignment import Origin, Pull, align, latest
from app.core.buckets import Piece, Policy, joined, sort_into_buckets
from app.core.liveness import Envelope, Liveness, prove
from app.core.rate_card import ChargeFrom, RateCard
from app.core.rating import Line, LineType, rate
from app.core.timeline import SPEECH, Anomaly, SegmentType, Timeline
from app.core.units import Instant, MicroCredits, Micros

ENGINE_VERSION: Final = "1"
"""Stored with every charge. A change of any result is a new version; old ones stay able to replay theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that a charge depends on.

    ``pulls`` holds at least one pull; ``timeline`` is that of the pull which :func:`app.core.alignment.latest` names.
    ``authorized`` null: no ceiling. ``interim``: the timeline is still growing, so its trailing silence is left out.
    ``accepted``: the index of the pull with which a person accepted evidence that contradicts itself; how much was said
    is not measured by earlier ones any more.
    """

    requested_at: Instant
    time_limit: Micros | None
    heartbeats: Sequence[Instant]
    pulls: Sequence[Pull]
    timeline: Timeline
    card: RateCard
    authorized: MicroCredits | None
    interim: bool = False
    accepted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What a session costs and why. ``billed`` and ``not_billed`` hold no zero times and add up to ``timeline_end``."""

    amount: MicroCredits
    beyond_authorization: MicroCredits
    origin: Origin
    timeline_end: Micros
    billed: Mapping[LineType, Micros]
    not_billed: Mapping[str, Micros]
    lines: tuple[Line, ...]
    envelopes: tuple[Envelope, ...]
    pieces: tuple[Piece, ...]
    anomalies: frozenset[Anomaly]
    last_proof: Micros


def charge(evidence: Evidence) -> Charge:
    """Rate one session."""
    card, timeline = evidence.card, evidence.timeline
    rated = evidence.pulls[latest(evidence.pulls)]
    origin = align(evidence.requested_at, evidence.pulls, evidence.accepted)
    liveness = prove(
        timeline,
        origin=origin.at,
        requested_at=evidence.requested_at,
        heartbeats=evidence.heartbeats,
        received_at=rated.received_at,
        gap=card.gap,
        time_limit=evidence.time_limit,
    )
    policy = Policy(
        time_limit=evidence.time_limit,
        elapsed=Micros(rated.received_at - origin.at),
        envelopes=liveness.envelopes,
        charge_from=_charge_start(card.charge_from, timeline, liveness),
        full_rate_first=card.full_rate_first,
        factor_after=card.factor_after,
        open_from=timeline.trailing_silence_start if evidence.interim else None,
    )
    rating = rate(sort_into_buckets(timeline, policy), card)
    amount = rating.amount if evidence.authorized is None else min(rating.amount, evidence.authorized)
    billed, not_billed = _totals(rating.pieces)
    return Charge(
        amount=MicroCredits(amount),
        beyond_authorization=MicroCredits(rating.amount - amount),
        origin=origin,
        timeline_end=timeline.end,
        billed=billed,
        not_billed=not_billed,
        lines=rating.lines,
        envelopes=liveness.envelopes,
        pieces=tuple(joined(rating.pieces, timeline)),
        anomalies=timeline.anomalies | origin.anomalies | liveness.anomalies,
        last_proof=liveness.last_proof,
    )


def _charge_start(charge_from: ChargeFrom, timeline: Timeline, liveness: Liveness) -> Micros | None:
    match charge_from:
        case ChargeFrom.ORIGIN:
            return Micros(0)
        case ChargeFrom.FIRST_HEARTBEAT:
            return next(iter(liveness.points), None)
        case ChargeFrom.FIRST_SPEECH:
            return next((segment.start for segment in timeline.segments if segment.type in SPEECH), None)
        case ChargeFrom.FIRST_USER_SPEECH:
            return next((s.start for s in timeline.segments if s.type is SegmentType.USER), None)


def _totals(pieces: Sequence[Piece]) -> tuple[dict[LineType, Micros], dict[str, Micros]]:
    billed: Counter[LineType] = Counter()
    not_billed: Counter[str] = Counter()
    for piece in pieces:
        if piece.reason is not None:
            not_billed[piece.reason.value] += piece.length
        else:
            billed[LineType.REDUCED_RATE if piece.reduced else LineType(piece.type.value)] += piece.length
    return (
        {kind: Micros(time) for kind, time in billed.items()},
        {reason: Micros(time) for reason, time in not_billed.items()},
    )
