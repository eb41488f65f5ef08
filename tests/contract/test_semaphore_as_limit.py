"""A Semaphore of ours as the limit of a call: it counts as a number does, and first come, first served with all its other users."""

import asyncio
import operator

import pytest

from contract_tools import HAS_EAGER_TASKS, Trace, idle, item, run, two_argument_factory
from semaphore_tools import (
    FROM_ITERABLES,
    KINDS,
    WAYS,
    Gate,
    Opened,
    all_is_over,
    collected,
    each,
    functions_of,
    held,
    user,
)
from stream_tools import doing, drawn
from virtual_time import VirtualTimeLoop

EACH_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
is_async = {way: name.endswith("async") for name, way in WAYS.items()}
EACH_OF_ITERABLES = pytest.mark.parametrize("way", FROM_ITERABLES.values(), ids=FROM_ITERABLES)


# Alone


@EACH_WAY
@EACH_KIND
def test_it_gives_the_results_and_all_slots_come_back(impl, way, kind):
    async def main():
        s = getattr(impl, kind)(2)
        assert sorted(await way(impl, s, functions_of(Trace(), "abcde"))) == [*"abcde"]
        await all_is_over(s, slots=2)

    run(main)


async def turns_of(way, impl, limit, words):
    trace = Trace()
    trace.start()
    await way(impl, limit, functions_of(trace, words))
    trace("over")
    trace.stop()
    return trace.turns


def without_the_end(turns):
    """When there is no slot, the end of a source is found all the same: so the call may be over before one with a number."""
    turns = [turn.removesuffix("over").rstrip() for turn in turns]
    while turns and not turns[-1]:
        turns.pop()
    return turns


@EACH_OF_ITERABLES
@pytest.mark.parametrize("number", [1, 2, 3, 9])
@pytest.mark.parametrize("words", ["a b c d e f", "a0 b0 c2 d0 e1 f0", "a3 b1 c1 d2 e3 f1 g1 h2", "a0 b0 c0 d0"])
def test_where_nobody_else_uses_it_turns_are_those_of_the_number(impl, any_turns, way, number, words):
    async def main():
        actual = await turns_of(way, impl, impl.Semaphore(number), words)
        expected = await turns_of(way, impl, number, words)
        assert without_the_end(actual) == without_the_end(expected)
        assert len(actual) <= len(expected)

    run(main)


@pytest.mark.parametrize("way", ["run_all, async", "amap, async"])
@pytest.mark.parametrize("number", [1, 2, 3, 9])
@pytest.mark.parametrize("words", ["a b c d e f", "a0 b0 c2 d0 e1 f0", "a3 b1 c1 d2 e3 f1 g1 h2", "a0 b0 c0 d0"])
def test_over_an_async_source_it_is_no_slower_than_the_number(impl, any_turns, way, number, words):
    """The source is asked for one element while there is no slot."""

    async def main():
        actual = await turns_of(WAYS[way], impl, impl.Semaphore(number), words)
        expected = await turns_of(WAYS[way], impl, number, words)
        assert len(actual) <= len(expected)
        starts = [event for turn in actual for event in turn.split() if event[0] == "+"]
        assert starts == [event for turn in expected for event in turn.split() if event[0] == "+"]

    run(main)


@EACH_WAY
@EACH_KIND
def test_an_item_holds_one_slot_from_its_start_to_its_end(impl, any_turns, way, kind):
    async def main():
        s = getattr(impl, kind)(3)
        items = Opened("abcdef")
        task = asyncio.ensure_future(way(impl, s, items.functions))
        assert (await items.rest(), s._value, s.locked()) == ("abc", 0, True)
        assert await items.open("b") == "acd"
        assert await items.open("acd") == "ef"
        assert (s._value, s.locked()) == (1, False)
        assert (await items.open("e"), s._value) == ("f", 2)
        await items.open("f")
        assert sorted(await task) == [*"abcdef"]
        await all_is_over(s, slots=3)

    run(main)


@EACH_WAY
def test_two_calls_share_its_slots(impl, any_turns, way):
    async def main():
        s = impl.Semaphore(3)
        first, second = Opened("abc"), Opened("def")
        tasks = [asyncio.ensure_future(way(impl, s, items.functions)) for items in (first, second)]
        await first.rest()
        while first.running or second.running:
            assert s._value == 3 - len(first.running + second.running)
            if len(first.ended + second.ended) < 4:
                assert s._value == 0
            one = first if first.running else second
            await one.open(one.running[0])
        assert sorted(sum([await task for task in tasks], [])) == [*"abcdef"]
        await all_is_over(s, slots=3)

    run(main)


@EACH_WAY
def test_a_slot_is_back_before_anybody_hears_of_the_result(impl, way):
    async def main():
        s = impl.BoundedSemaphore(1)
        await way(impl, s, functions_of(Trace(), "a"))
        assert s._value == 1 and not s.locked()

    run(main)


def test_a_slot_is_back_when_a_stream_gives_the_result(impl):
    async def main():
        s = impl.Semaphore(2)
        seen = []
        async for result in impl.amap(doing(Trace()), ["a1", "b3"], limit=s):
            seen.append((result, s._value))
        assert seen == [("a", 1), ("b", 2)]
        seen = []
        async for task in impl.as_completed(functions_made("a1 b3"), limit=s):
            seen.append((task.result(), s._value))
        assert seen == [("a", 1), ("b", 2)]

    def functions_made(words):
        return [function() for function in functions_of(Trace(), words)]

    run(main)


@EACH_WAY
def test_many_items_that_never_suspend(impl, way):
    async def main():
        s = impl.Semaphore(2)
        assert len(await way(impl, s, functions_of(Trace(), "a" * 500, turns=0))) == 500
        await all_is_over(s, slots=2)

    run(main)


@EACH_WAY
def test_no_items(impl, way):
    async def main():
        for slots in (0, 2):
            s = impl.Semaphore(slots)
            assert await way(impl, s, []) == [], "its end is found without a slot"
            await all_is_over(s, slots=slots)

    run(main, loop_factory=VirtualTimeLoop)


# In the queue


@EACH_WAY
@EACH_KIND
def test_while_it_waits_there_is_one_entry_in_the_queue_and_no_task(impl, any_turns, way, kind):
    async def main():
        s = getattr(impl, kind)(1)
        await s.acquire()
        items = Opened("abcd")
        task = asyncio.ensure_future(way(impl, s, items.functions))
        await idle(5)
        others = asyncio.all_tasks() - {asyncio.current_task(), task}
        assert len(others) <= 1 + is_async[way], "the keeper, and the Task of an async source"
        assert len(s._waiters) == 1
        assert items.begun == []
        s.release()
        await idle(3)
        assert items.running == "a"
        assert len(s._waiters) == 1
        for name in "abcd":
            await items.open(name)
        assert sorted(await task) == [*"abcd"]
        await all_is_over(s, slots=1)

    run(main)


@EACH_OF_ITERABLES
@pytest.mark.parametrize("how", ["async with", "acquire", "gated_coro"])
def test_it_is_first_come_first_served_with_one_place_for_the_next_item(impl, any_turns, way, how):
    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        await s.acquire()
        tasks = []

        async def begin(awaitable):
            tasks.append(asyncio.ensure_future(awaitable))
            await idle(4)

        await begin(user(trace, s, "a", 4, how, impl))
        await begin(way(impl, s, functions_of(trace, "123", turns=4)))
        await begin(user(trace, s, "b", 4, how, impl))
        await begin(user(trace, s, "c", 4, how, impl))
        s.release()
        for task in tasks:
            await task
        await all_is_over(s, slots=1)
        return " ".join(event for event in trace.events if event[0] == "+")

    assert run(main) == "+a +1 +b +c +2 +3"


@EACH_WAY
def test_two_calls_take_turns(impl, any_turns, way):
    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        tasks = []
        for names in ("abc", "xyz"):
            tasks.append(asyncio.ensure_future(way(impl, s, functions_of(trace, names, turns=4))))
            await idle(3)
        for task in tasks:
            await task
        await all_is_over(s, slots=1)
        return " ".join(event for event in trace.events if event[0] == "+")

    assert run(main) == "+a +b +x +c +y +z"


@EACH_OF_ITERABLES
def test_handed_a_slot_it_goes_on_in_the_turn_in_which_a_task_would(impl, any_turns, way):
    async def turns(waits):
        trace = Trace()
        s = impl.Semaphore(1)
        await s.acquire()
        task = asyncio.ensure_future(waits(trace, s))
        await idle(4)
        trace.start()
        s.release()
        assert s._value == 0 and s.locked()
        await task
        trace.stop()
        return trace.turns

    async def main():
        expected = ["", "+a", "-a"]
        assert await turns(lambda trace, s: user(trace, s, "a")) == expected
        assert await turns(lambda trace, s: way(impl, s, functions_of(trace, "a"))) == expected

    run(main)


@EACH_WAY
def test_who_comes_between_the_release_and_that_turn_takes_nothing_from_it(impl, any_turns, way):
    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        await s.acquire()
        tasks = [asyncio.ensure_future(way(impl, s, functions_of(trace, "a", turns=9)))]
        await idle(4)
        s.release()
        assert s._value == 0 and s.locked()
        tasks.append(asyncio.ensure_future(user(trace, s, "b")))
        assert not await_at_once(s)
        await asyncio.gather(*tasks)
        await all_is_over(s, slots=1)
        return " ".join(trace.events)

    assert run(main) == "+a -a +b -b"


def await_at_once(s):
    """Whether a slot is free for whoever comes now."""
    coroutine = s.acquire()
    try:
        coroutine.send(None)
    except StopIteration:
        return True
    coroutine.close()
    return False


@EACH_WAY
def test_when_the_last_of_several_slots_is_handed_over_all_are_used_in_one_pass(impl, way):
    async def main():
        s = impl.Semaphore(3)
        for _ in range(3):
            await s.acquire()
        items = Opened("abcd")
        task = asyncio.ensure_future(way(impl, s, items.functions))
        await idle(4)
        for _ in range(3):
            s.release()
        assert s._value == 2
        assert await items.rest() == "abc"
        await items.open("abc")
        await items.open("d")
        await task
        await all_is_over(s, slots=3)

    run(main)


def test_while_there_is_no_slot_one_element_is_drawn_and_no_more(impl):
    """So the end of a source is found without a slot."""

    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        await s.acquire()
        task = asyncio.ensure_future(collected(impl.amap(doing(trace), drawn(trace, "a b c"), limit=s)))
        await idle(5)
        assert trace.events == ["?a"]
        s.release()
        assert await task == ["a", "b", "c"]
        return " ".join(trace.events)

    assert run(main) == "?a +a ?b -a +b ?c -b +c end -c"


def test_a_free_slot_that_its_own_item_gives_back_goes_to_who_waited_longer(impl, any_turns):
    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        call = impl.gather(*[item(trace, name, 3) for name in "ab"], limit=s)
        await idle(2)
        assert trace.events == ["+a"]
        first = asyncio.ensure_future(user(trace, s, "x"))  # behind "b"
        await idle(1)
        await call
        await first
        return " ".join(trace.events)

    assert run(main) == "+a -a +b -b +x -x"


# Whoever makes the Tasks


@EACH_WAY
@pytest.mark.parametrize("factory", ["two arguments", "eager"])
def test_with_a_task_factory(impl, any_turns, way, factory):
    if factory == "eager" and not HAS_EAGER_TASKS:
        pytest.skip("Tasks can begin at once from 3.12 on")

    async def main():
        make = two_argument_factory if factory == "two arguments" else asyncio.eager_task_factory
        asyncio.get_running_loop().set_task_factory(make)
        trace = Trace()
        s, other = impl.Semaphore(2), impl.Semaphore(1)
        for limit in (s, (10, s), (s, other), (other, s), (s, Gate(trace, "x")), (Gate(trace, "x"), s)):
            task = asyncio.ensure_future(way(impl, limit, functions_of(trace, "a0 b1 c2 d0 e1")))
            user_task = asyncio.ensure_future(user(trace, s, "x", 2))
            assert sorted(await task) == [*"abcde"]
            await user_task
            await all_is_over(s, other, slots=(2, 1))

    run(main)


@pytest.mark.parametrize("number", [1, 2, 3])
@EACH_OF_ITERABLES
def test_with_a_task_factory_turns_are_those_of_the_number(impl, any_turns, way, number):
    async def main():
        asyncio.get_running_loop().set_task_factory(two_argument_factory)
        words = "a2 b0 c1 d1 e3 f0"
        actual = await turns_of(way, impl, impl.Semaphore(number), words)
        assert without_the_end(actual) == without_the_end(await turns_of(way, impl, number, words))

    run(main)


# Futures among the items


async def results_of_all(iterator):
    return [task.result() async for task in iterator]


@pytest.mark.parametrize("row", [lambda s: s, lambda s: (10, s), lambda s: (s, asyncio.Semaphore(1))])
@pytest.mark.parametrize("way", ["gather", "as_completed"])
def test_a_future_holds_a_slot_until_it_is_done(impl, any_turns, way, row):
    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        future = asyncio.get_running_loop().create_future()
        items = [future, item(trace, "a")]
        if way == "gather":
            task = impl.gather(*items, limit=row(s))
        else:
            task = asyncio.ensure_future(results_of_all(impl.as_completed(items, limit=row(s))))
        await idle(5)
        assert (s._value, trace.events) == (0, [])
        future.set_result("f")
        assert await task == ["f", "a"]
        await all_is_over(s, slots=1)

    run(main)


def test_a_future_that_is_done_among_the_items(impl, any_turns):
    async def main():
        s = impl.Semaphore(1)
        done = asyncio.get_running_loop().create_future()
        done.set_result("f")
        trace = Trace()
        assert await impl.gather(item(trace, "a"), done, item(trace, "b"), limit=s) == ["a", "f", "b"]
        assert await impl.gather(done, done, limit=s) == ["f", "f"]
        assert sorted(await results_of_all(impl.as_completed([done, item(trace, "a")], limit=s))) == ["a", "f"]
        await all_is_over(s, slots=1)

    run(main)


# A stream's window, and progress


def test_it_says_nothing_of_the_window(impl):
    """As for any gate, so many results may wait as buffersize says, and one; or 101."""

    async def main():
        async def same(number):
            return number

        asked = []
        counts = {}
        for options, most in (({}, 102), ({"buffersize": 4}, 6)):
            for s in (impl.Semaphore(50), asyncio.Semaphore(50)):
                asked.clear()
                numbers = (asked.append(number) or number for number in range(300))
                async with impl.amap(same, numbers, limit=s, **options) as stream:
                    await anext(stream)
                    await idle(50)
                    counts[type(s)] = len(asked)
                    assert s._value == 50
            assert counts == dict.fromkeys([impl.Semaphore, asyncio.Semaphore], most)

    run(main)


def test_when_the_window_is_full_it_holds_no_slot_and_no_place_in_the_queue(impl):
    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        stream = impl.amap(doing(trace), ["a", "b", "c", "d"], limit=s, buffersize=1)
        assert await anext(stream) == "a"
        await idle(9)
        begun = len(trace.events)
        assert not s.locked() and s._value == 1
        assert not s._waiters
        await user(trace, s, "x")
        assert len(trace.events) == begun + 2
        assert await collected(stream) == ["b", "c", "d"]
        await all_is_over(s, slots=1)

    run(main)


@pytest.mark.parametrize("way", ["gather", "run_all", "amap"])
def test_progress_is_told_as_with_a_number(impl, way):
    async def main():
        s = impl.Semaphore(2)
        await s.acquire()
        told = []
        functions = functions_of(Trace(), "abcde")
        options = {"limit": s, "progress": told.append}
        if way == "gather":
            await impl.gather(*[function() for function in functions], **options)
        elif way == "run_all":
            await impl.run_all(functions, **options)
        else:
            await collected(impl.amap(operator.call, functions, **options))
        assert sum(told) == 5
        s.release()
        await all_is_over(s, slots=2)

    run(main)


# gated_coro


@EACH_KIND
def test_gated_coro_stands_in_the_same_queue(impl, kind):
    async def main():
        trace = Trace()
        s = getattr(impl, kind)(1)
        tasks = []
        for awaitable in (
            user(trace, s, "a"),
            impl.gated_coro(s, held(trace, "b", 1)),
            user(trace, s, "c", 1, "acquire"),
            impl.gated_coro(s, held(trace, "d", 1)),
            impl.run_all([lambda: held(trace, "e", 1)], limit=s),
        ):
            tasks.append(asyncio.ensure_future(awaitable))
            await asyncio.sleep(0)
        for task in tasks:
            await task
        await all_is_over(s, slots=1)
        return "".join(event[1] for event in trace.events if event[0] == "+")

    order = run(main)
    assert sorted(order) == [*"abcde"]
    assert order[:2] == "ab" and order.index("c") < order.index("d")


async def outside(semaphore, coroutine):
    async with semaphore:
        return await coroutine


@pytest.mark.parametrize("value", [1, 2])
def test_gated_coro_takes_the_turns_of_the_native_form(impl, value):
    async def turns(gated):
        trace = Trace()
        s = impl.Semaphore(value)
        trace.start()
        await asyncio.gather(*(gated(s, item(trace, name, turns)) for name, turns in zip("abcdef", [2, 1, 0, 3, 1, 0])))
        trace.stop()
        return trace.turns

    async def main():
        assert await turns(impl.gated_coro) == await turns(outside)

    run(main)


def test_a_stream_over_an_async_source_of_streams(impl):
    """Each with the same semaphore: the outer one's items wait while the inner one's hold its slots."""

    async def main():
        trace = Trace()
        s = impl.Semaphore(2)
        inner = impl.amap(doing(trace), ["a2", "b1", "c2"], limit=s)

        async def same(name):
            async with held_in(trace, name):
                await idle(2)
            return name

        assert await collected(impl.amap(same, inner, limit=s)) == ["a", "b", "c"]
        assert await impl.run_all(each(functions_of(trace, "xyz")), limit=s) == ["x", "y", "z"]
        await all_is_over(s, slots=2)

    class held_in:
        def __init__(self, trace, name):
            self.trace, self.name = trace, name

        async def __aenter__(self):
            self.trace(f"[{self.name}")

        async def __aexit__(self, *error):
            self.trace(f"{self.name}]")

    run(main)
