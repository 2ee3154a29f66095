"""A session's charge and the evidence for it."""

from bisect import bisect_right
from collections import defaultdict
from typing import Any, Final

import msgspec
from fastapi import APIRouter
from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response

from app.core.access import Own, Scope
from app.core.ids import AccountThing
from app.core.lossless_json import dumps, plain_json
from app.core.units import Instant, Micros, format_instant
from app.db.database import Database, Transaction
from app.db.tables import ticks
from app.http.accept import SVG, VARY, wants_svg
from app.http.access import actor_of, allowed
from app.http.answers import Answer, json_response
from app.http.bodies import read_bounded
from app.http.idempotency import idempotency_key
from app.http.pages import Cursor, Limit, cursor_instant, make_cursor, page, page_limit, read_cursor
from app.pictures import draw
from app.ports.clock import Clock
from app.ports.ids import Ids
from app.receiving import Receiving
from app.sessions.heartbeats import load_heartbeats
from app.sessions.records import load_session
from app.sessions.routes import session_key, unknown_session
from app.settlement.ending import Endings
from app.settlement.explained import charge_document, load_explained, picture_of
from app.settlement.pull_now import pull_now
from app.settlement.reconciler import Reconciler
from app.timelines.snapshots import load_snapshots

PICTURE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""A picture opened by itself has its own style sheet, and nothing else."""


def settlement_routes(
    database: Database,
    reconciler: Reconciler,
    endings: Endings,
    receiving: Receiving,
    clock: Clock,
    ids: Ids,
    *,
    rerate_window: Micros,
) -> APIRouter:
    router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

    @router.get("/{session_id}/charge", summary="What a session costs, and why")
    @allowed(Scope.READ, own=Own.SESSION)
    async def get_charge(request: Request, session_id: str) -> Response:
        async with database.reading() as transaction:
            explained = await load_explained(transaction, session_key(session_id), receiving.outages)
            if wants_svg(request):
                return Response(
                    draw(picture_of(explained)),
                    headers={**VARY, "Content-Security-Policy": PICTURE_POLICY},
                    media_type=SVG,
                )
            now = clock.now()
            document = await charge_document(transaction, explained, now=now, rerate_window=rerate_window)
            return Answer(200, document, VARY).response()

    @router.get("/{session_id}/heartbeats", summary="The heartbeats that we received, in order")
    @allowed(Scope.READ)
    async def heartbeats(session_id: str, limit: Limit = None, cursor: Cursor = None) -> Response:
        async with database.reading() as transaction:
            return json_response(
                await _heartbeats_page(transaction, session_key(session_id), page_limit(limit), cursor)
            )

    @router.get("/{session_id}/snapshots", summary="The timelines that we pulled, digit for digit")
    @allowed(Scope.READ)
    async def snapshots(session_id: str, limit: Limit = None, cursor: Cursor = None) -> Response:
        async with database.reading() as transaction:
            return json_response(await _snapshots_page(transaction, session_key(session_id), page_limit(limit), cursor))

    @router.post("/{session_id}/reconcile", summary="Pull the timeline now")
    @allowed(Scope.SESSIONS_WRITE, "session.reconcile")
    async def reconcile(session_id: str, request: Request) -> Response:
        return json_response(
            await pull_now(database, reconciler, ids, clock, session_key(session_id), actor_of(request))
        )

    @router.post("/{session_id}/end", summary="Have the provider end a session", status_code=202)
    @allowed(Scope.SESSIONS_WRITE, "session.end")
    async def end(session_id: str, request: Request) -> Response:
        key = idempotency_key(request, await read_bounded(request))
        return (await endings.end(session_key(session_id), key, actor_of(request))).response()

    return router


async def _heartbeats_page(
    transaction: Transaction, key: AccountThing, rows: int, cursor: str | None
) -> dict[str, Any]:
    session = await load_session(transaction, key)
    if session is None:
        raise unknown_session()
    # Of several within one microsecond, which is which only their order tells once their rows are gone.
    heard: list[tuple[Instant, int]] = []
    for received_at in (await load_heartbeats(transaction, [session]))[key.id]:
        again = bool(heard) and heard[-1][0] == received_at
        heard.append((received_at, heard[-1][1] + 1 if again else 0))
    position = read_cursor(cursor, int, int)
    if position is not None:
        after = (cursor_instant(position[0]), position[1])
        heard = heard[bisect_right(heard, after) :]
    shown = heard[:rows]
    extras = await _extras(transaction, key, shown[0][0], shown[-1][0]) if shown else {}
    documents = [
        {
            "received_at": format_instant(received_at),
            "extra": msgspec.Raw(plain_json(extras.get((received_at, nth)) or "{}").encode()),
        }
        for received_at, nth in shown
    ]
    return page(documents, make_cursor(*shown[-1]) if len(heard) > rows else None)


async def _extras(
    transaction: Transaction, key: AccountThing, first: Instant, last: Instant
) -> dict[tuple[Instant, int], str | None]:
    """The further fields of the heartbeats from ``first`` to ``last`` whose rows are still there.

    By instant, and how manieth of that.
    """
    statement = (
        select(ticks.c.received_at, ticks.c.extra)
        .where(ticks.c.account_id == key.account_id, ticks.c.session_id == key.id)
        .where(ticks.c.received_at.between(first, last))
        .order_by(ticks.c.received_at, ticks.c.id)
    )
    found: dict[tuple[Instant, int], str | None] = {}
    so_far: dict[Instant, int] = defaultdict(int)
    for row in await transaction.execute(statement):
        found[row.received_at, so_far[row.received_at]] = row.extra
        so_far[row.received_at] += 1
    return found


async def _snapshots_page(transaction: Transaction, key: AccountThing, rows: int, cursor: str | None) -> dict[str, Any]:
    if await load_session(transaction, key) is None:
        raise unknown_session()
    position = read_cursor(cursor, int)
    after = 0 if position is None else position[0]
    found = [item for item in await load_snapshots(transaction, key) if item.n > after]
    documents = [
        {
            "requested_at": format_instant(item.pull.requested_at),
            "received_at": format_instant(item.pull.received_at),
            "values": msgspec.Raw(dumps(item.values, strict=True).encode()),
        }
        for item in found[:rows]
    ]
    return page(documents, make_cursor(found[rows - 1].n) if len(found) > rows else None)
