"""What a payment comes to in its user's account: a grant when it is paid, and what goes back when it goes back.

One transaction locks the payment's row, merges what was told into what is known (:mod:`app.core.payments`), and brings
the account to where that says it must be. So an event that comes twice, or after one that was sent later, changes
nothing that is right already. Locks are taken in one order: the payment's row, then the account's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import func, select

from app.accounts.grants import MAX_BALANCE, grant_by_reference
from app.core.access import Actor
from app.core.corrections import adjust_up, take_back
from app.core.entries import EntryDraft
from app.core.ids import NIL_ACCOUNT, account_id_of
from app.core.ledger import GrantKind, GrantState
from app.core.payments import cost_basis, step
from app.core.units import Instant, MicroCredits, format_credits
from app.db.database import Transaction
from app.db.tables import entries
from app.documents import Document, PlainString, PositiveCredits, Reason, Text
from app.errors import NOTHING_PAID, PAYMENT_NOT_OPEN, WRONG_MODE, Problem, invalid
from app.events.outbox import EventType, emit_of_nobody
from app.ledger.audit import Audit, record_audits
from app.ledger.book import Book, GrantTerms, LedgerPorts
from app.ledger.opening import open_book, open_book_of_user
from app.payments.rows import (
    DISMISSED,
    GRANTED,
    WAITING,
    Payment,
    find_locked,
    lock_payment,
    note_event,
    store_payment,
    unknown_payment,
    with_paid,
)
from app.payments.stripe import Attention, Event

REFUNDED: Final = "the payment was refunded or is disputed"
REINSTATED: Final = "the dispute over the payment was decided for the seller"


@dataclass(frozen=True, slots=True)
class PaymentTerms:
    """What payments are taken as. ``rates``: credits for the smallest unit of a currency."""

    live: bool
    rates: Mapping[str, MicroCredits]


class ResolutionDocument(Document):
    """``grant``: give ``credits`` for it to ``user_id``; each may be left out where it is known. ``dismiss``: nothing
    is to be granted, or what needed attention was seen to."""

    action: Annotated[Literal["grant", "dismiss"], PlainString]
    user_id: Text | None = None
    credits: PositiveCredits | None = None
    reason: Reason

    @model_validator(mode="after")
    def _fits_the_action(self) -> "ResolutionDocument":
        if self.action == "dismiss" and (self.user_id is not None or self.credits is not None):
            raise PydanticCustomError("action", "user_id and credits are for the action grant")
        return self


def check_mode(event: Event, terms: PaymentTerms) -> bool:
    """Whether the event is of the mode that is served. Tests are passed over by a live service, as Stripe asks for.

    Raises a :class:`~app.errors.Problem`, 409, for a live event where test mode is served: somebody has paid, so it
    must come again once that is set right.
    """
    if event.live and not terms.live:
        raise Problem(WRONG_MODE, "set TALKTIME_STRIPE_LIVE, or send these events elsewhere")
    return event.live == terms.live


async def receive(transaction: Transaction, ledger: LedgerPorts, event: Event, now: Instant, actor: Actor) -> None:
    """Bring what an event tells into the books. An event that is about no payment, or came before, does nothing."""
    if event.reference is None:
        return
    payment = await lock_payment(transaction, event.reference, now)
    if not await note_event(transaction, payment, event, now):
        return
    before = payment.attention
    known = payment.known.merge(event.known)
    payment = replace(payment, known=known, attention=_attention(payment, event))
    payment = await _bring_up(transaction, ledger, payment, now, actor, None)
    if payment.state == GRANTED and payment.attention is None and _newly_incomparable(payment, event):
        payment = replace(payment, attention=Attention.OTHER_CURRENCY)
    if payment.attention is not None and payment.attention != before:
        await _call_for_attention(transaction, ledger, payment, now, actor)
    await store_payment(transaction, payment, now)


def _newly_incomparable(payment: Payment, event: Event) -> bool:
    """Whether the event tells, or is the first from which one can tell, of money back in another currency."""
    return payment.known.incomparable and bool(event.known.disputes or event.known.paid)


def _attention(payment: Payment, event: Event) -> Attention | None:
    """What there is to look at once the event has come. What stands already was not seen to yet."""
    if payment.attention is not None or event.attention is None or payment.state == DISMISSED:
        return payment.attention
    odd_but_done = payment.state == GRANTED and event.attention is not Attention.REFUND_FAILED
    never_granted = payment.state != GRANTED and event.attention is Attention.REFUND_FAILED
    return None if odd_but_done or never_granted else event.attention


async def _call_for_attention(
    transaction: Transaction, ledger: LedgerPorts, payment: Payment, now: Instant, actor: Actor
) -> None:
    told = {"payment_id": payment.public_id, "reference": payment.reference, "attention": str(payment.attention)}
    await emit_of_nobody(transaction, ledger.ids, now, EventType.PAYMENT_ATTENTION, told)
    audit = Audit(actor=actor, action="payment.attention", target=payment.public_id, after=told)
    await record_audits(transaction, ledger.ids, NIL_ACCOUNT, [audit], now)


async def _bring_up(
    transaction: Transaction, ledger: LedgerPorts, payment: Payment, now: Instant, actor: Actor, why: str | None
) -> Payment:
    """The payment after its user's account was brought to what is known of it. ``why``: what a person says to it."""
    book: Book | None = None
    paid = payment.known.paid
    if payment.state == WAITING and paid is not None and paid.user_id is not None and paid.credits is not None:
        book = await open_book_of_user(transaction, ledger, paid.user_id, now)
        payment = await _grant(transaction, book, payment, actor, why)
    if payment.grant_id is None or payment.user_id is None:
        return payment
    if payment.known.owed(payment.credits) != payment.taken:
        book = book or await open_book(transaction, ledger, account_id_of(payment.user_id), now)
        if book is None:
            raise RuntimeError("the account of a payment's grant is gone")
        payment = await _take_or_give(transaction, book, payment, payment.grant_id, actor)
    if book is not None:
        await book.close()
    return payment


async def _grant(transaction: Transaction, book: Book, payment: Payment, actor: Actor, why: str | None) -> Payment:
    """Grant what was paid for, unless a grant has this reference already: then that is the payment's."""
    paid = payment.known.paid
    if paid is None or paid.credits is None:
        return payment
    earlier = await grant_by_reference(transaction, book.account_id, payment.reference)
    if earlier is not None:
        as_paid = (earlier.amount, earlier.kind) == (paid.credits, GrantKind.PAID)
        otherwise = not as_paid or earlier.state == GrantState.SCHEDULED
        return replace(
            payment,
            state=GRANTED,
            attention=Attention.GRANTED_OTHERWISE if otherwise else None,
            grant_id=earlier.id,
            credits=earlier.amount,
        )
    if sum(grant.remaining for grant in book.account.grants.values()) + paid.credits > MAX_BALANCE:
        return replace(payment, attention=Attention.TOO_MUCH)
    grant_id = book.grant(
        GrantTerms(
            amount=paid.credits,
            kind=GrantKind.PAID,
            effective_at=book.now,
            cost_basis=cost_basis(paid, paid.credits),
            reference=payment.reference,
            metadata={"payment_id": payment.public_id, "amount": str(paid.amount), "currency": paid.currency},
        )
    )
    book.audit(
        Audit(
            actor=actor,
            action="payment.grant",
            target=book.public_grant(grant_id),
            after={
                "user_id": book.user_id,
                "payment_id": payment.public_id,
                "amount": format_credits(paid.credits),
                "paid": f"{paid.amount} {paid.currency}",
            },
            reason=why,
        )
    )
    return replace(payment, state=GRANTED, attention=None, grant_id=grant_id, credits=paid.credits)


async def _take_or_give(
    transaction: Transaction, book: Book, payment: Payment, grant_id: UUID, actor: Actor
) -> Payment:
    owed = payment.known.owed(payment.credits)
    lost = await _lost(transaction, book, payment.credits, grant_id)
    amount = step(owed=owed, taken=payment.taken, lost=lost)
    if not amount:
        return payment
    account, cause = book.account, f"payment:{payment.id.hex}:{payment.moves + 1}"
    usable = sum(grant.remaining for grant in account.grants.values())
    if (account.debt + amount if amount > 0 else usable - amount) > MAX_BALANCE:
        return replace(payment, attention=Attention.TOO_MUCH)
    before = format_credits(account.balance)
    told = {
        "payment_id": payment.public_id,
        "grant_id": book.public_grant(grant_id),
        "amount": format_credits(MicroCredits(abs(amount))),
    }
    if amount > 0:
        take_back(account, grant_id, amount, cause=cause, reason=REFUNDED, reference=payment.reference)
        book.emit(EventType.PAYMENT_REVERSED, told)
    else:
        terms = GrantTerms(amount=MicroCredits(-amount), kind=GrantKind.PAID, effective_at=book.now)
        grant, document = book.new_grant(terms, GrantState.ACTIVE)
        adjust_up(account, grant, document, cause=cause, reason=REINSTATED)
        book.emit(EventType.PAYMENT_REINSTATED, told)
    book.audit(
        Audit(
            actor=actor,
            action="payment.reverse" if amount > 0 else "payment.reinstate",
            target=book.user_id,
            before={"balance": before},
            after={"balance": format_credits(account.balance), **told},
        )
    )
    return replace(payment, taken=MicroCredits(payment.taken + amount), moves=payment.moves + 1)


async def _lost(transaction: Transaction, book: Book, granted: MicroCredits, grant_id: UUID) -> MicroCredits:
    """What of the grant has expired or was voided, or never came to be, what was posted just now included."""
    stored = select(func.coalesce(func.sum(entries.c.amount), 0)).where(
        entries.c.account_id == book.account_id, entries.c.grant_id == grant_id
    )
    there = int((await transaction.execute(stored)).scalar_one())
    new: list[EntryDraft] = [draft for draft in book.account.entries if draft.grant_id == grant_id]
    return MicroCredits(granted - there - sum(draft.amount for draft in new))


async def resolve(
    transaction: Transaction,
    ledger: LedgerPorts,
    payment_id: UUID,
    asked: ResolutionDocument,
    now: Instant,
    actor: Actor,
) -> None:
    """Do what a person says of a payment that needs attention.

    Raises a :class:`~app.errors.Problem`: 404; 409 ``payment-not-open`` or ``nothing-paid``; 422 without a user or
    credits that nobody told.
    """
    payment = await find_locked(transaction, payment_id)
    if payment is None:
        raise unknown_payment()
    if payment.attention is None and payment.state != WAITING:
        raise Problem(PAYMENT_NOT_OPEN, f"it is {payment.state}, and nothing is wrong with it")
    before = {"state": payment.state, "attention": payment.attention}
    if asked.action == "dismiss":
        state = DISMISSED if payment.state == WAITING else payment.state
        payment = replace(payment, state=state, attention=None)
    else:
        payment = await _granted_by_hand(transaction, ledger, payment, asked, now, actor)
    audit = Audit(
        actor=actor,
        action="payment.resolve",
        target=payment.public_id,
        before=before,
        after={"action": asked.action, "state": payment.state, "attention": payment.attention},
        reason=asked.reason,
    )
    await record_audits(transaction, ledger.ids, NIL_ACCOUNT, [audit], now)
    await store_payment(transaction, payment, now)


async def _granted_by_hand(
    transaction: Transaction,
    ledger: LedgerPorts,
    payment: Payment,
    asked: ResolutionDocument,
    now: Instant,
    actor: Actor,
) -> Payment:
    if payment.state != WAITING:
        raise Problem(PAYMENT_NOT_OPEN, f"it is {payment.state}: nothing more is granted for it")
    paid = payment.known.paid
    if paid is None:
        raise Problem(NOTHING_PAID, "what is known of it does not say what was paid: grant credits to the user instead")
    user_id, amount = asked.user_id or paid.user_id, asked.credits or paid.credits
    if user_id is None or amount is None:
        missing = "/user_id" if user_id is None else "/credits"
        raise invalid(missing, "is not known: say it")
    payment = replace(payment, known=with_paid(payment.known, user_id, amount), attention=None)
    payment = await _bring_up(transaction, ledger, payment, now, actor, asked.reason)
    if payment.state == WAITING:
        raise invalid("/credits", "would make the balance larger than any balance may be")
    return payment
