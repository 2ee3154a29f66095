"""``talktime serve`` as an operator meets it: what it refuses, that it stops cleanly, what survives its death."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from tests.support.scripted_provider import ScriptedProvider, provider_host

KEY = "e2e-admin-key-0123456789"
REQUIRED = {
    "TALKTIME_GABBER_API_KEY": "e2e-provider-key",
    "TALKTIME_SECRET": "e2e-secret-0123456789",
    "TALKTIME_BOOTSTRAP_ADMIN_KEY": KEY,
}


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TALKTIME_", "PYTHONDONT"))}
    return clean | {"TALKTIME_DATA_DIR": str(data_dir)} | settings


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    data_dir: Path, provider: ScriptedProvider, **settings: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A real ``talktime serve`` on an embedded database, ready; killed at the end if it still runs."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    values = REQUIRED | {
        "TALKTIME_GABBER_BASE_URL": provider.url,
        "TALKTIME_GABBER_API_KEY": provider.api_key,
        "TALKTIME_PUBLIC_URL": url,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve", "--port", str(port)],
        env=environment(data_dir, **values, **settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline, "not ready in time"
            try:
                if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        yield process, url
    finally:
        process.kill()
        process.communicate()


def call(method: str, url: str, document: Any = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.request(method, url, json=document, headers=headers, trust_env=False, timeout=20)


def refused_start(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", "serve"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_it_says_all_that_is_missing_and_does_not_start(tmp_path: Path) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "app.cli", "serve"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "TALKTIME_GABBER_API_KEY, TALKTIME_SECRET" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_it_names_a_bad_and_an_unknown_setting_without_their_values(tmp_path: Path) -> None:
    bad = {"TALKTIME_SETTLE_DELAY_S": "hunter2", "TALKTIME_SETLE_DELAY": "hunter3"}
    refused = refused_start(environment(tmp_path, **REQUIRED, **bad))
    assert refused.returncode == 2
    assert "TALKTIME_SETTLE_DELAY_S: must be a number of seconds" in refused.stderr
    assert "TALKTIME_SETLE_DELAY: is not a setting" in refused.stderr
    assert "hunter" not in refused.stderr


def test_what_was_acknowledged_survives_a_kill_and_it_stops_cleanly_when_told_to(data_dir: Path) -> None:
    with provider_host() as host:
        provider = host.script()
        with serving(data_dir, provider) as (process, url):
            assert call("POST", f"{url}/v1/users/ada/grants", {"amount": "100"}).status_code == 201
            asked = {"user_id": "ada", "persona": "tutor", "scenario": "talk"}
            session = call("POST", f"{url}/v1/sessions", asked).json()["session"]
            webhook = provider.starts[0]["webhook"]
            for _ in range(20):
                assert call("POST", webhook, {"session_id": session["provider_session_id"]}).status_code == 204
            process.send_signal(signal.SIGKILL)
            process.wait()
        with serving(data_dir, provider) as (process, url):
            kept = call("GET", f"{url}/v1/sessions/{session['id']}").json()
            assert kept["heartbeat_count"] == 20
            assert kept["held"] == "100"
            assert call("GET", f"{url}/v1/users/ada/balance").json()["available"] == "0"
            process.send_signal(signal.SIGTERM)
            log = process.communicate(timeout=30)[1].decode()
            assert process.returncode == 0
            assert "Traceback" not in log
            assert '"level": "error"' not in log
            assert "/webhooks/" not in log


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def wait_until(true: Callable[[], bool], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def server_of(data_dir: Path) -> int:
    """The pid of the embedded database's server; 0 while there is none."""
    try:
        return int((data_dir / "postgres" / "cluster" / "postmaster.pid").read_text().splitlines()[0])
    except FileNotFoundError:
        return 0


def renewed(url: str, data_dir: Path, killed: int) -> bool:
    return ready(url) and server_of(data_dir) not in {0, killed}


def test_an_embedded_database_that_was_killed_is_started_again(data_dir: Path) -> None:
    with provider_host() as host, serving(data_dir, host.script()) as (process, url):
        assert call("POST", f"{url}/v1/users/ada/grants", {"amount": "100"}).status_code == 201
        for spent in (1, 2):
            killed = server_of(data_dir)
            os.kill(killed, signal.SIGKILL)
            wait_until(partial(renewed, url, data_dir, killed))
            assert call("POST", f"{url}/v1/users/ada/grants", {"amount": "1"}).status_code == 201
            assert call("GET", f"{url}/v1/users/ada/balance").json()["balance"] == str(100 + spent)
        last = server_of(data_dir)
        process.send_signal(signal.SIGTERM)
        log = process.communicate(timeout=30)[1].decode()
        assert process.returncode == 0
        assert log.count('"event": "postgres.ended"') == 2
        assert '"event": "postgres.restarted"' in log
        assert "Traceback" not in log
        assert not Path(f"/proc/{last}").exists()


def test_serve_ends_when_its_embedded_database_cannot_be_started_again(data_dir: Path) -> None:
    with provider_host() as host, serving(data_dir, host.script()) as (process, _):
        (data_dir / "postgres" / "cluster" / "global" / "pg_control").rename(data_dir / "pg_control")
        os.kill(server_of(data_dir), signal.SIGKILL)
        told = process.communicate(timeout=60)[1].decode()
        assert process.returncode == 2
        assert "PostgreSQL ended with code" in told
        assert "Traceback" not in told


def test_a_simulation_is_made_in_the_background_and_outlives_a_kill(data_dir: Path) -> None:
    rates = {"user": "1", "agent": "1", "silence": "0"}
    asked = {"rate_card": {"name": "draft", "rates": rates}, "after": "2026-01-01T00:00:00Z"}
    with provider_host() as host:
        provider = host.script()
        with serving(data_dir, provider) as (process, url):
            calls = f"{url}/v1/rate-cards/simulations"
            made = call("POST", calls, {**asked, "before": "2026-01-02T00:00:00Z"})
            assert made.status_code == 202, made.text
            first = f"/v1/rate-cards/simulations/{made.json()['id']}"
            wait_until(lambda: call("GET", url + first).json()["state"] == "done")
            second = call("POST", calls, {**asked, "before": "2026-01-02T00:00:00Z"}).json()["id"]
            process.send_signal(signal.SIGKILL)
            process.wait()
        with serving(data_dir, provider) as (process, url):
            # If it was being made just then, its lease has to run out first.
            last = f"{url}/v1/rate-cards/simulations/{second}"
            wait_until(lambda: call("GET", last).json()["state"] == "done", 90)
            assert call("GET", url + first).json()["result"] == call("GET", last).json()["result"]
            process.send_signal(signal.SIGTERM)
            assert '"level": "error"' not in process.communicate(timeout=30)[1].decode()


def test_a_command_that_only_reads_says_that_there_is_no_database(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "app.cli", "explain", "ses_" + "0" * 52],
        env=environment(tmp_path / "none"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 2
    assert told.stderr.startswith(f"there is no database in {tmp_path}/none: ")
    assert list(tmp_path.iterdir()) == []
