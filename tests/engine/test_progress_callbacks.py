"""progress= with callbacks that end what they are told of, or run the event loop."""

import asyncio
import gc
import sys
import weakref

import pytest

from contract_tools import idle
from in_subprocess import check_script
from progress_tools import CALLS, Bar, Told, after, all_of, does, functions_of, now, run, sleep
from virtual_time import FineTimeLoop

pytestmark = pytest.mark.usefixtures("any_turns")

every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
by_name = pytest.mark.parametrize("name", ["gather", "run_all", "amap awaited", "amap"])


@pytest.mark.parametrize("name", ["gather", "run_all", "amap awaited"])
@pytest.mark.parametrize("words", [[2, 20, 50], [2, 5], [2, "~20"]], ids=str)
def test_a_callback_that_cancels_the_caller(impl, name, words):
    async def main():
        told = Told(lambda told: task.cancel("by progress"))
        task = asyncio.ensure_future(call(told))
        with pytest.raises(asyncio.CancelledError):
            await task
        await sleep(100)
        assert told.sum == len(words)

    async def call(told):
        return await CALLS[name](impl, words, progress=told)

    run(main)


def test_a_callback_that_cancels_a_future_of_gather(impl):
    async def main():
        told = Told(lambda told: future.cancel())
        future = impl.gather(after(2), after(20), after(50), limit=2, progress=told)
        with pytest.raises(asyncio.CancelledError):
            await future
        assert told == [(12, 1), (12, 2)]

    run(main)


def test_a_callback_that_sets_the_future_of_gather(impl):
    async def main():
        told = Told(lambda told: future.set_result("mine"))
        future = impl.gather(after(2), after(20), after(50), progress=told)
        assert await future == "mine"
        await sleep(100)
        assert told == [(12, 1)]
        told = Told(lambda told: future.set_result("mine"))
        future = impl.gather(after(2), progress=told)
        assert await future == "mine"
        assert told.sum == 1

    run(main)


@pytest.mark.parametrize("words", [[2, 20, 50], [2, 5], [2, "~20"]], ids=str)
@pytest.mark.parametrize("ordered", [True, False])
def test_a_callback_that_closes_the_stream_by_hand(impl, words, ordered):
    async def main():
        closing = []

        def close(told):
            closing.append(stream.aclose())
            try:
                closing[-1].send(None)
            except StopIteration:
                closing.append("done")

        told = Told(close)
        stream = impl.amap(does, words, ordered=ordered, progress=told)
        assert await anext(stream) == 2
        await sleep(100)
        await stream.aclose()
        for coroutine in closing:
            if coroutine != "done":
                coroutine.close()
        assert told.sum == len(words)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    run(main)


@pytest.mark.parametrize("words", [[2, 20, 50], [2, 5], [2, "~20"]], ids=str)
@pytest.mark.parametrize("ordered", [True, False])
def test_a_callback_that_drops_the_last_reference_to_the_stream(impl, words, ordered):
    async def main():
        told = Told(lambda told: streams.clear() or gc.collect())
        streams = [impl.amap(does, words, ordered=ordered, progress=told)]
        assert await anext(streams[0]) == 2
        await sleep(100)
        assert len(told) == 1
        assert not streams

    run(main)


@pytest.mark.parametrize("error", [LookupError("of progress"), KeyboardInterrupt("of progress")], ids=repr)
def test_a_callback_that_drops_the_stream_and_fails(impl, unraisables, error):
    """Nobody is left to whom that could be raised."""

    def drop(told):
        streams.clear()
        raise error

    streams = []

    async def main():
        streams.append(impl.amap(does, [2, 20, 50], progress=Told(drop)))
        assert await anext(streams[0]) == 2
        await sleep(100)

    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            run(main)
        assert unraisables == []
    else:
        run(main)
        assert unraisables == [error]


@every_call
def test_a_callback_that_collects_garbage(impl, call):
    async def main():
        told = Told(lambda told: gc.collect())
        assert await call(impl, [2, 5, 30], limit=2, progress=told) == [2, 5, 30]
        assert told.sum == 3

    run(main)


@every_call
def test_a_callback_that_starts_another_call_with_the_same_bar(impl, call):
    async def main():
        tasks = []

        def start(told):
            if len(told) == 1:
                tasks.append(asyncio.ensure_future(wait()))

        async def wait():
            return await call(impl, [3, 4], progress=bar)

        bar = Bar()
        bar.told.then = start
        assert await call(impl, [2, 5, 40], progress=bar) == [2, 5, 40]
        assert await tasks[0] == [3, 4]
        assert bar.told == [(12, 2), (16, 2), (40, 1)]

    run(main)


def test_a_callback_that_drops_itself(impl):
    """It is held while it is called."""

    class Itself:
        def __init__(self):
            self.told = Told()

        def __call__(self, number):
            calls.clear()
            gc.collect()
            self.told(number)
            told.append(number)

    told = []
    calls = [Itself()]

    async def main():
        assert await impl.run_all(functions_of([2, 5]), progress=calls[0]) == [2, 5]
        future = impl.gather(after(2), after(20), progress=Itself())
        future_task = asyncio.ensure_future(future)
        await sleep(5)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future_task

    run(main)
    assert told == [2, 2]


class TurningLoop(FineTimeLoop):
    """Can be run in a callback of its own, as nest_asyncio does it."""

    def turn_within(self):
        before = len(self._ready)
        self._run_once()
        while len(self._ready) < before:  # the turn around this one takes as many as there were
            nothing = asyncio.Handle(id, (), self)
            nothing.cancel()
            self._ready.append(nothing)


@pytest.mark.parametrize("kind", ["the stream", "its bound method"])
def test_a_callback_that_holds_its_stream_is_collected_with_it(impl, kind):
    class Holds:
        def __call__(self, number):
            """It is told."""

        update = __call__

    async def main():
        holds = Holds()
        holds.stream = impl.amap(
            after,
            [2, 3, 4, 5],
            limit=1,
            buffersize=1,
            progress=holds if kind == "the stream" else holds.update,
        )
        assert await anext(holds.stream) == 2
        await sleep(100)  # the window is full, and nothing runs
        watched = weakref.ref(holds)
        del holds
        gc.collect()
        assert watched() is None

    run(main)


@by_name
@pytest.mark.parametrize("turns", [1, 5, 40])
def test_a_callback_that_runs_the_loop_is_told_of_what_ends_meanwhile(impl, name, turns):
    """So that what it runs may end the call: then nothing is told of it after that."""

    async def main():
        loop = asyncio.get_running_loop()
        ended = []

        def tick():
            """So that there is always something to wait for."""
            if not ended:
                loop.call_later(0.007, tick)

        def nest(told):
            assert not ended
            for _ in range(turns):
                if not ended:
                    loop.turn_within()

        tick()
        told = Told(nest)
        result = await CALLS[name](impl, [2, 20, 30], progress=told)
        ended.append(now())
        assert result == [2, 20, 30]
        assert told.sum == 3
        await sleep(100)

    run(main, loop_factory=TurningLoop)


def test_nest_asyncio(impl):
    pytest.importorskip("nest_asyncio")
    check_script(
        impl,
        """
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nest_asyncio

        async def after(seconds):
            await asyncio.sleep(seconds)
            return seconds

        async def listed(told):
            return [result async for result in impl.amap(after, ITEMS, progress=told)]

        ITEMS = [0.001, 0.02, 0.1]
        CALLS = [
            lambda told: impl.run_all([lambda item=item: after(item) for item in ITEMS], progress=told),
            lambda told: impl.gather(*map(after, ITEMS), progress=told),
            lambda told: impl.amap(after, ITEMS, progress=told),
            listed,
        ]

        async def main():
            loop = asyncio.get_running_loop()

            def tell(number):
                told.append(number)
                loop.run_until_complete(asyncio.sleep(0.03))

            for call in CALLS:
                told = []
                assert await call(tell) == ITEMS
                assert sum(told) == 3, told
            print("ok")

        nest_asyncio.apply()
        asyncio.run(main())
        """,
        warnings_are_errors=False,
        environment={"PYTHONWARNINGS": "ignore::ResourceWarning,ignore::DeprecationWarning"},
    )


@every_call
def test_an_item_that_runs_when_it_is_told_for_the_last_time_is_not_waited_for_twice(impl, call):
    """An error, and others end in the turn by which the end is put off."""

    async def main():
        told = Told()
        with pytest.raises(ValueError, match="3!"):
            await call(impl, [3, 3, "3!", 3, 3], progress=told)
        assert told.sum in (3, 4, 5)
        before = told.sum
        await idle(5)
        assert told.sum == before

    run(main)


@every_call
def test_eager_tasks_tell_too(impl, call):
    if sys.version_info < (3, 12):
        pytest.skip("Tasks can begin at once from 3.12 on")

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        told = Told(lambda told: asyncio.current_task() is None or pytest.fail("in a Task"))
        assert await call(impl, [0, 0, 5, 30], limit=2, progress=told) == [0, 0, 5, 30]
        assert told.sum == 4
        assert await all_of(impl.amap(after, [0, 0], progress=told)) == [0, 0]
        assert told.sum == 6

    run(main)
