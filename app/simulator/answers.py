"""Answers that a well-behaved server never gives: none, half of one, or none for a very long time."""

from collections.abc import Callable
from typing import TypedDict, cast

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Connection(TypedDict):
    """What :class:`CuttableProtocol` puts into a request's state."""

    cut: Callable[[], None]


class CuttableProtocol(HttpToolsProtocol):
    """uvicorn's protocol; a request's handler can close the connection under it, for which ASGI has no step."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # close() and not abort(): what was written before goes out first, so that half an answer is half an answer.
        self.scope["state"]["cut"] = self.transport.close


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class NoAnswer(Response):
    """The connection is closed without a byte of an answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cast(Connection, scope["state"])["cut"]()
        await _until_gone(receive)


class HalfAnswer(Response):
    """The head and half of the body, then the connection is closed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        cast(Connection, scope["state"])["cut"]()
        await _until_gone(receive)


class Hanging(Response):
    """Nothing, until the client gives up."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _until_gone(receive)
