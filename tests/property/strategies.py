"""Hypothesis strategies over the generator of random previews, and what several properties need of a document."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, TypeVar

from hypothesis import strategies as st

from app.core.rate_card import RateCard
from app.core.units import Micros
from app.pricing.documents import read_rate_card
from tests.reference import documents as generator
from tests.reference.charging import SECOND, normalise

T = TypeVar("T")


class Drawn:
    """Decisions from Hypothesis, which can take them back to find a smaller failure."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def of(self, options: Sequence[T]) -> T:
        return self._draw(st.sampled_from(options))


@st.composite
def choices(draw: st.DrawFn) -> Drawn:
    """For a property that goes on deciding while it runs; as repeatable as any other draw."""
    return Drawn(draw)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Bodies of a preview."""
    return generator.document(Drawn(draw))


@st.composite
def cards(draw: st.DrawFn) -> dict[str, Any]:
    """Rate cards as documents."""
    return generator.rate_card(Drawn(draw))


@st.composite
def timelines(draw: st.DrawFn, card: dict[str, Any]) -> list[object]:
    """The values of a timeline whose lengths lie around what ``card`` distinguishes."""
    return generator.segments(Drawn(draw), card)


limits = st.one_of(
    st.integers(0, 10 * SECOND),
    st.integers(0, 600).map(lambda seconds: seconds * SECOND),
    st.integers(0, 4000 * SECOND),
).map(Micros)
"""Time limits in microseconds."""


def card_of(card: dict[str, Any]) -> RateCard:
    return read_rate_card(card)


def micro_credits(amount: str) -> int:
    return int(Decimal(amount) * 1_000_000)


def with_field(card: dict[str, Any], group: str, **fields: object) -> dict[str, Any]:
    """``card`` with some fields of a group set."""
    return {**card, group: {**card.get(group, {}), **fields}}


def where_speech_is_dearest(card: dict[str, Any]) -> dict[str, Any]:
    """The card made into one whose worst case is reached exactly (§9)."""
    rates = card["rates"]
    dearest = max(rates["user"], rates["agent"], key=Decimal)
    rates = {**rates, "silence": min(rates["silence"], dearest, key=Decimal)}
    card = with_field({**card, "rates": rates}, "increments", scope="session")
    return with_field(card, "measurement", charge_from="origin")


def dearest_speech(card: dict[str, Any]) -> str:
    return max(("user", "agent"), key=lambda kind: Decimal(card["rates"][kind]))


def closed_part(values: list[object], *, whole_silence: bool) -> list[object]:
    """What can no longer change: all before the last segment, or before the silence that a timeline ends in."""
    end = len(values)
    while end:
        before, after = normalise(values[: end - 1]), normalise(values[:end])
        end -= 1
        if after.sigma == before.sigma:
            continue  # without effect, so not the last segment
        following = normalise(values[:end]).segments
        goes_on = whole_silence and after.segments[-1].kind == "silence"
        if not (goes_on and following and following[-1].kind == "silence"):
            break
    return values[:end]
