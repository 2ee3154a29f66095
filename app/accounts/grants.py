"""Grants: giving credits, and listing what was given."""

from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import Row, bindparam, select

from app.accounts.balances import is_known
from app.core.access import Actor
from app.core.ids import Kind, account_id_of, public_id
from app.core.ledger import DEFAULT_PRIORITY, GrantKind
from app.core.lossless_json import dumps
from app.core.units import Instant, format_credits, format_instant, format_millionths
from app.db.database import Transaction
from app.db.tables import grants
from app.documents import Credits, Document, Metadata, Moment, PlainString, PositiveCredits, Reason, Text, WholeNumber
from app.errors import REFERENCE_CONFLICT, Problem, invalid
from app.http.pages import cursor_uuid, make_cursor, page, read_cursor
from app.ledger.audit import Audit
from app.ledger.book import GrantTerms, LedgerPorts
from app.ledger.opening import open_book_of_user

MAX_PRIORITY = 100
MAX_BALANCE = 8 * 10**18
"""Micro-credits; with what is scheduled. Well inside a bigint, so that no sum over an account overflows one."""

RECURRING: Final = "recurring:"
"""Begins the references of grants that come again each period, and of no others."""

_GRANT: Final = select(grants).where(grants.c.account_id == bindparam("mine"), grants.c.id == bindparam("grant"))


class GrantDocument(Document):
    """A grant as a client asks for it."""

    amount: PositiveCredits
    kind: Annotated[GrantKind, PlainString] = GrantKind.PAID
    priority: Annotated[WholeNumber, Field(le=MAX_PRIORITY)] = DEFAULT_PRIORITY
    effective_at: Moment | None = None
    expires_at: Moment | None = None
    cost_basis: Credits | None = None
    reference: Text | None = None
    metadata: Metadata = Field(default_factory=dict)
    reason: Reason | None = None

    @model_validator(mode="after")
    def _expires_after_effect(self) -> "GrantDocument":
        if self.effective_at is not None and self.expires_at is not None and self.expires_at <= self.effective_at:
            raise PydanticCustomError("order", "expires_at must be after effective_at")
        if self.reference is not None and self.reference.startswith(RECURRING):
            raise PydanticCustomError("reserved", "references that begin so are those of recurring grants")
        return self


async def give(
    transaction: Transaction, ledger: LedgerPorts, user_id: str, asked: GrantDocument, now: Instant, actor: Actor
) -> tuple[dict[str, Any], bool]:
    """Grant credits; the grant's document, and whether it is new.

    A ``reference`` that was used for the same grant gives that grant again; for another one it is a 409.
    """
    effective_at = now if asked.effective_at is None else asked.effective_at
    book = await open_book_of_user(transaction, ledger, user_id, now)
    if asked.reference is not None:
        earlier = await grant_by_reference(transaction, book.account_id, asked.reference)
        if earlier is not None:
            if not _same(earlier, asked):
                raise Problem(REFERENCE_CONFLICT, f"the reference {asked.reference!r} was used for another grant")
            return grant_document(earlier, user_id), False
    if asked.expires_at is not None and asked.expires_at <= max(now, effective_at):
        raise invalid("/expires_at", "must be in the future, and after effective_at")
    # Grants still to come count as well: one that did not fit when its time comes would stop the account for ever.
    if sum(grant.remaining for grant in book.account.grants.values()) + asked.amount > MAX_BALANCE:
        raise invalid("/amount", "would make the balance larger than any balance may be")
    grant_id = book.grant(
        GrantTerms(
            amount=asked.amount,
            kind=asked.kind,
            priority=asked.priority,
            effective_at=effective_at,
            expires_at=asked.expires_at,
            cost_basis=asked.cost_basis,
            reference=asked.reference,
            metadata=asked.metadata,
        )
    )
    book.audit(
        Audit(
            actor=actor,
            action="grant.create",
            target=book.public_grant(grant_id),
            after={"user_id": user_id, "amount": format_credits(asked.amount), "kind": asked.kind.value},
            reason=asked.reason,
        )
    )
    await book.close()
    row = (await transaction.execute(_GRANT, {"mine": book.account_id, "grant": grant_id})).one()
    return grant_document(row, user_id), True


async def grant_by_reference(transaction: Transaction, account_id: UUID, reference: str) -> Row[Any] | None:
    """The grant of an account, whose row is locked, that was made with this reference; null if none was."""
    statement = select(grants).where(grants.c.account_id == account_id, grants.c.reference == reference)
    return (await transaction.execute(statement)).one_or_none()


def _same(row: Row[Any], asked: GrantDocument) -> bool:
    """Whether a stored grant is what is asked for again; an absent ``effective_at`` was the time of the first call."""
    effective_at = row.effective_at if asked.effective_at is None else asked.effective_at
    stored = (row.amount, row.kind, row.priority, row.effective_at, row.expires_at, row.cost_basis)
    return stored == (asked.amount, asked.kind, asked.priority, effective_at, asked.expires_at, asked.cost_basis)


async def grants_page(
    transaction: Transaction, user_id: str, *, limit: int, cursor: str | None
) -> dict[str, Any] | None:
    """A page of a user's grants, newest first; null for a user never seen."""
    account_id = account_id_of(user_id)
    if not await is_known(transaction, account_id):
        return None
    statement = select(grants).where(grants.c.account_id == account_id).order_by(grants.c.id.desc())
    position = read_cursor(cursor, str)
    if position is not None:
        statement = statement.where(grants.c.id < cursor_uuid(position[0]))
    rows = (await transaction.execute(statement.limit(limit + 1))).all()
    shown = rows[:limit]
    return page(
        [grant_document(row, user_id) for row in shown],
        make_cursor(str(shown[-1].id)) if len(rows) > limit else None,
    )


async def unspent_grants(transaction: Transaction, user_id: str, most: int) -> tuple[list[dict[str, Any]], bool]:
    """Grants of which something is left, those that end first first; and whether there are more than ``most``."""
    statement = (
        select(grants)
        .where(grants.c.account_id == account_id_of(user_id), grants.c.remaining > 0)
        .order_by(grants.c.expires_at.nulls_last(), grants.c.id)
        .limit(most + 1)
    )
    rows = (await transaction.execute(statement)).all()
    return [grant_document(row, user_id) for row in rows[:most]], len(rows) > most


def grant_document(row: Row[Any], user_id: str) -> dict[str, Any]:
    return {
        "id": public_id(Kind.GRANT, row.account_id, row.id),
        "user_id": user_id,
        "kind": row.kind,
        "state": row.state,
        "priority": row.priority,
        "amount": format_credits(row.amount),
        "remaining": format_credits(row.remaining),
        "held": format_credits(row.held),
        "effective_at": format_instant(row.effective_at),
        "expires_at": None if row.expires_at is None else format_instant(row.expires_at),
        "cost_basis": None if row.cost_basis is None else format_millionths(row.cost_basis),
        "reference": row.reference,
        "metadata": msgspec.Raw(dumps(row.metadata).encode()),
        "created_at": format_instant(row.created_at),
    }
