"""Settled sessions read a few at a time, and each priced by both cards from the evidence of its last charge.

Sessions are walked in the order of their keys, so that all of a user's come together and no list of users is needed.
Each statement looks at a bounded number of them and each transaction is over in moments, whatever the table holds.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Row,
    Select,
    and_,
    func,
    literal,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import distinct_on

from app.core.engines import UnknownEngine, engine_of
from app.core.entries import EntryKind
from app.core.ids import AccountThing
from app.core.units import MicroCredits
from app.core.what_if import NotRated, Priced
from app.db.database import Database, Transaction
from app.db.tables import accounts, charges, entries, rate_cards, sessions
from app.pricing.cards import read_stored
from app.sessions.records import SESSION_COLUMNS, Session, session_of
from app.settlement.evidence import UNREADABLE, charged_evidence, pinned
from app.timelines.snapshots import load_packed_snapshots, unpacked
from app.what_if.asked import Asked

SCANNED: Final = 5_000
"""Settled sessions of any time that one statement looks at, to find those of the period."""

AT_ONCE: Final = 100
"""Sessions of the period that one statement finds."""

TOGETHER: Final = 10
"""Sessions that are read at a time, but for their timelines."""

CORRECTIONS: Final = (EntryKind.CHARGE.value, EntryKind.REFUND.value, EntryKind.RERATE.value)
"""Entries by which a session's user is charged or given back."""

START: Final = AccountThing(UUID(int=0), UUID(int=0))
"""Before all sessions."""

_CHARGE_COLUMNS: Final = [
    charges.c[name]
    for name in (
        "account_id", "session_id", "engine_version", "snapshot_n", "ticks", "rate_card_id", "accepted_snapshot",
    )
]  # fmt: skip
"""What a charge rests on, without its document."""


@dataclass(frozen=True, slots=True)
class Found:
    """Sessions of the period, in order. ``last``: up to where all were looked at; null: there are no more."""

    keys: tuple[AccountThing, ...]
    last: AccountThing | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """All that pricing one session takes, as it lies in rows.

    ``charged``: what its user is charged now. ``charge``: its last one, null if there is none; ``card``: that of it.
    """

    session: Session
    user_id: str
    charged: MicroCredits
    charge: Row[Any] | None
    card: Mapping[str, Any] | None
    snapshots: Sequence[Row[Any]] = ()


def _of_the_period(of: FromClause, asked: Asked) -> ColumnElement[bool]:
    return and_(
        of.c.settled_at >= asked.after,
        of.c.settled_at < asked.before,
        true() if asked.persona is None else of.c.persona == asked.persona,
        true() if asked.scenario is None else of.c.scenario == asked.scenario,
    )


async def count_sessions(database: Database, asked: Asked) -> int:
    """How many sessions there are to price."""
    async with database.reading() as transaction:
        counted = await transaction.execute(select(func.count()).where(_of_the_period(sessions, asked)))
        return int(counted.scalar_one())


async def find_sessions(database: Database, asked: Asked, behind: AccountThing) -> Found:
    """The next sessions of the period whose keys lie behind ``behind``."""
    async with database.reading() as transaction:
        rows = (await transaction.execute(_next_sessions(asked, behind))).all()
    keys = tuple(AccountThing(row.account_id, row.id) for row in rows if row.asked_for)
    if len(keys) == AT_ONCE:
        return Found(keys, keys[-1])
    return Found(keys, next((AccountThing(row.account_id, row.id) for row in rows if not row.asked_for), None))


def _next_sessions(asked: Asked, behind: AccountThing) -> Any:
    place = tuple_(sessions.c.account_id, sessions.c.id)
    # Only what is needed: without persona and scenario the index has all of it.
    wanted = [name for name in ("persona", "scenario") if getattr(asked, name) is not None]
    scanned: Any = (
        select(*(sessions.c[name] for name in ("account_id", "id", "settled_at", *wanted)))
        .where(sessions.c.settled_at.is_not(None), place > tuple_(*behind))
        .order_by(sessions.c.account_id, sessions.c.id)
        .limit(SCANNED)
        .cte("scanned")
    )
    of_the_period: Select[Any] = (
        select(scanned.c.account_id, scanned.c.id, literal(True).label("asked_for"))
        .where(_of_the_period(scanned, asked))
        .order_by(scanned.c.account_id, scanned.c.id)
        .limit(AT_ONCE)
    )
    last: Select[Any] = (
        select(scanned.c.account_id, scanned.c.id, literal(False).label("asked_for"))
        .order_by(scanned.c.account_id.desc(), scanned.c.id.desc())
        .limit(1)
    )
    both = union_all(of_the_period, last).subquery()
    return select(both).order_by(both.c.asked_for.desc(), both.c.account_id, both.c.id)


async def materials(database: Database, keys: Sequence[AccountThing]) -> AsyncIterator[Material]:
    """What pricing these sessions takes, in their order."""
    for start in range(0, len(keys), TOGETHER):
        async with database.reading() as transaction:
            loaded = await _load(transaction, keys[start : start + TOGETHER])
        for material in loaded:
            # One session's at a time: some have hundreds, and reading them keeps heartbeats waiting.
            up_to = 0 if material.charge is None else material.charge.snapshot_n
            async with database.reading() as transaction:
                packed = await load_packed_snapshots(transaction, material.session.key, up_to)
            yield replace(material, snapshots=packed)


async def _load(transaction: Transaction, keys: Sequence[AccountThing]) -> list[Material]:
    these = [tuple(key) for key in keys]
    found: Iterable[Row[Any]] = await transaction.execute(
        select(*SESSION_COLUMNS, accounts.c.user_id)
        .join_from(sessions, accounts, accounts.c.account_id == sessions.c.account_id)
        .where(tuple_(sessions.c.account_id, sessions.c.id).in_(these))
    )
    known = {AccountThing(row.account_id, row.id): (session_of(row), str(row.user_id)) for row in found}
    last: Iterable[Row[Any]] = await transaction.execute(
        select(*_CHARGE_COLUMNS)
        .ext(distinct_on(charges.c.account_id, charges.c.session_id))
        .where(tuple_(charges.c.account_id, charges.c.session_id).in_(these))
        .order_by(charges.c.account_id, charges.c.session_id, charges.c.version.desc())
    )
    last_charges = {AccountThing(row.account_id, row.session_id): row for row in last}
    posted = {
        AccountThing(row.account_id, row.session_id): MicroCredits(-int(row.amount))
        for row in await transaction.execute(
            select(entries.c.account_id, entries.c.session_id, func.sum(entries.c.amount).label("amount"))
            .where(tuple_(entries.c.account_id, entries.c.session_id).in_(these), entries.c.kind.in_(CORRECTIONS))
            .group_by(entries.c.account_id, entries.c.session_id)
        )
    }
    card_ids = {
        key: last_charges[key].rate_card_id or session.rate_card_id
        for key, (session, _) in known.items()
        if key in last_charges
    }
    cards = {
        row.id: row.document
        for row in await transaction.execute(select(rate_cards).where(rate_cards.c.id.in_(set(card_ids.values()))))
    }
    return [
        Material(
            session=known[key][0],
            user_id=known[key][1],
            charged=posted.get(key, MicroCredits(0)),
            charge=last_charges.get(key),
            card=cards.get(card_ids.get(key)),
        )
        for key in keys
        if key in known
    ]


def price(material: Material, asked: Asked) -> Priced | NotRated:
    """Price one session by the engine that made its last charge, so that all that differs is the card.

    Without a ceiling, by either card: what was authorized was sized by the card of then.
    """
    session, charge = material.session, material.charge
    if charge is None:
        return NotRated.NO_CHARGE
    if material.card is None:
        return NotRated.UNREADABLE
    try:
        engine = engine_of(charge.engine_version)
        card = pinned(read_stored(material.card), session)
        stored = charged_evidence(session, card, charge, unpacked(material.snapshots))
        evidence = replace(stored.evidence, authorized=None)
        before = engine(evidence).amount
        after = engine(replace(evidence, card=pinned(asked.rate_card.card, session))).amount
        cost = asked.provider_cost
        # What is pinned for a session is in its user's favour: the provider knows nothing of it.
        taken = None if cost is None else engine(replace(evidence, card=cost.card)).amount
    except UnknownEngine:
        return NotRated.UNKNOWN_ENGINE
    except UNREADABLE:
        return NotRated.UNREADABLE
    return Priced(
        user_id=material.user_id,
        session_id=session.public_id,
        before=before,
        after=after,
        charged=material.charged,
        cost=taken,
        written_off=session.written_off,
    )
