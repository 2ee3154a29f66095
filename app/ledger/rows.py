"""Reading what a book is opened with."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, case, func, select

from app.core.account import Hold
from app.core.ledger import Debt, Grant, GrantKind, GrantState, Line
from app.core.units import MicroCredits
from app.db.database import Transaction
from app.db.tables import entries, funding, grants, hold_lines, holds


async def unspent_grants(transaction: Transaction, account_id: UUID) -> Sequence[Row[Any]]:
    statement = select(grants).where(grants.c.account_id == account_id, grants.c.remaining > 0)
    return (await transaction.execute(statement)).all()


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
    )


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
    row = (
        await transaction.execute(
            select(holds.c.changes, holds.c.state).where(
                holds.c.account_id == account_id, holds.c.session_id == session_id
            )
        )
    ).one_or_none()
    if row is None:
        return None
    lines = await transaction.execute(
        select(hold_lines.c.grant_id, hold_lines.c.amount)
        .where(hold_lines.c.account_id == account_id, hold_lines.c.session_id == session_id)
        .order_by(hold_lines.c.line)
    )
    return Hold(tuple(Line(line.grant_id, line.amount) for line in lines), row.changes, row.state)


async def credit_reserved(transaction: Transaction, account_id: UUID) -> MicroCredits:
    statement = select(func.coalesce(func.sum(hold_lines.c.amount), 0)).where(
        hold_lines.c.account_id == account_id, hold_lines.c.grant_id.is_(None), hold_lines.c.amount > 0
    )
    return MicroCredits(int((await transaction.execute(statement)).scalar_one()))


async def debts_of(transaction: Transaction, account_id: UUID) -> list[Debt]:
    """Debits drawn on credit and not repaid, oldest first."""
    owed = func.sum(case((funding.c.entry_id == funding.c.debit_entry_id, funding.c.amount), else_=-funding.c.amount))
    drawn_or_repaid = funding.c.grant_id.is_(None) | (funding.c.entry_id != funding.c.debit_entry_id)
    rows = await transaction.execute(
        select(funding.c.debit_entry_id, owed.label("owed"))
        .join(entries, (entries.c.account_id == funding.c.account_id) & (entries.c.id == funding.c.debit_entry_id))
        .where(funding.c.account_id == account_id, drawn_or_repaid)
        .group_by(funding.c.debit_entry_id, entries.c.seq)
        .having(owed > 0)
        .order_by(entries.c.seq)
    )
    return [Debt(row.debit_entry_id, MicroCredits(int(row.owed))) for row in rows]
