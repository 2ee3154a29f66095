"""The roll-forward of a period: opening + issued − consumed − expired − voided + corrections = closing.

Movements are taken grant by grant, from entries and their funding, and must come to what the postings of the ledger say
and to what remains of the grants. docs/finance.md says what counts as what.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import text

from app.core.account import BrokenLedger
from app.core.entries import ADJUSTED, CONSUMED, CREDIT, EXPIRED, VOIDED
from app.core.ledger import GrantKind
from app.core.units import Instant, datetime_of
from app.db.database import Transaction
from app.errors import invalid

STATEMENT_TIMEOUT_MS: Final = 600_000
"""Each statement reads whole tables."""

TOTAL: Final = "total"


class Movement(StrEnum):
    """Why credits came or went."""

    ISSUED = "issued"
    CONSUMED = "consumed"
    EXPIRED = "expired"
    VOIDED = "voided"
    CORRECTIONS = "corrections"


LOST: Final = frozenset({Movement.CONSUMED, Movement.EXPIRED, Movement.VOIDED})
"""Their columns are positive for credits that went."""

SOURCES: Final = (*(kind.value for kind in GrantKind), CREDIT)


class Part(StrEnum):
    """Where an entry lies: before the period, in it, or after it."""

    OPENING = "opening"
    PERIOD = "period"
    LATER = "later"


@dataclass(frozen=True, slots=True)
class Figure:
    """Micro-credits; their value at the grants' cost basis in 10⁻¹² of the money's unit; and those without one."""

    amount: int = 0
    value: int = 0
    without_cost_basis: int = 0

    def __add__(self, other: "Figure") -> "Figure":
        return Figure(
            self.amount + other.amount,
            self.value + other.value,
            self.without_cost_basis + other.without_cost_basis,
        )

    def __neg__(self) -> "Figure":
        return Figure(-self.amount, -self.value, -self.without_cost_basis)


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of grants, the users' credit (less than 0: debt), or the total. All but corrections are told unsigned:
    what was consumed is more than 0."""

    opening: Figure
    movements: Mapping[Movement, Figure]
    closing: Figure


@dataclass(frozen=True, slots=True)
class Period:
    """``after`` is inclusive, null since ever; ``before`` is exclusive, null all that is booked."""

    after: Instant | None
    before: Instant | None


def checked_period(after: Instant | None, before: Instant | None, now: Instant) -> Period:
    """The period; 422 if it ends before it begins, or lies in the future."""
    for name, instant in (("after", after), ("before", before)):
        if instant is not None and instant > now:
            raise invalid(f"/{name}", "must not be in the future")
    if after is not None and before is not None and after >= before:
        raise invalid("/before", "must be later than after")
    return Period(after, before)


# A negative line of an entry that opens a grant is what the new grant gives back: it moves nothing of the old one.
# What repays debt leaves a grant and lowers the debt, two movements of one line; it counts as what made the debt.
_MOVEMENTS: Final = text("""
with booked as not materialized (
    select account_id, id, kind, grant_id, amount, grant_id is not null and amount > 0 as opens,
           case when created_at < cast(:after as timestamptz) then 'opening'
                when created_at >= cast(:before as timestamptz) then 'later' else 'period' end as part
    from entries
), moved as (
    select part, account_id, grant_id, amount,
           case when opens and kind = 'grant' then 'issued' when opens then 'corrections'
                when kind = 'expiry' then 'expired' when kind = 'void' then 'voided' end as movement
    from booked where grant_id is not null
    union all
    select b.part, f.account_id, m.grant_id, m.amount,
           case when f.amount > 0 and d.kind = 'charge' then 'consumed' else 'corrections' end
    from funding f
    join booked b on b.account_id = f.account_id and b.id = f.entry_id
    join entries d on d.account_id = f.account_id and d.id = f.debit_entry_id
    cross join lateral (
        select f.grant_id, -f.amount as amount
        union all
        select null, f.amount where f.amount > 0 and f.debit_entry_id <> f.entry_id) m
    where f.amount > 0 or not b.opens
)
select case when m.grant_id is null then 'credit' else g.kind end as source, m.part, m.movement,
       sum(m.amount) as amount, coalesce(sum(m.amount * g.cost_basis::numeric), 0) as value,
       coalesce(sum(m.amount) filter (where m.grant_id is not null and g.cost_basis is null), 0) as without_cost_basis
from moved m left join grants g on g.account_id = m.account_id and g.id = m.grant_id
group by 1, 2, 3
""")

_POSTINGS: Final = text("""
with booked as not materialized (
    select account_id, id,
           case when created_at < cast(:after as timestamptz) then 'opening'
                when created_at >= cast(:before as timestamptz) then 'later' else 'period' end as part
    from entries
)
select b.part, p.ledger_account, sum(p.amount) as amount
from postings p join booked b on b.account_id = p.account_id and b.id = p.entry_id
group by 1, 2
""")

_REMAINING: Final = text("""
select kind as source, sum(remaining) as amount from grants where state <> 'scheduled' group by kind
union all
select 'credit', -sum(debt) from accounts
""")

Moved = Mapping[tuple[str, Part, Movement], Figure]


async def roll_forward(transaction: Transaction, period: Period) -> dict[str, Row]:
    """The rows by source, and the total; :class:`~app.core.account.BrokenLedger` if they contradict the ledger."""
    bounds = {
        "after": None if period.after is None else datetime_of(period.after),
        "before": None if period.before is None else datetime_of(period.before),
    }
    found = await transaction.execute(_MOVEMENTS, bounds)
    moved = {_place(row): Figure(int(row.amount), int(row.value), int(row.without_cost_basis)) for row in found}
    posted: Counter[tuple[Part, str]] = Counter()
    for row in await transaction.execute(_POSTINGS, bounds):
        posted[Part(row.part), row.ledger_account] = int(row.amount)
    remaining: Counter[str] = Counter()
    for row in await transaction.execute(_REMAINING):
        remaining[row.source] = int(row.amount or 0)
    _agree(moved, posted, remaining)
    rows = {source: _row(moved, source) for source in SOURCES}
    rows[TOTAL] = _total(list(rows.values()))
    return rows


def _place(row: Any) -> tuple[str, Part, Movement]:
    if row.source not in SOURCES or row.movement is None:
        raise BrokenLedger("an entry moves credits in a way that the roll-forward does not know")
    return row.source, Part(row.part), Movement(row.movement)


def _agree(moved: Moved, posted: Mapping[tuple[Part, str], int], remaining: Mapping[str, int]) -> None:
    """What the movements come to is what was posted, in each part of time and by each reason, and what is there."""
    by_source: Counter[tuple[Part, str]] = Counter()
    by_movement: Counter[tuple[Part, Movement]] = Counter()
    for (source, part, movement), figure in moved.items():
        by_source[part, source] += figure.amount
        by_movement[part, movement] += figure.amount
    for part in Part:
        for source in SOURCES:
            _same(f"{source}, {part}", by_source[part, source], posted[part, _ledger_account(source)])
        issued = sum(posted[part, f"issued.{kind}"] for kind in GrantKind)
        _same(f"issued, {part}", by_movement[part, Movement.ISSUED], -issued)
        _same(f"expired, {part}", by_movement[part, Movement.EXPIRED], -posted[part, EXPIRED])
        _same(f"voided, {part}", by_movement[part, Movement.VOIDED], -posted[part, VOIDED])
        used = by_movement[part, Movement.CONSUMED] + by_movement[part, Movement.CORRECTIONS]
        _same(f"consumed and corrections, {part}", used, -posted[part, CONSUMED] - posted[part, ADJUSTED])
    for source in SOURCES:
        _same(f"{source}, now", sum(by_source[part, source] for part in Part), remaining[source])


def _ledger_account(source: str) -> str:
    return source if source == CREDIT else f"grants.{source}"


def _same(what: str, moved: int, stored: int) -> None:
    if moved != stored:
        raise BrokenLedger(f"{what}: entries and funding come to {moved} micro-credits, the ledger has {stored}")


def _row(moved: Moved, source: str) -> Row:
    opening = sum((moved.get((source, Part.OPENING, movement), Figure()) for movement in Movement), Figure())
    changes = {movement: moved.get((source, Part.PERIOD, movement), Figure()) for movement in Movement}
    return Row(
        opening,
        {movement: -figure if movement in LOST else figure for movement, figure in changes.items()},
        sum(changes.values(), opening),
    )


def _total(rows: list[Row]) -> Row:
    return Row(
        sum((row.opening for row in rows), Figure()),
        {movement: sum((row.movements[movement] for row in rows), Figure()) for movement in Movement},
        sum((row.closing for row in rows), Figure()),
    )
