"""A queued item never starts because the loop is being torn down (point 7 of docs/architecture.md)."""

import asyncio

import pytest

from contract_tools import NotingFactory, Trace, failing, idle, is_closed, item, run, sleeping
from in_subprocess import check_script

pytestmark = pytest.mark.usefixtures("any_turns")


def keepers(besides=()):
    return asyncio.all_tasks() - {asyncio.current_task()} - set(besides)


def test_after_the_first_error_a_keeper_stands_for_the_queue_until_that_is_empty(impl):
    async def main():
        trace = Trace()
        with pytest.raises(ValueError):
            await impl.gather_with_concurrency(1, failing(trace, "a"), item(trace, "b", 3), item(trace, "c", 3))
        assert len(keepers()) == 2, "the item that runs, and the keeper"
        await idle(4)
        assert trace.events == "+a !a +b -b +c".split()
        await idle(1)
        assert len(keepers()) == 1, "the last item"
        await idle(4)
        assert keepers() == set()

    run(main)


def test_a_future_returning_call_has_a_keeper_from_the_start(impl):
    async def main():
        trace = Trace()
        outer = impl.gather(item(trace, "a"), item(trace, "b"), limit=1)
        assert len(keepers()) == 1
        assert await outer == ["a", "b"]
        await idle(1)
        assert keepers() == set()

    run(main)


def test_a_coroutine_that_waits_needs_no_keeper(impl):
    async def main():
        trace = Trace()
        call = impl.gather_with_concurrency(1, item(trace, "a"), item(trace, "b"))
        call.send(None)
        assert keepers() == set()
        call.close()

    run(main)


def test_cancelling_the_keeper_closes_the_queue_at_once_and_leaves_what_runs(impl):
    async def main():
        trace = Trace()
        queued = [item(trace, name) for name in "bcd"]
        outer = impl.gather(item(trace, "a", 3), *queued, limit=1)
        (keeper,) = keepers()
        await idle(2)
        assert keeper.cancel("torn down")
        assert all(map(is_closed, queued))
        with pytest.raises(asyncio.CancelledError) as caught:
            await outer
        assert caught.value.args == ("torn down",)
        assert keeper.cancelled()
        return trace.events

    assert run(main) == ["+a", "-a"]


def test_cancelling_the_keeper_before_anything_runs_settles_the_future_at_once(impl):
    async def main():
        trace = Trace()
        items = [item(trace, name) for name in "ab"]
        outer = impl.gather(*items, limit=1)
        (keeper,) = keepers()
        keeper.cancel()
        assert outer.done()
        with pytest.raises(asyncio.CancelledError):
            await outer
        await idle(1)
        assert keeper.cancelled()
        assert all(map(is_closed, items))
        assert trace.events == []

    run(main)


@pytest.mark.parametrize("attempt", range(10))
def test_asyncio_run_that_ends_with_a_gather_under_way_starts_no_queued_item(impl, attempt):
    trace = Trace()
    queued = [item(trace, f"q{index}") for index in range(20)]
    outers = []

    async def main():
        outers.append(impl.gather(*(sleeping(trace, f"s{index}") for index in range(3)), *queued, limit=3))
        await idle(2)

    with asyncio.Runner() as runner:
        runner.run(main())
    assert all(map(is_closed, queued))
    assert trace.events[:3] == ["+s0", "+s1", "+s2"]
    assert not [event for event in trace.events if event.startswith("+q")]
    assert type(outers[0].exception()) is asyncio.CancelledError


def test_the_keeper_does_not_come_from_a_task_factory(impl):
    async def main():
        made = NotingFactory()
        asyncio.get_running_loop().set_task_factory(made)
        trace = Trace()
        await impl.gather(item(trace, "a"), item(trace, "b"), limit=1)
        asyncio.get_running_loop().set_task_factory(None)
        assert len(made) == 2

    run(main)


def test_one_that_the_collector_has_made_meanwhile_is_the_only_one(impl):
    """Up to 3.11 it runs wherever an object is made: here a finalizer's error is the call's first, and needs a keeper as well."""
    if not impl.__name__.endswith("_core"):
        pytest.skip("a finalizer that throws into its workers may leave a call of the reference waiting for ever")
    check_script(
        impl,
        """
        workers = []

        def factory(loop, coro, **options):
            workers.append(coro)
            return asyncio.Task(coro, loop=loop)

        class Throws:
            def __init__(self):
                self.itself = self

            def __del__(self):
                for worker in workers:
                    try:
                        worker.throw(ValueError("thrown"))
                    except BaseException:
                        pass

        async def idle(turns):
            for _ in range(turns):
                await asyncio.sleep(0)

        async def main(allocations):
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, context: None)  # who throws into it ends no Task
            loop.set_task_factory(factory)

            async def fails():
                await idle(1)
                gc.set_threshold(gc.get_count()[0] + allocations)
                gc.enable()
                raise ValueError("raised")

            Throws()
            try:
                await impl.gather_with_concurrency(2, fails(), idle(2), idle(2), idle(2))
            except ValueError as error:
                errors.add(str(error))
            gc.disable()
            loop.set_task_factory(None)
            await idle(20)

        gc.disable()
        errors = set()
        for allocations in range(1, 60):
            asyncio.run(main(allocations))
            workers.clear()
            gc.collect()
            left = sum(type(op).__name__ == "_Keeper" for op in gc.get_objects())
            assert not left, (allocations, left)
        assert "raised" in errors, errors
        print("ok")
        """,
    )
