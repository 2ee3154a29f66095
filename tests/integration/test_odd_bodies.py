"""Odd bodies against every operation that takes one: each refused with a documented problem, and nothing changed.

The client holds each answer against the API document, so a status or code that is not in it fails as well.
"""

import json
from typing import Any

import pytest

from tests.integration.test_bad_input import HUGE, NOT_DOCUMENTS
from tests.support.problems import problem
from tests.support.unchanged import unchanged
from tests.support.world import World

pytestmark = pytest.mark.anyio

ODD_VALUES = [
    "NaN", "-Infinity", "1e400", "-1", "1e-400", HUGE, '"\\u0000"', '"\\ud800"', '"\\udfff\\ud800"', '"\\u202e"', '""',
    '"' + "x" * 10_000 + '"', "[[[]]]", '{"\\u0000":1}', '{"\\ud800":[1e400]}', "[" * 60 + "]" * 60, '["a","a"]',
]  # fmt: skip
"""Values that no field of any body takes."""


async def operations(talktime: World) -> list[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Method, address, example and schema of every operation with a JSON body of ours."""
    user = talktime.user()
    grant = await talktime.grant(user, "100")
    session = await talktime.start(user)
    ids = {"user_id": user, "grant_id": grant["id"], "session_id": session["id"]}
    ids["endpoint_id"] = await talktime.endpoint()
    ids["payment_id"], ids["recurring_id"] = "pay_" + "0" * 26, "rec_" + "0" * 52
    ids["event_id"] = (await talktime.get(f"/v1/events?user_id={user}&limit=1"))["data"][0]["id"]
    found = []
    for path, methods in (await talktime.get("/openapi.json"))["paths"].items():
        for method, operation in methods.items():
            if "requestBody" in operation and not path.startswith("/webhooks/"):
                if "text/csv" in operation["requestBody"]["content"]:
                    continue  # its own odd bodies are in test_bulk.py
                content = operation["requestBody"]["content"]["application/json"]
                found.append((method.upper(), path.format(**ids), content["example"], content["schema"]))
    assert len(found) >= 12
    return found


@pytest.mark.parametrize("name", NOT_DOCUMENTS)
async def test_what_is_no_document_is_refused_by_every_operation(talktime: World, name: str) -> None:
    content, code = NOT_DOCUMENTS[name]
    calls = await operations(talktime)
    with unchanged(talktime.service.database.conninfo):
        for method, path, _, schema in calls:
            if name == "an empty object" and not schema.get("required"):
                continue  # it changes nothing, and is a document
            response = await talktime.client.request(method, path, content=content)
            problem(response, 422, code)
            assert len(response.content) < 4_000, path


async def test_an_odd_value_of_any_field_is_refused_by_every_operation(talktime: World) -> None:
    calls = await operations(talktime)
    fields = 0
    with unchanged(talktime.service.database.conninfo):
        for method, path, example, schema in calls:
            for name in schema["properties"]:
                fields += 1
                for value in ODD_VALUES:
                    held = {field: json.dumps(given) for field, given in example.items()} | {name: value}
                    body = "{" + ",".join(f"{json.dumps(field)}:{text}" for field, text in held.items()) + "}"
                    response = await talktime.client.request(method, path, content=body.encode())
                    problem(response, 422)
    assert fields > 50


async def test_a_name_that_stands_twice_or_is_unknown_is_refused_by_every_operation(talktime: World) -> None:
    calls = await operations(talktime)
    with unchanged(talktime.service.database.conninfo):
        for method, path, example, schema in calls:
            name = next(iter(schema["properties"]))
            twice = json.dumps(example)[:-1] + f',"{name}":null,"{name}":null}}'
            problem(await talktime.client.request(method, path, content=twice.replace("{,", "{")), 422, "invalid-json")
            unknown = json.dumps({**example, "surprise": 1})
            problem(await talktime.client.request(method, path, content=unknown), 422, "invalid-request")


OTHER_TYPES = ["text/xml", "multipart/form-data; boundary=x", "application/octet-stream", "text/plain"]
JSON_TYPES = [None, "application/json", "application/json; charset=utf-8", "Application/VND.x+JSON"]


@pytest.mark.parametrize("kind", OTHER_TYPES)
async def test_a_body_of_another_type_is_refused_by_every_operation(talktime: World, kind: str) -> None:
    calls = await operations(talktime)
    with unchanged(talktime.service.database.conninfo):
        for method, path, example, _ in calls:
            headers = {"Content-Type": kind}
            response = await talktime.client.request(method, path, content=json.dumps(example), headers=headers)
            problem(response, 415, "unsupported-media-type")


@pytest.mark.parametrize("kind", JSON_TYPES)
async def test_a_body_that_is_said_to_be_json_or_nothing_is_read(talktime: World, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    path = f"/v1/users/{talktime.user()}/grants"
    assert (await talktime.client.post(path, content=b'{"amount":"1"}', headers=headers)).status_code == 201


async def test_odd_heartbeats_are_refused(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await talktime.start(user)
    assert (await talktime.heartbeat(session)).status_code == 204
    webhook = talktime.webhook(session)
    with unchanged(talktime.service.database.conninfo):
        for content, _ in NOT_DOCUMENTS.values():
            response = await talktime.client.post(webhook, content=content)
            assert response.status_code in {413, 422}
            problem(response, response.status_code)
        for value in ODD_VALUES:
            problem(await talktime.client.post(webhook, content=f'{{"session_id":{value}}}'.encode()),
                    422 if len(value) < 16_000 else 413)  # fmt: skip
