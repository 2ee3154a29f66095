"""Deciding a review: the session is settled as its evidence is rated by then, or written off."""

from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any, Final

from app.core.charge import Charge
from app.core.corrections import Correction
from app.core.entries import EntryKind
from app.core.ids import AccountThing
from app.core.lifecycle import State
from app.core.units import MicroCredits
from app.db.database import Transaction
from app.documents import Document, PlainString, Reason
from app.errors import SESSION_NOT_IN_REVIEW, Problem
from app.ledger.audit import Audit
from app.ledger.book import Book
from app.ledger.opening import open_book
from app.sessions.documents import session_document
from app.sessions.records import Session, load_session
from app.sessions.routes import unknown_session
from app.settlement.charges import post_charge, settle_again
from app.settlement.corrections import (
    Correcting,
    draft_difference,
    give_back_of,
    late_look_at,
    post_difference,
    rate_again,
    tell_refund,
    told,
    within_window,
)
from app.settlement.evidence import StoredEvidence, load_evidence

TOO_LATE_FOR_MORE: Final = "it is too late to charge more"
"""How the step begins by which a review ends after the re-rate window, if it would have raised the charge."""


class ReviewAction(StrEnum):
    SETTLE = "settle"
    WRITE_OFF = "write_off"


class ReviewDocument(Document):
    action: Annotated[ReviewAction, PlainString]
    reason: Reason


async def decide_review(
    transaction: Transaction, key: AccountThing, asked: ReviewDocument, by: Correcting
) -> dict[str, Any]:
    """End a review: settle the session as its evidence is rated, or write it off. The session's document.

    Of a session that was charged before it came into review, the difference is posted as when it is rated again, which
    after the re-rate window can only lower the charge; what is written off is given back.

    Raises a :class:`~app.errors.Problem`: 404, 409 ``session-not-in-review``.
    """
    book = await open_book(transaction, by.ledger, key.account_id, by.now, [key.id], correcting=key.id)
    session = await load_session(transaction, key, lock=True)
    if book is None or session is None:
        raise unknown_session()
    if session.state is not State.REVIEW:
        raise Problem(SESSION_NOT_IN_REVIEW, f"the session is {session.state}")
    free = asked.action is ReviewAction.WRITE_OFF
    why = f"{'written off' if free else 'settled'} by an operator: {asked.reason}"
    before = {"state": session.state.value, "charged": told(session.charged), "written_off": session.written_off}
    after: dict[str, Any] = {"state": State.SETTLED.value, "charged": told(session.charged), "written_off": free}
    book.audit(
        Audit(
            actor=by.actor,
            action=f"session.{asked.action}",
            target=session.public_id,
            before=before,
            after=after,
            reason=asked.reason,
        )
    )
    if session.charged is None:
        stored = await load_evidence(transaction, session, interim=False)
        if not free:
            session = accepting(session, stored, stored.charge())
            stored = await load_evidence(transaction, session, interim=False)
        look_at = None if free else late_look_at(book.now, book.now, by.rerate_window)
        posted = await post_charge(transaction, book, session, stored, why, free=free, due_at=look_at)
        after["charged"] = told(posted.row["amount"])
        await posted.store(transaction, await book.close())
    elif free:
        await _write_off_charged(transaction, book, session, why, asked.reason, by)
    else:
        await _settle_charged(transaction, book, session, why, asked.reason, by)
    settled = await load_session(transaction, key)
    if settled is None:
        raise RuntimeError("a session under lock is gone")
    return await session_document(transaction, settled)


def accepting(session: Session, stored: StoredEvidence, rated: Charge) -> Session:
    """The session once a person has accepted ``stored`` evidence: what contradicts itself in it is decided.

    Of what comes later, that alone is no contradiction any more, and how much was said is measured by this.
    """
    if stored.rated is None or not stored.contradictions(rated):
        return session
    return replace(session, accepted_snapshot=stored.rated.n)


async def _write_off_charged(
    transaction: Transaction, book: Book, session: Session, why: str, reason: str, by: Correcting
) -> None:
    left = MicroCredits(sum(debit.left for debit in book.debits))
    if left:
        given_back = Correction(
            kind=EntryKind.REFUND,
            natural_key=f"refund:{session.id}:{by.cause}",
            reason=reason,
            session_id=session.id,
        )
        give_back_of(book, left, given_back, by)
        tell_refund(book, session, by, reason, left, left)
    await settle_again(transaction, book, session, why, written_off=True)
    await book.close()


async def _settle_charged(
    transaction: Transaction, book: Book, session: Session, why: str, reason: str, by: Correcting
) -> None:
    rating = await rate_again(transaction, session)
    if rating.is_news and not rating.seen_before:
        session = accepting(session, rating.stored, rating.rated)
        rating = await rate_again(transaction, session)
    # What is in the customer's favour is never too late; more is charged only while a rating is possible as well.
    too_late = rating.rated.amount > rating.before and not within_window(session, by.now, by.rerate_window)
    if too_late:
        why = f"{TOO_LATE_FOR_MORE}; {why}"
    anomalies = sorted(anomaly.value for anomaly in rating.rated.anomalies)
    look_at = late_look_at(session.settled_at or book.now, book.now, by.rerate_window)
    await settle_again(
        transaction,
        book,
        session,
        why,
        due_at=look_at,
        anomalies=anomalies,
        accepted_snapshot=session.accepted_snapshot,
    )
    if too_late or not rating.is_news or rating.seen_before:
        await book.close()
        return
    difference, _ = draft_difference(book, session, rating, reason, by)
    await post_difference(transaction, book, session, rating, difference, reason, by)
