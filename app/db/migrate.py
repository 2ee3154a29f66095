"""Bringing a database's schema to the version of this code, as its owner."""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, make_url
from sqlalchemy.exc import OperationalError, ProgrammingError

_MIGRATIONS: Final = Path(__file__).resolve().parents[2] / "migrations"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def expected_version() -> str:
    """The schema version that this code was written for."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise RuntimeError("this installation holds no migrations")
    return head


def current_version(connection: Connection) -> str | None:
    """The schema version of a database; null if it was never migrated."""
    return MigrationContext.configure(connection).get_current_revision()


def schema_fault(url: str) -> str | None:
    """Why the database at ``url`` cannot be served from; null if its schema is of this version."""
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    try:
        with engine.connect() as connection:
            found = current_version(connection)
    except OperationalError:
        return "the database cannot be reached: check TALKTIME_DATABASE_URL, and that it is up"
    except ProgrammingError:
        return "the database's schema cannot be read by the role of TALKTIME_DATABASE_URL: talktime migrate"
    finally:
        engine.dispose()
    if found == expected_version():
        return None
    return f"the database's schema is at version {found or 'nothing'}, {expected_version()} is needed: talktime migrate"


def migrate(owner_url: str, service_role: str | None) -> tuple[str | None, str]:
    """Run the missing migrations; answer the versions before and after.

    ``service_role`` receives the service's rights; null where one role is both owner and service, so that only triggers
    protect the ledger.
    """
    engine = create_engine(make_url(owner_url).set(drivername="postgresql+psycopg"))
    try:
        with engine.connect() as connection:
            before = current_version(connection)
            connection.rollback()
            config = _config()
            config.attributes["connection"] = connection
            config.attributes["service_role"] = service_role
            command.upgrade(config, "head")
            connection.commit()
            after = current_version(connection)
    finally:
        engine.dispose()
    return before, after or expected_version()
