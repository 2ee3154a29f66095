"""Server-sent events as bytes (WHATWG HTML, 9.2)."""

from enum import StrEnum
from typing import Final

from app.http.answers import encode

BEAT: Final = b":\n\n"
"""A comment: it keeps what lies between from closing a silent connection, and means nothing."""


class End(StrEnum):
    """Why a stream ends."""

    TOKEN_EXPIRED = "token-expired"  # noqa: S105 - a reason
    KEY_REVOKED = "key-revoked"
    USER_SUSPENDED = "user-suspended"
    TIME_IS_UP = "time-is-up"
    """It was open for as long as any may be."""
    STOPPING = "stopping"
    """The process stops; another one goes on."""
    BROKEN = "broken"
    """The user's state cannot be worked out; it is in the log."""


RECONNECTS: Final = frozenset({End.TIME_IS_UP, End.STOPPING, End.BROKEN})
"""After these the same credentials open another stream."""


def state_frame(state_id: str, content: bytes) -> bytes:
    """``content``: JSON on one line."""
    return b"event: state\nid: %b\ndata: %b\n\n" % (state_id.encode(), content)


def end_frame(why: End) -> bytes:
    """The last event of a stream. It has no id, so that what was seen last still stands."""
    return b"event: end\ndata: %b\n\n" % encode({"reason": why.value, "reconnect": why in RECONNECTS})


def first_frame(retry_ms: int) -> bytes:
    """What a stream begins with: after how long to come again if it is cut."""
    return b"retry: %d\n\n" % retry_ms
