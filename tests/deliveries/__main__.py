"""``python -m tests.deliveries``: events to 20 endpoints through a real process that is killed twice on the way.

Some endpoints fail, hang, cut connections, redirect, or are gone. Each event must reach every healthy one, under one id
and in one form, whatever was killed when. Exit 0: so it was; 1: it was not, with a line for each thing that is wrong.
"""

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
from standardwebhooks import Webhook

from app.deliveries.events import event_id
from app.ports.clock import ScaledClock
from app.running import database_of
from app.settings import load_settings
from tests.deliveries.endpoints import FAST, GONE, HANGING, HEALTHY, KINDS, Endpoints
from tests.storm.processes import Worker, free_ports
from tests.support.hooks import hooks
from tests.support.postgres import ask, open_folder, scratch_folder

ADMIN_KEY: Final = "deliveries-admin-key-0123456789"
SPEED: Final = 20
"""The clock's, times real time: waits of minutes are seconds here."""

LIMIT_S: Final = 40
"""What an endpoint has to answer, on that clock: two seconds of real time."""

USERS: Final = 40
AT_ONCE: Final = 16
"""Grants that are asked for at once."""

KILLED_AT: Final = (0.35, 0.7)
"""The process is killed when so much of what is to arrive at fast endpoints has."""

PATIENCE_S: Final = 40
PATIENCE_PER_EVENT_S: Final = 0.04
"""Real seconds within which all must have arrived after the last event."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.deliveries", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000, help="grants, each an event")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    for folder in open_folder(scratch_folder()):
        settings = load_settings(data_dir=folder, database_url=None)
        with database_of(settings, for_long=True) as databases:
            wrong = asyncio.run(happen(asked.events, asked.seed, folder, databases.service))
        print("\n".join(wrong) or "all came out right", flush=True)
        return 1 if wrong else 0
    raise AssertionError


async def happen(events: int, seed: int, folder: Path, database: str) -> Sequence[str]:
    (port,) = free_ports(1)
    settings = {
        "TALKTIME_DATABASE_URL": database,
        "TALKTIME_LEDGER_KEYS": "deliveries-ledger-key-0123456789",
        "TALKTIME_SECRET": "deliveries-secret-0123456789",
        "TALKTIME_GABBER_API_KEY": "deliveries-provider-key",
        "TALKTIME_GABBER_BASE_URL": "http://127.0.0.1:1",
        "TALKTIME_BOOTSTRAP_ADMIN_KEY": ADMIN_KEY,
        "TALKTIME_CALLER_MAX_RPS": "0",
        "TALKTIME_CLOCK": str(ScaledClock.starting_now(SPEED)),
        "TALKTIME_EVENTS_ALLOW_PRIVATE_TARGETS": "true",
        "TALKTIME_EVENTS_TIMEOUT_S": str(LIMIT_S),
    }
    worker = Worker("serve", port, settings, folder)
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    limits = httpx.Limits(max_connections=AT_ONCE)
    async with (
        hooks() as receiver,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False, limits=limits
        ) as client,
    ):
        endpoints = Endpoints(receiver, seed)
        receiver.behave = endpoints.behave
        await worker.until_ready(client)
        made = await make_endpoints(client, endpoints)
        run = Run(events, endpoints, worker, client, database)
        wrong = await run.happen()
        wrong += await run.judge(made)
        if worker.stop() != 0:
            wrong.append("the process did not end in order")
    return wrong


async def make_endpoints(client: httpx.AsyncClient, endpoints: Endpoints) -> dict[str, dict[str, Any]]:
    made = {}
    for path in endpoints.paths(*KINDS):
        body = {"url": endpoints.hooks.url(path), "description": path, "event_types": []}
        response = await client.post("/v1/webhook-endpoints", json=body)
        response.raise_for_status()
        made[path] = response.json()
    return made


class Run:
    """Grants are asked for, the process is killed, and all arrives."""

    def __init__(
        self, events: int, endpoints: Endpoints, worker: Worker, client: httpx.AsyncClient, database: str
    ) -> None:
        self._events = events
        self._endpoints = endpoints
        self._worker = worker
        self._client = client
        self._database = database
        self._granted: set[str] = set()
        self._ids: frozenset[str] = frozenset()

    async def happen(self) -> list[str]:
        began = time.monotonic()
        over = asyncio.Event()
        killer = asyncio.create_task(self._kill(over))
        numbers = iter(range(self._events))
        await asyncio.gather(*(self._grant(numbers) for _ in range(AT_ONCE)))
        granted_s = time.monotonic() - began
        print(f"{self._events} grants were acknowledged in {granted_s:.1f} s", flush=True)
        patience = time.monotonic() + PATIENCE_S + PATIENCE_PER_EVENT_S * self._events
        while time.monotonic() < patience:
            self._ids = self._public_ids()
            if killer.done() and not self._endpoints.missing(self._ids):
                break
            await asyncio.sleep(0.5)
        over.set()
        await killer
        arrived_s = time.monotonic() - began
        print(f"all {len(self._ids)} events had arrived after {arrived_s:.1f} s, over {self._worker.kills} kills")
        lacks = self._endpoints.missing(self._ids)
        return [f"{path} lacks {number} of {len(self._ids)} events" for path, number in lacks.items()]

    async def _grant(self, numbers: Any) -> None:
        """Ask for the next grants, each again under its key until it is acknowledged."""
        for number in numbers:
            body, headers = {"amount": "1"}, {"idempotency-key": f"grant-{number}"}
            while True:
                try:
                    path = f"/v1/users/user-{number % USERS}/grants"
                    answer = await self._client.post(path, json=body, headers=headers, timeout=20)
                except httpx.HTTPError:
                    await asyncio.sleep(0.2)
                    continue
                if answer.status_code == 201:
                    self._granted.add(answer.json()["id"])
                    break
                await asyncio.sleep(0.1)

    async def _kill(self, over: asyncio.Event) -> None:
        """Kill the process while it delivers, and start it again."""
        for share in KILLED_AT:
            wanted = share * self._events * KINDS[FAST]
            while not over.is_set():
                here = sum(len(self._endpoints.times.get(path, ())) for path in self._endpoints.paths(FAST))
                if here >= wanted:
                    break
                await asyncio.sleep(0.02)
            self._worker.kill()
            await self._worker.until_ready(self._client)

    def _public_ids(self) -> frozenset[str]:
        """The ids of all events that there are."""
        return frozenset(event_id(*row) for row in ask(self._database, "select account_id, id from events"))

    async def judge(self, made: dict[str, dict[str, Any]]) -> list[str]:
        endpoints = self._endpoints
        wrong: list[str] = []
        told = {one for (one,) in ask(self._database, "select data ->> 'grant_id' from events")} - {None}
        if self._granted - told:
            wrong.append(f"{len(self._granted - told)} acknowledged grants have no event")
        gaps = "select count(*) from (select account_id from events group by account_id having max(seq) <> count(*)) g"
        if ask(self._database, gaps) != [(0,)]:
            wrong.append("numbers of events have gaps")
        strange = set().union(*(times for times in endpoints.times.values())) - self._ids
        if strange:
            wrong.append(f"{len(strange)} ids arrived that no event has")
        if endpoints.changed:
            wrong.append(f"{len(endpoints.changed)} events changed between two attempts")
        if endpoints.led_astray:
            wrong.append(f"{endpoints.led_astray} redirects were followed")
        wrong += self._judge_signatures(made)
        wrong += await self._judge_states(made)
        fast = [endpoints.last_new_at[path] for path in endpoints.paths(FAST) if path in endpoints.last_new_at]
        hanging = sum(len(endpoints.times.get(path, ())) for path in endpoints.paths(HANGING))
        again = sum((times - Counter(times.keys())).total() for path, times in self._of(FAST))
        print(f"fast endpoints ended within {max(fast) - min(fast):.2f} s of each other, {again} deliveries came again")
        print(f"the {KINDS[HANGING]} that hang had seen {hanging} of {KINDS[HANGING] * len(self._ids)} by then")
        if hanging >= KINDS[HANGING] * len(self._ids):
            wrong.append("those that hang kept up: they delayed nothing because they were no trouble")
        # What was under way when the process was killed, and what was not written down: a batch for each endpoint.
        most = 16 * KINDS[FAST] * len(KILLED_AT)
        if again > most:
            wrong.append(f"{again} deliveries came again to endpoints that answered at once; {most} could have")
        return wrong

    def _of(self, *kinds: str) -> list[tuple[str, Counter[str]]]:
        return [(path, self._endpoints.times.get(path, Counter())) for path in self._endpoints.paths(*kinds)]

    def _judge_signatures(self, made: dict[str, dict[str, Any]]) -> list[str]:
        bad = checked = 0
        for path, some in self._endpoints.signed.items():
            webhook = Webhook(made[path]["secret"])
            for received in some:
                at = datetime.fromtimestamp(int(received.headers["webhook-timestamp"]), UTC)
                bad += received.headers["webhook-signature"] != webhook.sign(received.id, at, received.body.decode())
                checked += 1
        print(f"{checked} signatures were held against the library's")
        return [f"{bad} signatures are wrong"] if bad or not checked else []

    async def _judge_states(self, made: dict[str, dict[str, Any]]) -> list[str]:
        wrong = []
        for path, endpoint in made.items():
            shown = (await self._client.get(f"/v1/webhook-endpoints/{endpoint['id']}")).json()
            kind = path.split("/")[1]
            if kind in HEALTHY and (shown["state"] != "active" or shown["backlog"]["dead"]):
                wrong.append(f"{path} is {shown['state']} with {shown['backlog']['dead']} dead letters")
            if kind == GONE and (shown["state"], shown["disabled_why"]) != ("disabled", "gone"):
                wrong.append(f"{path} is {shown['state']}, though it answered 410")
        # Four may be under way when the first 410 comes, and what a process that was killed had heard is forgotten.
        most = 4 * (1 + len(KILLED_AT))
        if not 1 <= self._endpoints.after_410 <= most:
            wrong.append(f"an endpoint that is gone was called {self._endpoints.after_410} times after it was")
        return wrong


if __name__ == "__main__":
    raise SystemExit(main())
