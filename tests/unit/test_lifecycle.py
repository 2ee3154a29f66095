"""Every pair of states: the steps that a session may take, and that it may take no other."""

import itertools

import pytest

from app.core.lifecycle import FIRST, RECONCILED, STEPS, IllegalStep, State, step

LEGAL = {
    ("starting", "live"),
    ("starting", "unconfirmed"),
    ("starting", "failed"),
    ("unconfirmed", "live"),
    ("unconfirmed", "failed"),
    ("live", "over"),
    ("live", "review"),
    ("over", "live"),
    ("over", "settled"),
    ("over", "review"),
    ("review", "settled"),
    ("settled", "review"),
    ("failed", "review"),
}
PAIRS = list(itertools.product(State, State))


@pytest.mark.parametrize(("current", "following"), [pair for pair in PAIRS if pair in LEGAL])
def test_a_legal_step_is_taken(current: State, following: State) -> None:
    assert step(current, following) is following


@pytest.mark.parametrize(("current", "following"), [pair for pair in PAIRS if pair not in LEGAL])
def test_an_illegal_step_is_an_error(current: State, following: State) -> None:
    with pytest.raises(IllegalStep, match=f"a session that is {current} cannot become {following}"):
        step(current, following)


def test_the_two_tables_above_hold_every_pair_and_every_legal_step() -> None:
    assert len(PAIRS) == 49
    assert {(str(a), str(b)) for a, b in PAIRS} >= LEGAL
    assert set(STEPS) == set(State)


@pytest.mark.parametrize("state", State)
def test_a_session_begins_in_a_first_state_and_in_no_other(state: State) -> None:
    if state in ("starting", "unconfirmed"):
        assert step(None, state) is state
        assert state in FIRST
        return
    with pytest.raises(IllegalStep, match=f"a session cannot begin as {state}"):
        step(None, state)


def test_timelines_are_pulled_of_sessions_that_run_or_have_just_ended() -> None:
    assert frozenset({State.LIVE, State.OVER}) == RECONCILED
