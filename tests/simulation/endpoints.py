"""Endpoints of the simulated world: what is sent to them, how they fail, and what must have reached them.

Their throws are drawn by names of their own, and only some worlds have endpoints, so that what else happens in a world
stays as it was.
"""

import base64
import hashlib
import hmac
import json
from asyncio import sleep
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from app.core.targets import Target
from app.core.units import US_PER_S
from app.deliveries.sending import Answered, NotAnswered
from tests.simulation.dice import rng
from tests.simulation.loop import WorldClock

WELL, GONE = "/well", "/gone"
HOST: Final = "https://hook.example"
FAULTS: Final = (
    "500", "429", "redirect", "hang", "drop before", "drop after", "slow", "dies before", "dies after",
)  # fmt: skip
"""What happens to a delivery. ``dies``: the process does, before the event has arrived, or before it could write down
that it has."""

RATE: Final = 0.3
GONE_AFTER: Final = 3
"""Events after which one endpoint answers 410."""

HANGS_S: Final = 10.0
TOLERANCE_S: Final = 300
"""By so much, in seconds, the timestamp of a request may be off."""


@dataclass
class Endpoints:
    """All that arrived. ``die`` ends a process by its name; ``fail`` is told what must not be."""

    seed: int
    clock: WorldClock
    fail: Callable[[str, str], None]
    active: Callable[[], bool]
    seen: Counter[str]
    secrets: dict[str, str] = field(default_factory=dict)
    made_at: int | None = None
    """When somebody was told that the endpoint that is well was made."""
    bodies: dict[str, bytes] = field(default_factory=dict)
    times: dict[str, Counter[str]] = field(default_factory=dict)
    arrived: dict[str, set[str]] = field(default_factory=dict)
    after_gone: int = 0

    async def receive(
        self, target: Target, headers: Mapping[str, str], body: bytes, die: Callable[[], None]
    ) -> Answered | NotAnswered:
        path, event_id = target.path, headers["webhook-id"]
        times = self.times.setdefault(path, Counter())
        times[event_id] += 1
        fault = self._fault(path, event_id, times[event_id])
        if fault in {"drop before", "dies before"}:
            if fault == "dies before":
                die()
            return NotAnswered("the connection broke: test")
        self._note(path, event_id, headers, body)
        if path == GONE and len(self.arrived[path]) > GONE_AFTER:
            self.after_gone += 1
            return Answered(410, None, b"")
        if fault is None or fault == "slow":
            self.arrived[path].add(event_id)
        match fault:
            case "dies after":
                die()
            case "hang":
                await sleep(HANGS_S)
                return NotAnswered("no answer in time")
            case "slow":
                await sleep(HANGS_S / 2)
            case "drop after":
                return NotAnswered("the connection broke: test")
            case "500":
                return Answered(500, None, b"out of order")
            case "429":
                return Answered(429, "30", b"")
            case "redirect":
                return Answered(307, None, b"")
        return Answered(204, None, b"")

    def _fault(self, path: str, event_id: str, times: int) -> str | None:
        drawn = rng(self.seed, "endpoint", path, event_id, times)
        if not self.active() or drawn.random() >= RATE:
            return None
        fault = drawn.choice(FAULTS)
        self.seen[f"endpoint/{fault}"] += 1
        return fault

    def _note(self, path: str, event_id: str, headers: Mapping[str, str], body: bytes) -> None:
        self.arrived.setdefault(path, set())
        if self.bodies.setdefault(event_id, body) != body:
            self.fail("an event changed between two attempts", event_id)
        if json.loads(body)["id"] != event_id:
            self.fail("an event is sent under another's id", event_id)
        timestamp = headers["webhook-timestamp"]
        if abs(int(timestamp) - self.clock.now() // US_PER_S) > TOLERANCE_S:
            self.fail("a request bears another time", f"{event_id}: {timestamp}")
        key = base64.b64decode(self.secrets[path].removeprefix("whsec_"))
        signed = f"{event_id}.{timestamp}.".encode() + body
        ours = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        if ours not in headers["webhook-signature"].split(" "):
            self.fail("a signature does not fit", event_id)

    def check(self, events: Mapping[str, int], states: Mapping[str, str], skew: int) -> None:
        """Each event of after its making has reached the endpoint that is well, and nothing else has.

        ``events``: when each was written, by its id. ``states``: of endpoints, by path.
        """
        if self.made_at is None:
            return
        arrived = self.arrived.get(WELL, set())
        for event_id, at in events.items():
            if at > self.made_at + 2 * skew and event_id not in arrived:
                self.fail("an event did not reach an endpoint", event_id)
        for event_id in arrived - events.keys():
            self.fail("an endpoint was told what did not happen", event_id)
        if self.after_gone and states.get(GONE) != "disabled":
            self.fail("an endpoint that is gone was not disabled", str(states))
        self.seen["endpoint told again"] += any(times > 1 for times in self.times.get(WELL, Counter()).values())
        self.seen["endpoint gone"] += self.after_gone > 0


class Sender:
    """What one process sends. ``die`` ends that process."""

    def __init__(self, endpoints: Endpoints, die: Callable[[], None]) -> None:
        self._endpoints = endpoints
        self._die = die

    async def post(
        self, endpoint_id: UUID, target: Target, headers: Mapping[str, str], body: bytes
    ) -> Answered | NotAnswered:
        return await self._endpoints.receive(target, headers, body, self._die)

    async def forget(self, endpoint_id: UUID) -> None:
        """Nothing is kept."""

    async def aclose(self) -> None:
        """Nothing is kept."""


BRANCHES: Final = (*(f"endpoint/{fault}" for fault in FAULTS), "endpoint 201", "endpoint told again", "endpoint gone")
"""What must have happened over a run of many worlds."""


def listens(seed: int) -> bool:
    """Whether the world of a seed has endpoints."""
    return seed % 4 == 2


def document_of(path: str) -> Mapping[str, Any]:
    return {"url": HOST + path}
