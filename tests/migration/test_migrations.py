"""The migrations make what the code declares; they may run again, print themselves, and never go back."""

import io
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, make_url

from app.db.embedded.roles import SERVICE
from app.db.migrate import current_version, expected_version, migrate
from app.db.tables import metadata
from tests.support.postgres import WorkerDatabases, ask, tell

ROOT = Path(__file__).resolve().parents[2]


def differences(owner_url: str) -> list[object]:
    """Where a database's schema is not what the code declares; partitions, made as time goes by, left out."""
    engine = create_engine(make_url(owner_url).set(drivername="postgresql+psycopg"))
    options = {
        "compare_type": True,
        "compare_server_default": True,
        "include_name": lambda name, kind, _: (
            kind != "table" or (name != "alembic_version" and not name.startswith("ticks_"))
        ),
    }
    try:
        with engine.connect() as connection:
            return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))
    finally:
        engine.dispose()


def test_the_migrated_schema_is_what_the_code_declares(databases: WorkerDatabases) -> None:
    assert differences(databases.urls.owner) == []


@pytest.mark.parametrize(
    "statement",
    [
        "alter table events drop column type",
        "alter table events add column type2 text",
        "alter table events alter type drop not null",
        "alter table events alter seq type integer",
        "alter table events drop constraint events_account_id_seq_key",
        "alter table postings drop constraint postings_account_id_entry_id_fkey",
        "drop index hold_changes_at_idx",
        "alter table sessions alter attempts set default 0",
        "drop table key_use",
    ],
)
def test_a_difference_is_seen(databases: WorkerDatabases, statement: str) -> None:
    with databases.fresh() as urls:
        tell(urls.owner, statement)
        assert differences(urls.owner) != []


def test_migrating_again_changes_nothing(databases: WorkerDatabases) -> None:
    with databases.fresh() as urls:
        before = ask(urls.owner, "select oid, relname, relacl::text from pg_class order by oid")
        assert migrate(urls.owner, SERVICE) == (expected_version(), expected_version())
        assert ask(urls.owner, "select oid, relname, relacl::text from pg_class order by oid") == before


def test_an_empty_database_is_brought_to_the_expected_version(databases: WorkerDatabases) -> None:
    with databases.fresh() as urls:
        tell(urls.owner, "drop schema public cascade; create schema public")
        engine = create_engine(make_url(urls.owner).set(drivername="postgresql+psycopg"))
        with engine.connect() as connection:
            assert current_version(connection) is None
        engine.dispose()
        assert migrate(urls.owner, SERVICE) == (None, expected_version())
        assert differences(urls.owner) == []


def test_one_role_for_everything_gets_no_grants_and_keeps_the_triggers(databases: WorkerDatabases) -> None:
    with databases.fresh() as urls:
        tell(urls.owner, "drop schema public cascade; create schema public")
        migrate(urls.owner, None)
        rights = f"select count(*) from information_schema.role_table_grants where grantee = '{SERVICE}'"
        assert ask(urls.owner, rights) == [(0,)]
        with pytest.raises(psycopg.errors.RestrictViolation):
            tell(urls.owner, "truncate entries cascade")


def offline_sql(target: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", target, "--sql"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return result.stdout


def test_the_sql_that_is_printed_makes_the_same_schema(databases: WorkerDatabases) -> None:
    with databases.fresh() as urls:
        tell(urls.owner, "drop schema public cascade; create schema public")
        printed = offline_sql("head")
        assert printed.startswith("set lock_timeout = 2000;\n\nset statement_timeout = 300000;")
        with psycopg.connect(urls.owner, autocommit=True) as connection:
            for statement in printed.split(";\n\n"):  # each by itself, as psql sends them
                if statement.strip():
                    connection.execute(statement.encode())
        assert differences(urls.owner) == []
        assert ask(urls.owner, "select version_num from alembic_version") == [(expected_version(),)]
        functions = "select proname, prosrc from pg_proc where pronamespace = 'public'::regnamespace order by 1"
        assert ask(urls.owner, functions) == ask(databases.urls.owner, functions)


def test_a_downgrade_is_refused_and_leaves_everything(databases: WorkerDatabases) -> None:
    with databases.fresh() as urls:
        engine = create_engine(make_url(urls.owner).set(drivername="postgresql+psycopg"))
        config = Config(stdout=io.StringIO())
        config.set_main_option("script_location", str(ROOT / "migrations"))
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            with pytest.raises(RuntimeError, match="restore a backup instead"):
                command.downgrade(config, "base")
        engine.dispose()
        assert differences(urls.owner) == []
        assert ask(urls.owner, "select version_num from alembic_version") == [(expected_version(),)]


BEFORE_0002 = """
insert into accounts (account_id, user_id, balance, debt, held, credit_limit, seq, event_seq, last_entry_at, limits,
    suspended, created_at, head_mac, head_key) values
    ('10000000-0000-0000-0000-000000000000', 'u', 5, 0, 7, 0, 1, 0, '2026-01-02', '{}', false, '2026-01-01', 'm', 'k'),
    ('20000000-0000-0000-0000-000000000000', 'v', 0, 0, 0, 0, 0, 0, null, '{}', false, '2026-01-01', null, null);
insert into rate_cards values ('30000000-0000-0000-0000-000000000000', 'c', 1, '{}', now(), null, null, now());
insert into sessions (account_id, id, persona, scenario, metadata, state, rate_card_id, time_limit, authorized, accrued,
    anomalies, requested_at, steps, attempts)
    select '10000000-0000-0000-0000-000000000000', id, 'p', 's', '{}', 'live', '30000000-0000-0000-0000-000000000000',
    1, 5, 0, '{}', now(), 1, 0 from unnest(array['40000000-0000-0000-0000-000000000000'::uuid,
    '50000000-0000-0000-0000-000000000000'::uuid]) id;
insert into holds (account_id, session_id, amount, state, changes)
    select account_id, id, 5, 'active', 1 from sessions;
insert into hold_changes (account_id, session_id, n, delta, held_after, why, at) values
    ('10000000-0000-0000-0000-000000000000', '50000000-0000-0000-0000-000000000000', 1, 5, 5, 'start', '2026-01-01'),
    ('10000000-0000-0000-0000-000000000000', '40000000-0000-0000-0000-000000000000', 1, 5, 10, 'start', '2026-01-03'),
    ('10000000-0000-0000-0000-000000000000', '50000000-0000-0000-0000-000000000000', 2, -3, 7, 'lower', '2026-01-04');
"""


def test_holds_of_before_are_numbered_in_the_order_in_which_they_were_booked(databases: WorkerDatabases) -> None:
    with databases.fresh() as urls:
        tell(urls.owner, "drop schema public cascade; create schema public")
        tell(urls.owner, offline_sql("0001") + BEFORE_0002)
        assert migrate(urls.owner, SERVICE) == ("0001", expected_version())
        assert ask(urls.owner, "select seq, held_after from hold_changes order by seq") == [(1, 5), (2, 10), (3, 7)]
        assert ask(urls.owner, "select hold_seq, last_change_at::date::text from accounts order by user_id") == [
            (3, "2026-01-04"), (0, None),
        ]  # fmt: skip
        with pytest.raises(psycopg.errors.RestrictViolation):
            tell(urls.owner, "update hold_changes set why = 'else'")
