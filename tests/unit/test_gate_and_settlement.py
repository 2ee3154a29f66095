"""May a session start, when is it over, and what comes next: every branch, to the microsecond."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from app.core.alignment import Origin, OriginQuality, Pull
from app.core.charge import Charge
from app.core.gate import Admitted, NotCovered, admit
from app.core.liveness import Envelope
from app.core.rate_card import DEFAULT_RATE_CARD, RateCard
from app.core.settlement import (
    STOPS_SETTLEMENT,
    Accepted,
    Over,
    Review,
    Settle,
    StillLive,
    contradictions,
    decide,
    over_at,
)
from app.core.timeline import Anomaly
from app.core.units import Instant, MicroCredits, Micros
from app.core.waits import CLOCK_MARGIN

S = 1_000_000
CREDIT = 1_000_000
FREE = RateCard(name="free", user_rate=MicroCredits(0), agent_rate=MicroCredits(0), silence_rate=MicroCredits(0))
WITH_FEE = replace(DEFAULT_RATE_CARD, connection_fee=MicroCredits(5 * CREDIT))
CAPPED = replace(DEFAULT_RATE_CARD, maximum_charge=MicroCredits(40 * CREDIT))


def size(card: RateCard, available: int, asked: int = 3600) -> Admitted | NotCovered:
    """Amounts in micro-credits, times in seconds."""
    shortest, longest = Micros(30 * S), Micros(600 * S)
    return admit(card, available=MicroCredits(available), asked=Micros(asked * S), shortest=shortest, longest=longest)


@pytest.mark.parametrize(
    ("card", "available", "asked", "time_limit", "hold"),
    [
        pytest.param(DEFAULT_RATE_CARD, 1000 * CREDIT, 60, 60, 60 * CREDIT, id="what is asked for"),
        pytest.param(DEFAULT_RATE_CARD, 1000 * CREDIT, 3600, 600, 600 * CREDIT, id="at most the longest"),
        pytest.param(DEFAULT_RATE_CARD, 45 * CREDIT, 60, 45, 45 * CREDIT, id="at most what is affordable"),
        pytest.param(DEFAULT_RATE_CARD, 46 * CREDIT - 1, 60, 45, 45 * CREDIT, id="whole seconds"),
        pytest.param(DEFAULT_RATE_CARD, 30 * CREDIT, 60, 30, 30 * CREDIT, id="just the shortest"),
        pytest.param(WITH_FEE, 35 * CREDIT, 60, 30, 35 * CREDIT, id="with the fee"),
        pytest.param(CAPPED, 40 * CREDIT, 600, 600, 40 * CREDIT, id="a maximum makes all time affordable"),
        pytest.param(FREE, 0, 60, 60, 0, id="free of charge"),
    ],
)
def test_a_session_is_sized(card: RateCard, available: int, asked: int, time_limit: int, hold: int) -> None:
    assert size(card, available, asked) == Admitted(Micros(time_limit * S), MicroCredits(hold))


@pytest.mark.parametrize(
    ("card", "available", "required", "affordable"),
    [
        pytest.param(DEFAULT_RATE_CARD, 30 * CREDIT - 1, 30 * CREDIT, 29, id="a micro-credit short"),
        pytest.param(DEFAULT_RATE_CARD, 0, 30 * CREDIT, 0, id="nothing"),
        pytest.param(DEFAULT_RATE_CARD, -5 * CREDIT, 30 * CREDIT, 0, id="below the floor"),
        pytest.param(WITH_FEE, 35 * CREDIT - 1, 35 * CREDIT, 29, id="the fee is not covered"),
        pytest.param(FREE, -1, 0, 600, id="below the floor nothing starts, not even what is free"),
    ],
)
def test_a_session_that_is_not_covered_is_refused(
    card: RateCard, available: int, required: int, affordable: int
) -> None:
    assert size(card, available) == NotCovered(MicroCredits(available), MicroCredits(required), Micros(affordable * S))


T0 = 1_000 * S


def charge(last_proof: int = 0, anomalies: frozenset[Anomaly] = frozenset()) -> Charge:
    return Charge(
        amount=MicroCredits(0),
        beyond_authorization=MicroCredits(0),
        origin=Origin(Instant(T0), OriginQuality.BOUNDED, frozenset()),
        timeline_end=Micros(0),
        billed={},
        not_billed={},
        lines=(),
        envelopes=(Envelope(Micros(0), Micros(last_proof)),),
        pieces=(),
        anomalies=anomalies,
        last_proof=Micros(last_proof),
    )


@pytest.mark.parametrize(
    ("last_proof", "heard", "grace", "after"),
    [
        pytest.param(0, True, 600, 75, id="G after the start"),
        pytest.param(100, True, 600, 175, id="G after the last proof"),
        pytest.param(100, False, 600, 375, id="never heard: the limit comes before the grace"),
        pytest.param(0, False, 200, 200, id="never heard: the grace takes the place of G"),
        pytest.param(0, False, 74, 75, id="never heard: a grace shorter than G is G"),
        pytest.param(100, False, 200, 300, id="never heard: the grace runs from the last proof"),
        pytest.param(299, True, 600, 374, id="just within the limit"),
        pytest.param(300, True, 600, 375, id="G after the limit"),
        pytest.param(370, True, 600, 375, id="never later than that"),
    ],
)
def test_when_a_session_is_over(last_proof: int, heard: bool, grace: int, after: int) -> None:
    instant = over_at(
        charge(last_proof * S),
        gap=Micros(75 * S),
        time_limit=Micros(300 * S),
        heard=heard,
        no_heartbeat_grace=Micros(grace * S),
    )
    assert instant == T0 + after * S


@pytest.mark.parametrize(
    ("last_proof", "ended", "over"),
    [
        pytest.param(100, None, 145, id="nobody said so"),
        pytest.param(100, 110, 110, id="by the word"),
        pytest.param(100, 100, 100, id="at the last proof"),
        pytest.param(100, 96, 100, id="the last proof was on its way"),
        pytest.param(100, 95, 100, id="for long"),
        pytest.param(100, 94, 145, id="for too long: it went on"),
        pytest.param(100, 300, 145, id="it was over before"),
    ],
)
def test_a_session_is_over_by_the_providers_word(last_proof: int, ended: int | None, over: int) -> None:
    instant = over_at(
        charge(last_proof * S),
        gap=Micros(45 * S),
        time_limit=Micros(600 * S),
        heard=True,
        no_heartbeat_grace=Micros(600 * S),
        ended_at=None if ended is None else Instant(T0 + ended * S),
    )
    assert instant == T0 + over * S


OVER = Instant(2_000 * S)
DELAY = 120 * S
DELAY_US = Micros(DELAY)
HOUR = Micros(3_600 * S)
FINAL = Instant(OVER + DELAY)


@pytest.mark.parametrize(
    ("now", "pulled_at", "expected"),
    [
        (OVER - 1, OVER - 2, StillLive(OVER)),
        (OVER, OVER - 1, Over(OVER, FINAL)),
        (OVER, OVER, Over(OVER, FINAL)),
        (FINAL, FINAL - 1, Over(OVER, FINAL)),
        (FINAL, FINAL, Settle(OVER)),
        (FINAL + 1, FINAL + 1, Settle(OVER)),
        (FINAL + 9 * S, OVER - 1, Over(OVER, FINAL)),
    ],
)
def test_what_comes_next(now: int, pulled_at: int, expected: object) -> None:
    following = decide(
        [], over=OVER, pulled_at=Instant(pulled_at), now=Instant(now), settle_delay=DELAY_US, longest=HOUR
    )  # fmt: skip
    assert following == expected


def test_without_a_delay_the_first_pull_after_the_end_is_final() -> None:
    assert decide([], over=OVER, pulled_at=OVER, now=OVER, settle_delay=Micros(0), longest=HOUR) == Settle(OVER)


def found(
    *anomalies: Anomaly, ends: tuple[int, ...] = (60,), bad: str = "", accepted: Accepted | None = None
) -> list[str]:
    """The contradictions of a session whose pulls, 100 s apart, were ``ends`` seconds long."""
    pulls = [Pull(at, at, Micros(end * S), Micros(0)) for end, at in zip(ends, instants(), strict=False)]
    return contradictions(frozenset(anomalies), pulls=pulls, unusable=Counter(bad), accepted=accepted)


def instants() -> Iterator[Instant]:
    return (Instant(T0 + at * S) for at in itertools.count(100, 100))


@pytest.mark.parametrize("anomaly", list(Anomaly))
def test_contradictory_evidence_is_for_a_person(anomaly: Anomaly) -> None:
    stops = anomaly in {"bad_segment", "timeline_longer_than_elapsed", "timeline_shrank"}
    assert found(anomaly) == ([anomaly] if stops else [])
    assert (anomaly in STOPS_SETTLEMENT) is stops


def test_a_review_names_all_contradictions_in_order() -> None:
    following = decide(
        found(*Anomaly), over=OVER, pulled_at=FINAL, now=FINAL, settle_delay=DELAY_US, longest=HOUR
    )  # fmt: skip
    assert following == Review(
        OVER, "the evidence contradicts itself: bad_segment, timeline_longer_than_elapsed, timeline_shrank"
    )


@pytest.mark.parametrize(
    ("bad", "stops"),
    [("", False), ("a", False), ("aab", False), ("ba", False), ("aaa", True), ("c", True), ("aabc", True)],
)
def test_segments_that_were_accepted_as_unusable_are_no_contradiction_any_more(bad: str, stops: bool) -> None:
    accepted = Accepted(0, Counter("aab"))
    assert found(Anomaly.BAD_SEGMENT, bad=bad, accepted=accepted) == (["bad_segment"] if stops else [])
    assert found(Anomaly.BAD_SEGMENT, bad=bad) == ["bad_segment"]


@pytest.mark.parametrize(
    ("ends", "pull", "stops"),
    [
        pytest.param((50, 190), 1, False, id="nothing since"),
        pytest.param((50, 190, 290), 1, False, id="grown as time passes"),
        pytest.param((50, 190, 295), 1, False, id="by the tolerance more"),
        pytest.param((50, 190, 296), 1, True, id="by more than that"),
        pytest.param((50, 190, 100, 396), 1, True, id="whichever pull says so"),
        pytest.param((50, 190, 290), 0, True, id="what was accepted was not too long"),
    ],
)
def test_a_timeline_that_was_accepted_as_too_long_may_stay_so(ends: tuple[int, ...], pull: int, stops: bool) -> None:
    longer = Anomaly.TIMELINE_LONGER_THAN_ELAPSED
    assert found(longer, ends=ends, accepted=Accepted(pull, Counter())) == ([longer] if stops else [])


def test_nobody_accepts_what_the_charge_itself_knows_to_be_missing() -> None:
    shrank = Anomaly.TIMELINE_SHRANK
    assert found(shrank, ends=(50, 190), accepted=Accepted(1, Counter())) == [shrank]


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        pytest.param(0, StillLive, id="as long as a session may still live"),
        pytest.param(CLOCK_MARGIN, StillLive, id="by another process's clock"),
        pytest.param(CLOCK_MARGIN + 1, Review, id="by a clock that was set back"),
    ],
)
def test_no_session_lives_on_because_our_clock_was_set_back(ahead: int, expected: type) -> None:
    over = Instant(OVER + HOUR + ahead)
    following = decide(
        [], over=over, pulled_at=OVER, now=OVER, settle_delay=DELAY_US, longest=HOUR
    )  # fmt: skip
    assert type(following) is expected
    assert following.over_at == (over if expected is StillLive else OVER)


def test_contradictions_wait_for_the_final_pull() -> None:
    early = decide(["bad_segment"], over=OVER, pulled_at=OVER, now=OVER, settle_delay=DELAY_US, longest=HOUR)
    assert early == Over(OVER, FINAL)
