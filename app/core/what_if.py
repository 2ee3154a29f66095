"""What-if: settled sessions priced by another card, added up one by one in bounded memory (docs/what-if.md).

A :class:`Tally` takes sessions in the order of their users, all of one user's together. It can be written down at any
point as plain values and taken up again: nothing of the result depends on where it was interrupted.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final

from app.core.units import MicroCredits

MAX_USERS: Final = 20
"""Users that are named in each direction, those whose charges change most."""


class Direction(StrEnum):
    """How a session's charge changes."""

    LOWER = "lower"
    UNCHANGED = "unchanged"
    HIGHER = "higher"
    FREE_BEFORE = "free_before"
    """It was 0, and is not any more: no percentage says by how much."""


class NotRated(StrEnum):
    """Why a session could not be priced."""

    NO_CHARGE = "no_charge"
    """It is settled, and no charge of it is stored."""
    UNKNOWN_ENGINE = "unknown_engine"
    """This version lacks the engine that made its charge."""
    UNREADABLE = "unreadable"
    """What its charge rests on cannot be read."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Relative changes of a session's charge, in percent of what it was.

    Higher: over ``from_percent`` up to ``to_percent``, without end if that is null. Lower: from ``from_percent`` to
    less than ``to_percent``, both below or at 0. Null for what has no percentage.
    """

    direction: Direction
    from_percent: int | None
    to_percent: int | None


_EDGES: Final = (0, 5, 10, 25, 50, 100)
BUCKETS: Final = (
    *(Bucket(Direction.LOWER, -far, -near) for near, far in reversed(tuple(pairwise(_EDGES)))),
    Bucket(Direction.UNCHANGED, 0, 0),
    *(Bucket(Direction.HIGHER, near, far) for near, far in zip(_EDGES, (*_EDGES[1:], None), strict=True)),
    Bucket(Direction.FREE_BEFORE, None, None),
)
"""Every session is in just one of them; what stays free is unchanged."""

_UNCHANGED: Final = BUCKETS.index(Bucket(Direction.UNCHANGED, 0, 0))


def bucket_of(before: MicroCredits, after: MicroCredits) -> int:
    """The index in :data:`BUCKETS` of a charge that was ``before`` and would be ``after``, both ≥ 0. Exact."""
    if before == after:
        return _UNCHANGED
    if before == 0:
        return len(BUCKETS) - 1
    percent_of_before = abs(after - before) * 100
    steps = next((n for n, edge in enumerate(_EDGES) if percent_of_before <= edge * before), len(_EDGES))
    return _UNCHANGED + steps if after > before else _UNCHANGED - steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """One session by both cards, in micro-credits and without a ceiling.

    ``before``: by the card of its last charge; ``charged``: what of that its user is charged now; ``cost``: what the
    provider takes, null if that is not asked for; ``written_off``: an operator decided that nobody pays it.
    """

    user_id: str
    session_id: str
    before: MicroCredits
    after: MicroCredits
    charged: MicroCredits
    cost: MicroCredits | None
    written_off: bool


@dataclass(frozen=True, slots=True)
class UserChange:
    """All of a user's sessions together."""

    user_id: str
    sessions: int
    before: int
    after: int

    @property
    def difference(self) -> int:
        return self.after - self.before


@dataclass(frozen=True, slots=True)
class SessionChange:
    user_id: str
    session_id: str
    before: int
    after: int

    @property
    def difference(self) -> int:
        return self.after - self.before


@dataclass(slots=True)
class Sum:
    """Sessions and what they come to by both cards."""

    sessions: int = 0
    before: int = 0
    after: int = 0

    def add(self, priced: Priced) -> None:
        self.sessions += 1
        self.before += priced.before
        self.after += priced.after


@dataclass(slots=True)
class Tally:
    """What all sessions so far come to.

    ``at_a_loss_before`` and ``at_a_loss_after`` count sessions that cost more than they bring. ``cost`` is that of
    those that were written off as well: the provider takes it all the same.
    """

    compared: Sum = field(default_factory=Sum)
    written_off: Sum = field(default_factory=Sum)
    charged: int = 0
    cost: int = 0
    at_a_loss_before: int = 0
    at_a_loss_after: int = 0
    not_rated: Counter[str] = field(default_factory=Counter)
    sessions_in: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))
    difference_in: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))
    users: Counter[str] = field(default_factory=Counter)
    """How many users' charges change in which :class:`Direction`, those of the last one left out."""
    paying_more: list[UserChange] = field(default_factory=list)
    paying_less: list[UserChange] = field(default_factory=list)
    largest_rise: SessionChange | None = None
    largest_fall: SessionChange | None = None
    last_user: UserChange | None = None
    """The user whose sessions are being added up."""

    @property
    def sessions(self) -> int:
        """How many sessions were looked at."""
        return self.compared.sessions + self.written_off.sessions + self.not_rated.total()

    def leave_out(self, why: NotRated) -> None:
        self.not_rated[why.value] += 1

    def add(self, priced: Priced) -> None:
        """Add a session, behind all others of its user and before the next user's."""
        if priced.cost is not None:
            self.cost += priced.cost
        if priced.written_off:
            self.written_off.add(priced)
            return
        self.compared.add(priced)
        self.charged += priced.charged
        if priced.cost is not None:
            self.at_a_loss_before += priced.before < priced.cost
            self.at_a_loss_after += priced.after < priced.cost
        place = bucket_of(priced.before, priced.after)
        self.sessions_in[place] += 1
        self.difference_in[place] += priced.after - priced.before
        self._compare(SessionChange(priced.user_id, priced.session_id, priced.before, priced.after))
        if self.last_user is not None and self.last_user.user_id != priced.user_id:
            self.close_user()
        user = self.last_user or UserChange(priced.user_id, 0, 0, 0)
        self.last_user = UserChange(
            user.user_id, user.sessions + 1, user.before + priced.before, user.after + priced.after
        )

    def close_user(self) -> None:
        """No more sessions of the last user follow; to be called once all sessions are in."""
        user, self.last_user = self.last_user, None
        if user is None:
            return
        self.users[_direction(user.difference).value] += 1
        named = self.paying_more if user.difference > 0 else self.paying_less
        if user.difference:
            named.append(user)
            named.sort(key=lambda one: (-abs(one.difference), one.user_id))
            del named[MAX_USERS:]

    def _compare(self, change: SessionChange) -> None:
        rise, fall = self.largest_rise, self.largest_fall
        if change.difference > (0 if rise is None else rise.difference):
            self.largest_rise = change
        if change.difference < (0 if fall is None else fall.difference):
            self.largest_fall = change

    # Written down

    def dump(self) -> dict[str, Any]:
        """All of it as texts, whole numbers, lists and objects of them."""
        return {
            **{name: getattr(self, name) for name in _WHOLE},
            **{name: list(astuple(getattr(self, name))) for name in _SUMS},
            **{name: dict(getattr(self, name)) for name in _COUNTERS},
            **{name: list(getattr(self, name)) for name in _ROWS},
            **{name: [list(astuple(one)) for one in getattr(self, name)] for name in _LISTS},
            **{name: _told(getattr(self, name)) for name in (*_SESSIONS, "last_user")},
        }

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> "Tally":
        """What :meth:`dump` wrote down; whole numbers may have become their digits on the way."""
        read: dict[str, Any] = {
            **{name: int(dumped[name]) for name in _WHOLE},
            **{name: Sum(*map(int, dumped[name])) for name in _SUMS},
            **{name: Counter({key: int(value) for key, value in dumped[name].items()}) for name in _COUNTERS},
            **{name: [int(value) for value in dumped[name]] for name in _ROWS},
            **{name: [_user(one) for one in dumped[name]] for name in _LISTS},
            **{name: None if dumped[name] is None else _session(dumped[name]) for name in _SESSIONS},
            "last_user": None if dumped["last_user"] is None else _user(dumped["last_user"]),
        }
        return cls(**read)


_WHOLE: Final = ("charged", "cost", "at_a_loss_before", "at_a_loss_after")
_SUMS: Final = ("compared", "written_off")
_COUNTERS: Final = ("not_rated", "users")
_ROWS: Final = ("sessions_in", "difference_in")
_LISTS: Final = ("paying_more", "paying_less")
_SESSIONS: Final = ("largest_rise", "largest_fall")


def _told(change: UserChange | SessionChange | None) -> list[Any] | None:
    return None if change is None else list(astuple(change))


def _user(row: list[Any]) -> UserChange:
    return UserChange(row[0], int(row[1]), int(row[2]), int(row[3]))


def _session(row: list[Any]) -> SessionChange:
    return SessionChange(row[0], row[1], int(row[2]), int(row[3]))


def _direction(difference: int) -> Direction:
    if difference == 0:
        return Direction.UNCHANGED
    return Direction.HIGHER if difference > 0 else Direction.LOWER
