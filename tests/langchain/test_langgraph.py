"""Compiled graphs behave the same with and without the swap."""

import asyncio
import contextlib
import importlib.util
import typing

import pytest

pytest.importorskip("langchain_core", reason="needs langchain-core")


from as_completed_tools import LEAVES, in_order, long_after
from gatedcoro.langchain import abatch_as_completed, swapped
from langchain_tools import Work, warnings_ignored
from stream_tools import run
from virtual_time import run_in_virtual_time

needs_langgraph = pytest.mark.skipif(importlib.util.find_spec("langgraph") is None, reason="needs langgraph")


class GraphState(typing.TypedDict):
    number: int
    path: typing.Annotated[list, lambda old, new: old + new]


class Graph:
    """A compiled graph of two nodes with a checkpointer; the second one works for as long as the number says."""

    def __init__(self, failing=(), cleanup=0):
        from langgraph.checkpoint.memory import InMemorySaver
        from langgraph.graph import END, START, StateGraph

        self.work = Work(failing, cleanup)
        graph = StateGraph(GraphState)
        graph.add_node("first", self.first)
        graph.add_node("second", self.second)
        graph.add_edge(START, "first")
        graph.add_edge("first", "second")
        graph.add_edge("second", END)
        self.graph = graph.compile(checkpointer=InMemorySaver())

    async def first(self, state):
        return {"path": [f"first of {state['number']}"]}

    async def second(self, state):
        return {"path": ["second"], "number": await self.work.ainvoke(state["number"])}

    def batch(self, method, numbers, max_concurrency=None, **kwargs):
        configs = [{"configurable": {"thread_id": f"thread {n}"}, "max_concurrency": max_concurrency} for n in numbers]
        inputs = [{"number": n, "path": ["input"]} for n in numbers]
        return method(self.graph, inputs, configs, **kwargs)

    async def states(self, numbers):
        """What the checkpointer has for each: the state, what comes next, and how many steps it took."""
        found = []
        for number in numbers:
            config = {"configurable": {"thread_id": f"thread {number}"}}
            state = await self.graph.aget_state(config)
            found.append((state.values, state.next, len([one async for one in self.graph.aget_state_history(config)])))
        return found


def graphs_abatch(graph, inputs, configs, **kwargs):
    return graph.abatch(inputs, configs, **kwargs)


def graphs_abatch_as_completed(graph, inputs, configs, **kwargs):
    async def collect():
        found = {}
        async for index, value in graph.abatch_as_completed(inputs, configs, **kwargs):
            found[index] = value
        return [found[index] for index in range(len(inputs))]

    return collect()


def in_a_list(graph, inputs, configs, **kwargs):
    async def collect():
        return [output for _, output in await abatch_as_completed(graph, inputs, configs, **kwargs)]

    return collect()


@needs_langgraph
@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("failing", [(), (5,)])
@pytest.mark.parametrize("max_concurrency", [None, 2])
def test_graphs_behave_the_same_with_and_without_the_swap(max_concurrency, failing, return_exceptions):
    numbers = [3, 1, 5, 9, 7]

    async def main(method):
        graph = Graph(failing)
        try:
            found = await graph.batch(method, numbers, max_concurrency, return_exceptions=return_exceptions)
            found = [repr(value) for value in found]
        except LookupError as error:
            found = repr(error)
        await long_after()
        if failing and not return_exceptions:
            # What had not ended by then runs on in LangChain alone.
            ended = [1, 3] if max_concurrency is None else [1]
            assert graph.work.most == (max_concurrency or 5)
            return found, await graph.states(ended)
        assert graph.work.most == (max_concurrency or 5)
        return found, await graph.states(numbers)

    with warnings_ignored():
        with in_order():
            expected = run_in_virtual_time(main(graphs_abatch_as_completed))
        if not (failing and not return_exceptions):
            assert run_in_virtual_time(main(graphs_abatch)) == expected
        assert ("LookupError" in str(expected[0])) == bool(failing)
        assert ("first of 1" in str(expected[1])) and expected[1][0][2] >= 3
        with swapped():
            assert run_in_virtual_time(main(graphs_abatch)) == expected
            assert run_in_virtual_time(main(graphs_abatch_as_completed)) == expected
        assert run_in_virtual_time(main(in_a_list)) == expected


@needs_langgraph
@pytest.mark.parametrize("leave", LEAVES, ids=lambda leave: leave.__name__)
@pytest.mark.parametrize("swap", [False, True])
def test_a_graph_that_is_left_early_runs_nothing_any_more(leave, swap):
    numbers = [1, 7, 9, 8, 6]

    def method(graph, inputs, configs):
        return graph.abatch_as_completed(inputs, configs) if swap else abatch_as_completed(graph, inputs, configs)

    async def main():
        graph = Graph(cleanup=3)
        await leave(graph.batch(method, numbers, 3))
        assert not graph.work.running
        assert graph.work.trace in (
            "+1 +7 +9 -1 +8 x7 x9 x8 .7 .9 .8",
            "+1 +7 +9 -1 x7 x9 .7 .9",
        )
        before = graph.work.trace
        assert len(asyncio.all_tasks()) == 1
        states = await graph.states(numbers)
        await long_after()
        assert graph.work.trace == before
        assert await graph.states(numbers) == states
        # What has ended is there, what was cancelled can go on, what never started is not there.
        assert [state.get("number") for state, _, _ in states] in ([10, 7, 9, 8, None], [10, 7, 9, None, None])
        assert states[0][1] == ()
        assert states[1][1] == ("second",)

    with swapped() if swap else contextlib.nullcontext():
        run(main)
