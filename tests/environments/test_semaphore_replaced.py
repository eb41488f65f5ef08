"""Where somebody has replaced what a method of asyncio's semaphores does, in whatever way, that is what is done."""

import asyncio
import functools
import inspect
import types

import pytest

from contract_tools import run
from implementations import load_again

METHODS = ["acquire", "release", "locked", "_wake_up_next", "__aenter__", "__aexit__"]


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


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("way", ["the code", "the function"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("cls", [asyncio.Semaphore, asyncio.BoundedSemaphore])
def test_it_is_what_is_called(impl, monkeypatch, cls, name, way, when):
    called = []
    module = load_again(impl) if when == "after" else None
    replace(monkeypatch, cls, name, way, called)
    if module is None:
        module = load_again(impl)
    expected, *ours = uses(module, cls, called)
    assert expected >= 5
    # At most one item waits in a gathering, so fewer may look, or be woken; each takes and gives back a slot.
    if name in ("locked", "_wake_up_next"):
        assert ours[0] == expected
        assert all(count > 0 for count in ours)
    else:
        assert ours == [expected] * 3
    with monkeypatch.context():
        monkeypatch.undo()
    assert uses(module, cls, called) == [0] * 4
