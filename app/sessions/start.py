"""Starting a session: gate, hold, provider call, confirm or release.

*Before the call* one transaction locks the account, sizes the session, and commits attempt, hold and idempotency key.
*The call* is outside any transaction. *After it* a second transaction takes the step that the outcome asks for. A crash
in between leaves a session in ``starting``, which reconciliation finds.

A session that is *adopted* is started by the customer's own backend: the first transaction is all there is, and its
answer holds the webhook that the customer hands to the provider. It is ``unconfirmed`` from the beginning, as a start
whose outcome nobody knows: a first heartbeat makes it ``live``, or time makes it ``failed``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import Row

from app.budget import provider_busy
from app.core.access import Actor
from app.core.budget import NotNow, Purpose
from app.core.gate import Admitted, NotCovered, admit
from app.core.ids import AccountThing, account_id_of
from app.core.lifecycle import RECONCILED, State
from app.core.lossless_json import dumps, loads
from app.core.spending import Spending
from app.core.units import US_PER_S, Instant, MicroCredits, Micros, format_credits, seconds
from app.db.database import Database, Transaction
from app.errors import (
    IDEMPOTENCY_IN_FLIGHT,
    INSUFFICIENT_CREDITS,
    PROVIDER_UNCONFIRMED,
    Problem,
    invalid,
)
from app.events.outbox import EventType
from app.gabber import Gabber, Refused, Started, StartRequest, Unconfirmed
from app.http.answers import Answer, problem_document
from app.http.idempotency import (
    PURGED,
    REPLAYED,
    SEALED_FOR,
    STORED_REFUSALS,
    IdempotencyKey,
    claim,
    claimed,
    complete,
    keyed_transaction,
    stored_answer,
)
from app.http.sealing import seal, unseal
from app.keys import KeyRing
from app.ledger.audit import Audit
from app.ledger.book import Book, LedgerPorts
from app.ledger.opening import open_book, open_book_of_user
from app.ports.clock import Clock
from app.ports.ids import Ids
from app.ports.permits import Permits
from app.ports.randomness import Randomness
from app.pricing.cards import StoredCard, choose_card, find_card
from app.sessions.documents import session_document
from app.sessions.limits import check_account, spend_limit_reached, spending
from app.sessions.records import (
    STEP_EVENTS,
    Session,
    change_session,
    insert_session,
    is_bound,
    load_session,
    take_step,
)
from app.sessions.refusals import failure_problem, refusal_problem, why_refused
from app.sessions.tokens import WebhookTokens

STARTING_MARGIN: Final = Micros(30 * US_PER_S)
"""A start whose outcome was not written so long after the provider's time-out was cut off: it is unconfirmed."""

ADOPTED: Final = "asked for, to be started by the customer's backend"
"""Why an adopted session takes its first step."""

MAX_REASON: Final = 500
_PROVEN: Final = frozenset({State.LIVE, State.OVER, State.SETTLED, State.REVIEW})
"""States that a session only comes into by a heartbeat, or by the provider's word."""

_OVERTAKEN: Final = 2
"""Steps of a session that a heartbeat made live before its start was answered: starting, live."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOrder:
    """A session as it is asked for. ``time_limit`` null: as long as the account and the service allow.

    ``adopted``: the customer's own backend starts it at the provider.
    """

    user_id: str
    persona: str
    scenario: str
    time_limit: Micros | None
    rate_card: str | None
    metadata: Any
    adopted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StartLimits:
    """The service's settings for starts."""

    shortest: Micros
    longest: Micros
    provider_timeout: Micros
    unconfirmed_ttl: Micros
    reconcile_interval: Micros
    review_after: Micros
    webhook_base: str


class Starts:
    """The use case; see the module."""

    def __init__(
        self,
        *,
        database: Database,
        ledger: LedgerPorts,
        gabber: Gabber,
        permits: Permits,
        clock: Clock,
        ids: Ids,
        randomness: Randomness,
        tokens: WebhookTokens,
        sealing: KeyRing,
        limits: StartLimits,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._gabber = gabber
        self._permits = permits
        self._clock = clock
        self._ids = ids
        self._randomness = randomness
        self._tokens = tokens
        self._sealing = sealing
        self._limits = limits

    async def start(self, order: StartOrder, key: IdempotencyKey | None, actor: Actor) -> Answer:
        """Start a session: 201 with its connection, which no other answer holds; an adopted one: with its webhook.

        Raises a :class:`~app.errors.Problem`: 402 ``insufficient-credits``, 409, 422 (``persona-not-accepted`` among
        them), 502 ``provider-refused``, 503 ``provider-busy`` before anything is written, 504 ``provider-unconfirmed``.
        """
        if order.time_limit is not None and order.time_limit < self._limits.shortest:
            raise invalid("/time_limit_s", f"must be at least {seconds(self._limits.shortest)} seconds")
        permit = None if order.adopted else await self._permits.reserve(Purpose.START)
        if isinstance(permit, NotNow):
            return await self._turn_away(order, key, permit)
        asking = False
        try:
            prepared = await self._prepare(order, key, actor)
            asking = not isinstance(prepared, Answer)
        finally:
            if permit is not None and not asking:
                self._permits.give_back(permit)
        if isinstance(prepared, Answer):
            return prepared
        outcome = await self._gabber.start(
            StartRequest(
                persona=order.persona,
                scenario=order.scenario,
                time_limit_s=prepared.time_limit // US_PER_S,
                webhook=self._webhook(prepared),
            ),
            permit,
        )
        return await self._conclude(prepared.key, outcome, key)

    async def _turn_away(self, order: StartOrder, key: IdempotencyKey | None, refused: NotNow) -> Answer:
        """There is no permit: nothing is written, and the key stays unused. What it was used for is answered again."""
        if key is not None:
            account_id = account_id_of(order.user_id)
            async with self._database.reading() as transaction:
                row = await claimed(transaction, account_id, key)
                if row is not None:
                    return await self._earlier_answer(transaction, row, key, account_id, self._clock.now())
        raise provider_busy(refused)

    def _webhook(self, session: Session) -> str:
        return f"{self._limits.webhook_base}{self._tokens.mint(session.key)}"

    # Before the call

    async def _prepare(self, order: StartOrder, key: IdempotencyKey | None, actor: Actor) -> Session | Answer:
        """Commit the attempt and its hold; or the answer that an earlier request with this key was given."""
        account_id = account_id_of(order.user_id)
        refusal: Problem | None = None
        async with keyed_transaction(self._database, account_id, key) as transaction:
            now = self._clock.now()
            session_id = self._ids.new()
            if key is not None:
                row = await claim(transaction, account_id, key, now, session_id)
                if row is not None:
                    return await self._earlier_answer(transaction, row, key, account_id, now)
            try:
                async with transaction.begin_nested():
                    session = await self._admit(transaction, order, key, session_id, now, actor)
            except Problem as problem:
                if problem.status not in STORED_REFUSALS:
                    raise
                refusal = problem
                if key is not None:
                    await complete(transaction, account_id, key, Answer(problem.status, problem_document(problem)))
            else:
                if order.adopted:
                    return await self._hand_over(transaction, session, key)
        if refusal is not None:
            raise refusal
        return session

    async def _hand_over(self, transaction: Transaction, session: Session, key: IdempotencyKey | None) -> Answer:
        """The answer of an adopted session: what the customer has to tell the provider."""
        content = {"session": await session_document(transaction, session), "connection_details": None, "webhook": None}
        webhook = self._webhook(session)
        if key is not None:
            sealed = seal(self._sealing, key.raw, dumps(webhook).encode(), self._randomness)
            await complete(transaction, session.account_id, key, Answer(201, content), sealed)
        return Answer(201, {**content, "webhook": webhook})

    async def _admit(
        self,
        transaction: Transaction,
        order: StartOrder,
        key: IdempotencyKey | None,
        session_id: UUID,
        now: Instant,
        actor: Actor,
    ) -> Session:
        book = await open_book_of_user(transaction, self._ledger, order.user_id, now)
        await check_account(transaction, book)
        card = await self._card(transaction, order, book, now)
        admitted = self._size(book, card, order, await spending(transaction, book))
        state, why = (State.UNCONFIRMED, ADOPTED) if order.adopted else (State.STARTING, "asked for")
        patience = self._limits.unconfirmed_ttl if order.adopted else self._limits.provider_timeout + STARTING_MARGIN
        session = Session(
            account_id=book.account_id,
            id=session_id,
            provider_session_id=None,
            persona=order.persona,
            scenario=order.scenario,
            metadata=order.metadata,
            state=state,
            rate_card_id=card.id,
            charge_from=None,
            time_limit=admitted.time_limit,
            authorized=admitted.hold,
            accrued=MicroCredits(0),
            charged=None,
            leakage=None,
            written_off=False,
            anomalies=[],
            requested_at=now,
            started_at=None,
            over_at=None,
            settled_at=None,
            steps=1,
            due_at=Instant(now + patience),
            lease_token=None,
            lease_until=None,
            attempts=0,
        )
        await insert_session(transaction, session, None if key is None else key.key_hash, why)
        book.account.hold(session_id, admitted.hold)
        book.emit(
            EventType.SESSION_STARTED,
            {"session_id": session.public_id, "held": format_credits(admitted.hold)},
        )
        book.audit(
            Audit(
                actor=actor,
                action="session.adopt" if order.adopted else "session.start",
                target=session.public_id,
                after={
                    "persona": order.persona,
                    "scenario": order.scenario,
                    "time_limit_s": seconds(session.time_limit),
                    "held": format_credits(session.authorized),
                },
            )
        )
        await book.close()
        return session

    def _size(self, book: Book, card: StoredCard, order: StartOrder, limits: Sequence[Spending]) -> Admitted:
        default = book.limits.get("default_time_limit_us")
        asked = order.time_limit
        if asked is None:
            asked = self._limits.longest if default is None else Micros(int(default))
        sized = self._admit_with(book.account.available, card, asked)
        for limit in limits:
            if isinstance(sized, Admitted) and limit.room < sized.hold:
                sized = self._admit_with(limit.room, card, asked)
                if isinstance(sized, NotCovered):
                    raise spend_limit_reached(limit, book.now)
        if isinstance(sized, NotCovered):
            raise Problem(
                INSUFFICIENT_CREDITS,
                f"{format_credits(sized.available)} credits are available; "
                f"the shortest session needs {format_credits(sized.required)}",
                extra={
                    "available": format_credits(sized.available),
                    "required": format_credits(sized.required),
                    "max_time_limit_s": seconds(sized.affordable),
                },
            )
        return sized

    def _admit_with(self, available: MicroCredits, card: StoredCard, asked: Micros) -> Admitted | NotCovered:
        shortest, longest = self._limits.shortest, self._limits.longest
        return admit(card.card, available=available, asked=asked, shortest=shortest, longest=longest)

    async def _card(self, transaction: Transaction, order: StartOrder, book: Book, now: Instant) -> StoredCard:
        if order.rate_card is not None:
            card = await find_card(transaction, order.rate_card, now)
            if card is None:
                raise invalid("/rate_card", "is neither the id of a rate card nor the name of one in force")
            return card
        if book.rate_card is not None:
            own = await find_card(transaction, book.rate_card, now)
            if own is not None:
                return own
        return await choose_card(transaction, order.persona, order.scenario, now)

    # After the call

    async def _conclude(
        self, session_key: AccountThing, outcome: Started | Refused | Unconfirmed, key: IdempotencyKey | None
    ) -> Answer:
        """Take the step that the outcome asks for; the answer, or the problem, that the client gets."""
        async with self._database.transaction() as transaction:
            now = self._clock.now()
            book = await open_book(transaction, self._ledger, session_key.account_id, now, [session_key.id])
            session = await load_session(transaction, session_key, lock=True)
            if book is None or session is None:
                raise RuntimeError("a session that was just made is gone")
            answer: Answer | Problem
            match outcome:
                case Started():
                    answer = await self._confirm(transaction, book, session, outcome, key)
                case Refused():
                    answer = await self._refuse(transaction, book, session, outcome, key)
                case Unconfirmed():
                    answer = await self._leave_open(transaction, book, session, outcome, key)
            await book.close()
        if isinstance(answer, Problem):
            raise answer
        return answer

    async def _confirm(
        self, transaction: Transaction, book: Book, session: Session, started: Started, key: IdempotencyKey | None
    ) -> Answer | Problem:
        bound_elsewhere = session.provider_session_id not in {None, started.provider_session_id}
        if bound_elsewhere and session.state in RECONCILED:
            # A heartbeat bound another id while we waited: one of the two is not ours. A person must look.
            why = "the provider's answer and the first heartbeat name different sessions"
            hold_until = Instant(book.now + self._limits.review_after)
            due_at = min(hold_until, Instant(book.now + self._limits.reconcile_interval))
            await self._step(transaction, book, session, State.REVIEW, why, hold_until=hold_until, due_at=due_at)
        elif session.provider_session_id is None and await is_bound(
            transaction, session.account_id, started.provider_session_id
        ):
            # The answer is not about this attempt. Whether it started anything, only a heartbeat can tell.
            why = "the provider named another session of this user"
            return await self._leave_open(transaction, book, session, Unconfirmed(why=why), key)
        elif session.state is State.LIVE:
            await change_session(transaction, session, charge_from=None)
        elif session.state in {State.STARTING, State.UNCONFIRMED}:
            await self._step(
                transaction,
                book,
                session,
                State.LIVE,
                "the provider started it",
                provider_session_id=started.provider_session_id,
                started_at=book.now,
                due_at=book.now + self._limits.reconcile_interval,
            )
        else:
            # Answered so late that the attempt was given up: nobody gets the connection of a session without a hold.
            return _unconfirmed(session)
        stored = await load_session(transaction, session.key)
        if stored is None:
            raise RuntimeError("a session under lock is gone")
        document = await session_document(transaction, stored)
        connection = {"url": started.connection_url, "token": started.connection_token}
        if key is not None:
            sealed = seal(self._sealing, key.raw, dumps(connection).encode(), self._randomness)
            stored_part = Answer(201, {"session": document, "connection_details": None})
            await complete(transaction, session.account_id, key, stored_part, sealed)
        return Answer(201, {"session": document, "connection_details": connection})

    async def _refuse(
        self, transaction: Transaction, book: Book, session: Session, refused: Refused, key: IdempotencyKey | None
    ) -> Problem | Answer:
        if session.state in _PROVEN:
            return await self._runs_without_us(transaction, session, key)  # a heartbeat proved the refusal wrong
        if session.state is not State.STARTING:
            return _unconfirmed(session)  # time ran out first
        book.account.release(session.id)
        await self._step(transaction, book, session, State.FAILED, why_refused(refused)[:MAX_REASON], due_at=None)
        problem = refusal_problem(session, refused)
        if key is not None and problem.status in STORED_REFUSALS:
            await complete(transaction, session.account_id, key, Answer(problem.status, problem_document(problem)))
        return problem

    async def _leave_open(
        self,
        transaction: Transaction,
        book: Book,
        session: Session,
        outcome: Unconfirmed,
        key: IdempotencyKey | None,
    ) -> Problem | Answer:
        if session.state in _PROVEN:
            return await self._runs_without_us(transaction, session, key)
        if session.state is State.STARTING:
            due_at = Instant(session.requested_at + self._limits.unconfirmed_ttl)
            await self._step(transaction, book, session, State.UNCONFIRMED, outcome.why[:MAX_REASON], due_at=due_at)
        return _unconfirmed(session)

    @staticmethod
    async def _runs_without_us(transaction: Transaction, session: Session, key: IdempotencyKey | None) -> Answer:
        """A heartbeat overtook the provider's answer, which did not say how to connect: 201 with the session alone.

        Kept under the key, so that a repeated request is told the same.
        """
        answer = Answer(201, {"session": await session_document(transaction, session), "connection_details": None})
        if key is not None:
            await complete(transaction, session.account_id, key, answer)
        return answer

    async def _step(
        self, transaction: Transaction, book: Book, session: Session, to: State, why: str, **values: Any
    ) -> None:
        await take_step(transaction, session, to, why, book.now, **values)
        if to in STEP_EVENTS:
            book.emit(STEP_EVENTS[to], {"session_id": session.public_id, "why": why})

    # Again with the same key

    async def _earlier_answer(
        self, transaction: Transaction, row: Row[Any], key: IdempotencyKey, account_id: UUID, now: Instant
    ) -> Answer:
        """The answer to a repeated request: as stored, or derived from what became of the session."""
        if row.state in {"done", PURGED}:
            answer = stored_answer(row)
            if row.sealed is None or now - row.created_at >= SEALED_FOR:
                return answer
            opened = unseal(self._sealing, key.raw, row.sealed)
            content = loads(row.body)
            if not isinstance(content, dict):
                raise RuntimeError("a stored answer is no object")
            # An adopted session has no connection of ours: its webhook is what was sealed.
            secret = "webhook" if "webhook" in content else "connection_details"
            content[secret] = None if opened is None else loads(opened)
            return Answer(answer.status, msgspec.Raw(dumps(content).encode()), REPLAYED)
        session = await load_session(transaction, AccountThing(account_id, row.session_id))
        if session is None:
            raise RuntimeError("an idempotency key without its session")
        waited = now - session.requested_at
        # Live by its first step: a heartbeat overtook the provider's answer, which may still bring the connection.
        undecided = session.state is State.STARTING or (session.state is State.LIVE and session.steps == _OVERTAKEN)
        if undecided and waited < self._limits.provider_timeout + STARTING_MARGIN:
            raise Problem(IDEMPOTENCY_IN_FLIGHT, "the first request with this key is still under way")
        if session.state in {State.STARTING, State.UNCONFIRMED}:
            unconfirmed = _unconfirmed(session)
            unconfirmed.headers.update(REPLAYED)
            raise unconfirmed
        if session.state is State.FAILED:
            failure = await failure_problem(transaction, session)
            failure.headers.update(REPLAYED)
            raise failure
        document = await session_document(transaction, session)
        return Answer(201, {"session": document, "connection_details": None}, REPLAYED)


def _unconfirmed(session: Session) -> Problem:
    return Problem(
        PROVIDER_UNCONFIRMED,
        "a first heartbeat, or its absence, will tell; do not start another one before that",
        extra={"session_id": session.public_id},
    )
