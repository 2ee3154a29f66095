"""Permits for requests to the provider. Every request has one; how many there are, all processes share."""

from typing import Protocol

from app.core.budget import NotNow, Permit, Purpose
from app.core.units import Instant, Micros


class Permits(Protocol):
    """Gives permits out. Ask with no transaction open: it may take a transaction of its own, and time."""

    async def reserve(self, purpose: Purpose) -> Permit | NotNow:
        """A permit whose instant is near, for a request that is about to be made; unused, it lapses."""
        ...

    async def ready(self, purpose: Purpose, permit: Permit | None = None) -> NotNow | None:
        """Wait until one request may leave, now: null. With ``permit`` if it has not lapsed, else with another one."""
        ...

    def give_back(self, permit: Permit) -> None:
        """The request will not be made: another one may be."""
        ...

    async def block(self, wait: Micros) -> None:
        """The provider wants no request of anybody's for ``wait`` µs. Never raises for a database that is away."""
        ...


class Unlimited:
    """Permits without end, for a provider that nobody else asks."""

    async def reserve(self, purpose: Purpose) -> Permit | NotNow:
        del purpose
        return Permit(Instant(0))

    async def ready(self, purpose: Purpose, permit: Permit | None = None) -> NotNow | None:
        del purpose, permit
        return None

    def give_back(self, permit: Permit) -> None:
        del permit

    async def block(self, wait: Micros) -> None:
        del wait
