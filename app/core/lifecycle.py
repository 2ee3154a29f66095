"""The life of a session: which step may follow which. An illegal step is an error, never a shrug."""

from enum import StrEnum
from typing import Final


class State(StrEnum):
    STARTING = "starting"
    """The hold is made; the provider is being asked."""
    UNCONFIRMED = "unconfirmed"
    """Whether the provider started it is not known; the hold stays until a heartbeat or a time-out says."""
    LIVE = "live"
    OVER = "over"
    """No proof of life for long enough, or past its limit; its final timeline is still to come."""
    REVIEW = "review"
    """The evidence is contradictory or missing; an operator settles it or writes it off."""
    SETTLED = "settled"
    """It was charged. Evidence that contradicts the charge may bring it back into review; it is not charged twice."""
    FAILED = "failed"
    """It never started; its hold is released."""


FIRST: Final = frozenset({State.STARTING, State.UNCONFIRMED})
"""What a session may begin as: ``unconfirmed`` is one that the customer's own backend is to start at the provider."""

STEPS: Final[dict[State, frozenset[State]]] = {
    State.STARTING: frozenset({State.LIVE, State.UNCONFIRMED, State.FAILED}),
    State.UNCONFIRMED: frozenset({State.LIVE, State.FAILED}),
    State.LIVE: frozenset({State.OVER, State.REVIEW}),
    State.OVER: frozenset({State.LIVE, State.SETTLED, State.REVIEW}),
    State.REVIEW: frozenset({State.SETTLED}),
    State.SETTLED: frozenset({State.REVIEW}),
    State.FAILED: frozenset({State.REVIEW}),
}

RECONCILED: Final = frozenset({State.LIVE, State.OVER})
"""States in which the timeline is pulled until the session is settled."""


class IllegalStep(Exception):
    """A session was to take a step that its state does not allow."""


def step(current: State | None, following: State) -> State:
    """``following``, if it may follow ``current``; else :class:`IllegalStep`. Null: there was no session before."""
    if current is None:
        if following not in FIRST:
            raise IllegalStep(f"a session cannot begin as {following}")
        return following
    if following not in STEPS[current]:
        raise IllegalStep(f"a session that is {current} cannot become {following}")
    return following
