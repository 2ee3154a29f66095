"""The schema, whole.

Money and evidence are append-only: the service's role may insert and read them, and triggers that fire always refuse
the owner too. What changes (accounts, grants, holds, sessions) is granted column by column.

Revision ID: 0001
Revises:
"""

from alembic import context, op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
create table accounts (
    account_id uuid not null,
    user_id text not null,
    balance bigint not null,
    debt bigint not null,
    held bigint not null,
    credit_limit bigint not null,
    seq bigint not null,
    event_seq bigint not null,
    head_mac bytea,
    head_key text,
    last_entry_at timestamptz,
    next_due_at timestamptz,
    rate_card text,
    limits jsonb not null,
    suspended boolean not null,
    alerts jsonb,
    created_at timestamptz not null,
    constraint accounts_pkey primary key (account_id)
);

create table admin_sessions (
    token_hash bytea not null,
    admin text not null,
    role text not null,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    constraint admin_sessions_pkey primary key (token_hash)
);

create table admin_users (
    id uuid not null,
    name text not null,
    password_hash text not null,
    role text not null,
    created_at timestamptz not null,
    disabled_at timestamptz,
    constraint admin_users_pkey primary key (id),
    constraint admin_users_name_key unique (name)
);

create table api_keys (
    id uuid not null,
    name text not null,
    key_hash bytea not null,
    scopes text[] not null,
    created_at timestamptz not null,
    expires_at timestamptz,
    revoked_at timestamptz,
    constraint api_keys_pkey primary key (id),
    constraint api_keys_key_hash_key unique (key_hash)
);

create table audit_log (
    account_id uuid not null,
    id uuid not null,
    actor text not null,
    action text not null,
    target text not null,
    before jsonb,
    after jsonb,
    reason text,
    request_id text,
    address text,
    at timestamptz not null,
    constraint audit_log_pkey primary key (account_id, id)
);

create table endpoints (
    id uuid not null,
    url text not null,
    description text,
    event_types text[] not null,
    secrets bytea not null,
    state text not null,
    created_at timestamptz not null,
    constraint endpoints_pkey primary key (id)
);

create table events (
    account_id uuid not null,
    id uuid not null,
    seq bigint not null,
    type text not null,
    data jsonb not null,
    created_at timestamptz not null,
    constraint events_pkey primary key (account_id, id),
    constraint events_account_id_seq_key unique (account_id, seq)
);

create table exported_heads (
    id uuid not null,
    accounts bigint not null,
    digest bytea not null,
    created_at timestamptz not null,
    constraint exported_heads_pkey primary key (id)
);

create table grants (
    account_id uuid not null,
    id uuid not null,
    kind text not null,
    priority smallint not null,
    amount bigint not null,
    effective_at timestamptz not null,
    expires_at timestamptz,
    cost_basis bigint,
    reference text,
    metadata jsonb not null,
    created_at timestamptz not null,
    remaining bigint not null,
    held bigint not null,
    state text not null,
    constraint grants_pkey primary key (account_id, id),
    constraint grants_account_id_reference_key unique (account_id, reference),
    constraint grants_account_id_fkey foreign key (account_id)
        references accounts (account_id)
);

create index grants_unspent_idx on grants (account_id) where remaining > 0;

create table idempotency (
    account_id uuid not null,
    key_hash bytea not null,
    request_hash bytea not null,
    state text not null,
    session_id uuid,
    status smallint,
    body bytea,
    sealed bytea,
    created_at timestamptz not null,
    purge_at timestamptz not null,
    constraint idempotency_pkey primary key (account_id, key_hash)
);

create index idempotency_purge_at_idx on idempotency (purge_at);

create table job_leases (
    job text not null,
    next_run_at timestamptz not null,
    token uuid,
    leased_until timestamptz,
    constraint job_leases_pkey primary key (job)
);

create table key_use (
    key_id uuid not null,
    day date not null,
    last_used_at timestamptz not null,
    constraint key_use_pkey primary key (key_id, day)
);

create table limit_changes (
    account_id uuid not null,
    n integer not null,
    credit_limit bigint not null,
    reason text not null,
    at timestamptz not null,
    constraint limit_changes_pkey primary key (account_id, n)
);

create table provider_budget (
    provider text not null,
    next_at timestamptz not null,
    blocked_until timestamptz,
    constraint provider_budget_pkey primary key (provider)
);

create table rate_cards (
    id uuid not null,
    name text not null,
    version integer not null,
    document jsonb not null,
    effective_at timestamptz not null,
    match_persona text,
    match_scenario text,
    created_at timestamptz not null,
    constraint rate_cards_pkey primary key (id),
    constraint rate_cards_name_version_key unique (name, version)
);

create table receiving (
    process_id uuid not null,
    from_at timestamptz not null,
    to_at timestamptz not null,
    constraint receiving_pkey primary key (process_id, from_at)
);

create table security_events (
    account_id uuid not null,
    session_id uuid not null,
    minute timestamptz not null,
    kind text not null,
    count bigint not null,
    constraint security_events_pkey primary key (account_id, session_id, minute, kind)
);

create table settings (
    name text not null,
    value jsonb not null,
    changed_at timestamptz not null,
    constraint settings_pkey primary key (name)
);

create table simulations (
    id uuid not null,
    state text not null,
    request jsonb not null,
    result jsonb,
    progress integer not null,
    created_at timestamptz not null,
    constraint simulations_pkey primary key (id)
);

create table ticks (
    account_id uuid not null,
    session_id uuid not null,
    received_at timestamptz not null,
    id bigint not null,
    extra text,
    constraint ticks_pkey primary key (account_id, session_id, received_at, id)
) partition by range (received_at);

create table verify_runs (
    id uuid not null,
    started_at timestamptz not null,
    finished_at timestamptz,
    findings jsonb,
    constraint verify_runs_pkey primary key (id)
);

create table deliveries (
    account_id uuid not null,
    event_id uuid not null,
    endpoint_id uuid not null,
    state text not null,
    attempts integer not null,
    due_at timestamptz,
    last_status smallint,
    last_error text,
    constraint deliveries_pkey primary key (account_id, event_id, endpoint_id),
    constraint deliveries_account_id_event_id_fkey foreign key (account_id, event_id)
        references events (account_id, id),
    constraint deliveries_endpoint_id_fkey foreign key (endpoint_id)
        references endpoints (id)
);

create table entries (
    account_id uuid not null,
    id uuid not null,
    seq bigint not null,
    natural_key text not null,
    kind text not null,
    amount bigint not null,
    balance_after bigint not null,
    session_id uuid,
    grant_id uuid,
    reverses uuid,
    reason text,
    reference text,
    created_at timestamptz not null,
    key_id text not null,
    mac bytea not null,
    constraint entries_pkey primary key (account_id, id),
    constraint entries_account_id_seq_key unique (account_id, seq),
    constraint entries_account_id_natural_key_key unique (account_id, natural_key),
    constraint entries_account_id_fkey foreign key (account_id)
        references accounts (account_id)
);

create index entries_created_at_idx on entries (account_id, created_at, seq);

create table sessions (
    account_id uuid not null,
    id uuid not null,
    provider_session_id text,
    start_key bytea,
    persona text not null,
    scenario text not null,
    metadata jsonb not null,
    state text not null,
    rate_card_id uuid not null,
    charge_from text,
    time_limit bigint not null,
    authorized bigint not null,
    accrued bigint not null,
    charged bigint,
    leakage bigint,
    anomalies text[] not null,
    requested_at timestamptz not null,
    started_at timestamptz,
    over_at timestamptz,
    settled_at timestamptz,
    steps integer not null,
    due_at timestamptz,
    lease_token uuid,
    lease_until timestamptz,
    attempts integer not null,
    constraint sessions_pkey primary key (account_id, id),
    constraint sessions_account_id_provider_session_id_key unique (account_id, provider_session_id),
    constraint sessions_account_id_start_key_key unique (account_id, start_key),
    constraint sessions_account_id_fkey foreign key (account_id)
        references accounts (account_id),
    constraint sessions_rate_card_id_fkey foreign key (rate_card_id)
        references rate_cards (id)
);

create index sessions_account_requested_at_idx on sessions (account_id, requested_at, id);

create index sessions_due_at_idx on sessions (due_at) where due_at is not null;

create index sessions_requested_at_idx on sessions (requested_at, id);

create table charges (
    account_id uuid not null,
    session_id uuid not null,
    version integer not null,
    engine_version text not null,
    evidence_digest bytea not null,
    snapshot_n integer not null,
    ticks bytea not null,
    amount bigint not null,
    beyond_authorization bigint not null,
    document bytea not null,
    entry_id uuid,
    created_at timestamptz not null,
    constraint charges_pkey primary key (account_id, session_id, version),
    constraint charges_account_id_session_id_fkey foreign key (account_id, session_id)
        references sessions (account_id, id)
);

create table funding (
    account_id uuid not null,
    entry_id uuid not null,
    line smallint not null,
    debit_entry_id uuid not null,
    grant_id uuid,
    amount bigint not null,
    constraint funding_pkey primary key (account_id, entry_id, line),
    constraint funding_account_id_entry_id_fkey foreign key (account_id, entry_id)
        references entries (account_id, id)
);

create index funding_debit_entry_idx on funding (account_id, debit_entry_id);

create table holds (
    account_id uuid not null,
    session_id uuid not null,
    amount bigint not null,
    state text not null,
    changes integer not null,
    resolved_at timestamptz,
    constraint holds_pkey primary key (account_id, session_id),
    constraint holds_account_id_session_id_fkey foreign key (account_id, session_id)
        references sessions (account_id, id)
);

create table postings (
    account_id uuid not null,
    entry_id uuid not null,
    leg smallint not null,
    ledger_account text not null,
    amount bigint not null,
    constraint postings_pkey primary key (account_id, entry_id, leg),
    constraint postings_account_id_entry_id_fkey foreign key (account_id, entry_id)
        references entries (account_id, id)
);

create table session_steps (
    account_id uuid not null,
    session_id uuid not null,
    n integer not null,
    from_state text,
    to_state text not null,
    why text not null,
    at timestamptz not null,
    constraint session_steps_pkey primary key (account_id, session_id, n),
    constraint session_steps_account_id_session_id_fkey foreign key (account_id, session_id)
        references sessions (account_id, id)
);

create table snapshots (
    account_id uuid not null,
    session_id uuid not null,
    n integer not null,
    requested_at timestamptz not null,
    received_at timestamptz not null,
    timeline bigint not null,
    speech bigint not null,
    last_type text,
    digest bytea not null,
    shared_values integer not null,
    other_values bytea not null,
    constraint snapshots_pkey primary key (account_id, session_id, n),
    constraint snapshots_account_id_session_id_fkey foreign key (account_id, session_id)
        references sessions (account_id, id)
);

create table hold_changes (
    account_id uuid not null,
    session_id uuid not null,
    n integer not null,
    delta bigint not null,
    held_after bigint not null,
    why text not null,
    at timestamptz not null,
    constraint hold_changes_pkey primary key (account_id, session_id, n),
    constraint hold_changes_account_id_session_id_fkey foreign key (account_id, session_id)
        references holds (account_id, session_id)
);

create index hold_changes_at_idx on hold_changes (account_id, at);

create table hold_lines (
    account_id uuid not null,
    session_id uuid not null,
    line smallint not null,
    grant_id uuid,
    amount bigint not null,
    constraint hold_lines_pkey primary key (account_id, session_id, line),
    constraint hold_lines_account_id_session_id_fkey foreign key (account_id, session_id)
        references holds (account_id, session_id),
    constraint hold_lines_account_id_grant_id_fkey foreign key (account_id, grant_id)
        references grants (account_id, id)
);

create table ticks_default partition of ticks default;
"""

# What the columns cannot say by their types. Sums over rows are checked by `talktime verify` and docs/invariants.md.
CHECKS = """
alter table accounts
    add constraint accounts_user_id_check check (char_length(user_id) between 1 and 128),
    add constraint accounts_debt_check check (debt >= 0),
    add constraint accounts_held_check check (held >= 0),
    add constraint accounts_credit_limit_check check (credit_limit >= 0),
    add constraint accounts_seq_check check (seq >= 0 and event_seq >= 0),
    add constraint accounts_head_check check ((seq = 0) = (head_mac is null) and (seq = 0) = (head_key is null));
alter table grants
    add constraint grants_kind_check check (kind in ('paid', 'promotional')),
    add constraint grants_state_check check (state in ('scheduled', 'active', 'expired', 'voided')),
    add constraint grants_priority_check check (priority between 0 and 100),
    add constraint grants_amount_check check (amount > 0),
    add constraint grants_remaining_check check (0 <= held and held <= remaining and remaining <= amount),
    add constraint grants_scheduled_check check (state <> 'scheduled' or (held = 0 and remaining = amount)),
    add constraint grants_closed_check check (state not in ('expired', 'voided') or remaining = held),
    add constraint grants_dates_check check (expires_at > effective_at),
    add constraint grants_cost_basis_check check (cost_basis >= 0);
alter table sessions
    add constraint sessions_state_check check (
        state in ('starting', 'unconfirmed', 'live', 'over', 'review', 'settled', 'failed')),
    add constraint sessions_amounts_check check (
        authorized >= 0 and accrued >= 0 and charged between 0 and authorized and leakage >= 0),
    add constraint sessions_settled_check check ((state = 'settled') = (charged is not null)),
    add constraint sessions_time_limit_check check (time_limit > 0),
    add constraint sessions_lease_check check ((lease_token is null) = (lease_until is null));
alter table holds
    add constraint holds_state_check check (state in ('active', 'settled', 'released')),
    add constraint holds_amount_check check (amount >= 0 and (state = 'active' or amount = 0)),
    add constraint holds_resolved_check check ((state = 'active') = (resolved_at is null));
alter table hold_lines
    add constraint hold_lines_amount_check check (amount >= 0);
alter table hold_changes
    add constraint hold_changes_held_after_check check (held_after >= 0);
alter table entries
    add constraint entries_seq_check check (seq > 0);
alter table postings
    add constraint postings_amount_check check (amount <> 0);
alter table funding
    add constraint funding_amount_check check (amount > 0);
alter table snapshots
    add constraint snapshots_times_check check (received_at >= requested_at and timeline >= 0);
alter table charges
    add constraint charges_amounts_check check (amount >= 0 and beyond_authorization >= 0);
alter table idempotency
    add constraint idempotency_state_check check (state in ('pending', 'done'));
alter table rate_cards
    add constraint rate_cards_version_check check (version > 0);
"""

APPEND_ONLY = (
    "audit_log", "charges", "entries", "events", "funding", "hold_changes", "limit_changes", "postings",
    "session_steps", "snapshots",
)  # fmt: skip

# A row trigger is inherited by partitions, a TRUNCATE trigger is not; none of these tables is partitioned.
# ENABLE ALWAYS: replication mode does not switch them off.
REFUSE_CHANGE = """
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'rows of % are only added, never changed or removed', tg_table_name
        using errcode = 'restrict_violation';
end
$$;
"""

PROTECT = """
create trigger refuse_change before update or delete on {table} for each row execute function refuse_change();
alter table {table} enable always trigger refuse_change;
create trigger refuse_truncate before truncate on {table} for each statement execute function refuse_change();
alter table {table} enable always trigger refuse_truncate;
"""

# Partitions are made by the owner on the service's behalf: the service itself may create nothing.
PARTITIONS = """
create function create_tick_partitions(first date, days integer) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    home constant text := 'public';
    made integer := 0;
    day date;
    name text;
begin
    if days not between 1 and 400 then
        raise exception 'days must be 1 to 400';
    end if;
    for offset_days in 0 .. days - 1 loop
        day := first + offset_days;
        name := 'ticks_' || to_char(day, 'YYYYMMDD');
        if to_regclass(format('%I.%I', home, name)) is null then
            begin
                execute format('create table %I.%I partition of %I.ticks for values from (%L) to (%L)',
                    home, name, home, (day::timestamp at time zone 'UTC'), ((day + 1)::timestamp at time zone 'UTC'));
                made := made + 1;
            exception
                when duplicate_table then
                    null;  -- another replica made it between the look and the making
                when check_violation then
                    null;  -- heartbeats of that day came first: they, and all others of it, stay in the default one
            end;
        end if;
    end loop;
    return made;
end
$$;
"""

# Columns that the service may change; all else of these tables it may only insert.
CHANGEABLE = {
    "accounts": "balance, debt, held, credit_limit, seq, event_seq, head_mac, head_key, last_entry_at, next_due_at, "
    "rate_card, limits, suspended, alerts",
    "grants": "remaining, held, state",
    "sessions": "provider_session_id, charge_from, state, accrued, charged, leakage, anomalies, started_at, "
    "over_at, settled_at, steps, due_at, lease_token, lease_until, attempts",
    "holds": "amount, state, changes, resolved_at",
    "hold_lines": "amount",
    "idempotency": "state, status, body, sealed",
    "deliveries": "state, attempts, due_at, last_status, last_error",
    "security_events": "count",
    "api_keys": "revoked_at",
    "endpoints": "url, description, event_types, secrets, state",
    "settings": "value, changed_at",
    "admin_users": "password_hash, role, disabled_at",
    "job_leases": "next_run_at, token, leased_until",
    "provider_budget": "next_at, blocked_until",
    "receiving": "to_at",
    "key_use": "last_used_at",
    "simulations": "state, result, progress",
    "verify_runs": "finished_at, findings",
}
INSERT_ONLY = (*APPEND_ONLY, "admin_sessions", "exported_heads", "rate_cards", "ticks")
REMOVABLE = ("admin_sessions", "receiving", "simulations")


def upgrade() -> None:
    _execute(TABLES)
    _execute(CHECKS)
    op.execute(REFUSE_CHANGE)
    for table in APPEND_ONLY:
        _execute(PROTECT.format(table=table))
    op.execute(PARTITIONS)
    op.execute("revoke all on function create_tick_partitions(date, integer) from public")
    service = context.config.attributes.get("service_role", "talktime_service")
    if service is not None:
        _grant(f'"{service}"')


def _grant(service: str) -> None:
    for table in (*CHANGEABLE, *INSERT_ONLY):
        op.execute(f"grant select, insert on {table} to {service}")
    for table, columns in CHANGEABLE.items():
        op.execute(f"grant update ({columns}) on {table} to {service}")
    for table in REMOVABLE:
        op.execute(f"grant delete on {table} to {service}")
    op.execute(f"grant select on alembic_version to {service}")
    op.execute(f"grant execute on function create_tick_partitions(date, integer) to {service}")


def _execute(statements: str) -> None:
    for statement in statements.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("a ledger is never taken apart by a migration: restore a backup instead")
