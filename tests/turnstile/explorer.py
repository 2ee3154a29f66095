"""Which orders to try: all of two actors up to equivalence, those of three with few interruptions.

Two runs are equivalent if one becomes the other by swapping neighbouring steps that commute; all of them end alike, so
one of each class is enough. Nothing is stored but the way to the present run: every run begins anew.
"""

import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from tests.turnstile.touches import Touch, dependent


class NotRepeatable(Exception):
    """The same steps led to another choice than before: the actors are not told apart by their steps alone."""


@dataclass(frozen=True)
class Choice:
    """The next step of an actor that could go on; ``label`` is the same whenever the actor is at the same place."""

    label: str
    touch: Touch


@dataclass(frozen=True)
class Event:
    """Something that happened. ``released``: not chosen, but brought about by the step before, which ended a wait."""

    actor: int
    touch: Touch
    released: bool = False


class NoChoice(Exception):
    """An actor was to go on that cannot: it waits, or is done."""


class Execution(Protocol):
    """One run under way."""

    def choices(self) -> Mapping[int, Choice]:
        """By actor: what could be done next. Who waits for another one has no choice; none at all: the run is over."""
        ...

    async def go(self, actor: int) -> Sequence[Event]:
        """Let an actor take its next step, and wait until it is clear what the choices are then.

        Raises :class:`NoChoice`.
        """
        ...


class System(Protocol):
    """What is explored: it can be begun as often as wanted, each time in the same state."""

    async def begin(self) -> Execution: ...


@dataclass
class Run:
    """A run that was explored. ``cut``: it was left before its end, as it is equivalent to another one or did not come
    to where it was to go; whoever wants to may take it to its end."""

    execution: Execution
    schedule: list[int]
    events: list[Event]
    cut: bool = False


@dataclass
class _Node:
    choices: dict[int, Choice]
    sleep: set[int]
    chosen: int
    tried: set[int] = field(default_factory=set)
    wanted: set[int] = field(default_factory=set)


async def explore(system: System) -> AsyncIterator[Run]:
    """At least one run of every class, by dynamic partial order reduction with source sets and sleep sets.

    A choice is tried again only where two steps that depend on each other happened in one order and could have happened
    in the other one (Abdulla, Aronis, Jonsson, Sagonas: Optimal dynamic partial order reduction, 2014, algorithm 1;
    sleep sets are Godefroid's). A wait ends by itself, at once, when another one lets go: that is no choice.
    """
    way: list[_Node] = []
    while True:
        run, at = await _follow(system, way)
        yield run
        _want_reversals(run.events, at, way)
        while way:
            node = way[-1]
            left = node.wanted - node.tried - node.sleep
            if left:
                node.chosen = min(left)
                node.tried.add(node.chosen)
                break
            way.pop()
        else:
            return


async def _follow(system: System, way: list[_Node]) -> tuple[Run, list[int]]:
    """Go the way again and on to the end. Beside the run: for each event, by which node it came about."""
    execution = await system.begin()
    run = Run(execution, [], [])
    at: list[int] = []
    sleep: set[int] = set()
    while choices := dict(execution.choices()):
        depth = len(run.schedule)
        if depth == len(way):
            awake = choices.keys() - sleep
            if not awake:
                run.cut = True
                break
            last = run.schedule[-1] if run.schedule else -1
            chosen = last if last in awake else min(awake)
            way.append(_Node(choices, sleep, chosen, {chosen}, {chosen}))
        node = way[depth]
        _check_repeated(node.choices, choices)
        chosen = node.chosen
        sleep = {
            actor
            for actor in (node.sleep | node.tried) - {chosen}
            if actor in choices and not dependent(choices[actor].touch, choices[chosen].touch)
        }
        happened = await execution.go(chosen)
        run.schedule.append(chosen)
        run.events += happened
        at += [depth] * len(happened)
    return run, at


def _check_repeated(before: Mapping[int, Choice], now: Mapping[int, Choice]) -> None:
    labels = [{actor: choice.label for actor, choice in choices.items()} for choices in (before, now)]
    if labels[0] != labels[1]:
        raise NotRepeatable(f"{labels[0]} became {labels[1]}")


def happened_before(events: Sequence[Event]) -> list[set[int]]:
    """For each event, those that must come before it in every equivalent run, and itself."""
    return [before for before, _ in _orders(events)]


def _orders(events: Sequence[Event]) -> list[tuple[set[int], list[int]]]:
    """For each event: what must come before it, and which of that it depends on with nothing in between."""
    found: list[tuple[set[int], list[int]]] = []
    last: dict[int, int] = {}
    for j, event in enumerate(events):
        before = {j}
        races: list[int] = []
        if event.actor in last:
            before |= found[last[event.actor]][0]
        if not event.touch.nothing:
            for i in range(j - 1, -1, -1):
                if i in before or events[i].actor == event.actor or not dependent(events[i].touch, event.touch):
                    continue
                races.append(i)
                before |= found[i][0]
        last[event.actor] = j
        found.append((before, races))
    return found


def _want_reversals(events: Sequence[Event], at: Sequence[int], way: list[_Node]) -> None:
    orders = _orders(events)
    for j, (_, races) in enumerate(orders):
        # The end of a wait cannot come sooner; that the wait might have begun sooner or later is the first step's race.
        if events[j].released:
            continue
        for i in races:
            if events[i].released or at[i] >= len(way):
                continue
            between = [k for k in range(i + 1, j) if i not in orders[k][0]] + [j]
            firsts: dict[int, int] = {}
            for k in between:
                firsts.setdefault(events[k].actor, k)
            initials = {
                actor
                for actor, first in firsts.items()
                if not any(k < first and k in orders[first][0] for k in between)
            }
            node = way[at[i]]
            if not initials & node.wanted:
                possible = initials & node.choices.keys()
                node.wanted |= {min(possible)} if possible else node.choices.keys()


def trace_of(events: Sequence[Event]) -> tuple[tuple[int, ...], ...]:
    """The same for equivalent runs only: for each actor's steps, how many steps of each other one must come before."""
    actors = sorted({event.actor for event in events})
    by_actor: dict[int, list[tuple[int, ...]]] = {actor: [] for actor in actors}
    for event, before in zip(events, happened_before(events), strict=True):
        counts = tuple(sum(events[k].actor == actor for k in before) for actor in actors)
        by_actor[event.actor].append(counts)
    return tuple(itertools.chain.from_iterable(by_actor[actor] for actor in actors))


@dataclass
class Interruptions:
    """Runs in which an actor that could go on is interrupted at most ``bound`` times, and only in front of a step that
    depends on one of another's; whoever goes on where nobody is interrupted is tried in every way.

    Runs with fewer interruptions come first. Of those with ``bound``, ``percent`` are chosen by ``seed``, and the rest
    is left out; ``known`` counts all that showed so far.

    Which of two that wait for a third gets on is not ours to say: PostgreSQL keeps no order among those that wait for a
    row that was changed. A run that went astray in this way is cut and tried again, ``tries`` times in all.
    """

    bound: int = 2
    percent: int = 100
    seed: int = 1
    tries: int = 8
    known: int = 0
    missed: int = 0

    async def explore(self, system: System) -> AsyncIterator[Run]:
        random = Random(self.seed)
        waiting: list[list[tuple[int, ...]]] = [[()], *([] for _ in range(self.bound))]
        self.known = 1
        for interrupted, schedules in enumerate(waiting):
            while schedules:
                schedule = schedules.pop()
                for _ in range(self.tries):
                    run, children = await self._run(system, schedule)
                    yield run
                    if not run.cut:
                        break
                else:
                    self.missed += 1
                for more, schedule in children:
                    if interrupted + more > self.bound:
                        continue
                    self.known += 1
                    last = interrupted + more == self.bound
                    if not (last and more) or random.randrange(100) < self.percent:
                        waiting[interrupted + more].append(schedule)

    async def _run(self, system: System, prefix: tuple[int, ...]) -> tuple[Run, list[tuple[int, tuple[int, ...]]]]:
        """A run that begins with ``prefix``, and those that branch off behind it with 0 or 1 interruptions more."""
        execution = await system.begin()
        run = Run(execution, [], [])
        branches: list[tuple[int, int, int, Touch]] = []
        while choices := dict(execution.choices()):
            depth = len(run.schedule)
            last = run.schedule[-1] if run.schedule else -1
            if depth < len(prefix):
                chosen = prefix[depth]
            else:
                chosen = last if last in choices else min(choices)
                touch = choices[chosen].touch
                branches += [(depth, other, int(chosen == last), touch) for other in choices if other != chosen]
            if chosen not in choices:
                run.cut = True
                return run, []
            run.events += await execution.go(chosen)
            run.schedule.append(chosen)
        children = []
        for depth, other, interrupts, touch in branches:
            owner = run.schedule[depth]
            if not interrupts or any(e.actor != owner and dependent(e.touch, touch) for e in run.events):
                children.append((interrupts, (*run.schedule[:depth], other)))
        return run, children
