"""The keys of the ledger's MACs. They are never dropped: old entries stay verifiable."""

import hashlib
from collections.abc import Sequence

from app.keys import KeyRing, Purpose
from app.settings import Settings


class LedgerKeys:
    """MAC keys by id; the first signs new entries."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise ValueError("the ledger needs at least one key")
        self._by_id = {_id(key): key for key in keys}
        self.current_id = _id(keys[0])

    def key(self, key_id: str) -> bytes | None:
        """The key with this id; null if it is not among ours."""
        return self._by_id.get(key_id)

    @property
    def current(self) -> bytes:
        return self._by_id[self.current_id]


def ledger_keys_of(settings: Settings) -> LedgerKeys | None:
    """The keys that the settings name or, for the embedded database only, derived ones; null if there are none."""
    if settings.ledger_keys:
        return LedgerKeys([key.get_secret_value().encode() for key in settings.ledger_keys])
    if settings.database_url is not None or not settings.secret:
        return None
    # One from each secret: entries signed under an earlier one stay verifiable while that secret is kept.
    secrets = [secret.get_secret_value() for secret in settings.secret]
    return LedgerKeys([key.key for key in KeyRing(secrets, Purpose.LEDGER).all])


def _id(key: bytes) -> str:
    return hashlib.sha256(b"talktime/ledger-key-id\x00" + key).hexdigest()[:8]
