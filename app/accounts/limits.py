"""A user's own settings: credit limit, prices, limits on sessions and spending, alerts, suspension."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import Row, select

from app.accounts.balances import unknown_user
from app.core.access import Actor
from app.core.ids import account_id_of
from app.core.units import Instant, MicroCredits, Micros, format_credits, format_instant, seconds
from app.db.database import Transaction
from app.db.tables import accounts
from app.documents import Credits, Document, Duration, Flag, PositiveCredits, Reason, Text, WholeNumber
from app.errors import invalid
from app.ledger.audit import Audit
from app.ledger.book import LedgerPorts
from app.ledger.opening import open_book_of_user
from app.pricing.cards import find_card

MAX_SESSIONS: Final = 1_000_000

PositiveDuration = Annotated[Duration, Field(gt=0)]


class SpendLimitsDocument(Document):
    """The most that sessions may cost in a calendar day or month (UTC); null or absent: no limit."""

    day: Credits | None = None
    month: Credits | None = None


class AlertsDocument(Document):
    """Below which balance the user is low, in credits or in the talk time that they afford; empty: never."""

    low_credits: PositiveCredits | None = None
    low_talk_time_s: PositiveDuration | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "AlertsDocument":
        if self.low_credits is not None and self.low_talk_time_s is not None:
            raise PydanticCustomError("both", "give low_credits or low_talk_time_s, not both")
        return self


class UserChangesDocument(Document):
    """What is absent stays as it is; null takes a user's own setting away."""

    credit_limit: Credits | None = None
    rate_card: Text | None = None
    default_time_limit_s: Duration | None = None
    max_concurrent_sessions: Annotated[WholeNumber, Field(ge=1, le=MAX_SESSIONS)] | None = None
    spend_limits: SpendLimitsDocument | None = None
    suspended: Flag | None = None
    alerts: AlertsDocument | None = None
    reason: Reason | None = None

    @model_validator(mode="after")
    def _null_where_it_means_something(self) -> "UserChangesDocument":
        for name in ("credit_limit", "suspended"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise PydanticCustomError("null", f"{name} must not be null")
        return self


async def change_user(
    transaction: Transaction,
    ledger: LedgerPorts,
    user_id: str,
    asked: UserChangesDocument,
    *,
    now: Instant,
    shortest: Micros,
    actor: Actor,
) -> dict[str, Any]:
    """Change a user's settings, and make the account if the user is new; the user's document.

    Raises a :class:`~app.errors.Problem`: 422 for a rate card that is not there or a time limit under ``shortest``.
    """
    if asked.default_time_limit_s is not None and asked.default_time_limit_s < shortest:
        raise invalid("/default_time_limit_s", f"must be at least {seconds(shortest)} seconds")
    if asked.rate_card is not None and await find_card(transaction, asked.rate_card, now) is None:
        raise invalid("/rate_card", "is neither the id of a rate card nor the name of one in force")
    book = await open_book_of_user(transaction, ledger, user_id, now)
    find = select(accounts).where(accounts.c.account_id == book.account_id)
    row = (await transaction.execute(find)).one()
    changes = _changes(row.limits, asked)
    before, after = settings_document(row._asdict()), settings_document({**row._asdict(), **changes})
    if before != after:
        book.audit(
            Audit(
                actor=actor,
                action="user.change",
                target=user_id,
                before={name: value for name, value in before.items() if value != after[name]},
                after={name: value for name, value in after.items() if value != before[name]},
                reason=asked.reason,
            )
        )
    if "credit_limit" in changes:
        book.change_credit_limit(changes.pop("credit_limit"), asked.reason or "changed")
    book.change(**changes)
    await book.close()
    return user_document((await transaction.execute(find)).one())


def _changes(limits: Mapping[str, Any], asked: UserChangesDocument) -> dict[str, Any]:
    """The columns that change; what is absent from the request stays out."""
    given = asked.model_fields_set
    changes: dict[str, Any] = {
        name: getattr(asked, name) for name in ("credit_limit", "rate_card", "suspended") if name in given
    }
    if "alerts" in given:
        changes["alerts"] = None if asked.alerts is None else alerts_stored(asked.alerts)
    merged = dict(limits)
    if "default_time_limit_s" in given:
        merged["default_time_limit_us"] = asked.default_time_limit_s
    if "max_concurrent_sessions" in given:
        merged["max_concurrent_sessions"] = asked.max_concurrent_sessions
    if "spend_limits" in given:
        spend = asked.spend_limits or SpendLimitsDocument()
        merged |= {"spend_day": spend.day, "spend_month": spend.month}
    return changes | {"limits": {name: value for name, value in merged.items() if value is not None}}


def alerts_stored(asked: AlertsDocument) -> dict[str, int]:
    """Thresholds as they are stored: micro-credits, or microseconds of talk time."""
    stored = {"low_credits": asked.low_credits, "low_talk_time_us": asked.low_talk_time_s}
    return {name: value for name, value in stored.items() if value is not None}


def alerts_document(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Stored thresholds as a client gave them."""
    low_credits, low_talk_time = stored.get("low_credits"), stored.get("low_talk_time_us")
    return {
        "low_credits": None if low_credits is None else format_credits(MicroCredits(int(low_credits))),
        "low_talk_time_s": None if low_talk_time is None else seconds(Micros(int(low_talk_time))),
    }


def settings_document(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among the columns of an account."""
    limits = values["limits"]
    time_limit, most = limits.get("default_time_limit_us"), limits.get("max_concurrent_sessions")
    day, month = limits.get("spend_day"), limits.get("spend_month")
    return {
        "credit_limit": format_credits(values["credit_limit"]),
        "rate_card": values["rate_card"],
        "default_time_limit_s": None if time_limit is None else seconds(Micros(int(time_limit))),
        "max_concurrent_sessions": None if most is None else int(most),
        "spend_limits": {
            "day": None if day is None else format_credits(MicroCredits(int(day))),
            "month": None if month is None else format_credits(MicroCredits(int(month))),
        },
        "suspended": values["suspended"],
        "alerts": None if values["alerts"] is None else alerts_document(values["alerts"]),
    }


async def find_user(transaction: Transaction, user_id: str) -> dict[str, Any]:
    """A user's document; 404 for a user never seen."""
    find = select(accounts).where(accounts.c.account_id == account_id_of(user_id))
    row = (await transaction.execute(find)).one_or_none()
    if row is None:
        raise unknown_user()
    return user_document(row)


def user_document(row: Row[Any]) -> dict[str, Any]:
    return {
        "user_id": row.user_id,
        **settings_document(row._asdict()),
        "alert_level": row.alert_level,
        "created_at": format_instant(row.created_at),
    }
