"""Lists of sessions."""

from typing import Any

from sqlalchemy import select, tuple_

from app.core.ids import Kind, account_id_of, public_id
from app.core.lifecycle import State
from app.core.units import Instant, format_instant
from app.db.database import Transaction
from app.db.keyset import beyond, end_unless_passed
from app.db.tables import session_steps, sessions
from app.errors import invalid
from app.http.pages import cursor_instant, cursor_uuid, make_cursor, page, read_cursor
from app.sessions.documents import session_documents
from app.sessions.records import SESSION_COLUMNS, session_of


async def sessions_page(
    transaction: Transaction,
    *,
    limit: int,
    cursor: str | None,
    user_id: str | None,
    state: str | None,
    started_after: Instant | None,
    started_before: Instant | None,
) -> dict[str, Any]:
    """A page of sessions, those asked for last first; of a period, by when they started, those started last first.

    ``started_after`` is inclusive, ``started_before`` is not. How long a session waited to start nobody knows before
    it does: by when they were asked for, the sessions of a period can only be found among all.
    """
    of_period = started_after is not None or started_before is not None
    by = sessions.c.started_at if of_period else sessions.c.requested_at
    statement = select(*SESSION_COLUMNS).order_by(by.desc(), sessions.c.id.desc())
    if of_period:
        # Said although it follows: that it follows from a comparison of rows the planner does not see.
        statement = statement.where(by.is_not(None))
    if user_id is not None:
        statement = statement.where(sessions.c.account_id == account_id_of(user_id))
    if state is not None:
        if state not in set(State):
            raise invalid("/state", "must be one of " + ", ".join(State))
        statement = statement.where(sessions.c.state == state)
    if started_after is not None:
        statement = statement.where(sessions.c.started_at >= started_after)
    position = read_cursor(cursor, int, str)
    if position is not None:
        last = cursor_instant(position[0]), cursor_uuid(position[1])
        statement = statement.where(beyond((by, sessions.c.id), last, down=True))
        started_before = end_unless_passed(started_before, last[0])
    if started_before is not None:
        statement = statement.where(sessions.c.started_at < started_before)
    rows = (await transaction.execute(statement.limit(limit + 1))).all()
    shown = [session_of(row) for row in rows[:limit]]
    more = make_cursor(rows[limit - 1]._mapping[by], str(shown[-1].id)) if len(rows) > limit else None
    return page(await session_documents(transaction, shown), more)


async def session_of_provider(transaction: Transaction, provider_session_id: str) -> str | None:
    """The id of the session that has this id at the provider; of several users' the last one; null if none has."""
    statement = (
        select(sessions.c.account_id, sessions.c.id)
        .where(sessions.c.provider_session_id == provider_session_id)
        .order_by(sessions.c.requested_at.desc(), sessions.c.id.desc())
        .limit(1)
    )
    row = (await transaction.execute(statement)).one_or_none()
    return None if row is None else public_id(Kind.SESSION, row.account_id, row.id)


async def waiting_reviews(
    transaction: Transaction, *, limit: int, cursor: str | None
) -> tuple[list[dict[str, Any]], str | None]:
    """Sessions in review, those asked for first first: their documents, each with why and since when, and a cursor."""
    statement = (
        select(*SESSION_COLUMNS)
        .where(sessions.c.state == State.REVIEW.value)
        .order_by(sessions.c.requested_at, sessions.c.id)
    )
    position = read_cursor(cursor, int, str)
    if position is not None:
        last = cursor_instant(position[0]), cursor_uuid(position[1])
        statement = statement.where(beyond((sessions.c.requested_at, sessions.c.id), last, down=False))
    found = [session_of(row) for row in await transaction.execute(statement.limit(limit + 1))]
    shown = found[:limit]
    more = make_cursor(shown[-1].requested_at, str(shown[-1].id)) if len(found) > limit else None
    why = {}
    if shown:
        keys = [(session.account_id, session.id, session.steps) for session in shown]
        these = tuple_(session_steps.c.account_id, session_steps.c.session_id, session_steps.c.n).in_(keys)
        why = {row.session_id: row for row in await transaction.execute(select(session_steps).where(these))}
    documents = await session_documents(transaction, shown)
    waits = zip(documents, (why[session.id] for session in shown), strict=True)
    return [{**document, "why": step.why, "since": format_instant(step.at)} for document, step in waits], more
