"""Stored rate cards: immutable versions, and which one a session starts with."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, bindparam, func, insert, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.dialects.postgresql import insert as upsert

from app.core.ids import Kind, parse_reference_id, reference_id
from app.core.rate_card import DEFAULT_RATE_CARD, ChargeFrom, RateCard, RoundingMode, Scope
from app.core.units import Instant
from app.db.database import Transaction
from app.db.tables import rate_cards
from app.ports.ids import Ids

DEFAULT_NAME: Final = "default"
_ENUMS: Final[Mapping[str, type[Enum]]] = {"scope": Scope, "rounding": RoundingMode, "charge_from": ChargeFrom}

_BY_ID: Final = select(rate_cards).where(rate_cards.c.id == bindparam("card"))
_IN_FORCE: Final = (
    select(rate_cards)
    .where(rate_cards.c.name == bindparam("called"), rate_cards.c.effective_at <= bindparam("now"))
    .order_by(rate_cards.c.effective_at.desc(), rate_cards.c.version.desc())
    .limit(1)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCard:
    """One version of a card; ``match_*`` say for which sessions it is chosen by itself."""

    id: UUID
    version: int
    card: RateCard
    effective_at: Instant
    match_persona: str | None
    match_scenario: str | None
    created_at: Instant

    @property
    def public_id(self) -> str:
        return reference_id(Kind.RATE_CARD, self.id)


async def ensure_default_card(transaction: Transaction, ids: Ids, now: Instant) -> None:
    """Make sure that there is a card named ``default``; an operator's own versions stand."""
    await transaction.execute(
        upsert(rate_cards)
        # In force since ever, so that no clock, however set, finds none.
        .values(_row(ids.new(), 1, DEFAULT_RATE_CARD, Instant(0), now, None, None))
        .on_conflict_do_nothing(index_elements=["name", "version"])
    )


async def publish(
    transaction: Transaction,
    ids: Ids,
    now: Instant,
    card: RateCard,
    *,
    effective_at: Instant,
    match_persona: str | None,
    match_scenario: str | None,
) -> StoredCard:
    """Add the next version of the card's name.

    Two at once for one name: the later insert fails on (name, version) and its request is answered with 503, to be
    tried again.
    """
    latest = await transaction.execute(select(func.max(rate_cards.c.version)).where(rate_cards.c.name == card.name))
    version = (latest.scalar_one() or 0) + 1
    values = _row(ids.new(), version, card, effective_at, now, match_persona, match_scenario)
    await transaction.execute(insert(rate_cards).values(values))
    return StoredCard(
        id=values["id"],
        version=version,
        card=card,
        effective_at=effective_at,
        match_persona=match_persona,
        match_scenario=match_scenario,
        created_at=now,
    )


async def card_by_id(transaction: Transaction, card_id: UUID) -> StoredCard | None:
    row = (await transaction.execute(_BY_ID, {"card": card_id})).one_or_none()
    return None if row is None else stored_card(row)


async def current_cards(transaction: Transaction, now: Instant) -> list[StoredCard]:
    """The version in force of each name: the latest effective by ``now``, the higher version of two."""
    rows = await transaction.execute(
        select(rate_cards)
        .ext(distinct_on(rate_cards.c.name))
        .where(rate_cards.c.effective_at <= now)
        .order_by(rate_cards.c.name, rate_cards.c.effective_at.desc(), rate_cards.c.version.desc())
    )
    return [stored_card(row) for row in rows]


async def find_card(transaction: Transaction, text: str, now: Instant) -> StoredCard | None:
    """The version with this public id, or the one in force of this name."""
    card_id = parse_reference_id(Kind.RATE_CARD, text)
    if card_id is not None:
        return await card_by_id(transaction, card_id)
    row = (await transaction.execute(_IN_FORCE, {"called": text, "now": now})).one_or_none()
    return None if row is None else stored_card(row)


async def default_card(transaction: Transaction, now: Instant) -> StoredCard:
    """The version in force of the card ``default``."""
    card = await find_card(transaction, DEFAULT_NAME, now)
    if card is None:
        raise RuntimeError("there is no default rate card in force")
    return card


async def card_of_account(transaction: Transaction, own: str | None, now: Instant) -> StoredCard:
    """What an account's own choice of a card (its name or id) comes to now: that card, else the default."""
    card = None if own is None else await find_card(transaction, own, now)
    return card or await default_card(transaction, now)


async def choose_card(transaction: Transaction, persona: str, scenario: str, now: Instant) -> StoredCard:
    """The best match in force: persona and scenario, then persona, then scenario, then ``default``.

    Of several equal matches the one that came into force last.
    """
    matches = [
        card
        for card in await current_cards(transaction, now)
        if (card.match_persona is not None or card.match_scenario is not None)
        and card.match_persona in {None, persona}
        and card.match_scenario in {None, scenario}
    ]
    if not matches:
        return await default_card(transaction, now)
    return max(
        matches,
        key=lambda card: (
            card.match_persona is not None,
            card.match_scenario is not None,
            card.effective_at,
            card.created_at,
            card.id,
        ),
    )


def stored_card(row: Row[Any]) -> StoredCard:
    return StoredCard(
        id=row.id,
        version=row.version,
        card=read_stored(row.document),
        effective_at=row.effective_at,
        match_persona=row.match_persona,
        match_scenario=row.match_scenario,
        created_at=row.created_at,
    )


def _row(
    card_id: UUID,
    version: int,
    card: RateCard,
    effective_at: Instant,
    created_at: Instant,
    match_persona: str | None,
    match_scenario: str | None,
) -> dict[str, Any]:
    return {
        "id": card_id,
        "name": card.name,
        "version": version,
        "document": to_store(card),
        "effective_at": effective_at,
        "match_persona": match_persona,
        "match_scenario": match_scenario,
        "created_at": created_at,
    }


def to_store(card: RateCard) -> dict[str, Any]:
    """A card as it lies in a row: names are text, enums their values, everything else whole numbers."""
    return {name: value.value if isinstance(value, Enum) else value for name, value in asdict(card).items()}


def read_stored(document: Mapping[str, Any]) -> RateCard:
    """The card of :func:`to_store`; whole numbers may have become their digits on the way."""
    values: dict[str, Any] = {}
    for field in fields(RateCard):
        value = document[field.name]
        if field.name in _ENUMS:
            values[field.name] = _ENUMS[field.name](value)
        else:
            values[field.name] = value if value is None or field.name == "name" else int(value)
    return RateCard(**values)
