"""amap: results one by one from items that are taken as they are needed, with a window between them and any number of consumers."""

import asyncio
import contextvars
import functools
import itertools
import types

import pytest

from contract_tools import HAS_EAGER_TASKS, Running, Trace, idle, item
from stream_tools import Doors, consume, doing, drawn, run

VARIABLE = contextvars.ContextVar("VARIABLE", default="default")
GATES = [asyncio.Semaphore, asyncio.BoundedSemaphore]


# Use


def test_async_for_gives_results_one_by_one_while_others_run(impl):
    async def main():
        trace = Trace()
        trace.start()
        await consume(trace, impl.amap(doing(trace), drawn(trace, "a1 b2 c3"), limit=3))
        trace.stop()
        return trace.turns

    assert run(main) == ["", "?a +a ?b +b ?c +c", "-a end", "=a -b", "=b -c", "=c over"]


def test_entering_the_block_starts_nothing_and_nothing_runs_any_more_when_it_is_left(impl):
    async def main():
        trace = Trace()
        async with impl.amap(doing(trace), drawn(trace, "a1 b~3 c~1 d"), limit=2) as results:
            await idle(5)
            trace("entered")
            async for result in results:
                trace(f"={result}")
                break
            trace("leaves")
        trace("left")
        await idle(5)
        return " ".join(trace.events)

    assert run(main) == "entered ?a +a ?b +b -a ?c +c =a leaves close xb xc -c -b left"


def test_the_block_gives_the_stream_itself(impl):
    async def main():
        stream = impl.amap(asyncio.sleep, [0])
        async with stream as entered:
            assert entered is stream
            assert aiter(stream) is stream
            assert [result async for result in stream] == [None]

    run(main)


def test_what_runs_to_its_end_in_a_block_has_nothing_to_be_cancelled(impl):
    async def main():
        trace = Trace()
        async with impl.amap(doing(trace), drawn(trace, "a1 b2"), limit=2) as stream:
            await consume(trace, stream)
        return " ".join(trace.events)

    assert run(main) == "?a +a ?b +b -a end =a -b =b over"


AWAITED = [
    *itertools.product(["", "a3 b1 c2 d1", "a3 b1! c2! d1"], [1, 2, None, asyncio.Semaphore], [False, True]),
    *itertools.product(["a3 b1! c~2! d1", "a~2= b1! c~2= d~1!"], [2, None, asyncio.Semaphore], [False]),
]


@pytest.mark.parametrize(("words", "limit", "return_exceptions"), AWAITED)
def test_awaited_it_is_run_all_turn_by_turn(impl, words, limit, return_exceptions, any_turns):
    async def traced(call, with_arguments):
        trace = Trace()
        trace.start()
        limit_of_call = limit(2) if callable(limit) else limit
        source = drawn(trace, words)
        does = doing(trace)
        if not with_arguments:
            source = (functools.partial(does, word) for word in source)
        awaitable = call(does, source, limit=limit_of_call, return_exceptions=return_exceptions)
        try:
            trace(repr(await awaitable))
        except BaseException as error:
            trace(f"{error!r} {getattr(error, '__notes__', [])}")
        trace.stop()
        # A generator that runs in another one's frame says that it is closed after what had it closed.
        return [turn.replace(" close", "") for turn in trace.turns]

    async def main():
        stream = await traced(impl.amap, True)
        assert stream == await traced(lambda _, functions, **options: impl.run_all(functions, **options), False)

    run(main)


@pytest.mark.parametrize("words", ["a1 b~2 c~3= d", "a~2! b~1! c d", "a~= b~1= c d"])
def test_awaited_and_cancelled_it_is_run_all_turn_by_turn(impl, words, any_turns):
    async def traced(call):
        trace = Trace()
        trace.start()
        task = asyncio.create_task(call(doing(trace)))
        await idle(4)
        trace("cancel")
        task.cancel("why")
        try:
            await task
        except BaseException as error:
            trace(f"{error!r} {getattr(error, '__notes__', [])}")
        await idle(5)
        trace.stop()
        return trace.turns

    async def main():
        stream = await traced(lambda does: awaited(impl.amap(does, words.split(), limit=2)))
        assert stream == await traced(
            lambda does: awaited(impl.run_all([functools.partial(does, word) for word in words.split()], limit=2))
        )

    run(main)


@pytest.mark.parametrize(
    "wait",
    [
        asyncio.ensure_future,
        lambda stream: asyncio.wait_for(stream, 10),
        lambda stream: asyncio.shield(stream),
        lambda stream: asyncio.create_task(awaited(stream)),
    ],
)
def test_awaited_it_is_an_awaitable_to_asyncio(impl, wait):
    async def main():
        assert await wait(impl.amap(doing(Trace()), "a2 b1".split())) == ["a", "b"]
        streams = [impl.amap(doing(Trace()), "ab") for _ in range(2)]
        assert await asyncio.gather(*streams) == [["a", "b"]] * 2

    run(main)


def test_awaited_it_is_the_list_in_the_order_of_the_input(impl):
    async def main():
        trace = Trace()
        assert await impl.amap(doing(trace), "a3 b2 c1".split(), limit=3) == ["a", "b", "c"]
        assert await impl.amap(doing(trace), []) == []
        return " ".join(trace.events)

    assert run(main) == "+a +b +c -c -b -a"


def test_awaited_the_first_error_in_time_cancels_and_awaits_the_rest_and_is_raised(impl):
    async def main():
        trace = Trace()
        with pytest.raises(ValueError, match="^b") as caught:
            await impl.amap(doing(trace), drawn(trace, "a~2 b1! c~2! d e"), limit=3)
        assert caught.value.__notes__ == ["while it was being cancelled, item 2 raised ValueError: c"]
        return " ".join(trace.events)

    assert run(main) == "?a +a ?b +b ?c +c !b close xa xc -a -c"


def test_awaited_ordered_and_buffersize_have_no_effect(impl):
    async def main():
        for ordered, buffersize in itertools.product([True, False], [0, 1, None]):
            trace = Trace()
            words = "a9 b1 c1 d1 e1".split()
            results = await impl.amap(doing(trace), words, limit=2, ordered=ordered, buffersize=buffersize)
            assert results == ["a", "b", "c", "d", "e"]
            assert trace.events == "+a +b -b +c -c +d -d +e -e -a".split()
            with pytest.raises(ValueError, match="^b$"):
                await impl.amap(doing(trace), ["a2!", "b1!"], limit=2, ordered=ordered, buffersize=buffersize)
            with pytest.raises(ValueError, match="^b$"):  # the first in time, whatever the order
                await impl.amap(doing(trace), ["a~", "b1!"], ordered=ordered, buffersize=buffersize)

    run(main)


@pytest.mark.parametrize("way", ["async for", "await", "aclose", "block", "nothing"])
def test_nothing_happens_before_the_first_use(impl, way):
    class Untouched:
        def __iter__(self):
            happened.append("iter")
            return iter("ab")

    async def async_fn(name):
        happened.append(name)

    happened = []

    async def main():
        stream = impl.amap(async_fn, Untouched())
        await idle(5)
        assert happened == []
        if way == "async for":
            asked = anext(stream)
            await idle(5)
            assert happened == []
            await asked
        elif way == "await":
            await stream
        elif way == "aclose":
            await stream.aclose()
        elif way == "block":
            async with stream:
                pass
        else:
            with pytest.warns(RuntimeWarning):
                del stream
        await idle(5)
        return happened

    assert run(main) == (["iter", "a", "b"] if way in ("async for", "await") else [])


USES = {
    "iterated": lambda stream: collected(stream),
    "asked": lambda stream: anext(stream),
    "awaited": lambda stream: awaited(stream),
    "closed": lambda stream: stream.aclose(),
    "entered": lambda stream: stream.__aenter__(),
}


async def collected(stream):
    return [result async for result in stream]


async def awaited(stream):
    return await stream


@pytest.mark.parametrize("second", ["iterated", "asked", "awaited"])
@pytest.mark.parametrize("first", USES)
def test_it_is_used_in_one_of_two_ways_once(impl, first, second):
    async def main():
        trace = Trace()
        stream = impl.amap(doing(trace), drawn(trace, "a1 b1"), limit=1)
        await USES[first](stream)
        before = trace.events
        try:
            return repr(await USES[second](stream))
        except (RuntimeError, StopAsyncIteration) as error:
            await idle(3)
            if first != "asked":  # what that has started goes on
                assert trace.events == before
            return type(error).__name__
        finally:
            await stream.aclose()

    outcome = run(main)
    if first == "entered":
        assert outcome == ("'a'" if second == "asked" else "['a', 'b']")
    elif second == "awaited" or first == "awaited":
        assert outcome == "RuntimeError"
    elif second == "asked":
        assert outcome == ("'b'" if first == "asked" else "StopAsyncIteration")
    else:
        assert outcome == ("['b']" if first == "asked" else "[]")


def test_a_use_of_the_other_kind_spoils_nothing(impl):
    async def main():
        stream = impl.amap(doing(Trace()), "abc", limit=1)
        assert await anext(stream) == "a"
        with pytest.raises(RuntimeError, match="has been used already"):
            await stream
        assert await collected(stream) == ["b", "c"]
        stream = impl.amap(doing(Trace()), "abc", limit=1)
        task = asyncio.create_task(awaited(stream))
        await idle(2)
        with pytest.raises(RuntimeError, match="has been awaited"):
            await anext(stream)
        assert await task == ["a", "b", "c"]

    run(main)


def test_it_belongs_to_the_loop_of_its_first_step(impl):
    async def main():
        return impl.amap(doing(Trace()), "abc", limit=1)

    stream = run(main)  # made in one loop, used in another

    async def first():
        assert await anext(stream) == "a"

    async def second():
        for use in (anext(stream), stream.aclose(), stream.__aexit__(None, None, None)):
            with pytest.raises(RuntimeError, match="belongs to a different event loop"):
                await use

    with asyncio.Runner() as one, asyncio.Runner() as other:
        one.run(first())
        other.run(second())
        assert one.run(collected(stream)) == ["b", "c"]


def test_without_a_loop_asking_is_an_error_and_no_use(impl):
    stream = impl.amap(doing(Trace()), "ab")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no running event loop"):
            anext(stream).send(None)
    assert run(functools.partial(collected, stream)) == ["a", "b"]


@pytest.mark.parametrize("limit", [1, 3, None])
def test_each_item_is_called_in_its_own_task_and_its_own_copy_of_the_context(impl, limit):
    async def main():
        tasks = []

        def async_fn(index):
            tasks.append(asyncio.current_task())
            assert VARIABLE.get() == "first step's"
            VARIABLE.set(index)
            return runs(index)

        async def runs(index):
            assert asyncio.current_task() is tasks[index]
            assert VARIABLE.get() == index
            await asyncio.sleep(0)
            assert asyncio.current_task() is tasks[index]

        VARIABLE.set("call's")
        stream = impl.amap(async_fn, range(5), limit=limit)
        VARIABLE.set("first step's")
        await anext(stream)
        VARIABLE.set("of a later step")
        await collected(stream)
        assert len(set(tasks)) == 5
        assert asyncio.current_task() not in tasks
        assert VARIABLE.get() == "of a later step"

    run(main)


def test_awaited_too_the_context_is_that_of_the_first_step(impl):
    async def async_fn(_):
        return VARIABLE.get()

    async def main():
        VARIABLE.set("call's")
        stream = impl.amap(async_fn, range(3), limit=1)
        VARIABLE.set("first step's")
        assert await stream == ["first step's"] * 3

    run(main)


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_is_held_during_the_call_and_the_item_in_the_item_s_task(impl, gate):
    async def main():
        semaphore = gate(2)
        running = Running()
        held = []

        def async_fn(index):
            held.append(semaphore.locked())
            return runs(index)

        async def runs(index):
            with running:
                await asyncio.sleep(0)
            return index

        assert await collected(impl.amap(async_fn, range(6), limit=semaphore)) == list(range(6))
        assert running.most == 2
        assert any(held) and semaphore._value == 2

    run(main)


def test_an_error_of_the_gate_is_the_item_s(impl):
    class Refuses:
        async def __aenter__(self):
            raise ValueError("refused")

        async def __aexit__(self, *_):
            raise AssertionError("it was not entered")

    async def main():
        results = await collected(impl.amap(asyncio.sleep, [0, 0], limit=Refuses(), return_exceptions=True))
        assert list(map(repr, results)) == ["ValueError('refused')"] * 2

    run(main)


@pytest.mark.parametrize("limit", [1, None])
def test_anything_awaitable_may_be_returned(impl, limit):
    class Awaitable:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return "object"

    @types.coroutine
    def generator():
        yield
        return "generator"

    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_result, "future")
        task = loop.create_task(asyncio.sleep(0, "task"))
        awaitables = [future, task, Awaitable(), generator(), asyncio.sleep(0, "coroutine"), impl.gather()]
        stream = impl.amap(lambda awaitable: awaitable, awaitables, limit=limit)
        assert await collected(stream) == ["future", "task", "object", "generator", "coroutine", []]

    run(main)


def test_whatever_can_be_iterated_over_is_a_source(impl):
    class BySubscript:
        def __getitem__(self, index):
            return "abc"[index]

    async def main():
        trace = Trace()
        for iterable in ("abc", list("abc"), iter("abc"), dict.fromkeys("abc"), BySubscript(), (x for x in "abc")):
            assert await collected(impl.amap(doing(trace), iterable, limit=2)) == ["a", "b", "c"]

    run(main)


def test_the_source_runs_in_one_copy_of_the_caller_s_context(impl):
    async def main():
        VARIABLE.set("caller's")
        seen = []

        def source():
            try:
                for index in itertools.count():
                    seen.append(VARIABLE.get())
                    VARIABLE.set(index)
                    yield index
            finally:
                seen.append(VARIABLE.get())

        async def async_fn(index):
            assert VARIABLE.get() == "caller's"
            VARIABLE.set("item's")
            await asyncio.sleep(0)

        async with impl.amap(async_fn, source(), limit=1, buffersize=0) as stream:
            for _ in range(3):
                await anext(stream)
                VARIABLE.set("consumer's")
        assert seen == ["caller's", 0, 1, 2]
        assert VARIABLE.get() == "consumer's"

    run(main)


@pytest.mark.parametrize("way", ["iterated", "awaited"])
@pytest.mark.parametrize("limit", [2, None])
def test_an_endless_source_never_starves_the_loop(impl, limit, way):
    async def main():
        now = 0.0
        drawn_elements = 0

        def clock():
            nonlocal now
            now += 0.0001
            return now

        def source():
            nonlocal drawn_elements
            while True:
                drawn_elements += 1
                assert drawn_elements < 10_000, "the loop does not get a turn"
                yield drawn_elements

        async def at_once(x):
            return x

        impl._set_clock(clock)
        stream = impl.amap(at_once, source(), limit=limit, buffersize=1_000_000 if limit else None)
        task = asyncio.create_task(anext(stream) if way == "iterated" else awaited(stream))
        await idle(10)
        assert 10 < drawn_elements < 10_000
        if way == "iterated":
            assert await task == 1
            await stream.aclose()
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main)


# The window


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("buffersize", [None, 0, 1, 5])
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_at_most_limit_items_run_and_so_many_are_drawn_that_have_not_been_handed_over(
    impl, limit, buffersize, ordered, any_turns
):
    async def main():
        window = limit + (limit if buffersize is None else buffersize)
        running, drawn_elements, handed_over, most = Running(), 0, 0, 0

        def source():
            nonlocal drawn_elements, most
            for index in range(40):
                drawn_elements += 1
                most = max(most, drawn_elements - handed_over)
                assert running.now < limit  # an element is drawn when it could start at once
                yield index

        async def async_fn(index):
            with running:
                await idle(index * 7 % 5)
            return index

        stream = impl.amap(async_fn, source(), limit=limit, ordered=ordered, buffersize=buffersize)
        results = []
        async for result in stream:
            handed_over += 1
            results.append(result)
            await idle(40 if result in (3, 11) else result % 3)
            if result in (3, 11):  # the consumer has paused, and the window is full
                assert drawn_elements - handed_over == window
                assert running.now == 0
        assert most == window
        assert running.most == limit
        assert (results if ordered else sorted(results)) == list(range(40))

    run(main)


def test_an_element_counts_until_the_consumer_s_own_step_has_its_result(impl):
    async def main():
        trace = Trace()
        doors = Doors(trace)
        stream = impl.amap(doors, drawn(trace, "a b c"), limit=1, buffersize=0)
        consumer = anext(stream)
        waits_for = consumer.send(None)
        waits_for._asyncio_future_blocking = False
        await idle(3)
        doors.open("a")
        await idle(3)
        assert waits_for.done()  # the consumer would go on now, but its Task is slow
        trace("step")
        with pytest.raises(StopIteration) as stop:
            consumer.send(None)
        assert stop.value.value == "a"
        await idle(3)
        await stream.aclose()
        return " ".join(trace.events)

    assert run(main) == "?a +a -a step ?b +b close"


def test_with_a_limit_of_one_and_no_buffer_one_item_runs_ahead_of_the_consumer(impl):
    async def main():
        trace = Trace()
        trace.start()
        await consume(trace, impl.amap(doing(trace), drawn(trace, "a b c"), limit=1, buffersize=0))
        trace.stop()
        return trace.turns

    assert run(main) == ["", "?a +a", "-a", "=a ?b +b", "-b", "=b ?c +c", "-c", "=c end over"]


@pytest.mark.parametrize("buffersize", [0, 1, 3, None])
def test_with_a_gate_so_many_finished_results_wait_and_every_slot_can_be_used(impl, buffersize):
    async def main():
        trace = Trace()
        doors = Doors(trace)
        drawn_elements = 0

        def source():
            nonlocal drawn_elements
            for name in range(300):
                drawn_elements += 1
                yield name

        allowed = 100 if buffersize is None else buffersize
        async with impl.amap(doors, source(), limit=asyncio.Semaphore(3), buffersize=buffersize) as stream:
            consumer = asyncio.create_task(anext(stream))
            await idle(6)
            # Three hold the gate, one waits for it: nothing has finished yet.
            assert sorted(doors.futures) == [0, 1, 2]
            assert drawn_elements == 4
            for finished in range(allowed + 2):
                doors.open([finished])
                await idle(6)
            assert await consumer == 0
            await idle(6)
            # Now `allowed` + 1 results wait, and all that was drawn before that runs.
            assert sorted(doors.futures) == [allowed + 2, allowed + 3, allowed + 4]
            assert drawn_elements == allowed + 5
            doors.open([allowed + 2])
            for result in (1, 2):
                await idle(6)
                assert drawn_elements == allowed + 5
                assert await anext(stream) == result
            await idle(6)
            assert drawn_elements == allowed + 7  # one takes the free slot, and one waits for the next

    run(main)


@pytest.mark.parametrize("buffersize", [0, 1, 4])
def test_without_a_limit_buffersize_is_all_that_may_be_drawn(impl, buffersize):
    async def main():
        trace = Trace()
        window = max(buffersize, 1)
        doors = Doors(trace)
        names = iter(range(30))
        async with impl.amap(doors, names, buffersize=buffersize) as stream:
            consumer = asyncio.create_task(anext(stream))
            await idle(5)
            assert sorted(doors.futures) == list(range(window))
            doors.open(range(window))
            await idle(5)
            assert await consumer == 0
            await idle(5)
            assert sorted(doors.futures) == [window]

    run(main)


def test_without_a_limit_and_buffersize_there_is_no_bound(impl):
    async def main():
        trace = Trace()
        doors = Doors(trace)
        async with impl.amap(doors, iter(range(500))) as stream:
            consumer = asyncio.create_task(anext(stream))
            await idle(3)
            assert len(doors.futures) == 500
            doors.open(range(500))
            await consumer

    run(main)


@pytest.mark.parametrize("huge", [2**62, 2**63, 2**100])
def test_a_huge_buffersize_is_no_bound(impl, huge):
    async def main():
        for limit in (1, None, asyncio.Semaphore(1)):
            stream = impl.amap(doing(Trace()), "a b c d".split(), limit=limit, buffersize=huge)
            assert await anext(stream) == "a"
            await idle(30)
            assert repr(stream).endswith(": 0 running, 3 waiting, 1 done>")
            assert await collected(stream) == ["b", "c", "d"]

    run(main)


# Order


def test_in_order_a_slow_item_holds_the_window_up_only_when_it_is_full(impl):
    async def main():
        trace = Trace()
        doors = Doors(trace)
        stream = impl.amap(doors, drawn(trace, "a b c d e f g"), limit=2, buffersize=2)
        consumer = asyncio.create_task(consume(trace, stream))
        await idle(3)
        for names in ("b", "c", "d", "a", "e", "f", "g"):
            doors.open(names)
            await idle(5)
            trace("|")
        await consumer
        return " ".join(trace.events).split(" | ")

    assert run(main) == [
        "?a +a ?b +b -b ?c +c",
        "-c ?d +d",
        "-d",
        "-a =a =b =c =d ?e +e ?f +f",
        "-e ?g +g =e",
        "-f end =f",
        "-g =g over |",
    ]


def test_out_of_order_results_come_as_items_end(impl):
    async def main():
        trace = Trace()
        doors = Doors(trace)
        stream = impl.amap(doors, drawn(trace, "a b c d e f"), limit=2, buffersize=2, ordered=False)
        consumer = asyncio.create_task(consume(trace, stream))
        await idle(3)
        for names in ("b", "c", "d", "a", "e", "f"):
            doors.open(names)
            await idle(5)
            trace("|")
        await consumer
        return " ".join(trace.events).split(" | ")

    assert run(main) == [
        "?a +a ?b +b -b ?c +c =b",
        "-c ?d +d =c",
        "-d ?e +e =d",
        "-a ?f +f =a",
        "-e end =e",
        "-f =f over |",
    ]


@pytest.mark.parametrize("limit", [1, 2, 3, None])
def test_in_order_results_are_those_of_the_loop_and_unordered_the_same_ones(impl, limit, any_turns):
    async def main():
        for turns in itertools.permutations([0, 1, 2, 4]):
            words = [f"{name}{turn}" for name, turn in zip("abcd", turns)]
            assert await collected(impl.amap(doing(Trace()), words, limit=limit)) == list("abcd")
            assert sorted(await collected(impl.amap(doing(Trace()), words, limit=limit, ordered=False))) == list("abcd")

    run(main)


# Consumers


def test_asking_is_a_coroutine_to_asyncio_and_its_first_step_asks(impl):
    async def main():
        stream = impl.amap(doing(Trace()), "abc", limit=1)
        first, second = anext(stream), anext(stream)
        assert asyncio.iscoroutine(first)
        task = asyncio.create_task(second)
        await asyncio.sleep(0)
        assert await asyncio.create_task(first) == "b"
        assert await task == "a"
        assert await asyncio.wait_for(anext(stream), 10) == "c"
        assert await anext(stream, "no more") == "no more"

    run(main)


def test_a_question_that_is_never_asked_is_a_coroutine_that_was_never_awaited(impl):
    stream = impl.amap(doing(Trace()), "abc")
    with pytest.warns(RuntimeWarning, match=r"^coroutine 'Stream.__anext__' was never awaited"):
        anext(stream)
    with pytest.warns(RuntimeWarning, match="was never iterated over or awaited"):
        del stream


@pytest.mark.parametrize("ordered", [True, False])
def test_consumers_are_served_in_the_order_of_asking(impl, ordered):
    async def main():
        trace = Trace()
        doors = Doors(trace)
        stream = impl.amap(doors, iter("abcde"), limit=3, ordered=ordered)

        async def consumer(name):
            trace(f"{name}={await anext(stream)}")

        consumers = [asyncio.create_task(consumer(name)) for name in "123"]
        await idle(3)
        doors.open("ab")
        await idle(5)
        consumers += [asyncio.create_task(consumer(name)) for name in "45"]
        await idle(3)
        doors.open("cde")
        await asyncio.gather(*consumers)
        return " ".join(event for event in trace.events if "=" in event)

    assert run(main) == "1=a 2=b 3=c 4=d 5=e"


def test_who_asks_while_a_result_is_on_its_way_to_another_comes_after_it(impl):
    async def main():
        trace = Trace()
        doors = Doors(trace)
        stream = impl.amap(doors, iter("ab"), limit=2)

        async def consumer(name):
            trace(f"{name}={await anext(stream)}")

        first = asyncio.create_task(consumer("1"))
        await idle(3)
        doors.open("a")
        await asyncio.sleep(0)  # item a has ended in this turn, and the consumer is to go on in the next one
        assert repr(stream).endswith("1 running, 1 waiting, 0 done>")
        second = consumer("2")
        waits_for = second.send(None)
        await first
        waits_for._asyncio_future_blocking = False
        doors.open("b")
        await idle(3)
        assert waits_for.done()
        with pytest.raises(StopIteration):
            second.send(None)
        await stream.aclose()
        return [event for event in trace.events if "=" in event]

    assert run(main) == ["1=a", "2=b"]


@pytest.mark.parametrize("on_its_way", [False, True])
@pytest.mark.parametrize("another_waits", [False, True])
def test_a_consumer_that_is_cancelled_while_it_waits_loses_nothing(impl, on_its_way, another_waits):
    async def main():
        trace = Trace()
        doors = Doors(trace)
        stream = impl.amap(doors, iter("abc"), limit=3)
        consumer = asyncio.create_task(anext(stream))
        await idle(3)
        other = asyncio.create_task(anext(stream)) if another_waits else None
        await idle(3)
        if on_its_way:
            doors.open("a")
            await asyncio.sleep(0)  # item a has ended in this turn
            assert repr(stream).endswith("1 waiting, 0 done>")
            assert not consumer.done()
        assert consumer.cancel("why")
        with pytest.raises(asyncio.CancelledError) as caught:
            await consumer
        assert caught.value.args == ("why",)
        if not on_its_way:
            await idle(3)
            doors.open("a")
        first = await (anext(stream) if other is None else other)
        doors.open("bc")
        return [first, *await collected(stream)]

    assert run(main) == ["a", "b", "c"]


def test_waiting_with_a_timeout_loses_nothing(impl):
    async def main():
        trace = Trace()
        doors = Doors(trace)
        stream = impl.amap(doors, iter("ab"), limit=2)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.001)
        doors.open("ab")
        return await collected(stream)

    assert run(main) == ["a", "b"]


def test_a_break_while_the_stream_is_held_is_a_pause(impl):
    async def main():
        trace = Trace()
        stream = impl.amap(doing(trace), drawn(trace, "a b c d e f"), limit=2, buffersize=0)
        async for result in stream:
            trace(f"={result}")
            break
        await idle(9)
        trace("pause")
        await consume(trace, stream)
        return " ".join(trace.events)

    # One item of the window had been handed over; the rest of it is filled up, and nothing else happens.
    assert run(main) == ("?a +a ?b +b -a -b =a ?c +c -c pause =b =c ?d +d ?e +e -d -e =d =e ?f +f end -f =f over")


def test_the_end_is_told_again_and_again(impl):
    async def main():
        stream = impl.amap(doing(Trace()), "a", limit=1)
        assert await collected(stream) == ["a"]
        for _ in range(3):
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            assert await collected(stream) == []
        assert await collected(impl.amap(doing(Trace()), [])) == []

    run(main)


def test_consumers_in_the_end_are_all_told(impl):
    async def main():
        stream = impl.amap(doing(Trace()), "a2 b2".split(), limit=2)
        results = await asyncio.gather(*[anext(stream) for _ in range(5)], return_exceptions=True)
        return list(map(repr, results))

    assert run(main) == ["'a'", "'b'", *["StopAsyncIteration()"] * 3]


@pytest.mark.skipif(not HAS_EAGER_TASKS, reason="eager_task_factory is new in 3.12")
def test_an_eager_item_may_ask_the_stream_in_the_step_that_opens_it(impl):
    async def does(x):
        return x if x else ["asked", await anext(stream)]

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        return [result async for result in stream]

    stream = impl.amap(does, range(3), ordered=False)
    assert run(main) == [1, ["asked", 2]]


def test_streams_compose(impl):
    async def main():
        trace = Trace()

        def named(suffix):
            async def async_fn(x):
                return await item(trace, f"{x}{suffix}")

            return async_fn

        async with impl.amap(named("1"), drawn(trace, "a b c d e f g h"), limit=2, buffersize=0) as inner:
            async with impl.amap(named("2"), inner, limit=1, buffersize=0) as outer:
                async for result in outer:
                    break
                await idle(20)
        assert result == "a12"
        # Backpressure reaches through: one item of the outer stream's window, and two of the inner one's.
        return sum(event.startswith("?") for event in trace.events), trace.events[-1]

    assert run(main) == (4, "close")
