"""How many calls pass: a burst at once, and from then on one each spacing; whatever the clock does."""

import random

import pytest

from app.core.rate_limit import RateLimit, take
from app.core.units import Instant, Micros

LIMIT = RateLimit(burst=3, spacing=Micros(10))


def test_a_burst_passes_at_once_and_then_one_each_spacing() -> None:
    empty_at = None
    told = []
    for now in (0, 0, 0, 0, 9, 10, 10, 40, 70):
        taken = take(empty_at, Instant(now), LIMIT)
        empty_at = taken.empty_at
        told.append((now, taken.remaining, taken.wait, taken.reset))
    assert told == [
        (0, 2, 0, 10), (0, 1, 0, 20), (0, 0, 0, 30), (0, 0, 10, 30), (9, 0, 1, 21), (10, 0, 0, 30), (10, 0, 10, 30),
        (40, 2, 0, 10), (70, 2, 0, 10),
    ]  # fmt: skip


def test_who_waits_as_told_passes_then_and_not_a_microsecond_earlier() -> None:
    empty_at = None
    for _ in range(3):
        empty_at = take(empty_at, Instant(5), LIMIT).empty_at
    refused = take(empty_at, Instant(7), LIMIT)
    assert refused.wait > 0
    assert take(refused.empty_at, Instant(7 + refused.wait - 1), LIMIT).wait == 1
    assert take(refused.empty_at, Instant(7 + refused.wait), LIMIT).wait == 0


def test_a_clock_that_was_set_back_locks_nobody_out() -> None:
    ahead = take(None, Instant(1_000_000), LIMIT).empty_at
    assert take(ahead, Instant(0), LIMIT).wait == 0


@pytest.mark.parametrize("seed", range(30))
def test_no_stretch_sees_more_than_burst_and_rate_and_a_steady_caller_is_never_refused(seed: int) -> None:
    dice = random.Random(seed)
    limit = RateLimit(dice.randint(1, 20), Micros(dice.randint(1, 50)))
    now, empty_at = 0, None
    passed = []
    for _ in range(500):
        now += dice.choice((0, 0, 1, limit.spacing // 2, limit.spacing, 7 * limit.spacing))
        taken = take(empty_at, Instant(now), limit)
        empty_at = taken.empty_at
        if not taken.wait:
            passed.append(now)
    for first, begun in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= limit.burst + (passed[last] - begun) // limit.spacing
    empty_at = None
    for turn in range(200):
        taken = take(empty_at, Instant(turn * limit.spacing), limit)
        empty_at = taken.empty_at
        assert taken.wait == 0
