"""What-if: simulations with their progress, a form that asks for one, and the result with its distribution."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Final
from urllib.parse import quote, urlencode

from starlette.responses import Response

from app.core.access import Scope
from app.core.ids import NIL_ACCOUNT
from app.core.units import US_PER_DAY, US_PER_S, Instant, format_credits, format_instant
from app.core.what_if import Direction, NotRated
from app.db.database import Database, Transaction
from app.documents import Credits, decode
from app.errors import invalid
from app.http.answers import encode
from app.http.pages import DEFAULT_LIMIT
from app.ports.ids import Ids
from app.pricing.templates import PROVIDER_COST, template_document
from app.pricing.versions import find_versions
from app.web.actions import Action, Deed, Outcome, Subject
from app.web.forms import Field
from app.web.forms import Kind as Typed
from app.web.rate_cards import ASK_WHAT_IF, EDITOR, WHAT_IF, read_text, stored_version
from app.web.site import Page, Visit
from app.what_if.asked import SimulationDocument
from app.what_if.simulations import UNFINISHED, load_simulation, simulations_page, take_request

CHOICES: Final = 100
"""Versions that can be chosen, those published last; whichever other one an address names as well."""

DRAFT: Final = "draft"
TEMPLATE: Final = "template"
DAYS: Final = 30
"""The period to begin with: so many days up to now."""

NOT_RATED: Final[Mapping[str, str]] = {
    NotRated.NO_CHARGE: "no charge of it is stored",
    NotRated.UNKNOWN_ENGINE: "its charge was made by an engine that this version lacks",
    NotRated.UNREADABLE: "its rows cannot be read: talktime verify says why",
}


class WhatIfDocument(SimulationDocument):
    """``cost_user``, ``cost_agent``, ``cost_silence``: the provider's prices, in credits a minute."""

    cost_user: Credits | None = None
    cost_agent: Credits | None = None
    cost_silence: Credits | None = None


class Simulate(Action[WhatIfDocument]):
    path = ASK_WHAT_IF
    name = "simulate"
    title = "What if?"
    verb = "Price the sessions"
    scope: ClassVar[Scope] = Scope.PRICING_WRITE
    document = WhatIfDocument
    nav = "rate-cards"
    confirmed = False
    template = "what_if.html"
    fields = (
        Field(name="rate_card", label="Priced by", kind=Typed.CHOICE, required=True),
        Field(name="after", label="Sessions settled from", kind=Typed.MOMENT, required=True, hint="UTC."),
        Field(
            name="before",
            label="Settled before",
            kind=Typed.MOMENT,
            required=True,
            hint="UTC; not in the future.",
        ),
        Field(name="persona", label="Persona", hint="Only its sessions; all if empty."),
        Field(name="scenario", label="Scenario", hint="Only its sessions; all if empty."),
        Field(
            name="provider_cost",
            label="What the provider takes",
            kind=Typed.CHOICE,
            hint="To see what would be left.",
        ),
        Field(name="cost_user", label="A minute of the user", kind=Typed.CREDITS),
        Field(name="cost_agent", label="Of the agent", kind=Typed.CREDITS),
        Field(name="cost_silence", label="Of silence", kind=Typed.CREDITS),
    )

    def __init__(self, ids: Ids) -> None:
        self._ids = ids

    async def subject(self, transaction: Transaction, visit: Visit) -> Subject:
        """The draft, if there is one, stays in the address of the form."""
        text = visit.asked(DRAFT)
        # To the second, and not rounded up: the period must not end in the future.
        before = Instant(visit.now - visit.now % US_PER_S)
        after = Instant(before - DAYS * US_PER_DAY)
        given = {"after": _typed(after), "before": _typed(before)}
        versions, _ = await find_versions(transaction, CHOICES, None, None)
        named = visit.asked("rate_card")
        if named.startswith("rc_") and all(card.public_id != named for card in versions):
            versions.append(await stored_version(transaction, named))
        choices = [(card.public_id, f"{card.card.name}, version {card.version}") for card in versions]
        cards = choices
        if text:
            given |= {DRAFT: text, "rate_card": DRAFT}
            cards = [(DRAFT, f"the draft of {read_text(text).name}"), *choices]
        costs = [("", "not compared"), (TEMPLATE, "its public metering rule, at the prices below"), *choices]
        return Subject(
            account_id=NIL_ACCOUNT,
            name="What-ifs",
            back=WHAT_IF,
            given=given,
            choices={"rate_card": cards, "provider_cost": costs},
        )

    async def state(self, transaction: Transaction, subject: Subject, now: Instant) -> Sequence[tuple[str, str, bool]]:
        return ()

    async def do(self, transaction: Transaction, deed: Deed[WhatIfDocument]) -> Outcome:
        asked, draft = deed.asked, deed.subject.given.get(DRAFT)
        card = asked.rate_card
        if card == DRAFT and draft is not None:
            card = decode(draft.encode())
        document = SimulationDocument.model_construct(
            rate_card=card,
            after=asked.after,
            before=asked.before,
            provider_cost=_provider_cost(asked),
            persona=asked.persona,
            scenario=asked.scenario,
        )
        made = await take_request(transaction, self._ids, document, deed.now, deed.actor)
        return Outcome(back=f"{WHAT_IF}/{made['id']}")


def _typed(at: Instant) -> str:
    return format_instant(at)[:19].replace("T", " ")


def _provider_cost(asked: WhatIfDocument) -> Any:
    """What the provider takes as a simulation is asked it. Raises a :class:`~app.errors.Problem`, 422."""
    prices = {"user": asked.cost_user, "agent": asked.cost_agent, "silence": asked.cost_silence}
    if asked.provider_cost != TEMPLATE:
        if any(price is not None for price in prices.values()):
            raise invalid("/provider_cost", "must be the metering rule where its prices are given")
        return asked.provider_cost
    if not any(prices.values()):
        raise invalid("/cost_user", "is required, or the price of the agent or of silence")
    rates = {kind: format_credits(price or PROVIDER_COST.card.user_rate) for kind, price in prices.items()}
    card = {**template_document(PROVIDER_COST)["rate_card"], "rates": rates}
    return decode(encode(card))


# The result


@dataclass(frozen=True, slots=True)
class Bar:
    """``width``: from 0 to 100, in proportion to the largest; at least 1 where there is anything."""

    label: str
    tone: str
    sessions: int
    difference: str
    width: int


def bars(distribution: Sequence[Mapping[str, Any]]) -> list[Bar]:
    """The distribution as bars."""
    largest = max(1, *(row["sessions"] for row in distribution))
    return [
        Bar(
            _label(row),
            row["direction"],
            row["sessions"],
            row["difference"],
            max(1, row["sessions"] * 100 // largest) if row["sessions"] else 0,
        )
        for row in distribution
    ]


def _label(row: Mapping[str, Any]) -> str:
    near, far = sorted((abs(row["from_percent"] or 0), abs(row["to_percent"] or 0)))
    match Direction(row["direction"]):
        case Direction.UNCHANGED:
            return "the same"
        case Direction.FREE_BEFORE:
            return "free before"
        case Direction.LOWER:
            return f"{near} to {far} % less" if near else f"up to {far} % less"
        case Direction.HIGHER:
            if row["to_percent"] is None:
                return f"over {far} % more"
            return f"{near} to {far} % more" if near else f"up to {far} % more"


def percent(before: str, difference: str) -> str:
    """A change relative to what it was, to a tenth of a percent: ``+4.2 %``; nothing where that was 0."""
    if not Decimal(before):
        return ""
    share = (Decimal(difference) * 100 / Decimal(before)).quantize(Decimal("0.1"))
    sign = "+" if share > 0 else "−" if share < 0 else "±"
    return f"{sign}{abs(share):,} %"


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIfPages:
    database: Database

    def pages(self) -> list[Page]:
        return [
            Page(WHAT_IF, self._list),
            Page(WHAT_IF + "/{simulation_id}", self._simulation),
            Page(WHAT_IF + "/{simulation_id}/now", self._now),
        ]

    async def _list(self, visit: Visit) -> Response:
        cursor = visit.asked("cursor") or None
        async with self.database.reading() as transaction:
            found = await simulations_page(transaction, DEFAULT_LIMIT, cursor)
        return visit.page("what_ifs.html", nav="rate-cards", found=found, first=cursor is None, unfinished=UNFINISHED)

    async def _simulation(self, visit: Visit) -> Response:
        return visit.page("simulation.html", nav="rate-cards", **await self._values(visit))

    async def _now(self, visit: Visit) -> Response:
        """How far it is at this moment, and in the end its result."""
        return visit.part_of_page("simulation_now.html", **await self._values(visit))

    async def _values(self, visit: Visit) -> Mapping[str, Any]:
        async with self.database.reading() as transaction:
            simulation = await load_simulation(transaction, visit.part("simulation_id"))
        raw = simulation.pop("result")
        result = None if raw is None else json.loads(bytes(raw))
        return {
            "simulation": simulation,
            "result": result,
            "bars": [] if result is None else bars(result["distribution"]),
            "percent": percent,
            "unfinished": simulation["state"] in UNFINISHED,
            "not_rated": NOT_RATED,
            "again": _again(simulation),
            "editor": f"{EDITOR}?{_card_query(simulation, 'from')}",
        }


def _card_query(simulation: Mapping[str, Any], of_version: str) -> str:
    """The card of a simulation for an address: the version's id, else the draft."""
    card = simulation["rate_card"]
    if card["id"] is not None:
        return f"{of_version}={card['id']}"
    draft = {name: value for name, value in card.items() if name not in {"id", "version"}}
    return f"{DRAFT}={quote(encode(draft).decode(), safe='')}"


def _again(simulation: Mapping[str, Any]) -> str:
    """The form with what was asked."""
    asked = {name: simulation[name] for name in ("after", "before", "persona", "scenario") if simulation[name]}
    return f"{ASK_WHAT_IF}?{_card_query(simulation, 'rate_card')}&{urlencode(asked, quote_via=quote)}"
