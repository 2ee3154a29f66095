"""What a benchmark gives: figures of both sides, and the ratio that counts."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, slots=True)
class Figure:
    """``ours`` against ``theirs``, both in ``unit``; medians of several rounds taken in turn."""

    what: str
    against: str
    unit: str
    ours: list[float]
    theirs: list[float]
    checked: str

    def row(self) -> str:
        ours, theirs = median(self.ours), median(self.theirs)
        return (
            f"| {self.what} | {self.against} | {ours:,.0f} {self.unit} | {theirs:,.0f} {self.unit} "
            f"| {100 * ours / theirs:.0f} % | {self.checked} |"
        )


HEADER = "| what | against | ours | theirs | ratio | checked |\n|---|---|---|---|---|---|"


def put_section(page: Path, heading: str, section: str) -> None:
    """Put a section that begins with ``heading`` into the page, in its own place or behind the others."""
    before, found, rest = page.read_text(encoding="utf-8").partition(heading)
    _, following, after = rest.partition("\n## ")
    text = (before if found else before.rstrip() + "\n\n") + section.rstrip() + "\n"
    page.write_text(text + (f"\n## {after}" if following else ""), encoding="utf-8")
