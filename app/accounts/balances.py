"""A user's balance, now and at any past instant: O(1) in the number of entries."""

from typing import Any
from uuid import UUID

from sqlalchemy import BindParameter, Column, Row, Table, bindparam, func, select

from app.core.account import Account
from app.core.ids import account_id_of
from app.core.ledger import GrantState
from app.core.units import Instant, MicroCredits, Micros, format_credits, format_instant, seconds
from app.core.worst_case import affordable_time
from app.db.database import Transaction
from app.db.tables import RUNNING, accounts, entries, hold_changes, limit_changes, sessions
from app.errors import NOT_FOUND, Problem, invalid
from app.ledger.keys import LedgerKeys
from app.ledger.opening import account_now
from app.pricing.cards import card_of_account


async def balance_document(
    transaction: Transaction, user_id: str, now: Instant, longest: Micros, keys: LedgerKeys | None
) -> dict[str, Any]:
    """Balance, holds and what they leave, as they are at ``now`` even if nothing was posted since it came due.

    ``talk_time_s``: how long a session could last that started now at the user's own prices, at most ``longest``.
    404 for a user never seen.
    """
    return await balance_of_row(transaction, await account_row(transaction, user_id), now, longest, keys)


async def account_row(transaction: Transaction, user_id: str) -> Row[Any]:
    """A user's account as it is stored. 404 for a user never seen."""
    statement = select(accounts).where(accounts.c.account_id == account_id_of(user_id))
    row = (await transaction.execute(statement)).one_or_none()
    if row is None:
        raise unknown_user()
    return row


async def balance_of_row(
    transaction: Transaction, row: Row[Any], now: Instant, longest: Micros, keys: LedgerKeys | None
) -> dict[str, Any]:
    """The same of an account whose row was read already, in the same transaction."""
    account = await account_now(transaction, row, now, keys)
    card = await card_of_account(transaction, row.rate_card, now)
    talk_time = affordable_time(card.card, MicroCredits(max(0, account.available)), longest)
    return {
        "user_id": row.user_id,
        "balance": format_credits(account.balance),
        "held": format_credits(account.held),
        "available": format_credits(account.available),
        "credit_limit": format_credits(account.credit_limit),
        "accrued": format_credits(await _accrued(transaction, row.account_id)),
        "talk_time_s": seconds(talk_time),
        "expiring_next": _expiring_next(account),
        "as_of": format_instant(now),
    }


async def past_balance_document(transaction: Transaction, user_id: str, at: Instant, now: Instant) -> dict[str, Any]:
    """What was booked up to and at ``at``: zeros before the account's first booking; what is worked out from running
    sessions, prices and grants to come is null.

    404 for a user never seen, 422 for an instant that is still to come.
    """
    if at > now:
        raise invalid("/at", "must not be in the future")
    account_id = account_id_of(user_id)
    if not await is_known(transaction, account_id):
        raise unknown_user()
    balance = await _last(transaction, account_id, entries.c.balance_after, entries.c.created_at, entries.c.seq, at)
    held = await _last(transaction, account_id, hold_changes.c.held_after, hold_changes.c.at, hold_changes.c.seq, at)
    limit = await _last(
        transaction, account_id, limit_changes.c.credit_limit, limit_changes.c.at, limit_changes.c.n, at
    )
    return {
        "user_id": user_id,
        "balance": format_credits(balance),
        "held": format_credits(held),
        "available": format_credits(MicroCredits(balance + limit - held)),
        "credit_limit": format_credits(limit),
        "accrued": None,
        "talk_time_s": None,
        "expiring_next": None,
        "as_of": format_instant(at),
    }


async def _last(
    transaction: Transaction, account_id: UUID, value: Column[Any], time: Column[Any], number: Column[Any], at: Instant
) -> MicroCredits:
    """``value`` in the account's last row up to and at ``at``; 0 if there is none."""
    table: Table = value.table
    statement = (
        select(value).where(table.c.account_id == account_id, time <= at).order_by(time.desc(), number.desc()).limit(1)
    )
    return MicroCredits((await transaction.execute(statement)).scalar_one_or_none() or 0)


async def is_known(transaction: Transaction, account_id: UUID) -> bool:
    """Whether the user was ever seen."""
    statement = select(accounts.c.account_id).where(accounts.c.account_id == account_id)
    return (await transaction.execute(statement)).one_or_none() is not None


def unknown_user() -> Problem:
    """It does not repeat the address, in which a key may stand by mistake: answers are kept in logs of others."""
    return Problem(NOT_FOUND, "there is no user with this id: a first grant or session makes one")


def _expiring_next(account: Account) -> dict[str, Any] | None:
    """What nothing holds of the grants that expire next."""
    expiring = [
        (grant.expires_at, grant.unheld)
        for grant in account.grants.values()
        if grant.expires_at is not None and grant.state is GrantState.ACTIVE and grant.unheld
    ]
    if not expiring:
        return None
    at = min(instant for instant, _ in expiring)
    amount = sum(unheld for instant, unheld in expiring if instant == at)
    return {"amount": format_credits(MicroCredits(amount)), "at": format_instant(at)}


async def _accrued(transaction: Transaction, account_id: UUID) -> MicroCredits:
    """What running sessions have cost so far; not posted, and still to change."""
    # As literals, so that the planner sees that the index of running sessions covers it.
    running: BindParameter[str] = bindparam("running", RUNNING, expanding=True, literal_execute=True)
    statement = select(func.coalesce(func.sum(sessions.c.accrued), 0)).where(
        sessions.c.account_id == account_id, sessions.c.state.in_(running), sessions.c.charged.is_(None)
    )
    return MicroCredits(int((await transaction.execute(statement)).scalar_one()))
