"""progress=True, a bar of tqdm's: what its total is, when it is closed, and what becomes of its errors."""

import asyncio
import gc
import inspect
import sys

import pytest

from progress_tools import (
    CALLS,
    StandIn,
    Told,
    after,
    all_of,
    does,
    end_early,
    functions_of,
    given,
    in_place_of_tqdm,
    run,
    sleep,
)
from virtual_time import FineTimeLoop

every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@pytest.fixture
def bars(monkeypatch):
    """The bars that are made."""
    return in_place_of_tqdm(monkeypatch)


class HasLength:
    def __init__(self, elements):
        self.elements = elements

    def __iter__(self):
        return iter(self.elements)

    def __len__(self):
        return len(self.elements)


class HasHint:
    def __init__(self, elements, hint=7):
        self.elements = elements
        self.hint = hint

    def __iter__(self):
        return (element for element in self.elements)

    def __length_hint__(self):
        if isinstance(self.hint, Exception):
            raise self.hint
        return self.hint


class AsyncHasLength(HasLength):
    __iter__ = None

    def __aiter__(self):
        return given(self.elements)


SOURCES = {
    "a list": (list, 3),
    "an iterator of a list": (iter, 3),
    "what has __len__": (HasLength, 3),
    "what has __length_hint__": (HasHint, 7),
    "what has a hint that it does not know": (lambda elements: HasHint(elements, NotImplemented), None),
    "a generator": (lambda elements: (element for element in elements), None),
    "map()": (lambda elements: map(lambda element: element, elements), None),
    "an async generator": (given, None),
    "an async iterable that has __len__": (AsyncHasLength, 3),
}
LAZY = {
    "run_all": lambda impl, source, words, **options: impl.run_all(source(functions_of(words)), **options),
    "amap awaited": lambda impl, source, words, **options: impl.amap(does, source(words), **options),
    "amap": lambda impl, source, words, **options: all_of(impl.amap(does, source(words), **options)),
}


@pytest.mark.parametrize("call", LAZY.values(), ids=LAZY)
@pytest.mark.parametrize(("source", "total"), SOURCES.values(), ids=SOURCES)
def test_the_total_of_the_bar_is_what_the_source_says(impl, bars, call, source, total):
    async def main():
        assert await call(impl, source, [2, 5, 30], limit=2, progress=True) == [2, 5, 30]
        (bar,) = bars
        assert bar.total == total
        assert bar.done == [(12, 2), (32, 1), "closed"]

    run(main)


def test_the_total_of_gather_is_the_number_of_distinct_items(impl, bars):
    async def main():
        coro = after(2)
        assert await impl.gather(coro, coro, after(3), coro, progress=True) == [2, 2, 3, 2]
        (bar,) = bars
        assert bar.total == 2
        assert bar.done == [(3, 2), "closed"]

    run(main)


@every_call
def test_of_no_items_a_bar_is_closed_that_nothing_was_told(impl, bars, call):
    async def main():
        assert await call(impl, [], progress=True) == []
        assert [bar.done for bar in bars] == ([] if call is CALLS["gather"] else [["closed"]])
        is_generator = "generator" in next(name for name in CALLS if CALLS[name] is call)
        assert [bar.total for bar in bars] == ([] if call is CALLS["gather"] else [None if is_generator else 0])

    run(main)


def test_nobody_asks_for_the_length_who_shows_no_bar(impl):
    class Refuses(HasLength):
        def __len__(self):
            raise AssertionError("nobody needs that")

        __length_hint__ = __len__

    async def main():
        told = Told()
        assert await impl.run_all(Refuses(functions_of([2])), progress=told) == [2]
        assert await impl.amap(does, Refuses([2]), progress=told) == [2]
        assert await all_of(impl.amap(does, Refuses([2]), progress=told)) == [2]
        assert told.sum == 3

    run(main)


@pytest.mark.parametrize("call", LAZY.values(), ids=LAZY)
@pytest.mark.parametrize("kind", [HasLength, HasHint])
def test_an_error_of_the_length_is_the_calls(impl, bars, call, kind):
    class Fails(kind):
        def fails(self):
            raise LookupError("how many")

        if kind is HasLength:
            __len__ = fails
        else:
            __length_hint__ = fails

    async def main():
        with pytest.raises(LookupError, match="how many"):
            await call(impl, Fails, [2], progress=True)
        assert not bars

    run(main)


# The bar is closed


@every_call
def test_it_is_closed_before_the_caller_goes_on(impl, bars, call):
    async def main():
        assert await call(impl, [2, 30], progress=True) == [2, 30]
        assert [bar.done for bar in bars] == [[(12, 1), (30, 1), "closed"]]

    run(main)


@every_call
def test_it_is_closed_after_an_error(impl, bars, call):
    async def main():
        with pytest.raises(ValueError, match="3!"):
            await call(impl, [2, "3!"], progress=True)
        assert [bar.done for bar in bars] == [[(3, 2), "closed"]]
        await sleep(50)
        assert [bar.done for bar in bars] == [[(3, 2), "closed"]]

    run(main)


@pytest.mark.parametrize("name", ["gather", "run_all", "amap awaited"])
def test_it_is_closed_after_the_caller_was_cancelled(impl, bars, name):
    async def call():
        await CALLS[name](impl, [2, "~", "~"], progress=True)

    async def main():
        task = asyncio.ensure_future(call())
        await sleep(3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (bar,) = bars
        assert bar.done[-1] == "closed"
        assert [len(done) for done in bar.done[:-1]] == [2]
        assert bar.done[0][1] == 3

    run(main)


def test_a_caller_cancelled_before_anything_runs_does_not_wait_until_its_long_queue_is_closed(impl, bars):
    class Clock:
        """Each reading is a slice later: closing the queue takes many turns."""

        now = 0.0

        def __call__(self):
            self.now += 0.0011
            return self.now

    async def main():
        impl._set_clock(Clock())
        coros = [after(0) for _ in range(60)]
        future = impl.gather(*coros, limit=1, progress=True)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert [bar.done for bar in bars] == [["closed"]]
        assert sum(inspect.getcoroutinestate(coro) != inspect.CORO_CLOSED for coro in coros) > 40
        await sleep(1)
        assert all(inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED for coro in coros)

    run(main)


def test_it_is_closed_as_a_stream_is_left(impl, bars):
    async def main():
        async with impl.amap(does, [2, "~", "~5", 7], limit=2, progress=True) as stream:
            assert await anext(stream) == 2
        assert [bar.done for bar in bars] == [[(7, 3), "closed"]]

    run(main)


def test_it_is_closed_when_a_stream_is_dropped_and_is_told_nothing(impl, bars):
    async def main():
        async for _ in impl.amap(does, [2, "~", "~"], progress=True):
            break
        assert [bar.done for bar in bars] == [["closed"]]
        await sleep(50)
        assert [bar.done for bar in bars] == [["closed"]]

    run(main)


@pytest.mark.parametrize("how", ["close", "throw", "drop"])
@pytest.mark.parametrize("name", ["run_all", "amap awaited"])
def test_it_is_closed_when_a_coroutine_is_closed_thrown_into_or_dropped(impl, bars, name, how):
    async def main():
        call = CALLS[name](impl, [2, "~", "~"], progress=True).__await__()
        call.send(None)
        await sleep(3)
        end_early(call, how)
        del call
        gc.collect()
        assert [bar.done for bar in bars] == [["closed"]]

    run(main)


def test_it_is_closed_when_somebody_has_set_the_future_of_gather(impl, bars):
    async def main():
        future = impl.gather(after(2), after(5), progress=True)
        future.set_result("mine")
        await sleep(50)
        assert [bar.done for bar in bars] == [["closed"]]

    run(main)


@pytest.mark.parametrize("words", [[2], [2, 20]], ids=str)
def test_it_is_closed_once_when_its_own_update_drops_the_stream(impl, bars, monkeypatch, words):
    streams = []

    def drop(self, number):
        streams.clear()
        self.done.append(number)

    monkeypatch.setattr(StandIn, "update", drop)

    async def main():
        streams.append(impl.amap(after, words, progress=True))
        assert await anext(streams[0]) == 2
        await sleep(50)
        assert [bar.done for bar in bars] == [["closed", 1]]

    run(main)


def test_it_is_closed_with_its_loop(impl, bars):
    async def main():
        impl_stream = impl.amap(does, [2, "~"], progress=True)
        assert await anext(impl_stream) == 2
        return impl_stream

    stream = run(main)
    del stream
    gc.collect()
    assert [bar.done[-1] for bar in bars] == ["closed"]


def closes(loop):
    """Close it as it stands, which asyncio.run() does not."""
    loop.set_exception_handler(lambda loop, context: None)  # of Tasks that were pending
    loop.close()
    gc.collect()


@pytest.mark.parametrize("name", ["gather", "run_all", "amap awaited"])
def test_it_is_closed_when_the_loop_goes_in_the_turn_by_which_the_end_is_put_off(impl, bars, name):
    async def item(_=None):
        await sleep(2)
        loop.stop()

    async def call():
        await {
            "gather": lambda: impl.gather(item(), progress=True),
            "run_all": lambda: impl.run_all([item], progress=True),
            "amap awaited": lambda: impl.amap(item, [1], progress=True),
        }[name]()

    loop = FineTimeLoop()
    task = loop.create_task(call())
    loop.run_forever()
    assert [bar.done for bar in bars] == [[]]
    del task
    closes(loop)
    assert [bar.done for bar in bars] == [["closed"]]


@pytest.mark.parametrize("place", ["is made", "is updated", "is closed"])
@every_call
def test_an_error_of_the_bar_is_the_calls(impl, bars, monkeypatch, call, place):
    def fails(self, *args, **options):
        raise LookupError("of the bar")

    name = {"is made": "__init__", "is updated": "update", "is closed": "close"}[place]
    monkeypatch.setattr(StandIn, name, fails)

    async def main():
        with pytest.raises(LookupError, match="of the bar"):
            await call(impl, [2, 5], progress=True)
        if place == "is updated":
            assert [bar.done for bar in bars] == [["closed"]]
        await sleep(50)

    run(main)


@pytest.mark.parametrize("name", ["run_all", "amap awaited", "amap", "amap, an async generator"])
def test_an_error_of_closing_a_bar_that_was_told_nothing_is_the_calls(impl, bars, monkeypatch, name):
    def fails(self):
        assert asyncio.current_task() is None
        raise LookupError("of the bar")

    monkeypatch.setattr(StandIn, "close", fails)

    async def main():
        with pytest.raises(LookupError, match="of the bar"):
            await CALLS[name](impl, [], progress=True)

    run(main)


def test_no_coroutine_is_left_by_a_bar_that_cannot_be_made(impl, bars, monkeypatch):
    def fails(self, total):
        raise LookupError("of the bar")

    monkeypatch.setattr(StandIn, "__init__", fails)

    async def main():
        coros = [after(2), after(3)]
        with pytest.raises(LookupError, match="of the bar"):
            impl.gather(*coros, limit=1, progress=True)
        assert [inspect.getcoroutinestate(coro) for coro in coros] == [inspect.CORO_CLOSED] * 2

        closed = []

        def source():
            try:
                yield 2
            finally:
                closed.append(True)

        generator = source()
        stream = impl.amap(does, generator, progress=True)
        with pytest.raises(LookupError, match="of the bar"):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert inspect.getgeneratorstate(generator) == inspect.GEN_CLOSED

    run(main)


def test_what_the_bar_raises_as_a_dropped_stream_closes_it_is_reported(impl, bars, monkeypatch):
    def fails(self):
        raise LookupError("of the bar")

    monkeypatch.setattr(StandIn, "close", fails)
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda one: reported.append(repr(one.exc_value)))

    async def main():
        async for _ in impl.amap(does, [2, "~"], progress=True):
            break
        await sleep(50)

    run(main)
    assert reported == ["LookupError('of the bar')"]
