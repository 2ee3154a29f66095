"""What time brings to accounts that nobody touches, answers that are forgotten, and who does it."""

import asyncio
from typing import Any

import pytest

from app.core.units import US_PER_MINUTE, US_PER_S, Instant, Micros, parse_instant
from app.schedule.jobs import LEASE, Jobs
from tests.integration.test_limits_and_alerts import set_for_all, told
from tests.support.clock import ManualClock
from tests.support.postgres import WorkerDatabases, ask, tell
from tests.support.problems import problem
from tests.support.world import World

pytestmark = pytest.mark.anyio

DAY = 86_400


def next_due(talktime: World, user: str) -> list[tuple[Any, ...]]:
    return ask(talktime.service.database.conninfo, f"select next_due_at is null from accounts where user_id = '{user}'")


async def test_the_job_posts_what_time_brings_and_respects_holds(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100", expires_at="2026-03-01T13:00:00Z")
    await talktime.grant(user, "7", effective_at="2026-03-01T13:00:00Z")
    session = await talktime.start(user, time_limit_s=60)
    await talktime.service.post_due()
    assert len((await talktime.get(f"/v1/users/{user}/entries"))["data"]) == 1
    talktime.clock.advance(3600)
    await talktime.service.post_due()
    posted = [(entry["kind"], entry["amount"]) for entry in (await talktime.get(f"/v1/users/{user}/entries"))["data"]]
    assert posted == [("expiry", "-40"), ("grant", "7"), ("grant", "100")]
    assert next_due(talktime, user) == [(True,)]
    assert [kind for kind, _ in told(talktime, user, "grant.expired")] == ["grant.expired"]
    assert (await talktime.session(session))["held"] == "60"


async def test_an_account_that_is_broken_stops_no_other(talktime: World) -> None:
    broken, sound = talktime.user(), talktime.user()
    for user in (broken, sound):
        await talktime.grant(user, "5", expires_at="2026-03-01T13:00:00Z")
    conninfo = talktime.service.database.conninfo
    tell(conninfo, f"update accounts set balance = balance + 1 where user_id = '{broken}'")
    talktime.clock.advance(3601)
    await talktime.service.post_due()
    assert (next_due(talktime, broken), next_due(talktime, sound)) == ([(False,)], [(True,)])
    tell(conninfo, f"update accounts set balance = balance - 1 where user_id = '{broken}'")
    talktime.clock.advance(1)
    await talktime.service.post_due()
    assert next_due(talktime, broken) == [(True,)]


async def test_what_expires_soon_is_said_once(talktime: World) -> None:
    user = talktime.user()
    grant = await talktime.grant(user, "100", expires_at="2026-03-10T00:00:00Z")
    await talktime.grant(user, "50")
    for instant, times in (("2026-03-06T23:59:58Z", 0), ("2026-03-07T00:00:00Z", 1), ("2026-03-08T00:00:00Z", 1)):
        talktime.clock.set(parse_instant(instant))
        await talktime.service.post_due()
        assert len(told(talktime, user, "grant.expiring")) == times, instant
    expires = {"grant_id": grant["id"], "remaining": "100", "expires_at": "2026-03-10T00:00:00.000000Z"}
    assert told(talktime, user, "grant.expiring") == [("grant.expiring", expires)]


async def test_when_expiring_grants_are_announced_can_be_set(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100", expires_at="2026-03-20T00:00:00Z")
    try:
        await set_for_all(talktime, expiring_before_s=30 * DAY)
        talktime.clock.advance(2)
        await talktime.service.post_due()
        assert len(told(talktime, user, "grant.expiring")) == 1
    finally:
        await set_for_all(talktime, expiring_before_s=3 * DAY)


async def test_a_grant_that_somebody_put_into_the_table_never_becomes_credits(
    talktime: World, databases: WorkerDatabases
) -> None:
    user = talktime.user()
    await talktime.grant(user, "5")
    await talktime.grant(user, "3", effective_at="2026-03-01T13:00:00Z")
    conninfo = talktime.service.database.conninfo
    mine = f"account_id = (select account_id from accounts where user_id = '{user}')"
    for signature in ("terms_key, terms_mac", "null, null", "'unknown', terms_mac"):
        tell(
            conninfo,
            "insert into grants select account_id, gen_random_uuid(), kind, 0, 900000000, effective_at, expires_at, "
            "cost_basis, 'forged ' || gen_random_uuid(), metadata, created_at, 900000000, 0, 'scheduled', false, "
            f"{signature} from grants where state = 'scheduled' and reference is null and {mine}",
        )
    try:
        talktime.clock.advance(3600)
        assert (await talktime.balance(user))["balance"] == "8"
        await talktime.service.post_due()
        assert (await talktime.balance(user))["balance"] == "8"
        assert ask(conninfo, f"select count(*) from grants where state = 'active' and {mine}") == [(2,)]
    finally:
        tell(databases.urls.owner, f"delete from grants where reference like 'forged %' and {mine}")
        talktime.clock.advance(1)
        await talktime.grant(user, "1")  # what is due next is worked out again


async def test_the_same_reference_is_the_same_grant_even_after_it_expired(talktime: World) -> None:
    user = talktime.user()
    asked = {"amount": "5", "reference": "inv-7", "expires_at": "2026-03-01T13:00:00Z"}
    first = await talktime.client.post(f"/v1/users/{user}/grants", json=asked)
    talktime.clock.advance(7200)
    again = await talktime.client.post(f"/v1/users/{user}/grants", json=asked)
    assert (first.status_code, again.status_code, again.json()["id"]) == (201, 200, first.json()["id"])
    other = await talktime.client.post(f"/v1/users/{user}/grants", json=asked | {"reference": "inv-8"})
    problem(other, 422, "invalid-request")


# Jobs


async def test_a_job_is_done_by_one_process_at_a_time_and_not_too_often(talktime: World) -> None:
    clock = ManualClock(Instant(talktime.clock.now()))
    jobs = Jobs(talktime.service.database, clock, talktime.service.ledger.ids)
    name, minute = talktime.user(), Micros(US_PER_MINUTE)
    runs: list[str] = []
    begun, gate = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        runs.append("slow")
        begun.set()
        await gate.wait()

    async def quick() -> None:
        runs.append("quick")

    first = asyncio.create_task(jobs.run(name, minute, slow))
    await begun.wait()
    clock.advance(59)
    assert await jobs.run(name, minute, quick) is False
    clock.advance(LEASE / US_PER_S)
    assert await jobs.run(name, minute, quick) is True
    gate.set()
    assert await first is True
    assert await jobs.run(name, minute, quick) is False
    clock.advance(-7200)
    # The next run was set by a clock that ran ahead: it is not waited for.
    assert await jobs.run(name, minute, quick) is True
    assert runs == ["slow", "quick", "quick"]


async def test_a_job_that_fails_is_done_again(talktime: World) -> None:
    clock = ManualClock(Instant(talktime.clock.now()))
    jobs = Jobs(talktime.service.database, clock, talktime.service.ledger.ids)
    name, minute = talktime.user(), Micros(US_PER_MINUTE)

    async def broken() -> None:
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await jobs.run(name, minute, broken)
        clock.advance(60)


# Answers that are kept


async def test_answers_are_forgotten_after_thirty_days_and_their_keys_never(talktime: World) -> None:
    user = talktime.user()
    headers = {"Idempotency-Key": f"key-{user}"}
    path, body = f"/v1/users/{user}/grants", {"amount": "100"}
    assert (await talktime.client.post(path, json=body, headers=headers)).status_code == 201
    talktime.clock.advance(30 * DAY - 1)
    await talktime.service.purge()
    assert (await talktime.client.post(path, json=body, headers=headers)).status_code == 201
    talktime.clock.advance(600)
    await talktime.service.purge()
    problem(await talktime.client.post(path, json=body, headers=headers), 409, "idempotency-key-expired")
    problem(await talktime.client.post(path, json={"amount": "9"}, headers=headers), 422, "idempotency-conflict")
    assert (await talktime.balance(user))["balance"] == "100"
    kept = "select state, body, status, sealed from idempotency join accounts a using (account_id) where a.user_id = "
    assert ask(talktime.service.database.conninfo, f"{kept}'{user}'") == [("purged", None, None, None)]


async def test_the_sealed_connection_is_erased_after_an_hour(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    headers = {"Idempotency-Key": f"key-{user}"}
    body = {"user_id": user, "persona": "tutor", "scenario": "talk"}
    first = await talktime.client.post("/v1/sessions", json=body, headers=headers)
    sealed = f"select sealed is null from idempotency join accounts a using (account_id) where a.user_id = '{user}'"
    talktime.clock.advance(3599)
    await talktime.service.purge()
    assert ask(talktime.service.database.conninfo, sealed) == [(False,)]
    again = await talktime.client.post("/v1/sessions", json=body, headers=headers)
    assert again.json()["connection_details"] == first.json()["connection_details"]
    talktime.clock.advance(600)
    await talktime.service.purge()
    assert ask(talktime.service.database.conninfo, sealed) == [(True,)]
    again = await talktime.client.post("/v1/sessions", json=body, headers=headers)
    assert (again.status_code, again.json()["connection_details"]) == (201, None)
