"""Corrections of a session's charge: giving back, and rating again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from pydantic import model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import Row

from app.accounts.statements import entry_documents
from app.core.access import Actor
from app.core.charge import Charge
from app.core.corrections import Correction, charge_more, give_back
from app.core.entries import EntryKind
from app.core.ids import AccountThing
from app.core.ledger import Grant, GrantKind, GrantState
from app.core.lifecycle import State
from app.core.units import Instant, MicroCredits, Micros, format_credits, seconds
from app.db.database import Transaction
from app.documents import Document, Flag, PositiveCredits, Reason, Text
from app.errors import (
    ALREADY_RATED,
    REFUND_EXCEEDS_CHARGE,
    RERATE_WINDOW_CLOSED,
    SESSION_NOT_SETTLED,
    SESSION_WRITTEN_OFF,
    Problem,
    invalid,
)
from app.events.outbox import EventType
from app.ledger.audit import Audit
from app.ledger.book import Book, GrantTerms, LedgerPorts
from app.ledger.opening import open_book
from app.pricing.cards import find_card
from app.pricing.explanation import explain
from app.sessions.records import Session, load_session
from app.sessions.routes import unknown_session
from app.settlement.charges import load_charges, new_charge
from app.settlement.evidence import StoredEvidence, evidence_digest, load_new_evidence


class RefundDocument(Document):
    """``amount`` absent: all that is left of the charge."""

    amount: PositiveCredits | None = None
    reason: Reason

    @model_validator(mode="after")
    def _not_null(self) -> "RefundDocument":
        if "amount" in self.model_fields_set and self.amount is None:
            raise PydanticCustomError("null", "amount must not be null: leave it out to refund all that is left")
        return self


class RerateDocument(Document):
    """``rate_card`` absent: the card of the last rating. ``dry_run``: say what would come of it, and post nothing."""

    rate_card: Text | None = None
    reason: Reason
    dry_run: Flag = False


LATE_LOOK_PARTS: Final = 3
"""A settled session is looked at once more for late evidence after this part of the time in which it may be rated
again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correcting:
    """What every correction needs. ``cause`` makes the natural keys of refunds."""

    ledger: LedgerPorts
    now: Instant
    cause: str
    actor: Actor
    goodwill: Micros
    rerate_window: Micros


async def refund(transaction: Transaction, key: AccountThing, asked: RefundDocument, by: Correcting) -> dict[str, Any]:
    """Give back a settled session's charge or a part of it, to where it came from.

    Raises a :class:`~app.errors.Problem`: 404, 409 ``session-not-settled`` or ``refund-exceeds-charge``.
    """
    book, session = await _settled(transaction, key, by)
    left = MicroCredits(sum(debit.left for debit in book.debits))
    amount = left if asked.amount is None else asked.amount
    if amount > left or not left:
        shown = format_credits(left)
        raise Problem(REFUND_EXCEEDS_CHARGE, f"{shown} credits of the charge are left", extra={"left": shown})
    why = Correction(
        kind=EntryKind.REFUND,
        natural_key=f"refund:{session.id}:{by.cause}",
        reason=asked.reason,
        session_id=session.id,
    )
    goodwill = give_back_of(book, amount, why, by)
    tell_refund(book, session, by, asked.reason, left, amount)
    posted = await _posted(transaction, book, session, await book.close())
    return {
        "session_id": session.public_id,
        "amount": format_credits(amount),
        "left": format_credits(MicroCredits(left - amount)),
        "goodwill_grant_id": None if goodwill is None else book.public_grant(goodwill.id),
        "entries": posted,
    }


async def rerate(transaction: Transaction, key: AccountThing, asked: RerateDocument, by: Correcting) -> dict[str, Any]:
    """Rate a settled session again, on all evidence there is by now; the difference is one linked correction.

    Gross is compared with gross: what was refunded meanwhile changes nothing. More is charged up to what was authorized
    and is available; what was refunded already is not given back again.

    Raises a :class:`~app.errors.Problem`: 404, 409 ``session-not-settled``, ``session-written-off``,
    ``rerate-window-closed`` or ``already-rated``, 422 for a rate card that is not there.
    """
    book, session = await _settled(transaction, key, by)
    if session.written_off:
        raise Problem(SESSION_WRITTEN_OFF, "an operator decided that it is not charged")
    if not may_be_rated_again(session, by.now, by.rerate_window):
        raise Problem(RERATE_WINDOW_CLOSED, f"that is possible for {seconds(by.rerate_window)} seconds")
    other_card: UUID | None = None
    if asked.rate_card is not None:
        card = await find_card(transaction, asked.rate_card, by.now)
        if card is None:
            raise invalid("/rate_card", "is neither the id of a rate card nor the name of one in force")
        other_card = card.id
    rating = await rate_again(transaction, session, other_card)
    if rating.seen_before:
        raise Problem(ALREADY_RATED, "to go back to an earlier rating, refund the difference or adjust the balance")
    difference, goodwill = draft_difference(book, session, rating, asked.reason, by)
    entries: list[dict[str, Any]] = []
    if rating.is_news and not asked.dry_run:
        entry_ids = await post_difference(transaction, book, session, rating, difference, asked.reason, by)
        entries = await _posted(transaction, book, session, entry_ids)
    rated, after = rating.rated, rating.before + difference
    return {
        "session_id": session.public_id,
        "dry_run": asked.dry_run,
        "before": format_credits(rating.before),
        "after": format_credits(MicroCredits(after)),
        "difference": format_credits(difference),
        "leakage": format_credits(MicroCredits(max(0, rated.amount - after) + rated.beyond_authorization)),
        "goodwill_grant_id": None if goodwill is None or asked.dry_run else book.public_grant(goodwill.id),
        "entries": entries,
        "charge": explain(rated, rating.stored.evidence.card, rating.stored.engine_version),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """A charged session rated again on all evidence there is by now. ``earlier``: its charges, in order."""

    earlier: Sequence[Row[Any]]
    stored: StoredEvidence
    rated: Charge
    digest: bytes
    rate_card_id: UUID | None

    @property
    def before(self) -> MicroCredits:
        """What the last charge came to."""
        return MicroCredits(self.earlier[-1].amount)

    @property
    def is_news(self) -> bool:
        """Whether anything that counts differs from what the last charge rests on."""
        return self.digest != bytes(self.earlier[-1].evidence_digest)

    @property
    def seen_before(self) -> bool:
        """Whether an earlier charge than the last rests on just this: what was posted once is not posted again."""
        return self.is_news and any(self.digest == row.evidence_digest for row in self.earlier)

    @property
    def contradictions(self) -> list[str]:
        """Why a person must look at it."""
        return self.stored.contradictions(self.rated)


def late_look_at(settled_at: Instant, now: Instant, window: Micros) -> Instant | None:
    """When to look for late evidence of a session whose settlement or review ends ``now``; null: it would be too late.

    ``settled_at``: when it was charged; ``window``: how long from then it may be rated again.
    """
    at = Instant(now + window // LATE_LOOK_PARTS)
    return at if at - settled_at <= window else None


def may_be_rated_again(session: Session, now: Instant, window: Micros) -> bool:
    """Whether the session is settled, not written off, and was settled no longer than ``window`` ago."""
    return session.state is State.SETTLED and not session.written_off and within_window(session, now, window)


def within_window(session: Session, now: Instant, window: Micros) -> bool:
    """Whether the session was charged, no longer than ``window`` ago: else it is never charged more."""
    return session.settled_at is not None and now - session.settled_at <= window


async def rate_again(transaction: Transaction, session: Session, other_card: UUID | None = None) -> Rating:
    """Rate a charged session on all its evidence, by ``other_card`` or else by the card of its last charge."""
    earlier = await load_charges(transaction, session)
    rate_card_id = earlier[-1].rate_card_id
    if other_card is not None:
        rate_card_id = None if other_card == session.rate_card_id else other_card
    stored = await load_new_evidence(transaction, session, earlier[0].snapshot_n, rate_card_id)
    return Rating(
        earlier=earlier,
        stored=stored,
        rated=stored.charge(),
        digest=evidence_digest(stored),
        rate_card_id=rate_card_id,
    )


async def correct_by_late_evidence(
    transaction: Transaction, book: Book, session: Session, rating: Rating, by: Correcting
) -> MicroCredits:
    """Post what ``rating`` comes to more than the last charge, as far as it can be drawn; answers how far that was.

    The book, which must have been opened to correct the session, is closed by it.
    """
    difference, _ = draft_difference(book, session, rating, LATE_EVIDENCE, by)
    await post_difference(transaction, book, session, rating, difference, LATE_EVIDENCE, by)
    return difference


LATE_EVIDENCE: Final = "evidence that came after the session was settled"


def draft_difference(
    book: Book, session: Session, rating: Rating, reason: str, by: Correcting
) -> tuple[MicroCredits, Grant | None]:
    """Draft the difference as far as it goes: how far that is, and the grant of goodwill if one was made."""
    before = rating.before
    wanted = rating.rated.amount - before if rating.is_news else 0
    why = _rerate_of(session, rating, reason)
    if wanted < 0:
        amount = MicroCredits(min(-wanted, sum(debit.left for debit in book.debits)))
        return MicroCredits(-amount), give_back_of(book, amount, why, by) if amount else None
    more = MicroCredits(min(wanted, session.authorized - before))
    first = book.debits[0].entry_id if book.debits else None
    return (charge_more(book.account, more, why, first).amount if more > 0 else MicroCredits(0)), None


def _rerate_of(session: Session, rating: Rating, reason: str) -> Correction:
    return Correction(
        kind=EntryKind.RERATE,
        natural_key=f"rerate:{session.id}:{rating.digest.hex()}",
        reason=reason,
        session_id=session.id,
        charge_digest=rating.digest,
    )


async def post_difference(
    transaction: Transaction,
    book: Book,
    session: Session,
    rating: Rating,
    difference: MicroCredits,
    reason: str,
    by: Correcting,
) -> Mapping[str, UUID]:
    """Close the book, and store the charge that the difference leads to; the ids of the entries by natural key."""
    after = new_charge(
        session,
        rating.stored,
        rating.rated,
        amount=MicroCredits(rating.before + difference),
        natural_key=_rerate_of(session, rating, reason).natural_key,
        now=book.booked_at,
        version=rating.earlier[-1].version + 1,
        rate_card_id=rating.rate_card_id,
    )
    _tell(
        book,
        Audit(
            actor=by.actor,
            action="session.rerate",
            target=session.public_id,
            before={"charged": format_credits(rating.before)},
            after={"charged": told(after.row["amount"]), "given_back": format_credits(MicroCredits(-difference))},
            reason=reason,
        ),
    )
    entry_ids = await book.close()
    await after.store(transaction, entry_ids)
    return entry_ids


def told(amount: MicroCredits | None) -> str | None:
    return None if amount is None else format_credits(amount)


async def _settled(transaction: Transaction, key: AccountThing, by: Correcting) -> tuple[Book, Session]:
    book = await open_book(transaction, by.ledger, key.account_id, by.now, correcting=key.id)
    session = await load_session(transaction, key, lock=True)
    if book is None or session is None:
        raise unknown_session()
    if session.state is not State.SETTLED:
        raise Problem(SESSION_NOT_SETTLED, f"the session is {session.state}")
    return book, session


async def _posted(
    transaction: Transaction, book: Book, session: Session, entry_ids: Mapping[str, UUID]
) -> list[dict[str, Any]]:
    """The entries of the session among those just posted; what time had brought is left out."""
    documents = await entry_documents(transaction, book.account_id, list(entry_ids.values()))
    return [document for document in documents if document["session_id"] == session.public_id]


def give_back_of(book: Book, amount: MicroCredits, why: Correction, by: Correcting) -> Grant | None:
    def goodwill(of: MicroCredits) -> tuple[Grant, dict[str, Any]]:
        terms = GrantTerms(
            amount=of, kind=GrantKind.PROMOTIONAL, effective_at=by.now, expires_at=Instant(by.now + by.goodwill)
        )
        return book.new_grant(terms, GrantState.ACTIVE)

    return give_back(book.account, book.debits, amount, why, now=by.now, goodwill=goodwill)


def tell_refund(
    book: Book, session: Session, by: Correcting, reason: str, left: MicroCredits, amount: MicroCredits
) -> None:
    """``left``: what of the charge was left before ``amount`` was given back."""
    _tell(
        book,
        Audit(
            actor=by.actor,
            action="session.refund",
            target=session.public_id,
            before={"left": format_credits(left)},
            after={"left": format_credits(MicroCredits(left - amount)), "given_back": format_credits(amount)},
            reason=reason,
        ),
    )


def _tell(book: Book, audit: Audit) -> None:
    """The line of the audit log, and the event if it gives something back or, under 0, charges more."""
    given_back = (audit.after or {})["given_back"]
    if given_back != "0":
        correction = audit.action.rpartition(".")[2]
        told = {"session_id": audit.target, "correction": correction, "given_back": given_back}
        book.emit(EventType.CHARGE_CORRECTED, told)
    book.audit(audit)
