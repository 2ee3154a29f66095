"""The largest charge that can still come (docs/charging.md §9), which sizes holds and time limits."""

from collections.abc import Sequence

from app.core.buckets import Piece, Policy, sort_into_buckets
from app.core.rate_card import ChargeFrom, RateCard, Scope
from app.core.rating import (
    FINE_PER_MICROCREDIT,
    PRICED_TYPES,
    Fine,
    Prices,
    bounded,
    round_to_quantum,
    round_up,
)
from app.core.timeline import SPEECH, SegmentType, Timeline
from app.core.units import US_PER_S, MicroCredits, Micros

_EMPTY = Timeline((), Micros(0), frozenset())


def worst_case(card: RateCard, time_limit: Micros | None) -> MicroCredits | None:
    """The largest charge of any timeline with any heartbeats under ``time_limit``; null if nothing bounds it.

    Exact for scope ``session`` with charging from the origin and speech as the dearest type; otherwise too large by no
    more than the larger increment per type and what the cap on silence would save. Never falls as the limit grows.
    """
    if time_limit is None:
        return card.maximum_charge if Prices(card).dearest else MicroCredits(0)
    return worst_case_under(card, time_limit)


def worst_case_under(card: RateCard, time_limit: Micros) -> MicroCredits:
    """:func:`worst_case` where there is a limit."""
    return largest_remaining_charge(card, _EMPTY, time_limit)


def affordable_time(card: RateCard, available: MicroCredits, at_most: Micros) -> Micros:
    """The largest whole second up to ``at_most`` whose worst case ``available`` covers; 0 if there is none."""
    low, high = 0, at_most // US_PER_S
    while low < high:
        middle = (low + high + 1) // 2
        needed = worst_case_under(card, Micros(middle * US_PER_S))
        if needed <= available:
            low = middle
        else:
            high = middle - 1
    return Micros(low * US_PER_S)


def largest_remaining_charge(card: RateCard, timeline: Timeline, time_limit: Micros) -> MicroCredits:
    """The largest charge of any timeline that begins with the closed segments of ``timeline``.

    All silence in them counts as proven; from where the open segment starts up to the limit, all time counts at the
    dearest rate. Rated as one charge, before the ceiling of what was authorised.
    """
    prices = Prices(card)
    open_start = timeline.open_start
    closed = _closed_pieces(card, timeline, open_start, time_limit)
    open_time = Micros(max(0, time_limit - open_start))
    billed = sum(piece.length for piece in closed) + open_time
    if billed < card.short_session_exemption:
        return MicroCredits(0)

    left = card.included
    exact = Fine(0)
    priced = Micros(0)
    for time, price in (*((piece.length, prices.of(piece)) for piece in closed), (open_time, prices.dearest)):
        if price:
            charged = Micros(max(0, time - left))
            left = Micros(max(0, left - time))
            exact = Fine(exact + charged * price)
            priced = Micros(priced + charged)
    if not priced:
        return MicroCredits(0)

    counted = priced
    if card.scope is Scope.SESSION:
        counted = round_up(priced, card)
        exact = Fine(exact + (counted - priced) * prices.lowest)
    else:
        # Which types the rest of the session will use is not known: each may add up to one whole increment.
        increment = max(card.initial, card.subsequent)
        exact = Fine(exact + sum(increment * prices.lowest_of[kind] for kind in PRICED_TYPES))
    missing = Micros(card.minimum_duration - counted - (card.included - left))
    exact = Fine(exact + max(0, missing) * prices.lowest + card.connection_fee * FINE_PER_MICROCREDIT)
    return bounded(round_to_quantum(exact, card), card)


def _closed_pieces(card: RateCard, timeline: Timeline, open_start: Micros, time_limit: Micros) -> Sequence[Piece]:
    closed = Timeline(
        tuple(segment for segment in timeline.segments if segment.end <= open_start), open_start, frozenset()
    )
    policy = Policy(
        time_limit=time_limit,
        elapsed=None,
        envelopes=None,
        charge_from=_earliest_charge_start(card, closed),
        full_rate_first=card.full_rate_first,
        factor_after=card.factor_after,
    )
    return [piece for piece in sort_into_buckets(closed, policy) if piece.reason is None]


def _earliest_charge_start(card: RateCard, closed: Timeline) -> Micros:
    """Where charging can begin at the earliest: a first heartbeat may lie anywhere, speech yet to come only ahead."""
    match card.charge_from:
        case ChargeFrom.ORIGIN | ChargeFrom.FIRST_HEARTBEAT:
            return Micros(0)
        case ChargeFrom.FIRST_SPEECH:
            starts = (segment.start for segment in closed.segments if segment.type in SPEECH)
        case ChargeFrom.FIRST_USER_SPEECH:
            starts = (segment.start for segment in closed.segments if segment.type is SegmentType.USER)
    return next(starts, closed.end)
