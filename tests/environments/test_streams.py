"""Streams and async sources on every kind of event loop, with anyio, timeouts, nest_asyncio and interrupts."""

import asyncio
import operator
import textwrap
from functools import partial

import pytest

from contract_tools import HAS_EAGER_TASKS, Running, idle
from effort import SHORT
from in_subprocess import check_script
from virtual_time import run_in_virtual_time

# ---- loops ----


def stock():
    return asyncio.new_event_loop()


def with_debug(make):
    def debug():
        loop = make()
        loop.set_debug(True)
        return loop

    debug.__name__ = f"{make.__name__}_debug"
    return debug


def uvloop():
    return pytest.importorskip("uvloop").new_event_loop()


def with_factory(factory):
    loop = asyncio.new_event_loop()
    loop.set_task_factory(factory)
    return loop


def eager():
    if not HAS_EAGER_TASKS:
        pytest.skip("eager_task_factory is new in 3.12")
    return with_factory(asyncio.eager_task_factory)


class OwnTask(asyncio.Task):
    """What a factory may return."""


def factory_of_a_subclass():
    return with_factory(lambda loop, coro, **options: OwnTask(coro, loop=loop, **options))


def wrapping_factory():
    """As monitoring tools have it."""

    def factory(loop, coro, **options):
        async def wraps():
            return await coro

        return asyncio.Task(wraps(), loop=loop, **options)

    return with_factory(factory)


class LoopWithCreateTask(asyncio.SelectorEventLoop):
    """A loop class that has its own way of making Tasks."""

    def create_task(self, coro, **options):
        return super().create_task(coro, **options)


LOOPS = [
    stock,
    with_debug(stock),
    uvloop,
    with_debug(uvloop),
    eager,
    with_debug(eager),
    factory_of_a_subclass,
    wrapping_factory,
    LoopWithCreateTask,
]


@pytest.fixture(params=LOOPS, ids=lambda make: make.__name__)
def run(request):
    """Run a coroutine on the loop; nothing may be reported to its exception handler, and no Task be left."""
    make = request.param
    make().close()  # or skip the test

    def run(coro):
        reports = []

        async def watched():
            result = await asyncio.wait_for(coro, 60)
            await idle(3)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return result

        with asyncio.Runner(loop_factory=make) as runner:
            runner.get_loop().set_exception_handler(lambda loop, context: reports.append(context))
            result = runner.run(watched())
        assert reports == []
        return result

    return run


# ---- sources ----


def of_iterable(elements, turns=0):
    yield from elements


async def of_async_iterable(elements, turns=0):
    for element in elements:
        await idle(turns)
        yield element


SOURCES = {
    "sync": of_iterable,
    "async": of_async_iterable,
    "async, suspends": partial(of_async_iterable, turns=1),
}


@pytest.fixture(params=SOURCES)
def source(request):
    return SOURCES[request.param]


async def value(result, turns=1):
    await idle(turns)
    return result


@pytest.mark.parametrize("limit", [1, 3, None])
def test_results_errors_and_limits(impl, run, source, limit):
    running = Running()

    async def item(index):
        with running:
            await idle(index % 3)
            if index == 9:
                raise ValueError("item")
        return index

    async def main():
        for ordered in (True, False):
            async with impl.amap(item, source(range(8)), limit=limit, ordered=ordered) as stream:
                results = [result async for result in stream]
            assert sorted(results) == list(range(8))
            assert results == list(range(8)) or not ordered
        assert await impl.amap(item, source(range(8)), limit=limit) == list(range(8))
        functions = [partial(item, index) for index in range(8)]
        assert await impl.run_all(source(functions), limit=limit) == list(range(8))
        assert await impl.constrained_execution(source(functions), limit) == list(range(8))
        assert limit is None or running.most <= limit
        with pytest.raises(ValueError, match="item"):
            async with impl.amap(item, source(range(20)), limit=limit) as stream:
                async for _ in stream:
                    pass
        with pytest.raises(ValueError, match="item"):
            await impl.run_all(source([partial(item, index) for index in range(20)]), limit=limit)

    run(main())


@pytest.mark.parametrize("limit", [1, 3])
def test_left_early_everything_ends_with_the_block(impl, run, source, limit):
    async def main():
        for ordered in (True, False):
            started, ended = [], []

            async def item(index):
                started.append(index)
                try:
                    await idle(1 if index == 0 else 1000)
                finally:
                    await idle(1)
                    ended.append(index)

            async with impl.amap(item, source(range(100)), limit=limit, ordered=ordered) as stream:
                async for result in stream:
                    assert result is None
                    break
            assert sorted(started) == sorted(ended)
            assert len(started) <= 2 * limit
            await idle(2)
            assert asyncio.current_task().cancelling() == 0

    run(main())


def test_streams_nest(impl, run, source):
    async def main():
        async def inner(index):
            return [result async for result in impl.amap(value, source([index, index + 1]), limit=1)]

        outer = impl.amap(inner, impl.amap(value, source(range(6)), limit=2), limit=3)
        async with outer:
            assert [result async for result in outer] == [[index, index + 1] for index in range(6)]

    run(main())


def test_a_cancelled_consumer_and_its_stream(impl, run, source):
    async def main():
        ended = []

        async def item(index):
            try:
                await idle(1000)
            finally:
                ended.append(index)

        async def consumes():
            async with impl.amap(item, source(range(100)), limit=2) as stream:
                async for _ in stream:
                    pass

        consumer = asyncio.ensure_future(consumes())
        await idle(9)
        consumer.cancel("stop")
        with pytest.raises(asyncio.CancelledError):
            await consumer
        assert sorted(ended) == [0, 1]

    run(main())


# ---- as_completed ----


def test_completions(impl, run):
    """By both loops, of all kinds of sources, with Futures of the caller's among them; and left early."""

    async def main():
        running = Running()
        ended = []

        async def item(index):
            with running:
                await idle(index % 3)
                if index == 5:
                    raise ValueError("item")
            return index

        async def long(index):
            try:
                await idle(1000 if index else 1)
            finally:
                await idle(1)
                ended.append(index)
            return index

        async def coroutines(function, make):
            async for index in of_async_iterable(range(6), make):
                yield function(index)

        def sources_of(function):
            yield [function(index) for index in range(6)]
            yield (function(index) for index in range(6))
            yield coroutines(function, 0)
            yield coroutines(function, 1)

        for limit in (1, 3, None):
            for number, source in enumerate(sources_of(item)):
                future = asyncio.get_running_loop().create_future()
                future.set_result(6)
                aws = [*source, future] if number == 0 else source
                given = [task async for task in impl.as_completed(aws, limit=limit, timeout=60)]
                assert all(task.done() for task in given) and (future in given) == (number == 0)
                assert [str(task.exception()) for task in given if task.exception()] == ["item"]
                results = sorted(task.result() for task in given if not task.exception())
                assert results == [0, 1, 2, 3, 4, 6][: 6 if number == 0 else 5]
            assert running.most == (limit or 4)  # two of them do not suspend
            running.most = 0
            for source in list(sources_of(item))[:2]:
                asked = list(impl.as_completed(source, limit=limit))
                results = await asyncio.gather(*asked, return_exceptions=True)
                assert sorted(map(str, results)) == ["0", "1", "2", "3", "4", "item"]
            for source in sources_of(long):
                async with impl.as_completed(source, limit=limit) as iterator:
                    assert (await anext(iterator)).result() == 0
                assert sorted(ended) == list(range(len(ended))) and 1 <= len(ended) <= {1: 2, 3: 4, None: 6}[limit]
                ended.clear()
            with pytest.raises(TimeoutError):
                async for _ in impl.as_completed(map(long, range(6)), limit=limit, timeout=0):
                    pass
            ended.clear()

    run(main())


@pytest.mark.parametrize("kind", ["next", "anext"])
def test_a_timeout_around_one_completion_loses_nothing(impl, kind):
    async def slow(index):
        await asyncio.sleep(3)
        return index

    async def main():
        results, timeouts = [], 0
        iterator = impl.as_completed(map(slow, range(4)), limit=2)
        while len(results) < 4:
            try:
                async with asyncio.timeout(2):
                    results.append(await next(iterator) if kind == "next" else (await anext(iterator)).result())
            except TimeoutError:
                timeouts += 1
        assert sorted(results) == [0, 1, 2, 3] and timeouts >= 2
        assert await anext(iterator, "over") == "over"

    run_in_virtual_time(main())


# ---- timeouts ----


@pytest.mark.parametrize("ordered", [True, False])
def test_a_timeout_around_one_anext_loses_nothing(impl, source, ordered):
    async def slow(index):
        await asyncio.sleep(3)
        return index

    async def main():
        results, timeouts = [], 0
        async with impl.amap(slow, source(range(4)), limit=2, ordered=ordered) as stream:
            while True:
                try:
                    async with asyncio.timeout(2):
                        results.append(await anext(stream))
                except TimeoutError:
                    timeouts += 1
                except StopAsyncIteration:
                    break
                try:
                    results.append(await asyncio.wait_for(anext(stream), 2))
                except TimeoutError:
                    timeouts += 1
                except StopAsyncIteration:
                    break
        assert results == list(range(4)) if ordered else sorted(results) == list(range(4))
        assert timeouts >= 2

    run_in_virtual_time(main())


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_a_timeout_around_the_loop_ends_it(impl, source, ordered, inside):
    async def main():
        ended = []

        async def slow(index):
            try:
                await asyncio.sleep(0 if index < 2 else 3600)
            finally:
                await asyncio.sleep(0)
                ended.append(index)
            return index

        results = []
        stream = impl.amap(slow, source(range(100)), limit=2, ordered=ordered)
        with pytest.raises(TimeoutError):
            if inside:
                async with stream, asyncio.timeout(10):
                    async for result in stream:
                        results.append(result)
            else:
                async with asyncio.timeout(10), stream:
                    async for result in stream:
                        results.append(result)
        assert results == [0, 1] and sorted(ended) == [0, 1, 2, 3]
        await idle(1)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert asyncio.current_task().cancelling() == 0

    run_in_virtual_time(main())


@pytest.mark.parametrize("name", ["run_all", "amap"])
def test_a_timeout_around_a_call_awaits_its_source(impl, name):
    async def main():
        ended = []

        async def elements():
            try:
                yield partial(asyncio.sleep, 0)
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(1)
                ended.append("source")

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                if name == "run_all":
                    await impl.run_all(elements(), limit=2)
                else:
                    await impl.amap(operator.call, elements(), limit=2)
        assert ended == ["source"]

    run_in_virtual_time(main())


# ---- anyio ----


@pytest.fixture
def anyio():
    return pytest.importorskip("anyio")


@pytest.mark.parametrize("limit", [1, 2])
def test_anyio_scopes_inside_of_a_source_end_only_their_block(impl, anyio, limit):
    async def elements():
        with anyio.move_on_after(0.01) as scope:
            yield 1
            await anyio.sleep(3600)
        assert scope.cancelled_caught
        yield 2
        with anyio.CancelScope() as scope:
            yield 3
            scope.cancel()
            await anyio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        await anyio.lowlevel.checkpoint()
        yield 4
        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
            yield 5
            await anyio.sleep(3600)

    async def main():
        async with impl.amap(value, elements(), limit=limit) as stream:
            assert [result async for result in stream] == [1, 2, 3, 4, 5]
        assert await impl.amap(value, elements(), limit=limit) == [1, 2, 3, 4, 5]

    asyncio.run(main())


def test_an_anyio_scope_inside_of_a_source_may_be_up_while_nothing_is_wanted(impl, anyio):
    async def elements():
        with anyio.move_on_after(0.01):
            for index in range(1000):
                yield index
        yield "late"

    async def main():
        results = []
        async with impl.amap(value, elements(), limit=1, buffersize=0) as stream:
            async for result in stream:
                results.append(result)
                if result == 0:
                    await anyio.sleep(0.1)
        assert results == [0, 1, "late"]

    asyncio.run(main())


def test_an_anyio_task_group_inside_of_a_source(impl, anyio):
    async def elements():
        sends, receives = anyio.create_memory_object_stream(1)

        async def produce():
            async with sends:
                for index in range(5):
                    await sends.send(index)

        async with receives, anyio.create_task_group() as group:
            group.start_soon(produce)
            async for index in receives:
                yield index

    async def main():
        for limit in (1, 3):
            async with impl.amap(value, elements(), limit=limit) as stream:
                assert [result async for result in stream] == list(range(5))
            # Left early, the group is left in the Task that entered it.
            async with impl.amap(value, elements(), limit=limit) as stream:
                async for _ in stream:
                    break

    asyncio.run(main())


def test_an_anyio_memory_object_stream_is_a_source(impl, anyio):
    async def main():
        sends, receives = anyio.create_memory_object_stream(2)

        async def produce():
            async with sends:
                for index in range(9):
                    await sends.send(index)

        async with anyio.create_task_group() as group:
            group.start_soon(produce)
            async with receives, impl.amap(value, receives, limit=2) as stream:
                assert [result async for result in stream] == list(range(9))

        sends, receives = anyio.create_memory_object_stream(9)
        await sends.send(1)
        async with impl.amap(value, receives, limit=2) as stream:
            async for _ in stream:
                break
        with pytest.raises(anyio.BrokenResourceError):  # it is the stream's, and has been closed
            await sends.send(2)
        await sends.aclose()

    asyncio.run(main())


def test_anyio_scopes_and_groups_around(impl, anyio, source):
    async def main():
        ended = []

        async def item(index):
            try:
                await anyio.sleep(0 if index < 2 else 3600)
            finally:
                ended.append(index)
            return index

        results = []

        async def consumes():
            async with impl.amap(item, source(range(100)), limit=2) as stream:
                async for result in stream:
                    results.append(result)

        with anyio.move_on_after(0.05) as scope:
            await consumes()
        assert scope.cancelled_caught and results == [0, 1] and sorted(ended) == [0, 1, 2, 3]
        await idle(1)
        assert asyncio.all_tasks() == {asyncio.current_task()}

        ended.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(consumes)
            group.start_soon(partial(impl.run_all, source([partial(item, 9)] * 3), limit=2))
            await anyio.sleep(0.05)
            group.cancel_scope.cancel()
        assert sorted(ended) == [0, 1, 2, 3, 9, 9]
        await idle(1)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_anyio_scopes_and_groups_in_and_around_completions(impl, anyio):
    async def main():
        ended = []

        async def item(index):
            try:
                with anyio.move_on_after(0.01):
                    await anyio.sleep(3600)
                async with anyio.create_task_group() as group:
                    group.start_soon(anyio.sleep, 0 if index < 2 else 3600)
            finally:
                ended.append(index)
            return index

        async def consumes(kind):
            iterator = impl.as_completed(list(map(item, range(5))), limit=2)
            async with iterator:
                if kind == "for":
                    for coroutine in iterator:
                        results.append(await coroutine)
                async for task in iterator:
                    results.append(await task)

        for kind in ("for", "async for"):
            results = []
            with anyio.move_on_after(0.1) as scope:
                await consumes(kind)
            assert scope.cancelled_caught and sorted(results) == [0, 1] and sorted(ended) == [0, 1, 2, 3]
            ended.clear()
            async with anyio.create_task_group() as group:
                group.start_soon(consumes, kind)
                await anyio.sleep(0.1)
                group.cancel_scope.cancel()
            assert sorted(results) == [0, 0, 1, 1] and sorted(ended) == [0, 1, 2, 3]
            ended.clear()
        iterator = impl.as_completed(map(item, range(2)))
        with anyio.move_on_after(0.001):
            await anext(iterator)
        assert sorted([(await task) async for task in iterator]) == [0, 1]
        await idle(1)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


# ---- nest_asyncio ----


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

        async def elements(count):
            for index in range(count):
                await asyncio.sleep(0)
                yield index

        async def listed(source, limit):
            async with impl.amap(value, source, limit=limit) as stream:
                return [result async for result in stream]

        def sync(source, limit):
            return asyncio.get_event_loop().run_until_complete(listed(source, limit))

        async def outer(index):
            return sync(range(index), 1), sync(elements(index), 2)

        async def runs_inside(count):
            for index in range(count):
                assert sync(elements(2), 1) == [0, 1]
                yield index

        async def completed(index):
            given = [task.result() async for task in impl.as_completed(map(value, range(index)), limit=1)]
            return sorted(given + [await one for one in impl.as_completed(map(value, range(index)), limit=2)])

        def sync_completed(index):
            return asyncio.get_event_loop().run_until_complete(completed(index))

        async def outer_completed(index):
            return sync_completed(index), await completed(index)

        async def main():
            for limit in (1, 2, None):
                expected = list(range(5))
                both = [task.result() async for task in impl.as_completed(map(outer_completed, [1, 2, 3]), limit=limit)]
                assert sorted(both) == [(sorted([*range(index)] * 2),) * 2 for index in (1, 2, 3)]
                assert await listed(range(5), limit) == await listed(elements(5), limit) == expected
                assert sync(range(5), limit) == sync(elements(5), limit) == expected
                nested = [(list(range(index)),) * 2 for index in range(4)]
                assert await impl.amap(outer, elements(4), limit=limit) == nested
                assert await listed(runs_inside(3), limit) == [0, 1, 2]

        nest_asyncio.apply()
        loop = asyncio.new_event_loop()
        nest_asyncio.apply(loop)
        asyncio.set_event_loop(loop)
        loop.run_until_complete(main())
        loop.close()
        print("ok")
        """,
        warnings_are_errors=False,
        environment={"PYTHONWARNINGS": "ignore::ResourceWarning,ignore::DeprecationWarning"},
    )


# ---- interrupts, and the end of asyncio.run ----

ROUNDS = 8 if SHORT else 40

COMMON = """
import functools, itertools, operator, signal
from contract_tools import idle

ROUNDS = int(sys.argv[1])


class Program:
    '''Something is done at one of its points; whatever is open then must be closed at the end.'''

    def __init__(self, at, do):
        self.at, self.do = at, do
        self.passed = 0
        self.open = []
        self.over = False

    def point(self):
        assert not self.over, "it went on"
        self.passed += 1
        if self.passed == self.at:
            self.do()

    async def item(self, index):
        self.open.append(index)
        try:
            self.point()
            await idle(index % 3)
            self.point()
            return index
        finally:
            self.open.remove(index)

    def sync(self):
        self.open.append("source")
        try:
            for index in range(6):
                self.point()
                yield index
        finally:
            self.open.remove("source")

    async def asynchronous(self, turns=1):
        self.open.append("source")
        try:
            for index in range(6):
                self.point()
                await idle(turns)
                self.point()
                yield index
        finally:
            self.open.remove("source")

    def functions(self, elements):
        return FunctionsOf(self, elements)


class FunctionsOf:
    def __init__(self, program, elements):
        self.program, self.elements = program, elements

    def __aiter__(self):
        return self

    async def __anext__(self):
        return functools.partial(self.program.item, await anext(self.elements))

    async def aclose(self):
        await self.elements.aclose()


class CoroutinesOf(FunctionsOf):
    async def __anext__(self):
        return (await super().__anext__())()


async def completed(program, aws):
    async with impl.as_completed(aws, limit=2, timeout=3600) as iterator:
        async for task in iterator:
            task.result()
            program.point()


async def completed_plainly(program, aws):
    for coroutine in impl.as_completed(aws, limit=2, timeout=3600):
        await coroutine
        program.point()


async def iterated(program, elements, ordered):
    async with impl.amap(program.item, elements, limit=2, ordered=ordered) as stream:
        async for _ in stream:
            program.point()


async def dropped(program, elements):
    async for _ in impl.amap(program.item, elements, limit=2):
        program.point()


async def awaited(program, elements):
    await impl.amap(program.item, elements, limit=2)


PROGRAMS = {}
for kind, make in {"sync": Program.sync, "async": Program.asynchronous,
                   "async at once": lambda program: program.asynchronous(0)}.items():
    PROGRAMS["ordered", kind] = lambda p, make=make: iterated(p, make(p), True)
    PROGRAMS["unordered", kind] = lambda p, make=make: iterated(p, make(p), False)
    PROGRAMS["dropped", kind] = lambda p, make=make: dropped(p, make(p))
    PROGRAMS["awaited", kind] = lambda p, make=make: awaited(p, make(p))
    if kind != "sync":
        PROGRAMS["run_all", kind] = lambda p, make=make: impl.run_all(p.functions(make(p)), limit=2)
        PROGRAMS["constrained", kind] = lambda p, make=make: impl.constrained_execution(p.functions(make(p)), 2)
    PROGRAMS["in streams", kind] = lambda p, make=make: iterated(
        p, impl.amap(functools.partial(asyncio.sleep, 0), make(p), limit=2), True)
PROGRAMS["completed", "async"] = lambda p: completed(p, CoroutinesOf(p, p.asynchronous()))
PROGRAMS["completed plainly", "sync"] = lambda p: completed_plainly(p, map(p.item, range(6)))


def tries(do, expected):
    for factory in (None, lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options)):
        for name, start in PROGRAMS.items():
            for at in range(1, ROUNDS + 1):
                program = Program(at, do)

                async def main():
                    asyncio.get_running_loop().set_task_factory(factory)
                    await start(program)
                    return "ended"

                reports = []
                error = None
                with asyncio.Runner() as runner:
                    runner.get_loop().set_exception_handler(lambda loop, context: reports.append(context))
                    try:
                        runner.run(main())
                    except BaseException as raised:
                        error = raised.with_traceback(None)
                    program.closing = True
                program.over = True
                if program.passed >= at:
                    assert type(error) in expected, (name, at, error)
                else:
                    assert error is None, (name, at, error)
                del error
                gc.collect()
                assert program.open == [], (name, at, program.open)
                assert reports == [], (name, at, reports)
    print("ok")
"""

INTERRUPTS = {
    "Ctrl-C": "tries(functools.partial(signal.raise_signal, signal.SIGINT), [KeyboardInterrupt])",
    "KeyboardInterrupt": """
        def do():
            raise KeyboardInterrupt
        tries(do, [KeyboardInterrupt])
    """,
    "SystemExit": "tries(functools.partial(sys.exit, 3), [SystemExit])",
    "an error": """
        def do():
            raise ValueError("now")
        tries(do, [ValueError])
    """,
    "everything is cancelled": """
        def do():
            for task in asyncio.all_tasks():
                task.cancel()
        tries(do, [asyncio.CancelledError])
    """,
}


@pytest.mark.parametrize("interrupt", INTERRUPTS)
def test_interrupted_at_any_point_nothing_goes_on_and_nothing_is_reported(impl, interrupt):
    script = COMMON + textwrap.dedent(INTERRUPTS[interrupt])
    check_script(impl, script, arguments=[str(ROUNDS)])


def test_asyncio_run_that_ends_in_the_middle(impl):
    check_script(
        impl,
        COMMON
        + textwrap.dedent(
            """
            for factory in (None, lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options)):
                for name, start in PROGRAMS.items():
                    for turns in range(ROUNDS):
                        program = Program(0, None)

                        async def main():
                            asyncio.get_running_loop().set_task_factory(factory)
                            task = asyncio.ensure_future(start(program))
                            await idle(turns)
                            return task

                        reports = []
                        with asyncio.Runner() as runner:
                            runner.get_loop().set_exception_handler(lambda loop, context: reports.append(context))
                            task = runner.run(main())
                            loop = runner.get_loop()
                        assert task.cancelled() or task.result() is None or type(task.result()) is list, (name, turns)
                        assert not any(not one.done() for one in asyncio.all_tasks(loop)), (name, turns)
                        program.over = True
                        del task
                        gc.collect()
                        assert program.open == [], (name, turns, program.open)
                        assert reports == [], (name, turns, reports)
            print("ok")
            """
        ),
        arguments=[str(ROUNDS)],
    )
