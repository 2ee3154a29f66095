"""What-if: sessions added up, wherever it is interrupted."""

from collections.abc import Iterator
from fractions import Fraction
from random import Random
from typing import Any

import pytest

from app.core.lossless_json import dumps, loads
from app.core.units import MicroCredits
from app.core.what_if import (
    BUCKETS,
    MAX_USERS,
    Bucket,
    Direction,
    NotRated,
    Priced,
    SessionChange,
    Tally,
    UserChange,
    bucket_of,
)
from app.what_if.documents import result_document


def priced(
    user: str,
    before: int,
    after: int,
    *,
    cost: int | None = None,
    charged: int | None = None,
    written_off: bool = False,
) -> Priced:
    return Priced(
        user_id=user,
        session_id=f"ses_{user}_{before}_{after}",
        before=MicroCredits(before),
        after=MicroCredits(after),
        charged=MicroCredits(before if charged is None else charged),
        cost=None if cost is None else MicroCredits(cost),
        written_off=written_off,
    )


def tally_of(*sessions: Priced) -> Tally:
    tally = Tally()
    for session in sessions:
        tally.add(session)
    tally.close_user()
    return tally


LOWER, HIGHER = Direction.LOWER, Direction.HIGHER


@pytest.mark.parametrize(
    ("before", "after", "bucket"),
    [
        (0, 0, Bucket(Direction.UNCHANGED, 0, 0)),
        (7, 7, Bucket(Direction.UNCHANGED, 0, 0)),
        (0, 1, Bucket(Direction.FREE_BEFORE, None, None)),
        (1000, 1001, Bucket(HIGHER, 0, 5)),
        (1000, 1050, Bucket(HIGHER, 0, 5)),
        (1000, 1051, Bucket(HIGHER, 5, 10)),
        (1000, 1100, Bucket(HIGHER, 5, 10)),
        (1000, 1250, Bucket(HIGHER, 10, 25)),
        (1000, 1500, Bucket(HIGHER, 25, 50)),
        (1000, 2000, Bucket(HIGHER, 50, 100)),
        (1000, 2001, Bucket(HIGHER, 100, None)),
        (1, 10**18, Bucket(HIGHER, 100, None)),
        (1000, 999, Bucket(LOWER, -5, 0)),
        (1000, 950, Bucket(LOWER, -5, 0)),
        (1000, 949, Bucket(LOWER, -10, -5)),
        (1000, 900, Bucket(LOWER, -10, -5)),
        (1000, 750, Bucket(LOWER, -25, -10)),
        (1000, 500, Bucket(LOWER, -50, -25)),
        (1000, 499, Bucket(LOWER, -100, -50)),
        (1000, 0, Bucket(LOWER, -100, -50)),
        (3 * 10**17, 3 * 10**17 + 1, Bucket(HIGHER, 0, 5)),
    ],
)
def test_a_change_is_in_the_bucket_of_its_percentage(before: int, after: int, bucket: Bucket) -> None:
    assert BUCKETS[bucket_of(MicroCredits(before), MicroCredits(after))] == bucket


def fits(bucket: Bucket, before: int, after: int) -> bool:
    """By fractions, as the bucket's own words say."""
    if before == 0 or before == after:
        return bucket.direction is (Direction.UNCHANGED if before == after else Direction.FREE_BEFORE)
    change = Fraction(100 * (after - before), before)
    start, end = bucket.from_percent, bucket.to_percent
    if bucket.direction is HIGHER:
        return start is not None and start < change and (end is None or change <= end)
    return bucket.direction is LOWER and start is not None and end is not None and start <= change < end


def test_every_change_is_in_one_bucket() -> None:
    for before in range(60):
        for after in range(130):
            (place,) = [n for n, bucket in enumerate(BUCKETS) if fits(bucket, before, after)]
            assert bucket_of(MicroCredits(before), MicroCredits(after)) == place


def test_sums_are_those_of_the_sessions() -> None:
    tally = tally_of(
        priced("a", 100, 150, cost=120, charged=90), priced("a", 200, 100, cost=50), priced("b", 0, 10, cost=0)
    )
    tally.leave_out(NotRated.UNREADABLE)
    assert (tally.compared.sessions, tally.compared.before, tally.compared.after) == (3, 300, 260)
    assert (tally.charged, tally.cost, tally.sessions) == (290, 170, 4)
    assert (tally.at_a_loss_before, tally.at_a_loss_after) == (1, 0)
    assert sum(tally.sessions_in) == 3
    assert sum(tally.difference_in) == -40
    assert tally.paying_less == [UserChange("a", 2, 300, 250)]
    assert tally.paying_more == [UserChange("b", 1, 0, 10)]
    assert tally.largest_rise == SessionChange("a", "ses_a_100_150", 100, 150)
    assert tally.largest_fall == SessionChange("a", "ses_a_200_100", 200, 100)
    assert tally.users == {"lower": 1, "higher": 1}


def test_what_was_written_off_is_only_in_its_own_sum_and_in_the_cost() -> None:
    tally = tally_of(priced("a", 100, 200, cost=30, charged=0, written_off=True), priced("a", 10, 10, cost=4))
    assert (tally.written_off.sessions, tally.written_off.before, tally.written_off.after) == (1, 100, 200)
    assert (tally.compared.before, tally.compared.after, tally.charged) == (10, 10, 10)
    assert tally.cost == 34
    assert tally.largest_rise is None
    assert tally.users == {"unchanged": 1}
    margin = result_document(tally, with_cost=True)["margin"]
    assert (margin["cost"], margin["before"], margin["after"]) == ("0.000034", "-0.000024", "-0.000024")


def test_users_are_named_by_amount_and_no_more_than_so_many() -> None:
    numbers = list(range(1, 3 * MAX_USERS))
    Random(1).shuffle(numbers)
    tally = tally_of(*(priced(f"u{n:03}", 1000, 1000 + n) for n in numbers))
    assert [change.difference for change in tally.paying_more] == sorted(numbers, reverse=True)[:MAX_USERS]
    assert tally.users == {"higher": len(numbers)}
    assert tally.paying_less == []


def test_of_equal_changes_the_users_come_in_order_whatever_the_order_of_sessions() -> None:
    users = [f"u{n:02}" for n in range(2 * MAX_USERS)]
    first = tally_of(*(priced(user, 5, 6) for user in users))
    again = tally_of(*(priced(user, 5, 6) for user in reversed(users)))
    assert first.paying_more == again.paying_more
    assert [change.user_id for change in first.paying_more] == users[:MAX_USERS]


def many() -> Iterator[Priced]:
    random = Random(7)
    for n in range(40):
        for _ in range(random.randrange(1, 6)):
            before, after = random.choice((0, random.randrange(10**6))), random.randrange(10**6)
            yield priced(f"user {n}", before, after, cost=random.randrange(10**6), written_off=random.random() < 0.1)


def test_it_is_the_same_wherever_it_was_written_down_and_taken_up_again() -> None:
    whole = tally_of(*many())
    whole.leave_out(NotRated.NO_CHARGE)
    interrupted = Tally()
    interrupted.leave_out(NotRated.NO_CHARGE)
    for session in many():
        interrupted.add(session)
        # As the database gives it back: numbers as their digits.
        stored: Any = loads(dumps(interrupted.dump()))
        interrupted = Tally.load(stored)
    interrupted.close_user()
    assert interrupted == whole
    assert result_document(interrupted, with_cost=True) == result_document(whole, with_cost=True)


def test_nothing_comes_to_nothing() -> None:
    document = result_document(tally_of(), with_cost=False)
    assert (document["sessions"], document["before"], document["after"], document["difference"]) == (0, "0", "0", "0")
    assert document["margin"] is None
    assert document["largest_rise"] is None
    assert len(document["distribution"]) == len(BUCKETS)
