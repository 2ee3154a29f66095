"""A few worlds with every run of the tests; the same seed gives the same world; the auditor finds what is wrong."""

from collections.abc import Iterator

import pytest
import structlog

from app.core import buckets
from app.core.buckets import Policy
from app.core.timeline import SegmentType
from app.core.units import Micros
from tests.simulation.coverage import EXPECTED, missing
from tests.simulation.plan import AMBUSHES, plan_of
from tests.simulation.run import Result, prepared, run
from tests.simulation.shrink import shrink
from tests.simulation.stage import Ready, Stage
from tests.support.postgres import WorkerDatabases

SEEDS = range(11, 17)
ACQUITTED = (2077, 3309, 3709, 3977, 4005, 4199)
"""Seeds of worlds that the auditor once judged wrongly, each for a reason of its own."""
RULE = "a charge is not what the evidence gives"


@pytest.fixture(scope="module")
def stage(databases: WorkerDatabases) -> Iterator[Stage]:
    with prepared(databases) as ready:
        yield ready


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("seed", [*SEEDS, *ACQUITTED])
def test_a_world_breaks_no_rule(stage: Stage, seed: int) -> None:
    result = run(plan_of(seed), stage)
    assert result.violation is None, f"{result.violation}\nagain: make sim SEED={seed}"


def test_a_seed_gives_the_same_world_again(stage: Stage) -> None:
    first, second = run(plan_of(21), stage), run(plan_of(21), stage)
    assert first.trace == second.trace
    assert len(first.trace) > 10


def test_a_world_leaves_nothing_to_the_next_one(databases: WorkerDatabases) -> None:
    def rows(ready: Ready) -> dict[str, list[tuple[object, ...]]]:
        tables = ready.auditor.execute(
            "select oid::regclass::text from pg_class where relkind = 'r' and relowner <> 10"
        )
        return {name: ready.auditor.execute(f"table {name}".encode()).fetchall() for (name,) in tables.fetchall()}

    with prepared(databases) as stage:
        with stage.fresh() as ready:
            before, first = rows(ready), ready
        result = run(plan_of(12), stage)
        with stage.fresh() as ready:
            assert ready is first, "it was cloned anew"
            assert rows(ready) == before
    assert result.fired["entry grant"], "nothing happened"
    assert before["rate_cards"]


def test_billing_the_silence_tail_is_found_and_shrunk_to_a_few_events(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_last_proof(kind: SegmentType, offset: Micros, policy: Policy) -> buckets.Reason | None:
        reason = judged(kind, offset, policy)
        return None if reason is buckets.Reason.AFTER_LAST_PROOF else reason

    judged = buckets._reason
    monkeypatch.setattr(buckets, "_reason", without_last_proof)
    broken: Result | None = None
    for seed in range(1, 9):
        result = run(plan_of(seed), stage)
        if result.kind == RULE:
            broken = result
            break
    assert broken is not None, "none of the worlds noticed"
    short = shrink(broken.plan, RULE, lambda plan: run(plan, stage).kind)
    assert len(short.events) <= 4, short.events
    assert run(short, stage).kind == RULE


def test_shrinking_keeps_what_the_failure_needs() -> None:
    plan = plan_of(1)
    needed = {plan.events[2].number, plan.events[-1].number}

    def broken_by(tried: object) -> str | None:
        assert isinstance(tried, type(plan))
        return "rule" if needed <= {event.number for event in tried.events} else "another"

    assert {event.number for event in shrink(plan, "rule", broken_by).events} == needed


def test_a_run_in_which_something_never_happened_says_what() -> None:
    all_but_one = dict.fromkeys(EXPECTED - {"step failed > review"}, 1)
    assert missing(all_but_one) == ["step failed > review"]
    assert {f"{point} {how}" for point, how in AMBUSHES} <= EXPECTED


def test_the_ambushes_go_round() -> None:
    seen = set()
    for seed in range(1, 1 + len(AMBUSHES)):
        for event in plan_of(seed).events:
            if event.kind == "ambush":
                seen.add((event.args["point"], event.args["how"]))
    assert seen >= set(AMBUSHES)
