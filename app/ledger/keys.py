"""The keys of the ledger's MACs. They are never dropped: old entries stay verifiable."""

import hashlib
from collections.abc import Sequence


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


def _id(key: bytes) -> str:
    return hashlib.sha256(b"talktime/ledger-key-id\x00" + key).hexdigest()[:8]
