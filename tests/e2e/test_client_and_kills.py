"""The client's calls before a service that is killed again and again: each has one answer, and one effect.

Sync and async clients grant, adjust, start and refund without a pause, while the real process behind them gets SIGKILL
and is started anew, and the line to it loses answers that were on their way back. No call is given a key here: what
protects it is the one that the client draws, and keeps for all attempts.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import httpx

from app.ports.clock import ScaledClock
from app.running import database_of
from app.settings import load_settings
from talktime import problems
from talktime.client import AsyncTalktime, Retry, RetryPolicy, Talktime
from tests.storm.processes import Worker, command, free_ports, simulator
from tests.support.client_drivers import AsyncDriver, Driver, SyncDriver

ADMIN_KEY: Final = "kills-admin-key-0123456789"
SPEED: Final = 20
KILLS: Final = 6
CALM_S: Final = (0.6, 1.4)
"""The process is killed so long after it has become ready."""

LOST: Final = 0.02
"""The share of answers that are lost on their way back."""

CUSTOMERS: Final = 6
"""Of each client."""

PATIENCE_S: Final = 90.0

PATIENT: Final = RetryPolicy(attempts=1000, deadline_s=60, longest_wait_s=1)
GIVEN_BACK: Final = Decimal("0.01")


class Line:
    """Between clients and the service. Now and then it loses an answer and is cut: what was asked for has been done."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self._port = port
        self._chance = chance
        self._open: set[asyncio.Task[None]] = set()
        self.lost = 0

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._taken, "127.0.0.1", port, backlog=256)
        try:
            yield
        finally:
            server.close()
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind: asyncio.StreamWriter | None = None
        try:
            answers, behind = await asyncio.open_connection("127.0.0.1", self._port)
            both = [
                asyncio.create_task(self._pass_on(reader, behind, loses=False)),
                asyncio.create_task(self._pass_on(answers, writer, loses=True)),
            ]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        except OSError:
            pass  # the service is dead
        finally:
            writer.close()
            if behind is not None:
                behind.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, loses: bool) -> None:
        try:
            while data := await reader.read(1 << 16):
                if loses and self._chance.random() < LOST:
                    self.lost += 1
                    return
                writer.write(data)
                await writer.drain()
        except OSError:
            return


@dataclass
class Tale:
    """What the clients were answered, each answer once for each call."""

    calls: Counter[str] = field(default_factory=Counter)
    grants: list[str] = field(default_factory=list)
    adjustments: list[str] = field(default_factory=list)
    refunds: list[str] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    asked_on: int = 0
    """Starts of which it was not known at first what had become of them."""
    retries: list[Retry] = field(default_factory=list)
    refunding: asyncio.Event = field(default_factory=asyncio.Event)
    """Set as soon as there is something to refund."""


@dataclass
class Customer:
    """One user's calls, one after the other."""

    user: str
    driver: Driver
    tale: Tale
    running: list[str] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)

    async def live(self, over: asyncio.Event) -> None:
        await self._grant(10_000)
        turn = 0
        while not over.is_set():
            turn += 1
            await self._grant(turn)
            entry = await self._do("adjust", self.user, amount=Decimal("-0.5"), reason="a test")
            self.tale.adjustments.append(entry.id)
            if turn % 4 == 1:
                await self._start()
            if turn % 4 == 3:
                await self._look()
            if self.settled:
                self.tale.refunding.set()
                refund = await self._do(
                    "refund", self.settled[turn % len(self.settled)], amount=GIVEN_BACK, reason="a test"
                )
                self.tale.refunds += [one.id for one in refund.entries]

    async def _do(self, name: str, *given: Any, **named: Any) -> Any:
        self.tale.calls[name] += 1
        return await self.driver.do(name, *given, **named)

    async def _grant(self, amount: int) -> None:
        self.tale.grants.append((await self._do("grant", self.user, amount=amount)).id)

    async def _start(self) -> None:
        """A start may be answered by not knowing: the same call under its key tells later what became of it."""
        asked: dict[str, Any] = {"user_id": self.user, "persona": "tutor", "scenario": "talk", "time_limit_s": 30}
        self.tale.calls["start_session"] += 1
        while True:
            try:
                session = (await self.driver.do("start_session", **asked)).session.id
            except problems.ProviderUnconfirmed as unknown:
                self.tale.asked_on += "idempotency_key" not in asked
                asked["idempotency_key"] = unknown.idempotency_key
                await asyncio.sleep(0.3)
            except problems.ProviderRefused as refused:
                session = refused.session_id  # it never reached the provider
                break
            else:
                self.running.append(session)
                break
        self.tale.sessions.append(session)

    async def _look(self) -> None:
        for session_id in self.running[:2]:
            session = await self.driver.do("session", session_id)
            if session.state == "settled":
                self.running.remove(session_id)
                if session.charged:
                    self.settled.append(session_id)


async def kill(worker: Worker, client: httpx.AsyncClient, chance: random.Random, tale: Tale) -> None:
    """The last kills wait for refunds, which need a settled session: a busy machine takes longer to have one."""
    for number in range(KILLS):
        if number == KILLS - 2:
            async with asyncio.timeout(PATIENCE_S):
                await tale.refunding.wait()
        await asyncio.sleep(chance.uniform(*CALM_S))
        worker.kill()
        worker.start()
        await worker.until_ready(client)


async def happen(folder: Path, database: str, provider: str, provider_key: str, clock: ScaledClock) -> None:
    port, line_port = free_ports(2)
    url = f"http://127.0.0.1:{line_port}"
    settings = {
        "TALKTIME_DATABASE_URL": database,
        "TALKTIME_LEDGER_KEYS": "kills-ledger-key-0123456789",
        "TALKTIME_SECRET": "kills-secret-0123456789",
        "TALKTIME_BOOTSTRAP_ADMIN_KEY": ADMIN_KEY,
        "TALKTIME_GABBER_BASE_URL": provider,
        "TALKTIME_GABBER_API_KEY": provider_key,
        "TALKTIME_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "TALKTIME_CALLER_MAX_RPS": "0",
        "TALKTIME_CLOCK": str(clock),
        "TALKTIME_PROVIDER_TIMEOUT_S": str(SPEED),
        "TALKTIME_RECONCILE_INTERVAL_S": "10",
        "TALKTIME_SETTLE_DELAY_S": "10",
        "TALKTIME_UNCONFIRMED_TTL_S": "60",
    }
    worker, tale, over = Worker("serve", port, settings, folder), Tale(), asyncio.Event()
    line = Line(port, random.Random(1))
    began = time.monotonic()
    options: dict[str, Any] = {"retries": PATIENT, "on_retry": tale.retries.append, "timeout_s": 10}
    try:
        async with (
            line.listening(line_port),
            httpx.AsyncClient(trust_env=False) as beside,
            AsyncTalktime(url, ADMIN_KEY, **options) as in_loop,
        ):
            with Talktime(url, ADMIN_KEY, **options) as in_threads:
                await worker.until_ready(beside)
                customers = [
                    Customer(f"{kind}-{number}", driver, tale)
                    for kind, driver in (("async", AsyncDriver(in_loop)), ("sync", SyncDriver(in_threads)))
                    for number in range(CUSTOMERS)
                ]
                killer = asyncio.create_task(kill(worker, beside, random.Random(2), tale))
                killer.add_done_callback(lambda _: over.set())
                await asyncio.gather(killer, *(one.live(over) for one in customers))
                retried = {retry.idempotency_key or "a read" for retry in tale.retries}
                print(
                    f"\n{worker.kills} kills and {line.lost} lost answers in {time.monotonic() - began:.0f} s; "
                    f"{tale.calls.total()} writes ({', '.join(f'{n} {name}' for name, n in tale.calls.items())}), "
                    f"of which {len(retried - {'a read'})} were sent more than once; {tale.asked_on} starts asked on"
                )
                assert worker.kills == KILLS
                assert worker.died == 0
                assert line.lost > 0
                assert len(retried - {"a read"}) > KILLS
                assert tale.calls["refund"] > 0
                await judge(in_loop, tale, [one.user for one in customers])
    finally:
        code = worker.stop()
    assert code == 0
    verified = command(folder, settings, "verify")
    assert verified.returncode == 0, verified.stdout[-2000:] + verified.stderr[-2000:]


async def judge(client: AsyncTalktime, tale: Tale, users: list[str]) -> None:
    """Each call had one answer of its own, and the ledger has one effect for each and no other."""
    entries = [entry for user in users async for entry in client.entries(user, limit=500)]
    by_kind = {kind: [entry for entry in entries if entry.kind == kind] for kind in {entry.kind for entry in entries}}
    for told, kind in ((tale.adjustments, "adjustment"), (tale.refunds, "refund")):
        assert len(told) == len(set(told))
        assert sorted(entry.id for entry in by_kind[kind]) == sorted(told)
    assert len(tale.adjustments) == tale.calls["adjust"]
    assert len(tale.refunds) == tale.calls["refund"]
    assert len(tale.grants) == len(set(tale.grants)) == tale.calls["grant"]
    assert sorted(str(entry.grant_id) for entry in by_kind["grant"]) == sorted(tale.grants)
    sessions = [session.id for user in users async for session in client.sessions(user_id=user, limit=500)]
    assert len(tale.sessions) == tale.calls["start_session"]
    assert sorted(sessions) == sorted(tale.sessions)
    charged = [entry.session_id for entry in by_kind["charge"]]
    assert len(charged) == len(set(charged))


def test_calls_of_the_client_have_one_effect_whatever_is_killed(data_dir: Path) -> None:
    clock = ScaledClock.starting_now(SPEED)
    settings = load_settings(data_dir=data_dir, database_url=None)
    arguments = ["--clock", str(clock), "--seed", "1", "--any-persona", "--heartbeat-retries", "3"]
    with (
        database_of(settings, for_long=True) as databases,
        simulator(data_dir, arguments) as (provider, provider_key),
    ):
        asyncio.run(happen(data_dir, databases.service, provider, provider_key, clock))
