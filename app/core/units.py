"""Units of time and money, and their forms on the wire.

Time is a whole number of microseconds (the resolution of PostgreSQL's ``timestamptz``); money is a whole number of
micro-credits (one credit is 1,000,000). Nothing here rounds: a text that does not fit a unit exactly is refused.

Errors: :class:`InvalidQuantity`, for any text or number that is not exactly such a quantity.
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, NewType

Micros = NewType("Micros", int)
"""A duration in microseconds."""

Instant = NewType("Instant", int)
"""An instant in microseconds since 1970-01-01T00:00:00Z."""

MicroCredits = NewType("MicroCredits", int)
"""An amount of credits in millionths of a credit."""

US_PER_S: Final = 1_000_000
US_PER_MINUTE: Final = 60 * US_PER_S
US_PER_DAY: Final = 86_400 * US_PER_S
US_PER_MS: Final = 1_000
MICROCREDITS_PER_CREDIT: Final = 1_000_000
MAX_AMOUNT: Final = MicroCredits(10**12 * MICROCREDITS_PER_CREDIT)
"""No amount of credits is larger than this in either direction."""

MAX_DURATION: Final = Micros(10**9 * US_PER_S)
"""Durations that are settings, prices or limits stay below a billion seconds (31 years)."""

_SMALLEST_DURATION: Final = Decimal("0.000001")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_PLAIN_DECIMAL: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,30})(?:\.([0-9]{1,30}))?", re.ASCII)
_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.([0-9]{1,9}))?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)


class InvalidQuantity(ValueError):
    """A text or number is not exactly a quantity of the unit asked for. The message is fit for a client."""


def millionths(text: str) -> int:
    """Read a plain decimal (``12.5``; no exponent, no sign but a leading minus) as a whole number of millionths.

    Raises :class:`InvalidQuantity` if it is no plain decimal or has more than 6 decimals.
    """
    match = _PLAIN_DECIMAL.fullmatch(text)
    if match is None:
        raise InvalidQuantity("must be a plain decimal such as 12.5")
    decimals = match.group(1) or ""
    if len(decimals) > 6:
        raise InvalidQuantity("must have at most 6 decimals")
    return int(text.replace(".", "") + "0" * (6 - len(decimals)))


def parse_credits(text: str) -> MicroCredits:
    """Read an amount of credits from its decimal string; |amount| ≤ 10^12 credits, at most 6 decimals."""
    amount = MicroCredits(millionths(text))
    if abs(amount) > MAX_AMOUNT:
        raise InvalidQuantity("must be at most 1000000000000 credits")
    return amount


def format_millionths(value: int) -> str:
    """The shortest plain decimal of ``value`` millionths: ``24.46``, ``0``, ``-0.000001``."""
    sign = "-" if value < 0 else ""
    whole, rest = divmod(abs(value), 1_000_000)
    return f"{sign}{whole}.{rest:06d}".rstrip("0") if rest else f"{sign}{whole}"


def format_credits(amount: MicroCredits) -> str:
    """An amount of credits as its decimal string on the wire."""
    return format_millionths(amount)


def seconds(duration: Micros) -> Decimal:
    """A duration in seconds, exact to the microsecond, without trailing zeros."""
    return Decimal(format_millionths(duration))


def parse_seconds(number: Decimal) -> Micros:
    """Read a duration of seconds; 0 ≤ seconds < 10^9, at most 6 decimals."""
    if not number.is_finite():
        raise InvalidQuantity("must be a finite number of seconds")
    if number < 0:
        raise InvalidQuantity("must not be negative")
    if number >= 10**9:
        raise InvalidQuantity("must be less than 1000000000 seconds")
    # Rounding here and comparing is exact; scaling first would round to the context's precision, unseen.
    rounded = number.quantize(_SMALLEST_DURATION)
    if rounded != number:
        raise InvalidQuantity("must have at most 6 decimals")
    return Micros(int(rounded * US_PER_S))


def instant_of(moment: datetime) -> Instant:
    """The instant of a timezone-aware ``datetime``."""
    return Instant((moment - _EPOCH) // _MICROSECOND)


def datetime_of(instant: Instant) -> datetime:
    """The UTC ``datetime`` of an instant."""
    return _EPOCH + timedelta(microseconds=instant)


def parse_instant(text: str) -> Instant:
    """Read an RFC 3339 instant with its offset; digits below the microsecond are cut.

    Raises :class:`InvalidQuantity` for any other text.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise InvalidQuantity("must be an RFC 3339 instant such as 2026-01-31T12:00:00.5Z")
    fraction = match.group(1) or ""
    if len(fraction) > 6:
        text = text.replace("." + fraction, "." + fraction[:6], 1)
    try:
        # In UTC, because an offset can lead out of the years that there are.
        return instant_of(datetime.fromisoformat(text.upper()).astimezone(UTC))
    except (ValueError, OverflowError):
        raise InvalidQuantity("must be an instant that exists") from None


def format_instant(instant: Instant) -> str:
    """An instant as RFC 3339 in UTC, always with six decimals, so that texts sort as instants do."""
    return datetime_of(instant).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")
