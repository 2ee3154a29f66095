"""Streams of a real ``talktime serve``: they outlive its database's death, and end with the process, at once."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.test_serve import KEY, call, renewed, server_of, serving, wait_until
from tests.support.scripted_provider import provider_host


class Heard:
    """What one client was told, read in a thread."""

    def __init__(self, url: str) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.whole = False
        self._url = url
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        headers = {"Authorization": f"Bearer {KEY}", "Accept": "text/event-stream"}
        with httpx.stream("GET", self._url, headers=headers, trust_env=False, timeout=60) as answer:
            name = ""
            for line in answer.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    self.events.append((name, json.loads(value)))
        self.whole = True

    def balance(self) -> str | None:
        states = [data for name, data in self.events if name == "state"]
        return states[-1]["balance"] if states else None

    def join(self) -> None:
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()


def test_streams_outlive_the_database_and_end_with_the_process(data_dir: Path) -> None:
    with provider_host() as host, serving(data_dir, host.script()) as (process, url):
        assert call("POST", f"{url}/v1/users/ada/grants", {"amount": "50"}).status_code == 201
        heard = [Heard(f"{url}/v1/users/ada/live") for _ in range(3)]
        wait_until(lambda: all(one.balance() == "50" for one in heard))
        assert call("POST", f"{url}/v1/users/ada/grants", {"amount": "1"}).status_code == 201
        wait_until(lambda: all(one.balance() == "51" for one in heard))
        killed = server_of(data_dir)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: renewed(url, data_dir, killed))
        assert call("POST", f"{url}/v1/users/ada/grants", {"amount": "1"}).status_code == 201
        wait_until(lambda: all(one.balance() == "52" for one in heard))
        told = time.monotonic()
        process.send_signal(signal.SIGTERM)
        for one in heard:
            one.join()
            assert one.whole
            assert one.events[-1] == ("end", {"reason": "stopping", "reconnect": True})
        assert time.monotonic() - told < 5
        assert process.wait(timeout=20) == 0
