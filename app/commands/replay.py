"""``talktime replay``: are stored charges what their stored inputs give?"""

from typing import Annotated, Any, Final

import typer
from rich.console import Console
from typer import Argument

from app.commands.common import AsJson, DataDir, print_json, session_key_of, settings_with, with_database
from app.core.ids import AccountThing
from app.core.units import format_credits
from app.db.database import Database
from app.ledger.findings import Progress
from app.settlement.replay import Count, Replayed, replay_all
from app.settlement.replay import replay as replay_session
from app.terminal import show_replay, show_replays, told_progress

MAX_TOLD: Final = 100
"""Charges that came out otherwise of which all is told; the others are counted."""


def replay(
    session: Annotated[
        str | None, Argument(help="A settled session's id: ses_…; without one, all of them are replayed.")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make stored charges again from their stored inputs, by the engine that made them.

    The result must be the same byte for byte: if anything differs, it is listed and the exit code is 1.
    """
    if session is None:
        identical = _replay_all(data_dir, as_json=as_json)
    else:
        identical = _replay_one(session_key_of(session), data_dir, as_json=as_json)
    if not identical:
        raise typer.Exit(1)


def _replay_one(key: AccountThing, data_dir: DataDir, *, as_json: bool) -> bool:
    async def read(database: Database) -> list[Replayed]:
        async with database.reading() as transaction:
            return await replay_session(transaction, key)

    replayed = [_document(one) for one in with_database(settings_with(data_dir), read, existing=True)]
    if as_json:
        print_json({"charges": replayed})
    else:
        show_replay(Console(), replayed)
    return all(one["identical"] for one in replayed)


def _replay_all(data_dir: DataDir, *, as_json: bool) -> bool:
    different: list[dict[str, Any]] = []

    def told(one: Replayed) -> None:
        if len(different) < MAX_TOLD:
            different.append(_document(one))

    async def read(database: Database, progress: Progress) -> Count:
        return await replay_all(database, told, progress=progress)

    console = Console(stderr=True)
    with told_progress(console, shown=console.is_terminal and not as_json) as progress:
        count = with_database(settings_with(data_dir), lambda database: read(database, progress), existing=True)
    document = {
        "sessions": count.sessions,
        "charges": count.charges,
        "different": count.different,
        "cut_off": count.different > len(different),
        "differing_charges": different,
    }
    if as_json:
        print_json(document)
    else:
        show_replays(Console(), document)
    return count.different == 0


def _document(one: Replayed) -> dict[str, Any]:
    return {
        "session_id": one.session,
        "version": one.version,
        "engine_version": one.engine_version,
        "amount": format_credits(one.amount),
        "identical": not one.differences,
        "differences": [
            {"what": item.what, "stored": item.stored, "replayed": item.replayed} for item in one.differences
        ],
    }
