"""Reading what a book is opened with."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import BindParameter, Row, bindparam, case, func, select

from app.core.account import BrokenLedger, Hold
from app.core.chain import grant_mac
from app.core.corrections import PaidDebit
from app.core.entries import EntryKind
from app.core.ledger import Debt, Grant, GrantKind, GrantState, Line
from app.core.units import MicroCredits
from app.db.database import Transaction
from app.db.tables import entries, funding, grants, hold_lines, holds, limit_changes
from app.ledger.keys import LedgerKeys

_DEBTS_AT_ONCE: Final = 200
_MINE: Final[BindParameter[Any]] = bindparam("mine")
_GRANTS: Final = select(
    # Without what clients keep with them: it decides nothing, and may be some kilobytes each.
    *(column for column in grants.c if column is not grants.c.metadata)
).where(grants.c.account_id == _MINE)
_REMAINS: Final = grants.c.remaining > 0
_REMAINING_GRANTS: Final = _GRANTS.where(_REMAINS)
_SESSION_DEBITS: Final = (
    select(entries.c.id)
    .where(entries.c.account_id == _MINE, entries.c.session_id == bindparam("session"))
    .where(entries.c.kind.in_([EntryKind.CHARGE.value, EntryKind.RERATE.value]), entries.c.amount < 0)
    .order_by(entries.c.seq)
)
_DEBITS_FUNDING: Final = (
    select(funding)
    .join(entries, (entries.c.account_id == funding.c.account_id) & (entries.c.id == funding.c.entry_id))
    .where(funding.c.account_id == _MINE, funding.c.debit_entry_id.in_(bindparam("debits", expanding=True)))
    .order_by(entries.c.seq, funding.c.line)
)
_HOLD: Final = select(holds.c.changes, holds.c.state).where(
    holds.c.account_id == _MINE, holds.c.session_id == bindparam("session")
)
_HOLD_LINES: Final = (
    select(hold_lines.c.grant_id, hold_lines.c.amount)
    .where(hold_lines.c.account_id == _MINE, hold_lines.c.session_id == bindparam("session"))
    .order_by(hold_lines.c.line)
)
_CREDIT_RESERVED: Final = select(func.coalesce(func.sum(hold_lines.c.amount), 0)).where(
    hold_lines.c.account_id == _MINE, hold_lines.c.grant_id.is_(None), hold_lines.c.amount > 0
)

log = structlog.get_logger(__name__)


async def loaded_grants(
    transaction: Transaction, account_id: UUID, keys: LedgerKeys | None, besides: Sequence[UUID] = ()
) -> list[Row[Any]]:
    """The grants of which something remains and, spent or not, those named ``besides``.

    Left out are grants of the future that nobody gave or that were voided: a row that somebody put into the table, or
    opened again, never becomes credits. ``keys`` null: signatures are not looked at. (Grants that are effective are
    covered by the chain.)
    """
    wanted = _GRANTS.where(_REMAINS | grants.c.id.in_(besides)) if besides else _REMAINING_GRANTS
    rows = (await transaction.execute(wanted, {"mine": account_id})).all()
    coming = [row for row in rows if row.state == GrantState.SCHEDULED.value]
    if not coming:
        return list(rows)
    named = select(entries.c.grant_id).where(
        entries.c.account_id == account_id, entries.c.grant_id.in_([row.id for row in coming])
    )
    closed = set((await transaction.execute(named)).scalars())
    forged = {row.id for row in coming if row.id in closed or (keys is not None and forged_terms(row, keys))}
    for grant_id in forged:
        log.error("ledger.forged_grant", account_id=str(account_id), grant_id=str(grant_id))
    return [row for row in rows if row.id not in forged]


def grant_of(row: Row[Any]) -> Grant:
    """The grant in a row of the grants table."""
    return Grant(
        id=row.id,
        kind=GrantKind(row.kind),
        priority=row.priority,
        amount=row.amount,
        effective_at=row.effective_at,
        expires_at=row.expires_at,
        created_at=row.created_at,
        remaining=row.remaining,
        held=row.held,
        state=GrantState(row.state),
        announced=row.announced,
    )


def forged_terms(row: Row[Any], keys: LedgerKeys) -> str | None:
    """What is wrong with the signature of a grant's terms; null if it fits."""
    if row.terms_mac is None:
        return "its terms were never signed"
    key = keys.key(row.terms_key)
    if key is None:
        return f"signed with key {row.terms_key}, not ours"
    terms = terms_document(grant_of(row), row.cost_basis, row.reference)
    return None if grant_mac(row.account_id, terms, key) == row.terms_mac else "the MAC of its terms does not fit"


def terms_document(grant: Grant, cost_basis: int | None, reference: str | None) -> dict[str, Any]:
    """The terms of a grant as its entry's MAC covers them."""
    return {
        "grant": grant.id.hex,
        "kind": grant.kind.value,
        "priority": grant.priority,
        "amount": grant.amount,
        "effective_at": grant.effective_at,
        "expires_at": grant.expires_at,
        "created_at": grant.created_at,
        "cost_basis": cost_basis,
        "reference": reference,
    }


async def hold_of(transaction: Transaction, account_id: UUID, session_id: UUID) -> Hold | None:
    key = {"mine": account_id, "session": session_id}
    row = (await transaction.execute(_HOLD, key)).one_or_none()
    if row is None:
        return None
    lines = await transaction.execute(_HOLD_LINES, key)
    return Hold(tuple(Line(line.grant_id, line.amount) for line in lines), row.changes, row.state)


async def credit_reserved(transaction: Transaction, account_id: UUID) -> MicroCredits:
    return MicroCredits(int((await transaction.execute(_CREDIT_RESERVED, {"mine": account_id})).scalar_one()))


async def last_limit_change(transaction: Transaction, account_id: UUID) -> int:
    """The number of the account's last change of its credit limit; 0 if there was none."""
    statement = select(func.coalesce(func.max(limit_changes.c.n), 0)).where(limit_changes.c.account_id == account_id)
    return int((await transaction.execute(statement)).scalar_one())


async def debts_of(transaction: Transaction, account_id: UUID, debt: MicroCredits) -> list[Debt]:
    """Debits drawn on credit and not yet repaid or given back, oldest first; together they are ``debt``.

    Debits that ever drew on credit are read from the latest back until they explain the whole debt: the oldest is
    repaid first, so what is long paid is not read again and again.
    """
    found: list[tuple[int, Debt]] = []
    left = int(debt)
    before: UUID | None = None
    while left:
        ids = (
            select(funding.c.debit_entry_id)
            .where(funding.c.account_id == account_id, funding.c.grant_id.is_(None))
            .distinct()
            .order_by(funding.c.debit_entry_id.desc())
            .limit(_DEBTS_AT_ONCE)
        )
        if before is not None:
            ids = ids.where(funding.c.debit_entry_id < before)
        page = list((await transaction.execute(ids)).scalars())
        if not page:
            raise BrokenLedger("no debits explain the account's debt")
        before = page[-1]
        for debt_of_one in await _owed(transaction, account_id, page):
            found.append(debt_of_one)
            left -= debt_of_one[1].amount
    return [one for _, one in sorted(found)]


async def _owed(transaction: Transaction, account_id: UUID, debits: Sequence[UUID]) -> list[tuple[int, Debt]]:
    """What is owed of each of these debits, with the number of its entry; those of which nothing is, left out."""
    # Drawn on credit, less what was given back of that (a negative line), less what grants repaid of it.
    owed = func.sum(case((funding.c.grant_id.is_(None), funding.c.amount), else_=-funding.c.amount))
    repaid = (funding.c.entry_id != funding.c.debit_entry_id) & (funding.c.amount > 0)
    rows = await transaction.execute(
        select(funding.c.debit_entry_id, entries.c.seq, owed.label("owed"))
        .join(entries, (entries.c.account_id == funding.c.account_id) & (entries.c.id == funding.c.debit_entry_id))
        .where(
            funding.c.account_id == account_id,
            funding.c.debit_entry_id.in_(debits),
            funding.c.grant_id.is_(None) | repaid,
        )
        .group_by(funding.c.debit_entry_id, entries.c.seq)
        .having(owed > 0)
    )
    return [(row.seq, Debt(row.debit_entry_id, MicroCredits(int(row.owed)))) for row in rows]


async def paid_debits(transaction: Transaction, account_id: UUID, session_id: UUID) -> list[PaidDebit]:
    """What a session was debited, oldest first, and what became of the funding of each debit."""
    debits = list((await transaction.execute(_SESSION_DEBITS, {"mine": account_id, "session": session_id})).scalars())
    drawn: dict[UUID, list[Line]] = defaultdict(list)
    repaid: dict[UUID, list[Line]] = defaultdict(list)
    returned: dict[UUID, list[Line]] = defaultdict(list)
    rows = await transaction.execute(_DEBITS_FUNDING, {"mine": account_id, "debits": debits})
    for row in rows:
        debit = row.debit_entry_id
        if row.amount < 0:
            returned[debit].append(Line(row.grant_id, MicroCredits(-row.amount)))
        else:
            (drawn if row.entry_id == debit else repaid)[debit].append(Line(row.grant_id, row.amount))
    return [
        PaidDebit(
            entry_id=debit, drawn=tuple(drawn[debit]), repaid=tuple(repaid[debit]), returned=tuple(returned[debit])
        )
        for debit in debits
    ]
