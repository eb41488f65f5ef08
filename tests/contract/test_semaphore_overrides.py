"""What somebody has put in place of a Semaphore's methods is called by everything of ours; where nobody has, no Task waits for it."""

import asyncio
from unittest import mock

import pytest

from contract_tools import Trace, idle, run

NO_TASK_IS_REUSED = True

NAMES = ["Semaphore", "BoundedSemaphore"]
EACH_CLASS = pytest.mark.parametrize("name", NAMES)
METHODS = ["acquire", "locked", "release", "__aenter__", "__aexit__"]
OF_INSTANCES = METHODS[:3]
# How often each method is called for one item, by whom enters and leaves the semaphore as a block does.
COUNTED = {"acquire": 1, "release": 1, "__aenter__": 1, "__aexit__": 1}


async def item(i):
    await asyncio.sleep(0)
    return i


async def by_async_with(gate, coroutine):
    async with gate:
        return await coroutine


async def collected(stream):
    return sorted([result async for result in stream])


async def results_of(iterator):
    return sorted([task.result() async for task in iterator])


ITEMS = range(5)
# Everything that takes a semaphore, with five items.
WAYS = {
    "async with": lambda impl, gate: asyncio.gather(*(by_async_with(gate, item(i)) for i in ITEMS)),
    "gated_coro": lambda impl, gate: asyncio.gather(*(impl.gated_coro(gate, item(i)) for i in ITEMS)),
    "gather": lambda impl, gate: impl.gather(*map(item, ITEMS), limit=gate),
    "gather, a row": lambda impl, gate: impl.gather(*map(item, ITEMS), limit=(9, gate)),
    "gather, second in a row": lambda impl, gate: impl.gather(*map(item, ITEMS), limit=(asyncio.Semaphore(9), gate)),
    "run_all": lambda impl, gate: impl.run_all([lambda i=i: item(i) for i in ITEMS], limit=gate),
    "constrained_execution": lambda impl, gate: impl.constrained_execution([lambda i=i: item(i) for i in ITEMS], gate),
    "amap": lambda impl, gate: collected(impl.amap(item, ITEMS, limit=gate)),
    "await amap": lambda impl, gate: impl.amap(item, ITEMS, limit=gate),
    "as_completed": lambda impl, gate: results_of(impl.as_completed(map(item, ITEMS), limit=gate)),
}
EACH_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def noting(function, name, called):
    """What does as *function*, and says that it was called."""
    if name in ("locked", "release"):

        def noting(self, *args):
            called.append(name)
            return function(self, *args)
    else:

        async def noting(self, *args):
            called.append(name)
            return await function(self, *args)

    return noting


def overridden(monkeypatch, cls, name, where, called):
    """A semaphore of the class with another method."""
    method = noting(getattr(cls, name), name, called)
    if where == "a subclass":
        return type("Own", (cls,), {name: method})(2)
    if where == "the class":
        monkeypatch.setattr(cls, name, method)
        return cls(2)
    semaphore = cls(2)
    if where == "a subclass of a subclass":
        middle = type("Middle", (cls,), {name: method})
        return type("Own", (middle,), {})(2)
    setattr(semaphore, name, method.__get__(semaphore))
    return semaphore


PLACES = [
    *[(name, where) for name in METHODS for where in ("a subclass", "the class", "a subclass of a subclass")],
    *[(name, "the instance") for name in OF_INSTANCES],
]


@EACH_CLASS
@EACH_WAY
@pytest.mark.parametrize(("method", "where"), PLACES)
def test_an_override_is_called(impl, monkeypatch, name, way, method, where):
    called = []

    async def main():
        semaphore = overridden(monkeypatch, getattr(impl, name), method, where, called)
        assert await way(impl, semaphore) == [*ITEMS]
        assert semaphore._value == 2
        assert not semaphore._waiters

    run(main)
    if method in COUNTED:
        assert called == [method] * len(ITEMS)
    else:
        assert len(called) >= len(ITEMS)


@EACH_CLASS
@EACH_WAY
def test_a_patch_that_is_undone_is_not(impl, monkeypatch, name, way):
    called = []
    cls = getattr(impl, name)

    async def main():
        with monkeypatch.context() as patch:
            for method in METHODS:
                overridden(patch, cls, method, "the class", called)
            assert await way(impl, cls(2)) == [*ITEMS]
            assert len(called) > 20
        called.clear()
        semaphore = cls(2)
        with mock.patch.object(semaphore, "acquire", semaphore.acquire):
            pass
        assert await way(impl, semaphore) == [*ITEMS]
        assert called == []
        assert semaphore._value == 2

    run(main)


@EACH_WAY
def test_a_subclass_with_other_methods_only_is_used_alike(impl, way):
    class Named(impl.Semaphore):
        name = "a"

        def __init__(self, value):
            super().__init__(value)
            self.users = []

        def free(self):
            return self._value

    async def main():
        semaphore = Named(2)
        assert await way(impl, semaphore) == [*ITEMS]
        assert semaphore.free() == 2

    run(main)


@EACH_CLASS
def test_a_mocked_acquire_is_awaited(impl, name):
    """unittest.mock.patch.object(semaphore, "acquire"), as tests of others do."""

    async def main():
        semaphore = getattr(impl, name)(1)
        with (
            mock.patch.object(semaphore, "acquire", wraps=semaphore.acquire) as acquire,
            mock.patch.object(semaphore, "release", wraps=semaphore.release) as release,
        ):
            assert isinstance(acquire, mock.AsyncMock)
            async with semaphore:
                assert semaphore._value == 0
            await impl.gated_coro(semaphore, item(0))
            await impl.gather(item(0), item(1), limit=semaphore)
        assert acquire.await_count == release.call_count == 4
        assert semaphore._value == 1

    run(main)


@EACH_CLASS
def test_acquire_asks_locked_and_goes_by_its_answer(impl, name):
    class Refuses(getattr(impl, name)):
        is_locked = True

        def locked(self):
            return self.is_locked

    async def main():
        semaphore = Refuses(2)
        waiting = asyncio.create_task(semaphore.acquire())
        await idle(2)
        assert not waiting.done()
        assert semaphore._value == 2
        assert "[locked, waiters:1]" in repr(semaphore)
        assert semaphore._wake_up_next()
        await waiting
        assert semaphore._value == 1
        semaphore.is_locked = False
        await semaphore.acquire()
        await semaphore.acquire()
        assert semaphore._value == -1
        assert "[unlocked, value:-1]" in repr(semaphore)

    run(main)


@EACH_CLASS
@pytest.mark.parametrize("error", [ValueError("own"), asyncio.CancelledError("own")])
def test_what_an_override_raises_is_raised(impl, name, error):
    class Broken(getattr(impl, name)):
        def locked(self):
            raise error

    class BrokenAcquire(getattr(impl, name)):
        async def acquire(self):
            raise error

    async def main():
        for semaphore in (Broken(1), BrokenAcquire(1)):
            for wait in (
                semaphore.acquire(),
                by_async_with(semaphore, unused := item(0)),
                impl.gated_coro(semaphore, item(0)),
            ):
                with pytest.raises(type(error)) as raised:
                    await wait
                assert raised.value is error
            unused.close()
            assert semaphore._value == 1

    run(main)


@EACH_CLASS
def test_an_acquire_that_is_no_coroutine_function_is_awaited(impl, name):
    class Own(getattr(impl, name)):
        def acquire(self):
            return asyncio.ensure_future(super().acquire())

    async def main():
        semaphore = Own(1)
        async with semaphore as given:
            assert given is None
            assert semaphore._value == 0
        assert await impl.gather(item(0), item(1), limit=semaphore) == [0, 1]
        assert semaphore._value == 1

    run(main)


# When a gathering counts


@EACH_CLASS
def test_a_gathering_decides_when_it_begins(impl, name):
    async def main():
        called = []
        semaphore = getattr(impl, name)(1)
        before = asyncio.ensure_future(impl.gather(*map(item, ITEMS), limit=semaphore))
        await idle(2)
        with (
            mock.patch.object(semaphore, "acquire", lambda: called.append("acquire") or idle(0)),
            mock.patch.object(semaphore, "release", lambda: called.append("release")),
        ):
            assert await before == [*ITEMS]
            assert called == []
            assert semaphore._value == 1
            assert await impl.gather(item(0), limit=semaphore) == [0]
            assert called == ["acquire", "release"]
        assert semaphore._value == 1

    run(main)


def tasks_besides(*known):
    """All Tasks but these and keepers, which stand for queues."""

    def is_keeper(task):
        return task.get_name() == "gatedcoro queue" or "gatedcoro.keeper" in repr(task)

    return {task for task in asyncio.all_tasks() if task not in known and not is_keeper(task)}


COUNTING = {
    name: way for name, way in WAYS.items() if "second" not in name and name not in ("async with", "gated_coro")
}


@EACH_CLASS
@pytest.mark.parametrize("way", COUNTING.values(), ids=COUNTING)
def test_no_task_waits_for_what_is_not_overridden(impl, name, way):
    async def begins(call):
        return await call

    async def main():
        semaphore = getattr(impl, name)(0)
        call = asyncio.create_task(begins(way(impl, semaphore)))
        await idle(3)
        assert tasks_besides(asyncio.current_task(), call) == set()
        assert len(semaphore._waiters) == 1
        semaphore.limit = 2
        assert await call == [*ITEMS]
        assert semaphore._value == 2

    run(main)


@EACH_CLASS
@pytest.mark.parametrize("way", COUNTING.values(), ids=COUNTING)
def test_a_task_waits_for_what_is(impl, name, way):
    class Own(getattr(impl, name)):
        async def acquire(self):
            return await super().acquire()

    async def begins(call):
        return await call

    async def main():
        semaphore = Own(0)
        call = asyncio.create_task(begins(way(impl, semaphore)))
        await idle(3)
        assert len(tasks_besides(asyncio.current_task(), call)) == 1
        semaphore.limit = 2
        assert await call == [*ITEMS]
        assert semaphore._value == 2

    run(main)


def test_a_semaphore_counts_its_items_as_a_number_does(impl):
    """Turn by turn, as long as nobody else uses it."""

    async def traced(limit):
        trace = Trace()
        trace.start()

        async def says(i):
            trace(f"+{i}")
            await idle(i % 3)
            trace(f"-{i}")

        await impl.gather(*map(says, range(12)), limit=limit)
        trace.stop()
        return trace.turns

    async def main():
        for count in (1, 2, 3, 5, 20):
            expected = await traced(count)
            assert await traced(impl.Semaphore(count)) == expected
            assert await traced([impl.BoundedSemaphore(count)]) == expected
            assert await traced((30, impl.Semaphore(count))) == expected

    run(main)
