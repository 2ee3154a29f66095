"""Rows of money and evidence are only added: every other way is refused, to the service by rights, to the owner too."""
# ruff: noqa: E501 - tables, one case a line

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from app.db.embedded import DatabaseUrls
from app.db.embedded.roles import OWNER, SERVICE
from app.db.tables import metadata
from app.running import database_of
from app.settings import load_settings
from tests.support.postgres import WorkerDatabases, ask, scratch_folder

TABLES = tuple(sorted(table.name for table in metadata.tables.values() if table.info["append_only"]))
MONEY = ("charges", "entries", "funding", "postings", "session_steps", "snapshots")

SEED = """
insert into accounts values ('00000000-0000-0000-0000-000000000001', 'u', 5, 0, 0, 0, 1, 1, 'm', 'k', now(), null, null,
    '{}', false, null, now());
insert into rate_cards values ('00000000-0000-0000-0000-000000000002', 'c', 1, '{}', now(), null, null, now());
insert into sessions (account_id, id, persona, scenario, metadata, state, rate_card_id, time_limit, authorized, accrued,
    anomalies, requested_at, steps, attempts)
    values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000003', 'p', 's', '{}', 'live',
    '00000000-0000-0000-0000-000000000002', 1, 0, 0, '{}', now(), 1, 0);
insert into holds values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000003', 0, 'active', 1, null);
insert into hold_changes values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000003', 1, 0, 0, 'w', now(), 1);
insert into session_steps values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000003', 1, null, 'live',
    'w', now());
insert into snapshots values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000003', 1, now(), now(), 0, 0,
    null, '', 0, '');
insert into charges values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000003', 1, '1', '', 1, '', 0, 0,
    '', null, now());
insert into entries values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000004', 1, 'k', 'grant', 5, 5,
    null, null, null, null, null, now(), 'k', 'm');
insert into postings values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000004', 0, 'credit', 5);
insert into funding values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000004', 0,
    '00000000-0000-0000-0000-000000000004', null, 5);
insert into events values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000005', 1, 't', '{}', now());
insert into audit_log (account_id, id, actor, action, target, at)
    values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000006', 'a', 'b', 'c', now());
insert into limit_changes values ('00000000-0000-0000-0000-000000000001', 1, 5, 'r', now(), 'k', 'm');
insert into payments values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000007', 'r', 'waiting', null,
    null, null, null, null, null, null, 0, 0, '{}', 0, 0, now(), now());
insert into payment_events values ('00000000-0000-0000-0000-000000000001', 'evt_1', '00000000-0000-0000-0000-000000000007', 't', now(),
    now());
insert into recurring_grants values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000008', 1, 'paid', 50,
    null, '{}', 'day', now(), null, null, 'expiry', null, 'active', 1, 0, now(), now(), now());
insert into recurring_periods values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000008', 0, now(), 0, null,
    now());
"""


@pytest.fixture(scope="module")
def filled(databases: WorkerDatabases) -> Iterator[DatabaseUrls]:
    """A database with one row in each append-only table, written by the service's role."""
    with databases.fresh() as urls:
        with psycopg.connect(urls.service, autocommit=True) as connection:
            connection.execute(SEED.encode())
        yield urls


def attempt(url: str, statements: list[str], table: str) -> psycopg.Error | None:
    """Run statements in one transaction that is rolled back; the error of the first that fails."""
    with psycopg.connect(url) as connection:
        try:
            for statement in statements:
                connection.execute(sql.SQL(statement).format(table=sql.Identifier(table)))
        except psycopg.Error as error:
            return error
        finally:
            connection.rollback()
    return None


DELETE = ["delete from {table}"]
MERGE = "merge into {table} t using (select 1) s on true when matched then "
WAYS = {
    "update": ["update {table} set account_id = account_id"],
    "update of no row": ["update {table} set account_id = account_id where false"],
    "delete": DELETE,
    "truncate": ["truncate {table} cascade"],
    "upsert": ["insert into {table} select * from {table} on conflict do nothing",
               ("insert into {table} select * from {table} on conflict on constraint {table}_pkey do update set account_id = "
               "excluded.account_id")],
    "merge update": [MERGE + "update set account_id = t.account_id"],
    "merge delete": [MERGE + "delete"],
    "lock against others": ["lock table {table} in access exclusive mode"],
    "disable triggers": ["alter table {table} disable trigger all"],
    "disable one trigger": ["alter table {table} disable trigger refuse_change"],
    "drop trigger": ["drop trigger refuse_change on {table}"],
    "add trigger": ["create trigger mine before insert on {table} for each row execute function refuse_change()"],
    "replace the function": [("create or replace function public.refuse_change() returns trigger language plpgsql as "
                             "$$begin return old; end$$")],
    "rule": ["create rule mine as on insert to {table} do also delete from {table}"],
    "drop": ["drop table {table} cascade"],
    "rename": ["alter table {table} rename to gone"],
    "own": ["alter table {table} owner to talktime_service"],
    "grant itself rights": ["grant all on {table} to talktime_service", *DELETE],
    "become the owner": ["set role talktime_owner", *DELETE],
    "replication mode": ["set session_replication_role = replica", *DELETE],
    "parameter of a function": ["select set_config('session_replication_role', 'replica', false)", *DELETE],
    "column": ["alter table {table} add column mine int"],
    "index": ["create index mine on {table} (account_id)"],
    "partition of its own": ["create table public.mine (like {table})"],
}  # fmt: skip


def test_the_table_above_is_what_is_declared_append_only() -> None:
    assert set(MONEY) <= set(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_every_append_only_table_has_a_row_to_defend(filled: DatabaseUrls, table: str) -> None:
    assert ask(filled.service, f"select count(*) from {table}") == [(1,)]


@pytest.mark.parametrize("table", TABLES)
def test_the_service_is_refused_every_way_to_change_or_remove_a_row(filled: DatabaseUrls, table: str) -> None:
    allowed = []
    for way, statements in WAYS.items():
        error = attempt(filled.service, [s.replace("{table}_pkey", f"{table}_pkey") for s in statements], table)
        if error is None:
            allowed.append(way)
        else:
            assert isinstance(error, psycopg.errors.InsufficientPrivilege), f"{way}: {error}"
    assert allowed == []


def test_the_service_may_add_and_read(filled: DatabaseUrls) -> None:
    for table in TABLES:
        assert (
            attempt(filled.service, ["insert into {table} select * from {table} on conflict do nothing"], table) is None
        )


OWNER_WAYS = {
    "update": ["update {table} set account_id = account_id"],
    "delete": DELETE,
    "truncate": ["truncate {table} cascade"],
    "truncate alone": ["truncate {table}"],
    "merge update": [MERGE + "update set account_id = t.account_id"],
    "merge delete": [MERGE + "delete"],
    "upsert": [("insert into {table} select * from {table} on conflict on constraint {table}_pkey do update set account_id = "
               "excluded.account_id")],
}  # fmt: skip


@pytest.mark.parametrize("way", OWNER_WAYS)
@pytest.mark.parametrize("table", TABLES)
def test_the_owner_is_refused_by_triggers(filled: DatabaseUrls, table: str, way: str) -> None:
    error = attempt(filled.owner, [s.replace("{table}_pkey", f"{table}_pkey") for s in OWNER_WAYS[way]], table)
    if way == "truncate alone" and isinstance(error, psycopg.errors.FeatureNotSupported):
        return  # others refer to it: it cannot be truncated alone
    assert isinstance(error, psycopg.errors.RestrictViolation), error
    assert "are only added, never changed or removed" in str(error)


@pytest.mark.parametrize("way", ["replication mode", "parameter of a function"])
def test_the_owner_cannot_enter_replication_mode(filled: DatabaseUrls, way: str) -> None:
    for table in TABLES:
        assert isinstance(attempt(filled.owner, WAYS[way], table), psycopg.errors.InsufficientPrivilege)


@pytest.mark.parametrize("table", TABLES)
def test_an_owner_who_switches_triggers_off_must_say_so_and_leaves_it_in_the_catalogue(
    filled: DatabaseUrls, table: str
) -> None:
    # No right can be taken from a table's owner. What is left off is found by verify, and so is what was changed.
    on = "select tgname, tgenabled from pg_trigger where tgrelid = '{}'::regclass and not tgisinternal order by 1"
    assert ask(filled.owner, on.format(table)) == [("refuse_change", "A"), ("refuse_truncate", "A")]
    assert attempt(filled.owner, ["alter table {table} disable trigger refuse_change"], table) is None
    with psycopg.connect(filled.owner) as connection:
        connection.execute(f"alter table {table} disable trigger user".encode())
        states = connection.execute(on.format(table).encode()).fetchall()
        connection.rollback()
    assert states == [("refuse_change", "D"), ("refuse_truncate", "D")]


@pytest.mark.parametrize("way", OWNER_WAYS)
@pytest.mark.parametrize("table", TABLES)
def test_replication_mode_switches_no_trigger_off(filled: DatabaseUrls, table: str, way: str) -> None:
    superuser = make_url(filled.superuser).set(database=make_url(filled.service).database)
    statements = ["set session_replication_role = replica", *OWNER_WAYS[way]]
    error = attempt(
        superuser.render_as_string(hide_password=False),
        [s.replace("{table}_pkey", f"{table}_pkey") for s in statements],
        table,
    )
    if way == "truncate alone" and isinstance(error, psycopg.errors.FeatureNotSupported):
        return
    assert isinstance(error, psycopg.errors.RestrictViolation), error


TICK = "insert into ticks values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000003', '{}', 1, null)"
OF_HEARTBEATS = ("ticks", "ticks_default", "ticks_20260301")


@pytest.fixture(scope="module")
def with_heartbeats(filled: DatabaseUrls) -> DatabaseUrls:
    """The database with a heartbeat in the default partition and one in a day's."""
    with psycopg.connect(filled.service, autocommit=True) as connection:
        connection.execute("select create_tick_partitions('2026-03-01', 1)")
        for at in ("2026-03-01T12:00:00Z", "2026-03-02T12:00:00Z"):
            connection.execute(TICK.format(at).encode())
    return filled


@pytest.mark.parametrize("table", OF_HEARTBEATS)
def test_the_service_changes_no_heartbeat_not_even_directly_in_a_partition(
    with_heartbeats: DatabaseUrls, table: str
) -> None:
    ways = WAYS | {"detach": ["alter table ticks detach partition ticks_default"]}
    del ways["drop trigger"]  # they have none: no statement of ours changes them, and old partitions are dropped
    allowed = []
    for way, statements in ways.items():
        error = attempt(
            with_heartbeats.service, [s.replace("{table}_pkey", f"{table}_pkey") for s in statements], table
        )
        if error is None:
            allowed.append(way)
        else:
            assert isinstance(error, psycopg.errors.InsufficientPrivilege), f"{way}: {error}"
    assert allowed == []


def test_the_service_may_add_and_read_heartbeats_through_their_table_only(with_heartbeats: DatabaseUrls) -> None:
    assert ask(with_heartbeats.service, "select count(*) from ticks") == [(2,)]
    assert attempt(with_heartbeats.service, [TICK.format("2026-03-01T12:00:01Z")], "ticks") is None
    for partition in OF_HEARTBEATS[1:]:
        for statement in ("select from {table}", "insert into {table} select * from ticks"):
            error = attempt(with_heartbeats.service, [statement], partition)
            assert isinstance(error, psycopg.errors.InsufficientPrivilege)


def test_migrations_of_the_embedded_database_run_as_another_role_than_the_service() -> None:
    folder = Path(tempfile.mkdtemp(dir=scratch_folder()))
    folder.chmod(0o755)  # as root the server runs as another account
    try:
        with database_of(load_settings(data_dir=folder)) as databases:
            assert (make_url(databases.owner).username, databases.service_role) == (OWNER, SERVICE)
            assert make_url(databases.service).username == SERVICE
            relations = (
                "select distinct pg_get_userbyid(relowner) from pg_class where relnamespace = 'public'::regnamespace "
                "union select distinct pg_get_userbyid(proowner) from pg_proc where pronamespace = 'public'::regnamespace"
            )
            assert ask(databases.service, relations) == [(OWNER,)]
            assert ask(databases.service, f"select pg_has_role('{OWNER}', 'member')") == [(False,)]
            for table in TABLES:
                assert isinstance(attempt(databases.service, DELETE, table), psycopg.errors.InsufficientPrivilege)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
