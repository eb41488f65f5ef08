"""progress= of amap(), run_all() and gather(): by whom and in which context it is called, and when not any more."""

import asyncio
import contextvars
import inspect
import threading

import pytest

from progress_tools import CALLS, Bar, Told, after, all_of, end_early, functions_of, now, run, sleep

pytestmark = pytest.mark.usefixtures("any_turns")

every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)

VALUE = contextvars.ContextVar("VALUE", default="unset")


@every_call
def test_it_is_called_by_the_loop_and_not_in_the_step_of_an_item(impl, call):
    async def main():
        thread = threading.get_ident()
        loop = asyncio.get_running_loop()

        def look(told):
            assert threading.get_ident() == thread
            assert asyncio.get_running_loop() is loop
            assert asyncio.current_task() is None
            names = [frame.function for frame in inspect.stack()]
            assert "after" not in names
            assert "sleep" not in names

        told = Told(look)
        await call(impl, [0, 2, 3, 20], limit=3, progress=told)
        assert told.sum == 4

    run(main)


@every_call
def test_it_sees_a_copy_of_the_callers_context_each_time_and_nobody_sees_what_it_sets(impl, call):
    async def main():
        seen = []

        def look(told):
            seen.append(VALUE.get())
            VALUE.set("of the callback")

        VALUE.set("of the caller")
        told = Told(look)
        assert await call(impl, [2, 20, 40], progress=told) == [2, 20, 40]
        assert seen == ["of the caller"] * 3
        assert VALUE.get() == "of the caller"

    run(main)


@pytest.mark.parametrize("name", ["gather", "run_all", "amap awaited", "amap"])
def test_it_does_not_see_what_an_item_or_the_source_sets(impl, name):
    async def item(milliseconds):
        VALUE.set("of the item")
        await sleep(milliseconds)
        return milliseconds

    def source(function):
        for milliseconds in (0, 20, 40):
            VALUE.set("of the source")
            yield function(milliseconds)

    async def main():
        seen = []

        def tell(number):
            seen.append(VALUE.get())

        VALUE.set("of the caller")
        call = {
            "gather": lambda: impl.gather(*source(item), progress=tell),
            "run_all": lambda: impl.run_all(source(lambda value: lambda: item(value)), progress=tell),
            "amap awaited": lambda: impl.amap(item, source(int), progress=tell),
            "amap": lambda: all_of(impl.amap(item, source(int), progress=tell)),
        }[name]
        assert await call() == [0, 20, 40]
        assert seen == ["of the source" if name == "gather" else "of the caller"] * 3  # there it is the caller's

    run(main)


def test_the_context_of_a_stream_is_that_of_its_first_step(impl):
    async def main():
        seen = []
        VALUE.set("at the call")
        stream = impl.amap(after, [2, 20], progress=lambda n: seen.append(VALUE.get()))
        VALUE.set("at the first step")
        first = await anext(stream)
        VALUE.set("later")
        assert [first, *await all_of(stream)] == [2, 20]
        assert seen == ["at the first step"] * 2
        seen.clear()
        call = impl.run_all(functions_of([2, 20]), progress=lambda n: seen.append(VALUE.get()))
        VALUE.set("when it is awaited")
        await call
        assert seen == ["when it is awaited"] * 2
        seen.clear()
        future = impl.gather(after(2), after(20), progress=lambda n: seen.append(VALUE.get()))
        VALUE.set("when its Future is awaited")
        await future
        assert seen == ["when it is awaited"] * 2

    run(main)


@every_call
def test_an_object_with_update_is_called_by_that(impl, call):
    async def main():
        bar = Bar()
        assert await call(impl, [2, 5, 40], progress=bar) == [2, 5, 40]
        assert bar.told == [(12, 2), (40, 1)]

    run(main)


@every_call
def test_one_callback_may_be_told_of_several_calls(impl, call):
    async def main():
        told = Told()
        await asyncio.gather(call(impl, [2, 5], progress=told), call(impl, [3, 30], progress=told))
        assert told == [(5, 2), (13, 1), (30, 1)]

    run(main)


# Not after that


@pytest.mark.parametrize("ordered", [True, False])
def test_nothing_is_told_after_a_stream_was_dropped(impl, ordered):
    async def main():
        told, ended = Told(), []

        async def item(milliseconds):
            try:
                await sleep(milliseconds)
            finally:
                ended.append(milliseconds)

        async for _ in impl.amap(item, [2, 30, 40, 50], limit=3, ordered=ordered, progress=told):
            await sleep(3)
            break
        await sleep(100)
        assert sorted(ended) == [2, 30, 40, 50]
        assert told == []

    run(main)


@pytest.mark.parametrize("how", ["close", "throw", "drop"])
@pytest.mark.parametrize("name", ["run_all", "amap awaited"])
def test_nothing_is_told_after_a_coroutine_was_closed_thrown_into_or_dropped(impl, name, how):
    async def main():
        told, ended = Told(), []

        async def item():
            try:
                await sleep(2 if not ended else 50)
            finally:
                ended.append(now())

        call = {
            "run_all": lambda: impl.run_all([item] * 5, limit=2, progress=told),
            "amap awaited": lambda: impl.amap(lambda x: item(), range(5), limit=2, progress=told).__await__(),
        }[name]()
        call.send(None)
        await sleep(4)
        end_early(call, how)
        del call
        await sleep(100)
        assert ended == [2, 2, 4, 4]
        assert told == []

    run(main)


def test_nothing_is_told_after_somebody_has_set_the_future_of_gather(impl):
    async def main():
        told = Told()
        future = impl.gather(*map(after, [2, 20, 30]), progress=told)
        await sleep(15)
        future.set_result("mine")
        assert await future == "mine"
        await sleep(100)
        assert told == [(12, 1)]

    run(main)


# The turn by which the end is put off


def ends_and_calls(function, milliseconds=5):
    """An item in whose last step *function* is scheduled for the next turn, before what the call schedules."""

    async def item(_=None):
        await sleep(milliseconds)
        asyncio.get_running_loop().call_soon(function)
        return "result"

    return item


@pytest.mark.parametrize("name", ["gather", "run_all", "amap awaited"])
@pytest.mark.parametrize("ends", ["with results", "with an error"])
def test_the_caller_is_cancelled_in_that_turn(impl, name, ends):
    async def main():
        told = Told()
        item = ends_and_calls(lambda: task.cancel("late"))

        async def fails(_=None):
            await item()
            raise ValueError("of the item")

        item_or_error = fails if ends == "with an error" else item
        call = {
            "gather": lambda: impl.gather(item_or_error(), progress=told),
            "run_all": lambda: impl.run_all([item_or_error], progress=told),
            "amap awaited": lambda: awaited(impl.amap(item_or_error, [1], progress=told)),
        }[name]
        task = asyncio.ensure_future(call())
        kind = ValueError if ends == "with an error" else asyncio.CancelledError
        with pytest.raises(kind):
            await task
        assert told == [(5, 1)]

    async def awaited(stream):
        return await stream

    run(main)


def test_a_consumer_that_is_cancelled_in_that_turn_loses_nothing(impl):
    async def main():
        told = Told()
        task = None
        stream = impl.amap(ends_and_calls(lambda: task.cancel("late")), [1], progress=told)
        first = asyncio.ensure_future(anext(stream))
        task = asyncio.ensure_future(anext(stream))
        assert await first == "result"
        with pytest.raises(asyncio.CancelledError, match="late"):
            await task
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert told == [(5, 1)]

    run(main)


def test_a_stream_that_is_left_in_that_turn_ends_as_if_it_had_been_then(impl):
    async def main():
        told, closing = Told(), []
        loop = asyncio.get_running_loop()
        stream = impl.amap(
            ends_and_calls(lambda: closing.append(loop.create_task(stream.aclose()))), [1], progress=told
        )
        consumer = asyncio.ensure_future(all_of(stream))
        assert await consumer == ["result"]
        await closing[0]
        assert told == [(5, 1)]

    run(main)


def test_a_stream_that_is_dropped_in_that_turn_tells_nothing(impl):
    async def main():
        told = Told()
        streams = []
        streams.append(impl.amap(ends_and_calls(streams.clear), [1], progress=told))
        assert await anext(streams[0]) == "result"
        await sleep(50)
        assert not streams
        assert told == []

    run(main)


def test_somebody_sets_the_future_of_gather_in_that_turn(impl):
    async def main():
        told = Told()
        future = impl.gather(ends_and_calls(lambda: future.set_result("mine"))(), progress=told)
        assert await future == "mine"
        await sleep(50)
        assert told.sum <= 1

    run(main)
