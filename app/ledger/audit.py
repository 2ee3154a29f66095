"""The audit log: who did what, in the transaction that does it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import insert

from app.core.access import Actor
from app.core.lossless_json import loads
from app.core.units import Instant
from app.db.database import Transaction
from app.db.tables import audit_log
from app.http.answers import encode
from app.ports.ids import Ids

_INSERT: Final = insert(audit_log)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Who does what to an account, and why, for those who ask later."""

    actor: Actor
    action: str
    target: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    reason: str | None = None


async def record_audits(
    transaction: Transaction, ids: Ids, account_id: UUID, audits: Sequence[Audit], at: Instant
) -> None:
    """Write down who did what, in the transaction that does it."""
    rows = [
        {
            "account_id": account_id,
            "id": ids.new(),
            "actor": audit.actor.name,
            "action": audit.action,
            "target": audit.target,
            "before": _plain(audit.before),
            "after": _plain(audit.after),
            "reason": audit.reason,
            "request_id": audit.actor.request_id,
            "address": audit.actor.address,
            "at": at,
        }
        for audit in audits
    ]
    if rows:
        await transaction.execute(_INSERT, rows)


def _plain(document: Mapping[str, Any] | None) -> Any:
    """The document as the database's JSON takes it, with decimals as numbers digit for digit."""
    return None if document is None else loads(encode(dict(document)))
