"""`gatedcoro.langchain.abatch`: what `abatch` gives, without a coroutine for every input."""

import asyncio
import contextvars
import gc
import uuid
import warnings

import pytest

pytest.importorskip("langchain_core", reason="needs langchain-core")

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.runnables.config import var_child_runnable_config

from gatedcoro.langchain import abatch
from langchain_tools import Watch, outcome, warnings_ignored


@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("max_concurrency", [None, 1, 3, 100, 2.0])
@pytest.mark.parametrize("failing", [(), (4,)])
@pytest.mark.parametrize("steps", [1, 3])
def test_results_and_errors_are_those_of_abatch(steps, failing, max_concurrency, return_exceptions):
    def main(run):
        runnable = Watch(failing).runnable
        for _ in range(steps - 1):
            runnable = runnable | RunnablePassthrough()
        return run(runnable, [*range(8)], {"max_concurrency": max_concurrency}, return_exceptions=return_exceptions)

    with warnings_ignored():  # LangChain's own leaves coroutines that were never awaited
        expected = outcome(main(lambda runnable, *args, **kwargs: runnable.abatch(*args, **kwargs)))
        if max_concurrency == 2.0:
            expected = outcome(main(lambda runnable, inputs, config, **kwargs: runnable.abatch(inputs, {}, **kwargs)))
        assert outcome(main(abatch)) == expected


@pytest.mark.parametrize("inputs", [list, tuple, iter, dict.fromkeys, lambda values: (value for value in values)])
def test_inputs_may_be_any_iterable(inputs):
    assert asyncio.run(abatch(Watch().runnable, inputs(range(5)))) == [0, 2, 4, 6, 8]
    assert asyncio.run(abatch(Watch().runnable, inputs(()))) == []


class StartsAgain:
    """An iterator whose iter() puts it back to its beginning."""

    def __iter__(self):
        self.values = iter(range(3))
        return self

    def __next__(self):
        return next(self.values)


class HasNoIter:
    """Its iterator has nothing but what next() needs."""

    def __iter__(self):
        return NextOnly()


class NextOnly:
    def __init__(self):
        self.values = iter(range(3))

    def __next__(self):
        return next(self.values)


@pytest.mark.parametrize("inputs", [StartsAgain, HasNoIter])
def test_inputs_are_asked_for_one_iterator_once(inputs):
    assert asyncio.run(abatch(Watch().runnable, inputs(), limit=1)) == [0, 2, 4]


def test_inputs_are_drawn_as_slots_become_free():
    watch = Watch()
    drawn = 0

    def inputs():
        nonlocal drawn
        for value in range(100):
            drawn += 1
            assert drawn <= watch.ended + 5
            yield value

    assert asyncio.run(abatch(watch.runnable, inputs(), limit=4)) == [value * 2 for value in range(100)]
    assert watch.most == 4


def test_an_error_of_the_inputs_is_the_error_of_the_call():
    def inputs():
        yield 1
        raise OSError("the source broke")

    with pytest.raises(OSError, match="the source broke"):
        asyncio.run(abatch(Watch().runnable, inputs(), limit=1))


def test_the_limit_is_that_of_the_first_config_unless_given():
    def most(*args, **kwargs):
        watch = Watch()
        asyncio.run(abatch(watch.runnable, range(9), *args, **kwargs))
        return watch.most

    assert most() == 9
    assert most({"max_concurrency": 2}) == 2
    assert most([{"max_concurrency": 3}] + [{"max_concurrency": 5}] * 8) == 3
    assert most({"max_concurrency": 2}, limit=4) == 4


def test_a_semaphore_shared_by_two_calls_bounds_them_together():
    watch = Watch()

    async def main():
        gate = asyncio.Semaphore(3)
        await asyncio.gather(
            abatch(watch.runnable, range(6), limit=gate),
            abatch(watch.runnable, range(6), limit=gate),
        )

    asyncio.run(main())
    assert watch.most == 3


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), ("3", TypeError)])
def test_a_max_concurrency_that_is_no_limit_is_refused_by_its_name(limit, error):
    with pytest.raises(error, match="max_concurrency must be"):
        asyncio.run(abatch(Watch().runnable, [1], {"max_concurrency": limit}))


def test_a_config_is_one_for_all_or_one_for_each():
    async def tags(value, config):
        return value, config["tags"], config["metadata"]

    runnable = RunnableLambda(tags)
    for config in (
        None,
        {"tags": ["a"]},
        [{"tags": ["a"]}, {"metadata": {"b": 1}}],
        ({"tags": ["a"]}, {"tags": ["b"]}),
    ):
        assert asyncio.run(abatch(runnable, [1, 2], config)) == asyncio.run(runnable.abatch([1, 2], config))


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_configs_than_of_inputs_is_a_value_error(count):
    configs = [{}, {}]
    watch = Watch()
    with pytest.raises(ValueError) as theirs:
        asyncio.run(watch.runnable.abatch([*range(count)], configs))
    with pytest.raises(ValueError) as ours:
        asyncio.run(abatch(watch.runnable, [*range(count)], configs))
    assert str(ours.value) == str(theirs.value)
    assert not watch.started
    # Without a length this shows when one of the two ends.
    with pytest.raises(ValueError, match="same length as inputs"):
        asyncio.run(abatch(watch.runnable, iter(range(count)), configs))


def test_a_run_id_is_the_first_inputs_with_langchains_warning():
    seen = []

    class Recorder(AsyncCallbackHandler):
        async def on_chain_start(self, serialized, inputs, *, run_id, **kwargs):
            seen.append((inputs, run_id))

    run_id = uuid.uuid4()
    config = {"run_id": run_id, "callbacks": [Recorder()], "max_concurrency": 1}
    with pytest.warns(RuntimeWarning, match="run_id") as caught:
        asyncio.run(abatch(Watch().runnable, range(4), config))
    assert len(caught) == 1
    assert [inputs for inputs, _ in seen] == [0, 1, 2, 3]
    assert [found == run_id for _, found in seen] == [True, False, False, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(abatch(Watch().runnable, [5], config))


def test_further_arguments_reach_the_runnable():
    async def call(value, *, factor):
        return value * factor

    assert asyncio.run(abatch(RunnableLambda(call), [1, 2], factor=3)) == [3, 6]
    assert asyncio.run(abatch(RunnableLambda(call), [1, 2], factor=3, return_exceptions=True)) == [3, 6]


def test_runs_are_the_children_of_the_run_that_calls():
    def run(batch):
        parents = []

        class Recorder(AsyncCallbackHandler):
            async def on_chain_start(self, serialized, inputs, *, run_id, parent_run_id=None, tags=None, **kwargs):
                parents.append((str(inputs), run_id, parent_run_id, tags))

        async def outer(value):
            return await batch(Watch().runnable, [1, 2, 3])

        asyncio.run(RunnableLambda(outer).ainvoke("outer", {"callbacks": [Recorder()], "tags": ["inherited"]}))
        [outer_run] = [run for inputs, run, _, _ in parents if inputs == "outer"]
        return sorted((inputs, parent == outer_run, tags) for inputs, _, parent, tags in parents)

    assert run(abatch) == run(lambda runnable, inputs: runnable.abatch(inputs))
    assert len(run(abatch)) == 4


def test_each_input_has_its_own_copy_of_the_callers_context():
    variable = contextvars.ContextVar("variable", default="default")

    async def call(value):
        before = variable.get()
        variable.set(value)
        await asyncio.sleep(0)
        return before, variable.get()

    async def main():
        variable.set("caller")
        results = await abatch(RunnableLambda(call), range(3), limit=1)
        assert variable.get() == "caller"
        assert var_child_runnable_config.get() is None
        return results

    assert asyncio.run(main()) == [("caller", 0), ("caller", 1), ("caller", 2)]


@pytest.mark.parametrize("cancel_on_error", [False, True])
def test_cancel_on_error_decides_what_becomes_of_the_rest(cancel_on_error):
    watch = Watch(failing=[0])

    async def main():
        with pytest.raises(LookupError, match="no 0"):
            await abatch(watch.runnable, range(50), limit=5, cancel_on_error=cancel_on_error)
        started = watch.started
        if cancel_on_error:
            assert watch.running == 0
        await asyncio.sleep(0.2)
        return started

    assert asyncio.run(main()) < 50
    assert watch.started == (5 if cancel_on_error else 50)


def test_a_cancelled_call_waits_for_its_runs_and_starts_no_more():
    watch = Watch()

    async def main():
        task = asyncio.ensure_future(abatch(watch.runnable, range(50), limit=5))
        while watch.started < 10:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        started = watch.started
        await asyncio.sleep(0.05)
        assert watch.started == started
        assert watch.running == 0

    asyncio.run(main())
    gc.collect()


def test_return_exceptions_returns_no_cancellation():
    async def call(value):
        raise asyncio.CancelledError("stop")

    for run in (abatch, lambda runnable, inputs, **kwargs: runnable.abatch(inputs, **kwargs)):
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(run(RunnableLambda(call), [1], return_exceptions=True))


def test_a_sequence_has_no_barrier_between_its_steps():
    order = []

    async def first(value):
        order.append(("first", value))
        return value

    async def second(value):
        await asyncio.sleep(0)
        order.append(("second", value))
        return value

    asyncio.run(abatch(RunnableLambda(first) | RunnableLambda(second), range(3), limit=1))
    assert order == [("first", 0), ("second", 0), ("first", 1), ("second", 1), ("first", 2), ("second", 2)]


def test_anything_with_an_ainvoke_will_do():
    class Doubler:
        async def ainvoke(self, input, config=None, **kwargs):
            return input * 2, config["recursion_limit"]

    assert asyncio.run(abatch(Doubler(), [1, 2], {"recursion_limit": 7})) == [(2, 7), (4, 7)]
