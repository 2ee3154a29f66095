"""The account against a simple model of it, through any sequence of grants, time, holds, charges and corrections.

Each rule is one transaction as the book makes it: the account is opened from what the one before left, changed, checked
and stored. The model keeps only what anyone can add up: what was given, to whom it went, and who holds what.
"""

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.core.account import Account, Hold
from app.core.corrections import Correction, PaidDebit, adjust_down, adjust_up, charge_more, give_back
from app.core.entries import EntryDraft, EntryKind
from app.core.ledger import Debt, Grant, GrantKind, GrantState, Line
from app.core.units import Instant, MicroCredits

SESSION_DEBITS = {EntryKind.CHARGE, EntryKind.RERATE}
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
        self.added: Counter[UUID] = Counter()
        """What was charged more for a session after it was settled."""
        self.returned: Counter[UUID] = Counter()
        self.taken_below_the_floor = False
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
                if line.debit_entry_id is None and line.grant_id is None:
                    owed[entry_id] = owed.get(entry_id, 0) + line.amount
                elif line.debit_entry_id is not None and line.amount > 0:
                    owed[line.debit_entry_id] -= line.amount
                elif line.debit_entry_id is not None and line.grant_id is None:
                    owed[line.debit_entry_id] += line.amount
        return [Debt(entry_id, MicroCredits(left)) for entry_id, left in owed.items() if left]

    def paid_debits(self, session: UUID) -> list[PaidDebit]:
        """The session's debits with what became of their funding, from the funding that was recorded."""
        found: list[PaidDebit] = []
        for debit_id, debit in self.entries:
            if (
                debit.session_id != session
                or debit.kind not in {EntryKind.CHARGE, EntryKind.RERATE}
                or debit.amount > 0
            ):
                continue
            later = [line for _, draft in self.entries for line in draft.funding if line.debit_entry_id == debit_id]
            found.append(
                PaidDebit(
                    entry_id=debit_id,
                    drawn=tuple(Line(line.grant_id, line.amount) for line in debit.funding),
                    repaid=tuple(Line(line.grant_id, line.amount) for line in later if line.amount > 0),
                    returned=tuple(
                        Line(line.grant_id, MicroCredits(-line.amount)) for line in later if line.amount < 0
                    ),
                )
            )
        return found

    def opened(self, besides: Collection[UUID | None] = ()) -> Account:
        reserved = sum(line.amount for hold in self.holds.values() for line in hold.lines if line.grant_id is None)
        return Account(
            now=Instant(self.now),
            balance=MicroCredits(self.balance),
            debt=MicroCredits(self.debt),
            held=MicroCredits(self.held),
            credit_limit=MicroCredits(self.limit),
            # Like the book: only grants with something left, and only the holds at hand.
            grants=[grant for grant in self.grants.values() if grant.remaining or grant.id in besides],
            terms={grant_id: {"reference": None} for grant_id in self.grants},
            holds=self.holds,
            debts=self.debts(),
            credit_reserved=MicroCredits(reserved),
        )

    def transact(self, change: Callable[[Account], Any], besides: Collection[UUID | None] = ()) -> Any:
        account = self.opened(besides)
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

    @rule(number=st.integers(0, 20))
    def void(self, number: int) -> None:
        """Take back what is left of an open grant: what is held of it stays, and goes when it is freed."""
        self.transact(lambda account: None)
        open_ones = [grant.id for grant in self.grants.values() if not grant.closed and grant.remaining]
        if not open_ones:
            return
        chosen = open_ones[number % len(open_ones)]
        before = self.grants[chosen]
        balance = self.balance
        assert self.transact(lambda account: account.void(chosen, "why")) == before.unheld
        assert self.grants[chosen].state is GrantState.VOIDED
        assert self.grants[chosen].remaining == before.held
        assert self.balance == balance - before.unheld

    def granted_by_hand(self, amount: MicroCredits, lasts: int | None) -> Grant:
        return Grant(
            id=self.new_id(),
            kind=GrantKind.PROMOTIONAL,
            priority=50,
            amount=amount,
            effective_at=Instant(self.now),
            expires_at=None if lasts is None else Instant(self.now + lasts),
            created_at=Instant(self.now),
            remaining=amount,
            held=MicroCredits(0),
            state=GrantState.ACTIVE,
        )

    @rule(amount=st.integers(1, 60))
    def adjust_up(self, amount: int) -> None:
        grant = self.granted_by_hand(MicroCredits(amount), None)
        cause = str(self.new_id())
        self.transact(lambda account: adjust_up(account, grant, {"reference": None}, cause=cause, reason="why"))

    @rule(amount=st.integers(1, 60), allow_below_floor=st.sampled_from([False, False, False, True]))
    def adjust_down(self, amount: int, allow_below_floor: bool) -> None:
        cause = str(self.new_id())
        self.transact(lambda account: None)
        available, balance = self.balance + self.limit - self.held, self.balance
        missing = self.transact(
            lambda account: adjust_down(
                account, MicroCredits(amount), cause=cause, reason="why", allow_below_floor=allow_below_floor
            )
        )
        if allow_below_floor:
            self.taken_below_the_floor |= amount > available
            assert missing == 0
        else:
            assert missing == max(0, amount - max(0, available))
        assert self.balance == balance - (0 if missing else amount)

    @rule(session=sessions, share=st.integers(1, 100), lasts=st.sampled_from([2, 50]), again=st.booleans())
    def refund(self, session: UUID, share: int, lasts: int, again: bool) -> None:
        """Give back some of what is left, by a refund or by a lower rating."""
        debits = self.paid_debits(session)
        left = sum(debit.left for debit in debits)
        amount = MicroCredits(left * share // 100)
        if not amount:
            return
        kind = EntryKind.RERATE if again else EntryKind.REFUND
        why = Correction(kind=kind, natural_key=f"{kind}:{self.new_id()}", reason="why", session_id=session)

        def goodwill(of: MicroCredits) -> tuple[Grant, dict[str, Any]]:
            return self.granted_by_hand(of, lasts), {"reference": None}

        self.transact(lambda account: None)
        balance, entries = self.balance, len(self.entries)
        ran_out = {
            grant.id: grant.remaining
            for grant in self.grants.values()
            if grant.expires_at is not None and grant.expires_at <= self.now
        }
        besides = {line.grant_id for debit in debits for line in (*debit.drawn, *debit.repaid)}
        now = Instant(self.now)
        made = self.transact(
            lambda account: give_back(account, debits, amount, why, now=now, goodwill=goodwill), besides
        )
        self.returned[session] += amount
        posted = [draft for _, draft in self.entries[entries:]]
        assert sum(draft.amount for draft in posted if draft.kind is kind) == amount
        assert all(draft.reverses in {debit.entry_id for debit in debits} for draft in posted if draft.kind is kind)
        lost_again = sum(draft.amount for draft in posted if draft.kind is EntryKind.VOID)
        assert self.balance == balance + amount + lost_again
        assert sum(debit.left for debit in self.paid_debits(session)) == left - amount
        assert made is None or made.expires_at == self.now + lasts
        # Nothing of it came back to a grant that had run out, or stayed in one that was voided.
        assert all(self.grants[grant].remaining == remaining for grant, remaining in ran_out.items())
        assert all(grant.remaining == grant.held for grant in self.grants.values() if grant.closed)

    @rule(session=sessions, amount=st.integers(1, 60))
    def rate_higher(self, session: UUID, amount: int) -> None:
        """Charge more, up to what was authorized and what is available."""
        if session not in self.settled:
            return
        gross = self.settled[session] + self.added[session]
        wanted = min(amount, self.authorized[session] - gross)
        if wanted <= 0:
            return
        why = Correction(kind=EntryKind.RERATE, natural_key=f"rerate:{self.new_id()}", reason="why", session_id=session)
        self.transact(lambda account: None)
        available = self.balance + self.limit - self.held
        drawn = self.transact(lambda account: charge_more(account, MicroCredits(wanted), why, None))
        assert drawn.amount == min(wanted, max(0, available))
        self.added[session] += drawn.amount

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
        assert self.balance + self.limit - self.held >= 0 or self.taken_below_the_floor
        assert self.debt >= 0
        assert self.debt <= self.limit or self.taken_below_the_floor
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
        assert by_grant[None] + self.debt <= self.limit or self.taken_below_the_floor

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
            gives_back = draft.kind in {EntryKind.REFUND, EntryKind.RERATE} and draft.amount > 0
            assert all(line.amount > 0 or (gives_back and line.amount < 0) for line in draft.funding)
            if gives_back:
                assert -sum(line.amount for line in draft.funding if line.amount < 0) == draft.amount
            if draft.kind is EntryKind.CHARGE:
                assert sum(line.amount for line in draft.funding) == -draft.amount > 0

    @invariant()
    def every_grant_is_accounted_for(self) -> None:
        spent: Counter[UUID | None] = Counter()
        opened: Counter[UUID | None] = Counter()
        for _, draft in self.entries:
            opens = draft.grant_id is not None and draft.amount > 0
            for line in draft.funding:
                if line.amount > 0 or not opens:  # else the grant that is opened takes it over
                    spent[line.grant_id] += line.amount
            if opens:
                opened[draft.grant_id] += draft.amount
            elif draft.grant_id is not None:
                spent[draft.grant_id] -= draft.amount
        for grant in self.grants.values():
            if opened[grant.id]:
                assert opened[grant.id] == grant.amount == grant.remaining + spent[grant.id]
            else:
                assert grant.state in {GrantState.SCHEDULED, GrantState.VOIDED}
                assert grant.remaining == (grant.amount if grant.state is GrantState.SCHEDULED else 0)

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
            assert charged[session] == amount
            assert self.returned[session] <= amount + self.added[session] <= self.authorized[session]
        assert set(charged) <= set(self.settled)

    @invariant()
    def opening_again_at_the_same_instant_brings_nothing_new(self) -> None:
        account = self.opened()
        once = account.entries, account.balance, account.held, account.next_due_at
        assert account.next_due_at is None or account.next_due_at > self.now
        twice = self.opened()
        assert (twice.entries, twice.balance, twice.held, twice.next_due_at) == once


TestAccount = Ledger.TestCase
