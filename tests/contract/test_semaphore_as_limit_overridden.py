"""A semaphore whose methods are overridden is entered and left as any context manager; and what else a call may meet in one."""

import asyncio
import functools
import inspect
from unittest import mock

import pytest

from contract_tools import Trace, failing, idle, item, run
from semaphore_tools import FROM_ITERABLES, KINDS, WAYS, Opened, all_is_over, collected, made, results_of

NO_TASK_IS_REUSED = True

EACH_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
EACH_OF_ITERABLES = pytest.mark.parametrize("way", FROM_ITERABLES.values(), ids=FROM_ITERABLES)
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
METHODS = ["acquire", "release", "locked", "__aenter__", "__aexit__"]
EACH_METHOD = pytest.mark.parametrize("name", METHODS)


def functions_of(trace, names, turns=1):
    return [functools.partial(item, trace, name, turns) for name in names]


def noting(cls, name, called):
    """What does as the method of *cls* and says so."""
    method = getattr(cls, name)

    if inspect.iscoroutinefunction(method):

        async def overrides(self, *args):
            called.append(name)
            return await method(self, *args)

    else:

        def overrides(self, *args):
            called.append(name)
            return method(self, *args)

    return functools.wraps(method)(overrides)


@EACH_WAY
@EACH_KIND
@EACH_METHOD
@pytest.mark.parametrize("row", [lambda s: s, lambda s: (10, s), lambda s: (asyncio.Semaphore(9), s)])
def test_of_a_subclass(impl, way, kind, name, row):
    called = []
    cls = getattr(impl, kind)
    subclass = type("Own", (cls,), {name: noting(cls, name, called)})

    async def main():
        s = subclass(2)
        assert sorted(await way(impl, row(s), functions_of(Trace(), "abcde"))) == [*"abcde"]
        assert len(called) == 5 if name != "locked" else len(called) >= 5
        await idle(3)
        assert s._value == 2 and asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


@EACH_KIND
@EACH_METHOD
@pytest.mark.parametrize("way", ["gather", "run_all", "amap", "as_completed", "gated_coro"])
def test_of_the_patched_class(impl, monkeypatch, way, kind, name):
    called = []
    cls = getattr(impl, kind)
    owner = next(base for base in cls.__mro__ if name in vars(base))

    async def main():
        s = cls(2)
        functions = functions_of(Trace(), "abc")

        async def use():
            if way == "gated_coro":
                return await asyncio.gather(*[impl.gated_coro(s, function()) for function in functions])
            return await WAYS[way](impl, s, functions)

        assert await use() == [*"abc"]
        assert called == []
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, noting(owner, name, called))
            assert await use() == [*"abc"]
            assert len(called) >= 3
        called.clear()
        assert await use() == [*"abc"]
        assert called == []
        await all_is_over(s, slots=2)

    run(main)


@EACH_WAY
@pytest.mark.parametrize("name", ["acquire", "release", "locked"])
def test_of_the_object(impl, way, name):
    """`async with` finds its own methods on the class; they call what the object has."""

    async def main():
        s = impl.Semaphore(2)
        with mock.patch.object(s, name, wraps=getattr(s, name)) as patched:
            assert sorted(await way(impl, s, functions_of(Trace(), "abc"))) == [*"abc"]
            assert patched.call_count >= 3
        assert sorted(await way(impl, s, functions_of(Trace(), "abc"))) == [*"abc"]
        await all_is_over(s, slots=2)

    run(main)


def test_a_call_decides_when_it_begins(impl):
    async def main():
        s = impl.Semaphore(1)
        items = Opened("abcd")
        task = asyncio.ensure_future(impl.run_all(items.functions, limit=s))
        assert await items.rest() == "a"
        with mock.patch.object(s, "acquire", side_effect=AssertionError("it counts")):
            assert await items.open("a") == "b"
            assert await items.open("b") == "c"
        assert await items.open("c") == "d"
        await items.open("d")
        assert await task == [*"abcd"]
        await all_is_over(s, slots=1)

    run(main)


@EACH_WAY
def test_an_override_that_refuses_is_the_items_error(impl, way):
    class Refuses(impl.Semaphore):
        async def acquire(self):
            raise KeyError("refused")

    async def main():
        s = Refuses(2)
        with pytest.raises(KeyError, match="refused"):
            await way(impl, s, functions_of(Trace(), "ab"))
        await idle(9)
        assert s._value == 2

    run(main)


def test_a_subclass_that_overrides_nothing_of_that_is_counted(impl):
    class Named(impl.Semaphore):
        name = "of the requests"

        def used(self):
            return self.limit - self._value

    async def main():
        s = Named(1)
        s.note = "its own"
        items = Opened("abc")
        task = asyncio.ensure_future(impl.run_all(items.functions, limit=s))
        await items.rest()
        assert s.used() == 1
        others = asyncio.all_tasks() - {asyncio.current_task(), task}
        assert len(others) == 1, "that of the item"
        for name in "abc":
            await items.open(name)
        assert await task == [*"abc"]
        await all_is_over(s, slots=1)

    run(main)


# Released too often


@pytest.mark.parametrize("row", [lambda s: s, lambda s: (10, s), lambda s: (asyncio.Semaphore(9), s)])
@EACH_WAY
def test_a_bounded_one_that_was_released_too_often_gives_its_error_to_the_item(impl, way, row):
    async def releases(s):
        s.release()

    async def main():
        s = impl.BoundedSemaphore(1)
        with pytest.raises(ValueError, match="^BoundedSemaphore released too many times$"):
            await way(impl, row(s), [functools.partial(releases, s)])
        await all_is_over(s, slots=1)

    run(main)


def test_that_error_is_raised_while_the_items_own_was_being_handled(impl):
    async def fails(s):
        await idle(1)
        s.release()
        raise KeyError("of the item")

    async def native(s):
        async with s:
            await fails(s)

    async def main():
        errors = []
        s = impl.BoundedSemaphore(1)
        for awaitable in (
            lambda: native(s),
            lambda: impl.gated_coro(s, fails(s)),
            lambda: impl.gather(fails(s), limit=s),
            lambda: impl.run_all([lambda: fails(s)], limit=(5, s)),
            lambda: collected(impl.amap(fails, [s], limit=s)),
        ):
            with pytest.raises(ValueError, match="too many times") as caught:
                await awaitable()
            errors.append(caught.value)
            assert s._value == 1
        assert [repr(error.__context__) for error in errors] == ["KeyError('of the item')"] * len(errors)

    run(main)


@pytest.mark.parametrize("front", ["gather", "run_all", "amap"])
def test_that_error_is_a_result_where_errors_are(impl, any_turns, front):
    async def releases(s, number):
        if number == 1:
            s.release()
        await idle(3)
        return number

    async def main():
        s = impl.BoundedSemaphore(1)
        functions = [functools.partial(releases, s, number) for number in range(2)]
        options = {"limit": s, "return_exceptions": True}
        if front == "gather":
            results = await impl.gather(*made(functions), **options)
        elif front == "run_all":
            results = await impl.run_all(functions, **options)
        else:
            results = await collected(impl.amap(lambda function: function(), functions, **options))
        assert results[0] == 0
        assert repr(results[1]) == "ValueError('BoundedSemaphore released too many times')"
        await all_is_over(s, slots=1)

    run(main)


def test_as_completed_shows_the_error_on_the_items_task(impl):
    async def releases(s):
        s.release()
        return 5

    async def main():
        s = impl.BoundedSemaphore(1)
        async for task in impl.as_completed([releases(s)], limit=s):
            assert repr(task.exception()) == "ValueError('BoundedSemaphore released too many times')"
        with pytest.raises(ValueError, match="too many times"):
            await results_of(impl.as_completed([releases(s)], limit=s))
        await all_is_over(s, slots=1)

    run(main)


def test_a_future_among_the_items_whose_slot_cannot_be_given_back(impl, unraisables):
    async def main():
        s = impl.BoundedSemaphore(1)
        for way in (impl.gather, lambda *items, limit: results_of(impl.as_completed(items, limit=limit))):
            future = asyncio.get_running_loop().create_future()
            task = asyncio.ensure_future(way(future, limit=s))
            await idle(3)
            s.release()
            future.set_result(1)
            results = await asyncio.gather(task, return_exceptions=True)
            # What as_completed gives is the caller's own Future, which has its own result: there the error is reported.
            assert "[1]" in map(repr, results) or not unraisables
            assert len(unraisables) == (repr(results[0]) == "[1]")
            assert repr([*unraisables, *results][0]) == "ValueError('BoundedSemaphore released too many times')"
            assert s._value == 1

    run(main)


def test_released_by_an_item_a_plain_one_has_a_slot_more(impl):
    async def releases(s):
        s.release()
        await idle(2)

    async def main():
        s = impl.Semaphore(1)
        await impl.gather(*[releases(s) for _ in range(3)], limit=s)
        await all_is_over(s, slots=4)

    run(main)


# Another loop


@EACH_KIND
@pytest.mark.parametrize("way", ["gather", "run_all", "amap", "as_completed", "gated_coro"])
def test_of_another_loop_it_can_be_used_until_somebody_has_to_wait(impl, way, kind):
    s = getattr(impl, kind)(2)

    async def binds():
        await s.acquire()
        await s.acquire()
        waits = asyncio.ensure_future(s.acquire())
        await idle(1)
        s.release()
        await waits
        s.release()
        s.release()

    run(binds)
    assert s._loop is not None

    async def use(names, trace):
        functions = functions_of(trace, names)
        if way == "gated_coro":
            return await asyncio.gather(*[impl.gated_coro(s, function()) for function in functions])
        return await WAYS[way](impl, s, functions)

    async def main():
        trace = Trace()
        assert await use("a", trace) == ["a"]
        with pytest.raises(RuntimeError, match=" is bound to a different event loop$"):
            await use("bcd", trace)
        await idle(9)
        assert s._value == 2 and not s.locked()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert "+d" not in trace.events
        async with s, s:
            with pytest.raises(RuntimeError, match=" is bound to a different event loop$"):
                await use("x", trace)
        await idle(9)
        assert s._value == 2 and "+x" not in trace.events

    run(main)


def test_the_first_call_that_waits_binds_it(impl):
    async def main():
        s = impl.Semaphore(1)
        assert await impl.gather(item(Trace(), "a"), limit=s) == ["a"]
        assert s._loop is None
        assert await impl.gather(item(Trace(), "a"), item(Trace(), "b"), limit=s) == ["a", "b"]
        assert s._loop is asyncio.get_running_loop()

    run(main)


# Waiters of others


@EACH_OF_ITERABLES
def test_the_queue_may_be_read_and_others_may_stand_in_it(impl, any_turns, way):
    async def main():
        s = impl.Semaphore(1)
        items = Opened("abc")
        task = asyncio.ensure_future(way(impl, s, items.functions))
        assert await items.rest() == "a"
        assert len(s._waiters) == 1
        theirs = asyncio.get_running_loop().create_future()
        s._waiters.append(theirs)
        assert await items.open("a") == "b"
        assert not theirs.done()
        assert await items.open("b") == ""
        assert theirs.result() is True
        s._waiters.remove(theirs)
        s.release()
        assert await items.rest() == "c"
        await items.open("c")
        await task
        await all_is_over(s, slots=1)

    run(main)


@EACH_WAY
def test_who_waits_may_be_cancelled_by_hand_in_the_queue(impl, way):
    """As a Task of asyncio's whose waiter was cancelled, the call goes on without that place: it asks anew or is cancelled; no slot is lost."""

    async def main():
        s = impl.Semaphore(1)
        await s.acquire()
        task = asyncio.ensure_future(way(impl, s, functions_of(Trace(), "ab")))
        await idle(4)
        s._waiters[0].cancel()
        await idle(4)
        s.release()
        await idle(12)
        task.cancel()
        await asyncio.wait([task])
        await all_is_over(s, slots=1)

    run(main)


def test_an_item_that_fails_in_its_first_step(impl, any_turns):
    async def main():
        trace = Trace()
        s = impl.Semaphore(1)
        items = [failing(trace, name, 0) for name in "abc"]
        results = await impl.gather(*items, limit=s, return_exceptions=True)
        assert list(map(str, results)) == ["a", "b", "c"]
        await all_is_over(s, slots=1)

    run(main)
