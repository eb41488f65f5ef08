"""A Task that waits for its next item keeps how its own ended, and shows that to everybody.

An item that had suspended has ended; what follows starts in the pass of the next turn. In the C the item's Task may wait for that, to
be used again. Whoever takes, watches, cancels or steps it meanwhile, or does anything else to it, has a Task that ends as the
item did, and the items that follow see nothing of it. The same holds for a Task that its item gave away, which does not wait.
"""

import asyncio
import contextvars
import gc
import inspect
import itertools
import sys
import threading
import weakref

import pytest

from contract_tools import HAS_CALL_GRAPH, Trace, idle, is_closed, item, run
from implementations import FREE_THREADED, reuses_tasks
from virtual_time import VirtualTimeLoop, run_in_virtual_time

pytestmark = pytest.mark.usefixtures("full_turns")  # else no Task waits at first

VARIABLE = contextvars.ContextVar("VARIABLE", default="the caller's")


class Ended(Exception):
    pass


def outcome_of(task):
    if task.cancelled():
        return "cancelled"
    return repr(task.exception()) if task.exception() is not None else task.result()


def looks(task):
    """What a Task shows; the same for each new Task."""
    fields = ("_cancel_message", "_callbacks", "_must_cancel", "_log_traceback", "_state", "_asyncio_future_blocking")
    fields += ("_fut_waiter", "_source_traceback")
    listed = task in asyncio.all_tasks()
    return [getattr(task, field) for field in fields], hasattr(task, "mark"), listed, task.done(), task.cancelling()


class Awaitable:
    """No coroutine: the Task's get_coro() is what drives it."""

    def __init__(self, coroutine):
        self.coroutine = coroutine

    def __await__(self):
        return self.coroutine.__await__()


class Scene:
    """a and b end in one turn; in the next one what *meddle* does comes first, then the pass, in which c and d start.

    `ended` has what a and b came to, by the names of their Tasks.
    """

    turns = ["", "+a +b", "-a -b", "+c +d", "", "-c -d"]

    def __init__(self, impl, meddle, *, raises=False, gives=False, in_pass=False, wrap=lambda coroutine: coroutine):
        self.impl = impl
        self.meddle = meddle
        self.raises = raises
        self.gives = gives
        self.in_pass = in_pass
        self.wrap = wrap
        self.trace = Trace()
        self.ended = {}
        self.given = []
        self.met = []
        self.looked = []

    def waiting(self):
        """The Tasks of a and b, those that there are."""
        return [task for task in self.tasks() if task.get_name() in self.ended]

    def tasks(self):
        return self.given or asyncio.all_tasks()

    async def ends(self, name):
        self.trace(f"+{name}")
        VARIABLE.set(name)
        await asyncio.sleep(0)
        # Not in a variable, which the traceback of an error would hold.
        if self.gives:
            self.given.append(asyncio.current_task())
        self.ended[asyncio.current_task().get_name()] = repr(Ended(name)) if self.raises else name
        if name == "a" and not self.in_pass:
            asyncio.get_running_loop().call_soon(self.intervene)
        self.trace(f"-{name}")
        if self.raises:
            raise Ended(name)
        return name

    async def follows(self, name):
        self.trace(f"+{name}")
        if name == "c" and self.in_pass:
            self.intervene()
        self.looked.append((VARIABLE.get(), looks(asyncio.current_task())))
        assert asyncio.current_task() not in self.met
        await idle(2)
        self.trace(f"-{name}")
        self.looked.append((VARIABLE.get(), looks(asyncio.current_task())))
        return name

    def intervene(self):
        tasks = self.waiting()
        self.number = len(tasks)
        for task in tasks:
            # Not to keep it is the business of what meddles.
            self.meddle(self, task)
        del tasks
        if not self.in_pass:
            asyncio.get_running_loop().call_soon(self.after_the_pass)

    def keep(self, task):
        self.met.append(task)

    def after_the_pass(self):
        assert all(task.done() for task in self.met)

    async def run(self):
        self.trace.start()
        items = [self.wrap(coroutine) for coroutine in [*map(self.ends, "ab"), *map(self.follows, "cd")]]
        results = await self.impl.gather(*items, limit=2, return_exceptions=True)
        self.trace.stop()
        await idle(2)
        assert [*map(str, results)] == [*"abcd"]
        assert self.trace.turns == self.turns
        assert self.looked == [("the caller's", self.looked[0][1])] * 4
        assert [outcome_of(task) for task in self.met] == [self.ended[task.get_name()] for task in self.met]


def check(impl, meddle, *, gives, in_pass, **options):
    """Run the scene; the Tasks are those that the items gave away, or that are found among all Tasks, if any wait."""
    scene = Scene(impl, meddle, gives=gives, in_pass=in_pass, **options)
    if not gives and not reuses_tasks_here(impl):
        pytest.skip("Tasks are not reused here")
    run(scene.run, loop_factory=VirtualTimeLoop)  # in which nothing hangs
    assert scene.number == (1 if in_pass and not gives else 2)
    return scene


def reuses_tasks_here(impl):
    in_c = impl.__name__.endswith("_core")
    return in_c and reuses_tasks(impl) and not FREE_THREADED


takings = pytest.mark.parametrize(
    "gives, in_pass",
    [
        pytest.param(False, False, id="found before the pass"),
        pytest.param(False, True, id="found in the pass"),
        pytest.param(True, False, id="given away, before the pass"),
        pytest.param(True, True, id="given away, in the pass"),
    ],
)
endings = pytest.mark.parametrize("raises", [False, True], ids=["returns", "raises"])


# --- What may be done to it ---------------------------------------------------------------------------------------


def takes(scene, task):
    scene.keep(task)


def does_nothing(scene, task):
    """It has been looked at, and let go."""


def cancels(scene, task):
    assert task.cancel() is False and task.cancel("with a message") is False
    assert task.cancelling() == 0
    scene.keep(task)


def cancels_and_lets_go(scene, task):
    assert task.cancel() is False


def cancels_around_its_class(scene, task):
    asyncio.Task.cancel(task, "around the class")
    scene.keep(task)


def cancels_around_its_class_and_lets_go(scene, task):
    asyncio.Task.cancel(task)


def cancels_and_takes_back(scene, task):
    asyncio.Task.cancel(task)
    asyncio.Task.uncancel(task)
    scene.keep(task)


def cancels_what_is_around_it(scene, task):
    asyncio.shield(task).cancel()
    asyncio.gather(task, return_exceptions=True).cancel()
    asyncio.ensure_future(asyncio.wait([task])).cancel()
    scene.keep(task)


def takes_cancellations_back(scene, task):
    assert task.cancelling() == 0 and task.uncancel() == 0
    scene.keep(task)


def renames(scene, task):
    before = task.get_name()
    task.set_name(f"renamed {before}")
    scene.ended[task.get_name()] = scene.ended[before]
    scene.keep(task)


def marks(scene, task):
    task.mark = "a mark"


def marks_around_its_class(scene, task):
    object.__setattr__(task, "mark", "a mark")


def adds_and_removes_a_callback(scene, task):
    task.add_done_callback(id)
    task.remove_done_callback(id)
    scene.keep(task)


def changes_its_fields(scene, task):
    task._log_destroy_pending = True
    task._asyncio_future_blocking = True
    scene.keep(task)


def takes_its_future(scene, task):
    scene.futures = [*getattr(scene, "futures", []), task._fut_waiter]
    scene.keep(task)


def of_its_future(method, *arguments):
    def calls(scene, task):
        if task._fut_waiter is not None:
            getattr(task._fut_waiter, method)(*arguments)
        scene.keep(task)

    calls.__name__ = f"calls_{method}_of_its_future"
    return calls


def of_its_future_and_lets_go(method, *arguments):
    def calls(scene, task):
        if task._fut_waiter is not None:
            getattr(task._fut_waiter, method)(*arguments)

    calls.__name__ = f"calls_{method}_of_its_future_and_lets_go"
    return calls


def looks_it_up(scene, task):
    repr(task), task.get_stack(), task.done(), task.cancelled(), hash(task), task.get_loop()
    scene.keep(task)


def collects_garbage(scene, task):
    del task
    gc.collect()


def takes_it_out_of_the_register(scene, task):
    asyncio.tasks._unregister_task(task)
    scene.keep(task)


def becomes_the_current_task(scene, task):
    loop = task.get_loop()
    current = asyncio.current_task(loop)
    if current is not None:
        asyncio.tasks._leave_task(loop, current)
    asyncio.tasks._enter_task(loop, task)
    asyncio.tasks._leave_task(loop, task)
    if current is not None:
        asyncio.tasks._enter_task(loop, current)
    scene.keep(task)


MEDDLING = [
    takes,
    does_nothing,
    cancels,
    cancels_and_lets_go,
    cancels_around_its_class,
    cancels_around_its_class_and_lets_go,
    cancels_what_is_around_it,
    takes_cancellations_back,
    renames,
    marks,
    marks_around_its_class,
    adds_and_removes_a_callback,
    changes_its_fields,
    takes_its_future,
    of_its_future("cancel"),
    of_its_future("set_result", None),
    of_its_future("set_exception", ValueError),
    of_its_future("add_done_callback", id),
    of_its_future_and_lets_go("cancel"),
    of_its_future_and_lets_go("set_result", None),
    of_its_future_and_lets_go("set_exception", ValueError),
    of_its_future_and_lets_go("add_done_callback", id),
    looks_it_up,
    collects_garbage,
    takes_it_out_of_the_register,
    becomes_the_current_task,
]
if sys.version_info >= (3, 13):  # before, uncancel() does not take a cancellation back
    MEDDLING.append(cancels_and_takes_back)


@endings
@takings
@pytest.mark.parametrize("meddle", MEDDLING, ids=lambda meddle: meddle.__name__)
def test_it_ends_as_its_item_did_and_the_next_items_see_nothing(impl, meddle, gives, in_pass, raises):
    check(impl, meddle, gives=gives, in_pass=in_pass, raises=raises)


@endings
@takings
def test_who_watches_it_weakly_sees_no_other_item_in_it(impl, gives, in_pass, raises):
    watched = []

    def watches(scene, task):
        watched.append(weakref.ref(task))

    async def main():
        scene = Scene(impl, watches, gives=False, in_pass=in_pass, raises=raises)
        follows = scene.follows

        async def looks_first(name):
            assert asyncio.current_task() not in [ref() for ref in watched]
            result = await follows(name)
            assert asyncio.current_task() not in [ref() for ref in watched]
            return result

        scene.follows = looks_first
        if gives:
            ends = scene.ends

            async def is_watched(name):
                watched.append(weakref.ref(asyncio.current_task()))
                return await ends(name)

            scene.ends = is_watched
        await scene.run()

    run(main, loop_factory=VirtualTimeLoop)
    assert len(watched) == (2 if gives else 2 * reuses_tasks_here(impl) - (in_pass and reuses_tasks_here(impl)))


@endings
@takings
def test_callbacks_that_are_added_to_it_are_called_once_with_its_end(impl, gives, in_pass, raises):
    called = []

    def adds(scene, task):
        token = VARIABLE.set("the callback's")
        task.add_done_callback(
            lambda task: called.append((task.get_name(), outcome_of(task), VARIABLE.get(), asyncio.current_task()))
        )
        VARIABLE.reset(token)

    scene = check(impl, adds, gives=gives, in_pass=in_pass, raises=raises)
    expected = [(name, outcome, "the callback's", None) for name, outcome in scene.ended.items()]
    assert called == (expected if gives or not in_pass else expected[1:])


@endings
@takings
def test_who_awaits_it_gets_what_its_item_came_to(impl, gives, in_pass, raises):
    awaited = []

    async def awaits(task):
        awaited.append((task.get_name(), await asyncio.gather(task, return_exceptions=True)))

    def has_it_awaited(scene, task):
        scene.keep(asyncio.ensure_future(asyncio.wait_for(awaits(task), 5)))
        scene.met.clear()

    scene = check(impl, has_it_awaited, gives=gives, in_pass=in_pass, raises=raises)
    expected = [*scene.ended.items()][0 if gives or not in_pass else 1 :]
    got = [(name, repr(value) if raises else value) for name, [value] in sorted(awaited)]
    assert got == sorted(expected)


@endings
@takings
def test_it_shows_the_item_that_has_ended(impl, gives, in_pass, raises):
    shown = []

    def shows(scene, task):
        coroutine = task.get_coro()
        assert coroutine.__name__ == "ends" and is_closed(coroutine)
        assert coroutine.cr_frame is None and coroutine.cr_await is None and not coroutine.cr_running
        assert raises or task.get_stack() == []  # or those of the error's traceback
        assert "ends" in repr(task)
        assert asyncio.Task.get_coro(task) in (coroutine, asyncio.Task.get_coro(task))
        shown.append(scene.ended[task.get_name()])
        if sys.version_info >= (3, 12):
            assert task.get_context()[VARIABLE] in scene.ended[task.get_name()]

    scene = check(impl, shows, gives=gives, in_pass=in_pass, raises=raises)
    assert sorted(shown) == sorted([*scene.ended.values()][0 if gives or not in_pass else 1 :])


@endings
@takings
@pytest.mark.parametrize("what", ["coroutine", "awaitable"])
@pytest.mark.parametrize("step", ["send", "throw", "close", "next"])
def test_what_it_drove_is_over_to_those_who_step_it_by_hand(impl, gives, in_pass, raises, what, step):
    def steps(scene, task):
        scene.keep(task)
        coroutine = task.get_coro()
        if step == "close":
            assert coroutine.close() is None
        elif step == "throw":
            with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
                coroutine.throw(KeyError)
        elif what == "awaitable" or step == "send":
            with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
                coroutine.send(None) if step == "send" else next(coroutine)
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
        assert coroutine.cr_await is None and not coroutine.cr_running

    wrap = Awaitable if what == "awaitable" else lambda coroutine: coroutine
    check(impl, steps, gives=gives, in_pass=in_pass, raises=raises, wrap=wrap)


def settles(task):
    asyncio.Future.set_result(task, "settled by itself")


def fails(task):
    asyncio.Future.set_exception(task, KeyError("settled by itself"))


@takings
@pytest.mark.skipif(hasattr(sys, "gettotalrefcount"), reason="asyncio itself asserts that nobody does this")
@pytest.mark.parametrize("breaks", [settles, fails, asyncio.Future.cancel])
def test_if_somebody_breaks_it_the_next_items_see_nothing_of_it(impl, breaks, gives, in_pass):
    def meddle(scene, task):
        try:
            breaks(task)
        except asyncio.InvalidStateError:
            assert gives

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        await Scene(impl, meddle, gives=gives, in_pass=in_pass).run()

    if not gives and not reuses_tasks_here(impl):
        pytest.skip("Tasks are not reused here")
    with asyncio.Runner() as runner:
        runner.run(main())


def test_who_takes_it_from_another_thread_has_a_task_that_ends_as_its_item_did(impl):
    """A profiler, say."""

    def is_taken_by_a_thread(scene, task):
        thread = threading.Thread(target=scene.keep, args=(task,))
        thread.start()
        thread.join()

    for in_pass in (False, True):
        check(impl, is_taken_by_a_thread, gives=not reuses_tasks_here(impl), in_pass=in_pass)


@pytest.mark.skipif(not HAS_CALL_GRAPH, reason="the call graph is new in 3.14")
@takings
def test_in_the_call_graph_nobody_awaits_it_when_the_call_is_over(impl, gives, in_pass):
    scene = check(impl, takes, gives=gives, in_pass=in_pass)
    assert [task._asyncio_awaited_by for task in scene.met] == [None] * len(scene.met)


@pytest.mark.skipif(not HAS_CALL_GRAPH, reason="the call graph is new in 3.14")
def test_in_the_call_graph_nobody_awaits_it_once_the_call_has_ended_with_an_error(impl):
    """In the same turn, and before the pass: the queue goes on."""

    async def main():
        names, before, after = [], [], []

        def awaiters():
            return [task._asyncio_awaited_by for task in asyncio.all_tasks() if task.get_name() in names]

        async def ends():
            await asyncio.sleep(0)
            if not names:
                asyncio.get_running_loop().call_soon(lambda: after.extend(awaiters()))
            names.append(asyncio.current_task().get_name())

        async def fails():
            await asyncio.sleep(0)
            before.extend(awaiters())
            raise Ended

        with pytest.raises(Ended):
            await impl.gather(ends(), ends(), fails(), idle(1), idle(1), limit=3)
        await idle(4)
        assert before == [{asyncio.current_task()}] * expected_waiting(impl)
        assert after == [None] * expected_waiting(impl)

    run(main)


# --- The end of the queue ------------------------------------------------------------------------------------------


async def waits(started, name):
    started.append(name)
    await asyncio.get_running_loop().create_future()


def is_keeper(task):
    return "_Keeper" in (type(task).__name__, type(task.get_coro()).__name__)


class Call:
    """a and b end in one turn, c runs on, d and e are queued; before the pass `meddle` is called, or the loop stops."""

    def __init__(self, impl, meddle=None, *, how="gather", third_waits=True):
        self.names = {}
        self.started = []
        self.meddle = meddle
        self.stops = meddle is None
        items = [self.ends("a"), self.ends("b"), waits(self.started, "c") if third_waits else self.ends("c")]
        self.queued = [waits(self.started, "d"), waits(self.started, "e")]
        if how == "gather":
            self.call = impl.gather(*items, *self.queued, limit=3)
        else:
            self.call = impl.gather_with_concurrency(3, *items, *self.queued)

    async def ends(self, name):
        self.started.append(name)
        await asyncio.sleep(0)
        self.names[name] = asyncio.current_task().get_name()
        if name == "a" and self.stops:
            asyncio.get_running_loop().stop()  # the pass is in the next turn
        elif name == "a":
            asyncio.get_running_loop().call_soon(self.meddle, self)

    def waiting(self):
        return [task for task in asyncio.all_tasks() if task.get_name() in self.names.values()]

    def check_that_nothing_started(self):
        assert self.started == [*"abc"]
        assert all(map(is_closed, self.queued))


def expected_waiting(impl):
    return 2 if reuses_tasks_here(impl) else 0


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("how", ["gather", "gather_with_concurrency", "the keeper"])
def test_a_cancelled_call_ends_it_in_the_same_step(impl, how, keeps):
    met = []

    def cancels(call):
        tasks = call.waiting()
        assert len(tasks) == expected_waiting(impl)
        if keeps:
            met.extend(tasks)
        del tasks
        if how == "the keeper":
            (keeper,) = filter(is_keeper, asyncio.all_tasks())
            keeper.cancel()
        else:
            caller.cancel()
        assert not call.waiting()
        assert [outcome_of(task) for task in met] == [None] * len(met)
        caller.cancel()

    async def main():
        nonlocal caller
        call = Call(impl, cancels, how="gather_with_concurrency" if how == "gather_with_concurrency" else "gather")
        caller = asyncio.ensure_future(call.call)
        with pytest.raises(asyncio.CancelledError):
            await caller
        call.check_that_nothing_started()

    caller = None
    run(main, loop_factory=VirtualTimeLoop)


@pytest.mark.parametrize("how", ["cancels the caller", "raises"])
def test_an_item_that_ends_the_call_ends_it_in_the_same_step(impl, how):
    """In the middle of that item's step, with its Task the current one."""
    met = []

    async def main():
        async def ends_the_call():
            await asyncio.sleep(0)
            met.extend(call.waiting())
            assert len(met) == expected_waiting(impl)
            if how == "raises":
                asyncio.get_running_loop().call_soon(checks)  # before the pass, if there is one
                raise Ended
            mine = asyncio.current_task()
            caller.cancel()
            assert asyncio.current_task() is mine
            checks()

        def checks():
            assert not call.waiting()
            assert [outcome_of(task) for task in met] == [None] * len(met)

        call = Call.__new__(Call)
        call.names, call.started, call.meddle, call.stops = {}, [], id, False
        call.queued = [waits(call.started, "d"), waits(call.started, "e")]
        caller = impl.gather(
            call.ends("a"), call.ends("b"), ends_the_call(), *call.queued, limit=3, cancel_on_error=True
        )
        with pytest.raises(Ended if how == "raises" else asyncio.CancelledError):
            await caller
        assert call.started == [*"ab"]
        assert all(map(is_closed, call.queued))

    run(main, loop_factory=VirtualTimeLoop)


@pytest.mark.parametrize("order", [*itertools.permutations(range(4))])
@pytest.mark.parametrize("how", ["gather", "gather_with_concurrency"])
def test_a_loop_that_is_torn_down_meanwhile_neither_hangs_nor_starts_anything(impl, how, order):
    """As asyncio.run() does it: every Task is cancelled, in whatever order, and then awaited."""
    reports = []

    async def main():
        nonlocal call
        call = Call(impl, how=how)
        await call.call

    call = None
    loop = VirtualTimeLoop()
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    main_task = loop.create_task(main())
    loop.run_forever()
    tasks = sorted(asyncio.all_tasks(loop), key=asyncio.Task.get_name)
    assert len(tasks) >= 2 + expected_waiting(impl)
    for number in order:
        for task in tasks[number::4]:
            task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    call.check_that_nothing_started()
    assert not asyncio.all_tasks(loop)
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    del tasks, task, call, main_task
    gc.collect()
    assert reports == []


def test_a_loop_that_stops_meanwhile_goes_on_when_it_is_run_again(impl):
    async def main():
        trace.start()
        results = await impl.gather_with_concurrency(2, *(item(trace, name) for name in "abcd"))
        trace.stop()
        return results

    trace = Trace()
    loop = VirtualTimeLoop()
    main_task = loop.create_task(main())
    while not main_task.done():
        loop.call_soon(loop.stop)
        loop.run_forever()
        gc.collect()
    assert main_task.result() == [*"abcd"]
    assert trace.turns == ["", "+a +b", "-a -b", "+c +d", "-c -d"]
    loop.close()


@pytest.mark.parametrize("what_goes_first", ["the loop", "the call", "a Task"])
def test_a_loop_that_is_closed_meanwhile_takes_it_along_quietly(impl, what_goes_first):
    reports = []

    async def main():
        nonlocal call
        call = Call(impl, third_waits=False)
        await call.call

    call = None
    loop = VirtualTimeLoop()
    loop.set_exception_handler(lambda loop, context: reports.append(context["message"]))
    main_task = loop.create_task(main())
    main_task._log_destroy_pending = False
    loop.run_forever()
    tasks = [task for task in asyncio.all_tasks(loop) if task is not main_task]
    if what_goes_first == "a Task":
        loop.close()
        del tasks[0]
        gc.collect()
    loop.close()
    queued = call.queued
    started = call.started
    if what_goes_first == "the call":
        del call, main_task
        gc.collect()
        del tasks, loop
    else:
        del tasks, loop
        gc.collect()
        del call, main_task
    gc.collect()
    assert started == [*"abc"]
    assert all(map(is_closed, queued))
    assert reports == []


def test_if_a_slice_is_over_before_there_is_an_item_for_it_it_waits_for_the_next_pass(impl):
    now = 0.0
    impl._set_clock(lambda: now)

    async def main():
        trace = Trace()
        numbers = []

        async def takes_half_a_slice(name):
            nonlocal now
            now += 0.0006
            trace(f"+{name}")
            numbers.append(len(asyncio.all_tasks()) - 1)
            await idle(9)

        trace.start()
        await impl.gather_with_concurrency(4, *(item(trace, name) for name in "abcd"), *map(takes_half_a_slice, "efgh"))
        trace.stop()
        assert trace.turns == ["", "+a +b +c +d", "-a -b -c -d", "+e +f", "+g +h"]
        return numbers

    # Four that wait, one by one, go on with an item; or a Task is made for each.
    assert run(main) == ([4] * 4 if reuses_tasks_here(impl) else [1, 2, 3, 4])


def test_the_call_goes_on_if_the_collector_runs_meanwhile_and_nobody_holds_it(impl):
    ended = []

    async def last():
        ended.append("last")

    async def main():
        async def ends(name):
            await asyncio.sleep(0)
            if name == "a":
                asyncio.get_running_loop().call_soon(gc.collect)

        impl.gather(ends("a"), ends("b"), last(), last(), limit=2)
        await idle(6)
        assert ended == ["last"] * 2

    run_in_virtual_time(main())


def test_an_object_that_an_item_left_in_its_context_or_returned_goes_before_the_next_starts_in_its_slot(impl):
    class Thing:
        pass

    async def main():
        alive = weakref.WeakSet()

        async def leaves_things(name):
            await asyncio.sleep(0)
            thing = Thing()
            alive.add(thing)
            VARIABLE.set(thing)

        async def looks_around():
            return len(alive)

        counts = await impl.gather_with_concurrency(2, *map(leaves_things, "ab"), *(looks_around() for _ in range(2)))
        # A Task that waits has them until it goes on or ends, in the pass.
        assert counts[2:] in ([0, 0], [1, 0], [1, 1])

    run(main, loop_factory=VirtualTimeLoop)
