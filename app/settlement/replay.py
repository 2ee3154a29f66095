"""Stored charges made again from their stored inputs, by the engine that made them: what comes out must be the same.

The inputs are the packed heartbeats, the snapshots, the rate card and what the session was started with; nothing that
retention drops. A charge whose inputs and document were forged to agree has another digest of its evidence than the one
that its entry's MAC covers: ``talktime verify`` finds that.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, func, select, tuple_

from app.core.charge import Charge
from app.core.engines import UnknownEngine
from app.core.ids import AccountThing
from app.core.lossless_json import InvalidJson, dumps, loads
from app.core.units import MicroCredits, format_credits
from app.db.database import Database, Transaction
from app.db.tables import sessions
from app.errors import SESSION_NOT_SETTLED, Problem
from app.ledger.findings import Progress, untold
from app.sessions.records import SESSION_COLUMNS, Session, load_session, session_of
from app.sessions.routes import unknown_session
from app.settlement.charges import load_charges, stored_document
from app.settlement.evidence import UNREADABLE, evidence_digest, load_charged_evidence
from app.timelines.snapshots import Snapshot, load_snapshots

AT_ONCE: Final = 100
"""Sessions that are read in one transaction."""

MAX_DIFFERENCES: Final = 20
"""Places of one document that are told; how many more there are is said."""

_MAX_DOCUMENT: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Difference:
    """``what``: which part of the stored charge, and where in it."""

    what: str
    stored: str
    replayed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One version of a session's charge. It came out the same if there are no ``differences``."""

    session: str
    version: int
    engine_version: str
    amount: MicroCredits
    differences: tuple[Difference, ...]


@dataclass(slots=True)
class Count:
    """How much was replayed; ``different``: charges that came out otherwise."""

    sessions: int = 0
    charges: int = 0
    different: int = 0


async def replay(transaction: Transaction, key: AccountThing) -> list[Replayed]:
    """Each version of a charged session's charge, the settlement's first.

    Raises a :class:`~app.errors.Problem`: 404, or 409 ``session-not-settled``.
    """
    session = await load_session(transaction, key)
    if session is None:
        raise unknown_session()
    if session.settled_at is None:
        raise Problem(SESSION_NOT_SETTLED, f"the session is {session.state}: there is no charge to replay yet")
    return await _replay_session(transaction, session)


async def replay_all(
    database: Database, different: Callable[[Replayed], object], *, progress: Progress = untold
) -> Count:
    """Replay the charges of all settled sessions, and of those that came back into review.

    What comes out otherwise is told to ``different`` at once.

    A few sessions are in memory at a time, and no transaction is open for long.
    """
    count = Count()
    place = tuple_(sessions.c.account_id, sessions.c.id)
    settled = sessions.c.settled_at.is_not(None)
    page = select(*SESSION_COLUMNS).where(settled).order_by(sessions.c.account_id, sessions.c.id).limit(AT_ONCE)
    async with database.reading() as transaction:
        total = int((await transaction.execute(select(func.count()).where(settled))).scalar_one())
    following = page
    while True:
        async with database.reading() as transaction:
            found = [session_of(row) for row in (await transaction.execute(following)).all()]
            for session in found:
                for one in await _replay_session(transaction, session):
                    count.charges += 1
                    if one.differences:
                        count.different += 1
                        different(one)
        count.sessions += len(found)
        progress("settled sessions", count.sessions, max(total, count.sessions))
        if len(found) < AT_ONCE:
            return count
        following = page.where(place > tuple_(*found[-1].key))


async def _replay_session(transaction: Transaction, session: Session) -> list[Replayed]:
    rows = await load_charges(transaction, session)
    snapshots: Sequence[Snapshot] | None = None
    if rows:
        try:
            last = max(row.snapshot_n for row in rows)
            snapshots = await load_snapshots(transaction, session.key, up_to=last)
        except UNREADABLE:
            snapshots = None  # each charge says so for itself
    replayed: list[Replayed] = []
    before = MicroCredits(0)
    for row in rows:
        differences = await _differences(transaction, session, row, before, snapshots)
        replayed.append(
            Replayed(
                session=session.public_id,
                version=row.version,
                engine_version=row.engine_version,
                amount=row.amount,
                differences=tuple(differences),
            )
        )
        before = MicroCredits(row.amount)
    return replayed


async def _differences(
    transaction: Transaction,
    session: Session,
    row: Row[Any],
    before: MicroCredits,
    snapshots: Sequence[Snapshot] | None,
) -> list[Difference]:
    try:
        stored = await load_charged_evidence(transaction, session, row, snapshots)
        rated = stored.charge()
        digest, document = evidence_digest(stored), stored_document(stored, rated)
    except UnknownEngine as error:
        return [Difference("engine version", row.engine_version, str(error))]
    except UNREADABLE as error:
        return [Difference("inputs", "cannot be read", f"{type(error).__name__}: {error}")]
    found = list(_amounts(session, row, before, rated))
    if digest != row.evidence_digest:
        found.append(Difference("evidence digest", row.evidence_digest.hex(), digest.hex()))
    return [*found, *_document_differences(row.document, document)]


def _amounts(session: Session, row: Row[Any], before: MicroCredits, rated: Charge) -> Iterator[Difference]:
    """Amounts that cannot have come of the charge as it is rated.

    Less than that may have been drawn at settlement: the rest is the session's leakage. A later version is where the
    one before was on its way to what is rated, as far as there was something to draw from or to give back to.
    """
    if row.beyond_authorization != rated.beyond_authorization:
        yield _credits("beyond authorization", row.beyond_authorization, rated.beyond_authorization)
    if row.version == 1:
        gross = rated.amount + rated.beyond_authorization
        if row.amount != session.charged:
            yield _credits("amount against what the session was charged", row.amount, session.charged or 0)
        if row.amount + (session.leakage or 0) != gross or row.amount > rated.amount:
            yield _credits("amount and leakage", row.amount + (session.leakage or 0), gross)
    elif not min(before, rated.amount) <= row.amount <= max(before, rated.amount):
        yield _credits("amount", row.amount, rated.amount)


def _credits(what: str, stored: int, replayed: int) -> Difference:
    return Difference(what, format_credits(MicroCredits(stored)), format_credits(MicroCredits(replayed)))


def _document_differences(packed: bytes, replayed: bytes) -> Iterator[Difference]:
    try:
        stored = zlib.decompressobj().decompress(packed, _MAX_DOCUMENT)
        if stored == replayed:
            return
        parts = [dict(_places(loads(text.decode()), "document")) for text in (stored, replayed)]
    except (zlib.error, InvalidJson, UnicodeDecodeError) as error:
        yield Difference("document", "cannot be read", str(error))
        return
    places = [place for place in parts[0] | parts[1] if parts[0].get(place) != parts[1].get(place)]
    for place in places[:MAX_DIFFERENCES]:
        yield Difference(place, parts[0].get(place, "(nothing)"), parts[1].get(place, "(nothing)"))
    if len(places) > MAX_DIFFERENCES:
        more = len(places) - MAX_DIFFERENCES
        yield Difference("document", f"{more} more places differ", "")
    if not places:
        yield Difference("document", f"the same content in {len(stored)} bytes", f"{len(replayed)} bytes")


def _places(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Each value in a document that holds no other, as JSON, by where it is."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _places(inner, f"{place}/{name}")
    elif isinstance(value, list) and value:
        for n, inner in enumerate(value):
            yield from _places(inner, f"{place}/{n}")
    else:
        yield place, dumps(value)
