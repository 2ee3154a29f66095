"""User tokens of the customer's own issuer: checked by a shared secret, or by the keys at a JWKS URL (RFC 7517).

Public keys and shared secrets never mix: with a URL only asymmetric signatures are taken, with a secret only HMACs, so
that nobody signs with a public key as if it were a secret. A key is used for the algorithm of its own kind only. The
keys are fetched when they are first needed, again when a token names one that is not among them, and kept while the
URL does not answer, though not for ever.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
import jwt
import structlog
from pydantic import SecretStr

from app.access.user_tokens import UNCHECKED, Bearer, valid_bearer
from app.core.units import US_PER_S, Instant, Micros
from app.errors import UNAVAILABLE, Problem
from app.http.access import not_valid
from app.ports.clock import Clock

log = structlog.get_logger(__name__)

LEEWAY: Final = Micros(30 * US_PER_S)
"""The issuer's clock may be off by so much."""

SHARED: Final = ("HS256", "HS384", "HS512")
SHARED_KEY: Final = 64
"""Bytes that the library wants of the longest of these. HMAC itself fills a shorter secret up with zeros (RFC 2104, 2),
so that one filled up here makes the same signatures; how short it may be, the settings say."""

SIGNED: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

REFRESH_AFTER: Final = Micros(3600 * US_PER_S)
"""Keys are fetched again after so long, so that one that was withdrawn is not taken for ever."""

KEPT: Final = Micros(86_400 * US_PER_S)
"""They are used for so long while the URL does not answer."""

PAUSE: Final = Micros(10 * US_PER_S)
"""Between two fetches: a token with an invented key id must not send us to the issuer each time."""

TIMEOUT_S: Final = 5.0
MAX_KEYS_BODY: Final = 256 * 1024
MAX_KEYS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerTerms:
    """Whose tokens are taken, and how they are checked: by one of ``secret`` and ``jwks_url``.

    ``max_ttl``: no token is taken that lasts longer, from its ``iat`` or from now.
    """

    issuer: str
    audience: str | None
    user_claim: str
    secret: SecretStr | None
    jwks_url: str | None
    max_ttl: Micros


class Issuer:
    """Reads the tokens of the customer's issuer."""

    def __init__(self, terms: IssuerTerms, clock: Clock, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._terms = terms
        self._clock = clock
        self._keys = None if terms.jwks_url is None else _PublicKeys(terms.jwks_url, clock, transport)

    async def bearer_of(self, token: str, header: Mapping[str, Any]) -> Bearer:
        """The user whose token it is.

        Raises a :class:`~app.errors.Problem`: 401 if it is not valid, 503 if the issuer's keys cannot be had.
        """
        claims = await self._signed(token, header)
        if claims.get("iss") != self._terms.issuer:
            raise not_valid("this token is from another issuer")
        audience = claims.get("aud")
        named = audience if isinstance(audience, list) else [audience]
        if self._terms.audience is not None and self._terms.audience not in named:
            raise not_valid("this token was made for something else")
        return valid_bearer(claims, self._terms.user_claim, self._clock.now(), LEEWAY, self._terms.max_ttl)

    async def _signed(self, token: str, header: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            if self._terms.secret is not None:
                secret = self._terms.secret.get_secret_value().encode().ljust(SHARED_KEY, b"\0")
                return dict(jwt.decode(token, secret, list(SHARED), UNCHECKED))
            if self._keys is None:
                raise not_valid("this token's signature is not right")
            key = await self._keys.find(header.get("kid"), header.get("alg"))
            if key is None:
                raise not_valid("the issuer has no such key")
            return dict(jwt.decode(token, key, [key.algorithm_name], UNCHECKED))
        except jwt.PyJWTError:
            raise not_valid("this token's signature is not right") from None

    async def aclose(self) -> None:
        if self._keys is not None:
            await self._keys.aclose()


class _PublicKeys:
    """The keys at the URL, by their ids; one fetch at a time."""

    def __init__(self, url: str, clock: Clock, transport: httpx.AsyncBaseTransport | None) -> None:
        self._url = url
        self._clock = clock
        self._client = httpx.AsyncClient(
            timeout=TIMEOUT_S, follow_redirects=False, trust_env=False, transport=transport
        )
        self._keys: dict[object, jwt.PyJWK] | None = None
        self._fetched_at = self._asked_at = Instant(0)
        self._lock = asyncio.Lock()

    async def find(self, key_id: object, algorithm: object) -> jwt.PyJWK | None:
        """The key with this id, or the only one if the token names none; null if it is not there.

        Raises a :class:`~app.errors.Problem`, 503, if no keys can be had.
        """
        found = self._find(key_id)
        if found is None or self._age() >= REFRESH_AFTER:
            async with self._lock:
                found = self._find(key_id)
                if (found is None or self._age() >= REFRESH_AFTER) and self._clock.now() >= self._asked_at + PAUSE:
                    await self._fetch()
                    found = self._find(key_id)
        if self._keys is None or self._age() >= KEPT:
            detail = "the keys of the tokens' issuer cannot be had"
            raise Problem(UNAVAILABLE, detail, headers={"Retry-After": str(PAUSE // US_PER_S)})
        return found if found is not None and found.algorithm_name == algorithm else None

    def _age(self) -> int:
        return self._clock.now() - self._fetched_at

    def _find(self, key_id: object) -> jwt.PyJWK | None:
        keys = self._keys or {}
        if key_id is None and len(keys) == 1:
            return next(iter(keys.values()))
        return keys.get(key_id) if isinstance(key_id, str) else None

    async def _fetch(self) -> None:
        self._asked_at = self._clock.now()
        try:
            async with asyncio.timeout(2 * TIMEOUT_S):
                body = await self._get()
            self._keys = _signing_keys(body)
            self._fetched_at = self._clock.now()
        except (httpx.HTTPError, TimeoutError, ValueError, jwt.PyJWTError) as error:
            log.warning("issuer.keys_not_had", why=type(error).__name__)

    async def _get(self) -> bytes:
        async with self._client.stream("GET", self._url) as response:
            response.raise_for_status()
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_KEYS_BODY:
                    raise ValueError("the answer is too long")
            return body

    async def aclose(self) -> None:
        await self._client.aclose()


def _signing_keys(body: bytes) -> dict[object, jwt.PyJWK]:
    """The keys that may sign tokens; those of other uses and of kinds that we do not take are left out."""
    document = json.loads(body.decode("utf-8"))
    try:
        keys = document["keys"][:MAX_KEYS]
    except (TypeError, LookupError):
        raise ValueError("the answer is no key set") from None
    return {
        key.key_id: key
        for key in jwt.PyJWKSet(keys).keys
        if key.public_key_use in {None, "sig"} and key.algorithm_name in SIGNED
    }
