"""Top-ups: payments that a provider of payments told of, and grants that come again each period.

Revision ID: 0014
Revises: 0013
"""

from alembic import context, op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

STATEMENTS = (
    """create table payments (
       account_id uuid not null,
       id uuid not null,
       reference text not null,
       state text not null,
       attention text,
       user_id text,
       user_account uuid,
       grant_id uuid,
       credits bigint,
       amount bigint,
       currency text,
       charged bigint not null,
       refunded bigint not null,
       disputes jsonb not null,
       taken bigint not null,
       moves integer not null,
       created_at timestamptz not null,
       changed_at timestamptz not null,
       constraint payments_pkey primary key (account_id, id),
       constraint payments_state_check check (state in ('waiting', 'granted', 'dismissed')),
       constraint payments_granted_check check ((state = 'granted') = (grant_id is not null)),
       constraint payments_grant_check check (grant_id is null or user_account is not null and credits > 0),
       constraint payments_amount_check check (amount > 0 and currency ~ '^[a-z]{3}$' or amount is null),
       constraint payments_refunded_check check (charged >= 0 and refunded between 0 and charged),
       constraint payments_taken_check check (taken between 0 and coalesce(credits, 0) and moves >= 0)
       )""",
    "create index payments_created_at_idx on payments (created_at, id)",
    "create index payments_attention_idx on payments (created_at, id) where attention is not null",
    "create index payments_user_idx on payments (user_account, created_at, id) where user_account is not null",
    """create table payment_events (
       account_id uuid not null,
       id text not null,
       payment_id uuid not null,
       type text not null,
       created_at timestamptz not null,
       received_at timestamptz not null,
       constraint payment_events_pkey primary key (account_id, id),
       constraint payment_events_account_id_payment_id_fkey foreign key (account_id, payment_id)
           references payments (account_id, id)
       )""",
    "create index payment_events_payment_idx on payment_events (payment_id, received_at)",
    """create table recurring_grants (
       account_id uuid not null,
       id uuid not null,
       amount bigint not null,
       kind text not null,
       priority smallint not null,
       cost_basis bigint,
       metadata jsonb not null,
       period text not null,
       starts_at timestamptz not null,
       ends_at timestamptz,
       periods integer,
       leftover text not null,
       rollover_cap bigint,
       state text not null,
       next_n integer not null,
       skipped integer not null,
       due_at timestamptz,
       created_at timestamptz not null,
       changed_at timestamptz not null,
       constraint recurring_grants_pkey primary key (account_id, id),
       constraint recurring_grants_account_id_fkey foreign key (account_id) references accounts (account_id),
       constraint recurring_grants_amount_check check (amount > 0),
       constraint recurring_grants_period_check check (period in ('day', 'week', 'month', 'year')),
       constraint recurring_grants_periods_check check (periods > 0),
       constraint recurring_grants_leftover_check check (
           leftover in ('expiry', 'rollover')
           and (rollover_cap is null or leftover = 'rollover' and rollover_cap >= 0)),
       constraint recurring_grants_state_check check (state in ('active', 'paused', 'cancelled', 'ended')),
       constraint recurring_grants_due_check check ((state = 'active') = (due_at is not null)),
       constraint recurring_grants_next_n_check check (skipped between 0 and next_n)
       )""",
    "create index recurring_grants_due_idx on recurring_grants (due_at, account_id, id) where due_at is not null",
    """create table recurring_periods (
       account_id uuid not null,
       recurring_id uuid not null,
       n integer not null,
       starts_at timestamptz not null,
       amount bigint not null,
       grant_id uuid,
       posted_at timestamptz not null,
       constraint recurring_periods_pkey primary key (account_id, recurring_id, n),
       constraint recurring_periods_account_id_recurring_id_fkey foreign key (account_id, recurring_id)
           references recurring_grants (account_id, id),
       constraint recurring_periods_account_id_grant_id_fkey foreign key (account_id, grant_id)
           references grants (account_id, id),
       constraint recurring_periods_amount_check check (
           n >= 0 and amount >= 0 and (amount > 0) = (grant_id is not null))
       )""",
    *(
        statement.format(table=table)
        for table in ("payment_events", "recurring_periods")
        for statement in (
            """create trigger refuse_change before update or delete on {table}
               for each row execute function refuse_change()""",
            "alter table {table} enable always trigger refuse_change",
            """create trigger refuse_truncate before truncate on {table}
               for each statement execute function refuse_change()""",
            "alter table {table} enable always trigger refuse_truncate",
        )
    ),
)
RIGHTS = (
    "grant select, insert on payments, payment_events, recurring_grants, recurring_periods to {service}",
    """grant update (state, attention, user_id, user_account, grant_id, credits, amount, currency, charged, refunded,
       disputes, taken, moves, changed_at) on payments to {service}""",
    "grant update (state, next_n, skipped, due_at, changed_at) on recurring_grants to {service}",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
    service = context.config.attributes.get("service_role", "talktime_service")
    if service is not None:
        for right in RIGHTS:
            op.execute(right.format(service=f'"{service}"'))


def downgrade() -> None:
    raise RuntimeError("a ledger is never taken apart by a migration: restore a backup instead")
