"""Random histories of an account, step by step the same in the database and in the model.

``make test`` plays a few of them; ``make stateful`` as many as are asked for, in parts for the workers, each with a
seed of its own. The same ``SEED`` and ``RUNS`` play the same histories.
"""

import itertools
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.stateful.machine import Histories, Stage

RUNS = int(os.environ.get("STATEFUL_RUNS", "6"))
SEED = int(os.environ.get("STATEFUL_SEED", "1"))
STEPS = int(os.environ.get("STATEFUL_STEPS", "50"))
PHASES = [Phase.generate, *([Phase.shrink] if os.environ.get("STATEFUL_SHRINK", "1") == "1" else [])]
PARTS = max(1, min(RUNS // 6, 8))


def play(stage: Stage, runs: int, seed_of_all: int) -> None:
    """Some of the runs are mutations of others and a little shorter."""

    @seed(seed_of_all)
    class Played(Histories):
        step_count = STEPS

    Played.stage = stage
    run_state_machine_as_test(
        Played,
        settings=settings(
            max_examples=runs,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            derandomize=False,  # by the seed above
            phases=PHASES,
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("part", range(PARTS))
def test_the_ledger_does_what_the_model_does(stage: Stage, part: int, record_property: Any) -> None:
    runs = RUNS // PARTS + (part < RUNS % PARTS)

    stage.begin()
    batches = itertools.count()
    while stage.whole_runs < runs:
        play(stage, runs - stage.whole_runs, SEED * 1_000_000 + part * 1_000 + next(batches))
    record_property("figures", [stage.whole_runs, stage.steps, dict(stage.done)])
