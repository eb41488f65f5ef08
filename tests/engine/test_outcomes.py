"""While one item's outcome is being taken, other code may run: that of Futures, Tasks, the loop, the call graph's functions.

It may end everything else. The list of results is complete all the same, and the call has the outcome of asyncio.gather.
"""

import asyncio
import ctypes
import sys
import types

import pytest

from contract_tools import idle, run
from in_subprocess import check_script

pytestmark = pytest.mark.usefixtures("any_turns")


class CallsBackAtOnce(asyncio.Future):
    """Calls back where it is told to, and not by the loop."""

    callbacks = ()
    _log_destroy_pending = True

    def set_name(self, name):
        pass

    def add_done_callback(self, callback, *, context=None):
        self.callbacks += (callback,)

    def fire(self):
        callbacks, self.callbacks = self.callbacks, ()
        for callback in callbacks:
            callback(self)

    def end(self, result):
        if not self.done():
            self.set_result(result)
            self.fire()


@types.coroutine
def pause():
    yield


def test_a_future_that_is_asked_for_its_message_ends_the_others(impl):
    async def main():
        loop = asyncio.get_running_loop()

        class Asked(CallsBackAtOnce):
            @property
            def _cancel_message(self):
                for index, other in enumerate(others):
                    other.end(index)
                return "asked"

        asked, others = Asked(loop=loop), [CallsBackAtOnce(loop=loop) for _ in range(5)]
        call = impl.gather(asked, *others, return_exceptions=True)
        asyncio.Future.cancel(asked)
        asked.fire()
        error, *results = await call
        assert (type(error), error.args, results) == (asyncio.CancelledError, ("asked",), [0, 1, 2, 3, 4])

    run(main)


@pytest.mark.parametrize("limit", [2, 3])
def test_a_loop_that_is_to_make_the_keeper_ends_the_others(impl, limit):
    class Loop(asyncio.SelectorEventLoop):
        def call_soon(self, *args, **kwargs):
            handle = super().call_soon(*args, **kwargs)
            if armed:
                with pytest.raises(StopIteration):
                    armed.pop().send(None)
            return handle

    armed, tasks = [], []

    class Waits:
        def __await__(self):
            tasks.append(asyncio.current_task())
            yield
            return "waits"

    async def fails():
        await idle(1)
        armed.append(tasks[0].get_coro())
        raise ValueError("first")

    async def main():
        with pytest.raises(ValueError, match="first"):
            await impl.gather_with_concurrency(limit, fails(), Waits(), idle(0), idle(0))

    loop = Loop()
    loop.run_until_complete(main())
    loop.close()


@pytest.mark.skipif(sys.version_info < (3, 14), reason="the call graph is new in 3.14")
def test_a_function_of_the_call_graph_ends_the_others(impl):
    check_script(
        impl,
        """
        import asyncio.futures

        class CallsBackAtOnce(asyncio.Future):
            callbacks = ()
            def add_done_callback(self, callback, *, context=None):
                self.callbacks += (callback,)
            def end(self, result):
                if not self.done():
                    self.set_result(result)
                    for callback in self.callbacks:
                        callback(self)

        stock = asyncio.futures.future_discard_from_awaited_by
        def discard(future, awaiter):
            stock(future, awaiter)
            if future is second:
                second.end(2)
        asyncio.futures.future_discard_from_awaited_by = discard
        second = None

        async def main(by_somebody):
            global second
            loop = asyncio.get_running_loop()
            first, second = CallsBackAtOnce(loop=loop), CallsBackAtOnce(loop=loop)
            call = impl.gather(first, second)
            if by_somebody:
                call.set_result("stolen")
            first.end(1)
            second.end(2)
            assert await call == ("stolen" if by_somebody else [1, 2])

        for by_somebody in False, True:
            asyncio.run(main(by_somebody))
        print("ok")
        """,
    )


@pytest.mark.parametrize("limit", [None, 2])
def test_after_somebody_else_has_set_the_future_an_error_cancels_nothing(impl, limit):
    ended = []

    async def fails():
        await idle(2)
        raise ValueError

    async def goes_on():
        try:
            await idle(6)
            ended.append("went on")
        except asyncio.CancelledError:
            ended.append("cancelled")

    async def main():
        call = impl.gather(fails(), goes_on(), goes_on(), cancel_on_error=True, limit=limit)
        await asyncio.sleep(0)
        call.set_result("set by somebody")
        assert await call == "set by somebody"
        await idle(20)
        assert ended == ["went on"] * 2

    run(main)


@pytest.mark.parametrize("gather", ["ours", "asyncio"])
def test_an_exception_that_a_future_was_given_is_returned_as_it_is(impl, gather):
    gather = impl.gather if gather == "ours" else asyncio.gather

    async def cancels_itself():
        asyncio.current_task().cancel("by itself")
        await asyncio.sleep(0)

    async def main():
        future = asyncio.get_running_loop().create_future()
        future.set_exception(asyncio.CancelledError("given"))
        (returned,) = await gather(future, return_exceptions=True)
        assert returned is future.exception()
        (returned,) = await gather(gather(cancels_itself()), return_exceptions=True)
        assert returned.args == ("by itself",)
        future = asyncio.get_running_loop().create_future()
        future.cancel("message")
        (returned,) = await gather(future, return_exceptions=True)
        assert returned.args == ("message",)

    run(main)


# ---- Tasks of the loop's own, which have ended without their worker ----


async def with_factory(factory, act):
    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        call = act()
    finally:
        loop.set_task_factory(None)
    await idle(5)
    if call.done():
        return call.exception() if not call.cancelled() else "cancelled"
    call.cancel()
    return "pending"


def test_a_worker_that_is_stepped_to_its_end_while_its_task_s_outcome_is_taken(impl):
    workers, made = [], []

    class Steps(asyncio.Task):
        def cancel(self, msg=None):
            while workers:
                with pytest.raises(StopIteration):
                    workers.pop().send(None)
            return super().cancel(msg)

    def factory(loop, coro, **options):
        async def begins_and_fails():
            workers.append(coro)
            coro.send(None)
            raise LookupError

        made.append(coro)
        return asyncio.Task(begins_and_fails(), loop=loop) if len(made) == 1 else Steps(coro, loop=loop)

    async def item():
        await pause()

    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        with pytest.raises(LookupError):
            await impl.gather(item(), idle(50), cancel_on_error=True)
        asyncio.get_running_loop().set_task_factory(None)

    run(main)
    assert len(made) == 2 and not workers


def test_a_task_that_ends_while_its_item_runs(impl):
    tasks = []

    class Cancels(CallsBackAtOnce):
        def cancel(self, msg=None):
            cancelled = super().cancel(msg)
            self.fire()
            return cancelled

    def factory(loop, coro, **options):
        tasks.append(asyncio.Task(coro, loop=loop))
        return Cancels(loop=loop)

    async def item():
        calls[0].cancel()
        await idle(2)

    calls = []

    async def main():
        def act():
            calls.append(impl.gather(item()))
            return calls[0]

        outcome = await with_factory(factory, act)
        assert isinstance(outcome, asyncio.CancelledError) or outcome == "cancelled"
        await asyncio.gather(*tasks)

    run(main)


def test_a_task_that_cannot_say_how_it_ended_is_an_error_of_its_item(impl):
    class Refuses(asyncio.Task):
        asked = 0

        def exception(self):
            self.asked += 1
            if self.asked == 1:
                raise MemoryError
            return super().exception()

    def factory(loop, coro, **options):
        async def without_it():
            raise LookupError

        return Refuses(without_it(), loop=loop)

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # nobody can retrieve its error
        assert isinstance(await with_factory(factory, lambda: impl.gather(idle(1))), MemoryError)

    run(main)


def test_a_factory_that_makes_the_first_step_itself(impl):
    """The current Task is the caller's then, and not the item's."""

    @types.coroutine
    def drives(coro, first):
        while True:
            yield first
            try:
                first = coro.send(None)
            except StopIteration as stop:
                return stop.value

    def factory(loop, coro, **options):
        async def rest(first):
            return await drives(coro, first)

        return asyncio.Task(rest(coro.send(None)), loop=loop)

    async def caller():
        asyncio.get_running_loop().set_task_factory(factory)
        await impl.run_all([lambda: idle(20), lambda: idle(20)])

    async def main():
        task = asyncio.create_task(caller())
        await idle(5)
        task.cancel("why")
        with pytest.raises(asyncio.CancelledError):
            await task
        asyncio.get_running_loop().set_task_factory(None)

    run(main)


def test_an_interrupt_from_the_loop_while_an_outcome_is_taken_leaves_a_queue_that_goes_on(impl):
    class Loop(asyncio.SelectorEventLoop):
        def call_soon(self, callback, *args, **kwargs):
            if armed and "wakeup" in repr(callback):
                armed.clear()
                raise KeyboardInterrupt
            return super().call_soon(callback, *args, **kwargs)

    for by_factory in True, False:
        armed, ran, made = [], [], []

        async def item():
            ran.append(1)

        async def fails(first=None):
            await asyncio.sleep(0)
            armed.append(1)
            raise ValueError

        def factory(loop, coro, **options):
            made.append(coro)
            return asyncio.Task(fails() if len(made) == 1 else coro, loop=loop)

        async def main():
            if by_factory:
                asyncio.get_running_loop().set_task_factory(factory)
            await impl.gather(item() if by_factory else fails(), item(), item(), limit=1)

        loop = Loop()
        task = asyncio.Task(main(), loop=loop)
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        for _ in range(10):
            loop.call_soon(loop.stop)
            loop.run_forever()
        assert ran == [1, 1], by_factory
        # Its wakeup is what was interrupted: it sleeps for ever, as under asyncio.gather.
        task._log_destroy_pending = False
        for coro in made[:1]:
            coro.close()
        loop.close()


# ---- in the middle of a collection ----


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="capsules")
@pytest.mark.parametrize("place", ["a Future", "a callback"])
def test_what_runs_between_the_collector_s_calls_finds_nothing_half_cleared(impl, place):
    """A capsule's destructor is unknown to the collector, so it runs while that clears the rest."""
    assert ctypes.pythonapi.PyCapsule_New
    check_script(
        impl,
        """
        import contextlib, ctypes, functools

        place = sys.argv[1]
        loop = asyncio.new_event_loop()
        ran = []
        Destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)

        @Destructor
        def destroyed(_):
            tasks = list(asyncio.all_tasks(loop))
            ran.append(len(tasks))
            for task in tasks:
                if type(task._fut_waiter).__name__ == "_GatheringFuture" and not task._fut_waiter.done():
                    task._fut_waiter.set_result(1)
            for task in tasks:
                for callback, context in task._callbacks or ():
                    if not isinstance(callback, functools.partial):
                        with contextlib.suppress(AttributeError):  # Python objects that have been cleared
                            callback(task)

        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = ctypes.c_void_p, ctypes.c_char_p, Destructor

        class Future(asyncio.Future):
            pass

        def future():
            made = Future(loop=loop)
            if place == "a Future":
                made.capsule = new(1, None, destroyed)
            return made

        async def forever():
            await loop.create_future()

        async def caller():
            call = impl.gather(future(), loop.create_task(forever()))
            if place == "a callback":
                call.add_done_callback(functools.partial(print, new(1, None, destroyed)))
            await call

        loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed but it is pending!"
        task = loop.create_task(caller())
        loop.run_until_complete(asyncio.sleep(0))
        found = next(thing for thing in gc.get_objects() if type(thing) is Future)
        callback = found._callbacks[0][0]
        del task, found
        gc.collect()
        callback = None
        gc.collect()
        loop.close()
        print("ok")
        """,
        arguments=[place],
        warnings_are_errors=False,
    )
