"""Calls cancelled at any moment, on a real server: nothing is held afterwards, and all is to be had."""

import asyncio
import random

import pytest

import gatedcoro
from shared_limits import all_permits, limit_on, run, until
from shared_processes import held, left_on, sessions, waiting
from shared_servers import KINDS

ON_POSTGRES_TOO = pytest.mark.parametrize("kind", ["redis", "postgres"], indirect=True)
LIMIT = 5
LEASE = 1_000  # nothing comes back by itself within a test


class Inside:
    """Counts who is inside, over all limits of the test."""

    def __init__(self):
        self.number = self.peak = self.started = 0

    async def item(self, sleep=0.0):
        self.number += 1
        self.started += 1
        self.peak = max(self.peak, self.number)
        try:
            await asyncio.sleep(sleep)
        finally:
            self.number -= 1


async def is_whole(server, inside, *limits):
    """Nothing is left of what was cancelled: no permit is held, none waited for, and each session gets all of them."""
    assert inside.number == 0
    assert inside.peak <= LIMIT
    await until(lambda: held(server) == 0 == waiting(server))
    await all_permits(*limits)


async def many(limit, inside, way, number=20):
    if way == "gather":
        await gatedcoro.gather(*(inside.item(0.001) for _ in range(number)), limit=limit)
    elif way == "run_all":
        await gatedcoro.run_all([lambda: inside.item(0.001)] * number, limit=limit)
    elif way == "amap":
        async for _ in gatedcoro.amap(lambda _: inside.item(0.001), range(number), limit=limit):
            pass
    else:

        async def enter():
            async with limit:
                await inside.item(0.001)

        async with asyncio.TaskGroup() as group:
            for _ in range(number):
                group.create_task(enter())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("way", ["async with", "gather", "run_all", "amap"])
@ON_POSTGRES_TOO
def test_calls_that_are_cancelled_at_random_hold_nothing(server, way, seed):
    """Two sessions, calls of both cancelled: while they wait for an answer, between grant and start, in items, as these end."""
    choose = random.Random(f"{way} {seed}")

    async def main():
        inside = Inside()
        async with limit_on(server, LIMIT, lease=LEASE) as one, limit_on(server, LIMIT, lease=LEASE) as other:
            for _ in range(12):
                calls = [asyncio.create_task(many(limit, inside, way)) for limit in (one, other)]
                for call in calls:
                    if choose.random() < 0.5:
                        for _ in range(choose.randrange(30)):
                            await asyncio.sleep(0)
                    else:
                        await asyncio.sleep(choose.uniform(0, 0.02))
                    call.cancel()
                await asyncio.wait(calls)
                assert all(call.cancelled() or call.exception() is None for call in calls)
                assert one.stats().held == other.stats().held == 0
                assert one.stats().waiting == other.stats().waiting == 0
            await is_whole(server, inside, one, other)
        assert left_on(server) == []

    run(main)


@ON_POSTGRES_TOO
def test_each_step_of_a_call_can_be_the_last(server):
    """Cancelled after so many turns of the event loop, from before the first request to after the end."""

    async def main():
        inside = Inside()
        async with limit_on(server, LIMIT, lease=LEASE) as one, limit_on(server, LIMIT, lease=LEASE) as other:
            for _ in range(2):  # the second time there is a session from the beginning
                inside.started, turns, done = 0, 0, False
                while not done:
                    call = asyncio.create_task(many(one, inside, "async with", number=LIMIT + 2))
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    done = call.done()
                    call.cancel()
                    await asyncio.wait([call])
                    assert one.stats().held == one.stats().waiting == 0
                    turns = turns * 5 // 4 + 1
            await is_whole(server, inside, one, other)
        assert inside.started > turns.bit_length()

    run(main)


@ON_POSTGRES_TOO
def test_a_timeout_around_entering_takes_nothing(server):
    async def main():
        async with limit_on(server, 1, lease=LEASE) as one, limit_on(server, 1, lease=LEASE) as other:
            async with one:
                for limit in (one, other):
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.05):
                            async with limit:
                                raise AssertionError("there is one permit")
                    assert await limit.acquire(timeout=0.05) is None
                    assert await limit.acquire(blocking=False) is None
                    assert limit.stats().waiting == 0
                assert len(sessions(server)) == 2
            await until(lambda: held(server) == 0 == waiting(server))
            await all_permits(one, other)

    run(main)


@ON_POSTGRES_TOO
def test_a_timeout_around_a_call_ends_what_runs_and_what_waits(server):
    async def main():
        inside = Inside()
        async with limit_on(server, LIMIT, lease=LEASE) as one, limit_on(server, LIMIT, lease=LEASE) as other:
            elsewhere = [asyncio.create_task(many(other, inside, "gather", number=40)) for _ in range(2)]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await gatedcoro.gather(*(inside.item(1_000) for _ in range(100)), limit=one)
            await asyncio.wait(elsewhere)
            await is_whole(server, inside, one, other)

    run(main)


@ON_POSTGRES_TOO
def test_a_timeout_inside_an_item_is_its_own(server):
    async def main():
        async with limit_on(server, 1, lease=LEASE) as limit:
            with pytest.raises(TimeoutError):
                async with limit:
                    async with asyncio.timeout(0.01):
                        await asyncio.sleep(1_000)
            await all_permits(limit)

    run(main)


@pytest.mark.parametrize("kind", [*KINDS, "postgres"], indirect=True)
def test_items_that_fail_give_their_permits_back(server):
    async def main():
        async with limit_on(server, 2, lease=LEASE) as one, limit_on(server, 2, lease=LEASE) as other:

            async def fails(number):
                await asyncio.sleep(0)
                raise LookupError(number)

            results = await gatedcoro.gather(*map(fails, range(20)), limit=one, return_exceptions=True)
            assert [str(result) for result in results] == [str(number) for number in range(20)]
            with pytest.raises(LookupError):
                await gatedcoro.gather(*map(fails, range(20)), limit=one)
            await all_permits(one, other)

    run(main)
