"""Upkeep: what is done with is forgotten in time, what waits for nobody ends, secrets are sealed by the present key."""

from typing import Final

from sqlalchemy import delete, select, tuple_, update

from app.core.units import Instant, Micros
from app.db.database import Database, Transaction
from app.db.tables import deliveries, delivery_attempts, endpoints
from app.deliveries.endpoints import EndpointPorts, EndpointState, reseal

BATCH: Final = 1_000
"""Deliveries that one transaction drops."""

_KEY: Final = (deliveries.c.account_id, deliveries.c.event_id, deliveries.c.endpoint_id)
_ATTEMPT_OF: Final = tuple_(
    delivery_attempts.c.account_id, delivery_attempts.c.event_id, delivery_attempts.c.endpoint_id
)


async def look_after(database: Database, ports: EndpointPorts, now: Instant, kept: Micros) -> int:
    """Drop deliveries that came to their end ``kept`` ago, with their attempts; how many. Events stay.

    Dead letters stay too, for somebody to see to, unless their endpoint was deleted. In short transactions, so that
    nobody waits for long.
    """
    async with database.transaction() as transaction:
        await reseal(transaction, ports)
    while True:
        async with database.transaction() as transaction:
            ended = await _end_those_of_nobody(transaction, now)
        if ended < BATCH:
            break
    dropped = 0
    while True:
        async with database.transaction() as transaction:
            gone = await _drop(transaction, Instant(now - kept))
        dropped += gone
        if gone < BATCH:
            return dropped


async def _end_those_of_nobody(transaction: Transaction, now: Instant) -> int:
    """What waits, or is dead, for endpoints that were deleted."""
    nobodys = (
        select(*_KEY)
        .join_from(deliveries, endpoints, endpoints.c.id == deliveries.c.endpoint_id)
        .where(endpoints.c.state == EndpointState.DELETED.value, deliveries.c.state.in_(["waiting", "dead"]))
        .limit(BATCH)
    )
    ended = {"state": "dropped", "due_at": None, "finished_at": now, "lease_token": None, "lease_until": None}
    done = await transaction.execute(update(deliveries).where(tuple_(*_KEY).in_(nobodys)).values(ended))
    return done.rowcount


async def _drop(transaction: Transaction, older_than: Instant) -> int:
    """Rows are locked first: a delivery that is asked for anew meanwhile is none that is dropped."""
    old = (
        select(*_KEY)
        .where(deliveries.c.finished_at < older_than, deliveries.c.state != "dead")
        .order_by(deliveries.c.finished_at)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    keys = [tuple(row) for row in await transaction.execute(old)]
    if keys:
        await transaction.execute(delete(delivery_attempts).where(_ATTEMPT_OF.in_(keys)))
        await transaction.execute(delete(deliveries).where(tuple_(*_KEY).in_(keys)))
    return len(keys)
