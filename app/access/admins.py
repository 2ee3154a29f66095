"""Named admin accounts: people who sign in to the pages with a password, kept as its argon2id hash (RFC 9106).

The parameters are the library's, which are the RFC's second recommended option: 64 MiB, three passes. A hash takes some
tens of milliseconds of one core, so it is worked out in a thread, and few at once.
"""

import asyncio
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final
from uuid import UUID

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError
from sqlalchemy import Row, delete, insert, select, update

from app.core.access import Actor, Role
from app.core.ids import NIL_ACCOUNT
from app.core.units import Instant, format_instant
from app.db.database import Transaction
from app.db.tables import admin_sessions, admin_users
from app.documents import Document, PlainString, Text
from app.errors import ADMIN_EXISTS, NOT_FOUND, Problem
from app.ledger.audit import Audit, record_audits
from app.ports.ids import Ids
from app.ports.randomness import Randomness

MIN_PASSWORD: Final = 12
MAX_PASSWORD: Final = 256
AT_ONCE: Final = 2
"""Hashes that are worked out at once in a process: each takes 64 MiB and a core."""

LINK: Final = "link:"

_HASHER: Final = PasswordHasher()


def _password(value: Any) -> str:
    if not isinstance(value, str) or not MIN_PASSWORD <= len(value) <= MAX_PASSWORD or "\x00" in value:
        raise PydanticCustomError("password", f"must have {MIN_PASSWORD} to {MAX_PASSWORD} characters")
    return value


Password = Annotated[
    str,
    PlainValidator(_password),
    WithJsonSchema({"type": "string", "minLength": MIN_PASSWORD, "maxLength": MAX_PASSWORD}),
]


class NewAdminDocument(Document):
    """An admin account as it is asked for; names are told apart by their exact letters."""

    name: Text
    password: Password
    role: Annotated[Role, PlainString] = Role.READ_ONLY


class PasswordDocument(Document):
    password: Password


@dataclass(frozen=True, slots=True)
class Admin:
    """An admin account as it is kept."""

    id: UUID
    name: str
    role: Role
    created_at: Instant
    disabled_at: Instant | None

    @property
    def key(self) -> str:
        """By which sessions name it."""
        return f"admin:{self.id}"

    @property
    def link_key(self) -> str:
        """By which links that sign it in name it."""
        return f"{LINK}{self.id}"

    @property
    def document(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "role": self.role.value,
            "created_at": format_instant(self.created_at),
            "disabled_at": None if self.disabled_at is None else format_instant(self.disabled_at),
        }


class Passwords:
    """Hashes passwords and compares them, in threads, a few at once."""

    def __init__(self, randomness: Randomness) -> None:
        self._places = asyncio.Semaphore(AT_ONCE)
        self._randomness = randomness
        self._nobodys: str | None = None
        """Compared with where there is no account, so that an answer takes as long as where there is one."""

    async def hash(self, password: str) -> str:
        async with self._places:
            return await asyncio.to_thread(_HASHER.hash, password)

    async def are_right(self, stored: str | None, password: str) -> bool:
        """Whether ``password`` is the one that was ``stored``; takes as long where nothing was stored."""
        if self._nobodys is None:
            self._nobodys = await self.hash(self._randomness.token(32).hex())
        async with self._places:
            return await asyncio.to_thread(_verify, stored or self._nobodys, password) and stored is not None


def _verify(stored: str, password: str) -> bool:
    try:
        return _HASHER.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False


async def admin_by_name(transaction: Transaction, name: str) -> tuple[Admin, str] | None:
    """The account and its stored hash, disabled ones too; null if there is none."""
    row = (await transaction.execute(select(admin_users).where(admin_users.c.name == name))).one_or_none()
    return None if row is None else (_admin(row), row.password_hash)


async def admin_by_id(transaction: Transaction, admin_id: UUID) -> Admin | None:
    row = (await transaction.execute(select(admin_users).where(admin_users.c.id == admin_id))).one_or_none()
    return None if row is None else _admin(row)


async def all_admins(transaction: Transaction) -> list[Admin]:
    """Every account, by name."""
    return [_admin(row) for row in await transaction.execute(select(admin_users).order_by(admin_users.c.name))]


async def create_admin(
    transaction: Transaction,
    ids: Ids,
    name: str,
    role: Role,
    password_hash: str,
    *,
    now: Instant,
    actor: Actor,
) -> Admin:
    """Make an account. Raises a :class:`~app.errors.Problem`, 409 ``admin-exists``, if the name is taken."""
    if await admin_by_name(transaction, name) is not None:
        raise Problem(ADMIN_EXISTS, f"there is an admin named {name!r} already")
    made = Admin(ids.new(), name, role, now, None)
    await transaction.execute(
        insert(admin_users).values(
            id=made.id, name=made.name, password_hash=password_hash, role=made.role.value, created_at=now
        )
    )
    await _audit(transaction, ids, now, actor, "admin.create", made, after={"name": made.name, "role": made.role.value})
    return made


async def change_password(
    transaction: Transaction, ids: Ids, name: str, password_hash: str, *, now: Instant, actor: Actor
) -> Admin:
    """Another password; whoever is signed in as this admin is signed out, and links are void.

    Raises a 404 :class:`~app.errors.Problem`.
    """
    admin = await _known(transaction, name)
    await transaction.execute(
        update(admin_users).where(admin_users.c.id == admin.id).values(password_hash=password_hash)
    )
    await _sign_out(transaction, admin)
    await _audit(transaction, ids, now, actor, "admin.password", admin)
    return admin


async def change_admin(
    transaction: Transaction,
    ids: Ids,
    name: str,
    *,
    now: Instant,
    actor: Actor,
    role: Role | None = None,
    disabled: bool | None = None,
) -> Admin:
    """Another role, or whether the account may be used. One that is disabled is signed out at once.

    Raises a 404 :class:`~app.errors.Problem`.
    """
    admin = await _known(transaction, name)
    disabled_at = admin.disabled_at
    if disabled is not None and disabled != (disabled_at is not None):
        disabled_at = now if disabled else None
    changed = replace(admin, role=role or admin.role, disabled_at=disabled_at)
    if changed == admin:
        return admin
    await transaction.execute(
        update(admin_users)
        .where(admin_users.c.id == admin.id)
        .values(role=changed.role.value, disabled_at=changed.disabled_at)
    )
    if changed.disabled_at is not None:
        await _sign_out(transaction, admin)
    before, after = admin.document, changed.document
    differing = [name for name in before if before[name] != after[name]]
    await _audit(
        transaction,
        ids,
        now,
        actor,
        "admin.change",
        admin,
        before={name: before[name] for name in differing},
        after={name: after[name] for name in differing},
    )
    return changed


async def _known(transaction: Transaction, name: str) -> Admin:
    found = await admin_by_name(transaction, name)
    if found is None:
        raise unknown_admin()
    return found[0]


def unknown_admin() -> Problem:
    return Problem(NOT_FOUND, "there is no admin with this name")


async def _sign_out(transaction: Transaction, admin: Admin) -> None:
    keys = [admin.key, admin.link_key]
    await transaction.execute(delete(admin_sessions).where(admin_sessions.c.admin.in_(keys)))


async def _audit(
    transaction: Transaction,
    ids: Ids,
    now: Instant,
    actor: Actor,
    action: str,
    admin: Admin,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    audit = Audit(actor=actor, action=action, target=f"admin:{admin.name}", before=before, after=after)
    await record_audits(transaction, ids, NIL_ACCOUNT, [audit], now)


def _admin(row: Row[Any]) -> Admin:
    return Admin(row.id, row.name, Role(row.role), row.created_at, row.disabled_at)
