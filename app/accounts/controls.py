"""What operators set for all users: the stop for starts, alerts, and when expiring grants are announced."""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from app.accounts.limits import AlertsDocument, alerts_document, alerts_stored
from app.core.access import Actor
from app.core.ids import NIL_ACCOUNT
from app.core.units import Instant, seconds
from app.db.database import Transaction
from app.documents import Document, Duration, Flag, Reason
from app.ledger.audit import Audit, record_audits
from app.ledger.controls import Controls, lock_controls, store_controls
from app.ports.ids import Ids


class ControlChangesDocument(Document):
    """What is absent stays as it is. ``alerts`` are those of all users that have none of their own."""

    starts_stopped: Flag | None = None
    alerts: AlertsDocument | None = None
    expiring_before_s: Annotated[Duration, Field(gt=0)] | None = None
    reason: Reason | None = None

    @model_validator(mode="after")
    def _no_nulls(self) -> "ControlChangesDocument":
        for name in self.model_fields_set:
            if getattr(self, name) is None:
                raise PydanticCustomError("null", f"{name} must not be null")
        return self


async def change_controls(
    transaction: Transaction, ids: Ids, asked: ControlChangesDocument, now: Instant, actor: Actor
) -> dict[str, Any]:
    """Change what is given; the controls then in force."""
    before = await lock_controls(transaction, now)
    after = before
    if asked.starts_stopped is not None:
        after = replace(after, starts_stopped=(asked.reason or "stopped") if asked.starts_stopped else None)
    if asked.alerts is not None:
        after = replace(after, alerts=alerts_stored(asked.alerts))
    if asked.expiring_before_s is not None:
        after = replace(after, expiring_before=asked.expiring_before_s)
    await store_controls(transaction, after, now)
    audit = Audit(
        actor=actor,
        action="settings.change",
        target="settings",
        before=controls_document(before),
        after=controls_document(after),
        reason=asked.reason,
    )
    await record_audits(transaction, ids, NIL_ACCOUNT, [audit], now)
    return controls_document(after)


def controls_document(controls: Controls) -> dict[str, Any]:
    return {
        "starts_stopped": controls.starts_stopped is not None,
        "starts_stopped_reason": controls.starts_stopped,
        "alerts": alerts_document(controls.alerts),
        "expiring_before_s": seconds(controls.expiring_before),
    }
