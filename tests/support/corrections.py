"""Corrections, made where they are decided: on an open book, in a transaction of its own."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select

from app.core.corrections import Correction, adjust_down, adjust_up, charge_more, give_back
from app.core.entries import EntryKind
from app.core.ids import Kind, account_id_of, parse_public_id
from app.core.ledger import Grant, GrantKind, GrantState
from app.core.units import MicroCredits, parse_credits
from app.db.tables import charges
from app.ledger.book import Book, GrantTerms
from app.ledger.opening import open_book
from tests.support.world import World


async def set_credit_limit(talktime: World, user: str, limit: str) -> None:
    await _with_book(talktime, user, lambda book: book.change_credit_limit(parse_credits(limit), "a test"))


async def void(talktime: World, user: str, grant: dict[str, Any]) -> None:
    """Void the grant of this document."""
    await _with_book(talktime, user, lambda book: book.account.void(_id(grant), "a test"))


async def adjust(talktime: World, user: str, amount: str, *, cause: str = "test", below_floor: bool = False) -> None:
    """Give ``amount`` or, if it is negative, take it."""

    def change(book: Book) -> None:
        micros = parse_credits(amount)
        if micros > 0:
            grant, terms = _given(book, micros, GrantKind.PAID)
            adjust_up(book.account, grant, terms, cause=cause, reason="a test")
        else:
            missing = adjust_down(
                book.account, MicroCredits(-micros), cause=cause, reason="a test", allow_below_floor=below_floor
            )
            assert not missing

    await _with_book(talktime, user, change)


async def refund(talktime: World, user: str, session: dict[str, Any], amount: str, cause: str = "test") -> None:
    session_id = talktime.key(session).id
    why = Correction(
        kind=EntryKind.REFUND, natural_key=f"refund:{session_id}:{cause}", reason="a test", session_id=session_id
    )

    def change(book: Book) -> None:
        _give_back(book, parse_credits(amount), why)

    await _with_book(talktime, user, change, correcting=session_id)


async def rerate(talktime: World, user: str, session: dict[str, Any], gross: str) -> None:
    """Bring the charge of a settled session to ``gross``, as its next version."""
    session_id = talktime.key(session).id
    after = parse_credits(gross)
    async with talktime.service.database.transaction() as transaction:
        mine = (charges.c.account_id == account_id_of(user)) & (charges.c.session_id == session_id)
        rows = await transaction.execute(select(charges).where(mine).order_by(charges.c.version.desc()).limit(1))
        before = rows.one()._mapping
        version = before["version"] + 1
        digest = bytes([version]) * 32
        why = Correction(
            kind=EntryKind.RERATE,
            natural_key=f"rerate:{session_id}:{digest.hex()}",
            reason="a test",
            session_id=session_id,
            charge_digest=digest,
        )
        book = await open_book(
            transaction, talktime.service.ledger, account_id_of(user), talktime.clock.now(), correcting=session_id
        )
        assert book is not None
        delta = after - before["amount"]
        if delta > 0:
            assert not charge_more(book.account, MicroCredits(delta), why, book.debits[0].entry_id).leakage
        else:
            _give_back(book, MicroCredits(-delta), why)
        written = await book.close()
        row = {
            **before,
            "version": version,
            "amount": after,
            "evidence_digest": digest,
            "entry_id": written[why.natural_key],
        }
        await transaction.execute(insert(charges).values(row))


def _give_back(book: Book, amount: MicroCredits, why: Correction) -> None:
    give_back(
        book.account,
        book.debits,
        amount,
        why,
        now=book.now,
        goodwill=lambda lost: _given(book, lost, GrantKind.PROMOTIONAL),
    )


def _given(book: Book, amount: MicroCredits, kind: GrantKind) -> tuple[Grant, Mapping[str, Any]]:
    terms = GrantTerms(
        amount=amount,
        kind=kind,
        priority=50,
        effective_at=book.now,
        expires_at=None,
        cost_basis=None,
        reference=None,
        metadata={},
    )
    return book.new_grant(terms, GrantState.ACTIVE)


async def _with_book(
    talktime: World, user: str, change: Callable[[Book], object], correcting: UUID | None = None
) -> None:
    async with talktime.service.database.transaction() as transaction:
        book = await open_book(
            transaction, talktime.service.ledger, account_id_of(user), talktime.clock.now(), correcting=correcting
        )
        assert book is not None
        change(book)
        await book.close()


def _id(grant: dict[str, Any]) -> UUID:
    key = parse_public_id(Kind.GRANT, grant["id"])
    assert key is not None
    return key.id
