"""What gather_with_concurrency returns is a coroutine in every way that matters."""

import asyncio
import collections.abc
import inspect

import pytest

from contract_tools import Trace, idle, item, run


def close_all(*calls):
    for call in calls:
        call.close()


def test_it_is_a_coroutine_by_the_abstract_base_class(impl):
    calls = (
        impl.gather_with_concurrency(1),
        impl.gated_coro(None, None),
        impl.run_all([]),
        impl.constrained_execution([], 1),
    )
    for call in calls:
        assert isinstance(call, collections.abc.Coroutine)
        assert asyncio.iscoroutine(call)
        assert inspect.isawaitable(call)
    close_all(*calls)


def test_nothing_happens_before_the_first_step(impl):
    async def main():
        trace = Trace()
        call = impl.gather_with_concurrency(2, item(trace, "a"), item(trace, "b"))
        await idle(3)
        assert trace.events == []
        assert await call == ["a", "b"]

    run(main)


def test_asyncio_run_runs_it(impl):
    assert asyncio.run(impl.gather_with_concurrency(1, asyncio.sleep(0, "slept"))) == ["slept"]
    assert asyncio.run(impl.run_all([lambda: asyncio.sleep(0, "slept")])) == ["slept"]


def test_tasks_wait_for_task_groups_shield_and_gather_take_it(impl):
    async def main():
        def call():
            return impl.gather_with_concurrency(1, asyncio.sleep(0, "slept"))

        assert await asyncio.create_task(call()) == ["slept"]
        assert await asyncio.ensure_future(call()) == ["slept"]
        assert await asyncio.wait_for(call(), 60) == ["slept"]
        assert await asyncio.shield(call()) == ["slept"]
        assert await asyncio.gather(call(), call()) == [["slept"]] * 2
        async with asyncio.TaskGroup() as group:
            task = group.create_task(call())
        assert task.result() == ["slept"]

    run(main)


@pytest.mark.parametrize("n", [1, None])
def test_awaiting_it_twice_is_a_runtime_error(impl, n):
    async def main():
        call = impl.gather_with_concurrency(n, asyncio.sleep(0, "slept"))
        assert await call == ["slept"]
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await call

    run(main)


@pytest.mark.parametrize("n", [1, None])
def test_awaiting_it_while_it_is_awaited_is_a_runtime_error(impl, n):
    async def main():
        call = impl.gather_with_concurrency(n, asyncio.sleep(0.001, "slept"))

        async def awaits():
            return await call

        task = asyncio.create_task(awaits())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="coroutine is being awaited already"):
            await call
        assert await task == ["slept"]

    run(main)


def test_the_first_value_sent_must_be_none(impl):
    call = impl.gather_with_concurrency(1)
    with pytest.raises(TypeError, match="can't send non-None value to a just-started coroutine"):
        call.send(1)
    call.close()


def test_close_and_throw_on_a_finished_one_are_as_on_a_native_coroutine(impl):
    call = impl.gather_with_concurrency(1)
    call.close()
    call.close()
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        call.throw(ValueError("thrown"))


@pytest.mark.filterwarnings("ignore:the .* signature of throw:DeprecationWarning")
def test_throw_takes_what_a_native_coroutine_takes(impl):
    for arguments in ((ValueError,), (ValueError, "text"), (ValueError, ValueError("text")), (ValueError("text"),)):
        call = impl.gather_with_concurrency(1, asyncio.sleep(0))
        with pytest.raises(ValueError):
            call.throw(*arguments)
    call = impl.gather_with_concurrency(1, asyncio.sleep(0))
    with pytest.raises(TypeError):
        call.throw("no exception")
    call.close()


def test_stepped_from_inside_its_own_first_step_it_is_a_value_error(impl):
    calls = []
    errors = []

    class Steps:
        def __index__(self):
            for step in (lambda: calls[0].send(None), lambda: calls[0].close(), lambda: calls[0].throw(LookupError())):
                try:
                    step()
                except ValueError as error:
                    errors.append(str(error))
            return 1

    async def main():
        calls.append(impl.gather_with_concurrency(Steps(), asyncio.sleep(0, "slept")))
        assert await calls[0] == ["slept"]
        assert errors == ["coroutine already executing"] * 3

    run(main)


@pytest.mark.parametrize("name", ["gather_with_concurrency", "gated_coro", "run_all", "constrained_execution"])
def test_its_name_is_that_of_the_function(impl, name):
    arguments = {"gather_with_concurrency": (1,), "run_all": ([],)}.get(name, (None, None))
    call = getattr(impl, name)(*arguments)
    assert call.__name__ == name
    assert call.__qualname__ == name
    assert name in repr(call)
    call.close()


def test_a_native_coroutine_that_awaits_it_shows_it(impl):
    async def main():
        call = impl.gather_with_concurrency(1, asyncio.sleep(0.001))

        async def awaits():
            await call

        coroutine = awaits()
        task = asyncio.create_task(coroutine)
        await asyncio.sleep(0)
        assert coroutine.cr_await is call
        assert not call.cr_running
        await task
        assert coroutine.cr_await is None

    run(main)
