"""The simulated provider over HTTP: what it starts, what it tells, what it refuses."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.core.units import US_PER_S, parse_instant
from app.ports.clock import ScaledClock
from app.simulator import world as world_module
from app.simulator.config import Envelope, NextPage, SimulatorConfig
from app.simulator.script import built_in, parse_script
from app.simulator.web import MAX_REQUEST_BYTES
from tests.support.provider import KEY, Provider, provider

START = "/api/v1/session/start"


@pytest.fixture(scope="module")
def simulated() -> Iterator[Provider]:
    with provider(speed=100) as running:
        yield running


def pull(simulated: Provider, session_id: str, query: str = "") -> Any:
    answer = simulated.call("GET", f"/api/v1/session/{session_id}/timeline{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_start_answers_as_the_guide_says(simulated: Provider) -> None:
    answer = simulated.call("POST", START, json={"persona": "tutor", "scenario": "talk"})
    assert answer.status_code == 200
    body = answer.json()
    session_id = body["session"]["id"]
    assert body == {
        "session": {"id": session_id},
        "persona": "tutor",
        "scenario": "talk",
        "connection_details": {"url": "wss://connect.invalid", "token": f"sim-{session_id}"},
    }
    assert simulated.truth(session_id)["time_limit_s"] == 3600


REFUSED_STARTS: dict[str, object] = {
    "no object": [],
    "no persona": {"scenario": "talk"},
    "no scenario": {"persona": "default"},
    "a number as persona": {"persona": 1, "scenario": "talk"},
    "an empty persona": {"persona": "", "scenario": "talk"},
    "an endless scenario": {"persona": "default", "scenario": "x" * 201},
    "an unknown persona": {"persona": "nobody", "scenario": "talk"},
    "an unknown scenario": {"persona": "default", "scenario": "nothing"},
    "no time": {"persona": "default", "scenario": "talk", "time_limit_s": 0},
    "negative time": {"persona": "default", "scenario": "talk", "time_limit_s": -5},
    "broken time": {"persona": "default", "scenario": "talk", "time_limit_s": 1.5},
    "time as a text": {"persona": "default", "scenario": "talk", "time_limit_s": "60"},
    "time beyond a day": {"persona": "default", "scenario": "talk", "time_limit_s": 86_401},
    "a webhook that is none": {"persona": "default", "scenario": "talk", "webhook": "talk.example"},
    "a number as webhook": {"persona": "default", "scenario": "talk", "webhook": 7},
}


@pytest.mark.parametrize("case", REFUSED_STARTS)
def test_a_start_is_refused_for(case: str, simulated: Provider) -> None:
    before = simulated.call("GET", "/sim/sessions").json()["total"]
    answer = simulated.call("POST", START, json=REFUSED_STARTS[case])
    assert (answer.status_code, answer.json()["type"]) == (400, "invalid_input")
    assert simulated.call("GET", "/sim/sessions").json()["total"] == before


@pytest.mark.parametrize("body", [b"", b"{", b'{"persona": "\xff"}', b"[" * 10_000, b" " * (MAX_REQUEST_BYTES + 1)])
def test_a_start_that_cannot_be_read_is_refused(body: bytes, simulated: Provider) -> None:
    answer = simulated.call("POST", START, content=body)
    assert (answer.status_code, answer.json()["type"]) == (400, "invalid_input")


@pytest.mark.parametrize("key", ["", "wrong", KEY + "x", "\xff"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", START),
        ("GET", "/api/v1/session/x/timeline"),
        ("POST", "/api/v1/session/x/end"),
        ("GET", "/sim/sessions"),
        ("PUT", "/sim/faults"),
        ("PUT", "/sim/sessions/x/faults"),
        ("GET", "/sim/calls"),
    ],
)
def test_nothing_is_open_without_the_key(method: str, path: str, key: str, simulated: Provider) -> None:
    answer = simulated.call(method, path, headers={"x-api-key": key.encode("latin-1")})
    assert answer.status_code == 401


@pytest.mark.parametrize("path", ["/api/v1/session/nope/timeline", "/sim/sessions/nope", "/elsewhere"])
def test_what_is_not_there_is_404(path: str, simulated: Provider) -> None:
    assert simulated.call("GET", path).status_code == 404


def test_the_timeline_is_what_has_happened_and_grows_exactly(simulated: Provider) -> None:
    session_id = simulated.start("guide")
    connected_at = parse_instant(simulated.truth(session_id)["connected_at"])
    for _ in range(20):
        before = simulated.clock.now()
        values = pull(simulated, session_id)["body"]["values"]
        after = simulated.clock.now()
        total = round(sum(value["seconds"] for value in values) * US_PER_S)
        assert before - connected_at <= total <= after - connected_at
        time.sleep(0.01)
    assert len(values) == 12
    assert values == [*values[:11], {"type": "silence", "seconds": values[11]["seconds"]}]
    assert values[11]["seconds"] > 3


def test_the_agent_leaves_at_the_limit_and_silence_grows(simulated: Provider) -> None:
    session_id = simulated.start("endless", time_limit_s=10)
    while (truth := simulated.truth(session_id))["agent_alive"]:
        time.sleep(0.01)
    leaves_after = parse_instant(truth["agent_leaves_at"]) - parse_instant(truth["connected_at"])
    assert leaves_after == 10 * US_PER_S
    talk = [("agent", 7.4), ("silence", 0.8), ("user", 1.8)]
    assert [(v["type"], v["seconds"]) for v in truth["talk"]] == talk
    first, second = (pull(simulated, session_id)["body"]["values"] for _ in range(2))
    assert [(v["type"], v["seconds"]) for v in second[:3]] == talk
    assert [v["type"] for v in second[3:]] == ["silence"]
    assert second[3]["seconds"] > first[3]["seconds"]


def test_the_truth_says_where_each_segment_lies(simulated: Provider) -> None:
    session_id = simulated.start("talk", time_limit_s=8)
    assert simulated.truth(session_id)["talk"] == [
        {"type": "agent", "seconds": 4.2, "from_s": 0},
        {"type": "silence", "seconds": 1.1, "from_s": 4.2},
        {"type": "user", "seconds": 2.7, "from_s": 5.3},
    ]


PAGES = {
    NextPage.TOKEN: "cGFnZTox",
    NextPage.INTEGER: 2,
    NextPage.URL: "{url}/api/v1/session/{id}/timeline?page=cGFnZTox",
    NextPage.RELATIVE: "/api/v1/session/{id}/timeline?page=cGFnZTox",
}


@pytest.mark.parametrize("style", NextPage)
def test_next_page_is(style: NextPage) -> None:
    with provider(speed=1000, page_size=11, next_page=style, envelope=Envelope.BARE) as simulated:
        session_id = simulated.start("guide")
        while simulated.truth(session_id)["timeline"][-1]["from_s"] < 16:
            time.sleep(0.01)
        first = pull(simulated, session_id)
        expected = PAGES[style]
        if isinstance(expected, str):
            expected = expected.format(url=simulated.url, id=session_id)
        assert set(first) == {"values", "next_page", "total_count"}
        assert (len(first["values"]), first["next_page"], first["total_count"]) == (11, expected, 12)
        last = pull(simulated, session_id, "?page=" + str(expected).rpartition("=")[2])
        assert ([v["type"] for v in last["values"]], last["next_page"]) == (["silence"], None)
        for odd in ("0", "-1", "x", "cGFnZTo=", "1e3", "²", "%00"):
            path = f"/api/v1/session/{session_id}/timeline?page={odd}"
            if style is NextPage.INTEGER or odd in ("x", "cGFnZTo=", "%00", "²", "-1", "0", "1e3"):
                assert simulated.call("GET", path).status_code == 400, odd


def test_any_persona_and_scripts_of_ones_own() -> None:
    own = parse_script(b'{"name": "own", "segments": [["user", 1]], "connects_after_s": 50, "agent_leaves_s": 5}')
    scripts = built_in() | {"own": own}
    with provider(speed=1, any_persona=True, scripts=scripts, default_script="own") as simulated:
        by_name, by_default = simulated.start("own", persona="é"), simulated.start("whatever")
        for session_id in (by_name, by_default):
            truth = simulated.truth(session_id)
            assert truth["script"] == "own"
            assert parse_instant(truth["connected_at"]) - parse_instant(truth["started_at"]) == 50 * US_PER_S
            assert truth["timeline"] == []
            assert pull(simulated, session_id)["body"] == {"values": [], "next_page": None, "total_count": 0}


def test_a_seed_repeats_conversations_and_faults() -> None:
    def played(seed: int) -> list[Any]:
        with provider(seed=seed, speed=1) as simulated:
            talks = [simulated.truth(simulated.start("random"))["talk"] for _ in range(5)]
            simulated.misbehave(timeline_500=0.5)
            session_id = simulated.start("talk")
            path = f"/api/v1/session/{session_id}/timeline"
            return [talks, [simulated.call("GET", path).status_code for _ in range(20)]]

    one, again, other = played(1), played(1), played(2)
    assert one == again
    assert set(one[1]) == {200, 500}
    assert one[0] != other[0]


def test_faults_are_set_read_counted_and_refused(simulated: Provider) -> None:
    session_id = simulated.start("talk")
    path = f"/api/v1/session/{session_id}/timeline"
    simulated.misbehave(timeline_429={"count": 2})
    assert [simulated.call("GET", path).status_code for _ in range(4)] == [429, 429, 200, 200]
    report = simulated.call("GET", "/sim/faults").json()
    assert report["faults"] == {"timeline.429": {"probability": "1", "count": 0}}
    assert report["struck"]["timeline.429"] == 2
    for bad in (b"[]", b"{", b'{"x": 1}', b'{"timeline.500": 2}'):
        answer = simulated.call("PUT", "/sim/faults", content=bad)
        assert (answer.status_code, answer.json()["type"]) == (422, "invalid_input")
    # A refused change changes nothing.
    assert simulated.call("GET", "/sim/faults").json()["faults"] == report["faults"]
    simulated.misbehave()
    assert simulated.call("GET", "/sim/faults").json()["faults"] == {}


def test_one_session_has_faults_of_its_own(simulated: Provider) -> None:
    one, other = simulated.start("talk"), simulated.start("talk")

    def pulled(session_id: str) -> int:
        return simulated.call("GET", f"/api/v1/session/{session_id}/timeline").status_code

    path = f"/sim/sessions/{one}/faults"
    assert simulated.call("PUT", path, json={"timeline.404": 1}).json()["faults"]["timeline.404"]["probability"] == "1"
    assert [pulled(one), pulled(other), pulled(one)] == [404, 200, 404]
    for bad in ({"timeline.666": 1}, {"start.400": 1}):
        assert simulated.call("PUT", path, json=bad).status_code == 422
    assert pulled(one) == 404
    simulated.misbehave(timeline_500=1)
    assert [pulled(one), pulled(other)] == [404, 500]
    simulated.call("PUT", path, json={})
    assert pulled(one) == 500
    simulated.misbehave()
    assert [pulled(one), pulled(other)] == [200, 200]
    assert simulated.call("PUT", "/sim/sessions/nobody/faults", json={}).status_code == 404


def test_every_call_is_recorded_as_it_came() -> None:
    with provider(speed=100) as simulated:
        before = simulated.clock.now()
        session_id = simulated.start("talk")
        pull(simulated, session_id)
        simulated.misbehave(timeline_500=1, start_400=1)
        simulated.call("GET", f"/api/v1/session/{session_id}/timeline")
        simulated.call("POST", START, json={"persona": "tutor", "scenario": "talk"})
        simulated.call("POST", f"/api/v1/session/{session_id}/end")
        simulated.call("POST", START, json=[])
        told = simulated.call("GET", "/sim/calls").json()
        names = ("operation", "persona", "session_id", "fault")
        assert [tuple(call[name] for name in names) for call in told["data"]] == [
            ("start", "default", session_id, None),
            ("timeline", None, session_id, None),
            ("timeline", None, session_id, "500"),
            ("start", "tutor", None, "400"),
            ("end", None, session_id, None),
            ("start", None, None, None),
        ]
        instants = [before, *(parse_instant(call["at"]) for call in told["data"]), simulated.clock.now()]
        assert instants == sorted(instants)
        rest = simulated.call("GET", "/sim/calls?first=4").json()
        assert rest == {"data": told["data"][4:], "total": 6}
        assert simulated.call("GET", "/sim/calls?first=7").json() == {"data": [], "total": 6}
        assert simulated.call("GET", "/sim/calls?first=-1").status_code == 422


def test_old_calls_are_forgotten_and_their_numbers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "MAX_CALLS_KEPT", 2)
    with provider(speed=100) as simulated:
        for scenario in ("talk", "guide", "ghost"):
            session_id = simulated.start(scenario)
        told = simulated.call("GET", "/sim/calls?first=1").json()
        assert (len(told["data"]), told["total"]) == (2, 3)
        assert simulated.call("GET", "/sim/calls?first=2").json()["data"][0]["session_id"] == session_id


def test_an_end_cuts_the_talk_at_that_moment(simulated: Provider) -> None:
    session_id = simulated.start("endless")
    while len(simulated.truth(session_id)["timeline"]) < 3:
        time.sleep(0.001)
    before = simulated.clock.now()
    answer = simulated.call("POST", f"/api/v1/session/{session_id}/end")
    after = simulated.clock.now()
    assert (answer.status_code, answer.json()) == (200, {"id": session_id, "state": "ended"})
    truth = simulated.truth(session_id)
    ended_at = parse_instant(truth["ended_at"])
    assert before <= ended_at <= after
    assert (truth["agent_leaves_at"], truth["agent_alive"]) == (truth["ended_at"], False)
    said = round(sum(value["seconds"] for value in truth["talk"]) * US_PER_S)
    assert said == ended_at - parse_instant(truth["connected_at"])
    later = pull(simulated, session_id)["body"]["values"]
    assert later[-1]["type"] == "silence"
    assert sum(value["seconds"] for value in later) * US_PER_S > said
    assert simulated.call("POST", f"/api/v1/session/{session_id}/end").status_code == 200
    assert simulated.truth(session_id)["ended_at"] == truth["ended_at"]


def test_an_end_before_the_connection_leaves_nothing_but_silence() -> None:
    late = parse_script(b'{"name": "late", "segments": [["user", 5]], "connects_after_s": 5, "repeat": true}')
    with provider(speed=10, scripts=built_in() | {"late": late}) as simulated:
        session_id = simulated.start("late")
        assert simulated.call("POST", f"/api/v1/session/{session_id}/end").status_code == 200
        truth = simulated.truth(session_id)
        assert truth["ended_at"] == truth["agent_leaves_at"] < truth["connected_at"]
        while parse_instant(truth["connected_at"]) + US_PER_S > simulated.clock.now():
            time.sleep(0.01)
        assert {value["type"] for value in pull(simulated, session_id)["body"]["values"]} == {"silence"}


def test_an_agent_that_has_left_is_not_ended_again(simulated: Provider) -> None:
    session_id = simulated.start("talk", time_limit_s=1)
    while simulated.truth(session_id)["agent_alive"]:
        time.sleep(0.001)
    truth = simulated.truth(session_id)
    assert simulated.call("POST", f"/api/v1/session/{session_id}/end").status_code == 200
    again = simulated.truth(session_id)
    assert (again["ended_at"], again["agent_leaves_at"]) == (None, truth["agent_leaves_at"])


def test_the_number_of_sessions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "MAX_SESSIONS", 2)
    with provider(speed=1000) as simulated:
        over = simulated.start("talk", time_limit_s=1)
        live = simulated.start("endless", time_limit_s=86_400)
        while simulated.truth(over)["agent_alive"]:
            time.sleep(0.001)
        third = simulated.start("endless", time_limit_s=86_400)
        known = {session["session_id"] for session in simulated.call("GET", "/sim/sessions").json()["data"]}
        assert known == {live, third}
        full = simulated.call("POST", START, json={"persona": "default", "scenario": "talk"})
        assert full.status_code == 500


def test_a_taken_port_is_an_error(simulated: Provider) -> None:
    taken = SimulatorConfig(api_key=KEY, clock=simulated.clock, port=int(simulated.url.rpartition(":")[2]))
    with pytest.raises(OSError, match="in use"), provider(taken):
        pass


def test_the_command_runs_on_a_shared_clock_and_stops_when_asked(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"name": "mine", "segments": [["user", 2]]}')
    clock = ScaledClock.starting_now(50)
    program = "import typer; from app.simulator.command import gabber_sim; typer.run(gabber_sim)"
    options = ["--port", "0", "--api-key", "k", "--clock", str(clock), "--script", str(tmp_path / "mine.json")]
    command = [sys.executable, "-c", program, *options, "--fault", "start.429=0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."}) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) in (0, -signal.SIGINT)
    assert f'"clock": "{clock}"' in line
    assert '"api_key": "k"' in line
    assert '"url": "http://127.0.0.1:' in line
