"""The sessions of a simulated provider: who talks, which heartbeats are due, and what was really sent."""

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final
from urllib.parse import SplitResult

from app.core.units import US_PER_S, Instant, Micros
from app.ports.ids import TimeOrderedIds
from app.simulator.config import MAX_SESSIONS, SimulatorConfig
from app.simulator.conversation import heard, heartbeats, leaves_after
from app.simulator.faults import Faults, Setting
from app.simulator.poster import Poster, PostFailed
from app.simulator.script import Script, Segment, draw

MAX_HEARTBEATS_KEPT: Final = 5_000
"""Records of heartbeats kept per session, the latest ones."""

MAX_HEARTBEATS_WAITING: Final = 5_000
"""Heartbeats on their way at once, in all sessions; one that is due beyond it is dropped and recorded as such."""

MAX_CALLS_KEPT: Final = 200_000
"""Records of the provider's calls, the latest ones."""

RETRY_AFTER_FAILURE: Final = Micros(US_PER_S)


@dataclass(slots=True)
class Heartbeat:
    """What became of one heartbeat; each POST of it has a record of its own."""

    due_at: Instant
    fault: str | None = None
    sent_at: Instant | None = None
    """When the POST began; ``None``: never sent."""
    status: int | None = None
    """The answer; ``None``: none yet, or none at all."""
    failure: str | None = None
    done_at: Instant | None = None
    """When the answer was there, or its failure known: if it arrived at all, it had by then."""


@dataclass(slots=True, kw_only=True)
class Call:
    """A start, a pull of a page or an end that was asked for, whatever was answered."""

    at: Instant
    """When it came."""
    operation: str
    persona: str | None = None
    """Of a start."""
    session: str | None = None
    """Whom it was about, or what was started by it; ``None``: nothing."""
    fault: str | None = None


@dataclass(slots=True, kw_only=True)
class Session:
    """A session that was started, for as long as it is remembered."""

    id: str
    persona: str
    scenario: str
    script: Script
    limit: Micros
    webhook: SplitResult | None
    started_at: Instant
    ended_at: Instant | None = None
    """When it was ended by request, if that was before the agent left by itself."""
    heartbeats: deque[Heartbeat] = field(default_factory=lambda: deque(maxlen=MAX_HEARTBEATS_KEPT))
    beating: asyncio.Task[None] | None = None
    on_their_way: int = 0
    faults: Faults | None = None
    """Of this session alone; they strike before those of all."""

    @property
    def quiet(self) -> bool:
        """No heartbeat is due, or on its way, any more: the records are complete."""
        return (self.beating is None or self.beating.done()) and self.on_their_way == 0

    @property
    def connected_at(self) -> Instant:
        """The timeline's offset 0."""
        return Instant(self.started_at + self.script.connects_after)

    @property
    def leaves_at(self) -> Instant:
        leaves_at = Instant(self.connected_at + leaves_after(self.script, self.limit))
        return leaves_at if self.ended_at is None else min(leaves_at, self.ended_at)

    def end(self, now: Instant) -> None:
        """The agent leaves now: no word and no heartbeat of its comes after this. Nothing happens if it has left."""
        if now >= self.leaves_at:
            return
        self.ended_at = now
        if self.beating is not None:
            self.beating.cancel()

    def timeline(self, now: Instant) -> list[Segment]:
        """Exactly what has happened up to ``now``."""
        # To be ended by request and to reach the time limit come to the same.
        limit = self.limit if self.ended_at is None else Micros(max(0, self.ended_at - self.connected_at))
        return heard(self.script, min(limit, self.limit), Micros(max(0, now - self.connected_at)))


class World:
    """All sessions of one simulated provider. Lives on one event loop; ``aclose`` it."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.clock = config.clock
        self.faults = Faults(config.faults, config.randomness("faults"))
        self._conversations = config.randomness("conversations")
        self._ids = TimeOrderedIds(config.clock, config.randomness("ids"))
        self._sessions: dict[str, Session] = {}
        self._calls: deque[Call] = deque(maxlen=MAX_CALLS_KEPT)
        self._called = 0
        self._poster = Poster()
        self._posting: set[asyncio.Task[None]] = set()

    @property
    def sessions(self) -> Mapping[str, Session]:
        """By id, in the order of their starts."""
        return self._sessions

    def call(self, operation: str, session: str | None = None) -> Call:
        """A record of a call that comes now; what is found out about it later is put into it."""
        call = Call(at=self.clock.now(), operation=operation, session=session)
        self._calls.append(call)
        self._called += 1
        return call

    def calls(self, first: int, most: int) -> tuple[int, list[Call]]:
        """How many calls there were, and at most ``most`` of them from number ``first`` (0: the very first) on.

        Those that are no longer kept are left out.
        """
        forgotten = self._called - len(self._calls)
        start = max(0, first - forgotten)
        return self._called, list(islice(self._calls, start, start + most))

    def strike(self, operation: str, session: Session) -> str | None:
        """The fault that strikes a call about this session, or a heartbeat of it; ``None`` if none."""
        own = None if session.faults is None else session.faults.strike(operation)
        return own or self.faults.strike(operation)

    def spoil(self, session: Session, settings: Mapping[str, Setting]) -> Faults:
        """Replace the faults of one session."""
        session.faults = Faults(settings, self.config.randomness(f"faults of {session.id}"))
        return session.faults

    def script_for(self, persona: str, scenario: str) -> Script | None:
        """What the start of ``scenario`` plays; ``None`` if this provider does not know persona or scenario."""
        config = self.config
        if not config.any_persona and persona not in config.personas:
            return None
        if scenario == "default":
            scenario = config.default_script
        return config.scripts.get(scenario, config.scripts[config.default_script] if config.any_persona else None)

    def start(
        self, script: Script, *, persona: str, scenario: str, limit: Micros, webhook: SplitResult | None
    ) -> Session | None:
        """Start a session now; ``None`` if there are too many."""
        if len(self._sessions) >= MAX_SESSIONS and not self._forget_one():
            return None
        session = Session(
            id=str(self._ids.new()),
            persona=persona,
            scenario=scenario,
            script=draw(script, self._conversations),
            limit=limit,
            webhook=webhook,
            started_at=self.clock.now(),
        )
        self._sessions[session.id] = session
        if webhook is not None and session.script.heartbeats:
            session.beating = asyncio.create_task(self._beat(session, webhook))
        return session

    def _forget_one(self) -> bool:
        now = self.clock.now()
        for session in self._sessions.values():
            if session.leaves_at <= now:
                del self._sessions[session.id]
                return True
        return False

    async def _beat(self, session: Session, webhook: SplitResult) -> None:
        """Send each heartbeat when it is due. Posts run beside this, so that a slow receiver delays no later one."""
        for offset in heartbeats(session.script, session.limit):
            due_at = Instant(session.connected_at + offset)
            await self.clock.sleep(Micros(due_at - self.clock.now()))
            fault = self.strike("heartbeat", session)
            for _ in range(2 if fault == "doubled" else 1):
                record = Heartbeat(due_at, fault)
                session.heartbeats.append(record)
                if len(self._posting) >= MAX_HEARTBEATS_WAITING:
                    record.failure = "too many heartbeats are waiting"
                elif fault != "lost":
                    session.on_their_way += 1
                    post = asyncio.create_task(self._post(session, webhook, record))
                    self._posting.add(post)
                    post.add_done_callback(self._posting.discard)

    async def _post(self, session: Session, webhook: SplitResult, record: Heartbeat) -> None:
        try:
            await self._deliver(session, webhook, record)
        finally:
            session.on_their_way -= 1

    async def _deliver(self, session: Session, webhook: SplitResult, record: Heartbeat) -> None:
        if record.fault == "late":
            await self.clock.sleep(self.config.late)
        named = str(self._ids.new()) if record.fault == "foreign" else session.id
        body = json.dumps({"session_id": named}).encode()
        for attempt in range(1 + self.config.heartbeat_retries):
            if attempt:
                await self.clock.sleep(RETRY_AFTER_FAILURE)
            record.sent_at = self.clock.now()
            try:
                record.status = await self._poster.post(webhook, body)
                record.failure = None
            except PostFailed as error:
                record.failure = str(error)
            record.done_at = self.clock.now()
            if record.status is not None and record.status < 500 and record.status != 429:
                return

    async def posted(self) -> None:
        """Wait until every heartbeat that was due has been answered, or has failed."""
        while self._posting:
            await asyncio.wait(set(self._posting))

    async def aclose(self) -> None:
        """Stop all heartbeats and wait until they have stopped."""
        tasks = [task for session in self._sessions.values() if (task := session.beating)] + list(self._posting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._poster.aclose()
