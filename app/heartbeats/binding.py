"""The first heartbeat of a session: it supplies the provider's id, and proves that the session runs.

An ordinary transaction, taken once per session: it locks the account and the session, binds the id, moves the session
on and stores the tick, all before the 204.
"""

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import insert
from sqlalchemy.dialects.postgresql import insert as upsert

from app.core.ids import AccountThing
from app.core.lifecycle import State
from app.core.rate_card import ChargeFrom
from app.core.units import US_PER_MINUTE, Instant, Micros
from app.db.database import Database
from app.db.tables import security_events, ticks
from app.heartbeats.writer import Tick
from app.ledger.book import LedgerPorts
from app.ledger.opening import open_book
from app.sessions.records import STEP_EVENTS, is_adopted, is_bound, load_session, take_step


class UnknownSession(Exception):
    """A genuine token of a session that is not there (a restored database, say)."""


class SecurityEvent(StrEnum):
    SESSION_MISMATCH = "session_mismatch"
    """A heartbeat named another session than its token's."""
    ID_OF_ANOTHER_USER = "id_of_another_user"
    """A session is bound to the provider's id that a session of another user is bound to. Both cannot be right."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The provider's id that the session is bound to; ``stored``: the tick is already durable."""

    provider_session_id: str
    stored: bool


class Bindings:
    """Binds sessions to the provider's ids."""

    def __init__(self, database: Database, ledger: LedgerPorts, reconcile_interval: Micros) -> None:
        self._database = database
        self._ledger = ledger
        self._reconcile_interval = reconcile_interval

    async def bind(self, tick: Tick, provider_id: str) -> Bound | None:
        """Bind the tick's session to ``provider_id`` if it is bound to none yet, and store the tick with it.

        Null: ``provider_id`` is bound to another session of the same user. Raises :class:`UnknownSession`.
        """
        key = tick.session
        async with self._database.transaction() as transaction:
            session = await load_session(transaction, key)
            if session is None:
                raise UnknownSession
            if session.provider_session_id is not None:
                return Bound(session.provider_session_id, stored=False)
            book = await open_book(transaction, self._ledger, key.account_id, tick.received_at, [key.id])
            session = await load_session(transaction, key, lock=True)
            if book is None or session is None:
                raise UnknownSession
            if session.provider_session_id is not None:
                return Bound(session.provider_session_id, stored=False)
            if await is_bound(transaction, key.account_id, provider_id):
                return None
            # Whether anybody received the connection is not known here: until the start says so, nobody pays for a
            # greeting to an empty room. Who starts a session himself has received it himself: there the card decides.
            adopted = await is_adopted(transaction, key)
            to = State.REVIEW if session.state is State.FAILED else State.LIVE
            why = "a heartbeat came after the start had failed" if to is State.REVIEW else "first heartbeat"
            await take_step(
                transaction,
                session,
                to,
                why,
                tick.received_at,
                provider_session_id=provider_id,
                charge_from=None if adopted else ChargeFrom.FIRST_USER_SPEECH.value,
                started_at=tick.received_at,
                due_at=tick.received_at + self._reconcile_interval,
                attempts=0,
            )
            await transaction.execute(
                insert(ticks).values(
                    account_id=key.account_id,
                    session_id=key.id,
                    received_at=tick.received_at,
                    id=tick.id,
                    extra=tick.extra,
                )
            )
            book.emit(STEP_EVENTS[to], {"session_id": session.public_id, "why": why})
            await book.close()
        return Bound(provider_id, stored=True)

    async def count(self, session: AccountThing, now: Instant, what: SecurityEvent) -> None:
        """Count what is odd about a session's heartbeat: one row per session, minute and kind."""
        async with self._database.transaction() as transaction:
            await transaction.execute(
                upsert(security_events)
                .values(
                    account_id=session.account_id,
                    session_id=session.id,
                    minute=Instant(now - now % US_PER_MINUTE),
                    kind=what.value,
                    count=1,
                )
                .on_conflict_do_update(
                    index_elements=["account_id", "session_id", "minute", "kind"],
                    set_={"count": security_events.c.count + 1},
                )
            )
