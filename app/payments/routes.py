"""``/webhooks/stripe`` and ``/v1/payments``."""

from typing import Any, Final

import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.core.access import Actor, Scope
from app.core.ids import NIL_ACCOUNT
from app.core.signed_events import check_signature
from app.db.database import Database, Transaction
from app.documents import decode
from app.errors import INVALID_SIGNATURE, NOT_FOUND, Problem, invalid
from app.http.access import actor_of, allowed, open_to_all
from app.http.answers import Answer, json_response
from app.http.bodies import checked_user_id, read_bounded, takes
from app.http.idempotency import read_keyed, write_once
from app.http.pages import Cursor, Limit, page_limit
from app.http.rate_limits import Meter, address_of, too_many
from app.http.schemas import JSON
from app.ledger.book import LedgerPorts
from app.payments.receive import PaymentTerms, ResolutionDocument, check_mode, receive, resolve
from app.payments.rows import load_payment, payment_key, payments_page
from app.payments.schemas import STRIPE_EVENT
from app.payments.stripe import read_event
from app.ports.clock import Clock

PATH: Final = "/webhooks/stripe"
MAX_EVENT: Final = 256 * 1024
"""Bytes of an event; those that are handled have some kilobytes."""

ACTOR: Final = "stripe"

log = structlog.get_logger(__name__)


def stripe_routes(
    *,
    database: Database,
    ledger: LedgerPorts,
    clock: Clock,
    secrets: tuple[str, ...],
    terms: PaymentTerms,
    failures: Meter,
) -> APIRouter:
    """The receiver of Stripe's events; without ``secrets`` it is off. ``failures``: of signatures, by address."""
    router = APIRouter(tags=["payments"])
    body: dict[str, Any] = {"required": True, "content": {JSON: {"schema": STRIPE_EVENT}}}

    @router.post(PATH, summary="Stripe's events", openapi_extra={"requestBody": body})
    @open_to_all
    async def receive_stripe(request: Request) -> Response:
        if not secrets:
            raise Problem(NOT_FOUND, "events of Stripe are not received here")
        raw = await read_bounded(request, MAX_EVENT)
        now = clock.now()
        given = request.headers.getlist("stripe-signature")
        fault = check_signature(given[0] if len(given) == 1 else "", raw, secrets, now)
        if fault is not None:
            taken = failures.take(address_of(request))
            if taken is not None and taken.wait:
                raise too_many(taken, "too many events without a valid signature from this address")
            log.warning("stripe.unsigned", why=fault.value)
            raise Problem(INVALID_SIGNATURE, fault.value)
        event = read_event(decode(raw), terms.rates)
        if not check_mode(event, terms) or event.reference is None:
            return json_response({"received": True})
        address = None if request.client is None else request.client.host
        actor = Actor(ACTOR, getattr(request.state, "request_id", None), address)
        async with database.transaction() as transaction:
            await receive(transaction, ledger, event, now, actor)
        return json_response({"received": True})

    return router


def payment_routes(*, database: Database, ledger: LedgerPorts, clock: Clock) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["payments"])

    @router.get("/payments", summary="Payments that were told of, newest first")
    @allowed(Scope.READ)
    async def list_payments(
        user_id: str | None = None,
        needs_attention: str | None = None,
        limit: Limit = None,
        cursor: Cursor = None,
    ) -> Response:
        user = None if user_id is None else checked_user_id(user_id)
        if needs_attention not in {None, "true", "false"}:
            raise invalid("/needs_attention", "must be true or false")
        wanted = None if needs_attention is None else needs_attention == "true"
        rows = page_limit(limit)
        async with database.reading() as transaction:
            return json_response(
                await payments_page(transaction, limit=rows, cursor=cursor, user_id=user, needs_attention=wanted)
            )

    @router.get("/payments/{payment_id}", summary="A payment, and the events that told of it")
    @allowed(Scope.READ)
    async def get_payment(payment_id: str) -> Response:
        found = payment_key(payment_id)
        async with database.reading() as transaction:
            return json_response(await load_payment(transaction, found))

    @router.post(
        "/payments/{payment_id}/resolve",
        summary="Say what becomes of a payment that needs attention",
        openapi_extra=takes(ResolutionDocument),
    )
    @allowed(Scope.CREDITS_WRITE, "payment.resolve")
    async def resolve_payment(payment_id: str, request: Request) -> Response:
        asked, key = await read_keyed(request, ResolutionDocument)
        found = payment_key(payment_id)
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            await resolve(transaction, ledger, found, asked, now, actor_of(request))
            return Answer(200, await load_payment(transaction, found))

        return await write_once(database, NIL_ACCOUNT, key, now, work)

    return router
