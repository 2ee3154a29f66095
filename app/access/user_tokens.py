"""User tokens: short-lived JWTs (RFC 7519) by which a user's own front end reaches that user's own things.

Ours are signed by HMAC-SHA-256 under a key derived from our secret; the header's ``kid`` says which. The customer's
backend may issue them as well, see :mod:`app.access.issuer`. A token is read by our clock, which demonstrations run
fast, and so never by the library's.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple

import jwt
from pydantic import Field

from app.core.access import Actor
from app.core.ids import account_id_of
from app.core.units import US_PER_S, Instant, InvalidQuantity, Micros, format_instant, seconds
from app.db.database import Transaction
from app.documents import Document, Duration, Reason, printable
from app.http.access import not_valid
from app.keys import KeyRing
from app.ledger.audit import Audit, record_audits
from app.ports.ids import Ids
from app.ports.randomness import Randomness
from app.settings import OWN_ISSUER

ALGORITHM: Final = "HS256"
PORTAL: Final = "talktime-portal"
"""The audience of tokens in links to the portal: they open that and nothing else."""

MIN_TTL: Final = Micros(10 * US_PER_S)
MAX_TTL: Final = Micros(86_400 * US_PER_S)
DEFAULT_TTL: Final = Micros(3600 * US_PER_S)

_MAX_SECONDS: Final = 253_402_300_799
"""The last second of the year 9999."""

UNCHECKED: Final[Any] = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
    "enforce_minimum_key_length": True,
}
"""The library checks the signature; the claims are checked here, all of them."""


class Bearer(NamedTuple):
    """Whose token it is, and from when on it is no longer taken."""

    user_id: str
    expires_at: Instant


class UserTokenDocument(Document):
    """How long the token lasts, and why it is made."""

    ttl_s: Annotated[Duration, Field(ge=MIN_TTL, le=MAX_TTL)] = DEFAULT_TTL
    reason: Reason | None = None


class UserTokens:
    """Issues our tokens and reads them."""

    def __init__(self, keys: KeyRing, randomness: Randomness) -> None:
        self._keys = keys
        self._randomness = randomness

    def issue(self, user_id: str, ttl: Micros, now: Instant, audience: str = OWN_ISSUER) -> tuple[str, Instant]:
        """A token for the user, and when it expires: after ``ttl``, in whole seconds, rounded up."""
        key = self._keys.current
        expires = -(-(now + ttl) // US_PER_S)
        claims = {
            "iss": OWN_ISSUER,
            "aud": audience,
            "sub": user_id,
            "iat": now // US_PER_S,
            "exp": expires,
            "jti": self._randomness.token(16).hex(),
        }
        token = jwt.encode(claims, key.key, ALGORITHM, headers={"kid": key.id.hex()})
        return token, Instant(expires * US_PER_S)

    def signed(self, token: str, key_id: object) -> Mapping[str, Any] | None:
        """The claims of a token that a key of ours has signed; null for any other."""
        key = self._keys.find(_bytes(key_id))
        if key is None:
            return None
        try:
            claims: dict[str, Any] = jwt.decode(token, key.key, [ALGORITHM], UNCHECKED)
        except jwt.InvalidTokenError:
            return None
        return claims

    @staticmethod
    def bearer_of(claims: Mapping[str, Any], now: Instant, audience: str = OWN_ISSUER) -> Bearer:
        """The user whose token it is. Raises a :class:`~app.errors.Problem`, 401, if it is not valid now."""
        if claims.get("iss") != OWN_ISSUER or claims.get("aud") != audience:
            raise not_valid("this token was made for something else")
        return valid_bearer(claims, "sub", now, Micros(0))


async def issue_portal_link(
    transaction: Transaction,
    ids: Ids,
    tokens: UserTokens,
    user_id: str,
    asked: UserTokenDocument,
    *,
    public_url: str,
    now: Instant,
    actor: Actor,
) -> tuple[dict[str, Any], str]:
    """Make a link that opens the user's portal, which the audit log tells of; its document without it, and the link."""
    token, expires_at = tokens.issue(user_id, Micros(asked.ttl_s), now, PORTAL)
    document = {"user_id": user_id, "expires_at": format_instant(expires_at)}
    audit = Audit(actor=actor, action="portal_link.create", target=user_id, after=document, reason=asked.reason)
    await record_audits(transaction, ids, account_id_of(user_id), [audit], now)
    return document, f"{public_url}/portal?token={token}"


async def issue_token(
    transaction: Transaction,
    ids: Ids,
    tokens: UserTokens,
    user_id: str,
    asked: UserTokenDocument,
    *,
    now: Instant,
    actor: Actor,
) -> tuple[dict[str, Any], str]:
    """Issue a token, which the audit log tells of; its document without it, and the token."""
    token, expires_at = tokens.issue(user_id, Micros(asked.ttl_s), now)
    document = {"user_id": user_id, "expires_at": format_instant(expires_at)}
    audit = Audit(actor=actor, action="user_token.create", target=user_id, after=document, reason=asked.reason)
    await record_audits(transaction, ids, account_id_of(user_id), [audit], now)
    return document, token


def valid_bearer(
    claims: Mapping[str, Any], name: str, now: Instant, leeway: Micros, max_ttl: Micros | None = None
) -> Bearer:
    """The user in the claim ``name`` of a token whose signature is right.

    Raises a :class:`~app.errors.Problem`, 401, if it has no ``exp`` or has expired, is not valid yet, lasts longer than
    ``max_ttl`` from its ``iat`` or from now, or names nobody.
    """
    expires = _second(claims, "exp")
    if expires is None:
        raise not_valid("this token never expires, and only those that do are taken")
    if now >= expires + leeway:
        raise not_valid("this token has expired")
    for start in ("nbf", "iat"):
        begins = _second(claims, start)
        if begins is not None and now + leeway + US_PER_S < begins:  # it may have been rounded up
            raise not_valid("this token is not valid yet")
    issued = _second(claims, "iat")
    if max_ttl is not None and expires - min(now, now if issued is None else issued) > max_ttl + leeway:
        raise not_valid(f"this token lasts too long: at most {seconds(max_ttl)} seconds are taken")
    user_id = claims.get(name)
    try:
        return Bearer(printable(user_id if isinstance(user_id, str) else ""), Instant(expires + leeway))
    except InvalidQuantity:
        raise not_valid(f"the claim {name} of this token holds no user's id") from None


def _second(claims: Mapping[str, Any], name: str) -> Micros | None:
    """A NumericDate (RFC 7519, 2); fractions are cut off. 401 for what is none."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_SECONDS:
        raise not_valid(f"the claim {name} of this token is no point in time")
    return Micros(int(value) * US_PER_S)


def _bytes(key_id: object) -> bytes:
    try:
        return bytes.fromhex(key_id) if isinstance(key_id, str) else b""
    except ValueError:
        return b""
