"""Balances now and in the past."""

from typing import Any

import pytest

from app.core.ids import account_id_of
from tests.support.postgres import ask
from tests.support.world import World

pytestmark = pytest.mark.anyio


async def at(talktime: World, user: str, instant: str) -> dict[str, Any]:
    return dict(await talktime.get(f"/v1/users/{user}/balance?at={instant}"))


async def test_a_balance_of_the_past_is_what_was_booked_by_then(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100", expires_at="2026-03-01T13:00:00Z")  # at 12:00
    talktime.clock.advance(60)
    await talktime.start(user, time_limit_s=40)  # at 12:01
    talktime.clock.advance(60)
    now = await talktime.balance(user)
    assert (now["balance"], now["held"], now["available"]) == ("100", "40", "60")
    told = [
        (await at(talktime, user, f"2026-03-01T{time}Z"))
        for time in ("11:59:59.999999", "12:00:00", "12:00:59.999999", "12:01:00", "12:02:00")
    ]
    assert [(one["balance"], one["held"], one["available"]) for one in told] == [
        ("0", "0", "0"),
        ("100", "0", "100"),
        ("100", "0", "100"),
        ("100", "40", "60"),
        ("100", "40", "60"),
    ]
    assert told[1]["as_of"] == "2026-03-01T12:00:00.000000Z"
    assert all(one[name] is None for one in told for name in ("accrued", "talk_time_s", "expiring_next"))


async def test_the_past_is_that_of_the_books(talktime: World) -> None:
    """An expiry counts from when it was booked; the balance now counts it at once."""
    user = talktime.user()
    await talktime.grant(user, "100", expires_at="2026-03-01T13:00:00Z")
    talktime.clock.advance(7200)
    assert (await talktime.balance(user))["balance"] == "0"
    assert (await at(talktime, user, "2026-03-01T13:30:00Z"))["balance"] == "100"
    await talktime.grant(user, "1")  # books the expiry, at 14:00
    assert (await at(talktime, user, "2026-03-01T13:30:00Z"))["balance"] == "100"
    assert (await at(talktime, user, "2026-03-01T14:00:00Z"))["balance"] == "1"


@pytest.mark.parametrize("instant", ["2026-03-01T12:00:00.000001Z", "9999-12-31T23:59:59Z", "yesterday", ""])
async def test_an_instant_to_come_or_none_at_all_is_refused(talktime: World, instant: str) -> None:
    user = talktime.user()
    await talktime.grant(user, "1")
    response = await talktime.client.get(f"/v1/users/{user}/balance", params={"at": instant})
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, "/at")


async def test_the_past_of_a_user_never_seen_is_not_found(talktime: World) -> None:
    response = await talktime.client.get(f"/v1/users/{talktime.user()}/balance?at=2026-01-01T00:00:00Z")
    assert response.status_code == 404


@pytest.mark.parametrize("instant", ["0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z"])
async def test_long_ago_there_was_nothing(talktime: World, instant: str) -> None:
    user = talktime.user()
    await talktime.grant(user, "1")
    assert (await at(talktime, user, instant))["available"] == "0"


async def test_what_expires_next_leaves_out_what_is_held(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "30", expires_at="2026-03-01T13:00:00Z")
    await talktime.grant(user, "5", expires_at="2026-03-01T13:00:00Z")
    await talktime.grant(user, "50", expires_at="2026-03-01T14:00:00Z")
    await talktime.grant(user, "7", effective_at="2026-03-01T12:30:00Z", expires_at="2026-03-01T12:45:00Z")
    soon = {"amount": "35", "at": "2026-03-01T13:00:00.000000Z"}
    assert (await talktime.balance(user))["expiring_next"] == soon
    await talktime.start(user, time_limit_s=32)
    assert (await talktime.balance(user))["expiring_next"] == soon | {"amount": "3"}
    await talktime.start(user, time_limit_s=31)
    later = {"amount": "22", "at": "2026-03-01T14:00:00.000000Z"}
    assert (await talktime.balance(user))["expiring_next"] == later
    talktime.clock.advance(1800)
    due = {"amount": "7", "at": "2026-03-01T12:45:00.000000Z"}
    assert (await talktime.balance(user))["expiring_next"] == due


async def test_talk_time_is_what_is_available_at_the_users_own_prices(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    assert (await talktime.balance(user))["talk_time_s"] == 100
    await talktime.start(user, time_limit_s=40)
    assert (await talktime.balance(user))["talk_time_s"] == 60
    card = {"name": f"card-{user}", "rates": {"user": "60", "agent": "120", "silence": "0"}, "connection_fee": "10"}
    published = await talktime.client.post("/v1/rate-cards", json=card)
    assert published.status_code == 201, published.text
    book = f"update accounts set rate_card = '{card['name']}' where account_id = '{account_id_of(user)}' returning 1"
    ask(talktime.service.database.conninfo, book)
    assert (await talktime.balance(user))["talk_time_s"] == 25


async def test_accrued_counts_running_sessions_only(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "200")
    first, second = [await talktime.start(user, time_limit_s=60) for _ in range(2)]
    for session in (first, second):
        talktime.provider.say(session["provider_session_id"], ("agent", 5), ("user", 4))
    talktime.clock.advance(10)
    for session in (first, second):
        assert (await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile")).status_code == 200
    accrued = float((await talktime.balance(user))["accrued"])
    assert accrued >= 10
    await talktime.heartbeats_until(first, 30)
    await talktime.settle(first)
    await talktime.settle(second)
    assert (await talktime.balance(user))["accrued"] == "0"
