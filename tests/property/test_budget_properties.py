"""Whatever processes lease whenever, with clocks that differ: the provider's rate is kept, as the module says."""

from hypothesis import given
from hypothesis import strategies as st

from app.core.budget import (
    CLOCKS_DIFFER,
    MARGIN,
    MAX_LEAD,
    PERMIT_LASTS,
    Purpose,
    Row,
    Slice,
    lease,
    most_at_once,
    spacing,
)
from app.core.units import US_PER_S, Instant, Micros

EPOCH = 1_800_000_000 * US_PER_S
RATES = st.integers(1, 200)
ASKED = st.lists(
    st.tuples(
        st.integers(0, 2),  # the process
        st.integers(0, 400_000),  # true µs since the one before
        st.sampled_from(Purpose),
        st.integers(1, 64),
        st.integers(0, MAX_LEAD),
        st.integers(0, PERMIT_LASTS),  # how late each of its permits is used
    ),
    min_size=1,
    max_size=120,
)


def requests(rate: int, skews: list[int], asked: list[tuple[int, int, Purpose, int, int, int]]) -> list[int]:
    """When requests left, in true time, if every permit was used."""
    between = spacing(rate)
    row, true_now = Row(Instant(EPOCH)), EPOCH
    left = []
    for process, passed, purpose, count, lead, late in asked:
        true_now += passed
        now = Instant(true_now + skews[process])
        leased = lease(row, now, between, purpose, min(count, most_at_once(between)), Micros(lead))
        if isinstance(leased, Slice):
            assert leased.first >= now
            row = leased.row
            left += [leased.first + n * between + late - skews[process] for n in range(leased.count)]
    return sorted(left)


def most_within(left: list[int], window: int) -> int:
    return max((sum(start <= at <= start + window for at in left) for start in left), default=0)


@given(rate=RATES, asked=ASKED, skews=st.lists(st.integers(0, CLOCKS_DIFFER), min_size=3, max_size=3))
def test_the_bound_holds_with_clocks_that_differ(
    rate: int, asked: list[tuple[int, int, Purpose, int, int, int]], skews: list[int]
) -> None:
    left = requests(rate, skews, asked)
    differ = max(skews) - min(skews)
    for window in (0, US_PER_S // 7, US_PER_S, 3 * US_PER_S):
        assert most_within(left, window) <= (window + PERMIT_LASTS + differ) // spacing(rate) + 1


@given(
    rate=RATES,
    asked=ASKED,
    skews=st.lists(st.integers(0, MARGIN - PERMIT_LASTS - 1), min_size=3, max_size=3),
)
def test_no_second_sees_more_than_the_rate_with_clocks_that_agree(
    rate: int, asked: list[tuple[int, int, Purpose, int, int, int]], skews: list[int]
) -> None:
    assert most_within(requests(rate, skews, asked), US_PER_S) <= rate
