"""What the provider answered to a session's pulls, for whoever doubts what we made of it."""

import re
from typing import Any, Final

from fastapi import APIRouter
from starlette.responses import Response

from app.core.access import Scope
from app.core.ids import AccountThing
from app.core.units import format_instant
from app.db.database import Database, Transaction
from app.errors import NOT_FOUND, Problem
from app.http.access import allowed
from app.http.answers import json_response
from app.http.pages import Cursor, Limit, make_cursor, page, page_limit, read_cursor
from app.http.schemas import BINARY
from app.sessions.records import load_session
from app.sessions.routes import session_key, unknown_session
from app.timelines.raw import KeptPage, KeptPull, load_body, load_pulls

_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def pull_routes(database: Database) -> APIRouter:
    router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

    @router.get("/{session_id}/pulls", summary="What the provider answered when we asked for the timeline")
    @allowed(Scope.READ)
    async def pulls(session_id: str, limit: Limit = None, cursor: Cursor = None) -> Response:
        async with database.reading() as transaction:
            return json_response(await pulls_page(transaction, session_key(session_id), page_limit(limit), cursor))

    @router.get("/{session_id}/bodies/{sha256}", summary="One of these answers, byte for byte")
    @allowed(Scope.READ)
    async def body(session_id: str, sha256: str) -> Response:
        async with database.reading() as transaction:
            return await body_response(transaction, session_key(session_id), sha256)

    return router


async def body_response(transaction: Transaction, key: AccountThing, sha256: str) -> Response:
    """An answer of the provider's, byte for byte. Raises a 404 :class:`~app.errors.Problem`."""
    found = await load_body(transaction, key, bytes.fromhex(sha256)) if _SHA256.fullmatch(sha256) else None
    if found is None:
        raise Problem(NOT_FOUND, "no such body of an answer about this session is kept")
    # Never as what the provider calls it: a browser might run it.
    return Response(
        found,
        media_type=BINARY,
        headers={"Content-Disposition": f'attachment; filename="{sha256[:16]}.bin"'},
    )


async def pulls_page(transaction: Transaction, key: AccountThing, rows: int, cursor: str | None) -> dict[str, Any]:
    """A page of the answers to a session's pulls. Raises a :class:`~app.errors.Problem`: 404, 422."""
    if await load_session(transaction, key) is None:
        raise unknown_session()
    position = read_cursor(cursor, int, int, int)
    found = await load_pulls(transaction, key)
    if position is not None:
        found = [pull for pull in found if pull.position > tuple(position)]
    documents = [_pull_document(pull) for pull in found[:rows]]
    return page(documents, make_cursor(*found[rows - 1].position) if len(found) > rows else None)


def _pull_document(pull: KeptPull) -> dict[str, Any]:
    return {
        "snapshot": pull.n if pull.failure is None else None,
        "failure": pull.failure,
        "detail": pull.detail,
        "times": pull.times,
        "first_received_at": format_instant(pull.first_at),
        "received_at": format_instant(pull.last_at),
        "pages": [_kept_page_document(page) for page in pull.pages],
    }


def _kept_page_document(page: KeptPage) -> dict[str, Any]:
    return {
        "page": page.page,
        "sha256": page.digest.hex(),
        "kept": page.status is not None,
        "status": page.status,
        "content_type": page.content_type,
        "received_at": None if page.received_at is None else format_instant(page.received_at),
        "size": page.size,
        "truncated": page.truncated,
        "redacted": page.redacted,
    }
