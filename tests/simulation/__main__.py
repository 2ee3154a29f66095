"""``python -m tests.simulation``: many worlds, or one of them again.

Exit 0: all was well, and over 200 worlds or more everything happened that must; 1: a rule was broken, or something
never happened; 2: the call makes no sense.
"""

import argparse
import gc
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

import msgspec

from tests.simulation.coverage import ENOUGH, missing
from tests.simulation.plan import Plan, plan_of
from tests.simulation.run import Result, databases, run
from tests.simulation.shrink import shrink
from tests.simulation.stage import Stage

SHOWN: Final = 200
"""Characters of a violation that are told while the other worlds go on."""

COLLECT_EVERY: Final = 20
"""Garbage is collected between worlds, and not after each."""


SEED_BYTES: Final = 8
"""So few are written to a pipe, and read from it, at once or not at all."""


class Part(msgspec.Struct):
    """What one process found over its share of the seeds."""

    seeds: int = 0
    steps: int = 0
    virtual_s: int = 0
    broken: dict[int, str] = {}
    fired: dict[str, int] = {}


def main() -> int:
    arguments = _arguments()
    # Sets of names must be walked in the same order each time.
    if os.environ.get("PYTHONHASHSEED") != "0":
        command = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": "0"})
    if arguments.seed is not None:
        return _replay(arguments.seed, arguments.only, shrinks=arguments.shrink)
    if arguments.part is not None:
        _keep_to_a_core(arguments.part)
        sys.stdout.buffer.write(msgspec.json.encode(_share(_seeds_from(sys.stdin.fileno()))))
        return 0
    return _all(arguments.first, arguments.seeds, arguments.jobs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many worlds")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    parser.add_argument("--seed", type=int, help="one world again, with all that happens in it")
    parser.add_argument("--only", type=_numbers, help="with --seed: the numbers of the events to keep, with commas")
    parser.add_argument("--no-shrink", dest="shrink", action="store_false", help="with --seed: as it is")
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.seeds < 1 or arguments.jobs < 1 or arguments.first < 0:
        parser.error("at least one seed, from 0 on, and one process")
    if arguments.seed is None:
        if arguments.only is not None:
            parser.error("which events to keep goes with one seed")
        return arguments
    if arguments.seed < 0:
        parser.error("seeds are 0 or more")
    unknown = (arguments.only or frozenset()) - {event.number for event in plan_of(arguments.seed).events}
    if unknown:
        parser.error(f"seed {arguments.seed} has no event {min(unknown)}")
    return arguments


def _keep_to_a_core(number: int) -> None:
    """Of a share and its PostgreSQL one waits for the other: on one core neither has to be woken up on another."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})


def _numbers(text: str) -> frozenset[int]:
    try:
        return frozenset(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers with commas") from None


def _seeds_from(pipe: int) -> Iterator[int]:
    """The next seed that nobody has taken, as long as there is one: so no process waits for another's long worlds."""
    while taken := os.read(pipe, SEED_BYTES):
        yield int.from_bytes(taken)


def _share(seeds: Iterable[int]) -> Part:
    part = Part()
    fired: Counter[str] = Counter()
    gc.disable()
    with databases(f"sim{uuid4().hex[:8]}", "world") as stage:
        for count, seed in enumerate(seeds, 1):
            result = run(plan_of(seed), stage)
            if count % COLLECT_EVERY == 0 or count == 1:
                gc.collect()
            if count == 1:
                gc.freeze()  # what is there by now stays
            part.seeds += 1
            part.steps += result.steps
            part.virtual_s += result.virtual_s
            fired.update(result.fired)
            if result.violation is not None:
                part.broken[seed] = result.violation
                told = result.violation.splitlines()[0][:SHOWN]
                sys.stderr.write(f"\nseed {seed}: {told}; again: make sim SEED={seed}\n")
            else:
                sys.stderr.write(".")
            sys.stderr.flush()
    part.fired = dict(fired)
    return part


def _all(first: int, seeds: int, jobs: int) -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        shares = []
        to_take, given = os.pipe()
        for number in range(min(jobs, seeds)):
            output = Path(folder, str(number))
            command = [sys.executable, "-m", "tests.simulation", "--first", str(first), "--seeds", str(seeds)]
            command += ["--jobs", str(min(jobs, seeds)), "--part", str(number)]
            with output.open("wb") as file:
                shares.append((output, subprocess.Popen(command, stdin=to_take, stdout=file)))
        os.close(to_take)
        with suppress(BrokenPipeError), os.fdopen(given, "wb", buffering=0) as pipe:
            for seed in range(first, first + seeds):
                pipe.write(seed.to_bytes(SEED_BYTES))
        if any(process.wait() for _, process in shares):
            print("\na share of the worlds could not be run")
            return 1
        parts = [msgspec.json.decode(output.read_bytes(), type=Part) for output, _ in shares]
    took = time.monotonic() - began
    fired: Counter[str] = Counter()
    broken: dict[int, str] = {}
    for part in parts:
        fired.update(part.fired)
        broken.update(part.broken)
    steps, virtual_s = sum(part.steps for part in parts), sum(part.virtual_s for part in parts)
    rate, cores = seeds / took * 60, min(len(parts), os.cpu_count() or 1)
    print(f"\n{seeds} worlds, {steps:,} events, {virtual_s // 3600:,} simulated hours in {took:.0f} s:", end=" ")
    print(f"{rate:.0f} a minute in {len(parts)} processes, {rate / cores:.0f} a core; {len(broken)} broke a rule")
    # PostgreSQL's is in it, as each share waits for its server to end; so is what it takes to begin.
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s, system_s = used.ru_utime + used.ru_stime, used.ru_stime
    print(f"{cpu_s / seeds:.2f} s of CPU a world, {system_s / seeds:.2f} s of it the system's")
    print(", ".join(f"{name} {times}" for name, times in sorted(fired.items())))
    never = missing(fired) if seeds >= ENOUGH else []
    for seed, violation in sorted(broken.items()):
        print(f"\nseed {seed}: {violation}\n  again: make sim SEED={seed}")
    if broken:
        _replay(min(broken), None, shrinks=True)
    if never:
        print(f"\nnever happened: {', '.join(never)}")
    return 1 if broken or never else 0


def _replay(seed: int, only: frozenset[int] | None, *, shrinks: bool) -> int:
    with databases(f"sim{uuid4().hex[:8]}", "world") as stage:
        plan = plan_of(seed)
        if only is not None:
            plan = plan.only(only)
        result = run(plan, stage)
        if result.kind is not None and shrinks and only is None:
            result = _shortest(plan, result, stage)
    _print(result)
    return 0 if result.violation is None else 1


def _shortest(plan: Plan, result: Result, stage: Stage) -> Result:
    assert result.kind is not None
    return run(shrink(plan, result.kind, lambda tried: run(tried, stage).kind), stage)


def _print(result: Result) -> None:
    plan = result.plan
    print("\n".join(result.trace))
    numbers = ",".join(str(event.number) for event in plan.events)
    print(f"\nseed {plan.seed}, {len(plan.events)} events, {result.steps} lines, digest {result.digest}")
    if result.violation is not None:
        print(f"broken: {result.violation}")
        for event in plan.events:
            when = f"{event.at / 1e6:>9.3f} s {'late ' if event.late else ''}"
            print(f"  {event.number:>3} {when}{event.kind} {dict(event.args)}")
        print(f"again: make sim SEED={plan.seed} ONLY={numbers}")


if __name__ == "__main__":
    sys.exit(main())
