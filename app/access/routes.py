"""``/v1/api-keys``, ``/v1/users/{user_id}/tokens`` and ``/v1/audit-log``."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.access.audit_log import audit_page
from app.access.keys import NewKeyDocument, create_key, keys_page, revoke_key, unknown_key
from app.access.user_tokens import UserTokenDocument, UserTokens, issue_portal_link, issue_token
from app.core.access import Scope
from app.core.ids import NIL_ACCOUNT, Kind, account_id_of, parse_reference_id
from app.db.database import Database, Transaction
from app.http.access import actor_of, allowed
from app.http.answers import Answer, json_response
from app.http.bodies import UserIdPath, checked_user_id, instant_parameter, read_bounded, takes
from app.http.idempotency import idempotency_key, read_keyed, write_once
from app.http.pages import Cursor, Limit, page_limit
from app.http.sealing import Sealing
from app.ports.clock import Clock
from app.ports.ids import Ids
from app.ports.randomness import Randomness


def access_routes(
    *,
    database: Database,
    ids: Ids,
    clock: Clock,
    randomness: Randomness,
    user_tokens: UserTokens,
    sealing: Sealing,
    public_url: str,
) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["access"])

    @router.get("/api-keys", summary="All API keys, newest first")
    @allowed(Scope.ADMIN)
    async def list_keys(limit: Limit = None, cursor: Cursor = None) -> Response:
        async with database.reading() as transaction:
            return json_response(await keys_page(transaction, limit=page_limit(limit), cursor=cursor))

    @router.post("/api-keys", summary="Make an API key", status_code=201, openapi_extra=takes(NewKeyDocument))
    @allowed(Scope.ADMIN, "api_key.create")
    async def create(request: Request) -> Response:
        asked, key = await read_keyed(request, NewKeyDocument)
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            document, secret = await create_key(transaction, ids, randomness, asked, now=now, actor=actor_of(request))
            return Answer(201, document, secrets={"secret": secret})

        return await write_once(database, NIL_ACCOUNT, key, now, work, sealing)

    @router.delete("/api-keys/{key_id}", summary="Revoke an API key")
    @allowed(Scope.ADMIN, "api_key.revoke")
    async def revoke(key_id: str, request: Request) -> Response:
        found = parse_reference_id(Kind.API_KEY, key_id)
        if found is None:
            raise unknown_key()
        key = idempotency_key(request, await read_bounded(request))
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            return Answer(200, await revoke_key(transaction, ids, found, now, actor_of(request)))

        return await write_once(database, NIL_ACCOUNT, key, now, work)

    @router.post(
        "/users/{user_id}/tokens",
        summary="Issue a token for a user's own front end",
        status_code=201,
        openapi_extra=takes(UserTokenDocument),
    )
    @allowed(Scope.SESSIONS_WRITE, "user_token.create")
    async def issue(user_id: UserIdPath, request: Request) -> Response:
        user_id = checked_user_id(user_id)
        asked, key = await read_keyed(request, UserTokenDocument)
        now = clock.now()
        account_id = account_id_of(user_id)

        async def work(transaction: Transaction) -> Answer:
            document, token = await issue_token(
                transaction, ids, user_tokens, user_id, asked, now=now, actor=actor_of(request)
            )
            return Answer(201, document, secrets={"token": token})

        return await write_once(database, account_id, key, now, work, sealing)

    @router.post(
        "/users/{user_id}/portal-links",
        summary="Make a link that opens a user's portal",
        status_code=201,
        openapi_extra=takes(UserTokenDocument),
    )
    @allowed(Scope.SESSIONS_WRITE, "portal_link.create")
    async def link(user_id: UserIdPath, request: Request) -> Response:
        user_id = checked_user_id(user_id)
        asked, key = await read_keyed(request, UserTokenDocument)
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            document, url = await issue_portal_link(
                transaction, ids, user_tokens, user_id, asked, public_url=public_url, now=now, actor=actor_of(request)
            )
            return Answer(201, document, secrets={"url": url})

        return await write_once(database, account_id_of(user_id), key, now, work, sealing)

    @router.get("/audit-log", summary="Who changed what, newest first")
    @allowed(Scope.ADMIN)
    async def audit_log(
        user_id: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        target: str | None = None,
        request_id: str | None = None,
        after: str | None = None,
        before: str | None = None,
        limit: Limit = None,
        cursor: Cursor = None,
    ) -> Response:
        async with database.reading() as transaction:
            return json_response(
                await audit_page(
                    transaction,
                    limit=page_limit(limit),
                    cursor=cursor,
                    user_id=None if user_id is None else checked_user_id(user_id),
                    actor=actor,
                    action=action,
                    target=target,
                    request_id=request_id,
                    after=instant_parameter("after", after),
                    before=instant_parameter("before", before),
                )
            )

    return router
