"""``talktime replay``: stored charges are made again from what is stored, and whatever was changed since shows."""

import asyncio
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from app.cli import cli
from app.core.engines import ENGINES, UnknownEngine, engine_of
from app.core.units import parse_instant
from app.db.database import Database
from app.db.embedded import DatabaseUrls
from app.errors import Problem
from app.settlement import replay
from tests.support.clock import ManualClock
from tests.support.postgres import WorkerDatabases, ask
from tests.support.scripted_provider import ProviderHost, ScriptedProvider
from tests.support.world import world

Run = Callable[..., Result]
KEYS = {
    "charges": "session_id, version", "snapshots": "session_id, n", "sessions": "id", "rate_cards": "id",
}  # fmt: skip
"""What tells the rows of a table apart."""


@dataclass(frozen=True)
class Stored:
    urls: DatabaseUrls
    session: str
    session_id: str
    other: str
    running: str


async def _make(urls: DatabaseUrls, provider: ScriptedProvider) -> Stored:
    async with world(urls.service, provider, clock=ManualClock(parse_instant("2024-02-28T12:00:00Z"))) as talktime:
        user = talktime.user()
        await talktime.grant(user, "1000")
        sessions = []
        for _ in range(2):
            session = await talktime.start(user, time_limit_s=90)
            for _ in range(3):
                talktime.clock.advance(30)
                assert (await talktime.heartbeat(session)).status_code == 204
            talktime.provider.say(session["provider_session_id"], ("agent", 20), ("silence", 30), ("user", 10))
            await talktime.reconcile()
            assert (await talktime.settle(session))["state"] == "settled"
            sessions.append(session)
        running = await talktime.start(user, time_limit_s=90)
        first = sessions[0]
        return Stored(urls, first["id"], str(talktime.key(first).id), sessions[1]["id"], running["id"])


@pytest.fixture(scope="module")
def stored(databases: WorkerDatabases, providers: ProviderHost) -> Iterator[Stored]:
    """A database with two settled sessions of one user, and one that runs."""
    with databases.fresh() as urls:
        yield asyncio.run(_make(urls, providers.script()))


@pytest.fixture
def run(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("TALKTIME_DATABASE_URL", stored.urls.service)

    def command(*words: str) -> Result:
        return CliRunner().invoke(cli, ["replay", *words], env={"COLUMNS": "200"})

    return command


@contextmanager
def tampered(stored: Stored, table: str, change: str, where: str) -> Iterator[None]:
    """As somebody with the owner's rights would, whom no trigger stops; all is as before at the end."""
    keys = KEYS[table]
    with psycopg.connect(stored.urls.owner, autocommit=True) as connection:

        def tell(statement: str) -> None:
            connection.execute(statement.encode())

        def unguarded(statement: str) -> None:
            if table not in {"charges", "snapshots"}:
                return tell(statement)
            tell(f"alter table {table} disable trigger refuse_change")
            try:
                tell(statement)
            finally:
                tell(f"alter table {table} enable always trigger refuse_change")

        tell(f"create temp table saved as select * from {table}")
        columns = ", ".join(
            name
            for (name,) in ask(
                stored.urls.owner,
                f"select attname from pg_attribute where attrelid = '{table}'::regclass and attnum > 0"
                " and not attisdropped",
            )
        )
        try:
            unguarded(f"update {table} set {change} where {where}")
            yield
        finally:
            unguarded(
                f"update {table} t set ({columns}) = (select {columns} from saved s where ({_of('s', keys)}) ="
                f" ({_of('t', keys)}))"
            )


def _of(alias: str, columns: str) -> str:
    return ", ".join(f"{alias}.{column}" for column in columns.split(", "))


def read(result: Result) -> dict[str, Any]:
    return dict(json.loads(result.stdout))


def bytea(content: bytes) -> str:
    return f"'\\x{content.hex()}'"


def document_of(stored: Stored) -> bytes:
    (row,) = ask(stored.urls.owner, f"select document from charges where session_id = '{stored.session_id}'")
    return zlib.decompress(row[0])


def test_a_session_comes_out_the_same(run: Run, stored: Stored) -> None:
    told = run(stored.session, "--json")
    assert told.exit_code == 0, told.output
    (charge,) = read(told)["charges"]
    amount = json.loads(document_of(stored))["amount"]
    assert charge == {
        "session_id": stored.session,
        "version": 1,
        "engine_version": "1",
        "amount": amount,
        "identical": True,
        "differences": [],
    }
    table = run(stored.session)
    assert table.exit_code == 0
    assert "identical" in table.stdout
    assert amount in table.stdout


def test_all_sessions_come_out_the_same(run: Run) -> None:
    told = run("--json")
    assert told.exit_code == 0, told.output
    assert read(told) == {"sessions": 2, "charges": 2, "different": 0, "cut_off": False, "differing_charges": []}
    told = run()
    assert told.exit_code == 0
    assert told.stdout == (
        "2 charges of 2 settled sessions were made again from their stored inputs.\n"
        "All of them came out identical, byte for byte.\n"
    )


CHANGES = [
    ("charges", "ticks = '\\x00'", {"evidence digest"}),
    ("charges", "ticks = ticks || '\\x01'", {"evidence digest"}),
    ("charges", "snapshot_n = snapshot_n - 1", {"evidence digest"}),
    ("charges", "snapshot_n = 0", {"evidence digest", "document/amount"}),
    ("charges", "evidence_digest = sha256('else')", {"evidence digest"}),
    ("charges", "amount = amount - 1", {"amount and leakage", "amount against what the session was charged"}),
    ("charges", "beyond_authorization = 7", {"beyond authorization"}),
    ("charges", "engine_version = '0'", {"engine version"}),
    ("charges", "document = 'no zlib'", {"document"}),
    ("charges", "document = ''", {"document"}),
    ("snapshots", "other_values = 'no zlib'", {"inputs"}),
    ("snapshots", f"other_values = {bytea(zlib.compress(b'[{}]'))}", {"evidence digest"}),
    ("snapshots", f"other_values = {bytea(zlib.compress(b'no list'))}", {"inputs"}),
    ("snapshots", "received_at = received_at + interval '1 microsecond'", {"evidence digest"}),
    ("snapshots", "timeline = timeline + 1", {"evidence digest"}),
    ("sessions", "time_limit = time_limit - 1", {"evidence digest"}),
    ("sessions", "authorized = authorized + 1", {"evidence digest"}),
    ("sessions", "requested_at = requested_at - interval '1 microsecond'", {"evidence digest"}),
    ("sessions", "charge_from = 'first_user_speech'", {"evidence digest", "document/amount"}),
    ("sessions", "charged = charged - 1", {"amount against what the session was charged"}),
    ("sessions", "leakage = leakage + 1", {"amount and leakage"}),
]


@pytest.mark.parametrize(("table", "change", "expected"), CHANGES, ids=[f"{t} {c}"[:60] for t, c, _ in CHANGES])
def test_whatever_was_changed_shows(run: Run, stored: Stored, table: str, change: str, expected: set[str]) -> None:
    mine = f"{'id' if table == 'sessions' else 'session_id'} = '{stored.session_id}'"
    with tampered(stored, table, change, mine):
        told = run(stored.session, "--json")
        assert told.exit_code == 1, told.output
        (charge,) = read(told)["charges"]
        assert expected <= {item["what"] for item in charge["differences"]}
        assert charge["identical"] is False
        every = run("--json")
        assert every.exit_code == 1
        assert read(every)["different"] == 1
        assert read(every)["differing_charges"] == [charge]
        for table_for_people in (run(stored.session), run()):
            assert table_for_people.exit_code == 1
            for item in charge["differences"]:
                assert item["what"] in table_for_people.stdout
        assert run(stored.other).exit_code == 0
    assert run(stored.session).exit_code == 0


def test_a_price_that_was_changed_shows_in_every_session(run: Run, stored: Stored) -> None:
    change = "document = jsonb_set(document, '{user_rate}', '61000000')"
    with tampered(stored, "rate_cards", change, "true"):
        told = run("--json")
        assert (told.exit_code, read(told)["different"]) == (1, 2)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b'"amount":"', b'"amount":"9', "document/amount"),
        (b'"anomalies":[', b'"anomalies":["x"', "document/anomalies/0"),
        (b'"engine_version":"1"', b'"engine_version":"2"', "document/engine_version"),
        (b"{", b'{"more":1,', "document/more"),
        (b"{", b"{ ", "document"),
        (b'"total_s":', b'"total_s":0', "document"),
    ],
)
def test_a_forged_document_shows_where_it_differs(
    run: Run, stored: Stored, old: bytes, new: bytes, expected: str
) -> None:
    before = document_of(stored)
    forged = before.replace(old, new, 1)
    assert forged != before
    with tampered(
        stored, "charges", f"document = {bytea(zlib.compress(forged))}", f"session_id = '{stored.session_id}'"
    ):
        told = run(stored.session, "--json")
        assert told.exit_code == 1
        (charge,) = read(told)["charges"]
        assert expected in {item["what"] for item in charge["differences"]}
        verified = CliRunner().invoke(cli, ["verify", "--json"])
        assert verified.exit_code == 0, "docs/invariants.md says that verify does not see this"


def test_a_document_that_differs_everywhere_is_cut_short(run: Run, stored: Stored) -> None:
    forged = json.dumps({f"n{n}": n for n in range(50)}).encode()
    with tampered(
        stored, "charges", f"document = {bytea(zlib.compress(forged))}", f"session_id = '{stored.session_id}'"
    ):
        (charge,) = read(run(stored.session, "--json"))["charges"]
        assert len(charge["differences"]) == 21
        assert charge["differences"][-1]["stored"].endswith("more places differ")


def test_what_cannot_be_replayed_is_one_clear_line(run: Run, stored: Stored) -> None:
    told = run(stored.running)
    assert isinstance(told.exception, Problem)
    assert told.exception.detail == "the session is live: there is no charge to replay yet"
    told = run(stored.session[:-4] + "0000")
    assert isinstance(told.exception, Problem)
    assert (told.exception.status, "\n" in told.exception.detail) == (404, False)
    told = run("ses_1")
    assert told.exit_code == 2
    assert told.stderr == "'ses_1' is no session's id: those begin with ses_ and have 56 characters\n"


def test_the_help_says_what_it_does(run: Run) -> None:
    told = run("--help")
    assert told.exit_code == 0
    assert "exit code is 1" in " ".join(told.stdout.split())


def test_every_engine_can_be_asked_for_and_no_other() -> None:
    assert all(engine_of(version) is ENGINES[version] for version in ENGINES)
    with pytest.raises(UnknownEngine, match="there is no engine '0' here, only 1"):
        engine_of("0")


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_all_are_replayed_however_many_are_read_at_once(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(replay, "AT_ONCE", at_once)
    told: list[tuple[str, int, int]] = []
    different: list[replay.Replayed] = []

    async def run_all() -> replay.Count:
        database = Database(stored.urls.service, pool_size=1)
        try:
            return await replay.replay_all(database, different.append, progress=lambda *of: told.append(of))
        finally:
            await database.close()

    with tampered(stored, "sessions", "leakage = leakage + 1", "state = 'settled'"):
        count = asyncio.run(run_all())
    assert (count.sessions, count.charges, count.different) == (2, 2, 2)
    assert {one.session for one in different} == {stored.session, stored.other}
    assert told[-1] == ("settled sessions", 2, 2)
    assert len(told) == {1: 3, 2: 2, 3: 1}[at_once]
