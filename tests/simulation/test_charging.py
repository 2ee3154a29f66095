"""The auditor's charges: the worked examples of ``docs/charging.md``, the reference, and what holds of any world."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.lossless_json import JsonNumber, dumps
from tests.property.strategies import cards, documents
from tests.reference import charging as reference
from tests.reference.documents import Seeded, document
from tests.simulation.charging import (
    BILLED,
    CREDIT,
    SECOND,
    Axis,
    Card,
    Pull,
    Verdict,
    card_of,
    charge,
    ground_truth_bounds,
    over_at,
)

CASES = int(os.environ.get("AUDITOR_CASES", "200"))
"""How many documents are compared with the reference; a third as many examples for each property."""

SEED = int(os.environ.get("AUDITOR_SEED", "1"))

properties = settings(max_examples=max(1, CASES // 3), derandomize=True, deadline=None, database=None)

Segments = tuple[tuple[str, str], ...]

DEFAULT: dict[str, Any] = {"name": "default", "rates": {"user": "60", "agent": "60", "silence": "60"}}
UNCAPPED: dict[str, Any] = {**DEFAULT, "silence": {"full_rate_first_s": None}}
CAP_120: dict[str, Any] = {**DEFAULT, "silence": {"full_rate_first_s": 120}}


def us(seconds: str) -> int:
    return int(Fraction(seconds) * SECOND)


# The worked examples (§11): true offset 0 is T0, and the request left 1.5 s before it

T0 = us("1769860800")
S0 = T0 - us("1.5")
ROUND_TRIP = us("0.04")

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
TWO_HOURS = " ".join(str(30 * k) for k in range(1, 241))


def pull(offset: str, segments: Segments, *, grows: bool = True) -> Pull:
    """What a pull shows at this offset: the segments, and silence up to now if the timeline still grows."""
    values = tuple((kind, Fraction(seconds)) for kind, seconds in segments)
    if grows:
        values = (*values, ("silence", Fraction(offset) - sum(seconds for _, seconds in values)))
    return Pull(T0 + us(offset) - ROUND_TRIP, T0 + us(offset) + ROUND_TRIP, values)


def charged(
    segments: Segments,
    ticks: str,
    card: Mapping[str, object],
    *,
    pulls: tuple[Pull, ...] = (),
    limit: str | None = None,
    authorized: str | None = None,
    interim: bool = False,
) -> Verdict:
    """The charge with ticks in seconds after T0, pulled an hour later and a minute after that."""
    return charge(
        card_of(card),
        requested_at=S0,
        time_limit=None if limit is None else us(limit),
        heartbeats=[T0 + us(tick) for tick in ticks.split()],
        pulls=pulls or (pull("3600", segments), pull("3660", segments)),
        authorized=None if authorized is None else int(Fraction(authorized) * CREDIT),
        interim=interim,
    )


# fmt: off
EXAMPLES = [
    # no., timeline, heartbeats, card, billed microseconds of user, agent, silence
    (1, CONV, "30 60", UNCAPPED, 9_000_000, 26_500_000, 24_460_000),
    (2, CONV, "30", UNCAPPED, 9_000_000, 26_500_000, 9_500_000),
    (4, TALK, "", UNCAPPED, 2_634_000, 7_400_000, 2_500_000),
    (5, (), "", UNCAPPED, 0, 0, 0),
    (7, AGENT_10, "30 60 120 150", UNCAPPED, 0, 10_000_000, 139_960_000),
    (8, AGENT_10, "30 60 150", UNCAPPED, 0, 10_000_000, 49_960_000),
    (9, GAP, "30 60 90 120 720 750", UNCAPPED, 5_000_000, 30_000_000, 114_960_000),
    (12, GHOST, TWO_HOURS, CAP_120, 3_000_000, 8_000_000, 120_000_000),
    (14, CONV, "60 30 30.2 30.4 60", UNCAPPED, 9_000_000, 26_500_000, 24_460_000),
    (17, CONV, "30 420", UNCAPPED, 9_000_000, 26_500_000, 9_500_000),
    (26, CONV_WITH_TOOL, "30 60", UNCAPPED, 9_000_000, 26_500_000, 17_460_000),
    (35, TINY, "30", UNCAPPED, 4, 1_000_000, 28_959_996),
]
# fmt: on


@pytest.mark.parametrize(("number", "segments", "ticks", "card", "user", "agent", "silence"), EXAMPLES)
def test_a_worked_example_bills_these_microseconds(
    number: int, segments: Segments, ticks: str, card: dict[str, Any], user: int, agent: int, silence: int
) -> None:
    verdict = charged(segments, ticks, card)

    assert verdict.billed == {"user": user, "agent": agent, "silence": silence, "reduced": 0}, number
    assert verdict.amount == user + agent + silence
    assert verdict.origin == T0 + ROUND_TRIP
    assert sum(verdict.not_billed.values()) == verdict.sigma - user - agent - silence


def test_example_3_a_tail_of_eight_days_costs_nothing() -> None:
    late = (pull("760320", CONV), pull("760380", CONV))

    assert charged(CONV, "30 60", UNCAPPED, pulls=late).billed == charged(CONV, "30 60", UNCAPPED).billed


def test_each_unbilled_microsecond_of_the_examples_has_its_reason() -> None:
    assert charged(GAP, "30 60 90 120 720 750", UNCAPPED).not_billed == {
        "no_proof_of_life": us("720") - ROUND_TRIP - us("119.96"),
        "after_last_proof": us("3660") - us("749.96"),
    }
    assert charged(CONV_WITH_TOOL, "30 60", UNCAPPED).not_billed == {
        "unknown_type": us("7"),
        "after_last_proof": us("3660") - us("59.96"),
    }
    assert charged(CONV, "30 60", DEFAULT, limit="50").not_billed == {
        "after_time_limit": us("3610"),
    }


def test_anomalies_of_the_examples() -> None:
    assert charged(CONV, "30 60", UNCAPPED).anomalies == frozenset()
    assert charged(CONV_WITH_TOOL, "30 60", UNCAPPED).anomalies == {"unknown_segment_type"}
    assert charged(GAP, "30", UNCAPPED).anomalies == {"unwitnessed_speech"}


@pytest.mark.parametrize(("before", "anomalies"), [("6", set()), ("6.000001", {"timeline_shrank"})])
def test_a_timeline_has_shrunk_if_over_a_second_of_speech_is_gone(before: str, anomalies: set[str]) -> None:
    pulls = (pull("100", (("user", before),)), pull("200", (("user", "5"),)))

    assert charged((), "", UNCAPPED, pulls=pulls).anomalies == anomalies


def test_seconds_are_cut_to_twelve_decimals_before_they_are_added() -> None:
    halves: Segments = (("user", "0.49999999999995"), ("user", "0.50000000000005"))

    assert charged((), "", UNCAPPED, pulls=(pull("1", halves, grows=False),)).sigma == SECOND - 1


def test_example_1_at_three_rates() -> None:
    card = {**UNCAPPED, "rates": {"user": "1.5", "agent": "3", "silence": "0.6"}}

    assert charged(CONV, "30 60", card).amount == 1_794_600


def test_the_ceiling_cuts_and_says_what_it_cut() -> None:
    verdict = charged(CONV, "30 60", UNCAPPED, authorized="59")

    assert (verdict.amount, verdict.beyond) == (59_000_000, 960_000)


# fmt: off
INCREMENTS = [
    # talk, rates of user and agent, increments, micro-credits
    ((("agent", "60.001"),), "60", "60", 1, 1, 61_000_000),
    ((("agent", "60.001"),), "60", "60", 6, 6, 66_000_000),
    ((("agent", "60.001"),), "60", "60", 60, 60, 120_000_000),
    ((("user", "60"), ("agent", "1")), "1", "60", 60, 60, 2_983_333),
    ((("agent", "1"), ("user", "60")), "1", "60", 60, 60, 2_983_333),
    ((("agent", "1"),), "1", "60", 60, 60, 1_983_333),
]
# fmt: on


@pytest.mark.parametrize(("talk", "user", "agent", "initial", "subsequent", "amount"), INCREMENTS)
def test_increments_add_time_at_the_lowest_price(
    talk: Segments, user: str, agent: str, initial: int, subsequent: int, amount: int
) -> None:
    card = {
        **UNCAPPED,
        "rates": {"user": user, "agent": agent, "silence": user},
        "increments": {"initial_s": initial, "subsequent_s": subsequent},
    }

    assert charged(talk, "", card).amount == amount


def test_a_frozen_timeline_is_charged_by_when_it_was_first_seen() -> None:
    frozen = pull("64", (("agent", "10"), ("silence", "25")), grows=False)
    late = charged((), "30", UNCAPPED, pulls=(frozen,))
    early = charged((), "30", UNCAPPED, pulls=(pull("20", AGENT_10), frozen))

    assert (late.origin - T0, late.amount) == (us("29.04"), us("10"))
    assert (early.origin - T0, early.amount) == (us("0.04"), us("29.96"))


def test_interim_leaves_out_all_adjacent_silence_at_the_end() -> None:
    segments: Segments = (("agent", "5"), ("silence", "1"), ("bad", "0"), ("silence", "1"))
    verdict = charged(segments, "30", UNCAPPED, pulls=(pull("10", segments),), interim=True)

    assert verdict.billed["agent"] == verdict.amount == us("5")
    assert verdict.not_billed == {"open_segment": us("5")}
    assert verdict.anomalies == frozenset()


# When it is over (§10)


@pytest.mark.parametrize(
    ("ticks", "limit", "after_t0"),
    [
        ("30 60", "600", "135"),  # the last heartbeat, 60 s, and G of 75 s
        ("30", "600", "120.04"),  # the last word at offset 45 s, which is 40 ms late on our clock
        ("", "600", "645.04"),  # never heard: the grace of 600 s instead of G
        ("", "100", "175.04"),  # the limit comes first
        ("30 60 90", "20", "95.04"),
    ],
)
def test_a_session_is_over_so_long_after_its_last_proof_of_life(ticks: str, limit: str, after_t0: str) -> None:
    verdict = charged(CONV, ticks, DEFAULT, limit=limit)
    over = over_at(
        verdict,
        card_of(DEFAULT),
        time_limit=us(limit),
        heard=bool(ticks),
        no_heartbeat_grace=us("600"),
    )

    assert over - T0 == us(after_t0)


# Cards (§9)


def test_what_a_card_leaves_out_has_its_default() -> None:
    assert card_of(DEFAULT) == card_of(
        {
            "name": "default",
            "rates": {"user": 60, "agent": Decimal(60), "silence": Fraction(60)},
            "silence": {"full_rate_first_s": 5, "factor_after": "0"},
            "increments": {"initial_s": 0, "subsequent_s": "0", "scope": "session"},
            "connection_fee": "0",
            "included_s": Decimal("0.000000"),
            "short_session_exemption_s": 0,
            "minimum_duration_s": 0,
            "minimum_charge": "0",
            "maximum_charge": None,
            "rounding": {"quantum": "0.000001", "mode": "half_even"},
            "measurement": {
                "heartbeat_interval_s": 30,
                "missed_heartbeats_tolerated": 1,
                "heartbeat_jitter_s": 15,
                "charge_from": "origin",
            },
        }
    )
    assert card_of(DEFAULT).gap == us("75")


@pytest.mark.parametrize("value", [Decimal("0.0000001"), 0.5, True, None])
def test_a_duration_that_is_not_exact_to_the_microsecond_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        card_of({**DEFAULT, "included_s": value})


# Painting


@given(st.integers(0, 12), st.lists(st.tuples(st.integers(-3, 15), st.integers(-3, 15), st.sampled_from("abc"))))
@properties
def test_an_axis_shows_what_was_painted_last(length: int, strokes: list[tuple[int, int, str]]) -> None:
    axis, cells = Axis(length), ["bare"] * length
    for start, end, label in strokes:
        axis.paint(start, end, label)
        cells = [label if start <= at < end else cell for at, cell in enumerate(cells)]

    shown = list(axis.stretches())
    assert [label for start, end, label in shown for _ in range(start, end)] == cells
    assert all(left[2] != right[2] for left, right in pairwise(shown))


# The reference


def pulled(body: Mapping[str, Any]) -> Pull:
    values: list[tuple[str | None, Fraction | None]] = []
    for segment in body["values"]:
        fields = segment if isinstance(segment, dict) else {}
        kind, seconds = fields.get("type"), fields.get("seconds")
        exact = seconds.decimal() if isinstance(seconds, JsonNumber) else None
        named = isinstance(kind, str) and not isinstance(kind, JsonNumber)
        values.append((kind if named else None, None if exact is None else Fraction(exact)))
    return Pull(reference.instant(body["requested_at"]), reference.instant(body["received_at"]), tuple(values))


def judged(
    body: Mapping[str, Any], *, heartbeats: Collection[str] | None = None, charge_from: str | None = None
) -> Verdict:
    """The auditor's charge of a preview's body."""
    limit, authorized = body.get("time_limit_s"), body.get("authorized")
    return charge(
        card_of(body.get("rate_card", DEFAULT)),
        requested_at=reference.instant(body["requested_at"]),
        time_limit=None if limit is None else us(limit),
        heartbeats=[reference.instant(text) for text in (body["heartbeats"] if heartbeats is None else heartbeats)],
        pulls=[pulled(each) for each in body["snapshots"]],
        authorized=None if authorized is None else int(Fraction(authorized) * CREDIT),
        charge_from=charge_from,
        interim=body.get("interim", False),
    )


def referred(body: dict[str, Any]) -> dict[str, object]:
    """The reference's answer in the auditor's words."""
    answer = reference.charge(body)
    billed = answer["billed"]
    return {
        "amount": int(Fraction(answer["amount"]) * CREDIT),
        "beyond": int(Fraction(answer["beyond_authorization"]) * CREDIT),
        "origin": reference.instant(answer["origin"]["at"]),
        "sigma": us(answer["timeline_s"]),
        "billed": {
            label: us(billed[name])
            for label, name in zip(BILLED, ("user_s", "agent_s", "silence_s", "reduced_rate_s"), strict=True)
        },
        "not_billed": {reason: us(seconds) for reason, seconds in answer["not_billed"].items()},
        "anomalies": frozenset(answer["anomalies"]),
        "last_proof": us(answer["envelopes"][-1][1]),
    }


def shown(verdict: Verdict) -> dict[str, object]:
    return {name: getattr(verdict, name) for name in Verdict.__slots__}


def test_the_auditor_and_the_reference_agree() -> None:
    for seed in range(SEED, SEED + CASES):
        body = document(Seeded(seed))
        for interim in (False, True):
            asked = {**body, "interim": interim}
            assert shown(judged(asked)) == referred(asked), f"seed {seed}: {dumps(asked)}"


@given(documents(), st.data())
@properties
def test_more_heartbeats_never_cost_less(body: dict[str, Any], data: st.DataObject) -> None:
    kept = (
        data.draw(st.lists(st.sampled_from(body["heartbeats"] or ["none"]), unique=True)) if body["heartbeats"] else []
    )
    body = {**body, "authorized": None}

    fewer = judged(body, heartbeats=kept, charge_from="origin")
    assert fewer.amount <= judged(body, charge_from="origin").amount


# Bounds


@dataclass(frozen=True)
class World:
    """What really happened: instants and lengths in microseconds.

    ``turns`` follow each other from ``began``; after them there is silence, until the provider closes the timeline at
    ``closed`` or for ever. The agent leaves after the last word.
    """

    began: int
    turns: tuple[tuple[str, int], ...]
    agent_left: int
    limit: int
    closed: int | None
    heartbeat_sent: tuple[int, ...]
    heartbeat_received: tuple[int, ...]
    looks: tuple[tuple[int, int, int], ...]
    """Pulls: when they were asked for, made up, and received; the last one shows all that was said."""

    tolerance: int

    def said(self) -> list[tuple[str, int, int]]:
        spans, at = [], self.began
        for kind, length in self.turns:
            spans.append((kind, at, at + length))
            at += length
        return spans

    def pulls(self) -> list[Pull]:
        return [Pull(asked, received, self._shown(at)) for asked, at, received in self.looks]

    def _shown(self, at: int) -> tuple[tuple[str, Fraction], ...]:
        at = at if self.closed is None else min(at, self.closed)
        *_, (_, _, quiet) = [("silence", self.began, self.began), *self.said()]
        spans = [*self.said(), ("silence", quiet, max(quiet, at))]
        return tuple((kind, Fraction(min(end, at) - start, SECOND)) for kind, start, end in spans if start < at)

    def charge(self, card: Card, *, interim: bool = False) -> Verdict:
        return charge(
            card,
            requested_at=S0,
            time_limit=self.limit,
            heartbeats=self.heartbeat_received,
            pulls=self.pulls(),
            authorized=None,
            interim=interim,
        )

    def bounds(self, card: Card, *, began: int | None = None) -> tuple[int, int]:
        return ground_truth_bounds(
            card,
            said=[span for span in self.said() if span[0] != "silence"],
            agent_left=self.agent_left,
            requested_at=S0,
            time_limit=self.limit,
            heartbeat_sent=self.heartbeat_sent,
            tolerance=self.tolerance,
            began=began,
        )


LENGTHS = st.one_of(
    st.integers(1, 10 * SECOND),
    st.integers(1, 200 * SECOND),
    st.sampled_from([1, us("5") - 1, us("5"), us("5") + 1, us("75"), us("75") + 1, us("700")]),
)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    tolerance = draw(st.sampled_from([0, 1, us("0.08"), us("2"), us("20")]))
    began = S0 + draw(st.integers(0, us("3")))
    turns = tuple(draw(st.lists(st.tuples(st.sampled_from(["user", "agent", "silence"]), LENGTHS), max_size=8)))
    quiet = began + sum(length for _, length in turns)
    agent_left = quiet + draw(st.one_of(st.just(0), LENGTHS))
    limit = draw(st.one_of(st.just(us("3600")), st.just(agent_left - began), st.integers(1, us("900"))))
    sent = tuple(range(began + draw(st.integers(0, us("30"))), agent_left + 1, us("30")))
    lost_from = draw(st.integers(0, len(sent)))
    arrived = draw(st.lists(st.sampled_from(sent), max_size=40)) if sent else []
    late = st.integers(0, tolerance)
    # The last pull is asked for after all else is known; how long ago the agent left by then is anybody's guess.
    final = agent_left + tolerance + draw(st.one_of(LENGTHS, st.just(0), st.just(us("763454.513"))))
    middle = draw(st.lists(st.integers(began, final - tolerance), max_size=3))
    looks = [
        (max(S0, at - asked), at, at + received)
        for at in [*middle, final]
        for asked in [draw(late)]
        for received in [draw(st.integers(0, tolerance - asked))]
    ]
    return World(
        began=began,
        turns=turns,
        agent_left=agent_left,
        limit=limit,
        closed=draw(st.one_of(st.none(), st.integers(agent_left, final))),
        heartbeat_sent=sent,
        heartbeat_received=tuple(at + draw(late) for at in (*sent[:lost_from], *arrived)),
        looks=tuple(looks),
        tolerance=tolerance,
    )


@given(worlds(), st.one_of(cards(), st.sampled_from([DEFAULT, UNCAPPED, CAP_120])))
@properties
def test_the_charge_lies_within_what_the_truth_allows(world: World, document: dict[str, Any]) -> None:
    card = card_of(document)
    least, most = world.bounds(card)
    least_known, most_known = world.bounds(card, began=world.began)

    assert least <= least_known <= world.charge(card).amount <= most_known <= most


@given(worlds(), cards(), st.integers(1, 4))
@properties
def test_an_accrued_charge_never_exceeds_what_the_truth_allows(
    world: World, document: dict[str, Any], seen: int
) -> None:
    card = card_of(document)
    so_far = replace(world, looks=world.looks[:seen])

    assert so_far.charge(card, interim=True).amount <= world.bounds(card, began=world.began)[1]


# Seconds after S0: the agent talks from 1 to 11 and the user from 31 to 36; at 100 the agent leaves.
SAID = [("agent", S0 + us("1"), S0 + us("11")), ("user", S0 + us("31"), S0 + us("36"))]


def bounds(
    card: dict[str, Any],
    *,
    said: list[tuple[str, int, int]] | None = None,
    sent: str = "31 61 91",
    limit: str = "3600",
    tolerance: str = "0",
    began: str | None = None,
) -> tuple[int, int]:
    """The bounds of the talk in micro-credits; all times in seconds, the instants after S0."""
    return ground_truth_bounds(
        card_of(card),
        said=SAID if said is None else said,
        agent_left=S0 + us("100"),
        requested_at=S0,
        time_limit=us(limit),
        heartbeat_sent=[S0 + us(text) for text in sent.split()],
        tolerance=us(tolerance),
        began=None if began is None else S0 + us(began),
    )


def credit(*amounts: int) -> tuple[int, ...]:
    return tuple(amount * CREDIT for amount in amounts)


# fmt: off
BOUNDS = [
    # card, limit, heartbeats sent, tolerance, least and most credits
    (DEFAULT, "3600", "31 61 91", "0", 15, 26),  # 1 s before the talk, and 5 s after each who spoke
    (DEFAULT, "3600", "", "0", 15, 21),  # the last word is the last sign of life
    (DEFAULT, "3600", "", "2", 15, 23),
    (UNCAPPED, "3600", "", "0", 15, 36),
    (UNCAPPED, "3600", "31 61 91", "0", 15, 91),
    (UNCAPPED, "3600", "31 61 91", "2", 15, 93),
    (UNCAPPED, "3600", "31 121", "2", 15, 102),  # nothing after the agent's end but the tolerance
    (UNCAPPED, "32", "31 61 91", "0", 11, 33),  # the limit ends from 32 to 33: the talk began from 0 to 1
]
# fmt: on


@pytest.mark.parametrize(("card", "limit", "sent", "tolerance", "least", "most"), BOUNDS)
def test_at_least_the_speech_and_at_most_all_silence_up_to_the_last_sign_of_life(
    card: dict[str, Any], limit: str, sent: str, tolerance: str, least: int, most: int
) -> None:
    assert bounds(card, limit=limit, sent=sent, tolerance=tolerance) == credit(least, most)


# fmt: off
TAKEN_AWAY = [
    ({"measurement": {"charge_from": "first_speech"}}, 15, 90),
    ({"measurement": {"charge_from": "first_user_speech"}}, 5, 60),
    ({"measurement": {"charge_from": "first_heartbeat"}}, 0, 91),  # all of them may be lost
    ({"short_session_exemption_s": 20}, 0, 91),
    ({"included_s": 12}, 3, 79),
    ({"connection_fee": "2", "maximum_charge": "40"}, 17, 40),
    ({"silence": {"full_rate_first_s": 5, "factor_after": "0.2"}}, 15, 39),  # silence: 11 s in full, 65 s at a fifth
]
# fmt: on


@pytest.mark.parametrize(("terms", "least", "most"), TAKEN_AWAY)
def test_bounds_know_what_a_card_takes_away_and_adds(terms: dict[str, Any], least: int, most: int) -> None:
    assert bounds({**UNCAPPED, **terms}) == credit(least, most)


def test_bounds_are_nearer_when_it_is_known_when_offset_0_was() -> None:
    assert bounds(UNCAPPED, began="1") == credit(15, 90)
    assert bounds(UNCAPPED, began="1", limit="32") == credit(12, 32)


def test_bounds_of_a_session_in_which_nobody_spoke() -> None:
    assert bounds(UNCAPPED, said=[]) == credit(0, 91)
    assert bounds(UNCAPPED, said=[], sent="", tolerance="9") == credit(0, 0)
    assert bounds({**UNCAPPED, "measurement": {"charge_from": "first_user_speech"}}, said=[]) == credit(0, 0)


def test_nothing_without_a_heartbeat_or_after_the_agent_left_is_sure_to_be_charged() -> None:
    assert bounds({**UNCAPPED, "measurement": {"charge_from": "first_heartbeat"}}, sent="") == credit(0, 0)
    assert bounds(UNCAPPED, said=[*SAID, ("user", S0 + us("95"), S0 + us("105"))])[0] == 20 * CREDIT


def test_the_truth_has_one_voice_at_a_time() -> None:
    with pytest.raises(ValueError, match="two at once"):
        bounds(DEFAULT, said=[*SAID, ("user", S0 + us("10"), S0 + us("12"))])
