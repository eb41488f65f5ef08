"""With a task factory, or a loop that makes Tasks its own way, Tasks come from there (design, point 5)."""

import asyncio
import functools
import sys

import pytest

from contract_tools import Trace, failing, idle, is_closed, item, run, sleeping


def two_argument_factory(loop, coroutine):
    return asyncio.Task(coroutine, loop=loop)


def test_a_two_argument_factory_gets_every_item_and_no_keyword(impl):
    async def main():
        made = []

        def factory(loop, coroutine):
            made.append(coroutine)
            return asyncio.Task(coroutine, loop=loop)

        asyncio.get_running_loop().set_task_factory(factory)
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
