"""Calls with a semaphore as their limit that fail, are cancelled, left or dropped, at any time: every slot comes back, and the next is served."""

import asyncio
import functools
import gc
import warnings

import pytest

from contract_tools import Trace, failing, idle, is_closed, item, run, sleeping
from semaphore_tools import KINDS, WAYS, Opened, all_is_over, collected, each, user
from stream_tools import doing, drawn
from virtual_time import VirtualTimeLoop

NO_TASK_IS_REUSED = True

pytestmark = pytest.mark.usefixtures("any_turns")

EACH_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
ROWS = {
    "s": lambda s: s,
    "(10, s)": lambda s: (10, s),
    "(s, gate)": lambda s: (s, asyncio.Semaphore(2)),
    "(gate, s)": lambda s: (asyncio.Semaphore(2), s),
}
EACH_ROW = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)


def functions_of(trace, names, turns=1):
    return [functools.partial(item, trace, name, turns) for name in names]


# Cancelled


@EACH_WAY
@EACH_ROW
@pytest.mark.parametrize("turns", [1, 2, 3, 5, 8])
def test_cancelled_at_any_time_no_slot_is_lost_and_who_waits_is_served(impl, way, row, turns):
    async def main():
        trace = Trace()
        s = impl.BoundedSemaphore(2)
        task = asyncio.ensure_future(way(impl, row(s), functions_of(trace, "abcde", turns=3)))
        others = [asyncio.ensure_future(user(trace, s, name, 2)) for name in "xyz"]
        await idle(turns)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.gather(*others)
        await all_is_over(s, slots=2)

    run(main, loop_factory=VirtualTimeLoop)


@EACH_WAY
@EACH_ROW
@pytest.mark.parametrize("turns", [0, 2])
@pytest.mark.parametrize("releases_first", [False, True])
def test_cancelled_while_it_stands_in_the_queue_or_has_been_handed_a_slot(impl, way, row, turns, releases_first):
    async def main():
        trace = Trace()
        s = impl.BoundedSemaphore(1)
        await s.acquire()
        functions = functions_of(trace, "ab", turns=5)
        task = asyncio.ensure_future(way(impl, row(s), functions))
        await idle(4)
        other = asyncio.ensure_future(user(trace, s, "x"))
        await idle(1)
        if releases_first:
            s.release()
            await idle(turns)
        task.cancel("enough")
        await idle(turns)
        if not releases_first:
            s.release()
        with pytest.raises(asyncio.CancelledError):
            await task
        await other
        await all_is_over(s, slots=1)
        assert {"+x", "-x"} <= set(trace.events)

    run(main, loop_factory=VirtualTimeLoop)


@pytest.mark.parametrize("way", ["gather", "run_all", "run_all, async", "constrained_execution", "amap, awaited"])
def test_released_and_cancelled_in_one_step_nothing_of_it_starts(impl, way):
    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        await s.acquire()
        task = asyncio.ensure_future(WAYS[way](impl, s, functions_of(trace, "ab")))
        await idle(4)
        s.release()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await all_is_over(s, slots=1)
        return trace.events

    assert run(main) == []


def test_a_cancelled_gather_that_stands_in_the_queue_closes_its_coroutines_at_once(impl):
    async def main():
        s = impl.Semaphore(0)
        coroutines = [asyncio.sleep(0) for _ in range(3)]
        call = impl.gather(*coroutines, limit=s)
        await idle(3)
        call.cancel()
        assert all(map(is_closed, coroutines))
        assert not s._waiters or all(waiter.done() for waiter in s._waiters)
        with pytest.raises(asyncio.CancelledError):
            await call
        await all_is_over(s, slots=0)

    run(main)


@EACH_WAY
def test_items_that_hold_on_keep_their_slots_until_they_have_ended(impl, way):
    async def main():
        trace = Trace()
        s = impl.Semaphore(2)
        functions = [functools.partial(sleeping, trace, name, 6) for name in "abc"]
        task = asyncio.ensure_future(way(impl, s, functions))
        await idle(6)
        other = asyncio.ensure_future(user(trace, s, "x"))
        await idle(1)
        task.cancel()
        await idle(3)
        assert s._value == 0 and "+x" not in trace.events
        with pytest.raises(asyncio.CancelledError):
            await task
        await other
        await all_is_over(s, slots=2)
        return trace.events[-2:]

    assert run(main) == ["+x", "-x"]


@EACH_WAY
def test_a_timeout_around_it(impl, way):
    async def main():
        trace = Trace()
        s = impl.Semaphore(1)

        async def sleeps():
            await asyncio.sleep(3)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7):
                await way(impl, s, [sleeps] * 5)
        await user(trace, s, "x")
        async with s:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(way(impl, s, [sleeps] * 5), 7)
        await all_is_over(s, slots=1)

    run(main, loop_factory=VirtualTimeLoop)


def test_the_end_of_the_program_starts_nothing_that_is_queued(impl):
    trace = Trace()
    semaphores = []

    async def main():
        s = impl.Semaphore(1)
        semaphores.append(s)
        calls.append(asyncio.ensure_future(user(trace, s, "x", 99)))
        await idle(1)
        calls.append(impl.gather(item(trace, "a"), item(trace, "b"), limit=s))
        calls.append(asyncio.ensure_future(impl.run_all(functions_of(trace, "cd"), limit=s)))
        calls.append(asyncio.ensure_future(collected(impl.amap(doing(trace), ["e", "f"], limit=s))))
        calls.append(asyncio.ensure_future(impl.gated_coro(s, item(trace, "g"))))
        await idle(3)

    calls = []
    run(main)
    assert trace.events == ["+x"]
    assert semaphores[0]._value == 1 and not semaphores[0]._waiters
    for call in calls:
        with pytest.raises(asyncio.CancelledError):
            call.result()


# Failing


@EACH_WAY
@EACH_ROW
@pytest.mark.parametrize("kind", KINDS)
def test_the_error_of_an_item_gives_its_slot_back(impl, way, row, kind):
    async def main():
        trace = Trace()
        s = getattr(impl, kind)(2)
        functions = functions_of(trace, "abcd", turns=3)
        functions.insert(1, functools.partial(failing, trace, "!"))
        other = asyncio.ensure_future(user(trace, s, "x", 2))
        with pytest.raises(ValueError, match="^!$"):
            await way(impl, row(s), functions)
        await other
        await idle(20)  # the rest of a gather goes on
        await all_is_over(s, slots=2)

    run(main)


@pytest.mark.parametrize("way", ["gather", "run_all"])
@EACH_ROW
def test_after_an_error_the_rest_goes_on_in_the_queue(impl, way, row):
    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        functions = [functools.partial(failing, trace, "a"), *functions_of(trace, "bc", turns=2)]
        with pytest.raises(ValueError):
            if way == "gather":
                await impl.gather(*[function() for function in functions], limit=row(s))
            else:
                await impl.run_all(functions, limit=row(s), cancel_on_error=False)
        await idle(1)
        other = asyncio.ensure_future(user(trace, s, "x"))
        await other
        await idle(9)
        await all_is_over(s, slots=1)
        return " ".join(trace.events)

    assert run(main) in ("+a !a +b -b +c -c +x -x", "+a !a +b -b +x -x +c -c")


@EACH_ROW
def test_an_error_that_cancels_the_rest_leaves_the_queue(impl, row):
    async def main():
        trace = Trace()
        s = impl.Semaphore(2)
        items = [failing(trace, "a", 3), sleeping(trace, "b"), item(trace, "c"), item(trace, "d")]
        task = asyncio.ensure_future(user(trace, s, "x", 1))
        with pytest.raises(ValueError):
            await impl.gather(*items, limit=row(s), cancel_on_error=True)
        assert all(map(is_closed, items))
        await task
        await all_is_over(s, slots=2)
        assert "+d" not in trace.events

    run(main)


@EACH_ROW
@pytest.mark.parametrize("front", ["gather", "run_all", "amap"])
def test_errors_as_results_give_their_slots_back(impl, row, front):
    async def main():
        trace = Trace()
        s = impl.BoundedSemaphore(2)
        functions = [functools.partial(failing, trace, name) for name in "abc"]
        functions[1:1] = functions_of(trace, "xy", turns=2)
        options = {"limit": row(s), "return_exceptions": True}
        if front == "gather":
            results = await impl.gather(*[function() for function in functions], **options)
        elif front == "run_all":
            results = await impl.run_all(functions, **options)
        else:
            results = await collected(impl.amap(lambda function: function(), functions, **options))
        assert list(map(str, results)) == ["a", "x", "y", "b", "c"]
        await all_is_over(s, slots=2)

    run(main)


# Abandoned


@EACH_ROW
@pytest.mark.parametrize("end", ["close", "drop", "throw"])
@pytest.mark.parametrize("turns", [None, 0, 1, 3])
@pytest.mark.parametrize("handed", [False, True])
def test_a_coroutine_that_is_closed_dropped_or_thrown_into(impl, row, end, turns, handed):
    async def main():
        trace = Trace()
        s = impl.BoundedSemaphore(1)
        await s.acquire()
        coroutine = impl.run_all(functions_of(trace, "ab", turns=5), limit=row(s))
        if turns is not None:
            coroutine.send(None)
            await idle(turns)
        other = asyncio.ensure_future(user(trace, s, "x"))
        await idle(1)
        if handed:
            s.release()
        if end == "close":
            coroutine.close()
        elif end == "throw":
            with pytest.raises(KeyError):
                coroutine.throw(KeyError())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del coroutine
        if not handed:
            await idle(2)
            s.release()
        await other
        await idle(12)
        await all_is_over(s, slots=1)
        return trace.events

    assert run(main)[-2:] == ["+x", "-x"]


@pytest.mark.parametrize("how", ["aclose", "break", "drop", "block", "cancel"])
@pytest.mark.parametrize("source", ["list", "generator", "async"])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_stream_that_is_left_early(impl, how, source, ordered):
    async def main():
        trace = Trace()
        s = impl.BoundedSemaphore(2)
        words = "a1 b9 c9 d9 e9".split()
        given = {"list": lambda: words, "generator": lambda: drawn(trace, words), "async": lambda: each(words)}[
            source
        ]()
        stream = impl.amap(doing(trace), given, limit=s, ordered=ordered)
        others = []
        if how == "break":
            async for result in stream:
                assert result == "a"
                break
            others.append(asyncio.ensure_future(user(trace, s, "x")))
            await idle(1)
            del stream
        elif how == "block":
            async with stream:
                assert await anext(stream) == "a"
                others.append(asyncio.ensure_future(user(trace, s, "x")))
                await idle(1)
        else:
            assert await anext(stream) == "a"
            others.append(asyncio.ensure_future(user(trace, s, "x")))
            await idle(1)
            if how == "aclose":
                await stream.aclose()
            elif how == "drop":
                del stream
            else:
                task = asyncio.ensure_future(anext(stream))
                await idle(1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await stream.aclose()
        await asyncio.gather(*others)
        await idle(9)
        await all_is_over(s, slots=2)
        assert "+e" not in trace.events

    run(main)


@pytest.mark.parametrize("how", ["aclose", "drop", "cancel"])
@pytest.mark.parametrize("handed", [False, True])
def test_a_stream_that_is_left_while_it_stands_in_the_queue(impl, how, handed):
    async def main():
        trace = Trace()
        s = impl.BoundedSemaphore(1)
        await s.acquire()
        stream = impl.amap(doing(trace), drawn(trace, "a b"), limit=s)
        asking = asyncio.ensure_future(anext(stream))
        await idle(3)
        other = asyncio.ensure_future(user(trace, s, "x"))
        await idle(1)
        assert len(s._waiters) == 2
        if handed:
            s.release()
        if how == "aclose":
            closing = asyncio.ensure_future(stream.aclose())
            with pytest.raises(StopAsyncIteration):
                await asking
            await closing
        else:
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            if how == "drop":
                del asking, stream
                gc.collect()
            else:
                await stream.aclose()
        if not handed:
            await idle(2)
            s.release()
        await other
        await idle(3)
        await all_is_over(s, slots=1)

    run(main)


@pytest.mark.parametrize("loop", ["async", "plain"])
@pytest.mark.parametrize("waits_in_the_queue", [False, True])
def test_as_completed_whose_time_is_up(impl, loop, waits_in_the_queue):
    async def main():
        s = impl.BoundedSemaphore(1)
        items = Opened("abc")
        if waits_in_the_queue:
            await s.acquire()
        iterator = impl.as_completed([function() for function in items.functions], limit=s, timeout=5)
        with pytest.raises(TimeoutError):
            if loop == "async":
                async for _ in iterator:
                    raise AssertionError("nothing ends")
            else:
                for coroutine in iterator:
                    await coroutine
        del iterator
        await idle(3)
        if waits_in_the_queue:
            assert items.begun == [] and not s._waiters
            s.release()
        else:
            assert items.begun == ["a"]
        await all_is_over(s, slots=1)

    run(main, loop_factory=VirtualTimeLoop)


def test_as_completed_that_is_left(impl):
    async def main():
        trace = Trace()
        s = impl.BoundedSemaphore(2)
        iterator = impl.as_completed(
            [item(trace, "a"), sleeping(trace, "b"), sleeping(trace, "c"), item(trace, "d")], limit=s
        )
        async for task in iterator:
            assert task.result() == "a"
            break
        del iterator, task
        await idle(5)
        await all_is_over(s, slots=2)
        assert "+d" not in trace.events

    run(main)


def test_an_item_whose_coroutine_is_closed_by_hand(impl):
    """What the item's Task drives is closed by hand: its slot comes back when the Task ends."""

    async def main():
        s = impl.Semaphore(1)
        coroutines = []

        class Waits:
            def __init__(self):
                self.future = asyncio.get_running_loop().create_future()

            def __await__(self):
                coroutines.append(asyncio.current_task().get_coro())
                return self.future.__await__()

        waits = Waits()
        call = impl.gather(waits, item(Trace(), "a"), limit=s, return_exceptions=True)
        await idle(3)
        coroutines.pop().close()
        waits.future.set_result(None)
        results = await call
        assert len(results) == 2 and results[1] == "a"
        del waits, call
        await all_is_over(s, slots=1)

    run(main)
