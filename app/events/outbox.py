"""Kinds of events, and events waiting to be written."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class EventType(StrEnum):
    SESSION_STARTED = "session.started"
    SESSION_LIVE = "session.live"
    SESSION_OVER = "session.over"
    SESSION_SETTLED = "session.settled"
    SESSION_FAILED = "session.failed"
    SESSION_REVIEW = "session.review"
    GRANT_CREATED = "grant.created"
    GRANT_EXPIRING = "grant.expiring"
    GRANT_EXPIRED = "grant.expired"
    GRANT_VOIDED = "grant.voided"
    BALANCE_LOW = "balance.low"
    BALANCE_DEPLETED = "balance.depleted"
    BALANCE_RECOVERED = "balance.recovered"
    CHARGE_CORRECTED = "charge.corrected"


@dataclass(frozen=True, slots=True)
class Event:
    type: EventType
    data: Mapping[str, Any]
