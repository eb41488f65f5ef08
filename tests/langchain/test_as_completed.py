"""`gatedcoro.langchain.abatch_as_completed`: what it gives and when, and that it leaves nothing running.

Also what `abatch` shares with it, and, beside it, what is true of the swap's as well (test_swapped_method.py has the rest).
Everything runs in virtual time, where a call takes the time that its input says.
"""

import asyncio
import contextlib
import contextvars
import gc
import inspect
import sys
import types
import uuid
import warnings

import pytest

pytest.importorskip("langchain_core", reason="needs langchain-core")


from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.runnables.config import get_config_list, var_child_runnable_config

import gatedcoro
from as_completed_tools import (
    LEAVES,
    OURS,
    PARENT,
    THEIRS,
    WAYS,
    Seen,
    Silent,
    agenerated,
    block,
    leave_by_aclose,
    leave_by_break,
    long_after,
    pairs_of,
    plain,
)
from contract_tools import idle
from gatedcoro.langchain import abatch, abatch_as_completed, swapped, uninstall
from langchain_tools import Work, warnings_ignored
from progress_tools import in_place_of_tqdm
from stream_tools import run
from virtual_time import run_in_virtual_time


@pytest.fixture(autouse=True)
def nothing_left_installed():
    yield
    uninstall()
    assert vars(Runnable)["abatch_as_completed"] is THEIRS


# --- gatedcoro.langchain.abatch_as_completed: pairs, order, inputs ----------------------------------------------


@pytest.mark.parametrize(
    ("limit", "pairs"),
    [
        (None, [(1, 10), (0, 30), (2, 40)]),
        (1, [(0, 30), (1, 10), (2, 40)]),
        (2, [(1, 10), (0, 30), (2, 40)]),
        (3, [(1, 10), (0, 30), (2, 40)]),
    ],
)
def test_pairs_come_in_the_order_of_completion(limit, pairs):
    async def main():
        work = Work()
        stream = abatch_as_completed(work, [3, 1, 4], limit=limit)
        assert isinstance(stream, gatedcoro.Stream)
        assert "ainvoke" in repr(stream)
        assert not work.events
        assert await pairs_of(stream) == pairs
        assert work.most == (limit or 3)
        # Awaited, in the order of the inputs.
        assert await abatch_as_completed(work, [3, 1, 4], limit=limit) == [(0, 30), (1, 10), (2, 40)]

    run(main)


def test_starts_are_in_the_order_of_the_inputs():
    async def main():
        work = Work()
        await pairs_of(abatch_as_completed(work, [3, 1, 5, 9], limit=2))
        assert work.trace == "+3 +1 -1 +5 -3 +9 -5 -9"

    run(main)


class AsyncIterable:
    def __init__(self, values):
        self.values = values

    async def __aiter__(self):
        for value in self.values:
            yield value


class BothIterables(AsyncIterable):
    def __iter__(self):
        raise AssertionError("async wins")


class Items:
    """Iterable by __getitem__ alone."""

    def __init__(self, values):
        self.values = [*values]

    def __getitem__(self, index):
        return self.values[index]


class AsyncIterator:
    """Without an aclose()."""

    def __init__(self, values):
        self.values = iter(values)

    def __aiter__(self):
        return self

    async def __anext__(self):
        for value in self.values:
            return value
        raise StopAsyncIteration


async def itself(value):
    return value


INPUTS = {
    "list": list,
    "tuple": tuple,
    "iterator": lambda values: iter([*values]),
    "dict": dict.fromkeys,
    "generator": lambda values: (value for value in values),
    "__getitem__": Items,
    "async iterable": AsyncIterable,
    "both": BothIterables,
    "async iterator": AsyncIterator,
    "async generator": agenerated,
    "stream": lambda values: gatedcoro.amap(itself, values, limit=1),
}


@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)
def test_inputs_may_be_any_iterable_sync_or_async(inputs):
    async def main():
        work = Work()
        assert await pairs_of(abatch_as_completed(work, inputs([3, 1, 5]), limit=2)) == [(1, 10), (0, 30), (2, 50)]
        assert await pairs_of(abatch_as_completed(work, inputs([3, 1, 5]))) == [(1, 10), (0, 30), (2, 50)]
        assert await abatch_as_completed(work, inputs([3, 1, 5]), limit=1) == [(0, 30), (1, 10), (2, 50)]
        assert await abatch(work, inputs([3, 1, 5]), limit=2) == [30, 10, 50]
        assert await abatch(work, inputs([3, 1, 5])) == [30, 10, 50]
        for nothing in (inputs([]), inputs([])):
            assert await pairs_of(abatch_as_completed(work, nothing, [])) == []
        assert await abatch(work, inputs([])) == []
        # LangChain looks at no config then.
        assert await abatch_as_completed(work, inputs([]), [{}, {}]) == []

    run(main)


def traced(events, values):
    """A generator that says when it is asked for each, ends and is closed."""
    try:
        for value in values:
            events.append(f"?{value}")
            yield value
    except GeneratorExit:
        events.append("close")
        raise
    events.append("end")


async def atraced(events, values):
    """The same, asynchronous; it waits when it is closed, too, which may be a cancellation."""
    try:
        for value in values:
            events.append(f"?{value}")
            await asyncio.sleep(0)
            yield value
    except (GeneratorExit, asyncio.CancelledError):
        await asyncio.sleep(1)
        events.append("close")
        raise
    events.append("end")


TRACED = {"generator": traced, "async generator": atraced}


@pytest.mark.parametrize("traced", TRACED.values(), ids=TRACED)
def test_an_input_is_drawn_when_its_call_can_start(traced):
    async def main():
        work = Work()
        stream = abatch_as_completed(work, traced(work.events, [3, 1, 5, 9]), limit=2)
        await idle(3)
        assert not work.events
        assert len(await pairs_of(stream)) == 4
        assert work.trace == "?3 +3 ?1 +1 -1 ?5 +5 -3 ?9 +9 -5 end -9"
        work.events.clear()
        await abatch(work, traced(work.events, [3, 1, 5, 9]), limit=2)
        assert work.trace == "?3 +3 ?1 +1 -1 ?5 +5 -3 ?9 +9 -5 end -9"

    run(main)


@pytest.mark.parametrize(
    ("limit", "buffersize", "window"),
    [
        (2, None, 4),
        (2, 3, 5),
        (2, 0, 2),
        (1, 0, 1),
        (None, 3, 3),
        (None, None, 100),
        ((3, "gate"), 1, 4),
        # The size of a gate is not known: one is drawn while at most three results wait. When the fourth comes, one
        # runs and one waits at the gate.
        ("gate", 3, 4 + 2),
    ],
)
def test_a_slow_consumer_leaves_the_room_of_the_window(limit, buffersize, window):
    async def main():
        work = Work()
        gate = asyncio.Semaphore(2)
        if limit is None or isinstance(limit, int):
            one = limit
        else:
            one = gate if limit == "gate" else (limit[0], gate)
        values = traced(work.events, range(1, 101))
        async with abatch_as_completed(work, values, limit=one, buffersize=buffersize) as stream:
            assert await anext(stream) == (0, 10)
            await long_after()
            drawn = sum(event.startswith("?") for event in work.events)
            assert drawn == min(1 + window, 100)
        assert not work.running

    run(main)


def test_the_window_is_that_of_a_limit_in_the_config():
    async def main():
        work = Work()
        async with abatch_as_completed(work, traced(work.events, range(1, 101)), {"max_concurrency": 3}) as stream:
            await anext(stream)
            await long_after()
            assert work.events.count("close") == 0
            assert sum(event.startswith("?") for event in work.events) == 1 + 6

    run(main)


# --- Limits ----------------------------------------------------------------------------------------------------


def test_the_limit_is_that_of_the_first_config_unless_given():
    async def most(inputs, *args, **kwargs):
        work = Work()
        await pairs_of(abatch_as_completed(work, inputs, *args, **kwargs))
        return work.most

    async def main():
        for form in (list, iter, agenerated):
            assert await most(form(range(1, 10))) == 9
            assert await most(form(range(1, 10)), {"max_concurrency": 2}) == 2
            assert await most(form(range(1, 10)), {"max_concurrency": 2.0}) == 2
            assert await most(form(range(1, 10)), {"max_concurrency": None}) == 9
            assert await most(form(range(1, 10)), [{"max_concurrency": 3}] + [{"max_concurrency": 5}] * 8) == 3
            assert await most(form(range(1, 10)), {"max_concurrency": 2}, limit=4) == 4
            assert await most(form(range(1, 10)), {"max_concurrency": 0}, limit=4) == 4
        assert await most(range(1, 10), limit=asyncio.Semaphore(3)) == 3
        assert await most(range(1, 10), limit=(2, asyncio.Semaphore(3))) == 2
        assert await most(range(1, 10), limit=[4, asyncio.Semaphore(3)]) == 3
        assert await most(range(1, 10), {"max_concurrency": 1}, limit=(4,)) == 4

    run(main)


def test_a_limit_that_the_caller_inherits_counts():
    async def main():
        work = Work()

        async def outer(value):
            return await pairs_of(abatch_as_completed(work, [3, 1, 4]))

        assert await RunnableLambda(outer).ainvoke(0, {"max_concurrency": 2}) == [(1, 10), (0, 30), (2, 40)]
        assert work.most == 2

    run(main)


@pytest.mark.parametrize("row", [False, True])
def test_a_semaphore_shared_by_streams_and_batches_bounds_them_together(row):
    async def main():
        work, gate = Work(), asyncio.Semaphore(3)
        limit = (100, gate) if row else gate
        await asyncio.gather(
            pairs_of(abatch_as_completed(work, range(1, 9), limit=limit)),
            pairs_of(abatch_as_completed(work, range(11, 19), limit=limit)),
            abatch(work, range(21, 29), limit=limit),
        )
        assert work.most == 3
        assert len(work.events) == 48

    run(main)


class Gate:
    """Says who enters and leaves it."""

    def __init__(self, events, name):
        self.events, self.name = events, name

    async def __aenter__(self):
        self.events.append(f"{self.name}>")

    async def __aexit__(self, *error):
        self.events.append(f"<{self.name}")


def test_every_call_holds_a_row_of_limits_while_it_runs():
    async def main():
        work = Work()
        row = (Gate(work.events, "a"), 1, Gate(work.events, "b"))
        assert await pairs_of(abatch_as_completed(work, [1], limit=row)) == [(0, 10)]
        assert work.trace == "a> b> +1 -1 <b <a"
        work.events.clear()
        assert await abatch(work, [1], limit=row) == [10]
        assert work.trace == "a> b> +1 -1 <b <a"
        most = Work()
        assert await abatch(most, range(1, 9), {"max_concurrency": 1}, limit=(4, asyncio.Semaphore(3))) == [
            value * 10 for value in range(1, 9)
        ]
        assert most.most == 3

    run(main)


# --- What is refused, at the call ------------------------------------------------------------------------------


async def async_generator_function():
    yield 1


REFUSED = {
    "a progress": (TypeError, "progress", lambda: ([[1]], {"progress": 5})),
    "a number": (TypeError, "inputs must be", lambda: ([5],)),
    "None": (TypeError, "inputs must be", lambda: ([None],)),
    "an async generator function": (
        TypeError,
        "not the generator function async_generator_function: call it",
        lambda: ([async_generator_function],),
    ),
    "a generator function": (TypeError, "not the generator function traced: call it", lambda: ([traced],)),
    "a future": (
        TypeError,
        "inputs must be.*, not a Future: await it",
        lambda: ([asyncio.get_running_loop().create_future()],),
    ),
    "a limit of nought": (ValueError, "limit", lambda: ([[1]], {"limit": 0})),
    "a negative limit": (ValueError, "limit", lambda: ([[1]], {"limit": -1})),
    "a limit that is a string": (TypeError, "limit", lambda: ([[1]], {"limit": "3"})),
    "an empty row": (ValueError, "limit", lambda: ([[1]], {"limit": ()})),
    "two integers in a row": (TypeError, "limit", lambda: ([[1]], {"limit": (1, 2)})),
    "max_concurrency 0": (ValueError, "max_concurrency must be", lambda: ([[1], {"max_concurrency": 0}],)),
    "max_concurrency -1": (ValueError, "max_concurrency must be", lambda: ([[1], {"max_concurrency": -1}],)),
    "max_concurrency 2.5": (TypeError, "max_concurrency must be", lambda: ([[1], {"max_concurrency": 2.5}],)),
    "max_concurrency x": (TypeError, "max_concurrency must be", lambda: ([[1], {"max_concurrency": "x"}],)),
    "of the first config": (ValueError, "max_concurrency", lambda: ([[1, 2], [{"max_concurrency": 0}, {}]],)),
    "too many configs": (ValueError, "got 2 configs for 1 inputs", lambda: ([[1], [{}, {}]],)),
    "too few configs": (ValueError, "got 2 configs for 3 inputs", lambda: ([[1, 2, 3], ({}, {})],)),
    "no configs": (ValueError, "got 0 configs for 1 inputs", lambda: ([[1], []],)),
}
REFUSED_AS_COMPLETED = {
    "a negative buffersize": (ValueError, "buffersize", lambda: ([[1]], {"buffersize": -1})),
    "a buffersize that is a string": (TypeError, "buffersize", lambda: ([[1]], {"buffersize": "1"})),
    "without inputs, a limit of nought": (ValueError, "limit", lambda: ([[]], {"limit": 0})),
}


def arguments(args, kwargs=None):
    return args, kwargs or {}


@pytest.mark.parametrize(
    ("error", "match", "make"),
    (REFUSED | REFUSED_AS_COMPLETED).values(),
    ids=REFUSED | REFUSED_AS_COMPLETED,
)
def test_what_is_wrong_is_said_by_its_name_at_the_call(error, match, make):
    async def main():
        work = Work()
        args, kwargs = arguments(*make())
        with pytest.raises(error, match=match):
            abatch_as_completed(work, *args, **kwargs)
        assert not work.events

    run(main)


@pytest.mark.parametrize(("error", "match", "make"), REFUSED.values(), ids=REFUSED)
def test_abatch_says_the_same_before_anything_starts(error, match, make):
    async def main():
        work = Work()
        args, kwargs = arguments(*make())
        with pytest.raises(error, match=match):
            await abatch(work, *args, **kwargs)
        assert not work.events

    run(main)


def test_a_coroutine_is_no_inputs():
    async def main():
        coroutine = itself([1])
        with pytest.raises(
            TypeError, match="inputs must be an iterable or an async iterable, not a coroutine: await it"
        ):
            abatch_as_completed(Work(), coroutine)
        coroutine.close()

    run(main)


@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("runnable", ["a chain", None, itself], ids=["a string", "None", "a function"])
def test_what_has_no_ainvoke_is_refused_at_the_call(runnable, return_exceptions):
    async def main():
        for inputs in ([1], []):
            with pytest.raises(TypeError, match=r"runnable must have an ainvoke\(\), not be"):
                abatch_as_completed(runnable, inputs, return_exceptions=return_exceptions)
            with pytest.raises(TypeError, match=r"runnable must have an ainvoke\(\), not be"):
                await abatch(runnable, inputs, return_exceptions=return_exceptions)

    run(main)


def test_a_stream_that_is_never_used_is_a_warning():
    with pytest.warns(RuntimeWarning, match="never iterated over or awaited") as caught:
        abatch_as_completed(Work(), [1])
        gc.collect()
    assert len(caught) == 1


@pytest.mark.parametrize("function", [abatch, abatch_as_completed])
def test_without_langchain_it_is_an_import_error_that_names_it(function, monkeypatch):
    for name in [*sys.modules]:
        if name.partition(".")[0] == "langchain_core":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "langchain_core", None)

    async def main():
        with pytest.raises(ModuleNotFoundError, match="pip install langchain-core"):
            await function(Work(), [1])

    run(main)


def test_it_is_used_in_one_way():
    async def main():
        stream = abatch_as_completed(Work(), [1])
        await stream
        with pytest.raises(RuntimeError):
            await anext(stream)

    run(main)


# --- Arguments of the runnable ---------------------------------------------------------------------------------


class Echo(Runnable):
    """Returns what it got."""

    def invoke(self, input, config=None, **kwargs):
        raise AssertionError("only ainvoke is to be used")

    async def ainvoke(self, input, config=None, **kwargs):
        return input, config["tags"], kwargs


NAMES = ("index", "value", "call", "make", "return_exception", "input_", "count", "calls", "async_fn", "iterable")
# Those of gatedcoro's functions, which are none of LangChain's.
MORE_NAMES = ("runnable", "limit", "buffersize", "ordered", "progress", "cancel_on_error")


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_further_arguments_reach_the_runnable_whatever_they_are_called(return_exceptions):
    kwargs = dict(zip(NAMES, range(100)))

    async def main():
        expected = [(index, (value, ["tag"], kwargs)) for index, value in enumerate("ab")]
        config = {"tags": ["tag"]}
        ours = abatch_as_completed(Echo(), "ab", config, return_exceptions=return_exceptions, **kwargs)
        assert await pairs_of(ours) == expected
        outputs = await abatch(Echo(), "ab", config, return_exceptions=return_exceptions, **kwargs)
        assert outputs == [output for _, output in expected]
        more = {**kwargs, **dict.fromkeys(MORE_NAMES, 5)}
        theirs = await pairs_of(THEIRS(Echo(), "ab", config, return_exceptions=return_exceptions, **more))
        assert sorted(theirs) == [(index, (value, ["tag"], more)) for index, value in enumerate("ab")]
        with swapped():
            swap = Echo().abatch_as_completed("ab", config, return_exceptions=return_exceptions, **more)
            assert await pairs_of(swap) == sorted(theirs)

    run(main)


# --- Configs ---------------------------------------------------------------------------------------------------


HANDLER = Silent()


def manager(**options):
    return AsyncCallbackManager([HANDLER], inheritable_handlers=[HANDLER], **options)


CONFIGS = {
    "none": lambda: None,
    "empty": lambda: {},
    "tags": lambda: {"tags": ["a"]},
    "metadata": lambda: {"metadata": {"a": 1, "model": "own"}, "configurable": {"model": "another"}},
    "handlers": lambda: {"callbacks": [HANDLER]},
    "a manager": lambda: {"callbacks": manager(tags=["t"], inheritable_tags=["i"], metadata={"m": 1})},
    "a manager with a parent": lambda: {"callbacks": manager(parent_run_id=PARENT)},
    "a run id": lambda: {"run_id": PARENT, "tags": ["a"]},
    "no run id": lambda: {"run_id": None, "run_name": None},
    "a run name": lambda: {"run_name": "name", "recursion_limit": 3},
    "a limit": lambda: {"max_concurrency": 2},
    "a model": lambda: {"configurable": {"model": "m", "checkpoint_ns": "n", "__private": 1, "flag": True}},
    "keys of no config": lambda: {"unknown": 1, "configurable": {"known": 2}, "run_id": PARENT},
    "a list": lambda: [{"tags": [f"{n}"], "run_id": uuid.UUID(int=n + 1), "unknown": n} for n in range(4)],
    "a tuple": lambda: ({"max_concurrency": 1}, {"metadata": {"b": 1}}, {}, {"configurable": {"model": "m"}}),
    "a list of one": lambda: [{"tags": ["same"], "callbacks": [HANDLER]}] * 4,
}
INHERITED = {
    "nothing": None,
    "something": {
        "tags": ["inherited"],
        "metadata": {"inherited": 1},
        "callbacks": manager(inheritable_tags=["of parent"], parent_run_id=uuid.UUID(int=88)),
        "configurable": {"model": "inherited", "thread_id": 1},
        "recursion_limit": 9,
        "max_concurrency": 3,
        "run_name": None,
    },
}


async def abatch_in_pairs(runnable, inputs, config, **kwargs):
    for pair in enumerate(await abatch(runnable, inputs, config, **kwargs)):
        yield pair


@pytest.mark.parametrize("inherited", INHERITED.values(), ids=INHERITED)
@pytest.mark.parametrize("make", CONFIGS.values(), ids=CONFIGS)
def test_each_call_gets_the_config_that_langchain_derives_for_it(make, inherited):
    async def main():
        var_child_runnable_config.set(inherited)
        inputs = [1, 2, 3, 4]
        expected = list(map(plain, get_config_list(make(), 4)))
        assert list(map(plain, get_config_list(make(), 4))) == expected
        for name, way in {**WAYS, "abatch": abatch_in_pairs}.items():
            seen = Seen()
            config = make()
            assert len(await pairs_of(way(seen, inputs, config))) == 4
            assert [seen.configs[value] for value in inputs] == expected, name
            # What the caller has given is what it was.
            before = make()
            if isinstance(before, dict):
                config, before = [config], [before]
            assert list(map(plain, config or ())) == list(map(plain, before or ()))
            # As many inputs as one, two: the first one may be the only one.
            if not isinstance(make(), list | tuple):
                for count in (1, 2):
                    seen = Seen()
                    await pairs_of(way(seen, inputs[:count], make()))
                    assert [seen.configs[value] for value in inputs[:count]] == expected[:count], name

    with warnings_ignored(), swapped():
        run_in_virtual_time(main())


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_run_id_is_the_first_inputs_with_langchains_warning(way):
    async def main(inputs):
        seen = Seen()
        await pairs_of(way(seen, inputs, {"run_id": PARENT, "max_concurrency": 1}))
        return [seen.configs[value].get("run_id") for value in inputs]

    with swapped():
        with pytest.warns(RuntimeWarning, match="run_id") as caught:
            assert run(lambda: main([1, 2, 3, 4])) == [PARENT, None, None, None]
        assert len(caught) == 1
        assert run(lambda: main([1])) == [PARENT]


@pytest.mark.parametrize("way", [abatch_as_completed, abatch])
def test_a_warning_of_langchains_that_is_an_error_comes_before_anything_starts(way):
    async def main():
        work = Work()
        with pytest.raises(RuntimeWarning, match="run_id"):
            await way(work, [1, 2], {"run_id": PARENT})
        assert not work.events

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(main)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_mapping_that_is_no_dict_gives_its_run_id_to_every_input(way):
    async def main():
        seen = Seen()
        await pairs_of(way(seen, [1, 2, 3], types.MappingProxyType({"run_id": PARENT})))
        assert [seen.configs[value]["run_id"] for value in (1, 2, 3)] == [PARENT] * 3

    with swapped():
        run(main)


@pytest.mark.parametrize("way", OURS.values(), ids=OURS)
def test_what_becomes_of_a_config_after_the_first_step_changes_nothing(way):
    async def main():
        seen = Seen()
        config = {"tags": ["a"], "metadata": {"m": 1}, "configurable": {"c": 1}, "max_concurrency": 1}
        expected = list(map(plain, get_config_list(config, 3)))
        results = way(seen, [1, 2, 3], config)
        pairs = [await anext(results)]
        config["tags"].append("late")
        config["metadata"]["late"] = config["configurable"]["late"] = config["run_name"] = "late"
        pairs += await pairs_of(results)
        assert pairs == [(0, 1), (1, 2), (2, 3)]
        assert [seen.configs[value] for value in (1, 2, 3)] == expected

    with swapped():
        run(main)


@pytest.mark.parametrize("form", [list, iter, agenerated])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_another_number_of_configs_than_of_inputs_is_known_when_the_shorter_ends(form, count):
    async def main():
        work = Work()
        configs = [{"max_concurrency": 1}, {}]
        inputs = [3, 1, 2][:count]
        if count == 2:
            assert await pairs_of(abatch_as_completed(work, form(inputs), configs)) == [(0, 30), (1, 10)]
            assert await abatch(work, form(inputs), configs) == [30, 10]
            return
        with pytest.raises(ValueError) as theirs:
            await pairs_of(THEIRS(work, inputs, configs))
        pairs = []
        with pytest.raises(ValueError) as ours:
            async for pair in abatch_as_completed(work, form(inputs), configs):
                pairs.append(pair)
        assert str(ours.value) == str(theirs.value)
        assert pairs == ([] if form is list else [(0, 30), (1, 10)][:count])
        if form is list:
            assert not work.events
        assert not work.running
        with pytest.raises(ValueError, match=f"got 2 configs for {count} inputs"):
            await abatch(work, form(inputs), configs)
        work.events.clear()
        with swapped(), pytest.raises(ValueError) as swap:
            await pairs_of(work.abatch_as_completed(inputs, configs))
        assert str(swap.value) == str(theirs.value)
        assert not work.events

    run(main)


def test_each_call_has_its_own_copy_of_the_callers_context():
    variable = contextvars.ContextVar("variable", default="default")

    class Sets(Runnable):
        def invoke(self, input, config=None, **kwargs):
            raise AssertionError("only ainvoke is to be used")

        async def ainvoke(self, input, config=None, **kwargs):
            before = variable.get()
            variable.set(input)
            await asyncio.sleep(input)
            return before, variable.get()

    async def main():
        for way in WAYS.values():
            variable.set("caller")
            stream = way(Sets(), [1, 2, 3], {"max_concurrency": 2})
            assert sorted(await pairs_of(stream)) == [(n, ("caller", n + 1)) for n in range(3)]
            assert variable.get() == "caller"

    with swapped():
        run(main)


# --- return_exceptions -----------------------------------------------------------------------------------------


class Raises(Runnable):
    """Raises what it is given, if that can be raised, else returns it."""

    def invoke(self, input, config=None, **kwargs):
        raise AssertionError("only ainvoke is to be used")

    async def ainvoke(self, input, config=None, **kwargs):
        await asyncio.sleep(1)
        if isinstance(input, BaseException):
            raise input
        return input


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_exceptions_are_results_if_wanted_at_the_index_of_their_input(way):
    async def main():
        error, other = LookupError("a"), ExceptionGroup("b", [OSError("c")])
        inputs = ["first", error, "third", other]
        pairs = await pairs_of(way(Raises(), inputs, {"max_concurrency": 1}, return_exceptions=True))
        assert sorted(pairs) == [*enumerate(inputs)] if way is WAYS["LangChain's"] else pairs == [*enumerate(inputs)]
        for form in (list, iter, agenerated):
            assert await abatch(Raises(), form(inputs), {"max_concurrency": 1}, return_exceptions=True) == inputs
        # Not wanted, it is raised.
        with pytest.raises(LookupError) as caught:
            await pairs_of(way(Raises(), [error], None))
        assert caught.value is error

    with swapped():
        run(main)


@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_cancellation_is_no_result(way, return_exceptions):
    async def main():
        for error in (asyncio.CancelledError("own"), GeneratorExit("exit")):
            pairs = []
            with pytest.raises(type(error)):
                async for pair in way(Raises(), [error], None, return_exceptions=return_exceptions):
                    pairs.append(pair)
            assert not pairs
        for function in (abatch, abatch_as_completed):
            with pytest.raises(asyncio.CancelledError):
                await function(Raises(), [1, asyncio.CancelledError("own")], return_exceptions=return_exceptions)

    with swapped():
        run(main)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_end_of_the_program_is_no_result(way, error):
    pairs = []

    async def main():
        async for pair in way(Raises(), [1, error(), 2], None, return_exceptions=True):
            pairs.append(pair)

    # Results that came before it may have been handed over.
    with warnings_ignored(), swapped(), pytest.raises(error):
        run_in_virtual_time(main())
    assert error not in [type(result) for _, result in pairs]


# --- Errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_concurrency", [3, None])
@pytest.mark.parametrize("way", OURS.values(), ids=OURS)
def test_the_first_error_cancels_what_runs_and_is_raised_when_that_has_ended(way, max_concurrency):
    async def main():
        work = Work(failing=[2], cleanup=5)
        pairs = []
        with pytest.raises(LookupError, match="no 2") as caught:
            async for pair in way(work, [1, 2, 9, 8, 7, 6], {"max_concurrency": max_concurrency}):
                pairs.append(pair)
        assert pairs == [(0, 10)]
        assert not hasattr(caught.value, "__notes__")
        if max_concurrency:
            assert work.trace == "+1 +2 +9 -1 +8 !2 x9 x8 .9 .8"
        else:
            assert work.trace == "+1 +2 +9 +8 +7 +6 -1 !2 x9 x8 x7 x6 .9 .8 .7 .6"
        await long_after()
        assert work.events[-1] in (".8", ".6")

    with swapped():
        run(main)


@pytest.mark.parametrize("way", OURS.values(), ids=OURS)
def test_what_returns_although_it_was_cancelled_is_handed_over_before_the_error(way):
    async def main():
        work = Work(failing=[2], cleanup=5, after="in spite")
        pairs = []
        with pytest.raises(LookupError, match="no 2"):
            async for pair in way(work, [1, 2, 9, 8, 7], {"max_concurrency": 3}):
                pairs.append(pair)
        assert pairs == [(0, 10), (2, "in spite"), (3, "in spite")]

    with swapped():
        run(main)


@pytest.mark.parametrize("way", OURS.values(), ids=OURS)
def test_results_that_a_slow_consumer_has_not_fetched_come_before_the_error(way):
    async def main():
        work = Work(failing=[4])
        pairs = []
        with pytest.raises(LookupError, match="no 4"):
            async for pair in way(work, [1, 2, 3, 4, 50], {"max_concurrency": 5}):
                pairs.append(pair)
                await asyncio.sleep(100)
        assert pairs == [(0, 10), (1, 20), (2, 30)]
        assert work.events[-2:] == ["x50", ".50"]

    with swapped():
        run(main)


@pytest.mark.parametrize("way", OURS.values(), ids=OURS)
def test_errors_of_siblings_meanwhile_are_notes(way):
    async def main():
        work = Work(failing=[2], cleanup=1, after=OSError("sibling"))
        with pytest.raises(LookupError, match="no 2") as caught:
            await pairs_of(way(work, [1, 2, 9, 8], {"max_concurrency": 3}))
        assert caught.value.__notes__ == [
            "while it was being cancelled, item 2 raised OSError: sibling",
            "while it was being cancelled, item 3 raised OSError: sibling",
        ]

    with swapped():
        run(main)


def test_awaited_the_first_error_cancels_and_awaits_the_rest():
    async def main():
        work = Work(failing=[2], cleanup=5)
        with pytest.raises(LookupError, match="no 2"):
            await abatch_as_completed(work, traced(work.events, [1, 2, 9, 8, 7]), limit=3)
        assert work.trace == "?1 +1 ?2 +2 ?9 +9 -1 ?8 +8 !2 close x9 x8 .9 .8"

    run(main)


@pytest.mark.parametrize("form", ["sync", "async"])
def test_an_error_of_the_inputs_is_the_error_after_the_results(form):
    async def broken():
        yield 5
        yield 1
        raise OSError("the source broke")

    def broken_sync():
        yield 5
        yield 1
        raise OSError("the source broke")

    async def main():
        work = Work(cleanup=1)
        pairs = []
        with pytest.raises(OSError, match="the source broke"):
            async for pair in abatch_as_completed(work, broken() if form == "async" else broken_sync(), limit=2):
                pairs.append(pair)
        assert pairs == [(1, 10), (0, 50)]
        assert work.trace == "+5 +1 -1 -5"

    run(main)


# --- Leaving early ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_concurrency", [3, None])
@pytest.mark.parametrize("leave", LEAVES, ids=lambda leave: leave.__name__)
@pytest.mark.parametrize("way", OURS.values(), ids=OURS)
def test_nothing_runs_any_more_when_it_is_left(way, leave, max_concurrency):
    async def main():
        work = Work(cleanup=5)
        await leave(way(work, [1, 7, 9, 8, 6], {"max_concurrency": max_concurrency}))
        started = "+1 +7 +9 -1 +8" if max_concurrency else "+1 +7 +9 +8 +6 -1"
        names = [7, 9, 8] if max_concurrency else [7, 9, 8, 6]
        ended = " ".join([f"x{name}" for name in names] + [f".{name}" for name in names])
        if f"{started} {ended}" != work.trace:
            # As slots free one turn after the consumer has the result, the last one may not have started.
            assert work.trace == "+1 +7 +9 -1 x7 x9 .7 .9"
            assert leave not in LEAVES[-3:]
        assert not work.running
        before = work.trace
        await long_after()
        assert work.trace == before

    with swapped():
        run(main)


@pytest.mark.parametrize("way", OURS.values(), ids=OURS)
def test_a_second_cancellation_reaches_what_cleans_up(way):
    async def main():
        work = Work(cleanup=500)

        async def uses():
            async with block(way(work, [10, 20], None)) as stream:
                async for _ in stream:
                    pass

        task = asyncio.ensure_future(uses())
        await asyncio.sleep(1)
        task.cancel()
        await idle(20)
        assert not task.done()
        assert work.trace == "+10 +20 x10 x20"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not work.running
        assert work.trace == "+10 +20 x10 x20"

    with swapped():
        run(main)


@pytest.mark.parametrize("way", OURS.values(), ids=OURS)
def test_an_error_of_what_cleans_up_is_raised_where_none_is_on_its_way(way):
    async def main():
        error = OSError("while it ended")
        for leave in (leave_by_break, leave_by_aclose):
            with pytest.raises(OSError) as caught:
                await leave(way(Work(cleanup=1, after=error), [1, 20], None))
            assert caught.value is error
        with pytest.raises(ArithmeticError if way is not WAYS["swapped"] else OSError) as caught:
            async with block(way(Work(cleanup=1, after=error), [1, 20], None)) as stream:
                async for _ in stream:
                    raise ArithmeticError
        if way is WAYS["swapped"]:  # what the generator raises has its place, as everywhere
            assert caught.value is error
        else:
            assert caught.value.__notes__ == ["while the stream was being closed, it raised OSError: while it ended"]

    with swapped():
        run(main)


@pytest.mark.parametrize("way", OURS.values(), ids=OURS)
def test_dropped_it_is_closed_within_two_turns(way):
    async def main():
        work = Work(cleanup=1)
        async for _ in way(work, [1, 7, 9, 8, 6], {"max_concurrency": 3}):
            break
        await idle(2 if way is WAYS["swapped"] else 0)
        work.events.append("|")
        await idle(2)
        slow_source = "an async generator" in way_names[way]
        assert work.trace == ("+1 +7 +9 -1 | x7 x9 .7 .9" if slow_source else "+1 +7 +9 -1 +8 | x7 x9 x8 .7 .9 .8")
        assert not work.running
        await long_after()
        assert work.events[-1].startswith(".")

    way_names = {way: name for name, way in OURS.items()}
    with swapped():
        run(main)


@pytest.mark.parametrize("way", OURS.values(), ids=OURS)
def test_dropped_at_the_end_of_the_program_it_leaves_nothing(way):
    work = Work(cleanup=3)

    async def main():
        async for _ in way(work, [1, 7, 9, 8, 6], {"max_concurrency": 3}):
            return

    with swapped():
        run(main)
    assert not work.running
    assert {event[1:] for event in work.events if event[0] == "x"} >= {"7", "9"}


@pytest.mark.parametrize("way", OURS.values(), ids=OURS)
def test_a_consumer_that_is_cancelled_without_a_block_leaves_nothing(way):
    async def main():
        work = Work(cleanup=3)

        async def uses():
            async for _ in way(work, [1, 7, 9, 8, 6], {"max_concurrency": 3}):
                pass

        task = asyncio.ensure_future(uses())
        await asyncio.sleep(3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if way is WAYS["swapped"]:  # it was waiting inside the generator
            assert not work.running
        del task
        await idle(8)
        assert work.trace == "+1 +7 +9 -1 +8 x7 x9 x8 .7 .9 .8"
        await long_after()
        assert work.events[-1] == ".8"

    with swapped():
        run(main)


# --- The inputs are closed -------------------------------------------------------------------------------------

VARIABLE = contextvars.ContextVar("VARIABLE")


def in_own_context(events, values):
    token = VARIABLE.set("inside")
    try:
        yield from traced(events, values)
    finally:
        assert VARIABLE.get() == "inside"
        VARIABLE.reset(token)  # fails in any other context
        events.append("reset")


async def ain_own_context(events, values):
    token = VARIABLE.set("inside")
    try:
        async with contextlib.aclosing(atraced(events, values)) as source:
            async for value in source:
                yield value
    finally:
        await asyncio.sleep(0)
        assert VARIABLE.get() == "inside"
        VARIABLE.reset(token)
        events.append("reset")


CLOSED = {"generator": in_own_context, "async generator": ain_own_context}


@pytest.mark.parametrize("leave", LEAVES, ids=lambda leave: leave.__name__)
@pytest.mark.parametrize("make", CLOSED.values(), ids=CLOSED)
def test_inputs_held_elsewhere_are_closed_in_their_own_context(make, leave):
    async def main():
        work = Work()
        source = make(work.events, [1, 7, 9, 8, 6])
        await leave(abatch_as_completed(work, source, limit=3))
        assert not work.running
        assert work.events.count("close") == work.events.count("reset") == 1
        assert_closed(source)
        before = work.trace
        await long_after()
        assert work.trace == before

    run(main)


def assert_closed(source):
    if inspect.isgenerator(source):
        assert inspect.getgeneratorstate(source) == inspect.GEN_CLOSED
    else:
        assert source.ag_frame is None


@pytest.mark.parametrize("make", CLOSED.values(), ids=CLOSED)
def test_inputs_are_closed_after_an_error_before_it_is_raised(make):
    async def main():
        for use in (
            lambda work, source: pairs_of(abatch_as_completed(work, source, limit=3)),
            lambda work, source: abatch_as_completed(work, source, limit=3),
            lambda work, source: abatch(work, source, limit=3, cancel_on_error=True),
        ):
            work = Work(failing=[7])
            source = make(work.events, [1, 7, 9, 8, 6, 5, 4])
            with pytest.raises(LookupError, match="no 7"):
                await use(work, source)
            assert not work.running
            assert work.events.count("close") == work.events.count("reset") == 1
            assert_closed(source)

    run(main)


@pytest.mark.parametrize("make", CLOSED.values(), ids=CLOSED)
def test_a_cancelled_abatch_closes_its_inputs(make):
    async def main():
        work = Work()
        source = make(work.events, [1, 7, 9, 8, 6])
        task = asyncio.ensure_future(abatch(work, source, limit=3))
        await asyncio.sleep(3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await idle(3)
        await asyncio.sleep(5)
        assert not work.running
        assert work.events.count("close") == work.events.count("reset") == 1
        assert_closed(source)

    run(main)


@pytest.mark.parametrize("make", CLOSED.values(), ids=CLOSED)
def test_without_cancel_on_error_an_abatch_goes_on_with_its_inputs(make):
    async def main():
        work = Work(failing=[1])
        source = make(work.events, [1, 7, 9, 8])
        with pytest.raises(LookupError):
            await abatch(work, source, limit=2)
        assert work.running
        await long_after()
        assert {"-7", "-9", "-8", "end", "reset"} <= {*work.events}

    run(main)


@pytest.mark.parametrize("make", CLOSED.values(), ids=CLOSED)
@pytest.mark.parametrize("enter", [False, True])
def test_inputs_are_closed_though_nothing_of_them_was_drawn(make, enter):
    async def main():
        work = Work()
        source = make(work.events, [1])
        stream = abatch_as_completed(work, source)
        if enter:
            async with stream:
                pass
        else:
            await stream.aclose()
        assert_closed(source)
        assert not work.events

    run(main)


def test_an_async_iterable_that_is_no_iterator_is_not_begun_to_be_closed():
    class Begun(AsyncIterable):
        def __aiter__(self):
            raise AssertionError("begun")

        async def aclose(self):
            raise AssertionError("closed")

    class Held:
        def __iter__(self):
            raise AssertionError("begun")

        def close(self):
            raise AssertionError("closed")

    async def main():
        await abatch_as_completed(Work(), Begun([1])).aclose()
        await abatch_as_completed(Work(), Held()).aclose()
        # What is drawn from a list, a file, a plain iterator is the caller's.
        iterator = iter([1, 7, 9])
        await leave_by_break(abatch_as_completed(Work(), iterator, limit=1))
        assert next(iterator) == 9

    run(main)


def test_closing_reaches_a_stream_of_inputs_and_what_is_behind_it():
    async def main():
        work, source = Work(), Work()
        inputs = gatedcoro.amap(source.ainvoke, traced(source.events, [1, 2, 90, 80, 70]), limit=2)
        async with abatch_as_completed(work, inputs, limit=2) as stream:
            assert await anext(stream) == (0, 100)
        assert not work.running
        assert not source.running
        assert source.events.count("close") == 1
        assert {"x90"} <= {*source.events}

    run(main)


# --- progress ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [list, iter, agenerated])
@pytest.mark.parametrize("limit", [None, 2, (2, "gate")])
def test_progress_is_told(form, limit):
    class Bar:
        def __init__(self):
            self.told = []

        def update(self, number):
            self.told.append(number)

    async def main():
        one = (2, asyncio.Semaphore(5)) if isinstance(limit, tuple) else limit
        told, bar = [], Bar()
        assert await abatch_as_completed(Work(), form([1, 2]), limit=one, progress=told.append) == [(0, 10), (1, 20)]
        assert await pairs_of(abatch_as_completed(Work(), form([1, 2]), limit=one, progress=told.append))
        assert told == [1, 1, 1, 1]
        told.clear()
        assert await abatch(Work(), form([1, 2, 3]), limit=one, progress=told.append) == [10, 20, 30]
        assert await abatch(Work(), form([1, 2, 3]), limit=one, progress=bar) == [10, 20, 30]
        assert told == bar.told == [1, 1, 1]
        told.clear()
        with pytest.raises(LookupError):
            await abatch(Work(failing=[1]), form([1, 2, 3]), limit=one, progress=told.append, cancel_on_error=True)
        assert sum(told) == (3 if limit is None else 2)
        for nobody in (None, False):
            assert await abatch(Work(), form([1]), progress=nobody) == [10]

    run(main)


def test_a_bar_knows_how_many_inputs_there_are(monkeypatch):
    bars = in_place_of_tqdm(monkeypatch)

    class Hints(AsyncIterable):
        def __length_hint__(self):
            return 3

    async def main():
        expected = {
            list: 3,
            iter: 3,
            agenerated: None,
            Hints: 3,
            INPUTS["generator"]: None,
            INPUTS["__getitem__"]: None,
        }
        for form, total in expected.items():
            assert await abatch(Work(), form([1, 2, 3]), limit=2, progress=True) == [10, 20, 30]
            assert bars[-1].total == total
            assert bars[-1].done[-1] == "closed"
            await abatch_as_completed(Work(), form([1, 2, 3]), limit=2, progress=True)
            assert bars[-1].total == total
        assert len(bars) == 2 * len(expected)
        assert await abatch(Work(), [], progress=True) == []
        assert bars[-1].total == 0

    run(main)


def test_the_bar_is_tqdms(capsys):
    pytest.importorskip("tqdm", reason="needs tqdm")

    async def main():
        assert await abatch(Work(), [1, 2, 3], limit=2, progress=True) == [10, 20, 30]

    run(main)
    assert "3/3" in capsys.readouterr().err
