"""``talktime grant``, ``balance`` and ``statement``: a user's credits from the command line."""

import sys
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from typer import Argument, Exit, Option

from app.accounts.balances import balance_document, past_balance_document
from app.accounts.bulk import MAX_BYTES, bulk_document, grant_all, read_grants
from app.accounts.grants import GrantDocument, give
from app.accounts.statements import CSV_HEADER, EntryFilter, entry_filter, statement_page, statement_rows
from app.commands.common import (
    AsCsv,
    AsJson,
    DataDir,
    actor_here,
    clock_of,
    fail,
    one_form,
    print_csv,
    print_json,
    settings_with,
    with_database,
)
from app.core.lossless_json import JsonNumber
from app.db.database import Database
from app.documents import validate
from app.http.bodies import checked_user_id, instant_parameter
from app.http.pages import DEFAULT_LIMIT, MAX_LIMIT
from app.ledger.book import LedgerPorts
from app.ledger.findings import Progress
from app.ledger.keys import LedgerKeys, ledger_keys_of
from app.ports.clock import Clock
from app.ports.ids import TimeOrderedIds
from app.ports.randomness import SystemRandomness
from app.pricing.cards import ensure_default_card
from app.pricing.thresholds import CardThresholds
from app.settings import Settings
from app.terminal import show_balance, show_bulk, show_grant, show_statement, told_progress

User = Annotated[str, Argument(help="Your own id of the user.")]


def grant(
    user: Annotated[str | None, Argument(help="Your own id of the user.")] = None,
    amount: Annotated[str | None, Argument(help="Credits, such as 12.5.")] = None,
    kind: Annotated[str, Option(help="paid or promotional.")] = "paid",
    priority: Annotated[int, Option(help="0 to 100; lower is used first.")] = 50,
    effective_at: Annotated[str | None, Option(help="An RFC 3339 instant; now if absent.")] = None,
    expires_at: Annotated[str | None, Option(help="An RFC 3339 instant; never if absent.")] = None,
    cost_basis: Annotated[str | None, Option(help="Money per credit.")] = None,
    reference: Annotated[str | None, Option(help="Your own id of the grant; nothing is granted twice by one.")] = None,
    file: Annotated[Path | None, Option("--csv", help="Grant what is in this CSV file; - for standard input.")] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="With --csv: show what would come of it, and do nothing.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Grant credits to a user, or to many from a CSV file."""
    given = {"effective_at": effective_at, "expires_at": expires_at, "cost_basis": cost_basis, "reference": reference}
    told = {name: value for name, value in given.items() if value is not None}
    if file is not None:
        if user is not None or told or (kind, priority) != ("paid", 50):
            fail("with --csv everything about the grants stands in the file")
        _grant_file(file, dry_run=dry_run, data_dir=data_dir, as_json=as_json)
        return
    if dry_run:
        fail("--dry-run is for --csv")
    if user is None or amount is None:
        fail("say a user and an amount, or --csv FILE")
    user_id = checked_user_id(user)
    asked = validate(GrantDocument, {"amount": amount, "kind": kind, "priority": JsonNumber(str(priority)), **told})
    settings = settings_with(data_dir)
    keys = _keys_of(settings)

    async def write(database: Database) -> tuple[dict[str, Any], bool]:
        clock, ledger = await _ledger_of(settings, database, keys)
        async with database.transaction() as transaction:
            return await give(transaction, ledger, user_id, asked, clock.now(), actor_here())

    document, new = with_database(settings, write)
    if as_json:
        print_json(document)
    else:
        show_grant(Console(), document, new=new)


def _grant_file(file: Path, *, dry_run: bool, data_dir: Path | None, as_json: bool) -> None:
    try:
        body = sys.stdin.buffer.read(MAX_BYTES + 1) if str(file) == "-" else file.read_bytes()
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    rows = read_grants(body)
    settings = settings_with(data_dir)
    keys = _keys_of(settings)
    console = Console()

    async def write(database: Database, progress: Progress) -> dict[str, Any]:
        clock, ledger = await _ledger_of(settings, database, keys)
        done = await grant_all(database, ledger, clock, rows, actor_here(), dry_run=dry_run, progress=progress)
        return bulk_document(done, dry_run=dry_run)

    with told_progress(console, shown=console.is_terminal and not as_json) as progress:
        document = with_database(settings, lambda database: write(database, progress))
    if as_json:
        print_json(document)
    else:
        show_bulk(console, document)
    if document["totals"]["refused"]:
        raise Exit(1)


def _keys_of(settings: Settings) -> LedgerKeys:
    keys = ledger_keys_of(settings)
    if keys is None:
        fail("entries are signed: set TALKTIME_LEDGER_KEYS or, with the embedded database, TALKTIME_SECRET")
    return keys


async def _ledger_of(settings: Settings, database: Database, keys: LedgerKeys) -> tuple[Clock, LedgerPorts]:
    """The clock and the ledger of a database that there may be nothing in yet."""
    clock = await clock_of(settings, database)
    ids = TimeOrderedIds(clock, SystemRandomness())
    async with database.transaction() as transaction:
        await ensure_default_card(transaction, ids, clock.now())
    return clock, LedgerPorts(keys, ids, CardThresholds(settings.min_session_s))


def balance(
    user: User,
    at: Annotated[str | None, Option(help="An RFC 3339 instant of the past; now if absent.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what a user has, holds and can still spend."""
    user_id = checked_user_id(user)
    instant = instant_parameter("at", at)
    settings = settings_with(data_dir)

    async def read(database: Database) -> dict[str, Any]:
        now = (await clock_of(settings, database)).now()
        async with database.reading() as transaction:
            if instant is None:
                keys = ledger_keys_of(settings)
                return await balance_document(transaction, user_id, now, settings.max_session_s, keys)
            return await past_balance_document(transaction, user_id, instant, now)

    document = with_database(settings, read, existing=True)
    if as_json:
        print_json(document)
    else:
        show_balance(Console(), document)


def statement(
    user: User,
    kind: Annotated[str | None, Option(help="Only entries of this kind.")] = None,
    session: Annotated[str | None, Option(help="Only entries of this session: ses_…")] = None,
    grant: Annotated[str | None, Option(help="Only entries of this grant: grt_…")] = None,
    after: Annotated[str | None, Option(help="Only entries from this RFC 3339 instant on.")] = None,
    before: Annotated[str | None, Option(help="Only entries before this RFC 3339 instant.")] = None,
    limit: Annotated[int, Option(min=1, max=MAX_LIMIT, help="How many entries; --csv has all.")] = DEFAULT_LIMIT,
    as_csv: AsCsv = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show a user's entries, newest first; with --csv all of them."""
    one_form(as_csv=as_csv, as_json=as_json)
    user_id = checked_user_id(user)
    wanted = entry_filter(
        kind=kind,
        session_id=session,
        grant_id=grant,
        after=instant_parameter("after", after),
        before=instant_parameter("before", before),
    )
    settings = settings_with(data_dir)
    if as_csv:
        with_database(settings, lambda database: _write_csv(database, user_id, wanted), existing=True)
        return

    async def read(database: Database) -> dict[str, Any]:
        async with database.reading() as transaction:
            return await statement_page(transaction, user_id, wanted, limit=limit, cursor=None)

    document = with_database(settings, read, existing=True)
    if as_json:
        print_json(document)
    else:
        show_statement(Console(), document)


async def _write_csv(database: Database, user_id: str, wanted: EntryFilter) -> None:
    header = True
    async for rows in statement_rows(database, user_id, wanted):
        print_csv([CSV_HEADER, *rows] if header else rows)
        header = False
