"""One stage for all runs of a worker, and the figures of all workers at the end."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.stateful.machine import Stage
from tests.support.clock import ManualClock
from tests.support.invariants import LEDGER_KEYS
from tests.support.postgres import WorkerDatabases


@pytest.fixture(scope="session")
def stage(databases: WorkerDatabases) -> Iterator[Stage]:
    """The worker's database for all of its runs; what they leave is verified with it, see :func:`databases`."""
    with asyncio.Runner() as runner:
        made = Stage.on(databases.urls.service, LEDGER_KEYS, ManualClock(), runner)
        yield made
        made.run(made.database.close())


EVERYTHING: Final = {
    "grant", "grant again", "adjust up", "adjust down", "limit", "start", "lower", "fail", "release again", "settle",
    "review", "decide: settle", "decide: write_off", "void", "refund", "rerate", "post due", "look", "jump back",
    "adjust down: below-floor", "void: grant-closed", "void: grant-spent",
    "decide: settle: session-not-in-review", "refund: session-not-settled", "refund: refund-exceeds-charge",
    "rerate: session-not-settled", "rerate: already-rated",
    "expiry", "repayment", "debt", "debt beyond the limit", "goodwill",
    "goodwill that repays debt", "expiry while partly held", "rerate: session-written-off",
    "void while partly held", "void of what came back", "limit under the debt",
    "settled after release",
}  # fmt: skip
"""What must have happened at least once in so many runs."""

ENOUGH: Final = 200


def _figures(reporter: Any) -> tuple[int, int, Counter[str]]:
    runs, steps, done = 0, 0, Counter[str]()
    for report in reporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "figures":
                runs, steps = runs + value[0], steps + value[1]
                done.update(value[2])
    return runs, steps, +done


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not hasattr(session.config, "workerinput"):
        runs, _, done = _figures(reporter)
        if runs >= ENOUGH and EVERYTHING - done.keys():
            session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    runs, steps, done = _figures(terminalreporter)
    if runs:
        terminalreporter.write_line(f"{runs} runs, {steps} steps, 0 differences. How often what happened:")
        terminalreporter.write_line(", ".join(f"{name} {times}" for name, times in sorted(done.items())))
    if runs >= ENOUGH and EVERYTHING - done.keys():
        terminalreporter.write_line(f"never happened: {', '.join(sorted(EVERYTHING - done.keys()))}")
