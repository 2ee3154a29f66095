"""What reading everything finds, and how far the reading is."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

MAX_FINDINGS: Final = 100
"""Each check reports at most so many rows."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One row that breaks a promise; ``check`` is its name in docs/invariants.md."""

    check: str
    account_id: UUID
    row: str
    detail: str


class Progress(Protocol):
    def __call__(self, what: str, done: int, total: int, /) -> None:
        """``done`` of ``total`` things of the kind ``what`` are read."""
        ...


def untold(what: str, done: int, total: int) -> None:
    """Nobody wants to know how far it is."""


class Findings:
    """Collects at most :data:`MAX_FINDINGS` of each check. ``cut_off``: the checks that found more."""

    def __init__(self) -> None:
        self._found: dict[str, list[Finding]] = defaultdict(list)
        self.cut_off: list[str] = []

    def add(self, finding: Finding) -> None:
        found = self._found[finding.check]
        if len(found) < MAX_FINDINGS:
            found.append(finding)
        elif finding.check not in self.cut_off:
            self.cut_off.append(finding.check)

    @property
    def all(self) -> list[Finding]:
        """Check by check, in the order in which each first found something."""
        return [finding for found in self._found.values() for finding in found]
