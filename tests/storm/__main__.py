"""``python -m tests.storm``: real processes in a storm of faults.

Exit 0: all came out right; 1: it did not, with a line for each thing that is wrong.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from app.ports.clock import ScaledClock
from app.running import database_of
from app.settings import load_settings
from tests.storm.checks import CHECKS, most_called
from tests.storm.customers import Customers
from tests.storm.facts import Facts
from tests.storm.processes import Front, Worker, command, free_ports, simulator
from tests.storm.reading import GRANTED, NOT_YET, Provider, ask, calls_of, stored_sessions
from tests.storm.weather import FAULTS, never_struck
from tests.support.postgres import open_folder, scratch_folder

ADMIN_KEY: Final = "storm-admin-key-0123456789"
TOLD: Final = 10
"""Findings of a check that are printed; the others are counted."""

LONG: Final = 1000
"""From so many sessions on every fault must have struck."""

CALM_S: Final = 5.0
"""Real seconds for which the storm goes on after the last agent has left."""

MOST_WISHES: Final = 3
"""Customers ask for at most so many times as many sessions as are to be started: some are refused."""

PATIENCE_S: Final = 420
"""Real seconds within which all must have ended once the storm is over."""


@dataclass(frozen=True)
class Storm:
    sessions: int
    seed: int
    speed: int
    per_s: float
    rate: int
    longest_s: int
    """The longest time limit that is asked for."""
    evidence_wait_s: int
    review_after_s: int


def main() -> int:
    storm = _arguments()
    print(f"seed {storm.seed}: {storm.sessions} sessions, the clock at {storm.speed} times real time", flush=True)
    for folder in open_folder(scratch_folder()):
        settings = load_settings(data_dir=folder, database_url=None)
        with database_of(settings, for_long=True) as databases:
            return asyncio.run(_happen(storm, folder, databases.service))
    raise AssertionError


def _arguments() -> Storm:
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("--sessions", type=int, default=2000, help="how many are to be started")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--speed", type=int, default=10, help="how many times as fast as real time")
    parser.add_argument("--per-s", type=float, help="sessions started in a real second")
    parser.add_argument("--rate", type=int, default=12, help="requests a second that the provider takes, on the clock")
    arguments = parser.parse_args()
    long = arguments.sessions >= LONG
    if arguments.per_s is None:
        arguments.per_s = 5.5 if long else 8.0
    if arguments.sessions < 1 or arguments.speed < 1 or arguments.rate < 1 or arguments.per_s <= 0:
        parser.error("at least one session, some each second, and time that passes")
    # A short storm has no time for long sessions, or to wait long for evidence and operators.
    waits = (300, 1800, 300) if long else (120, 225, 60)
    longest_s, evidence_wait_s, review_after_s = waits
    return Storm(**vars(arguments), longest_s=longest_s, evidence_wait_s=evidence_wait_s, review_after_s=review_after_s)


async def _happen(storm: Storm, folder: Path, database: str) -> int:
    clock = ScaledClock.starting_now(storm.speed)
    began = time.monotonic()
    arguments = ["--clock", str(clock), "--seed", str(storm.seed), "--any-persona", "--page-size", "60"]
    with simulator(folder, arguments) as (url, key):
        front_port, *ports = free_ports(3)
        settings = _settings(storm, clock, database, url, key, f"http://127.0.0.1:{front_port}")
        workers = [Worker(f"worker-{number}", port, settings, folder) for number, port in enumerate(ports, 1)]
        front = Front(ports)
        server = await front.listen(front_port)
        limits = httpx.Limits(max_connections=40, max_keepalive_connections=20)
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        try:
            async with (
                httpx.AsyncClient(trust_env=False, timeout=10, limits=limits, headers=headers) as client,
                httpx.AsyncClient(trust_env=False, timeout=10) as beside,
            ):
                provider = Provider(beside, url, key)
                base = f"http://127.0.0.1:{front_port}"
                users = max(10, storm.sessions // 8)
                customers = Customers(client, base, url, key, storm.seed, users, storm.longest_s)
                await _blow(storm, workers, customers, provider, beside)
                blown_s = time.monotonic() - began
                before_calm = ask(database, "select count(*) from sessions where state = 'settled'")
                left = await _end(database, provider)
                settled_s = time.monotonic() - began - blown_s
                records = await provider.calls()
                facts = Facts(
                    truths=await provider.truths(records),
                    stored=await stored_sessions(database, client, base),
                    calls=calls_of(records),
                    told=customers.told,
                    granted=customers.granted,
                    grant_entries=ask(database, GRANTED),
                    rate=storm.rate,
                    speed=storm.speed,
                )
                struck = await provider.struck()
        finally:
            server.close()
            await front.close()
            codes = [worker.stop() for worker in workers]
        _print(facts, customers, workers, struck)
        print(
            f"{blown_s:.0f} s of storm, in which {before_calm} were settled; all had ended {settled_s:.0f} s after it"
        )
        wrong = {name: list(check(facts)) for name, check in CHECKS.items()}
        wrong["all had ended in time"] = [f"{left} sessions have not ended, or hold credits"] if left else []
        wrong["the storm was one"] = _calm(storm, facts, struck, workers)
        wrong["services end in order, and log no error"] = _troubles(workers, codes)
        wrong["talktime verify"] = _command(folder, settings, "verify")
        wrong["talktime replay"] = _command(folder, settings, "replay")
    return _judge(wrong, storm)


def _settings(
    storm: Storm, clock: ScaledClock, database: str, provider: str, key: str, public_url: str
) -> Mapping[str, str]:
    return {
        "TALKTIME_DATABASE_URL": database,
        "TALKTIME_LEDGER_KEYS": "storm-ledger-key-0123456789",
        "TALKTIME_SECRET": "storm-secret-0123456789",
        "TALKTIME_BOOTSTRAP_ADMIN_KEY": ADMIN_KEY,
        "TALKTIME_GABBER_BASE_URL": provider,
        "TALKTIME_GABBER_API_KEY": key,
        "TALKTIME_GABBER_CAPABILITIES": "end",
        "TALKTIME_PUBLIC_URL": public_url,
        "TALKTIME_CLOCK": str(clock),
        "TALKTIME_PROVIDER_MAX_RPS": str(storm.rate),
        # A real second.
        "TALKTIME_PROVIDER_TIMEOUT_S": str(storm.speed),
        "TALKTIME_RECONCILE_INTERVAL_S": "15",
        "TALKTIME_SETTLE_DELAY_S": "30",
        "TALKTIME_NO_HEARTBEAT_GRACE_S": "120",
        "TALKTIME_EVIDENCE_WAIT_S": str(storm.evidence_wait_s),
        "TALKTIME_REVIEW_AFTER_S": str(storm.review_after_s),
    }


async def _blow(
    storm: Storm,
    workers: Sequence[Worker],
    customers: Customers,
    provider: Provider,
    client: httpx.AsyncClient,
) -> None:
    """Sessions while everything goes wrong, until the last agent has left and a little longer."""
    for worker in workers:
        worker.start()
    for worker in workers:
        await worker.until_ready(client)
    await customers.publish()
    await provider.set_faults(dict(FAULTS))
    over = asyncio.Event()
    deaths = [
        asyncio.create_task(worker.suffer(client, random.Random(f"{storm.seed}-{worker.name}"), over))
        for worker in workers
    ]
    try:
        await customers.top_up()
        wishes = []
        for number in range(MOST_WISHES * storm.sessions):
            if customers.started() >= storm.sessions:
                break
            wishes.append(asyncio.create_task(customers.session(number)))
            if number % 250 == 249:
                kills = sum(worker.kills for worker in workers)
                print(f"  {number + 1} asked for, {customers.started()} started, {kills} kills", flush=True)
            await asyncio.sleep(1 / storm.per_s)
        await asyncio.gather(*wishes)
        await provider.until_quiet(120)
        await asyncio.sleep(CALM_S)
        await provider.set_faults({})
    finally:
        over.set()
        await asyncio.gather(*deaths)


async def _end(database: str, provider: Provider) -> int:
    """Wait until everything has ended; how many sessions have not when patience ends."""
    await provider.until_quiet(120)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        left = ask(database, NOT_YET)
        if not left or time.monotonic() > deadline:
            return left
        await asyncio.sleep(1)


def _calm(storm: Storm, facts: Facts, struck: Mapping[str, int], workers: Sequence[Worker]) -> list[str]:
    """What did not happen though a storm has it."""
    found = [f"{name} never struck" for name in never_struck(struck, all_of_them=storm.sessions >= LONG)]
    found += [f"{worker.name} was killed {worker.kills} times" for worker in workers if worker.kills < 2]
    states = Counter(session.state for session in facts.stored)
    found += [f"no session is {state}" for state in ("settled", "failed", "review") if not states[state]]
    if states["settled"] * (3 if storm.sessions >= LONG else 5) < len(facts.stored):
        found.append(f"only {states['settled']} of {len(facts.stored)} sessions are settled")
    if len(facts.truths) < storm.sessions:
        found.append(f"only {len(facts.truths)} sessions of {storm.sessions} were started at the provider")
    return found


def _troubles(workers: Sequence[Worker], codes: Sequence[int]) -> list[str]:
    found = []
    for worker, code in zip(workers, codes, strict=True):
        if code != 0 or worker.died:
            found.append(f"{worker.name}: exit code {code}, ended {worker.died} times by itself")
        with worker.log.open(errors="replace") as log:
            found += [f"{worker.name}: {line.strip()[:400]}" for line in log if '"level": "error"' in line]
    return found


def _command(folder: Path, settings: Mapping[str, str], *arguments: str) -> list[str]:
    done = command(folder, settings, *arguments)
    print(f"talktime {' '.join(arguments)}: {' '.join(done.stdout.split())[-300:]}")
    return [] if done.returncode == 0 else [f"exit code {done.returncode}: {(done.stdout + done.stderr)[-1500:]}"]


def _print(facts: Facts, customers: Customers, workers: Sequence[Worker], struck: Mapping[str, int]) -> None:
    beats = [beat for truth in facts.truths for beat in truth.beats]
    states = Counter(session.state for session in facts.stored)
    ours = [call for call in facts.calls if call.ours]
    lines: dict[str, Any] = {
        "wishes": _counted(Counter(told.outcome for told in facts.told)),
        "sessions": f"{len(facts.stored)}: {_counted(states)}",
        "at the provider": f"{len(facts.truths)} started",
        "in review": _counted(
            Counter(session.why.split(":")[0] for session in facts.stored if session.state == "review")
        ),
        "failed": _counted(Counter(session.why for session in facts.stored if session.state == "failed")),
        "kills": f"{_counted({worker.name: worker.kills for worker in workers})}; up again within "
        f"{max(worker.starting_s for worker in workers):.1f} s",
        "requests of customers": f"{customers.asked}: {_counted(customers.answers)}",
        "heartbeats": f"{len(beats)} due, {sum(beat.sent_at is not None for beat in beats)} sent, "
        f"{sum(beat.acknowledged for beat in beats)} acknowledged, "
        f"{sum(len(session.heartbeats) for session in facts.stored)} stored",
        "requests to the provider": f"{len(ours)}; "
        + ", ".join(f"at most {most} in {window} s" for window, most in most_called(ours).items())
        + f" ({facts.rate} a second may come)",
        "faults": _counted(Counter(struck)),
        "charged": f"{sum(session.charged or 0 for session in facts.stored) / 1_000_000:.6f} credits",
    }
    for name, line in lines.items():
        print(f"{name}: {line}")


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1])) or "none"


def _judge(wrong: Mapping[str, Sequence[str]], storm: Storm) -> int:
    for name, findings in wrong.items():
        print(f"{'ok' if not findings else 'WRONG':5} {name}" + (f": {len(findings)}" if findings else ""))
        for finding in findings[:TOLD]:
            print(f"        {finding}")
    failed = [name for name, findings in wrong.items() if findings]
    if failed:
        print(f"failed with seed {storm.seed}: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
