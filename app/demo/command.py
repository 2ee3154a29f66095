"""``talktime demo``."""

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from typer import Option

from app.demo.play import Result, play
from app.demo.processes import SPEED, DemoFailed, Stage, running
from app.demo.script import ACTS
from app.running import database_of
from app.settings import load_settings


def demo(
    once: Annotated[
        bool, Option("--once", help="End after the sessions; exit code 0 only if all was as scripted.")
    ] = False,
) -> None:
    """Show all of Talktime: a simulated provider, an embedded database, sessions at high speed."""
    console = Console()
    data_dir = load_settings().data_dir / "demo"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        as_scripted = _run(console, data_dir, once=once)
    except DemoFailed as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    if not as_scripted:
        raise typer.Exit(1)


def _run(console: Console, data_dir: Path, *, once: bool) -> bool:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    settings = load_settings(data_dir=data_dir, database_url=None)
    results: list[Result] = []
    with database_of(settings, for_long=True) as databases, running(data_dir, databases.service) as stage:
        console.print(f"PostgreSQL, a simulated provider and Talktime run; time passes {SPEED} times as fast.\n")
        try:
            results = play(stage, ACTS, lambda line: console.print(line, highlight=False, soft_wrap=True))
            _show(console, results)
            _show_addresses(console, stage, results, data_dir)
            if not once:
                console.print("\nCtrl-C ends it.")
                while not stop.wait(0.5):
                    pass
        except KeyboardInterrupt:
            console.print("\nStopping.")
    return bool(results) and all(result.as_scripted for result in results)


def _show(console: Console, results: list[Result]) -> None:
    table = Table(
        title="\nWhat each session came to, in seconds and credits",
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
                f"[red]Not as scripted:[/red] {result.user_id}: "
                f"charge {result.act.charge} and balance {result.act.balance} were expected."
            )
    if all(result.as_scripted for result in results):
        console.print("Every charge and every balance came out as scripted, to the micro-credit.")


def _row(result: Result) -> list[str]:
    title = f"{result.act.title} [dim]{result.user_id}[/dim]"
    if result.charge is None:
        return [title, "", "", "", f"not started: {result.refusal}", "", result.balance]
    charge: dict[str, Any] = result.charge
    talked = sum(p["to_s"] - p["from_s"] for p in charge["pieces"] if p["type"] in {"user", "agent"})
    silent = charge["timeline_s"] - talked
    why = "\n".join(f"{time:.3f} {reason.replace('_', ' ')}" for reason, time in charge["not_billed"].items())
    billed = charge["billed"]["total_s"]
    return [title, f"{talked:.3f}", f"{silent:.3f}", f"{billed:.3f}", why, charge["amount"], result.balance]


def _show_addresses(console: Console, stage: Stage, results: list[Result], data_dir: Path) -> None:
    # As it was called, so that the lines can be pasted into the same shell.
    talktime = sys.argv[0] if Path(sys.argv[0]).name == "talktime" else f"{sys.executable} -m app.cli"
    example = next((result.session["id"] for result in results if result.session is not None), "ses_…")
    console.print(
        f"\nTalktime    {stage.service_url}\n"
        f"Its pages   {stage.service_url}/admin (sign in with the admin key)\n"
        f"Provider    {stage.provider_url} (simulated)\n"
        f"Admin key   {stage.admin_key}\n"
        f"Log         {stage.log_file}\n\n"
        "Why a session costs what it costs:\n"
        f"  {talktime} explain --data-dir {data_dir} {example}\n"
        "That all of it adds up:\n"
        f"  TALKTIME_LEDGER_KEYS=$(cat {data_dir}/ledger-key) {talktime} verify --data-dir {data_dir}\n"
        "A balance:\n"
        f"  curl -H 'Authorization: Bearer {stage.admin_key}' "
        f"{stage.service_url}/v1/users/{results[0].user_id}/balance",
        highlight=False,
        soft_wrap=True,
    )
