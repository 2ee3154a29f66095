"""Old heartbeats go, a day at a time; charges, explanations and replays do not notice."""

import json
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from app.core.units import US_PER_S, Instant, format_instant, parse_instant
from app.gabber import PulledTimeline
from app.schedule.jobs import LEASE
from app.settlement.replay import Replayed, replay
from app.timelines.snapshots import add_snapshot, load_snapshots
from tests.support.clock import ManualClock
from tests.support.invariants import findings
from tests.support.postgres import WorkerDatabases, ask, tell
from tests.support.problems import problem
from tests.support.scripted_provider import ProviderHost
from tests.support.world import World, world

pytestmark = pytest.mark.anyio

DAY = 86_400
BEGINNING = "2024-02-28T23:58:30Z"
"""A minute and a half before midnight, in a past that the server's clock calls old as well."""


@pytest.fixture
async def old(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator[World]:
    """A world whose sessions last over midnight, and whose heartbeats are kept for seven days."""
    clock = ManualClock(parse_instant(BEGINNING))
    settings: dict[str, Any] = {"tick_retention_days": 7, "review_after_s": DAY // 2, "evidence_wait_s": DAY // 2}
    with databases.fresh() as urls:
        async with world(urls.service, providers.script(), clock=clock, **settings) as found:
            yield found
        assert await findings(urls.service) == []


async def over_midnight(old: World, amount: str = "1000", **asked: Any) -> tuple[str, dict[str, Any]]:
    """A session with six heartbeats, three of them on the next day; its timeline reaches the last one."""
    user = old.user()
    await old.grant(user, amount)
    session = await old.start(user, **asked)
    for n in range(6):
        old.clock.advance(30)
        assert (await old.heartbeat(session, n=n)).status_code == 204
    old.provider.say(session["provider_session_id"], *[("agent", 20), ("silence", 10)] * 6)
    await old.reconcile()
    return user, session


async def settled(old: World, **asked: Any) -> tuple[str, dict[str, Any]]:
    user, session = await over_midnight(old, **asked)
    assert (await old.settle(session))["state"] == "settled"
    return user, session


async def shown(old: World, session: dict[str, Any]) -> list[bytes]:
    """All that is told of a session, byte for byte, but for the further fields of its heartbeats."""
    path = f"/v1/sessions/{session['id']}"
    told = [(await old.client.get(path + suffix)).content for suffix in ("", "/charge", "/snapshots")]
    heartbeats = (await old.get(path + "/heartbeats"))["data"]
    in_pages: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await old.get(f"{path}/heartbeats?limit=4{cursor and f'&cursor={cursor}'}")
        in_pages += page["data"]
        cursor = page["next_cursor"]
    assert in_pages == heartbeats
    return [*told, json.dumps([one["received_at"] for one in heartbeats]).encode()]


async def replayed(old: World, session: dict[str, Any]) -> list[Replayed]:
    async with old.service.database.reading() as transaction:
        return await replay(transaction, old.key(session))


def days(old: World) -> list[str]:
    statement = "select inhrelid::regclass::text from pg_inherits where inhparent = 'ticks'::regclass order by 1"
    return [name.removeprefix("ticks_") for (name,) in ask(old.service.database.conninfo, statement)]


def rows(old: World, session: dict[str, Any]) -> int:
    statement = f"select count(*) from ticks where session_id = '{old.key(session).id}'"
    return int(ask(old.service.database.conninfo, statement)[0][0])


async def test_the_days_go_one_by_one_and_nothing_that_is_told_changes(old: World) -> None:
    _, session = await settled(old)
    assert (rows(old, session), days(old)[:2]) == (6, ["20240228", "20240229"])
    before = await shown(old, session)
    document = await old.session(session)
    assert (document["heartbeat_count"], document["last_heartbeat_at"]) == (6, "2024-02-29T00:01:30.000000Z")

    old.clock.set(parse_instant("2024-03-06T23:59:59.999999Z"))  # the 28th ended a microsecond less than 7 days ago
    assert await old.service.drop_old_ticks()
    assert days(old)[0] == "20240228"
    for at, first, left in (("2024-03-07T01:00:00Z", "20240229", 4), ("2024-03-08T01:00:00Z", "20240301", 0)):
        old.clock.set(parse_instant(at))
        assert await old.service.drop_old_ticks()
        assert (days(old)[0], rows(old, session)) == (first, left)
        assert await shown(old, session) == before
        (again,) = await replayed(old, session)
        assert again.differences == ()
    extras = [one["extra"] for one in (await old.get(f"/v1/sessions/{session['id']}/heartbeats"))["data"]]
    assert extras == [{}] * 6


async def test_further_fields_are_told_while_their_rows_are_there(old: World) -> None:
    _, session = await settled(old)
    old.clock.set(parse_instant("2024-03-07T01:00:00Z"))
    await old.service.drop_old_ticks()
    extras = [one["extra"] for one in (await old.get(f"/v1/sessions/{session['id']}/heartbeats"))["data"]]
    assert extras == [{}, {}, {"n": 2}, {"n": 3}, {"n": 4}, {"n": 5}]


async def test_two_heartbeats_within_one_microsecond_stay_two(old: World) -> None:
    _, session = await over_midnight(old)
    for _ in range(2):
        assert (await old.heartbeat(session)).status_code == 204
    assert (await old.settle(session))["state"] == "settled"
    before = await shown(old, session)
    assert (await old.session(session))["heartbeat_count"] == 8
    old.clock.advance(10 * DAY)
    await old.service.drop_old_ticks()
    assert rows(old, session) == 0
    assert await shown(old, session) == before


async def test_what_came_after_the_last_charge_goes_with_its_day(old: World) -> None:
    _, session = await settled(old)
    assert (await old.heartbeat(session)).status_code == 204
    assert (await old.session(session))["heartbeat_count"] == 7
    old.clock.advance(10 * DAY)
    await old.service.drop_old_ticks()
    assert (await old.session(session))["heartbeat_count"] == 6


async def test_a_session_in_review_keeps_its_days_until_it_is_decided(old: World) -> None:
    _, session = await over_midnight(old)
    old.provider.say(session["provider_session_id"], ("agent", 20))  # speech that was there is gone
    assert (await old.settle(session))["state"] == "review"
    _, other = await settled(old)
    old.clock.advance(30 * DAY)
    with capture_logs() as logs:
        await old.service.drop_old_ticks()
    assert (rows(old, session), days(old)[:2]) == (6, ["20240228", "20240229"])
    kept = [line for line in logs if line["event"] == "retention.kept"]
    assert [(line["day"], line["unsettled_sessions"]) for line in kept] == [("2024-02-28", 1), ("2024-02-29", 1)]
    assert {line["why"] for line in kept} == {"sessions need it"}
    # An explanation still has all of it, and so has the charge that an operator decides on.
    assert len((await old.get(f"/v1/sessions/{session['id']}/charge"))["heartbeats"]) == 6
    decided = await old.client.post(
        f"/v1/sessions/{session['id']}/review", json={"action": "settle", "reason": "heard both"}
    )
    assert decided.status_code == 200, decided.text
    before = await shown(old, session)
    old.clock.advance(3600)
    await old.service.drop_old_ticks()
    assert rows(old, session) == rows(old, other) == 0
    assert await shown(old, session) == before


async def test_rating_again_after_retention_has_all_the_heartbeats(
    databases: WorkerDatabases, providers: ProviderHost
) -> None:
    """The window of rating again may begin long after the session, when a review took long."""
    clock = ManualClock(parse_instant(BEGINNING))
    settings: dict[str, Any] = {"tick_retention_days": 7, "rerate_window_s": 4 * DAY}
    with databases.fresh() as urls:
        async with world(urls.service, providers.script(), clock=clock, **settings) as old:
            _, session = await over_midnight(old)
            old.provider.say(session["provider_session_id"], ("agent", 20))
            assert (await old.settle(session))["state"] == "review"
            old.clock.advance(30 * DAY)
            path = f"/v1/sessions/{session['id']}"
            decided = await old.client.post(f"{path}/review", json={"action": "settle", "reason": "so be it"})
            assert decided.status_code == 200, decided.text
            await old.service.drop_old_ticks()
            assert rows(old, session) == 0
            # One more comes, so there is news; those that were packed count as before.
            assert (await old.heartbeat(session)).status_code == 204
            again = await old.client.post(f"{path}/rerate", json={"reason": "late evidence"})
            assert again.status_code == 200, again.text
            assert again.json()["difference"] == "0"
            charge = await old.get(f"{path}/charge")
            assert len(charge["heartbeats"]) == 7
            assert charge["heartbeats"][:6] == [
                f"2024-02-2{at}.000000Z"
                for at in ("8T23:59:00", "8T23:59:30", "9T00:00:00", "9T00:00:30", "9T00:01:00", "9T00:01:30")
            ]
            old.clock.advance(30 * DAY)
            await old.service.drop_old_ticks()
            assert await old.get(f"{path}/charge") == charge
            assert [(one.version, one.differences) for one in await replayed(old, session)] == [(1, ()), (2, ())]
        assert await findings(urls.service) == []


async def test_strays_go_as_well(old: World) -> None:
    """Days for which no partition was made: the service was not up for weeks, or its clock leapt."""
    old.clock.advance(60 * DAY)
    _, session = await settled(old)
    statement = "select count(*) from ticks_default"
    url = old.service.database.conninfo.replace("talktime_service", "talktime_owner")
    assert ask(url, statement) == [(6,)]
    before = await shown(old, session)
    old.clock.advance(6 * DAY)
    await old.service.drop_old_ticks()
    assert rows(old, session) == 6
    old.clock.advance(3 * DAY)
    await old.service.drop_old_ticks()
    assert ask(url, statement) == [(0,)]
    assert await shown(old, session) == before


async def test_it_runs_hourly_and_in_one_process_at_a_time(old: World) -> None:
    await settled(old)
    old.clock.advance(30 * DAY)
    conninfo = old.service.database.conninfo
    until = format_instant(Instant(old.clock.now() + LEASE))
    taken = f"leased_until = '{until}', next_run_at = '2024-03-01', token = '{'7' * 32}'"
    tell(conninfo, "insert into job_leases (job, next_run_at) values ('retention', '2024-03-01')")
    tell(conninfo, f"update job_leases set {taken} where job = 'retention'")
    assert not await old.service.drop_old_ticks()
    assert days(old)[0] == "20240228"
    tell(conninfo, "update job_leases set leased_until = null, token = null where job = 'retention'")
    assert await old.service.drop_old_ticks()
    assert days(old) == ["default"]
    assert not await old.service.drop_old_ticks()
    old.clock.advance(3600)
    assert await old.service.drop_old_ticks()


async def test_it_never_keeps_heartbeats_waiting_and_comes_again(old: World) -> None:
    _, session = await settled(old)
    old.clock.advance(30 * DAY)
    with psycopg.connect(old.service.database.conninfo) as writing, capture_logs() as logs:
        key = old.key(session)
        writing.execute("insert into ticks values (%s, %s, '2024-02-29T01:00:00Z', 1, null)", (key.account_id, key.id))
        assert await old.service.drop_old_ticks()
        assert [line["event"] for line in logs] == ["retention.busy", "retention.bodies_dropped"]
        assert (await old.heartbeat(session)).status_code == 204
        assert days(old)[0] == "20240228"
    old.clock.advance(3600)
    assert await old.service.drop_old_ticks()
    assert days(old) == ["default"]


async def pulls(old: World, session: dict[str, Any]) -> list[dict[str, Any]]:
    return list((await old.get(f"/v1/sessions/{session['id']}/pulls"))["data"])


async def test_raw_answers_go_and_all_that_a_charge_rests_on_stays(old: World) -> None:
    _, session = await over_midnight(old)
    old.provider.timeline_status = 500
    await old.client.post(f"/v1/sessions/{session['id']}/reconcile")
    old.provider.timeline_status = 200
    assert (await old.settle(session))["state"] == "settled"
    before, told = await pulls(old, session), await shown(old, session)
    assert {pull["failure"] for pull in before} == {None, "server_error"}
    digests = [page["sha256"] for pull in before for page in pull["pages"]]

    old.clock.set(parse_instant("2024-03-06T23:58:00Z"))  # a little less than 7 days after the first pull
    await old.service.drop_old_ticks()
    assert await pulls(old, session) == before
    old.clock.advance(3600)
    await old.service.drop_old_ticks()
    left = await pulls(old, session)
    assert [(p["snapshot"], [page["sha256"] for page in p["pages"]]) for p in left] == [
        (p["snapshot"], [page["sha256"] for page in p["pages"]]) for p in before if p["failure"] is None
    ]
    for pull in left:
        for page in pull["pages"]:
            assert page["kept"] is False
            assert {page[name] for name in ("status", "received_at", "size", "truncated", "redacted")} == {None}
    for digest in digests:
        problem(await old.client.get(f"/v1/sessions/{session['id']}/bodies/{digest}"), 404, "not-found")
    assert await shown(old, session) == told
    (again,) = await replayed(old, session)
    assert again.differences == ()


async def test_raw_answers_of_a_session_that_has_not_come_to_its_end_stay(old: World) -> None:
    _, session = await over_midnight(old)
    before = await pulls(old, session)
    old.clock.advance(30 * DAY)
    await old.service.drop_old_ticks()
    assert await pulls(old, session) == before
    body = await old.client.get(f"/v1/sessions/{session['id']}/bodies/{before[0]['pages'][0]['sha256']}")
    assert body.status_code == 200


async def test_a_clock_that_runs_ahead_drops_nothing(old: World) -> None:
    """A demonstration's clock may be months ahead of the server's; what it calls old is not."""
    old.clock.set(parse_instant("2100-01-01T12:00:00Z"))
    await old.service.make_partitions()
    _, session = await settled(old)
    old.clock.advance(30 * DAY)
    with capture_logs() as logs:
        await old.service.drop_old_ticks()
    assert [line["event"] for line in logs if line["event"] != "retention.dropped"] == ["retention.too_young"]
    assert (rows(old, session), days(old)[0]) == (6, "21000101")


# Replays


async def corrected(old: World) -> dict[str, Any]:
    """A session with a charge of each kind: settled, refunded, rated again by a dearer card and by a cheaper one."""
    _, session = await settled(old)
    path = f"/v1/sessions/{session['id']}"
    for name, rate in (("dear", "120"), ("cheap", "6")):
        card = {"name": name, "rates": {"user": rate, "agent": rate, "silence": rate}}
        assert (await old.client.post("/v1/rate-cards", json=card)).status_code == 201
    assert (await old.client.post(f"{path}/refund", json={"reason": "sorry", "amount": "100"})).status_code == 201
    for name in ("dear", "cheap"):
        answer = await old.client.post(f"{path}/rerate", json={"reason": "the wrong card", "rate_card": name})
        assert answer.status_code == 200, answer.text
    return session


async def test_every_version_of_a_charge_comes_out_the_same(old: World) -> None:
    session = await corrected(old)
    versions = await replayed(old, session)
    assert [(one.version, one.engine_version, one.differences) for one in versions] == [
        (1, "1", ()), (2, "1", ()), (3, "1", ()),
    ]  # fmt: skip
    # More was given back than the last rating asks for, so that one could not be reached.
    assert len({one.amount for one in versions}) == 3


async def test_a_charge_that_was_not_covered_or_written_off_comes_out_the_same(old: World) -> None:
    user = old.user()
    await old.grant(user, "1000")
    session = await old.start(user, time_limit_s=60)
    old.provider.say(session["provider_session_id"], ("agent", 20))
    await old.heartbeats_until(session, 30)
    old.clock.advance(31)
    await old.reconcile()
    held = (await old.session(session))["held"]
    # What the provider says anew no longer fits into the hold, and all else is spent.
    await old.client.post(
        f"/v1/users/{user}/adjustments", json={"amount": f"-{1000 - int(held.split('.')[0]) - 1}", "reason": "spent"}
    )
    old.provider.say(session["provider_session_id"], ("agent", 55))
    document = await old.settle(session)
    assert document["state"] == "settled"
    other = (await over_midnight(old))[1]
    old.provider.say(other["provider_session_id"], ("agent", 20))
    assert (await old.settle(other))["state"] == "review"
    written_off = await old.client.post(
        f"/v1/sessions/{other['id']}/review", json={"action": "write_off", "reason": "sorry"}
    )
    assert written_off.status_code == 200, written_off.text
    for one in (session, other):
        assert [again.differences for again in await replayed(old, one)] == [()]


async def test_the_pull_that_is_rated_need_not_be_the_last(old: World) -> None:
    """It is the one received latest, and a clock may have been set back since."""
    _, session = await over_midnight(old)
    key = old.key(session)
    async with old.service.database.transaction() as transaction:
        earlier = await load_snapshots(transaction, key)
        ahead = Instant(old.clock.now() + DAY * US_PER_S)
        pulled = PulledTimeline(requested_at=ahead, received_at=ahead, values=earlier[-1].values)
        await add_snapshot(transaction, key, pulled, earlier)
    assert (await old.settle(session))["state"] == "settled"
    charge = await old.get(f"/v1/sessions/{session['id']}/charge")
    assert charge["snapshot"] == 2 < len((await old.get(f"/v1/sessions/{session['id']}/snapshots"))["data"])
    assert [again.differences for again in await replayed(old, session)] == [()]
