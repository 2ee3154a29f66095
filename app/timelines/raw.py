"""What the provider answered to each pull, byte for byte: behind every snapshot, and of pulls that came to nothing.

A body that has come before is stored once. Of failed pulls the first and the last are kept, so that a session which
nobody decides about for years does not grow for years.
"""

import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Final

import structlog
from sqlalchemy import Column, ColumnElement, Table, and_, bindparam, case, func, select
from sqlalchemy.dialects.postgresql import insert as upsert

from app.core.ids import AccountThing
from app.core.units import Instant, format_instant, parse_instant
from app.db.database import Database, Transaction
from app.db.tables import failed_pulls, raw_bodies, snapshots
from app.gabber import PullFailed, RawBody

FIRST_FAILED: Final = 4
"""Failed pulls of a session that stay, whatever comes after them."""

MOST_FAILED: Final = 16
"""Failed pulls of a session that are kept: these first ones, and the last ones (migration 0009)."""

DROPPED_AT_ONCE: Final = 10_000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPage:
    """One answer, without its body. All but ``page`` and ``digest`` are null once what was kept of it is gone."""

    page: int
    digest: bytes
    status: int | None = None
    content_type: str | None = None
    received_at: Instant | None = None
    """When the body came for the first time."""
    size: int | None = None
    truncated: bool | None = None
    redacted: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPull:
    """A pull whose answers are kept: that of snapshot ``n`` or, with ``failure``, one that came to nothing.

    ``times`` ≥ 1: as often failed pulls were answered by just these bodies, first at ``first_at``.
    """

    n: int
    failure: str | None
    detail: str | None
    times: int
    first_at: Instant
    last_at: Instant
    pages: tuple[KeptPage, ...]

    @property
    def position(self) -> tuple[int, int, int]:
        """Its place in the order in which pulls came."""
        return self.last_at, 0 if self.failure is None else 1, self.n


async def keep_bodies(transaction: Transaction, session: AccountThing, bodies: Iterable[RawBody]) -> None:
    """Store the bodies behind a snapshot that were not behind an earlier one."""
    rows = [
        {
            "account_id": session.account_id,
            "session_id": session.id,
            "digest": digest,
            "page": body.page,
            "status": body.status,
            "content_type": body.content_type,
            "received_at": body.received_at,
            "size": body.size,
            "redacted": body.redacted,
            "body": body.packed,
        }
        for digest, body in {body.digest: body for body in bodies}.items()
    ]
    if rows:
        await transaction.execute(upsert(raw_bodies).on_conflict_do_nothing(), rows)


async def keep_failed_pull(transaction: Transaction, session: AccountThing, failure: PullFailed) -> None:
    """Store what was answered to a pull that came to nothing; nothing if there was no answer at all.

    The caller has locked the session, so that no other takes the same slot.
    """
    bodies = failure.bodies
    if not bodies:
        return
    pages = [
        {
            "page": body.page,
            "digest": body.digest.hex(),
            "status": body.status,
            "content_type": body.content_type,
            "received_at": format_instant(body.received_at),
            "size": body.size,
            "kept": len(content),
            "truncated": body.truncated,
            "redacted": body.redacted,
        }
        for body, content in ((body, body.content) for body in bodies)
    ]
    same = repr([failure.kind.code, *((body.page, body.status, body.digest) for body in bodies)])
    await transaction.execute(
        _KEEP_FAILED,
        {
            "account_id": session.account_id,
            "session_id": session.id,
            "digest": hashlib.sha256(same.encode()).digest(),
            "failure": failure.kind.code,
            "detail": failure.detail,
            "at": bodies[-1].received_at,
            "pages": pages,
            "bodies": zlib.compress(b"".join(body.content for body in bodies)),
        },
    )


def _keep_failed() -> Any:
    """The slot of the same answers, or else the next free one, or else that of the oldest of the last ones."""
    mine = (failed_pulls.c.account_id == bindparam("account_id")) & (
        failed_pulls.c.session_id == bindparam("session_id")
    )
    stored = select(failed_pulls.c.slot).where(mine)
    same = stored.where(failed_pulls.c.digest == bindparam("digest")).limit(1).scalar_subquery()
    count = func.count()
    free = select(case((count < MOST_FAILED, count + 1))).select_from(failed_pulls).where(mine).scalar_subquery()
    oldest = stored.where(failed_pulls.c.slot > FIRST_FAILED).order_by(failed_pulls.c.n).limit(1).scalar_subquery()
    number = select(func.coalesce(func.max(failed_pulls.c.n), 0) + 1).where(mine).scalar_subquery()
    new = upsert(failed_pulls).values(
        slot=func.coalesce(same, free, oldest),
        n=number,
        first_at=bindparam("at"),
        last_at=bindparam("at"),
        times=1,
        **{name: bindparam(name) for name in ("account_id", "session_id", "digest", "failure", "detail")},
        pages=bindparam("pages"),
        bodies=bindparam("bodies"),
    )
    again = failed_pulls.c.digest == new.excluded.digest
    kept = failed_pulls.c
    return new.on_conflict_do_update(
        index_elements=[kept.account_id, kept.session_id, kept.slot],
        set_={
            **{name: new.excluded[name] for name in ("n", "digest", "failure", "detail", "last_at", "pages")},
            "first_at": case((again, kept.first_at), else_=new.excluded.first_at),
            "times": case((again, kept.times + 1), else_=1),
            # Named as it is, what is large and has not changed is not written again.
            "bodies": case((again, kept.bodies), else_=new.excluded.bodies),
        },
    )


_KEEP_FAILED: Final = _keep_failed()


def _of_session(table: Table) -> ColumnElement[bool]:
    return and_(table.c.account_id == bindparam("of"), table.c.session_id == bindparam("session"))


def _but(table: Table, *large: str) -> list[Column[Any]]:
    return [column for column in table.columns if column.name not in large]


_BODIES: Final = select(*_but(raw_bodies, "body")).where(_of_session(raw_bodies))
_BEHIND_SNAPSHOTS: Final = (
    select(snapshots.c.n, snapshots.c.received_at, snapshots.c.page_digests)
    .where(_of_session(snapshots), func.cardinality(snapshots.c.page_digests) > 0)
    .order_by(snapshots.c.n)
)
_FAILED: Final = select(*_but(failed_pulls, "bodies")).where(_of_session(failed_pulls))
_BODY: Final = select(raw_bodies.c.body).where(_of_session(raw_bodies), raw_bodies.c.digest == bindparam("wanted"))
_FAILED_BODIES: Final = select(failed_pulls.c.pages, failed_pulls.c.bodies).where(_of_session(failed_pulls))


async def load_pulls(transaction: Transaction, session: AccountThing) -> list[KeptPull]:
    """The pulls of a session whose answers are or were kept, in the order in which they last came, without bodies."""
    key = {"of": session.account_id, "session": session.id}
    there = {row.digest: row for row in await transaction.execute(_BODIES, key)}
    found = [
        KeptPull(
            n=row.n,
            failure=None,
            detail=None,
            times=1,
            first_at=row.received_at,
            last_at=row.received_at,
            pages=tuple(_behind_a_snapshot(digest, page, there) for page, digest in enumerate(row.page_digests, 1)),
        )
        for row in await transaction.execute(_BEHIND_SNAPSHOTS, key)
    ]
    found += [
        KeptPull(
            n=row.n,
            failure=row.failure,
            detail=row.detail,
            times=row.times,
            first_at=row.first_at,
            last_at=row.last_at,
            pages=tuple(_of_a_failure(page) for page in row.pages),
        )
        for row in await transaction.execute(_FAILED, key)
    ]
    return sorted(found, key=lambda pull: pull.position)


def _behind_a_snapshot(digest: bytes, page: int, there: Mapping[bytes, Any]) -> KeptPage:
    row = there.get(digest)
    if row is None:
        return KeptPage(page=page, digest=digest)
    return KeptPage(
        page=page,
        digest=digest,
        status=row.status,
        content_type=row.content_type,
        received_at=row.received_at,
        size=row.size,
        truncated=False,
        redacted=row.redacted,
    )


def _of_a_failure(page: Mapping[str, Any]) -> KeptPage:
    return KeptPage(
        page=int(page["page"]),
        digest=bytes.fromhex(page["digest"]),
        status=int(page["status"]),
        content_type=page["content_type"],
        received_at=parse_instant(page["received_at"]),
        size=int(page["size"]),
        truncated=page["truncated"],
        redacted=page["redacted"],
    )


async def load_body(transaction: Transaction, session: AccountThing, digest: bytes) -> bytes | None:
    """The body with this SHA-256 as it is kept; null if none of the session's is."""
    key = {"of": session.account_id, "session": session.id}
    row = (await transaction.execute(_BODY, {**key, "wanted": digest})).one_or_none()
    if row is not None:
        return zlib.decompress(row.body)
    wanted = digest.hex()
    here = _FAILED_BODIES.where(failed_pulls.c.pages.contains([{"digest": wanted}])).limit(1)
    row = (await transaction.execute(here, key)).one_or_none()
    return None if row is None else _one_of(zlib.decompress(row.bodies), row.pages, wanted)


def _one_of(bodies: bytes, pages: Sequence[Mapping[str, Any]], digest: str) -> bytes:
    ends = accumulate((int(page["kept"]) for page in pages), initial=0)
    return next(
        bodies[start:end] for (start, end), page in zip(pairwise(ends), pages, strict=True) if page["digest"] == digest
    )


async def drop_old_bodies(database: Database, older_than: Instant) -> int:
    """Drop what was answered before ``older_than`` about sessions that have come to their end; how much that was.

    The snapshots stay, with the hashes of what was behind them, and so does all that a charge rests on.
    """
    dropped = 0
    while True:
        removed = await database.drop_old_bodies(older_than, DROPPED_AT_ONCE)
        dropped += removed
        if removed < DROPPED_AT_ONCE:
            break
    if dropped:
        log.info("retention.bodies_dropped", rows=dropped)
    return dropped
