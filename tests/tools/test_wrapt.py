"""wrapt's proxies and decorators, and two libraries that wrap async functions: as items, as functions, as arguments, around ours."""

import asyncio
import functools
import inspect
import operator
import types

import pytest

from contract_tools import idle, is_closed, run
from doors import all_doors, doors
from tools import needs

needs("wrapt", "async-lru", "tenacity")

import async_lru  # noqa: E402
import tenacity  # noqa: E402
import wrapt  # noqa: E402


@wrapt.decorator
def passes_on(wrapped, instance, args, kwargs):
    return wrapped(*args, **kwargs)


@wrapt.decorator
async def awaits(wrapped, instance, args, kwargs):
    return await wrapped(*args, **kwargs)


async def plain(i=7):
    await asyncio.sleep(0)
    return i


@types.coroutine
def of_a_generator(i=7):
    yield
    return i


class OnlyAwait:
    def __init__(self, i=7):
        self.i = i

    def __await__(self):
        return plain(self.i).__await__()


class Client:
    async def __call__(self, i):
        return await plain(i)

    @passes_on
    async def method(self, i):
        return await plain(i)

    @awaits
    async def async_method(self, i):
        return await plain(i)

    @classmethod
    @passes_on
    async def of_class(cls, i):
        return await plain(i)

    @staticmethod
    @passes_on
    async def static(i):
        return await plain(i)


def retried():
    attempts = {}

    @tenacity.retry(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_none())
    async def function(i):
        attempts[i] = attempts.get(i, 0) + 1
        await asyncio.sleep(0)
        if attempts[i] % 3:
            raise OSError("try again")
        return i

    return function


# Each makes an async function of one argument.
FUNCTIONS = {
    "wrapt": lambda: passes_on(plain),
    "async wrapt": lambda: awaits(plain),
    "wrapt twice": lambda: passes_on(awaits(passes_on(plain))),
    "FunctionWrapper": lambda: wrapt.FunctionWrapper(plain, lambda wrapped, instance, args, kwargs: wrapped(*args)),
    "method": lambda: Client().method,
    "async method": lambda: Client().async_method,
    "class method": lambda: Client.of_class,
    "static method": lambda: Client.static,
    "callable proxy": lambda: wrapt.CallableObjectProxy(plain),
    "proxy of a callable object": lambda: wrapt.CallableObjectProxy(Client()),
    "partial by wrapt": lambda: wrapt.PartialCallableObjectProxy(plain),
    "partial of a proxy": lambda: functools.partial(wrapt.CallableObjectProxy(plain)),
    "AutoObjectProxy of what is awaited": lambda: lambda i: wrapt.AutoObjectProxy(plain(i)),
    "AutoObjectProxy of an awaitable": lambda: lambda i: wrapt.AutoObjectProxy(OnlyAwait(i)),
    "tenacity": retried,
    "tenacity of wrapt": lambda: tenacity.retry(stop=tenacity.stop_after_attempt(2))(passes_on(plain)),
    "async_lru": lambda: async_lru.alru_cache(maxsize=None)(plain),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_what_wraps_an_async_function_is_one(impl, kind):
    async def main():
        for name, call in all_doors(impl):
            for limit in 1, 2, None:
                function = FUNCTIONS[kind]()
                got = await call(limit, [functools.partial(function, i) for i in range(5)])
                assert got == list(range(5)), (name, limit)

    run(main)


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_run_all_calls_it_as_it_is(impl, kind):
    async def main():
        function = FUNCTIONS[kind]()
        wrapped = [passes_on(functools.partial(function, i)) for i in range(4)]
        assert await impl.run_all(wrapped, limit=2) == list(range(4))
        assert await impl.run_all(wrapt.ObjectProxy(wrapped), limit=2) == list(range(4))
        assert await impl.constrained_execution(tuple(map(wrapt.CallableObjectProxy, wrapped)), 2) == list(range(4))

    run(main)


# Proxies of awaitables

AWAITABLES = {
    "coroutine": plain,
    "types.coroutine": of_a_generator,
    "only __await__": OnlyAwait,
    "number": lambda: 5,
    "done Future": lambda: done_future(),
    "pending Future": lambda: pending_future(),
    "Task": lambda: asyncio.ensure_future(plain()),
}

PROXIES = {
    "ObjectProxy": wrapt.ObjectProxy,
    "AutoObjectProxy": wrapt.AutoObjectProxy,
    "CallableObjectProxy": wrapt.CallableObjectProxy,
    "ObjectProxy of an ObjectProxy": lambda value: wrapt.ObjectProxy(wrapt.ObjectProxy(value)),
    "AutoObjectProxy of an ObjectProxy": lambda value: wrapt.AutoObjectProxy(wrapt.ObjectProxy(value)),
}


def done_future():
    future = asyncio.get_running_loop().create_future()
    future.set_result("of the Future")
    return future


def pending_future():
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, "of the Future")
    return future


async def outcome_of(call, value):
    try:
        return await call(value)
    except Exception as error:
        return type(error), str(error)
    finally:
        if inspect.iscoroutine(value):
            value.close()


async def by_await(value):
    return [await value]


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("kind", AWAITABLES)
def test_a_proxy_is_accepted_where_the_function_that_is_replaced_accepts_it(impl, kind, proxy):
    async def main():
        def make():
            return PROXIES[proxy](AWAITABLES[kind]())

        theirs = await outcome_of(asyncio.gather, make())
        for call in (
            impl.gather,
            functools.partial(impl.gather, limit=1),
            functools.partial(impl.gather, limit=asyncio.Semaphore(1)),
            functools.partial(impl.gather_with_concurrency, None),
        ):
            assert await outcome_of(call, make()) == theirs, call
        theirs = await outcome_of(by_await, make())
        for call in (
            functools.partial(impl.gather_with_concurrency, 1),
            lambda value: by_await(impl.gated_coro(asyncio.Semaphore(1), value)),
            lambda value: impl.run_all([lambda: value], limit=1),
            lambda value: impl.constrained_execution([lambda: value], asyncio.Semaphore(1)),
        ):
            assert await outcome_of(call, make()) == theirs, call

    run(main)


def test_a_proxy_of_a_coroutine_of_ours(impl):
    async def main():
        def calls():
            yield impl.gated_coro(asyncio.Semaphore(1), plain())
            yield impl.gather_with_concurrency(1, plain())
            yield impl.run_all([plain], limit=1)

        assert await impl.gather(*map(wrapt.ObjectProxy, calls()), limit=1) == [7, [7], [7]]
        assert await impl.gather_with_concurrency(1, *map(wrapt.AutoObjectProxy, calls())) == [7, [7], [7]]
        assert await impl.gather(wrapt.ObjectProxy(impl.gather(plain())), limit=1) == [[7]]

    run(main)


@pytest.mark.parametrize("proxy", ["ObjectProxy", "AutoObjectProxy"])
def test_proxied_coroutines_are_cancelled_and_closed(impl, proxy):
    async def main():
        ended = []

        async def hangs(name):
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append(name)

        coroutines = [hangs(name) for name in "abc"]
        outer = impl.gather(*map(PROXIES[proxy], coroutines), limit=2)
        await idle(3)
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        await idle(2)
        assert ended == ["a", "b"]
        assert all(map(is_closed, coroutines))
        coroutine = plain()
        impl.gather_with_concurrency(1, PROXIES[proxy](coroutine)).close()
        assert is_closed(coroutine)

    run(main)


# Proxies of other arguments


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_proxy_of_a_limit_is_what_it_stands_for(impl, proxy):
    async def main():
        three = PROXIES[proxy](3)
        assert operator.index(three) == 3
        assert await impl.gather_with_concurrency(three, *map(plain, range(5))) == list(range(5))
        assert await impl.gather(*map(plain, range(5)), limit=three) == list(range(5))
        with pytest.raises(ValueError):
            await impl.gather_with_concurrency(PROXIES[proxy](0), plain())

        semaphore = asyncio.Semaphore(2)
        gate = PROXIES[proxy](semaphore)
        async with gate:
            assert semaphore._value == 1
        running, most = [], []

        async def item(i):
            running.append(i)
            most.append(len(running))
            await idle(2)
            running.remove(i)
            return i

        assert await impl.gather(*map(item, range(6)), limit=gate) == list(range(6))
        assert await impl.gather(*[impl.gated_coro(gate, item(i)) for i in range(6)]) == list(range(6))
        assert await impl.run_all([functools.partial(item, i) for i in range(6)], limit=gate) == list(range(6))
        assert (max(most), semaphore._value) == (2, 2)

    run(main)


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_proxy_of_something_else_is_no_limit(impl, proxy):
    async def main():
        for value in "text", 2.5, object():
            coroutine = plain()
            with pytest.raises((TypeError, AttributeError)):
                await impl.gather(coroutine, limit=PROXIES[proxy](value))
            assert is_closed(coroutine)

    run(main)


# Around our own functions


def test_our_functions_decorated(impl):
    async def main():
        for decorator in passes_on, wrapt.CallableObjectProxy:
            decorated = {
                name: decorator(getattr(impl, name))
                for name in ("gated_coro", "gather", "gather_with_concurrency", "run_all", "constrained_execution")
            }
            for name, function in decorated.items():
                assert function.__name__ == name
                assert function.__doc__ == getattr(impl, name).__doc__
                assert inspect.signature(function) == inspect.signature(getattr(impl, name))
                assert inspect.iscoroutinefunction(function) == inspect.iscoroutinefunction(getattr(impl, name))
            module = types.SimpleNamespace(**decorated)
            for name, call in doors(module).items():
                for limit in 1, None:
                    got = await call(limit, [lambda i=i: plain(i) for i in range(4)])
                    assert got == list(range(4)), (name, limit)
        awaited = awaits(impl.gather_with_concurrency)
        assert await awaited(1, plain(1), plain(2)) == [1, 2]

    run(main)


def test_our_functions_patched_in_their_module(impl, monkeypatch):
    import gatedcoro

    called = []

    def note(wrapped, instance, args, kwargs):
        called.append((wrapped.__name__, instance, args[:1], kwargs))
        return wrapped(*args, **kwargs)

    async def main():
        for name in "gather", "gather_with_concurrency", "run_all":
            monkeypatch.setattr(gatedcoro, name, getattr(impl, name))
            wrapt.wrap_function_wrapper(gatedcoro, name, note)
        assert await gatedcoro.gather_with_concurrency(2, plain(1), plain(2)) == [1, 2]
        assert await gatedcoro.run_all([plain], limit=1) == [7]
        [result] = await gatedcoro.gather(plain(1), limit=1)
        assert result == 1

    run(main)
    assert [(name, instance, kwargs) for name, instance, _, kwargs in called] == [
        ("gather_with_concurrency", None, {}),
        ("run_all", None, {"limit": 1}),
        ("gather", None, {"limit": 1}),
    ]


def test_in_a_class_they_are_no_methods_wrapped_or_not(impl):
    class Holder:
        gather = passes_on(impl.gather)
        limited = wrapt.CallableObjectProxy(impl.gather_with_concurrency)

    async def main():
        # A wrapt decorator tells a function in a class from a method by its type: ours are not bound.
        assert await Holder.gather(plain(1)) == [1]
        assert await Holder().limited(1, plain(1)) == [1]

    run(main)


# async_lru


def test_a_cached_function_is_computed_once_for_all_items(impl):
    async def main():
        for name, call in all_doors(impl):
            computed = []

            @async_lru.alru_cache(maxsize=32)
            async def load(key):
                computed.append(key)
                await idle(3)
                return key * 10

            got = await call(3, [lambda i=i: load(i % 4) for i in range(12)])
            assert got == [i % 4 * 10 for i in range(12)], name
            assert sorted(computed) == [0, 1, 2, 3], name
            # The end of one call does not spoil the cache for others.
            task = asyncio.ensure_future(call(3, [lambda i=i: load(i) for i in (7, 7, 8)]))
            await idle(3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await call(3, [lambda i=i: load(i) for i in (7, 8, 7)]) == [70, 80, 70], name
            await load.cache_close()

    run(main)
