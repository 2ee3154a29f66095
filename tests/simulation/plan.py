"""What a seed plans: who does what when, what lies in wait, and how likely what goes wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from app.core.units import US_PER_S
from tests.simulation.dice import ALL, FAULTS, rng
from tests.simulation.provider import BEAT, SAFE, Conversation
from tests.simulation.statements import TRAPS

USERS: Final = ("ann", "bob/7 é")
POINTS: Final = (
    "start/1", "start/2", "grant/1", "heartbeat/1", "ticks/1", "reconcile/1", "reconcile/2", "refund/1", "rerate/1",
    "void/1", "adjust/1", "review/1", "limits/1", "card/1", "controls/1", "due/1", "due/2", "due/3", "purge/1",
    "purge/2",
)  # fmt: skip
"""Transactions in which something can happen: the operation, and the how manieth of it."""

HIDDEN: Final = ("boot/1", "boot/3", "pull/1", "pull/2", "receiving/1", "slice/1", "end/1")
"""Further ones, in which something happens now and then. Of each some way or other must have happened."""

AMBUSHES: Final = tuple((point, kind) for point in POINTS for kind in TRAPS)
MAIN_S: Final = 600


@dataclass(frozen=True)
class Event:
    """``late``: it comes when the sessions have ended, one after the other; ``at``: µs since the beginning."""

    number: int
    at: int
    kind: str
    late: bool = False
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    seed: int
    processes: int
    rates: Mapping[str, float]
    favourite: tuple[str, str]
    events: tuple[Event, ...]
    month_later: bool
    """Whether the world goes on for a month, so that what is kept for so long is forgotten."""

    def only(self, numbers: frozenset[int]) -> "Plan":
        """The same with fewer events."""
        kept = tuple(event for event in self.events if event.number in numbers)
        return Plan(self.seed, self.processes, self.rates, self.favourite, kept, self.month_later)


def plan_of(seed: int) -> Plan:
    """The plan of a seed. The ambushes go round, so that each point is tried in each way by every hundred seeds."""
    draw = rng(seed, "plan")
    planned: list[tuple[int, str, bool, dict[str, Any]]] = []

    def at(low: float, high: float) -> int:
        return int(draw.uniform(low, high) * US_PER_S)

    def plan(when: int, kind: str, *, late: bool = False, **args: Any) -> None:
        planned.append((when, kind, late, args))

    for user in USERS:
        amount = draw.choice([40, 300, 900, 3000])
        plan(at(0, 5), "grant", user=user, amount=amount, **_terms(draw) | {"effective_in": 0})
    if draw.random() < 0.3:
        # A little that burns first, so that nothing remains of it.
        terms = {"kind": "promotional", "priority": 0}
        plan(at(0, 5), "grant", user=draw.choice(USERS), amount=10, terms=terms, effective_in=0, lasts=None)
    if draw.random() < 0.4:
        plan(at(0, 5), "card", card=draw.choice(sorted(CARDS)))
    if draw.random() < 0.3:
        plan(at(0, 5), "limits", user=draw.choice(USERS), change={"credit_limit": "150"})
    for _ in range(draw.choice([1, 1, 2])):
        card = draw.choice([None, None, *CARDS])
        asked = draw.choice([None, 30, 60, 90, 90, 240])
        when = at(6, 240)
        plan(when, "start", user=draw.choice(USERS), asked=asked, card=card)
        if draw.random() < 0.15:
            # Prices change while it runs; it keeps those that it started with.
            plan(when + 10 * US_PER_S, "card", card=card or "default")
    if draw.random() < 0.15:
        # A chargeback leaves a debt, which the next top-up repays.
        user = draw.choice(USERS)
        plan(at(250, 300), "adjust", user=user, amount=-4000, below=True)
        plan(at(320, 400), "grant", user=user, amount=5000, terms={}, effective_in=0, lasts=None)
    if draw.random() < 0.2:
        plan(at(6, 240), "adopt", user=draw.choice(USERS), asked=90, after=draw.choice([1, 1, 1, 230, None]))
    if draw.random() < 0.12:
        # Nothing is heard of a session that may run, until after it was given up.
        when = at(6, 100)
        fault = draw.choice(["drop after", "500 after", "names another"])
        plan(when, "start", user=draw.choice(USERS), asked=300, fault=fault)
        if fault != "names another":
            plan(when + US_PER_S, "deaf", seconds=draw.choice([20, 200]))
    if rng(seed, "second thoughts").random() < 0.12:
        how = rng(seed, "second thoughts", "how").choice(["shrinks", "revised", "revised"])
        plan(1, "second thoughts", late=True, how=how)
    boast = rng(seed, "boast")
    starts = [when for when, kind, _, _ in planned if kind == "start"]
    if boast.random() < 0.2:
        # While it runs, more is told of a session than there was time for.
        plan(boast.choice(starts) + 65 * US_PER_S, "second thoughts", how="revised much")
    ends = rng(seed, "end")
    for when in starts if ALL[seed % len(ALL)][0] == "end" else starts[:1] if ends.random() < 0.15 else ():
        plan(when + int(ends.uniform(5, 40) * US_PER_S), "end")
    hidden = rng(seed, "hidden")
    if hidden.random() < 0.4:
        point, how = hidden.choice(HIDDEN), hidden.choice(TRAPS)
        plan(0, "ambush", point=point, how=how)
        if point.startswith("pull"):
            plan(hidden.choice(starts) + 40 * US_PER_S, "pull")
    # Drawn by itself, so that what else a seed plans stays as it was.
    away = rng(seed, "away")
    if away.random() < 0.06:
        # For longer than silence is borne, while a session runs.
        when = int(away.uniform(6, 100) * US_PER_S)
        plan(when - 6 * US_PER_S, "grant", user=USERS[0], amount=3000, terms={}, effective_in=0, lasts=None)
        plan(when, "start", user=USERS[0], asked=600, fault=SAFE)
        plan(when + away.choice([10, 40]) * US_PER_S, "outage", seconds=300)
    if away.random() < 0.03:
        # While a heartbeat is waited for that may still come.
        when = int(away.uniform(6, 100) * US_PER_S)
        plan(when, "start", user=USERS[1], asked=300, fault=away.choice(["drop after", "500 after"]))
        plan(when + 15 * US_PER_S, "outage", seconds=300)
    for kind in draw.choices(
        ["grant", "adjust", "void", "limits", "card", "controls", "odd", "pull", "look", "start", "repeat", "outage",
         "kill", "purge", "review", "deaf", "blind"],
        k=draw.randint(1, 4),
    ):  # fmt: skip
        _plan_one(draw, plan, kind, at(10, MAIN_S))
    for kind in draw.choices(
        ["refund", "refund", "rerate", "void", "adjust", "look", "pull", "late beat", "repeat"], k=draw.randint(1, 2)
    ):
        _plan_one(draw, plan, kind, at(1, 60), late=True)
    for turn in range(2):
        point, how = AMBUSHES[(seed * (1, 7)[turn] + turn * 13) % len(AMBUSHES)]
        plan(0, "ambush", point=point, how=how)
        operation = point.partition("/")[0]
        if operation in {"refund", "rerate", "heartbeat", "ticks"}:
            # So that there is a session that beats, and a charge to correct.
            plan(at(0, 5), "grant", user=USERS[0], amount=3000, terms={}, effective_in=0, lasts=None)
            plan(at(6, 60), "start", user=USERS[0], asked=90, fault=SAFE)
        if operation in {"refund", "rerate"}:
            _plan_one(draw, plan, operation, at(1, 60), late=True)
        elif operation == "review":
            # Heartbeat and answer name different sessions: that waits for an operator.
            plan(at(0, 5), "grant", user=USERS[0], amount=3000, terms={}, effective_in=0, lasts=None)
            plan(at(6, 60), "start", user=USERS[0], asked=60, fault="names another")
            _plan_one(draw, plan, operation, at(70, MAIN_S))
        elif operation in {"void", "adjust", "limits", "card", "controls", "purge"}:
            _plan_one(draw, plan, operation, at(10, MAIN_S))
    planned.sort(key=lambda item: (item[2], item[0]))
    # What came later is numbered after the rest, so that this keeps its numbers, from which its own dice are drawn.
    numbered = [Event(number, *item) for number, item in enumerate([*planned, *_further(seed, starts)])]
    return Plan(
        seed=seed,
        processes=draw.choice([1, 1, 1, 2]),
        rates={group: draw.choice([0, 0.1, 0.3]) for group in FAULTS},
        favourite=ALL[seed % len(ALL)],
        events=tuple(sorted(numbered, key=lambda event: (event.late, event.at))),
        month_later=draw.random() < 0.1,
    )


def _further(seed: int, starts: Sequence[int]) -> list[tuple[int, str, bool, dict[str, Any]]]:
    """Further events, each kind drawn by itself; ``starts``: when the first sessions are asked for."""
    planned: list[tuple[int, str, bool, dict[str, Any]]] = []
    crowd = rng(seed, "crowd")
    if crowd.random() < 0.4:
        when = crowd.choice(starts) + int(crowd.uniform(15, 80) * US_PER_S)
        planned.append((when, "crowd", False, {"how": crowd.choice(["many", "bad first", "bad last"])}))
    astray = rng(seed, "astray")
    if astray.random() < 0.2:
        by = astray.choice([-7200, -600, -2, 2, 600, 7200])
        # A clock that was ahead stands still when it is set right, for as long: only a new process helps.
        args = {"by": by, "restart": by > 0 or astray.random() < 0.2, "noticed": astray.random() < 0.3}
        # Shortly before somebody asks for a session, or while it runs.
        when = astray.choice(starts) + int(astray.choice([-4, astray.uniform(5, 60)]) * US_PER_S)
        planned.append((when, "astray", False, {**args, "seconds": astray.choice([20, 100, 300])}))
    keys = rng(seed, "keys")
    if keys.random() < 0.2:
        # Some are revoked when a session is about to be asked for.
        seconds = max(0, keys.choice(starts) / US_PER_S + keys.choice([-5, -1, 0.04, 60]))
        whose, ttl = keys.choice(USERS), keys.choice([60, 120, 300])
        planned.append((0, "keys", False, {"user": whose, "seconds": seconds, "ttl": ttl}))
    return planned


def _plan_one(draw: Any, plan: Any, kind: str, when: int, *, late: bool = False) -> None:
    args: dict[str, Any] = {}
    match kind:
        case "grant":
            args = {"user": draw.choice(USERS), "amount": draw.choice([1, 20, 60, 200]), **_terms(draw)}
        case "adjust":
            amount = draw.choice([5, 30, -5, -30, -400])
            args = {"user": draw.choice(USERS), "amount": amount, "below": amount < 0 and draw.random() < 0.3}
        case "start":
            args = {"user": draw.choice(USERS), "asked": draw.choice([None, 10, 30, 120])}
        case "limits":
            args = {"user": draw.choice(USERS), "change": draw.choice(LIMITS)}
        case "outage":
            args = {"seconds": draw.choice([2, 15, 100])}
        case "blind":
            args = {"seconds": draw.choice([100, 2200])}
        case "deaf":
            args = {"seconds": draw.choice([60, 200, 400])}
        case "refund":
            args = {"part": draw.choice([None, None, 0.3, 1.5])}
        case "rerate" | "card":
            args = {"card": draw.choice(sorted(CARDS))}
        case "review":
            args = {"action": draw.choice(["settle", "write_off"])}
        case "late beat":
            args = {"nth": draw.randint(0, 9)}
    plan(when, kind, late=late, **args)


def _terms(draw: Any) -> dict[str, Any]:
    return {
        "terms": {
            "kind": draw.choice(["paid", "promotional"]),
            "priority": draw.choice([10, 50, 50, 90]),
            **({"cost_basis": "0.25"} if draw.random() < 0.3 else {}),
            **({"reference": f"order-{draw.randint(1, 10**9)}"} if draw.random() < 0.3 else {}),
        },
        "effective_in": draw.choice([0, 0, 0, 60, 300]),
        "lasts": draw.choice([None, None, 40, 200, 2000]),
    }


LIMITS: Final = (
    {"credit_limit": "60"}, {"credit_limit": "0"}, {"suspended": True}, {"suspended": False},
    {"max_concurrent_sessions": 1}, {"spend_limits": {"day": "50"}}, {"default_time_limit_s": 45},
    {"rate_card": "dear"}, {"alerts": {"low_credits": "25"}}, {"alerts": {"low_talk_time_s": 60}},
)  # fmt: skip
CARDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "default": {"rates": {"user": "30", "agent": "60", "silence": "12"}},
    "dear": {"rates": {"user": "60", "agent": "120", "silence": "60"}, "silence": {"full_rate_first_s": None}},
    "fees": {
        "rates": {"user": "1.5", "agent": "3", "silence": "0.6"},
        "silence": {"full_rate_first_s": 2, "factor_after": "0.5"},
        "connection_fee": "0.25", "included_s": 3, "minimum_charge": "0.5", "maximum_charge": "400",
        "increments": {"initial_s": 6, "subsequent_s": 6, "scope": "type"},
    },
    "strict": {
        "rates": {"user": "60", "agent": "60", "silence": "60"}, "short_session_exemption_s": 20,
        "measurement": {"charge_from": "first_user_speech", "missed_heartbeats_tolerated": 0, "heartbeat_jitter_s": 5},
    },
}  # fmt: skip


def conversation_of(seed: int, number: int, start_fault: str | None) -> Conversation:
    """What is said in the session that event ``number`` starts."""
    draw = rng(seed, "conversation", number)
    manner = draw.choice(["talk", "talk", "talk", "ghost", "silent", "gap", "tool", "monologue"])
    segments: list[tuple[str, int]] = []

    def say(kind: str, low: float, high: float) -> None:
        segments.append((kind, int(draw.uniform(low, high) * US_PER_S)))

    if manner != "silent":
        for _ in range(1 if manner == "ghost" else draw.randint(1, 5)):
            say("silence", 0.2, 4)
            say("agent", 1, 12)
            if manner != "monologue":
                say("silence", 0.1, 8)
                say("user", 0.5, 9)
            if manner == "tool" and draw.random() < 0.5:
                say("tool", 1, 7)
    if manner == "gap":
        # The user is away; the agent stays and beats on.
        say("silence", 90, 150)
        say("user", 1, 4)
    talked = sum(length for _, length in segments)
    leaves: int | None = talked + int(draw.uniform(0, 90) * US_PER_S)
    if manner == "ghost" and draw.random() < 0.3:
        leaves = None
    mute: tuple[int, int] | None = None
    if manner == "gap" and draw.random() < 0.6:
        away = sum(length for _, length in segments[:-2])
        mute = (away, away + segments[-2][1])
    if start_fault not in {None, SAFE}:
        leaves = None  # so that it is still heard of when it was given up
    elif draw.random() < 0.1:
        leaves = int(talked * draw.random())
    return Conversation(
        segments=tuple(segments),
        connects_after=int(draw.uniform(0, 3) * US_PER_S),
        leaves=leaves,
        first_beat=0 if start_fault is not None else draw.choice([0, BEAT]),
        mute=mute,
        grows=draw.random() < 0.8,
        bare=draw.random() < 0.5,
        next_page=draw.choice(["token", "integer", "relative", "url"]),
        stuck=int(draw.uniform(10, 40) * US_PER_S) if draw.random() < 0.06 else None,
        start_fault=start_fault,
        crumbs=3 if draw.random() < 0.1 else 0,
    )
