"""Levels of alert and their edges; calendar periods of spending."""

import pytest

from app.core.alerts import Level, Signal, Thresholds, level_of, signals
from app.core.spending import Period, Spending, end_of, start_of
from app.core.units import MicroCredits, format_instant, parse_instant

OK, LOW, DEPLETED = Level.OK, Level.LOW, Level.DEPLETED


def thresholds(low: int | None = 100, depleted: int = 30) -> Thresholds:
    return Thresholds(None if low is None else MicroCredits(low), MicroCredits(depleted))


LEVELS = [
    # before, balance, after
    (None, 100, OK), (None, 99, LOW), (None, 29, DEPLETED), (None, -5, DEPLETED),
    (OK, 100, OK), (OK, 99, LOW), (OK, 30, LOW), (OK, 29, DEPLETED),
    (LOW, 119, LOW), (LOW, 120, OK), (LOW, 30, LOW), (LOW, 29, DEPLETED),
    (DEPLETED, 35, DEPLETED), (DEPLETED, 36, LOW), (DEPLETED, 119, LOW), (DEPLETED, 120, OK),
]  # fmt: skip


@pytest.mark.parametrize(("before", "balance", "after"), LEVELS)
def test_levels_fall_at_the_threshold_and_rise_at_a_fifth_more(
    before: Level | None, balance: int, after: Level
) -> None:
    assert level_of(before, MicroCredits(balance), thresholds()) is after


def test_without_a_threshold_there_is_no_low() -> None:
    for before in (None, *Level):
        assert level_of(before, MicroCredits(40), thresholds(None)) is OK


SIGNALS = [
    (None, DEPLETED, 0, 100, []),
    (OK, OK, 200, 100, []),
    (OK, LOW, 99, 100, [Signal.LOW]),
    (OK, DEPLETED, 29, 100, [Signal.LOW, Signal.DEPLETED]),
    (OK, DEPLETED, 29, None, [Signal.DEPLETED]),
    (OK, DEPLETED, 29, 20, [Signal.DEPLETED]),
    (LOW, DEPLETED, 29, 100, [Signal.DEPLETED]),
    (DEPLETED, LOW, 40, 100, [Signal.RECOVERED]),
    (DEPLETED, OK, 200, 100, [Signal.RECOVERED]),
    (DEPLETED, OK, 200, None, [Signal.RECOVERED]),
    (LOW, OK, 200, 100, [Signal.RECOVERED]),
    (LOW, OK, 50, None, []),
]


@pytest.mark.parametrize(("before", "after", "balance", "low", "said"), SIGNALS)
def test_only_edges_are_said(
    before: Level | None, after: Level, balance: int, low: int | None, said: list[Signal]
) -> None:
    assert signals(before, after, MicroCredits(balance), thresholds(low)) == said


PERIODS = [
    (Period.DAY, "2026-03-01T12:00:00Z", "2026-03-01T00:00:00.000000Z", "2026-03-02T00:00:00.000000Z"),
    (Period.DAY, "2026-03-01T00:00:00Z", "2026-03-01T00:00:00.000000Z", "2026-03-02T00:00:00.000000Z"),
    (Period.DAY, "2026-02-28T23:59:59.999999Z", "2026-02-28T00:00:00.000000Z", "2026-03-01T00:00:00.000000Z"),
    (Period.MONTH, "2026-03-31T12:00:00Z", "2026-03-01T00:00:00.000000Z", "2026-04-01T00:00:00.000000Z"),
    (Period.MONTH, "2026-12-31T23:59:59.999999Z", "2026-12-01T00:00:00.000000Z", "2027-01-01T00:00:00.000000Z"),
    (Period.MONTH, "2028-02-29T00:00:00Z", "2028-02-01T00:00:00.000000Z", "2028-03-01T00:00:00.000000Z"),
]


@pytest.mark.parametrize(("period", "now", "begun", "ends"), PERIODS)
def test_periods_are_those_of_the_calendar(period: Period, now: str, begun: str, ends: str) -> None:
    assert format_instant(start_of(period, parse_instant(now))) == begun
    assert format_instant(end_of(period, parse_instant(now))) == ends


@pytest.mark.parametrize(
    ("charged", "held", "room"), [(0, 0, 100), (60, 30, 10), (60, 40, 0), (90, 40, 0), (-5, 0, 105)]
)
def test_what_runs_counts_with_all_that_it_holds(charged: int, held: int, room: int) -> None:
    spent = Spending(Period.DAY, MicroCredits(100), MicroCredits(charged), MicroCredits(held))
    assert spent.room == room
