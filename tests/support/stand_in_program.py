"""Puts something else in the place of one of asyncio's names, then uses gatedcoro; run by tests/engine/test_stand_ins.py.

    python stand_in_program.py c|python|c,python MODULE:NAME...

For each name, each implementation, each kind of stand-in, before and after the import, in a process of its own, it prints one line
of JSON: what was done and how it ended.  The programs use nothing of asyncio by name, only what was there before.
"""

import asyncio
import collections.abc
import functools
import gc
import importlib
import json
import os
import selectors
import signal
import sys
import traceback

Task, Future, Semaphore, BoundedSemaphore = asyncio.Task, asyncio.Future, asyncio.Semaphore, asyncio.BoundedSemaphore
SECONDS = 120  # a case that takes longer hangs

CancelledError, Coroutine, sleep = asyncio.CancelledError, collections.abc.Coroutine, asyncio.sleep
importlib.import_module("typing")  # which gatedcoro imports, and which looks at collections
gather, current_task, SelectorEventLoop = asyncio.gather, asyncio.current_task, asyncio.SelectorEventLoop


class Selector(selectors.DefaultSelector):
    def select(self, timeout=None):
        if timeout is None:
            raise RuntimeError("nothing will ever happen")
        return super().select(timeout)


class CallableObject:
    """Forwards what it is called with and asked for, as a tracer's wrapper does."""

    def __init__(self, original):
        self.__dict__["original"] = original

    def __call__(self, *args, **kwargs):
        return self.original(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self.original, name)


def a_function(original):
    return lambda *args, **kwargs: original(*args, **kwargs)


def a_subclass(original):
    return type(original)(original.__name__, (original,), {})


STAND_INS = {
    "object": lambda original: object(),
    "callable": CallableObject,
    "function": a_function,
    "subclass": a_subclass,
}


class OwnCoroutine(Coroutine):
    """A coroutine by collections.abc.Coroutine only."""

    def __init__(self):
        self.closed = False

    def __await__(self):
        yield
        return "own"

    def send(self, value):
        raise StopIteration("own")

    def throw(self, *exception):
        raise exception[0]

    def close(self):
        self.closed = True


async def item(value, turns=1):
    for _ in range(turns):
        await sleep(0)
    return value


async def fails():
    await sleep(0)
    raise ValueError("item")


async def waits(future):
    await future


def uses(impl, loop):
    """Return a coroutine function that goes through the contract."""

    async def main():
        expected = list(range(5))

        def items():
            return (item(i) for i in range(5))

        gates = Semaphore(2), BoundedSemaphore(2), impl.Semaphore(2), impl.BoundedSemaphore(2)
        for n in 1, 2, None:
            assert await impl.gather_with_concurrency(n, *items()) == expected
        for limit in (1, 2, None, *gates):
            assert await impl.gather(*items(), limit=limit) == expected
            functions = [functools.partial(item, i) for i in range(5)]
            assert await impl.run_all(functions, limit=limit) == expected
            assert await impl.run_all(iter(functions), limit=limit) == expected
            assert await impl.constrained_execution(functions, limit) == expected
            results = await impl.gather(fails(), *items(), limit=limit, return_exceptions=True)
            assert type(results[0]) is ValueError and results[1:] == expected
            try:
                await impl.gather_with_concurrency(1, impl.gather(fails(), limit=limit))
            except ValueError:
                pass
            else:
                raise AssertionError("no error")
        for gate in gates:
            assert (
                await impl.gather_with_concurrency(None, *(impl.gated_coro(gate, one) for one in items())) == expected
            )
            assert gate._value == 2 and not gate.locked()

        future = Future(loop=loop)
        loop.call_soon(future.set_result, "future")
        for awaitables in (future, item("a")), (OwnCoroutine(), item("a")):
            for limit in 1, None:
                first = "own" if awaitables[0] is not future else "future"
                assert await impl.gather(awaitables[0], item("a"), limit=limit) == [first, "a"]
            awaitables[1].close()

        for limit in 1, *gates:
            queued = OwnCoroutine()
            running = waits(Future(loop=loop)), waits(Future(loop=loop))
            task = Task(waits(impl.gather(*running, item("a"), queued, limit=limit)), loop=loop)
            await item(None, 3)
            task.cancel("message")
            try:
                await task
            except CancelledError as error:
                assert error.args == ("message",), error
            else:
                raise AssertionError("not cancelled")
            assert queued.closed
            pending = Future(loop=loop)
            outer = impl.gather(waits(pending), item("a"), limit=limit, return_exceptions=True)
            loop.call_soon(pending.cancel)
            (cancelled, value) = await outer
            assert type(cancelled) is CancelledError and value == "a", cancelled
            pending = Future(loop=loop)
            outer = impl.gather(waits(pending), fails(), limit=2, cancel_on_error=True)
            try:
                await outer
            except ValueError as error:
                assert not hasattr(error, "__notes__")
            else:
                raise AssertionError("no error")

    return main


def uses_asyncio(loop):
    """Return a coroutine function that does as much with asyncio alone."""

    async def main():
        assert await gather(item(1), waits(item(None))) == [1, None]
        future = Future(loop=loop)
        loop.call_soon(future.set_result, "future")
        assert await gather(future, item(1)) == ["future", 1]
        gate = Semaphore(1)

        async def waits_for_it():
            async with gate:
                return await item(1)

        assert await gather(waits_for_it(), waits_for_it()) == [1, 1]
        assert current_task(loop) is not None

    return main


def run(make_main):
    """Run a coroutine function on a new loop, without the functions that asyncio has for that."""
    loop = SelectorEventLoop(Selector())
    task = Task(make_main(loop)(), loop=loop)
    task.add_done_callback(lambda task: loop.stop())
    loop.run_forever()
    loop.close()
    task.result()


def in_a_process(function):
    """Return how the process that runs it ends: what it printed, or the signal that killed it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        signal.alarm(SECONDS)
        try:
            function()
        except BaseException:
            traceback.print_exc()
        gc.collect()
        sys.stdout.flush()
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        text = pipe.read()
    status = os.waitpid(pid, 0)[1]
    return f"{text}killed by signal {status}" if status else text.strip()


def case(module, name, stand_in, when, implementation):
    original = getattr(module, name)
    impl_name = "gatedcoro._core" if implementation == "c" else "gatedcoro._reference"
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "gatedcoro"]:
        del sys.modules[loaded]
    os.environ["GATEDCORO_IMPLEMENTATION"] = implementation

    if when == "after":
        impl = importlib.import_module(impl_name)
    replacement = STAND_INS[stand_in](original)
    setattr(module, name, replacement)
    if when != "after":
        try:
            impl = importlib.import_module(impl_name)
        except ImportError as error:
            while error.__cause__ is not None:
                error = error.__cause__
            print(f"ImportError: {error}")
            return
    if when == "during":
        setattr(module, name, original)
    run(functools.partial(uses, impl))
    print("works")


def cases(module_name, name, implementations):
    module = importlib.import_module(module_name)
    kinds = ["object", "callable", "function"]
    if isinstance(getattr(module, name), type):
        kinds.append("subclass")
    for stand_in in kinds:

        def control(stand_in=stand_in):
            setattr(module, name, STAND_INS[stand_in](getattr(module, name)))
            run(uses_asyncio)
            print("works")

        asyncio_ends = in_a_process(control)
        for implementation in implementations:
            for when in ("before", "after") if stand_in == "callable" else ("before", "during", "after"):
                ends = in_a_process(functools.partial(case, module, name, stand_in, when, implementation))
                yield implementation, stand_in, when, ends, asyncio_ends


def main(implementations, *names):
    gc.collect()
    gc.freeze()  # what is there is not looked at, and so not copied, in each of the processes
    for one in names:
        for ends in cases(*one.split(":"), implementations.split(",")):
            print(json.dumps([one, *ends]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
