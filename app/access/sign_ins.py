"""Who is signed in to the admin's pages: sessions of the server's, opened by an admin key, a password or a link.

A browser holds 256 random bits; the database their SHA-256. Whether the key or the account behind a session may still
come in is asked at each request, so one that was revoked, has expired or was disabled ends its sessions at once.
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import Row, delete, insert, select

from app.access.admins import Passwords, admin_by_id, admin_by_name
from app.access.authentication import BOOTSTRAP, Authentication
from app.access.keys import key_by_id
from app.access.sign_in_links import admin_of_link, use_link
from app.core.access import Actor, Caller, Role, Scope
from app.core.ids import NIL_ACCOUNT, Kind, base32, parse_reference_id
from app.core.units import US_PER_S, Instant, Micros
from app.db.database import Database, Transaction
from app.db.tables import admin_sessions
from app.errors import FORBIDDEN, UNAUTHORIZED, Problem
from app.ledger.audit import Audit, record_audits
from app.ports.clock import Clock
from app.ports.ids import Ids
from app.ports.randomness import Randomness

LASTS: Final = Micros(12 * 3600 * US_PER_S)
"""A sign-in lasts so long, whatever is done: a working day."""

_BITS: Final = 256
_LENGTH: Final = len(base32(bytes(_BITS // 8)))


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Someone at the pages: ``name`` as the audit log has it, and what he may do."""

    name: str
    role: Role
    expires_at: Instant

    @property
    def caller(self) -> Caller:
        return Caller(self.name, self.role.scopes)


class SignIns:
    """Opens sessions, finds them, ends them."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        ids: Ids,
        randomness: Randomness,
        authentication: Authentication,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._randomness = randomness
        self._authentication = authentication
        self.passwords = Passwords(randomness)

    async def by_key(self, key: str, actor: Actor) -> str:
        """The token of a new session, opened by an API key with the scope ``admin``. ``actor``: the visitor.

        Raises a :class:`~app.errors.Problem`: 401 if the key is nobody's, 403 if it lacks the scope.
        """
        caller = await self._authentication(key)
        if not caller.has(Scope.ADMIN):
            raise Problem(FORBIDDEN, "this key lacks the scope admin, which the pages ask for")
        name = caller.name
        if name == BOOTSTRAP:
            name = f"{BOOTSTRAP}:{self._authentication.bootstrap_mark}"
        return await self._open(name, caller.name, Role.FULL, actor)

    async def by_password(self, name: str, password: str, actor: Actor) -> str:
        """The token of a new session, opened by an account's password.

        Raises a :class:`~app.errors.Problem`, 401, which does not tell whether there is such an account.
        """
        async with self._database.reading() as transaction:
            found = await admin_by_name(transaction, name)
        stored = None if found is None or found[0].disabled_at is not None else found[1]
        right = await self.passwords.are_right(stored, password)
        if found is None or not right:
            raise Problem(UNAUTHORIZED, "there is no such name, or the password is another one")
        admin = found[0]
        return await self._open(admin.key, f"admin:{admin.name}", admin.role, actor)

    async def whom_link_signs_in(self, token: str) -> str:
        """The name of the account that a link signs in; it stays good. Raises a :class:`~app.errors.Problem`, 401."""
        async with self._database.reading() as transaction:
            return (await admin_of_link(transaction, token, self._clock.now())).name

    async def by_link(self, token: str, actor: Actor) -> str:
        """The token of a new session, opened by a link, which is used up by that.

        Raises a :class:`~app.errors.Problem`, 401: it was used or has expired, or the account is closed.
        """
        now = self._clock.now()
        async with self._database.transaction() as transaction:
            admin = await use_link(transaction, token, now)
            return await self._add(transaction, admin.key, f"admin:{admin.name}", admin.role, actor, now, by="link")

    async def _open(self, admin: str, told: str, role: Role, actor: Actor) -> str:
        async with self._database.transaction() as transaction:
            return await self._add(transaction, admin, told, role, actor, self._clock.now())

    async def _add(
        self,
        transaction: Transaction,
        admin: str,
        told: str,
        role: Role,
        actor: Actor,
        now: Instant,
        by: str | None = None,
    ) -> str:
        token = base32(self._randomness.token(_BITS // 8))
        await transaction.execute(delete(admin_sessions).where(admin_sessions.c.expires_at <= now))
        await transaction.execute(
            insert(admin_sessions).values(
                token_hash=_hash(token),
                admin=admin,
                role=role.value,
                created_at=now,
                expires_at=Instant(now + LASTS),
            )
        )
        audit = Audit(
            actor=Actor(told, actor.request_id, actor.address),
            action="admin.sign_in",
            target=told,
            after={"role": role.value, **({} if by is None else {"by": by})},
        )
        await record_audits(transaction, self._ids, NIL_ACCOUNT, [audit], now)
        return token

    async def find(self, token: str) -> SignedIn | None:
        """Whose session it is; null if it is none, has ended, or its key or account may not come in any more."""
        if len(token) != _LENGTH or not token.isascii():
            return None
        find = select(admin_sessions).where(admin_sessions.c.token_hash == _hash(token))
        async with self._database.reading() as transaction:
            row = (await transaction.execute(find)).one_or_none()
            if row is None or row.expires_at <= self._clock.now():
                return None
            return await self._still(transaction, row)

    async def _still(self, transaction: Transaction, row: Row[tuple[object, ...]]) -> SignedIn | None:
        kind, _, rest = row.admin.partition(":")
        if kind == BOOTSTRAP:
            mark = self._authentication.bootstrap_mark
            valid = mark is not None and hmac.compare_digest(rest, mark)
            return SignedIn(BOOTSTRAP, Role.FULL, row.expires_at) if valid else None
        if kind == "admin":
            admin = await admin_by_id(transaction, UUID(rest))
            valid = admin is not None and admin.disabled_at is None
            return SignedIn(f"admin:{admin.name}", admin.role, row.expires_at) if admin is not None and valid else None
        key_id = parse_reference_id(Kind.API_KEY, row.admin)
        key = None if key_id is None else await key_by_id(transaction, key_id)
        if key is None or not key.is_valid(self._clock.now()) or Scope.ADMIN not in key.scopes:
            return None
        return SignedIn(key.public_id, Role.FULL, row.expires_at)

    async def end(self, token: str) -> None:
        """Sign out. Of a token that is nobody's, nothing."""
        async with self._database.transaction() as transaction:
            await transaction.execute(delete(admin_sessions).where(admin_sessions.c.token_hash == _hash(token)))


def _hash(token: str) -> bytes:
    return hashlib.sha256(b"talktime/sign-in\x00" + token.encode("utf-8", "surrogateescape")).digest()
