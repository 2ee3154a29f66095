"""``/v1/grants/{id}/void`` and ``/v1/users/{user_id}/adjustments``."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.accounts.corrections import AdjustmentDocument, VoidDocument, adjust, unknown_grant, void_grant
from app.core.access import Scope
from app.core.ids import Kind, account_id_of, parse_public_id
from app.db.database import Database, Transaction
from app.http.access import actor_of, allowed
from app.http.answers import Answer
from app.http.bodies import UserIdPath, checked_user_id, takes
from app.http.idempotency import cause_of, read_keyed, write_once
from app.ledger.book import LedgerPorts
from app.ports.clock import Clock


def correction_routes(database: Database, ledger: LedgerPorts, clock: Clock) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["corrections"])

    @router.post(
        "/grants/{grant_id}/void", summary="Take back what is left of a grant", openapi_extra=takes(VoidDocument)
    )
    @allowed(Scope.CREDITS_WRITE, "grant.void")
    async def void(grant_id: str, request: Request) -> Response:
        asked, key = await read_keyed(request, VoidDocument)
        grant = parse_public_id(Kind.GRANT, grant_id)
        if grant is None:
            raise unknown_grant()
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            return Answer(200, await void_grant(transaction, ledger, grant, asked, now, actor_of(request)))

        return await write_once(database, grant.account_id, key, now, work)

    @router.post(
        "/users/{user_id}/adjustments",
        summary="Give or take credits by hand",
        status_code=201,
        openapi_extra=takes(AdjustmentDocument),
    )
    @allowed(Scope.CREDITS_WRITE, "account.adjust")
    async def adjustment(user_id: UserIdPath, request: Request) -> Response:
        user_id = checked_user_id(user_id)
        asked, key = await read_keyed(request, AdjustmentDocument)
        cause = cause_of(key, ledger.ids)
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            actor = actor_of(request)
            return Answer(201, await adjust(transaction, ledger, user_id, asked, now=now, cause=cause, actor=actor))

        return await write_once(database, account_id_of(user_id), key, now, work)

    return router
