"""Runs worlds: one seed in one database, with what came of it."""

import asyncio
import gc
import hashlib
import logging
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace

import structlog
from sqlalchemy import make_url

from app.db.embedded.roles import SERVICE
from app.db.migrate import migrate
from app.heartbeats import writer
from tests.simulation.auditor import Violation
from tests.simulation.loop import Standstill, VirtualLoop
from tests.simulation.plan import Plan
from tests.simulation.processes import signatures_read_once
from tests.simulation.stage import LET_EMPTY, Stage
from tests.simulation.statements import blocking_statements, end_idle_sessions
from tests.simulation.world import POISON, QUEUE_HOLDS, World, prepare
from tests.support.postgres import WorkerDatabases, tell, worker_databases


@dataclass
class Result:
    """``violation`` null: all was well. ``digest`` is that of everything that happened."""

    plan: Plan
    trace: list[str]
    violation: str | None = None
    kind: str | None = None
    fired: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    virtual_s: int = 0
    real_s: float = 0

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()[:16]


@contextmanager
def prepared(databases: WorkerDatabases) -> Iterator[Stage]:
    """A stage with what a first start of the service makes: partitions and the default card."""
    with databases.fresh() as urls, blocking_statements(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(prepare(urls.service))
        tell(urls.owner, f"alter table ticks add constraint edible check (extra not like '%{POISON}%')")
        tell(urls.owner, LET_EMPTY)
        name = make_url(urls.service).database
        assert name is not None
        end_idle_sessions()
        with closing(Stage(replace(databases, _template=name))) as stage:
            yield stage


@contextmanager
def _short_queues() -> Iterator[None]:
    before = writer.MAX_QUEUED
    writer.MAX_QUEUED = QUEUE_HOLDS  # type: ignore[misc]
    try:
        yield
    finally:
        writer.MAX_QUEUED = before  # type: ignore[misc]


@contextmanager
def databases(run_id: str, worker: str) -> Iterator[Stage]:
    """A migrated template on a server without durability."""

    def migrate_as_owner(owner_url: str) -> None:
        migrate(owner_url, SERVICE)

    with (
        signatures_read_once(),
        worker_databases(migrate_as_owner, run_id=run_id, worker=worker) as found,
        prepared(found) as ready,
    ):
        yield ready


def run(plan: Plan, stage: Stage) -> Result:
    """Let the world of ``plan`` happen."""
    began = time.perf_counter()
    collects = gc.isenabled()
    gc.disable()  # a fifth of the time goes there, and a world is small
    result = Result(plan, [])
    # What goes wrong here is meant to, and told by the trace.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    with (
        stage.fresh() as ready,
        blocking_statements(),
        _short_queues(),
        asyncio.Runner(loop_factory=VirtualLoop) as runner,
    ):

        async def live() -> None:
            world = World(plan, ready.service, ready.auditor)
            try:
                await world.live()
            except Violation as violation:
                result.kind, result.violation = violation.kind, str(violation)
            except Standstill:
                result.kind, result.violation = "standstill", "somebody waits for what cannot happen"
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told
                # What a client would have seen as a broken connection is a finding like any other.
                told = "".join(traceback.format_exception(error))
                result.kind, result.violation = f"broke: {type(error).__name__}", told
            finally:
                result.trace = world.trace
                result.fired = world.dice.fired + world.traps.fired + world.seen
                result.virtual_s = world.loop.now_us // 10**6

        try:
            runner.run(live())
        finally:
            if collects:
                gc.enable()
    result.steps = len(result.trace)
    result.real_s = time.perf_counter() - began
    return result
