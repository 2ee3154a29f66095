"""The adapter against the simulated provider: every page style, every envelope, every fault that it knows."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal

import pytest

from app.core.lossless_json import JsonNumber
from app.core.units import US_PER_S, Instant, Micros, parse_instant
from app.gabber import (
    Capabilities,
    Ended,
    EndUnconfirmed,
    Gabber,
    NotEnded,
    PulledTimeline,
    PullFailed,
    PullFailure,
    Refused,
    Started,
    StartRequest,
    Unconfirmed,
)
from app.ports.clock import SystemClock
from app.simulator.config import Envelope, NextPage
from app.simulator.faults import KNOWN
from tests.support.provider import Provider, provider

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def simulated() -> Iterator[Provider]:
    with provider(speed=60, slow=Micros(30 * US_PER_S)) as running:
        yield running


@asynccontextmanager
async def gabber(simulated: Provider, timeout_ms: int = 5000, key: str = "") -> AsyncIterator[Gabber]:
    # The time-out is real time here, so that a slow machine does not turn into a fault.
    clock = _Stamps(simulated)
    timeout = Micros(timeout_ms * 1000)
    async with Gabber(
        base_url=simulated.url,
        api_key=key or simulated.key,
        timeout=timeout,
        clock=clock,
        capabilities=Capabilities(can_end=True),
    ) as adapter:
        yield adapter


class _Stamps(SystemClock):
    """Stamps with the provider's clock, waits in real time."""

    def __init__(self, simulated: Provider) -> None:
        super().__init__()
        self._shared = simulated.clock

    def now(self) -> Instant:
        return self._shared.now()


def asked(scenario: str = "talk", persona: str = "default") -> StartRequest:
    return StartRequest(persona=persona, scenario=scenario, time_limit_s=90, webhook="http://127.0.0.1:9/hook")


def lasting(values: tuple[object, ...]) -> list[Micros]:
    durations = []
    for value in values:
        assert isinstance(value, dict)
        seconds = value["seconds"]
        assert isinstance(seconds, JsonNumber)
        durations.append(Micros(int(Decimal(seconds) * US_PER_S)))
    return durations


async def test_a_start_and_the_guides_timeline(simulated: Provider) -> None:
    async with gabber(simulated) as adapter:
        started = await adapter.start(asked("guide", "tutor"))
        assert isinstance(started, Started), started
        assert (started.persona, started.scenario) == ("tutor", "guide")
        truth = simulated.truth(started.provider_session_id)
        assert truth["time_limit_s"] == 90
        connected_at = parse_instant(truth["connected_at"])
        for _ in range(5):
            pulled = await adapter.timeline(started.provider_session_id)
            assert isinstance(pulled, PulledTimeline), pulled
            # The timeline is as long as the time that has passed, to the microsecond, on the clock of both.
            total = sum(lasting(pulled.values))
            assert pulled.requested_at - connected_at <= total <= pulled.received_at - connected_at


GUIDE = ["0.265", "1.513", "1.634", "3.683", "1.82", "0.079", "1.042", "0.906", "0.132", "0.996", "4.501"]


@pytest.mark.parametrize("envelope", Envelope)
@pytest.mark.parametrize("style", NextPage)
async def test_every_style_of_pages(style: NextPage, envelope: Envelope) -> None:
    with provider(speed=1000, page_size=2, next_page=style, envelope=envelope) as simulated:
        session_id = simulated.start("guide", time_limit_s=30)
        while len(simulated.truth(session_id)["timeline"]) < 12:
            pass
        async with gabber(simulated, 2000) as adapter:
            pulled = await adapter.timeline(session_id)
    assert isinstance(pulled, PulledTimeline), pulled
    assert [str(v["seconds"]) for v in pulled.values[:11] if isinstance(v, dict)] == (GUIDE)
    assert len(pulled.values) == 12


R, U, F = Refused, Unconfirmed, PullFailure
STARTS: dict[str, tuple[type, int | None, bool]] = {
    # fault: outcome, status of a refusal, whether a session was really started
    "start.400": (R, 400, False),
    "start.401": (R, 401, False),
    "start.403": (R, 403, False),
    "start.429": (R, 429, False),
    "start.500": (U, None, False),
    "start.500_after": (U, None, True),
    "start.redirect": (U, None, False),
    "start.slow": (U, None, True),
    "start.hang": (U, None, False),
    "start.hang_after": (U, None, True),
    "start.drop_before": (U, None, False),
    "start.drop_after": (U, None, True),
    "start.malformed": (U, None, True),
}


# For what hangs, or comes after half a second: soon enough; anything else has all the time it needs.
PATIENCE_MS = 200
SLOW = ("slow", "hang", "hang_after")


def patience_ms(fault: str) -> int:
    return PATIENCE_MS if fault.partition(".")[2] in SLOW else 5000


@pytest.mark.parametrize("fault", STARTS)
async def test_a_start_meets(fault: str, simulated: Provider) -> None:
    kind, status, really = STARTS[fault]
    simulated.misbehave(**{fault.replace(".", "_"): 1})
    before = simulated.call("GET", "/sim/sessions").json()["total"]
    async with gabber(simulated, patience_ms(fault)) as adapter:
        outcome = await adapter.start(asked())
    assert isinstance(outcome, kind), outcome
    if isinstance(outcome, Refused):
        assert outcome.status == status
        assert outcome.retry_after == (Micros(US_PER_S) if status == 429 else None)
    assert simulated.call("GET", "/sim/sessions").json()["total"] - before == really
    assert simulated.call("GET", "/sim/faults").json()["struck"][fault] >= 1


PULLS: dict[str, PullFailure | dict[str, str]] = {
    "timeline.401": F.UNAUTHORIZED,
    "timeline.403": F.UNAUTHORIZED,
    "timeline.404": F.NOT_FOUND,
    "timeline.429": F.RATE_LIMITED,
    "timeline.500": F.SERVER_ERROR,
    "timeline.redirect": F.REDIRECTED,
    "timeline.slow": F.TIMEOUT,
    "timeline.hang": F.TIMEOUT,
    "timeline.drop": F.CONNECTION,
    "timeline.half": F.CONNECTION,
    "timeline.malformed": F.MALFORMED,
    "timeline.foreign_page": F.FOREIGN_PAGE,
    "timeline.loop": F.INCONSISTENT,
    "timeline.odd_page": F.MALFORMED,
    "timeline.total_changes": F.INCONSISTENT,
    # The last value, "…" for a duration: all this is let through, for the engine to judge.
    "timeline.nan": {"type": "silence", "seconds": "NaN"},
    "timeline.huge_number": {"type": "silence", "seconds": "1e400"},
    "timeline.missing_type": {"seconds": "…"},
    "timeline.missing_seconds": {"type": "silence"},
    "timeline.unknown_type": {"type": "laughter", "seconds": "…"},
    "timeline.shrinks": {"type": "user", "seconds": "…"},
}


@pytest.mark.parametrize("fault", PULLS)
async def test_a_pull_meets(fault: str, simulated: Provider) -> None:
    simulated.misbehave(**{fault.replace(".", "_"): 1})
    # The time limit of a second ends the guide's talk within its first pause: two values from then on.
    session_id = simulated.start("guide", time_limit_s=1)
    while len(simulated.truth(session_id)["timeline"]) < 2:
        pass
    async with gabber(simulated, patience_ms(fault)) as adapter:
        pulled = await adapter.timeline(session_id)
    expected = PULLS[fault]
    if isinstance(expected, PullFailure):
        assert isinstance(pulled, PullFailed), pulled
        assert pulled.kind is expected, pulled
        assert pulled.retry_after == (Micros(US_PER_S) if expected is F.RATE_LIMITED else None)
    else:
        assert isinstance(pulled, PulledTimeline), pulled
        assert len(pulled.values) == (1 if fault == "timeline.shrinks" else 2)
        last = pulled.values[-1]
        assert isinstance(last, dict)
        undated = {k: "…" if v[0].isdigit() and v != "1e400" else v for k, v in last.items()}
        assert undated == expected


N, E = NotEnded, EndUnconfirmed
ENDS: dict[str, tuple[type, int | None, bool]] = {
    # fault: outcome, status of a refusal, whether the session was really ended
    "end.400": (N, 400, False),
    "end.401": (N, 401, False),
    "end.403": (N, 403, False),
    "end.404": (N, 404, False),
    "end.429": (N, 429, False),
    "end.500": (E, None, False),
    "end.500_after": (E, None, True),
    "end.redirect": (E, None, False),
    "end.slow": (E, None, True),
    "end.hang": (E, None, False),
    "end.hang_after": (E, None, True),
    "end.drop_before": (E, None, False),
    "end.drop_after": (E, None, True),
    "end.malformed": (Ended, None, True),
    "end.ignored": (Ended, None, False),
}


@pytest.mark.parametrize("fault", ENDS)
async def test_an_end_meets(fault: str, simulated: Provider) -> None:
    kind, status, really = ENDS[fault]
    simulated.misbehave(**{fault.replace(".", "_"): 1})
    session_id = simulated.start("endless")
    async with gabber(simulated, patience_ms(fault)) as adapter:
        outcome = await adapter.end(session_id)
        assert isinstance(outcome, kind), outcome
        if isinstance(outcome, NotEnded):
            assert outcome.status == status
            assert outcome.retry_after == (Micros(US_PER_S) if status == 429 else None)
        truth = simulated.truth(session_id)
        assert (truth["ended_at"] is not None, truth["agent_alive"]) == (really, not really)
        # Asked again without a fault, it has ended for certain, at its first end if there was one.
        simulated.misbehave()
        assert await adapter.end(session_id) == Ended()
    again = simulated.truth(session_id)
    assert not again["agent_alive"]
    assert not really or again["ended_at"] == truth["ended_at"]


def test_every_fault_of_the_simulator_is_met_by_a_test() -> None:
    assert set(STARTS) | set(PULLS) | set(ENDS) == {name for name in KNOWN if not name.startswith("heartbeat.")}


async def test_a_wrong_key_and_an_unknown_session(simulated: Provider) -> None:
    simulated.misbehave()
    async with gabber(simulated, key="wrong") as adapter:
        refused = await adapter.start(asked())
        assert isinstance(refused, Refused)
        assert (refused.status, refused.code) == (401, "unauthorized")
        failed = await adapter.timeline("x")
        assert isinstance(failed, PullFailed)
        assert failed.kind is F.UNAUTHORIZED
        not_ended = await adapter.end("x")
        assert isinstance(not_ended, NotEnded)
        assert (not_ended.status, not_ended.code) == (401, "unauthorized")
    async with gabber(simulated) as adapter:
        failed = await adapter.timeline("no/such?session")
        assert isinstance(failed, PullFailed)
        assert failed.kind is F.NOT_FOUND
        not_ended = await adapter.end("no-such-session")
        assert not_ended == NotEnded(status=404, code="not_found", message="no such session")


async def test_an_unknown_scenario_is_refused(simulated: Provider) -> None:
    simulated.misbehave()
    async with gabber(simulated) as adapter:
        refused = await adapter.start(asked("no-such-scenario"))
    assert refused == Refused(status=400, code="invalid_input", message="unknown persona or scenario")
