"""Statements that block the one thread of the simulated world, and what can go wrong around them.

While a statement runs nothing else does, so a transaction is never interleaved with another: what interleaves are whole
transactions, and the world is the same each time. (Interleaving statements is the turnstile's business.) Each
transaction of each operation has a name, ``start/1`` say; traps wait there: the process dies before or after the
commit, the connection is lost before or after it, or the whole process stands still before the first statement.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

import psycopg
from psycopg import pq, waiting
from psycopg._preparing import Key, Prepare, PrepareManager
from psycopg._queries import PostgresQuery

SLICE: Final = "slice"
"""The operation that leases permits for requests to the provider."""

RECEIVING: Final = "receiving"
"""The operation that says that heartbeats are received."""

UNSEEN: Final = frozenset({SLICE, RECEIVING})
"""They commit often, and change nothing that the auditor reads."""

LOOKS: Final = ("select ", "show ")
"""How a statement begins that is alone and only reads: the pool looks so at a server that it does not know yet."""

TRAPS: Final = ("dies before", "dies after", "cut before", "cut after", "stalls before")


class Died(BaseException):
    """The process is dead. No handler of the application may catch it, as none would run."""


@dataclass(eq=False)
class Life:
    """One process's life, as far as its statements are concerned."""

    name: str
    traps: "Traps"
    dead: bool = False
    """Ask :meth:`ended`: it changes while others wait."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    connections: WeakKeyDictionary[psycopg.AsyncConnection[Any], bool] = field(default_factory=WeakKeyDictionary)
    """Those that it has used, and whether the transaction of each only reads."""

    def ended(self) -> bool:
        return self.dead

    def end(self) -> None:
        """No statement gets through any more; what was not committed is rolled back."""
        self.dead = True
        self.gone.set()
        for connection in list(self.connections):
            _part(connection)


@dataclass(eq=False)
class Operation:
    """What a process is doing, and how many transactions it has come to in it."""

    name: str
    transactions: int = 0

    @property
    def point(self) -> str:
        return f"{self.name}/{self.transactions}"


@dataclass
class Traps:
    """Armed traps by point; each strikes once. ``fired`` counts what struck where, by point and kind."""

    stall_s: float
    armed: dict[tuple[str, str], int] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    fired: Counter[str] = field(default_factory=Counter)
    commits: int = 0
    """So many transactions were committed: while there are no more, nothing has changed that the auditor reads."""
    done_astray: list[str] = field(default_factory=list)
    """What processes have done while their clocks were wrong."""
    down: bool = False
    """The database cannot be reached at all."""

    def arm(self, point: str, kind: str) -> None:
        self.armed[point, kind] = self.armed.get((point, kind), 0) + 1

    def disarm(self) -> None:
        self.armed.clear()

    def strikes(self, point: str, kind: str) -> bool:
        left = self.armed.get((point, kind), 0)
        if not left:
            return False
        self.armed[point, kind] = left - 1
        self.fired[f"{point} {kind}"] += 1
        return True


LIFE: ContextVar[Life | None] = ContextVar("life", default=None)
OPERATION: ContextVar[Operation | None] = ContextVar("operation", default=None)

_wait_plainly = psycopg.AsyncConnection.wait
_commit_plainly = psycopg.AsyncConnection.commit
_close_plainly = psycopg.AsyncConnection.close


class _Plans(PrepareManager):
    """Prepares each statement in its session of the server, for all connections that it serves one after the other.

    What the service sends is the same; the server parses and plans it once for many worlds.
    """

    @property
    def prepare_threshold(self) -> int:
        return 0

    @prepare_threshold.setter
    def prepare_threshold(self, _asked: int | None) -> None:
        """The service prepares nothing."""

    def get(self, query: PostgresQuery, prepare: bool | None = None) -> tuple[Prepare, bytes]:
        name = self._names.get(self.key(query))
        if name is not None:
            return Prepare.YES, name
        if b";" in query.query:
            return Prepare.NO, b""
        self._prepared_idx += 1
        return Prepare.SHOULD, b"s%d" % self._prepared_idx

    def maybe_add_to_cache(self, query: PostgresQuery, prep: Prepare, name: bytes) -> Key | None:
        if prep is not Prepare.SHOULD:
            return None
        key = self.key(query)
        self._names[key] = name
        return key

    def validate(self, key: Key, prep: Prepare, name: bytes, results: Sequence[pq.abc.PGresult]) -> None:
        """It was prepared, whatever came of it then."""

    def clear(self) -> bool:
        """What is rolled back changes no statement."""
        return False


_described: dict[tuple[bytes, tuple[int, ...]], list[psycopg.Column]] = {}
_describe_plainly: Any = psycopg.AsyncCursor.description


class _Description:
    """What columns a statement answers with: asked for twice a statement, and the same each time."""

    def __get__(self, cursor: psycopg.AsyncCursor[Any], _kind: object = None) -> Any:
        query = cursor._query
        if query is None or cursor.pgresult is None or cursor.pgresult.status != pq.ExecStatus.TUPLES_OK:
            return _describe_plainly.__get__(cursor)
        key = (query.query, query.types)
        if key not in _described:
            _described[key] = _describe_plainly.__get__(cursor)
        return _described[key]


_GONE: Final = pq.PGconn.connect_start(b"host=/nowhere")
_GONE.finish()

_idle: dict[str, list[tuple[pq.abc.PGconn, PrepareManager]]] = {}
"""Sessions of the server that have nothing under way and that nobody uses, by what was asked for.

They serve the next connection, as behind a proxy that pools sessions: a new one reads the server's catalogs anew, which
takes longer than what most connections are there for.
"""

_asked_for: WeakKeyDictionary[psycopg.AsyncConnection[Any], str] = WeakKeyDictionary()


def _part(connection: psycopg.AsyncConnection[Any]) -> None:
    """The connection ends: no statement gets through it any more; what was not committed is rolled back."""
    session, asked_for = connection.pgconn, _asked_for.get(connection)
    if asked_for is None or session.transaction_status != pq.TransactionStatus.IDLE:
        session.finish()
    else:
        connection.pgconn = _GONE
        _idle.setdefault(asked_for, []).append((session, connection._prepared))


def end_idle_sessions() -> None:
    """End the server's sessions that nobody uses: while there are any, their database cannot be cloned."""
    for sessions in _idle.values():
        for session, _ in sessions:
            session.finish()
    _idle.clear()


def _lose(connection: psycopg.AsyncConnection[Any]) -> psycopg.OperationalError:
    _part(connection)
    return psycopg.OperationalError("the connection is lost")


async def _wait(
    self: psycopg.AsyncConnection[Any],
    gen: Any,
    interval: float = 0.1,
    timeout: float | None = None,  # noqa: ASYNC109 - the driver's own signature
) -> Any:
    life = LIFE.get()
    if life is None:
        return waiting.wait(gen, self.pgconn.socket, interval=interval)
    if life.ended():
        _part(self)
        raise Died
    operation = OPERATION.get()
    # The pool rolls back what is not there: nothing begins with that.
    executes = gen.__name__.startswith("_execute")
    begins = alone = False
    if executes and self.pgconn.transaction_status == pq.TransactionStatus.IDLE:
        query = str(gen.gi_frame.f_locals["query"]).lstrip()
        reads = "READ ONLY" in query if query.startswith("BEGIN") else query.startswith(LOOKS)
        life.connections[self] = reads
        begins = not reads
        alone = begins and not query.startswith("BEGIN")
    else:
        life.connections.setdefault(self, False)
    if begins and operation is not None:
        # The writer of heartbeats goes on for ever; each of its statements is the first again.
        operation.transactions = 1 if alone else operation.transactions + 1
        life.traps.seen[operation.point] += 1
        if life.traps.strikes(operation.point, "stalls before"):
            # No lock is held yet, so that only this process stands still.
            await asyncio.sleep(life.traps.stall_s)
            if life.ended():
                _part(self)
                raise Died
    if life.traps.down:
        life.traps.fired["database down"] += 1
        raise _lose(self)
    if alone:
        # One statement that is its own transaction.
        return await _around_commit(self, life, operation, lambda: _blocking(self, gen, interval))
    return _blocking(self, gen, interval)


def _blocking(connection: psycopg.AsyncConnection[Any], gen: Any, interval: float) -> Any:
    return waiting.wait(gen, connection.pgconn.socket, interval=interval)


async def _around_commit(
    connection: psycopg.AsyncConnection[Any], life: Life, operation: Operation | None, commit: Any
) -> Any:
    if operation is None or operation.name not in UNSEEN:
        life.traps.commits += 1
    if operation is None:
        return commit()
    point = operation.point
    if life.traps.strikes(point, "dies before"):
        life.end()
        raise Died
    if life.traps.strikes(point, "cut before"):
        raise _lose(connection)
    result = commit()
    if life.traps.strikes(point, "dies after"):
        life.end()
        raise Died
    if life.traps.strikes(point, "cut after"):
        raise _lose(connection)
    return result


async def _commit(self: psycopg.AsyncConnection[Any]) -> None:
    life = LIFE.get()
    reads = life is not None and life.connections.get(self, False)
    if life is None or reads or self.pgconn.transaction_status == pq.TransactionStatus.IDLE:
        await _commit_plainly(self)
        return
    if life.ended():
        _part(self)
        raise Died

    def commit() -> None:
        waiting.wait(self._commit_gen(), self.pgconn.socket, interval=0.1)

    await _around_commit(self, life, OPERATION.get(), commit)


async def _close(self: psycopg.AsyncConnection[Any]) -> None:
    if not self.closed:
        self._closed = True
        _part(self)


async def _wait_conn(
    gen: Any,
    interval: float = 0.1,
    timeout: float | None = None,  # noqa: ASYNC109 - the driver's own signature
) -> Any:
    life = LIFE.get()
    if life is not None and life.ended():
        raise Died
    if life is not None and life.traps.down:
        life.traps.fired["database down"] += 1
        raise psycopg.OperationalError("the database cannot be reached")
    asked_for, kind = gen.gi_frame.f_locals["conninfo"], gen.gi_frame.f_locals["cls"]
    sessions = _idle.get(asked_for)
    if sessions:
        gen.close()
        session, plans = sessions.pop()
        connection = kind(session)
    else:
        connection, plans = waiting.wait_conn(gen, interval=interval, timeout=timeout), _Plans()
    connection._prepared = plans
    _asked_for[connection] = asked_for
    return connection


@contextmanager
def blocking_statements() -> Iterator[None]:
    """While this lasts, the driver's asynchronous connections block, and traps work."""
    before = waiting.wait_conn_async
    psycopg.AsyncCursor.description = _Description()  # type: ignore[assignment, method-assign]
    psycopg.AsyncConnection.wait = _wait  # type: ignore[method-assign]
    psycopg.AsyncConnection.commit = _commit  # type: ignore[method-assign]
    psycopg.AsyncConnection.close = _close  # type: ignore[method-assign]
    waiting.wait_conn_async = _wait_conn
    try:
        yield
    finally:
        psycopg.AsyncCursor.description = _describe_plainly  # type: ignore[method-assign]
        psycopg.AsyncConnection.wait = _wait_plainly  # type: ignore[method-assign]
        psycopg.AsyncConnection.commit = _commit_plainly  # type: ignore[method-assign]
        psycopg.AsyncConnection.close = _close_plainly  # type: ignore[method-assign]
        waiting.wait_conn_async = before
