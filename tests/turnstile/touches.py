"""What a step of an actor touches, and which steps may change places.

The rules are those of READ COMMITTED: what is not committed is seen by nobody else but may be waited for; a read sees
what was committed before its statement began; a commit publishes and lets go.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple


class Row(NamedTuple):
    """Rows of a table: of one account or of any (null), one of them or any of them (null)."""

    table: str
    account: str | None = None
    key: str | None = None

    def meets(self, other: "Row") -> bool:
        """Whether both may name the same row."""
        return (
            self.table == other.table
            and (self.account is None or other.account is None or self.account == other.account)
            and (self.key is None or other.key is None or self.key == other.key)
        )


@dataclass(frozen=True)
class Touch:
    """``shares``: rows kept from being changed. ``locks``: rows changed or locked. ``publishes``: rows whose changes
    others see from here on. ``lets_go``: rows that nobody waits for any more. ``snapshot``: all that later statements
    of the transaction read is as it is here. ``anything``: not known, so all of it."""

    reads: frozenset[Row] = frozenset()
    shares: frozenset[Row] = frozenset()
    locks: frozenset[Row] = frozenset()
    publishes: frozenset[Row] = frozenset()
    lets_go: frozenset[Row] = frozenset()
    snapshot: bool = False
    anything: bool = False

    @property
    def nothing(self) -> bool:
        return self == NOTHING


NOTHING = Touch()
ANYTHING = Touch(anything=True)


def _meet(ones: frozenset[Row], others: frozenset[Row]) -> bool:
    return any(one.meets(other) for one in ones for other in others)


def _disturbs(one: Touch, other: Touch) -> bool:
    return (
        _meet(one.locks, other.locks | other.shares)
        or _meet(one.lets_go, other.locks | other.shares)
        or _meet(one.publishes, other.reads | other.publishes)
        or (other.snapshot and bool(one.publishes))
    )


@lru_cache(maxsize=1 << 16)
def dependent(one: Touch, other: Touch) -> bool:
    """Whether it may matter which of two steps of different actors comes first."""
    if one.nothing or other.nothing:
        return False
    return one.anything or other.anything or _disturbs(one, other) or _disturbs(other, one)
