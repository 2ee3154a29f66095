"""Headers of every answer, and what pages of other origins may read."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.http.headers import CrossOrigin, WithHeaders, headers_of
from tests.support.postgres import WorkerDatabases
from tests.support.scripted_provider import ProviderHost
from tests.support.world import World, world

pytestmark = pytest.mark.anyio

ALLOWED = "https://app.example"
CLOSED = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
}


@pytest.fixture(scope="module")
async def open_world(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator[World]:
    async with world(databases.urls.service, providers.script(), cors_origins=f"{ALLOWED},http://[::1]:3000") as found:
        yield found


async def answers(talktime: World) -> dict[str, httpx.Response]:
    """One of each kind."""
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await talktime.start(user)
    client = talktime.client
    webhook = talktime.webhook(session)
    return {
        "list": await client.get("/v1/sessions"),
        "made": await client.post(f"/v1/users/{user}/grants", json={"amount": "1"}),
        "streamed": await client.get(f"/v1/users/{user}/entries", headers={"Accept": "text/csv"}),
        "unknown path": await client.get("/nothing"),
        "unknown call": await client.get("/v1/nothing"),
        "wrong method": await client.put("/v1/settings"),
        "long address": await client.get("/v1/sessions?user_id=" + "x" * 9000),
        "no key": await client.get("/v1/sessions", headers={"Authorization": ""}),
        "bad address": await client.get("/v1/sessions?user_id=%FF"),
        "invalid": await client.post("/v1/sessions", content=b"{"),
        "another type": await client.post("/v1/sessions", content=b"{}", headers={"Content-Type": "text/xml"}),
        "too large": await client.post("/v1/sessions", content=b" " * ((1 << 20) + 1)),
        "health": await client.get("/healthz"),
        "head": await client.head("/readyz"),
        "no webhook": await client.post("/webhooks/gabber/nothing"),
        "bad heartbeat": await client.post(webhook, content=b"{"),
        "heartbeat": await talktime.heartbeat(session),
        "heartbeat of another": await client.post(webhook, json={"session_id": "other"}),
    }


async def test_every_answer_has_the_headers_once(talktime: World) -> None:
    for name, response in (await answers(talktime)).items():
        for header, value in CLOSED.items():
            assert response.headers.get_list(header) == [value], (name, header)
        assert "strict-transport-security" not in response.headers
        assert not [header for header in response.headers if header.startswith("access-control-")], name


def test_tls_is_demanded_where_there_is_tls() -> None:
    assert dict(headers_of("https://talktime.example"))[b"strict-transport-security"].startswith(b"max-age=")
    assert b"strict-transport-security" not in dict(headers_of("http://talktime.example"))


async def test_a_header_that_an_answer_has_stays(talktime: World) -> None:
    async def page(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"Content-Security-Policy", b"default-src 'self'")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    app: Any = WithHeaders(page, headers_of("http://x"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x") as client:
        response = await client.get("/")
    assert response.headers.get_list("content-security-policy") == ["default-src 'self'"]
    assert response.headers["x-content-type-options"] == "nosniff"


# Other origins


async def test_an_allowed_origin_may_read_answers_and_errors_but_never_with_credentials(open_world: World) -> None:
    for name, response in (await with_origin(open_world, ALLOWED)).items():
        assert response.headers.get_list("access-control-allow-origin") == [ALLOWED], name
        assert "access-control-allow-credentials" not in response.headers
        exposed = response.headers["access-control-expose-headers"].split(", ")
        assert {"Idempotency-Replayed", "Retry-After", "RateLimit", "X-Request-Id", "X-Session-Id"} <= set(exposed)
        assert "Origin" in response.headers["vary"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.evil", "https://app.example:8443", "http://app.example", "HTTPS://APP.EXAMPLE", "null",
        "https://app.example/", "https://evil.example", "", "*", "https://sub.app.example",
    ],
)  # fmt: skip
async def test_another_origin_gets_no_leave_and_no_answer_for_a_preflight(open_world: World, origin: str) -> None:
    for name, response in (await with_origin(open_world, origin)).items():
        assert not [header for header in response.headers if header.startswith("access-control-")], name
        assert response.headers["vary"].endswith("Origin"), name
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    response = await open_world.client.options("/v1/sessions", headers=asked)
    assert response.status_code == 405
    assert not [header for header in response.headers if header.startswith("access-control-")]


async def with_origin(talktime: World, origin: str) -> dict[str, httpx.Response]:
    client = talktime.client
    headers = {"Origin": origin}
    return {
        "list": await client.get("/v1/sessions", headers=headers),
        "no key": await client.get("/v1/sessions", headers=headers | {"Authorization": ""}),
        "unknown": await client.get("/nothing", headers=headers),
        "long address": await client.get("/v1/sessions?user_id=" + "x" * 9000, headers=headers),
        "invalid": await client.post("/v1/sessions", content=b"{", headers=headers),
    }


async def test_a_preflight_is_answered_without_a_key_and_alike_for_every_address(open_world: World) -> None:
    del open_world.client.headers["Authorization"]
    told = []
    for path in ("/v1/sessions", "/v1/nothing"):
        response = await open_world.client.options(
            path,
            headers={
                "Origin": "http://[::1]:3000",
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
            },
        )
        assert response.status_code == 204
        assert response.headers["access-control-allow-origin"] == "http://[::1]:3000"
        allowed = set(re.split(", ?", response.headers["access-control-allow-headers"].lower()))
        assert {"authorization", "content-type", "idempotency-key"} <= allowed
        assert "POST" in response.headers["access-control-allow-methods"]
        assert "access-control-allow-credentials" not in response.headers
        told.append({name: value for name, value in response.headers.items() if name != "x-request-id"})
    assert told[0] == told[1]
    open_world.renew()


async def test_an_allowed_origin_is_not_asked_twice_with_what_is_no_preflight(open_world: World) -> None:
    response = await open_world.client.options("/v1/sessions", headers={"Origin": ALLOWED})
    assert response.status_code == 405


def test_no_lifespan_or_other_scope_is_touched() -> None:
    seen: list[Any] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope)

    for wrapped in (CrossOrigin(app, [ALLOWED]), WithHeaders(app, headers_of("http://x"))):
        with pytest.raises(StopIteration):
            wrapped({"type": "lifespan"}, None, None).send(None)  # type: ignore[arg-type]
    assert seen == [{"type": "lifespan"}] * 2
