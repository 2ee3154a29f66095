"""What the demonstration plays, and what each session must come to.

The expected amounts are exact: on the default card at most 5 s of each silence count, and every script's agent stays
long enough for a heartbeat to prove those, so it does not matter when exactly heartbeats arrive.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One session: who starts which scenario with which credits, and what comes of it.

    ``charge`` and ``balance`` are what must come out, in credits; ``charge`` null: the start must be refused.
    """

    title: str
    user: str
    grant: str
    scenario: str
    time_limit_s: int | None = None
    charge: str | None
    balance: str


ACTS: Final = (
    Act(title="a normal talk", user="ada", grant="600", scenario="talk", charge="175.348", balance="424.652"),
    Act(title="the guide's example", user="grace", grant="100", scenario="guide", charge="21.571", balance="78.429"),
    Act(
        title="the same, no heartbeat heard",
        user="edsger",
        grant="100",
        scenario="unheard",
        charge="16.571",
        balance="83.429",
    ),
    Act(
        title="a ghost: the agent stays, nobody talks",
        user="casper",
        grant="500",
        scenario="ghost",
        time_limit_s=300,
        charge="21",
        balance="479",
    ),
    Act(
        title="a user who was away for a while",
        user="odysseus",
        grant="200",
        scenario="disconnect",
        charge="55",
        balance="145",
    ),
    Act(title="talks until the credits end", user="babel", grant="90", scenario="endless", charge="90", balance="0"),
    Act(title="too few credits", user="diogenes", grant="12", scenario="talk", charge=None, balance="12"),
)
