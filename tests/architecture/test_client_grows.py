"""An operation of a kind that the API has not yet needs a name in tools/names.py, and both clients have it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_client_streams import STREAM
from tools.client import generated
from tools.document import Unknown, api_document, operations
from tools.names import METHODS

ROOT = Path(__file__).parents[2]
LIVE, BULK = "GET /v1/users/{user_id}/live", "POST /v1/bulk"


@pytest.fixture
def with_more(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """The document with an operation that streams events, and one that takes CSV."""
    document = json.loads(json.dumps(api_document()))
    paths = document["paths"]
    live = json.loads(json.dumps(paths["/v1/users/{user_id}/balance"]["get"]))
    live["parameters"] = [one for one in live["parameters"] if one["in"] == "path"]
    live["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}, "example": ""}
    bulk = json.loads(json.dumps(paths["/v1/users/{user_id}/grants"]["post"]))
    bulk["parameters"] = [one for one in bulk["parameters"] if one["in"] == "header"]
    bulk["parameters"].append(
        {"name": "dry_run", "in": "query", "required": False, "description": "So.", "schema": {"type": "boolean"}}
    )
    bulk["requestBody"] = {"required": True, "content": {"text/csv": {"schema": {"type": "string"}}}}
    paths |= {"/v1/users/{user_id}/live": {"get": live}, "/v1/bulk": {"post": bulk}}
    monkeypatch.setitem(METHODS, LIVE, "live")
    monkeypatch.setitem(METHODS, BULK, "bulk")
    return dict(document)


PROGRAM = """
import asyncio, httpx
from decimal import Decimal
from talktime.client import AsyncTalktime, Talktime
from talktime.errors import ConnectionFailed

asked = []
STREAM = %r

def answer(request):
    asked.append(request)
    if request.method == "POST":
        return httpx.Response(200, json=%r)
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=httpx.ByteStream(STREAM))

transport = httpx.MockTransport(answer)
with Talktime("https://x", "key", transport=transport) as client:
    with client.live_events("a/b", last_event_id="11-aa") as events:
        print([event.name for event in events])
    print(client.bulk("user_id,amount\\nada,1\\n", dry_run=True, idempotency_key="k").amount)

async def main():
    async with AsyncTalktime("https://x", "key", transport=transport) as client:
        async with client.live_events("a/b") as events:
            print([event.name async for event in events])
        print((await client.bulk(b"user_id,amount\\n", dry_run=False)).amount)

asyncio.run(main())
live, bulk, live_too, bulk_too = asked
print(live.url.raw_path.decode(), live.headers["Last-Event-ID"], live.headers["Accept"])
print("Last-Event-ID" in live_too.headers)
print(bulk.url.raw_path.decode(), bulk.headers["Content-Type"], bulk.headers["Idempotency-Key"], bulk.content)
print(bulk_too.url.raw_path.decode(), bulk_too.content)
"""


def test_an_operation_of_another_kind_needs_a_name_and_nothing_else(
    with_more: Mapping[str, Any], tmp_path: Path, grant_document: Mapping[str, Any]
) -> None:
    shutil.copytree(ROOT / "talktime", tmp_path / "talktime")
    for path, text in generated(with_more).items():
        (tmp_path / path).write_text(text, encoding="utf-8")
    program = PROGRAM % (STREAM, dict(grant_document))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    names = "['state', 'message', 'state', 'end']"
    assert done.stdout.splitlines() == [
        names,
        "100.000001",
        names,
        "100.000001",
        "/v1/users/a%2Fb/live 11-aa text/event-stream, application/problem+json",
        "False",
        "/v1/bulk?dry_run=true text/csv k b'user_id,amount\\nada,1\\n'",
        "/v1/bulk?dry_run=false b'user_id,amount\\n'",
    ]


@pytest.fixture
def grant_document() -> Mapping[str, Any]:
    return {
        "id": "grt_1", "user_id": "ada", "kind": "paid", "state": "active", "priority": 50, "amount": "100.000001",
        "remaining": "1", "held": "0", "effective_at": "2026-01-31T12:00:00Z", "expires_at": None, "cost_basis": None,
        "reference": None, "metadata": {}, "created_at": "2026-01-31T12:00:00Z",
    }  # fmt: skip


def _takes_xml(document: Any) -> None:
    document["paths"]["/v1/bulk"]["post"]["requestBody"]["content"] = {"text/xml": {"schema": {"type": "string"}}}


def _answers_xml(document: Any) -> None:
    document["paths"]["/v1/bulk"]["post"]["responses"]["200"]["content"] = {"text/xml": {"schema": {"type": "string"}}}


@pytest.mark.parametrize("change", [_takes_xml, _answers_xml])
def test_a_kind_that_there_is_no_rule_for_stops_the_generator(with_more: Any, change: Callable[[Any], None]) -> None:
    change(with_more)
    with pytest.raises(Unknown, match=r"POST /v1/bulk .*text/xml"):
        list(operations(with_more))


def test_a_parameter_that_would_hide_what_a_method_needs_stops_the_generator(with_more: Any) -> None:
    with_more["paths"]["/v1/bulk"]["post"]["parameters"].append(
        {"name": "calls", "in": "query", "required": False, "description": "So.", "schema": {"type": "string"}}
    )
    with pytest.raises(Unknown, match="cannot be called so here"):
        generated(with_more)
