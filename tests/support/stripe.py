"""Stripe as it is towards a receiver of events: what it knows of payments, and events of it, signed by its own library.

Bodies have the members that Stripe's have, those that we do not read as well. Events are made in the order in which
things happen; in which order and how often they are delivered is up to the test.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import httpx
from stripe import WebhookSignature

from app.core.access import Actor
from app.core.lossless_json import loads
from app.core.units import US_PER_S, MicroCredits
from app.payments.receive import receive
from app.payments.stripe import read_event
from tests.support.world import World

PATH: Final = "/webhooks/stripe"
SECRET: Final = "whsec_0123456789abcdef0123456789abcdef"


@dataclass
class Event:
    id: str
    body: bytes
    created: int

    @property
    def kind(self) -> str:
        return str(json.loads(self.body)["type"])


@dataclass
class Purchase:
    """One checkout, and all that became of its money."""

    n: str
    user_id: str | None
    amount: int
    currency: str
    metadata: dict[str, str]
    refunded: int = 0
    disputed: str | None = None

    @property
    def intent(self) -> str:
        return f"pi_{self.n}"

    @property
    def reference(self) -> str:
        return f"stripe:{self.intent}"


@dataclass
class FakeStripe:
    """``prefix`` tells its ids apart from those of others on the same database; ``now``: seconds since 1970."""

    prefix: str
    now: int
    live: bool = True
    events: list[Event] = field(default_factory=list)
    _made: int = 0

    def new(self) -> str:
        self._made += 1
        return f"{self.prefix}{self._made}"

    def event(self, kind: str, thing: dict[str, Any], **other: Any) -> Event:
        """Something happened: an event of it, to be delivered."""
        event_id = f"evt_{self.new()}"
        document = {
            "id": event_id,
            "object": "event",
            "api_version": "2026-03-25",
            "created": self.now,
            "type": kind,
            "livemode": self.live,
            "pending_webhooks": 1,
            "request": {"id": None, "idempotency_key": None},
            "data": {"object": thing},
            **other,
        }
        made = Event(event_id, json.dumps(document, indent=2).encode(), self.now)
        self.events.append(made)
        return made

    def checkout(
        self,
        user_id: str | None,
        amount: int,
        *,
        currency: str = "usd",
        credits: str | None = None,  # noqa: A002 - as in the metadata
        kind: str = "checkout.session.completed",
        **session: Any,
    ) -> Purchase:
        """Somebody has paid at the end of a checkout."""
        metadata = {} if credits is None else {"talktime_credits": credits}
        bought = Purchase(self.new(), user_id, amount, currency, metadata)
        self.tell_of_checkout(bought, kind, **session)
        return bought

    def tell_of_checkout(self, bought: Purchase, kind: str, **session: Any) -> Event:
        return self.event(
            kind,
            {
                "id": f"cs_live_{bought.n}",
                "object": "checkout.session",
                "amount_subtotal": bought.amount,
                "amount_total": bought.amount,
                "client_reference_id": bought.user_id,
                "currency": bought.currency,
                "customer_details": {"email": "somebody@example.com", "name": "Some Body"},
                "livemode": self.live,
                "metadata": bought.metadata,
                "mode": "payment",
                "payment_intent": bought.intent,
                "payment_status": "paid",
                "status": "complete",
                **session,
            },
        )

    def refund(self, bought: Purchase, amount: int) -> Event:
        bought.refunded += amount
        return self.event(
            "charge.refunded",
            {
                "id": f"ch_{bought.n}",
                "object": "charge",
                "amount": bought.amount,
                "amount_captured": bought.amount,
                "amount_refunded": bought.refunded,
                "currency": bought.currency,
                "metadata": {},
                "paid": True,
                "payment_intent": bought.intent,
                "refunded": bought.refunded == bought.amount,
                "status": "succeeded",
            },
        )

    def dispute(self, bought: Purchase, amount: int, status: str = "needs_response", kind: str = "created") -> Event:
        bought.disputed = bought.disputed or f"du_{self.new()}"
        return self.event(
            f"charge.dispute.{kind}",
            {
                "id": bought.disputed,
                "object": "dispute",
                "amount": amount,
                "charge": f"ch_{bought.n}",
                "currency": bought.currency,
                "payment_intent": bought.intent,
                "reason": "fraudulent",
                "status": status,
            },
        )

    def signed(self, body: bytes, *secrets: str, at: int | None = None) -> dict[str, str]:
        """The headers of a delivery that is made now."""
        seconds = self.now if at is None else at
        headers = [
            WebhookSignature.generate_signature_header(body.decode(), secret, seconds)
            for secret in secrets or (SECRET,)
        ]
        signature = ",".join([headers[0], *(header.partition(",")[2] for header in headers[1:])])
        return {"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": signature}

    async def deliver(self, client: httpx.AsyncClient, event: Event, *secrets: str) -> httpx.Response:
        """One attempt."""
        headers = {**self.signed(event.body, *secrets), "Authorization": ""}
        return await client.post(PATH, content=event.body, headers=headers)


async def heard(talktime: World, stripe: FakeStripe) -> None:
    """Let a service that receives no events have heard all of these, at 0.1 credits a cent."""
    service = talktime.service
    for made in stripe.events:
        event = read_event(loads(made.body), {"usd": MicroCredits(100_000)})
        async with service.database.transaction() as transaction:
            await receive(transaction, service.ledger, event, talktime.clock.now(), Actor("stripe"))


async def paid(talktime: World, user: str | None, amount: int, refunded: int = 0) -> Purchase:
    """A payment that was heard of, and what was refunded of it."""
    stripe = FakeStripe(uuid4().hex[:12], talktime.clock.now() // US_PER_S)
    bought = stripe.checkout(user, amount)
    if refunded:
        stripe.refund(bought, refunded)
    await heard(talktime, stripe)
    return bought
