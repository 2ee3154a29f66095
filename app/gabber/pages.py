"""The pages of a timeline: what one page says, and where the next one is.

``next_page`` is a token in one published schema and a URL in another; both, and what lies between, are read here. No
rule of the provider says how a page is asked for: a token or number goes back as the query ``page``.
"""

import re
from dataclasses import dataclass
from typing import Final

import httpx

from app.core.lossless_json import InvalidJson, JsonNumber, loads
from app.gabber.outcomes import PullFailed, PullFailure

MAX_PAGES: Final = 500
MAX_VALUES: Final = 200_000
"""Values in one timeline: two turns of speech a second for a whole day."""

MAX_PAGE_TOKEN_CHARS: Final = 2048

_WHOLE_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_ABSOLUTE: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Page:
    """One page as read; ``next_page`` is still as the provider wrote it, ``None`` on the last page."""

    values: list[object]
    next_page: object
    total_count: int


def unwrap(body: object) -> tuple[int | None, object]:
    """The guide's envelope ``{"status", "body"}`` opened, with its own status; a bare body as it is, with ``None``."""
    if isinstance(body, dict) and "body" in body and "values" not in body and "session" not in body:
        status = body.get("status")
        return whole_number(status), body["body"]
    return None, body


def whole_number(value: object) -> int | None:
    """A JSON number that is written as a whole number of at most 18 digits; else ``None``."""
    return int(value) if isinstance(value, JsonNumber) and _WHOLE_NUMBER.fullmatch(value) else None


def read_page(body: bytes) -> Page | PullFailed | int:
    """Read one page of a 2xx answer; an ``int`` is the error status that the envelope itself reports."""
    try:
        status, content = unwrap(loads(body))
    except InvalidJson as error:
        return PullFailed(kind=PullFailure.MALFORMED, detail=f"the page is {error}")
    if status is not None and not 200 <= status < 300:
        return status
    if not isinstance(content, dict):
        return _malformed("the page is no object")
    values = content.get("values")
    if not isinstance(values, list):
        return _malformed("the page has no list of values")
    total = whole_number(content.get("total_count"))
    if total is None:
        # Without it nobody could tell a whole timeline from a part, and a part would be charged as the whole.
        return _malformed("the page has no whole total_count")
    if total > MAX_VALUES:
        return PullFailed(kind=PullFailure.TOO_LARGE, detail=f"the timeline has more than {MAX_VALUES} values")
    following = content.get("next_page")
    # An empty token is how some servers write "none"; were it a slip, the count would not match the total.
    return Page(values, None if following == "" else following, total)


def next_url(first: httpx.URL, following: object) -> httpx.URL | PullFailed:
    """The URL of the page that ``next_page`` names, on the origin of ``first``.

    A string is a URL if it has a scheme, or a query, or is a path to a timeline; anything else is a token. (A token
    may hold ``/`` or begin with one: base64 does.) A token that looks like a foreign host is harmless: it is only
    ever sent to our own origin.
    """
    number = whole_number(following)
    if number is not None:
        return first.copy_set_param("page", str(number))
    if not isinstance(following, str) or isinstance(following, JsonNumber):
        return _malformed("next_page is neither null, nor a text, nor a whole number")
    if len(following) > MAX_PAGE_TOKEN_CHARS:
        return PullFailed(kind=PullFailure.TOO_LARGE, detail="next_page is too long")
    if not following.isprintable():
        return _malformed("next_page has characters that cannot be shown")
    try:
        if _ABSOLUTE.match(following) or "?" in following or (following[0] == "/" and "/timeline" in following):
            return _same_origin(first, first.join(following))
        return first.copy_set_param("page", following)
    except (httpx.InvalidURL, ValueError):
        return _malformed("next_page is not a URL that could be followed")


def _same_origin(first: httpx.URL, target: httpx.URL) -> httpx.URL | PullFailed:
    # A user name in the URL would be sent as Basic credentials beside the key: no page of ours has one.
    if (target.scheme, target.host, _port(target)) != (first.scheme, first.host, _port(first)) or target.userinfo:
        return PullFailed(kind=PullFailure.FOREIGN_PAGE, detail="next_page leads to another origin")
    return target


def _port(url: httpx.URL) -> int | None:
    return url.port or {"http": 80, "https": 443}.get(url.scheme)


def _malformed(detail: str) -> PullFailed:
    return PullFailed(kind=PullFailure.MALFORMED, detail=detail)
