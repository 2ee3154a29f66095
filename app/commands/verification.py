"""``talktime verify``: does everything stored add up? ``talktime export heads``: what it is held against later."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError
from typer import Argument, Option

from app.commands.common import AsJson, DataDir, clock_of, fail, print_json, settings_with, with_database
from app.core.units import Instant
from app.db.database import Database, DatabaseUnavailable
from app.ledger.findings import MAX_FINDINGS, Finding, Findings, Progress
from app.ledger.heads import BadHeads, Export, HeadsFile, export_heads, record_export
from app.ledger.keys import LedgerKeys, ledger_keys_of
from app.ledger.runs import VerifyRun, record_run
from app.ledger.verify import verify as verify_ledger
from app.ports.ids import TimeOrderedIds
from app.ports.randomness import SystemRandomness
from app.terminal import show_findings, told_progress

VERIFY_TIMEOUT_MS: Final = 600_000
"""Each statement of ``talktime verify`` reads a whole table or two."""

_KEYS_NEEDED: Final = "TALKTIME_LEDGER_KEYS or, with the embedded database, TALKTIME_SECRET"

export = typer.Typer(name="export", help="Write what lies in the database to files.", no_args_is_help=True)

Heads = Annotated[
    list[Path] | None,
    Option("--heads", help="Heads exported earlier, to hold the ledger against; may be given several times."),
]


def verify(
    heads: Heads = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Check that everything stored adds up and that the ledger was not tampered with; exit code 1 if not."""
    settings = settings_with(data_dir)
    keys = ledger_keys_of(settings)
    console = Console(stderr=True)
    with ExitStack() as stack:
        files = [_heads_file(stack, path, keys) for path in heads or []]

        async def read(database: Database, progress: Progress) -> Findings:
            clock = await clock_of(settings, database)
            run = VerifyRun(TimeOrderedIds(clock, SystemRandomness()).new(), clock.now(), keys is not None)
            async with database.reading(statement_timeout_ms=VERIFY_TIMEOUT_MS) as transaction:
                checked = await verify_ledger(transaction, keys, heads=files, progress=progress)
            # What was found counts, also where nothing can be written down: on a standby, or by a reader's role.
            with suppress(SQLAlchemyError, DatabaseUnavailable):
                async with database.transaction() as transaction:
                    await record_run(transaction, run, checked, clock.now())
            return checked

        with told_progress(console, shown=console.is_terminal and not as_json) as progress:
            found = with_database(settings, lambda database: read(database, progress), existing=True)
    _tell(found, keys, as_json=as_json)
    if found.all:
        raise typer.Exit(1)


def _tell(found: Findings, keys: LedgerKeys | None, *, as_json: bool) -> None:
    documents = [_finding_document(item) for item in found.all]
    if as_json:
        print_json({"chain_checked": keys is not None, "cut_off": found.cut_off, "findings": documents})
        return
    show_findings(Console(), documents)
    for check in found.cut_off:
        typer.echo(f"{check} found more than these {MAX_FINDINGS} rows.", err=True)
    if keys is None:
        typer.echo(f"The chain was not checked: that needs {_KEYS_NEEDED}.", err=True)


def _finding_document(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "account_id": str(finding.account_id),
        "row": finding.row,
        "detail": finding.detail,
    }


def _heads_file(stack: ExitStack, path: Path, keys: LedgerKeys | None) -> HeadsFile:
    if keys is None:
        fail(f"Heads cannot be checked: that needs {_KEYS_NEEDED}.")
    try:
        return HeadsFile(str(path), stack.enter_context(path.open("rb")), keys)
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    except BadHeads as error:
        fail(str(error))


@export.command()
def heads(
    file: Annotated[Path, Argument(help="Where to write them; - for standard output.")],
    data_dir: DataDir = None,
) -> None:
    """Write where each account's chain stands, signed: to be kept elsewhere and held against the ledger later."""
    settings = settings_with(data_dir)
    keys = ledger_keys_of(settings)
    if keys is None:
        fail(f"Heads cannot be signed: that needs {_KEYS_NEEDED}.")
    clock = settings.make_clock()
    export_id = TimeOrderedIds(clock, SystemRandomness()).new()

    async def run(database: Database, write: Callable[[bytes], object], now: Instant) -> Export:
        async with database.reading() as transaction:
            exported = await export_heads(transaction, keys, now, write)
        async with database.transaction() as transaction:
            await record_export(transaction, export_id, exported, now)
        return exported

    try:
        with _written(file) as write:
            exported = with_database(settings, lambda database: run(database, write, clock.now()), existing=True)
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    where = "" if str(file) == "-" else f" in {file}"
    typer.echo(f"The heads of {exported.accounts} accounts are{where or ' written'}.", err=True)


@contextmanager
def _written(file: Path) -> Iterator[Callable[[bytes], object]]:
    """What is written appears under the name of ``file`` only when all of it is on the disk."""
    if str(file) == "-":
        stream = typer.get_binary_stream("stdout")
        yield stream.write
        stream.flush()
        return
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as temporary:
        unfinished = Path(temporary.name)
        try:
            yield temporary.write
            temporary.flush()
            os.fsync(temporary.fileno())
            unfinished.replace(file)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
