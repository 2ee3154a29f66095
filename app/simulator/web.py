"""The HTTP face of the simulated provider: Gabber's calls, and beside them the control calls under ``/sim``."""

import base64
import binascii
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.core.lossless_json import InvalidJson, JsonNumber, dumps, loads
from app.core.units import US_PER_S, Instant, Micros, format_instant, format_millionths
from app.simulator.answers import HalfAnswer, Hanging, NoAnswer
from app.simulator.config import MAX_TIME_LIMIT_S, Envelope, NextPage
from app.simulator.faults import InvalidFault, parse_settings
from app.simulator.poster import checked_webhook
from app.simulator.script import Script, Segment
from app.simulator.world import Call, Heartbeat, Session, World

MAX_REQUEST_BYTES: Final = 64 * 1024
MAX_NAME_CHARS: Final = 200
MAX_SESSIONS_LISTED: Final = 1000
MAX_CALLS_LISTED: Final = 10_000

_FOREIGN_ORIGIN: Final = "https://elsewhere.example"
_RETRY_AFTER: Final = {"retry-after": "1"}

Handler = Callable[[Request], Awaitable[Response]]


def app(world: World) -> Starlette:
    """The simulated provider as an ASGI application; its lifespan stops the heartbeats.

    The faults that drop a connection need the protocol that :func:`app.simulator.server.serve` runs it on.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await world.aclose()

    provider, control = _Provider(world), _Control(world)

    def route(path: str, method: str, handler: Handler) -> Route:
        return Route(path, _with_key(world.config.api_key, handler), methods=[method])

    routes = [
        route("/api/v1/session/start", "POST", provider.start),
        route("/api/v1/session/{id}/timeline", "GET", provider.timeline),
        route("/api/v1/session/{id}/end", "POST", provider.end),
        route("/sim/sessions", "GET", control.sessions),
        route("/sim/sessions/{id}", "GET", control.session),
        route("/sim/sessions/{id}/faults", "PUT", control.set_faults_of_one),
        route("/sim/calls", "GET", control.calls),
        route("/sim/faults", "GET", control.faults),
        route("/sim/faults", "PUT", control.set_faults),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _with_key(key: str, handler: Handler) -> Handler:
    async def checked(request: Request) -> Response:
        given = request.headers.get("x-api-key", "").encode("latin-1", "replace")
        if not hmac.compare_digest(given, key.encode()):
            return _json(401, {"type": "unauthorized", "message": "x-api-key is missing or wrong"})
        return await handler(request)

    return checked


def _json(status: int, value: object, headers: dict[str, str] | None = None) -> Response:
    return Response(dumps(value), status, headers, media_type="application/json")


def _invalid(message: str) -> Response:
    return _json(400, {"type": "invalid_input", "message": message})


async def _body(request: Request) -> object:
    """The JSON body. Raises ``InvalidJson``, also for a body beyond :data:`MAX_REQUEST_BYTES`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_REQUEST_BYTES:
            raise InvalidJson("too large")
    return loads(bytes(body))


_REFUSALS: Final[dict[str | None, Callable[[], Response]]] = {
    "400": lambda: _json(400, {"type": "usage_limit_exceeded", "message": "the usage limit is exceeded"}),
    "401": lambda: _json(401, {"type": "unauthorized", "message": "x-api-key is missing or wrong"}),
    "403": lambda: _json(403, {"type": "forbidden", "message": "this key may not do that"}),
    "404": lambda: _json(404, {"type": "not_found", "message": "no such session"}),
    "429": lambda: _json(429, {"type": "rate_limited", "message": "too many requests"}, _RETRY_AFTER),
    "500": lambda: _json(500, {"error": "internal server error"}),
    "500_after": lambda: _json(500, {"error": "internal server error"}),
    "redirect": lambda: Response(status_code=307, headers={"location": f"{_FOREIGN_ORIGIN}/"}),
    "hang": Hanging,
    "hang_after": Hanging,
    "drop": NoAnswer,
    "drop_before": NoAnswer,
    "drop_after": NoAnswer,
}
_AFTERWARDS: Final = frozenset({"500_after", "hang_after", "drop_after"})


class _Provider:
    def __init__(self, world: World) -> None:
        self._world = world

    async def start(self, request: Request) -> Response:
        call = self._world.call("start")
        try:
            fields = await _body(request)
        except InvalidJson as error:
            return _invalid(f"the body is {error}")
        asked = self._asked(fields)
        if isinstance(asked, str):
            return _invalid(asked)
        call.persona = str(fields["persona"]) if isinstance(fields, dict) else None
        call.fault = fault = self._world.faults.strike("start")
        if fault in _REFUSALS and fault not in _AFTERWARDS:
            return _REFUSALS[fault]()
        session = asked()
        if session is None:
            return _json(500, {"error": "too many sessions"})
        call.session = session.id
        if fault in _REFUSALS:
            return _REFUSALS[fault]()
        if fault == "slow":
            await self._world.clock.sleep(self._world.config.slow)
        answer = {
            "session": {"id": session.id},
            "persona": session.persona,
            "scenario": session.scenario,
            "connection_details": {"url": "wss://connect.invalid", "token": f"sim-{session.id}"},
        }
        return (
            Response(dumps(answer)[:-20], media_type="application/json") if fault == "malformed" else _json(200, answer)
        )

    def _asked(self, fields: object) -> Callable[[], Session | None] | str:
        """The start that was asked for, still to be made; or what is wrong with it."""
        if not isinstance(fields, dict):
            return "an object is expected"
        names = [fields.get("persona"), fields.get("scenario")]
        if not all(type(name) is str and 0 < len(name) <= MAX_NAME_CHARS for name in names):
            return f"persona and scenario are required, 1 to {MAX_NAME_CHARS} characters each"
        persona, scenario = (str(name) for name in names)
        script = self._world.script_for(persona, scenario)
        if script is None:
            return "unknown persona or scenario"
        limit_s = self._limit_s(fields.get("time_limit_s"))
        if limit_s is None:
            return f"time_limit_s must be a whole number from 1 to {MAX_TIME_LIMIT_S}"
        hook = fields.get("webhook")
        webhook = checked_webhook(hook) if type(hook) is str else None
        if hook is not None and webhook is None:
            return "webhook must be an http or https URL"
        limit = Micros(limit_s * US_PER_S)
        known: Script = script
        return lambda: self._world.start(known, persona=persona, scenario=scenario, limit=limit, webhook=webhook)

    def _limit_s(self, value: object) -> int | None:
        if value is None:
            return self._world.config.default_time_limit_s
        if not isinstance(value, JsonNumber) or not value.isdigit() or len(value) > 6:
            return None
        return int(value) if 1 <= int(value) <= MAX_TIME_LIMIT_S else None

    async def end(self, request: Request) -> Response:
        call = self._world.call("end", request.path_params["id"])
        session = self._world.sessions.get(request.path_params["id"])
        if session is None:
            return _REFUSALS["404"]()
        call.fault = fault = self._world.strike("end", session)
        if fault in _REFUSALS and fault not in _AFTERWARDS:
            return _REFUSALS[fault]()
        if fault != "ignored":
            session.end(self._world.clock.now())
        if fault in _REFUSALS:
            return _REFUSALS[fault]()
        if fault == "slow":
            await self._world.clock.sleep(self._world.config.slow)
        text = dumps({"id": session.id, "state": "ended"})
        return Response(text[:-10] if fault == "malformed" else text, media_type="application/json")

    async def timeline(self, request: Request) -> Response:
        call = self._world.call("timeline", request.path_params["id"])
        session = self._world.sessions.get(request.path_params["id"])
        if session is None:
            return _REFUSALS["404"]()
        config = self._world.config
        position = _position(request.query_params.get("page"), config.next_page)
        if position is None:
            return _invalid("page: no such page")
        call.fault = fault = self._world.strike("timeline", session)
        if fault in _REFUSALS:
            return _REFUSALS[fault]()
        if fault == "slow":
            await self._world.clock.sleep(config.slow)
        # After the wait: a timeline tells what has happened until it is answered.
        values = [_value(segment) for segment in session.timeline(self._world.clock.now())]
        if fault is not None:
            _spoil(values, fault)
        first = position * config.page_size
        more = first + config.page_size < len(values)
        page: dict[str, object] = {
            "values": values[first : first + config.page_size],
            "next_page": self._next_page(request, position + 1) if more else None,
            "total_count": len(values) + (fault == "total_changes"),
        }
        if fault in ("foreign_page", "loop", "odd_page"):
            page["next_page"] = {
                "foreign_page": f"{_FOREIGN_ORIGIN}{request.url.path}?page=1",
                "loop": self._next_page(request, position),
                "odd_page": {"page": 1},
            }[fault]
        text = dumps({"status": 200, "body": page} if config.envelope is Envelope.WRAPPED else page)
        if fault == "half":
            return HalfAnswer(text, media_type="application/json")
        return Response(text[: -len(text) // 3] if fault == "malformed" else text, media_type="application/json")

    def _next_page(self, request: Request, position: int) -> object:
        style = self._world.config.next_page
        if style is NextPage.INTEGER:
            return position + 1
        token = base64.urlsafe_b64encode(b"page:%d" % position).decode()
        match style:
            case NextPage.TOKEN:
                return token
            case NextPage.RELATIVE:
                return f"{request.url.path}?page={token}"
            case NextPage.URL:
                return str(request.url.replace(query=f"page={token}"))


def _position(text: str | None, style: NextPage) -> int | None:
    """Which page is asked for, counted from 0; ``None`` if this provider never named such a page."""
    if text is None:
        return 0
    if style is NextPage.INTEGER:
        return int(text) - 1 if text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= 1 else None
    try:
        kind, _, number = base64.urlsafe_b64decode(text).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return int(number) if kind == b"page" and number.isdigit() and len(number) <= 9 else None


def _seconds(duration: Micros) -> JsonNumber:
    return JsonNumber(format_millionths(duration))


def _value(segment: Segment) -> dict[str, object]:
    return {"type": segment.type, "seconds": _seconds(segment.duration)}


def _spoil(values: list[dict[str, object]], fault: str) -> None:
    """Change the last value as ``fault`` says; faults of other kinds change nothing."""
    if not values:
        return
    match fault:
        case "nan":
            values[-1]["seconds"] = JsonNumber("NaN")
        case "huge_number":
            values[-1]["seconds"] = JsonNumber("1e400")
        case "missing_type":
            del values[-1]["type"]
        case "missing_seconds":
            del values[-1]["seconds"]
        case "unknown_type":
            values[-1]["type"] = "laughter"
        case "shrinks":
            del values[-1]
        case _:
            pass


class _Control:
    """What tests and demos may know and change. Behind the same key, as it tells of every session."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def sessions(self, _: Request) -> Response:
        now = self._world.clock.now()
        latest = list(self._world.sessions.values())[-MAX_SESSIONS_LISTED:]
        return _json(200, {"data": [_summary(session, now) for session in latest], "total": len(self._world.sessions)})

    async def session(self, request: Request) -> Response:
        session = self._world.sessions.get(request.path_params["id"])
        if session is None:
            return _REFUSALS["404"]()
        now = self._world.clock.now()
        # The truth to the end of the talk is known from the start; what has been heard so far is a part of it.
        truth = {
            "timeline": _placed(session.timeline(now)),
            "talk": _placed(session.timeline(session.leaves_at)),
            "heartbeats": [_record(heartbeat) for heartbeat in session.heartbeats],
            "quiet": session.quiet,
        }
        return _json(200, _summary(session, now) | truth)

    async def calls(self, request: Request) -> Response:
        first = request.query_params.get("first", "0")
        if not (first.isascii() and first.isdigit() and len(first) <= 9):
            return _json(422, {"type": "invalid_input", "message": "first must be a whole number"})
        total, calls = self._world.calls(int(first), MAX_CALLS_LISTED)
        return _json(200, {"data": [_called(call) for call in calls], "total": total})

    async def faults(self, _: Request) -> Response:
        return _json(200, self._world.faults.report())

    async def set_faults_of_one(self, request: Request) -> Response:
        """Replaces the settings of one session: what is not named is off, but for what is set for all."""
        session = self._world.sessions.get(request.path_params["id"])
        if session is None:
            return _REFUSALS["404"]()
        try:
            settings = parse_settings(await _body(request))
        except (InvalidJson, InvalidFault) as error:
            return _json(422, {"type": "invalid_input", "message": str(error)})
        if any(name.startswith("start.") for name in settings):
            message = "this session has been started: faults of starts are set for all"
            return _json(422, {"type": "invalid_input", "message": message})
        return _json(200, self._world.spoil(session, settings).report())

    async def set_faults(self, request: Request) -> Response:
        """Replaces all settings: what is not named is off."""
        try:
            self._world.faults.replace(parse_settings(await _body(request)))
        except (InvalidJson, InvalidFault) as error:
            return _json(422, {"type": "invalid_input", "message": str(error)})
        return _json(200, self._world.faults.report())


def _summary(session: Session, now: Instant) -> dict[str, object]:
    return {
        "session_id": session.id,
        "persona": session.persona,
        "scenario": session.scenario,
        "script": session.script.name,
        "time_limit_s": session.limit // US_PER_S,
        "started_at": format_instant(session.started_at),
        "connected_at": format_instant(session.connected_at),
        "agent_leaves_at": format_instant(session.leaves_at),
        "ended_at": None if session.ended_at is None else format_instant(session.ended_at),
        "agent_alive": now < session.leaves_at,
        "now": format_instant(now),
    }


def _placed(segments: list[Segment]) -> list[dict[str, object]]:
    placed = []
    at = 0
    for segment in segments:
        placed.append(_value(segment) | {"from_s": _seconds(Micros(at))})
        at += segment.duration
    return placed


def _record(heartbeat: Heartbeat) -> dict[str, object]:
    return {
        "due_at": format_instant(heartbeat.due_at),
        "sent_at": None if heartbeat.sent_at is None else format_instant(heartbeat.sent_at),
        "status": heartbeat.status,
        "fault": heartbeat.fault,
        "failure": heartbeat.failure,
        "done_at": None if heartbeat.done_at is None else format_instant(heartbeat.done_at),
    }


def _called(call: Call) -> dict[str, object]:
    return {
        "at": format_instant(call.at),
        "operation": call.operation,
        "persona": call.persona,
        "session_id": call.session,
        "fault": call.fault,
    }
