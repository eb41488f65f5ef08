"""Semaphore and BoundedSemaphore: asyncio's of 3.13, wherever those stand."""

import asyncio
import collections
import copy
import gc
import inspect
import pickle
import random
import re
import sys
import warnings
import weakref
from unittest import mock

import pytest

import gatedcoro
from contract_tools import Trace, idle, run

NO_TASK_IS_REUSED = True

NAMES = ["Semaphore", "BoundedSemaphore"]
EACH_CLASS = pytest.mark.parametrize("name", NAMES)
# asyncio's own is the model from 3.13 on.
MODELS = [asyncio.Semaphore, asyncio.BoundedSemaphore] if sys.version_info >= (3, 13) else []


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


def classes(impl):
    return [impl.Semaphore, impl.BoundedSemaphore, *MODELS]


def trace_of_each(impl, script):
    """What the coroutine function says of each class, asyncio's own among them: it is the same."""

    def traced(cls):
        async def main():
            trace = Trace()
            trace.start()
            await script(cls, trace)
            trace.stop()
            return trace.turns

        return run(main)

    first, *others = [traced(cls) for cls in classes(impl)]
    assert all(other == first for other in others)
    return first


def events_of_each(impl, script):
    return " ".join(trace_of_each(impl, script)).split()


def state_of(semaphore):
    return f"{semaphore._value}{'L' if semaphore.locked() else ''}"


async def holds(semaphore, trace, name, turns=1):
    async with semaphore:
        trace(f"+{name}")
        await idle(turns)
        trace(f"-{name}")


# What they are


def test_they_are_asyncios(impl):
    assert issubclass(impl.Semaphore, asyncio.Semaphore)
    assert issubclass(impl.BoundedSemaphore, impl.Semaphore)
    assert issubclass(impl.BoundedSemaphore, asyncio.BoundedSemaphore)
    assert isinstance(impl.Semaphore(), asyncio.Semaphore)
    assert not isinstance(impl.Semaphore(), asyncio.BoundedSemaphore)
    assert isinstance(impl.BoundedSemaphore(), asyncio.BoundedSemaphore)


@EACH_CLASS
def test_they_have_their_names_and_docstrings(impl, name):
    cls = getattr(impl, name)
    described = getattr(gatedcoro._functions, name)
    assert (cls.__name__, cls.__qualname__, cls.__module__) == (name, name, "gatedcoro")
    assert cls.__doc__ == described.__doc__
    assert len(inspect.getdoc(described)) > 100
    for method in ("acquire", "release", "locked", "limit"):
        assert inspect.getdoc(getattr(cls, method))


@EACH_CLASS
def test_signatures_are_asyncios(impl, name):
    cls, stock = getattr(impl, name), getattr(asyncio, name)
    assert str(inspect.signature(cls)) == str(inspect.signature(stock)) == "(value=1)"
    for method in ("acquire", "release", "locked", "__aenter__"):
        assert str(inspect.signature(getattr(cls(), method))) == "()"


@EACH_CLASS
def test_acquire_is_taken_for_a_coroutine_function(impl, name):
    semaphore = getattr(impl, name)()
    for method in (semaphore.acquire, semaphore.__aenter__, semaphore.__aexit__, type(semaphore).acquire):
        assert inspect.iscoroutinefunction(method)
    assert not inspect.iscoroutinefunction(semaphore.release)
    stand_in = mock.create_autospec(semaphore)
    assert isinstance(stand_in.acquire, mock.AsyncMock)
    assert not isinstance(stand_in.release, mock.AsyncMock)
    assert isinstance(stand_in, type(semaphore))


@EACH_CLASS
def test_they_take_attributes_and_weak_references(impl, name):
    semaphore = getattr(impl, name)(2)
    assert vars(semaphore) == {}
    semaphore.owner = "me"
    assert vars(semaphore) == {"owner": "me"}
    reference = weakref.ref(semaphore)
    assert reference() is semaphore
    semaphore.itself = semaphore
    del semaphore
    gc.collect()
    assert reference() is None


@EACH_CLASS
def test_one_cannot_be_awaited(impl, name):
    async def main():
        with pytest.raises(TypeError, match=rf"object {name} can't be used in 'await' expression|'{name}' object"):
            await getattr(impl, name)()

    run(main)


# The constructor


@EACH_CLASS
@pytest.mark.parametrize(
    ("value", "count"), [(1, 1), (0, 0), (7, 7), (True, 1), (Index(3), 3), (sys.maxsize, sys.maxsize)]
)
def test_a_value_is_an_integer_from_0(impl, name, value, count):
    cls = getattr(impl, name)
    for semaphore in (cls(value), cls(value=value)):
        assert (semaphore._value, semaphore.limit, semaphore.locked()) == (count, count, count == 0)
        assert type(semaphore._value) is type(semaphore.limit) is int


@EACH_CLASS
def test_it_has_one_slot_unless_told_otherwise(impl, name):
    assert getattr(impl, name)()._value == 1


@EACH_CLASS
@pytest.mark.parametrize("value", [-1, Index(-1), -sys.maxsize - 1, -(2**100)])
def test_a_negative_value_is_asyncios_error(impl, name, value):
    with pytest.raises(ValueError, match=r"^Semaphore initial value must be >= 0$"):
        getattr(impl, name)(value)


@EACH_CLASS
@pytest.mark.parametrize(
    ("value", "shown"), [(2.5, "2.5 (float)"), ("1", "'1' (str)"), (None, "None (NoneType)"), (1j, "1j (complex)")]
)
def test_what_is_no_integer_is_a_type_error(impl, name, value, shown):
    with pytest.raises(TypeError, match=f"^value must be an integer, not {re.escape(shown)}$"):
        getattr(impl, name)(value)


@EACH_CLASS
@pytest.mark.parametrize("value", [sys.maxsize + 1, Index(2**100)])
def test_a_value_that_is_too_large_is_a_value_error(impl, name, value):
    shown = value if isinstance(value, int) else value.value
    with pytest.raises(ValueError, match=f"^value must be at most {sys.maxsize}, not {shown}$"):
        getattr(impl, name)(value)


@EACH_CLASS
def test_what_an_index_raises_is_raised(impl, name):
    class Broken:
        def __index__(self):
            raise KeyError("index")

    with pytest.raises(KeyError, match="index"):
        getattr(impl, name)(Broken())


@EACH_CLASS
def test_it_takes_one_argument(impl, name):
    cls = getattr(impl, name)
    with pytest.raises(TypeError, match=rf"^{name}\.__init__\(\) got an unexpected keyword argument 'loop'$"):
        cls(loop=None)
    for arguments, keywords in [((1, 2), {}), ((1,), {"value": 1})]:
        with pytest.raises(TypeError):
            cls(*arguments, **keywords)


# acquire() and release()


def test_acquire_returns_true_and_async_with_gives_none(impl):
    async def script(cls, trace):
        semaphore = cls(2)
        trace(await semaphore.acquire())
        async with semaphore as given:
            trace(given)
            trace(state_of(semaphore))
        semaphore.release()
        trace(state_of(semaphore))

    assert trace_of_each(impl, script) == ["True None 0L 2"]


def test_a_free_slot_needs_neither_a_loop_nor_a_turn(impl):
    for cls in classes(impl):
        semaphore = cls(1)
        with pytest.raises(StopIteration) as stop:
            semaphore.acquire().send(None)
        assert stop.value.value is True
        assert semaphore._value == 0
        semaphore.release()
        with pytest.raises(StopIteration):
            semaphore.__aenter__().send(None)
        with pytest.raises(StopIteration):
            semaphore.__aexit__(None, None, None).send(None)
        assert semaphore._value == 1
        assert semaphore._loop is None


@EACH_CLASS
def test_nothing_happens_before_it_is_awaited(impl, name):
    semaphore = getattr(impl, name)(1)
    for make in (semaphore.acquire, semaphore.__aenter__, lambda: semaphore.__aexit__(None, None, None)):
        coroutine = make()
        assert inspect.iscoroutine(coroutine) or isinstance(coroutine, collections.abc.Coroutine)
        assert asyncio.iscoroutine(coroutine)
        assert semaphore._value == 1
        coroutine.close()
        assert semaphore._value == 1
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            coroutine.send(None)


@EACH_CLASS
@pytest.mark.parametrize("method", ["acquire", "__aenter__"])
def test_one_that_was_never_awaited_is_a_warning(impl, name, method):
    semaphore = getattr(impl, name)(1)
    with pytest.warns(RuntimeWarning, match=f"coroutine 'Semaphore.{method}' was never awaited"):
        getattr(semaphore, method)()
        gc.collect()
    assert semaphore._value == 1


@EACH_CLASS
def test_an_acquire_is_awaited_once(impl, name):
    async def main():
        semaphore = getattr(impl, name)(2)
        coroutine = semaphore.acquire()
        assert await coroutine
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await coroutine
        assert semaphore._value == 1

    run(main)


def test_an_extra_release_of_a_semaphore_adds_a_slot(impl):
    semaphore = impl.Semaphore(0)
    semaphore.release()
    semaphore.release()
    assert (semaphore._value, semaphore.limit) == (2, 0)


def test_an_extra_release_of_a_bounded_semaphore_is_asyncios_error(impl):
    for semaphore in (impl.BoundedSemaphore(2), impl.BoundedSemaphore(0)):
        before = semaphore._value
        with pytest.raises(ValueError, match=r"^BoundedSemaphore released too many times$"):
            semaphore.release()
        assert semaphore._value == before


def test_a_subclass_goes_on_to_the_bounded_release(impl):
    class Own(impl.BoundedSemaphore):
        def release(self):
            super().release()

    with pytest.raises(ValueError, match="too many times"):
        Own().release()


def test_leaving_a_block_of_a_bounded_semaphore_that_is_full_is_an_error(impl):
    async def main():
        semaphore = impl.BoundedSemaphore(1)
        with pytest.raises(ValueError, match="too many times") as raised:
            async with semaphore:
                semaphore.release()
                raise KeyError("inside")
        assert isinstance(raised.value.__context__, KeyError)
        assert semaphore._value == 1

    run(main)


def test_a_bound_is_readable(impl):
    assert impl.BoundedSemaphore(3)._bound_value == 3
    assert not hasattr(impl.Semaphore(3), "_bound_value")


# The order


def test_who_waits_is_served_in_order(impl):
    async def script(cls, trace):
        semaphore = cls(2)
        await asyncio.gather(*(holds(semaphore, trace, name) for name in "abcdef"))
        trace(state_of(semaphore))

    assert trace_of_each(impl, script) == ["", "+a +b", "-a -b", "+c +d", "-c -d", "+e +f", "-e -f", "", "2"]


def test_a_slot_that_is_given_back_is_handed_to_the_first_one_who_waits(impl):
    async def script(cls, trace):
        semaphore = cls(1)
        await semaphore.acquire()
        waiting = asyncio.create_task(holds(semaphore, trace, "a"))
        await idle(1)
        semaphore.release()
        trace(state_of(semaphore))
        later = asyncio.create_task(holds(semaphore, trace, "b"))
        await semaphore.acquire()
        trace("mine")
        semaphore.release()
        await asyncio.gather(waiting, later)

    assert events_of_each(impl, script) == ["0L", "+a", "-a", "mine", "+b", "-b"]


def test_nobody_overtakes_who_has_been_woken(impl):
    """There is a slot besides, but until who was woken has gone on, it is nobody's."""

    async def script(cls, trace):
        semaphore = cls(3)
        for _ in range(3):
            await semaphore.acquire()
        waiting = asyncio.create_task(holds(semaphore, trace, "a", 3))
        await idle(1)
        semaphore.release()
        semaphore.release()
        trace(state_of(semaphore))
        later = asyncio.create_task(holds(semaphore, trace, "b", 3))
        await semaphore.acquire()
        trace("mine")
        semaphore.release()
        await asyncio.gather(waiting, later)
        semaphore.release()
        trace(state_of(semaphore))

    assert events_of_each(impl, script) == ["1L", "+a", "mine", "+b", "-a", "-b", "3"]


def test_who_goes_on_wakes_those_that_came_meanwhile(impl):
    async def script(cls, trace):
        semaphore = cls(4)
        for _ in range(4):
            await semaphore.acquire()
        tasks = [asyncio.create_task(holds(semaphore, trace, "a"))]
        await idle(1)
        for _ in range(3):
            semaphore.release()
        tasks += [asyncio.create_task(holds(semaphore, trace, name)) for name in "bcd"]
        await asyncio.gather(*tasks)
        trace(state_of(semaphore))

    assert events_of_each(impl, script) == ["+a", "+b", "+c", "-a", "-b", "-c", "+d", "-d", "3"]


def test_one_that_was_cancelled_keeps_nobody_out(impl):
    async def script(cls, trace):
        semaphore = cls(1)
        await semaphore.acquire()
        waiting = [asyncio.create_task(semaphore.acquire()) for _ in range(3)]
        await idle(1)
        for task in waiting:
            task.cancel()
        semaphore.release()
        trace(state_of(semaphore))
        await semaphore.acquire()
        trace(state_of(semaphore))
        await asyncio.wait(waiting)
        semaphore.release()
        trace(state_of(semaphore))

    assert events_of_each(impl, script) == ["1", "0L", "1"]


@pytest.mark.parametrize("looks", [False, True])
def test_random_programs_are_served_as_by_asyncio(impl, looks):
    """Tasks come, are woken, cancelled and go, in any order; whether or not somebody has looked at who waits."""

    def script_of(seed):
        async def script(cls, trace):
            chance = random.Random(seed)
            semaphore = cls(chance.randrange(3))
            tasks = []

            async def user(name):
                try:
                    await semaphore.acquire()
                except asyncio.CancelledError:
                    trace(f"x{name}:{semaphore._value}")
                    raise
                trace(f"+{name}:{semaphore._value}")

            for step in range(40):
                action = chance.choice(["acquire", "acquire", "release", "release", "cancel", "turn"])
                if action == "acquire":
                    tasks.append(asyncio.create_task(user(step)))
                elif action == "release" and semaphore._value < getattr(semaphore, "_bound_value", 99):
                    semaphore.release()
                elif action == "cancel" and tasks:
                    chance.choice(tasks).cancel()
                elif action == "turn":
                    await idle(1)
                if looks and step % 7 == 0:
                    assert semaphore._waiters is None or len(semaphore._waiters) <= len(tasks)
                trace(state_of(semaphore))
            await idle(2)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            trace(state_of(semaphore))
            assert not semaphore._waiters

        return script

    for seed in range(60):
        script = script_of(seed)
        for ours, stock in zip([impl.Semaphore, impl.BoundedSemaphore], MODELS or [None, None], strict=True):
            traces = []
            for cls in (ours, stock) if stock else (ours,):

                async def main(cls=cls, traces=traces):
                    trace = Trace()
                    trace.start()
                    await script(cls, trace)
                    trace.stop()
                    traces.append(trace.turns)

                run(main)
            assert all(trace == traces[0] for trace in traces), seed


# repr()


def test_repr_is_asyncios(impl):
    def without_class(semaphore):
        return re.fullmatch(r"<[\w.]+ object at 0x\w+ (\[.*\])>", repr(semaphore))[1]

    async def script(cls, trace):
        semaphore = cls(2)
        trace(without_class(semaphore))
        await semaphore.acquire()
        trace(without_class(semaphore))
        await semaphore.acquire()
        trace(without_class(semaphore))
        tasks = [asyncio.create_task(semaphore.acquire()) for _ in range(2)]
        await idle(1)
        trace(without_class(semaphore))
        semaphore.release()
        trace(without_class(semaphore))
        await idle(1)
        trace(without_class(semaphore))
        semaphore.release()
        await asyncio.gather(*tasks)
        semaphore.release()
        trace(without_class(semaphore))

    assert re.findall(r"\[.*?\]", " ".join(trace_of_each(impl, script))) == [
        "[unlocked, value:2]",
        "[unlocked, value:1]",
        "[locked]",
        "[locked, waiters:2]",
        "[locked, waiters:2]",
        "[locked, waiters:1]",
        "[unlocked, value:1]",
    ]


@EACH_CLASS
def test_repr_says_the_class(impl, name):
    assert repr(getattr(impl, name)()).startswith(f"<gatedcoro.{name} object at 0x")

    class Own(getattr(impl, name)):
        pass

    assert f".Own object at {id(semaphore := Own()):#x}" in repr(semaphore).replace("0x0", "0x")


# One event loop


@EACH_CLASS
def test_the_first_who_waits_binds_it_to_the_loop(impl, name):
    semaphore = getattr(impl, name)(1)

    async def contend():
        async with semaphore:
            waiting = asyncio.create_task(semaphore.acquire())
            await idle(1)
            loop = semaphore._loop
        await waiting
        semaphore.release()
        return loop is asyncio.get_running_loop()

    async def waits():
        await semaphore.acquire()
        message = f"^{re.escape(repr(semaphore))} is bound to a different event loop$"
        with pytest.raises(RuntimeError, match=message):
            await semaphore.acquire()
        with pytest.raises(RuntimeError, match=message):
            async with semaphore:
                pass
        semaphore.release()

    async def does_not_wait():
        async with semaphore:
            pass

    assert semaphore._loop is None
    run(does_not_wait)
    assert semaphore._loop is None
    assert run(contend)
    run(does_not_wait)
    run(waits)
    assert semaphore._value == 1


@EACH_CLASS
def test_waiting_without_a_loop_is_an_error(impl, name):
    semaphore = getattr(impl, name)(0)
    with pytest.raises(RuntimeError, match="no running event loop"):
        semaphore.acquire().send(None)
    assert (semaphore._value, semaphore._loop, semaphore.limit) == (0, None, 0)


def test_the_future_is_the_loops(impl):
    made = []

    class Loop(asyncio.SelectorEventLoop):
        def create_future(self):
            made.append(super().create_future())
            return made[-1]

    async def main():
        semaphore = impl.Semaphore(1)
        await semaphore.acquire()
        before = len(made)
        waiting = asyncio.create_task(semaphore.acquire())
        await idle(1)
        assert len(made) == before + 1
        semaphore.release()
        assert made[-1].result() is True
        await waiting

    run(main, loop_factory=Loop)


# What asyncio's have: _waiters, _value, _wake_up_next()


def test_nobody_has_waited_before_the_first_contention(impl):
    async def script(cls, trace):
        semaphore = cls(1)
        trace(semaphore._waiters)
        async with semaphore:
            trace(semaphore._waiters)
            task = asyncio.create_task(holds(semaphore, trace, "a"))
            await idle(1)
            trace(f"{type(semaphore._waiters).__name__}:{len(semaphore._waiters)}")
        await task
        trace(f"{type(semaphore._waiters).__name__}:{len(semaphore._waiters)}")

    assert events_of_each(impl, script) == ["None", "None", "deque:1", "+a", "-a", "deque:0"]


def test_who_waits_is_done_when_woken_and_cancelled_with_its_task(impl):
    async def script(cls, trace):
        semaphore = cls(2)
        await semaphore.acquire()
        await semaphore.acquire()
        tasks = [asyncio.create_task(semaphore.acquire()) for _ in range(3)]
        await idle(1)
        waiters = list(semaphore._waiters)
        semaphore.release()
        tasks[1].cancel()
        trace(" ".join(f"{waiter.done():d}{waiter.cancelled():d}" for waiter in waiters))
        semaphore.release()
        await asyncio.wait(tasks)
        trace(" ".join(f"{waiter.done():d}{waiter.cancelled():d}" for waiter in waiters))
        trace(len(semaphore._waiters))
        trace(state_of(semaphore))

    assert events_of_each(impl, script) == ["10", "11", "00", "10", "11", "10", "0", "0L"]


def test_the_deque_is_live(impl):
    """Who is put into it waits with the others, in order; also when it was empty, and read a long time ago."""

    async def script(cls, trace):
        semaphore = cls(1)
        await semaphore.acquire()
        first = asyncio.create_task(holds(semaphore, trace, "a"))
        await idle(1)
        waiters = semaphore._waiters
        future = asyncio.get_running_loop().create_future()
        waiters.append(future)
        last = asyncio.create_task(holds(semaphore, trace, "b"))
        await idle(1)
        trace(len(semaphore._waiters))
        semaphore.release()
        await first
        trace(f"{future.done()}:{last.done()}:{len(waiters)}")
        waiters.remove(future)
        semaphore.release()
        await last
        trace(len(waiters))
        waiters.append(asyncio.get_running_loop().create_future())
        trace(state_of(semaphore))
        waiters.clear()
        trace(state_of(semaphore))
        assert semaphore._waiters is waiters

    assert events_of_each(impl, script) == ["3", "+a", "-a", "True:False:2", "+b", "-b", "0", "1L", "1"]


def test_the_waiter_of_an_acquire_may_be_cancelled(impl):
    async def script(cls, trace):
        semaphore = cls(1)
        await semaphore.acquire()
        tasks = [asyncio.create_task(semaphore.acquire()) for _ in range(2)]
        await idle(1)
        trace(semaphore._waiters[0].cancel())
        trace(semaphore._waiters[0].cancel())
        semaphore.release()
        await asyncio.wait(tasks)
        trace([task.cancelled() for task in tasks])
        trace(state_of(semaphore))

    assert events_of_each(impl, script) == ["True", "False", "[True,", "False]", "0L"]


def test_a_deque_may_be_put_in_its_place(impl):
    async def script(cls, trace):
        semaphore = cls(1)
        semaphore._waiters = theirs = collections.deque()
        trace(semaphore._waiters is theirs)
        theirs.append(mock.Mock(**{"done.return_value": False, "cancelled.return_value": False}))
        trace(state_of(semaphore))
        task = asyncio.create_task(holds(semaphore, trace, "a"))
        await idle(1)
        trace(len(theirs))
        semaphore._wake_up_next()
        theirs[0].set_result.assert_called_once_with(True)
        trace(state_of(semaphore))
        theirs.popleft()
        semaphore.release()
        await task
        trace(len(theirs))
        semaphore._waiters = None
        trace(semaphore._waiters)
        trace(state_of(semaphore))

    assert events_of_each(impl, script) == ["True", "1L", "2", "0L", "+a", "-a", "0", "None", "1"]


@EACH_CLASS
@pytest.mark.parametrize("value", [[], (), 0, "ab"])
def test_nothing_else_may(impl, name, value):
    semaphore = getattr(impl, name)()
    with pytest.raises(TypeError, match=r"_waiters must be .*deque"):
        semaphore._waiters = value
    assert semaphore._waiters is None


@EACH_CLASS
def test_the_value_may_be_assigned_and_wakes_nobody(impl, name):
    async def main():
        semaphore = getattr(impl, name)(1)
        await semaphore.acquire()
        waiting = asyncio.create_task(semaphore.acquire())
        await idle(1)
        semaphore._value = 1
        await idle(2)
        assert not waiting.done()
        assert semaphore.locked()
        assert (semaphore._value, semaphore.limit) == (1, 1)
        assert semaphore._wake_up_next()
        assert not semaphore._wake_up_next()
        await waiting
        assert semaphore._value == 0
        with pytest.raises(TypeError):
            semaphore._value = 1.5
        assert semaphore._value == 0

    run(main)


def test_who_is_woken_by_somebody_else_takes_a_slot(impl):
    """Whoever sets the Future of a Task that waits has not counted it."""

    async def main():
        semaphore = impl.Semaphore(1)
        await semaphore.acquire()
        future = asyncio.get_running_loop().create_future()
        with mock.patch.object(asyncio.get_running_loop(), "create_future", lambda: future, create=True):
            waiting = asyncio.create_task(semaphore.acquire())
            await idle(1)
        future.set_result(True)
        await waiting
        assert semaphore._value == -1
        semaphore.release()
        semaphore.release()
        assert semaphore._value == 1

    run(main)


# Copies


def copies_of(semaphore):
    return [copy.copy(semaphore), copy.deepcopy(semaphore)] + [
        pickle.loads(pickle.dumps(semaphore, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
    ]


@pytest.fixture
def picklable(impl, monkeypatch):
    """The package has the classes of one implementation."""
    for name in NAMES:
        monkeypatch.setattr(gatedcoro, name, getattr(impl, name))
    return impl


@EACH_CLASS
def test_a_copy_has_the_same_limit_and_as_many_free_slots(picklable, name):
    async def main():
        semaphore = getattr(picklable, name)(3)
        semaphore.owner = ["me"]
        await semaphore.acquire()
        semaphore.limit = 2
        for one in copies_of(semaphore):
            assert type(one) is type(semaphore)
            assert (one._value, one.limit, one.owner) == (1, 2, ["me"])
            async with one:
                assert (one._value, semaphore._value) == (0, 1)
        assert copy.copy(semaphore).owner is semaphore.owner
        assert copy.deepcopy(semaphore).owner is not semaphore.owner

    run(main)


@EACH_CLASS
def test_nobody_waits_for_a_copy(picklable, name):
    async def main():
        semaphore = getattr(picklable, name)(1)
        await semaphore.acquire()
        waiting = asyncio.create_task(semaphore.acquire())
        await idle(1)
        for one in copies_of(semaphore):
            assert (one._value, one._waiters, one._loop) == (0, None, None)
            one.release()
            assert not one.locked()
        assert not waiting.done()
        semaphore.release()
        await waiting

    run(main)


def test_a_subclass_with_an_init_of_its_own_can_be_copied(impl):
    class Named(impl.BoundedSemaphore):
        def __init__(self, name, value):
            super().__init__(value)
            self.name = name

    for make in (copy.copy, copy.deepcopy):
        one = make(Named("a", 4))
        assert (type(one), one.name, one._value, one.limit) == (Named, "a", 4, 4)


# What else is used as one


def test_it_stands_where_asyncios_stands(impl):
    """In a Condition there is a lock; who is given a semaphore as one enters and leaves it."""

    async def script(cls, trace):
        semaphore = cls(1)
        condition = asyncio.Condition(semaphore)

        async def waits():
            async with condition:
                trace("wait")
                await condition.wait()
                trace("woken")

        task = asyncio.create_task(waits())
        await idle(1)
        async with condition:
            condition.notify()
            trace("notified")
        await task
        trace(state_of(semaphore))

    assert events_of_each(impl, script) == ["wait", "notified", "woken", "1"]


@EACH_CLASS
def test_it_is_made_outside_of_a_loop_without_a_warning(impl, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        semaphore = getattr(impl, name)(1)
        semaphore.release() if name == "Semaphore" else None
        del semaphore
        gc.collect()


def test_the_bound_of_a_bounded_one_may_be_assigned_as_asyncios(impl):
    semaphore = impl.BoundedSemaphore(2)
    semaphore._bound_value = 3
    assert (semaphore.limit, semaphore._value) == (3, 2)
    semaphore.release()
    with pytest.raises(ValueError, match="released too many times"):
        semaphore.release()
    assert semaphore._value == 3


def test_a_subclass_may_leave_the_constructor_out(impl):
    class Own(impl.Semaphore):
        def __init__(self, slots):
            self._value = slots
            self._waiters = None

    async def main():
        semaphore = Own(1)
        async with semaphore:
            assert semaphore.locked()
            waits = asyncio.ensure_future(semaphore.acquire())
            await asyncio.sleep(0)
        assert await waits and semaphore._value == 0 and semaphore.limit == 0

    run(main)


def test_coroutines_have_the_names_of_their_methods(impl):
    semaphore = impl.Semaphore()
    for name, arguments in {"acquire": (), "__aenter__": (), "__aexit__": (None, None, None)}.items():
        coroutine = getattr(semaphore, name)(*arguments)
        assert (coroutine.__name__, coroutine.__qualname__) == (name, f"Semaphore.{name}")
        coroutine.close()


def test_a_block_may_be_left_by_arguments_with_names(impl):
    async def main():
        semaphore = impl.Semaphore()
        await semaphore.__aenter__()
        await semaphore.__aexit__(None, tb=None, exc=None)
        assert semaphore._value == 1
        for arguments, names in (
            ((), {}),
            ((None,) * 4, {}),
            ((None,), {"exc_type": None, "exc": None}),
            ((), {"a": 1}),
        ):
            with pytest.raises(TypeError):
                semaphore.__aexit__(*arguments, **names)
        with pytest.raises(TypeError):
            semaphore.acquire(1)

    run(main)
