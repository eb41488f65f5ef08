"""All the code of run_all's iterable runs in one context: iter(), next(), what closes it, and its finalizer.

However the call lets go of it. Here every iterable sets a variable when it begins, and resets that by its token when it goes, which
works in the same context only.
"""

import asyncio
import contextlib
import contextvars
import gc
import itertools
import sys

import pytest

from contract_tools import run

VARIABLE = contextvars.ContextVar("VARIABLE", default="default")
COUNT = 6


class Log:
    """What the parts of an iterable saw of the variable."""

    def __init__(self):
        self.events = []
        self.token = None

    def begins(self):
        self.events.append(f"begins in {VARIABLE.get()}")
        self.token = VARIABLE.set("source")

    def goes_on(self):
        assert VARIABLE.get() == "source"

    def goes(self):
        self.events.append(f"goes in {VARIABLE.get()}")
        VARIABLE.reset(self.token)
        self.events.append("reset")

    def check(self):
        assert self.events == ["begins in caller", "goes in source", "reset"]


# Kinds of iterables: each takes functions, in a list that may end with an error to be raised.


def draw(functions):
    function = functions.pop(0)
    if isinstance(function, BaseException):
        raise function
    return function


def generator(log, functions):
    log.begins()
    try:
        while functions:
            log.goes_on()
            yield draw(functions)
    finally:
        log.goes()


class Iterator:
    def __init__(self, log, functions):
        self.log, self.functions = log, functions

    def __iter__(self):
        self.log.begins()
        return self

    def __next__(self):
        self.log.goes_on()
        if not self.functions:
            raise StopIteration
        return draw(self.functions)

    def __del__(self):
        self.log.goes()


class Iterable:
    """It goes as soon as there is an iterator."""

    def __init__(self, log, functions):
        self.log, self.functions = log, functions

    def __iter__(self):
        self.log.begins()
        return iter([f for f in self.functions if not isinstance(f, BaseException)])

    def __del__(self):
        self.log.goes()


class ListOfItsOwn(list):
    def __init__(self, log, functions):
        super().__init__(functions)
        self.log = log

    def __iter__(self):
        return generator(self.log, [*super().__iter__()])


class ListThatTells(list):
    def __init__(self, log, functions):
        super().__init__(f for f in functions if not isinstance(f, BaseException))
        self.log = log

    def __iter__(self):
        self.log.begins()
        return super().__iter__()

    def __del__(self):
        self.log.goes()


KINDS = {
    "generator": generator,
    "generator expression": lambda log, functions: (f for f in generator(log, functions)),
    "iterator": Iterator,
    "iterable": Iterable,
    "list of its own": ListOfItsOwn,
    "list that tells": ListThatTells,
    "map": lambda log, functions: map(lambda f: f, generator(log, functions)),
    "chain": lambda log, functions: itertools.chain(generator(log, functions), ()),
    "zip": lambda log, functions: itertools.starmap(lambda f: f, zip(generator(log, functions))),
}
OPTIONS = {
    "limit=2": lambda: dict(limit=2),
    "limit=1": lambda: dict(limit=1),
    "no limit": dict,
    "semaphore": lambda: dict(limit=asyncio.Semaphore(2)),
    "return_exceptions": lambda: dict(limit=2, return_exceptions=True),
    "goes on": lambda: dict(limit=2, cancel_on_error=False),
}


# Ways to end.


async def sleeps():
    await asyncio.sleep(3600)


async def fails():
    raise ValueError("an item's")


async def turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


async def rest():
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


async def exhausted(call, functions):
    functions += [lambda: asyncio.sleep(0)] * COUNT
    await call()


async def exhausted_at_once(call, functions):
    async def nothing():
        pass

    functions += [nothing] * COUNT
    await call()


async def an_item_fails(call, functions):
    functions += [fails, *[lambda: asyncio.sleep(0)] * COUNT]
    with contextlib.suppress(ValueError):
        await call()
    await rest()


async def a_call_fails(call, functions):
    functions += [lambda: 1 / 0, *[lambda: asyncio.sleep(0)] * COUNT]
    with contextlib.suppress(ZeroDivisionError):
        await call()
    await rest()


async def the_iterable_fails(call, functions):
    functions += [lambda: asyncio.sleep(0), lambda: asyncio.sleep(0), LookupError("the iterable's")]
    with contextlib.suppress(LookupError):
        await call()
    await rest()


async def the_caller_is_cancelled(call, functions):
    functions += [sleeps] * COUNT
    caller = asyncio.ensure_future(call())
    await turns(3)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()


async def a_wait_for_it_is_cancelled(call, functions):
    await the_caller_is_cancelled(lambda: asyncio.wait_for(call(), 3600), functions)


async def an_item_cancels_the_caller(call, functions):
    functions += [lambda: caller.cancel() and sleeps(), *[sleeps] * COUNT]
    caller = asyncio.ensure_future(call())
    await asyncio.wait([caller])
    assert caller.cancelled()


def driven_by_hand(end):
    async def way(call, functions):
        functions += [sleeps] * COUNT
        coroutine = call()
        coroutine.send(None)
        await turns(2)
        coroutine = [coroutine]
        contextvars.Context().run(end, coroutine)
        await rest()

    return way


def throws(coroutine):
    with contextlib.suppress(LookupError):
        coroutine.pop().throw(LookupError)


async def all_tasks_are_cancelled(call, functions):
    """As asyncio.run() does it, the keeper included."""
    functions += [fails, *[sleeps] * COUNT]
    caller = asyncio.ensure_future(call())
    await turns(2)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.wait([caller])
    caller.cancelled() or caller.exception()
    await rest()


WAYS = {
    "exhausted": exhausted,
    "exhausted at once": exhausted_at_once,
    "an item fails": an_item_fails,
    "a call fails": a_call_fails,
    "the iterable fails": the_iterable_fails,
    "cancelled": the_caller_is_cancelled,
    "cancelled in wait_for()": a_wait_for_it_is_cancelled,
    "cancelled by an item": an_item_cancels_the_caller,
    "close()": driven_by_hand(lambda coroutine: coroutine.pop().close()),
    "throw()": driven_by_hand(throws),
    "dropped": driven_by_hand(lambda coroutine: coroutine.clear()),
    "all Tasks cancelled": all_tasks_are_cancelled,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS)
def test_the_iterable_goes_in_the_context_in_which_it_ran(impl, options, kind, way):
    async def main():
        VARIABLE.set("caller")
        log, functions = Log(), []

        def call():
            return impl.run_all(KINDS[kind](log, functions), **OPTIONS[options]())

        await WAYS[way](call, functions)
        assert VARIABLE.get() == "caller"
        log.check()

    if (kind, way) == ("iterator", "the iterable fails"):
        pytest.skip("the traceback has the last reference")
    run(main)


@pytest.mark.parametrize("door", ["run_all", "constrained_execution"])
@pytest.mark.parametrize("factory", [False, True])
def test_through_the_other_door_and_with_the_loop_s_own_tasks(impl, door, factory):
    async def main():
        VARIABLE.set("caller")
        if factory:
            asyncio.get_running_loop().set_task_factory(
                lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options)
            )
        for way in WAYS.values():
            log, functions = Log(), []

            def call():
                source = generator(log, functions)
                return impl.run_all(source, limit=2) if door == "run_all" else impl.constrained_execution(source, 2)

            await way(call, functions)
            log.check()

    run(main)


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_where_the_loop_never_runs_again(impl, kind, closed):
    log = Log()
    loop = asyncio.new_event_loop()

    async def main():
        VARIABLE.set("caller")
        call = impl.run_all(KINDS[kind](log, [sleeps] * COUNT), limit=2)
        call.send(None)
        await turns(2)
        return call

    call = loop.run_until_complete(main())
    if closed:
        tasks = asyncio.all_tasks(loop)
        loop.close()
    else:
        tasks = ()
    call.close()
    log.check()
    for task in tasks:
        task._log_destroy_pending = False
    del call, tasks
    if not closed:
        loop.run_until_complete(turns(3))
        loop.close()
    gc.collect()


def test_an_iterable_that_runs_is_let_go_when_it_has_done_so(impl):
    """Its next() cancels the call, in a context of its own even."""

    async def main(within):
        VARIABLE.set("caller")
        log = Log()

        def source():
            log.begins()
            try:
                yield lambda: asyncio.sleep(0)
                (contextvars.Context().run if within else lambda function: function())(caller.cancel)
                log.goes_on()
                yield sleeps
            finally:
                log.goes()

        caller = asyncio.ensure_future(impl.run_all(source(), limit=1))
        await asyncio.wait([caller])
        assert caller.cancelled()
        log.check()

    run(lambda: main(False))
    run(lambda: main(True))


@pytest.mark.parametrize("way", ["an item fails", "cancelled", "close()", "dropped"])
def test_what_its_close_raises_is_noted_on_the_error_of_the_call_or_reported_where_nobody_gets_that(
    impl, way, monkeypatch
):
    reports, errors = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reports.append(str(report.exc_value)))

    async def main():
        VARIABLE.set("caller")
        log, functions = Log(), []

        def source():
            try:
                yield from generator(log, functions)
            finally:
                raise RuntimeError("of the close")

        async def call():
            try:
                await impl.run_all(source(), limit=2)
            except BaseException as error:
                errors.append(error)
                raise

        await WAYS[way](call, functions)
        log.check()

    run(main)
    notes = [note for error in errors for note in getattr(error, "__notes__", [])]
    if way in ("an item fails", "cancelled"):
        assert notes == ["while the source was being closed, it raised RuntimeError: of the close"]
        assert reports == []
    else:
        assert notes == []
        assert reports == ["of the close"]


def test_the_error_of_the_call_is_not_touched_by_what_a_close_does(impl):
    async def main():
        def source():
            try:
                yield fails
                yield fails
            finally:
                try:
                    raise LookupError
                except LookupError:
                    pass

        with pytest.raises(ValueError, match="an item's") as caught:
            await impl.run_all(source(), limit=1)
        assert caught.value.__context__ is None

    run(main)


@pytest.mark.parametrize("way", ["an item fails", "cancelled", "cancelled in wait_for()", "close()", "dropped"])
@pytest.mark.parametrize("act", ["cancels", "gathers", "runs all", "closes", "collects"])
def test_a_close_that_comes_back_finds_everything_in_order(impl, way, act):
    """It cancels the call, calls again, or has a collection; and the context stays entered meanwhile."""
    started = []

    async def main():
        VARIABLE.set("caller")
        log, functions, calls = Log(), [], []

        def comes_back():
            if act == "cancels":
                for task in asyncio.all_tasks():
                    if task is not me:
                        task.cancel()
            elif act == "gathers":
                started.append(impl.gather(variable(), variable(), limit=1))
            elif act == "runs all":
                started.append(asyncio.ensure_future(impl.run_all((f for f in [variable] * 2), limit=1)))
            elif act == "closes":
                for call in calls:
                    with contextlib.suppress(RuntimeError, ValueError):
                        call.close()
            else:
                gc.collect()

        async def variable():
            return VARIABLE.get()

        def source():
            try:
                yield from generator(log, functions)
            finally:
                comes_back()
                log.events.append("came back")

        def call():
            return impl.run_all(source(), limit=2)

        me = asyncio.current_task()
        # Whoever cancels a caller that is cancelled already only has that said twice.
        await WAYS[way](call, functions)
        assert log.events == ["begins in caller", "goes in source", "reset", "came back"]
        for future in started:
            assert await future == ["caller", "caller"]

    run(main)


@pytest.mark.parametrize("kind", ["generator", "iterator", "list that tells"])
def test_a_call_that_never_began_runs_no_code_of_the_iterable_but_its_finalizer(impl, kind):
    events = []

    class Told(Log):
        def goes(self):
            events.append("goes")

    run_all = impl.run_all(KINDS[kind](Told(), []), limit=1)
    run_all.close()
    del run_all
    assert events == ([] if kind == "generator" else ["goes"])


@pytest.mark.parametrize("options", [dict(limit=0), dict(limit="2")])
def test_nor_does_one_with_a_bad_limit(impl, options):
    async def main():
        log = Log()
        with pytest.raises((TypeError, ValueError)):
            await impl.run_all(generator(log, [sleeps]), **options)
        assert log.events == []

    run(main)


def test_what_iter_raises_is_the_call_s_error(impl):
    class Iterable:
        def __iter__(self):
            events.append(VARIABLE.get())
            VARIABLE.set("source")
            raise LookupError("of iter()")

        def __del__(self):
            events.append(VARIABLE.get())

    events = []

    async def main():
        VARIABLE.set("caller")
        with pytest.raises(LookupError, match="of iter"):
            await impl.run_all(Iterable())
        gc.collect()
        assert VARIABLE.get() == "caller"

    run(main)
    assert events[0] == "caller"
    assert len(events) == 2
