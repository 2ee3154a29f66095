"""The engine and the reference answer every document alike, and the documents reach every rule."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given

from app.core.lossless_json import dumps, loads
from tests.property.strategies import documents
from tests.reference.compare import differences, engine, reference
from tests.reference.documents import Seeded, document

SEEDS = range(1200)

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


@pytest.mark.parametrize("field", ["included_s", "short_session_exemption_s"])
def test_what_exemption_or_included_time_made_alike_in_one_segment_is_one_piece(field: str) -> None:
    received = "2026-01-31T12:00:11Z"
    values = [{"type": "silence", "seconds": 10}, {"type": "user", "seconds": 1}]
    body = {
        "requested_at": "2026-01-31T12:00:00Z",
        "heartbeats": [],
        "snapshots": [{"requested_at": received, "received_at": received, "values": values}],
        "rate_card": {
            "name": "half",
            "rates": {"user": "1", "agent": "1", "silence": "1"},
            "silence": {"factor_after": "0.5"},
            field: 1000,
        },
    }
    parsed = loads(dumps(body))
    assert isinstance(parsed, dict)

    assert engine(parsed)["pieces"] == reference(parsed)["pieces"]
    assert [piece["type"] for piece in engine(parsed)["pieces"]] == ["silence", "user"]
