"""When the provider confirmed that it had ended a session.

Revision ID: 0008
Revises: 0007
"""

from alembic import context, op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table sessions add column ended_at timestamptz")
    service = context.config.attributes.get("service_role", "talktime_service")
    if service is not None:
        op.execute(f'grant update (ended_at) on sessions to "{service}"')


def downgrade() -> None:
    raise RuntimeError("a ledger is never taken apart by a migration: restore a backup instead")
