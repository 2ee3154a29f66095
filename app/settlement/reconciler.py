"""Reconciliation: which sessions are worked on, when, and by whom. What is done to each is in :mod:`.work`."""

import asyncio
from collections.abc import Container, Sequence
from enum import Enum, auto
from typing import Final
from uuid import UUID

import structlog

from app.core.budget import NotNow, Permit, Purpose
from app.core.ids import AccountThing
from app.core.lifecycle import RECONCILED, State
from app.core.units import US_PER_S, Instant, Micros
from app.db.database import Database, DatabaseUnavailable, Transaction
from app.events.outbox import lock_outbox
from app.gabber import Gabber, PulledTimeline, PullFailed, PullFailure
from app.ledger.book import Book, LedgerPorts
from app.ledger.opening import open_book
from app.ports.clock import Clock
from app.ports.permits import Permits
from app.ports.randomness import Randomness
from app.receiving import Receiving
from app.sessions.records import Session, change_session, load_session
from app.settlement.corrections import may_be_rated_again
from app.settlement.leases import Due, Leases
from app.settlement.steps import RELEASED, Outcome, ReconcileLimits, Steps
from app.settlement.work import Work
from app.timelines.raw import keep_failed_pull

MAX_AT_ONCE: Final = 8
"""Pulls that one process makes at a time: as many as it keeps connections to the provider."""

MAX_FAILED_AT_ONCE: Final = 4
"""Of these, pulls of sessions whose last one failed: those that hang leave places to the others."""

MAX_PLAIN_AT_ONCE: Final = 4
"""Sessions worked on at a time that need no pull."""

PLAIN_PATIENCE: Final = Micros(US_PER_S // 5)
PULL_PATIENCE: Final = Micros(7 * US_PER_S // 10)
"""So long a round begins sessions of a kind before it looks anew: who needs no pull waits for no crowd that does."""

MAX_LOOKS: Final = 10
"""So often at most a round looks: a stop waits for it."""

DECISION_PATIENCE: Final = Micros(10 * US_PER_S)
"""So long somebody who decides a review waits for its timeline."""

REFUSED_FOR: Final = Micros(600 * US_PER_S)
"""A session whose pull is due for so long, and is not begun as the provider takes no request, is missing evidence."""

MAX_BATCH: Final = 200
log = structlog.get_logger(__name__)


class _Stop(Enum):
    """Why not all were begun that are due."""

    PATIENCE = auto()
    NO_PERMIT = auto()


class Reconciler:
    """The use case; see the module."""

    def __init__(
        self,
        *,
        database: Database,
        ledger: LedgerPorts,
        gabber: Gabber,
        permits: Permits,
        leases: Leases,
        clock: Clock,
        randomness: Randomness,
        receiving: Receiving,
        limits: ReconcileLimits,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._gabber = gabber
        self._permits = permits
        self._leases = leases
        self._clock = clock
        self._randomness = randomness
        self._receiving = receiving
        self._limits = limits
        self._working: dict[asyncio.Task[Outcome | NotNow], Due] = {}
        self._asked: set[asyncio.Task[Outcome | NotNow]] = set()
        self._filling = False

    async def run_due(self) -> int:
        """Begin as :meth:`fill` does and wait for it; answers how many sessions were ours."""
        outcomes = await asyncio.gather(*await self.fill())
        return sum(isinstance(outcome, Outcome) and outcome is not Outcome.NOT_OURS for outcome in outcomes)

    async def finish(self) -> None:
        """Wait for what was begun."""
        while self._working or self._asked:
            await asyncio.wait([*self._working, *self._asked])

    async def bring_up_to_date(self, key: AccountThing) -> None:
        """Pull the timeline of a session in review for whoever is about to decide about it.

        Waits no longer than :data:`DECISION_PATIENCE`: without an answer, what is stored has to do. The pull may go on
        then; the decision takes its lease away.

        Raises :class:`~app.db.database.DatabaseUnavailable`.
        """
        async with self._database.reading() as transaction:
            session = await load_session(transaction, key)
        if session is None or session.state is not State.REVIEW or session.provider_session_id is None:
            return
        task = asyncio.create_task(self._guarded(key, None, now_please=True), name=f"before a decision {key.id}")
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)
        await asyncio.wait({task}, timeout=self._clock.real_seconds(DECISION_PATIENCE))

    async def fill(self) -> list[asyncio.Task[Outcome | NotNow]]:
        """Begin to work on sessions that are due, oldest first, each in a place of its own; answers what was begun.

        Pulls begin as the provider's rate allows it, and none is leased before its permit is near. Whoever finds no
        place or permit stays due: the next round looks again, so none waits for what this one has begun. A round at a
        time; a second one begins nothing.
        """
        if self._filling:
            return []
        self._filling = True
        begun: list[asyncio.Task[Outcome | NotNow]] = []
        try:
            await self._fill(begun)
        except BaseException:
            for task in begun:
                task.cancel()
            raise
        finally:
            self._filling = False
        return begun

    async def _fill(self, begun: list[asyncio.Task[Outcome | NotNow]]) -> None:
        for _ in range(MAX_LOOKS):
            before = len(begun)
            in_hand = {due.session for due in self._working.values()}
            found = [due for due in await self._leases.due(MAX_BATCH) if due.session not in in_hand]
            plain = await self._begin_those([due for due in found if not due.pulls], PLAIN_PATIENCE, begun)
            pulls = await self._begin_those([due for due in found if due.pulls], PULL_PATIENCE, begun)
            if pulls is _Stop.NO_PERMIT:
                await self._count_those_asked_in_vain(in_hand)
                return
            if _Stop.PATIENCE not in (plain, pulls) or len(begun) == before:
                return

    async def _begin_those(
        self, found: Sequence[Due], patience: Micros, begun: list[asyncio.Task[Outcome | NotNow]]
    ) -> _Stop | None:
        """Begin to work on these, as places are or fall free, until the ``patience`` ends; null: on all there were."""
        give_up = Instant(self._clock.now() + patience)
        passed_over: list[Due] = []
        for due in found:
            if due.failed and self._failed_in_hand(due) >= MAX_FAILED_AT_ONCE:
                passed_over.append(due)
            elif not await self._wait_for_place(due, give_up):
                return _Stop.PATIENCE
            elif not await self._begin(due, begun):
                return _Stop.NO_PERMIT
        # Where theirs hang no longer, each that is done makes room for the next in this round: a crowd that failed
        # while the provider was away is through as fast as its rate allows.
        for due in passed_over:
            if not await self._wait_for_place(due, give_up):
                return _Stop.PATIENCE
            if not await self._begin(due, begun):
                return _Stop.NO_PERMIT
        return None

    async def _begin(self, due: Due, begun: list[asyncio.Task[Outcome | NotNow]]) -> bool:
        """Begin to work on a session that has its place; false: it needs a pull, and there is no permit for one."""
        permit: Permit | None = None
        if due.pulls:
            reserved = await self._permits.reserve(Purpose.PULL)
            if isinstance(reserved, NotNow):
                return False
            permit = reserved
        task = asyncio.create_task(self._guarded(due.session, permit), name=f"reconcile {due.session.id}")
        self._working[task] = due
        task.add_done_callback(self._working.pop)
        begun.append(task)
        return True

    async def _count_those_asked_in_vain(self, in_hand: Container[AccountThing]) -> None:
        """Nobody's timeline is asked for, as the provider takes no request; they are missing all the same.

        After the wait for evidence a session is a review, whichever is asked for first when the provider answers again,
        and however many there are: each round goes on with those whom the last one has not come to.
        """
        now = self._clock.now()
        due_before = Instant(now - REFUSED_FOR)
        failing_before = Instant(now - self._limits.evidence_wait)
        try:
            for due in await self._leases.in_vain(MAX_BATCH, due_before=due_before, failing_before=failing_before):
                if due.session not in in_hand:
                    await self._count_as_asked_in_vain(due, now)
        except DatabaseUnavailable:
            return

    async def _count_as_asked_in_vain(self, due: Due, now: Instant) -> None:
        try:
            if due.failing_since is None:
                await self._leases.mark_failing(due.session, now)
                return
            token = await self._leases.take(due.session)
            if token is not None:
                failure = PullFailed(kind=PullFailure.RATE_LIMITED, detail="the provider takes no request")
                await self._write_or_set_aside(due.session, token, failure)
        except DatabaseUnavailable:
            raise
        except Exception:
            log.exception("reconcile.broke", session_id=str(due.session.id))

    def _failed_in_hand(self, due: Due) -> int:
        return sum(other.failed for other in self._working.values() if other.pulls == due.pulls)

    def _has_place(self, due: Due) -> bool:
        taken = sum(other.pulls == due.pulls for other in self._working.values())
        if not due.pulls:
            return taken < MAX_PLAIN_AT_ONCE
        if due.failed and self._failed_in_hand(due) >= MAX_FAILED_AT_ONCE:
            return False
        return taken < MAX_AT_ONCE

    async def _wait_for_place(self, due: Due, give_up: Instant) -> bool:
        """False: there was none until then, or that is over."""
        while (left := Micros(give_up - self._clock.now())) > 0:
            if self._has_place(due):
                return True
            done, _ = await asyncio.wait(
                self._working, timeout=self._clock.real_seconds(left), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                return False
            await asyncio.sleep(0)  # what is done leaves its place
        return False

    async def _guarded(
        self, session: AccountThing, permit: Permit | None, *, now_please: bool = False
    ) -> Outcome | NotNow:
        """One session's trouble never stops the others: its lease runs out and it is tried again."""
        try:
            return await self.reconcile(session, permit=permit, now_please=now_please)
        except DatabaseUnavailable:
            log.warning("reconcile.database_unavailable", session_id=str(session.id))
        except Exception:
            log.exception("reconcile.broke", session_id=str(session.id))
        return Outcome.NOT_OURS

    async def reconcile(
        self, key: AccountThing, *, now_please: bool = False, permit: Permit | None = None
    ) -> Outcome | NotNow:
        """Work on one session if it is due, or whenever it is not leased if ``now_please``.

        ``permit``: one that was reserved for its pull. NotNow: the provider takes no request; the session stays due.
        """
        used = False
        try:
            token = await self._leases.take(key, even_if_not_due=now_please)
            if token is None and now_please and await self._leases.free_far(key):
                token = await self._leases.take(key, even_if_not_due=True)
            if token is None:
                return Outcome.NOT_OURS
            async with self._database.reading() as transaction:
                session = await load_session(transaction, key)
            id_there = self._to_pull(session, asked=now_please)
            used = id_there is not None
        finally:
            if permit is not None and not used:
                self._permits.give_back(permit)
        pulled = None if id_there is None else await self._gabber.timeline(id_there, permit)
        if isinstance(pulled, NotNow):
            await self._leases.release(key, token)
            return pulled
        charged = session is not None and session.state is State.SETTLED
        return await self._write_or_set_aside(key, token, pulled, charged=charged)

    async def _write_or_set_aside(
        self,
        key: AccountThing,
        token: UUID,
        pulled: PulledTimeline | PullFailed | None,
        *,
        charged: bool = False,
    ) -> Outcome:
        try:
            return await self._write(key, token, pulled, charged=charged)
        except DatabaseUnavailable:
            raise
        except Exception as error:
            log.exception("reconcile.broke", session_id=str(key.id))
            return await self._set_aside(key, token, type(error).__name__)

    async def _set_aside(self, key: AccountThing, token: UUID, error: str) -> Outcome:
        """What cannot be worked on is tried again, each time after a longer while; after too long it is a review."""
        async with self._database.transaction() as transaction:
            now = self._clock.now()
            # The account is not opened: it may be what broke.
            outbox = await lock_outbox(transaction, key.account_id)
            session = await load_session(transaction, key, lock=True)
            if outbox is None or session is None or session.lease_token != token:
                return Outcome.NOT_OURS
            steps = Steps(transaction, outbox, session, now, self._limits, self._randomness, self._receiving)
            outcome = await steps.put_off_what_broke(error)
            await outbox.close(transaction, self._ledger.ids, now)
        return outcome

    def _to_pull(self, session: Session | None, *, asked: bool) -> str | None:
        """The provider's id of a session whose timeline is to be pulled.

        A review whose hold is to be freed goes without, so that nothing of what was pulled can stand in the way of
        that; unless somebody ``asked`` for the pull.
        """
        if session is None:
            return None
        now = self._clock.now()
        late = may_be_rated_again(session, now, self._limits.rerate_window)
        frees = session.hold_until is not None and session.hold_until <= now
        reviewed = session.state is State.REVIEW and (asked or not frees)
        return session.provider_session_id if session.state in RECONCILED or late or reviewed else None

    async def _write(
        self,
        key: AccountThing,
        token: UUID,
        pulled: PulledTimeline | PullFailed | None,
        *,
        charged: bool = False,
    ) -> Outcome:
        """``charged``: the session had been settled when its lease was taken, and so it is under the same lease."""
        async with self._database.transaction() as transaction:
            now = self._clock.now()
            found = await self._under_lease(transaction, key, token, now, key.id if charged else None)
            if found is None:
                return Outcome.NOT_OURS
            book, session = found
            if isinstance(pulled, PullFailed):
                await keep_failed_pull(transaction, key, pulled)
            work = self._work(transaction, book, session, now)
            # Whoever asks for a pull out of turn does not shorten a wait.
            due = session.due_at is not None and session.due_at <= now
            match session.state:
                case State.SETTLED:
                    return await work.look_again(pulled, due=due)
                case State.STARTING if due:
                    outcome = await work.give_up_waiting_for_the_answer()
                case State.UNCONFIRMED if due:
                    outcome = await work.give_up_waiting_for_a_heartbeat()
                case State.LIVE | State.OVER if isinstance(pulled, PulledTimeline):
                    outcome = await work.take_in(pulled)
                case State.LIVE | State.OVER if isinstance(pulled, PullFailed):
                    outcome = await work.put_off(pulled)
                case State.REVIEW:
                    outcome = await work.wait_for_a_decision(pulled, due=due)
                case _:
                    await change_session(transaction, session, **RELEASED)
                    outcome = Outcome.NOT_OURS
            entry_ids = await book.close()
            await work.record_charge(entry_ids)
        return outcome

    async def _under_lease(
        self, transaction: Transaction, key: AccountThing, token: UUID, now: Instant, correcting: UUID | None = None
    ) -> tuple[Book, Session] | None:
        """The account, then the session, under lock; null, the fence, for whoever lost the lease meanwhile."""
        book = await open_book(transaction, self._ledger, key.account_id, now, [key.id], correcting=correcting)
        session = await load_session(transaction, key, lock=True)
        if book is None or session is None or session.lease_token != token:
            return None
        return book, session

    def _work(self, transaction: Transaction, book: Book, session: Session, now: Instant) -> Work:
        return Work(
            transaction,
            book,
            session,
            now,
            self._limits,
            self._randomness,
            self._receiving,
            self._ledger,
        )
