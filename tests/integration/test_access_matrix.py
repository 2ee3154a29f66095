"""Every operation × every scope × own and foreign user, against the matrix that docs/api.md declares."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.responses import Response

from app.core.access import Own, Scope
from app.http.access import UndeclaredRoute, allowed, check_declared, declared, open_to_all
from app.sessions.start import Starts
from tests.support.postgres import WorkerDatabases
from tests.support.problems import problem
from tests.support.scripted_provider import ProviderHost
from tests.support.world import PUBLIC_URL, World, world

pytestmark = pytest.mark.anyio

API = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
OPEN = {"GET /healthz", "HEAD /healthz", "GET /readyz", "HEAD /readyz", "GET /openapi.json", "GET /docs"}
OPEN |= {"POST /webhooks/stripe"}  # to whoever signs with a secret that is set
ONE_SESSION = re.compile(r"\{session_id\}")


def matrix() -> dict[str, tuple[str, bool]]:
    """By call: the scope that it needs, and whether a user token does for that user's own; as the docs say."""
    found: dict[str, tuple[str, bool]] = {}
    for line in API.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        calls = re.findall(r"`((?:GET|POST|PATCH|DELETE) /[^`]+)`", cells[0])
        scopes = re.findall(r"`([\w:]+)`", cells[1]) if len(cells) > 1 else []
        if not calls or not scopes:
            continue
        assert len(scopes) in {1, len(calls)}, line
        for place, call in enumerate(calls):
            found[call] = (scopes[place % len(scopes)], cells[1].endswith(", own"))
    return found


MATRIX = matrix()


@pytest.fixture(scope="module")
async def stage(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator["Stage"]:
    async with world(databases.urls.service, providers.script(), gabber_capabilities="end") as found:
        yield await Stage.build(found)


class Stage:
    """One user with a session, a grant and so on; another with a token; a key of each scope."""

    def __init__(self, talktime: World, user: str, session: dict[str, Any], grant: str, card: str) -> None:
        self.talktime = talktime
        self.user = user
        self.session = session
        self.places = {"user_id": user, "session_id": session["id"], "grant_id": grant, "card_id": card}
        self.places["sha256"] = "0" * 64
        self.places["simulation_id"] = "sim_" + "0" * 26
        self.places["endpoint_id"] = "ep_" + "0" * 26
        self.places["payment_id"] = "pay_" + "0" * 26
        self.places["recurring_id"] = "rec_" + "0" * 52
        self.places["event_id"] = "evt_" + "0" * 52
        self.keys: dict[str, str] = {}

    @classmethod
    async def build(cls, talktime: World) -> "Stage":
        user = talktime.user()
        grant = await talktime.grant(user, "1000")
        session = await talktime.start(user)
        talktime.provider.say(session["provider_session_id"], ("agent", 3))
        card = (await talktime.get("/v1/rate-cards"))["data"][0]
        stage = cls(talktime, user, session, grant["id"], card["id"])
        for scope in Scope:
            stage.keys[scope] = await stage.key(scope)
        return stage

    async def key(self, *scopes: str) -> str:
        body = {"name": "matrix", "scopes": list(scopes)}
        response = await self.talktime.client.post("/v1/api-keys", json=body)
        assert response.status_code == 201, response.text
        return str(response.json()["secret"])

    async def token(self, user: str) -> str:
        response = await self.talktime.client.post(f"/v1/users/{user}/tokens", json={"ttl_s": 900})
        assert response.status_code == 201, response.text
        return str(response.json()["token"])

    async def call(self, call: str, credentials: str | None, body: Any = None) -> httpx.Response:
        """Make the call with a body that it refuses, unless another is given: who may is told before that."""
        method, _, path = call.partition(" ")
        made = await self.talktime.client.post("/v1/api-keys", json={"name": "to revoke", "scopes": ["read"]})
        places = {**self.places, "key_id": made.json()["id"]}
        address = re.sub(r"\{(\w+)\}", lambda found: places[found[1]], path)
        headers = {} if credentials is None else {"Authorization": f"Bearer {credentials}"}
        client = self.talktime.client
        request = httpx.Request(method, PUBLIC_URL + address, headers=headers, json=[] if body is None else body)
        return await client.send(request)


async def test_the_docs_declare_every_call_and_the_code_the_same(world_of_the_module: World) -> None:
    asked = declared(world_of_the_module.service._api.routes)
    assert {call for call, access in asked.items() if access is None} == OPEN
    code = {call: (access.scope.value, access.own is not None) for call, access in asked.items() if access is not None}
    assert code == MATRIX
    assert {scope for scope, _ in MATRIX.values()} == set(Scope)


@pytest.mark.parametrize("call", MATRIX)
async def test_a_key_may_do_what_its_scope_says_and_no_more(stage: Stage, call: str) -> None:
    needed, _ = MATRIX[call]
    for scope, key in stage.keys.items():
        response = await stage.call(call, key)
        if scope in {needed, Scope.ADMIN}:
            assert response.status_code not in {401, 403}, (scope, response.text)
        else:
            document = problem(response, 403, "forbidden")
            assert document["required_scope"] == needed
            assert needed in document["detail"]


@pytest.mark.parametrize("call", MATRIX)
async def test_several_scopes_add_up_and_others_add_nothing(stage: Stage, call: str) -> None:
    needed, _ = MATRIX[call]
    others = [scope for scope in Scope if scope not in {needed, Scope.ADMIN}]
    if others:
        problem(await stage.call(call, await stage.key(*others)), 403, "forbidden")
    if needed != Scope.ADMIN:
        response = await stage.call(call, await stage.key(*others, needed))
        assert response.status_code not in {401, 403}, response.text


@pytest.mark.parametrize("call", MATRIX)
async def test_a_user_token_reaches_its_users_own_and_nothing_else(stage: Stage, call: str) -> None:
    _, own = MATRIX[call]
    mine, foreign = await stage.token(stage.user), await stage.token(stage.talktime.user())
    response = await stage.call(call, mine)
    if not own:
        problem(response, 403, "forbidden")
        problem(await stage.call(call, foreign), 403, "forbidden")
        return
    assert response.status_code not in {401, 403, 404}, response.text
    response = await stage.call(call, foreign)
    if ONE_SESSION.search(call):
        missing = await stage.call(call.replace("{session_id}", "ses_" + "0" * 52), foreign)
        assert problem(response, 404, "not-found") == problem(missing, 404, "not-found")
    elif "{user_id}" in call:
        problem(response, 403, "forbidden")
    else:
        assert call in {"GET /v1/sessions", "POST /api/start_session"}  # their own tests are below


@pytest.mark.parametrize("call", MATRIX)
async def test_a_stranger_is_told_nothing(stage: Stage, call: str) -> None:
    key = stage.keys[Scope.ADMIN]
    told = set()
    for credentials in (
        None,
        "x",
        key[:-1] + ("0" if key[-1] != "0" else "1"),
        key.upper(),
        "ttk_" + "0" * 52,
        "a.b.c",
    ):
        response = await stage.call(call, credentials)
        document = problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"].startswith("Bearer ")
        told.add(document["title"])
    assert len(told) == 1


async def test_a_user_lists_and_starts_sessions_of_its_own_only(stage: Stage) -> None:
    talktime, other = stage.talktime, stage.talktime.user()
    await talktime.grant(other, "100000")
    mine, foreign = await stage.token(stage.user), await stage.token(other)
    listed = await stage.call("GET /v1/sessions", mine)
    assert [row["id"] for row in listed.json()["data"]] == [stage.session["id"]]
    assert (await stage.call("GET /v1/sessions", foreign)).json()["data"] == []
    problem(await stage.call(f"GET /v1/sessions?user_id={stage.user}", foreign), 403, "forbidden")
    body = {"persona": "tutor", "scenario": "talk"}
    starts = len(talktime.provider.starts)
    problem(await stage.call("POST /api/start_session", foreign, {**body, "user_id": stage.user}), 403, "forbidden")
    assert len(talktime.provider.starts) == starts
    for asked in (body, {**body, "user_id": other}):
        response = await stage.call("POST /api/start_session", foreign, asked)
        assert response.status_code == 200, response.text
        session = await talktime.get(f"/v1/sessions/{response.headers['x-session-id']}")
        assert session["user_id"] == other
    response = await stage.call("POST /api/start_session", stage.keys[Scope.SESSIONS_WRITE], body)
    assert problem(response, 422)["errors"][0]["pointer"] == "/user_id"


async def test_a_user_with_a_slash_in_its_id_is_that_user(stage: Stage) -> None:
    user = f"{stage.user}/ü %2F"
    await stage.talktime.grant(stage.talktime.user(), "1")
    address = f"/v1/users/{stage.user}%2F%C3%BC%20%252F/tokens"
    token = (await stage.talktime.client.post(address, json={})).json()
    assert token["user_id"] == user
    headers = {"Authorization": f"Bearer {token['token']}"}
    path = address.removesuffix("tokens") + "balance"
    problem(await stage.talktime.client.get(path, headers=headers), 404, "not-found")
    response = await stage.talktime.client.get(path.replace("%252F", "%2F"), headers=headers)
    problem(response, 403, "forbidden")


async def test_a_route_that_declares_nothing_fails_the_start(
    databases: WorkerDatabases, world_of_the_module: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app import service  # noqa: PLC0415 - what is patched

    def routes(_database: object, _starts: Starts) -> APIRouter:
        router = APIRouter()

        @router.get("/v1/new")
        async def new() -> Response:
            return Response()

        return router

    monkeypatch.setattr(service, "session_routes", routes)
    with pytest.raises(UndeclaredRoute, match="/v1/new"):
        service.Service(world_of_the_module.settings, databases.urls.service)


def test_a_change_is_declared_on_a_call_that_can_change() -> None:
    api = FastAPI(openapi_url=None)

    @api.get("/open")
    @open_to_all
    async def opened() -> None: ...

    @api.get("/read")
    @allowed(Scope.READ, own=Own.ASKED)
    async def read() -> None: ...

    check_declared(api.routes)

    @api.get("/changes")
    @allowed(Scope.READ, "thing.change")
    async def changes() -> None: ...

    with pytest.raises(UndeclaredRoute, match="/changes"):
        check_declared(api.routes)
