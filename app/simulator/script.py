"""Scripts: what a simulated session says, when its agent leaves, which heartbeats it sends. Plain data, from JSON.

``{"name", "about"?, "segments"?: [[type, seconds], ...], "repeat"?, "random"?, "agent_leaves_s"?, "connects_after_s"?,
"heartbeats"?: false | {"first_s"?, "every_s"?}, "grows_after_leaving"?}``; every field is explained at
:class:`Script`. Errors: :class:`InvalidScript`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from app.core.lossless_json import InvalidJson, JsonNumber, loads
from app.core.units import US_PER_MS, US_PER_S, InvalidQuantity, Micros, parse_seconds
from app.ports.randomness import Randomness

MAX_SEGMENTS: Final = 10_000
MAX_SCRIPT_BYTES: Final = 1024 * 1024
MIN_HEARTBEAT_EVERY: Final = Micros(US_PER_S)
BUILT_IN: Final = ("guide", "talk", "ghost", "disconnect", "endless", "silent", "unheard", "random")
SILENCE: Final = "silence"

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


class InvalidScript(ValueError):
    """A script that cannot be played. The message says what is wrong, and is fit to be shown."""


@dataclass(frozen=True, slots=True)
class Segment:
    type: str
    duration: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What happens in a session, counted from the instant at which agent and user are connected."""

    name: str
    about: str = ""
    segments: tuple[Segment, ...] = ()
    """Played one after the other; then silence grows. Any type is allowed: the provider may invent some as well."""
    repeat: bool = False
    """Begin again after the last segment, until the agent leaves."""
    random: bool = False
    """Draw segments and the agent's leaving for each session."""
    agent_leaves: Micros | None = None
    """The conversation and the heartbeats stop here, or at the time limit if that is earlier; ``None``: there."""
    connects_after: Micros = Micros(0)
    """From the confirmed start to the connection: to the timeline's offset 0."""
    heartbeats: bool = True
    heartbeat_first: Micros = Micros(30 * US_PER_S)
    """The provider does not say whether the first heartbeat comes at 0 s or 30 s."""
    heartbeat_every: Micros = Micros(30 * US_PER_S)
    grows_after_leaving: bool = True
    """Whether the last silence goes on growing once the agent has left, as the guide's example shows."""


def built_in() -> dict[str, Script]:
    """The scripts that ship with the product, by name."""
    folder = files("app.simulator") / "scripts"
    return {name: parse_script((folder / f"{name}.json").read_bytes()) for name in BUILT_IN}


def parse_script(text: bytes) -> Script:
    """Read one script. Raises :class:`InvalidScript`."""
    if len(text) > MAX_SCRIPT_BYTES:
        raise InvalidScript(f"a script has at most {MAX_SCRIPT_BYTES} bytes")
    try:
        fields = loads(text)
    except InvalidJson as error:
        raise InvalidScript(f"the script is {error}") from None
    if not isinstance(fields, dict):
        raise InvalidScript("a script is a JSON object")
    unknown = set(fields) - _FIELDS
    if unknown:
        raise InvalidScript(f"unknown fields; known are {', '.join(sorted(_FIELDS))}")
    name = fields.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidScript("name: 1 to 64 letters, digits, dots, dashes or underscores")
    beats, first, every = _heartbeats(fields.get("heartbeats", True))
    leaves = fields.get("agent_leaves_s")
    script = Script(
        name=name,
        about=str(fields.get("about", "")),
        segments=_segments(fields.get("segments", [])),
        repeat=_flag(fields, "repeat", default=False),
        random=_flag(fields, "random", default=False),
        agent_leaves=None if leaves is None else _seconds(leaves, "agent_leaves_s"),
        connects_after=_seconds(fields.get("connects_after_s", JsonNumber("0")), "connects_after_s"),
        heartbeats=beats,
        heartbeat_first=first,
        heartbeat_every=every,
        grows_after_leaving=_flag(fields, "grows_after_leaving", default=True),
    )
    if script.repeat and sum(segment.duration for segment in script.segments) < US_PER_MS * max(
        len(script.segments), 1
    ):
        raise InvalidScript("repeat: the segments must last at least a millisecond each on average")
    if script.random and script.segments:
        raise InvalidScript("random: a random script has no segments of its own")
    return script


_FIELDS: Final = frozenset(
    {
        "name",
        "about",
        "segments",
        "repeat",
        "random",
        "agent_leaves_s",
        "connects_after_s",
        "heartbeats",
        "grows_after_leaving",
    }
)


def _segments(value: object) -> tuple[Segment, ...]:
    if not isinstance(value, list) or len(value) > MAX_SEGMENTS:
        raise InvalidScript(f"segments: a list of at most {MAX_SEGMENTS} pairs of type and seconds")
    return tuple(_segment(item, position) for position, item in enumerate(value))


def _segment(item: object, position: int) -> Segment:
    if not isinstance(item, list) or len(item) != 2 or type(item[0]) is not str or not 1 <= len(item[0]) <= 64:
        raise InvalidScript(f"segments/{position}: a pair of a type (1 to 64 characters) and seconds")
    return Segment(item[0], _seconds(item[1], f"segments/{position}"))


def _heartbeats(value: object) -> tuple[bool, Micros, Micros]:
    standard = (Micros(30 * US_PER_S), Micros(30 * US_PER_S))
    if isinstance(value, bool):
        return value, *standard
    if not isinstance(value, dict) or set(value) - {"first_s", "every_s"}:
        raise InvalidScript("heartbeats: true, false, or an object with first_s and every_s")
    first = _seconds(value["first_s"], "heartbeats/first_s") if "first_s" in value else standard[0]
    every = _seconds(value["every_s"], "heartbeats/every_s") if "every_s" in value else standard[1]
    if every < MIN_HEARTBEAT_EVERY:
        raise InvalidScript("heartbeats/every_s: at least 1 second")
    return True, first, every


def _flag(fields: Mapping[str, object], name: str, *, default: bool) -> bool:
    value = fields.get(name, default)
    if not isinstance(value, bool):
        raise InvalidScript(f"{name}: true or false")
    return value


def _seconds(value: object, where: str) -> Micros:
    number = value.decimal() if isinstance(value, JsonNumber) else None
    if number is None:
        raise InvalidScript(f"{where}: a number of seconds")
    try:
        return parse_seconds(number)
    except InvalidQuantity as error:
        raise InvalidScript(f"{where}: {error}") from None


def draw(script: Script, randomness: Randomness) -> Script:
    """A random script made definite; any other as it is. Durations are whole milliseconds, as the guide's are."""
    if not script.random:
        return script

    def between(low_ms: int, high_ms: int) -> Micros:
        return Micros((low_ms + randomness.below(high_ms - low_ms + 1)) * US_PER_MS)

    segments: list[Segment] = []
    for _ in range(2 + randomness.below(40)):
        segments.append(Segment(("user", "agent")[randomness.below(2)], between(200, 20_000)))
        # Mostly the pauses of a conversation, now and then one long enough to be capped or to outlast a heartbeat.
        pause = between(5_000, 90_000) if randomness.below(8) == 0 else between(50, 3_000)
        segments.append(Segment(SILENCE, pause))
    talked = sum(segment.duration for segment in segments)
    return Script(
        name=script.name,
        about=script.about,
        segments=tuple(segments),
        agent_leaves=Micros(talked + between(0, 60_000)),
        connects_after=between(0, 2_000),
        heartbeats=script.heartbeats,
        heartbeat_first=script.heartbeat_first,
        heartbeat_every=script.heartbeat_every,
        grows_after_leaving=script.grows_after_leaving,
    )
