"""Grants that come again each period: their terms, and posting those whose time has come.

Each period's grant has the natural key ``recurring:{id}:{n}`` as its reference, and a row that says that it was given,
both unique for ever. Whoever locks the account, and no other, gives what is due; what was missed is given as of when it
was due, in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
import structlog
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import Row, func, insert, select, tuple_, update

from app.accounts.balances import is_known
from app.accounts.grants import MAX_BALANCE, MAX_PRIORITY, RECURRING
from app.core.access import Actor
from app.core.ids import AccountThing, Kind, account_id_of, public_id
from app.core.ledger import DEFAULT_PRIORITY, GrantKind
from app.core.lossless_json import dumps
from app.core.recurrence import Period, first_from, period_start
from app.core.units import US_PER_S, Instant, MicroCredits, Micros, format_credits, format_instant, format_millionths
from app.db.database import Database, DatabaseUnavailable, Transaction
from app.db.tables import accounts, recurring_grants, recurring_periods
from app.documents import Credits, Document, Metadata, Moment, PlainString, PositiveCredits, Reason, WholeNumber
from app.errors import NOT_FOUND, RECURRING_GRANT_OVER, TOO_MANY_RECURRING_GRANTS, Problem, invalid
from app.http.pages import cursor_uuid, make_cursor, page, read_cursor
from app.ledger.audit import Audit
from app.ledger.book import Book, GrantTerms, LedgerPorts
from app.ledger.opening import open_book, open_book_of_user

LEAD: Final = Micros(60 * US_PER_S)
"""So long before its time a period's grant is prepared, so that it follows on the one before without a gap."""

AT_ONCE: Final = 50
"""Periods of one account that are given in one transaction."""

BATCH: Final = 500
MAX_RECURRING: Final = 20
"""Recurring grants of one user that are not over."""

MAX_COUNT: Final = 100_000
ACTOR: Final = Actor("recurring")

log = structlog.get_logger(__name__)


class Leftover(StrEnum):
    """What becomes of what is left of a period's grant when the next period begins."""

    EXPIRY = "expiry"
    ROLLOVER = "rollover"


class SeriesState(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    ENDED = "ended"


OVER: Final = (SeriesState.CANCELLED, SeriesState.ENDED)


class RecurringDocument(Document):
    """``rollover_cap``: so much of what is left rolls over at most; the next grant is smaller by the rest."""

    amount: PositiveCredits
    period: Annotated[Period, PlainString]
    kind: Annotated[GrantKind, PlainString] = GrantKind.PAID
    priority: Annotated[WholeNumber, Field(le=MAX_PRIORITY)] = DEFAULT_PRIORITY
    starts_at: Moment | None = None
    ends_at: Moment | None = None
    count: Annotated[WholeNumber, Field(le=MAX_COUNT)] | None = None
    leftover: Annotated[Leftover, PlainString] = Leftover.EXPIRY
    rollover_cap: Credits | None = None
    cost_basis: Credits | None = None
    metadata: Metadata = Field(default_factory=dict)
    reason: Reason | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "RecurringDocument":
        if self.rollover_cap is not None and self.leftover is not Leftover.ROLLOVER:
            raise PydanticCustomError("cap", "rollover_cap is for leftover rollover")
        if self.ends_at is not None and self.count is not None:
            raise PydanticCustomError("end", "ends_at or count, not both")
        if self.count == 0:
            raise PydanticCustomError("end", "count must be at least 1")
        return self


class ReasonDocument(Document):
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A recurring grant, whose account is locked. ``next_n``: the first period that was neither given nor skipped."""

    id: UUID
    amount: MicroCredits
    kind: GrantKind
    priority: int
    cost_basis: int | None
    metadata: dict[str, Any]
    period: Period
    starts_at: Instant
    ends_at: Instant | None
    count: int | None
    leftover: Leftover
    rollover_cap: MicroCredits | None
    state: SeriesState
    next_n: int
    skipped: int
    created_at: Instant

    def start_of(self, n: int) -> Instant | None:
        """When period ``n`` begins; null: there is no such period."""
        if self.count is not None and n >= self.count:
            return None
        start = period_start(self.starts_at, self.period, n)
        if start is None or (self.ends_at is not None and start >= self.ends_at):
            return None
        return start

    @property
    def next_at(self) -> Instant | None:
        return self.start_of(self.next_n) if self.state is SeriesState.ACTIVE else None

    @property
    def due_at(self) -> Instant | None:
        """When the next grant is to be made. What rolls over is known only when the period begins."""
        start = self.next_at
        if start is None:
            return None
        return start if self.rollover_cap is not None else Instant(start - LEAD)

    def checked(self) -> "Series":
        """Ended if there is nothing more to come."""
        over = self.state is SeriesState.ACTIVE and self.next_at is None
        return replace(self, state=SeriesState.ENDED) if over else self


@dataclass(frozen=True, slots=True)
class _Given:
    series: Series
    n: int
    starts_at: Instant
    amount: MicroCredits
    grant_id: UUID | None


# Making and changing them


async def create_recurring(
    transaction: Transaction, ledger: LedgerPorts, user_id: str, asked: RecurringDocument, now: Instant, actor: Actor
) -> dict[str, Any]:
    """Make a recurring grant, and give what is due of it; its document.

    Raises a :class:`~app.errors.Problem`: 409 ``too-many-recurring-grants``, 422.
    """
    starts_at = now if asked.starts_at is None else asked.starts_at
    if starts_at < now:
        raise invalid("/starts_at", "must not be in the past")
    if asked.ends_at is not None and asked.ends_at <= starts_at:
        raise invalid("/ends_at", "must be after starts_at")
    book = await open_book_of_user(transaction, ledger, user_id, now)
    of_user = recurring_grants.c.account_id == book.account_id
    count = select(func.count()).where(of_user, recurring_grants.c.state.not_in(OVER))
    if (await transaction.execute(count)).scalar_one() >= MAX_RECURRING:
        raise Problem(TOO_MANY_RECURRING_GRANTS, f"a user has at most {MAX_RECURRING} that are not over")
    series = Series(
        id=ledger.ids.new(),
        amount=asked.amount,
        kind=asked.kind,
        priority=asked.priority,
        cost_basis=asked.cost_basis,
        metadata=asked.metadata,
        period=asked.period,
        starts_at=starts_at,
        ends_at=asked.ends_at,
        count=asked.count,
        leftover=asked.leftover,
        rollover_cap=asked.rollover_cap,
        state=SeriesState.ACTIVE,
        next_n=0,
        skipped=0,
        created_at=now,
    )
    await transaction.execute(insert(recurring_grants).values(_row_of(book.account_id, series, now)))
    book.audit(
        Audit(
            actor=actor,
            action="recurring_grant.create",
            target=_public(book.account_id, series.id),
            after={
                "user_id": user_id,
                "amount": format_credits(series.amount),
                "period": series.period.value,
                "starts_at": format_instant(starts_at),
                "leftover": series.leftover.value,
            },
            reason=asked.reason,
        )
    )
    await _give(transaction, book, [series], now)
    return await load_recurring(transaction, AccountThing(book.account_id, series.id))


async def change_state(
    transaction: Transaction,
    ledger: LedgerPorts,
    key: AccountThing,
    wanted: SeriesState,
    reason: str,
    *,
    now: Instant,
    actor: Actor,
) -> dict[str, Any]:
    """Pause, resume or cancel a recurring grant; its document. What is due by now is given first.

    What begins while it is paused is skipped: it goes on with the next period. Asked for what is so already, it changes
    nothing. Raises a :class:`~app.errors.Problem`: 404, 409 ``recurring-grant-over``.
    """
    book = await open_book(transaction, ledger, key.account_id, now)
    row = (await transaction.execute(select(recurring_grants).where(_this(key)))).one_or_none()
    if book is None or row is None:
        raise unknown_recurring()
    series = series_of(row)
    if series.state in OVER and series.state is not wanted:
        raise Problem(RECURRING_GRANT_OVER, f"it is {series.state.value}")
    if series.state is wanted:
        await book.close()
        return await load_recurring(transaction, key)
    changed = series
    if wanted is SeriesState.ACTIVE:
        next_n = first_from(series.starts_at, series.period, now, least=series.next_n)
        changed = replace(series, next_n=next_n, skipped=series.skipped + next_n - series.next_n)
    running = [changed] if changed.state is SeriesState.ACTIVE else []
    given = await _grants_of(transaction, book, running, now, MAX_COUNT)
    changed = replace(given[-1].series if given else changed, state=wanted).checked()
    book.audit(
        Audit(
            actor=actor,
            action=f"recurring_grant.{_VERBS[wanted]}",
            target=_public(key.account_id, key.id),
            before={"state": series.state.value},
            after={"state": changed.state.value},
            reason=reason,
        )
    )
    await book.close()
    await _write(transaction, book.account_id, given, now)
    await _store(transaction, book.account_id, changed, now)
    return await load_recurring(transaction, key)


_VERBS: Final = {
    SeriesState.ACTIVE: "resume",
    SeriesState.PAUSED: "pause",
    SeriesState.CANCELLED: "cancel",
}


# Giving what is due


async def post_recurring(database: Database, ledger: LedgerPorts, now: Instant) -> int:
    """Give what is due by ``now`` of all recurring grants; how many periods that were.

    Each account in transactions of its own, so that one that is broken stops no other. Doing it twice, or in two
    processes at once, gives nothing twice: what is due is read when the account is locked.
    """
    done = 0
    after: tuple[Instant, UUID, UUID] | None = None
    while True:
        async with database.reading() as transaction:
            page_of_due = await _due(transaction, now, after)
        for account_id in dict.fromkeys(account_id for _, account_id, _ in page_of_due):
            while given := await _post(database, ledger, account_id, now):
                done += given
                if given < AT_ONCE:
                    break
        if len(page_of_due) < BATCH:
            return done
        after = page_of_due[-1]


async def _due(
    transaction: Transaction, now: Instant, after: tuple[Instant, UUID, UUID] | None
) -> list[tuple[Instant, UUID, UUID]]:
    place = (recurring_grants.c.due_at, recurring_grants.c.account_id, recurring_grants.c.id)
    statement = select(*place).where(recurring_grants.c.due_at <= now).order_by(*place).limit(BATCH)
    if after is not None:
        statement = statement.where(tuple_(*place) > after)
    return [(row.due_at, row.account_id, row.id) for row in await transaction.execute(statement)]


async def _post(database: Database, ledger: LedgerPorts, account_id: UUID, now: Instant) -> int:
    """Give what is due of one account; at most so many periods as one transaction takes."""
    try:
        async with database.transaction() as transaction:
            book = await open_book(transaction, ledger, account_id, now)
            if book is None:
                return 0
            statement = (
                select(recurring_grants)
                .where(recurring_grants.c.account_id == account_id, recurring_grants.c.due_at <= now)
                .order_by(recurring_grants.c.due_at, recurring_grants.c.id)
            )
            due = [series_of(row) for row in await transaction.execute(statement)]
            return await _give(transaction, book, due, now)
    except DatabaseUnavailable:
        raise
    except Exception:
        log.exception("recurring.broke", account_id=str(account_id))
        return 0


async def _give(transaction: Transaction, book: Book, due: Sequence[Series], now: Instant) -> int:
    """Give what is due of these, close the book, and write down what was given."""
    given = await _grants_of(transaction, book, due, now, AT_ONCE)
    await book.close()
    await _write(transaction, book.account_id, given, now)
    last = {one.series.id: one.series for one in given}
    for series in due:
        # One of which nothing was given can be due only because it is at its end.
        await _store(transaction, book.account_id, last.get(series.id, series).checked(), now)
    return len(given)


async def _grants_of(
    transaction: Transaction, book: Book, due: Sequence[Series], now: Instant, most: int
) -> list[_Given]:
    """Put what is due of these into the book, at most so many periods, with the series as it is after each."""
    given: list[_Given] = []
    for series in due:
        left = await _left(transaction, book, series) if series.rollover_cap is not None else set()
        while len(given) < most:
            start, due_at = series.next_at, series.due_at
            if start is None or due_at is None or due_at > now:
                break
            amount = _amount(book, series, left)
            grant_id = _grant(book, series, start, amount) if amount else None
            if grant_id is not None:
                left.add(grant_id)
            n = series.next_n
            series = replace(series, next_n=n + 1)  # noqa: PLW2901 - the series goes on period by period
            given.append(_Given(series, n, start, amount, grant_id))
            book.audit(
                Audit(
                    actor=ACTOR,
                    action="recurring_grant.give",
                    target=_public(book.account_id, series.id),
                    after={
                        "period": str(n),
                        "amount": format_credits(amount),
                        "grant_id": None if grant_id is None else book.public_grant(grant_id),
                    },
                )
            )
    # What was missed for longer than a period expires in the transaction that gives it, and is never to be had.
    book.account.post_due()
    return given


def _amount(book: Book, series: Series, earlier: set[UUID]) -> MicroCredits:
    """What the next period gives: less what of the periods before is left beyond the cap. What sessions hold is not
    left."""
    grants = book.account.grants
    amount = int(series.amount)
    if series.rollover_cap is not None:
        left = sum(grants[grant_id].unheld for grant_id in earlier if grant_id in grants)
        amount -= max(0, left - series.rollover_cap)
    if sum(grant.remaining for grant in grants.values()) + amount > MAX_BALANCE:
        return MicroCredits(0)  # no balance may be larger, and a series that broke here would break for ever
    return MicroCredits(max(0, amount))


def _grant(book: Book, series: Series, start: Instant, amount: MicroCredits) -> UUID:
    following = period_start(series.starts_at, series.period, series.next_n + 1)
    return book.grant(
        GrantTerms(
            amount=amount,
            kind=series.kind,
            priority=series.priority,
            effective_at=start,
            expires_at=following if series.leftover is Leftover.EXPIRY else None,
            cost_basis=series.cost_basis,
            reference=f"{RECURRING}{series.id.hex}:{series.next_n}",
            metadata=series.metadata,
        )
    )


async def _left(transaction: Transaction, book: Book, series: Series) -> set[UUID]:
    """The grants of earlier periods of which something may be left."""
    statement = select(recurring_periods.c.grant_id).where(
        recurring_periods.c.account_id == book.account_id,
        recurring_periods.c.recurring_id == series.id,
        recurring_periods.c.grant_id.in_(list(book.account.grants)),
    )
    return set((await transaction.execute(statement)).scalars())


async def _write(transaction: Transaction, account_id: UUID, given: Sequence[_Given], now: Instant) -> None:
    rows = [
        {
            "account_id": account_id,
            "recurring_id": one.series.id,
            "n": one.n,
            "starts_at": one.starts_at,
            "amount": one.amount,
            "grant_id": one.grant_id,
            "posted_at": now,
        }
        for one in given
    ]
    if rows:
        await transaction.execute(insert(recurring_periods), rows)


async def _store(transaction: Transaction, account_id: UUID, series: Series, now: Instant) -> None:
    await transaction.execute(
        update(recurring_grants)
        .where(_this(AccountThing(account_id, series.id)))
        .values(
            state=series.state,
            next_n=series.next_n,
            skipped=series.skipped,
            due_at=series.due_at,
            changed_at=now,
        )
    )


def _this(key: AccountThing) -> Any:
    return (recurring_grants.c.account_id == key.account_id) & (recurring_grants.c.id == key.id)


def _row_of(account_id: UUID, series: Series, now: Instant) -> dict[str, Any]:
    return {
        "account_id": account_id,
        "id": series.id,
        "amount": series.amount,
        "kind": series.kind.value,
        "priority": series.priority,
        "cost_basis": series.cost_basis,
        "metadata": series.metadata,
        "period": series.period.value,
        "starts_at": series.starts_at,
        "ends_at": series.ends_at,
        "periods": series.count,
        "leftover": series.leftover.value,
        "rollover_cap": series.rollover_cap,
        "state": series.state.value,
        "next_n": series.next_n,
        "skipped": series.skipped,
        "due_at": series.due_at,
        "created_at": series.created_at,
        "changed_at": now,
    }


def series_of(row: Row[Any]) -> Series:
    """The series in a row."""
    return Series(
        id=row.id,
        amount=row.amount,
        kind=GrantKind(row.kind),
        priority=row.priority,
        cost_basis=row.cost_basis,
        metadata=row.metadata,
        period=Period(row.period),
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        count=row.periods,
        leftover=Leftover(row.leftover),
        rollover_cap=row.rollover_cap,
        state=SeriesState(row.state),
        next_n=row.next_n,
        skipped=row.skipped,
        created_at=row.created_at,
    )


# Reading them


async def recurring_page(
    transaction: Transaction, user_id: str, *, limit: int, cursor: str | None
) -> dict[str, Any] | None:
    """A page of a user's recurring grants, newest first; null for a user never seen."""
    account_id = account_id_of(user_id)
    if not await is_known(transaction, account_id):
        return None
    statement = (
        select(recurring_grants)
        .where(recurring_grants.c.account_id == account_id)
        .order_by(recurring_grants.c.id.desc())
    )
    position = read_cursor(cursor, str)
    if position is not None:
        statement = statement.where(recurring_grants.c.id < cursor_uuid(position[0]))
    rows = (await transaction.execute(statement.limit(limit + 1))).all()
    shown = rows[:limit]
    return page(
        [recurring_document(account_id, series_of(row), user_id) for row in shown],
        make_cursor(str(shown[-1].id)) if len(rows) > limit else None,
    )


async def load_recurring(transaction: Transaction, key: AccountThing) -> dict[str, Any]:
    """A recurring grant. Raises a :class:`~app.errors.Problem`, 404."""
    statement = (
        select(recurring_grants, accounts.c.user_id)
        .join(accounts, accounts.c.account_id == recurring_grants.c.account_id)
        .where(_this(key))
    )
    row = (await transaction.execute(statement)).one_or_none()
    if row is None:
        raise unknown_recurring()
    return recurring_document(key.account_id, series_of(row), row.user_id)


def recurring_document(account_id: UUID, series: Series, user_id: str) -> dict[str, Any]:
    cap, next_at = series.rollover_cap, series.next_at
    return {
        "id": _public(account_id, series.id),
        "user_id": user_id,
        "amount": format_credits(series.amount),
        "kind": series.kind.value,
        "priority": series.priority,
        "period": series.period.value,
        "starts_at": format_instant(series.starts_at),
        "ends_at": None if series.ends_at is None else format_instant(series.ends_at),
        "count": series.count,
        "leftover": series.leftover.value,
        "rollover_cap": None if cap is None else format_credits(cap),
        "cost_basis": None if series.cost_basis is None else format_millionths(series.cost_basis),
        "metadata": msgspec.Raw(dumps(series.metadata).encode()),
        "state": series.state.value,
        "given": series.next_n - series.skipped,
        "skipped": series.skipped,
        "next_at": None if next_at is None else format_instant(next_at),
        "created_at": format_instant(series.created_at),
    }


def _public(account_id: UUID, series_id: UUID) -> str:
    return public_id(Kind.RECURRING_GRANT, account_id, series_id)


def unknown_recurring() -> Problem:
    return Problem(NOT_FOUND, "there is no recurring grant with this id")
