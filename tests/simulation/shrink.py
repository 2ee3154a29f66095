"""From a failing world to a short one: events are left out as long as the same rule is broken."""

from collections.abc import Callable
from typing import Final

from tests.simulation.plan import Plan

MOST_RUNS: Final = 80


def shrink(plan: Plan, kind: str, broken_by: Callable[[Plan], str | None]) -> Plan:
    """A plan with as few events as :data:`MOST_RUNS` tries find, that still breaks the rule ``kind``.

    ``broken_by`` runs a plan and answers the kind of rule that it breaks. Halves are left out first, then less.
    """
    runs = 0

    def breaks(tried: Plan) -> bool:
        nonlocal runs
        runs += 1
        return runs <= MOST_RUNS and broken_by(tried) == kind

    size = max(1, len(plan.events) // 2)
    while size and runs < MOST_RUNS:
        start = 0
        while start < len(plan.events):
            left_out = {event.number for event in plan.events[start : start + size]}
            fewer = plan.only(frozenset(event.number for event in plan.events) - left_out)
            if breaks(fewer):
                plan = fewer
            else:
                start += size
        size //= 2
    return plan
