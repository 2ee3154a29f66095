"""The audit log: every call that changes something leaves a row that says who, by which request, from where."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import psycopg
import pytest

from app.core.ids import Kind, payment_id_of, reference_id
from app.http.access import declared
from tests.support.postgres import WorkerDatabases, ask
from tests.support.problems import pointers, problem
from tests.support.scripted_provider import ProviderHost
from tests.support.stripe import paid
from tests.support.unchanged import contents
from tests.support.world import World, world

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def world_of_the_module(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator[World]:
    """With a provider that can end sessions."""
    async with world(databases.urls.service, providers.script(), gabber_capabilities="end") as found:
        yield found


WHY = {"reason": "because"}
READS_BY_POST = {"POST /v1/charges/preview"}

Change = Callable[[World, str], Awaitable[httpx.Response]]


async def live(talktime: World, user: str) -> dict[str, Any]:
    await talktime.grant(user, "1000")
    session = await talktime.start(user)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 20))
    await talktime.heartbeats_until(session, 30)
    await talktime.reconcile()
    return session


async def said_more(talktime: World, user: str) -> dict[str, Any]:
    session = await live(talktime, user)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 20), ("agent", 10))
    await talktime.heartbeats_until(session, 30)
    return session


async def settled(talktime: World, user: str) -> dict[str, Any]:
    return await talktime.settle(await live(talktime, user))


async def in_review(talktime: World, user: str) -> dict[str, Any]:
    session = await talktime.settle(await live(talktime, user))
    talktime.provider.say(session["provider_session_id"], ("agent", 1))
    await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile")
    found = await talktime.session(session)
    assert found["state"] == "review"
    return found


def started(path: str, **more: Any) -> Change:
    async def change(talktime: World, user: str) -> httpx.Response:
        await talktime.grant(user, "1000")
        body = {"user_id": user, "persona": "tutor", "scenario": "talk", **more}
        return await talktime.client.post(path, json=body)

    return change


def on_session(prepare: Callable[[World, str], Awaitable[dict[str, Any]]], path: str, **body: Any) -> Change:
    async def change(talktime: World, user: str) -> httpx.Response:
        session = await prepare(talktime, user)
        return await talktime.client.post(f"/v1/sessions/{session['id']}/{path}", json=body)

    return change


def on_user(method: str, path: str, **body: Any) -> Change:
    async def change(talktime: World, user: str) -> httpx.Response:
        return await talktime.client.request(method, f"/v1/users/{user}{path}", json=body)

    return change


def plain(method: str, path: str, **body: Any) -> Change:
    async def change(talktime: World, _user: str) -> httpx.Response:
        return await talktime.client.request(method, path, json=body)

    return change


async def voided(talktime: World, user: str) -> httpx.Response:
    grant = await talktime.grant(user, "5")
    return await talktime.client.post(f"/v1/grants/{grant['id']}/void", json=WHY)


async def revoked(talktime: World, _user: str) -> httpx.Response:
    key = (await talktime.client.post("/v1/api-keys", json={"name": "n", "scopes": ["read"]})).json()
    return await talktime.client.delete(f"/v1/api-keys/{key['id']}")


async def from_a_file(talktime: World, user: str) -> httpx.Response:
    body = f"user_id,amount,reference\n{user},5,r-1\n"
    return await talktime.client.post("/v1/grants/bulk", content=body, headers={"Content-Type": "text/csv"})


def on_recurring(verb: str) -> Change:
    async def change(talktime: World, user: str) -> httpx.Response:
        body = {"amount": "5", "period": "month"}
        made = (await talktime.client.post(f"/v1/users/{user}/recurring-grants", json=body)).json()
        if verb == "resume":
            await talktime.client.post(f"/v1/recurring-grants/{made['id']}/pause", json=WHY)
        return await talktime.client.post(f"/v1/recurring-grants/{made['id']}/{verb}", json=WHY)

    return change


async def resolved(talktime: World, _user: str) -> httpx.Response:
    """A payment of which nobody knows whose it is."""
    bought = await paid(talktime, None, 10)
    payment = reference_id(Kind.PAYMENT, payment_id_of(bought.reference))
    return await talktime.client.post(f"/v1/payments/{payment}/resolve", json={"action": "dismiss", **WHY})


CHEAP = {"rates": {"user": "1", "agent": "1", "silence": "1"}}


async def rerated(talktime: World, user: str) -> httpx.Response:
    session = await settled(talktime, user)
    card = await talktime.client.post("/v1/rate-cards", json={"name": f"card of {user}", **CHEAP})
    return await talktime.client.post(
        f"/v1/sessions/{session['id']}/rerate", json={"rate_card": card.json()["id"], **WHY}
    )


def on_endpoint(method: str, path: str, body: Any = None) -> Change:
    async def change(talktime: World, user: str) -> httpx.Response:
        endpoint_id = await talktime.endpoint()
        return await talktime.client.request(method, f"/v1/webhook-endpoints/{endpoint_id}{path}", json=body)

    return change


async def redelivered(talktime: World, user: str) -> httpx.Response:
    await talktime.grant(user, "5")
    (event,) = (await talktime.get(f"/v1/events?user_id={user}"))["data"]
    asked = {"endpoint_id": await talktime.endpoint()}
    return await talktime.client.post(f"/v1/events/{event['id']}/redeliver", json=asked)


async def described(talktime: World, user: str) -> httpx.Response:
    path = f"/v1/webhook-endpoints/{await talktime.endpoint()}"
    return await talktime.client.patch(path, json={"description": user})


AN_ENDPOINT = "/v1/webhook-endpoints/{endpoint_id}"
CHANGES: dict[tuple[str, str], Change] = {
    ("POST /v1/webhook-endpoints", "webhook_endpoint.create"): plain(
        "POST", "/v1/webhook-endpoints", url="https://hook.example/audited"
    ),
    (f"PATCH {AN_ENDPOINT}", "webhook_endpoint.change"): described,
    (f"POST {AN_ENDPOINT}/rotate-secret", "webhook_endpoint.rotate"): on_endpoint("POST", "/rotate-secret", {}),
    (f"POST {AN_ENDPOINT}/test", "webhook_endpoint.test"): on_endpoint("POST", "/test"),
    (f"POST {AN_ENDPOINT}/retry", "webhook_endpoint.retry"): on_endpoint("POST", "/retry"),
    (f"POST {AN_ENDPOINT}/replay", "webhook_endpoint.replay"): on_endpoint(
        "POST", "/replay", {"after": "2100-01-01T00:00:00Z"}
    ),
    (f"DELETE {AN_ENDPOINT}", "webhook_endpoint.delete"): on_endpoint("DELETE", ""),
    ("POST /v1/events/{event_id}/redeliver", "event.redeliver"): redelivered,
    ("POST /v1/sessions", "session.start"): started("/v1/sessions"),
    ("POST /v1/sessions", "session.adopt"): started("/v1/sessions", start=False),
    ("POST /api/start_session", "session.start"): started("/api/start_session"),
    ("POST /v1/sessions/{session_id}/reconcile", "session.reconcile"): on_session(said_more, "reconcile"),
    ("POST /v1/sessions/{session_id}/end", "session.end"): on_session(live, "end"),
    ("POST /v1/sessions/{session_id}/refund", "session.refund"): on_session(settled, "refund", amount="1", **WHY),
    ("POST /v1/sessions/{session_id}/rerate", "session.rerate"): rerated,
    ("POST /v1/sessions/{session_id}/review", "session.settle"): on_session(
        in_review, "review", action="settle", **WHY
    ),
    ("POST /v1/sessions/{session_id}/review", "session.write_off"): on_session(
        in_review, "review", action="write_off", **WHY
    ),
    ("POST /v1/grants/bulk", "grant.create"): from_a_file,
    ("POST /v1/users/{user_id}/grants", "grant.create"): on_user("POST", "/grants", amount="5"),
    ("POST /v1/users/{user_id}/adjustments", "account.adjust"): on_user("POST", "/adjustments", amount="5", **WHY),
    ("PATCH /v1/users/{user_id}", "user.change"): on_user("PATCH", "", credit_limit="7", **WHY),
    ("POST /v1/users/{user_id}/tokens", "user_token.create"): on_user("POST", "/tokens", ttl_s=60),
    ("POST /v1/users/{user_id}/portal-links", "portal_link.create"): on_user("POST", "/portal-links", ttl_s=60),
    ("POST /v1/grants/{grant_id}/void", "grant.void"): voided,
    ("POST /v1/users/{user_id}/recurring-grants", "recurring_grant.create"): on_user(
        "POST", "/recurring-grants", amount="5", period="day"
    ),
    ("POST /v1/recurring-grants/{recurring_id}/pause", "recurring_grant.pause"): on_recurring("pause"),
    ("POST /v1/recurring-grants/{recurring_id}/resume", "recurring_grant.resume"): on_recurring("resume"),
    ("POST /v1/recurring-grants/{recurring_id}/cancel", "recurring_grant.cancel"): on_recurring("cancel"),
    ("POST /v1/payments/{payment_id}/resolve", "payment.resolve"): resolved,
    ("PATCH /v1/settings", "settings.change"): plain("PATCH", "/v1/settings", starts_stopped=False, **WHY),
    ("POST /v1/rate-cards", "rate_card.publish"): plain("POST", "/v1/rate-cards", name="audited", **CHEAP),
    ("POST /v1/rate-cards/simulations", "rate_card.simulate"): plain(
        "POST",
        "/v1/rate-cards/simulations",
        rate_card={"name": "audited", **CHEAP},
        after="2026-01-01T00:00:00Z",
        before="2026-02-01T00:00:00Z",
    ),
    ("POST /v1/api-keys", "api_key.create"): plain("POST", "/v1/api-keys", name="n", scopes=["read"]),
    ("DELETE /v1/api-keys/{key_id}", "api_key.revoke"): revoked,
}
"""A call for each change that an operation declares."""

CREATIONS = {
    "session.start", "session.adopt", "grant.create", "user_token.create", "portal_link.create",
    "rate_card.publish", "api_key.create", "rate_card.simulate", "webhook_endpoint.create", "webhook_endpoint.rotate",
    "recurring_grant.create",
    "webhook_endpoint.test", "webhook_endpoint.retry", "webhook_endpoint.replay", "event.redeliver",
}  # fmt: skip
"""Before these there was nothing."""

REASONED = {
    "session.refund", "session.rerate", "session.settle", "session.write_off", "account.adjust", "user.change",
    "grant.void", "settings.change", "recurring_grant.pause", "recurring_grant.resume", "recurring_grant.cancel",
    "payment.resolve",
}  # fmt: skip


async def test_each_operation_that_may_change_something_declares_as_what(talktime: World) -> None:
    asked = declared(talktime.service._api.routes)
    told = {(call, action) for call, access in asked.items() if access is not None for action in access.actions}
    assert told == set(CHANGES)
    silent = {call for call, access in asked.items() if access is not None and not access.actions}
    assert {call for call in silent if not call.startswith("GET ")} == READS_BY_POST


@pytest.mark.parametrize(("proxies", "address"), [("", "127.0.0.1"), ("127.0.0.0/8", "198.51.100.1")])
async def test_the_address_is_what_a_proxy_of_ours_says(
    databases: WorkerDatabases, providers: ProviderHost, proxies: str, address: str
) -> None:
    async with world(databases.urls.service, providers.script(), trusted_proxies=proxies) as talktime:
        says = {"X-Forwarded-For": "6.6.6.6, 198.51.100.1"}
        path = f"/v1/users/{talktime.user()}/grants"
        response = await talktime.client.post(path, json={"amount": "1"}, headers=says)
        assert response.status_code == 201
        (row,) = (await talktime.get(f"/v1/audit-log?request_id={response.headers['x-request-id']}"))["data"]
        assert row["address"] == address


@pytest.mark.parametrize(("call", "action"), CHANGES)
async def test_a_change_leaves_a_row_that_says_who_and_why(talktime: World, call: str, action: str) -> None:
    user = talktime.user()
    response = await CHANGES[call, action](talktime, user)
    assert response.status_code in {200, 201, 202}, response.text
    mine = (await talktime.get(f"/v1/audit-log?request_id={response.headers['x-request-id']}"))["data"]
    assert action in [row["action"] for row in mine]
    for row in mine:
        assert row["actor"] == "bootstrap"
        assert row["address"] == "127.0.0.1"
        assert row["target"]
        assert row["user_id"] in {None, user}
    row = next(row for row in mine if row["action"] == action)
    if action in REASONED:
        assert row["reason"] == "because"
    assert row["after"] is not None
    assert (row["before"] is None) == (action in CREATIONS)
    if row["before"] is not None:
        assert set(row["before"]) <= set(row["after"]) | {"remaining"}
    if action != "settings.change":
        assert row["before"] != row["after"]


async def test_what_a_pull_a_correction_or_a_review_did_is_told(talktime: World) -> None:
    user = talktime.user()
    session = await said_more(talktime, user)
    before = await talktime.session(session)
    path = f"/v1/sessions/{session['id']}"
    after = (await talktime.client.post(f"{path}/reconcile")).json()
    assert before["accrued"] != after["accrued"]
    told: list[Any] = [
        {"state": found["state"], "accrued": found["accrued"], "charged": found["charged"]} for found in (before, after)
    ]
    assert await changes(talktime, session, "session.reconcile") == [told]

    charged = (await talktime.settle(session))["charged"]
    left = str(int(charged) - 2)
    await talktime.client.post(f"{path}/refund", json={"amount": "2", **WHY})
    assert await changes(talktime, session, "session.refund") == [
        [{"left": charged}, {"left": left, "given_back": "2"}]
    ]


async def test_a_pull_that_failed_was_asked_for_all_the_same(talktime: World) -> None:
    session = await live(talktime, talktime.user())
    talktime.provider.timeline_status = 500
    path = f"/v1/sessions/{session['id']}/reconcile"
    problem(await talktime.client.post(path), 502, "provider-unavailable")
    ((before, after),) = await changes(talktime, session, "session.reconcile")
    assert before == after


async def changes(talktime: World, session: dict[str, Any], action: str) -> list[list[Any]]:
    """What was, and what is, of each such change of the session."""
    found = (await talktime.get(f"/v1/audit-log?target={session['id']}&action={action}"))["data"]
    return [[row["before"], row["after"]] for row in found]


async def test_a_refused_call_leaves_none(talktime: World) -> None:
    user = talktime.user()
    before = contents(talktime.service.database.conninfo)["audit_log"]
    problem(await talktime.client.post(f"/v1/users/{user}/adjustments", json={"amount": "-5", **WHY}), 409)
    problem(await talktime.client.post(f"/v1/users/{user}/grants", json={"amount": "x"}), 422)
    problem(await started_by(talktime, user), 402)
    assert contents(talktime.service.database.conninfo)["audit_log"] == before


async def started_by(talktime: World, user: str) -> httpx.Response:
    return await talktime.client.post("/v1/sessions", json={"user_id": user, "persona": "p", "scenario": "s"})


async def test_who_acts_is_the_key_or_the_user(talktime: World) -> None:
    made = await talktime.client.post("/v1/api-keys", json={"name": "shop", "scopes": ["credits:write"]})
    key, user = made.json(), talktime.user()
    headers = {"Authorization": f"Bearer {key['secret']}"}
    grant = await talktime.client.post(f"/v1/users/{user}/grants", json={"amount": "1000"}, headers=headers)
    token = (await talktime.client.post(f"/v1/users/{user}/tokens", json={})).json()["token"]
    body = {"persona": "p", "scenario": "s"}
    headers = {"Authorization": f"Bearer {token}"}
    talktime.clock.advance(1)
    start = await talktime.client.post("/api/start_session", json=body, headers=headers)
    assert start.status_code == 200, start.text
    for target, actor in ((grant.json()["id"], key["id"]), (start.headers["x-session-id"], f"user:{user}")):
        found = (await talktime.get(f"/v1/audit-log?target={target}"))["data"]
        assert [row["actor"] for row in found] == [actor]
        assert found == (await talktime.get(f"/v1/audit-log?actor={actor}"))["data"]


async def test_a_request_has_one_id_that_nobody_else_chooses(talktime: World) -> None:
    ids = set()
    for path in ("/v1/rate-cards", "/healthz", "/nowhere", "/webhooks/gabber/x", "/openapi.json"):
        answer = await talktime.client.get(path, headers={"X-Request-Id": "chosen"})
        assert answer.headers.get_list("x-request-id") != ["chosen"]
        ids.add(answer.headers["x-request-id"])
    assert len(ids) == 5


async def test_the_log_is_filtered_exactly(talktime: World) -> None:
    user = talktime.user()
    talktime.clock.advance(1000)
    for amount in ("1", "2"):
        await talktime.grant(user, amount)
        talktime.clock.advance(10)
    await talktime.client.patch(f"/v1/users/{user}", json={"credit_limit": "5"})

    async def found(query: str) -> list[str]:
        return [row["action"] for row in (await talktime.get(f"/v1/audit-log?user_id={user}{query}"))["data"]]

    assert await found("") == ["user.change", "grant.create", "grant.create"]
    assert await found("&action=grant.create") == ["grant.create"] * 2
    assert await found("&action=grant") == []
    assert await found("&after=2026-03-01T12:16:50Z") == ["user.change", "grant.create"]
    assert await found("&before=2026-03-01T12:16:50Z") == ["grant.create"]
    assert await found("&actor=key_x") == []
    change = (await talktime.get(f"/v1/audit-log?user_id={user}&limit=1"))["data"][0]
    assert (change["before"], change["after"]) == ({"credit_limit": "0"}, {"credit_limit": "5"})
    assert await found(f"&request_id={change['request_id']}&target={user}") == ["user.change"]
    for query, at in (("actor=%00", "/actor"), ("after=x", "/after"), ("cursor=x", "/cursor"), ("limit=0", "/limit")):
        assert pointers(await talktime.client.get(f"/v1/audit-log?{query}")) == [at]


async def test_the_service_cannot_change_or_remove_a_row(talktime: World, databases: WorkerDatabases) -> None:
    await talktime.grant(talktime.user(), "1")
    for statement in ("update audit_log set actor = 'x'", "delete from audit_log", "truncate audit_log"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ask(databases.urls.service, statement)
        with pytest.raises(psycopg.errors.RestrictViolation):
            ask(databases.urls.owner, statement)
