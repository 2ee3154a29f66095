"""The account against a simple model of it, through any sequence of grants, time, holds and charges.

Each rule is one transaction as the book makes it: the account is opened from what the one before left, changed, checked
and stored. The model keeps only what anyone can add up: what was given, to whom it went, and who holds what.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.core.account import Account, Hold
from app.core.entries import EntryDraft, EntryKind
from app.core.ledger import Debt, Grant, GrantKind, GrantState
from app.core.units import Instant, MicroCredits

amounts = st.one_of(st.integers(0, 5), st.integers(0, 100))


class Ledger(RuleBasedStateMachine):
    """What is stored between transactions, and the model beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000
        self.limit = 0
        self.balance = self.debt = self.held = 0
        self.grants: dict[UUID, Grant] = {}
        self.holds: dict[UUID, Hold] = {}
        self.entries: list[tuple[UUID, EntryDraft]] = []
        self.authorized: dict[UUID, int] = {}
        self.settled: dict[UUID, int] = {}
        self.ids = 0

    sessions = Bundle("sessions")

    @initialize(limit=st.sampled_from([0, 0, 30, 100]))
    def open_account(self, limit: int) -> None:
        self.limit = limit

    # One transaction

    def new_id(self) -> UUID:
        self.ids += 1
        return UUID(int=self.ids)

    def debts(self) -> list[Debt]:
        """Debits drawn on credit and not repaid, oldest first, from the funding that was recorded."""
        owed: dict[UUID, int] = {}
        for entry_id, draft in self.entries:
            for line in draft.funding:
                if line.debit_entry_id is not None:
                    owed[line.debit_entry_id] -= line.amount
                elif line.grant_id is None:
                    owed[entry_id] = owed.get(entry_id, 0) + line.amount
        return [Debt(entry_id, MicroCredits(left)) for entry_id, left in owed.items() if left]

    def opened(self) -> Account:
        reserved = sum(line.amount for hold in self.holds.values() for line in hold.lines if line.grant_id is None)
        return Account(
            now=Instant(self.now),
            balance=MicroCredits(self.balance),
            debt=MicroCredits(self.debt),
            held=MicroCredits(self.held),
            credit_limit=MicroCredits(self.limit),
            # Like the book: only grants with something left, and only the holds at hand.
            grants=[grant for grant in self.grants.values() if grant.remaining],
            terms={grant_id: {"reference": None} for grant_id in self.grants},
            holds=self.holds,
            debts=self.debts(),
            credit_reserved=MicroCredits(reserved),
        )

    def transact(self, change: Callable[[Account], Any]) -> Any:
        account = self.opened()
        answer = change(account)
        account.check()
        self.balance, self.debt, self.held = account.balance, account.debt, account.held
        self.grants |= account.grants
        self.holds = dict(account.holds)
        self.entries.extend((self.new_id(), draft) for draft in account.entries)
        for held in account.hold_changes:
            assert held.held_after >= 0
        return answer

    # What may happen

    @rule(
        amount=st.integers(1, 100),
        kind=st.sampled_from(GrantKind),
        priority=st.integers(0, 2),
        effective_in=st.sampled_from([-5, 0, 0, 0, 3, 20]),
        lasts=st.sampled_from([None, 1, 6, 30]),
    )
    def give(self, amount: int, kind: GrantKind, priority: int, effective_in: int, lasts: int | None) -> None:
        effective_at = self.now + effective_in
        grant = Grant(
            id=self.new_id(),
            kind=kind,
            priority=priority,
            amount=MicroCredits(amount),
            effective_at=Instant(effective_at),
            expires_at=None if lasts is None else Instant(max(self.now, effective_at) + lasts),
            created_at=Instant(self.now),
            remaining=MicroCredits(amount),
            held=MicroCredits(0),
            state=GrantState.SCHEDULED,
        )
        self.transact(lambda account: account.grant(grant, {"reference": None}))

    @rule(by=st.sampled_from([1, 2, 5, 20]))
    def let_time_pass(self, by: int) -> None:
        self.now += by
        self.transact(lambda account: None)

    @rule(by=st.sampled_from([1, 7]))
    def let_time_pass_unseen(self, by: int) -> None:
        self.now += by

    @rule(target=sessions, share=st.integers(0, 100))
    def start(self, share: int) -> UUID:
        """Hold some of what is available, from none to all of it."""
        session = self.new_id()

        def hold(account: Account) -> int:
            amount = MicroCredits(max(0, account.available) * share // 100)
            account.hold(session, amount)
            return amount

        self.authorized[session] = self.transact(hold)
        assert self.holds[session].amount == self.authorized[session]
        return session

    @rule(session=sessions, target_amount=amounts)
    def lower(self, session: UUID, target_amount: int) -> None:
        before = self.holds[session].amount
        self.transact(lambda account: account.lower_hold(session, MicroCredits(target_amount)))
        assert self.holds[session].amount == min(before, target_amount)

    @rule(session=sessions)
    def release(self, session: UUID) -> None:
        self.transact(lambda account: account.release(session))
        assert self.holds[session].amount == 0

    @rule(session=sessions, share=st.integers(0, 100))
    def settle(self, session: UUID, share: int) -> None:
        """Charge up to what was authorized, whatever became of the hold meanwhile; only ever once."""
        if session in self.settled:
            return
        amount = self.authorized[session] * share // 100
        held = self.holds[session].amount
        before = self.transact(lambda account: account.available)
        drawn = self.transact(lambda account: account.settle(session, MicroCredits(amount), b"digest"))
        self.settled[session] = drawn.amount
        assert drawn.amount + drawn.leakage == amount
        # All of the hold and all that is available may be drawn, and nothing else leaks.
        assert drawn.amount == min(amount, held + max(0, before))
        assert self.holds[session].amount == 0

    @precondition(lambda self: self.debt == 0)
    @rule(limit=st.sampled_from([0, 30, 100]))
    def raise_limit(self, limit: int) -> None:
        self.limit = max(self.limit, limit)

    # What always holds

    @invariant()
    def the_balance_is_what_remains_less_the_debt(self) -> None:
        counted = sum(grant.remaining for grant in self.grants.values() if grant.state is not GrantState.SCHEDULED)
        assert self.balance == counted - self.debt
        assert self.balance == sum(draft.amount for _, draft in self.entries)

    @invariant()
    def nothing_goes_below_the_floor(self) -> None:
        assert self.balance + self.limit - self.held >= 0
        assert 0 <= self.debt <= self.limit
        for grant in self.grants.values():
            assert 0 <= grant.held <= grant.remaining <= grant.amount

    @invariant()
    def holds_are_their_lines_on_grants_and_credit(self) -> None:
        lines = [line for hold in self.holds.values() for line in hold.lines]
        assert self.held == sum(line.amount for line in lines)
        by_grant: Counter[UUID | None] = Counter()
        for line in lines:
            by_grant[line.grant_id] += line.amount
        assert all(by_grant[grant.id] == grant.held for grant in self.grants.values())
        assert by_grant[None] + self.debt <= self.limit

    @invariant()
    def debt_is_what_was_drawn_on_credit_and_not_repaid(self) -> None:
        assert self.debt == sum(debt.amount for debt in self.debts())
        assert all(debt.amount > 0 for debt in self.debts())
        assert self.debt == -sum(
            p.amount for _, draft in self.entries for p in draft.postings if p.ledger_account == "credit"
        )

    @invariant()
    def debt_leaves_no_usable_credits(self) -> None:
        assert not self.debt or not any(grant.unheld for grant in self.grants.values())

    @invariant()
    def every_entry_is_balanced_and_every_debit_funded(self) -> None:
        for _, draft in self.entries:
            assert sum(posting.amount for posting in draft.postings) == 0
            assert all(posting.amount for posting in draft.postings)
            assert all(line.amount > 0 for line in draft.funding)
            if draft.kind is EntryKind.CHARGE:
                assert sum(line.amount for line in draft.funding) == -draft.amount > 0

    @invariant()
    def every_grant_is_accounted_for(self) -> None:
        spent: Counter[UUID | None] = Counter()
        opened: Counter[UUID | None] = Counter()
        for _, draft in self.entries:
            for line in draft.funding:
                spent[line.grant_id] += line.amount
            if draft.kind is EntryKind.EXPIRY:
                spent[draft.grant_id] -= draft.amount
            if draft.kind is EntryKind.GRANT:
                opened[draft.grant_id] += draft.amount
        for grant in self.grants.values():
            assert grant.amount == grant.remaining + spent[grant.id]
            assert opened[grant.id] == (0 if grant.state is GrantState.SCHEDULED else grant.amount)

    @invariant()
    def no_effect_happens_twice(self) -> None:
        keys = [draft.natural_key for _, draft in self.entries]
        assert len(keys) == len(set(keys))

    @invariant()
    def each_session_is_charged_once_and_never_more_than_authorized(self) -> None:
        charged: Counter[UUID | None] = Counter()
        for _, draft in self.entries:
            if draft.kind is EntryKind.CHARGE:
                charged[draft.session_id] -= draft.amount
        for session, amount in self.settled.items():
            assert charged[session] == amount <= self.authorized[session]
        assert set(charged) <= set(self.settled)

    @invariant()
    def opening_again_at_the_same_instant_brings_nothing_new(self) -> None:
        account = self.opened()
        once = account.entries, account.balance, account.held, account.next_due_at
        assert account.next_due_at is None or account.next_due_at > self.now
        twice = self.opened()
        assert (twice.entries, twice.balance, twice.held, twice.next_due_at) == once


TestAccount = Ledger.TestCase
