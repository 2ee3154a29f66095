"""Retention: heartbeats are dropped day by day, by functions of the owner.

The service may neither drop a partition nor delete a heartbeat. It may ask for it, and these functions refuse what must
stay: anything but a partition of heartbeats of one day, days that the server's own clock does not call old, and what
belongs to a session that has not come to its end. The server's clock is a guard only: what is old enough, the caller's
clock decides. Whoever holds the service's rights can turn that one as they like, and could make any clock that is read
from rows run ahead by adding some of the future.

Revision ID: 0003
Revises: 0002
"""

from alembic import context, op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# A date before our era has the name of one in it, so it could name a partition of today while it seems old. To drop a
# partition takes its parent's exclusive lock, behind which all new heartbeats wait: therefore only for a moment. The
# look at the sessions comes before it, and need not come again: no session returns from its end with old heartbeats.
FUNCTIONS = (
    """
create function drop_tick_partition(day date, out outcome text, out unsettled bigint)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '250ms' as $$
declare
    home constant text := 'public';
    name constant text := 'ticks_' || to_char(day, 'YYYYMMDD');
begin
    unsettled := 0;
    if day is null or not isfinite(day) or day < date '1970-01-01' then
        raise exception 'day must be a date from 1970 on';
    end if;
    if (day + 1)::timestamp at time zone 'UTC' > clock_timestamp() - interval '7 days' then
        outcome := 'too_young';
        return;
    end if;
    perform from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = to_regclass(format('%I.ticks', home)) and c.oid = to_regclass(format('%I.%I', home, name));
    if not found then
        outcome := 'missing';
        return;
    end if;
    execute format('select count(*) from %1$I.sessions s'
        ' where s.state in (''starting'', ''unconfirmed'', ''live'', ''over'', ''review'') and exists (select'
        ' from %1$I.%2$I t where t.account_id = s.account_id and t.session_id = s.id)', home, name) into unsettled;
    if unsettled > 0 then
        outcome := 'kept';
        return;
    end if;
    execute format('drop table %I.%I', home, name);
    outcome := 'dropped';
exception
    when lock_not_available then
        outcome := 'busy';
    when undefined_table then
        outcome := 'missing';  -- another replica dropped it meanwhile
end
$$
""",
    """
create function drop_stray_ticks(older_than timestamptz, most integer) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '250ms' as $$
declare
    removed bigint;
begin
    if most is null or most not between 1 and 100000 then
        raise exception 'most must be 1 to 100000';
    end if;
    delete from public.ticks_default where ctid = any (array(
        select t.ctid from public.ticks_default t
        where t.received_at < least(older_than, clock_timestamp() - interval '7 days') and not exists (
            select from public.sessions s where s.account_id = t.account_id and s.id = t.session_id
                   and s.state in ('starting', 'unconfirmed', 'live', 'over', 'review'))
        limit most));
    get diagnostics removed = row_count;
    return removed;
end
$$
""",
)
SIGNATURES = ("drop_tick_partition(date)", "drop_stray_ticks(timestamptz, integer)")


def upgrade() -> None:
    for function in FUNCTIONS:
        op.execute(function)
    service = context.config.attributes.get("service_role", "talktime_service")
    for signature in SIGNATURES:
        op.execute(f"revoke all on function {signature} from public")
        if service is not None:
            op.execute(f'grant execute on function {signature} to "{service}"')


def downgrade() -> None:
    raise RuntimeError("a ledger is never taken apart by a migration: restore a backup instead")
