"""A simulated provider for tests: a real server in a thread of its own, on a free port of this machine."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx

from app.ports.clock import Clock, ScaledClock
from app.simulator.config import SimulatorConfig
from app.simulator.server import Simulator

KEY = "key-of-the-simulated-provider"


@dataclass(frozen=True)
class Provider:
    """Its address, key and clock, and the control calls."""

    url: str
    key: str
    clock: Clock
    client: httpx.Client
    thread: threading.Thread

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.client.request(method, path, **options)

    def start(self, scenario: str, **fields: object) -> str:
        """Start a session and return the provider's id of it."""
        answer = self.call("POST", "/api/v1/session/start", json={"persona": "default", "scenario": scenario} | fields)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["session"]["id"])

    def truth(self, session_id: str) -> dict[str, Any]:
        answer = self.call("GET", f"/sim/sessions/{session_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def misbehave(self, **faults: object) -> None:
        """Replace all faults; ``timeline_500`` stands for ``timeline.500``."""
        named = {name.replace("_", ".", 1): setting for name, setting in faults.items()}
        answer = self.call("PUT", "/sim/faults", json=named)
        assert answer.status_code == 200, answer.text


@contextlib.contextmanager
def provider(config: SimulatorConfig | None = None, *, speed: int = 60, **changes: Any) -> Iterator[Provider]:
    """Run one, at 60 times real time unless ``config`` brings a clock; ``changes`` are fields of its configuration."""
    base = config or SimulatorConfig(api_key=KEY, clock=ScaledClock.starting_now(speed))
    simulator = Simulator(replace(base, **changes))
    ready = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(simulator.serve(ready.set)), name="simulated provider")
    thread.start()
    try:
        assert ready.wait(10), "the simulated provider did not start"
        key = simulator.config.api_key
        # verify=False: loading the authorities takes longer than most of these tests, and there is no TLS here.
        with httpx.Client(
            base_url=simulator.url, headers={"x-api-key": key}, trust_env=False, verify=False, timeout=5
        ) as client:
            yield Provider(simulator.url, key, simulator.config.clock, client, thread)
    finally:
        # Not waited for: it stops within a fifth of a second by itself, and many tests run one of their own.
        simulator.stop()
