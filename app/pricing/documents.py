"""The rate card and the preview's request as documents (docs/charging.md §9, docs/api.md)."""

from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from app.core.rate_card import ChargeFrom, RateCard, RoundingMode, Scope
from app.core.units import MicroCredits, Micros, format_credits, format_millionths, seconds
from app.documents import (
    Credits,
    Document,
    Duration,
    Factor,
    Flag,
    Moment,
    PlainString,
    PositiveCredits,
    Text,
    WholeNumber,
    validate,
)

MAX_SNAPSHOTS = 1000
MAX_HEARTBEATS = 200_000
MAX_MISSED_HEARTBEATS = 1_000_000


class RatesDocument(Document):
    user: Credits
    agent: Credits
    silence: Credits


class SilenceDocument(Document):
    full_rate_first_s: Duration | None = Micros(5_000_000)
    factor_after: Factor = 0


class IncrementsDocument(Document):
    initial_s: Duration = Micros(0)
    subsequent_s: Duration = Micros(0)
    scope: Annotated[Scope, PlainString] = Scope.SESSION


class RoundingDocument(Document):
    quantum: PositiveCredits = MicroCredits(1)
    mode: Annotated[RoundingMode, PlainString] = RoundingMode.HALF_EVEN


class MeasurementDocument(Document):
    heartbeat_interval_s: Duration = Micros(30_000_000)
    missed_heartbeats_tolerated: Annotated[WholeNumber, Field(le=MAX_MISSED_HEARTBEATS)] = 1
    heartbeat_jitter_s: Duration = Micros(15_000_000)
    charge_from: Annotated[ChargeFrom, PlainString] = ChargeFrom.ORIGIN


class RateCardDocument(Document):
    """A rate card as a client writes it: ``name`` and all three ``rates`` are required."""

    name: Text
    rates: RatesDocument
    silence: SilenceDocument = SilenceDocument()
    increments: IncrementsDocument = IncrementsDocument()
    connection_fee: Credits = MicroCredits(0)
    included_s: Duration = Micros(0)
    short_session_exemption_s: Duration = Micros(0)
    minimum_duration_s: Duration = Micros(0)
    minimum_charge: Credits = MicroCredits(0)
    maximum_charge: Credits | None = None
    rounding: RoundingDocument = RoundingDocument()
    measurement: MeasurementDocument = MeasurementDocument()

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "RateCardDocument":
        if self.maximum_charge is not None and self.minimum_charge > self.maximum_charge:
            raise PydanticCustomError("bounds", "minimum_charge must not be over maximum_charge")
        return self

    def card(self) -> RateCard:
        return RateCard(
            name=self.name,
            user_rate=self.rates.user,
            agent_rate=self.rates.agent,
            silence_rate=self.rates.silence,
            full_rate_first=self.silence.full_rate_first_s,
            factor_after=self.silence.factor_after,
            initial=self.increments.initial_s,
            subsequent=self.increments.subsequent_s,
            scope=self.increments.scope,
            connection_fee=self.connection_fee,
            included=self.included_s,
            short_session_exemption=self.short_session_exemption_s,
            minimum_duration=self.minimum_duration_s,
            minimum_charge=self.minimum_charge,
            maximum_charge=self.maximum_charge,
            quantum=self.rounding.quantum,
            rounding=self.rounding.mode,
            heartbeat_interval=self.measurement.heartbeat_interval_s,
            missed_heartbeats_tolerated=self.measurement.missed_heartbeats_tolerated,
            heartbeat_jitter=self.measurement.heartbeat_jitter_s,
            charge_from=self.measurement.charge_from,
        )


def read_rate_card(value: object, pointer: str = "") -> RateCard:
    """A decoded rate card; a 422 :class:`~app.errors.Problem` if it is none."""
    return validate(RateCardDocument, value, pointer).card()


def write_rate_card(card: RateCard) -> dict[str, Any]:
    """A rate card as a complete document; durations are exact decimals."""
    return {
        "name": card.name,
        "rates": {
            "user": format_credits(card.user_rate),
            "agent": format_credits(card.agent_rate),
            "silence": format_credits(card.silence_rate),
        },
        "silence": {
            "full_rate_first_s": None if card.full_rate_first is None else seconds(card.full_rate_first),
            "factor_after": format_millionths(card.factor_after),
        },
        "increments": {
            "initial_s": seconds(card.initial),
            "subsequent_s": seconds(card.subsequent),
            "scope": card.scope.value,
        },
        "connection_fee": format_credits(card.connection_fee),
        "included_s": seconds(card.included),
        "short_session_exemption_s": seconds(card.short_session_exemption),
        "minimum_duration_s": seconds(card.minimum_duration),
        "minimum_charge": format_credits(card.minimum_charge),
        "maximum_charge": None if card.maximum_charge is None else format_credits(card.maximum_charge),
        "rounding": {"quantum": format_credits(card.quantum), "mode": card.rounding.value},
        "measurement": {
            "heartbeat_interval_s": seconds(card.heartbeat_interval),
            "missed_heartbeats_tolerated": card.missed_heartbeats_tolerated,
            "heartbeat_jitter_s": seconds(card.heartbeat_jitter),
            "charge_from": card.charge_from.value,
        },
    }


def _as_it_came(value: Any) -> Any:
    return value


RawValue = Annotated[Any, PlainValidator(_as_it_came), WithJsonSchema({})]
"""Anything: the provider's own values are judged by the engine, which drops the bad ones."""


class SnapshotDocument(Document):
    requested_at: Moment
    received_at: Moment
    values: list[RawValue]

    @model_validator(mode="after")
    def _received_after_request(self) -> "SnapshotDocument":
        if self.received_at < self.requested_at:
            raise PydanticCustomError("order", "received_at must not be before requested_at")
        return self


class PreviewDocument(Document):
    """The inputs of one charge. ``rate_card``: a card, the id of a stored one, or absent for the default."""

    requested_at: Moment
    time_limit_s: Duration | None = None
    heartbeats: Annotated[list[Moment], Field(max_length=MAX_HEARTBEATS, default_factory=list)]
    snapshots: Annotated[list[SnapshotDocument], Field(min_length=1, max_length=MAX_SNAPSHOTS)]
    rate_card: RawValue = None
    authorized: Credits | None = None
    interim: Flag = False
