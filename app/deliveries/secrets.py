"""What events are signed with: an endpoint's secrets, sealed where they lie, and the signatures of Standard Webhooks.

An endpoint has one secret, and after a rotation the one before for a while: then each request bears a signature by
each, so that a receiver takes over the new one whenever it likes.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.core.units import US_PER_S, Instant
from app.keys import KEY_ID_SIZE, KeyRing
from app.ports.randomness import Randomness

PREFIX: Final = "whsec_"
_BYTES: Final = 32
_NONCE: Final = 12
MOST_SECRETS: Final = 4
"""Of more secrets that are valid at once, the oldest end."""


@dataclass(frozen=True, slots=True)
class EndpointSecret:
    """``until``: when it ends; null for the present one."""

    key: bytes
    until: Instant | None

    def __repr__(self) -> str:
        return f"EndpointSecret(until={self.until})"

    @property
    def text(self) -> str:
        """As the standard writes it."""
        return PREFIX + base64.b64encode(self.key).decode()


def new_secret(randomness: Randomness) -> EndpointSecret:
    return EndpointSecret(randomness.token(_BYTES), None)


def valid(secrets: Sequence[EndpointSecret], now: Instant) -> list[EndpointSecret]:
    """Those with which something is signed ``now``, the present one first."""
    return [secret for secret in secrets if secret.until is None or now < secret.until]


def rotated(
    secrets: Sequence[EndpointSecret], new: EndpointSecret, now: Instant, until: Instant
) -> list[EndpointSecret]:
    """``secrets`` with a ``new`` present one: those before end at ``until``, or earlier if they were to."""
    ending = [
        EndpointSecret(secret.key, until if secret.until is None else min(secret.until, until))
        for secret in valid(secrets, now)
    ]
    return valid([new, *ending], now)[:MOST_SECRETS]


def seal_secrets(keys: KeyRing, endpoint_id: UUID, secrets: Sequence[EndpointSecret], randomness: Randomness) -> bytes:
    """The secrets under our present key: its id, nonce, ciphertext. Bound to their endpoint."""
    nonce = randomness.token(_NONCE)
    document = json.dumps([[secret.key.hex(), secret.until] for secret in secrets]).encode()
    return keys.current.id + nonce + AESGCM(keys.current.key).encrypt(nonce, document, endpoint_id.bytes)


def open_secrets(keys: KeyRing, endpoint_id: UUID, sealed: bytes) -> list[EndpointSecret] | None:
    """The secrets; null if the key that sealed them is gone, or they are another endpoint's."""
    key = keys.find(sealed[:KEY_ID_SIZE])
    if key is None:
        return None
    nonce, ciphertext = sealed[KEY_ID_SIZE : KEY_ID_SIZE + _NONCE], sealed[KEY_ID_SIZE + _NONCE :]
    try:
        document = AESGCM(key.key).decrypt(nonce, ciphertext, endpoint_id.bytes)
    except InvalidTag:
        return None
    return [
        EndpointSecret(bytes.fromhex(text), None if until is None else Instant(until))
        for text, until in json.loads(document)
    ]


def is_sealed_by_an_old_key(keys: KeyRing, sealed: bytes) -> bool:
    return sealed[:KEY_ID_SIZE] != keys.current.id


def signed_headers(secrets: Sequence[EndpointSecret], message_id: str, now: Instant, body: bytes) -> Mapping[str, str]:
    """``webhook-id``, ``webhook-timestamp`` and ``webhook-signature`` of a request that is made ``now``."""
    timestamp = str(now // US_PER_S)
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = [
        "v1," + base64.b64encode(hmac.digest(secret.key, signed, hashlib.sha256)).decode() for secret in secrets
    ]
    return {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": " ".join(signatures)}
