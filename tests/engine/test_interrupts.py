"""KeyboardInterrupt and SystemExit leave the event loop; run again, the queue goes on.

That is point 10 of docs/architecture.md.
"""

import asyncio
import gc

import pytest

from contract_tools import Trace, failing, idle, is_closed, item, run
from virtual_time import VirtualTimeLoop

pytestmark = pytest.mark.usefixtures("any_turns")

INTERRUPTS = [KeyboardInterrupt, SystemExit]


async def outcome_of(call):
    """Await *call* and return its interrupt, which would leave the loop again if it ended this Task."""
    try:
        return await call
    except (KeyboardInterrupt, SystemExit) as interrupt:
        return interrupt


@pytest.fixture
def loop():
    """An event loop that must have nothing to report."""
    reports = []
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    yield loop
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del loop
    gc.collect()
    assert reports == []


@pytest.mark.parametrize("interrupt", INTERRUPTS)
@pytest.mark.parametrize("turns", [0, 1])
def test_it_leaves_the_loop_and_nothing_more_starts_in_that_step(impl, loop, interrupt, turns):
    trace = Trace()
    queued = [item(trace, name) for name in "bc"]
    error = interrupt("now")
    call = impl.gather_with_concurrency(1, failing(trace, "a", turns, error), *queued)
    caller = loop.create_task(outcome_of(call))
    with pytest.raises(interrupt) as caught:
        loop.run_forever()
    assert caught.value is error
    assert trace.events == ["+a", "!a"]
    assert loop.run_until_complete(caller) is error


FRONTS = {
    "gather_with_concurrency": lambda impl, functions: impl.gather_with_concurrency(1, *[make() for make in functions]),
    "gather": lambda impl, functions: impl.gather(*[make() for make in functions], limit=1),
    "run_all": lambda impl, functions: impl.run_all(functions, limit=1, cancel_on_error=False),
}


@pytest.mark.parametrize("interrupt", INTERRUPTS)
@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize("front", FRONTS)
def test_if_the_loop_is_run_again_the_queue_goes_on(impl, loop, interrupt, turns, front):
    trace = Trace()
    functions = [lambda: item(trace, "a"), lambda: failing(trace, "b", turns, interrupt())]
    functions += [lambda: item(trace, "c"), lambda: item(trace, "d")]

    async def main():
        return await outcome_of(FRONTS[front](impl, functions))

    caller = loop.create_task(main())
    with pytest.raises(interrupt):
        loop.run_forever()
    assert trace.events == "+a -a +b !b".split()
    for _ in range(6):
        loop.run_until_complete(asyncio.sleep(0))
    assert type(caller.result()) is interrupt
    assert trace.events == "+a -a +b !b +c -c +d -d".split()


@pytest.mark.parametrize("interrupt", INTERRUPTS)
def test_it_ends_a_caller_that_does_not_catch_it(impl, loop, interrupt):
    trace = Trace()
    call = impl.gather_with_concurrency(1, failing(trace, "a", 0, interrupt()), item(trace, "b"))
    caller = loop.create_task(call)
    with pytest.raises(interrupt):
        loop.run_until_complete(caller)
    with pytest.raises(interrupt):
        loop.run_until_complete(asyncio.wait([caller]))
    assert isinstance(caller.exception(), interrupt)
    loop.run_until_complete(asyncio.sleep(0.01))
    assert trace.events == "+a !a +b -b".split()


@pytest.mark.parametrize("interrupt", INTERRUPTS)
@pytest.mark.parametrize("turns", [0, 1])
def test_a_keeper_stands_for_the_queue_meanwhile(impl, loop, interrupt, turns):
    trace = Trace()
    queued = [item(trace, name) for name in "bcdef"]
    call = impl.gather_with_concurrency(1, failing(trace, "a", turns, interrupt()), *queued)
    caller = loop.create_task(outcome_of(call))
    with pytest.raises(interrupt):
        loop.run_forever()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    assert all(map(is_closed, queued))
    loop.run_until_complete(asyncio.sleep(0))
    assert caller.done()
    assert trace.events == ["+a", "!a"]


@pytest.mark.parametrize("interrupt", INTERRUPTS)
def test_one_that_passes_through_the_step_of_another_item_leaves_that_item_s_result_alone(impl, loop, interrupt):
    trace = Trace()
    outer = None

    async def main():
        nonlocal outer
        items = item(trace, "a"), failing(trace, "b", 0, interrupt()), item(trace, "c")
        outer = impl.gather(*items, limit=1, return_exceptions=True)
        return await outer

    caller = loop.create_task(main())
    with pytest.raises(interrupt):
        loop.run_forever()
    assert trace.events == "+a -a +b !b".split()
    results = loop.run_until_complete(caller)
    assert results[0] == "a"
    assert type(results[1]) is interrupt
    assert results[2] == "c"


@pytest.mark.parametrize("interrupt", INTERRUPTS)
def test_one_that_comes_while_a_consumer_s_turn_goes_to_the_next_takes_the_place_of_a_cancellation(impl, interrupt):
    class Loop(VirtualTimeLoop):
        interrupts = False

        def call_soon(self, callback, *args, context=None):
            if self.interrupts:
                self.interrupts = False
                raise interrupt
            return super().call_soon(callback, *args, context=context)

    async def main():
        loop = asyncio.get_running_loop()
        may_end = loop.create_future()

        async def item(number):
            await (loop.create_future() if number else may_end)

        stream = impl.amap(item, range(2), limit=1)
        first, second = anext(stream), anext(stream)
        told = first.send(None)
        second.send(None).add_done_callback(lambda future: None)
        await idle(4)
        may_end.set_result(None)
        while not told.done():
            await idle(1)
        loop.interrupts = True
        with pytest.raises(interrupt):
            first.throw(asyncio.CancelledError())
        assert not loop.interrupts
        second.close()
        await stream.aclose()

    run(main, loop_factory=Loop)
