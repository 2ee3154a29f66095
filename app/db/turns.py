"""Waiting for one's turn within this process, without a connection; whoever waits in the database has one."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary


class Turns:
    """Lets one at a time do what has the same name. Saves connections; that an effect happens once rests on its key."""

    def __init__(self) -> None:
        # A name is forgotten when nobody waits for it or has it any more.
        self._locks: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, name: Hashable, at_most_s: float) -> AsyncIterator[None]:
        """Wait for all who asked before, in their order; :class:`TimeoutError` if that takes too long."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with asyncio.timeout(at_most_s):
            await lock.acquire()
        try:
            yield
        finally:
            lock.release()
