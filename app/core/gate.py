"""May a session start, for how long, and what must be held for it? (docs/charging.md §9)"""

from dataclasses import dataclass

from app.core.rate_card import RateCard
from app.core.units import MicroCredits, Micros
from app.core.worst_case import affordable_time, worst_case_under


@dataclass(frozen=True, slots=True)
class Admitted:
    """The session may run for ``time_limit``; ``hold`` covers the worst that this can cost."""

    time_limit: Micros
    hold: MicroCredits


@dataclass(frozen=True, slots=True)
class NotCovered:
    """``required`` covers the shortest session; ``affordable`` is the longest that ``available`` covers."""

    available: MicroCredits
    required: MicroCredits
    affordable: Micros


def admit(
    card: RateCard, *, available: MicroCredits, asked: Micros, shortest: Micros, longest: Micros
) -> Admitted | NotCovered:
    """Size a session: what was asked for, at most ``longest`` and what ``available`` affords in the worst case.

    Whole seconds, as the provider takes them; refused if less than ``shortest`` is affordable.
    """
    usable = MicroCredits(max(0, available))
    time_limit = affordable_time(card, usable, Micros(min(asked, longest)))
    required = worst_case_under(card, shortest)
    if time_limit < shortest or required > available:
        return NotCovered(available, required, affordable_time(card, usable, longest))
    return Admitted(time_limit, worst_case_under(card, time_limit))
