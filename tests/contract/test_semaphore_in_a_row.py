"""A Semaphore of ours in a row of limits: the first context manager of a row is counted, another is entered by the item's own Task."""

import asyncio

import pytest

from contract_tools import Trace, item, run
from semaphore_tools import FROM_ITERABLES, WAYS, Gate, Opened, all_is_over, functions_of

NO_TASK_IS_REUSED = True

EACH_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
EACH_OF_ITERABLES = pytest.mark.parametrize("way", FROM_ITERABLES.values(), ids=FROM_ITERABLES)

ROWS = {
    "(10, s)": (lambda s, gate: (10, s), "+a +b -a -b +c +d -c -d"),
    "(s, 10)": (lambda s, gate: [s, 10], "+a +b -a -b +c +d -c -d"),
    "(1, s)": (lambda s, gate: (1, s), "+a -a +b -b +c -c +d -d"),
    "(s, gate)": (lambda s, gate: (s, gate), "x( +a -a )x x( +b -b )x x( +c -c )x x( +d -d )x"),
    "(gate, s)": (lambda s, gate: (gate, s), "x( +a -a )x x( +b -b )x x( +c -c )x x( +d -d )x"),
    "(s, 10, gate)": (lambda s, gate: (s, 10, gate), "x( +a -a )x x( +b -b )x x( +c -c )x x( +d -d )x"),
}


@pytest.mark.parametrize("row", ROWS)
@EACH_OF_ITERABLES
def test_in_a_row_with_a_number_or_another_gate(impl, full_turns, way, row):
    make, expected = ROWS[row]

    async def main():
        trace = Trace()
        s = impl.Semaphore(2)
        assert sorted(await way(impl, make(s, Gate(trace, "x")), functions_of(trace, "abcd"))) == [*"abcd"]
        await all_is_over(s, slots=2)
        return " ".join(trace.events)

    assert run(main) == expected


@EACH_WAY
def test_first_in_a_row_it_is_counted_and_at_most_one_item_waits_for_the_rest(impl, any_turns, way):
    async def main():
        s, gate = impl.Semaphore(5), asyncio.Semaphore(1)
        items = Opened("abcd")
        task = asyncio.ensure_future(way(impl, (s, gate), items.functions))
        for name in "abc":
            assert await items.rest() == name
            assert (s._value, gate._value) == (3, 0), "one runs, and one waits for the gate"
            await items.open(name)
        assert (await items.rest(), s._value) == ("d", 4)
        await items.open("d")
        await task
        await all_is_over(s, slots=5)
        assert gate._value == 1

    run(main)


@EACH_WAY
def test_behind_another_gate_an_item_waits_for_it_in_its_own_task(impl, any_turns, way):
    async def main():
        s, gate = impl.Semaphore(1), asyncio.Semaphore(5)
        await s.acquire()
        items = Opened("abc")
        task = asyncio.ensure_future(way(impl, (gate, s), items.functions))
        assert await items.rest() == ""
        assert (gate._value, len(s._waiters)) == (4, 1)
        s.release()
        assert await items.rest() == "a"
        assert (gate._value, len(s._waiters)) == (3, 1)
        for name in "abc":
            await items.open(name)
        assert sorted(await task) == [*"abc"]
        await all_is_over(s, slots=1)
        assert gate._value == 5

    run(main)


@EACH_WAY
def test_of_two_the_first_is_counted_and_the_second_entered(impl, any_turns, way):
    async def main():
        first, second = impl.Semaphore(5), impl.Semaphore(2)
        items = Opened("abcde")
        task = asyncio.ensure_future(way(impl, (first, second), items.functions))
        assert await items.rest() == "ab"
        assert (first._value, second._value, len(second._waiters)) == (2, 0, 1)
        assert await items.open("a") == "bc"
        assert (first._value, second._value, len(second._waiters)) == (2, 0, 1)
        assert await items.open("bc") == "de"
        assert (first._value, second._value) == (3, 0)
        await items.open("de")
        assert sorted(await task) == [*"abcde"]
        await all_is_over(first, second, slots=(5, 2))

    run(main)


@EACH_WAY
def test_the_same_one_twice_takes_two_slots_for_an_item(impl, any_turns, way):
    async def main():
        s = impl.Semaphore(4)
        items = Opened("abc")
        task = asyncio.ensure_future(way(impl, (s, s), items.functions))
        # Nobody starts while one waits for the gates; the third may not take its only slot for ever.
        assert (await items.rest(), s._value) == ("ab", 0)
        assert (await items.open("a"), s._value) == ("bc", 0)
        await items.open("bc")
        assert sorted(await task) == [*"abc"]
        await all_is_over(s, slots=4)

    run(main)


@EACH_WAY
def test_a_gated_coro_around_each_item_may_use_the_same_semaphore(impl, way):
    async def main():
        s = impl.Semaphore(3)
        trace = Trace()
        functions = [lambda name=name: impl.gated_coro(s, item(trace, name)) for name in "ab"]
        assert sorted(await way(impl, (1, s), functions)) == ["a", "b"]
        await all_is_over(s, slots=3)

    run(main)
