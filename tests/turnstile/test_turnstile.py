"""A few meetings whole, and that what is wrong is found: ``make turnstile`` explores all of them."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from tests.support.postgres import WorkerDatabases
from tests.turnstile import __main__ as command_line
from tests.turnstile import gate
from tests.turnstile.acts import Act, funded, nothing
from tests.turnstile.controller import GatedRun, Told
from tests.turnstile.explorer import Event, explore, trace_of
from tests.turnstile.gate import gates
from tests.turnstile.pairs import MEETINGS, PAIRS, TRIPLES, Meeting
from tests.turnstile.runner import EXCERPT, Outcome, Table, examine, read_schedule, replay, written
from tests.turnstile.stage import Case, Made, Seat, Stage, stage

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.mark.parametrize("name", EXCERPT)
async def test_every_order_comes_to_what_a_serial_one_does(databases: WorkerDatabases, name: str) -> None:
    with databases.fresh() as urls:
        report = await examine(MEETINGS[name], urls)
    assert report.violation is None
    assert report.faults == []
    assert report.runs > len(report.outcomes) > 1
    assert report.cut <= report.runs
    assert report.runs == documented()[name]


def documented() -> dict[str, int]:
    """How many runs the documentation says that each meeting has."""
    text = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")
    found = re.findall(r"\| `([a-z/-]+)` \| ([\d,]+) (?=\|)", text)
    return {name: int(count.replace(",", "")) for name, count in found}


def test_the_documentation_names_every_meeting() -> None:
    assert documented().keys() == MEETINGS.keys()


async def test_some_of_three(databases: WorkerDatabases) -> None:
    with databases.fresh() as urls:
        report = await examine(MEETINGS["start/start/top-up"], urls, most=8)
    assert report.violation is None
    assert report.faults == []
    assert report.runs + report.cut == 8
    assert report.known > 8


async def test_no_order_at_random_is_one_that_was_not_tried(databases: WorkerDatabases) -> None:
    """Whatever comes about by chance is equivalent to a run that was explored, and comes to the same."""
    meeting, random = MEETINGS["heartbeat/settle"], Random(1)
    with databases.fresh() as urls, gates():
        async with stage(urls, len(meeting.actors)) as on_stage:
            await on_stage.keep(await meeting.prepare(on_stage))
            table = Table(meeting, on_stage)
            known: dict[object, Outcome] = {}
            async for run in explore(table):
                assert isinstance(run.execution, GatedRun)
                outcome, _ = await table.judged(run.execution)
                known[trace_of(run.events)] = outcome
            assert len(set(known.values())) > 1
            for _ in range(15):
                gated = await table.run()
                events: list[Event] = []
                while choices := gated.choices():
                    events += await gated.go(random.choice(sorted(choices)))
                outcome, _ = await table.judged(gated)
                assert known[trace_of(events)] == outcome


# What must be found


def spending(*, lock: bool) -> Act:
    """Takes 30 of 40 if they are there: adds up what was taken, then inserts; with or without a lock of the account."""

    async def act(seat: Seat, case: Case) -> Told:
        conninfo = seat.world.service.database.conninfo
        mine = {"a": case.account_id}
        async with await psycopg.AsyncConnection.connect(conninfo, prepare_threshold=None) as connection:
            if lock:
                await connection.execute("SELECT 1 FROM accounts WHERE account_id = %(a)s FOR UPDATE", mine)
            cursor = await connection.execute(
                "SELECT coalesce(sum(amount), 0) FROM spent WHERE account_id = %(a)s", mine
            )
            row = await cursor.fetchone()
            if row is None or row[0] > 10:
                return Told("refused")
            await connection.execute("INSERT INTO spent VALUES (%(a)s, 30)", mine)
        return Told("spent")

    return act


async def with_a_table(on_stage: Stage) -> Made:
    await on_stage.watch.execute("create table spent (account_id uuid, amount bigint)")
    await on_stage.watch.execute("grant all on spent to public")
    return await funded("40")(on_stage)


def spenders(*, lock: bool) -> Meeting:
    return Meeting(
        name="spend/spend",
        actors=[("spend", spending(lock=lock))] * 2,
        prepare=with_a_table,
        must=frozenset({("spent", "refused"), ("refused", "spent")}),
    )


async def test_a_sum_and_then_an_insert_is_found(databases: WorkerDatabases) -> None:
    with databases.fresh() as urls:
        report = await examine(spenders(lock=False), urls)
    assert report.violation is not None
    assert report.violation.answers == ("spent", "spent")
    assert "no serial order" in report.violation.what[0]
    assert report.runs <= 20
    with databases.fresh() as urls:
        again = await replay(spenders(lock=False), urls, report.violation.schedule)
    assert again.schedule == report.violation.schedule
    assert again.answers == report.violation.answers
    assert [step.shown for step in again.trace] == [step.shown for step in report.violation.trace]
    assert again.problems


async def test_with_a_lock_of_the_account_it_is_right(databases: WorkerDatabases) -> None:
    with databases.fresh() as urls:
        report = await examine(spenders(lock=True), urls)
    assert report.held, (report.violation, report.faults)
    assert report.blocked > 0


async def test_a_deadlock_is_found(databases: WorkerDatabases) -> None:
    async def both(seat: Seat, case: Case) -> Told:
        conninfo = seat.world.service.database.conninfo
        async with await psycopg.AsyncConnection.connect(conninfo, prepare_threshold=None) as connection:
            for n in (1, 2) if seat.actor.name == "a" else (2, 1):
                await connection.execute(f"UPDATE spent SET amount = amount WHERE amount = {n}".encode())
        return Told("done")

    async def two_rows(on_stage: Stage) -> Made:
        made = await with_a_table(on_stage)
        await on_stage.watch.execute("insert into spent values (null, 1), (null, 2)")
        await on_stage.watch.execute("set deadlock_timeout = '20ms'")
        return made

    meeting = Meeting(name="cross", actors=[("a", both), ("b", both)], prepare=two_rows, must=frozenset())
    with databases.fresh() as urls:
        report = await examine(meeting, urls)
    assert report.violation is not None
    assert any("deadlock" in line for line in report.violation.what)
    assert any("40P01" in line for line in report.violation.what)


async def test_what_never_came_about_fails_the_run(databases: WorkerDatabases) -> None:
    meeting = replace(
        MEETINGS["same-key-grant"], must=frozenset({("201", "402")}), beside={("201", "409 other"): "never"}
    )
    with databases.fresh() as urls:
        report = await examine(meeting, urls)
    assert report.faults == [
        "never came about: 201, 402",
        "named as beside the serial orders, and never came about: 201, 409 other",
    ]


async def test_actors_that_never_meet_fail_the_run(databases: WorkerDatabases) -> None:
    async def alone(seat: Seat, case: Case) -> Told:
        user = f"{case.user}-{seat.actor.name}"
        response = await seat.world.client.get(f"/v1/users/{user}/balance")
        return Told(str(response.status_code))

    meeting = Meeting(name="alone", actors=[("a", alone), ("b", alone)], prepare=nothing, must=frozenset())
    with databases.fresh() as urls:
        report = await examine(meeting, urls)
    assert report.runs == 1
    assert report.faults == ["some actor never met another one"]


@pytest.fixture
def command(databases: WorkerDatabases, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``python -m tests.turnstile`` on the server that is there anyhow."""
    monkeypatch.setattr(command_line, "databases_of_one_run", lambda: nullcontext(databases))
    return lambda *arguments: command_line.main(arguments)


def test_the_command_prints_a_table(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--pair", "same-key-grant", "--outcomes") == 0
    out = capsys.readouterr().out
    assert "same-key-grant" in out
    assert "2 times: 201, 201 replayed" in out
    assert "all held" in out


def test_the_command_finds_a_service_without_row_locks(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = gate._gated_execute

    async def without_locks(cursor: Any, query: Any, *given: Any, **options: Any) -> Any:
        text = query.replace(" FOR UPDATE", "") if isinstance(query, str) else query
        return await execute(cursor, text, *given, **options)

    with monkeypatch.context() as planted, capture_logs():
        planted.setattr(gate, "_gated_execute", without_locks)
        assert command("--pair", "start/start") == 1
        out = capsys.readouterr().out
        found = re.search(r"make turnstile PAIR=start/start SCHEDULE=(\S+)", out)
        assert found is not None, out
        assert "wrong: start/start" in out
        assert command("--pair", "start/start", "--schedule", found[1]) == 1
        assert "does not hold" in capsys.readouterr().out
    # The same order with the locks that belong there: some statement waits now, and all is well.
    assert command("--pair", "start/start", "--schedule", "a4b4") == 0
    out = capsys.readouterr().out
    assert "← waits" in out
    assert "b goes on" in out
    assert command("--pair", "start/start", "--schedule", "a4b4a40") == 2


def test_what_is_asked_for_wrongly(command: Callable[..., int]) -> None:
    for arguments in (["--pair", "no/such"], ["--schedule", "a1"], ["--pair", "start/start", "--schedule", "x"]):
        with pytest.raises(SystemExit) as refused:
            command(*arguments)
        assert refused.value.code == 2


def test_schedules_are_written_and_read() -> None:
    assert written([0, 0, 1, 0, 2]) == "a2b1a1c1"
    assert read_schedule("a2b1a1c1") == [0, 0, 1, 0, 2]
    for wrong in ("d1", "a", "1a", "a1 b1"):
        with pytest.raises(ValueError, match="schedule"):
            read_schedule(wrong)


def test_every_meeting_has_its_own_name() -> None:
    assert len(MEETINGS) == len(PAIRS) + len(TRIPLES)
    assert all(len(meeting.actors) == 2 for meeting in PAIRS)
    assert all(len(meeting.actors) == 3 for meeting in TRIPLES)
    assert set(EXCERPT) <= set(MEETINGS)
