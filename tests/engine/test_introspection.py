"""A Task of ours shows the user's coroutine, and the call graph joins it to the caller.

That is point 11 of docs/architecture.md.
"""

import asyncio
import sys

import pytest

from contract_tools import HAS_CALL_GRAPH, idle, run

pytestmark = pytest.mark.usefixtures("any_turns")

LIMITS = [1, 2, None]


@pytest.mark.parametrize("n", LIMITS)
def test_the_task_s_repr_stack_and_coroutine_are_the_item_s(impl, n):
    async def main():
        seen = {}

        async def watched():
            seen["task"] = asyncio.current_task()
            await asyncio.get_running_loop().create_future()

        coroutine = watched()
        caller = asyncio.create_task(impl.gather_with_concurrency(n, coroutine))
        await idle(3)
        task = seen["task"]
        assert "watched()" in repr(task)
        (frame,) = task.get_stack()
        assert frame.f_code.co_name == "watched"
        assert task.get_coro() is coroutine
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Task.get_context() is new in 3.12")
def test_get_context_is_the_item_s_context(impl):
    import contextvars

    variable = contextvars.ContextVar("variable")

    async def main():
        async def sets(value):
            variable.set(value)
            context = asyncio.current_task().get_context()
            assert context[variable] == value
            await asyncio.sleep(0)
            assert asyncio.current_task().get_context() is context
            return context

        contexts = await impl.gather_with_concurrency(1, *map(sets, range(4)))
        assert [context[variable] for context in contexts] == [0, 1, 2, 3]

    run(main)


@pytest.mark.skipif(not HAS_CALL_GRAPH, reason="the call graph is new in 3.14")
@pytest.mark.parametrize("n", LIMITS)
def test_the_call_graph_joins_running_items_to_the_caller_and_lets_go_of_them(impl, n):
    async def main():
        graphs = []
        tasks = []

        async def inner():
            await asyncio.sleep(0)
            graphs.append(asyncio.capture_call_graph())

        async def watched():
            tasks.append(asyncio.current_task())
            await inner()

        caller = asyncio.create_task(impl.gather_with_concurrency(n, watched(), watched()), name="caller")
        await caller
        for graph in graphs:
            names = [entry.frame.f_code.co_name for entry in graph.call_stack]
            assert names == ["inner", "watched"]
            (waiter,) = graph.awaited_by
            assert waiter.future is caller
        assert not any(asyncio.capture_call_graph(task).awaited_by for task in tasks)

    run(main)


@pytest.mark.skipif(not HAS_CALL_GRAPH, reason="the call graph is new in 3.14")
def test_items_that_outlive_the_call_are_awaited_by_nobody(impl):
    async def main():
        tasks = []

        async def watched():
            tasks.append(asyncio.current_task())
            await idle(5)

        async def fails():
            raise ValueError

        with pytest.raises(ValueError):
            await impl.gather_with_concurrency(2, watched(), fails())
        assert not tasks[0].done()
        assert not asyncio.capture_call_graph(tasks[0]).awaited_by
        await idle(6)

    run(main)


def test_log_records_name_the_item_s_task(impl):
    import logging

    async def main():
        async def logs():
            record = logging.LogRecord("name", logging.INFO, "path", 1, "message", (), None)
            return getattr(record, "taskName", None), asyncio.current_task().get_name()

        for recorded, name in await impl.gather_with_concurrency(1, logs(), logs()):
            if sys.version_info >= (3, 12):
                assert recorded == name

    run(main)


def test_get_coroutine_state_and_origin_can_be_asked(impl):
    async def main():
        call = impl.gather_with_concurrency(1, asyncio.sleep(0))
        assert call.cr_await is None
        assert call.cr_origin is None
        assert not call.cr_running
        await call

    run(main)


@pytest.mark.parametrize("n", LIMITS)
@pytest.mark.parametrize("turns", [0, 1])
def test_a_finished_task_can_still_be_asked_everything(impl, n, turns):
    async def main():
        tasks = []

        async def remembered():
            tasks.append(asyncio.current_task())
            await idle(turns)

        coroutines = [remembered() for _ in range(3)]
        await impl.gather_with_concurrency(n, *coroutines)
        await asyncio.sleep(0)
        for task, coroutine in zip(tasks, coroutines):
            assert task.done()
            # Python 3.12.0 to 3.12.4 crash here for an eager Task of their own.
            assert task.get_coro() in (coroutine, None)
            assert task.get_stack() == []
            assert repr(task).startswith("<Task finished name=")

    run(main)


@pytest.mark.skipif(not HAS_CALL_GRAPH, reason="the call graph is new in 3.14")
@pytest.mark.parametrize("impl", ["c-task-per-item"], indirect=True)
def test_the_edge_of_a_task_that_nobody_sees_goes_with_it(impl, monkeypatch):
    """asyncio is not asked to discard it: that would be a call for each item."""
    discarded = []
    discard = asyncio.futures.future_discard_from_awaited_by
    monkeypatch.setattr(
        asyncio.futures, "future_discard_from_awaited_by", lambda *edge: discarded.append(None) or discard(*edge)
    )
    seen = []

    async def item(index):
        seen.append(len(asyncio.current_task()._asyncio_awaited_by))

    asyncio.run(impl.gather_with_concurrency(10, *map(item, range(100))))
    assert seen == [1] * 100
    assert len(discarded) <= 1  # of the last, with which the call ends
