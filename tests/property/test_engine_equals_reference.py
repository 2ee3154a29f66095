"""The engine and the reference answer every document alike, and the documents reach every rule."""

from collections import Counter
from typing import Any

from hypothesis import given

from tests.property.strategies import documents
from tests.reference.compare import differences, reference
from tests.reference.documents import Seeded, document

SEEDS = range(1500)

EVERYTHING = {
    "reason open_segment",
    "reason after_time_limit",
    "reason beyond_elapsed",
    "reason unknown_type",
    "reason after_last_proof",
    "reason no_proof_of_life",
    "reason before_charge_start",
    "reason silence_cap",
    "reason short_session",
    "reason included",
    "billed user",
    "billed agent",
    "billed silence",
    "anomaly bad_segment",
    "anomaly unknown_segment_type",
    "anomaly timeline_shrank",
    "anomaly timeline_longer_than_elapsed",
    "anomaly unwitnessed_speech",
    "anomaly alive_beyond_timeline",
    "line user",
    "line agent",
    "line silence",
    "line reduced_rate",
    "line increments",
    "line increments of user",
    "line increments of agent",
    "line increments of silence",
    "line minimum_duration",
    "line connection_fee",
    "line rounding",
    "line minimum_charge",
    "line maximum_charge",
    "origin anchored",
    "origin bounded",
    "cut off by authorized",
}


def fired(answer: dict[str, Any]) -> set[str]:
    """Names of all that happened in one answer."""
    names = {f"reason {piece['reason']}" for piece in answer["pieces"] if not piece["billed"]}
    names |= {f"billed {piece['type']}" for piece in answer["pieces"] if piece["billed"]}
    names |= {f"anomaly {name}" for name in answer["anomalies"]}
    names |= {f"line {line['type']}" for line in answer["lines"]}
    names |= {f"line increments of {line['of']}" for line in answer["lines"] if "of" in line}
    names.add(f"origin {answer['origin']['quality']}")
    if answer["beyond_authorization"] != "0":
        names.add("cut off by authorized")
    return names


@given(documents())
def test_the_engine_and_the_reference_give_the_same_answer(body: dict[str, Any]) -> None:
    assert differences(body) == {}


def test_seeded_documents_are_answered_alike_and_reach_every_rule() -> None:
    happened: Counter[str] = Counter()
    for seed in SEEDS:
        body = document(Seeded(seed))
        assert differences(body) == {}, f"seed {seed}"
        happened.update(fired(reference(body)))

    assert set(happened) == EVERYTHING
    rare = {name: count for name, count in happened.items() if count < 8}
    assert rare == {}, "the generator hardly reaches these"
