"""What breaks behind the front: an answer that is whole stands, and one that is not is cut off."""

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Problem
from app.http.front import Front

pytestmark = pytest.mark.anyio


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("not called")


class NoPages:
    def serves(self, path: str) -> bool:
        return False

    def refusal(self, path: str, problem: Problem) -> ASGIApp:
        raise AssertionError("not called")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("not called")


async def call(api: ASGIApp) -> list[str]:
    front = Front(
        heartbeats=nothing,
        heartbeat_path="/webhooks/gabber/",
        api=api,
        pages=NoPages(),
        proxies=(),
        clock_agrees=lambda: True,
        origins=(),
        headers=(),
    )
    sent: list[str] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message["type"])

    scope = {"type": "http", "method": "GET", "path": "/v1/x", "raw_path": b"/v1/x", "query_string": b"", "headers": []}
    await front(scope, receive, send)
    return sent


def breaking(*messages: Message) -> ASGIApp:
    async def api(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        raise RuntimeError("broken")

    return api


START: Message = {"type": "http.response.start", "status": 500, "headers": []}
PART: Message = {"type": "http.response.body", "body": b"x", "more_body": True}
REST: Message = {"type": "http.response.body", "body": b"x"}


@pytest.mark.parametrize("messages", [(START, REST), (START, PART, REST)])
async def test_an_answer_that_is_whole_keeps_its_connection(messages: tuple[Message, ...]) -> None:
    assert await call(breaking(*messages)) == [message["type"] for message in messages]


@pytest.mark.parametrize("messages", [(), (START,), (START, PART)])
async def test_one_that_is_not_is_cut_off(messages: tuple[Message, ...]) -> None:
    with pytest.raises(RuntimeError):
        await call(breaking(*messages))
