"""The embedded server as its users see it: start it, or share one that runs, and stop it.

One process owns the server of a data folder and holds ``postgres.lock`` for as long as it runs; the kernel frees the
lock when that process dies, and the server dies with it. Others share the server and hold ``postgres.users`` (shared),
which the owner takes (exclusive) before it stops: a command that merely finished first does not pull the server from
under another.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psycopg

from app.db.embedded.accounts import run_as
from app.db.embedded.binaries import Binaries, find_binaries
from app.db.embedded.errors import EmbeddedPostgresError
from app.db.embedded.locks import FileLock
from app.db.embedded.places import PORT, Home, Places, ensure_home, existing_home, socket_folder
from app.db.embedded.process import PostgresProcess, clear_leftover, recorded_socket, why_not_connected
from app.db.embedded.roles import (
    DATABASE,
    SUPERUSER,
    DatabaseUrls,
    drop_database,
    ensure_database,
    ensure_owner,
    ensure_service,
    socket_urls,
)

OWNER_WAIT_S: Final = 30
"""How long :meth:`EmbeddedPostgres.start` waits for another process to give the server up."""

SHARE_WAIT_S: Final = 90
"""How long to wait for a server that another process is starting or stopping: longer than a start may take."""

SHARERS_WAIT_S: Final = 10
"""How long an owner that stops waits for those who share its server; their connections are cut then."""

_UNFINISHED: Final = "cluster.new-"
_INITDB_TIMEOUT_S: Final = 120
_POLL_S: Final = 0.02


class EmbeddedPostgres:
    """The PostgreSQL of one data folder. Synchronous; to be used from the main thread, before an event loop starts.

    While a loop runs, only what says so may be called.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        bin_dir: Path | None = None,
        durable: bool = True,
        sharers_wait_s: float = SHARERS_WAIT_S,
        places: Places | None = None,
    ) -> None:
        """``data_dir`` is made if need be; ``bin_dir`` has ``postgres`` and ``initdb`` in it (default: look for them).

        ``durable=False`` loses data in a power cut and is for tests only.
        """
        self._data_dir = data_dir.absolute()
        self._bin_dir = bin_dir
        self._durable = durable
        self._sharers_wait_s = sharers_wait_s
        self._places = places or Places()
        self._owner_lock = FileLock(self._data_dir / "postgres.lock")
        self._users_lock = FileLock(self._data_dir / "postgres.users")
        self._process: PostgresProcess | None = None

    def start(self, *, anew: bool = False) -> DatabaseUrls:
        """Start the server and own it until :meth:`stop`. It dies with this process.

        ``anew``: with an empty database in place of one that is there, whose data are lost.

        Raises :class:`EmbeddedPostgresError`, also if another process owns it for longer than ``OWNER_WAIT_S``.
        """
        with self._operator_errors():
            self._data_dir.mkdir(parents=True, exist_ok=True)
            if not self._owner_lock.acquire(timeout_s=OWNER_WAIT_S):
                raise EmbeddedPostgresError(
                    f"another talktime process runs the database in {self._data_dir}: stop it first, "
                    "or set TALKTIME_DATABASE_URL to a server of your own for both"
                )
            return self._start_owned(anew=anew)

    def start_or_share(self) -> DatabaseUrls:
        """Share the server if another process runs it, else start and own it; :meth:`stop` undoes either.

        Raises :class:`EmbeddedPostgresError`.
        """
        with self._operator_errors():
            deadline = time.monotonic() + SHARE_WAIT_S
            while True:
                self._data_dir.mkdir(parents=True, exist_ok=True)  # again each time: its owner may erase it
                if self._owner_lock.acquire():
                    return self._start_owned()
                urls = self._share()
                if urls is not None:
                    return urls
                if time.monotonic() >= deadline:
                    raise EmbeddedPostgresError(
                        f"another talktime process holds {self._data_dir}/postgres.lock, "
                        f"but its server cannot be reached after {SHARE_WAIT_S} s"
                    )
                time.sleep(_POLL_S)

    def stop(self, *, erase: bool = False) -> None:
        """Stop an owned server and wait for its end, or give a shared one back. Nothing happens if neither is held.

        ``erase``: if it was owned, remove all its data as well, and the data folder if nothing else is in it.
        """
        try:
            if self._process is not None:
                self._users_lock.acquire(timeout_s=self._sharers_wait_s)
                self._process.stop()
                home, self._process = self._process.home, None
                if erase:
                    self._erase(home)
        finally:
            self._users_lock.release()
            self._owner_lock.release()

    def exit_code(self) -> int | None:
        """The code with which an owned server has ended by itself; null while it runs, and if none is owned."""
        return None if self._process is None else self._process.exit_code()

    def clear_after_death(self) -> None:
        """Wait for the last processes of an owned server that has ended. From any thread.

        Raises :class:`EmbeddedPostgresError`.
        """
        with self._operator_errors():
            clear_leftover(self._dead().home.cluster)

    def start_again(self) -> None:
        """Start an owned server that has ended and was cleared; it keeps its URLs. Main thread; does not wait for it.

        Raises :class:`EmbeddedPostgresError`.
        """
        dead = self._dead()
        with self._operator_errors():
            binaries = find_binaries(
                self._bin_dir, account=dead.home.account, major=_major_of(dead.home.cluster), places=self._places
            )
            self._process = PostgresProcess.spawn(
                dead.home, postgres=binaries.bin_dir / "postgres", socket=dead.socket, durable=self._durable
            )

    def wait_until_ready(self) -> None:
        """Wait until an owned server accepts connections. From any thread. Raises :class:`EmbeddedPostgresError`."""
        if self._process is None:
            raise RuntimeError("no server is owned")
        with self._operator_errors():
            self._process.wait_until_ready()

    def _dead(self) -> PostgresProcess:
        if self._process is None or self._process.exit_code() is None:
            raise RuntimeError("no owned server has ended")
        return self._process

    @property
    def log(self) -> Path:
        """Where the server writes its log."""
        return self._data_dir / "postgres" / "postgres.log"

    @property
    def owned(self) -> bool:
        """Whether this object started the server and will stop it."""
        return self._process is not None

    @property
    def has_cluster(self) -> bool:
        """Whether there is a database in the folder. Raises :class:`EmbeddedPostgresError` if it is gone elsewhere."""
        home = existing_home(self._data_dir)
        return home is not None and (home / "cluster").exists()

    @classmethod
    @contextmanager
    def running_or_start(cls, data_dir: Path, *, bin_dir: Path | None = None) -> Iterator[DatabaseUrls]:
        """For commands: the URLs of the running server, or of one that is stopped again at the end.

        Raises :class:`EmbeddedPostgresError`.
        """
        server = cls(data_dir, bin_dir=bin_dir)
        urls = server.start_or_share()
        try:
            yield urls
        finally:
            server.stop()

    def _start_owned(self, *, anew: bool = False) -> DatabaseUrls:
        try:
            home = ensure_home(self._data_dir, self._places)
            binaries = find_binaries(
                self._bin_dir, account=home.account, major=_major_of(home.cluster), places=self._places
            )
            if not home.cluster.exists():
                self._make_cluster(home, binaries)
            clear_leftover(home.cluster)
            self._process = PostgresProcess.spawn(
                home,
                postgres=binaries.bin_dir / "postgres",
                socket=socket_folder(home, self._places),
                durable=self._durable,
            )
            self._process.wait_until_ready()
            urls = socket_urls(self._process.socket, PORT)
            _prepare(urls, anew=anew)
        except BaseException:
            try:
                if self._process is not None:
                    self._process.stop()
            finally:
                self._process = None
                self._owner_lock.release()
            raise
        return urls

    def _make_cluster(self, home: Home, binaries: Binaries) -> None:
        """Make it aside and rename it when it is whole: what a killed start leaves is never taken for a cluster."""
        for left in home.path.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
        # A new name each time: the initdb of a start that was killed may still be writing under its own.
        aside = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=home.path))
        if home.account:
            os.chown(aside, home.account.uid, home.account.gid)
        argv = [str(binaries.bin_dir / "initdb"), f"--pgdata={aside}", f"--username={SUPERUSER}", "--encoding=UTF8"]
        # The C locale sorts by bytes on every system and never changes under an index, as the C library's locales do.
        argv += ["--locale=C", "--auth-local=trust", "--auth-host=reject", "--no-instructions"]
        if not self._durable:
            argv.append("--no-sync")
        made = run_as(home.account, argv, timeout_s=_INITDB_TIMEOUT_S)
        if made.returncode != 0:
            raise EmbeddedPostgresError(f"initdb failed with code {made.returncode}:\n{made.stdout.strip()}")
        aside.rename(home.cluster)
        if self._durable:
            folder = os.open(home.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _share(self) -> DatabaseUrls | None:
        """Share a server that is up; ``None`` while there is none, or while its owner starts or stops it."""
        # Before the look at the server: its owner cannot begin to stop it once we hold this.
        if not self._users_lock.acquire(shared=True):
            return None
        try:
            home = existing_home(self._data_dir)
            folder = recorded_socket(home / "cluster") if home else None
            urls = socket_urls(folder, PORT) if folder else None
            # The service's role is the last thing that a start makes.
            if urls is None or why_not_connected(urls.service) is not None:
                self._users_lock.release()
                return None
        except BaseException:
            self._users_lock.release()
            raise
        return urls

    def _erase(self, home: Home) -> None:
        """Before the locks are given back: another process may start anew as soon as they are."""
        shutil.rmtree(home.path)
        link = self._data_dir / "postgres"
        if link.is_symlink():
            link.unlink()
        (self._data_dir / "postgres.users").unlink(missing_ok=True)
        self._owner_lock.remove()
        with suppress(OSError):
            self._data_dir.rmdir()

    @contextmanager
    def _operator_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, psycopg.Error) as error:
            raise EmbeddedPostgresError(f"the database in {self._data_dir} cannot be used: {error}") from error


def _major_of(cluster: Path) -> int | None:
    """The version that made the cluster; ``None`` if there is no cluster yet."""
    if not cluster.exists():
        return None
    try:
        return int((cluster / "PG_VERSION").read_text())
    except (FileNotFoundError, ValueError):
        raise EmbeddedPostgresError(f"{cluster} is not a PostgreSQL cluster: move it away to start empty") from None


def _prepare(urls: DatabaseUrls, *, anew: bool) -> None:
    with psycopg.connect(urls.superuser, autocommit=True) as connection:
        if anew:
            drop_database(connection)
        ensure_owner(connection)
        ensure_database(connection)
        with psycopg.connect(urls.superuser, dbname=DATABASE, autocommit=True) as inside:
            ensure_service(inside)
