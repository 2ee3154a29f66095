"""The API document: whole, valid, and what a page of it may do. Every answer of these tests is held against it."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import httpx
import jsonschema_rs
import pytest
from fastapi import FastAPI

from app.core.access import Scope
from app.errors import NOT_FOUND
from app.http.access import allowed
from app.http.api_document import UndescribedCall, api_document
from app.http.docs_page import PAGE_POLICY, docs_page
from app.http.schemas import Described, Operation, replies, text
from tests.support.documented import WIRE_ONLY, Documented
from tests.support.world import World

pytestmark = pytest.mark.anyio

OPEN = {"/healthz", "/readyz", "/openapi.json", "/docs", "/webhooks/gabber/{token}", "/webhooks/stripe"}


@pytest.fixture
async def document(talktime: World) -> Any:
    return await talktime.get("/openapi.json")


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


async def test_it_is_open_and_names_only_what_it_has(talktime: World, document: Any) -> None:
    del talktime.client.headers["Authorization"]
    assert (await talktime.client.get("/openapi.json")).json() == document
    assert document["openapi"] == "3.1.0"
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert named == set(document["components"]["schemas"])


async def test_every_schema_is_one_and_every_example_fits_it(document: Any) -> None:
    documented = Documented(document)
    examples = 0
    for method, path, operation in operations(document):
        contents = [answer.get("content", {}) for answer in operation["responses"].values()]
        contents.append(operation.get("requestBody", {}).get("content", {}))
        for kind, content in ((kind, content) for held in contents for kind, content in held.items()):
            validator = documented.validator_of(content["schema"])
            given = [content["example"]] if "example" in content else []
            given += [example["value"] for example in content.get("examples", {}).values()]
            assert given, (method, path, kind)
            for example in given:
                assert not [error.message for error in validator.iter_errors(example)], (method, path, example)
                examples += 1
        for parameter in operation["parameters"]:
            for example in parameter["schema"].get("examples", ()):
                jsonschema_rs.Draft202012Validator(parameter["schema"]).validate(example)
    assert examples > 300


async def test_every_operation_says_what_it_is(document: Any) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(ids)) == len(ids) > 25
    for _, _, operation in operations(document):
        for answer in operation["responses"].values():
            assert set(answer.get("links", {})) <= set(ids)
    tags = {tag["name"] for tag in document["tags"]}
    for method, path, operation in operations(document):
        where = (method, path)
        assert operation["summary"], where
        assert operation["description"].endswith("."), where
        assert operation["tags"], where
        assert set(operation["tags"]) <= tags, where
        assert (operation["security"] == []) == (path in OPEN), where
        assert all(parameter["description"] for parameter in operation["parameters"]), where
        answers = operation["responses"]
        assert set(answers) >= WIRE_ONLY, where
        assert any(status < "3" for status in answers), where
        if path not in OPEN:
            assert {"401", "422", "500", "503"} <= set(answers), where
        if "requestBody" in operation:
            assert "413" in answers, where
        for status, answer in answers.items():
            assert "X-Request-Id" in answer["headers"], where
            retried = "Retry-After" in answer["headers"]
            assert retried or status not in {"503", "408", "429"} or path == "/readyz", (where, status)
        keyed = any(parameter["name"] == "Idempotency-Key" for parameter in operation["parameters"])
        writes = method != "get" and path not in OPEN
        assert keyed == (writes and not path.endswith(("/reconcile", "/preview", "/bulk"))), where


async def test_headers_stand_where_they_are_sent(document: Any) -> None:
    for method, path, operation in operations(document):
        keyed = any(parameter["name"] == "Idempotency-Key" for parameter in operation["parameters"])
        for status, answer in operation["responses"].items():
            where, headers = (method, path, status), set(answer["headers"])
            limits = path not in OPEN and status not in WIRE_ONLY | {"401"}
            assert ({"RateLimit", "RateLimit-Policy"} <= headers) == limits, where
            start = path in {"/v1/sessions", "/api/start_session"}
            again = keyed and (status < "3" or status in {"402", "422"} or (start and status in {"502", "504"}))
            assert ("Idempotency-Replayed" in headers) == again, where


async def test_an_example_of_csv_has_the_header_that_is_sent(talktime: World, document: Any) -> None:
    user = talktime.user()
    await talktime.grant(user, "1")
    for path, call in (
        (f"/v1/users/{user}/entries", "/v1/users/{user_id}/entries"),
        ("/v1/finance/roll-forward", "/v1/finance/roll-forward"),
    ):
        sent = (await talktime.client.get(path, headers={"Accept": "text/csv"})).text.split("\r\n")
        example = document["paths"][call]["get"]["responses"]["200"]["content"]["text/csv"]["example"].split("\r\n")
        assert example[0] == sent[0]
        assert len(example) == 3
        assert example[1].count(",") == sent[0].count(",")


async def test_defaults_are_in_the_units_of_the_api(document: Any) -> None:
    body = document["paths"]["/v1/rate-cards"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["silence"]["properties"]["full_rate_first_s"]["default"] == 5
    assert body["properties"]["rounding"]["properties"]["quantum"]["default"] == "0.000001"
    assert body["properties"]["measurement"]["properties"]["missed_heartbeats_tolerated"]["default"] == 1


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (httpx.Response(200, json={"status": "ok", "secret": 1}), "secret"),
        (httpx.Response(200, json={}), "status"),
        (httpx.Response(418, json={}), "not documented"),
        (httpx.Response(200, text="ok"), "text/plain"),
    ],
)
async def test_what_is_not_documented_fails_a_test(document: Any, answer: httpx.Response, fault: str) -> None:
    answer.request = httpx.Request("GET", "http://x/healthz")
    answer.headers["X-Request-Id"] = "req_x"
    with pytest.raises(AssertionError, match=fault):
        Documented(document).check(answer)


def test_a_call_that_is_not_described_stops_the_start() -> None:
    api = FastAPI(openapi_url=None)

    @api.get("/thing/{name}")
    @allowed(Scope.READ)
    async def thing(name: str) -> str:
        return name

    with pytest.raises(UndescribedCall, match=r"GET /thing/\{name\}"):
        api_document(api, "1", [])
    told = Operation(description="A thing.", answers={200: replies("It.", text("x"))}, problems=(NOT_FOUND,))
    with pytest.raises(UndescribedCall, match="has the parameters"):
        api_document(api, "1", [Described(operations={"GET /thing/{name}": told})])
    with pytest.raises(UndescribedCall, match="GET /gone"):
        api_document(FastAPI(), "1", [Described(operations={"GET /gone": told})])


class Page(HTMLParser):
    """What a page would load, and its style."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.style = ""
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert not [name for name in given if name.startswith("on") or name == "style"]
        if tag in {"script", "link", "img", "iframe", "object", "embed", "form", "base"}:
            self.loads.append(tag)
        if "id" in given:
            self.ids.add(given["id"] or "")
        if tag == "a":
            self.links.add(given["href"] or "")
        self._in_style = tag == "style"

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.style += data
            self._in_style = False


async def test_the_page_runs_nothing_loads_nothing_and_shows_every_call(talktime: World, document: Any) -> None:
    response = await talktime.client.get("/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers.get_list("content-security-policy") == [PAGE_POLICY]
    page = Page()
    page.feed(response.text)
    assert page.loads == []
    hashed = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert f"style-src 'sha256-{hashed}'" in PAGE_POLICY
    assert "unsafe" not in PAGE_POLICY
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert {link for link in page.links if not link.startswith("#")} == {"/openapi.json"}
    for method, path, operation in operations(document):
        assert operation["operationId"] in page.ids
        assert f"{method.upper()} {path}" in response.text


def test_what_stands_in_a_document_is_only_text_on_the_page() -> None:
    evil = "<script>alert(1)</script>"
    page = docs_page(
        {
            "info": {"title": evil, "version": evil, "description": evil},
            "tags": [{"name": "x", "description": evil}],
            "paths": {},
            "components": {"schemas": {evil: {"type": "object", "properties": {evil: {"const": evil}}}}},
        }
    )
    assert "<script" not in page
