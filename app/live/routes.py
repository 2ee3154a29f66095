"""``GET /v1/users/{user_id}/live``: what a user has and does, once or as it changes."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.core.access import Own, Scope
from app.http.accept import JSON, VARY, wants_events
from app.http.access import allowed, caller_of
from app.http.bodies import UserIdPath, checked_user_id
from app.live.hub import Hub
from app.live.state import known_id
from app.live.stream import EventStream
from app.ports.clock import Clock

LAST_EVENT_ID = "last-event-id"


def live_routes(hub: Hub, clock: Clock) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["users"])

    @router.get("/users/{user_id}/live", summary="What a user has and does, as it changes")
    @allowed(Scope.READ, own=Own.USER)
    async def live(user_id: UserIdPath, request: Request) -> Response:
        user_id = checked_user_id(user_id)
        if not wants_events(request):
            state = await hub.state_of(user_id)
            return Response(state.content, headers=VARY, media_type=JSON)
        seen = known_id(request.headers.get(LAST_EVENT_ID))
        return EventStream(hub, await hub.join(user_id, caller_of(request), seen), clock)

    return router
