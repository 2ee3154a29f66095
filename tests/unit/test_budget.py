"""Slices of the provider's rate: what the row gives, to whom, and what it does with impossible instants."""

import pytest

from app.core.budget import (
    CLOCKS_DIFFER,
    MARGIN,
    MAX_BLOCK,
    MAX_RATE,
    PERMIT_LASTS,
    REACH,
    NotNow,
    Permit,
    Purpose,
    Row,
    Slice,
    blocked_for,
    furthest,
    lease,
    most_at_once,
    next_count,
    spacing,
)
from app.core.units import US_PER_S, Instant, Micros

NOW = Instant(1_800_000_000 * US_PER_S)
BETWEEN = spacing(50)
NO_LEAD = Micros(0)


def at(seconds: float) -> Instant:
    return Instant(NOW + round(seconds * US_PER_S))


@pytest.mark.parametrize("rate", [1, 7, 50, MAX_RATE])
def test_the_permits_of_a_second_and_the_margin_are_the_rate(rate: int) -> None:
    assert spacing(rate) * rate >= US_PER_S + MARGIN
    assert (spacing(rate) - 1) * rate < US_PER_S + MARGIN
    assert (US_PER_S + PERMIT_LASTS) // spacing(rate) + 1 <= max(rate, 1)


def test_a_slice_begins_now_and_moves_the_row_past_it() -> None:
    assert lease(Row(at(-5)), NOW, BETWEEN, Purpose.PULL, 4, NO_LEAD) == Slice(NOW, 4, Row(Instant(NOW + 4 * BETWEEN)))


def test_a_slice_begins_where_the_last_one_ended() -> None:
    row = Row(at(0.5))
    assert lease(row, NOW, BETWEEN, Purpose.START, 1, NO_LEAD) == Slice(at(0.5), 1, Row(Instant(at(0.5) + BETWEEN)))


def test_a_process_that_needs_time_to_have_its_slice_gets_a_later_one() -> None:
    assert lease(Row(at(-5)), NOW, BETWEEN, Purpose.PULL, 1, Micros(70_000)) == Slice(
        at(0.07), 1, Row(Instant(at(0.07) + BETWEEN))
    )


@pytest.mark.parametrize("purpose", Purpose)
def test_each_purpose_has_its_reach(purpose: Purpose) -> None:
    edge = Row(Instant(NOW + REACH[purpose]))
    assert isinstance(lease(edge, NOW, BETWEEN, purpose, 1, NO_LEAD), Slice)
    beyond = Row(Instant(edge.next_at + 3))
    assert lease(beyond, NOW, BETWEEN, purpose, 1, NO_LEAD) == NotNow(wait=Micros(3))


def test_starts_reach_beyond_pages_and_pages_beyond_pulls() -> None:
    assert REACH[Purpose.START] > REACH[Purpose.PAGE] > REACH[Purpose.PULL]
    assert REACH[Purpose.START] > CLOCKS_DIFFER + most_at_once(BETWEEN) * BETWEEN


@pytest.mark.parametrize("purpose", Purpose)
def test_nobody_gets_a_permit_while_the_provider_wants_none(purpose: Purpose) -> None:
    row = Row(at(-5), at(7))
    assert lease(row, NOW, BETWEEN, purpose, 1, NO_LEAD) == NotNow(wait=Micros(7 * US_PER_S), blocked=True)
    assert isinstance(lease(row, at(7), BETWEEN, purpose, 1, NO_LEAD), Slice)


def test_a_block_longer_than_any_can_be_is_none() -> None:
    longest = Instant(NOW + MAX_BLOCK + CLOCKS_DIFFER)
    assert blocked_for(Row(NOW, longest), NOW) == MAX_BLOCK + CLOCKS_DIFFER
    assert blocked_for(Row(NOW, Instant(longest + 1)), NOW) == 0


def test_a_row_further_ahead_than_any_can_be_begins_anew() -> None:
    edge = Instant(NOW + furthest(BETWEEN))
    assert isinstance(lease(Row(edge), NOW, BETWEEN, Purpose.START, 1, NO_LEAD), NotNow)
    assert lease(Row(Instant(edge + 1)), NOW, BETWEEN, Purpose.PULL, 1, NO_LEAD) == Slice(
        NOW, 1, Row(Instant(NOW + BETWEEN))
    )


def test_a_permit_lapses() -> None:
    permit = Permit(NOW)
    assert not permit.lapsed(Instant(NOW + PERMIT_LASTS))
    assert permit.lapsed(Instant(NOW + PERMIT_LASTS + 1))


@pytest.mark.parametrize(
    ("count", "used", "following"), [(0, 0, 1), (1, 1, 2), (2, 2, 4), (4, 3, 3), (4, 0, 1), (8, 8, 8), (3, -1, 1)]
)
def test_slices_grow_while_they_are_used_up(count: int, used: int, following: int) -> None:
    assert next_count(count, used, 8) == following


@pytest.mark.parametrize(("rate", "most"), [(1, 1), (5, 1), (50, 8), (MAX_RATE, 64)])
def test_the_largest_slice(rate: int, most: int) -> None:
    assert most_at_once(spacing(rate)) == most
