"""A coroutine that is driven by hand, or awaited, returns by a StopIteration: each of them is one of its own to whoever holds it."""

import asyncio
import inspect
import weakref

import pytest

from in_subprocess import check_script, joined


class Result:
    pass


async def returns(value):
    return value


def stop_of(impl, value, *, by=lambda coroutine: coroutine.send(None), kept=None):
    """The StopIteration by which a coroutine, which may be kept, returns *value*."""
    coroutine = impl.gated_coro(asyncio.Semaphore(), returns(value))
    if kept is not None:
        kept.append(coroutine)
    try:
        by(coroutine)
    except StopIteration as stop:
        return stop.with_traceback(None)
    raise AssertionError("it does not return")


@pytest.fixture(autouse=True)
def in_a_loop():
    """The coroutines ask for one; nothing here suspends."""
    loop = asyncio.new_event_loop()
    asyncio._set_running_loop(loop)
    yield
    asyncio._set_running_loop(None)
    loop.close()


@pytest.mark.parametrize("by", [lambda coroutine: coroutine.send(None), next], ids=["send", "next"])
def test_each_is_its_holder_s(impl, by):
    stops = [stop_of(impl, value, by=by) for value in ("one", "two", ("a", "tuple"), ValueError("an error"))]
    assert len({*map(id, stops)}) == 4
    assert [stop.value for stop in stops[:3]] == ["one", "two", ("a", "tuple")]
    assert [stop.args for stop in stops[:3]] == [("one",), ("two",), (("a", "tuple"),)]
    assert repr(stops[3].value) == "ValueError('an error')"


def spoiled(stop):
    stop.note = "an attribute"
    if hasattr(stop, "add_note"):
        stop.add_note("a note")


def chained(stop):
    stop.__context__ = KeyError()


def caused(stop):
    stop.__cause__ = KeyError()


def with_other_arguments(stop):
    stop.args = ["other", "arguments"]


@pytest.mark.parametrize("change", [spoiled, chained, caused, with_other_arguments])
def test_what_somebody_did_to_one_is_not_in_the_next(impl, change):
    kept = []
    for value in range(3):
        stop = stop_of(impl, value, kept=kept)
        assert (stop.value, stop.args) == (value, (value,))
        assert not hasattr(stop, "note") and not hasattr(stop, "__notes__")
        assert stop.__context__ is None and stop.__cause__ is None
        change(stop)
        del stop
        kept.clear()


@pytest.mark.parametrize("held", [False, True])
def test_who_holds_its_args_keeps_them(impl, held):
    kept = []
    stop = stop_of(impl, "one", kept=kept)
    args = stop.args
    if not held:
        del stop
    kept.clear()
    assert stop_of(impl, "two").args == ("two",)
    assert args == ("one",)


def driven(coroutine):
    """What an await drives to its end, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it suspends")


def test_what_was_returned_is_not_kept(impl):
    async def main():
        result = await impl.gated_coro(asyncio.Semaphore(), returns(Result()))
        gone = weakref.ref(result)
        del result
        return gone()

    assert driven(main()) is None


def test_what_a_stream_gives_is_not_kept(impl):
    async def main():
        gone = []
        async for result in impl.amap(returns, (Result() for _ in range(3)), limit=1):
            gone.append(weakref.ref(result))
            del result
            assert gone[-1]() is None
        return len(gone)

    asyncio._set_running_loop(None)
    assert asyncio.run(main()) == 3


def test_a_cycle_through_one_that_is_held_is_collected(impl):
    # In a process of its own: here conftest.py has frozen what the collector would have to go through.
    check_script(impl, joined("import weakref", *map(inspect.getsource, (Result, returns, stop_of)), CYCLES))


CYCLES = """
    asyncio._set_running_loop(asyncio.new_event_loop())
    gone = []

    def cycle():
        result = Result()
        result.stop = stop_of(impl, result)
        gone.append(weakref.ref(result))

    for value in range(3):
        kept = []
        stop_of(impl, value, kept=kept)
        kept.clear()
        gc.collect()
        cycle()
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3
    asyncio.get_running_loop().close()
    asyncio._set_running_loop(None)
    print("ok")
"""


def test_what_somebody_else_took_is_gone_with_that(impl):
    stop = stop_of(impl, Result())
    gone = weakref.ref(stop.value)
    del stop
    assert gone() is None
