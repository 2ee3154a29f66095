"""``talktime simulate``: what a period's settled sessions would have cost by another rate card."""

import sys
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from typer import Argument, Option

from app.commands.common import AsJson, DataDir, clock_of, fail, print_json, settings_with, with_database
from app.core.ids import Kind, parse_reference_id
from app.db.database import Database
from app.documents import decode, validate
from app.ledger.findings import Progress
from app.terminal import show_simulation, told_progress
from app.what_if.asked import SimulationDocument, asked_document, read_asked
from app.what_if.running import simulate as simulate_all


def simulate(
    rate_card: Annotated[
        str, Argument(help="A rate card as JSON, as it would be published (- for standard input), or an id: rc_…")
    ],
    after: Annotated[str, Option(help="Sessions that were settled from this RFC 3339 instant on.")],
    before: Annotated[str, Option(help="Sessions that were settled before this RFC 3339 instant.")],
    provider_cost: Annotated[
        str | None, Option(help="What the provider takes, as another rate card: a file, or an id.")
    ] = None,
    persona: Annotated[str | None, Option(help="Only sessions of this persona.")] = None,
    scenario: Annotated[str | None, Option(help="Only sessions of this scenario.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Price settled sessions by another rate card, from their stored evidence; nothing is charged or stored."""
    cards = {"rate_card": rate_card, "provider_cost": provider_cost}
    texts = {"after": after, "before": before, "persona": persona, "scenario": scenario}
    given: dict[str, object] = {name: text for name, text in texts.items() if text is not None}
    given |= {name: _card(text) for name, text in cards.items() if text is not None}
    document = validate(SimulationDocument, given)
    settings = settings_with(data_dir)

    async def read(database: Database, progress: Progress) -> dict[str, Any]:
        now = (await clock_of(settings, database)).now()
        async with database.reading() as transaction:
            asked = await read_asked(transaction, document, now)
        return {**asked_document(asked), "result": await simulate_all(database, asked, progress=progress)}

    console = Console(stderr=True)
    with told_progress(console, shown=console.is_terminal and not as_json) as progress:
        told = with_database(settings, lambda database: read(database, progress), existing=True)
    if as_json:
        print_json(told)
    else:
        show_simulation(Console(), told)


def _card(text: str) -> object:
    """The id as it is, or what the file holds."""
    if parse_reference_id(Kind.RATE_CARD, text) is not None:
        return text
    try:
        return decode(sys.stdin.buffer.read() if text == "-" else Path(text).read_bytes())
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else str(error)
        fail(f"{text}: {told}; a rate card is a file, or an id: rc_ and 26 characters")
