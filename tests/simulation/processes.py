"""The processes of the simulated world: each the real service, with a clock and memory of its own, that can die."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any, Final

from fastapi import routing
from fastapi.dependencies import models
from sqlalchemy.util import LRUCache

from app.core.units import Micros
from app.db.database import DatabaseUnavailable
from app.ports.randomness import SeededRandomness
from app.service import Service
from app.settings import Settings
from tests.simulation.endpoints import Endpoints, Sender
from tests.simulation.loop import ProcessClock, WorldClock
from tests.simulation.provider import Provider
from tests.simulation.statements import LIFE, OPERATION, SLICE, Died, Life, Operation, Traps

WRONG_CLOCK: Final = 503
"""How a process must answer to every write while its clock is wrong."""

ADMIN_KEY: Final = "simulated-admin-key"
PUBLIC_URL: Final = "http://talktime.example"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def problem(self) -> str:
        """The code of a problem; empty if it is none."""
        if not self.headers.get("content-type", "").startswith("application/problem+json"):
            return ""
        return str(self.json()["type"]).rpartition("/")[2]


class Compiled:
    """SQL that was compiled once, for all processes of all worlds: compiling anew takes longer than a world does."""

    def __init__(self) -> None:
        self._cache: Any = LRUCache(1000)
        self._dialect: Any = None

    def share(self, service: Service) -> None:
        engine: Any = service.database._engine.sync_engine
        if self._dialect is None:
            self._dialect = engine.dialect
        engine.dialect = engine.pool._dialect = self._dialect
        engine._compiled_cache = self._cache
        # The connection used last: its backend has read the catalogs of this world's database.
        engine.pool._pool.use_lifo = True


COMPILED: Final = Compiled()

_dependant_plainly = routing._build_dependant_with_parameterless_dependencies
_TOLD_BY_CODE: Final = (
    "_is_gen_callable",
    "_is_async_gen_callable",
    "get_typed_return_annotation",
    "_extract_endpoint_context",
)
"""What the framework reads of a function and finds in its code: its kind, what it returns, where it is written."""

_REMEMBERED: Final = ("_is_gen_callable_cached", "_is_async_gen_callable_cached", "_is_coroutine_callable_cached")
"""What it remembers of thousands of functions, and with each of them the process that it belongs to."""


def _once_by_code(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    known: dict[CodeType, Any] = {}

    def look(call: Any) -> Any:
        code = getattr(call, "__code__", None)
        if code is None:
            return read(call)
        if code not in known:
            known[code] = read(call)
        return known[code]

    return look


def _of_call(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda call: read(models._CallIdentity(call))


def _of_identity(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda identity: read(identity.call)


@contextmanager
def signatures_read_once() -> Iterator[None]:
    """Processes are built many times in a world, of the same functions: their signatures are read for the first only.

    What was read is the same but for whom it calls: each process's routes close over that process.
    """
    plain = {name: getattr(routing, name) for name in _TOLD_BY_CODE}
    remembering = {name: getattr(models, name) for name in _REMEMBERED}
    read: dict[tuple[str, CodeType, int], tuple[Any, Any, Any]] = {}

    def build(*, path: str, call: Callable[..., Any], dependencies: Sequence[Any]) -> tuple[Any, Any, Any]:
        key = (path, call.__code__, len(dependencies))
        if key not in read:
            read[key] = _dependant_plainly(path=path, call=call, dependencies=dependencies)
        dependant, body_params, embedded = read[key]
        before = [
            replace(known, call=depends.dependency)
            for known, depends in zip(dependant.dependencies, dependencies, strict=False)
        ]
        own = dependant.dependencies[len(dependencies) :]
        return replace(dependant, call=call, dependencies=[*before, *own]), body_params, embedded

    routing._build_dependant_with_parameterless_dependencies = build
    for name, read_plainly in plain.items():
        setattr(routing, name, _once_by_code(read_plainly))
    for name, remembers in remembering.items():
        setattr(models, name, _of_identity(_once_by_code(_of_call(remembers.__wrapped__))))
    try:
        yield
    finally:
        routing._build_dependant_with_parameterless_dependencies = _dependant_plainly
        for name, read_plainly in plain.items():
            setattr(routing, name, read_plainly)
        for name, remembers in remembering.items():
            setattr(models, name, remembers)


class Process:
    """One process of the service. :meth:`start` it; a trap or :meth:`die` ends it, memory and all."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        url: str,
        clock: WorldClock | ProcessClock,
        seed: str,
        provider: Provider,
        traps: Traps,
        report_every: Micros,
        endpoints: Endpoints,
    ) -> None:
        self.name = name
        self.clock = clock
        self.life = Life(name, traps)
        self._context = copy_context()
        self._context.run(LIFE.set, self.life)
        # In the order in which they began: that of a set would be another each time.
        self._tasks: dict[asyncio.Task[Any], None] = {}
        randomness = SeededRandomness(0, seed)
        self.service = Service(
            settings,
            url,
            clock=clock,
            randomness=randomness,
            transport=provider,
            sender=Sender(endpoints, self.life.end),
            report_every=report_every,
        )
        COMPILED.share(self.service)
        self.astray = False
        """Its clock is wrong by more than it may be, and it has had the time to notice."""
        self.unready = False
        """Whoever distributes requests has seen that it is not ready."""
        if isinstance(clock, ProcessClock):
            database: Any = self.service.database
            database.clock = self._database_clock
        # Whether a slice is in hand must not move the points at which traps wait for what asks for it.
        budget: Any = self.service.permits
        budget._lease, budget.block = _as_slice(budget._lease), _as_slice(budget.block)

    @property
    def alive(self) -> bool:
        return not self.life.ended()

    @property
    def idle(self) -> bool:
        return not self._tasks

    async def _database_clock(self) -> Any:
        assert isinstance(self.clock, ProcessClock)
        if self.life.traps.down:
            raise DatabaseUnavailable("the database cannot be reached")
        return await self.clock.database()

    async def jump(self, by: int) -> None:
        """Its clock jumps by ``by`` µs, and is compared with the database's at once."""
        assert isinstance(self.clock, ProcessClock)
        self.clock.jump(by)
        await self.run("clock", self.service.clock_watch.check)

    async def start(self) -> bool:
        """Whether it came up."""
        try:
            return await self.run("boot", self._start) is True
        except Exception:  # noqa: BLE001 - as a supervisor would, whatever it died of
            await self.die()
            return False

    async def _start(self) -> bool:
        # The writer of heartbeats is a task of its own and keeps the operation that it was started in.
        await self.service.start()
        operation = OPERATION.get()
        assert operation is not None
        operation.name = "ticks"
        return True

    async def run(self, operation: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do ``work`` in this process; null if the process died of it or under it. Raises what ``work`` raises."""
        if self.life.ended():
            return None

        async def within() -> Any:
            OPERATION.set(Operation(operation))
            return await work()

        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(_quiet(within()), context=self._context.copy())
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        done = await asyncio.shield(_outcome(task))
        if self.life.ended():
            await self.die()
            return None
        if isinstance(done, BaseException):
            raise done
        return done

    async def die(self) -> None:
        """The end: nothing that was under way goes on."""
        self.life.end()
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        writer = self.service._writer._task
        for task in [*tasks, *([writer] if writer is not None else [])]:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()
        self.life.end()

    async def stop(self) -> None:
        """The orderly end."""
        if self.life.ended():
            return
        await self.run("stop", self.service.stop)
        self.life.dead = True

    async def call(
        self, operation: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer | None:
        """A request to this process; null if no answer came."""
        target, _, query = path.partition("?")
        sent = {"authorization": f"Bearer {ADMIN_KEY}", **(headers or {})}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": target,
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
            "client": ("127.0.0.1", 1),
            "server": ("talktime.example", 80),
        }
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        async def exchange() -> None:
            await _exchange(self.service.app, scope, body, answered)

        work = asyncio.ensure_future(self.run(operation, exchange))
        astray = self.astray
        # What has left the process is answered, whatever becomes of the process then.
        await asyncio.wait({work, answered}, return_when=asyncio.FIRST_COMPLETED)
        if answered.done():
            # What is no token at all is refused whatever the time.
            timeless = path.startswith("/webhooks/") and answered.result().status == 404
            if astray and method != "GET" and answered.result().status != WRONG_CLOCK and not timeless:
                self.life.traps.done_astray.append(f"{method} {path}: {answered.result().status}")
            return answered.result()
        work.result()
        return None


async def _quiet(work: Coroutine[Any, Any, Any]) -> Any:
    """Death is an outcome here: as an exception it would end the loop."""
    try:
        return await work
    except Died:
        return None


def _as_slice(work: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """``work`` as an operation of its own, within another one."""

    async def within(*given: Any) -> Any:
        token = OPERATION.set(Operation(SLICE))
        try:
            return await work(*given)
        finally:
            OPERATION.reset(token)

    return within


async def _outcome(task: asyncio.Task[Any]) -> Any:
    await asyncio.wait([task])
    if task.cancelled():
        return None
    return task.exception() or task.result()


async def _exchange(app: Any, scope: dict[str, Any], body: bytes, answered: asyncio.Future[Answer]) -> None:
    status, headers, content, given = 0, {}, b"", False

    async def receive() -> dict[str, Any]:
        nonlocal given
        if given:
            await asyncio.sleep(3600)
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, headers, content
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
            return
        content += message.get("body", b"")
        if not message.get("more_body", False):
            answered.set_result(Answer(status, headers, content))

    try:
        await app(scope, receive, send)
    except Exception:
        # The framework answers 500 and raises all the same, for its server to log.
        if not answered.done():
            raise
