"""The only way into the ledger: one account, locked, changed by its rules, written at once.

:mod:`app.ledger.opening` locks the account's row and makes the book; what is done to ``book.account`` stays in memory
until :meth:`Book.close` writes it. A natural key that exists already fails the insert and the whole transaction with
it, so no effect happens twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from sqlalchemy import BindParameter, Row, bindparam, insert, update

from app.core.account import Account, Hold
from app.core.alerts import Level, Signal, level_of, signals
from app.core.chain import Entry, Funding, grant_mac, limit_mac, mac
from app.core.corrections import PaidDebit
from app.core.entries import EntryDraft
from app.core.ids import Kind, public_id
from app.core.ledger import DEFAULT_PRIORITY, Grant, GrantKind, GrantState
from app.core.units import Instant, MicroCredits, Micros, format_credits, format_instant
from app.db.database import Transaction
from app.db.tables import (
    accounts,
    entries,
    funding,
    grants,
    hold_changes,
    hold_lines,
    holds,
    limit_changes,
    postings,
)
from app.events.outbox import EventType, Outbox
from app.ledger.alerts import AlertThresholds
from app.ledger.audit import Audit, record_audits
from app.ledger.keys import LedgerKeys
from app.ledger.rows import (
    last_limit_change,
    terms_document,
)
from app.ports.ids import Ids

_MINE: Final[BindParameter[Any]] = bindparam("mine")
_CHANGE_ACCOUNT: Final = update(accounts).where(accounts.c.account_id == _MINE)
_CHANGE_GRANT: Final = update(grants).where(grants.c.account_id == _MINE, grants.c.id == bindparam("grant"))
_INSERT_GRANT: Final = insert(grants)
_INSERT_ENTRY: Final = insert(entries)
_INSERT_POSTING: Final = insert(postings)
_INSERT_FUNDING: Final = insert(funding)
_INSERT_HOLD: Final = insert(holds)
_INSERT_HOLD_LINE: Final = insert(hold_lines)
_INSERT_HOLD_CHANGE: Final = insert(hold_changes)
_CHANGE_HOLD: Final = update(holds).where(holds.c.account_id == _MINE, holds.c.session_id == bindparam("of_session"))
_CHANGE_HOLD_LINE: Final = update(hold_lines).where(
    hold_lines.c.account_id == _MINE,
    hold_lines.c.session_id == bindparam("of_session"),
    hold_lines.c.line == bindparam("nth"),
)
_ENTRY_COLUMNS: Final = (
    "id",
    "seq",
    "natural_key",
    "kind",
    "amount",
    "balance_after",
    "session_id",
    "grant_id",
    "reverses",
    "reason",
    "reference",
    "created_at",
    "key_id",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantTerms:
    """A grant as it is asked for. ``cost_basis``: money a credit, in millionths of the money's unit."""

    amount: MicroCredits
    kind: GrantKind
    effective_at: Instant
    expires_at: Instant | None = None
    priority: int = DEFAULT_PRIORITY
    cost_basis: int | None = None
    reference: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LedgerPorts:
    """What the ledger needs besides a transaction."""

    keys: LedgerKeys
    ids: Ids
    thresholds: AlertThresholds


class Book:
    """An open account; see the module."""

    def __init__(
        self,
        transaction: Transaction,
        ports: LedgerPorts,
        now: Instant,
        row: Row[Any],
        account: Account,
        stored_grants: Mapping[UUID, Grant],
        debits: Sequence[PaidDebit],
    ) -> None:
        self._transaction = transaction
        self._ports = ports
        self._row = row
        self._stored_grants = stored_grants
        self._stored_holds = dict(account.holds)
        self._new_grants: dict[UUID, GrantTerms] = {}
        self.outbox = Outbox(row.account_id, row.user_id, row.event_seq)
        self._audits: list[Audit] = []
        self._limit_change: str | None = None
        self._changed: dict[str, Any] = {}
        self.now = now
        # Booking time never runs back within an account, whatever our clock does.
        self.booked_at = now if row.last_change_at is None else max(now, row.last_change_at)
        self.account = account
        self.debits = debits
        self.account_id: UUID = row.account_id
        self.user_id: str = row.user_id
        self.rate_card: str | None = row.rate_card
        self.limits: Mapping[str, Any] = row.limits
        self.suspended: bool = row.suspended
        self.alerts: Mapping[str, Any] | None = row.alerts

    def grant(self, terms: GrantTerms) -> UUID:
        """Give credits by ``terms``; answers the grant's id."""
        grant, document = self.new_grant(terms, GrantState.SCHEDULED)
        self.account.grant(grant, document)
        return grant.id

    def new_grant(self, terms: GrantTerms, state: GrantState) -> tuple[Grant, dict[str, Any]]:
        """A grant by ``terms`` that will be written, with its terms as its entry bears them; giving it is up to the
        caller."""
        grant = Grant(
            id=self._ports.ids.new(),
            kind=terms.kind,
            priority=terms.priority,
            amount=terms.amount,
            effective_at=terms.effective_at,
            expires_at=terms.expires_at,
            created_at=self.now,
            remaining=terms.amount,
            held=MicroCredits(0),
            state=state,
        )
        self._new_grants[grant.id] = terms
        self.emit(
            EventType.GRANT_CREATED,
            {"grant_id": self.public_grant(grant.id), "amount": format_credits(terms.amount)},
        )
        return grant, terms_document(grant, terms.cost_basis, terms.reference)

    def announce_expiring(self, lead: Micros) -> None:
        """Say once of each grant that what remains of it expires within ``lead``."""
        for grant in self.account.announce_expiring(lead):
            told = {"grant_id": self.public_grant(grant.id), "remaining": format_credits(grant.remaining)}
            self.emit(EventType.GRANT_EXPIRING, {**told, "expires_at": format_instant(grant.expires_at or self.now)})

    def change(self, **values: Any) -> None:
        """Change settings of the account: ``rate_card``, ``limits``, ``suspended``, ``alerts``."""
        self._changed |= values

    def change_credit_limit(self, limit: MicroCredits, reason: str) -> None:
        """Set how far the account may go into debt. Below its debt it stops starts, and nothing else."""
        if limit != self.account.credit_limit:
            self.account.credit_limit = limit
            self._limit_change = reason

    def audit(self, audit: Audit) -> None:
        """Write down who did what: it is there exactly if this transaction commits."""
        self._audits.append(audit)

    def emit(self, kind: EventType, data: Mapping[str, Any]) -> None:
        """Put an event into the outbox: it exists exactly if this transaction commits."""
        self.outbox.emit(kind, data)

    async def close(self) -> dict[str, UUID]:
        """Write all changes; the transaction's owner commits them. Answers the ids of the new entries by natural key.

        A session whose hold is new must have its row by now.
        """
        self.account.check()
        await self._write_grants()
        written, head = self._chained()
        await self._write_entries(written)
        hold_seq = await self._write_holds()
        await self._write_limit()
        level = await self._judge()
        event_seq = await self._write_events()
        await record_audits(self._transaction, self._ports.ids, self.account_id, self._audits, self.booked_at)
        account = self.account
        if written or account.hold_changes or self._limit_change is not None:
            head["last_change_at"] = self.booked_at
        await self._transaction.execute(
            _CHANGE_ACCOUNT,
            {
                "mine": self.account_id,
                "balance": account.balance,
                "debt": account.debt,
                "held": account.held,
                "credit_limit": account.credit_limit,
                "next_due_at": account.next_due_at,
                "event_seq": event_seq,
                "hold_seq": hold_seq,
                "alert_level": level,
                **self._changed,
                **head,
            },
        )
        return {entry.natural_key: entry.id for entry, _ in written}

    async def _judge(self) -> str | None:
        """The account's alert level after this; what there is to say about it goes into the outbox."""
        stored: str | None = self._row.alert_level
        never_had_any = not self._row.seq and not self.account.entries
        unchanged = not self.account.entries and not self._changed.keys() & {"alerts", "rate_card"}
        if never_had_any or unchanged:
            return stored
        before = None if stored is None else Level(stored)
        rate_card = self._changed.get("rate_card", self.rate_card)
        alerts = self._changed.get("alerts", self.alerts)
        thresholds = await self._ports.thresholds(self._transaction, rate_card, alerts, self.now)
        balance = self.account.balance
        after = level_of(before, balance, thresholds)
        for signal in signals(before, after, balance, thresholds):
            threshold = thresholds.low if signal is Signal.LOW else thresholds.depleted
            told = {} if signal is Signal.RECOVERED else {"threshold": format_credits(threshold or MicroCredits(0))}
            self.emit(EventType(signal), {"balance": format_credits(balance), "level": after.value, **told})
        return after.value

    def _chained(self) -> tuple[list[tuple[Entry, bytes]], dict[str, Any]]:
        """The new entries with their MACs, and the account's head after them."""
        key_id, previous, seq = self._row.head_key, self._row.head_mac, self._row.seq
        balance = MicroCredits(self._row.balance)
        written: list[tuple[Entry, bytes]] = []
        for draft in self.account.entries:
            seq += 1
            balance = MicroCredits(balance + draft.amount)
            key_id = self._ports.keys.current_id
            entry = self._entry(draft, seq, balance, key_id)
            previous = mac(entry, previous, self._ports.keys.current)
            written.append((entry, previous))
        last_entry_at = self.booked_at if written else self._row.last_entry_at
        head = {"seq": seq, "head_mac": previous, "head_key": key_id, "last_entry_at": last_entry_at}
        return written, head

    def _entry(self, draft: EntryDraft, seq: int, balance: MicroCredits, key_id: str) -> Entry:
        entry_id = self._ports.ids.new()
        return Entry(
            account_id=self.account_id,
            id=entry_id,
            seq=seq,
            natural_key=draft.natural_key,
            kind=draft.kind.value,
            amount=draft.amount,
            balance_after=balance,
            session_id=draft.session_id,
            grant_id=draft.grant_id,
            reverses=draft.reverses,
            reason=draft.reason,
            reference=draft.reference,
            created_at=self.booked_at,
            postings=draft.postings,
            funding=[Funding(line.debit_entry_id or entry_id, line.grant_id, line.amount) for line in draft.funding],
            terms=draft.terms,
            charge_digest=draft.charge_digest,
            key_id=key_id,
        )

    async def _write_grants(self) -> None:
        keys = self._ports.keys
        for grant_id, terms in self._new_grants.items():
            grant = self.account.grants[grant_id]
            document = terms_document(grant, terms.cost_basis, terms.reference)
            await self._transaction.execute(
                _INSERT_GRANT,
                {
                    "account_id": self.account_id,
                    "id": grant.id,
                    "kind": grant.kind.value,
                    "priority": grant.priority,
                    "amount": grant.amount,
                    "effective_at": grant.effective_at,
                    "expires_at": grant.expires_at,
                    "created_at": grant.created_at,
                    "remaining": grant.remaining,
                    "held": grant.held,
                    "state": grant.state.value,
                    "cost_basis": terms.cost_basis,
                    "reference": terms.reference,
                    "metadata": dict(terms.metadata),
                    "announced": False,
                    "terms_key": keys.current_id,
                    "terms_mac": grant_mac(self.account_id, document, keys.current),
                },
            )
        for grant_id, before in self._stored_grants.items():
            after = self.account.grants[grant_id]
            if after != before:
                await self._transaction.execute(
                    _CHANGE_GRANT,
                    {
                        "mine": self.account_id,
                        "grant": grant_id,
                        "remaining": after.remaining,
                        "held": after.held,
                        "state": after.state.value,
                        "announced": after.announced,
                    },
                )

    async def _write_entries(self, written: Sequence[tuple[Entry, bytes]]) -> None:
        if not written:
            return
        own = {"account_id": self.account_id}
        entry_rows = [
            own | {name: getattr(entry, name) for name in _ENTRY_COLUMNS} | {"mac": tag} for entry, tag in written
        ]
        posting_rows = [
            own | {"entry_id": entry.id, "leg": leg, "ledger_account": posting.ledger_account, "amount": posting.amount}
            for entry, _ in written
            for leg, posting in enumerate(entry.postings)
        ]
        funding_rows = [
            own
            | {"entry_id": entry.id, "line": n, "debit_entry_id": line.debit_entry_id}
            | {"grant_id": line.grant_id, "amount": line.amount}
            for entry, _ in written
            for n, line in enumerate(entry.funding)
        ]
        for statement, rows in (
            (_INSERT_ENTRY, entry_rows),
            (_INSERT_POSTING, posting_rows),
            (_INSERT_FUNDING, funding_rows),
        ):
            if rows:
                await self._transaction.execute(statement, rows)

    async def _write_holds(self) -> int:
        for session_id, hold in self.account.holds.items():
            before = self._stored_holds.get(session_id)
            if hold != before:
                await self._write_hold(session_id, hold, new=before is None)
        rows = [
            {
                "account_id": self.account_id,
                "session_id": change.session_id,
                "n": change.n,
                "delta": change.delta,
                "held_after": change.held_after,
                "why": change.why,
                "at": self.booked_at,
                "seq": seq,
            }
            for seq, change in enumerate(self.account.hold_changes, self._row.hold_seq + 1)
        ]
        if rows:
            await self._transaction.execute(_INSERT_HOLD_CHANGE, rows)
        return int(self._row.hold_seq) + len(rows)

    async def _write_hold(self, session_id: UUID, hold: Hold, *, new: bool) -> None:
        key = {"account_id": self.account_id, "session_id": session_id}
        values = {
            "amount": hold.amount,
            "state": hold.state,
            "changes": hold.changes,
            "resolved_at": None if hold.state == "active" else self.now,
        }
        if new:
            await self._transaction.execute(_INSERT_HOLD, key | values)
            if hold.lines:
                rows = [key | {"line": n} | line._asdict() for n, line in enumerate(hold.lines)]
                await self._transaction.execute(_INSERT_HOLD_LINE, rows)
            return
        this = {"mine": self.account_id, "of_session": session_id}
        await self._transaction.execute(_CHANGE_HOLD, this | values)
        for n, line in enumerate(hold.lines):
            await self._transaction.execute(_CHANGE_HOLD_LINE, this | {"nth": n, "amount": line.amount})

    async def _write_events(self) -> int:
        for grant_id in self.account.expired_grants:
            self.emit(EventType.GRANT_EXPIRED, {"grant_id": self.public_grant(grant_id)})
        return await self.outbox.write(self._transaction, self._ports.ids, self.now)

    async def _write_limit(self) -> None:
        if self._limit_change is None:
            return
        n = await last_limit_change(self._transaction, self.account_id) + 1
        keys, limit = self._ports.keys, self.account.credit_limit
        await self._transaction.execute(
            insert(limit_changes).values(
                account_id=self.account_id,
                n=n,
                credit_limit=limit,
                reason=self._limit_change,
                at=self.booked_at,
                key_id=keys.current_id,
                mac=limit_mac(self.account_id, n, limit, self._limit_change, self.booked_at, keys.current),
            )
        )

    def public_grant(self, grant_id: UUID) -> str:
        return public_id(Kind.GRANT, self.account_id, grant_id)
