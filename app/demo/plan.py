"""What happens in the demonstration's history, and when: deeds in order, made of a seed and the present. Pure.

Deeds name the API's calls, so that all there is in the end was made in the way in which it always is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.core.units import US_PER_DAY, US_PER_S, Instant, Micros, format_instant
from app.demo.people import PEOPLE, TOPICS, Person
from app.ports.randomness import Randomness, SeededRandomness

DAYS: Final = 35
"""How long ago the history begins."""

APPS: Final = ("ios", "android", "web")

MINUTE: Final = 60 * US_PER_S
HOUR: Final = 60 * MINUTE

QUIET_BEFORE_PRESENT: Final = Micros(3 * HOUR)
"""What nobody does out of habit any more, so that it does not meet what is told of the last hours."""

Faults = Mapping[str, object]
USUAL_FAULTS: Final[Faults] = {"heartbeat.lost": 0.012, "heartbeat.doubled": 0.004}
"""The provider as it is on a good day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of the API's by one of the keys. ``{name}`` in the path is the id of what was made under that name."""

    at: Instant
    by: str
    method: str
    path: str
    body: Mapping[str, Any] | None = None
    named: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """A user begins a session; he buys before it if he has too little and ever buys."""

    at: Instant
    user_id: str
    persona: str
    scenario: str
    asks_s: int = 900
    app: str = "web"
    """For the session's metadata."""
    named: str = ""
    met_by: str | None = None
    """The fault that meets the start."""
    spoiled: Faults | None = None
    """What the provider does wrong about this session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What the provider does wrong from now on, about all."""

    at: Instant
    faults: Faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Our own service is away for a while: a restart that took too long."""

    at: Instant
    lasts: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """Somebody asks what a draft would have made of the last weeks."""

    at: Instant
    body: Mapping[str, Any]


Deed = Call | Begin | Weather | Pause | WhatIf


def plan(seed: int, present: Instant) -> list[Deed]:
    """All deeds, in order; none is later than ``present``."""
    made = _Planner(present, SeededRandomness(seed, "plan"))
    deeds = [*made.prices(), *made.lives(), *made.troubles(), *made.corrections(), *made.today()]
    return sorted(deeds, key=lambda deed: deed.at)


def talkers(seed: int, present: Instant) -> list[Deed]:
    """Those who talk when the history ends, in order: they have begun some minutes before ``present``."""
    made = _Planner(present, SeededRandomness(seed, "talkers"))
    return sorted(made.right_now(), key=lambda deed: deed.at)


class _Planner:
    def __init__(self, present: Instant, randomness: Randomness) -> None:
        self._present = present
        self._randomness = randomness

    def _ago(self, days: int = 0, hours: int = 0, minutes: int = 0, seconds: int = 0) -> Instant:
        past = days * US_PER_DAY + hours * HOUR + minutes * MINUTE + seconds * US_PER_S
        return Instant(self._present - past)

    # Prices and settings

    def prices(self) -> Iterator[Deed]:
        """The cards, and how they changed."""
        opening = self._ago(DAYS)
        yield Weather(at=opening, faults=USUAL_FAULTS)
        coaching = {"name": "coaching", "match": {"persona": "coach"}, "increments": _increments(6)}
        companion = {"name": "evening", "match": {"persona": "companion"}, "maximum_charge": "1500"}
        silence = {"full_rate_first_s": 20, "factor_after": "0.25"}
        cards: tuple[tuple[Instant, dict[str, Any]], ...] = (
            (opening, {**coaching, "rates": _rates("75", "90", "30")}),
            (opening, {**companion, "rates": _rates("30", "45", "12"), "silence": silence}),
            (opening, {"name": "reception", "rates": _rates("48", "48", "24"), "connection_fee": "2"}),
            (
                self._ago(16),
                {
                    "name": "default",
                    "rates": _rates("60", "69", "60"),
                    "short_session_exemption_s": 10,
                    "effective_at": format_instant(self._ago(14)),
                },
            ),
            (self._ago(9), {**coaching, "rates": _rates("75", "84", "30")}),
        )
        for at, card in cards:
            yield Call(at=at, by="pricing", method="POST", path="/v1/rate-cards", body=card)
        alerts = {"low_talk_time_s": 120}
        yield Call(at=opening, by="owner", method="PATCH", path="/v1/settings", body={"alerts": alerts})
        business = {"rate_card": "reception", "default_time_limit_s": 600}
        for user_id, since, more in (
            ("northwind-dental", 34, {"credit_limit": "2000"}),
            ("harbor-hotel", 18, {"spend_limits": {"day": "1500"}, "max_concurrent_sessions": 4}),
        ):
            yield self._change(self._ago(since), user_id, {**business, **more, "reason": "contract signed"})

    def _change(self, at: Instant, user_id: str, body: Mapping[str, Any]) -> Deed:
        return Call(at=at, by="support", method="PATCH", path=f"/v1/users/{user_id}", body=body)

    # Lives

    def lives(self) -> Iterator[Deed]:
        """What everybody does out of habit."""
        for person in PEOPLE:
            if person.welcome:
                yield self._grant(
                    Instant(self._ago(person.since) - HOUR),
                    person.user_id,
                    str(person.welcome),
                    f"welcome-{person.user_id}",
                    kind="promotional",
                    days=14,
                    metadata={"campaign": "welcome"},
                )
            yield from self._subscription(person)
            for day in range(person.since, person.until, -1):
                yield from self._day(person, day)

    def _subscription(self, person: Person) -> Iterator[Deed]:
        pack = person.subscribes
        if pack is None:
            return
        for week, day in enumerate(range(person.since, person.until, -pack.days), 1):
            yield self._grant(
                Instant(self._ago(day) - HOUR + MINUTE),
                person.user_id,
                str(pack.amount),
                f"{person.user_id}-week-{week}",
                cost_basis=pack.cost_basis,
                days=pack.days,
                metadata={"plan": "weekly"},
            )

    def _day(self, person: Person, day: int) -> Iterator[Deed]:
        draw = self._randomness.below
        times = person.per_week // 7 + (draw(7) < person.per_week % 7)
        for turn in range(times):
            hour = (person.hour + turn * 3) % 24
            at = Instant(self._ago(day) + hour * HOUR + draw(3 * HOUR) - HOUR)
            scenario = person.topics[draw(len(person.topics))]
            if at < self._present - QUIET_BEFORE_PRESENT:
                yield self._begin(at, person.user_id, scenario, person.asks_s)

    def _begin(self, at: Instant, user_id: str, scenario: str, asks_s: int = 900, **more: Any) -> Begin:
        return Begin(
            at=at,
            user_id=user_id,
            persona=TOPICS[scenario].persona if scenario in TOPICS else "default",
            scenario=scenario,
            asks_s=asks_s,
            app=APPS[self._randomness.below(len(APPS))],
            **more,
        )

    def _grant(
        self,
        at: Instant,
        user_id: str,
        amount: str,
        reference: str,
        *,
        days: int | None = None,
        effective_in: int = 0,
        named: str = "",
        **terms: Any,
    ) -> Call:
        body = {"amount": amount, "reference": reference, **terms}
        effective_at = Instant(at + effective_in * US_PER_DAY)
        if effective_in:
            body["effective_at"] = format_instant(effective_at)
        if days is not None:
            body["expires_at"] = format_instant(Instant(effective_at + days * US_PER_DAY))
        path = f"/v1/users/{user_id}/grants"
        return Call(at=at, by="billing", method="POST", path=path, body=body, named=named)

    # What goes wrong

    def troubles(self) -> Iterator[Deed]:
        """Failed and uncertain starts, a provider that does not answer, an outage of our own, odd evidence."""
        yield self._begin(self._ago(30, 5), "sofia.rossi", "cafe-order", met_by="start.400", named="refused")
        yield self._begin(self._ago(27, 7), "noah.brandt", "small-talk", met_by="start.500", named="never-came")
        yield self._begin(self._ago(25, 2), "hanna.virtanen", "cafe-order", met_by="start.500_after", named="came-late")
        # The agent stays, silent, while we are away: time that only heartbeats could have proven.
        yield self._begin(self._ago(22), "ruth.goldberg", "ghost", 900, named="outage")
        yield Pause(at=Instant(self._ago(22) + 4 * MINUTE), lasts=Micros(5 * MINUTE))
        yield Weather(at=self._ago(20, 3), faults={**USUAL_FAULTS, "timeline.500": 1})
        yield self._begin(self._ago(20, 2, 58), "amelie.fontaine", "small-talk")
        yield self._begin(self._ago(20, 2, 50), "mei-lin.chen", "cafe-order")
        yield Weather(at=self._ago(20, 2, 15), faults=USUAL_FAULTS)
        odd: Faults = {"timeline.missing_seconds": 1}
        gone: Faults = {"timeline.404": 1}
        yield self._begin(self._ago(17, 4), "noah.brandt", "small-talk", spoiled=odd, named="odd")
        yield self._decide(self._ago(17), "odd", "settle", "the last value lacks its length; what was said is complete")
        yield self._begin(self._ago(16, 9), "sofia.rossi", "grammar-drill", spoiled=odd, named="unclear")
        yield self._decide(self._ago(16, 2), "unclear", "write_off", "nobody could explain it to her; ticket 4120")
        yield self._begin(self._ago(15, 13), "priya.nair", "job-interview", spoiled=gone, named="gone")
        yield self._decide(self._ago(14, 6), "gone", "write_off", "the provider has no timeline of it; ticket 4127")
        yield self._begin(self._ago(8, 3), "karel.novak", "ghost", 600, named="ghost")
        yield self._begin(
            self._ago(7, 1), "diego.santos", "small-talk", spoiled={"heartbeat.foreign": {"count": 1}}, named="foreign"
        )
        yield self._begin(self._ago(1, 7), "tomasz.kowal", "pitch-practice", spoiled=gone, named="waiting-long")
        yield self._begin(self._ago(0, 3, 20), "grace.okafor", "job-interview", spoiled=odd, named="waiting")

    def _decide(self, at: Instant, session: str, action: str, reason: str) -> Deed:
        path = f"/v1/sessions/{{{session}}}/review"
        return Call(at=at, by="support", method="POST", path=path, body={"action": action, "reason": reason})

    # What is put right

    def corrections(self) -> Iterator[Deed]:
        """Refunds, a later rating, voids, adjustments, limits, a suspension."""
        yield self._grant(self._ago(13, 4), "hanna.virtanen", "18000", "order-typo", named="typo")
        yield self._support(self._ago(13, 3, 40), "/v1/grants/{typo}/void", reason="ten times too much: typed by hand")
        yield self._adjust(self._ago(12, 10), "diego.santos", "120", "bad audio on 14 calls; ticket 4131")
        yield self._adjust(self._ago(11, 20), "lucas.moreau", "-60", "a welcome gift that was given twice")
        yield self._begin(self._ago(11, 2), "priya.nair", "job-interview", named="wrong-language")
        yield self._refund(self._ago(10, 22), "wrong-language", "the agent spoke Spanish; ticket 4140")
        yield self._begin(self._ago(9, 6), "tomasz.kowal", "job-interview", named="promised")
        yield self._support(
            self._ago(8, 20),
            "/v1/sessions/{promised}/rerate",
            rate_card="default",
            reason="was promised the tutor's price",
        )
        yield self._begin(self._ago(6, 9), "amelie.fontaine", "cafe-order", named="cut-off")
        yield self._refund(self._ago(6, 4), "cut-off", "cut off in the middle; ticket 4152", amount="45")
        limit = {"credit_limit": "3000", "reason": "annual contract"}
        yield self._change(self._ago(10, 3), "northwind-dental", limit)
        suspended = {"suspended": True, "reason": "card reported stolen; ticket 4149"}
        yield self._change(self._ago(8, 12), "ivan.petrov", suspended)
        for person in PEOPLE:
            if person.until == 0 and person.welcome:
                yield self._grant(
                    self._ago(4, 2),
                    person.user_id,
                    "150",
                    f"spring-{person.user_id}",
                    kind="promotional",
                    days=10,
                    priority=40,
                    metadata={"campaign": "a month of talk"},
                )
        yield self._grant(
            self._ago(0, 9),
            "jonas.weber",
            "1500",
            "jonas.weber-next-month",
            effective_in=5,
            days=30,
            cost_basis="0.0038",
            metadata={"plan": "monthly"},
        )

    def _support(self, at: Instant, path: str, **body: Any) -> Deed:
        return Call(at=at, by="support", method="POST", path=path, body=body)

    def _adjust(self, at: Instant, user_id: str, amount: str, reason: str) -> Deed:
        return self._support(at, f"/v1/users/{user_id}/adjustments", amount=amount, reason=reason)

    def _refund(self, at: Instant, session: str, reason: str, **amount: str) -> Deed:
        return self._support(at, f"/v1/sessions/{{{session}}}/refund", reason=reason, **amount)

    # The last hours

    def today(self) -> Iterator[Deed]:
        """A question about prices, and those who have just talked."""
        draft = {"name": "default", "rates": _rates("60", "75", "50")}
        cost = {
            "name": "provider_cost",
            "rates": _rates("22", "38", "22"),
            "increments": {"initial_s": 1, "subsequent_s": 1, "scope": "type"},
        }
        asked = {
            "rate_card": draft,
            "after": format_instant(self._ago(28)),
            "before": format_instant(self._ago(0, 2)),
            "provider_cost": cost,
            "persona": "tutor",
        }
        yield WhatIf(at=self._ago(0, 2), body=asked)
        for minutes, user_id, scenario in (
            (171, "hanna.virtanen", "grammar-drill"),
            (148, "harbor-hotel", "book-a-visit"),
            (126, "lucas.moreau", "cafe-order"),
            (103, "noah.brandt", "small-talk"),
            (84, "northwind-dental", "opening-hours"),
            (66, "diego.santos", "pitch-practice"),
            (58, "harbor-hotel", "opening-hours"),
            (37, "yuki.tanaka", "cafe-order"),
            (24, "northwind-dental", "book-a-visit"),
        ):
            yield self._begin(self._ago(minutes=minutes), user_id, scenario, 600)

    def right_now(self) -> Iterator[Deed]:
        yield self._begin(self._ago(minutes=11), "ruth.goldberg", "evening-chat", 3000)
        yield self._begin(self._ago(minutes=4), "amelie.fontaine", "evening-chat", 1500)
        yield self._begin(self._ago(minutes=2), "mei-lin.chen", "small-talk", 600)
        yield self._begin(self._ago(minutes=1), "priya.nair", "job-interview", 600)
        yield self._begin(self._ago(seconds=20), "northwind-dental", "book-a-visit", 600)


def _rates(user: str, agent: str, silence: str) -> dict[str, str]:
    return {"user": user, "agent": agent, "silence": silence}


def _increments(seconds: int) -> dict[str, Any]:
    return {"initial_s": seconds, "subsequent_s": seconds}
