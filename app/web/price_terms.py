"""What a rate card is made of as a person types it and reads it: every field of the document, in groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.core.rate_card import ChargeFrom, RoundingMode
from app.core.rate_card import Scope as Rounded
from app.web.forms import Field
from app.web.forms import Kind as Typed
from app.web.rendering import grouped, span

NONE: Final = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A field of the card: how it is typed, what it is called in a table, how its value reads there."""

    field: Field
    label: str
    null: str = NONE

    def shown(self, value: Any) -> str:
        """The value of a document for the eye."""
        if value is None:
            return self.null
        if self.field.kind is Typed.CHOICE:
            return dict(self.field.choices)[value]
        if self.field.name.endswith("_s"):
            return span(value)
        return grouped(str(value))


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    terms: Sequence[Term]
    hint: str = ""


def _seconds(name: str, label: str, hint: str = "", *, clears: bool = False) -> Field:
    return Field(name=name, label=f"{label}, in seconds", kind=Typed.NUMBER, hint=hint, clears=clears)


def _choice(name: str, label: str, choices: Mapping[Any, str], hint: str = "") -> Field:
    told = tuple((one.value, text) for one, text in choices.items())
    return Field(name=name, label=label, kind=Typed.CHOICE, choices=told, hint=hint)


def _credits(name: str, label: str, hint: str = "", *, required: bool = False, clears: bool = False) -> Field:
    return Field(name=name, label=label, kind=Typed.CREDITS, hint=hint, required=required, clears=clears)


GROUPS: Final = (
    Group(
        "Rates",
        (
            Term(field=_credits("rates.user", "User talks", required=True), label="User talks, a minute"),
            Term(field=_credits("rates.agent", "Agent talks", required=True), label="Agent talks, a minute"),
            Term(field=_credits("rates.silence", "Silence", required=True), label="Silence, a minute"),
        ),
        "Credits a minute.",
    ),
    Group(
        "Long silences",
        (
            Term(
                field=_seconds(
                    "silence.full_rate_first_s", "At the full rate first", "Of each silence; all if empty.", clears=True
                ),
                label="Of each silence at the full rate",
                null="all",
            ),
            Term(
                field=_credits("silence.factor_after", "Factor after that", "From 0 (free) to 1 (the full rate)."),
                label="Factor after that",
            ),
        ),
    ),
    Group(
        "Time",
        (
            Term(
                field=_seconds("increments.initial_s", "First increment", "Rounded up to this at least; 0: exact."),
                label="First increment",
            ),
            Term(
                field=_seconds("increments.subsequent_s", "Further increments", "0: exact after the first."),
                label="Further increments",
            ),
            Term(
                field=_choice(
                    "increments.scope",
                    "Increments round up",
                    {Rounded.SESSION: "the whole session", Rounded.TYPE: "each kind of time"},
                ),
                label="Increments round up",
            ),
            Term(field=_seconds("included_s", "Included", "Given free, from the beginning."), label="Included"),
            Term(
                field=_seconds("short_session_exemption_s", "Free below", "Shorter sessions cost nothing."),
                label="Sessions are free below",
            ),
            Term(
                field=_seconds("minimum_duration_s", "Charged at least", "Shorter ones are filled up to this."),
                label="Charged at least, time",
            ),
        ),
    ),
    Group(
        "Amounts",
        (
            Term(
                field=_credits("connection_fee", "Connection fee", "Once, of every session that is charged at all."),
                label="Connection fee",
            ),
            Term(field=_credits("minimum_charge", "Least charge"), label="Least charge"),
            Term(
                field=_credits("maximum_charge", "Largest charge", "No limit if empty.", clears=True),
                label="Largest charge",
                null="no limit",
            ),
            Term(field=_credits("rounding.quantum", "Rounded to multiples of"), label="Rounded to multiples of"),
            Term(
                field=_choice(
                    "rounding.mode",
                    "Rounded",
                    {
                        RoundingMode.HALF_EVEN: "to the nearest (half even)",
                        RoundingMode.UP: "up",
                        RoundingMode.DOWN: "down",
                    },
                ),
                label="Rounded",
            ),
        ),
    ),
    Group(
        "Measurement",
        (
            Term(
                field=_choice(
                    "measurement.charge_from",
                    "Charged from",
                    {
                        ChargeFrom.ORIGIN: "the beginning",
                        ChargeFrom.FIRST_HEARTBEAT: "the first heartbeat",
                        ChargeFrom.FIRST_SPEECH: "the first speech",
                        ChargeFrom.FIRST_USER_SPEECH: "the user’s first speech",
                    },
                ),
                label="Charged from",
            ),
            Term(
                field=_seconds("measurement.heartbeat_interval_s", "A heartbeat every"),
                label="A heartbeat every",
            ),
            Term(
                field=Field(
                    name="measurement.missed_heartbeats_tolerated",
                    label="Heartbeats that may be missing",
                    kind=Typed.NUMBER,
                    hint="In a row, before silence counts as unproven.",
                ),
                label="Heartbeats that may be missing",
            ),
            Term(
                field=_seconds("measurement.heartbeat_jitter_s", "A heartbeat may be late by"),
                label="A heartbeat may be late by",
            ),
        ),
    ),
)
TERMS: Final = tuple(term for group in GROUPS for term in group.terms)
NAME: Final = Field(name="name", label="Name", required=True, hint="A name that is there already gets a new version.")
WHEN: Final = Field(name="effective_at", label="In force from", kind=Typed.MOMENT, hint="UTC; at once if empty.")
PERSONA: Final = Field(name="match.persona", label="Persona", hint="Chosen for sessions of this persona; any if empty.")
SCENARIO: Final = Field(name="match.scenario", label="Scenario", hint="And of this scenario; any if empty.")
REASON: Final = Field(name="reason", label="Reason", kind=Typed.LONG_TEXT, hint="For the audit log.")
FIELDS: Final = (NAME, *(term.field for term in TERMS), WHEN, PERSONA, SCENARIO, REASON)
