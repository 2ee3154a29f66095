"""Sealing the secret part of a stored answer, so that the database alone never gives it away.

AES-256-GCM under a key derived from our secret and the client's raw idempotency key, of which only the hash is stored:
whoever replays the request opens the seal, nobody else can.
"""

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.keys import KEY_ID_SIZE, KeyRing, PurposeKey
from app.ports.randomness import Randomness

_NONCE = 12


@dataclass(frozen=True, slots=True)
class Sealing:
    """What sealing needs: our keys, and nonces."""

    keys: KeyRing
    randomness: Randomness


def seal(keys: KeyRing, raw_key: bytes, secret: bytes, randomness: Randomness) -> bytes:
    """``secret``, sealed: key id, nonce, ciphertext."""
    nonce = randomness.token(_NONCE)
    return keys.current.id + nonce + _cipher(keys.current, raw_key).encrypt(nonce, secret, None)


def unseal(keys: KeyRing, raw_key: bytes, sealed: bytes) -> bytes | None:
    """The secret; null if our secret is gone or this is not the key it was sealed under."""
    key = keys.find(sealed[:KEY_ID_SIZE])
    if key is None:
        return None
    nonce, ciphertext = sealed[KEY_ID_SIZE : KEY_ID_SIZE + _NONCE], sealed[KEY_ID_SIZE + _NONCE :]
    try:
        return _cipher(key, raw_key).decrypt(nonce, ciphertext, None)
    except InvalidTag:
        return None


def _cipher(key: PurposeKey, raw_key: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 32, salt=key.key, info=b"talktime/sealed-answer").derive(raw_key))
