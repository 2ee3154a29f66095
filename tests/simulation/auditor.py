"""The auditor: judges from outside whether what came of a world is right.

It knows what the provider really said and sent, and what our processes acknowledged to whom; with that it reads the
database and the API. Charges are its own (:mod:`tests.simulation.charging`). Of the application it uses what has no
opinion: the form of public ids, and the reader of JSON that keeps digits.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from app.core.ids import Kind, public_id
from app.core.lossless_json import loads
from tests.simulation import charging
from tests.simulation.loop import WorldClock
from tests.simulation.plan import CARDS
from tests.simulation.processes import Answer
from tests.simulation.provider import LATE, Call, Provider, Pulled
from tests.simulation.statements import Traps
from tests.simulation.top_ups import TopUps

SLACK: Final = 20_000_000
"""µs by which a message is at most under way, when no fault makes it late."""

CRUMBS: Final = 200
"""Micro-credits: segments under a microsecond each may add up to some of them, which the truth does not know."""

STEP: Final = """
select 'an entry does not sum to zero' as what, entry_id::text as row
  from postings group by account_id, entry_id having sum(amount) <> 0
union all
select 'the balance is not remainders less debt', user_id from accounts a where balance <> -debt + coalesce(
  (select sum(remaining) from grants g where g.account_id = a.account_id and g.state <> 'scheduled'), 0)
union all
select 'the balance is not the sum of the entries', user_id from accounts a where balance <> coalesce(
  (select sum(amount) from entries e where e.account_id = a.account_id), 0)
union all
select 'the balance is not that after the last entry', user_id from accounts a
  where seq > 0 and balance is distinct from
  (select balance_after from entries e where e.account_id = a.account_id and e.seq = a.seq)
union all
select 'an entry is missing', user_id from accounts a where seq <>
  (select count(*) from entries e where e.account_id = a.account_id)
union all
select 'held is not the sum of the holds', user_id from accounts a where held <> coalesce(
  (select sum(h.amount) from holds h where h.account_id = a.account_id and h.state = 'active'), 0)
union all
select 'more is held of grants than the holds say', user_id from accounts a where coalesce(
  (select sum(g.held) from grants g where g.account_id = a.account_id), 0) > held
union all
select 'below the floor', user_id from accounts
  where not user_id = any(%(may_be_below)s) and (balance < -credit_limit or balance + credit_limit < held)
union all
select 'two charges of one session', session_id::text from entries where kind = 'charge'
  group by account_id, session_id having count(*) > 1
union all
select 'a hold of a session that has ended', s.id::text from sessions s join holds h
  on h.account_id = s.account_id and h.session_id = s.id
  where h.state = 'active' and s.state in ('failed', 'settled')
union all
select 'a session without its hold', s.id::text from sessions s left join holds h
  on h.account_id = s.account_id and h.session_id = s.id
  where s.state in ('starting', 'unconfirmed', 'live', 'over') and h.state is distinct from 'active'
union all
select 'more held, accrued or charged than was authorised', s.id::text from sessions s join holds h
  on h.account_id = s.account_id and h.session_id = s.id
  where h.amount > s.authorized or s.charged > s.authorized or s.accrued > s.authorized
union all
select 'a settled session without its charge', s.id::text from sessions s where s.state = 'settled'
  and not s.written_off and not exists
  (select from charges c where c.account_id = s.account_id and c.session_id = s.id and c.version = 1)
union all
select 'a charge that is not what was debited', s.id::text from sessions s where s.state = 'settled' and s.charged <>
  -coalesce((select sum(e.amount) from entries e
    where e.account_id = s.account_id and e.session_id = s.id and e.kind = 'charge'), 0)
union all
select 'two sessions for one start', scenario from sessions group by scenario having count(*) > 1
"""
"""What must hold whenever no transaction is open, each with the row that breaks it."""

PRINT: Final = """
select (select count(*) from entries), (select count(*) from postings), (select count(*) from funding),
  (select count(*) from grants), (select count(*) from sessions), (select count(*) from session_steps),
  (select count(*) from hold_changes), (select count(*) from charges), (select count(*) from events),
  (select count(*) from audit_log), (select count(*) from limit_changes), (select count(*) from rate_cards),
  (select count(*) from ticks), (select count(*) from snapshots),
  (select coalesce(sum(balance * 7 + held * 3 + credit_limit + debt), 0) from accounts)
"""
"""What a definite refusal must leave as it is."""

DUE: Final = """
select (select min(greatest(due_at, coalesce(lease_until, due_at))) from sessions) as session,
  (select min(next_due_at) from accounts) as account
"""
DELIVERIES: Final = """
select exists (select from accounts where event_seq > dispatched_seq)
       or exists (select from outboxes where event_seq > dispatched_seq) as fresh,
  (select min(greatest(due_at, coalesce(lease_until, due_at)))
   from deliveries d join endpoints e on e.id = d.endpoint_id where d.state = 'waiting' and e.state = 'active') as at
"""
NEVER: Final = 1 << 62
MAX_SESSION_S: Final = 600
DUE_WITHIN: Final = 200_000_000
"""In µs: after so long what time brings must be posted, while nothing goes wrong."""

UNCONFIRMED_TTL: Final = 180_000_000
LONG_OUTAGE: Final = 200_000_000
"""In µs: longer than a process may say nothing and be taken to receive."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ENDED: Final = ("settled", "failed", "review")


RUNNING: Final = frozenset({"starting", "unconfirmed", "live", "over", "review"})


class Violation(Exception):
    """What must hold does not. ``kind`` names the rule."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


@dataclass(frozen=True)
class Acknowledged:
    """A write that a client was told is done."""

    operation: str
    user: str | None
    path: str
    asked: Mapping[str, Any]
    answer: Any


@dataclass
class Credential:
    """What somebody calls with: it may be refused from ``ends_from`` on and must be from ``ends_by`` on, if ever."""

    secret: str
    ends_from: int | None = None
    ends_by: int | None = None

    @property
    def header(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secret}"}


Read = Callable[[str], Awaitable[Answer]]


class Auditor:
    """See the module."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        provider: Provider,
        clock: WorldClock,
        traps: Traps,
        skew: int,
    ) -> None:
        self._connection = connection
        self._provider = provider
        self._clock = clock
        self._traps = traps
        self._checked = self._printed = self._looked = -1
        self._print: tuple[Any, ...] = ()
        self._due: tuple[int, int] = (NEVER, NEVER)
        self._skew = skew
        self.may_be_below: set[str] = set()
        """Users whose floor was lowered on purpose."""
        self.acknowledged: dict[str, Acknowledged] = {}
        """By idempotency key: what is answered twice happened once."""
        self.limits: dict[str, int] = {}
        """The highest credit limit, in credits, that was asked for each user."""
        self.wanted: dict[str, int | None] = {}
        """By scenario: the time limit in seconds that its start asked for, if any."""
        self.joined: set[str] = set()
        """Scenarios whose connection somebody received."""
        self.adopted: set[str] = set()
        """Scenarios that the customer was to start."""
        self.down: list[tuple[int, int]] = []
        """From when to when the database could not be reached."""
        self.top_ups: TopUps | None = None
        self._reasons: Counter[str] = Counter()

    def fail(self, kind: str, detail: str) -> None:
        raise Violation(kind, detail)

    def _rows(self, statement: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(statement.encode(), parameters, prepare=True).fetchall()

    # After each step

    def check_step(self, step: str) -> None:
        """Raise :class:`Violation` if anything does not hold that must hold at any time."""
        if self._provider.ignored:
            self.fail("the provider's rate was not kept", f"{self._provider.ignored[0]}, after {step}")
        if self._traps.done_astray:
            self.fail("a process with a wrong clock did something", f"{self._traps.done_astray[0]}, after {step}")
        if self._checked == self._traps.commits:
            return
        self._checked = self._traps.commits
        for row in self._rows(STEP, {"may_be_below": sorted(self.may_be_below)}):
            self.fail(row["what"], f"{row['row']}, after {step}")
        stored = {
            row["provider_session_id"]: row["ticks"]
            for row in self._rows(
                "select provider_session_id, (select count(*) from ticks t where t.account_id = s.account_id"
                " and t.session_id = s.id) as ticks from sessions s where provider_session_id is not null"
            )
        }
        for call in self._provider.calls.values():
            acknowledged = sum(beat.genuine and beat.status == 204 for beat in call.beats)
            if acknowledged > stored.get(call.id, 0):
                detail = f"{call.id}: {acknowledged} acknowledged, {stored.get(call.id, 0)} stored, after {step}"
                self.fail("an acknowledged heartbeat is lost", detail)
            came = sum(beat.genuine and beat.arrived_at is not None and not beat.refused for beat in call.beats)
            if stored.get(call.id, 0) > came:
                detail = f"{call.id}: {stored[call.id]} stored, {came} not refused, after {step}"
                self.fail("a heartbeat is stored that was refused, or never came", detail)
        for webhook, times in self._provider.asked.items():
            if times > 1:
                self.fail("a session was asked for twice", webhook[-8:])

    def check_bounds(self) -> None:
        """What runs must not have cost more by now than what was said and lived by now."""
        running = self._rows(
            "select s.*, r.name, r.version from sessions s join rate_cards r on r.id = s.rate_card_id"
            " where s.state in ('live', 'over') and s.provider_session_id is not null and s.accrued > 0"
        )
        for row in running:
            call = self._provider.calls.get(row["provider_session_id"])
            if call is None or not all(pulled.honest for pulled in call.pulls) or _redelivered(call):
                continue
            _, most = self._bounds(call, row, _card(row), self._clock.now())
            if row["accrued"] > most + CRUMBS:
                self.fail("more has accrued than was said and lived", f"{row['scenario']}: {row['accrued']} > {most}")

    def fingerprint(self) -> tuple[Any, ...]:
        if self._printed != self._traps.commits:
            self._printed = self._traps.commits
            with self._connection.cursor() as cursor:
                self._print = tuple(cursor.execute(PRINT.encode(), prepare=True).fetchall()[0])
        return self._print

    def check_no_trace(self, before: tuple[Any, ...], what: str) -> None:
        after = self.fingerprint()
        if before != after:
            self.fail("a refusal left a trace", f"{what}: {before} became {after}")

    def check_balance(self, user: str, document: Mapping[str, Any]) -> None:
        """An answer must agree with itself."""
        balance, held, limit = (_micros(document[name]) for name in ("balance", "held", "credit_limit"))
        if balance + limit - held != _micros(document["available"]):
            self.fail("a balance contradicts itself", f"{user}: {document}")

    # What there is

    def next_due(self) -> tuple[int, int]:
        """When the next session and the next account have something due; :data:`NEVER` if none has."""
        if self._looked != self._traps.commits:
            self._looked = self._traps.commits
            row = self._rows(DUE)[0]
            session, account = (NEVER if at is None else _us(at) for at in (row["session"], row["account"]))
            self._due = session, account
        return self._due

    def next_delivery(self) -> int:
        """When something is dispatched or delivered next, what is leased included; :data:`NEVER` if nothing is."""
        row = self._rows(DELIVERIES)[0]
        if row["fresh"]:
            return 0
        return NEVER if row["at"] is None else _us(row["at"])

    def next_period(self) -> int:
        """When a recurring grant is due next; :data:`NEVER` if none is."""
        row = self._rows("select min(due_at) as at from recurring_grants")[0]
        return NEVER if row["at"] is None else _us(row["at"])

    def check_periods(self, *, missed: bool) -> None:
        if self.top_ups is not None:
            self.top_ups.check_periods(self._rows, missed=missed)

    def events(self) -> dict[str, int]:
        """When each event was written, by its id."""
        return {_public(Kind.EVENT, row): _us(row["created_at"]) for row in self._rows("select * from events")}

    def endpoints(self) -> dict[str, str]:
        """The state of each endpoint, by its path."""
        found = self._rows("select url, state from endpoints")
        return {"/" + row["url"].rpartition("/")[2]: row["state"] for row in found}

    def stored_state(self, user: str) -> tuple[dict[str, Any], dict[str, tuple[str, str | None]]] | None:
        """A user's figures, and state and charge of each session by its id; null if the user was never seen."""
        found = self._rows("select * from accounts where user_id = %(user)s", {"user": user})
        if not found:
            return None
        account = found[0]
        rows = self._rows("select * from sessions where account_id = %(id)s", {"id": account["account_id"]})
        running = sum(row["accrued"] for row in rows if row["charged"] is None and row["state"] in RUNNING)
        figures: dict[str, Any] = {name: _credits(account[name]) for name in ("balance", "held", "credit_limit")} | {
            "accrued": _credits(running),
            "suspended": account["suspended"],
            "sequence": account["event_seq"],
        }
        return figures, {
            _public(Kind.SESSION, row): (row["state"], None if row["charged"] is None else _credits(row["charged"]))
            for row in rows
        }

    def _ids(self, statement: str) -> list[dict[str, Any]]:
        return self._rows(statement)

    def sessions(self) -> list[str]:
        return [
            _public(Kind.SESSION, row)
            for row in self._ids("select account_id, id from sessions order by requested_at, id")
        ]

    def in_review(self) -> list[str]:
        found = self._ids("select account_id, id from sessions where state = 'review' order by requested_at, id")
        return [_public(Kind.SESSION, row) for row in found]

    def settled(self) -> list[tuple[str, int]]:
        found = self._ids(
            "select account_id, id, charged from sessions where state = 'settled' order by requested_at, id"
        )
        return [(_public(Kind.SESSION, row), row["charged"]) for row in found]

    def grants(self, *, spent: bool = False) -> list[str]:
        which = " where remaining = 0 and state = 'active'" if spent else ""
        found = self._ids(f"select account_id, id from grants{which} order by created_at, id")
        return [_public(Kind.GRANT, row) for row in found]

    def published(self, name: str | None) -> bool:
        """Whether a card of this name was published, as far as its publisher was told."""
        return any(done.operation == "card" and done.asked["name"] == name for done in self.acknowledged.values())

    def open_sessions(self, *, late: bool) -> list[str]:
        """``late``: those count as well at which one more look is to come."""
        found = self._ids(
            "select scenario || ' ' || state as what from sessions where state not in ('settled', 'failed', 'review')"
            + (" or due_at is not null" if late else "")
        )
        return [row["what"] for row in found]

    def stored_heartbeats(self) -> int:
        """How many heartbeats have a row."""
        return int(self._rows("select count(*) as rows from ticks")[0]["rows"])

    def has_late_heartbeats(self) -> bool:
        """Whether any came after its session was settled: those are not kept."""
        late = (
            "select 1 as late from ticks t join sessions s on s.account_id = t.account_id and s.id = t.session_id"
            " where t.received_at >= s.settled_at limit 1"
        )
        return bool(self._rows(late))

    def acknowledge(self, key: str, done: Acknowledged) -> None:
        self.acknowledged.setdefault(key, done)

    def check_unconfirmed(self, session: str, patience: int) -> None:
        """Unknown is not dead: a start of unknown outcome keeps its hold until time tells; ``patience`` in µs."""
        for row in self._ids("select account_id, id, state, requested_at from sessions where state = 'failed'"):
            young = self._clock.now() < _us(row["requested_at"]) + patience - self._skew
            if _public(Kind.SESSION, row) == session and young:
                self.fail("unknown was taken for dead", session)

    def check_reviews(self, patience: int) -> None:
        """No review keeps credits for longer than ``patience``, in µs."""
        held = self._rows(
            "select s.scenario, max(t.at) as at from sessions s join holds h on h.account_id = s.account_id"
            " and h.session_id = s.id join session_steps t on t.account_id = s.account_id and t.session_id = s.id"
            " where s.state = 'review' and h.state = 'active' group by s.account_id, s.id, s.scenario"
        )
        for row in held:
            if self._clock.now() > _us(row["at"]) + patience:
                self.fail("a review keeps credits for too long", row["scenario"])

    def check_credential(self, used: Credential, sent_at: int, status: int) -> None:
        """A credential is taken as long as it is valid, and no longer; ``sent_at``: when it was used."""
        if status == 401 and (used.ends_from is None or self._clock.now() < used.ends_from):
            self.fail("a valid credential was refused", f"{used}, sent at {sent_at}")
        if status < 500 and status != 401 and used.ends_by is not None and sent_at > used.ends_by:
            self.fail("a credential was taken that had ended", f"{used}, sent at {sent_at}: {status}")

    def check_misuse(self, answer: Answer) -> None:
        """Another request under a key that was used must be refused."""
        if answer.status < 500 and answer.problem not in {"idempotency-conflict", "idempotency-in-flight"}:
            self.fail("a key was taken for another request", f"{answer.status} {answer.problem}")

    def check_answers(self, operation: str, key: str, answers: Sequence[Answer]) -> None:
        """One key, one effect: all its definite answers tell of the same."""
        told: set[str] = set()
        for answer in answers:
            if answer.status == 201 or answer.status == 200:
                body = answer.json()
                told.add(
                    str(body["session"]["id"] if "session" in body else body.get("id", body.get("expires_at", body)))
                )
            elif answer.status in {502, 504} and operation == "start":
                told.add(str(answer.json()["session_id"]))
            elif answer.status in {402, 422} and answer.problem != "idempotency-conflict":
                body = answer.json()
                told.add(str(body.get("session_id", answer.content)))
        if len(told) > 1:
            self.fail("one key was answered in two ways", f"{operation} {key}: {sorted(told)}")

    def limit_changes(self, user: str, change: Mapping[str, Any]) -> None:
        """Before a user's limits are changed: who had a higher one may be below the new one."""
        if "credit_limit" not in change:
            return
        limit = int(change["credit_limit"])
        if limit < self.limits.get(user, 0):
            self.may_be_below.add(user)
        self.limits[user] = max(limit, self.limits.get(user, 0))

    # At the end

    async def audit(self, read: Read) -> None:
        """Everything, when nothing is under way any more."""
        sessions = self._rows(
            "select s.*, a.user_id, r.name, r.version from sessions s join accounts a using (account_id)"
            " join rate_cards r on r.id = s.rate_card_id order by requested_at, id"
        )
        for row in sessions:
            await self._audit_session(row, read)
        self._audit_starts(sessions)
        self._audit_patience()
        self._audit_ledger(sessions)

    async def _audit_session(self, row: Mapping[str, Any], read: Read) -> None:
        public = _public(Kind.SESSION, row)
        call = self._provider.calls.get(row["provider_session_id"] or "")
        if row["state"] not in _ENDED:
            self.fail("a session has not ended", f"{row['scenario']} is {row['state']}")
        if call is None:
            return
        self._check_terms(call, row)
        if row["state"] != "settled" or row["written_off"]:
            return
        document = loads((await read(f"/v1/sessions/{public}/charge")).content)
        snapshots = loads((await read(f"/v1/sessions/{public}/snapshots?limit=500")).content)
        assert isinstance(document, dict)
        assert isinstance(snapshots, dict)
        pulls, honest = self._genuine_pulls(call, snapshots["data"])
        heartbeats = [_instant(text) for text in document["heartbeats"]]
        self._check_heartbeats(call, row, heartbeats)
        self._check_outages(f"{row['scenario']} ({public[-12:]})", row, document)
        if not pulls:
            return
        card = charging.card_of(document["rate_card"])
        rated_again = any(done.operation == "rerate" and public in done.path for done in self.acknowledged.values())
        # The explanation shows what counts as the start where nobody received the connection.
        published = replace(_card(row), charge_from=card.charge_from if row["charge_from"] else _card(row).charge_from)
        if not rated_again and card != published:
            self.fail("not the prices that were published", f"{row['scenario']}: {document['rate_card']}")
        accepted = self._accepted(row, public)
        verdict = charging.charge(
            card,
            requested_at=_us(row["requested_at"]),
            time_limit=row["time_limit"],
            heartbeats=heartbeats,
            pulls=pulls,
            authorized=row["authorized"],
            charge_from=row["charge_from"],
            accepted=0 if accepted is None else accepted - 1,
        )
        self._reasons.update(f"not billed: {reason}" for reason, length in verdict.not_billed.items() if length)
        self._reasons.update(f"anomaly: {name}" for name in verdict.anomalies)
        amount = _micros(document["amount"])
        name = f"{row['scenario']} ({public[-12:]})"
        if amount != verdict.amount:
            self.fail("a charge is not what the evidence gives", f"{name}: {amount}, but {verdict}")
        if set(document["anomalies"]) != verdict.anomalies:
            self.fail("anomalies are not those of the evidence", f"{name}: {document['anomalies']}, {verdict}")
        versions = self._rows(
            "select version, amount from charges where account_id = %(a)s and session_id = %(s)s order by version",
            {"a": row["account_id"], "s": row["id"]},
        )
        reviewed = any(done.operation == "review" and public in done.path for done in self.acknowledged.values())
        # What a provider said anew after a hold was lowered may not be covered any more.
        leaked = not honest and row["charged"] + row["leakage"] == verdict.amount + verdict.beyond
        self._check_versions(name, [version["amount"] for version in versions], verdict, call, row, asked=rated_again)
        if len(versions) == 1 and row["charged"] != amount and not reviewed and not leaked:
            self.fail("not the charge was debited", f"{name}: {row['charged']} instead of {amount}")
        if honest and not _redelivered(call):
            self._check_bounds(name, card, verdict, row, call, pulls)

    def _accepted(self, row: Mapping[str, Any], public: str) -> int | None:
        """The snapshot that the last charge takes for accepted: only a decision of an operator can have made it so."""
        last = self._rows(
            "select accepted_snapshot from charges where account_id = %(a)s and session_id = %(s)s"
            " order by version desc limit 1",
            {"a": row["account_id"], "s": row["id"]},
        )
        accepted = last[0]["accepted_snapshot"] if last else None
        settled = any(
            done.operation == "review" and public in done.path and done.asked["action"] == "settle"
            for done in self.acknowledged.values()
        )
        if accepted is not None and not settled:
            self.fail("a shrunk timeline that nobody accepted", f"{row['scenario']}: {accepted}")
        self._reasons["a shrunk timeline accepted"] += accepted is not None
        return int(accepted) if accepted is not None else None

    def _check_terms(self, call: Call, row: Mapping[str, Any]) -> None:
        """What a session was started with is what was asked for, and what the provider was told."""
        name = row["scenario"]
        if call.name != name:
            return  # the provider named another session: that is for a person to judge
        wanted = self.wanted.get(name)
        if row["time_limit"] != call.limit or row["time_limit"] > (wanted or MAX_SESSION_S) * 1_000_000:
            self.fail("not the time limit that was asked for", f"{name}: {row['time_limit']}, {call.limit}, {wanted}")
        if _us(row["requested_at"]) > call.started_at + 2 * self._skew:
            self.fail("asked for after it began", name)
        pinned = row["charge_from"]
        if name in self.adopted or (name in self.joined and call.answered):
            if pinned is not None:
                self.fail("rated as if nobody had come, though somebody did", f"{name}: {pinned}")
        elif not call.answered and pinned != "first_user_speech":
            self.fail("a greeting to an empty room is charged", f"{name}: {pinned}")
        foreign = sum(beat.status == 409 for beat in call.beats)
        counted = self._rows(
            "select coalesce(sum(count), 0)::bigint as count from security_events"
            " where account_id = %(a)s and session_id = %(s)s",
            {"a": row["account_id"], "s": row["id"]},
        )[0]["count"]
        if counted < foreign:
            self.fail("heartbeats of another session were not counted", f"{name}: {counted} of {foreign}")

    def _check_versions(
        self,
        name: str,
        amounts: Sequence[int],
        verdict: charging.Verdict,
        call: Call,
        row: Mapping[str, Any],
        *,
        asked: bool,
    ) -> None:
        """What was charged is changed by evidence that came later, or because somebody asked for it."""
        if len(amounts) < 2:
            return
        since = _us(row["settled_at"]) - 2 * self._skew
        late = any(beat.genuine and (beat.arrived_at or 0) > since for beat in call.beats)
        told = any(pulled.answered_at > since for pulled in call.pulls)
        if not asked and not late and not told:
            self.fail("rated again for no reason", f"{name}: {amounts}")
        if not asked:
            self._reasons["rated again by itself"] += 1
            if not min(amounts[0], verdict.amount) <= amounts[-1] <= max(amounts[0], verdict.amount):
                self.fail("a correction goes too far", f"{name}: {amounts}, {verdict}")

    def _bounds(self, call: Call, row: Mapping[str, Any], card: charging.Card, until: int) -> tuple[int, int]:
        """The least and the most that the session can cost, given what happened up to ``until``; without ceiling."""
        said = [said for said in call.said(min(until, call.left_at)) if said[0] in {"user", "agent"}]
        if call.conversation.crumbs:
            said.append(("user", call.connected_at, call.connected_at + 1))
        return charging.ground_truth_bounds(
            card if row["charge_from"] is None else replace(card, charge_from=row["charge_from"]),
            said=said,
            agent_left=call.left_at,
            requested_at=_us(row["requested_at"]) - self._skew,
            time_limit=row["time_limit"] + 2 * self._skew,
            heartbeat_sent=[beat.sent_at for beat in call.beats if beat.genuine],
            tolerance=LATE + SLACK + 2 * self._skew,
            began=call.connected_at,
        )

    def _check_bounds(
        self,
        name: str,
        card: charging.Card,
        verdict: charging.Verdict,
        row: Mapping[str, Any],
        call: Call,
        pulls: Sequence[charging.Pull],
    ) -> None:
        least, most = self._bounds(call, row, card, call.left_at)
        gross = verdict.amount + verdict.beyond
        if gross > most + CRUMBS:
            self.fail("more is charged than was said and lived", f"{name}: {gross} > {most}, {verdict}")
        # An operator may settle on a timeline from before the end, when there is no later one.
        heard_out = max(pulled.received_at for pulled in pulls) >= call.left_at + 2 * self._skew
        if heard_out and gross < least:
            self.fail("less is charged than was said", f"{name}: {gross} < {least}, {verdict}")

    def _genuine_pulls(self, call: Call, stored: Sequence[Mapping[str, Any]]) -> tuple[list[charging.Pull], bool]:
        """Each stored snapshot must be what the provider answered then, digit for digit."""
        found: list[charging.Pull] = []
        honest = True
        for item in stored:
            q, r = _instant(item["requested_at"]), _instant(item["received_at"])
            pulled = next((one for one in call.pulls if self._is(one, q, r, item["values"])), None)
            if pulled is None:
                self.fail("a snapshot that the provider never gave", f"{call.id}: {item}")
            else:
                honest = honest and pulled.honest
            values = tuple(read_value(value) for value in item["values"])
            found.append(charging.Pull(q, r, values))
        return found, honest

    def _is(self, pulled: Pulled, q: int, r: int, values: Sequence[Any]) -> bool:
        near = abs(pulled.sent_at - q) <= self._skew + 1 and abs(pulled.answered_at - r) <= self._skew + 1
        return near and [loads(text.encode()) for text in pulled.values] == list(values)

    def _check_heartbeats(self, call: Call, row: Mapping[str, Any], used: Sequence[int]) -> None:
        """What a charge rests on was sent; what was acknowledged before it was posted is in it."""
        free = [beat for beat in call.beats if beat.genuine and beat.arrived_at is not None]
        for at in sorted(used):
            fitting = [beat for beat in free if abs((beat.arrived_at or 0) - at) <= self._skew + 1]
            if not fitting:
                self.fail("a heartbeat that did not arrive then", f"{call.id} at {at}")
            # Those that came first can serve the fewest of those that follow.
            free.remove(min(fitting, key=lambda beat: beat.arrived_at or 0))
        settled = _us(row["settled_at"]) - 2 * self._skew
        for beat in free:
            if beat.status == 204 and beat.done_at is not None and beat.done_at < settled:
                # Another copy may have taken its place; then one of the same time is left over.
                twins = sum(other.status == 204 and (other.done_at or 0) < settled for other in call.beats)
                if twins > len(used):
                    self.fail("a heartbeat was left out", f"{call.id}: {twins} acknowledged, {len(used)} used")

    def _audit_starts(self, sessions: Sequence[Mapping[str, Any]]) -> None:
        by_scenario = {row["scenario"]: row for row in sessions}
        for done in self.acknowledged.values():
            if done.operation == "start" and done.asked["scenario"] not in by_scenario:
                self.fail("an acknowledged session is lost", str(done.asked["scenario"]))
        bound = {row["provider_session_id"]: row for row in sessions}
        for call in self._provider.calls.values():
            heard = [beat for beat in call.beats if beat.genuine and beat.status == 204]
            if heard and (call.id not in bound or bound[call.id]["state"] == "failed"):
                self.fail("a session that lives is lost", call.id)

    def _audit_patience(self) -> None:
        """Nobody is given up for a silence in which he could not be heard."""
        for row in self._rows(
            "select s.requested_at, s.scenario, t.at from sessions s"
            " join session_steps t on t.account_id = s.account_id and t.session_id = s.id"
            " where t.to_state = 'failed' and t.from_state = 'unconfirmed'"
        ):
            asked, given_up = _us(row["requested_at"]), _us(row["at"])
            deaf = sum(max(0, min(end, given_up) - max(start, asked)) for start, end in self._long_outages())
            if given_up - asked - deaf < UNCONFIRMED_TTL - 2 * self._skew:
                self.fail("given up while it could not be heard", row["scenario"])

    def _long_outages(self) -> list[tuple[int, int]]:
        """Those that no nap of ours can hide."""
        return [(start, end) for start, end in self.down if end - start >= LONG_OUTAGE]

    def _check_outages(self, name: str, row: Mapping[str, Any], document: Mapping[str, Any]) -> None:
        """The explanation tells of each outage of ours in the session's life, and of no other."""
        told = [(_instant(one["from"]), _instant(one["to"])) for one in document["own_outages"]]
        for start, end in self._long_outages():
            lived = _us(row["requested_at"]) < start and end < _us(row["over_at"] or row["requested_at"])
            if lived and not any(a <= start + 2 * self._skew and b >= end - 2 * self._skew for a, b in told):
                self.fail("an outage of ours is not told", f"{name}: {start} to {end}, but {told}")
            self._reasons["own outage"] += lived
        if told and not self._traps.fired:
            self.fail("an outage that never was", f"{name}: {told}")
        marked = [piece for piece in document["pieces"] if piece["own_outage"]]
        if marked and not told:
            self.fail("silence is blamed on no outage", f"{name}: {marked}")

    def _audit_ledger(self, sessions: Sequence[Mapping[str, Any]]) -> None:
        """Each entry has its cause, each acknowledged cause its entries."""
        entries = self._rows("select * from entries order by account_id, seq")
        users = {row["account_id"]: row["user_id"] for row in self._rows("select account_id, user_id from accounts")}
        grants = {_public(Kind.GRANT, row): row for row in self._rows("select * from grants")}
        done = defaultdict(list)
        for one in self.acknowledged.values():
            done[one.operation].append(one)

        for one in done["grant"]:
            row = grants.get(one.answer["id"])
            if row is None or row["amount"] != _micros(one.asked["amount"]):
                self.fail("an acknowledged grant is lost", str(one.answer))
        given = {one.answer["id"] for one in done["grant"]}
        top_ups = self.top_ups
        if top_ups is not None:
            given |= {grant for grant, row in grants.items() if top_ups.known(row["reference"])}
            top_ups.check_payments(self._rows)
            # What these adjusted has been judged.
            entries = [entry for entry in entries if ":payment:" not in entry["natural_key"]]
        for entry in entries:
            grant = None if entry["grant_id"] is None else _public(Kind.GRANT, entry | {"id": entry["grant_id"]})
            if entry["kind"] == "grant" and grant not in given:
                self.fail("a grant that nobody asked for", f"{users[entry['account_id']]}: {entry['natural_key']}")
            if entry["kind"] == "expiry" and grant is not None:
                expires = grants[grant]["expires_at"]
                if expires is None or _us(expires) > _us(entry["created_at"]) + 2 * self._skew:
                    self.fail("an expiry before its time", str(grant))
        self._audit_times(done["grant"], grants, entries)
        asked_voids = {one.path.split("/")[3] for one in done["void"]}
        for entry in entries:
            if entry["kind"] == "void" and entry["natural_key"].startswith("void:"):
                grant = _public(Kind.GRANT, entry | {"id": entry["grant_id"]})
                if grant not in asked_voids:
                    self.fail("a void that nobody asked for", grant)
        self._sums_agree(entries, "adjustment", sum(_micros(one.asked["amount"]) for one in done["adjust"]))
        given_up = {row["id"]: _public(Kind.SESSION, row) for row in sessions if row["written_off"] and row["charged"]}
        for session in given_up:
            # What is given back to a grant that has ended, ends with it.
            ends = {"expiry", "void"}
            of_it = [entry for entry in entries if entry["session_id"] == session and entry["kind"] not in ends]
            net = sum(entry["amount"] for entry in of_it)
            if net:
                self.fail("what was written off is still charged", f"{session}: {net}")
        self._reasons["a charge written off"] += len(given_up)
        kept = [entry for entry in entries if entry["session_id"] not in given_up]
        refunded = [one for one in done["refund"] if not any(public in one.path for public in given_up.values())]
        self._sums_agree(kept, "refund", sum(_micros(one.answer["amount"]) for one in refunded))
        self._audit_ratings(entries, done["rerate"])
        self._sums_agree(entries, "charge", -sum(row["charged"] or 0 for row in sessions))

    def _audit_times(
        self,
        given: Sequence[Acknowledged],
        grants: Mapping[str, Mapping[str, Any]],
        entries: Sequence[Mapping[str, Any]],
    ) -> None:
        """Grants count from when on they were to, and no longer than they were to."""
        begun = {
            _public(Kind.GRANT, {**entry, "id": entry["grant_id"]}): _us(entry["created_at"])
            for entry in entries
            if entry["kind"] == "grant"
        }
        now = self._clock.now() - DUE_WITHIN
        for one in given:
            grant, asked = one.answer["id"], one.asked
            row = grants[grant]
            effective = _instant(asked["effective_at"]) if "effective_at" in asked else None
            if effective is not None and begun.get(grant, effective) < effective - 2 * self._skew:
                self.fail("a grant before its time", grant)
            if grant not in begun and row["state"] != "voided" and (effective or 0) < now:
                self.fail("a grant that never came", grant)
            if "expires_at" in asked and _instant(asked["expires_at"]) < now and row["remaining"]:
                self.fail("a grant after its time", f"{grant}: {row['remaining']}")

    def _audit_ratings(self, entries: Sequence[Mapping[str, Any]], asked: Sequence[Acknowledged]) -> None:
        """Ratings that were asked for are there; all of them together lead from the first charges to the last ones."""
        # What is given back may pay off what is owed, expire or be void at once: entries beside the rating's own.
        posted = {_public(Kind.ENTRY, entry) for entry in entries if entry["session_id"] is not None}
        for one in asked:
            lost = {entry["id"] for entry in one.answer["entries"]} - posted
            if lost:
                self.fail("an acknowledged rating is lost", f"{one.path}: {lost}")
        moved = self._rows(
            "select coalesce(sum(l.amount - f.amount), 0)::bigint as moved from charges f join charges l"
            " on l.account_id = f.account_id and l.session_id = f.session_id where f.version = 1 and l.version ="
            " (select max(version) from charges c where c.account_id = l.account_id and c.session_id = l.session_id)"
        )
        self._sums_agree(entries, "rerate", -moved[0]["moved"])

    def _sums_agree(self, entries: Sequence[Mapping[str, Any]], kind: str, expected: int) -> None:
        posted = sum(entry["amount"] for entry in entries if entry["kind"] == kind)
        if posted != expected:
            self.fail(f"the {kind} entries are not what was acknowledged", f"{posted} instead of {expected}")

    def branches(self) -> Counter[str]:
        """What the application came through, as its rows tell."""
        found = Counter(self._reasons)
        for row in self._rows(
            "select 'step ' || coalesce(from_state, '-') || ' > ' || to_state as what, count(*) from session_steps"
            " group by 1 union all select 'entry ' || kind, count(*) from entries group by 1"
            " union all select 'event ' || type, count(*) from events group by 1"
            " union all select 'hold ' || why, count(*) from hold_changes group by 1"
            " union all select 'grant ' || state, count(*) from grants group by 1"
        ):
            found[row["what"]] += row["count"]
        return found


# Reading


def _card(row: Mapping[str, Any]) -> charging.Card:
    """The prices of a card by its name and version: those that the operators of this world publish."""
    standard = {"rates": {"user": "60", "agent": "60", "silence": "60"}}
    return charging.card_of(standard if (row["name"], row["version"]) == ("default", 1) else CARDS[row["name"]])


def _redelivered(call: Call) -> bool:
    """Whether a heartbeat came so late that it proves life where there was none: a known limit of the contract."""
    return any(beat.done_at is not None and beat.done_at > beat.sent_at + LATE + SLACK for beat in call.beats)


def _us(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


def _instant(text: str) -> int:
    return _us(datetime.fromisoformat(text))


_CREDITS: Final = re.compile(r"(-?)([0-9]+)(?:\.([0-9]{1,6}))?")


def _credits(amount: int) -> str:
    """Micro-credits as documents have them."""
    sign, whole, rest = "-" if amount < 0 else "", *divmod(abs(amount), 1_000_000)
    return f"{sign}{whole}.{rest:06d}".rstrip("0").rstrip(".")


def _micros(text: str) -> int:
    match = _CREDITS.fullmatch(text)
    assert match is not None, text
    sign, whole, decimals = match.groups()
    value = int(whole) * 1_000_000 + int((decimals or "").ljust(6, "0"))
    return -value if sign else value


def read_value(value: Any) -> tuple[str | None, Fraction | None]:
    """A segment as the auditor's own arithmetic takes it."""
    if not isinstance(value, dict):
        return None, None
    kind, number = value.get("type"), value.get("seconds")
    text = str(number) if type(number).__name__ == "JsonNumber" else ""
    usable = re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) is not None
    return (kind if isinstance(kind, str) else None), (Fraction(text) if usable else None)


def _public(kind: Kind, row: Mapping[str, Any]) -> str:
    """A public id, as the API would say it."""
    return public_id(kind, row["account_id"], row["id"])
