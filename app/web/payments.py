"""Payments that were told of: all of them, those that a person has to look at, and what that person says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from starlette.responses import Response

from app.core.access import Scope
from app.core.ids import NIL_ACCOUNT
from app.core.units import Instant
from app.db.database import Database, Transaction
from app.http.pages import DEFAULT_LIMIT
from app.ledger.book import LedgerPorts
from app.payments.receive import ResolutionDocument, resolve
from app.payments.rows import count_attention, load_payment, payment_key, payments_page
from app.payments.stripe import Attention
from app.web.account_actions import REASON, account_state
from app.web.actions import Action, Deed, Outcome, Subject
from app.web.forms import Field
from app.web.forms import Kind as Typed
from app.web.site import ADMIN, Page, Visit

PAYMENTS: Final = ADMIN + "/payments"
PAYMENT: Final = PAYMENTS + "/{payment_id}"
WHY: Final[Mapping[str, str]] = {
    Attention.NO_USER: "nobody is named who gets the credits",
    Attention.BAD_USER: "it names a user that none can be",
    Attention.NO_CREDITS: "no credits are told, and its currency has no rate",
    Attention.BAD_CREDITS: "the credits that it tells are no amount over 0",
    Attention.TOO_MUCH: "it comes to more than a balance can have",
    Attention.NO_PAYMENT_INTENT: "it has no payment intent, as that of a subscription",
    Attention.NOTHING_PAID: "nothing had to be paid for it",
    Attention.ODD_EVENT: "what was told of it is not in the form that it should have",
    Attention.GRANTED_OTHERWISE: "a grant of another kind or amount has its reference",
    Attention.REFUND_FAILED: "a refund failed: the money came back, the credits did not",
    Attention.OTHER_CURRENCY: "a dispute is in another currency, so nothing was taken",
}
ACTIONS: Final = (("grant", "Grant credits for it"), ("dismiss", "Nothing is to be done"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentPages:
    database: Database

    def pages(self) -> list[Page]:
        return [Page(PAYMENTS, self._list), Page(PAYMENT, self._one)]

    async def _list(self, visit: Visit) -> Response:
        user_id, cursor = visit.asked("user_id"), visit.asked("cursor") or None
        waiting = visit.asked("needs_attention") == "true"
        async with self.database.reading() as transaction:
            attention = await count_attention(transaction)
            found = await payments_page(
                transaction,
                limit=DEFAULT_LIMIT,
                cursor=cursor,
                user_id=user_id or None,
                needs_attention=True if waiting else None,
            )
        asked = {"user_id": user_id, "needs_attention": "true" if waiting else ""}
        return visit.page(
            "payments.html",
            nav="payments",
            found=found,
            attention=attention,
            asked=asked,
            given={name: value for name, value in asked.items() if value},
            why=WHY,
            first=cursor is None,
        )

    async def _one(self, visit: Visit) -> Response:
        async with self.database.reading() as transaction:
            payment = await load_payment(transaction, payment_key(visit.part("payment_id")))
        return visit.page("payment.html", nav="payments", payment=payment, why=WHY)


class Resolve(Action[ResolutionDocument]):
    path = PAYMENT + "/resolve"
    name = "payment-resolve"
    title = "Decide a payment"
    verb = "Decide so"
    scope: ClassVar[Scope] = Scope.CREDITS_WRITE
    document = ResolutionDocument
    nav = "payments"
    fields = (
        Field(name="action", label="Decision", kind=Typed.CHOICE, required=True, choices=ACTIONS),
        Field(name="user_id", label="User", hint="Who gets the credits; as it was told if empty."),
        Field(name="credits", label="Credits", kind=Typed.CREDITS, hint="As it was told if empty."),
        REASON,
    )

    def __init__(self, ledger: LedgerPorts) -> None:
        self._ledger = ledger

    async def subject(self, transaction: Transaction, visit: Visit) -> Subject:
        key = payment_key(visit.part("payment_id"))
        payment = await load_payment(transaction, key)
        back = f"{PAYMENTS}/{payment['id']}"
        return Subject(account_id=NIL_ACCOUNT, name=payment["reference"], back=back, key=key)

    async def state(self, transaction: Transaction, subject: Subject, now: Instant) -> Sequence[tuple[str, str, bool]]:
        payment = await self._payment(transaction, subject)
        return [
            ("State", payment["state"], True),
            ("Needs attention", "no" if payment["attention"] is None else WHY[payment["attention"]], True),
            ("Credits", payment["credits"] or "–", True),
        ]

    async def do(self, transaction: Transaction, deed: Deed[ResolutionDocument]) -> Outcome:
        if deed.subject.key is None:
            raise RuntimeError("a payment has a key")
        await resolve(transaction, self._ledger, deed.subject.key, deed.asked, deed.now, deed.actor)
        payment = await self._payment(transaction, deed.subject)
        user_id = payment["user_id"]
        if deed.asked.action == "dismiss" or user_id is None:
            return Outcome()
        balance = next(value for label, value, _ in await account_state(transaction, user_id) if label == "Balance")
        return Outcome(told=[("User", user_id), ("Balance then", balance)])

    @staticmethod
    async def _payment(transaction: Transaction, subject: Subject) -> dict[str, Any]:
        if subject.key is None:
            raise RuntimeError("a payment has a key")
        return await load_payment(transaction, subject.key)
