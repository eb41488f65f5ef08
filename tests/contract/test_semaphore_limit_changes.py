"""The limit of a semaphore is changed while calls and others use it: they follow at once, up and down."""

import asyncio
import itertools

import pytest

from contract_tools import Trace, idle, item, run
from semaphore_tools import FROM_ITERABLES, KINDS, WAYS, Opened, all_is_over, collected, user
from stream_tools import doing, drawn
from virtual_time import VirtualTimeLoop

NO_TASK_IS_REUSED = True

pytestmark = pytest.mark.usefixtures("any_turns")

EACH_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
EACH_OF_ITERABLES = pytest.mark.parametrize("way", FROM_ITERABLES.values(), ids=FROM_ITERABLES)
EACH_KIND = pytest.mark.parametrize("kind", KINDS)


@EACH_WAY
@EACH_KIND
def test_more_and_fewer_items_run_as_the_limit_goes_up_and_down(impl, way, kind):
    async def main():
        s = getattr(impl, kind)(1)
        items = Opened("abcdefghi")
        task = asyncio.ensure_future(way(impl, s, items.functions))
        assert await items.rest() == "a"
        s.limit = 3
        assert (await items.rest(), s._value) == ("abc", 0)
        s.limit = 1
        assert (await items.rest(), s._value, s.locked()) == ("abc", -2, True)
        assert (await items.open("a"), s._value) == ("bc", -1)
        assert (await items.open("b"), s._value) == ("c", 0)
        assert (await items.open("c"), s._value) == ("d", 0)
        s.limit = 0
        assert (await items.rest(), s._value) == ("d", -1)
        assert (await items.open("d"), s._value, s.locked()) == ("", 0, True)
        assert not task.done()
        s.limit = 2
        assert (await items.rest(), s._value) == ("ef", 0)
        s.limit = 20
        assert (await items.rest(), s._value) == ("efghi", 15)
        s.limit = 2
        assert s._value == -3
        await items.open("efghi")
        assert sorted(await task) == [*"abcdefghi"]
        await all_is_over(s, slots=2)

    run(main)


@EACH_OF_ITERABLES
def test_it_follows_in_the_next_turn(impl, way):
    async def main():
        s = impl.Semaphore(1)
        items = Opened("abcd")
        task = asyncio.ensure_future(way(impl, s, items.functions))
        await items.rest()
        s.limit = 3
        assert items.begun == ["a"], "nothing starts in the assignment itself"
        await idle(1)
        assert items.begun == ["a", "b", "c"]
        await items.open("abc")
        await items.open("d")
        await task
        await all_is_over(s, slots=3)

    run(main)


@EACH_WAY
def test_a_limit_of_nothing_pauses_a_call_from_its_beginning(impl, way):
    async def main():
        s = impl.Semaphore(0)
        items = Opened("abc")
        task = asyncio.ensure_future(way(impl, s, items.functions))
        assert await items.rest() == ""
        s.limit = 1
        assert await items.rest() == "a"
        s.limit = 0
        assert await items.open("a") == ""
        s.limit = 5
        assert await items.rest() == "bc"
        await items.open("bc")
        assert sorted(await task) == [*"abc"]
        await all_is_over(s, slots=5)

    run(main)


@EACH_WAY
def test_raised_and_lowered_in_one_step_nobody_is_let_in(impl, way):
    """The slot that had been handed over is counted: the next one to end gives it back."""

    async def main():
        s = impl.Semaphore(1)
        items = Opened("abcd")
        task = asyncio.ensure_future(way(impl, s, items.functions))
        await items.rest()
        s.limit = 2
        s.limit = 1
        assert s._value in (-1, 0)
        await items.rest()
        assert len(items.running) == 1 - s._value <= 2
        await items.open(items.running)
        assert len(items.running) <= 1
        while not task.done():
            assert len(items.running) == 1
            await items.open(items.running)
        assert sorted(await task) == [*"abcd"]
        await all_is_over(s, slots=1)

    run(main)


@EACH_OF_ITERABLES
def test_who_waits_longest_comes_first(impl, way):
    async def main():
        trace = Trace()
        s = impl.Semaphore(0)
        items = Opened("abc")
        first = asyncio.ensure_future(user(trace, s, "x", 40))
        await idle(1)
        task = asyncio.ensure_future(way(impl, s, items.functions))
        await idle(5)
        last = asyncio.ensure_future(user(trace, s, "y", 40))
        await idle(1)
        s.limit = 1
        assert (await items.rest(), trace.events) == ("", ["+x"])
        s.limit = 2
        assert (await items.rest(), trace.events) == ("a", ["+x"])
        s.limit = 3
        assert (await items.rest(), trace.events) == ("a", ["+x", "+y"])
        s.limit = 9
        assert await items.rest() == "abc"
        await items.open("abc")
        await asyncio.gather(task, first, last)
        await all_is_over(s, slots=9)

    run(main)


@EACH_WAY
@pytest.mark.parametrize(
    "row", [lambda s: (10, s), lambda s: (s, asyncio.Semaphore(9)), lambda s: (asyncio.Semaphore(9), s)]
)
def test_in_a_row(impl, way, row):
    async def main():
        s = impl.Semaphore(1)
        items = Opened("abcdef")
        task = asyncio.ensure_future(way(impl, row(s), items.functions))
        assert await items.rest() == "a"
        s.limit = 3
        assert await items.rest() == "abc"
        s.limit = 1
        assert await items.open("a") == "bc"
        assert await items.open("b") == "c"
        assert await items.open("c") == "d"
        s.limit = 0
        assert await items.open("d") == ""
        s.limit = 2
        assert await items.rest() == "ef"
        await items.open("ef")
        assert sorted(await task) == [*"abcdef"]
        await all_is_over(s, slots=2)

    run(main)


@EACH_WAY
def test_extra_releases_let_more_items_in_and_are_kept(impl, way):
    async def main():
        s = impl.Semaphore(1)
        items = Opened("abcdef")
        task = asyncio.ensure_future(way(impl, s, items.functions))
        assert await items.rest() == "a"
        s.release()
        assert (await items.rest(), s.limit) == ("ab", 1)
        s.limit = 2
        assert await items.rest() == "abc"
        await items.open("abc")
        assert await items.rest() == "def"
        await items.open("def")
        await task
        assert s.limit == 2
        await all_is_over(s, slots=3)

    run(main)


def test_an_assigned_value_wakes_nobody_until_the_next_release(impl):
    async def main():
        s = impl.Semaphore(1)
        items = Opened("abcd")
        task = asyncio.ensure_future(impl.gather(*[function() for function in items.functions], limit=s))
        await items.rest()
        s._value = 2
        assert await items.rest() == "a"
        assert await items.open("a") == "bcd"
        await items.open("bcd")
        await task
        await all_is_over(s, slots=3)

    run(main)


@EACH_WAY
def test_its_own_items_change_it(impl, way):
    async def main():
        s = impl.Semaphore(1)
        running = most = 0

        async def changes(number):
            nonlocal running, most
            running += 1
            most = max(most, running)
            await idle(1)
            s.limit = number
            await idle(2)
            running -= 1
            return number

        numbers = [3, 1, 2, 4, 1, 1, 2, 3, 1, 2]
        functions = [lambda number=number: changes(number) for number in numbers]
        assert sorted(await way(impl, s, functions)) == sorted(numbers)
        assert 1 < most <= 4
        await idle(3)
        await all_is_over(s, slots=s.limit)

    run(main)


def test_a_source_that_changes_it_while_it_is_asked(impl):
    async def main():
        trace = Trace()
        s = impl.Semaphore(3)

        def source():
            for word in drawn(trace, "a9 b9 c9 d9"):
                s.limit = 2
                yield word

        results = await collected(impl.amap(doing(trace), source(), limit=s))
        assert results == [*"abcd"]
        await all_is_over(s, slots=2)
        return trace.events

    events = run(main)
    assert events[:4] == ["?a", "+a", "?b", "+b"]
    # The third slot is not there any more when the second item has been drawn.
    assert events.index("-a") < events.index("+c")


@pytest.mark.parametrize("limits", list(itertools.permutations([0, 1, 3], 2)))
def test_of_many_tasks_no_more_hold_a_slot_than_the_limit_allows(impl, limits):
    async def main():
        s = impl.Semaphore(2)
        running = 0
        allowed = 2

        async def one():
            nonlocal running
            async with s:
                running += 1
                assert running <= allowed
                await asyncio.sleep(3)
                running -= 1

        async def function():
            nonlocal running
            running += 1
            assert running <= allowed
            await asyncio.sleep(3)
            running -= 1

        calls = [asyncio.ensure_future(one()) for _ in range(20)]
        calls.append(asyncio.ensure_future(impl.run_all([function] * 20, limit=s)))
        calls += [asyncio.ensure_future(impl.gated_coro(s, function())) for _ in range(20)]
        for limit in [*limits, 1, *limits, 2]:
            await asyncio.sleep(4)
            allowed = max(limit, s.limit)  # the old one, until enough came back
            s.limit = limit
            await asyncio.sleep(4)
            allowed = limit
            assert running <= limit
        await asyncio.gather(*calls)
        await all_is_over(s, slots=2)

    run(main, loop_factory=VirtualTimeLoop)


@EACH_KIND
def test_a_bounded_one_refuses_what_is_beyond_the_limit_as_it_is_now(impl, kind):
    async def main():
        s = getattr(impl, kind)(3)
        items = Opened("abc")
        task = impl.gather(*[function() for function in items.functions], limit=s)
        await items.rest()
        s.limit = 1
        await items.open("abc")
        assert await task == [*"abc"]
        assert s._value == 1
        if kind == "BoundedSemaphore":
            with pytest.raises(ValueError, match="^BoundedSemaphore released too many times$"):
                s.release()
            s.limit = 2
        else:
            s.release()
        assert s._value == 2
        assert await impl.gather(item(Trace(), "a"), limit=s) == ["a"]
        await all_is_over(s, slots=2)

    run(main)
