"""A Task that is reused shows nothing of the items that it ran before, by whatever way it was told.

See Task reuse in docs/architecture.md.
"""

import asyncio
import contextvars
import ctypes
import os
import sys
import weakref

import pytest

from contract_tools import HAS_CALL_GRAPH, idle, run
from implementations import FREE_THREADED

pytestmark = pytest.mark.usefixtures("any_turns")

VARIABLE = contextvars.ContextVar("VARIABLE", default=None)
REGISTRY = getattr(asyncio.tasks, "_all_tasks" if sys.version_info < (3, 12) else "_scheduled_tasks")
NOTHING_RUNS_AT_REGISTRATION = sys.version_info >= (3, 14)  # it is a list in C


def reuses_tasks(impl):
    """Whether this implementation reuses Tasks here; leaves it as it is."""
    wanted = impl._set_task_reuse(True)
    impl._set_task_reuse(wanted)
    return (
        wanted
        and impl.__name__.endswith("_core")
        and not FREE_THREADED
        and os.environ.get("GATEDCORO_TASK_REUSE") != "0"
    )


# --- Where nothing can be seen, Tasks are reused -----------------------------------------------------------------


async def returns():
    return id(asyncio.current_task())


async def waits_a_turn():
    await asyncio.sleep(0)
    return id(asyncio.current_task())


async def waits_for_a_future():
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, None)
    await future
    return id(asyncio.current_task())


async def survives_an_error():
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_exception, ValueError())
    try:
        await future
    except ValueError:
        pass
    return id(asyncio.current_task())


async def fails():
    raise LookupError(id(asyncio.current_task()))


async def fails_later():
    await asyncio.sleep(0)
    raise LookupError(id(asyncio.current_task()))


async def looks_at_its_task():
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task in asyncio.all_tasks() and not task.done() and not hasattr(task, "mark")
    assert task.get_name() and repr(task) and task.get_stack() and not task.cancelling()
    return id(task)


UNSEEN = [returns, waits_a_turn, waits_for_a_future, survives_an_error, fails, fails_later, looks_at_its_task]


@pytest.mark.parametrize("first", [None, *UNSEEN])
@pytest.mark.parametrize("item", UNSEEN)
def test_items_that_leave_nothing_behind_share_a_task(impl, item, first):
    if not reuses_tasks(impl):
        pytest.skip("Tasks are not reused here")

    async def main():
        items = [item() for _ in range(8)] if first is None else [first(), *(item() for _ in range(7))]
        return await impl.gather(*items, limit=1, return_exceptions=True)

    # Without reuse the next Task is made before the one that ends is freed: they cannot all be at one address.
    assert len({result.args[0] if isinstance(result, LookupError) else result for result in run(main)}) == 1


@pytest.mark.parametrize("item", UNSEEN)
@pytest.mark.parametrize("limit", [2, 3])
def test_so_do_items_that_run_side_by_side(impl, item, limit):
    """A Task that waits for its next item keeps its address."""
    if not reuses_tasks(impl):
        pytest.skip("Tasks are not reused here")

    async def main():
        return await impl.gather(*[item() for _ in range(4 * limit)], limit=limit, return_exceptions=True)

    addresses = {result.args[0] if isinstance(result, LookupError) else result for result in run(main)}
    assert len(addresses) <= limit


# --- What can be done to a Task ----------------------------------------------------------------------------------


def set_attribute_from_c(task, name, value):
    set_attribute = ctypes.pythonapi.PyObject_GenericSetAttr
    set_attribute.argtypes = [ctypes.py_object] * 3
    assert set_attribute(task, name, value) == 0


def set_and_delete(task):
    object.__setattr__(task, "mark", 1)
    object.__delattr__(task, "mark")


def cancel_and_take_back(task, *message):
    asyncio.Task.cancel(task, *message)
    asyncio.Task.uncancel(task)


def take_out_of_the_register(task):
    asyncio.tasks._unregister_task(task)
    if hasattr(asyncio.tasks, "_unregister_eager_task"):
        asyncio.tasks._unregister_eager_task(task)


KEPT = []


def take_out_and_keep(task):
    take_out_of_the_register(task)
    KEPT.append(task)


def take_out_and_watch(task):
    take_out_of_the_register(task)
    KEPT.append(weakref.ref(task))


def take_out_and_keep_what_asyncio_watched_with(task):
    KEPT.extend(weakref.getweakrefs(task))
    take_out_of_the_register(task)


TRACES = {
    "setattr": lambda task: setattr(task, "mark", 1),
    "object.__setattr__": lambda task: object.__setattr__(task, "mark", 1),
    "object.__setattr__, many": lambda task: [object.__setattr__(task, f"mark{i}", 1) for i in range(99)],
    "object.__setattr__ and __delattr__": set_and_delete,
    "PyObject_GenericSetAttr": lambda task: set_attribute_from_c(task, "mark", 1),
    "Task.cancel and uncancel, with a message": lambda task: cancel_and_take_back(task, "message"),
    "Task.cancel and uncancel": cancel_and_take_back,
    "Task.set_name": lambda task: asyncio.Task.set_name(task, "mine"),
    "Task.set_name, and back": lambda task: asyncio.Task.set_name(task, str(asyncio.Task.get_name(task))),
    "Future.add_done_callback": lambda task: asyncio.Future.add_done_callback(task, id),
    "_cancel_message": lambda task: object.__setattr__(task, "_cancel_message", "message"),
    "_log_destroy_pending": lambda task: object.__setattr__(task, "_log_destroy_pending", True),
    "_asyncio_future_blocking": lambda task: object.__setattr__(task, "_asyncio_future_blocking", True),
    "_unregister_task": take_out_of_the_register,
    "_unregister_task, and the Task kept": take_out_and_keep,
    "_unregister_task, and the Task watched": take_out_and_watch,
    "_unregister_task, and asyncio's weak references kept": take_out_and_keep_what_asyncio_watched_with,
    "asyncio's weak references kept": lambda task: KEPT.extend(weakref.getweakrefs(task)),
}
if HAS_CALL_GRAPH:
    TRACES["awaited by somebody else"] = lambda task: asyncio.future_add_to_awaited_by(task, asyncio.Future())
    TRACES["not awaited by the caller"] = lambda task: [
        asyncio.future_discard_from_awaited_by(task, awaiter) for awaiter in task._asyncio_awaited_by
    ]


def looks(task):
    """What a Task shows to those who ask around our class, too; the same for each new Task."""
    fields = ("_cancel_message", "_callbacks", "_must_cancel", "_log_traceback", "_log_destroy_pending")
    fields += ("_asyncio_future_blocking", "_fut_waiter", "_source_traceback", "_state", "_loop")
    fields += ("_asyncio_awaited_by",) if HAS_CALL_GRAPH else ()
    marks = [name for name in ("mark", "mark0", "mark98") if hasattr(task, name)]
    current = asyncio.current_task() is task
    listed = task in asyncio.all_tasks()
    shown = [getattr(task, field) for field in fields]
    is_named = asyncio.Task.get_name(task) == "mine" or task.get_name() == "mine"
    return shown, marks, current, listed, task.cancelling(), is_named, weakref.getweakrefcount(task)


@pytest.fixture
def kept():
    yield KEPT
    KEPT.clear()


def check_that_later_items_see_nothing(impl, trace, turns, limit):
    async def main():
        looked = []

        async def item(index):
            await idle(turns)
            task = asyncio.current_task()
            looked.append(looks(task))
            if index in (1, 3):
                TRACES[trace](task)

        # Up to 3.12 uncancel() does not take a cancellation back.
        await impl.gather(*map(item, range(6)), limit=limit(), return_exceptions=True)
        assert looked == looked[:1] * 6

    run(main)


@pytest.mark.parametrize("turns", [0, 1, 2])
@pytest.mark.parametrize("trace", TRACES)
def test_what_was_done_to_a_task_the_next_items_do_not_see(impl, kept, trace, turns):
    check_that_later_items_see_nothing(impl, trace, turns, lambda: 1)


@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize("trace", TRACES)
def test_nor_do_they_where_items_have_a_gate(impl, kept, trace, turns):
    check_that_later_items_see_nothing(impl, trace, turns, lambda: asyncio.Semaphore(1))


@pytest.mark.parametrize("turns", [1, 2])
@pytest.mark.parametrize("trace", TRACES)
def test_nor_do_they_where_tasks_wait_for_them(impl, kept, trace, turns):
    check_that_later_items_see_nothing(impl, trace, turns, lambda: 2)


def settle(task):
    asyncio.Future.set_result(task, "settled by itself")


def leave(task):
    asyncio.tasks._leave_task(asyncio.get_running_loop(), task)
    KEPT.append(task)


def swap(task):
    if sys.version_info < (3, 12):
        leave(task)
    else:
        KEPT.append(asyncio.tasks._swap_current_task(asyncio.get_running_loop(), None))


@pytest.mark.skipif(hasattr(sys, "gettotalrefcount"), reason="asyncio itself asserts that nobody does this")
@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize("breaks", [settle, asyncio.Future.cancel, leave, swap])
def test_a_task_that_was_broken_by_its_item_breaks_no_other_item(impl, kept, breaks, turns):
    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)

        async def item(index):
            seen = []
            for turn in range(turns + 1):
                await idle(turn)
                task = asyncio.current_task()
                seen.append(task in asyncio.all_tasks() and not task.done())
            if index == 1:
                breaks(task)
            return seen

        assert await impl.gather_with_concurrency(1, *map(item, range(4))) == [[True] * (turns + 1)] * 4

    with asyncio.Runner() as runner:
        runner.run(main())


@pytest.mark.parametrize("turns", [0, 1])
def test_the_coroutine_that_a_task_gave_away_stays_this_item_s(impl, kept, turns):
    class Awaitable:
        """No coroutine: the Task answers with what drives it."""

        def __init__(self, gives):
            self.gives = gives

        def __await__(self):
            yield from idle(turns).__await__()
            if self.gives:
                KEPT.append(self.gives(asyncio.current_task()))
            return id(asyncio.current_task())

    ways = [
        lambda task: task.get_coro(),
        asyncio.Task.get_coro,
        lambda task: weakref.ref(asyncio.Task.get_coro(task)),
        lambda task: task._coro,
    ]

    async def main():
        for way in ways:
            later = asyncio.get_running_loop().create_future()

            async def waits():
                return await later

            call = asyncio.ensure_future(impl.gather_with_concurrency(1, Awaitable(None), Awaitable(way), waits()))
            await idle(8)
            given = KEPT.pop()
            given = given() if isinstance(given, weakref.ref) else given
            if given is not None:
                assert not given.cr_running and not given.cr_suspended
                assert given.close() is None
            later.set_result("still there")
            assert (await call)[-1] == "still there"

    run(main)


@pytest.mark.parametrize("turns", [0, 1])
def test_a_callback_that_was_added_around_the_class_sees_how_the_item_ended(impl, turns):
    async def main():
        seen = []

        async def item(index):
            await idle(turns)
            asyncio.Task.add_done_callback(asyncio.current_task(), seen.append)
            if index % 2:
                raise LookupError(index)
            return index

        await impl.gather(*map(item, range(5)), limit=1, return_exceptions=True)
        await idle(2)
        assert [task.exception().args[0] if task.exception() else task.result() for task in seen] == [*range(5)]

    run(main)


@pytest.mark.parametrize("turns", [0, 1])
def test_a_task_that_was_unregistered_and_kept_ends_as_its_item_did(impl, kept, turns):
    async def main():
        async def item(index):
            await idle(turns)
            take_out_and_keep(asyncio.current_task())
            if index % 2:
                raise LookupError(index)
            return index

        await impl.gather(*map(item, range(5)), limit=1, return_exceptions=True)
        await idle(2)
        assert [task.exception().args[0] if task.exception() else task.result() for task in KEPT] == [*range(5)]

    run(main)


def do_nothing(task):
    pass


@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize(
    "does", [do_nothing, TRACES["object.__setattr__"], TRACES["Task.set_name"], TRACES["_unregister_task"], KEPT.append]
)
@pytest.mark.parametrize("where", ["what it returns", "its error", "its context"])
def test_what_an_item_leaves_may_touch_the_task_when_it_goes(impl, kept, where, does, turns):
    if where == "its context" and not reuses_tasks(impl):
        pytest.skip("it goes with its Task, in a later item's")

    class Leftover(Exception):
        def __del__(self):
            if asyncio.current_task() is not main_task:
                does(asyncio.current_task())

    async def main():
        nonlocal main_task
        main_task = asyncio.current_task()
        looked = []

        async def item(index):
            await idle(turns)
            looked.append(looks(asyncio.current_task()))
            if where == "its context":
                VARIABLE.set(Leftover())
            elif where == "its error":
                raise Leftover
            else:
                return Leftover()

        # Nothing but the call keeps the results: an error is dropped as soon as the first one is known.
        await asyncio.wait({asyncio.ensure_future(impl.gather(*map(item, range(6)), limit=1, return_exceptions=True))})
        assert looked == looked[:1] * 6

    main_task = None
    run(main)


@pytest.mark.parametrize("turns", [0, 1])
def test_what_goes_with_an_item_s_context_may_cancel_the_call(impl, turns):
    class Cancels:
        def __del__(self):
            call.cancel()

    call = None

    async def main():
        nonlocal call
        begun = []

        async def item(index):
            begun.append(index)
            await idle(turns)
            VARIABLE.set(Cancels() if index == 1 else None)

        call = asyncio.ensure_future(impl.gather_with_concurrency(1, *map(item, range(5))))
        with pytest.raises(asyncio.CancelledError):
            await call
        return begun

    begun = run(main)
    if reuses_tasks(impl):
        assert begun == [0, 1]  # else the next one may begin before the Task is freed
    assert begun in ([0, 1], [0, 1, 2])


@pytest.mark.parametrize("waits", ["for a turn", "for a future"])
@pytest.mark.parametrize("holds", [False, True])
def test_who_steps_what_a_task_drives_by_hand_does_not_become_the_next_item_s_task(impl, holds, waits):
    given = []

    class Awaitable:
        """No coroutine: the Task answers with what drives it."""

        def __await__(self):
            given.append(asyncio.current_task())
            try:
                if waits == "for a turn":
                    yield
                else:
                    yield from asyncio.get_running_loop().create_future()
            except LookupError:
                pass
            return "stepped by hand"

    def step():
        task = given.pop()
        driver = asyncio.Task.get_coro(task)
        if not holds:
            del task
        with pytest.raises(StopIteration) as stopped:
            if waits == "for a turn":
                driver.send(None)
            else:
                driver.throw(LookupError())
        assert stopped.value.value == "stepped by hand"

    async def main():
        async def following():
            assert asyncio.current_task() is not stepper
            await asyncio.sleep(0)
            return "in a Task of its own"

        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: None
        )  # the Task finds what it drives ended
        stepper = asyncio.current_task()
        call = asyncio.ensure_future(impl.gather_with_concurrency(1, Awaitable(), following()))
        while not given:
            await idle(1)
        step()
        assert await call == ["stepped by hand", "in a Task of its own"]

    run(main)


def test_a_name_that_was_given_around_the_class_is_the_item_s(impl):
    async def main():
        async def item(index):
            await asyncio.sleep(0)
            before = asyncio.current_task().get_name()
            if index == 1:
                asyncio.Task.set_name(asyncio.current_task(), "mine")
            return before, asyncio.current_task().get_name()

        names = await impl.gather_with_concurrency(1, *map(item, range(4)))
        assert names[1][1] == "mine"
        assert len({before for before, _ in names}) == 4

    run(main)


# --- Those who see a Task being registered -----------------------------------------------------------------------


@pytest.mark.skipif(NOTHING_RUNS_AT_REGISTRATION, reason="Tasks are registered in C: nothing can run in between")
@pytest.mark.parametrize("taken", ["each", "the first", "the third"])
@pytest.mark.parametrize("weakly", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2])
@pytest.mark.parametrize("n", [1, 2, None])
def test_a_task_that_is_taken_from_the_register_before_its_first_step_is_one_item_s_for_ever(
    impl, monkeypatch, n, turns, weakly, taken
):
    """As by another thread, a profiler's say, that calls all_tasks() at this moment."""
    add = REGISTRY.add
    registered = []
    held = []

    def hold(task):
        add(task)
        registered.append(None)
        if taken == "each" or len(registered) == {"the first": 1, "the third": 3}[taken]:
            held.append(weakref.ref(task) if weakly else lambda: task)

    async def main():
        names = {}
        seen = {}

        async def item(index):
            names[index] = asyncio.current_task().get_name()
            await idle(turns)
            for position, holder in enumerate(held):
                if holder() is asyncio.current_task():
                    seen.setdefault(position, []).append(index)
            return index

        coroutines = [item(index) for index in range(8)]
        with monkeypatch.context() as patch:
            patch.setattr(REGISTRY, "add", hold, raising=False)
            assert await impl.gather_with_concurrency(n, *coroutines) == list(range(8))
        await idle(2)
        assert all(len(indexes) == 1 for indexes in seen.values()), seen
        for task in filter(None, (holder() for holder in held)):
            (index,) = (index for index, name in names.items() if name == task.get_name())
            assert task.result() == index
            assert task.get_coro() in (coroutines[index], None)

    run(main)


@pytest.mark.skipif(NOTHING_RUNS_AT_REGISTRATION, reason="Tasks are registered in C: nothing can run in between")
@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize(
    "marks", [object.__setattr__, setattr, lambda task, name, value: asyncio.Task.set_name(task, "mine")]
)
def test_what_is_done_to_each_task_when_it_is_registered_is_done_for_each_item(impl, monkeypatch, marks, turns):
    add = REGISTRY.add
    registered = []

    def mark(task):
        marks(task, "mark", True)
        registered.append(weakref.ref(task))
        add(task)

    async def main():
        async def item():
            await idle(turns)
            return id(asyncio.current_task())

        with monkeypatch.context() as patch:
            patch.setattr(REGISTRY, "add", mark, raising=False)
            await impl.gather_with_concurrency(1, *(item() for _ in range(6)))

    run(main)
    # An eager Task that ends in its first step is never registered there (3.12+).
    assert len(registered) >= (6 if turns or sys.version_info < (3, 12) else 0)
