"""What the calls for payments take and answer."""

from typing import Final

from app.errors import (
    BODY_TOO_LARGE,
    INVALID_JSON,
    INVALID_SIGNATURE,
    NOT_FOUND,
    NOTHING_PAID,
    PAYMENT_NOT_OPEN,
    RATE_LIMITED,
    UNAVAILABLE,
    WRONG_MODE,
)
from app.http.schemas import (
    PAGED,
    Described,
    Operation,
    amount,
    any_object,
    flag,
    instant,
    listed,
    one_of,
    or_null,
    page_of,
    public_id,
    record,
    ref,
    replies,
    text,
    whole,
)
from app.payments.rows import STATES
from app.payments.stripe import Attention

STRIPE_EVENT: Final = record(
    {
        "id": text("evt_1NG8Du2eZvKYlo2CUI79vXWy"),
        "type": text("checkout.session.completed"),
        "created": whole("Seconds since 1970.", 1686089970),
        "livemode": flag("Whether it is of live mode."),
        "data": any_object("The object that the event is about."),
    },
    open_to_more=True,
    description="An event as Stripe sends it.",
)
_PAYMENT: Final = {
    "id": public_id("pay"),
    "reference": text("stripe:pi_3MtwBwLkdIwHu7ix28a3tqPa", "That of the grant, too."),
    "state": one_of(STATES, "`waiting`: nothing was granted for it so far."),
    "attention": or_null(one_of(Attention, "Why a person has to look at it; null: nobody has to.")),
    "user_id": or_null(text("ada", "Who gets the credits.", longest=128)),
    "grant_id": or_null(public_id("grt", "The grant that was made for it.")),
    "credits": or_null(amount("What was granted, or is to be.", "100")),
    "taken": amount("What of that was taken back.", "0"),
    "amount": or_null(whole("What was paid, in the currency's smallest unit.", 1000)),
    "currency": or_null(text("usd")),
    "charged": whole("The charge that was refunded, in its currency's smallest unit; 0: none was.", 0),
    "refunded": whole("What was refunded of it.", 0),
    "disputed": whole("What is disputed, or was lost in disputes.", 0),
    "created_at": instant("When it was heard of first."),
    "changed_at": instant("When something was heard of it last."),
}
_PAYMENT_ID: Final = {"payment_id": public_id("pay", "The payment's id.")}

PAYMENTS: Final = Described(
    schemas={
        "Received": record({"received": flag("Always true.")}),
        "Payment": record(_PAYMENT),
        "PaymentPage": page_of("Payment"),
        "PaymentWithEvents": record(
            {
                **_PAYMENT,
                "events": listed(
                    record(
                        {
                            "id": text("evt_1NG8Du2eZvKYlo2CUI79vXWy"),
                            "type": text("checkout.session.completed"),
                            "created_at": instant("When it happened, as Stripe says."),
                            "received_at": instant("When it came."),
                        }
                    ),
                    "The first 200 that told of it, as they came.",
                ),
            }
        ),
    },
    operations={
        "POST /webhooks/stripe": Operation(
            description="For Stripe alone, signed by one of `TALKTIME_STRIPE_WEBHOOK_SECRETS`; without them there is "
            "nothing here. Answered when what it tells is in the books.",
            answers={200: replies("It is in the books, or none of ours.", ref("Received"))},
            problems=(
                *(NOT_FOUND, INVALID_SIGNATURE, WRONG_MODE, RATE_LIMITED, UNAVAILABLE),
                *(INVALID_JSON, BODY_TOO_LARGE),
            ),
            open=True,
        ),
        "GET /v1/payments": Operation(
            description="Payments that a provider of payments told of, newest first.",
            answers={200: replies("A page of payments.", ref("PaymentPage"))},
            parameters={
                **PAGED,
                "user_id": text("ada", "Only those of this user.", longest=128),
                "needs_attention": flag("Only those that a person has to look at, or the others."),
            },
        ),
        "GET /v1/payments/{payment_id}": Operation(
            description="A payment, and the events that told of it.",
            answers={200: replies("The payment.", ref("PaymentWithEvents"))},
            problems=(NOT_FOUND,),
            parameters=_PAYMENT_ID,
        ),
        "POST /v1/payments/{payment_id}/resolve": Operation(
            description="Grants what could not be granted, or says that nothing is to be done.",
            answers={200: replies("The payment.", ref("PaymentWithEvents"))},
            problems=(NOT_FOUND, PAYMENT_NOT_OPEN, NOTHING_PAID),
            parameters=_PAYMENT_ID,
            idempotent=True,
            example={"action": "grant", "user_id": "ada", "credits": "100", "reason": "the session named no user"},
        ),
    },
)
