"""The clock of a process follows the database's and never runs backwards; a leaping one stops at each waking."""

import asyncio
import time

from app.core.units import US_PER_S, Instant, Micros
from app.ports.clock import LeapingClock, SystemClock

HOUR = Micros(3600 * US_PER_S)


def test_a_clock_that_was_ahead_at_the_start_goes_on_from_the_right_time() -> None:
    clock = SystemClock()
    before = clock.now()
    clock.set_anew(Micros(-HOUR))
    after = clock.now()
    assert before - HOUR <= after < before - HOUR + 60 * US_PER_S


def test_later_a_move_back_is_time_standing_still() -> None:
    clock = SystemClock()
    before = clock.now()
    clock.adjust(Micros(-HOUR))
    assert clock.now() == before


def now_us() -> int:
    return time.time_ns() // 1000


def test_a_leaping_clock_stops_at_each_waking_and_waits_for_who_wakes() -> None:
    async def main() -> None:
        clock, told = LeapingClock(Instant(0)), list[str]()

        async def beat(name: str, every: int, times: int) -> None:
            for _ in range(times):
                await clock.sleep(Micros(every))
                await asyncio.sleep(0)  # some work of its own
                told.append(f"{name} {clock.now()}")

        tasks = [asyncio.create_task(beat("a", 30, 3)), asyncio.create_task(beat("b", 45, 2))]
        await asyncio.sleep(0)
        stops = []
        while clock.now() < 100:
            await clock.lead_on(Instant(100))
            stops.append((clock.now(), len(told)))
        assert stops == [(30, 1), (45, 2), (60, 3), (90, 5), (100, 5)]
        assert told == ["a 30", "b 45", "a 60", "b 90", "a 90"]
        assert all(task.done() for task in tasks)

    asyncio.run(main())


def test_who_was_cancelled_asleep_holds_a_leaping_clock_up_no_more() -> None:
    async def main() -> None:
        clock = LeapingClock(Instant(0))
        task = asyncio.create_task(clock.sleep(Micros(30)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        await clock.lead_on(Instant(100))
        assert clock.now() == 100
        await clock.lead_on(Instant(50))
        assert clock.now() == 100

    asyncio.run(main())


def test_a_leaping_clock_that_is_let_go_is_a_system_clock_and_wakes_in_real_time() -> None:
    async def main() -> None:
        began = now_us()
        clock = LeapingClock(Instant(began - HOUR))
        early, late = (asyncio.create_task(clock.sleep(Micros(HOUR + ms * 1000))) for ms in (20, 60_000))
        await asyncio.sleep(0)
        await clock.lead_on(Instant(now_us()))
        clock.let_go()
        assert began <= clock.now() <= now_us()
        await asyncio.wait_for(early, 10)
        assert clock.now() >= began + 20_000
        before = clock.now()
        await clock.sleep(Micros(5000))
        assert clock.now() >= before + 5000
        assert not late.done()
        late.cancel()

    asyncio.run(main())
