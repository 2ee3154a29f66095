"""Grants from a CSV file, by the call and by the command: row by row, each once."""

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from typer.testing import CliRunner

from app.accounts.bulk import grant_all, read_grants
from app.accounts.bulk_routes import MOST_ROWS
from app.cli import cli
from app.core.access import Actor
from app.db.database import DatabaseUnavailable
from app.http.bodies import MAX_BODY
from tests.support.postgres import ask
from tests.support.problems import problem
from tests.support.unchanged import unchanged
from tests.support.world import World

pytestmark = pytest.mark.anyio

PATH = "/v1/grants/bulk"
CSV = {"Content-Type": "text/csv; charset=utf-8"}


@pytest.fixture
def mark() -> str:
    """In whatever a test names: no other test has it."""
    return uuid4().hex[:8]


def rows(mark: str, *lines: str, header: str = "user_id,amount,reference") -> bytes:
    return "".join(f"{line}\r\n" for line in (header, *lines)).replace("@", mark).encode()


async def send(talktime: World, body: bytes, **parameters: Any) -> httpx.Response:
    return await talktime.client.post(PATH, content=body, headers=CSV, params=parameters)


async def done(talktime: World, body: bytes, **parameters: Any) -> dict[str, Any]:
    response = await send(talktime, body, **parameters)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def balance(talktime: World, user: str) -> str:
    return str((await talktime.balance(user))["balance"])


async def test_each_row_is_granted_once(talktime: World, mark: str) -> None:
    body = rows(mark, "ada@,12.5,r-1", "ada@,1,r-2", "bob@,3,r-1")
    first = await done(talktime, body)
    assert first["totals"] == {"rows": 3, "granted": 3, "repeated": 0, "refused": 0, "amount": "16.5"}
    again = await done(talktime, body)
    assert again["totals"] == {"rows": 3, "granted": 0, "repeated": 3, "refused": 0, "amount": "0"}
    assert [row["grant_id"] for row in again["rows"]] == [row["grant_id"] for row in first["rows"]]
    assert first["rows"][2] == {
        "line": 4, "user_id": f"bob{mark}", "reference": "r-1", "amount": "3", "outcome": "granted",
        "grant_id": first["rows"][2]["grant_id"], "detail": None,
    }  # fmt: skip
    assert await balance(talktime, f"ada{mark}") == "13.5"
    audits = (await talktime.get(f"/v1/audit-log?user_id=ada{mark}"))["data"]
    assert [audit["action"] for audit in audits] == ["grant.create", "grant.create"]


async def test_a_dry_run_tells_the_same_and_changes_nothing(talktime: World, mark: str) -> None:
    await done(talktime, rows(mark, "ada@,5,there", "bob@,5,other"))
    lines = ("ada@,5,there", "bob@,6,other", "new@,7,new", "ada@,8,late")
    body = rows(mark, *lines).replace(b"reference\r\n", b"reference,expires_at\r\n", 1)
    late = b"2020-01-01T00:00:00Z"
    parts = body.split(b"\r\n")
    body = b"\r\n".join([parts[0], parts[1] + b",", parts[2] + b",", parts[3] + b",", parts[4] + b"," + late, b""])
    with unchanged(talktime.service.database.conninfo):
        tried = await done(talktime, body, dry_run="true")
    assert tried["dry_run"] is True
    assert tried["totals"] == {"rows": 4, "granted": 1, "repeated": 1, "refused": 2, "amount": "7"}
    assert [row["outcome"] for row in tried["rows"]] == ["repeated", "refused", "granted", "refused"]
    assert [row["detail"] and row["detail"].partition(":")[0] for row in tried["rows"]] == [
        None, "reference-conflict", None, "invalid-request",
    ]  # fmt: skip
    real = await done(talktime, body, dry_run="false")
    assert real["totals"] == tried["totals"]
    assert [(row["outcome"], row["detail"]) for row in real["rows"]] == [
        (row["outcome"], row["detail"]) for row in tried["rows"]
    ]
    assert await balance(talktime, f"new{mark}") == "7"


async def test_a_fault_anywhere_grants_nothing(talktime: World, mark: str) -> None:
    with unchanged(talktime.service.database.conninfo):
        response = await send(talktime, rows(mark, "ada@,5,r-1", "bob@,x,r-2", "cy@,1,"))
        errors = problem(response, 422, "invalid-request")["errors"]
        assert [error["pointer"] for error in errors] == ["/3/amount", "/4/reference"]
        problem(await send(talktime, rows(mark, "ada@,5,r"), dry_run="maybe"), 422, "invalid-request")
        many = rows(mark, *(f"ada@,1,r-{n}" for n in range(MOST_ROWS + 1)))
        problem(await send(talktime, many), 422, "invalid-request")
        problem(await send(talktime, b"x" * (MAX_BODY + 1)), 413, "body-too-large")
        for kind in ("application/json", "text/plain", "multipart/form-data; boundary=x"):
            answer = await talktime.client.post(PATH, content=rows(mark, "a@,1,r"), headers={"Content-Type": kind})
            problem(answer, 415, "unsupported-media-type")


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b"\x00", b'"', b"," * 10_000, b"\xef\xbb\xbf", b"\r\r\r"])
async def test_what_is_no_file_of_grants_is_refused(talktime: World, body: bytes) -> None:
    with unchanged(talktime.service.database.conninfo):
        response = await send(talktime, body)
        problem(response, 422, "invalid-request")
        assert len(response.content) < 20_000


async def test_two_at_once_grant_each_row_once(talktime: World, mark: str) -> None:
    body = rows(mark, *(f"u{n % 4}@,1,r-{n}" for n in range(40)))
    found = await asyncio.gather(*(done(talktime, body) for _ in range(3)))
    assert sum(one["totals"]["granted"] for one in found) == 40
    assert {one["totals"]["refused"] for one in found} == {0}
    assert [await balance(talktime, f"u{n}{mark}") for n in range(4)] == ["10"] * 4


async def test_a_run_that_was_cut_off_goes_on(talktime: World, mark: str) -> None:
    asked = read_grants(rows(mark, *(f"ada@,1,r-{n}" for n in range(10))))
    service = talktime.service

    def die(what: str, number: int, total: int) -> None:
        assert (what, total) == ("grants", 10)
        if number == 4:
            raise DatabaseUnavailable("gone")

    with pytest.raises(DatabaseUnavailable):
        await grant_all(
            service.database, service.ledger, talktime.clock, asked, Actor("test"), dry_run=False, progress=die
        )
    assert await balance(talktime, f"ada{mark}") == "4"
    again = await grant_all(service.database, service.ledger, talktime.clock, asked, Actor("test"), dry_run=False)
    assert [one.outcome.value for one in again] == ["repeated"] * 4 + ["granted"] * 6
    assert await balance(talktime, f"ada{mark}") == "10"


# The command


@pytest.fixture
def run(talktime: World, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("TALKTIME_DATABASE_URL", talktime.service.database.conninfo)
    monkeypatch.setenv("TALKTIME_LEDGER_KEYS", "test-ledger-key-0123456789")
    return CliRunner()


async def test_the_command_shows_and_grants_what_is_in_a_file(
    talktime: World, run: CliRunner, mark: str, tmp_path: Path
) -> None:
    file = tmp_path / "grants.csv"
    file.write_bytes(rows(mark, "ada@,12.5,r-1", "bob@,1,r-2"))
    wide = {"COLUMNS": "200"}

    def command(*words: str, given: bytes | None = None) -> Any:
        return run.invoke(cli, ["grant", *words], env=wide, input=given)

    url = talktime.service.database.conninfo
    with unchanged(url):
        tried = await asyncio.to_thread(command, "--csv", str(file), "--dry-run")
    assert tried.exit_code == 0, tried.output
    assert "Nothing was changed." in tried.stdout
    assert f"ada{mark}" in tried.stdout
    assert "2 rows, 2 granted (13.5 credits), 0 granted before, 0 refused" in tried.stdout
    made = await asyncio.to_thread(command, "--csv", str(file))
    assert "Done:\n2 rows, 2 granted (13.5 credits)" in made.stdout
    again = await asyncio.to_thread(command, "--csv", "-", "--json", given=file.read_bytes() + b"")
    assert json.loads(again.stdout)["totals"]["repeated"] == 2
    file.write_bytes(rows(mark, "ada@,99,r-1", "cy@,1,r-1"))
    refused = await asyncio.to_thread(command, "--csv", str(file))
    assert refused.exit_code == 1
    assert "reference-conflict" in refused.stdout
    assert "2 rows, 1 granted (1 credits), 0 granted before, 1 refused" in refused.stdout
    actors = ask(url, f"select distinct actor from audit_log where after->>'user_id' = 'cy{mark}'")
    assert all(str(actor).startswith("cli") for (actor,) in actors)


async def test_the_command_refuses_what_is_not_clear(
    talktime: World, run: CliRunner, mark: str, tmp_path: Path
) -> None:
    file = tmp_path / "grants.csv"
    file.write_bytes(rows(mark, "ada@,1,r-1"))
    with unchanged(talktime.service.database.conninfo):
        for words in (
            ("--csv", str(file), "ada", "5"), ("--csv", str(file), "--reference", "r"), ("ada", "5", "--dry-run"),
            ("ada",), (), ("--csv", str(tmp_path / "nowhere.csv")),
        ):  # fmt: skip
            told = await asyncio.to_thread(run.invoke, cli, ["grant", *words])
            assert told.exit_code == 2, (words, told.output)
