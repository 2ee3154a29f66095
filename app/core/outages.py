"""Our own outages: stretches in which no process of ours received heartbeats.

A provider that could not reach us cannot prove that a session lives, so silence of heartbeats means nothing then: the
clocks that wait for one stand still. What is charged does not change: time without proof stays unbilled, whoever is to
blame for that.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from app.core.units import Instant, Micros


class Outage(NamedTuple):
    """From ``start`` to ``end``, which is later."""

    start: Instant
    end: Instant


def find_outages(
    received: Iterable[tuple[Instant, Instant]], *, known_from: Instant, now: Instant, patience: Micros
) -> tuple[Outage, ...]:
    """What is not covered by ``received`` from ``known_from`` to ``now``, in order.

    ``received``: from when to when each process received, as far as it has said so, in any order. They say so from time
    to time: nothing said for up to ``patience`` before ``now`` is no outage yet.
    """
    found: list[Outage] = []
    covered_to = known_from
    for start, end in sorted(received):
        if start >= now:
            break
        if start > covered_to:
            found.append(Outage(covered_to, start))
        covered_to = max(covered_to, end)
    if now - covered_to > patience:
        found.append(Outage(covered_to, now))
    return tuple(found)


def passed_by(start: Instant, wait: Micros, outages: Sequence[Outage]) -> Instant:
    """When ``wait`` has passed since ``start`` but for ``outages``, which are in order and do not overlap."""
    until = Instant(start + wait)
    for outage in outages:
        if outage.end <= start:
            continue
        begin = max(outage.start, start)
        if begin >= until:
            break
        until = Instant(until + outage.end - begin)
    return until


def any_within(start: Instant, end: Instant, outages: Iterable[Outage]) -> bool:
    """Whether any outage falls into the stretch from ``start`` to ``end``, if only in part."""
    return any(outage.start < end and outage.end > start for outage in outages)
