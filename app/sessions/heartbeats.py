"""When sessions were heard of: the one place that knows where heartbeats are kept.

Each heartbeat is a row until retention drops its day. Those that a charge rests on are packed into the charge as well,
so of a settled session they are known for ever; what came after its last charge is gone with its day.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Table,
    Uuid,
    and_,
    bindparam,
    cast,
    column,
    func,
    select,
)

from app.core.packing import unpack_instants
from app.core.units import US_PER_S, Instant
from app.db.database import Transaction
from app.db.tables import charges, ticks
from app.sessions.records import Session

# Joined, not listed one by one: over a hundred days' partitions to plan a list takes longer than to look them all up.
_THESE: Final = (
    func.unnest(bindparam("accounts", type_=ARRAY(Uuid)), bindparam("sessions", type_=ARRAY(Uuid)))
    .table_valued(column("account_id", Uuid), column("session_id", Uuid))
    .render_derived(name="these")
)


def _is_one(table: Table) -> ColumnElement[bool]:
    return and_(table.c.account_id == _THESE.c.account_id, table.c.session_id == _THESE.c.session_id)


# As numbers: there may be many, and to make a date of each takes longer than to read it.
_RECEIVED_AT: Final = cast(func.extract("epoch", ticks.c.received_at) * US_PER_S, BigInteger)
_HEARD: Final = (
    select(ticks.c.session_id, func.array_agg(_RECEIVED_AT))
    .join(_THESE, _is_one(ticks))
    .group_by(ticks.c.account_id, ticks.c.session_id)
)
_PACKED: Final = select(charges.c.session_id, charges.c.ticks).join(_THESE, _is_one(charges))


async def load_heartbeats(transaction: Transaction, found: Sequence[Session]) -> dict[UUID, list[Instant]]:
    """When heartbeats of each session were received, in order, by the session's id.

    Two within one microsecond are two; whether their rows are still there makes no difference.
    """
    rows = await transaction.execute(_HEARD, _these(found))
    heard: dict[UUID, Counter[Instant]] = defaultdict(Counter)
    for session_id, instants in rows:
        heard[session_id].update(map(Instant, instants))
    charged = [session for session in found if session.settled_at is not None]
    if charged:
        packed = await transaction.execute(_PACKED, _these(charged))
        for session_id, instants in packed:
            heard[session_id] |= Counter(unpack_instants(instants))
    return {session.id: sorted(heard[session.id].elements()) for session in found}


def _these(found: Sequence[Session]) -> dict[str, Any]:
    return {"accounts": [session.account_id for session in found], "sessions": [session.id for session in found]}
