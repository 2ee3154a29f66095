"""A database as a year of many users leaves it, written by SQL in minutes: its chains of MACs are none.

Each user's entries lie among all others' in the order of time, as the service writes them. A hundredth of all entries
is one user's, as of a company that is one account; of few entries it is more, so that there are pages of them. What no
list reads is left out: postings, steps of settled sessions, changes of holds, snapshots.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import sql

from app.core.packing import pack_instants
from app.core.units import US_PER_DAY, US_PER_S, Instant, datetime_of, parse_instant

NOW: Final = parse_instant("2026-03-01T12:00:00Z")
"""The instant at which it is looked at; nothing was written later."""

LARGE_USER: Final = "user-0000000"
RARE: Final = 120
"""Rows of each thing that is rare, however many others there are."""

KEY: Final = "key_01kjmnpz0re00baect8vkcdpxz"
"""Who has done nearly everything."""

RARE_ACTOR: Final = "admin:nora"
RARE_ACTION: Final = "session.write_off"
RARE_EVENT: Final = "grant.voided"
RARE_KIND: Final = "rerate"

HEARTBEATS: Final = 20
"""Of each session; those of the last :data:`TICK_DAYS` days still have their rows."""

TICK_DAYS: Final = 30
PARTITION_DAYS: Final = 90
_SPAN: Final = 360 * US_PER_DAY

_TABLES: Final = (
    "accounts",
    "grants",
    "entries",
    "funding",
    "sessions",
    "session_steps",
    "holds",
    "charges",
    "events",
    "audit_log",
)

_FUNCTIONS: Final = """
create function pg_temp.account_of(u bigint) returns uuid immutable language sql as $$
    select encode(substring(sha256('\\x74616c6b74696d652f6163636f756e742f763100'::bytea
                                   || convert_to('user-' || lpad(u::text, 7, '0'), 'UTF8')) for 16), 'hex')::uuid $$;
create function pg_temp.at(n bigint) returns timestamptz immutable language sql as $$
    select timestamptz '{first}' + n * interval '{step} microseconds' $$;
create function pg_temp.id_of(n bigint, thing int) returns uuid immutable language sql as $$
    select (lpad(to_hex((extract(epoch from pg_temp.at(n)) * 1000)::bigint), 12, '0') || '7'
            || lpad(to_hex(thing), 3, '0') || '8' || lpad(to_hex(n), 15, '0'))::uuid $$;
-- The place of a user's entry among all: one of so many is the large user's.
create function pg_temp.place(u bigint, s bigint) returns bigint immutable language sql as $$
    select case when u = 0 then {share} * s
                else (s - 1) * ({users} - 1) + u + ((s - 1) * ({users} - 1) + u - 1) / ({share} - 1) end $$;
-- The first of a session's heartbeats as it is packed: seven bits a byte, the lowest first.
create function pg_temp.packed(us bigint) returns bytea immutable language sql as $$
    select decode(string_agg(lpad(to_hex((us >> 7 * i & 127) | case when i < 7 then 128 else 0 end), 2, '0'), ''
                             order by i), 'hex') from generate_series(0, 7) i $$;
"""

# A user's first entry is what was paid for. The others come in turns of ten, of which each user begins elsewhere:
# 0 a promotional grant, 1 its expiry, 2 a session's charge, 3 a part of it given back, 4 to 9 corrections by hand.
_DRAFTS: Final = """
create temporary table owners as
select u::bigint, 'user-' || lpad(u::text, 7, '0') as user_id, pg_temp.account_of(u) as account_id
from generate_series(0, {users} - 1) u;
create temporary table drafts as
with placed as (
    select n::bigint, case when n % {share} = 0 then 0 else 1 + (n - n / {share} - 1) % ({users} - 1) end::bigint as u,
           case when n % {share} = 0 then n / {share} else 1 + (n - n / {share} - 1) / ({users} - 1) end::bigint as s
    from generate_series(1, {entries}) n
), turned as (
    select n, u, s, case when s = 1 then -1 when s = 2 and (s + u) % 10 in (1, 3) then 4 else (s + u) % 10 end as turn
    from placed
), priced as (
    select n, u, s, turn, case turn
        when -1 then case when u = 0 then 1000000 when u % 50 = 7 then 25 else 60 + u % 997 end * 1000000
        when 0 then 20000000 when 1 then -20000000 when 2 then -7500000 + u % 1000 when 3 then 2500000
        else -500000 end as amount
    from turned
)
select n, u, s, turn, amount, account_id, sum(amount) over (partition by u order by s)::bigint as balance_after,
       lead(n) over (partition by u order by s) is null as last
from priced join owners using (u);
create temporary table runs as
select k, 1 + k * 7919 % ({users} - 1) as u,
       case when k <= {running} then 'live' when k <= {running} + {reviews} then 'review' else 'failed' end as state,
       {entries} - case when k <= {running} then k else k * 16807 % {entries} end as n
from generate_series(1, {running} + {reviews} + {failed}) k;
create temporary table halted as select u, 5000000 * count(*) as held from runs where state <> 'failed' group by u;
analyze drafts; analyze owners; analyze runs; analyze halted;
"""

_ROWS: Final = {
    "accounts": """
insert into accounts (account_id, user_id, balance, debt, held, credit_limit, seq, event_seq, head_mac, head_key,
                      last_entry_at, last_change_at, next_due_at, limits, suspended, created_at)
select account_id, user_id, balance_after, 0, coalesce(held, 0), 0, s, 2 * s + 2, '\\x00', 'none', pg_temp.at(n),
       pg_temp.at(n), case when turn = 0 then pg_temp.at({entries}) + interval '20 days' end, '{{}}', false,
       pg_temp.at(pg_temp.place(u, 1))
from drafts join owners using (account_id, u) left join halted using (u) where last order by u
""",
    "grants": """
insert into grants (account_id, id, kind, priority, amount, effective_at, expires_at, reference, metadata, created_at,
                    remaining, held, state)
select d.account_id, pg_temp.id_of(d.n, 1), case d.turn when -1 then 'paid' else 'promotional' end, 50, d.amount,
       pg_temp.at(d.n), case when d.last then pg_temp.at({entries}) + interval '20 days'
                             when d.turn = 0 then pg_temp.at(pg_temp.place(d.u, d.s + 1)) end,
       'order-' || d.n, '{{}}', pg_temp.at(d.n),
       case when d.turn = -1 then l.balance_after - case l.turn when 0 then l.amount else 0 end
            when d.last then d.amount else 0 end,
       case when d.turn = -1 then coalesce(held, 0) else 0 end,
       case when d.turn = 0 and not d.last then 'expired' else 'active' end
from drafts d join drafts l on l.u = d.u and l.last left join halted on halted.u = d.u
where d.turn < 1 order by d.n
""",
    "sessions": """
insert into sessions (account_id, id, provider_session_id, persona, scenario, metadata, state, rate_card_id, time_limit,
                      authorized, accrued, charged, anomalies, requested_at, started_at, over_at, settled_at, steps,
                      due_at, attempts)
select account_id, pg_temp.id_of(n, thing), case state when 'failed' then null else 'gab-' || n || '-' || thing end,
       'tutor', 'talk', '{{}}', state, (select id from rate_cards limit 1), 900000000, 10000000, -amount,
       case state when 'settled' then -amount end, '{{}}', start, case state when 'failed' then null else
       start + interval '2 seconds' end,
       case when state in ('settled', 'review') then start + interval '602 seconds' end,
       case state when 'settled' then start + interval '15 minutes' end, case state when 'settled' then 5 else 3 end,
       case state when 'live' then timestamptz '{now}' + interval '20 seconds'
                  when 'settled' then case when start > timestamptz '{now}' - interval '3 days'
                                           then start + interval '3 days' end end, 0
from (select account_id, n, 2 as thing, 'settled' as state, amount, pg_temp.at(n) - interval '15 minutes' as start
      from drafts where turn = 2
      union all
      select account_id, n, 3, state, case state when 'failed' then 0 else -3000000 end, pg_temp.at(n)
      from runs join owners using (u)) these
order by start
""",
    "entries": """
insert into entries (account_id, id, seq, natural_key, kind, amount, balance_after, session_id, grant_id, reverses,
                     reason, created_at, key_id, mac)
select account_id, pg_temp.id_of(n, 0), s,
       case when turn < 1 then 'grant:' when turn = 1 then 'expire:' when turn = 2 then 'settle:' when turn = 3 then
       'refund:' else 'adjust:' end || n, kind, amount, balance_after,
       case when turn = 2 then pg_temp.id_of(n, 2) when turn = 3 then pg_temp.id_of(pg_temp.place(u, s - 1), 2)
            when kind = '{rare_kind}' then pg_temp.id_of(pg_temp.place(u, s - 7), 2) end,
       case when turn < 1 then pg_temp.id_of(n, 1) when turn = 1 then pg_temp.id_of(pg_temp.place(u, s - 1), 1) end,
       case when turn = 3 then pg_temp.id_of(pg_temp.place(u, s - 1), 0) end,
       case when turn > 3 then 'counted by hand' when turn = 3 then 'the line was bad' end, pg_temp.at(n), 'none',
       decode(lpad(to_hex(n), 64, '0'), 'hex')
from (select *, case when turn < 1 then 'grant' when turn = 1 then 'expiry' when turn = 2 then 'charge'
                     when turn = 3 then 'refund'
                     when u = 0 and turn = 9 and s / 10 % {rare_every} = 0 then '{rare_kind}'
                     else 'adjustment' end as kind from drafts) kinds
order by n
""",
    "funding": """
insert into funding (account_id, entry_id, line, debit_entry_id, grant_id, amount)
select account_id, pg_temp.id_of(n, 0), 0, pg_temp.id_of(case turn when 3 then pg_temp.place(u, s - 1) else n end, 0),
       pg_temp.id_of(pg_temp.place(u, 1), 1), -amount
from drafts where turn > 1 order by n
""",
    "session_steps": """
insert into session_steps (account_id, session_id, n, from_state, to_state, why, at)
select account_id, id, n, from_state, to_state, why, requested_at + n * interval '5 minutes'
from sessions, (values (1, null, 'starting', 'asked for'), (2, 'starting', 'live', 'the provider started it'),
                       (3, 'live', 'review', 'the timeline says more than heartbeats prove'))
               step (n, from_state, to_state, why)
where state = 'review'
""",
    "holds": """
insert into holds (account_id, session_id, amount, state, changes, resolved_at)
select account_id, id, case when open then 5000000 else 0 end,
       case when open then 'active' when state = 'settled' then 'settled' else 'released' end, 1,
       case when not open then requested_at + interval '15 minutes' end
from (select *, state in ('live', 'review') as open from sessions) these order by requested_at
""",
    "charges": """
insert into charges (account_id, session_id, version, engine_version, evidence_digest, snapshot_n, ticks, amount,
                     beyond_authorization, document, entry_id, created_at)
select account_id, id, 1, 'none', sha256(id::text::bytea), 1,
       pg_temp.packed((extract(epoch from started_at) * 1000000)::bigint) || '\\x{later}'::bytea, charged, 0, '\\x00',
       null, settled_at
from sessions where state = 'settled' order by settled_at
""",
    "ticks": """
insert into ticks (account_id, session_id, received_at, id, extra)
select account_id, s.id, started_at + (i - 1) * interval '30 seconds', i, null
from sessions s, generate_series(1, {heartbeats}) i
where started_at > timestamptz '{now}' - interval '{tick_days} days'
  and started_at + (i - 1) * interval '30 seconds' <= timestamptz '{now}'
order by started_at
""",
    "events": """
insert into events (account_id, id, seq, type, data, created_at)
select account_id, pg_temp.id_of(n, thing), case thing when 5 then 2000000 + n else 2 * s + thing - 3 end, type,
       jsonb_build_object('user_id', user_id, 'why', why), at
from (select account_id, n, s, u, 3 as thing, 'session.started' as type, 'asked for' as why,
             pg_temp.at(n) - interval '15 minutes' as at from drafts where turn = 2
      union all
      select account_id, n, s, u, 4, 'session.settled', 'settled', pg_temp.at(n) from drafts where turn = 2
      union all
      select account_id, n, 0, 1 + k * 7919 % ({users} - 1), 5, '{rare_event}', 'by hand', pg_temp.at(n)
      from (select k, {entries} / {rare} * k as n from generate_series(1, {rare}) k) rare
           join owners on owners.u = 1 + k * 7919 % ({users} - 1)) these
     join owners using (u, account_id)
order by at
""",
    "audit_log": """
insert into audit_log (account_id, id, actor, action, target, after, reason, request_id, address, at)
select account_id, pg_temp.id_of(n, thing), actor, action, target, '{{"amount": "7.5"}}', reason,
       'req-' || n || '-' || thing, '192.0.2.7', at
from (select account_id, n, 6 as thing, '{key}' as actor, 'session.start' as action, 'ses_' || n as target,
             null as reason, pg_temp.at(n) - interval '15 minutes' as at from drafts where turn = 2
      union all
      select account_id, n, 7, '{key}', 'grant.create', 'grt_' || n, null, pg_temp.at(n) from drafts where turn < 1
      union all
      select account_id, n, 8, '{rare_actor}', '{rare_action}', 'ses_rare', 'a good reason', pg_temp.at(n)
      from (select k, {entries} / {rare} * k as n from generate_series(1, {rare}) k) rare
           join owners on owners.u = 1 + k * 7919 % ({users} - 1)) these
order by at
""",
}


def fill(superuser_url: str, database_url: str, users: int, entries: int) -> dict[str, int]:
    """Fill a migrated database that has a rate card: 360 days up to :data:`NOW`; the rows of each table.

    ``users``: at least 1,000; ``entries``: at least 10 for each. ``superuser_url`` leads to the server of
    ``database_url``.
    """
    if users < 1_000 or entries < 10 * users:
        raise ValueError("at least 1,000 users, and 10 entries for each")
    step = _SPAN // entries
    values = {
        "users": users,
        "entries": entries,
        "step": step,
        "first": datetime_of(Instant(NOW - entries * step - 1)).isoformat(),
        "now": datetime_of(NOW).isoformat(),
        "share": max(2, min(100, entries // 2_500)),
        "running": max(RARE, users // 1_000),
        "reviews": max(RARE, users // 1_000),
        "failed": max(RARE, users // 50),
        "rare": RARE,
        "rare_kind": RARE_KIND,
        "rare_every": max(1, entries // max(2, min(100, entries // 2_500)) // 10 // RARE),
        "rare_event": RARE_EVENT,
        "rare_actor": RARE_ACTOR,
        "rare_action": RARE_ACTION,
        "key": KEY,
        "heartbeats": HEARTBEATS,
        "tick_days": TICK_DAYS,
        # Each distance from the one before is packed as it is from 0.
        "later": (pack_instants([Instant(30 * US_PER_S)]) * (HEARTBEATS - 1)).hex(),
    }
    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    with psycopg.connect(superuser_url, dbname=str(name), autocommit=True) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute("set synchronous_commit = off")
        connection.execute("set maintenance_work_mem = '1GB'")
        connection.execute("set work_mem = '512MB'")
        connection.execute("set temp_buffers = '256MB'")
        first_day = datetime_of(Instant(NOW - PARTITION_DAYS * US_PER_DAY)).date()
        connection.execute("select create_tick_partitions(%s, %s)", (first_day, PARTITION_DAYS + 2))
        for statement in (_FUNCTIONS, _DRAFTS):
            connection.execute(statement.format(**values).encode())
        with _without_indexes(connection):
            rows = {}
            for table, statement in _ROWS.items():
                began = time.perf_counter()
                rows[table] = connection.execute(statement.format(**values).encode()).rowcount
                print(f"{table}: {rows[table]:,} rows in {time.perf_counter() - began:.0f} s", flush=True)
        connection.execute("discard temp")
        connection.execute("vacuum analyze")
    return rows


@contextmanager
def _without_indexes(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """What is large gets its indexes and keys afterwards, which is many times quicker than row by row."""
    tables = list(_TABLES)
    keys = connection.execute(
        """select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
           where contype in ('p', 'u', 'f') and conrelid = any(%s::regclass[])
           order by contype = 'f' desc, contype = 'p', conname""",
        (tables,),
    ).fetchall()
    for table, name, _ in keys:
        connection.execute(_named("alter table {} drop constraint if exists {} cascade", table, name))
    indexes = connection.execute(
        "select indexname, indexdef from pg_indexes where schemaname = 'public' and tablename = any(%s)", (tables,)
    ).fetchall()
    for name, _ in indexes:
        connection.execute(_named("drop index {}", name))
    yield
    began = time.perf_counter()
    for _, definition in indexes:
        connection.execute(definition.encode())
    for table, name, definition in reversed(keys):
        connection.execute(_named("alter table {} add constraint {} ", table, name) + sql.SQL(definition))
    print(f"indexes and keys in {time.perf_counter() - began:.0f} s", flush=True)


def _named(statement: str, *names: str) -> sql.Composed:
    return sql.SQL(statement).format(*map(sql.Identifier, names))
