"""The manual of the provider names what exists."""

from pathlib import Path

from app.gabber import PullFailure
from app.simulator.faults import KNOWN
from app.simulator.script import BUILT_IN, parse_script

MANUAL = (Path(__file__).parents[2] / "docs" / "provider.md").read_text()


def test_the_manual_names_every_fault_script_and_failure() -> None:
    rows = [line for line in MANUAL.splitlines() if line.startswith("| `")]
    for name in KNOWN:
        operation, _, kind = name.partition(".")
        assert any(row.startswith(f"| `{operation}.") and f".{kind}`" in row for row in rows), name
    for script in BUILT_IN:
        assert any(row.startswith(f"| `{script}` |") for row in rows), script
    for failure in PullFailure:
        answer = "yes" if failure.transient else "no"
        assert any(row.startswith(f"| `{failure.name}` |") and row.endswith(f"| {answer} |") for row in rows), failure


def test_the_manuals_script_can_be_played() -> None:
    example = MANUAL.partition("```json\n")[2].partition("```")[0]
    assert parse_script(example.encode()).name == "hurry"
