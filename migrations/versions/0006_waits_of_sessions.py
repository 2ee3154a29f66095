"""Since when the pulls of a session have come to nothing.

Revision ID: 0006
Revises: 0005
"""

from alembic import context, op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COLUMNS = """
alter table sessions
    add column failing_since timestamptz
"""


def upgrade() -> None:
    op.execute(COLUMNS)
    service = context.config.attributes.get("service_role", "talktime_service")
    if service is not None:
        op.execute(f'grant update (failing_since) on sessions to "{service}"')


def downgrade() -> None:
    raise RuntimeError("a ledger is never taken apart by a migration: restore a backup instead")
