"""Kinds of events, and those of an account that wait to be written with it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from sqlalchemy import insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from app.core.ids import NIL_ACCOUNT
from app.core.units import Instant
from app.db.database import Transaction
from app.db.tables import accounts, events, outboxes
from app.ports.ids import Ids

_INSERT: Final = insert(events)


class EventType(StrEnum):
    SESSION_STARTED = "session.started"
    SESSION_LIVE = "session.live"
    SESSION_OVER = "session.over"
    SESSION_SETTLED = "session.settled"
    SESSION_FAILED = "session.failed"
    SESSION_REVIEW = "session.review"
    GRANT_CREATED = "grant.created"
    GRANT_EXPIRING = "grant.expiring"
    GRANT_EXPIRED = "grant.expired"
    GRANT_VOIDED = "grant.voided"
    BALANCE_LOW = "balance.low"
    BALANCE_DEPLETED = "balance.depleted"
    BALANCE_RECOVERED = "balance.recovered"
    PAYMENT_REVERSED = "payment.reversed"
    """A payment went back, or a part of it, and credits were taken for that."""
    PAYMENT_REINSTATED = "payment.reinstated"
    """What was taken was given again: a dispute was won."""
    PAYMENT_ATTENTION = "payment.attention"
    """A person has to look at a payment."""
    CHARGE_CORRECTED = "charge.corrected"
    RATE_CARD_PUBLISHED = "rate_card.published"
    ENDPOINT_DISABLED = "webhook_endpoint.disabled"
    ENDPOINT_TEST = "webhook_endpoint.test"
    """Goes to the endpoint for which it was asked, and to no other."""


class Outbox:
    """New events of one account, whose row is locked. ``last_seq``: the number of its last event so far."""

    def __init__(self, account_id: UUID, user_id: str, last_seq: int) -> None:
        self._account_id = account_id
        self._user_id = user_id
        self._last_seq = last_seq
        self._new: list[tuple[EventType, dict[str, Any]]] = []

    def emit(self, kind: EventType, data: Mapping[str, Any]) -> None:
        """Put an event in: it exists exactly if this transaction commits."""
        self._new.append((kind, {"user_id": self._user_id, **data}))

    async def write(self, transaction: Transaction, ids: Ids, now: Instant) -> int:
        """Write the events; answers the number of the account's last one, for whoever writes its row."""
        rows = [
            {
                "account_id": self._account_id,
                "id": ids.new(),
                "seq": seq,
                "type": kind.value,
                "data": data,
                "created_at": now,
            }
            for seq, (kind, data) in enumerate(self._new, self._last_seq + 1)
        ]
        if rows:
            await transaction.execute(_INSERT, rows)
        self._last_seq += len(rows)
        self._new.clear()
        return self._last_seq

    async def close(self, transaction: Transaction, ids: Ids, now: Instant) -> None:
        """Write the events, and their number into the account's row: of an account that was not opened."""
        before = self._last_seq
        if await self.write(transaction, ids, now) != before:
            await transaction.execute(
                update(accounts).where(accounts.c.account_id == self._account_id).values(event_seq=self._last_seq)
            )


async def emit_of_nobody(
    transaction: Transaction, ids: Ids, now: Instant, kind: EventType, data: Mapping[str, Any]
) -> UUID:
    """Put an event of what belongs to no account in; its id.

    Like an account's, these are numbered without a gap in the order in which they commit: whoever comes second waits
    for the row of the number.
    """
    first = upsert(outboxes).values(account_id=NIL_ACCOUNT, event_seq=1, dispatched_seq=0)
    numbered = first.on_conflict_do_update(
        index_elements=[outboxes.c.account_id], set_={"event_seq": outboxes.c.event_seq + 1}
    ).returning(outboxes.c.event_seq)
    event_id = ids.new()
    await transaction.execute(
        insert(events).values(
            account_id=NIL_ACCOUNT,
            id=event_id,
            seq=(await transaction.execute(numbered)).scalar_one(),
            type=kind.value,
            data=dict(data),
            created_at=now,
        )
    )
    return event_id


async def lock_outbox(transaction: Transaction, account_id: UUID) -> Outbox | None:
    """The outbox of an account, whose row is locked and not judged: it may be broken. Null: there is no account."""
    row = await transaction.execute(
        select(accounts.c.user_id, accounts.c.event_seq).where(accounts.c.account_id == account_id).with_for_update()
    )
    found = row.one_or_none()
    return None if found is None else Outbox(account_id, found.user_id, found.event_seq)
