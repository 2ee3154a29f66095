"""Reads everything that is stored and says what does not hold. Changes nothing.

The checks of :mod:`app.ledger.checks` find what contradicts itself; the chain, recomputed here with keys that the
database does not know, finds what was forged to agree. What neither can see alone: a last entry deleted together with
all that follows from it, the account rewound. That shows only against heads that were exported after it.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, select, text

from app.core.chain import Entry, Funding, Posting, mac
from app.core.ids import account_id_of
from app.db.database import Transaction
from app.db.tables import accounts, charges, entries, funding, grants, postings
from app.ledger.checks import CHECKS
from app.ledger.keys import LedgerKeys
from app.ledger.rows import grant_of, terms_document

MAX_FINDINGS: Final = 100
"""Each check reports at most so many rows."""

CHAIN: Final = "entry-chain"
IDENTITY: Final = "account-identity"
_ACCOUNTS_AT_ONCE: Final = 200


@dataclass(frozen=True, slots=True)
class Finding:
    """One row that breaks a promise; ``check`` is its name in docs/invariants.md."""

    check: str
    account_id: UUID
    row: str
    detail: str


async def verify(transaction: Transaction, keys: LedgerKeys | None) -> list[Finding]:
    """All findings, check by check, at most :data:`MAX_FINDINGS` of each. ``keys`` null: the chain is left out.

    ``transaction`` must see one state throughout, as :meth:`app.db.database.Database.reading` gives it.
    """
    found: list[Finding] = []
    for check in CHECKS:
        statement = text(f"select * from ({check.sql}) found order by account_id, row limit {MAX_FINDINGS}")  # noqa: S608
        rows = await transaction.execute(statement)
        found.extend(Finding(check.name, row.account_id, row.row, row.detail) for row in rows)
    chain: list[Finding] = []
    identity: list[Finding] = []
    after: UUID | None = None
    while True:
        page = select(accounts.c.account_id, accounts.c.user_id).order_by(accounts.c.account_id)
        if after is not None:
            page = page.where(accounts.c.account_id > after)
        owners = (await transaction.execute(page.limit(_ACCOUNTS_AT_ONCE))).all()
        if not owners:
            break
        after = owners[-1].account_id
        identity.extend(
            Finding(IDENTITY, owner.account_id, "account", "its id is not that of its user")
            for owner in owners
            if account_id_of(owner.user_id) != owner.account_id
        )
        if keys is not None:
            chain.extend(await _broken_links(transaction, keys, [owner.account_id for owner in owners]))
    return [*found, *identity[:MAX_FINDINGS], *chain[:MAX_FINDINGS]]


async def _broken_links(transaction: Transaction, keys: LedgerKeys, among: Sequence[UUID]) -> list[Finding]:
    """Entries whose MAC is not that of their content and the entry before them."""
    by_account: dict[UUID, list[tuple[Entry, bytes]]] = defaultdict(list)
    for entry, tag in await _entries(transaction, among):
        by_account[entry.account_id].append((entry, tag))
    found: list[Finding] = []
    for account_id, chain in by_account.items():
        previous: bytes | None = None
        for entry, tag in chain:
            key = keys.key(entry.key_id)
            if key is None:
                found.append(
                    Finding(CHAIN, account_id, f"entry {entry.seq}", f"signed with key {entry.key_id}, not ours")
                )
            elif mac(entry, previous, key) != tag:
                found.append(Finding(CHAIN, account_id, f"entry {entry.seq}", "its MAC does not fit"))
            previous = tag
    return found


async def _entries(transaction: Transaction, among: Sequence[UUID]) -> list[tuple[Entry, bytes]]:
    """The entries of some accounts in order, each with all that its MAC covers, and its MAC as stored."""
    legs: dict[tuple[UUID, UUID], list[Posting]] = defaultdict(list)
    for row in await transaction.execute(
        select(postings).where(postings.c.account_id.in_(among)).order_by(postings.c.leg)
    ):
        legs[row.account_id, row.entry_id].append(Posting(row.ledger_account, row.amount))
    paid: dict[tuple[UUID, UUID], list[Funding]] = defaultdict(list)
    for row in await transaction.execute(
        select(funding).where(funding.c.account_id.in_(among)).order_by(funding.c.line)
    ):
        paid[row.account_id, row.entry_id].append(Funding(row.debit_entry_id, row.grant_id, row.amount))
    terms: dict[tuple[UUID, UUID | None], dict[str, Any]] = {
        (row.account_id, row.id): terms_document(grant_of(row), row.cost_basis, row.reference)
        for row in await transaction.execute(select(grants).where(grants.c.account_id.in_(among)))
    }
    digests: dict[tuple[UUID, UUID], bytes] = {
        (row.account_id, row.entry_id): row.evidence_digest
        for row in await transaction.execute(
            select(charges.c.account_id, charges.c.entry_id, charges.c.evidence_digest).where(
                charges.c.account_id.in_(among), charges.c.entry_id.is_not(None)
            )
        )
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
            terms=terms.get((row.account_id, row.grant_id)) if row.kind == "grant" else None,
            charge_digest=digests.get(key),
            key_id=row.key_id,
        )

    rows = await transaction.execute(
        select(entries).where(entries.c.account_id.in_(among)).order_by(entries.c.account_id, entries.c.seq)
    )
    return [(entry_of(row), row.mac) for row in rows]
