"""Where credits go back to, in which order, and what stays with whom."""

import pytest

from app.core.account import BrokenLedger
from app.core.corrections import PaidDebit, plan_returns
from app.core.units import MicroCredits
from tests.support.ledger import lines, uid

Pairs = tuple[tuple[int | None, int], ...]


def debit(n: int, drawn: Pairs, repaid: Pairs = (), returned: Pairs = ()) -> PaidDebit:
    return PaidDebit(
        entry_id=uid(n), drawn=tuple(lines(*drawn)), repaid=tuple(lines(*repaid)), returned=tuple(lines(*returned))
    )


def plan(amount: int, *debits: PaidDebit) -> list[tuple[int, int | None, int]]:
    found = plan_returns(debits, MicroCredits(amount))
    return [
        (place.debit_entry_id.int, None if place.grant_id is None else place.grant_id.int, place.amount)
        for place in found
    ]


PAID = debit(9, ((1, 10), (2, 20), (None, 8)), repaid=((3, 2), (4, 3)))
"""Grants 1 and 2 paid 30; of 8 on credit grants 3 and 4 repaid 5, and 3 are owed."""

ORDER: list[tuple[int, list[tuple[int, int | None, int]]]] = [
    (1, [(9, None, 1)]),
    (3, [(9, None, 3)]),
    (4, [(9, None, 3), (9, 4, 1)]),
    (8, [(9, None, 3), (9, 4, 3), (9, 3, 2)]),
    (9, [(9, None, 3), (9, 4, 3), (9, 3, 2), (9, 2, 1)]),
    (38, [(9, None, 3), (9, 4, 3), (9, 3, 2), (9, 2, 20), (9, 1, 10)]),
]


@pytest.mark.parametrize(("amount", "expected"), ORDER)
def test_what_is_owed_comes_first_then_who_repaid_then_who_paid_last(
    amount: int, expected: list[tuple[int, int | None, int]]
) -> None:
    assert plan(amount, PAID) == expected


def test_what_was_given_back_before_came_off_in_the_same_order() -> None:
    for amount, expected in ORDER:
        gone = tuple((grant, part) for _, grant, part in expected)
        rest = debit(9, ((1, 10), (2, 20), (None, 8)), repaid=((3, 2), (4, 3)), returned=gone)
        assert rest.left == 38 - amount
        together: dict[int | None, int] = {}
        for _, grant, part in expected + plan(38 - amount, rest):
            together[grant] = together.get(grant, 0) + part
        assert together == {None: 3, 4: 3, 3: 2, 2: 20, 1: 10}


def test_debt_that_is_repaid_between_two_refunds_goes_to_who_repaid_it() -> None:
    rest = debit(9, ((None, 8),), repaid=((3, 6),), returned=((None, 2),))
    assert plan(6, rest) == [(9, 3, 6)]


def test_a_grant_that_paid_and_repaid_gives_no_more_than_both() -> None:
    rest = debit(9, ((1, 10), (None, 4)), repaid=((1, 4),), returned=((1, 3),))
    assert plan(11, rest) == [(9, 1, 1), (9, 1, 10)]


def test_the_latest_debit_is_given_back_first_within_each_kind_of_source() -> None:
    charge, more = debit(8, ((1, 10), (None, 2))), debit(9, ((2, 5), (None, 1)))
    assert plan(18, charge, more) == [(9, None, 1), (8, None, 2), (9, 2, 5), (8, 1, 10)]


def test_more_than_is_left_is_never_given_back() -> None:
    with pytest.raises(BrokenLedger):
        plan(39, PAID)
