"""Lists: whole pages, cursors that survive new rows, filters that hold."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.support.postgres import tell
from tests.support.stripe import paid
from tests.support.world import World

pytestmark = pytest.mark.anyio

Insert = Callable[[], Awaitable[None]]


async def walk(talktime: World, path: str, limit: int, between: Insert | None = None) -> list[dict[str, Any]]:
    """All rows, page by page; ``between`` inserts a row after each page."""
    rows: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        mark = "&" if "?" in path else "?"
        page = await talktime.get(f"{path}{mark}limit={limit}" + (f"&cursor={cursor}" if cursor else ""))
        assert set(page) == {"data", "next_cursor"}
        assert len(page["data"]) <= limit
        rows += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            return rows
        assert len(page["data"]) == limit
        if between is not None:
            await between()


async def settled_sessions(talktime: World, user: str, count: int) -> list[str]:
    ids = []
    for _ in range(count):
        session = await talktime.start(user, time_limit_s=30)
        talktime.provider.say(session["provider_session_id"], ("agent", 1))
        ids.append(session["id"])
    talktime.clock.advance(1)
    return ids


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 500])
async def test_sessions_come_last_first_each_once_whatever_starts_meanwhile(talktime: World, limit: int) -> None:
    user = talktime.user()
    await talktime.grant(user, "10000")
    # Three of them at the same instant: the order among them holds as well.
    ids = [*(await settled_sessions(talktime, user, 3)), *(await settled_sessions(talktime, user, 3))]

    async def another() -> None:
        await talktime.start(user, time_limit_s=30)

    path = f"/v1/sessions?user_id={user}"
    rows = await walk(talktime, path, limit, another)
    assert sorted(row["id"] for row in rows) == sorted(ids)
    assert [row["requested_at"] for row in rows] == sorted((row["requested_at"] for row in rows), reverse=True)
    assert {row["id"] for row in rows[:3]} == set(ids[3:])
    again = await walk(talktime, path, 500)
    assert [row["id"] for row in again][-6:] == [row["id"] for row in rows]


@pytest.mark.parametrize("limit", [1, 3, 500])
async def test_entries_and_grants_come_newest_first_each_once_whatever_is_granted_meanwhile(
    talktime: World, limit: int
) -> None:
    user = talktime.user()

    async def another() -> None:
        talktime.clock.advance(1)
        await talktime.grant(user, "1000")

    for path, name in ((f"/v1/users/{user}/entries", "amount"), (f"/v1/users/{user}/grants", "amount")):
        given = [str(n) for n in range(1, 8)]
        for amount in given:
            talktime.clock.advance(1)
            await talktime.grant(user, amount)
        rows = await walk(talktime, path, limit, another)
        assert [row[name] for row in rows][:7] == given[::-1]
        assert len({row["id"] for row in rows}) == len(rows)
    entries = await walk(talktime, f"/v1/users/{user}/entries", limit)
    assert [row["seq"] for row in entries] == list(range(len(entries), 0, -1))


@pytest.mark.parametrize("limit", [1, 4, 500])
async def test_heartbeats_come_in_order_each_once_and_new_ones_at_the_end(talktime: World, limit: int) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    session = await talktime.start(user)
    count = 0

    async def another() -> None:
        nonlocal count
        if count < 12:
            count += 1
            if count % 3:
                talktime.clock.advance(1)
            assert (await talktime.heartbeat(session, n=count)).status_code == 204

    for _ in range(9):
        await another()
    rows = await walk(talktime, f"/v1/sessions/{session['id']}/heartbeats", limit, another)
    assert sorted(row["extra"]["n"] for row in rows) == list(range(1, count + 1))
    assert [row["received_at"] for row in rows] == sorted(row["received_at"] for row in rows)


async def test_snapshots_come_in_order_each_once(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    session = await talktime.start(user)
    for spoken in range(1, 6):
        talktime.clock.advance(2)
        talktime.provider.say(session["provider_session_id"], ("agent", spoken))
        assert (await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile")).status_code == 200
    for limit in (1, 2, 5, 6):
        rows = await walk(talktime, f"/v1/sessions/{session['id']}/snapshots", limit)
        assert [row["values"][0]["seconds"] for row in rows] == [1, 2, 3, 4, 5]


async def test_snapshots_that_come_meanwhile_stand_at_the_end_and_shift_none(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    session = await talktime.start(user)
    said = 0

    async def another() -> None:
        nonlocal said
        said += 1
        talktime.provider.say(session["provider_session_id"], *[("agent", 1), ("user", 1)] * said)
        await talktime.heartbeats_until(session, 60)
        await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile")

    path = f"/v1/sessions/{session['id']}/snapshots"
    for _ in range(3):
        await another()
    before = await walk(talktime, path, 500)
    assert len(before) == 3
    left = iter(range(2))

    async def twice_more() -> None:
        if next(left, None) is not None:
            await another()

    rows = await walk(talktime, path, 1, twice_more)
    assert rows[:3] == before
    instants = [row["requested_at"] for row in rows]
    assert len(rows) == 5
    assert instants == sorted(set(instants))


async def test_pulls_come_in_order_each_once_whatever_comes_meanwhile(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    session = await talktime.start(user)
    said = 0

    async def another() -> None:
        nonlocal said
        said += 1
        talktime.clock.advance(1)
        talktime.provider.timeline_status = 500 if said % 2 else 200
        talktime.provider.timeline_body = f'{{"values": [], "next_page": null, "total_count": 0, "n": {said}}}'
        await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile")

    path = f"/v1/sessions/{session['id']}/pulls"
    for _ in range(5):
        await another()
    before = await walk(talktime, path, 500)
    assert [row["snapshot"] for row in before] == [None, 1, None, 2, None]
    left = iter(range(3))

    async def thrice_more() -> None:
        if next(left, None) is not None:
            await another()

    rows = await walk(talktime, path, 1, thrice_more)
    assert rows[:5] == before
    assert [row["snapshot"] for row in rows[5:]] == [3, None, 4]


async def test_keys_and_changes_come_newest_first_each_once_whatever_comes_meanwhile(talktime: World) -> None:
    async def another() -> None:
        talktime.clock.advance(1)
        asked = {"name": f"key-{uuid4().hex[:8]}", "scopes": ["read"]}
        assert (await talktime.client.post("/v1/api-keys", json=asked)).status_code == 201

    for _ in range(5):
        await another()
    newest = [row["id"] for row in (await talktime.get("/v1/api-keys?limit=5"))["data"]]
    changes = f"/v1/audit-log?action=api_key.create&target={newest[2]}"
    assert len((await talktime.get(changes))["data"]) == 1
    for path, name in (("/v1/api-keys", "id"), ("/v1/audit-log?action=api_key.create", "target")):
        before = [row[name] for row in await walk(talktime, path, 500)]
        left = iter(range(3))

        async def a_few(left: Iterator[int] = left) -> None:
            if next(left, None) is not None:
                await another()

        assert [row[name] for row in await walk(talktime, path, 2, a_few)] == before


async def test_users_stand_still_while_others_come(talktime: World) -> None:
    base = talktime.user()
    for name in "bdfh":
        await talktime.grant(f"{base}.{name}", "5")
    coming = iter("aceg")

    async def another() -> None:
        name = next(coming, None)
        if name is not None:
            await talktime.grant(f"{base}.{name}", "7")

    seen = [row["user_id"] for row in await walk(talktime, f"/v1/users?q={base}", 1, another)]
    assert seen == sorted(seen)
    assert {f"{base}.{name}" for name in "bdfh"} <= set(seen)
    assert len(seen) == len(set(seen))


async def test_simulations_come_newest_first_each_once_whatever_comes_meanwhile(talktime: World) -> None:
    conninfo = talktime.service.database.conninfo
    tell(conninfo, "delete from simulations")  # else there might be no room for more

    async def another() -> None:
        talktime.clock.advance(1)
        card = {"name": "draft", "rates": {"user": "1", "agent": "1", "silence": "1"}}
        asked = {"rate_card": card, "after": "2026-01-01T00:00:00Z", "before": "2026-02-01T00:00:00Z"}
        assert (await talktime.client.post("/v1/rate-cards/simulations", json=asked)).status_code == 202

    for _ in range(5):
        await another()
    before = [row["id"] for row in await walk(talktime, "/v1/rate-cards/simulations", 500)]
    assert len(before) == 5
    left = iter(range(3))

    async def a_few() -> None:
        if next(left, None) is not None:
            await another()

    assert [row["id"] for row in await walk(talktime, "/v1/rate-cards/simulations", 2, a_few)] == before
    tell(conninfo, "delete from simulations")


async def test_events_and_deliveries_come_newest_first_each_once_whatever_comes_meanwhile(talktime: World) -> None:
    conninfo = talktime.service.database.conninfo
    user, number = talktime.user(), iter(range(100))
    made: list[str] = []

    async def another() -> None:
        """An event of the user and one more endpoint, to which it and a first event are dispatched as dead letters."""
        talktime.clock.advance(1)
        await talktime.grant(user, "1")
        response = await talktime.client.post(
            "/v1/webhook-endpoints", json={"url": f"https://hook.example/{user}/{next(number)}"}
        )
        made.append(response.json()["id"])
        await talktime.service.deliverer.dispatch()
        for endpoint_id in {made[0], made[-1]}:
            events = [row["id"] for row in await walk(talktime, f"/v1/events?user_id={user}", 500)]
            asked = {"event_ids": [events[0], events[-1]]}
            path = f"/v1/webhook-endpoints/{endpoint_id}/replay"
            assert (await talktime.client.post(path, json=asked)).status_code == 202
        tell(
            conninfo,
            "update deliveries set state = 'dead', due_at = null, finished_at = created_at where state = 'waiting'",
        )

    for _ in range(4):
        await another()
    first = (await walk(talktime, f"/v1/events?user_id={user}", 500))[-1]["id"]
    for path, name in (
        (f"/v1/events?user_id={user}", "id"),
        ("/v1/webhook-endpoints", "id"),
        (f"/v1/webhook-endpoints/{made[0]}/deliveries?state=dead", "event_id"),
        (f"/v1/events/{first}/deliveries", "endpoint_id"),
        (f"/v1/dead-letters?endpoint_id={made[0]}", "event_id"),
    ):
        before = [row[name] for row in await walk(talktime, path, 500)]
        assert len(before) >= 4, path
        left = iter(range(2))

        async def a_few(left: Iterator[int] = left) -> None:
            if next(left, None) is not None:
                await another()

        assert [row[name] for row in await walk(talktime, path, 2, a_few)] == before, path
    for endpoint_id in made:
        await talktime.client.delete(f"/v1/webhook-endpoints/{endpoint_id}")


async def test_payments_and_recurring_grants_come_newest_first(talktime: World) -> None:
    user = talktime.user()

    async def another() -> None:
        talktime.clock.advance(1)
        await paid(talktime, user, 10)
        body = {"amount": "1", "period": "year"}
        made = await talktime.client.post(f"/v1/users/{user}/recurring-grants", json=body)
        assert made.status_code == 201

    for _ in range(4):
        await another()
    for path in (f"/v1/payments?user_id={user}", f"/v1/users/{user}/recurring-grants", "/v1/payments"):
        before = [row["id"] for row in await walk(talktime, path, 500)]
        assert len(before) >= 4, path
        left = iter(range(2))

        async def a_few(left: Iterator[int] = left) -> None:
            if next(left, None) is not None:
                await another()

        assert [row["id"] for row in await walk(talktime, path, 2, a_few)] == before, path
    for needs in ("true", "false"):
        await paid(talktime, None, 10)
        rows = await walk(talktime, f"/v1/payments?needs_attention={needs}", 500)
        assert rows
        assert all((row["attention"] is not None) == (needs == "true") for row in rows)


WALKED = {
    "/v1/sessions", "/v1/users/{user_id}/entries", "/v1/users/{user_id}/grants", "/v1/rate-cards",
    "/v1/sessions/{session_id}/heartbeats", "/v1/sessions/{session_id}/snapshots", "/v1/sessions/{session_id}/pulls",
    "/v1/api-keys", "/v1/audit-log", "/v1/users", "/v1/rate-cards/simulations", "/v1/events", "/v1/webhook-endpoints",
    "/v1/webhook-endpoints/{endpoint_id}/deliveries", "/v1/events/{event_id}/deliveries", "/v1/dead-letters",
    "/v1/payments", "/v1/users/{user_id}/recurring-grants",
}  # fmt: skip
"""Lists that a test of this module walks through while rows come in."""


async def test_every_list_is_walked_while_rows_come_in(talktime: World) -> None:
    paths = (await talktime.get("/openapi.json"))["paths"]
    lists = {
        path
        for path, methods in paths.items()
        if any(parameter["name"] == "cursor" for parameter in methods.get("get", {}).get("parameters", ()))
    }
    assert lists == WALKED


async def test_versions_of_a_card_come_newest_first_and_by_name(talktime: World) -> None:
    name = f"paged {uuid4().hex[:8]}"
    card = {"name": name, "rates": {"user": "1", "agent": "1", "silence": "1"}}

    async def another() -> None:
        assert (await talktime.client.post("/v1/rate-cards", json=card)).status_code == 201

    for _ in range(4):
        talktime.clock.advance(1)
        await another()
    rows = await walk(talktime, f"/v1/rate-cards?name={name}", 1)
    assert [row["version"] for row in rows] == [4, 3, 2, 1]
    talktime.clock.advance(1)
    rows = await walk(talktime, f"/v1/rate-cards?name={name}", 2, another)
    assert [row["version"] for row in rows] == [4, 3, 2, 1]
    assert (await talktime.get(f"/v1/rate-cards/{rows[0]['id']}")) == rows[0]
    assert (await talktime.get("/v1/rate-cards?name=no-such-name"))["data"] == []
    everything = await walk(talktime, "/v1/rate-cards", 500)
    assert {row["id"] for row in rows} <= {row["id"] for row in everything}


async def test_a_page_has_fifty_rows_unless_asked_otherwise(talktime: World) -> None:
    user = talktime.user()
    for _ in range(51):
        await talktime.grant(user, "1")
    for part in ("entries", "grants"):
        page = await talktime.get(f"/v1/users/{user}/{part}")
        assert len(page["data"]) == 50
        assert len((await talktime.get(f"/v1/users/{user}/{part}?cursor={page['next_cursor']}"))["data"]) == 1
        assert len((await talktime.get(f"/v1/users/{user}/{part}?limit=500"))["data"]) == 51


async def test_sessions_are_filtered_by_user_state_and_start(talktime: World) -> None:
    user, other = talktime.user(), talktime.user()
    await talktime.grant(user, "1000")
    await talktime.grant(other, "1000")
    first = await talktime.start(user, time_limit_s=30)
    talktime.clock.advance(60)
    second = await talktime.start(user, time_limit_s=30)
    unconfirmed = await talktime.start_unconfirmed(user, time_limit_s=30)
    foreign = await talktime.start(other, time_limit_s=30)
    everything = {first["id"], second["id"], unconfirmed["id"]}
    table: list[tuple[str, set[str]]] = [
        ("", everything),
        ("&state=live", {first["id"], second["id"]}),
        ("&state=unconfirmed", {unconfirmed["id"]}),
        ("&state=settled", set()),
        ("&started_after=2026-03-01T12:01:00Z", {second["id"]}),
        ("&started_before=2026-03-01T12:01:00Z", {first["id"]}),
        ("&started_after=2026-03-01T12:00:00Z&started_before=2026-03-01T12:00:00.000001Z", {first["id"]}),
        ("&started_after=2026-03-01T14:01:00%2B02:00", {second["id"]}),
        ("&started_after=2026-03-01T14:01:00+02:00", {second["id"]}),
        ("&started_after=2026-03-01T12:01:00.000001Z", set()),
        ("&state=live&started_before=2026-03-01T12:00:30Z", {first["id"]}),
    ]
    for query, expected in table:
        rows = await walk(talktime, f"/v1/sessions?user_id={user}{query}", 1)
        assert {row["id"] for row in rows} == expected, query
    everybody = {row["id"] for row in await walk(talktime, "/v1/sessions", 500)}
    assert everything | {foreign["id"]} <= everybody
    assert (await talktime.get(f"/v1/sessions?user_id={talktime.user()}"))["data"] == []


async def test_entries_are_filtered_by_kind_and_time(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    await talktime.grant(user, "7", expires_at="2026-03-01T12:10:00Z")
    session = await talktime.start(user, time_limit_s=30)
    talktime.provider.say(session["provider_session_id"], ("agent", 3))
    talktime.clock.advance(10)
    await talktime.settle(session)
    path = f"/v1/users/{user}/entries"
    (charge,) = await walk(talktime, f"{path}?kind=charge", 1)
    table: list[tuple[str, list[str]]] = [
        ("kind=grant", ["7", "100"]),
        ("kind=charge", ["-3"]),
        ("kind=repayment", []),
        (f"before={charge['created_at']}&kind=grant", ["7", "100"]),
        (f"after={charge['created_at']}&kind=charge", ["-3"]),
        (f"before={charge['created_at']}&kind=charge", []),
        ("before=2026-03-01T12:00:00Z", []),
        ("before=2026-03-01T12:00:00.000001Z", ["7", "100"]),
        ("after=2027-01-01T00:00:00Z", []),
    ]
    for query, expected in table:
        assert [row["amount"] for row in await walk(talktime, f"{path}?{query}", 1)] == expected, query
    await talktime.grant(user, "1")
    entries = await walk(talktime, path, 2)
    balances = [entry["balance_after"] for entry in entries]
    assert balances[0] == (await talktime.balance(user))["balance"]
    running = 0
    for entry in reversed(entries):
        running += int(entry["amount"])
        assert entry["balance_after"] == str(running)
