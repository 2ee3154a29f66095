"""Short ways to say grants, lines and accounts in tests of the ledger's rules. Amounts are whole micro-credits."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from app.core.account import Account, Hold
from app.core.ledger import Debt, Grant, GrantKind, GrantState, Line
from app.core.units import Instant, MicroCredits

NOW: Final = Instant(1_000)
PAID, PROMOTIONAL = GrantKind.PAID, GrantKind.PROMOTIONAL
SCHEDULED, ACTIVE, EXPIRED, VOIDED = GrantState.SCHEDULED, GrantState.ACTIVE, GrantState.EXPIRED, GrantState.VOIDED


def uid(n: int) -> UUID:
    return UUID(int=n)


def grant(
    n: int,
    amount: int = 100,
    *,
    remaining: int | None = None,
    held: int = 0,
    kind: GrantKind = PAID,
    priority: int = 50,
    effective_at: int = 0,
    expires_at: int | None = None,
    created_at: int = 0,
    state: GrantState = ACTIVE,
) -> Grant:
    """The grant with the id ``uid(n)``; untouched unless said."""
    return Grant(
        id=uid(n),
        kind=kind,
        priority=priority,
        amount=MicroCredits(amount),
        effective_at=Instant(effective_at),
        expires_at=None if expires_at is None else Instant(expires_at),
        created_at=Instant(created_at),
        remaining=MicroCredits(amount if remaining is None else remaining),
        held=MicroCredits(held),
        state=state,
    )


def line(n: int | None, amount: int) -> Line:
    """``amount`` of grant ``n``, or of the user's credit."""
    return Line(None if n is None else uid(n), MicroCredits(amount))


def lines(*pairs: tuple[int | None, int]) -> list[Line]:
    return [line(n, amount) for n, amount in pairs]


def debt(n: int, amount: int) -> Debt:
    return Debt(uid(n), MicroCredits(amount))


def terms(of: Grant, reference: str | None = None) -> dict[str, Any]:
    return {"grant": of.id.hex, "reference": reference}


def account(
    grants: Iterable[Grant] = (),
    *,
    now: int = NOW,
    debts: Sequence[Debt] = (),
    credit_limit: int = 0,
    holds: Mapping[int, Sequence[tuple[int | None, int]]] | None = None,
    reserved_elsewhere: int = 0,
) -> Account:
    """An account whose balance, debt and held follow from its grants, debts and holds (of session ``uid(n)``).

    ``reserved_elsewhere``: credit that holds of sessions not at hand reserve.
    """
    found = list(grants)
    opened = {uid(n): Hold(tuple(lines(*pairs)), 1) for n, pairs in (holds or {}).items()}
    owed = sum(item.amount for item in debts)
    reserved = reserved_elsewhere + sum(
        part.amount for hold in opened.values() for part in hold.lines if part.grant_id is None
    )
    return Account(
        now=Instant(now),
        balance=MicroCredits(sum(item.remaining for item in found if item.state is not SCHEDULED) - owed),
        debt=MicroCredits(owed),
        held=MicroCredits(sum(item.held for item in found) + reserved),
        credit_limit=MicroCredits(credit_limit),
        grants=found,
        terms={item.id: terms(item) for item in found},
        holds=opened,
        debts=debts,
        credit_reserved=MicroCredits(reserved),
    )
