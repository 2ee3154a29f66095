"""What the provider answered to pulls, as it came: behind each snapshot, and the first and the last that failed.

Like heartbeats these rows are only added to by the service, a few of the last failures overwritten by newer ones, and
removed once they are old by a function of the owner. It refuses what heartbeats' functions refuse: anything of the last
week by the server's own clock, and of sessions that have not come to their end.

Revision ID: 0009
Revises: 0008
"""

from alembic import context, op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TABLES = """
alter table snapshots add column page_digests bytea[];
create table raw_bodies (
    account_id uuid not null,
    session_id uuid not null,
    digest bytea not null,
    page integer not null,
    status smallint not null,
    content_type text,
    received_at timestamptz not null,
    size bigint not null,
    redacted boolean not null,
    body bytea not null,
    constraint raw_bodies_pkey primary key (account_id, session_id, digest),
    constraint raw_bodies_account_id_session_id_fkey foreign key (account_id, session_id)
        references sessions (account_id, id),
    constraint raw_bodies_digest_check check (octet_length(digest) = 32),
    constraint raw_bodies_page_check check (page > 0 and size >= 0)
);
create index raw_bodies_received_at_idx on raw_bodies (received_at);
create table failed_pulls (
    account_id uuid not null,
    session_id uuid not null,
    slot smallint not null,
    n bigint not null,
    digest bytea not null,
    failure text not null,
    detail text not null,
    first_at timestamptz not null,
    last_at timestamptz not null,
    times bigint not null,
    pages jsonb not null,
    bodies bytea not null,
    constraint failed_pulls_pkey primary key (account_id, session_id, slot),
    constraint failed_pulls_account_id_session_id_fkey foreign key (account_id, session_id)
        references sessions (account_id, id),
    constraint failed_pulls_slot_check check (slot between 1 and 16),
    constraint failed_pulls_times_check check (n > 0 and times between 1 and n)
);
create index failed_pulls_last_at_idx on failed_pulls (last_at)
"""

FUNCTION = """
create function drop_old_bodies(older_than timestamptz, most integer) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '250ms' as $$
declare
    old constant timestamptz := least(older_than, clock_timestamp() - interval '7 days');
    removed bigint;
    more bigint;
begin
    if most is null or most not between 1 and 100000 then
        raise exception 'most must be 1 to 100000';
    end if;
    delete from public.raw_bodies where ctid = any (array(
        select b.ctid from public.raw_bodies b
        where b.received_at < old and not exists (
            select from public.sessions s where s.account_id = b.account_id and s.id = b.session_id
                   and s.state in ('starting', 'unconfirmed', 'live', 'over', 'review'))
        limit most));
    get diagnostics removed = row_count;
    delete from public.failed_pulls where ctid = any (array(
        select f.ctid from public.failed_pulls f
        where f.last_at < old and not exists (
            select from public.sessions s where s.account_id = f.account_id and s.id = f.session_id
                   and s.state in ('starting', 'unconfirmed', 'live', 'over', 'review'))
        limit most - removed));
    get diagnostics more = row_count;
    return removed + more;
end
$$
"""
SIGNATURE = "drop_old_bodies(timestamptz, integer)"

# The first failures of a session keep their slots; what is overwritten is one of the last ones.
CHANGEABLE = "n, digest, failure, detail, first_at, last_at, times, pages, bodies"


def upgrade() -> None:
    for statement in TABLES.split(";\n"):
        op.execute(statement)
    op.execute(FUNCTION)
    op.execute(f"revoke all on function {SIGNATURE} from public")
    service = context.config.attributes.get("service_role", "talktime_service")
    if service is not None:
        for table in ("raw_bodies", "failed_pulls"):
            op.execute(f'grant select, insert on {table} to "{service}"')
        op.execute(f'grant update ({CHANGEABLE}) on failed_pulls to "{service}"')
        op.execute(f'grant execute on function {SIGNATURE} to "{service}"')


def downgrade() -> None:
    raise RuntimeError("a ledger is never taken apart by a migration: restore a backup instead")
