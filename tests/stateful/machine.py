"""The machine: rules that are one real transaction each, and the same done to the model; after each, both are compared.

A run has a user of its own and plays ten days before the runs that came before it, so that nothing of theirs is ever
due in it.
"""

import asyncio
import copy
import itertools
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, TypeVar
from uuid import UUID, uuid4

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import insert

from app.accounts.balances import balance_document, past_balance_document
from app.accounts.corrections import AdjustmentDocument, VoidDocument, adjust, void_grant
from app.accounts.grants import GrantDocument, give
from app.accounts.limits import UserChangesDocument, change_user
from app.core.access import Actor
from app.core.ids import AccountThing, Kind, account_id_of, parse_public_id
from app.core.lifecycle import State
from app.core.lossless_json import loads
from app.core.rate_card import DEFAULT_RATE_CARD
from app.core.units import US_PER_DAY, US_PER_S, Instant, MicroCredits, Micros, format_credits, format_instant
from app.db.database import Database, Transaction
from app.db.tables import ticks
from app.documents import AnyDocument, decode, validate
from app.errors import Problem
from app.gabber import PulledTimeline
from app.ledger.book import Book, LedgerPorts
from app.ledger.due import post_due
from app.ledger.keys import LedgerKeys
from app.ledger.opening import open_book, open_book_of_user
from app.pricing.cards import ensure_default_card, publish
from app.pricing.thresholds import CardThresholds
from app.sessions.records import Session as StoredSession
from app.sessions.records import insert_session, load_session, take_step
from app.settlement.charges import post_charge
from app.settlement.corrections import (
    Correcting,
    RefundDocument,
    RerateDocument,
    refund,
    rerate,
)
from app.settlement.evidence import load_evidence
from app.settlement.reviews import ReviewDocument, decide_review
from app.timelines.snapshots import add_snapshot
from tests.stateful.model import Entry, Lot, Model, Refused, Session
from tests.stateful.stored import expected, read
from tests.support.clock import ManualClock

T = TypeVar("T")

APART: Final = 10 * US_PER_DAY
GOODWILL: Final = Micros(30 * US_PER_S)
WHY: Final = {"reason": "a test"}
ACTOR: Final = Actor("a test")
FACTORS: Final = (0, 1, 2, 3, 5)
"""Cards at so many micro-credits a microsecond of speech."""


class CountedIds:
    """Ids in the order of their making, so that the same history is the same again to the last tie."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def new(self) -> UUID:
        return UUID(int=7 << 76 | 2 << 62 | next(self._numbers))


@dataclass
class Stage:
    """What all runs of a process share: the database, the clock that only runs move, and what was done."""

    database: Database
    ledger: LedgerPorts
    clock: ManualClock
    runner: asyncio.Runner
    cards: dict[int, UUID] = field(default_factory=dict)
    runs: int = 0
    steps: int = 0
    whole_runs: int = 0
    """Runs that reached the number of steps asked for."""
    done: Counter[str] = field(default_factory=Counter)

    @classmethod
    def on(cls, url: str, keys: LedgerKeys, clock: ManualClock, runner: asyncio.Runner) -> "Stage":
        ledger = LedgerPorts(keys, CountedIds(), CardThresholds(Micros(60 * US_PER_S)))
        stage = cls(Database(url, pool_size=1), ledger, clock, runner)
        stage.run(stage._publish_cards())
        return stage

    def begin(self) -> None:
        """Count anew."""
        self.steps = self.whole_runs = 0
        self.done.clear()

    def run(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        return self.runner.run(awaited())

    async def _publish_cards(self) -> None:
        async with self.database.transaction() as transaction:
            await ensure_default_card(transaction, self.ledger.ids, self.clock.now())
        for factor in FACTORS:
            rate = MicroCredits(60 * US_PER_S * factor)
            card = replace(DEFAULT_RATE_CARD, name=f"times-{factor}", user_rate=rate, agent_rate=rate)
            async with self.database.transaction() as transaction:
                stored = await publish(
                    transaction,
                    self.ledger.ids,
                    self.clock.now(),
                    card,
                    effective_at=Instant(0),
                    match_persona=None,
                    match_scenario=None,
                )
                self.cards[factor] = stored.id


amounts = st.one_of(st.integers(1, 6), st.integers(1, 120))
shares = st.one_of(st.just(100), st.integers(1, 8), st.integers(1, 60))
"""Percent; small ones leave grants held in part."""
numbers = st.integers(0, 30)


class Histories(RuleBasedStateMachine):
    """One run; its :attr:`stage` is set by whoever runs it."""

    stage: ClassVar[Stage]
    step_count: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        stage = self.stage
        stage.runs += 1
        self.model = Model()
        self.model.now = ManualClock().now() - stage.runs * APART
        self.user = f"user-{uuid4().hex[:16]}"
        self.account_id = account_id_of(self.user)
        self.asked: list[tuple[dict[str, Any], UUID]] = []
        self.instants: list[int] = [self.model.now]
        self.compared = 0
        self.touched = False
        self.steps = 0

    def teardown(self) -> None:
        self.stage.steps += self.steps
        self.stage.whole_runs += self.steps >= self.step_count
        if self.exists and not self.touched:
            self.stage.run(self._compare_the_past(list(dict.fromkeys(self.instants))[::2]))

    # One step

    @property
    def now(self) -> Instant:
        return Instant(self.model.now)

    @property
    def exists(self) -> bool:
        return bool(self.model.lots or self.model.sessions or self.model.booked is not None)

    def both(
        self,
        name: str,
        work: Callable[[Transaction], Awaitable[T]],
        same: Callable[[Model], Any],
        *,
        lot: Lot | None = None,
    ) -> tuple[T | None, Any]:
        """Do ``work`` in a transaction and ``same`` to the model; what one refuses the other does, with the same code.

        ``lot``: what the id that ``work`` answers is given to, before the model goes on.
        """
        self.touched = True
        self.stage.clock.set(self.now)
        answered, code = self.stage.run(self._transact(work))
        if lot is not None and isinstance(answered, UUID):
            lot.id = answered
        before = copy.deepcopy(self.model)
        told: Any = None
        refused: str | None = None
        try:
            self.model.begin()
            told = same(self.model)
            self.model.end()
        except Refused as refusal:
            self.model, refused = before, str(refusal)
        assert code == refused, f"{name}: the ledger says {code}, the model {refused}"
        self._did(name if code is None else f"{name}: {code}")
        return answered, told

    async def _transact(self, work: Callable[[Transaction], Awaitable[T]]) -> tuple[T | None, str | None]:
        try:
            async with self.stage.database.transaction() as transaction:
                return await work(transaction), None
        except Problem as problem:
            return None, problem.code

    def _did(self, name: str) -> None:
        self.stage.done[name] += 1
        self.touched = True

    @invariant()
    def what_is_stored_is_what_the_model_says(self) -> None:
        self.steps += 1
        if self.touched and self.exists:
            self.stage.run(self._compare())
        self.touched = False

    async def _compare(self) -> None:
        async with self.stage.database.reading() as transaction:
            stored = await read(transaction, self.account_id, self.compared)
        wanted = expected(self.model, self.compared)
        for name in ("entries", "lots", "sessions", "account"):
            found, right = getattr(stored, name), getattr(wanted, name)
            assert found == right, f"{name}:\n  stored {found}\n  model  {right}"
        self._note(wanted.entries)
        self.compared = len(self.model.entries)
        if self.model.known:
            self.instants.append(self.model.known[-1][0])

    def _note(self, posted: Sequence[Entry]) -> None:
        """What came about that no rule does by itself."""
        model, done = self.model, self.stage.done
        done["debt"] += model.debt > 0
        done["debt beyond the limit"] += model.debt > model.limit > 0
        done["limit under the debt"] += 0 <= model.limit < model.debt
        for entry in posted:
            done["expiry"] += entry.kind == "expiry"
            done["repayment"] += entry.kind == "repayment"
            given = entry.kind in {"refund", "rerate"} and entry.lot is not None
            done["goodwill"] += given
            done["goodwill that repays debt"] += given and any(amount > 0 for *_, amount in entry.paid_by)
            done["void of what came back"] += entry.kind == "void" and entry.session is not None
        swept = {entry.lot for entry in posted if entry.session is None}
        for lot in model.lots:
            if lot.remaining and lot.id in swept and lot.state in {"expired", "voided"}:
                done[f"{'void' if lot.state == 'voided' else 'expiry'} while partly held"] += 1
        done["settled after release"] += any(
            session.state == "settled" and session.hold_state == "released" and session.gross
            for session in model.sessions
        )

    async def _compare_the_past(self, instants: Any) -> None:
        now = Instant(max(self.model.now, *instants))
        async with self.stage.database.reading() as transaction:
            for at in instants:
                past = await past_balance_document(transaction, self.user, Instant(at), now)
                balance, held, limit = self.model.at(at)
                told = {"balance": balance, "held": held, "credit_limit": limit, "available": balance + limit - held}
                wanted = {name: format_credits(MicroCredits(amount)) for name, amount in told.items()}
                assert {name: past[name] for name in wanted} == wanted, f"as of {at}"

    @initialize(
        limit=st.sampled_from([0, 20, 60, 150, 150]),
        first=amounts,
        second=amounts,
        lasts=st.sampled_from([1, 6, 30]),
        share=shares,
    )
    def open_the_account(self, limit: int, first: int, second: int, lasts: int, share: int) -> None:
        """Most histories begin with something to lose and something to owe."""
        self.change_limit(limit)
        self.give(first, "paid", 50, 0, None, True)
        self.give(second, "promotional", 50, 0, lasts, False)
        self.start(share, 2)

    # Time

    @rule(by=st.sampled_from([1, 1, 2, 5, 20, 60]))
    def let_time_pass(self, by: int) -> None:
        self.model.now += by * US_PER_S

    @rule(by=st.sampled_from([1, 4, 25]))
    def let_the_clock_jump_back(self, by: int) -> None:
        self.model.now -= by * US_PER_S
        self.stage.done["jump back"] += 1

    @precondition(lambda self: self.exists)
    @rule()
    def post_what_is_due(self) -> None:
        """The job. It does not look at credits that are held, unless it opens the account for something else."""
        self.touched = True
        self.stage.clock.set(self.now)
        self.model.run_job()
        self.stage.run(post_due(self.stage.database, self.stage.ledger, self.now))
        self._did("post due")

    @precondition(lambda self: self.exists)
    @rule()
    def look(self) -> None:
        """What readers see now is what a transaction would find, though nothing is posted."""
        seen = copy.deepcopy(self.model)
        seen.begin()

        async def balance() -> dict[str, Any]:
            async with self.stage.database.reading() as transaction:
                return await balance_document(transaction, self.user, self.now, Micros(3600 * US_PER_S), None)

        found = self.stage.run(balance())
        told = {"balance": seen.balance, "held": seen.held, "available": seen.available, "credit_limit": seen.limit}
        assert {name: found[name] for name in told} == {
            name: format_credits(MicroCredits(amount)) for name, amount in told.items()
        }
        self._did("look")

    # Grants

    @rule(
        amount=amounts,
        kind=st.sampled_from(["paid", "promotional"]),
        priority=st.integers(49, 51),
        effective_in=st.sampled_from([-5, 0, 0, 0, 3, 20]),
        lasts=st.sampled_from([None, 1, 4, 6, 20, 30]),
        by_reference=st.booleans(),
    )
    def give(
        self, amount: int, kind: str, priority: int, effective_in: int, lasts: int | None, by_reference: bool
    ) -> None:
        effective = self.now + effective_in * US_PER_S
        expires = None if lasts is None else max(self.now, effective) + lasts * US_PER_S
        asked = {
            "amount": format_credits(MicroCredits(amount)),
            "kind": kind,
            "priority": priority,
            "effective_at": format_instant(Instant(effective)),
            "expires_at": None if expires is None else format_instant(Instant(expires)),
            "reference": f"reference-{len(self.asked)}" if by_reference else None,
        }
        lot = Lot(
            id=UUID(int=0),
            paid=kind == "paid",
            priority=priority,
            amount=amount,
            effective=effective,
            expires=expires,
            created=self.now,
            remaining=amount,
        )
        self.both("grant", self._give(asked), lambda model: model.give(lot), lot=lot)
        if by_reference:
            self.asked.append((asked, lot.id))

    def _give(self, asked: dict[str, Any]) -> Callable[[Transaction], Awaitable[UUID]]:
        async def work(transaction: Transaction) -> UUID:
            order = document(GrantDocument, asked)
            given, _ = await give(transaction, self.stage.ledger, self.user, order, self.now, ACTOR)
            return _id(Kind.GRANT, given["id"])

        return work

    @precondition(lambda self: self.asked)
    @rule(number=numbers)
    def give_again(self, number: int) -> None:
        """By its reference: the same grant, and nothing happens, even if something is due or it has expired."""
        asked, lot = self.asked[number % len(self.asked)]
        self.stage.clock.set(self.now)
        found, code = self.stage.run(self._transact(self._give(asked)))
        assert (found, code) == (lot, None)  # even if it has expired meanwhile
        self._did("grant again")

    @precondition(lambda self: self.model.lots)
    @rule(number=numbers)
    def void(self, number: int) -> None:
        number %= len(self.model.lots)
        key = AccountThing(self.account_id, self.model.lots[number].id)

        async def work(transaction: Transaction) -> str:
            order = document(VoidDocument, WHY)
            return str((await void_grant(transaction, self.stage.ledger, key, order, self.now, ACTOR))["voided"])

        voided, told = self.both("void", work, lambda model: model.void(model.lots[number]))
        assert voided == (None if told is None else format_credits(MicroCredits(told)))

    # By hand

    def _adjust(self, amount: int, *, below_floor: bool = False) -> Callable[[Transaction], Awaitable[dict[str, Any]]]:
        async def work(transaction: Transaction) -> dict[str, Any]:
            asked = {**WHY, "amount": format_credits(MicroCredits(amount)), "allow_below_floor": below_floor}
            return await adjust(
                transaction,
                self.stage.ledger,
                self.user,
                document(AdjustmentDocument, asked),
                now=self.now,
                cause=uuid4().hex,
                actor=ACTOR,
            )

        return work

    @rule(amount=amounts)
    def adjust_up(self, amount: int) -> None:
        lot = self._by_hand(amount, None)

        async def work(transaction: Transaction) -> UUID:
            return _id(Kind.GRANT, (await self._adjust(amount)(transaction))["grant_id"])

        self.both("adjust up", work, lambda model: model.give(lot, "adjustment"), lot=lot)

    @rule(amount=amounts, below_floor=st.sampled_from([False, False, False, True]))
    def adjust_down(self, amount: int, below_floor: bool) -> None:
        self.both(
            "adjust down",
            self._adjust(-amount, below_floor=below_floor),
            lambda model: model.adjust_down(amount, below_floor=below_floor),
        )

    def _by_hand(self, amount: int, lasts: int | None) -> Lot:
        return Lot(
            id=UUID(int=0),
            paid=False,
            priority=50,
            amount=amount,
            effective=self.now,
            expires=None if lasts is None else self.now + lasts,
            created=self.now,
            remaining=amount,
        )

    @rule(limit=st.sampled_from([0, 10, 40, 150, 150]))
    def change_limit(self, limit: int) -> None:
        async def work(transaction: Transaction) -> None:
            asked = document(UserChangesDocument, {"credit_limit": format_credits(MicroCredits(limit))})
            await change_user(
                transaction,
                self.stage.ledger,
                self.user,
                asked,
                now=self.now,
                shortest=Micros(0),
                actor=ACTOR,
            )

        if self.exists or limit:
            self.both("limit", work, lambda model: model.change_limit(limit))

    # Sessions

    @rule(share=shares, factor=st.sampled_from(FACTORS[1:]))
    def start(self, share: int, factor: int) -> None:
        """Hold some of what is available, up to all of it."""
        looked = copy.deepcopy(self.model)
        looked.begin()
        amount = max(0, looked.available) * share // 100
        if not amount:
            self.adjust_up(max(1, share))
            return
        session_id = uuid4()

        async def work(transaction: Transaction) -> None:
            book = await open_book_of_user(transaction, self.stage.ledger, self.user, self.now)
            await insert_session(transaction, self._stored(session_id, amount, factor), None, "a test")
            book.account.hold(session_id, MicroCredits(amount))
            await book.close()

        def same(model: Model) -> None:
            model.hold(Session(session_id, "starting", amount, cards=[factor]))

        self.both("start", work, same)

    def _stored(self, session_id: UUID, amount: int, factor: int) -> StoredSession:
        return StoredSession(
            account_id=self.account_id,
            id=session_id,
            provider_session_id=None,
            persona="tutor",
            scenario="talk",
            metadata={},
            state=State.STARTING,
            rate_card_id=self.stage.cards[factor],
            charge_from=None,
            time_limit=Micros(600 * US_PER_S),
            authorized=MicroCredits(amount),
            accrued=MicroCredits(0),
            charged=None,
            leakage=None,
            written_off=False,
            anomalies=[],
            requested_at=self.now,
            started_at=None,
            over_at=None,
            settled_at=None,
            steps=1,
            due_at=None,
            lease_token=None,
            lease_until=None,
            attempts=0,
        )

    def _pick(self, number: int, *states: str) -> int | None:
        """The place of a session in one of these states; null if there is none."""
        found = [n for n, session in enumerate(self.model.sessions) if not states or session.state in states]
        return found[number % len(found)] if found else None

    def _on_session(
        self, place: int, work: Callable[[Transaction, Book, StoredSession], Awaitable[T]]
    ) -> Callable[[Transaction], Awaitable[T]]:
        """``work`` on the open book and the locked session, as reconciliation does it."""

        async def on_book(transaction: Transaction) -> T:
            key = AccountThing(self.account_id, self.model.sessions[place].id)
            book = await open_book(transaction, self.stage.ledger, self.account_id, self.now, [key.id])
            session = await load_session(transaction, key, lock=True)
            assert book is not None
            assert session is not None
            return await work(transaction, book, session)

        return on_book

    @precondition(lambda self: self.model.sessions)
    @rule(number=numbers, target_amount=st.one_of(st.integers(0, 5), st.integers(0, 120)))
    def lower(self, number: int, target_amount: int) -> None:
        place = number % len(self.model.sessions)

        async def work(_: Transaction, book: Book, session: StoredSession) -> None:
            book.account.lower_hold(session.id, MicroCredits(target_amount))
            await book.close()

        def same(model: Model) -> None:
            model.lower(model.sessions[place], target_amount)

        self.both("lower", self._on_session(place, work), same)

    @precondition(lambda self: self._pick(0, "starting") is not None)
    @rule(number=numbers)
    def fail(self, number: int) -> None:
        place = self._pick(number, "starting")
        assert place is not None

        async def work(transaction: Transaction, book: Book, session: StoredSession) -> None:
            book.account.release(session.id)
            await take_step(transaction, session, State.FAILED, "a test", self.now)
            await book.close()

        def same(model: Model) -> None:
            model.sessions[place].state = "failed"
            model.release(model.sessions[place])

        self.both("fail", self._on_session(place, work), same)

    @precondition(lambda self: self._pick(0, "failed", "settled", "review") is not None)
    @rule(number=numbers)
    def release_again(self, number: int) -> None:
        """What is resolved stays as it is."""
        place = self._pick(number, "failed", "settled", "review")
        assert place is not None

        async def work(_: Transaction, book: Book, session: StoredSession) -> None:
            book.account.release(session.id)
            await book.close()

        def same(model: Model) -> None:
            model.release(model.sessions[place])

        self.both("release again", self._on_session(place, work), same)

    @rule(share=shares, factor=st.sampled_from(FACTORS[1:]), speech=st.integers(1, 120))
    def talk(self, share: int, factor: int, speech: int) -> None:
        """Start and settle."""
        self.start(share, factor)
        if self._pick(0, "starting") is not None:
            self.settle(-1, speech)

    @precondition(lambda self: self._pick(0, "starting", "failed") is not None)
    @rule(number=numbers, how=st.sampled_from(["refund", "rerate", "decide"]))
    def correct_too_early(self, number: int, how: str) -> None:
        place = self._pick(number, "starting", "failed")
        assert place is not None
        if how == "refund":
            self._refund(place, 1)
        elif how == "rerate":
            self._rerate(place, 1)
        else:
            self._decide(place, "settle")

    async def _evidence(self, transaction: Transaction, session: StoredSession, speech: int) -> None:
        """The session's only pull, a second after its start, and a heartbeat: ``speech`` microseconds of the agent."""
        heard = Instant(session.requested_at + US_PER_S)
        values = loads(f'[{{"type":"agent","seconds":0.{speech:06}}}]')
        assert isinstance(values, list)
        key = {"account_id": session.account_id, "session_id": session.id}
        await transaction.execute(insert(ticks).values(**key, received_at=heard, id=1, extra=None))
        pulled = PulledTimeline(requested_at=heard, received_at=heard, values=tuple(values))
        await add_snapshot(transaction, session.key, pulled, [])

    @precondition(lambda self: self._pick(0, "starting") is not None)
    @rule(number=numbers, speech=st.one_of(st.integers(0, 10), st.integers(0, 120)))
    def settle(self, number: int, speech: int) -> None:
        place = self._pick(number, "starting")
        assert place is not None

        async def work(transaction: Transaction, book: Book, session: StoredSession) -> None:
            await self._evidence(transaction, session, speech)
            for state in (State.LIVE, State.OVER):
                await take_step(transaction, session, state, "a test", self.now)
                session = replace(session, state=state, steps=session.steps + 1)
            stored = await load_evidence(transaction, session, interim=False)
            posted = await post_charge(transaction, book, session, stored, "a test")
            await posted.store(transaction, await book.close())

        def same(model: Model) -> None:
            session = model.sessions[place]
            session.speech = speech
            model.settle(session, speech * session.cards[0])

        self.both("settle", self._on_session(place, work), same)

    @precondition(lambda self: self._pick(0, "starting") is not None)
    @rule(number=numbers, speech=st.integers(0, 120), released=st.booleans())
    def review(self, number: int, speech: int, released: bool) -> None:
        place = self._pick(number, "starting")
        assert place is not None

        async def work(transaction: Transaction, book: Book, session: StoredSession) -> None:
            await self._evidence(transaction, session, speech)
            for state in (State.LIVE, State.REVIEW):
                await take_step(transaction, session, state, "a test", self.now)
                session = replace(session, state=state, steps=session.steps + 1)
            if released:
                book.account.release(session.id)
            await book.close()

        def same(model: Model) -> None:
            session = model.sessions[place]
            session.state, session.speech = "review", speech
            if released:
                model.release(session)

        self.both("review", self._on_session(place, work), same)

    @precondition(lambda self: self._pick(0, "review") is not None)
    @rule(number=numbers, action=st.sampled_from(["settle", "settle", "write_off"]))
    def decide(self, number: int, action: str) -> None:
        place = self._pick(number, "review")
        assert place is not None
        self._decide(place, action)

    def _decide(self, place: int, action: str) -> None:
        key = AccountThing(self.account_id, self.model.sessions[place].id)

        async def work(transaction: Transaction) -> None:
            await decide_review(transaction, key, document(ReviewDocument, {**WHY, "action": action}), self._by())

        def same(model: Model) -> None:
            session = model.sessions[place]
            if session.state != "review":
                raise Refused("session-not-in-review")
            model.settle(session, session.speech * session.cards[0] if action == "settle" else 0)
            session.written_off = action == "write_off"

        self.both(f"decide: {action}", work, same)

    # Corrections of charges

    def _by(self) -> Correcting:
        return Correcting(
            ledger=self.stage.ledger,
            now=self.now,
            cause=uuid4().hex,
            actor=ACTOR,
            goodwill=GOODWILL,
            rerate_window=Micros(365 * US_PER_DAY),
        )

    def _correct(
        self,
        name: str,
        work: Callable[[Transaction], Awaitable[dict[str, Any]]],
        do: Callable[[Model, Lot], bool | None],
    ) -> None:
        """A correction may open a grant of goodwill."""
        goodwill = self._by_hand(0, GOODWILL)

        made: list[UUID] = []

        async def noted(transaction: Transaction) -> UUID | None:
            grant = (await work(transaction))["goodwill_grant_id"]
            made.extend([] if grant is None else [_id(Kind.GRANT, grant)])
            return made[0] if made else None

        _, told = self.both(name, noted, lambda model: do(model, goodwill), lot=goodwill)
        assert bool(made) == bool(told)

    @precondition(lambda self: self._pick(0, "settled") is not None)
    @rule(number=numbers, share=st.one_of(st.none(), shares, st.just(130)))
    def refund(self, number: int, share: int | None) -> None:
        """Some of what is left, all of it (null), or more than that."""
        place = self._pick(number, "settled")
        assert place is not None
        self._refund(place, share)

    def _refund(self, place: int, share: int | None) -> None:
        session = self.model.sessions[place]
        left = sum(debit.left for debit in session.debits)
        amount = left if share is None else max(1, left * share // 100)
        asked = document(
            RefundDocument, WHY if share is None else {**WHY, "amount": format_credits(MicroCredits(amount))}
        )
        key = AccountThing(self.account_id, session.id)

        async def work(transaction: Transaction) -> dict[str, Any]:
            return await refund(transaction, key, asked, self._by())

        def do(model: Model, goodwill: Lot) -> bool:
            if model.sessions[place].state != "settled":
                raise Refused("session-not-settled")
            # What is due may have repaid a part: that changes where it goes, not how much is left.
            if not amount:
                raise Refused("refund-exceeds-charge")
            return model.give_back(model.sessions[place], amount, "refund", goodwill)

        self._correct("refund", work, do)

    @precondition(lambda self: self._pick(0, "settled") is not None)
    @rule(number=numbers, factor=st.sampled_from(FACTORS))
    def rerate(self, number: int, factor: int) -> None:
        place = self._pick(number, "settled")
        assert place is not None
        self._rerate(place, factor)

    def _rerate(self, place: int, factor: int) -> None:
        key = AccountThing(self.account_id, self.model.sessions[place].id)
        asked = document(RerateDocument, {**WHY, "rate_card": f"times-{factor}"})

        async def work(transaction: Transaction) -> dict[str, Any]:
            return await rerate(transaction, key, asked, self._by())

        def do(model: Model, goodwill: Lot) -> bool | None:
            if model.sessions[place].state != "settled":
                raise Refused("session-not-settled")
            return model.rerate(model.sessions[place], factor, goodwill)

        self._correct("rerate", work, do)


def document(kind: type[AnyDocument], fields: dict[str, Any]) -> AnyDocument:
    """A document as it comes over the wire."""
    return validate(kind, decode(json.dumps(fields).encode()))


def _id(kind: Kind, public: str) -> UUID:
    key = parse_public_id(kind, public)
    assert key is not None
    return key.id
