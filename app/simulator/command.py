"""``talktime gabber-sim``: the simulated provider from the command line."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from app.core.lossless_json import JsonNumber
from app.core.units import US_PER_S, Micros
from app.ports.clock import Clock, ScaledClock, SystemClock
from app.ports.randomness import SeededRandomness, SystemRandomness
from app.simulator.config import MAX_PAGE_SIZE, MAX_TIME_LIMIT_S, PERSONAS, Envelope, NextPage, SimulatorConfig
from app.simulator.faults import InvalidFault, Setting, parse_setting
from app.simulator.script import InvalidScript, Script, built_in, parse_script
from app.simulator.server import Simulator, serve

MAX_SPEED = 10_000


def gabber_sim(
    *,
    host: Annotated[str, Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8900,
    api_key: Annotated[str | None, Option(help="Key that callers must send as x-api-key; else made up.")] = None,
    speed: Annotated[int, Option(min=1, max=MAX_SPEED, help="How many times as fast as real time.")] = 1,
    clock: Annotated[str | None, Option(help="Shared clock speed@origin_us@anchor_us, for --speed.")] = None,
    script: Annotated[list[Path] | None, Option(help="JSON file of a further script; repeatable.")] = None,
    default_script: Annotated[str, Option(help="Script played for the scenario 'default'.")] = "talk",
    persona: Annotated[list[str] | None, Option(help="A persona, instead of the usual ones; repeatable.")] = None,
    any_persona: Annotated[bool, Option("--any-persona", help="Accept every persona and scenario.")] = False,
    page_size: Annotated[int, Option(min=1, max=MAX_PAGE_SIZE, help="Values on a page of a timeline.")] = 100,
    envelope: Annotated[Envelope, Option(help="Timelines in {status, body}, or bare.")] = Envelope.WRAPPED,
    next_page: Annotated[NextPage, Option(help="What next_page holds.")] = NextPage.TOKEN,
    fault: Annotated[list[str] | None, Option(help="name=probability: timeline.500=0.1; repeatable.")] = None,
    seed: Annotated[int | None, Option(help="Makes conversations, faults and ids repeatable.")] = None,
    default_time_limit_s: Annotated[int, Option(min=1, max=MAX_TIME_LIMIT_S, help="If a start has none.")] = 3600,
    heartbeat_retries: Annotated[int, Option(min=0, max=10, help="New attempts of a heartbeat that failed.")] = 0,
    slow_s: Annotated[int, Option(min=0, max=3600, help="How late a slow answer is, on the clock.")] = 5,
    late_s: Annotated[int, Option(min=0, max=3600, help="How late a late heartbeat is, on the clock.")] = 20,
    as_json: Annotated[bool, Option("--json", help="Print the address as one line of JSON.")] = False,
) -> None:  # fmt: skip
    """Run a simulated provider: starts sessions, plays conversations, sends heartbeats, and misbehaves when told to."""
    try:
        config = SimulatorConfig(
            api_key=api_key or _new_key(seed),
            clock=_clock(speed, clock),
            host=host,
            port=port,
            scripts=_scripts(script or []),
            default_script=default_script,
            personas=tuple(persona) if persona else PERSONAS,
            any_persona=any_persona,
            page_size=page_size,
            envelope=envelope,
            next_page=next_page,
            faults=_faults(fault or []),
            seed=seed,
            default_time_limit_s=default_time_limit_s,
            heartbeat_retries=heartbeat_retries,
            slow=Micros(slow_s * US_PER_S),
            late=Micros(late_s * US_PER_S),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        asyncio.run(serve(config, lambda simulator: _announce(simulator, as_json=as_json)))
    except KeyboardInterrupt:
        pass
    except OSError as error:
        typer.echo(f"cannot listen on {host} port {port}: {error.strerror}", err=True)
        raise typer.Exit(1) from None


def _announce(simulator: Simulator, *, as_json: bool) -> None:
    config = simulator.config
    clock = str(config.clock) if isinstance(config.clock, ScaledClock) else None
    if as_json:
        typer.echo(json.dumps({"url": simulator.url, "api_key": config.api_key, "clock": clock}))
        return
    typer.echo(f"Simulated Gabber is ready at {simulator.url}\n  x-api-key  {config.api_key}")
    typer.echo(f"  scenarios  default, {', '.join(config.scripts)}\n  personas   {', '.join(config.personas)}")
    if clock:
        typer.echo(f"  clock      {clock}")


def _new_key(seed: int | None) -> str:
    source = SystemRandomness() if seed is None else SeededRandomness(seed, "key")
    return f"sim_{source.token(16).hex()}"


def _clock(speed: int, shared: str | None) -> Clock:
    if shared is None:
        return SystemClock() if speed == 1 else ScaledClock.starting_now(speed)
    try:
        return ScaledClock.parse(shared)
    except ValueError:
        raise ValueError("--clock is not of the form speed@origin_us@anchor_us") from None


def _scripts(paths: list[Path]) -> dict[str, Script]:
    scripts = built_in()
    for path in paths:
        try:
            read = parse_script(path.read_bytes())
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        except InvalidScript as error:
            raise ValueError(f"{path}: {error}") from None
        scripts[read.name] = read
    return scripts


def _faults(texts: list[str]) -> dict[str, Setting]:
    settings = {}
    for text in texts:
        name, _, probability = text.partition("=")
        try:
            settings[name] = parse_setting(name, JsonNumber(probability))
        except InvalidFault as error:
            raise ValueError(f"--fault {text}: {error}") from None
    return settings
