"""One exchange with the provider, bounded: body size before and after decompression, foreign text, ``Retry-After``."""

import re
import unicodedata
import zlib
from contextlib import suppress
from typing import Final
from urllib.parse import quote

import httpx

from app.core.retry_after import read_retry_after
from app.core.units import US_PER_S, Instant, Micros

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""One response body, compressed or not. A timeline of an hour is far below it."""

MAX_TEXT_CHARS: Final = 300
"""What is kept of a text that the provider wrote."""

MAX_CODE_CHARS: Final = 64
MAX_RETRY_AFTER: Final = Micros(3600 * US_PER_S)
"""A longer ``Retry-After`` counts as this one: a slip of the provider's must not delay a settlement by days."""

_CODE: Final = re.compile(r"[a-z0-9_.-]+", re.ASCII)


class TooLarge(Exception):
    """A body beyond :data:`MAX_BODY_BYTES`, as sent or as decompressed."""


class BadEncoding(Exception):
    """A ``Content-Encoding`` that was not asked for, or a body that does not hold to it."""


async def read_body(response: httpx.Response, wire: bytearray | None = None, *, most: int = MAX_BODY_BYTES) -> bytes:
    """The whole body, decompressed here because the library's own decoder inflates each chunk without a bound.

    ``wire`` receives what comes, as it comes, whatever becomes of it. Raises :class:`TooLarge` over ``most`` bytes,
    :class:`BadEncoding` and the library's transport errors.
    """
    encoding = _encoding(response)
    if encoding not in ("identity", "", "gzip"):
        raise BadEncoding
    raw = bytearray() if wire is None else wire
    async for chunk in response.aiter_raw():
        raw += chunk
        if len(raw) > most:
            raise TooLarge
    return _gunzip(bytes(raw)) if encoding == "gzip" else bytes(raw)


def inflated(wire: bytes, response: httpx.Response) -> bytes:
    """What can be read of a body that broke off, or is wrongly encoded; little more than the bound of a whole one."""
    if _encoding(response) != "gzip":
        return bytes(wire)
    inflater = zlib.decompressobj(wbits=31)
    body = bytearray()
    with suppress(zlib.error):
        for start in range(0, len(wire), _STEP):
            body += inflater.decompress(wire[start : start + _STEP], MAX_BODY_BYTES + 1 - len(body))
            if len(body) > MAX_BODY_BYTES:
                break
    return bytes(body)


_STEP: Final = 512
"""What breaks takes no more with it than so many bytes."""


def _encoding(response: httpx.Response) -> str:
    return str(response.headers.get("content-encoding", "identity")).strip().lower()


def _gunzip(raw: bytes) -> bytes:
    inflater = zlib.decompressobj(wbits=31)
    try:
        body = inflater.decompress(raw, MAX_BODY_BYTES + 1)
    except zlib.error:
        raise BadEncoding from None
    if len(body) > MAX_BODY_BYTES:
        raise TooLarge
    if not inflater.eof or inflater.unused_data:
        raise BadEncoding
    return body


def plain(text: str, *, secrets: tuple[str, ...] = (), limit: int = MAX_TEXT_CHARS) -> str:
    """A foreign text fit to be stored and shown: no secrets of ours in it, no invisible characters, bounded length.

    Providers echo what they were sent: a message may quote the key or a webhook, that of this session or of another.
    """
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[removed]").replace(quote(secret, safe=""), "[removed]")
    if secrets:
        text = _LONG_TOKEN.sub("[removed]", text)
    # C*: controls, formats (which turn text around), lone surrogates (which no database takes); Zl, Zp: line breaks.
    visible = "".join(" " if unicodedata.category(c) in _INVISIBLE else c for c in text[: 4 * limit])
    return " ".join(visible.split())[:limit]


_LONG_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{64,}")
"""No word of a language, but what a webhook's token looks like."""

_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def code_of(value: object, *, otherwise: str, secrets: tuple[str, ...]) -> str:
    """The provider's error ``type`` if it is a plain word, else ``otherwise``."""
    if isinstance(value, str) and len(value) <= MAX_CODE_CHARS and _CODE.fullmatch(value):
        return otherwise if any(secret and secret in value for secret in secrets) else value
    return otherwise


def retry_after(response: httpx.Response, now: Instant) -> Micros | None:
    """How long the provider asks us to wait, at most :data:`MAX_RETRY_AFTER`; null if it does not."""
    return read_retry_after(response.headers.get("retry-after", "").strip(), now, MAX_RETRY_AFTER)
