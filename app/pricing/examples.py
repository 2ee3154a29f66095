"""Two conversations that everybody can picture, priced by any card: what an editor shows while one types."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.core.alignment import Pull
from app.core.charge import Evidence, charge
from app.core.rate_card import RateCard
from app.core.timeline import Segment, SegmentType, Timeline
from app.core.units import US_PER_S, Instant, Micros, format_credits, parse_instant
from app.core.worst_case import worst_case_under
from app.pricing.explanation import explain

HOUR: Final = Micros(3600 * US_PER_S)
_BEGINS: Final = parse_instant("2026-01-31T12:00:00Z")
_MS: Final = 1_000
_TURN: Final = (("silence", 800), ("user", 6_400), ("silence", 1_100), ("agent", 11_700))
_PAUSES: Final = {4: 12_000, 9: 28_000}
"""Before which turn the user thinks, and for how many milliseconds longer than otherwise."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """``segments``: types and milliseconds. ``heartbeats``: whole seconds after the beginning."""

    name: str
    description: str
    segments: Sequence[tuple[str, int]]
    heartbeats: Sequence[int]


GUIDE: Final = Conversation(
    name="The guide’s talk",
    description=(
        "The example of the provider’s manual: 16.6 s of talk, three heartbeats, and a last silence that was pulled "
        "8.8 days later."
    ),
    segments=(
        ("user", 265), ("silence", 1_513), ("agent", 1_634), ("silence", 3_683), ("user", 1_820), ("silence", 79),
        ("user", 1_042), ("silence", 906), ("agent", 132), ("silence", 996), ("agent", 4_501),
        ("silence", 763_454_513),
    ),
    heartbeats=(30, 60, 90),
)  # fmt: skip

TALK: Final = Conversation(
    name="A talk of five minutes",
    description="Thirteen turns of user and agent, with pauses of 12.8 and 28.8 s, heard all the time.",
    segments=tuple(
        (kind, length + (_PAUSES.get(turn, 0) if place == 0 else 0))
        for turn in range(13)
        for place, (kind, length) in enumerate(_TURN)
    ),
    heartbeats=tuple(range(30, 301, 30)),
)

CONVERSATIONS: Final = (GUIDE, TALK)


def explain_conversation(conversation: Conversation, card: RateCard) -> dict[str, Any]:
    """The explanation of its charge, without a ceiling and a time limit."""
    segments: list[Segment] = []
    end = Micros(0)
    for kind, length in conversation.segments:
        start, end = end, Micros(end + length * _MS)
        segments.append(Segment(SegmentType(kind), start, end))
    timeline = Timeline(tuple(segments), end, frozenset())
    ended = Instant(_BEGINS + end)
    evidence = Evidence(
        requested_at=_BEGINS,
        time_limit=None,
        heartbeats=[Instant(_BEGINS + second * US_PER_S) for second in conversation.heartbeats],
        pulls=[Pull(ended, ended, timeline.end, timeline.speech)],
        timeline=timeline,
        card=card,
        authorized=None,
    )
    return explain(charge(evidence), card)


def hour_at_most(card: RateCard) -> str:
    """What an hour can cost at most, and is held for it, in credits."""
    return format_credits(worst_case_under(card, HOUR))
