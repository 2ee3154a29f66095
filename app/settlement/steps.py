"""The steps of one session under lock, and trying again later: what needs nothing of the account but its outbox."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from app.core.lifecycle import RECONCILED, State
from app.core.outages import Outage, passed_by
from app.core.units import US_PER_S, Instant, Micros
from app.core.waits import JITTER_PARTS, longest_waits
from app.db.database import Transaction
from app.events.outbox import Outbox
from app.gabber.wire import MAX_RETRY_AFTER
from app.ports.randomness import Randomness
from app.receiving import Receiving
from app.sessions.records import STEP_EVENTS, Session, change_session, load_session, take_step
from app.sessions.start import STARTING_MARGIN
from app.settlement.corrections import LATE_LOOK_PARTS, may_be_rated_again

MAX_BACKOFF: Final = Micros(3600 * US_PER_S)
"""No failure, and nothing that a review which holds credits waits for, puts the next pull off for longer."""

MAX_REVIEW_BACKOFF: Final = Micros(24 * 3600 * US_PER_S)
"""The same for a review that holds no credits: it hurries nobody, and may wait for its decision for ever."""

RELEASED: Final = {"lease_token": None, "lease_until": None}


class Outcome(StrEnum):
    """What became of one session in one round."""

    UPDATED = "updated"
    SETTLED = "settled"
    REVIEW = "review"
    FAILED = "failed"
    UNCONFIRMED = "unconfirmed"
    PULL_FAILED = "pull_failed"
    RATED_AGAIN = "rated_again"
    NOT_OURS = "not_ours"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileLimits:
    """The service's settings for reconciliation."""

    reconcile_interval: Micros
    settle_delay: Micros
    unconfirmed_ttl: Micros
    no_heartbeat_grace: Micros
    evidence_wait: Micros
    review_after: Micros
    rerate_window: Micros
    goodwill: Micros

    def longest_waits(self, provider_timeout: Micros) -> Mapping[State, Micros]:
        """How far ahead a session's due time may lie, by its state."""
        return longest_waits(
            provider_timeout=provider_timeout,
            starting_margin=STARTING_MARGIN,
            unconfirmed_ttl=self.unconfirmed_ttl,
            retry=max(self.reconcile_interval, MAX_BACKOFF, MAX_RETRY_AFTER),
            settle_delay=self.settle_delay,
            review_after=self.review_after,
            review_look=MAX_REVIEW_BACKOFF,
            late_look=Micros(self.rerate_window // LATE_LOOK_PARTS),
        )


class Steps:
    """One session under lock, in one transaction."""

    def __init__(
        self,
        transaction: Transaction,
        outbox: Outbox,
        session: Session,
        now: Instant,
        limits: ReconcileLimits,
        randomness: Randomness,
        receiving: Receiving,
    ) -> None:
        self._transaction = transaction
        self._outbox = outbox
        self._session = session
        self._now = now
        self._limits = limits
        self._randomness = randomness
        self._receiving = receiving

    async def put_off_what_broke(self, error: str) -> Outcome:
        """The evidence, or a mistake of ours, keeps the session from being worked on."""
        session = self._session
        attempts, wait = session.attempts + 1, self._backoff(session.attempts + 1)
        since = self._failing_since()
        if session.state in RECONCILED and await self._in_vain_for_too_long(since):
            await self._review(f"it cannot be worked on: {error}")
            return Outcome.REVIEW
        # Whoever asks out of turn changes no wait: that of a review, above all, ends with the release of its hold.
        is_due = session.due_at is not None and session.due_at <= self._now
        ahead = session.hold_until if session.hold_until is not None and session.hold_until > self._now else None
        due_at = sooner(self._soon(wait), ahead) if is_due else session.due_at
        if session.state is State.SETTLED and not may_be_rated_again(session, self._now, self._limits.rerate_window):
            due_at = None
        failed = {"attempts": attempts, "failing_since": since, "due_at": due_at}
        await change_session(self._transaction, session, **failed, **RELEASED)
        return Outcome.PULL_FAILED

    async def _review(self, why: str, **values: Any) -> None:
        """A person must look; the hold is kept for a while."""
        until = Instant(self._now + self._limits.review_after)
        due_at = min(until, self._soon(self._limits.reconcile_interval))
        await self._step(State.REVIEW, why, attempts=0, failing_since=None, hold_until=until, due_at=due_at, **values)

    async def _step(
        self,
        to: State,
        why: str,
        *,
        keep_lease: bool = False,
        **values: Any,
    ) -> None:
        lease = {} if keep_lease else RELEASED
        await take_step(self._transaction, self._session, to, why, self._now, **values, **lease)
        if to in STEP_EVENTS:
            self._outbox.emit(STEP_EVENTS[to], {"session_id": self._session.public_id, "why": why})
        reloaded = await load_session(self._transaction, self._session.key)
        if reloaded is None:
            raise RuntimeError("a session under lock is gone")
        self._session = reloaded

    def _soon(self, wait: Micros) -> Instant:
        """``wait`` from now, with a tenth of jitter, so that sessions started together do not stay together."""
        return Instant(self._now + wait + self._randomness.below(max(1, wait // JITTER_PARTS)))

    async def _outages_since(self, since: Instant) -> tuple[Outage, ...]:
        return await self._receiving.outages(self._transaction, since)

    def _backoff(self, attempts: int) -> Micros:
        unhurried = self._session.state is State.REVIEW and self._session.hold_until is None
        longest = MAX_REVIEW_BACKOFF if unhurried else MAX_BACKOFF
        return Micros(min(self._limits.reconcile_interval << min(attempts - 1, 16), longest))

    def _failing_since(self) -> Instant:
        """Since when there was no usable timeline, now that there is none again."""
        since = self._session.failing_since
        return self._now if since is None or since > self._now else since  # in the future: by a clock set back since

    async def _in_vain_for_too_long(self, since: Instant) -> bool:
        """Whether the wait for evidence has passed, but for our own outages: who was away asked for nothing.

        That the provider refuses us all that time is no outage of ours.
        """
        return self._now >= passed_by(since, self._limits.evidence_wait, await self._outages_since(since))


def sooner(at: Instant, other: Instant | None) -> Instant:
    """The earlier one; ``at`` if there is no other."""
    return at if other is None else min(at, other)
