"""Links that sign an admin in, once: for a first look, or where nobody has a password yet.

A link holds 256 random bits. Their SHA-256 stands among the sessions, by another rule than that of sessions, so that
neither is ever taken for the other; whoever uses the link takes the row away, and of two at once one finds it.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, delete, insert, select

from app.access.admins import LINK, Admin, admin_by_id, admin_by_name
from app.core.access import Actor
from app.core.ids import NIL_ACCOUNT, base32
from app.core.units import US_PER_S, Instant, Micros, format_instant
from app.db.database import Transaction
from app.db.tables import admin_sessions
from app.errors import NOT_FOUND, UNAUTHORIZED, Problem
from app.ledger.audit import Audit, record_audits
from app.ports.ids import Ids
from app.ports.randomness import Randomness

LASTS: Final = Micros(10 * 60 * US_PER_S)
LONGEST: Final = Micros(60 * 60 * US_PER_S)

_BITS: Final = 256
_LENGTH: Final = len(base32(bytes(_BITS // 8)))


@dataclass(frozen=True, slots=True)
class SignInLink:
    """What a link carries, told this once, and until when it signs in."""

    token: str = field(repr=False)
    expires_at: Instant


async def make_link(
    transaction: Transaction,
    ids: Ids,
    randomness: Randomness,
    name: str,
    *,
    now: Instant,
    actor: Actor,
    lasts: Micros = LASTS,
) -> SignInLink:
    """A new link for an account; those that it had before sign in no more. ``lasts``: up to :data:`LONGEST`.

    Raises a :class:`~app.errors.Problem`, 404, if there is no such account, or it is closed.
    """
    if not 0 < lasts <= LONGEST:
        raise ValueError("a link lasts up to an hour")
    found = await admin_by_name(transaction, name)
    if found is None or found[0].disabled_at is not None:
        raise Problem(NOT_FOUND, "there is no admin with this name whose account is open")
    admin = found[0]
    link = SignInLink(base32(randomness.token(_BITS // 8)), Instant(now + lasts))
    earlier = (admin_sessions.c.admin == admin.link_key) | (admin_sessions.c.expires_at <= now)
    await transaction.execute(delete(admin_sessions).where(earlier))
    await transaction.execute(
        insert(admin_sessions).values(
            token_hash=_hash(link.token),
            admin=admin.link_key,
            role=admin.role.value,
            created_at=now,
            expires_at=link.expires_at,
        )
    )
    after = {"expires_at": format_instant(link.expires_at)}
    audit = Audit(actor=actor, action="admin.sign_in_link", target=f"admin:{admin.name}", after=after)
    await record_audits(transaction, ids, NIL_ACCOUNT, [audit], now)
    return link


async def admin_of_link(transaction: Transaction, token: str, now: Instant) -> Admin:
    """Whom a link would sign in now; it stays good. Raises a :class:`~app.errors.Problem`, 401."""
    row = None
    if _may_be_one(token):
        find = select(admin_sessions.c.admin, admin_sessions.c.expires_at).where(_this(token))
        row = (await transaction.execute(find)).one_or_none()
    return await _open_account(transaction, None if row is None or row.expires_at <= now else row.admin)


async def use_link(transaction: Transaction, token: str, now: Instant) -> Admin:
    """Whom the link signs in; from this transaction's end on it signs in nobody else.

    Raises a :class:`~app.errors.Problem`, 401, which does not tell what was wrong with it.
    """
    row = None
    if _may_be_one(token):
        take = delete(admin_sessions).where(_this(token)).returning(admin_sessions.c.admin, admin_sessions.c.expires_at)
        row = (await transaction.execute(take)).one_or_none()
    return await _open_account(transaction, None if row is None or row.expires_at <= now else row.admin)


async def _open_account(transaction: Transaction, whose: str | None) -> Admin:
    admin = None if whose is None else await admin_by_id(transaction, UUID(whose.removeprefix(LINK)))
    if admin is None or admin.disabled_at is not None:
        raise Problem(UNAUTHORIZED, "this link was used, has expired, or never was one: ask for another")
    return admin


def _may_be_one(token: str) -> bool:
    return len(token) == _LENGTH and token.isascii()


def _this(token: str) -> ColumnElement[bool]:
    return admin_sessions.c.token_hash == _hash(token)


def _hash(token: str) -> bytes:
    return hashlib.sha256(b"talktime/sign-in-link\x00" + token.encode("utf-8", "surrogateescape")).digest()
