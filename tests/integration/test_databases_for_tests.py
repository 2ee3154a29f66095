"""The databases that the tests themselves run on."""

import os
import tempfile
from pathlib import Path

import psycopg
import pytest

from app.db.embedded import EmbeddedPostgres
from tests.support.postgres import WorkerDatabases, ask, scratch_folder, tell, worker_databases


def migrate(url: str) -> None:
    tell(url, "CREATE TABLE notes (n int); GRANT SELECT, INSERT ON notes TO talktime_service")


def test_workers_get_clones_of_one_migrated_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TALKTIME_TEST_DATABASE_URL", raising=False)
    run_id = os.urandom(8).hex()
    migrations: list[str] = []

    def counted(url: str) -> None:
        migrations.append(url)
        migrate(url)

    with (
        worker_databases(counted, run_id=run_id, worker="gw0") as one,
        worker_databases(counted, run_id=run_id, worker="gw1") as two,
    ):
        assert len(migrations) == 1
        assert one.urls.service != two.urls.service
        tell(one.urls.service, "INSERT INTO notes VALUES (1)")
        with one.fresh() as fresh:
            for databases in (two.urls, fresh):
                assert ask(databases.service, "SELECT n FROM notes") == []
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                tell(fresh.service, "CREATE TEMPORARY TABLE mine (n int)")
        check_external(monkeypatch, one)
    assert not Path(scratch_folder(), f"talktime-test-{run_id[:12]}").exists()


def check_external(monkeypatch: pytest.MonkeyPatch, host: WorkerDatabases) -> None:
    """A server of one's own, here the embedded one, is used as it is and left without our databases."""
    monkeypatch.setenv("TALKTIME_TEST_DATABASE_URL", host.urls.superuser.replace("postgresql:", "postgresql+psycopg:"))
    with worker_databases(migrate, run_id="external", worker="master") as databases:
        assert ask(databases.urls.service, "SELECT n FROM notes") == []
        assert ":test@" in databases.urls.service
    left = ask(host.urls.superuser, "SELECT datname FROM pg_database WHERE datname LIKE '%external%'")
    assert left == []


def test_a_failing_migration_fails_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(tempfile.mkdtemp(prefix="talktime-", dir=scratch_folder()))
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder, durable=False)
    try:
        urls = server.start()
        monkeypatch.setenv("TALKTIME_TEST_DATABASE_URL", urls.superuser)
        for worker in ("gw0", "gw1"):
            with (
                pytest.raises(psycopg.errors.SyntaxError),
                worker_databases(lambda url: tell(url, "nonsense"), run_id="failing", worker=worker),
            ):
                pytest.fail("no database was migrated")
    finally:
        server.stop(erase=True)
