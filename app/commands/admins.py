"""``talktime admins``: who may sign in to the admin's pages by name and password."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from typer import Argument, Option

from app.access.admins import (
    Admin,
    NewAdminDocument,
    PasswordDocument,
    Passwords,
    all_admins,
    change_admin,
    change_password,
    create_admin,
)
from app.access.sign_in_links import LONGEST, SignInLink, make_link
from app.commands.common import AsJson, DataDir, actor_here, clock_of, print_json, settings_with, with_database
from app.core.access import Role
from app.core.units import US_PER_S, Instant, Micros, format_instant
from app.db.database import Database, Transaction
from app.documents import validate
from app.ports.ids import Ids, TimeOrderedIds
from app.ports.randomness import SystemRandomness
from app.terminal import show_admins
from app.web.sign_in import LINK

admins = typer.Typer(
    name="admins", help="Who may sign in to the admin's pages by name and password.", no_args_is_help=True
)

US_PER_MINUTE: Final = 60 * US_PER_S

Name = Annotated[str, Argument(help="The name to sign in with.")]
FromInput = Annotated[
    bool, Option("--password-stdin", help="Read the password from standard input instead of asking for it twice.")
]
Work = Callable[[Transaction, Ids, Instant], Awaitable[Admin]]


@admins.command()
def create(
    name: Name,
    role: Annotated[Role, Option(help="full: may change things; read-only: may look.")] = Role.READ_ONLY,
    from_input: FromInput = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make an account; asks for its password."""
    given = {"name": name, "password": _password(from_input=from_input), "role": role.value}
    asked = validate(NewAdminDocument, given)
    hashed = _hashed(asked.password)

    async def work(transaction: Transaction, ids: Ids, now: Instant) -> Admin:
        return await create_admin(transaction, ids, asked.name, asked.role, hashed, now=now, actor=actor_here())

    _write(work, data_dir, as_json=as_json)


@admins.command()
def password(name: Name, from_input: FromInput = False, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Give an account another password; whoever is signed in with it is signed out."""
    asked = validate(PasswordDocument, {"password": _password(from_input=from_input)})
    hashed = _hashed(asked.password)

    async def work(transaction: Transaction, ids: Ids, now: Instant) -> Admin:
        return await change_password(transaction, ids, name, hashed, now=now, actor=actor_here())

    _write(work, data_dir, as_json=as_json)


@admins.command("role")
def change_role(
    name: Name,
    role: Annotated[Role, Argument(help="full or read-only.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Give an account another role, from its next click on."""

    async def work(transaction: Transaction, ids: Ids, now: Instant) -> Admin:
        return await change_admin(transaction, ids, name, now=now, actor=actor_here(), role=role)

    _write(work, data_dir, as_json=as_json)


@admins.command()
def disable(name: Name, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Close an account; it is signed out at once."""
    _close(name, data_dir, disabled=True, as_json=as_json)


@admins.command()
def enable(name: Name, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Open an account again that was closed."""
    _close(name, data_dir, disabled=False, as_json=as_json)


@admins.command("sign-in-link")
def sign_in_link(
    name: Name,
    minutes: Annotated[int, Option(min=1, max=LONGEST // US_PER_MINUTE, help="How long it may be used.")] = 10,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print a link that signs an account in, once, and is good for minutes only: give it to nobody else."""
    settings = settings_with(data_dir)

    async def write(database: Database) -> SignInLink:
        clock, randomness = await clock_of(settings, database), SystemRandomness()
        ids, lasts = TimeOrderedIds(clock, randomness), Micros(minutes * US_PER_MINUTE)
        async with database.transaction() as transaction:
            return await make_link(transaction, ids, randomness, name, now=clock.now(), actor=actor_here(), lasts=lasts)

    link = with_database(settings, write, existing=True)
    url, until = f"{settings.public_url}{LINK}?token={link.token}", format_instant(link.expires_at)
    if as_json:
        print_json({"url": url, "expires_at": until})
        return
    typer.echo(url)
    typer.echo(f"It signs {name} in, once, until {until}.", err=True)


@admins.command("list")
def list_admins(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show all accounts."""
    settings = settings_with(data_dir)

    async def read(database: Database) -> list[Admin]:
        async with database.reading() as transaction:
            return await all_admins(transaction)

    _show(with_database(settings, read, existing=True), as_json=as_json)


def _close(name: str, data_dir: DataDir, *, disabled: bool, as_json: bool) -> None:
    async def work(transaction: Transaction, ids: Ids, now: Instant) -> Admin:
        return await change_admin(transaction, ids, name, now=now, actor=actor_here(), disabled=disabled)

    _write(work, data_dir, as_json=as_json)


def _write(work: Work, data_dir: DataDir, *, as_json: bool) -> None:
    settings = settings_with(data_dir)

    async def write(database: Database) -> Admin:
        clock = await clock_of(settings, database)
        async with database.transaction() as transaction:
            return await work(transaction, TimeOrderedIds(clock, SystemRandomness()), clock.now())

    _show([with_database(settings, write)], as_json=as_json)


def _show(found: list[Admin], *, as_json: bool) -> None:
    documents: list[dict[str, Any]] = [admin.document for admin in found]
    if as_json:
        print_json({"data": documents})
    else:
        show_admins(Console(), documents)


def _password(*, from_input: bool) -> str:
    if from_input:
        return typer.get_text_stream("stdin").readline().rstrip("\r\n")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))


def _hashed(password: str) -> str:
    return asyncio.run(Passwords(SystemRandomness()).hash(password))
