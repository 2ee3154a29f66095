"""From billed time to one amount (docs/charging.md §8). Exact until the single rounding at the end.

Products of time, rate and factor are whole numbers of *fine* units: µs x micro-credits a minute x millionths. Dividing
by :data:`FINE_PER_MICROCREDIT` is the rounding; nothing is divided before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NewType

from app.core.buckets import Piece, Reason
from app.core.rate_card import FULL_FACTOR, RateCard, RoundingMode, Scope
from app.core.timeline import SegmentType
from app.core.units import US_PER_MINUTE, MicroCredits, Micros

Fine = NewType("Fine", int)
"""Micro-credits x :data:`FINE_PER_MICROCREDIT`."""

Rate = NewType("Rate", int)
"""Micro-credits a minute x :data:`FULL_FACTOR`: a price with its factor."""

FINE_PER_MICROCREDIT: Final = US_PER_MINUTE * FULL_FACTOR
LINE_UNITS_PER_MICROCREDIT: Final = 1_000_000
"""Lines are shown to 12 decimals of a credit."""

PRICED_TYPES: Final = (SegmentType.USER, SegmentType.AGENT, SegmentType.SILENCE)


class LineType(StrEnum):
    USER = "user"
    AGENT = "agent"
    SILENCE = "silence"
    REDUCED_RATE = "reduced_rate"
    INCREMENTS = "increments"
    MINIMUM_DURATION = "minimum_duration"
    CONNECTION_FEE = "connection_fee"
    ROUNDING = "rounding"
    MINIMUM_CHARGE = "minimum_charge"
    MAXIMUM_CHARGE = "maximum_charge"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a charge. ``amount`` is in millionths of a micro-credit, ``rate`` in such millionths a minute."""

    type: LineType
    amount: int
    seconds: Micros | None = None
    rate: Rate | None = None
    of: SegmentType | None = None


@dataclass(frozen=True, slots=True)
class Rating:
    """``amount`` is before the ceiling of what was authorised. ``pieces`` have exempt and included time taken out."""

    amount: MicroCredits
    lines: tuple[Line, ...]
    pieces: tuple[Piece, ...]


class Prices:
    """The prices of a card as :data:`Rate`, and the lowest positive ones, which price time added by rounding up."""

    def __init__(self, card: RateCard) -> None:
        self.full = {
            SegmentType.USER: Rate(card.user_rate * FULL_FACTOR),
            SegmentType.AGENT: Rate(card.agent_rate * FULL_FACTOR),
            SegmentType.SILENCE: Rate(card.silence_rate * FULL_FACTOR),
        }
        self.reduced = Rate(card.silence_rate * card.factor_after)
        self.lowest_of = {
            SegmentType.USER: _lowest_positive(self.full[SegmentType.USER]),
            SegmentType.AGENT: _lowest_positive(self.full[SegmentType.AGENT]),
            SegmentType.SILENCE: _lowest_positive(self.full[SegmentType.SILENCE], self.reduced),
        }
        self.lowest = _lowest_positive(*self.full.values(), self.reduced)
        self.dearest = max(self.full.values())

    def of(self, piece: Piece) -> Rate:
        """The price of a billed piece."""
        return self.reduced if piece.reduced else self.full[piece.type]


def round_up(duration: Micros, card: RateCard) -> Micros:
    """``duration`` in whole increments: the initial one, then subsequent ones."""
    if card.subsequent == 0:
        return max(duration, card.initial)
    beyond = max(0, duration - card.initial)
    return Micros(card.initial + -(-beyond // card.subsequent) * card.subsequent)


def rate(pieces: Sequence[Piece], card: RateCard) -> Rating:
    """Rate the pieces of one session by ``card``."""
    prices = Prices(card)
    billed = sum(piece.length for piece in pieces if piece.reason is None)
    if billed < card.short_session_exemption:
        exempt = tuple(_unbilled(piece, Reason.SHORT_SESSION) for piece in pieces)
        return Rating(MicroCredits(0), (Line(LineType.ROUNDING, 0),), exempt)
    kept, included_used = _without_included(pieces, card, prices)
    lines = _time_lines(kept, prices)
    priced = _priced_time(kept, prices)
    if not priced:
        return Rating(MicroCredits(0), (*lines, Line(LineType.ROUNDING, 0)), kept)

    exact = Fine(sum(piece.length * prices.of(piece) for piece in kept if piece.reason is None))
    additions = increments(priced, card, prices)
    total = Micros(sum(priced.values()) + sum(addition.time for addition in additions))
    missing = Micros(card.minimum_duration - total - included_used)
    if missing > 0:
        additions.append(Addition(LineType.MINIMUM_DURATION, missing, prices.lowest))
    for addition in additions:
        exact = Fine(exact + addition.time * addition.rate)
        lines.append(_time_line(addition.type, addition.time, addition.rate, addition.of))
    if card.connection_fee:
        exact = Fine(exact + card.connection_fee * FINE_PER_MICROCREDIT)
        lines.append(Line(LineType.CONNECTION_FEE, card.connection_fee * LINE_UNITS_PER_MICROCREDIT))

    rounded = round_to_quantum(exact, card)
    rest = rounded * LINE_UNITS_PER_MICROCREDIT - sum(line.amount for line in lines)
    lines.append(Line(LineType.ROUNDING, rest))
    raised = max(rounded, card.minimum_charge)
    amount = raised if card.maximum_charge is None else min(raised, card.maximum_charge)
    if raised != rounded:
        lines.append(Line(LineType.MINIMUM_CHARGE, (raised - rounded) * LINE_UNITS_PER_MICROCREDIT))
    if amount != raised:
        lines.append(Line(LineType.MAXIMUM_CHARGE, (amount - raised) * LINE_UNITS_PER_MICROCREDIT))
    return Rating(amount, tuple(lines), kept)


@dataclass(frozen=True, slots=True)
class Addition:
    """Time that was not used but is charged, at ``rate``."""

    type: LineType
    time: Micros
    rate: Rate
    of: SegmentType | None = None


def increments(priced: dict[SegmentType, Micros], card: RateCard, prices: Prices) -> list[Addition]:
    """What rounding up to increments adds; ``priced`` is the priced time left of each type, never 0."""
    if card.scope is Scope.SESSION:
        total = Micros(sum(priced.values()))
        added = [Addition(LineType.INCREMENTS, Micros(round_up(total, card) - total), prices.lowest)]
    else:
        added = [
            Addition(LineType.INCREMENTS, Micros(round_up(time, card) - time), prices.lowest_of[kind], kind)
            for kind, time in priced.items()
        ]
    return [addition for addition in added if addition.time]


def round_to_quantum(exact: Fine, card: RateCard) -> MicroCredits:
    """The one rounding of a charge: to a whole multiple of the card's quantum."""
    step = FINE_PER_MICROCREDIT * card.quantum
    whole, rest = divmod(exact, step)
    match card.rounding:
        case RoundingMode.UP:
            whole += rest > 0
        case RoundingMode.HALF_EVEN:
            whole += 2 * rest > step or (2 * rest == step and whole % 2 == 1)
        case RoundingMode.DOWN:
            pass
    return MicroCredits(whole * card.quantum)


def bounded(amount: MicroCredits, card: RateCard) -> MicroCredits:
    """At least the card's minimum charge, then at most its maximum."""
    amount = max(amount, card.minimum_charge)
    return amount if card.maximum_charge is None else min(amount, card.maximum_charge)


def _lowest_positive(*rates: Rate) -> Rate:
    return min((rate for rate in rates if rate > 0), default=Rate(0))


def _unbilled(piece: Piece, reason: Reason) -> Piece:
    return piece if piece.reason is not None else piece._replace(factor=0, reduced=False, reason=reason)


def _without_included(pieces: Sequence[Piece], card: RateCard, prices: Prices) -> tuple[tuple[Piece, ...], Micros]:
    """Take the first ``included`` of priced time out, in order; the second value is how much there was to take."""
    left = card.included
    if not left:
        return tuple(pieces), Micros(0)
    kept: list[Piece] = []
    for piece in pieces:
        if not left or piece.reason is not None or not prices.of(piece):
            kept.append(piece)
            continue
        taken = Micros(min(left, piece.length))
        left = Micros(left - taken)
        edge = Micros(piece.start + taken)
        kept.append(_unbilled(piece._replace(end=edge), Reason.INCLUDED))
        if edge < piece.end:
            kept.append(piece._replace(start=edge))
    return tuple(kept), Micros(card.included - left)


def _priced_time(pieces: Sequence[Piece], prices: Prices) -> dict[SegmentType, Micros]:
    priced = dict.fromkeys(PRICED_TYPES, Micros(0))
    for piece in pieces:
        if piece.reason is None and prices.of(piece):
            priced[piece.type] = Micros(priced[piece.type] + piece.length)
    return {kind: time for kind, time in priced.items() if time}


def _time_lines(pieces: Sequence[Piece], prices: Prices) -> list[Line]:
    times = dict.fromkeys((LineType.USER, LineType.AGENT, LineType.SILENCE, LineType.REDUCED_RATE), Micros(0))
    for piece in pieces:
        if piece.reason is None:
            name = LineType.REDUCED_RATE if piece.reduced else LineType(piece.type.value)
            times[name] = Micros(times[name] + piece.length)
    rates = {LineType(kind.value): price for kind, price in prices.full.items()} | {
        LineType.REDUCED_RATE: prices.reduced
    }
    return [_time_line(name, time, rates[name]) for name, time in times.items() if time]


def _time_line(name: LineType, time: Micros, price: Rate, of: SegmentType | None = None) -> Line:
    """A line of time; its amount is cut to 12 decimals of a credit, half even, for show only."""
    whole, rest = divmod(time * price, US_PER_MINUTE)
    whole += 2 * rest > US_PER_MINUTE or (2 * rest == US_PER_MINUTE and whole % 2 == 1)
    return Line(name, whole, time, price, of)
