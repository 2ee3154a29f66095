"""Versions of rate cards as they are published and listed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import exists, func, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.exc import IntegrityError

from app.core.access import Actor
from app.core.ids import NIL_ACCOUNT, Kind, parse_reference_id
from app.core.units import Instant, InvalidQuantity, format_instant
from app.db.database import Transaction
from app.db.keyset import beyond
from app.db.tables import rate_cards
from app.documents import Document, Moment, Text, printable
from app.errors import BUSY, Problem, invalid
from app.events.outbox import EventType, emit_of_nobody
from app.http.pages import cursor_instant, make_cursor, page, read_cursor
from app.ledger.audit import Audit, record_audits
from app.ports.ids import Ids
from app.pricing.cards import StoredCard, publish, stored_card
from app.pricing.documents import RateCardDocument, write_rate_card


class MatchDocument(Document):
    persona: Text | None = None
    scenario: Text | None = None


class NewRateCardDocument(RateCardDocument):
    """A rate card, when it comes into force, and for which sessions it is chosen by itself."""

    effective_at: Moment | None = None
    match: MatchDocument = MatchDocument()


async def publish_version(
    transaction: Transaction,
    ids: Ids,
    asked: NewRateCardDocument,
    now: Instant,
    actor: Actor,
    reason: str | None = None,
) -> dict[str, Any]:
    """Publish the next version of a card's name; its document.

    Raises a :class:`~app.errors.Problem`, 503, if another one of this name is published at this moment; the transaction
    can then do nothing more.
    """
    try:
        card = await publish(
            transaction,
            ids,
            now,
            asked.card(),
            effective_at=now if asked.effective_at is None else asked.effective_at,
            match_persona=asked.match.persona,
            match_scenario=asked.match.scenario,
        )
    except IntegrityError:
        raise Problem(BUSY, "another version of this card was published at this moment; try again") from None
    document = card_document(card)
    audit = Audit(actor=actor, action="rate_card.publish", target=document["id"], after=document, reason=reason)
    await record_audits(transaction, ids, NIL_ACCOUNT, [audit], now)
    told = {"rate_card_id": card.public_id, **{name: document[name] for name in ("name", "version", "effective_at")}}
    await emit_of_nobody(transaction, ids, now, EventType.RATE_CARD_PUBLISHED, told)
    return document


def card_document(card: StoredCard) -> dict[str, Any]:
    return {
        "id": card.public_id,
        "version": card.version,
        **write_rate_card(card.card),
        "effective_at": format_instant(card.effective_at),
        "match": {"persona": card.match_persona, "scenario": card.match_scenario},
        "created_at": format_instant(card.created_at),
    }


async def versions_page(transaction: Transaction, rows: int, cursor: str | None, name: str | None) -> dict[str, Any]:
    """A page of all versions, or of those of one name, newest first."""
    shown, more = await find_versions(transaction, rows, cursor, name)
    return page([card_document(card) for card in shown], more)


async def find_versions(
    transaction: Transaction, rows: int, cursor: str | None, name: str | None
) -> tuple[list[StoredCard], str | None]:
    """The same as cards, and the cursor of the next page. Raises a :class:`~app.errors.Problem`, 422."""
    statement = select(rate_cards)
    if name is not None:
        try:
            statement = statement.where(rate_cards.c.name == printable(name))
        except InvalidQuantity as error:
            raise invalid("/name", str(error)) from None
    return await _newest_first(transaction, statement, rows, cursor)


async def _newest_first(
    transaction: Transaction, statement: Any, rows: int, cursor: str | None
) -> tuple[list[StoredCard], str | None]:
    position = read_cursor(cursor, int, str)
    if position is not None:
        card_id = parse_reference_id(Kind.RATE_CARD, position[1])
        if card_id is None:
            raise invalid("/cursor", "is not a cursor of this list")
        last = cursor_instant(position[0]), card_id
        statement = statement.where(beyond((rate_cards.c.created_at, rate_cards.c.id), last, down=True))
    ordered = statement.order_by(rate_cards.c.created_at.desc(), rate_cards.c.id.desc()).limit(rows + 1)
    found = [stored_card(row) for row in await transaction.execute(ordered)]
    shown = found[:rows]
    more = make_cursor(shown[-1].created_at, shown[-1].public_id) if len(found) > rows else None
    return shown, more


@dataclass(frozen=True, slots=True)
class CardHistory:
    """The last versions of one name, newest first.

    ``in_force``: the one in force now, which may be an older one; null if none is. ``total``: how many there are.
    """

    name: str
    versions: Sequence[StoredCard]
    in_force: StoredCard | None
    total: int


async def histories_page(
    transaction: Transaction, now: Instant, *, names: int, versions: int, cursor: str | None
) -> tuple[list[CardHistory], str | None]:
    """So many ``names``, those published last first, each with its last ``versions``; and the cursor of the next page.

    Raises a :class:`~app.errors.Problem`, 422, for a cursor of another list.
    """
    later = rate_cards.alias("later")
    is_last = ~exists().where(later.c.name == rate_cards.c.name, later.c.version == rate_cards.c.version + 1)
    last, more = await _newest_first(transaction, select(rate_cards).where(is_last), names, cursor)
    asked = [card.card.name for card in last]
    place = func.row_number().over(partition_by=rate_cards.c.name, order_by=rate_cards.c.version.desc())
    numbered = select(rate_cards, place.label("place")).where(rate_cards.c.name.in_(asked)).subquery()
    recent = select(numbered).where(numbered.c.place <= versions).order_by(numbered.c.version.desc())
    by_name: dict[str, list[StoredCard]] = {name: [] for name in asked}
    for row in await transaction.execute(recent):
        by_name[row.name].append(stored_card(row))
    in_force = await in_force_of(transaction, asked, now)
    return [CardHistory(c.card.name, by_name[c.card.name], in_force.get(c.card.name), c.version) for c in last], more


async def in_force_of(transaction: Transaction, names: Sequence[str], at: Instant) -> Mapping[str, StoredCard]:
    """The version in force at ``at`` of each name that has one."""
    rows = await transaction.execute(
        select(rate_cards)
        .ext(distinct_on(rate_cards.c.name))
        .where(rate_cards.c.name.in_(names), rate_cards.c.effective_at <= at)
        .order_by(rate_cards.c.name, rate_cards.c.effective_at.desc(), rate_cards.c.version.desc())
    )
    return {row.name: stored_card(row) for row in rows}


async def versions_of(transaction: Transaction, name: str, limit: int, below: int | None = None) -> list[StoredCard]:
    """The last ``limit`` versions of a name, newest first; those below version ``below`` if that is given."""
    statement = select(rate_cards).where(rate_cards.c.name == name).order_by(rate_cards.c.version.desc()).limit(limit)
    if below is not None:
        statement = statement.where(rate_cards.c.version < below)
    return [stored_card(row) for row in await transaction.execute(statement)]
