"""What statements of the service are read as, and that none of them is not understood."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.engine import make_url
from sqlalchemy.sql import ClauseElement

from app.db.database import _READING, _begin
from app.db.tables import accounts, entries, funding, grants, idempotency, sessions
from tests.turnstile.footprints import OpenTransaction, Statement, keeps_snapshot, read_statement
from tests.turnstile.touches import ANYTHING, NOTHING, Row, Touch, dependent

MINE = UUID(int=1)
A = str(MINE)
OTHER = UUID(int=2)


def read(statement: ClauseElement) -> Statement:
    compiled = statement.compile(dialect=make_url("postgresql+psycopg://").get_dialect()())
    return read_statement(str(compiled), compiled.params)


def rows(*names: str) -> frozenset[Row]:
    return frozenset(Row(name) for name in names)


def test_a_lock_of_an_account() -> None:
    found = read(select(accounts).where(accounts.c.account_id == MINE).with_for_update())
    row = Row("accounts", A)
    assert found == Statement(Touch(reads=frozenset({row}), locks=frozenset({row})), exact=row)


def test_sessions_and_keys_are_told_apart() -> None:
    def lock(session: UUID) -> Touch:
        return read(
            select(sessions.c.id).where(sessions.c.account_id == MINE, sessions.c.id == session).with_for_update()
        ).touch

    assert dependent(lock(MINE), lock(MINE))
    assert not dependent(lock(MINE), lock(OTHER))

    def claim(key: bytes) -> Touch:
        return read(upsert(idempotency).values(account_id=MINE, key_hash=key).on_conflict_do_nothing()).touch

    assert dependent(claim(b"1"), claim(b"1"))
    assert not dependent(claim(b"1"), claim(b"2"))


def test_other_unique_columns_make_any_session_the_same() -> None:
    bind = read(
        update(sessions)
        .where(sessions.c.account_id == MINE, sessions.c.id == MINE)
        .values(provider_session_id="gab", state="live")
    )
    assert bind.touch.locks == {Row("sessions", A)}
    assert bind.exact is None


def test_an_insert_keeps_what_it_leads_to() -> None:
    found = read(insert(entries).values(account_id=MINE, id=MINE, seq=1))
    assert found.touch == Touch(shares=frozenset({Row("accounts", A)}), locks=frozenset({Row("entries", A)}))


def test_joins_and_conditions_that_are_not_certain() -> None:
    joined = select(funding).join(entries, entries.c.id == funding.c.entry_id).where(funding.c.account_id == MINE)
    assert read(joined).touch == Touch(reads=rows("funding", "entries"))
    either = select(grants).where((grants.c.account_id == MINE) | (grants.c.id == MINE))
    assert read(either).touch == Touch(reads=rows("grants"))
    within = update(grants).where(grants.c.id.in_(select(entries.c.grant_id))).values(held=0)
    assert read(within).touch == Touch(reads=rows("grants", "entries"), locks=rows("grants"))


def test_which_rows_an_or_leaves_certain() -> None:
    free = sessions.c.lease_until.is_(None) | (sessions.c.lease_until < 5)
    lease = update(sessions).where(sessions.c.account_id == MINE, sessions.c.id == OTHER, free).values(attempts=0)
    assert read(lease).exact == Row("sessions", A, str(OTHER))
    deep = ((grants.c.account_id == MINE) & ((grants.c.held > 0) | (grants.c.amount > 5))) | (grants.c.held == 1)
    assert read(select(grants).where(deep)).touch == Touch(reads=rows("grants"))


@pytest.mark.parametrize("text", ["delete from accounts", "lock table accounts", "select pg_sleep(1)", "vacuum"])
def test_what_is_not_understood_touches_anything(text: str) -> None:
    assert read_statement(text, None).touch == ANYTHING


def test_beginnings_and_marks_touch_nothing() -> None:
    begin = read_statement(_begin("", 5), None)
    assert begin.begins
    assert begin.touch == NOTHING
    assert read_statement("BEGIN; SET LOCAL lock_timeout = 5; delete from accounts", None).touch == ANYTHING
    assert [keeps_snapshot(_begin(mode, 5)) for mode in ("", _READING)] == [False, True]
    assert read_statement("SAVEPOINT sa_savepoint_1", None).touch == NOTHING


def run(transaction: OpenTransaction, statement: Statement, found: int = 1, *, writes: bool = True) -> Touch:
    touch = transaction.before(statement)
    transaction.after(statement, rows=found, writes=writes)
    return touch


LOCK = read(select(accounts).where(accounts.c.account_id == MINE).with_for_update())
CHANGE = read(update(accounts).where(accounts.c.account_id == MINE).values(debt=0))


def test_what_is_held_is_not_locked_again() -> None:
    transaction = OpenTransaction()
    assert run(transaction, LOCK, writes=False).locks
    assert not run(transaction, CHANGE).locks
    end = transaction.end(commit=True)
    assert end == Touch(publishes=frozenset({Row("accounts", A)}), lets_go=frozenset({Row("accounts", A)}))
    assert not transaction.end(commit=False).publishes


def test_a_transaction_of_which_not_all_is_understood_may_publish_anything() -> None:
    transaction = OpenTransaction()
    run(transaction, read_statement("delete from accounts", None))
    assert transaction.end(commit=True) == ANYTHING


def test_a_lock_that_found_nothing_holds_nothing() -> None:
    transaction = OpenTransaction()
    run(transaction, LOCK, found=0, writes=False)
    assert run(transaction, CHANGE).locks


def test_going_back_to_a_savepoint_lets_go() -> None:
    transaction = OpenTransaction()
    run(transaction, read_statement("SAVEPOINT one", None))
    run(transaction, LOCK, writes=False)
    back = read_statement("ROLLBACK TO SAVEPOINT one", None)
    assert run(transaction, back) == Touch(lets_go=frozenset({Row("accounts", A)}))
    assert run(transaction, CHANGE).locks


def test_a_transaction_that_sees_one_state_reads_all_of_it_at_once() -> None:
    transaction = OpenTransaction(snapshot_kept=True)
    assert run(transaction, read_statement(_begin(_READING, 5), None)) == NOTHING, "it is seen when it is first read"
    first = run(transaction, read(select(grants)), writes=False)
    assert first == Touch(snapshot=True)
    assert run(transaction, read(select(grants)), writes=False) == NOTHING
    assert dependent(first, Touch(publishes=rows("grants")))
    assert not dependent(first, Touch(locks=rows("grants")))


@pytest.mark.parametrize(
    ("one", "other", "may_matter"),
    [
        (Touch(reads=rows("t")), Touch(locks=rows("t")), False),  # what is not committed is seen by nobody else
        (Touch(reads=rows("t")), Touch(publishes=rows("t")), True),
        (Touch(locks=rows("t")), Touch(locks=rows("t")), True),
        (Touch(shares=rows("t")), Touch(shares=rows("t")), False),
        (Touch(shares=rows("t")), Touch(locks=rows("t")), True),
        (Touch(locks=rows("t")), Touch(lets_go=rows("t")), True),
        (Touch(publishes=rows("t")), Touch(publishes=rows("t")), True),
        (ANYTHING, Touch(reads=rows("t")), True),
        (ANYTHING, NOTHING, False),
        (Touch(locks=rows("t")), Touch(locks=rows("u")), False),
    ],
)
def test_which_steps_may_change_places(one: Any, other: Any, may_matter: bool) -> None:
    assert dependent(one, other) is may_matter
    assert dependent(other, one) is may_matter
