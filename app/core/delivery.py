"""What becomes of a delivery after an attempt: the schedule of attempts, and what an answer means.

After `Standard Webhooks <https://github.com/standard-webhooks/standard-webhooks>`_: any 2xx is success, 410 says that
the endpoint is gone for good, everything else, redirects included, is tried again with growing waits over days.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from app.core.units import US_PER_DAY, US_PER_MINUTE, US_PER_S, Micros

_HOUR: Final = 60 * US_PER_MINUTE

WAITS: Final[Sequence[Micros]] = tuple(
    map(
        Micros,
        (
            5 * US_PER_S,
            5 * US_PER_MINUTE,
            30 * US_PER_MINUTE,
            2 * _HOUR,
            5 * _HOUR,
            10 * _HOUR,
            14 * _HOUR,
            20 * _HOUR,
            US_PER_DAY,
        ),
    )
)
"""The wait before each further attempt. After the last of them failed, a little over three days after the first one,
the delivery is a dead letter."""

MAX_ATTEMPTS: Final = len(WAITS) + 1

JITTER_PARTS: Final = 5
"""A wait is lengthened by up to this part of it, so that what failed together is not tried again together."""

LONGEST_RETRY_AFTER: Final = Micros(US_PER_DAY)
"""No endpoint can put us off for longer."""

DISABLED_AFTER: Final = Micros(5 * US_PER_DAY)
"""An endpoint at which every attempt has failed for so long is disabled."""

LONGEST_WAIT: Final = Micros(max(LONGEST_RETRY_AFTER, max(WAITS) + max(WAITS) // JITTER_PARTS))
"""No delivery waits for longer: what lies further ahead was written before our clock was set back."""

GONE: Final = 410


@dataclass(frozen=True, slots=True)
class Delivered:
    """The endpoint has it."""


@dataclass(frozen=True, slots=True)
class TryAgain:
    """After ``wait``."""

    wait: Micros


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """It was tried often enough, and waits for a person."""


@dataclass(frozen=True, slots=True)
class EndpointGone:
    """The endpoint wants nothing any more. The delivery waits, in case that it is enabled again."""


Verdict = Delivered | TryAgain | DeadLetter | EndpointGone


def judge_attempt(*, status: int | None, attempts: int, retry_after: Micros | None, jitter: Micros) -> Verdict:
    """What becomes of a delivery.

    ``status``: of the answer, null if none came. ``attempts``: those made since it was last asked for, this one
    included. ``retry_after``: how long the endpoint asks us to wait, at least. ``jitter``: drawn from 0 to
    :func:`jitter_bound`.
    """
    if status is not None and 200 <= status < 300:
        return Delivered()
    if status == GONE:
        return EndpointGone()
    if attempts >= MAX_ATTEMPTS:
        return DeadLetter()
    asked = min(retry_after or 0, LONGEST_RETRY_AFTER)
    return TryAgain(Micros(max(WAITS[attempts - 1] + jitter, asked)))


def jitter_bound(attempts: int) -> int:
    """Below this, in µs, the jitter of the wait after so many ``attempts`` is drawn."""
    return WAITS[min(attempts, len(WAITS)) - 1] // JITTER_PARTS + 1
