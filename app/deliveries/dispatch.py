"""From the outbox to deliveries: each event once for each endpoint that wants it.

An account's row says up to which of its events they were dispatched. Events are numbered under the lock of that row,
so numbers become visible in their order and without gaps: an event that commits late, though it was stamped earlier
than others, is still behind the mark. (A mark that went by time or id over all accounts would pass it by.)

What is dispatched is read in one snapshot together with the endpoints, so whoever made an endpoint before an event came
about gets it: a snapshot that shows the event shows the endpoint. The marks are then moved, each from where the
snapshot saw it, in the transaction that inserts the deliveries; what another process moved meanwhile is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, Row, Select, Table, Uuid, and_, bindparam, column, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from app.core.units import Instant
from app.db.database import Database, Transaction
from app.db.tables import accounts, deliveries, events, outboxes
from app.deliveries.endpoints import Endpoint, active_endpoints
from app.ports.clock import Clock

BATCH: Final = 200
"""Accounts whose events are dispatched in one transaction."""

MOST_EVENTS: Final = 1_000
"""Events that are read at once; of an account that has more, the rest comes next."""


@dataclass(frozen=True, slots=True)
class _Step:
    """From which to which number an account's events are dispatched."""

    account_id: UUID
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Dispatched:
    """``accounts``: whose marks were moved; ``deliveries``: that came of it; ``more``: whether there is more to do."""

    accounts: int
    deliveries: int
    more: bool


class Dispatcher:
    """See the module. Any number of processes may do this at once."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def dispatch(self) -> Dispatched:
        """Dispatch what waits in some outboxes."""
        async with self._database.reading() as transaction:
            found = [await _waiting(transaction, table) for table in (outboxes, accounts)]
            if not any(found):
                return Dispatched(0, 0, more=False)
            endpoints = await active_endpoints(transaction)
            rows = await _events_of(transaction, [row for part in found for row in part]) if endpoints else []
        moved = made = 0
        more = any(len(part) == BATCH for part in found) or len(rows) == MOST_EVENTS
        for table, part in zip((outboxes, accounts), found, strict=True):
            steps = _steps(part, rows if endpoints else None, cut_off=len(rows) == MOST_EVENTS)
            if steps:
                done = await self._move(table, steps, endpoints, rows)
                moved, made = moved + done.accounts, made + done.deliveries
                more = more or done.more
        return Dispatched(moved, made, more)

    async def _move(
        self, table: Table, steps: Sequence[_Step], endpoints: Sequence[Endpoint], rows: Sequence[Row[Any]]
    ) -> Dispatched:
        now = self._clock.now()
        async with self._database.transaction() as transaction:
            # Who has an account locked, a settlement or another dispatcher, is not waited for: it comes with the next.
            free = await transaction.execute(_free(table), {"these": [step.account_id for step in steps]})
            ours = {row.account_id: row.dispatched_seq for row in free}
            mine = [step for step in steps if ours.get(step.account_id) == step.before]
            if not mine:
                return Dispatched(0, 0, more=False)
            await transaction.execute(
                _mark(table),
                {"these": [step.account_id for step in mine], "marks": [step.after for step in mine]},
            )
            within = {step.account_id: step for step in mine}
            fresh = [
                _delivery(row, endpoint.id, now)
                for row in sorted(rows, key=lambda row: (row.account_id, row.id))  # in one order, as replays do
                if (step := within.get(row.account_id)) is not None and step.before < row.seq <= step.after
                for endpoint in endpoints
                if endpoint.wants(row.type)
            ]
            if fresh:
                await transaction.execute(_INSERT, fresh)
        return Dispatched(len(mine), len(fresh), more=False)


def _delivery(row: Row[Any], endpoint_id: UUID, now: Instant) -> dict[str, Any]:
    return {
        "account_id": row.account_id,
        "event_id": row.id,
        "endpoint_id": endpoint_id,
        "state": "waiting",
        "attempts": 0,
        "due_at": now,
        "created_at": now,
        "total_attempts": 0,
    }


# A replay of the event may have been quicker.
_INSERT: Final = upsert(deliveries).on_conflict_do_nothing()


def _free(table: Table) -> Select[Any]:
    these = bindparam("these", type_=ARRAY(Uuid))
    return (
        select(table.c.account_id, table.c.dispatched_seq)
        .where(table.c.account_id == func.any(these))
        .with_for_update(skip_locked=True, key_share=True)
    )


def _mark(table: Table) -> Any:
    told = func.unnest(bindparam("these", type_=ARRAY(Uuid)), bindparam("marks", type_=ARRAY(BigInteger)))
    moved = told.table_valued(column("account_id", Uuid), column("mark", BigInteger), name="moved").render_derived()
    marked = update(table).where(table.c.account_id == moved.c.account_id).values(dispatched_seq=moved.c.mark)
    # Streams tell nothing of this: whoever looks for what changed an account need not find it.
    return marked.values(changed_by=accounts.c.changed_by) if table is accounts else marked


async def _waiting(transaction: Transaction, table: Table) -> Sequence[Row[Any]]:
    statement = (
        select(table.c.account_id, table.c.dispatched_seq, table.c.event_seq)
        .where(table.c.event_seq > table.c.dispatched_seq)
        .limit(BATCH)
    )
    return list(await transaction.execute(statement))


async def _events_of(transaction: Transaction, waiting: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
    ids, marks = [row.account_id for row in waiting], [row.dispatched_seq for row in waiting]
    told = func.unnest(bindparam("these", type_=ARRAY(Uuid)), bindparam("marks", type_=ARRAY(BigInteger)))
    behind = told.table_valued(column("account_id", Uuid), column("mark", BigInteger), name="behind").render_derived()
    statement = (
        select(events.c.account_id, events.c.id, events.c.seq, events.c.type)
        .join(behind, and_(behind.c.account_id == events.c.account_id, events.c.seq > behind.c.mark))
        .order_by(events.c.account_id, events.c.seq)
        .limit(MOST_EVENTS)
    )
    return list(await transaction.execute(statement, {"these": ids, "marks": marks}))


def _steps(waiting: Sequence[Row[Any]], rows: Sequence[Row[Any]] | None, *, cut_off: bool) -> list[_Step]:
    """How far each account's mark goes: over what was read, or without ``rows``, as nobody is told, over all of it."""
    if rows is None or not cut_off:
        ends = {row.account_id: row.event_seq for row in waiting}
    else:
        ends = {row.account_id: row.seq for row in rows}  # the last one of each
    return [
        _Step(row.account_id, row.dispatched_seq, ends[row.account_id])
        for row in sorted(waiting, key=lambda row: row.account_id)
        if row.account_id in ends
    ]
