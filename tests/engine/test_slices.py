"""With a limit, starting or closing many items gives the loop a turn every millisecond; items that suspend, every ten.

That is point 6 of docs/architecture.md.
"""

import asyncio
import inspect

import pytest

from contract_tools import Trace, is_closed, run


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


def test_items_that_end_in_one_turn_share_the_slice_of_the_next(impl, clock):
    async def main():
        trace = Trace()

        async def suspends(name):
            await asyncio.sleep(0)
            trace(f"-{name}")

        async def takes(name):
            clock.now += 0.0005
            trace(name)

        trace.start()
        await impl.gather_with_concurrency(
            3, *(suspends(name) for name in "rst"), *(takes(name) for name in "abcdefgh")
        )
        trace.stop()
        return trace.turns

    assert run(main) == ["", "", "-r -s -t", "a b", "c d", "e f", "g h"]


def suspending(trace, clock, seconds):
    async def suspends(name):
        clock.now += seconds
        trace(f"+{name}")
        await asyncio.sleep(0)
        trace(f"-{name}")

    return suspends


def test_items_that_suspend_share_the_loop_after_ten_milliseconds(impl, clock):
    async def main():
        trace = Trace()
        suspends = suspending(trace, clock, 0.003)
        trace.start()
        await impl.gather_with_concurrency(10, *map(suspends, "abcdef"))
        trace.stop()
        return trace.turns

    assert run(main) == ["", "+a +b +c +d", "-a -b -c -d +e +f", "-e -f"]


def test_what_suspends_in_an_interval_between_two_readings_makes_it_not_count(impl, clock):
    async def main():
        trace = Trace()
        suspends = suspending(trace, clock, 0.0009)

        async def takes(name):
            clock.now += 0.0006
            trace(name)

        trace.start()
        await impl.gather_with_concurrency(
            10, takes("a"), suspends("r"), suspends("s"), takes("b"), takes("c"), suspends("t"), takes("d")
        )
        trace.stop()
        return trace.turns

    assert run(main) == ["", "a +r +s b", "-r -s c +t d", "-t"]


def test_a_slot_that_frees_after_the_slice_of_a_turn_is_taken_in_the_next(impl, clock):
    async def main():
        trace = Trace()

        async def suspends(name, turns):
            for _ in range(turns):
                await asyncio.sleep(0)
            trace(f"-{name}")

        async def takes(name):
            clock.now += 0.0006
            trace(name)

        trace.start()
        await impl.gather_with_concurrency(
            3, suspends("r", 1), suspends("s", 2), suspends("t", 3), *(takes(name) for name in "abcdefgh")
        )
        trace.stop()
        return trace.turns

    # The pass in which a and b start is scheduled when r ends, and s ends behind it.
    assert run(main) == ["", "", "-r", "a b -s", "c d -t", "e f", "g h"]
