"""One run of one layer in this process, with a bug in the product or without.

``python -m tests.bugzoo.child RESULT BUG RUN`` (BUG may be empty; RUN as JSON) writes to RESULT what came of it. A bug
counts as found only if a check said so: an assertion, the product's own alarm, the database's constraint, or the line
in which a tool names a violation. Everything else that fails is a broken run.
"""

import contextlib
import io
import json
import os
import re
import runpy
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.bugzoo.bug import Layer, Run
from tests.bugzoo.patching import Planted, plant
from tests.bugzoo.zoo import bug_named

PASSED: Final = "passed"
VIOLATED: Final = "violated"
BROKEN: Final = "broken"
UNREACHED: Final = "unreached"
"""The layer never imported what the bug is in."""

ALARMS: Final = frozenset({"BrokenLedger", "IllegalStep", "IntegrityError"})
"""Checks of the product and of the database that are not assertions of a test."""

_CUT: Final = "test_cuts.py::test_a_cut_loses_nothing_and_does_nothing_twice[{}]"
_DIFFERENCE: Final = re.compile(r"^(\w+):\n  engine +(.*)\n  reference +(.*)$", re.MULTILINE)
_NOT_HELD: Final = re.compile(r"^    (\S.*)$", re.MULTILINE)
_BROKEN_RULE: Final = re.compile(r"^broken: (?!Traceback)(.*)$", re.MULTILINE)
_LONGEST: Final = 300


@dataclass(frozen=True, slots=True)
class Came:
    """What came of a run; ``says``: the violation, or why it is broken. ``had``: the product's modules it imported."""

    of_it: str
    says: str = ""
    had: tuple[str, ...] = ()


# Layers that are folders of tests


def _violation(error: BaseException) -> str | None:
    """The first line of a check that failed; null for any other exception."""
    if isinstance(error, BaseExceptionGroup):
        found = [_violation(one) for one in error.exceptions]
        return next((one for one in found if one is not None), None)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if not isinstance(error, AssertionError | pytest.fail.Exception) and not kinds & ALARMS:
        return None
    return _one_line(f"{type(error).__name__}: {error}")


def _one_line(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    first = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    return first[:_LONGEST]


@dataclass
class _Watcher:
    """Collects what failed."""

    violations: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def pytest_exception_interact(self, node: Any, call: Any) -> None:
        found = _violation(call.excinfo.value) if isinstance(node, pytest.Item) else None
        if found is None:
            self.others.append(_one_line(f"{type(call.excinfo.value).__name__}: {call.excinfo.value}"))
        else:
            # An assertion outside of the tests' own modules says nothing: then its source does.
            said = found if str(call.excinfo.value) else f"{found} {call.excinfo.traceback[-1].statement}"
            self.violations.append(f"{node.name}: {_one_line(said)}")


def _tests(run: Run) -> Came:
    folder = Path("tests", run.layer.value)
    names = [_CUT.format(one) for one in run.only] if run.layer is Layer.CUTS else run.only
    os.environ |= {"CUTS_ALL": "1", "STATEFUL_SHRINK": "0"}
    if run.layer is Layer.STATEFUL:
        os.environ |= {"STATEFUL_SEED": str(run.seed), "STATEFUL_RUNS": str(run.amount)}
    watcher = _Watcher()
    chosen = [str(folder / name) for name in names] or [str(folder)]
    code = pytest.main([*chosen, "-q", "-x", "--no-header", "--tb=short"], plugins=[watcher])
    if code == pytest.ExitCode.OK:
        return Came(PASSED)
    if code == pytest.ExitCode.TESTS_FAILED and watcher.violations:
        return Came(VIOLATED, watcher.violations[0])
    return Came(BROKEN, next(iter(watcher.others), f"pytest ended with {code}"))


# Layers that are tools


def _tool(module: str, arguments: list[str], violation: Callable[[str], str | None]) -> Came:
    sys.argv = [module, *arguments]
    out = io.StringIO()
    code: object = 0
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    sys.stdout.write(out.getvalue())
    if code in {0, None}:
        return Came(PASSED)
    found = violation(out.getvalue()) if code == 1 else None
    return Came(BROKEN, f"{module} ended with {code}") if found is None else Came(VIOLATED, found[:_LONGEST])


def _difference(printed: str) -> str | None:
    found = _DIFFERENCE.search(printed)
    return None if found is None else f"{found[1]}: engine {found[2]}, reference {found[3]}"


def _broken_rule(printed: str) -> str | None:
    found = _BROKEN_RULE.search(printed)
    return None if found is None else found[1].strip()


def _what_did_not_hold(printed: str) -> str | None:
    """What the turnstile names before the schedule that shows it."""
    found = _NOT_HELD.search(printed) if "again: make turnstile" in printed else None
    return None if found is None else found[1]


def played(run: Run) -> Came:
    """Run the layer."""
    match run.layer:
        case Layer.REFERENCE:
            arguments = ["--cases", str(run.amount), "--seed", str(run.seed)]
            return _tool("tests.reference.compare", arguments, _difference)
        case Layer.SIM:
            return _tool("tests.simulation", ["--seed", str(run.seed), "--no-shrink"], _broken_rule)
        case Layer.TURNSTILE:
            return _tool("tests.turnstile", ["--pair", *run.only], _what_did_not_hold)
        case _:
            return _tests(run)


def judged(came: Came, planted: Planted | None) -> Came:
    """A run says nothing about a bug in a module that it never had."""
    missing = set() if planted is None else planted.bug.modules - planted.loaded
    if missing and came.of_it == VIOLATED:
        return Came(BROKEN, f"failed before it had {', '.join(sorted(missing))}: {came.says}")
    if missing and came.of_it == PASSED:
        return Came(UNREACHED, f"{', '.join(sorted(missing))} was never imported")
    return came


def main() -> None:
    result, name, asked = sys.argv[1:]
    fields = json.loads(asked)
    run = Run(Layer(fields["layer"]), fields["seed"], fields["amount"], tuple(fields["only"]))
    planted = plant(bug_named(name)) if name else None
    came = judged(played(run), planted)
    had = tuple(sorted(name for name in sys.modules if name.startswith("app.")))
    Path(result).write_text(json.dumps(asdict(replace(came, had=had))), encoding="utf-8")


if __name__ == "__main__":
    main()
