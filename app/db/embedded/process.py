"""One ``postgres`` process: started as our direct child, watched, stopped and waited for."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

import psycopg

from app.db.embedded import launch
from app.db.embedded.accounts import MINIMAL_ENVIRONMENT
from app.db.embedded.errors import EmbeddedPostgresError
from app.db.embedded.places import PORT, Home
from app.db.embedded.roles import socket_urls

START_TIMEOUT_S: Final = 60
"""How long a start may take, recovery after a crash included."""

FAST_STOP_TIMEOUT_S: Final = 20
"""How long the fast shutdown (SIGINT: sessions are rolled back, a checkpoint is written) may take."""

IMMEDIATE_STOP_TIMEOUT_S: Final = 10
"""How long the immediate shutdown (SIGQUIT: recovery at the next start) may take before SIGKILL."""

LEFTOVER_TIMEOUT_S: Final = 15
"""How long a server that lost its parent may take to end."""

MAX_CONNECTIONS: Final = 100
MAX_LOG_BYTES: Final = 10_000_000
"""A larger log is set aside as ``postgres.log.1`` at the next start; the one before is dropped."""

_LOG_TAIL_BYTES: Final = 2_000
_CONNECT_TIMEOUT_S: Final = 5
_POLL_S: Final = 0.01

_ALWAYS: Final = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": str(MAX_CONNECTIONS),
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_error_verbosity": "terse",  # the details of an error repeat rows
}
_DURABLE: Final = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
_NOT_DURABLE: Final = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "jit": "off",
    "autovacuum": "off",
    "max_wal_senders": "0",
}


class PostgresProcess:
    """A running server. It dies with the thread that started it, which must be the main one."""

    def __init__(self, home: Home, socket: Path, child: subprocess.Popen[bytes], log_start: int) -> None:
        self.home = home
        self.socket = socket
        self._child = child
        self._log_start = log_start

    @classmethod
    def spawn(cls, home: Home, *, postgres: Path, socket: Path, durable: bool) -> "PostgresProcess":
        """Start the program without waiting until it accepts connections. Raises ``OSError``."""
        if threading.current_thread() is not threading.main_thread():
            # The death signal is sent when the *thread* that forked ends, not the process.
            raise RuntimeError("the embedded PostgreSQL must be started from the main thread")
        folders = '"' + str(socket).replace('"', '""') + '"'
        settings = _ALWAYS | (_DURABLE if durable else _NOT_DURABLE) | {"unix_socket_directories": folders}
        command = [str(postgres), "-D", str(home.cluster)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        account = [str(home.account.uid), str(home.account.gid)] if home.account else ["-", "-"]
        log_start = _rotate(home.log)
        with home.log.open("ab") as log:
            child = subprocess.Popen(  # noqa: S603 - programs and arguments are ours
                [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), *account, *command],
                env=MINIMAL_ENVIRONMENT,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C at the terminal reaches our process group; the server has to outlive our own orderly stop.
                start_new_session=True,
            )
        return cls(home, socket, child, log_start)

    def wait_until_ready(self) -> None:
        """Return when the server accepts connections. Raises :class:`EmbeddedPostgresError` with the log's tail."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            code = self._child.poll()
            if code is not None:
                raise EmbeddedPostgresError(f"PostgreSQL ended with code {code} while it started:\n{self._log_tail()}")
            reason = why_not_connected(socket_urls(self.socket, PORT).superuser)
            if reason is None:
                return
            if time.monotonic() >= deadline:
                raise EmbeddedPostgresError(
                    f"PostgreSQL accepts no connection after {START_TIMEOUT_S} s ({reason}):\n{self._log_tail()}"
                )
            time.sleep(_POLL_S)

    def exit_code(self) -> int | None:
        """The code with which the server has ended (negative: by a signal); null while it runs."""
        return self._child.poll()

    def stop(self) -> None:
        """End the server and wait for it: no zombie blocks the next start. Open sessions are rolled back."""
        for sign, timeout_s in ((signal.SIGINT, FAST_STOP_TIMEOUT_S), (signal.SIGQUIT, IMMEDIATE_STOP_TIMEOUT_S)):
            self._child.send_signal(sign)
            try:
                self._child.wait(timeout_s)
                break
            except subprocess.TimeoutExpired:
                continue
        else:
            self._child.kill()
            self._child.wait()
        if self.socket.parent != self.home.path and self.socket.is_dir() and not any(self.socket.iterdir()):
            self.socket.rmdir()

    def _log_tail(self) -> str:
        with self.home.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip() or f"(nothing in {self.home.log})"


def why_not_connected(url: str) -> str | None:
    """``None`` if a connection can be made, else the reason."""
    try:
        psycopg.connect(url, connect_timeout=_CONNECT_TIMEOUT_S).close()
    except psycopg.OperationalError as error:
        return str(error).strip()
    return None


def recorded_socket(cluster: Path) -> Path | None:
    """The socket's folder as a running server recorded it in ``postmaster.pid``."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    return Path(lines[4]) if len(lines) > 4 and lines[4] else None


def clear_leftover(cluster: Path) -> None:
    """Wait for the end of a server whose parent was killed; drop its pid file. The caller holds the owner's lock.

    PostgreSQL refuses to start while the recorded pid exists at all: as a zombie that nobody waits for, or as a process
    of another program after a restart of the machine or the container. Raises :class:`EmbeddedPostgresError`.
    """
    pid_file = cluster / "postmaster.pid"
    if not pid_file.exists() or sys.platform != "linux":
        return
    deadline = time.monotonic() + LEFTOVER_TIMEOUT_S
    while living := _processes_in(cluster):
        if time.monotonic() >= deadline:
            raise EmbeddedPostgresError(f"processes {living} of an earlier PostgreSQL still use {cluster}: end them")
        time.sleep(_POLL_S)
    pid_file.unlink(missing_ok=True)


def _processes_in(cluster: Path) -> list[int]:
    """The processes whose working folder is the cluster: a server's all have it, and zombies have none."""
    here = cluster.stat()
    living = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                there = (entry / "cwd").stat()
            except OSError:  # it ended just now, or belongs to others and so cannot be the cluster's server
                continue
            if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
                living.append(int(entry.name))
    return sorted(living)


def _rotate(log: Path) -> int:
    """Set a large log aside; returns the bytes already in it."""
    size = log.stat().st_size if log.exists() else 0
    if size <= MAX_LOG_BYTES:
        return size
    log.rename(log.with_name(f"{log.name}.1"))
    return 0
