"""What a planted bug is, and which run of which layer finds it. Imports nothing of the product."""

from dataclasses import dataclass
from enum import StrEnum


class Layer(StrEnum):
    """In the order of what they cost."""

    UNIT = "unit"
    REFERENCE = "reference"
    PROPERTY = "property"
    CONTRACT = "contract"
    INTEGRATION = "integration"
    CUTS = "cuts"
    STATEFUL = "stateful"
    TURNSTILE = "turnstile"
    SIM = "sim"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a layer.

    ``seed``: of the layers that have one. ``amount``: cases of the reference, histories of the stateful layer.
    ``only``: tests of a layer that is a folder of tests, by their ids within it; operations of the cuts; a pair of the
    turnstile; empty for all.
    """

    layer: Layer
    seed: int | None = None
    amount: int | None = None
    only: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """What of the layer it is, for tables."""
        seed = "" if self.seed is None else f"seed {self.seed}"
        what = {Layer.REFERENCE: "cases", Layer.STATEFUL: "runs"}.get(self.layer, "")
        amount = "" if self.amount is None else f"{self.amount} {what}"
        return ", ".join(part for part in (seed, amount, *self.only) if part) or "all"


@dataclass(frozen=True, slots=True)
class Patch:
    """``old``, which the source of ``module`` holds exactly once, becomes ``new``."""

    module: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """``found_by``: the run that finds it at the least cost."""

    name: str
    does: str
    patches: tuple[Patch, ...]
    found_by: Run

    @property
    def modules(self) -> frozenset[str]:
        return frozenset(patch.module for patch in self.patches)
