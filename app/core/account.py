"""One account in memory: what is done to it by the rules of :mod:`app.core.ledger`, and the entries this makes.

Opened with all that a decision needs; changed by methods that post drafts of entries; written at once by
:mod:`app.ledger.book`. Opening posts what time has brought first (activations, expiries), so that every decision sees
the account as it is at ``now``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from app.core.chain import Posting
from app.core.ledger import Debt, Draw, Grant, GrantState, Line, Repayment, allocate, draw, lower, repay
from app.core.units import Instant, MicroCredits

CREDIT: Final = "credit"
"""The user's side of debt: 0 or less, as postings have it."""
CONSUMED: Final = "consumed"
EXPIRED: Final = "expired"


class EntryKind(StrEnum):
    GRANT = "grant"
    CHARGE = "charge"
    EXPIRY = "expiry"
    REPAYMENT = "repayment"
    """Debt repaid from credits that a hold set free; the balance stays as it is."""


class BrokenLedger(Exception):
    """What is stored contradicts the rules of the ledger. Nothing is written; a person must look."""


@dataclass(frozen=True, slots=True)
class FundingDraft:
    """Who paid how much of a debit; ``debit_entry_id`` null: of the entry that this belongs to."""

    debit_entry_id: UUID | None
    grant_id: UUID | None
    amount: MicroCredits


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryDraft:
    """An entry before it has its place in the chain. ``natural_key`` is derived from its cause and never used twice."""

    kind: EntryKind
    natural_key: str
    amount: MicroCredits
    postings: tuple[Posting, ...]
    funding: tuple[FundingDraft, ...] = ()
    session_id: UUID | None = None
    grant_id: UUID | None = None
    reference: str | None = None
    terms: Mapping[str, Any] | None = None
    charge_digest: bytes | None = None


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
        self._post_due()

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

    def _post_due(self) -> None:
        due: list[tuple[Instant, int, UUID]] = []
        for grant in self.grants.values():
            if grant.state is GrantState.SCHEDULED and grant.effective_at <= self._now:
                due.append((grant.effective_at, 0, grant.id))
            closed = grant.state in {GrantState.EXPIRED, GrantState.VOIDED}
            if not closed and grant.expires_at is not None and grant.expires_at <= self._now:
                due.append((grant.expires_at, 1, grant.id))
        for _, expires, grant_id in sorted(due):
            if expires:
                self._expire(grant_id)
            else:
                self._activate(grant_id)

    def _activate(self, grant_id: UUID) -> None:
        grant = replace(self.grants[grant_id], state=GrantState.ACTIVE)
        self.grants[grant_id] = grant
        repayments = repay(self._debts, [grant]) if self.debt else []
        self._apply(repayments)
        repaid = sum(line.amount for line in repayments)
        terms = self._terms[grant_id]
        self._post(
            EntryDraft(
                kind=EntryKind.GRANT,
                natural_key=f"grant:{grant_id}",
                amount=grant.amount,
                postings=_postings(
                    {
                        f"issued.{grant.kind}": -grant.amount,
                        f"grants.{grant.kind}": grant.amount - repaid,
                        CREDIT: repaid,
                    }
                ),
                funding=tuple(FundingDraft(line.debit_entry_id, line.grant_id, line.amount) for line in repayments),
                grant_id=grant_id,
                reference=terms["reference"],
                terms=terms,
            )
        )

    def _expire(self, grant_id: UUID) -> None:
        grant = self.grants[grant_id]
        unheld = grant.unheld
        self.grants[grant_id] = replace(grant, state=GrantState.EXPIRED)
        self.expired_grants.append(grant_id)
        if unheld:
            self._take_away(grant_id, unheld, f"expire:{grant_id}")

    def _take_away(
        self, grant_id: UUID, amount: MicroCredits, natural_key: str, session_id: UUID | None = None
    ) -> None:
        grant = self.grants[grant_id]
        self.grants[grant_id] = grant.spend(amount)
        self._post(
            EntryDraft(
                kind=EntryKind.EXPIRY,
                natural_key=natural_key,
                amount=MicroCredits(-amount),
                postings=_postings({f"grants.{grant.kind}": -amount, EXPIRED: amount}),
                grant_id=grant_id,
                session_id=session_id,
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
        room = MicroCredits(self.credit_limit - self.debt - self._credit_reserved)
        drawn = draw(amount, hold.lines, list(self.grants.values()), room)
        if hold.state == "active":
            self._set_lines(session_id, hold, _emptied(hold.lines), "settle", "settled")
        if drawn.amount:
            self._post_charge(session_id, drawn, charge_digest)
        self._follow_up(session_id, hold.lines)
        return drawn

    def _post_charge(self, session_id: UUID, drawn: Draw, charge_digest: bytes) -> None:
        legs: dict[str, int] = {}
        for line in drawn.lines:
            if line.grant_id is None:
                self.debt = MicroCredits(self.debt + line.amount)
                name = CREDIT
            else:
                grant = self.grants[line.grant_id]
                self.grants[line.grant_id] = grant.spend(line.amount)
                name = f"grants.{grant.kind}"
            legs[name] = legs.get(name, 0) - line.amount
        self._post(
            EntryDraft(
                kind=EntryKind.CHARGE,
                natural_key=f"settle:{session_id}",
                amount=MicroCredits(-drawn.amount),
                postings=_postings(legs | {CONSUMED: drawn.amount}),
                funding=tuple(FundingDraft(None, line.grant_id, line.amount) for line in drawn.lines),
                session_id=session_id,
                charge_digest=charge_digest,
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

    def _follow_up(self, session_id: UUID, lines: Sequence[Line]) -> None:
        """What a hold frees of a grant that closed meanwhile goes the way of that grant; the rest repays debt first."""
        changes = self.holds[session_id].changes if session_id in self.holds else 0
        for line in lines:
            grant = self.grants.get(line.grant_id) if line.grant_id is not None and line.amount else None
            if grant is not None and grant.state is GrantState.EXPIRED and grant.remaining > grant.held:
                freed = MicroCredits(grant.remaining - grant.held)
                self._take_away(grant.id, freed, f"expire:{grant.id}:{session_id}:{changes}", session_id)
        repayments = repay(self._debts, self.grants.values()) if self.debt else []
        if not repayments:
            return
        legs: dict[str, int] = {CREDIT: sum(repayment.amount for repayment in repayments)}
        for repayment in repayments:
            name = f"grants.{self.grants[repayment.grant_id].kind}"
            legs[name] = legs.get(name, 0) - repayment.amount
        self._apply(repayments)
        self._post(
            EntryDraft(
                kind=EntryKind.REPAYMENT,
                natural_key=f"repay:{session_id}:{changes}",
                amount=MicroCredits(0),
                postings=_postings(legs),
                funding=tuple(FundingDraft(line.debit_entry_id, line.grant_id, line.amount) for line in repayments),
                session_id=session_id,
            )
        )

    def _apply(self, repayments: Sequence[Repayment]) -> None:
        owed = {debt.debit_entry_id: int(debt.amount) for debt in self._debts}
        for line in repayments:
            self.grants[line.grant_id] = self.grants[line.grant_id].spend(line.amount)
            self.debt = MicroCredits(self.debt - line.amount)
            owed[line.debit_entry_id] -= line.amount
        self._debts = [Debt(entry_id, MicroCredits(left)) for entry_id, left in owed.items() if left]

    def _post(self, draft: EntryDraft) -> None:
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


def _postings(legs: Mapping[str, int]) -> tuple[Posting, ...]:
    return tuple(Posting(name, MicroCredits(amount)) for name, amount in legs.items() if amount)
