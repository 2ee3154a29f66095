"""Old heartbeats go, a day at a time; what a charge rests on stays packed beside it.

The database itself refuses what must stay (migration 0003). A day that cannot be dropped now is tried again with the
next run: nobody waits for it, and above all no heartbeat does.
"""

from datetime import timedelta
from typing import Final

import structlog

from app.core.units import Instant, Micros, datetime_of
from app.db.database import Database, TickDay

STRAYS_AT_ONCE: Final = 10_000
"""Heartbeats that are in no day's partition go in batches of so many."""

log = structlog.get_logger(__name__)


async def drop_old_ticks(database: Database, now: Instant, retention: Micros) -> int:
    """Drop the partitions whose days ended ``retention`` ago or earlier; answers how many were dropped."""
    oldest_kept = datetime_of(Instant(now - retention))
    dropped = 0
    for day in await database.tick_days():
        if day + timedelta(days=1) > oldest_kept.date():
            break
        outcome, unsettled = await database.drop_tick_partition(day)
        match outcome:
            case TickDay.DROPPED:
                dropped += 1
                log.info("retention.dropped", day=day.isoformat())
            case TickDay.KEPT:
                log.info("retention.kept", day=day.isoformat(), why="sessions need it", unsettled_sessions=unsettled)
            case TickDay.MISSING:
                continue  # another process was faster
            case TickDay.BUSY:
                log.warning("retention.busy", day=day.isoformat(), why="heartbeats are being written; later again")
                return dropped
            case TickDay.TOO_YOUNG:
                # Our clock runs ahead of the database's, as it does in a demonstration.
                log.warning("retention.too_young", day=day.isoformat(), why="not old by the database's clock")
                return dropped
    strays = 0
    while True:
        removed = await database.drop_stray_ticks(Instant(now - retention), STRAYS_AT_ONCE)
        strays += removed
        if removed < STRAYS_AT_ONCE:
            break
    if strays:
        log.info("retention.strays_dropped", heartbeats=strays)
    return dropped
