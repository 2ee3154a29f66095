"""What goes wrong by chance. Each throw has a name and is drawn from the seed and that name alone.

So a throw comes out the same whatever else happens, and an event can be left out of a world without changing the rest.
"""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

FAULTS: Final[Mapping[str, tuple[str, ...]]] = {
    "start": (
        "400 usage_limit_exceeded", "400 project_disabled", "400 moderation_error", "400 invalid_input", "401", "403",
        "429", "unreachable", "500", "500 after", "redirect", "slow", "hang", "hang after", "drop before", "drop after",
        "malformed", "no connection", "wrapped 500", "names another", "404", "422", "400 without json",
        "connect timeout", "no place",
    ),
    "timeline": (
        "401", "403", "404", "429", "500", "redirect", "slow", "hang", "drop", "half", "malformed", "nan", "huge",
        "negative", "missing type", "missing seconds", "unknown type", "shrinks", "foreign page", "loop", "odd page",
        "total changes", "revised", "revised much", "slow pages", "wrapped 500", "endless",
    ),
    "end": ("404", "409", "500", "drop before", "drop after", "hang after", "ignored"),
    "heartbeat": ("lost", "doubled", "late", "foreign", "odd body", "long after"),
    "network": ("request lost", "answer lost", "doubled", "late"),
}  # fmt: skip
"""By who does it. ``network``: between the customer and us."""

RARE: Final = frozenset({
    "timeline/missing seconds", "timeline/nan", "timeline/huge", "timeline/negative", "timeline/shrinks",
    "timeline/revised much",    "heartbeat/long after",
})  # fmt: skip
"""A tenth as likely as their group: one of them in the final timeline sends the session into review."""


FAVOUR: Final = {"start": 0.9, "end": 0.9, "timeline": 0.3, "heartbeat": 0.3, "network": 0.3}
"""How likely the favourite strikes. Starts are few."""

ALL: Final = tuple((group, fault) for group, faults in FAULTS.items() for fault in faults)


def rng(*name: object) -> random.Random:
    """Random numbers that depend on ``name`` alone."""
    return random.Random("/".join(map(str, name)))


@dataclass
class Dice:
    """``rates``: how likely some fault of a group strikes, by group; ``favourite``: one that strikes more often.

    ``fired`` counts what struck.
    """

    seed: int
    rates: Mapping[str, float]
    favourite: tuple[str, str]
    active: bool = True
    fired: Counter[str] = field(default_factory=Counter)

    def strike(self, group: str, *name: object) -> str | None:
        """The fault of ``group`` that strikes the throw called ``name``; null: none."""
        drawn = rng(self.seed, group, *name)
        if not self.active:
            return None
        if group == self.favourite[0] and drawn.random() < FAVOUR[group]:
            fault = self.favourite[1]
        elif drawn.random() < self.rates[group]:
            fault = drawn.choice(FAULTS[group])
            if f"{group}/{fault}" in RARE and drawn.random() >= 0.1:
                return None
        else:
            return None
        self.fired[f"{group}/{fault}"] += 1
        return fault
