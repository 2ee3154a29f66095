"""Lets one actor at a time through its gate, and waits until it is clear what became of it."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from tests.turnstile.explorer import Choice, Event, NoChoice
from tests.turnstile.gate import ACTOR, Actor, Stand

LOOK_AFTER_S: Final = 0.002
"""A statement that has not come back by then may be waiting for a lock: the database is asked, and only it decides."""

HOPELESS_AFTER_S: Final = 30.0


@dataclass(frozen=True)
class Told:
    """What an actor's client saw, in short, and the whole answer where that matters."""

    seen: str
    body: str = ""


class Stuck(Exception):
    """An actor neither gets on nor waits for anybody."""


@dataclass(frozen=True)
class Traced:
    """One step as it is shown: ``blocked``: it had to wait for another actor."""

    actor: str
    shown: str
    blocked: bool = False
    ended_wait_of: tuple[str, ...] = ()
    failed: str | None = None


@dataclass
class GatedRun:
    """Actors under way; an :class:`~tests.turnstile.explorer.Execution`. ``answers``: what each came to."""

    watch: psycopg.AsyncConnection[Any]
    actors: Sequence[Actor]
    tasks: list[asyncio.Task[Told]] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    trace: list[Traced] = field(default_factory=list)
    blocked_events: int = 0
    deadlocks: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self, acts: Sequence[Callable[[], Awaitable[Told]]]) -> None:
        """Set all actors going, up to their first gates."""
        for actor, act in zip(self.actors, acts, strict=True):
            actor.stand, actor.step, actor.active = Stand.RUNNING, None, True
            actor.changed = self._changed
            actor.signals.clear()
            actor.transactions.clear()
            actor.errors.clear()
            context = contextvars.copy_context()
            context.run(ACTOR.set, actor)
            self.tasks.append(asyncio.get_running_loop().create_task(self._run(actor, act), context=context))
        await self._settle()

    async def _run(self, actor: Actor, act: Callable[[], Awaitable[Told]]) -> Told:
        try:
            return await act()
        finally:
            actor.stand = Stand.DONE
            actor.step = None
            self._changed.set()

    def choices(self) -> Mapping[int, Choice]:
        return {
            n: Choice(actor.step.shown, actor.step.touch)
            for n, actor in enumerate(self.actors)
            if actor.stand is Stand.AT_THE_GATE and actor.step is not None
        }

    async def go(self, actor: int) -> Sequence[Event]:
        chosen = self.actors[actor]
        step = chosen.step
        waiting = {n: a.step for n, a in enumerate(self.actors) if a.stand in {Stand.BLOCKED, Stand.WAITING}}
        if step is None or actor not in self.choices():
            raise NoChoice(f"{chosen.name} has no choice here")
        self.chosen.append(actor)
        chosen.let_through()
        await self._settle()
        if not self.choices() and any(one.stand is not Stand.DONE for one in self.actors):
            await self._deadlocked()
        events = [Event(actor, step.touch)]
        freed = []
        for n, before in waiting.items():
            if before is not None and self.actors[n].step is not before:
                events.append(Event(n, before.touch, released=True))
                freed.append(self.actors[n].name)
        blocked = chosen.stand is Stand.BLOCKED and chosen.step is step
        self.blocked_events += blocked
        self.trace.append(Traced(chosen.name, step.shown, blocked, tuple(freed), step.failed))
        return events

    async def finish(self) -> list[Told | BaseException]:
        """Let all who are left go on, one after the other; their answers, or what broke."""
        while choices := self.choices():
            last = self.chosen[-1] if self.chosen else -1
            await self.go(last if last in choices else min(choices))
        for actor in self.actors:
            actor.active = False
        return list(await asyncio.gather(*self.tasks, return_exceptions=True))

    async def _settle(self) -> None:
        """Wait until every actor is at a gate, done, or waits for a lock of another actor who is."""
        deadline = asyncio.get_running_loop().time() + HOPELESS_AFTER_S
        while True:
            self._changed.clear()
            self._give_signals()
            if any(actor.stand is Stand.RUNNING for actor in self.actors):
                if not await self._changed_soon():
                    await self._look()
                if asyncio.get_running_loop().time() > deadline:
                    raise Stuck(", ".join(f"{a.name} {a.stand.value}: {a.step}" for a in self.actors))
            elif not any(actor.stand is Stand.BLOCKED for actor in self.actors) or await self._look():
                return

    def _give_signals(self) -> None:
        given = {signal for actor in self.actors for signal in actor.signals}
        for actor in self.actors:
            if actor.stand is Stand.WAITING and actor.step is not None:
                wanted = {row.key for row in actor.step.touch.locks}
                others_done = all(other.stand is Stand.DONE for other in self.actors if other is not actor)
                if wanted <= given or others_done:
                    actor.let_through()

    async def _changed_soon(self) -> bool:
        timer = asyncio.get_running_loop().call_later(LOOK_AFTER_S, self._changed.set)
        before = [(actor.stand, actor.step) for actor in self.actors]
        await self._changed.wait()
        timer.cancel()
        return before != [(actor.stand, actor.step) for actor in self.actors]

    async def _look(self) -> bool:
        """Ask the database who waits for whom; whether nobody is on the way any more.

        What it says holds only while nobody runs: a wait for an actor that runs may end at once.
        """
        waiting = {a.step.pid: a for a in self.actors if a.stand in {Stand.RUNNING, Stand.BLOCKED} and a.step}
        pids = [pid for pid in waiting if pid is not None]
        if not pids:
            return False
        cursor = await self.watch.execute(
            "select pid, pg_blocking_pids(pid) from unnest(%s::int[]) pid", (pids,), prepare=True
        )
        blockers: dict[int, list[int]] = dict(await cursor.fetchall())
        own = {pid for actor in self.actors for pid in actor.transactions}
        for pid, by in blockers.items():
            actor = waiting[pid]
            if actor.stand in {Stand.RUNNING, Stand.BLOCKED} and actor.step is not None and actor.step.pid == pid:
                actor.stand = Stand.BLOCKED if own & set(by) else Stand.RUNNING
        return not any(actor.stand is Stand.RUNNING for actor in self.actors)

    async def _deadlocked(self) -> None:
        """Nobody can go on: wait for the database to send one of them away."""
        self.deadlocks += 1
        deadline = asyncio.get_running_loop().time() + HOPELESS_AFTER_S
        while not self.choices() and any(actor.stand is not Stand.DONE for actor in self.actors):
            if asyncio.get_running_loop().time() > deadline:
                raise Stuck(", ".join(f"{a.name} {a.stand.value}: {a.step}" for a in self.actors))
            await asyncio.sleep(LOOK_AFTER_S)
            for actor in self.actors:
                if actor.stand is Stand.BLOCKED:
                    actor.stand = Stand.RUNNING
            await self._settle()
