"""Whoever else makes the Tasks of a call finds its caller as the current Task, as if asyncio.gather made them in the call.

A task factory, or a loop's own create_task(), may hand state of the current Task on to the Task that it makes.
"""

import asyncio
import contextlib
import functools
import gc
import sys
import weakref

import pytest

from contract_tools import HAS_CALL_GRAPH, idle, is_closed, run
from in_subprocess import check_script

HAS_EAGER_TASKS = sys.version_info >= (3, 12)

# ---- those who make Tasks ----


class Maker:
    """Makes the Tasks of the running loop for a `with` block, and notes who is current each time."""

    def __init__(self, *, fails_at=(), does=None):
        self.parents = []
        self.in_callbacks = []  # who is current in the callbacks that run meanwhile: nobody
        self._fails_at = fails_at
        self._does = does

    def note(self, loop):
        task = asyncio.current_task(loop)
        if loop.is_running():
            assert task is asyncio.current_task()
        self.parents.append(task)
        loop.call_soon(lambda: self.in_callbacks.append(asyncio.current_task(loop)))
        if self._does is not None:
            self._does(loop, len(self.parents))

    def make(self, loop, coroutine, **options):
        self.note(loop)
        return asyncio.Task(coroutine, loop=loop, **options)

    def start(self, loop):
        raise NotImplementedError

    def stop(self, loop):
        loop.set_task_factory(None)

    def __enter__(self):
        self._loop = asyncio.get_running_loop()
        self.start(self._loop)
        return self

    def __exit__(self, *exception):
        self.stop(self._loop)

    def take(self):
        """Return who was current, and forget it."""
        parents, self.parents = self.parents, []
        return parents


class FactoryOfTwoArguments(Maker):
    def start(self, loop):
        loop.set_task_factory(lambda loop, coroutine: self.make(loop, coroutine))


class FactoryOfAnyArguments(Maker):
    def start(self, loop):
        loop.set_task_factory(lambda *args, **options: self.make(*args, **options))


class FactoryWithKeywords(Maker):
    def start(self, loop):
        def factory(loop, coroutine, *, name=None, context=None, eager_start=None):
            options = {"eager_start": eager_start} if HAS_EAGER_TASKS and eager_start is not None else {}
            return self.make(loop, coroutine, name=name, context=context, **options)

        loop.set_task_factory(factory)


class OwnCreateTaskOfOneArgument(Maker):
    def start(self, loop):
        loop.create_task = lambda coroutine: self.make(loop, coroutine)

    def stop(self, loop):
        del loop.create_task


class LoopClass(Maker):
    def start(self, loop):
        maker, self._class = self, type(loop)

        class Loop(self._class):
            def create_task(self, coroutine, **options):
                maker.note(self)
                return super().create_task(coroutine, **options)

        loop.__class__ = Loop

    def stop(self, loop):
        loop.__class__ = self._class


class ReplacedTaskClass(Maker):
    def start(self, loop):
        maker, self._class = self, asyncio.tasks.Task

        class Task(self._class):
            def __init__(self, coroutine, *, loop, **options):
                maker.note(loop)
                super().__init__(coroutine, loop=loop, **options)

        asyncio.tasks.Task = Task

    def stop(self, loop):
        asyncio.tasks.Task = self._class


class EagerFactory(Maker):
    def start(self, loop):
        def factory(loop, coroutine, **options):
            self.note(loop)
            return asyncio.eager_task_factory(loop, coroutine, **options)

        loop.set_task_factory(factory)


class FactoryOfPythonTasks(Maker):
    def start(self, loop):
        def factory(loop, coroutine, **options):
            self.note(loop)
            return asyncio.tasks._PyTask(coroutine, loop=loop, **options)

        loop.set_task_factory(factory)


MAKERS = [
    FactoryOfTwoArguments,
    FactoryOfAnyArguments,
    FactoryWithKeywords,
    OwnCreateTaskOfOneArgument,
    LoopClass,
    ReplacedTaskClass,
    *([EagerFactory] if HAS_EAGER_TASKS else []),
    FactoryOfPythonTasks,
]

# ---- what is called ----


def functions(impl):
    """Return each public function as a function of a limit and callables; without a limit where it has none."""

    def of_gather(limit, items):
        return impl.gather(*(item() for item in items), limit=limit)

    def of_gather_with_concurrency(limit, items):
        return impl.gather_with_concurrency(limit, *(item() for item in items))

    return {
        "gather_with_concurrency": of_gather_with_concurrency,
        "gather": of_gather,
        "run_all": lambda limit, items: impl.run_all(iter(items), limit=limit),
        "run_all of a list": lambda limit, items: impl.run_all(items, limit=limit),
        "constrained_execution": lambda limit, items: impl.constrained_execution(items, limit),
    }


FUNCTIONS = ["gather_with_concurrency", "gather", "run_all", "run_all of a list", "constrained_execution"]
GATES = {"a semaphore": lambda: asyncio.Semaphore(2), "a lock": asyncio.Lock}
LIMITS = [1, 2, None, *GATES]


def limit_of(function, limit):
    if limit in GATES:
        if function == "gather_with_concurrency":
            pytest.skip("its limit is a number")
        return GATES[limit]()
    return limit


async def in_its_own_task(turns):
    """An item that looks who is current at its start and its end."""
    first = asyncio.current_task()
    await idle(turns)
    return asyncio.current_task() is first


@pytest.mark.usefixtures("any_turns")
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_caller_is_current_whenever_a_task_is_made(impl, function, limit, maker):
    async def main():
        me = asyncio.current_task()
        call = functions(impl)[function]
        with maker() as made:
            for turns in (0, 1, 3):
                results = await call(limit_of(function, limit), [functools.partial(in_its_own_task, turns)] * 6)
                assert results == [True] * 6
                assert made.take() == [me] * 6
                assert asyncio.current_task() is me
        await idle(2)
        assert set(made.in_callbacks) == {None}

    run(main)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("how", ["finished", "failed", "cancelled", "waits for something else"])
def test_a_caller_that_has_gone_on_is_current_all_the_same(impl, how, limit, maker):
    async def main():
        async def calls():
            futures.append(impl.gather(*(in_its_own_task(4) for _ in range(6)), limit=limit))
            if how == "failed":
                raise LookupError("the caller")
            if how in ("cancelled", "waits for something else"):
                await asyncio.get_running_loop().create_future()

        futures = []
        caller = asyncio.Task(calls(), loop=asyncio.get_running_loop())
        with maker() as made:
            await idle(2)
            if how == "cancelled":
                caller.cancel()
            assert await futures[0] == [True] * 6
            assert made.take() == [caller] * 6
        caller.cancel()
        await asyncio.wait([caller])
        if how == "failed":
            assert isinstance(caller.exception(), LookupError)

    run(main)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_caller_that_has_its_error_is_current_for_the_rest_of_the_queue(impl, function, maker):
    async def main():
        async def item(index):
            await asyncio.sleep(0)
            if index == 0:
                raise LookupError
            ended.append(index)

        async def calls():
            items = [functools.partial(item, index) for index in range(6)]
            if function.startswith("run_all"):
                return await impl.run_all(items, limit=1, cancel_on_error=False)
            return await functions(impl)[function](1, items)

        ended = []
        caller = asyncio.Task(calls(), loop=asyncio.get_running_loop())
        with maker() as made:
            await asyncio.wait([caller])
            assert isinstance(caller.exception(), LookupError)
            while len(ended) < 5:
                await asyncio.sleep(0)
            assert made.take() == [caller] * 6

    run(main)


@pytest.mark.usefixtures("any_turns")
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("limit", [1, 2, None])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_in_nested_calls_each_caller_is_current_for_its_own_items(impl, function, limit, maker):
    if maker is FactoryOfPythonTasks and sys.version_info >= (3, 14):
        pytest.skip("asyncio.current_task() does not know Python Tasks since 3.14")

    async def main():
        async def outer(index):
            me = asyncio.current_task()
            await asyncio.sleep(0)
            await call(limit, [functools.partial(inner, me)] * 4)
            return asyncio.current_task() is me

        async def inner(caller):
            inner_callers.append(caller)
            await asyncio.sleep(0)

        me, call, inner_callers = asyncio.current_task(), functions(impl)[function], []
        with maker() as made:
            assert await call(limit, [functools.partial(outer, index) for index in range(3)]) == [True] * 3
        assert len(set(inner_callers)) == 3
        parents = made.take()
        assert parents.count(me) == 3 and len(parents) == 15
        assert sorted(map(id, parents)) == sorted(map(id, [*inner_callers, me, me, me]))

    run(main)


@pytest.mark.parametrize("maker", MAKERS)
def test_callers_that_share_a_gate_are_not_taken_for_each_other(impl, maker):
    async def main():
        async def calls():
            me = asyncio.current_task()
            before = len(made.parents)
            future = impl.gather(*(noting(me) for _ in range(4)), limit=gate)
            assert all(parent is me for parent in made.parents[before:])
            return await future

        async def noting(caller):
            callers.append(caller)
            await asyncio.sleep(0)

        gate, callers = asyncio.Semaphore(2), []
        loop = asyncio.get_running_loop()
        with maker() as made:
            tasks = [asyncio.Task(calls(), loop=loop) for _ in range(3)]
            await asyncio.wait(tasks)
            assert all(task.exception() is None for task in tasks)
        assert sorted(map(id, made.take())) == sorted(map(id, callers))
        assert set(callers) == set(tasks)

    run(main)


@pytest.mark.usefixtures("any_turns")
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("limit", [1, 2, None])
def test_nobody_is_current_where_the_call_was_made_by_a_callback(impl, limit, maker):
    async def main():
        loop = asyncio.get_running_loop()
        called = loop.create_future()
        with maker() as made:
            loop.call_soon(lambda: called.set_result(impl.gather(*(in_its_own_task(2) for _ in range(5)), limit=limit)))
            assert await (await called) == [True] * 5
            assert made.take() == [None] * 5

    run(main)


@pytest.mark.parametrize("limit", [1, 2, None])
def test_nobody_is_current_where_the_loop_does_not_run_yet(impl, limit):
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    made = FactoryOfTwoArguments()
    try:
        made.start(loop)
        future = impl.gather(*(in_its_own_task(2) for _ in range(5)), limit=limit)
        assert loop.run_until_complete(future) == [True] * 5
        assert made.take() == [None] * 5
    finally:
        asyncio.set_event_loop(None)
        loop.close()


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="since 3.14 asyncio.gather takes no Futures of other loops")
def test_the_caller_on_another_loop_is_left_alone(impl):
    other = asyncio.new_event_loop()
    seen = []

    def factory(loop, coroutine):
        seen.append((asyncio.current_task(), asyncio.current_task(other)))
        return asyncio.Task(coroutine, loop=loop)

    async def main():
        other.set_task_factory(factory)
        future = other.create_future()
        future.set_result("future")
        return asyncio.current_task(), impl.gather(future, in_its_own_task(1), in_its_own_task(1), limit=1)

    try:
        caller, outer = run(main)
        assert other.run_until_complete(outer) == ["future", True, True]
        # In the call it is as with asyncio.gather; later it is no longer running.
        assert seen == [(caller, None), (None, None), (None, None)]
    finally:
        other.close()


@pytest.mark.usefixtures("any_turns")
@pytest.mark.skipif(not HAS_EAGER_TASKS, reason="eager tasks are new in 3.12")
@pytest.mark.parametrize("limit", [1, 2, None])
def test_in_eager_tasks_the_new_task_is_current_at_any_depth(impl, limit):
    async def main():
        async def item(depth):
            me = asyncio.current_task()
            assert me is not None and me not in seen
            seen.append(me)
            if depth:
                await impl.gather_with_concurrency(limit, *(item(depth - 1) for _ in range(3)))
                await impl.gather(*(item(0) for _ in range(3)), limit=limit)
            assert asyncio.current_task() is me
            await idle(depth % 2)
            assert asyncio.current_task() is me

        seen = []
        me = asyncio.current_task()
        with EagerFactory() as made:
            await impl.gather_with_concurrency(limit, *(item(3) for _ in range(3)))
        assert asyncio.current_task() is me
        assert set(made.take()) <= {me, *seen}

    run(main)


# ---- factories that do something else ----


def enters_another(loop, count):
    """Leave the current Task, as no factory should, and make another one current."""
    leaves(loop, count)
    asyncio.tasks._enter_task(loop, OTHERS[-1])


def leaves(loop, count):
    current = asyncio.current_task(loop)
    if current is not None:
        asyncio.tasks._leave_task(loop, current)


OTHERS = []


@pytest.fixture
def another_task():
    """A Task that has nothing to do with it, of which the factory makes use."""

    async def other():
        pass

    loop = asyncio.new_event_loop()
    OTHERS.append(loop.create_task(other()))
    loop.run_until_complete(OTHERS[-1])
    loop.close()
    yield OTHERS[-1]
    OTHERS.clear()


@pytest.mark.parametrize("error", [None, LookupError], ids=["and goes on", "and fails"])
@pytest.mark.parametrize("does", [enters_another, leaves])
@pytest.mark.parametrize("limit", [1, 2, None])
def test_whatever_a_factory_makes_current_does_not_stay(impl, another_task, limit, does, error):
    def misbehaves(loop, count):
        does(loop, count)
        if error is not None and count == 3:
            raise error

    async def main():
        me = asyncio.current_task()
        with FactoryOfTwoArguments(does=misbehaves) as made:
            future = impl.gather(*(in_its_own_task(2) for _ in range(5)), limit=limit, return_exceptions=True)
            assert asyncio.current_task() is me
            results = await future
            assert asyncio.current_task() is me
        assert [result for result in results if result is not True] == ([] if error is None else [results[2]])
        assert error is None or isinstance(results[2], error)
        assert made.take() == [me] * 5
        assert set(made.in_callbacks) <= {None}

    run(main)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("does", [lambda loop, count: None, enters_another, leaves])
@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize("limit", [1, 2])
def test_an_interrupt_of_a_factory_leaves_nobody_current(impl, another_task, limit, at, does, interrupt):
    def interrupts(loop, count):
        if count == at:
            does(loop, count)
            raise interrupt

    async def main():
        outers.append(impl.gather(*(in_its_own_task(2) for _ in range(6)), limit=limit, return_exceptions=True))
        await asyncio.wait(outers)

    outers = []
    loop = asyncio.new_event_loop()
    try:
        made = FactoryOfTwoArguments(does=interrupts)
        task = loop.create_task(main())
        made.start(loop)
        with pytest.raises(interrupt):
            loop.run_until_complete(task)
        assert asyncio.current_task(loop) is None
        if outers:
            # The loop runs on, and so does the queue.
            results = loop.run_until_complete(outers[0])
            assert len(results) == 6 and results.count(True) == 5
            loop.run_until_complete(task)
            assert set(made.parents) == {task}
        else:
            assert isinstance(task.exception(), interrupt)
            loop.run_until_complete(idle(3))  # what had started is cancelled
        assert asyncio.current_task(loop) is None
    finally:
        loop.close()
        del task
        outers.clear()
        gc.collect()


JUNK = {"None": lambda: None, "an object": object, "a string": lambda: "task", "a class": lambda: asyncio.Task}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("limit", [1, 2, None])
def test_what_is_no_task_is_an_error_of_its_item_as_with_asyncio_gather(impl, limit, junk):
    async def main():
        async def item():
            raise AssertionError("it has no Task")

        me, loop = asyncio.current_task(), asyncio.get_running_loop()
        made = FactoryOfTwoArguments()
        loop.create_task = lambda coroutine: (made.note(loop), JUNK[junk]())[1]
        coroutine = item()
        with pytest.raises((AttributeError, TypeError)) as by_asyncio:
            asyncio.gather(coroutine)
        coroutine.close()
        items = [item() for _ in range(4)]
        results = await impl.gather(*items, limit=limit, return_exceptions=True)
        assert [type(result) for result in results] == [by_asyncio.type] * 4
        assert all(map(is_closed, items))
        assert made.take() == [me] * 5
        assert asyncio.current_task() is me
        del loop.create_task

    run(main)


@pytest.mark.parametrize("limit", [1, 2, None])
def test_a_factory_that_closes_the_coroutine_leaves_the_caller_current(impl, limit):
    async def main():
        async def nothing():
            pass

        def factory(loop, coroutine):
            seen.append(asyncio.current_task())
            coroutine.close()
            return asyncio.Task(nothing(), loop=loop)

        seen = []
        me, loop = asyncio.current_task(), asyncio.get_running_loop()
        items = [in_its_own_task(1) for _ in range(4)]
        loop.set_task_factory(factory)
        future = impl.gather(*items, limit=limit, return_exceptions=True)
        assert asyncio.current_task() is me
        await idle(8)
        loop.set_task_factory(None)
        assert set(seen) == {me}
        future.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await future
        assert all(map(is_closed, items))

    run(main)


# ---- how long the caller is kept ----


class Note:
    """Something that a Task holds, to look at through a weak reference."""


@pytest.mark.parametrize("function", ["gather", "run_all", "run_all of a list"])
@pytest.mark.parametrize("end", ["runs out", "is closed", "is closed in slices"])
def test_the_caller_is_let_go_with_the_last_of_the_queue(impl, function, end):
    """Without the garbage collector's help; and a call whose Tasks are ours does not keep it at all.

    Since 3.14 it is shown as awaiting the items, and so kept until the call has ended.
    """

    async def main():
        release = asyncio.Event()

        async def item(index):
            started.append(index)
            await release.wait()

        async def calls():
            items = [functools.partial(item, index) for index in range(4)]
            if function == "gather":
                outers.append(impl.gather(*(item() for item in items), limit=1))
                return
            running = functions(impl)[function](1, items)
            running.send(None)  # and goes on without it
            outers.append(running)

        loop = asyncio.get_running_loop()
        for kept in (True, False):
            started, outers = [], []
            release.clear()
            caller = asyncio.Task(calls(), loop=loop)
            watched = weakref.ref(caller)
            if kept:
                made = FactoryOfTwoArguments()
                made.note = lambda loop: None  # it keeps nobody
                made.start(loop)
            await caller
            del caller
            await idle(3)
            assert started == [0]
            assert (watched() is not None) == (kept or HAS_CALL_GRAPH)
            if end == "runs out":
                release.set()
                release.clear()
                while len(started) < 3:
                    await asyncio.sleep(0)
                    release.set()
                    release.clear()
                assert (watched() is not None) == (kept or HAS_CALL_GRAPH)
                release.set()
                await idle(6)
                assert started == [0, 1, 2, 3]
            else:
                if end == "is closed in slices":
                    seconds = iter(range(100))
                    impl._set_clock(lambda: float(next(seconds)))
                outers[0].cancel() if function == "gather" else outers[0].close()
                impl._set_clock(lambda: 0.0)
            assert watched() is None or HAS_CALL_GRAPH
            loop.set_task_factory(None)
            release.set()
            await idle(6)
            assert watched() is None
            if function == "gather":
                await asyncio.wait(outers)
                assert (outers[0].exception() is None) == (end == "runs out")
            outers.clear()

    gc.collect()
    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()


# ---- other loops and other Tasks ----


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop does not run there")
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("limit", [1, 2, None])
def test_the_caller_is_current_on_uvloop(impl, function, limit):
    uvloop = pytest.importorskip("uvloop")

    async def main():
        me = asyncio.current_task()
        with FactoryOfAnyArguments() as made:
            results = await functions(impl)[function](limit, [functools.partial(in_its_own_task, 2)] * 6)
            assert results == [True] * 6
            assert made.take() == [me] * 6
        await idle(2)
        assert set(made.in_callbacks) == {None}

    run(main, loop_factory=uvloop.new_event_loop)


WITH_A_FACTORY = """
import contextlib

async def item(turns=1):
    for _ in range(turns):
        await asyncio.sleep(0)
    return current_task()

async def gathers(impl):
    me, parents, callbacks = current_task(), [], []
    loop = asyncio.get_running_loop()

    def factory(loop, coroutine, **options):
        parents.append(current_task())
        loop.call_soon(lambda: callbacks.append(current_task(loop)))
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(factory)
    for limit in 1, 2, None:
        for call in (
            lambda: impl.gather_with_concurrency(limit, *(item() for _ in range(5))),
            lambda: impl.gather(*(item(2) for _ in range(5)), limit=limit),
            lambda: impl.run_all([item] * 5, limit=limit),
        ):
            tasks = await call()
            assert parents == [me] * 5, (me, parents)
            assert len(set(tasks)) == 5 or set(tasks) == {None}
            parents.clear()
            assert current_task() is me
    loop.set_task_factory(None)
    await asyncio.sleep(0)
    assert set(callbacks) == {None}
    return me
"""


def test_the_caller_is_current_under_nest_asyncio(impl):
    pytest.importorskip("nest_asyncio")
    check_script(
        impl,
        WITH_A_FACTORY
        + """
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nest_asyncio

current_task = asyncio.current_task

async def main():
    await gathers(impl)
    # A loop that runs inside of a step of it, in the factory's Tasks and out of them.
    async def nests():
        return asyncio.get_event_loop().run_until_complete(gathers(impl))
    assert len(set(await impl.gather_with_concurrency(1, nests(), nests()))) == (2 if tasks_are_known else 1)
    me = current_task()
    asyncio.get_event_loop().run_until_complete(gathers(impl))
    assert current_task() is me

nest_asyncio.apply()
loop = asyncio.new_event_loop()
nest_asyncio.apply(loop)
asyncio.set_event_loop(loop)
tasks_are_known = sys.version_info < (3, 14)
loop.run_until_complete(main())
loop.close()
print("ok")
""",
        warnings_are_errors=False,
        environment={"PYTHONWARNINGS": "ignore::ResourceWarning,ignore::DeprecationWarning"},
    )


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.tasks._py_current_task is new in 3.12")
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_caller_is_current_where_python_tasks_and_their_functions_are_put_in_place(impl, when):
    check_script(
        impl,
        WITH_A_FACTORY
        + f"""
name = impl.__name__
if {when == "before"}:
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "gatedcoro"]:
        del sys.modules[loaded]
tasks = asyncio.tasks
asyncio.Task = tasks.Task = tasks._PyTask
for name_of in "current_task", "_enter_task", "_leave_task", "_swap_current_task", "_register_task", "_unregister_task":
    setattr(tasks, name_of, getattr(tasks, f"_py_{{name_of.lstrip('_')}}"))
current_task = asyncio.current_task = tasks._py_current_task
impl = importlib.import_module(name)
assert asyncio.run(gathers(impl)) is not None
print("ok")
""",
    )


def test_the_caller_is_current_where_asyncio_is_python_all_through():
    """As on PyPy, where there is the reference only."""
    import gatedcoro._reference

    check_script(
        gatedcoro._reference,
        """
        sys.modules["_asyncio"] = None
        for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] in ("asyncio", "gatedcoro")]:
            del sys.modules[loaded]
        import asyncio
        assert asyncio.Task.__module__ == "asyncio.tasks"
        """
        + WITH_A_FACTORY.replace("\n", "\n        ")
        + """
        current_task = asyncio.current_task
        impl = importlib.import_module("gatedcoro._reference")
        assert asyncio.run(gathers(impl)) is not None
        print("ok")
        """,
    )


@pytest.mark.skipif(not HAS_CALL_GRAPH, reason="the call graph is new in 3.14")
def test_a_call_without_items_that_fails_while_it_begins(impl):
    """In a process of its own: an engine's assertion says that it keeps the caller."""
    if not impl.__name__.endswith("_core"):
        pytest.skip("the reference asks the function that it took when it was imported")
    check_script(
        impl,
        """
        def fails():
            raise MemoryError("current_task")

        async def main():
            asyncio.get_running_loop().set_task_factory(lambda loop, coro, **options: asyncio.Task(coro, loop=loop))
            stock, asyncio.tasks.current_task = asyncio.tasks.current_task, fails
            try:
                await impl.gather_with_concurrency(2)
            except MemoryError as error:
                assert error.args == ("current_task",)
            else:
                raise AssertionError
            finally:
                asyncio.tasks.current_task = stock
            assert await impl.gather_with_concurrency(2) == []

        asyncio.run(main())
        print("ok")
        """,
    )
