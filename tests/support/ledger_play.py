"""Random operations on accounts through the book, and what the accounts were after each of them."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from uuid import UUID

from sqlalchemy import insert, select

from app.core.corrections import Correction, adjust_down, adjust_up, charge_more, give_back
from app.core.entries import EntryKind
from app.core.ids import account_id_of
from app.core.ledger import GrantKind, GrantState
from app.core.units import Instant, MicroCredits
from app.db.database import Database, Transaction
from app.db.tables import accounts, grants, rate_cards, sessions
from app.ledger.book import Book, GrantTerms, LedgerPorts
from app.ledger.opening import open_book, open_book_of_user
from tests.support.clock import ManualClock


@dataclass(frozen=True)
class Known:
    """An account from ``at`` on, in micro-credits: what remains of its grants by kind and cost basis, and the rest."""

    at: Instant
    user: str
    remaining: Counter[tuple[str, int | None]]
    debt: int
    balance: int
    held: int
    limit: int


Operation = Callable[[Transaction, str], Awaitable[bool]]


@dataclass
class LedgerPlay:
    """Plays on ``users``; ``history`` is what was known of each after every operation, the oldest first."""

    database: Database
    ledger: LedgerPorts
    clock: ManualClock
    random: Random
    users: tuple[str, ...]
    history: list[Known] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    _sessions: dict[str, list[UUID]] = field(default_factory=dict)
    _steps: int = 0

    async def play(self, steps: int) -> None:
        for _ in range(steps):
            self.clock.advance(self.random.choice([0.000001, 1, 1, 60]))
            name, operation = self.random.choice(self._operations())
            self._steps += 1
            user = self.random.choice(self.users)
            async with self.database.transaction() as transaction:
                self.done[name] += await operation(transaction, user)
                # Also what did nothing itself has posted what time had brought.
                self.history += await self._known(transaction, user)

    def _operations(self) -> list[tuple[str, Operation]]:
        often: list[tuple[str, Operation]] = [
            ("grant", self.grant),
            ("start", self.start),
            ("settle", self.settle),
            ("refund", self.refund),
        ]
        rare: list[tuple[str, Operation]] = [
            ("lower", self.lower),
            ("release", self.release),
            ("void", self.void),
            ("adjust up", self.adjust_up),
            ("adjust down", self.adjust_down),
            ("charge more", self.charge_more),
            ("charge less", self.charge_less),
            ("limit", self.limit),
        ]
        return often * 2 + rare

    async def _known(self, transaction: Transaction, user: str) -> list[Known]:
        account_id = account_id_of(user)
        statement = select(accounts).where(accounts.c.account_id == account_id)
        account = (await transaction.execute(statement)).one_or_none()
        if account is None:
            return []
        remaining: Counter[tuple[str, int | None]] = Counter()
        found = select(grants).where(grants.c.account_id == account_id, grants.c.state != GrantState.SCHEDULED.value)
        for row in await transaction.execute(found):
            remaining[row.kind, row.cost_basis] += row.remaining
        at = self.clock.now()
        return [Known(at, user, remaining, account.debt, account.balance, account.held, account.credit_limit)]

    # Operations: each answers whether it did anything

    def _amount(self, most: int = 60_000_000) -> MicroCredits:
        return MicroCredits(self.random.choice([1, 7, 1_000_000, self.random.randint(1, most)]))

    def _terms(self, amount: MicroCredits, *, future: bool = False) -> GrantTerms:
        now = self.clock.now()
        effective_at = Instant(now + self.random.choice([0, 0, 0, 40_000_000, 400_000_000])) if future else now
        lasts = self.random.choice([None, 30_000_000, 300_000_000])
        return GrantTerms(
            amount=amount,
            kind=self.random.choice(list(GrantKind)),
            priority=self.random.randint(0, 2),
            effective_at=effective_at,
            expires_at=None if lasts is None else Instant(effective_at + lasts),
            cost_basis=self.random.choice([None, 0, 100_000, 123_457]),
            reference=None,
            metadata={},
        )

    async def grant(self, transaction: Transaction, user: str) -> bool:
        book = await open_book_of_user(transaction, self.ledger, user, self.clock.now())
        book.grant(self._terms(self._amount(), future=True))
        await book.close()
        return True

    async def start(self, transaction: Transaction, user: str) -> bool:
        book = await open_book_of_user(transaction, self.ledger, user, self.clock.now())
        amount = MicroCredits(max(0, book.account.available) * self.random.randint(1, 100) // 100)
        if not amount:
            await book.close()
            return False
        session_id = self.ledger.ids.new()
        await transaction.execute(
            insert(sessions).values(
                account_id=book.account_id,
                id=session_id,
                persona="tutor",
                scenario="talk",
                metadata={},
                state="live",
                rate_card_id=select(rate_cards.c.id).limit(1).scalar_subquery(),
                time_limit=60_000_000,
                authorized=amount,
                accrued=0,
                anomalies=[],
                requested_at=book.now,
                steps=1,
                attempts=0,
            )
        )
        book.account.hold(session_id, amount)
        await book.close()
        self._sessions.setdefault(user, []).append(session_id)
        return True

    async def _of_session(
        self, transaction: Transaction, user: str, work: Callable[[Book, UUID], bool], *, correcting: bool = False
    ) -> bool:
        known = self._sessions.get(user)
        if not known:
            return False
        session_id = self.random.choice(known)
        book = await open_book(
            transaction,
            self.ledger,
            account_id_of(user),
            self.clock.now(),
            [session_id],
            correcting=session_id if correcting else None,
        )
        assert book is not None
        worked = work(book, session_id)
        await book.close()
        return worked

    async def lower(self, transaction: Transaction, user: str) -> bool:
        def work(book: Book, session_id: UUID) -> bool:
            before = book.account.held
            book.account.lower_hold(session_id, self._amount())
            return book.account.held < before

        return await self._of_session(transaction, user, work)

    async def release(self, transaction: Transaction, user: str) -> bool:
        def work(book: Book, session_id: UUID) -> bool:
            before = book.account.held
            book.account.release(session_id)
            return book.account.held < before

        return await self._of_session(transaction, user, work)

    async def settle(self, transaction: Transaction, user: str) -> bool:
        def work(book: Book, session_id: UUID) -> bool:
            hold = book.account.holds[session_id]
            if hold.state != "active" or not hold.amount:
                return False
            amount = MicroCredits(self.random.randint(1, hold.amount))
            book.account.settle(session_id, amount, b"evidence")
            return True

        return await self._of_session(transaction, user, work)

    def _correction(self, kind: EntryKind, session_id: UUID) -> Correction:
        natural_key = f"{kind}:{session_id}:{self._steps}"
        return Correction(kind=kind, natural_key=natural_key, reason="because", session_id=session_id)

    async def _give_back(self, transaction: Transaction, user: str, kind: EntryKind) -> bool:
        def work(book: Book, session_id: UUID) -> bool:
            left = sum(debit.left for debit in book.debits)
            if not left:
                return False
            amount = MicroCredits(left if self.random.random() < 0.4 else self.random.randint(1, left))
            why = self._correction(kind, session_id)
            give_back(
                book.account,
                book.debits,
                amount,
                why,
                now=book.now,
                goodwill=lambda lost: book.new_grant(self._terms(lost), GrantState.ACTIVE),
            )
            return True

        return await self._of_session(transaction, user, work, correcting=True)

    async def refund(self, transaction: Transaction, user: str) -> bool:
        return await self._give_back(transaction, user, EntryKind.REFUND)

    async def charge_less(self, transaction: Transaction, user: str) -> bool:
        return await self._give_back(transaction, user, EntryKind.RERATE)

    async def charge_more(self, transaction: Transaction, user: str) -> bool:
        def work(book: Book, session_id: UUID) -> bool:
            if not book.debits:
                return False
            drawn = charge_more(book.account, self._amount(), self._correction(EntryKind.RERATE, session_id), None)
            return drawn.amount > 0

        return await self._of_session(transaction, user, work, correcting=True)

    async def void(self, transaction: Transaction, user: str) -> bool:
        book = await open_book_of_user(transaction, self.ledger, user, self.clock.now())
        open_grants = [grant.id for grant in book.account.grants.values() if not grant.closed and grant.remaining]
        if open_grants:
            book.account.void(self.random.choice(open_grants), "because")
        await book.close()
        return bool(open_grants)

    async def adjust_up(self, transaction: Transaction, user: str) -> bool:
        book = await open_book_of_user(transaction, self.ledger, user, self.clock.now())
        grant, document = book.new_grant(self._terms(self._amount()), GrantState.ACTIVE)
        adjust_up(book.account, grant, document, cause=str(grant.id), reason="because")
        await book.close()
        return True

    async def adjust_down(self, transaction: Transaction, user: str) -> bool:
        book = await open_book_of_user(transaction, self.ledger, user, self.clock.now())
        below = self.random.random() < 0.3
        missing = adjust_down(
            book.account, self._amount(), cause=str(self._steps), reason="because", allow_below_floor=below
        )
        await book.close()
        return not missing

    async def limit(self, transaction: Transaction, user: str) -> bool:
        book = await open_book_of_user(transaction, self.ledger, user, self.clock.now())
        book.change_credit_limit(MicroCredits(self.random.choice([0, 5_000_000, 30_000_000])), "because")
        await book.close()
        return True
