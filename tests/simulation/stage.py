"""The database in which worlds happen, one after the other: each finds what the service's first start made of it.

It is cloned once and emptied between worlds, by TRUNCATE, which leaves tables as new ones are: no row, no page, no
statistics. So rows lie as they would in a clone, and a world is the same whichever came before it. Cloned anew, and the
server's sessions with it, it is now and then, as its catalogs grow, and whenever a world changed the schema.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from app.db.embedded.roles import SUPERUSER
from tests.simulation.statements import end_idle_sessions
from tests.support.postgres import WorkerDatabases

WORLDS: Final = 200
"""So many worlds happen in one clone."""

_SCHEMA: Final = "select max(oid), count(*) from pg_class where relnamespace = 'public'::regnamespace"
_TABLES: Final = (
    "select oid::regclass::text from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
)
_REFERENCES: Final = "select confrelid::regclass::text, conrelid::regclass::text from pg_constraint where contype = 'f'"

LET_EMPTY: Final = f"""
create or replace function refuse_change() returns trigger language plpgsql as $$
begin
    if session_user = '{SUPERUSER}' then
        return null;
    end if;
    raise exception 'rows of % are only added, never changed or removed', tg_table_name
        using errcode = 'restrict_violation';
end
$$
"""
"""What is only added to may be emptied between worlds; service and owner are refused as ever."""


@dataclass
class Ready:
    """``service``: the URL of the service's role; ``auditor``: a connection of the owner."""

    service: str
    auditor: psycopg.Connection[Any]


class Stage:
    """See the module. ``databases`` clone what :func:`~tests.simulation.run.prepared` made. :meth:`close` it."""

    def __init__(self, databases: WorkerDatabases) -> None:
        self._databases = databases
        self._clone = ExitStack()
        self._ready: Ready | None = None
        self._worlds = 0

    @contextmanager
    def fresh(self) -> Iterator[Ready]:
        """The database as it is before a world begins."""
        if self._ready is None:
            self._open()
        assert self._ready is not None
        try:
            yield self._ready
        except BaseException:
            self.close()
            raise
        self._worlds += 1
        if self._worlds == WORLDS or self._ready.auditor.closed or not self._emptied():
            self.close()

    def close(self) -> None:
        """Drop the database."""
        end_idle_sessions()
        self._ready = None
        self._clone.close()

    def _open(self) -> None:
        urls = self._clone.enter_context(self._databases.fresh())
        name = make_url(urls.service).database
        # Each of the auditor's statements is planned once: what it reads is small, so no plan is a bad one.
        auditor = psycopg.connect(urls.owner, autocommit=True, options="-c plan_cache_mode=force_generic_plan")
        self._clone.callback(auditor.close)
        self._keeper = psycopg.connect(urls.superuser, dbname=name, autocommit=True)
        self._clone.callback(self._keeper.close)
        self._ready, self._worlds = Ready(urls.service, auditor), 0
        tables = [str(table) for (table,) in self._keeper.execute(_TABLES)]
        self._schema = self._keeper.execute(_SCHEMA).fetchone()
        self._referring: dict[str, list[str]] = {table: [] for table in tables}
        for referred, referring in self._keeper.execute(_REFERENCES):
            self._referring.setdefault(referred, []).append(referring)
        self._kept = {table: self._rows_of(table) for table in tables}
        changed = ", ".join(f"case when {self._differs(table)} then '{table}' end" for table in tables)
        self._changed = f"select array_remove(array[{changed}], null)".encode()

    def _differs(self, table: str) -> str:
        if not self._kept[table]:
            return f"exists (select from {table})"
        rows = f"select array_agg(t::text order by t::text) from {table} t"
        return f"({rows}) is distinct from {sql.Literal(self._kept[table]).as_string(self._keeper)}::text[]"

    def _rows_of(self, table: str) -> list[str]:
        return [str(row) for (row,) in self._keeper.execute(f"select t::text from {table} t order by 1".encode())]

    def _emptied(self) -> bool:
        """Make the database what it was; false if a world changed more of it than rows."""
        if self._keeper.execute(_SCHEMA, prepare=True).fetchone() != self._schema:
            return False
        row = self._keeper.execute(self._changed, prepare=True).fetchone()
        assert row is not None
        emptied = self._with_referring(row[0])
        if emptied:
            steps = [f"truncate {', '.join(emptied)}"]
            for table in emptied:
                if self._kept[table]:
                    rows = sql.Literal(self._kept[table]).as_string(self._keeper)
                    steps.append(f"insert into {table} select (row::{table}).* from unnest({rows}::text[]) row")
            self._keeper.execute("; ".join(steps).encode())
        return True

    def _with_referring(self, tables: Sequence[str]) -> list[str]:
        """These and those that refer to them, as PostgreSQL empties them together only."""
        found = list(tables)
        for table in found:
            found += [other for other in self._referring[table] if other not in found]
        return found
