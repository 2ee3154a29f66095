"""Deliveries of events: how far each outbox is dispatched, whose turn a delivery is, and what came of each attempt.

Revision ID: 0013
Revises: 0012
"""

from alembic import context, op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# What happened before there was an endpoint is dispatched to nobody: the accounts' outboxes begin where they stand.
STATEMENTS = (
    "alter table accounts add column dispatched_seq bigint not null default 0",
    "update accounts set dispatched_seq = event_seq where event_seq > 0",
    """alter table accounts
       add constraint accounts_dispatched_seq_check check (dispatched_seq <= event_seq)""",
    "create index accounts_undispatched_idx on accounts (account_id) where event_seq > dispatched_seq",
    """create table outboxes (
       account_id uuid not null,
       event_seq bigint not null,
       dispatched_seq bigint not null,
       constraint outboxes_pkey primary key (account_id),
       constraint outboxes_dispatched_seq_check check (dispatched_seq <= event_seq)
       )""",
    """alter table endpoints
       add column failing_since timestamptz,
       add column disabled_at timestamptz,
       add column disabled_why text,
       add constraint endpoints_state_check check (state in ('active', 'disabled', 'deleted'))""",
    """alter table deliveries
       add column created_at timestamptz not null,
       add column total_attempts integer not null default 0,
       add column last_at timestamptz,
       add column finished_at timestamptz,
       add column lease_token uuid,
       add column lease_until timestamptz,
       add constraint deliveries_state_check check (state in ('waiting', 'delivered', 'dead', 'dropped')),
       add constraint deliveries_due_check check ((state = 'waiting') = (due_at is not null))""",
    "create index deliveries_due_idx on deliveries (endpoint_id, due_at) where state = 'waiting'",
    "create index deliveries_endpoint_idx on deliveries (endpoint_id, created_at, event_id)",
    "create index deliveries_dead_idx on deliveries (created_at, event_id, endpoint_id) where state = 'dead'",
    """create index deliveries_finished_at_idx on deliveries (finished_at)
       where finished_at is not null and state <> 'dead'""",
    """create table delivery_attempts (
       account_id uuid not null,
       event_id uuid not null,
       endpoint_id uuid not null,
       id uuid not null,
       at timestamptz not null,
       took bigint not null,
       status smallint,
       error text,
       body bytea,
       counted boolean not null,
       constraint delivery_attempts_pkey primary key (account_id, event_id, endpoint_id, id),
       constraint delivery_attempts_account_id_event_id_endpoint_id_fkey
           foreign key (account_id, event_id, endpoint_id)
           references deliveries (account_id, event_id, endpoint_id)
       )""",
)
RIGHTS = (
    "grant update (dispatched_seq) on accounts to {service}",
    "grant select, insert on outboxes to {service}",
    "grant update (event_seq, dispatched_seq) on outboxes to {service}",
    "grant update (failing_since, disabled_at, disabled_why) on endpoints to {service}",
    "grant update (total_attempts, last_at, finished_at, lease_token, lease_until) on deliveries to {service}",
    "grant delete on deliveries to {service}",
    "grant select, insert, delete on delivery_attempts to {service}",
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
