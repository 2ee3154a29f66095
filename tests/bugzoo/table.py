"""The table of planted bugs in docs/reliability.md, and the survey that it is made from."""

import json
from typing import Final

from tests.bugzoo.bug import Bug, Layer
from tests.bugzoo.child import PASSED, VIOLATED
from tests.bugzoo.patching import ROOT
from tests.bugzoo.zoo import BUGS

DOCUMENT: Final = ROOT / "docs" / "reliability.md"
HEADING: Final = "## Planted bugs"
SURVEY: Final = ROOT / "tests" / "bugzoo" / "survey.json"
_HEAD: Final = "| bug | what it does | found by | at | found as well by | not found by |"

Survey = dict[str, dict[str, str]]
"""Bug → layer → what came of the layer's run with it."""


def read_survey() -> Survey:
    found: Survey = json.loads(SURVEY.read_text(encoding="utf-8")) if SURVEY.exists() else {}
    return found


def write_survey(survey: Survey) -> None:
    """Sorted, so that only what is new differs."""
    SURVEY.write_text(json.dumps(survey, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def table() -> str:
    """The rows as they stand in the document."""
    survey = read_survey()
    return "\n".join([_HEAD, "|---|---|---|---|---|---|", *(_row(bug, survey.get(bug.name, {})) for bug in BUGS)])


def _row(bug: Bug, tried: dict[str, str]) -> str:
    others = [layer for layer in Layer if layer is not bug.found_by.layer]
    found = ", ".join(layer for layer in others if tried.get(layer) == VIOLATED)
    missed = ", ".join(layer for layer in others if tried.get(layer) == PASSED)
    by = f"`{bug.found_by.layer}` | {bug.found_by.shown}"
    return f"| `{bug.name}` | {bug.does} | {by} | {found or '–'} | {missed or '–'} |"


def written() -> str:
    """The table in the document."""
    section = DOCUMENT.read_text(encoding="utf-8").split(HEADING + "\n", 1)[1].split("\n## ", 1)[0]
    return "\n".join(line for line in section.splitlines() if line.startswith("|"))


def write_table() -> None:
    """Put the table of today into the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(text.replace(written(), table()), encoding="utf-8")
