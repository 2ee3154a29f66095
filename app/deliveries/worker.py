"""Deliveries at work: a lane for each endpoint, so that one that is slow, or hangs, takes its own places only.

An alarm dispatches what is in the outboxes and looks for which endpoints something is due; each of them gets a lane, if
it has none, which goes on until nothing more is due. Any number of processes may do this at once: who makes which
delivery, leases decide (:mod:`.queue`).

What is sent may have arrived although nobody could write that down, because the process died or the answer was lost:
then it is sent again, under the same id.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final
from uuid import UUID

import structlog

from app import __version__
from app.core.delivery import LONGEST_RETRY_AFTER, DeadLetter, EndpointGone, jitter_bound, judge_attempt
from app.core.retry_after import read_retry_after
from app.core.targets import Refused, read_target
from app.core.units import US_PER_S, Instant, Micros
from app.db.database import Database, DatabaseUnavailable
from app.deliveries.dispatch import Dispatcher
from app.deliveries.endpoints import Endpoint, EndpointPorts, secrets_of
from app.deliveries.events import event_body, event_id
from app.deliveries.queue import Attempt, Batch, DeliveryQueue, Leased
from app.deliveries.secrets import EndpointSecret, signed_headers
from app.deliveries.sending import PLACES, Answered, NotAnswered, Sender
from app.ports.clock import Clock

IN_DATABASE: Final = 3
"""Lanes of a process that use the database at once: most of its connections are for those who wait for an answer."""

STOP_GRACE: Final = Micros(2 * US_PER_S)
"""So long a stop waits for answers that are under way."""

MOST_ROUNDS: Final = 50
"""Batches that one alarm dispatches before deliveries get their turn."""

_HEADERS: Final = {
    "user-agent": f"talktime/{__version__}",
    "content-type": "application/json",
    "accept-encoding": "identity",
}

log = structlog.get_logger(__name__)


class Deliverer:
    """See the module. :meth:`stop` it before the database is closed."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        ports: EndpointPorts,
        sender: Sender,
        limit: Micros,
        clock_agrees: Callable[[], bool],
    ) -> None:
        """``limit``: how long one delivery takes at most, which the ``sender`` sees to.

        ``clock_agrees``: whether our clock can be gone by; while it cannot, nothing more is begun.
        """
        self._clock_agrees = clock_agrees
        self._clock = clock
        self._ports = ports
        self._sender = sender
        self._limit = limit
        self._dispatcher = Dispatcher(database, clock)
        self._queue = DeliveryQueue(database, clock, ports.ids, limit=limit)
        self._lanes: dict[UUID, asyncio.Task[None]] = {}
        self._sending: set[asyncio.Task[Attempt | None]] = set()
        self._in_database = asyncio.Semaphore(IN_DATABASE)
        self._stopping = False

    async def dispatch(self) -> int:
        """Make deliveries of what is in the outboxes; how many."""
        made = 0
        for _ in range(MOST_ROUNDS):
            done = await self._dispatcher.dispatch()
            made += done.deliveries
            if not done.more or not done.accounts or self._stopping:
                break
        return made

    async def fill(self) -> Sequence[asyncio.Task[None]]:
        """Give each endpoint for which something is due a lane; those that were begun."""
        if self._stopping:
            return []
        due = await self._queue.endpoints_due()
        begun = []
        for endpoint_id in due:
            if endpoint_id not in self._lanes and not self._stopping:
                lane = asyncio.create_task(self._guarded(endpoint_id), name=f"deliveries {endpoint_id}")
                self._lanes[endpoint_id] = lane
                lane.add_done_callback(partial(self._ended, endpoint_id))
                begun.append(lane)
        return begun

    def _ended(self, endpoint_id: UUID, _lane: asyncio.Task[None]) -> None:
        del self._lanes[endpoint_id]

    async def run_due(self) -> None:
        """Dispatch, and deliver what is due, to the end of it."""
        await self.dispatch()
        await self.fill()
        while self._lanes:
            await asyncio.wait(list(self._lanes.values()))
            await asyncio.sleep(0)  # what is done leaves its lane

    async def stop(self) -> None:
        """Begin nothing more; write down what came of what is under way, and give the rest back."""
        self._stopping = True
        if self._sending:
            await asyncio.wait(list(self._sending), timeout=self._clock.real_seconds(STOP_GRACE))
        for sending in list(self._sending):
            sending.cancel()
        if self._lanes:
            await asyncio.wait(list(self._lanes.values()))
        await self._sender.aclose()

    async def _guarded(self, endpoint_id: UUID) -> None:
        """One endpoint's trouble stops no other's: its leases run out, and it is tried again."""
        try:
            while not self._stopping and self._clock_agrees():
                async with self._in_database:
                    batch = await self._queue.take(endpoint_id)
                if batch is None:
                    return
                await self._deliver(batch)
        except DatabaseUnavailable:
            log.warning("deliveries.database_unavailable", endpoint=str(endpoint_id))
        except Exception:
            log.exception("deliveries.broke", endpoint=str(endpoint_id))
        finally:
            await self._sender.forget(endpoint_id)

    async def _deliver(self, batch: Batch) -> None:
        secrets = secrets_of(self._ports, batch.endpoint, self._clock.now())
        places = asyncio.Semaphore(PLACES)
        gone = asyncio.Event()

        async def one(leased: Leased) -> Attempt | None:
            async with places:
                # Nothing leaves so late that another one's turn could begin before its answer is here.
                if self._stopping or gone.is_set() or self._clock.now() + self._limit > batch.until:
                    return None
                attempt = await self._attempt(batch.endpoint, secrets, leased)
                if isinstance(attempt.verdict, EndpointGone):
                    gone.set()
                return attempt

        tasks = [asyncio.create_task(one(leased)) for leased in batch.leased]
        for task in tasks:
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        attempts = [came for came in done if isinstance(came, Attempt)]
        async with self._in_database:
            recorded = await self._queue.record(batch, attempts)
        for came in done:
            if isinstance(came, Exception):
                raise came
        self._tell(batch, attempts)
        if recorded.disabled is not None:
            log.error("endpoint.disabled", endpoint=batch.endpoint.public_id, why=recorded.disabled.value)

    def _tell(self, batch: Batch, attempts: Sequence[Attempt]) -> None:
        dead = sum(isinstance(attempt.verdict, DeadLetter) for attempt in attempts)
        if dead:
            log.error("endpoint.dead_letters", endpoint=batch.endpoint.public_id, number=dead)

    async def _attempt(self, endpoint: Endpoint, secrets: Sequence[EndpointSecret], leased: Leased) -> Attempt:
        began = self._clock.now()
        came = await self._send(endpoint, secrets, leased, began)
        ended = self._clock.now()
        answered = came if isinstance(came, Answered) else None
        attempts = leased.attempts + 1
        verdict = judge_attempt(
            status=None if answered is None else answered.status,
            attempts=attempts,
            retry_after=(
                None if answered is None else read_retry_after(answered.retry_after, ended, LONGEST_RETRY_AFTER)
            ),
            jitter=Micros(self._ports.randomness.below(jitter_bound(attempts))),
        )
        return Attempt(
            delivery=leased,
            at=began,
            took=Micros(max(0, ended - began)),
            status=None if answered is None else answered.status,
            error=came.why if isinstance(came, NotAnswered) else None,
            body=None if answered is None else answered.body,
            verdict=verdict,
        )

    async def _send(
        self, endpoint: Endpoint, secrets: Sequence[EndpointSecret], leased: Leased, now: Instant
    ) -> Answered | NotAnswered:
        target = read_target(endpoint.url, private_ok=self._ports.private_ok)
        if isinstance(target, Refused):
            return NotAnswered(f"not sent: the URL {target.why}")
        if not secrets:
            return NotAnswered("not sent: the key that sealed its secret is gone; rotate the secret")
        body = event_body(leased.event)
        signed = signed_headers(secrets, event_id(*leased.key), now, body)
        return await self._sender.post(endpoint.id, target, {**_HEADERS, **signed}, body)
