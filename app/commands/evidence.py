"""``talktime check-evidence``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from typer import Argument

from app.commands.common import AsJson, fail, print_json, settings_with
from app.ledger.keys import ledger_keys_of
from app.settlement.evidence_check import check_evidence
from app.terminal import show_checked


def check_file(
    file: Annotated[Path, Argument(help="A file of evidence: evidence-ses_….zip.")], as_json: AsJson = False
) -> None:
    """Check a session's file of evidence by itself: exit code 1 if anything in it does not hold."""
    try:
        packed = file.read_bytes()
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    found = check_evidence(packed, ledger_keys_of(settings_with(None)))
    documents = [asdict(one) for one in found]
    if as_json:
        print_json({"data": documents})
    else:
        show_checked(Console(), documents)
    if any(one.fault is not None for one in found):
        raise typer.Exit(1)
