"""The gate: in front of every statement, commit, rollback and call to the provider, an actor waits to be let through.

It is put into the database driver for the time of an exploration; the service knows nothing of it. Which actor runs, a
context variable says, so that whatever an actor starts is the same actor.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final
from unittest.mock import patch

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.pq import TransactionStatus

from app.db import database as database_module
from tests.turnstile.footprints import (
    OpenTransaction,
    Parameters,
    Statement,
    keeps_snapshot,
    read_statement,
    writes,
)
from tests.turnstile.touches import NOTHING, Row, Touch

LOCK_TIMEOUT_MS: Final = 60_000
"""No statement gives up waiting for a lock while orders are tried: it has to be the others that let go."""


class Stand(Enum):
    RUNNING = "running"
    AT_THE_GATE = "at the gate"
    WAITING = "waiting"
    """For something that another actor does, outside the database."""
    BLOCKED = "blocked"
    """Its statement waits for a lock of another actor's."""
    DONE = "done"


@dataclass
class Step:
    """What an actor is about to do."""

    shown: str
    touch: Touch
    pid: int | None
    passed: asyncio.Future[None]
    failed: str | None = None


@dataclass
class Actor:
    """One actor, in one run after the other; ``changed`` is set whenever it gets anywhere."""

    name: str
    stand: Stand = Stand.DONE
    step: Step | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    active: bool = False
    signals: set[str] = field(default_factory=set)
    transactions: dict[int, OpenTransaction] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    async def arrive(self, shown: str, touch: Touch, pid: int | None = None) -> Step:
        """Wait at the gate."""
        if self.stand not in {Stand.RUNNING, Stand.BLOCKED}:
            raise RuntimeError(f"{self.name} does two things at once: {shown} while {self.step}")
        self.step = Step(shown, touch, pid, asyncio.get_running_loop().create_future())
        self.stand = Stand.AT_THE_GATE
        self.changed.set()
        await self.step.passed
        return self.step

    def let_through(self) -> None:
        if self.step is None:
            raise RuntimeError("nobody is at the gate")
        self.stand = Stand.RUNNING
        self.step.passed.set_result(None)

    def transaction(self, connection: AsyncConnection[Any], text: str = "") -> OpenTransaction:
        """The open transaction of a connection; a new one, as ``text`` begins it, if it is in none."""
        pid = connection.info.backend_pid
        if connection.info.transaction_status is TransactionStatus.IDLE:
            self.transactions[pid] = OpenTransaction(snapshot_kept=keeps_snapshot(text))
        return self.transactions.setdefault(pid, OpenTransaction())


ACTOR: Final[ContextVar[Actor | None]] = ContextVar("actor", default=None)
_execute = AsyncCursor.execute
_executemany = AsyncCursor.executemany
_commit = AsyncConnection.commit
_rollback = AsyncConnection.rollback


@contextmanager
def gates() -> Iterator[None]:
    """Put up the gates; actors that are not ``active``, and whoever is no actor, pass as if there were none."""
    with (
        patch.object(database_module, "LOCK_TIMEOUT_MS", LOCK_TIMEOUT_MS),
        patch.object(AsyncCursor, "execute", _gated_execute),
        patch.object(AsyncCursor, "executemany", _gated_executemany),
        patch.object(AsyncConnection, "commit", _gated_commit),
        patch.object(AsyncConnection, "rollback", _gated_rollback),
    ):
        yield


def _present() -> Actor | None:
    actor = ACTOR.get()
    return actor if actor is not None and actor.active else None


async def _gated_execute(self: AsyncCursor[Any], query: Any, params: Any = None, **options: Any) -> Any:
    actor = _present()
    if actor is None:
        return await _execute(self, query, params, **options)
    return await _statement(actor, self, str(query), params, lambda: _execute(self, query, params, **options))


async def _gated_executemany(self: AsyncCursor[Any], query: Any, params_seq: Any, **options: Any) -> Any:
    actor = _present()
    if actor is None:
        return await _executemany(self, query, params_seq, **options)
    sets = list(params_seq)
    return await _statement(actor, self, str(query), sets, lambda: _executemany(self, query, sets, **options))


async def _statement(actor: Actor, cursor: AsyncCursor[Any], text: str, parameters: Parameters, run: Any) -> Any:
    connection: AsyncConnection[Any] = cursor.connection
    alone = connection.info.transaction_status is TransactionStatus.IDLE
    transaction = actor.transaction(connection, text)
    statement = read_statement(text, parameters)
    touch = transaction.before(statement)
    if alone and not statement.begins:
        touch = _at_once(statement)
    step = await actor.arrive(_shown(text), touch, connection.info.backend_pid)
    try:
        found = await run()
    except psycopg.Error as error:
        step.failed = f"{error.sqlstate} {type(error).__name__}"
        actor.errors.append(step.failed)
        raise
    transaction.after(statement, rows=cursor.rowcount, writes=writes(text))
    return found


def _at_once(statement: Statement) -> Touch:
    """A statement that is its own transaction."""
    touch = statement.touch
    if touch.anything:
        return touch
    return Touch(touch.reads, touch.shares, touch.locks, touch.locks, touch.locks | touch.shares)


async def _gated_commit(self: AsyncConnection[Any]) -> None:
    await _end(self, commit=True)


async def _gated_rollback(self: AsyncConnection[Any]) -> None:
    await _end(self, commit=False)


async def _end(connection: AsyncConnection[Any], *, commit: bool) -> None:
    actor = _present()
    # The pool rolls back whatever it is given back; there is nothing to roll back then, and no statement is sent.
    if actor is not None and connection.info.transaction_status is not TransactionStatus.IDLE:
        touch = actor.transaction(connection).end(commit=commit)
        await actor.arrive("COMMIT" if commit else "ROLLBACK", touch, connection.info.backend_pid)
    await (_commit if commit else _rollback)(connection)


async def pass_by(shown: str, *signals: str) -> None:
    """A step outside the database, after which the ``signals`` are given to actors that :func:`wait_for` them."""
    actor = _present()
    if actor is None:
        return
    await actor.arrive(shown, signal_touch(*signals) if signals else NOTHING)
    actor.signals |= set(signals)


def signal_touch(*signals: str) -> Touch:
    return Touch(locks=frozenset(Row("signal", key=name) for name in signals))


async def wait_for(signal: str) -> None:
    """Wait until another actor gave the signal; the controller ends the wait."""
    actor = ACTOR.get()
    if actor is None:
        raise RuntimeError("only an actor waits for another one")
    actor.step = Step(f"wait for {signal}", signal_touch(signal), None, asyncio.get_running_loop().create_future())
    actor.stand = Stand.WAITING
    actor.changed.set()
    await actor.step.passed


def _shown(text: str) -> str:
    """A statement on one line, without its columns."""
    line = " ".join(text.split())
    for long, short in ((" FROM ", "SELECT … FROM "), (" VALUES ", None)):
        if line.startswith("SELECT ") and short is not None and long in line:
            line = short + line.split(long, 1)[1]
        elif line.startswith("INSERT ") and short is None:
            head, _, rest = line.partition(" (")
            line = f"{head} …{' ON CONFLICT' + rest.rpartition(' ON CONFLICT')[2] if ' ON CONFLICT' in rest else ''}"
    return line
