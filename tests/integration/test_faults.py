"""Faults of ours: a client learns the request's id and nothing else, the log learns the rest."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from app.errors import INTERNAL, INVALID_JSON, INVALID_REQUEST, FieldError, Problem
from app.heartbeats.writer import TickWriter
from tests.support.postgres import WorkerDatabases, tell
from tests.support.problems import problem
from tests.support.world import World

pytestmark = pytest.mark.anyio

INSIDE = ["ledger", "verify", "balance", "account", "table", "traceback"]


@pytest.fixture
async def broken(talktime: World, databases: WorkerDatabases) -> AsyncIterator[dict[str, Any]]:
    """A session of a user whose account was written to from outside."""
    user = talktime.user()
    await talktime.grant(user, "1000")
    session = await talktime.start_unconfirmed(user)
    tell(databases.urls.owner, f"update accounts set balance = balance + 1 where user_id = '{user}'")
    yield session
    tell(databases.urls.owner, f"update accounts set balance = balance - 1 where user_id = '{user}'")


async def told_nothing(call: Callable[[], Awaitable[httpx.Response]], event: str) -> dict[str, Any]:
    """The line in the log that such a call leaves; its answer says where that is."""
    with capture_logs() as lines:
        response = await call()
    document = problem(response, 500, "internal-error")
    assert document["request_id"] == response.headers["x-request-id"]
    assert set(document) == {"type", "title", "status", "detail", "request_id"}
    assert not [word for word in INSIDE if word in response.text.lower()]
    (line,) = [line for line in lines if line["event"] == event]
    assert line["log_level"] == "error"
    return dict(line)


async def test_a_ledger_that_contradicts_itself_is_for_the_log_alone(talktime: World, broken: dict[str, Any]) -> None:
    path = f"/v1/users/{broken['user_id']}/grants"
    line = await told_nothing(lambda: talktime.client.post(path, json={"amount": "1"}), "ledger.broken")
    assert line["detail"] == "the ledger contradicts itself: run talktime verify"


async def test_so_it_is_for_a_heartbeat(talktime: World, broken: dict[str, Any]) -> None:
    body = {"session_id": "some-id"}
    line = await told_nothing(lambda: talktime.client.post(talktime.webhook(broken), json=body), "ledger.broken")
    assert line["detail"] == "the ledger contradicts itself: run talktime verify"


async def test_a_heartbeat_that_meets_a_fault_is_told_its_requests_id(
    talktime: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    session = await talktime.start(user)
    assert (await talktime.heartbeat(session)).status_code == 204

    async def put(_self: TickWriter, _tick: object) -> None:
        raise RuntimeError("the table of accounts is not there")

    monkeypatch.setattr(TickWriter, "put", put)
    await told_nothing(lambda: talktime.heartbeat(session), "request.broke")


@pytest.mark.parametrize("code", [INVALID_REQUEST, INVALID_JSON])
def test_a_422_that_does_not_say_where_cannot_be_made(code: Any) -> None:
    with pytest.raises(TypeError):
        Problem(code, "wrong")
    with pytest.raises(TypeError):
        Problem(INTERNAL, "wrong", errors=[FieldError("/x", "wrong")])
