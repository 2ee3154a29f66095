"""A session's picture: what stands where, what is folded, that it says everything in words, and stays small."""

import json
import re
from collections.abc import Sequence
from random import Random
from xml.etree import ElementTree

import pytest

from app.core.alignment import Pull
from app.core.buckets import Reason
from app.core.charge import Evidence, charge
from app.core.lossless_json import loads
from app.core.outages import Outage
from app.core.rate_card import DEFAULT_RATE_CARD
from app.core.timeline import Anomaly, SegmentType, normalise
from app.core.units import US_PER_S, Instant, Micros
from app.pictures import SessionPicture, draw
from app.pictures.axis import FOLD_PX, MOST_MARKS, axis_of, clock, length
from app.pictures.lanes import MOST_EXACT, Stretch, blocks, places
from app.pictures.words import ANOMALIES, BILLED, REASONS, TYPES

T0 = Instant(1_772_366_400 * US_PER_S)
SESSION = "ses_0jwkerdkyhvhpvxb005e8x47w4r1kjmma2g0e008fpp5x0186658"
SVG = "{http://www.w3.org/2000/svg}"
LIMIT_BYTES = 150_000


def us(seconds: float) -> Micros:
    return Micros(round(seconds * US_PER_S))


def picture(
    said: Sequence[tuple[str, float]],
    *,
    beats: Sequence[float] = (0, 30, 60),
    limit_s: int = 600,
    outages: Sequence[tuple[float, float]] = (),
    state: str = "settled",
    interim: bool = False,
) -> SessionPicture:
    values = loads(json.dumps([{"type": kind, "seconds": seconds} for kind, seconds in said]))
    assert isinstance(values, list)
    timeline = normalise(values)
    pulled = Instant(T0 + timeline.end)
    evidence = Evidence(
        requested_at=T0,
        time_limit=us(limit_s),
        heartbeats=[Instant(T0 + us(beat)) for beat in beats],
        pulls=[Pull(pulled, pulled, timeline.end, timeline.speech)],
        timeline=timeline,
        card=DEFAULT_RATE_CARD,
        authorized=None,
        interim=interim,
    )
    return SessionPicture(
        session_id=SESSION,
        state=state,
        final=not interim,
        charge=charge(evidence),
        evidence=evidence,
        outages=[Outage(Instant(T0 + us(start)), Instant(T0 + us(end))) for start, end in outages],
    )


TALK = [("agent", 10.0), ("silence", 20.0), ("user", 5.0), ("beep", 1.0), ("agent", 4.0), ("silence", 7.0)]


def drawn(what: SessionPicture) -> ElementTree.Element:
    return ElementTree.fromstring(draw(what))


def titles(root: ElementTree.Element) -> list[str]:
    return [title.text or "" for title in root.iter(f"{SVG}title")][1:]


def texts(root: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


# The axis


@pytest.mark.parametrize(
    ("busy", "end", "shown"),
    [
        pytest.param(60, 60, 60, id="no tail"),
        pytest.param(60, 90, 90, id="a short one"),
        pytest.param(60, 91, 70, id="one second too long"),
        pytest.param(0, 300_000, 10, id="nothing but silence"),
        pytest.param(3_600, 4_200, 4_200, id="a sixth of an hour"),
        pytest.param(3_600, 4_201, 3_900, id="more"),
    ],
)
def test_a_long_tail_is_folded(busy: int, end: int, shown: int) -> None:
    axis = axis_of(busy=us(busy), end=us(end), left_px=100, width_px=800)
    assert (axis.shown, axis.folded) == (us(shown), us(end - shown))
    assert axis.at(0) == 1000
    assert axis.at(us(shown)) == 9000 - (10 * FOLD_PX if shown != end else 0)
    assert axis.at(us(end)) == 9000
    assert axis.at(us(end) + 10**15) == 9000
    assert axis.at(-5) == 1000
    in_order = [axis.at(us(end) * part // 97) for part in range(98)]
    assert in_order == sorted(in_order)


@pytest.mark.parametrize("shown_s", [1, 9, 10, 11, 59, 61, 600, 3_599, 86_400, 10**7, 10**9])
def test_an_axis_has_few_and_round_marks(shown_s: int) -> None:
    marks = axis_of(busy=us(shown_s), end=us(shown_s), left_px=0, width_px=100).marks()
    assert marks[0] == 0
    assert 2 <= len(marks) <= MOST_MARKS + 1
    assert all(mark % US_PER_S == 0 and mark <= us(shown_s) for mark in marks)


def test_less_than_a_second_has_its_beginning_marked() -> None:
    assert axis_of(busy=Micros(7), end=Micros(7), left_px=0, width_px=100).marks() == [0]
    assert axis_of(busy=Micros(0), end=Micros(0), left_px=0, width_px=100).at(0) == 0


@pytest.mark.parametrize(
    ("seconds", "on_the_axis", "in_words"),
    [
        (0, "0:00", "0 s"),
        (0.04, "0:00", "under 0.1 s"),
        (0.5, "0:00", "0.5 s"),
        (59.99, "0:59", "59.9 s"),
        (60, "1:00", "1 min"),
        (130.9, "2:10", "2 min 10 s"),
        (3_600, "1:00:00", "1 h"),
        (3_661, "1:01:01", "1 h 1 min"),
        (3_601, "1:00:01", "1 h"),
        (300_000, "83:20:00", "3 d 11 h"),
    ],
)
def test_times_are_told_shortly(seconds: float, on_the_axis: str, in_words: str) -> None:
    assert (clock(us(seconds)), length(us(seconds))) == (on_the_axis, in_words)


# Lanes


def test_few_stretches_are_drawn_exactly_and_none_is_lost_by_being_short() -> None:
    axis = axis_of(busy=us(1_000), end=us(1_000), left_px=0, width_px=1_000)
    found = blocks(
        [
            Stretch("user", us(0), us(10), "a"),
            Stretch("agent", us(10), us(10.001), "b"),
            Stretch("user", us(20), us(20), "empty"),
            Stretch("user", us(-9), us(-1), "before"),
            Stretch("user", us(1_001), us(1_002), "after"),
        ],
        axis,
    )
    assert found == [("user", 0, 100, "a"), ("agent", 100, 104, "b")]


def test_many_stretches_are_told_by_what_prevails_in_each_pixel() -> None:
    axis = axis_of(busy=us(1_000), end=us(1_000), left_px=0, width_px=1_000)
    many = [
        stretch
        for second in range(1_000)
        for stretch in (
            Stretch("user", us(second), us(second + 0.3), ""),
            Stretch("agent" if second < 500 else "silence", us(second + 0.3), us(second + 1), ""),
        )
    ]
    assert len(many) > MOST_EXACT
    assert blocks(many, axis) == [("agent", 0, 5_000, None), ("silence", 5_000, 10_000, None)]
    apart = [Stretch("user", us(second), us(second + 0.001), "") for second in range(0, 1_000, 2)]
    assert len(blocks(apart, axis)) == 500, "each is seen, however short"


def test_moments_are_drawn_once_a_pixel() -> None:
    axis = axis_of(busy=us(100), end=us(100), left_px=10, width_px=100)
    assert places([us(0), us(0.1), us(50), us(100), us(101), us(-3)], axis) == [10, 60, 110]


# The picture


def test_the_lanes_show_what_the_charge_rests_on() -> None:
    root = drawn(picture(TALK, outages=[(31, 33), (-100, -50)]))
    said = titles(root)
    assert [title for title in said if title.startswith(("user", "agent", "silence", "unknown"))] == [
        "agent, 0:00 to 0:10 (10 s)",
        "silence, 0:10 to 0:30 (20 s)",
        "user, 0:30 to 0:35 (5 s)",
        "unknown, 0:35 to 0:36 (1 s)",
        "agent, 0:36 to 0:40 (4 s)",
        "silence, 0:40 to 0:47 (7 s)",
    ]
    assert "proven alive, 0:00 to 0:47 (47 s)" in said or "proven alive, 0:00 to 1:00 (1 min)" in said
    assert "billed, silence, 0:10 to 0:15 (5 s)" in said
    assert "not billed, silence: long silence, 0:15 to 0:30 (15 s)" in said
    assert "not billed, unknown: of an unknown type, 0:35 to 0:36 (1 s)" in said
    assert "we could not receive heartbeats, 0:31 to 0:33 (2 s)" in said
    assert "3 heartbeats" in said
    labels = texts(root)
    assert {"heartbeats", "proven alive", "timeline", "billed", "not billed", "our outages"} <= set(labels)
    assert "Anomalies: segments of an unknown type" in " ".join(labels)
    assert f"{SESSION}" in labels


def test_places_are_to_scale() -> None:
    root = drawn(picture([("agent", 10.0), ("user", 30.0), ("agent", 20.0)]))
    widths = {
        title.text: float(block.get("width", "0"))
        for block in root.iter(f"{SVG}rect")
        for title in block.iter(f"{SVG}title")
    }
    assert widths["user, 0:10 to 0:40 (30 s)"] == pytest.approx(3 * widths["agent, 0:00 to 0:10 (10 s)"], abs=0.2)


def test_without_outages_there_is_no_lane_of_them() -> None:
    assert "our outages" not in texts(drawn(picture(TALK)))


def test_the_words_say_all_of_it() -> None:
    description = drawn(picture(TALK, outages=[(31, 33)])).findtext(f"{SVG}desc")
    assert description is not None
    for words in (
        "29 credits charged; the session is settled.",
        "3 heartbeats from 0:00 to 1:00.",
        "The timeline is 47 s long: user 5 s, agent 14 s, silence 27 s, unknown 1 s.",
        "Billed: agent 14 s, ",
        "17 s long silence",
        "1 s of an unknown type",
        "The time limit is 10 min.",
        "We could not receive heartbeats, 0:31 to 0:33 (2 s).",
        "Anomalies: ",
    ):
        assert words in description


def test_what_runs_has_accrued_and_its_open_end_is_told() -> None:
    root = drawn(picture(TALK, state="live", interim=True))
    assert any("accrued so far · live" in text for text in texts(root))
    assert any(title.startswith("not billed, silence: still growing") for title in titles(root))


def test_a_tail_of_days_takes_a_small_place_and_says_how_long_it_is() -> None:
    root = drawn(picture([*TALK, ("silence", 300_000.0)]))
    assert "+ 3 d 11 h" in texts(root)
    assert "3 d 11 h more, not to scale" in titles(root)
    assert "0:40" in texts(root), "what was said is to scale"
    assert not any(text.startswith("time limit") for text in texts(root)), "it is far out, and told in words"


def test_a_time_limit_that_is_near_is_drawn() -> None:
    assert "time limit 50 s" in texts(drawn(picture([*TALK, ("user", 30.0)], limit_s=50)))


def test_a_session_of_which_nothing_is_known_has_a_picture() -> None:
    root = drawn(picture([], beats=[]))
    assert "none was received" in texts(root)
    assert "No heartbeat was received." in (root.findtext(f"{SVG}desc") or "")


@pytest.mark.parametrize("count", [201, 5_000, 40_000])
def test_hours_of_talk_stay_light(count: int) -> None:
    chance = Random(count)
    said = [(chance.choice(["user", "agent", "silence", "beep"]), chance.uniform(0.2, 9)) for _ in range(count)]
    total = int(sum(seconds for _, seconds in said))
    text = draw(picture(said, beats=range(0, total, 30), limit_s=total))
    assert len(text.encode()) < LIMIT_BYTES
    ElementTree.fromstring(text)


def test_the_worst_for_size_is_below_the_limit_too() -> None:
    """As many stretches as are drawn each by itself, in every lane."""
    said = [("user" if n % 2 else "silence", 6.0) for n in range(MOST_EXACT)]
    text = draw(picture(said, beats=range(0, 1_800, 1), limit_s=3_600, outages=[(n, n + 0.5) for n in range(300)]))
    assert len(text.encode()) < LIMIT_BYTES


def test_it_needs_nothing_else_and_runs_nothing() -> None:
    text = draw(picture(TALK, state='<script>"&\x27'))
    root = ElementTree.fromstring(text)
    assert {node.tag.removeprefix(SVG) for node in root.iter()} <= {
        "svg", "title", "desc", "style", "defs", "pattern", "path", "rect", "text", "tspan",
    }  # fmt: skip
    assert re.findall(r"https?://[^\s\"]+", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"href|url\((?!#)|\son\w+=|@import", text)
    assert root.get("role") == "img"


def test_each_colour_stands_with_its_shape() -> None:
    """A reader of e-mail may throw the style sheet away."""
    root = drawn(picture(TALK, outages=[(31, 33)]))
    for node in root.iter():
        if node.tag in {f"{SVG}rect", f"{SVG}path", f"{SVG}text", f"{SVG}tspan"}:
            assert node.get("fill") or node.get("stroke"), ElementTree.tostring(node)


def test_there_are_words_for_everything() -> None:
    assert REASONS.keys() == set(Reason)
    assert ANOMALIES.keys() == set(Anomaly)
    assert TYPES.keys() == set(SegmentType)
    assert {"user", "agent", "silence", "reduced_rate"} == BILLED.keys()
