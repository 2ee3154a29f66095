"""When a user's balance is worth an alert: edges only, with hysteresis (re-armed at 1.2 times the threshold)."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from app.core.units import MicroCredits


class Level(StrEnum):
    OK = "ok"
    LOW = "low"
    """Below the user's threshold, and not yet back at 1.2 times it."""
    DEPLETED = "depleted"
    """The balance affords no session any more."""


_DEPTH: Final = {Level.OK: 0, Level.LOW: 1, Level.DEPLETED: 2}
_REARM: Final = (6, 5)
"""1.2, as a fraction."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """``low`` null: the user wants no such alert. Below ``depleted`` the shortest session is not affordable."""

    low: MicroCredits | None
    depleted: MicroCredits


def level_of(before: Level | None, balance: MicroCredits, thresholds: Thresholds) -> Level:
    """The level of ``balance`` for an account that was at ``before``; null: never judged.

    The balance is judged and not what is available, or each start would be an alert.
    """
    if _below(balance, thresholds.depleted, armed=before is not Level.DEPLETED):
        return Level.DEPLETED
    if thresholds.low is not None and _below(balance, thresholds.low, armed=before in {None, Level.OK}):
        return Level.LOW
    return Level.OK


def _below(balance: MicroCredits, threshold: MicroCredits, *, armed: bool) -> bool:
    up, down = _REARM
    return balance < threshold if armed else balance * down < threshold * up


class Signal(StrEnum):
    LOW = "balance.low"
    DEPLETED = "balance.depleted"
    RECOVERED = "balance.recovered"


def signals(before: Level | None, after: Level, balance: MicroCredits, thresholds: Thresholds) -> list[Signal]:
    """What to say about the step from ``before`` to ``after``; nothing about the first judgement of an account.

    An account that falls past its threshold to nothing at once is both low and depleted. One that is no longer low
    only because nobody asks any more has not recovered.
    """
    if before is None or before is after:
        return []
    if _DEPTH[after] > _DEPTH[before]:
        low = before is Level.OK and thresholds.low is not None and balance < thresholds.low
        return [*([Signal.LOW] if low else []), *([Signal.DEPLETED] if after is Level.DEPLETED else [])]
    return [] if before is Level.LOW and thresholds.low is None else [Signal.RECOVERED]
