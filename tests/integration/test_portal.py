"""The user's portal: which tokens open it, what they do not open, and who may frame it."""

import html
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from app.web.portal_words import ENGLISH
from tests.support.postgres import WorkerDatabases, ask
from tests.support.scripted_provider import ProviderHost
from tests.support.world import ADMIN_KEY, PUBLIC_URL, World, world

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def browser(talktime: World, base_url: str = PUBLIC_URL) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=talktime.service.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
        yield client


async def link(talktime: World, user: str, **asked: object) -> str:
    answer = await talktime.client.post(f"/v1/users/{user}/portal-links", json=asked)
    assert answer.status_code == 201, answer.text
    assert set(answer.json()) == {"user_id", "url", "expires_at"}
    return str(answer.json()["url"])


async def test_a_link_opens_the_portal_and_nothing_else(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    url = await link(talktime, user, ttl_s=60, reason="asked on the phone")
    token = url.partition("?token=")[2]
    assert url.startswith(f"{PUBLIC_URL}/portal?token=")
    async with browser(talktime) as client:
        entered = await client.get(url)
        assert (entered.status_code, entered.headers["location"]) == (303, "/portal")
        assert entered.headers["set-cookie"] == f"talktime_portal={token}; Path=/portal; HttpOnly; SameSite=Lax"
        assert "50 credits" in (await client.get("/portal")).text
        bearer = {"Authorization": f"Bearer {token}"}
        assert (await client.get(f"/v1/users/{user}/balance", headers=bearer)).status_code == 401
        assert (await client.post("/api/start_session", json={}, headers=bearer)).status_code == 401
        talktime.clock.advance(61)
        assert (await client.get("/portal")).status_code == 401
    told = ask(talktime.service.database.conninfo, f"select action, reason from audit_log where target = '{user}'")
    assert ("portal_link.create", "asked on the phone") in told
    assert token not in str(ask(talktime.service.database.conninfo, "select * from audit_log"))


async def test_who_has_nothing_yet_is_told_so(talktime: World) -> None:
    """A link may come before the first grant: to somebody who is to buy."""
    url = await link(talktime, talktime.user(), ttl_s=60)
    async with browser(talktime) as client:
        await client.get(url)
        home = await client.get("/portal")
    assert home.status_code == 200
    assert ENGLISH("no_entries") in html.unescape(home.text)


async def test_a_users_own_token_opens_it_by_a_form(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    token = (await talktime.client.post(f"/v1/users/{user}/tokens", json={"ttl_s": 60})).json()["token"]
    async with browser(talktime) as client:
        assert (await client.post("/portal", data={"token": token})).status_code == 303
        assert "50 credits" in (await client.get("/portal")).text


@pytest.mark.parametrize("token", [ADMIN_KEY, "ttk_x", "", "a.b.c", "x" * 9_000, "é.é.é"])
async def test_nothing_else_opens_it(talktime: World, token: str) -> None:
    async with browser(talktime) as client:
        for answer in (
            await client.get("/portal", params={"token": token}) if len(token) < 8_000 else None,
            await client.post("/portal", data={"token": token}),
            await client.get("/portal", headers={b"Cookie": f"talktime_portal={token}".encode()}),
        ):
            if answer is not None:
                assert answer.status_code == 401
                assert "set-cookie" not in answer.headers
                assert answer.headers["content-type"].startswith("text/html")


async def test_an_admin_session_is_none_here_and_a_link_none_there(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    async with browser(talktime) as client:
        await client.get(await link(talktime, user))
        assert (await client.get("/admin")).status_code == 303
        assert (await client.get("/portal/nothing")).status_code == 404
        assert (await client.delete("/portal")).status_code == 405


async def test_pages_that_are_named_may_frame_it(databases: WorkerDatabases, providers: ProviderHost) -> None:
    origins = "https://shop.example,https://app.example"
    terms: dict[str, Any] = {"portal_frame_origins": origins, "public_url": "https://talktime.example"}
    async with world(databases.urls.service, providers.script(), **terms) as talktime:
        user = talktime.user()
        url = await link(talktime, user)
        async with browser(talktime, "https://talktime.example") as client:
            entered = await client.get(url)
            assert entered.headers["set-cookie"].endswith("HttpOnly; SameSite=None; Secure; Partitioned")
            policy = (await client.get("/portal")).headers["content-security-policy"]
            assert policy.endswith("frame-ancestors https://shop.example https://app.example")
            admin = (await client.get("/admin/sign-in")).headers["content-security-policy"]
            assert admin.endswith("frame-ancestors 'none'")


async def test_wrong_tokens_are_counted_by_address(databases: WorkerDatabases, providers: ProviderHost) -> None:
    made = world(databases.urls.service, providers.script(), failed_auth_max_rpm=5)
    async with made as talktime, browser(talktime) as client:
        answers = [(await client.get("/portal?token=a.b.c")).status_code for _ in range(7)]
    assert answers == [401] * 5 + [429] * 2


async def test_every_word_is_in_one_place(talktime: World) -> None:
    """A template of the portal holds no text of its own, and each word that it asks for is there."""
    environment = talktime.service.pages.portal._renderer._environment
    names = [name for name in environment.list_templates() if name.startswith("portal_")]
    assert len(names) >= 7
    for name in names:
        source = (environment.loader.get_source(environment, name))[0] if environment.loader else ""
        text = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|<[^>]*>|&[a-z]+;", " ", source, flags=re.DOTALL)
        assert re.findall(r"[A-Za-z]{2,}", text) == [], name
        for asked in re.findall(r"\bt\('([a-z_.]+)'[,)]", source):
            assert asked in ENGLISH.texts, asked
