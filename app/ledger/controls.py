"""What operators set for all accounts at once: the stop for starts, the alerts of those that have none of their own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as upsert

from app.core.units import US_PER_DAY, Instant, Micros
from app.db.database import Transaction
from app.db.tables import settings

_STARTS: Final = "starts"
_ALERTS: Final = "alerts"

EXPIRING_BEFORE: Final = Micros(3 * US_PER_DAY)
"""Grants are announced as expiring so long before, unless an operator sets another time."""


@dataclass(frozen=True, slots=True)
class Controls:
    """``starts_stopped``: why no session may start; null: they may. ``alerts``: as an account's own, see
    :func:`app.accounts.limits.alerts_stored`."""

    starts_stopped: str | None
    alerts: Mapping[str, Any]
    expiring_before: Micros


_CONTROLS: Final = select(settings.c.name, settings.c.value).where(settings.c.name.in_([_STARTS, _ALERTS]))


async def load_controls(transaction: Transaction) -> Controls:
    """The controls in force; the defaults where nobody set them."""
    rows = await transaction.execute(_CONTROLS)
    stored: dict[str, Any] = {row.name: row.value for row in rows}
    alerts = stored.get(_ALERTS, {})
    return Controls(
        stored.get(_STARTS, {}).get("stopped"),
        {name: value for name, value in alerts.items() if name != "expiring_before_us"},
        Micros(int(alerts.get("expiring_before_us", EXPIRING_BEFORE))),
    )


async def lock_controls(transaction: Transaction, now: Instant) -> Controls:
    """The controls to be changed: whoever changes others at the same moment waits, and keeps what is set here."""
    row = upsert(settings).values(name=_ALERTS, value={}, changed_at=now)
    await transaction.execute(row.on_conflict_do_nothing())
    await transaction.execute(select(settings.c.name).where(settings.c.name == _ALERTS).with_for_update())
    return await load_controls(transaction)


async def store_controls(transaction: Transaction, controls: Controls, now: Instant) -> None:
    """Set the controls; they hold for every transaction that begins after this one is committed."""
    rows = [
        (_STARTS, {"stopped": controls.starts_stopped}),
        (_ALERTS, {**controls.alerts, "expiring_before_us": controls.expiring_before}),
    ]
    for name, value in rows:
        statement = upsert(settings).values(name=name, value=value, changed_at=now)
        await transaction.execute(
            statement.on_conflict_do_update(
                index_elements=["name"],
                set_={"value": statement.excluded.value, "changed_at": statement.excluded.changed_at},
            )
        )
