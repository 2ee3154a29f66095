"""What is stored of one account, read by one statement, in the words of :mod:`tests.stateful.model`."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text

from app.db.database import Transaction
from tests.stateful.model import Entry, Model


def _micros(instant: str) -> str:
    return f"(extract(epoch from {instant}) * 1000000)::bigint"


_ALL: Final = text(f"""
select a.balance, a.debt, a.held, a.credit_limit, a.seq,
  {_micros("a.next_due_at")} as next_due, {_micros("a.last_change_at")} as booked,
  (select json_agg(json_build_array(g.id, g.remaining, g.held, g.state))
   from grants g where g.account_id = a.account_id)::text as lots,
  (select json_agg(json_build_array(s.id, s.state, h.state, h.amount,
     (select json_agg(json_build_array(l.grant_id, l.amount) order by l.line)
      from hold_lines l where l.account_id = h.account_id and l.session_id = h.session_id),
     (select c.amount from charges c where c.account_id = s.account_id and c.session_id = s.id
      order by c.version desc limit 1)))
   from sessions s left join holds h on h.account_id = s.account_id and h.session_id = s.id
   where s.account_id = a.account_id)::text as sessions,
  (select json_agg(json_build_array(e.seq, e.kind, e.amount, e.balance_after, {_micros("e.created_at")}, e.session_id,
     e.grant_id, (select r.seq from entries r where r.account_id = e.account_id and r.id = e.reverses),
     (select json_agg(json_build_array(d.seq, f.grant_id, f.amount))
      from funding f left join entries d on d.account_id = f.account_id and d.id = f.debit_entry_id
      where f.account_id = e.account_id and f.entry_id = e.id),
     (select json_build_array(coalesce(sum(p.amount), 0),
             coalesce(sum(p.amount) filter (where p.ledger_account = 'credit' or p.ledger_account like 'grants.%'), 0))
      from postings p where p.account_id = e.account_id and p.entry_id = e.id)) order by e.seq)
   from entries e where e.account_id = a.account_id and e.seq > :after)::text as entries
from accounts a where a.account_id = :account_id
""")


@dataclass(frozen=True)
class Stored:
    """``account``: balance, debt, held, limit, entries, next due, last booking. ``lots`` by id: remaining, held, state.
    ``sessions`` by id: state, hold's state, held, its lines, charge. ``entries``: those after the number asked for."""

    account: tuple[Any, ...]
    lots: dict[UUID, tuple[int, int, str]]
    sessions: dict[UUID, tuple[Any, ...]]
    entries: list[Entry]


async def read(transaction: Transaction, account_id: UUID, after: int) -> Stored:
    """The account, with its entries after number ``after``."""
    row = (await transaction.execute(_ALL, {"account_id": account_id, "after": after})).one()
    lots, sessions, entries = (json.loads(part or "[]") for part in (row.lots, row.sessions, row.entries))
    for seq, kind, amount, *_, postings in entries:
        assert postings == [0, amount], f"entry {seq}, {kind}: its postings sum to {postings}"
    return Stored(
        account=(row.balance, row.debt, row.held, row.credit_limit, row.seq, row.next_due, row.booked),
        lots={UUID(lot_id): (remaining, held, state) for lot_id, remaining, held, state in lots},
        sessions={
            UUID(session): (state, hold, held, _parts((_uuid(lot), part) for lot, part in lines or []), charge)
            for session, state, hold, held, lines, charge in sessions
        },
        entries=[
            Entry(seq, kind, amount, after, at, _uuid(session), _uuid(lot), reverses, _paid_by(paid))
            for seq, kind, amount, after, at, session, lot, reverses, paid, _ in entries
        ],
    )


def expected(model: Model, after: int) -> Stored:
    """What must be stored if the model is right."""
    figures = model.balance, model.debt, model.held, model.limit, len(model.entries)
    return Stored(
        account=(*figures, model.next_due, model.booked),
        lots={lot.id: (lot.remaining, model.held_of(lot), lot.state) for lot in model.lots},
        sessions={
            session.id: (
                session.state,
                session.hold_state,
                session.held,
                _parts((None if part.lot is None else part.lot.id, part.amount) for part in session.parts),
                session.gross if session.state == "settled" else None,
            )
            for session in model.sessions
        },
        entries=[_summed(entry) for entry in model.entries[after:]],
    )


def _parts(parts: Any) -> tuple[tuple[UUID | None, int], ...]:
    return tuple((lot, amount) for lot, amount in parts if amount)


def _uuid(text_of_it: str | None) -> UUID | None:
    return None if text_of_it is None else UUID(text_of_it)


def _paid_by(lines: Any) -> tuple[tuple[int, UUID | None, int], ...]:
    """Lines as they are summed by debit and lot, so that their order does not matter."""
    summed: Counter[tuple[int, UUID | None, bool]] = Counter()
    for seq, lot, amount in lines or []:
        summed[seq, _uuid(lot) if isinstance(lot, str) else lot, amount < 0] += amount
    return tuple(sorted(((seq, lot, amount) for (seq, lot, _), amount in summed.items()), key=str))


def _summed(entry: Entry) -> Entry:
    return replace(entry, paid_by=_paid_by(entry.paid_by))
