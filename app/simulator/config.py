"""How a simulated provider is set up."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from app.core.units import US_PER_S, Micros
from app.ports.clock import Clock
from app.ports.randomness import Randomness, SeededRandomness, SystemRandomness
from app.simulator.faults import Setting
from app.simulator.script import Script, built_in

MAX_TIME_LIMIT_S: Final = 86_400
MAX_SESSIONS: Final = 20_000
"""Beyond it the oldest session whose agent has left is forgotten; if there is none, starts are answered 500."""

MAX_PAGE_SIZE: Final = 10_000
PERSONAS: Final = ("default", "receptionist", "tutor")


class Envelope(Enum):
    """The guide shows ``{"status", "body"}``; every published client reads the bare body."""

    WRAPPED = "wrapped"
    BARE = "bare"


class NextPage(Enum):
    """What ``next_page`` holds: the published schemas do not agree."""

    TOKEN = "token"  # noqa: S105 - a kind of page, not a secret
    INTEGER = "integer"
    URL = "url"
    RELATIVE = "relative"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorConfig:
    """One simulated provider. ``port`` 0 takes a free one; ``seed`` makes conversations, faults and ids repeatable."""

    api_key: str = field(repr=False)
    clock: Clock
    host: str = "127.0.0.1"
    port: int = 0
    scripts: Mapping[str, Script] = field(default_factory=built_in)
    default_script: str = "talk"
    """Played for the scenario ``default``, and with ``any_persona`` for every scenario that is no script's name."""
    personas: tuple[str, ...] = PERSONAS
    any_persona: bool = False
    page_size: int = 100
    envelope: Envelope = Envelope.WRAPPED
    next_page: NextPage = NextPage.TOKEN
    faults: Mapping[str, Setting] = field(default_factory=dict)
    seed: int | None = None
    default_time_limit_s: int = 3600
    """For a start without ``time_limit_s``: nothing here runs for ever."""
    heartbeat_retries: int = 0
    slow: Micros = Micros(5 * US_PER_S)
    """By how much a slow answer is late, on the clock."""
    late: Micros = Micros(20 * US_PER_S)
    """By how much a late heartbeat is late, on the clock."""

    def __post_init__(self) -> None:
        if not self.api_key or not self.api_key.isascii() or not self.api_key.isprintable():
            raise ValueError("the key must be printable ASCII")
        if self.default_script not in self.scripts:
            raise ValueError("the default script is none of the scripts")
        if not 1 <= self.page_size <= MAX_PAGE_SIZE:
            raise ValueError(f"the page size must be between 1 and {MAX_PAGE_SIZE}")
        if not 1 <= self.default_time_limit_s <= MAX_TIME_LIMIT_S:
            raise ValueError(f"the default time limit must be between 1 and {MAX_TIME_LIMIT_S} seconds")
        if not 0 <= self.heartbeat_retries <= 10:
            raise ValueError("heartbeats are retried at most 10 times")

    def randomness(self, stream: str) -> Randomness:
        """A source of its own for each purpose, so that requests crossing each other do not change what is drawn."""
        return SystemRandomness() if self.seed is None else SeededRandomness(self.seed, stream)
