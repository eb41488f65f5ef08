"""Nothing stays behind: exact counts of objects after hundreds of rounds of each scenario, and no cycle to collect.

On a debug build of the interpreter the total of all references is compared as well.
"""

import asyncio
import collections
import contextlib
import functools
import gc
import inspect
import sys
import types
import warnings
import weakref

import pytest

from contract_tools import idle, two_argument_factory
from scenarios import Gate, stubborn

# References and memory blocks that caches of the interpreter may keep. One leak in every second round would be twice this.
NOISE = 100
ROUNDS = 4 * NOISE


async def value(result=None, turns=0):
    for _ in range(turns):
        await asyncio.sleep(0)
    return result


async def fails(turns=0):
    for _ in range(turns):
        await asyncio.sleep(0)
    raise ValueError("item")


class Awaitable:
    def __await__(self):
        return value(1, 1).__await__()


async def cancelled_while(awaitable, turns=2):
    """Await it in a Task that is cancelled after some turns."""

    async def caller():
        await awaitable

    task = asyncio.get_running_loop().create_task(caller())
    await idle(turns)
    task.cancel("stop")
    await asyncio.wait([task])


async def let_go():
    await idle(6)


async def returns_at_once(impl):
    await impl.gather_with_concurrency(2, *[value(i) for i in range(5)])


async def suspends(impl):
    await impl.gather_with_concurrency(2, *[value(i, 2) for i in range(5)])


async def without_a_limit(impl):
    await impl.gather_with_concurrency(None, *[value(i, i % 2) for i in range(5)])


async def equal_items_and_futures(impl):
    loop = asyncio.get_running_loop()
    coro, future, done = value(1, 1), loop.create_future(), loop.create_future()
    loop.call_soon(future.set_result, 2)
    done.set_result(3)
    await impl.gather_with_concurrency(None, coro, coro, future, done)
    await impl.gather(value(1), done, Awaitable(), limit=1)


async def an_error(impl):
    with contextlib.suppress(ValueError):
        await impl.gather_with_concurrency(2, fails(), value(1), value(2, 1), value(3))
    with contextlib.suppress(ValueError):
        await impl.gather_with_concurrency(2, value(1), fails(1), value(2, 1), fails(2))
    with contextlib.suppress(ValueError):
        await impl.gather_with_concurrency(None, value(1), fails(1), fails(2))
    await let_go()


async def a_cancelled_caller(impl):
    await cancelled_while(impl.gather_with_concurrency(2, *[value(i, 9) for i in range(5)]))
    await cancelled_while(impl.gather_with_concurrency(None, *[value(i, 9) for i in range(3)]))
    await cancelled_while(impl.gather_with_concurrency(2, stubborn(), stubborn(), value(1)))


async def a_gathering_that_is_closed_dropped_or_thrown_into(impl):
    for end in ("close", "drop", "throw"):
        for started in (False, True):
            coro = impl.gather_with_concurrency(1, value(1, 5), value(2))
            if started:
                coro.send(None)
                await asyncio.sleep(0)
            if end == "close":
                coro.close()
            elif end == "throw":
                with contextlib.suppress(KeyError):
                    coro.throw(KeyError())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                del coro
            await let_go()


async def a_bad_argument(impl):
    for n in (2.5, -1, 0):
        with contextlib.suppress(TypeError, ValueError):
            await impl.gather_with_concurrency(n, value(1), value(2))
    with contextlib.suppress(TypeError):
        await impl.gather_with_concurrency(None, value(1), 5)
    with contextlib.suppress(TypeError):
        await impl.gather_with_concurrency(2, value(1), 5)
    with contextlib.suppress(TypeError):
        impl.gather(value(1), 5)
    await let_go()


async def the_function_gather(impl):
    await impl.gather(*[value(i, i % 2) for i in range(5)])
    await impl.gather(*[value(i, i % 2) for i in range(5)], limit=2)
    await impl.gather(value(1, 1), fails(1), fails(), limit=2, return_exceptions=True)
    await impl.gather(*[value(i, i % 2) for i in range(5)], limit=Gate())
    await impl.gather(*[value(i, i % 2) for i in range(5)], limit=asyncio.Semaphore(2))
    future = impl.gather(value(1), value(2), limit=1)
    future.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await future


async def cancel_on_error(impl):
    with contextlib.suppress(ValueError):
        await impl.gather(value(1, 9), stubborn(), fails(1), value(2), limit=3, cancel_on_error=True)
    with contextlib.suppress(ValueError):
        await impl.gather(value(1, 9), fails(1), cancel_on_error=True)


async def callables(impl):
    await impl.run_all([value] * 5, limit=2)
    await impl.run_all((value for _ in range(5)), limit=2)
    await impl.constrained_execution([lambda: value(1, 1)] * 3, 2)
    for functions in ([value, 5], [lambda: 5], [value, fails, value]):
        with contextlib.suppress(TypeError, ValueError):
            await impl.run_all(functions, limit=1)
    await cancelled_while(impl.run_all([lambda: value(1, 9)] * 5, limit=2))


async def nested(impl):
    await impl.gather_with_concurrency(2, *[impl.gather_with_concurrency(1, value(i, 1), value(i)) for i in range(3)])


async def tasks_that_are_held_and_touched(impl):
    tasks = []

    async def touches(index):
        task = asyncio.current_task()
        if index % 2:
            tasks.append(task)
        task.set_name(f"item {index}")
        task.note = index
        task.add_done_callback(lambda task: None)
        watched = weakref.ref(task)
        await asyncio.sleep(0)
        return watched() is task

    assert await impl.gather_with_concurrency(2, *map(touches, range(6))) == [True] * 6
    assert all(task.done() for task in tasks)


async def tasks_that_are_watched(impl):
    """As cancel scopes watch them: each item has a Task of its own."""
    watched = weakref.WeakSet()

    async def is_watched(turns):
        watched.add(asyncio.current_task())
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    for n in (2, None):
        assert await impl.gather_with_concurrency(n, *map(is_watched, [0, 1, 0, 2, 0])) == [0, 1, 0, 2, 0]


async def items_with_timeouts(impl):
    async def times_out():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.sleep(3600)

    await impl.gather_with_concurrency(2, times_out(), times_out(), value(1))


async def under_a_task_factory(impl):
    """The caller is kept while Tasks are yet to be made."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(two_argument_factory)
    await impl.gather_with_concurrency(2, *[value(i, i % 2) for i in range(5)])
    await impl.gather_with_concurrency(None, *[value(i, i % 2) for i in range(5)])
    await impl.run_all([value] * 5, limit=2)
    with contextlib.suppress(ValueError):
        await impl.gather_with_concurrency(1, value(1), fails(1), value(2, 1), fails(2))
    await cancelled_while(impl.gather_with_concurrency(2, *[value(i, 9) for i in range(5)]))
    await let_go()
    loop.set_task_factory(None)


async def a_free_semaphore(impl):
    gate = asyncio.Semaphore(2)
    for _ in range(3):
        await impl.gated_coro(gate, value(1))
        with contextlib.suppress(ValueError):
            await impl.gated_coro(gate, fails())


async def a_taken_semaphore(impl):
    gate = asyncio.Semaphore(1)
    async with gate:
        waiting = impl.gated_coro(gate, value(1))
        waiting.send(None)
        await cancelled_while(impl.gated_coro(gate, value(2)))
        waiting.close()
    await asyncio.gather(*[impl.gated_coro(gate, value(i, 1)) for i in range(3)])
    assert not gate.locked()


async def other_gates(impl):
    for gate in (asyncio.Lock(), asyncio.BoundedSemaphore(1), Gate()):
        await impl.gated_coro(gate, value(1, 1))
    with contextlib.suppress(TypeError):
        await impl.gated_coro(5, value(1))
    impl.gated_coro(gate, value(1)).close()


async def limits_in_a_row(impl):
    first, second = asyncio.Semaphore(2), asyncio.Semaphore(1)
    await impl.gather(*[value(i, i % 2) for i in range(5)], limit=[first, 3, Gate(), second])
    await impl.amap(value, range(5), limit=(first, second))
    for limit in ((first, second), [second, Gate(), 2, first]):
        with contextlib.suppress(ValueError):
            await impl.gather(value(1), fails(1), value(2, 1), value(3), limit=limit, cancel_on_error=True)
        for turns in range(2, 6):
            await cancelled_while(impl.run_all([value, stubborn, value], limit=limit), turns)
            await let_go()
    async with second:
        await cancelled_while(impl.run_all([value, value], limit=(first, second)))
        await cancelled_while(impl.amap(value, range(3), limit=(first, Gate(), second)), turns=4)
        await let_go()
    for limit in ((), (1, 2), (first, None)):
        with contextlib.suppress(ValueError, TypeError):
            impl.gather(value(1), limit=limit)
    assert (first._value, second._value) == (2, 1)


async def holds(semaphore, turns=1):
    async with semaphore:
        await idle(turns)


def own_semaphores(impl, limit):
    return impl.Semaphore(limit), impl.BoundedSemaphore(limit)


async def own_semaphores_that_are_free(impl):
    for semaphore in own_semaphores(impl, 2):
        await holds(semaphore)
        assert await semaphore.acquire() is True
        semaphore.release()
        await impl.gated_coro(semaphore, value(1))
        with contextlib.suppress(ValueError):
            await impl.gated_coro(semaphore, fails())
        repr(semaphore), semaphore.limit, semaphore._value, semaphore._waiters, semaphore.locked()
        semaphore.acquire().close()
        semaphore.note = semaphore  # a cycle, which is undone
        del semaphore.note


async def own_semaphores_that_cannot_be(impl):
    for wrong in (-1, 2.5, "3", None, sys.maxsize + 1):
        with contextlib.suppress(ValueError, TypeError):
            impl.Semaphore(wrong)
        semaphore = impl.BoundedSemaphore(1)
        with contextlib.suppress(ValueError, TypeError):
            semaphore.limit = wrong
        with contextlib.suppress(ValueError):
            semaphore.release()
        with contextlib.suppress(TypeError):
            semaphore._waiters = wrong


async def own_semaphores_that_are_contended(impl):
    for semaphore in own_semaphores(impl, 2):
        async with asyncio.TaskGroup() as group:
            for turns in (1, 0, 2, 1, 0, 3):
                group.create_task(holds(semaphore, turns))
                group.create_task(impl.gated_coro(semaphore, value(1, turns)))
        del group  # it holds what it was left with
        assert semaphore._value == 2


async def own_semaphores_whose_waiters_are_cancelled(impl):
    for semaphore in own_semaphores(impl, 1):
        async with semaphore:
            await cancelled_while(semaphore.acquire())
            await cancelled_while(holds(semaphore))
            await cancelled_while(impl.gated_coro(semaphore, value(1)))
        for end in ("close", "throw", "drop", "cancel"):
            await semaphore.acquire()
            waiting = [semaphore.acquire(), impl.gated_coro(semaphore, value(1))]
            for coroutine in waiting:
                coroutine.send(None)
            task = asyncio.get_running_loop().create_task(holds(semaphore))
            await idle(1)
            semaphore.release()
            for coroutine in waiting:
                if end == "close":
                    coroutine.close()
                elif end in ("throw", "cancel"):
                    with contextlib.suppress(KeyError, asyncio.CancelledError):
                        coroutine.throw(KeyError() if end == "throw" else asyncio.CancelledError())
            del coroutine, waiting
            await task
            del task
            await let_go()
        assert semaphore._value == 1 and not semaphore.locked()


async def own_semaphores_whose_queue_is_read(impl):
    for semaphore in own_semaphores(impl, 1):
        tasks = [asyncio.get_running_loop().create_task(holds(semaphore)) for _ in range(4)]
        await idle(1)
        assert len(semaphore._waiters) == 3
        theirs = asyncio.get_running_loop().create_future()
        semaphore._waiters.append(theirs)
        tasks[2].cancel()
        await asyncio.wait(tasks)
        assert await theirs is True
        semaphore._waiters = collections.deque()
        semaphore.release()
        await holds(semaphore)
        semaphore._waiters = None
        await holds(semaphore)
        del tasks, theirs


async def own_semaphores_whose_limit_changes(impl):
    for semaphore in own_semaphores(impl, 0):
        tasks = [asyncio.get_running_loop().create_task(holds(semaphore, 2)) for _ in range(6)]
        call = impl.gather(*[value(i, 2) for i in range(5)], limit=semaphore)
        for limit in (1, 3, 0, 2, 10**12, 2):
            await idle(2)
            semaphore.limit = limit
        await asyncio.wait(tasks)
        assert await call == [*range(5)]
        del tasks, call
        assert semaphore._value == semaphore.limit == 2


def calls_with(impl, limit):
    """One of each kind."""
    yield impl.gather(*[value(i, i % 2) for i in range(4)], limit=limit)
    yield impl.run_all(iter([value] * 4), limit=limit)
    yield all_of(impl.amap(value, range(4), limit=limit))
    yield all_of(impl.amap(value, counting(4), limit=limit, ordered=False))
    yield all_of(impl.as_completed([value(i, 1) for i in range(4)], limit=limit))


async def own_semaphores_as_limits(impl):
    for semaphore in own_semaphores(impl, 2):
        for limit in ((3, semaphore), (semaphore, Gate())):
            for call in calls_with(impl, limit):
                assert len(await call) == 4
            del call
        for call in calls_with(impl, semaphore):
            others = [asyncio.get_running_loop().create_task(holds(semaphore)) for _ in range(3)]
            assert len(await call) == 4
            await asyncio.wait(others)
            del others, call
        with contextlib.suppress(ValueError):
            await impl.gather(value(1), fails(1), value(2, 1), value(3), limit=semaphore, cancel_on_error=True)
        with contextlib.suppress(ValueError):
            await impl.run_all([value, fails, value], limit=semaphore)
        await let_go()
        assert semaphore._value == 2


async def own_semaphores_as_limits_of_what_is_cancelled(impl):
    for semaphore in own_semaphores(impl, 1):
        for limit in (semaphore, (Gate(), semaphore)):
            for handed, turns in ((False, 2), (True, 1)):
                await semaphore.acquire()
                tasks = [asyncio.ensure_future(call) for call in calls_with(impl, limit)]
                await idle(turns)
                if handed:
                    semaphore.release()
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                if not handed:
                    semaphore.release()
                del tasks, task
                await let_go()
        async with semaphore:
            stream = impl.amap(value, counting(3), limit=semaphore)
            await cancelled_while(anext(stream))
            del stream
            coroutine = impl.run_all([value] * 2, limit=semaphore)
            coroutine.send(None)
            await idle(2)
            coroutine.close()
            del coroutine
        await let_go()
        assert semaphore._value == 1


@functools.cache
def overriding(impl):
    """A class is a cycle of its own."""

    class Own(impl.Semaphore):
        async def acquire(self):
            return await super().acquire()

    return Own


async def own_semaphores_that_are_overridden(impl):
    semaphore = overriding(impl)(1)
    for call in calls_with(impl, semaphore):
        assert len(await call) == 4
    del call
    await let_go()


async def a_closed_item(impl):
    """What the item's Task drives is closed by hand, before and while it waits."""

    class Waits:
        def __init__(self):
            self.future = asyncio.get_running_loop().create_future()

        def __await__(self):
            coros.append(asyncio.current_task().get_coro())
            return self.future.__await__()

    for how in ("waiting", "queued"):
        coros, waits = [], Waits()
        call = impl.gather(waits, value(1), limit=1)
        await asyncio.sleep(0)
        if how == "waiting":
            coros.pop().close()
            waits.future.set_result(None)
        else:
            coros.pop()
            call.cancel()
        with contextlib.suppress(RuntimeError, asyncio.CancelledError):
            await call
        del call, waits
    await let_go()


async def chains(impl):
    gate = Gate()
    for end in ("close", "drop", "run", "suspended", "branches"):
        coro = value(1, 1)
        for _ in range(5):
            coro = impl.gated_coro(gate, coro)
            if end == "branches":
                coro = impl.gather_with_concurrency(1, value(1), coro, value(2))
        if end == "run":
            assert await coro == 1
        elif end == "suspended":
            coro.send(None)
            with contextlib.suppress(RuntimeError):
                coro.close()
        elif end == "drop":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                del coro
        else:
            coro.close()


async def an_outer_future_that_somebody_sets(impl):
    call = asyncio.get_running_loop().create_task(asyncio.sleep(0))
    for outcome in ("result", "error"):
        coro = impl.gather_with_concurrency(1, value(1, 2), value(2))
        outer = coro.send(None)
        await asyncio.sleep(0)
        if outcome == "result":
            outer.set_result("early")
            with contextlib.suppress(StopIteration):
                coro.send(None)
        else:
            error = ValueError("early")
            outer.set_exception(error)
            with contextlib.suppress(ValueError):
                coro.throw(error)
            del error
        del outer, coro
        await let_go()
    await call


class Refuses:
    """A clock that fails when it is read for the second time."""

    readings = 0

    def __call__(self):
        self.readings += 1
        if self.readings == 2:
            raise LookupError("clock")
        return 0.0


async def a_pass_that_fails(impl):
    impl._set_clock(Refuses())
    with contextlib.suppress(LookupError):
        await impl.gather_with_concurrency(1, *[value(i) for i in range(4)])
    impl._set_clock(lambda: 0.0)


# Streams, and calls over async sources


async def counting(length, turns=0, cleanup_turns=0):
    """An async source of the numbers up to *length*."""
    try:
        for number in range(length):
            await idle(turns)
            yield number
    finally:
        await idle(cleanup_turns)


class Numbers:
    """An async iterator that is no generator and has no aclose()."""

    def __init__(self, length):
        self.left = length

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        await asyncio.sleep(0)
        return self.left


def sources(length=5):
    """One of each kind."""
    yield range(length)
    yield (number for number in range(length))
    yield counting(length)
    yield counting(length, 1, 1)
    yield Numbers(length)


async def fails_at_two(number):
    await idle(number % 2)
    if number == 2:
        raise ValueError("item")
    return number


WAYS_OF_STREAMS = [
    {"limit": 2},
    {"limit": 2, "ordered": False},
    {"buffersize": 0},
    {"limit": 1, "buffersize": 0, "return_exceptions": True},
]


async def streams_that_end(impl):
    for options in WAYS_OF_STREAMS:
        for source in sources():
            assert len([number async for number in impl.amap(value, source, **options)]) == 5
    for source in sources():
        assert await impl.amap(value, source, limit=2) == (
            list(range(5)) if type(source) is not Numbers else [4, 3, 2, 1, 0]
        )
    async with impl.amap(value, counting(3), limit=asyncio.Semaphore(2)) as stream:
        assert [number async for number in stream] == [0, 1, 2]


async def streams_that_fail(impl):
    for options in WAYS_OF_STREAMS[:3]:
        for source in sources():
            with contextlib.suppress(ValueError):
                async for _ in impl.amap(fails_at_two, source, **options):
                    pass
    for source in sources():
        with contextlib.suppress(ValueError):
            await impl.amap(fails_at_two, source, limit=2)
    async for _ in impl.amap(fails_at_two, counting(5, 1), limit=2, return_exceptions=True):
        pass


async def failing_source(turns, cleanup=None):
    try:
        yield 1
        await idle(turns)
        raise LookupError("source")
    finally:
        if cleanup is not None:
            raise cleanup("closing")


async def sources_that_fail(impl):
    for options in WAYS_OF_STREAMS[:3]:
        for turns in (0, 1):
            with contextlib.suppress(LookupError):
                async for _ in impl.amap(value, failing_source(turns), **options):
                    pass
        with contextlib.suppress(KeyError):
            async with impl.amap(value, failing_source(5, KeyError), **options) as stream:
                await anext(stream)
    with contextlib.suppress(LookupError):
        await impl.amap(value, failing_source(1), limit=2)


async def streams_that_are_left(impl):
    for options in WAYS_OF_STREAMS:
        for source in sources(9):
            async with impl.amap(lambda number: value(number, number % 3), source, **options) as stream:
                async for _ in stream:
                    break
    for source in sources():
        stream = impl.amap(value, source, limit=2)
        await stream.aclose()
    for source in sources():
        async with impl.amap(value, source, limit=2):
            pass


async def streams_that_are_dropped(impl):
    for options in WAYS_OF_STREAMS:
        for source in sources(9):
            async for _ in impl.amap(lambda number: value(number, number % 3), source, **options):
                break
        for source in sources(9):
            stream = impl.amap(lambda number: value(number, 9), source, **options)
            waiting = anext(stream)
            waiting.send(None)
            await idle(2)
            waiting.close()
            del stream, waiting
    await let_go()


async def streams_that_were_never_used(impl):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for source in sources():
            impl.amap(value, impl.amap(value, source, limit=1), limit=1)


async def next_of(stream):
    return await anext(stream)


async def consumers_that_are_cancelled(impl):
    for options in WAYS_OF_STREAMS:
        for source in sources():
            stream = impl.amap(lambda number: value(number, 4), source, **options)
            await cancelled_while(next_of(stream))
            assert await anext(stream) is not None
            await stream.aclose()
        await cancelled_while(impl.amap(lambda number: value(number, 9), counting(5, 1), limit=2))


async def ends_cancelled(impl):
    """Who waits for the end is cancelled."""
    for cleanup_turns in (0, 4):
        stream = impl.amap(stubborn, counting(4, 0, cleanup_turns), limit=2)
        await cancelled_while(next_of(stream))
        await cancelled_while(stream.aclose(), turns=1)


async def several_consumers(impl):
    for options in WAYS_OF_STREAMS:
        for source in sources():
            stream = impl.amap(lambda number: value(number, 1), source, **options)
            await asyncio.gather(*[next_of(stream) for _ in range(7)], return_exceptions=True)
    stream = impl.amap(lambda number: value(number, 5), counting(4), limit=2)
    await asyncio.gather(next_of(stream), next_of(stream), stream.aclose(), stream.aclose(), return_exceptions=True)


async def streams_in_streams(impl, ends=("finish", "leave", "drop", "fail", "cancel")):
    for end in ends:
        inner = impl.amap(value, counting(9, 1), limit=3)
        outer = impl.amap(fails_at_two if end == "fail" else value, inner, limit=2)
        del inner
        if end == "finish":
            assert [number async for number in outer] == list(range(9))
        elif end == "fail":
            with contextlib.suppress(ValueError):
                async for _ in outer:
                    pass
        elif end == "cancel":
            await cancelled_while(next_of(outer))
        else:
            assert await anext(outer) == 0
        if end == "leave":
            await outer.aclose()
        del outer
        await let_go()


async def async_sources_of_calls(impl):
    async def functions(length, turns):
        for number in range(length):
            await idle(turns)
            yield fails if number == 3 else value

    for turns in (0, 1):
        await impl.run_all(functions(3, turns), limit=2)
        await impl.run_all(functions(5, turns), limit=2, return_exceptions=True)
        with contextlib.suppress(ValueError):
            await impl.run_all(functions(9, turns), limit=2)
        with contextlib.suppress(ValueError):
            await impl.constrained_execution(functions(9, turns), 2)
        await cancelled_while(impl.run_all(functions(9, 9), limit=2), turns + 2)
        await let_go()


async def streams_under_a_task_factory(impl):
    loop = asyncio.get_running_loop()
    loop.set_task_factory(two_argument_factory)
    # Cancelled, the first to ask, which is kept for the Tasks to be made, would be in a cycle: its traceback has the stream.
    await streams_in_streams(impl, ("finish", "leave", "drop", "fail"))
    async for _ in impl.amap(value, counting(5), limit=2):
        break
    await let_go()
    loop.set_task_factory(None)


# as_completed


def completion(number):
    """A coroutine; one that fails; a Future of the caller's that is done."""
    if number == 1:
        future = asyncio.get_running_loop().create_future()
        future.set_result(number)
        return future
    return fails(1) if number == 2 else value(number, number)


async def async_completions():
    for number in range(4):
        await idle(number % 2)
        yield completion(number)


async def completions_that_end(impl):
    aws = list(map(completion, range(4))), map(completion, range(4)), async_completions()
    for limit, source in zip((1, None, asyncio.Semaphore(2)), aws):
        count = 0
        async for future in impl.as_completed(source, limit=limit, timeout=60):
            future.exception()
            count += 1
            del future
        assert count == 4
    for limit in (1, None):
        asked = list(impl.as_completed(map(completion, range(4)), limit=limit))
        while asked:
            with contextlib.suppress(ValueError):
                await asked.pop()


WAYS_OF_LEAVING = [(2, "close"), (None, "block"), (Gate, "drop"), (2, "timeout"), (None, "give up"), (Gate, "close")]


async def completions_that_are_left(impl):
    """Futures of the caller's go on."""
    futures = [asyncio.get_running_loop().create_future() for _ in range(2)]
    for index, (limit, end) in enumerate(WAYS_OF_LEAVING):
        aws = [value(1), futures[0], stubborn(), value(2, 50), futures[1], value(3)]
        limit = limit() if limit is Gate else limit
        source = iter(aws) if index % 2 else aws
        iterator = impl.as_completed(source, limit=limit, timeout=0 if end == "timeout" else 60)
        if end == "timeout":
            with contextlib.suppress(TimeoutError):
                async for _ in iterator:
                    pass
        else:
            (await anext(iterator)).result()
        if end == "give up":
            await cancelled_while(next_of(iterator))
            waits = anext(iterator)
            waits.send(None)
            waits.close()
            del waits
        if end in ("close", "give up"):
            await iterator.aclose()
        elif end == "block":
            async with iterator:
                pass
        for rest in source if index % 2 else ():
            if inspect.iscoroutine(rest):
                rest.close()
        del iterator, aws, source
        await let_go()
        assert not any(future.done() for future in futures)


async def completions_that_cannot_be(impl):
    for options in ({"limit": 0}, {"timeout": "1"}, {"timeout": float("nan")}):
        with contextlib.suppress(ValueError, TypeError):
            impl.as_completed([], **options)
    for ask in (next, anext):
        with contextlib.suppress(TypeError):
            await ask(impl.as_completed([value(1), 5]))
        with contextlib.suppress(LookupError):
            await ask(impl.as_completed(one for one in failing_iterable(ask)))
    await impl.as_completed([value(1), value(2)]).aclose()
    next(impl.as_completed([value(1)])).close()
    impl.as_completed([], timeout=1)


def failing_iterable(ask):
    yield from [value(1)] if ask is next else []
    raise LookupError("iterable")


# progress=


class Shown:
    """In place of tqdm's bar, or a bar of the user's, or a callback: it may fail."""

    def __init__(self, total=None, error=None):
        self.error = error
        self.sum = 0

    def update(self, number):
        self.sum += number
        if self.error is not None:
            raise self.error("progress")

    def close(self):
        self.sum = 0


@contextlib.contextmanager
def told_soon():
    """Timers are of the next turn; afterwards, those that have been cancelled are forgotten."""
    loop = asyncio.get_running_loop()
    loop.call_later = lambda delay, *args, context: loop.call_soon(*args, context=context)
    try:
        yield
    finally:
        del loop.call_later


async def forget_cancelled_timers():
    """The loop keeps them until they are due, or a hundred."""
    await let_go()
    loop = asyncio.get_running_loop()
    loop._scheduled[:] = [timer for timer in loop._scheduled if not timer.cancelled()]
    loop._timer_cancelled_count = 0


WAYS_OF_TELLING = [
    lambda impl, progress: impl.gather(*[value(i, i % 3) for i in range(5)], limit=2, progress=progress),
    lambda impl, progress: impl.run_all([lambda i=i: value(i, i % 3) for i in range(5)], limit=2, progress=progress),
    lambda impl, progress: impl.amap(lambda i: value(i, i % 3), counting(5, 1), limit=2, progress=progress),
    lambda impl, progress: all_of(impl.amap(lambda i: value(i, i % 3), range(5), limit=2, progress=progress)),
    lambda impl, progress: all_of(impl.amap(value, counting(5, 1), ordered=False, limit=2, progress=progress)),
]


async def all_of(stream):
    return [result async for result in stream]


async def without_key_errors(call):
    """What is awaited is no local: the traceback of a Future's error would be in a cycle with it."""
    with contextlib.suppress(KeyError):
        await call()


async def progress_that_is_told(impl):
    for call in WAYS_OF_TELLING:
        for soon in (told_soon, contextlib.nullcontext):
            with soon():
                shown = Shown()
                assert len(await call(impl, shown)) == 5
                assert shown.sum == 5
                assert len(await call(impl, lambda number: None)) == 5
    await forget_cancelled_timers()


async def progress_that_fails(impl):
    for call in WAYS_OF_TELLING:
        for soon in (told_soon, contextlib.nullcontext):
            with soon(), contextlib.suppress(KeyError):
                await call(impl, Shown(error=KeyError))
            await let_go()
    await forget_cancelled_timers()


async def progress_of_what_fails(impl):
    for error in (None, KeyError):
        for soon in (told_soon, contextlib.nullcontext):
            with soon():
                for cancel_on_error in (False, True):
                    with contextlib.suppress(ValueError, KeyError):
                        shown = Shown(error=error)
                        items = value(1, 1), stubborn(), fails(1), value(2), value(3, 2)
                        await impl.gather(*items, limit=3, cancel_on_error=cancel_on_error, progress=shown)
                    for task in asyncio.all_tasks() - {asyncio.current_task()}:
                        task.cancel()
                    await idle(20)
                with contextlib.suppress(ValueError, KeyError):
                    await all_of(impl.amap(fails_at_two, counting(9), limit=2, progress=Shown(error=error)))
    await forget_cancelled_timers()


async def progress_of_what_is_cancelled_left_or_dropped(impl):
    for error in (None, KeyError):
        for soon in (told_soon, contextlib.nullcontext):
            with soon():
                shown = Shown(error=error)
                await cancelled_while(
                    without_key_errors(lambda: impl.gather(stubborn(), value(1, 9), value(1), limit=2, progress=shown))
                )
                await cancelled_while(
                    without_key_errors(lambda: impl.run_all([stubborn, value, stubborn], limit=2, progress=shown))
                )
                await let_go()
                stream = impl.amap(lambda number: value(number, number), range(9), limit=3, progress=shown)
                with contextlib.suppress(KeyError):
                    await anext(stream)
                with contextlib.suppress(KeyError):
                    await stream.aclose()
                with contextlib.suppress(KeyError):
                    async for _ in impl.amap(lambda number: value(number, number), range(9), progress=shown):
                        break
                coro = impl.run_all([lambda: value(1, 5)] * 3, limit=2, progress=shown)
                coro.send(None)
                await asyncio.sleep(0)
                coro.close()
                del coro, stream
                await let_go()
    await forget_cancelled_timers()


async def progress_that_holds_its_own_call(impl):
    """Until the call has ended."""
    for call in WAYS_OF_TELLING[:2]:
        held = []
        held.append(asyncio.ensure_future(call(impl, lambda number, held=held: len(held))))
        await held[0]
        held.clear()
    held = []
    held.append(impl.amap(value, range(3), progress=lambda number, held=held: len(held)))
    assert await all_of(held[0]) == [0, 1, 2]
    held.clear()
    await forget_cancelled_timers()


async def progress_that_cannot_be(impl):
    for wrong in (5, Shown, value):
        with contextlib.suppress(TypeError):
            impl.amap(value, counting(3), progress=wrong)
        with contextlib.suppress(TypeError):
            impl.gather(value(1), value(2), progress=wrong)
        with contextlib.suppress(TypeError):
            await impl.run_all([value], progress=wrong)


async def progress_as_a_bar(impl):
    """In place of tqdm's."""
    before = sys.modules.get("tqdm.auto")
    sys.modules["tqdm.auto"] = types.SimpleNamespace(tqdm=Shown)
    try:
        for call in WAYS_OF_TELLING:
            assert len(await call(impl, True)) == 5
        async for _ in impl.amap(value, range(5), limit=2, progress=True):
            break
        await let_go()
    finally:
        if before is None:
            del sys.modules["tqdm.auto"]
        else:
            sys.modules["tqdm.auto"] = before
    await forget_cancelled_timers()


STREAM_SCENARIOS = [
    streams_that_end,
    streams_that_fail,
    sources_that_fail,
    streams_that_are_left,
    streams_that_are_dropped,
    streams_that_were_never_used,
    consumers_that_are_cancelled,
    ends_cancelled,
    several_consumers,
    streams_in_streams,
    async_sources_of_calls,
    streams_under_a_task_factory,
    completions_that_end,
    completions_that_are_left,
    completions_that_cannot_be,
    progress_that_is_told,
    progress_that_fails,
    progress_of_what_fails,
    progress_of_what_is_cancelled_left_or_dropped,
    progress_that_holds_its_own_call,
    progress_that_cannot_be,
    progress_as_a_bar,
]

SCENARIOS = [
    returns_at_once,
    suspends,
    without_a_limit,
    equal_items_and_futures,
    an_error,
    a_cancelled_caller,
    a_gathering_that_is_closed_dropped_or_thrown_into,
    a_bad_argument,
    the_function_gather,
    cancel_on_error,
    callables,
    nested,
    tasks_that_are_held_and_touched,
    tasks_that_are_watched,
    items_with_timeouts,
    under_a_task_factory,
    a_free_semaphore,
    a_taken_semaphore,
    other_gates,
    limits_in_a_row,
    own_semaphores_that_are_free,
    own_semaphores_that_cannot_be,
    own_semaphores_that_are_contended,
    own_semaphores_whose_waiters_are_cancelled,
    own_semaphores_whose_queue_is_read,
    own_semaphores_whose_limit_changes,
    own_semaphores_as_limits,
    own_semaphores_as_limits_of_what_is_cancelled,
    own_semaphores_that_are_overridden,
    a_closed_item,
    chains,
    an_outer_future_that_somebody_sets,
    a_pass_that_fails,
    *STREAM_SCENARIOS,
]


@pytest.fixture(autouse=True)
def only_what_is_new_is_counted():
    gc.collect()
    gc.freeze()


def is_counted(kind):
    return (
        str(kind.__module__).startswith("gatedcoro")
        or issubclass(kind, (asyncio.Future, types.CoroutineType, BaseException, types.FrameType, asyncio.Handle))
        or issubclass(kind, (types.GeneratorType, types.AsyncGeneratorType))
        or kind in (Awaitable, Numbers, Shown)
    )


def count_objects():
    gc.collect()
    kinds = collections.Counter(type(thing) for thing in gc.get_objects())
    counted = {kind.__qualname__: count for kind, count in kinds.items() if is_counted(kind)}
    return counted, sys.getallocatedblocks(), getattr(sys, "gettotalrefcount", int)()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_hundreds_of_rounds_leave_nothing_behind(impl, scenario):
    async def measure():
        reports = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
        for _ in range(ROUNDS // 10):
            await scenario(impl)
        await let_go()
        for attempt in range(6):
            before = count_objects()
            for round in range(ROUNDS):
                impl._set_full_turns(round % 2)
                await scenario(impl)
            await let_go()
            after = count_objects()
            assert after[0] == before[0]
            blocks, references = after[1] - before[1], after[2] - before[2]
            if blocks < NOISE and references < NOISE:
                break
        assert reports == []
        return blocks, references

    blocks, references = asyncio.run(measure())
    assert blocks < NOISE
    assert references < NOISE


DIRECTLY_AWAITED = [
    scenario
    for scenario in SCENARIOS
    # These make a cycle of their own: a Task, or a Future with an error, that is a local of the frame which awaits it.
    if scenario
    not in (the_function_gather, tasks_that_are_held_and_touched, a_closed_item, an_outer_future_that_somebody_sets)
    # And so does asyncio.wait() that is cancelled, from 3.14 on: it has its Task, behind a gate, in a local of its own.
    and (scenario is not completions_that_are_left or sys.version_info < (3, 14))
]


@pytest.mark.parametrize("scenario", DIRECTLY_AWAITED, ids=lambda scenario: scenario.__name__)
def test_there_is_no_cycle_to_collect(impl, scenario):
    async def measure():
        await scenario(impl)
        await let_go()
        gc.collect()
        gc.disable()
        try:
            for round in range(4):
                impl._set_full_turns(round % 2)
                await scenario(impl)
            await let_go()
            return gc.collect()
        finally:
            gc.enable()

    assert asyncio.run(measure()) == 0


class ItemError(ValueError):
    """Unlike a ValueError, it can be referenced weakly."""


class Thing:
    """Something to look at through a weak reference."""


@pytest.mark.parametrize("n", [1, 2, None])
@pytest.mark.parametrize("end", ["success", "error", "cancellation"])
def test_results_errors_and_items_die_with_the_gathering(impl, any_turns, n, end):
    """Without the garbage collector's help."""
    dead = []

    async def item(index):
        thing = Thing()
        dead.append(weakref.ref(thing))
        await asyncio.sleep(0)
        if end == "error" and index == 1:
            error = ItemError(thing)
            dead.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error, thing
        if end == "cancellation":
            await asyncio.sleep(3600)
        return thing

    async def main():
        gc.disable()
        try:
            items = [item(index) for index in range(4)]
            dead.extend(map(weakref.ref, items))
            if end == "cancellation":
                await cancelled_while(impl.gather_with_concurrency(n, *items), turns=4)
            elif end == "error":
                with contextlib.suppress(ValueError):
                    await impl.gather_with_concurrency(n, *items)
            else:
                assert len(await impl.gather_with_concurrency(n, *items)) == 4
            del items
            await let_go()
            return [ref() for ref in dead if ref() is not None]
        finally:
            gc.enable()

    assert asyncio.run(main()) == []
    assert len(dead) >= 5


@pytest.mark.parametrize("n", [1, 3, None])
def test_an_item_is_let_go_when_it_ends_not_when_the_gathering_does(impl, n):
    async def main():
        alive = []
        items = [value(Thing()) for _ in range(3)]
        refs = [weakref.ref(item) for item in items]

        async def looks():
            await let_go()
            alive.append([ref() for ref in refs if ref() is not None])

        coro = impl.gather_with_concurrency(n, *items, looks())
        del items
        await coro
        return alive

    assert asyncio.run(main()) == [[]]


def test_the_queue_holds_only_what_has_not_started(impl):
    async def main():
        items = [value(index, 1) for index in range(10)]
        refs = [weakref.ref(item) for item in items]
        future = impl.gather(*items, limit=1)
        del items
        await idle(8)
        alive = [ref() for ref in refs if ref() is not None]
        states = [inspect.getcoroutinestate(item) for item in alive]
        assert len(states) < 10
        assert states.count(inspect.CORO_CREATED) >= len(states) - 1
        del alive
        await future

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["range", "generator", "async generator", "async iterator"])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_dropped_stream_lets_go_at_once_of_what_needs_no_turn(impl, any_turns, kind, ordered):
    """Its results, its function and a sync source; of what runs, and of an async source, when that has ended."""

    async def main():
        gc.disable()
        try:
            results, things = [Thing()], [Thing() for _ in range(6)]

            async def function(thing):
                await idle(9 if thing is things[2] else 0)
                return results[0]

            def generator():
                yield from things

            async def async_generator():
                for thing in things:
                    yield thing

            source = {
                "range": lambda: list(things),
                "generator": generator,
                "async generator": async_generator,
                "async iterator": Things,
            }[kind]
            source = source(things) if kind == "async iterator" else source()
            stream = impl.amap(function, source, limit=2, buffersize=2, ordered=ordered)
            gone = [weakref.ref(stream), weakref.ref(results[0])]
            later = [weakref.ref(function)]
            if kind == "generator":
                gone.append(weakref.ref(source))
            elif kind != "range":
                later.append(weakref.ref(source))
            assert await anext(stream) is results[0]
            await idle(3)
            del stream, source, function
            results.clear()
            assert [ref() for ref in gone if ref() is not None] == []
            await let_go()
            assert [ref() for ref in later if ref() is not None] == []
        finally:
            gc.enable()

    asyncio.run(main())


class Things:
    def __init__(self, things):
        self.things = iter(things)

    def __aiter__(self):
        return self

    async def __anext__(self):
        for thing in self.things:
            return thing
        raise StopAsyncIteration
