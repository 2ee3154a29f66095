"""What comes after a session was settled: one linked difference, or a review; never a second charge."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from app.core.units import US_PER_S, Instant, Micros, format_instant, parse_instant
from app.settlement.corrections import LATE_LOOK_PARTS
from app.settlement.replay import replay
from app.settlement.reviews import TOO_LATE_FOR_MORE
from app.settlement.steps import Outcome
from app.settlement.work import ACTOR
from tests.support.invariants import findings
from tests.support.postgres import WorkerDatabases, ask
from tests.support.problems import problem
from tests.support.scripted_provider import ProviderHost
from tests.support.unchanged import contents
from tests.support.world import World, world

pytestmark = pytest.mark.anyio

WINDOW_S = 259_200
ENOUGH_S = WINDOW_S / LATE_LOOK_PARTS * 1.1
"""The planned look comes after a third of the window, and a tenth of jitter."""


async def settled(talktime: World, amount: str = "1000", **asked: Any) -> tuple[str, dict[str, Any]]:
    """A session with 10 s of the agent and a heartbeat at 30 s: 15 credits."""
    user = talktime.user()
    await talktime.grant(user, amount)
    session = await talktime.start(user, **asked)
    say(talktime, session, ("agent", 10), ("silence", 20))
    await talktime.heartbeats_until(session, 30)
    await reconcile(talktime, session)
    talktime.clock.advance(80)
    say(talktime, session, ("agent", 10), ("silence", 100))
    await reconcile(talktime, session)
    talktime.clock.advance(120)
    assert await reconcile(talktime, session) is Outcome.SETTLED
    return user, await talktime.session(session)


def say(talktime: World, session: dict[str, Any], *segments: tuple[str, float | str]) -> None:
    talktime.provider.say(session["provider_session_id"], *segments)


async def reconcile(talktime: World, session: dict[str, Any]) -> Any:
    return await talktime.service.reconciler.reconcile(talktime.key(session), now_please=True)


async def entries(talktime: World, user: str) -> list[dict[str, Any]]:
    """What was posted for the user's session, the charge first."""
    found = (await talktime.get(f"/v1/users/{user}/entries"))["data"]
    return [entry for entry in reversed(found) if entry["session_id"] is not None]


async def amounts(talktime: World, user: str) -> Sequence[tuple[str, str]]:
    return [(entry["kind"], entry["amount"]) for entry in await entries(talktime, user)]


def snapshots(talktime: World, session: dict[str, Any]) -> int:
    statement = f"select count(*) from snapshots where session_id = '{talktime.key(session).id}'"
    return int(ask(talktime.service.database.conninfo, statement)[0][0])


async def test_a_look_is_planned_and_taken_once(talktime: World) -> None:
    user, session = await settled(talktime)
    say(talktime, session, ("agent", 12), ("silence", 200))
    pulls = len(talktime.provider.pulls)
    talktime.clock.advance(WINDOW_S / LATE_LOOK_PARTS - 1)
    await talktime.reconcile()
    assert len(talktime.provider.pulls) == pulls, "not before its time"
    talktime.clock.advance(ENOUGH_S)
    await talktime.reconcile()
    charge, difference = await entries(talktime, user)
    assert (charge["amount"], difference["amount"], difference["kind"]) == ("-15", "-2", "rerate")
    assert difference["reverses"] == charge["id"]
    assert (await talktime.balance(user))["balance"] == "983"
    pulls = len(talktime.provider.pulls)
    say(talktime, session, ("agent", 20), ("silence", 200))
    talktime.clock.advance(ENOUGH_S)
    await talktime.reconcile()
    assert len(talktime.provider.pulls) == pulls, "one look"
    assert await findings(talktime.service.database.conninfo) == []


async def test_no_news_change_nothing(talktime: World) -> None:
    user, session = await settled(talktime)
    say(talktime, session, ("agent", 10), ("silence", 90_000))
    stored = snapshots(talktime, session)
    talktime.clock.advance(ENOUGH_S)
    await talktime.reconcile()
    assert await amounts(talktime, user) == [("charge", "-15")]
    assert snapshots(talktime, session) == stored, "a last silence that grew is no news"


async def test_a_late_heartbeat_is_charged_for_what_it_proves(talktime: World) -> None:
    """It was sent while the session ran, and stored after it was settled."""
    user, session = await settled(talktime)
    key = talktime.key(session)
    at = format_instant(Instant(parse_instant(session["requested_at"]) + 60_000_000))
    with_owner = "insert into ticks (account_id, session_id, received_at, id) values ('{}', '{}', '{}', 1)"
    await talktime.heartbeat(session)
    assert await reconcile(talktime, session) is Outcome.RATED_AGAIN
    assert await amounts(talktime, user) == [("charge", "-15")], "what it would prove lies past the gap"
    ask(talktime.service.database.conninfo, with_owner.format(key.account_id, key.id, at) + " returning 1")
    assert await reconcile(talktime, session) is Outcome.RATED_AGAIN
    # Five seconds of silence cost; the heartbeat's proof lies beyond the cap of the default card.
    assert await amounts(talktime, user) == [("charge", "-15")]
    charge = await talktime.get(f"/v1/sessions/{session['id']}/charge")
    assert charge["envelopes"] == [[0, 60], [230, 230]]
    assert charge["not_billed"]["silence_cap"] == 45


async def test_who_asks_for_a_pull_is_shown_what_changed_at_once(talktime: World) -> None:
    user, session = await settled(talktime)
    say(talktime, session, ("agent", 11), ("silence", 200))
    response = await talktime.client.post(f"/v1/sessions/{session['id']}/reconcile")
    assert (response.status_code, response.json()["state"]) == (200, "settled")
    assert await amounts(talktime, user) == [("charge", "-15"), ("rerate", "-1")]
    account_id = talktime.key(session).account_id
    event = ask(
        talktime.service.database.conninfo,
        f"select data from events where type = 'charge.corrected' and account_id = '{account_id}'",
    )
    told = {"user_id": user, "session_id": session["id"], "correction": "rerate", "given_back": "-1"}
    assert event == [(told,)]
    audited = ask(
        talktime.service.database.conninfo,
        f"select actor, action from audit_log where target = '{session['id']}' and action <> 'session.start'",
    )
    assert sorted(audited) == sorted([(ACTOR.name, "session.rerate"), ("bootstrap", "session.reconcile")])
    say(talktime, session, ("agent", 13), ("silence", 200))
    talktime.clock.advance(ENOUGH_S)
    await talktime.reconcile()
    assert await amounts(talktime, user) == [("charge", "-15"), ("rerate", "-1"), ("rerate", "-2")]


async def test_never_more_than_was_authorized(talktime: World) -> None:
    user, session = await settled(talktime, amount="1000", time_limit_s=30)
    say(talktime, session, ("agent", 30), ("silence", 200))
    assert await reconcile(talktime, session) is Outcome.RATED_AGAIN
    assert await amounts(talktime, user) == [("charge", "-15"), ("rerate", "-15")]
    assert (await talktime.session(session))["authorized"] == "30"


async def test_never_more_than_is_available(talktime: World) -> None:
    user, session = await settled(talktime, amount="100", time_limit_s=60)
    spent = await talktime.client.post(f"/v1/users/{user}/adjustments", json={"amount": "-84.5", "reason": "x"})
    assert spent.status_code == 201
    say(talktime, session, ("agent", 20), ("silence", 200))
    assert await reconcile(talktime, session) is Outcome.RATED_AGAIN
    assert await amounts(talktime, user) == [("charge", "-15"), ("rerate", "-0.5")]
    assert (await talktime.balance(user))["balance"] == "0"


async def test_a_timeline_that_shrank_is_for_a_person_to_judge(talktime: World) -> None:
    user, session = await settled(talktime)
    say(talktime, session, ("agent", 4), ("silence", 200))
    talktime.clock.advance(ENOUGH_S)
    await talktime.reconcile()
    shown = await talktime.session(session)
    assert (shown["state"], shown["charged"], shown["held"]) == ("review", "15", "0")
    assert "timeline_shrank" in shown["anomalies"]
    assert "timeline_shrank" in shown["steps"][-1]["why"]
    assert await amounts(talktime, user) == [("charge", "-15")]
    charge = await talktime.get(f"/v1/sessions/{session['id']}/charge")
    assert (charge["amount"], charge["state"], charge["proposed"]["amount"]) == ("15", "review", "9")
    balance = await talktime.balance(user)
    assert (balance["balance"], balance["accrued"]) == ("985", "0"), "what is posted has not accrued as well"
    response = await talktime.client.post(f"/v1/sessions/{session['id']}/rerate", json={"reason": "x"})
    problem(response, 409, "session-not-settled")
    async with talktime.service.database.reading() as transaction:
        assert [one.differences for one in await replay(transaction, talktime.key(session))] == [()]
    assert await findings(talktime.service.database.conninfo) == []


async def test_what_would_lower_the_charge_is_for_a_person_to_judge(talktime: World) -> None:
    """By less than what counts as a timeline that shrank."""
    user, session = await settled(talktime)
    say(talktime, session, ("agent", 9.5), ("silence", 200))
    assert await reconcile(talktime, session) is Outcome.REVIEW
    shown = await talktime.session(session)
    assert (shown["state"], shown["steps"][-1]["why"]) == (
        "review",
        "evidence that came after the session was settled would lower its charge",
    )
    assert await amounts(talktime, user) == [("charge", "-15")]


async def reviewed(talktime: World) -> tuple[str, dict[str, Any]]:
    user, session = await settled(talktime)
    say(talktime, session, ("agent", 4), ("silence", 200))
    assert await reconcile(talktime, session) is Outcome.REVIEW
    return user, session


async def decide(talktime: World, session: dict[str, Any], action: str) -> dict[str, Any]:
    body = {"action": action, "reason": "looked at it"}
    response = await talktime.client.post(f"/v1/sessions/{session['id']}/review", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def test_an_operator_has_the_difference_posted(talktime: World) -> None:
    user, session = await reviewed(talktime)
    shown = await decide(talktime, session, "settle")
    assert (shown["state"], shown["charged"], shown["settled_at"]) == ("settled", "15", session["settled_at"])
    assert await amounts(talktime, user) == [("charge", "-15"), ("rerate", "6")]
    assert (await talktime.balance(user))["balance"] == "991"
    assert (await talktime.get(f"/v1/sessions/{session['id']}/charge"))["proposed"] is None
    before = contents(talktime.service.database.conninfo)
    assert await reconcile(talktime, session) is Outcome.UPDATED
    assert contents(talktime.service.database.conninfo) == before, "what was decided is not undone"
    assert await findings(talktime.service.database.conninfo) == []


async def test_what_was_accepted_as_unusable_stays_so(talktime: World) -> None:
    user, session = await settled(talktime)
    said: list[tuple[str, float | str]] = [("agent", 10), ("silence", '"long"'), ("agent", 7)]
    say(talktime, session, *said, ("silence", 200))
    assert await reconcile(talktime, session) is Outcome.REVIEW
    await decide(talktime, session, "settle")
    before = await amounts(talktime, user)
    say(talktime, session, *said, ("silence", 20), ("user", 2), ("silence", 150))
    assert await reconcile(talktime, session) is Outcome.RATED_AGAIN
    assert (await amounts(talktime, user))[:-1] == before
    shown = await talktime.session(session)
    assert (shown["state"], shown["anomalies"]) == ("settled", ["bad_segment"]), "it is said, and decided"
    async with talktime.service.database.reading() as transaction:
        replayed = await replay(transaction, talktime.key(session))
    assert all(one.differences == () for one in replayed)
    say(talktime, session, *said, ("silence", "null"), ("user", 2), ("silence", 150))
    assert await reconcile(talktime, session) is Outcome.REVIEW
    assert "bad_segment" in (await talktime.session(session))["steps"][-1]["why"], "but not another one"
    assert await findings(talktime.service.database.conninfo) == []


async def test_so_does_a_timeline_that_was_accepted_as_too_long(talktime: World) -> None:
    user, session = await settled(talktime)
    say(talktime, session, ("agent", 10), ("silence", 5_000), ("agent", 3), ("silence", 200))
    assert await reconcile(talktime, session) is Outcome.REVIEW
    assert "timeline_longer_than_elapsed" in (await talktime.session(session))["steps"][-1]["why"]
    await decide(talktime, session, "settle")
    before = await amounts(talktime, user)
    talktime.clock.advance(100)
    say(talktime, session, ("agent", 10), ("silence", 5_000), ("agent", 3), ("silence", 290), ("agent", 3))
    assert await reconcile(talktime, session) in {Outcome.UPDATED, Outcome.RATED_AGAIN}
    assert (await talktime.session(session))["state"] == "settled"
    assert (await amounts(talktime, user))[: len(before)] == before
    say(talktime, session, ("agent", 10), ("silence", 9_000), ("agent", 3), ("silence", 290), ("agent", 3))
    assert await reconcile(talktime, session) is Outcome.REVIEW
    assert await findings(talktime.service.database.conninfo) == []


async def test_what_grows_after_an_accepted_loss_is_charged_by_itself(talktime: World) -> None:
    """Still less than what was once said: what was accepted is the measure."""
    user, session = await reviewed(talktime)
    await decide(talktime, session, "settle")
    assert (await talktime.session(session))["anomalies"] == []
    say(talktime, session, ("agent", 7), ("silence", 200))
    assert await reconcile(talktime, session) is Outcome.RATED_AGAIN
    assert await amounts(talktime, user) == [("charge", "-15"), ("rerate", "6"), ("rerate", "-3")]
    charge = await talktime.get(f"/v1/sessions/{session['id']}/charge")
    assert (charge["amount"], charge["anomalies"], charge["snapshot"], charge["accepted_snapshot"]) == ("12", [], 5, 4)
    async with talktime.service.database.reading() as transaction:
        replayed = await replay(transaction, talktime.key(session))
    assert [(one.version, one.differences) for one in replayed] == [(1, ()), (2, ()), (3, ())]
    say(talktime, session, ("agent", 5), ("silence", 200))
    assert await reconcile(talktime, session) is Outcome.REVIEW
    assert "timeline_shrank" in (await talktime.session(session))["anomalies"], "but not a further loss"
    assert await findings(talktime.service.database.conninfo) == []


async def test_a_loss_that_was_accepted_before_it_was_charged_is_the_measure_as_well(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    session = await talktime.start(user)
    say(talktime, session, ("agent", 10), ("silence", 20))
    await talktime.heartbeats_until(session, 30)
    await reconcile(talktime, session)
    say(talktime, session, ("agent", 4), ("silence", 60))
    assert (await talktime.settle(session))["state"] == "review"
    await decide(talktime, session, "settle")
    assert await amounts(talktime, user) == [("charge", "-9")]
    before = contents(talktime.service.database.conninfo)
    assert await reconcile(talktime, session) is Outcome.UPDATED
    assert contents(talktime.service.database.conninfo) == before, "what was accepted is no news"
    say(talktime, session, ("agent", 6), ("silence", 60))
    assert await reconcile(talktime, session) is Outcome.RATED_AGAIN
    assert await amounts(talktime, user) == [("charge", "-9"), ("rerate", "-2")]


async def test_an_operator_gives_all_of_it_back(talktime: World) -> None:
    user, session = await reviewed(talktime)
    shown = await decide(talktime, session, "write_off")
    assert (shown["state"], shown["charged"], shown["written_off"]) == ("settled", "15", True)
    assert await amounts(talktime, user) == [("charge", "-15"), ("refund", "15")]
    assert (await talktime.balance(user))["balance"] == "1000"
    say(talktime, session, ("agent", 40), ("silence", 200))
    assert await reconcile(talktime, session) is Outcome.NOT_OURS
    response = await talktime.client.post(f"/v1/sessions/{session['id']}/rerate", json={"reason": "x"})
    problem(response, 409, "session-written-off")
    assert await findings(talktime.service.database.conninfo) == []


@pytest.mark.parametrize(
    ("after_s", "agent_s", "posted"),
    [
        pytest.param(WINDOW_S - 3_600, 4, [("rerate", "6")], id="within the window, less"),
        pytest.param(WINDOW_S - 3_600, 11, [("rerate", "-1")], id="within the window, more"),
        pytest.param(10 * WINDOW_S, 4, [("rerate", "6")], id="after the window, less"),
        pytest.param(10 * WINDOW_S, 11, [], id="after the window, more"),
    ],
)
async def test_after_the_window_a_review_can_only_lower_the_charge(
    talktime: World, after_s: int, agent_s: int, posted: list[tuple[str, str]]
) -> None:
    user, session = await reviewed(talktime)
    say(talktime, session, ("agent", agent_s), ("silence", 200))
    talktime.clock.advance(after_s)
    proposed = (await talktime.get(f"/v1/sessions/{session['id']}/charge"))["settles_at"]
    shown = await decide(talktime, session, "settle")
    assert (shown["state"], shown["charged"]) == ("settled", "15")
    assert await amounts(talktime, user) == [("charge", "-15"), *posted]
    why = (await talktime.session(session))["steps"][-1]["why"]
    assert why.startswith(TOO_LATE_FOR_MORE) is (not posted)
    assert proposed == "9", "by the pull of before"
    assert await findings(talktime.service.database.conninfo) == []


async def test_what_a_review_would_settle_at_is_told(talktime: World) -> None:
    _, session = await reviewed(talktime)
    say(talktime, session, ("agent", 11), ("silence", 200))
    await reconcile(talktime, session)
    path = f"/v1/sessions/{session['id']}/charge"
    charge = await talktime.get(path)
    assert (charge["proposed"]["amount"], charge["settles_at"]) == ("16", "16")
    talktime.clock.advance(WINDOW_S + 1)
    charge = await talktime.get(path)
    assert (charge["proposed"]["amount"], charge["settles_at"]) == ("16", "15"), "it is too late for more"
    await decide(talktime, session, "settle")
    assert (await talktime.get(path))["settles_at"] is None


async def test_a_write_off_is_never_too_late(talktime: World) -> None:
    user, session = await reviewed(talktime)
    talktime.clock.advance(10 * WINDOW_S)
    await decide(talktime, session, "write_off")
    assert await amounts(talktime, user) == [("charge", "-15"), ("refund", "15")]


async def test_what_was_refunded_meanwhile_is_not_given_back_again(talktime: World) -> None:
    user, session = await settled(talktime)
    response = await talktime.client.post(f"/v1/sessions/{session['id']}/refund", json={"reason": "x", "amount": "12"})
    assert response.status_code == 201
    say(talktime, session, ("agent", 4), ("silence", 200))
    assert await reconcile(talktime, session) is Outcome.REVIEW
    await decide(talktime, session, "write_off")
    assert await amounts(talktime, user) == [("charge", "-15"), ("refund", "12"), ("refund", "3")]


async def test_a_provider_that_cannot_be_asked_is_asked_again_as_long_as_it_matters(talktime: World) -> None:
    user, session = await settled(talktime)
    say(talktime, session, ("agent", 12), ("silence", 200))
    talktime.clock.advance(ENOUGH_S)
    talktime.provider.timeline_status = 500
    for _ in range(4):
        await talktime.reconcile()
        talktime.clock.advance(4_000)
    talktime.provider.timeline_status = 200
    await talktime.reconcile()
    assert await amounts(talktime, user) == [("charge", "-15"), ("rerate", "-2")]

    user, session = await settled(talktime)
    talktime.provider.timeline_status = 500
    for _ in range(WINDOW_S // 3_961 + 1):
        talktime.clock.advance(3_961)
        await talktime.reconcile()
    talktime.provider.timeline_status = 200
    say(talktime, session, ("agent", 12), ("silence", 200))
    pulls = len(talktime.provider.pulls)
    talktime.clock.advance(4_000)
    await talktime.reconcile()
    assert await reconcile(talktime, session) is Outcome.NOT_OURS
    assert len(talktime.provider.pulls) == pulls
    assert await amounts(talktime, user) == [("charge", "-15")]


async def test_after_a_long_outage_of_ours_it_is_too_late(talktime: World) -> None:
    user, session = await settled(talktime)
    say(talktime, session, ("agent", 12), ("silence", 200))
    talktime.clock.advance(WINDOW_S + 1)
    await talktime.reconcile()
    assert await amounts(talktime, user) == [("charge", "-15")]
    assert (await talktime.session(session))["state"] == "settled"


async def test_the_window_is_a_setting(databases: WorkerDatabases, providers: ProviderHost) -> None:
    async with world(databases.urls.service, providers.script(), rerate_window_s=30) as talktime:
        user, session = await settled(talktime)
        say(talktime, session, ("agent", 12), ("silence", 200))
        talktime.clock.advance(11)
        await talktime.reconcile()
        assert await amounts(talktime, user) == [("charge", "-15"), ("rerate", "-2")]


@pytest.mark.parametrize(("action", "looks"), [("settle", 1), ("write_off", 0)])
async def test_what_an_operator_settled_is_looked_at_like_any_other(talktime: World, action: str, looks: int) -> None:
    _, session = await reviewed(talktime)
    await decide(talktime, session, action)
    pulls = len(talktime.provider.pulls)
    talktime.clock.advance(WINDOW_S / LATE_LOOK_PARTS - 1)
    await talktime.reconcile()
    assert len(talktime.provider.pulls) == pulls, "not before its time"
    await talktime.live_through(session, WINDOW_S)
    assert len(talktime.provider.pulls) == pulls + looks


async def test_a_review_that_ends_too_late_for_a_correction_is_not_looked_at_again(talktime: World) -> None:
    _, session = await reviewed(talktime)
    talktime.clock.advance(WINDOW_S * 2 / 3 + 1)
    await decide(talktime, session, "settle")
    pulls = len(talktime.provider.pulls)
    await talktime.live_through(session, WINDOW_S)
    assert len(talktime.provider.pulls) == pulls


async def test_a_contradiction_is_pulled_again_until_somebody_decides(talktime: World) -> None:
    user, session = await reviewed(talktime)
    pulls = len(talktime.provider.pulls)
    await talktime.live_through(session, 86_400)
    assert 9 <= len(talktime.provider.pulls) - pulls <= 11, "it holds no credits: after twice the wait each time"
    pulls = len(talktime.provider.pulls)
    await talktime.live_through(session, 10 * 86_400)
    assert 8 <= len(talktime.provider.pulls) - pulls <= 12, "each day, after a while"
    say(talktime, session, ("agent", 5), ("silence", 200))
    await talktime.live_through(session, 100_000)
    charge = await talktime.get(f"/v1/sessions/{session['id']}/charge")
    assert (charge["amount"], charge["proposed"]["amount"]) == ("15", "10")
    say(talktime, session, ("agent", 10.5), ("silence", 200))
    await talktime.live_through(session, 100_000)
    charge = await talktime.get(f"/v1/sessions/{session['id']}/charge")
    assert charge["proposed"]["amount"] == "15.5"
    assert (await talktime.session(session))["anomalies"] == []
    pulls = len(talktime.provider.pulls)
    await talktime.live_through(session, 300_000)
    assert len(talktime.provider.pulls) == pulls, "nothing contradicts itself any more"
    assert await amounts(talktime, user) == [("charge", "-15")]


async def test_who_settles_a_review_settles_the_timeline_of_now(talktime: World) -> None:
    user, session = await reviewed(talktime)
    say(talktime, session, ("agent", 6), ("silence", 200))
    await decide(talktime, session, "settle")
    assert await amounts(talktime, user) == [("charge", "-15"), ("rerate", "4")]


async def test_who_writes_a_review_off_needs_no_timeline(talktime: World) -> None:
    _, session = await reviewed(talktime)
    pulls = len(talktime.provider.pulls)
    await decide(talktime, session, "write_off")
    assert len(talktime.provider.pulls) == pulls


@pytest.mark.parametrize("status", [500, 429])
async def test_a_decision_goes_on_with_what_is_stored_if_the_provider_fails(talktime: World, status: int) -> None:
    user, session = await reviewed(talktime)
    say(talktime, session, ("agent", 6), ("silence", 200))
    talktime.provider.timeline_status = status
    await decide(talktime, session, "settle")
    assert await amounts(talktime, user) == [("charge", "-15"), ("rerate", "6")]


async def test_a_decision_does_not_wait_for_a_provider_that_hangs(
    talktime: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.settlement.reconciler.DECISION_PATIENCE", Micros(US_PER_S // 5))
    user, session = await reviewed(talktime)
    say(talktime, session, ("agent", 6), ("silence", 200))
    answers = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def hang() -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(answers.wait(), loop))

    talktime.provider.before_timeline = hang
    await decide(talktime, session, "settle")
    talktime.provider.before_timeline = None
    assert await amounts(talktime, user) == [("charge", "-15"), ("rerate", "6")]
    before = contents(talktime.service.database.conninfo)
    answers.set()
    await talktime.service.reconciler.finish()
    assert contents(talktime.service.database.conninfo) == before, "the decision took its lease away"
