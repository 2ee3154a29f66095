"""Limits on calls: who is refused, what the answers say, and that nothing is done or kept then."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request

from app.core.rate_limit import RateLimit
from app.core.units import Micros
from app.http import rate_limits
from app.http.rate_limits import Meter
from tests.support.clock import ManualClock
from tests.support.postgres import WorkerDatabases
from tests.support.problems import problem
from tests.support.scripted_provider import ProviderHost
from tests.support.unchanged import unchanged
from tests.support.world import World, world

pytestmark = pytest.mark.anyio

CALLER_BURST = 50
WEBHOOK_BURST = 20
FAILURES = 7


@pytest.fixture
async def limited(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator[World]:
    limits: dict[str, Any] = {"caller_max_rps": 5, "webhook_max_rps": 1, "failed_auth_max_rpm": FAILURES}
    async with world(databases.urls.service, providers.script(), **limits) as found:
        yield found


async def test_a_caller_is_told_what_remains_and_refused_when_nothing_does(limited: World) -> None:
    user = limited.user()
    path = f"/v1/users/{user}/grants"
    for made in range(CALLER_BURST):
        response = await limited.client.post(path, json={"amount": "1"})
        assert response.status_code == 201
        assert response.headers["ratelimit-policy"] == f'"caller";q={CALLER_BURST};w=10'
        found = re.fullmatch(r'"caller";r=(\d+);t=(\d+)', response.headers["ratelimit"])
        assert found is not None
        assert int(found[1]) == CALLER_BURST - 1 - made
    with unchanged(limited.service.database.conninfo):
        for method, address in (("POST", path), ("GET", path), ("GET", "/v1/settings")):
            response = await limited.client.request(method, address, json={"amount": "1"})
            problem(response, 429, "rate-limited")
            assert response.headers["retry-after"] == "1"
            assert response.headers["ratelimit"] == '"caller";r=0;t=10'
    assert (await limited.client.get("/healthz")).status_code == 200
    limited.clock.advance(1)
    assert [(await limited.client.get(path)).status_code for _ in range(6)] == [200] * 5 + [429]
    limited.clock.advance(10)
    assert (await limited.client.get(path)).status_code == 200


async def test_an_idempotency_key_is_unused_after_a_429(limited: World) -> None:
    user = limited.user()
    for _ in range(CALLER_BURST):
        await limited.client.get("/v1/settings")
    key = {"Idempotency-Key": user}
    ask: dict[str, Any] = {"url": f"/v1/users/{user}/grants", "json": {"amount": "1"}, "headers": key}
    problem(await limited.client.post(**ask), 429, "rate-limited")
    limited.clock.advance(1)
    made = await limited.client.post(**ask)
    assert made.status_code == 201
    assert "idempotency-replayed" not in made.headers


async def test_an_address_without_a_key_is_refused_and_those_with_one_are_not(limited: World) -> None:
    wrong = {"Authorization": "Bearer wrong"}
    statuses = [(await limited.client.get("/v1/settings", headers=wrong)).status_code for _ in range(FAILURES + 3)]
    assert statuses == [401] * FAILURES + [429] * 3
    refused = await limited.client.get("/v1/settings", headers=wrong)
    problem(refused, 429, "rate-limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert (await limited.client.get("/v1/settings")).status_code == 200
    limited.clock.advance(60)
    assert (await limited.client.get("/v1/settings", headers=wrong)).status_code == 401


async def test_a_webhook_is_refused_before_anything_is_stored_and_others_are_not(limited: World) -> None:
    user = limited.user()
    await limited.grant(user, "1000")
    flooded, other = await limited.start(user, time_limit_s=60), await limited.start(user, time_limit_s=60)
    for _ in range(WEBHOOK_BURST):
        assert (await limited.heartbeat(flooded)).status_code == 204
    with unchanged(limited.service.database.conninfo):
        for _ in range(3):
            refused = await limited.heartbeat(flooded)
            problem(refused, 429, "rate-limited")
            assert refused.headers["retry-after"] == "1"
            assert refused.headers["cache-control"] == "no-store"
    assert (await limited.heartbeat(other)).status_code == 204
    assert (await limited.session(flooded))["heartbeat_count"] == WEBHOOK_BURST
    limited.clock.advance(30)
    assert (await limited.heartbeat(flooded)).status_code == 204


async def test_guesses_at_webhooks_stay_the_same_empty_404(limited: World) -> None:
    for _ in range(WEBHOOK_BURST * 2):
        response = await limited.client.post("/webhooks/gabber/guess")
        assert (response.status_code, response.content) == (404, b"")


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MAX_REMEMBERED", 10)
    meter = Meter(RateLimit(1, Micros(1_000_000)), ManualClock())
    for whose in range(100):
        taken = meter.take(whose)
        assert taken is not None
        assert taken.wait == 0
    last, gone = meter.take(99), meter.take(0)
    assert last is not None
    assert last.wait > 0
    assert gone is not None
    assert gone.wait == 0
    assert len(meter._empty_at) == 10


def test_an_address_of_ipv6_is_its_network() -> None:
    def of(host: str) -> str:
        return rate_limits.address_of(Request({"type": "http", "client": (host, 1)}))

    assert of("2001:db8:1:2:3:4:5:6") == of("2001:db8:1:2::1") == "2001:db8:1:2::"
    assert of("2001:db8:1:3::1") != of("2001:db8:1:2::1")
    assert of("192.0.2.1") == "192.0.2.1"
    assert of("not an address") == "not an address"
