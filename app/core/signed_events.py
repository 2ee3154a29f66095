"""Stripe's signature of what it sends: who wrote a body, and when. Pure: the time and the secrets are given.

The header ``Stripe-Signature`` is ``t=<seconds>,v1=<hex>,v1=<hex>,…``: HMAC-SHA256 over ``<seconds>.<body>`` by the
endpoint's secret; several while a secret is changed. Schemes other than ``v1`` prove nothing (``v0`` is of test mode).
Source: https://docs.stripe.com/webhooks#verify-manually.
"""

import hmac
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from app.core.units import US_PER_S, Instant, Micros

TOLERANCE: Final = Micros(300 * US_PER_S)
MAX_HEADER: Final = 4096
"""Characters; Stripe's have a few hundred."""

_MAX_DIGITS: Final = 15
_HEX_SHA256: Final = 64


class Unsigned(StrEnum):
    """Why a body is nobody's that we know."""

    MALFORMED = "the header Stripe-Signature is missing or malformed"
    MISMATCH = "no signature fits a secret that is set"
    STALE = "the signature is too old, or of the future"


def check_signature(header: str, body: bytes, secrets: Sequence[str], now: Instant) -> Unsigned | None:
    """Why ``body`` is not to be believed; null if one of its signatures fits one of the ``secrets``.

    ``body`` is as it came, byte for byte. Each signature is compared in constant time with that of each secret.
    """
    if len(header) > MAX_HEADER:
        return Unsigned.MALFORMED
    pairs = [item.strip().partition("=") for item in header.split(",")]
    times = [value for name, _, value in pairs if name == "t"]
    given = [value for name, _, value in pairs if name == "v1" and len(value) == _HEX_SHA256 and value.isascii()]
    if len(times) != 1 or not given or not (times[0].isascii() and times[0].isdigit()) or len(times[0]) > _MAX_DIGITS:
        return Unsigned.MALFORMED
    fits = False
    for secret in secrets:
        expected = signature(times[0], body, secret)
        for value in given:
            fits |= hmac.compare_digest(value, expected)
    if not fits:
        return Unsigned.MISMATCH
    return None if abs(now - int(times[0]) * US_PER_S) <= TOLERANCE else Unsigned.STALE


def signature(seconds: str, body: bytes, secret: str) -> str:
    """The ``v1`` signature, in hexadecimal, of a body that was sent at ``seconds``."""
    return hmac.digest(secret.encode(), seconds.encode() + b"." + body, "sha256").hex()
