"""Stripe's events as they come, read into what is known of a payment. Nothing of who paid, or how, is kept.

A payment is known by its payment intent, which the checkout session, its charges, refunds and disputes all name: its
``reference`` is ``stripe:`` and that. What is signed and odd all the same is not refused, as somebody may have paid:
it becomes a payment that needs attention.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from app.core.lossless_json import JsonNumber
from app.core.payments import Dispute, Known, Paid, Stage, credits_at
from app.core.units import US_PER_S, Instant, InvalidQuantity, MicroCredits, parse_credits
from app.documents import printable
from app.errors import invalid

PREFIX: Final = "stripe:"
USER_ID: Final = "talktime_user_id"
CREDITS: Final = "talktime_credits"
"""Members of the checkout session's metadata, which only the seller's backend can write."""

MAX_ID: Final = 100
"""Characters of Stripe's ids; theirs have some thirty, and are said to have 255 at most."""

MAX_MONEY: Final = 10**14
"""Smallest units of a currency; Stripe takes 12 digits at most."""

_PAID: Final = frozenset(("checkout.session.completed", "checkout.session.async_payment_succeeded"))
_DISPUTES: Final = frozenset(
    f"charge.dispute.{what}" for what in ("created", "updated", "closed", "funds_withdrawn", "funds_reinstated")
)
_REFUNDS: Final = frozenset(("refund.failed", "refund.updated", "charge.refund.updated"))
HANDLED: Final = (*sorted(_PAID), "charge.refunded", *sorted(_DISPUTES), "refund.failed")
"""The types of events to send here. All others are acknowledged and passed over."""

_OPEN: Final = frozenset(("needs_response", "under_review"))


class Attention(StrEnum):
    """Why a person has to look at a payment."""

    NO_USER = "no-user"
    BAD_USER = "bad-user"
    NO_CREDITS = "no-credits"
    BAD_CREDITS = "bad-credits"
    TOO_MUCH = "too-much"
    NO_PAYMENT_INTENT = "no-payment-intent"
    NOTHING_PAID = "nothing-paid"
    ODD_EVENT = "odd-event"
    GRANTED_OTHERWISE = "granted-otherwise"
    REFUND_FAILED = "refund-failed"
    OTHER_CURRENCY = "other-currency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """``reference``: of the payment that it is about; null: it is about none of ours, and passed over."""

    id: str
    kind: str
    created_at: Instant
    live: bool
    reference: str | None = None
    known: Known = field(default_factory=Known)
    attention: Attention | None = None


class _Odd(Exception):
    """A member is missing, or not what it must be."""


def read_event(document: object, rates: Mapping[str, MicroCredits]) -> Event:
    """The event in a decoded body. ``rates``: credits for the smallest unit of a currency, where none are told.

    Raises a :class:`~app.errors.Problem`, 422, if it is no event at all.
    """
    if not isinstance(document, dict):
        raise invalid("", "must be a JSON object")
    try:
        created = _whole(document, "created")
        event = Event(
            id=_id(document, "id"),
            kind=_text(document, "type"),
            created_at=Instant(created * US_PER_S),
            live=_flag(document, "livemode"),
        )
    except _Odd as odd:
        raise invalid(f"/{odd}", "is not as in an event") from None
    data = document.get("data")
    thing = data.get("object") if isinstance(data, dict) else None
    try:
        if event.kind not in {*_PAID, "charge.refunded", *_DISPUTES, *_REFUNDS}:
            return event
        if not isinstance(thing, dict):
            raise _Odd("data")  # noqa: TRY301 - told with all that is odd
        return _read(event, thing, created, rates)
    except _Odd:
        return _of(event, _named(thing) or event.id, attention=Attention.ODD_EVENT)


def _read(event: Event, thing: Mapping[str, Any], at: int, rates: Mapping[str, MicroCredits]) -> Event:
    if event.kind in _PAID:
        return _checkout(event, thing, rates)
    if event.kind in _REFUNDS:
        failed = thing.get("status") in {"failed", "canceled"}
        return _of(event, _payment(thing), attention=Attention.REFUND_FAILED) if failed else event
    if event.kind == "charge.refunded":
        charged, refunded = _money(thing, "amount"), _money(thing, "amount_refunded")
        if refunded > charged:
            raise _Odd("amount_refunded")
        return _of(event, _payment(thing, "id"), Known(charged=charged, refunded=refunded))
    status = _text(thing, "status")
    if status.startswith("warning_") and status != "warning_closed":
        stage = Stage.INQUIRY
    else:
        stage = Stage.OPEN if status in _OPEN else Stage.DECIDED
    dispute = Dispute(
        stage,
        at,
        kept=stage is Stage.DECIDED and status != "lost",
        amount=_money(thing, "amount"),
        currency=_currency(thing),
    )
    return _of(event, _payment(thing, "charge"), Known(disputes={_id(thing, "id"): dispute}))


def _checkout(event: Event, session: Mapping[str, Any], rates: Mapping[str, MicroCredits]) -> Event:
    metadata = session.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    told = metadata.get(CREDITS)
    if told == "0":
        return event  # sold beside talk time, and says so
    status = _text(session, "payment_status")
    if status == "no_payment_required":
        named = told is not None
        return _of(event, _id(session, "id"), attention=Attention.NOTHING_PAID) if named else event
    if status != "paid":
        return event  # it will be told when it is paid
    if session.get("payment_intent") is None:
        return _of(event, _id(session, "id"), attention=Attention.NO_PAYMENT_INTENT)
    amount, currency = _money(session, "amount_total"), _currency(session)
    user_id, attention = _user(session, metadata)
    credits_, no_credits = _credits(told, amount, currency, rates)
    if not amount:
        return _of(event, _payment(session), attention=Attention.NOTHING_PAID)
    paid = Paid(amount=amount, currency=currency, user_id=user_id, credits=credits_)
    return _of(event, _payment(session), Known(paid=paid), attention or no_credits)


def _user(session: Mapping[str, Any], metadata: Mapping[str, Any]) -> tuple[str | None, Attention | None]:
    named = metadata.get(USER_ID)
    named = session.get("client_reference_id") if named is None else named
    if named is None or named == "":
        return None, Attention.NO_USER
    try:
        return (printable(named), None) if type(named) is str else (None, Attention.BAD_USER)
    except InvalidQuantity:
        return None, Attention.BAD_USER


def _credits(
    told: object, amount: int, currency: str, rates: Mapping[str, MicroCredits]
) -> tuple[MicroCredits | None, Attention | None]:
    if told is None:
        if currency not in rates:
            return None, Attention.NO_CREDITS
        found = credits_at(rates[currency], amount)
        return found, Attention.TOO_MUCH if found is None else None
    try:
        read = parse_credits(told) if type(told) is str else None
    except InvalidQuantity:
        read = None
    return (None, Attention.BAD_CREDITS) if read is None or read <= 0 else (read, None)


def _of(event: Event, name: str, known: Known | None = None, attention: Attention | None = None) -> Event:
    return Event(
        id=event.id,
        kind=event.kind,
        created_at=event.created_at,
        live=event.live,
        reference=PREFIX + name,
        known=known or Known(),
        attention=attention,
    )


def _payment(thing: Mapping[str, Any], otherwise: str = "payment_intent") -> str:
    """Which payment it is: the payment intent, as an id or expanded; of old charges, which have none, the charge."""
    named = thing.get("payment_intent")
    if isinstance(named, dict):
        return _id(named, "id")
    return _id(thing, otherwise if named is None else "payment_intent")


def _named(thing: object) -> str | None:
    """What an odd object can be told by; null: by nothing."""
    if not isinstance(thing, dict):
        return None
    for name in ("payment_intent", "id"):
        try:
            return _id(thing, name)
        except _Odd:
            continue
    return None


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if type(value) is not str or not 1 <= len(value) <= MAX_ID or not value.isascii() or not value.isprintable():
        raise _Odd(name)
    return value


def _id(document: Mapping[str, Any], name: str) -> str:
    value = _text(document, name)
    if " " in value:
        raise _Odd(name)
    return value


def _flag(document: Mapping[str, Any], name: str) -> bool:
    value = document.get(name)
    if not isinstance(value, bool):
        raise _Odd(name)
    return value


def _whole(document: Mapping[str, Any], name: str) -> int:
    value = document.get(name)
    if not isinstance(value, JsonNumber) or not value.isascii() or not value.isdigit() or len(value) > 11:
        raise _Odd(name)
    return int(value)


def _money(document: Mapping[str, Any], name: str) -> int:
    value = document.get(name)
    if not isinstance(value, JsonNumber) or not value.isascii() or not value.isdigit() or len(value) > 15:
        raise _Odd(name)
    if int(value) > MAX_MONEY:
        raise _Odd(name)
    return int(value)


def _currency(document: Mapping[str, Any]) -> str:
    value = _text(document, "currency").lower()
    if len(value) != 3 or not value.isalpha():
        raise _Odd("currency")
    return value
