"""What stands in a lane of a picture: stretches of time, each of one kind, brought down to what an eye can tell."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from app.core.units import Micros
from app.pictures.axis import Axis

MOST_EXACT: Final = 200
"""So many stretches are drawn each by itself, with words of its own; more only as what prevails in each pixel."""


class Stretch(NamedTuple):
    """Time of one kind, from ``start`` to ``end``, offsets from the origin; ``words`` say what it is."""

    kind: str
    start: Micros
    end: Micros
    words: str


class Block(NamedTuple):
    """A stretch as it is drawn: places in tenths of a pixel; ``words`` null: it stands for many."""

    kind: str
    left: int
    right: int
    words: str | None


def blocks(stretches: Sequence[Stretch], axis: Axis) -> list[Block]:
    """What is drawn of a lane, in order; nothing of what lies outside the axis or has no length."""
    visible = [one for one in stretches if one.end > one.start and one.start < axis.end and one.end > axis.start]
    if len(visible) <= MOST_EXACT:
        return [_exact(one, axis) for one in visible]
    return list(_joined(_prevailing(visible, axis)))


def _exact(one: Stretch, axis: Axis) -> Block:
    left, right = axis.at(one.start), axis.at(one.end)
    return Block(one.kind, left, max(right, left + 4), one.words)  # what is there is seen


def _prevailing(stretches: Iterable[Stretch], axis: Axis) -> list[Block]:
    """Pixel by pixel the kind that takes most of it."""
    columns: dict[int, Counter[str]] = {}
    for one in stretches:
        left, right = axis.at(one.start), axis.at(one.end)
        for pixel in range(left // 10, -(-max(right, left + 1) // 10)):
            overlap = min(right, pixel * 10 + 10) - max(left, pixel * 10)
            # Shorter than a tenth of a pixel is still something.
            columns.setdefault(pixel, Counter())[one.kind] += max(1, overlap)
    return [
        Block(max(kinds, key=lambda kind: (kinds[kind], kind)), pixel * 10, pixel * 10 + 10, None)
        for pixel, kinds in sorted(columns.items())
    ]


def _joined(found: Iterable[Block]) -> Iterable[Block]:
    last: Block | None = None
    for block in found:
        if last is not None and last.kind == block.kind and last.right == block.left:
            last = last._replace(right=block.right)
            continue
        if last is not None:
            yield last
        last = block
    if last is not None:
        yield last


def places(offsets: Iterable[int], axis: Axis) -> list[int]:
    """Where single moments are drawn, in whole pixels, each once."""
    return sorted({(axis.at(offset) + 5) // 10 for offset in offsets if axis.start <= offset <= axis.end})
