"""``Retry-After`` (RFC 9110, 10.2.3): how long another server asks us to wait."""

from datetime import UTC
from email.utils import parsedate_to_datetime

from app.core.units import US_PER_S, Instant, Micros, instant_of

_LONGEST_TEXT = 64


def read_retry_after(text: str | None, now: Instant, at_most: Micros) -> Micros | None:
    """The wait from ``now`` that the header asks for, in seconds or as a date; null if there is none to be read.

    From nought, for a date gone by, to ``at_most``: nobody else decides for how long we do nothing.
    """
    if not text or len(text) > _LONGEST_TEXT:
        return None
    if text.isascii() and text.isdigit():
        wait = int(text) * US_PER_S
    else:
        try:
            moment = parsedate_to_datetime(text)
            # The date has no zone if it was written with -0000; an HTTP date is in GMT.
            wait = instant_of(moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now
        except (ValueError, OverflowError):
            return None
    return Micros(min(max(wait, 0), at_most))
