"""Databases for the tests: one server per test run, one migrated template in it, one clone of it per worker.

The server is an embedded one without durability, shared by all pytest-xdist workers: the first one that needs it starts
it, and stops it when the last one is done with it. A worker that comes later still finds a server, by starting it anew.
If ``TALKTIME_TEST_DATABASE_URL`` is set, it must be a superuser's URL of a PostgreSQL that is used for nothing else:
the roles ``talktime_owner`` and ``talktime_service`` get the password ``test`` there.

In a ``conftest.py`` (``testrun_uid`` and ``worker_id`` are fixtures of pytest-xdist, with and without ``-n``)::

    @pytest.fixture(scope="session")
    def databases(testrun_uid: str, worker_id: str) -> Iterator[WorkerDatabases]:
        with worker_databases(migrate, run_id=testrun_uid, worker=worker_id) as databases:
            yield databases

``databases.urls`` is the worker's database; ``with databases.fresh() as urls`` gives a test one of its own.
"""

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from app.db.embedded import DatabaseUrls, EmbeddedPostgres
from app.db.embedded.roles import OWNER, SERVICE, ensure_database, ensure_owner, ensure_service, restrict_database

RUN_LIMIT_S: Final = 3600
"""How long the worker that started the server waits for the others at its end."""

MIGRATE_LIMIT_S: Final = 300
"""How long a worker waits for another one to make the template."""

MEMORY_BYTES: Final = 2_000_000_000
"""The least room in memory for a server of the tests: WAL, and 8 MB for each of some dozens of databases."""

GONE_TRIES: Final = 20
"""So many milliseconds closed sessions have to be gone by themselves before their database is dropped under them."""

_MEMORY: Final = Path("/dev/shm")
_LOCK_KEY: Final = 7_041_776
_TEST_PASSWORD: Final = "test"


@dataclass(frozen=True)
class WorkerDatabases:
    """The migrated databases of one worker."""

    urls: DatabaseUrls
    """The worker's own database, kept for the whole run."""
    _server: str
    _password: str | None
    _template: str
    _prefix: str
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @contextmanager
    def fresh(self) -> Iterator[DatabaseUrls]:
        """A database of one's own in the migrated state, dropped at the end (some 60 ms in memory)."""
        name = f"{self._prefix}_{next(self._numbers)}"
        with psycopg.connect(self._server, autocommit=True) as connection:
            _create(connection, self._template, name)
            try:
                _restrict(self._server, name)
                yield _urls(self._server, self._password, name)
            finally:
                _drop(connection, name)


def ask(url: str, statement: str) -> list[tuple[Any, ...]]:
    """The rows that a query gives."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchall()


def tell(url: str, statement: str) -> None:
    """Run one or more statements, each committed."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


@contextmanager
def worker_databases(migrate: Callable[[str], None], *, run_id: str, worker: str) -> Iterator[WorkerDatabases]:
    """The databases of one worker of one test run.

    ``migrate`` is called with the owner's URL of an empty database, once per run; ``run_id`` is the same in all workers
    of a run and no others. Raises whatever ``migrate`` raises, in every worker.
    """
    prefix = f"talktime_test_{run_id[:12]}"
    template = f"{prefix}_template"
    with _server(run_id) as (server, password):
        own = f"{prefix}_{worker}"
        with _alone(server) as connection:
            _ensure_template(connection, migrate, server, password, template)
            # Within the same lock: while a worker has a database, nobody drops the template.
            _create(connection, template, own)
        try:
            _restrict(server, own)
            yield WorkerDatabases(_urls(server, password, own), server, password, template, own)
        finally:
            with _alone(server) as connection:
                _drop(connection, own)
                _drop_unused_template(connection, prefix, template)


def scratch_folder() -> Path:
    """Memory if there is enough of it, else the folder for temporary files.

    A clone is 300 new files: some 10 ms in memory, 20 times that on a disk that journals.
    """
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(_MEMORY).free >= MEMORY_BYTES:
        return _MEMORY
    return Path(tempfile.gettempdir())


def open_folder(parent: Path) -> Iterator[Path]:
    """A new short folder that every account can enter (pytest's own are long and closed); removed in the end."""
    path = Path(tempfile.mkdtemp(prefix="talktime-", dir=parent))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def _server(run_id: str) -> Iterator[tuple[str, str | None]]:
    """A superuser's URL and the password of the roles on that server."""
    external = os.environ.get("TALKTIME_TEST_DATABASE_URL")
    if external:
        yield make_url(external).set(drivername="postgresql").render_as_string(hide_password=False), _TEST_PASSWORD
        return
    folder = Path(scratch_folder(), f"talktime-test-{run_id[:12]}")
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)  # as root the server runs as another account
    embedded = EmbeddedPostgres(folder, durable=False, sharers_wait_s=RUN_LIMIT_S)
    urls = embedded.start_or_share()
    try:
        yield urls.superuser, None
    finally:
        embedded.stop(erase=True)


def _urls(server: str, password: str | None, database: str) -> DatabaseUrls:
    def url(role: str) -> str:
        made = URL.create("postgresql", role, password, at.host, at.port, database, at.query)
        return made.render_as_string(hide_password=False)

    at = make_url(server)
    return DatabaseUrls(owner=url(OWNER), service=url(SERVICE), superuser=server)


@contextmanager
def _alone(server: str) -> Iterator[psycopg.Connection]:
    """A superuser's connection while no other worker is in here."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"SET lock_timeout = '{MIGRATE_LIMIT_S}s'")
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK_KEY,))
        yield connection


def _ensure_template(
    connection: psycopg.Connection, migrate: Callable[[str], None], server: str, password: str | None, template: str
) -> None:
    ready = connection.execute("SELECT NOT datallowconn FROM pg_database WHERE datname = %s", (template,)).fetchone()
    if ready == (True,):
        return
    _drop(connection, template)  # of a worker that was killed while it migrated
    ensure_owner(connection, password=password)
    ensure_database(connection, template)
    with psycopg.connect(server, dbname=template, autocommit=True) as inside:
        ensure_service(inside, password=password)
    migrate(_urls(server, password, template).owner)
    # Closed to all, which also marks it as whole: a database with a session in it cannot be cloned.
    connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(template)))
    connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (template,))


def _create(connection: psycopg.Connection, template: str, name: str) -> None:
    _drop(connection, name)
    statement = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {} STRATEGY file_copy")
    connection.execute(statement.format(sql.Identifier(name), sql.Identifier(OWNER), sql.Identifier(template)))


def _restrict(server: str, name: str) -> None:
    with psycopg.connect(server, dbname=name, autocommit=True) as inside:
        restrict_database(inside)


def _drop_unused_template(connection: psycopg.Connection, prefix: str, template: str) -> None:
    pattern = prefix.replace("_", r"\_") + "%"
    names = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", (pattern,)).fetchall()
    if names == [(template,)]:
        _drop(connection, template)


def _drop(connection: psycopg.Connection, name: str) -> None:
    # Sessions that were just closed are gone in a moment; the server itself would look again after 50 ms only.
    inside = "SELECT 1 FROM pg_stat_activity WHERE datname = %s"
    for _ in range(GONE_TRIES):
        if connection.execute(inside, (name,)).fetchone() is None:
            break
        time.sleep(0.001)
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
