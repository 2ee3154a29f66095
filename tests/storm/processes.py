"""The processes of a storm: the simulated provider, two services, and the one address that leads to both."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

TALKTIME: Final = (sys.executable, "-m", "app.cli")
READY_S: Final = 60.0
KILLED_AFTER_S: Final = (2.0, 12.0)
"""A service is killed so long after it has become ready."""

_PIECE: Final = 1 << 16


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's variables; of settings of Talktime only those given, and compiled modules are kept."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("TALKTIME_", "PYTHONDONT"))
    } | dict(settings)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def command(folder: Path, settings: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``talktime`` with these arguments to its end."""
    return subprocess.run(
        [*TALKTIME, *arguments], env=environment(settings), cwd=folder, capture_output=True, text=True, check=False
    )


@contextmanager
def simulator(folder: Path, arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Run ``talktime gabber-sim``; its URL and key."""
    with (folder / "simulator.log").open("wb") as log:
        process = subprocess.Popen(
            [*TALKTIME, "gabber-sim", "--port", "0", "--json", *arguments],
            env=environment({}),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError((folder / "simulator.log").read_text()[-2000:])
            told = json.loads(line)
            yield told["url"], told["api_key"]
        finally:
            process.terminate()
            process.communicate()


class Worker:
    """A ``talktime serve`` that is started again whenever it ends."""

    def __init__(self, name: str, port: int, settings: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.port = port
        self.log = folder / f"{name}.log"
        self.kills = 0
        self.died = 0
        """How often it ended though nobody killed it."""
        self.starting_s = 0.0
        """The longest time that it took to become ready."""
        self._settings = settings
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*TALKTIME, "serve", "--port", str(self.port)],
                env=environment(self._settings),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    async def until_ready(self, client: httpx.AsyncClient) -> None:
        """Wait until it answers; start it again if it ended by itself."""
        began = time.monotonic()
        while time.monotonic() < began + READY_S:
            if self._process is None or self._process.poll() is not None:
                self.died += self._process is not None
                self.start()
            try:
                answer = await client.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5)
            except httpx.HTTPError:
                answer = None
            if answer is not None and answer.status_code == 200:
                self.starting_s = max(self.starting_s, time.monotonic() - began)
                return
            await asyncio.sleep(0.1)
        raise RuntimeError(f"{self.name} does not become ready; see {self.log}")

    async def suffer(self, client: httpx.AsyncClient, chance: random.Random, over: asyncio.Event) -> None:
        """Be killed and started again until ``over``, and be ready then."""
        while not over.is_set():
            await self.until_ready(client)
            try:
                await asyncio.wait_for(over.wait(), chance.uniform(*KILLED_AFTER_S))
            except TimeoutError:
                self.kill()
                self.start()
        await self.until_ready(client)

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory runs out: nothing of it runs any more."""
        if self._process is not None and self._process.poll() is None:
            self.kills += 1
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def stop(self) -> int:
        """End it in order; its exit code."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


class Front:
    """One address in front of several: each connection goes to the next one that takes it."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = list(ports)
        self._turn = 0
        self._busy: set[asyncio.Task[None]] = set()

    async def listen(self, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._taken, "127.0.0.1", port, backlog=1024)

    def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def close(self) -> None:
        """Cut all connections."""
        for task in list(self._busy):
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind: asyncio.StreamWriter | None = None
        try:
            for _ in self._ports:
                self._turn = (self._turn + 1) % len(self._ports)
                try:
                    answers, behind = await asyncio.open_connection("127.0.0.1", self._ports[self._turn])
                except OSError:
                    continue
                both = [asyncio.create_task(_pass_on(reader, behind)), asyncio.create_task(_pass_on(answers, writer))]
                try:
                    # Whoever of the two goes away takes the connection with him.
                    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in both:
                        task.cancel()
                    await asyncio.gather(*both, return_exceptions=True)
                break
        finally:
            writer.close()
            if behind is not None:
                behind.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
    except OSError:
        return
