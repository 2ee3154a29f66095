"""What the provider answered to a pull, as it came: for whoever wants to see later what was said, or why it was no use.

Kept are the bodies and their content type; no other header, neither way. Providers echo what they were sent, so the key
and the tokens of webhooks are taken out of a body before anything is made of it.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import quote

import httpx

from app.core.lossless_json import with_texts
from app.core.units import Instant
from app.gabber.outcomes import PullFailed, RawBody
from app.gabber.pages import Page, read_page
from app.gabber.wire import inflated, plain

MAX_KEPT_OF_FAILED: Final = 256 * 1024
"""Bytes of one body of a pull that failed. What was used in a timeline is kept whole: the adapter bounds that."""

MAX_PAGES_OF_FAILED: Final = 4
"""Pages of one pull that failed: the first one, and the last ones."""

MAX_TYPE_CHARS: Final = 100
MIN_PART_OF_KEY: Final = 4
"""So many characters of the key are removed from the end of a body that was cut off."""

REMOVED: Final = b"[removed]"

TOKEN: Final = (80, 400)
"""As long are tokens of webhooks and of connections, in characters; what is written in them is taken for one."""

SHORTEST_WEBHOOK: Final = len("webhooks/gabber/x")

MAX_ESCAPES: Final = 4
"""A secret is looked for behind so many layers of escapes."""

_WEBHOOK: Final = re.compile(rb"(webhooks(?:\\?/|%2[Ff])gabber(?:\\?/|%2[Ff]))[A-Za-z0-9_-]+")
_NUMBER: Final = rb"-?[0-9]+[eE]?(?:-?[0-9]+)?(?![A-Za-z0-9_-])"
_TOKEN: Final = re.compile(
    rb"(?<![A-Za-z0-9_-])(?!%b)[A-Za-z0-9_-]{%d,%d}(?![A-Za-z0-9_-])" % (_NUMBER, *TOKEN),
)
_ESCAPE: Final = re.compile(rb"\\u00([0-7][0-9A-Fa-f])|%([0-7][0-9A-Fa-f])|\\([/\\\"])|\x00")


class Recording:
    """Takes down the answers to one pull."""

    def __init__(self, api_key: str) -> None:
        self._key = api_key
        escaped = json.dumps(api_key)[1:-1]
        forms = {api_key, escaped, escaped.replace("/", "\\/"), quote(api_key, safe="")}
        self._shortest = min(len(api_key), TOKEN[0], SHORTEST_WEBHOOK)
        self._secret = re.compile(b"|".join(re.escape(form.encode()) for form in sorted(forms, key=len, reverse=True)))
        self.bodies: list[RawBody] = []
        self.decided: PullFailed | None = None
        """What an answer's status has made of the pull, while its body is still read."""

    def begin_anew(self) -> None:
        """All pages are asked for again: what was said before is no part of the answer."""
        self.bodies = []

    def add(self, response: httpx.Response, wire: bytes, body: bytes | None, received_at: Instant) -> None:
        """Take down an answer: its whole ``body``, or null and what came of it on the ``wire``."""
        whole = body is not None
        read = body if body is not None else inflated(wire, response)
        content, redacted = self._scrubbed(read)
        if not whole:
            content, part = self._without_part_of_key(content[:MAX_KEPT_OF_FAILED])
            redacted = redacted or part
        self.bodies.append(
            RawBody(
                page=len(self.bodies) + 1,
                status=response.status_code,
                content_type=self._type_of(response),
                received_at=received_at,
                size=len(read),
                digest=hashlib.sha256(content).digest(),
                packed=zlib.compress(content),
                truncated=not whole,
                redacted=redacted,
            )
        )

    def read(self, body: bytes) -> Page | PullFailed | int:
        """The page in a 2xx answer's body, as :func:`~app.gabber.pages.read_page` reads it, without secrets.

        They are taken out of its texts once these are decoded, so that one behind escapes costs no more than the text
        that hides it. What a webhook's token looks like is taken out of its values too, which are kept with the
        evidence; not out of ``next_page``, where the provider's own tokens stand.
        """
        page = read_page(body)
        if not isinstance(page, Page):
            return page
        values = [with_texts(value, self._without_secrets_and_tokens) for value in page.values]
        return replace(page, values=values, next_page=with_texts(page.next_page, self._without_secrets))

    def _without_secrets(self, text: str, *, tokens: bool = False) -> str:
        """A decoded text without our key and webhooks; nothing of it if escapes hide one."""
        if len(text) < self._shortest:
            return text
        content, taken_out, hidden = self._without(text.encode("utf-8", "surrogatepass"), tokens=tokens)
        if hidden:
            return REMOVED.decode()
        return content.decode("utf-8", "surrogatepass") if taken_out else text

    def _without_secrets_and_tokens(self, text: str) -> str:
        return self._without_secrets(text, tokens=True)

    def _scrubbed(self, content: bytes) -> tuple[bytes, bool]:
        """The content to keep, without whatever looks like a token as well, and whether anything was taken out."""
        content, taken_out, hidden = self._without(content, tokens=True)
        return (REMOVED, True) if hidden else (content, bool(taken_out))

    def _without(self, content: bytes, *, tokens: bool) -> tuple[bytes, int, bool]:
        """The content, how many secrets of ours were taken out, and whether escapes hide another one."""
        looks = (self._secret, _WEBHOOK, _TOKEN) if tokens else (self._secret, _WEBHOOK)
        content, taken_out = self._secret.subn(REMOVED, content)
        content, webhooks = _WEBHOOK.subn(rb"\1" + REMOVED, content)
        taken_out += webhooks
        if tokens:
            content, bare = _TOKEN.subn(REMOVED, content)
            taken_out += bare
        plainer = content
        for _ in range(MAX_ESCAPES):
            plainer, escapes = _ESCAPE.subn(_unescaped, plainer)
            if not escapes:
                break
            if any(secret.search(plainer) for secret in looks):
                return content, taken_out, True
        return content, taken_out, False

    def _type_of(self, response: httpx.Response) -> str | None:
        told = response.headers.get("content-type")
        return None if told is None else plain(self._without_secrets_and_tokens(told), limit=MAX_TYPE_CHARS)

    def _without_part_of_key(self, content: bytes) -> tuple[bytes, bool]:
        """Less what the key begins with, if it was cut off in the middle of it; and whether it was."""
        key = self._key.encode()
        for length in range(min(len(key), len(content)), MIN_PART_OF_KEY - 1, -1):
            if content.endswith(key[:length]):
                return content[:-length] + REMOVED, True
        return content, False


def _unescaped(found: re.Match[bytes]) -> bytes:
    by_number, by_percent, by_slash = found.groups()
    if by_slash is not None:
        return bytes(by_slash)
    number = by_number or by_percent
    return b"" if number is None else bytes((int(number, 16),))


def of_a_failure(bodies: Sequence[RawBody]) -> tuple[RawBody, ...]:
    """What is kept of the answers to a pull that failed."""
    last = bodies[1:][-(MAX_PAGES_OF_FAILED - 1) :]
    return tuple(body.cut(MAX_KEPT_OF_FAILED) for body in (*bodies[:1], *last))
