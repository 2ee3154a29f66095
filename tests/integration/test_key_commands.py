"""``talktime keys`` on a database of one's own."""

import getpass
import hashlib
import json
from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner, Result

from app.access.keys import looks_like_key
from app.cli import cli
from app.errors import Problem
from tests.support.postgres import WorkerDatabases, ask

Run = Callable[..., Result]
NO_KEY = "key_" + "0" * 26


@pytest.fixture(scope="module")
def url(databases: WorkerDatabases) -> Iterator[str]:
    with databases.fresh() as urls:
        yield urls.service


@pytest.fixture
def run(url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("TALKTIME_DATABASE_URL", url)

    def command(*words: str) -> Result:
        return CliRunner().invoke(cli, ["keys", *words], env={"COLUMNS": "200"})

    return command


def document(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def kept(url: str) -> list[tuple[object, ...]]:
    return ask(url, "select * from api_keys order by id") + ask(url, "select * from audit_log order by at, id")


def test_the_secret_is_shown_once_and_only_its_hash_is_kept(run: Run, url: str) -> None:
    told = run("create", "backend [red]", "--scope", "read", "--scope", "sessions:write")
    assert told.exit_code == 0, told.output
    terms, key_id, secret, warning = told.stdout.splitlines()
    assert terms == "backend [red]: read, sessions:write; never expires."
    assert looks_like_key(secret)
    assert "shown this once" in warning
    name, scopes, key_hash = ask(url, "select name, scopes, key_hash from api_keys")[0]
    assert (name, scopes) == ("backend [red]", ["read", "sessions:write"])
    assert bytes(key_hash) == hashlib.sha256(secret.encode()).digest()
    listed = run("list").stdout
    assert key_id in listed
    assert secret not in listed
    actor, action, target, after = ask(url, "select actor, action, target, after from audit_log")[0]
    assert (actor, action, target) == (f"cli:{getpass.getuser()}", "api_key.create", key_id)
    assert after == {"name": "backend [red]", "scopes": ["read", "sessions:write"], "expires_at": None}


def test_json_for_scripts(run: Run) -> None:
    made = document(run("create", "job", "--scope", "admin", "--expires-at", "2100-01-01T00:00:00Z", "--json"))
    assert looks_like_key(str(made.pop("secret")))
    assert (made["scopes"], made["expires_at"]) == (["admin"], "2100-01-01T00:00:00.000000Z")
    data = document(run("list", "--json"))["data"]
    assert isinstance(data, list)
    assert data[0] == made


def test_a_key_is_revoked_once_and_stays_revoked(run: Run, url: str) -> None:
    key_id = str(document(run("create", "leaked", "--scope", "read", "--json"))["id"])
    revoked = document(run("revoke", key_id, "--json"))
    assert revoked["revoked_at"] is not None
    told = run("revoke", key_id)
    assert told.stdout == f"leaked: read; revoked {str(revoked['revoked_at'])[:19]}Z.\n{key_id}\n"
    assert ask(url, f"select count(*) from audit_log where target = '{key_id}' and action = 'api_key.revoke'") == [(1,)]
    assert f"revoked {str(revoked['revoked_at'])[:19]}Z" in run("list").stdout


def test_pages_lead_through_all_keys(run: Run) -> None:
    made = [document(run("create", f"n{n}", "--scope", "read", "--json"))["id"] for n in range(3)]
    first = document(run("list", "--limit", "2", "--json"))
    cursor = str(first["next_cursor"])
    assert f"--cursor {cursor} " in run("list", "--limit", "2").stdout
    second = document(run("list", "--limit", "1", "--cursor", cursor, "--json"))
    pages = [page["data"] for page in (first, second)]
    assert [key["id"] for data in pages if isinstance(data, list) for key in data] == made[::-1]


@pytest.mark.parametrize(
    ("words", "pointer"),
    [
        (("create", "n", "--scope", "read", "--scope", "read"), ""),
        (("create", "", "--scope", "read"), "/name"),
        (("create", "n" * 129, "--scope", "read"), "/name"),
        (("create", "n\x07", "--scope", "read"), "/name"),
        (("create", "n", "--scope", "read", "--expires-at", "tomorrow"), "/expires_at"),
        (("create", "n", "--scope", "read", "--expires-at", "2100-01-01"), "/expires_at"),
        (("create", "n", "--scope", "read", "--expires-at", "2020-01-01T00:00:00Z"), "/expires_at"),
    ],
)
def test_what_is_wrong_is_a_problem_that_says_where(run: Run, url: str, words: tuple[str, ...], pointer: str) -> None:
    before = kept(url)
    problem = run(*words).exception
    assert isinstance(problem, Problem)
    assert (problem.status, problem.errors[0].pointer) == (422, pointer)
    assert kept(url) == before


@pytest.mark.parametrize(
    "words",
    [
        ("create", "n"),
        ("create", "n", "--scope", "everything"),
        ("create", "--scope", "read"),
        ("list", "--limit", "0"),
        ("revoke",),
        ("revoke", "ttk_this-is-a-secret"),
        ("revoke", "ses_" + "0" * 52),
    ],
)
def test_what_cannot_be_understood_ends_with_2_and_changes_nothing(run: Run, url: str, words: tuple[str, ...]) -> None:
    before = kept(url)
    told = run(*words)
    assert told.exit_code == 2
    assert told.stderr
    assert "ttk_" not in told.output
    assert kept(url) == before


def test_a_key_that_is_not_there_and_a_cursor_that_is_none_are_problems(run: Run) -> None:
    unknown, broken = run("revoke", NO_KEY).exception, run("list", "--cursor", "nonsense").exception
    assert isinstance(unknown, Problem)
    assert isinstance(broken, Problem)
    assert (unknown.status, broken.status) == (404, 422)
