"""A world from a plan: customers, operators, the network, the provider and our processes, on one virtual clock.

The world never looks into the application. It talks to it as clients do, and notes what was acknowledged; what came of
it the auditor judges, after every step and at the end.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import Any, Final
from urllib.parse import quote

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from app.core.budget import PERMIT_LASTS, spacing
from app.core.units import US_PER_S, Instant, Micros, format_instant, parse_instant
from app.db.database import DatabaseUnavailable
from app.ledger.findings import Finding
from app.ledger.verify import verify
from app.settings import Settings, load_settings
from app.settlement.replay import Replayed, replay_all
from tests.simulation.auditor import NEVER, Acknowledged, Auditor, Credential, Violation
from tests.simulation.dice import Dice, rng
from tests.simulation.endpoints import GONE, WELL, Endpoints, document_of, listens
from tests.simulation.loop import VirtualLoop, WorldClock
from tests.simulation.plan import CARDS, USERS, Event, Plan, conversation_of
from tests.simulation.processes import ADMIN_KEY, PUBLIC_URL, Answer, Process
from tests.simulation.provider import BASE, SAFE, WRONG_CLOCK, Beat, Call, Provider
from tests.simulation.statements import Traps
from tests.simulation.top_ups import PATH as STRIPE
from tests.simulation.top_ups import PAYER, TopUps, ambush_of, deals_of, pays
from tests.simulation.top_ups import settings as top_up_settings
from tests.simulation.watchers import LOOKS_S, Watcher, watches

ORIGIN: Final = parse_instant("2025-03-01T12:00:00Z")
"""So long ago that the database's own clock calls all of a world old: it drops no heartbeats of the last week."""
SKEW: Final = 400_000
"""By how many µs a process's clock is at most ahead of the world's, or behind; a second off it would not be ready."""

STALL_S: Final = 130.0
"""A process stands still for so long: past the lease of a session."""

CALM_AFTER_S: Final = 900
"""Then faults stop until the sessions have ended."""

HEALED_WITHIN_S: Final = 6 * 3600
"""After faults stopped, everything must have come to its end within so long."""

NAP: Final = 60 * US_PER_S
"""Alarms look at least so often whether anything is due, in µs; the real ones do every second."""

REPORT_EVERY: Final = 60 * US_PER_S
"""How often a process is taken to say that it receives heartbeats, in µs. The real one does every 5 s."""

UNREPORTED: Final = 110 * US_PER_S
"""It says so after so long, in µs, and may be a nap late: before thrice the interval nobody minds."""

OUTAGE_NAP_S: Final = 10
"""While the database is down, alarms are simulated this far apart only."""

ASKED_IF_READY: Final = 0.5
"""How often a process is asked whether it is ready while the database is away."""

IDLE_TRIES: Final = 100
"""So often it is looked for a process that has nothing to do."""

BY_KEY: Final = frozenset({"grant", "start"})
"""What customers do with an API key, if they have one."""

WITH_KEY: Final = 0.6
"""How often they use it for that."""

VISIT_EVERY_S: Final = 60
"""So often a user looks at balances."""

CROWD: Final = 5
"""So many heartbeats of one session come at once."""

CROWD_TRIES: Final = 60
"""So often it is looked for a session that lives and was heard of."""

QUEUE_HOLDS: Final = 2
"""So many heartbeats may wait to be written in a world; in a real process thousands may."""

POISON: Final = "poison"
"""What the database of a world refuses in a heartbeat's further fields."""

MISUSED: Final = 0.4
"""How often a key is used again for another request instead of the same."""

REVIEW_SLACK: Final = 400 * US_PER_S
"""So much later than due, in µs, a hold of a long review may be released: processes die and stand still."""

SPENT: Final = 0.5
"""How often somebody tries to void a grant of which nothing remains, if there is one."""

LEDGER_KEY: Final = "simulated-ledger-key"
FURTHER: Final = re.compile(rb'"extra":\{[^{}]*\}')
GIVES_UP_S: Final = 2.0
_UNDECIDED: Final = frozenset({"starting", "unconfirmed", "live", "over"})
_DEFINITE: Final = frozenset({502, 504})
"""Answers to a start that look like a failure of ours and are answers."""


@cache
def world_settings() -> Settings:
    """Those of all processes; reading them takes longer than a request."""
    return load_settings(
        database_url="postgresql://of.the/world",
        gabber_base_url=BASE,
        gabber_capabilities="end",
        gabber_api_key="simulated-provider-key",
        public_url=PUBLIC_URL,
        secret="simulated-secret",
        ledger_keys=LEDGER_KEY,
        bootstrap_admin_key=ADMIN_KEY,
        provider_timeout_s="10",
        max_session_s="600",
        min_session_s="10",
        unconfirmed_ttl_s="180",
        settle_delay_s="60",
        reconcile_interval_s="60",
        no_heartbeat_grace_s="200",
        evidence_wait_s="1500",
        review_after_s="900",
        rerate_window_s="3600",
        tick_retention_days="7",
        provider_max_rps=2,
        **top_up_settings(),
    )


@dataclass
class Request:
    """A write as its client means it: sent again under the same key until it is answered."""

    operation: str
    method: str
    path: str
    body: Mapping[str, Any]
    user: str | None
    key: str
    answers: list[Answer] = field(default_factory=list)
    by: Credential | None = None
    """With what it is sent, until that is refused; null: with the bootstrap key."""


class World:
    """See the module; :meth:`live` it once."""

    def __init__(self, plan: Plan, url: str, auditors: psycopg.Connection[Any]) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.plan = plan
        self.clock = WorldClock(loop, ORIGIN)
        self.dice = Dice(plan.seed, plan.rates, plan.favourite)
        self.traps = Traps(STALL_S)
        self.provider = Provider(self.clock, self.dice, self.deliver)
        self.trace: list[str] = []
        self.seen: Counter[str] = Counter()
        self._settings = world_settings()
        self._url = url
        self.provider.mishaps = lambda: sum(self.traps.fired.values()) + self._lives
        self.provider.skew = 2 * SKEW
        self.provider.closed = self._tempt
        between = spacing(self._settings.provider_max_rps)
        self.provider.most_a_second = (US_PER_S + PERMIT_LASTS + 2 * SKEW) // between + 1
        self.auditor = Auditor(auditors, self.provider, self.clock, self.traps, SKEW)
        self.requests: list[Request] = []
        self.endpoints = Endpoints(plan.seed, self.clock, self.auditor.fail, lambda: self.dice.active, self.seen)
        self.top_ups: TopUps | None = None
        if pays(plan.seed):
            self.top_ups = self.auditor.top_ups = TopUps(
                plan.seed,
                self.clock,
                self.auditor.fail,
                lambda: self.dice.active,
                self.seen,
                self._pick,
                self._send_payment,
                self.say,
                deals_of(plan.seed),
            )
            self.auditor.may_be_below.add(PAYER)
        self._paying: list[asyncio.Task[Any]] = []
        self.watchers = [
            Watcher(
                plan.seed,
                user,
                lambda what: self.seen.update([what]),
                lambda process: self._round(process, "live", process.service.live.look),
                lambda: self.dice.active,
            )
            for user in (USERS[:2] if watches(plan.seed) else ())
        ]
        self._lives = 0
        self._processes: list[Process | None] = [None] * plan.processes
        self._actors: set[asyncio.Task[Any]] = set()
        self._broken: asyncio.Future[None] = loop.create_future()
        self._busy = 0
        self._resting = False
        self._key: Credential | None = None
        """What customers use instead of the bootstrap key, though it may have ended."""
        self._deaf = 0
        """While over 0, no heartbeat reaches us."""
        self._sent = 0
        self._on_the_way = 0
        """Requests of clients: all that were sent, and those not answered yet."""
        self._away = 0
        """While over 0, the database is away."""
        self._away_since = Instant(0)

    # Time and talk

    def say(self, what: str) -> None:
        self.trace.append(f"{self.loop.now_us / US_PER_S:>12.6f}  {what}")

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.loop.create_task(work)
        self._actors.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._actors.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._break(error)

    def _break(self, error: BaseException) -> None:
        """The world ends with the first rule that is broken."""
        if not self._broken.done():
            self._broken.set_exception(error)

    def check(self, step: str) -> None:
        """What must hold after every step."""
        if not self.traps.down:
            self.auditor.check_step(step)
            if step == "reconcile":
                self.auditor.check_bounds()

    # Processes

    async def _keep_up(self, place: int) -> None:
        """A supervisor: a process that died is started again after a while."""
        while True:
            process = self._processes[place]
            if process is not None:
                await process.life.gone.wait()
                self.say(f"process {process.name} is dead")
                await process.die()
                self._processes[place] = None
            await asyncio.sleep(rng(self.plan.seed, "restart", self._lives).uniform(0.5, 5))
            await self._boot(place)

    async def _boot(self, place: int) -> None:
        self._lives += 1
        skew = rng(self.plan.seed, "skew", self._lives).randint(-SKEW, SKEW)
        name = f"{place}.{self._lives}"
        clock = self.clock.of_process(skew)
        seed = f"{self.plan.seed}/{name}"
        process = Process(
            name,
            self._settings,
            self._url,
            clock,
            seed,
            self.provider,
            self.traps,
            Micros(REPORT_EVERY),
            self.endpoints,
        )
        if await process.start():
            self.say(f"process {name} is up")
            self._processes[place] = process
        else:
            self.say(f"process {name} did not come up")

    def _pick(self, *name: object) -> Process | None:
        alive = [one for one in self._processes if one is not None and one.alive and not one.unready]
        return rng(self.plan.seed, "balancer", *name).choice(alive) if alive else None

    async def _work(self, place: int) -> None:
        """The alarms of one process: reconciliation and what time brings, soon after they are due."""
        rounds, reported_at = 0, 0
        while not self._resting:
            rounds += 1
            drawn = rng(self.plan.seed, "alarm", place, rounds)
            wait_us = min(self.auditor.next_due()) - self.clock.now()
            await asyncio.sleep(max(0, min(wait_us, NAP)) / US_PER_S + drawn.uniform(0.2, 1.5))
            process = self._processes[place]
            if self.traps.down or (process is not None and process.astray):
                await asyncio.sleep(OUTAGE_NAP_S)
                process = self._processes[place]
            if process is None:
                continue
            if self.clock.now() - reported_at >= UNREPORTED:
                reported_at = 0 if process.astray else self.clock.now()
                self._spawn(self._round(process, "receiving", process.service.receiving.report))
            session_due_at, account_due_at = self.auditor.next_due()
            # A round that takes long does not hold up the next.
            if account_due_at <= self.clock.now() + SKEW:
                self._spawn(self._round(process, "due", process.service.post_due))
            if session_due_at <= self.clock.now() + SKEW:
                self._spawn(self._round(process, "reconcile", process.service.reconciler.run_due))
            if self.top_ups is not None and self.auditor.next_period() <= self.clock.now() + SKEW:
                self._spawn(self._round(process, "recurring", process.service.post_recurring))

    async def _listen(self) -> None:
        """Somebody makes two endpoints; from then on processes deliver."""
        for path in (WELL, GONE):
            request = Request("endpoint", "POST", "/v1/webhook-endpoints", document_of(path), None, f"endpoint{path}")
            answer = await self.ask(request)
            if answer is None or answer.status != 201:
                return
            self.endpoints.secrets[path] = answer.json()["secret"]
        self.endpoints.made_at = self.clock.now()
        for place in range(self.plan.processes):
            self._spawn(self._tell(place))

    async def _top_up(self, top_ups: TopUps) -> None:
        """Somebody pays now and then, spends some of it, and gets a little more each day."""
        ambush = ambush_of(self.plan.seed)
        if ambush is not None:
            self.traps.arm(*ambush)
        self._paying = [self._spawn(top_ups.pay(deal, self._spawn)) for deal in top_ups.deals]
        drawn = rng(self.plan.seed, "top-ups")
        path = f"/v1/users/{_segment(PAYER)}"
        starts_at = Instant(self.clock.now() + drawn.choice([30, 100, 400]) * US_PER_S)
        body = {"amount": "7.5", "period": "day", "starts_at": format_instant(starts_at)}
        body |= drawn.choice([{}, {"leftover": "rollover"}])
        made = await self.ask(Request("recurring", "POST", f"{path}/recurring-grants", body, PAYER, "recurring"))
        if made is not None and made.status == 201:
            top_ups.series = made.json()
        for n in range(3):
            await asyncio.sleep(drawn.uniform(20, 150))
            body = {"amount": str(-drawn.choice([5, 20, 90])), "reason": "a test"}
            await self.ask(Request("adjust", "POST", f"{path}/adjustments", body, PAYER, f"spent{n}"))

    async def _send_payment(self, process: Process, body: bytes, headers: dict[str, str]) -> Answer | None:
        self._sent += 1
        self._on_the_way += 1
        try:
            answer = await process.call("stripe", "POST", STRIPE, body, headers)
        finally:
            self._on_the_way -= 1
        self.check("stripe")
        return answer

    async def _tell(self, place: int) -> None:
        """The alarm of one process that dispatches and delivers, soon after something is due."""
        rounds = 0
        while not self._resting:
            rounds += 1
            wait_us = self.auditor.next_delivery() - self.clock.now()
            drawn = rng(self.plan.seed, "tell", place, rounds)
            await asyncio.sleep(max(0, min(wait_us, NAP)) / US_PER_S + drawn.uniform(1, 4))
            process = self._processes[place]
            if process is None or self.traps.down or process.astray:
                continue
            if self.auditor.next_delivery() <= self.clock.now() + SKEW:
                await self._round(process, "deliver", process.service.deliverer.run_due)

    async def _until_told(self) -> None:
        """Wait until all that happened has been delivered."""
        began = self.loop.now_us
        while self.endpoints.made_at is not None and self.auditor.next_delivery() < NEVER:
            await asyncio.sleep(NAP / US_PER_S)
            if self.loop.now_us - began > HEALED_WITHIN_S * US_PER_S:
                self.auditor.fail("did not heal", "deliveries still wait")
        self.endpoints.check(self.auditor.events(), self.auditor.endpoints(), SKEW)

    async def _watch(self, watcher: Watcher) -> None:
        """A front end that comes again whenever its stream ends."""
        for tries in count():
            await asyncio.sleep(rng(self.plan.seed, "watch", watcher.user, tries).uniform(1, 15))
            process = self._pick("watch", watcher.user, tries)
            if process is None or self.traps.down or process.astray:
                continue
            before = self._outside()
            try:
                await watcher.listen(process)
            except Exception as error:  # noqa: BLE001 - a client is told of a fault, and comes again
                if not _of_the_database(error) or before == self._outside():
                    self.auditor.fail("a stream broke", repr(error))

    async def _check_watchers(self, watching: Sequence[asyncio.Task[Any]]) -> None:
        """Nothing happens any more: whoever follows a user knows by now what is so."""
        if not self.watchers:
            return
        await asyncio.sleep(5 * LOOKS_S[1])
        for task in watching:
            task.cancel()
        for watcher in self.watchers:
            stored = self.auditor.stored_state(watcher.user)
            if stored is None:
                continue
            account, sessions = stored
            if account["suspended"]:
                continue
            for fault in watcher.faults(account, sessions):
                self.auditor.fail("a front end was told something else", f"{watcher.user}: {fault}")
            self.seen["watcher was right"] += 1

    async def _round(self, process: Process, operation: str, work: Any) -> None:
        self._busy += 1
        before = self._outside()
        astray, commits, began = process.astray, self.traps.commits, self.loop.now_us
        try:
            await process.run(operation, lambda: process.service.clock_watch.if_it_agrees(work))
            if astray and self.loop.now_us == began and self.traps.commits > commits:
                self.traps.done_astray.append(operation)
        except Exception as error:  # noqa: BLE001 - alarms log whatever fails, and come again
            if not _of_the_database(error) or before == self._outside():
                self.auditor.fail(f"{operation} broke", repr(error))
        finally:
            self._busy -= 1
        if operation != "receiving":
            self.check(operation)

    def _outside(self) -> int:
        """How much was done to connections so far: cuts, and statements and connections that met no database.

        What fails of the database while this stays the same is nobody's fault but ours.
        """
        cuts = sum(times for point, times in self.traps.fired.items() if " cut " in point)
        return cuts + self.traps.fired[DOWN]

    # Heartbeats

    async def deliver(self, call: Call, beat: Beat, body: bytes) -> None:
        beat.arrived_at = self.clock.now()
        process = None if self._deaf else self._pick("beat", self.loop.now_us)
        if process is not None:
            await self._deliver_to(process, call, beat, body)
        beat.done_at = self.clock.now()

    async def _deliver_to(self, process: Process, call: Call, beat: Beat, body: bytes) -> None:
        astray = process.astray
        answer = await process.call("heartbeat", "POST", call.webhook, body, {"content-type": "application/json"})
        if answer is None:
            self.say("heartbeat: no answer")
            return
        beat.status, beat.problem = answer.status, WRONG_CLOCK if astray else answer.problem
        self.seen["heartbeat to a wrong clock"] += astray
        self.seen[f"heartbeat {answer.status} {answer.problem}".rstrip()] += 1
        self.say(f"heartbeat: {answer.status} {answer.problem}")
        try:
            if answer.status == 404:
                self.auditor.fail("a genuine token was not known", call.webhook[-8:])
            self.check("heartbeat")
        except Violation as violation:
            self._break(violation)  # here it would end the provider's task alone

    async def _crowd(self, event: Event) -> None:
        """Heartbeats of a session that lives come all at once: more than are taken, or one that cannot be stored.

        All are copies of what the agent sends now, so none proves life where there is none.
        """
        for _ in range(CROWD_TRIES):
            now = self.clock.now()
            lives = [call for call in self.provider.calls.values() if call.heard and now < call.left_at]
            if lives:
                break
            await asyncio.sleep(5)
        else:
            return
        call = rng(self.plan.seed, "crowd", event.number).choice(lives)
        good = json.dumps({"session_id": call.id}).encode()
        bad = json.dumps({"session_id": call.id, "mood": POISON}).encode()
        bodies = {"many": [good] * CROWD, "bad first": [bad, good], "bad last": [good, bad]}[event.args["how"]]
        beats = [Beat(now, genuine=body is good) for body in bodies]
        call.beats += beats
        outside, lives_before = self._outside(), self._lives
        await asyncio.gather(*(self.deliver(call, beat, body) for beat, body in zip(beats, bodies, strict=True)))
        if any(beat.status == 204 and not beat.genuine for beat in beats):
            self.auditor.fail("a heartbeat was acknowledged that cannot be stored", call.id)
        told = {beat.status for beat in beats if beat.genuine}
        refused = None in told or any(beat.problem == WRONG_CLOCK for beat in beats)
        unharmed = outside == self._outside() and lives_before == self._lives and not refused
        if event.args["how"] == "many":
            taken = sum(beat.status == 204 for beat in beats)
            self.seen["heartbeats above the queue"] += 0 < taken < len(beats)
        elif unharmed and self.clock.now() == now:
            self.seen["a poisoned batch"] += 1
            if told != {204}:
                self.auditor.fail("a bad heartbeat failed its neighbour", f"{call.id}: {told}")

    # Clients

    async def ask(self, request: Request, *, tries: int = 40) -> Answer | None:
        """Send until there is a definite answer; null if it is given up."""
        self.requests.append(request)
        for attempt in range(1, tries + 1):
            fault = self.dice.strike("network", request.key, attempt)
            answer = await self._send(request, fault, attempt)
            if answer is not None and fault != "answer lost":
                final = answer.status < 500 or (request.operation == "start" and answer.status in _DEFINITE)
                if final and answer.problem != "idempotency-in-flight":
                    self.seen[f"{request.operation} {answer.status} {answer.problem}".rstrip()] += 1
                    if request.operation == "start" and answer.status == 201 and answer.json()["connection_details"]:
                        self.auditor.joined.add(str(request.body["scenario"]))
                    if answer.status < 300:
                        self.auditor.acknowledge(
                            request.key,
                            Acknowledged(request.operation, request.user, request.path, request.body, answer.json()),
                        )
                    return answer
            await asyncio.sleep(GIVES_UP_S * min(1 << attempt, 64))
        self.say(f"{request.operation} {request.key}: given up")
        return None

    async def _send(self, request: Request, fault: str | None, attempt: int) -> Answer | None:
        if fault == "request lost":
            return None
        if fault == "late":
            await asyncio.sleep(rng(self.plan.seed, "late", request.key, attempt).uniform(1, 20))
        if fault == "doubled":
            both = await asyncio.gather(self._send_once(request, attempt, 0), self._send_once(request, attempt, 1))
            return both[0] or both[1]
        return await self._send_once(request, attempt, 0)

    async def _send_once(self, request: Request, attempt: int, copy: int) -> Answer | None:
        process = self._pick(request.key, attempt, copy)
        if process is None:
            return None
        before, began, astray = self.auditor.fingerprint(), self.loop.now_us, process.astray
        self._sent += 1
        self._on_the_way += 1
        alone, sent = self._on_the_way == 1, self._sent
        try:
            answer = await self._send_to(process, request)
        finally:
            self._on_the_way -= 1
        # Else a trace may be that of another request, which was answered in the same instant.
        alone = alone and sent == self._sent and self.loop.now_us == began
        if answer is None:
            self.say(f"{request.operation} {request.key}: no answer")
            return None
        self.say(f"{request.operation} {request.key}: {answer.status} {answer.problem}")
        if answer.status == 401 and request.by is not None:
            # Who learns that his key has ended goes on with another one, under the same idempotency key.
            if alone:
                self.auditor.check_no_trace(before, "a key that has ended")
            self.seen["an ended key refused"] += 1
            request.by = None
            return None
        self.seen["by API key"] += request.by is not None
        request.answers.append(answer)
        definite = 400 <= answer.status < 500 or answer.problem == "provider-busy" or astray
        self.seen["write to a wrong clock"] += astray
        if definite and alone:
            self.auditor.check_no_trace(before, f"{request.operation} {answer.status} {answer.problem}")
        if answer.problem == "provider-busy":
            self.seen[f"{request.operation} 503 provider-busy"] += 1
        self.check(request.operation)
        if answer.problem == "provider-unconfirmed":
            patience = self._settings.unconfirmed_ttl_s
            self.auditor.check_unconfirmed(answer.json()["session_id"], patience)
        return answer

    async def _send_to(self, process: Process, request: Request) -> Answer | None:
        body = json.dumps(request.body).encode()
        headers = {"content-type": "application/json", "idempotency-key": request.key}
        if request.by is None:
            return await process.call(request.operation, request.method, request.path, body, headers)
        used, sent_at, astray = request.by, self.clock.now(), process.astray
        headers |= used.header
        answer = await process.call(request.operation, request.method, request.path, body, headers)
        if answer is not None:
            self._judge(used, sent_at, answer, astray=astray)
        return answer

    def _judge(self, used: Credential, sent_at: int, answer: Answer, *, astray: bool) -> None:
        # A process with a wrong clock answers reads, and expiry is a matter of time.
        if not astray:
            self.auditor.check_credential(used, sent_at, answer.status)

    async def read(self, what: str, path: str) -> Any:
        """What a call answers; null while nobody answers."""
        process = self._pick(what, self.loop.now_us)
        if process is None:
            return None
        answer = await process.call("read", "GET", path)
        if answer is None or answer.status >= 500:
            return None
        self.seen[f"{what} {answer.status}"] += 1
        return answer.json() if answer.status == 200 else None

    # Events

    def _request(
        self, event: Event, operation: str, path: str, body: Mapping[str, Any], method: str = "POST"
    ) -> Request:
        request = Request(operation, method, path, body, event.args.get("user"), f"e{event.number}-{operation}")
        if operation in BY_KEY and rng(self.plan.seed, "by key", request.key).random() < WITH_KEY:
            request.by = self._key
        return request

    async def _happen(self, event: Event) -> None:
        args = event.args
        self.say(f"event {event.number}: {event.kind} {dict(args)}")
        match event.kind:
            case "ambush":
                self.traps.arm(args["point"], args["how"])
            case "grant":
                await self._grant(event)
            case "start":
                await self._start(event)
            case "adopt":
                await self._adopt(event)
            case "adjust":
                body: dict[str, Any] = {"amount": str(args["amount"]), "reason": "a test"}
                body |= {"allow_below_floor": True} if args["below"] else {}
                path = f"/v1/users/{_segment(args['user'])}/adjustments"
                if args["below"]:
                    self.auditor.may_be_below.add(args["user"])
                await self.ask(self._request(event, "adjust", path, body))
            case "limits":
                path = f"/v1/users/{_segment(args['user'])}"
                self.auditor.limit_changes(args["user"], args["change"])
                body = {**args["change"], "reason": "a test"}
                await self.ask(self._request(event, "limits", path, body, "PATCH"))
            case "card":
                body = {"name": args["card"], **CARDS[args["card"]]}
                await self.ask(self._request(event, "card", "/v1/rate-cards", body))
            case "controls":
                stop = self._request(event, "controls", "/v1/settings", {"starts_stopped": True}, "PATCH")
                await self.ask(stop)
                await asyncio.sleep(20)
                go = Request(
                    "controls", "PATCH", "/v1/settings", {"starts_stopped": False}, None, f"e{event.number}-go"
                )
                await self.ask(go)
            case "void":
                await self._void(event)
            case "refund" | "rerate":
                await self._correct(event)
            case "review":
                for session in self.auditor.in_review()[:1]:
                    await self._decide(event, session, args["action"])
            case "pull":
                await self._pull(event)
            case "end":
                await self._end(event)
            case "look":
                await self._look(event)
            case "odd":
                await self._odd(event)
            case "repeat":
                await self._repeat(event)
            case "crowd":
                await self._crowd(event)
            case "late beat":
                await self._late_beat(event)
            case "second thoughts":
                told = [call for call in self.provider.calls.values() if call.pulls]
                if told:
                    rng(self.plan.seed, "rewritten").choice(told).rewritten = args["how"]
            case "keys":
                await self._keys(event)
            case "astray":
                await self._go_astray(event)
            case "outage":
                if not self._away:
                    self._away_since = self.clock.now()
                self._away += 1
                self.traps.down = True
                self.traps.fired[DOWN] += 1
                if rng(self.plan.seed, "ready", event.number).random() < ASKED_IF_READY:
                    await self._check_ready("not ready: no database", "the database cannot be reached")
                await asyncio.sleep(args["seconds"])
                self._away -= 1
                if not self._away:  # else one begun meanwhile goes on
                    self.traps.down = False
                    self.auditor.down.append((self._away_since, self.clock.now()))
            case "deaf":
                self._deaf += 1
                self.traps.fired["deaf"] += 1
                await asyncio.sleep(args["seconds"])
                self._deaf -= 1
            case "blind":
                self.provider.blind += 1
                await asyncio.sleep(args["seconds"])
                self.provider.blind -= 1
            case "kill":
                process = self._pick("kill", event.number)
                if process is not None:
                    self.traps.fired["killed"] += 1
                    await process.die()
            case "purge":
                process = self._pick("purge", event.number)
                if process is not None:
                    await self._round(process, "purge", process.service.purge)
            case _:
                raise AssertionError(event.kind)

    async def _keys(self, event: Event) -> None:
        """An operator makes a key, which is revoked later, and a token for a user, who looks at his own balance."""
        args = event.args
        asked = {"name": f"k{event.number}", "scopes": ["credits:write", "sessions:write"]}
        made = await self.ask(self._request(event, "key", "/v1/api-keys", asked))
        path = f"/v1/users/{_segment(args['user'])}/tokens"
        issued = await self.ask(self._request(event, "token", path, {"ttl_s": args["ttl"]}))
        key = Credential(made.json()["secret"]) if made is not None and made.status == 201 else None
        self._key = key
        visits = self._spawn(self._visit(event, issued.json())) if issued is not None and issued.status == 201 else None
        await asyncio.sleep(args["seconds"])
        if made is not None and key is not None:
            key.ends_from = self.clock.now()
            revoke = self._request(event, "revoke", f"/v1/api-keys/{made.json()['id']}", {}, "DELETE")
            done = await self.ask(revoke)
            if done is not None and done.status == 200:
                key.ends_by = self.clock.now()
        if visits is not None:
            await visits

    async def _visit(self, event: Event, issued: Mapping[str, Any]) -> None:
        expires_at = parse_instant(issued["expires_at"])
        token = Credential(issued["token"], expires_at - SKEW, expires_at + SKEW)
        while True:
            ended = self.clock.now() > expires_at + SKEW
            for user in USERS:
                process = self._pick("visit", self.loop.now_us, user)
                if process is None:
                    continue
                sent_at, astray = self.clock.now(), process.astray
                answer = await process.call("read", "GET", f"/v1/users/{_segment(user)}/balance", headers=token.header)
                if answer is None or answer.status >= 500 or astray:
                    continue
                self._judge(token, sent_at, answer, astray=astray)
                own = user == event.args["user"]
                self.seen[f"user token, {'own' if own else 'another'}: {answer.status}"] += 1
                if answer.status == 200 and not own:
                    self.auditor.fail("a user saw what is another's", user)
            if ended:
                return
            await asyncio.sleep(VISIT_EVERY_S)

    async def _go_astray(self, event: Event) -> None:
        """A process's clock jumps while it has nothing to do, and is wrong until it jumps back or the process dies.

        What was under way would be stamped with both times, as the comparison comes every 2 s only: a known limit.
        """
        args = event.args
        for _ in range(IDLE_TRIES):
            process = self._pick("astray", event.number)
            if process is not None and process.idle and not self.traps.down:
                break
            await asyncio.sleep(0.7)
        else:
            return
        began = self.clock.now()
        process.astray = True
        self.say(f"the clock of process {process.name} jumps")
        await process.jump(args["by"] * US_PER_S)
        self.traps.fired["clock ahead" if args["by"] > 0 else "clock behind"] += 1
        await self._check_ready("not ready: clock", "our clock and the database's disagree", process)
        process.unready = args["noticed"]
        with suppress(TimeoutError):
            await asyncio.wait_for(process.life.gone.wait(), args["seconds"])
        if not process.life.ended() and (args["restart"] or self.traps.down):
            self.seen["restarted, as not ready"] += 1
            await process.die()
        elif not process.life.ended():
            await process.jump(-args["by"] * US_PER_S)
            process.astray = process.unready = False
            self.say(f"the clock of process {process.name} is right again")
            await self._check_ready("ready again", None, process)
        if self.plan.processes == 1:
            # Nobody received.
            self.auditor.down.append((began, self.clock.now()))

    async def _check_ready(self, what: str, fault: str | None, process: Process | None = None) -> None:
        """Whether a process tells this fault and no other, or that it is ready; it says in any case that it lives."""
        outside = self._outside()
        process = process or self._pick(what, self.loop.now_us)
        if process is None:
            return
        lives = await process.call("ready", "GET", "/healthz")
        told = await process.call("ready", "GET", "/readyz")
        if lives is None or told is None or (outside != self._outside() and not self.traps.down):
            return
        self.seen[what] += 1
        # The database of the worlds is a fast one, of which a real service must not be served.
        faults = [found for found in told.json()["faults"] if "could be lost" not in found]
        rightly = not faults if fault is None else len(faults) == 1 and fault in faults[0]
        if (lives.status, told.status) != (200, 503) or not rightly:
            self.auditor.fail("not what can be said of a process", f"{what}: {lives.status}, {told.status} {faults}")

    async def _grant(self, event: Event) -> None:
        args = event.args
        now = self.clock.now()
        body = {"amount": str(args["amount"]), **args["terms"]}
        effective_at = now + args["effective_in"] * US_PER_S
        if args["effective_in"]:
            body["effective_at"] = format_instant(Instant(effective_at))
        if args["lasts"] is not None:
            body["expires_at"] = format_instant(Instant(effective_at + args["lasts"] * US_PER_S))
        await self.ask(self._request(event, "grant", f"/v1/users/{_segment(args['user'])}/grants", body))

    async def _start(self, event: Event) -> None:
        name = f"s{event.number}"
        self.provider.conversations[name] = conversation_of(self.plan.seed, event.number, event.args.get("fault"))
        body = {"user_id": event.args["user"], "persona": event.args["user"], "scenario": name}
        if event.args["asked"] is not None:
            body["time_limit_s"] = event.args["asked"]
        if self.auditor.published(event.args.get("card")):
            body["rate_card"] = event.args["card"]
        self.auditor.wanted[name] = event.args["asked"]
        request = self._request(event, "start", "/v1/sessions", body)
        answer = await self.ask(request)
        if answer is not None and answer.status == 504 and rng(self.plan.seed, "again", event.number).random() < 0.5:
            # Impatient customers ask again under the same key.
            await asyncio.sleep(90)
            await self.ask(Request("start", "POST", "/v1/sessions", body, event.args["user"], request.key))

    async def _adopt(self, event: Event) -> None:
        """A customer's own backend starts the session at the provider: soon, too late, or never."""
        args = event.args
        name = f"s{event.number}"
        self.provider.conversations[name] = conversation_of(self.plan.seed, event.number, SAFE)
        body = {"user_id": args["user"], "persona": args["user"], "scenario": name, "time_limit_s": args["asked"]}
        self.auditor.wanted[name] = args["asked"]
        self.auditor.adopted.add(name)
        answer = await self.ask(self._request(event, "start", "/v1/sessions", {**body, "start": False}))
        webhook = answer.json().get("webhook") if answer is not None and answer.status == 201 else None
        if answer is not None and webhook is not None:
            self.seen["adopted"] += 1
            if args["after"] is not None:
                await asyncio.sleep(args["after"])
                limit = int(answer.json()["session"]["time_limit_s"]) * US_PER_S
                self.provider.begin(name, args["user"], limit, webhook)

    async def _void(self, event: Event) -> None:
        drawn = rng(self.plan.seed, "void", event.number)
        found = (self.auditor.grants(spent=True) if drawn.random() < SPENT else []) or self.auditor.grants()
        if found:
            grant = drawn.choice(found)
            await self.ask(self._request(event, "void", f"/v1/grants/{grant}/void", {"reason": "a test"}))

    async def _correct(self, event: Event) -> None:
        found = self.auditor.settled()
        if not found:
            return
        session, charged = rng(self.plan.seed, "correct", event.number).choice(found)
        path = f"/v1/sessions/{session}/{event.kind}"
        body: dict[str, Any] = {"reason": "a test"}
        if event.kind == "rerate" and self.auditor.published(event.args["card"]):
            body["rate_card"] = event.args["card"]
        elif event.args.get("part") is not None:
            amount = max(1, int(charged * event.args["part"]))
            body["amount"] = f"{amount // 10**6}.{amount % 10**6:06d}"
        await self.ask(self._request(event, event.kind, path, body))

    async def _decide(self, event: Event, session: str, action: str) -> None:
        body = {"action": action, "reason": "a test"}
        await self.ask(self._request(event, "review", f"/v1/sessions/{session}/review", body))

    async def _pull(self, event: Event) -> None:
        found = self.auditor.sessions()
        process = self._pick("pull", event.number)
        if found and process is not None:
            await self._pull_by(process, rng(self.plan.seed, "pull", event.number).choice(found))

    async def _pull_by(self, process: Process, session: str) -> None:
        answer = await process.call("pull", "POST", f"/v1/sessions/{session}/reconcile")
        if answer is not None:
            self.seen[f"pull {answer.status} {answer.problem}".rstrip()] += 1
            self.say(f"pull: {answer.status} {answer.problem}")
        self.check("pull")

    async def _end(self, event: Event) -> None:
        """An operator has all sessions ended; whether they were, their heartbeats and timelines will tell."""
        for session in self.auditor.sessions():
            process = self._pick("end", event.number, session)
            if process is None:
                return
            answer = await process.call(
                "end", "POST", f"/v1/sessions/{session}/end", headers={"idempotency-key": session}
            )
            if answer is not None:
                self.seen[f"end {answer.status} {answer.problem}".rstrip()] += 1
                self.say(f"end: {answer.status} {answer.problem}")
            self.check("end")

    def _tempt(self) -> None:
        """While the provider wants no requests, somebody asks each process to pull."""
        found = self.auditor.sessions() if not self.traps.down else []
        for process in self._processes:
            if process is not None and process.alive and found:
                session = rng(self.plan.seed, "tempt", self.loop.now_us, process.name).choice(found)
                self._spawn(self._pull_by(process, session))

    async def _look(self, event: Event) -> None:
        user = rng(self.plan.seed, "look", event.number).choice(USERS)
        balance = await self.read("balance", f"/v1/users/{_segment(user)}/balance")
        if balance is not None:
            self.auditor.check_balance(user, balance)
        await self.read("statement", f"/v1/users/{_segment(user)}/entries?limit=3")

    async def _odd(self, event: Event) -> None:
        """What cannot be meant gets a clear answer and changes nothing."""
        drawn = rng(self.plan.seed, "odd", event.number)
        user = _segment(drawn.choice(USERS))
        method, path, body = drawn.choice([
            ("POST", f"/v1/users/{user}/grants", b'{"amount": "1.0000001"}'),
            ("POST", f"/v1/users/{user}/grants", b'{"amount": 5}'),
            ("POST", f"/v1/users/{user}/grants", b'{"amount": "NaN"}'),
            ("POST", f"/v1/users/{user}/grants", b'{"amount": "1", "reference": "\\u0000"}'),
            ("POST", f"/v1/users/{user}/adjustments", b'{"amount": "0", "reason": "x"}'),
            ("POST", "/v1/sessions", b'{"user_id": "ann", "persona": "p", "scenario": "s", "time_limit_s": 1}'),
            ("POST", "/v1/sessions", b'{"user_id": "\\ud800", "persona": "p", "scenario": "s"}'),
            ("POST", "/v1/sessions", b"{"),
            ("POST", "/webhooks/gabber/nonsense", b'{"session_id": "gab-1"}'),
            ("POST", "/v1/grants/grt_nothing/void", b'{"reason": "x"}'),
            ("PATCH", f"/v1/users/{user}", b'{"credit_limit": "-1"}'),
        ])  # fmt: skip
        process = self._pick("odd", event.number)
        if process is None:
            return
        before, outside = self.auditor.fingerprint(), self._outside()
        answer = await process.call("odd", method, path, body, {"content-type": "application/json"})
        if process.astray:
            self.auditor.check_no_trace(before, "odd request to a wrong clock")
        elif answer is not None and (answer.status < 500 or outside == self._outside()):
            self.seen[f"odd {answer.status}"] += 1
            if not 400 <= answer.status < 500:
                self.auditor.fail("odd request", f"{method} {path} {body!r}: {answer.status}")
            self.auditor.check_no_trace(before, "odd request")

    async def _repeat(self, event: Event) -> None:
        """A client that forgot whether it was answered asks once more."""
        answered = [request for request in self.requests if request.answers]
        if not answered:
            return
        drawn = rng(self.plan.seed, "repeat", event.number)
        earlier = drawn.choice(answered)
        if drawn.random() < MISUSED and earlier.answers[-1].status < 300:
            body = {**earlier.body, "metadata" if earlier.operation in {"grant", "start"} else "reason": {}}
            misuse = Request(earlier.operation, earlier.method, earlier.path, body, earlier.user, earlier.key)
            process = self._pick("misuse", event.number)
            answer = await self._send_to(process, misuse) if process is not None else None
            if answer is not None and answer.problem != "invalid-request":
                self.auditor.check_misuse(answer)
                self.seen["misused key"] += 1
            return
        again = Request(earlier.operation, earlier.method, earlier.path, earlier.body, earlier.user, earlier.key)
        await self.ask(again, tries=3)

    async def _late_beat(self, event: Event) -> None:
        calls = list(self.provider.calls.values())
        if calls:
            call = calls[event.args["nth"] % len(calls)]
            await self.deliver_late(call)

    async def deliver_late(self, call: Call) -> None:
        beat = Beat(self.clock.now())
        call.beats.append(beat)
        await self.deliver(call, beat, json.dumps({"session_id": call.id}).encode())
        self.dice.fired["heartbeat/after the end"] += 1

    # The whole

    async def live(self) -> None:
        """From the beginning to the audit. Raises :class:`~tests.simulation.auditor.Violation`."""
        for place in range(self.plan.processes):
            await self._boot(place)
            self._spawn(self._keep_up(place))
            self._spawn(self._work(place))
        if listens(self.plan.seed):
            self._spawn(self._listen())
        if self.top_ups is not None:
            self._spawn(self._top_up(self.top_ups))
        watching = [self._spawn(self._watch(watcher)) for watcher in self.watchers]
        story = self._spawn(self._story(watching))
        try:
            await asyncio.wait({story, self._broken}, return_when=asyncio.FIRST_COMPLETED)
            if self._broken.done():
                self._broken.result()
            story.result()
        finally:
            await self._close()

    async def _story(self, watching: Sequence[asyncio.Task[Any]]) -> None:
        await self._main()
        await self._heal("the sessions")
        self.dice.active = True
        for event in self.plan.events:
            if event.late:
                await asyncio.sleep(event.at / US_PER_S / 4)
                await self._happen(event)
        self.traps.disarm()
        await self._heal("the corrections", late=True)
        await asyncio.gather(*self._paying)
        await self._until_told()
        await self._check_watchers(watching)
        await self._final()

    async def _main(self) -> None:
        happening = []
        for event in self.plan.events:
            if event.late:
                continue
            await asyncio.sleep(max(0, event.at - self.loop.now_us) / US_PER_S)
            happening.append(self._spawn(self._happen(event)))
        await asyncio.sleep(max(0.0, CALM_AFTER_S - self.loop.now_us / US_PER_S))
        self._calm()
        await asyncio.gather(*happening)

    def _calm(self) -> None:
        self.say("faults stop")
        self.dice.active = False

    async def _heal(self, what: str, *, late: bool = False) -> None:
        """Wait until nothing is under way any more; operators decide what waits for them.

        ``late``: settled sessions were looked at once more as well.
        """
        self._calm()
        began = self.loop.now_us
        while True:
            wait_us = self.auditor.next_due()[0] - self.clock.now()
            await asyncio.sleep(max(20 * US_PER_S, min(wait_us, 300 * US_PER_S)) / US_PER_S)
            self.check("healing")
            self.auditor.check_reviews(self._settings.review_after_s + REVIEW_SLACK)
            open_ = self.auditor.open_sessions(late=late)
            waiting = self.auditor.in_review()
            if not open_ and not self._busy and not waiting:
                return
            passed_s = (self.loop.now_us - began) // US_PER_S
            if passed_s > HEALED_WITHIN_S:
                self.auditor.fail("did not heal", f"{what}: {open_}")
            for session in waiting:
                # Some are decided while the hold is kept, some after it was released.
                drawn = rng(self.plan.seed, "decide", session[-12:])
                if passed_s > drawn.choice([0, 300, 1500]):
                    action = drawn.choice(["settle", "settle", "write_off"])
                    await self._decide(Event(10_000 + len(self.trace), 0, "review"), session, action)

    async def _final(self) -> None:
        for request in self.requests:
            self.auditor.check_answers(request.operation, request.key, request.answers)
        process = self._pick("final")
        assert process is not None

        async def read(path: str) -> Any:
            answer = await process.call("read", "GET", path)
            assert answer is not None
            if answer.status != 200:
                self.auditor.fail("reading", f"{path}: {answer.status} {answer.content!r}")
            return answer

        await self.auditor.audit(read)
        self.auditor.check_periods(missed=False)
        await self._replay(process)
        self.seen.update(self.auditor.branches())
        if self.plan.month_later:
            await self._month_later(process)

    async def _replay(self, process: Process) -> None:
        """Every charge that was ever made must come out of its stored inputs again, byte for byte."""
        different: list[Replayed] = []

        async def replayed() -> Any:
            return await replay_all(process.service.database, different.append)

        count = await process.run("replay", replayed)
        self.seen["replayed"] += count.charges
        for one in different:
            self.auditor.fail("a charge does not come out again", f"{one.session} version {one.version}: {one}")

    async def _month_later(self, process: Process) -> None:
        """Answers are forgotten, their keys are not: nothing is had twice. Heartbeats go, their charges stay."""
        self._resting = True
        await asyncio.sleep(31 * 86_400)
        await process.run("purge", process.service.purge)
        if self.top_ups is not None:
            await process.run("recurring", process.service.post_recurring)
            self.auditor.check_periods(missed=True)
        before = self.auditor.fingerprint()
        for request in [request for request in self.requests if request.answers][:2]:
            first = request.answers[0]
            if first.status == 201:
                again = await self._send_once(request, 0, 0)
                if again is None or again.problem != "idempotency-key-expired":
                    self.auditor.fail("an old key", f"{request.operation}: {again}")
                self.seen["idempotency-key-expired"] += 1
        self.auditor.check_no_trace(before, "old keys")

        async def verified() -> list[Finding]:
            async with process.service.database.reading() as transaction:
                return (await verify(transaction, process.service.ledger.keys)).all

        for finding in await process.run("verify", verified):
            self.auditor.fail("talktime verify", f"{finding.check}, {finding.row}: {finding.detail}")
        await self._forget_heartbeats(process)

    async def _forget_heartbeats(self, process: Process) -> None:
        async def told() -> list[bytes]:
            found = []
            for session, _ in self.auditor.settled():
                for path in ("/charge", "/heartbeats?limit=500", ""):
                    answer = await process.call("read", "GET", f"/v1/sessions/{session}{path}")
                    assert answer is not None
                    # Further fields of heartbeats, and those that came after the last charge, are not kept.
                    found.append(FURTHER.sub(b"", answer.content))
            return found

        stored = self.auditor.stored_heartbeats()
        before = [] if self.auditor.has_late_heartbeats() else await told()
        await process.run("retention", process.service.drop_old_ticks)
        if self.auditor.stored_heartbeats():
            self.auditor.fail("old heartbeats stay", f"{self.auditor.stored_heartbeats()} of {stored}")
        for earlier, later in zip(before, await told(), strict=False):
            if earlier != later:
                self.auditor.fail("what is told changed with retention", f"{earlier!r} became {later!r}")
        if stored:
            self.seen["heartbeats dropped"] += 1
        await self._replay(process)

    async def _close(self) -> None:
        tasks = [*self._actors, *self.provider.close()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for process in self._processes:
            if process is not None:
                await process.stop()


async def prepare(url: str) -> None:
    """Start the service once on a database, as it is before a world begins."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    clock = WorldClock(loop, ORIGIN)
    traps = Traps(STALL_S)

    async def nowhere(_call: Call, _beat: Beat, _body: bytes) -> None:
        return None

    provider = Provider(clock, Dice(0, {}, ("start", "500")), nowhere)
    nobody = Endpoints(0, clock, lambda *_: None, lambda: False, Counter())
    process = Process("first", world_settings(), url, clock, "first", provider, traps, Micros(REPORT_EVERY), nobody)
    assert await process.start()
    await process.stop()


DOWN: Final = "database down"


def _of_the_database(error: BaseException) -> bool:
    """Whether it is what a lost connection or a database that is away makes of an operation."""
    errors = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
    return all(isinstance(found, DatabaseUnavailable | SQLAlchemyError) for found in errors)


def _segment(user: str) -> str:
    return quote(user, safe="")
