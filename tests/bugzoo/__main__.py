"""Run the planted bugs.

``python -m tests.bugzoo`` runs every layer without a bug, which must pass, and then every bug against the run that is
recorded for it; exit code 1 if one is not found. With a name, that bug alone; with ``--layer`` (and ``--seed``,
``--amount``, ``--only``) against that layer instead. ``--survey`` tries the bugs named, or all, against every layer and
records what found them; ``--table`` writes the table of docs/reliability.md anew.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypeVar

from tests.bugzoo.bug import Bug, Layer, Run
from tests.bugzoo.child import BROKEN, PASSED, UNREACHED, VIOLATED, Came
from tests.bugzoo.patching import ROOT, DoesNotApply, patched, source_of
from tests.bugzoo.table import read_survey, write_survey, write_table
from tests.bugzoo.zoo import BUGS, NoSuchBug, bug_named

T = TypeVar("T")
S = TypeVar("S")

LIMIT_S: Final = 300
"""A run that takes longer is broken: its bug, or the layer, hangs."""

SHOWN: Final = 120
"""Characters of what a run says that are shown."""

TIDY_S: Final = 15
"""So long a run that was told to stop may take to remove its database."""

SURVEYED: Final = {
    Layer.UNIT: Run(Layer.UNIT),
    Layer.REFERENCE: Run(Layer.REFERENCE, seed=1, amount=4_000),
    Layer.PROPERTY: Run(Layer.PROPERTY),
    Layer.CONTRACT: Run(Layer.CONTRACT),
    Layer.INTEGRATION: Run(
        Layer.INTEGRATION,
        only=tuple(
            f"test_{name}.py"
            for name in (
                "heartbeats", "settlement", "own_outages", "starts", "corrections", "limits_and_alerts",
                "due_and_purge", "balances", "repeated_requests", "the_way", "verify", "roll_forward", "statements",
                "retention", "replay",
            )
        ),
    ),
    Layer.CUTS: Run(Layer.CUTS),
    Layer.STATEFUL: Run(Layer.STATEFUL, seed=1, amount=40),
}  # fmt: skip
"""What a survey tries of each layer."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One run of the zoo."""

    bug: Bug | None
    run: Run
    came: Came
    seconds: float


def tried(bug: Bug | None, run: Run) -> Tried:
    """One run, in a process of its own."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bugzoo-") as folder:
        result = Path(folder, "result.json")
        came = _watched(["" if bug is None else bug.name, json.dumps(asdict(run))], result)
    return Tried(bug, run, came, time.perf_counter() - begun)


def _watched(arguments: list[str], result: Path) -> Came:
    command = [sys.executable, "-m", "tests.bugzoo.child", str(result), *arguments]
    # The simulation would start anew to have its sets in the same order each time, and lose the bug by it.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    ) as child:
        try:
            printed, _ = child.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            _stop(child)
            return Came(BROKEN, f"took longer than {LIMIT_S} s")
    if not result.exists():
        last = printed.strip().splitlines()[-1:]
        return Came(BROKEN, f"ended with {child.returncode}: {''.join(last)[:300]}")
    told = json.loads(result.read_text(encoding="utf-8"))
    return Came(told["of_it"], told["says"], tuple(told["had"]))


def _stop(child: subprocess.Popen[str]) -> None:
    """Its fixtures are torn down if it can still do that."""
    child.send_signal(signal.SIGINT)
    try:
        child.communicate(timeout=TIDY_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def controls(runs: Iterable[Run]) -> list[Run]:
    """What must pass without a bug for these runs to prove anything: each seed, and all chosen tests of each folder."""
    seeded: dict[Run, None] = {}
    chosen: dict[Layer, dict[str, None]] = {}
    for run in runs:
        if run.layer in {Layer.REFERENCE, Layer.STATEFUL, Layer.TURNSTILE, Layer.SIM}:
            seeded[run] = None
        else:
            chosen.setdefault(run.layer, {}).update(dict.fromkeys(run.only))
    return [*(Run(layer, only=tuple(only)) for layer, only in chosen.items()), *seeded]


def _show(one: Tried) -> None:
    found = {PASSED: "not found", VIOLATED: "found", UNREACHED: "not reached"}.get(one.came.of_it, one.came.of_it)
    if one.bug is None:
        found = {PASSED: "passed", VIOLATED: "FAILED"}.get(one.came.of_it, one.came.of_it)
    name = "(no bug)" if one.bug is None else one.bug.name
    where = f"{one.run.layer} {one.run.shown}" if one.bug is not None else f"{one.run.layer}"
    _say(f"{name:41} {found:9} {one.seconds:5.1f} s  {where}{': ' if one.came.says else ''}{one.came.says[:SHOWN]}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _at_once(jobs: int, work: Callable[[T], S], things: Sequence[T]) -> list[S]:
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(work, things))


def play(pairs: Sequence[tuple[Bug, Run]], jobs: int) -> bool:
    """The controls, then the bugs; whether all of it is as it must be."""

    def shown(pair: tuple[Bug | None, Run]) -> Tried:
        one = tried(*pair)
        _show(one)
        return one

    checks: list[tuple[Bug | None, Run]] = [(None, run) for run in controls(run for _, run in pairs)]
    if any(one.came.of_it != PASSED for one in _at_once(jobs, shown, checks)):
        _say("A layer fails without any bug: what it says about bugs proves nothing.")
        return False
    results = _at_once(jobs, shown, list(pairs))
    found = sum(one.came.of_it == VIOLATED for one in results)
    _say(f"{found} of {len(results)} bugs found")
    return found == len(results)


def survey(bugs: Sequence[Bug], runs: Sequence[Run], jobs: int) -> None:
    """Try every bug against every run, and record it; what a layer never imports it cannot find."""
    record = read_survey()
    had: dict[Layer, set[str]] = {}

    def one(pair: tuple[Bug, Run]) -> None:
        bug, run = pair
        came_of_it = UNREACHED
        if bug.modules <= had[run.layer]:
            result = tried(bug, run)
            _show(result)
            came_of_it = result.came.of_it
        record.setdefault(bug.name, {})[run.layer.value] = came_of_it
        write_survey(record)

    for run in runs:
        without = tried(None, run)
        _show(without)
        if without.came.of_it == PASSED:
            had[run.layer] = set(without.came.had)
            _at_once(jobs, one, [(bug, run) for bug in bugs])


def _fits(bugs: Iterable[Bug]) -> bool:
    """Whether every bug applies to today's source."""
    fits = True
    for bug in bugs:
        for module in sorted(bug.modules):
            try:
                patched(bug, module, source_of(module))
            except DoesNotApply as error:
                _say(str(error))
                fits = False
    return fits


def _asked(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bugzoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bugs", nargs="*", metavar="BUG", help="planted bugs by name (default all)")
    parser.add_argument("--layer", type=Layer, choices=list(Layer), help="try this layer instead of the recorded one")
    parser.add_argument("--seed", type=int, help="of the reference, the stateful layer or the simulation")
    parser.add_argument("--amount", type=int, help="cases of the reference, runs of the stateful layer")
    parser.add_argument("--only", action="append", default=[], help="a test, an operation of the cuts, a pair")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="runs at the same time (default 2)")
    parser.add_argument("--survey", action="store_true", help="try every layer, or --layer, and record what finds them")
    parser.add_argument("--table", action="store_true", help="write the table of docs/reliability.md")
    given = parser.parse_args(arguments)
    if given.layer is Layer.SIM and given.seed is None:
        parser.error("the simulation needs --seed")
    if given.layer is Layer.TURNSTILE and not given.only:
        parser.error("the turnstile needs --only PAIR")
    return given


def _run(asked: argparse.Namespace) -> Run:
    """The run of the layer that is asked for; what is not said is as in a survey."""
    usual = SURVEYED.get(asked.layer, Run(asked.layer))
    seed = usual.seed if asked.seed is None else asked.seed
    amount = usual.amount if asked.amount is None else asked.amount
    return Run(asked.layer, seed=seed, amount=amount, only=tuple(asked.only) or usual.only)


def main(arguments: list[str] | None = None) -> int:
    asked = _asked(arguments)
    try:
        bugs = [bug_named(name) for name in asked.bugs] or list(BUGS)
    except NoSuchBug as error:
        _say(str(error))
        return 2
    if asked.table:
        write_table()
        return 0
    if not _fits(bugs):
        return 1
    if asked.survey:
        survey(bugs, [_run(asked)] if asked.layer else list(SURVEYED.values()), asked.jobs)
        return 0
    if asked.layer:
        return 0 if play([(bug, _run(asked)) for bug in bugs], asked.jobs) else 1
    return 0 if play([(bug, bug.found_by) for bug in bugs], asked.jobs) else 1


if __name__ == "__main__":
    raise SystemExit(main())
