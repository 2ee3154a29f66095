"""The system: whether it can work, its jobs and leases, what is kept for how long, the settings without secrets."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Final

from pydantic import SecretStr
from sqlalchemy import func, select
from starlette.responses import Response

from app import __version__
from app.accounts.controls import ControlChangesDocument, change_controls, controls_document
from app.core.access import Scope
from app.core.ids import NIL_ACCOUNT
from app.core.units import US_PER_S, Instant, format_instant
from app.db.database import Database, Transaction
from app.db.tables import exported_heads, job_leases, provider_budget, receiving, sessions
from app.deliveries.log import backlogs
from app.documents import Reason
from app.ledger.controls import load_controls
from app.ledger.runs import last_run
from app.ports.ids import Ids
from app.settings import PREFIX, Settings
from app.web.account_actions import REASON
from app.web.actions import Action, Deed, Outcome, Subject
from app.web.forms import Field
from app.web.forms import Kind as Typed
from app.web.rendering import span
from app.web.site import ADMIN, Page, Visit

SYSTEM: Final = ADMIN + "/system"
MOST_PROCESSES: Final = 20
SHOWN_DAYS: Final = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemPages:
    """``faults``: why this process must not be given work now."""

    database: Database
    settings: Settings
    faults: Callable[[], Awaitable[list[str]]]

    def pages(self) -> list[Page]:
        return [Page(SYSTEM, self._system), Page(SYSTEM + "/faults", self._faults)]

    async def _faults(self, visit: Visit) -> Response:
        return visit.page("faults.html", faults=await self.faults())

    async def _system(self, visit: Visit) -> Response:
        days = await self.database.tick_days()
        async with self.database.reading() as transaction:
            values: dict[str, Any] = {
                "jobs": await _jobs(transaction),
                "leases": await _leases(transaction, visit.now),
                "processes": await _processes(transaction),
                "provider": await _provider(transaction, visit.now),
                "verified": await last_run(transaction),
                "heads": await _last_heads(transaction),
                "undelivered": await _undelivered(transaction, visit.now),
                "controls": controls_document(await load_controls(transaction)),
            }
        return visit.page(
            "system.html",
            nav="system",
            version=__version__,
            days=[day.isoformat() for day in days[-SHOWN_DAYS:]],
            first_day=days[0].isoformat() if days else None,
            number_of_days=len(days),
            settings=told_settings(self.settings),
            **values,
        )


async def _jobs(transaction: Transaction) -> list[dict[str, Any]]:
    rows = await transaction.execute(select(job_leases).order_by(job_leases.c.job))
    return [
        {"job": row.job, "next_run_at": format_instant(row.next_run_at), "leased_until": _instant(row.leased_until)}
        for row in rows
    ]


async def _leases(transaction: Transaction, now: Instant) -> dict[str, int]:
    """Sessions that are due, and that some process works on."""
    due = sessions.c.due_at.is_not(None)
    waiting = select(func.count()).select_from(sessions).where(due, sessions.c.due_at <= now)
    leased = select(func.count()).select_from(sessions).where(due, sessions.c.lease_until > now)
    return {
        "due": int((await transaction.execute(waiting)).scalar_one()),
        "leased": int((await transaction.execute(leased)).scalar_one()),
    }


async def _processes(transaction: Transaction) -> list[dict[str, Any]]:
    """Who has reported last that it receives heartbeats."""
    last = func.max(receiving.c.to_at)
    statement = (
        select(receiving.c.process_id, func.min(receiving.c.from_at).label("since"), last.label("until"))
        .group_by(receiving.c.process_id)
        .order_by(last.desc())
        .limit(MOST_PROCESSES)
    )
    return [
        {"id": str(row.process_id), "since": format_instant(row.since), "until": format_instant(row.until)}
        for row in await transaction.execute(statement)
    ]


async def _provider(transaction: Transaction, now: Instant) -> dict[str, Any]:
    row = (await transaction.execute(select(func.max(provider_budget.c.blocked_until).label("until")))).one()
    return {"blocked_until": None if row.until is None or row.until <= now else format_instant(row.until)}


async def _undelivered(transaction: Transaction, now: Instant) -> dict[str, Any]:
    """What of events has not arrived, over all endpoints."""
    found = (await backlogs(transaction, now)).values()
    oldest = [one.oldest_due_at for one in found if one.oldest_due_at is not None]
    return {
        "waiting": sum(one.waiting for one in found),
        "due": sum(one.due for one in found),
        "dead": sum(one.dead for one in found),
        "oldest_due_at": format_instant(min(oldest)) if oldest else None,
    }


async def _last_heads(transaction: Transaction) -> dict[str, Any] | None:
    statement = select(exported_heads).order_by(exported_heads.c.created_at.desc()).limit(1)
    row = (await transaction.execute(statement)).one_or_none()
    return None if row is None else {"at": format_instant(row.created_at), "accounts": row.accounts}


def told_settings(settings: Settings) -> list[tuple[str, str, bool]]:
    """Every setting: its variable, its value as it may be shown, and whether it was given at all."""
    return [
        (PREFIX + name.upper(), _told(name, getattr(settings, name)), name in settings.model_fields_set)
        for name in type(settings).model_fields
    ]


def _told(name: str, value: Any) -> str:
    if isinstance(value, SecretStr) or (isinstance(value, tuple) and any(isinstance(one, SecretStr) for one in value)):
        return "set, and not shown"
    if name.endswith("database_url"):
        return "unset" if value is None else "set, and not shown"
    if value is None or value == ():
        return "unset"
    if isinstance(value, tuple):
        return ", ".join(str(one.value if isinstance(one, Enum) else one) for one in value)
    if name.endswith("_s") and isinstance(value, int):
        return span(value // US_PER_S) if value % US_PER_S == 0 else f"{value} µs"
    return str(value)


def _instant(instant: Instant | None) -> str | None:
    return None if instant is None else format_instant(instant)


class StopDocument(ControlChangesDocument):
    reason: Reason


class Stop(Action[Any]):
    """The stop for all starts, and its end."""

    path = SYSTEM + "/starts"
    name = "starts"
    title = "Stop starts, or let them go on"
    verb = "Change it"
    scope: ClassVar[Scope] = Scope.ADMIN
    nav: ClassVar[str] = "system"
    dangerous = True
    document = StopDocument
    fields = (
        Field(name="starts_stopped", label="No session starts; those that run go on", kind=Typed.FLAG),
        REASON,
    )

    def __init__(self, ids: Ids) -> None:
        self._ids = ids

    async def subject(self, transaction: Transaction, visit: Visit) -> Subject:
        stopped = (await load_controls(transaction)).starts_stopped
        given: Mapping[str, str] = {} if stopped is None else {"starts_stopped": "yes"}
        return Subject(account_id=NIL_ACCOUNT, name="System", back=SYSTEM, given=given)

    async def state(self, transaction: Transaction, subject: Subject, now: Instant) -> Sequence[tuple[str, str, bool]]:
        stopped = (await load_controls(transaction)).starts_stopped
        return [("Starts", "go on" if stopped is None else f"are stopped: {stopped}", True)]

    async def do(self, transaction: Transaction, deed: Deed[StopDocument]) -> Outcome:
        await change_controls(transaction, self._ids, deed.asked, deed.now, deed.actor)
        return Outcome()
