"""Endpoints of every kind, as their owners run them, and what arrived at each."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.support.hooks import CUT, HANG, Hooks, Received, Reply

FAST, SLOW, FLAKY, CUTTING, HANGING, FAILING, GONE, ASTRAY = (
    *("fast", "slow", "flaky", "cutting", "hanging", "failing", "gone", "astray"),
)
KINDS: Final[Mapping[str, int]] = {
    FAST: 11, SLOW: 2, FLAKY: 1, CUTTING: 1, HANGING: 2, FAILING: 1, GONE: 1, ASTRAY: 1,
}  # fmt: skip
"""How many there are of each: 20 in all."""

HEALTHY: Final = (FAST, SLOW, FLAKY, CUTTING)
"""Those that every event must reach."""

SLOW_S: Final = 0.04
TROUBLE: Final = 0.2
"""How often a flaky one refuses, and a cutting one closes the connection, when it first hears of an event."""

GONE_AFTER: Final = 50
"""Events after which an endpoint answers 410."""


@dataclass
class Endpoints:
    """What came, by path: how often each id, with which body; when the first of each; and what was not to come."""

    hooks: Hooks
    seed: int
    times: dict[str, Counter[str]] = field(default_factory=dict)
    bodies: dict[str, bytes] = field(default_factory=dict)
    last_new_at: dict[str, float] = field(default_factory=dict)
    signed: dict[str, list[Received]] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    after_410: int = 0
    led_astray: int = 0

    def paths(self, *kinds: str) -> Sequence[str]:
        return [f"/{kind}/{n}" for kind in kinds for n in range(KINDS[kind])]

    def behave(self, received: Received) -> Reply | str | None:
        # Hundreds of thousands come: what is not needed any more is not kept.
        self.hooks.received.clear()
        kind = received.path.split("/")[1]
        if kind == "elsewhere":
            self.led_astray += 1
            return Reply()
        times = self.times.setdefault(received.path, Counter())
        times[received.id] += 1
        new = times[received.id] == 1
        if new:
            self.last_new_at[received.path] = received.at
        if self.bodies.setdefault(received.id, received.body) != received.body:
            self.changed.append(received.id)
        if len(times) % 50 == 1:
            self.signed.setdefault(received.path, []).append(received)
        troubled = new and random.Random(f"{self.seed}/{received.path}/{received.id}").random() < TROUBLE
        match kind:
            case "slow":
                return Reply(after_s=SLOW_S)
            case "flaky" if troubled:
                return Reply(500)
            case "cutting" if troubled:
                return CUT
            case "hanging":
                return HANG
            case "failing":
                return Reply(503)
            case "gone" if len(times) > GONE_AFTER:
                self.after_410 += 1
                return Reply(410)
            case "astray":
                return Reply(307, {"location": self.hooks.url("/elsewhere")})
        return Reply()

    def missing(self, ids: frozenset[str]) -> dict[str, int]:
        """How many of ``ids`` each healthy endpoint lacks; only those that lack any."""
        lacks = {path: len(ids - self.times.get(path, Counter()).keys()) for path in self.paths(*HEALTHY)}
        return {path: number for path, number in lacks.items() if number}
