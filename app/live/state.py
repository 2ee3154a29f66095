"""What a user's stream tells: one document that says all of it, made of what is stored and of nothing before.

Two that were made of the same rows have the same id, whichever process made them. So whoever names the last one that he
has seen need not be told again what he knows, and whoever misses ten of them misses nothing that the eleventh lacks.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import BindParameter, bindparam, select

from app.accounts.balances import account_row, balance_of_row
from app.core.ids import Kind, parse_public_id
from app.core.lifecycle import State
from app.core.units import Instant, Micros, format_credits, format_instant, seconds
from app.db.database import Transaction
from app.db.tables import RUNNING, events, holds, sessions
from app.http.answers import encode
from app.ledger.keys import LedgerKeys
from app.sessions.records import SESSION_COLUMNS, STEP_EVENTS, Session, session_of

MOST_RUNNING: Final = 50
"""So many running sessions are listed, those asked for last first."""

LAST_EVENTS: Final = 64
"""A session that took a step within so many of the user's last events is listed, running or not."""

_STEPS: Final = ("session.started", *(event.value for event in STEP_EVENTS.values()))
_ID: Final = re.compile(r"[0-9]{1,19}-[0-9a-f]{16}", re.ASCII)


@dataclass(frozen=True, slots=True)
class LiveState:
    """A user's state. ``id``: the same for the same state."""

    id: str
    document: Mapping[str, Any]

    @property
    def suspended(self) -> bool:
        return bool(self.document["suspended"])

    @property
    def content(self) -> bytes:
        """The document as JSON, on one line."""
        return encode(self.document)


async def read_state(
    transaction: Transaction, user_id: str, now: Instant, longest: Micros, keys: LedgerKeys | None
) -> LiveState:
    """The user's state as it is stored. ``longest``: the longest session. 404 for a user never seen."""
    row = await account_row(transaction, user_id)
    balance = await balance_of_row(transaction, row, now, longest, keys)
    running, more = await _running(transaction, row.account_id)
    since = max(0, row.event_seq - LAST_EVENTS)
    stepped = await _stepped(transaction, row.account_id, since, {session.id for session in running})
    listed = sorted([*running, *stepped], key=lambda session: (session.requested_at, session.id), reverse=True)
    held = await _held(transaction, row.account_id, listed)
    shown = [_session(session, held.get(session.id, 0)) for session in listed]
    stable = {
        "user_id": row.user_id,
        "sequence": row.event_seq,
        "sessions_since": since,
        "more_sessions": more,
        "suspended": row.suspended,
        **{name: value for name, value in balance.items() if name not in {"user_id", "as_of"}},
        "sessions": shown,
    }
    digest = hashlib.blake2b(encode(stable), digest_size=8).hexdigest()
    told = {**stable, "as_of": format_instant(now), "time_left": _time_left(listed, balance["talk_time_s"], now)}
    return LiveState(f"{row.event_seq}-{digest}", told)


def known_id(text: str | None) -> str | None:
    """``text`` if it can be a state's id: what a client says that it saw last. Else null, and it is told all."""
    return text if text is not None and _ID.fullmatch(text) else None


async def _running(transaction: Transaction, account_id: UUID) -> tuple[list[Session], bool]:
    # As literals, so that the planner sees that the index of running sessions covers it.
    states: BindParameter[str] = bindparam("running", RUNNING, expanding=True, literal_execute=True)
    statement = (
        select(*SESSION_COLUMNS)
        .where(sessions.c.account_id == account_id, sessions.c.state.in_(states))
        .order_by(sessions.c.requested_at.desc(), sessions.c.id.desc())
        .limit(MOST_RUNNING + 1)
    )
    found = [session_of(row) for row in await transaction.execute(statement)]
    return found[:MOST_RUNNING], len(found) > MOST_RUNNING


async def _stepped(transaction: Transaction, account_id: UUID, since: int, besides: set[UUID]) -> list[Session]:
    """The sessions that took a step after event number ``since``, but for those that are known."""
    recent = select(events.c.data).where(
        events.c.account_id == account_id, events.c.seq > since, events.c.type.in_(_STEPS)
    )
    named = {
        parse_public_id(Kind.SESSION, data["session_id"]) for data in (await transaction.execute(recent)).scalars()
    }
    wanted = {key.id for key in named if key is not None} - besides
    if not wanted:
        return []
    these = select(*SESSION_COLUMNS).where(sessions.c.account_id == account_id, sessions.c.id.in_(wanted))
    return [session_of(row) for row in await transaction.execute(these)]


async def _held(transaction: Transaction, account_id: UUID, listed: Sequence[Session]) -> dict[UUID, int]:
    if not listed:
        return {}
    statement = select(holds.c.session_id, holds.c.amount).where(
        holds.c.account_id == account_id, holds.c.session_id.in_([session.id for session in listed])
    )
    return {row.session_id: row.amount for row in await transaction.execute(statement)}


def _session(session: Session, held: Any) -> dict[str, Any]:
    return {
        "id": session.public_id,
        "state": session.state.value,
        "persona": session.persona,
        "scenario": session.scenario,
        "requested_at": format_instant(session.requested_at),
        "started_at": _instant(session.started_at),
        "ends_at": _instant(_ends_at(session)),
        "over_at": _instant(session.over_at),
        "settled_at": _instant(session.settled_at),
        "time_limit_s": seconds(session.time_limit),
        "held": format_credits(held),
        "accrued": format_credits(session.accrued),
        "charged": None if session.charged is None else format_credits(session.charged),
    }


def _ends_at(session: Session) -> Instant | None:
    """When the provider ends it at the latest, as far as it is known to have begun."""
    return None if session.started_at is None else Instant(session.started_at + session.time_limit)


def _time_left(listed: Sequence[Session], otherwise: Any, now: Instant) -> dict[str, Any]:
    """How long the user can talk, and by how much that shrinks in a second."""
    ends = [end for session in listed if session.state is State.LIVE and (end := _ends_at(session)) is not None]
    if not ends:
        return {"seconds": otherwise, "rate": 0}
    return {"seconds": seconds(Micros(max(0, max(ends) - now))), "rate": -1}


def _instant(instant: Instant | None) -> str | None:
    return None if instant is None else format_instant(instant)
