"""amap and Stream to those who look at them: arguments, signature, repr, kinds, and the warning of one that was never used."""

import asyncio
import collections.abc
import contextlib
import enum
import functools
import gc
import inspect
import operator
import pickle
import types
import typing
import warnings
import weakref
from unittest import mock

import pytest

import gatedcoro
from contract_tools import Trace, idle
from stream_tools import doing, drawn, run


async def at_once(x):
    return x


async def collected(stream):
    return [result async for result in stream]


def unused(stream):
    """Take it from those who warn."""
    with contextlib.suppress(StopIteration):
        stream.aclose().send(None)
    return stream


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


class Number(enum.IntEnum):
    TWO = 2


# The function


def test_inspect_shows_the_parameters(impl):
    assert str(inspect.signature(impl.amap)) == (
        "(async_fn, iterable, *, limit=None, ordered=True, buffersize=None, return_exceptions=False, progress=None)"
    )


def test_function_and_type_have_their_names_and_docstrings(impl):
    for named in (impl.amap, impl.Stream):
        assert named.__qualname__ == named.__name__
        assert named.__module__ == "gatedcoro"
        assert len(inspect.getdoc(named)) > 200
    assert (impl.amap.__name__, impl.Stream.__name__) == ("amap", "Stream")
    assert inspect.getdoc(impl.amap) == inspect.getdoc(gatedcoro.amap)
    assert inspect.getdoc(impl.Stream) == inspect.getdoc(gatedcoro.Stream)


def test_function_and_type_are_public():
    assert {"amap", "Stream"} <= set(gatedcoro.__all__)


def test_it_is_no_coroutine_function(impl):
    assert not inspect.iscoroutinefunction(impl.amap)
    assert not inspect.isasyncgenfunction(impl.amap)
    with mock.patch.object(impl, "amap") as stand_in:
        assert not isinstance(stand_in, mock.AsyncMock)


@pytest.mark.parametrize("name", ["amap", "Stream"])
def test_function_and_type_are_pickled_by_name(name):
    named = getattr(gatedcoro, name)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(named, protocol)) is named


def test_parameters_may_be_given_by_name(impl):
    async def main():
        options = {"limit": 1, "ordered": False, "buffersize": 0, "return_exceptions": True}
        return await impl.amap(iterable="ab", async_fn=at_once, **options)

    assert run(main) == ["a", "b"]


@pytest.mark.parametrize(
    "call",
    [
        lambda amap: amap(),
        lambda amap: amap(at_once),
        lambda amap: amap(at_once, [], 1),
        lambda amap: amap(at_once, [], async_fn=at_once),
        lambda amap: amap(at_once, [], iterable=[]),
        lambda amap: amap(at_once, [], max_runs=1),
        lambda amap: amap(iterable=[]),
        lambda amap: amap(async_fn=at_once),
        lambda amap: amap(at_once, [], **{"limit ": 1}),
    ],
)
def test_wrong_arguments_are_type_errors_at_the_call(impl, call):
    with pytest.raises(TypeError):
        call(impl.amap)


def generator_function():
    yield


async def async_generator_function():
    yield


class Generators:
    def method(self):
        yield


@pytest.mark.parametrize("bad", [None, 5, "name", object(), [at_once]], ids=lambda bad: type(bad).__name__)
def test_what_is_not_callable_is_a_type_error_at_the_call(impl, bad):
    with pytest.raises(TypeError, match="^async_fn must be callable, not "):
        impl.amap(bad, [])


class Refuses:
    __iter__ = __aiter__ = None

    def __getitem__(self, index):
        raise NotImplementedError

    def __repr__(self):
        return "<it>"


class Member(enum.Enum):
    """Its class can be iterated over, it cannot."""

    ONE = 1


BAD_ITERABLES = {
    "one that says so": (Refuses(), r"<it> \(Refuses\)"),
    "what only its class is": (Member.ONE, "<Member.ONE: 1>"),
    "None": (None, r"None \(NoneType\)"),
    "a number": (5, r"5 \(int\)"),
    "an object": (object(), r"<object object at .*> \(object\)"),
    "a class": (list, r"<class 'list'> \(type\)"),
    "a function": (at_once, r"<function at_once at .*> \(function\)"),
    "a generator function": (generator_function, "the generator function generator_function: call it, and pass what"),
    "an async generator function": (async_generator_function, "the generator function async_generator_function: call"),
}


@pytest.mark.parametrize("bad", BAD_ITERABLES)
def test_what_is_no_iterable_is_a_type_error_at_the_call_that_says_what_would_be_right(impl, bad):
    iterable, said = BAD_ITERABLES[bad]
    with pytest.raises(TypeError, match=f"^iterable must be an iterable or an async iterable, not {said}"):
        impl.amap(at_once, iterable)


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("name", ["amap", "run_all"])
def test_a_future_is_no_iterable_though_python_can_iterate_over_it(impl, name, is_done):
    async def main():
        future = asyncio.get_running_loop().create_future()
        if is_done:
            future.set_result(["a"])
        with pytest.raises(TypeError, match="not a Future: await it, and pass what it returns$"):
            impl.amap(at_once, future) if name == "amap" else await impl.run_all(future)

    run(main)


def test_a_coroutine_is_no_iterable_and_stays_the_caller_s(impl):
    coroutine = at_once("a")
    with pytest.raises(TypeError, match="not a coroutine: await it, and pass what it returns$"):
        impl.amap(at_once, coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
    coroutine.close()


def test_a_class_may_be_an_iterable(impl):
    async def main():
        return await collected(impl.amap(at_once, Number))

    assert run(main) == [Number.TWO]


@pytest.mark.parametrize("bad", [0, -1, -(2**80), False, Index(0)])
def test_a_limit_below_one_is_a_value_error_at_the_call(impl, bad):
    with pytest.raises(ValueError, match="^limit must be at least 1, or None for no limit, not "):
        impl.amap(at_once, [], limit=bad)


@pytest.mark.parametrize("bad", [2.5, 1.0, "3", object(), contextlib.nullcontext, contextlib.suppress(), at_once])
def test_a_limit_of_another_kind_is_a_type_error_at_the_call(impl, bad):
    words = "^limit must be an integer, an async context manager, a tuple or list of these, or None, not "
    with pytest.raises(TypeError, match=words):
        impl.amap(at_once, [], limit=bad)


@pytest.mark.parametrize("bad", [-1, -(2**80), Index(-1)])
def test_a_negative_buffersize_is_a_value_error_at_the_call(impl, bad):
    with pytest.raises(ValueError, match=f"^buffersize must be at least 0, or .*, not {operator.index(bad)}$"):
        impl.amap(at_once, [], buffersize=bad)


@pytest.mark.parametrize("bad", [2.5, 1.0, "3", object(), asyncio.Semaphore(1)])
def test_a_buffersize_that_is_no_integer_is_a_type_error_at_the_call(impl, bad):
    with pytest.raises(TypeError, match=f"^buffersize must be an integer or None, not .*{type(bad).__name__}"):
        impl.amap(at_once, [], buffersize=bad)


@pytest.mark.parametrize("option", ["limit", "buffersize"])
def test_integers_are_what_has_an_index_whose_error_is_that_of_the_call(impl, option):
    async def main():
        for number in (Index(2), Number.TWO, True):
            assert await collected(impl.amap(at_once, "abc", **{option: number})) == ["a", "b", "c"]

    run(main)
    with pytest.raises(LookupError, match="of the index"):
        impl.amap(at_once, [], **{option: Index(LookupError("of the index"))})


@pytest.mark.parametrize("option", ["ordered", "return_exceptions"])
def test_truth_is_asked_for_at_the_call(impl, option):
    class Undecided:
        def __bool__(self):
            raise LookupError("undecided")

    with pytest.raises(LookupError, match="undecided"):
        impl.amap(at_once, [], **{option: Undecided()})

    async def main():
        for truth in (1, "yes", [], None, 0):
            stream = impl.amap(
                doing(Trace()), ["a3", "b1!", "c2"], return_exceptions=truth if option != "ordered" else 1
            )
            try:
                results = [str(result) async for result in stream]
            except ValueError:
                results = ["raised"]
            assert results == (["a", "b", "c"] if truth or option == "ordered" else ["raised"])
            stream = impl.amap(doing(Trace()), ["a3", "b1"], ordered=truth if option == "ordered" else 0)
            assert await collected(stream) == (["a", "b"] if truth and option == "ordered" else ["b", "a"])

    run(main)


def test_what_is_refused_at_the_call_has_not_been_touched(impl):
    trace = Trace()
    source = drawn(trace, "a")
    next(source)
    for options in ({"limit": 0}, {"limit": "1"}, {"buffersize": -1}, {"buffersize": "1"}):
        with pytest.raises((TypeError, ValueError)):
            impl.amap(at_once, source, **options)
    with pytest.raises(TypeError):
        impl.amap(None, source)
    assert trace.events == ["?a"]
    assert next(source, "end") == "end"


# The type


def test_a_stream_is_what_it_says(impl):
    stream = unused(impl.amap(at_once, []))
    assert type(stream) is impl.Stream
    for kind in (
        collections.abc.AsyncIterator,
        collections.abc.AsyncIterable,
        collections.abc.Awaitable,
        contextlib.AbstractAsyncContextManager,
    ):
        assert isinstance(stream, kind)
    for kind in (collections.abc.AsyncGenerator, collections.abc.Coroutine, collections.abc.Iterable):
        assert not isinstance(stream, kind)
    assert inspect.isawaitable(stream)
    assert not asyncio.iscoroutine(stream)
    assert weakref.ref(stream)() is stream
    assert len({stream, stream}) == 1


def test_only_amap_makes_one(impl):
    with pytest.raises(TypeError, match=r"^cannot create 'gatedcoro\.Stream' instances"):
        impl.Stream()
    with pytest.raises(TypeError):
        impl.Stream(at_once, [])


def test_it_is_generic(impl):
    alias = impl.Stream[int]
    assert type(alias) is types.GenericAlias
    assert typing.get_origin(alias) is impl.Stream
    assert typing.get_args(alias) == (int,)

    def function() -> alias: ...

    assert typing.get_type_hints(function)["return"] == impl.Stream[int]


@pytest.mark.parametrize("method", ["__anext__", "__aenter__", "aclose"])
def test_its_methods_return_coroutines_with_names(impl, method):
    stream = unused(impl.amap(at_once, []))
    coroutine = getattr(stream, method)()
    assert asyncio.iscoroutine(coroutine) and inspect.isawaitable(coroutine)
    assert coroutine.__qualname__ == f"Stream.{method}"
    with pytest.warns(RuntimeWarning, match=rf"^coroutine 'Stream\.{method}' was never awaited"):
        del coroutine


def test_its_coroutines_are_awaited_once(impl):
    async def main():
        stream = impl.amap(at_once, "ab")
        for coroutine in (stream.__aenter__(), anext(stream), stream.aclose(), stream.__aexit__(None, None, None)):
            await coroutine
            with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
                await coroutine

    run(main)


# repr


def test_the_repr_tells_how_many_run_wait_and_are_done(impl):
    async def main():
        said = []

        def says():
            said.append(repr(stream).removeprefix("<gatedcoro.Stream of doing.<locals>.does: "))

        stream = impl.amap(doing(Trace()), drawn(Trace(), ["a1", "b5", "c~", "d~", "e~"]), limit=3)
        says()
        first = asyncio.create_task(anext(stream))
        await idle(1)
        says()
        await idle(1)
        says()
        assert await first == "a"
        await idle(1)
        says()
        await idle(3)
        says()
        await anext(stream)
        says()
        await stream.aclose()
        says()
        return said

    assert run(main) == [
        "0 running, 0 waiting, 0 done>",
        "0 running, 0 waiting, 0 done>",
        "3 running, 0 waiting, 0 done>",
        "3 running, 0 waiting, 1 done>",
        "3 running, 1 waiting, 1 done>",
        "3 running, 0 waiting, 2 done>",
        "0 running, 0 waiting, 2 done>",
    ]


def test_the_repr_of_one_that_is_awaited_says_so(impl):
    async def main():
        stream = impl.amap(at_once, "a")
        assert await stream == ["a"]
        assert repr(stream) == "<gatedcoro.Stream of at_once: awaited>"

    run(main)


@pytest.mark.parametrize("words", ["a9 b2! c1 d~1=", "a9 b1! c~1= d~="])
def test_results_that_nobody_will_be_given_do_not_wait(impl, words):
    async def main():
        async with impl.amap(doing(Trace()), words.split()) as stream:
            task = asyncio.create_task(anext(stream))
            await idle(7)
            said = repr(stream)
            await task
        return said

    assert run(main) == "<gatedcoro.Stream of doing.<locals>.does: 1 running, 0 waiting, 0 done>"


class Callable:
    def __call__(self, x):
        return at_once(x)


@pytest.mark.parametrize(
    ("async_fn", "name"),
    [
        (at_once, "at_once"),
        (functools.partial(at_once), "partial"),
        (Callable(), "Callable"),
        (asyncio.sleep, "sleep"),
        (Callable, "Callable"),
        (Callable().__call__, "Callable.__call__"),
    ],
)
def test_the_repr_names_the_function(impl, async_fn, name):
    stream = unused(impl.amap(async_fn, []))
    assert repr(stream) == f"<gatedcoro.Stream of {name}: 0 running, 0 waiting, 0 done>"


# Never used


def warned(drop):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drop()
        gc.collect()
    return [(warning.category, str(warning.message)) for warning in caught]


NEVER_USED = "<gatedcoro.Stream of at_once: 0 running, 0 waiting, 0 done> was never iterated over or awaited"


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_one_that_is_dropped_without_ever_being_used_is_one_warning(impl, depth):
    def drop():
        stream = impl.amap(at_once, "ab")
        for _ in range(depth - 1):
            stream = impl.amap(at_once, stream)

    assert warned(drop) == [(RuntimeWarning, NEVER_USED)]


def test_the_warning_may_be_an_error_that_nobody_can_catch(impl, monkeypatch):
    unraisable = []
    monkeypatch.setattr("sys.unraisablehook", lambda raised: unraisable.append(repr(raised.exc_value)))
    impl.amap(at_once, "ab")
    assert unraisable == [f"RuntimeWarning('{NEVER_USED}')"]


def test_one_that_was_used_in_any_way_is_none(impl):
    async def main():
        async for _ in impl.amap(at_once, "ab"):
            break
        await impl.amap(at_once, "ab")
        async with impl.amap(at_once, "ab"):
            pass
        await impl.amap(at_once, "ab").aclose()
        await anext(impl.amap(at_once, "ab"))
        entered = await impl.amap(at_once, "ab").__aenter__()
        del entered
        impl.amap(at_once, "ab").__await__().close()
        with pytest.raises(LookupError):
            await anext(impl.amap(at_once, Refuses()))

    class Refuses:
        def __iter__(self):
            raise LookupError

    assert warned(lambda: run(main)) == []


@pytest.mark.parametrize("used", [False, True])
def test_a_stream_around_another_that_is_never_used_leaves_that_to_the_caller(impl, used):
    async def main():
        inner = impl.amap(at_once, "ab", limit=1)
        results = [await anext(inner)] if used else []
        with pytest.warns(RuntimeWarning, match="was never iterated over or awaited"):
            impl.amap(at_once, inner)
        return results + await collected(inner)

    assert run(main) == ["a", "b"]


def test_a_generator_of_one_that_is_never_used_is_left_to_the_caller(impl):
    source = drawn(Trace(), "a b")
    with pytest.warns(RuntimeWarning, match="was never iterated over or awaited"):
        impl.amap(at_once, source)
    assert list(source) == ["a", "b"]
