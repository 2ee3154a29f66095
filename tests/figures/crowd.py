"""Many clients at once on few accounts, doing whatever can be done to a ledger, while an observer looks on.

The service runs in process on a real database, against a real HTTP server as the provider; the clock stands still and
is moved on as operations are answered. A second service on the same database does what is done in the background: it
reconciles sessions and posts what is due.
"""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from starlette.responses import Response
from structlog.testing import capture_logs
from structlog.typing import EventDict

from app.core.units import Instant, format_instant
from app.db.database import DatabaseUnavailable
from tests.figures.observer import Observer, Seen
from tests.support.invariants import findings
from tests.support.postgres import ask
from tests.support.scripted_provider import ProviderHost, ScriptedProvider
from tests.support.world import World, world

OPERATIONS_PER_STEP: Final = 16
STEP_S: Final = 8
"""The clock moves on by so much after each :data:`OPERATIONS_PER_STEP` answers."""

REFUSED, LOST = "refused", "lost"
"""Personas whose start the provider refuses, or answers with an error that leaves the outcome open."""

CARDS: Final = {"cheap": "6", "middling": "9", "dear": "12"}
KEPT: Final = 200
"""Each client chooses among the latest so many grants and sessions of an account."""

TWICE: Final = 0.05
"""So many requests are sent twice at once, under one key."""

EXPECTED: Final = {
    "grant": {"201"},
    "start": {"201", "insufficient-credits"},
    "start refused": {"provider-refused", "insufficient-credits"},
    "start lost": {"provider-unconfirmed", "insufficient-credits"},
    "adjust up": {"201"},
    "adjust down": {"201", "below-floor"},
    "adjust below floor": {"201"},
    "refund": {"201", "refund-exceeds-charge", "session-not-settled"},
    "rerate": {"200", "already-rated", "session-not-settled"},
    "void": {"200", "grant-spent", "grant-closed"},
    "credit limit": {"200"},
}
"""What each kind of request may be answered: 409 for a key in flight aside, which is asked again."""

WEIGHTS: Final = {
    "grant": 18,
    "start": 16,
    "start refused": 1,
    "start lost": 1,
    "adjust up": 5,
    "adjust down": 20,
    "adjust below floor": 1,
    "refund": 16,
    "rerate": 6,
    "void": 9,
    "credit limit": 6,
}

EFFECTS: Final = {
    "grants": ("grant", "select count(*) from audit_log where action = 'grant.create'"),
    "adjustments": ("adjust", "select count(*) from entries where kind = 'adjustment'"),
    "adjustments audited": ("adjust", "select count(*) from audit_log where action = 'account.adjust'"),
    "voids": ("void", "select count(*) from events where type = 'grant.voided'"),
    "voids audited": ("void", "select count(*) from audit_log where action = 'grant.void'"),
    "refunds audited": ("refund", "select count(*) from audit_log where action = 'session.refund'"),
}
"""Rows that must be as many as requests of a kind (its name begins so) that had an effect."""

TWO: Final = """select {what}, count(*) from {table} where {only} group by 1 having count(*) > 1"""
ONCE: Final = {
    "a session started twice": ("data->>'session_id'", "events", "type = 'session.started'"),
    "a session settled twice": ("data->>'session_id'", "events", "type = 'session.settled'"),
    "a grant created twice": ("data->>'grant_id'", "events", "type = 'grant.created'"),
    "a grant expired twice": ("data->>'grant_id'", "events", "type = 'grant.expired'"),
    "a grant announced twice": ("data->>'grant_id'", "events", "type = 'grant.expiring'"),
    "a grant voided twice": ("data->>'grant_id'", "events", "type = 'grant.voided'"),
    "a grant audited twice": ("target", "audit_log", "action in ('grant.create')"),
    "a void audited twice": ("target", "audit_log", "action in ('grant.void')"),
    "a start audited twice": ("target", "audit_log", "action in ('session.start')"),
    "a session charged twice": ("session_id", "entries", "kind = 'charge'"),
}
LEFT: Final = "select count(*) from {table} where {which}"


@dataclass
class CrowdProvider(ScriptedProvider):
    """Refuses some personas, loses the start of others."""

    def answer_start(self, body: dict[str, Any]) -> Response:
        match body["persona"]:
            case "refused":
                self.starts.append(body)
                return Response('{"error":"invalid_input"}', 400, media_type="application/json")
            case "lost":
                self.starts.append(body)
                return Response('{"error":"scripted"}', 500, media_type="application/json")
            case _:
                return super().answer_start(body)


@dataclass
class Done:
    """What was done: requests by kind and outcome, and the rest."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    repeated: int = 0
    asked_again: int = 0
    heartbeats: int = 0
    slowest_s: float = 0.0
    logged: list[EventDict] = field(default_factory=list)
    posted: Mapping[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    seconds_to_settle: float = 0.0
    seen: Seen = field(default_factory=Seen)

    @property
    def operations(self) -> int:
        return self.outcomes.total()

    def effective(self, kind: str) -> int:
        """Requests of kinds that begin with ``kind`` which were done."""
        return sum(
            count for (name, outcome), count in self.outcomes.items() if name.startswith(kind) and outcome[0] == "2"
        )


class Crowd:
    """Plays ``operations`` on ``users`` through ``talktime``, while ``worker`` does what is done in the background.

    One account in five may be taken below its floor, a single one in the last fifth of the time; all others never are.
    """

    def __init__(self, talktime: World, worker: World, seed: int, users: int, operations: int) -> None:
        self._talktime = talktime
        self._worker = worker
        self._seed = seed
        self._users = [talktime.user() for _ in range(users)]
        self._debtors = set(self._users[: users // 5])
        self._strict = operations * 4 // 5 if users == 1 else operations
        self._operations = operations
        self._taken = 0
        self._answered = 0
        self._keys = 0
        self._grants: dict[str, list[str]] = defaultdict(list)
        self._sessions: dict[str, list[str]] = defaultdict(list)
        self._playing = True
        self.done = Done()

    async def play(self, clients: int) -> Done:
        """All of it; the observer's last look and the checks of what is left included."""
        talktime, done = self._talktime, self.done
        url = talktime.service.database.conninfo
        for name, rate in CARDS.items():
            card = {"name": name, "rates": dict.fromkeys(("user", "agent", "silence"), rate)}
            assert (await talktime.client.post("/v1/rate-cards", json=card)).status_code == 201
        for user in self._users:
            await self._say("grant", "POST", f"/v1/users/{user}/grants", {"amount": "100"}, key=f"first-{user}")
        observer = Observer(url)
        observer.start()
        begun = time.monotonic()
        with capture_logs() as logged:
            upkeep = [
                asyncio.create_task(self._again(work))
                for work in (self._worker.reconcile, self._worker.service.post_due)
            ]
            await asyncio.gather(*(self._client(n) for n in range(clients)))
            done.seconds = time.monotonic() - begun
            self._playing = False
            await asyncio.gather(*upkeep)
            await self._settle_all()
        done.logged = [line for line in logged if line["log_level"] in {"warning", "error", "critical"}]
        done.seen = await asyncio.to_thread(observer.finish)
        await self._judge(url)
        done.seconds_to_settle = time.monotonic() - begun - done.seconds
        return done

    # Clients

    async def _client(self, n: int) -> None:
        chance = random.Random(f"{self._seed}-{n}")
        while self._taken < self._operations:
            self._taken += 1
            user = chance.choice(self._users)
            weights = dict(WEIGHTS)
            if user not in self._debtors and self._taken <= self._strict:
                del weights["adjust below floor"]
            kind = chance.choices(list(weights), list(weights.values()))[0]
            await self._operation(kind)(kind, user, chance)

    def _operation(self, kind: str) -> Callable[[str, str, random.Random], Awaitable[None]]:
        match kind.split(maxsplit=1)[0]:
            case "grant":
                return self._grant
            case "start":
                return self._start
            case "adjust":
                return self._adjust
            case "void":
                return self._void
            case "credit":
                return self._limit
            case _:
                return self._correct

    async def _grant(self, kind: str, user: str, chance: random.Random) -> None:
        now = self._talktime.clock.now()
        terms: dict[str, Any] = {"amount": _amount(chance, 5, 40), "kind": chance.choice(["paid", "promotional"])}
        terms["priority"] = chance.choice([10, 50, 50, 90])
        begins = 0
        if chance.random() < 0.25:
            begins = chance.randint(20, 150)
            terms["effective_at"] = _at(now, begins)
        if chance.random() < 0.9:
            terms["expires_at"] = _at(now, begins + chance.randint(150, 500))
        granted = await self._say(kind, "POST", f"/v1/users/{user}/grants", terms, chance)
        if granted:
            _keep(self._grants[user], granted["id"])

    async def _start(self, kind: str, user: str, chance: random.Random) -> None:
        persona = {"start refused": REFUSED, "start lost": LOST}.get(kind, "tutor")
        limit = chance.randint(30, 60)
        body = {"user_id": user, "persona": persona, "scenario": "talk", "time_limit_s": limit}
        body["rate_card"] = chance.choice(["cheap", "dear"])
        answer = await self._say(kind, "POST", "/v1/sessions", body, chance)
        if not answer:
            return
        session = answer["session"]
        _keep(self._sessions[user], session["id"])
        spoken, silent = chance.randint(1, limit), chance.randint(0, 20)
        self._talktime.provider.say(
            session["provider_session_id"], ("agent", spoken), ("silence", silent), ("user", chance.randint(0, 20))
        )
        if chance.random() < 0.3:
            self.done.heartbeats += 1
            heard = await self._talktime.heartbeat(session)
            if heard.status_code != 204:
                self.done.unexpected.append(f"heartbeat: {heard.status_code} {heard.text}")

    async def _adjust(self, kind: str, user: str, chance: random.Random) -> None:
        body: dict[str, Any] = {"amount": _amount(chance, 1, 20 if kind == "adjust up" else 40), "reason": kind}
        if kind != "adjust up":
            body["amount"] = f"-{body['amount']}"
        if kind == "adjust below floor":
            body["allow_below_floor"] = True
        await self._say(kind, "POST", f"/v1/users/{user}/adjustments", body, chance)

    async def _void(self, kind: str, user: str, chance: random.Random) -> None:
        if self._grants[user]:
            grant = self._grants[user].pop(chance.randrange(len(self._grants[user])))
            await self._say(kind, "POST", f"/v1/grants/{grant}/void", {"reason": kind}, chance)
        else:
            await self._grant("grant", user, chance)

    async def _limit(self, kind: str, user: str, chance: random.Random) -> None:
        """Only ever raised where an account must not be below its floor."""
        free = user in self._debtors or self._taken > self._strict
        limit = chance.choice([0, 5, 20]) if free else self._answered // 500 + 1
        await self._say(kind, "PATCH", f"/v1/users/{user}", {"credit_limit": str(limit)}, chance)

    async def _correct(self, kind: str, user: str, chance: random.Random) -> None:
        if not self._sessions[user]:
            await self._start("start", user, chance)
            return
        session = self._sessions[user][min(chance.randrange(KEPT), chance.randrange(len(self._sessions[user])))]
        body: dict[str, Any] = {"reason": kind}
        if kind == "rerate":
            body["rate_card"] = chance.choice(list(CARDS))
        elif chance.random() < 0.8:
            body["amount"] = _amount(chance, 0, 3)
        await self._say(kind, "POST", f"/v1/sessions/{session}/{kind}", body, chance)

    async def _say(
        self,
        kind: str,
        method: str,
        path: str,
        body: dict[str, Any],
        chance: random.Random | None = None,
        *,
        key: str | None = None,
    ) -> dict[str, Any] | None:
        """Send a request, some of them twice at once; the document that came of it, null for a refusal."""
        self._keys += 1
        headers = {"Idempotency-Key": key or f"{self._seed}-{self._keys}"}
        times = 2 if chance is not None and chance.random() < TWICE else 1
        begun = time.monotonic()
        answers = await asyncio.gather(*(self._insist(method, path, body, headers) for _ in range(times)))
        self.done.slowest_s = max(self.done.slowest_s, time.monotonic() - begun)
        self.done.repeated += times - 1
        # Refusals of the moment are not stored: the second one may have found another moment.
        first = min(answers, key=lambda answer: answer.status_code)
        outcome = _outcome(first)
        self.done.outcomes[kind, outcome] += 1
        if any(_outcome(answer) not in EXPECTED[kind] for answer in answers):
            self.done.unexpected.append(f"{kind}: {[(answer.status_code, answer.text[:300]) for answer in answers]}")
        good = {answer.content for answer in answers if answer.status_code < 300}
        if len(good) > 1:
            self.done.unexpected.append(f"{kind}: one key, two answers {good}")
        self._answered += 1
        if self._answered % OPERATIONS_PER_STEP == 0:
            self._talktime.clock.advance(STEP_S)
        return dict(first.json()) if first.status_code < 300 else None

    async def _insist(self, method: str, path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
        while True:
            answer = await self._talktime.client.request(method, path, json=body, headers=headers)
            if _outcome(answer) != "idempotency-in-flight":
                return answer
            self.done.asked_again += 1
            await asyncio.sleep(0.05)

    # Upkeep

    async def _again(self, work: Callable[[], Awaitable[object]]) -> None:
        while self._playing:
            try:
                await work()
            except DatabaseUnavailable as error:
                self.done.unexpected.append(f"upkeep: {error}")
            await asyncio.sleep(0.05)

    async def _settle_all(self) -> None:
        """Let time pass until every session is settled or failed; who looks at reviews decides them."""
        talktime = self._talktime
        unsettled = "select count(*) from sessions where state not in ('settled', 'failed', 'review')"
        while ask(talktime.service.database.conninfo, unsettled) != [(0,)]:
            talktime.clock.advance(60)
            while await self._worker.reconcile():
                pass
            await talktime.service.post_due()
        reviews = await talktime.get("/v1/sessions?state=review&limit=500")
        for session in reviews["data"]:
            path, body = f"/v1/sessions/{session['id']}/review", {"action": "settle", "reason": "seen"}
            assert (await talktime.client.post(path, json=body)).status_code == 200
        talktime.clock.advance(60)
        await talktime.service.post_due()

    # What is left

    async def _judge(self, url: str) -> None:
        done = self.done
        faults = done.faults
        faults += done.unexpected[:20] + [str(line) for line in done.logged[:20]] + done.seen.faults[:20]
        deadlocks = ask(url, "select deadlocks from pg_stat_database where datname = current_database()")
        if deadlocks != [(0,)]:
            faults.append(f"{deadlocks} deadlocks")
        for table, which in (
            ("holds", "state = 'active' or amount <> 0"),
            ("accounts", "held <> 0"),
            ("idempotency", "state = 'pending' and status is null and session_id is null"),
        ):
            if ask(url, LEFT.format(table=table, which=which)) != [(0,)]:
                faults.append(f"{table} where {which}: there are some left")
        for fault, (what, table, only) in ONCE.items():
            if found := ask(url, TWO.format(what=what, table=table, only=only)):
                faults.append(f"{fault}: {found[:5]}")
        for what, (kind, statement) in EFFECTS.items():
            stored, answered = ask(url, statement)[0][0], done.effective(kind)
            if stored != answered:
                faults.append(f"{what}: {stored} stored, {answered} answered")
        faults += [f"verify: {finding}" for finding in (await findings(url))[:20]]
        counted = ask(
            url, "select kind, count(*) from entries group by 1 union all select 'entries', count(*) from entries"
        )
        done.posted = {str(kind): int(count) for kind, count in sorted(counted)}
        done.posted = {
            **done.posted,
            "settled": ask(url, LEFT.format(table="sessions", which="state = 'settled'"))[0][0],
        }


def figures(done: Done, users: int, clients: int, seed: int) -> str:
    """What was done and seen, for people."""
    seen, rate = done.seen, done.operations / done.seconds
    accounts = f"{users} account{'s' if users > 1 else ''}"
    lines = [
        f"{clients} clients on {accounts}: {done.operations:,} operations in {done.seconds:.0f} s, {rate:.0f} a second"
    ]
    for kind in EXPECTED:
        found = {outcome: count for (name, outcome), count in sorted(done.outcomes.items()) if name == kind}
        lines.append(f"  {kind:<20}{sum(found.values()):>6}  " + ", ".join(f"{n} {o}" for o, n in found.items()))
    asked = f"{done.repeated} sent twice at once, {done.asked_again} asked again after 409 in flight"
    strict = f"{seen.strict_below_floor} of {seen.strict:,} states of accounts that must not be"
    others = f"{seen.below_floor} of {seen.states - seen.strict:,} others"
    lines += [
        "  besides: " + ", ".join(f"{count:,} {name}" for name, count in done.posted.items()),
        f"  {asked}; {done.heartbeats} heartbeats; the slowest answer took {done.slowest_s:.1f} s; seed {seed}",
        f"  observer: {seen.snapshots} snapshots of up to {seen.most_postings:,} postings",
        f"  below their floor: {strict}, {others}",
        f"  after {done.seconds_to_settle:.0f} s more everything was settled and checked; faults: {len(done.faults)}",
        *(f"    {fault[:500]}" for fault in done.faults),
    ]
    return "\n".join(lines)


async def measure(
    url: str, providers: ProviderHost, *, seed: int, users: int, operations: int, clients: int = 64
) -> tuple[str, Done]:
    """Play it on an empty database; the figures, and what was done."""
    provider = CrowdProvider(providers.script().url, f"key-{seed}-{users}")
    providers.scripts[provider.api_key] = provider
    settings: dict[str, Any] = {
        "settle_delay_s": "0",
        "no_heartbeat_grace_s": "0",
        "unconfirmed_ttl_s": "120",
        "reconcile_interval_s": "120",
    }
    async with (
        world(url, provider, **settings) as talktime,
        world(url, provider, clock=talktime.clock, **settings) as worker,
    ):
        done = await Crowd(talktime, worker, seed, users, operations).play(clients)
    return figures(done, users, clients, seed), done


def _outcome(answer: httpx.Response) -> str:
    """The status, or a problem's code."""
    if answer.status_code < 400:
        return str(answer.status_code)
    return str(answer.json()["type"]).rpartition("/")[2]


def _amount(chance: random.Random, least: int, most: int) -> str:
    return f"{chance.randint(least, most)}.{chance.randint(1, 999_999):06}"


def _at(now: Instant, seconds: int) -> str:
    return format_instant(Instant(now + seconds * 1_000_000))


def _keep(kept: list[str], thing: str) -> None:
    kept.append(thing)
    del kept[:-KEPT]
