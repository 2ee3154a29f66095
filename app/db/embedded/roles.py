"""The two roles and their database: ``talktime_owner`` owns and migrates, ``talktime_service`` does the daily work.

Nothing is granted to everybody: the migrations grant the service each right that it has. All of it may run again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg
from psycopg import sql

OWNER: Final = "talktime_owner"
SERVICE: Final = "talktime_service"
SUPERUSER: Final = "postgres"
DATABASE: Final = "talktime"


@dataclass(frozen=True)
class DatabaseUrls:
    """``postgresql://`` URLs for SQLAlchemy (psycopg) and for libpq alike."""

    owner: str
    """For migrations: may create and alter everything in the database."""
    service: str
    """For the service: may connect and do what the migrations grant it."""
    superuser: str
    """For tests and rescue only; the database ``postgres``."""


def socket_urls(folder: Path, port: int, *, database: str = DATABASE) -> DatabaseUrls:
    """The URLs of a server that listens on a Unix socket in ``folder``."""

    def url(role: str, name: str) -> str:
        return f"postgresql://{role}@/{name}?host={quote(str(folder), safe='')}&port={port}"

    return DatabaseUrls(
        owner=url(OWNER, database), service=url(SERVICE, database), superuser=url(SUPERUSER, "postgres")
    )


def ensure_owner(connection: psycopg.Connection, *, password: str | None = None) -> None:
    """Make the owner's role. ``connection``: a superuser's, to any database."""
    _ensure_role(connection, OWNER, password)


def ensure_database(connection: psycopg.Connection, name: str = DATABASE) -> None:
    """Make the owner's database. ``connection``: a superuser's in autocommit mode, to another database."""
    if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
        statement = sql.SQL("CREATE DATABASE {} OWNER {} ENCODING 'UTF8' TEMPLATE template0")
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(OWNER)))


def drop_database(connection: psycopg.Connection, name: str = DATABASE) -> None:
    """Drop a database if there is one, whoever is connected to it. ``connection``: a superuser's, to another one."""
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def ensure_service(connection: psycopg.Connection, *, password: str | None = None) -> None:
    """Make the service's role and let it, and nobody else, into the database that ``connection`` is connected to.

    ``connection``: a superuser's. In one transaction: a service that can connect finds everything in place.
    """
    with connection.transaction():
        _ensure_role(connection, SERVICE, password)
        restrict_database(connection)
        schema = sql.SQL(
            "ALTER SCHEMA public OWNER TO {owner}; REVOKE ALL ON SCHEMA public FROM PUBLIC;"
            "GRANT USAGE ON SCHEMA public TO {service}"
        )
        connection.execute(schema.format(owner=sql.Identifier(OWNER), service=sql.Identifier(SERVICE)))


def restrict_database(connection: psycopg.Connection) -> None:
    """Grant the service CONNECT on the connected database and take everything from PUBLIC.

    A database made from a template does not inherit this, unlike all that is inside the template.
    """
    statement = sql.SQL("REVOKE ALL ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO {service}")
    name = sql.Identifier(connection.info.dbname)
    connection.execute(statement.format(name=name, service=sql.Identifier(SERVICE)))


def _ensure_role(connection: psycopg.Connection, name: str, password: str | None) -> None:
    exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone() is not None
    statement = sql.SQL("{} ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS {}").format(
        sql.SQL("ALTER" if exists else "CREATE"),
        sql.Identifier(name),
        sql.SQL("") if password is None else sql.SQL("PASSWORD {}").format(sql.Literal(password)),
    )
    connection.execute(statement)
