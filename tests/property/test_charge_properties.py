"""What holds for every charge, whatever the document (``docs/charging.md``)."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from app.core.lossless_json import JsonNumber
from tests.property.strategies import Drawn, choices, documents, timelines
from tests.reference.charging import SECOND, instant, instant_text, micros, normalise, read_card, usable_seconds
from tests.reference.compare import engine
from tests.reference.documents import S0, number

ZERO_SECONDS = ("0", "-0.0", "0e9", "1e-13", "0.0000000000009")
UNITS = 10**12
"""Segments are cut to 12 decimals, so that is how finely one can be split."""


def t0_of(answer: dict[str, Any]) -> int:
    return instant(answer["origin"]["at"])


def last_pull(body: dict[str, Any]) -> int:
    """The position of the snapshot that is rated."""
    pulls = body["snapshots"]
    return max(
        range(len(pulls)),
        key=lambda at: (instant(pulls[at]["received_at"]), instant(pulls[at]["requested_at"]), at),
    )


@given(documents())
def test_billed_and_unbilled_time_add_up_to_the_timeline(body: dict[str, Any]) -> None:
    answer = engine(body)

    assert answer["billed"]["total_s"] + sum(answer["not_billed"].values()) == answer["timeline_s"]
    parts = ("user_s", "agent_s", "silence_s", "reduced_rate_s")
    assert sum(answer["billed"][part] for part in parts) == answer["billed"]["total_s"]
    assert all(value > 0 for value in answer["not_billed"].values())


@given(documents())
def test_pieces_tile_the_timeline_and_add_up_to_the_sums(body: dict[str, Any]) -> None:
    answer = engine(body)
    at = Decimal(0)
    sums: dict[str, Decimal] = {}

    for piece in answer["pieces"]:
        assert piece["from_s"] == at
        assert piece["to_s"] > at
        assert piece["billed"] == (piece["reason"] is None) == (piece["factor"] != "0")
        at = piece["to_s"]
        name = piece["reason"] or "billed"
        sums[name] = sums.get(name, Decimal(0)) + piece["to_s"] - piece["from_s"]

    assert at == answer["timeline_s"]
    assert sums.pop("billed", Decimal(0)) == answer["billed"]["total_s"]
    assert sums == answer["not_billed"]


@given(documents())
def test_lines_add_up_to_the_amount_and_what_was_cut_off(body: dict[str, Any]) -> None:
    answer = engine(body)

    charged = Fraction(answer["amount"]) + Fraction(answer["beyond_authorization"])
    assert sum(Fraction(line["amount"]) for line in answer["lines"]) == charged
    assert [line["type"] for line in answer["lines"]].count("rounding") == 1


@given(documents())
def test_a_charge_is_never_negative_and_never_over_what_was_authorized(body: dict[str, Any]) -> None:
    answer = engine(body)

    assert Fraction(answer["amount"]) >= 0
    assert Fraction(answer["beyond_authorization"]) >= 0
    if body.get("authorized") is not None:
        assert Fraction(answer["amount"]) <= Fraction(body["authorized"])


@given(documents(), st.randoms(use_true_random=False))
def test_order_and_duplicates_of_heartbeats_change_nothing(body: dict[str, Any], random: Any) -> None:
    ticks = body["heartbeats"] + [tick for tick in body["heartbeats"] if random.random() < 0.5]
    random.shuffle(ticks)

    assert engine({**body, "heartbeats": ticks}) == engine(body)


@given(documents(), choices())
def test_heartbeats_before_the_start_request_change_nothing(body: dict[str, Any], choice: Drawn) -> None:
    early = [instant_text(S0 - choice.integer(1, choice.of((1, 100, 10**8)))) for _ in range(2)]

    assert engine({**body, "heartbeats": early + body["heartbeats"]}) == engine(body)


def split(choice: Drawn, values: list[object]) -> list[object]:
    """The same timeline in more segments: some in two, and some of no length in between."""
    result: list[object] = []
    for value in values:
        seconds = usable_seconds(value.get("seconds")) if isinstance(value, dict) else None
        if seconds is None or not isinstance(value, dict) or choice.integer(0, 1):
            result.append(value)
        else:
            whole = int(seconds * UNITS)
            first = choice.of((choice.integer(0, whole), choice.integer(0, whole // 10**6) * 10**6))
            result += [{**value, "seconds": number(part, 12)} for part in (first, whole - first)]
        if choice.integer(0, 3) == 0:
            kind = choice.of(("user", "agent", "silence", "tool", None))
            result.append({"type": kind, "seconds": JsonNumber(choice.of(ZERO_SECONDS))})
    return result


@given(documents(), choices())
def test_splitting_segments_and_adding_empty_ones_changes_nothing(body: dict[str, Any], choice: Drawn) -> None:
    pulls = [{**pull, "values": split(choice, pull["values"])} for pull in body["snapshots"]]
    card = read_card(body["rate_card"]) if "rate_card" in body else None
    limit = body.get("time_limit_s")

    def seen(answer: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in answer.items() if key != "pieces"}
        if limit is not None:
            # What begins after limit + G is dropped, and a second half may: an envelope means nothing beyond that.
            grace = card.tolerance if card is not None else 75 * SECOND
            end = Decimal(micros(limit) + grace) / SECOND
            kept["envelopes"] = [[start, min(stop, end)] for start, stop in kept["envelopes"]]
        return kept

    assert seen(engine({**body, "snapshots": pulls})) == seen(engine(body))


@given(documents(), choices())
def test_a_tail_of_silence_that_nothing_proves_costs_nothing_however_long_it_grows(
    body: dict[str, Any], choice: Drawn
) -> None:
    body = {key: value for key, value in body.items() if key != "interim"}
    pulls = list(body["snapshots"])
    at = last_pull(body)
    pull = pulls[at]
    sigma = normalise(pull["values"]).sigma
    t0 = t0_of(engine(body))
    # The session is over: nothing proves life beyond the end of this pull, ...
    body["heartbeats"] = [tick for tick in body["heartbeats"] if instant(tick) - t0 <= sigma]
    # ... and all that it shows has had the time to happen.
    assume(sigma <= instant(pull["received_at"]) - t0)
    growth = choice.of((1, SECOND, choice.integer(1, 10**6 * SECOND)))
    later = {
        "requested_at": instant_text(instant(pull["requested_at"]) + growth),
        "received_at": instant_text(instant(pull["received_at"]) + growth),
        "values": [*pull["values"], {"type": "silence", "seconds": number(growth)}],
    }

    before, after = engine(body), engine({**body, "snapshots": [*pulls, later]})

    same = ("amount", "beyond_authorization", "billed", "lines", "envelopes", "anomalies")
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert after["origin"]["at"] == before["origin"]["at"]
    grown = {
        reason: after["not_billed"].get(reason, Decimal(0)) - before["not_billed"].get(reason, Decimal(0))
        for reason in after["not_billed"].keys() | before["not_billed"].keys()
    }
    moved = {reason: seconds for reason, seconds in grown.items() if seconds}
    assert sum(moved.values()) == Decimal(growth) / SECOND
    assert moved.keys() <= {"after_last_proof", "after_time_limit"}
    assert all(seconds > 0 for seconds in moved.values())


@given(documents(), choices())
def test_a_further_heartbeat_never_lowers_the_billed_time_of_any_type(body: dict[str, Any], choice: Drawn) -> None:
    if "rate_card" in body:
        body["rate_card"] = {key: value for key, value in body["rate_card"].items() if key != "measurement"}
    before = engine(body)
    edges = [instant(before["origin"]["at"]), *(instant(tick) for tick in body["heartbeats"])]
    at = choice.of(edges) + choice.of((0, 1, -1, 75 * SECOND, choice.integer(-SECOND, 200 * SECOND)))

    after = engine({**body, "heartbeats": [*body["heartbeats"], instant_text(at)]})

    for kind, seconds in before["billed"].items():
        assert after["billed"][kind] >= seconds, kind
    assert Fraction(after["amount"]) >= Fraction(before["amount"])


@given(documents())
def test_the_same_document_has_the_same_answer(body: dict[str, Any]) -> None:
    assert engine(body) == engine(body)


@given(documents())
def test_an_interim_charge_bills_none_of_the_silence_that_the_timeline_ends_in(body: dict[str, Any]) -> None:
    answer = engine({**body, "interim": True})

    if answer["pieces"] and answer["pieces"][-1]["type"] == "silence":
        assert answer["pieces"][-1]["reason"] == "open_segment"
    assert answer["timeline_s"] == engine({**body, "interim": False})["timeline_s"]


@given(documents(), choices(), st.data())
def test_only_the_last_snapshot_is_rated_and_earlier_ones_only_align(
    body: dict[str, Any], choice: Drawn, data: st.DataObject
) -> None:
    """Another earlier pull that fits the same origin no tighter changes nothing but the words about alignment."""
    answer = engine(body)
    at = last_pull(body)
    received = instant(body["snapshots"][at]["received_at"])
    values = data.draw(timelines(body.get("rate_card", {"rates": {"user": "1", "agent": "1", "silence": "1"}})))
    late = t0_of(answer) + normalise(values).sigma + choice.integer(0, 10 * SECOND)
    assume(late < received)
    pull = {"requested_at": instant_text(late), "received_at": instant_text(late), "values": values}

    with_it = engine({**body, "snapshots": [pull, *body["snapshots"]]})

    free = ("anomalies", "origin")
    assert {k: v for k, v in with_it.items() if k not in free} == {k: v for k, v in answer.items() if k not in free}
    assert with_it["origin"]["at"] == answer["origin"]["at"]
    assert set(with_it["anomalies"]) - {"timeline_shrank"} == set(answer["anomalies"]) - {"timeline_shrank"}
