"""The contract holds on every kind of event loop and with every kind of task factory."""

import asyncio
import contextvars
import sys

import pytest

from contract_tools import Running
from in_subprocess import check_script

pytestmark = pytest.mark.usefixtures("any_turns")

VALUE = contextvars.ContextVar("VALUE", default="unset")


def two_arguments(loop, coro):
    """The oldest form of a task factory."""
    return asyncio.Task(coro, loop=loop)


class CountingFactory:
    def __init__(self):
        self.calls = 0

    def __call__(self, loop, coro, **options):
        self.calls += 1
        return asyncio.Task(coro, loop=loop, **options)


class OwnTask(asyncio.Task):
    """What a factory may return."""


class LoopWithCreateTask(asyncio.SelectorEventLoop):
    """A loop class that has its own way of making Tasks."""

    made = 0

    def create_task(self, coro, **options):
        self.made += 1
        return super().create_task(coro, **options)


def stock():
    return asyncio.new_event_loop()


def debug():
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    return loop


def uvloop_loop():
    return pytest.importorskip("uvloop").new_event_loop()


def uvloop_debug():
    loop = uvloop_loop()
    loop.set_debug(True)
    return loop


def eager():
    if not hasattr(asyncio, "eager_task_factory"):
        pytest.skip("eager_task_factory is new in 3.12")
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


def eager_debug():
    loop = eager()
    loop.set_debug(True)
    return loop


def two_argument_factory():
    # The Runner itself passes a context to the factory, so this one is set only when it is through.
    loop = asyncio.new_event_loop()
    loop.factory_for_test = two_arguments
    return loop


def counting_factory():
    loop = asyncio.new_event_loop()
    loop.set_task_factory(CountingFactory())
    return loop


def factory_of_a_subclass():
    loop = asyncio.new_event_loop()
    loop.set_task_factory(lambda loop, coro, **options: OwnTask(coro, loop=loop, **options))
    return loop


LOOPS = [
    stock,
    debug,
    uvloop_loop,
    uvloop_debug,
    eager,
    eager_debug,
    two_argument_factory,
    counting_factory,
    factory_of_a_subclass,
    LoopWithCreateTask,
]


@pytest.fixture(params=LOOPS, ids=lambda make: make.__name__)
def run(request):
    """Run a coroutine on the loop; nothing may be reported to its exception handler."""
    make = request.param
    make().close()  # or skip the test

    def run(coro):
        reports = []
        with asyncio.Runner(loop_factory=make) as runner:
            loop = runner.get_loop()
            loop.set_exception_handler(lambda loop, context: reports.append(context))
            result = runner.run(within_a_minute(coro))
        assert reports == []
        return result

    return run


async def within_a_minute(coro):
    """Every test is done within a minute, or hangs."""
    loop = asyncio.get_running_loop()
    if hasattr(loop, "factory_for_test"):
        loop.set_task_factory(loop.factory_for_test)
    return await asyncio.wait_for(coro, 60)


async def value(result, turns=1):
    for _ in range(turns):
        await asyncio.sleep(0)
    return result


async def fails(turns=1):
    await value(None, turns)
    raise ValueError("item")


def test_results_are_in_order_and_the_limit_is_kept(impl, run):
    running = Running()

    async def item(index):
        with running:
            await value(None, index % 3)
        return index

    async def main():
        for n in (1, 3, None):
            running.most = 0
            assert await impl.gather_with_concurrency(n, *map(item, range(12))) == list(range(12))
            assert n is None or running.most == n
            assert await impl.gather(*map(item, range(12)), limit=n) == list(range(12))
            assert await impl.run_all([lambda i=i: item(i) for i in range(12)], limit=n) == list(range(12))
        assert await impl.constrained_execution([lambda i=i: item(i) for i in range(12)], 3) == list(range(12))

    run(main())


def test_items_start_in_order_and_the_caller_goes_on_after_them(impl, run):
    async def main():
        events = []

        async def item(index):
            events.append(f"start {index}")
            await value(None, 2)
            events.append(f"end {index}")

        await impl.gather_with_concurrency(2, *map(item, range(4)))
        assert [event for event in events if event.startswith("start")] == [f"start {index}" for index in range(4)]
        assert events.index("end 0") < events.index("start 2")
        assert sorted(events[-2:]) == ["end 2", "end 3"]

    run(main())


def test_the_first_error_is_raised_and_the_queue_goes_on(impl, run):
    async def main():
        done = []

        async def item(index):
            await value(None)
            done.append(index)

        with pytest.raises(ValueError, match="item"):
            await impl.gather_with_concurrency(2, fails(), item(1), item(2), item(3), item(4))
        await value(None, 12)
        assert done == [1, 2, 3, 4]

    run(main())


def test_a_cancelled_caller_cancels_the_items_and_keeps_the_message(impl, run):
    async def main():
        ended = []

        async def item(index):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError as error:
                await value(None)
                ended.append((index, str(error)))
                raise

        async def caller():
            await impl.gather_with_concurrency(2, *map(item, range(5)))

        task = asyncio.ensure_future(caller())
        await value(None, 4)
        task.cancel("stop")
        with pytest.raises(asyncio.CancelledError):
            await task
        await value(None, 4)
        assert ended == [(0, "stop"), (1, "stop")]

    run(main())


def test_each_item_has_its_own_copy_of_the_context(impl, run):
    async def main():
        VALUE.set("caller")

        async def item(index):
            seen = VALUE.get()
            VALUE.set(index)
            await value(None, index % 2)
            return seen, VALUE.get()

        for n in (1, 2, None):
            seen = await impl.gather_with_concurrency(n, *map(item, range(5)))
            assert seen == [("caller", index) for index in range(5)]
        assert VALUE.get() == "caller"

    run(main())


def test_each_item_has_a_task_of_its_own(impl, run):
    async def main():
        tasks = []

        async def item(turns):
            tasks.append(asyncio.current_task())
            await value(None, turns)
            assert asyncio.current_task() is tasks[-1] or turns

        await impl.gather_with_concurrency(2, *[item(index % 2) for index in range(6)])
        assert len(set(tasks)) == 6
        assert asyncio.current_task() not in tasks
        await value(None)
        assert all(task.done() and not task.cancelled() and task.exception() is None for task in tasks)

    run(main())


def test_gatherings_nest(impl, run):
    async def main():
        async def inner(index):
            return await impl.gather_with_concurrency(1, value(index), value(index + 1, 0))

        assert await impl.gather_with_concurrency(2, *map(inner, range(4))) == [[i, i + 1] for i in range(4)]

    run(main())


def test_a_semaphore_may_be_shared_by_nested_gatherings(impl, run):
    async def main():
        gate = asyncio.Semaphore(2)
        running = Running()

        async def leaf():
            with running:
                await value(None, 2)

        async def inner():
            await impl.gather_with_concurrency(5, *[impl.gated_coro(gate, leaf()) for _ in range(4)])
            await impl.gather(*[leaf() for _ in range(4)], limit=gate)

        await impl.gather_with_concurrency(3, *[inner() for _ in range(3)])
        assert running.most == 2
        assert not gate.locked()

    run(main())


def test_limits_in_a_row(impl, run):
    """Gates are entered and left in the item's Task, in order, and cancelled while one waits they are all free again."""

    async def main():
        first, second = asyncio.Semaphore(3), asyncio.Semaphore(2)
        running, events = Running(), []

        class Gate:
            async def __aenter__(self):
                await value(None)
                events.append((asyncio.current_task(), "enters"))

            async def __aexit__(self, *error):
                events.append((asyncio.current_task(), "leaves"))
                await value(None)

        async def item(index):
            assert (asyncio.current_task(), "enters") in events
            with running:
                await value(None, 3 + index % 3)
            return index

        for row in ([first, 9, Gate(), second], (2, first, Gate())):
            events.clear()
            assert await impl.gather(*map(item, range(9)), limit=row) == list(range(9))
            assert await impl.amap(item, range(9), limit=row) == list(range(9))
            assert {events.count((task, what)) for task, what in events} == {1} and len(events) == 36
        assert running.most == 2
        async with second:
            await second.acquire()
            for turns in range(7):
                task = asyncio.ensure_future(impl.gather(*map(item, range(3)), limit=(first, Gate(), second)))
                await value(None, turns)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await value(None, 4)
                assert (first._value, second._value) == (3, 0)
            second.release()

    run(main())


def test_return_exceptions_and_cancel_on_error(impl, run):
    async def main():
        for limit in (1, 2, None):
            seen = await impl.gather(value(1), fails(), value(3), limit=limit, return_exceptions=True)
            assert [seen[0], str(seen[1]), seen[2]] == [1, "item", 3]
            started = []

            async def item():
                started.append(1)
                await asyncio.sleep(3600)

            with pytest.raises(ValueError, match="item"):
                await impl.gather(fails(turns=9), item(), item(), limit=limit, cancel_on_error=True)
            assert len(started) == {1: 0, 2: 1, None: 2}[limit]

    run(main())


def test_progress_is_told_by_the_loop_and_its_sum_is_exact(impl, run):
    async def main():
        told = []

        def tell(number):
            assert asyncio.current_task() is None
            told.append(number)

        def fails(number):
            raise LookupError("progress")

        for call in (
            lambda tell: impl.gather(*map(slept, range(8)), limit=3, progress=tell),
            lambda tell: impl.run_all([lambda i=i: slept(i) for i in range(8)], limit=3, progress=tell),
            lambda tell: impl.amap(slept, range(8), limit=3, progress=tell),
            lambda tell: all_of(impl.amap(slept, range(8), limit=3, progress=tell)),
        ):
            told.clear()
            assert await call(tell) == list(range(8))
            assert sum(told) == 8
            assert min(told) > 0
            with pytest.raises(LookupError, match="progress"):
                await call(fails)

    async def all_of(stream):
        return [result async for result in stream]

    async def slept(index):
        await asyncio.sleep(index * 0.003)
        return index

    run(main())


def test_gated_coro(impl, run):
    async def main():
        gate = asyncio.Semaphore(2)
        running = Running()

        async def item(index):
            with running:
                await value(None, 2)
            return index

        assert await asyncio.gather(*[impl.gated_coro(gate, item(i)) for i in range(9)]) == list(range(9))
        assert running.most == 2
        assert not gate.locked()

    run(main())


@pytest.mark.parametrize("n", [2, 20])
def test_a_task_factory_makes_one_task_per_item(impl, n):
    async def main():
        factory = CountingFactory()
        asyncio.get_running_loop().set_task_factory(factory)
        await impl.gather_with_concurrency(n, *map(value, range(10)))
        return factory.calls

    assert asyncio.run(main()) == 10


@pytest.mark.parametrize("n", [2, None])
def test_a_loops_own_create_task_makes_one_task_per_item(impl, n):
    async def main():
        loop = asyncio.get_running_loop()
        made = loop.made
        await impl.gather_with_concurrency(n, *map(value, range(10)))
        return loop.made - made

    with asyncio.Runner(loop_factory=LoopWithCreateTask) as runner:
        assert runner.run(main()) == 10


def test_a_factory_that_fails_is_an_error_of_the_call_and_no_coroutine_is_lost(impl):
    """The lost ones would warn, and warnings are errors here."""

    def factory(loop, coro, **options):
        if len(made) == 2:
            raise MemoryError("no more Tasks")
        made.append(1)
        return asyncio.Task(coro, loop=loop, **options)

    made = []

    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        with pytest.raises(MemoryError, match="no more Tasks"):
            await impl.gather_with_concurrency(3, *map(value, range(6)))
        asyncio.get_running_loop().set_task_factory(None)
        await value(None, 6)

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="eager_task_factory is new in 3.12")
def test_under_the_eager_factory_items_run_in_the_call_as_under_asyncio_gather(impl):
    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)

        async def trace(gather):
            events = []

            async def item(index, turns):
                events.append(f"start {index}")
                await value(None, turns)
                events.append(f"end {index}")

            future = gather(item(0, 0), item(1, 1), item(2, 0))
            events.append("called")
            asyncio.get_running_loop().call_soon(events.append, "next turn")
            await future
            return events

        assert await trace(impl.gather) == await trace(asyncio.gather)

        async def at_once(index):
            return index

        future = impl.gather(at_once(1), at_once(2))
        assert future.done()
        assert future.result() == [1, 2]

    asyncio.run(main())


def test_a_deep_chain_of_eager_gatherings_completes(impl):
    async def main():
        async def nest(depth):
            if depth:
                return await impl.gather_with_concurrency(None, nest(depth - 1))
            return "bottom"

        assert "bottom" in str(await nest(60))

    asyncio.run(main())


def test_nest_asyncio(impl):
    pytest.importorskip("nest_asyncio")
    check_script(
        impl,
        """
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nest_asyncio

        async def value(result):
            await asyncio.sleep(0)
            return result

        async def fails():
            await asyncio.sleep(0)
            raise ValueError("item")

        def sync(n):
            # What nest_asyncio is for: run the loop inside of a step of it.
            return asyncio.get_event_loop().run_until_complete(impl.gather_with_concurrency(n, *map(value, range(5))))

        async def outer(n):
            return sync(n)

        async def main():
            for n in (1, 2, None):
                assert await impl.gather_with_concurrency(n, *map(value, range(5))) == list(range(5))
                assert await impl.gather(*map(value, range(5)), limit=n) == list(range(5))
                assert sync(n) == list(range(5))
                assert await impl.gather_with_concurrency(n, outer(1), outer(None)) == [list(range(5))] * 2
                try:
                    await impl.gather_with_concurrency(n, fails(), value(1), value(2))
                except ValueError:
                    pass
                else:
                    raise AssertionError
                await asyncio.sleep(0.01)

        nest_asyncio.apply()
        loop = asyncio.new_event_loop()
        nest_asyncio.apply(loop)
        asyncio.set_event_loop(loop)
        loop.run_until_complete(main())
        loop.close()
        print("ok")
        """,
        warnings_are_errors=False,
        # nest_asyncio leaves a loop of its own open and calls what is deprecated, which debug builds of Python report.
        environment={"PYTHONWARNINGS": "ignore::ResourceWarning,ignore::DeprecationWarning"},
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a thread that owns a loop needs no signal handling here")
def test_gatherings_run_in_loops_of_several_threads(impl):
    import concurrent.futures

    def in_thread(seed):
        async def main():
            results = []
            for _ in range(20):
                results += await impl.gather_with_concurrency(2, *[value(seed + i, i % 2) for i in range(10)])
            return results

        return asyncio.run(main())

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for seed, results in zip(range(4), pool.map(in_thread, range(4))):
            assert results == [seed + i for i in range(10)] * 20
