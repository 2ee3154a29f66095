"""``python -m tests.turnstile [--pair NAME] [--schedule a12b3] [--share PERCENT] [--most RUNS]``.

Exit code 0: everything held. 1: something did not; the schedule that shows it is printed. 2: not asked for rightly,
or a schedule that cannot be followed.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
import uvloop

from tests.support.postgres import WorkerDatabases
from tests.turnstile.controller import Traced
from tests.turnstile.explorer import NotRepeatable
from tests.turnstile.pairs import MEETINGS, Meeting
from tests.turnstile.runner import Report, Violation, examine, read_schedule, replay
from tests.turnstile.stage import databases_of_one_run

HEAD = (
    f"{'meeting':<28}{'steps':>10}{'runs':>7}{'of':>7}{'missed':>8}{'cut':>6}"
    f"{'blocked':>9}{'outcomes':>10}{'serial':>8}{'s':>7}"
)
MOST_FAULTS = 10


@dataclass(frozen=True)
class Asked:
    meetings: Sequence[Meeting]
    schedule: str | None
    most: int | None
    percent: int
    seed: int
    outcomes: bool


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _asked(arguments)
    with databases_of_one_run() as databases, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if asked.schedule is not None:
            return runner.run(_replay(asked, asked.schedule, databases))
        return runner.run(_examine(asked, databases))


def _asked(arguments: Sequence[str] | None) -> Asked:
    parser = argparse.ArgumentParser(prog="python -m tests.turnstile", description=__doc__)
    parser.add_argument("--pair", action="append", choices=list(MEETINGS), metavar="NAME", help=", ".join(MEETINGS))
    parser.add_argument("--schedule", help="one run, as a violation prints it; needs one --pair")
    parser.add_argument("--most", type=int, help="at most so many runs of each meeting")
    parser.add_argument("--share", type=int, default=100, help="percent of the runs with most interruptions, of three")
    parser.add_argument("--outcomes", action="store_true", help="show what came about, and how often")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    given = parser.parse_args(arguments)
    names: list[str] = given.pair or list(MEETINGS)
    if given.schedule is not None:
        if len(names) != 1:
            parser.error("--schedule needs one --pair")
        try:
            read_schedule(given.schedule, len(MEETINGS[names[0]].actors))
        except ValueError as error:
            parser.error(str(error))
    if not 1 <= given.share <= 100:
        parser.error("--share is 1 to 100 percent")
    if given.most is not None and given.most < 1:
        parser.error("--most is one run at least")
    return Asked(
        [MEETINGS[name] for name in names], given.schedule, given.most, given.share, given.seed, given.outcomes
    )


async def _examine(asked: Asked, databases: WorkerDatabases) -> int:
    print(HEAD)
    reports: list[Report] = []
    for meeting in asked.meetings:
        with databases.fresh() as urls:
            try:
                report = await examine(
                    meeting, urls, most=asked.most, percent=asked.percent, seed=asked.seed, told=_progress
                )
            except NotRepeatable as error:
                print(f"{meeting.name}: not repeatable: {error}")
                return 1
        print(line(report), flush=True)
        show(report)
        if asked.outcomes:
            show_outcomes(report)
        reports.append(report)
    runs, cut = sum(report.runs for report in reports), sum(report.cut for report in reports)
    known, missed = sum(report.known for report in reports), sum(report.missed for report in reports)
    seconds = sum(report.seconds for report in reports)
    rate = (runs + cut) / seconds
    print(f"{runs} of {known} runs, {missed} not brought about, {cut} more cut, {seconds:.0f} s, {rate:.0f} a second")
    wrong = [report.meeting.name for report in reports if not report.held]
    print(f"wrong: {', '.join(wrong)}" if wrong else "all held")
    return 1 if wrong else 0


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def line(report: Report) -> str:
    """One line of the table."""
    steps = "+".join(str(count) for count in report.steps)
    numbers = f"{report.runs:>7}{report.known:>7}{report.missed:>8}{report.cut:>6}"
    outcomes = f"{report.blocked:>9}{len(report.outcomes):>10}{report.serial:>8}"
    return f"{report.meeting.name:<28}{steps:>10}{numbers}{outcomes}{report.seconds:>7.1f}"


def show(report: Report) -> None:
    """What is wrong, if anything is."""
    for fault in report.faults[:MOST_FAULTS]:
        print(f"  {fault}")
    if len(report.faults) > MOST_FAULTS:
        print(f"  and {len(report.faults) - MOST_FAULTS} more")
    if report.violation is not None:
        show_violation(report.violation)


def show_outcomes(report: Report) -> None:
    for (answers, money), count in report.outcomes.most_common():
        print(f"  {count:>6} times: {', '.join(answers)}")
        for money_line in money.splitlines():
            print(f"          {money_line}")


def show_violation(found: Violation) -> None:
    print(f"  {found.meeting}: {', '.join(found.answers)}")
    for line in found.what:
        print(f"    {line}")
    show_trace(found.trace)
    print(f"  again: make turnstile PAIR={found.meeting} SCHEDULE={found.schedule}")


def show_trace(trace: Sequence[Traced]) -> None:
    for n, step in enumerate(trace, 1):
        notes = [
            *(["waits"] if step.blocked else []),
            *(f"{name} goes on" for name in step.ended_wait_of),
            *([step.failed] if step.failed else []),
        ]
        print(f"  {n:>4} {step.actor} {step.shown[:150]}{'   ← ' + ', '.join(notes) if notes else ''}")


async def _replay(asked: Asked, schedule: str, databases: WorkerDatabases) -> int:
    (meeting,) = asked.meetings
    with databases.fresh() as urls:
        run = await replay(meeting, urls, schedule)
    show_trace(run.trace)
    for (name, _), answer in zip(meeting.actors, run.answers, strict=True):
        print(f"{name}: {answer}")
    print(run.money)
    for problem in run.problems:
        print(f"  {problem}")
    if not run.followed:
        print("there is no such run: somebody waits, or is done, where the schedule lets him go on")
        return 2
    print(f"schedule {run.schedule}: {'does not hold' if run.problems else 'holds'}")
    return 1 if run.problems else 0


def _let_errors_speak() -> None:
    """The service tells of refused pulls and the like; here only what it calls an error says anything."""
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    _let_errors_speak()
    sys.exit(main())
