"""The Python client before the service: every operation of the API document, by its own method, in both clients."""

import csv
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.core.units import US_PER_S, datetime_of
from talktime import models, problems, webhooks
from talktime.client import AsyncTalktime
from talktime.errors import AccessDenied, Conflict, FieldError, Invalid
from talktime.webhooks import typed
from tests.support.client_drivers import Asked, Driver, driver
from tests.support.furnished import finished
from tests.support.postgres import WorkerDatabases
from tests.support.scripted_provider import ProviderHost
from tests.support.stripe import SECRET as STRIPE_SECRET
from tests.support.stripe import FakeStripe
from tests.support.world import ADMIN_KEY, PUBLIC_URL, World, world
from tools.names import METHODS

pytestmark = pytest.mark.anyio

CARD: dict[str, Any] = {
    "rates": {"user": Decimal("30.5"), "agent": "60", "silence": 0},
    "silence": {"full_rate_first_s": Decimal("4.5"), "factor_after": "0.25"},
    "increments": {"initial_s": 6, "subsequent_s": Decimal("1.5"), "scope": "type"},
    "connection_fee": "0.1",
    "maximum_charge": Decimal(90),
    "rounding": {"quantum": "0.01", "mode": "up"},
    "measurement": {"charge_from": "first_speech", "missed_heartbeats_tolerated": 2},
}


@pytest.fixture(scope="module")
async def world_of_this_module(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator[World]:
    capable: dict[str, Any] = {
        "gabber_capabilities": "end",
        "events_allow_private_targets": True,
        "stripe_webhook_secrets": STRIPE_SECRET,
    }
    async with world(databases.urls.service, providers.script(), **capable) as found:
        yield found


@pytest.fixture
async def talktime(world_of_this_module: World) -> World:
    world_of_this_module.renew()
    return world_of_this_module


@pytest.fixture(params=["sync", "async"])
async def asked(request: pytest.FixtureRequest, talktime: World) -> AsyncIterator[tuple[Driver, Asked]]:
    transport = Asked(talktime)
    async with driver(request.param, transport) as client:
        yield client, transport


async def test_every_operation_by_its_own_method(talktime: World, asked: tuple[Driver, Asked]) -> None:
    client, transport = asked
    user = f"{talktime.user()}/ü?%2F #.."
    await access(talktime, client, user)  # before time passes: other tests make keys at the beginning of time
    await users_and_grants(talktime, client, user)
    await top_ups(talktime, client)
    settled = await sessions(talktime, client, user)
    await corrections(talktime, client, user, settled)
    await prices(talktime, client)
    await events(talktime, client, user)
    assert set(transport.calls) == set(METHODS)
    assert parameters_of(talktime) - transport.queries - transport.fields == set()
    assert len(set(transport.keys)) == len(transport.keys) > 30


def parameters_of(talktime: World) -> set[tuple[str, str]]:
    """Query parameters and members of bodies of all operations, but for those of pages."""
    found = set()
    for call in METHODS:
        method, _, path = call.partition(" ")
        operation = talktime.service.api_document["paths"][path][method.lower()]
        found |= {(call, one["name"]) for one in operation["parameters"] if one["in"] == "query"}
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        found |= {(call, name) for name in body.get("properties", {})}
    return {(call, name) for call, name in found if name not in {"limit", "cursor"}}


async def users_and_grants(talktime: World, client: Driver, user: str) -> None:
    now = datetime_of(talktime.clock.now())
    grant = await client.do(
        "grant",
        user,
        amount=Decimal("1000.1234560"),
        kind="promotional",
        priority=7,
        effective_at=now - timedelta(days=1),
        expires_at=now + timedelta(days=9),
        cost_basis="0.05",
        reference="order 1",
        reason="a test",
        metadata={"exact": Decimal("1.10"), "deep": [{"at": now}], "nothing": None, "yes": True},
    )
    assert isinstance(grant, models.Grant)
    assert (grant.user_id, grant.amount, grant.priority) == (user, Decimal("1000.123456"), 7)
    assert (grant.cost_basis, grant.reference, grant.state) == (Decimal("0.05"), "order 1", "active")
    assert str(grant.metadata["exact"]) == "1.10"
    assert grant.effective_at.tzinfo is UTC
    assert grant.expires_at == now + timedelta(days=9)
    for amount in (1, 2, 3):
        await client.do("grant", user, amount=amount)
    assert sorted(one.amount for one in await client.rows("grants", user, limit=2)) == [1, 2, 3, grant.amount]
    voided = await client.do("void_grant", grant.id, reason="by mistake", idempotency_key="void that")
    assert (voided.voided, voided.state, isinstance(voided, models.Grant)) == (grant.amount, "voided", True)
    entry = await client.do("adjust", user, amount="-1.5", reason="a test", allow_below_floor=True)
    assert (entry.kind, entry.amount, entry.balance_after) == ("adjustment", Decimal("-1.5"), Decimal("4.5"))
    assert entry.funding[0].amount == Decimal("1.5") or entry.funding[0].amount == 1
    await client.do("adjust", user, amount=500, reason="a test", kind="paid")
    talktime.clock.advance(1)
    filters = {"after": now - timedelta(hours=1), "before": datetime_of(talktime.clock.now()), "limit": 3}
    assert len(await client.rows("entries", user, kind="grant", grant_id=grant.id, **filters)) == 1
    assert len(await client.rows("entries", user, **filters)) == 7
    lines = await client.lines("entries_csv", user, kind="adjustment")
    table = list(csv.DictReader(lines))
    assert [row["amount"] for row in table] == ["500", "-1.5"]
    balance = await client.do("balance", user)
    assert (balance.available, balance.talk_time_s, balance.expiring_next) == (Decimal("504.5"), Decimal(504), None)
    before = await client.do("balance", user, at=now - timedelta(seconds=1))
    assert (before.balance, before.accrued) == (0, None)
    changed = await client.do(
        "change_user",
        user,
        credit_limit=10,
        rate_card="default",
        default_time_limit_s=Decimal("90.5"),
        max_concurrent_sessions=3,
        spend_limits={"day": "450.5", "month": None},
        suspended=False,
        alerts={"low_talk_time_s": Decimal("30.5")},
        reason="a test",
    )
    assert changed == await client.do("user", user)
    assert (changed.default_time_limit_s, changed.alerts.low_talk_time_s) == (Decimal("90.5"), Decimal("30.5"))
    assert (changed.spend_limits.day, changed.spend_limits.month) == (Decimal("450.5"), None)
    unlimited = await client.do("change_user", user, spend_limits=None, rate_card=None, alerts=None)
    assert (unlimited.spend_limits.day, unlimited.credit_limit, unlimited.alerts) == (None, 10, None)
    found = await client.rows("users", q=user[:17].upper(), min_available="-5", max_available=10**6, sort="-available")
    assert [one.user_id for one in found] == [user]
    settings = await client.do("settings")
    changed = await client.do(
        "change_settings",
        starts_stopped=False,
        alerts={"low_credits": settings.alerts.low_credits},
        expiring_before_s=settings.expiring_before_s,
        reason="a test",
    )
    assert changed.expiring_before_s == settings.expiring_before_s
    period = {"after": now - timedelta(days=1), "before": datetime_of(talktime.clock.now())}
    books = await client.do("roll_forward", **period)
    assert {row.kind for row in books.rows} == {"paid", "promotional", "credit", "total"}
    assert isinstance(books.rows[0].consumed_value, Decimal)
    (header, *rows) = csv.reader(await client.lines("roll_forward_csv", **period))
    assert header[0] == "kind"
    assert len(rows) == 4


async def sessions(talktime: World, client: Driver, user: str) -> models.Session:
    """One that is settled, after some that went otherwise."""
    named = {"user_id": user, "persona": "tutor", "scenario": "talk"}
    started = await client.do(
        "start_session",
        **named,
        time_limit_s=Decimal("120.75"),
        rate_card="default",
        metadata={"lesson": 7},
        start=True,
    )
    session = started.session
    assert (session.state, session.time_limit_s, session.authorized) == ("live", Decimal(120), Decimal(120))
    assert started.connection_details.token not in repr(started)
    provider_id = str(session.provider_session_id)
    talktime.provider.say(provider_id, ("silence", 2), ("user", 9), ("agent", 6.5), ("silence", 40))
    await talktime.heartbeats_until({"id": session.id, "provider_session_id": provider_id}, 60)
    assert (await client.do("reconcile", session.id)).id == session.id
    guide = await client.do("start_as_in_the_guide", **named, time_limit_s=60)
    assert guide.session_id.startswith("ses_")
    assert guide.token not in repr(guide)
    adopted = await client.do("start_session", **named, start=False, time_limit_s=30)
    assert (adopted.connection_details, adopted.session.state) == (None, "unconfirmed")
    assert adopted.webhook not in repr(adopted)
    ended = await client.do("end_session", guide.session_id)
    assert ended.state == "over"
    document = await talktime.settle({"id": session.id})
    assert document["state"] == "settled"
    settled: models.Session = await client.do("session", session.id)
    assert [step.state for step in settled.steps] == ["starting", "live", "over", "settled"]  # type: ignore[attr-defined]
    assert settled.steps[1].from_ == "starting"  # type: ignore[attr-defined]
    assert settled.metadata == {"lesson": 7}
    charge = await client.do("charge", session.id)
    assert (charge.charged, charge.final) == (settled.charged, True)
    assert sum((line.amount for line in charge.lines), Decimal()) == charge.amount + charge.beyond_authorization
    assert sum(charge.not_billed.values(), charge.billed.total_s) == charge.timeline_s
    assert charge.envelopes[0][0] == 0
    assert "<svg" in await client.do("charge_svg", session.id)
    beats = await client.rows("heartbeats", session.id, limit=1)
    assert len(beats) == 2
    assert [beat.extra for beat in beats] == [{}, {}]
    snapshots = await client.rows("snapshots", session.id)
    assert snapshots[0].values[2] == {"type": "agent", "seconds": Decimal("6.5")}
    (pull, *_) = await client.rows("pulls", session.id)
    body = await client.do("pull_body", session.id, pull.pages[0].sha256)
    assert isinstance(body, bytes)
    assert len(body) == pull.pages[0].size
    period = {"started_after": settled.requested_at, "started_before": datetime_of(talktime.clock.now())}
    listed = await client.rows("sessions", user_id=user, state="settled", limit=1, **period)
    assert session.id in [one.id for one in listed]
    charges = await client.rows("entries", user, session_id=session.id)
    assert [(entry.kind, -entry.amount) for entry in charges] == [("charge", settled.charged)]
    return settled


async def corrections(talktime: World, client: Driver, user: str, settled: models.Session) -> None:
    rated = await client.do("rerate", settled.id, reason="a test", rate_card="default", dry_run=True)
    assert (rated.dry_run, rated.before, rated.entries) == (True, settled.charged, ())
    refund = await client.do("refund", settled.id, amount=Decimal("0.25"), reason="a test")
    assert (refund.amount, refund.left) == (Decimal("0.25"), settled.charged - Decimal("0.25"))  # type: ignore[operator]
    with pytest.raises(problems.RefundExceedsCharge) as much:
        await client.do("refund", settled.id, amount=10**6, reason="a test")
    assert much.value.left == refund.left
    asked = {"user_id": user, "persona": "tutor", "scenario": "talk", "time_limit_s": 60}
    odd = (await client.do("start_session", **asked)).session
    talktime.provider.say(str(odd.provider_session_id), ("user", 5), ("agent", 4_000))
    await talktime.heartbeats_until({"id": odd.id, "provider_session_id": odd.provider_session_id}, 60)
    assert (await talktime.settle({"id": odd.id}))["state"] == "review"
    proposed = (await client.do("charge", odd.id)).proposed
    assert isinstance(proposed, models.Explanation)
    decided = await client.do("review", odd.id, action="write_off", reason="a test")
    assert (decided.state, decided.written_off) == ("settled", True)


async def prices(talktime: World, client: Driver) -> None:
    now = datetime_of(talktime.clock.now())
    name = f"card-{secrets.token_hex(6)}"
    match = {"persona": name, "scenario": None}
    times = {"included_s": 3, "short_session_exemption_s": 1, "minimum_duration_s": 2, "minimum_charge": "0.5"}
    card = await client.do("publish_rate_card", name=name, **CARD, **times, match=match, effective_at=now)
    assert (card.version, card.rates.agent, card.silence.full_rate_first_s) == (1, 60, Decimal("4.5"))
    assert (card.rounding.quantum, card.increments.subsequent_s) == (Decimal("0.01"), Decimal("1.5"))
    assert card == await client.do("rate_card", card.id)
    assert [one.id for one in await client.rows("rate_cards", name=name)] == [card.id]
    assert "provider_cost" in [one.name for one in await client.rows("rate_card_templates")]
    evidence = {
        "requested_at": now,
        "heartbeats": [now + timedelta(seconds=30)],
        "snapshots": [
            {
                "requested_at": now + timedelta(seconds=60),
                "received_at": now + timedelta(seconds=61),
                "values": [{"type": "user", "seconds": Decimal("9.25")}, {"type": "silence", "seconds": 60}],
            }
        ],
        "time_limit_s": 50,
        "authorized": "100",
        "interim": False,
    }
    by_terms = await client.do("preview", **evidence, rate_card={"name": "mine", **CARD})
    assert by_terms.billed.user_s == Decimal("9.25")
    assert (
        by_terms.amount
        == (await client.do("preview", **evidence, rate_card={**CARD, "name": "its", "maximum_charge": None})).amount
    )
    assert (await client.do("preview", **evidence, rate_card=card.id)).rate_card.name == name
    asked = {"after": now - timedelta(days=3), "before": now, "persona": "tutor", "scenario": "talk"}
    waits = await client.do("simulate", rate_card={"name": "draft", **CARD}, provider_cost=card.id, **asked)
    assert (waits.state, waits.rate_card.id, waits.provider_cost.id) == ("waiting", None, card.id)
    await finished(talktime, {"id": waits.id})
    done = await client.do("simulation", waits.id)
    assert done.result.sessions > 0
    assert done.result.difference == done.result.after - done.result.before
    assert waits.id in [one.id for one in await client.rows("simulations", limit=1)]


async def events(talktime: World, client: Driver, user: str) -> None:
    url = f"http://127.0.0.1:1/{secrets.token_hex(6)}"
    made = await client.do("create_webhook_endpoint", url=url, description="a test", event_types=["grant.created"])
    assert made.secret.startswith("whsec_")
    assert made.secret not in repr(made)
    changed = await client.do(
        "change_webhook_endpoint", made.id, url=url, description=None, event_types=[], state="active"
    )
    assert (changed.description, changed.event_types) == (None, ())
    rotated = await client.do("rotate_webhook_secret", made.id, overlap_s=Decimal("60.5"))
    assert rotated.secret != made.secret
    assert rotated.previous_secret_until == datetime_of(talktime.clock.now()) + timedelta(seconds=60.5)
    await client.do("grant", user, amount=1)
    await talktime.service.deliverer.dispatch()
    now = datetime_of(talktime.clock.now()) + timedelta(seconds=1)
    ours = {"user_id": user, "type": "grant.created", "after": now - timedelta(days=1), "before": now}
    event = (await client.rows("events", **ours))[0]
    assert event == await client.do("event", event.id)
    told = typed(event)
    assert isinstance(told, webhooks.GrantEvent)
    assert told.amount == 1
    assert made.id in [one.endpoint_id for one in await client.rows("event_deliveries", event.id)]
    waiting = await client.rows("endpoint_deliveries", made.id, state="waiting", limit=2)
    assert event.id in [one.event_id for one in waiting]
    delivery = await client.do("delivery", made.id, event.id)
    assert (delivery.event_id, delivery.attempts) == (event.id, ())
    assert await client.rows("dead_letters", endpoint_id=made.id) == []
    assert (await client.do("test_webhook_endpoint", made.id)).event_id.startswith("evt_")
    assert (await client.do("replay_events", made.id, event_ids=[event.id])).replayed == 1
    period = {"after": now - timedelta(minutes=5), "before": now, "event_types": ["grant.created"]}
    assert (await client.do("replay_events", made.id, **period)).replayed >= 1
    assert (await client.do("retry_dead_letters", made.id)).retried == 0
    again = await client.do("redeliver_event", event.id, endpoint_id=made.id)
    assert again.endpoint_ids == (made.id,)
    one = await client.do("webhook_endpoint", made.id)
    assert one.backlog.waiting >= 1
    assert made.id in [one.id for one in await client.rows("webhook_endpoints", limit=1)]
    assert (await client.do("delete_webhook_endpoint", made.id)).id == made.id


async def top_ups(talktime: World, client: Driver) -> None:
    user, now = talktime.user(), datetime_of(talktime.clock.now())
    terms: dict[str, Any] = {"amount": 100, "period": "month", "kind": "promotional", "priority": 3}
    terms |= {"leftover": "rollover", "rollover_cap": "50.5", "cost_basis": "0.05", "metadata": {"plan": "gold"}}
    tomorrow = now + timedelta(days=1)
    made = await client.do("create_recurring_grant", user, **terms, starts_at=tomorrow, count=7, reason="a test")
    assert (made.amount, made.rollover_cap, made.next_at) == (100, Decimal("50.5"), tomorrow)
    other = await client.do("create_recurring_grant", user, **terms, ends_at=now + timedelta(days=90))
    assert {one.id for one in await client.rows("recurring_grants", user, limit=1)} == {made.id, other.id}
    for what, state in (("pause", "paused"), ("resume", "active"), ("cancel", "cancelled")):
        assert (await client.do(f"{what}_recurring_grant", made.id, reason="a test")).state == state
    await client.do("cancel_recurring_grant", other.id, reason="a test")
    assert (await client.do("recurring_grant", made.id)).state == "cancelled"

    csv = f"user_id,amount,reference\n{user},5.5,bulk-1\n{user},6,bulk-2\n"
    for dry_run, granted in ((True, 2), (None, 2), (False, 0)):
        done = await client.do("grant_in_bulk", csv, dry_run=dry_run)
        assert (done.totals.granted, done.totals.repeated, done.dry_run) == (granted, 2 - granted, dry_run is True)
    assert [row.outcome for row in done.rows] == ["repeated", "repeated"]

    stripe = FakeStripe(user, talktime.clock.now() // US_PER_S)
    stripe.checkout(user, 1000)
    (told,) = stripe.events
    taken = await talktime.client.post("/webhooks/stripe", content=told.body, headers=stripe.signed(told.body))
    assert taken.status_code == 200, taken.text
    (payment,) = await client.rows("payments", user_id=user, needs_attention=True)
    assert (payment.state, payment.attention, payment.amount) == ("waiting", "no-credits", 1000)
    await client.do("resolve_payment", payment.id, action="grant", user_id=user, credits="12.5", reason="a test")
    found = await client.do("payment", payment.id)
    assert (found.state, found.credits, [one.id for one in found.events]) == ("granted", Decimal("12.5"), [told.id])
    state = await client.do("live", user)
    # The other one gave its first period at once.
    assert (state.balance, state.user_id) == (124, user)


async def access(talktime: World, client: Driver, user: str) -> None:
    expires = datetime_of(talktime.clock.now()) + timedelta(days=1)
    key = await client.do("create_api_key", name="a test", scopes=["read", "sessions:write"], expires_at=expires)
    assert (key.scopes, key.expires_at) == (("read", "sessions:write"), expires)
    assert key.secret not in repr(key)
    assert key.id in [one.id for one in await client.rows("api_keys", limit=1)]
    assert (await client.do("revoke_api_key", key.id)).revoked_at is not None
    token = await client.do("create_user_token", user, ttl_s=900, reason="a test")
    assert token.token not in repr(token)
    link = await client.do("create_portal_link", user, ttl_s=60, reason="a test")
    assert link.url not in repr(link)
    now = datetime_of(talktime.clock.now())
    filters = {"actor": "bootstrap", "action": "api_key.create", "target": key.id}
    period = {"after": now - timedelta(days=1), "before": now + timedelta(seconds=1)}
    (row,) = await client.rows("audit_log", **filters, **period)
    assert row.after["name"] == "a test"
    assert await client.rows("audit_log", user_id=user, request_id=row.request_id) == []


# What goes wrong


async def test_a_refusal_is_raised_as_the_class_of_its_code(talktime: World, asked: tuple[Driver, Asked]) -> None:
    client, _ = asked
    user = talktime.user()
    grant = await client.do("grant", user, amount=12)
    start = {"user_id": user, "persona": "tutor", "scenario": "talk"}
    with pytest.raises(problems.InsufficientCredits) as short:
        await client.do("start_session", **start, idempotency_key="start that")
    error = short.value
    assert (str(error.available), str(error.required), str(error.max_time_limit_s)) == ("12", "30", "12")
    assert (error.code, error.status, error.idempotency_key) == ("insufficient-credits", 402, "start that")
    assert str(error.request_id) in str(error)
    with pytest.raises(problems.InvalidRequest) as wrong:
        await client.do("grant", user, amount="0", priority=1000)
    assert {one.pointer for one in wrong.value.errors} == {"/amount", "/priority"}
    assert "/priority: " in str(wrong.value)
    with pytest.raises(problems.NotFound):
        await client.do("balance", talktime.user())
    await client.do("void_grant", grant.id, reason="a test")
    with pytest.raises(problems.GrantClosed) as closed:
        await client.do("void_grant", grant.id, reason="a test")
    assert isinstance(closed.value, Conflict)
    with pytest.raises(problems.BelowFloor) as below:
        await client.do("adjust", user, amount=-1, reason="a test")
    assert below.value.available == 0
    with pytest.raises(problems.IdempotencyConflict) as other:
        await client.do("start_session", **start, time_limit_s=31, idempotency_key="start that")
    assert isinstance(other.value, Invalid)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_who_may_not_is_told_so(talktime: World, kind: str) -> None:
    user = talktime.user()
    transport = Asked(talktime)
    async with driver(kind, transport) as admin:
        await admin.do("grant", user, amount=100)
        reads = (await admin.do("create_api_key", name="reads", scopes=["read"])).secret
        token = (await admin.do("create_user_token", user)).token
    async with driver(kind, transport, "ttk_unknown") as nobody:
        with pytest.raises(problems.Unauthorized) as unknown:
            await nobody.do("balance", user)
        assert "ttk_unknown" not in str(unknown.value)
        assert "ttk_unknown" not in repr(vars(unknown.value))
        assert isinstance(unknown.value, AccessDenied)
    async with driver(kind, transport, reads) as reader:
        assert (await reader.do("balance", user)).balance == 100
        with pytest.raises(problems.Forbidden) as forbidden:
            await reader.do("grant", user, amount=1)
        assert forbidden.value.required_scope == "credits:write"
    async with driver(kind, transport, token) as own:
        assert (await own.do("balance", user)).balance == 100
        guide = await own.do("start_as_in_the_guide", persona="tutor", scenario="talk")
        assert (await own.do("session", guide.session_id)).user_id == user
        with pytest.raises(problems.Forbidden) as other:
            await own.do("balance", talktime.user())
        assert other.value.required_scope is None


async def test_what_became_of_a_start_is_never_asked_for_by_another_start(talktime: World) -> None:
    """A 502 and a 504 of the provider are answers: whoever tried again under another key would start twice."""
    user = talktime.user()
    await talktime.grant(user, "1000")
    start: dict[str, Any] = {"user_id": user, "persona": "tutor", "scenario": "talk", "time_limit_s": 60}
    transport = Asked(talktime)
    async with AsyncTalktime(PUBLIC_URL, ADMIN_KEY, transport=transport, allow_http=True) as client:
        talktime.provider.start_status = 500
        with pytest.raises(problems.ProviderUnconfirmed) as unknown:
            await client.start_session(**start)
        assert (await client.session(unknown.value.session_id)).state == "unconfirmed"
        talktime.provider.start_status, talktime.provider.retry_after = 429, "7"
        with pytest.raises(problems.ProviderRefused) as refused:
            await client.start_session(**start)
        assert (refused.value.retry_after, refused.value.provider_status) == (7, 429)
        talktime.provider.start_status, talktime.provider.retry_after = 400, None
        talktime.provider.start_body = {"type": "invalid_input", "message": "no such persona"}
        with pytest.raises(problems.PersonaNotAccepted) as odd:
            await client.start_session(**start)
        assert FieldError("/persona", odd.value.detail) in odd.value.errors
    assert transport.calls.count("POST /v1/sessions") == 3
    assert len(talktime.provider.starts) == 3


async def test_a_key_of_ones_own_has_one_effect(talktime: World, asked: tuple[Driver, Asked]) -> None:
    client, transport = asked
    user = talktime.user()
    first = await client.do("grant", user, amount=5, idempotency_key="invoice 7")
    again = await client.do("grant", user, amount=5, idempotency_key="invoice 7")
    assert again == first
    assert [one.id for one in await client.rows("grants", user)] == [first.id]
    await client.do("grant", user, amount=5)
    await client.do("grant", user, amount=5)
    assert len(await client.rows("grants", user)) == 3
    assert len(set(transport.keys)) == 3


# Lists


async def test_a_list_goes_on_where_it_was_left(talktime: World) -> None:
    user = talktime.user()
    for amount in range(1, 8):
        await talktime.grant(user, str(amount))
        talktime.clock.advance(1)
    transport = Asked(talktime)
    async with AsyncTalktime(PUBLIC_URL, ADMIN_KEY, transport=transport, allow_http=True) as client:
        listing = client.grants(user, limit=3)
        assert transport.calls == []
        pages = [page async for page in listing.pages()]
        assert [[int(row.amount) for row in page.data] for page in pages] == [[7, 6, 5], [4, 3, 2], [1]]
        assert pages[-1].next_cursor is None
        assert [int(row.amount) async for row in listing] == [7, 6, 5, 4, 3, 2, 1]
        rest = client.grants(user, limit=3, cursor=pages[0].next_cursor)
        assert [int(row.amount) async for row in rest] == [4, 3, 2, 1]
        asked_before = len(transport.calls)
        async for row in client.grants(user, limit=3):
            assert row.amount == 7
            break
        assert len(transport.calls) == asked_before + 1
        with pytest.raises(problems.InvalidRequest):
            [row async for row in client.grants(user, cursor="not one of ours")]
