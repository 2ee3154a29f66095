"""``talktime verify``: does everything stored add up?"""

from typing import Any, Final

import typer
from rich.console import Console

from app.commands.common import AsJson, DataDir, print_json, settings_with, with_database
from app.db.database import Database
from app.ledger.keys import ledger_keys_of
from app.ledger.verify import Finding
from app.ledger.verify import verify as verify_ledger
from app.terminal import show_findings

VERIFY_TIMEOUT_MS: Final = 600_000
"""Each statement of ``talktime verify`` reads a whole table or two."""


def verify(
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Check that everything stored adds up and that the ledger was not tampered with; exit code 1 if not."""
    settings = settings_with(data_dir)
    keys = ledger_keys_of(settings)

    async def read(database: Database) -> list[Finding]:
        async with database.reading(statement_timeout_ms=VERIFY_TIMEOUT_MS) as transaction:
            return await verify_ledger(transaction, keys)

    findings = with_database(settings, read, existing=True)
    if as_json:
        print_json({"chain_checked": keys is not None, "findings": [_finding_document(item) for item in findings]})
    else:
        show_findings(Console(), [_finding_document(item) for item in findings])
        if keys is None:
            needed = "TALKTIME_LEDGER_KEYS or, with the embedded database, TALKTIME_SECRET"
            typer.echo(f"The chain was not checked: that needs {needed}.", err=True)
    if findings:
        raise typer.Exit(1)


def _finding_document(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "account_id": str(finding.account_id),
        "row": finding.row,
        "detail": finding.detail,
    }
