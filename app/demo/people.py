"""Who lives in the demonstration's history: what they talk about, how often, and how they pay."""

from dataclasses import dataclass
from typing import Final

from app.simulator.script import Draw, Script, built_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A scenario of a persona's, and of what its conversations are drawn."""

    persona: str
    draw: Draw


TOPICS: Final[dict[str, Topic]] = {
    "cafe-order": Topic(
        persona="tutor",
        draw=Draw(
            turns=(10, 30),
            in_turn=True,
            user_ms=(600, 7_000),
            agent_ms=(1_500, 11_000),
            pause_ms=(150, 2_200),
            long_pause_ms=(4_000, 14_000),
            long_pause_in=12,
            stays_ms=(0, 25_000),
        ),
    ),
    "small-talk": Topic(
        persona="tutor",
        draw=Draw(
            turns=(24, 60),
            in_turn=True,
            user_ms=(800, 14_000),
            agent_ms=(1_200, 9_000),
            pause_ms=(200, 2_800),
            long_pause_ms=(5_000, 22_000),
            long_pause_in=14,
            stays_ms=(0, 40_000),
        ),
    ),
    "grammar-drill": Topic(
        persona="tutor",
        draw=Draw(
            turns=(16, 44),
            in_turn=True,
            user_ms=(700, 6_000),
            agent_ms=(2_000, 9_000),
            pause_ms=(300, 4_000),
            long_pause_ms=(6_000, 26_000),
            long_pause_in=5,
            stays_ms=(0, 50_000),
        ),
    ),
    "job-interview": Topic(
        persona="coach",
        draw=Draw(
            turns=(12, 34),
            in_turn=True,
            user_ms=(6_000, 34_000),
            agent_ms=(2_500, 10_000),
            pause_ms=(200, 1_800),
            long_pause_ms=(5_000, 16_000),
            long_pause_in=11,
            stays_ms=(0, 12_000),
        ),
    ),
    "pitch-practice": Topic(
        persona="coach",
        draw=Draw(
            turns=(6, 14),
            in_turn=True,
            user_ms=(15_000, 62_000),
            agent_ms=(6_000, 21_000),
            pause_ms=(400, 2_500),
            stays_ms=(0, 9_000),
        ),
    ),
    "book-a-visit": Topic(
        persona="receptionist",
        draw=Draw(
            turns=(7, 18),
            in_turn=True,
            user_ms=(900, 7_500),
            agent_ms=(1_800, 8_000),
            pause_ms=(150, 1_500),
            long_pause_ms=(4_000, 31_000),
            long_pause_in=9,
            stays_ms=(0, 6_000),
            connects_ms=(200, 1_100),
        ),
    ),
    "opening-hours": Topic(
        persona="receptionist",
        draw=Draw(
            turns=(3, 7),
            in_turn=True,
            user_ms=(1_000, 5_000),
            agent_ms=(2_500, 7_500),
            pause_ms=(200, 1_200),
            stays_ms=(0, 5_000),
            connects_ms=(200, 1_100),
        ),
    ),
    "evening-chat": Topic(
        persona="companion",
        draw=Draw(
            turns=(90, 210),
            in_turn=True,
            user_ms=(1_200, 18_000),
            agent_ms=(1_500, 9_000),
            pause_ms=(400, 5_500),
            long_pause_ms=(9_000, 55_000),
            long_pause_in=13,
            stays_ms=(0, 90_000),
        ),
    ),
}


def scripts() -> dict[str, Script]:
    """What the simulated provider can play in the demonstration."""
    return built_in() | {name: Script(name=name, random=topic.draw) for name, topic in TOPICS.items()}


PERSONAS: Final = ("default", *sorted({topic.persona for topic in TOPICS.values()}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """What one buys at a time: credits, at so much money each, good for so many days."""

    amount: int
    cost_basis: str
    days: int = 365


SMALL: Final = Pack(amount=600, cost_basis="0.0050")
USUAL: Final = Pack(amount=1800, cost_basis="0.0045")
LARGE: Final = Pack(amount=6000, cost_basis="0.0039")
INVOICE: Final = Pack(amount=1500, cost_basis="0.0034")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A user and his habits."""

    user_id: str
    since: int
    """Days before the present on which he came."""
    per_week: int
    """Sessions."""
    topics: tuple[str, ...]
    hour: int
    """Of the demonstration's day, which begins at the time of the day at which it is started."""
    buys: Pack | None = None
    """Whenever less than a session is likely to cost is available; null: never."""
    below: int = 320
    """The credits below which he buys."""
    subscribes: Pack | None = None
    """Each week anew; what is left of the last week's expires."""
    until: int = 0
    """Days before the present on which he was seen last."""
    asks_s: int = 900
    """The time limit that is asked for."""
    welcome: int = 300
    """Promotional credits for a fortnight."""


PEOPLE: Final = (
    Person(user_id="amelie.fontaine", since=34, per_week=8, topics=("cafe-order", "small-talk"), hour=19, buys=USUAL),
    Person(
        user_id="jonas.weber",
        since=33,
        per_week=6,
        topics=("grammar-drill", "small-talk"),
        hour=7,
        subscribes=Pack(amount=1500, cost_basis="0.0040", days=7),
    ),
    Person(user_id="mei-lin.chen", since=30, per_week=9, topics=("small-talk", "cafe-order"), hour=12, buys=USUAL),
    Person(
        user_id="tomasz.kowal", since=26, per_week=5, topics=("job-interview", "pitch-practice"), hour=17, buys=USUAL
    ),
    Person(
        user_id="ruth.goldberg",
        since=28,
        per_week=3,
        topics=("evening-chat",),
        hour=21,
        buys=LARGE,
        below=2400,
        asks_s=2400,
    ),
    Person(user_id="sofia.rossi", since=33, per_week=3, topics=("cafe-order", "grammar-drill"), hour=18, buys=SMALL),
    Person(user_id="noah.brandt", since=31, per_week=3, topics=("small-talk",), hour=8, buys=USUAL),
    Person(user_id="priya.nair", since=29, per_week=4, topics=("job-interview",), hour=15, buys=USUAL),
    Person(user_id="lucas.moreau", since=27, per_week=3, topics=("cafe-order",), hour=11, buys=SMALL),
    Person(user_id="hanna.virtanen", since=24, per_week=3, topics=("grammar-drill", "cafe-order"), hour=6, buys=USUAL),
    Person(user_id="diego.santos", since=20, per_week=4, topics=("small-talk", "pitch-practice"), hour=22, buys=USUAL),
    Person(user_id="yuki.tanaka", since=17, per_week=5, topics=("cafe-order", "small-talk"), hour=3, buys=SMALL),
    Person(
        user_id="fatima.haddad",
        since=15,
        per_week=4,
        topics=("grammar-drill",),
        hour=9,
        subscribes=Pack(amount=900, cost_basis="0.0042", days=7),
    ),
    Person(user_id="oliver.smith", since=32, per_week=1, topics=("small-talk",), hour=20, buys=SMALL, below=90),
    Person(user_id="ines.ferreira", since=25, per_week=1, topics=("cafe-order",), hour=13, buys=SMALL),
    Person(user_id="karel.novak", since=22, per_week=2, topics=("pitch-practice",), hour=16, buys=SMALL),
    Person(user_id="grace.okafor", since=12, per_week=2, topics=("job-interview",), hour=10, buys=USUAL),
    Person(user_id="leo.martin", since=30, per_week=5, topics=("cafe-order",), hour=14, until=26),
    Person(user_id="zoe.dubois", since=19, per_week=4, topics=("grammar-drill",), hour=18, until=13),
    Person(user_id="ivan.petrov", since=16, per_week=6, topics=("small-talk",), hour=23, until=9, buys=SMALL),
    Person(user_id="anna.lindqvist", since=6, per_week=7, topics=("cafe-order",), hour=8),
    Person(
        user_id="northwind-dental",
        since=34,
        per_week=28,
        topics=("book-a-visit", "opening-hours"),
        hour=7,
        buys=INVOICE,
        below=-420,
        asks_s=600,
        welcome=0,
    ),
    Person(
        user_id="harbor-hotel",
        since=18,
        per_week=12,
        topics=("book-a-visit", "opening-hours", "book-a-visit"),
        hour=14,
        buys=INVOICE,
        asks_s=600,
        welcome=0,
    ),
)
