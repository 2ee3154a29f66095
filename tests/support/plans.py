"""What the service asks the database, and how the database would go about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import event

from tests.support.world import World


@contextmanager
def asked(talktime: World) -> Iterator[list[tuple[str, Any]]]:
    """Each statement meanwhile, with its parameters."""
    statements: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _x: Any, _many: bool) -> None:
        statements.append((statement, parameters))

    engine = talktime.service.database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


def plan_of(talktime: World, statement: str, parameters: Any) -> str:
    """The plan, a line for each step.

    Of a table of few rows the planner would read all: told to do without that and without sorting, it shows whether it
    can.
    """
    with psycopg.connect(talktime.service.database.conninfo) as connection:
        for way in ("seqscan", "sort", "bitmapscan"):
            connection.execute(f"set enable_{way} = off".encode())
        rows = connection.execute(("explain (costs off) " + statement).encode(), parameters).fetchall()
    return "\n".join(row[0] for row in rows)
