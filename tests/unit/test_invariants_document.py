"""docs/invariants.md names every check, in the words of the check, and no other."""

import re
from pathlib import Path

from app.ledger.checks import CHECKS
from app.ledger.verify import CHAIN, IDENTITY

ROWS = re.findall(
    r"^\| (.+?) \| .+? \| (.*?) ?\|$",
    (Path(__file__).resolve().parents[2] / "docs" / "invariants.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


def test_every_check_has_its_row_and_no_other() -> None:
    named = {name for _, names in ROWS for name in re.findall(r"`([a-z-]+)`", names)}
    assert named == {check.name for check in CHECKS} | {CHAIN, IDENTITY}


def test_the_row_says_what_the_check_promises() -> None:
    promises = [promise.lower().rstrip(".") for promise, _ in ROWS]
    for check in CHECKS:
        start = check.promise.lower().rstrip(".")
        assert any(promise.startswith(start) for promise in promises), check.name
