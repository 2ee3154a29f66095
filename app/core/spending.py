"""Limits on what sessions may cost in a calendar day or month (UTC)."""

from dataclasses import dataclass
from enum import StrEnum

from app.core.units import US_PER_DAY, Instant, MicroCredits, datetime_of, instant_of


class Period(StrEnum):
    DAY = "day"
    MONTH = "month"


def start_of(period: Period, now: Instant) -> Instant:
    """When the period that ``now`` lies in began, UTC."""
    midnight = datetime_of(now).replace(hour=0, minute=0, second=0, microsecond=0)
    return instant_of(midnight if period is Period.DAY else midnight.replace(day=1))


def end_of(period: Period, now: Instant) -> Instant:
    """When the next such period begins."""
    begun = datetime_of(start_of(period, now))
    if period is Period.DAY:
        return Instant(instant_of(begun) + US_PER_DAY)
    following = (begun.year + 1, 1) if begun.month == 12 else (begun.year, begun.month + 1)
    return instant_of(begun.replace(year=following[0], month=following[1]))


@dataclass(frozen=True, slots=True)
class Spending:
    """A limit, and what was charged (less what was given back) since its period began. ``held``: what running sessions
    may still cost; all of it counts, so that the limit holds however they end."""

    period: Period
    limit: MicroCredits
    charged: MicroCredits
    held: MicroCredits

    @property
    def room(self) -> MicroCredits:
        """What a new session may cost at most; 0 if there is none."""
        return MicroCredits(max(0, self.limit - self.charged - self.held))
