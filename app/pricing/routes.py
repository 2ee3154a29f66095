"""``/v1/rate-cards`` and ``/v1/charges/preview``."""

import asyncio

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.core.access import Scope
from app.core.ids import NIL_ACCOUNT, Kind, parse_reference_id
from app.core.rate_card import RateCard
from app.db.database import Database, Transaction
from app.documents import decode, validate
from app.errors import NOT_FOUND, Problem, invalid
from app.http.access import actor_of, allowed
from app.http.answers import Answer, json_response
from app.http.bodies import MAX_PREVIEW_BODY, read_bounded, takes
from app.http.idempotency import idempotency_key, write_once
from app.http.pages import Cursor, Limit, page, page_limit
from app.ports.clock import Clock
from app.ports.ids import Ids
from app.pricing.cards import card_by_id, default_card, find_card
from app.pricing.documents import PreviewDocument
from app.pricing.preview import card_of, rate_document, read_preview
from app.pricing.templates import TEMPLATES, template_document
from app.pricing.versions import NewRateCardDocument, card_document, publish_version, versions_page


def pricing_routes(database: Database, ids: Ids, clock: Clock) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["pricing"])

    @router.get("/rate-cards", summary="All versions of all rate cards, newest first")
    @allowed(Scope.READ)
    async def list_cards(limit: Limit = None, cursor: Cursor = None, name: str | None = None) -> Response:
        async with database.reading() as transaction:
            return json_response(await versions_page(transaction, page_limit(limit), cursor, name))

    @router.get("/rate-cards/templates", summary="Rate cards to begin with, whose prices are to be filled in")
    @allowed(Scope.READ)
    async def list_templates() -> Response:
        return json_response(page([template_document(template) for template in TEMPLATES], None))

    @router.get("/rate-cards/{card_id}", summary="One version of a rate card")
    @allowed(Scope.READ)
    async def get_card(card_id: str) -> Response:
        key = parse_reference_id(Kind.RATE_CARD, card_id)
        async with database.reading() as transaction:
            card = None if key is None else await card_by_id(transaction, key)
        if card is None:
            raise Problem(NOT_FOUND, "there is no rate card with this id")
        return json_response(card_document(card))

    @router.post(
        "/rate-cards",
        summary="Publish a new version of a rate card",
        status_code=201,
        openapi_extra=takes(NewRateCardDocument),
    )
    @allowed(Scope.PRICING_WRITE, "rate_card.publish")
    async def post_card(request: Request) -> Response:
        body = await read_bounded(request)
        asked = validate(NewRateCardDocument, decode(body))
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            document = await publish_version(transaction, ids, asked, now, actor_of(request))
            return Answer(201, document)

        return await write_once(database, NIL_ACCOUNT, idempotency_key(request, body), now, work)

    @router.post(
        "/charges/preview",
        summary="What a session costs, with nothing stored",
        openapi_extra=takes(PreviewDocument),
    )
    @allowed(Scope.READ)
    async def preview(request: Request) -> Response:
        body = await read_bounded(request, MAX_PREVIEW_BODY)
        # In a thread: a large document must not keep heartbeats waiting.
        document = await asyncio.to_thread(read_preview, body)
        named = card_of(document)
        card = named if isinstance(named, RateCard) else await _stored(named)
        return json_response(await asyncio.to_thread(rate_document, document, card))

    async def _stored(named: str | None) -> RateCard:
        async with database.reading() as transaction:
            if named is None:
                return (await default_card(transaction, clock.now())).card
            card = await find_card(transaction, named, clock.now())
        if card is None:
            raise invalid("/rate_card", "is neither the id of a rate card nor the name of one in force")
        return card.card

    return router
