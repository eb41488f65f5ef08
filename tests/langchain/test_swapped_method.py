"""The swap's `Runnable.abatch_as_completed` beside LangChain's: the same results, and nothing left running."""

import asyncio
import contextlib
import gc
import inspect
import random
import sys
import typing
import weakref
from unittest import mock

import pytest

pytest.importorskip("langchain_core", reason="needs langchain-core")

import langchain_core
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.runnables.config import get_config_list

import gatedcoro
from as_completed_tools import (
    OURS,
    PARENT,
    THEIRS,
    WAYS,
    Seen,
    in_order,
    leave_by_aclose,
    long_after,
    pairs_by_index,
    pairs_of,
    plain,
)
from contract_tools import idle
from gatedcoro.langchain import _planted, abatch_as_completed, swapped, uninstall
from langchain_tools import DOUBLE, RUNNABLES, Work, no_warnings, outcome, warnings_ignored
from stream_tools import run
from virtual_time import run_in_virtual_time


@pytest.fixture(autouse=True)
def nothing_left_installed():
    yield
    uninstall()
    assert vars(Runnable)["abatch_as_completed"] is THEIRS


def test_the_swaps_has_the_signature_of_langchains_and_is_one_of_its_kind():
    ours = _planted.abatch_as_completed
    theirs, found = inspect.signature(THEIRS), inspect.signature(ours)
    assert [(one.name, one.kind, one.default) for one in found.parameters.values()] == [
        (one.name, one.kind, one.default) for one in theirs.parameters.values()
    ]
    if langchain_core.__version__ != "0.3.61":  # which wrote Optional and Union
        assert found == theirs
    assert inspect.isasyncgenfunction(ours)
    assert inspect.isasyncgenfunction(THEIRS)
    assert ours.__name__ == THEIRS.__name__
    assert typing.get_type_hints(ours).keys() - {"self"} == THEIRS.__annotations__.keys()
    with swapped():
        assert vars(Runnable)["abatch_as_completed"] is ours
        assert RunnableLambda.abatch_as_completed is ours
        generator = DOUBLE.abatch_as_completed([1])
        assert inspect.isasyncgen(generator)
    assert RunnableLambda.abatch_as_completed is THEIRS
    with swapped(as_completed=False):
        assert RunnableLambda.abatch_as_completed is THEIRS
    # A generator that was made by it goes on with it.
    assert run(lambda: pairs_of(generator)) == [(0, 2)]


def test_it_runs_on_gatedcoro_and_on_nothing_of_asyncios():
    async def main():
        with mock.patch.object(gatedcoro, "amap", wraps=gatedcoro.amap) as amap:
            with mock.patch.object(asyncio, "as_completed", side_effect=AssertionError):
                with swapped():
                    assert await pairs_of(DOUBLE.abatch_as_completed([1, 2], {"max_concurrency": 1})) == [
                        (0, 2),
                        (1, 4),
                    ]
                await pairs_of(abatch_as_completed(DOUBLE, [1, 2]))
        assert [call.kwargs["limit"] for call in amap.call_args_list] == [1, None]

    run(main)


def test_a_class_that_overrides_the_method_keeps_its_own():
    class Own(Work):
        async def abatch_as_completed(self, inputs, config=None, *, return_exceptions=False, **kwargs):
            yield "own"

    class More(Work):
        async def abatch_as_completed(self, inputs, config=None, **kwargs):
            async for index, output in super().abatch_as_completed(inputs, config, **kwargs):
                yield "more", index, output

    async def main():
        own = vars(Own)["abatch_as_completed"]
        with swapped():
            assert vars(Own)["abatch_as_completed"] is own
            assert await pairs_of(Own().abatch_as_completed([1])) == ["own"]
            assert await pairs_of(Own().with_config(tags=["a"]).abatch_as_completed([1])) == ["own"]
            assert await pairs_of(abatch_as_completed(Own(), [1])) == [(0, 10)]
            # What it calls by super() is the swap's.
            more = More()
            async for pair in more.abatch_as_completed([1, 7, 9], {"max_concurrency": 2}):
                assert pair == ("more", 0, 10)
                break
            await idle(8)
            assert not more.running
            assert more.trace == "+1 +7 -1 +9 x7 .7 x9 .9"

    run(main)


@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("name", RUNNABLES)
def test_the_outcome_is_langchains_for_its_own_runnables(name, return_exceptions):
    """Also with a list of configs, and with a max_concurrency of 0, which is no limit."""

    def main(way, max_concurrency, a_list):
        runnable, inputs, config = RUNNABLES[name]()
        inputs, config = [*inputs], {**config, "max_concurrency": max_concurrency}
        configs = [dict(config) for _ in inputs] if a_list else config
        return pairs_by_index(runnable, way, inputs, configs, return_exceptions=return_exceptions)

    def as_the_method(runnable, inputs, config, **kwargs):
        return runnable.abatch_as_completed(inputs, config, **kwargs)

    with warnings_ignored():
        for max_concurrency, a_list in ((0, False), (0, True), (2, True), (None, True)):
            if max_concurrency == 0 and name == "map":
                continue  # it calls abatch, where LangChain hangs then
            expected = outcome(main(as_the_method, max_concurrency, a_list))
            with swapped():
                assert outcome(main(as_the_method, max_concurrency, a_list)) == expected
            if max_concurrency != 0:
                if name == "retries":
                    # LangChain's calls what is to be tried again, once; gatedcoro calls what tries it again.
                    assert "not yet 4" in str(expected)
                    expected = [*range(6)]
                assert outcome(main(abatch_as_completed, max_concurrency, a_list)) == expected


@pytest.mark.parametrize("seed", range(60))
def test_pairs_and_starts_come_in_the_order_of_langchains_where_times_differ(seed):
    rng = random.Random(seed)
    count = rng.randint(1, 12)
    inputs = [rng.randint(1, 10**12) for _ in range(count)]
    failing = {value for value in inputs if rng.random() < 0.15}
    limit = rng.choice([None, 0, 1, 2, 3, 5, 100])
    pauses = rng.random() < 0.5
    config = {"max_concurrency": limit, "tags": ["a"]}
    if rng.random() < 0.5:
        config = [config, *({"max_concurrency": rng.randint(1, 5)} for _ in range(count - 1))]
    return_exceptions = rng.random() < 0.5

    async def main(way):
        work = Work(failing)
        pairs, ends = [], []
        try:
            async for index, result in way(work, inputs, config, return_exceptions=return_exceptions):
                pairs.append((index, repr(result)))
                ends.append(asyncio.get_running_loop().time())
                if pauses:
                    await asyncio.sleep(10**9)
        except LookupError as error:
            pairs.append(repr(error))
            # What LangChain lets run on is not run by the swap.
            at = work.events.index(f"!{str(error)[3:]}")
            return pairs, ends, work.events[:at]
        return pairs, ends, work.events

    with warnings_ignored(), in_order():
        expected = run_in_virtual_time(main(WAYS["LangChain's"]))
    with no_warnings(), swapped():
        assert run(lambda: main(WAYS["swapped"])) == expected
    if limit != 0 and not pauses:
        assert run(lambda: main(abatch_as_completed)) == expected


@pytest.mark.parametrize("max_concurrency", [None, 0, 2, 2.0])
def test_a_slow_consumer_slows_no_call_down(max_concurrency):
    async def main():
        work = Work()
        with swapped():
            results = work.abatch_as_completed([*range(1, 101)], {"max_concurrency": max_concurrency})
            pairs = [await anext(results)]
            await long_after()
            assert len(work.events) == 200
            assert not work.running
            pairs += await pairs_of(results)
        assert pairs == [(n, (n + 1) * 10) for n in range(100)]
        assert work.most == (max_concurrency or 100)

    run(main)


@pytest.mark.parametrize("max_concurrency", [1, 3])
@pytest.mark.parametrize("way", OURS.values(), ids=OURS)
def test_there_is_no_task_for_what_does_not_run(way, max_concurrency):
    most = 0

    class Counts(Work):
        async def work(self, input):
            nonlocal most
            most = max(most, len(asyncio.all_tasks()))
            return await super().work(input)

    async def main():
        async for _ in way(Counts(), [*range(1, 30)], {"max_concurrency": max_concurrency}):
            nonlocal most
            most = max(most, len(asyncio.all_tasks()))
        # One keeps what runs, one may not have ended yet; an asynchronous source has one of its own.
        assert most <= max_concurrency + 3 + (way is WAYS["gatedcoro's, an async generator"])

    with swapped():
        run(main)


def test_a_max_concurrency_that_is_no_limit_is_an_error_at_the_first_step():
    async def main():
        with swapped():
            for n, error in ((-1, ValueError), ("x", TypeError), (2.5, TypeError), ([3], TypeError)):
                work = Work()
                for config in ({"max_concurrency": n}, [{"max_concurrency": n}, {}]):
                    results = work.abatch_as_completed([1, 2], config)
                    with pytest.raises(error, match="max_concurrency must be"):
                        await anext(results)
                # Only the first one counts.
                assert len(await pairs_of(work.abatch_as_completed([1, 2], [{}, {"max_concurrency": n}]))) == 2
            assert await pairs_of(work.abatch_as_completed([], {"max_concurrency": -1})) == []

    run(main)


@pytest.mark.parametrize("max_concurrency", [None, 1])
@pytest.mark.parametrize("way", [WAYS["LangChain's"], WAYS["swapped"]], ids=["LangChain's", "swapped"])
@pytest.mark.parametrize("a_list", [False, True])
def test_what_becomes_of_the_inputs_and_the_config_meanwhile_changes_nothing(way, max_concurrency, a_list):
    def method(runnable, inputs, config):
        return (THEIRS if way is WAYS["LangChain's"] else _planted.abatch_as_completed)(runnable, inputs, config)

    async def main():
        seen, inputs = Seen(), [1, 2, 3]
        config = {"tags": ["a"], "metadata": {"m": 1}, "max_concurrency": max_concurrency, "configurable": {"c": 1}}
        one = config
        config = [config, {"tags": ["b"]}, {"tags": ["c"]}] if a_list else config
        expected = list(map(plain, get_config_list(config, 3)))
        results = method(seen, inputs, config)
        pairs = [await anext(results)]
        inputs.append(4)
        del inputs[0]
        inputs[0] = 77
        one["tags"].append("late")
        one["metadata"]["late"] = one["configurable"]["late"] = one["run_name"] = "late"
        one["run_id"] = PARENT
        del one["max_concurrency"]
        if a_list:
            config[1]["tags"].append("late")
            del config[2]
        pairs += await pairs_of(results)
        assert sorted(pairs) == [(0, 1), (1, 2), (2, 3)]
        assert [seen.configs[value] for value in (1, 2, 3)] == expected

    run(main)


def test_as_many_inputs_as_their_length_says():
    class Odd(list):
        said = 2

        def __len__(self):
            return self.said

    async def main():
        for said, given in ((2, [1, 2, 3]), (3, [1, 2])):
            inputs = Odd(given)
            inputs.said = said
            theirs = sorted(await pairs_of(THEIRS(Work(), inputs, None)))
            assert await pairs_of(_planted.abatch_as_completed(Work(), inputs, None)) == theirs == [(0, 10), (1, 20)]
        for inputs in ((), [], {}, "", None):
            assert await pairs_of(_planted.abatch_as_completed(Work(), inputs, [{}, {}])) == []
            assert await pairs_of(THEIRS(Work(), inputs, [{}, {}])) == []
        for inputs in ({1: "a", 2: "b"}, {1, 2}, range(1, 3)):
            assert await pairs_of(_planted.abatch_as_completed(Work(), inputs)) == [(0, 10), (1, 20)]

    run(main)


def test_a_length_of_nought_is_no_inputs_whatever_their_truth():
    class True_(list):
        def __bool__(self):
            return True

    async def main():
        assert await pairs_of(_planted.abatch_as_completed(Work(), True_())) == []
        assert await pairs_of(THEIRS(Work(), True_())) == []

    run(main)


def test_infinity_is_no_limit():
    async def main():
        config = {"max_concurrency": float("inf")}
        assert await pairs_of(_planted.abatch_as_completed(Work(), [3, 1, 2], config)) == [(1, 10), (2, 20), (0, 30)]

    run(main)


class Output:
    pass


@pytest.mark.parametrize("way", OURS.values(), ids=OURS)
def test_an_output_is_not_kept_while_the_consumer_works(way):
    class Runs(Work):
        async def work(self, input):
            await asyncio.sleep(input)
            return Output()

    async def main():
        results = way(Runs(), [1, 2, 3], {"max_concurrency": 1})
        for _ in range(3):
            _, output = await anext(results)
            kept = weakref.ref(output)
            del output
            assert kept() is None
        await results.aclose()

    with swapped():
        run(main)


@pytest.mark.parametrize("ends", ["by a break", "with the loop"])
def test_without_asyncios_hooks_what_is_dropped_ends_without_a_word(ends, monkeypatch):
    """As under nest_asyncio: nobody closes the generator, the collector finalizes it, and nothing can be awaited."""
    unraisable, kept = [], []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    work = Work(cleanup=1)

    async def main():
        sys.set_asyncgen_hooks(None, None)
        results = work.abatch_as_completed([1, 7, 9, 8], {"max_concurrency": 3})
        assert await anext(results) == (0, 10)
        if ends == "with the loop":
            kept.append(results)
            return
        del results
        await idle(3)
        assert not work.running
        assert work.trace == "+1 +7 +9 -1 +8 x7 x9 x8 .7 .9 .8"

    with swapped(), warnings_ignored():
        run_in_virtual_time(main())
        kept.clear()
        gc.collect()
    assert not work.running
    assert not unraisable


def test_each_step_may_be_taken_in_a_task_of_its_own():
    async def main():
        for way in WAYS.values():
            results, pairs = way(Work(), [3, 1, 7], {"max_concurrency": 2}), []
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    pairs.append(await asyncio.create_task(step(results)))
            assert sorted(pairs) == [(0, 30), (1, 10), (2, 70)]
            work = Work(cleanup=3)
            results = way(work, [1, 7, 9], {"max_concurrency": 2})
            await asyncio.create_task(step(results))
            await asyncio.create_task(results.aclose())
            assert bool(work.running) == (way is WAYS["LangChain's"])
            await long_after()

    async def step(results):
        return await anext(results)

    with swapped():
        run(main)


@pytest.mark.parametrize("way", [WAYS["LangChain's"], WAYS["swapped"]], ids=["LangChain's", "swapped"])
def test_a_warning_that_is_an_error_comes_before_anything_starts(way):
    async def main():
        work = Work()
        with pytest.raises(RuntimeWarning, match="run_id"):
            await pairs_of(way(work, [1, 2], {"run_id": PARENT}))
        assert not work.events

    with swapped():
        run(main)


def test_thrown_into_it_leaves_nothing_running():
    async def main():
        work = Work(cleanup=3)
        results = _planted.abatch_as_completed(work, [1, 7, 9], {"max_concurrency": 2})
        await anext(results)
        with pytest.raises(ArithmeticError, match="thrown"):
            await results.athrow(ArithmeticError("thrown"))
        assert not work.running
        assert work.events[-1].startswith(".")
        # Closed before its first step, it starts nothing.
        results = _planted.abatch_as_completed(Work(), [1])
        await results.aclose()
        assert await pairs_of(results) == []

    run(main)


BOUND = {
    "bind": lambda runnable: runnable.bind(further=1),
    "with_config": lambda runnable: runnable.with_config(tags=["a"]),
    "with_retry": lambda runnable: runnable.with_retry(stop_after_attempt=2, wait_exponential_jitter=False),
    "both": lambda runnable: runnable.with_config(tags=["a"]).bind(further=1),
}


@pytest.mark.parametrize("bound", BOUND.values(), ids=BOUND)
def test_a_binding_has_the_results_and_leaves_nothing_running_a_few_turns_after_a_break(bound):
    async def main():
        with swapped():
            work = Work()
            found = await pairs_of(bound(work).abatch_as_completed([3, 1, 7], {"max_concurrency": 2}))
            assert found == [(1, 10), (0, 30), (2, 70)]
            assert work.most == 2
            work = Work(cleanup=1)
            async for pair in bound(work).abatch_as_completed([1, 7, 9, 8, 6], {"max_concurrency": 3}):
                assert pair == (0, 10)
                break
            await idle(12)
            assert not work.running
            assert work.trace == "+1 +7 +9 -1 +8 x7 x9 x8 .7 .9 .8"
            work = Work(cleanup=1)
            await leave_by_aclose(bound(work).abatch_as_completed([1, 7, 9, 8, 6], {"max_concurrency": 3}))
            await idle(12)
            assert work.trace == "+1 +7 +9 -1 +8 x7 x9 x8 .7 .9 .8"
            await long_after()
            assert work.events[-1] == ".8"

    run(main)


@pytest.mark.parametrize("bound", BOUND.values(), ids=BOUND)
def test_an_error_of_a_binding_leaves_nothing_running(bound):
    async def main():
        with swapped():
            work = Work(failing=[2], cleanup=5)
            with pytest.raises(LookupError, match="no 2"):
                await pairs_of(bound(work).abatch_as_completed([1, 2, 9, 8, 7], {"max_concurrency": 3}))
            assert not work.running
            assert "+7" not in work.events

    run(main)
