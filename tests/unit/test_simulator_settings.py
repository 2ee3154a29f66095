"""Scripts and faults as they are written: what is read, and what is refused with which words."""

import json
from collections import Counter

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.core.lossless_json import loads
from app.core.units import US_PER_S, Micros
from app.ports.clock import SystemClock
from app.ports.randomness import SeededRandomness
from app.simulator import script as script_module
from app.simulator.config import SimulatorConfig
from app.simulator.faults import KNOWN, Faults, InvalidFault, Setting, parse_settings
from app.simulator.poster import checked_webhook
from app.simulator.script import BUILT_IN, MAX_SEGMENTS, Draw, InvalidScript, Script, Segment, built_in, parse_script


def test_every_field_of_a_script() -> None:
    text = b"""{"name": "mine", "about": "A", "segments": [["user", 1.5], ["laughter", 0]], "repeat": true,
      "random": false, "agent_leaves_s": 12.25, "connects_after_s": 2, "heartbeats": {"first_s": 0, "every_s": 10},
      "grows_after_leaving": false}"""
    assert parse_script(text) == Script(
        name="mine",
        about="A",
        segments=(Segment("user", Micros(1_500_000)), Segment("laughter", Micros(0))),
        repeat=True,
        agent_leaves=Micros(12_250_000),
        connects_after=Micros(2 * US_PER_S),
        heartbeat_first=Micros(0),
        heartbeat_every=Micros(10 * US_PER_S),
        grows_after_leaving=False,
    )


def test_what_a_random_script_draws_of() -> None:
    text = b"""{"name": "lesson", "random": {"turns": [4, 9], "in_turn": true, "user_s": [0.5, 8], "agent_s": [2, 15],
      "pause_s": [0.1, 1.25], "long_pause_s": [6, 20], "long_pause_in": 5, "stays_s": [0, 30], "connects_s": [1, 1]}}"""
    assert parse_script(text).random == Draw(
        turns=(4, 9),
        in_turn=True,
        user_ms=(500, 8_000),
        agent_ms=(2_000, 15_000),
        pause_ms=(100, 1_250),
        long_pause_ms=(6_000, 20_000),
        long_pause_in=5,
        stays_ms=(0, 30_000),
        connects_ms=(1_000, 1_000),
    )
    assert parse_script(b'{"name": "x", "random": {}}').random == parse_script(b'{"name": "x", "random": true}').random
    assert parse_script(b'{"name": "x", "random": false}').random is None


def test_the_built_in_scripts_are_what_the_manual_lists() -> None:
    scripts = built_in()
    assert tuple(scripts) == BUILT_IN == tuple(script.name for script in scripts.values())
    assert all(script.about for script in scripts.values())


BAD_SCRIPTS = {
    "no JSON": ("{", "not valid JSON"),
    "no object": ("[]", "JSON object"),
    "no name": ("{}", "name"),
    "a name with a slash": ('{"name": "a/b"}', "name"),
    "a number as name": ('{"name": 7.5e}', "not valid JSON"),
    "an unknown field": ('{"name": "x", "segmets": []}', "unknown fields"),
    "segments no list": ('{"name": "x", "segments": {}}', "segments"),
    "a segment of one": ('{"name": "x", "segments": [["user"]]}', "segments/0"),
    "a segment without seconds": ('{"name": "x", "segments": [["user", 1], ["user", "1"]]}', "segments/1"),
    "negative seconds": ('{"name": "x", "segments": [["user", -1]]}', "segments/0"),
    "NaN seconds": ('{"name": "x", "segments": [["user", NaN]]}', "segments/0"),
    "nanoseconds": ('{"name": "x", "segments": [["user", 0.0000001]]}', "segments/0"),
    "an empty type": ('{"name": "x", "segments": [["", 1]]}', "segments/0"),
    "a number as type": ('{"name": "x", "segments": [[1, 1]]}', "segments/0"),
    "repeating nothing": ('{"name": "x", "repeat": true}', "repeat"),
    "repeating no time": ('{"name": "x", "repeat": true, "segments": [["user", 0]]}', "repeat"),
    "a random one with segments": ('{"name": "x", "random": true, "segments": [["user", 1]]}', "random"),
    "random a number": ('{"name": "x", "random": 1}', "random: true, false"),
    "random misspelt": ('{"name": "x", "random": {"user": [1, 2]}}', "random: true, false"),
    "random of one": ('{"name": "x", "random": {"user_s": 1}}', "random/user_s: a pair"),
    "random backwards": ('{"name": "x", "random": {"user_s": [2, 1]}}', "random/user_s: whole milliseconds"),
    "random below milliseconds": ('{"name": "x", "random": {"user_s": [0.0001, 1]}}', "random/user_s: whole"),
    "random without turns": ('{"name": "x", "random": {"turns": [0, 3]}}', "random/turns: whole numbers from 1"),
    "random of half a turn": ('{"name": "x", "random": {"turns": [1.5, 3]}}', "random/turns: whole numbers from 1"),
    "random with turns backwards": ('{"name": "x", "random": {"turns": [3, 2]}}', "random/turns: the fewest first"),
    "random with no long pause": ('{"name": "x", "random": {"long_pause_in": 0}}', "random/long_pause_in"),
    "random in turn no flag": ('{"name": "x", "random": {"in_turn": 1}}', "in_turn: true or false"),
    "repeat no flag": ('{"name": "x", "repeat": 1}', "repeat"),
    "leaving NaN": ('{"name": "x", "agent_leaves_s": NaN}', "agent_leaves_s"),
    "heartbeats a number": ('{"name": "x", "heartbeats": 30}', "heartbeats"),
    "heartbeats misspelt": ('{"name": "x", "heartbeats": {"each_s": 3}}', "heartbeats"),
    "heartbeats too fast": ('{"name": "x", "heartbeats": {"every_s": 0.5}}', "every_s"),
    "too many segments": (json.dumps({"name": "x", "segments": [["user", 1]] * (MAX_SEGMENTS + 1)}), "at most"),
}


@pytest.mark.parametrize("case", BAD_SCRIPTS)
def test_no_script(case: str) -> None:
    text, said = BAD_SCRIPTS[case]
    with pytest.raises(InvalidScript, match=said):
        parse_script(text.encode())


def test_a_script_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script_module, "MAX_SCRIPT_BYTES", 10)
    with pytest.raises(InvalidScript, match="at most 10 bytes"):
        parse_script(b'{"name": "x"}')


GOOD_FAULTS = {
    '{"timeline.500": 0.1}': {"timeline.500": Setting(100_000)},
    '{"timeline.500": "0.000001"}': {"timeline.500": Setting(1)},
    '{"timeline.500": 1, "start.429": 0}': {"timeline.500": Setting(1_000_000), "start.429": Setting(0)},
    '{"heartbeat.lost": {"probability": 0.5, "count": 3}}': {"heartbeat.lost": Setting(500_000, 3)},
    '{"heartbeat.lost": {"count": 3}}': {"heartbeat.lost": Setting(1_000_000, 3)},
    '{"heartbeat.lost": {}}': {"heartbeat.lost": Setting(1_000_000)},
    "{}": {},
}


@pytest.mark.parametrize("text", GOOD_FAULTS)
def test_faults(text: str) -> None:
    assert parse_settings(loads(text)) == GOOD_FAULTS[text]


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        '{"timeline.666": 1}',
        '{"timeline": 1}',
        '{"timeline.500": 1.1}',
        '{"timeline.500": -0.1}',
        '{"timeline.500": NaN}',
        '{"timeline.500": 1e-3}',
        '{"timeline.500": 0.0000001}',
        '{"timeline.500": true}',
        '{"timeline.500": null}',
        '{"timeline.500": [1]}',
        '{"timeline.500": {"chance": 1}}',
        '{"timeline.500": {"count": -1}}',
        '{"timeline.500": {"count": 1.5}}',
        '{"timeline.500": {"count": "3"}}',
        '{"timeline.500": {"count": 1000001}}',
    ],
)
def test_no_faults(text: str) -> None:
    with pytest.raises(InvalidFault):
        parse_settings(loads(text))


def test_the_command_names_the_faults_that_exist_as_no_server_runs_yet() -> None:
    shown = CliRunner(env={"COLUMNS": "4000"}).invoke(cli, ["gabber-sim", "--fault", "x"])
    assert shown.exit_code == 2
    assert "--fault x: unknown fault; those that exist: " in shown.output
    assert all(name in shown.output for name in KNOWN)
    assert "GET /sim/faults" not in shown.output


def test_a_seed_strikes_the_same_faults_again_and_about_as_often_as_said() -> None:
    def struck(seed: int) -> list[str | None]:
        faults = Faults({"timeline.500": Setting(200_000), "start.429": Setting(1_000_000)}, SeededRandomness(seed))
        return [faults.strike("timeline") for _ in range(1000)]

    assert struck(1) == struck(1) != struck(2)
    assert set(struck(1)) == {None, "500"}
    assert 150 < Counter(struck(1))["500"] < 250


def test_a_counted_fault_ends_and_is_counted() -> None:
    faults = Faults({"timeline.500": Setting(1_000_000, 2)}, SeededRandomness(1))
    assert [faults.strike("timeline") for _ in range(4)] == ["500", "500", None, None]
    assert faults.report()["struck"] == {"timeline.500": 2}
    assert faults.report()["known"] == KNOWN


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "/x",
        "ftp://a/x",
        "http://",
        "http:///x",
        "http://a:0/",
        "http://a:99999/",
        "http://u@a/",
        "http://[::1/",
        "http://a/\r\nx: y",
        "http://a/ b",
        "http://é/",
        "http://a/" + "x" * 2048,
    ],
)
def test_no_webhook(url: str) -> None:
    assert checked_webhook(url) is None


@pytest.mark.parametrize(
    "url", ["http://a", "https://a/x?y=z", "http://127.0.0.1:8000/webhooks/gabber/t", "http://[::1]:8/"]
)
def test_a_webhook(url: str) -> None:
    assert checked_webhook(url) is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"api_key": ""},
        {"api_key": "é"},
        {"default_script": "nope"},
        {"page_size": 0},
        {"page_size": 10_001},
        {"default_time_limit_s": 0},
        {"default_time_limit_s": 86_401},
        {"heartbeat_retries": 11},
    ],
)
def test_no_configuration(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"key|script|page|limit|retried"):
        SimulatorConfig(**({"api_key": "k", "clock": SystemClock()} | fields))  # type: ignore[arg-type]


def test_the_key_is_not_in_the_configurations_repr() -> None:
    assert "hush" not in repr(SimulatorConfig(api_key="hush", clock=SystemClock()))
