"""What actors do, and what must be there before: use cases of the service, asked for as their callers do."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

from app.accounts.recurring import post_recurring
from app.budget import ProviderBudget
from app.core.budget import Permit, Purpose
from app.core.ids import AccountThing, Kind, parse_public_id
from app.core.units import US_PER_S, Instant, format_instant
from app.deliveries.endpoints import endpoint_id_of
from app.ledger.due import post_due
from app.settlement.steps import Outcome
from tests.support.stripe import FakeStripe, Purchase
from tests.support.world import PUBLIC_URL, World
from tests.turnstile.controller import Told
from tests.turnstile.gate import ACTOR, wait_for
from tests.turnstile.stage import SETUP_USER, Case, Made, Seat, Stage, webhook

Act = Callable[[Seat, Case], Awaitable[Told]]
Prepare = Callable[[Stage], Awaitable[Made]]

ROUNDS = 8
TALKED = ("agent", 4), ("user", 6)
"""Without silence at its end: how much of that is proven depends on when it was pulled."""

SPOKEN = ("agent", 10), ("silence", 20)
WHY = {"reason": "a test"}
TALK = {"persona": "tutor", "scenario": "talk"}
LATE_ID = "gab_late"
FIRST_ID = "gab_a1"
"""What the provider calls the first session that the first actor starts."""


# What actors do


def call(
    method: str,
    path: Callable[[Case], str],
    body: Callable[[Case], dict[str, Any]],
    key: str | None = None,
) -> Act:
    """A request; with a ``key``, actors that name the same one send the same key."""

    async def act(seat: Seat, case: Case) -> Told:
        name = seat.actor.name if key is None else key
        headers = {"Idempotency-Key": case.key(name)}
        response = await seat.world.client.request(method, path(case), json=body(case), headers=headers)
        seen = str(response.status_code)
        if response.status_code >= 400:
            seen += f" {response.json()['type'].rpartition('/')[2]}"
        elif "idempotency-replayed" in response.headers:
            seen += " replayed"
        return Told(seen, response.text)

    return act


def starting(key: str | None = None, **asked: Any) -> Act:
    return call("POST", lambda _: "/v1/sessions", lambda case: {"user_id": case.user, **TALK, **asked}, key)


def granting(amount: str, key: str | None = None) -> Act:
    return call("POST", lambda case: f"/v1/users/{case.user}/grants", lambda _: {"amount": amount}, key)


def adjusting(amount: str) -> Act:
    return call("POST", lambda case: f"/v1/users/{case.user}/adjustments", lambda _: {**WHY, "amount": amount})


def limiting(**settings: Any) -> Act:
    return call("PATCH", lambda case: f"/v1/users/{case.user}", lambda _: dict(settings))


def correcting(what: str, key: str | None = None, **asked: Any) -> Act:
    return call("POST", lambda case: f"/v1/sessions/{case.session}/{what}", lambda _: {**WHY, **asked}, key)


def voiding() -> Act:
    return call("POST", lambda case: f"/v1/grants/{case.grant}/void", lambda _: WHY)


async def reconciling(seat: Seat, case: Case) -> Told:
    """A worker that found the session due."""
    return await _work_on(seat, case.session_key)


async def _work_on(seat: Seat, session: AccountThing) -> Told:
    outcome = await seat.world.service.reconciler.reconcile(session)
    assert isinstance(outcome, Outcome)
    return Told(outcome.value)


async def posting_due(seat: Seat, case: Case) -> Told:
    del case
    service = seat.world.service
    await post_due(service.database, service.ledger, seat.world.clock.now())
    return Told("posted")


def _purchase(case: Case, clock_now: int) -> tuple[FakeStripe, Purchase]:
    """A purchase of the run's user; the same for whoever asks."""
    stripe = FakeStripe(case.user.replace("-", "x"), clock_now // US_PER_S)
    return stripe, stripe.checkout(case.user, 1000)


def paying(step: str, *, known: str | None = None) -> Act:
    """Stripe tells of one purchase of the run's user: the same event, whichever actor hears it. What is ``known`` was
    told before, and is no step of its own."""

    async def act(seat: Seat, case: Case) -> Told:
        stripe, bought = _purchase(case, seat.world.clock.now())
        stripe.refund(bought, 1000)
        stripe.tell_of_checkout(bought, "checkout.session.async_payment_succeeded")
        events = dict(zip(("checkout", "refund", "again"), stripe.events, strict=True))
        if known is not None:
            token = ACTOR.set(None)
            try:
                assert (await stripe.deliver(seat.world.client, events[known])).status_code == 200
            finally:
                ACTOR.reset(token)
        return Told(str((await stripe.deliver(seat.world.client, events[step])).status_code))

    return act


async def giving_periods(seat: Seat, case: Case) -> Told:
    """A worker that gives what is due of recurring grants."""
    del case
    service = seat.world.service
    return Told(str(await post_recurring(service.database, service.ledger, seat.world.clock.now())))


async def dispatching(seat: Seat, case: Case) -> Told:
    """A process that looks into the outboxes."""
    del case
    await seat.world.service.deliverer.dispatch()
    return Told("dispatched")


async def delivering(seat: Seat, case: Case) -> Told:
    """A process that takes what is due for an endpoint and delivers it."""
    deliverer = seat.world.service.deliverer
    batch = await deliverer._queue.take(endpoint_id_of(case.endpoint))
    if batch is None:
        return Told("nothing")
    await deliverer._deliver(batch)
    signatures = [headers["webhook-signature"].count("v1,") for headers in seat.post.sent]
    return Told("sent, signed by " + " ".join(map(str, signatures)))


def redelivering() -> Act:
    return call("POST", lambda case: f"/v1/events/{case.event}/redeliver", lambda case: {"endpoint_id": case.endpoint})


def rotating() -> Act:
    return call("POST", lambda case: f"/v1/webhook-endpoints/{case.endpoint}/rotate-secret", lambda _: {})


def leasing(times: int) -> Act:
    """A process without a permit in hand that needs so many; of each run's own provider, so that all runs are alike."""

    async def act(seat: Seat, case: Case) -> Told:
        clock = seat.world.clock
        budget = ProviderBudget(seat.world.service.database, clock, 50, provider=case.user)
        permits = [await budget.reserve(Purpose.START) for _ in range(times)]
        return Told(" ".join(f"+{permit.at - clock.now()}" for permit in permits if isinstance(permit, Permit)))

    return act


async def beating(seat: Seat, case: Case) -> Told:
    return await _beat(seat.world, webhook(seat.world, case), case.provider_id or LATE_ID)


async def beating_once_started(seat: Seat, case: Case) -> Told:
    """The first heartbeat of a session whose start another actor is asking for."""
    del case
    await wait_for("started")
    provider = seat.world.provider
    return await _beat(seat.world, provider.starts[-1]["webhook"].removeprefix(PUBLIC_URL), provider.started[-1])


async def giving_up_once_started(seat: Seat, case: Case) -> Told:
    """A worker that finds a start without an answer."""
    await wait_for("started")
    token = seat.world.provider.starts[-1]["webhook"].rpartition("/")[2]
    key = seat.world.service.tokens.read(token)
    assert key is not None
    assert key.account_id == case.account_id
    return await _work_on(seat, key)


async def _beat(world: World, path: str, provider_id: str) -> Told:
    response = await world.client.post(path, json={"session_id": provider_id})
    if response.status_code < 400:
        return Told(str(response.status_code))
    return Told(f"{response.status_code} {response.json()['type'].rpartition('/')[2]}")


# What is there before


async def nothing(stage: Stage) -> Made:
    del stage
    return Made()


def funded(amount: str, **settings: Any) -> Prepare:
    """A user with a grant, and with these settings."""

    async def prepare(stage: Stage) -> Made:
        talktime = stage.seats[0].world
        made = Made(grant=await talktime.grant(SETUP_USER, amount))
        if settings:
            response = await talktime.client.patch(f"/v1/users/{SETUP_USER}", json=settings)
            assert response.status_code == 200, response.text
        return made

    return prepare


async def listening(stage: Stage) -> Made:
    """A user with two events, one dispatched to an endpoint and delivered, and one that waits in the outbox."""
    talktime = stage.seats[0].world
    response = await talktime.client.post("/v1/webhook-endpoints", json={"url": "https://hook.example/"})
    assert response.status_code == 201, response.text
    made = Made(endpoint=response.json()["id"])
    await talktime.grant(SETUP_USER, "100")
    await talktime.service.deliverer.run_due()
    made.grant = await talktime.grant(SETUP_USER, "200")
    return made


async def dispatched(stage: Stage) -> Made:
    """A user of whom one event waits for its delivery."""
    talktime = stage.seats[0].world
    response = await talktime.client.post("/v1/webhook-endpoints", json={"url": "https://hook.example/"})
    assert response.status_code == 201, response.text
    made = Made(endpoint=response.json()["id"], grant=await talktime.grant(SETUP_USER, "100"))
    await talktime.service.deliverer.dispatch()
    (event,) = (await talktime.get("/v1/events"))["data"]
    key = parse_public_id(Kind.EVENT, event["id"])
    assert key is not None
    made.event_id = key.id
    return made


async def two_periods_due(stage: Stage) -> Made:
    """A user of whose recurring grant two periods were missed."""
    talktime = stage.seats[0].world
    body = {"amount": "5", "period": "day", "leftover": "rollover"}
    response = await talktime.client.post(f"/v1/users/{SETUP_USER}/recurring-grants", json=body)
    assert response.status_code == 201, response.text
    talktime.clock.advance(2 * 86_400 + 5)
    return Made()


def started_talking(amount: str) -> Prepare:
    """A user with a grant, of whose next session there is something to hear."""

    async def prepare(stage: Stage) -> Made:
        stage.seats[0].world.provider.say(FIRST_ID, *TALKED)
        return await funded(amount)(stage)

    return prepare


async def live(stage: Stage) -> Made:
    talktime = stage.seats[0].world
    made = await funded("1000")(stage)
    made.session = await talktime.start(SETUP_USER, time_limit_s=600)
    talktime.provider.say(made.session["provider_session_id"], *SPOKEN)
    return made


async def heard(stage: Stage) -> Made:
    made = await live(stage)
    await stage.seats[0].world.heartbeats_until(made.session, 60)
    return made


async def over(stage: Stage) -> Made:
    """Its final timeline is due."""
    talktime = stage.seats[0].world
    made = await live(stage)
    await talktime.heartbeats_until(made.session, 30)
    await _until_final(talktime, made)
    return made


async def _until_final(talktime: World, made: Made) -> None:
    for wait in (1, 80):
        talktime.clock.advance(wait)
        await talktime.service.reconcile(talktime.key(made.session))
    assert (await talktime.session(made.session))["state"] == "over"
    talktime.clock.advance(120)


async def settled(stage: Stage) -> Made:
    talktime = stage.seats[0].world
    await _cards(talktime)
    made = await over(stage)
    await talktime.service.reconcile(talktime.key(made.session))
    assert (await talktime.session(made.session))["state"] == "settled"
    return made


async def amended(stage: Stage) -> Made:
    """It was settled; the provider has told more since, and the planned look for that is due."""
    made = await settled(stage)
    talktime = stage.seats[0].world
    talktime.provider.say(made.session["provider_session_id"], ("agent", 12), ("silence", 30))
    talktime.clock.advance(100_000)
    return made


async def _cards(talktime: World) -> None:
    for name, rate, silence in (("cheap", "30", "30"), ("dear", "120", "120"), ("quiet", "60", "0")):
        rates = {"user": rate, "agent": rate, "silence": silence}
        response = await talktime.client.post("/v1/rate-cards", json={"name": name, "rates": rates})
        assert response.status_code == 201, response.text


async def indebted(stage: Stage) -> Made:
    """A user who spoke on credit: 10 in debt, 40 of it left."""
    talktime = stage.seats[0].world
    response = await talktime.client.patch(f"/v1/users/{SETUP_USER}", json={"credit_limit": "50"})
    assert response.status_code == 200, response.text
    made = Made(session=await talktime.start(SETUP_USER, time_limit_s=50))
    talktime.provider.say(made.session["provider_session_id"], *SPOKEN)
    await talktime.heartbeats_until(made.session, 30)
    assert (await talktime.settle(made.session))["charged"] == "10"
    assert (await talktime.balance(SETUP_USER))["balance"] == "-10"
    return made


async def expiring(stage: Stage) -> Made:
    """As :func:`over`, and what the session holds of has just expired."""
    talktime = stage.seats[0].world
    expires_at = format_instant(Instant(talktime.clock.now() + 230 * US_PER_S))
    made = Made(grant=await talktime.grant(SETUP_USER, "1000", expires_at=expires_at))
    await talktime.grant(SETUP_USER, "100")
    await post_due(talktime.service.database, talktime.service.ledger, talktime.clock.now())
    made.session = await talktime.start(SETUP_USER, time_limit_s=600)
    talktime.provider.say(made.session["provider_session_id"], *SPOKEN)
    await talktime.heartbeats_until(made.session, 30)
    await _until_final(talktime, made)
    return made


async def expired_settled(stage: Stage) -> Made:
    """A session that was settled from a grant that has expired since and was not closed yet."""
    talktime = stage.seats[0].world
    expires_at = format_instant(Instant(talktime.clock.now() + 300 * US_PER_S))
    made = Made(grant=await talktime.grant(SETUP_USER, "1000", expires_at=expires_at))
    await post_due(talktime.service.database, talktime.service.ledger, talktime.clock.now())
    made.session = await talktime.start(SETUP_USER, time_limit_s=600)
    talktime.provider.say(made.session["provider_session_id"], *SPOKEN)
    await talktime.heartbeats_until(made.session, 30)
    await _until_final(talktime, made)
    await talktime.service.reconcile(talktime.key(made.session))
    assert (await talktime.session(made.session))["state"] == "settled"
    talktime.clock.advance(100)
    return made


async def quiet(stage: Stage) -> Made:
    """A session whose hold is larger than what it can still cost: most of its time was silence, which is free."""
    talktime = stage.seats[0].world
    await _cards(talktime)
    made = Made(grant=await talktime.grant(SETUP_USER, "610"))
    made.session = await talktime.start(SETUP_USER, time_limit_s=600, rate_card="quiet")
    talktime.provider.say(made.session["provider_session_id"], ("silence", 50), ("agent", 5))
    await talktime.heartbeats_until(made.session, 60)
    return made


async def quiet_for_longer(stage: Stage) -> Made:
    """As :func:`quiet`, and its hold was lowered once; there is more to hear by now."""
    talktime = stage.seats[0].world
    made = await quiet(stage)
    await talktime.service.reconcile(talktime.key(made.session))
    talktime.provider.say(
        made.session["provider_session_id"], ("silence", 50), ("agent", 5), ("silence", 40), ("user", 2)
    )
    return made


async def in_review(stage: Stage) -> Made:
    talktime = stage.seats[0].world
    made = await heard(stage)
    await talktime.service.reconcile(talktime.key(made.session))
    talktime.provider.say(made.session["provider_session_id"], ("agent", 8.9))
    assert (await talktime.settle(made.session))["state"] == "review"
    return made


def unconfirmed(amount: str) -> Prepare:
    """A session of which nobody knows whether it runs; it waited for its first heartbeat long enough."""

    async def prepare(stage: Stage) -> Made:
        talktime = stage.seats[0].world
        made = Made(grant=await talktime.grant(SETUP_USER, amount))
        made.session = await talktime.start_unconfirmed(SETUP_USER, time_limit_s=30)
        talktime.provider.say(LATE_ID, *TALKED)
        talktime.clock.advance(181)
        return made

    return prepare


def answers_lost(prepare: Prepare) -> Prepare:
    """From here on the provider's answers to starts do not arrive."""

    async def lost(stage: Stage) -> Made:
        made = await prepare(stage)
        for seat in stage.seats:
            seat.provider.lost = True
        return made

    return lost


async def to_the_end(stage: Stage, account_id: UUID, open_sessions: Sequence[UUID]) -> None:
    """Let time pass and workers do their work until nothing is left to do for these sessions."""
    world = stage.seats[0].world
    left = list(open_sessions)
    for _ in range(ROUNDS):
        world.clock.advance(200)
        for session_id in list(left):
            outcome = await world.service.reconciler.reconcile(AccountThing(account_id, session_id), now_please=True)
            if outcome in {Outcome.SETTLED, Outcome.FAILED, Outcome.REVIEW}:
                left.remove(session_id)
