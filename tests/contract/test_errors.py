"""The first error goes to the caller at once; everything else goes on, and is quiet about its own errors."""

import asyncio

import pytest

from contract_tools import Trace, failing, idle, item, message_of_awaiting, run


def test_the_caller_gets_the_first_exception_while_siblings_and_queued_items_go_on(impl):
    async def main():
        trace = Trace()
        trace.start()
        with pytest.raises(ValueError, match="^b$"):
            await impl.gather_with_concurrency(
                2, item(trace, "a", 3), failing(trace, "b"), *(item(trace, n) for n in "cd")
            )
        trace("caught")
        await idle(4)
        trace.stop()
        return trace.turns

    assert run(main) == ["", "+a +b", "!b +c", "caught -c +d", "-a -d"]


def test_without_a_limit_siblings_go_on_too(impl):
    async def main():
        trace = Trace()
        trace.start()
        with pytest.raises(ValueError, match="^b$"):
            await impl.gather_with_concurrency(None, item(trace, "a", 3), failing(trace, "b"), item(trace, "c"))
        trace("caught")
        await idle(3)
        trace.stop()
        return trace.turns

    assert run(main) == ["", "+a +b +c", "!b -c", "caught", "-a"]


@pytest.mark.parametrize("n", [1, 2, None])
def test_an_error_in_a_first_step_does_not_keep_the_others_from_starting(impl, n):
    async def main():
        trace = Trace()
        trace.start()
        with pytest.raises(ValueError, match="^a$"):
            await impl.gather_with_concurrency(n, failing(trace, "a", 0), item(trace, "b", 0), failing(trace, "c", 0))
        trace("caught")
        trace.stop()
        return trace.turns

    assert run(main) == ["", "+a !a +b -b +c !c", "caught"]


@pytest.mark.parametrize("n", [1, 2, None])
def test_the_error_that_is_raised_is_the_item_s_own_object_without_a_foreign_context(impl, n):
    async def main():
        errors = [ValueError(0), ValueError(1), ValueError(2)]
        with pytest.raises(ValueError) as caught:
            await impl.gather_with_concurrency(n, *(failing(Trace(), i, 0, error) for i, error in enumerate(errors)))
        assert caught.value is errors[0]
        await idle(3)
        for error in errors:
            assert error.__context__ is None
            assert error.__cause__ is None
            assert error.__traceback__ is not None

    run(main)


def test_an_item_s_error_gets_no_context_from_the_error_whose_slot_it_took(impl):
    async def main():
        errors = [ValueError(i) for i in range(4)]

        async def caller():
            await impl.gather_with_concurrency(1, *(failing(Trace(), i, 1, error) for i, error in enumerate(errors)))

        with pytest.raises(ValueError):
            await caller()
        await idle(6)
        assert [error.__context__ for error in errors] == [None] * 4

    run(main)


@pytest.mark.parametrize("n", [1, 2, None])
def test_later_exceptions_are_dropped_silently(impl, n):
    async def main():
        trace = Trace()
        with pytest.raises(ValueError, match="^a$"):
            await impl.gather_with_concurrency(n, *(failing(trace, name) for name in "abcd"))
        await idle(5)
        assert sorted(trace.events) == sorted("+a !a +b !b +c !c +d !d".split())

    run(main)


def test_an_item_that_raises_cancelled_error_gives_the_caller_that(impl):
    async def main():
        for n in (1, 2, None):
            trace = Trace()
            with pytest.raises(asyncio.CancelledError) as caught:
                await impl.gather_with_concurrency(
                    n, failing(trace, "a", 1, asyncio.CancelledError("by itself")), item(trace, "b")
                )
            assert caught.value.args == ("by itself",)
            assert asyncio.current_task().cancelling() == 0
            await idle(2)
            assert sorted(trace.events) == ["!a", "+a", "+b", "-b"]

    run(main)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("bad", [5, "text", None, object(), asyncio.sleep])
def test_a_non_awaitable_is_a_type_error_at_its_turn_in_python_s_own_words(impl, n, bad):
    async def main():
        trace = Trace()
        with pytest.raises(TypeError) as caught:
            await impl.gather_with_concurrency(n, item(trace, "a"), bad, item(trace, "b"))
        assert str(caught.value) == message_of_awaiting(bad)
        await idle(3)
        assert trace.events[0] == "+a"
        assert sorted(trace.events) == ["+a", "+b", "-a", "-b"]

    run(main)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_same_coroutine_twice_is_a_runtime_error_from_the_second(impl, n):
    async def main():
        trace = Trace()
        coroutine = item(trace, "a", 2)
        words = "cannot reuse already awaited coroutine" if n == 1 else "coroutine is being awaited already"
        with pytest.raises(RuntimeError, match=words):
            await impl.gather_with_concurrency(n, coroutine, coroutine)
        await idle(3)
        assert trace.events == ["+a", "-a"], "the first run goes on undisturbed"

    run(main)


def test_a_coroutine_that_somebody_else_awaits_is_refused_and_left_alone(impl):
    async def main():
        trace = Trace()
        coroutine = item(trace, "a", 30)

        async def somebody_else():
            return await coroutine

        task = asyncio.create_task(somebody_else())
        await asyncio.sleep(0)
        for n in (1, 5):
            with pytest.raises(RuntimeError, match="coroutine is being awaited already"):
                await impl.gather_with_concurrency(n, coroutine)
        assert await task == "a"
        assert trace.events == ["+a", "-a"]

    run(main)


class BadAwait:
    def __init__(self, iterator):
        self.iterator = iterator

    def __await__(self):
        if isinstance(self.iterator, BaseException):
            raise self.iterator
        return self if self.iterator == "self" else self.iterator


async def outcome_of(awaits):
    try:
        return await awaits
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("iterator", [None, 5, [1], "self"])
def test_an_await_method_that_returns_no_iterator_is_a_type_error(impl, iterator):
    async def main():
        with pytest.raises(TypeError) as caught:
            await impl.gather_with_concurrency(1, BadAwait(iterator))
        assert str(caught.value) == message_of_awaiting(BadAwait(iterator))
        # Without a limit, what asyncio.gather says: up to 3.11 it would have taken any iterable.
        assert await outcome_of(impl.gather_with_concurrency(None, BadAwait(iterator))) == await outcome_of(
            asyncio.gather(BadAwait(iterator))
        )

    run(main)


def test_an_await_method_that_returns_a_coroutine_is_a_type_error(impl):
    async def main():
        coroutine = asyncio.sleep(0)
        with pytest.raises(TypeError) as caught:
            await impl.gather_with_concurrency(1, BadAwait(coroutine))
        assert str(caught.value) == message_of_awaiting(BadAwait(coroutine))
        coroutine.close()
        # Without a limit, what asyncio.gather says: up to 3.11 it took that.
        ours, theirs = asyncio.sleep(0, "slept"), asyncio.sleep(0, "slept")
        assert await outcome_of(impl.gather_with_concurrency(None, BadAwait(ours))) == await outcome_of(
            asyncio.gather(BadAwait(theirs))
        )
        ours.close()
        theirs.close()

    run(main)


@pytest.mark.parametrize("n", [1, None])
def test_what_an_await_method_raises_is_the_item_s_error(impl, n):
    async def main():
        error = LookupError("from __await__")
        with pytest.raises(LookupError) as caught:
            await impl.gather_with_concurrency(n, BadAwait(error))
        assert caught.value is error

    run(main)


@pytest.mark.parametrize("n", [1, None])
@pytest.mark.parametrize("stop", [StopIteration("stop"), StopAsyncIteration("stop")])
def test_an_item_that_raises_stop_iteration_is_a_runtime_error_as_everywhere(impl, n, stop):
    async def main():
        with pytest.raises((RuntimeError, StopAsyncIteration)):
            await impl.gather_with_concurrency(n, failing(Trace(), "a", 1, stop))
        with pytest.raises((RuntimeError, StopAsyncIteration)):
            await impl.gather_with_concurrency(n, BadAwait(stop))

    run(main)


def test_a_base_exception_of_an_item_is_an_error_like_any_other(impl):
    class Strange(BaseException):
        pass

    async def main():
        for n in (1, 2, None):
            for error in (Strange(), Strange("with a message")):
                trace = Trace()
                with pytest.raises(type(error)) as caught:
                    await impl.gather_with_concurrency(n, failing(trace, "a", 1, error), item(trace, "b"))
                assert caught.value is error
                await idle(2)
                assert sorted(trace.events) == ["!a", "+a", "+b", "-b"]

    run(main)


def test_an_item_that_is_a_failed_future_gives_its_error(impl):
    async def main():
        for n in (1, 2, None):
            future = asyncio.get_running_loop().create_future()
            error = LookupError("the Future's")
            future.set_exception(error)
            with pytest.raises(LookupError) as caught:
                await impl.gather_with_concurrency(n, future, asyncio.sleep(0))
            assert caught.value is error

    run(main)


def test_futures_tasks_and_objects_with_await_are_awaited_in_a_slot(impl):
    async def main():
        trace = Trace()

        class Awaitable:
            def __await__(self):
                return item(trace, "object").__await__()

        future = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(item(trace, "task", 1))
        asyncio.get_running_loop().call_soon(future.set_result, "future")
        results = await impl.gather_with_concurrency(1, Awaitable(), future, task, item(trace, "coroutine"))
        assert results == ["object", "future", "task", "coroutine"]
        assert trace.events[-2:] == ["+coroutine", "-coroutine"]

    run(main)


def test_a_future_of_another_loop_is_a_runtime_error_at_its_turn(impl):
    async def main():
        trace = Trace()
        other = asyncio.new_event_loop()
        try:
            with pytest.raises(RuntimeError, match="attached to a different loop"):
                await impl.gather_with_concurrency(1, item(trace, "a"), other.create_future(), item(trace, "b"))
        finally:
            other.close()
        await idle(3)
        assert trace.events == ["+a", "-a", "+b", "-b"]

    run(main)
