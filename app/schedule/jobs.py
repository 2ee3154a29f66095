"""Jobs that one process among all does at a time: who, a row in the database decides.

A lease only spares the others the work. What a job does must be right even if two do it at once, as they will when one
stalls past its lease.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from sqlalchemy import or_, update
from sqlalchemy.dialects.postgresql import insert as upsert

from app.core.units import US_PER_S, Instant, Micros
from app.core.waits import CLOCK_MARGIN
from app.db.database import Database
from app.db.tables import job_leases
from app.ports.clock import Clock
from app.ports.ids import Ids

LEASE: Final = Micros(60 * US_PER_S)
"""A job whose process died is taken over after this."""


class Jobs:
    """Runs jobs under their leases."""

    def __init__(self, database: Database, clock: Clock, ids: Ids) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids

    async def run(self, job: str, every: Micros, work: Callable[[], Awaitable[object]]) -> bool:
        """Do ``work`` if ``every`` has passed since the job last began and nobody else is at it; whether we did."""
        now = self._clock.now()
        token = self._ids.new()
        async with self._database.transaction() as transaction:
            await transaction.execute(upsert(job_leases).values(job=job, next_run_at=now).on_conflict_do_nothing())
            # Leased for longer than a lease lasts, or due later than after the interval: by a clock that was set back.
            set_back = job_leases.c.leased_until > now + LEASE + CLOCK_MARGIN
            free = or_(job_leases.c.leased_until.is_(None), job_leases.c.leased_until < now, set_back)
            due = or_(job_leases.c.next_run_at <= now, job_leases.c.next_run_at > now + every)
            taken = await transaction.execute(
                update(job_leases)
                .where(job_leases.c.job == job, free, due)
                .values(token=token, leased_until=now + LEASE, next_run_at=Instant(now + every))
                .returning(job_leases.c.job)
            )
            if taken.one_or_none() is None:
                return False
        try:
            await work()
        finally:
            async with self._database.transaction() as transaction:
                await transaction.execute(
                    update(job_leases)
                    .where(job_leases.c.job == job, job_leases.c.token == token)
                    .values(token=None, leased_until=None)
                )
        return True
