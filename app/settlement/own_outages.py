"""Our own outages as the explanation of a charge shows them: when they were, and which silence they left unproven.

They change no amount. They say whose fault it may be that time was not billed.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from app.core.buckets import Reason
from app.core.charge import Charge, Evidence
from app.core.outages import Outage, any_within
from app.core.units import Instant, Micros, format_instant, seconds


def with_own_outages(
    document: dict[str, Any], charge: Charge, evidence: Evidence, outages: Sequence[Outage]
) -> dict[str, Any]:
    """The explanation with ``own_outages``, ``heartbeat_gaps``, and ``own_outage`` on each of its pieces.

    A gap is more than G without a heartbeat between the start and the last one; after the last one, where an outage
    began within G of it.
    """
    origin = charge.origin.at
    return {
        **document,
        "pieces": [
            {**shown, "own_outage": piece.reason in _UNPROVEN and _unheard(charge, piece.start, evidence, outages)}
            for shown, piece in zip(document["pieces"], charge.pieces, strict=True)
        ],
        "own_outages": [_stretch(outage.start, outage.end, origin) for outage in outages],
        "heartbeat_gaps": [
            {**_stretch(start, end, origin), "own_outage": any_within(start, end, outages)}
            for start, end in _gaps(evidence, outages)
        ],
    }


_UNPROVEN = frozenset({Reason.NO_PROOF_OF_LIFE, Reason.AFTER_LAST_PROOF})


def _unheard(charge: Charge, offset: Micros, evidence: Evidence, outages: Sequence[Outage]) -> bool:
    """Whether an outage fell into the stretch without proof around ``offset``: what came then could prove nothing."""
    before = max(envelope.end for envelope in charge.envelopes if envelope.end <= offset)
    after = min(
        (envelope.start for envelope in charge.envelopes if envelope.start > offset),
        default=Micros(before + evidence.card.gap),
    )
    return any_within(Instant(charge.origin.at + before), Instant(charge.origin.at + after), outages)


def _gaps(evidence: Evidence, outages: Sequence[Outage]) -> list[tuple[Instant, Instant]]:
    gap = evidence.card.gap
    heard = sorted({evidence.requested_at, *(one for one in evidence.heartbeats if one >= evidence.requested_at)})
    found = [(before, after) for before, after in pairwise(heard) if after - before > gap]
    last = heard[-1]
    return found + [(last, outage.end) for outage in outages if last <= outage.start <= last + gap][-1:]


def _stretch(start: Instant, end: Instant, origin: Instant) -> dict[str, Any]:
    return {
        "from": format_instant(start),
        "to": format_instant(end),
        "from_s": seconds(Micros(start - origin)),
        "to_s": seconds(Micros(end - origin)),
    }
