"""Simulations at work: one at a time among all processes, in turns, each taken up where the last one got to."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.core.ids import AccountThing
from app.core.units import Instant, Micros
from app.core.what_if import NotRated, Priced, Tally
from app.db.database import Database, DatabaseUnavailable
from app.ledger.findings import Progress, untold
from app.ports.clock import Clock
from app.ports.ids import Ids
from app.schedule.jobs import LEASE, Jobs
from app.what_if.asked import Asked
from app.what_if.documents import result_document
from app.what_if.pricing import START, count_sessions, find_sessions, materials, price
from app.what_if.simulations import (
    BROKE,
    JOB,
    Run,
    bring_forward,
    fail,
    finish,
    is_any_unfinished,
    take_up,
)

TURN: Final = Micros(LEASE // 4)
"""After this a simulation's turn ends, with much of its lease left; the next one may be another process's."""

AT_ANY_TIME: Final = Micros(0)

log = structlog.get_logger(__name__)


class Simulations:
    """Brings simulations forward whenever it is woken."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, jobs: Jobs) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._jobs = jobs
        self._stopping = False

    def stop(self) -> None:
        """Leave what is under way to whoever takes it up: it ends behind the session that it is at."""
        self._stopping = True

    async def work(self) -> bool:
        """Take a turn at the simulation that was asked for first, if nobody else is at it; whether we did."""
        if self._stopping or not await is_any_unfinished(self._database):
            return False
        return await self._jobs.run(JOB, AT_ANY_TIME, self._turn)

    async def _turn(self) -> None:
        run = await take_up(self._database, self._ids, self._clock.now())
        if run is None:
            return
        try:
            await self._bring_forward(run)
        except (DatabaseUnavailable, SQLAlchemyError):
            raise  # it is taken up again, so often that a moment's trouble does not end it
        except Exception:
            log.exception("simulation.broke", simulation=run.public_id)
            await fail(self._database, run, BROKE, self._clock.now())

    async def _bring_forward(self, run: Run) -> None:
        began = self._clock.now()
        total = await count_sessions(self._database, run.asked) if run.total is None else run.total
        behind: AccountThing | None = run.behind or START
        while behind is not None:
            behind = await _next(self._database, run.asked, run.tally, behind, lambda: self._stopping)
            if self._stopping:
                return  # what is in the tally since the last time it was stored is priced again
            if behind is not None:
                if not await bring_forward(self._database, run, behind, max(total, run.tally.sessions)):
                    return
                if not self._turn_lasts(began):
                    return
        run.tally.close_user()
        result = result_document(run.tally, with_cost=run.asked.provider_cost is not None)
        if await finish(self._database, run, result, self._clock.now()):
            log.info("simulation.done", simulation=run.public_id, sessions=run.tally.sessions)

    def _turn_lasts(self, began: Instant) -> bool:
        # A clock that was set back would make the turn last for as long as that, and outlive the lease.
        return 0 <= self._clock.now() - began < TURN


async def simulate(database: Database, asked: Asked, *, progress: Progress = untold) -> dict[str, Any]:
    """The whole of a simulation at once, with nothing stored; its result. ``progress`` is told of settled sessions."""
    total = await count_sessions(database, asked)
    tally, behind = Tally(), START
    while True:
        last = await _next(database, asked, tally, behind, lambda: False)
        progress("settled sessions", tally.sessions, max(total, tally.sessions))
        if last is None:
            break
        behind = last
    tally.close_user()
    return result_document(tally, with_cost=asked.provider_cost is not None)


async def _next(
    database: Database, asked: Asked, tally: Tally, behind: AccountThing, stopping: Callable[[], bool]
) -> AccountThing | None:
    """Add the next sessions behind ``behind``; up to where it got, null if there are no more."""
    found = await find_sessions(database, asked, behind)
    async for material in materials(database, found.keys):
        if stopping():
            break
        # In a thread, each for itself: heartbeats must not wait for a long session to be priced.
        priced = await asyncio.to_thread(price, material, asked)
        match priced:
            case Priced():
                tally.add(priced)
            case NotRated():
                tally.leave_out(priced)
    return found.last
