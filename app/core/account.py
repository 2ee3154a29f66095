"""One account in memory: what is done to it by the rules of :mod:`app.core.ledger`, and the entries this makes.

Opened with all that a decision needs; changed by methods that post drafts of entries; written at once by
:mod:`app.ledger.book`. Opening posts what time has brought first (activations, expiries), so that every decision sees
the account as it is at ``now``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from app.core.entries import CONSUMED, CREDIT, EXPIRED, VOIDED, EntryDraft, EntryKind, FundingDraft, legs
from app.core.ledger import Debt, Draw, Grant, GrantState, Line, Repayment, Return, allocate, draw, lower, repay
from app.core.units import Instant, MicroCredits, Micros


class BrokenLedger(Exception):
    """What is stored contradicts the rules of the ledger. Nothing is written; a person must look."""


@dataclass(frozen=True, slots=True)
class Hold:
    """What a session reserves. ``changes`` counts its changes so far. ``state``: active, settled or released."""

    lines: tuple[Line, ...]
    changes: int
    state: str = "active"

    @property
    def amount(self) -> MicroCredits:
        return MicroCredits(sum(line.amount for line in self.lines))


@dataclass(frozen=True, slots=True)
class HoldChange:
    """``held_after`` is what the whole account holds after it."""

    session_id: UUID
    n: int
    delta: MicroCredits
    held_after: MicroCredits
    why: str


class Account:
    """The account as it is and as it changes. ``debts`` are needed only while there is debt; ``credit_reserved`` is
    what all active holds together reserve of the credit limit; ``holds`` are those of the sessions at hand."""

    def __init__(
        self,
        *,
        now: Instant,
        balance: MicroCredits,
        debt: MicroCredits,
        held: MicroCredits,
        credit_limit: MicroCredits,
        grants: Iterable[Grant],
        terms: Mapping[UUID, Mapping[str, Any]],
        holds: Mapping[UUID, Hold],
        debts: Sequence[Debt],
        credit_reserved: MicroCredits,
    ) -> None:
        self._now = now
        self.balance = balance
        self.debt = debt
        self.held = held
        self.credit_limit = credit_limit
        self.grants: dict[UUID, Grant] = {grant.id: grant for grant in grants}
        self.holds: dict[UUID, Hold] = dict(holds)
        self.entries: list[EntryDraft] = []
        self.hold_changes: list[HoldChange] = []
        self.expired_grants: list[UUID] = []
        self._terms = dict(terms)
        self._debts = list(debts)
        self._credit_reserved = credit_reserved
        self.post_due()

    @property
    def available(self) -> MicroCredits:
        """What a new session may hold at most; below 0 if the credit limit was lowered under the debt."""
        return MicroCredits(self.balance + self.credit_limit - self.held)

    @property
    def next_due_at(self) -> Instant | None:
        """When time next brings something: the earliest activation, or expiry of credits that nothing holds."""
        instants = [
            grant.effective_at if grant.state is GrantState.SCHEDULED else grant.expires_at
            for grant in self.grants.values()
            if grant.state is GrantState.SCHEDULED or grant.unheld
        ]
        return min((instant for instant in instants if instant is not None), default=None)

    # Grants

    def grant(self, grant: Grant, terms: Mapping[str, Any]) -> None:
        """Give credits: at once if they are effective by now, else when they become so. ``grant`` is scheduled."""
        self.grants[grant.id] = grant
        self._terms[grant.id] = terms
        if grant.effective_at <= self._now:
            self._activate(grant.id)

    def post_due(self) -> None:
        """Post what time has brought by now: what is effective becomes so, what has expired is taken."""
        due: list[tuple[Instant, int, UUID]] = []
        for grant in self.grants.values():
            if grant.state is GrantState.SCHEDULED and grant.effective_at <= self._now:
                due.append((grant.effective_at, 0, grant.id))
            # A grant that is spent is here only to be given back to: it has nothing that could expire.
            if not grant.closed and grant.remaining and grant.expires_at is not None and grant.expires_at <= self._now:
                due.append((grant.expires_at, 1, grant.id))
        for _, expires, grant_id in sorted(due):
            if expires:
                self._expire(grant_id)
            else:
                self._activate(grant_id)

    def _activate(self, grant_id: UUID) -> None:
        grant = self.grants[grant_id]
        terms = self._terms[grant_id]
        self.open_grant(
            replace(grant, state=GrantState.ACTIVE),
            EntryDraft(
                kind=EntryKind.GRANT,
                natural_key=f"grant:{grant_id}",
                amount=grant.amount,
                postings=(),
                reference=terms["reference"],
                terms=terms,
            ),
            {f"issued.{grant.kind}": -grant.amount},
        )

    def open_grant(self, grant: Grant, draft: EntryDraft, against: Mapping[str, int]) -> None:
        """Add an active grant with the entry that opens it: ``draft`` less its postings, which come ``against`` system
        accounts. What it repays of debt at once belongs to the same entry."""
        self.grants[grant.id] = grant
        repayments = repay(self._debts, [grant]) if self.debt else []
        self._apply(repayments)
        repaid = sum(line.amount for line in repayments)
        self.post(
            replace(
                draft,
                postings=legs({**against, f"grants.{grant.kind}": grant.amount - repaid, CREDIT: repaid}),
                funding=(*draft.funding, *_funding(repayments)),
                grant_id=grant.id,
            )
        )

    def _expire(self, grant_id: UUID) -> None:
        grant = self.grants[grant_id]
        unheld = grant.unheld
        self.grants[grant_id] = replace(grant, state=GrantState.EXPIRED)
        self.expired_grants.append(grant_id)
        if unheld:
            self._take_away(grant_id, unheld, f"expire:{grant_id}")

    def announce_expiring(self, lead: Micros) -> list[Grant]:
        """Grants of which something remains that expires within ``lead`` and was not announced before."""
        expiring = [
            grant
            for grant in self.grants.values()
            if grant.state is GrantState.ACTIVE
            and grant.remaining
            and not grant.announced
            and grant.expires_at is not None
            and grant.expires_at <= self._now + lead
        ]
        for grant in expiring:
            self.grants[grant.id] = replace(grant, announced=True)
        return expiring

    def void(self, grant_id: UUID, reason: str) -> MicroCredits:
        """Close a grant that is open and not spent, and take what nothing holds of it; answers how much that was.

        What running sessions hold of it stays theirs. There is always an entry, if of 0: that the grant is closed is in
        the chain, so that nobody can open it again.
        """
        grant = self.grants[grant_id]
        if grant.closed or not grant.remaining:
            raise BrokenLedger("only what remains of an open grant can be voided")
        unheld = grant.unheld
        self.grants[grant_id] = replace(grant, state=GrantState.VOIDED)
        if grant.state is GrantState.SCHEDULED:
            self.grants[grant_id] = self.grants[grant_id].spend(grant.remaining)
        self._take_away(grant_id, unheld, f"void:{grant_id}", reason=reason)
        return unheld

    def _take_away(
        self,
        grant_id: UUID,
        amount: MicroCredits,
        natural_key: str,
        *,
        session_id: UUID | None = None,
        reason: str | None = None,
    ) -> None:
        """Take credits of a closed grant the way that its state says."""
        grant = self.grants[grant_id]
        voided = grant.state is GrantState.VOIDED
        self.grants[grant_id] = grant.spend(amount)
        self.post(
            EntryDraft(
                kind=EntryKind.VOID if voided else EntryKind.EXPIRY,
                natural_key=natural_key,
                amount=MicroCredits(-amount),
                postings=legs({f"grants.{grant.kind}": -amount, VOIDED if voided else EXPIRED: amount}),
                grant_id=grant_id,
                session_id=session_id,
                reason=reason,
            )
        )

    # Holds

    def hold(self, session_id: UUID, amount: MicroCredits) -> None:
        """Hold the worst case of a session; the caller has checked that it is available."""
        if amount > max(0, self.available):
            raise BrokenLedger("a hold must not exceed what is available")
        lines = tuple(allocate(amount, self.grants.values()))
        self._set_lines(session_id, Hold((), 0), lines, "start", "active")

    def held_by(self, session_id: UUID) -> MicroCredits:
        """What the session holds now; 0 if its hold is resolved."""
        hold = self.holds.get(session_id)
        return MicroCredits(0) if hold is None else hold.amount

    def lower_hold(self, session_id: UUID, target: MicroCredits) -> None:
        """Lower the session's hold to ``target``; nothing happens if it is that low already. Never raised."""
        hold = self.holds.get(session_id)
        if hold is None or hold.state != "active" or hold.amount <= target:
            return
        self._set_lines(session_id, hold, tuple(lower(hold.lines, target)), "lower", "active")
        self._follow_up(session_id, hold.lines)

    def release(self, session_id: UUID) -> None:
        """Resolve the session's hold without a charge; nothing happens if it is resolved."""
        hold = self.holds.get(session_id)
        if hold is None or hold.state != "active":
            return
        self._set_lines(session_id, hold, _emptied(hold.lines), "release", "released")
        self._follow_up(session_id, hold.lines)

    def settle(self, session_id: UUID, amount: MicroCredits, charge_digest: bytes) -> Draw:
        """Post the session's one charge and resolve its hold, if it still has one. A charge of 0 posts no entry."""
        hold = self.holds.get(session_id, Hold((), 0, "released"))
        drawn = draw(amount, hold.lines, list(self.grants.values()), self._credit_room)
        if hold.state == "active":
            self._set_lines(session_id, hold, _emptied(hold.lines), "settle", "settled")
        if drawn.amount:
            self.post_debit(
                drawn.lines,
                EntryDraft(
                    kind=EntryKind.CHARGE,
                    natural_key=f"settle:{session_id}",
                    amount=MicroCredits(-drawn.amount),
                    postings=(),
                    session_id=session_id,
                    charge_digest=charge_digest,
                ),
                CONSUMED,
            )
        self._follow_up(session_id, hold.lines)
        return drawn

    def drawn_now(self, amount: MicroCredits) -> Draw:
        """Where a debit of ``amount`` that nothing was held for would come from: what is available, and no more."""
        return draw(amount, (), list(self.grants.values()), self._credit_room)

    def drawn_first(self, grant_id: UUID, amount: MicroCredits) -> Draw:
        """As :meth:`drawn_now`, from that grant before any other."""
        grant = self.grants.get(grant_id)
        first = () if grant is None else (Line(grant_id, grant.unheld),)
        others = [other for other in self.grants.values() if other.id != grant_id]
        return draw(amount, first, others, self._credit_room)

    @property
    def _credit_room(self) -> MicroCredits:
        return MicroCredits(self.credit_limit - self.debt - self._credit_reserved)

    def post_debit(self, lines: Sequence[Line], draft: EntryDraft, to: str) -> None:
        """Take ``lines`` from their grants and from credit, and post ``draft`` for it, to the system account ``to``."""
        user_legs: dict[str, int] = {}
        for line in lines:
            if line.grant_id is None:
                self.debt = MicroCredits(self.debt + line.amount)
                name = CREDIT
            else:
                grant = self.grants[line.grant_id]
                self.grants[line.grant_id] = grant.spend(line.amount)
                name = f"grants.{grant.kind}"
            user_legs[name] = user_legs.get(name, 0) - line.amount
        self.post(
            replace(
                draft,
                postings=legs({**user_legs, to: -draft.amount}),
                funding=tuple(FundingDraft(None, line.grant_id, line.amount) for line in lines),
            )
        )

    def _set_lines(self, session_id: UUID, hold: Hold, lines: tuple[Line, ...], why: str, state: str) -> None:
        for sign, changed in ((-1, hold.lines), (1, lines)):
            for line in changed:
                if not line.amount:
                    continue  # its grant may be spent and no longer be loaded
                self.held = MicroCredits(self.held + sign * line.amount)
                if line.grant_id is None:
                    self._credit_reserved = MicroCredits(self._credit_reserved + sign * line.amount)
                else:
                    self.grants[line.grant_id] = self.grants[line.grant_id].hold(sign * line.amount)
        after = Hold(lines, hold.changes + 1, state)
        self.holds[session_id] = after
        delta = MicroCredits(after.amount - hold.amount)
        self.hold_changes.append(HoldChange(session_id, after.changes, delta, self.held, why))

    def _follow_up(self, session_id: UUID, freed: Sequence[Line]) -> None:
        """What a hold frees of a grant that closed meanwhile goes the way of that grant; the rest repays debt first."""
        changes = self.holds[session_id].changes if session_id in self.holds else 0
        self.settle_freed(
            [line.grant_id for line in freed if line.grant_id is not None and line.amount],
            f"{session_id}:{changes}",
            session_id=session_id,
        )

    def settle_freed(
        self, grant_ids: Iterable[UUID], cause: str, *, session_id: UUID | None, reason: str | None = None
    ) -> None:
        """After credits of these grants were freed or given back: what a closed grant may not keep is taken away, and
        what is usable repays debt first. ``cause`` tells apart the times at which this may happen to one grant."""
        for grant_id in grant_ids:
            grant = self.grants.get(grant_id)
            if grant is not None and grant.closed and grant.remaining > grant.held:
                freed = MicroCredits(grant.remaining - grant.held)
                word = "void" if grant.state is GrantState.VOIDED else "expire"
                self._take_away(grant.id, freed, f"{word}:{grant.id}:{cause}", session_id=session_id, reason=reason)
        repayments = repay(self._debts, self.grants.values()) if self.debt else []
        if not repayments:
            return
        user_legs: dict[str, int] = {CREDIT: sum(repayment.amount for repayment in repayments)}
        for repayment in repayments:
            name = f"grants.{self.grants[repayment.grant_id].kind}"
            user_legs[name] = user_legs.get(name, 0) - repayment.amount
        self._apply(repayments)
        self.post(
            EntryDraft(
                kind=EntryKind.REPAYMENT,
                natural_key=f"repay:{cause}",
                amount=MicroCredits(0),
                postings=legs(user_legs),
                funding=_funding(repayments),
                session_id=session_id,
            )
        )

    def _apply(self, repayments: Sequence[Repayment]) -> None:
        for line in repayments:
            self.grants[line.grant_id] = self.grants[line.grant_id].spend(line.amount)
            self._lower_debt(line.debit_entry_id, line.amount)

    def _lower_debt(self, debit_entry_id: UUID, amount: MicroCredits) -> None:
        """That part of the debit is no longer owed: it was repaid or given back."""
        self.debt = MicroCredits(self.debt - amount)
        left = [
            Debt(
                owed.debit_entry_id,
                MicroCredits(owed.amount - (amount if owed.debit_entry_id == debit_entry_id else 0)),
            )
            for owed in self._debts
        ]
        self._debts = [owed for owed in left if owed.amount]

    def post_returns(self, returns: Sequence[Return], draft: EntryDraft) -> None:
        """Put credits back where they came from (credit: that much less is owed), and post ``draft`` for it."""
        user_legs: dict[str, int] = {}
        for line in returns:
            if line.grant_id is None:
                self._lower_debt(line.debit_entry_id, line.amount)
                name = CREDIT
            else:
                grant = self.grants[line.grant_id]
                self.grants[line.grant_id] = grant.spend(-line.amount)
                name = f"grants.{grant.kind}"
            user_legs[name] = user_legs.get(name, 0) + line.amount
        self.post(replace(draft, postings=legs({CONSUMED: -draft.amount, **user_legs})))

    def post(self, draft: EntryDraft) -> None:
        self.balance = MicroCredits(self.balance + draft.amount)
        self.entries.append(draft)

    def check(self) -> None:
        """What must hold at every commit; :class:`BrokenLedger` if it does not."""
        counted = [grant for grant in self.grants.values() if grant.state is not GrantState.SCHEDULED]
        if self.balance != sum(grant.remaining for grant in counted) - self.debt:
            raise BrokenLedger("the balance is not what remains of the grants less the debt")
        if any(not 0 <= grant.held <= grant.remaining for grant in self.grants.values()):
            raise BrokenLedger("a grant holds more than remains of it")
        if self.debt and any(grant.unheld for grant in counted):
            raise BrokenLedger("there is debt beside usable credits")
        if any(sum(posting.amount for posting in entry.postings) for entry in self.entries):
            raise BrokenLedger("the postings of an entry do not sum to 0")


def _emptied(lines: Sequence[Line]) -> tuple[Line, ...]:
    return tuple(Line(line.grant_id, MicroCredits(0)) for line in lines)


def _funding(repayments: Iterable[Repayment]) -> tuple[FundingDraft, ...]:
    return tuple(FundingDraft(line.debit_entry_id, line.grant_id, line.amount) for line in repayments)
