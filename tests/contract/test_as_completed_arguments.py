"""as_completed and AsCompleted to those who look at them: arguments, signature, repr, kinds, coroutines and their names."""

import asyncio
import collections.abc
import contextlib
import decimal
import fractions
import functools
import gc
import inspect
import itertools
import math
import pickle
import sys
import types
import typing
import weakref
from unittest import mock

import pytest

import gatedcoro
from contract_tools import Trace, idle
from stream_tools import LOOPS, coroutines, loop_plain, made, made_async, run

NO_TASK_IS_REUSED = True

EACH_LOOP = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
AT_THE_CALL = sys.version_info >= (3, 13)


async def value(result=None):
    return result


class Float:
    def __init__(self, number):
        self.number = number

    def value(self):
        if isinstance(self.number, Exception):
            raise self.number
        return self.number

    __float__ = value


class Index:
    def __init__(self, number):
        self.number = number

    __index__ = Float.value


# The function


def test_inspect_shows_the_parameters(impl):
    assert str(inspect.signature(impl.as_completed)) == "(aws, *, limit=None, timeout=None)"


def test_function_and_type_have_their_names_and_docstrings(impl):
    for name in ("as_completed", "AsCompleted"):
        named = getattr(impl, name)
        assert named.__qualname__ == named.__name__ == name
        assert named.__module__ == "gatedcoro"
        assert len(inspect.getdoc(named)) > 200
        assert inspect.getdoc(named) == inspect.getdoc(getattr(gatedcoro, name))
        assert name in gatedcoro.__all__
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            public = getattr(gatedcoro, name)
            assert pickle.loads(pickle.dumps(public, protocol)) is public


def test_it_is_a_plain_function(impl):
    assert not inspect.iscoroutinefunction(impl.as_completed)
    assert not inspect.isasyncgenfunction(impl.as_completed)
    with mock.patch.object(impl, "as_completed") as stand_in:
        assert not isinstance(stand_in, mock.AsyncMock)


@pytest.mark.parametrize(
    "call",
    [
        lambda as_completed: as_completed(),
        lambda as_completed: as_completed([], 1),
        lambda as_completed: as_completed([], aws=[]),
        lambda as_completed: as_completed([], []),
        lambda as_completed: as_completed(fs=[]),
        lambda as_completed: as_completed([], loop=None),
        lambda as_completed: as_completed([], ordered=True),
        lambda as_completed: as_completed(limit=1),
    ],
)
def test_wrong_arguments_are_type_errors_at_the_call(impl, call):
    with pytest.raises(TypeError):
        call(impl.as_completed)


@pytest.mark.parametrize("bad", [0, -1, -(2**80), False, Index(0)])
def test_a_limit_below_one_is_a_value_error_at_the_call(impl, bad):
    with pytest.raises(ValueError, match="^limit must be at least 1, or None for no limit, not "):
        impl.as_completed([], limit=bad)


@pytest.mark.parametrize("bad", [2.5, 1.0, "3", object(), contextlib.suppress(), value, Float(1.0)])
def test_a_limit_of_another_kind_is_a_type_error_at_the_call(impl, bad):
    with pytest.raises(
        TypeError, match="^limit must be an integer, an async context manager, a tuple or list of these, or None, not "
    ):
        impl.as_completed([], limit=bad)


@pytest.mark.parametrize(
    "bad", ["x", "3", b"1", [], 1j, object(), value, Float(TypeError("no")), Float("1"), None.__class__]
)
def test_a_timeout_of_another_kind_is_a_type_error_at_the_call(impl, bad):
    with pytest.raises(
        TypeError, match=r"^timeout must be a number of seconds or None, not .*\(" + type(bad).__name__ + r"\)$"
    ):
        impl.as_completed([], timeout=bad)


def test_the_word_of_the_type_error(impl):
    with pytest.raises(TypeError, match=r"^timeout must be a number of seconds or None, not 'x' \(str\)$"):
        impl.as_completed([], timeout="x")


@pytest.mark.parametrize("bad", [math.nan, -math.nan, decimal.Decimal("nan"), Float(math.nan)])
def test_a_timeout_that_is_not_a_number_is_a_value_error_at_the_call(impl, bad):
    with pytest.raises(ValueError, match="^timeout "):
        impl.as_completed([], timeout=bad)


def test_what_a_number_raises_is_raised_at_the_call(impl):
    with pytest.raises(LookupError, match="of the number"):
        impl.as_completed([], timeout=Float(LookupError("of the number")))
    with pytest.raises(LookupError, match="of the number"):
        impl.as_completed([], limit=Index(LookupError("of the number")))
    with pytest.raises(OverflowError):
        impl.as_completed([], timeout=10**400)


TIMEOUTS = [2, 2.0, True, fractions.Fraction(4, 2), decimal.Decimal("2"), Float(2.0), Index(2)]


@pytest.mark.parametrize("timeout", TIMEOUTS, ids=lambda timeout: type(timeout).__name__)
def test_a_timeout_is_what_float_takes_of_a_number(impl, timeout):
    async def main():
        asked = next(impl.as_completed([asyncio.sleep(60)], timeout=timeout))
        with pytest.raises(TimeoutError):
            await asked
        return asyncio.get_running_loop().time()

    assert run(main) == (1 if timeout is True else 2)


def test_what_is_refused_at_the_call_has_not_been_touched(impl):
    trace = Trace()
    (aws,) = [made(trace, "a b")]
    first = next(aws)
    listed = [first]
    for options in ({"limit": 0}, {"limit": "1"}, {"timeout": math.nan}, {"timeout": "1"}):
        for iterable in (aws, listed):
            with pytest.raises((TypeError, ValueError)):
                impl.as_completed(iterable, **options)
    assert inspect.getcoroutinestate(first) == inspect.CORO_CREATED
    assert trace.events == ["?a"]
    first.close()


# What is no iterable


def generator_function():
    yield


async def async_generator_function():
    yield


class Refuses:
    __iter__ = __aiter__ = None

    def __getitem__(self, index):
        raise NotImplementedError

    def __repr__(self):
        return "<it>"


BAD_ITERABLES = {
    "None": (lambda: None, r"None \(NoneType\)"),
    "a number": (lambda: 5, r"5 \(int\)"),
    "an object": (object, r"<object object at .*> \(object\)"),
    "one that says so": (Refuses, r"<it> \(Refuses\)"),
    "a class": (lambda: list, r"<class 'list'> \(type\)"),
    "a function": (lambda: value, r"<function value at .*> \(function\)"),
    "a generator function": (lambda: generator_function, "the generator function generator_function: call it"),
    "an async generator function": (
        lambda: async_generator_function,
        "the generator function async_generator_function",
    ),
    "a coroutine": (value, "a coroutine: put it into a list$"),
    "a Future": (lambda: asyncio.get_running_loop().create_future(), "a Future: put it into a list$"),
    "a Task": (lambda: asyncio.ensure_future(value()), "a Future: put it into a list$"),
}


@EACH_LOOP
@pytest.mark.parametrize("kind", BAD_ITERABLES)
def test_what_is_no_iterable_is_a_type_error_when_asyncio_says_so(impl, loop, kind):
    """At the call from 3.13 on, before that in the first step. What is awaitable stays the caller's."""
    make, said = BAD_ITERABLES[kind]

    async def main():
        bad = make()
        refused = pytest.raises(TypeError, match=f"^aws must be an iterable or an async iterable, not {said}")
        if AT_THE_CALL:
            with refused:
                impl.as_completed(bad)
        else:
            iterator = impl.as_completed(bad)
            with refused:
                next(iterator) if loop is loop_plain else await anext(iterator)
            assert next(iterator, "over") == await anext(iterator, "over") == "over"
            await impl.as_completed(bad).aclose()
        if kind == "a coroutine":
            assert inspect.getcoroutinestate(bad) == inspect.CORO_CREATED
            bad.close()
        elif kind == "a Task":
            await bad

    run(main)


# The type


def test_it_is_what_it_says(impl):
    iterator = impl.as_completed([])
    assert type(iterator) is impl.AsCompleted
    for kind in (collections.abc.AsyncIterator, collections.abc.Iterator, contextlib.AbstractAsyncContextManager):
        assert isinstance(iterator, kind)
    for kind in (collections.abc.Generator, collections.abc.AsyncGenerator, collections.abc.Awaitable, impl.Stream):
        assert not isinstance(iterator, kind)
    assert not inspect.isawaitable(iterator) and not asyncio.iscoroutine(iterator)
    assert weakref.ref(iterator)() is iterator
    assert iter(iterator) is aiter(iterator) is iterator
    assert len({iterator, iterator}) == 1
    assert iterator != impl.as_completed([])


def test_only_as_completed_makes_one(impl):
    with pytest.raises(TypeError, match=r"^cannot create 'gatedcoro\.AsCompleted' instances"):
        impl.AsCompleted()
    with pytest.raises(TypeError):
        impl.AsCompleted([])


def test_it_is_generic(impl):
    alias = impl.AsCompleted[int]
    assert type(alias) is types.GenericAlias
    assert typing.get_origin(alias) is impl.AsCompleted
    assert typing.get_args(alias) == (int,)


METHODS = {
    "__anext__": lambda iterator: iterator.__anext__(),
    "__next__": lambda iterator: iterator.__next__(),
    "__aenter__": lambda iterator: iterator.__aenter__(),
    "__aexit__": lambda iterator: iterator.__aexit__(None, None, None),
    "aclose": lambda iterator: iterator.aclose(),
}


@pytest.mark.parametrize("method", METHODS)
def test_its_methods_return_coroutines_with_names_that_are_awaited_once(impl, method):
    async def main():
        iterator = impl.as_completed([value(1), value(2)])
        coroutine = METHODS[method](iterator)
        assert asyncio.iscoroutine(coroutine) and inspect.isawaitable(coroutine)
        assert isinstance(coroutine, collections.abc.Coroutine)
        assert coroutine.__qualname__ == f"AsCompleted.{method}"
        assert coroutine.__name__ == method or coroutine.__name__ == coroutine.__qualname__
        assert f"AsCompleted.{method}" in repr(coroutine)
        await coroutine
        for again in range(2):
            with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
                await coroutine
        coroutine = METHODS[method](iterator) if method != "__next__" or again else None
        with pytest.warns(RuntimeWarning, match=rf"^coroutine 'AsCompleted\.{method}' was never awaited"):
            del coroutine
        await iterator.aclose()

    run(main)


def test_a_coroutine_of_the_plain_loop_is_awaited_by_one_at_a_time(impl):
    async def main():
        coroutine = next(impl.as_completed(coroutines(Trace(), "a9")))
        task = asyncio.create_task(coroutine)
        await idle(1)
        with pytest.raises(RuntimeError, match="coroutine is being awaited already"):
            await coroutine
        assert await task == "a"

    run(main)


# repr


@EACH_LOOP
def test_the_repr_tells_how_many_run_wait_and_are_done(impl, loop):
    async def main():
        said = []

        def says():
            said.append(repr(iterator).removeprefix("<gatedcoro.AsCompleted: ").removesuffix(" done>"))

        iterator = impl.as_completed(coroutines(Trace(), "a3 b15 c~ d~ e~"), limit=3)
        says()
        asked = next(iterator) if loop is loop_plain else anext(iterator)
        says()
        first = asyncio.create_task(asked)
        await idle(2)
        says()
        await first
        await idle(1)
        says()
        await idle(12)
        says()
        await (next(iterator) if loop is loop_plain else anext(iterator))
        says()
        await iterator.aclose()
        says()
        return said

    assert run(main) == [
        "0 running, 0 waiting, 0",
        "0 running, 0 waiting, 0",
        "3 running, 0 waiting, 0",
        "3 running, 0 waiting, 1",
        "3 running, 1 waiting, 1",
        "3 running, 0 waiting, 2",
        "0 running, 0 waiting, 2",
    ]


# What an iterator can be given to


@pytest.mark.parametrize("make", [coroutines, made, made_async])
def test_aclosing_and_an_exit_stack_take_it(impl, make):
    async def main():
        trace = Trace()
        async with contextlib.aclosing(impl.as_completed(make(trace, "a1 b~ c"), limit=2)) as iterator:
            await anext(iterator)
        async with contextlib.AsyncExitStack() as stack:
            iterator = await stack.enter_async_context(impl.as_completed(make(trace, "a1 b~ c"), limit=2))
            await anext(iterator)
        return [event for event in trace.events if event[0] == "x"]

    assert run(main) == ["xb", "xb"]


def test_builtins_and_itertools_take_it(impl):
    async def main():
        def iterator():
            return impl.as_completed(coroutines(Trace(), "a1 b2 c3"))

        assert [await asked for asked in itertools.islice(iterator(), 2)] == ["a", "b"]
        assert [(index, await asked) for index, asked in enumerate(iterator())] == [(0, "a"), (1, "b"), (2, "c")]
        first, *rest = iterator()
        assert [await first, *[await asked for asked in rest]] == ["a", "b", "c"]
        assert await asyncio.gather(*iterator()) == ["a", "b", "c"]
        assert await functools.partial(next, iterator())() == "a"

    run(main)
    gc.collect()
