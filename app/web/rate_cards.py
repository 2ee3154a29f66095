"""Rate cards: their versions side by side, and the editor with its examples, from which one publishes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Final
from urllib.parse import quote

from starlette.responses import Response

from app.core.access import Scope
from app.core.ids import NIL_ACCOUNT, Kind, parse_reference_id
from app.core.rate_card import DEFAULT_RATE_CARD, RateCard
from app.core.units import Instant, InvalidQuantity, format_instant
from app.db.database import Database, Transaction
from app.documents import Reason, decode, printable, validate
from app.errors import BUSY, CHANGED_MEANWHILE, NOT_FOUND, Problem
from app.http.answers import encode
from app.http.pages import make_cursor, read_cursor
from app.ports.ids import Ids
from app.pricing.cards import DEFAULT_NAME, StoredCard, card_by_id, find_card
from app.pricing.documents import RateCardDocument, read_rate_card, write_rate_card
from app.pricing.examples import CONVERSATIONS, explain_conversation, hour_at_most
from app.pricing.versions import (
    NewRateCardDocument,
    histories_page,
    in_force_of,
    publish_version,
    versions_of,
)
from app.web.actions import Action, Deed, Line, Outcome, Subject
from app.web.forms import Form, errors_by_field, flat
from app.web.price_terms import FIELDS, GROUPS, NAME, NONE, TERMS
from app.web.rendering import grouped, instant_text
from app.web.site import ADMIN, Page, Visit

RATE_CARDS: Final = ADMIN + "/rate-cards"
VERSIONS: Final = RATE_CARDS + "/versions"
EDITOR: Final = RATE_CARDS + "/new"
WHAT_IF: Final = ADMIN + "/what-if"
ASK_WHAT_IF: Final = WHAT_IF + "/new"

NAMES_AT_ONCE: Final = 10
SIDE_BY_SIDE: Final = 3
"""Versions of each name in the list of all; one more is read, to compare the oldest with."""

COLUMNS: Final = 8
"""Versions of one name on its page."""

MAX_VERSION: Final = (1 << 31) - 1
"""There is no room for more."""


def versions_address(name: str) -> str:
    """The page of a card's versions. In the query, where any name fits, ``..`` and ``new`` as well."""
    return f"{VERSIONS}?name={quote(name, safe='')}"


def typed_card(card: RateCard) -> dict[str, str]:
    """A card as it stands in the editor's fields; null as nothing."""
    values = flat(write_rate_card(card))
    return {
        name: f"{value:f}" if isinstance(value, Decimal) else str(value)
        for name, value in values.items()
        if value is not None
    }


def as_text(card: RateCard) -> str:
    """A card as the text of its document, to be carried in an address."""
    return encode(write_rate_card(card)).decode()


def read_text(text: str) -> RateCard:
    """The card of :func:`as_text`. Raises a :class:`~app.errors.Problem`, 422."""
    return read_rate_card(decode(text.encode()))


def draft_query(card: RateCard) -> str:
    return f"draft={quote(as_text(card), safe='')}"


def chosen_for(persona: str | None, scenario: str | None, name: str) -> str:
    """For which sessions a version is chosen by itself, in words."""
    told = [f"persona “{persona}”"] if persona is not None else []
    told += [f"scenario “{scenario}”"] if scenario is not None else []
    if told:
        return " and ".join(told)
    return "all that no other card fits" if name == DEFAULT_NAME else "users who have it as their own"


@dataclass(frozen=True, slots=True)
class Cell:
    """``was``: the value of the version before, if it was another one."""

    value: str
    was: str | None = None


@dataclass(frozen=True, slots=True)
class Column:
    card: StoredCard
    id: str
    state: str
    effective_at: str
    created_at: str


@dataclass(frozen=True, slots=True)
class Table:
    """Versions as columns, newest first, and their terms as rows. ``left_out``: rows that hold nothing but defaults."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    left_out: int
    in_force: StoredCard | None
    total: int

    @property
    def hidden(self) -> bool:
        """Whether the version in force is an older one than those shown."""
        return self.in_force is not None and all(column.card.id != self.in_force.id for column in self.columns)


def compare(
    name: str,
    versions: Sequence[StoredCard],
    before: StoredCard | None,
    in_force: StoredCard | None,
    now: Instant,
    *,
    whole: bool,
    total: int,
) -> Table:
    """``versions``, newest first, each compared with the next one, the last with ``before``.

    Unless ``whole``, terms in which all of them are as a card's defaults are left out, but for the rates.
    """
    told = [_told(card) for card in versions]
    earlier = [*told[1:], None if before is None else _told(before)]
    usual = _told_terms(DEFAULT_RATE_CARD)
    rows: list[tuple[str, Sequence[Cell]]] = []
    left_out = 0
    for label in (*(term.label for term in TERMS), CHOSEN):
        cells = [
            Cell(one[label], None if last is None or last[label] == one[label] else last[label])
            for one, last in zip(told, earlier, strict=True)
        ]
        plain = label in usual and label not in RATES and all(cell == Cell(usual[label]) for cell in cells)
        if plain and not whole:
            left_out += 1
        else:
            rows.append((label, cells))
    columns = [
        Column(
            card,
            card.public_id,
            _state(card, in_force, now),
            format_instant(card.effective_at),
            format_instant(card.created_at),
        )
        for card in versions
    ]
    return Table(name, columns, rows, left_out, in_force, total)


CHOSEN: Final = "Chosen for"
RATES: Final = frozenset(term.label for term in GROUPS[0].terms)


def _told(card: StoredCard) -> dict[str, str]:
    return {**_told_terms(card.card), CHOSEN: chosen_for(card.match_persona, card.match_scenario, card.card.name)}


def _told_terms(card: RateCard) -> dict[str, str]:
    values = flat(write_rate_card(card))
    return {term.label: term.shown(values[term.field.name]) for term in TERMS}


def _state(card: StoredCard, in_force: StoredCard | None, now: Instant) -> str:
    if in_force is not None and card.id == in_force.id:
        return "in force"
    return "scheduled" if card.effective_at > now else "replaced"


# The editor


@dataclass(frozen=True, slots=True)
class PricedExample:
    """A conversation by a card. ``now``: what it costs by the version in force, null if there is none."""

    name: str
    description: str
    charge: Mapping[str, Any]
    now: str | None


def priced_examples(card: RateCard, in_force: RateCard | None) -> list[PricedExample]:
    return [
        PricedExample(
            conversation.name,
            conversation.description,
            explain_conversation(conversation, card),
            None if in_force is None else explain_conversation(conversation, in_force)["amount"],
        )
        for conversation in CONVERSATIONS
    ]


class PublishDocument(NewRateCardDocument):
    reason: Reason | None = None


class Publish(Action[PublishDocument]):
    path = EDITOR
    name = "publish"
    title = "Rate card"
    verb = "Publish it"
    scope: ClassVar[Scope] = Scope.PRICING_WRITE
    document = PublishDocument
    nav = "rate-cards"
    repeats = False
    template = "rate_card_editor.html"
    fields = FIELDS

    def __init__(self, database: Database, ids: Ids) -> None:
        self._database = database
        self._ids = ids

    async def subject(self, transaction: Transaction, visit: Visit) -> Subject:
        """From nothing, from a version (``from``), or from a draft (``draft``) that an address carries."""
        usual = typed_card(DEFAULT_RATE_CARD)
        given = {name: value for name, value in usual.items() if name != NAME.name and not name.startswith("rates.")}
        if visit.asked("draft"):
            given = typed_card(read_text(visit.asked("draft")))
        elif visit.asked("from"):
            stored = await stored_version(transaction, visit.asked("from"))
            match = {"match.persona": stored.match_persona or "", "match.scenario": stored.match_scenario or ""}
            given = typed_card(stored.card) | match
        return Subject(account_id=NIL_ACCOUNT, name="Rate cards", back=RATE_CARDS, given=given)

    async def state(self, transaction: Transaction, subject: Subject, now: Instant) -> Sequence[tuple[str, str, bool]]:
        return ()

    async def do(self, transaction: Transaction, deed: Deed[PublishDocument]) -> Outcome:
        asked, now = deed.asked, deed.now
        starts = now if asked.effective_at is None else asked.effective_at
        in_force = (await in_force_of(transaction, [asked.name], now)).get(asked.name)
        replaced = (await in_force_of(transaction, [asked.name], max(now, starts))).get(asked.name)
        try:
            made = await publish_version(transaction, self._ids, asked, now, deed.actor, asked.reason)
        except Problem as problem:
            if problem.kind is BUSY:
                detail = "another version of this card was published at this moment: look again at what it comes to"
                raise Problem(CHANGED_MEANWHILE, detail) from None
            raise
        told = [
            ("Card", asked.name),
            ("Version", str(made["version"])),
            ("In force", "at once" if asked.effective_at is None else f"from {instant_text(made['effective_at'])} UTC"),
            ("Instead of", _instead_of(replaced, in_force)),
            (CHOSEN, chosen_for(asked.match.persona, asked.match.scenario, asked.name)),
        ]
        if replaced is not None and replaced.effective_at > starts:
            told.append(("It will not be used", f"version {replaced.version} is in force from a later time on"))
        return Outcome(told=told, lines=_changes(asked, replaced), back=versions_address(asked.name))

    async def aside(self, visit: Visit, subject: Subject, typed: Mapping[str, Sequence[str]]) -> Mapping[str, Any]:
        return {
            "groups": GROUPS,
            "open_groups": _unusual(typed),
            "by_name": {one.name: one for one in FIELDS},
            **await self._priced(visit, Form((name, text) for name, texts in typed.items() for text in texts)),
        }

    def elsewhere(self, step: str, asked: PublishDocument) -> str | None:
        return f"{ASK_WHAT_IF}?{draft_query(asked.card())}" if step == "what-if" else None

    def pages(self) -> list[Page]:
        return [Page(RATE_CARDS + "/examples", self._examples, "POST", scope=self.scope)]

    async def _examples(self, visit: Visit) -> Response:
        """The examples by what is typed at this moment."""
        return visit.part_of_page("priced_examples.html", piece=True, **await self._priced(visit, await visit.form()))

    async def _priced(self, visit: Visit, form: Form) -> Mapping[str, Any]:
        priced: dict[str, Any] = {"examples": [], "hour": None, "wanting": [], "lines": LINES, "in_force": None}
        card_fields = (NAME, *(term.field for term in TERMS))
        typed = form.document(card_fields)
        typed.setdefault("name", DEFAULT_NAME)  # a card without its name has its prices
        try:
            card = validate(RateCardDocument, typed).card()
        except Problem as problem:
            by_field, others = errors_by_field(problem, card_fields)
            labels = {one.name: one.label for one in card_fields}
            return {**priced, "wanting": [*(f"{labels[name]} {detail}" for name, detail in by_field.items()), *others]}
        async with self._database.reading() as transaction:
            in_force = await find_card(transaction, card.name, visit.now)
        by_now = None if in_force is None else in_force.card
        return {**priced, "examples": priced_examples(card, by_now), "hour": hour_at_most(card), "in_force": in_force}


LINES: Final[Mapping[str, str]] = {
    "user": "User talks",
    "agent": "Agent talks",
    "silence": "Silence",
    "reduced_rate": "Silence, reduced",
    "increments": "Increments",
    "minimum_duration": "Least time",
    "connection_fee": "Connection fee",
    "rounding": "Rounding",
    "minimum_charge": "Up to the least charge",
    "maximum_charge": "Down to the largest charge",
}


async def stored_version(transaction: Transaction, public_id: str) -> StoredCard:
    """The version of this id. Raises a :class:`~app.errors.Problem`, 404."""
    key = parse_reference_id(Kind.RATE_CARD, public_id)
    card = None if key is None else await card_by_id(transaction, key)
    if card is None:
        raise Problem(NOT_FOUND, "there is no rate card with this id")
    return card


def _instead_of(replaced: StoredCard | None, in_force: StoredCard | None) -> str:
    if replaced is None:
        return "nothing: no version of this name is in force then"
    still = in_force is not None and replaced.id == in_force.id
    return f"version {replaced.version}, {'in force now' if still else 'which comes into force before'}"


def _changes(asked: PublishDocument, replaced: StoredCard | None) -> list[Line]:
    """What becomes another than it was; of a new name all that is no default. And what the examples come to."""
    card = asked.card()
    now = {} if replaced is None else _told_terms(replaced.card)
    usual = _told_terms(DEFAULT_RATE_CARD)
    lines: list[Line] = []
    for label, then in _told_terms(card).items():
        if now.get(label) != then and (replaced is not None or label in RATES or usual[label] != then):
            lines.append(Line(label, now.get(label, NONE), then))
    for example in priced_examples(card, None if replaced is None else replaced.card):
        before = NONE if example.now is None else grouped(example.now)
        lines.append(Line(example.name, before, grouped(example.charge["amount"])))
    return lines


def _unusual(typed: Mapping[str, Sequence[str]]) -> set[str]:
    """Titles of groups in which something is not as usual."""
    usual = typed_card(DEFAULT_RATE_CARD)
    return {
        group.title
        for group in GROUPS
        if any("".join(typed[term.field.name]).strip() != usual.get(term.field.name, "") for term in group.terms)
    }


# The list


def _is_name(text: str) -> bool:
    try:
        return printable(text) == text
    except InvalidQuantity:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class RateCardPages:
    database: Database

    def pages(self) -> list[Page]:
        return [Page(RATE_CARDS, self._list), Page(VERSIONS, self._versions)]

    async def _list(self, visit: Visit) -> Response:
        cursor = visit.asked("cursor") or None
        async with self.database.reading() as transaction:
            found, more = await histories_page(
                transaction, visit.now, names=NAMES_AT_ONCE, versions=SIDE_BY_SIDE + 1, cursor=cursor
            )
        tables = [
            compare(
                one.name,
                one.versions[:SIDE_BY_SIDE],
                one.versions[SIDE_BY_SIDE] if len(one.versions) > SIDE_BY_SIDE else None,
                one.in_force,
                visit.now,
                whole=False,
                total=one.total,
            )
            for one in found
        ]
        pager = {"next_cursor": more}
        return visit.page("rate_cards.html", nav="rate-cards", tables=tables, found=pager, first=cursor is None)

    async def _versions(self, visit: Visit) -> Response:
        # Not visit.asked, which takes blanks away: they may be part of a name.
        name, cursor = visit.request.query_params.get("name", ""), visit.asked("cursor") or None
        position = read_cursor(cursor, int)
        below = None if position is None else max(0, min(position[0], MAX_VERSION))
        async with self.database.reading() as transaction:
            read = await versions_of(transaction, name, COLUMNS + 1, below) if _is_name(name) else []
            in_force = (await in_force_of(transaction, [name], visit.now)).get(name) if read else None
        if not read:
            raise Problem(NOT_FOUND, "there is no rate card with this name")
        shown, rest = read[:COLUMNS], read[COLUMNS:]
        table = compare(name, shown, rest[0] if rest else None, in_force, visit.now, whole=True, total=shown[0].version)
        found = {"next_cursor": make_cursor(shown[-1].version) if rest else None}
        return visit.page("rate_card.html", nav="rate-cards", table=table, found=found, first=cursor is None)
