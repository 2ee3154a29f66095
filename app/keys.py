"""Purpose keys: each use of the secret has a key of its own, derived by HKDF, with an id.

Several secrets allow rotation: the first makes new things, all of them recognise old ones.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class Purpose(StrEnum):
    WEBHOOK = "webhook"
    SEALING = "sealing"
    LEDGER = "ledger"
    ENDPOINT = "endpoint"
    USER_TOKEN = "user-token"  # noqa: S105 - the purpose's name


KEY_ID_SIZE = 4


@dataclass(frozen=True, slots=True)
class PurposeKey:
    id: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"PurposeKey({self.id.hex()})"


class KeyRing:
    """The keys of one purpose; the first is current."""

    def __init__(self, secrets: Sequence[str], purpose: Purpose) -> None:
        if not secrets:
            raise ValueError("at least one secret is needed")
        self._keys = [_derive(secret, purpose) for secret in secrets]
        self._by_id = {key.id: key for key in self._keys}

    @property
    def current(self) -> PurposeKey:
        return self._keys[0]

    @property
    def all(self) -> Sequence[PurposeKey]:
        return self._keys

    def find(self, key_id: bytes) -> PurposeKey | None:
        return self._by_id.get(key_id)


def _derive(secret: str, purpose: Purpose) -> PurposeKey:
    key = HKDF(SHA256(), 32, salt=None, info=b"talktime/" + purpose.value.encode()).derive(secret.encode())
    return PurposeKey(hashlib.sha256(b"talktime/key-id\x00" + key).digest()[:KEY_ID_SIZE], key)
