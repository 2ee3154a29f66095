"""The worst case is a true upper bound, and a tight one (``docs/charging.md`` §9); so is what a hold is lowered to."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import assume, event, given
from hypothesis import strategies as st

from app.core.timeline import normalise as engine_timeline
from app.core.units import MicroCredits, Micros
from app.core.worst_case import affordable_time, largest_remaining_charge, worst_case
from tests.property.strategies import (
    Drawn,
    card_of,
    cards,
    choices,
    closed_part,
    dearest_speech,
    documents,
    limits,
    micro_credits,
    timelines,
    where_speech_is_dearest,
    with_field,
)
from tests.reference import documents as generator
from tests.reference.charging import SECOND, cost, instant_text, micros, normalise, read_card
from tests.reference.compare import engine
from tests.reference.documents import S0, number

DEFAULT = {"name": "default", "rates": {"user": "60", "agent": "60", "silence": "60"}}


def bounded(card: dict[str, Any], limit: int) -> MicroCredits:
    worst = worst_case(card_of(card), Micros(limit))
    assert worst is not None
    return worst


def on_time(card: dict[str, Any], limit: int, values: list[object], points: list[int]) -> dict[str, Any]:
    """A document whose timeline is pulled exactly when it ends, so that its origin is the start request."""
    at = instant_text(S0 + max(normalise(values).sigma, 0))
    return {
        "requested_at": instant_text(S0),
        "time_limit_s": number(limit),
        "heartbeats": [instant_text(S0 + point) for point in points],
        "snapshots": [{"requested_at": at, "received_at": at, "values": values}],
        "rate_card": card,
    }


def segment(kind: str, length: int) -> dict[str, Any]:
    return {"type": kind, "seconds": number(length)}


@given(documents())
def test_no_charge_exceeds_the_worst_case_of_its_limit(body: dict[str, Any]) -> None:
    assume(body.get("time_limit_s") is not None)
    worst = bounded(body.get("rate_card", DEFAULT), micros(body["time_limit_s"]))

    for interim in (False, True):
        amount = engine({**body, "authorized": None, "interim": interim})["amount"]
        event("charged" if amount != "0" else "free")
        assert micro_credits(amount) <= worst


@given(cards(), st.booleans())
def test_without_a_limit_the_worst_case_is_the_maximum_charge_unless_all_is_free(
    card: dict[str, Any], free: bool
) -> None:
    if free:
        card = {**card, "rates": {"user": "0", "agent": "0", "silence": "0"}}
    maximum = card.get("maximum_charge")
    most = None if maximum is None else micro_credits(maximum)

    # Time without a price is charged neither fee nor minimum (§8.2), so a free card cannot reach its maximum.
    costs = any(Decimal(rate) > 0 for rate in card["rates"].values())
    assert worst_case(card_of(card), None) == (most if costs else 0)


@given(cards(), limits, st.integers(0, 100 * SECOND))
def test_a_longer_limit_never_has_a_smaller_worst_case(card: dict[str, Any], limit: int, more: int) -> None:
    assert bounded(card, limit) <= bounded(card, limit + more)


@given(cards().map(where_speech_is_dearest), limits)
def test_the_worst_case_is_reached_where_speech_is_dearest(card: dict[str, Any], limit: int) -> None:
    body = on_time(card, limit, [segment(dearest_speech(card), limit)], [])

    assert micro_credits(engine(body)["amount"]) == bounded(card, limit)


@given(cards(), st.integers(SECOND, 300 * SECOND))
def test_the_worst_case_is_off_by_no_more_than_increments_and_the_silence_cap(card: dict[str, Any], limit: int) -> None:
    card = with_field(card, "measurement", heartbeat_interval_s=number(1000 * SECOND))
    plan = read_card(card)
    # Nothing but silence has a price, and the cap leaves none of it: then no timeline costs anything at all.
    assume(plan.rates["user"] + plan.rates["agent"] > 0 or plan.full_rate_first != 0 or plan.factor > 0)
    # The two microseconds of the openings must not be all that included time leaves.
    assume(limit - plan.included not in (1, 2))
    # `first_user_speech` needs some speech; a microsecond of each type is also what makes increments of types add up.
    openings: list[list[object]] = [[], [segment("user", 1)], [segment("user", 1), segment("agent", 1)]]
    best = max(
        micro_credits(engine(on_time(card, limit, [*opening, segment(kind, rest)], [0, limit]))["amount"])
        for opening in openings
        if (rest := limit - len(opening)) >= 0
        for kind in ("user", "agent", "silence")
    )

    dearest, speech = max(plan.rates.values()), max(plan.rates["user"], plan.rates["agent"])
    slack = sum(cost(max(plan.initial, plan.subsequent), rate) for rate in plan.rates.values())
    slack += cost(3, dearest) + plan.quantum + Fraction(1, 10**6)
    if plan.full_rate_first is not None:
        reached = max(speech, plan.rates["silence"] * plan.factor)
        slack += cost(limit, max(Fraction(0), plan.rates["silence"] - reached))
    assert bounded(card, limit) - best <= slack * 10**6


@given(cards(), st.integers(0, 10**8), st.integers(0, 700 * SECOND))
def test_affordable_time_is_the_largest_whole_second_whose_worst_case_fits(
    card: dict[str, Any], available: int, at_most: int
) -> None:
    time = affordable_time(card_of(card), MicroCredits(available), Micros(at_most))

    assert time % SECOND == 0
    assert 0 <= time <= at_most
    if time:
        assert bounded(card, time) <= available
    if time + SECOND <= at_most:
        event("the balance is what limits")
        assert bounded(card, time + SECOND) > available


@given(cards(), st.integers(-1, 1), st.integers(1, 50))
def test_affordable_time_turns_at_the_exact_worst_case(card: dict[str, Any], off: int, seconds: int) -> None:
    available = bounded(card, seconds * SECOND) + off
    assume(available >= 0)
    at_most = 60 * SECOND
    brute = max(
        (time for time in range(SECOND, at_most + 1, SECOND) if bounded(card, time) <= available),
        default=0,
    )

    assert affordable_time(card_of(card), MicroCredits(available), Micros(at_most)) == brute


@given(st.data(), cards(), limits, choices(), st.booleans(), st.booleans())
def test_no_continuation_of_a_closed_part_costs_more_than_the_hold_is_lowered_to(
    data: st.DataObject, card: dict[str, Any], limit: int, choice: Drawn, whole_silence: bool, interim: bool
) -> None:
    values = data.draw(timelines(card))
    goes_on = [*closed_part(values, whole_silence=whole_silence), *data.draw(timelines(card))]
    pulls = generator.snapshots(choice, goes_on, limit)
    body = {
        "requested_at": instant_text(S0),
        "time_limit_s": number(limit),
        "heartbeats": generator.heartbeats(choice, pulls, read_card(card).tolerance, limit),
        "snapshots": pulls,
        "rate_card": card,
        "interim": interim,
    }
    # Only a snapshot that shows the continuation is one that goes on from the closed part.
    body["snapshots"] = [pull for pull in pulls if pull["values"] == goes_on]

    most = largest_remaining_charge(card_of(card), engine_timeline(values), Micros(limit))

    assert micro_credits(engine(body)["amount"]) <= most
    assert most <= bounded(card, limit)


@given(st.data(), cards().map(where_speech_is_dearest), limits)
def test_what_a_hold_is_lowered_to_is_reached_where_speech_is_dearest(
    data: st.DataObject, card: dict[str, Any], limit: int
) -> None:
    card = with_field(card, "measurement", heartbeat_interval_s=number(10**8 * SECOND))
    values = data.draw(timelines(card))
    closed = closed_part(values, whole_silence=True)
    rest = max(0, limit - normalise(closed).sigma) + 1
    body = on_time(card, limit, [*closed, segment(dearest_speech(card), rest)], [0, limit])

    most = largest_remaining_charge(card_of(card), engine_timeline(values), Micros(limit))

    assert micro_credits(engine(body)["amount"]) == most


@given(cards(), limits)
def test_before_anything_is_closed_the_hold_stays_at_the_worst_case(card: dict[str, Any], limit: int) -> None:
    for values in ([], [segment("silence", 5 * SECOND)], [segment("user", 5 * SECOND)]):
        assert largest_remaining_charge(card_of(card), engine_timeline(values), Micros(limit)) == bounded(card, limit)


@given(cards(), limits)
def test_amounts_of_the_worst_case_are_whole_quanta_or_bounds(card: dict[str, Any], limit: int) -> None:
    plan, worst = read_card(card), Fraction(bounded(card, limit), 10**6)

    assert (worst / plan.quantum).denominator == 1 or worst in (plan.minimum, plan.maximum)


def test_the_worst_case_of_the_default_card_is_one_credit_a_second() -> None:
    assert bounded(DEFAULT, 3600 * SECOND) == 3600 * 10**6
    assert affordable_time(card_of(DEFAULT), MicroCredits(micro_credits("59.999999")), Micros(3600 * SECOND)) == (
        59 * SECOND
    )
    assert Decimal(bounded(DEFAULT, 1)) == 1
