"""Somebody steps, throws into or drops what the engine drives, in the middle of the engine's own work.

Each scenario crashed or hung an earlier engine. They run in interpreters of their own.
"""

import sys
import textwrap

import pytest

from in_subprocess import check_script

pytestmark = pytest.mark.usefixtures("any_turns")

COMMON = """
import threading
import warnings

from coroutines import ByItsMethods


class Coroutine(ByItsMethods):
    def __init__(self, on_close=lambda: None):
        self.on_close = on_close

    def close(self):
        self.on_close()


class Awaitable:
    def __init__(self):
        self.future = asyncio.get_running_loop().create_future()

    def __await__(self):
        self.task = asyncio.current_task()
        yield from self.future
        return "awaited"


async def outcome(awaitable):
    try:
        return await asyncio.wait_for(awaitable, 5)
    except BaseException as error:
        return repr(error)


def is_worker(coro):
    return type(coro).__name__ in ("Worker", "_Worker")


def step(coro):
    try:
        coro.send(None)
    except BaseException as error:
        return repr(error)


async def value(value, turns=0):
    for _ in range(turns):
        await asyncio.sleep(0)
    return value
"""

SCENARIOS = {
    "an item's close() steps the worker that gives it up": """
        for how in "raises", "cancels":
            workers, stepped = [], []
            def factory(loop, coro, **options):
                if not is_worker(coro):
                    return asyncio.Task(coro, loop=loop, **options)
                workers.append(coro)
                if how == "raises":
                    raise LookupError("no Task")
                task = asyncio.Task(coro, loop=loop, **options)
                task.cancel("by the factory")
                return task
            async def main():
                asyncio.get_running_loop().set_task_factory(factory)
                item = Coroutine(lambda: stepped.append(step(workers[0])))
                return await outcome(impl.gather(item, limit=1))
            seen = asyncio.run(main())
            assert stepped == ["RuntimeError('cannot reuse already awaited coroutine')"], stepped
            # Who steps it first ends the item, with what the step raised; the engine's own error may come before.
            expected = ["RuntimeError('cannot reuse already awaited coroutine')"]
            expected.append("LookupError('no Task')" if how == "raises" else "CancelledError('by the factory')")
            assert seen in expected, seen
    """,
    "a worker that is somebody's item is stepped while that call is closed": """
        workers, stepped = [], []
        def factory(loop, coro, **options):
            if is_worker(coro):
                workers.append(coro)
            return asyncio.Task(coro, loop=loop, **options)
        async def main():
            asyncio.get_running_loop().set_task_factory(factory)
            future = impl.gather(value(1), limit=1)
            asyncio.get_running_loop().set_task_factory(None)
            item = Coroutine(lambda: stepped.append(step(workers[0])))
            impl.gather_with_concurrency(1, workers[0], item).close()
            return await outcome(future)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the item of a closed worker may never have begun
            seen = asyncio.run(main())
            gc.collect()
        assert "cannot reuse already awaited coroutine" in seen, seen
    """,
    "a closed worker is stepped again while its outcome is delivered": """
        stepped = []
        def heard(future):
            pass
        class Loop(asyncio.SelectorEventLoop):
            worker = None
            def call_soon(self, callback, *args, context=None):
                if self.worker is not None and callback is heard:
                    worker, self.worker = self.worker, None
                    stepped.append(step(worker))
                return super().call_soon(callback, *args, context=context)
        async def main():
            awaitable = Awaitable()
            future = impl.gather(awaitable, limit=1)
            future.add_done_callback(heard)
            await value(None, 2)
            loop = asyncio.get_running_loop()
            loop.worker = awaitable.task.get_coro()
            loop.worker.close()
            awaitable.task.cancel()
            return await outcome(future)
        with asyncio.Runner(loop_factory=Loop) as runner:
            seen = runner.run(main())
        assert "cannot reuse already awaited coroutine" in seen, seen
        assert len(stepped) == 1 and "cannot reuse" in stepped[0], stepped
    """,
    "a worker is thrown into from outside of its Task": """
        async def main():
            for thrown in ValueError("by hand"), GeneratorExit():
                awaitable = Awaitable()
                future = impl.gather(awaitable, limit=1)
                await value(None, 2)
                try:
                    awaitable.task.get_coro().throw(thrown)
                except BaseException as error:
                    assert error is thrown, error
                assert await outcome(future) == repr(thrown)
                awaitable.task.cancel()
                await asyncio.wait([awaitable.task])
        asyncio.run(main())
    """,
    "two threads give up coroutines at the same time": """
        events = {name: threading.Event() for name in ("a is in", "b is in", "a is out", "b is out")}
        closed = []
        def a_closes():
            events["a is in"].set()
            events["b is in"].wait()
        def b_closes():
            events["b is in"].set()
            events["a is out"].wait()
        def a():
            impl.gated_coro(None, Coroutine(a_closes)).close()
            events["a is out"].set()
            events["b is out"].wait()
            for _ in range(5):
                impl.gated_coro(None, Coroutine(lambda: closed.append(1)))
        def b():
            events["a is in"].wait()
            impl.gated_coro(None, Coroutine(b_closes)).close()
            events["b is out"].set()
        warnings.simplefilter("ignore")
        threads = [threading.Thread(target=target) for target in (a, b)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(closed) == 5, closed
    """,
    "waking the keeper fails, and fails again with an interrupt": """
        errors = [LookupError("first"), KeyboardInterrupt("second")]
        class Loop(asyncio.SelectorEventLoop):
            def call_soon(self, callback, *args, context=None):
                if type(getattr(callback, "__self__", None)).__name__ == "_Waiter" and errors:
                    raise errors.pop(0)
                return super().call_soon(callback, *args, context=context)
        sys.unraisablehook = lambda args: None
        loop = Loop()
        async def main():
            return await impl.gather(value(1, 2), value(2, 2), limit=1)
        task = loop.create_task(main())
        while not task.done():
            try:
                loop.run_until_complete(asyncio.wait_for(asyncio.shield(task), 5))
            except KeyboardInterrupt:
                pass
        assert task.result() == [1, 2]
        left = asyncio.all_tasks(loop)
        for task in left:
            try:
                task.cancel()
            except KeyboardInterrupt:
                task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.close()
    """,
    "an interrupt of an item that is started out of another one's step": """
        begun, held = [], []
        async def item(index):
            begun.append(index)
            if index == 0:
                await asyncio.sleep(0)
            if index == 1:
                raise KeyboardInterrupt
        def source():
            for index in range(5):
                if index == 1:
                    held.append(asyncio.current_task())
                yield lambda index=index: item(index)
        async def main():
            await impl.constrained_execution(source(), 1)
        loop = asyncio.new_event_loop()
        task = loop.create_task(main())
        for _ in range(3):
            try:
                loop.run_until_complete(asyncio.wait([task]))
            except KeyboardInterrupt:
                pass
        loop.run_until_complete(value(None, 9))
        assert begun == [0, 1, 2, 3, 4], begun
        assert isinstance(task.exception(), KeyboardInterrupt)
        loop.close()
    """,
    "running calls nested so deep that cancelling them goes too deep": """
        def nest(depth):
            if depth == 0:
                return value(None, 10**6)
            return impl.gather_with_concurrency(1, nest(depth - 1))
        async def main():
            call = nest(60)
            task = asyncio.ensure_future(call)
            await value(None, 300)
            sys.setrecursionlimit(130)
            try:
                task.cancel()
            except RecursionError:
                pass
            sys.setrecursionlimit(10_000)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        asyncio.run(main())
    """,
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_crashes_or_hangs(impl, scenario):
    script = textwrap.dedent(COMMON) + textwrap.dedent(SCENARIOS[scenario]) + "\ngc.collect()\nprint('ok')\n"
    check_script(impl, script, timeout=60)


def test_a_running_coroutine_whose_finalizer_is_called_by_hand_goes_on(impl):
    """A native coroutine reports the same, and goes on."""
    check_script(
        impl,
        """
        workers, reported = [], []
        sys.unraisablehook = lambda args: reported.append(repr(args.exc_value))

        def factory(loop, coro, **options):
            workers.append(coro)
            return asyncio.Task(coro, loop=loop)

        async def item():
            workers[0].__del__()
            await asyncio.sleep(0)
            return "went on"

        async def main():
            asyncio.get_running_loop().set_task_factory(factory)
            call = impl.gather(item(), asyncio.sleep(0, "next"), limit=1, return_exceptions=True)
            assert await asyncio.wait_for(call, 5) == ["went on", "next"]

        asyncio.run(main())
        assert reported == ["ValueError('coroutine already executing')"], reported
        print("ok")
        """,
    )


@pytest.mark.skipif(sys.version_info < (3, 14), reason="the call graph is new in 3.14")
def test_an_item_that_is_stepped_while_its_task_is_put_into_the_call_graph_has_begun(impl):
    """Its Task has been made, and was cancelled as any Task may be that has not begun: the first step is somebody's, by hand."""
    if not impl.__name__.endswith("_core"):
        pytest.skip("the reference asks the Task, which has been cancelled, and begins nothing then")
    check_script(
        impl,
        """
        import asyncio.futures

        class MadeByTheFactory(asyncio.Task):
            pass

        workers, edges, trace = [], [], []
        stock = asyncio.futures.future_add_to_awaited_by

        def add(future, awaiter):
            if isinstance(future, MadeByTheFactory):
                edges.append(future)
                if len(edges) == 2:
                    for step in lambda: workers[0].throw(ValueError("thrown")), lambda: workers[1].send(None):
                        try:
                            step()
                        except Exception as error:
                            trace.append(repr(error))
            return stock(future, awaiter)

        asyncio.futures.future_add_to_awaited_by = add

        def factory(loop, coro, **options):
            workers.append(coro)
            return MadeByTheFactory(coro, loop=loop)

        async def item():
            trace.append("+")
            try:
                await asyncio.sleep(0)
            finally:
                trace.append("-")

        async def main():
            asyncio.get_running_loop().set_task_factory(factory)
            try:
                await impl.run_all([item, item])
            except ValueError as error:
                trace.append(f"raised {error}")

        asyncio.run(main())
        assert trace == ["ValueError('thrown')", "+", "-", "raised thrown"], trace
        print("ok")
        """,
    )
