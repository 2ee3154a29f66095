"""What must hold of a user after any run, whatever the order was, worked out from the rows alone."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

_TABLES: Final = {
    "accounts": "account_id",
    "entries": "seq",
    "postings": "entry_id, leg",
    "funding": "entry_id, line",
    "grants": "amount, created_at, id",
    "holds": "session_id",
    "hold_lines": "session_id, line",
    "hold_changes": "seq",
    "sessions": "id",
    "session_steps": "session_id, n",
    "charges": "session_id, version",
    "idempotency": "key_hash",
    "snapshots": "session_id, n",
    "ticks": "session_id, received_at, id",
    "events": "seq",
    "deliveries": "event_id, endpoint_id",
    "recurring_grants": "id",
    "recurring_periods": "recurring_id, n",
    "delivery_attempts": "event_id, endpoint_id, id",
}
_READ: Final = (
    "select "
    + ", ".join(
        f"(select coalesce(jsonb_agg(t order by {order}), '[]') from {name} t where account_id = %(a)s) {name}"
        for name, order in _TABLES.items()
    )
    + ", (select coalesce(jsonb_agg(t order by id), '[]') from payments t where user_account = %(a)s) payments"
)
_HOLDING: Final = {"starting", "unconfirmed", "live", "over"}

Rows = dict[str, list[dict[str, Any]]]


async def rows_of(watch: psycopg.AsyncConnection[Any], account_id: UUID) -> Rows:
    """All that is stored of an account."""
    async with watch.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_READ.encode(), {"a": account_id}, prepare=True)
        row = await cursor.fetchone()
    return dict(row or {})


@dataclass
class Findings:
    found: list[str] = field(default_factory=list)

    def expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.found.append(otherwise)


def judge(rows: Rows, *, floor_moves: bool = False) -> list[str]:
    """What does not hold; ``floor_moves``: the credit limit may have been lowered under what is held."""
    out = Findings()
    if not rows["accounts"]:
        left = [name for name, stored in rows.items() if stored and name not in {"idempotency", "accounts"}]
        out.expect(not left, f"rows of an account that is not there: {left}")
        return out.found
    (account,) = rows["accounts"]
    _judge_entries(out, account, rows)
    _judge_holds(out, account, rows)
    _judge_sessions(out, rows)
    if not floor_moves:
        held, credit = account["held"], max(0, account["credit_limit"])
        out.expect(account["debt"] <= credit, "the debt is over the credit limit")
        out.expect(account["debt"] + _held_on_credit(rows) <= credit, "more is held than there is credit")
        out.expect(account["balance"] + credit >= held, "more is held than is there")
    return out.found


def _active(rows: Rows) -> set[str]:
    return {hold["session_id"] for hold in rows["holds"] if hold["state"] == "active"}


def _held_on_credit(rows: Rows) -> int:
    active = _active(rows)
    lines = (line for line in rows["hold_lines"] if line["grant_id"] is None and line["session_id"] in active)
    return sum(line["amount"] for line in lines)


def _judge_entries(out: Findings, account: dict[str, Any], rows: Rows) -> None:
    sums = Counter[str]()
    for posting in rows["postings"]:
        sums[posting["entry_id"]] += posting["amount"]
    out.expect(not any(sums.values()), f"entries do not sum to zero: {dict(sums)}")
    balance = 0
    for n, entry in enumerate(rows["entries"], 1):
        balance += entry["amount"]
        out.expect(entry["seq"] == n, f"entry {entry['seq']} stands at place {n}")
        out.expect(
            entry["balance_after"] == balance, f"balance after entry {n}: {entry['balance_after']}, not {balance}"
        )
    out.expect(account["seq"] == len(rows["entries"]), f"the account counts {account['seq']} entries")
    out.expect(account["balance"] == balance, f"balance {account['balance']}, not {balance}")
    keys = Counter(entry["natural_key"] for entry in rows["entries"])
    out.expect(max(keys.values(), default=1) == 1, f"a natural key twice: {keys}")
    effective = [grant for grant in rows["grants"] if grant["state"] != "scheduled"]
    remaining = sum(grant["remaining"] for grant in effective)
    out.expect(
        balance == remaining - account["debt"], f"balance {balance}, remainders {remaining}, debt {account['debt']}"
    )
    for grant in rows["grants"]:
        out.expect(0 <= grant["held"] <= grant["remaining"] <= grant["amount"], f"a grant out of bounds: {grant}")


def _judge_holds(out: Findings, account: dict[str, Any], rows: Rows) -> None:
    states = {session["id"]: session["state"] for session in rows["sessions"]}
    active = _active(rows)
    lines = Counter[str]()
    of_grant = Counter[str]()
    for line in rows["hold_lines"]:
        lines[line["session_id"]] += line["amount"]
        if line["session_id"] in active and line["grant_id"] is not None:
            of_grant[line["grant_id"]] += line["amount"]
    for hold in rows["holds"]:
        state = states.get(hold["session_id"])
        if state in _HOLDING:
            out.expect(hold["state"] == "active", f"a session is {state}, its hold {hold['state']}")
        elif state != "review":
            out.expect(hold["state"] != "active", f"a session is {state}, its hold still active")
        if hold["state"] == "active":
            total = lines[hold["session_id"]]
            out.expect(hold["amount"] == total, f"a hold of {hold['amount']} on lines of {total}")
    held = sum(hold["amount"] for hold in rows["holds"] if hold["state"] == "active")
    out.expect(account["held"] == held, f"{account['held']} held, in holds {held}")
    for grant in rows["grants"]:
        out.expect(
            grant["held"] == of_grant[grant["id"]], f"{grant['held']} of a grant held, not {of_grant[grant['id']]}"
        )
    changed = sum(change["delta"] for change in rows["hold_changes"])
    out.expect(changed == held, f"changes of holds come to {changed}, holds to {held}")
    out.expect(
        [change["seq"] for change in rows["hold_changes"]] == list(range(1, len(rows["hold_changes"]) + 1)),
        "changes of holds are not numbered one after the other",
    )


def _judge_sessions(out: Findings, rows: Rows) -> None:
    holds = {hold["session_id"] for hold in rows["holds"]}
    for session in rows["sessions"]:
        own = session["id"]
        steps = [step for step in rows["session_steps"] if step["session_id"] == own]
        out.expect([step["n"] for step in steps] == list(range(1, len(steps) + 1)), "steps are not numbered in order")
        out.expect(len(steps) == session["steps"], f"{session['steps']} steps counted, {len(steps)} stored")
        chained = [step["from_state"] for step in steps] == [None, *(step["to_state"] for step in steps[:-1])]
        out.expect(chained, f"steps do not follow from each other: {[step['to_state'] for step in steps]}")
        out.expect(not steps or steps[-1]["to_state"] == session["state"], f"the last step is not {session['state']}")
        out.expect(own in holds, "a session without a hold")
        charges = [charge for charge in rows["charges"] if charge["session_id"] == own]
        settled = [entry for entry in rows["entries"] if entry["natural_key"] == f"settle:{UUID(own)}"]
        out.expect(len(settled) <= 1, "settled twice")
        out.expect((session["state"] == "settled") == bool(charges), f"{session['state']} with {len(charges)} charges")
        if charges and not session["written_off"]:
            debited = -sum(entry["amount"] for entry in settled)
            out.expect(session["charged"] == debited, f"charged {session['charged']}, debited {debited}")
            out.expect(session["charged"] <= session["authorized"], "charged more than was authorized")


def money_of(rows: Rows) -> dict[str, Any]:
    """What a user would call the outcome, without ids and times: equal for orders that came to the same."""
    account = {
        name: value
        for row in rows["accounts"]
        for name, value in row.items()
        if name in {"balance", "debt", "held", "credit_limit"}
    }
    return {
        "account": account,
        "entries": [(entry["kind"], entry["amount"], entry["balance_after"]) for entry in rows["entries"]],
        "grants": sorted((g["kind"], g["amount"], g["remaining"], g["held"], g["state"]) for g in rows["grants"]),
        "holds": sorted((hold["state"], hold["amount"]) for hold in rows["holds"]),
        "sessions": sorted(
            (s["state"], s["authorized"], s["accrued"], s["charged"] or 0, s["leakage"] or 0) for s in rows["sessions"]
        ),
        "charges": [(charge["version"], charge["amount"]) for charge in rows["charges"]],
        "keys": sorted((key["state"], key["status"] or 0) for key in rows["idempotency"]),
        "ticks": len(rows["ticks"]),
    }
