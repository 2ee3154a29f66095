"""What pages of prices say: examples, versions side by side, bars of a distribution."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from app.core.lossless_json import JsonNumber, loads
from app.core.rate_card import DEFAULT_RATE_CARD, RateCard
from app.core.units import Instant, MicroCredits, Micros, parse_credits
from app.documents import validate
from app.errors import Problem
from app.pricing.cards import StoredCard
from app.pricing.documents import RateCardDocument
from app.pricing.examples import GUIDE, TALK, explain_conversation, hour_at_most
from app.web.forms import Form, errors_by_field
from app.web.price_terms import FIELDS, NAME, TERMS
from app.web.rate_cards import (
    Cell,
    as_text,
    chosen_for,
    compare,
    read_text,
    typed_card,
    versions_address,
)
from app.web.rendering import shortened
from app.web.what_if import Simulate, bars, percent
from tests.unit.test_charging_examples import GUIDE as MANUAL

ODD_CARD = RateCard(
    name="odd </script> ☎",
    user_rate=MicroCredits(1),
    agent_rate=parse_credits("9999999.999999"),
    silence_rate=MicroCredits(0),
    full_rate_first=None,
    factor_after=1,
    initial=Micros(1),
    subsequent=Micros(10_000_000),
    included=Micros(100_000_000),
    maximum_charge=parse_credits("1000000"),
    minimum_charge=parse_credits("0.000001"),
    missed_heartbeats_tolerated=1_000_000,
)


def test_the_guides_talk_is_the_manuals_and_costs_what_the_document_says() -> None:
    assert [(kind, parse_credits(length) // 1000) for kind, length in MANUAL] == list(GUIDE.segments)
    explained = explain_conversation(GUIDE, DEFAULT_RATE_CARD)
    assert explained["amount"] == "21.571"
    assert {str(why): str(time) for why, time in explained["not_billed"].items()} == {
        "silence_cap": "68.429",
        "after_last_proof": "763381.084",
    }


def test_the_typical_talk_lasts_five_minutes() -> None:
    assert sum(length for _, length in TALK.segments) == 300_000
    # 13 turns: the user 6.4 s, the agent 11.7, silences 1.1 and 0.8, of the two long ones 5 s each.
    assert explain_conversation(TALK, DEFAULT_RATE_CARD)["amount"] == "268.4"
    uncapped = replace(DEFAULT_RATE_CARD, full_rate_first=None)
    assert explain_conversation(TALK, uncapped)["amount"] == "300"
    assert hour_at_most(DEFAULT_RATE_CARD) == "3600"


@pytest.mark.parametrize("card", [DEFAULT_RATE_CARD, ODD_CARD], ids=lambda card: card.name)
def test_a_card_comes_out_of_the_editor_as_it_went_in(card: RateCard) -> None:
    typed = typed_card(card)
    form = Form(typed.items())
    document = form.document((NAME, *(term.field for term in TERMS)))
    assert validate(RateCardDocument, document).card() == card
    assert read_text(as_text(card)) == card


def test_the_editor_has_every_term_of_a_card() -> None:
    assert {NAME.name, *(term.field.name for term in TERMS)} == {*typed_card(DEFAULT_RATE_CARD), "maximum_charge"}
    assert len({field.label for field in FIELDS}) == len(FIELDS)
    assert len({term.label for term in TERMS}) == len(TERMS)


def test_rates_that_are_all_missing_are_each_told() -> None:
    with pytest.raises(Problem) as raised:
        validate(RateCardDocument, {"name": "x"})
    by_field, others = errors_by_field(raised.value, FIELDS)
    assert by_field == dict.fromkeys(("rates.user", "rates.agent", "rates.silence"), "is required")
    assert others == []


def stored(version: int, effective_at: int, **terms: Any) -> StoredCard:
    return StoredCard(
        id=UUID(int=version),
        version=version,
        card=replace(DEFAULT_RATE_CARD, name="x", **terms),
        effective_at=Instant(effective_at),
        match_persona=None,
        match_scenario="night" if version > 2 else None,
        created_at=Instant(version),
    )


def test_versions_are_compared_with_the_one_before() -> None:
    first, second, third = stored(1, 10), stored(2, 20, included=Micros(1_000_000)), stored(3, 90)
    table = compare("x", [third, second], first, second, Instant(50), whole=False, total=3)
    assert [column.state for column in table.columns] == ["scheduled", "in force"]
    rows = dict(table.rows)
    assert rows["Included"] == [Cell("0 s", "1 s"), Cell("1 s", "0 s")]
    assert rows["Chosen for"] == [
        Cell("scenario “night”", "users who have it as their own"),
        Cell("users who have it as their own"),
    ]
    assert rows["Silence, a minute"] == [Cell("60"), Cell("60")]
    assert (len(rows), table.left_out) == (5, len(TERMS) - 4)
    assert not table.hidden
    whole = compare("x", [third], second, second, Instant(50), whole=True, total=3)
    assert (len(whole.rows), whole.left_out, whole.hidden) == (len(TERMS) + 1, 0, True)
    alone = compare("x", [first], None, None, Instant(5), whole=True, total=1)
    assert all(cell.was is None for _, cells in alone.rows for cell in cells)


def test_for_whom_a_card_is_chosen() -> None:
    assert chosen_for(None, None, "default") == "all that no other card fits"
    assert chosen_for("p", "s", "default") == "persona “p” and scenario “s”"
    assert versions_address("../new?a=b&c") == "/admin/rate-cards/versions?name=..%2Fnew%3Fa%3Db%26c"


@pytest.mark.parametrize(
    ("before", "difference", "told"),
    [
        ("100", "4.24", "+4.2 %"),
        ("100", "-50", "−50.0 %"),
        ("3", "0", "±0.0 %"),
        ("0", "5", ""),
        ("1", "99", "+9,900.0 %"),
    ],
)
def test_changes_in_percent(before: str, difference: str, told: str) -> None:
    assert percent(before, difference) == told


def test_bars_are_in_proportion_and_none_is_invisible() -> None:
    def row(direction: str, near: int | None, far: int | None, sessions: int) -> dict[str, Any]:
        return {
            "direction": direction,
            "from_percent": near,
            "to_percent": far,
            "sessions": sessions,
            "difference": "0",
        }

    found = bars(
        [
            row("lower", -100, -50, 1),
            row("lower", -5, 0, 0),
            row("unchanged", 0, 0, 500),
            row("higher", 0, 5, 250),
            row("higher", 5, 10, 0),
            row("higher", 100, None, 0),
            row("free_before", None, None, 0),
        ]
    )
    assert [bar.width for bar in found] == [1, 0, 100, 50, 0, 0, 0]
    assert [bar.label for bar in found] == [
        "50 to 100 % less", "up to 5 % less", "the same", "up to 5 % more", "5 to 10 % more", "over 100 % more",
        "free before",
    ]  # fmt: skip
    assert [bar.width for bar in bars([row("unchanged", 0, 0, 0)])] == [0]


def test_amounts_of_lines_are_told_to_the_micro_credit() -> None:
    assert [shortened(one) for one in ("6.895833333333", "-0.000000333333", "1200", "10.5")] == [
        "6.895833", "0", "1,200", "10.5",
    ]  # fmt: skip


def test_a_draft_in_an_address_keeps_its_digits() -> None:
    draft = loads(as_text(ODD_CARD))
    assert isinstance(draft, dict)
    assert type(draft["increments"]["initial_s"]) is JsonNumber
    assert Simulate.confirmed is False
