"""Corrections: adjustments by hand, and giving back or adding to what a session was charged.

What a debit was paid with is given back in this order: what is still owed of it, then what repaid debt, then the grants
that it was drawn from, the last one first. A grant that expired meanwhile is not revived: its part returns as a grant
of goodwill. A grant that was voided gets its part and loses it again. Nothing is ever given back twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from app.core.account import Account, BrokenLedger
from app.core.entries import ADJUSTED, CONSUMED, EntryDraft, EntryKind, FundingDraft
from app.core.ledger import Draw, Grant, GrantState, Line, Return
from app.core.units import Instant, MicroCredits

BELOW_FLOOR: Final = "adjust-below-floor"
"""Begins the natural key of the one kind of entry that may take an account below its floor."""


# Adjustments


def adjust_up(account: Account, grant: Grant, terms: Mapping[str, Any], *, cause: str, reason: str) -> None:
    """Give credits by hand: ``grant``, active from now on."""
    account.open_grant(
        grant,
        EntryDraft(
            kind=EntryKind.ADJUSTMENT,
            natural_key=f"adjust:{cause}",
            amount=grant.amount,
            postings=(),
            reason=reason,
            terms=terms,
        ),
        {ADJUSTED: -grant.amount},
    )


def adjust_down(
    account: Account, amount: MicroCredits, *, cause: str, reason: str, allow_below_floor: bool
) -> MicroCredits:
    """Take ``amount`` (> 0) by hand; answers what is missing, and takes nothing, unless that is 0.

    What running sessions hold stays theirs. ``allow_below_floor``: what is missing becomes debt past the credit limit,
    as after a chargeback.
    """
    drawn = account.drawn_now(amount)
    if drawn.leakage and not allow_below_floor:
        return drawn.leakage
    account.post_debit(
        _with_credit(drawn),
        EntryDraft(
            kind=EntryKind.ADJUSTMENT,
            natural_key=f"{BELOW_FLOOR if drawn.leakage else 'adjust'}:{cause}",
            amount=MicroCredits(-amount),
            postings=(),
            reason=reason,
        ),
        ADJUSTED,
    )
    return MicroCredits(0)


def take_back(
    account: Account, grant_id: UUID, amount: MicroCredits, *, cause: str, reason: str, reference: str | None
) -> None:
    """Take ``amount`` (> 0) whose payment went back: from its own grant first, then as :func:`adjust_down`, below the
    floor if it must be.

    The grant stays open: what running sessions hold of it is theirs to use, and it was taken from elsewhere; what a
    session gets back later returns to it, as that was not what was paid back.
    """
    drawn = account.drawn_first(grant_id, amount)
    account.post_debit(
        _with_credit(drawn),
        EntryDraft(
            kind=EntryKind.ADJUSTMENT,
            natural_key=f"{BELOW_FLOOR if drawn.leakage else 'adjust'}:{cause}",
            amount=MicroCredits(-amount),
            postings=(),
            reason=reason,
            reference=reference,
        ),
        ADJUSTED,
    )


def _with_credit(drawn: Draw) -> list[Line]:
    """The lines, with what nothing could pay drawn on credit all the same."""
    lines = [line for line in drawn.lines if line.grant_id is not None]
    on_credit = drawn.leakage + sum(line.amount for line in drawn.lines if line.grant_id is None)
    return [*lines, Line(None, MicroCredits(on_credit))] if on_credit else lines


# Giving back


@dataclass(frozen=True, slots=True, kw_only=True)
class PaidDebit:
    """A posted debit of a session, and what became of its funding. Lines are in the order in which they were booked.

    ``drawn``: what it was drawn from, credit where the grant is null. ``repaid``: what grants repaid of its credit part
    later. ``returned``: what was given back already, by the source that it was given back for.
    """

    entry_id: UUID
    drawn: tuple[Line, ...]
    repaid: tuple[Line, ...]
    returned: tuple[Line, ...]

    @property
    def gross(self) -> MicroCredits:
        return MicroCredits(sum(line.amount for line in self.drawn))

    @property
    def left(self) -> MicroCredits:
        """What can still be given back."""
        return MicroCredits(self.gross - sum(line.amount for line in self.returned))


def plan_returns(debits: Sequence[PaidDebit], amount: MicroCredits) -> list[Return]:
    """Where ``amount`` goes back to. ``debits`` are the oldest first; the latest is given back first.

    Raises :class:`~app.core.account.BrokenLedger` if that much is not left of them.
    """
    owed: list[Return] = []
    repaying: list[Return] = []
    drawn: list[Return] = []
    for debit in reversed(debits):
        returned: dict[UUID | None, int] = {}
        for line in debit.returned:
            returned[line.grant_id] = returned.get(line.grant_id, 0) + line.amount
        on_credit = sum(line.amount for line in debit.drawn if line.grant_id is None)
        still_owed = on_credit - sum(line.amount for line in debit.repaid) - returned.get(None, 0)
        owed.append(Return(debit.entry_id, None, MicroCredits(still_owed)))
        repaying.extend(_left(debit.entry_id, debit.repaid, returned))
        drawn.extend(_left(debit.entry_id, [line for line in debit.drawn if line.grant_id is not None], returned))
    planned: list[Return] = []
    rest = int(amount)
    for place in (*owed, *repaying, *drawn):
        taken = min(rest, place.amount)
        if taken > 0:
            planned.append(place._replace(amount=MicroCredits(taken)))
            rest -= taken
    if rest:
        raise BrokenLedger("more was to be given back than is left of the debits")
    return planned


def _left(debit_entry_id: UUID, lines: Sequence[Line], returned: dict[UUID | None, int]) -> list[Return]:
    """The lines from the last to the first, less what was ``returned`` of them before, which came off in that order."""
    left: list[Return] = []
    for line in reversed(lines):
        gone = min(returned.get(line.grant_id, 0), line.amount)
        returned[line.grant_id] = returned.get(line.grant_id, 0) - gone
        left.append(Return(debit_entry_id, line.grant_id, MicroCredits(line.amount - gone)))
    return left


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Why a session's charge is corrected. ``natural_key`` is derived from the cause and never used twice.

    ``charge_digest``: the evidence of the new charge, where there is one.
    """

    kind: EntryKind
    natural_key: str
    reason: str
    session_id: UUID
    charge_digest: bytes | None = None


GoodwillTerms = Callable[[MicroCredits], tuple[Grant, Mapping[str, Any]]]
"""Makes the grant, active from now on, and its terms, that returns an amount which belonged to expired grants."""


def give_back(
    account: Account,
    debits: Sequence[PaidDebit],
    amount: MicroCredits,
    why: Correction,
    *,
    now: Instant,
    goodwill: GoodwillTerms,
) -> Grant | None:
    """Give back ``amount`` of the session's debits; each debit gets an entry of its own that reverses it.

    The account must have been opened with every grant that paid a part. Answers the grant of goodwill, if one was made.
    """
    returns = plan_returns(debits, amount)
    lost = {grant.id for grant in account.grants.values() if _expired(grant, now)}
    drafts = 0

    def entry(lines: Sequence[Return]) -> EntryDraft:
        nonlocal drafts
        drafts += 1
        return EntryDraft(
            kind=why.kind,
            # The first has the plain key: what happens again fails on it, whatever it would be made of.
            natural_key=why.natural_key if drafts == 1 else f"{why.natural_key}:{drafts}",
            amount=MicroCredits(sum(line.amount for line in lines)),
            postings=(),
            funding=tuple(
                FundingDraft(line.debit_entry_id, line.grant_id, MicroCredits(-line.amount)) for line in lines
            ),
            session_id=why.session_id,
            reverses=lines[0].debit_entry_id,
            reason=why.reason,
            charge_digest=why.charge_digest if drafts == 1 else None,
        )

    for debit in reversed(debits):
        kept = [line for line in returns if line.debit_entry_id == debit.entry_id and line.grant_id not in lost]
        if kept:
            account.post_returns(kept, entry(kept))
    touched = [line.grant_id for line in returns if line.grant_id is not None and line.grant_id not in lost]
    account.settle_freed(touched, why.natural_key, session_id=why.session_id, reason=why.reason)
    lines = [line for line in returns if line.grant_id in lost]
    if not lines:
        return None
    draft = entry(lines)
    grant, terms = goodwill(draft.amount)
    account.open_grant(grant, replace(draft, terms=terms), {CONSUMED: -draft.amount})
    return grant


def _expired(grant: Grant, now: Instant) -> bool:
    """Whether nothing may come back to the grant: it ran out. (One that was voided takes its part, and loses it.)"""
    past = grant.expires_at is not None and grant.expires_at <= now
    return grant.state is GrantState.EXPIRED or (past and grant.state is not GrantState.VOIDED)


def charge_more(account: Account, amount: MicroCredits, why: Correction, reverses: UUID | None) -> Draw:
    """Draw ``amount`` more for a session whose charge was too low: from what is available, and no more."""
    drawn = account.drawn_now(amount)
    if drawn.amount:
        account.post_debit(
            drawn.lines,
            EntryDraft(
                kind=why.kind,
                natural_key=why.natural_key,
                amount=MicroCredits(-drawn.amount),
                postings=(),
                session_id=why.session_id,
                reverses=reverses,
                reason=why.reason,
                charge_digest=why.charge_digest,
            ),
            CONSUMED,
        )
    return drawn
