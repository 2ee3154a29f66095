"""What a session costs and why: loaded once, told as a document or drawn as a picture."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row

from app.core.charge import Charge
from app.core.ids import AccountThing, Kind, public_id
from app.core.lifecycle import State
from app.core.outages import Outage
from app.core.units import Instant, MicroCredits, Micros, format_credits, format_instant
from app.db.database import Transaction
from app.ledger.rows import paid_debits
from app.pictures import SessionPicture
from app.pricing.explanation import explain
from app.sessions.records import Session, load_session
from app.sessions.routes import unknown_session
from app.settlement.charges import load_charges
from app.settlement.corrections import rate_again, within_window
from app.settlement.evidence import StoredEvidence, load_charged_evidence, load_evidence
from app.settlement.own_outages import with_own_outages

LoadOutages = Callable[[Transaction, Instant], Awaitable[Sequence[Outage]]]
"""Our outages from an instant on, as :meth:`app.receiving.Receiving.outages` finds them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A session's posted charge or, while ``versions`` of it are none, what has accrued.

    ``outages``: our own, as far as they may have left the session unheard.
    """

    session: Session
    versions: Sequence[Row[Any]]
    stored: StoredEvidence
    rated: Charge
    outages: Sequence[Outage]

    @property
    def final(self) -> bool:
        """Whether the charge is posted."""
        return bool(self.versions)


async def load_explained(transaction: Transaction, key: AccountThing, load_outages: LoadOutages) -> Explained:
    """All that the explanation of a session rests on. Raises a :class:`~app.errors.Problem`: 404."""
    session = await load_session(transaction, key)
    if session is None:
        raise unknown_session()
    versions = await load_charges(transaction, session)
    if versions:
        stored = await load_charged_evidence(transaction, session, versions[-1])
    else:
        # Nothing grows any more that a person will settle.
        stored = await load_evidence(transaction, session, interim=session.state is not State.REVIEW)
    rated = stored.charge()
    outages = await load_outages(transaction, session.requested_at)
    # A session that was never seen to be over, as one in review may be, ended at its limit at the latest.
    at_the_latest = Instant(rated.origin.at + session.time_limit + stored.evidence.card.gap)
    ended_at = session.over_at or at_the_latest
    outages = [outage for outage in outages if outage.start < ended_at]
    return Explained(session=session, versions=versions, stored=stored, rated=rated, outages=outages)


async def charge_document(
    transaction: Transaction, explained: Explained, *, now: Instant, rerate_window: Micros
) -> dict[str, Any]:
    """The explanation as a document.

    ``rerate_window``: so long after its settlement a review can still raise its charge.
    """
    session, versions, stored, rated = explained.session, explained.versions, explained.stored, explained.rated
    document = explain(rated, stored.evidence.card, stored.engine_version)
    return {
        **with_own_outages(document, rated, stored.evidence, explained.outages),
        "session_id": session.public_id,
        "state": session.state.value,
        "final": explained.final,
        **await _proposed(transaction, session, stored, now=now, rerate_window=rerate_window),
        **(await _posted(transaction, session, versions, rated) if versions else _NOTHING_POSTED),
        "snapshot": None if stored.rated is None else stored.rated.n,
        "accepted_snapshot": stored.accepted_snapshot,
        "heartbeats": [format_instant(heartbeat) for heartbeat in stored.evidence.heartbeats],
    }


def picture_of(explained: Explained) -> SessionPicture:
    """The same as it is drawn."""
    return SessionPicture(
        session_id=explained.session.public_id,
        state=explained.session.state.value,
        final=explained.final,
        charge=explained.rated,
        evidence=explained.stored.evidence,
        outages=explained.outages,
    )


_NOTHING_POSTED: Final = {"entry_id": None, "charged": None, "given_back": None, "leakage": None}


async def _proposed(
    transaction: Transaction, session: Session, stored: StoredEvidence, *, now: Instant, rerate_window: Micros
) -> dict[str, Any]:
    """What a session in review comes to if it is settled: on all evidence there is by now, by the same prices."""
    if session.state is not State.REVIEW:
        return {"proposed": None, "settles_at": None}
    if session.charged is None:
        rated = stored.charge()
        settles_at = rated.amount
    else:
        rating = await rate_again(transaction, session)
        stored, rated = rating.stored, rating.rated
        may_rise = within_window(session, now, rerate_window)
        settles_at = rated.amount if may_rise else min(rated.amount, rating.before)
    return {
        "proposed": explain(rated, stored.evidence.card, stored.engine_version),
        "settles_at": format_credits(settles_at),
    }


async def _posted(
    transaction: Transaction, session: Session, versions: Sequence[Row[Any]], rated: Charge
) -> dict[str, Any]:
    """What the ledger has of it: the first debit, what was charged in all, and what was given back of that.

    ``versions``: its charges, the last of which was ``rated`` at what it would be if nothing were leakage.
    """
    entry_id = versions[0].entry_id
    leakage = max(0, rated.amount - versions[-1].amount) + rated.beyond_authorization
    debits = await paid_debits(transaction, session.account_id, session.id)
    gross = sum(debit.gross for debit in debits)
    return {
        "entry_id": None if entry_id is None else public_id(Kind.ENTRY, session.account_id, entry_id),
        "charged": format_credits(MicroCredits(gross)),
        "given_back": format_credits(MicroCredits(gross - sum(debit.left for debit in debits))),
        "leakage": format_credits(MicroCredits(leakage)),
    }
