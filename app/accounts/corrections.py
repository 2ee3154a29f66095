"""Corrections of an account by hand: voiding a grant, adjusting a balance."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import select

from app.accounts.grants import MAX_BALANCE, grant_document
from app.accounts.statements import entry_documents
from app.core.access import Actor
from app.core.corrections import adjust_down, adjust_up
from app.core.ids import AccountThing
from app.core.ledger import GrantKind, GrantState
from app.core.units import Instant, MicroCredits, format_credits
from app.db.database import Transaction
from app.db.tables import grants
from app.documents import Document, Flag, PlainString, Reason, SignedCredits
from app.errors import BELOW_FLOOR, GRANT_CLOSED, GRANT_SPENT, NOT_FOUND, Problem, invalid
from app.events.outbox import EventType
from app.ledger.audit import Audit
from app.ledger.book import GrantTerms, LedgerPorts
from app.ledger.opening import open_book, open_book_of_user


class VoidDocument(Document):
    reason: Reason


class AdjustmentDocument(Document):
    """``amount`` over 0 gives credits as a grant of ``kind``; under 0 takes them, from what nothing holds."""

    amount: SignedCredits
    reason: Reason
    kind: Annotated[GrantKind, PlainString] | None = None
    allow_below_floor: Flag = False

    @model_validator(mode="after")
    def _fits_the_sign(self) -> "AdjustmentDocument":
        if self.amount < 0 and self.kind is not None:
            raise PydanticCustomError("sign", "kind is for amounts over 0")
        if self.amount > 0 and self.allow_below_floor:
            raise PydanticCustomError("sign", "allow_below_floor is for amounts under 0")
        return self


async def void_grant(
    transaction: Transaction, ledger: LedgerPorts, key: AccountThing, asked: VoidDocument, now: Instant, actor: Actor
) -> dict[str, Any]:
    """Take back what nothing holds of a grant and close it; its document, with ``voided``: how much that was.

    Raises a :class:`~app.errors.Problem`: 404, 409 ``grant-spent`` or ``grant-closed``.
    """
    book = await open_book(transaction, ledger, key.account_id, now)
    find = select(grants).where(grants.c.account_id == key.account_id, grants.c.id == key.id)
    row = (await transaction.execute(find)).one_or_none()
    if book is None or row is None:
        raise unknown_grant()
    # As it is now: what was due was posted in the book, not in the row.
    grant = book.account.grants.get(key.id)
    if (GrantState(row.state) if grant is None else grant.state) in {GrantState.EXPIRED, GrantState.VOIDED}:
        raise Problem(GRANT_CLOSED, "nothing of it can be voided any more")
    if grant is None:
        raise Problem(GRANT_SPENT, "all of it was spent: refund the sessions that it paid, or adjust the balance")
    voided = book.account.void(key.id, asked.reason)
    public_id = book.public_grant(key.id)
    book.emit(EventType.GRANT_VOIDED, {"grant_id": public_id, "voided": format_credits(voided)})
    book.audit(
        Audit(
            actor=actor,
            action="grant.void",
            target=public_id,
            before={"state": grant.state.value, "remaining": format_credits(grant.remaining)},
            after={"state": GrantState.VOIDED.value, "voided": format_credits(voided)},
            reason=asked.reason,
        )
    )
    await book.close()
    row = (await transaction.execute(find)).one()
    return {**grant_document(row, book.user_id), "voided": format_credits(voided)}


async def adjust(
    transaction: Transaction,
    ledger: LedgerPorts,
    user_id: str,
    asked: AdjustmentDocument,
    *,
    now: Instant,
    cause: str,
    actor: Actor,
) -> dict[str, Any]:
    """Give or take credits by hand; the entry that was posted.

    Raises a :class:`~app.errors.Problem`: 409 ``below-floor`` unless ``allow_below_floor``, 422.
    """
    book = await open_book_of_user(transaction, ledger, user_id, now)
    account = book.account
    balance = format_credits(account.balance)
    if asked.amount > 0:
        if sum(grant.remaining for grant in account.grants.values()) + asked.amount > MAX_BALANCE:
            raise invalid("/amount", "would make the balance larger than any balance may be")
        grant, terms = book.new_grant(
            GrantTerms(amount=asked.amount, kind=asked.kind or GrantKind.PROMOTIONAL, effective_at=now),
            GrantState.ACTIVE,
        )
        adjust_up(account, grant, terms, cause=cause, reason=asked.reason)
    else:
        if account.debt - asked.amount > MAX_BALANCE:
            raise invalid("/amount", "would make the debt larger than any debt may be")
        missing = adjust_down(
            account,
            MicroCredits(-asked.amount),
            cause=cause,
            reason=asked.reason,
            allow_below_floor=asked.allow_below_floor,
        )
        if missing:
            available = format_credits(account.available)
            raise Problem(BELOW_FLOOR, f"{available} credits are available", extra={"available": available})
    book.audit(
        Audit(
            actor=actor,
            action="account.adjust",
            target=user_id,
            before={"balance": balance},
            after={
                "balance": format_credits(account.balance),
                "amount": format_credits(asked.amount),
                "allow_below_floor": asked.allow_below_floor,
            },
            reason=asked.reason,
        )
    )
    posted = await book.close()
    return (await entry_documents(transaction, book.account_id, [_posted_by(posted, cause)]))[0]


def _posted_by(posted: dict[str, UUID], cause: str) -> UUID:
    """The entry of the adjustment itself, among what time had brought."""
    return next(entry_id for natural_key, entry_id in posted.items() if natural_key.endswith(f":{cause}"))


def unknown_grant() -> Problem:
    return Problem(NOT_FOUND, "there is no grant with this id")
