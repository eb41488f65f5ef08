"""gather: asyncio.gather with a limit, and with errors that stop the rest if that is wanted."""

import asyncio
import contextvars
import gc
import sys

import pytest

from contract_tools import Running, Trace, failing, idle, is_closed, item, run, sleeping

LIMITS = [1, 2, None]
NOT_AWAITABLE = "An asyncio.Future, a coroutine or an awaitable is required"


class Limiter:
    """An async context manager that lets `size` in at once and says who waits."""

    def __init__(self, size):
        self.semaphore = asyncio.Semaphore(size)
        self.holders = []
        self.waiting = self.most_waiting = 0

    async def __aenter__(self):
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            await self.semaphore.acquire()
        finally:
            self.waiting -= 1
        self.holders.append(asyncio.current_task())

    async def __aexit__(self, *exception):
        self.holders.remove(asyncio.current_task())  # entered and left in the same Task
        self.semaphore.release()


# The Future


@pytest.mark.parametrize("limit", LIMITS)
def test_it_returns_a_future_and_items_start_in_the_next_turn(impl, limit):
    async def main():
        trace = Trace()
        trace.start()
        trace("call")
        future = impl.gather(item(trace, "a"), item(trace, "b"), limit=limit)
        assert asyncio.isfuture(future)
        assert isinstance(future, asyncio.Future)
        assert future.get_loop() is asyncio.get_running_loop()
        trace("called")
        assert await future == ["a", "b"]
        assert await future == ["a", "b"], "it can be awaited again"
        trace("done")
        trace.stop()
        return trace.turns

    assert (
        run(main)
        == {
            1: ["call called", "+a", "-a +b", "-b", "done"],
            2: ["call called", "+a +b", "-a -b", "done"],
            None: ["call called", "+a +b", "-a -b", "done"],
        }[limit]
    )


def test_without_items_it_is_done_at_once(impl):
    async def main():
        for limit in LIMITS:
            future = impl.gather(limit=limit)
            assert future.done()
            assert await future == []

    run(main)


@pytest.mark.parametrize("limit", LIMITS)
def test_callbacks_shield_and_wait_for_take_the_future(impl, limit):
    async def main():
        called = []
        future = impl.gather(asyncio.sleep(0, 1), asyncio.sleep(0, 2), limit=limit)
        future.add_done_callback(lambda done: called.append(done.result()))
        assert await asyncio.shield(future) == [1, 2]
        assert await asyncio.wait_for(future, 60) == [1, 2]
        await asyncio.sleep(0)
        assert called == [[1, 2]]

    run(main)


@pytest.mark.parametrize("limit", LIMITS)
def test_an_error_that_nobody_retrieves_is_reported_once_as_asyncio_does(impl, limit):
    reports = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
        future = impl.gather(failing(Trace(), "a"), item(Trace(), "b"), limit=limit)
        await idle(6)
        assert future.done()

    asyncio.run(main())
    gc.collect()
    (report,) = reports
    assert report["message"].endswith("exception was never retrieved")
    assert str(report["exception"]) == "a"


@pytest.mark.parametrize("limit", LIMITS)
def test_without_a_running_loop_items_run_when_the_current_loop_does(impl, limit):
    loop = asyncio.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        trace = Trace()
        future = impl.gather(item(trace, "a"), item(trace, "b"), limit=limit)
        assert future.get_loop() is loop
        assert trace.events == []
        assert loop.run_until_complete(future) == ["a", "b"]
        assert loop.run_until_complete(impl.gather(limit=limit)) == []
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_without_a_running_loop_it_is_taken_from_a_future(impl):
    loop = asyncio.new_event_loop()
    try:
        future = loop.create_future()
        outer = impl.gather(future, asyncio.sleep(0, 2), limit=2)
        assert outer.get_loop() is loop
        loop.call_soon(future.set_result, 1)
        assert loop.run_until_complete(outer) == [1, 2]
    finally:
        loop.close()


@pytest.mark.skipif(sys.version_info < (3, 14), reason="an event loop is made if there is none")
def test_without_any_loop_it_is_a_runtime_error_and_coroutines_are_closed(impl):
    coroutine = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="no current event loop"):
        impl.gather(coroutine)
    assert is_closed(coroutine)


# Limits


class Proxy:
    """It has the methods of everything that it might stand for."""

    __class__ = property(lambda self: type(self.wrapped))

    def __init__(self, wrapped):
        self.wrapped = wrapped

    def __index__(self):
        return self.wrapped.__index__()

    async def __aenter__(self):
        return await self.wrapped.__aenter__()

    async def __aexit__(self, *exception):
        return await self.wrapped.__aexit__(*exception)


@pytest.mark.parametrize("of", [lambda: 2, lambda: asyncio.Semaphore(2), asyncio.Lock])
def test_a_proxy_of_a_limit_is_what_it_stands_for(impl, of):
    async def main():
        limit = Proxy(of())
        assert await impl.gather(*(asyncio.sleep(0, i) for i in range(5)), limit=limit) == list(range(5))
        assert await impl.run_all([lambda: asyncio.sleep(0, 1)] * 3, limit=limit) == [1] * 3
        assert await impl.constrained_execution([lambda: asyncio.sleep(0, 1)] * 3, limit) == [1] * 3
        if isinstance(limit, int):
            assert await impl.gather_with_concurrency(limit, asyncio.sleep(0, 1)) == [1]
        else:
            assert await impl.gated_coro(limit, asyncio.sleep(0, 1)) == 1

    run(main)


@pytest.mark.parametrize("limit", [0, -1, -(2**80), False, (), [], (0,)])
def test_a_limit_below_one_is_a_value_error(impl, limit):
    async def main():
        coroutine = asyncio.sleep(0)
        with pytest.raises(ValueError):
            impl.gather(coroutine, limit=limit)
        assert is_closed(coroutine)
        with pytest.raises(ValueError):
            impl.gather(limit=limit)

    run(main)


@pytest.mark.parametrize("limit", [2.5, "3", object(), (None,), asyncio.Semaphore])
def test_a_limit_of_another_kind_is_a_type_error(impl, limit):
    async def main():
        coroutine = asyncio.sleep(0)
        with pytest.raises(TypeError):
            impl.gather(coroutine, limit=limit)
        assert is_closed(coroutine)

    run(main)


@pytest.mark.parametrize("limit", [1, True, 2, 2**62, 2**63, 2**80])
def test_any_integer_of_at_least_one_is_a_limit(impl, limit):
    async def main():
        assert await impl.gather(*(asyncio.sleep(0, i) for i in range(5)), limit=limit) == list(range(5))

    run(main)


@pytest.mark.parametrize("bad", [5, None, object()])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_bad_argument_is_refused_before_anything_has_started(impl, limit, bad):
    async def main():
        trace = Trace()
        coroutine = item(trace, "a")
        with pytest.raises(TypeError) as caught:
            impl.gather(coroutine, bad, limit=limit)
        assert str(caught.value) == NOT_AWAITABLE
        with pytest.raises(TypeError, match="unhashable"):
            impl.gather(coroutine, [], limit=limit)
        assert is_closed(coroutine)
        await idle(2)
        assert trace.events == []

    run(main)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_future_of_another_loop_is_refused(impl, limit):
    async def main():
        other = asyncio.new_event_loop()
        try:
            coroutine = asyncio.sleep(0)
            with pytest.raises(ValueError, match="belongs to a different loop"):
                impl.gather(coroutine, other.create_future(), limit=limit)
            assert is_closed(coroutine)
        finally:
            other.close()

    run(main)


@pytest.mark.parametrize("limit", LIMITS)
def test_equal_items_run_once_with_a_limit_too(impl, limit):
    async def main():
        trace = Trace()
        coroutine = item(trace, "a")
        assert await impl.gather(coroutine, item(trace, "b"), coroutine, limit=limit) == ["a", "b", "a"]
        assert sorted(trace.events) == ["+a", "+b", "-a", "-b"]

    run(main)


@pytest.mark.parametrize("limit", [1, 2])
def test_a_future_takes_its_turn_and_its_slot_and_is_only_awaited(impl, limit):
    async def main():
        trace = Trace()
        task = asyncio.create_task(item(trace, "task", 5))
        outer = impl.gather(task, item(trace, "a", 0), item(trace, "b", 0), limit=limit)
        assert await outer == ["task", "a", "b"]
        return trace.events

    expected = {1: "+task -task +a -a +b -b", 2: "+task +a -a +b -b -task"}
    assert run(main) == expected[limit].split()


def test_the_context_is_taken_at_the_call(impl):
    variable = contextvars.ContextVar("variable")

    async def main():
        async def sees():
            return variable.get()

        for limit in LIMITS:
            variable.set("at the call")
            future = impl.gather(sees(), sees(), limit=limit)
            variable.set("later")
            assert await future == ["at the call"] * 2

    run(main)


# An async context manager as the limit


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("turns", [0, 1, 3])
def test_each_item_holds_the_limit_in_its_own_task_and_at_most_one_waits(impl, size, turns):
    async def main():
        limiter = Limiter(size)
        most = 0

        async def counts(index):
            nonlocal most
            assert asyncio.current_task() in limiter.holders
            most = max(most, len(limiter.holders))
            await idle(turns)
            return index

        assert await impl.gather(*map(counts, range(12)), limit=limiter) == list(range(12))
        assert limiter.holders == []
        assert limiter.most_waiting == 1
        assert limiter.semaphore._value == size
        if turns:
            assert most == size

    run(main)


def test_one_semaphore_limits_several_calls(impl):
    async def main():
        semaphore = asyncio.Semaphore(2)
        running = Running()

        async def counts():
            with running:
                await idle(2)

        calls = [impl.gather(*(counts() for _ in range(5)), limit=semaphore) for _ in range(3)]
        await asyncio.gather(*calls)
        assert running.most == 2
        assert semaphore._value == 2

    run(main)


def test_tasks_are_made_no_earlier_than_the_limit_lets_items_in(impl):
    async def main():
        semaphore = asyncio.Semaphore(2)
        before = len(asyncio.all_tasks())
        most = 0

        async def counts():
            nonlocal most
            await asyncio.sleep(0)
            most = max(most, len(asyncio.all_tasks()) - before)

        await impl.gather(*(counts() for _ in range(20)), limit=semaphore)
        # Two that run, one that waits, one whose step is on the stack, and the keeper.
        assert most <= 5

    run(main)


def test_turns_with_a_shared_semaphore(impl):
    async def main():
        trace = Trace()
        trace.start()
        await impl.gather(*(item(trace, name) for name in "abcd"), limit=asyncio.Semaphore(2))
        trace.stop()
        return trace.turns

    # A freed slot goes to the waiting item, which starts in the next turn, as the semaphore has it.
    assert run(main) == ["", "+a +b", "-a -b", "+c +d", "-c -d"]


def test_an_error_in_aenter_is_that_item_s_error_and_its_coroutine_is_closed(impl):
    async def main():
        trace = Trace()

        class Broken:
            def __init__(self):
                self.entered = 0

            async def __aenter__(self):
                self.entered += 1
                if self.entered == 2:
                    raise LookupError("the second")

            async def __aexit__(self, *exception):
                pass

        items = [item(trace, name) for name in "abc"]
        results = await impl.gather(*items, limit=Broken(), return_exceptions=True)
        assert results[0] == "a"
        assert type(results[1]) is LookupError
        assert results[2] == "c"
        assert is_closed(items[1])
        assert "+b" not in trace.events

    run(main)


def test_an_aexit_may_suppress_an_item_s_error(impl):
    async def main():
        class Suppresses:
            async def __aenter__(self):
                pass

            async def __aexit__(self, *exception):
                return True

        assert await impl.gather(failing(Trace(), "a"), item(Trace(), "b"), limit=Suppresses()) == [None, "b"]

    run(main)


def test_cancelled_while_an_item_waits_for_the_limit_everything_is_closed(impl):
    async def main():
        trace = Trace()
        semaphore = asyncio.Semaphore(1)
        items = [sleeping(trace, "a"), item(trace, "b"), item(trace, "c")]
        outer = impl.gather(*items, limit=semaphore)
        await idle(3)
        assert outer.cancel("why")
        with pytest.raises(asyncio.CancelledError) as caught:
            await outer
        await idle(2)
        assert caught.value.args == ("why",)
        assert all(map(is_closed, items))
        assert semaphore._value == 1
        return trace.events

    assert run(main) == ["+a", "xa", "-a"]


# Errors


@pytest.mark.parametrize("limit", LIMITS)
def test_the_first_error_is_raised_at_once_and_the_rest_goes_on(impl, limit):
    async def main():
        trace = Trace()
        with pytest.raises(ValueError, match="^a$"):
            await impl.gather(failing(trace, "a"), item(trace, "b"), failing(trace, "c"), limit=limit)
        await idle(5)
        return sorted(trace.events)

    assert run(main) == sorted("+a !a +b -b +c !c".split())


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("cancel_on_error", [False, True])
def test_return_exceptions_returns_every_error_in_its_place(impl, limit, cancel_on_error):
    async def main():
        results = await impl.gather(
            failing(Trace(), "a"),
            item(Trace(), "b"),
            failing(Trace(), "c", 0, asyncio.CancelledError("by itself")),
            limit=limit,
            return_exceptions=True,
            cancel_on_error=cancel_on_error,
        )
        return [repr(result) for result in results]

    assert run(main) == ["ValueError('a')", "'b'", "CancelledError('')"]


@pytest.mark.parametrize("limit", LIMITS)
def test_the_options_are_taken_by_truth(impl, limit):
    async def main():
        results = await impl.gather(failing(Trace(), "a"), limit=limit, return_exceptions=[1], cancel_on_error=())
        assert type(results[0]) is ValueError

    run(main)


@pytest.mark.parametrize("limit", [3, None])
def test_cancel_on_error_cancels_and_awaits_the_siblings_and_raises_the_plain_error(impl, limit):
    async def main():
        trace = Trace()
        with pytest.raises(ValueError, match="^b$") as caught:
            await impl.gather(
                sleeping(trace, "a", 2), failing(trace, "b"), sleeping(trace, "c", 1), limit=limit, cancel_on_error=True
            )
        assert not hasattr(caught.value, "__notes__")
        return trace.events

    assert run(main) == "+a +b +c !b xa xc -c -a".split()


def test_cancel_on_error_closes_the_queue(impl):
    async def main():
        trace = Trace()
        queued = [item(trace, "c"), item(trace, "d")]
        with pytest.raises(ValueError, match="^b$"):
            await impl.gather(sleeping(trace, "a"), failing(trace, "b"), *queued, limit=2, cancel_on_error=True)
        assert all(map(is_closed, queued))
        return trace.events

    assert run(main) == "+a +b !b xa -a".split()


@pytest.mark.parametrize("limit", [4, None])
def test_each_sibling_s_own_error_becomes_one_note_on_the_first(impl, limit):
    async def main():
        error = ValueError("first")
        with pytest.raises(ValueError) as caught:
            await impl.gather(
                sleeping(Trace(), "a", 1, LookupError("text")),
                failing(Trace(), "b", 1, error),
                sleeping(Trace(), "c"),
                sleeping(Trace(), "d", 0, "swallowed"),
                limit=limit,
                cancel_on_error=True,
            )
        assert caught.value is error
        assert error.__cause__ is None
        assert error.__context__ is None
        (note,) = error.__notes__
        assert "item 0" in note
        assert "LookupError" in note
        assert "text" in note
        return note

    assert run(main) == "while it was being cancelled, item 0 raised LookupError: text"


@pytest.mark.parametrize("limit", [20, None])
def test_a_note_names_the_argument_whatever_was_sorted_out_before_the_start(impl, limit):
    async def main():
        def fails(name):
            return sleeping(Trace(), name, 0, LookupError(name))

        task = asyncio.ensure_future(fails("task"))
        twice, other = fails("twice"), fails("other")
        items = [twice, asyncio.sleep(0), task, twice, other, task, failing(Trace(), "first", 1), fails("last"), other]
        with pytest.raises(ValueError, match="first") as caught:
            await impl.gather(*items, limit=limit, cancel_on_error=True)
        return sorted(note.partition("item ")[2] for note in caught.value.__notes__)

    assert run(main) == [
        "0 raised LookupError: twice",
        "2 raised LookupError: task",
        "4 raised LookupError: other",
        "7 raised LookupError: last",
    ]


@pytest.mark.parametrize("limit", [2, None])
def test_an_item_s_own_cancellation_is_an_error_for_cancel_on_error(impl, limit):
    async def main():
        trace = Trace()
        with pytest.raises(asyncio.CancelledError) as caught:
            await impl.gather(
                sleeping(trace, "a", 1),
                failing(trace, "b", 1, asyncio.CancelledError("by itself")),
                limit=limit,
                cancel_on_error=True,
            )
        assert caught.value.args == ("by itself",)
        return trace.events

    assert run(main) == "+a +b !b xa -a".split()


@pytest.mark.parametrize("limit", [2, None])
def test_a_caller_cancelled_while_siblings_clean_up_still_gets_the_first_error(impl, limit):
    async def main():
        trace = Trace()

        async def caller():
            await impl.gather(
                sleeping(trace, "a", 5, "swallowed"), failing(trace, "b"), limit=limit, cancel_on_error=True
            )

        task = asyncio.create_task(caller())
        await idle(5)
        assert trace.events == "+a +b !b xa".split()
        task.cancel()
        with pytest.raises(ValueError, match="^b$"):
            await task

    run(main)


# Cancellation


@pytest.mark.parametrize("limit", [2, None])
@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("message", [None, "why"])
def test_cancelling_the_future_cancels_the_items_and_waits_for_them(impl, limit, return_exceptions, message):
    async def main():
        trace = Trace()
        outer = impl.gather(
            sleeping(trace, "a", 2), sleeping(trace, "b", 2), limit=limit, return_exceptions=return_exceptions
        )
        await idle(2)
        assert outer.cancel() if message is None else outer.cancel(message)
        assert not outer.done()
        with pytest.raises(asyncio.CancelledError) as caught:
            await outer
        assert caught.value.args == (() if message is None else (message,))
        assert not outer.cancelled(), "as asyncio.gather: it fails with CancelledError"
        assert not outer.cancel()
        return trace.events

    assert run(main)[:4] == "+a +b xa xb".split()


@pytest.mark.parametrize("limit", LIMITS)
def test_cancelled_before_anything_runs_it_is_done_at_once(impl, limit):
    async def main():
        trace = Trace()
        items = [item(trace, name) for name in "abc"]
        outer = impl.gather(*items, limit=limit)
        assert outer.cancel(msg="early")
        assert outer.done()
        with pytest.raises(asyncio.CancelledError) as caught:
            await outer
        assert caught.value.args == ("early",)
        assert all(map(is_closed, items))
        await idle(2)
        assert trace.events == []

    run(main)


def test_cancelling_when_every_future_is_done_already_has_no_effect(impl):
    async def main():
        outcomes = []
        for gathering in (asyncio.gather, impl.gather):
            future = asyncio.get_running_loop().create_future()
            outer = gathering(future)
            future.set_result("set")
            outcomes.append((outer.cancel(), await outer))
        assert outcomes == [(False, ["set"])] * 2

    run(main)


def test_a_future_settled_by_somebody_else_is_left_alone(impl):
    async def main():
        trace = Trace()
        outer = impl.gather(item(trace, "a", 3), item(trace, "b", 3), limit=1)
        await idle(2)
        outer.set_result("by somebody else")
        assert not outer.cancel()
        assert await outer == "by somebody else"
        await idle(8)
        return trace.events

    assert run(main) == "+a -a +b -b".split()


def test_anyio_limiters_limit(impl):
    anyio = pytest.importorskip("anyio")

    async def main():
        limiter = anyio.CapacityLimiter(2)
        trace = Trace()
        assert await impl.gather(*(item(trace, name) for name in "abcd"), limit=limiter) == list("abcd")
        assert limiter.borrowed_tokens == 0
        assert await impl.gather(*(item(trace, name) for name in "ab"), limit=anyio.Semaphore(1)) == ["a", "b"]

    run(main)


def test_an_aiolimiter_limits(impl):
    aiolimiter = pytest.importorskip("aiolimiter")

    async def main():
        limiter = aiolimiter.AsyncLimiter(1000, 1)
        assert await impl.gather(*(asyncio.sleep(0, i) for i in range(5)), limit=limiter) == list(range(5))

    run(main)
