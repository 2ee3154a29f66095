"""A user's statement: the entries of the ledger, newest first."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Row, Select, Uuid, any_, bindparam, false, func, select

from app.accounts.balances import is_known, unknown_user
from app.core.entries import EntryKind
from app.core.ids import AccountThing, Kind, account_id_of, parse_public_id, public_id
from app.core.units import Instant, format_credits, format_instant
from app.db.database import Database, Transaction
from app.db.tables import accounts, entries, funding
from app.errors import invalid
from app.http.csv_answers import Cell, Told
from app.http.pages import make_cursor, page, read_cursor

ROWS_AT_ONCE: Final = 1_000
"""Rows of a CSV statement that are read, and in memory, at once."""

CSV_HEADER: Final = (
    "id",
    "seq",
    "kind",
    "amount",
    "balance_after",
    "session_id",
    "grant_id",
    "reverses",
    "reason",
    "reference",
    "hash",
    "created_at",
    "funding",
)
_TOLD: Final = frozenset({"reason", "reference"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFilter:
    """Which entries of an account. ``after`` is inclusive, ``before`` is not."""

    kind: EntryKind | None = None
    session: AccountThing | None = None
    grant: AccountThing | None = None
    after: Instant | None = None
    before: Instant | None = None

    def of(self, account_id: UUID) -> Select[Any]:
        """The account's entries that fit, newest first."""
        statement = select(entries).where(entries.c.account_id == account_id).order_by(entries.c.seq.desc())
        if self.kind is not None:
            statement = statement.where(entries.c.kind == self.kind.value)
        for column, thing in ((entries.c.session_id, self.session), (entries.c.grant_id, self.grant)):
            if thing is not None:
                statement = statement.where(column == thing.id if thing.account_id == account_id else false())
        if self.after is not None:
            statement = statement.where(entries.c.seq > _last_before(account_id, self.after))
        if self.before is not None:
            statement = statement.where(entries.c.seq <= _last_before(account_id, self.before))
        return statement


def _last_before(account_id: UUID, instant: Instant) -> ColumnElement[int]:
    """The number of the account's last entry before ``instant``, or 0.

    Booking time never runs back within an account, so a period is a range of numbers: one that is long past is found by
    the index of numbers, and not by walking back to it.
    """
    found = (
        select(entries.c.seq)
        .where(entries.c.account_id == account_id, entries.c.created_at < instant)
        .order_by(entries.c.created_at.desc(), entries.c.seq.desc())
        .limit(1)
    )
    return func.coalesce(found.correlate(None).scalar_subquery(), 0)


def entry_filter(
    *,
    kind: str | None = None,
    session_id: str | None = None,
    grant_id: str | None = None,
    after: Instant | None = None,
    before: Instant | None = None,
) -> EntryFilter:
    """A filter from a client's words; 422 for a kind that there is not, or an id of something else."""
    if kind is not None and kind not in set(EntryKind):
        raise invalid("/kind", "must be one of " + ", ".join(EntryKind))
    return EntryFilter(
        kind=None if kind is None else EntryKind(kind),
        session=_thing("session_id", Kind.SESSION, session_id),
        grant=_thing("grant_id", Kind.GRANT, grant_id),
        after=after,
        before=before,
    )


def _thing(name: str, kind: Kind, text: str | None) -> AccountThing | None:
    thing = None if text is None else parse_public_id(kind, text)
    if text is not None and thing is None:
        raise invalid(f"/{name}", f"must be an id that begins with {kind}_")
    return thing


async def statement_page(
    transaction: Transaction, user_id: str, wanted: EntryFilter, *, limit: int, cursor: str | None
) -> dict[str, Any]:
    """One page; 404 for a user never seen."""
    account_id = account_id_of(user_id)
    if not await is_known(transaction, account_id):
        raise unknown_user()
    statement = wanted.of(account_id)
    position = read_cursor(cursor, int)
    if position is not None:
        statement = statement.where(entries.c.seq < position[0])
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


async def statement_rows(database: Database, user_id: str, wanted: EntryFilter) -> AsyncIterator[list[list[Cell]]]:
    """All entries that fit as rows under :data:`CSV_HEADER`, in pages; 404 for a user never seen.

    Each page is a transaction of its own, so that a slow reader holds none open. Entries never change, and those that
    come meanwhile are left out: the pages together are the statement as it was at the first one.
    """
    account_id = account_id_of(user_id)
    async with database.reading() as transaction:
        last = (
            await transaction.execute(select(accounts.c.seq).where(accounts.c.account_id == account_id))
        ).scalar_one_or_none()
    if last is None:
        raise unknown_user()
    below = last + 1
    while True:
        async with database.reading() as transaction:
            statement = wanted.of(account_id).where(entries.c.seq < below).limit(ROWS_AT_ONCE)
            rows = (await transaction.execute(statement)).all()
            documents = await _documents(transaction, account_id, rows)
        yield [_cells(document) for document in documents]
        if len(rows) < ROWS_AT_ONCE:
            return
        below = rows[-1].seq


def _cells(document: dict[str, Any]) -> list[Cell]:
    paid = "; ".join(f"{line['grant_id'] or 'credit'}={line['amount']}" for line in document["funding"])
    found = document | {"funding": paid}
    return [Told(found[name]) if name in _TOLD and found[name] is not None else found[name] for name in CSV_HEADER]


async def _documents(transaction: Transaction, account_id: UUID, rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    if not rows:
        return []
    lines: dict[UUID, list[dict[str, Any]]] = {}
    ids = bindparam("entry_ids", [row.id for row in rows], type_=ARRAY(Uuid))
    found = await transaction.execute(
        select(funding)
        .where(funding.c.account_id == account_id, funding.c.entry_id == any_(ids))
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
