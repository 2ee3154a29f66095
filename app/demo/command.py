"""``talktime demo``."""

import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer import Option

from app.db.embedded import EmbeddedPostgres
from app.db.migrate import migrate
from app.demo.play import Result, play
from app.demo.processes import SPEED, DemoFailed, Stage, running
from app.demo.script import ACTS
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
    with EmbeddedPostgres.running_or_start(data_dir) as urls:
        migrate(urls.owner, "talktime_service")
        with running(data_dir, urls.service) as stage:
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
                return True
    return all(result.as_scripted for result in results)


def _show(console: Console, results: list[Result]) -> None:
    table = Table(title="\nWhat each session came to (seconds, credits)", title_justify="left", show_lines=True)
    table.add_column("Session", ratio=3)
    for name in ("talked", "silent", "billed"):
        table.add_column(name, justify="right")
    table.add_column("not billed, and why", ratio=3)
    for name in ("charge", "balance"):
        table.add_column(name, justify="right")
    table.add_column("as scripted")
    for result in results:
        table.add_row(*_row(result))
    console.print(table)


def _row(result: Result) -> list[str]:
    title = f"{result.act.title}\n[dim]{result.user_id}[/dim]"
    verdict = "[green]yes[/green]" if result.as_scripted else f"[red]no: {result.act.charge}[/red]"
    if result.charge is None:
        return [title, "", "", "", f"not started: {result.refusal}", "", result.balance, verdict]
    charge: dict[str, Any] = result.charge
    talked = sum(p["to_s"] - p["from_s"] for p in charge["pieces"] if p["type"] in {"user", "agent"})
    silent = charge["timeline_s"] - talked
    why = "\n".join(f"{time} {reason}" for reason, time in charge["not_billed"].items())
    return [
        title,
        str(talked),
        str(silent),
        str(charge["billed"]["total_s"]),
        why,
        charge["amount"],
        result.balance,
        verdict,
    ]


def _show_addresses(console: Console, stage: Stage, results: list[Result], data_dir: Path) -> None:
    example = next((result.session["id"] for result in results if result.session is not None), "ses_…")
    console.print(
        f"\nTalktime    {stage.service_url}\n"
        f"Provider    {stage.provider_url} (simulated)\n"
        f"Admin key   {stage.admin_key}\n"
        f"Log         {stage.log_file}\n\n"
        "Why a session costs what it costs:\n"
        f"  .venv/bin/talktime explain --data-dir {data_dir} {example}\n"
        "A balance:\n"
        f"  curl -H 'Authorization: Bearer {stage.admin_key}' "
        f"{stage.service_url}/v1/users/{results[0].user_id}/balance",
        highlight=False,
        soft_wrap=True,
    )
