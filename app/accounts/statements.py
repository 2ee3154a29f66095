"""A user's statement: the entries of the ledger, newest first."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select

from app.accounts.balances import is_known
from app.core.entries import EntryKind
from app.core.ids import Kind, account_id_of, public_id
from app.core.units import Instant, format_credits, format_instant
from app.db.database import Transaction
from app.db.tables import entries, funding
from app.errors import invalid
from app.http.pages import make_cursor, page, read_cursor


async def statement_page(
    transaction: Transaction,
    user_id: str,
    *,
    limit: int,
    cursor: str | None,
    kind: str | None,
    after: Instant | None,
    before: Instant | None,
) -> dict[str, Any] | None:
    """One page; null for a user never seen. ``after`` is inclusive, ``before`` is not."""
    account_id = account_id_of(user_id)
    if not await is_known(transaction, account_id):
        return None
    statement = select(entries).where(entries.c.account_id == account_id).order_by(entries.c.seq.desc())
    position = read_cursor(cursor, int)
    if position is not None:
        statement = statement.where(entries.c.seq < position[0])
    if kind is not None:
        if kind not in set(EntryKind):
            raise invalid("/kind", "must be one of " + ", ".join(EntryKind))
        statement = statement.where(entries.c.kind == kind)
    if after is not None:
        statement = statement.where(entries.c.created_at >= after)
    if before is not None:
        statement = statement.where(entries.c.created_at < before)
    rows = (await transaction.execute(statement.limit(limit + 1))).all()
    shown = rows[:limit]
    documents = await _documents(transaction, account_id, shown)
    return page(documents, make_cursor(shown[-1].seq) if len(rows) > limit else None)


async def entry_documents(
    transaction: Transaction, account_id: UUID, entry_ids: Sequence[UUID]
) -> list[dict[str, Any]]:
    """Entries of an account as the statement shows them, in their order."""
    rows = await transaction.execute(
        select(entries).where(entries.c.account_id == account_id, entries.c.id.in_(entry_ids)).order_by(entries.c.seq)
    )
    return await _documents(transaction, account_id, rows.all())


async def _documents(transaction: Transaction, account_id: UUID, rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    lines: dict[UUID, list[dict[str, Any]]] = {}
    found = await transaction.execute(
        select(funding)
        .where(funding.c.account_id == account_id, funding.c.entry_id.in_([row.id for row in rows]))
        .order_by(funding.c.entry_id, funding.c.line)
    )
    for line in found:
        lines.setdefault(line.entry_id, []).append(
            {
                "grant_id": _public(Kind.GRANT, account_id, line.grant_id),
                "amount": format_credits(line.amount),
                "debit_entry_id": _public(Kind.ENTRY, account_id, line.debit_entry_id),
            }
        )
    return [
        {
            "id": _public(Kind.ENTRY, account_id, row.id),
            "seq": row.seq,
            "kind": row.kind,
            "amount": format_credits(row.amount),
            "balance_after": format_credits(row.balance_after),
            "session_id": _public(Kind.SESSION, account_id, row.session_id),
            "grant_id": _public(Kind.GRANT, account_id, row.grant_id),
            "reverses": _public(Kind.ENTRY, account_id, row.reverses),
            "reason": row.reason,
            "reference": row.reference,
            "hash": row.mac.hex(),
            "created_at": format_instant(row.created_at),
            "funding": lines.get(row.id, []),
        }
        for row in rows
    ]


def _public(kind: Kind, account_id: UUID, thing_id: UUID | None) -> str | None:
    return None if thing_id is None else public_id(kind, account_id, thing_id)
