"""Events on their way to endpoints: signed, at least once, each endpoint for itself."""

import asyncio
import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import Any

import pytest
import standardwebhooks
from standardwebhooks import Webhook

from app.core.delivery import DISABLED_AFTER, MAX_ATTEMPTS, WAITS
from app.core.ids import account_id_of
from app.core.ledger import GrantKind
from app.core.units import US_PER_DAY, US_PER_S, Instant, MicroCredits, format_instant, instant_of
from app.db.database import Transaction
from app.ledger.book import GrantTerms
from app.ledger.opening import open_book
from app.service import Service
from talktime import webhooks
from tests.support.hooks import CUT, HANG, Hooks, Received, Reply, hooks
from tests.support.postgres import WorkerDatabases, ask, tell
from tests.support.problems import problem
from tests.support.scripted_provider import ProviderHost
from tests.support.world import World, world

pytestmark = pytest.mark.anyio

NO_ENDPOINTS = "update endpoints set state = 'deleted', secrets = ''"


@pytest.fixture(scope="module")
async def world_of_the_module(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator[World]:
    settings: dict[str, Any] = {"events_allow_private_targets": True, "events_timeout_s": 1}
    async with world(databases.urls.service, providers.script(), **settings) as found:
        yield found
        tell(databases.urls.service, NO_ENDPOINTS)


@pytest.fixture
async def told(talktime: World) -> World:
    """The service without endpoints of other tests, and nothing left in its outboxes."""
    tell(talktime.service.database.conninfo, NO_ENDPOINTS)
    await talktime.service.deliverer.dispatch()
    return talktime


@pytest.fixture
async def receiver() -> AsyncIterator[Hooks]:
    async with hooks() as found:
        yield found


async def endpoint(talktime: World, url: str, **terms: Any) -> dict[str, Any]:
    response = await talktime.client.post("/v1/webhook-endpoints", json={"url": url, **terms})
    assert response.status_code == 201, response.text
    return dict(response.json())


async def post(talktime: World, path: str, body: Any = None, status: int = 202) -> Any:
    response = await talktime.client.post(path, json=body) if body is not None else await talktime.client.post(path)
    assert response.status_code == status, response.text
    return response.json()


async def deliver(talktime: World) -> None:
    await talktime.service.deliverer.run_due()


async def deliveries(talktime: World, made: dict[str, Any], **asked: str) -> list[dict[str, Any]]:
    query = "&".join(f"{name}={value}" for name, value in asked.items())
    page = await talktime.get(f"/v1/webhook-endpoints/{made['id']}/deliveries?{query}")
    return list(page["data"])


# What arrives


async def test_an_event_arrives_as_a_standard_webhook(told: World, receiver: Hooks, monkeypatch: Any) -> None:
    made = await endpoint(told, receiver.url())
    user = told.user()
    grant = await told.grant(user, "12.5")
    await deliver(told)
    (came,) = receiver.received
    # The library compares with the wall clock, and ours stands still somewhere else.
    monkeypatch.setattr(standardwebhooks.webhooks, "datetime", _At(int(came.headers["webhook-timestamp"])))
    event = Webhook(made["secret"]).verify(came.body.decode(), dict(came.headers))
    ours = webhooks.verify(came.body, came.headers, made["secret"], now=told.clock.now() // US_PER_S)
    assert isinstance(ours, webhooks.GrantEvent)
    assert (ours.id, ours.user_id, ours.amount) == (came.id, user, Decimal("12.5"))
    assert event["type"] == "grant.created"
    assert event["user_id"] == user
    assert event["sequence"] == 1
    assert event["data"] == {"user_id": user, "grant_id": grant["id"], "amount": "12.5"}
    assert event["id"] == came.id
    assert int(came.headers["webhook-timestamp"]) == told.clock.now() // US_PER_S
    assert came.headers["content-type"] == "application/json"
    (shown,) = (await told.get(f"/v1/events?user_id={user}"))["data"]
    assert shown == event
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        Webhook(made["secret"]).verify(came.body.decode() + " ", dict(came.headers))
    with pytest.raises(webhooks.NotVerified):
        webhooks.verify(came.body + b" ", came.headers, made["secret"], now=told.clock.now() // US_PER_S)
    (delivery,) = await deliveries(told, made)
    assert (delivery["state"], delivery["attempts_made"], delivery["last_status"]) == ("delivered", 1, 204)


class _At:
    """``datetime`` as the library uses it, at one instant."""

    def __init__(self, timestamp: int) -> None:
        self._timestamp = timestamp

    def now(self, tz: tzinfo | None = None) -> datetime:
        return datetime.fromtimestamp(self._timestamp, tz)

    def __getattr__(self, name: str) -> Any:
        return getattr(datetime, name)


async def test_an_endpoint_gets_the_types_that_it_wants(told: World, receiver: Hooks) -> None:
    await endpoint(told, receiver.url("/all"))
    await endpoint(told, receiver.url("/grants"), event_types=["grant.created"])
    await endpoint(told, receiver.url("/cards"), event_types=["rate_card.published"])
    user = told.user()
    await told.grant(user, "100")
    await told.start(user)
    card = {"name": f"card-{user}", "rates": {"user": "1", "agent": "1", "silence": "1"}}
    published = (await told.client.post("/v1/rate-cards", json=card)).json()
    await deliver(told)
    assert {one.event["type"] for one in receiver.at("/all")} == {
        *("grant.created", "session.started", "session.live", "rate_card.published"),
    }
    assert {one.event["type"] for one in receiver.at("/grants")} == {"grant.created"}
    (told_of_card,) = [one.event for one in receiver.at("/cards")]
    assert told_of_card["user_id"] is None
    assert told_of_card["data"]["rate_card_id"] == published["id"]
    assert (told_of_card["data"]["name"], told_of_card["data"]["version"]) == (card["name"], 1)
    # The same by the API, alone and in a list: its number is a number there too.
    assert await told.get(f"/v1/events/{told_of_card['id']}") == told_of_card
    assert told_of_card in (await told.get("/v1/events?type=rate_card.published"))["data"]


async def test_events_of_before_an_endpoint_are_not_sent_to_it(told: World, receiver: Hooks) -> None:
    user = told.user()
    await told.grant(user, "1")
    await told.service.deliverer.dispatch()
    await endpoint(told, receiver.url())
    await told.grant(user, "2")
    await deliver(told)
    assert [one.event["data"]["amount"] for one in receiver.received] == ["2"]


async def test_every_type_that_is_documented_can_be_asked_for_and_no_other(told: World, receiver: Hooks) -> None:
    types = ["session.settled", "balance.low", "grant.expiring", "charge.corrected", "webhook_endpoint.disabled"]
    made = await endpoint(told, receiver.url(), event_types=types)
    assert set(made["event_types"]) == set(types)
    for wrong in (["session.begun"], ["session.over", "session.over"], ["webhook_endpoint.test"], "session.over"):
        response = await told.client.post("/v1/webhook-endpoints", json={"url": receiver.url(), "event_types": wrong})
        assert problem(response, 422, "invalid-request")["errors"], wrong


async def test_dispatching_again_makes_nothing_new(told: World, receiver: Hooks) -> None:
    await endpoint(told, receiver.url())
    user = told.user()
    await told.grant(user, "1")
    assert await told.service.deliverer.dispatch() == 1
    assert await told.service.deliverer.dispatch() == 0
    await deliver(told)
    await deliver(told)
    assert len(receiver.received) == 1


async def test_an_event_that_commits_late_is_dispatched_all_the_same(told: World, receiver: Hooks) -> None:
    await endpoint(told, receiver.url())
    early, late = told.user(), told.user()
    await told.grant(late, "1")
    await deliver(told)
    async with told.service.database.transaction() as transaction:
        await told.service.deliverer.dispatch()
        await _grant_within(told, transaction, late)
        told.clock.advance(5)
        await told.grant(early, "2")
        await deliver(told)
        assert [one.event["data"]["amount"] for one in receiver.received] == ["1", "2"]
    await deliver(told)
    assert [one.event["sequence"] for one in receiver.received if one.event["user_id"] == late] == [1, 2]


async def _grant_within(talktime: World, transaction: Transaction, user: str) -> None:
    """A grant whose transaction is left open, with its event stamped now."""
    now = talktime.clock.now()
    book = await open_book(transaction, talktime.service.ledger, account_id_of(user), now)
    assert book is not None
    book.grant(GrantTerms(amount=MicroCredits(3_000_000), kind=GrantKind.PAID, effective_at=now))
    await book.close()


# What is tried again


async def test_a_failure_is_tried_again_under_the_same_id_over_days(told: World, receiver: Hooks) -> None:
    made = await endpoint(told, receiver.url())
    receiver.behave = lambda _: Reply(500, body=b"out of order")
    began = told.clock.now()
    await told.grant(told.user(), "1")
    for n, wait in enumerate(WAITS, 1):
        await deliver(told)
        assert len(receiver.received) == n
        (delivery,) = await deliveries(told, made)
        assert (delivery["state"], delivery["last_status"]) == ("waiting", 500)
        told.clock.advance(wait / US_PER_S - 1)
        await deliver(told)
        assert len(receiver.received) == n, "too early"
        told.clock.advance(wait / US_PER_S / 5 + 2)
    await deliver(told)
    assert len(receiver.received) == MAX_ATTEMPTS
    assert 3 * US_PER_DAY < told.clock.now() - began < 5 * US_PER_DAY
    assert len({(one.id, one.body) for one in receiver.received}) == 1
    assert len({one.headers["webhook-timestamp"] for one in receiver.received}) == MAX_ATTEMPTS
    (delivery,) = await deliveries(told, made, state="dead")
    assert (delivery["attempts_made"], delivery["due_at"]) == (MAX_ATTEMPTS, None)
    assert (await told.get(f"/v1/dead-letters?endpoint_id={made['id']}"))["data"] == [delivery]
    whole = await told.get(f"/v1/webhook-endpoints/{made['id']}/deliveries/{delivery['event_id']}")
    assert [one["body"] for one in whole["attempts"]] == ["out of order"] * MAX_ATTEMPTS
    assert (await told.get(f"/v1/webhook-endpoints/{made['id']}"))["backlog"]["dead"] == 1
    receiver.behave = lambda _: Reply()
    assert await post(told, f"/v1/webhook-endpoints/{made['id']}/retry") == {"retried": 1, "more": False}
    await deliver(told)
    assert (await deliveries(told, made))[0]["state"] == "delivered"
    assert receiver.received[-1].id == receiver.received[0].id


@pytest.mark.parametrize(
    ("behaviour", "status", "error"),
    [
        (Reply(404), 404, None),
        (Reply(301, {"location": "/elsewhere"}), 301, None),
        (Reply(302, {"location": "http://127.0.0.1:1/"}), 302, None),
        (HANG, None, "no answer in time"),
        (CUT, None, "the answer is no HTTP"),
        (Reply(200, {"content-length": "nonsense"}), None, "the answer is no HTTP"),
    ],
)
async def test_whatever_is_no_success_is_tried_again(
    told: World, receiver: Hooks, behaviour: Any, status: int | None, error: str | None
) -> None:
    made = await endpoint(told, receiver.url())
    receiver.behave = lambda _: behaviour
    await told.grant(told.user(), "1")
    await deliver(told)
    (delivery,) = await deliveries(told, made)
    assert (delivery["state"], delivery["last_status"], delivery["last_error"]) == ("waiting", status, error)
    assert {one.path for one in receiver.received} == {"/hook"}
    receiver.behave = lambda _: Reply(200)
    told.clock.advance(10)
    await deliver(told)
    (delivery,) = await deliveries(told, made)
    assert (delivery["state"], delivery["attempts_made"]) == ("delivered", 2)


async def test_an_endpoint_may_ask_us_to_wait(told: World, receiver: Hooks) -> None:
    made = await endpoint(told, receiver.url())
    receiver.behave = lambda _: Reply(503, {"retry-after": "3600"})
    await told.grant(told.user(), "1")
    await deliver(told)
    told.clock.advance(3599)
    await deliver(told)
    assert len(receiver.received) == 1
    told.clock.advance(2)
    receiver.behave = lambda _: Reply()
    await deliver(told)
    assert (await deliveries(told, made))[0]["state"] == "delivered"


async def test_a_long_answer_is_cut_off_and_kept_so(told: World, receiver: Hooks) -> None:
    made = await endpoint(told, receiver.url())
    receiver.behave = lambda _: Reply(200, body=b"\x00\xff" + b"x" * 1_000_000)
    await told.grant(told.user(), "1")
    await deliver(told)
    (delivery,) = await deliveries(told, made)
    assert delivery["state"] == "delivered"
    whole = await told.get(f"/v1/webhook-endpoints/{made['id']}/deliveries/{delivery['event_id']}")
    assert len(whole["attempts"][0]["body"]) == 4096


# Endpoints that fail


async def test_one_that_is_gone_is_disabled_at_once(told: World, receiver: Hooks) -> None:
    gone = await endpoint(told, receiver.url("/gone"))
    await endpoint(told, receiver.url("/other"), event_types=["webhook_endpoint.disabled"])
    receiver.behave = lambda one: Reply(410) if one.path == "/gone" else Reply()
    user = told.user()
    await told.grant(user, "1")
    await deliver(told)
    shown = await told.get(f"/v1/webhook-endpoints/{gone['id']}")
    assert (shown["state"], shown["disabled_why"]) == ("disabled", "gone")
    await told.grant(user, "2")
    told.clock.advance(100_000)
    await deliver(told)
    assert len(receiver.at("/gone")) == 1
    (of_it,) = [one.event for one in receiver.at("/other")]
    assert of_it["type"] == "webhook_endpoint.disabled"
    assert of_it["data"] == {"endpoint_id": gone["id"], "url": gone["url"], "why": "gone"}
    problem(await told.client.post(f"/v1/webhook-endpoints/{gone['id']}/test"), 409, "endpoint-disabled")
    receiver.behave = lambda _: Reply()
    await told.client.patch(f"/v1/webhook-endpoints/{gone['id']}", json={"state": "active"})
    await deliver(told)
    # What waited is sent; what happened while it was disabled is not kept for it.
    assert [one.event["data"]["amount"] for one in receiver.at("/gone")] == ["1", "1"]


async def test_one_that_fails_for_days_is_disabled(told: World, receiver: Hooks) -> None:
    made = await endpoint(told, receiver.url())
    receiver.behave = lambda _: Reply(500)
    user = told.user()
    for _ in range(DISABLED_AFTER // US_PER_DAY + 1):
        assert (await told.get(f"/v1/webhook-endpoints/{made['id']}"))["state"] == "active"
        await told.grant(user, "1")
        await deliver(told)
        told.clock.advance(86_400)
    shown = await told.get(f"/v1/webhook-endpoints/{made['id']}")
    assert (shown["state"], shown["disabled_why"]) == ("disabled", "failing")


async def test_one_success_begins_the_days_anew(told: World, receiver: Hooks) -> None:
    made = await endpoint(told, receiver.url())
    receiver.behave = lambda one: Reply(200 if one.event["data"].get("amount") == "7" else 500)
    user = told.user()
    for day in range(9):
        await told.grant(user, "7" if day == 4 else "1")
        await deliver(told)
        told.clock.advance(86_400)
    assert (await told.get(f"/v1/webhook-endpoints/{made['id']}"))["state"] == "active"


async def test_one_that_hangs_delays_no_other(told: World, receiver: Hooks) -> None:
    await endpoint(told, receiver.url("/hangs"))
    await endpoint(told, receiver.url("/well"))
    receiver.behave = lambda one: HANG if one.path == "/hangs" else Reply()
    users = [told.user() for _ in range(12)]
    for user in users:
        await told.grant(user, "1")
    await deliver(told)
    assert {one.event["user_id"] for one in receiver.at("/well")} == set(users)
    # Four places, a second each: the one that hangs takes three seconds for the same.
    last = max(one.at for one in receiver.at("/well"))
    assert sum(one.at > last for one in receiver.at("/hangs")) >= 4


# Workers


async def test_a_worker_that_died_is_followed_by_another(told: World, receiver: Hooks) -> None:
    """It had sent it, and nobody wrote that down: it is sent again, under the same id."""
    made = await endpoint(told, receiver.url())
    await told.grant(told.user(), "1")
    await told.service.deliverer.dispatch()
    queue = told.service.deliverer._queue
    (whose,) = await queue.endpoints_due()
    batch = await queue.take(whose)
    assert batch is not None
    await told.service.deliverer._attempt(batch.endpoint, [], batch.leased[0])
    await deliver(told)
    assert receiver.received == [], "leased to the one that died"
    told.clock.advance(60)
    await deliver(told)
    assert len(receiver.received) == 1
    assert (await deliveries(told, made))[0]["state"] == "delivered"
    # The other one was not dead: what it writes does not count.
    attempt = await told.service.deliverer._attempt(batch.endpoint, [], batch.leased[0])
    assert (await queue.record(batch, [attempt])).counted == 0
    (delivery,) = await deliveries(told, made)
    assert (delivery["state"], delivery["attempts_made"]) == ("delivered", 1)
    whole = await told.get(f"/v1/webhook-endpoints/{made['id']}/deliveries/{delivery['event_id']}")
    assert sorted(one["counted"] for one in whole["attempts"]) == [False, True]


async def test_two_workers_share_the_work(told: World, receiver: Hooks) -> None:
    await endpoint(told, receiver.url())
    receiver.behave = lambda _: Reply(after_s=0.01)
    for _ in range(40):
        await told.grant(told.user(), "1")
    other = Service(told.settings, told.settings.database_url or "", clock=told.clock)
    try:
        await asyncio.gather(told.service.deliverer.run_due(), other.deliverer.run_due())
    finally:
        await other.deliverer.stop()
        await other.database.close()
    assert len(receiver.received) == 40
    assert len({one.id for one in receiver.received}) == 40


async def test_what_a_clock_of_before_has_put_off_is_sent(told: World, receiver: Hooks) -> None:
    made = await endpoint(told, receiver.url())
    await told.grant(told.user(), "1")
    await told.service.deliverer.dispatch()
    far = "now() + interval '20 years'"
    tell(
        told.service.database.conninfo,
        f"update deliveries set due_at = {far}, lease_until = {far}, lease_token = event_id where state = 'waiting'",
    )
    await deliver(told)
    assert (await deliveries(told, made))[0]["state"] == "delivered"


async def test_nothing_is_begun_while_our_clock_is_wrong(
    told: World, receiver: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await endpoint(told, receiver.url())
    for _ in range(40):
        await told.grant(told.user(), "1")
    await told.service.deliverer.dispatch()
    monkeypatch.setattr(told.service.deliverer, "_clock_agrees", lambda: len(receiver.received) < 16)
    await deliver(told)
    assert len(receiver.received) == 16
    monkeypatch.undo()
    await deliver(told)
    assert {one["state"] for one in await deliveries(told, made)} == {"delivered"}


async def test_a_stop_waits_for_answers_and_gives_the_rest_back(told: World, receiver: Hooks) -> None:
    made = await endpoint(told, receiver.url())
    receiver.behave = lambda _: Reply(after_s=0.2)
    for _ in range(10):
        await told.grant(told.user(), "1")
    other = Service(told.settings, told.settings.database_url or "", clock=told.clock)
    await other.deliverer.dispatch()
    await other.deliverer.fill()
    await receiver.wait_for(4)
    await other.deliverer.stop()
    await other.database.close()
    states = [one["state"] for one in await deliveries(told, made)]
    assert (states.count("delivered"), states.count("waiting")) == (4, 6)
    await deliver(told)  # nothing is leased any more
    assert {one["state"] for one in await deliveries(told, made)} == {"delivered"}
    assert len(receiver.received) == 10


# What is asked for anew


async def test_an_event_is_sent_again_by_its_id(told: World, receiver: Hooks) -> None:
    first = await endpoint(told, receiver.url("/1"))
    second = await endpoint(told, receiver.url("/2"))
    await told.grant(told.user(), "1")
    await deliver(told)
    event_id = receiver.received[0].id
    answer = await post(told, f"/v1/events/{event_id}/redeliver", {"endpoint_id": second["id"]})
    assert answer == {"event_id": event_id, "endpoint_ids": [second["id"]]}
    await deliver(told)
    assert [one.id for one in receiver.at("/2")] == [event_id] * 2
    assert len(receiver.at("/1")) == 1
    both = await post(told, f"/v1/events/{event_id}/redeliver", {})
    assert set(both["endpoint_ids"]) == {first["id"], second["id"]}
    await deliver(told)
    assert (len(receiver.at("/1")), len(receiver.at("/2"))) == (2, 3)
    page = await told.get(f"/v1/events/{event_id}/deliveries")
    assert {one["endpoint_id"] for one in page["data"]} == {first["id"], second["id"]}


async def test_events_are_sent_again_by_their_time(told: World, receiver: Hooks) -> None:
    user = told.user()
    told.clock.advance(10_000_000)
    for amount in ("1", "2", "3", "4"):
        await told.grant(user, amount)
        told.clock.advance(60)
    await told.service.deliverer.dispatch()
    made = await endpoint(told, receiver.url(), event_types=["grant.created"])
    shown = (await told.get(f"/v1/events?user_id={user}"))["data"]
    at = {one["data"]["amount"]: one["timestamp"] for one in shown}
    asked = {"after": at["2"], "before": at["4"]}
    assert await post(told, f"/v1/webhook-endpoints/{made['id']}/replay", asked) == {
        "replayed": 2,
        "next_cursor": None,
    }
    await deliver(told)
    assert sorted(one.event["data"]["amount"] for one in receiver.received) == ["2", "3"]
    known = [one["id"] for one in shown]
    await post(told, f"/v1/webhook-endpoints/{made['id']}/replay", {"event_ids": known})
    await deliver(told)
    assert sorted(one.event["data"]["amount"] for one in receiver.received) == ["1", "2", "2", "3", "3", "4"]
    refused: list[dict[str, Any]] = [{}, {"event_ids": known, "after": at["1"]}]
    refused += [{"event_ids": ["evt_1"]}, {"event_ids": []}]
    for wrong in refused:
        response = await told.client.post(f"/v1/webhook-endpoints/{made['id']}/replay", json=wrong)
        problem(response, 422, "invalid-request")


async def test_a_replay_goes_on_where_the_call_before_ended(
    told: World, receiver: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.deliveries.replay.MOST_AT_ONCE", 2)
    # Behind all that other tests have on this database.
    ((latest,),) = ask(told.service.database.conninfo, "select max(created_at) from events")
    since = Instant(max(told.clock.now(), 0 if latest is None else instant_of(latest) + 1))
    told.clock.set(since)
    user = told.user()
    for _ in range(5):
        await told.grant(user, "1")
    await told.service.deliverer.dispatch()
    made = await endpoint(told, receiver.url())
    asked = {"after": format_instant(since)}
    replayed, cursor = 0, None
    while True:
        more = asked if cursor is None else asked | {"cursor": cursor}
        answer = await post(told, f"/v1/webhook-endpoints/{made['id']}/replay", more)
        replayed, cursor = replayed + answer["replayed"], answer["next_cursor"]
        if cursor is None:
            break
    await deliver(told)
    assert replayed == len(receiver.received) == 5


async def test_what_is_asked_for_anew_is_sent_after_that(told: World, receiver: Hooks) -> None:
    """A worker has it under way: what that writes down does not count, as the request came later."""
    made = await endpoint(told, receiver.url())
    await told.grant(told.user(), "1")
    await told.service.deliverer.dispatch()
    queue = told.service.deliverer._queue
    (whose,) = await queue.endpoints_due()
    batch = await queue.take(whose)
    assert batch is not None
    (waiting,) = await deliveries(told, made)
    await post(told, f"/v1/events/{waiting['event_id']}/redeliver", {"endpoint_id": made["id"]})
    attempt = await told.service.deliverer._attempt(batch.endpoint, [], batch.leased[0])
    await queue.record(batch, [attempt])
    await deliver(told)
    assert len(receiver.received) == 1


async def test_a_test_goes_to_its_endpoint_only(told: World, receiver: Hooks) -> None:
    made = await endpoint(told, receiver.url("/1"), event_types=["session.over"])
    await endpoint(told, receiver.url("/2"))
    answer = await post(told, f"/v1/webhook-endpoints/{made['id']}/test")
    await deliver(told)
    (came,) = receiver.received
    assert (came.path, came.id, came.event["type"]) == ("/1", answer["event_id"], "webhook_endpoint.test")


# Secrets


async def test_both_secrets_sign_while_they_overlap(told: World, receiver: Hooks) -> None:
    made = await endpoint(told, receiver.url())
    answer = await post(told, f"/v1/webhook-endpoints/{made['id']}/rotate-secret", {"overlap_s": 3600}, status=200)
    assert answer["secret"].startswith("whsec_")
    assert answer["secret"] != made["secret"]
    user = told.user()
    await told.grant(user, "1")
    await deliver(told)
    assert len(receiver.received[0].headers["webhook-signature"].split(" ")) == 2
    for secret in (answer["secret"], made["secret"]):
        assert _fits(secret, receiver.received[0])
    told.clock.advance(3600)
    await told.grant(user, "2")
    await deliver(told)
    assert len(receiver.received[1].headers["webhook-signature"].split(" ")) == 1
    assert _fits(answer["secret"], receiver.received[1])
    assert not _fits(made["secret"], receiver.received[1])


def _fits(secret: str, came: Received) -> bool:
    at = datetime.fromtimestamp(int(came.headers["webhook-timestamp"]), UTC)
    ours = Webhook(secret).sign(came.id, at, came.body.decode())
    fits = ours in came.headers["webhook-signature"].split(" ")
    try:
        webhooks.verify(came.body, came.headers, secret, now=at.timestamp())
    except webhooks.NotVerified:
        assert not fits
    else:
        assert fits
    return fits


async def test_a_secret_lies_sealed_and_is_told_once(told: World, receiver: Hooks) -> None:
    headers = {"Idempotency-Key": f"key-{told.user()}"}
    body = {"url": receiver.url()}
    made = (await told.client.post("/v1/webhook-endpoints", json=body, headers=headers)).json()
    again = (await told.client.post("/v1/webhook-endpoints", json=body, headers=headers)).json()
    assert again == made
    shown = await told.get(f"/v1/webhook-endpoints/{made['id']}")
    assert "secret" not in shown
    raw = base64.b64decode(made["secret"].removeprefix("whsec_")).hex()
    kept = ask(
        told.service.database.conninfo,
        "select encode(secrets, 'hex') from endpoints where state = 'active' union all "
        "select encode(body, 'hex') from idempotency where body is not null union all "
        "select encode(convert_to(after::text, 'UTF8'), 'hex') from audit_log where after is not null",
    )
    assert kept
    assert not [row for (row,) in kept if raw in row or made["secret"].encode().hex() in row]


# Endpoints


async def test_an_endpoint_is_changed_and_deleted(told: World, receiver: Hooks) -> None:
    made = await endpoint(told, receiver.url("/1"), description="billing")
    path = f"/v1/webhook-endpoints/{made['id']}"
    changed = (await told.client.patch(path, json={"url": receiver.url("/2"), "description": None})).json()
    assert (changed["url"], changed["description"]) == (receiver.url("/2"), None)
    assert (await told.get(path))["url"] == receiver.url("/2")
    disabled = (await told.client.patch(path, json={"state": "disabled"})).json()
    assert (disabled["state"], disabled["disabled_why"]) == ("disabled", "by_hand")
    await told.client.patch(path, json={"state": "active"})
    await told.grant(told.user(), "1")
    await told.service.deliverer.dispatch()
    assert (await told.client.delete(path)).status_code == 200
    problem(await told.client.get(path), 404, "not-found")
    problem(await told.client.delete(path), 404, "not-found")
    await deliver(told)
    assert receiver.received == []
    assert (await told.get("/v1/webhook-endpoints"))["data"] == []
    for wrong in ({"url": None}, {"state": "deleted"}, {"event_types": None}, {"secret": "x"}):
        problem(await told.client.patch(path, json=wrong), 422, "invalid-request")


async def test_what_is_done_leaves_a_row_in_the_audit_log(told: World, receiver: Hooks) -> None:
    made = await endpoint(told, receiver.url())
    path = f"/v1/webhook-endpoints/{made['id']}"
    await told.client.patch(path, json={"description": "billing"})
    await post(told, f"{path}/rotate-secret", {}, status=200)
    await post(told, f"{path}/test")
    await post(told, f"{path}/retry")
    await told.client.delete(path)
    rows = (await told.get(f"/v1/audit-log?target={made['id']}"))["data"]
    actions = {row["action"].removeprefix("webhook_endpoint.") for row in rows}
    assert actions == {"create", "change", "rotate", "test", "retry", "delete"}
    assert len(rows) == len(actions)
    assert all("whsec_" not in str(row) for row in rows)


async def test_lists_go_on_where_a_page_ended(told: World, receiver: Hooks) -> None:
    made = [await endpoint(told, receiver.url(f"/{n}")) for n in range(3)]
    user = told.user()
    for _ in range(3):
        await told.grant(user, "1")
    receiver.behave = lambda _: Reply(500)
    await deliver(told)
    tell(
        told.service.database.conninfo,
        "update deliveries set state = 'dead', due_at = null, finished_at = created_at where state = 'waiting'",
    )
    event_id = receiver.received[0].id
    for path, number in (
        ("/v1/webhook-endpoints?", 3),
        (f"/v1/webhook-endpoints/{made[0]['id']}/deliveries?", 3),
        (f"/v1/webhook-endpoints/{made[0]['id']}/deliveries?state=dead&", 3),
        (f"/v1/dead-letters?endpoint_id={made[1]['id']}&", 3),
        (f"/v1/events/{event_id}/deliveries?", 3),
        (f"/v1/events?user_id={user}&", 3),
        (f"/v1/events?user_id={user}&type=grant.created&", 3),
    ):
        whole = (await told.get(f"{path}limit=500"))["data"]
        assert len(whole) == number, path
        pieces, cursor = [], ""
        while True:
            page = await told.get(f"{path}limit=1{cursor}")
            pieces += page["data"]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert pieces == whole, path
    for path in ("/v1/events?type=x", f"/v1/webhook-endpoints/{made[0]['id']}/deliveries?state=x"):
        problem(await told.client.get(path), 422, "invalid-request")
    problem(await told.client.get("/v1/dead-letters?endpoint_id=x"), 422, "invalid-request")


async def test_old_deliveries_are_forgotten_and_events_kept(told: World, receiver: Hooks) -> None:
    made = await endpoint(told, receiver.url())
    user = told.user()
    await told.grant(user, "1")
    await deliver(told)
    told.clock.advance(29 * 86_400)
    await told.service.purge()
    (delivery,) = await deliveries(told, made)
    told.clock.advance(2 * 86_400)
    await told.service.purge()
    assert await deliveries(told, made) == []
    await post(told, f"/v1/events/{delivery['event_id']}/redeliver", {"endpoint_id": made["id"]})
    await deliver(told)
    assert [one.id for one in receiver.received] == [delivery["event_id"]] * 2


async def test_dead_letters_wait_for_somebody_unless_their_endpoint_is_deleted(told: World, receiver: Hooks) -> None:
    made = await endpoint(told, receiver.url())
    await told.grant(told.user(), "1")
    receiver.behave = lambda _: Reply(500)
    await deliver(told)
    tell(
        told.service.database.conninfo,
        "update deliveries set state = 'dead', due_at = null, finished_at = created_at where state = 'waiting'",
    )
    told.clock.advance(400 * 86_400)
    await told.service.purge()
    (dead,) = await deliveries(told, made)
    assert dead["state"] == "dead"
    await told.client.delete(f"/v1/webhook-endpoints/{made['id']}")
    told.clock.advance(86_400)
    await told.service.purge()
    assert [row[0] for row in ask(told.service.database.conninfo, "select state from deliveries")] == ["dropped"]
    told.clock.advance(31 * 86_400)
    await told.service.purge()
    assert ask(told.service.database.conninfo, "select 1 from deliveries") == []
