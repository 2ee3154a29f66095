"""Scripts: what a simulated session says, when its agent leaves, which heartbeats it sends. Plain data, from JSON.

``{"name", "about"?, "segments"?: [[type, seconds], ...], "repeat"?, "random"?: true | {"turns"?, "user_s"?, ...},
"agent_leaves_s"?, "connects_after_s"?, "heartbeats"?: false | {"first_s"?, "every_s"?}, "grows_after_leaving"?}``;
every field is explained at :class:`Script` and :class:`Draw`. Errors: :class:`InvalidScript`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from app.core.lossless_json import InvalidJson, JsonNumber, loads
from app.core.units import US_PER_MS, US_PER_S, InvalidQuantity, Micros, parse_seconds
from app.ports.randomness import Randomness

MAX_SEGMENTS: Final = 10_000
MAX_TURNS: Final = MAX_SEGMENTS // 2
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


Range = tuple[int, int]
"""Milliseconds from the one to the other, both inclusive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Of what conversations are drawn: each stretch is as likely to be as long as any in its range."""

    turns: tuple[int, int] = (2, 41)
    in_turn: bool = False
    """Agent and user take turns, the agent first; else each turn is anybody's."""
    user_ms: Range = (200, 20_000)
    agent_ms: Range = (200, 20_000)
    pause_ms: Range = (50, 3_000)
    long_pause_ms: Range = (5_000, 90_000)
    """Long enough to be capped, or to outlast a heartbeat."""
    long_pause_in: int = 8
    """One pause in so many is a long one."""
    stays_ms: Range = (0, 60_000)
    """How long the agent stays after the last pause."""
    connects_ms: Range = (0, 2_000)
    """From the confirmed start to the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What happens in a session, counted from the instant at which agent and user are connected."""

    name: str
    about: str = ""
    segments: tuple[Segment, ...] = ()
    """Played one after the other; then silence grows. Any type is allowed: the provider may invent some as well."""
    repeat: bool = False
    """Begin again after the last segment, until the agent leaves."""
    random: Draw | None = None
    """Draw segments, the connection and the agent's leaving for each session."""
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
        random=_draw(fields.get("random", False)),
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


def _draw(value: object) -> Draw | None:
    if isinstance(value, bool):
        return Draw() if value else None
    ranges = {f"{name}_s": f"{name}_ms" for name in ("user", "agent", "pause", "long_pause", "stays", "connects")}
    if not isinstance(value, dict) or set(value) - {*ranges, "turns", "in_turn", "long_pause_in"}:
        raise InvalidScript(f"random: true, false, or an object of {', '.join(ranges)}, turns, in_turn, long_pause_in")
    given: dict[str, Any] = {ranges[name]: _range(value[name], name) for name in ranges if name in value}
    if "turns" in value:
        few, many = _pair(value["turns"], "turns")
        given["turns"] = _whole(few, MAX_TURNS, "turns"), _whole(many, MAX_TURNS, "turns")
        if given["turns"][0] > given["turns"][1]:
            raise InvalidScript("random/turns: the fewest first")
    if "long_pause_in" in value:
        given["long_pause_in"] = _whole(value["long_pause_in"], MAX_TURNS, "long_pause_in")
    return Draw(in_turn=_flag(value, "in_turn", default=False), **given)


def _pair(value: object, name: str) -> tuple[object, object]:
    if not isinstance(value, list) or len(value) != 2:
        raise InvalidScript(f"random/{name}: a pair")
    return value[0], value[1]


def _whole(value: object, most: int, name: str) -> int:
    number = int(value) if isinstance(value, JsonNumber) and value.isdigit() and len(value) <= 9 else 0
    if not 1 <= number <= most:
        raise InvalidScript(f"random/{name}: whole numbers from 1 to {most}")
    return number


def _range(value: object, name: str) -> Range:
    shortest, longest = (_seconds(part, f"random/{name}") for part in _pair(value, name))
    if shortest > longest or shortest % US_PER_MS or longest % US_PER_MS:
        raise InvalidScript(f"random/{name}: whole milliseconds, the shortest first")
    return shortest // US_PER_MS, longest // US_PER_MS


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
    of = script.random
    if of is None:
        return script

    def between(bounds: Range) -> Micros:
        return Micros((bounds[0] + randomness.below(bounds[1] - bounds[0] + 1)) * US_PER_MS)

    segments: list[Segment] = []
    for turn in range(of.turns[0] + randomness.below(of.turns[1] - of.turns[0] + 1)):
        users = turn % 2 == 1 if of.in_turn else randomness.below(2) == 0
        segments.append(Segment("user", between(of.user_ms)) if users else Segment("agent", between(of.agent_ms)))
        pause = between(of.long_pause_ms) if randomness.below(of.long_pause_in) == 0 else between(of.pause_ms)
        segments.append(Segment(SILENCE, pause))
    talked = sum(segment.duration for segment in segments)
    return Script(
        name=script.name,
        about=script.about,
        segments=tuple(segments),
        agent_leaves=Micros(talked + between(of.stays_ms)),
        connects_after=between(of.connects_ms),
        heartbeats=script.heartbeats,
        heartbeat_first=script.heartbeat_first,
        heartbeat_every=script.heartbeat_every,
        grows_after_leaving=script.grows_after_leaving,
    )
