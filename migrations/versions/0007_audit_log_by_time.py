"""The audit log is read newest first, whosever accounts it is about.

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Concurrently, so that no change waits for it: each writes a row there.
    with op.get_context().autocommit_block():
        op.execute("drop index concurrently if exists audit_log_at_idx")  # what a broken-off attempt left
        op.execute("create index concurrently audit_log_at_idx on audit_log (at, id)")


def downgrade() -> None:
    raise RuntimeError("a ledger is never taken apart by a migration: restore a backup instead")
