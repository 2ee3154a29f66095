"""What is known when a storm is over: what really happened, what our side stored, what customers were told.

Instants are µs on the clock that all processes share, durations µs, amounts micro-credits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.simulation.charging import Pull


@dataclass(frozen=True)
class Beat:
    """One POST of a heartbeat. ``done_at``: answered or failed; if it arrived, it had by then."""

    due_at: int
    sent_at: int | None
    done_at: int | None
    status: int | None
    fault: str | None = None

    @property
    def acknowledged(self) -> bool:
        return self.status == 204

    @property
    def may_be_stored(self) -> bool:
        """Refused was it only if there was an answer that says so."""
        return self.sent_at is not None and (self.status == 204 or self.status is None or self.status >= 500)


@dataclass(frozen=True)
class Truth:
    """A session as the simulated provider played it. ``said``: (type, start, end) of speech, true instants."""

    id: str
    persona: str
    connected_at: int
    left_at: int
    said: tuple[tuple[str, int, int], ...]
    beats: tuple[Beat, ...]
    spoilt: bool
    """Whether some answer about it told of another timeline than this one."""

    @property
    def last_sign(self) -> int:
        """The agent's death, or the latest instant by which a heartbeat that it had sent before had arrived."""
        arrived = [beat.done_at for beat in self.beats if beat.may_be_stored and beat.done_at is not None]
        return max([self.left_at, *arrived])


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A session as our side has it. ``why``: of its last step. ``charge``: the document that explains it."""

    id: str
    persona: str
    provider_id: str | None
    state: str
    why: str
    requested_at: int
    time_limit: int
    authorized: int
    charged: int | None
    leakage: int
    charge_from: str | None
    card: str
    hold_active: bool
    heartbeats: tuple[int, ...]
    charge_entries: int
    entries_sum: int
    charge: Mapping[str, Any] | None = None
    pulls: Sequence[Pull] = ()


@dataclass(frozen=True)
class Call:
    """A request that the provider got. ``ours``: by our service, not by a customer's own backend."""

    at: int
    operation: str
    session: str | None
    fault: str | None
    ours: bool


@dataclass(frozen=True)
class Told:
    """What came of a customer's wish: ``outcome`` is ``started``, ``refused``, ``open`` or ``gave up``."""

    persona: str
    outcome: str
    session: str | None


@dataclass(frozen=True)
class Facts:
    truths: Sequence[Truth]
    stored: Sequence[Stored]
    calls: Sequence[Call]
    told: Sequence[Told]
    granted: int
    """Micro-credits of all grants that were acknowledged."""
    grant_entries: int
    """Micro-credits of all grants in the ledger."""
    rate: int
    speed: int
