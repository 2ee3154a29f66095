"""Reads everything that is stored and says what does not hold. Changes nothing.

The checks of :mod:`app.ledger.checks` find what contradicts itself; the chain, recomputed here with keys that the
database does not know, finds what was forged to agree. What neither can see alone: a last entry deleted together with
all that follows from it, the account rewound. That shows only against heads (:mod:`app.ledger.heads`) that were
exported after it.

However much there is, only :data:`AT_ONCE` rows of a kind are in memory.
"""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    FromClause,
    Row,
    func,
    select,
    text,
    tuple_,
)

from app.core.chain import Entry, limit_mac, mac
from app.core.ids import account_id_of
from app.db.database import Transaction
from app.db.tables import accounts, entries, grants, limit_changes
from app.ledger.checks import CHECKS
from app.ledger.findings import MAX_FINDINGS, Finding, Findings, Progress, untold
from app.ledger.heads import HeadsFile, check_heads
from app.ledger.keys import LedgerKeys
from app.ledger.rows import forged_terms
from app.ledger.signed import signed_entries

CHAIN: Final = "entry-chain"
IDENTITY: Final = "account-identity"
TERMS: Final = "grant-terms"
LIMITS: Final = "limit-change"
AT_ONCE: Final = 2_000
_OTHER_JOINS: Final = text(
    "select set_config(name, :are, true) from unnest(array['enable_nestloop', 'enable_mergejoin']) name"
)


async def verify(
    transaction: Transaction,
    keys: LedgerKeys | None,
    *,
    heads: Sequence[HeadsFile] = (),
    progress: Progress = untold,
) -> Findings:
    """All findings. ``keys`` null: the chain and the terms of grants are left out. ``heads``: exported earlier.

    ``transaction`` must see one state throughout, as :meth:`app.db.database.Database.reading` gives it.
    """
    found = Findings()
    # Whole tables are joined by all of their keys. Where statistics are old, a nested loop, or a merge by account
    # alone, seems cheap and would never end.
    await transaction.execute(_OTHER_JOINS, {"are": "off"})
    for n, check in enumerate(CHECKS, 1):
        statement = f"select * from ({check.sql}) found order by account_id, row limit {MAX_FINDINGS + 1}"  # noqa: S608
        for row in await transaction.execute(text(statement)):
            found.add(Finding(check.name, row.account_id, row.row, row.detail))
        progress("checks", n, len(CHECKS))
    await transaction.execute(_OTHER_JOINS, {"are": "on"})
    await _identities(transaction, found, progress)
    if keys is not None:
        await _chains(transaction, keys, found, progress)
        await _terms(transaction, keys, found, progress)
        await _limits(transaction, keys, found)
    for exported in heads:
        await check_heads(transaction, exported, found, progress)
    return found


async def _identities(transaction: Transaction, found: Findings, progress: Progress) -> None:
    total, done = await _count(transaction, accounts), 0
    page = select(accounts.c.account_id, accounts.c.user_id).order_by(accounts.c.account_id).limit(AT_ONCE)
    rows = (await transaction.execute(page)).all()
    while rows:
        for row in rows:
            if account_id_of(row.user_id) != row.account_id:
                found.add(Finding(IDENTITY, row.account_id, "account", "its id is not that of its user"))
        done += len(rows)
        progress("accounts", done, total)
        rows = (await transaction.execute(page.where(accounts.c.account_id > rows[-1].account_id))).all()


async def _chains(transaction: Transaction, keys: LedgerKeys, found: Findings, progress: Progress) -> None:
    """Entries whose MAC is not that of their content and the entry before them."""
    total, done = await _count(transaction, entries), 0
    place = tuple_(entries.c.account_id, entries.c.seq)
    page = select(entries).order_by(entries.c.account_id, entries.c.seq).limit(AT_ONCE)
    account_id: UUID | None = None
    previous: bytes | None = None
    rows = (await transaction.execute(page)).all()
    while rows:
        for entry, tag in await signed_entries(transaction, rows):
            if entry.account_id != account_id:
                account_id, previous = entry.account_id, None
            fault = _broken_link(entry, tag, previous, keys)
            if fault is not None:
                found.add(Finding(CHAIN, entry.account_id, f"entry {entry.seq}", f"{fault} (id {entry.id})"))
            # After a broken link from what is stored: what follows is judged by itself.
            previous = tag
        done += len(rows)
        progress("entries", done, total)
        last = rows[-1]
        rows = (await transaction.execute(page.where(place > tuple_(last.account_id, last.seq)))).all()


def _broken_link(entry: Entry, tag: bytes, previous: bytes | None, keys: LedgerKeys) -> str | None:
    key = keys.key(entry.key_id)
    if key is None:
        return f"signed with key {entry.key_id}, not ours"
    return None if mac(entry, previous, key) == tag else "its MAC does not fit"


async def _terms(transaction: Transaction, keys: LedgerKeys, found: Findings, progress: Progress) -> None:
    """Grants whose terms are not those that were signed when they were made."""
    total, done = await _count(transaction, grants), 0
    place = tuple_(grants.c.account_id, grants.c.id)
    page = select(grants).order_by(grants.c.account_id, grants.c.id).limit(AT_ONCE)
    rows = (await transaction.execute(page)).all()
    while rows:
        for row in rows:
            fault = None if row.terms_mac is None else forged_terms(row, keys)
            if fault is not None:
                found.add(Finding(TERMS, row.account_id, f"grant {row.id}", fault))
        done += len(rows)
        progress("grants", done, total)
        rows = (await transaction.execute(page.where(place > tuple_(rows[-1].account_id, rows[-1].id)))).all()


async def _limits(transaction: Transaction, keys: LedgerKeys, found: Findings) -> None:
    """Changes of a credit limit that are not what was signed."""
    place = tuple_(limit_changes.c.account_id, limit_changes.c.n)
    page = select(limit_changes).order_by(limit_changes.c.account_id, limit_changes.c.n).limit(AT_ONCE)
    rows = (await transaction.execute(page)).all()
    while rows:
        for row in rows:
            fault = _forged_limit(row, keys)
            if fault is not None:
                found.add(Finding(LIMITS, row.account_id, f"limit change {row.n}", fault))
        rows = (await transaction.execute(page.where(place > tuple_(rows[-1].account_id, rows[-1].n)))).all()


def _forged_limit(row: Row[Any], keys: LedgerKeys) -> str | None:
    key = keys.key(row.key_id)
    if key is None:
        return f"signed with key {row.key_id}, not ours"
    fits = limit_mac(row.account_id, row.n, row.credit_limit, row.reason, row.at, key) == row.mac
    return None if fits else "its MAC does not fit"


async def _count(transaction: Transaction, table: FromClause) -> int:
    return int((await transaction.execute(select(func.count()).select_from(table))).scalar_one())
