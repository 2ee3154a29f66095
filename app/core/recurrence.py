"""When the periods of a recurring grant begin: arithmetic of dates in UTC, without a clock.

Period 0 begins at the anchor. Days and weeks are of 86,400 s each; months and years are those of the calendar, on the
anchor's day and at its time of day: where a month has no such day, on its last one (31 January, 28 February, 31 March).
Every period is counted from the anchor, so no short month moves those after it.
"""

from calendar import monthrange
from enum import StrEnum
from typing import Final

from app.core.units import US_PER_DAY, Instant, datetime_of, instant_of

_LAST_YEAR: Final = 9999


class Period(StrEnum):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


_DAYS: Final = {Period.DAY: 1, Period.WEEK: 7}
_MONTHS: Final = {Period.MONTH: 1, Period.YEAR: 12}


def period_start(anchor: Instant, period: Period, n: int) -> Instant | None:
    """When period ``n`` (from 0) begins; null: after the year 9999."""
    if period in _DAYS:
        start = Instant(anchor + n * _DAYS[period] * US_PER_DAY)
        return start if start <= _END else None
    first = datetime_of(anchor)
    years, month = divmod(first.month - 1 + n * _MONTHS[period], 12)
    year = first.year + years
    if year > _LAST_YEAR:
        return None
    day = min(first.day, monthrange(year, month + 1)[1])
    return instant_of(first.replace(year=year, month=month + 1, day=day))


def first_from(anchor: Instant, period: Period, at: Instant, least: int = 0) -> int:
    """The number of the first period, from ``least`` on, that begins at ``at`` or later."""
    low = least
    high = max(least, 0) + 1
    while (start := period_start(anchor, period, high)) is not None and start < at:
        low, high = high, high * 2
    while low < high:
        middle = (low + high) // 2
        start = period_start(anchor, period, middle)
        if start is not None and start < at:
            low = middle + 1
        else:
            high = middle
    return low


_END: Final = Instant(253_402_300_799_999_999)
"""The last microsecond of the year 9999."""
