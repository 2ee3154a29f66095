"""Every request has an id: in the answer's ``X-Request-Id``, in log lines, in the audit log.

It is ours alone. One that a client sends is not taken, so that nobody writes another's id into the audit log. It is
made from a counter, not from the port of randomness: nothing depends on it, and drawing there would shift what does.
"""

import secrets
from itertools import count
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.logs import current_request

HEADER: Final = b"x-request-id"
STATE: Final = "request_id"


class RequestIds:
    """Gives each request of this process its id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._prefix = f"req_{secrets.token_hex(6)}"
        self._next = count(1).__next__

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"{self._prefix}{self._next():08x}"
        scope.setdefault("state", {})[STATE] = request_id
        current_request.set(request_id)
        header = (HEADER, request_id.encode())

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        await self._app(scope, receive, answer)
