"""``talktime keys``: API keys from the command line, which needs none: so the first one is made."""

from typing import Annotated, Any

import typer
from rich.console import Console
from typer import Argument, Option

from app.access.keys import NewKeyDocument, create_key, keys_page, revoke_key
from app.commands.common import (
    AsJson,
    DataDir,
    actor_here,
    clock_of,
    fail,
    print_json,
    settings_with,
    with_database,
)
from app.core.access import Scope
from app.core.ids import Kind, parse_reference_id
from app.db.database import Database
from app.documents import validate
from app.http.pages import DEFAULT_LIMIT, MAX_LIMIT
from app.ports.ids import TimeOrderedIds
from app.ports.randomness import SystemRandomness
from app.terminal import show_key, show_keys

keys = typer.Typer(name="keys", help="Make, list and revoke API keys.", no_args_is_help=True)


@keys.command()
def create(
    name: Annotated[str, Argument(help="What the key is for, to recognise it by.")],
    scope: Annotated[list[Scope], Option(help="What it may do; may be given several times. admin is everything.")],
    expires_at: Annotated[str | None, Option(help="An RFC 3339 instant; never if absent.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key, and print its secret, this once."""
    given: dict[str, Any] = {"name": name, "scopes": [str(each) for each in scope]}
    asked = validate(NewKeyDocument, given if expires_at is None else {**given, "expires_at": expires_at})
    settings = settings_with(data_dir)

    async def write(database: Database) -> tuple[dict[str, Any], str]:
        clock = await clock_of(settings, database)
        randomness = SystemRandomness()
        async with database.transaction() as transaction:
            return await create_key(
                transaction,
                TimeOrderedIds(clock, randomness),
                randomness,
                asked,
                now=clock.now(),
                actor=actor_here(),
            )

    document, secret = with_database(settings, write)
    if as_json:
        print_json({**document, "secret": secret})
    else:
        show_key(Console(), document)
        typer.echo(f"{secret}\nThat is the key. It is shown this once and kept nowhere: put it where it is needed now.")


@keys.command("list")
def list_keys(
    limit: Annotated[int, Option(min=1, max=MAX_LIMIT, help="How many keys.")] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Option(help="Go on from here: next_cursor of the page before.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the API keys, newest first, revoked and expired ones too; never their secrets."""
    settings = settings_with(data_dir)

    async def read(database: Database) -> dict[str, Any]:
        async with database.reading() as transaction:
            return await keys_page(transaction, limit=limit, cursor=cursor)

    document = with_database(settings, read, existing=True)
    if as_json:
        print_json(document)
    else:
        show_keys(Console(), document)


@keys.command()
def revoke(
    key: Annotated[str, Argument(help="The key's id: key_…")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Revoke an API key: it is refused everywhere from now on."""
    key_id = parse_reference_id(Kind.API_KEY, key)
    if key_id is None:  # which may be a secret: it is not repeated
        fail("that is no key's id: those begin with key_ and have 30 characters; talktime keys list shows them")
    settings = settings_with(data_dir)

    async def write(database: Database) -> dict[str, Any]:
        clock = await clock_of(settings, database)
        ids = TimeOrderedIds(clock, SystemRandomness())
        async with database.transaction() as transaction:
            return await revoke_key(transaction, ids, key_id, clock.now(), actor_here())

    document = with_database(settings, write, existing=True)
    if as_json:
        print_json(document)
    else:
        show_key(Console(), document)
