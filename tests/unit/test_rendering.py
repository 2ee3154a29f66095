"""How amounts, instants and durations look on pages."""

import importlib
from decimal import Decimal
from typing import Any

import jinja2
import pytest

from app.core.units import Instant, parse_instant
from app.web.actions import Action
from app.web.assets import Assets
from app.web.rendering import DONE, Renderer, ago, grouped, shown_instant, signed, span, told


@pytest.mark.parametrize(
    ("amount", "shown"),
    [("0", "0"), ("1234567.5", "1,234,567.5"), ("-1234.000001", "−1,234.000001"), ("999", "999")],
)
def test_amounts(amount: str, shown: str) -> None:
    assert grouped(amount) == shown


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (
            "the evidence contradicts itself: timeline_longer_than_elapsed, bad_segment",
            "the evidence contradicts itself: timeline longer than the time that passed, unusable segments",
        ),
        ("settled by an operator: my_bad_segment_is_mine", "settled by an operator: my_bad_segment_is_mine"),
        ("", ""),
    ],
)
def test_reasons_name_what_is_odd_in_words(written: str, shown: str) -> None:
    assert told(written) == shown


def test_signed_amounts() -> None:
    assert [signed(one) for one in ("5", "-5", "0", "0.01")] == ["+5", "−5", "0", "+0.01"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (Decimal("0.25"), "0.25 s"),
        (130, "2 min 10 s"),
        (3600, "1 h"),
        (90_061, "1 d 1 h 1 min 1 s"),
        (Decimal("59.9994"), "59.999 s"),
        (None, "–"),
    ],
)
def test_durations(seconds: Decimal | int | None, shown: str) -> None:
    assert span(seconds) == shown


def test_instants_keep_their_digits() -> None:
    assert shown_instant("2026-01-31T12:00:05.250000Z") == (
        '<time datetime="2026-01-31T12:00:05.250000Z" title="2026-01-31T12:00:05.250000Z">31 Jan 2026, 12:00:05</time>'
    )


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ("2026-01-31T11:59:57Z", "3 s ago"),
        ("2026-01-31T11:59:59.000001Z", "now"),
        ("2026-01-31T12:00:00.9Z", "now"),
        ("2026-01-31T11:59:59Z", "1 s ago"),
        ("2026-01-31T10:00:00Z", "2 h ago"),
        ("2026-02-03T12:00:00Z", "in 3 days"),
        ("2026-01-30T11:00:00Z", "1 day ago"),
        (None, "never"),
    ],
)
def test_how_long_ago(at: str | None, told: str) -> None:
    assert ago(at, Instant(parse_instant("2026-01-31T12:00:00Z"))) == told


def test_everything_is_escaped_and_nothing_may_be_missing() -> None:
    renderer = Renderer(Assets())
    template = renderer._environment.from_string("{{ x }}|{{ x|credits }}")
    assert template.render(x="1") == "1|1"
    assert renderer._environment.from_string("{{ x }}").render(x="<b>") == "&lt;b&gt;"
    with pytest.raises(jinja2.UndefinedError):
        template.render()


def kinds_of(kind: type[Any]) -> set[type[Any]]:
    return {kind}.union(*(kinds_of(one) for one in kind.__subclasses__()))


def test_every_action_says_that_it_was_done() -> None:
    importlib.import_module("app.web.assembly")
    names = {name for kind in kinds_of(Action) if (name := vars(kind).get("name"))}
    assert len(names) > 20
    assert names <= set(DONE)
