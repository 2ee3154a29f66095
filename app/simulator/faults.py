"""The ways in which the simulated provider misbehaves on request: which exist, how likely each is, which struck.

Probabilities are whole parts per million, so that a seed gives the same faults everywhere.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from app.core.lossless_json import JsonNumber
from app.core.units import InvalidQuantity, format_millionths, millionths
from app.ports.randomness import Randomness

KNOWN: Final[Mapping[str, str]] = {
    "start.400": "400 usage_limit_exceeded; nothing is started",
    "start.401": "401; nothing is started",
    "start.403": "403; nothing is started",
    "start.429": "429 with Retry-After; nothing is started",
    "start.500": "500; nothing is started",
    "start.500_after": "500, although the session was started",
    "start.redirect": "307 to another origin; nothing is started",
    "start.slow": "started and answered late",
    "start.hang": "never answered; nothing is started",
    "start.hang_after": "never answered, although the session was started",
    "start.drop_before": "the connection is dropped; nothing is started",
    "start.drop_after": "the connection is dropped, although the session was started",
    "start.malformed": "started, but the answer is broken JSON",
    "timeline.401": "401",
    "timeline.403": "403",
    "timeline.404": "404 for a session that exists",
    "timeline.429": "429 with Retry-After",
    "timeline.500": "500",
    "timeline.redirect": "307 to another origin",
    "timeline.slow": "answered late",
    "timeline.hang": "never answered",
    "timeline.drop": "the connection is dropped",
    "timeline.half": "the connection is dropped in the middle of the answer",
    "timeline.malformed": "broken JSON",
    "timeline.nan": "the last value lasts NaN seconds",
    "timeline.huge_number": "the last value lasts 1e400 seconds",
    "timeline.missing_type": "the last value has no type",
    "timeline.missing_seconds": "the last value has no seconds",
    "timeline.unknown_type": "the last value is of an unknown type",
    "timeline.shrinks": "the last value is missing, and total_count agrees",
    "timeline.foreign_page": "next_page is a URL of another origin",
    "timeline.loop": "next_page is this very page",
    "timeline.odd_page": "next_page is an object",
    "timeline.total_changes": "total_count is one more than on the other pages",
    "end.400": "400 usage_limit_exceeded; the session goes on",
    "end.401": "401; the session goes on",
    "end.403": "403; the session goes on",
    "end.404": "404; the session goes on",
    "end.429": "429 with Retry-After; the session goes on",
    "end.500": "500; the session goes on",
    "end.500_after": "500, although the session was ended",
    "end.redirect": "307 to another origin; the session goes on",
    "end.slow": "ended and answered late",
    "end.hang": "never answered; the session goes on",
    "end.hang_after": "never answered, although the session was ended",
    "end.drop_before": "the connection is dropped; the session goes on",
    "end.drop_after": "the connection is dropped, although the session was ended",
    "end.malformed": "ended, but the answer is broken JSON",
    "end.ignored": "answered as if it were ended; the session goes on",
    "heartbeat.lost": "not sent",
    "heartbeat.doubled": "sent twice",
    "heartbeat.late": "sent late",
    "heartbeat.foreign": "sent with another session's id",
}

CERTAIN: Final = 1_000_000
MAX_COUNT: Final = 1_000_000


class InvalidFault(ValueError):
    """An unknown fault, or a probability or count out of range. The message is fit to be shown."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How likely a fault strikes (parts per million), and how often it still may (``None``: without end)."""

    ppm: int
    count: int | None = None


class Faults:
    """The settings of now, the draws, and what has struck so far."""

    def __init__(self, settings: Mapping[str, Setting], randomness: Randomness) -> None:
        self._randomness = randomness
        self._settings = dict(settings)
        self._struck: Counter[str] = Counter()

    def replace(self, settings: Mapping[str, Setting]) -> None:
        self._settings = dict(settings)

    def strike(self, operation: str) -> str | None:
        """The fault that strikes this time, named without its operation; ``None`` if none. Never two at once."""
        for name, setting in self._settings.items():
            if not name.startswith(operation + ".") or setting.count == 0:
                continue
            if self._randomness.below(CERTAIN) < setting.ppm:
                if setting.count is not None:
                    self._settings[name] = Setting(setting.ppm, setting.count - 1)
                self._struck[name] += 1
                return name.removeprefix(operation + ".")
        return None

    def report(self) -> dict[str, object]:
        """Settings, how often each fault has struck, and what exists."""
        settings = {
            name: {"probability": format_millionths(setting.ppm), "count": setting.count}
            for name, setting in self._settings.items()
        }
        return {"faults": settings, "struck": dict(self._struck), "known": dict(KNOWN)}


def parse_settings(value: object) -> dict[str, Setting]:
    """``{name: probability | {"probability", "count"?}}`` as :func:`~app.core.lossless_json.loads` gives it."""
    if not isinstance(value, dict):
        raise InvalidFault("an object of faults is expected")
    return {name: parse_setting(name, setting) for name, setting in value.items()}


def parse_setting(name: str, value: object) -> Setting:
    """One fault's setting: a probability, or an object of it and the number of times. Raises :class:`InvalidFault`."""
    if name not in KNOWN:
        raise InvalidFault("unknown fault; those that exist: " + ", ".join(KNOWN))
    count: object = None
    if isinstance(value, dict):
        if set(value) - {"probability", "count"}:
            raise InvalidFault(f"{name}: only probability and count are known")
        count = value.get("count")
        value = value.get("probability", "1")
    if not isinstance(value, str):
        raise InvalidFault(f"{name}: probability must be a number")
    try:
        ppm = millionths(value)
    except InvalidQuantity as error:
        raise InvalidFault(f"{name}: probability {error}") from None
    if not 0 <= ppm <= CERTAIN:
        raise InvalidFault(f"{name}: probability must be between 0 and 1")
    return Setting(ppm, None if count is None else _count(name, count))


def _count(name: str, value: object) -> int:
    if not isinstance(value, JsonNumber) or not value.isdigit() or len(value) > 9 or int(value) > MAX_COUNT:
        raise InvalidFault(f"{name}: count must be a whole number from 0 to {MAX_COUNT}")
    return int(value)
