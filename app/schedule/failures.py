"""Which failures of an alarm are worth a line: the first of a kind at once, those identical to it once a minute."""

from typing import Final

REPEAT_S: Final = 60.0
"""Identical failures are told at most once in so many seconds."""

Kind = tuple[type[Exception], str]


class Failures:
    """The failures of one alarm. Two are identical if type and message are."""

    def __init__(self) -> None:
        self._told: dict[Kind, tuple[float, int]] = {}

    def untold(self, error: Exception, now_s: float) -> int | None:
        """How many identical ones were not told since the last that was; null if this one is not to be told either.

        ``now_s``: any clock that only goes forward.
        """
        kind = type(error), str(error)
        told_at, silent = self._told.get(kind, (now_s - REPEAT_S, 0))
        if now_s - told_at < REPEAT_S:
            self._told[kind] = told_at, silent + 1
            return None
        # Messages may differ without end. What goes on comes again before its count is forgotten.
        self._told = {known: told for known, told in self._told.items() if now_s - told[0] < 2 * REPEAT_S}
        self._told[kind] = now_s, 0
        return silent
