"""The same request many times at once under one key: how many effects it has, and how many different answers it gets.

Two services share the database and the requests, so that a repetition meets the first one in its own process as well as
in another one.
"""

import asyncio
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tests.support.postgres import ask
from tests.support.world import World

IN_FLIGHT: Final = "idempotency-in-flight"
ASK_AGAIN_AFTER_S: Final = 0.2
MAX_ASKED: Final = 200

EFFECTS: Final = {
    "grant": "select reference, count(*) from grants join entries using (account_id, reference) group by 1",
    "start": "select persona, count(*) from sessions join holds on holds.session_id = sessions.id group by 1",
    "adjust up": "select reason, count(*) from entries where kind = 'adjustment' and amount > 0 group by 1",
    "adjust down": "select reason, count(*) from entries where kind = 'adjustment' and amount < 0 group by 1",
    "refund": "select reason, count(*) from entries where kind = 'refund' group by 1",
    "rerate": "select reason, count(*) from entries where kind = 'rerate' group by 1",
    "void": "select reason, count(*) from entries where kind = 'void' group by 1",
    "user": "select reason, count(*) from limit_changes group by 1",
    "settings": "select reason, count(*) from audit_log where action = 'settings.change' group by 1",
    "rate card": "select name, count(*) from rate_cards group by 1",
}
"""By kind of request: the keys whose effect is stored, and how often."""

SHARES: Final = {
    "grant": 40,
    "start": 30,
    "adjust up": 20,
    "adjust down": 20,
    "refund": 20,
    "rerate": 10,
    "void": 20,
    "user": 20,
    "settings": 5,
    "rate card": 15,
}
"""How many of 200 keys are of which kind."""


@dataclass(frozen=True)
class Asked:
    """A request that is sent again and again under ``key``."""

    key: str
    kind: str
    method: str
    path: str
    body: dict[str, Any]


@dataclass
class Told:
    """What came of one request: its answers without those that say that the first one is under way."""

    effects: int = 0
    answers: Counter[tuple[int, bytes]] = field(default_factory=Counter)
    in_flight: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0


async def prepare(talktime: World, keys: int) -> list[Asked]:
    """Users with grants and settled sessions, and ``keys`` requests of all kinds that act on them."""
    card = {"name": "half", "rates": {"user": "30", "agent": "30", "silence": "30"}}
    assert (await talktime.client.post("/v1/rate-cards", json=card)).status_code == 201
    users = [talktime.user() for _ in range(max(1, keys // 10))]
    for user in users:
        await talktime.grant(user, "10000")
    shares = {kind: max(1, share * keys // 200) for kind, share in SHARES.items()}
    turn = itertools.cycle(users)
    asked = [
        await _asked(talktime, kind, f"{kind}-{n}", next(turn)) for kind, share in shares.items() for n in range(share)
    ]
    for _ in range(10):
        talktime.clock.advance(60)
        while await talktime.reconcile():
            pass
    for request in asked:
        if request.kind in {"refund", "rerate"}:
            settled = await talktime.get(request.path.rpartition("/")[0])
            assert (settled["state"], settled["charged"]) == ("settled", "10")
    return asked


async def _asked(talktime: World, kind: str, key: str, user: str) -> Asked:
    match kind:
        case "grant":
            return Asked(key, kind, "POST", f"/v1/users/{user}/grants", {"amount": "1", "reference": key})
        case "start":
            body = {"user_id": user, "persona": key, "scenario": "talk", "time_limit_s": 30}
            return Asked(key, kind, "POST", "/v1/sessions", body)
        case "adjust up" | "adjust down":
            amount = "2" if kind == "adjust up" else "-2"
            return Asked(key, kind, "POST", f"/v1/users/{user}/adjustments", {"amount": amount, "reason": key})
        case "refund" | "rerate":
            session = await talktime.start(user, time_limit_s=30)
            talktime.provider.say(session["provider_session_id"], ("agent", 10))
            body = {"amount": "1", "reason": key} if kind == "refund" else {"rate_card": "half", "reason": key}
            return Asked(key, kind, "POST", f"/v1/sessions/{session['id']}/{kind}", body)
        case "void":
            grant = await talktime.grant(user, "5", priority=90)
            return Asked(key, kind, "POST", f"/v1/grants/{grant['id']}/void", {"reason": key})
        case "user":
            limit = str(1 + int(key.rpartition("-")[2]))
            return Asked(key, kind, "PATCH", f"/v1/users/{user}", {"credit_limit": limit, "reason": key})
        case "settings":
            return Asked(key, kind, "PATCH", "/v1/settings", {"expiring_before_s": 3600, "reason": key})
        case _:
            rates = {"user": "60", "agent": "60", "silence": "60"}
            return Asked(key, kind, "POST", "/v1/rate-cards", {"name": key, "rates": rates})


async def repeat(worlds: Sequence[World], asked: Sequence[Asked], times: int, keys_at_once: int) -> dict[str, Told]:
    """Send each request ``times`` at once, those of ``keys_at_once`` keys together; what came of it, by key.

    Whoever is told that the first request is under way asks again until there is an answer.
    """
    told: dict[str, Told] = {request.key: Told() for request in asked}
    places = asyncio.Semaphore(keys_at_once)

    async def all_of(request: Asked) -> None:
        async with places:
            await asyncio.gather(*(_one(worlds[n % len(worlds)], request, told[request.key]) for n in range(times)))

    await asyncio.gather(*(all_of(request) for request in asked))
    for kind, statement in EFFECTS.items():
        found = dict(ask(worlds[0].service.database.conninfo, statement))
        for request in asked:
            if request.kind == kind:
                told[request.key].effects = int(found.get(request.key, 0))
    return told


async def _one(world: World, request: Asked, told: Told) -> None:
    begun = time.perf_counter()
    for _ in range(MAX_ASKED):
        answer = await world.client.request(
            request.method, request.path, json=request.body, headers={"Idempotency-Key": request.key}
        )
        code = _code(answer)
        if code != IN_FLIGHT:
            break
        told.in_flight += 1
        await asyncio.sleep(ASK_AGAIN_AFTER_S)
    told.slowest_s = max(told.slowest_s, time.perf_counter() - begun)
    if code is None:
        told.answers[answer.status_code, answer.content] += 1
    else:
        told.refused[f"{answer.status_code} {code}"] += 1


def _code(answer: httpx.Response) -> str | None:
    """The code of a problem; null for any other answer."""
    return None if answer.status_code < 400 else str(answer.json()["type"]).rpartition("/")[2]


def table(asked: Sequence[Asked], told: dict[str, Told], times: int, seconds: float) -> str:
    """The figures for people, by kind of request."""
    kinds: dict[str, list[Told]] = defaultdict(list)
    for request in asked:
        kinds[request.kind].append(told[request.key])
    kinds["all"] = list(told.values())
    lines = [f"{'request':<12}{'keys':>6}{'sent':>8}{'effects':>9}{'answers':>9}{'409 in flight':>15}{'slowest':>9}"]
    for kind, found in kinds.items():
        effects, answers = sum(one.effects for one in found), sum(len(one.answers) for one in found)
        in_flight, slowest = sum(one.in_flight for one in found), max(one.slowest_s for one in found)
        lines.append(
            f"{kind:<12}{len(found):>6}{len(found) * times:>8}{effects:>9}{answers:>9}{in_flight:>15}{slowest:>7.1f} s"
        )
    refused = sum((one.refused for one in told.values()), Counter[str]())
    lines.append(f"refused: {dict(refused) or 'none'}; {len(told) * times / seconds:.0f} requests a second")
    return "\n".join(lines)


async def measure(worlds: Sequence[World], keys: int, times: int, keys_at_once: int) -> str:
    """Do all of it and check it; the figures."""
    asked = await prepare(worlds[0], keys)
    begun = time.perf_counter()
    told = await repeat(worlds, asked, times, keys_at_once)
    figures = table(asked, told, times, time.perf_counter() - begun)
    wrong = {
        key: (one.effects, [(status, count) for (status, _), count in one.answers.items()], dict(one.refused))
        for key, one in told.items()
        if (one.effects, len(one.answers), one.answers.total()) != (1, 1, times)
    }
    assert not wrong, f"{figures}\n{wrong}"
    starts = Counter(start["persona"] for start in worlds[0].provider.starts)
    again = {key: count for key, count in starts.items() if key in told and count != 1}
    assert not again, f"the provider was asked to start again: {again}"
    return figures
