"""What commands share: the database that the settings name, and how results and faults are told."""

import asyncio
import getpass
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from typer import Option

from app.core.access import Actor
from app.core.ids import AccountThing, Kind, parse_public_id
from app.db.database import Database, disagreement
from app.db.migrate import schema_fault
from app.http.answers import encode
from app.http.csv_answers import Cell, csv_lines
from app.ports.clock import Clock, SystemClock
from app.running import database_of
from app.settings import BadSettings, Settings, load_settings

AsJson = Annotated[bool, Option("--json", help="Print JSON for scripts instead of tables.")]
AsCsv = Annotated[bool, Option("--csv", help="Print CSV instead of tables.")]
DataDir = Annotated[Path | None, Option(help="The embedded database's folder, for TALKTIME_DATA_DIR.")]

Result = TypeVar("Result")


def settings_with(data_dir: Path | None) -> Settings:
    """The settings, with another folder for the embedded database if one is given."""
    return load_settings(**({} if data_dir is None else {"data_dir": data_dir}))


def with_database(
    settings: Settings, work: Callable[[Database], Awaitable[Result]], *, existing: bool = False
) -> Result:
    """Do ``work`` on the database that the settings name; an embedded one is started for it if it is down.

    ``existing``: for work that only reads. Where there is no embedded database yet none is made; raises
    :class:`~app.db.embedded.EmbeddedPostgresError`. Raises :class:`~app.settings.BadSettings` for a database of
    one's own that cannot be worked on.
    """

    async def run(url: str) -> Result:
        database = Database(url, pool_size=1)
        try:
            return await work(database)
        finally:
            await database.close()

    with database_of(settings, existing=existing) as databases:
        if settings.database_url is not None and (fault := schema_fault(databases.service)) is not None:
            raise BadSettings(fault)
        return asyncio.run(run(databases.service))


async def clock_of(settings: Settings, database: Database) -> Clock:
    """The clock that the settings name; the system's follows the database's, like that of every other process."""
    clock = settings.make_clock()
    if isinstance(clock, SystemClock):
        before = clock.now()
        clock.adjust(disagreement(before, await database.clock(), clock.now()))
    return clock


def actor_here() -> Actor:
    """Who types the command, as the audit log keeps it: the system's user, if it has a name."""
    try:
        return Actor(f"cli:{getpass.getuser()}")
    except (KeyError, OSError):
        return Actor("cli")


def session_key_of(text: str) -> AccountThing:
    """Where the session with this public id lives; ends the command if it is no session's id."""
    key = parse_public_id(Kind.SESSION, text)
    if key is None:
        fail(f"{text!r} is no session's id: those begin with ses_ and have 56 characters")
    return key


def one_form(*, as_csv: bool, as_json: bool) -> None:
    if as_csv and as_json:
        fail("--csv or --json, not both")


def print_csv(rows: Iterable[Sequence[Cell]]) -> None:
    typer.echo(csv_lines(rows), nl=False)


def print_json(document: dict[str, Any]) -> None:
    typer.echo(encode(document).decode())


def fail(message: str) -> NoReturn:
    """End the command with a message and exit code 2."""
    typer.echo(message, err=True)
    raise typer.Exit(2)
