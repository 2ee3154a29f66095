"""Who listens to which user, in this process: one look a second at what changed, and reads for changed users only.

A listener costs its connection and an entry here: no task, no timer, no query of its own. Whatever is to be said is
said by a task that lives for as long as the saying takes. It always says the newest state, so one that reads slowly
misses steps in between and never the last one, and nothing piles up for it.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

import structlog
from starlette.types import Send

from app.core.access import Caller
from app.core.ids import account_id_of
from app.core.units import US_PER_S, Instant, Micros
from app.db.database import Database, DatabaseUnavailable, Transaction
from app.errors import BUSY, NO_STREAM_FREE, TOO_MANY_STREAMS, UNAVAILABLE, USER_SUSPENDED, Problem
from app.live.changes import Mark, cards_in_force, changed_since
from app.live.frames import BEAT, End, end_frame, state_frame
from app.live.state import LiveState
from app.ports.clock import Clock
from app.ports.randomness import Randomness

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 1.0
BEAT_EVERY_S: Final = 1.0
BEATS: Final = 25
"""A listener hears something at least so often, in seconds: proxies cut what is silent for a minute, some sooner."""

KEYS_EVERY: Final = 10
"""Looks between two at whether keys were revoked, and whether other prices are in force."""

AT_ONCE: Final = 4
"""Users that are read at the same time: the rest of the pool is for others."""

OPENED_AT_ONCE: Final = 3
"""Streams whose first state is read at the same time. When a process is started anew, all of its listeners come at
once, and starts of sessions wait for the same connections."""

MOST_OPENING: Final = 100
"""So many wait for that; the others come again a little later."""

PRICED_AT_ONCE: Final = 100
"""Users whose time left is worked out anew in a round because of other prices."""

RETRY_MS: Final = 1_000
RETRY_SPREAD_S: Final = 4
"""A listener that was cut off comes again after one to five seconds, each after another time."""

LAST_WORD_S: Final = 1.0
"""When the process stops, whoever has not taken his last event by then is cut off."""

ReadState = Callable[[Transaction, str, Instant], Awaitable[LiveState]]
Revoked = Callable[[Transaction, Collection[str]], Awaitable[set[str]]]
"""Which of these callers, by name, may no longer call."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """``most`` in this process, ``most_of_user`` of one user, each for ``longest`` of our clock's time."""

    most: int
    most_of_user: int
    longest: Micros


class Told(NamedTuple):
    """A state as all listeners of its user are told it: made once."""

    id: str
    frame: bytes


class Feed:
    """One user who is listened to. ``state``: the id of the newest that was read, and how it is told.

    ``reading``: held while it is read, so that of two reads the one that saw less never comes last.
    """

    __slots__ = ("account_id", "listeners", "reading", "state", "user_id")

    def __init__(self, user_id: str, account_id: UUID) -> None:
        self.user_id = user_id
        self.account_id = account_id
        self.listeners: set[Listener] = set()
        self.state: Told | None = None
        self.reading = asyncio.Lock()


class Listener:
    """One open stream.

    ``told``: the id of the state that its client knows; ``events``: how many it was told. ``end``: why it ends, if it
    is to; ``deaf``: it was cut off because its client took nothing.
    """

    __slots__ = (
        "_abort",
        "_beat_due",
        "_closing",
        "_leave",
        "_saying",
        "_send",
        "_unheard",
        "caller",
        "deaf",
        "end",
        "ends_at",
        "events",
        "feed",
        "last",
        "since",
        "slot",
        "told",
    )

    def __init__(self, feed: Feed, caller: Caller, since: Instant, ends_at: Instant, last: End, slot: int) -> None:
        """``last``: why it will end at ``ends_at``."""
        self.feed = feed
        self.caller = caller
        self.since = since
        self.ends_at = ends_at
        self.last = last
        self.slot = slot
        self.told: str | None = None
        self.events = 0
        self.end: End | None = None
        self.deaf = False
        self._send: Send | None = None
        self._leave: asyncio.Timeout | None = None
        self._abort: Callable[[], None] | None = None
        self._saying: asyncio.Task[None] | None = None
        self._beat_due = self._closing = False
        self._unheard = 0

    def open(self, send: Send, leave: asyncio.Timeout, abort: Callable[[], None] | None) -> None:
        """From here on it can be told: its answer has begun.

        ``leave``: what its request waits in, which ends the wait. ``abort``: cuts the connection.
        """
        self._send, self._leave, self._abort = send, leave, abort
        self.wake()

    def wake(self) -> None:
        """Say what there is to say, unless that is being done."""
        if self._send is not None and self._saying is None and self._has_news():
            self._saying = asyncio.create_task(self._say(self._send))

    def beat(self) -> None:
        """Say that we are there; cut off whoever has taken nothing for two such times."""
        if self._saying is None:
            self._unheard = 0
            self._beat_due = True
            self.wake()
            return
        self._unheard += 1
        if self._unheard > 1:
            self.cut_off()

    def finish(self, why: End) -> None:
        """Say why it ends, and end it. The first reason stands."""
        if self.end is None:
            self.end = why
            self.wake()

    def cut_off(self) -> None:
        """End it without another word: its client takes none."""
        self.deaf = True
        if self._saying is not None:
            self._saying.cancel()
        if self._abort is not None:
            self._abort()
        self._be_gone()

    def close(self) -> None:
        """It is gone: say no more."""
        if self._saying is not None:
            self._saying.cancel()
        self._send = self._leave = self._abort = None

    def _has_news(self) -> bool:
        state = self.feed.state
        return self.end is not None or self._beat_due or (state is not None and state.id != self.told)

    async def _say(self, send: Send) -> None:
        try:
            while not self._closing and self._has_news():
                frame = self._next()
                await send({"type": "http.response.body", "body": frame, "more_body": not self._closing})
            if self._closing:
                self._be_gone()
        except OSError:
            self._be_gone()
        finally:
            self._saying = None

    def _next(self) -> bytes:
        """What to say now: an end before all else, then the newest state, which is a sign of life as well."""
        if self.end is not None:
            self._closing = True
            return end_frame(self.end)
        self._beat_due = False
        state = self.feed.state
        if state is None or state.id == self.told:
            return BEAT
        self.told = state.id
        self.events += 1
        return state.frame

    def _be_gone(self) -> None:
        if self._leave is not None and not self._leave.expired():
            self._leave.reschedule(asyncio.get_running_loop().time())
            self._leave = None


class Hub:
    """See the module. Its two alarms are :meth:`look` and :meth:`beat`."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        randomness: Randomness,
        read: ReadState,
        revoked: Revoked,
        clock_agrees: Callable[[], bool],
        limits: StreamLimits,
    ) -> None:
        self._database = database
        self._clock = clock
        self._randomness = randomness
        self._read = read
        self._revoked = revoked
        self._clock_agrees = clock_agrees
        self._limits = limits
        self._opened = asyncio.Semaphore(OPENED_AT_ONCE)
        self._opening = 0
        self._feeds: dict[UUID, Feed] = {}
        self._count = 0
        self._slots: list[set[Listener]] = [set() for _ in range(BEATS)]
        self._ends: defaultdict[int, set[Listener]] = defaultdict(set)
        self._keys: defaultdict[str, set[Listener]] = defaultdict(set)
        self._mark: Mark | None = None
        self._cards: int | None = None
        self._changed: set[UUID] = set()
        self._maybe: dict[UUID, None] = {}
        """Users who may have changed, in the order of asking: read a few at a time."""
        self._looks = self._beats = 0
        self._stopping = False
        self._empty = asyncio.Event()
        self.reads = 0
        """How many states were read for streams."""

    @property
    def listeners(self) -> int:
        return self._count

    async def state_of(self, user_id: str) -> LiveState:
        """The user's state now. A :class:`~app.errors.Problem`: 404 for a user never seen."""
        async with self._database.reading() as transaction:
            return await self._read(transaction, user_id, self._clock.now())

    async def join(self, user_id: str, caller: Caller, seen: str | None) -> Listener:
        """A place for a stream of ``user_id``'s state, which was read after it was taken, so that no change is missed.

        ``seen``: the id of the state that the client saw last. Raises a :class:`~app.errors.Problem`: 404 for a user
        never seen, 409 for one who is suspended, 429 if the user has too many streams, 503 if this process has, if too
        many are being opened, if it stops, or if its clock is wrong.
        """
        self._refuse_if_not_now()
        listener = self._place(user_id, caller)
        listener.told = seen
        self._opening += 1
        try:
            async with self._opened:
                state = await self._refresh(listener.feed)
        except BaseException:
            self.leave(listener)
            raise
        finally:
            self._opening -= 1
        if state.suspended:
            self.leave(listener)
            raise Problem(USER_SUSPENDED, "a user who is suspended is told nothing")
        if self._stopping:
            listener.finish(End.STOPPING)
        return listener

    def leave(self, listener: Listener) -> None:
        """Give the place back."""
        listener.close()
        feed = listener.feed
        if listener not in feed.listeners:
            return
        feed.listeners.discard(listener)
        self._count -= 1
        if not self._count:
            self._empty.set()
        self._slots[listener.slot].discard(listener)
        _discard(self._ends, _second(listener.ends_at), listener)
        _discard(self._keys, listener.caller.name, listener)
        if not feed.listeners and self._feeds.get(feed.account_id) is feed:
            del self._feeds[feed.account_id]
            self._changed.discard(feed.account_id)
            self._maybe.pop(feed.account_id, None)

    def retry_ms(self) -> int:
        """After how long a client comes again that was cut off."""
        return RETRY_MS + self._randomness.below(RETRY_SPREAD_S * 1_000)

    async def beat(self) -> None:
        """A second has passed: end the streams whose time has come, say to some of the others that we are there."""
        if self._clock_agrees():
            now = self._clock.now() // US_PER_S
            for second in [second for second in self._ends if second <= now]:
                for listener in self._ends.pop(second):
                    listener.finish(listener.last)
        self._beats += 1
        for listener in list(self._slots[self._beats % BEATS]):
            listener.beat()

    async def look(self) -> None:
        """Find who changed since the last look, read those who are listened to, and tell their listeners.

        What could not be read is read in the next round. Raises :class:`~app.db.database.DatabaseUnavailable`.
        """
        if not self._feeds:
            self._mark = None  # so that nobody is taken to be up to date when one listens again
            return
        if not self._clock_agrees():
            return
        self._looks += 1
        await self._find_changes()
        while self._changed:
            await self._read_again([self._changed.pop() for _ in range(min(AT_ONCE, len(self._changed)))])
        for _ in range(0, min(PRICED_AT_ONCE, len(self._maybe)), AT_ONCE):
            some = list(self._maybe)[:AT_ONCE]
            for account_id in some:
                del self._maybe[account_id]
            await self._read_again(some)

    async def stop(self) -> None:
        """End all streams at once, and take no more."""
        self._empty.clear()
        self._stopping = True
        for listener in self._all():
            listener.finish(End.STOPPING)
        if self._count:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), LAST_WORD_S)
        for listener in self._all():
            listener.cut_off()

    def _all(self) -> list[Listener]:
        return [listener for feed in self._feeds.values() for listener in feed.listeners]

    def _refuse_if_not_now(self) -> None:
        if self._stopping:
            raise Problem(UNAVAILABLE, "this process stops; another one goes on")
        if not self._clock_agrees():
            raise Problem(UNAVAILABLE, "our clock and the database's disagree; try again")
        if self._opening >= MOST_OPENING:
            wait = str(1 + self._randomness.below(RETRY_SPREAD_S))
            raise Problem(BUSY, "too many streams are being opened", headers={"Retry-After": wait})

    def _place(self, user_id: str, caller: Caller) -> Listener:
        account_id = account_id_of(user_id)
        feed = self._feeds.get(account_id)
        if feed is not None and len(feed.listeners) >= self._limits.most_of_user:
            detail = f"at most {self._limits.most_of_user} streams of one user are open at once"
            raise Problem(TOO_MANY_STREAMS, detail, headers={"Retry-After": "5"})
        if self._count >= self._limits.most:
            raise Problem(NO_STREAM_FREE, "this process has as many streams as it takes", headers={"Retry-After": "5"})
        if feed is None:
            feed = self._feeds[account_id] = Feed(user_id, account_id)
        now = self._clock.now()
        # Not all after the same time, or those of a restart would come again together for ever.
        longest = self._limits.longest - self._randomness.below(max(1, self._limits.longest // 10))
        ends_at, last = Instant(now + longest), End.TIME_IS_UP
        if caller.expires_at is not None and caller.expires_at <= ends_at:
            ends_at, last = caller.expires_at, End.TOKEN_EXPIRED
        slot = min(range(BEATS), key=lambda n: len(self._slots[n]))
        listener = Listener(feed, caller, now, ends_at, last, slot)
        feed.listeners.add(listener)
        self._count += 1
        self._slots[slot].add(listener)
        self._ends[_second(ends_at)].add(listener)
        if caller.user_id is None:
            self._keys[caller.name].add(listener)
        return listener

    async def _find_changes(self) -> None:
        revoked: set[str] = set()
        cards = self._cards
        async with self._database.reading() as transaction:
            changed, mark = await changed_since(transaction, self._mark)
            if self._looks % KEYS_EVERY == 1:
                revoked = await self._revoked(transaction, list(self._keys)) if self._keys else revoked
                cards = await cards_in_force(transaction, self._clock.now())
        for name in revoked:
            for listener in list(self._keys[name]):
                listener.finish(End.KEY_REVOKED)
        if changed is None or (self._cards is not None and cards != self._cards):
            self._maybe.update(dict.fromkeys(self._feeds))
        if changed is not None:
            self._changed |= changed & self._feeds.keys()
        # Only now: had one of these statements failed, the next look would have to begin where this one did.
        self._mark, self._cards = mark, cards

    async def _read_again(self, account_ids: list[UUID]) -> None:
        feeds = [feed for account_id in account_ids if (feed := self._feeds.get(account_id)) is not None]
        outcomes = await asyncio.gather(*(self._refresh(feed) for feed in feeds), return_exceptions=True)
        gone: BaseException | None = None
        for feed, outcome in zip(feeds, outcomes, strict=True):
            if isinstance(outcome, DatabaseUnavailable):
                self._changed.add(feed.account_id)
                gone = outcome
            elif isinstance(outcome, Exception):
                log.error("live.broke", exc_info=outcome)
                for listener in list(feed.listeners):
                    listener.finish(End.BROKEN)
            elif isinstance(outcome, BaseException):
                raise outcome
        if gone is not None:
            raise gone

    async def _refresh(self, feed: Feed) -> LiveState:
        async with feed.reading:
            state = await self.state_of(feed.user_id)
            self.reads += 1
            feed.state = Told(state.id, state_frame(state.id, state.content))
        for listener in list(feed.listeners):
            if state.suspended:
                listener.finish(End.USER_SUSPENDED)
            else:
                listener.wake()
        return state


def _second(instant: Instant) -> int:
    """The first whole second at which it has come."""
    return -(-instant // US_PER_S)


def _discard(places: dict[Any, set[Listener]], place: Hashable, listener: Listener) -> None:
    if place in places:
        places[place].discard(listener)
        if not places[place]:
            del places[place]
