"""``talktime finance``: the roll-forward of a period."""

from typing import Annotated, Any

from rich.console import Console
from typer import Option

from app.commands.common import (
    AsCsv,
    AsJson,
    DataDir,
    clock_of,
    fail,
    one_form,
    print_csv,
    print_json,
    settings_with,
    with_database,
)
from app.core.account import BrokenLedger
from app.db.database import Database
from app.finance.documents import CSV_HEADER, csv_rows, roll_forward_document
from app.finance.roll_forward import STATEMENT_TIMEOUT_MS, checked_period, roll_forward
from app.http.bodies import instant_parameter
from app.terminal import show_roll_forward


def finance(
    after: Annotated[str | None, Option(help="From this RFC 3339 instant on; since ever if absent.")] = None,
    before: Annotated[str | None, Option(help="Until before this RFC 3339 instant; until now if absent.")] = None,
    as_csv: AsCsv = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show how a period's credits came and went, by kind of grant."""
    one_form(as_csv=as_csv, as_json=as_json)
    first, last = instant_parameter("after", after), instant_parameter("before", before)
    settings = settings_with(data_dir)

    async def read(database: Database) -> dict[str, Any]:
        now = (await clock_of(settings, database)).now()
        period = checked_period(first, last, now)
        async with database.reading(statement_timeout_ms=STATEMENT_TIMEOUT_MS) as transaction:
            return roll_forward_document(await roll_forward(transaction, period), period, now)

    try:
        document = with_database(settings, read, existing=True)
    except BrokenLedger as error:
        fail(f"The ledger does not add up, so there is no roll-forward. talktime verify names the rows.\n  {error}")
    if as_csv:
        print_csv([CSV_HEADER, *csv_rows(document)])
    elif as_json:
        print_json(document)
    else:
        show_roll_forward(Console(), document)
