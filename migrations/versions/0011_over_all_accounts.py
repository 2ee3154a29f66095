"""Indexes for what is asked over all accounts: lists of users and sessions, the entries of a day, the last events.

Revision ID: 0011
Revises: 0010
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

INDEXES = (
    "create index entries_by_time_idx on entries using brin (created_at)",
    "create index events_created_at_idx on events (created_at, id)",
    "create index accounts_available_idx on accounts ((balance + credit_limit - held), account_id)",
    """create index accounts_user_id_idx on accounts ((lower(user_id) collate "C"), account_id)""",
    "create index sessions_state_idx on sessions (state, requested_at, id) where state <> 'settled'",
    """create index sessions_provider_session_id_idx on sessions (provider_session_id)
       where provider_session_id is not null""",
    "create index sessions_leakage_idx on sessions (settled_at) where leakage > 0",
)


def upgrade() -> None:
    for statement in INDEXES:
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("a ledger is never taken apart by a migration: restore a backup instead")
