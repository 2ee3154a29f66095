"""Top-ups of the simulated world: a provider of payments that tells of each often, late and in any order; and grants
that come again each day.

Their throws are drawn by names of their own, and only some worlds have them, so that what else happens in a world stays
as it was. What must have come of a payment is worked out here, from what was paid and what went back.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

from app.core.units import US_PER_DAY, US_PER_S, parse_instant
from tests.simulation.dice import rng
from tests.simulation.loop import WorldClock
from tests.simulation.processes import Answer, Process
from tests.simulation.statements import TRAPS
from tests.support.stripe import PATH, SECRET, Event, FakeStripe, Purchase

PAYER: Final = "pay/1 ü"
"""Who pays, in worlds with payments; nobody else does anything with this account but correct it."""

FAULTS: Final = ("lost", "answer lost", "doubled", "dies after")
RATE: Final = 0.3
PATIENCE_S: Final = 60.0
SLACK: Final = 200_000_000
"""In µs: after so long a period must have been given, while nothing goes wrong."""

BRANCHES: Final = (
    *(f"stripe/{fault}" for fault in FAULTS),
    "stripe 200", "stripe 503 unavailable", "recurring 201", "a refund before its checkout",
    "a payment in part refunded",
    "a payment refunded", "a dispute won", "a dispute lost", "credits of a payment spent before it went back",
    "a period given", "missed periods given", "event payment.reversed", "event payment.reinstated",
)  # fmt: skip
"""What must have happened over a run of many worlds."""


def pays(seed: int) -> bool:
    """Whether the world of a seed has payments and recurring grants."""
    return seed % 8 in {1, 6}


@dataclass
class Deal:
    """A purchase, and what becomes of its money: each an event so many seconds after the one before."""

    at_s: float
    amount: int
    credits: str | None
    later: Sequence[tuple[float, str]]
    bought: Purchase | None = None
    disputed: int = 0
    """What the bank has, or has decided to keep."""
    events: dict[str, list[Event]] = field(default_factory=dict)

    @property
    def granted(self) -> int:
        """Micro-credits."""
        return round(Fraction(self.credits) * 10**6) if self.credits else self.amount * 100_000

    @property
    def owed(self) -> int:
        assert self.bought is not None
        gone = min(Fraction(1), Fraction(self.bought.refunded + self.disputed, self.amount))
        return int(self.granted * gone)


STORIES: Final[Sequence[Sequence[str]]] = (
    (), (), ("part",), ("part", "rest"), ("all",), ("dispute", "won"), ("dispute", "lost"), ("part", "dispute", "won"),
    ("inquiry",),
)  # fmt: skip


def deals_of(seed: int) -> list[Deal]:
    draw = rng(seed, "deals")
    return [
        Deal(
            at_s=draw.uniform(5, 500),
            amount=draw.choice([100, 999, 5000]),
            credits=draw.choice([None, "100", "33.333333"]),
            later=[(draw.choice([0, 1, 60]), step) for step in draw.choice(STORIES)],
        )
        for _ in range(draw.choice([2, 3, 4]))
    ]


def ambush_of(seed: int) -> tuple[str, str] | None:
    """Where something lies in wait for these, and what."""
    draw = rng(seed, "top-up ambush")
    point = draw.choice(["stripe/1", "stripe/2", "recurring/1", "recurring/2", "recurring/3"])
    return (point, draw.choice(TRAPS)) if draw.random() < 0.6 else None


@dataclass
class TopUps:
    """``pick`` gives a process that a request can be sent to, ``send`` makes one there."""

    seed: int
    clock: WorldClock
    fail: Callable[[str, str], None]
    active: Callable[[], bool]
    seen: Counter[str]
    pick: Callable[..., Process | None]
    send: Callable[[Process, bytes, dict[str, str]], Awaitable[Answer | None]]
    say: Callable[[str], None]
    deals: list[Deal] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    """Events that were acknowledged, in that order."""
    series: dict[str, Any] | None = None
    """The recurring grant, as its maker was told."""

    def __post_init__(self) -> None:
        self.stripe = FakeStripe(f"w{self.seed}x", self._seconds())

    def _seconds(self) -> int:
        return self.clock.now() // US_PER_S

    async def pay(self, deal: Deal, spawn: Callable[[Any], Any]) -> None:
        """One purchase from the checkout to the end of its story; events are on their way meanwhile."""
        await asyncio.sleep(deal.at_s)
        self.stripe.now = self._seconds()
        deal.bought = self.stripe.checkout(PAYER, deal.amount, credits=deal.credits)
        waiting = [spawn(self._told(deal, "checkout", self.stripe.events[-1]))]
        for wait_s, step in deal.later:
            await asyncio.sleep(wait_s)
            self.stripe.now = self._seconds()
            waiting.append(spawn(self._told(deal, step, self._happens(deal, step))))
        await asyncio.gather(*waiting)

    def _happens(self, deal: Deal, step: str) -> Event:
        assert deal.bought is not None
        left = deal.amount - deal.bought.refunded
        match step:
            case "part" | "rest" | "all":
                return self.stripe.refund(deal.bought, left // 3 if step == "part" else left)
            case "inquiry":
                return self.stripe.dispute(deal.bought, left, "warning_needs_response")
            case "dispute":
                deal.disputed = left
                return self.stripe.dispute(deal.bought, left)
        # Stripe's times are whole seconds, and a decision is never of the same one as the dispute.
        self.stripe.now += 1
        deal.disputed = left if step == "lost" else 0
        return self.stripe.dispute(deal.bought, left, step, "closed")

    async def _told(self, deal: Deal, step: str, event: Event) -> None:
        """Deliver until it is acknowledged; now and then once more."""
        deal.events.setdefault(step, []).append(event)
        draw = rng(self.seed, "stripe", event.id)
        again = draw.random() < 0.3
        await asyncio.sleep(draw.choice([0, 0, 0.2, 5, 90]))
        attempt = 0
        while True:
            attempt += 1
            if await self._attempt(event, attempt):
                if event.id not in self.heard:
                    self.heard.append(event.id)
                if not again:
                    return
                again = False
            await asyncio.sleep(min(2.0**attempt, PATIENCE_S))

    async def _attempt(self, event: Event, attempt: int) -> bool:
        draw = rng(self.seed, "stripe", event.id, attempt)
        fault = draw.choice(FAULTS) if self.active() and draw.random() < RATE else None
        if fault is not None:
            self.seen[f"stripe/{fault}"] += 1
        if fault == "lost":
            return False
        if fault == "doubled":
            both = await asyncio.gather(self._send(event, attempt, 0), self._send(event, attempt, 1))
            return any(both)
        arrived = await self._send(event, attempt, 0)
        if fault == "dies after":
            process = self.pick("stripe dies", event.id, attempt)
            if process is not None:
                await process.die()
        return arrived and fault is None

    async def _send(self, event: Event, attempt: int, copy: int) -> bool:
        process = self.pick("stripe", event.id, attempt, copy)
        if process is None:
            return False
        self.stripe.now = max(self.stripe.now, self._seconds())
        headers = {name.lower(): value for name, value in self.stripe.signed(event.body, at=self._seconds()).items()}
        answer = await self.send(process, event.body, headers | {"authorization": ""})
        if answer is None:
            return False
        self.say(f"stripe {event.kind} {event.id}: {answer.status} {answer.problem}")
        self.seen[f"stripe {answer.status} {answer.problem}".rstrip()] += 1
        if answer.status not in {200, 500, 503}:
            self.fail("a genuine event was refused", f"{event.kind}: {answer.status} {answer.content!r}")
        return answer.status == 200

    # What must have come of it

    def known(self, reference: str | None) -> bool:
        """Whether a grant with this reference has its cause here."""
        if reference is None:
            return False
        bought = {deal.bought.reference for deal in self.deals if deal.bought is not None}
        return reference in bought or (self.series is not None and reference.startswith("recurring:"))

    def check_payments(self, rows: Callable[[str], list[dict[str, Any]]]) -> None:
        """Each checkout was granted once, and of its credits as much went back as of its money."""
        grants = rows("select * from grants where reference like 'stripe:%'")
        for deal in self.deals:
            assert deal.bought is not None
            reference = deal.bought.reference
            grant = next((one for one in grants if one["reference"] == reference), None)
            if grant is None or grant["amount"] != deal.granted:
                self.fail("a paid checkout is not granted", f"{reference}: {grant}")
                continue
            (moved,) = rows(
                "select p.id, p.taken, -coalesce(sum(e.amount), 0) as net, min(e.amount) as first from payments p"
                " left join entries e on e.natural_key like 'adjust%:payment:' || replace(p.id::text, '-', '') || ':%'"
                f" where p.reference = '{reference}' group by p.id, p.taken"
            )
            lost = grant["amount"] - sum(
                row["amount"] for row in rows(f"select amount from entries where grant_id = '{grant['id']}'")
            )
            if not max(0, deal.owed - lost) <= moved["net"] <= deal.owed or moved["net"] != moved["taken"]:
                self.fail("not what went back of a payment", f"{reference}: {moved}, owed {deal.owed}, lost {lost}")
            self._note(deal)
        if len(grants) != len(self.deals):
            self.fail("a grant for no payment", str([one["reference"] for one in grants]))
        below = rows("select count(*) as found from entries where natural_key like 'adjust-below-floor:payment:%'")
        self.seen["credits of a payment spent before it went back"] += below[0]["found"]

    def _note(self, deal: Deal) -> None:
        assert deal.bought is not None
        steps = [step for _, step in deal.later]
        refunded = deal.bought.refunded
        self.seen["a payment refunded"] += refunded == deal.amount
        self.seen["a payment in part refunded"] += 0 < refunded < deal.amount
        self.seen["a dispute won"] += "won" in steps
        self.seen["a dispute lost"] += "lost" in steps
        (checkout,) = deal.events["checkout"]
        earlier = self.heard[: self.heard.index(checkout.id)]
        self.seen["a refund before its checkout"] += any(
            event.id in earlier for step in ("part", "all") for event in deal.events.get(step, [])
        )

    def check_periods(self, rows: Callable[[str], list[dict[str, Any]]], *, missed: bool) -> None:
        """Each period that has begun was given once, as of when it began, and none that has not."""
        if self.series is None:
            return
        found = rows(
            "select g.reference, g.amount, g.effective_at, g.expires_at, g.state from grants g"
            " where g.reference like 'recurring:%' order by g.effective_at"
        )
        begun = parse_instant(self.series["starts_at"])
        now = self.clock.now()
        least = max(0, (now - SLACK - begun) // US_PER_DAY + 1) if now - SLACK >= begun else 0
        most = (now + SLACK - begun) // US_PER_DAY + 1 if now + SLACK >= begun else 0
        starts = [int(row["effective_at"].timestamp()) * US_PER_S for row in found]
        if starts != [begun + n * US_PER_DAY for n in range(len(found))] or not least <= len(found) <= most:
            self.fail("not the periods that have begun", f"{len(found)}, of {least} to {most}: {starts}")
        if any(row["amount"] != round(Fraction(self.series["amount"]) * 10**6) for row in found):
            self.fail("a period gave another amount", str(found))
        self.seen["a period given"] += len(found) > 0
        self.seen["missed periods given"] += missed and len(found) > 2


def settings() -> Mapping[str, str]:
    """What the processes of all worlds need for them."""
    return {"stripe_webhook_secrets": SECRET, "stripe_credits_per_minor_unit": "usd=0.1"}


__all__ = ["BRANCHES", "PATH", "PAYER", "TopUps", "ambush_of", "deals_of", "pays", "settings"]
