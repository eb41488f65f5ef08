"""progress= of amap(), run_all() and gather(): who is told when how many items have ended."""

import asyncio
import contextlib

import pytest

from contract_tools import Trace, idle
from implementations import FREE_THREADED
from progress_tools import CALLS, Told, after, all_of, does, functions_of, given, now, run, sleep
from virtual_time import FineTimeLoop

pytestmark = pytest.mark.usefixtures("any_turns")

every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
ITERATED = [call for name, call in CALLS.items() if name.startswith("amap") and "awaited" not in name]
AWAITED = {name: call for name, call in CALLS.items() if call not in ITERATED}
STOPPED_BY_ERRORS = ["run_all", "run_all, a generator", "run_all, an async generator", "amap awaited"]
WITH_LIMITS = {
    "an integer": lambda: 2,
    "a gate": lambda: asyncio.Semaphore(2),
    "a row": lambda: (3, asyncio.Semaphore(2)),
}


# When


@every_call
def test_it_is_told_ten_milliseconds_after_an_item_has_ended_and_at_the_end(impl, call):
    async def main():
        told = Told()
        assert await call(impl, [2, 5, 11, 13, 40, 47], progress=told) == [2, 5, 11, 13, 40, 47]
        assert told == [(12, 3), (23, 1), (47, 2)]

    run(main)


@every_call
def test_it_is_told_at_most_once_in_ten_milliseconds_however_many_end(impl, call):
    async def main():
        told = Told()
        assert await call(impl, [3] * 13, limit=1, progress=told) == [3] * 13
        assert told == [(13, 4), (25, 4), (37, 4), (39, 1)]

    run(main)


@every_call
@pytest.mark.parametrize("make_limit", WITH_LIMITS.values(), ids=WITH_LIMITS)
def test_items_are_counted_behind_every_limit(impl, call, make_limit):
    async def main():
        told = Told()
        assert await call(impl, [3, 3, 3, 4, 50], limit=make_limit(), progress=told) == [3, 3, 3, 4, 50]
        assert told == [(13, 4), (56, 1)]

    run(main)


@every_call
def test_what_does_not_suspend_is_told_in_one_number_at_the_end(impl, call):
    async def main():
        told = Told()
        assert await call(impl, [0] * 30, limit=4, progress=told) == [0] * 30
        assert told == [(0, 30)]

    run(main)


@every_call
def test_of_no_items_nothing_is_told(impl, call):
    async def main():
        told = Told()
        assert await call(impl, [], progress=told) == []
        await sleep(50)
        assert told == []

    run(main)


@pytest.mark.parametrize("name", ["run_all", "amap awaited", "amap"])
def test_it_is_not_called_with_zero_when_all_has_been_told_before_the_end(impl, name):
    async def main():
        told = Told()
        calls = {
            "run_all": lambda: impl.run_all(late_end(functions_of([2])), progress=told),
            "amap awaited": lambda: impl.amap(after, late_end([2]), progress=told),
            "amap": lambda: all_of(impl.amap(after, late_end([2]), progress=told)),
        }
        assert await calls[name]() == [2]
        assert now() == 40
        assert told == [(12, 1)]

    async def late_end(elements):
        for element in elements:
            yield element
        await sleep(40)

    run(main)


@every_call
def test_the_call_ends_one_turn_later_for_that_and_with_none_it_does_not(impl, call):
    async def turns(*, words=(0, 0, 0), **options):
        trace = Trace()
        trace.start()
        await call(impl, words, **options)
        trace("over")
        trace.stop()
        return len(trace.turns)

    async def main():
        plain = await turns()
        assert await turns(progress=None) == plain
        assert await turns(progress=False) == plain
        assert await turns(progress=Told()) == plain + 1
        # Nothing is to be told, so nothing is put off.
        assert await turns(words=(), progress=Told()) == await turns(words=())

    run(main)


class CountingLoop(FineTimeLoop):
    """Counts what is scheduled."""

    soon = later = 0

    def call_soon(self, *args, **options):
        self.soon += 1
        return super().call_soon(*args, **options)

    def call_later(self, *args, **options):
        self.later += 1
        return super().call_later(*args, **options)


@every_call
def test_with_none_nothing_is_scheduled_else_one_timer_and_one_call(impl, call):
    if FREE_THREADED and call is CALLS["amap, an async generator"]:
        pytest.skip("the idle Task of the source makes a step there, in which the consumer is told of the end anyway")

    async def scheduled(**options):
        loop = asyncio.get_running_loop()
        soon, later = loop.soon, loop.later
        await call(impl, [0] * 9, limit=3, **options)
        return loop.soon - soon, loop.later - later

    async def main():
        await scheduled()
        soon, later = await scheduled()
        assert later == 0
        assert await scheduled(progress=None) == (soon, 0)
        assert await scheduled(progress=False) == (soon, 0)
        # Who iterates waits for the end, and is woken.
        assert await scheduled(progress=Told()) == (soon + (2 if call in ITERATED else 1), 1)

    run(main, loop_factory=CountingLoop)


def timers_left():
    return [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]


@every_call
@pytest.mark.parametrize("words", [[0, 2], [0, "2!"]], ids=str)
def test_no_timer_is_left(impl, call, words):
    async def main():
        with contextlib.suppress(ValueError):
            await call(impl, words, progress=Told())
        assert timers_left() == []

    run(main)


@pytest.mark.parametrize("how", ["close", "drop", "set"])
def test_no_timer_is_left_by_what_ends_early(impl, how):
    async def main():
        if how == "set":
            future = impl.gather(does(0), does("~"), progress=Told())
            await sleep(1)
            assert len(timers_left()) == 1
            future.set_result(None)
            future = None
        else:
            call = impl.run_all(functions_of([0, "~"]), progress=Told()).__await__()
            call.send(None)
            await sleep(1)
            assert len(timers_left()) == 1
            if how == "close":
                call.close()
            del call
        await idle(9)
        left = timers_left()
        stream = impl.amap(does, [0, "~"], progress=Told())
        assert await anext(stream) == 0
        assert len(timers_left()) == len(left) + 1
        del stream
        assert timers_left() == left
        # Who has set it himself is found out at the next end.
        assert len(left) == (1 if how == "set" else 0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await idle(9)
        assert timers_left() == []

    run(main)


# What is counted


@every_call
def test_errors_that_are_results_count(impl, call):
    async def main():
        told = Told()
        results = await call(impl, [2, "3!", 30, "31!"], return_exceptions=True, progress=told)
        assert sorted(map(str, results)) == ["2", "3!", "30", "31!"]
        assert told == [(12, 2), (31, 2)]

    run(main)


@pytest.mark.parametrize("name", STOPPED_BY_ERRORS)
def test_an_error_what_it_has_cancelled_and_what_has_ended_before_count_and_what_never_started_does_not(impl, name):
    async def main():
        told = Told()
        with pytest.raises(ValueError, match="4!"):
            await CALLS[name](impl, [1, "~", "~5", "4!", 1, 1], limit=3, progress=told)
        assert told == [(10, 4)]  # 1 to 5: the first, whose slot "4!" gets; 10: "~5" has cleaned up
        await sleep(50)
        assert told == [(10, 4)]

    run(main)


def test_what_cancel_on_error_cancels_counts(impl):
    async def main():
        told = Told()
        with pytest.raises(ValueError, match="4!"):
            await impl.gather(*map(does, ["~", "~20", "4!"]), cancel_on_error=True, progress=told)
        assert told == [(14, 2), (24, 1)]

    run(main)


@pytest.mark.parametrize("limit", [None, 3])
def test_gather_ends_with_its_first_error_and_what_goes_on_is_not_told(impl, limit):
    async def main():
        told, ended = Told(), []

        async def goes_on(milliseconds):
            ended.append(await after(milliseconds))

        with pytest.raises(ValueError, match="3!"):
            await impl.gather(goes_on(2), does("3!"), goes_on(20), goes_on(30), limit=limit, progress=told)
        assert now() == 3
        assert told == [(3, 2)]
        await sleep(100)
        assert ended == [2, 20, 30]
        assert told == [(3, 2)]

    run(main)


def test_what_ends_in_the_turn_by_which_the_end_is_put_off_is_told_with_it(impl):
    async def main():
        told = Told()

        async def item(turns):
            await idle(turns)
            if turns == 1:
                raise ValueError("first")
            return turns

        with pytest.raises(ValueError, match="first"):
            await impl.gather(*map(item, [2, 1, 9]), progress=told)
        assert told == [(0, 2)]
        await idle(20)
        assert told == [(0, 2)]

    run(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_stream_that_fails_has_told_of_all_items_when_it_raises(impl, ordered):
    async def main():
        told, got = Told(), []
        with pytest.raises(ValueError, match="4!"):
            async for result in impl.amap(
                does, [2, "4!", "~", "~5", 1], limit=3, buffersize=9, ordered=ordered, progress=told
            ):
                got.append(result)
        assert got == [2]
        assert now() == 9
        assert told == [(9, 4)]
        await sleep(50)
        assert told.sum == 4

    run(main)


@pytest.mark.parametrize("name", AWAITED)
def test_what_a_cancelled_caller_cancels_counts_and_what_is_queued_does_not(impl, name):
    async def main():
        told = Told()
        task = asyncio.ensure_future(call(progress=told))
        await sleep(4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # gather() without cancel_on_error ends with the first CancelledError.
        assert told == ([(13, 1), (24, 1)] if name == "gather" else [(13, 1), (29, 2)])
        await sleep(50)
        assert told.sum == (2 if name == "gather" else 3)

    async def call(**options):
        return await AWAITED[name](impl, [3, "~20", "~25", 5, 6], limit=2, **options)

    run(main)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("source", [list, iter, given])
def test_what_is_cancelled_as_a_stream_is_left_has_been_told_when_that_is_over(impl, ordered, source):
    async def main():
        told = Told()
        words = source([2, 3, "~5", "~25", 7, 8])
        async with impl.amap(does, words, limit=2, ordered=ordered, progress=told) as results:
            assert await anext(results) == 2
            await sleep(3)
        assert now() == 30
        assert told == [(12, 3), (30, 1)]
        await sleep(50)
        assert told.sum == 4
        await results.aclose()

    run(main)


def test_a_stream_whose_consumer_pauses_tells_on_time(impl):
    async def main():
        told = Told()
        stream = impl.amap(after, [2, 4, 6, 9, 15], limit=2, buffersize=1, progress=told)
        assert await anext(stream) == 2
        await sleep(100)
        assert told == [(12, 3), (23, 1)]  # the window is full
        assert await all_of(stream) == [4, 6, 9, 15]
        assert told == [(12, 3), (23, 1), (117, 1)]

    run(main)


def test_results_are_handed_over_without_waiting_for_it(impl):
    async def main():
        told, got = Told(), []
        async for result in impl.amap(after, [2, 5, 30], progress=told):
            got.append((now(), result, told.sum))
        assert got == [(2, 2, 0), (5, 5, 0), (30, 30, 2)]
        assert told == [(12, 2), (30, 1)]

    run(main)


def test_a_source_of_another_stream_counts_by_itself(impl):
    async def main():
        inner, outer = Told(), Told()
        results = await impl.amap(after, impl.amap(after, [2, 4, 20], progress=inner), limit=1, progress=outer)
        assert results == [2, 4, 20]
        assert inner == [(12, 2), (20, 1)]
        assert outer == [(14, 2), (40, 1)]

    run(main)


@pytest.mark.parametrize("limit", [None, 9])
def test_gather_counts_distinct_items_futures_too(impl, limit):
    async def main():
        loop = asyncio.get_running_loop()
        coro, future, task, done = after(3), loop.create_future(), loop.create_task(after(20)), loop.create_future()
        loop.call_later(0.005, future.set_result, 5)
        done.set_result("done")
        told = Told()
        aws = [coro, coro, future, task, task, done]
        assert await impl.gather(*aws, limit=limit, progress=told) == [3, 3, 5, 20, 20, "done"]
        assert told == [(10, 3), (20, 1)]

    run(main)


@pytest.mark.parametrize("name", ["run_all", "amap awaited", "amap"])
def test_an_item_that_is_not_callable_or_awaitable_counts_as_failed(impl, name):
    async def main():
        told = Told()
        call = {
            "run_all": lambda: impl.run_all([lambda: after(2), 5], return_exceptions=True, progress=told),
            "amap awaited": lambda: impl.amap(returns_none, [2, 5], return_exceptions=True, progress=told),
            "amap": lambda: all_of(impl.amap(returns_none, [2, 5], return_exceptions=True, progress=told)),
        }[name]
        assert [type(result) for result in await call()][1] is TypeError
        assert told.sum == 2

    def returns_none(milliseconds):
        return after(milliseconds) if milliseconds == 2 else None

    run(main)
