"""``talktime admins`` on a database of one's own."""

import json
from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner, Result

from app.cli import cli
from app.errors import Problem
from tests.support.postgres import WorkerDatabases, ask

Run = Callable[..., Result]
PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def url(databases: WorkerDatabases) -> Iterator[str]:
    with databases.fresh() as urls:
        yield urls.service


@pytest.fixture
def run(url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("TALKTIME_DATABASE_URL", url)

    def command(*words: str, typed: str = f"{PASSWORD}\n") -> Result:
        return CliRunner().invoke(cli, ["admins", *words], input=typed, env={"COLUMNS": "200"})

    return command


def listed(run: Run) -> dict[str, tuple[str, bool]]:
    found = json.loads(run("list", "--json").stdout)["data"]
    return {admin["name"]: (admin["role"], admin["disabled_at"] is not None) for admin in found}


def test_accounts_are_made_changed_and_closed(run: Run, url: str) -> None:
    assert "no admin account yet" in run("list").stdout
    made = run("create", "Ada [red]", "--role", "full", typed=f"{PASSWORD}\n{PASSWORD}\n")
    assert made.exit_code == 0, made.output
    assert PASSWORD not in made.output
    assert run("create", "bob", "--password-stdin").exit_code == 0
    assert listed(run) == {"Ada [red]": ("full", False), "bob": ("read-only", False)}
    hashes = dict(ask(url, "select name, password_hash from admin_users"))
    assert run("role", "bob", "full").exit_code == 0
    assert run("disable", "Ada [red]").exit_code == 0
    assert run("password", "bob", "--password-stdin").exit_code == 0
    assert listed(run) == {"Ada [red]": ("full", True), "bob": ("full", False)}
    assert dict(ask(url, "select name, password_hash from admin_users"))["bob"] != hashes["bob"]
    assert run("enable", "Ada [red]").exit_code == 0
    assert run("enable", "Ada [red]").exit_code == 0  # once more changes nothing, and is no news
    assert listed(run)["Ada [red]"] == ("full", False)
    actions = [row[0] for row in ask(url, "select action from audit_log order by at, id")]
    changes = ["admin.change", "admin.change", "admin.password", "admin.change"]
    assert actions == ["admin.create", "admin.create", *changes]
    assert not any("argon2" in str(row) for row in ask(url, "select * from audit_log"))
    assert "Ada [red]" in run("list").stdout


def test_bad_input_changes_nothing(run: Run, url: str) -> None:
    run("create", "carl", "--password-stdin")
    before = ask(url, "select * from admin_users order by id")
    for words, typed in (
        (("create", "carl", "--password-stdin"), PASSWORD),
        (("create", "dora", "--password-stdin"), "too short"),
        (("create", "dora"), f"{PASSWORD}\n{PASSWORD}x\n"),
        (("create", "with\nbreak", "--password-stdin"), PASSWORD),
        (("create", "dora", "--role", "root", "--password-stdin"), PASSWORD),
        (("password", "nobody", "--password-stdin"), PASSWORD),
        (("disable", "nobody"), ""),
    ):
        result = run(*words, typed=typed)
        assert result.exit_code != 0 or isinstance(result.exception, Problem), words
    assert ask(url, "select * from admin_users order by id") == before


def test_a_link_that_signs_in_is_printed_once_and_kept_nowhere(run: Run, url: str) -> None:
    assert run("create", "eve", "--password-stdin").exit_code == 0
    made = json.loads(run("sign-in-link", "eve", "--minutes", "5", "--json").stdout)
    address, _, token = made["url"].partition("?token=")
    assert (address, len(token)) == ("http://127.0.0.1:8000/admin/sign-in/link", 52)
    ((lasts,),) = ask(url, "select expires_at - created_at from admin_sessions where admin like 'link:%'")
    assert lasts.total_seconds() == 300
    for table in ("admin_sessions", "audit_log", "admin_users"):
        assert token not in str(ask(url, f"select * from {table}"))
    shown = run("sign-in-link", "eve")
    assert shown.stdout.startswith("http://127.0.0.1:8000/admin/sign-in/link?token=")
    assert shown.stdout.count("\n") == 1
    assert "It signs eve in, once, until" in shown.stderr
    assert len(ask(url, "select 1 from admin_sessions where admin like 'link:%'")) == 1  # the earlier one is void
    assert isinstance(run("sign-in-link", "nobody").exception, Problem)
    assert run("sign-in-link", "eve", "--minutes", "61").exit_code == 2
