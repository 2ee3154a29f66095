"""Explores one meeting, judges every run, and says what came of it."""

import contextlib
import itertools
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from app.db.embedded import DatabaseUrls
from tests.support.invariants import findings
from tests.turnstile.acts import to_the_end
from tests.turnstile.controller import GatedRun, Told, Traced
from tests.turnstile.explorer import Event, Execution, Interruptions, NoChoice, Run, explore
from tests.turnstile.gate import gates
from tests.turnstile.oracle import judge, money_of, rows_of
from tests.turnstile.pairs import Meeting
from tests.turnstile.stage import LETTERS, Case, Stage, stage
from tests.turnstile.touches import dependent

Outcome = tuple[tuple[str, ...], str]


@dataclass(frozen=True)
class Violation:
    """A run after which something does not hold; ``schedule`` replays it."""

    meeting: str
    schedule: str
    what: Sequence[str]
    trace: Sequence[Traced]
    answers: Sequence[str]


@dataclass
class Report:
    """What came of one meeting. ``runs``: no two of them are equivalent where two meet. ``known``: of so many, where
    three meet; ``missed`` were not brought about. ``cut``: runs beside those, equivalent to another one or gone astray,
    and taken to the end all the same.
    """

    meeting: Meeting
    steps: Sequence[int] = ()
    serial: int = 0
    runs: int = 0
    known: int = 0
    missed: int = 0
    cut: int = 0
    blocked: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    seconds: float = 0.0
    violation: Violation | None = None
    faults: list[str] = field(default_factory=list)
    conflicts: set[int] = field(default_factory=set)
    complete: bool = True

    @property
    def held(self) -> bool:
        return self.violation is None and not self.faults


def written(schedule: Sequence[int]) -> str:
    """A schedule as text: who goes on how many steps, ``a12b3a1``."""
    return "".join(f"{LETTERS[actor]}{len(list(steps))}" for actor, steps in itertools.groupby(schedule))


def read_schedule(text: str, actors: int = len(LETTERS)) -> list[int]:
    """Who goes on, step by step. Raises ``ValueError`` for what is no schedule of so many actors."""
    if not re.fullmatch(rf"([{LETTERS[:actors]}]\d+)*", text):
        raise ValueError(f"a schedule is letters of the {actors} actors with numbers, as in a12b3: {text!r}")
    return [LETTERS.index(who) for who, count in re.findall(r"([a-z])(\d+)", text) for _ in range(int(count))]


@dataclass
class Table:
    """The meeting with its set-up made: can be begun again and again. A ``System`` of the explorer."""

    meeting: Meeting
    stage: Stage
    case: Case | None = None

    async def begin(self) -> Execution:
        return await self.run()

    async def run(self) -> GatedRun:
        self.case = case = await self.stage.new_case()
        run = GatedRun(self.stage.watch, [seat.actor for seat in self.stage.seats])
        acts: list[Callable[[], Any]] = []
        for seat, (_, act), later in zip(self.stage.seats, self.meeting.actors, self.meeting.later, strict=False):
            seat.world.clock.set(self.stage.begun_at)
            seat.world.clock.advance(later)

            def go(seat: Any = seat, act: Any = act) -> Any:
                return act(seat, case)

            acts.append(go)
        await run.start(acts)
        return run

    async def judged(self, run: GatedRun) -> tuple[Outcome, list[str]]:
        """The outcome of a run, taken to its end, and what does not hold after it."""
        told = await run.finish()
        if self.case is None:
            raise RuntimeError("no run was begun")
        rows = await rows_of(self.stage.watch, self.case.account_id)
        problems = [f"{run.deadlocks} deadlock"] if run.deadlocks else []
        for actor, one in zip(run.actors, told, strict=True):
            problems += [f"{actor.name}: the database said {error}" for error in actor.errors]
            if isinstance(one, BaseException):
                problems.append(f"{actor.name} broke: {type(one).__name__}: {one}")
            elif one.seen[:3] in {"500", "503"}:
                problems.append(f"{actor.name} was told {one.seen}")
        whole = [one if isinstance(one, Told) else Told(type(one).__name__) for one in told]
        problems += judge(rows, floor_moves=self.meeting.floor_moves)
        if not problems:
            problems += self.meeting.check(whole, rows)
        if not problems and self.meeting.to_the_end:
            left = [UUID(row["id"]) for row in rows["sessions"] if row["state"] not in {"settled", "failed"}]
            await to_the_end(self.stage, self.case.account_id, left)
            rows = await rows_of(self.stage.watch, self.case.account_id)
            problems += judge(rows, floor_moves=self.meeting.floor_moves)
        return (tuple(one.seen for one in whole), _text(money_of(rows))), problems


def _text(money: Any) -> str:
    return "\n".join(f"{name}: {value}" for name, value in money.items())


async def by_rank(run: GatedRun, order: Sequence[int]) -> None:
    """One after the other, the first in ``order`` as far as it gets without another one."""
    while choices := run.choices():
        await run.go(min(choices, key=order.index))


async def examine(
    meeting: Meeting,
    urls: DatabaseUrls,
    *,
    most: int | None = None,
    percent: int = 100,
    seed: int = 1,
    told: Callable[[str], None] = lambda _: None,
) -> Report:
    """Try all orders of a meeting on a database of its own, up to the first violation; at most ``most`` runs."""
    begun = time.monotonic()
    report = Report(meeting)
    with gates():
        async with stage(urls, len(meeting.actors)) as on_stage:
            await on_stage.keep(await meeting.prepare(on_stage))
            table = Table(meeting, on_stage)
            serial = await _serial(table, report)
            interruptions = Interruptions(percent=percent, seed=seed)
            runs = explore(table) if meeting.pair else interruptions.explore(table)
            if report.held:
                await _explore(table, runs, serial, report, most, told)
            report.known = report.runs if meeting.pair else interruptions.known
            report.missed = interruptions.missed
    report.seconds = time.monotonic() - begun
    if report.held:
        report.faults += [f"verify: {one.check}: {one.row}: {one.detail}" for one in await findings(urls.service)]
    if report.held and report.complete:
        _check_it_could_have_failed(report)
    return report


async def _serial(table: Table, report: Report) -> dict[Outcome, str]:
    """The outcomes of the serial orders, and by which order each came."""
    found: dict[Outcome, str] = {}
    count = len(table.meeting.actors)
    report.steps = [0] * count
    for order in itertools.permutations(range(count)):
        run = await table.run()
        await by_rank(run, order)
        outcome, problems = await table.judged(run)
        found.setdefault(outcome, written(run.chosen))
        if problems and report.violation is None:
            report.violation = _violation(table, run, outcome, problems)
        report.steps = [max(most, run.chosen.count(n)) for n, most in enumerate(report.steps)]
    report.serial = len(found)
    return found


async def _explore(
    table: Table,
    runs: AsyncIterator[Run],
    serial: dict[Outcome, str],
    report: Report,
    most: int | None,
    told: Callable[[str], None],
) -> None:
    async for run in runs:
        gated = run.execution
        assert isinstance(gated, GatedRun)
        outcome, problems = await table.judged(gated)
        report.blocked += gated.blocked_events
        report.cut += run.cut
        report.runs += not run.cut
        report.outcomes[outcome] += 1
        if len(report.conflicts) < len(table.meeting.actors):
            report.conflicts |= _in_conflict(run.events)
        problems = problems or _beyond_serial(table.meeting, outcome, serial)
        if problems:
            report.violation = _violation(table, gated, outcome, problems)
            report.complete = False
            return
        if (report.runs + report.cut) % 500 == 0:
            told(f"{table.meeting.name}: {report.runs} runs, {report.cut} cut")
        if most is not None and report.runs + report.cut >= most:
            report.complete = False
            return


def _beyond_serial(meeting: Meeting, outcome: Outcome, serial: dict[Outcome, str]) -> list[str]:
    if outcome in serial:
        return []
    answers, money = outcome
    if answers in meeting.beside and any(money == known for _, known in serial):
        return []
    lines = [f"no serial order comes to this: {', '.join(answers)}", *money.splitlines()]
    for (known, its_money), schedule in serial.items():
        lines += [f"but {schedule} comes to: {', '.join(known)}", *its_money.splitlines()]
    return lines


def _violation(table: Table, run: GatedRun, outcome: Outcome, problems: list[str]) -> Violation:
    return Violation(table.meeting.name, written(run.chosen), problems, run.trace, outcome[0])


def _in_conflict(events: Sequence[Event]) -> set[int]:
    return {
        one.actor
        for one in events
        if any(other.actor != one.actor and dependent(one.touch, other.touch) for other in events)
    }


def _check_it_could_have_failed(report: Report) -> None:
    """A meeting in which nobody meets, or in which what it is about never happened, proves nothing."""
    meeting = report.meeting
    seen = {answers for answers, _ in report.outcomes}
    report.faults += [f"never came about: {', '.join(answers)}" for answers in sorted(meeting.must - seen)]
    if report.conflicts != set(range(len(meeting.actors))):
        report.faults.append("some actor never met another one")
    report.faults += [
        f"named as beside the serial orders, and never came about: {', '.join(answers)}"
        for answers in sorted(set(meeting.beside) - seen)
    ]


@dataclass(frozen=True)
class Replayed:
    """One run that was asked for. ``followed``: it went the way that the schedule says."""

    schedule: str
    trace: Sequence[Traced]
    answers: Sequence[str]
    money: str
    problems: Sequence[str]
    followed: bool


async def replay(meeting: Meeting, urls: DatabaseUrls, schedule: str) -> Replayed:
    """Do one run; where the schedule ends, whoever went last goes on."""
    with gates():
        async with stage(urls, len(meeting.actors)) as on_stage:
            await on_stage.keep(await meeting.prepare(on_stage))
            table = Table(meeting, on_stage)
            report = Report(meeting)
            serial = await _serial(table, report)
            wanted = read_schedule(schedule)
            for _ in range(Interruptions().tries):
                run = await table.run()
                with contextlib.suppress(NoChoice):
                    for actor in wanted:
                        await run.go(actor)
                outcome, problems = await table.judged(run)
                followed = run.chosen[: len(wanted)] == wanted
                if followed:
                    break
            problems = problems or _beyond_serial(meeting, outcome, serial)
    return Replayed(written(run.chosen), run.trace, outcome[0], outcome[1], problems, followed)


EXCERPT: Final = ("start/start", "same-key-grant")
"""Pairs that ``make test`` explores whole."""
