"""Each request has its permit, and what the provider says about its rate is told."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from app.core.budget import NotNow, Permit, Purpose
from app.core.units import US_PER_S, Instant, Micros
from app.gabber import (
    Capabilities,
    Ended,
    Gabber,
    PulledTimeline,
    PullFailed,
    PullFailure,
    Refused,
    Started,
    StartRequest,
)
from app.gabber.client import MAX_PULLS_OF_ONE_TIMELINE, SHORT_BLOCK
from app.gabber.wire import MAX_RETRY_AFTER
from app.ports.clock import SystemClock
from tests.support.raw_server import Answer, RawServer, http, page, raw_server

pytestmark = pytest.mark.anyio

A = {"type": "user", "seconds": 1.5}
PERMIT = Permit(Instant(1))
BUSY = NotNow(wait=Micros(3 * US_PER_S))
REQUEST = StartRequest(persona="p", scenario="s", time_limit_s=60, webhook="https://x/webhooks/gabber/abc")
STARTED = '{"session": {"id": "s1"}, "connection_details": {"url": "wss://x", "token": "t"}}'
Call = Callable[[Gabber], Awaitable[object]]


class Noted:
    """Permits that note what they are asked for; so many requests get one."""

    def __init__(self, allowed: int = 100) -> None:
        self.allowed = allowed
        self.asked: list[tuple[Purpose, Permit | None]] = []
        self.blocks: list[Micros] = []

    async def reserve(self, purpose: Purpose) -> Permit | NotNow:
        raise AssertionError(purpose)

    async def ready(self, purpose: Purpose, permit: Permit | None = None) -> NotNow | None:
        self.asked.append((purpose, permit))
        return None if len(self.asked) <= self.allowed else BUSY

    def give_back(self, permit: Permit) -> None:
        raise AssertionError(permit)

    async def block(self, wait: Micros) -> None:
        self.blocks.append(wait)


@asynccontextmanager
async def provider(permits: Noted, *answers: Answer) -> AsyncIterator[tuple[Gabber, RawServer]]:
    async with (
        raw_server(*answers) as server,
        Gabber(
            base_url=server.url,
            api_key="key-of-the-test",
            timeout=Micros(2 * US_PER_S),
            clock=SystemClock(),
            capabilities=Capabilities(can_end=True),
            permits=permits,
        ) as adapter,
    ):
        yield adapter, server


def answer(status: int, body: str = "{}", *headers: str) -> Answer:
    return (http(status, body, *headers),)


async def test_each_page_and_each_repetition_has_a_permit() -> None:
    permits = Noted()
    pages = answer(200, page([A], "2", 2)), answer(200, page([A], None, 2))
    changed = answer(200, page([A], "2", 2)), answer(200, page([A], None, 3))
    async with provider(permits, *changed, *pages) as (adapter, server):
        assert isinstance(await adapter.timeline("s1", PERMIT), PulledTimeline)
    assert permits.asked == [(Purpose.PAGE, PERMIT), *[(Purpose.PAGE, None)] * 3]
    assert len(server.requests) == 4
    assert MAX_PULLS_OF_ONE_TIMELINE > 1


async def test_a_start_and_an_end_have_one_each() -> None:
    permits = Noted()
    async with provider(permits, answer(200, STARTED), answer(200)) as (adapter, _):
        assert isinstance(await adapter.start(REQUEST, PERMIT), Started)
        assert isinstance(await adapter.end("s1"), Ended)
    assert permits.asked == [(Purpose.START, PERMIT), (Purpose.START, None)]


@pytest.mark.parametrize("allowed", [0, 1])
async def test_a_pull_of_which_a_page_gets_no_permit_is_none(allowed: int) -> None:
    permits = Noted(allowed)
    async with provider(permits, answer(200, page([A], "2", 2))) as (adapter, server):
        assert await adapter.timeline("s1") == BUSY
    assert len(server.requests) == allowed


async def test_without_a_permit_nothing_is_sent() -> None:
    async with provider(Noted(0)) as (adapter, server):
        refused = await adapter.start(REQUEST)
        assert isinstance(refused, Refused)
        assert (refused.status, refused.code, refused.retry_after) == (None, "busy", BUSY.wait)
        assert await adapter.end("s1") == BUSY
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "headers", "told"),
    [
        (429, ("Retry-After: 7",), [Micros(7 * US_PER_S)]),
        (429, (), [SHORT_BLOCK]),
        (429, ("Retry-After: 0",), [SHORT_BLOCK]),
        (429, ("Retry-After: soon",), [SHORT_BLOCK]),
        (429, ("Retry-After: -5",), [SHORT_BLOCK]),
        (429, ("Retry-After: 99999999999999999999",), [MAX_RETRY_AFTER]),
        (503, ("Retry-After: 30",), [Micros(30 * US_PER_S)]),
        (503, (), []),
        (503, ("Retry-After: 0",), []),
        (500, ("Retry-After: 30",), []),
        (404, ("Retry-After: 30",), []),
    ],
)
async def test_who_wants_no_requests_for_a_while_is_heard(
    status: int, headers: tuple[str, ...], told: list[Micros]
) -> None:
    calls: list[Call] = [
        lambda adapter: adapter.timeline("s1"),
        lambda adapter: adapter.start(REQUEST),
        lambda adapter: adapter.end("s1"),
    ]
    for call in calls:
        permits = Noted()
        async with provider(permits, answer(status, "{}", *headers)) as (adapter, _):
            outcome = await call(adapter)
        assert permits.blocks == told
        if isinstance(outcome, PullFailed):
            assert outcome.pause == (told[0] if told else None)


async def test_a_status_in_the_envelope_counts_as_well() -> None:
    permits = Noted()
    body = '{"status": 429, "body": {"error": "slow down"}}'
    async with provider(permits, answer(200, body, "Retry-After: 4")) as (adapter, _):
        outcome = await adapter.timeline("s1")
    assert isinstance(outcome, PullFailed)
    assert outcome.kind is PullFailure.RATE_LIMITED
    assert permits.blocks == [4 * US_PER_S]


async def test_what_was_said_stays_said_while_it_is_written_down() -> None:
    """Writing it down takes longer than the call's own deadline, which would make an unknown outcome of a refusal."""

    class Slow(Noted):
        async def block(self, wait: Micros) -> None:
            await SystemClock().sleep(Micros(2 * US_PER_S + US_PER_S // 5))
            await super().block(wait)

    permits = Slow()
    async with provider(permits, answer(429)) as (adapter, _):
        outcome = await adapter.start(REQUEST)
    assert isinstance(outcome, Refused)
    assert permits.blocks == [SHORT_BLOCK]
