"""Jobs that one process among all does at a time: who, a row in the database decides.

A lease only spares the others the work. What a job does must be right even if two do it at once, as they will when one
stalls past its lease.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from sqlalchemy import bindparam, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from app.core.units import US_PER_S, Instant, Micros
from app.core.waits import CLOCK_MARGIN
from app.db.database import Database, Transaction
from app.db.tables import job_leases
from app.ports.clock import Clock
from app.ports.ids import Ids

LEASE: Final = Micros(60 * US_PER_S)
"""A job whose process died is taken over after this."""

_KNOWN: Final = upsert(job_leases).on_conflict_do_nothing()
_TAKE: Final = (
    update(job_leases)
    .where(
        job_leases.c.job == bindparam("of"),
        or_(
            job_leases.c.leased_until.is_(None),
            job_leases.c.leased_until < bindparam("now"),
            # Leased for longer than a lease lasts: by a clock that was set back.
            job_leases.c.leased_until > bindparam("longest"),
        ),
        # A next run further off than the interval was set by a clock that ran ahead of ours.
        or_(job_leases.c.next_run_at <= bindparam("now"), job_leases.c.next_run_at > bindparam("latest")),
    )
    .returning(job_leases.c.job)
)
_RELEASE: Final = (
    update(job_leases)
    .where(job_leases.c.job == bindparam("of"), job_leases.c.token == bindparam("ours"))
    .values(token=None, leased_until=None)
)
_LOCK: Final = select(job_leases.c.job).where(job_leases.c.job == bindparam("of")).with_for_update()


async def lock_job(transaction: Transaction, job: str, now: Instant) -> None:
    """Keep others from changing what the job has to do, and the job itself from beginning, until the end of this
    transaction. What it is at already, goes on."""
    await transaction.execute(_KNOWN, {"job": job, "next_run_at": now})
    await transaction.execute(_LOCK, {"of": job})


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
            await transaction.execute(_KNOWN, {"job": job, "next_run_at": now})
            next_run_at = Instant(now + every)
            lease = {"token": token, "leased_until": now + LEASE, "next_run_at": next_run_at}
            bounds = {"now": now, "longest": now + LEASE + CLOCK_MARGIN, "latest": next_run_at}
            taken = await transaction.execute(_TAKE, {"of": job, **bounds, **lease})
            if taken.one_or_none() is None:
                return False
        try:
            await work()
        finally:
            async with self._database.transaction() as transaction:
                await transaction.execute(_RELEASE, {"of": job, "ours": token})
        return True
