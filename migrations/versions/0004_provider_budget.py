"""The provider's budget: when the next permit is free, in place of a count within a window. No version used that.

Revision ID: 0004
Revises: 0003
"""

from alembic import context, op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COLUMNS = """
alter table provider_budget
    drop column window_start,
    drop column permits_used,
    add column next_at timestamptz not null
"""


def upgrade() -> None:
    op.execute("delete from provider_budget")
    op.execute(COLUMNS)
    service = context.config.attributes.get("service_role", "talktime_service")
    if service is not None:
        op.execute(f'grant update (next_at) on provider_budget to "{service}"')


def downgrade() -> None:
    raise RuntimeError("a ledger is never taken apart by a migration: restore a backup instead")
