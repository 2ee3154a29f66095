"""Live balance: which transaction changed an account last, so that one look finds what changed since another.

Revision ID: 0015
Revises: 0014
"""

from alembic import context, op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# What was not changed since has no mark: nobody has looked yet, so nobody can have missed it.
STATEMENTS = (
    "alter table accounts add column changed_by bigint",
    "create index accounts_changed_by_idx on accounts (changed_by)",
)
RIGHTS = ("grant update (changed_by) on accounts to {service}",)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
    service = context.config.attributes.get("service_role", "talktime_service")
    if service is not None:
        for right in RIGHTS:
            op.execute(right.format(service=f'"{service}"'))


def downgrade() -> None:
    raise RuntimeError("a ledger is never taken apart by a migration: restore a backup instead")
