"""The rate card: prices and measurement policy of one session, frozen when it starts (docs/charging.md §9)."""

from dataclasses import dataclass
from enum import StrEnum

from app.core.units import MICROCREDITS_PER_CREDIT, US_PER_S, MicroCredits, Micros


class Scope(StrEnum):
    """What increments round up: all priced time of the session together, or that of each type."""

    SESSION = "session"
    TYPE = "type"


class RoundingMode(StrEnum):
    HALF_EVEN = "half_even"
    UP = "up"
    DOWN = "down"


class ChargeFrom(StrEnum):
    """Where on the timeline charging begins."""

    ORIGIN = "origin"
    FIRST_HEARTBEAT = "first_heartbeat"
    FIRST_SPEECH = "first_speech"
    FIRST_USER_SPEECH = "first_user_speech"


FULL_FACTOR = 1_000_000
"""Factors are whole millionths; this one is 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateCard:
    """One immutable version of prices. Rates are micro-credits a minute, the factor is in millionths."""

    name: str
    user_rate: MicroCredits
    agent_rate: MicroCredits
    silence_rate: MicroCredits
    full_rate_first: Micros | None = Micros(5 * US_PER_S)
    factor_after: int = 0
    initial: Micros = Micros(0)
    subsequent: Micros = Micros(0)
    scope: Scope = Scope.SESSION
    connection_fee: MicroCredits = MicroCredits(0)
    included: Micros = Micros(0)
    short_session_exemption: Micros = Micros(0)
    minimum_duration: Micros = Micros(0)
    minimum_charge: MicroCredits = MicroCredits(0)
    maximum_charge: MicroCredits | None = None
    quantum: MicroCredits = MicroCredits(1)
    rounding: RoundingMode = RoundingMode.HALF_EVEN
    heartbeat_interval: Micros = Micros(30 * US_PER_S)
    missed_heartbeats_tolerated: int = 1
    heartbeat_jitter: Micros = Micros(15 * US_PER_S)
    charge_from: ChargeFrom = ChargeFrom.ORIGIN

    @property
    def gap(self) -> Micros:
        """G: proofs of life at most this far apart prove the time between them."""
        return Micros(self.heartbeat_interval * (1 + self.missed_heartbeats_tolerated) + self.heartbeat_jitter)


DEFAULT_RATE_CARD = RateCard(
    name="default",
    user_rate=MicroCredits(60 * MICROCREDITS_PER_CREDIT),
    agent_rate=MicroCredits(60 * MICROCREDITS_PER_CREDIT),
    silence_rate=MicroCredits(60 * MICROCREDITS_PER_CREDIT),
)
"""One credit is one second of conversation; of each silence the first five seconds count."""
