"""``/v1/users/{user_id}/recurring-grants`` and ``/v1/recurring-grants``."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.accounts.balances import unknown_user
from app.accounts.recurring import (
    ReasonDocument,
    RecurringDocument,
    SeriesState,
    change_state,
    create_recurring,
    load_recurring,
    recurring_page,
    unknown_recurring,
)
from app.core.access import Scope
from app.core.ids import AccountThing, Kind, account_id_of, parse_public_id
from app.db.database import Database, Transaction
from app.http.access import actor_of, allowed
from app.http.answers import Answer, json_response
from app.http.bodies import UserIdPath, checked_user_id, takes
from app.http.idempotency import read_keyed, write_once
from app.http.pages import Cursor, Limit, page_limit
from app.ledger.book import LedgerPorts
from app.ports.clock import Clock


def recurring_routes(database: Database, ledger: LedgerPorts, clock: Clock) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["recurring grants"])

    @router.get("/users/{user_id}/recurring-grants", summary="A user's recurring grants, newest first")
    @allowed(Scope.READ)
    async def list_recurring(user_id: UserIdPath, limit: Limit = None, cursor: Cursor = None) -> Response:
        user_id = checked_user_id(user_id)
        rows = page_limit(limit)
        async with database.reading() as transaction:
            found = await recurring_page(transaction, user_id, limit=rows, cursor=cursor)
        if found is None:
            raise unknown_user()
        return json_response(found)

    @router.post(
        "/users/{user_id}/recurring-grants",
        summary="Grant credits each period",
        status_code=201,
        openapi_extra=takes(RecurringDocument),
    )
    @allowed(Scope.CREDITS_WRITE, "recurring_grant.create")
    async def make_recurring(user_id: UserIdPath, request: Request) -> Response:
        user_id = checked_user_id(user_id)
        asked, key = await read_keyed(request, RecurringDocument)
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            return Answer(201, await create_recurring(transaction, ledger, user_id, asked, now, actor_of(request)))

        return await write_once(database, account_id_of(user_id), key, now, work)

    @router.get("/recurring-grants/{recurring_id}", summary="A recurring grant, and when it comes next")
    @allowed(Scope.READ)
    async def get_recurring(recurring_id: str) -> Response:
        key = _key(recurring_id)
        async with database.reading() as transaction:
            return json_response(await load_recurring(transaction, key))

    async def change(request: Request, recurring_id: str, wanted: SeriesState) -> Response:
        asked, key = await read_keyed(request, ReasonDocument)
        series = _key(recurring_id)
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            found = await change_state(
                transaction, ledger, series, wanted, asked.reason, now=now, actor=actor_of(request)
            )
            return Answer(200, found)

        return await write_once(database, series.account_id, key, now, work)

    @router.post(
        "/recurring-grants/{recurring_id}/pause", summary="Let periods pass", openapi_extra=takes(ReasonDocument)
    )
    @allowed(Scope.CREDITS_WRITE, "recurring_grant.pause")
    async def pause_recurring(recurring_id: str, request: Request) -> Response:
        return await change(request, recurring_id, SeriesState.PAUSED)

    @router.post(
        "/recurring-grants/{recurring_id}/resume",
        summary="Go on with the next period",
        openapi_extra=takes(ReasonDocument),
    )
    @allowed(Scope.CREDITS_WRITE, "recurring_grant.resume")
    async def resume_recurring(recurring_id: str, request: Request) -> Response:
        return await change(request, recurring_id, SeriesState.ACTIVE)

    @router.post(
        "/recurring-grants/{recurring_id}/cancel", summary="End it for good", openapi_extra=takes(ReasonDocument)
    )
    @allowed(Scope.CREDITS_WRITE, "recurring_grant.cancel")
    async def cancel_recurring(recurring_id: str, request: Request) -> Response:
        return await change(request, recurring_id, SeriesState.CANCELLED)

    return router


def _key(text: str) -> AccountThing:
    found = parse_public_id(Kind.RECURRING_GRANT, text)
    if found is None:
        raise unknown_recurring()
    return found
