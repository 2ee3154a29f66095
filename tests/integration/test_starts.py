"""Starting: the gate, the hold, the price, and every outcome that the provider's answer can have."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.core.rate_card import DEFAULT_RATE_CARD
from app.core.units import Micros, format_credits
from app.core.worst_case import worst_case_under
from app.gabber import Gabber
from tests.support.postgres import WorkerDatabases, ask
from tests.support.problems import pointers, problem
from tests.support.scripted_provider import ProviderHost, ScriptedProvider
from tests.support.unchanged import contents, unchanged
from tests.support.world import World, world

pytestmark = pytest.mark.anyio


def order(user: str, **asked: Any) -> dict[str, Any]:
    return {"user_id": user, "persona": "tutor", "scenario": "talk", **asked}


async def start(talktime: World, user: str, key: str | None = None, **asked: Any) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await talktime.client.post("/v1/sessions", json=order(user, **asked), headers=headers)


async def funded(talktime: World, amount: str = "100") -> str:
    user = talktime.user()
    await talktime.grant(user, amount)
    return user


async def only_session(talktime: World, user: str) -> dict[str, Any]:
    (session,) = (await talktime.get(f"/v1/sessions?user_id={user}"))["data"]
    return dict(session)


def rates(user: str = "60", agent: str = "60", silence: str = "60") -> dict[str, str]:
    return {"user": user, "agent": agent, "silence": silence}


async def publish(talktime: World, name: str, **card: Any) -> dict[str, Any]:
    response = await talktime.client.post("/v1/rate-cards", json={"name": name, "rates": rates(), **card})
    assert response.status_code == 201, response.text
    return dict(response.json())


# The gate


@pytest.mark.parametrize(
    ("given", "asked", "available", "longest"),
    [
        (None, None, "0", 0),
        ("29.999999", None, "29.999999", 29),
        ("29", 3600, "29", 29),
        ("0.000001", 30, "0.000001", 0),
    ],
)
async def test_who_cannot_pay_the_shortest_session_is_told_what_is_missing(
    talktime: World, given: str | None, asked: int | None, available: str, longest: int
) -> None:
    user = talktime.user()
    if given is not None:
        await talktime.grant(user, given)
    with unchanged(talktime.service.database.conninfo):
        document = problem(await start(talktime, user, time_limit_s=asked), 402, "insufficient-credits")
    assert (document["available"], document["required"]) == (available, "30")
    assert document["max_time_limit_s"] == longest
    assert talktime.provider.starts == []


async def test_a_refusal_is_stored_with_its_key_and_with_nothing_else(talktime: World) -> None:
    user, key = await funded(talktime, "10"), uuid4().hex
    before = contents(talktime.service.database.conninfo)
    first = await start(talktime, user, key)
    after = contents(talktime.service.database.conninfo)
    assert [name for name in after if after[name] != before[name]] == ["idempotency"]
    await talktime.grant(user, "100")
    again = await start(talktime, user, key)
    problem(again, 402, "insufficient-credits")
    assert again.content == first.content
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert (await start(talktime, user, uuid4().hex)).status_code == 201


@pytest.mark.parametrize(
    ("given", "asked", "limit"),
    [("30", None, 30), ("100.999999", None, 100), ("100", 45, 45), ("100", 500, 100), ("99999", None, 3600),
     ("99999", 999999, 3600), ("1000", 3600, 1000), ("45", 45.999999, 45)],
)  # fmt: skip
async def test_a_session_may_last_as_long_as_asked_allowed_and_afforded(
    talktime: World, given: str, asked: float | None, limit: int
) -> None:
    user = await funded(talktime, given)
    session = await talktime.start(user, time_limit_s=asked)
    hold = format_credits(worst_case_under(DEFAULT_RATE_CARD, Micros(limit * 1_000_000)))
    assert (session["time_limit_s"], session["held"], session["authorized"]) == (limit, hold, hold)
    assert talktime.provider.starts[0]["time_limit_s"] == limit
    balance = await talktime.balance(user)
    assert (balance["balance"], balance["held"]) == (given, hold)


async def test_what_is_held_is_the_worst_case_of_the_sessions_card(talktime: World) -> None:
    name = f"dear-{uuid4().hex[:8]}"
    await publish(talktime, name, rates=rates("1", "6", "2"), connection_fee="2.5", minimum_charge="4")
    user = await funded(talktime, "1000")
    session = await talktime.start(user, time_limit_s=60, rate_card=name)
    assert session["held"] == "8.5"


async def test_the_provider_gets_what_was_asked_for_and_a_webhook_that_works(talktime: World) -> None:
    user = await funded(talktime)
    session = await talktime.start(user, persona="Dr. Ünïcode 😀", scenario="a/b?c#d")
    sent = talktime.provider.starts[0]
    assert set(sent) == {"persona", "scenario", "time_limit_s", "webhook"}
    assert (sent["persona"], sent["scenario"]) == ("Dr. Ünïcode 😀", "a/b?c#d")
    answer = await talktime.client.post(sent["webhook"], json={"session_id": session["provider_session_id"]})
    assert answer.status_code == 204


# The price


async def test_the_card_is_the_one_named_else_the_best_match_else_the_default(talktime: World) -> None:
    persona, scenario, mark = talktime.user(), talktime.user(), uuid4().hex[:6]
    both = await publish(talktime, f"both-{mark}", match={"persona": persona, "scenario": scenario})
    by_persona = await publish(talktime, f"persona-{mark}", match={"persona": persona})
    by_scenario = await publish(talktime, f"scenario-{mark}", match={"scenario": scenario})
    unmatched = await publish(talktime, f"unmatched-{mark}")
    table: list[tuple[dict[str, Any], str]] = [
        ({"persona": persona, "scenario": scenario}, both["id"]),
        ({"persona": persona, "scenario": "other"}, by_persona["id"]),
        ({"persona": "other", "scenario": scenario}, by_scenario["id"]),
        ({"persona": persona, "scenario": scenario, "rate_card": unmatched["id"]}, unmatched["id"]),
        ({"persona": persona, "scenario": scenario, "rate_card": unmatched["name"]}, unmatched["id"]),
        ({"rate_card": by_scenario["name"]}, by_scenario["id"]),
    ]
    for asked, card in table:
        user = await funded(talktime)
        assert (await talktime.start(user, **asked))["rate_card"]["id"] == card
    user = await funded(talktime)
    assert (await talktime.start(user))["rate_card"]["name"] == "default"


@pytest.mark.parametrize("named", ["no-such-card", "rc_" + "0" * 26, "DEFAULT"])
async def test_a_card_that_is_not_there_is_refused(talktime: World, named: str) -> None:
    user = await funded(talktime)
    with unchanged(talktime.service.database.conninfo):
        assert pointers(await start(talktime, user, rate_card=named)) == ["/rate_card"]


async def test_a_card_is_in_force_from_its_time_on(talktime: World) -> None:
    name = f"later-{uuid4().hex[:8]}"
    old = await publish(talktime, name)
    new = await publish(talktime, name, effective_at="2026-03-01T13:00:00Z", rates=rates("120"))
    assert (old["version"], new["version"]) == (1, 2)
    user = await funded(talktime, "1000")
    assert (await talktime.start(user, rate_card=name, time_limit_s=30))["rate_card"]["version"] == 1
    talktime.clock.advance(3_600)
    assert (await talktime.start(user, rate_card=name, time_limit_s=30))["rate_card"]["version"] == 2
    only_later = f"future-{uuid4().hex[:8]}"
    await publish(talktime, only_later, effective_at="2027-01-01T00:00:00Z")
    assert pointers(await start(talktime, user, rate_card=only_later)) == ["/rate_card"]


async def test_a_session_keeps_the_version_it_started_with(talktime: World) -> None:
    name = f"pinned-{uuid4().hex[:8]}"
    first = await publish(talktime, name)
    user = await funded(talktime)
    session = await talktime.start(user, rate_card=name)
    await publish(talktime, name, rates=rates("600", "600", "600"))
    talktime.provider.say(session["provider_session_id"], ("agent", 10))
    settled = await talktime.settle(session)
    assert (settled["charged"], settled["rate_card"]["id"]) == ("10", first["id"])


# Definite refusals

REFUSALS: list[tuple[int, Any, str]] = [
    (400, {"type": "usage_limit_exceeded", "message": "out of credit"}, "usage_limit_exceeded"),
    (400, {"type": "project_disabled", "message": "off"}, "project_disabled"),
    (400, {"type": "moderation_error", "message": "no"}, "moderation_error"),
    (400, ["odd"], "http_400"),
    (400, {"type": "<script>", "message": {"x": 1}}, "http_400"),
    (401, {"error": "key"}, "http_401"),
    (403, {}, "http_403"),
    (404, {}, "http_404"),
    (422, {"type": "invalid_input", "message": "not by a 400"}, "invalid_input"),
    (429, {"error": "slow down"}, "http_429"),
]


@pytest.mark.parametrize(("status", "said", "code"), REFUSALS)
async def test_a_refusal_fails_the_session_and_releases_its_hold(
    talktime: World, status: int, said: Any, code: str
) -> None:
    user = await funded(talktime)
    before = await talktime.balance(user)
    talktime.provider.start_status, talktime.provider.start_body = status, said
    document = problem(await start(talktime, user), 502, "provider-refused")
    assert (document["provider_status"], document["provider_code"]) == (status, code)
    session = await talktime.get(f"/v1/sessions/{document['session_id']}")
    assert (session["state"], session["held"], session["charged"]) == ("failed", "0", None)
    assert await talktime.balance(user) == before
    assert len(talktime.provider.starts) == 1


@pytest.mark.parametrize("path", ["/v1/sessions", "/api/start_session"])
async def test_a_persona_that_the_provider_does_not_take_is_the_callers_to_mend(talktime: World, path: str) -> None:
    user, headers = await funded(talktime), {"Idempotency-Key": uuid4().hex}
    before = await talktime.balance(user)
    talktime.provider.start_status = 400
    talktime.provider.start_body = {"type": "invalid_input", "message": "persona not found"}
    response = await talktime.client.post(path, json=order(user), headers=headers)
    document = problem(response, 422, "persona-not-accepted")
    assert document["detail"] == "persona not found"
    assert pointers(response) == ["/persona", "/scenario"]
    assert (document["provider_status"], document["provider_code"]) == (400, "invalid_input")
    session = await talktime.get(f"/v1/sessions/{document['session_id']}")
    assert (session["state"], session["held"], session["charged"]) == ("failed", "0", None)
    assert await talktime.balance(user) == before
    # Stored: the provider's change of mind does not reach this key.
    talktime.provider.start_status, talktime.provider.start_body = 200, None
    again = await talktime.client.post(path, json=order(user), headers=headers)
    assert (again.status_code, again.content) == (422, response.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["content-type"] == "application/problem+json"
    assert len(talktime.provider.starts) == 1


@pytest.mark.parametrize(
    ("said", "code", "detail"),
    [
        ({"type": "usage_limit_exceeded", "message": "out of credit: 7 left"}, "usage_limit_exceeded", None),
        (["odd"], "http_429", "http_429"),
        ({"type": "x", "message": "y." * 500}, "x", "y." * 150),
    ],
)
async def test_a_refusal_is_told_again_with_the_providers_reason(
    talktime: World, said: Any, code: str, detail: str | None
) -> None:
    user, key = await funded(talktime), uuid4().hex
    talktime.provider.start_status, talktime.provider.start_body = 429, said
    first = await start(talktime, user, key)
    document = problem(first, 502, "provider-refused")
    assert (document["provider_status"], document["provider_code"]) == (429, code)
    assert document["detail"] == (detail or said["message"])
    talktime.provider.start_status, talktime.provider.start_body = 200, None
    again = await start(talktime, user, key)
    assert (again.status_code, again.json()) == (502, document)
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers


async def test_a_provider_that_cannot_be_reached_has_refused(databases: WorkerDatabases) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = ScriptedProvider(f"http://127.0.0.1:{unused.getsockname()[1]}", "a-key-of-nobody")
        async with world(databases.urls.service, nobody) as talktime:
            user = await funded(talktime)
            first = problem(await start(talktime, user, "unreachable"), 502, "provider-refused")
            assert (first["provider_status"], first["provider_code"]) == (None, "unreachable")
            assert problem(await start(talktime, user, "unreachable"), 502) == first
            assert (await only_session(talktime, user))["state"] == "failed"
            assert (await talktime.balance(user))["available"] == "100"


async def test_nothing_that_the_provider_says_gives_away_a_secret(talktime: World) -> None:
    user = await funded(talktime)

    async def echo(body: dict[str, Any]) -> None:
        message = f"{talktime.provider.api_key} {body['webhook']} \u202e\u0000"
        talktime.provider.start_body = {"type": "invalid_input", "message": message}

    talktime.provider.before_start, talktime.provider.start_status = echo, 400
    response = await start(talktime, user)
    problem(response, 422, "persona-not-accepted")
    token = talktime.provider.starts[0]["webhook"].rpartition("/")[2]
    assert talktime.provider.api_key not in response.text
    assert token not in response.text
    for (why,) in ask(talktime.service.database.conninfo, "select why from session_steps"):
        assert talktime.provider.api_key not in why
        assert token not in why


# Ambiguous outcomes

AMBIGUOUS: list[tuple[int, Any]] = [
    (500, {"error": "broken"}),
    (503, {}),
    (302, {}),
    (304, {}),
    (200, {"odd": True}),
    (200, ["odd"]),
    (200, {"session": {"id": 7}, "connection_details": {"url": "u", "token": "t"}}),
    (200, {"session": {"id": "gab_x"}, "connection_details": {"url": "u"}}),
    (200, {"session": {"id": "gab_\u0000"}, "connection_details": {"url": "u", "token": "t"}}),
    (200, {"status": 500, "body": {"error": "within"}}),
]


@pytest.mark.parametrize(("status", "said"), AMBIGUOUS)
async def test_an_ambiguous_answer_leaves_the_hold_until_time_tells(talktime: World, status: int, said: Any) -> None:
    user = await funded(talktime)
    talktime.provider.start_status, talktime.provider.start_body = status, said
    document = problem(await start(talktime, user), 504, "provider-unconfirmed")
    session = await talktime.get(f"/v1/sessions/{document['session_id']}")
    assert (session["state"], session["held"], session["started_at"]) == ("unconfirmed", "100", None)
    assert (await talktime.balance(user))["available"] == "0"
    talktime.clock.advance(179)
    await talktime.reconcile()
    assert (await talktime.session(session))["state"] == "unconfirmed"
    talktime.clock.advance(1)
    await talktime.reconcile()
    failed = await talktime.session(session)
    assert (failed["state"], failed["held"], failed["charged"]) == ("failed", "0", None)
    assert (await talktime.balance(user))["available"] == "100"
    assert len(talktime.provider.starts) == 1


async def test_an_unconfirmed_session_is_not_given_up_before_its_time_when_somebody_looks(talktime: World) -> None:
    session = await talktime.start_unconfirmed(await funded(talktime))
    talktime.clock.advance(60)
    response = await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile")
    assert response.status_code == 200
    assert (response.json()["state"], response.json()["held"]) == ("unconfirmed", "100")
    assert (await talktime.heartbeat(session | {"provider_session_id": "gab_" + session["id"]})).status_code == 204
    assert (await talktime.session(session))["state"] == "live"


@pytest.fixture
async def impatient(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator[World]:
    """A service that waits a fifth of a second for the provider."""
    async with world(databases.urls.service, providers.script(), provider_timeout_s="0.2") as found:
        yield found


async def test_a_provider_that_hangs_leaves_the_start_unconfirmed(impatient: World) -> None:
    async def hang(_body: dict[str, Any]) -> None:
        await asyncio.sleep(0.6)

    impatient.provider.before_start = hang
    user = await funded(impatient)
    document = problem(await start(impatient, user), 504, "provider-unconfirmed")
    session = await only_session(impatient, user)
    assert (session["id"], session["state"], session["held"]) == (document["session_id"], "unconfirmed", "100")


async def test_looking_at_a_start_under_way_changes_nothing(talktime: World) -> None:
    """A refusal that comes after the look still releases the hold."""
    user = await funded(talktime)
    loop = asyncio.get_running_loop()
    looked: list[httpx.Response] = []

    async def look(_body: dict[str, Any]) -> None:
        async def now() -> httpx.Response:
            session = await only_session(talktime, user)
            assert session["state"] == "starting"
            return await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile")

        looked.append(await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(now(), loop)))

    talktime.provider.before_start, talktime.provider.start_status = look, 400
    problem(await start(talktime, user), 502, "provider-refused")
    assert [response.json()["state"] for response in looked] == ["starting"]
    assert (await talktime.balance(user))["available"] == "100"


async def test_a_session_that_only_a_heartbeat_confirmed_costs_nothing_before_the_user_speaks(
    talktime: World,
) -> None:
    session = await talktime.start_unconfirmed(await funded(talktime))
    session["provider_session_id"] = f"gab_{uuid4().hex}"
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 2), ("user", 3), ("agent", 4))
    await talktime.heartbeats_until(session, 30)
    settled = await talktime.settle(session)
    assert (settled["state"], settled["charged"]) == ("settled", "7")
    charge = await talktime.get(f"/v1/sessions/{session['id']}/charge")
    assert charge["not_billed"] == {"before_charge_start": 12}


async def test_a_provider_that_names_the_same_session_twice_started_it_once(talktime: World) -> None:
    user = await funded(talktime)
    first = await talktime.start(user, time_limit_s=40)
    talktime.provider.start_body = {
        "session": {"id": first["provider_session_id"]},
        "persona": "p",
        "scenario": "s",
        "connection_details": {"url": "u", "token": "t"},
    }
    document = problem(await start(talktime, user, time_limit_s=40), 504, "provider-unconfirmed")
    second = await talktime.get(f"/v1/sessions/{document['session_id']}")
    assert (second["state"], second["held"], second["provider_session_id"]) == ("unconfirmed", "40", None)
    assert (await talktime.session(first))["state"] == "live"


class Killed(BaseException):
    """The process died here."""


async def test_a_start_that_a_crash_cut_off_is_found_and_given_up(
    talktime: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await funded(talktime)

    async def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Gabber, "start", die)
        with pytest.raises(Killed):
            await start(talktime, user, "cut-off")
    session = await only_session(talktime, user)
    assert (session["state"], session["held"]) == ("starting", "100")
    problem(await start(talktime, user, "cut-off"), 409, "idempotency-in-flight")
    states = []
    for _ in range(40):
        talktime.clock.advance(5)
        await talktime.reconcile()
        states.append((await talktime.session(session))["state"])
    assert list(dict.fromkeys(states)) == ["starting", "unconfirmed", "failed"]
    assert states.index("unconfirmed") * 5 + 5 == 40
    assert (await talktime.balance(user))["available"] == "100"
    document = problem(await start(talktime, user, "cut-off"), 502, "provider-refused")
    assert document["detail"] == "no heartbeat came"
    assert talktime.provider.starts == []


# The same request again


async def test_fifty_identical_starts_are_one(talktime: World) -> None:
    user, key = await funded(talktime, "10000"), uuid4().hex
    answers = await asyncio.gather(*(start(talktime, user, key, time_limit_s=60) for _ in range(50)))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) <= {201, 409}
    assert statuses[201] >= 1
    for answer in answers:
        if answer.status_code == 409:
            problem(answer, 409, "idempotency-in-flight")
            assert int(answer.headers["retry-after"]) >= 1
    documents = {answer.content for answer in answers if answer.status_code == 201}
    assert len(documents) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers if answer.status_code == 201) == 1
    assert len(talktime.provider.starts) == 1
    session = await only_session(talktime, user)
    assert session["held"] == (await talktime.balance(user))["held"] == "60"


async def test_a_repeated_start_is_answered_as_the_first_time(talktime: World) -> None:
    user, key = await funded(talktime), uuid4().hex
    first = await start(talktime, user, key, metadata={"order": 7})
    assert first.status_code == 201
    assert "idempotency-replayed" not in first.headers
    talktime.clock.advance(600)
    again = await start(talktime, user, key, metadata={"order": 7})
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["connection_details"]["token"].startswith("connect-")
    assert len(talktime.provider.starts) == 1


async def test_another_request_with_the_same_key_is_refused(talktime: World) -> None:
    user, key = await funded(talktime), uuid4().hex
    assert (await start(talktime, user, key, time_limit_s=30)).status_code == 201
    with unchanged(talktime.service.database.conninfo):
        problem(await start(talktime, user, key, time_limit_s=31), 422, "idempotency-conflict")
        response = await talktime.client.post(
            "/api/start_session", json=order(user, time_limit_s=30), headers={"Idempotency-Key": key}
        )
        problem(response, 422, "idempotency-conflict")
        assert pointers(response) == ["/Idempotency-Key"]
    # A key is the user's own: another user's start with the same key is another start.
    assert (await start(talktime, await funded(talktime), key, time_limit_s=30)).status_code == 201


async def test_a_key_that_is_too_long_or_empty_is_refused_and_the_longest_is_not(talktime: World) -> None:
    user = await funded(talktime)
    for key in ("", "x" * 256):
        problem(await start(talktime, user, key), 422, "invalid-request")
    assert talktime.provider.starts == []
    assert (await start(talktime, user, "x" * 255)).status_code == 201


@pytest.mark.parametrize(
    ("status", "answer", "code"), [(500, 504, "provider-unconfirmed"), (400, 502, "provider-refused")]
)
async def test_a_repeated_start_that_did_not_succeed_says_what_became_of_it(
    talktime: World, status: int, answer: int, code: str
) -> None:
    user, key = await funded(talktime), uuid4().hex
    talktime.provider.start_status = status
    first = problem(await start(talktime, user, key), answer, code)
    again = problem(await start(talktime, user, key), answer, code)
    assert again["session_id"] == first["session_id"]
    talktime.clock.advance(200)
    await talktime.reconcile()
    last = problem(await start(talktime, user, key), 502, "provider-refused")
    assert last["session_id"] == first["session_id"]
    assert len(talktime.provider.starts) == 1


async def test_a_repeated_start_that_a_heartbeat_confirmed_is_live_without_a_connection(talktime: World) -> None:
    user, key = await funded(talktime), uuid4().hex
    talktime.provider.start_status = 500
    document = problem(await start(talktime, user, key), 504, "provider-unconfirmed")
    session = {"id": document["session_id"], "provider_session_id": f"gab_{uuid4().hex}"}
    await talktime.heartbeat(session)
    again = await start(talktime, user, key)
    assert (again.status_code, again.json()["connection_details"]) == (201, None)
    assert again.json()["session"]["state"] == "live"
    assert again.headers["idempotency-replayed"] == "true"


async def test_while_the_answer_may_still_come_a_heartbeat_does_not_answer_for_it(talktime: World) -> None:
    """A repeated request that were told "live, without a connection" would make the client give up what it gets."""
    user, key = await funded(talktime), uuid4().hex
    provider_id = f"gab_{uuid4().hex}"
    loop = asyncio.get_running_loop()
    meanwhile: list[httpx.Response] = []

    async def before(body: dict[str, Any]) -> None:
        async def beat_and_repeat() -> httpx.Response:
            beat = await talktime.client.post(body["webhook"], json={"session_id": provider_id})
            assert beat.status_code == 204
            return await start(talktime, user, key)

        meanwhile.append(await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(beat_and_repeat(), loop)))

    talktime.provider.before_start = before
    talktime.provider.start_body = {
        "session": {"id": provider_id},
        "connection_details": {"url": "wss://rtc.example", "token": "t"},
    }
    first = await start(talktime, user, key)
    problem(meanwhile[0], 409, "idempotency-in-flight")
    assert first.json()["connection_details"]["token"] == "t"
    assert (await start(talktime, user, key)).content == first.content


async def test_a_connection_is_given_again_for_an_hour_and_while_the_session_lives(talktime: World) -> None:
    user, keys = await funded(talktime, "10000"), [uuid4().hex, uuid4().hex]
    short, long = [(await start(talktime, user, key, time_limit_s=3600)).json()["session"] for key in keys]
    talktime.provider.say(short["provider_session_id"], ("agent", 5))
    talktime.provider.say(long["provider_session_id"], ("agent", 5))
    await talktime.heartbeats_until(short, 30)
    assert (await talktime.settle(short))["state"] == "settled"
    gone = await start(talktime, user, keys[0], time_limit_s=3600)
    assert (gone.status_code, gone.json()["connection_details"]) == (201, None)
    sealed = (
        "select count(*) from idempotency i join sessions s on (s.account_id, s.start_key) = (i.account_id, i.key_hash)"
    )
    sealed += f" where s.id = '{talktime.key(short).id}' and i.sealed is not null"
    assert ask(talktime.service.database.conninfo, sealed) == [(0,)]
    assert (await start(talktime, user, keys[1], time_limit_s=3600)).json()["connection_details"] is not None
    talktime.clock.advance(3600)
    late = await start(talktime, user, keys[1], time_limit_s=3600)
    assert (late.status_code, late.json()["connection_details"]) == (201, None)


async def test_a_connections_token_is_stored_nowhere_in_clear(talktime: World) -> None:
    user = await funded(talktime)
    response = await start(talktime, user, uuid4().hex)
    token = response.json()["connection_details"]["token"]
    webhook = talktime.provider.starts[0]["webhook"].rpartition("/")[2]
    for table in contents(talktime.service.database.conninfo):
        for secret in (token, webhook):
            hits = ask(
                talktime.service.database.conninfo,
                f"select count(*) from {table} t where t::text like '%{secret}%' or t::text like "
                f"'%{secret.encode().hex()}%'",
            )
            assert hits == [(0,)], table


async def test_a_grant_with_a_key_is_given_once(talktime: World) -> None:
    user, key = talktime.user(), uuid4().hex

    async def grant(amount: str) -> httpx.Response:
        return await talktime.client.post(
            f"/v1/users/{user}/grants", json={"amount": amount}, headers={"Idempotency-Key": key}
        )

    answers = await asyncio.gather(*(grant("5") for _ in range(20)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    assert sum(answer.headers.get("idempotency-replayed") != "true" for answer in answers) >= 1
    problem(await grant("6"), 422, "idempotency-conflict")
    assert (await talktime.balance(user))["balance"] == "5"


async def test_a_grant_with_a_reference_is_given_once(talktime: World) -> None:
    user = talktime.user()

    async def grant(amount: str) -> httpx.Response:
        return await talktime.client.post(f"/v1/users/{user}/grants", json={"amount": amount, "reference": "invoice 7"})

    answers = await asyncio.gather(*(grant("5") for _ in range(10)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 9}
    assert len({answer.json()["id"] for answer in answers}) == 1
    problem(await grant("6"), 409, "reference-conflict")
    assert (await talktime.balance(user))["balance"] == "5"


# Many at once


async def test_of_many_starts_at_once_as_many_are_admitted_as_are_paid_for(talktime: World) -> None:
    user = await funded(talktime, "245")
    answers = await asyncio.gather(*(start(talktime, user, time_limit_s=35) for _ in range(64)))
    assert Counter(answer.status_code for answer in answers) == {201: 7, 402: 57}
    balance = await talktime.balance(user)
    assert (balance["held"], balance["available"]) == ("245", "0")
    assert len(talktime.provider.starts) == 7
    held = ask(
        talktime.service.database.conninfo,
        f"select min(held_after), max(held_after) from hold_changes where account_id = "
        f"(select account_id from accounts where user_id = '{user}')",
    )
    assert held == [(35_000_000, 245_000_000)]


# The guide's own call


async def test_the_guides_call_answers_the_connection_alone(talktime: World) -> None:
    user, key = await funded(talktime), uuid4().hex
    headers = {"Idempotency-Key": key}
    first = await talktime.client.post("/api/start_session", json=order(user), headers=headers)
    assert first.status_code == 200
    assert set(first.json()) == {"url", "token"}
    session = await only_session(talktime, user)
    assert (first.headers["x-session-id"], session["state"]) == (session["id"], "live")
    again = await talktime.client.post("/api/start_session", json=order(user), headers=headers)
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["x-session-id"] == session["id"]
    assert again.headers["idempotency-replayed"] == "true"


async def test_the_guides_call_refuses_as_the_other_one_does(talktime: World) -> None:
    user = talktime.user()
    problem(await talktime.client.post("/api/start_session", json=order(user)), 402, "insufficient-credits")
    await talktime.grant(user, "100")
    response = await talktime.client.post("/api/start_session", json=order(user, time_limit_s=29))
    assert pointers(response) == ["/time_limit_s"]
    for field in ("rate_card", "metadata"):
        response = await talktime.client.post("/api/start_session", json=order(user, **{field: "x"}))
        assert pointers(response) == [f"/{field}"]
    talktime.provider.start_status = 400
    problem(await talktime.client.post("/api/start_session", json=order(user)), 502, "provider-refused")
    talktime.provider.start_status = 500
    document = problem(await talktime.client.post("/api/start_session", json=order(user)), 504, "provider-unconfirmed")
    assert document["session_id"].startswith("ses_")


@pytest.mark.parametrize("status", [400, 500])
async def test_an_answer_that_a_heartbeat_overtook_and_that_is_no_connection_is_the_same_again(
    talktime: World, status: int
) -> None:
    """The session runs, whatever the provider says: 201 at once and for ever, never first an error and then that."""
    user, key = await funded(talktime), uuid4().hex
    loop = asyncio.get_running_loop()

    async def before(body: dict[str, Any]) -> None:
        beat = talktime.client.post(body["webhook"], json={"session_id": f"gab_{uuid4().hex}"})
        answered = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(beat, loop))
        assert answered.status_code == 204

    talktime.provider.before_start = before
    talktime.provider.start_status = status
    first = await start(talktime, user, key)
    assert (first.status_code, first.json()["connection_details"]) == (201, None)
    assert first.json()["session"]["state"] == "live"
    assert "idempotency-replayed" not in first.headers
    again = await start(talktime, user, key)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert len(talktime.provider.starts) == 1


async def test_what_became_of_a_start_is_marked_as_an_answer_to_a_repeated_request(talktime: World) -> None:
    user, key = await funded(talktime), uuid4().hex
    talktime.provider.start_status = 500
    first = await start(talktime, user, key)
    assert "idempotency-replayed" not in first.headers
    again = await start(talktime, user, key)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (504, "true")
    talktime.clock.advance(200)
    await talktime.reconcile()
    failed = await start(talktime, user, key)
    assert (failed.status_code, failed.headers["idempotency-replayed"]) == (502, "true")
    await talktime.heartbeat({"id": first.json()["session_id"], "provider_session_id": f"gab_{uuid4().hex}"})
    revived = await start(talktime, user, key)
    assert (revived.status_code, revived.json()["session"]["state"]) == (201, "review")
    assert revived.headers["idempotency-replayed"] == "true"


async def test_a_refusal_for_too_many_requests_says_when_to_try_again(talktime: World) -> None:
    user = await funded(talktime)
    talktime.provider.start_status = 429
    talktime.provider.retry_after = "17"
    refused = await start(talktime, user)
    assert problem(refused, 502, "provider-refused")["provider_status"] == 429
    assert refused.headers["retry-after"] == "17"
