"""A charge as the document that explains it: the answer of the preview and of ``/v1/sessions/{id}/charge``."""

from typing import Any

from app.core.buckets import Piece
from app.core.charge import ENGINE_VERSION, Charge
from app.core.rate_card import RateCard
from app.core.rating import LINE_UNITS_PER_MICROCREDIT, Line, LineType
from app.core.units import (
    MICROCREDITS_PER_CREDIT,
    Micros,
    format_credits,
    format_instant,
    format_millionths,
    seconds,
)
from app.pricing.documents import write_rate_card

_LINE_DECIMALS = 12


def explain(charge: Charge, card: RateCard, engine_version: str = ENGINE_VERSION) -> dict[str, Any]:
    """The document; durations are exact decimals, amounts decimal strings.

    ``billed`` holds four kinds of time that do not overlap (``silence_s`` is silence at the full rate) and their sum.
    """
    billed = {f"{kind}_s": seconds(charge.billed.get(kind, Micros(0))) for kind in _BILLED}
    return {
        "amount": format_credits(charge.amount),
        "beyond_authorization": format_credits(charge.beyond_authorization),
        "origin": {"at": format_instant(charge.origin.at), "quality": charge.origin.quality.value},
        "timeline_s": seconds(charge.timeline_end),
        "billed": billed | {"total_s": seconds(Micros(sum(charge.billed.values())))},
        "not_billed": {reason: seconds(time) for reason, time in charge.not_billed.items()},
        "lines": [_line(line) for line in charge.lines],
        "envelopes": [[seconds(envelope.start), seconds(envelope.end)] for envelope in charge.envelopes],
        "pieces": [_piece(piece) for piece in charge.pieces],
        "anomalies": sorted(anomaly.value for anomaly in charge.anomalies),
        "rate_card": write_rate_card(card),
        "engine_version": engine_version,
    }


_BILLED = (LineType.USER, LineType.AGENT, LineType.SILENCE, LineType.REDUCED_RATE)


def _line(line: Line) -> dict[str, Any]:
    document: dict[str, Any] = {"type": line.type.value}
    if line.of is not None:
        document["of"] = line.of.value
    if line.seconds is not None:
        document["seconds"] = seconds(line.seconds)
    if line.rate is not None:
        document["rate_per_minute"] = _twelve_decimals(line.rate)
    document["amount"] = _twelve_decimals(line.amount)
    return document


def _twelve_decimals(value: int) -> str:
    """Millionths of a micro-credit as a decimal string of credits."""
    sign = "-" if value < 0 else ""
    whole, rest = divmod(abs(value), LINE_UNITS_PER_MICROCREDIT * MICROCREDITS_PER_CREDIT)
    return f"{sign}{whole}.{rest:0{_LINE_DECIMALS}d}".rstrip("0").rstrip(".")


def _piece(piece: Piece) -> dict[str, Any]:
    return {
        "type": piece.type.value,
        "from_s": seconds(piece.start),
        "to_s": seconds(piece.end),
        "billed": piece.reason is None,
        "factor": format_millionths(piece.factor),
        "reason": None if piece.reason is None else piece.reason.value,
    }
