"""``talktime keys`` beside a real ``talktime serve``, and without one: how the first key is made."""

import subprocess
import sys
from pathlib import Path

import httpx

from tests.e2e.test_serve import environment, serving
from tests.support.scripted_provider import provider_host


def keys(data_dir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", "keys", *words]
    return subprocess.run(command, env=environment(data_dir), capture_output=True, text=True, check=False)


def made(data_dir: Path, name: str) -> tuple[str, str]:
    told = keys(data_dir, "create", name, "--scope", "read")
    assert told.returncode == 0, told.stderr
    _, key_id, secret, _ = told.stdout.splitlines()
    return key_id, secret


def status(url: str, secret: str) -> int:
    headers = {"Authorization": f"Bearer {secret}"}
    return httpx.get(f"{url}/v1/sessions", headers=headers, trust_env=False, timeout=20).status_code


def test_the_first_key_needs_no_server_and_a_running_one_takes_and_refuses_keys_at_once(data_dir: Path) -> None:
    none_yet = keys(data_dir, "list")
    assert (none_yet.returncode, none_yet.stderr.startswith("there is no database in ")) == (2, True)
    _, first = made(data_dir, "before")
    with provider_host() as host, serving(data_dir, host.script()) as (_, url):
        assert status(url, first) == 200
        key_id, second = made(data_dir, "beside")
        assert status(url, second) == 200
        assert keys(data_dir, "revoke", key_id).returncode == 0
        assert [status(url, second), status(url, first)] == [401, 200]
        refused = keys(data_dir, "revoke", second)
        assert refused.returncode == 2
        assert second not in refused.stderr
        assert "Traceback" not in refused.stderr
