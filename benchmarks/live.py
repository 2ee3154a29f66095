"""Streams that are idle, against the same server with none: ``python -m benchmarks.live [--write]``.

A real ``talktime serve`` on its embedded database (durable settings), and a process that holds the streams open, each
of another user. Memory and time of the server's processes are the system's own figures.
"""

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

import httpx

from app.access.user_tokens import UserTokens
from app.core.units import US_PER_S, Instant, Micros
from app.keys import KeyRing, Purpose
from app.ports.randomness import SystemRandomness
from benchmarks.figures import put_section
from benchmarks.heartbeats import ADMIN_KEY, SECRET, _free_port, _process, _ready
from benchmarks.lists import PAGE

LISTENERS: Final = 10_000
IDLE_S: Final = 30.0
SETTLES_S: Final = 30.0
"""What was done before has had its effects by then."""

CHANGES: Final = 40
GRANTING: Final = 8
HEADING: Final = "## Live balance"
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_TEXT: Final = """{heading}

`make live` (`python -m benchmarks.live --write`) measures this and writes it here. {count:,} streams, each of another
user with a token of his own, are open at one `talktime serve` and idle: nothing changes, a comment goes to each every
25 s. Then {changes} users are granted something, one after another, while all the others listen.

| what | no stream | {count:,} streams | |
|---|---|---|---|
| memory of the server | {before:.0f} MB | {after:.0f} MB | {each:.1f} KB a stream |
| processor time of the server, idle | {idle:.1f} ms a second | {held:.1f} ms a second | {ratio:.1f} times; {us} |
| processor time of PostgreSQL, idle | {pg_idle:.1f} ms a second | {pg_held:.1f} ms a second | {pg_ratio:.1f} times |
| from a commit's answer to its event | {alone}, one stream | {crowd} | a look each second |

Each change reached its listener and no other; {opened:.0f} streams were opened a second.
"""


def _allow_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SystemExit(f"this needs {wanted} open files, and no more than {hard} are allowed: see ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _memory_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the server is gone")


def _ms(pid: int) -> float:
    """Processor time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / _TICKS


def _below(pid: int) -> list[int]:
    """Its children, theirs, and so on: the embedded database."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [below for child in map(int, children) for below in (child, *_below(child))]


def _cost(pid: int) -> tuple[float, float]:
    """Milliseconds of processor time in a second, idle: of the server, and of its database."""
    time.sleep(3)
    mine, others = _ms(pid), {child: _ms(child) for child in _below(pid)}
    time.sleep(IDLE_S)
    theirs = sum(_ms(child) - before for child, before in others.items() if Path(f"/proc/{child}").exists())
    return (_ms(pid) - mine) / IDLE_S, theirs / IDLE_S


async def _grant_all(url: str, users: list[str]) -> None:
    waiting = iter(users)
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}

    async def work() -> None:
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=60) as api:
            for user in waiting:
                (await api.post(f"/v1/users/{user}/grants", json={"amount": "100"})).raise_for_status()

    await asyncio.gather(*(work() for _ in range(GRANTING)))


class Crowd:
    """Streams of ``users``, held open by another process."""

    def __init__(self, port: int, users: list[str], tokens: UserTokens) -> None:
        self._users = users
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.listeners", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        now, day = Instant(time.time_ns() // 1000), Micros(86_000 * US_PER_S)
        for user in users:
            print(f"/v1/users/{user}/live", tokens.issue(user, day, now)[0], file=self._process.stdin)
        began = time.monotonic()
        print("wait", file=self._process.stdin, flush=True)
        assert self._line() == f"open {len(users)}"
        self.opened_a_second = len(users) / (time.monotonic() - began)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def delays(self, api: httpx.Client) -> list[float]:
        """Milliseconds from the answer to a grant until its user is told, one user after another."""
        found = []
        step = max(1, len(self._users) // CHANGES)
        for n in range(CHANGES):
            number = n * step % len(self._users)
            time.sleep(0.013 * n % 1)  # at another time within the second
            api.post(f"/v1/users/{self._users[number]}/grants", json={"amount": "1"}).raise_for_status()
            answered = time.monotonic()
            word, whose, at = self._line().split()
            if (word, int(whose)) != ("told", number):
                raise RuntimeError(f"user {number} changed, and of {whose} it was said: {word}")
            found.append(max(0.0, (float(at) - answered) * 1000))
        return found

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate()


def measure(listeners: int) -> str:
    """The section of the page. Fails if a change reaches another listener than its own, or none."""
    _allow_files(listeners + 500)
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    users = [f"user-{number}" for number in range(listeners)]
    tokens = UserTokens(KeyRing([SECRET], Purpose.USER_TOKEN), SystemRandomness())
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "TALKTIME_DATA_DIR": str(Path(folder) / "data"),
            "TALKTIME_GABBER_API_KEY": "benchmark-provider-key",
            "TALKTIME_SECRET": SECRET,
            "TALKTIME_BOOTSTRAP_ADMIN_KEY": ADMIN_KEY,
            "TALKTIME_CALLER_MAX_RPS": "0",
        }
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        with (
            _process("-m", "app.cli", "serve", "--port", str(port), **settings) as server,
            httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as api,
        ):
            _ready(f"{url}/readyz")
            asyncio.run(_grant_all(url, users))
            few = Crowd(port, users[:1], tokens)
            alone = few.delays(api)
            few.close()
            time.sleep(SETTLES_S)
            before = _memory_mb(server.pid)
            idle, pg_idle = _cost(server.pid)
            crowd = Crowd(port, users, tokens)
            time.sleep(SETTLES_S)
            after = _memory_mb(server.pid)
            held, pg_held = _cost(server.pid)
            told = crowd.delays(api)
            crowd.close()
    return _TEXT.format(
        heading=HEADING,
        count=listeners,
        changes=CHANGES,
        before=before,
        after=after,
        each=(after - before) * 1024 / listeners,
        idle=idle,
        held=held,
        ratio=held / idle,
        us=f"{(held - idle) * 1000 / listeners:.2f} µs a stream and second",
        pg_idle=pg_idle,
        pg_held=pg_held,
        pg_ratio=pg_held / pg_idle,
        alone=_told(alone),
        crowd=_told(told),
        opened=crowd.opened_a_second,
    )


def _told(delays: list[float]) -> str:
    return f"{median(delays):.0f} ms in the median, at most {max(delays):.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listeners", type=int, default=LISTENERS)
    parser.add_argument("--write", action="store_true", help=f"put the figures into {PAGE.name}")
    asked = parser.parse_args()
    section = measure(asked.listeners)
    print(section)
    if asked.write:
        put_section(PAGE, HEADING, section)


if __name__ == "__main__":
    main()
