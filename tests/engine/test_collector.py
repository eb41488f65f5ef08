"""The garbage collector runs whatever finalizers and callbacks there are, in the middle of the engine's work.

Up to 3.11 it runs wherever an object is made that it tracks, so between the taking of an item and its start as well; from 3.12
on only between the instructions of Python code. A collection at each of these places cancels the call: what has not begun by
then never begins, and every coroutine is closed.
"""

import asyncio
import gc
import itertools
import sys

import pytest

from contract_tools import idle, is_closed

pytestmark = pytest.mark.usefixtures("any_turns")

INSIDE_OF_ALLOCATIONS = sys.version_info < (3, 12)


async def returns(trace, name):
    trace.append(f"+{name}")
    return name


async def suspends(trace, name):
    trace.append(f"+{name}")
    await idle(1)
    return name


class Awaitable:
    """Its start is the call of __await__()."""

    def __init__(self, trace, name):
        self.trace, self.name = trace, name

    def __await__(self):
        self.trace.append(f"+{self.name}")
        return iter(())


def awaitables(trace):
    return [
        returns(trace, 0),
        suspends(trace, 1),
        Awaitable(trace, 2),
        returns(trace, 3),
        suspends(trace, 4),
        returns(trace, 5),
    ]


def coroutines(trace):
    return [make(trace, index) for index, make in enumerate([returns, suspends, returns, returns, suspends, returns])]


def functions(trace, coros):
    """Callables that have begun when they are called."""

    def function(coro, name):
        def call():
            trace.append(f"+{name}")
            return coro

        return call

    return [function(coro, name) for name, coro in enumerate(coros)]


async def silently(coro):
    return await coro


CALLS = {
    "one at a time": lambda impl, trace, items: impl.gather_with_concurrency(1, *items),
    "two at a time": lambda impl, trace, items: impl.gather_with_concurrency(2, *items),
    "all at once": lambda impl, trace, items: impl.gather_with_concurrency(None, *items),
    "gather": lambda impl, trace, items: impl.gather(*items, limit=2),
    "exceptions are returned": lambda impl, trace, items: impl.gather(*items, limit=2, return_exceptions=True),
    "errors cancel": lambda impl, trace, items: impl.gather(*items, limit=2, cancel_on_error=True),
    "callables": lambda impl, trace, items: impl.run_all(functions(trace, items), limit=1),
    "a generator of callables": lambda impl, trace, items: impl.run_all((f for f in functions(trace, items)), limit=2),
}


def attempt(impl, call, at, how, factory):
    """Run the call with a collection at each allocation, the one number `at` of which cancels it.

    Return whether there was one of that number, and what it made of it.
    """
    trace, made, collections = [], [], itertools.count()
    calls = call.endswith("callables")

    class Finalized:
        """Garbage for each collection."""

        def __init__(self):
            self.itself = self

        def __del__(self):
            if running and gc.isenabled():
                act()

    def act():
        if next(collections) == at:
            trace.append("cancel")
            # Cancelling makes objects as well.
            gc.disable()
            accepted.append(task.cancel("collected"))
            trace.append("cancelled")
        elif how == "a finalizer":
            Finalized()

    def callback(phase, info):
        if phase == "start" and how == "a callback" and gc.isenabled():
            act()

    accepted, running = [], ["yes"]

    async def main():
        nonlocal task
        items = (coroutines if calls else awaitables)([] if calls else trace)
        made.extend(item for item in items if asyncio.iscoroutine(item))
        begun = CALLS[call](impl, trace, items)
        task = asyncio.ensure_future(silently(begun))
        await asyncio.sleep(0)
        thresholds = gc.get_threshold()
        gc.callbacks.append(callback)
        gc.enable()
        gc.set_threshold(1)
        if how == "a finalizer":
            Finalized()
        try:
            await asyncio.wait([task])
        finally:
            gc.disable()
            gc.set_threshold(*thresholds)
            gc.callbacks.remove(callback)
            running.clear()
        await idle(3)

    task = None
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())
    finally:
        if was_enabled:
            gc.enable()
    outcome = "cancelled" if task.cancelled() else task.exception() or task.result()
    for coro in made:
        if calls:
            coro.close()  # it may never have been made, for all that the engine knows
        assert is_closed(coro)
    return trace, accepted, outcome, next(collections) > at


class OwnTasks(asyncio.SelectorEventLoop):
    def create_task(self, coro, **options):
        return super().create_task(coro, **options)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("how", ["a callback", "a finalizer"])
@pytest.mark.parametrize("factory", [None, OwnTasks], ids=["own Tasks", "the loop's Tasks"])
def test_what_has_not_begun_when_it_cancels_never_begins(impl, call, how, factory):
    results = list(range(6))
    for at in itertools.count():
        trace, accepted, outcome, reached = attempt(impl, call, at, how, factory)
        if not reached:
            break
        assert trace.count("cancelled") == 1, (at, trace)
        if not accepted[0]:
            continue  # the call was over
        after = trace[trace.index("cancelled") :]
        if INSIDE_OF_ALLOCATIONS:
            assert after == ["cancelled"], (at, trace)
        else:
            # The collector ran in the first instructions of an item: that one has begun.
            assert len(after) <= 2, (at, trace)
        assert outcome == "cancelled" or (outcome == results and len(trace) == 8), (at, trace, outcome)
    assert at > 3 or not INSIDE_OF_ALLOCATIONS
