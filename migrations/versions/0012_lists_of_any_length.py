"""Indexes for lists by what is rare among very many: changes by who, what and of what, events and entries by their
kind, sessions by when they started; and users in debt, of whom the overview adds up what they owe.

Revision ID: 0012
Revises: 0011
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

INDEXES = (
    "create index entries_kind_idx on entries (account_id, kind, seq)",
    "create index sessions_started_at_idx on sessions (started_at, id) where started_at is not null",
    """create index sessions_account_started_at_idx on sessions (account_id, started_at, id)
       where started_at is not null""",
    """create index sessions_state_started_at_idx on sessions (state, started_at, id)
       where state <> 'settled' and started_at is not null""",
    "create index events_type_idx on events (type, created_at, id)",
    "create index audit_log_actor_idx on audit_log (actor, at, id)",
    "create index audit_log_action_idx on audit_log (action, at, id)",
    "create index audit_log_target_idx on audit_log (target, at, id)",
    "create index audit_log_request_idx on audit_log (request_id, at, id) where request_id is not null",
    "create index accounts_debt_idx on accounts (debt) where debt > 0",
)


def upgrade() -> None:
    for statement in INDEXES:
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("a ledger is never taken apart by a migration: restore a backup instead")
