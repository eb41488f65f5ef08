"""Without a limit (`n is None`) the items are treated as asyncio.gather treats them."""

import asyncio
import sys
import types

import pytest

from contract_tools import Trace, failing, is_closed, item, run

NOT_AWAITABLE = "An asyncio.Future, a coroutine or an awaitable is required"


def test_equal_awaitables_run_once_and_are_returned_for_each(impl):
    class Equal:
        def __init__(self, name, runs):
            self.name, self.runs = name, runs

        def __hash__(self):
            return hash(self.name)

        def __eq__(self, other):
            return self.name == other.name

        def __await__(self):
            self.runs.append(self.name)
            yield
            return self.name.upper()

    async def main():
        runs = []
        results = await impl.gather_with_concurrency(None, *(Equal(name, runs) for name in "abab"))
        assert results == ["A", "B", "A", "B"]
        assert runs == ["a", "b"]

    run(main)


def test_the_same_coroutine_twice_runs_once(impl):
    async def main():
        coroutine = asyncio.sleep(0, "slept")
        assert await impl.gather_with_concurrency(None, coroutine, asyncio.sleep(0), coroutine) == [
            "slept",
            None,
            "slept",
        ]

    run(main)


def test_futures_and_tasks_are_taken_as_they_are(impl):
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        task = loop.create_task(asyncio.sleep(0, "task"))
        before = asyncio.all_tasks()
        call = impl.gather_with_concurrency(None, future, task, future)
        call.send(None)
        assert asyncio.all_tasks() == before, "no Task is made for them"
        call.close()
        await asyncio.sleep(0)
        assert future.cancelled()
        assert task.cancelled()
        future = loop.create_future()
        loop.call_soon(future.set_result, "future")
        task = loop.create_task(asyncio.sleep(0, "task"))
        assert await impl.gather_with_concurrency(None, future, task, future) == ["future", "task", "future"]

    run(main)


def test_futures_are_subscribed_before_any_item_starts(impl):
    async def main():
        trace = Trace()
        future = asyncio.get_running_loop().create_future()
        future.set_exception(LookupError("the Future's"))
        with pytest.raises(LookupError, match="the Future's"):
            await impl.gather_with_concurrency(None, failing(trace, "a", 0), future)
        await asyncio.sleep(0)
        assert trace.events == ["+a", "!a"]

    run(main)


def test_done_futures_alone_are_processed_as_this_version_of_asyncio_does(impl):
    async def main():
        async def turns_of(gathering):
            trace = Trace()
            trace.start()
            futures = [asyncio.get_running_loop().create_future() for _ in range(2)]
            for index, future in enumerate(futures):
                future.set_result(index)
            assert await gathering(*futures) == [0, 1]
            trace("done")
            trace.stop()
            return trace.turns

        ours = await turns_of(lambda *futures: impl.gather_with_concurrency(None, *futures))
        assert ours == await turns_of(asyncio.gather)
        assert ours == (["done"] if sys.version_info >= (3, 12) else ["", "", "done"])

    run(main)


@pytest.mark.parametrize("bad", [5, "text", None, object(), lambda: None, asyncio.sleep])
def test_a_non_awaitable_is_refused_before_anything_starts(impl, bad):
    async def main():
        trace = Trace()
        items = [item(trace, "a"), item(trace, "b")]
        with pytest.raises(TypeError) as caught:
            await impl.gather_with_concurrency(None, items[0], bad, items[1])
        assert str(caught.value) == NOT_AWAITABLE
        assert all(map(is_closed, items))
        await asyncio.sleep(0)
        assert trace.events == []

    run(main)


def test_an_unhashable_argument_is_refused_before_anything_starts(impl):
    async def main():
        trace = Trace()
        coroutine = item(trace, "a")
        with pytest.raises(TypeError, match="unhashable"):
            await impl.gather_with_concurrency(None, coroutine, [])
        assert is_closed(coroutine)

    run(main)


def test_a_future_of_another_loop_is_refused_before_anything_starts(impl):
    async def main():
        trace = Trace()
        coroutine = item(trace, "a")
        other = asyncio.new_event_loop()
        try:
            future = other.create_future()
            for arguments in ((coroutine, future), (future, coroutine)):
                with pytest.raises(ValueError, match="belongs to a different loop"):
                    await impl.gather_with_concurrency(None, *arguments)
            assert is_closed(coroutine)
            assert not future.done()
        finally:
            other.close()

    run(main)


def test_objects_with_await_and_generator_based_coroutines_are_awaited(impl):
    class Awaitable:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return "awaited"

    @types.coroutine
    def generator_based():
        yield
        return "driven"

    async def main():
        for n in (None, 1, 2):
            assert await impl.gather_with_concurrency(n, Awaitable(), generator_based()) == ["awaited", "driven"]

    run(main)


def test_a_plain_generator_is_a_coroutine_up_to_3_11_only(impl):
    def generator():
        yield
        return "driven"

    async def main():
        plain = generator()
        if sys.version_info < (3, 12):
            assert await impl.gather_with_concurrency(None, plain) == ["driven"]
            plain = generator()
        else:
            with pytest.raises(TypeError, match=NOT_AWAITABLE):
                await impl.gather_with_concurrency(None, plain)
        with pytest.raises(TypeError, match="generator"):
            await impl.gather_with_concurrency(1, plain)

    run(main)
