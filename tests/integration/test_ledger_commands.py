"""``talktime grant``, ``balance``, ``statement`` and ``finance`` on a database of one's own."""

import csv
import io
import json
from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner, Result

from app.cli import cli
from app.errors import Problem
from tests.support.postgres import WorkerDatabases, ask, tell

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def url(databases: WorkerDatabases) -> Iterator[str]:
    with databases.fresh() as urls:
        yield urls.service


@pytest.fixture
def run(url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("TALKTIME_DATABASE_URL", url)
    monkeypatch.setenv("TALKTIME_LEDGER_KEYS", "test-ledger-key-0123456789")

    def command(*words: str) -> Result:
        return CliRunner().invoke(cli, words, env={"COLUMNS": "200"})

    return command


def document(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_granting_by_reference_grants_once(run: Run) -> None:
    asked = ("grant", "ada", "12.5", "--kind", "promotional", "--priority", "7", "--cost-basis", "0.1")
    first = run(*asked, "--reference", "r-1")
    assert first.exit_code == 0, first.output
    assert first.stdout.startswith("Granted: 12.5 promotional credits for ada.\ngrt_")
    assert run(*asked, "--reference", "r-1").stdout.startswith("Granted before, by the same reference: 12.5")
    again = document(run(*asked, "--reference", "r-1", "--json"))
    assert (again["amount"], again["priority"], again["cost_basis"]) == ("12.5", 7, "0.1")
    assert again["id"] == first.stdout.split("\n")[1]
    assert document(run("balance", "ada", "--json"))["balance"] == "12.5"


def test_a_grant_to_come_says_when(run: Run) -> None:
    told = run("grant", "cy", "3", "--effective-at", "2100-01-01T00:00:00Z", "--expires-at", "2101-01-01T00:00:00Z")
    assert "effective 2100-01-01T00:00:00.000000Z" in told.stdout
    assert document(run("balance", "cy", "--json"))["balance"] == "0"


@pytest.mark.parametrize(
    ("words", "pointer"),
    [
        (("grant", "bob", "0"), "/amount"),
        (("grant", "bob", "1e3"), "/amount"),
        (("grant", "bob", "1.0000001"), "/amount"),
        (("grant", "bob", "1", "--kind", "free"), "/kind"),
        (("grant", "bob", "1", "--priority", "101"), "/priority"),
        (("grant", "bob", "1", "--priority", "-1"), "/priority"),
        (("grant", "bob", "1", "--cost-basis", "-1"), "/cost_basis"),
        (("grant", "bob", "1", "--expires-at", "2020-01-01T00:00:00Z"), "/expires_at"),
        (("grant", "bob", "1", "--expires-at", "tomorrow"), "/expires_at"),
        (("grant", "b\x07b", "1"), "/user_id"),
        (("balance", "ada", "--at", "yesterday"), "/at"),
        (("balance", "ada", "--at", "2100-01-01T00:00:00Z"), "/at"),
        (("statement", "ada", "--kind", "gift"), "/kind"),
        (("statement", "ada", "--session", "grt_1"), "/session_id"),
        (("statement", "ada", "--grant", "17"), "/grant_id"),
        (("finance", "--after", "2026-01-02T00:00:00Z", "--before", "2026-01-01T00:00:00Z"), "/before"),
        (("finance", "--before", "2100-01-01T00:00:00Z"), "/before"),
    ],
)
def test_what_is_wrong_is_a_problem_that_says_where(run: Run, url: str, words: tuple[str, ...], pointer: str) -> None:
    before = ask(url, "select count(*) from accounts")
    problem = run(*words).exception
    assert isinstance(problem, Problem)
    assert (problem.status, problem.errors[0].pointer) == (422, pointer)
    assert ask(url, "select count(*) from accounts") == before


@pytest.mark.parametrize("words", [("balance", "nobody"), ("statement", "nobody"), ("statement", "nobody", "--csv")])
def test_a_user_never_seen_is_a_problem(run: Run, words: tuple[str, ...]) -> None:
    problem = run(*words).exception
    assert isinstance(problem, Problem)
    assert problem.status == 404


def test_without_the_ledgers_keys_nothing_is_granted(run: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TALKTIME_LEDGER_KEYS")
    result = run("grant", "keyless", "1")
    assert (result.exit_code, "TALKTIME_LEDGER_KEYS" in result.stderr) == (2, True)
    assert ask(url, "select count(*) from accounts where user_id = 'keyless'") == [(0,)]


@pytest.mark.parametrize("words", [("statement", "ada"), ("finance",)])
def test_one_form_at_a_time(run: Run, words: tuple[str, ...]) -> None:
    result = run(*words, "--csv", "--json")
    assert (result.exit_code, result.stderr) == (2, "--csv or --json, not both\n")


def test_a_statement_as_table_csv_and_json(run: Run) -> None:
    user = "[red]eve[/]"
    for n in range(3):
        assert run("grant", user, "5", "--reference", f"=[b]r{n}[/b]").exit_code == 0
    table = run("statement", user, "--limit", "2").stdout
    assert "=[b]r2[/b]" in table
    assert "=[b]r0[/b]" not in table
    assert "There are older entries" in table
    assert user in run("balance", user).stdout
    shown = document(run("statement", user, "--json", "--kind", "grant"))["data"]
    assert isinstance(shown, list)
    rows = list(csv.DictReader(io.StringIO(run("statement", user, "--csv").stdout)))
    assert [(row["id"], row["amount"]) for row in rows] == [(entry["id"], entry["amount"]) for entry in shown]
    assert [row["reference"] for row in rows] == [f"'=[b]r{n}[/b]" for n in (2, 1, 0)]
    assert [entry["seq"] for entry in shown] == [3, 2, 1]
    one = document(run("statement", user, "--grant", str(shown[1]["grant_id"]), "--json"))["data"]
    assert one == [shown[1]]


def test_a_balance_of_the_past(run: Run) -> None:
    run("grant", "finn", "5")
    past = document(run("balance", "finn", "--at", "2020-01-01T00:00:00Z", "--json"))
    assert (past["balance"], past["accrued"], past["talk_time_s"]) == ("0", None, None)
    assert "talk time" not in run("balance", "finn", "--at", "2020-01-01T00:00:00Z").stdout
    assert "talk time" in run("balance", "finn").stdout


def test_the_roll_forward_as_table_csv_and_json(run: Run) -> None:
    run("grant", "gus", "40", "--cost-basis", "0.25")
    rows = document(run("finance", "--json"))["rows"]
    assert isinstance(rows, list)
    assert list(csv.DictReader(io.StringIO(run("finance", "--csv").stdout))) == rows
    assert [row["kind"] for row in rows] == ["paid", "promotional", "credit", "total"]
    total = rows[-1]
    assert total["closing"] == total["issued"]
    table = run("finance").stdout
    for title in ("Credits", "Value", "Without cost basis"):
        assert f"{title}, from the beginning until" in table
    assert total["closing_value"] in table


def test_a_ledger_that_does_not_add_up_has_no_roll_forward(run: Run, databases: WorkerDatabases, url: str) -> None:
    run("grant", "hal", "7")
    tell(url, "update grants set remaining = remaining - 1 where amount = 7000000")
    try:
        result = run("finance")
        assert result.exit_code == 2
        assert "paid, now: entries and funding come to" in result.stderr
    finally:
        tell(url, "update grants set remaining = remaining + 1 where amount = 7000000")


def test_no_amount_or_id_is_cut_short_however_narrow_the_terminal(run: Run) -> None:
    run("grant", "ida", "123456789.123456", "--cost-basis", "0.123457")
    for words in (("statement", "ida"), ("balance", "ida"), ("finance",)):
        shown = CliRunner().invoke(cli, words, env={"COLUMNS": "60"})
        assert (shown.exit_code, "…" in shown.stdout) == (0, False)
