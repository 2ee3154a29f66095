"""What is missing or broken opens nothing: row by row of the table in docs/configuration.md."""

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
import psycopg
import pytest
from sqlalchemy import make_url
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.access.issuer import Issuer, IssuerTerms
from app.core.units import US_PER_S, Micros
from app.db.embedded import DatabaseUrls
from tests.e2e.test_serve import free_port
from tests.support.postgres import WorkerDatabases, tell
from tests.support.problems import problem
from tests.support.scripted_provider import ProviderHost
from tests.support.world import World, world

pytestmark = pytest.mark.anyio

ROOT: Final = Path(__file__).resolve().parents[2]
OPEN: Final = {"/healthz", "/openapi.json", "/docs"}
PASSWORD: Final = "sentinel-password-of-the-database"
ISSUER: Final = "https://issuer.example"

# When serve starts


def serve(tmp_path: Path, **settings: str | None) -> str:
    """What ``talktime serve`` says when it refuses to start with these settings; null takes one away."""
    values: dict[str, str | None] = {
        "TALKTIME_SECRET": "test-secret-0123456789",
        "TALKTIME_LEDGER_KEYS": "test-ledger-key-0123456789",
        "TALKTIME_GABBER_API_KEY": "test-provider-key",
        "TALKTIME_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TALKTIME_")}
    given = {name: value for name, value in (values | settings).items() if value is not None}
    told = subprocess.run(
        [sys.executable, "-m", "app.cli", "serve", "--port", str(free_port())],
        env=clean | given | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.returncode == 2, told.stderr
    assert "Traceback" not in told.stderr
    assert not any(value in told.stderr for name, value in given.items() if name.endswith(("SECRET", "KEY", "KEYS")))
    assert PASSWORD not in told.stderr
    return told.stderr


AT_START: dict[str, tuple[dict[str, str | None], str]] = {
    "`TALKTIME_SECRET` is not set, or only commas": ({"TALKTIME_SECRET": " , ,"}, "TALKTIME_SECRET"),
    "`TALKTIME_SECRET` is too short": ({"TALKTIME_SECRET": "long-enough-0123456789,short"}, "TALKTIME_SECRET: each"),
    "`TALKTIME_GABBER_API_KEY` is not set": ({"TALKTIME_GABBER_API_KEY": None}, "TALKTIME_GABBER_API_KEY"),
    "`TALKTIME_LEDGER_KEYS` is not set, with a database of your own": (
        {"TALKTIME_LEDGER_KEYS": None},
        "TALKTIME_LEDGER_KEYS",
    ),
    "the database is down when `serve` starts": (
        {"TALKTIME_DATABASE_URL": f"postgresql://someone:{PASSWORD}@127.0.0.1:1/nothing"},
        "the database cannot be reached",
    ),
}


@pytest.mark.parametrize("row", AT_START)
def test_serve_refuses_to_start(tmp_path: Path, row: str) -> None:
    settings, told = AT_START[row]
    assert told in serve(tmp_path, **settings)
    if row.startswith("`TALKTIME_SECRET` is not set"):
        assert told in serve(tmp_path, TALKTIME_SECRET=None)


def a_key_that_is_no_header(urls: DatabaseUrls) -> tuple[dict[str, str | None], str]:
    return {"TALKTIME_GABBER_API_KEY": "schlüssel-0123456789"}, "TALKTIME_GABBER_API_KEY: the provider key must be"


def another_version(urls: DatabaseUrls) -> tuple[dict[str, str | None], str]:
    tell(urls.owner, "update alembic_version set version_num = '0001'")
    return {}, "the database's schema is at version 0001, "


def a_closed_schema(urls: DatabaseUrls) -> tuple[dict[str, str | None], str]:
    tell(urls.owner, "revoke select on alembic_version from talktime_service")
    return {}, "the database's schema cannot be read"


AT_START_WITH_DATABASE: dict[str, Callable[[DatabaseUrls], tuple[dict[str, str | None], str]]] = {
    "`TALKTIME_GABBER_API_KEY` cannot stand in a header": a_key_that_is_no_header,
    "the schema is of another version when `serve` starts": another_version,
    "the service's role may not read the schema when `serve` starts": a_closed_schema,
}


@pytest.mark.parametrize("row", AT_START_WITH_DATABASE)
def test_serve_refuses_to_start_on_that_database(databases: WorkerDatabases, tmp_path: Path, row: str) -> None:
    with databases.fresh() as urls:
        settings, told = AT_START_WITH_DATABASE[row](urls)
        assert told in serve(tmp_path, TALKTIME_DATABASE_URL=urls.service, **settings)


# While it runs


async def made_key(talktime: World) -> str:
    asked = {"name": "backend", "scopes": ["admin"]}
    response = await talktime.client.post("/v1/api-keys", json=asked)
    assert response.status_code == 201, response.text
    return str(response.json()["secret"])


async def calls(talktime: World) -> list[tuple[str, str, Any]]:
    """Method, address and an example's body of every closed operation, heartbeats aside."""
    user = talktime.user()
    grant = await talktime.grant(user, "100")
    session = await talktime.start(user, time_limit_s=30)
    ids = {
        "user_id": user,
        "grant_id": grant["id"],
        "session_id": session["id"],
        "card_id": "default",
        "key_id": "key_" + "0" * 26,
        "sha256": "0" * 64,
        "simulation_id": "sim_" + "0" * 26,
        "endpoint_id": "ep_" + "0" * 26,
        "event_id": "evt_" + "0" * 52,
        "payment_id": "pay_" + "0" * 26,
        "recurring_id": "rec_" + "0" * 52,
    }
    found = []
    for path, methods in talktime.service.api_document["paths"].items():
        for method, operation in methods.items():
            if not path.startswith("/webhooks/") and path not in OPEN | {"/readyz"}:
                content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
                found.append((method.upper(), path.format(**ids), content.get("example")))
    assert len(found) > 30
    return found


async def faults(talktime: World, status: int) -> str:
    response = await talktime.client.get("/readyz")
    told = [
        fault for fault in response.json()["faults"] if " is off: " not in fault
    ]  # the tests' server is not durable
    assert bool(told) == (status == 503)
    for path in OPEN:
        assert (await talktime.client.get(path)).status_code == 200, path
    return " ".join(told)


def bearer(credentials: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credentials}"}


@contextmanager
def away(urls: DatabaseUrls) -> Iterator[None]:
    """No connection to the database is to be had."""
    name = make_url(urls.service).database
    with psycopg.connect(urls.superuser, autocommit=True) as superuser:
        superuser.execute(f'alter database "{name}" allow_connections false')
        superuser.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
        try:
            yield
        finally:
            superuser.execute(f'alter database "{name}" allow_connections true')


async def no_key_at_all(talktime: World, urls: DatabaseUrls) -> None:
    every = await calls(talktime)
    talktime.service._authentication._admin_hash = None
    for method, path, body in every:
        assert (await talktime.client.request(method, path, json=body)).status_code == 401, path
    assert await faults(talktime, 200) == ""


NEED_NO_DATABASE = {"/v1/charges/preview", "/v1/rate-cards/templates"}
"""What the key in the settings may ask for then: it reads nothing of anybody's."""


async def the_database_goes_away(talktime: World, urls: DatabaseUrls) -> None:
    every, key = await calls(talktime), await made_key(talktime)
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await talktime.start(user, time_limit_s=30)
    token = talktime.service.user_tokens.issue(user, Micros(600 * US_PER_S), talktime.clock.now())[0]
    asked = {"user_id": user, "persona": "tutor", "scenario": "talk", "time_limit_s": 30}
    with away(urls):
        started, ended = len(talktime.provider.starts), len(talktime.provider.ends)
        for method, path, body in every:
            response = await talktime.client.request(method, path, json=body, headers=bearer(key))
            problem(response, 503, "unavailable")
            response = await talktime.client.request(method, path, json=body)
            assert response.status_code >= 400 or path in NEED_NO_DATABASE, path
        problem(await talktime.client.post("/v1/sessions", json=asked), 503, "unavailable")
        own = {"persona": "tutor", "scenario": "talk"}
        response = await talktime.client.post("/api/start_session", json=own, headers=bearer(token))
        problem(response, 503, "unavailable")
        problem(await talktime.heartbeat(session), 503, "unavailable")
        guess = await talktime.client.post("/webhooks/gabber/guess", json={"session_id": "x"})
        assert (guess.status_code, guess.content) == (404, b"")
        assert "cannot be reached" in await faults(talktime, 503)
        assert (len(talktime.provider.starts), len(talktime.provider.ends)) == (started, ended)
    assert (await talktime.client.post("/v1/sessions", json=asked)).status_code == 201
    assert await faults(talktime, 200) == ""


async def the_schema_changes(talktime: World, urls: DatabaseUrls) -> None:
    tell(urls.owner, "update alembic_version set version_num = '0001'; alter table sessions rename to others")
    user = talktime.user()
    asked = {"user_id": user, "persona": "tutor", "scenario": "talk"}
    started = len(talktime.provider.starts)
    await talktime.grant(user, "100")
    problem(await talktime.client.post("/v1/sessions", json=asked), 503, "unavailable")
    assert len(talktime.provider.starts) == started
    told = await faults(talktime, 503)
    assert "schema version 0001" in told
    assert "1 tables are missing" in told
    tell(urls.owner, "alter table others rename to sessions")


async def keys_cannot_be_read(talktime: World, urls: DatabaseUrls) -> None:
    every, key = await calls(talktime), await made_key(talktime)
    tell(urls.owner, "revoke select on api_keys from talktime_service")
    for method, path, body in every:
        response = await talktime.client.request(method, path, json=body, headers=bearer(key))
        problem(response, 503, "unavailable")
    assert (await talktime.client.get("/v1/sessions")).status_code == 200
    assert "1 tables are missing or closed to the service's role" in await faults(talktime, 503)
    tell(urls.owner, "revoke select on alembic_version from talktime_service")
    assert "closed to the service's role" in await faults(talktime, 503)


async def no_start_and_no_hold(talktime: World, provider_status: int | None) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    asked = {"user_id": user, "persona": "tutor", "scenario": "talk"}
    refused = problem(await talktime.client.post("/v1/sessions", json=asked), 502, "provider-refused")
    assert refused["provider_status"] == provider_status
    balance = await talktime.balance(user)
    assert (balance["held"], balance["available"]) == ("0", "100")
    assert await faults(talktime, 200) == ""


async def the_provider_is_down(talktime: World, urls: DatabaseUrls) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await talktime.start(user, time_limit_s=30)
    gabber = talktime.service._gabber
    there, gabber._base_url = gabber._base_url, "http://127.0.0.1:1"
    try:
        await no_start_and_no_hold(talktime, None)
        pulled = await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile")
        problem(pulled, 502, "provider-unavailable")
        assert (await talktime.heartbeat(session)).status_code == 204
    finally:
        gabber._base_url = there


async def the_provider_refuses(talktime: World, urls: DatabaseUrls) -> None:
    talktime.provider.start_status = 401
    await no_start_and_no_hold(talktime, 401)


def issuer_that_answers(status: int, content: bytes, talktime: World) -> None:
    async def keys(_request: Request) -> Response:
        return Response(content, status)

    terms = IssuerTerms(
        issuer=ISSUER,
        audience="us",
        user_claim="sub",
        secret=None,
        jwks_url="https://issuer.example/keys",
        max_ttl=Micros(3600 * US_PER_S),
    )
    transport = httpx.ASGITransport(Starlette(routes=[Route("/keys", keys)]))
    talktime.service._authentication._issuer = Issuer(terms, talktime.clock, transport)


async def refuse_its_tokens(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    claims = {"iss": ISSUER, "aud": "us", "sub": user, "exp": talktime.clock.now() // US_PER_S + 600}
    tokens = [
        jwt.encode(claims, "a-secret-that-nobody-shares-0123456789", "HS256"),
        jwt.encode(claims, "", "none"),
    ]
    for token in tokens:
        answer = await talktime.client.get(f"/v1/users/{user}/balance", headers=bearer(token))
        problem(answer, 503, "unavailable")
    own = talktime.service.user_tokens.issue(user, Micros(600 * US_PER_S), talktime.clock.now())[0]
    assert (await talktime.client.get(f"/v1/users/{user}/balance", headers=bearer(own))).status_code == 200
    assert await faults(talktime, 200) == ""


async def the_issuer_is_silent(talktime: World, urls: DatabaseUrls) -> None:
    issuer_that_answers(500, b"", talktime)
    await refuse_its_tokens(talktime)


async def the_issuer_talks_nonsense(talktime: World, urls: DatabaseUrls) -> None:
    for content in (b"", b"null", b"[]", b'{"keys": 7}', b'{"keys": [{"kty": "oct", "k": ""}]}', b"\xff"):
        issuer_that_answers(200, content, talktime)
        await refuse_its_tokens(talktime)


RUNNING: dict[str, Callable[[World, DatabaseUrls], Awaitable[None]]] = {
    "no key was made and none is set": no_key_at_all,
    "the database goes away": the_database_goes_away,
    "the schema becomes of another version": the_schema_changes,
    "the table of API keys cannot be read": keys_cannot_be_read,
    "the provider is down": the_provider_is_down,
    "the provider refuses our key": the_provider_refuses,
    "the issuer's JWKS URL does not answer": the_issuer_is_silent,
    "the issuer's JWKS URL answers nonsense": the_issuer_talks_nonsense,
}


@pytest.mark.parametrize("row", RUNNING)
async def test_while_it_runs(databases: WorkerDatabases, providers: ProviderHost, row: str) -> None:
    with databases.fresh() as urls:
        async with world(urls.service, providers.script()) as talktime:
            await RUNNING[row](talktime, urls)


def test_the_table_has_these_rows() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    section = text.partition("## When something is missing or broken")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in section.splitlines() if line.startswith("| ")][1:]
    assert sorted(rows) == sorted([*AT_START, *AT_START_WITH_DATABASE, *RUNNING])
