"""A balance over time."""

import pytest

from app.accounts.curve import MOST_POINTS, Point, balance_curve
from app.core.ids import account_id_of
from app.core.units import US_PER_S, Instant, MicroCredits
from tests.support.world import World

pytestmark = pytest.mark.anyio


async def curve(talktime: World, user_id: str, since: Instant) -> list[Point]:
    async with talktime.service.database.reading() as transaction:
        return await balance_curve(transaction, account_id_of(user_id), since, talktime.clock.now())


async def test_every_change_where_there_are_few(talktime: World) -> None:
    user_id, start = talktime.user(), talktime.clock.now()
    talktime.clock.advance(10)
    await talktime.grant(user_id, "5")
    talktime.clock.advance(10)
    await talktime.client.post(f"/v1/users/{user_id}/adjustments", json={"amount": "-2", "reason": "x"})
    talktime.clock.advance(10)
    at = [Instant(start + n * 10 * US_PER_S) for n in range(4)]
    five, three = MicroCredits(5_000_000), MicroCredits(3_000_000)
    assert await curve(talktime, user_id, start) == [
        Point(at[0], MicroCredits(0)), Point(at[1], five), Point(at[2], three), Point(at[3], three)
    ]  # fmt: skip
    assert await curve(talktime, user_id, at[1]) == [Point(at[1], five), Point(at[2], three), Point(at[3], three)]


async def test_many_changes_are_the_last_of_each_stretch(talktime: World) -> None:
    user_id, start = talktime.user(), talktime.clock.now()
    for _ in range(MOST_POINTS + 1):
        talktime.clock.advance(10)
        await talktime.grant(user_id, "1")
    found = await curve(talktime, user_id, start)
    assert len(found) == MOST_POINTS + 2
    assert found[0] == Point(start, MicroCredits(0))
    assert found[-1] == Point(talktime.clock.now(), MicroCredits((MOST_POINTS + 1) * 1_000_000))
    for point in found:
        assert point.balance == (point.at - start) // (10 * US_PER_S) * 1_000_000
