"""Every write of the money path: what it needs, how it is asked for, and how it is asked for again."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from app.core.units import US_PER_S, Instant, format_instant
from app.db.database import DatabaseUnavailable
from app.ledger.due import post_due
from tests.cuts.proxy import Side
from tests.support.world import PUBLIC_URL, World

SPOKEN = ("agent", 10), ("silence", 20)
WHY = {"reason": "a test"}
CARDS = {"cheap": "30", "dear": "120"}
"""Credits a minute; the default card takes 60."""


@dataclass
class Case:
    """One user's try."""

    user: str
    key: str = field(default_factory=lambda: uuid4().hex)
    session: dict[str, Any] = field(default_factory=dict)
    grant: dict[str, Any] = field(default_factory=dict)


Act = Callable[[World, Case], Awaitable[str]]
"""Does it, once; answers what the client sees, with a ``!`` in front if it is to be asked for again."""


@dataclass(frozen=True)
class Operation:
    """``exact``: also events, audits and steps must be as in an uncut run; else only what is money.

    ``never_asked``: the cut after which the provider was not asked, and must not be any more. ``times``: so
    many commits in a row are cut, of an operation that tries again by itself.
    """

    name: str
    prepare: Callable[[World, Case], Awaitable[None]]
    act: Act
    exact: bool = True
    commits: int = 1
    never_asked: tuple[int, Side] | None = None
    times: int = 1


def call(method: str, path: Callable[[Case], str], body: Callable[[Case], dict[str, Any]] | None = None) -> Act:
    """A request with the case's key."""

    async def act(talktime: World, case: Case) -> str:
        headers = {"Idempotency-Key": case.key}
        response = await talktime.client.request(method, path(case), json=body(case) if body else None, headers=headers)
        seen = str(response.status_code)
        if response.status_code >= 400:
            seen += f" {response.json()['type'].rpartition('/')[2]}"
        elif "idempotency-replayed" in response.headers:
            seen += " replayed"
        return f"!{seen}" if response.status_code in {409, 503, 504} else seen

    return act


async def nothing(talktime: World, case: Case) -> None:
    del talktime, case


async def granted(talktime: World, case: Case) -> None:
    case.grant = await talktime.grant(case.user, "1000")


async def live(talktime: World, case: Case) -> None:
    await granted(talktime, case)
    case.session = await talktime.start(case.user, time_limit_s=600)
    talktime.provider.say(case.session["provider_session_id"], *SPOKEN)


async def heard(talktime: World, case: Case) -> None:
    await live(talktime, case)
    await talktime.heartbeats_until(case.session, 30)


async def over(talktime: World, case: Case) -> None:
    """Its final timeline is due."""
    await heard(talktime, case)
    for wait in (1, 80):
        talktime.clock.advance(wait)
        await reconciled(talktime, case)
    assert (await talktime.session(case.session))["state"] == "over"
    talktime.clock.advance(120)


async def settled(talktime: World, case: Case) -> None:
    await over(talktime, case)
    await reconciled(talktime, case)
    assert (await talktime.session(case.session))["state"] == "settled"


async def in_review(talktime: World, case: Case) -> None:
    await heard(talktime, case)
    await reconciled(talktime, case)
    talktime.provider.say(case.session["provider_session_id"], ("agent", 8.9))
    assert (await talktime.settle(case.session))["state"] == "review"


async def unconfirmed(talktime: World, case: Case) -> None:
    await granted(talktime, case)
    case.session = await talktime.start_unconfirmed(case.user, time_limit_s=600)
    case.session["provider_session_id"] = f"gab_{uuid4().hex}"


def adopted(case: Case) -> dict[str, Any]:
    return {"user_id": case.user, "persona": "tutor", "scenario": "talk", "time_limit_s": 600, "start": False}


async def never_started_by_us(talktime: World, case: Case) -> None:
    await granted(talktime, case)
    case.session = await talktime.start(case.user, time_limit_s=600, start=False)
    case.session["provider_session_id"] = f"gab_{uuid4().hex}"


async def never_heard(talktime: World, case: Case) -> None:
    await unconfirmed(talktime, case)
    talktime.clock.advance(3_600)


async def long_in_review(talktime: World, case: Case) -> None:
    await in_review(talktime, case)
    talktime.clock.advance(2 * 86_400)


async def due(talktime: World, case: Case) -> None:
    """A grant that runs out and one that comes into effect."""
    await granted(talktime, case)
    soon = moment(talktime, 60)
    await talktime.grant(case.user, "7", expires_at=soon)
    await talktime.grant(case.user, "11", effective_at=soon)
    await post_due(talktime.service.database, talktime.service.ledger, talktime.clock.now())
    talktime.clock.advance(61)


def moment(talktime: World, seconds: float) -> str:
    return format_instant(Instant(talktime.clock.now() + round(seconds * US_PER_S)))


async def posted_due(talktime: World, case: Case) -> str:
    del case
    try:
        await post_due(talktime.service.database, talktime.service.ledger, talktime.clock.now())
    except DatabaseUnavailable:
        return "!unavailable"
    return "posted"


async def reconciled(talktime: World, case: Case) -> str:
    response = await talktime.client.post(f"/v1/sessions/{case.session['id']}/reconcile")
    if response.status_code == 200:
        return f"200 {response.json()['state']}"
    return f"!{response.status_code} {response.json()['type'].rpartition('/')[2]}"


async def beaten(talktime: World, case: Case) -> str:
    response = await talktime.heartbeat(case.session)
    return "204" if response.status_code == 204 else f"!{response.status_code}"


def starting(status: int = 200) -> Act:
    """A start; if it is to be asked for again, time passes, and a session that the provider runs sends a heartbeat."""
    body = {"persona": "tutor", "scenario": "talk", "time_limit_s": 600}
    ask = call("POST", lambda _: "/v1/sessions", lambda case: {"user_id": case.user, **body})

    async def act(talktime: World, case: Case) -> str:
        provider = talktime.provider
        provider.start_status = status
        known = len(provider.starts)
        seen = await ask(talktime, case)
        provider.start_status = 200
        if len(provider.starts) > known:
            case.session = {"webhook": provider.starts[-1]["webhook"].removeprefix(PUBLIC_URL)}
            if status == 200:
                case.session["provider_session_id"] = provider.started[-1]
        if seen.startswith("!"):
            if "provider_session_id" in case.session:
                beat = {"session_id": case.session["provider_session_id"]}
                response = await talktime.client.post(case.session["webhook"], json=beat)
                assert response.status_code == 204, response.text
            talktime.clock.advance(120)
            await talktime.reconcile()
        return seen

    return act


def on_user(rest: str) -> Callable[[Case], str]:
    return lambda case: f"/v1/users/{case.user}{rest}"


def on_session(rest: str) -> Callable[[Case], str]:
    return lambda case: f"/v1/sessions/{case.session['id']}{rest}"


def review(action: str) -> Act:
    return call("POST", on_session("/review"), lambda _: {**WHY, "action": action})


def adjustment(amount: str) -> Act:
    return call("POST", on_user("/adjustments"), lambda _: {**WHY, "amount": amount})


def rerated(card: str) -> Act:
    return call("POST", on_session("/rerate"), lambda _: {**WHY, "rate_card": card})


EXCERPT = {"grant", "start", "reconcile: settle", "refund"}
OPERATIONS = (
    Operation("grant", nothing, call("POST", on_user("/grants"), lambda _: {"amount": "5"})),
    Operation("adjust up", granted, adjustment("5")),
    Operation("adjust down", granted, adjustment("-5")),
    Operation("void", granted, call("POST", lambda case: f"/v1/grants/{case.grant['id']}/void", lambda _: WHY)),
    Operation("credit limit", granted, call("PATCH", on_user(""), lambda _: {"credit_limit": "50"})),
    Operation("start", granted, starting(), exact=False, commits=2, never_asked=(1, Side.AFTER)),
    Operation("start refused", granted, starting(402), exact=False, commits=2),
    Operation("start unknown", granted, starting(500), exact=False, commits=4),
    Operation("adopt", granted, call("POST", lambda _: "/v1/sessions", adopted)),
    Operation("first heartbeat", unconfirmed, beaten),
    Operation("adopted: heartbeat", never_started_by_us, beaten),
    Operation("heartbeat", heard, beaten),
    Operation("heartbeat, twice", heard, beaten, times=2),
    Operation("end", heard, call("POST", on_session("/end"))),
    Operation("reconcile: interim", heard, reconciled, commits=3),
    Operation("reconcile: settle", over, reconciled, commits=3),
    Operation("reconcile: failed", never_heard, reconciled, commits=3),
    Operation("reconcile: release", long_in_review, reconciled, commits=3),
    Operation("review: settle", in_review, review("settle"), commits=3),
    Operation("review: write off", in_review, review("write_off")),
    Operation("refund", settled, call("POST", on_session("/refund"), lambda _: {**WHY, "amount": "4"})),
    Operation("re-rate down", settled, rerated("cheap")),
    Operation("re-rate up", settled, rerated("dear")),
    Operation("post due", due, posted_due),
)
