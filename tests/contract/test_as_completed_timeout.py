"""as_completed: a timeout for all of it, from the first step on: what is there is handed over, what runs is cancelled, then TimeoutError."""

import asyncio
import gc
import math
import weakref

import pytest

from contract_tools import Trace, idle, is_closed
from stream_tools import LOOPS, came_to, coroutines, drawn, loop_async, loop_plain, made, made_async, run, said

NO_TASK_IS_REUSED = True

EACH_LOOP = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
EACH_LIMIT = pytest.mark.parametrize("limit", [1, 2, None, asyncio.Semaphore], ids=["1", "2", "None", "gate"])
TIMEOUT = {loop_async: "TimeoutError()", loop_plain: "=TimeoutError() over"}


def limit_of_call(limit, slots=2):
    return limit(slots) if callable(limit) else limit


def other_tasks():
    return asyncio.all_tasks() - {asyncio.current_task()}


def timers():
    return [handle for handle in asyncio.get_running_loop()._scheduled if not handle.cancelled()]


async def lasts(trace, name, seconds, turns=0, after=None):
    """Take so long; cancelled, clean up for some turns, and return or raise *after*, if that is something."""
    trace(f"+{name}")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        trace(f"x{name}")
        await idle(turns)
        if isinstance(after, Exception):
            raise after from None
        if after is None:
            raise
        trace(f"-{name}")
        return after
    trace(f"-{name}")
    return name


def lasting(trace, seconds):
    """A list of coroutines that last so long, named by their order."""
    return [lasts(trace, name, each) for name, each in zip("abcdef", seconds)]


@EACH_LOOP
def test_what_came_before_has_been_handed_over_and_what_runs_is_cancelled(impl, loop):
    async def main():
        trace = Trace()
        iterator = impl.as_completed(lasting(trace, [2, 10, 1]), timeout=5)
        error = await loop(trace, iterator)
        assert asyncio.get_running_loop().time() == 5
        assert type(error) is TimeoutError and error.args == () and error.__cause__ is None
        assert await anext(iterator, "over") == "over"
        assert next(iterator, "over") == "over"
        assert other_tasks() == set() and timers() == []
        return " ".join(trace.events)

    assert run(main) == f"+a +b +c -c =c -a =a xb {TIMEOUT[loop]}"


@EACH_LOOP
@EACH_LIMIT
@pytest.mark.parametrize("lazily", [False, True])
def test_what_has_not_started_never_does(impl, limit, lazily, loop):
    async def main():
        trace = Trace()
        slots = {1: 1, None: 6}.get(limit, 2)
        aws = lasting(trace, [1, *[20] * 5])

        def source():
            try:
                yield from aws
            finally:
                trace("closed")

        iterator = impl.as_completed(source() if lazily else aws, limit=limit_of_call(limit), timeout=5)
        await loop(trace, iterator)
        started = [event[1] for event in trace.events if event[0] == "+"]
        assert started == list("abcdef"[: slots + 1])
        assert sorted(event for event in trace.events if event[0] == "x") == [f"x{name}" for name in started[1:]]
        assert trace.events.count("closed") == lazily
        assert asyncio.get_running_loop().time() == 5
        for coroutine in aws:  # what was never drawn is still the caller's
            assert is_closed(coroutine) or (lazily and loop is loop_async)
            coroutine.close()
        return [event for event in trace.events if event[0] in "=T"]

    errors = ["TimeoutError()"] if loop is loop_async else ["=TimeoutError()"] * 5
    assert run(main) == ["=a", *errors]


@EACH_LOOP
def test_it_is_for_all_and_begins_with_the_first_step(impl, loop):
    async def main():
        trace = Trace()
        iterator = impl.as_completed(lasting(trace, [3, 3, 3, 3]), limit=1, timeout=7)
        assert timers() == []
        await asyncio.sleep(100)
        await loop(trace, iterator)
        assert asyncio.get_running_loop().time() == 107
        return [event for event in trace.events if event[0] in "=T"]

    errors = ["TimeoutError()"] if loop is loop_async else ["=TimeoutError()"] * 2
    assert run(main) == ["=a", "=b", *errors]


def test_next_is_a_first_step(impl):
    async def main():
        iterator = impl.as_completed(lasting(Trace(), [3]), timeout=2)
        asked = next(iterator)
        (timer,) = timers()
        assert timer.when() == 2
        await asyncio.sleep(100)
        assert other_tasks() == set()
        with pytest.raises(TimeoutError):
            await asked

    run(main)


@EACH_LOOP
def test_who_comes_late_gets_what_came_in_time_first(impl, loop):
    async def main():
        trace = Trace()
        iterator = impl.as_completed(lasting(trace, [1, 2, 3, 20, 20]), timeout=5)
        assert came_to(await anext(iterator)) == "a"
        await asyncio.sleep(60)
        trace("late")
        await loop(trace, iterator)
        return " ".join(trace.events)

    errors = "TimeoutError()" if loop is loop_async else "=TimeoutError() =TimeoutError() over"
    assert run(main) == f"+a +b +c +d +e -a -b -c xd xe late =b =c {errors}"


@EACH_LOOP
@pytest.mark.parametrize("lazily", [False, True])
def test_who_comes_after_it_all_has_ended_in_time_is_not_told(impl, lazily, loop):
    async def main():
        trace = Trace()
        aws = lasting(trace, [1, 2])
        iterator = impl.as_completed(iter(aws) if lazily else aws, timeout=5)
        asked = next(iterator) if loop is loop_plain else anext(iterator)
        await asked
        await asyncio.sleep(2)
        assert timers() == []
        await asyncio.sleep(60)
        await loop(trace, iterator)
        return " ".join(trace.events)

    assert run(main) == "+a +b -a -b =b over"


@EACH_LOOP
def test_what_returns_in_spite_of_it_is_handed_over_and_the_error_comes_when_all_has_ended(impl, loop):
    async def main():
        trace = Trace()
        aws = [lasts(trace, "a", 20, 2, "a"), lasts(trace, "b", 20, 6), lasts(trace, "c", 20)]
        await loop(trace, impl.as_completed([*aws, lasts(trace, "d", 20, 8, "d")], timeout=5))
        assert other_tasks() == set()
        return " ".join(trace.events)

    errors = "TimeoutError()" if loop is loop_async else "=TimeoutError() =TimeoutError() over"
    assert run(main) == f"+a +b +c +d xa xb xc xd -a =a -d =d {errors}"


@EACH_LOOP
def test_what_fails_because_of_it_is_noted(impl, loop):
    async def main():
        aws = [lasts(Trace(), name, 20, 1, ValueError(name)) for name in "ab"]
        error = await loop(Trace(), impl.as_completed(aws, timeout=5))
        assert type(error) is TimeoutError
        notes = [
            f"while it was being cancelled, item {index} raised ValueError: {name}" for index, name in enumerate("ab")
        ]
        assert loop is loop_plain or error.__notes__ == notes

    run(main)
    gc.collect()


@pytest.mark.parametrize("timeout", [0, -1, -math.inf])
@EACH_LOOP
def test_one_that_is_over_at_once_lets_everything_begin(impl, loop, timeout):
    """As asyncio's does. What has ended is handed over, though."""

    async def main():
        trace = Trace()
        aws = [*coroutines(trace, "a0"), lasts(trace, "b", 9)]
        await loop(trace, impl.as_completed(aws, timeout=timeout))
        assert asyncio.get_running_loop().time() == 0
        return [event for event in trace.events if event != "xb"], trace.events.count("xb")

    assert run(main) == (f"+a -a +b =a {TIMEOUT[loop]}".split(), 1)


@pytest.mark.parametrize("timeout", [None, math.inf, 1e9])
@EACH_LOOP
def test_none_and_a_very_long_one_are_never_over(impl, loop, timeout):
    async def main():
        trace = Trace()
        await loop(trace, impl.as_completed(lasting(trace, [2000, 1000]), timeout=timeout))
        assert timers() == []
        return " ".join(trace.events)

    assert run(main) == "+a +b -b =b -a =a over"


# Who is told


def test_of_several_async_consumers_one_is_told(impl):
    async def main():
        iterator = impl.as_completed(lasting(Trace(), [1, *[20] * 3]), timeout=5)
        asks = [asyncio.create_task(anext(iterator)) for _ in range(4)]
        first, *others = await asyncio.gather(*asks, return_exceptions=True)
        assert await anext(iterator, "over") == "over"
        return [came_to(first), *map(said, others)]

    assert run(main) == ["a", "TimeoutError()", "StopAsyncIteration()", "StopAsyncIteration()"]


def test_every_plain_coroutine_is_told_by_an_error_of_its_own(impl):
    async def main():
        iterator = impl.as_completed(lasting(Trace(), [1, *[20] * 5]), timeout=5)
        early = [asyncio.create_task(next(iterator)) for _ in range(3)]
        later = next(iterator)
        first, *errors = await asyncio.gather(*early, return_exceptions=True)
        errors += [error for error in await asyncio.gather(later, *iterator, return_exceptions=True)]
        assert len(set(map(id, errors))) == 5
        return [first, *map(said, errors)]

    assert run(main) == ["a", *["TimeoutError()"] * 5]


@pytest.mark.parametrize("plain_first", [True, False])
def test_an_async_loop_is_told_whatever_plain_coroutines_have_been_told(impl, plain_first):
    """It would look complete."""

    async def main():
        iterator = impl.as_completed(lasting(Trace(), [20] * 3), timeout=5)
        trace = Trace()
        plain = asyncio.ensure_future(next(iterator))
        if plain_first:
            await idle(1)
        asks = asyncio.create_task(loop_async(trace, iterator))
        with pytest.raises(TimeoutError):
            await plain
        await asks
        return trace.events

    assert run(main) == ["TimeoutError()"]


@EACH_LOOP
def test_a_cancellation_while_what_was_cancelled_cleans_up_is_passed_on_and_the_error_is_not_lost(impl, loop):
    async def main():
        trace = Trace()

        async def stubborn():
            for _ in range(2):
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError as error:
                    trace(f"x{error.args}")
            await idle(2)
            trace("-")
            raise asyncio.CancelledError

        async def asks():
            return await (next(iterator) if loop is loop_plain else anext(iterator))

        iterator = impl.as_completed([stubborn()], timeout=5)
        asking = asyncio.create_task(asks())
        await asyncio.sleep(6)
        trace("cancel")
        asking.cancel("why")
        await idle(2)
        assert not asking.done()
        with pytest.raises(asyncio.CancelledError, match="why"):
            await asking
        trace("ended")
        await loop(trace, iterator)
        return " ".join(trace.events)

    assert run(main) == f"x() cancel x('why',) - ended {TIMEOUT[loop]}"


def test_closed_after_it_has_fired_there_is_no_result_for_who_comes_later(impl):
    async def main():
        iterator = impl.as_completed(lasting(Trace(), [20, 20]), timeout=5)
        early, late = iterator
        with pytest.raises(TimeoutError):
            await early
        await iterator.aclose()
        with pytest.raises(RuntimeError, match="has been closed: there is no result for this coroutine$"):
            await late

    run(main)


@EACH_LOOP
def test_it_ends_also_what_waits_for_a_future_of_the_caller_s_after_its_queue_was_cancelled(impl, loop):
    async def main():
        trace = Trace()
        future = asyncio.get_running_loop().create_future()
        iterator = impl.as_completed([future, *coroutines(trace, "a b")], limit=1, timeout=5)
        consumer = asyncio.create_task(loop(trace, iterator))
        await idle(2)
        (keeper,) = other_tasks() - {consumer}
        keeper.cancel()
        error = await consumer
        assert asyncio.get_running_loop().time() == 5 and not future._callbacks
        return type(error).__name__

    assert run(main) == "TimeoutError"


# The source


@pytest.mark.parametrize("make", [made, made_async])
def test_what_is_drawn_lazily_is_closed_before_the_error_comes(impl, make):
    async def main():
        trace = Trace()
        await loop_async(trace, impl.as_completed(make(trace, "a~ b c"), limit=1, timeout=5))
        return " ".join(trace.events)

    assert run(main) == "?a +a close xa -a TimeoutError()"


def test_an_element_that_is_on_its_way_is_cancelled_and_what_comes_in_spite_of_that_starts_nothing(impl):
    async def main():
        trace = Trace()

        async def source(late):
            try:
                yield lasts(trace, "a", 1)
                await asyncio.sleep(20)
                raise AssertionError
            except asyncio.CancelledError:
                trace("cancelled")
                await idle(3)
                if not late:
                    raise
                yield coroutine
            finally:
                await idle(3)
                trace("closed")

        for late in (False, True):
            coroutine = lasts(trace, "never", 1)
            await loop_async(trace, impl.as_completed(source(late), timeout=5))
            coroutine.close()
        return " ".join(trace.events)

    each = "+a -a =a cancelled closed TimeoutError()"
    assert run(main) == f"{each} {each}"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_error_of_the_source_before_it_stays_the_error_and_the_rest_is_cancelled(impl, asynchronous):
    async def main():
        trace = Trace()

        def source():
            yield lasts(trace, "a", 1)
            yield lasts(trace, "b", 20, 3)
            raise LookupError("of the source")

        async def async_source():
            for one in source():
                yield one

        iterator = impl.as_completed(async_source() if asynchronous else source(), timeout=5)
        await loop_async(trace, iterator)
        assert asyncio.get_running_loop().time() == 5
        assert await anext(iterator, "over") == "over"
        return " ".join(trace.events)

    assert run(main) == "+a +b -a =a xb LookupError(of the source)"


# The timer


@EACH_LOOP
@pytest.mark.parametrize("end", ["over", "closed", "left", "dropped", "refused", "nothing to wait for"])
def test_the_timer_goes_with_what_it_is_for(impl, end, loop, monkeypatch):
    async def main():
        trace = Trace()
        aws = lasting(trace, [] if end.startswith("nothing") else [1, 9])
        if end == "refused":
            aws.append(5)
        if end.startswith("nothing"):
            monkeypatch.setattr(asyncio.get_running_loop(), "call_later", None)
        elif end == "closed":
            aws.append(lasts(trace, "c", 9, 5))
        iterator = impl.as_completed(aws, timeout=50)
        gone = weakref.ref(iterator)
        if end == "refused":
            with pytest.raises(TypeError):
                await (next(iterator) if loop is loop_plain else anext(iterator))
        elif end in ("over", "nothing to wait for"):
            await loop(trace, iterator)
        else:
            asked = next(iterator) if loop is loop_plain else anext(iterator)
            await asked
            assert {timer.when() for timer in timers()} == {9, 50}
            del asked
        if end == "closed":
            closing = asyncio.create_task(iterator.aclose())
            await idle(2)
            assert timers() == [] and not closing.done()
            await closing
        elif end == "left":
            async with iterator:
                pass
        elif end == "dropped":
            del iterator
            assert gone() is None
            await idle(2)
        assert timers() == []
        monkeypatch.undo()
        await asyncio.sleep(100)

    run(main)


def test_what_is_over_after_it_has_fired_is_over(impl):
    """It fires once, whatever comes later."""

    async def main():
        trace = Trace()
        async with impl.as_completed(drawn_lazily(trace), limit=1, timeout=5) as iterator:
            await loop_async(trace, iterator)
            assert timers() == []
        await iterator.aclose()
        return " ".join(trace.events)

    def drawn_lazily(trace):
        for word in drawn(trace, "a b"):
            yield lasts(trace, word, 9)

    assert run(main) == "?a +a close xa TimeoutError()"
