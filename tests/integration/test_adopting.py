"""Sessions that the customer's own backend starts at the provider: held for like the others, and billed like them."""

import asyncio
import json
import random
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.core.ids import account_id_of
from tests.support.postgres import ask
from tests.support.problems import pointers, problem
from tests.support.unchanged import contents, unchanged
from tests.support.world import PUBLIC_URL, World

pytestmark = pytest.mark.anyio


def order(user: str, **asked: Any) -> dict[str, Any]:
    return {"user_id": user, "persona": "tutor", "scenario": "talk", "start": False, **asked}


async def adopt(talktime: World, user: str, key: str | None = None, **asked: Any) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await talktime.client.post("/v1/sessions", json=order(user, **asked), headers=headers)


async def funded(talktime: World, amount: str = "100") -> str:
    user = talktime.user()
    await talktime.grant(user, amount)
    return user


async def adopted(talktime: World, user: str, **asked: Any) -> dict[str, Any]:
    """An adopted session, which runs at the provider under an id that only the customer knows."""
    answer = await adopt(talktime, user, **asked)
    assert answer.status_code == 201, answer.text
    return {
        **answer.json()["session"],
        "provider_session_id": f"gab_{uuid4().hex}",
        "webhook": answer.json()["webhook"],
    }


def sessions_of(talktime: World, user: str) -> int:
    statement = f"select count(*) from sessions where account_id = '{account_id_of(user)}'"
    return int(ask(talktime.service.database.conninfo, statement)[0][0])


# The answer


async def test_what_the_customer_has_to_tell_the_provider_is_answered_and_nobody_is_called(talktime: World) -> None:
    user = await funded(talktime, "45.5")
    answer = await adopt(talktime, user, metadata={"order": 7})
    assert answer.status_code == 201
    assert set(answer.json()) == {"session", "connection_details", "webhook"}
    assert answer.json()["connection_details"] is None
    session = answer.json()["session"]
    assert (session["state"], session["time_limit_s"], session["held"]) == ("unconfirmed", 45, "45")
    assert (session["provider_session_id"], session["started_at"]) == (None, None)
    assert session["metadata"] == {"order": 7}
    assert answer.json()["webhook"] == PUBLIC_URL + talktime.webhook(session)
    assert talktime.provider.starts == []
    (first,) = (await talktime.session(session))["steps"]
    assert (first["from"], first["state"]) == (None, "unconfirmed")
    assert first["why"] == "asked for, to be started by the customer's backend"
    assert (await talktime.balance(user))["available"] == "0.5"


async def test_start_true_is_the_ordinary_start(talktime: World) -> None:
    user = await funded(talktime)
    answer = await adopt(talktime, user, start=True)
    assert answer.json()["connection_details"]["token"].startswith("connect-")
    assert "webhook" not in answer.json()
    assert len(talktime.provider.starts) == 1


@pytest.mark.parametrize("value", [None, 0, 1, "false", [], {}])
async def test_start_is_true_or_false(talktime: World, value: Any) -> None:
    user = await funded(talktime)
    with unchanged(talktime.service.database.conninfo):
        assert pointers(await adopt(talktime, user, start=value)) == ["/start"]


async def test_the_guides_call_always_starts(talktime: World) -> None:
    user = await funded(talktime)
    for value in (True, False):
        response = await talktime.client.post("/api/start_session", json=order(user, start=value))
        assert pointers(response) == ["/start"]


async def test_the_document_for_machines_tells_which_call_takes_it(talktime: World) -> None:
    paths = (await talktime.get("/openapi.json"))["paths"]
    fields = {
        path: paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
        for path in ("/v1/sessions", "/api/start_session")
    }
    told = fields["/v1/sessions"]["start"]
    assert (told["type"], told["default"]) == ("boolean", True)
    assert "start" not in fields["/api/start_session"]


# The gate


async def test_the_gate_is_that_of_every_start(talktime: World) -> None:
    user = await funded(talktime, "29.999999")
    with unchanged(talktime.service.database.conninfo):
        document = problem(await adopt(talktime, user), 402, "insufficient-credits")
        assert (document["available"], document["required"]) == ("29.999999", "30")
        assert pointers(await adopt(talktime, user, time_limit_s=29)) == ["/time_limit_s"]
        assert pointers(await adopt(talktime, user, rate_card="no-such-card")) == ["/rate_card"]


async def test_a_refusal_is_stored_with_its_key(talktime: World) -> None:
    user, key = await funded(talktime, "10"), uuid4().hex
    first = await adopt(talktime, user, key)
    problem(first, 402, "insufficient-credits")
    await talktime.grant(user, "100")
    again = await adopt(talktime, user, key)
    assert (again.status_code, again.content) == (402, first.content)
    assert sessions_of(talktime, user) == 0


async def test_limits_of_the_user_count_it(talktime: World) -> None:
    user = await funded(talktime)
    path = f"/v1/users/{user}"
    assert (await talktime.client.patch(path, json={"max_concurrent_sessions": 1, "reason": "a test"})).is_success
    await adopted(talktime, user, time_limit_s=30)
    problem(await adopt(talktime, user, time_limit_s=30), 409, "too-many-sessions")
    problem(await adopt(talktime, user, start=True, time_limit_s=30), 409, "too-many-sessions")
    assert (await talktime.client.patch(path, json={"suspended": True, "reason": "a test"})).is_success
    problem(await adopt(talktime, user, time_limit_s=30), 409, "user-suspended")


# The first heartbeat, or none


async def test_a_first_heartbeat_binds_and_the_charge_is_the_cards_own(talktime: World) -> None:
    """The customer itself received the connection: what the agent said first was heard."""
    user = await funded(talktime)
    session = await adopted(talktime, user)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 2), ("user", 3), ("agent", 4))
    await talktime.heartbeats_until(session, 30)
    live = await talktime.session(session)
    assert (live["state"], live["provider_session_id"]) == ("live", session["provider_session_id"])
    assert live["started_at"] == live["last_heartbeat_at"]
    settled = await talktime.settle(session)
    assert (settled["state"], settled["charged"], settled["held"]) == ("settled", "19", "0")
    charge = await talktime.get(f"/v1/sessions/{session['id']}/charge")
    assert charge["rate_card"]["measurement"]["charge_from"] == "origin"
    assert (await talktime.balance(user))["balance"] == "81"
    assert talktime.provider.starts == []


async def test_a_card_that_charges_from_the_users_first_word_does_so_here_too(talktime: World) -> None:
    card = {
        "name": f"first-{uuid4().hex[:8]}",
        "rates": {"user": "60", "agent": "60", "silence": "60"},
        "measurement": {"charge_from": "first_user_speech"},
    }
    assert (await talktime.client.post("/v1/rate-cards", json=card)).status_code == 201
    session = await adopted(talktime, await funded(talktime), rate_card=card["name"])
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 2), ("user", 3), ("agent", 4))
    await talktime.heartbeats_until(session, 30)
    assert (await talktime.settle(session))["charged"] == "7"


async def test_the_first_heartbeat_decides_which_session_it_is(talktime: World) -> None:
    user = await funded(talktime)
    one, other = [await adopted(talktime, user, time_limit_s=40) for _ in range(2)]
    assert (await talktime.heartbeat(one)).status_code == 204
    stranger = {**one, "provider_session_id": f"gab_{uuid4().hex}"}
    problem(await talktime.heartbeat(stranger), 409, "session-mismatch")
    taken = {**other, "provider_session_id": one["provider_session_id"]}
    problem(await talktime.heartbeat(taken), 409, "session-mismatch")
    assert (await talktime.session(other))["state"] == "unconfirmed"


async def test_without_a_heartbeat_it_fails_when_its_time_is_up_and_not_before(talktime: World) -> None:
    user = await funded(talktime)
    session = await adopted(talktime, user)
    talktime.clock.advance(179)
    await talktime.reconcile()
    assert (await talktime.session(session))["state"] == "unconfirmed"
    assert (await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile")).json()["state"] == "unconfirmed"
    talktime.clock.advance(1)
    await talktime.reconcile()
    failed = await talktime.session(session)
    assert (failed["state"], failed["held"], failed["charged"]) == ("failed", "0", None)
    assert failed["steps"][-1]["why"] == "no heartbeat came"
    assert (await talktime.balance(user))["available"] == "100"
    assert talktime.provider.pulls == []


async def test_a_heartbeat_after_the_failure_is_not_lost_but_reviewed(talktime: World) -> None:
    user = await funded(talktime)
    session = await adopted(talktime, user)
    talktime.clock.advance(200)
    await talktime.reconcile()
    assert (await talktime.heartbeat(session)).status_code == 204
    late = await talktime.session(session)
    assert (late["state"], late["held"], late["heartbeat_count"]) == ("review", "0", 1)
    assert late["steps"][-1]["why"] == "a heartbeat came after the start had failed"
    pinned = f"select charge_from from sessions where id = '{talktime.key(session).id}'"
    assert ask(talktime.service.database.conninfo, pinned) == [(None,)]
    response = await talktime.client.post(
        f"/v1/sessions/{session['id']}/review", json={"action": "write_off", "reason": "a test"}
    )
    assert (response.json()["state"], response.json()["charged"]) == ("settled", "0")


# The same request again


async def test_a_repetition_is_answered_as_the_first_time_for_an_hour(talktime: World) -> None:
    user, key = await funded(talktime), uuid4().hex
    first = await adopt(talktime, user, key)
    assert "idempotency-replayed" not in first.headers
    session = {**first.json()["session"], "provider_session_id": f"gab_{uuid4().hex}"}
    assert (await talktime.heartbeat(session)).status_code == 204
    talktime.clock.advance(3_599)
    again = await adopt(talktime, user, key)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    talktime.clock.advance(1)
    late = await adopt(talktime, user, key)
    assert (late.status_code, late.json()) == (201, {**first.json(), "webhook": None})
    assert sessions_of(talktime, user) == 1
    problem(await adopt(talktime, user, key, start=True), 422, "idempotency-conflict")


async def test_the_webhook_of_a_session_that_failed_or_is_over_is_not_given_again(talktime: World) -> None:
    """Whoever started it at the provider now would run it without a hold."""
    failed, over = [(await funded(talktime), uuid4().hex) for _ in range(2)]
    assert (await adopt(talktime, *failed)).json()["webhook"] is not None
    heard = (await adopt(talktime, *over)).json()["session"] | {"provider_session_id": f"gab_{uuid4().hex}"}
    talktime.provider.say(heard["provider_session_id"], ("agent", 5))
    await talktime.heartbeats_until(heard, 30)
    talktime.clock.advance(170)
    for _ in range(3):
        await talktime.reconcile()
        talktime.clock.advance(60)
    assert (await talktime.session(heard))["state"] in {"over", "settled"}
    for user, key in (failed, over):
        again = await adopt(talktime, user, key)
        assert (again.status_code, again.json()["webhook"]) == (201, None)
        sealed = f"select count(*) from idempotency where account_id = '{account_id_of(user)}' and sealed is not null"
        assert ask(talktime.service.database.conninfo, sealed) == [(0,)]


async def test_the_webhook_is_in_no_other_answer_and_stored_nowhere_in_clear(
    talktime: World, capfd: pytest.CaptureFixture[str]
) -> None:
    user = await funded(talktime)
    answer = await adopt(talktime, user, uuid4().hex)
    session = answer.json()["session"]
    token = answer.json()["webhook"].rpartition("/")[2]
    assert token == talktime.webhook(session).rpartition("/")[2]
    for path in (
        f"/v1/sessions/{session['id']}",
        f"/v1/sessions?user_id={user}",
        f"/v1/sessions/{session['id']}/charge",
    ):
        assert token not in json.dumps(await talktime.get(path))
    for table in contents(talktime.service.database.conninfo):
        hits = ask(
            talktime.service.database.conninfo,
            f"select count(*) from {table} t where t::text like '%{token}%' or t::text like '%{token.encode().hex()}%'",
        )
        assert hits == [(0,)], table
    out, err = capfd.readouterr()
    assert token not in out + err


async def test_fifty_identical_adoptions_are_one(talktime: World) -> None:
    user, key = await funded(talktime, "10000"), uuid4().hex
    answers = await asyncio.gather(*(adopt(talktime, user, key, time_limit_s=60) for _ in range(50)))
    told = {answer.content for answer in answers if answer.status_code == 201}
    assert len(told) == 1
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert sessions_of(talktime, user) == 1
    assert (await talktime.balance(user))["held"] == "60"


# Whatever comes in whatever order: one session, one hold, at most one charge


@pytest.mark.parametrize("seed", range(25))
async def test_never_two_effects(talktime: World, seed: int) -> None:
    chance = random.Random(seed)
    user, key = await funded(talktime, "1000"), uuid4().hex
    first = await adopt(talktime, user, key, time_limit_s=60)
    session = first.json()["session"] | {"provider_session_id": f"gab_{uuid4().hex}"}
    talktime.provider.say(session["provider_session_id"], ("agent", 8), ("silence", 3), ("user", 4))

    async def repeat() -> None:
        again = await adopt(talktime, user, key, time_limit_s=60)
        assert again.status_code == 201
        assert again.json()["session"]["id"] == session["id"]
        assert again.json()["webhook"] in (first.json()["webhook"], None)

    async def beat() -> None:
        assert (await talktime.heartbeat(session)).status_code == 204

    async def look() -> None:
        response = await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile")
        assert response.status_code in {200, 503}

    async def pass_time() -> None:
        talktime.clock.advance(chance.choice([1, 20, 60, 200]))
        await talktime.reconcile()

    for _ in range(12):
        acts = chance.choices([repeat, beat, look, pass_time], weights=[3, 2, 2, 3], k=chance.choice([1, 1, 3]))
        await asyncio.gather(*(act() for act in acts))
    end = await talktime.settle(session)
    assert sessions_of(talktime, user) == 1
    assert talktime.provider.starts == []
    charges = [
        entry for entry in (await talktime.get(f"/v1/users/{user}/entries"))["data"] if entry["kind"] == "charge"
    ]
    assert len(charges) == (end["state"] == "settled" and end["charged"] != "0")
    balance = await talktime.balance(user)
    assert (balance["balance"], balance["held"]) == ("985" if charges else "1000", end["held"])
    assert end["held"] == "0" or end["state"] == "review"
