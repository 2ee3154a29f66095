"""The time axis of a picture: what is drawn to scale, what is folded, where its marks stand."""

from dataclasses import dataclass
from typing import Final

from app.core.units import US_PER_S, Micros

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_STEPS_S: Final = (
    1, 2, 5, 10, 15, 30, _MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE,
    _HOUR, 2 * _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY, 2 * _DAY, 7 * _DAY, 30 * _DAY, 365 * _DAY,
)  # fmt: skip
MOST_MARKS: Final = 10
FOLD_PX: Final = 44
"""The width of what is folded, however long it is."""

LEAST_FOLDED: Final = Micros(30 * US_PER_S)
FOLDED_PART: Final = 6
"""A tail is folded if it is longer than this part of what comes before it."""

SHOWN_PART: Final = 12
"""So much of a folded tail, as a part of what comes before it, is still drawn to scale."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Offsets from the origin, in µs, to places, in tenths of a pixel.

    To scale from ``start`` to ``shown``; from there to ``end`` in :data:`FOLD_PX` pixels, if ``end`` lies beyond.
    """

    left_px: int
    width_px: int
    shown: Micros
    end: Micros
    start: Micros = Micros(0)

    @property
    def folded(self) -> Micros:
        """How much time is folded."""
        return Micros(self.end - self.shown)

    @property
    def scaled_px(self) -> int:
        """The width of what is drawn to scale."""
        return self.width_px - (FOLD_PX if self.folded else 0)

    def at(self, offset: int) -> int:
        """The place of an offset, in tenths of a pixel; what lies outside is put at the edge."""
        left, scaled = self.left_px * 10, self.scaled_px * 10
        if offset <= self.shown:
            return left + max(0, offset - self.start) * scaled // (self.shown - self.start)
        if not self.folded:
            return left + scaled
        return left + scaled + min(offset - self.shown, self.folded) * FOLD_PX * 10 // self.folded

    def marks(self) -> list[Micros]:
        """Where the axis is marked: at round offsets, :data:`MOST_MARKS` at most beside the first."""
        first_s, last_s = -(-self.start // US_PER_S), self.shown // US_PER_S
        length_s = max(0, last_s - first_s)
        fitting = [step for step in _STEPS_S if length_s // step <= MOST_MARKS]
        step = fitting[0] if fitting else -(-length_s // MOST_MARKS)
        return [Micros(at * US_PER_S) for at in range(-(-first_s // step) * step, last_s + 1, step)]


def axis_of(*, busy: Micros, end: Micros, left_px: int, width_px: int) -> Axis:
    """The axis of a timeline of ``end``, in which nothing happens any more from ``busy`` on.

    A tail that is long for what comes before it is folded: the last silence grows for ever.
    """
    tail = end - busy
    if tail > max(LEAST_FOLDED, busy // FOLDED_PART):
        shown = busy + min(tail, max(LEAST_FOLDED // 3, busy // SHOWN_PART))
    else:
        shown = end
    return Axis(left_px, width_px, Micros(max(1, shown)), Micros(max(1, shown, end)))


def window_of(start: Micros, end: Micros, *, left_px: int, width_px: int) -> Axis:
    """The axis of a part of a timeline, all of it to scale. ``ValueError`` unless 0 ≤ ``start`` < ``end``."""
    if not 0 <= start < end:
        raise ValueError("a window has a length")
    return Axis(left_px, width_px, end, end, start)


def clock(offset: Micros) -> str:
    """An offset as ``m:ss`` or ``h:mm:ss``, whole seconds."""
    minutes, rest = divmod(offset // US_PER_S, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def length(time: Micros) -> str:
    """A length of time in words: to the tenth of a second below a minute, then in its two largest units."""
    if time < 60 * US_PER_S:
        whole, tenth = divmod(time // (US_PER_S // 10), 10)
        if time and not whole and not tenth:
            return "under 0.1 s"
        return f"{whole}.{tenth} s" if tenth else f"{whole} s"
    left_s = time // US_PER_S
    parts = []
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min"), (1, "s")):
        count, left_s = divmod(left_s, unit)
        parts.append((count, name))
    first = next(n for n, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count} {name}" for count, name in parts[first : first + 2] if count)
