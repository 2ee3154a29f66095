"""The rules that let the database be spread over machines and keep its ledger, checked in a migrated catalogue."""
# ruff: noqa: E501 - tables, one case a line

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import make_url

from app.db.embedded import DatabaseUrls
from app.db.embedded.roles import SERVICE
from app.db.tables import DISTRIBUTED, LOCAL, REFERENCE, metadata
from tests.support.postgres import WorkerDatabases

PLACEMENTS = {table.name: table.info["placement"] for table in metadata.tables.values()}
APPEND_ONLY = {table.name for table in metadata.tables.values() if table.info["append_only"]}
NOT_OURS = {"alembic_version"}

TABLES = """
select relname from pg_class
where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition
"""
KEYS = """
select c.relname, i.relname,
       array(select a.attname::text from unnest(x.indkey) k join pg_attribute a on a.attrelid = c.oid and a.attnum = k)
from pg_index x join pg_class c on c.oid = x.indrelid join pg_class i on i.oid = x.indexrelid
where c.relnamespace = 'public'::regnamespace and x.indisunique
"""
FOREIGN_KEYS = """
select f.conname, c.relname, t.relname,
       array(select a.attname::text from unnest(f.conkey) with ordinality k(n, i) join pg_attribute a
             on a.attrelid = c.oid and a.attnum = k.n order by k.i),
       array(select a.attname::text from unnest(f.confkey) with ordinality k(n, i) join pg_attribute a
             on a.attrelid = t.oid and a.attnum = k.n order by k.i)
from pg_constraint f join pg_class c on c.oid = f.conrelid join pg_class t on t.oid = f.confrelid
where f.contype = 'f' and c.relnamespace = 'public'::regnamespace
"""
CLOCKS = r"\m(now|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday|localtime|localtimestamp|current_\w+|gen_random_uuid|random|nextval)\M"
DEFAULTS = """
select c.relname, a.attname, coalesce(pg_get_expr(d.adbin, d.adrelid), ''), a.attidentity <> ''
from pg_attribute a join pg_class c on c.oid = a.attrelid
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and a.attnum > 0
      and (a.attidentity <> '' or pg_get_expr(d.adbin, d.adrelid) ~* %s)
"""
TRIGGERS = """
select c.relname, t.tgname, t.tgenabled, t.tgtype from pg_trigger t join pg_class c on c.oid = t.tgrelid
where c.relnamespace = 'public'::regnamespace and not t.tgisinternal
"""
RIGHTS = """
select c.relname, x.privilege_type, null
from pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) x
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and x.grantee in (%(service)s::regrole, 0)
union all
select c.relname, x.privilege_type, a.attname
from pg_class c join pg_attribute a on a.attrelid = c.oid, aclexplode(a.attacl) x
where c.relnamespace = 'public'::regnamespace and x.grantee in (%(service)s::regrole, 0)
"""
ROW, BEFORE, DELETE, UPDATE, TRUNCATE = 1, 2, 8, 16, 32


def faults(connection: psycopg.Connection) -> list[str]:
    """Every breach of the rules in the database that ``connection`` is connected to."""
    return [
        *placement_faults(connection),
        *default_faults(connection),
        *tick_faults(connection),
        *right_faults(connection),
    ]


def placement_faults(connection: psycopg.Connection) -> Iterator[str]:
    tables = {name for (name,) in connection.execute(TABLES)} - NOT_OURS
    for name in sorted(tables ^ set(PLACEMENTS)):
        yield f"{name}: declared or there, but not both"
    keyed = set()
    for table, index, columns in connection.execute(KEYS):
        keyed.add(table)
        if PLACEMENTS.get(table) == DISTRIBUTED and "account_id" not in columns:
            yield f"{table}: {index} is unique without account_id"
    for name in sorted(tables - keyed):
        yield f"{name}: has no key"
    for name, table, target, columns, targets in connection.execute(FOREIGN_KEYS):
        if PLACEMENTS.get(table) == DISTRIBUTED:
            within = PLACEMENTS.get(target) == DISTRIBUTED and ("account_id", "account_id") in zip(
                columns, targets, strict=True
            )
            if not within and PLACEMENTS.get(target) != REFERENCE:
                yield f"{table}: {name} leads out of the account"
        elif PLACEMENTS.get(target) == DISTRIBUTED or (
            PLACEMENTS.get(table) == REFERENCE and PLACEMENTS.get(target) == LOCAL
        ):
            yield f"{table}: {name} leads to a table that is not everywhere"


def default_faults(connection: psycopg.Connection) -> Iterator[str]:
    for table, column, default, identity in connection.execute(DEFAULTS, (CLOCKS,)):
        yield f"{table}.{column}: {'identity' if identity else default}"
    for (name,) in connection.execute(
        "select relname from pg_class where relkind = 'S' and relnamespace = 'public'::regnamespace"
    ):
        yield f"{name}: is a sequence"


def tick_faults(connection: psycopg.Connection) -> Iterator[str]:
    for name, table, _, _, _ in connection.execute(FOREIGN_KEYS):
        if table.startswith("ticks"):
            yield f"{table}: {name} is a foreign key on the hot path"
    partitions = "select inhrelid::regclass::text, pg_get_expr(relpartbound, oid) from pg_inherits join pg_class on oid = inhrelid where inhparent = 'ticks'::regclass"
    if not any(bound == "DEFAULT" for _, bound in connection.execute(partitions)):
        yield "ticks: has no DEFAULT partition"


def right_faults(connection: psycopg.Connection) -> Iterator[str]:
    triggers: dict[str, list[tuple[str, int]]] = {}
    for table, name, enabled, kind in connection.execute(TRIGGERS):
        triggers.setdefault(table, []).append((enabled.decode() if isinstance(enabled, bytes) else enabled, kind))
        if table not in APPEND_ONLY:
            yield f"{table}: has a trigger {name}"
    rights: dict[str, set[tuple[str, str | None]]] = {}
    for table, right, column in connection.execute(RIGHTS, {"service": SERVICE}):
        rights.setdefault(table, set()).add((right, column))
    for table in sorted(APPEND_ONLY):
        if rights.get(table, set()) != {("SELECT", None), ("INSERT", None)}:
            yield f"{table}: the service may {sorted(rights.get(table, set()), key=str)}"
        if set(triggers.get(table, [])) != {("A", BEFORE | TRUNCATE), ("A", ROW | BEFORE | DELETE | UPDATE)}:
            yield f"{table}: its triggers do not refuse every change always"


def test_the_migrated_catalogue_keeps_every_rule(databases: WorkerDatabases) -> None:
    with psycopg.connect(databases.urls.owner) as connection:
        assert faults(connection) == []


def test_every_table_says_where_it_lives() -> None:
    assert set(PLACEMENTS.values()) == {DISTRIBUTED, REFERENCE, LOCAL}
    assert {name for name in APPEND_ONLY if PLACEMENTS[name] != DISTRIBUTED} == set()
    for name in ("accounts", "entries", "ticks", "idempotency"):
        assert PLACEMENTS[name] == DISTRIBUTED


@pytest.fixture(scope="module")
def scratch(databases: WorkerDatabases) -> Iterator[DatabaseUrls]:
    with databases.fresh() as urls:
        yield urls


BAD = [
    ("create table stray (account_id uuid primary key)", "stray: declared or there"),
    ("drop table key_use", "key_use: declared or there"),
    ("create unique index u on sessions (provider_session_id)", "sessions: u is unique without account_id"),
    ("alter table events add constraint k unique (id)", "events: k is unique without account_id"),
    ("alter table limit_changes drop constraint limit_changes_pkey", "limit_changes: has no key"),
    ("alter table charges drop constraint charges_pkey, add primary key (session_id, version)", "charges: charges_pkey is unique"),
    ("alter table events add foreign key (id) references endpoints", None),
    ("alter table events add foreign key (id) references simulations", "events: events_id_fkey leads out of the account"),
    ("create unique index u on grants (id); alter table entries add foreign key (grant_id) references grants (id)", "entries: entries_grant_id_fkey leads out of the account"),
    ("create unique index u on grants (id); alter table api_keys add foreign key (id) references grants (id)", "api_keys: api_keys_id_fkey leads to a table"),
    ("alter table events alter created_at set default now()", "events.created_at: now()"),
    ("alter table events alter created_at set default clock_timestamp()", "events.created_at: clock_timestamp()"),
    ("alter table events alter created_at set default current_timestamp", "events.created_at: CURRENT_TIMESTAMP"),
    ("alter table events alter id set default gen_random_uuid()", "events.id: gen_random_uuid()"),
    ("alter table receiving add n bigint generated always as identity", "receiving.n: identity"),
    ("alter table receiving add n bigserial", "receiving.n: nextval"),
    ("create sequence s", "s: is a sequence"),
    ("alter table ticks add foreign key (account_id) references accounts", "ticks: ticks_account_id_fkey is a foreign key on the hot path"),
    ("drop table ticks_default", "ticks: has no DEFAULT partition"),
    ("create trigger t before insert on ticks for each row execute function refuse_change()", "ticks: has a trigger t"),
    ("alter table entries enable trigger refuse_change", "entries: its triggers"),
    ("alter table entries enable replica trigger refuse_truncate", "entries: its triggers"),
    ("alter table entries disable trigger refuse_change", "entries: its triggers"),
    ("drop trigger refuse_truncate on postings", "postings: its triggers"),
    ("grant update on entries to talktime_service", "entries: the service may"),
    ("grant update (amount) on entries to talktime_service", "entries: the service may"),
    ("grant delete on funding to public", "funding: the service may"),
    ("grant truncate on charges to talktime_service", "charges: the service may"),
    ("grant insert (amount) on charges to talktime_service", "charges: the service may"),
    ("revoke select on snapshots from talktime_service", "snapshots: the service may"),
    ("grant trigger, references on events to talktime_service", "events: the service may"),
]  # fmt: skip


@pytest.mark.parametrize(("statements", "fault"), BAD)
def test_a_breach_of_a_rule_is_found(scratch: DatabaseUrls, statements: str, fault: str | None) -> None:
    owner = make_url(scratch.owner).render_as_string(hide_password=False)
    with psycopg.connect(owner) as connection:
        connection.execute(statements.encode())
        found = faults(connection)
        connection.rollback()
    assert found == [] if fault is None else any(item.startswith(fault) for item in found), found
