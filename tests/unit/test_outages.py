"""Our own outages: found in what processes said, and left out of what is waited for."""

from hypothesis import given
from hypothesis import strategies as st

from app.core.outages import Outage, any_within, find_outages, passed_by
from app.core.units import Instant, Micros


def outages(
    *received: tuple[int, int], known_from: int = 0, now: int = 100, patience: int = 10
) -> list[tuple[int, int]]:
    instants = [(Instant(start), Instant(end)) for start, end in received]
    found = find_outages(instants, known_from=Instant(known_from), now=Instant(now), patience=Micros(patience))
    return [(outage.start, outage.end) for outage in found]


def test_what_nobody_covers_is_an_outage() -> None:
    assert outages((0, 20), (50, 95)) == [(20, 50)]
    assert outages((50, 95), (0, 60)) == []
    assert outages((0, 40), (10, 20), (60, 70), (65, 100)) == [(40, 60)]


def test_the_last_word_may_be_a_while_ago() -> None:
    assert outages((0, 90)) == []
    assert outages((0, 89)) == [(89, 100)]


def test_nothing_is_known_before_the_first_word() -> None:
    assert outages((30, 100), known_from=30) == []
    assert outages((30, 100), known_from=0) == [(0, 30)]


def test_what_came_after_now_plays_no_part() -> None:
    assert outages((0, 50), (120, 130)) == [(50, 100)]


def waited(start: int, wait: int, *known: tuple[int, int]) -> int:
    return passed_by(Instant(start), Micros(wait), [Outage(Instant(a), Instant(b)) for a, b in known])


def test_a_wait_stands_still_during_an_outage() -> None:
    assert waited(0, 50) == 50
    assert waited(0, 50, (10, 30)) == 70
    assert waited(0, 50, (10, 30), (60, 65)) == 75
    assert waited(0, 50, (50, 90)) == 50
    assert waited(20, 50, (0, 30)) == 80
    assert waited(20, 50, (0, 10)) == 70


def test_a_stretch_touches_an_outage_if_they_share_time() -> None:
    known = [Outage(Instant(10), Instant(20))]
    assert [any_within(Instant(a), Instant(b), known) for a, b in ((0, 10), (0, 11), (12, 13), (19, 30), (20, 30))] == [
        False,
        True,
        True,
        True,
        False,
    ]


stretches = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted).map(tuple), max_size=6)


@given(stretches, st.integers(0, 60), st.integers(0, 60))
def test_each_moment_is_covered_or_out(received: list[tuple[int, int]], known_from: int, now: int) -> None:
    found = outages(*received, known_from=known_from, now=now, patience=0)
    for moment in range(known_from, now):
        covered = any(start <= moment < end for start, end in received)
        assert covered != any(start <= moment < end for start, end in found)
    assert found == sorted(found)
    assert all(start < end for start, end in found)


@given(stretches, st.integers(0, 60), st.integers(0, 30))
def test_exactly_the_wait_passes_outside_of_outages(received: list[tuple[int, int]], start: int, wait: int) -> None:
    found = outages(*received, known_from=0, now=60, patience=0)
    until = waited(start, wait, *found)
    assert wait == sum(not any(a <= moment < b for a, b in found) for moment in range(start, until))
