"""Prices, tolerances and the form of what is stored, pinned: mutation of a constant must not go unseen."""

from dataclasses import asdict, replace

import pytest

from app.core.alignment import ELAPSED_TOLERANCE, SHRINK_TOLERANCE, Origin, OriginQuality, Pull, align, latest
from app.core.buckets import Policy, Reason, sort_into_buckets
from app.core.charge import ENGINE_VERSION
from app.core.liveness import ALIVE_TOLERANCE, Envelope, prove
from app.core.lossless_json import loads
from app.core.packing import pack_instants, unpack_instants
from app.core.rate_card import DEFAULT_RATE_CARD, RoundingMode
from app.core.rating import FINE_PER_MICROCREDIT, Fine, Prices, rate, round_to_quantum, round_up
from app.core.timeline import Anomaly, Segment, SegmentType, Timeline, normalise
from app.core.units import MAX_AMOUNT, Instant, MicroCredits, Micros
from app.core.worst_case import worst_case_under

S = 1_000_000
USER, AGENT, SILENCE, UNKNOWN = SegmentType.USER, SegmentType.AGENT, SegmentType.SILENCE, SegmentType.UNKNOWN


def test_the_default_card_is_the_published_one() -> None:
    assert asdict(DEFAULT_RATE_CARD) == {
        "name": "default", "user_rate": 60 * S, "agent_rate": 60 * S, "silence_rate": 60 * S, "full_rate_first": 5 * S,
        "factor_after": 0, "initial": 0, "subsequent": 0, "scope": "session", "connection_fee": 0, "included": 0,
        "short_session_exemption": 0, "minimum_duration": 0, "minimum_charge": 0, "maximum_charge": None, "quantum": 1,
        "rounding": "half_even", "heartbeat_interval": 30 * S, "missed_heartbeats_tolerated": 1,
        "heartbeat_jitter": 15 * S, "charge_from": "origin",
    }  # fmt: skip
    assert DEFAULT_RATE_CARD.gap == 75 * S
    assert worst_case_under(DEFAULT_RATE_CARD, Micros(60 * S)) == 60 * S


def test_constants_of_the_contract() -> None:
    assert (ELAPSED_TOLERANCE, SHRINK_TOLERANCE, ALIVE_TOLERANCE) == (5 * S, S, S)
    assert (MAX_AMOUNT, FINE_PER_MICROCREDIT, ENGINE_VERSION) == (10**18, 60 * 10**12, "1")


def timeline(*parts: tuple[SegmentType, float]) -> Timeline:
    segments: list[Segment] = []
    start = Micros(0)
    for kind, seconds in parts:
        end = Micros(start + round(seconds * S))
        segments.append(Segment(kind, start, end))
        start = end
    return Timeline(tuple(segments), start, frozenset())


@pytest.mark.parametrize(
    ("values", "ends", "anomalies"),
    [
        ('[{"type":"user","seconds":1.5}]', [("user", 1_500_000)], set()),
        ('[{"type":"user","seconds":0.0000004},{"type":"user","seconds":0.0000006}]', [("user", 1)], set()),
        ('[{"type":"user","seconds":0.9999999999999}]', [("user", 999_999)], set()),
        ('[{"type":"tool","seconds":1}]', [("unknown", S)], {"unknown_segment_type"}),
        ('[{"seconds":1}]', [("unknown", S)], {"unknown_segment_type"}),
        ('[{"type":"User","seconds":1}]', [("unknown", S)], {"unknown_segment_type"}),
        ('[{"type":"tool","seconds":0}]', [], set()),
        ('[{"type":"user","seconds":999999999}]', [("user", 999_999_999 * S)], set()),
        ('[{"type":"user","seconds":1e-400000}]', [], set()),
        ('[{"type":"user","seconds":-0}]', [], set()),
    ],
)
def test_offsets_are_cut_cumulatively(values: str, ends: list[tuple[str, int]], anomalies: set[str]) -> None:
    found = loads(values)
    assert isinstance(found, list)
    result = normalise(found)
    assert [(segment.type, segment.end) for segment in result.segments] == ends
    assert result.anomalies == anomalies


@pytest.mark.parametrize(
    "value",
    [
        "1", "null", "[]", '"user"', "{}", '{"type":"user"}', '{"type":"user","seconds":null}',
        '{"type":"user","seconds":"1"}', '{"type":"user","seconds":true}', '{"type":"user","seconds":NaN}',
        '{"type":"user","seconds":Infinity}', '{"type":"user","seconds":-0.0000000000001}',
        '{"type":"user","seconds":1000000000}', '{"type":"user","seconds":1e9}', '{"type":"tool","seconds":1e400}',
    ],
)  # fmt: skip
def test_a_segment_without_a_usable_length_is_dropped(value: str) -> None:
    found = loads(f'[{value},{{"type":"agent","seconds":1}}]')
    assert isinstance(found, list)
    kept = (Segment(AGENT, Micros(0), Micros(S)),)
    assert normalise(found) == Timeline(kept, Micros(S), frozenset({Anomaly.BAD_SEGMENT}))


def pull(q: int, r: int, end: int, speech: int = 0) -> Pull:
    return Pull(Instant(q), Instant(r), Micros(end), Micros(speech))


START = 100 * S


@pytest.mark.parametrize(
    ("pulls", "at", "quality", "anomalies"),
    [
        ([pull(START + 9 * S, START + 10 * S, 4 * S)], START + 6 * S, "bounded", set()),
        ([pull(START, START + 10 * S, 10 * S)], START, "bounded", set()),
        ([pull(START, START + 10 * S, 15 * S)], START, "bounded", set()),
        ([pull(START, START + 10 * S, 15 * S + 1)], START, "bounded", {"timeline_longer_than_elapsed"}),
        ([pull(START + 9, START + 10, 0), pull(START + 19, START + 20, 10)], START + 10, "anchored", set()),
        ([pull(START + 9, START + 10, 0), pull(START + 21, START + 22, 10)], START + 10, "bounded", set()),
        ([pull(START + 9, START + 10, 5), pull(START + 9, START + 10, 5)], START + 5, "bounded", set()),
        ([pull(START, START + 1, 0, S + 5), pull(START, START + 2, 0, 5)], START + 1, "bounded", set()),
        ([pull(START, START + 1, 0, S + 6), pull(START, START + 2, 0, 5)], START + 1, "bounded", {"timeline_shrank"}),
    ],
)
def test_the_origin_is_the_latest_that_fits_all(pulls: list[Pull], at: int, quality: str, anomalies: set[str]) -> None:
    expected = Origin(Instant(at), OriginQuality(quality), frozenset(Anomaly(name) for name in anomalies))
    assert align(Instant(START), pulls) == expected


@pytest.mark.parametrize(("accepted", "shrank"), [(0, True), (1, True), (2, False), (3, False)])
def test_what_was_said_before_an_accepted_pull_is_no_measure(accepted: int, shrank: bool) -> None:
    said = [5 * S, 10 * S, 3 * S, 4 * S]
    pulls = [pull(START, START + n, 0, speech) for n, speech in enumerate(said)]
    found = align(Instant(START), pulls, accepted).anomalies
    assert (Anomaly.TIMELINE_SHRANK in found) is shrank


def test_a_loss_after_an_accepted_pull_is_one() -> None:
    pulls = [pull(START, START + n, 0, speech) for n, speech in enumerate([10 * S, 4 * S, 2 * S])]
    assert align(Instant(START), pulls, 1).anomalies == {Anomaly.TIMELINE_SHRANK}


def test_the_rated_pull_is_the_latest_received_then_sent_then_given() -> None:
    assert latest([pull(1, 5, 0), pull(2, 4, 0)]) == 0
    assert latest([pull(1, 5, 0), pull(2, 5, 0)]) == 1
    assert latest([pull(1, 5, 0), pull(1, 5, 0)]) == 1


@pytest.mark.parametrize(
    ("heartbeats", "parts", "envelopes", "anomalies"),
    [
        ([], [(SILENCE, 99)], [(0, 0)], set()),
        ([75], [(SILENCE, 99)], [(0, 75)], set()),
        ([75.000001], [(SILENCE, 99)], [(0, 0), (75.000001, 75.000001)], set()),
        ([-1, 30], [(SILENCE, 99)], [(0, 30)], set()),
        ([675], [(SILENCE, 700)], [(0, 0), (675, 675)], set()),
        ([675.000001], [(SILENCE, 700)], [(0, 0)], set()),
        ([], [(SILENCE, 75), (USER, 1)], [(0, 76)], set()),
        ([], [(SILENCE, 75.000001), (USER, 1)], [(0, 0), (75.000001, 76.000001)], {"unwitnessed_speech"}),
        ([31], [(SILENCE, 30)], [(0, 31)], set()),
        ([31.000001], [(SILENCE, 30)], [(0, 31.000001)], {"alive_beyond_timeline"}),
    ],
)
def test_proofs_at_most_75_s_apart_prove_the_time_between(
    heartbeats: list[float],
    parts: list[tuple[SegmentType, float]],
    envelopes: list[tuple[float, float]],
    anomalies: set[str],
) -> None:
    liveness = prove(
        timeline(*parts),
        origin=Instant(START),
        requested_at=Instant(START),
        heartbeats=[Instant(START + round(at * S)) for at in heartbeats],
        received_at=Instant(START + 10_000 * S),
        gap=DEFAULT_RATE_CARD.gap,
        time_limit=Micros(600 * S),
    )
    assert list(liveness.envelopes) == [Envelope(Micros(round(a * S)), Micros(round(b * S))) for a, b in envelopes]
    assert liveness.anomalies == anomalies


def test_every_microsecond_has_one_bucket() -> None:
    pieces = sort_into_buckets(
        timeline((AGENT, 2), (SILENCE, 9), (UNKNOWN, 1), (USER, 1), (SILENCE, 30)),
        Policy(
            time_limit=Micros(40 * S), elapsed=Micros(35 * S), envelopes=[Envelope(Micros(0), Micros(20 * S))],
            charge_from=Micros(S), full_rate_first=Micros(5 * S), factor_after=0,
        ),
    )  # fmt: skip
    assert [(piece.type, piece.end, piece.reason) for piece in pieces] == [
        (AGENT, 1 * S, Reason.BEFORE_CHARGE_START), (AGENT, 2 * S, None), (SILENCE, 7 * S, None),
        (SILENCE, 11 * S, Reason.SILENCE_CAP), (UNKNOWN, 12 * S, Reason.UNKNOWN_TYPE), (USER, 13 * S, None),
        (SILENCE, 18 * S, None), (SILENCE, 20 * S, Reason.SILENCE_CAP), (SILENCE, 35 * S, Reason.AFTER_LAST_PROOF),
        (SILENCE, 40 * S, Reason.BEYOND_ELAPSED), (SILENCE, 43 * S, Reason.AFTER_TIME_LIMIT),
    ]  # fmt: skip
    assert rate(pieces, DEFAULT_RATE_CARD).amount == 12 * S


@pytest.mark.parametrize(
    ("duration", "initial", "subsequent", "rounded"),
    [(7, 0, 0, 7), (7, 10, 0, 10), (11, 10, 0, 11), (7, 0, 6, 12), (12, 0, 6, 12), (7, 10, 6, 10), (11, 10, 6, 16)],
)
def test_time_is_rounded_up_to_increments(duration: int, initial: int, subsequent: int, rounded: int) -> None:
    card = replace(DEFAULT_RATE_CARD, initial=Micros(initial), subsequent=Micros(subsequent))
    assert round_up(Micros(duration), card) == rounded


@pytest.mark.parametrize(
    ("mode", "halves", "rounded"),
    [
        ("half_even", 1, 0), ("half_even", 3, 2), ("half_even", 5, 2), ("up", 1, 1), ("up", 2, 1), ("up", 3, 2),
        ("down", 1, 0), ("down", 3, 1), ("down", 4, 2),
    ],
)  # fmt: skip
def test_a_charge_is_rounded_once(mode: str, halves: int, rounded: int) -> None:
    for quantum in (1, 1000):
        card = replace(DEFAULT_RATE_CARD, quantum=MicroCredits(quantum), rounding=RoundingMode(mode))
        exact = Fine(halves * quantum * FINE_PER_MICROCREDIT // 2)
        assert round_to_quantum(exact, card) == rounded * quantum


def test_prices_are_those_of_the_card() -> None:
    prices = Prices(DEFAULT_RATE_CARD)
    assert (prices.lowest, prices.dearest, prices.reduced) == (60 * 10**12, 60 * 10**12, 0)


@pytest.mark.parametrize(
    ("instants", "packed"),
    [
        ([], ""),
        ([0], "00"),
        ([127, 128], "7f01"),
        ([128], "8001"),
        ([5, 5, 3], "030200"),
        ([1_772_366_400_000_000, 1_772_366_430_000_000], "80a0bcadd3fe92038087a70e"),
    ],
)
def test_heartbeats_are_packed_as_distances(instants: list[int], packed: str) -> None:
    assert pack_instants([Instant(at) for at in instants]).hex() == packed
    assert unpack_instants(bytes.fromhex(packed)) == sorted(instants)
