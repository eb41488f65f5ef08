"""Results come in argument order; items start in argument order, never more of them than the limit."""

import asyncio
import operator

import pytest

from contract_tools import Running, Trace, idle, item, run


def test_no_coroutines_give_an_empty_list_without_a_turn_of_the_loop(impl):
    async def main():
        trace = Trace()
        trace.start()
        for n in (None, 0, 1, 2**80):
            assert await impl.gather_with_concurrency(n) == []
        trace("done")
        trace.stop()
        assert trace.turns == ["done"]

    run(main)


@pytest.mark.parametrize("n", [None, 1, 2, 3, 7, 100, True, 2**62, 2**63, 2**64, 2**80])
def test_results_are_in_argument_order_whatever_the_order_of_ends(impl, n):
    async def main():
        async def ends_after(turns):
            await idle(turns)
            return turns

        turns = [5, 0, 3, 1, 0, 7, 2]
        results = await impl.gather_with_concurrency(n, *map(ends_after, turns))
        assert type(results) is list
        assert results == turns

    run(main)


@pytest.mark.parametrize("n", [None, 1, 2, 5])
@pytest.mark.parametrize("suspends", [False, True])
def test_falsy_and_exceptional_values_are_results_like_any_other(impl, n, suspends):
    async def main():
        values = [None, (), (1,), False, StopIteration(3), ValueError("a value"), [], NotImplemented]

        async def returns(value):
            if suspends:
                await asyncio.sleep(0)
            return value

        results = await impl.gather_with_concurrency(n, *map(returns, values))
        assert len(results) == len(values)
        assert all(map(operator.is_, results, values))

    run(main)


def test_the_first_items_start_one_turn_after_the_await_and_the_others_as_slots_free(impl):
    async def main():
        trace = Trace()
        trace.start()
        trace("await")
        await impl.gather_with_concurrency(2, *(item(trace, name) for name in "abcde"))
        trace("done")
        trace.stop()
        return trace.turns

    # A second one ends in the first turn in which any does: what starts from then on does so in the next turn.
    assert run(main) == ["await", "+a +b", "-a +c -b", "+d -c", "-d +e", "-e", "done"]


def test_without_a_limit_all_items_start_in_one_turn(impl):
    async def main():
        trace = Trace()
        trace.start()
        trace("await")
        await impl.gather_with_concurrency(None, *(item(trace, name, turns) for name, turns in zip("abc", (2, 0, 1))))
        trace("done")
        trace.stop()
        return trace.turns

    assert run(main) == ["await", "+a +b -b +c", "-c", "-a", "done"]


@pytest.mark.parametrize("n", [1, 3, None])
def test_items_that_never_suspend_cost_no_turn(impl, n):
    async def main():
        trace = Trace()
        trace.start()
        await impl.gather_with_concurrency(n, *(item(trace, name, 0) for name in "abcd"))
        trace("done")
        trace.stop()
        return trace.turns

    assert run(main) == ["", "+a -a +b -b +c -c +d -d", "done"]


@pytest.mark.parametrize("n", [1, 2, 5, 9, 30])
def test_never_more_items_than_the_limit_run_at_once_and_the_limit_is_used(impl, n):
    async def main():
        running = Running()

        async def counted(turns):
            with running:
                await idle(turns)

        await impl.gather_with_concurrency(n, *(counted(1 + i * 7 % 5) for i in range(30)))
        assert running.most == n

    run(main)


def test_items_are_not_started_before_their_turn(impl):
    async def main():
        started = []

        async def counted(index):
            started.append(index)
            await asyncio.sleep(0)
            return list(started)

        results = await impl.gather_with_concurrency(1, *map(counted, range(4)))
        assert results == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]

    run(main)


@pytest.mark.parametrize("n", [1, 3, None])
def test_many_items_neither_recurse_nor_get_lost(impl, n):
    async def main():
        async def returns(index):
            return index

        assert await impl.gather_with_concurrency(n, *map(returns, range(5000))) == list(range(5000))

    run(main)


def test_gatherings_nest_in_items_of_gatherings(impl):
    async def main():
        async def leaf(*path):
            await asyncio.sleep(0)
            return path

        async def branch(first):
            return await impl.gather_with_concurrency(2, *(leaf(first, second) for second in range(3)))

        results = await impl.gather_with_concurrency(2, *map(branch, range(3)))
        assert results == [[(first, second) for second in range(3)] for first in range(3)]

    run(main)


def test_a_gathering_is_an_item_of_a_gathering(impl):
    async def main():
        inner = impl.gather_with_concurrency(1, asyncio.sleep(0, 1), asyncio.sleep(0, 2))
        assert await impl.gather_with_concurrency(1, inner, asyncio.sleep(0, 3)) == [[1, 2], 3]

    run(main)


def test_debug_mode_changes_nothing(impl):
    async def main():
        trace = Trace()
        trace.start()
        results = await impl.gather_with_concurrency(2, *(item(trace, name) for name in "abc"))
        trace.stop()
        return results, trace.turns

    expected = (["a", "b", "c"], ["", "+a +b", "-a +c -b", "-c"])
    assert run(main, debug=True) == run(main, debug=False) == expected
