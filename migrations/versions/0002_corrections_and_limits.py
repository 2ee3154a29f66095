"""Corrections, limits and alerts: what the ledger needs to give back, to look back, and to warn.

Hold changes are numbered per account, so that what was held at any instant is the last change up to it; a refund is a
negative line of funding; grants carry a MAC of their terms from the start, before they are an entry, and so do changes
of a credit limit, which no version before this one made.

Revision ID: 0002
Revises: 0001
"""

from alembic import context, op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COLUMNS = """
alter table accounts
    add column hold_seq bigint not null default 0,
    add column last_change_at timestamptz,
    add column alert_level text,
    add constraint accounts_hold_seq_check check (hold_seq >= 0),
    add constraint accounts_alert_level_check check (alert_level in ('ok', 'low', 'depleted'));
alter table grants
    add column announced boolean not null default false,
    add column terms_key text,
    add column terms_mac bytea,
    add constraint grants_terms_check check ((terms_key is null) = (terms_mac is null));
alter table charges
    add column rate_card_id uuid,
    add constraint charges_rate_card_id_fkey foreign key (rate_card_id) references rate_cards (id);
alter table funding
    drop constraint funding_amount_check,
    add constraint funding_amount_check check (amount <> 0);
alter table idempotency
    drop constraint idempotency_state_check,
    add constraint idempotency_state_check check (state in ('pending', 'done', 'purged'));
alter table hold_changes add column seq bigint;
alter table sessions add column written_off boolean not null default false;
alter table limit_changes
    add column key_id text not null,
    add column mac bytea not null
"""

# The rows of before are numbered in the order in which they were booked. Nobody but the owner can switch the trigger
# off, and only within this transaction.
NUMBER_HOLD_CHANGES = """
alter table hold_changes disable trigger refuse_change;
update hold_changes c set seq = numbered.seq
from (select account_id, session_id, n, row_number() over (partition by account_id order by at, session_id, n) as seq
      from hold_changes) numbered
where (c.account_id, c.session_id, c.n) = (numbered.account_id, numbered.session_id, numbered.n);
alter table hold_changes enable always trigger refuse_change;
update accounts a set
    hold_seq = coalesce((select max(seq) from hold_changes c where c.account_id = a.account_id), 0),
    last_change_at = greatest(a.last_entry_at, (select max(at) from hold_changes c where c.account_id = a.account_id));
alter table hold_changes
    alter column seq set not null,
    add constraint hold_changes_account_id_seq_key unique (account_id, seq)
"""

INDEXES = """
drop index hold_changes_at_idx;
create index hold_changes_at_idx on hold_changes (account_id, at, seq);
create index accounts_next_due_at_idx on accounts (next_due_at) where next_due_at is not null;
create index grants_expiring_idx on grants (expires_at) where expires_at is not null and not announced;
create index sessions_running_idx on sessions (account_id)
    where state in ('starting', 'unconfirmed', 'live', 'over', 'review');
create index hold_lines_credit_idx on hold_lines (account_id) where grant_id is null and amount > 0;
create index funding_credit_idx on funding (account_id, debit_entry_id) where grant_id is null;
create index entries_session_idx on entries (account_id, session_id) where session_id is not null;
create index entries_grant_idx on entries (account_id, grant_id, seq) where grant_id is not null;
create index idempotency_sealed_idx on idempotency (created_at) where sealed is not null
"""

CHANGEABLE = {
    "accounts": "hold_seq, last_change_at, alert_level",
    "grants": "announced",
    "sessions": "written_off",
}


def upgrade() -> None:
    for statements in (COLUMNS, NUMBER_HOLD_CHANGES, INDEXES):
        for statement in statements.split(";\n"):
            op.execute(statement)
    service = context.config.attributes.get("service_role", "talktime_service")
    if service is not None:
        for table, columns in CHANGEABLE.items():
            op.execute(f'grant update ({columns}) on {table} to "{service}"')


def downgrade() -> None:
    raise RuntimeError("a ledger is never taken apart by a migration: restore a backup instead")
