"""The token in a session's webhook URL: it says which session, and proves that we said so. Derived, never stored.

Form: base64url of (key id, account, session, HMAC-SHA-256 over those under the key of that id), 4 + 16 + 16 + 32 bytes.
"""

import base64
import binascii
import hashlib
import hmac
from typing import Final
from uuid import UUID

from app.core.ids import AccountThing
from app.keys import KEY_ID_SIZE, KeyRing

_UUID = 16
_MAC = 32
_SIZE: Final = KEY_ID_SIZE + 2 * _UUID + _MAC
_LENGTH: Final = -(-_SIZE * 4 // 3)


class WebhookTokens:
    """Mints and reads tokens."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    def mint(self, session: AccountThing) -> str:
        key = self._keys.current
        claims = key.id + session.account_id.bytes + session.id.bytes
        return _text(claims + _mac(key.key, claims))

    def read(self, token: str) -> AccountThing | None:
        """The session of a genuine token; null for any other text, without a look-up and in constant time."""
        if len(token) != _LENGTH:
            return None
        try:
            raw = base64.b64decode(token.encode("ascii") + b"=" * (-_LENGTH % 4), altchars=b"-_", validate=True)
        except (UnicodeEncodeError, binascii.Error):
            return None
        if _text(raw) != token:
            return None  # the last character has bits to spare: of the texts that read the same, one is the token
        claims, mac = raw[:-_MAC], raw[-_MAC:]
        key = self._keys.find(claims[:KEY_ID_SIZE])
        if key is None or not hmac.compare_digest(_mac(key.key, claims), mac):
            return None
        account = claims[KEY_ID_SIZE : KEY_ID_SIZE + _UUID]
        return AccountThing(UUID(bytes=account), UUID(bytes=claims[KEY_ID_SIZE + _UUID :]))


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _mac(key: bytes, claims: bytes) -> bytes:
    return hmac.new(key, claims, hashlib.sha256).digest()
