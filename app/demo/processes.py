"""The demonstration's service in the present: a process of its own, on the machine's clock."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from app.settings import PREFIX

READY_S: Final = 60.0
STOP_S: Final = 30.0
_PREFERRED_PORT: Final = 8000
_TALKTIME: Final = (sys.executable, "-m", "app.cli")


class DemoFailed(Exception):
    """The demonstration could not be set up; the message says why and where to look."""


@contextmanager
def serving(given: Mapping[str, str], log_file: Path) -> Iterator[None]:
    """Run ``talktime serve`` with these settings, by name, until the block ends."""
    url = given["public_url"]
    environment = {PREFIX + name.upper(): value for name, value in given.items()}
    arguments = ["serve", "--port", url.rpartition(":")[2]]
    with log_file.open("ab") as log, _started(arguments, environment, log_file.parent, log) as service:
        _wait_until_ready(url, service, log_file)
        yield


@contextmanager
def _started(
    arguments: list[str], environment: Mapping[str, str], folder: Path, log: Any
) -> Iterator[subprocess.Popen[bytes]]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    process = subprocess.Popen(  # noqa: S603 - our own command
        [*_TALKTIME, *arguments],
        env=inherited | dict(environment),
        # Away from the caller's own .env file.
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=log,
        # Ctrl-C reaches the demonstration alone, which then stops it in order.
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


def free_port() -> int:
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


def kept_secret(path: Path) -> str:
    """A random secret, made once and kept: whoever noted how to verify an earlier demonstration does it so again."""
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    return path.read_text(encoding="ascii")
