"""Settlement: one debit, with evidence, whatever is repeated, cut off or comes late."""

import asyncio
import json
import re
from itertools import pairwise
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.core.units import US_PER_S, instant_of
from app.gabber import PulledTimeline
from app.settlement.steps import Outcome
from tests.support.postgres import WorkerDatabases, ask, tell
from tests.support.problems import problem
from tests.support.scripted_provider import ProviderHost
from tests.support.unchanged import contents
from tests.support.world import World, world

pytestmark = pytest.mark.anyio

CALM = "update provider_budget set next_at = '2000-01-01', blocked_until = null"
"""All tests of a worker share the provider's budget."""


async def live(talktime: World, amount: str = "1000", **asked: Any) -> tuple[str, dict[str, Any]]:
    user = talktime.user()
    await talktime.grant(user, amount)
    return user, await talktime.start(user, **asked)


async def talked(talktime: World, amount: str = "1000", **asked: Any) -> tuple[str, dict[str, Any]]:
    """A session with one heartbeat and 10 s of the agent, whose final timeline is due."""
    user, session = await live(talktime, amount, **asked)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 20))
    await talktime.heartbeats_until(session, 30)
    await reconcile(talktime, session)
    talktime.clock.advance(80)
    await reconcile(talktime, session)
    assert (await talktime.session(session))["state"] == "over"
    talktime.clock.advance(120)
    return user, session


async def entries(talktime: World, user: str, kind: str | None = None) -> list[dict[str, Any]]:
    suffix = "" if kind is None else f"?kind={kind}"
    return list((await talktime.get(f"/v1/users/{user}/entries{suffix}"))["data"])


async def reconcile(talktime: World, session: dict[str, Any]) -> Outcome:
    outcome = await talktime.service.reconciler.reconcile(talktime.key(session), now_please=True)
    assert isinstance(outcome, Outcome)
    return outcome


def row_of(talktime: World, session: dict[str, Any], columns: str) -> tuple[Any, ...]:
    statement = f"select {columns} from sessions where id = '{talktime.key(session).id}'"
    return ask(talktime.service.database.conninfo, statement)[0]


def snapshot_count(talktime: World, session: dict[str, Any]) -> int:
    statement = f"select count(*) from snapshots where session_id = '{talktime.key(session).id}'"
    return int(ask(talktime.service.database.conninfo, statement)[0][0])


# Exactly once


async def test_reconcilers_at_once_post_one_debit(talktime: World) -> None:
    pairs = [await talked(talktime) for _ in range(3)]
    pulls = len(talktime.provider.pulls)
    await asyncio.gather(*(talktime.reconcile() for _ in range(10)))
    due = [session for _, session in pairs]
    # The earlier two became due while the others talked, and are settled or were pulled meanwhile.
    assert len(talktime.provider.pulls) - pulls <= len(due)
    for user, session in pairs:
        assert (await talktime.session(session))["state"] == "settled"
        assert [entry["amount"] for entry in await entries(talktime, user, "charge")] == ["-15"]
        assert (await talktime.balance(user))["balance"] == "985"


async def test_reconciling_again_changes_nothing(talktime: World) -> None:
    _, session = await talked(talktime)
    await talktime.reconcile()
    before = contents(talktime.service.database.conninfo)
    audited = before.pop("audit_log")
    for _ in range(3):
        talktime.clock.advance(0.5)
        response = await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile")
        assert (response.status_code, response.json()["state"]) == (200, "settled")
        assert await reconcile(talktime, session) is Outcome.UPDATED
    after = contents(talktime.service.database.conninfo)
    assert after.pop("audit_log")[0] == audited[0] + 3  # who asked, and nothing else
    assert after == before


async def test_whoever_lost_the_lease_writes_nothing(talktime: World) -> None:
    user, session = await talked(talktime)
    key, reconciler = talktime.key(session), talktime.service.reconciler
    token = await reconciler._leases.take(key)
    assert token is not None
    assert await reconcile(talktime, session) is Outcome.NOT_OURS
    requested_at = talktime.clock.now()
    talktime.clock.advance(61)
    assert await reconcile(talktime, session) is Outcome.SETTLED
    before = contents(talktime.service.database.conninfo)
    late = PulledTimeline(requested_at=requested_at, received_at=talktime.clock.now(), values=())
    assert await reconciler._write(key, token, late) is Outcome.NOT_OURS
    assert contents(talktime.service.database.conninfo) == before
    assert len(await entries(talktime, user, "charge")) == 1


async def overtaken(talktime: World, session: dict[str, Any]) -> tuple[Outcome, Outcome]:
    """What came of a worker that waited for the provider until its lease had run out, and of the one that took over."""
    loop = asyncio.get_running_loop()
    others: list[Outcome] = []

    async def meanwhile() -> None:
        talktime.provider.before_timeline = None
        talktime.clock.advance(61)
        working = asyncio.run_coroutine_threadsafe(reconcile(talktime, session), loop)
        others.append(await asyncio.wrap_future(working))

    talktime.provider.before_timeline = meanwhile
    late = await reconcile(talktime, session)
    return late, others[0]


async def test_a_slow_pull_whose_lease_ran_out_writes_nothing(talktime: World) -> None:
    """The same with the provider in between: the second worker settles while the first still waits for its answer."""
    user, session = await talked(talktime)
    assert await overtaken(talktime, session) == (Outcome.NOT_OURS, Outcome.SETTLED)
    assert [entry["amount"] for entry in await entries(talktime, user, "charge")] == ["-15"]


async def test_a_slow_pull_of_a_session_that_lives_on_writes_nothing(talktime: World) -> None:
    """Nothing in the session's state tells that another worker was there: only the token does."""
    _, session = await live(talktime)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 500))
    await talktime.heartbeats_until(session, 30)
    assert await overtaken(talktime, session) == (Outcome.NOT_OURS, Outcome.UPDATED)
    assert snapshot_count(talktime, session) == 1


async def test_a_crashed_workers_session_is_taken_up_when_its_lease_ends(talktime: World) -> None:
    _, session = await talked(talktime)
    assert await talktime.service.reconciler._leases.take(talktime.key(session)) is not None
    problem(await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile"), 503, "busy")
    await talktime.reconcile()
    assert (await talktime.session(session))["state"] == "over"
    talktime.clock.advance(61)
    await talktime.reconcile()
    assert (await talktime.session(session))["state"] == "settled"


# Without evidence


@pytest.mark.parametrize(
    ("status", "said"),
    [(500, '{"error":"x"}'), (404, "{}"), (429, "{}"), (401, "{}"), (302, "{}"), (200, "{"), (200, "[]"), (200, "{}"),
     (200, '{"values":[],"next_page":null}'), (200, '{"values":[],"next_page":null,"total_count":3}'),
     (200, '{"values":[],"next_page":"https://elsewhere.example/x","total_count":0}'),
     (200, '{"status":500,"body":{"error":"x"}}'), (200, "[" * 5000)],
)  # fmt: skip
async def test_a_timeline_that_cannot_be_had_is_waited_for_and_then_reviewed(
    talktime: World, status: int, said: str
) -> None:
    user, session = await live(talktime, time_limit_s=600)
    await talktime.heartbeat(session)
    talktime.provider.timeline_status, talktime.provider.timeline_body = status, said
    problem(await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile"), 502, "provider-unavailable")
    await talktime.live_through(session, 80_000)
    # Over by its time limit; what it costs is not known.
    assert (await talktime.session(session))["state"] == "over"
    await talktime.live_through(session, 11_000)
    found = await talktime.session(session)
    assert (found["state"], found["held"], found["charged"]) == ("review", "600", None)
    assert await entries(talktime, user, "charge") == []
    assert snapshot_count(talktime, session) == 0


async def test_the_provider_back_after_a_day_less_an_hour_settles_as_if_nothing_had_been(talktime: World) -> None:
    user, session = await live(talktime, time_limit_s=600)
    talktime.provider.timeline_status = 503
    await talktime.heartbeats_until(session, 60)
    talktime.clock.advance(80_000)
    await talktime.reconcile()
    talktime.provider.timeline_status = 200
    talktime.provider.say(
        session["provider_session_id"], ("agent", 10), ("silence", 3), ("user", 2), ("silence", 79_990)
    )
    settled = await talktime.settle(session)
    assert (settled["state"], settled["charged"]) == ("settled", "15")
    assert (await talktime.balance(user))["balance"] == "985"


async def test_waiting_grows_between_tries_and_ends_with_success(talktime: World) -> None:
    _, session = await live(talktime)
    talktime.provider.timeline_status = 500
    tries = []
    for minute in range(70):
        talktime.clock.advance(60)
        pulls = len(talktime.provider.pulls)
        await talktime.reconcile()
        if talktime.provider.pulls[pulls:].count(session["provider_session_id"]):
            tries.append(minute)
    gaps = [after - before for before, after in pairwise(tries)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 16
    assert len(tries) <= 8


# Contradictory evidence


SPOKEN = '{"type":"agent","seconds":10}'


@pytest.mark.parametrize(
    ("final", "anomaly"),
    [
        ('[{"type":"agent","seconds":"10"},{"type":"user","seconds":5}]', "bad_segment"),
        ('[{"type":"agent"},' + SPOKEN + "]", "bad_segment"),
        ('[{"type":"agent","seconds":-1},' + SPOKEN + "]", "bad_segment"),
        ('[{"type":"agent","seconds":NaN},' + SPOKEN + "]", "bad_segment"),
        ("[7," + SPOKEN + "]", "bad_segment"),
        ('[{"type":"agent","seconds":8.9}]', "timeline_shrank"),
        ("[]", "timeline_shrank"),
        ('[{"type":"agent","seconds":90000}]', "timeline_longer_than_elapsed"),
    ],
)
async def test_contradictory_evidence_is_reviewed_and_costs_nothing(talktime: World, final: str, anomaly: str) -> None:
    user, session = await live(talktime, time_limit_s=600)
    talktime.provider.timelines[session["provider_session_id"]] = f"[{SPOKEN}]"
    await talktime.heartbeats_until(session, 30)
    await reconcile(talktime, session)
    talktime.provider.timelines[session["provider_session_id"]] = final
    found = await talktime.settle(session)
    assert (found["state"], found["charged"]) == ("review", None)
    assert anomaly in found["anomalies"]
    assert found["over_at"] is not None
    assert await entries(talktime, user, "charge") == []
    assert (await talktime.balance(user))["balance"] == "1000"
    held = found["held"]
    assert float(held) > 0
    for _ in range(3):
        talktime.clock.advance(600)
        await talktime.reconcile()
    assert await talktime.session(session) == found


async def test_a_contradiction_that_the_provider_takes_back_in_time_is_forgotten(talktime: World) -> None:
    _, session = await live(talktime, time_limit_s=600)
    talktime.provider.timelines[session["provider_session_id"]] = '[{"type":"agent","seconds":"x"}]'
    talktime.clock.advance(20)
    await reconcile(talktime, session)
    assert (await talktime.session(session))["anomalies"] == ["bad_segment"]
    talktime.provider.say(session["provider_session_id"], ("agent", 10))
    settled = await talktime.settle(session)
    assert (settled["state"], settled["charged"], settled["anomalies"]) == ("settled", "10", [])


# When it is over


async def test_a_session_that_was_over_lives_again_by_a_heartbeat(talktime: World) -> None:
    user, session = await live(talktime)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 20))
    await talktime.heartbeats_until(session, 30)
    await reconcile(talktime, session)
    talktime.clock.advance(80)
    await reconcile(talktime, session)
    assert (await talktime.session(session))["state"] == "over"
    assert (await talktime.heartbeat(session)).status_code == 204
    talktime.clock.advance(1)
    await reconcile(talktime, session)
    again = await talktime.session(session)
    assert (again["state"], again["over_at"], again["charged"]) == ("live", None, None)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 100), ("user", 1))
    settled = await talktime.settle(session)
    assert (settled["state"], settled["charged"]) == ("settled", "16")
    assert len(await entries(talktime, user, "charge")) == 1


async def test_a_session_that_hits_its_limit_costs_at_most_what_was_held(talktime: World) -> None:
    user, session = await live(talktime, "60")
    for spoken in range(30, 330, 30):
        await talktime.heartbeats_until(session, 30)
        talktime.provider.say(session["provider_session_id"], ("agent", spoken))
        await talktime.reconcile()
    settled = await talktime.settle(session)
    assert (settled["state"], settled["charged"]) == ("settled", "60")
    charge = await talktime.get(f"/v1/sessions/{session['id']}/charge")
    assert (charge["billed"]["total_s"], set(charge["not_billed"])) == (60, {"after_time_limit"})
    assert (await talktime.balance(user))["balance"] == "0"


async def test_a_ghost_agent_costs_five_seconds_of_silence(talktime: World) -> None:
    _, session = await live(talktime)
    for minutes in (2, 4, 6, 8):
        await talktime.heartbeats_until(session, 120)
        talktime.provider.say(session["provider_session_id"], ("agent", 8), ("silence", 60 * minutes - 8))
        await talktime.reconcile()
    settled = await talktime.settle(session)
    assert (settled["charged"], settled["heartbeat_count"]) == ("13", 16)


async def test_a_session_without_a_heartbeat_waits_its_grace(talktime: World) -> None:
    """Nobody knows whether the provider reaches us: silence alone ends nothing for ten minutes."""
    _, session = await live(talktime, time_limit_s=3_600)
    talktime.provider.say(session["provider_session_id"], ("agent", 10))
    states = []
    for _ in range(16):
        talktime.clock.advance(60)
        await reconcile(talktime, session)
        states.append((await talktime.session(session))["state"])
    assert states.index("over") * 60 + 60 == 660
    assert states[-1] == "settled"


async def test_a_lowered_hold_frees_credits_for_another_session(talktime: World) -> None:
    user, session = await live(talktime, "100", time_limit_s=100)
    problem(
        await talktime.client.post("/v1/sessions", json={"user_id": user, "persona": "p", "scenario": "s"}),
        402,
        "insufficient-credits",
    )
    talktime.clock.advance(70)
    talktime.provider.say(session["provider_session_id"], ("silence", 60), ("agent", 10))
    await talktime.heartbeat(session)
    await reconcile(talktime, session)
    # 60 s of silence cost at most 5: 55 credits can never be charged any more.
    assert (await talktime.session(session))["held"] == "45"
    second = await talktime.start(user)
    assert (second["time_limit_s"], second["held"]) == (55, "55")
    assert (await talktime.balance(user))["available"] == "0"
    for started, charged in ((session, "15"), (second, "0")):
        talktime.provider.timelines.setdefault(started["provider_session_id"], "[]")
        settled = await talktime.settle(started)
        assert (settled["state"], settled["charged"]) == ("settled", charged)


async def test_a_hold_is_lowered_as_if_the_answer_to_the_start_could_still_come(talktime: World) -> None:
    """Until it comes the greeting is free; once it has, the greeting costs what the card says, and is held."""
    user = talktime.user()
    await talktime.grant(user, "1000")
    started, answered = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def wait(_body: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(started.set)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(answered.wait(), loop))

    talktime.provider.before_start = wait
    body = {"user_id": user, "persona": "p", "scenario": "s", "time_limit_s": 60}
    start = asyncio.create_task(talktime.client.post("/v1/sessions", json=body))
    await started.wait()
    (session,) = (await talktime.get(f"/v1/sessions?user_id={user}"))["data"]
    beat = {"session_id": "the-one-that-runs"}
    assert (await talktime.client.post(talktime.webhook(session), json=beat)).status_code == 204
    talktime.provider.say("the-one-that-runs", ("agent", 20), ("user", 2), ("silence", 1))
    talktime.clock.advance(23)
    assert (await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile")).status_code == 200
    assert (await talktime.session(session))["held"] == "60"
    talktime.provider.start_body = {
        "session": {"id": "the-one-that-runs"},
        "persona": "p",
        "scenario": "s",
        "connection_details": {"url": "wss://rtc.example", "token": "join"},
    }
    answered.set()
    assert (await start).status_code == 201
    settled = await talktime.settle(session)
    assert (settled["state"], settled["charged"]) == ("settled", "22")


async def test_a_charge_of_nothing_posts_no_entry_and_frees_the_hold(talktime: World) -> None:
    user, session = await live(talktime, time_limit_s=60)
    talktime.provider.say(session["provider_session_id"])
    settled = await talktime.settle(session)
    assert (settled["state"], settled["charged"], settled["held"]) == ("settled", "0", "0")
    assert await entries(talktime, user, "charge") == []
    charge = await talktime.get(f"/v1/sessions/{session['id']}/charge")
    assert (charge["amount"], charge["final"], charge["entry_id"]) == ("0", True, None)
    assert (await talktime.balance(user))["available"] == "1000"


# Who pays


async def test_grants_burn_in_order_and_the_statement_shows_which_paid_what(talktime: World) -> None:
    user = talktime.user()
    late, soon = "2026-09-01T00:00:00Z", "2026-06-01T00:00:00Z"
    terms: list[dict[str, Any]] = [
        {"amount": "100"},
        {"amount": "5", "expires_at": late},
        {"amount": "4", "expires_at": soon},
        {"amount": "3", "expires_at": soon, "kind": "promotional"},
        {"amount": "2", "priority": 90, "kind": "promotional"},
        {"amount": "1", "priority": 10},
        {"amount": "6", "effective_at": "2026-02-01T00:00:00Z"},
    ]
    grants = [await talktime.grant(user, **asked) for asked in terms]
    session = await talktime.start(user, time_limit_s=60)
    talktime.provider.say(session["provider_session_id"], ("agent", 21))
    talktime.clock.advance(30)
    assert (await talktime.settle(session))["charged"] == "21"
    (entry,) = await entries(talktime, user, "charge")
    funding = [(line["grant_id"], line["amount"]) for line in entry["funding"]]
    order = [(5, "1"), (3, "3"), (2, "4"), (1, "5"), (6, "6"), (0, "2")]
    assert funding == [(grants[n]["id"], amount) for n, amount in order]
    left = {g["id"]: g["remaining"] for g in (await talktime.get(f"/v1/users/{user}/grants"))["data"]}
    assert left == {g["id"]: {0: "98", 4: "2"}.get(n, "0") for n, g in enumerate(grants)}


async def test_held_credits_stay_usable_after_their_expiry_and_the_rest_expires(talktime: World) -> None:
    user = talktime.user()
    grant = await talktime.grant(user, "100", expires_at="2026-03-01T12:01:00Z")
    session = await talktime.start(user, time_limit_s=40)
    assert (await talktime.balance(user))["expiring_next"] == {"amount": "60", "at": "2026-03-01T12:01:00.000000Z"}
    talktime.provider.say(session["provider_session_id"], ("agent", 30))
    await talktime.heartbeats_until(session, 60)
    balance = await talktime.balance(user)
    assert (balance["balance"], balance["held"], balance["available"]) == ("40", "40", "0")
    problem(
        await talktime.client.post("/v1/sessions", json={"user_id": user, "persona": "p", "scenario": "s"}),
        402,
        "insufficient-credits",
    )
    assert (await talktime.settle(session))["charged"] == "30"
    found = await entries(talktime, user)
    kinds = sorted((entry["kind"], entry["amount"]) for entry in found)
    assert kinds == [("charge", "-30"), ("expiry", "-10"), ("expiry", "-60"), ("grant", "100")]
    assert found[0]["balance_after"] == "0"
    assert (await talktime.balance(user))["balance"] == "0"
    (shown,) = (await talktime.get(f"/v1/users/{user}/grants"))["data"]
    assert (shown["id"], shown["state"], shown["remaining"]) == (grant["id"], "expired", "0")


async def test_a_scheduled_grant_is_no_credit_before_its_time(talktime: World) -> None:
    user = talktime.user()
    grant = await talktime.grant(user, "50", effective_at="2026-03-01T13:00:00Z", expires_at="2026-03-02T13:00:00Z")
    assert grant["state"] == "scheduled"
    assert (await talktime.balance(user))["balance"] == "0"
    assert await entries(talktime, user) == []
    talktime.clock.advance(3_600)
    assert (await talktime.balance(user))["balance"] == "50"
    session = await talktime.start(user, time_limit_s=30)
    (entry,) = await entries(talktime, user)
    assert (entry["kind"], entry["amount"], entry["grant_id"]) == ("grant", "50", grant["id"])
    talktime.provider.say(session["provider_session_id"])
    await talktime.settle(session)
    talktime.clock.advance(86_400)
    assert (await talktime.balance(user))["balance"] == "0"


async def test_a_scheduled_grant_helps_a_session_that_it_came_during(talktime: World) -> None:
    """Not its hold, which is what was authorised; but the next session's."""
    user, session = await live(talktime, "40")
    await talktime.grant(user, "50", effective_at="2026-03-01T12:00:10Z")
    talktime.clock.advance(60)
    talktime.provider.say(session["provider_session_id"], ("agent", 60))
    settled = await talktime.settle(session)
    assert settled["charged"] == "40"
    assert (await talktime.balance(user))["balance"] == "50"


# What is shown


async def test_snapshots_show_every_pull_digit_for_digit(talktime: World) -> None:
    _, session = await live(talktime, time_limit_s=600)
    pulls = [
        "[]",
        '[{"type":"agent","seconds":1.50}]',
        '[{"type":"agent","seconds":1.50},{"type":"silence","seconds":1e1,"new":{"x":[1.0,null]}}]',
        '[{"type":"agent","seconds":1.5},{"type":"silence","seconds":10}]',
        '[{"seconds":NaN,"type":"agent"},7,null,"\\ud800\\u0000",[[]],{"type":"agent","seconds":1e400}]',
        '[{"type":"agent","seconds":Infinity,"x":{"y":[-Infinity]}},{"type":"silence","seconds":1.50}]',
        '[{"type":"agent","seconds":1.50}]',
        '[{"seconds":1.50,"type":"agent"}]',
        '[{"seconds":"1.50","type":"agent"}]',
        '[{"seconds":1.50,"type":"agent"}]',
        "[true,1]",
        "[1,true]",
        "[1,1.0]",
    ]
    for values in pulls:
        talktime.clock.advance(2)
        talktime.provider.timelines[session["provider_session_id"]] = values
        await reconcile(talktime, session)
    response = await talktime.client.get(f"/v1/sessions/{session['id']}/snapshots?limit=500")
    stamp = "2026-03-01T12:00:{:02d}.000000Z"
    json.loads(response.text, parse_constant=pytest.fail)  # JSON for everybody: what is none became strings
    pulls = [re.sub(r"(?<=[:\[])(NaN|-?Infinity)", r'"\1"', values) for values in pulls]
    expected = ",".join(
        f'{{"requested_at":"{stamp.format(2 * n)}","received_at":"{stamp.format(2 * n)}","values":{values}}}'
        for n, values in enumerate(pulls, 1)
    )
    assert response.text == f'{{"data":[{expected}],"next_cursor":null}}'


async def test_a_number_that_was_a_string_before_is_a_number(talktime: World) -> None:
    """What is charged and what is shown of it later are one and the same, though "10" and 10 look alike."""
    _, session = await live(talktime, time_limit_s=600)
    talktime.provider.timelines[session["provider_session_id"]] = '[{"type":"agent","seconds":"10"}]'
    talktime.clock.advance(20)
    await reconcile(talktime, session)
    talktime.provider.say(session["provider_session_id"], ("agent", 10))
    settled = await talktime.settle(session)
    assert (settled["state"], settled["charged"], settled["anomalies"]) == ("settled", "10", [])
    charge = await talktime.get(f"/v1/sessions/{session['id']}/charge")
    assert (charge["amount"], charge["anomalies"]) == ("10", [])


async def test_the_charge_of_a_settled_session_never_changes(talktime: World) -> None:
    user, session = await talked(talktime)
    interim = await talktime.get(f"/v1/sessions/{session['id']}/charge")
    assert (interim["final"], interim["entry_id"]) == (False, None)
    await talktime.reconcile()
    path = f"/v1/sessions/{session['id']}/charge"
    first = await talktime.get(path)
    for seconds in (1, 60, 3_600):
        talktime.clock.advance(seconds)
        await talktime.heartbeat(session)
        talktime.provider.say(session["provider_session_id"], ("user", 500))
        await talktime.reconcile()
        await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile")
        name = "default"
        card = {"name": name, "rates": {"user": "60", "agent": "60", "silence": "60"}}
        assert (await talktime.client.post("/v1/rate-cards", json=card)).status_code == 201
        await talktime.grant(user, "1")
        # What contradicts it is looked at by a person; nothing of it is changed.
        assert {**await talktime.get(path), "state": "settled", "proposed": None, "settles_at": None} == first


async def test_settings_decide_when_a_session_is_settled(databases: WorkerDatabases, providers: ProviderHost) -> None:
    settings: dict[str, Any] = {"settle_delay_s": "0", "no_heartbeat_grace_s": "0", "reconcile_interval_s": "0.5"}
    async with world(databases.urls.service, providers.script(), **settings) as talktime:
        _, session = await live(talktime, time_limit_s=60)
        talktime.provider.say(session["provider_session_id"], ("agent", 1))
        talktime.clock.advance(1)
        await talktime.reconcile()
        talktime.clock.advance(75)
        assert await reconcile(talktime, session) is Outcome.SETTLED


async def test_nothing_is_owed_and_nothing_is_missing_after_all_of_it(talktime: World) -> None:
    """What must hold of every account that these tests left behind."""
    url = talktime.service.database.conninfo
    broken = [
        "select account_id from postings group by account_id, entry_id having sum(amount) <> 0",
        "select account_id from accounts where held < 0 or debt < 0 or debt = 0 and balance < 0",
        """select account_id from accounts a where held <>
           (select coalesce(sum(amount), 0) from holds h where h.account_id = a.account_id)""",
        """select account_id from accounts a where balance <>
           (select coalesce(sum(amount), 0) from entries e where e.account_id = a.account_id)""",
        "select account_id from entries where kind = 'charge' group by account_id, session_id having count(*) > 1",
        """select s.account_id from sessions s join holds h on (h.account_id, h.session_id) = (s.account_id, s.id)
           where (s.state in ('settled', 'failed')) <> (h.state <> 'active') and s.state <> 'review'""",
        "select account_id from sessions where charged > authorized",
        """select account_id from entries e where kind = 'charge' and -amount <>
           (select sum(amount) from funding f where (f.account_id, f.entry_id) = (e.account_id, e.id))""",
    ]
    for statement in broken:
        assert ask(url, statement) == [], statement


async def test_a_session_is_over_by_its_limit_even_if_no_timeline_can_be_had(talktime: World) -> None:
    user, session = await live(talktime, "60")
    await talktime.heartbeats_until(session, 60)
    talktime.provider.timeline_status = 500
    for seconds, state in ((74, "live"), (1, "over"), (300, "over")):
        talktime.clock.advance(seconds)
        assert await reconcile(talktime, session) is Outcome.PULL_FAILED
        assert (await talktime.session(session))["state"] == state
    assert (await talktime.balance(user))["held"] == "60"
    talktime.provider.timeline_status = 200
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 425))
    assert (await talktime.settle(session))["charged"] == "10"


# Asking for a pull is no way round a wait


async def test_asking_for_a_pull_frees_no_hold_of_a_review_before_its_time(talktime: World) -> None:
    user, session = await live(talktime)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", "null"))
    reviewed = await talktime.settle(session)
    assert reviewed["state"] == "review"
    held = (await talktime.balance(user))["held"]
    assert held != "0"
    for _ in range(3):
        talktime.clock.advance(60)
        response = await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile")
        assert (response.status_code, response.json()["state"]) == (200, "review")
    assert (await talktime.balance(user))["held"] == held
    talktime.clock.advance(86_400)
    await talktime.reconcile()
    assert (await talktime.balance(user))["held"] == "0"


async def test_asking_for_a_pull_gives_up_no_start_before_its_time(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    session = await talktime.start_unconfirmed(user)
    for _ in range(3):
        talktime.clock.advance(50)
        response = await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile")
        assert (response.status_code, response.json()["state"]) == (200, "unconfirmed")
    assert (await talktime.balance(user))["held"] != "0"


async def test_a_pull_that_is_asked_for_in_review_is_kept_to_judge_by(talktime: World) -> None:
    user, session = await live(talktime)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", "null"))
    assert (await talktime.settle(session))["state"] == "review"
    stored = snapshot_count(talktime, session)
    talktime.provider.say(session["provider_session_id"], ("agent", 12), ("user", 4), ("silence", 30))
    for _ in range(2):
        talktime.clock.advance(10)
        response = await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile")
        assert (response.status_code, response.json()["state"]) == (200, "review")
    assert snapshot_count(talktime, session) == stored + 1
    charge = await talktime.get(f"/v1/sessions/{session['id']}/charge")
    assert (charge["final"], charge["proposed"]["amount"]) == (False, "16")
    talktime.provider.timeline_status = 500
    problem(await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile"), 502, "provider-unavailable")
    assert (await talktime.session(session))["state"] == "review"
    body = {"action": "settle", "reason": "seen"}
    response = await talktime.client.post(f"/v1/sessions/{session['id']}/review", json=body)
    assert (response.status_code, response.json()["charged"]) == (200, "16")
    assert [entry["amount"] for entry in await entries(talktime, user, "charge")] == ["-16"]


# Reviews are kept up to date


async def test_a_review_for_want_of_a_timeline_gets_it_as_soon_as_there_is_one(
    databases: WorkerDatabases, providers: ProviderHost
) -> None:
    async with world(databases.urls.service, providers.script(), evidence_wait_s=600) as talktime:
        user, session = await live(talktime)
        talktime.provider.timeline_status = 500
        await talktime.heartbeats_until(session, 60)
        await talktime.live_through(session, 2_000)
        assert (await talktime.session(session))["state"] == "review"
        pulls = len(talktime.provider.pulls)
        await talktime.live_through(session, 60_000)
        assert 15 <= len(talktime.provider.pulls) - pulls <= 24, "each hour, after a while: it holds credits"
        talktime.provider.timeline_status = 200
        said = [("agent", 10), ("silence", 3), ("user", 2), ("silence", 61_000)]
        talktime.provider.say(session["provider_session_id"], *said)
        await talktime.live_through(session, 4_000)
        charge = await talktime.get(f"/v1/sessions/{session['id']}/charge")
        assert charge["proposed"]["amount"] == "15"
        assert (await talktime.session(session))["accrued"] == "15"
        pulls = len(talktime.provider.pulls)
        await talktime.live_through(session, 10_000)
        assert len(talktime.provider.pulls) == pulls, "that was the final one"
        assert (await talktime.balance(user))["held"] != "0"
        await talktime.live_through(session, 86_400)
        assert (await talktime.balance(user))["held"] == "0"


async def test_a_session_that_a_late_heartbeat_revived_is_pulled_until_it_is_over(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    session = await talktime.start_unconfirmed(user)
    await talktime.live_through(session, 200)
    assert (await talktime.session(session))["state"] == "failed"
    session["provider_session_id"] = f"late-{user}"
    talktime.provider.say(session["provider_session_id"], ("user", 5), ("agent", 10), ("silence", 200))
    assert (await talktime.heartbeat(session)).status_code == 204
    await talktime.live_through(session, 70)
    charge = await talktime.get(f"/v1/sessions/{session['id']}/charge")
    assert (charge["state"], charge["snapshot"]) == ("review", 1)
    talktime.provider.say(session["provider_session_id"], ("user", 5), ("agent", 40), ("silence", 200))
    await talktime.live_through(session, 2_000)
    charge = await talktime.get(f"/v1/sessions/{session['id']}/charge")
    assert charge["proposed"]["billed"]["agent_s"] == 40
    pulls = len(talktime.provider.pulls)
    await talktime.live_through(session, 10_000)
    assert len(talktime.provider.pulls) == pulls
    body = {"action": "settle", "reason": "seen"}
    response = await talktime.client.post(f"/v1/sessions/{session['id']}/review", json=body)
    assert (response.status_code, response.json()["state"]) == (200, "settled")
    pulls = len(talktime.provider.pulls)
    await talktime.live_through(session, 100_000)
    assert len(talktime.provider.pulls) == pulls + 1, "looked at once more, like any other"


# What breaks


async def test_a_pull_in_review_that_breaks_frees_nothing_before_its_time(talktime: World) -> None:
    user, session = await live(talktime)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", "null"))
    assert (await talktime.settle(session))["state"] == "review"
    held = (await talktime.balance(user))["held"]
    # More time than a column holds.
    talktime.provider.say(session["provider_session_id"], *[("silence", 999_999_999)] * 9_400)
    problem(await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile"), 502, "provider-unavailable")
    talktime.clock.advance(4_000)
    await talktime.reconcile()
    assert (await talktime.balance(user))["held"] == held != "0"


async def test_a_session_that_cannot_be_worked_on_comes_into_review(
    talktime: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, session = await live(talktime)
    talktime.provider.say(session["provider_session_id"], ("agent", 10))

    def breaks(_evidence: object) -> None:
        raise OverflowError

    monkeypatch.setattr("app.settlement.work.charge", breaks)
    talktime.clock.advance(60)
    with capture_logs() as logged:
        assert await reconcile(talktime, session) is Outcome.PULL_FAILED
        problem(await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile"), 502, "provider-unavailable")
        await talktime.live_through(session, 91_000)
    assert {"reconcile.broke"} == {line["event"] for line in logged if line["log_level"] == "error"}
    shown = await talktime.session(session)
    assert shown["state"] == "review"
    assert shown["steps"][-1]["why"] == "it cannot be worked on: OverflowError"
    talktime.clock.advance(86_400)
    await talktime.reconcile()
    assert (await talktime.balance(user))["held"] == "0"


async def test_neither_does_a_broken_account_keep_its_session_from_review(talktime: World) -> None:
    user, session = await live(talktime)
    talktime.provider.say(session["provider_session_id"], ("agent", 10))
    conninfo = talktime.service.database.conninfo
    tell(conninfo, f"update accounts set balance = balance + 1 where user_id = '{user}'")
    talktime.clock.advance(60)
    await talktime.live_through(session, 91_000)
    state, due_at, hold_until = row_of(talktime, session, "state, due_at, hold_until")
    assert state == "review"
    ((why,),) = ask(
        conninfo,
        f"select why from session_steps where session_id = '{talktime.key(session).id}' order by n desc limit 1",
    )
    assert why == "it cannot be worked on: BrokenLedger"
    told = f"select seq, data->>'why' from events where type = 'session.review' and data->>'user_id' = '{user}'"
    ((seq, event_why),) = ask(conninfo, told)
    assert (event_why, due_at <= hold_until) == (why, True)
    assert ask(conninfo, f"select event_seq from accounts where user_id = '{user}'") == [(seq,)]

    talktime.clock.advance(90_000)
    await talktime.live_through(session, 20_000)  # however often it was tried before, which is left to chance
    (due_at,) = row_of(talktime, session, "due_at")
    talktime.clock.set(instant_of(due_at))
    await talktime.reconcile()
    (due_at,) = row_of(talktime, session, "due_at")
    longest = 3_600 * US_PER_S
    assert instant_of(due_at) >= talktime.clock.now() + longest, "to free the hold is not tried all the time"
    tell(conninfo, f"update accounts set balance = balance - 1 where user_id = '{user}'")
    assert (await talktime.balance(user))["held"] == session["held"]
    talktime.clock.advance(4_000)
    await talktime.reconcile()
    assert (await talktime.balance(user))["held"] == "0"


async def test_nor_does_it_while_the_provider_lets_nobody_ask(
    databases: WorkerDatabases, providers: ProviderHost
) -> None:
    terms: dict[str, Any] = {"evidence_wait_s": 7_200, "review_after_s": 3_600}
    url = databases.urls.service
    async with world(url, providers.script(), permits=None, **terms) as talktime:
        tell(url, CALM)
        user, session = await live(talktime)
        tell(url, f"update accounts set balance = balance + 1 where user_id = '{user}'")
        for _ in range(200):
            until = f"to_timestamp({(talktime.clock.now() // US_PER_S) + 3_500})"
            tell(url, f"update provider_budget set blocked_until = {until}")
            talktime.clock.advance(300)
            await talktime.reconcile()
            if row_of(talktime, session, "state") == ("review",):
                break
        assert row_of(talktime, session, "state") == ("review",)
        assert talktime.provider.pulls == []
        tell(url, CALM)
        tell(url, f"update accounts set balance = balance - 1 where user_id = '{user}'")


async def test_one_failed_pull_after_a_long_pause_of_ours_is_no_want_of_evidence(talktime: World) -> None:
    _, session = await live(talktime)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 20))
    await talktime.heartbeats_until(session, 30)
    await reconcile(talktime, session)
    talktime.clock.advance(90_000)
    talktime.provider.timeline_status = 500
    await talktime.reconcile()
    assert (await talktime.session(session))["state"] == "over", "past its limit, but not for a person to judge"
    talktime.provider.timeline_status = 200
    talktime.clock.advance(400)
    await talktime.reconcile()
    assert (await talktime.session(session))["state"] == "settled"


@pytest.mark.parametrize("first", [429, 500])
@pytest.mark.parametrize("second", [429, 500])
async def test_neither_are_two_with_an_outage_of_ours_between_them(
    databases: WorkerDatabases, providers: ProviderHost, first: int, second: int
) -> None:
    # Of its own: what it reports stays in the database, and other tests would have been deaf since.
    with databases.fresh() as urls:
        async with world(urls.service, providers.script(), reports=True) as talktime:
            _, session = await live(talktime)
            talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 20))
            await talktime.heartbeats_until(session, 30)
            talktime.clock.advance(31)
            await talktime.service.receiving.report()
            talktime.provider.timeline_status = first
            await talktime.reconcile()
            talktime.clock.advance(90_000)
            await talktime.service.receiving.report()
            talktime.provider.timeline_status = second
            for _ in range(3):
                await talktime.reconcile()
                assert (await talktime.session(session))["state"] == "over"
                talktime.clock.advance(400)
                await talktime.service.receiving.report()
            talktime.provider.timeline_status = 200
            assert (await talktime.settle(session))["state"] == "settled"


@pytest.mark.parametrize(("status", "retry_after"), [(429, "3600"), (503, "3600"), (429, None)])
async def test_a_provider_that_refuses_everybody_keeps_no_crowds_credits(
    databases: WorkerDatabases, providers: ProviderHost, status: int, retry_after: str | None
) -> None:
    terms: dict[str, Any] = {"evidence_wait_s": 7_200, "review_after_s": 3_600}
    async with world(databases.urls.service, providers.script(), permits=None, **terms) as talktime:
        tell(databases.urls.service, CALM)
        pairs = [await live(talktime) for _ in range(6)]
        talktime.provider.timeline_status, talktime.provider.retry_after = status, retry_after
        states: set[str] = set()
        for _ in range(60):
            talktime.clock.advance(300)
            await talktime.reconcile()
            states = {(await talktime.session(session))["state"] for _, session in pairs}
        assert states == {"review"}
        assert {(await talktime.balance(user))["held"] for user, _ in pairs} == {"0"}
        why = (await talktime.session(pairs[-1][1]))["steps"][-1]["why"]
        assert why.startswith("no usable timeline for 7200 s")
        tell(databases.urls.service, CALM)


async def test_nor_does_a_crowd_larger_than_a_round_hide_anybody(
    databases: WorkerDatabases, providers: ProviderHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one whose start was never answered, nor those further back for whom nobody asks the provider."""
    monkeypatch.setattr("app.settlement.reconciler.MAX_BATCH", 3)
    terms: dict[str, Any] = {"evidence_wait_s": 7_200, "review_after_s": 3_600}
    async with world(databases.urls.service, providers.script(), permits=None, **terms) as talktime:
        tell(databases.urls.service, CALM)
        pairs = [await live(talktime) for _ in range(11)]
        user = talktime.user()
        await talktime.grant(user, "1000")
        unanswered = await talktime.start_unconfirmed(user)
        talktime.provider.timeline_status, talktime.provider.retry_after = 429, "3600"
        talktime.clock.advance(100)
        await talktime.reconcile()
        talktime.clock.advance(100)
        await talktime.reconcile()
        assert (await talktime.session(unanswered))["state"] == "failed"
        for _ in range(60):
            talktime.clock.advance(300)
            await talktime.reconcile()
        assert {(await talktime.session(session))["state"] for _, session in pairs} == {"review"}
        assert {(await talktime.balance(user))["held"] for user, _ in pairs} == {"0"}
        tell(databases.urls.service, CALM)


async def test_a_pull_that_succeeds_begins_the_wait_for_evidence_anew(
    databases: WorkerDatabases, providers: ProviderHost
) -> None:
    async with world(databases.urls.service, providers.script(), evidence_wait_s=600, settle_delay_s=5_000) as talktime:
        _, session = await live(talktime)
        for _ in range(2):
            talktime.provider.timeline_status = 500
            await talktime.live_through(session, 550)
            assert (await talktime.session(session))["state"] != "review"
            talktime.provider.timeline_status = 200
            talktime.provider.say(session["provider_session_id"], ("agent", 10))
            assert await reconcile(talktime, session) is Outcome.UPDATED
        talktime.provider.timeline_status = 500
        await talktime.live_through(session, 1_500)
        assert (await talktime.session(session))["state"] == "review"
