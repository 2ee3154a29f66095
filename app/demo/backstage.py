"""A thread with an event loop, in which the demonstration's history is made and its provider lives on."""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

import uvloop

from app.simulator.config import SimulatorConfig
from app.simulator.server import Simulator

Result = TypeVar("Result")


class Backstage:
    """Runs coroutines while the main thread waits for them, and may be interrupted at it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do ``work`` and answer its result; an interruption cancels it and waits for its end."""
        ended = threading.Event()
        future = asyncio.run_coroutine_threadsafe(_told(work, ended), self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            ended.wait()
            raise

    @contextmanager
    def going_on(self, work: Coroutine[Any, Any, None]) -> Iterator[None]:
        """Do ``work`` beside the block, and cancel it at its end. Raises what broke it."""
        ended = threading.Event()
        future = asyncio.run_coroutine_threadsafe(_told(work, ended), self._loop)
        try:
            yield
        finally:
            future.cancel()
            ended.wait()
            with suppress(CancelledError):
                future.result()


async def _told(work: Coroutine[Any, Any, Result], ended: threading.Event) -> Result:
    try:
        return await work
    finally:
        ended.set()


@contextmanager
def backstage() -> Iterator[Backstage]:
    """A loop in a thread: servers in it take no signals, those are the main thread's."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="backstage")
    thread.start()
    try:
        yield Backstage(loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@asynccontextmanager
async def simulated(config: SimulatorConfig) -> AsyncIterator[Simulator]:
    """The simulated provider as a real server on the present loop."""
    simulator, ready = Simulator(config), asyncio.Event()
    serving = asyncio.create_task(simulator.serve(ready.set), name="simulated provider")
    try:
        await ready.wait()
        yield simulator
    finally:
        simulator.stop()
        await serving
