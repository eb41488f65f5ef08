"""Running Tasks are held strongly, nothing is reported as destroyed, and no cycle is left.

That is point 12 of docs/architecture.md.
"""

import asyncio
import contextlib
import gc
import weakref

import pytest

from contract_tools import Trace, failing, idle, item, run, sleeping

pytestmark = pytest.mark.usefixtures("any_turns")

LIMITS = [1, 2, None]


@pytest.mark.parametrize("n", LIMITS)
def test_running_items_survive_a_collection_although_the_loop_holds_them_weakly(impl, n):
    async def main():
        async def waits_for_a_cycle():
            # Only the cycle of this future and its own callback holds the Task, and the gathering.
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.001, future.set_result, "set")
            return await future

        call = asyncio.create_task(impl.gather_with_concurrency(n, *(waits_for_a_cycle() for _ in range(3))))
        await idle(2)
        gc.collect()
        assert await call == ["set"] * 3

    run(main)


async def succeeds(impl, n):
    await impl.gather_with_concurrency(n, item(Trace(), "a"), item(Trace(), "b", 0), item(Trace(), "c"))


async def fails(impl, n):
    with contextlib.suppress(ValueError):
        await impl.gather_with_concurrency(n, failing(Trace(), "a", 0), failing(Trace(), "b"), item(Trace(), "c"))


async def is_cancelled(impl, n):
    async def caller():
        await impl.gather_with_concurrency(n, sleeping(Trace(), "a", 1), sleeping(Trace(), "b"), item(Trace(), "c"))

    task = asyncio.create_task(caller())
    await idle(3)
    task.cancel()
    await asyncio.wait([task])


async def returns_exceptions(impl, n):
    await impl.gather(failing(Trace(), "a"), item(Trace(), "b"), limit=n, return_exceptions=True)


async def cancels_on_error(impl, n):
    with contextlib.suppress(ValueError):
        await impl.gather(failing(Trace(), "a"), sleeping(Trace(), "b", 1), limit=n, cancel_on_error=True)


async def calls_functions(impl, n):
    with contextlib.suppress(ValueError):
        await impl.run_all([lambda: item(Trace(), "a"), lambda: failing(Trace(), "b")], limit=n)


@pytest.mark.parametrize("n", LIMITS)
@pytest.mark.parametrize(
    "scenario", [succeeds, fails, is_cancelled, returns_exceptions, cancels_on_error, calls_functions]
)
def test_the_collector_finds_nothing_after_a_directly_awaited_gathering(impl, n, scenario):
    async def main():
        await scenario(impl, n)
        await idle(6)
        gc.collect()
        gc.disable()
        try:
            await scenario(impl, n)
            await idle(6)
            return gc.collect()
        finally:
            gc.enable()

    assert run(main) == 0


@pytest.mark.parametrize("n", LIMITS)
def test_results_and_errors_die_with_their_last_reference(impl, n):
    class Value:
        pass

    class Error(Exception):
        pass

    async def main():
        references = []

        async def returns():
            await asyncio.sleep(0)
            value = Value()
            references.append(weakref.ref(value))
            return value

        async def raises():
            await asyncio.sleep(0)
            error = Error()
            references.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

        gc.disable()
        try:
            results = await impl.gather_with_concurrency(n, returns(), returns())
            del results
            try:
                await impl.gather_with_concurrency(n, raises(), returns())
            except Error:
                pass
            await idle(3)
            assert len(references) == 4
            return sum(reference() is not None for reference in references)
        finally:
            gc.enable()

    assert run(main) == 0


def test_a_loop_that_ends_with_items_under_way_reports_no_destroyed_task(impl):
    reports = []
    calls = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
        calls.append(impl.gather_with_concurrency(1, sleeping(Trace(), "a"), item(Trace(), "b")))
        calls[0].send(None)
        await idle(1)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    calls.clear()
    gc.collect()
    assert reports == []
