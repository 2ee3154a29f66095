"""Snapshots: what each pull of a session's timeline gave.

Successive pulls of one session share almost all of their values, so a snapshot stores how many it shares with the one
before it and, compressed, only the others. All of them can be shown again as they were pulled.
"""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

from sqlalchemy import Row, bindparam, insert, select

from app.core.alignment import Pull
from app.core.ids import AccountThing
from app.core.lossless_json import dumps, loads
from app.core.timeline import SegmentType, normalise
from app.core.units import Instant
from app.db.database import Transaction
from app.db.tables import snapshots
from app.gabber import PulledTimeline
from app.timelines.raw import keep_bodies

_MAX_UNPACKED: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One pull: its number within the session, what it says about time, and the provider's values as they came."""

    n: int
    pull: Pull
    values: tuple[Any, ...]
    page_digests: tuple[bytes, ...] = ()
    """Of the pages' bodies as they came."""


_SNAPSHOTS: Final = (
    select(snapshots)
    .where(snapshots.c.account_id == bindparam("of"), snapshots.c.session_id == bindparam("session"))
    .order_by(snapshots.c.n)
)
_SNAPSHOTS_UP_TO: Final = _SNAPSHOTS.where(snapshots.c.n <= bindparam("up_to"))
_INSERT: Final = insert(snapshots)


async def load_snapshots(transaction: Transaction, session: AccountThing, up_to: int | None = None) -> list[Snapshot]:
    """All snapshots of a session in the order of their numbers, at most up to number ``up_to``."""
    return unpacked(await load_packed_snapshots(transaction, session, up_to))


async def load_packed_snapshots(
    transaction: Transaction, session: AccountThing, up_to: int | None = None
) -> Sequence[Row[Any]]:
    """The rows of the same, for :func:`unpacked`."""
    key: dict[str, Any] = {"of": session.account_id, "session": session.id}
    if up_to is None:
        return (await transaction.execute(_SNAPSHOTS, key)).all()
    return (await transaction.execute(_SNAPSHOTS_UP_TO, key | {"up_to": up_to})).all()


def unpacked(rows: Sequence[Row[Any]]) -> list[Snapshot]:
    """The snapshots in the rows of one session, which must begin with its first, in order."""
    found: list[Snapshot] = []
    values: tuple[Any, ...] = ()
    for row in rows:
        values = values[: row.shared_values] + _unpack(row.other_values)
        pull = Pull(row.requested_at, row.received_at, row.timeline, row.speech)
        found.append(Snapshot(row.n, pull, values, tuple(row.page_digests or ())))
    return found


async def add_snapshot(
    transaction: Transaction, session: AccountThing, pulled: PulledTimeline, earlier: Sequence[Snapshot]
) -> Snapshot:
    """Store a pull, and what was answered to it, behind all ``earlier`` snapshots of its session.

    The caller has locked the session.
    """
    timeline = normalise(pulled.values)
    before = earlier[-1].values if earlier else ()
    pairs = zip(before, pulled.values, strict=False)
    shared = sum(1 for _ in takewhile(_same_text, pairs))
    n = earlier[-1].n + 1 if earlier else 1
    await transaction.execute(
        _INSERT,
        {
            "account_id": session.account_id,
            "session_id": session.id,
            "n": n,
            "requested_at": pulled.requested_at,
            "received_at": pulled.received_at,
            "timeline": timeline.end,
            "speech": timeline.speech,
            "last_type": timeline.segments[-1].type.value if timeline.segments else None,
            "digest": values_digest(pulled.values),
            "shared_values": shared,
            "other_values": zlib.compress(dumps(pulled.values[shared:]).encode()),
            "page_digests": [body.digest for body in pulled.bodies],
        },
    )
    known = {digest for snapshot in earlier for digest in snapshot.page_digests}
    await keep_bodies(transaction, session, [body for body in pulled.bodies if body.digest not in known])
    pull = Pull(Instant(pulled.requested_at), Instant(pulled.received_at), timeline.end, timeline.speech)
    return Snapshot(n, pull, tuple(pulled.values), tuple(body.digest for body in pulled.bodies))


def is_news(earlier: Sequence[Snapshot], pulled: PulledTimeline) -> bool:
    """Whether a pull differs from the last of ``earlier`` in more than its last silence."""
    return not earlier or closed_values(earlier[-1].values) != closed_values(pulled.values)


def closed_values(pulled: Sequence[Any]) -> str:
    """The values less the last silence, which grows whatever happens, as text that is equal only if they are."""
    values = list(pulled)
    while values and isinstance(values[-1], dict) and values[-1].get("type") == SegmentType.SILENCE.value:
        values.pop()
    return dumps(values)


def _same_text(pair: tuple[Any, Any]) -> bool:
    # Equal is not enough: a number equals the string of its digits, and objects are equal in any order.
    return bool(pair[0] == pair[1]) and dumps(pair[0]) == dumps(pair[1])


def values_digest(values: Sequence[Any]) -> bytes:
    """SHA-256 of the values as compact JSON, digit for digit."""
    return hashlib.sha256(dumps(values).encode()).digest()


def _unpack(packed: bytes) -> tuple[Any, ...]:
    unpacked = zlib.decompressobj().decompress(packed, _MAX_UNPACKED)
    values = loads(unpacked)
    if not isinstance(values, list):
        raise TypeError("a stored snapshot is no list")
    return tuple(values)
