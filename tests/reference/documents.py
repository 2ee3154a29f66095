"""Random bodies of ``POST /v1/charges/preview``, biased towards where rules change their minds.

The generator asks a :class:`Choice` for every decision, so the same code serves a seeded ``random.Random`` (fast, for
comparing hundreds of thousands of documents) and Hypothesis (which shrinks a failure).
"""

import math
import random
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from app.core.lossless_json import JsonNumber
from tests.reference.charging import SECOND, instant, instant_text, micros, normalise, read_card

T = TypeVar("T")

S0 = instant("2026-01-31T12:00:00.123456+00:00")
"""When the start request of every generated session left."""

BAD_SEGMENTS: tuple[object, ...] = (
    {"type": "user"},
    {"type": "user", "seconds": None},
    {"type": "agent", "seconds": "5"},
    {"type": "agent", "seconds": JsonNumber("-1")},
    {"type": "silence", "seconds": JsonNumber("-0.0000000000001")},
    {"type": "silence", "seconds": JsonNumber("1e9")},
    {"type": "user", "seconds": JsonNumber("1000000000.5")},
    {"type": "user", "seconds": JsonNumber("1e400")},
    {"type": "user", "seconds": JsonNumber("NaN")},
    {"type": "user", "seconds": JsonNumber("Infinity")},
    {"type": "user", "seconds": True},
    {"type": "user", "seconds": []},
    {"type": "tool", "seconds": {}},
    {},
    [],
    "silence",
    JsonNumber("7"),
    True,
    None,
)
"""Everything that §4.2 drops."""


class Choice(Protocol):
    """Where decisions come from."""

    def integer(self, low: int, high: int) -> int: ...

    def of(self, options: Sequence[T]) -> T: ...


class Seeded:
    """Decisions from a seeded generator."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def of(self, options: Sequence[T]) -> T:
        return self._random.choice(options)


def number(value: int, decimals: int = 6) -> JsonNumber:
    """``value`` × 10^-decimals as a JSON number."""
    sign, digits = "-" if value < 0 else "", f"{abs(value):0{decimals + 1}d}"
    text = f"{digits[:-decimals]}.{digits[-decimals:]}".rstrip("0").rstrip(".")
    return JsonNumber(f"{sign}{text}")


def one_in(choice: Choice, n: int) -> bool:
    return choice.integer(1, n) == n


def money(choice: Choice, *usual: str) -> str:
    """An amount or rate: one of the usual ones, else any with up to 6 decimals."""
    if choice.integer(0, 3):
        return choice.of(usual)
    return str(number(choice.integer(0, choice.of((100, 10**6, 10**8)))))


def duration(choice: Choice, *usual: str) -> JsonNumber:
    """A duration in seconds: one of the usual ones, else any with up to 6 decimals."""
    if choice.integer(0, 3):
        return JsonNumber(choice.of(usual))
    return number(choice.integer(0, choice.of((10, 5 * SECOND, 100 * SECOND))))


def rate_card(choice: Choice) -> dict[str, Any]:
    """Any valid rate card; fields and whole groups are left out at random."""
    card: dict[str, Any] = {
        "name": "random",
        "rates": {kind: money(choice, "60", "1.5", "3", "0.6", "0", "1", "0.000001") for kind in TYPES_OF_RATES},
    }
    minimum = money(choice, "0", "0", "0.5", "5")
    maximum = money(choice, "20", "1", "100")
    groups: dict[str, Any] = {
        "silence": {
            "full_rate_first_s": choice.of((None, None, duration(choice, "5", "0", "1.5", "120"))),
            "factor_after": choice.of(("0", "0.5", "1", "0.333333", "0.000001")),
        },
        "increments": {
            "initial_s": duration(choice, "0", "1", "6", "30", "60"),
            "subsequent_s": duration(choice, "0", "1", "6", "60", "0.1"),
            "scope": choice.of(("session", "type")),
        },
        "connection_fee": money(choice, "0", "0.25", "1"),
        "included_s": duration(choice, "0", "0", "3", "30", "1000"),
        "short_session_exemption_s": duration(choice, "0", "0", "0", "5", "20"),
        "minimum_duration_s": duration(choice, "0", "0", "30", "60"),
        "minimum_charge": minimum,
        "maximum_charge": maximum if float(minimum) <= float(maximum) and choice.integer(0, 2) == 0 else None,
        "rounding": {
            "quantum": choice.of(("0.000001", "0.01", "1", "0.25", "0.000003", "7")),
            "mode": choice.of(("half_even", "up", "down")),
        },
        "measurement": {
            "heartbeat_interval_s": duration(choice, "30", "30", "10", "1", "300"),
            "missed_heartbeats_tolerated": JsonNumber(choice.of(("1", "1", "0", "2", "5"))),
            "heartbeat_jitter_s": duration(choice, "15", "15", "0", "2"),
            "charge_from": choice.of(("origin", "first_heartbeat", "first_speech", "first_user_speech")),
        },
    }
    for name, group in groups.items():
        if choice.integer(0, 1):
            continue
        if isinstance(group, dict):
            card[name] = {key: value for key, value in group.items() if choice.integer(0, 4)}
        else:
            card[name] = group
    return card


TYPES_OF_RATES = ("user", "agent", "silence")


def segment_seconds(choice: Choice, card: dict[str, Any]) -> JsonNumber:
    plan = read_card(card)
    cap = plan.full_rate_first or 0
    match choice.integer(0, 9):
        case 0:
            return JsonNumber(
                choice.of(
                    (
                        "0",
                        "0.0",
                        "-0.0",
                        "4e-7",
                        "0.0000004",
                        "0.0000009999",
                        "1e-6",
                        "1e-13",
                        "1E0",
                        "2.50e1",
                        "0.9999999999999",
                        "1.0000009999999999999",
                        "999999999.999999",
                    )
                )
            )
        case 1:
            return number(choice.integer(0, 10**13), 12)
        case 2:
            return number(choice.integer(0, 10**14), 13)
        case 3:
            return number(max(0, cap + choice.integer(-1, 1)))
        case 4:
            return number(max(0, plan.tolerance + choice.integer(-1, 1)))
        case 5:
            return JsonNumber(choice.of(("60", "75", "120", "700", "3600", "763454.513", "99999999.9")))
        case _:
            return number(choice.integer(1, 40_000), 3)


def segments(choice: Choice, card: dict[str, Any]) -> list[object]:
    """A timeline; odd segments are rare enough that most timelines have none."""
    kinds = ["silence", "silence", "silence", "user", "user", "agent", "agent"]
    odd = one_in(choice, 5)
    values: list[object] = []
    for _ in range(choice.of((0, 1, 2, 3, 4, 5, 6, 8, 12))):
        if odd and one_in(choice, 4):
            values.append(choice.of(BAD_SEGMENTS))
            continue
        value: dict[str, Any] = {"type": choice.of(kinds), "seconds": segment_seconds(choice, card)}
        if odd and one_in(choice, 4):
            value = choice.of(
                (
                    {**value, "type": "tool"},
                    {**value, "type": None},
                    {**value, "type": JsonNumber("3")},
                    {**value, "type": "User"},
                    {"seconds": value["seconds"]},
                    {**value, "note": ["of", "later", "versions"]},
                )
            )
        values.append(value)
    return values


def earlier_values(choice: Choice, values: list[object]) -> list[object]:
    """What an earlier (or inconsistent) pull may have shown."""
    if not values:
        return []
    kept = list(values[: choice.integer(0, len(values))])
    match choice.integer(0, 5):
        case 0:
            return [*kept, {"type": choice.of(("user", "silence")), "seconds": JsonNumber("1.000001")}]
        case 1:
            return list(values)
        case 2 | 3 if kept and isinstance(kept[-1], dict):
            return [*kept[:-1], {**kept[-1], "seconds": number(choice.integer(0, 9_000_000))}]
        case _:
            return kept


def snapshots(choice: Choice, values: list[object], limit: int | None) -> list[dict[str, Any]]:
    """1 to 4 pulls whose received instants lie around what their timelines allow."""
    count = choice.of((1, 2, 2, 3, 4))
    origin = S0 + choice.of((0, 0, choice.integer(0, 3 * SECOND), 1_500_000))
    pulls: list[dict[str, Any]] = []
    for position in range(count):
        shown = values if position == 0 else earlier_values(choice, values)
        sigma = normalise(shown).sigma
        late = choice.of((0, 0, 40_000, choice.integer(0, 2 * SECOND), choice.integer(0, 200 * SECOND), 10**10))
        received = origin + sigma + late
        if one_in(choice, 8):
            # A timeline that is longer than the time that has passed, around the 5 s that are forgiven.
            received = S0 + sigma - choice.of((1, SECOND, 4_999_999, 5 * SECOND, 5_000_001, 3600 * SECOND))
        if one_in(choice, 12) and pulls:
            received = instant(pulls[0]["received_at"])
        if one_in(choice, 12) and limit is not None:
            received = S0 + limit + choice.integer(-1, 1)
        sent = received - choice.of((0, 80_000, 80_000, choice.integer(0, 5 * SECOND)))
        pulls.append({"requested_at": instant_text(sent), "received_at": instant_text(received), "values": shown})
    at = choice.integer(0, count - 1)
    pulls[0], pulls[at] = pulls[at], pulls[0]
    return pulls


def heartbeats(choice: Choice, pulls: list[dict[str, Any]], tolerance: int, limit: int | None) -> list[str]:
    """Heartbeats on a beat, and single ones around every boundary that a rule knows."""
    readings = [(instant(pull["received_at"]), normalise(pull["values"])) for pull in pulls]
    t0 = max(S0, min(received - reading.sigma for received, reading in readings))
    received, last = max(readings, key=lambda item: item[0])
    points: list[int] = []
    if choice.integer(0, 3):
        step = choice.of((30 * SECOND, 30 * SECOND, 10 * SECOND, 75 * SECOND, max(1, tolerance), tolerance + 1))
        first = choice.of((0, step, step, choice.integer(0, step)))
        points = [first + step * k for k in range(choice.of((1, 2, 3, 5, 12)))]
        for _ in range(choice.of((0, 0, 1, 2))):
            points.remove(choice.of(points))
            if not points:
                break
    edges = {0, last.sigma, last.sigma + SECOND, received - t0, S0 - t0, *points}
    edges.update(edge for segment in last.segments for edge in (segment.start, segment.end))
    if limit is not None:
        edges.update((limit, limit + tolerance))
    boundaries = sorted(edges)
    for _ in range(choice.of((0, 0, 1, 2, 4))):
        edge = choice.of(boundaries) + choice.of((0, 0, tolerance, -tolerance, 2 * tolerance))
        points.append(edge + choice.of((0, 1, -1, choice.integer(-SECOND, SECOND))))
    texts = [instant_text(t0 + point) for point in points]
    if texts and one_in(choice, 3):
        texts.append(choice.of(texts))
    if one_in(choice, 3):
        texts.reverse()
    return texts


def document(choice: Choice) -> dict[str, Any]:
    """One body of a preview, as :func:`app.core.lossless_json.loads` would give it."""
    card = rate_card(choice)
    plan = read_card(card)
    values = segments(choice, card)
    last = normalise(values)
    limit: JsonNumber | None = None
    if choice.integer(0, 1):
        edges = [0, last.sigma, last.sigma // 2, *(segment.start for segment in last.segments)]
        near = choice.of(edges) + choice.of((0, 0, 1, -1, -plan.tolerance, SECOND))
        near = min(near, 999_999_999 * SECOND)
        limit = choice.of((number(max(0, near)), JsonNumber(str(math.ceil(max(0, near) / SECOND))), JsonNumber("3600")))
    limit_us = None if limit is None else micros(limit)
    pulls = snapshots(choice, values, limit_us)
    result: dict[str, Any] = {
        "requested_at": instant_text(S0),
        "heartbeats": heartbeats(choice, pulls, plan.tolerance, limit_us),
        "snapshots": pulls,
    }
    if choice.integer(0, 7):
        result["rate_card"] = card
    if limit is not None or one_in(choice, 3):
        result["time_limit_s"] = limit
    if one_in(choice, 3):
        result["authorized"] = choice.of((None, money(choice, "0", "0.000001", "1", "10", "1000000")))
    if one_in(choice, 3):
        result["interim"] = choice.of((True, True, False))
    return result
