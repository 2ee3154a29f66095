"""The faults of a storm, and how likely each is. Everything that the simulated provider can do wrong is in here."""

from collections.abc import Mapping
from typing import Final

from app.simulator.faults import KNOWN

PULL_FAILS: Final = (
    "401", "403", "404", "429", "500", "redirect", "drop", "half", "malformed", "foreign_page", "loop", "odd_page",
    "total_changes", "hang",
)  # fmt: skip
"""Ways in which a page of a timeline cannot be had."""

PULL_LIES: Final = ("nan", "huge_number", "missing_type", "missing_seconds", "unknown_type", "shrinks")
"""Ways in which a timeline is had, and is not what happened."""

START_AMBIGUOUS: Final = (
    "500", "500_after", "hang", "hang_after", "drop_before", "drop_after", "malformed", "redirect",
)  # fmt: skip

FAULTS: Final[Mapping[str, str]] = {
    "heartbeat.lost": "0.1",
    "heartbeat.doubled": "0.1",
    "heartbeat.late": "0.1",
    "heartbeat.foreign": "0.005",
    # Five per cent in all.
    **{f"start.{kind}": "0.00625" for kind in START_AMBIGUOUS},
    **{f"start.{kind}": "0.005" for kind in ("400", "401", "403", "429", "slow")},
    # A request is tried against one after the other, until one strikes: of those before none may have.
    **{f"timeline.{kind}": "0.1" for kind in PULL_FAILS},
    **{f"timeline.{kind}": "0.01" for kind in (*PULL_LIES, "slow")},
    **{name: "0.05" for name in KNOWN if name.startswith("end.")},
}


def never_struck(struck: Mapping[str, int], *, all_of_them: bool) -> list[str]:
    """Faults that never happened and had to: all, or in a short storm those that are likely."""
    if all_of_them:
        return [name for name in FAULTS if not struck.get(name)]
    likely = [name for name in FAULTS if name.startswith(("heartbeat.", "timeline.")) and FAULTS[name] == "0.1"]
    ambiguous = sum(struck.get(f"start.{kind}", 0) for kind in START_AMBIGUOUS)
    return [name for name in likely if not struck.get(name)] + ([] if ambiguous else ["start: none was ambiguous"])
