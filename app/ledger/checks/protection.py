"""What keeps rows as they are."""

from typing import Final

from app.db.tables import metadata
from app.ledger.checks.check import Check

_TABLES: Final = ", ".join(f"'{table.name}'" for table in metadata.sorted_tables if table.info["append_only"])

PROTECTION: Final = (
    Check(
        "append-only",
        "Triggers that fire always refuse every change to rows that are only added. (Of no account: the nil one.)",
        f"""
        select cast('00000000-0000-0000-0000-000000000000' as uuid) as account_id, 'table ' || t.name as row,
               'its trigger ' || g.name || ' is missing, another, or switched off' as detail
        from unnest(array[{_TABLES}]) t (name) cross join unnest(array['refuse_change', 'refuse_truncate']) g (name)
        where not exists (
            select from pg_trigger p join pg_proc f on f.oid = p.tgfoid
            where p.tgrelid = to_regclass('public.' || t.name) and p.tgname = g.name and p.tgenabled = 'A'
              and p.tgqual is null and f.proname = 'refuse_change' and strpos(f.prosrc, 'raise exception') > 0)
        """,  # noqa: S608 - the names of our own tables
    ),
)
