"""Each item runs in a Task of its own, which ends as the item does."""

import asyncio
import weakref

import pytest

from contract_tools import idle, run

LIMITS = [1, 2, None]


@pytest.mark.parametrize("n", LIMITS)
def test_each_item_has_a_task_and_a_name_of_its_own(impl, n):
    async def main():
        tasks = []

        async def remembers():
            task = asyncio.current_task()
            tasks.append(task)
            await asyncio.sleep(0)
            assert asyncio.current_task() is task
            return task.get_name()

        names = await impl.gather_with_concurrency(n, *(remembers() for _ in range(6)))
        assert len({id(task) for task in tasks}) == 6
        assert len(set(names)) == 6
        assert all(isinstance(task, asyncio.Task) for task in tasks)
        assert all(repr(task).startswith("<Task ") for task in tasks)
        assert asyncio.current_task() not in tasks

    run(main)


@pytest.mark.parametrize("n", LIMITS)
@pytest.mark.parametrize("turns", [0, 1])
def test_a_task_that_somebody_holds_ends_as_its_item_did(impl, n, turns):
    async def main():
        tasks = {}
        error = ValueError("failed")

        async def ends(how):
            tasks[how] = asyncio.current_task()
            await idle(turns)
            if how == "failed":
                raise error
            if how == "cancelled":
                raise asyncio.CancelledError("by itself")
            return how

        call = impl.gather(*map(ends, ["returned", "failed", "cancelled", "last"]), limit=n, return_exceptions=True)
        await call
        await asyncio.sleep(0)
        assert tasks["returned"].result() == "returned"
        assert tasks["failed"].exception() is error
        assert tasks["cancelled"].cancelled()
        assert await tasks["last"] == "last"
        assert not any(task.cancelling() for task in tasks.values())

    run(main)


@pytest.mark.parametrize("n", LIMITS)
def test_a_held_task_can_be_awaited_and_calls_its_callbacks(impl, n):
    async def main():
        called = []

        async def calls(name):
            asyncio.current_task().add_done_callback(lambda task: called.append((name, task.result())))
            await asyncio.sleep(0)
            return name.upper()

        assert await impl.gather_with_concurrency(n, *map(calls, "abc")) == ["A", "B", "C"]
        await asyncio.sleep(0)
        assert sorted(called) == [("a", "A"), ("b", "B"), ("c", "C")]

    run(main)


@pytest.mark.parametrize("n", LIMITS)
def test_an_error_that_went_to_the_caller_is_not_reported_by_a_held_task(impl, n):
    async def main():
        tasks = []

        async def fails():
            tasks.append(asyncio.current_task())
            await asyncio.sleep(0)
            raise ValueError

        with pytest.raises(ValueError):
            await impl.gather_with_concurrency(n, *(fails() for _ in range(3)))
        await idle(4)
        assert len(tasks) == 3

    run(main)  # which fails if the loop reports anything


@pytest.mark.parametrize("n", LIMITS)
def test_names_attributes_and_cancellations_do_not_leak_into_the_next_item(impl, n):
    async def main():
        async def leaves_traces(index):
            task = asyncio.current_task()
            seen = task.cancelling(), task.get_name().startswith("mine")
            task.set_name(f"mine {index}")
            task.cancel()
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                pass
            return seen

        results = await impl.gather_with_concurrency(n, *map(leaves_traces, range(5)))
        assert results == [(0, False)] * 5

    run(main)


@pytest.mark.parametrize("n", LIMITS)
def test_the_tasks_of_running_items_are_among_all_tasks(impl, n):
    async def main():
        async def knows():
            await asyncio.sleep(0)
            return asyncio.current_task() in asyncio.all_tasks()

        assert await impl.gather_with_concurrency(n, *(knows() for _ in range(4))) == [True] * 4
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


def test_items_can_cancel_each_other(impl):
    async def main():
        tasks = {}

        async def waits():
            tasks["waits"] = asyncio.current_task()
            await asyncio.get_running_loop().create_future()

        async def cancels():
            tasks["waits"].cancel("by a sibling")
            return "cancelled it"

        results = await impl.gather(waits(), cancels(), return_exceptions=True, limit=2)
        assert type(results[0]) is asyncio.CancelledError
        assert results[1] == "cancelled it"

    run(main)


@pytest.mark.parametrize("how", ["holds it", "watches it"])
@pytest.mark.parametrize("turns", [0, 1])
def test_who_has_the_task_as_soon_as_it_is_registered_sees_one_item_in_it(impl, how, turns):
    """A profiler's thread that calls all_tasks() at that moment; from 3.14 on nothing runs between that and the first step."""
    names = {"_all_tasks", "_scheduled_tasks"} & set(dir(asyncio.tasks))
    held = []

    async def item(index):
        task = asyncio.current_task()
        coros.append((task.get_coro(), task.get_name()) if index == 0 else None)
        for _ in range(turns):
            await asyncio.sleep(0)
        return index

    async def main():
        caller = asyncio.current_task()
        registry = getattr(asyncio.tasks, names.pop()) if names else None
        if isinstance(registry, weakref.WeakSet):

            def add(task):
                type(registry).add(registry, task)
                if task is not caller and not held:
                    held.append(task if how == "holds it" else weakref.ref(task))

            registry.add = add
        try:
            assert await impl.gather_with_concurrency(1, *map(item, range(5))) == [0, 1, 2, 3, 4]
        finally:
            if isinstance(registry, weakref.WeakSet):
                del registry.add
        if not held:
            return
        task = held[0] if how == "holds it" else held[0]()
        if task is None:
            return  # it went with its item
        coro, name = coros[0]
        assert task.get_name() == name
        assert task.get_coro() in (coro, None)
        assert task.done() and task.result() == 0

    coros = []
    run(main)
