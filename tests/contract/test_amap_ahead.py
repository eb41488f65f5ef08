"""Who asks a Stream for a result that is not there has started, in its own step, what has room: as the plain loop does it.

The first items of a Stream start in a turn of their own, as those of a gathering. Later on a consumer that asks takes the next pass
upon itself, until the slice of the turn is used up; and that of whoever waits already is left to the event loop.
"""

import asyncio
import contextvars

import pytest

from contract_tools import Trace
from scenarios import stubborn
from stream_tools import consume, doing, drawn, run

VARIABLE = contextvars.ContextVar("VARIABLE", default="default")
ORDERED = pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])


@pytest.fixture
def clock(impl):
    """Each reading of the clock takes `clock.step` seconds."""

    class Clock:
        now = step = 0.0

        def __call__(self):
            self.now += self.step
            return self.now

    clock = Clock()
    impl._set_clock(clock)
    yield clock
    impl._set_clock(None)


async def turns_of(impl, words, **options):
    trace = Trace()
    trace.start()
    await consume(trace, impl.amap(doing(trace), drawn(trace, words), **options))
    trace.stop()
    return trace.turns


@ORDERED
def test_items_that_do_not_suspend_cost_no_turn_of_the_loop(impl, ordered, clock):
    turns = run(lambda: turns_of(impl, "a0 b0 c0 d0", limit=1, buffersize=0, ordered=ordered))
    assert turns == ["", "?a +a -a", "=a ?b +b -b =b ?c +c -c =c ?d +d -d =d end over"]


def test_what_suspends_starts_in_the_step_in_which_it_is_wanted(impl, clock):
    turns = run(lambda: turns_of(impl, "a0 b2 c0 d0 e0", limit=1, buffersize=1))
    assert turns == ["", "?a +a -a ?b +b", "=a", "-b ?c +c -c", "=b =c ?d +d -d ?e +e -e =d =e end over"]


def test_all_passes_of_a_turn_share_one_slice(impl, clock):
    clock.step = 0.0003
    turns = run(lambda: turns_of(impl, "a0 b0 c0 d0 e0 f0 g0 h0 i0 j0 k0 l0", limit=1, buffersize=0))
    ahead = ["=a ?b +b -b =b ?c +c -c =c ?d +d -d =d", "=e ?f +f -f =f ?g +g -g =g ?h +h -h =h"]
    rest = "=i ?j +j -j =j ?k +k -k =k ?l +l -l =l"
    assert turns == ["", "?a +a -a", ahead[0], "?e +e -e", ahead[1], "?i +i -i", rest, "end", "over"]


def test_the_item_has_its_own_task_and_context_and_the_consumer_has_its_own_again(impl):
    async def main():
        consumer = asyncio.current_task()
        seen = []

        async def async_fn(number):
            seen.append((asyncio.current_task() is consumer, VARIABLE.get()))
            VARIABLE.set(f"item {number}")
            if number == 3:
                await asyncio.sleep(0)

        async for _ in impl.amap(async_fn, range(5), limit=1, buffersize=0):
            assert asyncio.current_task() is consumer
            VARIABLE.set("the consumer's")
        assert VARIABLE.get() == "the consumer's"
        assert seen == [(False, "default")] * 5

    run(main)


def test_where_somebody_else_waits_already_the_loop_starts_what_is_next(impl, clock):
    async def main():
        trace = Trace()

        async def consumes(name):
            async for result in stream:
                trace(f"{name}={result}")

        stream = impl.amap(doing(trace), drawn(trace, ["a2", "b0", "c0", "d0", "e0"]), limit=1, buffersize=0)
        trace.start()
        await asyncio.wait([asyncio.create_task(consumes(name)) for name in ("one", "two")])
        trace.stop()
        return trace.turns

    each = ["?b +b -b", "two=b", "?c +c -c", "one=c", "?d +d -d", "two=d", "?e +e -e", "one=e", "end"]
    assert run(main) == ["", "", "?a +a", "", "-a", "one=a", *each]


def test_an_item_s_error_comes_at_once(impl, clock):
    async def main():
        async def async_fn(number):
            if number == 2:
                raise ValueError(number)
            return number

        trace = Trace()
        trace.start()
        await consume(trace, impl.amap(async_fn, range(5), limit=1, buffersize=0))
        trace.stop()
        return trace.turns

    assert run(main) == ["", "", "=0 =1 ValueError(2)"]


@pytest.mark.parametrize("others", [(), ("other",)], ids=["nothing else runs", "another item runs"])
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_the_loop_by_who_asks_and_by_nobody_else(impl, interrupt, others):
    seen = []

    async def async_fn(word):
        if word == "interrupt":
            raise interrupt
        if word == "other":
            await stubborn(3)
        return word

    async def consumes(stream):
        async for result in stream:
            seen.append(result)

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        words = [*others, "a", "b", "interrupt", "c"]
        stream = impl.amap(async_fn, words, limit=1 + len(others), buffersize=0, ordered=False)
        task = loop.create_task(consumes(stream))
        with pytest.raises(interrupt):
            loop.run_until_complete(task)
        assert seen == ["a", "b"]
        assert isinstance(task.exception(), interrupt)

        async def asks():
            return [await anext(stream, "over") for _ in range(3)]

        # What runs has been cancelled, is waited for, and returns in spite of that.
        assert runner.run(asks()) == [*others, *["over"] * 3][:3]
