"""``/v1/users/{user_id}/…``: balance, statement, grants."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.accounts.balances import balance_document, past_balance_document, unknown_user
from app.accounts.grants import GrantDocument, give, grants_page
from app.accounts.statements import CSV_HEADER, entry_filter, statement_page, statement_rows
from app.core.access import Own, Scope
from app.core.ids import account_id_of
from app.core.units import Micros
from app.db.database import Database, Transaction
from app.http.accept import VARY, wants_csv
from app.http.access import actor_of, allowed
from app.http.answers import Answer, json_response
from app.http.bodies import UserIdPath, checked_user_id, instant_parameter, takes
from app.http.csv_answers import csv_response
from app.http.idempotency import read_keyed, write_once
from app.http.pages import Cursor, Limit, page_limit
from app.ledger.book import LedgerPorts
from app.ports.clock import Clock


def account_routes(database: Database, ledger: LedgerPorts, clock: Clock, longest: Micros) -> APIRouter:
    """The routes; ``longest`` is the longest session, which bounds ``talk_time_s``."""
    router = APIRouter(prefix="/v1", tags=["users"])

    @router.get("/users/{user_id}/balance", summary="What a user has, holds and can still spend")
    @allowed(Scope.READ, own=Own.USER)
    async def balance(user_id: UserIdPath, at: str | None = None) -> Response:
        user_id = checked_user_id(user_id)
        instant = instant_parameter("at", at)
        now = clock.now()
        async with database.reading() as transaction:
            if instant is None:
                return json_response(await balance_document(transaction, user_id, now, longest, ledger.keys))
            return json_response(await past_balance_document(transaction, user_id, instant, now))

    @router.get("/users/{user_id}/entries", summary="A user's statement, newest first")
    @allowed(Scope.READ, own=Own.USER)
    async def entries(
        request: Request,
        user_id: UserIdPath,
        kind: str | None = None,
        session_id: str | None = None,
        grant_id: str | None = None,
        after: str | None = None,
        before: str | None = None,
        limit: Limit = None,
        cursor: Cursor = None,
    ) -> Response:
        user_id = checked_user_id(user_id)
        wanted = entry_filter(
            kind=kind,
            session_id=session_id,
            grant_id=grant_id,
            after=instant_parameter("after", after),
            before=instant_parameter("before", before),
        )
        rows = page_limit(limit)
        if wants_csv(request):
            return await csv_response(f"statement-{user_id}", CSV_HEADER, statement_rows(database, user_id, wanted))
        async with database.reading() as transaction:
            found = await statement_page(transaction, user_id, wanted, limit=rows, cursor=cursor)
        return Answer(200, found, VARY).response()

    @router.get("/users/{user_id}/grants", summary="A user's grants, newest first")
    @allowed(Scope.READ)
    async def list_grants(user_id: UserIdPath, limit: Limit = None, cursor: Cursor = None) -> Response:
        user_id = checked_user_id(user_id)
        async with database.reading() as transaction:
            found = await grants_page(transaction, user_id, limit=page_limit(limit), cursor=cursor)
        if found is None:
            raise unknown_user()
        return json_response(found)

    @router.post(
        "/users/{user_id}/grants", summary="Grant credits", status_code=201, openapi_extra=takes(GrantDocument)
    )
    @allowed(Scope.CREDITS_WRITE, "grant.create")
    async def grant(user_id: UserIdPath, request: Request) -> Response:
        user_id = checked_user_id(user_id)
        asked, key = await read_keyed(request, GrantDocument)
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            document, new = await give(transaction, ledger, user_id, asked, now, actor_of(request))
            return Answer(201 if new else 200, document)

        return await write_once(database, account_id_of(user_id), key, now, work)

    return router
