"""What is set for a user or for all: limits on sessions and spending, the stop for starts, alerts."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from app.accounts.controls import ControlChangesDocument, change_controls
from app.core.access import Actor
from app.core.lossless_json import loads
from app.core.units import parse_instant
from app.db.tables import settings
from app.documents import validate
from tests.integration.test_corrections import audited, done, events, patch, settled
from tests.support.postgres import ask
from tests.support.problems import pointers, problem
from tests.support.unchanged import unchanged
from tests.support.world import World

pytestmark = pytest.mark.anyio

DAY = 86_400


async def start(talktime: World, user: str, **asked: Any) -> httpx.Response:
    body = {"user_id": user, "persona": "tutor", "scenario": "talk", **asked}
    return await talktime.client.post("/v1/sessions", json=body)


def told(talktime: World, user: str, *kinds: str) -> list[tuple[str, Any]]:
    """The events of these kinds, less the user's id."""
    return [
        (kind, {name: value for name, value in data.items() if name != "user_id"})
        for kind, data in events(talktime, user)
        if kind.startswith(kinds)
    ]


# One user's settings


async def test_settings_are_changed_shown_and_taken_away(talktime: World) -> None:
    user = talktime.user()
    plain = {
        "user_id": user, "credit_limit": "0", "rate_card": None, "default_time_limit_s": None,
        "max_concurrent_sessions": None, "spend_limits": {"day": None, "month": None}, "suspended": False,
        "alerts": None, "alert_level": None, "created_at": "2026-03-01T12:00:00.000000Z",
    }  # fmt: skip
    problem(await talktime.client.get(f"/v1/users/{user}"), 404, "not-found")
    assert await patch(talktime, user) == plain
    changes = {
        "credit_limit": "12.5", "rate_card": "default", "default_time_limit_s": 60, "max_concurrent_sessions": 2,
        "spend_limits": {"day": "5", "month": None}, "suspended": True,
        "alerts": {"low_credits": "3", "low_talk_time_s": None},
    }  # fmt: skip
    changed = await patch(talktime, user, **changes, reason="a good customer")
    assert changed == plain | changes
    assert await talktime.get(f"/v1/users/{user}") == changed
    ((actor, target, before, after, reason),) = audited(talktime, user, "user.change")
    assert (actor, target, reason) == ("bootstrap", user, "a good customer")
    assert before == {name: plain[name] for name in changes}
    assert after == changes
    assert await patch(talktime, user, suspended=False) == changed | {"suspended": False}
    nothing = {"rate_card": None, "default_time_limit_s": None, "max_concurrent_sessions": None, "alerts": None}
    assert await patch(talktime, user, **nothing, spend_limits=None, credit_limit="0") == plain
    limits = "select n, l.credit_limit, reason from limit_changes l join accounts a using (account_id) where "
    assert ask(talktime.service.database.conninfo, f"{limits} a.user_id = '{user}' order by n") == [
        (1, 12_500_000, "a good customer"), (2, 0, "changed"),
    ]  # fmt: skip


BAD_CHANGES: list[tuple[dict[str, Any], list[str]]] = [
    ({"credit_limit": "-1"}, ["/credit_limit"]),
    ({"credit_limit": 5}, ["/credit_limit"]),
    ({"credit_limit": None}, [""]),
    ({"suspended": None}, [""]),
    ({"suspended": "yes"}, ["/suspended"]),
    ({"rate_card": "nowhere"}, ["/rate_card"]),
    ({"default_time_limit_s": 29.999999}, ["/default_time_limit_s"]),
    ({"default_time_limit_s": "60"}, ["/default_time_limit_s"]),
    ({"max_concurrent_sessions": 0}, ["/max_concurrent_sessions"]),
    ({"max_concurrent_sessions": 1.5}, ["/max_concurrent_sessions"]),
    ({"spend_limits": {"day": "-1"}}, ["/spend_limits/day"]),
    ({"spend_limits": {"week": "1"}}, ["/spend_limits/week"]),
    ({"alerts": {"low_credits": "0"}}, ["/alerts/low_credits"]),
    ({"alerts": {"low_talk_time_s": 0}}, ["/alerts/low_talk_time_s"]),
    ({"alerts": {"low_talk_time_s": 60, "low_credits": "1"}}, ["/alerts"]),
    ({"balance": "100"}, ["/balance"]),
    ({"reason": ""}, ["/reason"]),
]


@pytest.mark.parametrize(("body", "at"), BAD_CHANGES, ids=[str(body) for body, _ in BAD_CHANGES])
async def test_bad_changes_point_at_the_place(talktime: World, body: dict[str, Any], at: list[str]) -> None:
    with unchanged(talktime.service.database.conninfo):
        assert pointers(await talktime.client.patch(f"/v1/users/{talktime.user()}", json=body)) == at


async def test_a_credit_limit_under_the_debt_only_stops_starts(talktime: World) -> None:
    user = talktime.user()
    await patch(talktime, user, credit_limit="100")
    session = await settled(talktime, user)
    assert session["charged"] == "15"
    await patch(talktime, user, credit_limit="10")
    balance = await talktime.balance(user)
    assert (balance["balance"], balance["available"], balance["credit_limit"]) == ("-15", "-5", "10")
    problem(await start(talktime, user), 402, "insufficient-credits")


async def test_a_suspended_user_starts_nothing_and_what_runs_goes_on(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await talktime.start(user, time_limit_s=30)
    await patch(talktime, user, suspended=True)
    problem(await start(talktime, user), 409, "user-suspended")
    assert (await talktime.heartbeat(session)).status_code == 204
    await patch(talktime, user, suspended=False)
    assert (await start(talktime, user)).status_code == 201


async def test_a_user_has_no_more_sessions_at_once_than_allowed(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    await patch(talktime, user, max_concurrent_sessions=2)
    answers = await asyncio.gather(*(start(talktime, user, time_limit_s=30) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201, 201, 409, 409, 409, 409]
    assert {answer.json().get("type") for answer in answers} == {None, "/problems/too-many-sessions"}


async def test_the_default_time_limit_and_the_own_card_are_used(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    rates = {"user": "30", "agent": "30", "silence": "30"}
    card = await talktime.client.post("/v1/rate-cards", json={"name": f"own-{user}", "rates": rates})
    await patch(talktime, user, default_time_limit_s=90, rate_card=card.json()["name"])
    session = (await start(talktime, user)).json()["session"]
    assert (session["time_limit_s"], session["held"], session["rate_card"]["name"]) == (90, "45", f"own-{user}")
    assert (await start(talktime, user, time_limit_s=30)).json()["session"]["time_limit_s"] == 30


# Spending


async def test_a_session_is_shortened_to_what_may_still_be_spent(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    await patch(talktime, user, spend_limits={"day": "100", "month": "160"})
    await settled(talktime, user)  # 15
    session = (await start(talktime, user)).json()["session"]
    assert (session["time_limit_s"], session["held"]) == (85, "85")
    document = problem(await start(talktime, user), 409, "spend-limit-reached")
    assert {name: document[name] for name in ("period", "limit", "charged", "held", "resets_at")} == {
        "period": "day", "limit": "100", "charged": "15", "held": "85", "resets_at": "2026-03-02T00:00:00.000000Z",
    }  # fmt: skip


async def test_limits_begin_anew_with_the_day_and_the_month(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    await patch(talktime, user, spend_limits={"day": "40", "month": "60"})
    talktime.clock.set(parse_instant("2026-03-30T12:00:00Z"))
    await settled(talktime, user)
    assert problem(await start(talktime, user), 409)["period"] == "day"  # 25 are left
    talktime.clock.set(parse_instant("2026-03-31T12:00:00Z"))
    await settled(talktime, user)
    talktime.clock.set(parse_instant("2026-03-31T23:59:59.999999Z"))
    problem(await start(talktime, user), 409, "spend-limit-reached")
    talktime.clock.advance(0.000001)
    assert (await start(talktime, user)).json()["session"]["time_limit_s"] == 40


async def test_a_refund_gives_room_again(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    await patch(talktime, user, spend_limits={"month": "40"})
    session = await settled(talktime, user)
    problem(await start(talktime, user), 409, "spend-limit-reached")
    await done(talktime, f"/v1/sessions/{session['id']}/refund", amount="5")
    assert (await start(talktime, user)).json()["session"]["time_limit_s"] == 30


async def test_a_refund_gives_room_in_the_day_of_the_charge_only(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    session = await settled(talktime, user)
    talktime.clock.advance(DAY)
    await patch(talktime, user, spend_limits={"day": "40"})
    await done(talktime, f"/v1/sessions/{session['id']}/refund")
    assert (await start(talktime, user)).json()["session"]["held"] == "40"


async def test_too_few_credits_are_told_before_a_limit(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "10")
    await patch(talktime, user, spend_limits={"day": "1"})
    assert problem(await start(talktime, user), 402, "insufficient-credits")["available"] == "10"


# For all


async def set_for_all(talktime: World, **changes: Any) -> dict[str, Any]:
    response = await talktime.client.patch("/v1/settings", json=changes)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def test_all_starts_can_be_stopped(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    running = await talktime.start(user, time_limit_s=30)
    try:
        shown = await set_for_all(talktime, starts_stopped=True, reason="the provider burns")
        assert (shown["starts_stopped"], shown["starts_stopped_reason"]) == (True, "the provider burns")
        before = await talktime.balance(user)
        response = await start(talktime, user)
        assert "the provider burns" in problem(response, 503, "starts-stopped")["detail"]
        assert response.headers["retry-after"]
        assert await talktime.balance(user) == before
        assert (await talktime.heartbeat(running)).status_code == 204
    finally:
        await set_for_all(talktime, starts_stopped=False)
    assert (await start(talktime, user)).status_code == 201
    assert (await talktime.get("/v1/settings"))["starts_stopped_reason"] is None
    nil = "select action, reason from audit_log where account_id = '00000000-0000-0000-0000-000000000000' order by id"
    assert ("settings.change", "the provider burns") in ask(talktime.service.database.conninfo, nil)


async def test_a_stop_for_starts_outlives_another_change_at_the_same_moment(talktime: World) -> None:
    database, ids = talktime.service.database, talktime.service.ledger.ids
    was = await set_for_all(talktime, starts_stopped=False)
    waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"

    async def change(body: dict[str, Any]) -> None:
        """As by another process: within one, they take turns."""
        asked = validate(ControlChangesDocument, loads(json.dumps(body)))
        async with database.transaction() as transaction:
            await change_controls(transaction, ids, asked, talktime.clock.now(), Actor("a test"))

    try:
        async with asyncio.timeout(20), database.transaction() as transaction:
            await transaction.execute(select(settings).with_for_update())
            bodies = ({"starts_stopped": True}, {"expiring_before_s": 7_200})
            changes = [asyncio.create_task(change(body)) for body in bodies]
            while ask(database.conninfo, waiting) != [(2,)]:  # noqa: ASYNC110  another process changes it
                await asyncio.sleep(0.01)
        await asyncio.gather(*changes)
        found = await talktime.get("/v1/settings")
        assert (found["starts_stopped"], found["expiring_before_s"]) == (True, 7_200)
    finally:
        await set_for_all(talktime, starts_stopped=False, expiring_before_s=was["expiring_before_s"])


async def test_bad_settings_point_at_the_place(talktime: World) -> None:
    with unchanged(talktime.service.database.conninfo):
        for body, at in (
            ({"starts_stopped": 1}, "/starts_stopped"),
            ({"starts_stopped": None}, ""),
            ({"alerts": None}, ""),
            ({"expiring_before_s": 0}, "/expiring_before_s"),
            ({"alerts": {"low_credits": "x"}}, "/alerts/low_credits"),
            ({"stop": True}, "/stop"),
        ):
            assert pointers(await talktime.client.patch("/v1/settings", json=body)) == [at]


# Alerts


async def take(talktime: World, user: str, amount: str) -> None:
    await done(talktime, f"/v1/users/{user}/adjustments", amount=amount)


async def test_alerts_come_at_edges_and_are_armed_again_at_a_fifth_more(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    await patch(talktime, user, alerts={"low_credits": "100"})
    assert told(talktime, user, "balance.") == []
    await take(talktime, user, "-0.000001")
    low = ("balance.low", {"balance": "99.999999", "level": "low", "threshold": "100"})
    assert told(talktime, user, "balance.") == [low]
    await take(talktime, user, "-10")
    await take(talktime, user, "29.999999")
    assert told(talktime, user, "balance.") == [low]  # back at 119.999998: not yet armed
    await take(talktime, user, "0.000002")
    recovered = ("balance.recovered", {"balance": "120", "level": "ok"})
    assert told(talktime, user, "balance.") == [low, recovered]
    await take(talktime, user, "-91")
    depleted = ("balance.depleted", {"balance": "29", "level": "depleted", "threshold": "30"})
    again = ("balance.low", {"balance": "29", "level": "depleted", "threshold": "100"})
    assert told(talktime, user, "balance.") == [low, recovered, again, depleted]
    await take(talktime, user, "6.999999")
    await take(talktime, user, "0.000001")  # 36 = 1.2 times 30
    partly = ("balance.recovered", {"balance": "36", "level": "low"})
    assert told(talktime, user, "balance.") == [low, recovered, again, depleted, partly]
    assert (await talktime.get(f"/v1/users/{user}"))["alert_level"] == "low"


async def test_starts_are_no_alerts_and_settlements_are(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    await patch(talktime, user, alerts={"low_talk_time_s": 90})
    session = await talktime.start(user)
    assert (await talktime.balance(user))["available"] == "0"
    assert told(talktime, user, "balance.") == []
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 20))
    await talktime.heartbeats_until(session, 30)
    await talktime.service.reconciler.reconcile(talktime.key(session), now_please=True)
    await talktime.settle(session)
    assert told(talktime, user, "balance.") == [("balance.low", {"balance": "85", "level": "low", "threshold": "90"})]


async def test_expiry_is_an_edge_too_and_so_is_a_threshold_that_rises_past_the_balance(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    await talktime.grant(user, "100", expires_at="2026-03-02T00:00:00Z")
    await patch(talktime, user, alerts={"low_credits": "60"})
    talktime.clock.advance(DAY)
    await talktime.service.post_due()
    low = ("balance.low", {"balance": "50", "level": "low", "threshold": "60"})
    assert told(talktime, user, "balance.") == [low]
    await patch(talktime, user, alerts={})
    assert told(talktime, user, "balance.") == [low]  # nobody asks any more: nothing has recovered
    await patch(talktime, user, alerts={"low_credits": "51"})
    risen = ("balance.low", {"balance": "50", "level": "low", "threshold": "51"})
    assert told(talktime, user, "balance.") == [low, risen]


async def test_users_without_alerts_of_their_own_have_those_of_all(talktime: World) -> None:
    user, own = talktime.user(), talktime.user()
    try:
        shown = await set_for_all(talktime, alerts={"low_credits": "200"})
        assert shown["alerts"] == {"low_credits": "200", "low_talk_time_s": None}
        await patch(talktime, own, alerts={})
        for one in (user, own):
            await talktime.grant(one, "200")
            await take(talktime, one, "-1")
        assert [kind for kind, _ in told(talktime, user, "balance.")] == ["balance.low"]
        assert told(talktime, own, "balance.") == []
    finally:
        await set_for_all(talktime, alerts={})


async def test_the_audit_log_shows_changed_numbers(talktime: World) -> None:
    changed = await talktime.client.patch("/v1/settings", json={"expiring_before_s": 7200.5})
    assert changed.status_code == 200
    row = (await talktime.get(f"/v1/audit-log?request_id={changed.headers['x-request-id']}"))["data"][0]
    assert row["after"]["expiring_before_s"] == 7200.5
    assert (await talktime.client.patch("/v1/settings", json={"expiring_before_s": 259200})).status_code == 200
