"""One account through grants, time, holds, charges and debt: the entries that each of them makes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from app.core.account import Account, BrokenLedger
from app.core.chain import Posting
from app.core.entries import EntryDraft
from app.core.ledger import Debt, Grant
from app.core.units import Instant, MicroCredits
from tests.support.ledger import (
    ACTIVE,
    EXPIRED,
    NOW,
    PROMOTIONAL,
    SCHEDULED,
    VOIDED,
    account,
    debt,
    grant,
    lines,
    terms,
    uid,
)

S1, S2 = uid(101), uid(102)
FIRST, SECOND = 101, 102


def posted(entry: EntryDraft) -> tuple[str, str, int, dict[str, int]]:
    legs = {posting.ledger_account: int(posting.amount) for posting in entry.postings}
    return entry.kind.value, entry.natural_key, entry.amount, legs


def funding(entry: EntryDraft) -> list[tuple[int | None, int | None, int]]:
    """Each line as (debit, grant, amount) with the numbers of the ids."""
    return [
        (
            None if line.debit_entry_id is None else line.debit_entry_id.int,
            None if line.grant_id is None else line.grant_id.int,
            line.amount,
        )
        for line in entry.funding
    ]


def settle(opened: Account, session: int, amount: int) -> tuple[int, int]:
    drawn = opened.settle(uid(session), MicroCredits(amount), b"digest")
    return drawn.amount, drawn.leakage


# Activation


def test_a_grant_that_is_effective_now_is_an_entry_at_once() -> None:
    opened = account()
    given = grant(1, 100, effective_at=NOW, state=SCHEDULED, kind=PROMOTIONAL)
    opened.grant(given, terms(given, "invoice-1"))
    assert [posted(entry) for entry in opened.entries] == [
        ("grant", f"grant:{uid(1)}", 100, {"issued.promotional": -100, "grants.promotional": 100})
    ]
    entry = opened.entries[0]
    assert (entry.grant_id, entry.reference, entry.terms) == (uid(1), "invoice-1", terms(given, "invoice-1"))
    assert (opened.balance, opened.available, opened.grants[uid(1)].state) == (100, 100, ACTIVE)
    opened.check()


def test_a_grant_of_the_future_posts_nothing_and_falls_due() -> None:
    opened = account()
    given = grant(1, 100, effective_at=NOW + 1, state=SCHEDULED)
    opened.grant(given, terms(given))
    assert (opened.entries, opened.balance, opened.next_due_at) == ([], 0, NOW + 1)
    opened.check()


@pytest.mark.parametrize(("now", "balance"), [(NOW - 1, 0), (NOW, 100), (NOW + 1, 100)])
def test_a_scheduled_grant_becomes_an_entry_when_it_is_effective(now: int, balance: int) -> None:
    opened = account([grant(1, effective_at=NOW, state=SCHEDULED)], now=now)
    assert opened.balance == balance
    assert len(opened.entries) == (1 if balance else 0)


# Expiry


@pytest.mark.parametrize(("now", "balance"), [(NOW - 1, 60), (NOW, 0), (NOW + 1, 0)])
def test_a_remainder_expires_at_its_instant(now: int, balance: int) -> None:
    opened = account([grant(1, 100, remaining=60, expires_at=NOW)], now=now)
    assert opened.balance == balance
    if not balance:
        assert [posted(entry) for entry in opened.entries] == [
            ("expiry", f"expire:{uid(1)}", -60, {"grants.paid": -60, "expired": 60})
        ]
        assert opened.expired_grants == [uid(1)]
        assert opened.grants[uid(1)].state is EXPIRED
    opened.check()


def test_what_came_and_went_unseen_is_posted_in_its_order() -> None:
    opened = account(
        [
            grant(1, 10, effective_at=NOW - 9, expires_at=NOW - 5, state=SCHEDULED),
            grant(2, 20, effective_at=NOW - 5, state=SCHEDULED),
            grant(3, 30, expires_at=NOW - 7),
        ]
    )
    assert [entry.natural_key for entry in opened.entries] == [
        f"grant:{uid(1)}", f"expire:{uid(3)}", f"grant:{uid(2)}", f"expire:{uid(1)}",
    ]  # fmt: skip
    assert opened.balance == 20


@pytest.mark.parametrize("closed", [EXPIRED, VOIDED])
def test_what_is_closed_does_not_expire_again(closed: object) -> None:
    of = replace(grant(1, remaining=5, held=5, expires_at=NOW - 1), state=closed)  # type: ignore[arg-type]
    assert account([of], holds={FIRST: [(1, 5)]}).entries == []


def test_expiry_takes_what_is_not_held_and_nothing_else() -> None:
    opened = account([grant(1, 100, held=40, expires_at=NOW)], holds={FIRST: [(1, 40)]})
    assert [posted(entry)[2] for entry in opened.entries] == [-60]
    held = opened.grants[uid(1)]
    assert (held.state, held.remaining, held.held, opened.balance, opened.available) == (EXPIRED, 40, 40, 40, 0)
    opened.check()


EXPIRED_AND_HELD = [grant(1, 100, remaining=40, held=40, expires_at=NOW - 1, state=EXPIRED)]


@pytest.mark.parametrize(
    ("do", "entries"),
    [
        pytest.param(lambda a: a.release(S1), [("expiry", -40)], id="release"),
        pytest.param(lambda a: a.lower_hold(S1, MicroCredits(15)), [("expiry", -25)], id="lower"),
        pytest.param(lambda a: settle(a, FIRST, 30), [("charge", -30), ("expiry", -10)], id="settle"),
        pytest.param(lambda a: settle(a, FIRST, 0), [("expiry", -40)], id="settle for nothing"),
        pytest.param(lambda a: settle(a, FIRST, 40), [("charge", -40)], id="settle for all of it"),
    ],
)
def test_what_a_hold_frees_of_an_expired_grant_expires_in_the_same_transaction(
    do: object, entries: Sequence[tuple[str, int]]
) -> None:
    opened = account(EXPIRED_AND_HELD, holds={FIRST: [(1, 40)]})
    do(opened)  # type: ignore[operator]
    assert [(entry.kind.value, entry.amount) for entry in opened.entries] == entries
    expiries = [entry for entry in opened.entries if entry.kind.value == "expiry"]
    assert all(entry.natural_key == f"expire:{uid(1)}:{S1}:2" and entry.session_id == S1 for entry in expiries)
    opened.check()


def test_the_next_due_instant_is_the_earliest_that_brings_something() -> None:
    opened = account(
        [
            grant(1, held=100, expires_at=NOW + 1),
            grant(2, remaining=0, expires_at=NOW + 2),
            grant(3, effective_at=NOW + 5, expires_at=NOW + 9, state=SCHEDULED),
            grant(4, expires_at=NOW + 7),
            grant(5),
        ],
        holds={FIRST: [(1, 100)]},
    )
    assert opened.next_due_at == NOW + 5
    opened.release(S1)
    assert opened.next_due_at == NOW + 1
    assert account([grant(5)]).next_due_at is None


# Holds


def test_a_hold_takes_credits_in_burn_order_and_then_the_credit_limit() -> None:
    opened = account([grant(1, 50), grant(2, 20, priority=1)], credit_limit=30)
    opened.hold(S1, MicroCredits(80))
    assert list(opened.holds[S1].lines) == lines((2, 20), (1, 50), (None, 10))
    assert (opened.held, opened.available, opened.balance, opened.held_by(S1)) == (80, 20, 70, 80)
    assert [(c.n, c.delta, c.held_after, c.why) for c in opened.hold_changes] == [(1, 80, 80, "start")]
    opened.check()


@pytest.mark.parametrize(("amount", "refused"), [(80, False), (81, True)])
def test_no_more_is_held_than_is_available(amount: int, refused: bool) -> None:
    opened = account([grant(1, 50)], credit_limit=30)
    if refused:
        with pytest.raises(BrokenLedger, match="must not exceed what is available"):
            opened.hold(S1, MicroCredits(amount))
    else:
        opened.hold(S1, MicroCredits(amount))
        assert opened.available == 0


def test_a_free_session_is_held_for_with_nothing_even_below_the_floor() -> None:
    opened = account(debts=[debt(9, 40)], credit_limit=10)
    assert opened.available == -30
    opened.hold(S1, MicroCredits(0))
    assert (opened.holds[S1].lines, opened.held) == ((), 0)


def test_two_sessions_hold_different_credits() -> None:
    opened = account([grant(1, 50)])
    opened.hold(S1, MicroCredits(30))
    opened.hold(S2, MicroCredits(20))
    assert (opened.held_by(S1), opened.held_by(S2), opened.grants[uid(1)].held, opened.available) == (30, 20, 50, 0)
    opened.check()


HELD: Mapping[int, Sequence[tuple[int | None, int]]] = {FIRST: [(2, 20), (1, 50), (None, 10)]}


def held(**more: object) -> Account:
    return account([grant(1, 50, held=50), grant(2, 20, priority=1, held=20)], credit_limit=30, holds=HELD)


@pytest.mark.parametrize(
    ("target", "left", "deltas"),
    [
        (100, [(2, 20), (1, 50), (None, 10)], []),
        (80, [(2, 20), (1, 50), (None, 10)], []),
        (79, [(2, 20), (1, 50), (None, 9)], [-1]),
        (60, [(2, 20), (1, 40), (None, 0)], [-20]),
        (0, [(2, 0), (1, 0), (None, 0)], [-80]),
    ],
)
def test_a_hold_is_lowered_and_never_raised(target: int, left: list[tuple[int | None, int]], deltas: list[int]) -> None:
    opened = held()
    opened.lower_hold(S1, MicroCredits(target))
    assert list(opened.holds[S1].lines) == lines(*left)
    assert [change.delta for change in opened.hold_changes] == deltas
    assert opened.holds[S1].state == "active"
    opened.check()


def test_a_released_hold_frees_everything_once() -> None:
    opened = held()
    opened.release(S1)
    opened.release(S1)
    opened.lower_hold(S1, MicroCredits(0))
    opened.release(S2)
    assert [(c.n, c.delta, c.held_after, c.why) for c in opened.hold_changes] == [(2, -80, 0, "release")]
    assert (opened.holds[S1].state, opened.held_by(S1), opened.held_by(S2), opened.available) == ("released", 0, 0, 100)
    assert opened.entries == []
    opened.check()


# Settlement


def test_a_charge_draws_on_its_hold_and_frees_the_rest() -> None:
    opened = held()
    assert settle(opened, FIRST, 45) == (45, 0)
    assert [posted(entry) for entry in opened.entries] == [
        ("charge", f"settle:{S1}", -45, {"grants.paid": -45, "consumed": 45})
    ]
    entry = opened.entries[0]
    assert funding(entry) == [(None, 2, 20), (None, 1, 25)]
    assert (entry.session_id, entry.charge_digest) == (S1, b"digest")
    assert (opened.holds[S1].state, opened.held, opened.balance, opened.debt) == ("settled", 0, 25, 0)
    opened.check()


def test_a_charge_of_nothing_posts_no_entry_and_resolves_the_hold() -> None:
    opened = held()
    assert settle(opened, FIRST, 0) == (0, 0)
    assert (opened.entries, opened.holds[S1].state, opened.held) == ([], "settled", 0)


@pytest.mark.parametrize(
    ("amount", "drawn", "leaked", "owed"),
    [(70, 70, 0, 0), (71, 71, 0, 1), (80, 80, 0, 10), (100, 100, 0, 30), (101, 100, 1, 30)],
)
def test_what_no_grant_pays_becomes_debt_up_to_the_limit_and_then_leakage(
    amount: int, drawn: int, leaked: int, owed: int
) -> None:
    opened = held()
    assert settle(opened, FIRST, amount) == (drawn, leaked)
    assert (opened.debt, opened.balance, opened.available) == (owed, 70 - drawn, 100 - drawn)
    assert sum(p.amount for p in opened.entries[0].postings if p.ledger_account == "credit") == -owed
    opened.check()


def test_credit_that_another_session_reserves_is_not_drawn() -> None:
    opened = account(credit_limit=30, holds={FIRST: [(None, 10)]}, reserved_elsewhere=15)
    assert settle(opened, FIRST, 30) == (15, 15)


def test_a_top_up_during_a_session_spares_debt() -> None:
    opened = account(credit_limit=30, holds={FIRST: [(None, 30)]})
    given = grant(1, 20, effective_at=NOW, state=SCHEDULED)
    opened.grant(given, terms(given))
    settle(opened, FIRST, 25)
    assert funding(opened.entries[-1]) == [(None, 1, 20), (None, None, 5)]
    assert (opened.debt, opened.balance) == (5, -5)
    opened.check()


def test_after_its_hold_was_released_a_session_draws_on_what_is_available() -> None:
    opened = account([grant(1, 50)])
    assert settle(opened, FIRST, 60) == (50, 10)
    assert opened.hold_changes == []
    opened.check()


# Debt


def test_the_next_grant_repays_the_oldest_debt_first() -> None:
    opened = account(debts=[debt(7, 10), debt(8, 30)], credit_limit=50)
    given = grant(1, 25, effective_at=NOW, state=SCHEDULED)
    opened.grant(given, terms(given))
    assert [posted(entry) for entry in opened.entries] == [
        ("grant", f"grant:{uid(1)}", 25, {"issued.paid": -25, "credit": 25})
    ]
    assert funding(opened.entries[0]) == [(7, 1, 10), (8, 1, 15)]
    assert (opened.debt, opened.balance, opened.grants[uid(1)].remaining) == (15, -15, 0)
    opened.check()


def test_a_grant_larger_than_the_debt_keeps_the_rest() -> None:
    opened = account(debts=[debt(7, 10)], credit_limit=50)
    given = grant(1, 25, effective_at=NOW, state=SCHEDULED)
    opened.grant(given, terms(given))
    assert posted(opened.entries[0])[3] == {"issued.paid": -25, "grants.paid": 15, "credit": 10}
    assert (opened.debt, opened.balance, opened.available) == (0, 15, 65)
    opened.check()


def test_what_a_hold_frees_repays_debt_in_an_entry_of_its_own() -> None:
    opened = account([grant(1, 50, held=50)], debts=[debt(7, 20)], credit_limit=20, holds={FIRST: [(1, 50)]})
    opened.lower_hold(S1, MicroCredits(35))
    assert [posted(entry) for entry in opened.entries] == [
        ("repayment", f"repay:{S1}:2", 0, {"credit": 15, "grants.paid": -15})
    ]
    assert funding(opened.entries[0]) == [(7, 1, 15)]
    assert (opened.debt, opened.balance, opened.grants[uid(1)].remaining) == (5, 30, 35)
    opened.check()
    opened.release(S1)
    assert posted(opened.entries[1]) == ("repayment", f"repay:{S1}:3", 0, {"credit": 5, "grants.paid": -5})
    assert opened.debt == 0
    opened.check()


# Broken states


def broken(**changed: int) -> Account:
    return Account(
        now=NOW,
        balance=MicroCredits(changed.get("balance", 100)),
        debt=MicroCredits(changed.get("debt", 0)),
        held=MicroCredits(changed.get("held", 0)),
        credit_limit=MicroCredits(0),
        grants=[_grant(changed)],
        terms={uid(1): {"reference": None}},
        holds={},
        debts=[Debt(uid(9), MicroCredits(changed["debt"]))] if "debt" in changed else [],
        credit_reserved=MicroCredits(0),
    )


def _grant(changed: Mapping[str, int]) -> Grant:
    return grant(1, 100, remaining=changed.get("remaining", 100), held=changed.get("grant_held", 0))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, None),
        ({"balance": 99}, "the balance is not"),
        ({"balance": 101}, "the balance is not"),
        ({"grant_held": 101}, "holds more than remains"),
        ({"grant_held": -1}, "holds more than remains"),
        ({"debt": 10, "balance": 90}, "debt beside usable credits"),
        ({"debt": -1, "balance": 101}, "debt beside usable credits"),
    ],
)
def test_what_contradicts_the_rules_is_never_written(changed: Mapping[str, int], message: str | None) -> None:
    opened = broken(**changed)
    if message is None:
        opened.check()
    else:
        with pytest.raises(BrokenLedger, match=message):
            opened.check()


def test_an_entry_that_does_not_balance_is_never_written() -> None:
    opened = account()
    given = grant(1, 100, effective_at=NOW, state=SCHEDULED)
    opened.grant(given, terms(given))
    opened.entries[0] = replace(opened.entries[0], postings=(Posting("credit", MicroCredits(1)),))
    with pytest.raises(BrokenLedger, match="do not sum to 0"):
        opened.check()


def test_an_instant_is_what_decides_and_not_the_order_of_calls() -> None:
    opened = account([grant(1, expires_at=Instant(NOW + 1))], now=NOW)
    assert opened.entries == []
