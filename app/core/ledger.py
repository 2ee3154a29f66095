"""The rules of the ledger: burn order, what a hold reserves, what a debit draws on, how debt is repaid.

balance = the sum of what remains of the grants − debt; available = balance + credit limit − holds.
At each commit: while there is debt, no grant has a usable remainder that is not held.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

from app.core.units import Instant, MicroCredits

DEFAULT_PRIORITY: Final = 50
"""Of 0 to 100; lower burns first."""


class GrantKind(StrEnum):
    PAID = "paid"
    PROMOTIONAL = "promotional"


class GrantState(StrEnum):
    SCHEDULED = "scheduled"
    """Not effective yet: not part of the balance."""
    ACTIVE = "active"
    EXPIRED = "expired"
    VOIDED = "voided"
    """Closed, like expired: nothing remains of it but what running sessions still hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    id: UUID
    kind: GrantKind
    priority: int
    amount: MicroCredits
    effective_at: Instant
    expires_at: Instant | None
    created_at: Instant
    remaining: MicroCredits
    held: MicroCredits
    state: GrantState
    announced: bool = False
    """Whether it was said that it will expire soon."""

    @property
    def unheld(self) -> MicroCredits:
        """What a new hold, a debit or an expiry can take now; 0 unless the grant is active."""
        return MicroCredits(self.remaining - self.held if self.state is GrantState.ACTIVE else 0)

    @property
    def closed(self) -> bool:
        """Whether nothing may remain of it but what running sessions hold."""
        return self.state in {GrantState.EXPIRED, GrantState.VOIDED}

    def spend(self, amount: int) -> "Grant":
        """Without ``amount`` of what remains; with that much more if it is negative."""
        return replace(self, remaining=MicroCredits(self.remaining - amount))

    def hold(self, amount: int) -> "Grant":
        """Hold ``amount`` more, or less if it is negative."""
        return replace(self, held=MicroCredits(self.held + amount))


class Line(NamedTuple):
    """An amount that comes from a grant or, where null, from the user's credit limit."""

    grant_id: UUID | None
    amount: MicroCredits


_NEVER: Final = Instant(1 << 62)


def burn_order(grants: Iterable[Grant]) -> list[Grant]:
    """Lower priority first, then earlier expiry, promotional before paid, earlier effective, earlier created, id."""
    return sorted(
        grants,
        key=lambda grant: (
            grant.priority,
            _NEVER if grant.expires_at is None else grant.expires_at,
            grant.kind is GrantKind.PAID,
            grant.effective_at,
            grant.created_at,
            grant.id,
        ),
    )


def allocate(amount: MicroCredits, grants: Iterable[Grant]) -> list[Line]:
    """The lines of a hold of ``amount``: unheld remainders in burn order, the rest on credit."""
    lines: list[Line] = []
    left = int(amount)
    for grant in burn_order(grants):
        taken = min(left, grant.unheld)
        if taken > 0:
            lines.append(Line(grant.id, MicroCredits(taken)))
            left -= taken
    if left > 0:
        lines.append(Line(None, MicroCredits(left)))
    return lines


def lower(lines: Sequence[Line], target: MicroCredits) -> list[Line]:
    """The lines of a hold lowered to ``target``, one for one: freed from the last to the first, so credit goes first.

    ``lines`` are in burn order with the credit line at the end, as :func:`allocate` made them.
    """
    excess = max(0, sum(line.amount for line in lines) - target)
    lowered: list[Line] = []
    for line in reversed(lines):
        freed = min(excess, line.amount)
        excess -= freed
        lowered.append(Line(line.grant_id, MicroCredits(line.amount - freed)))
    return lowered[::-1]


@dataclass(frozen=True, slots=True)
class Draw:
    """Where a debit comes from. ``leakage`` is what nothing could pay."""

    lines: tuple[Line, ...]
    leakage: MicroCredits

    @property
    def amount(self) -> MicroCredits:
        return MicroCredits(sum(line.amount for line in self.lines))


def draw(amount: MicroCredits, held: Sequence[Line], grants: Sequence[Grant], credit_room: MicroCredits) -> Draw:
    """Draw ``amount``: from the hold's grant lines in burn order, then unheld grants usable now, then credit.

    ``grants`` are as they are while ``held`` still reserves its part. ``credit_room`` is how far the debt may grow
    besides what ``held`` reserves of it; a negative room counts as none.
    """
    left = int(amount)
    drawn: dict[UUID | None, int] = {}

    def take(source: UUID | None, at_most: int) -> None:
        nonlocal left
        taken = min(left, at_most)
        if taken > 0:
            drawn[source] = drawn.get(source, 0) + taken
            left -= taken

    for line in held:
        if line.grant_id is not None:
            take(line.grant_id, line.amount)
    for grant in burn_order(grants):
        take(grant.id, grant.unheld)
    held_credit = sum(line.amount for line in held if line.grant_id is None)
    take(None, held_credit + max(0, credit_room))
    return Draw(tuple(Line(source, MicroCredits(taken)) for source, taken in drawn.items()), MicroCredits(left))


class Debt(NamedTuple):
    """What is still unpaid of a debit that was drawn on credit."""

    debit_entry_id: UUID
    amount: MicroCredits


class Repayment(NamedTuple):
    debit_entry_id: UUID
    grant_id: UUID
    amount: MicroCredits


class Return(NamedTuple):
    """``amount`` given back of what ``grant_id`` (null: credit that is still owed) paid of a debit."""

    debit_entry_id: UUID
    grant_id: UUID | None
    amount: MicroCredits


def repay(debts: Sequence[Debt], grants: Iterable[Grant]) -> list[Repayment]:
    """Repay ``debts`` (oldest first) from unheld remainders in burn order, until either is used up."""
    repayments: list[Repayment] = []
    usable = {grant.id: int(grant.unheld) for grant in burn_order(grants) if grant.unheld > 0}
    for debt in debts:
        owed = int(debt.amount)
        for grant_id, left in usable.items():
            paid = min(owed, left)
            if paid:
                repayments.append(Repayment(debt.debit_entry_id, grant_id, MicroCredits(paid)))
                usable[grant_id] = left - paid
                owed -= paid
    return repayments
