"""Parse and charge of one session's timeline against the typed parse of the same JSON alone."""

import random
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from app.core.alignment import Pull
from app.core.charge import Evidence, charge
from app.core.lossless_json import loads
from app.core.rate_card import DEFAULT_RATE_CARD
from app.core.timeline import normalise
from app.core.units import US_PER_S, Instant, Micros
from benchmarks.figures import Figure

SEGMENTS = 400
HEARTBEATS = 120
ROUND_S = 1.0
ROUNDS = 5


class _Segment(msgspec.Struct):
    type: str
    seconds: Decimal


def _timeline() -> bytes:
    chance = random.Random(1)
    kinds = ("user", "silence", "agent", "silence")
    segments = [
        f'{{"type":"{kinds[n % 4]}","seconds":{chance.randrange(100, 17_000) / 1000}}}' for n in range(SEGMENTS)
    ]
    return f"[{','.join(segments)}]".encode()


def _rate_of(work: Callable[[], Any]) -> float:
    """Runs a second."""
    began = time.perf_counter()
    runs = 0
    while (passed := time.perf_counter() - began) < ROUND_S:
        work()
        runs += 1
    return runs / passed


def measure() -> Figure:
    """Both sides in turn, in segments a second."""
    text = _timeline()
    decoder = msgspec.json.Decoder(list[_Segment])
    heartbeats = [Instant(n * 30 * US_PER_S) for n in range(1, HEARTBEATS + 1)]
    start, received = Instant(0), Instant(2 * 3600 * US_PER_S)

    def parse_and_charge() -> Any:
        values = loads(text)
        assert isinstance(values, list)
        timeline = normalise(values)
        pull = Pull(received, received, timeline.end, timeline.speech)
        return charge(
            Evidence(
                requested_at=start,
                time_limit=Micros(3600 * US_PER_S),
                heartbeats=heartbeats,
                pulls=[pull],
                timeline=timeline,
                card=DEFAULT_RATE_CARD,
                authorized=None,
            )
        )

    result = parse_and_charge()
    parsed = decoder.decode(text)
    total = sum(segment.seconds for segment in parsed)
    if result.timeline_end != int(total * US_PER_S):
        raise RuntimeError("the two sides read different timelines")
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(ROUNDS):
        theirs.append(SEGMENTS * _rate_of(lambda: decoder.decode(text)))
        ours.append(SEGMENTS * _rate_of(parse_and_charge))
    return Figure(
        f"parse and charge with all pieces, {SEGMENTS} segments, {HEARTBEATS} heartbeats",
        "typed parse of the same JSON to decimals (msgspec)",
        "segments a second",
        ours,
        theirs,
        f"both read {total} s",
    )
