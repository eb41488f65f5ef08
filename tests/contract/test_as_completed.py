"""as_completed: Tasks and Futures, or coroutines for their results, in the order in which they end; who has a claim to how many."""

import asyncio
import contextvars
import functools
import gc
import itertools
import sys

import pytest

from contract_tools import Running, Trace, idle, item, two_argument_factory
from stream_tools import LOOPS, Doors, came_to, coroutines, doing, loop_async, loop_plain, made, run

NO_TASK_IS_REUSED = True

VARIABLE = contextvars.ContextVar("VARIABLE", default="default")
EACH_LOOP = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
EACH_LIMIT = pytest.mark.parametrize("limit", [1, 2, None, asyncio.Semaphore], ids=["1", "2", "None", "gate"])


def limit_of_call(limit):
    return limit(2) if callable(limit) else limit


def other_tasks():
    return asyncio.all_tasks() - {asyncio.current_task()}


async def turns_of(loop, as_completed, words, make=coroutines, **options):
    """What happens in each turn, from the call on."""
    trace = Trace()
    aws = make(trace, words)
    trace.start()
    await loop(trace, as_completed(aws, **options))
    trace.stop()
    return trace.turns


# In the order of their ends


TURNS = {
    "without a limit": ("a1 b2 c3", None, ["", "+a +b +c", "-a", "-b", "=a -c", "=b", "=c over"]),
    "the last first": ("a3 b2 c1", None, ["", "+a +b +c", "-c", "-b", "-a =c =b", "", "=a over"]),
    "a limit": ("a1 b2 c1 d1", 2, ["", "+a +b", "-a +c", "-c +d -b", "-d =a =c", "=b =d over"]),
    "one at a time": ("a1 b1", 1, ["", "+a", "-a +b", "-b", "=a =b over"]),
    "none suspends": ("a0 b0! c0", 1, ["", "+a -a +b !b +c -c", "", "=a =ValueError(b) =c over"]),
    "nothing": ("", 1, ["over"]),
}


@EACH_LOOP
@pytest.mark.parametrize("case", TURNS)
def test_what_has_ended_is_handed_over_when_its_task_is_done_and_makes_room_before_that(impl, case, loop):
    words, limit, expected = TURNS[case]

    assert run(lambda: turns_of(loop, impl.as_completed, words, limit=limit)) == expected


class Numbered:
    """asyncio puts all that it is given into a set: these are taken in the order of their numbers."""

    def __init__(self, number, coroutine):
        self.number, self.coroutine = number, coroutine

    def __hash__(self):
        return self.number

    def __await__(self):
        return self.coroutine.__await__()


class NumberedFuture(asyncio.Future):
    __hash__ = Numbered.__hash__


def numbered(trace, words):
    return [Numbered(number, coroutine) for number, coroutine in enumerate(coroutines(trace, words))]


def numbered_futures(trace, words):
    """The second one is a Future, which is done now or later."""

    def settle(future, word, turns):
        if turns:
            loop.call_soon(settle, future, word, turns - 1)
        else:
            future.set_exception(ValueError(word[0])) if "!" in word else future.set_result(word[0])

    loop = asyncio.get_running_loop()
    words = words.split()
    first, last = (Numbered(number, doing(trace)(words[number])) for number in (0, 2))
    future = NumberedFuture(loop=loop)
    future.number = 1
    settle(future, words[1], int(words[1][1]))
    return [first, future, last]


WAYS = ["0", "1", "2!", "3"]


@EACH_LOOP
@pytest.mark.parametrize("make", [numbered, numbered_futures])
def test_without_a_limit_it_is_asyncio_s_turn_by_turn(impl, make, loop):
    if loop is loop_async and sys.version_info < (3, 13):
        pytest.skip("asyncio.as_completed is an async iterator from 3.13 on")

    async def main():
        for ways in itertools.product(WAYS, repeat=3):
            words = " ".join(name + way for name, way in zip("abc", ways))
            for timeout in (None, 9):
                expected = await turns_of(loop, asyncio.as_completed, words, make, timeout=timeout)
                assert await turns_of(loop, impl.as_completed, words, make, timeout=timeout) == expected

    run(main)


@EACH_LOOP
@EACH_LIMIT
@pytest.mark.parametrize("lazily", [False, True])
def test_everything_is_handed_over_once_and_at_most_so_many_run(impl, limit, lazily, loop, any_turns):
    async def check(words):
        trace, running = Trace(), Running()

        async def runs(word):
            with running:
                return await doing(trace)(word)

        aws = map(runs, words)
        await loop(trace, impl.as_completed(aws if lazily else list(aws), limit=limit_of_call(limit)))
        handed_over = [event.rstrip(")")[-1] for event in trace.events if event[0] == "="]
        assert sorted(handed_over) == list("abcd")
        assert running.most <= {1: 1, None: 4}.get(limit, 2)
        return running.most

    async def main():
        most = [
            await check([*words, "d1"]) for words in itertools.product(["a0", "a1", "a3!"], ["b0!", "b1"], ["c0", "c2"])
        ]
        assert max(most) == {1: 1, None: 4}.get(limit, 2)

    run(main)


@EACH_LOOP
@pytest.mark.parametrize("lazily", [False, True])
def test_one_at_a_time_they_come_in_the_order_of_their_ends(impl, lazily, loop):
    async def main():
        trace = Trace()
        aws = coroutines(trace, "a1 b0 c1 d0")
        await loop(trace, impl.as_completed(iter(aws) if lazily else aws, limit=1))
        return " ".join(event for event in trace.events if "=" in event)

    assert run(main) == "=a =b =c =d"


@EACH_LIMIT
def test_what_has_not_been_fetched_holds_no_slot(impl, limit):
    async def main():
        trace = Trace()
        iterator = impl.as_completed(coroutines(trace, "a b c d e f"), limit=limit_of_call(limit))
        assert came_to(await anext(iterator)) == "a"
        await idle(30)
        assert repr(iterator) == "<gatedcoro.AsCompleted: 0 running, 5 waiting, 1 done>"
        assert other_tasks() == set()
        trace("paused")
        await loop_async(trace, iterator)
        return " ".join(trace.events[-8:])

    assert run(main).endswith("-f paused =b =c =d =e =f over")


def test_its_own_items_may_ask_it(impl):
    async def main():
        trace = Trace()

        async def asks(name):
            if name in "bd":
                trace(f"{name}:{came_to(await anext(iterator))}")
            return name

        iterator = impl.as_completed(map(asks, "abcd"), limit=2)
        await loop_async(trace, iterator)
        return " ".join(trace.events)

    assert run(main) == "=a b:c d:b =d over"


# What is handed over


@EACH_LIMIT
@pytest.mark.parametrize("lazily", [False, True])
def test_a_coroutine_s_task_is_its_own_and_stays_what_it_was(impl, limit, lazily):
    async def main():
        tasks = {}

        async def runs(name, turns):
            tasks[name] = asyncio.current_task()
            await idle(turns)
            assert asyncio.current_task() is tasks[name]
            if name == "d":
                raise ValueError(name)
            return name

        aws = [runs(name, turns) for name, turns in zip("abcdefgh", (0, 1, 0, 2, 0, 0, 1, 3))]
        given = []
        async for task in impl.as_completed(iter(aws) if lazily else aws, limit=limit_of_call(limit)):
            assert task.done() and isinstance(task, asyncio.Task)
            given.append(task)
        assert sorted(map(id, given)) == sorted(map(id, tasks.values()))
        assert len(set(given)) == 8
        for task in given:
            name = came_to(task)[-2 if task.exception() else -1]
            assert tasks[name] is task
            if name != "d":
                assert await task == name
        with pytest.raises(ValueError, match="d"):
            await tasks["d"]

    run(main)


@EACH_LOOP
def test_each_item_has_its_own_copy_of_the_first_step_s_context(impl, loop):
    async def main():
        seen = []

        async def runs(name):
            seen.append(VARIABLE.get())
            VARIABLE.set(name)
            await asyncio.sleep(0)
            seen.append(VARIABLE.get())

        for limit, lazily in itertools.product([1, None], [False, True]):
            aws = [runs(name) for name in "ab"]
            VARIABLE.set("the call's")
            iterator = impl.as_completed(iter(aws) if lazily else aws, limit=limit)
            VARIABLE.set("the first step's")
            await loop(Trace(), iterator)
            assert sorted(seen) == ["a", "b", "the first step's", "the first step's"]
            assert VARIABLE.get() == "the first step's"
            seen.clear()

    run(main)


@EACH_LOOP
@EACH_LIMIT
def test_no_error_stops_anything(impl, limit, loop):
    class Error(BaseException):
        pass

    async def cancels_itself():
        asyncio.current_task().cancel("why")
        await asyncio.sleep(0)

    async def raises(error):
        await asyncio.sleep(0)
        raise error

    async def main():
        trace = Trace()
        errors = [
            raises(Error("a")),
            raises(StopAsyncIteration("b")),
            raises(ValueError("c")),
            raises(TimeoutError("d")),
        ]
        aws = [*errors, cancels_itself(), raises(asyncio.CancelledError("e")), item(trace, "f", result="f")]
        await loop(trace, impl.as_completed(aws, limit=limit_of_call(limit)))
        return [event for event in trace.events if event[0] not in "+-"]

    async def with_base_exceptions():
        try:
            return await main()
        except Error as error:  # of the plain loop's coroutine
            return str(error)

    if loop is loop_plain:
        assert run(with_base_exceptions) == "a"
    else:
        assert run(main) == [
            "=Error(a)",
            "=StopAsyncIteration(b)",
            "=ValueError(c)",
            "=TimeoutError(d)",
            "=CancelledError()",
            "=CancelledError()",
            "=f",
            "over",
        ]


@EACH_LOOP
@pytest.mark.parametrize("factory", [None, two_argument_factory])
def test_an_error_that_nobody_retrieves_is_reported_where_it_was_handed_over_only(impl, factory, loop):
    """As asyncio's: of the Task that somebody was given."""
    reports = []

    async def fails(name):
        raise ValueError(name)

    async def first_only(iterator):
        if loop is loop_async:
            await anext(iterator)
        else:
            asked = next(iterator)
            with pytest.raises(ValueError, match="a"):
                await asked

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
        asyncio.get_running_loop().set_task_factory(factory)
        iterator = impl.as_completed(map(fails, "abc") if loop is loop_async else list(map(fails, "abc")), limit=1)
        await first_only(iterator)
        await idle(9)
        await iterator.aclose()

    with asyncio.Runner() as runner:
        runner.run(main())
        gc.collect()
    assert [str(report["exception"]) for report in reports] == ["a"] * (loop is loop_async)
    assert all(report["message"] == "Task exception was never retrieved" for report in reports)


# Claims


WAYS_OF_GIVING_UP = {
    "cancelled while it waits": True,
    "closed while it waits": True,
    "thrown into while it waits": True,
    "cancelled when its result is on its way": True,
    "cancelled before its first step": True,
    "thrown into, a cancellation, before its first step": True,
    "thrown into, an error, before its first step": False,
    "closed before its first step": False,
    "dropped before its first step": False,
}


def stepped(coroutine):
    """The Future for which the coroutine waits, as a Task takes it."""
    future = coroutine.send(None)
    future._asyncio_future_blocking = False
    return future


async def gives_up(asked, doors, way):
    if way == "cancelled before its first step":
        task = asyncio.create_task(asked)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    elif way == "cancelled while it waits":
        task = asyncio.create_task(asked)
        await idle(3)
        task.cancel("why")
        with pytest.raises(asyncio.CancelledError, match="why"):
            await task
    elif way == "cancelled when its result is on its way":
        task = asyncio.create_task(asked)
        await idle(3)
        doors.open("a")
        await idle(2)  # the item ended in the first of these turns, and its Task's callback was called in the second
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    elif way == "closed while it waits":
        stepped(asked)
        await idle(3)
        asked.close()
    elif way == "thrown into while it waits":
        stepped(asked)
        await idle(3)
        with pytest.raises(KeyError):
            asked.throw(KeyError())
    elif way == "thrown into, a cancellation, before its first step":
        with pytest.raises(asyncio.CancelledError):
            asked.throw(asyncio.CancelledError())
    elif way == "thrown into, an error, before its first step":
        with pytest.raises(KeyError):
            asked.throw(KeyError())
    elif way == "closed before its first step":
        asked.close()
    else:
        with pytest.warns(RuntimeWarning, match=r"coroutine 'AsCompleted\.__next__' was never awaited"):
            del asked


@EACH_LOOP
@pytest.mark.parametrize("way", WAYS_OF_GIVING_UP)
def test_a_coroutine_of_the_plain_loop_that_is_given_up_while_it_could_go_on_loses_nothing(impl, way, loop):
    async def main():
        trace = Trace()
        doors = Doors(trace)
        iterator = impl.as_completed([doors("a"), doors("b")])
        first, last = next(iterator), next(iterator)
        assert next(iterator, "no more") == "no more"
        holder = [first]
        del first
        await gives_up(holder.pop(), doors, way)
        await idle(3)
        doors.open(list(doors.futures))
        await loop(trace, iterator)
        trace(f"last={await last}")
        return " ".join(event for event in trace.events if "=" in event or event == "over")

    assert run(main) == ("=a over last=b" if WAYS_OF_GIVING_UP[way] else "over last=a")


@EACH_LOOP
@pytest.mark.parametrize("way", [way for way in WAYS_OF_GIVING_UP if "dropped" not in way])
def test_a_consumer_that_is_cancelled_loses_nothing(impl, way, loop):
    """Its claim is made in its first step."""

    async def main():
        trace = Trace()
        doors = Doors(trace)
        iterator = impl.as_completed([doors("a"), doors("b")])
        await gives_up(anext(iterator), doors, way)
        opens = asyncio.get_running_loop().call_later(1, lambda: doors.open(list(doors.futures)))
        await loop(trace, iterator)
        opens.cancel()
        return " ".join(event for event in trace.events if "=" in event or event == "over")

    assert run(main) == "=a =b over"


def test_all_coroutines_may_be_taken_first_and_give_their_results_in_the_order_of_asking(impl):
    async def main():
        trace = Trace()

        async def asks(name, coroutine):
            trace(f"{name}={await coroutine}")

        iterator = impl.as_completed(coroutines(trace, "a3 b1 c2"), limit=3)
        one, two, three = iterator
        assert list(iterator) == []
        tasks = [asyncio.create_task(asks(*pair)) for pair in [("three", three), ("one", one), ("two", two)]]
        await asyncio.wait(tasks)
        return " ".join(event for event in trace.events if "=" in event)

    assert run(main) == "three=b one=c two=a"


def test_both_loops_may_share_it(impl):
    async def main():
        trace = Trace()
        doors = Doors(trace)
        iterator = impl.as_completed(map(doors, "abcde"))  # taken whole by the first next()
        first = next(iterator)
        waits = [asyncio.create_task(anext(iterator)), asyncio.create_task(next(iterator))]
        await idle(3)
        assert sorted(doors.futures) == list("abcde")
        doors.open("edcba")
        trace(f"={came_to(await waits[0])} ={await waits[1]}")
        async for future in iterator:
            trace(f"={came_to(future)}")
            break
        await loop_plain(trace, iterator)
        trace(f"={await first}")
        await loop_async(trace, iterator)
        return " ".join(event for event in trace.events if "=" in event or event == "over")

    assert run(main) == "=e =d =c =b over =a over"


def test_of_more_consumers_than_there_are_items_the_last_are_told_the_end_at_once(impl):
    async def main():
        doors = Doors(Trace())
        iterator = impl.as_completed([doors("a"), doors("b")], limit=1)
        waits = [asyncio.create_task(anext(iterator)) for _ in range(2)]
        await idle(3)
        for _ in range(3):
            with pytest.raises(StopAsyncIteration):
                anext(iterator).send(None)
            assert next(iterator, "no more") == "no more"
        waits[0].cancel()
        await idle(2)
        again = next(iterator)
        assert next(iterator, "no more") == "no more"
        doors.open("a")
        assert came_to(await waits[1]) == "a"
        doors.open("b")
        assert await again == "b"
        assert await anext(iterator, "over") == "over"

    run(main)


def test_lazily_they_are_told_when_all_is_over(impl):
    async def main():
        doors = Doors(Trace())
        iterator = impl.as_completed(map(doors, "ab"), limit=1)
        waits = [asyncio.create_task(anext(iterator, "over")) for _ in range(4)]
        await idle(5)
        assert not any(task.done() for task in waits)
        doors.open("a")
        await idle(5)
        doors.open("b")
        first, second, *rest = await asyncio.gather(*waits)
        return [came_to(first), came_to(second), *rest]

    assert run(main) == ["a", "b", "over", "over"]


@pytest.mark.parametrize("kind", ["async for", "for"])
def test_a_break_while_it_is_held_is_a_pause(impl, kind):
    async def main():
        trace = Trace()
        iterator = impl.as_completed(coroutines(trace, "a b c"), limit=1)
        if kind == "for":
            for asked in iterator:
                trace(f"={await asked}")
                break
        else:
            async for future in iterator:
                trace(f"={came_to(future)}")
                break
        await idle(9)
        trace("pause")
        await LOOPS["plain" if kind == "for" else "async"](trace, iterator)
        return " ".join(event for event in trace.events if event[0] not in "+-")

    assert run(main) == "=a pause =b =c over"


@EACH_LOOP
def test_the_end_is_told_again_and_again(impl, loop):
    async def main():
        iterator = impl.as_completed(coroutines(Trace(), "a b"), limit=1)
        await loop(Trace(), iterator)
        for _ in range(3):
            with pytest.raises(StopIteration):
                next(iterator)
            with pytest.raises(StopAsyncIteration):
                await anext(iterator)

    run(main)


def test_a_coroutine_is_awaited_once(impl):
    async def main():
        iterator = impl.as_completed(coroutines(Trace(), "a b"))
        for ask in (lambda: next(iterator), lambda: anext(iterator)):
            asked = ask()
            await asked
            with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
                await asked
        assert next(iterator, "no more") == "no more"

    run(main)


# When it begins


@EACH_LOOP
def test_nothing_happens_before_the_first_step(impl, loop):
    class Untouched:
        def __iter__(self):
            trace("iter")
            return iter(coroutines(trace, "a"))

    trace = Trace()

    async def main():
        iterator = impl.as_completed(Untouched())
        await idle(3)
        assert aiter(iterator) is iter(iterator) is iterator
        async with iterator as entered:
            assert entered is iterator
            asked = anext(iterator)
            await idle(3)
            assert trace.events == []
            asked.close()
            trace.start()
            await loop(trace, iterator)
            trace.stop()
        return trace.turns

    assert run(main) == ["iter", "+a", "-a", "", "=a over"]


def test_next_begins_it_at_once_and_its_items_start_in_the_next_turn(impl):
    async def main():
        trace = Trace()
        trace.start()
        iterator = impl.as_completed(made(trace, "a1 b1"), limit=1)
        asked = next(iterator)
        trace("next")
        await idle(9)
        trace.stop()
        asked.close()
        return trace.turns[:4]

    assert run(main) == ["?a ?b end next", "+a", "-a +b", "-b"]


def test_next_needs_a_loop_that_need_not_run(impl):
    async def main():
        return "main"

    with asyncio.Runner() as runner:
        runner.run(main())
        loop = runner.get_loop()
        asyncio.set_event_loop(loop)
        try:
            trace = Trace()
            future = loop.create_future()
            loop.call_soon(future.set_result, "f")
            iterator = impl.as_completed([*coroutines(trace, "a2"), future])
            asked = list(iterator)
            assert [runner.run(one) for one in asked] == ["f", "a"]
        finally:
            asyncio.set_event_loop(None)


@pytest.mark.parametrize("kind", ["next", "anext"])
def test_without_a_loop_it_cannot_begin(impl, kind):
    asyncio.set_event_loop(None)
    aws = coroutines(Trace(), "a")
    iterator = impl.as_completed(aws)
    with pytest.raises(RuntimeError, match=r"no current event loop|no running event loop"):
        next(iterator) if kind == "next" else anext(iterator).send(None)
    aws[0].close()


def test_it_belongs_to_the_loop_of_its_first_step(impl):
    trace = Trace()
    doors = Doors(trace)

    async def first():
        assert came_to(await anext(iterator)) == "a"

    async def second():
        for use in (next, anext, impl.AsCompleted.aclose, lambda one: one.__aexit__(None, None, None)):
            with pytest.raises(RuntimeError, match="belongs to a different event loop"):
                await use(iterator)

    async def third():
        doors.open("bc")
        await loop_async(trace, iterator)

    with asyncio.Runner() as one, asyncio.Runner() as other:
        iterator = impl.as_completed([*coroutines(trace, "a0"), *map(doors, "bcd")])
        one.run(first())
        other.run(second())
        doors.futures["d"].set_result(None)
        one.run(third())
    assert trace.events[-1] == "over"
    assert "=b" in trace.events


@EACH_LOOP
def test_it_is_passed_to_and_awaited_by_asyncio_s_own_tools(impl, loop):
    async def main():
        iterator = impl.as_completed(coroutines(Trace(), "a1 b2 c3 d4"))
        if loop is loop_plain:
            assert await asyncio.wait_for(next(iterator), 1) == "a"
            assert await asyncio.create_task(next(iterator)) == "b"
            assert await asyncio.gather(*iterator) == ["c", "d"]
        else:
            assert (await asyncio.wait_for(anext(iterator), 1)).result() == "a"
            assert (await asyncio.create_task(anext(iterator))).result() == "b"
            assert [came_to(task) async for task in iterator] == ["c", "d"]
            assert await anext(iterator, "no more") == "no more"

    run(main)


@EACH_LOOP
@pytest.mark.parametrize("limit", [1, 2, None])
def test_waiting_with_a_timeout_loses_nothing(impl, limit, loop):
    async def main():
        doors = Doors(Trace())
        iterator = impl.as_completed([doors("a"), doors("b")], limit=limit)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(next(iterator) if loop is loop_plain else anext(iterator), 0.001)
        trace = Trace()
        consumer = asyncio.create_task(loop(trace, iterator))
        for name in "ab":
            doors.open(name)
            await idle(6)
        await consumer
        return " ".join(trace.events)

    assert run(main) == "=a =b over"


def test_functools_partial_of_it_is_the_call(impl):
    """Arguments by position and by name."""

    async def main():
        call = functools.partial(impl.as_completed, limit=1, timeout=None)
        assert [came_to(task) async for task in call(aws=coroutines(Trace(), "a b"))] == ["a", "b"]
        assert [await asked for asked in call(coroutines(Trace(), "a b"))] == ["a", "b"]

    run(main)
