"""Many grants from a CSV file: all of it is read and checked before anything is given; then row by row.

Each row is a grant by reference in a transaction of its own, so a run that was cut off is made again from the start:
what it gave already is found by its reference and not given twice.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from app.accounts.grants import GrantDocument, give
from app.core.access import Actor
from app.core.lossless_json import JsonNumber
from app.core.units import InvalidQuantity, MicroCredits, format_credits
from app.db.database import Database
from app.documents import MAX_ERRORS, decode, printable, validate
from app.errors import INVALID_REQUEST, FieldError, Problem
from app.ledger.book import LedgerPorts
from app.ledger.findings import Progress, untold
from app.ports.clock import Clock

REQUIRED: Final = ("user_id", "amount", "reference")
OPTIONAL: Final = ("kind", "priority", "effective_at", "expires_at", "cost_basis", "metadata", "reason")
COLUMNS: Final = (*REQUIRED, *OPTIONAL)
MAX_ROWS: Final = 100_000
MAX_BYTES: Final = 64 << 20


class Outcome(StrEnum):
    GRANTED = "granted"
    REPEATED = "repeated"
    """It was given before, by the same reference."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Asked:
    """A row of the file; ``line``: on which of its lines it begins, the header's being 1."""

    line: int
    user_id: str
    grant: GrantDocument


@dataclass(frozen=True, slots=True)
class Done:
    asked: Asked
    outcome: Outcome
    grant_id: str | None
    detail: str | None

    def document(self) -> dict[str, Any]:
        return {
            "line": self.asked.line,
            "user_id": self.asked.user_id,
            "reference": self.asked.grant.reference,
            "amount": format_credits(self.asked.grant.amount),
            "outcome": self.outcome.value,
            "grant_id": self.grant_id,
            "detail": self.detail,
        }


def read_grants(body: bytes, most: int = MAX_ROWS) -> list[Asked]:
    """The rows of a CSV file (RFC 4180, UTF-8) with a header line, whose columns may come in any order.

    Raises a :class:`~app.errors.Problem`, 422, with every fault and the line that it is on.
    """
    reader = csv.reader(io.StringIO(_text(body), newline=""), strict=True)
    header: list[str] | None = None
    asked: list[Asked] = []
    faults: list[FieldError] = []
    line = 1
    try:
        for cells in reader:
            first, line = line, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = _header(cells, first)
                continue
            if len(asked) == most:
                faults.append(_fault(first, "", f"there are more than {most} rows"))
                break
            asked.extend(_rows(header, cells, first, faults))
            if len(faults) >= MAX_ERRORS:
                break
    except csv.Error as error:
        faults.append(_fault(line, "", f"is no CSV: {error}"))
    if header is None and not faults:
        faults.append(_fault(1, "", "there is no header line: " + ",".join(COLUMNS)))
    elif not asked and not faults:
        faults.append(_fault(line, "", "there is no row"))
    faults.extend(_repeated(asked))
    if faults:
        raise _refused(faults)
    return asked


def _text(body: bytes) -> str:
    if len(body) > MAX_BYTES:
        raise _refused([_fault(1, "", f"the file has more than {MAX_BYTES} bytes")])
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refused([_fault(body[: error.start].count(b"\n") + 1, "", "is not UTF-8")]) from None
    if "\x00" in text:
        raise _refused([_fault(text[: text.index("\x00")].count("\n") + 1, "", "holds a NUL")])
    return text


def _repeated(asked: Sequence[Asked]) -> list[FieldError]:
    """Which of two grants is meant by a reference, only the writer of the file knows."""
    seen: dict[tuple[str, str | None], int] = {}
    return [
        _fault(row.line, "reference", f"stands for this user on line {earlier} as well")
        for row in asked
        if (earlier := seen.setdefault((row.user_id, row.grant.reference), row.line)) != row.line
    ]


def _header(cells: Sequence[str], line: int) -> list[str]:
    names = [cell.strip().lower() for cell in cells]
    faults = [
        *(_fault(line, "", f"column {n}, {name[:40]!r}, is none of {', '.join(COLUMNS)}")
          for n, name in enumerate(names, 1) if name not in COLUMNS),
        *(_fault(line, name, "is missing") for name in REQUIRED if name not in names),
        *(_fault(line, name, "stands twice") for name in COLUMNS if names.count(name) > 1),
    ]  # fmt: skip
    if faults:
        raise _refused(faults)
    return names


def _rows(header: Sequence[str], cells: Sequence[str], line: int, faults: list[FieldError]) -> list[Asked]:
    """The row in these cells; none if it has faults, which are added to ``faults``."""
    if len(cells) != len(header):
        faults.append(_fault(line, "", f"has {len(cells)} cells, the header {len(header)}"))
        return []
    told: dict[str, Any] = {name: cell for name, cell in zip(header, cells, strict=True) if cell != ""}
    before = len(faults)
    faults.extend(_fault(line, name, "is required") for name in REQUIRED if name not in told)
    user_id = told.pop("user_id", "")
    try:
        user_id = printable(user_id) if user_id else user_id
    except InvalidQuantity as error:
        faults.append(_fault(line, "user_id", str(error)))
    if "priority" in told:
        told["priority"] = JsonNumber(told["priority"])
    try:
        if "metadata" in told:
            told["metadata"] = _metadata(told["metadata"], line)
        grant = validate(GrantDocument, told, f"/{line}")
    except Problem as problem:
        missing = {f"/{line}/{name}" for name in REQUIRED}
        faults.extend(error for error in problem.errors if not _told_above(error, missing))
        return []
    return [] if len(faults) > before else [Asked(line, user_id, grant)]


def _told_above(error: FieldError, missing: set[str]) -> bool:
    return error.pointer in missing and error.detail == "is required"


def _metadata(text: str, line: int) -> object:
    try:
        return decode(text.encode("utf-8"))
    except Problem as problem:
        raise Problem(
            INVALID_REQUEST, problem.detail, errors=[_fault(line, "metadata", f"is no JSON: {problem.detail}")]
        ) from None


def _fault(line: int, column: str, detail: str) -> FieldError:
    return FieldError(f"/{line}/{column}" if column else f"/{line}", detail)


def _refused(faults: Sequence[FieldError]) -> Problem:
    return Problem(
        INVALID_REQUEST, "nothing was granted: pointers name the line and the column", errors=faults[:MAX_ERRORS]
    )


async def grant_all(
    database: Database,
    ledger: LedgerPorts,
    clock: Clock,
    rows: Sequence[Asked],
    actor: Actor,
    *,
    dry_run: bool,
    progress: Progress = untold,
) -> list[Done]:
    """Give what the rows ask for, one by one. ``dry_run``: do each and take it back, to see what would come of it."""
    done: list[Done] = []
    for asked in rows:
        begun = database.rehearsal() if dry_run else database.transaction()
        try:
            async with begun as transaction:
                document, new = await give(transaction, ledger, asked.user_id, asked.grant, clock.now(), actor)
        except Problem as problem:
            told = problem.errors[0].detail if problem.errors else problem.detail
            done.append(Done(asked, Outcome.REFUSED, None, f"{problem.code}: {told}"))
        else:
            outcome = Outcome.GRANTED if new else Outcome.REPEATED
            done.append(Done(asked, outcome, None if dry_run and new else document["id"], None))
        progress("grants", len(done), len(rows))
    return done


def bulk_document(done: Sequence[Done], *, dry_run: bool) -> dict[str, Any]:
    """What came of all of them, or would have."""
    granted = sum(one.asked.grant.amount for one in done if one.outcome is Outcome.GRANTED)
    return {
        "dry_run": dry_run,
        "totals": {
            "rows": len(done),
            **{outcome.value: sum(one.outcome is outcome for one in done) for outcome in Outcome},
            "amount": format_credits(MicroCredits(granted)),
        },
        "rows": [one.document() for one in done],
    }
