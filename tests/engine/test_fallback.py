"""With a task factory, or a loop that makes Tasks its own way, Tasks come from there.

That is point 5 of docs/architecture.md.
"""

import asyncio
import functools
import gc
import sys

import pytest

from contract_tools import NotingFactory, Trace, failing, idle, is_closed, item, run, sleeping, two_argument_factory
from virtual_time import VirtualTimeLoop


def test_a_two_argument_factory_gets_every_item_and_no_keyword(impl):
    async def main():
        made = NotingFactory()
        asyncio.get_running_loop().set_task_factory(made)
        trace = Trace()
        assert await impl.gather_with_concurrency(2, *(item(trace, name) for name in "abc")) == ["a", "b", "c"]
        assert await impl.gather_with_concurrency(None, *(item(trace, name) for name in "de")) == ["d", "e"]
        asyncio.get_running_loop().set_task_factory(None)
        return len(made), [coroutine.__name__ for coroutine in made]

    assert run(main) == (5, ["item"] * 5)


def test_the_factory_is_told_the_names_of_each_item(impl):
    class Awaits:
        def __await__(self):
            return idle(0).__await__()

        async def method(self):
            pass

        async def __call__(self):
            pass

    async def main():
        names = []

        def factory(loop, coroutine):
            names.append((coroutine.__name__, coroutine.__qualname__))
            return asyncio.Task(coroutine, loop=loop)

        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        future = loop.create_future()
        future.set_result(None)
        gate = asyncio.Semaphore(1)
        for limit in 1, gate:
            await impl.gather(idle(1), Awaits(), Awaits().method(), future, impl.gated_coro(gate, idle(0)), limit=1)
            functions = [Awaits().method, Awaits(), functools.partial(idle, 1), lambda: idle(1)]
            await impl.run_all(functions, limit=limit)
        loop.set_task_factory(None)
        local = f"{test_the_factory_is_told_the_names_of_each_item.__name__}.<locals>."
        expected = [
            ("idle", "idle"),
            ("Awaits", "Awaits"),
            ("method", f"{local}Awaits.method"),
            ("Future", "Future"),
            ("gated_coro", "gated_coro"),
            ("method", f"{local}Awaits.method"),
            ("Awaits", "Awaits"),
            ("partial", "partial"),
            ("<lambda>", f"{local}main.<locals>.<lambda>"),
        ]
        assert names == expected * 2

    run(main)


def test_scheduled_tasks_are_made_in_the_first_step_and_start_in_the_next_turn(impl):
    async def main():
        asyncio.get_running_loop().set_task_factory(two_argument_factory)
        trace = Trace()
        trace.start()
        await impl.gather_with_concurrency(2, *(item(trace, name) for name in "abcd"))
        trace("done")
        trace.stop()
        asyncio.get_running_loop().set_task_factory(None)
        return trace.turns

    # A freed slot makes the next Task at once, and that starts in the next turn.
    assert run(main) == ["", "+a +b", "-a -b", "+c +d", "-c -d", "done"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")
def test_under_an_eager_factory_items_run_in_the_call_and_the_caller_goes_on_without_a_turn(impl):
    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        trace = Trace()
        trace.start()
        assert await impl.gather_with_concurrency(1, *(item(trace, name, 0) for name in "ab")) == ["a", "b"]
        assert await impl.gather_with_concurrency(None, *(item(trace, name, 0) for name in "cd")) == ["c", "d"]
        trace("done")
        await impl.gather_with_concurrency(1, *(item(trace, name, 1) for name in "ef"))
        trace.stop()
        asyncio.get_running_loop().set_task_factory(None)
        return trace.turns

    assert run(main) == ["+a -a +b -b +c -c +d -d done +e", "-e +f", "-f"]


def test_each_item_has_its_own_context_whoever_makes_its_task(impl):
    import contextvars

    variable = contextvars.ContextVar("variable", default="default")

    async def main():
        async def sets(value):
            seen = variable.get()
            variable.set(value)
            await asyncio.sleep(0)
            return seen, variable.get()

        asyncio.get_running_loop().set_task_factory(two_argument_factory)
        variable.set("caller's")
        for n in (1, 2, None):
            results = await impl.gather_with_concurrency(n, *map(sets, range(4)))
            assert results == [("caller's", value) for value in range(4)]
        assert variable.get() == "caller's"
        asyncio.get_running_loop().set_task_factory(None)

    run(main)


def test_errors_and_cancellation_are_the_same(impl):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(two_argument_factory)
        trace = Trace()
        with pytest.raises(ValueError):
            await impl.gather_with_concurrency(1, failing(trace, "a"), item(trace, "b"))
        await idle(6)
        queued = item(trace, "d")
        caller = loop.create_task(impl.gather_with_concurrency(1, sleeping(trace, "c", 1), queued))
        await idle(4)
        caller.cancel("why")
        with pytest.raises(asyncio.CancelledError) as caught:
            await caller
        assert caught.value.args == ("why",)
        assert is_closed(queued)
        loop.set_task_factory(None)
        return trace.events

    assert run(main) == "+a !a +b -b +c xc -c".split()


def test_an_item_cancelled_before_its_scheduled_task_started_is_closed(impl):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(two_argument_factory)
        trace = Trace()
        items = [item(trace, name) for name in "abc"]
        outer = impl.gather(*items, limit=2)
        assert outer.cancel("early")
        with pytest.raises(asyncio.CancelledError) as caught:
            await outer
        loop.set_task_factory(None)
        assert caught.value.args == ("early",)
        assert all(map(is_closed, items))
        assert trace.events == []

    run(main)


def test_a_factory_that_fails_is_the_item_s_error(impl):
    async def main():
        error = LookupError("of the factory")

        def factory(loop, coroutine):
            if made:
                raise error
            made.append(coroutine)
            return asyncio.Task(coroutine, loop=loop)

        made = []
        trace = Trace()
        items = [item(trace, name) for name in "ab"]
        asyncio.get_running_loop().set_task_factory(factory)
        with pytest.raises(LookupError) as caught:
            await impl.gather_with_concurrency(1, *items)
        asyncio.get_running_loop().set_task_factory(None)
        assert caught.value is error
        assert is_closed(items[1])
        assert trace.events == ["+a", "-a"]

    run(main)


def test_a_factory_may_wrap_the_coroutine(impl):
    async def main():
        trace = Trace()

        def factory(loop, coroutine):
            async def wrapped():
                trace("(")
                try:
                    return await coroutine
                finally:
                    trace(")")

            return asyncio.Task(wrapped(), loop=loop)

        asyncio.get_running_loop().set_task_factory(factory)
        assert await impl.gather_with_concurrency(1, item(trace, "a"), item(trace, "b")) == ["a", "b"]
        asyncio.get_running_loop().set_task_factory(None)
        return trace.events

    # The next item is started in the step in which the item ends, before the wrapper does.
    assert run(main) == "( +a -a ) ( +b -b )".split()


# A Task that a factory has wrapped may end without what was to be its coroutine


async def fails_before(coroutine):
    raise LookupError("of the wrapper")


async def fails_after_a_turn(coroutine):
    await idle(1)
    raise LookupError("of the wrapper")


async def returns_before(coroutine):
    return "of the wrapper"


async def is_cancelled_before(coroutine):
    raise asyncio.CancelledError("of the wrapper")


def wrapping_factory(wrapper, wraps):
    """A factory that wraps the coroutine of each Task whose name *wraps* says so."""

    def factory(loop, coroutine):
        return asyncio.Task(wrapper(coroutine) if wraps(coroutine.__qualname__) else coroutine, loop=loop)

    return factory


LIMITS = {
    "1": lambda: 1,
    "2": lambda: 2,
    "None": lambda: None,
    "semaphore": lambda: asyncio.Semaphore(1),
    "row": lambda: [asyncio.Semaphore(2), 2, asyncio.Lock()],
}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("wrapper", [fails_before, fails_after_a_turn, returns_before, is_cancelled_before])
def test_what_the_task_came_to_is_the_item_s_outcome(impl, wrapper, limit):
    async def one():
        raise AssertionError("it runs")

    async def other(result):
        await idle(1)
        return result

    async def main():
        asyncio.get_running_loop().set_task_factory(wrapping_factory(wrapper, lambda name: name.endswith("one")))

        async def outcome_of(gather):
            items = [other(1), one(), other(2), one(), other(3)]
            results = await gather(*items, return_exceptions=True)
            return [repr(result) for result in results], items

        expected, items = await outcome_of(asyncio.gather)
        for coroutine in items:
            coroutine.close()
        results, items = await outcome_of(functools.partial(impl.gather, limit=LIMITS[limit]()))
        assert results == expected
        assert all(map(is_closed, items))
        asyncio.get_running_loop().set_task_factory(None)

    run(main, loop_factory=VirtualTimeLoop)


@pytest.mark.parametrize("limit", ["1", "2", "None"])
def test_a_coroutine_that_its_task_leaves_half_way_is_closed(impl, limit):
    class FailsAfterAStep:
        def __init__(self, coroutine):
            self.coroutine = coroutine

        def __await__(self):
            yield self.coroutine.send(None)
            raise LookupError("of the wrapper")

    async def wrapper(coroutine):
        return await FailsAfterAStep(coroutine)

    async def one():
        try:
            await idle(3)
            ended.append("by itself")
        except GeneratorExit:
            ended.append("closed")
            raise

    ended = []

    async def main():
        asyncio.get_running_loop().set_task_factory(wrapping_factory(wrapper, lambda name: name.endswith("one")))
        items = [one(), idle(1), one(), idle(1), one()]
        results = await impl.gather(*items, limit=LIMITS[limit](), return_exceptions=True)
        assert [type(result) for result in results[::2]] == [LookupError] * 3
        del results  # their tracebacks hold what was left
        await idle(1)
        gc.collect()
        assert all(map(is_closed, items))
        assert ended == ["closed"] * 3
        asyncio.get_running_loop().set_task_factory(None)

    run(main, loop_factory=VirtualTimeLoop)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("turns", range(6))
def test_cancelled_when_the_wrapper_has_not_begun_or_the_coroutine_has_not(impl, limit, turns):
    async def wrapper(coroutine):
        await idle(1)
        return await coroutine

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(wrapping_factory(wrapper, lambda name: name == "sleeping"))
        trace = Trace()
        items = [sleeping(trace, name) for name in "abc"]
        outer = impl.gather(*items, limit=LIMITS[limit]())
        await idle(turns)
        outer.cancel("why")
        with pytest.raises(asyncio.CancelledError) as caught:
            await outer
        assert caught.value.args == ("why",)
        await idle(3)
        assert all(map(is_closed, items))
        begun = [event[1:] for event in trace.events if event[0] == "+"]
        assert [event[1:] for event in trace.events if event[0] == "-"] == begun

        made = []

        def function(name):
            made.append(sleeping(trace, name))
            return made[-1]

        functions = [functools.partial(function, name) for name in "abc"]
        task = asyncio.Task(impl.run_all(functions, limit=LIMITS[limit]()), loop=loop)
        await idle(turns + 1)
        task.cancel("why")
        with pytest.raises(asyncio.CancelledError):
            await task
        await idle(3)
        assert all(map(is_closed, made))
        loop.set_task_factory(None)

    run(main, loop_factory=VirtualTimeLoop)


def test_a_coroutine_that_somebody_else_drives_goes_on_when_its_task_has_ended(impl):
    async def main():
        loop = asyncio.get_running_loop()
        inner = []

        async def hands_over(coroutine):
            inner.append(asyncio.Task(coroutine, loop=loop))
            await idle(2)
            return "handed over"

        trace = Trace()
        factory = wrapping_factory(hands_over, lambda name: name == "item")
        for limit in 1, None, asyncio.Semaphore(1):
            inner.clear()
            loop.set_task_factory(factory)
            results = await impl.gather(item(trace, "a", 5), item(trace, "b", 5), limit=limit)
            loop.set_task_factory(None)
            assert results == ["handed over"] * 2
            assert await asyncio.gather(*inner) == ["a", "b"]
        return trace.events

    assert len(run(main, loop_factory=VirtualTimeLoop)) == 12


@pytest.mark.parametrize("return_exceptions", [True, False])
@pytest.mark.parametrize("function", ["gather", "run_all"])
@pytest.mark.parametrize("beside", [None, 0, 1, 2])
def test_nobody_waits_for_the_gate_any_more_when_the_task_has_ended(impl, function, return_exceptions, beside):
    class Gate:
        """The first to come waits for ever."""

        entered = 0

        async def __aenter__(self):
            self.entered += 1
            if self.entered == 1:
                await asyncio.get_running_loop().create_future()

        async def __aexit__(self, *exception):
            pass

    async def leaves_it_waiting(coroutine):
        coroutine.send(None)
        left.append(coroutine)
        raise LookupError("of the wrapper")

    async def first():
        raise AssertionError("it runs")

    left = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(wrapping_factory(leaves_it_waiting, lambda name: name.endswith("first")))
        trace = Trace()
        functions = [first, *(functools.partial(item, trace, name) for name in "ab")]
        limit = Gate()
        if beside is not None:  # so many gates stand before it, the others behind it
            limit = [asyncio.Semaphore(3) for _ in range(2)]
            limit.insert(beside, Gate())
        options = {"limit": limit, "return_exceptions": return_exceptions}
        if function == "gather":
            call = impl.gather(*(make() for make in functions), **options)
        else:
            call = impl.run_all(functions, cancel_on_error=False, **options)
        if return_exceptions:
            error, *results = await call
            assert type(error) is LookupError and results == ["a", "b"]
        else:
            with pytest.raises(LookupError):
                await call
            await idle(6)
        loop.set_task_factory(None)
        left[0].close()
        return trace.events

    assert sorted(run(main, loop_factory=VirtualTimeLoop)) == ["+a", "+b", "-a", "-b"]


# Nor need its callbacks come once, or when it has ended


class EndsWhenItLikes(asyncio.Task):
    """It says that it has ended, and calls its callbacks, when one is added or when one of them all is cancelled."""

    def __init__(self, coroutine, made, calls_at, **kwargs):
        self.coroutine, self.made, self.calls_at, self.callbacks = coroutine, made, calls_at, []
        made.append(self)
        super().__init__(coroutine, **kwargs)

    def add_done_callback(self, callback, **kwargs):
        self.callbacks.append(callback)
        super().add_done_callback(callback, **kwargs)
        if self.calls_at == "once":
            callback(self)

    def cancel(self, *args, **kwargs):
        if self.calls_at == "cancel":
            for task in self.made:
                for callback in task.callbacks:
                    callback(task)
        return super().cancel(*args, **kwargs)

    def cancelled(self):
        return False

    def exception(self):
        return None

    def result(self):
        return "by its own word"


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("calls_at", ["once", "cancel"])
@pytest.mark.parametrize("cause", ["nothing", "closed", "cancelled"])
def test_a_task_that_calls_its_callbacks_when_it_likes(impl, cause, calls_at, limit):
    async def main():
        loop = asyncio.get_running_loop()
        made = []
        loop.set_exception_handler(lambda loop, context: None)  # some Tasks find their coroutine closed
        loop.set_task_factory(lambda loop, coroutine: EndsWhenItLikes(coroutine, made, calls_at, loop=loop))
        items = [item(Trace(), name, 8) for name in "abcd"]
        outer = impl.gather(*items, limit=LIMITS[limit](), cancel_on_error=True)
        await idle(3)
        if cause == "closed":
            made[0].coroutine.close()
        elif cause == "cancelled":
            outer.cancel("why")
        try:
            outcome = await outer
        except (asyncio.CancelledError, RuntimeError) as error:
            outcome = repr(error)
        loop.set_task_factory(None)
        await idle(12)
        assert all(map(is_closed, items))
        return outcome

    outcome = run(main, loop_factory=VirtualTimeLoop)
    if calls_at == "once":
        assert outcome == ["by its own word"] * 4
    elif cause == "nothing":
        assert outcome == list("abcd")
    elif cause == "closed":
        assert outcome == "RuntimeError('cannot reuse already awaited coroutine')"
    else:
        assert outcome in (["by its own word"] * 4, "CancelledError('why')")


def test_a_loop_class_with_its_own_create_task_is_asked(impl):
    made = []

    class Loop(asyncio.SelectorEventLoop):
        def create_task(self, coroutine, **options):
            made.append((getattr(coroutine, "__name__", None), options))
            return super().create_task(coroutine, **options)

    async def main():
        made.clear()
        trace = Trace()
        return await impl.gather_with_concurrency(2, *(item(trace, name) for name in "abc"))

    assert run(main, loop_factory=Loop) == ["a", "b", "c"]
    assert made[:3] == [("item", {})] * 3


def test_a_replaced_task_class_is_respected(impl, monkeypatch):
    async def main():
        class OtherTask(asyncio.Task):
            pass

        async def names_its_task():
            await asyncio.sleep(0)
            return type(asyncio.current_task()).__name__

        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "Task", OtherTask)
            patch.setattr(asyncio.tasks, "Task", OtherTask)
            return await impl.gather_with_concurrency(1, names_its_task(), names_its_task())

    assert run(main) == ["OtherTask"] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop does not run there")
def test_uvloop_is_a_stock_loop(impl):
    uvloop = pytest.importorskip("uvloop")

    async def main():
        trace = Trace()
        trace.start()
        await impl.gather_with_concurrency(2, *(item(trace, name) for name in "abc"))
        trace.stop()
        return trace.turns

    assert run(main, loop_factory=uvloop.new_event_loop) == ["", "+a +b", "-a +c -b", "-c"]
