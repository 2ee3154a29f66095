"""An observer of the ledger with a connection and statements of its own: what holds in each state that may be seen."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

REST: Final = 5
LEAST_REST_S: Final = 0.2
"""It rests so many times as long as it looked, and this besides, so that it does not live off the others' time."""

BROKEN_ENTRIES: Final = """
select e.account_id, e.id from entries e
left join (select account_id, entry_id as id, sum(amount) as total from postings group by 1, 2) p
  using (account_id, id)
where coalesce(p.total, e.amount) <> 0"""

TOTAL: Final = "select coalesce(sum(amount), 0) as total, count(*) as postings from postings"

ACCOUNTS: Final = """
select a.user_id, a.balance, a.debt, a.held, a.credit_limit, a.seq, a.event_seq, a.hold_seq,
       a.balance + a.credit_limit - a.held as available,
       e.n as entries, e.last_seq, e.total, l.balance_after, g.remaining, g.held as held_of_grants,
       h.amount as holds, hl.amount as lines, hl.on_credit, c.n as changes, c.last as last_change, lc.held_after,
       v.n as events, v.last as last_event, x.lowered, y.below_floor
from accounts a
left join (select account_id, count(*) as n, max(seq) as last_seq, sum(amount) as total from entries group by 1) e
  using (account_id)
left join (select account_id, sum(remaining) filter (where state <> 'scheduled') as remaining, sum(held) as held
           from grants group by 1) g using (account_id)
left join (select account_id, sum(amount) as amount from holds where state = 'active' group by 1) h using (account_id)
left join (select account_id, sum(amount) as amount, sum(amount) filter (where grant_id is null) as on_credit
           from hold_lines group by 1) hl using (account_id)
left join (select account_id, count(*) as n, max(seq) as last from hold_changes group by 1) c using (account_id)
left join (select account_id, count(*) as n, max(seq) as last from events group by 1) v using (account_id)
left join (select account_id, bool_or(lowered) as lowered from
             (select account_id, credit_limit < lag(credit_limit, 1, 0::bigint) over
                (partition by account_id order by n) as lowered from limit_changes) changes
           group by 1) x using (account_id)
left join (select account_id, count(*) as below_floor from entries
           where natural_key like 'adjust-below-floor:%' group by 1) y using (account_id)
left join entries l on (l.account_id, l.seq) = (a.account_id, e.last_seq)
left join hold_changes lc on (lc.account_id, lc.seq) = (a.account_id, c.last)"""


@dataclass
class Seen:
    """What the observer saw. ``strict``: states of accounts that nothing entitles to be below their floor."""

    snapshots: int = 0
    states: int = 0
    strict: int = 0
    strict_below_floor: int = 0
    below_floor: int = 0
    """States of accounts that were below their floor because a limit was lowered or an adjustment said so."""
    most_postings: int = 0
    faults: list[str] = field(default_factory=list)


class Observer(threading.Thread):
    """Looks again and again until :meth:`finish`."""

    def __init__(self, url: str) -> None:
        super().__init__(name="observer")
        self._url = url
        self._done = threading.Event()
        self.seen = Seen()

    def run(self) -> None:
        try:
            with psycopg.connect(self._url, row_factory=dict_row) as connection:
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                connection.read_only = True
                while True:
                    last = self._done.is_set()
                    begun = time.monotonic()
                    with connection.transaction():
                        self._look(connection)
                    if last:
                        return
                    self._done.wait(LEAST_REST_S + REST * (time.monotonic() - begun))
        except psycopg.Error as error:
            self.seen.faults.append(f"the observer broke: {error}")

    def finish(self) -> Seen:
        """Look once more, at the state in which everything was left; what was seen."""
        self._done.set()
        self.join()
        return self.seen

    def _look(self, connection: psycopg.Connection[dict[str, Any]]) -> None:
        seen = self.seen
        connection.execute("set local max_parallel_workers_per_gather = 0")
        connection.execute("set local enable_nestloop = off")
        seen.snapshots += 1
        for row in connection.execute(BROKEN_ENTRIES):
            seen.faults.append(f"the postings of entry {row['id']} do not sum to 0")
        total = connection.execute(TOTAL).fetchone() or {}
        seen.most_postings = total["postings"]
        if total["total"]:
            seen.faults.append(f"all postings sum to {total['total']}")
        for row in connection.execute(ACCOUNTS):
            seen.states += 1
            account = Counter({name: value or 0 for name, value in row.items() if name != "user_id"})
            seen.faults += [f"{row['user_id']}: {fault}, {dict(account)}" for fault in _faults(account)]
            entitled = account["lowered"] or account["below_floor"]
            seen.strict += not entitled
            if account["available"] < 0 and entitled:
                seen.below_floor += 1
            elif account["available"] < 0:
                seen.strict_below_floor += 1
                seen.faults.append(f"{row['user_id']}: is below its floor, {dict(account)}")


def _faults(account: Counter[str]) -> list[str]:
    """What does not hold of an account, by the columns of :data:`ACCOUNTS`."""
    rules = {
        "the balance is not the sum of its entries": account["balance"] == account["total"],
        "the balance is not that after the last entry": account["balance"] == account["balance_after"],
        "the balance is not what remains of the grants less debt": account["balance"]
        == account["remaining"] - account["debt"],
        "what it holds is not the sum of its holds": account["held"] == account["holds"],
        "its holds are not the sum of their lines": account["held"] == account["lines"],
        "its grants hold other than the lines": account["held_of_grants"] == account["lines"] - account["on_credit"],
        "the last change left other than is held": account["held"] == account["held_after"],
        "its entries have gaps": account["seq"] == account["entries"] == account["last_seq"],
        "its events have gaps": account["event_seq"] == account["events"] == account["last_event"],
        "the changes of its holds have gaps": account["hold_seq"] == account["changes"] == account["last_change"],
        "something is negative": min(account["debt"], account["held"], account["remaining"]) >= 0,
    }
    return [fault for fault, holds in rules.items() if not holds]
