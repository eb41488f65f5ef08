"""A loop, or an asyncio.Semaphore, that fails half-way: the keeper can still be cancelled, and no slot is lost."""

import asyncio
import collections

import pytest

from contract_tools import idle, is_closed, run

pytestmark = pytest.mark.usefixtures("any_turns")


async def value(result):
    return result


async def sleeps():
    await asyncio.get_running_loop().create_future()


class LosingLoop(asyncio.SelectorEventLoop):
    """Takes callbacks and never calls them, while told so."""

    armed = loses = False

    def call_soon(self, callback, *args, context=None):
        handle = super().call_soon(callback, *args, context=context)
        if self.loses:
            handle.cancel()
        return handle


@pytest.mark.parametrize("turns", [1, 2, 5])
def test_a_keeper_whose_callback_is_lost_can_be_cancelled_again(impl, turns):
    async def main():
        loop = asyncio.get_running_loop()
        others = asyncio.all_tasks()
        queued = value(1)
        call = impl.gather(sleeps(), queued, limit=1)
        (keeper,) = asyncio.all_tasks() - others
        await idle(turns)
        loop.loses = True
        keeper.cancel()
        loop.loses = False
        assert is_closed(queued)
        await idle(3)
        if turns > 1:  # it waits already
            assert not keeper.done()
        keeper.cancel()
        await idle(2)
        assert keeper.done()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    run(main, loop_factory=LosingLoop)


def test_a_keeper_that_is_not_told_of_the_end_of_its_queue_ends_with_the_loop(impl):
    """asyncio.Runner cancels it, and waits for it."""

    async def main():
        loop = asyncio.get_running_loop()
        others = asyncio.all_tasks()

        def clock():  # is asked before the last item is taken
            loop.loses = loop.armed
            return 0.0

        async def first():
            await idle(3)
            loop.armed = True

        async def last():
            loop.loses = loop.armed = False

        impl._set_clock(clock)
        call = impl.gather(first(), last(), limit=1)
        (keeper,) = asyncio.all_tasks() - others
        await call
        await idle(3)
        assert not keeper.done()
        return keeper

    assert run(main, loop_factory=LosingLoop).cancelled()


class FailingQueue(collections.deque):
    """A waiter that has been taken out of it fails."""

    def remove(self, waiter):
        super().remove(waiter)
        raise ValueError("removed")


@pytest.mark.parametrize("door", ["gated_coro", "gather"])
@pytest.mark.parametrize("semaphore_type", [asyncio.Semaphore, asyncio.BoundedSemaphore])
def test_a_slot_that_was_handed_over_to_a_failing_acquire_is_given_back(impl, semaphore_type, door):
    async def main():
        semaphore = semaphore_type(1)
        await semaphore.acquire()
        semaphore._waiters = FailingQueue()
        item = value(1)
        call = impl.gated_coro(semaphore, item) if door == "gated_coro" else impl.gather(item, limit=semaphore)
        task = asyncio.ensure_future(call)
        await idle(3)
        semaphore.release()
        with pytest.raises(ValueError, match="removed"):
            await task
        assert is_closed(item)
        assert semaphore._value == 1
        semaphore._waiters = None
        assert await impl.gated_coro(semaphore, value(2)) == 2

    run(main)


def test_no_slot_is_given_back_that_acquire_has_given_back_itself(impl):
    async def main():
        semaphore = asyncio.Semaphore(1)
        await semaphore.acquire()
        task = asyncio.ensure_future(impl.gated_coro(semaphore, value(1)))
        await idle(1)
        semaphore.release()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert semaphore._value == 1

    run(main)
