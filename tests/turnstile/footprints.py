"""What a statement touches, read from its text before it runs; and what its transaction has touched so far.

Whatever is not understood touches everything. Where it is not certain which rows are meant, all of the table's are.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from app.db.tables import metadata
from tests.turnstile.touches import ANYTHING, NOTHING, Row, Touch

TABLES: Final = metadata.tables
_PARENTS: Final = {
    name: frozenset(key.column.table.name for key in table.foreign_keys) for name, table in TABLES.items()
}
_NAMES: Final = re.compile(rf"(?<![.\w])({'|'.join(sorted(TABLES, key=len, reverse=True))})\b(?!\s*=)")
_INSERT: Final = re.compile(r"\s*INSERT INTO (\w+)\s*\(([^)]*)\)", re.IGNORECASE)
_UPDATE: Final = re.compile(r"\s*UPDATE (\w+) SET (.*?)(?: WHERE |\s+RETURNING |$)", re.IGNORECASE | re.DOTALL)
_SELECT: Final = re.compile(r"\s*SELECT\b", re.IGNORECASE)
_LOCKS: Final = re.compile(r" FOR (NO KEY UPDATE|UPDATE|SHARE|KEY SHARE)\b")
"""Those that only share are taken for the others: orders are told apart then that come to the same."""
_BEGIN: Final = re.compile(r"BEGIN\b([^;]*)(; SET LOCAL (lock|statement)_timeout = \d+)*$")
_MARK: Final = re.compile(r"\s*(SAVEPOINT|RELEASE SAVEPOINT|ROLLBACK TO SAVEPOINT) (\w+)\s*$", re.IGNORECASE)
_EQUALS: Final = re.compile(r"\b(\w+)\.(\w+) = %\((\w+)\)s")

_ONE_ROW: Final = {"accounts": None, "sessions": "id", "idempotency": "key_hash", "job_leases": None}
"""Tables whose rows are told apart: by this column beside the account, where there is one."""

Parameters = Mapping[str, Any] | Sequence[Any] | None


@dataclass(frozen=True)
class Statement:
    """``exact``: the one row that it locks or writes, if it is certain that there is no other."""

    touch: Touch
    exact: Row | None = None
    mark: tuple[str, str] | None = None
    """``SAVEPOINT`` and its like, and its name."""
    begins: bool = False
    """It begins a transaction, and sees nothing yet."""


def read_statement(text: str, parameters: Parameters) -> Statement:
    """What a statement touches by itself."""
    if _BEGIN.match(text):
        return Statement(NOTHING, begins=True)
    mark = _MARK.match(text)
    if mark is not None:
        return Statement(NOTHING, mark=(mark[1].upper(), mark[2]))
    insert = _INSERT.match(text)
    if insert is not None and insert[1] in TABLES:
        return _inserted(insert[1], text[insert.end() :], _first(parameters))
    update = _UPDATE.match(text)
    if update is not None and update[1] in TABLES:
        return _updated(update[1], update[2], text, _first(parameters))
    if _SELECT.match(text) is not None:
        names = frozenset(_NAMES.findall(text))
        if names:
            return _selected(names, text, _first(parameters))
    return Statement(ANYTHING)


def _first(parameters: Parameters) -> Mapping[str, Any]:
    """The named parameters; of several sets, those that all have in common."""
    if isinstance(parameters, Mapping):
        return parameters
    sets = [one for one in parameters or () if isinstance(one, Mapping)]
    return {name: value for name, value in sets[0].items() if all(o.get(name) == value for o in sets)} if sets else {}


def _inserted(table: str, rest: str, values: Mapping[str, Any]) -> Statement:
    account = _text(values.get("account_id")) if "account_id" in TABLES[table].c else None
    row = _row(table, account, values.get(_ONE_ROW.get(table) or ""))
    if table == "sessions":
        row = Row(table, account)  # its other unique keys may meet those of another session
    # A foreign key keeps the row that it leads to from being deleted, and waits for whoever has locked it.
    parents = frozenset(
        Row(parent, account if "account_id" in TABLES[parent].c else None) for parent in _PARENTS[table]
    )
    reads = frozenset(Row(name) for name in _NAMES.findall(rest))
    return Statement(Touch(reads=reads, shares=parents, locks=frozenset({row})), _exact(row))


def _updated(table: str, changed: str, text: str, values: Mapping[str, Any]) -> Statement:
    row = _wanted(table, text[text.find(" WHERE ") :] if " WHERE " in text else "", values)
    reads = frozenset({row}) | {Row(name) for name in _NAMES.findall(text) if name != table}
    if table == "sessions" and "provider_session_id" in changed:
        row = Row(table, row.account)  # this one is unique as well
    return Statement(Touch(reads=reads, locks=frozenset({row})), _exact(row))


def _selected(names: frozenset[str], text: str, values: Mapping[str, Any]) -> Statement:
    if len(names) > 1:
        rows = frozenset(Row(name) for name in names)
        return Statement(Touch(reads=rows, locks=rows if _LOCKS.search(text) else frozenset()))
    (table,) = names
    row = _wanted(table, text, values)
    if not _LOCKS.search(text):
        return Statement(Touch(reads=frozenset({row})))
    return Statement(Touch(reads=frozenset({row}), locks=frozenset({row})), _exact(row))


def _wanted(table: str, condition: str, values: Mapping[str, Any]) -> Row:
    if re.search(r"\b(OR|JOIN|UNION|EXISTS)\b", condition):
        condition = _certain(condition)
    equal = {column: values.get(name) for of, column, name in _EQUALS.findall(condition) if of == table}
    return _row(table, _text(equal.get("account_id")), equal.get(_ONE_ROW.get(table) or ""))


def _certain(condition: str) -> str:
    """What of a condition with an OR in it holds of every row: what stands outside of parentheses, if no OR does."""
    if re.search(r"\b(JOIN|UNION|EXISTS)\b", condition):
        return ""
    outside = re.sub(r"%\((\w+)\)s", r"%<\1>s", condition)
    while (inner := re.sub(r"\([^()]*\)", " ", outside)) != outside:
        outside = inner
    return "" if re.search(r"\bOR\b|[()]", outside) else re.sub(r"%<(\w+)>s", r"%(\1)s", outside)


def _row(table: str, account: str | None, key: Any) -> Row:
    return Row(table, account, _text(key) if account is not None and table in _ONE_ROW else None)


def _text(value: Any) -> str | None:
    return None if value is None else value.hex() if isinstance(value, bytes) else str(value)


def _exact(row: Row) -> Row | None:
    if row.account is None or row.table not in _ONE_ROW:
        return None
    return row if row.table == "accounts" or row.key is not None else None


@dataclass
class OpenTransaction:
    """What the transaction of one connection did so far."""

    snapshot_kept: bool = False
    """All its statements read as of the first one."""
    begun: bool = False
    _unknown: bool = False
    _held: list[Row] = field(default_factory=list)
    _touched: list[Row] = field(default_factory=list)
    _written: list[Row] = field(default_factory=list)
    _marks: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def before(self, statement: Statement) -> Touch:
        """What the statement touches if it comes next."""
        touch = statement.touch
        if touch.anything:
            return touch
        if statement.begins:
            return NOTHING
        if self.snapshot_kept:
            return Touch(snapshot=True) if not self.begun else Touch(shares=touch.shares, locks=touch.locks)
        if statement.mark is not None and statement.mark[0] == "ROLLBACK TO SAVEPOINT":
            return Touch(lets_go=frozenset(self._touched[self._marks[statement.mark[1]][1] :]))
        # Nobody notices that a row is locked once more by whoever has it.
        held = frozenset(self._held)
        return Touch(touch.reads, touch.shares - held, touch.locks - held)

    def after(self, statement: Statement, *, rows: int, writes: bool) -> None:
        """The statement was run and found or changed so many rows."""
        if statement.begins:
            return
        self.begun = True
        if statement.mark is not None:
            kind, name = statement.mark
            if kind == "SAVEPOINT":
                self._marks[name] = (len(self._held), len(self._touched), len(self._written))
            elif kind == "ROLLBACK TO SAVEPOINT":
                held, touched, written = self._marks[name]
                del self._held[held:], self._touched[touched:], self._written[written:]
            return
        touch = statement.touch
        self._unknown |= touch.anything
        self._touched += [*touch.shares, *touch.locks]
        if writes:
            self._written += touch.locks
        if rows == 1 and statement.exact is not None:
            self._held.append(statement.exact)

    def end(self, *, commit: bool) -> Touch:
        """What committing, or rolling back, touches."""
        if self._unknown:
            return ANYTHING
        return Touch(
            publishes=frozenset(self._written) if commit else frozenset(),
            lets_go=frozenset(self._touched) | frozenset(self._written),
        )


def writes(text: str) -> bool:
    return _SELECT.match(text) is None


def keeps_snapshot(text: str) -> bool:
    """Whether it begins a transaction in which all statements read as of the first one."""
    begin = _BEGIN.match(text)
    return begin is not None and "REPEATABLE READ" in begin[1]
