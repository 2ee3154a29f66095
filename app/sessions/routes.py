"""``/v1/sessions`` and the provider guide's own ``/api/start_session``."""

from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from app.core.access import Own, Scope
from app.core.ids import AccountThing, Kind, parse_public_id
from app.core.lossless_json import loads
from app.db.database import Database
from app.documents import Document, Duration, Flag, Metadata, Text, decode, validate
from app.errors import IDEMPOTENCY_EXPIRED, NOT_FOUND, PROVIDER_UNCONFIRMED, Problem, invalid
from app.http.access import actor_of, allowed, own_user
from app.http.answers import Answer, encode, json_response
from app.http.bodies import checked_user_id, instant_parameter, read_bounded, takes
from app.http.idempotency import IdempotencyKey, idempotency_key
from app.http.pages import Cursor, Limit, page_limit
from app.sessions.documents import session_with_steps
from app.sessions.queries import sessions_page
from app.sessions.records import load_session
from app.sessions.start import StartOrder, Starts


class StartSessionDocument(Document):
    """The guide's request for a session; a user token says whom it is for."""

    user_id: Text | None = None
    persona: Text
    scenario: Text
    time_limit_s: Duration | None = None


class NewSessionDocument(StartSessionDocument):
    """``start`` false: the caller's own backend starts it at the provider."""

    user_id: Text
    rate_card: Text | None = None
    metadata: Metadata = Field(default_factory=dict)
    start: Flag = True


def session_routes(database: Database, starts: Starts) -> APIRouter:
    router = APIRouter(tags=["sessions"])

    @router.post("/v1/sessions", summary="Start a session", status_code=201, openapi_extra=takes(NewSessionDocument))
    @allowed(Scope.SESSIONS_WRITE, "session.start", "session.adopt")
    async def start(request: Request) -> Response:
        body = await read_bounded(request)
        asked = validate(NewSessionDocument, decode(body))
        order = _order(asked, asked.user_id, asked.rate_card, asked.metadata, adopted=not asked.start)
        return (await starts.start(order, idempotency_key(request, body), actor_of(request))).response()

    @router.post(
        "/api/start_session",
        summary="Start a session as the provider's guide does",
        openapi_extra=takes(StartSessionDocument),
    )
    @allowed(Scope.SESSIONS_WRITE, "session.start", own=Own.ASKED)
    async def start_as_in_the_guide(request: Request) -> Response:
        body = await read_bounded(request)
        asked = validate(StartSessionDocument, decode(body))
        key: IdempotencyKey | None = idempotency_key(request, body)
        user_id = own_user(request, asked.user_id)
        if user_id is None:
            raise invalid("/user_id", "is needed, unless a user's own token says whose session it is")
        answer = await starts.start(_order(asked, user_id, None, {}), key, actor_of(request))
        if answer.status != 201:
            return answer.response()
        content: Any = loads(encode(answer.content))
        connection = content["connection_details"]
        session_id: str = content["session"]["id"]
        if connection is None and answer.headers:
            raise Problem(IDEMPOTENCY_EXPIRED, "the connection is no longer given; start anew with another key")
        if connection is None:
            # Only a heartbeat said that it runs: there is a session, and no way into it.
            detail = "the session runs, but the provider did not say how to connect"
            raise Problem(PROVIDER_UNCONFIRMED, detail, extra={"session_id": session_id})
        headers = {**answer.headers, "X-Session-Id": session_id}
        return Answer(200, connection, headers).response()

    @router.get("/v1/sessions", summary="Sessions, those asked for last first")
    @allowed(Scope.READ, own=Own.ASKED)
    async def list_sessions(
        request: Request,
        user_id: str | None = None,
        state: str | None = None,
        started_after: str | None = None,
        started_before: str | None = None,
        limit: Limit = None,
        cursor: Cursor = None,
    ) -> Response:
        user_id = own_user(request, None if user_id is None else checked_user_id(user_id))
        async with database.reading() as transaction:
            return json_response(
                await sessions_page(
                    transaction,
                    limit=page_limit(limit),
                    cursor=cursor,
                    user_id=user_id,
                    state=state,
                    started_after=instant_parameter("started_after", started_after),
                    started_before=instant_parameter("started_before", started_before),
                )
            )

    @router.get("/v1/sessions/{session_id}", summary="One session")
    @allowed(Scope.READ, own=Own.SESSION)
    async def get_session(session_id: str) -> Response:
        key = session_key(session_id)
        async with database.reading() as transaction:
            session = await load_session(transaction, key)
            if session is None:
                raise unknown_session()
            return json_response(await session_with_steps(transaction, session))

    return router


def _order(
    asked: StartSessionDocument, user_id: str, rate_card: str | None, metadata: Any, *, adopted: bool = False
) -> StartOrder:
    return StartOrder(
        user_id=user_id,
        persona=asked.persona,
        scenario=asked.scenario,
        time_limit=asked.time_limit_s,
        rate_card=rate_card,
        metadata=metadata,
        adopted=adopted,
    )


def session_key(session_id: str) -> AccountThing:
    """Where the session with this public id lives; 404 if it is no session's id."""
    key = parse_public_id(Kind.SESSION, session_id)
    if key is None:
        raise unknown_session()
    return key


def unknown_session() -> Problem:
    return Problem(NOT_FOUND, "there is no session with this id")
