"""Pulling a session's timeline because somebody asks for it."""

from typing import Any

from app.budget import provider_busy
from app.core.access import Actor
from app.core.budget import NotNow
from app.core.ids import AccountThing
from app.core.units import format_credits
from app.db.database import Database
from app.errors import BUSY, PROVIDER_UNAVAILABLE, Problem
from app.ledger.audit import Audit, record_audits
from app.ports.clock import Clock
from app.ports.ids import Ids
from app.sessions.documents import session_document
from app.sessions.records import Session, load_session
from app.sessions.routes import unknown_session
from app.settlement.reconciler import Reconciler
from app.settlement.steps import Outcome


async def pull_now(
    database: Database, reconciler: Reconciler, ids: Ids, clock: Clock, key: AccountThing, actor: Actor
) -> dict[str, Any]:
    """Pull the timeline and do what follows from it; the session's document. The audit log has who asked.

    Raises a :class:`~app.errors.Problem`: 404, 502 ``provider-unavailable``, 503 ``provider-busy`` or ``busy``.
    """
    async with database.reading() as transaction:
        before = await load_session(transaction, key)
    if before is None:
        raise unknown_session()
    try:
        outcome = await reconciler.reconcile(key, now_please=True)
    finally:
        # Who asked is kept by itself, whatever came of it: what the pull changes is the work of reconciliation,
        # which does it unasked as well. In between another process may have changed something.
        async with database.transaction() as transaction:
            after = await load_session(transaction, key)
            audit = Audit(
                actor=actor,
                action="session.reconcile",
                target=before.public_id,
                before=_as_it_stood(before),
                after=None if after is None else _as_it_stood(after),
            )
            await record_audits(transaction, ids, key.account_id, [audit], clock.now())
    if isinstance(outcome, NotNow):
        raise provider_busy(outcome)
    if outcome is Outcome.PULL_FAILED:
        raise Problem(PROVIDER_UNAVAILABLE, "the timeline could not be pulled; it will be tried again by itself")
    async with database.reading() as transaction:
        session = await load_session(transaction, key)
        if session is None:
            raise unknown_session()
        if outcome is Outcome.NOT_OURS and session.lease_token is not None:
            raise Problem(BUSY, "the session is being reconciled at this moment")
        return await session_document(transaction, session)


def _as_it_stood(session: Session) -> dict[str, Any]:
    """What reconciliation can change of a session, for the audit log."""
    return {
        "state": session.state.value,
        "accrued": format_credits(session.accrued),
        "charged": None if session.charged is None else format_credits(session.charged),
    }
