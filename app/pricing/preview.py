"""The engine on given inputs: what a session costs, with nothing stored."""

from typing import Any

from app.core.alignment import Pull, latest
from app.core.charge import Evidence, charge
from app.core.rate_card import DEFAULT_RATE_CARD, RateCard
from app.core.timeline import normalise
from app.core.units import InvalidQuantity
from app.documents import decode, printable, validate
from app.errors import invalid
from app.pricing.documents import PreviewDocument, read_rate_card
from app.pricing.explanation import explain


def preview(body: bytes) -> dict[str, Any]:
    """Rate the document in ``body`` by the card it holds, or by the default card that Talktime starts with."""
    document = read_preview(body)
    card = card_of(document)
    if isinstance(card, str):
        raise invalid("/rate_card", "names a stored rate card; none is at hand here")
    return rate_document(document, card or DEFAULT_RATE_CARD)


def read_preview(body: bytes) -> PreviewDocument:
    """Decode and validate a preview's body; a 422 :class:`~app.errors.Problem` says what is wrong with it."""
    return validate(PreviewDocument, decode(body))


def card_of(document: PreviewDocument) -> RateCard | str | None:
    """The card in the document, the id or name of a stored one, or null for the current default."""
    if document.rate_card is None:
        return None
    if type(document.rate_card) is str:
        try:
            return printable(document.rate_card)
        except InvalidQuantity as error:
            raise invalid("/rate_card", str(error)) from None
    return read_rate_card(document.rate_card, "/rate_card")


def rate_document(document: PreviewDocument, card: RateCard) -> dict[str, Any]:
    """The explanation of the charge for these inputs."""
    timelines = [normalise(snapshot.values) for snapshot in document.snapshots]
    pulls = [
        Pull(snapshot.requested_at, snapshot.received_at, timeline.end, timeline.speech)
        for snapshot, timeline in zip(document.snapshots, timelines, strict=True)
    ]
    evidence = Evidence(
        requested_at=document.requested_at,
        time_limit=document.time_limit_s,
        heartbeats=document.heartbeats,
        pulls=pulls,
        timeline=timelines[latest(pulls)],
        card=card,
        authorized=document.authorized,
        interim=document.interim,
    )
    return explain(charge(evidence), card)
