"""Sessions as documents."""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import select, tuple_

from app.core.ids import Kind, reference_id
from app.core.lossless_json import dumps
from app.core.units import Instant, format_credits, format_instant, seconds
from app.db.database import Transaction
from app.db.tables import accounts, holds, rate_cards
from app.sessions.heartbeats import load_heartbeats
from app.sessions.records import Session, load_steps


async def session_document(transaction: Transaction, session: Session) -> dict[str, Any]:
    """One session as lists and answers to writes show it."""
    return (await session_documents(transaction, [session]))[0]


async def session_with_steps(transaction: Transaction, session: Session) -> dict[str, Any]:
    """One session as ``GET /v1/sessions/{id}`` shows it: with the steps that it took, first one first."""
    steps = [
        {
            "state": taken.after.value,
            "from": None if taken.before is None else taken.before.value,
            "why": taken.why,
            "at": format_instant(taken.at),
        }
        for taken in await load_steps(transaction, session.key)
    ]
    return {**await session_document(transaction, session), "steps": steps}


async def session_documents(transaction: Transaction, found: Sequence[Session]) -> list[dict[str, Any]]:
    """Sessions as documents, in the order given, by a fixed number of queries."""
    if not found:
        return []
    keys = [tuple(session.key) for session in found]
    users = await _by_key(
        transaction,
        select(accounts.c.account_id, accounts.c.user_id).where(
            accounts.c.account_id.in_({session.account_id for session in found})
        ),
    )
    cards = await _by_key(
        transaction,
        select(rate_cards.c.id, rate_cards.c.name, rate_cards.c.version).where(
            rate_cards.c.id.in_({session.rate_card_id for session in found})
        ),
    )
    held = await _by_key(
        transaction,
        select(holds.c.session_id, holds.c.amount).where(tuple_(holds.c.account_id, holds.c.session_id).in_(keys)),
    )
    heartbeats = await load_heartbeats(transaction, found)
    return [
        _document(
            session,
            users[session.account_id][0],
            cards[session.rate_card_id],
            held.get(session.id, (0,))[0],
            heartbeats[session.id],
        )
        for session in found
    ]


async def _by_key(transaction: Transaction, statement: Any) -> dict[Any, tuple[Any, ...]]:
    return {row[0]: tuple(row[1:]) for row in await transaction.execute(statement)}


def _document(
    session: Session, user_id: str, card: tuple[Any, ...], held: Any, heartbeats: Sequence[Instant]
) -> dict[str, Any]:
    return {
        "id": session.public_id,
        "provider_session_id": session.provider_session_id,
        "user_id": user_id,
        "persona": session.persona,
        "scenario": session.scenario,
        "state": session.state.value,
        "requested_at": format_instant(session.requested_at),
        "started_at": _instant(session.started_at),
        "over_at": _instant(session.over_at),
        "settled_at": _instant(session.settled_at),
        "time_limit_s": seconds(session.time_limit),
        "held": format_credits(held),
        "accrued": format_credits(session.accrued),
        "charged": None if session.charged is None else format_credits(session.charged),
        "leakage": None if session.leakage is None else format_credits(session.leakage),
        "written_off": session.written_off,
        "authorized": format_credits(session.authorized),
        "rate_card": {"id": reference_id(Kind.RATE_CARD, session.rate_card_id), "name": card[0], "version": card[1]},
        "last_heartbeat_at": _instant(heartbeats[-1] if heartbeats else None),
        "heartbeat_count": len(heartbeats),
        "anomalies": session.anomalies,
        "metadata": msgspec.Raw(dumps(session.metadata).encode()),
    }


def _instant(instant: Instant | None) -> str | None:
    return None if instant is None else format_instant(instant)
