"""Front ends of the simulated world: each follows one user's state, is cut off now and then, and comes again elsewhere.

What one knows is only what it was told. In the end that must be what is stored: no change was missed, whichever
process made it, whatever died meanwhile.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from starlette.types import Message

from app.core.access import Caller
from app.errors import Problem
from app.live.hub import Listener
from tests.simulation.dice import rng
from tests.simulation.processes import Process

BRANCHES: Final = (
    "watcher told",
    "watcher told nothing twice",
    "watcher cut",
    "watcher's process died",
    "watcher was right",
)
"""What must have happened over a run of many worlds."""

LOOKS_S: Final = (15.0, 75.0)
"""Between two looks of a process; the real ones are a second apart."""

CUT: Final = 0.08
"""How often a connection breaks between two looks, while faults may happen."""


def watches(seed: int) -> bool:
    """Whether users of a seed's world have front ends."""
    return seed % 5 == 3


class Watcher:
    """See the module. ``look``: a round of a process's hub."""

    def __init__(
        self,
        seed: int,
        user: str,
        seen: Callable[[str], None],
        look: Callable[[Process], Any],
        risky: Callable[[], bool],
    ) -> None:
        self.user = user
        self.state: dict[str, Any] | None = None
        self.sessions: dict[str, dict[str, Any]] = {}
        """Each session as it was told last, however long ago."""
        self.whole = True
        """No stretch of events is known to be missing."""
        self.process: Process | None = None
        self._seed = seed
        self._count = seen
        self._look = look
        self._risky = risky
        self._id: str | None = None
        self._times = 0

    async def listen(self, process: Process) -> None:
        """Follow the state at one process until the stream ends."""
        hub = process.service.live
        caller = Caller(f"user:{self.user}", user_id=self.user)
        before = self._id
        try:
            listener: Listener | None = await process.run("join", lambda: hub.join(self.user, caller, before))
        except Problem:
            return
        if listener is None:
            return
        if before is not None and listener.feed.state is not None and listener.feed.state.id == before:
            self._count("watcher told nothing twice")
        self.process = process
        try:
            async with asyncio.timeout(None) as leave:
                listener.open(self._take, leave, None)
                await self._stay(process)
        except TimeoutError:
            pass
        finally:
            self.process = None
            hub.leave(listener)

    async def _stay(self, process: Process) -> None:
        while True:
            self._times += 1
            drawn = rng(self._seed, "watcher", self.user, self._times)
            await asyncio.sleep(drawn.uniform(*LOOKS_S))
            if process.life.ended():
                self._count("watcher's process died")
                return
            if self._risky() and drawn.random() < CUT:
                self._count("watcher cut")
                return
            await self._look(process)

    async def _take(self, message: Message) -> None:
        for block in message["body"].decode().split("\n\n"):
            fields = dict(line.partition(": ")[::2] for line in block.split("\n"))
            if fields.get("event") == "state":
                self._id = fields["id"]
                self._learn(json.loads(fields["data"]))

    def _learn(self, state: dict[str, Any]) -> None:
        self._count("watcher told")
        known = 0 if self.state is None else self.state["sequence"]
        self.whole = self.whole and state["sessions_since"] <= known
        self.state = state
        self.sessions |= {session["id"]: session for session in state["sessions"]}

    def faults(self, account: Mapping[str, str], sessions: Mapping[str, tuple[str, str | None]]) -> list[str]:
        """What it knows otherwise than it is stored. ``sessions``: state and charge of each, by its id."""
        if self.state is None:
            return ["nothing was told"]
        told = {name: self.state[name] for name in account}
        found = [] if told == account else [f"{told} was told, and {dict(account)} is so"]
        for name, stored in sessions.items():
            known = self.sessions.get(name)
            if known is None and self.whole:
                found.append(f"{name} was never told")
            elif known is not None and (self.whole or name in {one["id"] for one in self.state["sessions"]}):
                last = known["state"], known["charged"]
                if last != stored:
                    found.append(f"{name} was told as {last}, and is {stored}")
        return found
