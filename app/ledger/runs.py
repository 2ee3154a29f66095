"""When the ledger was verified last, and what was found: for those who look, nothing rests on it."""

from collections import Counter
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select

from app.core.units import Instant, format_instant
from app.db.database import Transaction
from app.db.tables import verify_runs
from app.ledger.findings import Findings


@dataclass(frozen=True, slots=True)
class VerifyRun:
    """A run of ``talktime verify``; ``with_chain``: whether it had the ledger's keys."""

    id: UUID
    started_at: Instant
    with_chain: bool


async def record_run(transaction: Transaction, run: VerifyRun, found: Findings, now: Instant) -> None:
    """Write down that it came to its end at ``now``, and how many rows each check found."""
    counted = Counter(finding.check for finding in found.all)
    findings = {"chain_checked": run.with_chain, "cut_off": found.cut_off, "found": dict(counted)}
    await transaction.execute(
        insert(verify_runs).values(id=run.id, started_at=run.started_at, finished_at=now, findings=findings)
    )


async def last_run(transaction: Transaction) -> dict[str, Any] | None:
    """The last run that came to its end; null if there was none."""
    statement = (
        select(verify_runs)
        .where(verify_runs.c.finished_at.is_not(None))
        .order_by(verify_runs.c.started_at.desc())
        .limit(1)
    )
    row = (await transaction.execute(statement)).one_or_none()
    if row is None:
        return None
    return {
        "started_at": format_instant(row.started_at),
        "finished_at": format_instant(row.finished_at),
        **row.findings,
    }
