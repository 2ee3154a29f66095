"""Payments as they are stored, and listed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from app.core.ids import NIL_ACCOUNT, Kind, account_id_of, parse_reference_id, payment_id_of, public_id, reference_id
from app.core.payments import Dispute, Known, Paid, Stage
from app.core.units import Instant, MicroCredits, format_credits, format_instant
from app.db.database import Transaction
from app.db.keyset import beyond
from app.db.tables import payment_events, payments
from app.errors import NOT_FOUND, Problem
from app.http.pages import cursor_instant, cursor_uuid, make_cursor, page, read_cursor
from app.payments.stripe import Attention, Event

WAITING: Final = "waiting"
"""Nothing was granted for it: that it was paid is not known yet, or a person has to say what it is."""
GRANTED: Final = "granted"
DISMISSED: Final = "dismissed"
"""A person said that nothing is to be granted for it."""
STATES: Final = (WAITING, GRANTED, DISMISSED)

_MINE: Final = payments.c.account_id == NIL_ACCOUNT
_LOCKED: Final = select(payments).where(_MINE, payments.c.id == bindparam("of")).with_for_update()
_MAKE: Final = upsert(payments).on_conflict_do_nothing()
_NOTE: Final = upsert(payment_events).on_conflict_do_nothing().returning(payment_events.c.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A payment whose row is locked. ``credits``: what was granted for it, once something was; ``taken``: what of that
    went back, in ``moves`` steps so far."""

    id: UUID
    reference: str
    state: str
    attention: Attention | None
    known: Known
    grant_id: UUID | None
    credits: MicroCredits
    taken: MicroCredits
    moves: int
    created_at: Instant

    @property
    def public_id(self) -> str:
        return reference_id(Kind.PAYMENT, self.id)

    @property
    def user_id(self) -> str | None:
        return None if self.known.paid is None else self.known.paid.user_id


async def lock_payment(transaction: Transaction, reference: str, now: Instant) -> Payment:
    """The payment that is called so, made now if nothing was told of it before; locked until the transaction ends."""
    payment_id = payment_id_of(reference)
    await transaction.execute(
        _MAKE,
        {
            "account_id": NIL_ACCOUNT,
            "id": payment_id,
            "reference": reference,
            "state": WAITING,
            "charged": 0,
            "refunded": 0,
            "disputes": {},
            "taken": 0,
            "moves": 0,
            "created_at": now,
            "changed_at": now,
        },
    )
    found = await find_locked(transaction, payment_id)
    if found is None:
        raise RuntimeError("a payment that was just made is gone")
    return found


async def find_locked(transaction: Transaction, payment_id: UUID) -> Payment | None:
    row = (await transaction.execute(_LOCKED, {"of": payment_id})).one_or_none()
    return None if row is None else _payment_of(row)


async def note_event(transaction: Transaction, payment: Payment, event: Event, now: Instant) -> bool:
    """Write down that the event came; whether it is new."""
    noted = {
        "account_id": NIL_ACCOUNT,
        "id": event.id,
        "payment_id": payment.id,
        "type": event.kind,
        "created_at": event.created_at,
        "received_at": now,
    }
    return (await transaction.execute(_NOTE, noted)).one_or_none() is not None


async def store_payment(transaction: Transaction, payment: Payment, now: Instant) -> None:
    paid = payment.known.paid
    granted = payment.credits if payment.grant_id is not None else None
    user_id = payment.user_id
    await transaction.execute(
        update(payments)
        .where(_MINE, payments.c.id == payment.id)
        .values(
            state=payment.state,
            attention=payment.attention,
            user_id=user_id,
            user_account=None if user_id is None else account_id_of(user_id),
            grant_id=payment.grant_id,
            credits=granted or (None if paid is None else paid.credits),
            amount=None if paid is None else paid.amount,
            currency=None if paid is None else paid.currency,
            charged=payment.known.charged,
            refunded=payment.known.refunded,
            disputes={
                name: [int(one.stage), one.at, int(one.kept), one.amount, one.currency]
                for name, one in payment.known.disputes.items()
            },
            taken=payment.taken,
            moves=payment.moves,
            changed_at=now,
        )
    )


def _payment_of(row: Row[Any]) -> Payment:
    paid = None
    if row.amount is not None:
        paid = Paid(amount=row.amount, currency=row.currency, user_id=row.user_id, credits=row.credits)
    return Payment(
        id=row.id,
        reference=row.reference,
        state=row.state,
        attention=None if row.attention is None else Attention(row.attention),
        known=Known(paid=paid, charged=row.charged, refunded=row.refunded, disputes=_disputes_of(row.disputes)),
        grant_id=row.grant_id,
        credits=row.credits or MicroCredits(0),
        taken=row.taken,
        moves=row.moves,
        created_at=row.created_at,
    )


def _disputes_of(stored: Mapping[str, Any]) -> dict[str, Dispute]:
    return {
        name: Dispute(Stage(int(stage)), int(at), kept=bool(int(kept)), amount=int(amount), currency=currency)
        for name, (stage, at, kept, amount, currency) in stored.items()
    }


# Lists


async def payments_page(
    transaction: Transaction, *, limit: int, cursor: str | None, user_id: str | None, needs_attention: bool | None
) -> dict[str, Any]:
    """A page of payments, newest first."""
    statement = select(payments).where(_MINE).order_by(payments.c.created_at.desc(), payments.c.id.desc())
    if user_id is not None:
        statement = statement.where(payments.c.user_account == account_id_of(user_id))
    if needs_attention is not None:
        attention = payments.c.attention
        statement = statement.where(attention.is_not(None) if needs_attention else attention.is_(None))
    position = read_cursor(cursor, int, str)
    if position is not None:
        last = cursor_instant(position[0]), cursor_uuid(position[1])
        statement = statement.where(beyond((payments.c.created_at, payments.c.id), last, down=True))
    rows = (await transaction.execute(statement.limit(limit + 1))).all()
    shown = rows[:limit]
    more = make_cursor(shown[-1].created_at, str(shown[-1].id)) if len(rows) > limit else None
    return page([payment_document(row) for row in shown], more)


async def count_attention(transaction: Transaction) -> int:
    """How many payments a person has to look at."""
    statement = select(func.count()).select_from(payments).where(_MINE, payments.c.attention.is_not(None))
    return int((await transaction.execute(statement)).scalar_one())


async def load_payment(transaction: Transaction, payment_id: UUID) -> dict[str, Any]:
    """A payment with the events that told of it. Raises a :class:`~app.errors.Problem`, 404."""
    row = (await transaction.execute(select(payments).where(_MINE, payments.c.id == payment_id))).one_or_none()
    if row is None:
        raise unknown_payment()
    told = await transaction.execute(
        select(payment_events)
        .where(payment_events.c.account_id == NIL_ACCOUNT, payment_events.c.payment_id == payment_id)
        .order_by(payment_events.c.received_at, payment_events.c.id)
        .limit(MOST_EVENTS)
    )
    heard = [
        {
            "id": event.id,
            "type": event.type,
            "created_at": format_instant(event.created_at),
            "received_at": format_instant(event.received_at),
        }
        for event in told
    ]
    return {**payment_document(row), "events": heard}


MOST_EVENTS: Final = 200
"""Events that are told of one payment."""


def payment_document(row: Row[Any]) -> dict[str, Any]:
    disputes = _disputes_of(row.disputes)
    return {
        "id": reference_id(Kind.PAYMENT, row.id),
        "reference": row.reference,
        "state": row.state,
        "attention": row.attention,
        "user_id": row.user_id,
        "grant_id": None if row.grant_id is None else public_id(Kind.GRANT, row.user_account, row.grant_id),
        "credits": None if row.credits is None else format_credits(row.credits),
        "taken": format_credits(row.taken),
        "amount": row.amount,
        "currency": row.currency,
        "charged": row.charged,
        "refunded": row.refunded,
        "disputed": sum(one.taken for one in disputes.values()),
        "created_at": format_instant(row.created_at),
        "changed_at": format_instant(row.changed_at),
    }


def payment_key(text: str) -> UUID:
    """The payment with this public id. Raises a :class:`~app.errors.Problem`, 404, if it is no payment's."""
    found = parse_reference_id(Kind.PAYMENT, text)
    if found is None:
        raise unknown_payment()
    return found


def unknown_payment() -> Problem:
    return Problem(NOT_FOUND, "there is no payment with this id")


def with_paid(known: Known, user_id: str, amount: MicroCredits) -> Known:
    """What is known, with what a person says of a payment."""
    return replace(known, paid=None if known.paid is None else replace(known.paid, user_id=user_id, credits=amount))
