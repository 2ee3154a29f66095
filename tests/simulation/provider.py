"""The provider of the simulated world: conversations with a known truth behind Gabber's two calls, and their faults.

It is reached through the adapter's own HTTP client, by a transport that stays in the process. What it knows, and what
it really sent and answered, is the auditor's ground truth.
"""

import asyncio
import contextvars
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from app.core.units import US_PER_S, format_millionths
from tests.simulation.dice import Dice, rng
from tests.simulation.loop import WorldClock

BASE: Final = "http://gabber.example"
BEAT: Final = 30 * US_PER_S
LATE: Final = 40 * US_PER_S
"""The most by which a heartbeat on its way is late."""

LONG_AFTER: Final = 900 * US_PER_S
PAGE: Final = 4
SAFE: Final = "safe"
"""Nothing goes wrong at this start."""

REFUSALS: Final = {"400 usage_limit_exceeded", "400 project_disabled", "400 moderation_error", "400 invalid_input"}
HEARD: Final = 2_500_000
"""µs after which all processes have heard that the provider wants no requests: they may have had permits in hand."""

SPOILS: Final = frozenset({"nan", "huge", "negative", "missing type", "missing seconds", "unknown type", "shrinks"})
WRONG_CLOCK: Final = "wrong clock"
NOT_TAKEN: Final = frozenset({"busy", WRONG_CLOCK})
"""Problems whose heartbeat is stored nowhere."""

LIES: Final = SPOILS | {"revised", "revised much"}
"""After these a timeline is not what was said."""

Send = Callable[["Call", "Beat", bytes], Awaitable[None]]
"""Delivers a heartbeat with a body to one of our processes, and notes in it what came of it."""


@dataclass(frozen=True)
class Conversation:
    """What will happen in a session, counted from the connection, in µs. ``leaves`` null: at the time limit."""

    segments: tuple[tuple[str, int], ...]
    connects_after: int
    leaves: int | None
    first_beat: int
    mute: tuple[int, int] | None
    """From when to when no heartbeat is sent, though the agent lives."""
    grows: bool
    bare: bool
    next_page: str
    stuck: int | None
    """From here on the timeline does not grow, though the agent lives."""
    start_fault: str | None
    """What certainly goes wrong at the start, or :data:`SAFE`."""
    crumbs: int
    """So many user segments of 0.0000004 s at the beginning: only together do they last any time."""


@dataclass
class Beat:
    """One POST of a heartbeat. ``status`` null: no answer came."""

    sent_at: int
    status: int | None = None
    genuine: bool = True
    """It is about this session, and well formed."""
    arrived_at: int | None = None
    """When one of our processes got it."""
    done_at: int | None = None
    problem: str = ""
    """The code of the problem that was answered; empty: none was."""

    @property
    def refused(self) -> bool:
        """It was answered that it was not taken: not merely that nobody knows."""
        return self.problem in NOT_TAKEN


@dataclass
class Pulled:
    """The pages of one pull as they were answered; ``honest``: they say what happened."""

    sent_at: int
    values: list[str] = field(default_factory=list)
    answered_at: int = 0
    honest: bool = True


@dataclass
class Call:
    """A session that runs at the provider."""

    id: str
    user: str
    number: int
    conversation: Conversation
    limit: int
    webhook: str
    started_at: int
    name: str
    beats: list[Beat] = field(default_factory=list)
    pulls: list[Pulled] = field(default_factory=list)
    answered: bool = False
    """Whether the provider answered the start as it should. The answer may still have been lost."""
    ended_at: int | None = None
    """When somebody had it ended."""
    rewritten: str | None = None
    """How the provider tells it from now on, though it told it otherwise before: a lie that it stays with."""

    @property
    def connected_at(self) -> int:
        return self.started_at + self.conversation.connects_after

    @property
    def heard(self) -> bool:
        """Whether a heartbeat of it was acknowledged."""
        return any(beat.genuine and beat.status == 204 for beat in self.beats)

    @property
    def left_at(self) -> int:
        """When the agent dies."""
        leaves = self.conversation.leaves
        left_at = self.connected_at + (self.limit if leaves is None else min(leaves, self.limit))
        return left_at if self.ended_at is None else max(self.started_at, min(left_at, self.ended_at))

    def said(self, until: int) -> list[tuple[str, int, int]]:
        """Who said what when, up to ``until``, by the world's clock: (type, from, to)."""
        found: list[tuple[str, int, int]] = []
        at = self.connected_at
        end = min(until, self.left_at)
        for kind, duration in self.conversation.segments:
            if at >= end:
                break
            found.append((kind, at, min(at + duration, end)))
            at += duration
        at = min(max(at, self.connected_at), end)
        last = until if self.conversation.grows else end
        if last > at:
            found.append(("silence", at, last))
        return found

    def values(self, now: int) -> list[dict[str, Any]]:
        """The timeline as the provider has it at ``now``; adjacent silences are one."""
        joined: list[list[Any]] = []
        stuck = self.conversation.stuck
        for kind, start, end in self.said(now if stuck is None else min(now, self.connected_at + stuck)):
            if joined and kind == "silence" == joined[-1][0]:
                joined[-1][1] += end - start
            else:
                joined.append([kind, end - start])
        crumbs = [{"type": "user", "seconds": "0.0000004"}] * (self.conversation.crumbs if joined else 0)
        return [*crumbs, *({"type": kind, "seconds": format_millionths(length)} for kind, length in joined)]


class Body(httpx.AsyncByteStream):
    """An answer's body; ``broken``: the connection is lost in the middle of it."""

    def __init__(self, content: bytes, *, broken: bool = False) -> None:
        self._content = content
        self._broken = broken

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._broken:
            yield self._content[: len(self._content) // 2]
            raise httpx.ReadError("the connection is lost")
        yield self._content


def _json(status: int, content: str, headers: dict[str, str] | None = None, *, broken: bool = False) -> httpx.Response:
    sent = {"content-type": "application/json", **(headers or {})}
    return httpx.Response(status, headers=sent, stream=Body(content.encode(), broken=broken))


class Provider(httpx.AsyncBaseTransport):
    """See the module. ``conversations`` holds what a start's scenario leads to."""

    def __init__(self, clock: WorldClock, dice: Dice, send: Send) -> None:
        self._clock = clock
        self._dice = dice
        self._send = send
        self.conversations: dict[str, Conversation] = {}
        self.calls: dict[str, Call] = {}
        self.starts = 0
        self.asked: dict[str, int] = {}
        """How often each webhook was given to us: a start is asked for once."""
        self.mishaps: Callable[[], int] = lambda: 0
        """How much has gone wrong with our processes and their database so far."""
        self.most_a_second = 1 << 30
        """So many requests within any second are within the rate, as far as our processes' clocks differ."""
        self.skew = 0
        """µs by which the clocks of two of our processes differ at most."""
        self.closed: Callable[[], None] = lambda: None
        """Called when all have heard that we want no requests."""
        self.ignored: list[str] = []
        """What was asked for above the rate, or before it was wanted again."""
        self._arrived: deque[int] = deque()
        self._closed_until = 0
        self.blind = 0
        """While over 0, there are no timelines."""
        self._pulling: dict[object, Pulled] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def close(self) -> list[asyncio.Task[Any]]:
        for task in self._tasks:
            task.cancel()
        return list(self._tasks)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self._arrive(path)
        if path.endswith("/start"):
            return await self._start(json.loads(request.content))
        number = path.split("/")[-2]
        if path.endswith("/end"):
            return await self._end(number)
        return await self._timeline(number, request.url.params.get("page"), str(request.url))

    # The rate

    def _arrive(self, path: str) -> None:
        now = self._clock.now()
        self._arrived.append(now)
        while self._arrived[0] < now - US_PER_S:
            self._arrived.popleft()
        if len(self._arrived) > self.most_a_second:
            self.ignored.append(f"{path} was request {len(self._arrived)} within a second")
        if now < self._closed_until:
            self.ignored.append(f"{path} came {self._closed_until - now} µs before it was wanted")

    def _told_to_wait(self, status: int, seconds: int) -> httpx.Response:
        self._spawn(self._close(self._clock.now() + seconds * US_PER_S - self.skew, self.mishaps()))
        return _json(status, '{"error": "not now"}', {"retry-after": str(seconds)})

    async def _close(self, until: int, mishaps: int) -> None:
        """From when on all have heard it. A process that died of it, or found no database, has told nobody."""
        await asyncio.sleep(HEARD / US_PER_S)
        if self.mishaps() == mishaps and until > self._clock.now():
            self._dice.fired["closed"] += 1
            self._closed_until = max(self._closed_until, until)
            self.closed()

    # Starts

    async def _start(self, body: dict[str, Any]) -> httpx.Response:
        self.starts += 1
        webhook = str(body["webhook"])
        self.asked[webhook] = self.asked.get(webhook, 0) + 1
        name = str(body["scenario"])
        fault = self.conversations[name].start_fault
        if fault is None:
            fault = self._dice.strike("start", name, self.asked[webhook])
        await asyncio.sleep(rng(self._dice.seed, "start time", name).uniform(0.05, 0.6))
        if fault == "400 without json":
            return _json(400, "<html>no</html>")
        if fault in REFUSALS:
            kind = fault.removeprefix("400 ")
            return _json(400, json.dumps({"type": kind, "message": f"the provider says {kind}"}))
        match fault:
            case "401" | "403" | "404" | "422":
                return _json(int(fault), "{}")
            case "connect timeout":
                raise httpx.ConnectTimeout("nobody there")
            case "no place":
                raise httpx.PoolTimeout("all connections are in use")
            case "429":
                return self._told_to_wait(429, 8)
            case "unreachable":
                raise httpx.ConnectError("no route")
            case "500":
                return _json(500, '{"error": "broken"}')
            case "redirect":
                return _json(307, "", {"location": "https://elsewhere.example/"})
            case "hang":
                await asyncio.sleep(3600)
            case "drop before":
                raise httpx.RemoteProtocolError("the server went away")
            case "wrapped 500":
                return _json(200, '{"status": 500, "body": {"error": "broken"}}')
        others = [call.id for call in self.calls.values() if call.user == body["persona"]]
        call = self.begin(name, str(body["persona"]), body["time_limit_s"] * US_PER_S, webhook)
        match fault:
            case "500 after":
                return _json(500, '{"error": "broken"}')
            case "hang after":
                await asyncio.sleep(3600)
            case "drop after":
                raise httpx.ReadError("the connection is lost")
            case "malformed":
                return _json(200, '{"session": {"id": "')
            case "no connection":
                return _json(200, json.dumps({"session": {"id": call.id}, "persona": "p", "scenario": name}))
            case "slow":
                # Past the first heartbeats of some: the heartbeat overtakes the answer.
                await asyncio.sleep(rng(self._dice.seed, "slow", name).uniform(1, 9.5))
        named = call.id
        if fault == "names another":
            # Some say so when the first heartbeat has told already.
            await asyncio.sleep(6 if call.conversation.start_fault == fault else 0)
            named = others[-1] if others else "gab-of-nobody"
        answer = {
            "session": {"id": named},
            "persona": body["persona"],
            "scenario": name,
            "connection_details": {"url": "wss://rtc.example", "token": f"join-{call.id}"},
        }
        call.answered = named == call.id
        return _json(200, json.dumps(answer))

    def begin(self, name: str, user: str, limit: int, webhook: str) -> Call:
        """Let the conversation ``name`` begin: for us, or for a customer that asked by itself."""
        call = Call(
            id=f"gab-{len(self.calls) + 1}",
            user=user,
            number=len(self.calls) + 1,
            conversation=self.conversations[name],
            limit=limit,
            webhook=urlsplit(webhook).path,
            started_at=self._clock.now(),
            name=name,
        )
        self.calls[call.id] = call
        self._spawn(self._beat(call))
        return call

    def _spawn(self, work: Any) -> None:
        # A context of its own: the provider does not live in the process that called it.
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, session_id: str) -> httpx.Response:
        call = self.calls.get(session_id)
        if call is None:
            return _json(404, '{"error": "no such session"}')
        fault = self._dice.strike("end", call.number, self._clock.now())
        await asyncio.sleep(0.1)
        match fault:
            case "404" | "409" | "500":
                return _json(int(fault), '{"error": "no"}')
            case "drop before":
                raise httpx.RemoteProtocolError("the server went away")
        if fault == "ignored":  # it says so, and lets the agent talk on
            return _json(200, "{}")
        call.ended_at = min(self._clock.now(), call.ended_at or self._clock.now())
        match fault:
            case "drop after":
                raise httpx.ReadError("the connection is lost")
            case "hang after":
                await asyncio.sleep(3600)
        return _json(200, "{}")

    # Heartbeats

    async def _beat(self, call: Call) -> None:
        at = call.connected_at + call.conversation.first_beat
        count = 0
        while at < call.left_at:
            await asyncio.sleep((at - self._clock.now()) / US_PER_S)
            count += 1
            mute = call.conversation.mute
            silent = mute is not None and mute[0] <= at - call.connected_at < mute[1]
            fault = self._dice.strike("heartbeat", call.number, count)
            if fault != "lost" and not silent:
                for copy in range(2 if fault in {"doubled", "long after"} else 1):
                    self._spawn(self._deliver(call, fault, count, copy))
            at += BEAT

    async def _deliver(self, call: Call, fault: str | None, count: int, copy: int) -> None:
        drawn = rng(self._dice.seed, "beat", call.number, count, copy)
        beat = Beat(self._clock.now())
        body = json.dumps({"session_id": call.id} | ({"mood": "good"} if drawn.random() < 0.2 else {})).encode()
        call.beats.append(beat)
        delay = drawn.uniform(0.01, 0.3)
        if fault == "late":
            delay = drawn.uniform(5, LATE / US_PER_S)
        elif fault == "long after" and copy:
            delay = drawn.uniform(60, LONG_AFTER / US_PER_S)
        elif fault == "foreign":
            body, beat.genuine = b'{"session_id": "gab-of-somebody-else"}', False
        elif fault == "odd body":
            body, beat.genuine = drawn.choice(ODD_BODIES), False
        await asyncio.sleep(delay)
        # The manual does not say that it tries again; this one does, half of the time.
        for attempt in range(2):
            if attempt:
                beat = Beat(self._clock.now(), genuine=beat.genuine)
                call.beats.append(beat)
            await self._send(call, beat, body)
            if beat.status is not None and beat.status < 500:
                return
            if drawn.random() < 0.5:
                return
            await asyncio.sleep(1)

    # Timelines

    async def _timeline(self, session_id: str, page: str | None, url: str) -> httpx.Response:
        call = self.calls.get(session_id)
        if call is None:
            return _json(404, '{"error": "no such session"}')
        if self.blind:
            self._dice.fired["timeline/outage"] += 1
            return self._told_to_wait(503, 30)
        position = 0 if page is None else int(page)
        puller = asyncio.current_task()
        if position == 0:
            pulled = Pulled(self._clock.now(), honest=call.conversation.stuck is None)
            call.pulls.append(pulled)
            self._pulling[puller] = pulled
        pulled = self._pulling[puller]
        name = (call.number, len(call.pulls), position)
        fault = self._dice.strike("timeline", *name)
        await asyncio.sleep(rng(self._dice.seed, "pull time", *name).uniform(0.02, 0.4))
        match fault:
            case "401" | "403" | "404" | "500":
                return _json(int(fault), '{"error": "no"}')
            case "429":
                return self._told_to_wait(429, 7)
            case "redirect":
                return _json(307, "", {"location": "https://elsewhere.example/"})
            case "slow" | "slow pages":
                await asyncio.sleep(rng(self._dice.seed, "slow", *name).uniform(1, 9))
            case "hang":
                await asyncio.sleep(3600)
            case "drop":
                raise httpx.RemoteProtocolError("the server went away")
            case "malformed":
                return _json(200, '{"values": [')
            case "wrapped 500":
                return _json(200, '{"status": 500, "body": {"error": "broken"}}')
            case "endless":
                crumbs = ",".join([_value({"type": "silence", "seconds": "0.1"})] * PAGE)
                return _json(200, f'{{"values": [{crumbs}], "next_page": {position + PAGE}, "total_count": 99999999}}')
        values = call.values(self._clock.now())
        texts = [_value(value) for value in values]
        if call.rewritten is not None and values:
            pulled.honest = False
            texts = _spoiled(call.rewritten, values, texts)
        elif fault in LIES and values:
            pulled.honest = False
            texts = _spoiled(fault, values, texts)
        size = 1 if fault == "slow pages" else PAGE
        size = PAGE if position else size
        first = position or 0
        shown = texts[first : first + size]
        more = first + size < len(texts)
        following: Any = first + size if more else None
        total = len(texts) + (fault == "total changes")
        if fault == "foreign page":
            following = "https://elsewhere.example/page"
        elif fault == "loop":
            following = first or 0
        elif fault == "odd page":
            following = {"page": 1}
        elif more:
            token = str(following)
            relative = f"/api/v1/session/{session_id}/timeline?page={token}"
            following = {"token": token, "integer": first + size, "relative": relative, "url": BASE + relative}[
                call.conversation.next_page
            ]
        body = f'{{"values": [{",".join(shown)}], "next_page": {json.dumps(following)}, "total_count": {total}}}'
        pulled.values.extend(shown)
        pulled.answered_at = self._clock.now()
        if not call.conversation.bare:
            body = f'{{"status": 200, "body": {body}}}'
        return _json(200, body, broken=fault == "half")


def _value(value: dict[str, Any]) -> str:
    return f'{{"type":"{value["type"]}","seconds":{value["seconds"]}}}'


def _spoiled(fault: str, values: Sequence[dict[str, Any]], texts: Sequence[str]) -> list[str]:
    kind, lasts = values[-1]["type"], values[-1]["seconds"]
    before = list(texts[:-1])
    match fault:
        case "nan":
            return [*before, f'{{"type":"{kind}","seconds":NaN}}']
        case "huge":
            return [*before, f'{{"type":"{kind}","seconds":1e400}}']
        case "negative":
            return [*before, f'{{"type":"{kind}","seconds":-{lasts}}}']
        case "missing type":
            return [*before, f'{{"seconds":{lasts}}}']
        case "missing seconds":
            return [*before, f'{{"type":"{kind}"}}']
        case "unknown type":
            return [*before, f'{{"type":"laughter","seconds":{lasts}}}']
        case "shrinks":
            return list(texts[: len(texts) // 2])
    # revised: what was closed is said to have lasted longer.
    for number, value in enumerate(values[:-1]):
        if value["type"] != "silence":
            longer = Fraction(value["seconds"]) + (Fraction(3, 2) if fault == "revised" else 9)
            changed = list(texts)
            seconds = format_millionths(int(longer * US_PER_S))
            changed[number] = f'{{"type":"{value["type"]}","seconds":{seconds}}}'
            return changed
    return list(texts)


ODD_BODIES: Final = (
    b"", b"{", b"[]", b"null", b'{"session_id": 7}', b'{"session_id": null}', b'{"session_id": ""}',
    b'{"session_id": "\\u0000"}', b'{"session_id": "\\ud800"}', b'{"session_id": "a", "session_id": "b"}',
    b"\xff\xfe", b'{"x": 1}', b'{"session_id": "' + b"x" * 17_000 + b'"}', b'{"session_id": "x", "n": NaN}',
)  # fmt: skip
"""What is no heartbeat, and must be refused without a trace."""
