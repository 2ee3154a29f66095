"""An account with as many entries as wanted, written by SQL: its chain of MACs is not one."""

import psycopg

from app.core.ids import account_id_of

# Without the checks of foreign keys, which would take longer than all else.
_FILL = """
set session_replication_role = replica;
insert into accounts (account_id, user_id, balance, debt, held, credit_limit, seq, event_seq, hold_seq, head_mac,
                      head_key, last_entry_at, last_change_at, limits, suspended, created_at)
values ('{account}', '{user}', {count}, 0, 1, 0, {count}, 0, {count}, '\\x00', 'none', {last}, {last}, '{{}}', false,
        '2026-01-01');
insert into grants (account_id, id, kind, priority, amount, effective_at, metadata, created_at, remaining, held, state)
values ('{account}', {grant}, 'paid', 50, {count}, '2026-01-01', '{{}}', '2026-01-01', {count}, 1, 'active');
insert into entries (account_id, id, seq, natural_key, kind, amount, balance_after, grant_id, reason, reference,
                     created_at, key_id, mac)
select '{account}', {entry}, n, 'many:' || n, 'adjustment', 1, n, {grant}, 'because', '=' || n, {at}, 'none',
       decode(lpad(to_hex(n), 64, '0'), 'hex')
from generate_series(1, {count}) n;
insert into funding (account_id, entry_id, line, debit_entry_id, grant_id, amount)
select '{account}', {entry}, 0, {entry}, {grant}, 1 from generate_series(1, {count}) n;
insert into hold_changes (account_id, session_id, n, delta, held_after, why, at, seq)
select '{account}', {grant}, n, 1, 1, 'start', {at}, n from generate_series(1, {count}) n;
"""


def fill(superuser_url: str, database_url: str, user: str, count: int) -> None:
    """Make the account of ``user`` with ``count`` entries, one a second from 2026-01-01 on, each with a line of
    funding and a change of a hold beside it; ``superuser_url`` leads to the server of ``database_url``."""
    statements = _FILL.format(
        account=account_id_of(user),
        user=user,
        count=count,
        grant="'01900000-0000-7000-8000-000000000000'::uuid",
        entry="('01900000-0000-7000-9000-' || lpad(to_hex(n), 12, '0'))::uuid",
        at="timestamptz '2026-01-01Z' + n * interval '1 second'",
        last=f"timestamptz '2026-01-01Z' + {count} * interval '1 second'",
    )
    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    with psycopg.connect(superuser_url, dbname=str(name)) as connection:
        connection.execute(statements.encode())
        connection.commit()
        connection.autocommit = True
        connection.execute("vacuum analyze")
