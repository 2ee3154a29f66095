"""Who calls: the bootstrap admin key, as long as it is set."""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from app.errors import UNAUTHORIZED, Problem

_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="talktime"'}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request comes from, as it is written down."""

    name: str


class Authenticator:
    """Checks the ``Authorization`` header of every call that is not open."""

    def __init__(self, bootstrap_admin_key: str | None) -> None:
        self._admin_hash = None if bootstrap_admin_key is None else _hash(bootstrap_admin_key)

    async def __call__(self, request: Request) -> Caller:
        """The caller; 401 without a valid key."""
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not credentials:
            raise Problem(UNAUTHORIZED, "send the header Authorization: Bearer <key>", headers=_CHALLENGE)
        if self._admin_hash is None or not hmac.compare_digest(_hash(credentials.strip()), self._admin_hash):
            raise Problem(UNAUTHORIZED, "this key is not valid", headers=_CHALLENGE)
        caller = Caller("bootstrap")
        request.state.caller = caller
        return caller


def actor_of(request: Request) -> str:
    """The name of the caller of an authenticated request, for the audit log."""
    caller: Caller = request.state.caller
    return caller.name


def _hash(key: str) -> bytes:
    """Compared by hash: in constant time whatever the lengths, and on bytes whatever the characters."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
