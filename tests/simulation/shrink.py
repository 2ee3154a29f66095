"""From a failing world to a short one: events are left out as long as the same rule is broken."""

import time
from collections.abc import Callable
from typing import Final

from tests.simulation.plan import Plan

MOST_RUNS: Final = 80
MOST_S: Final = 120.0
"""Nor is anything tried any more after so many seconds of real time."""


def shrink(plan: Plan, kind: str, broken_by: Callable[[Plan], str | None]) -> Plan:
    """A plan with as few events as :data:`MOST_RUNS` tries and :data:`MOST_S` seconds find, that still breaks ``kind``.

    ``broken_by`` runs a plan and answers the kind of rule that it breaks. Halves are left out first, then less.
    """
    runs, end_s = 0, time.monotonic() + MOST_S

    def breaks(tried: Plan) -> bool:
        nonlocal runs
        runs += 1
        return runs <= MOST_RUNS and time.monotonic() < end_s and broken_by(tried) == kind

    size = max(1, len(plan.events) // 2)
    while size and runs < MOST_RUNS and time.monotonic() < end_s:
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
