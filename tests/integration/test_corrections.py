"""Corrections by API: voids, adjustments, refunds, ratings again, reviews; each linked, none twice, none too much."""

from typing import Any

import httpx
import pytest

from app.settlement.steps import Outcome
from tests.support.postgres import WorkerDatabases, ask, tell
from tests.support.problems import pointers, problem
from tests.support.unchanged import unchanged
from tests.support.world import World

pytestmark = pytest.mark.anyio

DAY = 86_400


async def settled(talktime: World, user: str, agent: int = 10, **asked: Any) -> dict[str, Any]:
    """A settled session: ``agent`` seconds of the agent, 5 s of billed silence."""
    session = await talktime.start(user, **asked)
    await talk(talktime, session, ("agent", agent), ("silence", 30 - agent))
    return await talktime.settle(session)


async def talk(talktime: World, session: dict[str, Any], *segments: tuple[str, float | str]) -> None:
    """One heartbeat after 30 s, and a pull at that moment, by which the timeline is aligned."""
    talktime.provider.say(session["provider_session_id"], *segments)
    await talktime.heartbeats_until(session, 30)
    assert await talktime.service.reconciler.reconcile(talktime.key(session), now_please=True) is Outcome.UPDATED


async def post(talktime: World, path: str, key: str | None = None, **body: Any) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await talktime.client.post(path, json={"reason": "because", **body}, headers=headers)


async def done(talktime: World, path: str, status: int = 201, **body: Any) -> dict[str, Any]:
    response = await post(talktime, path, **body)
    assert response.status_code == status, response.text
    return dict(response.json())


async def patch(talktime: World, user: str, **changes: Any) -> dict[str, Any]:
    response = await talktime.client.patch(f"/v1/users/{user}", json=changes)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def grants(talktime: World, user: str) -> dict[str, dict[str, Any]]:
    """The user's grants by their reference; those without one by ``kind``."""
    found = (await talktime.get(f"/v1/users/{user}/grants"))["data"]
    return {grant["reference"] or grant["kind"]: grant for grant in found}


async def entries(talktime: World, user: str, kind: str = "") -> list[dict[str, Any]]:
    suffix = f"?kind={kind}" if kind else ""
    return list((await talktime.get(f"/v1/users/{user}/entries{suffix}"))["data"])


async def balance(talktime: World, user: str) -> str:
    return str((await talktime.balance(user))["balance"])


def events(talktime: World, user: str) -> list[tuple[str, Any]]:
    statement = (
        "select v.type, v.data from events v join accounts a using (account_id) "
        f"where a.user_id = '{user}' order by v.seq"
    )
    return [(kind, data) for kind, data in ask(talktime.service.database.conninfo, statement)]


def audited(talktime: World, user: str, action: str) -> list[tuple[Any, ...]]:
    statement = (
        "select l.actor, l.target, l.before, l.after, l.reason from audit_log l join accounts a using (account_id) "
        f"where a.user_id = '{user}' and l.action = '{action}' order by l.id"
    )
    return ask(talktime.service.database.conninfo, statement)


# Voids


async def test_a_void_takes_what_is_left_and_closes_the_grant(talktime: World) -> None:
    user = talktime.user()
    grant = await talktime.grant(user, "100")
    await settled(talktime, user)
    voided = await done(talktime, f"/v1/grants/{grant['id']}/void", 200)
    assert (voided["state"], voided["remaining"], voided["voided"]) == ("voided", "0", "85")
    (entry,) = await entries(talktime, user, "void")
    assert (entry["amount"], entry["grant_id"], entry["reason"]) == ("-85", grant["id"], "because")
    assert await balance(talktime, user) == "0"
    assert ("grant.voided", {"user_id": user, "grant_id": grant["id"], "voided": "85"}) in events(talktime, user)
    ((actor, target, before, after, reason),) = audited(talktime, user, "grant.void")
    assert (actor, target, reason) == ("bootstrap", grant["id"], "because")
    assert (before, after) == ({"state": "active", "remaining": "85"}, {"state": "voided", "voided": "85"})


async def test_what_a_session_holds_of_a_voided_grant_pays_it_and_then_goes(talktime: World) -> None:
    user = talktime.user()
    grant = await talktime.grant(user, "100")
    session = await talktime.start(user, time_limit_s=60)
    voided = await done(talktime, f"/v1/grants/{grant['id']}/void", 200)
    assert (voided["voided"], voided["remaining"], voided["held"]) == ("40", "60", "60")
    await talk(talktime, session, ("agent", 10), ("silence", 20))
    assert (await talktime.settle(session))["charged"] == "15"
    assert await balance(talktime, user) == "0"
    assert sum(int(entry["amount"]) for entry in await entries(talktime, user, "void")) == -85


async def test_a_voided_grant_of_the_future_never_comes_whoever_opens_it_again(
    talktime: World, databases: WorkerDatabases
) -> None:
    user = talktime.user()
    await talktime.grant(user, "1")
    grant = await talktime.grant(user, "100", effective_at="2026-03-02T00:00:00Z")
    voided = await done(talktime, f"/v1/grants/{grant['id']}/void", 200)
    assert (voided["state"], voided["remaining"], voided["voided"]) == ("voided", "0", "0")
    (entry,) = await entries(talktime, user, "void")
    assert (entry["amount"], entry["grant_id"], entry["reason"]) == ("0", grant["id"], "because")
    mine = f"account_id = (select account_id from accounts where user_id = '{user}')"
    again = f"update grants set state = 'scheduled', remaining = amount where state = 'voided' and {mine}"
    tell(talktime.service.database.conninfo, again)
    try:
        talktime.clock.advance(2 * DAY)
        assert await balance(talktime, user) == "1"
        await talktime.service.post_due()
        assert await balance(talktime, user) == "1"
    finally:
        tell(
            databases.urls.owner, f"update grants set state = 'voided', remaining = 0 where amount > 1000000 and {mine}"
        )


async def test_what_cannot_be_voided_is_told_apart(talktime: World) -> None:
    user = talktime.user()
    spent = await talktime.grant(user, "30", priority=0)
    expired = await talktime.grant(user, "5", expires_at="2026-03-02T00:00:00Z")
    await settled(talktime, user, agent=25)
    talktime.clock.advance(2 * DAY)
    with unchanged(talktime.service.database.conninfo):
        problem(await post(talktime, f"/v1/grants/{spent['id']}/void"), 409, "grant-spent")
        problem(await post(talktime, f"/v1/grants/{expired['id']}/void"), 409, "grant-closed")
        problem(await post(talktime, "/v1/grants/grt_x/void"), 404, "not-found")
        unknown = spent["id"][:-4] + "0000"
        problem(await post(talktime, f"/v1/grants/{unknown}/void"), 404, "not-found")
        assert pointers(await talktime.client.post(f"/v1/grants/{spent['id']}/void", json={})) == ["/reason"]
    open_one = await talktime.grant(user, "7")
    await done(talktime, f"/v1/grants/{open_one['id']}/void", 200)
    problem(await post(talktime, f"/v1/grants/{open_one['id']}/void"), 409, "grant-closed")


# Adjustments


async def test_credits_given_by_hand_are_a_grant(talktime: World) -> None:
    user = talktime.user()
    entry = await done(talktime, f"/v1/users/{user}/adjustments", amount="12.5")
    assert (entry["kind"], entry["amount"], entry["reason"]) == ("adjustment", "12.5", "because")
    (grant,) = (await grants(talktime, user)).values()
    assert (grant["id"], grant["kind"], grant["remaining"]) == (entry["grant_id"], "promotional", "12.5")
    await done(talktime, f"/v1/users/{user}/adjustments", amount="1", kind="paid")
    assert (await grants(talktime, user))["paid"]["remaining"] == "1"
    assert len(audited(talktime, user, "account.adjust")) == 2


async def test_credits_taken_by_hand_come_from_grants_in_burn_order_then_from_credit(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "10", reference="second")
    await talktime.grant(user, "5", priority=0, reference="first")
    await patch(talktime, user, credit_limit="20")
    entry = await done(talktime, f"/v1/users/{user}/adjustments", amount="-18")
    found = await grants(talktime, user)
    assert [(line["grant_id"], line["amount"]) for line in entry["funding"]] == [
        (found["first"]["id"], "5"), (found["second"]["id"], "10"), (None, "3"),
    ]  # fmt: skip
    assert await balance(talktime, user) == "-3"


async def test_nothing_is_taken_below_the_floor_unless_said_so(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    await talktime.start(user, time_limit_s=60)
    path = f"/v1/users/{user}/adjustments"
    with unchanged(talktime.service.database.conninfo):
        document = problem(await post(talktime, path, amount="-40.000001"), 409, "below-floor")
    assert document["available"] == "40"
    entry = await done(talktime, path, amount="-50", allow_below_floor=True)
    assert entry["balance_after"] == "50"
    assert [line["amount"] for line in entry["funding"]] == ["40", "10"]
    assert (await talktime.balance(user))["available"] == "-10"
    problem(await talktime.client.post("/v1/sessions", json={"user_id": user, "persona": "p", "scenario": "s"}), 402)
    await talktime.grant(user, "30")
    (repaying,) = [entry for entry in await entries(talktime, user, "grant") if entry["amount"] == "30"]
    assert [(line["amount"], line["debit_entry_id"]) for line in repaying["funding"]] == [("10", entry["id"])]
    assert (await talktime.balance(user))["available"] == "20"


BAD_ADJUSTMENTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"amount": "0"}, ["/amount"]),
    ({"amount": "-0.0000001"}, ["/amount"]),
    ({"amount": "1.0000001"}, ["/amount"]),
    ({"amount": "1000000000000.000001"}, ["/amount"]),
    ({"amount": "99999999999999999999999999"}, ["/amount"]),
    ({"amount": 5}, ["/amount"]),
    ({"amount": "NaN"}, ["/amount"]),
    ({"amount": "5", "reason": ""}, ["/reason"]),
    ({"amount": "5", "reason": "  "}, ["/reason"]),
    ({"amount": "5", "reason": "x" * 501}, ["/reason"]),
    ({"amount": "5", "reason": "a\u0000b"}, ["/reason"]),
    ({"amount": "5", "kind": "gift"}, ["/kind"]),
    ({"amount": "-5", "kind": "paid"}, [""]),
    ({"amount": "5", "allow_below_floor": True}, [""]),
    ({"amount": "5", "allow_below_floor": 1}, ["/allow_below_floor"]),
    ({"amount": "5", "to": "me"}, ["/to"]),
    ({}, ["/amount"]),
]


@pytest.mark.parametrize(("body", "at"), BAD_ADJUSTMENTS, ids=[str(body)[:60] for body, _ in BAD_ADJUSTMENTS])
async def test_bad_adjustments_point_at_the_place(talktime: World, body: dict[str, Any], at: list[str]) -> None:
    with unchanged(talktime.service.database.conninfo):
        assert pointers(await post(talktime, f"/v1/users/{talktime.user()}/adjustments", **body)) == at


async def test_no_balance_grows_past_what_a_bigint_holds(talktime: World) -> None:
    user = talktime.user()
    path = f"/v1/users/{user}/adjustments"
    for _ in range(8):
        await done(talktime, path, amount="1000000000000")
    assert pointers(await post(talktime, path, amount="0.000001")) == ["/amount"]
    debtor = talktime.user()
    path = f"/v1/users/{debtor}/adjustments"
    for _ in range(8):
        await done(talktime, path, amount="-1000000000000", allow_below_floor=True)
    assert pointers(await post(talktime, path, amount="-0.000001", allow_below_floor=True)) == ["/amount"]


# Refunds


async def test_a_refund_goes_back_in_reverse_and_never_beyond_the_charge(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "10", reference="first", priority=0)
    await talktime.grant(user, "50", reference="second")
    session = await settled(talktime, user)
    path = f"/v1/sessions/{session['id']}/refund"
    (charge,) = await entries(talktime, user, "charge")
    part = await done(talktime, path, amount="6")
    assert (part["amount"], part["left"], part["goodwill_grant_id"]) == ("6", "9", None)
    (entry,) = part["entries"]
    assert (entry["kind"], entry["amount"], entry["reverses"]) == ("refund", "6", charge["id"])
    found = await grants(talktime, user)
    assert (found["first"]["remaining"], found["second"]["remaining"]) == ("1", "50")
    problem(await post(talktime, path, amount="9.000001"), 409, "refund-exceeds-charge")
    rest = await done(talktime, path)
    assert (rest["amount"], rest["left"]) == ("9", "0")
    found = await grants(talktime, user)
    assert (found["first"]["remaining"], found["second"]["remaining"]) == ("10", "50")
    document = problem(await post(talktime, path), 409, "refund-exceeds-charge")
    assert document["left"] == "0"
    assert (await talktime.session(session))["charged"] == "15"
    told = [data["given_back"] for kind, data in events(talktime, user) if kind == "charge.corrected"]
    assert told == ["6", "9"]


async def test_the_same_refund_again_is_the_same_refund(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await settled(talktime, user)
    path = f"/v1/sessions/{session['id']}/refund"
    first = await post(talktime, path, "once", amount="5")
    again = await post(talktime, path, "once", amount="5")
    assert (first.status_code, again.status_code, first.content) == (201, 201, again.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert await balance(talktime, user) == "90"
    problem(await post(talktime, path, "once", amount="6"), 422, "idempotency-conflict")


async def test_what_an_expired_grant_paid_returns_as_goodwill(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100", expires_at="2026-03-02T00:00:00Z", cost_basis="0.1")
    session = await settled(talktime, user)
    talktime.clock.advance(2 * DAY)
    answer = await done(talktime, f"/v1/sessions/{session['id']}/refund", amount="4")
    goodwill = (await grants(talktime, user))["promotional"]
    assert answer["goodwill_grant_id"] == goodwill["id"]
    assert (goodwill["amount"], goodwill["remaining"], goodwill["cost_basis"]) == ("4", "4", None)
    expires = ask(
        talktime.service.database.conninfo,
        "select expires_at - effective_at = interval '30 days' from grants g join accounts a using (account_id) "
        f"where a.user_id = '{user}' and g.kind = 'promotional'",
    )
    assert expires == [(True,)]
    assert await balance(talktime, user) == "4"
    assert (await done(talktime, f"/v1/sessions/{session['id']}/refund"))["amount"] == "11"


async def test_what_a_voided_grant_paid_is_credited_and_voided_again(talktime: World) -> None:
    user = talktime.user()
    grant = await talktime.grant(user, "100")
    session = await settled(talktime, user)
    await done(talktime, f"/v1/grants/{grant['id']}/void", 200)
    answer = await done(talktime, f"/v1/sessions/{session['id']}/refund")
    assert [(entry["kind"], entry["amount"]) for entry in answer["entries"]] == [("refund", "15"), ("void", "-15")]
    assert await balance(talktime, user) == "0"


async def test_debt_is_refunded_first_and_if_it_was_repaid_to_who_repaid_it(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "10", reference="first")
    await patch(talktime, user, credit_limit="100")
    session = await settled(talktime, user)
    assert await balance(talktime, user) == "-5"
    await talktime.grant(user, "3", reference="repaying")
    assert await balance(talktime, user) == "-2"
    path = f"/v1/sessions/{session['id']}/refund"
    (owed,) = (await done(talktime, path, amount="1"))["entries"]
    assert [(line["grant_id"], line["amount"]) for line in owed["funding"]] == [(None, "-1")]
    assert await balance(talktime, user) == "-1"
    (more,) = (await done(talktime, path, amount="3"))["entries"]
    found = await grants(talktime, user)
    assert [(line["grant_id"], line["amount"]) for line in more["funding"]] == [
        (None, "-1"), (found["repaying"]["id"], "-2"),
    ]  # fmt: skip
    assert await balance(talktime, user) == "2"
    await done(talktime, path)
    found = await grants(talktime, user)
    assert (found["first"]["remaining"], found["repaying"]["remaining"]) == ("10", "3")


async def test_only_a_settled_session_can_be_corrected(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await talktime.start(user)
    with unchanged(talktime.service.database.conninfo):
        for call in ("refund", "rerate"):
            problem(await post(talktime, f"/v1/sessions/{session['id']}/{call}"), 409, "session-not-settled")
            problem(await post(talktime, f"/v1/sessions/{session['id'][:-3]}000/{call}"), 404, "not-found")
        assert pointers(await post(talktime, f"/v1/sessions/{session['id']}/refund", amount=None)) == [""]
        for amount in ("0", "-1", "1.0000001", "1e3", "Infinity"):
            path = f"/v1/sessions/{session['id']}/refund"
            assert pointers(await post(talktime, path, amount=amount)) == ["/amount"]


# Rating again


async def published(talktime: World, name: str, agent: str) -> dict[str, Any]:
    rates = {"user": "60", "agent": agent, "silence": "60"}
    response = await talktime.client.post("/v1/rate-cards", json={"name": name, "rates": rates})
    assert response.status_code == 201, response.text
    return dict(response.json())


async def test_another_card_gives_the_difference_back(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await settled(talktime, user)
    card = await published(talktime, f"half-{user}", "30")
    path = f"/v1/sessions/{session['id']}/rerate"
    with unchanged(talktime.service.database.conninfo):
        dry = await done(talktime, path, 200, rate_card=card["id"], dry_run=True)
    assert (dry["before"], dry["after"], dry["difference"], dry["entries"]) == ("15", "10", "-5", [])
    wet = await done(talktime, path, 200, rate_card=card["name"])
    (entry,) = wet["entries"]
    assert (entry["kind"], entry["amount"], wet["charge"]["amount"]) == ("rerate", "5", "10")
    assert await balance(talktime, user) == "90"
    explained = await talktime.get(f"/v1/sessions/{session['id']}/charge")
    assert (explained["amount"], explained["rate_card"]["name"]) == ("10", card["name"])
    assert (explained["charged"], explained["given_back"]) == ("15", "5")
    again = await done(talktime, path, 200)
    assert (again["difference"], again["entries"]) == ("0", [])
    problem(await post(talktime, path, rate_card="default"), 409, "already-rated")
    assert pointers(await post(talktime, path, rate_card="nowhere")) == ["/rate_card"]


async def test_a_dearer_card_is_drawn_up_to_what_was_authorized_and_is_available(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await settled(talktime, user, time_limit_s=60)
    card = await published(talktime, f"dear-{user}", "6000")
    answer = await done(talktime, f"/v1/sessions/{session['id']}/rerate", 200, rate_card=card["id"])
    assert (answer["after"], answer["difference"], answer["leakage"]) == ("60", "45", "945")
    (charge,) = await entries(talktime, user, "charge")
    assert [entry["reverses"] for entry in answer["entries"]] == [charge["id"]]
    refunded = await done(talktime, f"/v1/sessions/{session['id']}/refund", amount="50")
    assert [(entry["amount"], entry["reverses"]) for entry in refunded["entries"]] == [
        ("45", answer["entries"][0]["id"]), ("5", charge["id"]),
    ]  # fmt: skip
    poor = talktime.user()
    await talktime.grant(poor, "40")
    session = await settled(talktime, poor)
    await done(talktime, f"/v1/users/{poor}/adjustments", amount="-20")
    answer = await done(talktime, f"/v1/sessions/{session['id']}/rerate", 200, rate_card=card["id"])
    assert (answer["after"], answer["difference"], answer["leakage"]) == ("20", "5", "985")
    assert await balance(talktime, poor) == "0"


async def test_evidence_that_was_missing_is_charged_for(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await talktime.start(user)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 20))
    talktime.clock.advance(30)
    heard = talktime.clock.now()
    await talktime.service.reconciler.reconcile(talktime.key(session), now_please=True)
    assert (await talktime.settle(session))["charged"] == "10"
    path = f"/v1/sessions/{session['id']}/rerate"
    assert (await talktime.heartbeat(session)).status_code == 204
    # So late it proves nothing more, but it is evidence: the rating is kept, without an entry.
    assert (await done(talktime, path, 200))["entries"] == []
    key = talktime.key(session)
    tell(
        talktime.service.database.conninfo,
        f"insert into ticks values ('{key.account_id}', '{key.id}', "
        f"to_timestamp({heard // 1_000_000}) + interval '{heard % 1_000_000} us', 1, null)",
    )
    answer = await done(talktime, path, 200)
    assert (answer["before"], answer["difference"], answer["after"]) == ("10", "5", "15")
    assert await balance(talktime, user) == "85"
    assert ask(
        talktime.service.database.conninfo,
        f"select version, amount from charges where session_id = '{key.id}' order by version",
    ) == [(1, 10_000_000), (2, 10_000_000), (3, 15_000_000)]


async def test_refunds_and_lower_ratings_together_give_back_no_more_than_the_charge(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await settled(talktime, user)
    await done(talktime, f"/v1/sessions/{session['id']}/refund", amount="12")
    card = await published(talktime, f"free-{user}", "0.000001")
    answer = await done(talktime, f"/v1/sessions/{session['id']}/rerate", 200, rate_card=card["id"])
    assert (answer["before"], answer["difference"], answer["after"]) == ("15", "-3", "12")
    assert await balance(talktime, user) == "100"
    problem(await post(talktime, f"/v1/sessions/{session['id']}/refund"), 409, "refund-exceeds-charge")


async def test_the_window_for_rating_again_closes(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await settled(talktime, user)
    path = f"/v1/sessions/{session['id']}/rerate"
    talktime.clock.advance(3 * DAY)
    assert (await done(talktime, path, 200))["difference"] == "0"
    talktime.clock.advance(0.000001)
    problem(await post(talktime, path), 409, "rerate-window-closed")


# Reviews


async def in_review(talktime: World, user: str) -> dict[str, Any]:
    session = await talktime.start(user)
    await talk(talktime, session, ("agent", 10), ("silence", "null"), ("silence", 20))
    reviewed = await talktime.settle(session)
    assert reviewed["state"] == "review"
    return reviewed


async def test_a_review_is_settled_as_rated(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await in_review(talktime, user)
    assert (await talktime.balance(user))["held"] != "0"
    answer = await done(talktime, f"/v1/sessions/{session['id']}/review", 200, action="settle")
    assert (answer["state"], answer["charged"], answer["held"]) == ("settled", "15", "0")
    assert await balance(talktime, user) == "85"
    assert len(audited(talktime, user, "session.settle")) == 1
    again = await post(talktime, f"/v1/sessions/{session['id']}/review", action="settle")
    problem(again, 409, "session-not-in-review")
    assert await talktime.service.reconciler.reconcile(talktime.key(session), now_please=True) is Outcome.UPDATED
    assert await balance(talktime, user) == "85"


async def test_a_review_is_written_off_without_an_entry(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await in_review(talktime, user)
    answer = await done(talktime, f"/v1/sessions/{session['id']}/review", 200, action="write_off")
    assert (answer["state"], answer["charged"], answer["held"]) == ("settled", "0", "0")
    assert await balance(talktime, user) == "100"
    assert await entries(talktime, user, "charge") == []
    assert answer["leakage"] == "15"
    charge = await talktime.get(f"/v1/sessions/{session['id']}/charge")
    assert (charge["amount"], charge["charged"], charge["leakage"]) == ("15", "0", "15")
    problem(await post(talktime, f"/v1/sessions/{session['id']}/refund"), 409, "refund-exceeds-charge")
    problem(await post(talktime, f"/v1/sessions/{session['id']}/rerate"), 409, "session-written-off")
    assert answer["written_off"] is True


async def test_a_review_whose_hold_is_gone_draws_from_what_is_available(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await in_review(talktime, user)
    talktime.clock.advance(DAY)
    await talktime.reconcile()
    assert (await talktime.balance(user))["held"] == "0"
    await done(talktime, f"/v1/users/{user}/adjustments", amount="-90")
    answer = await done(talktime, f"/v1/sessions/{session['id']}/review", 200, action="settle")
    assert (answer["state"], answer["charged"]) == ("settled", "10")
    assert await balance(talktime, user) == "0"


async def test_what_found_no_credits_is_told_as_leakage(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await in_review(talktime, user)
    path = f"/v1/sessions/{session['id']}/charge"
    assert (session["leakage"], (await talktime.get(path))["leakage"]) == (None, None)
    talktime.clock.advance(DAY)
    await talktime.reconcile()
    await done(talktime, f"/v1/users/{user}/adjustments", amount="-90")
    answer = await done(talktime, f"/v1/sessions/{session['id']}/review", 200, action="settle")
    assert (answer["charged"], answer["leakage"]) == ("10", "5")
    charge = await talktime.get(path)
    assert (charge["amount"], charge["charged"], charge["leakage"]) == ("15", "10", "5")
    # A later rating that draws the rest leaves none, whatever there was at settlement.
    await talktime.grant(user, "1000")
    talktime.provider.say(session["provider_session_id"], ("agent", 20), ("silence", 20))
    await talktime.service.reconciler.reconcile(talktime.key(session), now_please=True)
    charge = await talktime.get(path)
    assert (charge["charged"], charge["leakage"]) == (charge["amount"], "0")
    assert (await talktime.session(session))["leakage"] == "5"


async def test_a_decision_is_one_of_two(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await talktime.start(user)
    path = f"/v1/sessions/{session['id']}/review"
    with unchanged(talktime.service.database.conninfo):
        assert pointers(await post(talktime, path, action="forget")) == ["/action"]
        problem(await post(talktime, path, action="settle"), 409, "session-not-in-review")
