"""``/v1/rate-cards`` and ``/v1/charges/preview``."""

import asyncio
from typing import Any

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from starlette.requests import Request
from starlette.responses import Response

from app.core.access import Scope
from app.core.ids import NIL_ACCOUNT, Kind, parse_reference_id
from app.core.rate_card import RateCard
from app.core.units import InvalidQuantity, format_instant
from app.db.database import Database, Transaction
from app.db.tables import rate_cards
from app.documents import Document, Moment, Text, decode, printable, validate
from app.errors import BUSY, NOT_FOUND, Problem, invalid
from app.http.access import actor_of, allowed
from app.http.answers import Answer, json_response
from app.http.bodies import MAX_PREVIEW_BODY, read_bounded, takes
from app.http.idempotency import idempotency_key, write_once
from app.http.pages import Cursor, Limit, cursor_instant, make_cursor, page, page_limit, read_cursor
from app.ledger.audit import Audit, record_audits
from app.ports.clock import Clock
from app.ports.ids import Ids
from app.pricing.cards import StoredCard, card_by_id, default_card, find_card, publish, stored_card
from app.pricing.documents import PreviewDocument, RateCardDocument, write_rate_card
from app.pricing.preview import card_of, rate_document, read_preview
from app.pricing.templates import TEMPLATES, template_document


class MatchDocument(Document):
    persona: Text | None = None
    scenario: Text | None = None


class NewRateCardDocument(RateCardDocument):
    """A rate card, when it comes into force, and for which sessions it is chosen by itself."""

    effective_at: Moment | None = None
    match: MatchDocument = MatchDocument()


def pricing_routes(database: Database, ids: Ids, clock: Clock) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["pricing"])

    @router.get("/rate-cards", summary="All versions of all rate cards, newest first")
    @allowed(Scope.READ)
    async def list_cards(limit: Limit = None, cursor: Cursor = None, name: str | None = None) -> Response:
        async with database.reading() as transaction:
            return json_response(await _cards_page(transaction, page_limit(limit), cursor, name))

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
            card = await publish(
                transaction,
                ids,
                now,
                asked.card(),
                effective_at=now if asked.effective_at is None else asked.effective_at,
                match_persona=asked.match.persona,
                match_scenario=asked.match.scenario,
            )
            document = card_document(card)
            audit = Audit(actor=actor_of(request), action="rate_card.publish", target=document["id"], after=document)
            await record_audits(transaction, ids, NIL_ACCOUNT, [audit], now)
            return Answer(201, document)

        try:
            return await write_once(database, NIL_ACCOUNT, idempotency_key(request, body), now, work)
        except IntegrityError:
            raise Problem(BUSY, "another version of this card was published at this moment; try again") from None

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


async def _cards_page(transaction: Transaction, rows: int, cursor: str | None, name: str | None) -> dict[str, Any]:
    statement = select(rate_cards).order_by(rate_cards.c.created_at.desc(), rate_cards.c.id.desc())
    position = read_cursor(cursor, int, str)
    if position is not None:
        card_id = parse_reference_id(Kind.RATE_CARD, position[1])
        if card_id is None:
            raise invalid("/cursor", "is not a cursor of this list")
        created_at = cursor_instant(position[0])
        statement = statement.where(
            (rate_cards.c.created_at < created_at)
            | ((rate_cards.c.created_at == created_at) & (rate_cards.c.id < card_id))
        )
    if name is not None:
        try:
            statement = statement.where(rate_cards.c.name == printable(name))
        except InvalidQuantity as error:
            raise invalid("/name", str(error)) from None
    found = [stored_card(row) for row in await transaction.execute(statement.limit(rows + 1))]
    shown = found[:rows]
    more = make_cursor(shown[-1].created_at, shown[-1].public_id) if len(found) > rows else None
    return page([card_document(card) for card in shown], more)


def card_document(card: StoredCard) -> dict[str, Any]:
    return {
        "id": card.public_id,
        "version": card.version,
        **write_rate_card(card.card),
        "effective_at": format_instant(card.effective_at),
        "match": {"persona": card.match_persona, "scenario": card.match_scenario},
        "created_at": format_instant(card.created_at),
    }
