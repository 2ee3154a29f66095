"""Charges as they are stored: one row a rating, the first at settlement, further ones when a session is rated again.

A charge keeps the digest of its evidence and all that is needed to work it out again; its pieces are not stored.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, bindparam, insert, select

from app.core.charge import Charge
from app.core.lifecycle import State
from app.core.packing import pack_instants
from app.core.units import Instant, MicroCredits, format_credits
from app.db.database import Transaction
from app.db.tables import charges
from app.http.answers import encode
from app.ledger.book import Book
from app.pricing.explanation import explain
from app.sessions.records import STEP_EVENTS, Session, take_step
from app.settlement.evidence import StoredEvidence, evidence_digest

_INSERT: Final = insert(charges)
_CHARGES: Final = (
    select(charges)
    .where(charges.c.account_id == bindparam("of_account"), charges.c.session_id == bindparam("of_session"))
    .order_by(charges.c.version)
)


@dataclass(frozen=True, slots=True)
class NewCharge:
    """A row to store once the entry that posts it has its id; ``natural_key`` is that entry's."""

    natural_key: str
    row: Mapping[str, Any]

    async def store(self, transaction: Transaction, entry_ids: Mapping[str, UUID]) -> None:
        """``entry_ids``: what :meth:`app.ledger.book.Book.close` answered. A charge of 0 has no entry."""
        await transaction.execute(_INSERT, {**self.row, "entry_id": entry_ids.get(self.natural_key)})


def new_charge(
    session: Session,
    stored: StoredEvidence,
    rated: Charge,
    *,
    amount: MicroCredits,
    natural_key: str,
    now: Instant,
    version: int = 1,
    rate_card_id: UUID | None = None,
) -> NewCharge:
    """The charge of a session on ``stored`` evidence; ``amount``: what it comes to after what could not be drawn."""
    row = {
        "account_id": session.account_id,
        "session_id": session.id,
        "version": version,
        "engine_version": stored.engine_version,
        "evidence_digest": evidence_digest(stored),
        "snapshot_n": stored.last_n,
        "accepted_snapshot": stored.accepted_snapshot,
        "ticks": pack_instants(stored.evidence.heartbeats),
        "amount": amount,
        "beyond_authorization": rated.beyond_authorization,
        "document": zlib.compress(stored_document(stored, rated)),
        "created_at": now,
        "rate_card_id": rate_card_id,
    }
    return NewCharge(natural_key, row)


def stored_document(stored: StoredEvidence, rated: Charge) -> bytes:
    """The explanation of a charge as it is stored: without the pieces, which are recomputed when they are asked for."""
    document = explain(rated, stored.evidence.card, stored.engine_version)
    del document["pieces"]
    return encode(document)


async def load_charges(transaction: Transaction, session: Session) -> list[Row[Any]]:
    """The session's charges, the settlement's first."""
    this = {"of_account": session.account_id, "of_session": session.id}
    return list((await transaction.execute(_CHARGES, this)).all())


async def post_charge(
    transaction: Transaction,
    book: Book,
    session: Session,
    stored: StoredEvidence,
    why: str,
    *,
    free: bool = False,
    due_at: Instant | None = None,
) -> NewCharge:
    """Settle a session on ``stored`` evidence: its one debit, the end of its hold, its step and the event.

    ``free``: nothing is charged, and what it came to is leakage. ``due_at``: when to look for late evidence, if ever.
    The charge must be stored after the book is closed.
    """
    final = stored.charge()
    wanted = MicroCredits(0) if free else final.amount
    drawn = book.account.settle(session.id, wanted, evidence_digest(stored))
    leakage = MicroCredits(final.amount + final.beyond_authorization - drawn.amount)
    await take_step(
        transaction,
        session,
        State.SETTLED,
        why,
        book.now,
        charged=drawn.amount,
        accrued=drawn.amount,
        leakage=leakage,
        written_off=free,
        anomalies=sorted(anomaly.value for anomaly in final.anomalies),
        settled_at=book.now,
        accepted_snapshot=stored.accepted_snapshot,
        attempts=0,
        failing_since=None,
        hold_until=None,
        due_at=due_at,
        lease_token=None,
        lease_until=None,
    )
    book.emit(
        STEP_EVENTS[State.SETTLED],
        {
            "session_id": session.public_id,
            "why": why,
            "charged": format_credits(drawn.amount),
            "leakage": format_credits(leakage),
        },
    )
    natural_key = f"settle:{session.id}"
    return new_charge(session, stored, final, amount=drawn.amount, natural_key=natural_key, now=book.now)


async def settle_again(
    transaction: Transaction,
    book: Book,
    session: Session,
    why: str,
    *,
    due_at: Instant | None = None,
    **values: Any,
) -> None:
    """The end of a review of a session that was charged before: the step and the event; its debit stays the one.

    ``due_at``: when to look for late evidence, if ever.
    """
    await take_step(
        transaction,
        session,
        State.SETTLED,
        why,
        book.now,
        attempts=0,
        failing_since=None,
        hold_until=None,
        due_at=due_at,
        lease_token=None,
        lease_until=None,
        **values,
    )
    book.emit(STEP_EVENTS[State.SETTLED], {"session_id": session.public_id, "why": why})
