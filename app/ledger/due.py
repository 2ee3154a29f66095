"""Posting what time brings to accounts that nobody touches: activations, expiries, announcements of expiry.

Whoever opens an account posts what is due in it; this opens those that have something due. Each in a transaction of its
own, so that one that is broken stops no other, and doing it twice does nothing.
"""

from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import select

from app.core.ledger import GrantState
from app.core.units import Instant, Micros
from app.db.database import Database, DatabaseUnavailable, Transaction
from app.db.tables import accounts, grants
from app.ledger.book import LedgerPorts
from app.ledger.controls import load_controls
from app.ledger.opening import open_book

BATCH: Final = 500

log = structlog.get_logger(__name__)


async def post_due(database: Database, ledger: LedgerPorts, now: Instant) -> int:
    """Bring every account that has something due by ``now`` up to date; how many there were."""
    done = 0
    after: tuple[Instant, UUID] | None = None
    while True:
        async with database.reading() as transaction:
            lead = (await load_controls(transaction)).expiring_before
            page = await _due(transaction, now, after)
        for _, account_id in page:
            await _post(database, ledger, account_id, now, lead)
        done += len(page)
        if len(page) < BATCH:
            break
        after = page[-1]
    return done + await _announce(database, ledger, now)


async def _due(
    transaction: Transaction, now: Instant, after: tuple[Instant, UUID] | None
) -> list[tuple[Instant, UUID]]:
    """Accounts with something due, longest due first, behind ``after``: one that is broken is passed by."""
    statement = (
        select(accounts.c.next_due_at, accounts.c.account_id)
        .where(accounts.c.next_due_at <= now)
        .order_by(accounts.c.next_due_at, accounts.c.account_id)
        .limit(BATCH)
    )
    if after is not None:
        at, account_id = after
        later = accounts.c.next_due_at > at
        statement = statement.where(later | ((accounts.c.next_due_at == at) & (accounts.c.account_id > account_id)))
    return [(row.next_due_at, row.account_id) for row in await transaction.execute(statement)]


async def _announce(database: Database, ledger: LedgerPorts, now: Instant) -> int:
    """Accounts with grants that will have expired within the lead and were not announced yet."""
    done = 0
    after = UUID(int=0)
    while True:
        async with database.reading() as transaction:
            lead = (await load_controls(transaction)).expiring_before
            statement = (
                select(grants.c.account_id)
                .where(
                    grants.c.expires_at <= now + lead,
                    grants.c.expires_at > now,
                    ~grants.c.announced,
                    grants.c.state == GrantState.ACTIVE.value,
                    grants.c.remaining > 0,
                    grants.c.account_id > after,
                )
                .distinct()
                .order_by(grants.c.account_id)
                .limit(BATCH)
            )
            page = list((await transaction.execute(statement)).scalars())
        for account_id in page:
            await _post(database, ledger, account_id, now, lead)
        done += len(page)
        if len(page) < BATCH:
            return done
        after = page[-1]


async def _post(database: Database, ledger: LedgerPorts, account_id: UUID, now: Instant, lead: Micros) -> None:
    try:
        async with database.transaction() as transaction:
            book = await open_book(transaction, ledger, account_id, now)
            if book is not None:
                book.announce_expiring(lead)
                await book.close()
    except DatabaseUnavailable:
        raise
    except Exception:
        log.exception("due.broke", account_id=str(account_id))
