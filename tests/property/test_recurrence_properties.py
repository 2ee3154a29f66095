"""The arithmetic of periods, held against the calendar."""

from calendar import monthrange
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.recurrence import Period, first_from, period_start
from app.core.units import US_PER_DAY, Instant, datetime_of, instant_of

anchors = st.integers(0, 4_102_444_800_000_000).map(Instant)
periods = st.sampled_from(Period)
numbers = st.integers(0, 2000)


def at(text: str) -> Instant:
    return instant_of(datetime.fromisoformat(text).replace(tzinfo=UTC))


@pytest.mark.parametrize(
    ("anchor", "period", "starts"),
    [
        ("2026-01-31T12:00:00", Period.MONTH, ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"]),
        ("2027-12-30T12:00:00", Period.MONTH, ["2027-12-30", "2028-01-30", "2028-02-29", "2028-03-30"]),
        ("2028-02-29T12:00:00", Period.YEAR, ["2028-02-29", "2029-02-28", "2030-02-28", "2031-02-28", "2032-02-29"]),
        ("2100-01-31T12:00:00", Period.MONTH, ["2100-01-31", "2100-02-28"]),
        ("2026-02-27T12:00:00", Period.DAY, ["2026-02-27", "2026-02-28", "2026-03-01"]),
        ("2026-12-28T12:00:00", Period.WEEK, ["2026-12-28", "2027-01-04"]),
    ],
)
def test_periods_begin_on_the_anchors_day(anchor: str, period: Period, starts: list[str]) -> None:
    found = [period_start(at(anchor), period, n) for n in range(len(starts))]
    assert found == [at(f"{start}T12:00:00") for start in starts]


@given(anchors, periods, numbers)
def test_they_follow_each_other_and_keep_the_time_of_day(anchor: Instant, period: Period, n: int) -> None:
    start, following = period_start(anchor, period, n), period_start(anchor, period, n + 1)
    assert start is not None
    assert following is not None
    assert start < following
    assert (start - anchor) % US_PER_DAY == 0
    length = timedelta(microseconds=following - start).days
    assert (
        length in {Period.DAY: {1}, Period.WEEK: {7}, Period.MONTH: {28, 29, 30, 31}, Period.YEAR: {365, 366}}[period]
    )


@given(anchors, st.sampled_from([Period.MONTH, Period.YEAR]), numbers)
def test_a_short_month_moves_nothing_but_itself(anchor: Instant, period: Period, n: int) -> None:
    first, start = datetime_of(anchor), period_start(anchor, period, n)
    assert start is not None
    found = datetime_of(start)
    months = n * (12 if period is Period.YEAR else 1)
    assert (found.year * 12 + found.month) - (first.year * 12 + first.month) == months
    assert found.day == min(first.day, monthrange(found.year, found.month)[1])


@given(anchors, periods, numbers, st.integers(-(10**12), 10**12), st.integers(0, 50))
def test_the_first_from_an_instant_is_the_first(
    anchor: Instant, period: Period, n: int, aside: int, least: int
) -> None:
    start = period_start(anchor, period, n)
    assert start is not None
    instant = Instant(start + aside)
    found = first_from(anchor, period, instant, least)
    assert found >= least
    begins = period_start(anchor, period, found)
    assert begins is not None
    assert begins >= instant or found == least
    if found > least:
        before = period_start(anchor, period, found - 1)
        assert before is not None
        assert before < instant


def test_there_are_no_periods_after_the_last_year() -> None:
    assert period_start(at("9999-12-31T00:00:00"), Period.DAY, 1) is None
    assert period_start(at("9999-12-31T00:00:00"), Period.MONTH, 1) is None
    assert period_start(at("9990-06-01T00:00:00"), Period.YEAR, 9) == at("9999-06-01T00:00:00")
    assert period_start(at("9990-06-01T00:00:00"), Period.YEAR, 10) is None
    assert first_from(at("9999-12-01T00:00:00"), Period.MONTH, at("9999-12-31T00:00:00")) == 1
