"""``/v1/users``, ``/v1/users/{user_id}`` and ``/v1/settings``: all users, what is set for one, and for all of them."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.accounts.controls import ControlChangesDocument, change_controls, controls_document
from app.accounts.limits import UserChangesDocument, change_user, find_user
from app.accounts.users import amount_parameter, user_sort, users_page
from app.core.access import Scope
from app.core.ids import NIL_ACCOUNT, account_id_of
from app.core.units import Micros
from app.db.database import Database, Transaction
from app.http.access import actor_of, allowed
from app.http.answers import Answer, json_response
from app.http.bodies import UserIdPath, checked_user_id, takes
from app.http.idempotency import read_keyed, write_once
from app.http.pages import Cursor, Limit, page_limit
from app.ledger.book import LedgerPorts
from app.ledger.controls import load_controls
from app.ports.clock import Clock


def settings_routes(database: Database, ledger: LedgerPorts, clock: Clock, shortest: Micros) -> APIRouter:
    """The routes; ``shortest`` is the shortest session."""
    router = APIRouter(prefix="/v1")

    @router.get("/users", summary="Users with their balances", tags=["users"])
    @allowed(Scope.READ)
    async def users(
        q: str | None = None,
        min_available: str | None = None,
        max_available: str | None = None,
        sort: str | None = None,
        limit: Limit = None,
        cursor: Cursor = None,
    ) -> Response:
        async with database.reading() as transaction:
            found = await users_page(
                transaction,
                limit=page_limit(limit),
                cursor=cursor,
                sort=user_sort(sort),
                begins=q,
                least=amount_parameter("min_available", min_available),
                most=amount_parameter("max_available", max_available),
            )
        return json_response(found)

    @router.get("/users/{user_id}", summary="A user's settings", tags=["users"])
    @allowed(Scope.READ)
    async def user(user_id: UserIdPath) -> Response:
        async with database.reading() as transaction:
            return json_response(await find_user(transaction, checked_user_id(user_id)))

    @router.patch(
        "/users/{user_id}",
        summary="Change a user's settings",
        tags=["users"],
        openapi_extra=takes(UserChangesDocument),
    )
    @allowed(Scope.CREDITS_WRITE, "user.change")
    async def change(user_id: UserIdPath, request: Request) -> Response:
        user_id = checked_user_id(user_id)
        asked, key = await read_keyed(request, UserChangesDocument)
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            actor = actor_of(request)
            document = await change_user(transaction, ledger, user_id, asked, now=now, shortest=shortest, actor=actor)
            return Answer(200, document)

        return await write_once(database, account_id_of(user_id), key, now, work)

    @router.get("/settings", summary="What is set for all users", tags=["settings"])
    @allowed(Scope.READ)
    async def settings() -> Response:
        async with database.reading() as transaction:
            return json_response(controls_document(await load_controls(transaction)))

    @router.patch(
        "/settings",
        summary="Change what is set for all users",
        tags=["settings"],
        openapi_extra=takes(ControlChangesDocument),
    )
    @allowed(Scope.ADMIN, "settings.change")
    async def change_settings(request: Request) -> Response:
        asked, key = await read_keyed(request, ControlChangesDocument)
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            return Answer(200, await change_controls(transaction, ledger.ids, asked, now, actor_of(request)))

        return await write_once(database, NIL_ACCOUNT, key, now, work)

    return router
