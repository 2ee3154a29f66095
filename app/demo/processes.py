"""The demonstration's processes: the simulated provider and the service, on one scaled clock."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from app.ports.clock import ScaledClock

SPEED: Final = 60
"""A minute of conversation passes in a second."""

READY_S: Final = 60.0
STOP_S: Final = 30.0
_PREFERRED_PORT: Final = 8000
_TALKTIME: Final = (sys.executable, "-m", "app.cli")


class DemoFailed(Exception):
    """The demonstration could not be set up; the message says why and where to look."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that runs: where it is, and the keys to it."""

    service_url: str
    provider_url: str
    admin_key: str
    clock: ScaledClock
    log_file: Path


@contextmanager
def running(data_dir: Path, database_url: str) -> Iterator[Stage]:
    """Run the simulated provider and the service on ``database_url`` until the block ends."""
    clock = ScaledClock.starting_now(SPEED)
    admin_key = f"demo_{secrets.token_hex(16)}"
    log_file = data_dir / "demo.log"
    with (
        log_file.open("wb") as log,
        _started(["gabber-sim", "--port", "0", "--clock", str(clock), "--json"], {}, data_dir, log) as simulator,
    ):
        provider = _first_line(simulator, log_file)
        port = _free_port()
        url = f"http://127.0.0.1:{port}"
        environment = {
            "TALKTIME_DATABASE_URL": database_url,
            "TALKTIME_DATA_DIR": str(data_dir.absolute()),
            "TALKTIME_GABBER_BASE_URL": provider["url"],
            "TALKTIME_GABBER_API_KEY": provider["api_key"],
            "TALKTIME_PUBLIC_URL": url,
            "TALKTIME_SECRET": _kept_secret(data_dir / "secret"),
            "TALKTIME_LEDGER_KEYS": _kept_secret(data_dir / "ledger-key"),
            "TALKTIME_BOOTSTRAP_ADMIN_KEY": admin_key,
            "TALKTIME_CLOCK": str(clock),
            # Time-outs run on the scaled clock as well: ten real seconds for an answer.
            "TALKTIME_PROVIDER_TIMEOUT_S": str(10 * SPEED),
        }
        with _started(["serve", "--port", str(port)], environment, data_dir, log) as service:
            _wait_until_ready(url, service, log_file)
            yield Stage(url, provider["url"], admin_key, clock, log_file)


@contextmanager
def _started(
    arguments: list[str], environment: Mapping[str, str], folder: Path, log: Any
) -> Iterator[subprocess.Popen[bytes]]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TALKTIME_")}
    process = subprocess.Popen(  # noqa: S603 - our own command
        [*_TALKTIME, *arguments],
        env=inherited | dict(environment),
        # Away from the caller's own .env file.
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        # Ctrl-C reaches the demonstration alone, which then stops them in order.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _first_line(process: subprocess.Popen[bytes], log_file: Path) -> dict[str, str]:
    line = process.stdout.readline() if process.stdout is not None else b""
    if not line:
        raise DemoFailed(f"the simulated provider did not start; see {log_file}")
    document: dict[str, str] = json.loads(line)
    return document


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log_file: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/readyz", trust_env=False, timeout=2).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    raise DemoFailed(f"the service did not become ready; see {log_file}")


def _free_port() -> int:
    """The usual port if nobody listens there, else any that is free."""
    for port in (_PREFERRED_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DemoFailed("there is no free port")


def _kept_secret(path: Path) -> str:
    """A random secret, made once and kept: what an earlier demonstration signed stays verifiable."""
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    return path.read_text(encoding="ascii")
