"""A shared limit as the limit of a call: each item has a permit, and one that loses it has ended with LeaseLost."""

import asyncio
import functools

import pytest

from contract_tools import Running, idle
from gatedcoro.shared import GateUnavailable, LeaseLost, LimitStats
from semaphore_tools import WAYS
from shared_state import NAME, Server
from shared_tools import Item, all_is_given_back, entered, error_of, run, run_each, until

EACH_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
WITH_EXCEPTIONS = {
    "gather": lambda impl, limit, functions: impl.gather(
        *[function() for function in functions], limit=limit, return_exceptions=True
    ),
    "run_all": lambda impl, limit, functions: impl.run_all(functions, limit=limit, return_exceptions=True),
    "run_all, a generator": lambda impl, limit, functions: impl.run_all(
        (function for function in functions), limit=limit, return_exceptions=True
    ),
    "amap": lambda impl, limit, functions: impl.amap(
        lambda function: function(), functions, limit=limit, return_exceptions=True
    ),
    "gated_coro": lambda impl, limit, functions: asyncio.gather(
        *[impl.gated_coro(limit, function()) for function in functions], return_exceptions=True
    ),
}
EACH_WAY_WITH_EXCEPTIONS = pytest.mark.parametrize("way", WITH_EXCEPTIONS.values(), ids=WITH_EXCEPTIONS)


def counted(running, count, seconds=0.01):
    async def item(number):
        with running:
            await asyncio.sleep(seconds)
        return number

    return [functools.partial(item, number) for number in range(count)]


@EACH_WAY
def test_never_more_than_the_limit_over_all_its_users(impl, way):
    running = Running()

    async def main():
        server = Server()
        limits = [server.limit(3), server.limit(3)]
        beside = [asyncio.create_task(user(limits[0], running)) for _ in range(5)]
        results = await asyncio.gather(*[way(impl, limit, counted(running, 20)) for limit in limits])
        assert [sorted(result) for result in results] == [[*range(20)]] * 2
        await asyncio.gather(*beside)
        await all_is_given_back(server, *limits)

    async def user(limit, running):
        async with limit:
            with running:
                await asyncio.sleep(0.01)

    run(main)
    assert running.most == 3


@pytest.mark.parametrize("count, of_first", [(3, False), (3, True), (2, True)])
def test_with_a_number_beside_it(impl, count, of_first):
    running = Running()

    async def main():
        server = Server()
        limit = server.limit(5)
        limits = (count, limit) if of_first else (limit, count)
        results = await impl.gather(*[one() for one in counted(running, 20)], limit=limits)
        assert results == [*range(20)]
        await all_is_given_back(server, limit)

    run(main)
    assert running.most == count


def test_two_in_a_row(impl):
    running = Running()

    async def main():
        server, another = Server(), Server()
        limits = server.limit(5), another.limit(2)
        assert await impl.gather(*[one() for one in counted(running, 20)], limit=limits) == [*range(20)]
        await limits[0].aclose()
        assert server.records == {}
        await all_is_given_back(another, limits[1])

    run(main)
    assert running.most == 2


def test_gated_coro(impl):
    async def main():
        server = Server()
        limit = server.limit(1)

        async def item():
            return limit.stats().held

        assert await impl.gated_coro(limit, item()) == 1
        assert limit.stats().held == 0
        await all_is_given_back(server, limit)

    run(main)


@EACH_WAY_WITH_EXCEPTIONS
@pytest.mark.parametrize("at_most", [1, 3])
def test_items_that_lose_their_permits_have_ended_with_it_and_the_others_run(impl, way, at_most):
    """Also where a Task runs several items: nothing of the cancellation is left for the next."""

    async def main():
        server = Server()
        limit = server.limit(at_most)
        begun = []

        async def item(number):
            begun.append(number)
            await asyncio.sleep(1)
            await idle(3)
            return number

        call = asyncio.ensure_future(awaited(way(impl, limit, [functools.partial(item, n) for n in range(12)])))
        await until(lambda: len(begun) > at_most)
        running = begun[-at_most:]
        await asyncio.sleep(0.5)
        limit._session.end("the test says so")
        results = await call
        for number, result in enumerate(results):
            if number in running:
                assert type(result) is LeaseLost
                assert str(result) == f"the permit of {NAME!r} is lost: the test says so"
            else:
                assert result == number
        await all_is_given_back(server, limit)

    run(main)


async def awaited(awaitable):
    return await awaitable


@EACH_WAY
def test_the_first_loss_is_the_error_of_the_call(impl, way):
    async def main():
        server = Server()
        limit = server.limit(2)
        call = asyncio.ensure_future(awaited(way(impl, limit, counted(Running(), 6, seconds=100))))
        await asyncio.sleep(1)
        limit._session.end("the test says so")
        assert type(await error_of(call)) is LeaseLost
        # What the call leaves running has permits, until it ends.
        await until(lambda: limit.stats().held == limit.stats().waiting == 0, every=1)
        await all_is_given_back(server, limit)

    run(main)


@EACH_WAY_WITH_EXCEPTIONS
def test_a_server_out_of_reach_is_what_the_items_that_wait_have_ended_with(impl, way):
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(2, line=line)
        line.error = ConnectionError("cut")
        results = await way(impl, limit, counted(Running(), 6))
        assert [type(result) for result in results] == [GateUnavailable] * 6
        line.error = None
        assert await way(impl, limit, counted(Running(), 6)) == [*range(6)]
        await all_is_given_back(server, limit, at_once=False)

    run(main)


@EACH_WAY_WITH_EXCEPTIONS
def test_a_limit_that_is_closed_meanwhile(impl, way):
    async def main():
        server = Server()
        limit = server.limit(2)
        call = asyncio.ensure_future(awaited(way(impl, limit, counted(Running(), 6, seconds=1))))
        await asyncio.sleep(1.5)
        await limit.aclose()
        results = await call
        assert results[:2] == [0, 1]
        assert [type(result) for result in results[2:]] == [LeaseLost] * 2 + [GateUnavailable] * 2
        await all_is_given_back(server, limit)

    run(main)


@EACH_WAY
def test_a_call_that_is_cancelled_holds_nothing(impl, way):
    async def main(turn):
        server = Server()
        limit = server.limit(2)

        async def item():
            await idle(2)

        call = asyncio.ensure_future(awaited(way(impl, limit, [item] * 10)))
        await idle(turn)
        call.cancel()
        await asyncio.wait([call])
        await until(lambda: limit.stats().held == limit.stats().waiting == 0, at_most=10)
        items = await entered(limit, 2)
        assert limit.stats() == LimitStats(held=2, waiting=0, sessions=1, limit=2)
        for one in items:
            await one.ends()
        await all_is_given_back(server, limit)

    run_each(main, [(turn,) for turn in (1, 2, 3, 5, 8, 13, 21)])


def test_a_call_that_is_cancelled_as_its_permits_are_lost_is_cancelled(impl):
    async def main(first):
        server = Server()
        limit = server.limit(2)
        call = impl.gather(*[one() for one in counted(Running(), 6, seconds=100)], limit=limit)
        await asyncio.sleep(1)
        actions = [call.cancel, lambda: limit._session.end("the test says so")]
        for action in actions if first else actions[::-1]:
            action()
        assert type(await error_of(call)) in (asyncio.CancelledError, LeaseLost)
        await until(lambda: limit.stats().held == limit.stats().waiting == 0, at_most=10)
        await all_is_given_back(server, limit)

    run_each(main, [(True,), (False,)])


def test_items_that_are_kept_run_on(impl):
    async def main():
        server = Server()
        limit = server.limit(2, on_lost="keep")
        call = impl.gather(*[one() for one in counted(Running(), 6, seconds=1)], limit=limit)
        await asyncio.sleep(0.5)
        limit._session.end("the test says so")
        assert await call == [*range(6)]
        await all_is_given_back(server, limit)

    run(main)


def test_another_process_has_its_share_of_a_call(impl):
    async def main():
        server = Server()
        limit, other = server.limit(2), server.limit(2)
        call = impl.run_all(counted(Running(), 400), limit=limit)
        task = asyncio.ensure_future(call)
        await asyncio.sleep(0.5)
        theirs = Item(other)
        await theirs.starts()
        assert not task.done()
        await theirs.ends()
        assert await task == [*range(400)]
        await all_is_given_back(server, limit, other)

    run(main)
