"""Durable heartbeats through the real webhook against a bare ASGI function that answers 204 on the same server."""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from app.core.ids import Kind, parse_public_id
from app.heartbeats.endpoint import PATH
from app.keys import KeyRing, Purpose
from app.sessions.tokens import WebhookTokens
from benchmarks.figures import Figure

SESSIONS = 64
CONNECTIONS = 32
SECONDS = 3.0
ROUNDS = 3
SECRET = "benchmark-secret-0123456789"
ADMIN_KEY = "benchmark-admin-key-0123456789"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _process(*command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TALKTIME_")}
    process = subprocess.Popen(
        [sys.executable, *command], env=inherited | environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def _ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            httpx.get(url, trust_env=False).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{url} did not become ready")


def _load(port: int, requests: list[bytes]) -> tuple[int, int]:
    command = [sys.executable, "-m", "benchmarks.load", "127.0.0.1", str(port), str(CONNECTIONS), str(SECONDS)]
    shown = subprocess.run(command, input=b"\0".join(requests), capture_output=True, check=True).stdout
    good, bad = (int(number) for number in shown.split())
    return good, bad


def _request(path: str, provider_session_id: str) -> bytes:
    body = json.dumps({"session_id": provider_session_id}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: talktime\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def _sessions(api: httpx.Client) -> list[dict[str, str]]:
    started = []
    for number in range(SESSIONS):
        user = f"user-{number}"
        api.post(f"/v1/users/{user}/grants", json={"amount": "1000"}).raise_for_status()
        asked = {"user_id": user, "persona": "tutor", "scenario": "silent"}
        started.append(api.post("/v1/sessions", json=asked).raise_for_status().json()["session"])
    return started


def measure() -> Figure:
    """Both sides in turn; every heartbeat that was acknowledged must be stored."""
    tokens = WebhookTokens(KeyRing([SECRET], Purpose.WEBHOOK))
    port, bare_port = _free_port(), _free_port()
    url = f"http://127.0.0.1:{port}"
    bare = ("-m", "uvicorn", "benchmarks.bare:app", "--port", str(bare_port), "--no-access-log", "--log-level", "error")
    with (
        tempfile.TemporaryDirectory() as folder,
        _process("-m", "app.cli", "gabber-sim", "--port", "0", "--json") as simulator,
        _process(*bare),
    ):
        assert simulator.stdout is not None
        provider = json.loads(simulator.stdout.readline())
        settings = {
            "TALKTIME_DATA_DIR": str(Path(folder) / "data"),
            "TALKTIME_GABBER_BASE_URL": provider["url"],
            "TALKTIME_GABBER_API_KEY": provider["api_key"],
            "TALKTIME_PUBLIC_URL": url,
            "TALKTIME_SECRET": SECRET,
            "TALKTIME_BOOTSTRAP_ADMIN_KEY": ADMIN_KEY,
            "TALKTIME_WEBHOOK_MAX_RPS": "0",
            "TALKTIME_CALLER_MAX_RPS": "0",
        }
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        with (
            _process("-m", "app.cli", "serve", "--port", str(port), **settings),
            httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30) as api,
        ):
            _ready(f"{url}/readyz")
            sessions = _sessions(api)
            requests = []
            for session in sessions:
                key = parse_public_id(Kind.SESSION, session["id"])
                assert key is not None
                requests.append(_request(PATH + tokens.mint(key), session["provider_session_id"]))
            return _rounds(api, port, bare_port, requests, sessions)


def _rounds(
    api: httpx.Client, port: int, bare_port: int, requests: list[bytes], sessions: list[dict[str, str]]
) -> Figure:
    plain = [_request(f"/{secrets.token_urlsafe(90)}", session["provider_session_id"]) for session in sessions]
    ours: list[float] = []
    theirs: list[float] = []
    acknowledged = 0
    _load(port, requests)
    acknowledged += _stored(api, sessions)
    for _ in range(ROUNDS):
        good, bad = _load(bare_port, plain)
        if bad:
            raise RuntimeError(f"{bad} requests failed on the bare side")
        theirs.append(good / SECONDS)
        good, bad = _load(port, requests)
        if bad:
            raise RuntimeError(f"{bad} heartbeats were refused")
        ours.append(good / SECONDS)
        acknowledged += good
    stored = _stored(api, sessions)
    if stored != acknowledged:
        raise RuntimeError(f"{acknowledged} heartbeats were acknowledged, {stored} are stored")
    return Figure(
        f"durable heartbeats through the webhook, {CONNECTIONS} connections",
        "a bare ASGI function that answers 204 on the same server",
        "a second",
        ours,
        theirs,
        f"acknowledged = stored = {stored:,}",
    )


def _stored(api: httpx.Client, sessions: list[dict[str, str]]) -> int:
    return sum(api.get(f"/v1/sessions/{session['id']}").json()["heartbeat_count"] for session in sessions)
