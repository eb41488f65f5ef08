"""LangChain's own runnables with and without the swap: the same outcome, and what the swap does and does not reach."""

import asyncio
import contextlib
import inspect
import typing
import warnings
from unittest import mock

import pytest

from contract_tools import Running

pytest.importorskip("langchain_core", reason="needs langchain-core")

import langchain_core
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.runnables import RunnableLambda, RunnableParallel, utils

import gatedcoro
from gatedcoro.langchain import _drift, _planted, _swap, install, installed, swapped, uninstall
from langchain_tools import (
    ADD_ONE,
    DOUBLE,
    RUNNABLES,
    EchoModel,
    Slow,
    chain,
    no_warnings,
    outcome,
    warnings_ignored,
)


@pytest.fixture(autouse=True)
def nothing_left_installed():
    yield
    uninstall()


@contextlib.contextmanager
def helper_calls():
    """The arguments of every call that reaches gatedcoro's two functions."""
    with (
        mock.patch.object(gatedcoro, "gated_coro", wraps=gatedcoro.gated_coro) as gated,
        mock.patch.object(gatedcoro, "gather_with_concurrency", wraps=gatedcoro.gather_with_concurrency) as gather,
    ):
        yield {"gated_coro": gated.call_args_list, "gather_with_concurrency": gather.call_args_list}


# --- The helpers themselves ------------------------------------------------------------------------------------


def test_this_release_is_known():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        install()
    assert installed()


@pytest.mark.parametrize("helper", _swap.LANGCHAIN_HELPERS + _swap.LANGCHAIN_METHODS, ids=lambda helper: helper.name)
def test_the_fingerprints_are_those_of_this_release(helper):
    function = _swap.home_of(helper).names[helper.name]
    assert _drift.fingerprints(function) in helper.known.bodies
    oldest = langchain_core.__version__ == "0.3.61"
    assert _drift.fingerprints(function) == helper.known.bodies[-1 if oldest else 0]


def test_the_planted_functions_have_this_releases_signatures():
    for name in ("gated_coro", "gather_with_concurrency"):
        theirs, ours = vars(utils)[name], vars(_planted)[name]
        assert list(inspect.signature(theirs).parameters) == list(inspect.signature(ours).parameters)
        assert typing.get_type_hints(ours).keys() == theirs.__annotations__.keys()


def test_the_modules_that_import_the_helpers_by_name_are_reached():
    from langchain_core.runnables import base, configurable, router

    with swapped():
        assert base.gated_coro is _planted.gated_coro
        for module in (base, configurable, router, utils):
            assert module.gather_with_concurrency is _planted.gather_with_concurrency
    assert base.gated_coro is utils.gated_coro is not _planted.gated_coro


@pytest.mark.parametrize(
    ("name", "helpers"),
    [
        ("langchain_classic.schema.runnable.utils", ["gated_coro", "gather_with_concurrency"]),
        ("langchain_community.vectorstores.astradb", ["gather_with_concurrency"]),
    ],
)
@pytest.mark.parametrize("imported_first", [True, False])
def test_langchains_other_packages_are_reached(name, helpers, imported_first, monkeypatch):
    import importlib
    import sys

    if not imported_first:
        monkeypatch.delitem(sys.modules, name, raising=False)
        install()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = importlib.import_module(name)
        except ImportError:
            pytest.skip(f"needs {name.partition('.')[0]}")
    install()
    assert [vars(module)[helper] for helper in helpers] == [vars(_planted)[helper] for helper in helpers]
    uninstall()
    assert [vars(module)[helper] for helper in helpers] == [vars(utils)[helper] for helper in helpers]


# --- Same outcome with and without the swap --------------------------------------------------------------------


@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("max_concurrency", [None, 1, 5, 100])
@pytest.mark.parametrize("make", RUNNABLES.values(), ids=RUNNABLES)
def test_abatch_has_the_same_outcome(make, max_concurrency, return_exceptions):
    def main():
        runnable, inputs, config = make()
        config = {**config, "max_concurrency": max_concurrency}
        return runnable.abatch(list(inputs), config, return_exceptions=return_exceptions)

    with warnings_ignored():
        expected = outcome(main())
    with no_warnings(), swapped():
        assert outcome(main()) == expected


@pytest.mark.parametrize("max_concurrency", [None, 1, 5, 100])
@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("make", RUNNABLES.values(), ids=RUNNABLES)
def test_abatch_as_completed_has_the_same_outcome(make, max_concurrency, return_exceptions):
    async def main():
        runnable, inputs, config = make()
        config = {**config, "max_concurrency": max_concurrency}
        found = {}
        async for index, value in runnable.abatch_as_completed(
            list(inputs), config, return_exceptions=return_exceptions
        ):
            found[index] = value
        return [found[index] for index in range(len(inputs))]

    with warnings_ignored():
        expected = outcome(main())
    with warnings_ignored(), swapped():
        assert outcome(main()) == expected


@pytest.mark.parametrize("max_concurrency", [None, 3])
def test_configs_and_callbacks_are_the_same(max_concurrency):
    class Recorder(AsyncCallbackHandler):
        def __init__(self):
            self.runs = {}
            self.events = []

        async def on_chain_start(
            self, serialized, inputs, *, run_id, parent_run_id=None, tags=None, metadata=None, **kwargs
        ):
            self.runs[run_id] = inputs
            self.events.append(
                ("start", str(inputs), str(self.runs.get(parent_run_id)), tuple(tags), tuple(metadata.items()))
            )

        async def on_chain_error(self, error, *, run_id, **kwargs):
            self.events.append(("error", str(self.runs[run_id]), type(error)))

        async def on_chain_end(self, outputs, *, run_id, **kwargs):
            self.events.append(("end", str(self.runs[run_id]), str(outputs)))

    def main(recorder):
        configs = [
            {"tags": [f"tag {n}"], "metadata": {"n": n}, "callbacks": [recorder], "max_concurrency": max_concurrency}
            for n in range(5)
        ]
        return (ADD_ONE | DOUBLE).abatch([*range(5)], configs, return_exceptions=True)

    recorders = Recorder(), Recorder()
    expected = outcome(main(recorders[0]))
    with swapped():
        assert outcome(main(recorders[1])) == expected
    assert sorted(map(repr, recorders[1].events)) == sorted(map(repr, recorders[0].events))
    assert len(recorders[1].events) == 30


# --- Cancellation and timeouts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("max_concurrency", [None, 2])
@pytest.mark.parametrize("swap", [False, True])
def test_a_timeout_or_a_cancellation_is_the_same_exception_and_leaves_no_warnings(max_concurrency, swap):
    async def main():
        slow = Slow()
        with pytest.raises(asyncio.TimeoutError):
            async with asyncio.timeout(0.05):
                await slow.runnable.abatch([*range(6)], {"max_concurrency": max_concurrency})
        slow = Slow()
        task = asyncio.ensure_future(slow.runnable.abatch([*range(6)], {"max_concurrency": max_concurrency}))
        while slow.started < (max_concurrency or 6):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if swap:
            # The caller is told when the first running item has ended; LangChain tells at once.
            assert slow.ended >= 1
        elif max_concurrency:
            assert slow.ended == 0
        await asyncio.sleep(0.05)
        assert slow.ended == slow.started == (max_concurrency or 6)

    with no_warnings() if swap else warnings_ignored():
        with swapped() if swap else contextlib.nullcontext():
            asyncio.run(main())


def test_a_max_concurrency_of_nought_is_refused_instead_of_hanging():
    with no_warnings(), swapped(), pytest.raises(ValueError, match="max_concurrency must be at least 1"):
        asyncio.run(DOUBLE.abatch([1, 2], {"max_concurrency": 0}))


@pytest.mark.parametrize("swap", [False, True])
def test_the_calls_that_cancel_on_error_saves(swap):
    calls = 0

    async def call(value):
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        if value == 0:
            raise LookupError
        await asyncio.sleep(0.001)

    async def main():
        with pytest.raises(LookupError):
            await RunnableLambda(call).abatch([*range(50)], {"max_concurrency": 5})
        await asyncio.sleep(0.1)
        async with asyncio.timeout(30):
            while not swap and calls < 50:
                await asyncio.sleep(0.01)

    with warnings_ignored(), swapped(cancel_on_error=swap):
        asyncio.run(main())
    assert calls == (5 if swap else 50)


# --- What is reached, and what is not --------------------------------------------------------------------------


def test_a_parallel_runnable_is_never_bounded():
    running = Running()

    async def call(value):
        with running:
            await asyncio.sleep(0.001)

    parallel = RunnableParallel({str(n): RunnableLambda(call) for n in range(5)})
    with swapped(), helper_calls() as calls:
        asyncio.run(parallel.ainvoke(0, {"max_concurrency": 2}))
    assert running.most == 5
    assert not any(calls.values())


def test_nested_limits_multiply():
    running = Running()

    async def call(value):
        with running:
            await asyncio.sleep(0.001)

    async def outer(value, config):
        return await RunnableLambda(call).abatch([1, 2, 3, 4], {"max_concurrency": 2})

    with swapped():
        asyncio.run(RunnableLambda(outer).abatch([1, 2, 3, 4, 5], {"max_concurrency": 3}))
    assert running.most == 6


def test_a_llm_batches_by_itself():
    model = FakeListLLM(responses=["a", "b"])
    with swapped(), helper_calls() as calls:
        asyncio.run(model.abatch(["1", "2", "3"], {"max_concurrency": 2}))
    assert not calls["gather_with_concurrency"]


@pytest.mark.parametrize("swap", ["none", "without it", "with it"])
def test_abatch_as_completed_runs_on_after_a_break_unless_it_is_swapped(swap):
    async def main():
        slow = Slow()
        slow.release.set()
        async for _ in slow.runnable.abatch_as_completed([*range(6)], {"max_concurrency": 2}):
            break
        await asyncio.sleep(0.2)
        assert slow.running == 0
        return slow.started

    swap_of_choice = contextlib.nullcontext() if swap == "none" else swapped(as_completed=swap == "with it")
    with warnings_ignored(), swap_of_choice, helper_calls() as calls:
        # Those that took the slots of the first two, which may end in one turn, are cancelled.
        assert asyncio.run(main()) in ((3, 4) if swap == "with it" else (6,))
    assert len(calls["gated_coro"]) == (6 if swap == "without it" else 0)


def test_a_chain_of_prompt_model_and_parser_reaches_the_helper_three_times():
    inputs = [{"word": str(number)} for number in range(2_000)]
    with no_warnings(), swapped(), helper_calls() as calls:
        outputs = asyncio.run(chain(EchoModel()).abatch(inputs, {"max_concurrency": 20}))
    assert outputs == [f"Say {number}." for number in range(2_000)]
    assert [call.args[0] for call in calls["gather_with_concurrency"]] == [20, 20, 20]
    assert [len(call.args) - 1 for call in calls["gather_with_concurrency"]] == [2_000] * 3


@pytest.mark.parametrize("swap", [False, True])
def test_a_model_behind_http_never_has_more_requests_than_the_limit(swap):
    now = most = served = 0

    async def serve(reader, writer):
        nonlocal now, most, served
        now += 1
        most = max(most, now)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        body = await reader.readexactly(int(head.partition("content-length:")[2].split("\r\n")[0]))
        await asyncio.sleep(0.002)
        now -= 1
        served += 1
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body.upper())
        await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            model = EchoModel(port=server.sockets[0].getsockname()[1])
            return await chain(model).abatch([{"word": f"w{n}"} for n in range(60)], {"max_concurrency": 7})

    with swapped() if swap else contextlib.nullcontext():
        assert asyncio.run(main()) == [f"SAY W{n}." for n in range(60)]
    assert most == 7
    assert served == 60


# --- langgraph -------------------------------------------------------------------------------------------------


def test_langgraph_runs_on_the_planted_gate():
    pytest.importorskip("langgraph", reason="needs langgraph")
    from langgraph.graph import END, START, StateGraph
    from langgraph.pregel import _executor

    class State(typing.TypedDict):
        numbers: typing.Annotated[list, lambda old, new: old + new]

    async def node(state):
        await asyncio.sleep(0)
        return {"numbers": [len(state["numbers"])]}

    graph = StateGraph(State)
    for name in "abc":
        graph.add_node(name, node)
        graph.add_edge(START, name)
        graph.add_edge(name, END)
    graph = graph.compile()

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        install(langgraph=True)
    assert _executor.gated is _planted.gated
    with helper_calls() as calls:
        result = asyncio.run(graph.ainvoke({"numbers": [0]}, {"max_concurrency": 2}))
        assert result == {"numbers": [0, 1, 1, 1]}
        assert len(calls["gated_coro"]) == 3
        asyncio.run(graph.abatch([{"numbers": [0]}] * 4, {"max_concurrency": 2}))
    assert len(calls["gather_with_concurrency"]) == 1
    uninstall()
    assert _executor.gated is not _planted.gated
