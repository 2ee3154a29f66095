"""The ``talktime`` command."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from sqlalchemy.exc import OperationalError
from typer import Argument, Option

from app import __version__
from app.commands.admins import admins
from app.commands.common import AsJson, DataDir, fail, print_json, session_key_of, settings_with, with_database
from app.commands.evidence import check_file
from app.commands.finance import finance
from app.commands.keys import keys
from app.commands.ledger import balance, grant, statement
from app.commands.replay import replay
from app.commands.simulation import simulate
from app.commands.verification import export, verify
from app.core.outages import Outage
from app.core.rate_card import RateCard
from app.core.units import Instant
from app.db.database import Database, DatabaseUnavailable, DatabaseUnfit, Transaction
from app.db.embedded import EmbeddedPostgresError
from app.db.migrate import migrate as run_migrations
from app.demo.command import demo
from app.errors import Problem
from app.pictures import SessionPicture, draw
from app.pricing.cards import default_card, find_card
from app.pricing.preview import card_of, preview, rate_document, read_preview
from app.receiving import load_outages
from app.running import database_of
from app.running import serve as run_server
from app.settings import BadSettings, Settings, load_settings
from app.settlement.explained import charge_document, load_explained, picture_of
from app.simulator.command import gabber_sim
from app.terminal import show_charge

cli = typer.Typer(
    name="talktime",
    help="Prepaid credits for real-time voice AI sessions.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
cli.command("demo")(demo)
cli.command("gabber-sim")(gabber_sim)
cli.command("grant")(grant)
cli.command("balance")(balance)
cli.command("statement")(statement)
cli.command("finance")(finance)
cli.command("verify")(verify)
cli.command("replay")(replay)
cli.command("check-evidence")(check_file)
cli.command("simulate")(simulate)
cli.add_typer(export)
cli.add_typer(admins)
cli.add_typer(keys)


@cli.command()
def serve(
    host: Annotated[str, Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Option(min=1, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Serve the API, the webhook and reconciliation, until stopped."""
    settings = load_settings()
    missing = [
        name
        for name, value in {
            "TALKTIME_GABBER_API_KEY": settings.gabber_api_key,
            "TALKTIME_SECRET": settings.secret,
        }.items()
        if not value
    ]
    if settings.database_url is not None and not settings.ledger_keys:
        missing.append("TALKTIME_LEDGER_KEYS (with a database of your own)")
    if missing:
        fail("required and not set: " + ", ".join(missing) + "\nTo try Talktime without a provider: talktime demo")
    run_server(settings, host, port)


@cli.command()
def migrate(as_json: AsJson = False) -> None:
    """Bring the database to this version's schema."""
    settings = load_settings()
    with database_of(settings) as databases:
        before, after = run_migrations(databases.owner, databases.service_role)
    if as_json:
        print_json({"before": before, "after": after})
    elif before == after:
        typer.echo(f"The schema is at version {after} already.")
    else:
        typer.echo(f"The schema went from version {before or 'nothing'} to {after}.")


@cli.command()
def rate(
    file: Annotated[Path, Argument(help="A preview's request as JSON, see docs/charging.md; - for standard input.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Rate the session in a JSON file: what it costs, and why."""
    try:
        body = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    document = read_preview(body)
    named = card_of(document)
    if isinstance(named, str):
        settings = settings_with(data_dir)
        card = with_database(settings, lambda database: _stored_card(database, settings, named), existing=True)
        result = rate_document(document, card)
    else:
        result = preview(body)
    _show(result, as_json=as_json)


async def _stored_card(database: Database, settings: Settings, named: str) -> RateCard:
    now = settings.make_clock().now()
    async with database.reading() as transaction:
        card = await find_card(transaction, named, now)
        if card is None:
            names = await default_card(transaction, now)
            fail(f"there is no rate card {named!r}; {names.public_id} is the default")
    return card.card


@cli.command()
def explain(
    session: Annotated[str, Argument(help="A session's id: ses_…")],
    svg: Annotated[Path | None, Option(help="Write its picture to this file instead; - for standard output.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Explain what a session costs, bucket by bucket."""
    if svg is not None and as_json:
        raise typer.BadParameter("is a picture or a document, not both", param_hint="--svg")
    key = session_key_of(session)
    settings = settings_with(data_dir)
    clock = settings.make_clock()

    async def outages(transaction: Transaction, since: Instant) -> Sequence[Outage]:
        return await load_outages(transaction, since, clock.now())

    async def read(database: Database) -> tuple[dict[str, Any], SessionPicture]:
        async with database.reading() as transaction:
            explained = await load_explained(transaction, key, outages)
            window = settings.rerate_window_s
            document = await charge_document(transaction, explained, now=clock.now(), rerate_window=window)
            return document, picture_of(explained)

    document, picture = with_database(settings, read, existing=True)
    if svg is None:
        _show(document, as_json=as_json)
    elif str(svg) == "-":
        typer.echo(draw(picture), nl=False)
    else:
        try:
            svg.write_text(draw(picture), encoding="utf-8")
        except OSError as error:
            fail(f"{svg}: {error.strerror}")


def _show(document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        show_charge(Console(), document)


@cli.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command; every expected error is a message and not a trace."""
    try:
        cli()
    except BadSettings as error:
        typer.echo(f"The settings cannot be used:\n{error}", err=True)
    except Problem as problem:
        typer.echo(problem.detail, err=True)
        for place in problem.errors:
            typer.echo(f"  {place.pointer or '(document)'}: {place.detail}", err=True)
    except EmbeddedPostgresError as error:
        typer.echo(str(error), err=True)
    except OperationalError as error:
        told = str(error.orig).partition("\n")[0]
        typer.echo(f"The database cannot be used: {told}", err=True)
    except DatabaseUnfit as error:
        typer.echo(f"The database is not as it must be: {error}. talktime migrate", err=True)
    except DatabaseUnavailable:
        typer.echo("The database cannot be reached: check TALKTIME_DATABASE_URL, and that it is up.", err=True)
    else:
        return
    sys.exit(2)


if __name__ == "__main__":
    main()
