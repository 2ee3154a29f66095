"""Receiving events: whether a request is from your Talktime (Standard Webhooks), and what it says.

It needs nothing but the standard library.

::

    from talktime import webhooks

    event = webhooks.verify(body, headers, secret)   # raises webhooks.NotVerified
    match event:
        case webhooks.SessionEvent(type="session.settled"):
            ...
"""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from talktime.errors import TalktimeError
from talktime.models import Event
from talktime.values import Misfit, parsed, read

TOLERANCE_S: Final = 300.0
"""How far the time of an attempt may be from now: what somebody has recorded cannot be sent to you later."""

_PREFIX: Final = "whsec_"
_VERSION: Final = "v1"


class NotVerified(TalktimeError):
    """The request is not one of yours, or is too old, or is no event: do nothing, and answer 400."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEvent(Event):
    """``session.*``: ``held`` when it is started; ``charged`` and ``leakage`` when its charge is posted."""

    session_id: str
    why: str | None = None
    held: Decimal | None = None
    charged: Decimal | None = None
    leakage: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantEvent(Event):
    """``grant.*``: ``amount`` when it is created; ``remaining``, ``expires_at`` before it expires; ``voided``."""

    grant_id: str
    amount: Decimal | None = None
    remaining: Decimal | None = None
    expires_at: datetime | None = None
    voided: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceEvent(Event):
    """``balance.*``: ``level`` is ``ok``, ``low`` or ``depleted``; ``threshold`` null when it is recovered."""

    balance: Decimal
    level: str
    threshold: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeCorrected(Event):
    """``charge.corrected``: ``correction`` says how; ``given_back`` under 0: more was charged."""

    session_id: str
    correction: str
    given_back: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class RateCardPublished(Event):
    """``rate_card.published``"""

    rate_card_id: str
    name: str
    version: int
    effective_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointEvent(Event):
    """``webhook_endpoint.*``"""

    endpoint_id: str
    url: str | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentEvent(Event):
    """``payment.*``: ``grant_id`` and ``amount`` where credits were taken or given again; ``reference`` and
    ``attention`` where a person has to look at it."""

    payment_id: str
    grant_id: str | None = None
    amount: Decimal | None = None
    reference: str | None = None
    attention: str | None = None


_KINDS: Final[Mapping[str, type[Event]]] = {
    "session": SessionEvent,
    "grant": GrantEvent,
    "balance": BalanceEvent,
    "payment": PaymentEvent,
    "charge.corrected": ChargeCorrected,
    "rate_card.published": RateCardPublished,
    "webhook_endpoint": EndpointEvent,
}


def verify(
    body: bytes,
    headers: Mapping[str, str],
    secrets: str | Sequence[str],
    *,
    tolerance_s: float = TOLERANCE_S,
    now: float | None = None,
) -> Event:
    """The event in a request, if it is signed by one of ``secrets`` (``whsec_…``).

    ``body``: as it came, byte for byte, before anything has read it. ``headers``: by their names, however written.
    ``secrets``: one, or while one is replaced the new and the old one. ``tolerance_s``: how far the time of the attempt
    may be from ``now``, a Unix time. One signature that fits is enough; they are compared in a time that tells nothing.

    An event may come more than once: its ``id`` is the same each time. A type that is not known here is a plain
    :class:`~talktime.models.Event`. Raises :class:`NotVerified`; ``ValueError`` for what is no secret.
    """
    keys = [_key(one) for one in ([secrets] if isinstance(secrets, str) else secrets)]
    if not keys:
        raise ValueError("at least one secret is needed")
    told = {name.lower(): value for name, value in headers.items()}
    try:
        event_id, at, signatures = (told[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
    except KeyError as missing:
        raise NotVerified(f"the header {missing.args[0]} is missing") from None
    if not (at.isascii() and at.isdigit() and len(at) < 16):
        raise NotVerified("webhook-timestamp is no Unix time")
    signed = f"{event_id}.{at}.".encode("utf-8", "surrogateescape") + body
    if not _is_signed(signed, signatures, keys):
        raise NotVerified("no signature fits")
    if abs((time.time() if now is None else now) - int(at)) > tolerance_s:
        raise NotVerified("webhook-timestamp is too far from now")
    try:
        event: Event = read(Event, parsed(body))
    except Misfit as misfit:
        raise NotVerified(f"this is no event: {misfit}") from None
    if event.id != event_id:
        raise NotVerified("webhook-id is not that of the event")
    return typed(event)


def typed(event: Event) -> Event:
    """The event as the class of its type, also one that ``Talktime.events`` gave; itself if the type is not known."""
    kind = _KINDS.get(event.type, _KINDS.get(event.type.partition(".")[0], Event))
    own: dict[str, Any] = {
        "id": event.id,
        "type": event.type,
        "timestamp": event.timestamp.isoformat(),
        "user_id": event.user_id,
        "sequence": event.sequence,
        "data": event.data,
    }
    try:
        made: Event = read(kind, {**event.data, **own})
    except Misfit:
        return event
    return made


def _key(secret: str) -> bytes:
    """What signs. Raises ``ValueError``, which does not show it, for what is no secret."""
    text = secret.removeprefix(_PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError("a webhook secret is whsec_ and base64")
    return key


def _is_signed(signed: bytes, signatures: str, keys: Sequence[bytes]) -> bool:
    expected = [base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()) for key in keys]
    fits = False
    for signature in signatures.split(" "):
        version, _, given = signature.partition(",")
        for one in expected:
            same = hmac.compare_digest(one, given.encode("utf-8", "surrogateescape"))
            fits = (same and version == _VERSION) or fits
    return fits
