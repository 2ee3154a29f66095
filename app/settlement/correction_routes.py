"""``/v1/sessions/{id}/refund``, ``/rerate`` and ``/review``."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.core.access import Scope
from app.core.ids import AccountThing
from app.core.units import Micros
from app.db.database import Database, Transaction
from app.documents import AnyDocument
from app.http.access import actor_of, allowed
from app.http.answers import Answer
from app.http.bodies import takes
from app.http.idempotency import cause_of, read_keyed, write_once
from app.ledger.book import LedgerPorts
from app.ports.clock import Clock
from app.sessions.routes import session_key
from app.settlement.corrections import (
    Correcting,
    RefundDocument,
    RerateDocument,
    refund,
    rerate,
)
from app.settlement.reconciler import Reconciler
from app.settlement.reviews import ReviewAction, ReviewDocument, decide_review


def session_correction_routes(
    database: Database,
    ledger: LedgerPorts,
    clock: Clock,
    reconciler: Reconciler,
    *,
    goodwill: Micros,
    rerate_window: Micros,
) -> APIRouter:
    """The routes; ``goodwill``: how long a grant of goodwill lasts. ``rerate_window``: after settlement."""
    router = APIRouter(prefix="/v1/sessions", tags=["corrections"])

    async def correct(
        session_id: str,
        request: Request,
        kind: type[AnyDocument],
        work: Callable[[Transaction, AccountThing, AnyDocument, Correcting], Awaitable[dict[str, Any]]],
        status: int,
    ) -> Response:
        asked, key = await read_keyed(request, kind)
        session = session_key(session_id)
        if isinstance(asked, ReviewDocument) and asked.action is ReviewAction.SETTLE:
            await reconciler.bring_up_to_date(session)
        by = Correcting(
            ledger=ledger,
            now=clock.now(),
            cause=cause_of(key, ledger.ids),
            actor=actor_of(request),
            goodwill=goodwill,
            rerate_window=rerate_window,
        )

        async def once(transaction: Transaction) -> Answer:
            return Answer(status, await work(transaction, session, asked, by))

        return await write_once(database, session.account_id, key, by.now, once)

    @router.post(
        "/{session_id}/refund",
        summary="Give back a charge, whole or in part",
        status_code=201,
        openapi_extra=takes(RefundDocument),
    )
    @allowed(Scope.CREDITS_WRITE, "session.refund")
    async def refund_session(session_id: str, request: Request) -> Response:
        return await correct(session_id, request, RefundDocument, refund, 201)

    @router.post(
        "/{session_id}/rerate",
        summary="Rate a session again and post the difference",
        openapi_extra=takes(RerateDocument),
    )
    @allowed(Scope.CREDITS_WRITE, "session.rerate")
    async def rerate_session(session_id: str, request: Request) -> Response:
        return await correct(session_id, request, RerateDocument, rerate, 200)

    @router.post("/{session_id}/review", summary="End a review", openapi_extra=takes(ReviewDocument))
    @allowed(Scope.CREDITS_WRITE, "session.settle", "session.write_off")
    async def review_session(session_id: str, request: Request) -> Response:
        return await correct(session_id, request, ReviewDocument, decide_review, 200)

    return router
