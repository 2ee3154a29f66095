"""Entries with all that their MACs cover, put together from the tables in which it lies."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Column, ColumnElement, FromClause, Row, Select, Uuid, column, func, select, true
from sqlalchemy.sql.expression import cast

from app.core.chain import Entry, Funding, Posting
from app.db.database import Transaction
from app.db.tables import charges, funding, grants, postings
from app.ledger.rows import grant_of, terms_document


async def signed_entries(transaction: Transaction, rows: Sequence[Row[Any]]) -> list[tuple[Entry, bytes]]:
    """Rows of entries with all that their MACs cover, and these as stored."""
    named = _keys_of((row.account_id, row.id) for row in rows)
    legs: dict[tuple[UUID, UUID], list[Posting]] = defaultdict(list)
    for row in await transaction.execute(_of(named, postings.c.entry_id).order_by("leg")):
        legs[row.account_id, row.entry_id].append(Posting(row.ledger_account, row.amount))
    paid: dict[tuple[UUID, UUID], list[Funding]] = defaultdict(list)
    for row in await transaction.execute(_of(named, funding.c.entry_id).order_by("line")):
        paid[row.account_id, row.entry_id].append(Funding(row.debit_entry_id, row.grant_id, row.amount))
    opened = _keys_of((row.account_id, row.grant_id) for row in rows if _opens_grant(row))
    terms = {
        (row.account_id, row.id): terms_document(grant_of(row), row.cost_basis, row.reference)
        for row in await transaction.execute(_of(opened, grants.c.id))
    }
    charged = _keys_of({(row.account_id, row.session_id) for row in rows if row.session_id is not None})
    digest = charges.c.account_id, charges.c.entry_id, charges.c.evidence_digest
    digests = {
        (row.account_id, row.entry_id): row.evidence_digest
        for row in await transaction.execute(_of(charged, charges.c.session_id, *digest))
    }

    def entry_of(row: Row[Any]) -> Entry:
        key = (row.account_id, row.id)
        return Entry(
            account_id=row.account_id,
            id=row.id,
            seq=row.seq,
            natural_key=row.natural_key,
            kind=row.kind,
            amount=row.amount,
            balance_after=row.balance_after,
            session_id=row.session_id,
            grant_id=row.grant_id,
            reverses=row.reverses,
            reason=row.reason,
            reference=row.reference,
            created_at=row.created_at,
            postings=legs[key],
            funding=paid[key],
            terms=terms.get((row.account_id, row.grant_id)) if _opens_grant(row) else None,
            charge_digest=digests.get(key),
            key_id=row.key_id,
        )

    return [(entry_of(row), row.mac) for row in rows]


def _opens_grant(row: Row[Any]) -> bool:
    return row.grant_id is not None and row.amount > 0


def _keys_of(pairs: Iterable[tuple[UUID, UUID]]) -> FromClause:
    """Pairs of account and row as a table of their own, so that each of their rows is looked up by its key."""
    listed = list(pairs)
    columns = [cast([pair[n] for pair in listed], ARRAY(Uuid)) for n in range(2)]
    named = func.unnest(*columns).table_valued(column("account_id", Uuid), column("id", Uuid), name="named")
    return named.render_derived()


def _of(named: FromClause, its_id: Column[UUID], *columns: ColumnElement[Any]) -> Select[Any]:
    """The rows of a table that have one of the keys ``named``: all of each, or ``columns``."""
    table = its_id.table
    mine = (table.c.account_id == named.c.account_id) & (its_id == named.c.id)
    # The offset is a fence: each row is looked up by its key, however few the planner takes the table to have.
    rows = select(*(columns or table.c)).where(mine).offset(0).lateral("rows")
    return select(rows).select_from(named.join(rows, true()))
