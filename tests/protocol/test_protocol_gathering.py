"""send, throw, close, await and drop on the coroutine of a gathering, every sequence up to length 4.

The oracle is a native coroutine that awaits the outer future and cancels it on any exception. It stands for a
gathering whose items are done with in the same way; only what happens to items of a gathering that never
started has no native twin, and is checked by itself.
"""

import asyncio
import collections.abc
import inspect
import itertools
import warnings

import pytest

from effort import sequence_length
from gatedcoro import _reference
from steps import awaiter, step


class Subject:
    """One gathering of two items, one running and one queued, driven by hand."""

    def __init__(self, front, module):
        loop = asyncio.get_running_loop()
        self.futures = [loop.create_future() for _ in range(2)]
        self.ends = ["not started", "not started"]
        self.items = [self.item(index) for index in range(2)]
        self.awaiters = []
        self.yielded = []
        self.coro = front(module, *self.items)

    async def item(self, index):
        self.ends[index] = "running"
        try:
            value = await self.futures[index]
        except BaseException as error:
            self.ends[index] = type(error).__name__
            raise
        self.ends[index] = "returned"
        return value

    def step(self, do):
        return step(do, self.is_the_same)

    def is_the_same(self, future):
        self.yielded.append(future)
        return all(future is other for other in self.yielded)


def start_awaiter(subject):
    subject.awaiters.append(awaiter(subject.coro))
    return subject.awaiters[-1].send(None)


def settle(*outcome):
    def act(subject):
        for future in subject.futures:
            if not future.done():
                if outcome[0] == "fail":
                    future.set_exception(KeyError("item"))
                else:
                    future.set_result("value")

    return act


STEPS = {
    "send(None)": lambda subject: subject.coro.send(None),
    "send(5)": lambda subject: subject.coro.send(5),
    "throw(ValueError())": lambda subject: subject.coro.throw(ValueError("thrown")),
    "throw(KeyError)": lambda subject: subject.coro.throw(KeyError),
    "throw(CancelledError())": lambda subject: subject.coro.throw(asyncio.CancelledError("thrown")),
    "throw(GeneratorExit())": lambda subject: subject.coro.throw(GeneratorExit()),
    "close()": lambda subject: subject.coro.close(),
    "await": start_awaiter,
}
# What happens around the coroutine: turns of the loop, and items that end.
SURROUNDINGS = {
    "turns": lambda subject: None,
    "items return": settle("return"),
    "an item fails": settle("fail"),
}
OPERATIONS = [*STEPS, *SURROUNDINGS]


def sequences(length):
    for size in range(length + 1):
        yield from itertools.product(OPERATIONS, repeat=size)


async def play(front, module, sequence):
    subject = Subject(front, module)
    shown = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in sequence:
            if name in STEPS:
                shown.append((name, subject.step(lambda: STEPS[name](subject))))
            else:
                SURROUNDINGS[name](subject)
                for _ in range(4):
                    await asyncio.sleep(0)
        # Drop it.
        subject.awaiters.clear()
        subject.coro = None
        shown.append(("dropped", [str(warning.message) for warning in caught if "item" not in str(warning.message)]))
        for _ in range(4):
            await asyncio.sleep(0)
        ends = list(subject.ends)
        closed = [inspect.getcoroutinestate(item) == inspect.CORO_CLOSED for item in subject.items]
        item_warnings = [str(warning.message) for warning in caught if "item" in str(warning.message)]
        settle("return")(subject)
        for future in subject.futures:
            if not future.cancelled():
                future.exception()  # nobody may have waited for it
        for _ in range(4):
            await asyncio.sleep(0)
        for item in subject.items:
            item.close()
        subject.items.clear()
    return shown, ends, closed, item_warnings


def native_gather_with_concurrency(module, *items):
    async def gather_with_concurrency():
        outer = module.gather(*items, limit=1)
        try:
            return await outer
        except BaseException:
            outer.cancel()
            outer.add_done_callback(lambda outer: outer.cancelled() or outer.exception())  # retrieved
            raise

    coro = gather_with_concurrency()
    coro.__qualname__ = "gather_with_concurrency"
    return coro


def gather_with_concurrency(module, *items):
    return module.gather_with_concurrency(1, *items)


def run_all(module, *items):
    coro = module.run_all([lambda item=item: item for item in items], limit=1, cancel_on_error=False)
    return coro


def constrained_execution(module, *items):
    return module.constrained_execution([lambda item=item: item for item in items], 1)


STARTS = {"send(None)", "await"}


def check_sequences(front, module, length, name="gather_with_concurrency", *, owns_items=True):
    async def check_all():
        reports = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context["message"]))
        for sequence in sequences(sequence_length(length)):
            expected, ends, closed, _ = await play(native_gather_with_concurrency, _reference, sequence)
            expected = [
                (step, [text.replace("gather_with_concurrency", name) for text in what] if step == "dropped" else what)
                for step, what in expected
            ]
            reports.clear()  # the oracle's
            actual, actual_ends, actual_closed, item_warnings = await play(front, module, sequence)
            assert actual == expected, sequence
            assert actual_ends == ends, sequence
            if owns_items:
                # Whatever happened, no item is left behind: native coroutines that never start leave theirs.
                assert actual_closed == [True, True], sequence
                assert item_warnings == [], sequence
            assert reports == [], sequence

    asyncio.run(check_all())


def test_every_sequence_on_gather_with_concurrency_acts_as_on_a_native_coroutine(impl):
    check_sequences(gather_with_concurrency, impl, 4)


def test_every_sequence_on_run_all_acts_as_on_a_native_coroutine(impl):
    check_sequences(run_all, impl, 3, "run_all", owns_items=False)


def test_every_sequence_on_constrained_execution_acts_as_on_a_native_coroutine(impl):
    check_sequences(constrained_execution, impl, 3, "constrained_execution", owns_items=False)


@pytest.mark.parametrize(
    "arguments",
    [(ValueError, "text"), (ValueError, ValueError("made")), (ValueError, None, None), (5,), (), (ValueError, 5, 5)],
)
@pytest.mark.parametrize("started", [False, True])
def test_throw_takes_what_a_native_coroutine_takes(impl, arguments, started):
    async def throw_into(make):
        subject = Subject(make, impl)
        if started:
            subject.step(lambda: subject.coro.send(None))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            shown = subject.step(lambda: subject.coro.throw(*arguments))
        deprecated = [warning.category for warning in caught if warning.category is DeprecationWarning]
        subject.coro.close()
        for item in subject.items:
            item.close()
        await asyncio.sleep(0)
        return shown[:2], deprecated

    expected = asyncio.run(throw_into(native_gather_with_concurrency))
    actual = asyncio.run(throw_into(gather_with_concurrency))
    assert actual[0] == expected[0]


async def drive_from_inside(make, module, act):
    """Let an item do `act(coro)` to the gathering that is running it, and return what it saw."""
    seen = []
    coro = None

    async def item():
        try:
            seen.append(("value", act(coro)))
        except BaseException as error:
            seen.append((type(error).__name__, str(error)))

    async def bystander():
        await asyncio.sleep(0)

    coro = make(module, item(), bystander())
    try:
        seen.append(await coro)
    except BaseException as error:
        seen.append((type(error).__name__, str(error)))
    return seen


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("act", ["send", "throw", "close"])
def test_an_item_that_steps_its_own_gathering_is_refused_or_ends_it(impl, act, eager):
    if eager and not hasattr(asyncio, "eager_task_factory"):
        pytest.skip("eager_task_factory is new in 3.12")
    acts = {
        "send": lambda coro: coro.send(None),
        "throw": lambda coro: coro.throw(ValueError("thrown")),
        "close": lambda coro: coro.close(),
    }

    async def main():
        if eager:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        return await asyncio.wait_for(drive_from_inside(gather_with_concurrency, impl, acts[act]), 5)

    seen = asyncio.run(main())
    assert seen
    if eager:
        assert seen[0] == ("ValueError", "coroutine already executing")
        assert seen[1] == [None, None]


def test_a_gathering_knows_the_attributes_of_a_coroutine(impl):
    async def main():
        async def item():
            await asyncio.sleep(0)

        coro = impl.gather_with_concurrency(1, item())
        assert isinstance(coro, collections.abc.Coroutine)
        assert asyncio.iscoroutine(coro)
        assert inspect.isawaitable(coro)
        assert coro.__name__ == "gather_with_concurrency"
        assert coro.__qualname__ == "gather_with_concurrency"
        await coro

    asyncio.run(main())
