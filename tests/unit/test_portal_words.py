"""A charge in a sentence, and that there is a word for everything."""

from decimal import Decimal
from typing import Any

import pytest

from app.core.buckets import Reason
from app.core.entries import EntryKind
from app.core.lifecycle import State
from app.core.rating import LineType
from app.web.portal_words import ENGLISH


def charge(user: str = "0", agent: str = "0", silence: str = "0", reduced: str = "0", **free: str) -> dict[str, Any]:
    billed = {"user_s": user, "agent_s": agent, "silence_s": silence, "reduced_rate_s": reduced}
    return {
        "billed": {name: Decimal(value) for name, value in billed.items()},
        "not_billed": {Reason(name): Decimal(value) for name, value in free.items()},
    }


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (charge("40", "90", silence_cap="14"), "2 min 10 s of talk; 14 s of silence were free"),
        (charge("40.049"), "40 s of talk"),
        (charge(), "nothing was charged"),
        (charge("1", silence="3", reduced="2"), "1 s of talk; 5 s of silence"),
        (charge(included="60", after_last_proof="0.01"), "1 min that are included were free"),
    ],
)
def test_a_charge_in_a_sentence(document: dict[str, Any], said: str) -> None:
    assert ENGLISH.charge(document) == said


def test_there_is_a_word_for_everything() -> None:
    needed = {
        *(f"state.{state}" for state in State),
        *(f"kind.{kind}" for kind in EntryKind),
        *(f"line.{line}" for line in LineType),
    }
    assert needed <= set(ENGLISH.texts)
    assert set(ENGLISH.reasons) == set(Reason)
