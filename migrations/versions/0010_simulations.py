"""What-if simulations: how far each is, who is at it, and how it ended; and settled sessions by their keys.

Revision ID: 0010
Revises: 0009
"""

from alembic import context, op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TABLES = """
alter table simulations
    add column total integer,
    add column checkpoint jsonb,
    add column token uuid,
    add column attempts integer not null default 0,
    add column started_at timestamptz,
    add column finished_at timestamptz,
    add column failure text,
    add constraint simulations_state_check check (state in ('waiting', 'running', 'done', 'failed'));
create index simulations_created_at_idx on simulations (created_at, id);
create index sessions_settled_idx on sessions (account_id, id, settled_at) where settled_at is not null
"""
CHANGEABLE = "total, checkpoint, token, attempts, started_at, finished_at, failure"


def upgrade() -> None:
    for statement in TABLES.split(";\n"):
        op.execute(statement)
    service = context.config.attributes.get("service_role", "talktime_service")
    if service is not None:
        op.execute(f'grant update ({CHANGEABLE}) on simulations to "{service}"')


def downgrade() -> None:
    raise RuntimeError("a ledger is never taken apart by a migration: restore a backup instead")
