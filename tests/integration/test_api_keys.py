"""API keys and user tokens: what is kept of them, how they end, and whose they are."""

import asyncio
import base64
import hmac
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr

from app.access import issuer as issuers
from app.access.issuer import Issuer, IssuerTerms
from app.access.keys import LENGTH, PREFIX, hash_of
from app.core.units import US_PER_S, Micros
from app.errors import Problem
from app.service import Service
from tests.support.clock import ManualClock
from tests.support.postgres import WorkerDatabases, ask
from tests.support.problems import pointers, problem
from tests.support.scripted_provider import ProviderHost
from tests.support.unchanged import unchanged
from tests.support.world import PUBLIC_URL, World, world

pytestmark = pytest.mark.anyio

SHARED = "a shared secret of at least 32 characters"
ISSUER = "https://login.example"


async def made(talktime: World, **asked: Any) -> dict[str, Any]:
    response = await talktime.client.post("/v1/api-keys", json={"name": "backend", "scopes": ["read"], **asked})
    assert response.status_code == 201, response.text
    return dict(response.json())


async def listed(talktime: World, key_id: str) -> dict[str, Any]:
    """The key as the list shows it, wherever it stands there."""
    cursor = ""
    while True:
        page = await talktime.get("/v1/api-keys?limit=500" + cursor)
        for row in page["data"]:
            if row["id"] == key_id:
                return dict(row)
        cursor = f"&cursor={page['next_cursor']}"


async def ask_with(talktime: World, credentials: str, path: str = "/v1/rate-cards") -> httpx.Response:
    return await talktime.client.get(path, headers={b"Authorization": f"Bearer {credentials}".encode()})


# Keys


async def test_a_key_is_shown_once_and_only_its_hash_is_kept(talktime: World) -> None:
    key = await made(talktime, name="backend of the shop", scopes=["sessions:write", "read"])
    secret = key.pop("secret")
    assert secret.startswith(PREFIX)
    assert len(secret) == LENGTH
    assert key["scopes"] == ["read", "sessions:write"]
    assert (await ask_with(talktime, secret)).status_code == 200
    assert await listed(talktime, key["id"]) == {**key, "last_used_at": None}
    stored = ask(talktime.service.database.conninfo, "select row(k.*)::text, key_hash from api_keys k")
    assert hash_of(secret) in [bytes(key_hash) for _, key_hash in stored]
    assert not any(secret in text or secret.removeprefix(PREFIX) in text for text, _ in stored)


async def test_two_keys_never_have_one_secret(talktime: World) -> None:
    secrets = {(await made(talktime))["secret"] for _ in range(20)}
    assert len(secrets) == 20


@pytest.mark.parametrize(
    ("asked", "at"),
    [
        ({"name": ""}, "/name"),
        ({"name": "x" * 129}, "/name"),
        ({"name": None}, "/name"),
        ({"scopes": []}, "/scopes"),
        ({"scopes": "read"}, "/scopes"),
        ({"scopes": ["write"]}, "/scopes/0"),
        ({"scopes": ["read", "read"]}, ""),
        ({"scopes": ["read", 1]}, "/scopes/1"),
        ({"expires_at": "2026-03-01T12:00:00Z"}, "/expires_at"),
        ({"expires_at": "tomorrow"}, "/expires_at"),
        ({"admin": True}, "/admin"),
    ],
)
async def test_bad_keys_are_refused_and_nothing_is_made(talktime: World, asked: dict[str, Any], at: str) -> None:
    with unchanged(talktime.service.database.conninfo):
        body = {"name": "backend", "scopes": ["read"], **asked}
        assert pointers(await talktime.client.post("/v1/api-keys", json=body)) == [at]


async def test_a_key_ends_at_the_instant_that_it_says(talktime: World) -> None:
    key = await made(talktime, expires_at="2026-03-01T12:00:10.5Z")
    talktime.clock.advance(10.499_999)
    assert (await ask_with(talktime, key["secret"])).status_code == 200
    talktime.clock.advance(0.000_001)
    assert "expired" in problem(await ask_with(talktime, key["secret"]), 401, "unauthorized")["detail"]


async def test_a_revoked_key_is_refused_at_once_by_every_process(talktime: World) -> None:
    key = await made(talktime)
    replica = Service(talktime.settings, talktime.service.database.conninfo, clock=talktime.clock)
    transport = httpx.ASGITransport(app=replica.app)
    headers = {"Authorization": f"Bearer {key['secret']}"}
    try:
        async with httpx.AsyncClient(transport=transport, base_url=PUBLIC_URL, headers=headers) as there:
            assert (await there.get("/v1/rate-cards")).status_code == 200
            talktime.clock.advance(1)
            gone = await talktime.client.delete(f"/v1/api-keys/{key['id']}")
            assert gone.status_code == 200
            assert gone.json()["revoked_at"] is not None
            assert "revoked" in problem(await there.get("/v1/rate-cards"), 401, "unauthorized")["detail"]
            problem(await ask_with(talktime, key["secret"]), 401, "unauthorized")
    finally:
        await replica.database.close()
    talktime.clock.advance(5)
    again = await talktime.client.delete(f"/v1/api-keys/{key['id']}")
    assert again.json() == gone.json()
    assert await actions(talktime, key["id"]) == ["api_key.revoke", "api_key.create"]


async def actions(talktime: World, target: str) -> list[str]:
    return [row["action"] for row in (await talktime.get(f"/v1/audit-log?target={target}"))["data"]]


@pytest.mark.parametrize("key_id", ["key_" + "0" * 26, "key_x", "ttk_" + "0" * 52, "rc_" + "0" * 26, "%00"])
async def test_a_key_that_is_not_there_cannot_be_revoked(talktime: World, key_id: str) -> None:
    with unchanged(talktime.service.database.conninfo):
        response = await talktime.client.delete(f"/v1/api-keys/{key_id}")
        assert response.status_code in {404, 422}


async def test_when_a_key_was_last_used_is_told(talktime: World) -> None:
    key = await made(talktime)
    await ask_with(talktime, key["secret"])
    talktime.clock.advance(86_400 * 2)
    await ask_with(talktime, key["secret"])
    await asyncio.gather(talktime.service._key_use.write(), talktime.service._key_use.write())
    shown = await listed(talktime, key["id"])
    assert shown["last_used_at"] == "2026-03-03T12:00:00.000000Z"
    problem(await ask_with(talktime, key["secret"][:-1]), 401)


async def test_a_secret_is_given_again_for_an_hour_and_then_no_more(talktime: World) -> None:
    async def again(key: str) -> httpx.Response:
        headers = {"Idempotency-Key": key}
        return await talktime.client.post("/v1/api-keys", json={"name": "n", "scopes": ["read"]}, headers=headers)

    idempotency_key = talktime.user()
    first = await again(idempotency_key)
    assert "idempotency-replayed" not in first.headers
    secret = first.json()["secret"]
    dumped = ask(talktime.service.database.conninfo, "select convert_from(body, 'UTF8'), sealed from idempotency")
    assert not any(secret in (body or "") or secret.encode() in bytes(sealed or b"") for body, sealed in dumped)
    second = await again(idempotency_key)
    assert second.headers["idempotency-replayed"] == "true"
    assert second.json() == first.json()
    talktime.clock.advance(3600)
    third = await again(idempotency_key)
    assert third.json() == {**first.json(), "secret": None}
    await talktime.service.purge()
    assert (await again(idempotency_key)).json()["secret"] is None


# User tokens of ours


async def token(talktime: World, user: str, **asked: Any) -> dict[str, Any]:
    response = await talktime.client.post(f"/v1/users/{user}/tokens", json=asked)
    assert response.status_code == 201, response.text
    return dict(response.json())


async def test_a_user_token_reads_its_users_balance_until_it_expires(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "7")
    found = await token(talktime, user, ttl_s=60)
    path = f"/v1/users/{user}/balance"
    assert (await ask_with(talktime, found["token"], path)).json()["available"] == "7"
    assert found["expires_at"] == "2026-03-01T12:01:00.000000Z"
    talktime.clock.advance(59.999_999)
    assert (await ask_with(talktime, found["token"], path)).status_code == 200
    talktime.clock.advance(0.000_001)
    assert "expired" in problem(await ask_with(talktime, found["token"], path), 401)["detail"]


@pytest.mark.parametrize("ttl", [0, 9.999, 86_400.000_001, -1, "60", True, None, 1e400])
async def test_a_token_lasts_from_ten_seconds_to_a_day(talktime: World, ttl: Any) -> None:
    body = json.dumps({"ttl_s": ttl}).replace("Infinity", "1e400")
    with unchanged(talktime.service.database.conninfo):
        response = await talktime.client.post(f"/v1/users/{talktime.user()}/tokens", content=body)
        assert pointers(response) == ["/ttl_s"]


def forged(claims: dict[str, Any], key: Any, algorithm: str = "HS256", **header: Any) -> str:
    return jwt.encode(claims, key, algorithm, headers=header)


async def test_a_token_that_we_did_not_sign_is_refused(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1")
    genuine = (await token(talktime, user))["token"]
    header, claims = jwt.get_unverified_header(genuine), jwt.decode(genuine, options={"verify_signature": False})
    head, body, mac = genuine.split(".")
    none = forged(claims, None, "none", kid=header["kid"])
    texts = [
        forged(claims, "x" * 32, kid=header["kid"]),
        forged(claims, "x" * 32),
        forged(claims, "x" * 64, "HS512", kid=header["kid"]),
        none,
        f"{head}.{body}.",
        f"{head}.{body}.{mac[:-4]}AAAA",
        f"{head}.{body}x.{mac}",
        f"..{mac}",
        "..",
        f"{genuine}.x",
        "x" * 9000,
        genuine + "é",
    ]
    for text in texts:
        problem(await ask_with(talktime, text, f"/v1/users/{user}/balance"), 401)
    assert (await ask_with(talktime, genuine, f"/v1/users/{user}/balance")).status_code == 200


async def test_tokens_outlive_the_rotation_of_the_secret_and_not_its_end(
    databases: WorkerDatabases, providers: ProviderHost
) -> None:
    old, new = "old-secret-0123456789", "new-secret-0123456789"
    url, script = databases.urls.service, providers.script()
    user, status = World.user(), []
    found = ""
    for secrets in (old, f"{new},{old}", new):
        async with world(url, script, secret=secrets) as talktime:
            if not found:
                await talktime.grant(user, "1")
                found = (await token(talktime, user))["token"]
            status.append((await ask_with(talktime, found, f"/v1/users/{user}/balance")).status_code)
    assert status == [200, 200, 401]


# User tokens of the customer's issuer


class KeySet:
    """What the JWKS URL answers."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.status = 200
        self.body: bytes | None = None
        self.location = ""
        self.asked = 0

    def answer(self) -> bytes:
        self.asked += 1
        return json.dumps({"keys": self.keys}).encode() if self.body is None else self.body


@contextmanager
def key_server(keys: KeySet) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = keys.answer()
            self.send_response(keys.status)
            self.send_header("Content-Length", str(len(body)))
            if keys.location:
                self.send_header("Location", keys.location)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/keys"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def public(kid: str, key: Any, **more: Any) -> dict[str, Any]:
    kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**json.loads(kind.to_jwk(key.public_key())), "kid": kid, **more}


def claims_of(talktime: World, user: str, **other: Any) -> dict[str, Any]:
    now = talktime.clock.now() // US_PER_S
    claims = {"iss": ISSUER, "aud": "talk", "sub": user, "iat": now, "exp": now + 60, **other}
    return {name: value for name, value in claims.items() if value is not None}


@pytest.fixture
async def with_secret(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator[World]:
    terms: dict[str, Any] = {"user_token_issuer": ISSUER, "user_token_secret": SHARED, "user_token_audience": "talk"}
    async with world(databases.urls.service, providers.script(), **terms) as found:
        yield found


async def status_of(talktime: World, user: str, text: str) -> int:
    return (await ask_with(talktime, text, f"/v1/users/{user}/balance")).status_code


async def test_tokens_under_a_shared_secret_are_taken(with_secret: World) -> None:
    user = with_secret.user()
    await with_secret.grant(user, "1")
    assert await status_of(with_secret, user, forged(claims_of(with_secret, user), SHARED)) == 200
    assert await status_of(with_secret, user, (await token(with_secret, user))["token"]) == 200
    foreign = forged(claims_of(with_secret, "somebody else"), SHARED)
    assert await status_of(with_secret, user, foreign) == 403


@pytest.mark.parametrize(
    "other",
    [
        {"iss": "https://other.example"},
        {"iss": None},
        {"iss": "talktime"},
        {"aud": "other"},
        {"aud": None},
        {"aud": ["other"]},
        {"exp": None},
        {"exp": "soon"},
        {"exp": True},
        {"exp": -1},
        {"exp": 1e30},
        {"exp": 1},
        {"nbf": 4e9},
        {"iat": 4e9},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 129},
        {"sub": "a\u0000b"},
    ],
    ids=str,
)
async def test_claims_that_do_not_fit_are_refused(with_secret: World, other: dict[str, Any]) -> None:
    user = with_secret.user()
    await with_secret.grant(user, "1")
    text = forged(claims_of(with_secret, user, **other), SHARED)
    assert await status_of(with_secret, user, text) == 401


async def test_the_issuers_clock_may_be_off_by_half_a_minute(with_secret: World) -> None:
    user = with_secret.user()
    await with_secret.grant(user, "1")
    now = with_secret.clock.now() // US_PER_S
    for moved, status in ((29, 200), (31, 401)):
        assert (
            await status_of(with_secret, user, forged(claims_of(with_secret, user, exp=now - moved), SHARED)) == status
        )
    for moved, status in ((30, 200), (32, 401)):
        text = forged(claims_of(with_secret, user, iat=now + moved, exp=now + 90), SHARED)
        assert await status_of(with_secret, user, text) == status
    listed = forged(claims_of(with_secret, user, aud=["a", "talk"]), SHARED)
    assert await status_of(with_secret, user, listed) == 200


def signed_by_hand(claims: dict[str, Any], secret: str, algorithm: str) -> str:
    """The library does not like to sign by a short secret, which others do."""
    parts = [json.dumps(part).encode() for part in ({"typ": "JWT", "alg": algorithm}, claims)]
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    mac = hmac.new(secret.encode(), text, f"sha{algorithm[2:]}").digest()
    return (text + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("length", [32, 40, 48, 64, 65, 128, 200])
async def test_a_shared_secret_of_any_length_does_for_each_algorithm(length: int, algorithm: str) -> None:
    secret, clock = ("ü0123456789abcdef" * 20)[:length], ManualClock()
    terms = IssuerTerms(
        issuer=ISSUER,
        audience=None,
        user_claim="sub",
        secret=SecretStr(secret),
        jwks_url=None,
        max_ttl=Micros(60 * US_PER_S),
    )
    issuer = Issuer(terms, clock)
    claims = {"iss": ISSUER, "sub": "ada", "exp": clock.now() // US_PER_S + 60}
    text = signed_by_hand(claims, secret, algorithm)
    assert (await issuer.bearer_of(text, jwt.get_unverified_header(text))).user_id == "ada"
    for other in (secret[:-1], secret + "0", "x" + secret[1:]):
        text = signed_by_hand(claims, other, algorithm)
        with pytest.raises(Problem, match="signature"):
            await issuer.bearer_of(text, jwt.get_unverified_header(text))


DAY = 86_400


@pytest.mark.parametrize(
    ("made", "ends", "status"),
    [
        (0, DAY, 200), (0, DAY + 30, 200), (0, DAY + 31, 401), (None, DAY + 30, 200), (None, DAY + 31, 401),
        (-DAY, 30, 200), (-DAY, 31, 401), (-DAY * 365, 60, 401), (30, DAY + 30, 200), (30, DAY + 31, 401),
        (0, DAY * 365 * 31, 401),
    ],
)  # fmt: skip
async def test_a_token_of_the_issuer_lasts_a_day_at_most(
    with_secret: World, made: int | None, ends: int, status: int
) -> None:
    user = with_secret.user()
    await with_secret.grant(user, "1")
    now = with_secret.clock.now() // US_PER_S
    claims = claims_of(with_secret, user, iat=None if made is None else now + made, exp=now + ends)
    response = await ask_with(with_secret, forged(claims, SHARED), f"/v1/users/{user}/balance")
    assert response.status_code == status
    if status == 401:
        assert problem(response, 401)["detail"] == "this token lasts too long: at most 86400 seconds are taken"


async def test_how_long_it_lasts_is_a_setting(databases: WorkerDatabases, providers: ProviderHost) -> None:
    terms: dict[str, Any] = {
        "user_token_issuer": ISSUER, "user_token_secret": SHARED, "user_token_max_ttl_s": "3600"
    }  # fmt: skip
    async with world(databases.urls.service, providers.script(), **terms) as talktime:
        user = talktime.user()
        await talktime.grant(user, "1")
        now = talktime.clock.now() // US_PER_S
        for ends, status in ((3600, 200), (3631, 401)):
            text = forged(claims_of(talktime, user, exp=now + ends), SHARED)
            assert await status_of(talktime, user, text) == status
        own = await token(talktime, user, ttl_s=DAY)  # which is not the issuer's
        assert await status_of(talktime, user, own["token"]) == 200


@pytest.fixture
async def with_keys(
    databases: WorkerDatabases, providers: ProviderHost
) -> AsyncIterator[tuple[World, KeySet, rsa.RSAPrivateKey]]:
    keys, key = KeySet(), rsa.generate_private_key(65537, 2048)
    keys.keys = [public("one", key)]
    with key_server(keys) as url:
        terms: dict[str, Any] = {"user_token_issuer": ISSUER, "user_token_jwks_url": url, "user_token_audience": "talk"}
        terms["user_token_claim"] = "customer_id"
        async with world(databases.urls.service, providers.script(), **terms) as found:
            yield found, keys, key


def claimed(talktime: World, user: str) -> dict[str, Any]:
    return claims_of(talktime, "not this", customer_id=user)


async def test_public_keys_are_fetched_once_and_anew_for_one_that_is_not_known(
    with_keys: tuple[World, KeySet, rsa.RSAPrivateKey],
) -> None:
    talktime, keys, key = with_keys
    user = talktime.user()
    await talktime.grant(user, "1")
    text = forged(claimed(talktime, user), key, "RS256", kid="one")
    for _ in range(3):
        assert await status_of(talktime, user, text) == 200
    assert keys.asked == 1
    curve = ec.generate_private_key(ec.SECP256R1())
    keys.keys.append(public("two", curve))
    newer = forged(claimed(talktime, user), curve, "ES256", kid="two")
    assert await status_of(talktime, user, newer) == 401  # too soon after the fetch before
    talktime.clock.advance(10)
    results = await asyncio.gather(*(status_of(talktime, user, newer) for _ in range(5)))
    assert results == [200] * 5
    assert keys.asked == 2
    for _ in range(5):  # an invented id sends nobody to the issuer each time
        assert await status_of(talktime, user, forged(claimed(talktime, user), curve, "ES256", kid="three")) == 401
    assert keys.asked == 2
    keys.keys = keys.keys[1:]  # withdrawn
    talktime.clock.advance(3600)
    text = forged(claimed(talktime, user), key, "RS256", kid="one")
    assert await status_of(talktime, user, text) == 401


async def test_a_public_key_is_no_secret_and_of_one_kind(
    with_keys: tuple[World, KeySet, rsa.RSAPrivateKey],
) -> None:
    talktime, keys, key = with_keys
    user = talktime.user()
    await talktime.grant(user, "1")
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head, body, _ = forged(claimed(talktime, user), "x" * 32, kid="one").split(".")
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(f"{head}.{body}".encode(), pem)
    confused = f"{head}.{body}.{jwt.utils.base64url_encode(mac).decode()}"
    texts = [confused, forged(claimed(talktime, user), None, "none", kid="one")]
    texts.append(forged(claimed(talktime, user), key, "RS512", kid="one"))  # the key is for RS256
    texts.append(forged(claimed(talktime, user), rsa.generate_private_key(65537, 2048), "RS256", kid="one"))
    for text in texts:
        assert await status_of(talktime, user, text) == 401
    keys.keys = [
        {"kty": "oct", "k": "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg", "kid": "s"},
        public("e", key, use="enc"),
    ]
    keys.keys.append(public("small", rsa.generate_private_key(65537, 1024)))
    talktime.clock.advance(3600)
    assert await status_of(talktime, user, forged(claimed(talktime, user), "x" * 32, kid="s")) == 401
    assert await status_of(talktime, user, forged(claimed(talktime, user), key, "RS256", kid="e")) == 401


@pytest.mark.parametrize("fault", ["500", "a redirect", "no JSON", "no keys", "a list", "too much", "gone"])
async def test_without_the_issuers_keys_nobody_comes_in_and_known_ones_serve_for_a_day(
    with_keys: tuple[World, KeySet, rsa.RSAPrivateKey], fault: str
) -> None:
    talktime, keys, key = with_keys
    user = talktime.user()
    await talktime.grant(user, "1")

    async def told() -> httpx.Response:
        text = forged(claimed(talktime, user), key, "RS256", kid="one")
        return await ask_with(talktime, text, f"/v1/users/{user}/balance")

    def breaks() -> None:
        keys.status = {"500": 500, "a redirect": 302}.get(fault, 200)
        keys.location = "http://127.0.0.1:1/" if fault == "a redirect" else ""
        bodies = {"no JSON": b"{", "no keys": b'{"keys":[]}', "a list": b"[]", "gone": b""}
        keys.body = bodies.get(fault, b"x" * (issuers.MAX_KEYS_BODY + 1) if fault == "too much" else None)

    breaks()
    refused = await told()
    problem(refused, 503, "unavailable")
    assert refused.headers["retry-after"] == "10"
    keys.status, keys.location, keys.body = 200, "", None
    talktime.clock.advance(10)
    assert (await told()).status_code == 200
    breaks()
    talktime.clock.advance(86_399)
    assert (await told()).status_code == 200
    talktime.clock.advance(1)
    problem(await told(), 503, "unavailable")
