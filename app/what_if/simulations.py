"""The rows of simulations: asked for, taken up, brought forward, ended, forgotten.

Only whoever holds the token of a row may bring it forward; taking it up gives it another. So a process that stalled
while another one took over writes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import Row, bindparam, delete, func, insert, select, update

from app.core.access import Actor
from app.core.ids import NIL_ACCOUNT, AccountThing, Kind, parse_reference_id, reference_id
from app.core.lossless_json import dumps
from app.core.units import US_PER_DAY, Instant, Micros, format_instant
from app.core.what_if import Tally
from app.db.database import Database, Transaction
from app.db.keyset import beyond
from app.db.tables import simulations
from app.errors import NOT_FOUND, TOO_MANY_SIMULATIONS, Problem, invalid
from app.http.pages import cursor_instant, make_cursor, page, read_cursor
from app.ledger.audit import Audit, record_audits
from app.ports.ids import Ids
from app.schedule.jobs import lock_job
from app.what_if.asked import Asked, SimulationDocument, asked_document, asked_of, read_asked, stored_asked

JOB: Final = "simulations"

MAX_UNFINISHED: Final = 10
"""So many may wait or run; who asks for another is told to come again."""

MAX_ATTEMPTS: Final = 5
"""A simulation that was taken up so often without coming any further is given up."""

KEPT: Final = Micros(30 * US_PER_DAY)
"""Simulations are kept for so long (30 days) after they were asked for."""

PURGE_BATCH: Final = 1_000


class SimulationState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


UNFINISHED: Final = (SimulationState.WAITING.value, SimulationState.RUNNING.value)
GIVEN_UP: Final = f"it was taken up {MAX_ATTEMPTS} times and came no further: the log says why"
BROKE: Final = "a fault of ours: it is in the log under the simulation's id"

_HELD: Final = update(simulations).where(
    simulations.c.id == bindparam("of"), simulations.c.token == bindparam("ours"), simulations.c.state == "running"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A simulation that was taken up: what is asked, and how far it is.

    ``behind``: all sessions up to this one are in ``tally``. ``total``: how many there are, null if nobody counted yet.
    """

    id: UUID
    token: UUID
    asked: Asked
    behind: AccountThing | None
    tally: Tally
    total: int | None

    @property
    def public_id(self) -> str:
        return reference_id(Kind.SIMULATION, self.id)


async def ask_for(transaction: Transaction, ids: Ids, asked: Asked, now: Instant) -> dict[str, Any]:
    """Have a simulation made; its document. 409 ``too-many-simulations`` if too many are unfinished."""
    await lock_job(transaction, JOB, now)  # else two of two processes could both be the last that there is room for
    unfinished = select(func.count()).where(simulations.c.state.in_(UNFINISHED))
    if (await transaction.execute(unfinished)).scalar_one() >= MAX_UNFINISHED:
        raise Problem(TOO_MANY_SIMULATIONS, f"{MAX_UNFINISHED} simulations wait or run already")
    row = {
        "id": ids.new(),
        "state": SimulationState.WAITING.value,
        "request": stored_asked(asked),
        "result": None,
        "progress": 0,
        "created_at": now,
        "total": None,
        "attempts": 0,
    }
    made = await transaction.execute(insert(simulations).values(row).returning(simulations))
    return simulation_document(made.one())


async def take_request(
    transaction: Transaction, ids: Ids, document: SimulationDocument, now: Instant, actor: Actor
) -> dict[str, Any]:
    """Have made what a client asks for, and write down who asked; its document. Raises a
    :class:`~app.errors.Problem`: 422, or 409 if there is no room."""
    asked = await read_asked(transaction, document, now)
    made = await ask_for(transaction, ids, asked, now)
    audit = Audit(actor=actor, action="rate_card.simulate", target=made["id"], after=asked_document(asked))
    await record_audits(transaction, ids, NIL_ACCOUNT, [audit], now)
    return made


async def is_any_unfinished(database: Database) -> bool:
    """Whether there is anything to do."""
    async with database.reading() as transaction:
        waiting = select(simulations.c.id).where(simulations.c.state.in_(UNFINISHED)).limit(1)
        return (await transaction.execute(waiting)).one_or_none() is not None


async def take_up(database: Database, ids: Ids, now: Instant) -> Run | None:
    """Take up the unfinished simulation that was asked for first; null if there is none, or it had to be given up."""
    oldest = (
        select(simulations)
        .where(simulations.c.state.in_(UNFINISHED))
        .order_by(simulations.c.created_at, simulations.c.id)
        .limit(1)
        .with_for_update()
    )
    async with database.transaction() as transaction:
        row = (await transaction.execute(oldest)).one_or_none()
        if row is None:
            return None
        this = update(simulations).where(simulations.c.id == row.id)
        if row.attempts >= MAX_ATTEMPTS:
            given_up = {"state": SimulationState.FAILED.value, "failure": GIVEN_UP, "finished_at": now}
            await transaction.execute(this.values(**given_up, token=None, checkpoint=None))
            return None
        token = ids.new()
        taken = {"state": SimulationState.RUNNING.value, "token": token, "attempts": row.attempts + 1}
        await transaction.execute(this.values(**taken, started_at=row.started_at or now))
    checkpoint = row.checkpoint
    return Run(
        id=row.id,
        token=token,
        asked=asked_of(row.request),
        behind=None if checkpoint is None else AccountThing(*map(UUID, checkpoint["behind"])),
        tally=Tally() if checkpoint is None else Tally.load(checkpoint["tally"]),
        total=row.total,
    )


async def bring_forward(database: Database, run: Run, behind: AccountThing, total: int) -> bool:
    """Store how far it is; whether it is still ours."""
    checkpoint = {"behind": [str(part) for part in behind], "tally": run.tally.dump()}
    values = {"progress": run.tally.sessions, "total": total, "checkpoint": checkpoint, "attempts": 0}
    return await _change(database, run, values)


async def finish(database: Database, run: Run, result: Mapping[str, Any], now: Instant) -> bool:
    """Store the result; whether it was still ours to end."""
    done = run.tally.sessions
    values = {"state": SimulationState.DONE.value, "result": result, "progress": done, "total": done}
    return await _change(database, run, {**values, "checkpoint": None, "token": None, "finished_at": now})


async def fail(database: Database, run: Run, why: str, now: Instant) -> bool:
    """Store that it came to nothing; whether it was still ours to end."""
    values = {"state": SimulationState.FAILED.value, "failure": why, "checkpoint": None, "token": None}
    return await _change(database, run, {**values, "finished_at": now})


async def _change(database: Database, run: Run, values: Mapping[str, Any]) -> bool:
    async with database.transaction() as transaction:
        changed = await transaction.execute(_HELD.values(**values), {"of": run.id, "ours": run.token})
        return bool(changed.rowcount)


async def purge_simulations(database: Database, now: Instant) -> int:
    """Forget simulations that were kept long enough; how many."""
    old = select(simulations.c.id).where(simulations.c.created_at <= now - KEPT).limit(PURGE_BATCH)
    done = 0
    while True:
        async with database.transaction() as transaction:
            gone = (await transaction.execute(delete(simulations).where(simulations.c.id.in_(old)))).rowcount
        done += gone
        if gone < PURGE_BATCH:
            return done


# Reading

_BY_ID: Final = select(simulations).where(simulations.c.id == bindparam("of"))


async def load_simulation(transaction: Transaction, public_id: str) -> dict[str, Any]:
    """The simulation's document. Raises a :class:`~app.errors.Problem`: 404."""
    key = parse_reference_id(Kind.SIMULATION, public_id)
    row = None if key is None else (await transaction.execute(_BY_ID, {"of": key})).one_or_none()
    if row is None:
        raise Problem(NOT_FOUND, "there is no simulation with this id, or it is kept no longer")
    return simulation_document(row)


async def simulations_page(transaction: Transaction, limit: int, cursor: str | None) -> dict[str, Any]:
    """A page of all simulations, newest first, without their results."""
    told = [column for column in simulations.c if column.name not in {"result", "checkpoint"}]
    statement = select(*told).order_by(simulations.c.created_at.desc(), simulations.c.id.desc())
    position = read_cursor(cursor, int, str)
    if position is not None:
        last_id = parse_reference_id(Kind.SIMULATION, position[1])
        if last_id is None:
            raise invalid("/cursor", "is not a cursor of this list")
        last = cursor_instant(position[0]), last_id
        statement = statement.where(beyond((simulations.c.created_at, simulations.c.id), last, down=True))
    rows = (await transaction.execute(statement.limit(limit + 1))).all()
    shown = rows[:limit]
    more = None
    if len(rows) > limit:
        more = make_cursor(shown[-1].created_at, reference_id(Kind.SIMULATION, shown[-1].id))
    return page([_document(row, whole=False) for row in shown], more)


def simulation_document(row: Row[Any]) -> dict[str, Any]:
    """All of a simulation; ``result`` is null until it is done."""
    result = None if row.result is None else msgspec.Raw(dumps(row.result).encode())
    return {**_document(row, whole=True), "result": result}


def _document(row: Row[Any], *, whole: bool) -> dict[str, Any]:
    return {
        "id": reference_id(Kind.SIMULATION, row.id),
        "state": row.state,
        **asked_document(asked_of(row.request), whole=whole),
        "progress": {"sessions": row.progress, "total": row.total},
        "failure": row.failure,
        "created_at": format_instant(row.created_at),
        "started_at": None if row.started_at is None else format_instant(row.started_at),
        "finished_at": None if row.finished_at is None else format_instant(row.finished_at),
    }
