"""Methods of semaphores that somebody has replaced, and how often each is called."""

import asyncio
import functools
import inspect
import types

from contract_tools import run


def note_calls(function, called):
    """What does as *function* and says so."""

    @functools.wraps(function)
    def noting(self, *args):
        called.append(function.__name__)
        return function(self, *args)

    return noting


def trampoline(function, called):
    """Code to be put into *function* in place, as ddtrace does: it says that it is the original's."""
    code = function.__code__
    original = types.FunctionType(code, function.__globals__, "original", closure=function.__closure__)
    noting = note_calls(original, called)

    if inspect.iscoroutinefunction(function):

        async def template(self, *args):
            call = "the wrapper"
            return await call(self, *args)

    elif function.__closure__ is None:

        def template(self, *args):
            call = "the wrapper"
            return call(self, *args)

    else:  # BoundedSemaphore.release() has a cell for super()
        __class__ = None

        def template(self, *args):
            call = "the wrapper"
            return call(self, *args) if call else __class__

    original.__name__ = function.__name__
    noting.__name__ = function.__name__
    return template.__code__.replace(
        co_consts=tuple(noting if constant == "the wrapper" else constant for constant in template.__code__.co_consts),
        co_filename=code.co_filename,
        co_name=code.co_name,
        co_qualname=code.co_qualname,
        co_firstlineno=code.co_firstlineno,
    )


def replace(monkeypatch, cls, name, way, called):
    owner = next(base for base in cls.__mro__ if name in vars(base))
    function = vars(owner)[name]
    if way == "the code":
        monkeypatch.setattr(function, "__code__", trampoline(function, called))
    else:
        monkeypatch.setattr(owner, name, note_calls(function, called))


async def item(i):
    await asyncio.sleep(0)
    return i


async def by_async_with(gate, coroutine):
    async with gate:
        return await coroutine


def uses(module, cls, called):
    """How often the method is called when items are gated by a semaphore, by each function and by `async with`."""

    async def counted(call):
        called.clear()
        gate = cls(2)
        assert await call(gate) == list(range(5))
        assert gate._value == 2
        return len(called)

    async def main():
        return [
            await counted(lambda gate: asyncio.gather(*(by_async_with(gate, item(i)) for i in range(5)))),
            await counted(lambda gate: asyncio.gather(*(module.gated_coro(gate, item(i)) for i in range(5)))),
            await counted(lambda gate: module.gather(*map(item, range(5)), limit=gate)),
            await counted(lambda gate: module.run_all([lambda i=i: item(i) for i in range(5)], limit=gate)),
        ]

    return run(main)
