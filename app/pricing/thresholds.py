"""An account's alert thresholds in credits: what its own rate card asks for the talk time that they are set in."""

from collections.abc import Mapping
from typing import Any

from app.core.alerts import Thresholds
from app.core.units import Instant, MicroCredits, Micros
from app.core.worst_case import worst_case_under
from app.db.database import Transaction
from app.ledger.controls import load_controls
from app.pricing.cards import card_of_account


class CardThresholds:
    """:class:`app.ledger.alerts.AlertThresholds` by rate cards; ``shortest`` is the shortest session."""

    def __init__(self, shortest: Micros) -> None:
        self._shortest = shortest

    async def __call__(
        self, transaction: Transaction, rate_card: str | None, alerts: Mapping[str, Any] | None, now: Instant
    ) -> Thresholds:
        wanted = (await load_controls(transaction)).alerts if alerts is None else alerts
        card = (await card_of_account(transaction, rate_card, now)).card
        low: MicroCredits | None = None
        if "low_credits" in wanted:
            low = MicroCredits(int(wanted["low_credits"]))
        elif "low_talk_time_us" in wanted:
            low = worst_case_under(card, Micros(int(wanted["low_talk_time_us"])))
        return Thresholds(low, worst_case_under(card, self._shortest))
