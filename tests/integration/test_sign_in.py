"""Signing in to the pages: who may, for how long, and what ends it."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from app.access.admins import NewAdminDocument, Passwords, change_admin, change_password
from app.core.access import Actor, Role
from app.core.units import US_PER_S, Micros
from app.documents import validate
from app.errors import Problem
from app.ports.ids import TimeOrderedIds
from app.ports.randomness import SystemRandomness
from app.web.site import COOKIE, SECURE_COOKIE
from tests.support.furnished import PASSWORD, link_for, make_admin
from tests.support.postgres import WorkerDatabases, ask, tell
from tests.support.scripted_provider import ProviderHost
from tests.support.world import ADMIN_KEY, PUBLIC_URL, World, world

pytestmark = pytest.mark.anyio
WRONG = "correct horse battery stapler"
HERE = {"Sec-Fetch-Site": "same-origin"}


@asynccontextmanager
async def browser(talktime: World, base_url: str = PUBLIC_URL) -> AsyncIterator[httpx.AsyncClient]:
    """Someone new, without any key."""
    transport = httpx.ASGITransport(app=talktime.service.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=base_url, headers=HERE) as client:
        yield client


async def sign_in(client: httpx.AsyncClient, **given: str) -> httpx.Response:
    return await client.post("/admin/sign-in", data=given)


async def is_in(client: httpx.AsyncClient) -> bool:
    response = await client.get("/admin")
    assert response.status_code in {200, 303}
    return response.status_code == 200


async def test_an_admin_key_opens_the_pages_and_leaves_no_trace_of_itself(talktime: World) -> None:
    async with browser(talktime) as client:
        assert not await is_in(client)
        response = await sign_in(client, key=ADMIN_KEY)
        assert (response.status_code, response.headers["location"]) == (303, "/admin")
        assert re.fullmatch(
            rf"{COOKIE}=[0-9a-z]{{52}}; HttpOnly; Path=/admin; SameSite=lax", response.headers["set-cookie"]
        )
        assert await is_in(client)
        token = client.cookies[COOKIE]
    stored = ask(talktime.service.database.conninfo, "select * from admin_sessions")
    assert token not in str(stored)
    assert token.encode().hex() not in str(stored)


async def test_by_https_the_cookie_is_bound_to_the_host(databases: WorkerDatabases, providers: ProviderHost) -> None:
    url = "https://talktime.example"
    made = world(databases.urls.service, providers.script(), public_url=url)
    async with made as talktime, browser(talktime, url) as client:
        response = await sign_in(client, key=ADMIN_KEY)
        told = response.headers["set-cookie"]
        assert re.fullmatch(rf"{SECURE_COOKIE}=[0-9a-z]{{52}}; HttpOnly; Path=/; SameSite=lax; Secure", told)
        assert await is_in(client)


async def test_a_key_without_the_scope_admin_does_not(talktime: World) -> None:
    made = await talktime.client.post("/v1/api-keys", json={"name": "reader", "scopes": ["read"]})
    async with browser(talktime) as client:
        response = await sign_in(client, key=made.json()["secret"])
        assert response.status_code == 403
        assert "lacks the scope admin" in response.text
        assert not await is_in(client)


async def test_a_password_opens_the_pages_and_another_does_not(talktime: World) -> None:
    name = await make_admin(talktime)
    async with browser(talktime) as client:
        for given in ({"name": name, "password": WRONG}, {"name": name + "x", "password": PASSWORD}, {"name": name}):
            response = await sign_in(client, **given)
            assert response.status_code == 401
            assert not await is_in(client)
        assert (await sign_in(client, name=name, password=PASSWORD)).status_code == 303
        assert await is_in(client)
    url = talktime.service.database.conninfo
    ((stored,),) = ask(url, f"select password_hash from admin_users where name = '{name}'")
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    rows = ask(url, f"select action, after ->> 'role' from audit_log where actor = 'admin:{name}'")
    assert rows == [("admin.sign_in", "full")]


@pytest.mark.parametrize("end", ["disabled", "password", "expiry", "sign-out", "row"])
async def test_what_ends_a_sign_in(talktime: World, end: str) -> None:
    name = await make_admin(talktime)
    ids = TimeOrderedIds(talktime.clock, SystemRandomness())
    async with browser(talktime) as client, browser(talktime) as other:
        await sign_in(client, name=name, password=PASSWORD)
        await sign_in(other, key=ADMIN_KEY)
        database = talktime.service.database
        match end:
            case "disabled":
                async with database.transaction() as transaction:
                    now, actor = talktime.clock.now(), Actor("test")
                    await change_admin(transaction, ids, name, now=now, actor=actor, disabled=True)
            case "password":
                hashed = await Passwords(SystemRandomness()).hash(WRONG)
                async with database.transaction() as transaction:
                    now = talktime.clock.now()
                    await change_password(transaction, ids, name, hashed, now=now, actor=Actor("test"))
            case "expiry":
                talktime.clock.advance(12 * 3600 - 1)
                assert await is_in(client)
                talktime.clock.advance(1)
                await sign_in(other, key=ADMIN_KEY)
            case "sign-out":
                page = (await client.get("/admin")).text
                (token,) = set(re.findall(r'name="csrf" value="([0-9a-f]+)"', page))
                kept = client.cookies[COOKIE]
                assert (await client.post("/admin/sign-out", data={"csrf": token})).status_code == 303
                assert COOKIE not in client.cookies
                client.cookies.set(COOKIE, kept)
            case "row":
                tell(database.conninfo, "delete from admin_sessions where admin like 'admin:%' and role = 'full'")
        assert not await is_in(client)
        assert await is_in(other)
    if end == "disabled":
        async with browser(talktime) as client:
            assert (await sign_in(client, name=name, password=PASSWORD)).status_code == 401


def link(token: str) -> str:
    return f"/admin/sign-in/link?token={token}"


async def used(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.post("/admin/sign-in/link", data={"token": token})


async def test_a_link_signs_in_once_and_only_by_a_click(talktime: World) -> None:
    name = await make_admin(talktime, Role.READ_ONLY)
    token = await link_for(talktime, name)
    stored = str(ask(talktime.service.database.conninfo, "select * from admin_sessions"))
    assert token not in stored
    assert token.encode().hex() not in stored
    async with browser(talktime) as scanner, browser(talktime) as client, browser(talktime) as other:
        for _ in range(3):
            shown = await scanner.get(link(token))
            assert (shown.status_code, f"Sign in as {name}" in shown.text) == (200, True)
            assert shown.headers["cache-control"] == "no-store"
            assert (await scanner.head(link(token))).status_code == 200
        assert not await is_in(scanner)
        scanner.cookies.set(COOKIE, token)  # a link is no session
        assert not await is_in(scanner)
        signed_in = await used(client, token)
        assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/admin")
        assert await is_in(client)
        assert client.cookies[COOKIE] != token
        for answer in (await used(client, token), await used(other, token), await other.get(link(token))):
            assert answer.status_code == 401
            assert "this link was used" in answer.text.lower()
        assert not await is_in(other)
        # A session is no link.
        assert (await used(other, client.cookies[COOKIE])).status_code == 401
        assert await is_in(client)
        assert "read-only" in (await client.get("/admin")).text
    rows = ask(
        talktime.service.database.conninfo,
        f"select action, actor, after from audit_log where target = 'admin:{name}'",
    )
    found = {action: (actor, after) for action, actor, after in rows}
    assert len(rows) == len(found) == 3
    assert found["admin.sign_in_link"][0] == "test"
    assert found["admin.sign_in"] == (f"admin:{name}", {"role": "read-only", "by": "link"})
    assert token not in str(rows)


async def test_of_two_who_use_a_link_at_once_one_comes_in(talktime: World) -> None:
    token = await link_for(talktime, await make_admin(talktime))
    async with browser(talktime) as one, browser(talktime) as other:
        answers = await asyncio.gather(used(one, token), used(other, token))
        assert sorted(answer.status_code for answer in answers) == [303, 401]
        assert [await is_in(one), await is_in(other)].count(True) == 1


@pytest.mark.parametrize("end", ["time", "a newer one", "disabled", "password", "another site", "garbage"])
async def test_what_ends_a_link(talktime: World, end: str) -> None:
    name = await make_admin(talktime)
    token = await link_for(talktime, name, lasts=Micros(600 * US_PER_S))
    ids, actor, database = TimeOrderedIds(talktime.clock, SystemRandomness()), Actor("test"), talktime.service.database
    async with browser(talktime) as client:
        match end:
            case "time":
                talktime.clock.advance(599)
                assert (await client.get(link(token))).status_code == 200
                talktime.clock.advance(1)
            case "a newer one":
                newer = await link_for(talktime, name)
                assert (await client.get(link(newer))).status_code == 200
            case "disabled":
                async with database.transaction() as transaction:
                    now = talktime.clock.now()
                    await change_admin(transaction, ids, name, now=now, actor=actor, disabled=True)
                async with database.transaction() as transaction:
                    await change_admin(transaction, ids, name, now=now, actor=actor, disabled=False)
            case "password":
                hashed = await Passwords(SystemRandomness()).hash(WRONG)
                async with database.transaction() as transaction:
                    now = talktime.clock.now()
                    await change_password(transaction, ids, name, hashed, now=now, actor=actor)
            case "another site":
                client.headers["Sec-Fetch-Site"] = "cross-site"
                assert (await used(client, token)).status_code == 403
                assert not await is_in(client)
                return
            case "garbage":
                token = f"{token[:-1]}é"
        assert (await client.get("/admin/sign-in/link", params={"token": token})).status_code == 401
        assert (await used(client, token)).status_code == 401
        assert not await is_in(client)


async def test_links_that_are_none_are_counted(databases: WorkerDatabases, providers: ProviderHost) -> None:
    made = world(databases.urls.service, providers.script(), failed_auth_max_rpm=5)
    async with made as talktime, browser(talktime) as client:
        token = await link_for(talktime, await make_admin(talktime))
        answers = [(await used(client, "0" * 52)).status_code for _ in range(6)]
        assert answers[0] == 401
        assert answers[-1] == 429
        assert (await client.get(link(token))).status_code == 429
        talktime.clock.advance(60)
        assert (await client.get(link(token))).status_code == 200


async def test_nobody_who_may_not_come_in_gets_a_link(talktime: World) -> None:
    name = await make_admin(talktime)
    async with talktime.service.database.transaction() as transaction:
        ids = TimeOrderedIds(talktime.clock, SystemRandomness())
        now = talktime.clock.now()
        await change_admin(transaction, ids, name, now=now, actor=Actor("test"), disabled=True)
    for nobody in (name, "nobody"):
        with pytest.raises(Problem, match="no admin with this name whose account is open"):
            await link_for(talktime, nobody)


async def test_a_revoked_key_is_out_at_once(talktime: World) -> None:
    made = (await talktime.client.post("/v1/api-keys", json={"name": "ops", "scopes": ["admin"]})).json()
    async with browser(talktime) as client:
        assert (await sign_in(client, key=made["secret"])).status_code == 303
        assert await is_in(client)
        await talktime.client.delete(f"/v1/api-keys/{made['id']}")
        assert not await is_in(client)


async def test_another_bootstrap_key_ends_what_the_first_opened(
    databases: WorkerDatabases, providers: ProviderHost
) -> None:
    async with world(databases.urls.service, providers.script()) as talktime, browser(talktime) as client:
        await sign_in(client, key=ADMIN_KEY)
        token = client.cookies[COOKIE]
    made = world(databases.urls.service, providers.script(), bootstrap_admin_key="another-admin-key-0123")
    async with made as talktime, browser(talktime) as client:
        client.cookies.set(COOKIE, token)
        assert not await is_in(client)


async def test_a_read_only_admin_may_look(talktime: World) -> None:
    name = await make_admin(talktime, Role.READ_ONLY)
    async with browser(talktime) as client:
        await sign_in(client, name=name, password=PASSWORD)
        assert "read-only" in (await client.get("/admin")).text


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
async def test_no_other_site_signs_anybody_in(talktime: World, headers: dict[str, str]) -> None:
    async with browser(talktime) as client:
        del client.headers["Sec-Fetch-Site"]
        response = await client.post("/admin/sign-in", data={"key": ADMIN_KEY}, headers=headers)
        assert response.status_code == 403
        assert not await is_in(client)


async def test_a_form_of_nobodys_does_nothing(talktime: World) -> None:
    async with browser(talktime) as client:
        await sign_in(client, key=ADMIN_KEY)
        for token in ("", "0" * 64):
            response = await client.post("/admin/sign-out", data={"csrf": token})
            assert response.status_code == 403
        assert await is_in(client)


@pytest.mark.parametrize(
    ("asked", "led"),
    [
        ("/admin/users?q=a", "/admin/users?q=a"),
        ("//evil.example", "/admin"),
        ("https://evil.example", "/admin"),
        ("/admin//evil.example", "/admin"),
        ("/admin/../v1", "/admin"),
        ("/administrator", "/admin"),
        ("/admin\\evil", "/admin"),
        ("/admin/\nSet-Cookie: a=b", "/admin"),
        ("/admin/sign-in", "/admin"),
    ],
)
async def test_a_sign_in_leads_nowhere_else(talktime: World, asked: str, led: str) -> None:
    async with browser(talktime) as client:
        response = await sign_in(client, key=ADMIN_KEY, next=asked)
        assert response.headers["location"] == led


async def test_wrong_passwords_are_counted_by_name(talktime: World, providers: ProviderHost) -> None:
    name = await make_admin(talktime)
    async with browser(talktime) as client:
        for _ in range(10):
            assert (await sign_in(client, name=name, password=WRONG)).status_code == 401
        response = await sign_in(client, name=name, password=PASSWORD)
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
        talktime.clock.advance(7)
        assert (await sign_in(client, name=name, password=PASSWORD)).status_code == 303


async def test_pages_have_their_headers_and_errors_are_pages(talktime: World) -> None:
    async with browser(talktime) as client:
        await sign_in(client, key=ADMIN_KEY)
        page = await client.get("/admin")
        lost = await client.get("/admin/nothing-here")
        asset = await client.get(re.findall(r'src="(/assets/[^"]+\.js)"', page.text)[0])
        gone = await client.get("/assets/0000000000000000/talktime.js")
        other = await client.request("DELETE", "/admin")
    assert lost.status_code == 404
    assert "There is nothing here" in lost.text
    assert other.status_code == 405
    for response in (page, lost, other):
        policy = response.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "frame-ancestors 'none'" in policy
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert not re.search(r"<script(?! src=)|<style|\sstyle=|\son[a-z]+=", response.text)
    assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert gone.status_code == 404


async def test_an_admin_account_is_refused_with_a_short_password(talktime: World) -> None:
    for bad in ("", "eleven-char", "x" * 257, "with\x00nul-inside"):
        with pytest.raises(Exception, match="does not have the form"):
            validate(NewAdminDocument, {"name": "a", "password": bad})
