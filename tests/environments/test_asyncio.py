"""Gatherings inside and outside of asyncio's own tools, and what tools that look at Tasks see of them."""

import asyncio
import contextlib
import io
import logging
import sys
from functools import partial

import pytest

from contract_tools import Running
from virtual_time import run_in_virtual_time

pytestmark = pytest.mark.usefixtures("any_turns")


async def value(result, turns=1):
    for _ in range(turns):
        await asyncio.sleep(0)
    return result


async def hangs(ended=None):
    try:
        await asyncio.sleep(3600)
    finally:
        if ended is not None:
            ended.append(1)


def fronts(impl, n):
    """A gathering of what some functions make, by each of the public functions."""
    return {
        "gather_with_concurrency": lambda *makers: impl.gather_with_concurrency(n, *[make() for make in makers]),
        "gather": lambda *makers: impl.gather(*[make() for make in makers], limit=n),
        "run_all": lambda *makers: impl.run_all(makers, limit=n),
    }


FRONTS = ["gather_with_concurrency", "gather", "run_all"]


@pytest.fixture(params=FRONTS)
def front(request):
    return request.param


@pytest.fixture(params=[1, 2, None])
def n(request):
    return request.param


def test_timeout_around_a_gathering_cancels_it(impl, front, n):
    async def main():
        ended = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await fronts(impl, n)[front](partial(hangs, ended), partial(hangs, ended))
        assert len(ended) == (n or 2)
        assert asyncio.get_running_loop().time() == 5
        assert asyncio.current_task().cancelling() == 0

    run_in_virtual_time(main())


def test_timeouts_inside_of_items_end_only_their_item(impl, front, n):
    async def item(delay):
        try:
            async with asyncio.timeout(delay):
                await hangs()
        except TimeoutError:
            return delay

    async def main():
        assert await fronts(impl, n)[front](*[partial(item, delay) for delay in (3, 1, 2)]) == [3, 1, 2]

    run_in_virtual_time(main())


def test_wait_for_around_and_inside(impl, front, n):
    async def item(delay):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hangs(), delay)
        return delay

    async def main():
        assert await asyncio.wait_for(fronts(impl, n)[front](*[partial(item, delay) for delay in (3, 1, 2)]), 60) == [
            3,
            1,
            2,
        ]
        ended = []
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(fronts(impl, n)[front](partial(hangs, ended), partial(hangs, ended)), 1)
        assert len(ended) == (n or 2)

    run_in_virtual_time(main())


def test_task_groups_around_and_inside(impl, front, n):
    async def item(index):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(value(index + step)) for step in range(3)]
        return [task.result() for task in tasks]

    async def fails():
        async with asyncio.TaskGroup() as group:
            group.create_task(hangs())
            group.create_task(raises())

    async def raises():
        await value(None)
        raise ValueError("item")

    async def gathers():
        return await fronts(impl, n)[front](*[partial(item, index) for index in range(3)])

    async def main():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(gathers()) for _ in range(2)]
        assert [task.result() for task in tasks] == [[[i, i + 1, i + 2] for i in range(3)]] * 2
        with pytest.raises(ExceptionGroup) as caught:
            await fronts(impl, n)[front](fails, partial(value, 1), partial(value, 2))
        assert str(caught.value.exceptions[0]) == "item"
        # A group whose other member fails cancels the gathering, and nothing of it is left.
        ended = []
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(value_of(fronts(impl, n)[front](partial(hangs, ended), partial(hangs, ended))))
                group.create_task(raises_after(3))
        assert len(ended) == (n or 2)
        await value(None, 5)

    async def value_of(awaitable):
        return await awaitable

    async def raises_after(turns):
        await value(None, turns)
        raise ValueError("group")

    run_in_virtual_time(main())


def test_shield_around_a_gathering_lets_it_go_on(impl, front, n):
    async def main():
        ran = []

        async def item(index):
            await asyncio.sleep(1)
            ran.append(index)

        inner = asyncio.ensure_future(fronts(impl, n)[front](*[partial(item, index) for index in range(3)]))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await asyncio.shield(inner)
        assert ran == []
        assert len(await inner) == 3
        assert ran == [0, 1, 2]

    run_in_virtual_time(main())


def test_shield_inside_of_an_item_keeps_what_it_shields(impl, front, n):
    async def main():
        finished = []

        async def slow():
            await asyncio.sleep(2)
            finished.append(1)

        tasks = []

        async def item():
            tasks.append(asyncio.ensure_future(slow()))
            await asyncio.shield(tasks[-1])

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await fronts(impl, n)[front](item, hangs)
        assert finished == []
        await asyncio.wait(tasks)
        assert finished == [1]

    run_in_virtual_time(main())


def test_a_gathering_can_be_awaited_through_every_door(impl):
    async def main():
        loop = asyncio.get_running_loop()

        def make(*coros):
            return impl.gather_with_concurrency(2, *coros)

        assert await make(value(1), value(2)) == [1, 2]
        assert await asyncio.create_task(make(value(1), value(2))) == [1, 2]
        assert await asyncio.ensure_future(make(value(1), value(2))) == [1, 2]
        assert await asyncio.gather(make(value(1)), make(value(2))) == [[1], [2]]
        assert await asyncio.shield(make(value(1))) == [1]
        done, pending = await asyncio.wait([loop.create_task(make(value(1)))])
        assert [task.result() for task in done] == [[1]] and not pending
        for next_done in asyncio.as_completed([make(value(1))]):
            assert await next_done == [1]

    asyncio.run(main())
    assert asyncio.run(impl.gather_with_concurrency(2, value(1), value(2))) == [1, 2]


def test_run_coroutine_threadsafe_runs_a_gathering(impl):
    import threading

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        future = asyncio.run_coroutine_threadsafe(impl.gather_with_concurrency(2, value(1), value(2)), loop)
        assert future.result(60) == [1, 2]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


# ---- What tools see ----


def test_all_tasks_holds_the_items_that_run_and_little_more(impl):
    async def main():
        seen = []

        async def item():
            await value(None)
            seen.append(len(asyncio.all_tasks()))
            assert asyncio.current_task() in asyncio.all_tasks()
            await value(None)

        await impl.gather_with_concurrency(3, *[item() for _ in range(50)])
        # The items, one more that is just ending, the keeper, and the main Task.
        assert max(seen) <= 3 + 2 + 1
        await impl.gather(*[item() for _ in range(50)], limit=3)
        assert max(seen) <= 3 + 2 + 1
        await value(None, 3)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_names_are_unique_and_can_be_set(impl):
    async def main():
        names = []

        async def item(index):
            names.append(asyncio.current_task().get_name())
            await value(None, index % 3)
            assert asyncio.current_task().get_name() == names[index]
            asyncio.current_task().set_name(f"mine {index}")
            await value(None, index % 2)
            assert asyncio.current_task().get_name() == f"mine {index}"

        await impl.gather_with_concurrency(1, *map(item, range(20)))
        assert len(set(names)) == 20
        assert all(isinstance(name, str) and name for name in names)

    asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="taskName is new in 3.12")
def test_log_records_carry_the_items_task_name(impl):
    records = []

    class Handler(logging.Handler):
        def emit(self, record):
            records.append(record.taskName)

    logger = logging.Logger("gatedcoro test")
    logger.addHandler(Handler())

    async def main():
        expected = []

        async def item(index):
            logger.info("message")
            expected.append(asyncio.current_task().get_name())
            await value(None, index % 2)
            logger.info("message")
            expected.append(asyncio.current_task().get_name())

        await impl.gather_with_concurrency(1, *map(item, range(10)))
        assert records == expected
        assert len(set(records)) == 10

    asyncio.run(main())


def names_of_stack(task):
    return [frame.f_code.co_name for frame in task.get_stack()]


def test_get_stack_and_repr_of_an_items_task_show_the_users_code(impl):
    async def main():
        tasks = []

        async def users_item():
            tasks.append(asyncio.current_task())
            assert "users_item" in repr(tasks[-1])
            await asyncio.sleep(3600)

        caller = asyncio.ensure_future(impl.gather_with_concurrency(1, users_item(), users_item()))
        await value(None, 3)
        (task,) = tasks
        assert names_of_stack(task) == ["users_item"]
        printed = io.StringIO()
        task.print_stack(file=printed)
        assert "users_item" in printed.getvalue()
        assert "users_item" in repr(task)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert names_of_stack(task) in ([], ["users_item"])
        assert "cancelled" in repr(task)

    asyncio.run(main())


def test_get_context_is_the_items_own(impl):
    if not hasattr(asyncio.Task, "get_context"):
        pytest.skip("get_context is new in 3.12")
    import contextvars

    variable = contextvars.ContextVar("variable", default=None)

    async def main():
        async def item(index):
            variable.set(index)
            assert asyncio.current_task().get_context()[variable] == index
            await value(None, index % 2)
            assert asyncio.current_task().get_context()[variable] == index
            assert variable.get() == index

        await impl.gather_with_concurrency(1, *map(item, range(10)))

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(asyncio, "capture_call_graph"), reason="call graphs are new in 3.14")
def test_the_call_graph_joins_items_to_the_caller(impl):
    async def main():
        graphs = []

        async def users_item():
            await value(None)
            graphs.append(asyncio.capture_call_graph())
            assert "users_item" in asyncio.format_call_graph()
            await value(None)

        async def users_caller():
            await impl.gather_with_concurrency(1, users_item(), users_item())

        caller = asyncio.create_task(users_caller(), name="the caller")
        await caller
        assert len(graphs) == 2
        for graph in graphs:
            assert "users_item" in [entry.frame.f_code.co_name for entry in graph.call_stack]
            (awaiter,) = graph.awaited_by
            assert awaiter.future is caller
            assert "users_caller" in [entry.frame.f_code.co_name for entry in awaiter.call_stack]

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(asyncio, "capture_call_graph"), reason="call graphs are new in 3.14")
def test_the_call_graph_of_the_caller_ends_when_the_gathering_does(impl):
    async def main():
        tasks = []

        async def item(turns):
            tasks.append(asyncio.current_task())
            await value(None, turns)

        await impl.gather_with_concurrency(2, item(1), item(2), item(1))
        for task in tasks:
            graph = asyncio.capture_call_graph(task)
            assert graph is None or not graph.awaited_by

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(asyncio, "capture_call_graph"), reason="call graphs are new in 3.14")
def test_the_call_graph_is_printed_from_outside_and_through_nested_gatherings(impl):
    async def main():
        async def users_leaf():
            await asyncio.sleep(3600)

        async def users_middle():
            await impl.gather_with_concurrency(None, users_leaf())

        task = asyncio.create_task(value_of(impl.gather_with_concurrency(1, users_middle())))
        await value(None, 5)
        (leaf,) = [task for task in asyncio.all_tasks() if task.get_stack() and names_of_stack(task)[0] == "users_leaf"]
        printed = io.StringIO()
        asyncio.print_call_graph(leaf, file=printed)
        for name in ("users_leaf", "users_middle", "value_of"):
            assert name in printed.getvalue()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def value_of(awaitable):
        return await awaitable

    asyncio.run(main())


def test_gatherings_nest_with_and_without_a_shared_semaphore(impl):
    async def main():
        for shared in (True, False):
            gate = asyncio.Semaphore(2)
            running = Running()

            async def leaf(index):
                with running:
                    await asyncio.sleep(index)
                return index

            async def branch(base):
                own_gate = gate if shared else asyncio.Semaphore(2)
                first = await impl.gather_with_concurrency(
                    9, *[impl.gated_coro(own_gate, leaf(base)) for _ in range(3)]
                )
                second = await impl.gather(*[leaf(base) for _ in range(3)], limit=own_gate)
                return first + second

            assert await impl.gather_with_concurrency(2, branch(1), branch(2), branch(3)) == [
                [i] * 6 for i in (1, 2, 3)
            ]
            assert running.most == (2 if shared else 4)
            assert not gate.locked()

    run_in_virtual_time(main())


def test_an_item_may_gather_by_the_semaphore_that_it_holds_if_there_are_slots_left(impl):
    async def main():
        gate = asyncio.Semaphore(3)

        async def holds():
            return await impl.gather(value(1), value(2), limit=gate)

        assert await impl.gather(holds(), holds(), limit=gate) == [[1, 2], [1, 2]]
        assert not gate.locked()

    run_in_virtual_time(main())
