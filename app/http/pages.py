"""Lists by keyset pages: a cursor names the last row seen, so new rows neither repeat nor hide old ones."""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Query

from app.core.units import Instant, datetime_of
from app.errors import invalid

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 500
_MAX_CURSOR: Final = 600
_MAX_INTEGER: Final = (1 << 63) - 1

Limit = Annotated[str | None, Query(description=f"Rows of a page, 1 to {MAX_LIMIT}; {DEFAULT_LIMIT} if absent.")]
Cursor = Annotated[str | None, Query(description="The next_cursor of the page before.")]


def page_limit(text: str | None) -> int:
    """The rows of a page; 422 if it is no whole number from 1 to :data:`MAX_LIMIT`."""
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LIMIT)) and 1 <= int(text) <= MAX_LIMIT):
        raise invalid("/limit", f"must be a whole number from 1 to {MAX_LIMIT}")
    return int(text)


def make_cursor(*position: int | str) -> str:
    return base64.urlsafe_b64encode(json.dumps(position, separators=(",", ":")).encode()).decode().rstrip("=")


def read_cursor(text: str | None, *kinds: type) -> list[Any] | None:
    """The position in a cursor, whose parts must be of ``kinds``; 422 if it is none of ours."""
    if text is None:
        return None
    try:
        position = json.loads(
            base64.b64decode(text[:_MAX_CURSOR] + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        )
    except (ValueError, RecursionError, binascii.Error):
        raise invalid("/cursor", "is not a cursor of this list") from None
    right = (
        isinstance(position, list)
        and len(position) == len(kinds)
        and all(type(part) is kind for part, kind in zip(position, kinds, strict=True))
        and all(abs(part) <= _MAX_INTEGER for part in position if isinstance(part, int))
    )
    if not right:
        raise invalid("/cursor", "is not a cursor of this list")
    return list(position)


def cursor_instant(number: int) -> Instant:
    """The instant in a cursor's position; 422 if there is none such."""
    try:
        datetime_of(Instant(number))
    except OverflowError:
        raise invalid("/cursor", "is not a cursor of this list") from None
    return Instant(number)


def cursor_uuid(text: str) -> UUID:
    """The row's id in a cursor's position; 422 if it is none."""
    try:
        return UUID(text)
    except ValueError:
        raise invalid("/cursor", "is not a cursor of this list") from None


def page(rows: Sequence[Any], next_cursor: str | None) -> dict[str, Any]:
    return {"data": rows, "next_cursor": next_cursor}
