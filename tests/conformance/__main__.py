"""Every operation of the API document, called as it says and otherwise, on a real server and a real PostgreSQL.

``python -m tests.conformance --seconds 120 --seed 1``: schemathesis with all checks and all phases. Fails on a server
error, an answer that is not documented or does not have its form, and on input that should have been refused.
"""

import argparse
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from tests.e2e.test_serve import KEY, call, serving
from tests.support.postgres import open_folder, scratch_folder
from tests.support.scripted_provider import provider_host

CONFIG = Path(__file__).with_name("schemathesis.toml")


LINES_OF_LOG = 300
SETTINGS = {
    "TALKTIME_GABBER_CAPABILITIES": "end",
    # Each operation is called without a key as well, several times: more often than somebody who guesses may.
    "TALKTIME_FAILED_AUTH_MAX_RPM": "0",
}


@contextmanager
def starts_allowed(url: str) -> Iterator[None]:
    """Somebody lets starts go on whenever they were stopped: otherwise the first stop would be the last start."""
    done = Event()

    def allow() -> None:
        while not done.wait(0.5):
            call("PATCH", f"{url}/v1/settings", {"starts_stopped": False})

    with ThreadPoolExecutor(1) as pool:
        allowing = pool.submit(allow)
        try:
            yield
        finally:
            done.set()
            allowing.result()


def keep(process: subprocess.Popen[bytes], log: deque[str]) -> None:
    """Read the server's log as it comes: one that nobody reads makes the server wait."""
    assert process.stderr is not None
    for line in process.stderr:
        log.append(line.decode())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=120, help="the whole budget of time")
    parser.add_argument("--seed", type=int, default=1)
    given, more = parser.parse_known_args()
    log: deque[str] = deque(maxlen=LINES_OF_LOG)
    for folder in open_folder(scratch_folder()):
        with ThreadPoolExecutor(1) as pool, provider_host() as host:
            with serving(folder, host.script(), **SETTINGS) as (process, url):
                kept = pool.submit(keep, process, log)
                prepare(url)
                command = [
                    str(Path(sys.executable).with_name("schemathesis")),
                    f"--config-file={CONFIG}", "run", f"{url}/openapi.json", "--checks=all", "--seed", str(given.seed),
                    "--header", f"Authorization:Bearer {KEY}", "--max-time", str(given.seconds),
                    "--continue-on-failure", "--request-timeout", "20", *more,
                ]  # fmt: skip
                with starts_allowed(url):
                    failed = subprocess.run(command, check=False, cwd=folder).returncode
                process.terminate()
                kept.result(30)
            if failed:
                print("".join(log))
            return failed
    raise AssertionError("there was no folder")


def prepare(url: str) -> None:
    """A user with a statement, a session and a card, so that there is something to find."""
    assert call("POST", f"{url}/v1/users/ada/grants", {"amount": "100000", "reference": "invoice-1001"}).is_success
    assert call("POST", f"{url}/v1/users/ada/adjustments", {"amount": "-1", "reason": "a first one"}).is_success
    asked = {"user_id": "ada", "persona": "tutor", "scenario": "guide", "time_limit_s": 60}
    assert call("POST", f"{url}/v1/sessions", asked).is_success
    rates = {"user": "1", "agent": "1", "silence": "0"}
    assert call("POST", f"{url}/v1/rate-cards", {"name": "evening", "rates": rates}).is_success


if __name__ == "__main__":
    sys.exit(main())
