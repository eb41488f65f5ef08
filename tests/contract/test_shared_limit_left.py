"""A shared limit whose users are cancelled, closed or dropped at every moment, or leave what another Task has entered."""

import asyncio
import itertools

import pytest

from contract_tools import idle
from effort import part_of
from gatedcoro.shared import LeaseLost, LimitStats
from shared_state import Server
from shared_tools import Item, all_is_given_back, background, entered, error_of, run, run_each, until

TURNS = range(8)


async def has_room(server, *limits):
    """All permits are there: as many as the limit allows can enter at once."""
    limit = limits[0]
    items = [Item(limit) for _ in range(limit.limit)]
    async with asyncio.timeout(2 * server.lease):
        for one in items:
            await one.starts()
    await asyncio.sleep(0.01)
    assert len(background()) == 2  # those of sessions that were lost have ended
    assert limit.stats() == LimitStats(held=limit.limit, waiting=0, sessions=1, limit=limit.limit)
    for one in items:
        await one.ends()
    await all_is_given_back(server, *limits)


def in_turns(*actions):
    """Do each action in its turn of the event loop: pairs of a turn, or None for never, and a function."""
    loop = asyncio.get_running_loop()
    actions = [(when, action) for when, action in actions if when is not None]

    def turn(number):
        for when, action in actions:
            if when == number:
                action()
        if number < max(when for when, _ in actions):
            loop.call_soon(turn, number + 1)

    turn(0)


def test_a_waiter_is_cancelled_before_at_and_after_its_grant():
    async def main(at_leave, at_cancel, at_end):
        server = Server()
        limit = server.limit(1)
        [first] = await entered(limit)
        second, third = Item(limit), Item(limit)
        second.may_end.set()
        await idle(2)
        cancelled, began = [], server.now
        in_turns(
            (at_leave, first.may_end.set),
            (at_cancel, lambda: cancelled.append(second.task.cancel())),
            (at_end, lambda: limit._session and limit._session.end("the test says so")),
        )
        await third.starts()
        assert server.now - began < 1  # no permit was left with a session that was lost
        third.may_end.set()
        await asyncio.wait([first.task, second.task, third.task], return_when=asyncio.ALL_COMPLETED)
        assert second.task.cancelled() == cancelled[0]
        for one in (first, second, third):
            if not one.task.cancelled() and (error := one.task.exception()):
                assert isinstance(error, LeaseLost) and at_end is not None
        await has_room(server, limit)

    run_each(main, part_of([*itertools.product(TURNS, TURNS, [*TURNS, None])]))


def test_a_waiter_is_cancelled_at_every_turn_of_its_first_request():
    async def main(turn, delay):
        server = Server()
        limit = server.limit(1, delay=delay)
        one = Item(limit)
        await idle(turn)
        await asyncio.sleep(delay / 2)
        one.task.cancel()
        await asyncio.wait([one.task])
        assert one.task.cancelled()
        assert limit.stats().waiting == limit.stats().held == 0
        await has_room(server, limit)

    run_each(main, itertools.product(range(12), (0, 0.1)))


@pytest.mark.parametrize("way", ["close", "drop", "throw"])
def test_a_waiting_coroutine_is_closed_dropped_or_thrown_into(way):
    async def main(at_leave, at_close):
        server = Server()
        limit = server.limit(1)
        [first] = await entered(limit)
        coroutines = [limit.__aenter__()]
        waits_for = coroutines[0].send(None)
        second = Item(limit)
        await idle(1)

        def close():
            if way == "close":
                coroutines[0].close()
            elif way == "throw":
                with pytest.raises(KeyError):
                    coroutines[0].throw(KeyError("the test"))
            coroutines.clear()

        in_turns((at_leave, first.may_end.set), (at_close, close))
        await second.starts()
        assert (await first.task, await second.ends()) == ("", "")
        del waits_for
        await has_room(server, limit)

    run_each(main, itertools.product(TURNS, TURNS))


def test_an_item_is_closed_while_it_holds_a_permit():
    async def main():
        server = Server()
        limit = server.limit(1)
        await (await entered(limit))[0].ends()

        async def item():
            async with limit:
                await asyncio.get_running_loop().create_future()

        coroutine = item()
        coroutine.send(None)  # a permit was idle
        assert limit.stats().held == 1
        coroutine.close()
        assert limit.stats().held == 0
        await has_room(server, limit)

    run(main)


def test_an_item_is_cancelled_while_it_holds_a_permit():
    async def main():
        server = Server()
        limit = server.limit(1)
        [first] = await entered(limit)
        second = Item(limit)
        first.task.cancel()
        await second.starts()
        assert first.task.cancelled()
        await second.ends()
        await has_room(server, limit)

    run(main)


@pytest.mark.parametrize("turn", TURNS)
def test_acquire_with_an_end_that_comes_as_it_is_served(turn):
    """Whatever it returns is true: a token means a permit, None means none."""

    async def main():
        server = Server()
        limit = server.limit(1)
        [first] = await entered(limit)
        loop = asyncio.get_running_loop()
        # Both are due in one turn of the loop; the permit comes some turns before or after the end of the time.
        loop.call_at(server.now + 1, lambda: in_turns((turn, first.may_end.set)))

        async def second():
            await idle(3)
            token = await limit.acquire(timeout=1)
            assert (token is not None) == (limit.stats().held == 1 and first.task.done())
            if token is not None:
                limit.release()

        await second()
        await first.ends()
        await has_room(server, limit)

    run(main)


# Who leaves


def test_left_more_often_than_entered():
    async def main():
        server = Server()
        limit = server.limit(2)
        message = f"{limit!r} was left more often than it was entered"
        for _ in range(2):
            with pytest.raises(RuntimeError) as raised:
                limit.release()
            assert str(raised.value) == message
        async with limit:
            pass
        with pytest.raises(RuntimeError, match="was left more often than it was entered$"):
            limit.release()
        with pytest.raises(RuntimeError, match="was left more often than it was entered$"):
            await limit.__aexit__(None, None, None)
        await has_room(server, limit)

    run(main)


def test_a_task_holds_several_permits():
    async def main():
        server = Server()
        limit = server.limit(3)
        async with limit:
            async with limit:
                await limit.acquire()
                assert limit.stats().held == server.total == 3
                assert await limit.acquire(blocking=False) is None
                limit.release()
                assert limit.stats().held == 2
            assert limit.stats().held == 1
        assert limit.stats().held == 0
        await has_room(server, limit)

    run(main)


def test_another_task_leaves():
    async def main():
        server = Server()
        limit = server.limit(2)
        await asyncio.create_task(limit.acquire())
        beside = (await entered(limit))[0]
        limit.release()  # of the Task that has ended, not of the one that is in
        assert [*limit._permits.holders] == [beside.task]
        assert limit.stats().held == 1
        await beside.ends()
        with pytest.raises(RuntimeError):
            limit.release()
        await has_room(server, limit)

    run(main)


def test_another_task_leaves_what_was_lost_meanwhile():
    async def main():
        server = Server()
        limit = server.limit(1)
        await asyncio.create_task(limit.acquire())
        limit._session.end("the test says so")
        beside = (await entered(limit))[0]
        limit.release()  # of the Task that has ended: the other one is in
        assert limit.stats().held == 1
        waiting = Item(limit)
        await asyncio.sleep(1)
        assert not waiting.is_in.is_set()
        await beside.ends()
        await waiting.ends()
        with pytest.raises(RuntimeError):
            limit.release()
        await has_room(server, limit)

    run(main)


def test_what_runs_in_no_task_enters_and_leaves():
    async def main():
        server = Server()
        limit = server.limit(1)
        [first] = await entered(limit)
        trace = []

        async def item(name):
            async with limit:
                trace.append((name, asyncio.current_task(), limit.stats().held))

        loop = asyncio.get_running_loop()

        def drive(coroutine):
            try:
                future = coroutine.send(None)
            except StopIteration:
                return
            future._asyncio_future_blocking = False
            future.add_done_callback(lambda future: drive(coroutine))

        for name in "ab":
            loop.call_soon(drive, item(name))
        await idle(2)
        assert limit.stats().waiting == 2
        await first.ends()
        await until(lambda: len(trace) == 2)
        assert trace == [("a", None, 1), ("b", None, 1)]
        await has_room(server, limit)

    run(main)


def test_what_runs_in_no_task_cannot_be_cancelled_but_leaves():
    async def main():
        server = Server()
        limit = server.limit(1)
        await (await entered(limit))[0].ends()

        async def item():
            async with limit:
                await asyncio.sleep(0)

        coroutine = item()
        asyncio.get_running_loop().call_soon(coroutine.send, None)
        await idle(2)
        limit._session.end("the test says so")
        await asyncio.sleep(1)
        assert server.total == 1  # it still runs
        asyncio.get_running_loop().call_soon(lambda: pytest.raises(StopIteration, coroutine.send, None))
        await until(lambda: server.records == {})
        await has_room(server, limit)

    run(main)


def test_who_waits_together_is_cancelled_together():
    async def main():
        server = Server()
        limit = server.limit(1)
        [first] = await entered(limit)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.gather(*[limit.__aenter__() for _ in range(100)])
        assert limit.stats().waiting == 0
        await first.ends()
        await has_room(server, limit)

    run(main)


def test_a_timeout_around_entering_takes_nothing():
    async def main():
        server = Server()
        limit = server.limit(1)
        [first] = await entered(limit)

        async def item():
            async with asyncio.timeout(1):
                async with limit:
                    pass

        assert isinstance(await error_of(item()), TimeoutError)
        await first.ends()
        await has_room(server, limit)

    run(main)
