"""run_all and constrained_execution: functions that are called when a slot is free."""

import asyncio
import contextvars
import gc
import types

import pytest

from contract_tools import Trace, failing, idle, item, message_of_awaiting, run, sleeping

LIMITS = [1, 2, None]
VARIABLE = contextvars.ContextVar("VARIABLE", default="default")


def functions(trace, names, turns=1):
    """Functions that say when they are called."""

    def function(name):
        def call():
            trace(f"*{name}")
            return item(trace, name, turns)

        return call

    return [function(name) for name in names]


def both(impl):
    """The two front doors as functions of functions and a limit."""
    return [
        lambda async_fns, limit: impl.run_all(async_fns, limit=limit),
        lambda async_fns, limit: impl.constrained_execution(async_fns, limit),
    ]


def test_each_function_is_called_in_its_slot_when_that_is_free(impl):
    async def main():
        traces = []
        for call in both(impl):
            trace = Trace()
            trace.start()
            assert await call(functions(trace, "abcd"), 2) == ["a", "b", "c", "d"]
            trace.stop()
            traces.append(trace.turns)
        return traces

    assert run(main) == [["", "*a +a *b +b", "-a *c +c -b", "*d +d -c", "-d"]] * 2


@pytest.mark.parametrize("limit", LIMITS)
def test_results_are_in_the_order_of_the_functions(impl, limit):
    async def main():
        for call in both(impl):
            turns = [4, 0, 2, 1, 3]
            assert await call([lambda t=t: asyncio.sleep(t / 10000, t) for t in turns], limit) == turns

    run(main)


@pytest.mark.parametrize("limit", LIMITS)
def test_no_functions_give_an_empty_list(impl, limit):
    async def main():
        for call in both(impl):
            assert await call([], limit) == []
            assert await call(iter(()), limit) == []

    run(main)


@pytest.mark.parametrize("limit", LIMITS)
def test_functions_may_return_any_awaitable(impl, limit):
    class Awaitable:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return "object"

    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_result, "future")
        task = loop.create_task(asyncio.sleep(0, "task"))
        for call in both(impl):
            async_fns = [lambda: future, lambda: task, Awaitable, lambda: asyncio.sleep(0, "coroutine")]
            assert await call(async_fns, limit) == ["future", "task", "object", "coroutine"]

    run(main)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_call_is_made_in_the_item_s_own_task_and_context(impl, limit):
    async def main():
        VARIABLE.set("caller's")
        tasks = []

        def function(index):
            def call():
                tasks.append(asyncio.current_task())
                assert VARIABLE.get() == "caller's"
                VARIABLE.set(index)
                return runs(index)

            return call

        async def runs(index):
            assert asyncio.current_task() is tasks[index]
            assert VARIABLE.get() == index

        await impl.run_all(map(function, range(5)), limit=limit)
        assert len(set(tasks)) == 5
        assert asyncio.current_task() not in tasks
        assert VARIABLE.get() == "caller's"

    run(main)


def test_the_iterable_is_advanced_by_one_for_each_free_slot(impl):
    async def main():
        trace = Trace()

        def iterable():
            for name, function in zip("abcd", functions(trace, "abcd")):
                trace(f"?{name}")
                yield function
            trace("end")

        trace.start()
        await impl.run_all(iterable(), limit=2)
        trace.stop()
        return trace.turns

    assert run(main) == ["", "?a *a +a ?b *b +b", "-a ?c *c +c -b", "?d *d +d -c", "-d end"]


def test_the_iterable_runs_in_one_copy_of_the_caller_s_context(impl):
    async def main():
        VARIABLE.set("caller's")
        seen = []

        def iterable():
            for index in range(4):
                seen.append(VARIABLE.get())
                VARIABLE.set(index)
                yield lambda: asyncio.sleep(0, VARIABLE.get())

        assert await impl.run_all(iterable(), limit=1) == ["caller's"] * 4
        assert seen == ["caller's", 0, 1, 2]
        assert VARIABLE.get() == "caller's"

    run(main)


@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_functions_that_go_with_their_iterable_go_in_its_context(impl, kind):
    async def main():
        VARIABLE.set("caller's")
        seen = []

        class Function:
            def __call__(self):
                return self.item()

            async def item(self):
                VARIABLE.set("item's")
                await asyncio.sleep(0)

            def __del__(self):
                seen.append(VARIABLE.get())

        call = impl.run_all(kind([Function(), Function()]), limit=1)
        await call
        del call
        gc.collect()
        assert seen == ["caller's"] * 2

    run(main)


@pytest.mark.parametrize("limit", [1, 2])
def test_a_list_that_changes_meanwhile_is_read_as_iteration_reads_it(impl, limit):
    async def main():
        called = []
        work = []

        def function(name, change):
            async def item():
                called.append(name)
                await asyncio.sleep(0)
                change()

            return item

        def shrink():
            del work[-2:]

        def grow():
            work.append(function("new", lambda: None))

        names = "abcd"
        work += [function(name, change) for name, change in zip(names, [grow, shrink, shrink, grow])]
        results = await impl.run_all(work, limit=limit)
        assert len(results) == len(called)
        return called

    assert run(main) == ["a", "b", "c"]


def test_an_endless_iterable_is_advanced_no_further_than_needed(impl):
    async def main():
        advanced = 0

        def endless():
            nonlocal advanced
            while True:
                advanced += 1
                yield fails if advanced == 5 else lambda: asyncio.sleep(0)

        async def fails():
            raise ValueError("stop")

        with pytest.raises(ValueError, match="stop"):
            await impl.run_all(endless(), limit=2)
        assert advanced <= 6

    run(main)


@pytest.mark.parametrize("limit", LIMITS)
def test_an_iterable_that_raises_is_an_error_of_the_call(impl, limit):
    async def main():
        for return_exceptions in (False, True):
            trace = Trace()
            error = LookupError("of the iterable")

            def iterable():
                yield lambda: sleeping(trace, "a", 1)
                raise error

            if limit == 1:
                asyncio.get_running_loop().call_later(0.001, lambda: None)

                def iterable():
                    yield lambda: item(trace, "a", 1)
                    raise error

            with pytest.raises(LookupError) as caught:
                await impl.run_all(iterable(), limit=limit, return_exceptions=return_exceptions)
            assert caught.value is error
            assert not hasattr(error, "__notes__")
            assert trace.events == ("+a -a" if limit == 1 else "+a xa -a").split()

    run(main)


def test_an_iterable_that_raises_leaves_what_runs_alone_without_cancel_on_error(impl):
    async def main():
        trace = Trace()

        def iterable():
            yield lambda: item(trace, "a", 3)
            raise LookupError

        with pytest.raises(LookupError):
            await impl.constrained_execution(iterable(), 2)
        await idle(4)
        return trace.events

    assert run(main) == ["+a", "-a"]


@pytest.mark.parametrize("bad", [None, 5, object()])
def test_what_cannot_be_iterated_is_a_type_error(impl, bad):
    async def main():
        for call in both(impl):
            with pytest.raises(TypeError, match="must be an iterable or an async iterable, not"):
                await call(bad, 1)

    run(main)


@pytest.mark.parametrize("limit", [0, -1, -(2**80)])
def test_a_limit_below_one_is_a_value_error_of_the_first_step(impl, limit):
    async def main():
        called = []
        for call, name in zip(both(impl), ("limit", "max_runs")):
            coroutine = call([lambda: called.append(1)], limit)
            with pytest.raises(ValueError, match=name):
                await coroutine
        assert called == []

    run(main)


@pytest.mark.parametrize("limit", [2.5, "3", object()])
def test_a_limit_of_another_kind_is_a_type_error_of_the_first_step(impl, limit):
    async def main():
        for call, name in zip(both(impl), ("limit", "max_runs")):
            with pytest.raises(TypeError, match=name):
                await call([], limit)

    run(main)


def test_an_async_context_manager_is_a_limit_that_is_held_during_the_call(impl):
    async def main():
        for call in both(impl):
            semaphore = asyncio.Semaphore(1)
            locked = []

            def function():
                locked.append(semaphore.locked())
                return asyncio.sleep(0)

            await call([function] * 3, semaphore)
            assert locked == [True] * 3
            assert semaphore._value == 1

    run(main)


# Errors


def raises():
    raise LookupError("of the function")


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize(
    ("bad", "error_class"), [(5, TypeError), (None, TypeError), (lambda: 5, TypeError), (raises, LookupError)]
)
def test_a_bad_function_is_its_item_s_error_with_a_note_that_names_the_item(impl, limit, bad, error_class):
    async def main():
        trace = Trace()
        results = await impl.run_all([*functions(trace, "ab"), bad], limit=limit, return_exceptions=True)
        assert results[:2] == ["a", "b"]
        assert type(results[2]) is error_class
        if bad is not raises and callable(bad):
            assert str(results[2]) == message_of_awaiting(5)
        elif not callable(bad):
            assert "not callable" in str(results[2])
        assert results[2].__notes__ == ["raised by item 2"]

    run(main)


class Awaits:
    """Its __await__() fails, or returns something."""

    def __init__(self, outcome):
        self.outcome = outcome

    def __await__(self):
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


def that_fails_with(error):
    future = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future


@types.coroutine
def refuses_what_is_sent():
    raise TypeError("of the generator")
    yield


AWAITABLES_THAT_FAIL = {
    "coroutine": lambda: failing(Trace(), "a", 0),
    "coroutine, after a turn": lambda: failing(Trace(), "a", 1, TypeError("of the coroutine")),
    "generator": refuses_what_is_sent,
    "Future": lambda: that_fails_with(TypeError("of the Future")),
    "__await__() raises": lambda: Awaits(LookupError("of __await__()")),
    "__await__() raises TypeError": lambda: Awaits(TypeError("of __await__()")),
    "__await__() raises StopIteration": lambda: Awaits(StopIteration(5)),
    "__await__() raises CancelledError": lambda: Awaits(asyncio.CancelledError()),
    "__await__() returns no iterator": lambda: Awaits(5),
    "__await__ is None": type("IsNone", (), {"__await__": None}),
}


@pytest.mark.parametrize("limit", [*LIMITS, "semaphore"])
@pytest.mark.parametrize("awaitable", AWAITABLES_THAT_FAIL)
def test_an_error_of_the_awaitable_gets_no_note(impl, awaitable, limit):
    async def main():
        gate = asyncio.Semaphore(1) if limit == "semaphore" else limit
        first, second = await impl.run_all([AWAITABLES_THAT_FAIL[awaitable]] * 2, limit=gate, return_exceptions=True)
        assert isinstance(first, BaseException) and type(first) is type(second)
        assert not hasattr(first, "__notes__") and not hasattr(second, "__notes__")

    run(main)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_coroutine_that_somebody_else_awaits_gets_no_note(impl, limit):
    async def main():
        inner = sleeping(Trace(), "a")

        async def outer():
            await inner

        coroutine = outer()
        coroutine.send(None)
        results = await impl.run_all([lambda: inner], limit=limit, return_exceptions=True)
        assert [repr(error) for error in results] == ["RuntimeError('coroutine is being awaited already')"]
        assert not hasattr(results[0], "__notes__")
        coroutine.close()

    run(main)


def test_a_function_that_raises_stop_iteration_is_a_runtime_error(impl):
    async def main():
        def stops():
            raise StopIteration(5)

        (error,) = await impl.run_all([stops], return_exceptions=True)
        assert type(error) is RuntimeError
        assert type(error.__cause__) is StopIteration
        assert error.__notes__ == ["raised by item 0"]

    run(main)


def test_run_all_stops_everything_at_the_first_error_by_default(impl):
    async def main():
        trace = Trace()
        async_fns = [lambda: sleeping(trace, "a", 1), lambda: failing(trace, "b"), *functions(trace, "cd")]
        with pytest.raises(ValueError, match="^b$"):
            await impl.run_all(async_fns, limit=2)
        await idle(3)
        return trace.events

    assert run(main) == "+a +b !b xa -a".split()


def test_without_cancel_on_error_the_rest_is_still_called(impl):
    async def main():
        events = []
        for call in (
            lambda async_fns: impl.run_all(async_fns, limit=1, cancel_on_error=False),
            lambda async_fns: impl.constrained_execution(async_fns, 1),
        ):
            trace = Trace()
            with pytest.raises(ValueError, match="^a$"):
                await call([lambda: failing(trace, "a"), *functions(trace, "bc")])
            await idle(4)
            events.append(trace.events)
        return events

    assert run(main) == ["+a !a *b +b -b *c +c -c".split()] * 2


# Cancellation


@pytest.mark.parametrize("limit", LIMITS)
def test_cancelled_it_calls_no_further_function_and_waits_for_what_runs(impl, limit):
    async def main():
        events = []
        for call in both(impl):
            trace = Trace()
            caller = asyncio.create_task(call([lambda: sleeping(trace, "a", 1, "swallowed")] * 3, limit))
            await idle(3)
            caller.cancel("why")
            with pytest.raises(asyncio.CancelledError) as caught:
                await caller
            assert caught.value.args == ("why",)
            events.append(trace.events)
        return events

    running = limit or 3
    assert run(main) == [["+a"] * running + ["xa"] * running + ["-a"] * running] * 2


def test_closed_before_the_first_step_it_calls_nothing_and_advances_nothing(impl):
    def iterable():
        raise AssertionError("it was advanced")
        yield

    for call in both(impl):
        coroutine = call(iterable(), 1)
        coroutine.close()


@pytest.mark.parametrize("end", ["close", "throw"])
def test_ended_from_outside_it_cancels_what_runs(impl, end):
    async def main():
        trace = Trace()
        call = impl.run_all([lambda: sleeping(trace, "a", 0), *functions(trace, "b")], limit=1)
        call.send(None)
        await idle(1)
        if end == "close":
            call.close()
        else:
            with pytest.raises(LookupError):
                call.throw(LookupError())
        await idle(2)
        return trace.events

    assert run(main) == ["+a", "xa", "-a"]


def test_the_keeper_stands_for_functions_not_called_yet(impl):
    async def main():
        trace = Trace()
        with pytest.raises(ValueError):
            await impl.constrained_execution(
                [lambda: failing(trace, "a"), lambda: item(trace, "b", 5), *functions(trace, "c")], 1
            )
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await idle(3)
        return trace.events

    assert run(main) == ["+a", "!a", "+b"]
