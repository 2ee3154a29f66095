"""What a simulated session has said up to an instant. Pure, so each case is one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.units import US_PER_S, Micros
from app.ports.randomness import SeededRandomness
from app.simulator.conversation import heard, heartbeats, leaves_after
from app.simulator.script import BUILT_IN, Draw, Script, Segment, built_in, draw

S = US_PER_S
HOUR = Micros(3600 * S)


def script(*segments: tuple[str, float], **fields: object) -> Script:
    made = tuple(Segment(kind, Micros(round(seconds * S))) for kind, seconds in segments)
    return Script(name="x", segments=made, **fields)  # type: ignore[arg-type]


def told(played: Script, elapsed_s: float, limit_s: float = 3600) -> list[tuple[str, float]]:
    segments = heard(played, Micros(round(limit_s * S)), Micros(round(elapsed_s * S)))
    return [(segment.type, segment.duration / S) for segment in segments]


TALK = script(("user", 2), ("silence", 1), ("agent", 3))
PAUSE_LAST = script(("user", 2), ("silence", 1))
LEAVES = script(("user", 2), ("agent", 3), agent_leaves=Micros(4 * S))
FROZEN = script(("user", 2), agent_leaves=Micros(4 * S), grows_after_leaving=False)
LOOP = script(("user", 2), ("agent", 3), repeat=True)

CASES = {
    "nothing yet": (TALK, 0, 99, []),
    "the first segment grows": (TALK, 0.5, 99, [("user", 0.5)]),
    "the first is whole": (TALK, 2, 99, [("user", 2)]),
    "the pause grows": (TALK, 2.25, 99, [("user", 2), ("silence", 0.25)]),
    "all is said": (TALK, 6, 99, [("user", 2), ("silence", 1), ("agent", 3)]),
    "then silence grows": (TALK, 7.5, 99, [("user", 2), ("silence", 1), ("agent", 3), ("silence", 1.5)]),
    "for ever": (TALK, 763460.5, 99, [("user", 2), ("silence", 1), ("agent", 3), ("silence", 763454.5)]),
    "a last pause just goes on": (PAUSE_LAST, 10, 99, [("user", 2), ("silence", 8)]),
    "the agent leaves in mid-word": (LEAVES, 4, 99, [("user", 2), ("agent", 2)]),
    "and silence follows": (LEAVES, 9, 99, [("user", 2), ("agent", 2), ("silence", 5)]),
    "the limit comes before": (LEAVES, 9, 3, [("user", 2), ("agent", 1), ("silence", 6)]),
    "the limit cuts a pause": (TALK, 9, 2.5, [("user", 2), ("silence", 7)]),
    "a frozen timeline grows till then": (FROZEN, 3, 99, [("user", 2), ("silence", 1)]),
    "and no longer": (FROZEN, 60, 99, [("user", 2), ("silence", 2)]),
    "endless": (LOOP, 11, 99, [("user", 2), ("agent", 3), ("user", 2), ("agent", 3), ("user", 1)]),
    "endless to the limit": (LOOP, 99, 6, [("user", 2), ("agent", 3), ("user", 1), ("silence", 93)]),
    "nobody speaks": (script(), 7, 99, [("silence", 7)]),
}


@pytest.mark.parametrize("case", CASES)
def test_heard(case: str) -> None:
    played, elapsed_s, limit_s, expected = CASES[case]
    assert told(played, elapsed_s, limit_s) == expected


@given(st.sampled_from(BUILT_IN), st.integers(1, 4000 * S), st.integers(0, 5000 * S), st.integers(0, 5000 * S))
def test_a_timeline_lasts_as_long_as_it_has_been_and_only_grows(name: str, limit: int, one: int, other: int) -> None:
    played = draw(SCRIPTS[name], SeededRandomness(limit))
    sooner, later = sorted((one, other))
    before, after = (heard(played, Micros(limit), Micros(at)) for at in (sooner, later))
    assert sum(segment.duration for segment in before) == sooner
    assert sum(segment.duration for segment in after) == later
    # The closed segments never change, and the open one only gets longer.
    assert before[:-1] == after[: max(len(before) - 1, 0)]
    if before:
        assert after[len(before) - 1].type == before[-1].type
        assert after[len(before) - 1].duration >= before[-1].duration


SCRIPTS = built_in()


def test_the_guides_talk_is_the_guides() -> None:
    """Speech 9.394 s, inner silence 7.177 s, as the worked example of the charge has it."""
    segments = heard(SCRIPTS["guide"], HOUR, Micros(763471_084000))
    assert len(segments) == 12
    assert sum(segment.duration for segment in segments if segment.type != "silence") == 9_394_000
    assert sum(segment.duration for segment in segments[:11] if segment.type == "silence") == 7_177_000
    assert segments[11] == Segment("silence", Micros(763454_513000))


BEATS = {
    "guide": (3600, [30, 60, 90]),
    "ghost": (100, [30, 60, 90]),
    "endless": (90, [30, 60]),
    "silent": (3600, []),
    "disconnect": (3600, [30, 60, 90, 120, 150]),
    "unheard": (3600, []),
    "talk": (29, []),
}


@pytest.mark.parametrize("name", BEATS)
def test_heartbeats_are_due(name: str) -> None:
    limit_s, expected = BEATS[name]
    assert [at // S for at in heartbeats(SCRIPTS[name], Micros(limit_s * S))] == expected


def test_the_first_heartbeat_may_come_at_once() -> None:
    at_once = Script(name="x", heartbeat_first=Micros(0))
    assert [at // S for at in heartbeats(at_once, Micros(61 * S))] == [0, 30, 60]


def test_the_disconnected_user_is_proven_by_heartbeats_alone() -> None:
    away = max(SCRIPTS["disconnect"].segments, key=lambda segment: segment.duration)
    assert away == Segment("silence", Micros(75 * S))


def test_a_seed_draws_the_same_conversations_again() -> None:
    def drawn(seed: int) -> list[Script]:
        source = SeededRandomness(seed, "conversations")
        return [draw(SCRIPTS["random"], source) for _ in range(20)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len({len(one.segments) for one in drawn(1)}) > 5
    for one in drawn(1):
        assert leaves_after(one, HOUR) >= min(HOUR, sum(segment.duration for segment in one.segments))


def test_a_conversation_is_drawn_of_what_is_asked_for() -> None:
    of = Draw(
        turns=(3, 5),
        in_turn=True,
        user_ms=(1_000, 2_000),
        agent_ms=(3_000, 4_000),
        pause_ms=(100, 200),
        long_pause_ms=(7_000, 8_000),
        long_pause_in=3,
        stays_ms=(9_000, 9_000),
        connects_ms=(1_000, 1_000),
    )
    source = SeededRandomness(1)
    found = [draw(Script(name="x", random=of), source) for _ in range(200)]
    assert {len(one.segments) for one in found} == {6, 8, 10}
    lasting: dict[str, set[int]] = {"user": set(), "agent": set(), "silence": set()}
    for one in found:
        assert [segment.type for segment in one.segments[::2]] == ["agent", "user", "agent", "user", "agent"][
            : len(one.segments) // 2
        ]
        assert one.agent_leaves == sum(segment.duration for segment in one.segments) + 9 * S
        assert one.connects_after == S
        for segment in one.segments:
            lasting[segment.type].add(segment.duration)
    assert (min(lasting["user"]) >= S, max(lasting["user"]) <= 2 * S) == (True, True)
    assert (min(lasting["agent"]) >= 3 * S, max(lasting["agent"]) <= 4 * S) == (True, True)
    pauses = [segment.duration for one in found for segment in one.segments[1::2]]
    long_ones = sum(duration > S for duration in pauses)
    assert all(S // 10 <= duration <= S // 5 or 7 * S <= duration <= 8 * S for duration in pauses)
    assert len(pauses) // 4 < long_ones < len(pauses) // 2


def test_what_was_drawn_before_ranges_could_be_named_is_drawn_again() -> None:
    """A seed is for ever: whoever noted one finds the same conversation."""
    one = draw(SCRIPTS["random"], SeededRandomness(7, "conversations"))
    assert len(one.segments) == 10
    assert one.agent_leaves == 92_681_000
