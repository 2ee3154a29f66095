"""A world with something of everything that pages show, hostile texts included."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from app.access.admins import Passwords, create_admin
from app.access.sign_in_links import LONGEST, make_link
from app.core.access import Actor, Role
from app.core.ids import Kind, parse_public_id, payment_id_of, reference_id
from app.core.units import Micros, datetime_of
from app.ports.ids import TimeOrderedIds
from app.ports.randomness import SystemRandomness
from tests.support.postgres import tell
from tests.support.stripe import paid
from tests.support.world import World

HOSTILE: Final = """<script>alert(1)</script>"'><img src=x onerror=alert(1)>{{7*7}}"""
"""In whatever a client may name: a page that lets it through runs it, or falls apart."""


@dataclass
class Furnished:
    """What there is, by what it is an example of: documents of the API."""

    user: str
    hostile_user: str
    admin: str = ""
    """The name of an admin account, with the role read-only."""
    link: str = ""
    """The token of a link that signs the admin in; whoever looks at its page does not use it up."""
    key: str = ""
    """The id of an API key."""
    body: str = ""
    """The SHA-256 of an answer of the provider's that is kept of the settled session."""
    endpoint: str = ""
    """The id of an endpoint that cannot be reached."""
    event: str = ""
    """The id of an event that was dispatched to it, and is a dead letter."""
    payment: str = ""
    """The id of a payment of which nobody knows whose it is."""
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    grants: dict[str, dict[str, Any]] = field(default_factory=dict)
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The last version of each."""
    simulation: dict[str, Any] = field(default_factory=dict)
    """One that is done."""


async def furnish(world: World) -> Furnished:
    """Two users, grants of each kind, sessions in each state, cards with several versions, a what-if."""
    found = Furnished(world.user(), f"{world.user()} {HOSTILE}")
    now = datetime_of(world.clock.now())
    found.grants["paid"] = await world.grant(found.user, "1200", reference=f"order-{found.user}", cost_basis="0.05")
    expires = (now + timedelta(days=9)).isoformat()
    found.grants["expiring"] = await world.grant(found.user, "20.5", kind="promotional", expires_at=expires)
    later = (now + timedelta(days=2)).isoformat()
    found.grants["scheduled"] = await world.grant(found.user, "15", effective_at=later)
    await world.grant(found.hostile_user.replace("/", "%2F"), "500", metadata={"note": HOSTILE})
    settled = await world.start(found.user, time_limit_s=300, metadata={"lesson": 7})
    world.provider.say(
        settled["provider_session_id"],
        ("silence", 2),
        ("user", 9),
        ("agent", 26.5),
        ("silence", 40),
        ("user", 12),
        ("agent", 31),
        ("silence", 29),
    )
    await world.heartbeats_until(settled, 150)
    await world.reconcile()
    found.sessions["settled"] = await world.settle(settled)
    pulls = (await world.get(f"/v1/sessions/{settled['id']}/pulls"))["data"]
    found.body = pulls[0]["pages"][0]["sha256"]
    failed = await world.start_unconfirmed(found.user, time_limit_s=60)
    found.sessions["failed"] = await world.settle(failed)
    review = await world.start(found.user, time_limit_s=300)
    world.provider.say(review["provider_session_id"], ("user", 5), ("agent", 4_000))
    await world.heartbeats_until(review, 60)
    found.sessions["review"] = await world.settle(review)
    hostile = await world.start(found.hostile_user, time_limit_s=300, persona=HOSTILE[:100], metadata={"note": HOSTILE})
    world.provider.say(hostile["provider_session_id"], ("user", 3), ("agent", 4), ("silence", 30))
    await world.heartbeats_until(hostile, 60)
    found.sessions["hostile"] = await world.settle(hostile)
    live = await world.start(found.user, time_limit_s=300)
    world.provider.say(live["provider_session_id"], ("user", 20), ("agent", 25.25), ("silence", 60))
    await world.heartbeats_until(live, 60)
    await world.reconcile()
    found.sessions["live"] = await world.session(live)
    found.admin = await make_admin(world, Role.READ_ONLY)
    found.link = await link_for(world, found.admin)
    made = await world.client.post("/v1/api-keys", json={"name": HOSTILE[:100], "scopes": ["read"]})
    found.key = made.json()["id"]
    states = {name: session["state"] for name, session in found.sessions.items()}
    expected = {name: name for name in states} | {"hostile": "settled"}
    if states != expected:
        raise AssertionError(f"{states} instead of {expected}")
    await _furnish_prices(world, found)
    await _furnish_events(world, found)
    await _furnish_top_ups(world, found)
    return found


async def _furnish_top_ups(world: World, found: Furnished) -> None:
    """Payments, one of them in part refunded and one that needs attention, and a recurring grant."""
    await paid(world, found.hostile_user, 2000, refunded=500)
    bought = await paid(world, None, 1000)
    found.payment = reference_id(Kind.PAYMENT, payment_id_of(bought.reference))
    body = {"amount": "10", "period": "month", "leftover": "rollover", "rollover_cap": "5"}
    made = await world.client.post(f"/v1/users/{found.user}/recurring-grants", json=body)
    if made.status_code != 201:
        raise AssertionError(made.text)


async def _furnish_events(world: World, found: Furnished) -> None:
    """An endpoint at an address that nothing is sent to, with a delivery that waits and one that is dead."""
    await world.service.deliverer.dispatch()
    asked = {"url": "https://1.1.1.1:8443/" + "hook" * 20, "description": HOSTILE[:100]}
    found.endpoint = (await world.client.post("/v1/webhook-endpoints", json=asked)).json()["id"]
    for _ in range(2):
        await world.grant(found.hostile_user.replace("/", "%2F"), "1")
    await world.service.deliverer.dispatch()
    deliveries = (await world.get(f"/v1/webhook-endpoints/{found.endpoint}/deliveries"))["data"]
    found.event = deliveries[0]["event_id"]
    key = parse_public_id(Kind.EVENT, found.event)
    if key is None:
        raise AssertionError(deliveries)
    tell(
        world.service.database.conninfo,
        f"""
        insert into delivery_attempts
        select account_id, event_id, endpoint_id, event_id, created_at, 1500000, 500, null,
               convert_to('{HOSTILE.replace("'", "''")}', 'UTF8'), true
        from deliveries where event_id = '{key.id}';
        update deliveries set state = 'dead', due_at = null, finished_at = created_at, total_attempts = 1,
               last_at = created_at, last_status = 500 where event_id = '{key.id}'
        """,
    )


PASSWORD: Final = "correct horse battery staple"


async def make_admin(world: World, role: Role = Role.FULL, password: str = PASSWORD) -> str:
    """An admin account with a name of its own."""
    name = world.user()
    ids = TimeOrderedIds(world.clock, SystemRandomness())
    hashed = await Passwords(SystemRandomness()).hash(password)
    async with world.service.database.transaction() as transaction:
        await create_admin(transaction, ids, name, role, hashed, now=world.clock.now(), actor=Actor("test"))
    return name


async def link_for(world: World, name: str, *, lasts: Micros = LONGEST) -> str:
    """The token of a link that signs this admin in."""
    ids, randomness = TimeOrderedIds(world.clock, SystemRandomness()), SystemRandomness()
    async with world.service.database.transaction() as transaction:
        now, actor = world.clock.now(), Actor("test")
        return (await make_link(transaction, ids, randomness, name, now=now, actor=actor, lasts=lasts)).token


async def _furnish_prices(world: World, found: Furnished) -> None:
    evening: dict[str, Any] = {
        "name": "evening",
        "rates": {"user": "30", "agent": "60", "silence": "12.5"},
        "match": {"persona": "owl"},
    }
    later = (datetime_of(world.clock.now()) + timedelta(days=3)).isoformat()
    versions = (
        ("evening", evening),
        ("evening", {**evening, "connection_fee": "0.5", "increments": {"initial_s": 30, "subsequent_s": 6}}),
        ("evening", {**evening, "rates": {**evening["rates"], "agent": "72"}, "effective_at": later}),
        ("hostile", {"name": HOSTILE, "rates": {"user": "1", "agent": "2", "silence": "0"}}),
        (
            "hostile",
            {
                "name": HOSTILE,
                "rates": {"user": "90", "agent": "75", "silence": "5"},
                "match": {"persona": "nobody " + HOSTILE, "scenario": HOSTILE},
            },
        ),
    )
    for name, asked in versions:
        response = await world.client.post("/v1/rate-cards", json=asked)
        found.cards[name] = response.json()
    world.clock.advance(1)
    now = datetime_of(world.clock.now())
    cost = {"name": "provider_cost", "rates": {"user": "20", "agent": "40", "silence": "10"}}
    asked = {
        "rate_card": found.cards["hostile"]["id"],
        "after": (now - timedelta(days=7)).isoformat(),
        "before": now.isoformat(),
        "provider_cost": cost,
    }
    response = await world.client.post("/v1/rate-cards/simulations", json=asked)
    found.simulation = await finished(world, response.json())


async def finished(world: World, simulation: dict[str, Any]) -> dict[str, Any]:
    """The simulation when it is done; whatever else is asked for is done as well."""
    while await world.service._simulations.work():
        pass
    done = dict(await world.get(f"/v1/rate-cards/simulations/{simulation['id']}"))
    if done["state"] != "done":
        raise AssertionError(done)
    return done
