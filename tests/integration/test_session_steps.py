"""What a session tells of its own life: each step, when it was taken and why."""

from typing import Any

import pytest

from tests.support.world import World

pytestmark = pytest.mark.anyio


def told(session: dict[str, Any]) -> list[tuple[str | None, str, str]]:
    return [(taken["from"], taken["state"], taken["why"]) for taken in session["steps"]]


async def test_a_session_tells_each_of_its_steps_in_order(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await talktime.start(user)
    talktime.provider.say(session["provider_session_id"], ("agent", 10))
    assert "steps" not in session
    await talktime.heartbeats_until(session, 30)
    settled = await talktime.settle(session)
    assert told(settled) == [
        (None, "starting", "asked for"),
        ("starting", "live", "the provider started it"),
        ("live", "over", "no proof of life any more"),
        ("over", "settled", "the final timeline is in"),
    ]
    times = [taken["at"] for taken in settled["steps"]]
    assert times == sorted(times)
    assert (times[0], times[1], times[-1]) == (settled["requested_at"], settled["started_at"], settled["settled_at"])
    assert set(settled["steps"][0]) == {"state", "from", "why", "at"}


async def test_a_start_that_fails_tells_why(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await talktime.start_unconfirmed(user)
    talktime.clock.advance(200)
    await talktime.reconcile()
    failed = await talktime.session(session)
    assert told(failed)[1:] == [
        ("starting", "unconfirmed", "the provider answered 500"),
        ("unconfirmed", "failed", "no heartbeat came"),
    ]
    assert [taken["state"] for taken in failed["steps"]][-1] == failed["state"]


async def test_a_list_leaves_the_steps_out(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await talktime.start(user)
    (listed,) = (await talktime.get(f"/v1/sessions?user_id={user}"))["data"]
    shown = await talktime.session(session)
    assert listed == {name: value for name, value in shown.items() if name != "steps"}
