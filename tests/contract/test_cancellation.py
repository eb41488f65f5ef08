"""A cancelled caller cancels what runs, closes what is queued, and waits for what runs."""

import asyncio
import sys

import pytest

from contract_tools import Trace, idle, is_closed, item, run, sleeping


async def cancelled(trace, call, message=None, turns=3):
    """Await *call* in a Task, cancel that after some turns, and return its outcome, traced."""

    async def caller():
        return await call

    task = asyncio.create_task(caller())
    await idle(turns)
    trace("cancel")
    assert task.cancel() if message is None else task.cancel(message)
    try:
        return await task
    except BaseException as error:
        return error
    finally:
        trace("released")


@pytest.mark.parametrize("n", [2, None])
def test_every_running_item_is_cancelled_and_the_caller_waits_for_its_cleanup(impl, n):
    async def main():
        trace = Trace()
        call = impl.gather_with_concurrency(n, sleeping(trace, "a", 4), sleeping(trace, "b", 0))
        error = await cancelled(trace, call, "why")
        assert type(error) is asyncio.CancelledError
        await idle(5)
        return trace.events

    # The first that ends with an exception decides, so the caller does not wait for the other.
    assert run(main) == "+a +b cancel xa xb -b released -a".split()


def test_queued_coroutines_are_closed_and_never_start(impl):
    async def main():
        trace = Trace()
        queued = [item(trace, name) for name in "cde"]
        call = impl.gather_with_concurrency(2, sleeping(trace, "a"), sleeping(trace, "b"), *queued)
        error = await cancelled(trace, call)
        assert type(error) is asyncio.CancelledError
        assert all(map(is_closed, queued))
        await idle(3)
        return trace.events

    assert run(main) == "+a +b cancel xa -a xb -b released".split()


def test_queued_futures_are_left_alone_and_other_awaitables_released(impl):
    async def main():
        trace = Trace()

        class Awaitable:
            def __await__(self):
                raise AssertionError("it was awaited")

            def close(self):
                raise AssertionError("it is no coroutine")

        future = asyncio.get_running_loop().create_future()
        call = impl.gather_with_concurrency(1, sleeping(trace, "a"), future, Awaitable())
        error = await cancelled(trace, call)
        assert type(error) is asyncio.CancelledError
        assert not future.done()

    run(main)


@pytest.mark.parametrize("n", [2, None])
@pytest.mark.parametrize("message", [None, "why"])
def test_the_message_reaches_the_items_and_comes_back(impl, n, message):
    async def main():
        messages = []

        async def listens():
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError as error:
                messages.append(error.args)
                raise

        error = await cancelled(Trace(), impl.gather_with_concurrency(n, listens(), listens()), message)
        assert error.args == (() if message is None else (message,))
        assert messages == [error.args] * 2

    run(main)


@pytest.mark.parametrize("n", [3, None])
def test_the_first_running_item_that_ends_with_an_exception_decides(impl, n):
    async def main():
        trace = Trace()
        call = impl.gather_with_concurrency(
            n,
            sleeping(trace, "a", 5, LookupError("a")),
            sleeping(trace, "b", 1, ValueError("b")),
            sleeping(trace, "c", 0, "swallowed"),
        )
        error = await cancelled(trace, call)
        await idle(5)
        assert type(error) is ValueError
        assert error.args == ("b",)
        return trace.events

    assert run(main) == "+a +b +c cancel xa xb xc -c -b released -a".split()


@pytest.mark.parametrize("n", [2, None])
@pytest.mark.parametrize("message", [None, "why"])
def test_if_all_running_items_end_normally_the_caller_is_cancelled_all_the_same(impl, n, message):
    async def main():
        trace = Trace()
        items = sleeping(trace, "a", 2, "swallowed"), sleeping(trace, "b", 1, "swallowed")
        error = await cancelled(trace, impl.gather_with_concurrency(n, *items), message)
        assert type(error) is asyncio.CancelledError
        assert error.args == (() if message is None else (message,))
        return trace.events

    assert run(main) == "+a +b cancel xa xb -b -a released".split()


def test_an_item_that_swallows_the_cancellation_frees_no_slot_for_a_queued_one(impl):
    async def main():
        trace = Trace()
        queued = item(trace, "b")
        call = impl.gather_with_concurrency(1, sleeping(trace, "a", 1, "swallowed"), queued)
        error = await cancelled(trace, call)
        assert type(error) is asyncio.CancelledError
        assert is_closed(queued)
        return trace.events

    assert run(main) == "+a cancel xa -a released".split()


@pytest.mark.parametrize("n", [2, None])
def test_cancelled_before_anything_runs_it_ends_at_once_and_nothing_starts(impl, n):
    async def main():
        trace = Trace()
        items = [item(trace, name) for name in "abc"]
        caller = asyncio.create_task(impl.gather_with_concurrency(n, *items))
        loop = asyncio.get_running_loop()
        # In the turn in which the caller makes its first step, before its items start.
        loop.call_soon(lambda: caller.cancel("early"))
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert all(map(is_closed, items))
        await idle(2)
        assert trace.events == []

    run(main)


@pytest.mark.parametrize("n", [2, None])
def test_a_caller_cancelled_before_its_first_step_starts_nothing(impl, n):
    async def main():
        trace = Trace()
        items = [item(trace, name) for name in "abc"]
        caller = asyncio.create_task(impl.gather_with_concurrency(n, *items))
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert all(map(is_closed, items))
        assert trace.events == []

    run(main)


@pytest.mark.parametrize("n", [1, 2, None])
def test_an_item_that_is_a_future_or_task_is_cancelled_with_the_caller(impl, n):
    async def main():
        trace = Trace()
        task = asyncio.create_task(sleeping(trace, "task"))
        error = await cancelled(trace, impl.gather_with_concurrency(n, task), "why")
        assert type(error) is asyncio.CancelledError
        assert task.cancelled()

    run(main)


def test_a_cancelled_item_task_is_an_error_of_that_item_only(impl):
    async def main():
        for n in (2, None):
            trace = Trace()
            tasks = []

            async def known():
                tasks.append(asyncio.current_task())
                return await sleeping(trace, "a")

            asyncio.get_running_loop().call_later(0.001, lambda: tasks[0].cancel("only it"))
            with pytest.raises(asyncio.CancelledError) as caught:
                await impl.gather_with_concurrency(n, known(), item(trace, "b", 2))
            assert caught.value.args == ("only it",)
            assert asyncio.current_task().cancelling() == 0
            assert tasks[0].cancelled()

    run(main)


def test_wait_for_times_out_and_cancels_the_items(impl):
    async def main():
        for n in (1, None):
            trace = Trace()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(impl.gather_with_concurrency(n, sleeping(trace, "a", 1)), 0.001)
            assert trace.events == ["+a", "xa", "-a"]

    run(main)


def test_timeout_around_a_gathering_cancels_its_items(impl):
    async def main():
        trace = Trace()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await impl.gather_with_concurrency(1, sleeping(trace, "a", 1), item(trace, "b"))
        assert trace.events == ["+a", "xa", "-a"]
        assert asyncio.current_task().cancelling() == 0

    run(main)


def test_timeout_inside_an_item_is_that_item_s_own(impl):
    async def main():
        async def timed(name):
            try:
                async with asyncio.timeout(0.001):
                    await asyncio.get_running_loop().create_future()
            except TimeoutError:
                return name, asyncio.current_task().cancelling()

        assert await impl.gather_with_concurrency(2, *map(timed, "abc")) == [(name, 0) for name in "abc"]

    run(main)


def test_shield_keeps_a_gathering_running(impl):
    async def main():
        trace = Trace()
        inner = asyncio.create_task(impl.gather_with_concurrency(1, item(trace, "a", 5), item(trace, "b")))

        async def caller():
            await asyncio.shield(inner)

        error = await cancelled(trace, caller())
        assert type(error) is asyncio.CancelledError
        assert await inner == ["a", "b"]

    run(main)


def test_a_task_group_cancels_a_gathering_like_any_task(impl):
    async def main():
        trace = Trace()
        queued = item(trace, "b")
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(impl.gather_with_concurrency(1, sleeping(trace, "a", 1), queued))
                await idle(3)
                raise ValueError("of the group")
        assert [str(error) for error in caught.value.exceptions] == ["of the group"]
        assert trace.events == ["+a", "xa", "-a"]
        assert is_closed(queued)

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="cancelling() is new in 3.11")
def test_cancelling_twice_reaches_the_items_twice(impl):
    async def main():
        trace = Trace()

        async def stubborn():
            for attempt in range(3):
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError as error:
                    trace(error.args[0])
                    if attempt == 1:
                        raise

        caller = asyncio.create_task(impl.gather_with_concurrency(1, stubborn(), item(trace, "queued")))
        await idle(3)
        caller.cancel("first")
        await idle(3)
        assert not caller.done()
        caller.cancel("second")
        with pytest.raises(asyncio.CancelledError) as caught:
            await caller
        assert caught.value.args == ("second",)
        return trace.events

    assert run(main) == ["first", "second"]
