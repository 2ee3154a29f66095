"""API keys: 256 random bits behind a prefix that people and secret scanners recognise; stored as their SHA-256.

A slow hash would guard against guessing, which 256 random bits need not fear, and would cost every call.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import ColumnElement, Row, func, insert, select, update

from app.core.access import ALL_SCOPES, Actor, Scope
from app.core.ids import NIL_ACCOUNT, Kind, base32, parse_reference_id, reference_id
from app.core.units import Instant, format_instant
from app.db.database import Transaction
from app.db.keyset import beyond
from app.db.tables import api_keys, key_use
from app.documents import Document, Moment, PlainString, Text
from app.errors import NOT_FOUND, Problem, invalid
from app.http.pages import cursor_instant, cursor_uuid, make_cursor, page, read_cursor
from app.ledger.audit import Audit, record_audits
from app.ports.ids import Ids
from app.ports.randomness import Randomness

PREFIX: Final = "ttk_"
_BITS: Final = 256
LENGTH: Final = len(PREFIX) + len(base32(bytes(_BITS // 8)))


class NewKeyDocument(Document):
    """A key as it is asked for. ``admin`` includes all other scopes."""

    name: Text
    scopes: Annotated[list[Annotated[Scope, PlainString]], Field(min_length=1, max_length=len(ALL_SCOPES))]
    expires_at: Moment | None = None

    @model_validator(mode="after")
    def _each_once(self) -> "NewKeyDocument":
        if len(set(self.scopes)) < len(self.scopes):
            raise PydanticCustomError("twice", "scopes must name each scope once")
        return self


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as far as it is kept."""

    id: UUID
    name: str
    scopes: frozenset[Scope]
    expires_at: Instant | None
    revoked_at: Instant | None

    @property
    def public_id(self) -> str:
        return reference_id(Kind.API_KEY, self.id)

    def is_valid(self, now: Instant) -> bool:
        """Whether it is taken at ``now``: neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def looks_like_key(text: str) -> bool:
    """Whether ``text`` can be a key of ours; what cannot is refused without a look-up."""
    return len(text) == LENGTH and text.startswith(PREFIX)


def hash_of(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


async def find_key(transaction: Transaction, secret: str) -> StoredKey | None:
    """The key with this secret, revoked and expired ones too; null if there is none."""
    return await _stored(transaction, api_keys.c.key_hash == hash_of(secret))


async def key_by_id(transaction: Transaction, key_id: UUID) -> StoredKey | None:
    """The key with this id, revoked and expired ones too; null if there is none."""
    return await _stored(transaction, api_keys.c.id == key_id)


async def revoked_callers(transaction: Transaction, names: Collection[str]) -> set[str]:
    """Which of these callers, by name, are keys that were revoked."""
    key_ids = {key_id for name in names if (key_id := parse_reference_id(Kind.API_KEY, name)) is not None}
    revoked = select(api_keys.c.id).where(api_keys.c.id.in_(key_ids), api_keys.c.revoked_at.is_not(None))
    return {reference_id(Kind.API_KEY, key_id) for key_id in (await transaction.execute(revoked)).scalars()}


async def _stored(transaction: Transaction, this: ColumnElement[bool]) -> StoredKey | None:
    row = (await transaction.execute(select(api_keys).where(this))).one_or_none()
    if row is None:
        return None
    scopes = frozenset(scope for scope in Scope if scope in row.scopes)
    return StoredKey(row.id, row.name, scopes, row.expires_at, row.revoked_at)


async def create_key(
    transaction: Transaction, ids: Ids, randomness: Randomness, asked: NewKeyDocument, *, now: Instant, actor: Actor
) -> tuple[dict[str, Any], str]:
    """Make a key; its document, and its secret, which is kept nowhere.

    Raises a :class:`~app.errors.Problem`, 422, if it would have expired already.
    """
    if asked.expires_at is not None and asked.expires_at <= now:
        raise invalid("/expires_at", "must be in the future")
    secret = PREFIX + base32(randomness.token(_BITS // 8))
    key_id = ids.new()
    await transaction.execute(
        insert(api_keys).values(
            id=key_id,
            name=asked.name,
            key_hash=hash_of(secret),
            scopes=sorted(asked.scopes),
            created_at=now,
            expires_at=asked.expires_at,
        )
    )
    document = await _document(transaction, key_id)
    audit = Audit(actor=actor, action="api_key.create", target=document["id"], after=_terms(document))
    await record_audits(transaction, ids, NIL_ACCOUNT, [audit], now)
    return document, secret


async def revoke_key(transaction: Transaction, ids: Ids, key_id: UUID, now: Instant, actor: Actor) -> dict[str, Any]:
    """Revoke a key from this transaction's commit on; its document. One that is revoked already stays as it is.

    Raises a :class:`~app.errors.Problem`, 404, if there is none.
    """
    mark = update(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None)).values(revoked_at=now)
    revoked = (await transaction.execute(mark)).rowcount > 0
    document = await _document(transaction, key_id)
    if revoked:
        before, after = {"revoked_at": None}, {"revoked_at": document["revoked_at"]}
        audit = Audit(actor=actor, action="api_key.revoke", target=document["id"], before=before, after=after)
        await record_audits(transaction, ids, NIL_ACCOUNT, [audit], now)
    return document


async def keys_page(transaction: Transaction, *, limit: int, cursor: str | None) -> dict[str, Any]:
    """A page of keys, newest first; revoked and expired ones too, for those who look for a trace."""
    statement = _keys().order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc())
    position = read_cursor(cursor, int, str)
    if position is not None:
        last = cursor_instant(position[0]), cursor_uuid(position[1])
        statement = statement.where(beyond((api_keys.c.created_at, api_keys.c.id), last, down=True))
    rows = (await transaction.execute(statement.limit(limit + 1))).all()
    shown = rows[:limit]
    more = make_cursor(shown[-1].created_at, str(shown[-1].id)) if len(rows) > limit else None
    return page([_key_document(row) for row in shown], more)


def unknown_key() -> Problem:
    return Problem(NOT_FOUND, "there is no API key with this id")


def _keys() -> Any:
    last_used = select(func.max(key_use.c.last_used_at)).where(key_use.c.key_id == api_keys.c.id).scalar_subquery()
    return select(api_keys, last_used.label("last_used_at"))


async def _document(transaction: Transaction, key_id: UUID) -> dict[str, Any]:
    row = (await transaction.execute(_keys().where(api_keys.c.id == key_id))).one_or_none()
    if row is None:
        raise unknown_key()
    return _key_document(row)


def _key_document(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": reference_id(Kind.API_KEY, row.id),
        "name": row.name,
        "scopes": [scope for scope in Scope if scope in row.scopes],
        "created_at": format_instant(row.created_at),
        "expires_at": _instant(row.expires_at),
        "last_used_at": _instant(row.last_used_at),
        "revoked_at": _instant(row.revoked_at),
    }


def _terms(document: dict[str, Any]) -> dict[str, Any]:
    return {name: document[name] for name in ("name", "scopes", "expires_at")}


def _instant(value: Instant | None) -> str | None:
    return None if value is None else format_instant(value)
