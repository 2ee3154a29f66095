"""Burn order, what a hold reserves, what a debit draws on, how debt is repaid: one line a case."""

from collections.abc import Sequence

import pytest

from app.core.ledger import Grant, GrantState, allocate, burn_order, draw, lower, repay
from app.core.units import MicroCredits
from tests.support.ledger import (
    ACTIVE,
    EXPIRED,
    PAID,
    PROMOTIONAL,
    SCHEDULED,
    VOIDED,
    debt,
    grant,
    lines,
    uid,
)

Pairs = Sequence[tuple[int | None, int]]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(
            grant(2, priority=10, expires_at=None), grant(1, priority=11, expires_at=5, kind=PROMOTIONAL), id="priority"
        ),
        pytest.param(grant(2, expires_at=5), grant(1, expires_at=6, kind=PROMOTIONAL), id="earlier expiry"),
        pytest.param(grant(2, expires_at=5), grant(1, expires_at=None, kind=PROMOTIONAL), id="any expiry before none"),
        pytest.param(
            grant(2, expires_at=9, kind=PROMOTIONAL, effective_at=3),
            grant(1, expires_at=9, kind=PAID),
            id="promotional",
        ),
        pytest.param(
            grant(2, effective_at=1, created_at=9), grant(1, effective_at=2, created_at=1), id="earlier effective"
        ),
        pytest.param(grant(2, created_at=1), grant(1, created_at=2), id="earlier created"),
        pytest.param(grant(1), grant(2), id="id"),
    ],
)
def test_burn_order_by_each_tie_breaker(first: Grant, second: Grant) -> None:
    assert burn_order([first, second]) == burn_order([second, first]) == [first, second]


@pytest.mark.parametrize(
    ("state", "remaining", "held", "unheld"),
    [(ACTIVE, 70, 30, 40), (ACTIVE, 30, 30, 0), (SCHEDULED, 100, 0, 0), (EXPIRED, 30, 20, 0), (VOIDED, 30, 20, 0)],
)
def test_only_an_active_grant_has_something_to_take(state: GrantState, remaining: int, held: int, unheld: int) -> None:
    assert grant(1, remaining=remaining, held=held, state=state).unheld == unheld


SOME = (
    grant(1, 100, priority=2, remaining=50, held=20),
    grant(2, 100, priority=1, remaining=40),
    grant(3, 100, priority=0, state=SCHEDULED),
    grant(4, 100, priority=0, state=EXPIRED, remaining=10, held=10),
)


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (0, []),
        (1, [(2, 1)]),
        (40, [(2, 40)]),
        (41, [(2, 40), (1, 1)]),
        (70, [(2, 40), (1, 30)]),
        (71, [(2, 40), (1, 30), (None, 1)]),
    ],
)
def test_a_hold_takes_unheld_remainders_in_burn_order_and_the_rest_on_credit(amount: int, expected: Pairs) -> None:
    assert allocate(MicroCredits(amount), SOME) == lines(*expected)


def test_with_no_grants_a_hold_is_all_on_credit() -> None:
    assert allocate(MicroCredits(5), []) == lines((None, 5))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (80, [(2, 40), (1, 30), (None, 10)]),
        (90, [(2, 40), (1, 30), (None, 10)]),
        (75, [(2, 40), (1, 30), (None, 5)]),
        (70, [(2, 40), (1, 30), (None, 0)]),
        (69, [(2, 40), (1, 29), (None, 0)]),
        (40, [(2, 40), (1, 0), (None, 0)]),
        (1, [(2, 1), (1, 0), (None, 0)]),
        (0, [(2, 0), (1, 0), (None, 0)]),
    ],
)
def test_a_hold_is_lowered_from_its_end_credit_first_and_never_raised(target: int, expected: Pairs) -> None:
    assert lower(lines((2, 40), (1, 30), (None, 10)), MicroCredits(target)) == lines(*expected)


HELD = [(2, 40), (1, 20), (None, 10)]
WHILE_HELD = (
    grant(1, priority=2, remaining=50, held=20),
    grant(2, priority=1, remaining=40, held=40),
    grant(5, priority=0, remaining=5),
)


@pytest.mark.parametrize(
    ("amount", "room", "expected", "leakage"),
    [
        pytest.param(0, 0, [], 0, id="nothing"),
        pytest.param(40, 0, [(2, 40)], 0, id="what is held, in the hold's order"),
        pytest.param(60, 0, [(2, 40), (1, 20)], 0, id="all grant lines"),
        pytest.param(63, 0, [(2, 40), (1, 20), (5, 3)], 0, id="then unheld credits, though earlier in burn order"),
        pytest.param(95, 0, [(2, 40), (1, 50), (5, 5)], 0, id="one line a grant, held and unheld together"),
        pytest.param(100, 0, [(2, 40), (1, 50), (5, 5), (None, 5)], 0, id="credit last: a top-up spares debt"),
        pytest.param(105, 0, [(2, 40), (1, 50), (5, 5), (None, 10)], 0, id="held credit to its end"),
        pytest.param(106, 0, [(2, 40), (1, 50), (5, 5), (None, 10)], 1, id="no room: the rest is leakage"),
        pytest.param(106, 1, [(2, 40), (1, 50), (5, 5), (None, 11)], 0, id="room beside the held credit"),
        pytest.param(109, 2, [(2, 40), (1, 50), (5, 5), (None, 12)], 2, id="room used up"),
        pytest.param(106, -50, [(2, 40), (1, 50), (5, 5), (None, 10)], 1, id="room below zero counts as none"),
    ],
)
def test_a_debit_draws_on_its_hold_then_unheld_credits_then_credit(
    amount: int, room: int, expected: Pairs, leakage: int
) -> None:
    drawn = draw(MicroCredits(amount), lines(*HELD), WHILE_HELD, MicroCredits(room))
    assert list(drawn.lines) == lines(*expected)
    assert (drawn.amount, drawn.leakage) == (amount - leakage, leakage)


def test_a_debit_draws_on_the_held_part_of_an_expired_grant_only() -> None:
    grants = [grant(1, remaining=30, held=30, state=EXPIRED)]
    drawn = draw(MicroCredits(25), lines((1, 20)), grants, MicroCredits(0))
    assert (list(drawn.lines), drawn.leakage) == (lines((1, 20)), 5)


def test_without_a_hold_a_debit_draws_on_what_is_available() -> None:
    drawn = draw(MicroCredits(60), (), SOME, MicroCredits(0))
    assert list(drawn.lines) == lines((2, 40), (1, 20))


@pytest.mark.parametrize(
    ("debts", "grants", "expected"),
    [
        pytest.param([], [grant(1)], [], id="no debt"),
        pytest.param([(9, 30)], [], [], id="nothing to repay from"),
        pytest.param([(9, 30)], [grant(1, 100)], [(9, 1, 30)], id="one grant covers it"),
        pytest.param([(9, 130)], [grant(1, 100)], [(9, 1, 100)], id="in part"),
        pytest.param([(9, 30), (8, 30)], [grant(1, 100)], [(9, 1, 30), (8, 1, 30)], id="oldest first, as given"),
        pytest.param(
            [(9, 30), (8, 30)],
            [grant(1, 100, remaining=20, priority=9), grant(2, 100, remaining=15, priority=1)],
            [(9, 2, 15), (9, 1, 15), (8, 1, 5)],
            id="in burn order across grants",
        ),
        pytest.param([(9, 30)], [grant(1, 100, held=90)], [(9, 1, 10)], id="what is held is not used"),
        pytest.param([(9, 30)], [grant(1, state=SCHEDULED), grant(2, state=VOIDED)], [], id="not active: not used"),
    ],
)
def test_debt_is_repaid_from_unheld_credits(
    debts: list[tuple[int, int]], grants: list[Grant], expected: list[tuple[int, int, int]]
) -> None:
    repaid = repay([debt(*pair) for pair in debts], grants)
    assert [(r.debit_entry_id, r.grant_id, r.amount) for r in repaid] == [(uid(d), uid(g), a) for d, g, a in expected]
