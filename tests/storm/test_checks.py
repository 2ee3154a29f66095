"""The checks find what they are for: a storm without fault, doctored in one place at a time."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from app.core.lossless_json import JsonNumber
from app.simulator.faults import KNOWN
from tests.simulation.charging import Pull
from tests.storm.checks import CARDS, CHECKS, most_called
from tests.storm.facts import Beat, Call, Facts, Stored, Told, Truth
from tests.storm.weather import FAULTS, PULL_FAILS, START_AMBIGUOUS, never_struck

S = 1_000_000
T0 = 1_700_000_000 * S
"""The agent speaks for 10 s, is silent until it leaves at 40 s; a heartbeat that is due at 30 s arrives at 31 s."""

TRUTH = Truth(
    id="there",
    persona="s-1",
    connected_at=T0,
    left_at=T0 + 40 * S,
    said=(("agent", T0, T0 + 10 * S),),
    beats=(
        Beat(T0 + 30 * S, T0 + 30 * S, T0 + 31 * S, 204),
        Beat(T0 + 30 * S, None, None, None, "lost"),
    ),
    spoilt=False,
)


def piece(kind: str, start: int, end: int, *, billed: bool) -> dict[str, Any]:
    return {"type": kind, "from_s": JsonNumber(str(start)), "to_s": JsonNumber(str(end)), "billed": billed}


STORED = Stored(
    id="ses_1",
    persona="s-1",
    provider_id="there",
    state="settled",
    why="the final timeline is in",
    requested_at=T0,
    time_limit=60 * S,
    authorized=60 * S,
    charged=15 * S,
    leakage=0,
    charge_from=None,
    card="default",
    hold_active=False,
    heartbeats=(T0 + 30 * S + 500,),
    charge_entries=1,
    entries_sum=-15 * S,
    charge={
        "amount": "15",
        "rate_card": CARDS["default"],
        "heartbeats": ["2023-11-14T22:13:50.000500Z"],
        "pieces": [
            piece("agent", 0, 10, billed=True),
            piece("silence", 10, 15, billed=True),
            piece("silence", 15, 120, billed=False),
        ],
    },
    pulls=(Pull(T0 + 120 * S, T0 + 120 * S, (("agent", Fraction(10)), ("silence", Fraction(110)))),),
)
FACTS = Facts(
    truths=(TRUTH,),
    stored=(STORED,),
    calls=tuple(Call(T0 + number * S // 2, "timeline", "there", None, ours=True) for number in range(200)),
    told=(Told("s-1", "started", "ses_1"),),
    granted=100 * S,
    grant_entries=100 * S,
    rate=2,
    speed=1,
)


def stored(**changes: Any) -> Facts:
    return replace(FACTS, stored=(replace(STORED, **changes),))


def truth(**changes: Any) -> Facts:
    return replace(FACTS, truths=(replace(TRUTH, **changes),))


def charge(**changes: Any) -> Facts:
    assert STORED.charge is not None
    return stored(charge={**STORED.charge, **changes})


def dearer(amount: int, **changes: Any) -> Facts:
    facts = charge(amount=str(amount))
    return replace(facts, stored=(replace(facts.stored[0], charged=amount * S, entries_sum=-amount * S, **changes),))


DOCTORED: dict[str, list[Callable[[], Facts]]] = {
    "settled, failed or in review for a reason": [
        lambda: stored(state="live"),
        lambda: stored(state="review", why=""),
    ],
    "no hold left": [lambda: stored(hold_active=True), lambda: stored(state="review", hold_active=True)],
    "charged as the evidence says": [
        lambda: dearer(16),
        lambda: dearer(14),
        lambda: stored(charge=None),
        lambda: stored(charged=16 * S),
        lambda: stored(authorized=14 * S),
        lambda: charge(rate_card={"rates": {"user": "60", "agent": "61", "silence": "60"}}),
    ],
    "no silence billed after the death": [
        # It died a microsecond too early for what is billed, and its last heartbeat was there by then.
        lambda: truth(left_at=T0 + 15 * S - 1, beats=()),
        lambda: truth(left_at=T0 + 14 * S, beats=(Beat(T0 + 13 * S, T0 + 13 * S, T0 + 15 * S - 1, 204),)),
        lambda: charge(pieces=[piece("silence", 30, 45, billed=True)]),
    ],
    "within the bounds of the truth": [
        lambda: truth(said=(("agent", T0, T0 + 2 * S),)),
        lambda: truth(said=(("agent", T0, T0 + 30 * S),)),
        lambda: truth(left_at=T0 + 12 * S, beats=()),
    ],
    "nothing twice": [
        lambda: replace(FACTS, truths=(TRUTH, replace(TRUTH, id="again"))),
        lambda: replace(FACTS, stored=(STORED, replace(STORED, id="ses_2"))),
        lambda: stored(charge_entries=2),
        lambda: stored(entries_sum=-30 * S),
        lambda: stored(state="failed", charged=None),
    ],
    "nothing acknowledged is lost": [
        lambda: replace(FACTS, stored=()),
        lambda: replace(FACTS, told=(Told("s-2", "started", "ses_2"),)),
        lambda: replace(FACTS, told=(Told("s-1", "open", "ses_2"),)),
        lambda: replace(FACTS, grant_entries=99 * S),
        lambda: stored(heartbeats=()),
        lambda: stored(heartbeats=(T0 + 29 * S,)),
        lambda: stored(heartbeats=(T0 + 30 * S, T0 + 30 * S)),
        lambda: stored(provider_id=None),
        lambda: stored(provider_id="elsewhere"),
        lambda: stored(state="failed"),
    ],
    "the provider's rate is kept": [
        lambda: replace(FACTS, calls=(*FACTS.calls, *FACTS.calls)),
        lambda: replace(FACTS, calls=(FACTS.calls[0],) * 3),
    ],
}


def test_facts_in_order_pass() -> None:
    assert {name: list(check(FACTS)) for name, check in CHECKS.items()} == {name: [] for name in CHECKS}


def test_each_check_is_tried() -> None:
    assert DOCTORED.keys() == CHECKS.keys()


@pytest.mark.parametrize(("name", "doctored"), [(name, one) for name, many in DOCTORED.items() for one in many])
def test_a_check_finds_what_is_doctored(name: str, doctored: Callable[[], Facts]) -> None:
    assert list(CHECKS[name](doctored()))


def test_a_delayed_heartbeat_proves_life_until_it_came_and_no_longer() -> None:
    died = T0 + 14 * S
    late = truth(left_at=died, beats=(Beat(T0 + 13 * S, T0 + 13 * S, T0 + 15 * S, 204),))
    assert not list(CHECKS["no silence billed after the death"](late))
    refused = truth(left_at=died, beats=(Beat(T0 + 13 * S, T0 + 13 * S, T0 + 15 * S, 404),))
    assert list(CHECKS["no silence billed after the death"](refused))


def test_what_others_ask_the_provider_is_not_counted() -> None:
    others = tuple(replace(call, ours=False) for call in FACTS.calls)
    assert not list(CHECKS["the provider's rate is kept"](replace(FACTS, calls=(*FACTS.calls, *others))))
    assert most_called(FACTS.calls) == {1: 2, 5: 10, 20: 40, 60: 120}


def test_the_weather_is_as_bad_as_it_is_said_to_be() -> None:
    assert FAULTS.keys() == KNOWN.keys()
    assert sum(float(FAULTS[f"start.{kind}"]) for kind in START_AMBIGUOUS) == pytest.approx(0.05)
    assert {FAULTS[f"timeline.{kind}"] for kind in PULL_FAILS} == {"0.1"}
    assert {FAULTS[f"heartbeat.{kind}"] for kind in ("lost", "doubled", "late")} == {"0.1"}


def test_a_calm_is_no_storm() -> None:
    all_struck = dict.fromkeys(FAULTS, 1)
    for name in FAULTS:
        assert never_struck({**all_struck, name: 0}, all_of_them=True) == [name]
    assert "heartbeat.late" in never_struck({**all_struck, "heartbeat.late": 0}, all_of_them=False)
    assert never_struck({}, all_of_them=False)
    assert not never_struck(all_struck, all_of_them=False)
