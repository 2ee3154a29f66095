"""The roll-forward as a document and as rows of a table."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from app.core.units import Instant, MicroCredits, format_credits, format_instant
from app.finance.roll_forward import Figure, Movement, Period, Row
from app.http.csv_answers import Cell

COLUMNS: Final = ("opening", *(movement.value for movement in Movement), "closing")
CSV_HEADER: Final = (
    "kind",
    *(name + suffix for name in COLUMNS for suffix in ("", "_value", "_without_cost_basis")),
)


def roll_forward_document(rows: Mapping[str, Row], period: Period, now: Instant) -> dict[str, Any]:
    """``as_of`` is when it was worked out: without ``before`` it counts all that was booked by then."""
    return {
        "after": None if period.after is None else format_instant(period.after),
        "before": None if period.before is None else format_instant(period.before),
        "as_of": format_instant(now),
        "rows": [{"kind": kind} | dict(_cells(row)) for kind, row in rows.items()],
    }


def csv_rows(document: Mapping[str, Any]) -> list[list[Cell]]:
    """The document's rows under :data:`CSV_HEADER`."""
    return [[row[name] for name in CSV_HEADER] for row in document["rows"]]


def csv_name(document: Mapping[str, Any]) -> str:
    """What a file with the document's rows is called."""
    until = document["before"] or document["as_of"]
    return "roll-forward-" + "-".join(instant[:19] for instant in (document["after"], until) if instant is not None)


def _cells(row: Row) -> Iterator[tuple[str, str]]:
    named = {"opening": row.opening, "closing": row.closing}
    named |= {movement.value: figure for movement, figure in row.movements.items()}
    for name in COLUMNS:
        yield from _figure(name, named[name])


def _figure(name: str, figure: Figure) -> Iterator[tuple[str, str]]:
    yield name, format_credits(MicroCredits(figure.amount))
    yield f"{name}_value", format_money(figure.value)
    yield f"{name}_without_cost_basis", format_credits(MicroCredits(figure.without_cost_basis))


def format_money(value: int) -> str:
    """The shortest plain decimal of ``value`` in 10⁻¹² of the money's unit."""
    whole, rest = divmod(abs(value), 10**12)
    sign = "-" if value < 0 else ""
    return f"{sign}{whole}.{rest:012d}".rstrip("0") if rest else f"{sign}{whole}"
