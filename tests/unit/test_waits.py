"""How far ahead a session's due time may lie."""

import pytest

from app.core.lifecycle import State
from app.core.units import US_PER_S, Instant, Micros
from app.core.waits import CLOCK_MARGIN, longest_waits, too_far


def us(seconds: float) -> Micros:
    return Micros(round(seconds * US_PER_S))


def waits(**changed: Micros) -> dict[State, Micros]:
    given = {
        "provider_timeout": us(10),
        "starting_margin": us(30),
        "unconfirmed_ttl": us(180),
        "retry": us(1),
        "settle_delay": us(120),
        "review_after": us(86_400),
        "review_look": us(100),
        "late_look": us(1_000),
    }
    return dict(longest_waits(**(given | changed)))


def test_each_state_has_the_longest_wait_that_it_can_have() -> None:
    assert waits() == {
        State.STARTING: us(40),
        State.UNCONFIRMED: us(180),
        State.LIVE: us(1.1),
        State.OVER: us(120),
        State.REVIEW: us(86_400),
        State.SETTLED: us(1_100),
    }


def test_wherever_there_are_pulls_one_may_have_to_be_tried_again() -> None:
    assert waits(review_look=us(86_400))[State.REVIEW] == us(95_040)
    longest = waits(retry=us(3_600), review_after=us(60))
    pulled = {State.LIVE, State.OVER, State.REVIEW, State.SETTLED}
    assert {state for state, wait in longest.items() if wait == us(3_960)} == pulled
    assert longest.keys() == pulled | {State.STARTING, State.UNCONFIRMED}


@pytest.mark.parametrize(("beyond", "expected"), [(-1, False), (0, False), (1, True)])
def test_what_lies_too_far_ahead(beyond: int, expected: bool) -> None:
    now = Instant(10**15)
    assert too_far(Instant(now + us(60) + CLOCK_MARGIN + beyond), us(60), now) is expected
