"""Compare the engine with the reference on random documents.

``python -m tests.reference.compare --cases 100000 --seed 1`` prints the first document on which they differ, cut down
to a small one, and exits with 1.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from app.core.lossless_json import dumps
from app.pricing.preview import preview
from tests.reference.charging import charge
from tests.reference.documents import Seeded, document

ANSWERED = (
    "amount",
    "beyond_authorization",
    "origin",
    "timeline_s",
    "billed",
    "not_billed",
    "lines",
    "envelopes",
    "pieces",
    "anomalies",
)
"""What both sides answer; the engine adds the card and its own version."""


def engine(body: dict[str, Any]) -> dict[str, Any]:
    """The engine's answer to a parsed document, for the keys that the reference answers too."""
    answer = preview(dumps(body).encode())
    return {key: plain_json(answer[key]) for key in ANSWERED}


def reference(body: dict[str, Any]) -> dict[str, Any]:
    """The reference's answer to a parsed document."""
    answer = charge(body)
    return {key: plain_json(answer[key]) for key in ANSWERED}


def plain_json(value: Any) -> Any:
    """Lists for tuples, so that only content is compared."""
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    return value


def differences(body: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What the two disagree on: key → (engine, reference)."""
    ours, theirs = engine(body), reference(body)
    return {key: (ours[key], theirs[key]) for key in ANSWERED if ours[key] != theirs[key]}


def smaller(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Documents with one thing less."""
    for key in ("authorized", "interim", "time_limit_s"):
        if key in body:
            yield {name: value for name, value in body.items() if name != key}
    for position in range(len(body["heartbeats"])):
        yield {**body, "heartbeats": body["heartbeats"][:position] + body["heartbeats"][position + 1 :]}
    for position, pull in enumerate(body["snapshots"]):
        if len(body["snapshots"]) > 1:
            yield {**body, "snapshots": body["snapshots"][:position] + body["snapshots"][position + 1 :]}
        for at in range(len(pull["values"])):
            pulls = list(body["snapshots"])
            pulls[position] = {**pull, "values": pull["values"][:at] + pull["values"][at + 1 :]}
            yield {**body, "snapshots": pulls}
    card = body.get("rate_card", {})
    for key in card:
        if key in ("name", "rates"):
            continue
        yield {**body, "rate_card": {name: value for name, value in card.items() if name != key}}
        if isinstance(card[key], dict):
            for inner in card[key]:
                kept = {name: value for name, value in card[key].items() if name != inner}
                yield {**body, "rate_card": {**card, key: kept}}


def shrink(body: dict[str, Any], fails: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Take things away for as long as ``fails`` stays true."""
    while True:
        for candidate in smaller(body):
            if fails(candidate):
                body = candidate
                break
        else:
            return body


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="how many documents (default 10000)")
    parser.add_argument("--seed", type=int, default=1, help="the seed of the first document (default 1)")
    options = parser.parse_args(arguments)
    out = sys.stdout
    begun = time.perf_counter()
    for seed in range(options.seed, options.seed + options.cases):
        body = document(Seeded(seed))
        if not differences(body):
            continue
        small = shrink(body, lambda candidate: bool(differences(candidate)))
        out.write(f"seed {seed}:\n{dumps(small)}\n")
        for key, (ours, theirs) in differences(small).items():
            out.write(f"{key}:\n  engine    {ours}\n  reference {theirs}\n")
        return 1
    elapsed = time.perf_counter() - begun
    out.write(f"{options.cases} documents from seed {options.seed}: no difference ({elapsed:.0f} s)\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
