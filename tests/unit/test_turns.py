"""Turns: one at a time of a name, in order, and nothing kept of names that nobody waits for."""

import asyncio
import gc

import pytest

from app.db.turns import Turns


def test_one_at_a_time_in_the_order_of_asking_and_other_names_are_free() -> None:
    async def play() -> list[str]:
        turns, done, inside = Turns(), list[str](), 0

        async def one(name: str, n: int) -> None:
            nonlocal inside
            async with turns.turn(name, 1):
                inside += name == "a"
                assert inside <= 1
                await asyncio.sleep(0.001 if name == "a" else 0)
                inside -= name == "a"
                done.append(f"{name}{n}")

        await asyncio.gather(*(one(name, n) for name in "ab" for n in range(3)))
        assert not turns._locks
        return done

    done = asyncio.run(play())
    assert [item for item in done if item < "b"] == ["a0", "a1", "a2"]
    assert done.index("b2") < done.index("a2")


def test_whoever_waits_too_long_is_told_so_and_holds_nobody_up() -> None:
    async def wait(turns: Turns, at_most_s: float) -> None:
        async with turns.turn("a", at_most_s):
            raise KeyError

    async def play() -> None:
        turns = Turns()
        # Each in a task of its own, as requests are: a task may keep the frames of what it raised last.
        async with turns.turn("a", 1):
            with pytest.raises(TimeoutError):
                await asyncio.create_task(wait(turns, 0.001))
        with pytest.raises(KeyError):
            await asyncio.create_task(wait(turns, 0.001))
        async with turns.turn("a", 0.001):
            pass
        gc.collect()
        assert not turns._locks

    asyncio.run(play())
