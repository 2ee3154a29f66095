"""A session that was charged may come back into review.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Not looked at while it is added, so that nobody waits: the rows of before fit the stricter rule that it replaces.
CHARGED = """
alter table sessions
    drop constraint sessions_settled_check,
    add constraint sessions_settled_check check (case state
        when 'settled' then charged is not null
        when 'review' then (charged is null) = (settled_at is null)
        else charged is null end) not valid
"""


def upgrade() -> None:
    op.execute(CHARGED)
    op.execute("alter table sessions validate constraint sessions_settled_check")


def downgrade() -> None:
    raise RuntimeError("a ledger is never taken apart by a migration: restore a backup instead")
