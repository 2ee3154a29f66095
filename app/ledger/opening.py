"""Opening an account: its row locked, what a decision needs loaded, what time has brought posted.

Several accounts in one transaction are opened in the order of their ids, so that no two transactions wait for each
other.
"""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, bindparam, select
from sqlalchemy.dialects.postgresql import insert as upsert

from app.core.account import Account
from app.core.ids import account_id_of
from app.core.units import Instant
from app.db.database import Transaction
from app.db.tables import accounts
from app.ledger.book import Book, LedgerPorts
from app.ledger.keys import LedgerKeys
from app.ledger.rows import (
    credit_reserved,
    debts_of,
    grant_of,
    hold_of,
    loaded_grants,
    paid_debits,
    terms_document,
)

_LOCKED: Final = select(accounts).where(accounts.c.account_id == bindparam("mine")).with_for_update()


async def open_book(
    transaction: Transaction,
    ports: LedgerPorts,
    account_id: UUID,
    now: Instant,
    sessions: Sequence[UUID] = (),
    *,
    correcting: UUID | None = None,
) -> Book | None:
    """Lock an account and open it, with the holds of ``sessions``; null if there is no such account.

    ``correcting``: a session whose charge may be given back, so its debits are read and the grants that paid them.
    """
    row = (await transaction.execute(_LOCKED, {"mine": account_id})).one_or_none()
    if row is None:
        return None
    debits = [] if correcting is None else await paid_debits(transaction, account_id, correcting)
    paying = {line.grant_id for debit in debits for line in (*debit.drawn, *debit.repaid)} - {None}
    besides = [grant for grant in paying if grant is not None]
    grant_rows = await loaded_grants(transaction, account_id, ports.keys, besides)
    account = await _account(transaction, row, grant_rows, now, sessions)
    stored = {grant.id: grant_of(grant) for grant in grant_rows}
    return Book(transaction, ports, now, row, account, stored, debits)


async def account_now(transaction: Transaction, row: Row[Any], now: Instant, keys: LedgerKeys | None) -> Account:
    """The account in ``row`` as it is at ``now``, to look at: nothing of it is ever written.

    ``keys`` null: grants of the future are believed without a look at their signatures.
    """
    return await _account(transaction, row, await loaded_grants(transaction, row.account_id, keys), now, ())


async def _account(
    transaction: Transaction, row: Row[Any], grant_rows: Sequence[Row[Any]], now: Instant, sessions: Sequence[UUID]
) -> Account:
    account_id: UUID = row.account_id
    stored = {grant.id: grant_of(grant) for grant in grant_rows}
    found = {session_id: await hold_of(transaction, account_id, session_id) for session_id in sessions}
    return Account(
        now=now,
        balance=row.balance,
        debt=row.debt,
        held=row.held,
        credit_limit=row.credit_limit,
        grants=stored.values(),
        terms={g.id: terms_document(stored[g.id], g.cost_basis, g.reference) for g in grant_rows},
        holds={session_id: hold for session_id, hold in found.items() if hold is not None},
        debts=await debts_of(transaction, account_id, row.debt),
        credit_reserved=await credit_reserved(transaction, account_id),
    )


async def open_book_of_user(transaction: Transaction, ports: LedgerPorts, user_id: str, now: Instant) -> Book:
    """Lock and open the account of a user, made now if the user was never seen."""
    account_id = account_id_of(user_id)
    book = await open_book(transaction, ports, account_id, now)
    if book is None:
        await transaction.execute(
            upsert(accounts)
            .values(
                account_id=account_id,
                user_id=user_id,
                balance=0,
                debt=0,
                held=0,
                credit_limit=0,
                seq=0,
                event_seq=0,
                hold_seq=0,
                limits={},
                suspended=False,
                created_at=now,
            )
            # Another transaction may make the same account at this moment: then its row is locked below.
            .on_conflict_do_nothing()
        )
        book = await open_book(transaction, ports, account_id, now)
    if book is None:
        raise RuntimeError("an account that was just made is gone")
    return book
