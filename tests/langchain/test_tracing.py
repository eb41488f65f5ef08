"""Callbacks and tracers see of `abatch_as_completed`, gatedcoro's and the swap's, what they see of LangChain's."""

import asyncio
import re
import uuid

import pytest

pytest.importorskip("langchain_core", reason="needs langchain-core")

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tracers.base import AsyncBaseTracer, BaseTracer

import contract_tools
from as_completed_tools import WAYS, in_order, pairs_by_index
from gatedcoro.langchain import abatch_as_completed, swapped
from langchain_tools import ADD_ONE, DOUBLE, EchoModel, chain


class Runs:
    """What happened to each run, by what it was called for; a run's own id by its name where that is not given."""

    def __init__(self):
        self.labels = {}
        self.groups = {}
        self.events = {}

    def start(self, kind, name, inputs, run_id, parent_run_id, tags, metadata):
        label = f"{self.labels.get(parent_run_id, parent_run_id)}/{name}({inputs})"
        inside = parent_run_id in self.groups and self.groups[parent_run_id] is not None
        # The runs of an input are those of its topmost run; what calls the batch is no such run.
        self.groups[run_id] = None if name == "outer" else self.groups[parent_run_id] if inside else label
        self.labels[run_id] = label
        self.add(run_id, "start", kind, tuple(tags or ()), repr(metadata), run_id if run_id.int < 100 else None)

    def end(self, kind, run_id, result):
        self.add(run_id, kind, repr(result))

    def add(self, run_id, *event):
        self.events.setdefault(self.groups[run_id], []).append((self.labels[run_id], *event))


class Handler(AsyncCallbackHandler):
    """Tells a Runs; every step of it takes a turn of the loop."""

    def __init__(self):
        self.runs = Runs()

    async def on_chain_start(self, serialized, inputs, *, run_id, parent_run_id=None, tags=None, metadata=None, **more):
        await asyncio.sleep(0)
        self.runs.start("chain", more.get("name"), inputs, run_id, parent_run_id, tags, metadata)

    async def on_chat_model_start(
        self, serialized, messages, *, run_id, parent_run_id=None, tags=None, metadata=None, **more
    ):
        await asyncio.sleep(0)
        text = [message.content for message in messages[0]]
        self.runs.start("model", more.get("name"), text, run_id, parent_run_id, tags, metadata)

    async def on_chain_end(self, outputs, *, run_id, **more):
        await asyncio.sleep(0)
        self.runs.end("end", run_id, outputs)

    async def on_llm_end(self, response, *, run_id, **more):
        self.runs.end("end", run_id, response.generations[0][0].text)

    async def on_chain_error(self, error, *, run_id, **more):
        self.runs.end("error", run_id, error)

    async def on_llm_error(self, error, *, run_id, **more):
        self.runs.end("error", run_id, error)

    def found(self):
        return sorted(self.runs.events.items(), key=repr)


class Tracer:
    """What both kinds of tracer keep: the trees of runs, and the events of each."""

    run_inline = True  # a synchronous one in the loop's thread, so that its events have an order

    def __init__(self):
        super().__init__()
        self.runs = Runs()
        self.trees = []

    def created(self, run):
        metadata = (run.extra or {}).get("metadata")
        self.runs.start(run.run_type, run.name, run.inputs, run.id, run.parent_run_id, run.tags, metadata)
        assert str(run.trace_id) == run.dotted_order.split(".")[0].partition("Z")[2]

    def updated(self, run):
        self.runs.end("end", run.id, (str(run.error).split("\n")[0] if run.error else "", text_of(run.outputs)))

    def tree(self, run):
        children = [self.tree(child) for child in run.child_runs]
        return run.name, run.run_type, str(run.inputs), text_of(run.outputs), run.tags, children

    def found(self):
        assert not self.run_map
        return sorted(self.runs.events.items(), key=repr), sorted(map(repr, self.trees))


def text_of(outputs):
    if outputs and "generations" in outputs:
        return outputs["generations"][0][0]["text"]
    return str(outputs)


class AsyncTracer(Tracer, AsyncBaseTracer):
    async def _persist_run(self, run):
        self.trees.append(self.tree(run))

    async def _on_run_create(self, run):
        self.created(run)

    async def _on_run_update(self, run):
        self.updated(run)


class SyncTracer(Tracer, BaseTracer):
    def _persist_run(self, run):
        self.trees.append(self.tree(run))

    def _on_run_create(self, run):
        self.created(run)

    def _on_run_update(self, run):
        self.updated(run)


MODEL = EchoModel()
TRACED_RUNNABLES = {
    "a lambda": (DOUBLE, [0, 1, 2, 3, 4]),
    "a sequence": (ADD_ONE | DOUBLE | ADD_ONE, [0, 1, 2, 3, 4]),
    "in parallel": (RunnableParallel(a=DOUBLE, b=ADD_ONE), [0, 1, 2, 3, 4]),
    "a chat model": (MODEL, [f"question {n}" for n in range(5)]),
    "a chain": (chain(MODEL), [{"word": f"word {n}"} for n in range(5)]),
}
TRACERS = [Handler, AsyncTracer, SyncTracer]


@pytest.mark.parametrize("max_concurrency", [None, 2])
@pytest.mark.parametrize("make", TRACERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize(("runnable", "inputs"), TRACED_RUNNABLES.values(), ids=TRACED_RUNNABLES)
def test_traces_are_langchains(runnable, inputs, make, max_concurrency):
    def own_configs(tracer):
        return [
            {
                "callbacks": [tracer],
                "run_id": uuid.UUID(int=n + 1),
                "run_name": f"run {n}",
                "tags": [f"tag {n}"],
                "metadata": {"n": n},
                "max_concurrency": max_concurrency,
            }
            for n in range(5)
        ]

    async def directly(way, tracer):
        return await pairs_by_index(runnable, way, inputs, own_configs(tracer), return_exceptions=True)

    async def one_config_for_all(way, tracer):
        config = {"callbacks": [tracer], "tags": ["tag"], "metadata": {"m": 1}, "max_concurrency": max_concurrency}
        return await pairs_by_index(runnable, way, inputs, config, return_exceptions=True)

    async def inside(way, tracer):
        async def outer(value):
            return await pairs_by_index(runnable, way, inputs, {"tags": ["inner"]}, return_exceptions=True)

        config = {"callbacks": [tracer], "tags": ["outer"], "metadata": {"m": 1}, "max_concurrency": max_concurrency}
        return await RunnableLambda(outer).ainvoke("begin", config)

    def traces(program, way):
        tracer = make()
        # In real time: a prompt and a parser work in threads. A message's own id is made of its run's.
        results = contract_tools.run(lambda: program(way, tracer))
        return re.sub(r"run--[-0-9a-f]*", "run", repr((results, tracer.found()))), tracer

    for program in (directly, one_config_for_all, inside):
        with in_order():
            expected, tracer = traces(program, WAYS["LangChain's"])
        assert len(tracer.runs.events) == 5 + (program is inside)
        assert {events[0][1] for events in tracer.runs.events.values()} == {"start"}
        assert {events[-1][1] for events in tracer.runs.events.values()} <= {"end", "error"}
        with swapped():
            assert traces(program, WAYS["swapped"])[0] == expected
        assert traces(program, abatch_as_completed)[0] == expected
