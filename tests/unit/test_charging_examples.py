"""The worked examples of ``docs/charging.md`` §11, each against the engine and against the reference."""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from app.core.lossless_json import dumps, loads
from app.errors import Problem
from app.pricing.documents import read_rate_card
from tests.reference import compare
from tests.reference.charging import instant, instant_text

Charge = Callable[[dict[str, Any]], dict[str, Any]]
Segments = tuple[tuple[str, str], ...]

T0 = instant("2026-01-31T12:00:00+00:00")
"""True offset 0 of every example."""

S0 = T0 - 1_500_000
ROUND_TRIP = 40_000
"""A pull leaves so long before, and comes back so long after, the instant at which the provider looks."""

CONV: Segments = (
    ("silence", "2"),
    ("agent", "6"),
    ("silence", "1"),
    ("user", "4"),
    ("silence", "1.5"),
    ("agent", "9.5"),
    ("silence", "3"),
    ("user", "5"),
    ("silence", "2"),
    ("agent", "11"),
)
CONV_WITH_TOOL: Segments = (*CONV[:5], ("tool", "7"), *CONV[5:])
TALK: Segments = (
    ("silence", "1.2"),
    ("agent", "3.4"),
    ("silence", "0.8"),
    ("user", "2.634"),
    ("silence", "0.5"),
    ("agent", "4"),
)
AGENT_10: Segments = (("agent", "10"),)
GAP: Segments = (("agent", "20"), ("silence", "700"), ("user", "5"), ("agent", "10"))
GHOST: Segments = (("agent", "8"), ("user", "3"))
TINY: Segments = (*((("user", "0.0000004"),) * 10), ("agent", "1"))
GUIDE: Segments = (
    ("user", "0.265"),
    ("silence", "1.513"),
    ("agent", "1.634"),
    ("silence", "3.683"),
    ("user", "1.82"),
    ("silence", "0.079"),
    ("user", "1.042"),
    ("silence", "0.906"),
    ("agent", "0.132"),
    ("silence", "0.996"),
    ("agent", "4.501"),
    ("silence", "763454.513"),
)

RATES = {"user": "60", "agent": "60", "silence": "60"}
UNCAPPED: dict[str, Any] = {"name": "example", "rates": RATES, "silence": {"full_rate_first_s": None}}


@pytest.fixture(params=["engine", "reference"])
def charge(request: pytest.FixtureRequest) -> Charge:
    """Both implementations have to give the numbers of the document."""
    return {"engine": compare.engine, "reference": compare.reference}[str(request.param)]


def at(offset: str) -> str:
    """The instant that lies ``offset`` seconds after T0."""
    return instant_text(T0 + int(Decimal(offset) * 1_000_000))


def length(segments: Segments) -> Decimal:
    return sum((Decimal(seconds) for _, seconds in segments), Decimal(0))


def pull(offset: str, segments: Segments, *, grows: bool = True) -> dict[str, Any]:
    """A pull at T0 + ``offset``; what the segments leave open until then is silence, if the timeline grows."""
    shown = segments
    if grows:
        shown = (*segments, ("silence", str(Decimal(offset) - length(segments))))
    middle = T0 + int(Decimal(offset) * 1_000_000)
    values = ",".join(f'{{"type": "{kind}", "seconds": {seconds}}}' for kind, seconds in shown)
    return {
        "requested_at": instant_text(middle - ROUND_TRIP),
        "received_at": instant_text(middle + ROUND_TRIP),
        "values": loads(f"[{values}]"),
    }


def document(segments: Segments, ticks: tuple[str, ...], card: dict[str, Any], *pulls: str) -> dict[str, Any]:
    body = {
        "requested_at": instant_text(S0),
        "heartbeats": [at(tick) for tick in ticks],
        "snapshots": [pull(offset, segments) for offset in pulls or ("3600", "3660")],
        "rate_card": card,
    }
    result = loads(dumps(body))
    assert isinstance(result, dict)
    return result


@dataclass(frozen=True)
class Example:
    number: int
    segments: Segments
    ticks: tuple[str, ...]
    user_ms: str
    agent_ms: str
    silence_ms: str
    pulls: tuple[str, ...] = ("3600", "3660")
    card: dict[str, Any] = field(default_factory=lambda: UNCAPPED)


EVERY_30_S_FOR_2_H = tuple(str(30 * k) for k in range(1, 241))
CAP_120 = {**UNCAPPED, "silence": {"full_rate_first_s": 120}}

# fmt: off
EXAMPLES = [
    Example(1, CONV, ("30", "60"), "9000", "26500", "24460"),
    Example(2, CONV, ("30",), "9000", "26500", "9500"),
    Example(3, CONV, ("30", "60"), "9000", "26500", "24460", pulls=("760320", "760380")),
    Example(4, TALK, (), "2634", "7400", "2500"),
    Example(5, (), (), "0", "0", "0"),
    Example(7, AGENT_10, ("30", "60", "120", "150"), "0", "10000", "139960"),
    Example(8, AGENT_10, ("30", "60", "150"), "0", "10000", "49960"),
    Example(9, GAP, ("30", "60", "90", "120", "720", "750"), "5000", "30000", "114960"),
    Example(12, GHOST, EVERY_30_S_FOR_2_H, "3000", "8000", "120000", card=CAP_120),
    Example(14, CONV, ("60", "30", "30.2", "30.4", "60"), "9000", "26500", "24460"),
    Example(17, CONV, ("30", "420"), "9000", "26500", "9500"),
    Example(26, CONV_WITH_TOOL, ("30", "60"), "9000", "26500", "17460"),
    Example(35, TINY, ("30",), "0.004", "1000", "28959.996"),
]
# fmt: on


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"example {example.number}")
def test_a_worked_example_bills_these_milliseconds(example: Example, charge: Charge) -> None:
    answer = charge(document(example.segments, example.ticks, example.card, *example.pulls))

    billed = answer["billed"]
    silence = billed["silence_s"] + billed["reduced_rate_s"]
    assert [str((1000 * value).normalize() + 0) for value in (billed["user_s"], billed["agent_s"], silence)] == [
        str(Decimal(value).normalize() + 0) for value in (example.user_ms, example.agent_ms, example.silence_ms)
    ]
    assert answer["origin"] == {"at": instant_text(T0 + ROUND_TRIP), "quality": "anchored"}


def test_example_1_at_three_rates_costs_one_credit_and_seven_thousand_nine_hundred_forty_six(charge: Charge) -> None:
    card = {**UNCAPPED, "rates": {"user": "1.5", "agent": "3", "silence": "0.6"}}

    answer = charge(document(CONV, ("30", "60"), card))

    assert answer["amount"] == "1.7946"
    assert answer["beyond_authorization"] == "0"
    assert answer["timeline_s"] == Decimal(3660)
    assert answer["not_billed"] == {"after_last_proof": Decimal("3600.04")}
    assert answer["envelopes"] == [[Decimal(0), Decimal("59.96")]]
    assert answer["lines"] == [
        {"type": "user", "seconds": Decimal(9), "rate_per_minute": "1.5", "amount": "0.225"},
        {"type": "agent", "seconds": Decimal("26.5"), "rate_per_minute": "3", "amount": "1.325"},
        {"type": "silence", "seconds": Decimal("24.46"), "rate_per_minute": "0.6", "amount": "0.2446"},
        {"type": "rounding", "amount": "0"},
    ]
    assert answer["pieces"][0] == {
        "type": "silence",
        "from_s": Decimal(0),
        "to_s": Decimal(2),
        "billed": True,
        "factor": "1",
        "reason": None,
    }
    assert answer["pieces"][-1] == {
        "type": "silence",
        "from_s": Decimal("59.96"),
        "to_s": Decimal(3660),
        "billed": False,
        "factor": "0",
        "reason": "after_last_proof",
    }


# fmt: off
INCREMENTS = [
    # talk, then the card's rates, increments and the amount
    ((("agent", "60.001"),), RATES, 1, 1, "61"),
    ((("agent", "60.001"),), RATES, 6, 6, "66"),
    ((("agent", "60.001"),), RATES, 60, 60, "120"),
    ((("user", "60"), ("agent", "1")), {"user": "1", "agent": "60", "silence": "1"}, 60, 60, "2.983333"),
    ((("agent", "1"), ("user", "60")), {"user": "1", "agent": "60", "silence": "1"}, 60, 60, "2.983333"),
    ((("agent", "1"),), {"user": "1", "agent": "60", "silence": "1"}, 60, 60, "1.983333"),
    ((("agent", "60.001"),), RATES, 30, 0, "60.001"),
    ((("agent", "12"),), RATES, 30, 0, "30"),
    ((("agent", "12"),), RATES, 30, 6, "30"),
    ((("agent", "30.000001"),), RATES, 30, 6, "36"),
]
# fmt: on


@pytest.mark.parametrize(("talk", "rates", "initial", "subsequent", "amount"), INCREMENTS)
def test_increments_add_time_at_the_lowest_price_of_the_card(
    talk: Segments, rates: dict[str, str], initial: int, subsequent: int, amount: str, charge: Charge
) -> None:
    card = {**UNCAPPED, "rates": rates, "increments": {"initial_s": initial, "subsequent_s": subsequent}}

    assert charge(document(talk, (), card))["amount"] == amount


def test_a_frozen_timeline_that_is_pulled_late_bills_no_silence(charge: Charge) -> None:
    segments: Segments = (("agent", "10"), ("silence", "25"))
    body = document(segments, ("30",), UNCAPPED)
    body["snapshots"] = [pull("64", segments, grows=False)]

    answer = charge(body)

    assert answer["origin"] == {"at": at("29.04"), "quality": "bounded"}
    assert answer["billed"]["total_s"] == Decimal(10)


def test_a_frozen_timeline_that_was_pulled_alive_bills_the_silence_that_a_heartbeat_proves(charge: Charge) -> None:
    segments: Segments = (("agent", "10"), ("silence", "25"))
    body = document(segments, ("30",), UNCAPPED)
    body["snapshots"] = [pull("20", AGENT_10), pull("64", segments, grows=False)]

    answer = charge(body)

    assert answer["origin"] == {"at": at("0.04"), "quality": "bounded"}
    assert answer["billed"]["total_s"] == Decimal("29.96")


@pytest.mark.parametrize(("ticks", "amount", "silence"), [((), "16.571", "7.177"), (("30", "60"), "21.571", "12.177")])
def test_the_guides_example_costs_its_talk_and_never_its_tail_of_eight_days(
    ticks: tuple[str, ...], amount: str, silence: str, charge: Charge
) -> None:
    body = document(GUIDE, ticks, UNCAPPED)
    del body["rate_card"]
    body["snapshots"] = [pull(str(length(GUIDE)), GUIDE, grows=False)]

    answer = charge(body)

    assert answer["amount"] == amount
    assert answer["billed"]["user_s"] + answer["billed"]["agent_s"] == Decimal("9.394")
    assert answer["billed"]["silence_s"] == Decimal(silence)
    assert answer["anomalies"] == []


FULL_DEFAULT_CARD = """{"name": "default",
 "rates": {"user": "60", "agent": "60", "silence": "60"},
 "silence": {"full_rate_first_s": 5, "factor_after": "0"},
 "increments": {"initial_s": 0, "subsequent_s": 0, "scope": "session"},
 "connection_fee": "0", "included_s": 0, "short_session_exemption_s": 0, "minimum_duration_s": 0,
 "minimum_charge": "0", "maximum_charge": null,
 "rounding": {"quantum": "0.000001", "mode": "half_even"},
 "measurement": {"heartbeat_interval_s": 30, "missed_heartbeats_tolerated": 1, "heartbeat_jitter_s": 15,
                 "charge_from": "origin"}}"""


def full_default_card() -> dict[str, Any]:
    card = loads(FULL_DEFAULT_CARD)
    assert isinstance(card, dict)
    return card


OPTIONAL_FIELDS = [
    ("silence",),
    ("silence", "full_rate_first_s"),
    ("silence", "factor_after"),
    ("increments",),
    ("increments", "initial_s"),
    ("increments", "subsequent_s"),
    ("increments", "scope"),
    ("connection_fee",),
    ("included_s",),
    ("short_session_exemption_s",),
    ("minimum_duration_s",),
    ("minimum_charge",),
    ("maximum_charge",),
    ("rounding",),
    ("rounding", "quantum"),
    ("rounding", "mode"),
    ("measurement",),
    ("measurement", "heartbeat_interval_s"),
    ("measurement", "missed_heartbeats_tolerated"),
    ("measurement", "heartbeat_jitter_s"),
    ("measurement", "charge_from"),
]


@pytest.mark.parametrize("path", OPTIONAL_FIELDS, ids="/".join)
def test_a_field_that_is_left_out_of_a_card_has_its_default(path: tuple[str, ...]) -> None:
    card = full_default_card()
    holder = card
    for name in path[:-1]:
        holder = holder[name]
    del holder[path[-1]]

    assert read_rate_card(card) == read_rate_card(full_default_card())


CHANGED_FIELDS = [
    ("rates/user", '"59"'),
    ("rates/agent", '"59.999999"'),
    ("rates/silence", '"0"'),
    ("silence/full_rate_first_s", "null"),
    ("silence/full_rate_first_s", "5.000001"),
    ("silence/factor_after", '"1"'),
    ("silence/factor_after", '"0.000001"'),
    ("increments/initial_s", "0.5"),
    ("increments/subsequent_s", "60"),
    ("increments/scope", '"type"'),
    ("connection_fee", '"0.000001"'),
    ("included_s", "1"),
    ("short_session_exemption_s", "1"),
    ("minimum_duration_s", "1"),
    ("minimum_charge", '"1"'),
    ("maximum_charge", '"0"'),
    ("rounding/quantum", '"0.01"'),
    ("rounding/mode", '"up"'),
    ("rounding/mode", '"down"'),
    ("measurement/heartbeat_interval_s", "10"),
    ("measurement/missed_heartbeats_tolerated", "0"),
    ("measurement/heartbeat_jitter_s", "0"),
    ("measurement/charge_from", '"first_heartbeat"'),
    ("measurement/charge_from", '"first_speech"'),
    ("measurement/charge_from", '"first_user_speech"'),
]


def changed(pointer: str, text: str) -> dict[str, Any]:
    card = full_default_card()
    *groups, name = pointer.split("/")
    holder = card
    for group in groups:
        holder = holder[group]
    holder[name] = loads(text)
    return card


@pytest.mark.parametrize(("pointer", "text"), CHANGED_FIELDS)
def test_every_field_of_a_card_is_read(pointer: str, text: str) -> None:
    assert read_rate_card(changed(pointer, text)) != read_rate_card(full_default_card())


REFUSED = [
    # unknown fields, at the top and nested
    ("colour", '"red"'),
    ("rates/tool", '"1"'),
    ("silence/cap", "5"),
    ("increments/step_s", "1"),
    ("rounding/places", "2"),
    ("measurement/grace_s", "2"),
    # null only means something for full_rate_first_s and maximum_charge
    ("name", "null"),
    ("rates", "null"),
    ("rates/agent", "null"),
    ("silence", "null"),
    ("silence/factor_after", "null"),
    ("increments", "null"),
    ("increments/initial_s", "null"),
    ("increments/scope", "null"),
    ("connection_fee", "null"),
    ("included_s", "null"),
    ("minimum_charge", "null"),
    ("rounding", "null"),
    ("rounding/quantum", "null"),
    ("measurement", "null"),
    ("measurement/heartbeat_interval_s", "null"),
    ("measurement/charge_from", "null"),
    # negatives
    ("rates/user", '"-1"'),
    ("silence/full_rate_first_s", "-1"),
    ("silence/factor_after", '"-0.5"'),
    ("increments/initial_s", "-1"),
    ("increments/subsequent_s", "-0.000001"),
    ("connection_fee", '"-0.000001"'),
    ("included_s", "-1"),
    ("short_session_exemption_s", "-1"),
    ("minimum_duration_s", "-1"),
    ("minimum_charge", '"-1"'),
    ("maximum_charge", '"-1"'),
    ("rounding/quantum", '"-0.01"'),
    ("measurement/heartbeat_interval_s", "-30"),
    ("measurement/missed_heartbeats_tolerated", "-1"),
    ("measurement/heartbeat_jitter_s", "-1"),
    # more than 6 decimals
    ("rates/silence", '"0.0000001"'),
    ("silence/full_rate_first_s", "5.0000001"),
    ("silence/factor_after", '"0.1234567"'),
    ("increments/subsequent_s", "0.0000001"),
    ("connection_fee", '"1.0000001"'),
    ("included_s", "1e-7"),
    ("maximum_charge", '"1.0000001"'),
    ("rounding/quantum", '"0.0000001"'),
    ("measurement/heartbeat_jitter_s", "0.0000001"),
    # money and factors are strings, durations are numbers
    ("rates/user", "60"),
    ("rates/user", "1.5"),
    ("silence/factor_after", "0.5"),
    ("connection_fee", "0"),
    ("minimum_charge", "0.1"),
    ("maximum_charge", "5"),
    ("rounding/quantum", "0.01"),
    ("silence/full_rate_first_s", '"5"'),
    ("increments/initial_s", '"1"'),
    ("included_s", '"0"'),
    ("measurement/heartbeat_interval_s", '"30"'),
    ("measurement/missed_heartbeats_tolerated", '"1"'),
    ("measurement/missed_heartbeats_tolerated", "1.5"),
    # what is no plain decimal, no finite number, no such choice, no such thing
    ("rates/user", '""'),
    ("rates/user", '" 1"'),
    ("rates/user", '"+1"'),
    ("rates/user", '"1e3"'),
    ("rates/user", '"NaN"'),
    ("rates/user", '"Infinity"'),
    ("rates/user", '"1_000"'),
    ("rates/user", '"\\u0661"'),
    ("included_s", "true"),
    ("included_s", "NaN"),
    ("included_s", "1e400"),
    ("connection_fee", "true"),
    ("increments/scope", '"minute"'),
    ("rounding/mode", '"half_up"'),
    ("measurement/charge_from", '"connect"'),
    ("name", "5"),
    ("name", '""'),
    ("rates", "[]"),
    ("rates", '"60"'),
    ("increments", "[]"),
    # limits of the rules themselves
    ("rounding/quantum", '"0"'),
    ("silence/factor_after", '"1.000001"'),
    ("silence/factor_after", '"2"'),
]


@pytest.mark.parametrize(("pointer", "text"), REFUSED)
def test_a_card_that_breaks_a_rule_is_refused_at_the_field_that_breaks_it(pointer: str, text: str) -> None:
    with pytest.raises(Problem) as refusal:
        read_rate_card(changed(pointer, text))

    assert refusal.value.status == 422
    assert [error.pointer for error in refusal.value.errors] == [f"/{pointer}"]
    assert all(error.detail for error in refusal.value.errors)


@pytest.mark.parametrize("missing", ["name", "rates", "rates/user", "rates/agent", "rates/silence"])
def test_a_card_without_its_name_or_a_rate_is_refused(missing: str) -> None:
    card = full_default_card()
    *groups, name = missing.split("/")
    del (card[groups[0]] if groups else card)[name]

    with pytest.raises(Problem) as refusal:
        read_rate_card(card)

    assert refusal.value.status == 422


def test_a_minimum_over_the_maximum_is_refused() -> None:
    card = full_default_card() | {"minimum_charge": "1.000001", "maximum_charge": "1"}

    with pytest.raises(Problem) as refusal:
        read_rate_card(card)

    assert refusal.value.status == 422


def test_a_minimum_equal_to_the_maximum_is_a_flat_price() -> None:
    card = read_rate_card(full_default_card() | {"minimum_charge": "1", "maximum_charge": "1"})

    assert card != read_rate_card(full_default_card())


@pytest.mark.parametrize("text", ["null", "[]", '"default"', "5", "true"])
def test_a_card_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(Problem) as refusal:
        read_rate_card(loads(text))

    assert refusal.value.status == 422
