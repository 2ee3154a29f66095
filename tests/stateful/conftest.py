"""One stage for all runs of a worker, and the figures of all workers at the end."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

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


def pytest_terminal_summary(terminalreporter: Any) -> None:
    runs, steps, done = 0, 0, Counter[str]()
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "figures":
                runs, steps = runs + value[0], steps + value[1]
                done.update(value[2])
    if runs:
        terminalreporter.write_line(f"{runs} runs, {steps} steps, 0 differences. How often what happened:")
        terminalreporter.write_line(", ".join(f"{name} {times}" for name, times in sorted(done.items()) if times))
