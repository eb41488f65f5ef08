"""With a limit, starting or closing many items gives the loop a turn every millisecond, whether they suspend or not.

That is point 6 of docs/architecture.md.
"""

import asyncio
import inspect
import itertools

import pytest

from contract_tools import Trace, idle, is_closed, item, run
from doors import doors


@pytest.fixture
def clock(impl):
    """A clock that stands still unless told; `clock.step` is how far each reading moves it."""

    class Clock:
        now = 0.0
        step = 0.0
        readings = 0

        def __call__(self):
            now = self.now
            self.now += self.step
            self.readings += 1
            return now

    clock = Clock()
    impl._set_clock(clock)
    return clock


def test_items_that_never_suspend_share_the_loop(impl, clock):
    async def main():
        trace = Trace()

        async def takes(name, seconds):
            clock.now += seconds
            trace(name)

        trace.start()
        await impl.gather_with_concurrency(1, *(takes(name, 0.0005) for name in "abcdefg"))
        trace.stop()
        return trace.turns

    assert run(main) == ["", "a b", "c d", "e f", "g"]


def test_an_item_that_takes_long_is_followed_by_a_turn(impl, clock):
    async def main():
        trace = Trace()

        async def takes(name, seconds):
            clock.now += seconds
            trace(name)

        trace.start()
        await impl.gather_with_concurrency(2, *(takes(*pair) for pair in [("a", 5), ("b", 0), ("c", 0.002), ("d", 0)]))
        trace.stop()
        return trace.turns

    assert run(main) == ["", "a", "b c", "d"]


def test_a_slice_begins_anew_with_the_step_that_frees_a_slot(impl, clock):
    async def main():
        trace = Trace()

        async def suspends(name):
            trace(f"+{name}")
            await asyncio.sleep(0)
            clock.now += 1
            trace(f"-{name}")

        async def takes(name):
            clock.now += 0.0004
            trace(name)

        trace.start()
        await impl.gather_with_concurrency(1, suspends("s"), *(takes(name) for name in "abcdef"))
        trace.stop()
        return trace.turns

    assert run(main) == ["", "+s", "-s a b c", "d e f"]


def test_without_a_limit_no_clock_is_read(impl, clock):
    async def main():
        trace = Trace()

        async def takes(name):
            clock.now += 1
            trace(name)

        trace.start()
        await impl.gather_with_concurrency(None, *map(takes, "abcdef"))
        trace.stop()
        assert clock.readings == 0
        return trace.turns

    assert run(main) == ["", "a b c d e f"]


def test_the_clock_is_read_once_before_each_start(impl, clock):
    async def main():
        async def returns():
            pass

        await impl.gather_with_concurrency(1, *(returns() for _ in range(5)))
        assert clock.readings == 5

    run(main)


def test_closing_a_long_queue_is_sliced_too(impl, clock):
    async def main():
        async def waits():
            await asyncio.get_running_loop().create_future()

        async def never():
            raise AssertionError("it was started")

        queued = [never() for _ in range(7)]
        caller = asyncio.create_task(impl.gather_with_concurrency(1, waits(), *queued))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        clock.step = 0.0005

        closed = []
        caller.cancel()
        closed.append(sum(map(is_closed, queued)))
        while not caller.done() or not all(map(is_closed, queued)):
            await asyncio.sleep(0)
            closed.append(sum(map(is_closed, queued)))
        assert caller.cancelled()
        return closed

    closed = run(main)
    assert closed[0] == 2, "the first slice is synchronous"
    assert closed[-1] == 7
    assert all(later - earlier <= 2 for earlier, later in zip(closed, closed[1:]))


def test_nothing_starts_once_closing_began(impl, clock):
    async def main():
        started = []

        async def swallows():
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                pass

        async def starts():
            started.append(1)

        queued = [starts() for _ in range(9)]
        caller = asyncio.create_task(impl.gather_with_concurrency(1, swallows(), *queued))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        clock.step = 0.001
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        while not all(map(is_closed, queued)):
            await asyncio.sleep(0)
        assert started == []

    run(main)


def test_if_the_loop_never_runs_again_the_rest_is_closed_all_the_same(impl, clock):
    async def never():
        raise AssertionError("it was started")

    async def main():
        queued = [never() for _ in range(20)]
        call = impl.gather_with_concurrency(1, *queued)
        call.send(None)
        clock.step = 0.001
        call.close()
        assert inspect.getcoroutinestate(queued[-1]) == inspect.CORO_CREATED
        return queued

    assert all(map(is_closed, run(main)))


def test_debug_mode_accepts_what_is_given_to_call_soon(impl, clock):
    async def main():
        trace = Trace()

        async def takes(name):
            clock.now += 1
            trace(name)

        trace.start()
        await impl.gather_with_concurrency(1, *map(takes, "abc"))
        trace.stop()
        return trace.turns

    assert run(main, debug=True) == ["", "a", "b", "c"]


def test_without_a_clock_of_the_tests_real_time_counts(impl):
    import time

    async def main():
        trace = Trace()

        async def takes(name):
            end = time.monotonic() + 0.0015
            while time.monotonic() < end:
                pass
            trace(name)

        trace.start()
        await impl.gather_with_concurrency(1, *map(takes, "abc"))
        trace.stop()
        return trace.turns

    impl._set_clock(None)
    turns = run(main)
    assert " ".join(turns).split() == ["a", "b", "c"]
    assert len(turns) > 2, "they did not all run in one turn"


def takes_half_a_slice(trace, clock):
    async def takes(name):
        clock.now += 0.0006
        trace(name)

    return takes


def test_items_that_end_in_one_turn_share_the_slice_of_the_next(impl, clock, full_turns):
    async def main():
        trace = Trace()
        takes = takes_half_a_slice(trace, clock)
        trace.start()
        await impl.gather_with_concurrency(3, *(item(trace, name) for name in "rst"), *map(takes, "abcdefgh"))
        trace.stop()
        return trace.turns

    assert run(main) == ["", "+r +s +t", "-r -s -t", "a b", "c d", "e f", "g h"]


def test_where_ends_are_counted_each_has_a_slice_of_its_own(impl, clock):
    async def main():
        trace = Trace()

        async def takes(name):
            clock.now += 0.001
            trace(name)

        trace.start()
        items = item(trace, "q", 99), *(item(trace, name, 66) for name in "rst"), *(item(trace, "x") for _ in range(65))
        await impl.gather_with_concurrency(5, *items, *map(takes, "abcdef"))
        trace.stop()
        return trace.turns[66:70]

    assert run(main) == ["-x a", "-r b -s c -t d e", "f", ""]


STATES = {"full": 0, "unknown": 0, "sparse": 2, "counted": 1 + 64}
"""Turns are in that state when so many items have ended one by one, in a turn each."""


@pytest.mark.parametrize("state", STATES)
def test_ends_while_the_next_pass_is_scheduled_because_a_slice_is_over(impl, clock, state):
    """They are left to it; but where they are counted, each starts one item, as does any other pass of that turn."""
    number = STATES[state]
    impl._set_full_turns(state == "full")

    async def main():
        trace = Trace()
        takes = takes_half_a_slice(trace, clock)
        trace.start()
        rs = [item(trace, name, number + 1) for name in "rs"]
        await impl.gather_with_concurrency(
            4, item(trace, "q", 99), *rs, *(item(trace, "x") for _ in range(number)), *map(takes, "abcdefgh")
        )
        trace.stop()
        return trace.turns[number + 1 :][:4]

    first = "-x a b" if number else "+q +r +s a b"
    if state == "counted":
        assert run(main) == [first, "-r c -s d e f", "g h", ""]
    elif state == "unknown":  # until the second
        assert run(main) == [first, "-r c -s d e", "f g", "h"]
    else:
        assert run(main) == [first, "-r -s c d", "e f", "g h"]


def test_a_slot_that_frees_after_the_slice_of_a_turn_is_taken_in_the_next(impl, clock, full_turns):
    async def main():
        trace = Trace()
        takes = takes_half_a_slice(trace, clock)
        trace.start()
        items = item(trace, "r", 1), item(trace, "s", 2), item(trace, "t", 3)
        await impl.gather_with_concurrency(3, *items, *map(takes, "abcdefgh"))
        trace.stop()
        return trace.turns

    # The pass in which a and b start is scheduled when r ends, and s ends behind it.
    assert run(main) == ["", "+r +s +t", "-r", "a b -s", "c d -t", "e f", "g h"]


def test_turns_become_sparse_in_a_pass_whose_slice_ends_while_others_wait_for_it(impl, clock, full_turns):
    """As Tasks that are to be used again do: none is left behind."""

    async def main():
        trace = Trace()
        takes = takes_half_a_slice(trace, clock)
        trace.start()
        first = [item(trace, name, turns) for name, turns in zip("qabcrstu", [9, 1, 2, 3, 4, 4, 4, 5])]
        await impl.gather_with_concurrency(8, *first, *(item(trace, name, 9) for name in "xyz"), *map(takes, "defghi"))
        trace.stop()
        await idle(2)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return trace.turns[2:10]

    # The fourth pass, in which d and e start, is for three ends: six in all, which is fewer than eight.
    assert run(main) == ["-a", "+x -b", "+y -c", "+z -r -s -t", "d e -u", "f g", "h i", ""]


def numbers_of_starts(impl, clock, door, suspends):
    """How many of a thousand items start in each turn; each takes 0.3 ms before it suspends, and there is room for all."""

    async def main():
        trace = Trace()
        all_have_begun = asyncio.get_running_loop().create_future()
        begun = itertools.count(1)

        async def begins():
            clock.now += 0.0003
            trace("+")
            if next(begun) == 1000:
                all_have_begun.set_result(None)
            await suspends(all_have_begun)

        trace.start()
        await doors(impl)[door](1000, [begins] * 1000)
        trace.stop()
        return [len(turn.split()) for turn in trace.turns]

    return run(main)


SOME_DOORS = ["gather", "gather_with_concurrency", "run_all"]


@pytest.mark.parametrize("door", SOME_DOORS)
@pytest.mark.parametrize("full", [False, True])
def test_a_thousand_items_that_wait_start_in_slices(impl, clock, door, full):
    impl._set_full_turns(full)

    async def suspends(all_have_begun):
        await all_have_begun

    assert numbers_of_starts(impl, clock, door, suspends) == [0] + [4] * 250


@pytest.mark.parametrize("door", SOME_DOORS)
def test_a_thousand_items_that_end_in_the_next_turn_start_in_slices(impl, clock, door):
    async def suspends(all_have_begun):
        await asyncio.sleep(0)

    # The first end is counted, and starts one item; the pass of that turn starts four. All others wait for a pass.
    assert numbers_of_starts(impl, clock, door, suspends) == [0, 4, 5] + [4] * 247 + [3]


@pytest.mark.parametrize("door", SOME_DOORS)
def test_a_thousand_items_that_end_in_the_next_turn_start_in_slices_where_turns_are_full(impl, clock, door, full_turns):
    async def suspends(all_have_begun):
        await asyncio.sleep(0)

    assert numbers_of_starts(impl, clock, door, suspends) == [0] + [4] * 250
