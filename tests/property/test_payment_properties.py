"""Payments: whatever order events come in, what is known and what has to go back is the same."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from app.core.payments import Dispute, Known, Paid, Stage, cost_basis, credits_at, decimals_of, step
from app.core.units import MAX_AMOUNT, MicroCredits

PAID = Paid(amount=1000, currency="usd", user_id="ada", credits=MicroCredits(99_999_999))
disputes = st.builds(
    Dispute,
    stage=st.sampled_from(Stage),
    at=st.integers(0, 3),
    kept=st.booleans(),
    amount=st.integers(1, 1000),
    currency=st.sampled_from(["usd", "usd", "eur"]),
)
facts = st.one_of(
    st.just(Known(paid=PAID)),
    st.builds(Known, charged=st.just(1000), refunded=st.integers(0, 1000)),
    st.builds(Known, disputes=st.dictionaries(st.sampled_from(["du_1", "du_2"]), disputes, max_size=2)),
)


@given(st.lists(facts, max_size=8), st.randoms(use_true_random=False), st.lists(st.integers(0, 7), max_size=8))
def test_what_is_known_is_the_same_in_any_order_and_however_often(told, shuffle, again) -> None:  # type: ignore[no-untyped-def]
    in_order = Known()
    for one in told:
        in_order = in_order.merge(one)
    mixed = [*told, *(told[n] for n in again if n < len(told))]
    shuffle.shuffle(mixed)
    otherwise = Known()
    for one in mixed:
        otherwise = otherwise.merge(one)
    assert otherwise == in_order


@given(st.lists(facts, max_size=8), st.integers(1, MAX_AMOUNT))
def test_what_has_to_go_back_is_never_more_than_was_paid_for_and_rounds_for_the_customer(  # type: ignore[no-untyped-def]
    told, credits_
) -> None:
    known, granted = Known(), MicroCredits(credits_)
    for one in told:
        known = known.merge(one)
    owed = known.owed(granted)
    assert 0 <= owed <= granted
    exact = known.returned * granted
    assert owed <= exact < owed + 1
    if known.returned == 1:
        assert owed == granted
    if known.paid is None:
        assert owed == 0


@given(st.lists(st.integers(0, 100), min_size=1, max_size=8), st.integers(0, 100))
def test_steps_lead_to_what_is_owed(owed, lost) -> None:  # type: ignore[no-untyped-def]
    """What was lost, and never comes back, is not taken a second time; what was taken is given again."""
    taken = 0
    for target in owed:
        amount = step(owed=MicroCredits(target), taken=MicroCredits(taken), lost=MicroCredits(lost))
        taken += amount
        assert 0 <= taken <= target
        assert taken in {max(0, target - lost), target} or taken + lost >= target
        assert step(owed=MicroCredits(target), taken=MicroCredits(taken), lost=MicroCredits(lost)) == 0
    if not lost:
        assert taken == owed[-1]


@given(st.integers(0, 100), st.integers(0, 100))
def test_what_was_lost_is_not_taken(owed: int, lost: int) -> None:
    first = step(owed=MicroCredits(owed), taken=MicroCredits(0), lost=MicroCredits(lost))
    assert first == max(0, owed - lost)
    assert step(owed=MicroCredits(0), taken=first, lost=MicroCredits(lost)) == -first


def test_money_in_the_smallest_unit_is_counted_exactly() -> None:
    assert credits_at(MicroCredits(100_000), 999) == 99_900_000
    assert credits_at(MicroCredits(1), 10**18) == 10**18
    assert credits_at(MicroCredits(1), 10**18 + 1) is None
    assert [decimals_of(name) for name in ("usd", "jpy", "krw", "kwd", "isk", "ugx")] == [2, 0, 0, 3, 2, 2]


def test_a_credits_cost_is_in_the_currencys_unit() -> None:
    hundred = MicroCredits(100_000_000)
    for currency, amount, basis in (("usd", 1000, "0.1"), ("jpy", 1000, "10"), ("kwd", 1000, "0.01")):
        paid = Paid(amount=amount, currency=currency, user_id="ada", credits=hundred)
        assert Fraction(cost_basis(paid, hundred) or 0, 1_000_000) == Fraction(basis)
    third = Paid(amount=1000, currency="usd", user_id="ada", credits=hundred)
    assert cost_basis(third, MicroCredits(3_000_000)) == 3_333_333
    assert cost_basis(third, MicroCredits(16_000_000)) == 625_000
    assert cost_basis(Paid(amount=10**14, currency="jpy", user_id="a", credits=None), MicroCredits(1)) is None


def test_a_dispute_never_goes_back_a_stage_and_the_later_decision_counts() -> None:
    lost = Dispute(Stage.DECIDED, 5, kept=False, amount=1000, currency="usd")
    won = Dispute(Stage.DECIDED, 6, kept=True, amount=1000, currency="usd")
    opened = Dispute(Stage.OPEN, 9, kept=False, amount=1000, currency="usd")
    asked = Dispute(Stage.INQUIRY, 99, kept=False, amount=1000, currency="usd")
    known = Known(paid=PAID)
    assert known.merge(Known(disputes={"d": asked})).returned == 0
    for told, part in (((asked, opened), 1), ((opened, lost), 1), ((lost, won, opened), 0), ((won, lost), 0)):
        found = known
        for one in told:
            found = found.merge(Known(disputes={"d": one}))
        assert found.returned == part
