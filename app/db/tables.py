"""The tables. Every one is declared distributed, reference or local, and append-only or not.

* *Distributed* tables grow with use; their ``account_id`` is in every primary key, unique constraint and foreign key,
  so that the database can one day be spread over machines by account.
* *Reference* tables are small and would be copied to every machine.
* *Local* tables belong to the processes around one database.

What grows *append-only* may be inserted and read by the service, never changed: the database refuses it.
Amounts are micro-credits, durations microseconds. No column has a default that reads a clock.
"""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    and_,
    cast,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.schema import SchemaItem
from sqlalchemy.sql.elements import ColumnElement

from app.db.types import BytesType, InstantType

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    }
)

DISTRIBUTED: Final = "distributed"
REFERENCE: Final = "reference"
LOCAL: Final = "local"


def _distributed(name: str, key: tuple[str, ...], *items: SchemaItem, append_only: bool = False) -> Table:
    return Table(
        name,
        metadata,
        Column("account_id", Uuid, nullable=False),
        *items,
        PrimaryKeyConstraint("account_id", *key),
        info={"placement": DISTRIBUTED, "append_only": append_only},
    )


def _table(name: str, placement: str, *items: SchemaItem) -> Table:
    return Table(name, metadata, *items, info={"placement": placement, "append_only": False})


def _col(name: str, kind: Any, *, nullable: bool = False) -> Column[Any]:
    return Column(name, kind, nullable=nullable)


def _of_account(*columns: str, table: str) -> ForeignKeyConstraint:
    """A foreign key within the account: ``columns`` name the row of ``table`` beside ``account_id``."""
    keys = tuple(metadata.tables[table].primary_key.columns.keys())
    return ForeignKeyConstraint(["account_id", *columns], [f"{table}.{key}" for key in keys])


THIS_TRANSACTION: Final[ColumnElement[int]] = cast(cast(func.pg_current_xact_id(), Text), BigInteger)
"""The number of the transaction that runs a statement."""

accounts = _distributed(
    "accounts",
    (),
    _col("user_id", Text),
    _col("balance", BigInteger),
    _col("debt", BigInteger),
    _col("held", BigInteger),
    _col("credit_limit", BigInteger),
    _col("seq", BigInteger),
    _col("event_seq", BigInteger),
    Column("dispatched_seq", BigInteger, nullable=False, server_default="0"),
    Column("hold_seq", BigInteger, nullable=False, server_default="0"),
    _col("head_mac", BytesType, nullable=True),
    _col("head_key", Text, nullable=True),
    _col("last_entry_at", InstantType, nullable=True),
    _col("last_change_at", InstantType, nullable=True),
    _col("next_due_at", InstantType, nullable=True),
    _col("rate_card", Text, nullable=True),
    _col("limits", JSONB),
    _col("suspended", Boolean),
    _col("alerts", JSONB, nullable=True),
    _col("alert_level", Text, nullable=True),
    _col("created_at", InstantType),
    # Written by every update there is, so that none can forget it; no default of the schema's.
    Column("changed_by", BigInteger, nullable=True, default=THIS_TRANSACTION, onupdate=THIS_TRANSACTION),
)
Index("accounts_changed_by_idx", accounts.c.changed_by)
Index(
    "accounts_undispatched_idx",
    accounts.c.account_id,
    postgresql_where=accounts.c.event_seq > accounts.c.dispatched_seq,
)
Index("accounts_next_due_at_idx", accounts.c.next_due_at, postgresql_where=accounts.c.next_due_at.is_not(None))

AVAILABLE: Final[ColumnElement[int]] = accounts.c.balance + accounts.c.credit_limit - accounts.c.held
"""What an account can still spend, as its index has it."""
LOWER_USER_ID: Final[ColumnElement[str]] = func.lower(accounts.c.user_id).collate("C")
"""A user's id as lists sort and search it: by its bytes, whatever its case."""
# In the database's own words, so that the two can be compared; it does not tell that the second one is collated "C".
Index("accounts_available_idx", text("(balance + credit_limit - held)"), accounts.c.account_id)
Index("accounts_user_id_idx", text("lower(user_id)"), accounts.c.account_id)
Index("accounts_debt_idx", accounts.c.debt, postgresql_where=accounts.c.debt > 0)

limit_changes = _distributed(
    "limit_changes",
    ("n",),
    _col("n", Integer),
    _col("credit_limit", BigInteger),
    _col("reason", Text),
    _col("at", InstantType),
    _col("key_id", Text),
    _col("mac", BytesType),
    append_only=True,
)

grants = _distributed(
    "grants",
    ("id",),
    _col("id", Uuid),
    _col("kind", Text),
    _col("priority", SmallInteger),
    _col("amount", BigInteger),
    _col("effective_at", InstantType),
    _col("expires_at", InstantType, nullable=True),
    _col("cost_basis", BigInteger, nullable=True),
    _col("reference", Text, nullable=True),
    _col("metadata", JSONB),
    _col("created_at", InstantType),
    _col("remaining", BigInteger),
    _col("held", BigInteger),
    _col("state", Text),
    Column("announced", Boolean, nullable=False, server_default="false"),
    _col("terms_key", Text, nullable=True),
    _col("terms_mac", BytesType, nullable=True),
    UniqueConstraint("account_id", "reference"),
    _of_account(table="accounts"),
)
Index("grants_unspent_idx", grants.c.account_id, postgresql_where=(grants.c.remaining > 0))
Index(
    "grants_expiring_idx",
    grants.c.expires_at,
    postgresql_where=grants.c.expires_at.is_not(None) & ~grants.c.announced,
)

rate_cards = _table(
    "rate_cards",
    REFERENCE,
    Column("id", Uuid, primary_key=True),
    _col("name", Text),
    _col("version", Integer),
    _col("document", JSONB),
    _col("effective_at", InstantType),
    _col("match_persona", Text, nullable=True),
    _col("match_scenario", Text, nullable=True),
    _col("created_at", InstantType),
    UniqueConstraint("name", "version"),
)

sessions = _distributed(
    "sessions",
    ("id",),
    _col("id", Uuid),
    _col("provider_session_id", Text, nullable=True),
    _col("start_key", BytesType, nullable=True),
    _col("persona", Text),
    _col("scenario", Text),
    _col("metadata", JSONB),
    _col("state", Text),
    Column("rate_card_id", Uuid, ForeignKey("rate_cards.id"), nullable=False),
    _col("charge_from", Text, nullable=True),
    _col("time_limit", BigInteger),
    _col("authorized", BigInteger),
    _col("accrued", BigInteger),
    _col("charged", BigInteger, nullable=True),
    _col("leakage", BigInteger, nullable=True),
    Column("written_off", Boolean, nullable=False, server_default="false"),
    _col("anomalies", ARRAY(Text)),
    _col("requested_at", InstantType),
    _col("started_at", InstantType, nullable=True),
    _col("over_at", InstantType, nullable=True),
    _col("settled_at", InstantType, nullable=True),
    _col("steps", Integer),
    _col("due_at", InstantType, nullable=True),
    _col("lease_token", Uuid, nullable=True),
    _col("lease_until", InstantType, nullable=True),
    _col("attempts", Integer),
    _col("failing_since", InstantType, nullable=True),
    _col("hold_until", InstantType, nullable=True),
    _col("accepted_snapshot", Integer, nullable=True),
    _col("ended_at", InstantType, nullable=True),
    UniqueConstraint("account_id", "provider_session_id"),
    UniqueConstraint("account_id", "start_key"),
    _of_account(table="accounts"),
)
Index("sessions_due_at_idx", sessions.c.due_at, postgresql_where=sessions.c.due_at.is_not(None))
RUNNING: Final = ("starting", "unconfirmed", "live", "over", "review")
"""States of sessions that may still cost something, as the index of them has it."""
Index("sessions_leakage_idx", sessions.c.settled_at, postgresql_where=sessions.c.leakage > 0)
Index("sessions_running_idx", sessions.c.account_id, postgresql_where=sessions.c.state.in_(RUNNING))
Index(
    "sessions_state_idx",
    sessions.c.state,
    sessions.c.requested_at,
    sessions.c.id,
    postgresql_where=sessions.c.state != "settled",
)
Index(
    "sessions_provider_session_id_idx",
    sessions.c.provider_session_id,
    postgresql_where=sessions.c.provider_session_id.is_not(None),
)
Index(
    "sessions_settled_idx",
    sessions.c.account_id,
    sessions.c.id,
    sessions.c.settled_at,
    postgresql_where=sessions.c.settled_at.is_not(None),
)
Index("sessions_requested_at_idx", sessions.c.requested_at, sessions.c.id)
Index("sessions_account_requested_at_idx", sessions.c.account_id, sessions.c.requested_at, sessions.c.id)
_STARTED: Final = sessions.c.started_at.is_not(None)
Index("sessions_started_at_idx", sessions.c.started_at, sessions.c.id, postgresql_where=_STARTED)
Index(
    "sessions_account_started_at_idx",
    sessions.c.account_id,
    sessions.c.started_at,
    sessions.c.id,
    postgresql_where=_STARTED,
)
Index(
    "sessions_state_started_at_idx",
    sessions.c.state,
    sessions.c.started_at,
    sessions.c.id,
    postgresql_where=(sessions.c.state != "settled") & _STARTED,
)

session_steps = _distributed(
    "session_steps",
    ("session_id", "n"),
    _col("session_id", Uuid),
    _col("n", Integer),
    _col("from_state", Text, nullable=True),
    _col("to_state", Text),
    _col("why", Text),
    _col("at", InstantType),
    _of_account("session_id", table="sessions"),
    append_only=True,
)

holds = _distributed(
    "holds",
    ("session_id",),
    _col("session_id", Uuid),
    _col("amount", BigInteger),
    _col("state", Text),
    _col("changes", Integer),
    _col("resolved_at", InstantType, nullable=True),
    _of_account("session_id", table="sessions"),
)

hold_lines = _distributed(
    "hold_lines",
    ("session_id", "line"),
    _col("session_id", Uuid),
    _col("line", SmallInteger),
    _col("grant_id", Uuid, nullable=True),
    _col("amount", BigInteger),
    ForeignKeyConstraint(["account_id", "session_id"], ["holds.account_id", "holds.session_id"]),
    ForeignKeyConstraint(["account_id", "grant_id"], ["grants.account_id", "grants.id"]),
)
Index(
    "hold_lines_credit_idx",
    hold_lines.c.account_id,
    postgresql_where=hold_lines.c.grant_id.is_(None) & (hold_lines.c.amount > 0),
)

hold_changes = _distributed(
    "hold_changes",
    ("session_id", "n"),
    _col("session_id", Uuid),
    _col("n", Integer),
    _col("delta", BigInteger),
    _col("held_after", BigInteger),
    _col("why", Text),
    _col("at", InstantType),
    _col("seq", BigInteger),
    UniqueConstraint("account_id", "seq"),
    ForeignKeyConstraint(["account_id", "session_id"], ["holds.account_id", "holds.session_id"]),
    append_only=True,
)
Index("hold_changes_at_idx", hold_changes.c.account_id, hold_changes.c.at, hold_changes.c.seq)

entries = _distributed(
    "entries",
    ("id",),
    _col("id", Uuid),
    _col("seq", BigInteger),
    _col("natural_key", Text),
    _col("kind", Text),
    _col("amount", BigInteger),
    _col("balance_after", BigInteger),
    _col("session_id", Uuid, nullable=True),
    _col("grant_id", Uuid, nullable=True),
    _col("reverses", Uuid, nullable=True),
    _col("reason", Text, nullable=True),
    _col("reference", Text, nullable=True),
    _col("created_at", InstantType),
    _col("key_id", Text),
    _col("mac", BytesType),
    UniqueConstraint("account_id", "seq"),
    UniqueConstraint("account_id", "natural_key"),
    _of_account(table="accounts"),
    append_only=True,
)
Index(
    "entries_session_idx",
    entries.c.account_id,
    entries.c.session_id,
    postgresql_where=entries.c.session_id.is_not(None),
)
Index(
    "entries_grant_idx",
    entries.c.account_id,
    entries.c.grant_id,
    entries.c.seq,
    postgresql_where=entries.c.grant_id.is_not(None),
)
Index("entries_created_at_idx", entries.c.account_id, entries.c.created_at, entries.c.seq)
Index("entries_kind_idx", entries.c.account_id, entries.c.kind, entries.c.seq)

# Entries are only added, so those of a stretch of time lie together: a few kilobytes find them.
Index("entries_by_time_idx", entries.c.created_at, postgresql_using="brin")

postings = _distributed(
    "postings",
    ("entry_id", "leg"),
    _col("entry_id", Uuid),
    _col("leg", SmallInteger),
    _col("ledger_account", Text),
    _col("amount", BigInteger),
    _of_account("entry_id", table="entries"),
    append_only=True,
)

funding = _distributed(
    "funding",
    ("entry_id", "line"),
    _col("entry_id", Uuid),
    _col("line", SmallInteger),
    _col("debit_entry_id", Uuid),
    _col("grant_id", Uuid, nullable=True),
    _col("amount", BigInteger),
    _of_account("entry_id", table="entries"),
    append_only=True,
)
Index("funding_debit_entry_idx", funding.c.account_id, funding.c.debit_entry_id)
Index(
    "funding_credit_idx",
    funding.c.account_id,
    funding.c.debit_entry_id,
    postgresql_where=funding.c.grant_id.is_(None),
)

ticks = _distributed(
    "ticks",
    ("session_id", "received_at", "id"),
    _col("session_id", Uuid),
    _col("received_at", InstantType),
    _col("id", BigInteger),
    _col("extra", Text, nullable=True),
)

snapshots = _distributed(
    "snapshots",
    ("session_id", "n"),
    _col("session_id", Uuid),
    _col("n", Integer),
    _col("requested_at", InstantType),
    _col("received_at", InstantType),
    _col("timeline", BigInteger),
    _col("speech", BigInteger),
    _col("last_type", Text, nullable=True),
    _col("digest", BytesType),
    _col("shared_values", Integer),
    _col("other_values", BytesType),
    _col("page_digests", ARRAY(BytesType), nullable=True),
    _of_account("session_id", table="sessions"),
    append_only=True,
)

raw_bodies = _distributed(
    "raw_bodies",
    ("session_id", "digest"),
    _col("session_id", Uuid),
    _col("digest", BytesType),
    _col("page", Integer),
    _col("status", SmallInteger),
    _col("content_type", Text, nullable=True),
    _col("received_at", InstantType),
    _col("size", BigInteger),
    _col("redacted", Boolean),
    _col("body", BytesType),
    _of_account("session_id", table="sessions"),
)
Index("raw_bodies_received_at_idx", raw_bodies.c.received_at)

failed_pulls = _distributed(
    "failed_pulls",
    ("session_id", "slot"),
    _col("session_id", Uuid),
    _col("slot", SmallInteger),
    _col("n", BigInteger),
    _col("digest", BytesType),
    _col("failure", Text),
    _col("detail", Text),
    _col("first_at", InstantType),
    _col("last_at", InstantType),
    _col("times", BigInteger),
    _col("pages", JSONB),
    _col("bodies", BytesType),
    _of_account("session_id", table="sessions"),
)
Index("failed_pulls_last_at_idx", failed_pulls.c.last_at)

charges = _distributed(
    "charges",
    ("session_id", "version"),
    _col("session_id", Uuid),
    _col("version", Integer),
    _col("engine_version", Text),
    _col("evidence_digest", BytesType),
    _col("snapshot_n", Integer),
    _col("ticks", BytesType),
    _col("amount", BigInteger),
    _col("beyond_authorization", BigInteger),
    _col("document", BytesType),
    _col("entry_id", Uuid, nullable=True),
    _col("created_at", InstantType),
    Column("rate_card_id", Uuid, ForeignKey("rate_cards.id"), nullable=True),
    _col("accepted_snapshot", Integer, nullable=True),
    _of_account("session_id", table="sessions"),
    append_only=True,
)

idempotency = _distributed(
    "idempotency",
    ("key_hash",),
    _col("key_hash", BytesType),
    _col("request_hash", BytesType),
    _col("state", Text),
    _col("session_id", Uuid, nullable=True),
    _col("status", SmallInteger, nullable=True),
    _col("body", BytesType, nullable=True),
    _col("sealed", BytesType, nullable=True),
    _col("created_at", InstantType),
    _col("purge_at", InstantType),
)
Index("idempotency_purge_at_idx", idempotency.c.purge_at)
Index("idempotency_sealed_idx", idempotency.c.created_at, postgresql_where=idempotency.c.sealed.is_not(None))

events = _distributed(
    "events",
    ("id",),
    _col("id", Uuid),
    _col("seq", BigInteger),
    _col("type", Text),
    _col("data", JSONB),
    _col("created_at", InstantType),
    UniqueConstraint("account_id", "seq"),
    append_only=True,
)

Index("events_created_at_idx", events.c.created_at, events.c.id)
Index("events_type_idx", events.c.type, events.c.created_at, events.c.id)

outboxes = _distributed("outboxes", (), _col("event_seq", BigInteger), _col("dispatched_seq", BigInteger))
"""How many events there are of what belongs to no account, which has no row of its own for that."""

deliveries = _distributed(
    "deliveries",
    ("event_id", "endpoint_id"),
    _col("event_id", Uuid),
    Column("endpoint_id", Uuid, ForeignKey("endpoints.id"), nullable=False),
    _col("state", Text),
    _col("attempts", Integer),
    _col("due_at", InstantType, nullable=True),
    _col("last_status", SmallInteger, nullable=True),
    _col("last_error", Text, nullable=True),
    _col("created_at", InstantType),
    Column("total_attempts", Integer, nullable=False, server_default="0"),
    _col("last_at", InstantType, nullable=True),
    _col("finished_at", InstantType, nullable=True),
    _col("lease_token", Uuid, nullable=True),
    _col("lease_until", InstantType, nullable=True),
    _of_account("event_id", table="events"),
)
Index(
    "deliveries_due_idx",
    deliveries.c.endpoint_id,
    deliveries.c.due_at,
    postgresql_where=deliveries.c.state == "waiting",
)
Index("deliveries_endpoint_idx", deliveries.c.endpoint_id, deliveries.c.created_at, deliveries.c.event_id)
Index(
    "deliveries_dead_idx",
    deliveries.c.created_at,
    deliveries.c.event_id,
    deliveries.c.endpoint_id,
    postgresql_where=deliveries.c.state == "dead",
)
Index(
    "deliveries_finished_at_idx",
    deliveries.c.finished_at,
    postgresql_where=and_(deliveries.c.finished_at.is_not(None), deliveries.c.state != "dead"),
)

delivery_attempts = _distributed(
    "delivery_attempts",
    ("event_id", "endpoint_id", "id"),
    _col("event_id", Uuid),
    _col("endpoint_id", Uuid),
    _col("id", Uuid),
    _col("at", InstantType),
    _col("took", BigInteger),
    _col("status", SmallInteger, nullable=True),
    _col("error", Text, nullable=True),
    _col("body", BytesType, nullable=True),
    _col("counted", Boolean),
    _of_account("event_id", "endpoint_id", table="deliveries"),
)

payments = _distributed(
    "payments",
    ("id",),
    _col("id", Uuid),
    _col("reference", Text),
    _col("state", Text),
    _col("attention", Text, nullable=True),
    _col("user_id", Text, nullable=True),
    _col("user_account", Uuid, nullable=True),
    _col("grant_id", Uuid, nullable=True),
    _col("credits", BigInteger, nullable=True),
    _col("amount", BigInteger, nullable=True),
    _col("currency", Text, nullable=True),
    _col("charged", BigInteger),
    _col("refunded", BigInteger),
    _col("disputes", JSONB),
    _col("taken", BigInteger),
    _col("moves", Integer),
    _col("created_at", InstantType),
    _col("changed_at", InstantType),
)
"""Of the nil account: whose a payment is, is known only once somebody has said so."""
Index("payments_created_at_idx", payments.c.created_at, payments.c.id)
Index(
    "payments_attention_idx",
    payments.c.created_at,
    payments.c.id,
    postgresql_where=payments.c.attention.is_not(None),
)
Index(
    "payments_user_idx",
    payments.c.user_account,
    payments.c.created_at,
    payments.c.id,
    postgresql_where=payments.c.user_account.is_not(None),
)

payment_events = _distributed(
    "payment_events",
    ("id",),
    _col("id", Text),
    _col("payment_id", Uuid),
    _col("type", Text),
    _col("created_at", InstantType),
    _col("received_at", InstantType),
    _of_account("payment_id", table="payments"),
    append_only=True,
)
Index("payment_events_payment_idx", payment_events.c.payment_id, payment_events.c.received_at)

recurring_grants = _distributed(
    "recurring_grants",
    ("id",),
    _col("id", Uuid),
    _col("amount", BigInteger),
    _col("kind", Text),
    _col("priority", SmallInteger),
    _col("cost_basis", BigInteger, nullable=True),
    _col("metadata", JSONB),
    _col("period", Text),
    _col("starts_at", InstantType),
    _col("ends_at", InstantType, nullable=True),
    _col("periods", Integer, nullable=True),
    _col("leftover", Text),
    _col("rollover_cap", BigInteger, nullable=True),
    _col("state", Text),
    _col("next_n", Integer),
    _col("skipped", Integer),
    _col("due_at", InstantType, nullable=True),
    _col("created_at", InstantType),
    _col("changed_at", InstantType),
    _of_account(table="accounts"),
)
Index(
    "recurring_grants_due_idx",
    recurring_grants.c.due_at,
    recurring_grants.c.account_id,
    recurring_grants.c.id,
    postgresql_where=recurring_grants.c.due_at.is_not(None),
)

recurring_periods = _distributed(
    "recurring_periods",
    ("recurring_id", "n"),
    _col("recurring_id", Uuid),
    _col("n", Integer),
    _col("starts_at", InstantType),
    _col("amount", BigInteger),
    _col("grant_id", Uuid, nullable=True),
    _col("posted_at", InstantType),
    _of_account("recurring_id", table="recurring_grants"),
    _of_account("grant_id", table="grants"),
    append_only=True,
)

audit_log = _distributed(
    "audit_log",
    ("id",),
    _col("id", Uuid),
    _col("actor", Text),
    _col("action", Text),
    _col("target", Text),
    _col("before", JSONB, nullable=True),
    _col("after", JSONB, nullable=True),
    _col("reason", Text, nullable=True),
    _col("request_id", Text, nullable=True),
    _col("address", Text, nullable=True),
    _col("at", InstantType),
    append_only=True,
)

Index("audit_log_at_idx", audit_log.c.at, audit_log.c.id)
Index("audit_log_actor_idx", audit_log.c.actor, audit_log.c.at, audit_log.c.id)
Index("audit_log_action_idx", audit_log.c.action, audit_log.c.at, audit_log.c.id)
Index("audit_log_target_idx", audit_log.c.target, audit_log.c.at, audit_log.c.id)
Index(
    "audit_log_request_idx",
    audit_log.c.request_id,
    audit_log.c.at,
    audit_log.c.id,
    postgresql_where=audit_log.c.request_id.is_not(None),
)
security_events = _distributed(
    "security_events",
    ("session_id", "minute", "kind"),
    _col("session_id", Uuid),
    _col("minute", InstantType),
    _col("kind", Text),
    _col("count", BigInteger),
)

api_keys = _table(
    "api_keys",
    REFERENCE,
    Column("id", Uuid, primary_key=True),
    _col("name", Text),
    _col("key_hash", BytesType),
    _col("scopes", ARRAY(Text)),
    _col("created_at", InstantType),
    _col("expires_at", InstantType, nullable=True),
    _col("revoked_at", InstantType, nullable=True),
    UniqueConstraint("key_hash"),
)

endpoints = _table(
    "endpoints",
    REFERENCE,
    Column("id", Uuid, primary_key=True),
    _col("url", Text),
    _col("description", Text, nullable=True),
    _col("event_types", ARRAY(Text)),
    _col("secrets", BytesType),
    _col("state", Text),
    _col("created_at", InstantType),
    _col("failing_since", InstantType, nullable=True),
    _col("disabled_at", InstantType, nullable=True),
    _col("disabled_why", Text, nullable=True),
)

settings = _table(
    "settings", REFERENCE, Column("name", Text, primary_key=True), _col("value", JSONB), _col("changed_at", InstantType)
)

admin_users = _table(
    "admin_users",
    REFERENCE,
    Column("id", Uuid, primary_key=True),
    _col("name", Text),
    _col("password_hash", Text),
    _col("role", Text),
    _col("created_at", InstantType),
    _col("disabled_at", InstantType, nullable=True),
    UniqueConstraint("name"),
)

job_leases = _table(
    "job_leases",
    LOCAL,
    Column("job", Text, primary_key=True),
    _col("next_run_at", InstantType),
    _col("token", Uuid, nullable=True),
    _col("leased_until", InstantType, nullable=True),
)

provider_budget = _table(
    "provider_budget",
    LOCAL,
    Column("provider", Text, primary_key=True),
    _col("next_at", InstantType),
    _col("blocked_until", InstantType, nullable=True),
)

receiving = _table(
    "receiving",
    LOCAL,
    _col("process_id", Uuid),
    _col("from_at", InstantType),
    _col("to_at", InstantType),
    PrimaryKeyConstraint("process_id", "from_at"),
)

key_use = _table(
    "key_use",
    LOCAL,
    _col("key_id", Uuid),
    _col("day", Date),
    _col("last_used_at", InstantType),
    PrimaryKeyConstraint("key_id", "day"),
)

admin_sessions = _table(
    "admin_sessions",
    LOCAL,
    Column("token_hash", BytesType, primary_key=True),
    _col("admin", Text),
    _col("role", Text),
    _col("created_at", InstantType),
    _col("expires_at", InstantType),
)

simulations = _table(
    "simulations",
    LOCAL,
    Column("id", Uuid, primary_key=True),
    _col("state", Text),
    _col("request", JSONB),
    _col("result", JSONB, nullable=True),
    _col("progress", Integer),
    _col("created_at", InstantType),
    _col("total", Integer, nullable=True),
    _col("checkpoint", JSONB, nullable=True),
    _col("token", Uuid, nullable=True),
    Column("attempts", Integer, nullable=False, server_default="0"),
    _col("started_at", InstantType, nullable=True),
    _col("finished_at", InstantType, nullable=True),
    _col("failure", Text, nullable=True),
)
Index("simulations_created_at_idx", simulations.c.created_at, simulations.c.id)

exported_heads = _table(
    "exported_heads",
    LOCAL,
    Column("id", Uuid, primary_key=True),
    _col("accounts", BigInteger),
    _col("digest", BytesType),
    _col("created_at", InstantType),
)

verify_runs = _table(
    "verify_runs",
    LOCAL,
    Column("id", Uuid, primary_key=True),
    _col("started_at", InstantType),
    _col("finished_at", InstantType, nullable=True),
    _col("findings", JSONB, nullable=True),
)
