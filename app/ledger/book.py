"""The only way into the ledger: one account, locked, changed by its rules, written at once.

:func:`open_book` locks the account's row; what is done to ``book.account`` stays in memory until :meth:`Book.close`
writes it. A natural key that exists already fails the insert and the whole transaction with it, so no effect happens
twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from app.core.account import Account, EntryDraft, Hold
from app.core.chain import Entry, Funding, mac
from app.core.ids import Kind, account_id_of, public_id
from app.core.ledger import Grant, GrantKind, GrantState
from app.core.units import Instant, MicroCredits, format_credits
from app.db.database import Transaction
from app.db.tables import accounts, entries, events, funding, grants, hold_changes, hold_lines, holds, postings
from app.events.outbox import Event, EventType
from app.ledger.keys import LedgerKeys
from app.ledger.rows import credit_reserved, debts_of, grant_of, hold_of, terms_document, unspent_grants
from app.ports.ids import Ids

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
    priority: int
    effective_at: Instant
    expires_at: Instant | None
    cost_basis: int | None
    reference: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LedgerPorts:
    """What the ledger needs besides a transaction."""

    keys: LedgerKeys
    ids: Ids


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
    ) -> None:
        self._transaction = transaction
        self._ports = ports
        self._row = row
        self._stored_grants = stored_grants
        self._stored_holds = dict(account.holds)
        self._new_grants: dict[UUID, GrantTerms] = {}
        self._events: list[Event] = []
        self.now = now
        self.account = account
        self.account_id: UUID = row.account_id
        self.user_id: str = row.user_id
        self.rate_card: str | None = row.rate_card
        self.limits: Mapping[str, Any] = row.limits
        self.suspended: bool = row.suspended

    def grant(self, terms: GrantTerms) -> UUID:
        """Give credits by ``terms``; answers the grant's id."""
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
            state=GrantState.SCHEDULED,
        )
        self._new_grants[grant.id] = terms
        self.account.grant(grant, terms_document(grant, terms.cost_basis, terms.reference))
        self.emit(
            EventType.GRANT_CREATED,
            {"grant_id": self._public_grant(grant.id), "amount": format_credits(terms.amount)},
        )
        return grant.id

    def emit(self, kind: EventType, data: Mapping[str, Any]) -> None:
        """Put an event into the outbox: it exists exactly if this transaction commits."""
        self._events.append(Event(kind, {"user_id": self.user_id, **data}))

    async def close(self) -> dict[str, UUID]:
        """Write all changes; the transaction's owner commits them. Answers the ids of the new entries by natural key.

        A session whose hold is new must have its row by now.
        """
        self.account.check()
        await self._write_grants()
        written, head = self._chained()
        await self._write_entries(written)
        await self._write_holds()
        event_seq = await self._write_events()
        account = self.account
        await self._transaction.execute(
            update(accounts)
            .where(accounts.c.account_id == self.account_id)
            .values(
                balance=account.balance,
                debt=account.debt,
                held=account.held,
                next_due_at=account.next_due_at,
                event_seq=event_seq,
                **head,
            )
        )
        return {entry.natural_key: entry.id for entry, _ in written}

    def _chained(self) -> tuple[list[tuple[Entry, bytes]], dict[str, Any]]:
        """The new entries with their MACs, and the account's head after them."""
        key_id, previous, created_at, seq = (
            self._row.head_key,
            self._row.head_mac,
            self._row.last_entry_at,
            self._row.seq,
        )
        balance = MicroCredits(self._row.balance)
        written: list[tuple[Entry, bytes]] = []
        for draft in self.account.entries:
            seq += 1
            balance = MicroCredits(balance + draft.amount)
            # Booking time never runs back within an account, whatever our clock does.
            created_at = self.now if created_at is None else max(self.now, created_at)
            key_id = self._ports.keys.current_id
            entry = self._entry(draft, seq, balance, created_at, key_id)
            previous = mac(entry, previous, self._ports.keys.current)
            written.append((entry, previous))
        head = {"seq": seq, "head_mac": previous, "head_key": key_id, "last_entry_at": created_at}
        return written, head

    def _entry(self, draft: EntryDraft, seq: int, balance: MicroCredits, created_at: Instant, key_id: str) -> Entry:
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
            reverses=None,
            reason=None,
            reference=draft.reference,
            created_at=created_at,
            postings=draft.postings,
            funding=[Funding(line.debit_entry_id or entry_id, line.grant_id, line.amount) for line in draft.funding],
            terms=draft.terms,
            charge_digest=draft.charge_digest,
            key_id=key_id,
        )

    async def _write_grants(self) -> None:
        for grant_id, terms in self._new_grants.items():
            grant = self.account.grants[grant_id]
            await self._transaction.execute(
                insert(grants).values(
                    account_id=self.account_id,
                    id=grant.id,
                    kind=grant.kind.value,
                    priority=grant.priority,
                    amount=grant.amount,
                    effective_at=grant.effective_at,
                    expires_at=grant.expires_at,
                    created_at=grant.created_at,
                    remaining=grant.remaining,
                    held=grant.held,
                    state=grant.state.value,
                    cost_basis=terms.cost_basis,
                    reference=terms.reference,
                    metadata=dict(terms.metadata),
                )
            )
        for grant_id, before in self._stored_grants.items():
            after = self.account.grants[grant_id]
            if after != before:
                await self._transaction.execute(
                    update(grants)
                    .where(grants.c.account_id == self.account_id, grants.c.id == grant_id)
                    .values(remaining=after.remaining, held=after.held, state=after.state.value)
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
        for table, rows in ((entries, entry_rows), (postings, posting_rows), (funding, funding_rows)):
            if rows:
                await self._transaction.execute(insert(table), rows)

    async def _write_holds(self) -> None:
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
                "at": self.now,
            }
            for change in self.account.hold_changes
        ]
        if rows:
            await self._transaction.execute(insert(hold_changes), rows)

    async def _write_hold(self, session_id: UUID, hold: Hold, *, new: bool) -> None:
        key = {"account_id": self.account_id, "session_id": session_id}
        values = {
            "amount": hold.amount,
            "state": hold.state,
            "changes": hold.changes,
            "resolved_at": None if hold.state == "active" else self.now,
        }
        if new:
            await self._transaction.execute(insert(holds).values(key | values))
            if hold.lines:
                rows = [key | {"line": n} | line._asdict() for n, line in enumerate(hold.lines)]
                await self._transaction.execute(insert(hold_lines), rows)
            return
        await self._transaction.execute(
            update(holds).where(holds.c.account_id == self.account_id, holds.c.session_id == session_id).values(values)
        )
        for n, line in enumerate(hold.lines):
            await self._transaction.execute(
                update(hold_lines)
                .where(
                    hold_lines.c.account_id == self.account_id,
                    hold_lines.c.session_id == session_id,
                    hold_lines.c.line == n,
                )
                .values(amount=line.amount)
            )

    async def _write_events(self) -> int:
        for grant_id in self.account.expired_grants:
            self.emit(EventType.GRANT_EXPIRED, {"grant_id": self._public_grant(grant_id)})
        first: int = self._row.event_seq + 1
        rows = [
            {
                "account_id": self.account_id,
                "id": self._ports.ids.new(),
                "seq": seq,
                "type": event.type.value,
                "data": dict(event.data),
                "created_at": self.now,
            }
            for seq, event in enumerate(self._events, first)
        ]
        if rows:
            await self._transaction.execute(insert(events), rows)
        return int(self._row.event_seq) + len(rows)

    def _public_grant(self, grant_id: UUID) -> str:
        return public_id(Kind.GRANT, self.account_id, grant_id)


async def open_book(
    transaction: Transaction,
    ports: LedgerPorts,
    account_id: UUID,
    now: Instant,
    sessions: Sequence[UUID] = (),
) -> Book | None:
    """Lock an account and open it, with the holds of ``sessions``; null if there is no such account.

    Several accounts in one transaction are opened in the order of their ids, so that no two transactions wait for each
    other.
    """
    row = (
        await transaction.execute(select(accounts).where(accounts.c.account_id == account_id).with_for_update())
    ).one_or_none()
    if row is None:
        return None
    grant_rows = await unspent_grants(transaction, account_id)
    account = await _account(transaction, row, grant_rows, now, sessions)
    return Book(transaction, ports, now, row, account, {grant.id: grant_of(grant) for grant in grant_rows})


async def account_now(transaction: Transaction, row: Row[Any], now: Instant) -> Account:
    """The account in ``row`` as it is at ``now``, to look at: nothing of it is ever written."""
    return await _account(transaction, row, await unspent_grants(transaction, row.account_id), now, ())


async def _account(
    transaction: Transaction, row: Row[Any], grant_rows: Sequence[Row[Any]], now: Instant, sessions: Sequence[UUID]
) -> Account:
    account_id: UUID = row.account_id
    stored = {grant.id: grant_of(grant) for grant in grant_rows}
    found = {session_id: await hold_of(transaction, account_id, session_id) for session_id in sessions}
    return Account(
        now=now,
        balance=row.balance,
        debt=row.debt,
        held=row.held,
        credit_limit=row.credit_limit,
        grants=stored.values(),
        terms={g.id: terms_document(stored[g.id], g.cost_basis, g.reference) for g in grant_rows},
        holds={session_id: hold for session_id, hold in found.items() if hold is not None},
        debts=await debts_of(transaction, account_id) if row.debt else [],
        credit_reserved=await credit_reserved(transaction, account_id) if row.credit_limit else MicroCredits(0),
    )


async def open_book_of_user(transaction: Transaction, ports: LedgerPorts, user_id: str, now: Instant) -> Book:
    """Lock and open the account of a user, made now if the user was never seen."""
    account_id = account_id_of(user_id)
    book = await open_book(transaction, ports, account_id, now)
    if book is None:
        await transaction.execute(
            upsert(accounts)
            .values(
                account_id=account_id,
                user_id=user_id,
                balance=0,
                debt=0,
                held=0,
                credit_limit=0,
                seq=0,
                event_seq=0,
                limits={},
                suspended=False,
                created_at=now,
            )
            # Another transaction may make the same account at this moment: then its row is locked below.
            .on_conflict_do_nothing()
        )
        book = await open_book(transaction, ports, account_id, now)
    if book is None:
        raise RuntimeError("an account that was just made is gone")
    return book
