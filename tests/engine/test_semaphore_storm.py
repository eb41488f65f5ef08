"""Many who wait for one semaphore end in one turn: no scan for each, so it takes seconds, and the count is right."""

import asyncio
import random

import pytest

from contract_tools import idle
from effort import SHORT
from semaphore_tools import collected

NO_TASK_IS_REUSED = True
MOST = 10_000 if SHORT else 100_000
MANY = 10_000
ORDERS = {
    "in the order of waiting": lambda waiting: waiting,
    "in reverse": lambda waiting: waiting[::-1],
    "at random": lambda waiting: random.Random(5).sample(waiting, len(waiting)),
}
EACH_ORDER = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)


async def waits(semaphore):
    async with semaphore:
        pass


async def passes(semaphore, number, served):
    async with semaphore:
        served.append(number)


async def ended(tasks):
    for task in tasks:
        try:
            await task
        except asyncio.CancelledError:
            pass


@EACH_ORDER
def test_a_hundred_thousand_who_wait_are_cancelled_in_one_turn(impl, order):
    count = MOST if order is ORDERS["at random"] else MANY

    async def main():
        s = impl.Semaphore(1)
        served = []
        async with s:
            tasks = [asyncio.ensure_future(waits(s)) for _ in range(count)]
            await idle(2)
            last = asyncio.ensure_future(passes(s, "last", served))
            await idle(2)
            for task in order(tasks):
                task.cancel()
            await ended(tasks)
            assert all(task.cancelled() for task in tasks)
            assert s._value == 0 and served == []
        await last
        assert served == ["last"]
        assert s._value == 1 and not s.locked() and not s._waiters

    asyncio.run(main())


@EACH_ORDER
def test_every_second_one_is_cancelled_while_slots_come_back(impl, order):
    async def main():
        s = impl.Semaphore(1)
        served = []
        async with s:
            tasks = [asyncio.ensure_future(passes(s, number, served)) for number in range(MANY)]
            await idle(2)
            for task in order(tasks[::2]):
                task.cancel()
        await ended(tasks)
        assert served == list(range(1, MANY, 2))
        assert s._value == 1 and not s.locked() and not s._waiters

    asyncio.run(main())


@EACH_ORDER
def test_by_hand_they_are_closed_and_thrown_into(impl, order):
    class Thrown(Exception):
        pass

    async def main():
        s = impl.Semaphore(1)
        await s.acquire()
        coroutines = [s.acquire() for _ in range(MOST // 10)]
        coroutines += [impl.gated_coro(s, waits(s)) for _ in range(MOST // 10)]
        for coroutine in coroutines:
            coroutine.send(None)
        for number, coroutine in enumerate(order(coroutines)):
            if number % 2:
                coroutine.close()
            else:
                with pytest.raises(Thrown):
                    coroutine.throw(Thrown())
        s.release()
        assert s._value == 1 and not s.locked()

    asyncio.run(main())


def test_ten_thousand_releases_in_one_turn(impl):
    async def main():
        s = impl.Semaphore(10_000)
        for _ in range(10_000):
            await s.acquire()
        served = []
        tasks = [asyncio.ensure_future(passes(s, number, served)) for number in range(10_000)]
        await idle(2)
        for _ in range(10_000):
            s.release()
        await ended(tasks)
        assert served == list(range(10_000))
        assert s._value == 10_000 and not s.locked()

    asyncio.run(main())


def test_a_limit_that_is_raised_by_ten_thousand_and_lowered_again(impl):
    async def main():
        s = impl.Semaphore(0)
        served = []
        tasks = [asyncio.ensure_future(passes(s, number, served)) for number in range(10_000)]
        await idle(2)
        s.limit = 10_000
        s.limit = 1
        await ended(tasks)
        assert served == list(range(10_000))
        assert s._value == 1 and not s.locked()

    asyncio.run(main())


def test_who_is_handed_a_slot_and_cancelled_in_the_same_turn(impl):
    """Each passes it on, to the next who is cancelled too."""

    async def main():
        s = impl.Semaphore(1)
        served = []
        await s.acquire()
        tasks = [asyncio.ensure_future(waits(s)) for _ in range(MOST // 10)]
        await idle(2)
        last = asyncio.ensure_future(passes(s, "last", served))
        await idle(2)
        s.release()
        for task in tasks:
            task.cancel()
        await ended(tasks)
        await last
        assert served == ["last"] and s._value == 1

    asyncio.run(main())


@pytest.mark.parametrize("way", ["run_all", "amap"])
def test_ten_thousand_calls_that_stand_in_the_queue_are_cancelled(impl, way):
    async def main():
        s = impl.Semaphore(1)
        await s.acquire()
        number = MOST // 10

        def call():
            if way == "run_all":
                return impl.run_all([idle] * 2, limit=s)
            return collected(impl.amap(idle, [1, 1], limit=s))

        tasks = [asyncio.ensure_future(call()) for _ in range(number)]
        await idle(4)
        for task in tasks[::-1]:
            task.cancel()
        await ended(tasks)
        s.release()
        await idle(3)
        assert s._value == 1 and not s.locked() and not s._waiters

    asyncio.run(main())
