"""What is done to one session in one transaction: a step, a hold lowered, a charge, a later attempt."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final
from uuid import UUID

import structlog

from app.core.access import Actor
from app.core.charge import Charge, Evidence, charge
from app.core.lifecycle import State
from app.core.outages import passed_by
from app.core.settlement import Over, Review, Settle, StillLive, decide, over_at
from app.core.units import Instant, MicroCredits, Micros, seconds
from app.core.worst_case import largest_remaining_charge
from app.db.database import Transaction
from app.events.outbox import EventType
from app.gabber import PulledTimeline, PullFailed, PullFailure
from app.ledger.book import Book, LedgerPorts
from app.ports.randomness import Randomness
from app.receiving import Receiving
from app.sessions.records import Session, change_session
from app.settlement.charges import NewCharge, post_charge
from app.settlement.corrections import (
    LATE_LOOK_PARTS,
    Correcting,
    correct_by_late_evidence,
    may_be_rated_again,
    rate_again,
)
from app.settlement.evidence import StoredEvidence, card_of_session, load_evidence
from app.settlement.steps import RELEASED, Outcome, ReconcileLimits, Steps, sooner
from app.timelines.snapshots import Snapshot, add_snapshot, is_news, load_snapshots

ACTOR: Final = Actor("reconciliation")
"""Who rates a session again by itself, in the audit log."""

log = structlog.get_logger(__name__)


class Work(Steps):
    """One session under lock, and its account, in one transaction."""

    def __init__(
        self,
        transaction: Transaction,
        book: Book,
        session: Session,
        now: Instant,
        limits: ReconcileLimits,
        randomness: Randomness,
        receiving: Receiving,
        ledger: LedgerPorts,
    ) -> None:
        super().__init__(transaction, book.outbox, session, now, limits, randomness, receiving)
        self._book = book
        self._ledger = ledger
        self._charge: NewCharge | None = None

    # Starts that were never answered

    async def give_up_waiting_for_the_answer(self) -> Outcome:
        """The process that asked the provider died, or its answer was lost: only a heartbeat can tell now."""
        ttl = self._limits.unconfirmed_ttl
        due_at = Instant(max(self._now, min(self._session.requested_at, self._now) + ttl))
        await self._step(State.UNCONFIRMED, "the start was cut off", due_at=due_at)
        return Outcome.UNCONFIRMED

    async def give_up_waiting_for_a_heartbeat(self) -> Outcome:
        session = self._session
        waited = self._limits.unconfirmed_ttl
        until = passed_by(session.requested_at, waited, await self._outages_since(session.requested_at))
        # Asked for in the future, by a clock that was set back since: it is due because that wait was begun anew then.
        if until > self._now >= session.requested_at:
            # Nobody could have told us of it for a while: that does not count.
            await change_session(self._transaction, session, due_at=until, **RELEASED)
            return Outcome.UNCONFIRMED
        self._book.account.release(self._session.id)
        await self._step(State.FAILED, "no heartbeat came", due_at=None)
        return Outcome.FAILED

    # Pulls

    async def put_off(self, failure: PullFailed) -> Outcome:
        """No timeline this time: try again later, each time after a longer while; after too long it is a review."""
        session = self._session
        since = self._failing_since()
        if await self._in_vain_for_too_long(since):
            why = f"no usable timeline for {seconds(self._limits.evidence_wait)} s: {failure.kind.code}"
            await self._review(why)
            return Outcome.REVIEW
        attempts, wait = self._after(failure)
        later: dict[str, Any] = {"attempts": attempts, "failing_since": since, "due_at": self._soon(wait)}
        stored = await load_snapshots(self._transaction, session.key)
        evidence = (await load_evidence(self._transaction, session, interim=True, snapshots=stored)).evidence
        limit_over = Instant(charge(evidence).origin.at + session.time_limit + evidence.card.gap)
        if session.state is State.LIVE and self._now >= limit_over:
            # Past its limit it is over, whatever was said; what it costs only the timeline can tell.
            await self._step(State.OVER, "past its time limit", over_at=limit_over, **later)
        else:
            await change_session(self._transaction, session, **later, **RELEASED)
        log.info("pull.failed", session_id=session.public_id, kind=failure.kind.code, attempts=attempts)
        return Outcome.PULL_FAILED

    async def take_in(self, pulled: PulledTimeline) -> Outcome:
        """Store the timeline, bring accrued charge and hold up to date, and take the step that is due."""
        session, limits = self._session, self._limits
        earlier = await load_snapshots(self._transaction, session.key)
        snapshot = await add_snapshot(self._transaction, session.key, pulled, earlier)
        stored = await load_evidence(self._transaction, session, interim=True, snapshots=[*earlier, snapshot])
        interim = charge(stored.evidence)
        over = await self._over_at(interim, stored.evidence)
        pulled_at = snapshot.pull.requested_at
        following = decide(
            stored.contradictions(interim),
            over=over,
            pulled_at=pulled_at,
            now=self._now,
            settle_delay=limits.settle_delay,
            longest=Micros(session.time_limit + stored.evidence.card.gap),
        )
        match following:
            case StillLive():
                at_the_latest = Instant(following.over_at + limits.settle_delay)
                due_at = min(self._soon(limits.reconcile_interval), at_the_latest)
                await self._update(stored, interim, State.LIVE, None, due_at)
                return Outcome.UPDATED
            case Over():
                await self._update(stored, interim, State.OVER, following.over_at, following.final_from)
                return Outcome.UPDATED
            case Review():
                await self._be_over(following.over_at)
                await self._review(following.why, anomalies=_names(interim), accrued=interim.amount)
                return Outcome.REVIEW
            case Settle():
                await self._be_over(following.over_at)
                await self._settle(
                    await load_evidence(self._transaction, session, interim=False, snapshots=[*earlier, snapshot])
                )
                return Outcome.SETTLED

    async def _over_at(self, interim: Charge, evidence: Evidence) -> Instant:
        session = self._session
        over_but_for = partial(
            over_at,
            interim,
            gap=evidence.card.gap,
            time_limit=session.time_limit,
            heard=any(heartbeat >= session.requested_at for heartbeat in evidence.heartbeats),
            no_heartbeat_grace=self._limits.no_heartbeat_grace,
            ended_at=session.ended_at,
        )
        over = over_but_for()
        if over > self._now:
            return over
        # Outages can only put it off.
        return over_but_for(outages=await self._outages_since(interim.origin.at))

    async def _update(
        self, stored: StoredEvidence, interim: Charge, state: State, over: Instant | None, due_at: Instant
    ) -> None:
        session = self._session
        evidence = stored.evidence
        cards = [evidence.card]
        if session.charge_from is not None:
            # The start's own answer may still come, and take away what the first heartbeat has pinned.
            cards.append(await card_of_session(self._transaction, replace(session, charge_from=None)))
        remaining = max(largest_remaining_charge(card, evidence.timeline, session.time_limit) for card in cards)
        self._book.account.lower_hold(session.id, MicroCredits(min(remaining, session.authorized)))
        values: dict[str, Any] = {
            "accrued": interim.amount,
            "anomalies": _names(interim),
            "due_at": due_at,
            "attempts": 0,
            "failing_since": None,
            "over_at": over,
        }
        if session.state is state:
            await change_session(self._transaction, session, **values, **RELEASED)
        else:
            why = "no proof of life any more" if state is State.OVER else "proof of life came back"
            await self._step(state, why, **values)

    async def _be_over(self, over: Instant) -> None:
        if self._session.state is State.LIVE:
            await self._step(State.OVER, "no proof of life any more", keep_lease=True, over_at=over)
        else:
            await change_session(self._transaction, self._session, over_at=over)

    async def _settle(self, stored: StoredEvidence) -> None:
        """The one debit of the session, and everything that goes with it."""
        late_look = self._soon(Micros(self._limits.rerate_window // LATE_LOOK_PARTS))
        self._charge = await post_charge(
            self._transaction, self._book, self._session, stored, "the final timeline is in", due_at=late_look
        )

    async def record_charge(self, entry_ids: Mapping[str, UUID]) -> None:
        """Store the charge that was posted, if one was, with the id of its entry."""
        if self._charge is not None:
            await self._charge.store(self._transaction, entry_ids)

    # Review

    async def wait_for_a_decision(self, pulled: PulledTimeline | PullFailed | None, *, due: bool) -> Outcome:
        """Keep what was pulled for whoever decides, until it is final; free the credits if that takes too long.

        ``due``: else somebody asked for it, and no wait changes but that it may have become needless.
        """
        session = self._session
        until = session.hold_until
        if until is not None:
            until = min(until, Instant(self._now + self._limits.review_after))  # our clock may have been set back
        outcome = Outcome.NOT_OURS
        if until is not None and until <= self._now:
            self._free_the_credits_of_a_long_review()
            until, outcome = None, Outcome.REVIEW
        attempts, wait = session.attempts, self._limits.reconcile_interval
        values: dict[str, Any] = {}
        final = session.provider_session_id is None
        if isinstance(pulled, PulledTimeline):
            final, values = await self._keep_for_the_review(pulled)
            attempts, wait, outcome = attempts + 1, self._backoff(attempts + 1), Outcome.UPDATED
        elif isinstance(pulled, PullFailed):
            attempts, wait = self._after(pulled)
            outcome = Outcome.PULL_FAILED
        if final:
            values |= {"attempts": 0, "due_at": until}
        elif due:
            values |= {"attempts": attempts, "due_at": sooner(self._soon(wait), until)}
        await change_session(self._transaction, session, **values, hold_until=until, **RELEASED)
        return outcome

    def _free_the_credits_of_a_long_review(self) -> None:
        """Nobody decided in time: the user's credits are not kept waiting any longer; the session stays in review."""
        self._book.account.release(self._session.id)
        why = "the review took too long: the hold is released"
        self._book.emit(EventType.SESSION_REVIEW, {"session_id": self._session.public_id, "why": why})

    async def _keep_for_the_review(self, pulled: PulledTimeline) -> tuple[bool, dict[str, Any]]:
        """Whether nothing more is to be expected of further pulls, and what changes of the session."""
        session = self._session
        earlier = await load_snapshots(self._transaction, session.key)
        charged = session.charged is not None
        known = list(earlier)
        new = is_news(earlier, pulled)
        # What was never charged rests on its last silence as well, until that has come to its end.
        if new or not (charged or await self._is_final(earlier, earlier[-1].pull.requested_at)):
            known.append(await add_snapshot(self._transaction, session.key, pulled, earlier))
        if charged:
            rating = await rate_again(self._transaction, session)
            return not rating.contradictions, {"anomalies": _names(rating.rated)}
        stored = await load_evidence(self._transaction, session, interim=True, snapshots=known)
        interim = charge(stored.evidence)
        final = await self._is_final(known, pulled.requested_at) and not stored.contradictions(interim)
        return final, {"anomalies": _names(interim), "accrued": interim.amount}

    async def _is_final(self, known: Sequence[Snapshot], pulled_at: int) -> bool:
        """Whether the session was over, by the evidence of ``known`` pulls, for long enough when one left."""
        stored = await load_evidence(self._transaction, self._session, interim=True, snapshots=known)
        over = await self._over_at(charge(stored.evidence), stored.evidence)
        return pulled_at >= over + self._limits.settle_delay

    # After settlement

    async def look_again(self, pulled: PulledTimeline | PullFailed | None, *, due: bool) -> Outcome:
        """Whether anything came after settlement that changes what the session costs: then the difference is posted.

        Evidence that contradicts itself, such as a timeline that shrank, or that would lower the charge in any other
        way, gives no credits back by itself: a person must look. ``due``: the one look that is planned, which is put
        off until there is a timeline.
        """
        session = self._session
        if not may_be_rated_again(session, self._now, self._limits.rerate_window):
            await change_session(self._transaction, session, due_at=None, **RELEASED)
            await self._book.close()
            return Outcome.NOT_OURS
        if isinstance(pulled, PullFailed):
            await self._put_off_looking(pulled, due=due)
            await self._book.close()
            return Outcome.PULL_FAILED
        if pulled is not None:
            earlier = await load_snapshots(self._transaction, session.key)
            if is_news(earlier, pulled):
                await add_snapshot(self._transaction, session.key, pulled, earlier)
        done: dict[str, Any] = {"due_at": None if due else session.due_at, "attempts": 0, "failing_since": None}
        rating = await rate_again(self._transaction, session)
        if not rating.is_news or rating.seen_before:
            await change_session(self._transaction, session, **done, **RELEASED)
            await self._book.close()
            return Outcome.UPDATED
        contradictions = rating.contradictions
        if contradictions or rating.rated.amount < rating.before:
            told = ", ".join(contradictions)
            why = f"contradicts itself: {told}" if told else "would lower its charge"
            why = f"evidence that came after the session was settled {why}"
            due_at = self._soon(self._limits.reconcile_interval) if contradictions else None
            await self._step(State.REVIEW, why, attempts=0, due_at=due_at, anomalies=_names(rating.rated))
            await self._book.close()
            return Outcome.REVIEW
        await change_session(self._transaction, session, anomalies=_names(rating.rated), **done, **RELEASED)
        by = Correcting(
            ledger=self._ledger,
            now=self._now,
            cause="",
            actor=ACTOR,
            goodwill=self._limits.goodwill,
            rerate_window=self._limits.rerate_window,
        )
        await correct_by_late_evidence(self._transaction, self._book, session, rating, by)
        return Outcome.RATED_AGAIN

    async def _put_off_looking(self, failure: PullFailed, *, due: bool) -> None:
        session = self._session
        if not due or session.settled_at is None:
            await change_session(self._transaction, session, **RELEASED)
            return
        attempts, wait = self._after(failure)
        due_at: Instant | None = self._soon(wait)
        if due_at is not None and due_at > session.settled_at + self._limits.rerate_window:
            due_at = None
        await change_session(self._transaction, session, attempts=attempts, due_at=due_at, **RELEASED)

    def _after(self, failure: PullFailed) -> tuple[int, Micros]:
        """How many pulls have failed now, and how long to wait before the next one."""
        attempts, wait = self._session.attempts, self._limits.reconcile_interval
        if failure.kind is not PullFailure.RATE_LIMITED:  # that is no fault of the session's
            attempts += 1
            wait = self._backoff(attempts)
        return attempts, Micros(max(wait, failure.retry_after or 0))


def _names(result: Charge) -> list[str]:
    return sorted(anomaly.value for anomaly in result.anomalies)
