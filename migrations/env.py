"""Runs migrations: online on the owner's connection, offline as SQL text.

Locks are waited for briefly and statements end in bounded time, so that a migration gives way to the service and not
the other way round.
"""

from alembic import context
from sqlalchemy import Connection, text

from app.db.tables import metadata

LOCK_TIMEOUT_MS = 2_000
STATEMENT_TIMEOUT_MS = 300_000


def _limit_waits(connection: Connection) -> None:
    connection.execute(text(f"set lock_timeout = {LOCK_TIMEOUT_MS}"))
    connection.execute(text(f"set statement_timeout = {STATEMENT_TIMEOUT_MS}"))
    connection.commit()


def run_online() -> None:
    connection: Connection = context.config.attributes["connection"]
    _limit_waits(connection)
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


def run_offline() -> None:
    context.configure(
        dialect_name="postgresql",
        # Or the driver's style would double every percent sign in the printed functions.
        dialect_opts={"paramstyle": "named"},
        target_metadata=metadata,
        literal_binds=True,
        transaction_per_migration=True,
    )
    context.execute(f"set lock_timeout = {LOCK_TIMEOUT_MS}")
    context.execute(f"set statement_timeout = {STATEMENT_TIMEOUT_MS}")
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
