"""Somebody closes what an item's Task drives (`task.get_coro().close()`): the Task finds that in its next step.

With `asyncio.gather` that step is a RuntimeError, and so the child's outcome. It is the same here for an item that is no
coroutine, whose Task drives an object of the engine's.
"""

import asyncio
import types

import pytest

from contract_tools import idle, is_closed, item, run

pytestmark = pytest.mark.usefixtures("any_turns")

REUSED = "cannot reuse already awaited coroutine"


class Awaitable:
    """Waits for a future; knows in which Task, and whether it has been left."""

    def __init__(self, future):
        self.future = future
        self.task = None
        self.left = False

    def __await__(self):
        self.task = asyncio.current_task()
        try:
            return (yield from self.future)
        finally:
            self.left = True


class NamedFuture(asyncio.Future):
    """3.13.0 names what a task factory has made."""

    def set_name(self, name):
        pass


def doors(impl):
    """Each takes awaitables and returns what is to be awaited; two items run at a time."""
    return {
        "gather_with_concurrency": lambda *items: impl.gather_with_concurrency(2, *items),
        "gather_with_concurrency, no limit": lambda *items: impl.gather_with_concurrency(None, *items),
        "gather": lambda *items: impl.gather(*items, limit=2),
        "gather, no limit": lambda *items: impl.gather(*items),
        "a gate": lambda *items: impl.gather(*items, limit=asyncio.Semaphore(2)),
        "gates": lambda *items: impl.gather(*items, limit=[asyncio.Semaphore(2), asyncio.Semaphore(3)]),
        "run_all": lambda *items: impl.run_all([lambda item=item: item for item in items], limit=2),
        "constrained_execution": lambda *items: impl.constrained_execution([lambda i=i: i for i in items], 2),
    }


DOORS = list(doors(types.SimpleNamespace()))


@pytest.mark.parametrize("door", DOORS)
def test_the_item_ends_with_the_error_of_its_next_step(impl, door):
    async def main():
        future = asyncio.get_running_loop().create_future()
        awaitable = Awaitable(future)
        call = asyncio.ensure_future(doors(impl)[door](awaitable))
        await idle(2)
        awaitable.task.get_coro().close()
        assert awaitable.left
        await idle(3)
        assert not call.done() and not awaitable.task.done()
        future.set_result(None)
        with pytest.raises(RuntimeError, match=REUSED):
            await call
        with pytest.raises(RuntimeError, match=REUSED):
            awaitable.task.result()

    run(main)


@pytest.mark.parametrize("door", DOORS)
def test_cancelling_the_task_finds_it_closed_as_well(impl, door):
    async def main():
        awaitable = Awaitable(asyncio.get_running_loop().create_future())
        call = asyncio.ensure_future(doors(impl)[door](awaitable))
        await idle(2)
        awaitable.task.get_coro().close()
        call.cancel("stop")
        with pytest.raises(RuntimeError, match=REUSED):
            await call

    run(main)


@pytest.mark.parametrize("door", ["gather_with_concurrency", "gather", "constrained_execution"])
def test_the_queue_goes_on_and_others_are_left_alone(impl, door):
    """The slot is free again when the Task has ended, not before."""

    async def main():
        events = []
        loop = asyncio.get_running_loop()
        first, second = Awaitable(loop.create_future()), Awaitable(loop.create_future())
        third = item(events.append, "third")
        call = asyncio.ensure_future(doors(impl)[door](first, second, third))
        await idle(2)
        first.task.get_coro().close()
        await idle(2)
        events.append("now")
        first.future.set_result(None)
        await idle(3)
        second.future.set_result(None)
        with pytest.raises(RuntimeError, match=REUSED):
            await call
        await idle(3)
        assert events == ["now", "+third", "-third"]
        assert is_closed(third)

    run(main)


def test_it_is_a_result_where_exceptions_are_returned(impl):
    async def main():
        futures = [asyncio.get_running_loop().create_future() for _ in range(3)]
        items = [Awaitable(future) for future in futures]
        call = asyncio.ensure_future(impl.gather(*items, limit=3, return_exceptions=True))
        await idle(2)
        items[1].task.get_coro().close()
        for number, future in enumerate(futures):
            future.set_result(number)
        first, error, last = await call
        assert (first, last) == (0, 2)
        assert type(error) is RuntimeError and REUSED in str(error)

    run(main)


def test_it_cancels_the_others_where_an_error_does(impl):
    async def main():
        futures = [asyncio.get_running_loop().create_future() for _ in range(3)]
        items = [Awaitable(future) for future in futures]
        call = asyncio.ensure_future(impl.gather(*items, limit=3, cancel_on_error=True))
        await idle(2)
        items[0].task.get_coro().close()
        futures[0].set_result(None)
        with pytest.raises(RuntimeError, match=REUSED):
            await call
        assert all(item.left for item in items) and futures[1].cancelled() and futures[2].cancelled()

    run(main)


@pytest.mark.parametrize("close", ["close", "twice", "throw", "send"])
def test_whoever_steps_it_by_hand_gets_the_error_first(impl, close):
    async def main():
        future = asyncio.get_running_loop().create_future()
        awaitable = Awaitable(future)
        call = asyncio.ensure_future(impl.gather(awaitable, limit=1))
        await idle(2)
        coro = awaitable.task.get_coro()
        coro.close()
        if close == "twice":
            coro.close()
        elif close != "close":
            with pytest.raises(RuntimeError, match=REUSED):
                coro.send(None) if close == "send" else coro.throw(LookupError())
            assert call.done()
        future.set_result(None)
        with pytest.raises(RuntimeError, match=REUSED):
            await call
        await asyncio.wait([awaitable.task])

    run(main)


def test_an_item_that_does_not_let_itself_be_closed(impl):
    """Nor does a native coroutine go on after that."""

    class Stubborn:
        def __init__(self, future):
            self.future = future

        def __await__(self):
            self.task = asyncio.current_task()
            try:
                yield from self.future
            except GeneratorExit:
                yield

    async def main():
        stubborn = Stubborn(asyncio.get_running_loop().create_future())
        call = asyncio.ensure_future(impl.gather_with_concurrency(1, stubborn))
        await idle(2)
        with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
            stubborn.task.get_coro().close()
        stubborn.future.set_result(None)
        with pytest.raises(RuntimeError, match=REUSED):
            await call

    run(main)


class TestBeforeTheFirstStep:
    """A Task of the loop's makes its first step a turn after it was made."""

    @staticmethod
    def start(impl, door, awaitable):
        coros, tasks = [], []

        def factory(loop, coro, **options):
            task = asyncio.Task(coro, loop=loop, **options)
            coros.append(coro)
            tasks.append(task)
            return task

        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        call = doors(impl)[door](awaitable)
        if not asyncio.isfuture(call):
            coroutine, call = call, None
            assert asyncio.isfuture(coroutine.send(None))
            call = coroutine
        loop.set_task_factory(None)
        return call, coros[0], tasks[0]

    @pytest.mark.parametrize("door", ["gather", "gather, no limit", "a gate"])
    def test_closed(self, impl, door):
        async def main():
            awaitable = Awaitable(asyncio.get_running_loop().create_future())
            call, coro, task = self.start(impl, door, awaitable)
            coro.close()
            with pytest.raises(RuntimeError, match=REUSED):
                await call
            assert awaitable.task is None and task.done()

        run(main)

    @pytest.mark.parametrize("door", ["gather", "gather, no limit", "a gate"])
    def test_closed_and_cancelled(self, impl, door):
        async def main():
            awaitable = Awaitable(asyncio.get_running_loop().create_future())
            call, coro, task = self.start(impl, door, awaitable)
            coro.close()
            task.cancel()
            with pytest.raises(RuntimeError, match=REUSED):
                await call
            assert awaitable.task is None and task.done()

        run(main)

    @pytest.mark.parametrize("factory", ["a Task", "a Future", "an error"])
    @pytest.mark.parametrize("door", DOORS)
    def test_closed_by_who_makes_the_task(self, impl, door, factory):
        async def main():
            closed = []

            def closes(loop, coro, **options):
                if closed or "main" in getattr(coro, "__qualname__", ""):
                    return asyncio.Task(coro, loop=loop, **options)
                closed.append(coro)
                coro.close()
                if factory == "a Task":
                    return asyncio.Task(coro, loop=loop, **options)
                if factory == "a Future":
                    return NamedFuture(loop=loop)
                raise LookupError("no Task")

            async def calls():
                return await doors(impl)[door](Awaitable(None))

            asyncio.get_running_loop().set_task_factory(closes)
            error = LookupError if factory == "an error" else RuntimeError
            with pytest.raises(error, match="no Task" if factory == "an error" else REUSED):
                await calls()
            assert closed

        run(main)
