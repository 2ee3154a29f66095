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

WORLDS: Final = 50
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
        filled = [f"case when exists (select from {table}) then '{table}' end" for table in tables]
        self._filled = f"select array_remove(array[{', '.join(filled)}], null)".encode()
        self._kept = {table: self._copied(table) for table in self._rows()}

    def _rows(self) -> list[str]:
        """The tables in which there are rows."""
        row = self._keeper.execute(self._filled, prepare=True).fetchone()
        assert row is not None
        return list(row[0])

    def _copied(self, table: str) -> bytes:
        with self._keeper.cursor().copy(sql.SQL("copy {} to stdout").format(sql.SQL(table))) as copy:
            return b"".join(bytes(block) for block in copy)

    def _emptied(self) -> bool:
        """Make the database what it was; false if a world changed more of it than rows."""
        if self._keeper.execute(_SCHEMA, prepare=True).fetchone() != self._schema:
            return False
        changed = [table for table in self._rows() if self._kept.get(table) != self._copied_if_kept(table)]
        with self._keeper.transaction(), self._keeper.cursor() as cursor:
            emptied = self._with_referring(changed)
            if emptied:
                cursor.execute(sql.SQL("truncate {}").format(sql.SQL(", ").join(map(sql.SQL, emptied))))
            for table in sorted(set(emptied) & set(self._kept)):
                with cursor.copy(sql.SQL("copy {} from stdin").format(sql.SQL(table))) as copy:
                    copy.write(self._kept[table])
        return True

    def _copied_if_kept(self, table: str) -> bytes:
        return self._copied(table) if table in self._kept else b""

    def _with_referring(self, tables: Sequence[str]) -> list[str]:
        """These and those that refer to them, as PostgreSQL empties them together only."""
        found = list(tables)
        for table in found:
            found += [other for other in self._referring[table] if other not in found]
        return found
