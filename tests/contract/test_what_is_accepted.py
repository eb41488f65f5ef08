"""Each function accepts what the one that it replaces accepts: what a Task can be made of is not what `await` takes.

Oracles: asyncio.gather for `gather` and for no limit, `await` itself for everything else.
"""

import asyncio
import collections.abc
import gc
import sys
import types

import pytest

from contract_tools import Trace, idle, is_closed, run
from virtual_time import VirtualTimeLoop


async def coroutine(result=7):
    await asyncio.sleep(0)
    return result


@types.coroutine
def iterable_coroutine(result=7):
    yield
    return result


def plain_generator(result=7):
    yield
    return result


class OnlyAwait:
    def __await__(self):
        return coroutine().__await__()


def proxy_of(wrapped):
    """An object with everything that *wrapped* has, its class included, but nothing that the interpreter looks for in the type."""

    class Proxy:
        __class__ = property(lambda self: type(wrapped))

        def __getattr__(self, name):
            return getattr(wrapped, name)

        def __hash__(self):
            return hash(wrapped)

    return Proxy()


class Drives:
    """Has what a Task calls."""

    def __init__(self):
        self.wrapped = coroutine()

    def send(self, value):
        return self.wrapped.send(value)

    def throw(self, error):
        return self.wrapped.throw(error)

    def close(self):
        return self.wrapped.close()


def with_await(method):
    class DrivesOrAwaits(Drives):
        __await__ = method

    return DrivesOrAwaits()


def registered_coroutine():
    class Registered(Drives):
        pass

    collections.abc.Coroutine.register(Registered)
    return Registered()


def subclass_whose_await_method_fails():
    class Subclass(Drives, collections.abc.Coroutine):
        def __await__(self):
            self.close()
            raise LookupError("of __await__()")

    return Subclass()


def registered_awaitable():
    class Registered:
        pass

    collections.abc.Awaitable.register(Registered)
    return Registered()


def awaitable_by_an_attribute():
    found = registered_awaitable()
    found.__await__ = lambda: coroutine("by the attribute").__await__()
    return found


def attribute_beside_a_method():
    found = OnlyAwait()
    found.__await__ = lambda: coroutine("by the attribute").__await__()
    return found


def awaitable_by_flags():
    class Flags:
        __class__ = types.GeneratorType
        gi_code = types.SimpleNamespace(co_flags=0xFFFF)

    return Flags()


def not_awaitable_by_flags():
    class Flags:
        __class__ = types.GeneratorType
        gi_code = types.SimpleNamespace(co_flags=0)

    return Flags()


def await_is_none():
    class NoAwait(OnlyAwait):
        __await__ = None

    return NoAwait()


def done_future():
    future = asyncio.get_running_loop().create_future()
    future.set_result("of the Future")
    return future


def future_without_await():
    """asyncio.isfuture() is true of it; only a callback can wait for it."""

    class Duck:
        _asyncio_future_blocking = False

        def __init__(self, future):
            self._loop = future.get_loop()
            for name in ("add_done_callback", "cancel", "cancelled", "done", "exception", "get_loop", "result"):
                setattr(self, name, getattr(future, name))

    return Duck(done_future())


KINDS = {
    "coroutine": coroutine,
    "iterable coroutine": iterable_coroutine,
    "plain generator": plain_generator,
    "only __await__": OnlyAwait,
    "proxy of a coroutine": lambda: proxy_of(coroutine()),
    "proxy of a proxy": lambda: proxy_of(proxy_of(coroutine())),
    "proxy of an iterable coroutine": lambda: proxy_of(iterable_coroutine()),
    "proxy of a plain generator": lambda: proxy_of(plain_generator()),
    "proxy of an awaitable": lambda: proxy_of(OnlyAwait()),
    "proxy of a Future": lambda: proxy_of(done_future()),
    "proxy of a number": lambda: proxy_of(5),
    "Coroutine by its methods": lambda: with_await(lambda self: self.wrapped.__await__()),
    "Coroutine whose __await__() fails": subclass_whose_await_method_fails,
    "Coroutine whose __await__() gives no iterator": lambda: with_await(lambda self: self.close()),
    "Coroutine whose __await__ is None": lambda: with_await(None),
    "Coroutine by registration": registered_coroutine,
    "no Coroutine: not registered": Drives,
    "Awaitable by registration": registered_awaitable,
    "Awaitable by registration and an attribute": awaitable_by_an_attribute,
    "an attribute beside the method": attribute_beside_a_method,
    "Awaitable by flags": awaitable_by_flags,
    "not by flags": not_awaitable_by_flags,
    "__await__ is None": await_is_none,
}


async def outcome_of(call):
    """What `await call()` comes to: a result, or the type and text of an error."""
    try:
        return await call()
    except Exception as error:
        return type(error), str(error)


async def by_await(value):
    return [await value]


def discard(made):
    for value in made:
        close = getattr(getattr(value, "wrapped", value), "close", None)
        if close is not None:
            close()


@pytest.fixture(params=KINDS)
def kind(request):
    """A function that makes a new value of the kind; what it made is closed in the end."""
    made = []

    def make():
        made.append(KINDS[request.param]())
        return made[-1]

    make.kind = request.param
    yield make
    discard(made)


AS_ASYNCIO_GATHER = {
    "gather": lambda impl, value: impl.gather(value),
    "gather(limit=1)": lambda impl, value: impl.gather(value, limit=1),
    "gather(limit=semaphore)": lambda impl, value: impl.gather(value, limit=asyncio.Semaphore(1)),
    "gather_with_concurrency(None)": lambda impl, value: impl.gather_with_concurrency(None, value),
}

AS_AWAIT = {
    "gather_with_concurrency(1)": lambda impl, value: impl.gather_with_concurrency(1, value),
    "gated_coro": lambda impl, value: by_await(impl.gated_coro(asyncio.Semaphore(1), value)),
    "run_all": lambda impl, value: impl.run_all([lambda: value]),
    "run_all(limit=1)": lambda impl, value: impl.run_all([lambda: value], limit=1),
    "run_all(limit=semaphore)": lambda impl, value: impl.run_all([lambda: value], limit=asyncio.Semaphore(1)),
    "constrained_execution": lambda impl, value: impl.constrained_execution([lambda: value], 1),
}


@pytest.mark.parametrize("door", AS_ASYNCIO_GATHER)
def test_what_asyncio_gather_accepts(impl, kind, door):
    async def main():
        theirs = await outcome_of(lambda: asyncio.gather(kind()))
        assert await outcome_of(lambda: AS_ASYNCIO_GATHER[door](impl, kind())) == theirs

    run(main)


@pytest.mark.parametrize("door", AS_AWAIT)
def test_what_await_accepts(impl, kind, door):
    async def main():
        theirs = await outcome_of(lambda: by_await(kind()))
        assert await outcome_of(lambda: AS_AWAIT[door](impl, kind())) == theirs

    run(main)


def test_a_future_that_only_calls_back(impl):
    async def main():
        assert await impl.gather(future_without_await()) == await asyncio.gather(future_without_await())
        # With a limit it has to be awaited.
        with pytest.raises(TypeError):
            await impl.gather(future_without_await(), limit=1)

    run(main)


# What a Task of asyncio's makes of them, beside the result


def gathers(impl):
    yield asyncio.gather
    yield impl.gather
    yield lambda *aws: impl.gather(*aws, limit=2)
    yield lambda *aws: impl.gather(*aws, limit=asyncio.Semaphore(2))


def test_the_task_of_a_proxied_coroutine_has_the_proxy_and_its_name(impl):
    async def looks():
        task = asyncio.current_task()
        return task, task.get_coro(), task.get_coro().__qualname__

    async def main():
        for gather in gathers(impl):
            proxy = proxy_of(looks())
            [(task, *seen)] = await gather(proxy)
            assert seen == [proxy, looks.__qualname__]
            assert task.get_coro() is proxy  # also when it has ended

    run(main)


def test_a_proxied_coroutine_is_cancelled(impl):
    async def main():
        for gather in gathers(impl):
            trace = Trace()

            async def item(name):
                trace(f"+{name}")
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError as error:
                    trace(f"x{name} {error}")
                    raise

            outer = gather(proxy_of(item("a")), proxy_of(item("b")))
            await idle(3)
            outer.cancel("why")
            with pytest.raises(asyncio.CancelledError):
                await outer
            assert trace.events == ["+a", "+b", "xa why", "xb why"]

    run(main)


@pytest.mark.parametrize("n", [1, None])
def test_proxied_coroutines_that_never_start_are_closed(impl, n):
    async def main():
        queued = [coroutine(), coroutine()]
        outer = impl.gather(proxy_of(asyncio.sleep(3600)), *map(proxy_of, queued), limit=1)
        await idle(3)
        assert outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        assert all(map(is_closed, queued))
        dropped = coroutine()
        impl.gather_with_concurrency(n, proxy_of(dropped)).close()
        assert is_closed(dropped)
        refused = coroutine()
        with pytest.raises(TypeError):
            await impl.gather_with_concurrency(None, proxy_of(refused), 5)
        assert is_closed(refused)

    run(main)


def test_a_coroutine_that_is_only_driven_is_closed_with_its_loop(impl):
    closed = []

    class Hangs:
        def send(self, value):
            self.future = asyncio.get_running_loop().create_future()
            self.future._asyncio_future_blocking = True
            return self.future

        def throw(self, error):
            raise error

        def close(self):
            closed.append(1)

    collections.abc.Coroutine.register(Hangs)
    loop = asyncio.new_event_loop()

    async def main():
        impl.gather(Hangs(), limit=1)
        await idle(2)

    loop.run_until_complete(main())
    loop.close()
    del loop
    gc.collect()
    assert closed == [1]


def test_an_error_of_run_all_says_which_item_cannot_be_awaited(impl):
    async def main():
        for value in proxy_of(coroutine()), registered_awaitable(), proxy_of(OnlyAwait()), 5:
            with pytest.raises(TypeError) as caught:
                await impl.run_all([coroutine, lambda: value], limit=1)
            assert caught.value.__notes__ == ["raised by item 1"]
            discard([value])

    run(main)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="plain generators are coroutines up to 3.11")
def test_plain_generators_and_their_proxies_run_in_tasks(impl):
    async def main():
        for gather in gathers(impl):
            assert await gather(plain_generator(1), proxy_of(plain_generator(2))) == [1, 2]

    run(main)


# What an item answers is its own code, which may do anything


@pytest.mark.parametrize("limit", [1, 2, None])
@pytest.mark.parametrize("does", ["cancels", "fails", "is interrupted"])
@pytest.mark.parametrize("at", range(12))
def test_an_item_that_does_something_when_it_is_asked_what_it_is(impl, limit, does, at):
    async def main():
        asked, begun = [], []

        class Asked(Drives):
            @property
            def __class__(self):
                asked.append(self)
                if len(asked) - 1 == at:
                    if does == "cancels" and outer:
                        outer[0].cancel("why")
                    elif does != "cancels":
                        raise LookupError("of __class__") if does == "fails" else KeyboardInterrupt
                return collections.abc.Coroutine

            def send(self, value):
                begun.append((self, bool(outer) and outer[0].done()))
                return self.wrapped.send(value)

        outer, items = [], [Asked() for _ in range(4)]
        try:
            outer.append(impl.gather(*items, limit=limit))
            results = await outer[0]
            assert results == [7] * 4
        except LookupError:
            assert does == "fails"
        except asyncio.CancelledError as error:
            if does == "is interrupted":
                raise  # the loop is being torn down
            assert (does, error.args) == ("cancels", ("why",))
        await idle(8)
        # Whatever has not begun is closed.
        for one in items:
            assert is_closed(one.wrapped)

    try:
        run(main, loop_factory=VirtualTimeLoop)
    except KeyboardInterrupt:
        assert does == "is interrupted"


def test_a_proxy_that_refuses_to_name_itself_is_an_item_like_any_other(impl):
    class Proxy:
        def __getattribute__(self, name):
            if name in ("__name__", "__qualname__"):
                raise RuntimeError("nothing to stand for")
            return object.__getattribute__(self, name)

        def __await__(self):
            yield
            return 3

    async def main():
        assert await impl.gather(Proxy(), Proxy(), limit=1) == [3, 3]
        assert await impl.gather_with_concurrency(1, Proxy()) == [3]
        assert await impl.run_all([Proxy, Proxy], limit=1) == [3, 3]

    run(main)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Tasks are stepped in the running loop itself")
def test_a_proxy_in_the_place_of_the_running_loop(impl):
    class Proxy:
        def __init__(self, loop):
            self.__dict__["loop"] = loop

        def __getattr__(self, name):
            return getattr(self.loop, name)

    async def main():
        loop = asyncio.get_running_loop()
        asyncio._set_running_loop(Proxy(loop))
        try:
            call = impl.gather(asyncio.sleep(0, 1), asyncio.sleep(0, 2), limit=1)
        finally:
            asyncio._set_running_loop(loop)
        while not call.done():
            await asyncio.sleep(0)
        assert call.result() == [1, 2]

    run(main)
