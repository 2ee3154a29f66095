"""``talktime demo``."""

import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from typer import Option

from app.demo.backstage import backstage
from app.demo.past import ADMINS
from app.demo.plan import DAYS
from app.demo.play import Result
from app.demo.processes import DemoFailed
from app.demo.stage import LINK_LASTS, Stage, staged
from app.ledger.findings import Findings
from app.logs import configure_logs
from app.running import database_of
from app.settings import load_settings, settings_of

SEED: Final = 1
PORTAL_OF: Final = "jonas.weber"


def demo(
    once: Annotated[
        bool, Option("--once", help="End when all is there; exit code 0 only if every charge was as scripted.")
    ] = False,
    seed: Annotated[int, Option(min=0, help="Of another history.")] = SEED,
) -> None:
    """Show all of Talktime: weeks of a business's life, lived through in a minute, and then its present."""
    console = Console()
    given = load_settings()
    data_dir = given.data_dir / "demo"
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        settings = settings_of(data_dir=data_dir, postgres_bin_dir=given.postgres_bin_dir)
        with (data_dir / "demo.log").open("w", encoding="utf-8") as log:
            configure_logs("json", log)
            all_well = _run(console, settings.data_dir, given.postgres_bin_dir, once=once, seed=seed)
    except DemoFailed as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(0 if not once else 1) from None
    if not all_well:
        raise typer.Exit(1)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _run(console: Console, data_dir: Path, bin_dir: Path | None, *, once: bool, seed: int) -> bool:
    settings = settings_of(data_dir=data_dir, postgres_bin_dir=bin_dir)
    with (
        database_of(settings, for_long=True, anew=True) as databases,
        backstage() as behind,
        staged(behind, databases.service, data_dir, seed) as stage,
    ):
        console.print(f"Living through the {DAYS} days up to now, on a clock that leaps:")
        results = stage.live_through_the_past(lambda line: console.print(line, highlight=False, soft_wrap=True))
        with stage.serving():
            _show(console, results)
            found = stage.verify()
            _show_verified(console, found)
            _show_addresses(console, stage, results, data_dir)
            if not once:
                console.print("\nPeople go on talking; Ctrl-C ends it.")
                with stage.going_on():
                    _wait_for_interruption(console)
    return not found.all and all(result.as_scripted for result in results)


def _wait_for_interruption(console: Console) -> None:
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        console.print("\nStopping.")


def _show(console: Console, results: list[Result]) -> None:
    table = Table(
        title="\nWhat the sessions of the first day came to, in seconds and credits",
        title_justify="left",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("Session", min_width=14)
    for name in ("talked", "silent", "billed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("not billed, and why", min_width=16)
    for name in ("charge", "balance"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        table.add_row(*_row(result), end_section=True)
    console.print(table)
    for result in results:
        if not result.as_scripted:
            console.print(
                f"[red]Not as scripted:[/red] {result.act.user}: "
                f"charge {result.act.charge} and balance {result.act.balance} were expected."
            )
    if all(result.as_scripted for result in results):
        console.print("Every charge and every balance came out as scripted, to the micro-credit.")


def _row(result: Result) -> list[str]:
    title = f"{result.act.title} [dim]{result.act.user}[/dim]"
    if result.charge is None:
        return [title, "", "", "", f"not started: {result.refusal}", "", result.balance]
    charge: dict[str, Any] = result.charge
    talked = sum(p["to_s"] - p["from_s"] for p in charge["pieces"] if p["type"] in {"user", "agent"})
    silent = charge["timeline_s"] - talked
    why = "\n".join(f"{time:.3f} {reason.replace('_', ' ')}" for reason, time in charge["not_billed"].items())
    billed = charge["billed"]["total_s"]
    return [title, f"{talked:.3f}", f"{silent:.3f}", f"{billed:.3f}", why, charge["amount"], result.balance]


def _show_verified(console: Console, found: Findings) -> None:
    if not found.all:
        console.print("Verified: everything that is stored adds up, and the chain of the ledger holds.")
    for finding in found.all:
        console.print(f"[red]Verified:[/red] {finding.check}: {finding.detail}", highlight=False, soft_wrap=True)


def _show_addresses(console: Console, stage: Stage, results: list[Result], data_dir: Path) -> None:
    # As it was called, so that the lines can be pasted into the same shell.
    talktime = sys.argv[0] if Path(sys.argv[0]).name == "talktime" else f"{sys.executable} -m app.cli"
    example = next((result.session["id"] for result in results if result.session is not None), "ses_…")
    (admin, _), minutes = ADMINS[0], LINK_LASTS // 60_000_000
    console.print(
        f"\nSign in     {stage.sign_in_link()}\n"
        f"            (once, within {minutes} minutes; then at {stage.url}/admin with the admin key, or so:\n"
        f"            TALKTIME_PUBLIC_URL={stage.url} {talktime} admins sign-in-link {admin} --data-dir {data_dir})\n"
        f"Portal      {stage.portal_link(PORTAL_OF)}\n"
        f"            (what the user {PORTAL_OF} sees)\n"
        f"Talktime    {stage.url}\n"
        f"Provider    {stage.provider_url} (simulated)\n"
        f"Admin key   {stage.admin_key}\n"
        f"Log         {stage.log_file}\n\n"
        "Look first at the overview, where people talk; at the two reviews that wait; at northwind-dental, which\n"
        "talks on credit and pays later; at ruth.goldberg's session 22 days ago, during an outage of ours; and at\n"
        "the what-if over four weeks, under Rate cards.\n\n"
        "Why a session costs what it costs:\n"
        f"  {talktime} explain --data-dir {data_dir} {example}\n"
        "That all of it adds up:\n"
        f"  TALKTIME_LEDGER_KEYS=$(cat {data_dir}/ledger-key) {talktime} verify --data-dir {data_dir}\n"
        "A balance:\n"
        f"  curl -H 'Authorization: Bearer {stage.admin_key}' "
        f"{stage.url}/v1/users/{results[0].act.user}/balance",
        highlight=False,
        soft_wrap=True,
    )
