"""What the demonstration's history is made of: the same for the same seed, and over by the present."""

import re
from collections import Counter

import pytest

from app.core.units import US_PER_DAY, Instant, parse_instant
from app.demo.people import PEOPLE, PERSONAS, TOPICS, scripts
from app.demo.plan import DAYS, Begin, Call, Deed, Pause, Weather, WhatIf, plan, talkers

PRESENT = parse_instant("2026-03-01T12:00:00Z")
DEEDS = plan(1, PRESENT)
BEGUN = [deed for deed in DEEDS if isinstance(deed, Begin)]
CALLS = [deed for deed in DEEDS if isinstance(deed, Call)]


def shape(deeds: list[Deed], present: Instant) -> list[tuple[int, str, str]]:
    """When before the present, and what; but for instants in bodies, which differ."""
    return [
        (present - deed.at, type(deed).__name__, getattr(deed, "user_id", getattr(deed, "path", ""))) for deed in deeds
    ]


def test_a_seed_gives_the_same_history_whenever_it_is_made() -> None:
    later = Instant(PRESENT + 17 * US_PER_DAY + 12_345_678_901)
    assert plan(1, PRESENT) == DEEDS
    assert shape(plan(1, later), later) == shape(DEEDS, PRESENT)
    assert shape(plan(2, PRESENT), PRESENT) != shape(DEEDS, PRESENT)


@pytest.mark.parametrize("seed", range(5))
def test_deeds_are_in_order_and_none_is_in_the_future_or_before_the_beginning(seed: int) -> None:
    deeds = plan(seed, PRESENT)
    times = [deed.at for deed in deeds]
    assert times == sorted(times)
    assert times[0] > PRESENT - (DAYS + 1) * US_PER_DAY
    assert times[-1] <= PRESENT


@pytest.mark.parametrize("seed", range(5))
def test_whoever_is_named_in_an_address_was_made_before(seed: int) -> None:
    made: set[str] = set()
    for deed in plan(seed, PRESENT):
        if isinstance(deed, Call):
            assert set(re.findall(r"{(.+?)}", deed.path)) <= made
        if isinstance(deed, Call | Begin) and deed.named:
            made.add(deed.named)
    assert {"refused", "never-came", "came-late", "outage", "waiting", "waiting-long"} <= made


def test_the_provider_knows_what_they_talk_about() -> None:
    known = scripts()
    for deed in BEGUN:
        assert deed.scenario in known
        assert deed.persona in PERSONAS
    assert {topic for person in PEOPLE for topic in person.topics} == set(TOPICS)


def test_there_is_something_of_everything() -> None:
    assert 300 <= len(BEGUN) <= 600
    assert 15 <= len({deed.user_id for deed in BEGUN}) <= 30
    kinds = Counter(type(deed) for deed in DEEDS)
    assert (kinds[Pause], kinds[WhatIf]) == (1, 1)
    assert kinds[Weather] == 3
    called = Counter(deed.path.rpartition("/")[2] for deed in CALLS)
    for what in ("grants", "void", "refund", "rerate", "adjustments", "review", "rate-cards", "settings"):
        assert called[what] >= 1, what
    assert {deed.met_by for deed in BEGUN} >= {"start.400", "start.500", "start.500_after"}
    expiring = [deed for deed in CALLS if deed.path.endswith("/grants") and (deed.body or {}).get("expires_at")]
    over = [deed for deed in expiring if parse_instant(str((deed.body or {})["expires_at"])) < PRESENT]
    assert len(over) > 10
    assert len(expiring) - len(over) > 10


def test_whoever_talks_at_the_end_has_begun_minutes_ago() -> None:
    found = talkers(1, PRESENT)
    assert len(found) >= 4
    assert all(isinstance(deed, Begin) and 0 < PRESENT - deed.at < 15 * 60 * 1_000_000 for deed in found)
    # However quickly the history is made, they come after it.
    assert max(deed.at for deed in DEEDS) < min(deed.at for deed in found)
