"""A call that has no use for a slot holds none, and stands in no queue: its source has ended, or is not ready, or has failed, or it is over.

While there is no slot, one element is drawn ahead; only with that does a call wait.
"""

import asyncio
import contextlib
import weakref

import pytest

from contract_tools import Trace, idle, is_closed, item, run
from semaphore_tools import Opened, all_is_over, collected, user
from stream_tools import doing, drawn
from virtual_time import VirtualTimeLoop

NO_TASK_IS_REUSED = True

pytestmark = pytest.mark.usefixtures("any_turns")

# What asks a source for its next item when it has a slot.
ASKING = {
    "run_all": lambda impl, limit, does, source: impl.run_all(
        (lambda word=word: does(word) for word in source), limit=limit
    ),
    "amap": lambda impl, limit, does, source: collected(impl.amap(does, source, limit=limit, buffersize=100)),
    "amap, awaited": lambda impl, limit, does, source: impl.amap(does, source, limit=limit),
}
EACH_ASKING = pytest.mark.parametrize("way", ASKING.values(), ids=ASKING)


@EACH_ASKING
@pytest.mark.parametrize("waits", [False, True], ids=["one item", "an item that waits"])
def test_the_end_of_the_source_is_found_while_the_last_item_runs(impl, way, waits):
    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        task = asyncio.ensure_future(way(impl, s, doing(trace), drawn(trace, "a4 b4" if waits else "a4")))
        await idle(2)
        other = asyncio.ensure_future(user(trace, s, "x"))
        assert await task == ["a", "b"] if waits else ["a"]
        await other
        await all_is_over(s, slots=1)
        return " ".join(trace.events)

    assert run(main) == ("?a +a ?b -a +b end -b +x -x" if waits else "?a +a end -a +x -x")


@EACH_ASKING
def test_a_slot_that_another_gives_back_is_not_for_a_call_at_the_end_of_its_source(impl, way):
    async def main():
        trace = Trace()
        s = impl.Semaphore(2)
        await s.acquire()
        task = asyncio.ensure_future(way(impl, s, doing(trace), drawn(trace, ["a20"])))
        await idle(2)
        others = [asyncio.ensure_future(user(trace, s, name, 2)) for name in "xy"]
        await idle(2)
        assert trace.events == ["?a", "+a", "end"]
        s.release()
        await asyncio.gather(task, *others)
        await all_is_over(s, slots=2)
        return " ".join(trace.events)

    assert run(main) == "?a +a end +x -x +y -y -a"


@EACH_ASKING
def test_it_is_over_while_others_hold_all_slots(impl, way):
    """The last item ended, and gave its slot to somebody who keeps it."""

    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        task = asyncio.ensure_future(way(impl, s, doing(trace), drawn(trace, ["a3"])))
        await idle(2)
        other = asyncio.ensure_future(user(trace, s, "x", 99))
        assert await task == ["a"]
        assert not other.done()
        await other
        await all_is_over(s, slots=1)

    run(main)


@EACH_ASKING
@pytest.mark.parametrize("taken", [False, True])
def test_the_source_fails(impl, way, taken):
    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        if taken:
            await s.acquire()
        error = ValueError("of the source")
        with pytest.raises(ValueError, match="^of the source$"):
            await way(impl, s, doing(trace), drawn(trace, "", error))
        if taken:
            s.release()
        await all_is_over(s, slots=1)
        task = asyncio.ensure_future(way(impl, s, doing(trace), drawn(trace, "a4", error)))
        await idle(2)
        other = asyncio.ensure_future(user(trace, s, "x"))
        with pytest.raises(ValueError, match="^of the source$"):
            await task
        await other
        await all_is_over(s, slots=1)
        return trace.events[-2:]

    assert run(main) == ["+x", "-x"]


@pytest.mark.parametrize("ends", ["error", "no awaitable"])
def test_the_function_fails(impl, ends):
    async def main():
        trace = Trace()
        s = impl.Semaphore(1)

        def does(word):
            if word == "b":
                if ends == "error":
                    raise ValueError("of the function")
                return 5
            return doing(trace)(word)

        stream = collected(impl.amap(does, ["a3", "b", "c"], limit=s))
        task = asyncio.ensure_future(stream)
        await idle(2)
        other = asyncio.ensure_future(user(trace, s, "x"))
        with pytest.raises(ValueError if ends == "error" else TypeError):
            await task
        await other
        await all_is_over(s, slots=1)
        return " ".join(trace.events)

    assert run(main) == "+a -a +x -x"


class Source:
    """An async iterator that waits until it is given something."""

    def __init__(self, trace):
        self.trace = trace
        self.queue = asyncio.Queue()

    def give(self, word):
        self.queue.put_nowait(word)

    def __aiter__(self):
        return self

    async def __anext__(self):
        self.trace("?")
        word = await self.queue.get()
        if word is None:
            raise StopAsyncIteration
        if isinstance(word, Exception):
            raise word
        return word

    async def aclose(self):
        self.trace("close")


ASYNC_ASKING = {
    "run_all": lambda impl, limit, does, source: impl.run_all(
        ((lambda word=word: does(word)) async for word in source), limit=limit
    ),
    "amap": lambda impl, limit, does, source: collected(impl.amap(does, source, limit=limit)),
    "amap, as they come": lambda impl, limit, does, source: collected(
        impl.amap(does, source, limit=limit, ordered=False)
    ),
    "amap, awaited": lambda impl, limit, does, source: impl.amap(does, source, limit=limit),
    "as_completed": lambda impl, limit, does, source: results_of(
        impl.as_completed((does(word) async for word in source), limit=limit)
    ),
}
EACH_ASYNC_ASKING = pytest.mark.parametrize("way", ASYNC_ASKING.values(), ids=ASYNC_ASKING)


async def results_of(iterator):
    return [task.result() async for task in iterator]


@EACH_ASYNC_ASKING
def test_an_async_source_that_is_not_ready_holds_no_slot(impl, way):
    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        source = Source(trace)
        task = asyncio.ensure_future(way(impl, s, doing(trace), source))
        await idle(6)
        assert trace.events == ["?"]
        assert s._value == 1 and not s.locked()
        await user(trace, s, "x")
        source.give("a")
        await idle(6)
        assert s._value == 1 and not s.locked()
        source.give("b")
        source.give(None)
        assert await task == ["a", "b"]
        await all_is_over(s, slots=1)
        return " ".join(event for event in trace.events if event not in ("?", "close"))

    assert run(main) == "+x -x +a -a +b -b"


@EACH_ASYNC_ASKING
def test_what_an_async_source_gives_while_all_slots_are_taken_waits_in_the_queue(impl, way):
    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        source = Source(trace)
        task = asyncio.ensure_future(way(impl, s, doing(trace), source))
        await idle(6)
        tasks = [asyncio.ensure_future(user(trace, s, "x", 9))]
        await idle(1)
        source.give("a")
        await idle(4)
        assert trace.events == ["?", "+x"]
        tasks.append(asyncio.ensure_future(user(trace, s, "y", 9)))
        await idle(1)
        source.give(None)
        assert await task == ["a"]
        await asyncio.gather(*tasks)
        await all_is_over(s, slots=1)
        return " ".join(event for event in trace.events if event[0] == "+")

    assert run(main) == "+x +a +y"


@EACH_ASYNC_ASKING
@pytest.mark.parametrize("end", [None, ValueError("of the source")])
def test_an_async_source_that_ends_while_all_slots_are_taken(impl, way, end):
    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        source = Source(trace)
        source.give("a")
        task = asyncio.ensure_future(way(impl, s, doing(trace), source))
        await idle(12)
        assert sorted(trace.events) == ["+a", "-a", "?", "?"]
        async with s:
            source.give(end)
            if end is None:
                assert await task == ["a"]
            else:
                with pytest.raises(ValueError, match="^of the source$"):
                    await task
            assert not s._waiters
        await all_is_over(s, slots=1)

    run(main, loop_factory=VirtualTimeLoop)


@pytest.mark.parametrize("how", ["cancelled", "closed"])
@pytest.mark.parametrize("kind", ["generator", "async"])
def test_what_has_been_drawn_ahead_and_never_starts_is_closed(impl, how, kind):
    """Of as_completed(), what is drawn is a coroutine."""

    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        await s.acquire()
        coroutines = [item(trace, name) for name in "ab"]

        def generator():
            try:
                yield from coroutines
            finally:
                trace("closed")

        async def async_generator():
            try:
                for coroutine in coroutines:
                    yield coroutine
            finally:
                trace("closed")

        stream = impl.as_completed(generator() if kind == "generator" else async_generator(), limit=s)
        task = asyncio.ensure_future(collected(stream))
        await idle(5)
        assert trace.events == []
        if how == "cancelled":
            task.cancel()
        await stream.aclose()
        await asyncio.wait([task])
        assert is_closed(coroutines[0])
        coroutines[1].close()
        s.release()
        await all_is_over(s, slots=1)
        return trace.events

    assert run(main) == ["closed"]


def test_a_stream_that_is_dropped_lets_go_of_what_it_has_drawn_ahead(impl):
    class Element:
        pass

    async def main():
        s = impl.Semaphore(1)
        await s.acquire()
        seen = []

        def elements():
            for _ in range(3):
                element = Element()
                seen.append(weakref.ref(element))
                yield element
                del element

        async def does(element):
            raise AssertionError("it never starts")

        stream = impl.amap(does, elements(), limit=s)
        task = asyncio.ensure_future(anext(stream))
        await idle(3)
        assert len(seen) == 1 and seen[0]() is not None
        task.cancel()
        del stream
        with contextlib.suppress(asyncio.CancelledError):
            await task
        del task
        await idle(3)
        assert seen[0]() is None
        s.release()
        await all_is_over(s, slots=1)

    run(main)


@EACH_ASYNC_ASKING
def test_cancelled_while_an_async_source_is_awaited(impl, way):
    async def main():
        trace = Trace()
        s = impl.Semaphore(2)
        source = Source(trace)
        source.give("a9")
        task = asyncio.ensure_future(way(impl, s, doing(trace), source))
        await idle(5)
        assert s._value == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await all_is_over(s, slots=2)

    run(main)


def test_a_full_window_gives_back_what_was_handed_over(impl):
    """The consumer takes nothing while the call stands in the queue for the last item that there is room for."""

    async def main():
        trace = Trace()
        s = impl.Semaphore(2)
        stream = impl.amap(doing(trace), "a1 b9 c1 d1 e1".split(), limit=s, ordered=False, buffersize=0)
        assert await anext(stream) == "a"
        await idle(20)
        # "b" and what it took to fill the window have ended; no further item starts, and nobody waits.
        assert s._value == 2 and not s._waiters and not s.locked()
        begun = [event for event in trace.events if event[0] == "+"]
        await user(trace, s, "x")
        assert sorted([result async for result in stream] + ["a"]) == [*"abcde"]
        assert len(begun) < 5
        await all_is_over(s, slots=2)

    run(main)


@pytest.mark.parametrize("at_once", [False, True])
def test_a_source_closed_while_a_slot_is_handed_over_passes_it_on(impl, at_once):
    """In the same step, the semaphore is released and the stream is left."""

    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        await s.acquire()
        stream = impl.amap(doing(trace), drawn(trace, "a b"), limit=s)
        asking = asyncio.ensure_future(anext(stream))
        await idle(3)
        other = asyncio.ensure_future(user(trace, s, "x"))
        await idle(2)
        s.release()
        assert s._value == 0
        if not at_once:
            await idle(1)
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await asking
        await other
        await all_is_over(s, slots=1)
        return [event for event in trace.events if event in ("+a", "+x", "-x")]

    assert run(main) == ["+x", "-x"] if at_once else ["+a", "+x", "-x"]


def test_an_item_that_is_cancelled_before_it_begins_gives_its_slot_to_the_next(impl):
    tasks = []

    def factory(loop, coroutine, **options):
        task = asyncio.Task(coroutine, loop=loop, **options)
        if coroutine.__name__ == "item":
            tasks.append(task)
            if len(tasks) == 1:
                task.cancel()
        return task

    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        asyncio.get_running_loop().set_task_factory(factory)
        results = await impl.gather(item(trace, "a"), item(trace, "b"), limit=s, return_exceptions=True)
        assert [repr(result) for result in results] == ["CancelledError('')", "'b'"]
        await all_is_over(s, slots=1)
        return trace.events

    assert run(main) == ["+b", "-b"]


def test_a_call_of_items_that_end_at_once_leaves_the_queue_before_its_caller_goes_on(impl):
    async def main():
        s = impl.Semaphore(1)
        items = Opened("ab")
        held = asyncio.ensure_future(impl.gather(*[function() for function in items.functions], limit=s))
        await items.rest()
        done = asyncio.get_running_loop().create_future()
        done.set_result("f")
        task = asyncio.ensure_future(impl.run_all(iter([lambda: done] * 3), limit=s))
        await idle(3)
        assert len(s._waiters) == 2
        await items.open("a")
        await items.open("b")
        assert await held == ["a", "b"]
        assert await task == ["f"] * 3
        assert not s._waiters
        await all_is_over(s, slots=1)

    run(main)
