"""The port by which the ledger learns an account's alert thresholds: what time costs, prices know."""

from collections.abc import Mapping
from typing import Any, Protocol

from app.core.alerts import Thresholds
from app.core.units import Instant
from app.db.database import Transaction


class AlertThresholds(Protocol):
    async def __call__(
        self, transaction: Transaction, rate_card: str | None, alerts: Mapping[str, Any] | None, now: Instant
    ) -> Thresholds:
        """The thresholds in credits of an account with its own ``rate_card`` and ``alerts`` (null: as for all)."""
        ...
