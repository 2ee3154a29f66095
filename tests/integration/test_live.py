"""Live balance: what a stream tells and when, that nothing is missed, who may listen, and what many listeners cost."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import bindparam, event, update
from starlette.types import ASGIApp
from structlog.testing import capture_logs

from app.core.ids import account_id_of
from app.db.database import DatabaseUnavailable
from app.db.tables import accounts
from app.live.changes import MOST, Mark, changed_since
from app.live.hub import BEATS, KEYS_EVERY, OPENED_AT_ONCE
from app.live.state import LAST_EVENTS
from app.service import Service
from tests.support.postgres import WorkerDatabases, ask, tell
from tests.support.scripted_provider import ProviderHost
from tests.support.streams import Stream, stream
from tests.support.world import ADMIN_KEY, World, world

pytestmark = pytest.mark.anyio

EVENTS = {"Accept": "text/event-stream"}


@asynccontextmanager
async def listening(
    talktime: World, user: str, key: str = ADMIN_KEY, *, abort: bool = False, app: ASGIApp | None = None, **more: str
) -> AsyncIterator[Stream]:
    headers = {**EVENTS, "Authorization": f"Bearer {key}", **{k.replace("_", "-"): v for k, v in more.items()}}
    async with stream(app or talktime.service.app, f"/v1/users/{user}/live", headers, abort=abort) as made:
        yield made


async def token(talktime: World, user: str, ttl_s: int = 60) -> str:
    answer = await talktime.client.post(f"/v1/users/{user}/tokens", json={"ttl_s": ttl_s})
    return str(answer.json()["token"])


async def look(talktime: World) -> None:
    """A round, and what it has to say said."""
    await talktime.service.live.look()
    await asyncio.sleep(0)


async def settled(talktime: World) -> None:
    """The first look of a hub that was idle takes nobody to be up to date."""
    await look(talktime)
    await look(talktime)


async def only(talktime: World, listeners: int) -> None:
    """Wait until so many are left."""
    for _ in range(500):
        if talktime.service.live.listeners == listeners:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"there are {talktime.service.live.listeners} listeners")


# What is told


async def test_it_begins_with_all_there_is(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    async with listening(talktime, user) as heard:
        state = await heard.told(1)
        balance = await talktime.balance(user)
        assert {name: state[name] for name in balance} == balance
        assert (state["sessions"], state["suspended"], state["more_sessions"]) == ([], False, False)
        assert state["time_left"] == {"seconds": balance["talk_time_s"], "rate": 0}
        assert heard.status == 200
        assert heard.headers["content-type"].startswith("text/event-stream")
        assert heard.headers["cache-control"] == "no-store"
        assert heard.headers["x-accel-buffering"] == "no"
        assert "content-length" not in heard.headers
        assert re.match(r"retry: [1-5]\d{3}\n\n", heard.body.decode())


async def test_each_change_is_told_and_nothing_else(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    async with listening(talktime, user) as heard:
        await heard.told(1)
        await settled(talktime)
        assert len(heard.states) == 1
        await talktime.grant(user, "7")
        await look(talktime)
        second = await heard.told(2)
        assert (second["balance"], second["available"]) == ("57", "57")
        await talktime.client.patch(f"/v1/users/{user}", json={"credit_limit": "5", "reason": "r"})
        await look(talktime)
        assert (await heard.told(3))["available"] == "62"
        await look(talktime)
        assert len(heard.states) == 3


async def test_a_session_is_followed_to_its_end(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    async with listening(talktime, user) as heard:
        await heard.told(1)
        await settled(talktime)
        session = await talktime.start(user, time_limit_s=600)
        await look(talktime)
        live = (await heard.told(2))["sessions"][0]
        assert (live["id"], live["state"], live["charged"]) == (session["id"], "live", None)
        assert live["held"] != "0"
        assert heard.states[1]["time_left"] == {"seconds": 600, "rate": -1}
        assert heard.states[1]["held"] == live["held"]
        await talktime.heartbeats_until(session, 60)
        talktime.provider.say(session["provider_session_id"], ("agent", 5), ("silence", 55))
        await talktime.reconcile()
        await look(talktime)
        accrued = await heard.told(3)
        assert accrued["accrued"] == accrued["sessions"][0]["accrued"] != "0"
        assert accrued["time_left"] == {"seconds": 540, "rate": -1}
        done = await talktime.settle(session)
        await look(talktime)
        last = heard.states[-1]["sessions"][0]
        assert (last["state"], last["charged"], last["held"]) == (done["state"], done["charged"], "0")
        assert heard.states[-1]["time_left"]["rate"] == 0


async def test_without_asking_for_events_it_is_told_once(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    for accept in (
        {},
        {"Accept": "application/json"},
        {"Accept": "image/png"},
        {"Accept": "text/event-stream;q=0.1, */*"},
    ):
        answer = await talktime.client.get(f"/v1/users/{user}/live", headers=accept)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json()["balance"] == "50"
        assert answer.headers["vary"] == "Accept"
    assert (await talktime.client.head(f"/v1/users/{user}/live")).status_code == 405
    assert (await talktime.client.get(f"/v1/users/{user}/live?since=1")).status_code == 422


# Nothing is missed


async def test_who_comes_again_is_told_what_he_has_not_seen(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    async with listening(talktime, user) as heard:
        await heard.told(1)
        seen = heard.events[0].id
        assert seen is not None
    async with listening(talktime, user, last_event_id=seen) as heard:
        await settled(talktime)
        assert heard.states == []
        await talktime.grant(user, "1")
        await look(talktime)
        assert (await heard.told(1))["balance"] == "51"
    await talktime.grant(user, "1")
    session = await talktime.start_unconfirmed(user)
    talktime.clock.advance(200)
    await talktime.reconcile()
    for last in (seen, "nonsense", "1-0123456789abcdef", "\u00e9", "9" * 4_000):
        async with listening(talktime, user, last_event_id=last) as heard:
            told = await heard.told(1)
            assert told["balance"] == "52"
            assert [(one["id"], one["state"]) for one in told["sessions"]] == [(session["id"], "failed")]


async def test_what_it_lists_says_from_which_event_on_it_is_whole(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    session = await talktime.start_unconfirmed(user)
    talktime.clock.advance(200)
    await talktime.reconcile()
    state = await talktime.get(f"/v1/users/{user}/live")
    assert state["sessions_since"] == 0
    step = state["sequence"]
    for _ in range(LAST_EVENTS):
        await talktime.grant(user, "1")
    state = await talktime.get(f"/v1/users/{user}/live")
    assert state["sequence"] == step + LAST_EVENTS
    assert (state["sessions"], state["sessions_since"]) == ([], step)
    assert (await talktime.session(session))["state"] == "failed"


async def test_a_transaction_that_began_before_others_and_ends_after_them_is_not_missed(talktime: World) -> None:
    """The number of a transaction is lower than those that were seen before it was committed."""
    user, other = talktime.user(), talktime.user()
    await talktime.grant(user, "50")
    await talktime.grant(other, "50")
    change = update(accounts).where(accounts.c.user_id == bindparam("named")).values(limits={})
    database = talktime.service.database

    async def changed(mark: Mark | None) -> tuple[set[Any] | None, Mark]:
        async with database.reading() as transaction:
            return await changed_since(transaction, mark)

    _, mark = await changed(None)
    ids = {name: account_id_of(name) for name in (user, other)}
    async with database.transaction() as slow:
        await slow.execute(change, {"named": user})
        async with database.transaction() as quick:
            await quick.execute(change, {"named": other})
        found, mark = await changed(mark)
        assert found is not None
        assert ids[other] in found
        assert ids[user] not in found
        found, mark = await changed(mark)
        assert found is not None
        assert not found & set(ids.values())
    found, mark = await changed(mark)
    assert found is not None
    assert ids[user] in found
    assert ids[other] not in found


async def test_a_restored_database_is_looked_at_anew(talktime: World) -> None:
    """Another server counts its transactions anew: a mark of the first one is worth nothing there."""
    user = talktime.user()
    await talktime.grant(user, "50")
    database = talktime.service.database
    async with database.reading() as transaction:
        found, mark = await changed_since(transaction, Mark(2**62, ()))
    assert found is None
    # And what the rows bear may lie ahead of its numbers.
    tell(database.conninfo, f"update accounts set changed_by = {2**62} where user_id = '{user}'")
    async with database.reading() as transaction:
        found, _ = await changed_since(transaction, mark)
    assert found is not None
    assert account_id_of(user) not in found


async def test_a_crowd_that_changed_is_looked_at_anew(talktime: World, monkeypatch: pytest.MonkeyPatch) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    async with listening(talktime, user) as heard:
        await heard.told(1)
        await settled(talktime)
        monkeypatch.setattr("app.live.changes.MOST", 0)
        assert MOST > 0
        await talktime.grant(user, "1")
        await look(talktime)
        assert (await heard.told(2))["balance"] == "51"


async def test_another_process_tells_of_it_too(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    other = Service(talktime.settings, talktime.settings.database_url or "", clock=talktime.clock)
    try:
        async with listening(talktime, user, app=other.app) as heard:
            await heard.told(1)
            await other.live.look()
            await talktime.grant(user, "1")
            await other.live.look()
            assert (await heard.told(2))["balance"] == "51"
            # The same state has the same id, so that whoever changes between them is told nothing twice.
            async with listening(talktime, user) as here:
                await here.told(1)
                assert here.events[-1].id == heard.events[-1].id
    finally:
        await other.stop()


async def test_other_prices_are_told(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    name = f"card-{user}"
    card = {"name": name, "rates": {"user": "1", "agent": "1", "silence": "1"}}
    first = await talktime.client.post("/v1/rate-cards", json=card)
    assert first.status_code == 201, first.text
    await talktime.client.patch(f"/v1/users/{user}", json={"rate_card": name, "reason": "r"})
    async with listening(talktime, user) as heard:
        before = (await heard.told(1))["talk_time_s"]
        await settled(talktime)
        dearer = {**card, "rates": {"user": "10", "agent": "10", "silence": "10"}}
        assert (await talktime.client.post("/v1/rate-cards", json=dearer)).status_code == 201
        for _ in range(KEYS_EVERY):
            await look(talktime)
        assert (await heard.told(2))["talk_time_s"] < before


async def test_what_cannot_be_read_is_read_later(talktime: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database goes away between finding a change and reading it, and before it is found."""
    user = talktime.user()
    await talktime.grant(user, "50")
    hub = talktime.service.live
    async with listening(talktime, user) as heard:
        await heard.told(1)
        await settled(talktime)
        for broken in ("changed_since", "state_of"):
            await talktime.grant(user, "1")
            with monkeypatch.context() as patch:

                async def gone(*_: object) -> None:
                    raise DatabaseUnavailable("gone")

                patch.setattr(
                    *(("app.live.hub.changed_since", gone) if broken == "changed_since" else (hub, broken, gone))
                )
                for _ in range(3):
                    with pytest.raises(DatabaseUnavailable):
                        await hub.look()
            number = len(heard.states)
            await look(talktime)
            told = await heard.told(number + 1)
        assert told["balance"] == "52"
        assert heard.ended is False


# Who may listen, and for how long


async def test_who_may_not_is_told_so(talktime: World) -> None:
    user, other = talktime.user(), talktime.user()
    await talktime.grant(user, "50")
    for key, status in (("wrong", 401), (await token(talktime, other), 403)):
        async with listening(talktime, user, key) as refused:
            assert refused.status == status
            assert refused.headers["content-type"] == "application/problem+json"
    async with listening(talktime, other) as refused:
        assert (refused.status, refused.problem["type"]) == (404, "/problems/not-found")
    async with listening(talktime, user, await token(talktime, user)) as heard:
        assert (await heard.told(1))["balance"] == "50"
    assert talktime.service.live.listeners == 0


async def test_a_token_that_expires_ends_its_stream(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    async with listening(talktime, user, await token(talktime, user, 60)) as heard:
        await heard.told(1)
        talktime.clock.advance(59)
        await talktime.service.live.beat()
        assert not heard.ended
        talktime.clock.advance(2)
        await talktime.service.live.beat()
        await heard.until(lambda stream: stream.ended)
        assert heard.events[-1].name == "end"
        assert heard.events[-1].id is None
        assert heard.events[-1].data == {"reason": "token-expired", "reconnect": False}
    assert talktime.service.live.listeners == 0


async def test_a_stream_gets_only_so_old(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    async with listening(talktime, user) as heard:
        await heard.told(1)
        talktime.clock.advance(3_200)
        await talktime.service.live.beat()
        assert not heard.ended
        talktime.clock.advance(401)
        await talktime.service.live.beat()
        await heard.until(lambda stream: stream.ended)
        assert heard.events[-1].data == {"reason": "time-is-up", "reconnect": True}


async def test_a_revoked_key_ends_its_streams(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    made = (await talktime.client.post("/v1/api-keys", json={"name": "n", "scopes": ["read"]})).json()
    async with listening(talktime, user, made["secret"]) as heard, listening(talktime, user) as other:
        await heard.told(1)
        await other.told(1)
        for _ in range(KEYS_EVERY):
            await look(talktime)
        assert not heard.ended
        await talktime.client.delete(f"/v1/api-keys/{made['id']}")
        for _ in range(KEYS_EVERY):
            await look(talktime)
        await heard.until(lambda stream: stream.ended)
        assert heard.events[-1].data == {"reason": "key-revoked", "reconnect": False}
        assert not other.ended


async def test_a_user_who_is_suspended_is_told_no_more(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    async with listening(talktime, user) as heard:
        await heard.told(1)
        await settled(talktime)
        await talktime.client.patch(f"/v1/users/{user}", json={"suspended": True, "reason": "r"})
        await look(talktime)
        await heard.until(lambda stream: stream.ended)
        assert heard.events[-1].data == {"reason": "user-suspended", "reconnect": False}
    async with listening(talktime, user) as refused:
        assert (refused.status, refused.problem["type"]) == (409, "/problems/user-suspended")
    assert (await talktime.get(f"/v1/users/{user}/live"))["suspended"] is True
    await talktime.client.patch(f"/v1/users/{user}", json={"suspended": False, "reason": "r"})
    async with listening(talktime, user) as heard:
        await heard.told(1)


async def test_there_are_only_so_many(databases: WorkerDatabases, providers: ProviderHost) -> None:
    made = world(databases.urls.service, providers.script(), live_max_streams_per_user=2, live_max_streams=3)
    async with made as talktime, AsyncExitStack() as stack:
        user, other, third = (talktime.user() for _ in range(3))
        for name in (user, other, third):
            await talktime.grant(name, "5")
        first = await stack.enter_async_context(listening(talktime, user))
        await stack.enter_async_context(listening(talktime, user))
        async with listening(talktime, user) as refused:
            assert (refused.status, refused.problem["type"]) == (429, "/problems/too-many-streams")
            assert int(refused.headers["retry-after"]) > 0
        await stack.enter_async_context(listening(talktime, other))
        async with listening(talktime, third) as refused:
            assert (refused.status, refused.problem["type"]) == (503, "/problems/no-stream-free")
            assert int(refused.headers["retry-after"]) > 0
        first.go()
        await only(talktime, 2)
        async with listening(talktime, third) as heard:
            await heard.told(1)


async def test_a_crowd_that_comes_at_once_does_not_take_every_connection(
    talktime: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [talktime.user() for _ in range(8)]
    for user in users:
        await talktime.grant(user, "5")
    hub = talktime.service.live
    read, go, reading = hub.state_of, asyncio.Event(), 0

    async def slow(user_id: str) -> Any:
        nonlocal reading
        reading += 1
        await go.wait()
        return await read(user_id)

    monkeypatch.setattr(hub, "state_of", slow)
    monkeypatch.setattr("app.live.hub.MOST_OPENING", len(users) - 1)
    async with AsyncExitStack() as stack:
        opening = [asyncio.create_task(stack.enter_async_context(listening(talktime, user))) for user in users[:-1]]
        await only(talktime, len(opening))
        await asyncio.sleep(0.05)
        assert reading == OPENED_AT_ONCE
        async with listening(talktime, users[-1]) as refused:
            assert (refused.status, refused.problem["type"]) == (503, "/problems/busy")
            assert 1 <= int(refused.headers["retry-after"]) <= 5
        go.set()
        for heard in await asyncio.gather(*opening):
            assert (await heard.told(1))["balance"] == "5"


async def test_a_wrong_clock_opens_no_stream_and_ends_none(talktime: World, monkeypatch: pytest.MonkeyPatch) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    hub = talktime.service.live
    async with listening(talktime, user, await token(talktime, user)) as heard:
        await heard.told(1)
        await settled(talktime)
        with monkeypatch.context() as patch:
            patch.setattr(hub, "_clock_agrees", lambda: False)
            async with listening(talktime, user) as refused:
                assert (refused.status, refused.problem["type"]) == (503, "/problems/unavailable")
            await talktime.grant(user, "1")
            talktime.clock.advance(61)
            await hub.look()
            await hub.beat()
            await asyncio.sleep(0.05)
            assert (len(heard.states), heard.ended) == (1, False)
        await look(talktime)
        assert (await heard.told(2))["balance"] == "51"
        await hub.beat()
        await heard.until(lambda stream: stream.ended)


# Slow and silent clients, and the end of the process


async def test_who_reads_slowly_is_told_the_newest(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    async with listening(talktime, user) as heard, listening(talktime, user) as quick:
        await heard.told(1)
        await quick.told(1)
        await settled(talktime)
        heard.reading.clear()
        for number in range(5):
            await talktime.grant(user, "1")
            await look(talktime)
            await quick.told(number + 2)
        assert len(heard.states) == 1
        heard.reading.set()
        # The one that was being said when it stopped to read, and the newest.
        await heard.told(3)
        assert [state["balance"] for state in heard.states] == ["50", "51", "55"]
        assert [state["balance"] for state in quick.states] == ["50", "51", "52", "53", "54", "55"]


async def test_who_takes_nothing_is_cut_off(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    hub = talktime.service.live
    async with listening(talktime, user, abort=True) as heard:
        await heard.told(1)
        heard.reading.clear()
        for n in range(3 * BEATS):
            # It is tried once, and may be late for one more.
            assert not heard.aborted or n >= 2 * BEATS
            await hub.beat()
            await asyncio.sleep(0)
        assert heard.aborted
        await only(talktime, 0)
        assert not heard.ended


async def test_a_silent_stream_is_heard_of(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    async with listening(talktime, user) as heard:
        await heard.told(1)
        for _ in range(3 * BEATS):
            await talktime.service.live.beat()
            await asyncio.sleep(0)
        assert heard.beats == 3
        assert len(heard.states) == 1


async def test_a_process_that_stops_ends_all_streams_at_once(
    databases: WorkerDatabases, providers: ProviderHost
) -> None:
    async with world(databases.urls.service, providers.script()) as talktime:
        user = talktime.user()
        await talktime.grant(user, "50")
        async with listening(talktime, user) as heard, listening(talktime, user, abort=True) as deaf:
            await heard.told(1)
            await deaf.told(1)
            deaf.reading.clear()
            began = asyncio.get_running_loop().time()
            await talktime.service.live.stop()
            assert asyncio.get_running_loop().time() - began < 3
            assert heard.events[-1].data == {"reason": "stopping", "reconnect": True}
            assert heard.ended
            assert deaf.aborted
            async with listening(talktime, user) as refused:
                assert refused.status == 503


async def test_a_state_that_cannot_be_worked_out_ends_its_streams_alone(
    talktime: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, other = talktime.user(), talktime.user()
    for name in (user, other):
        await talktime.grant(name, "50")
    hub = talktime.service.live
    async with listening(talktime, user) as heard, listening(talktime, other) as fine:
        await heard.told(1)
        await fine.told(1)
        await settled(talktime)
        for name in (user, other):
            await talktime.grant(name, "1")
        read = hub.state_of

        async def broken(user_id: str) -> Any:
            if user_id == user:
                raise RuntimeError("the ledger is broken")
            return await read(user_id)

        monkeypatch.setattr(hub, "state_of", broken)
        await look(talktime)
        await heard.until(lambda stream: stream.ended)
        assert heard.events[-1].data == {"reason": "broken", "reconnect": True}
        assert (await fine.told(2))["balance"] == "51"


# What listeners cost


async def test_listeners_cost_no_statements_and_wake_alone(talktime: World) -> None:
    """300 listen to 300 users: a look costs what it costs with one, and only who changed is read and told."""
    users = [talktime.user() for _ in range(300)]
    tokens = {}
    for user in users:
        await talktime.grant(user, "50")
        tokens[user] = await token(talktime, user, 3_600)
    hub = talktime.service.live
    statements: list[str] = []
    engine = talktime.service.database._engine.sync_engine

    def count(*args: Any) -> None:
        statements.append(args[2])

    async def cost() -> int:
        """Statements of ten rounds in which nothing happens: one look at keys and cards is among them."""
        statements.clear()
        for _ in range(KEYS_EVERY):
            await hub.look()
            await hub.beat()
        return len(statements)

    event.listen(engine, "before_cursor_execute", count)
    try:
        async with AsyncExitStack() as stack:
            heard = {users[0]: await stack.enter_async_context(listening(talktime, users[0], tokens[users[0]]))}
            await settled(talktime)
            of_one = await cost()
            tasks_of_one = len(asyncio.all_tasks())
            for user in users[1:]:
                heard[user] = await stack.enter_async_context(listening(talktime, user, tokens[user]))
            await settled(talktime)
            assert hub.listeners == 300
            assert await cost() == of_one <= 2 * KEYS_EVERY + 2
            await asyncio.sleep(0.05)
            # Its own request's, as this client has it, and no other.
            assert len(asyncio.all_tasks()) == tasks_of_one + 299
            reads = hub.reads
            await talktime.grant(users[17], "1")
            await look(talktime)
            assert (await heard[users[17]].told(2))["balance"] == "51"
            assert hub.reads == reads + 1
            assert {user for user in users if len(heard[user].states) > 1} == {users[17]}
        assert hub.listeners == 0
        statements.clear()
        await hub.look()
        assert statements == []
    finally:
        event.remove(engine, "before_cursor_execute", count)


async def test_what_is_told_to_endpoints_is_no_change(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    hub = talktime.service.live
    async with listening(talktime, user) as heard:
        await heard.told(1)
        await settled(talktime)
        await talktime.grant(user, "1")
        await look(talktime)
        await heard.told(2)
        reads = hub.reads
        await talktime.service.deliverer.dispatch()
        marks = f"select event_seq, dispatched_seq from accounts where user_id = '{user}'"
        ((event_seq, dispatched_seq),) = ask(talktime.service.database.conninfo, marks)
        assert event_seq == dispatched_seq > 0
        await look(talktime)
        assert hub.reads == reads


async def test_a_page_of_another_origin_may_listen(databases: WorkerDatabases, providers: ProviderHost) -> None:
    origin = "https://app.example"
    async with world(databases.urls.service, providers.script(), cors_origins=(origin,)) as talktime:
        user = talktime.user()
        await talktime.grant(user, "50")
        asks = {
            "Origin": origin,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization,last-event-id",
        }
        transport = httpx.ASGITransport(app=talktime.service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://talktime.example") as client:
            allowed = await client.options(f"/v1/users/{user}/live", headers=asks)
        assert "Last-Event-ID" in allowed.headers["access-control-allow-headers"]
        async with listening(talktime, user, Origin=origin) as heard:
            assert heard.headers["access-control-allow-origin"] == origin
            await heard.told(1)


async def test_its_end_is_logged_and_no_token_is(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    own = await token(talktime, user)
    with capture_logs() as logged:
        async with listening(talktime, user, own) as heard:
            await heard.told(1)
    ends = [line for line in logged if line["event"] == "live.ended"]
    assert [(line["why"], line["events"], line["seconds"]) for line in ends] == [("left", 1, 0)]
    assert own not in str(logged)


# The portal


async def test_the_portal_has_the_same_stream_by_its_cookie(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "50")
    link = (await talktime.client.post(f"/v1/users/{user}/portal-links", json={"ttl_s": 60})).json()["url"]
    cookie = {"Cookie": f"talktime_portal={link.partition('token=')[2]}"}
    transport = httpx.ASGITransport(app=talktime.service.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://talktime.example", headers=cookie) as client:
        page = (await client.get("/portal")).text
        assert (await client.head("/portal/live")).headers["content-type"].startswith("text/event-stream")
    shown = re.search(r'data-live="([^"]+)"', page)
    assert shown is not None
    app = talktime.service.app
    async with stream(app, "/portal/live", {}) as refused:
        assert refused.status == 401
    async with stream(app, "/portal/live", cookie, query=f"since={shown[1]}") as heard:
        assert heard.headers["content-security-policy"].startswith("default-src 'none'")
        await settled(talktime)
        assert heard.states == []
        await talktime.grant(user, "1")
        await look(talktime)
        assert (await heard.told(1))["balance"] == "51"
        latest = heard.events[-1].id
        assert latest is not None
        # A browser that comes again does so at the same address, and says what it has seen since.
        again = {**cookie, "Last-Event-ID": latest}
        async with stream(app, "/portal/live", again, query=f"since={shown[1]}") as back:
            await look(talktime)
            assert back.states == []
        talktime.clock.advance(61)
        await talktime.service.live.beat()
        await heard.until(lambda stream: stream.ended)
        assert heard.events[-1].data["reason"] == "token-expired"
