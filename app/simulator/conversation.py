"""What has happened in a session up to an instant. Pure: the instant comes in, segments go out."""

from collections.abc import Iterator
from itertools import cycle

from app.core.units import Micros
from app.simulator.script import SILENCE, Script, Segment


def leaves_after(script: Script, limit: Micros) -> Micros:
    """When the agent leaves, counted from the connection: as scripted, at the latest when the time limit is reached."""
    return limit if script.agent_leaves is None else min(script.agent_leaves, limit)


def heard(script: Script, limit: Micros, elapsed: Micros) -> list[Segment]:
    """The timeline ``elapsed`` after the connection: whole segments, the last one as long as it has lasted so far.

    Durations add up to ``elapsed`` exactly, or to the agent's leaving if the timeline does not grow after it.
    """
    leaves = leaves_after(script, limit)
    talk = min(elapsed, leaves)
    segments: list[Segment] = []
    at = 0
    for segment in cycle(script.segments) if script.repeat else script.segments:
        if at >= talk:
            break
        piece = Micros(min(segment.duration, talk - at))
        segments.append(Segment(segment.type, piece))
        at += piece
    tail = (elapsed if script.grows_after_leaving else talk) - at
    if tail > 0:
        # One silence, not two: the one that was under way simply does not end.
        if segments and segments[-1].type == SILENCE:
            tail += segments.pop().duration
        segments.append(Segment(SILENCE, Micros(tail)))
    return segments


def heartbeats(script: Script, limit: Micros) -> Iterator[Micros]:
    """When heartbeats are due, counted from the connection: while the agent is there, whether the user is or not."""
    if not script.heartbeats:
        return
    at = script.heartbeat_first
    while at < leaves_after(script, limit):
        yield at
        at = Micros(at + script.heartbeat_every)
