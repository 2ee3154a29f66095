"""Who may do what: scopes, callers, and what each operation asks for. A pure rule, declared once for each operation.

``admin`` includes every other scope, since whoever makes keys can make one with any scope. No other scope includes
another: a key that grants credits reads nothing.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from app.core.units import Instant


class Scope(StrEnum):
    """What a key may do."""

    READ = "read"
    SESSIONS_WRITE = "sessions:write"
    CREDITS_WRITE = "credits:write"
    PRICING_WRITE = "pricing:write"
    ADMIN = "admin"


ALL_SCOPES: Final = frozenset(Scope)


class Role(StrEnum):
    """What an admin may do on the pages."""

    READ_ONLY = "read-only"
    FULL = "full"

    @property
    def scopes(self) -> frozenset[Scope]:
        """The same in scopes, by which actions are declared."""
        return ALL_SCOPES if self is Role.FULL else frozenset({Scope.READ})


class Own(StrEnum):
    """How it is told whose things an operation is about, for callers that may see their own only."""

    USER = "the user in the address"
    SESSION = "the user of the session in the address"
    ASKED = "the user in the query or the body, which may be left out"


@dataclass(frozen=True, slots=True)
class Access:
    """What an operation asks of its caller.

    ``own``: users may call it with a token of theirs, about their own things. ``actions``: as which of them the audit
    log records a change by it; empty for one that changes nothing.
    """

    scope: Scope
    own: Own | None = None
    actions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, as the audit log keeps it: by which request and from where, if by one."""

    name: str
    request_id: str | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. ``user_id``: the bearer of a user token, who has no scopes and may reach that user's things only.

    ``expires_at``: from when on the credentials are no longer taken; null: they never expire by themselves.
    """

    name: str
    scopes: frozenset[Scope] = frozenset()
    user_id: str | None = None
    expires_at: Instant | None = None

    def has(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def may_call(self, access: Access) -> bool:
        """Whether the caller may call it at all; a user token is bound to its user's things besides."""
        return self.has(access.scope) if self.user_id is None else access.own is not None
