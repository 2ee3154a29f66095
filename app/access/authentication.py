"""Whose credentials are these? An API key's, a user token's, or the bootstrap key as long as it is set."""

import hashlib
import hmac
from typing import Any

import jwt

from app.access.issuer import Issuer
from app.access.key_use import KeyUse
from app.access.keys import find_key, looks_like_key
from app.access.user_tokens import PORTAL, Bearer, UserTokens
from app.core.access import ALL_SCOPES, Caller
from app.db.database import Database
from app.http.access import not_valid
from app.ports.clock import Clock

BOOTSTRAP = "bootstrap"


class Authentication:
    """See the module."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        bootstrap_admin_key: str | None,
        user_tokens: UserTokens,
        issuer: Issuer | None,
        key_use: KeyUse,
    ) -> None:
        self._database = database
        self._clock = clock
        self._admin_hash = None if bootstrap_admin_key is None else _hash(bootstrap_admin_key)
        self._user_tokens = user_tokens
        self._issuer = issuer
        self._key_use = key_use

    @property
    def bootstrap_mark(self) -> str | None:
        """What tells one bootstrap key from the next, and gives neither away; null if none is set."""
        return None if self._admin_hash is None else hashlib.sha256(b"mark\x00" + self._admin_hash).hexdigest()[:32]

    async def __call__(self, credentials: str) -> Caller:
        """The caller.

        Raises a :class:`~app.errors.Problem`: 401 if the credentials are nobody's, or no longer; 503 if an issuer's
        keys cannot be had. :class:`~app.db.database.DatabaseUnavailable` where keys cannot be looked up.
        """
        if self._admin_hash is not None and hmac.compare_digest(_hash(credentials), self._admin_hash):
            return Caller(BOOTSTRAP, ALL_SCOPES)
        if looks_like_key(credentials):
            return await self._by_key(credentials)
        if credentials.count(".") == 2:
            return await self._by_token(credentials)
        raise not_valid("this key is not valid")

    async def portal_bearer(self, token: str) -> Bearer:
        """The user whose portal a token opens: one of a link's, or any of the user's own.

        Raises a :class:`~app.errors.Problem`: 401 as for calls; 503 if an issuer's keys cannot be had.
        """
        if token.count(".") != 2:
            raise not_valid("this is no link to a portal")
        claims = self._user_tokens.signed(token, _header(token).get("kid"))
        if claims is not None and claims.get("aud") == PORTAL:
            return self._user_tokens.bearer_of(claims, self._clock.now(), PORTAL)
        return await self._bearer(token)

    async def _by_key(self, secret: str) -> Caller:
        async with self._database.reading() as transaction:
            key = await find_key(transaction, secret)
        now = self._clock.now()
        if key is None:
            raise not_valid("this key is not valid")
        if key.revoked_at is not None:
            raise not_valid("this key was revoked")
        if key.expires_at is not None and now >= key.expires_at:
            raise not_valid("this key has expired")
        self._key_use.note(key.id, now)
        return Caller(key.public_id, key.scopes, expires_at=key.expires_at)

    async def _by_token(self, token: str) -> Caller:
        user_id, expires_at = await self._bearer(token)
        return Caller(f"user:{user_id}", user_id=user_id, expires_at=expires_at)

    async def _bearer(self, token: str) -> Bearer:
        header = _header(token)
        claims = self._user_tokens.signed(token, header.get("kid"))
        if claims is not None:
            return self._user_tokens.bearer_of(claims, self._clock.now())
        if self._issuer is not None:
            return await self._issuer.bearer_of(token, header)
        raise not_valid("this token's signature is not right")


def _header(token: str) -> dict[str, Any]:
    try:
        return jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        raise not_valid("this is no token") from None


def _hash(key: str) -> bytes:
    """Compared by hash: in constant time whatever the lengths, and on bytes whatever the characters."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
