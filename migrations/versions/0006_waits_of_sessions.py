"""Since when the pulls of a session have come to nothing, until when a review keeps its hold, what a decision accepted.

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
    add column failing_since timestamptz,
    add column hold_until timestamptz,
    add column accepted_snapshot integer;
alter table charges add column accepted_snapshot integer
"""

# Until now the release of the hold was all that a review waited for by itself.
HOLDS_OF_REVIEWS = "update sessions set hold_until = due_at where state = 'review' and due_at is not null"


def upgrade() -> None:
    for statement in COLUMNS.split(";\n"):
        op.execute(statement)
    op.execute(HOLDS_OF_REVIEWS)
    service = context.config.attributes.get("service_role", "talktime_service")
    if service is not None:
        op.execute(f'grant update (failing_since, hold_until, accepted_snapshot) on sessions to "{service}"')


def downgrade() -> None:
    raise RuntimeError("a ledger is never taken apart by a migration: restore a backup instead")
