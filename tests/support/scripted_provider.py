"""A provider that answers exactly what a test says: a real HTTP server, one per worker, one script per API key."""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


@dataclass
class ScriptedProvider:
    """One test's provider. ``timelines`` holds each session's values as JSON text; a missing one is a 404."""

    url: str
    api_key: str
    start_status: int = 200
    start_body: Any = None
    """Null: an ordinary answer with a new session id."""
    before_start: Callable[[dict[str, Any]], Awaitable[None]] | None = None
    """Runs before a start is answered, on the server's own loop."""
    timeline_status: int = 200
    timeline_body: str | None = None
    """The whole answer to a pull, in place of an ordinary one."""
    before_timeline: Callable[[], Awaitable[None]] | None = None
    end_status: int = 200
    end_body: Any = field(default_factory=dict)
    before_end: Callable[[str], Awaitable[None]] | None = None
    ends: list[str] = field(default_factory=list)
    timelines: dict[str, str] = field(default_factory=dict)
    starts: list[dict[str, Any]] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    pulls: list[str] = field(default_factory=list)
    answered: list[bytes] = field(default_factory=list)
    """The bodies of the answers to pulls."""
    retry_after: str | None = None
    """Goes with answers that are no success."""
    hanging: set[str] = field(default_factory=set)
    """Pulls of these sessions are answered once they are in here no more."""
    arrived: list[float] = field(default_factory=list)
    """When each request came, in seconds of the machine's monotonic clock."""

    @property
    def _headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": self.retry_after}

    def say(self, session_id: str, *segments: tuple[str, float | str]) -> None:
        """Let the timeline of a session be these segments of (type, seconds)."""
        values = ",".join(f'{{"type":{json.dumps(kind)},"seconds":{seconds}}}' for kind, seconds in segments)
        self.timelines[session_id] = f"[{values}]"

    def answer_start(self, body: dict[str, Any]) -> Response:
        self.starts.append(body)
        if self.start_status != 200:
            return _json(self.start_status, self.start_body or {"error": "scripted"}, self._headers)
        session_id = f"gab_{uuid4().hex}"
        self.started.append(session_id)
        default = {
            "session": {"id": session_id},
            "persona": body["persona"],
            "scenario": body["scenario"],
            "connection_details": {"url": "wss://rtc.example", "token": f"connect-{session_id}"},
        }
        return _json(200, self.start_body or default)

    def answer_timeline(self, session_id: str) -> Response:
        self.pulls.append(session_id)
        response = self._timeline(session_id)
        self.answered.append(bytes(response.body))
        return response

    def _timeline(self, session_id: str) -> Response:
        if self.timeline_body is not None:
            return Response(self.timeline_body, self.timeline_status, media_type="application/json")
        if self.timeline_status != 200:
            return _json(self.timeline_status, {"error": "scripted"}, self._headers)
        values = self.timelines.get(session_id)
        if values is None:
            return _json(404, {"error": "no such session"})
        count = len(json.loads(values))
        body = f'{{"status":200,"body":{{"values":{values},"next_page":null,"total_count":{count}}}}}'
        return Response(body, media_type="application/json")


def _json(status: int, body: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(body), status, headers, media_type="application/json")


class ProviderHost:
    """The server; :meth:`script` gives a test its own provider on it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.scripts: dict[str, ScriptedProvider] = {}

    def script(self) -> ScriptedProvider:
        provider = ScriptedProvider(self._url, f"key-{uuid4().hex}")
        self.scripts[provider.api_key] = provider
        return provider


@contextmanager
def provider_host() -> Iterator[ProviderHost]:
    """Run the server in a thread."""
    host = ProviderHost("")

    def script_of(request: Request) -> ScriptedProvider | None:
        script = host.scripts.get(request.headers.get("x-api-key", ""))
        if script is not None:
            script.arrived.append(time.monotonic())
        return script

    async def start(request: Request) -> Response:
        script = script_of(request)
        if script is None:
            return _json(401, {})
        body = await request.json()
        if script.before_start is not None:
            await script.before_start(body)
        return script.answer_start(body)

    async def timeline(request: Request) -> Response:
        script = script_of(request)
        if script is None:
            return _json(401, {})
        if script.before_timeline is not None:
            await script.before_timeline()
        while request.path_params["session_id"] in script.hanging:  # noqa: ASYNC110 - set from another thread
            await asyncio.sleep(0.01)
        return script.answer_timeline(request.path_params["session_id"])

    async def end(request: Request) -> Response:
        script = script_of(request)
        if script is None:
            return _json(401, {})
        session_id = request.path_params["session_id"]
        script.ends.append(session_id)
        if script.before_end is not None:
            await script.before_end(session_id)
        return _json(script.end_status, script.end_body, script._headers)

    app = Starlette(
        routes=[
            Route("/api/v1/session/start", start, methods=["POST"]),
            Route("/api/v1/session/{session_id}/timeline", timeline),
            Route("/api/v1/session/{session_id}/end", end, methods=["POST"]),
        ]
    )
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    host._url = f"http://127.0.0.1:{port}"
    try:
        yield host
    finally:
        for script in host.scripts.values():
            script.hanging.clear()  # the server waits for what it has begun to answer
        server.should_exit = True
        thread.join()
