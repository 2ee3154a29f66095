"""Payments that Stripe tells of: each paid checkout is granted once, and what goes back is taken once."""

import asyncio
import random
from collections.abc import AsyncIterator
from itertools import permutations
from typing import Any
from uuid import uuid4

import httpx
import pytest
import uvicorn

from app.core.ids import Kind, payment_id_of, reference_id
from app.core.signed_events import signature
from app.core.units import US_PER_S
from app.payments.routes import MAX_EVENT
from tests.e2e.test_serve import free_port
from tests.support.postgres import WorkerDatabases, ask
from tests.support.problems import problem
from tests.support.scripted_provider import ProviderHost
from tests.support.stripe import PATH, SECRET, Event, FakeStripe
from tests.support.unchanged import unchanged
from tests.support.world import World, world

pytestmark = pytest.mark.anyio

NEW_SECRET = "whsec_new_0123456789abcdef01234567"
RATES = "usd=0.1,jpy=12,eur=0.000001"


@pytest.fixture(scope="module")
async def world_of_the_module(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator[World]:
    async with world(
        databases.urls.service,
        providers.script(),
        stripe_webhook_secrets=f"{NEW_SECRET},{SECRET}",
        stripe_credits_per_minor_unit=RATES,
    ) as found:
        yield found


@pytest.fixture
def stripe(talktime: World) -> FakeStripe:
    return FakeStripe(uuid4().hex[:10], talktime.clock.now() // US_PER_S)


async def tell(talktime: World, stripe: FakeStripe, *events: Event) -> None:
    """Deliver these, or all there are."""
    for event in events or stripe.events:
        response = await stripe.deliver(talktime.client, event)
        assert response.status_code == 200, response.text


async def payments_of(talktime: World, user: str) -> list[dict[str, Any]]:
    return list((await talktime.get(f"/v1/payments?user_id={user}"))["data"])


async def payment_of(talktime: World, event: Event) -> dict[str, Any]:
    """The payment that an event told of."""
    statement = f"select payment_id from payment_events where id = '{event.id}'"
    found = ask(talktime.service.database.conninfo, statement)
    assert len(found) == 1, "no payment was told of"
    return dict(await talktime.get(f"/v1/payments/{reference_id(Kind.PAYMENT, found[0][0])}"))


async def entries_of(talktime: World, user: str) -> list[tuple[str, str]]:
    """Kinds and amounts, oldest first."""
    found = (await talktime.get(f"/v1/users/{user}/entries"))["data"]
    return [(entry["kind"], entry["amount"]) for entry in reversed(found)]


async def balance_of(talktime: World, user: str) -> str:
    return str((await talktime.balance(user))["balance"])


async def spend(talktime: World, user: str, amount: str) -> None:
    response = await talktime.client.post(
        f"/v1/users/{user}/adjustments", json={"amount": f"-{amount}", "reason": "spent"}
    )
    assert response.status_code == 201, response.text


# What was paid


async def test_a_paid_checkout_is_a_grant(talktime: World, stripe: FakeStripe) -> None:
    user = talktime.user()
    bought = stripe.checkout(user, 1000, credits="150.5")
    await tell(talktime, stripe)
    (grant,) = (await talktime.get(f"/v1/users/{user}/grants"))["data"]
    assert (grant["amount"], grant["kind"], grant["reference"]) == ("150.5", "paid", bought.reference)
    assert grant["cost_basis"] == "0.066445"
    (payment,) = await payments_of(talktime, user)
    assert grant["metadata"] == {"payment_id": payment["id"], "amount": "1000", "currency": "usd"}
    told = {
        name: payment[name] for name in ("state", "attention", "grant_id", "credits", "amount", "currency", "taken")
    }
    assert told == {
        "state": "granted", "attention": None, "grant_id": grant["id"], "credits": "150.5", "amount": 1000,
        "currency": "usd", "taken": "0",
    }  # fmt: skip
    (heard,) = (await talktime.get(f"/v1/payments/{payment['id']}"))["events"]
    assert heard["id"] == stripe.events[0].id
    audits = (await talktime.get(f"/v1/audit-log?user_id={user}"))["data"]
    assert [(audit["actor"], audit["action"]) for audit in audits] == [("stripe", "payment.grant")]
    (event,) = (await talktime.get(f"/v1/events?user_id={user}&type=grant.created"))["data"]
    assert event["data"]["grant_id"] == grant["id"]


@pytest.mark.parametrize(
    ("amount", "currency", "granted", "cost_basis"),
    [(1999, "usd", "199.9", "0.1"), (500, "jpy", "6000", "0.083333"), (1, "eur", "0.000001", "10000")],
)
async def test_without_credits_told_the_currencys_rate_is_exact(
    talktime: World, stripe: FakeStripe, amount: int, currency: str, granted: str, cost_basis: str
) -> None:
    user = talktime.user()
    stripe.checkout(user, amount, currency=currency)
    await tell(talktime, stripe)
    (grant,) = (await talktime.get(f"/v1/users/{user}/grants"))["data"]
    assert (grant["amount"], grant["cost_basis"]) == (granted, cost_basis)


async def test_metadata_says_who_it_is_before_anything_a_customer_can_set(talktime: World, stripe: FakeStripe) -> None:
    user, other = talktime.user(), talktime.user()
    bought = stripe.checkout(other, 1000)
    stripe.events.clear()
    bought.metadata["talktime_user_id"] = user
    stripe.tell_of_checkout(bought, "checkout.session.completed")
    await tell(talktime, stripe)
    assert await balance_of(talktime, user) == "100"
    assert await payments_of(talktime, other) == []


async def test_a_checkout_whose_money_comes_later_is_granted_when_it_comes(talktime: World, stripe: FakeStripe) -> None:
    user = talktime.user()
    bought = stripe.checkout(user, 1000, payment_status="unpaid")
    await tell(talktime, stripe)
    assert await payments_of(talktime, user) == []
    stripe.tell_of_checkout(bought, "checkout.session.async_payment_succeeded")
    stripe.tell_of_checkout(bought, "checkout.session.completed")
    await tell(talktime, stripe)
    assert await balance_of(talktime, user) == "100"


async def test_an_event_that_comes_often_and_at_once_is_granted_once(talktime: World, stripe: FakeStripe) -> None:
    user = talktime.user()
    bought = stripe.checkout(user, 1000)
    for _ in range(3):
        stripe.tell_of_checkout(bought, "checkout.session.async_payment_succeeded")
    answers = await asyncio.gather(
        *(stripe.deliver(talktime.client, event) for event in stripe.events for _ in range(4))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert await entries_of(talktime, user) == [("grant", "100")]


@pytest.mark.parametrize("first", ["general", "stripe"])
async def test_the_general_way_with_its_reference_doubles_nothing(
    talktime: World, stripe: FakeStripe, first: str
) -> None:
    user = talktime.user()
    bought = stripe.checkout(user, 1000)
    body = {"amount": "100", "reference": bought.reference}
    if first == "general":
        await talktime.grant(user, **body)
        await tell(talktime, stripe)
    else:
        await tell(talktime, stripe)
        answer = await talktime.client.post(f"/v1/users/{user}/grants", json=body)
        problem(answer, 409, "reference-conflict")  # it says nothing of what a credit cost
        answer = await talktime.client.post(f"/v1/users/{user}/grants", json={**body, "cost_basis": "0.1"})
        assert answer.status_code == 200
    assert await entries_of(talktime, user) == [("grant", "100")]
    (payment,) = await payments_of(talktime, user)
    assert (payment["state"], payment["attention"]) == ("granted", None)
    stripe.refund(bought, 1000)
    await tell(talktime, stripe)
    assert await balance_of(talktime, user) == "0"


async def test_a_grant_of_another_amount_with_its_reference_is_kept_and_looked_at(
    talktime: World, stripe: FakeStripe
) -> None:
    user = talktime.user()
    bought = stripe.checkout(user, 1000)
    await talktime.grant(user, "70", reference=bought.reference)
    await tell(talktime, stripe)
    assert await balance_of(talktime, user) == "70"
    (payment,) = await payments_of(talktime, user)
    assert (payment["state"], payment["attention"], payment["credits"]) == ("granted", "granted-otherwise", "70")
    stripe.refund(bought, 500)
    await tell(talktime, stripe)
    assert await balance_of(talktime, user) == "35"


# What goes back


async def test_what_is_refunded_is_taken_in_proportion(talktime: World, stripe: FakeStripe) -> None:
    user = talktime.user()
    bought = stripe.checkout(user, 1000, credits="33.333333")
    for amount in (1, 499, 500):
        stripe.refund(bought, amount)
    await tell(talktime, stripe)
    await tell(talktime, stripe)
    assert await entries_of(talktime, user) == [
        ("grant", "33.333333"), ("adjustment", "-0.033333"), ("adjustment", "-16.633333"), ("adjustment", "-16.666667"),
    ]  # fmt: skip
    (payment,) = await payments_of(talktime, user)
    assert (payment["taken"], payment["refunded"], payment["charged"]) == ("33.333333", 1000, 1000)
    reversed_ = (await talktime.get(f"/v1/events?user_id={user}&type=payment.reversed"))["data"]
    assert {event["data"]["amount"] for event in reversed_} == {"16.666667", "16.633333", "0.033333"}


async def test_its_own_grant_is_taken_from_before_any_other(talktime: World, stripe: FakeStripe) -> None:
    user = talktime.user()
    await talktime.grant(user, "50", kind="promotional", priority=1)
    bought = stripe.checkout(user, 1000)
    await tell(talktime, stripe)
    stripe.refund(bought, 1000)
    await tell(talktime, stripe)
    left = {grant["kind"]: grant["remaining"] for grant in (await talktime.get(f"/v1/users/{user}/grants"))["data"]}
    assert left == {"promotional": "50", "paid": "0"}


async def test_what_is_spent_already_becomes_debt_below_the_floor(talktime: World, stripe: FakeStripe) -> None:
    user = talktime.user()
    bought = stripe.checkout(user, 1000)
    await tell(talktime, stripe)
    await spend(talktime, user, "70")
    stripe.refund(bought, 1000)
    await tell(talktime, stripe)
    assert await balance_of(talktime, user) == "-70"
    await talktime.grant(user, "100")
    assert await balance_of(talktime, user) == "30"


async def test_what_a_running_session_holds_is_its_to_use_and_comes_off_elsewhere(
    talktime: World, stripe: FakeStripe
) -> None:
    user = talktime.user()
    bought = stripe.checkout(user, 1000)
    await tell(talktime, stripe)
    session = await talktime.start(user, time_limit_s=60)
    assert (await talktime.balance(user))["held"] == "60"
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 3))
    await talktime.heartbeats_until(session, 30)
    stripe.refund(bought, 1000)
    stripe.now = talktime.clock.now() // US_PER_S
    await tell(talktime, stripe)
    assert await balance_of(talktime, user) == "0"
    settled = await talktime.settle(session)
    assert settled["state"] == "settled"
    assert await balance_of(talktime, user) == f"-{settled['charged']}"
    response = await talktime.client.post(f"/v1/sessions/{session['id']}/refund", json={"reason": "goodwill"})
    assert response.status_code == 201, response.text
    assert await balance_of(talktime, user) == "0"


async def test_what_was_voided_by_hand_is_not_taken_a_second_time(talktime: World, stripe: FakeStripe) -> None:
    user = talktime.user()
    bought = stripe.checkout(user, 1000)
    await tell(talktime, stripe)
    await spend(talktime, user, "20")
    (payment,) = await payments_of(talktime, user)
    response = await talktime.client.post(f"/v1/grants/{payment['grant_id']}/void", json={"reason": "refunding"})
    assert response.status_code == 200, response.text
    stripe.refund(bought, 500)
    await tell(talktime, stripe)
    assert await balance_of(talktime, user) == "0"
    stripe.refund(bought, 500)
    await tell(talktime, stripe)
    assert await balance_of(talktime, user) == "-20"


@pytest.mark.parametrize(
    ("closed", "balance"), [("won", "100"), ("lost", "0"), ("warning_closed", "100"), ("charge_refunded", "100")]
)
async def test_a_dispute_takes_the_credits_until_it_is_decided(
    talktime: World, stripe: FakeStripe, closed: str, balance: str
) -> None:
    user = talktime.user()
    bought = stripe.checkout(user, 1000)
    stripe.dispute(bought, 1000)
    await tell(talktime, stripe)
    assert await balance_of(talktime, user) == "0"
    stripe.now += 60
    stripe.dispute(bought, 1000, closed, "closed")
    await tell(talktime, stripe)
    assert await balance_of(talktime, user) == balance
    if closed == "won":
        assert await entries_of(talktime, user) == [("grant", "100"), ("adjustment", "-100"), ("adjustment", "100")]
        (event,) = (await talktime.get(f"/v1/events?user_id={user}&type=payment.reinstated"))["data"]
        assert event["data"]["amount"] == "100"


async def test_an_inquiry_takes_nothing_until_it_is_a_dispute(talktime: World, stripe: FakeStripe) -> None:
    user = talktime.user()
    bought = stripe.checkout(user, 1000)
    stripe.dispute(bought, 1000, "warning_needs_response")
    await tell(talktime, stripe)
    assert await balance_of(talktime, user) == "100"
    stripe.dispute(bought, 400, "needs_response", "funds_withdrawn")
    await tell(talktime, stripe)
    assert await balance_of(talktime, user) == "60"


async def test_any_order_comes_out_alike(talktime: World) -> None:
    """A checkout, two refunds and a dispute that is won, in every order, each delivered twice."""
    for order in permutations(range(5)):
        user = talktime.user()
        stripe = FakeStripe(uuid4().hex[:10], talktime.clock.now() // US_PER_S)
        bought = stripe.checkout(user, 1000)
        stripe.refund(bought, 100)
        stripe.refund(bought, 200)
        stripe.dispute(bought, 500)
        stripe.dispute(bought, 500, "won", "closed")
        await tell(talktime, stripe, *(stripe.events[n] for n in order))
        assert await balance_of(talktime, user) == "70", order
        await tell(talktime, stripe, *(stripe.events[n] for n in reversed(order)))
        assert await balance_of(talktime, user) == "70", order


async def test_a_refund_that_comes_first_waits_for_its_checkout(talktime: World, stripe: FakeStripe) -> None:
    user = talktime.user()
    bought = stripe.checkout(user, 1000)
    refund = stripe.refund(bought, 1000)
    await tell(talktime, stripe, refund)
    payment = await payment_of(talktime, refund)
    assert (payment["reference"], payment["state"], payment["attention"]) == (bought.reference, "waiting", None)
    assert payment["id"] == reference_id(Kind.PAYMENT, payment_id_of(bought.reference))
    await tell(talktime, stripe, stripe.events[0])
    assert await entries_of(talktime, user) == [("grant", "100"), ("adjustment", "-100")]


# What a person has to look at


ODD: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "nobody is named": ({"client_reference_id": None}, {}, "no-user"),
    "an empty user": ({"client_reference_id": ""}, {}, "no-user"),
    "a user that none can be": ({"client_reference_id": "a\u0000b"}, {}, "bad-user"),
    "a user too long": ({}, {"talktime_user_id": "x" * 129}, "bad-user"),
    "a user that is no text": ({"client_reference_id": 7}, {}, "bad-user"),
    "credits that are no amount": ({}, {"talktime_credits": "ten"}, "bad-credits"),
    "credits below 0": ({}, {"talktime_credits": "-1"}, "bad-credits"),
    "credits of 0.0": ({}, {"talktime_credits": "0.0"}, "bad-credits"),
    "a currency without a rate": ({"currency": "chf"}, {}, "no-credits"),
    "no payment intent": ({"payment_intent": None, "mode": "subscription"}, {}, "no-payment-intent"),
    "nothing paid": ({"payment_status": "no_payment_required"}, {"talktime_credits": "5"}, "nothing-paid"),
    "0 paid": ({"amount_total": 0}, {}, "nothing-paid"),
    "an amount that is a text": ({"amount_total": "1000"}, {}, "odd-event"),
    "a negative amount": ({"amount_total": -5}, {}, "odd-event"),
    "a fraction": ({"amount_total": 1.5}, {}, "odd-event"),
    "no currency": ({"currency": None}, {}, "odd-event"),
    "an intent that is a list": ({"payment_intent": ["pi"]}, {}, "odd-event"),
    "a status that is a number": ({"payment_status": 1}, {}, "odd-event"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
async def test_what_cannot_be_granted_is_kept_for_a_person(talktime: World, stripe: FakeStripe, name: str) -> None:
    session, metadata, why = ODD[name]
    user = talktime.user()
    bought = stripe.checkout(user, 1000)
    stripe.events.clear()
    bought.metadata.update(metadata)
    stripe.tell_of_checkout(bought, "checkout.session.completed", **session)
    await tell(talktime, stripe)
    await tell(talktime, stripe)
    payment = await payment_of(talktime, stripe.events[0])
    assert (payment["attention"], payment["state"], payment["grant_id"]) == (why, "waiting", None)
    listed = (await talktime.get("/v1/payments?needs_attention=true&limit=500"))["data"]
    assert payment["id"] in [one["id"] for one in listed]
    assert (await talktime.client.get(f"/v1/users/{user}/balance")).status_code == 404
    events = (await talktime.get("/v1/events?type=payment.attention&limit=500"))["data"]
    told = {"payment_id": payment["id"], "reference": payment["reference"], "attention": why}
    assert [event["data"] for event in events].count(told) == 1
    path = f"/v1/payments/{payment['id']}/resolve"
    asked = {"action": "grant", "user_id": user, "credits": "12", "reason": "looked at"}
    response = await talktime.client.post(path, json=asked)
    if payment["amount"] is None:
        problem(response, 409, "nothing-paid")
        response = await talktime.client.post(path, json={"action": "dismiss", "reason": "granted by hand"})
        assert (response.json()["state"], response.json()["attention"]) == ("dismissed", None)
    else:
        assert (response.json()["state"], response.json()["attention"]) == ("granted", None)
        assert await balance_of(talktime, user) == "12"
        stripe.refund(bought, 250)
        await tell(talktime, stripe)
        assert await balance_of(talktime, user) == "9"
    problem(await talktime.client.post(path, json=asked), 409, "payment-not-open")


async def test_a_person_says_only_what_is_not_known(talktime: World, stripe: FakeStripe) -> None:
    user = talktime.user()
    stripe.checkout(None, 1000)
    await tell(talktime, stripe)
    payment = await payment_of(talktime, stripe.events[0])
    path = f"/v1/payments/{payment['id']}/resolve"
    problem(await talktime.client.post(path, json={"action": "grant", "reason": "x"}), 422, "invalid-request")
    odd = {"action": "dismiss", "credits": "5", "reason": "x"}
    problem(await talktime.client.post(path, json=odd), 422, "invalid-request")
    asked = {"action": "grant", "user_id": user, "reason": "she wrote to us"}
    key = {"Idempotency-Key": uuid4().hex}
    for _ in range(2):
        assert (await talktime.client.post(path, json=asked, headers=key)).status_code == 200
    assert await entries_of(talktime, user) == [("grant", "100")]
    (audit,) = (await talktime.get(f"/v1/audit-log?action=payment.resolve&target={payment['id']}"))["data"]
    assert audit["reason"] == "she wrote to us"


async def test_what_was_dismissed_stays_so(talktime: World, stripe: FakeStripe) -> None:
    user = talktime.user()
    bought = stripe.checkout(user, 1000, credits="none")
    await tell(talktime, stripe)
    (payment,) = await payments_of(talktime, user)
    path = f"/v1/payments/{payment['id']}/resolve"
    response = await talktime.client.post(path, json={"action": "dismiss", "reason": "another shop's"})
    assert response.status_code == 200, response.text
    bought.metadata["talktime_credits"] = "100"
    stripe.tell_of_checkout(bought, "checkout.session.async_payment_succeeded")
    stripe.refund(bought, 1000)
    await tell(talktime, stripe)
    (payment,) = await payments_of(talktime, user)
    assert (payment["state"], payment["grant_id"], payment["attention"]) == ("dismissed", None, None)


async def test_a_refund_that_failed_and_a_dispute_in_other_money_are_looked_at(
    talktime: World, stripe: FakeStripe
) -> None:
    user = talktime.user()
    bought = stripe.checkout(user, 1000)
    stripe.refund(bought, 1000)
    failed = {"id": f"re_{bought.n}", "object": "refund", "amount": 1000, "payment_intent": bought.intent}
    stripe.event("refund.updated", {**failed, "status": "pending"})
    await tell(talktime, stripe)
    assert (await payments_of(talktime, user))[0]["attention"] is None
    stripe.event("refund.failed", {**failed, "status": "failed"})
    await tell(talktime, stripe)
    assert (await payments_of(talktime, user))[0]["attention"] == "refund-failed"
    other = stripe.checkout(user, 1000)
    other.currency = "eur"
    stripe.dispute(other, 900)
    await tell(talktime, stripe)
    payment = await payment_of(talktime, stripe.events[-1])
    assert (payment["attention"], payment["taken"]) == ("other-currency", "0")


async def test_what_is_sold_beside_talk_time_leaves_no_trace(talktime: World, stripe: FakeStripe) -> None:
    stripe.checkout(talktime.user(), 1000, credits="0")
    stripe.event("customer.created", {"id": "cus_1", "object": "customer"})
    stripe.event("checkout.session.expired", {"id": "cs_1", "object": "checkout.session"})
    stripe.event("v2.core.whatever", {"id": "x"})
    with unchanged(talktime.service.database.conninfo):
        await tell(talktime, stripe)


# Who is believed


async def test_what_is_not_signed_changes_nothing(talktime: World, stripe: FakeStripe) -> None:
    stripe.checkout(talktime.user(), 1000)
    (event,) = stripe.events
    good = stripe.signed(event.body)["Stripe-Signature"]
    late = stripe.signed(event.body, at=stripe.now - 301)["Stripe-Signature"]
    other = stripe.signed(event.body, "whsec_of_somebody_else_entirely")["Stripe-Signature"]
    with unchanged(talktime.service.database.conninfo):
        for signature, body in (
            (None, event.body), ("", event.body), (other, event.body), (late, event.body),
            (good, event.body.replace(b"1000", b"9999")), (good.replace("v1", "v0"), event.body),
        ):  # fmt: skip
            headers = {} if signature is None else {"Stripe-Signature": signature}
            problem(await talktime.client.post(PATH, content=body, headers=headers), 400, "invalid-signature")
    twice = [("Stripe-Signature", good), ("Stripe-Signature", good)]
    problem(await talktime.client.post(PATH, content=event.body, headers=twice), 400, "invalid-signature")


async def test_while_a_secret_is_changed_both_are_believed(talktime: World, stripe: FakeStripe) -> None:
    user = talktime.user()
    for secrets in ((SECRET,), (NEW_SECRET,), ("whsec_one_that_is_gone_by_now", NEW_SECRET)):
        stripe.checkout(user, 100)
        assert (await stripe.deliver(talktime.client, stripe.events[-1], *secrets)).status_code == 200
    assert await balance_of(talktime, user) == "30"


async def test_a_test_payment_is_passed_over_by_a_live_service(talktime: World, stripe: FakeStripe) -> None:
    stripe.live = False
    stripe.checkout(talktime.user(), 1000)
    with unchanged(talktime.service.database.conninfo):
        await tell(talktime, stripe)


async def test_a_live_payment_is_refused_where_test_mode_is_served(
    databases: WorkerDatabases, providers: ProviderHost
) -> None:
    options: dict[str, Any] = {"stripe_webhook_secrets": SECRET, "stripe_live": False}
    options["stripe_credits_per_minor_unit"] = "usd=1"
    async with world(databases.urls.service, providers.script(), **options) as testing:
        stripe = FakeStripe(uuid4().hex[:10], testing.clock.now() // US_PER_S)
        stripe.checkout(testing.user(), 1000)
        with unchanged(testing.service.database.conninfo):
            problem(await stripe.deliver(testing.client, stripe.events[0]), 409, "wrong-mode")
        stripe.live, user = False, testing.user()
        stripe.checkout(user, 10)
        assert (await stripe.deliver(testing.client, stripe.events[1])).status_code == 200
        assert await balance_of(testing, user) == "10"


async def test_without_secrets_nothing_is_received(databases: WorkerDatabases, providers: ProviderHost) -> None:
    async with world(databases.urls.service, providers.script()) as off:
        stripe = FakeStripe("off", off.clock.now() // US_PER_S)
        stripe.checkout(off.user(), 1000, credits="1")
        with unchanged(off.service.database.conninfo):
            problem(await stripe.deliver(off.client, stripe.events[0]), 404, "not-found")
            problem(await off.client.post(PATH, content=b"{}"), 404, "not-found")


NO_EVENTS = [
    b"", b"null", b"[]", b"{}", b"{", b"\xff", b'"x"', b"[" * 100 + b"]" * 100, b'{"id":"evt_1","id":"evt_2"}',
    b'{"id":7,"type":"x","created":1,"livemode":true}', b'{"id":"e 1","type":"x","created":1,"livemode":true}',
    b'{"id":"evt_1","type":"x","created":"1","livemode":true}', b'{"id":"evt_1","type":"x","created":1,"livemode":1}',
    b'{"id":"evt_1","type":"","created":1,"livemode":true}', b'{"id":"evt_1","type":"x","created":1e9,"livemode":true}',
    b'{"id":"' + b"e" * 101 + b'","type":"x","created":1,"livemode":true}',
    b'{"id":"evt_1","type":"x","created":NaN,"livemode":true}',
]  # fmt: skip


async def test_what_is_signed_and_no_event_is_refused(talktime: World, stripe: FakeStripe) -> None:
    with unchanged(talktime.service.database.conninfo):
        for body in NO_EVENTS:
            headers = signed_bytes(stripe, body)
            response = await talktime.client.post(PATH, content=body, headers=headers)
            assert response.status_code == 422, body
            problem(response, 422)
        large = b'{"id":"' + b"x" * MAX_EVENT + b'"}'
        problem(await talktime.client.post(PATH, content=large, headers=signed_bytes(stripe, large)), 413)


def signed_bytes(stripe: FakeStripe, body: bytes) -> dict[str, str]:
    """Stripe's library signs texts only."""
    return {"Stripe-Signature": f"t={stripe.now},v1={signature(str(stripe.now), body, SECRET)}"}


@pytest.mark.parametrize("thing", [None, [], "x", {}, {"id": 5}, {"id": "dp_1", "amount": 1}])
async def test_a_signed_event_with_an_odd_object_is_kept(talktime: World, stripe: FakeStripe, thing: Any) -> None:
    for kind in ("checkout.session.completed", "charge.refunded", "charge.dispute.created", "refund.failed"):
        event = stripe.event(kind, thing)
        await tell(talktime, stripe, event)
        if kind != "refund.failed":
            assert (await payment_of(talktime, event))["attention"] == "odd-event", kind


async def test_nothing_of_who_paid_is_kept(talktime: World, stripe: FakeStripe) -> None:
    stripe.checkout(talktime.user(), 1000)
    await tell(talktime, stripe)
    for table in ("payments", "payment_events", "grants", "audit_log", "events"):
        found = ask(
            talktime.service.database.conninfo, f"select count(*) from {table} t where t::text ~ 'Some Body|somebody@'"
        )
        assert found == [(0,)], table


# Over a real connection, with the retries of a real sender


async def test_a_sender_that_repeats_and_reorders_over_http(talktime: World) -> None:
    """A server on loopback; the sender tries again what is not answered 2xx, some of it although it was."""
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(talktime.service.app, host="127.0.0.1", port=port, log_level="critical", lifespan="off")
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it has no event to wait for
        await asyncio.sleep(0.01)
    chance = random.Random(8)
    stripe = FakeStripe(uuid4().hex[:10], talktime.clock.now() // US_PER_S)
    left: dict[str, int] = {}
    for _ in range(12):
        user = talktime.user()
        bought = stripe.checkout(user, 1000)
        refunded = chance.choice([0, 250, 1000])
        if refunded:
            stripe.refund(bought, refunded)
        if chance.random() < 0.5:
            stripe.dispute(bought, 1000 - refunded)
            stripe.dispute(bought, 1000 - refunded, "won", "closed")
        left[user] = 100 - refunded // 10
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            queue = stripe.events * 3
            chance.shuffle(queue)

            async def worker() -> None:
                while queue:
                    event = queue.pop()
                    if (await stripe.deliver(client, event)).status_code != 200:
                        queue.insert(0, event)

            await asyncio.gather(*(worker() for _ in range(4)))
    finally:
        server.should_exit = True
        await serving
    assert {user: await balance_of(talktime, user) for user in left} == {user: str(rest) for user, rest in left.items()}
