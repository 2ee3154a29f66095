"""No secret shows up where it does not belong: in a log at any level, in an error answer, in the database.

A real ``talktime serve`` with every logger turned up takes calls of every kind, right and wrong, while provider and
database fail. Then everything that it wrote is searched for the secrets that took part, in every form that they could
have there. What must not be found includes what callers themselves put where it does not belong.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import jwt
import psycopg
import pytest
from psycopg import sql

from app.db.embedded import DatabaseUrls, EmbeddedPostgres
from tests.e2e.test_serve import environment, free_port, ready, renewed, server_of, wait_until
from tests.support.postgres import tell
from tests.support.scripted_provider import ScriptedProvider, provider_host

LOG = "everything.log"
REFERENCE = "reference"
ISSUER = "https://issuer.example"


def sentinel(name: str) -> str:
    return f"SENTINEL-{name}-{uuid4().hex}"


@dataclass
class Secrets:
    """What must not be found, by name. Each is known by its text, or for tokens also by the part that proves them."""

    known: dict[str, str] = field(default_factory=dict)

    def new(self, name: str) -> str:
        return self.add(name, sentinel(name.replace(" ", "-")))

    def add(self, name: str, secret: str) -> str:
        self.known[name] = secret
        return secret

    def add_token(self, name: str, token: str) -> str:
        self.known[f"{name}, its signature"] = token.rpartition(".")[2]
        return self.add(name, token)


def forms(secret: str) -> set[bytes]:
    """The secret as it is, and as it would look in an address, in hexadecimal digits and in base64."""
    raw = secret.encode()
    told = base64.b64encode(raw).rstrip(b"=")
    return {raw, quote(secret, safe="").encode(), raw.hex().encode(), told[: len(told) // 4 * 4]}


def found(secrets: Secrets, text: bytes) -> list[str]:
    """The names of the secrets that are in the text."""
    return [name for name, secret in secrets.known.items() if any(form in text for form in forms(secret))]


def lines_with(secrets: Secrets, log: bytes) -> list[str]:
    """The lines of the log that tell a secret, cut short, behind its name."""
    names = found(secrets, log)
    few = Secrets({name: secrets.known[name] for name in names})
    return [f"{name}: {line[:300]!r}" for line in log.splitlines() for name in found(few, line)] if names else []


# The service


@dataclass
class Server:
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    secrets: Secrets
    errors: list[tuple[str, bytes]] = field(default_factory=list)
    """What was asked, and the whole answer, of each call that was refused or broke."""
    seen: set[int] = field(default_factory=set)

    def call(self, method: str, path: str, key: str | None, document: Any = None, **given: Any) -> httpx.Response:
        headers = dict(given.pop("headers", {}))
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        if document is not None:
            given["content"] = json.dumps(document).encode()
        url = path if path.startswith("http") else self.url + path
        answer = httpx.request(method, url, headers=headers, trust_env=False, timeout=30, **given)
        self.seen.add(answer.status_code)
        if answer.status_code >= 400:
            told = b"".join(b"%b: %b\n" % header for header in answer.headers.raw) + answer.content
            self.errors.append((f"{method} {path} {answer.status_code}", told))
        return answer

    def raw(self, request: bytes) -> None:
        """Send bytes that are no proper request."""
        with socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2])), timeout=20) as connection:
            connection.sendall(request)
            told = b""
            while piece := connection.recv(65536):
                told += piece
        self.errors.append((f"raw {request[:20]!r}", told))


@contextmanager
def loud_server(data_dir: Path, secrets: Secrets, settings: dict[str, str]) -> Iterator[Server]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = data_dir / LOG
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-m", "tests.e2e.at_every_level", "serve", "--port", str(port)],
            env=environment(data_dir, **settings, TALKTIME_PUBLIC_URL=url) | {"PLANTED": planted(secrets)},
            stdout=out,
            stderr=out,
        )
        try:
            wait_until(lambda: process.poll() is not None or ready(url))
            assert process.poll() is None, log.read_text()[-3000:]
            yield Server(url, process, log, secrets)
        finally:
            process.kill()
            process.wait()


def planted(secrets: Secrets) -> str:
    return secrets.known.get("planted") or secrets.new("planted")


# What it stores


def dumped(urls: DatabaseUrls) -> dict[str, bytes]:
    """What each column of each table holds, those of the system's catalogue too; bytes as they are, and unpacked."""
    columns: dict[str, list[bytes]] = {}
    with psycopg.connect(urls.superuser.replace("/postgres?", "/talktime?"), autocommit=True) as connection:
        tables = connection.execute(
            "select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            "where c.relkind in ('r', 'm') and n.nspname <> 'pg_toast'"
        ).fetchall()
        assert {"api_keys", "idempotency", "audit_log", "sessions"} <= {name for _, name in tables}
        for schema, table in tables:
            rows = connection.execute(sql.SQL("select * from {}").format(sql.Identifier(schema, table)))
            names = [column.name for column in rows.description or ()]
            for row in rows:
                for name, value in zip(names, row, strict=True):
                    columns.setdefault(f"{table}.{name}", []).extend(_parts(value))
    return {name: b"\n".join(values) for name, values in columns.items()}


def _parts(value: object) -> Iterator[bytes]:
    if isinstance(value, bytes | memoryview):
        raw = bytes(value)
        yield raw
        with suppress(zlib.error):
            yield zlib.decompress(raw)
    else:
        yield json.dumps(value, default=str, ensure_ascii=False).encode()


def files_of(data_dir: Path) -> Iterator[Path]:
    """Every file of the database: tables, what was rolled back, the write-ahead log, its own log."""
    for path in sorted(data_dir.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.name != LOG:
            yield path


# What happens


def misplaced(secrets: Secrets) -> dict[str, str]:
    """Secrets that callers put where they do not belong."""
    places = ("query", "path", "value", "json", "scheme", "basic", "cookie", "other header", "request line",
              "header line", "idempotency header", "user part", "webhook path", "heartbeat", "content type",
              "origin", "request id", "broken address", "wrong key")  # fmt: skip
    return {place: secrets.new(f"misplaced {place}") for place in places}


def user_token(secret: str, user: str, expires: float, name: str, secrets: Secrets, **claims: Any) -> str:
    document = {"iss": ISSUER, "sub": user, "exp": int(expires), **claims}
    return secrets.add_token(name, jwt.encode(document, secret, "HS256"))


def keys_and_tokens(server: Server, bootstrap: str) -> tuple[str, str]:
    """Make, use, repeat, revoke; answers a key and a user's token."""
    secrets = server.secrets
    idem = {"Idempotency-Key": secrets.new("key of making a key")}
    asked = {"name": "backend", "scopes": ["read", "sessions:write", "credits:write"]}
    made = server.call("POST", "/v1/api-keys", bootstrap, asked, headers=idem).json()
    key = secrets.add("API key", made["secret"])
    again = server.call("POST", "/v1/api-keys", bootstrap, asked, headers=idem)
    assert again.json()["secret"] == key
    assert server.call("POST", "/v1/api-keys", bootstrap, {**asked, "name": "x"}, headers=idem).status_code == 422
    for secret, status in ((key, 200), (key[:-1] + ("0" if key[-1] != "0" else "1"), 401)):
        assert server.call("GET", "/v1/sessions", secret).status_code == status
    assert server.call("GET", "/v1/api-keys", key).status_code == 403
    short = server.call("POST", "/v1/api-keys", bootstrap, {**asked, "scopes": ["read"]}).json()
    revoked = secrets.add("revoked API key", short["secret"])
    assert server.call("DELETE", f"/v1/api-keys/{short['id']}", bootstrap).status_code == 200
    assert server.call("GET", "/v1/sessions", revoked).status_code == 401
    assert server.call("DELETE", f"/v1/api-keys/{revoked}", bootstrap).status_code == 404
    idem = {"Idempotency-Key": secrets.new("key of issuing a token")}
    token = server.call("POST", "/v1/users/ada/tokens", key, {"ttl_s": 600}, headers=idem).json()["token"]
    secrets.add_token("user token", token)
    return key, token


def tokens_right_and_wrong(server: Server, key: str, token: str, shared: str) -> None:
    secrets = server.secrets
    theirs = user_token(shared, "ada", time.time() + 600, "issuer's token", secrets)
    wrong = {
        "expired": user_token(shared, "ada", time.time() - 600, "expired token", secrets),
        "of another issuer": user_token(shared, "ada", time.time() + 600, "foreign token", secrets, iss="x"),
        "wrongly signed": user_token(shared + "x", "ada", time.time() + 600, "forged token", secrets),
        "unsigned": secrets.add("unsigned token", jwt.encode({"sub": secrets.new("claim")}, "", "none")),
        "broken": secrets.add("broken token", token[:-4] + "\u007e.." + sentinel("x")),
    }
    for good in (token, theirs):
        assert server.call("GET", "/v1/users/ada/balance", good).status_code == 200
        assert server.call("GET", "/v1/users/bob/balance", good).status_code == 403
        assert server.call("POST", "/v1/users/ada/grants", good, {"amount": "1"}).status_code == 403
    for why, bad in wrong.items():
        assert server.call("GET", "/v1/users/ada/balance", bad).status_code == 401, why
    assert server.call("GET", "/v1/users/ada/balance", key).status_code == 200


def sessions(server: Server, provider: ScriptedProvider, key: str, token: str) -> dict[str, Any]:
    """Start in every way, beat, pull, end; answers the session that goes on, with its webhook."""
    secrets = server.secrets
    connect = secrets.new("connection token")
    gabber_id = f"gab_{uuid4().hex}"
    provider.start_body = {
        "session": {"id": gabber_id},
        "persona": "tutor",
        "scenario": "talk",
        "connection_details": {"url": "wss://rtc.example", "token": connect},
    }
    idem = {"Idempotency-Key": secrets.new("key of a start")}
    asked = {"user_id": "ada", "persona": "tutor", "scenario": "talk", "time_limit_s": 60}
    started = server.call("POST", "/v1/sessions", key, asked, headers=idem)
    assert started.json()["connection_details"]["token"] == connect
    assert server.call("POST", "/v1/sessions", key, asked, headers=idem).json()["connection_details"] is not None
    provider.start_body["session"]["id"] = f"gab_{uuid4().hex}"
    own = server.call("POST", "/api/start_session", token, {"persona": "tutor", "scenario": "talk", "time_limit_s": 60})
    assert own.json()["token"] == connect
    adopted = server.call("POST", "/v1/sessions", key, {**asked, "start": False}).json()
    secrets.add("webhook of an adopted session", adopted["webhook"].rpartition("/")[2])
    for n, start in enumerate(provider.starts):
        secrets.add(f"webhook {n}", start["webhook"].rpartition("/")[2])
    webhook = provider.starts[0]["webhook"]
    provider.say(gabber_id, ("agent", 3), ("silence", 2))
    for document, status in (
        ({"session_id": gabber_id}, 204),
        ({"session_id": gabber_id, "extra": 1}, 204),
        ({"session_id": "gab_other"}, 409),
        ({"session_id": 7}, 422),
        ([], 422),
        ({"session_id": gabber_id, "x": "y" * 20_000}, 413),
    ):
        assert server.call("POST", webhook, None, document).status_code == status
    assert server.call("GET", webhook, None).status_code == 404
    assert server.call("POST", webhook[:-1], None, {"session_id": gabber_id}).status_code == 404
    session: dict[str, Any] = started.json()["session"]
    where = f"/v1/sessions/{session['id']}"
    pull(server, where, key, 200)
    assert server.call("GET", f"{where}/charge", key).status_code == 200
    return session | {"webhook": webhook, "provider_session_id": gabber_id}


def pull(server: Server, where: str, key: str, status: int) -> None:
    """Pull until that is answered: another pull may be under way, and have been asked for before."""
    wait_until(lambda: server.call("POST", f"{where}/reconcile", key).status_code == status)


def the_provider_fails(server: Server, provider: ScriptedProvider, key: str, session: dict[str, Any]) -> None:
    """Refusals that repeat our key and the webhook, answers that break, pulls that fail, ends that are refused."""
    asked = {"user_id": "ada", "persona": "tutor", "scenario": "talk", "time_limit_s": 30}
    for status in (400, 401, 403, 500):
        provider.start_status = status
        provider.start_body = None

        async def repeat(body: dict[str, Any], status: int = status) -> None:
            told = f"the key {provider.api_key} may not use {body['webhook']}"
            provider.start_body = {"type": "project_disabled", "message": told, "status": status}

        provider.before_start = repeat
        idem = {"Idempotency-Key": server.secrets.new(f"key of a refused start {status}")}
        answer = server.call("POST", "/v1/sessions", key, asked, headers=idem)
        assert answer.status_code == (502 if status < 500 else 504)
        server.secrets.add(f"webhook refused {status}", provider.starts[-1]["webhook"].rpartition("/")[2])
        assert server.call("POST", "/v1/sessions", key, asked, headers=idem).status_code == answer.status_code
    provider.retry_after = server.secrets.new("provider's header")
    provider.before_start, provider.start_status, provider.start_body = None, 200, {"session": provider.api_key}
    assert server.call("POST", "/v1/sessions", key, asked).status_code == 504
    server.secrets.add("webhook unconfirmed", provider.starts[-1]["webhook"].rpartition("/")[2])
    where = f"/v1/sessions/{session['id']}"
    provider.timeline_body = f'{{"values": [{{"type": "{provider.api_key}"'
    pull(server, where, key, 502)
    provider.timeline_body, provider.timeline_status = None, 401
    pull(server, where, key, 502)
    provider.timeline_status = 200
    provider.end_status = 400
    provider.end_body = {"type": "invalid_input", "message": f"{provider.api_key} {session['webhook']}"}
    assert server.call("POST", f"{where}/end", key).status_code == 502
    provider.end_status = 200


def callers_err(server: Server, key: str, stray: dict[str, str], bootstrap: str) -> None:
    """Secrets in addresses, bodies, headers and broken requests."""
    call = server.call
    for address in (
        f"/v1/sessions?key={stray['query']}", f"/v1/sessions?user_id={key}&user_id={stray['query']}",
        f"/v1/sessions?cursor={stray['query']}", f"/v1/sessions?limit={stray['query']}",
        f"/v1/users?min_available={stray['query']}&sort={stray['query']}", f"/v1/sessions?state={stray['query']}",
        f"/v1/audit-log?after={stray['query']}", f"/v1/{stray['path']}", f"/{stray['path']}/{bootstrap}",
        f"/v1/sessions/{stray['path']}", f"/v1/rate-cards/{stray['path']}", f"/v1/users/{stray['path']}/balance",
        f"/v1/sessions/{stray['broken address']}%zz", f"/docs/{stray['path']}", f"/readyz/{key}",
    ):  # fmt: skip
        for credentials in (bootstrap, None):
            assert call("GET", address, credentials).status_code in {401, 403, 404, 422, 429}, address
    secret = stray["value"]
    for path, document in (
        ("/v1/users/ada/grants", {"amount": secret}),
        ("/v1/users/ada/grants", {"amount": "1", "kind": secret, "priority": secret, "expires_at": secret}),
        ("/v1/users/ada/grants", {"amount": "1", "unknown": secret}),
        ("/v1/users/ada/grants", secret),
        ("/v1/users/ada/tokens", {"ttl_s": secret}),
        ("/v1/api-keys", {"name": "x", "scopes": [secret]}),
        ("/v1/api-keys", {"name": f"{secret}\u0000", "scopes": ["read"]}),
        ("/v1/sessions", {"user_id": "ada", "persona": [secret], "scenario": "talk"}),
        ("/v1/sessions", {"user_id": "ada", "persona": "x", "scenario": "talk", "rate_card": secret}),
        ("/v1/charges/preview", {"rate_card": {"name": secret}, "values": [{"type": secret}]}),
        ("/v1/rate-cards", {"name": "x", "unit": secret}),
    ):
        assert call("POST", path, bootstrap, document).status_code == 422, path
    for body in (
        b'{"amount": "%b' % stray["json"].encode(),
        stray["json"].encode(),
        b'"\xff%b"' % stray["json"].encode(),
    ):
        assert call("POST", "/v1/users/ada/grants", bootstrap, content=body).status_code == 422
    kind = {"Content-Type": f"text/{stray['content type']}"}
    assert call("POST", "/v1/users/ada/grants", bootstrap, {"amount": "1"}, headers=kind).status_code == 415
    bad_key = {"Idempotency-Key": stray["idempotency header"] * 20}
    assert call("POST", "/v1/users/ada/grants", bootstrap, {"amount": "1"}, headers=bad_key).status_code == 422
    basic = base64.b64encode(f"user:{stray['basic']}".encode()).decode()
    server.secrets.add("basic credentials", basic)
    for credentials in (
        f"Basic {basic}",
        f"Token {stray['scheme']}",
        stray["scheme"],
        f"Bearer {stray['scheme']}",
        f"Bearer {stray['wrong key']} {key}",
        f"Bearer ttk_{stray['wrong key']}",
        "Bearer",
    ):
        assert call("GET", "/v1/sessions", None, headers={"Authorization": credentials}).status_code in {401, 429}
    others = {"x-api-key": stray["other header"], "Cookie": f"session={stray['cookie']}", "Origin": stray["origin"],
              "X-Request-Id": stray["request id"], "Idempotency-Key": stray["idempotency header"]}  # fmt: skip
    for method, path, credentials, statuses in (
        ("PATCH", "/v1/sessions", None, {401, 429}), ("PATCH", "/v1/sessions", bootstrap, {405}),
        ("PATCH", "/healthz", None, {405}),
    ):  # fmt: skip
        assert call(method, path, credentials, headers=others).status_code in statuses
    assert call("POST", f"/webhooks/gabber/{stray['webhook path']}", None, {}).status_code == 404
    assert call("POST", f"/webhooks/gabber/{stray['webhook path']}/x?y={stray['query']}", None, {}).status_code == 404
    assert call("POST", f"/Webhooks/gabber/{stray['webhook path']}", None, {}).status_code == 404
    host = server.url.removeprefix("http://")
    line, header = stray["request line"].encode(), stray["header line"].encode()
    server.raw(b"GET /%b NONSENSE/9\r\n\r\n" % line)
    server.raw(b"%b /v1/sessions HTTP/1.1\r\nHost: %b\r\n\r\n" % (line, host.encode()))
    server.raw(b"GET /v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization Bearer %b\r\n\r\n" % header)
    server.raw(b"GET /v1/sessions?x=%b HTTP/1.1\r\nHost: x\r\n\r\n" % (line * 200))
    server.raw(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: %b\r\n\r\n" % header)
    server.raw(
        b"POST /webhooks/gabber/%b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz%b\r\n" % (line, header)
    )
    server.raw(b"GET http://u:%b@%b/v1/sessions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
               % (stray["user part"].encode(), host.encode()))  # fmt: skip


def the_database_refuses(server: Server, urls: DatabaseUrls, key: str, stray: dict[str, str], webhook: str) -> None:
    """A missing right, and a row that a constraint refuses and PostgreSQL repeats whole."""
    row = server.secrets.new(REFERENCE)  # short: of each value of a refused row PostgreSQL repeats 64 bytes
    idem = {"Idempotency-Key": server.secrets.new("key of a broken request")}
    tell(urls.owner, "alter table grants add constraint never check (reference is null) not valid")
    broken = server.call("POST", "/v1/users/ada/grants", key, {"amount": "1", "reference": row}, headers=idem)
    assert broken.status_code == 500
    tell(urls.owner, "alter table grants drop constraint never")
    tell(urls.owner, "revoke select on idempotency, grants from talktime_service")
    for path, document in (("/v1/users/ada/grants", {"amount": "1"}), ("/v1/sessions", {
        "user_id": "ada", "persona": "tutor", "scenario": stray["value"]})):  # fmt: skip
        assert server.call("POST", path, key, document, headers=idem).status_code == 503
    tell(urls.owner, "grant select on idempotency, grants to talktime_service")
    tell(urls.owner, "revoke select on api_keys from talktime_service")
    assert server.call("GET", "/v1/sessions", key).status_code == 503
    tell(urls.owner, "grant select on api_keys to talktime_service")
    tell(urls.owner, "alter table ticks rename to ticks_away")
    assert server.call("POST", webhook, None, {"session_id": stray["heartbeat"]}).status_code == 409
    tell(urls.owner, "alter table ticks_away rename to ticks")


def the_database_dies(server: Server, data_dir: Path, key: str, session: dict[str, Any]) -> None:
    killed = server_of(data_dir)
    os.kill(killed, signal.SIGKILL)
    idem = {"Idempotency-Key": server.secrets.new("key of a request without a database")}
    for _ in range(3):
        server.call("GET", "/v1/sessions", key)
        server.call("POST", "/v1/users/ada/grants", key, {"amount": "1"}, headers=idem)
        server.call("POST", session["webhook"], None, {"session_id": session["provider_session_id"]})
    wait_until(partial(renewed, server.url, data_dir, killed))
    assert server.call("GET", "/v1/sessions", key).status_code == 200


@pytest.mark.parametrize("style", ["json", "text"])
def test_no_secret_is_told_or_stored_whatever_happens(data_dir: Path, style: str) -> None:
    secrets = Secrets()
    bootstrap, shared = secrets.new("bootstrap key"), secrets.new("issuer's shared secret")
    with provider_host() as host:
        provider = host.script()
        provider.api_key = secrets.new("provider key")
        host.scripts[provider.api_key] = provider
        settings = {
            "TALKTIME_SECRET": f"{secrets.new('secret')},{secrets.new('old secret')}",
            "TALKTIME_LEDGER_KEYS": f"{secrets.new('ledger key')},{secrets.new('old ledger key')}",
            "TALKTIME_BOOTSTRAP_ADMIN_KEY": bootstrap,
            "TALKTIME_GABBER_BASE_URL": provider.url,
            "TALKTIME_GABBER_API_KEY": provider.api_key,
            "TALKTIME_GABBER_CAPABILITIES": "end",
            "TALKTIME_USER_TOKEN_ISSUER": ISSUER,
            "TALKTIME_USER_TOKEN_SECRET": shared,
            "TALKTIME_RECONCILE_INTERVAL_S": "0.5",
            "TALKTIME_PROVIDER_TIMEOUT_S": "2",
            "TALKTIME_FAILED_AUTH_MAX_RPM": "15",
            "TALKTIME_LOG_FORMAT": style,
        }
        stray = misplaced(secrets)
        with loud_server(data_dir, secrets, settings) as server:
            assert server.call("POST", "/v1/users/ada/grants", bootstrap, {"amount": "1000"}).status_code == 201
            key, token = keys_and_tokens(server, bootstrap)
            tokens_right_and_wrong(server, key, token, shared)
            session = sessions(server, provider, key, token)
            the_provider_fails(server, provider, key, session)
            callers_err(server, key, stray, bootstrap)
            embedded = EmbeddedPostgres(data_dir)
            urls = embedded.start_or_share()
            try:
                the_database_refuses(server, urls, key, stray, session["webhook"])
                the_database_dies(server, data_dir, key, session)
                stored = dumped(urls)
            finally:
                embedded.stop()
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(timeout=60)
            log = server.log.read_bytes()
        kept = {str(path.relative_to(data_dir)): path.read_bytes() for path in files_of(data_dir)}
    # The search can fail: what was planted is found, and the log told everything that there was.
    assert len(lines_with(Secrets({"planted": secrets.known["planted"]}), log)) == 2
    assert all(what in log for what in (b"SELECT", b"Executing <", b"Traceback", b"sqlalchemy.engine", b"asyncio"))
    assert {401, 403, 404, 405, 409, 413, 415, 422, 429, 500, 502, 503, 504} <= server.seen
    assert any("postgres.log" in name for name in kept)
    del secrets.known["planted"]

    assert [f"{asked}: {name}" for asked, answer in server.errors for name in found(secrets, answer)] == []
    assert lines_with(secrets, log) == []
    assert [f"{column}: {name}" for column, values in stored.items() for name in found(secrets, values)] == []
    # Rows that were rolled back stay in the files for a while, and with them what a caller put into a document.
    lasting = Secrets({name: secret for name, secret in secrets.known.items() if name != REFERENCE})
    for name, content in kept.items():
        assert found(secrets if name.endswith(".log") else lasting, content) == [], name
