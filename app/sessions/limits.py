"""What forbids a start whatever credits are there, and how much an account may still spend."""

from sqlalchemy import func, select

from app.core.entries import EntryKind
from app.core.lifecycle import State
from app.core.spending import Period, Spending, end_of, start_of
from app.core.units import Instant, MicroCredits, format_credits, format_instant
from app.db.database import Transaction
from app.db.tables import entries, sessions
from app.errors import SPEND_LIMIT_REACHED, STARTS_STOPPED, TOO_MANY_SESSIONS, USER_SUSPENDED, Problem
from app.ledger.book import Book
from app.ledger.controls import load_controls

_SPENDING = [kind.value for kind in (EntryKind.CHARGE, EntryKind.RERATE, EntryKind.REFUND)]


async def check_account(transaction: Transaction, book: Book) -> None:
    """Whether the user may start a session now, whatever it costs; else a :class:`~app.errors.Problem`: 503
    ``starts-stopped``, 409 ``user-suspended`` or ``too-many-sessions``."""
    stopped = (await load_controls(transaction)).starts_stopped
    if stopped is not None:
        raise Problem(STARTS_STOPPED, f"an operator stopped all starts: {stopped}")
    if book.suspended:
        raise Problem(USER_SUSPENDED, "this user may not start sessions")
    most = book.limits.get("max_concurrent_sessions")
    if most is not None:
        active = await transaction.execute(
            select(func.count()).where(
                sessions.c.account_id == book.account_id,
                sessions.c.state.in_([State.STARTING.value, State.UNCONFIRMED.value, State.LIVE.value]),
            )
        )
        if active.scalar_one() >= int(most):
            raise Problem(TOO_MANY_SESSIONS, f"this user may have {most} sessions at once")


async def spending(transaction: Transaction, book: Book) -> list[Spending]:
    """The account's limits on spending, and what they leave; empty if it has none."""
    found: list[Spending] = []
    for period in Period:
        limit = book.limits.get(f"spend_{period}")
        if limit is None:
            continue
        begun = start_of(period, book.booked_at)
        corrected = entries.alias()
        reversed_by = (corrected.c.account_id == entries.c.account_id) & (corrected.c.id == entries.c.reverses)
        # What is given back gives room in the period of the charge that it was given back of, and in no other.
        charged = (
            select(-func.coalesce(func.sum(entries.c.amount), 0))
            .select_from(entries.outerjoin(corrected, reversed_by))
            .where(
                entries.c.account_id == book.account_id,
                entries.c.created_at >= begun,
                entries.c.kind.in_(_SPENDING),
                (entries.c.amount < 0) | (corrected.c.created_at >= begun),
            )
        )
        amount = MicroCredits(int((await transaction.execute(charged)).scalar_one()))
        found.append(Spending(period, MicroCredits(int(limit)), amount, book.account.held))
    return found


def spend_limit_reached(spent: Spending, now: Instant) -> Problem:
    return Problem(
        SPEND_LIMIT_REACHED,
        f"{format_credits(spent.room)} of {format_credits(spent.limit)} credits a {spent.period} are left",
        extra={
            "period": spent.period.value,
            "limit": format_credits(spent.limit),
            "charged": format_credits(spent.charged),
            "held": format_credits(spent.held),
            "resets_at": format_instant(end_of(spent.period, now)),
        },
    )
