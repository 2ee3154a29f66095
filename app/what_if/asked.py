"""What a simulation is asked: by which cards, over which sessions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.core.rate_card import RateCard
from app.core.units import Instant, InvalidQuantity, format_instant
from app.db.database import Transaction
from app.documents import Document, Moment, Text, printable, validate
from app.errors import invalid
from app.pricing.cards import find_card, read_stored, to_store
from app.pricing.documents import RawValue, write_rate_card
from app.pricing.versions import NewRateCardDocument


class SimulationDocument(Document):
    """``rate_card``, ``provider_cost``: a card as it would be published, or the id or name of one that is.

    ``after`` is inclusive, ``before`` is not; both are when sessions were settled. ``persona``, ``scenario``: only
    sessions of these.
    """

    rate_card: RawValue
    after: Moment
    before: Moment
    provider_cost: RawValue = None
    persona: Text | None = None
    scenario: Text | None = None


@dataclass(frozen=True, slots=True)
class NamedCard:
    """A draft or, with its public id and version, a published card."""

    card: RateCard
    id: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """See :class:`SimulationDocument`."""

    rate_card: NamedCard
    provider_cost: NamedCard | None
    after: Instant
    before: Instant
    persona: str | None = None
    scenario: str | None = None


async def read_asked(transaction: Transaction, document: SimulationDocument, now: Instant) -> Asked:
    """What is asked, with its cards as they are now. Raises a :class:`~app.errors.Problem`, 422."""
    if document.before > now:
        raise invalid("/before", "must not be in the future: until then sessions are still to be settled")
    if document.after >= document.before:
        raise invalid("/before", "must be later than after")
    cost = None
    if document.provider_cost is not None:
        cost = await _card(transaction, document.provider_cost, "/provider_cost", now)
        if not any((cost.card.user_rate, cost.card.agent_rate, cost.card.silence_rate)):
            raise invalid("/provider_cost/rates", "are all 0: fill in what the provider takes, in credits a minute")
    return Asked(
        rate_card=await _card(transaction, document.rate_card, "/rate_card", now),
        provider_cost=cost,
        after=document.after,
        before=document.before,
        persona=document.persona,
        scenario=document.scenario,
    )


async def _card(transaction: Transaction, value: object, pointer: str, now: Instant) -> NamedCard:
    if type(value) is not str:
        return NamedCard(validate(NewRateCardDocument, value, pointer).card())
    try:
        stored = await find_card(transaction, printable(value), now)
    except InvalidQuantity as error:
        raise invalid(pointer, str(error)) from None
    if stored is None:
        raise invalid(pointer, "is neither a rate card, nor the id of one, nor the name of one in force")
    return NamedCard(stored.card, stored.public_id, stored.version)


# As it lies in a row

_TEXTS: Final = ("persona", "scenario")


def stored_asked(asked: Asked) -> dict[str, Any]:
    """What is asked as plain JSON; the cards are whole, so that it can be read whatever becomes of them."""
    return {
        "rate_card": _stored(asked.rate_card),
        "provider_cost": None if asked.provider_cost is None else _stored(asked.provider_cost),
        "after": asked.after,
        "before": asked.before,
        **{name: getattr(asked, name) for name in _TEXTS},
    }


def asked_of(stored: Mapping[str, Any]) -> Asked:
    """What :func:`stored_asked` made; whole numbers may have become their digits on the way."""
    cost = stored["provider_cost"]
    return Asked(
        rate_card=_named(stored["rate_card"]),
        provider_cost=None if cost is None else _named(cost),
        after=Instant(int(stored["after"])),
        before=Instant(int(stored["before"])),
        **{name: stored[name] for name in _TEXTS},
    )


def _stored(named: NamedCard) -> dict[str, Any]:
    return {"id": named.id, "version": named.version, "card": to_store(named.card)}


def _named(stored: Mapping[str, Any]) -> NamedCard:
    version = stored["version"]
    return NamedCard(read_stored(stored["card"]), stored["id"], None if version is None else int(version))


# As it is told


def asked_document(asked: Asked, *, whole: bool = True) -> dict[str, Any]:
    """``whole``: with all of the cards, else with their names."""
    cost = asked.provider_cost
    return {
        "rate_card": _told(asked.rate_card, whole=whole),
        "provider_cost": None if cost is None else _told(cost, whole=whole),
        "after": format_instant(asked.after),
        "before": format_instant(asked.before),
        **{name: getattr(asked, name) for name in _TEXTS},
    }


def _told(named: NamedCard, *, whole: bool) -> dict[str, Any]:
    card = write_rate_card(named.card) if whole else {"name": named.card.name}
    return {"id": named.id, "version": named.version, **card}
