"""Limits on how often each caller, each address without a valid key, and each webhook may call.

They are kept by each process for itself, in bounded memory: who was not heard of for the longest time is forgotten
first, which only ever allows more. They keep one caller from using up a process; a limit on all of them together is the
proxy's.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from starlette.requests import Request

from app.core.rate_limit import RateLimit, Taken, take
from app.core.units import US_PER_S, Micros
from app.errors import RATE_LIMITED, UNAUTHORIZED, Problem
from app.http.headers import ANSWER_HEADERS
from app.ports.clock import Clock

MAX_REMEMBERED: Final = 100_000
CALLER_BURST_S: Final = 10
WEBHOOK_BURST_S: Final = 20


def per_second(rate: int, burst_s: int) -> RateLimit | None:
    """``rate`` calls a second, and what ``burst_s`` seconds allow at once; null if the rate is 0: no limit."""
    return None if rate == 0 else RateLimit(rate * burst_s, Micros(US_PER_S // rate))


def per_minute(rate: int) -> RateLimit | None:
    """``rate`` calls a minute, all of them at once if need be; null if the rate is 0: no limit."""
    return None if rate == 0 else RateLimit(rate, Micros(60 * US_PER_S // rate))


class Meter:
    """Counts calls by whom they are of. Without a limit it counts nothing."""

    def __init__(self, limit: RateLimit | None, clock: Clock) -> None:
        self.limit = limit
        self._clock = clock
        self._empty_at: OrderedDict[Hashable, Any] = OrderedDict()

    def look(self, whose: Hashable) -> Taken | None:
        """What would become of a call now, which is not counted; null if there is no limit."""
        return None if self.limit is None else take(self._empty_at.get(whose), self._clock.now(), self.limit)

    def take(self, whose: Hashable) -> Taken | None:
        """One call; null if there is no limit."""
        if self.limit is None:
            return None
        known = self._empty_at
        taken = take(known.get(whose), self._clock.now(), self.limit)
        known[whose] = taken.empty_at
        known.move_to_end(whose)
        if len(known) > MAX_REMEMBERED:
            known.popitem(last=False)
        return taken


def too_many(taken: Taken, detail: str) -> Problem:
    """The 429 of a call that was refused."""
    return Problem(RATE_LIMITED, detail, headers={"Retry-After": str(_whole_seconds(taken.wait))})


class RateLimited:
    """A dependency around the one that authenticates: 429 for callers and addresses that are over their limits.

    A valid key is never refused for what others do from its address: failures are counted when they have failed.
    """

    def __init__(
        self,
        authenticate: Callable[[Request], Awaitable[Any]],
        callers: Meter,
        failures: Meter,
    ) -> None:
        self._authenticate = authenticate
        self._callers = callers
        self._failures = failures

    async def __call__(self, request: Request) -> None:
        try:
            await self._authenticate(request)
        except Problem as problem:
            if problem.kind is not UNAUTHORIZED:
                raise
            taken = self._failures.take(address_of(request))
            if taken is not None and taken.wait:
                raise too_many(taken, "too many requests without a valid key from this address") from None
            raise
        taken = self._callers.take(request.state.caller.name)
        if taken is None or self._callers.limit is None:
            return
        request.scope["state"][ANSWER_HEADERS] = _headers(self._callers.limit, taken)
        if taken.wait:
            raise too_many(taken, "this key was used too often")


def address_of(request: Request) -> str:
    """Where a request comes from: an address, or the network that one household or server has of IPv6."""
    host = "" if request.client is None else request.client.host
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        return str(IPv6Address(int(address) >> 64 << 64))
    return host


def _headers(limit: RateLimit, taken: Taken) -> list[tuple[bytes, bytes]]:
    """The fields of draft-ietf-httpapi-ratelimit-headers-10: quota and window, what remains and when it is whole."""
    window, reset = _whole_seconds(limit.window), _whole_seconds(taken.reset)
    return [
        (b"ratelimit-policy", b'"caller";q=%d;w=%d' % (limit.burst, window)),
        (b"ratelimit", b'"caller";r=%d;t=%d' % (taken.remaining, reset)),
    ]


def _whole_seconds(duration: Micros) -> int:
    return max(1, -(-duration // US_PER_S))
