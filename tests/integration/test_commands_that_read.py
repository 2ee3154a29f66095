"""Commands that only read make no database where there is none."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.db.embedded import EmbeddedPostgresError

SESSION = "ses_" + "0" * 52
READ_ONLY = [
    ["explain", SESSION], ["verify"], ["verify", "--json"], ["rate", "card.json"], ["replay"], ["replay", SESSION],
    ["simulate", "rc_" + "0" * 26, "--after", "2026-01-01T00:00:00Z", "--before", "2026-02-01T00:00:00Z"],
    ["keys", "list"], ["keys", "revoke", "key_" + "0" * 26],
]  # fmt: skip


@pytest.mark.parametrize("command", READ_ONLY, ids=" ".join)
@pytest.mark.parametrize("by", ["option", "variable"])
def test_it_says_that_there_is_no_database_and_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], by: str
) -> None:
    snapshot = {"requested_at": "2026-01-01T00:00:00Z", "received_at": "2026-01-01T00:01:00Z", "values": []}
    document = {"requested_at": "2026-01-01T00:00:00Z", "snapshots": [snapshot], "rate_card": "default"}
    (tmp_path / "card.json").write_text(json.dumps(document))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TALKTIME_DATABASE_URL", raising=False)
    for folder in ("no/database", "empty"):
        monkeypatch.setenv("TALKTIME_DATA_DIR", folder if by == "variable" else "other")
        told = CliRunner().invoke(cli, [*command, *(["--data-dir", folder] if by == "option" else [])])
        assert isinstance(told.exception, EmbeddedPostgresError)
        assert str(told.exception).startswith(f"there is no database in {tmp_path / folder}: ")
        for name in ("TALKTIME_DATA_DIR", "--data-dir", "TALKTIME_DATABASE_URL"):
            assert name in str(told.exception)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["card.json", "empty"]
