"""Heartbeats: acknowledged means durable, and a token opens its own session and nothing else."""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from app.core.ids import AccountThing
from app.core.units import Instant, datetime_of
from app.db.database import DatabaseUnavailable
from app.db.durable import DurableStatements
from app.heartbeats import writer
from app.heartbeats.endpoint import PATH
from app.heartbeats.writer import Tick, TickWriter
from app.keys import KeyRing, Purpose
from app.sessions.tokens import WebhookTokens
from tests.support.postgres import WorkerDatabases, ask, tell
from tests.support.problems import pointers, problem
from tests.support.scripted_provider import ProviderHost
from tests.support.unchanged import unchanged
from tests.support.world import World, world

pytestmark = pytest.mark.anyio


async def live(talktime: World, amount: str = "1000", **asked: Any) -> dict[str, Any]:
    user = talktime.user()
    await talktime.grant(user, amount)
    return await talktime.start(user, **asked)


async def unconfirmed(talktime: World) -> dict[str, Any]:
    user = talktime.user()
    await talktime.grant(user, "1000")
    return await talktime.start_unconfirmed(user)


def stored(talktime: World, session: dict[str, Any]) -> list[str | None]:
    """What is beside the session's ticks, seen by a connection of its own."""
    key = talktime.key(session)
    statement = f"select extra from ticks where session_id = '{key.id}' order by received_at, id"
    return [extra for (extra,) in ask(talktime.service.database.conninfo, statement)]


def mismatches(talktime: World, session: dict[str, Any]) -> list[int]:
    statement = f"select count from security_events where session_id = '{talktime.key(session).id}' order by minute"
    return [count for (count,) in ask(talktime.service.database.conninfo, statement)]


@contextmanager
def nobody_writes_ticks(databases: WorkerDatabases) -> Iterator[None]:
    with psycopg.connect(databases.urls.owner) as connection:
        connection.execute("lock table ticks in exclusive mode")
        yield


# Durable


async def test_a_heartbeat_is_acknowledged_when_it_is_stored_and_not_before(
    talktime: World, databases: WorkerDatabases
) -> None:
    session = await live(talktime)
    assert (await talktime.heartbeat(session)).status_code == 204
    assert stored(talktime, session) == [None]
    with nobody_writes_ticks(databases):
        waiting = asyncio.create_task(talktime.heartbeat(session))
        await asyncio.sleep(0.15)
        assert not waiting.done()
    response = await waiting
    assert (response.status_code, response.content) == (204, b"")
    assert len(stored(talktime, session)) == 2


async def test_a_heartbeat_arrived_when_it_came_however_long_its_write_takes(
    talktime: World, databases: WorkerDatabases
) -> None:
    session = await live(talktime)
    arrived = talktime.clock.now()
    with nobody_writes_ticks(databases):
        waiting = []
        for _ in range(2):  # one in the statement that waits, one in the queue behind it
            waiting.append(asyncio.create_task(talktime.heartbeat(session)))
            await asyncio.sleep(0.1)
        talktime.clock.advance(60)
    assert [response.status_code for response in await asyncio.gather(*waiting)] == [204, 204]
    statement = f"select received_at from ticks where session_id = '{talktime.key(session).id}'"
    assert ask(talktime.service.database.conninfo, statement) == [(datetime_of(arrived),)] * 2


async def test_many_heartbeats_at_once_are_each_stored_once(talktime: World) -> None:
    sessions = [await live(talktime) for _ in range(2)]
    answers = await asyncio.gather(*(talktime.heartbeat(session, n=n) for n in range(250) for session in sessions))
    assert Counter(answer.status_code for answer in answers) == {204: 500}
    for session in sessions:
        expected = sorted(json.dumps({"n": n}, separators=(",", ":")) for n in range(250))
        assert sorted(text or "" for text in stored(talktime, session)) == expected
        assert (await talktime.session(session))["heartbeat_count"] == 250


async def test_a_full_queue_says_so_and_stores_nothing(
    talktime: World, databases: WorkerDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await live(talktime)
    await talktime.heartbeat(session, n=-1)
    monkeypatch.setattr(writer, "MAX_QUEUED", 3)
    with nobody_writes_ticks(databases):
        first = asyncio.create_task(talktime.heartbeat(session, n=0))
        await asyncio.sleep(0.1)
        others = [asyncio.create_task(talktime.heartbeat(session, n=n)) for n in range(1, 9)]
        await asyncio.sleep(0.1)
        refused = [task.result() for task in others if task.done()]
        assert len(refused) == 5
    for response in refused:
        problem(response, 503, "busy")
        assert int(response.headers["retry-after"]) >= 1
    assert {response.status_code for response in await asyncio.gather(first, *others)} == {204, 503}
    taken = [n for n, task in enumerate(others, 1) if task.result().status_code == 204]
    assert sorted(json.loads(text or "")["n"] for text in stored(talktime, session)) == [-1, 0, *taken]


async def test_a_value_that_cannot_be_stored_fails_neither_its_neighbours_nor_the_writer(talktime: World) -> None:
    session = talktime.key(await live(talktime))
    now = talktime.clock.now()
    good = [Tick(session, Instant(now + n), n, f'{{"n":{n}}}') for n in range(20)]
    poison = [
        Tick(session, now, 100, "a NUL \x00"),
        Tick(session, now, 1 << 70, None),
        Tick(session, now, 101, "half a character \ud800"),
        Tick(session, Instant(1 << 62), 102, None),
    ]
    for bad in poison:
        ticks = TickWriter(DurableStatements(talktime.service.database.conninfo))
        batch = [*good[:7], bad, *good[7:]]
        waiting = [asyncio.create_task(ticks.put(tick)) for tick in batch]
        await asyncio.sleep(0)
        ticks.start()
        outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
        assert [type(outcome) for outcome in outcomes] == [
            DatabaseUnavailable if tick is bad else type(None) for tick in batch
        ]
        await asyncio.wait_for(ticks.put(Tick(session, now, 1_000 + poison.index(bad), None)), 5)
        await ticks.close()
    assert len(stored_ids(talktime, session)) == 20 + len(poison)


def stored_ids(talktime: World, session: AccountThing) -> set[int]:
    statement = f"select id from ticks where session_id = '{session.id}'"
    return {tick_id for (tick_id,) in ask(talktime.service.database.conninfo, statement)}


async def test_lost_connections_lose_no_acknowledged_heartbeat(talktime: World, databases: WorkerDatabases) -> None:
    session = await live(talktime)
    kill = (
        "select pg_terminate_backend(pid) from pg_stat_activity "
        f"where datname = '{ask(talktime.service.database.conninfo, 'select current_database()')[0][0]}'"
    )
    acknowledged: set[int] = set()
    statuses: Counter[int] = Counter()

    async def beat(n: int) -> None:
        response = await talktime.heartbeat(session, n=n)
        statuses[response.status_code] += 1
        if response.status_code == 204:
            acknowledged.add(n)

    for wave in range(4):
        beats = [asyncio.create_task(beat(wave * 50 + n)) for n in range(50)]
        if wave % 2:
            await asyncio.to_thread(ask, databases.urls.superuser, kill)
        await asyncio.gather(*beats)
    assert set(statuses) <= {204, 503}
    assert statuses[204] >= 100
    found = [json.loads(text or "")["n"] for text in stored(talktime, session)]
    assert len(found) == len(set(found))
    assert acknowledged <= set(found)
    # Whoever finds a connection dead is told to try again; nobody is told so twice.
    tries = [(await talktime.client.get("/v1/sessions?limit=1")).status_code for _ in range(4)]
    assert tries in ([503, 200, 200, 200], [200] * 4)


# The token


def garbled(talktime: World, token: str) -> dict[str, str]:
    raw = base64.urlsafe_b64decode(token + "=")
    other = WebhookTokens(KeyRing(["another-secret-0123456789"], Purpose.WEBHOOK))
    swapped = {"A": "B", "B": "A"}
    return {
        "nothing": "",
        "a word": "token",
        "a slash": "/",
        "one character short": token[:-1],
        "one character more": token + "A",
        "padded": token + "=",
        "another first character": swapped.get(token[0], "A") + token[1:],
        "other bits to spare at the end": token[:-1] + chr(ord(token[-1]) + 1),
        "another case": token.swapcase(),
        "another secret": other.mint(talktime.key({"id": "ses_" + "0" * 52})),
        "the same with another key id": base64.urlsafe_b64encode(b"\0\0\0\0" + raw[4:]).decode().rstrip("="),
        "another session": base64.urlsafe_b64encode(raw[:20] + uuid4().bytes + raw[36:]).decode().rstrip("="),
        "no MAC": base64.urlsafe_b64encode(raw[:36] + bytes(32)).decode().rstrip("="),
        "of a session that is not there": talktime.service.tokens.mint(AccountThing(UUID(int=7), UUID(int=8))),
        "odd characters": "%00%FF%C3%A9" + token[4:],
        "an emoji": "%F0%9F%98%80" * 91,
        "far too long": "A" * 5_000,
        "with something behind it": token + "/",
    }


async def test_every_failure_of_the_token_is_the_same_empty_404(talktime: World) -> None:
    session = await live(talktime)
    token = talktime.webhook(session).removeprefix(PATH)
    content = json.dumps({"session_id": session["provider_session_id"]}).encode()
    answers: set[tuple[int, bytes, tuple[tuple[str, str], ...]]] = set()

    async def ask_with(method: str, text: str, sent: bytes) -> None:
        answer = await talktime.client.request(method, f"{talktime.settings.public_url}{PATH}{text}", content=sent)
        assert answer.status_code == 404, (method, text)
        headers = [(name, value) for name, value in answer.headers.multi_items() if name != "x-request-id"]
        answers.add((answer.status_code, answer.content, tuple(headers)))

    with unchanged(talktime.service.database.conninfo):
        for text in garbled(talktime, token).values():
            for sent in (content, b"", b"{", b"x" * 20_000):
                if text.startswith(talktime.service.tokens.mint(AccountThing(UUID(int=7), UUID(int=8)))):
                    sent = content  # noqa: PLW2901 - a genuine token: its body is looked at first
                await ask_with("POST", text, sent)
            await ask_with("GET", text, b"")
        for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
            await ask_with(method, token, content)
    assert len(answers) == 1
    assert stored(talktime, session) == []


async def test_the_last_character_of_a_token_counts(talktime: World) -> None:
    session = await live(talktime)
    path = talktime.webhook(session)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    content = json.dumps({"session_id": session["provider_session_id"]}).encode()
    accepted = [
        last for last in alphabet if (await talktime.client.post(path[:-1] + last, content=content)).status_code == 204
    ]
    assert accepted == [path[-1]]


async def test_the_token_alone_is_the_key(talktime: World) -> None:
    session = await live(talktime)
    del talktime.client.headers["Authorization"]
    assert (await talktime.heartbeat(session)).status_code == 204


# Another session's id


async def test_a_foreign_session_id_is_refused_counted_and_stored_nowhere(talktime: World) -> None:
    session, other = await live(talktime), await live(talktime)
    for rounds in (3, 2):
        for _ in range(rounds):
            response = await talktime.client.post(
                talktime.webhook(session), json={"session_id": other["provider_session_id"]}
            )
            document = problem(response, 409, "session-mismatch")
            assert session["provider_session_id"] not in response.text
            assert other["provider_session_id"] not in response.text
            assert set(document) == {"type", "title", "status", "detail"}
        talktime.clock.advance(60)
    assert mismatches(talktime, session) == [3, 2]
    assert mismatches(talktime, other) == []
    assert stored(talktime, session) == stored(talktime, other) == []
    assert (await talktime.heartbeat(session)).status_code == 204


# Odd bodies


@pytest.mark.parametrize("chunked", [True, False])
async def test_an_oversized_heartbeat_is_refused_while_it_streams(talktime: World, chunked: bool) -> None:
    session = await live(talktime)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1_000):
            sent += 1_024
            yield b" " * 1_024

    with unchanged(talktime.service.database.conninfo):
        content = endless() if chunked else b" " * (16 * 1024 + 1)
        problem(await talktime.client.post(talktime.webhook(session), content=content), 413, "body-too-large")
    assert sent <= 20 * 1024


async def test_a_heartbeat_of_just_the_largest_size_is_taken(talktime: World) -> None:
    session = await live(talktime)
    start = f'{{"session_id":"{session["provider_session_id"]}","x":"'
    content = start + "x" * (16 * 1024 - len(start) - 2) + '"}'
    assert len(content) == 16 * 1024
    assert (await talktime.client.post(talktime.webhook(session), content=content)).status_code == 204


async def test_a_malformed_heartbeat_is_refused_at_its_place(talktime: World) -> None:
    bound, unbound = await live(talktime), await unconfirmed(talktime)
    odd: dict[bytes, str] = {
        b"": "", b"{": "", b"null": "", b"[]": "", b'"x"': "", b"7": "", b"\xff": "",
        b'{"session_id":"\xed\xa0\x80"}': "", b"[" * 16_000: "", b'{"a":' + b"[" * 100 + b"]" * 100 + b"}": "",
        b"{}": "/session_id", b'{"session_id":null}': "/session_id", b'{"session_id":7}': "/session_id",
        b'{"session_id":1e400}': "/session_id", b'{"session_id":true}': "/session_id",
        b'{"session_id":{}}': "/session_id", b'{"session_id":[]}': "/session_id", b'{"session_id":""}': "/session_id",
        b'{"session_id":"\\u0000"}': "/session_id", b'{"session_id":"\\ud800"}': "/session_id",
        b'{"session_id":"\\u202e"}': "/session_id", b'{"session_id":"' + b"x" * 201 + b'"}': "/session_id",
        b'{"Session_id":"x"}': "/session_id", b"NaN": "", b'{"session_id":"x","a":NaN}': "",
        b'{"session_id":"x","a":[{"b":Infinity}]}': "", b'{"session_id":"x","a":-Infinity}': "",
        b'{"session_id":"x","session_id":"x"}': "", b'{"session_id":"x","session_\\u0069d":"y"}': "",
        b'{"session_id":"x","a":{"b":1,"b":2}}': "", b'{"session_id":NaN}': "", b'{"session_id":"x","a":nan}': "",
    }  # fmt: skip
    with unchanged(talktime.service.database.conninfo):
        for session in (bound, unbound):
            for content, pointer in odd.items():
                response = await talktime.client.post(talktime.webhook(session), content=content)
                assert pointers(response) == [pointer], content


EXTRAS = [
    '{"a":1.50,"b":1e1,"c":-0,"d":0.1000000000000000055511151231257827}',
    '{"a":12345678901234567890123456789,"b":1e400,"c":true,"d":null,"e":[],"f":{}}',
    '{"a":"\\u0000","\\u0000":"b","c":"\\ud800","d":"\\udc00\\ud800"}',
    '{"a":"\\u00e9\\ud83d\\ude00","b":{"c":[{"d":1.0}]}}',
    '{"":1}',
    '{"a":"NaN","Infinity":"-Infinity"}',
]


@pytest.mark.parametrize("extra", EXTRAS)
async def test_further_fields_are_kept_digit_for_digit(talktime: World, extra: str) -> None:
    """By the first heartbeat, which binds, and by later ones, which take the fast path."""
    session = await unconfirmed(talktime)
    for _ in range(2):
        content = '{"session_id":"gab_' + session["id"] + '",' + extra[1:]
        assert (await talktime.client.post(talktime.webhook(session), content=content)).status_code == 204
    answer = await talktime.client.get(f"/v1/sessions/{session['id']}/heartbeats")
    assert answer.text.count(f'"extra":{extra}') == 2


async def test_no_secret_that_a_heartbeat_brings_back_is_kept(talktime: World) -> None:
    session = await unconfirmed(talktime)
    hook = talktime.webhook(session)
    key = talktime.provider.api_key
    for _ in range(2):
        body = {"session_id": "gab_" + session["id"], "to": f"https://x{hook}", "headers": {"x-api-key": key, "n": 1}}
        assert (await talktime.client.post(hook, json=body)).status_code == 204
    answer = await talktime.client.get(f"/v1/sessions/{session['id']}/heartbeats")
    kept = str(ask(talktime.service.database.conninfo, "select extra from ticks"))
    for told in (answer.text, kept):
        assert hook.rpartition("/")[2] not in told
        assert key not in told
    kept_rest = '"extra":{"to":"https://x/webhooks/gabber/[removed]","headers":{"x-api-key":"[removed]","n":1}}'
    assert answer.text.count(kept_rest) == 2


async def test_a_short_key_does_not_break_what_is_kept(databases: WorkerDatabases, providers: ProviderHost) -> None:
    provider = providers.script()
    provider.api_key = "7"
    providers.scripts["7"] = provider
    async with world(databases.urls.service, provider) as talktime:
        session = await unconfirmed(talktime)
        content = f'{{"session_id":"gab_{session["id"]}","a":"x7","n":17.70}}'
        assert (await talktime.client.post(talktime.webhook(session), content=content)).status_code == 204
        answer = await talktime.client.get(f"/v1/sessions/{session['id']}/heartbeats")
    assert '"extra":{"a":"x[removed]","n":17.70}' in answer.text


async def test_what_was_once_stored_and_is_no_json_is_shown_as_strings(talktime: World) -> None:
    session = await live(talktime)
    account, id_ = talktime.key(session)
    tell(
        talktime.service.database.conninfo,
        "insert into ticks (account_id, session_id, received_at, id, extra) values "
        f"""('{account}', '{id_}', '2026-03-01T12:00:00Z', 1, '{{"a":NaN,"b":[-Infinity,1.50],"c":"NaN"}}')""",
    )
    answer = await talktime.client.get(f"/v1/sessions/{session['id']}/heartbeats")
    assert '"extra":{"a":"NaN","b":["-Infinity",1.50],"c":"NaN"}' in answer.text


async def test_a_heartbeat_without_further_fields_shows_none(talktime: World) -> None:
    session = await live(talktime)
    await talktime.heartbeat(session)
    (shown,) = (await talktime.get(f"/v1/sessions/{session['id']}/heartbeats"))["data"]
    assert shown == {"received_at": "2026-03-01T12:00:00.000000Z", "extra": {}}


# The first one binds


async def test_the_first_heartbeat_confirms_and_binds(talktime: World) -> None:
    session = await unconfirmed(talktime)
    assert (session["state"], session["held"], session["provider_session_id"]) == ("unconfirmed", "1000", None)
    talktime.clock.advance(7)
    assert (await talktime.heartbeat(session | {"provider_session_id": "gab_x"})).status_code == 204
    found = await talktime.session(session)
    assert (found["state"], found["provider_session_id"], found["heartbeat_count"]) == ("live", "gab_x", 1)
    assert found["started_at"] == "2026-03-01T12:00:07.000000Z"
    problem(await talktime.heartbeat(session | {"provider_session_id": "gab_y"}), 409, "session-mismatch")
    assert (await talktime.session(session))["provider_session_id"] == "gab_x"


@pytest.mark.parametrize("distinct", [False, True])
async def test_first_heartbeats_at_once_bind_once(talktime: World, distinct: bool) -> None:
    session = await unconfirmed(talktime)
    ids = [f"gab_{session['id']}_{n if distinct else 0}" for n in range(20)]
    answers = await asyncio.gather(
        *(talktime.heartbeat(session | {"provider_session_id": provider_id}) for provider_id in ids)
    )
    found = await talktime.session(session)
    assert found["state"] == "live"
    assert found["provider_session_id"] in ids
    taken = sum(answer.status_code == 204 for answer in answers)
    refused = sum(answer.status_code == 409 for answer in answers)
    assert (taken, refused) == ((1, 19) if distinct else (20, 0))
    assert len(stored(talktime, session)) == taken
    assert sum(mismatches(talktime, session)) == refused
    steps = f"select to_state from session_steps where session_id = '{talktime.key(session).id}' order by n"
    states = [state for (state,) in ask(talktime.service.database.conninfo, steps)]
    assert states == ["starting", "unconfirmed", "live"]


async def test_an_id_that_another_session_of_the_user_has_is_not_bound_again(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    first = await talktime.start(user, time_limit_s=60)
    second = await talktime.start_unconfirmed(user, time_limit_s=60)
    response = await talktime.heartbeat(second | {"provider_session_id": first["provider_session_id"]})
    problem(response, 409, "session-mismatch")
    found = await talktime.session(second)
    assert (found["state"], found["provider_session_id"]) == ("unconfirmed", None)
    assert stored(talktime, second) == stored(talktime, first) == []
    assert mismatches(talktime, second) == [1]


async def beat_during_start(talktime: World, provider_id: str, answers: list[httpx.Response]) -> None:
    """Let the provider send a heartbeat before it answers the start."""
    loop = asyncio.get_running_loop()

    async def before(body: dict[str, Any]) -> None:
        beat = talktime.client.post(body["webhook"], json={"session_id": provider_id})
        answers.append(await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(beat, loop)))

    talktime.provider.before_start = before


def started_as(provider_id: str) -> dict[str, Any]:
    return {
        "session": {"id": provider_id},
        "persona": "p",
        "scenario": "s",
        "connection_details": {"url": "wss://rtc.example", "token": "t"},
    }


async def test_a_heartbeat_may_overtake_the_answer_to_the_start(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    answers: list[httpx.Response] = []
    await beat_during_start(talktime, "gab_early", answers)
    talktime.provider.start_body = started_as("gab_early")
    session = await talktime.start(user)
    assert [answer.status_code for answer in answers] == [204]
    assert (session["state"], session["heartbeat_count"]) == ("live", 1)
    # The connection was received after all, so the greeting is paid for as usual.
    talktime.provider.say("gab_early", ("agent", 10))
    assert (await talktime.settle(session))["charged"] == "10"


async def test_a_heartbeat_and_an_answer_that_name_different_sessions_need_a_person(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    await beat_during_start(talktime, "gab_one", [])
    talktime.provider.start_body = started_as("gab_other")
    response = await talktime.client.post("/v1/sessions", json={"user_id": user, "persona": "p", "scenario": "s"})
    assert response.status_code < 500
    (session,) = (await talktime.get(f"/v1/sessions?user_id={user}"))["data"]
    assert (session["state"], session["held"]) == ("review", "100")


@pytest.mark.parametrize("status", [500, 400])
async def test_a_heartbeat_proves_the_answer_to_the_start_wrong(talktime: World, status: int) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    await beat_during_start(talktime, f"gab_{status}", [])
    talktime.provider.start_status = status
    await talktime.client.post("/v1/sessions", json={"user_id": user, "persona": "p", "scenario": "s"})
    (session,) = (await talktime.get(f"/v1/sessions?user_id={user}"))["data"]
    assert (session["state"], session["held"]) == ("live", "100")


async def test_a_late_heartbeat_brings_a_failed_session_into_review(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await talktime.start_unconfirmed(user)
    talktime.clock.advance(181)
    await talktime.reconcile()
    assert (await talktime.session(session))["state"] == "failed"
    assert (await talktime.heartbeat(session | {"provider_session_id": "gab_late"})).status_code == 204
    found = await talktime.session(session)
    assert (found["state"], found["provider_session_id"], found["heartbeat_count"]) == ("review", "gab_late", 1)
    assert (await talktime.balance(user))["available"] == "100"
    assert (await talktime.heartbeat(session | {"provider_session_id": "gab_late"})).status_code == 204
    assert len(stored(talktime, session)) == 2


async def test_heartbeats_after_settlement_are_stored_and_change_no_charge(talktime: World) -> None:
    session = await live(talktime, time_limit_s=600)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 20))
    await talktime.heartbeats_until(session, 30)
    settled = await talktime.settle(session)
    assert settled["state"] == "settled"
    before = (await talktime.client.get(f"/v1/sessions/{session['id']}/charge")).content
    for _ in range(3):
        talktime.clock.advance(10)
        assert (await talktime.heartbeat(session)).status_code == 204
        await talktime.reconcile()
    assert (await talktime.client.get(f"/v1/sessions/{session['id']}/charge")).content == before
    after = await talktime.session(session)
    assert after["heartbeat_count"] == settled["heartbeat_count"] + 3
    assert (after["state"], after["charged"]) == ("settled", settled["charged"])


async def test_the_providers_id_of_another_users_session_is_counted_for_who_names_it_second(talktime: World) -> None:
    first = await talktime.start_unconfirmed(await with_credits(talktime))
    second = await talktime.start_unconfirmed(await with_credits(talktime))
    own = await talktime.start_unconfirmed(await with_credits(talktime))
    for session, name in ((first, "shared"), (second, "shared"), (own, "of-its-own")):
        named = session | {"provider_session_id": f"{name}-{first['id'][-8:]}"}
        for _ in range(2):
            assert (await talktime.heartbeat(named)).status_code == 204
    found = ask(talktime.service.database.conninfo, "select session_id, kind, count from security_events "
                f"where session_id in ('{talktime.key(first).id}', '{talktime.key(second).id}', "
                f"'{talktime.key(own).id}')")  # fmt: skip
    assert [tuple(row) for row in found] == [(talktime.key(second).id, "id_of_another_user", 1)]


async def with_credits(talktime: World) -> str:
    user = talktime.user()
    await talktime.grant(user, "100")
    return user
