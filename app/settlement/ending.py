"""Ending a session by request: the provider is asked to, and its word stands until evidence says otherwise.

The provider is called between two transactions. The first one only reads: unlike a start, an end may be asked for
twice, so nothing has to be written before the call, and a crash after it leaves nothing behind but an end that is asked
for again. The second one writes answer and audit, under the key; by the provider's word the session is over, and after
an unknown outcome its next pull is brought forward.
"""

from collections.abc import Mapping

from app.budget import provider_busy
from app.core.access import Actor
from app.core.budget import NotNow
from app.core.ids import AccountThing
from app.core.lifecycle import RECONCILED, State
from app.core.units import US_PER_S
from app.db.database import Database
from app.errors import CAPABILITY_MISSING, END_REFUSED, END_UNCONFIRMED, SESSION_NOT_LIVE, Problem
from app.gabber import Ended, EndUnconfirmed, Gabber, NotEnded
from app.http.answers import Answer
from app.http.idempotency import IdempotencyKey, claim, complete, earlier_answer, keyed_transaction, stored_answer
from app.ledger.audit import Audit
from app.ledger.book import LedgerPorts
from app.ledger.opening import open_book
from app.ports.clock import Clock
from app.sessions.documents import session_document
from app.sessions.records import STEP_EVENTS, Session, change_session, load_session, take_step
from app.sessions.routes import unknown_session


class Endings:
    """The use case; see the module."""

    def __init__(self, *, database: Database, ledger: LedgerPorts, gabber: Gabber, clock: Clock) -> None:
        self._database = database
        self._ledger = ledger
        self._gabber = gabber
        self._clock = clock

    async def end(self, session_key: AccountThing, key: IdempotencyKey | None, actor: Actor) -> Answer:
        """Have the provider end a session: 202 with the session, which is over by the provider's word.

        Raises a :class:`~app.errors.Problem`: 404, 409 ``capability-missing`` or ``session-not-live``, 502
        ``end-refused``, 503 ``provider-busy``, 504 ``end-unconfirmed``. None of these is stored under the key.
        """
        async with self._database.reading() as transaction:
            if key is not None:
                earlier = await earlier_answer(transaction, session_key.account_id, key)
                if earlier is not None:
                    return earlier
            session = await load_session(transaction, session_key)
        outcome = await self._gabber.end(self._ended_as(session))
        match outcome:
            case Ended():
                return await self._record(session_key, key, actor, {"provider": "ended"}, ended=True)
            case EndUnconfirmed():
                # It may well have ended, which pulls will show. Not an answer to keep: the same request asks again.
                await self._record(session_key, None, actor, {"provider": "unknown", "why": outcome.why}, ended=False)
                raise Problem(END_UNCONFIRMED, f"{outcome.why}; it does no harm to ask again")
            case NotEnded():
                raise _refused(outcome)
            case NotNow():
                raise provider_busy(outcome)

    def _ended_as(self, session: Session | None) -> str:
        """The provider's id of a session that can be ended."""
        if session is None:
            raise unknown_session()
        if not self._gabber.capabilities.can_end:
            raise Problem(CAPABILITY_MISSING, "the provider is not known to be able to end a session")
        if session.state not in RECONCILED or session.provider_session_id is None:
            raise Problem(SESSION_NOT_LIVE, f"a session that is {session.state} cannot be ended")
        return session.provider_session_id

    async def _record(
        self,
        session_key: AccountThing,
        key: IdempotencyKey | None,
        actor: Actor,
        outcome: Mapping[str, str],
        *,
        ended: bool,
    ) -> Answer:
        async with keyed_transaction(self._database, session_key.account_id, key) as transaction:
            now = self._clock.now()
            if key is not None:
                row = await claim(transaction, session_key.account_id, key, now)
                if row is not None:
                    return stored_answer(row)  # the same request overtook this one while the provider was asked
            book = await open_book(transaction, self._ledger, session_key.account_id, now, [session_key.id])
            session = await load_session(transaction, session_key, lock=True)
            if book is None or session is None:
                raise RuntimeError("a session that was just read is gone")
            is_over = session.state is State.LIVE and ended
            if is_over:
                why = "the provider ended it"
                await take_step(transaction, session, State.OVER, why, now, over_at=now, ended_at=now, due_at=now)
                book.emit(STEP_EVENTS[State.OVER], {"session_id": session.public_id, "why": why})
            elif session.state is State.OVER and ended:
                # The word of before may have been wrong, and this one not.
                await change_session(transaction, session, ended_at=now)
            elif session.state is State.LIVE and session.due_at is not None and session.due_at > now:
                await change_session(transaction, session, due_at=now)
            state = State.OVER if is_over else session.state
            book.audit(
                Audit(
                    actor=actor,
                    action="session.end",
                    target=session.public_id,
                    before={"state": session.state.value},
                    after={"state": state.value, **outcome},
                )
            )
            await book.close()
            after = await load_session(transaction, session_key)
            if after is None:
                raise RuntimeError("a session under lock is gone")
            answer = Answer(202, await session_document(transaction, after))
            if key is not None:
                await complete(transaction, session_key.account_id, key, answer)
        return answer


def _refused(outcome: NotEnded) -> Problem:
    wait = outcome.retry_after
    return Problem(
        END_REFUSED,
        outcome.message or outcome.code,
        extra={"provider_status": outcome.status, "provider_code": outcome.code},
        headers={} if wait is None else {"Retry-After": str(-(-wait // US_PER_S))},
    )
