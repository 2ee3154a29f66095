"""What a call to the provider comes to. Expected outcomes are values, to be matched completely, never exceptions."""

import hashlib
import zlib
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Self

from app.core.units import Instant, Micros


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a generation of the provider, or one deployment of it, can do beyond starting and telling its timeline.

    The first generation's published schema has some of these calls, but its guide does not promise them: all off.
    """

    can_end: bool = False
    can_change_limit: bool = False
    reports_end: bool = False
    signs_webhooks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """A session to start: ``time_limit_s`` ≥ 1 in whole seconds; ``webhook`` holds the session's token, a secret."""

    persona: str
    scenario: str
    time_limit_s: int
    webhook: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The session exists. The connection's URL and token go to the front end and nowhere else."""

    provider_session_id: str
    connection_url: str = field(repr=False)
    connection_token: str = field(repr=False)
    persona: str
    scenario: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Certain: no session was started. Either a 4xx answer, or not a byte of the request left (``status`` is None)."""

    status: int | None
    code: str
    """The provider's ``type`` (``usage_limit_exceeded``, ...), else ``http_<status>``, ``unreachable`` or ``busy``."""
    message: str
    retry_after: Micros | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unconfirmed:
    """Unknown: a session may or may not be running. Only a heartbeat, or time, can tell."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RawBody:
    """The body of one answer.

    ``page`` ≥ 1 within the pull; ``size`` in bytes as far as it was read, decompressed; ``digest``: the SHA-256 of
    :attr:`content`. ``truncated``: more came, or was to come, than is kept; ``redacted``: a secret was taken out of it.
    """

    page: int
    status: int
    content_type: str | None
    received_at: Instant
    size: int
    digest: bytes
    packed: bytes = field(repr=False)
    truncated: bool = False
    redacted: bool = False

    @property
    def content(self) -> bytes:
        return zlib.decompress(self.packed)

    def cut(self, most: int) -> Self:
        """At most the first ``most`` bytes of it."""
        content = self.content
        if len(content) <= most:
            return self
        content = content[:most]
        return replace(self, digest=hashlib.sha256(content).digest(), packed=zlib.compress(content), truncated=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledTimeline:
    """All pages of one consistent timeline.

    ``requested_at`` is stamped before the first page is asked for, ``received_at`` after the last page's last byte;
    when the pages had to be pulled again, both are those of the pull that counted. ``values`` are as
    :func:`app.core.lossless_json.loads` gives them: nothing in them has been judged. ``bodies``: the pages as they
    came.
    """

    requested_at: Instant
    received_at: Instant
    values: tuple[object, ...]
    bodies: tuple[RawBody, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """The provider says that it has ended the session. Whether the agent really left, only evidence can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotEnded:
    """Certain: the request has ended nothing. Either a 4xx answer, or not a byte of it left (``status`` is None)."""

    status: int | None
    code: str
    """As that of :class:`Refused`."""
    message: str
    retry_after: Micros | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndUnconfirmed:
    """Unknown: the session may or may not have been ended. To ask again does no harm."""

    why: str


class PullFailure(Enum):
    """Why a timeline could not be had. ``transient``: the same pull may well succeed soon, nothing needs mending."""

    NOT_FOUND = ("not_found", False)
    UNAUTHORIZED = ("unauthorized", False)
    REFUSED = ("refused", False)
    """Any other 4xx."""
    RATE_LIMITED = ("rate_limited", True)
    SERVER_ERROR = ("server_error", True)
    TIMEOUT = ("timeout", True)
    CONNECTION = ("connection", True)
    INCONSISTENT = ("inconsistent", True)
    """The pages never made one timeline: the total kept changing, the count did not match it, or the pages loop."""
    MALFORMED = ("malformed", False)
    """Not JSON, nested too deeply, of the wrong shape or in a wrong encoding."""
    TOO_LARGE = ("too_large", False)
    FOREIGN_PAGE = ("foreign_page", False)
    """``next_page`` leads to another origin, where the key must not go."""
    REDIRECTED = ("redirected", False)

    def __init__(self, code: str, transient: bool) -> None:
        self.code = code
        self.transient = transient


@dataclass(frozen=True, slots=True, kw_only=True)
class PullFailed:
    """No timeline this time. ``detail`` is our own words, never the provider's.

    ``bodies``: what was answered, as far as an answer came and as much as :func:`app.gabber.bodies.of_a_failure` keeps.
    """

    kind: PullFailure
    detail: str
    retry_after: Micros | None = None
    pause: Micros | None = None
    """So long the provider wants no request of anybody's; the permits have been told."""
    bodies: tuple[RawBody, ...] = ()
