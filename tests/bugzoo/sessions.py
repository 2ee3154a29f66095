"""Bugs in starts, heartbeats, pulls, reconciliation and in what is done once."""

from typing import Final

from tests.bugzoo.bug import Bug, Layer, Patch, Run


def _test(name: str) -> Run:
    return Run(Layer.INTEGRATION, only=(name,))


def _cut(operation: str) -> Run:
    return Run(Layer.CUTS, only=(operation,))


BUGS: Final = (
    # Starts
    Bug(
        name="failed-start-keeps-its-hold",
        does="a start that the provider refuses leaves the session failed and its hold active",
        patches=(
            Patch(
                "app.sessions.start",
                """\
            return _unconfirmed(session)  # time ran out first
        book.account.release(session.id)
""",
                """\
            return _unconfirmed(session)  # time ran out first
""",
            ),
        ),
        found_by=_cut("start refused"),
    ),
    Bug(
        name="unconfirmed-is-failed",
        does="a start whose outcome is unknown is failed at once and its hold released, while the session may run",
        patches=(
            Patch(
                "app.sessions.start",
                """\
            due_at = Instant(session.requested_at + self._limits.unconfirmed_ttl)
            await self._step(transaction, book, session, State.UNCONFIRMED, outcome.why[:MAX_REASON], due_at=due_at)
""",
                """\
            book.account.release(session.id)
            await self._step(transaction, book, session, State.FAILED, outcome.why[:MAX_REASON], due_at=None)
""",
            ),
        ),
        found_by=_cut("start unknown"),
    ),
    Bug(
        name="unknown-start-asked-again",
        does="a start whose outcome is unknown is sent to the provider once more",
        patches=(
            Patch(
                "app.sessions.start",
                """\
        outcome = await self._gabber.start(
            StartRequest(
                persona=order.persona,
                scenario=order.scenario,
                time_limit_s=prepared.time_limit // US_PER_S,
                webhook=self._webhook(prepared),
            ),
            permit,
        )
""",
                """\
        request = StartRequest(
            persona=order.persona,
            scenario=order.scenario,
            time_limit_s=prepared.time_limit // US_PER_S,
            webhook=self._webhook(prepared),
        )
        outcome = await self._gabber.start(request, permit)
        if isinstance(outcome, Unconfirmed):
            outcome = await self._gabber.start(request)
""",
            ),
        ),
        found_by=_test("test_starts.py::test_an_ambiguous_answer_leaves_the_hold_until_time_tells"),
    ),
    Bug(
        name="cut-off-start-never-found",
        does="a start that a crash cuts off is due for nobody, so its hold stays for ever",
        patches=(
            Patch(
                "app.sessions.start",
                "            due_at=Instant(now + patience),\n",
                "            due_at=Instant(now + patience) if order.adopted else None,\n",
            ),
        ),
        found_by=_cut("start"),
    ),
    # Idempotency
    Bug(
        name="key-claimed-before-the-effect",
        does="an idempotency key is claimed in a transaction of its own, before that of the effect",
        patches=(
            Patch(
                "app.http.idempotency",
                """\
    async with keyed_transaction(database, account_id, key) as transaction:
        if key is None:
            return (await work(transaction)).response()
        row = await claim(transaction, account_id, key, now)
        if row is not None:
            return _opened(row, key, sealing, now).response()
        try:
""",
                """\
    if key is not None:
        async with keyed_transaction(database, account_id, key) as transaction:
            row = await claim(transaction, account_id, key, now)
        if row is not None:
            return _opened(row, key, sealing, now).response()
    async with keyed_transaction(database, account_id, key) as transaction:
        if key is None:
            return (await work(transaction)).response()
        try:
""",
            ),
        ),
        found_by=_cut("grant"),
    ),
    Bug(
        name="refusal-not-stored",
        does="a 402 is not stored with its key, so the same request succeeds after a top-up",
        patches=(
            Patch(
                "app.http.idempotency",
                "STORED_REFUSALS: Final = frozenset({402, 422})\n",
                "STORED_REFUSALS: Final = frozenset({422})\n",
            ),
        ),
        found_by=_test("test_starts.py::test_a_refusal_is_stored_with_its_key_and_with_nothing_else"),
    ),
    Bug(
        name="key-without-the-body",
        does="another body under the same key gets the answer of the first one",
        patches=(
            Patch(
                "app.http.idempotency",
                'request.scope.get("query_string", b""), body):\n',
                'request.scope.get("query_string", b"")):\n',
            ),
        ),
        found_by=_test("test_starts.py::test_another_request_with_the_same_key_is_refused"),
    ),
    # Heartbeats
    Bug(
        name="heartbeat-acknowledged-too-early",
        does="a heartbeat is acknowledged when it is queued, before it is stored",
        patches=(
            Patch(
                "app.heartbeats.writer",
                "        self._wake.set()\n        await done\n",
                "        self._wake.set()\n",
            ),
        ),
        found_by=_test("test_heartbeats.py::test_a_heartbeat_is_acknowledged_when_it_is_stored_and_not_before"),
    ),
    Bug(
        name="arrival-at-the-write",
        does="a heartbeat's time is that of its write, not of its arrival",
        patches=(
            Patch(
                "app.heartbeats.writer",
                "[datetime_of(tick.received_at) for tick in ticks]",
                "[datetime_of(self._clock.now() if self._clock else tick.received_at) for tick in ticks]",
            ),
            Patch(
                "app.heartbeats.writer",
                """\
    def __init__(self, statements: DurableStatements) -> None:
""",
                """\
    def __init__(self, statements: DurableStatements, clock: Clock | None = None) -> None:
        self._clock = clock
""",
            ),
            Patch(
                "app.heartbeats.writer",
                "from app.db.durable import DurableStatements\n",
                "from app.db.durable import DurableStatements\nfrom app.ports.clock import Clock\n",
            ),
            Patch(
                "app.service",
                "TickWriter(DurableStatements(self.database.conninfo))\n",
                "TickWriter(DurableStatements(self.database.conninfo), self._clock)\n",
            ),
        ),
        found_by=_test("test_heartbeats.py::test_a_heartbeat_arrived_when_it_came_however_long_its_write_takes"),
    ),
    Bug(
        name="no-second-look-after-the-lock",
        does="the first heartbeat does not look again, once it has the lock, whether another one was first",
        patches=(
            Patch(
                "app.heartbeats.binding",
                """\
            if book is None or session is None:
                raise UnknownSession
            if session.provider_session_id is not None:
                return Bound(session.provider_session_id, stored=False)
""",
                """\
            if book is None or session is None:
                raise UnknownSession
""",
            ),
        ),
        found_by=_test("test_heartbeats.py::test_first_heartbeats_at_once_bind_once"),
    ),
    Bug(
        name="late-heartbeat-of-a-failed-session-dropped",
        does="a heartbeat of a session that was given up is answered with 404 and forgotten",
        patches=(
            Patch(
                "app.heartbeats.binding",
                """\
            session = await load_session(transaction, key)
            if session is None:
                raise UnknownSession
""",
                """\
            session = await load_session(transaction, key)
            if session is None or session.state is State.FAILED:
                raise UnknownSession
""",
            ),
        ),
        found_by=_test("test_heartbeats.py::test_a_late_heartbeat_brings_a_failed_session_into_review"),
    ),
    Bug(
        name="foreign-heartbeat-counts",
        does="a heartbeat with another session's id is refused, but stored first",
        patches=(
            Patch(
                "app.heartbeats.endpoint",
                """\
        if known != provider_id:
            await self._bindings.count(session, received_at, SecurityEvent.SESSION_MISMATCH)
            raise Problem(SESSION_MISMATCH, "this webhook belongs to another session")
        await self._writer.put(tick)
""",
                """\
        await self._writer.put(tick)
        if known != provider_id:
            await self._bindings.count(session, received_at, SecurityEvent.SESSION_MISMATCH)
            raise Problem(SESSION_MISMATCH, "this webhook belongs to another session")
""",
            ),
        ),
        found_by=_test("test_heartbeats.py::test_a_foreign_session_id_is_refused_counted_and_stored_nowhere"),
    ),
    # Pulls
    Bug(
        name="timeline-page-lost",
        does="the timeline's further pages are not asked for, and its first is taken for all of it",
        patches=(
            Patch(
                "app.gabber.client",
                "            if page.next_page is None:\n                break\n",
                "            if page.next_page is None or len(values) < total:\n                total = len(values)\n"
                "                break\n",
            ),
        ),
        found_by=Run(Layer.CONTRACT, only=("test_gabber_timeline.py",)),
    ),
    Bug(
        name="inconsistent-pages-accepted",
        does="a timeline that changed while its pages were pulled is taken as it came",
        patches=(
            Patch(
                "app.gabber.client",
                """\
    if total is not None and page.total_count != total:
        return _inconsistent("total_count changed between pages")
    if len(values) > page.total_count:
        return _inconsistent("there are more values than total_count")
""",
                "",
            ),
            Patch(
                "app.gabber.client",
                """\
        if len(values) != total:
            return _inconsistent("the number of values is not total_count")
""",
                "",
            ),
        ),
        found_by=Run(Layer.CONTRACT, only=("test_gabber_timeline.py",)),
    ),
    Bug(
        name="pages-not-counted",
        does="only a pull's first page has a permit, its further ones are asked for without",
        patches=(
            Patch(
                "app.gabber.client",
                "            refused = await self._permits.ready(Purpose.PAGE, permit)\n",
                "            refused = None if visited else await self._permits.ready(Purpose.PAGE, permit)\n",
            ),
        ),
        found_by=Run(Layer.CONTRACT, only=("test_gabber_permits.py",)),
    ),
    Bug(
        name="retry-after-kept-to-oneself",
        does="a process that the provider tells to wait does not tell the others",
        patches=(
            Patch(
                "app.budget",
                "            async with self._database.transaction() as transaction:\n"
                "                await transaction.execute(statement)\n",
                "            del statement\n",
            ),
        ),
        found_by=_test("test_provider_budget.py::test_what_one_process_is_told_another_keeps_to"),
    ),
    Bug(
        name="lease-without-lock",
        does="the row of the provider's rate is read without a lock and moved on whatever it is by then",
        patches=(
            Patch("app.budget", "            .with_for_update()\n", ""),
            Patch(
                "app.budget",
                """\
        provider_budget.c.next_at == bindparam("seen_next_at"),
        provider_budget.c.blocked_until.is_not_distinct_from(bindparam("seen_blocked_until")),
""",
                "",
            ),
            Patch(
                "app.budget",
                """\
                "seen_next_at": seen.next_at,
                "seen_blocked_until": seen.blocked_until,
""",
                "",
            ),
        ),
        found_by=Run(Layer.TURNSTILE, only=("slice/slice",)),
    ),
    # Reconciliation
    Bug(
        name="split-transaction",
        does="the hold is released in one transaction and the debit posted in the next",
        patches=(
            Patch(
                "app.settlement.work",
                """\
        self._charge = await post_charge(
            self._transaction, self._book, self._session, stored, "the final timeline is in", due_at=late_look
        )
""",
                """\
        self._book.account.release(self._session.id)
        self.final = stored
""",
            ),
            Patch(
                "app.settlement.work",
                "        self._charge: NewCharge | None = None\n",
                "        self._charge: NewCharge | None = None\n        self.final: StoredEvidence | None = None\n",
            ),
            Patch(
                "app.settlement.reconciler",
                "from app.settlement.leases import Due, Leases\n",
                "from app.settlement.charges import post_charge\nfrom app.settlement.leases import Due, Leases\n",
            ),
            Patch(
                "app.settlement.reconciler",
                """\
            await work.record_charge(entry_ids)
        return outcome
""",
                """\
            await work.record_charge(entry_ids)
        if work.final is not None:
            async with self._database.transaction() as transaction:
                book = await open_book(transaction, self._ledger, key.account_id, now, [key.id])
                session = await load_session(transaction, key, lock=True)
                if book is None or session is None or session.lease_token != token:
                    return Outcome.NOT_OURS
                charged = await post_charge(transaction, book, session, work.final, "the final timeline is in")
                await charged.store(transaction, await book.close())
        return outcome
""",
            ),
        ),
        found_by=_cut("reconcile: settle"),
    ),
    Bug(
        name="lease-without-fencing",
        does="a worker that lost its lease while it pulled writes all the same",
        patches=(
            Patch(
                "app.settlement.reconciler",
                "        if book is None or session is None or session.lease_token != token:\n",
                "        if book is None or session is None:\n",
            ),
        ),
        found_by=_test("test_settlement.py::test_a_slow_pull_of_a_session_that_lives_on_writes_nothing"),
    ),
    Bug(
        name="locks-in-the-other-order",
        does="reconciliation locks the session before its account",
        patches=(
            Patch(
                "app.settlement.reconciler",
                """\
        book = await open_book(transaction, self._ledger, key.account_id, now, [key.id], correcting=correcting)
        session = await load_session(transaction, key, lock=True)
""",
                """\
        session = await load_session(transaction, key, lock=True)
        book = await open_book(transaction, self._ledger, key.account_id, now, [key.id], correcting=correcting)
""",
            ),
        ),
        found_by=Run(Layer.TURNSTILE, only=("settle/refund",)),
    ),
    Bug(
        name="over-for-ever",
        does="a session that was over stays so when a heartbeat proves that it lives",
        patches=(
            Patch(
                "app.settlement.work",
                "                await self._update(stored, interim, State.LIVE, None, due_at)\n",
                "                await self._update(stored, interim, session.state, session.over_at, due_at)\n",
            ),
        ),
        found_by=_test("test_settlement.py::test_a_session_that_was_over_lives_again_by_a_heartbeat"),
    ),
    Bug(
        name="settled-by-an-early-pull",
        does="the pull that found a session over is taken for its final one if the settle delay has passed by now",
        patches=(
            Patch(
                "app.core.settlement",
                "    if pulled_at < final_from:\n",
                "    if now < final_from:\n",
            ),
        ),
        found_by=Run(Layer.UNIT, only=("test_gate_and_settlement.py",)),
    ),
    Bug(
        name="review-never-frees-its-hold",
        does="a session that nobody decides about keeps its hold for ever",
        patches=(
            Patch(
                "app.settlement.steps",
                "        until = Instant(self._now + self._limits.review_after)\n",
                "        until = None\n",
            ),
        ),
        found_by=_test(
            "test_settlement.py::test_asking_for_a_pull_frees_no_hold_of_a_review_before_its_time",
        ),
    ),
    Bug(
        name="due-when-the-clock-catches-up",
        does="a review's hold waits for its due time however far ahead that lies since our clock was set back",
        patches=(
            Patch(
                "app.settlement.leases",
                "            .where(sessions.c.due_at > nearest, far)\n",
                "            .where(sessions.c.due_at > nearest, far, sessions.c.state != State.REVIEW.value)\n",
            ),
        ),
        found_by=_test("test_set_back.py::test_a_review_frees_its_credits"),
    ),
    Bug(
        name="lease-until-the-clock-catches-up",
        does="a lease from before our clock was set back keeps everybody from a session",
        patches=(
            Patch(
                "app.settlement.leases",
                "            if not too_far(row.lease_until, self._lease, self._clock.now()):\n",
                "            if row.lease_until:\n",
            ),
        ),
        found_by=_test("test_set_back.py::test_rounds_find_sessions_that_are_leased_by_the_clock_of_before"),
    ),
    Bug(
        name="lease-freed-by-a-sleeper",
        does="a process that was stopped takes the lease of whoever has it now for one of a clock set back",
        patches=(
            Patch(
                "app.settlement.leases",
                "            if not too_far(row.lease_until, self._lease, self._clock.now()):\n",
                "            if not row.lease_until:\n",
            ),
        ),
        found_by=_test("test_set_back.py::test_a_lease_that_was_taken_meanwhile_is_not_freed_by_whoever_slept"),
    ),
    Bug(
        name="lives-until-the-clock-catches-up",
        does="a session that ran when our clock was set back keeps its hold until the clock is where it was",
        patches=(
            Patch(
                "app.core.settlement",
                "    if too_far(over, longest, now):\n",
                "    if too_far(over, longest, over):\n",
            ),
        ),
        found_by=_test("test_set_back.py::test_a_session_that_runs_comes_into_review_and_its_credits_free"),
    ),
    Bug(
        name="our-outage-is-want-of-evidence",
        does="two failed pulls with an outage of our own between them send a session into review",
        patches=(
            Patch(
                "app.settlement.steps",
                "passed_by(since, self._limits.evidence_wait, await self._outages_since(since))",
                "since + self._limits.evidence_wait",
            ),
        ),
        found_by=_test("test_settlement.py::test_neither_are_two_with_an_outage_of_ours_between_them"),
    ),
    Bug(
        name="crowd-waits-for-ever",
        does="sessions that the provider lets nobody ask for keep their holds for as long as it refuses",
        patches=(
            Patch(
                "app.settlement.reconciler",
                "            await self._count_those_asked_in_vain(in_hand)\n",
                "            pass\n",
            ),
        ),
        found_by=_test("test_settlement.py::test_a_provider_that_refuses_everybody_keeps_no_crowds_credits"),
    ),
    Bug(
        name="poisoned-batch",
        does="one heartbeat that cannot be stored fails those that are written with it",
        patches=(Patch("app.heartbeats.writer", "            if len(batch) == 1:\n", "            if batch:\n"),),
        found_by=Run(Layer.SIM, seed=28),
    ),
    Bug(
        name="full-queue-acknowledged",
        does="a heartbeat that finds the queue full is acknowledged and forgotten",
        patches=(
            Patch(
                "app.heartbeats.endpoint",
                'await self._answer(Problem(BUSY, "too many heartbeats are waiting"), scope, receive, send)\n',
                "await self._answer_empty(send, 204)\n",
            ),
        ),
        found_by=Run(Layer.SIM, seed=15),
    ),
    Bug(
        name="stamped-by-a-wrong-clock",
        does="a process whose clock is wrong takes heartbeats and stamps them by it",
        patches=(
            Patch(
                "app.heartbeats.endpoint",
                "        if not self._clock_agrees():\n",
                "        if self._clock_agrees is None:\n",
            ),
        ),
        found_by=Run(Layer.SIM, seed=36),
    ),
    Bug(
        name="given-up-unheard",
        does="an ambiguous start is given up for a silence in which our own outage lasted",
        patches=(
            Patch(
                "app.settlement.work",
                "        if until > self._now >= session.requested_at:\n",
                "        if until < session.requested_at:\n",
            ),
        ),
        found_by=Run(Layer.SIM, seed=128),
    ),
    Bug(
        name="deaf-until-proven-dead",
        does="a session is over because it was silent while we were away",
        patches=(
            Patch(
                "app.core.settlement",
                "passed_by(alive_at, patience, outages)",
                "passed_by(alive_at, patience, ())",
            ),
        ),
        found_by=Run(Layer.INTEGRATION, only=("test_own_outages.py",)),
    ),
    Bug(
        name="shrunk-timeline-credited",
        does="a timeline that shrank after the session was settled gives credits back by itself",
        patches=(
            Patch(
                "app.settlement.work",
                "        contradictions = rating.contradictions\n",
                "        contradictions: list[str] = []\n",
            ),
        ),
        found_by=_test("test_late_evidence.py::test_a_timeline_that_shrank_is_for_a_person_to_judge"),
    ),
    Bug(
        name="accepted-loss-held-against-it",
        does="a timeline that grows again after an operator accepted its loss is held against what was lost",
        patches=(
            Patch(
                "app.settlement.reviews",
                "    return replace(session, accepted_snapshot=stored.rated.n)\n",
                "    return session\n",
            ),
        ),
        found_by=_test("test_late_evidence.py::test_what_grows_after_an_accepted_loss_is_charged_by_itself"),
    ),
    Bug(
        name="crowd-hides-the-rest",
        does="those who need no pull are looked for among those who wait for one, and no more than fit a round",
        patches=(
            Patch(
                "app.settlement.leases",
                "        for kind in (not_(pulls), and_(pulls, not_(failed)), and_(pulls, failed))\n",
                "        for kind in (not_(failed), failed)\n",
            ),
        ),
        found_by=_test("test_settlement.py::test_nor_does_a_crowd_larger_than_a_round_hide_anybody"),
    ),
    Bug(
        name="word-outlives-proof",
        does="a session that the provider says it ended stays over, although its agent proves to be alive",
        patches=(
            Patch(
                "app.core.settlement",
                "    if ended_at is not None and alive_at <= ended_at + END_TOLERANCE:\n",
                "    if ended_at is not None:\n",
            ),
        ),
        found_by=_test("test_ending.py::test_a_provider_that_only_says_so_ends_nothing"),
    ),
    Bug(
        name="accepted-all-for-ever",
        does="after an operator accepted segments that are none, others like them are no contradiction any more",
        patches=(
            Patch(
                "app.core.settlement",
                "        if unusable <= accepted.unusable:\n",
                "        if accepted.unusable:\n",
            ),
        ),
        found_by=_test("test_late_evidence.py::test_what_was_accepted_as_unusable_stays_so"),
    ),
    Bug(
        name="broken-account-blocks-its-review",
        does="a session whose account is broken is tried again for ever, as its account must be opened to set it aside",
        patches=(
            Patch(
                "app.settlement.reconciler",
                "            outbox = await lock_outbox(transaction, key.account_id)\n",
                "            book = await open_book(transaction, self._ledger, key.account_id, now)\n"
                "            outbox = book and book.outbox\n"
                "            if book is not None:\n"
                "                book.account.check()\n",
            ),
        ),
        found_by=_test("test_settlement.py::test_neither_does_a_broken_account_keep_its_session_from_review"),
    ),
    Bug(
        name="accepted-loss-is-no-measure",
        does="after an operator accepted a timeline's loss, a further one is no contradiction any more",
        patches=(
            Patch(
                "app.core.alignment",
                "    if max(pull.speech for pull in pulls[accepted:]) - rated.speech > SHRINK_TOLERANCE:\n",
                "    if not accepted and max(pull.speech for pull in pulls) - rated.speech > SHRINK_TOLERANCE:\n",
            ),
        ),
        found_by=Run(Layer.UNIT, only=("test_charging_constants.py",)),
    ),
    Bug(
        name="late-look-for-ever",
        does="late evidence changes a charge however long ago it was posted",
        patches=(
            Patch(
                "app.settlement.corrections",
                "    return session.settled_at is not None and now - session.settled_at <= window\n",
                "    return session.settled_at is not None\n",
            ),
        ),
        found_by=_test("test_late_evidence.py::test_after_a_long_outage_of_ours_it_is_too_late"),
    ),
    Bug(
        name="written-off-and-kept",
        does="what an operator writes off of a charged session is not given back",
        patches=(
            Patch(
                "app.settlement.reviews",
                "    left = MicroCredits(sum(debit.left for debit in book.debits))\n    if left:\n",
                "    left = MicroCredits(sum(debit.left for debit in book.debits))\n    if not left:\n",
            ),
        ),
        found_by=Run(Layer.SIM, seed=173),
    ),
    Bug(
        name="empty-room-pays",
        does="a session that only a heartbeat confirmed is charged from its first second on",
        patches=(
            Patch(
                "app.heartbeats.binding",
                "charge_from=None if adopted else ChargeFrom.FIRST_USER_SPEECH.value,",
                "charge_from=None,",
            ),
        ),
        found_by=Run(Layer.SIM, seed=13),
    ),
    Bug(
        name="write-off-charged",
        does="what an operator writes off is charged all the same",
        patches=(
            Patch(
                "app.settlement.charges",
                "    wanted = MicroCredits(0) if free else final.amount\n",
                "    wanted = final.amount\n",
            ),
        ),
        found_by=Run(Layer.SIM, seed=19),
    ),
    Bug(
        name="contradictions-settled",
        does="a timeline that shrank is settled as it is instead of being reviewed",
        patches=(
            Patch(
                "app.core.settlement",
                "{Anomaly.BAD_SEGMENT, Anomaly.TIMELINE_LONGER_THAN_ELAPSED, Anomaly.TIMELINE_SHRANK}\n",
                "{Anomaly.BAD_SEGMENT, Anomaly.TIMELINE_LONGER_THAN_ELAPSED}\n",
            ),
        ),
        found_by=Run(Layer.UNIT, only=("test_gate_and_settlement.py",)),
    ),
    # Retention and replay
    Bug(
        name="packed-heartbeats-forgotten",
        does="a settled session is rated again on the heartbeats whose rows are left, not on those of its charge",
        patches=(
            Patch(
                "app.sessions.heartbeats",
                "            heard[session_id] |= Counter(unpack_instants(instants))\n",
                '            heard[session_id] |= Counter(unpack_instants(b""))\n',
            ),
        ),
        found_by=_test("test_retention.py::test_rating_again_after_retention_has_all_the_heartbeats"),
    ),
    Bug(
        name="retention-a-day-early",
        does="a day's heartbeats are dropped when the first of them is old enough, not the last",
        patches=(
            Patch(
                "app.heartbeats.retention",
                "        if day + timedelta(days=1) > oldest_kept.date():\n",
                "        if day > oldest_kept.date():\n",
            ),
        ),
        found_by=_test("test_retention.py::test_the_days_go_one_by_one_and_nothing_that_is_told_changes"),
    ),
    Bug(
        name="twins-packed-as-one",
        does="of heartbeats within one microsecond a charge keeps one",
        patches=(
            Patch(
                "app.settlement.charges",
                '        "ticks": pack_instants(stored.evidence.heartbeats),\n',
                '        "ticks": pack_instants(set(stored.evidence.heartbeats)),\n',
            ),
        ),
        found_by=_test("test_retention.py::test_two_heartbeats_within_one_microsecond_stay_two"),
    ),
    Bug(
        name="charge-names-the-rated-pull",
        does="a charge names the pull that was rated as its last one, though a later one was part of its evidence",
        patches=(
            Patch(
                "app.settlement.charges",
                '        "snapshot_n": stored.last_n,\n',
                '        "snapshot_n": 0 if stored.rated is None else stored.rated.n,\n',
            ),
        ),
        found_by=_test("test_retention.py::test_the_pull_that_is_rated_need_not_be_the_last"),
    ),
    Bug(
        name="failed-answer-thrown-away",
        does="what the provider answered to a pull that failed is not kept",
        patches=(
            Patch(
                "app.settlement.reconciler",
                "                await keep_failed_pull(transaction, key, pulled)\n",
                "                pass\n",
            ),
        ),
        found_by=_test("test_raw_bodies.py::test_of_failed_pulls_the_first_and_the_last_are_kept"),
    ),
)
