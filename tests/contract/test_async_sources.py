"""Sources that are async iterables, of amap, run_all and constrained_execution."""

import asyncio
import contextvars
import operator
import sys
import weakref
from functools import partial

import pytest

from contract_tools import Trace, failing, idle, item, run, sleeping
from implementations import asked_in_place
from virtual_time import run_in_virtual_time

LIMITS = [1, 2, 3, None]
VARIABLE = contextvars.ContextVar("VARIABLE", default="default")


# Elements of all sources are functions, which amap has called.


async def listed(stream):
    async with stream:
        return [result async for result in stream]


async def awaited(stream):
    return await stream


DOORS = {
    "amap": lambda impl, source, **options: listed(impl.amap(operator.call, source, **options)),
    "amap, unordered": lambda impl, source, **options: listed(
        impl.amap(operator.call, source, ordered=False, **options)
    ),
    "amap, awaited": lambda impl, source, **options: awaited(impl.amap(operator.call, source, **options)),
    "run_all": lambda impl, source, **options: impl.run_all(source, **options),
    "constrained_execution": lambda impl, source, limit=None: impl.constrained_execution(source, limit),
}
STOPPING_DOORS = [name for name in DOORS if name != "constrained_execution"]
ITERATED_DOORS = ["amap", "amap, unordered"]


@pytest.fixture(params=DOORS)
def door(request):
    return DOORS[request.param]


@pytest.fixture(params=STOPPING_DOORS)
def stopping_door(request):
    """One whose first error stops the rest."""
    return DOORS[request.param]


async def source(trace, names, turns=0, item_turns=1, cleanup_turns=0, error=None):
    """An async generator that takes some turns before each element, and tells everything; an *error* ends it."""
    try:
        for name in names:
            trace(f"?{name}")
            try:
                await idle(turns)
            except asyncio.CancelledError:
                trace(f"x?{name}")
                await idle(cleanup_turns)
                trace(f"-?{name}")
                raise
            yield partial(item, trace, name, item_turns)
        trace("end" if error is None else "raises")
        if error is not None:
            raise error
    except GeneratorExit:
        trace("aclose")
        await idle(cleanup_turns)
        trace("closed")
        raise


def sync_source(trace, names, item_turns=1):
    for name in names:
        trace(f"?{name}")
        yield partial(item, trace, name, item_turns)
    trace("end")


class Elements:
    """An async iterator of *script*: of functions, which may be preceded by a number of turns; errors in it are raised."""

    def __init__(self, trace, script):
        self.trace = trace
        self.script = list(script)
        self.is_asked = False

    def __aiter__(self):
        self.trace("aiter")
        return self

    async def __anext__(self):
        assert not self.is_asked
        self.is_asked = True
        try:
            self.trace("anext")
            await idle(self.take() if self.script and isinstance(self.script[0], int) else 0)
            if not self.script:
                raise StopAsyncIteration
            element = self.take()
            if isinstance(element, BaseException):
                raise element
            return element
        finally:
            self.is_asked = False

    def take(self):
        return self.script.pop(0)

    async def aclose(self):
        assert not self.is_asked
        self.trace("aclose")


async def traced(main):
    """What *main*, a function of a trace, has told, turn by turn."""
    trace = Trace()
    trace.start()
    try:
        await main(trace)
    finally:
        trace.stop()
    return trace.turns


async def rest():
    """Wait until no other Task is left."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


def own_task_factory(loop, coroutine, **options):
    return asyncio.Task(coroutine, loop=loop, **options)


# One Task, one context


class Tells:
    """An async iterator that notes the Task and changes the context in everything that is called."""

    def __init__(self, count):
        self.count = count
        self.seen = []

    def note(self, name):
        self.seen.append((name, VARIABLE.get(), asyncio.current_task()))
        VARIABLE.set(name)

    def __aiter__(self):
        self.note("aiter")
        return self

    async def __anext__(self):
        self.note("asked")
        await asyncio.sleep(0)
        self.note("answers")
        self.count -= 1
        if self.count < 0:
            raise StopAsyncIteration
        return partial(changes_the_variable, self.seen)

    async def aclose(self):
        self.note("aclose")
        await asyncio.sleep(0)
        self.note("closed")


async def changes_the_variable(seen):
    VARIABLE.set("item's")
    await asyncio.sleep(0)
    return asyncio.current_task()


@pytest.mark.parametrize("factory", [None, own_task_factory])
@pytest.mark.parametrize("limit", LIMITS)
def test_all_of_its_code_runs_in_one_task_and_one_context(impl, door, limit, factory):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        VARIABLE.set("caller's")
        elements = Tells(3)
        tasks = await door(impl, elements, limit=limit)
        names = ["aiter", *["asked", "answers"] * 4]
        assert [name for name, _, _ in elements.seen] == names
        assert [before for _, before, _ in elements.seen] == ["caller's", *names[:-1]]
        (task,) = {task for _, _, task in elements.seen}
        assert task not in tasks and task is not asyncio.current_task()
        await idle(2)
        assert task.done() and not task.cancelled() and task.result() is None
        assert VARIABLE.get() == "caller's"

    run(main)


@pytest.mark.parametrize("factory", [None, own_task_factory])
@pytest.mark.parametrize("limit", LIMITS)
def test_so_does_its_aclose(impl, stopping_door, limit, factory):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        elements = Tells(9)
        elements.note("made")

        async def fails(_):
            await asyncio.sleep(0)
            raise ValueError("an item's")

        class Failing(Tells):
            async def __anext__(self):
                await super().__anext__()
                return partial(fails, None)

        elements = Failing(9)
        with pytest.raises(ValueError, match="an item's"):
            await stopping_door(impl, elements, limit=limit)
        names = [name for name, _, _ in elements.seen]
        assert names[-2:] == ["aclose", "closed"]
        assert [before for _, before, _ in elements.seen] == ["made", *names[:-1]]
        assert len({task for _, _, task in elements.seen}) == 1

    run(main)


async def resets(seen, count):
    """In another context the token would be refused."""
    token = VARIABLE.set("source's")
    try:
        for _ in range(count):
            await asyncio.sleep(0)
            yield partial(asyncio.sleep, 0, VARIABLE.get())
            assert VARIABLE.get() == "source's"
    finally:
        await asyncio.sleep(0)
        VARIABLE.reset(token)
        seen.append(VARIABLE.get())


async def exhausted(start):
    await start(3)


async def cancelled(start):
    caller = asyncio.create_task(start(1000))
    await idle(9)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()


@pytest.mark.parametrize("end", [exhausted, cancelled])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_variable_can_be_reset_by_its_token(impl, door, limit, end):
    async def main():
        VARIABLE.set("caller's")
        seen = []
        await end(lambda count: door(impl, resets(seen, count), limit=limit))
        assert seen == ["caller's"]

    run(main)


# Turns


@asked_in_place
@pytest.mark.parametrize("item_turns", [0, 1, 2])
@pytest.mark.parametrize("limit", LIMITS)
def test_one_that_never_suspends_costs_no_turn_of_the_loop(impl, door, limit, item_turns):
    """It is drawn when and as a sync one is."""

    async def main():
        async def result(trace, elements):
            assert sorted(await door(impl, elements, limit=limit)) == [*"abcd"]
            trace("done")

        of_async = await traced(lambda trace: result(trace, source(trace, "abcd", 0, item_turns)))
        of_sync = await traced(lambda trace: result(trace, sync_source(trace, "abcd", item_turns)))
        assert of_async == of_sync
        return of_async

    turns = run(main)
    if limit == 2 and item_turns == 1 and door is DOORS["run_all"]:
        assert turns == ["", "?a +a ?b +b", "-a ?c +c -b", "?d +d -c", "-d end", "done"]


SUSPENDING = {
    (1, 1): ["", "?a", "+a", "-a ?b", "+b", "-b ?c", "+c", "-c ?d", "+d", "-d end", "done"],
    (1, 2): ["", "?a", "", "+a", "-a ?b", "", "+b", "-b ?c", "", "+c", "-c ?d", "", "+d", "-d end", "done"],
    (2, 1): ["", "?a", "+a ?b", "-a +b ?c", "-b +c ?d", "-c +d end", "-d", "done"],
    (2, 2): ["", "?a", "", "+a ?b", "-a", "+b ?c", "-b", "+c ?d", "-c", "+d end", "-d", "done"],
}


@asked_in_place
@pytest.mark.parametrize(("limit", "turns"), SUSPENDING)
def test_what_arrives_starts_in_the_step_in_which_it_arrives_and_the_next_one_is_asked_for(impl, door, limit, turns):
    async def main():
        async def result(trace):
            assert await door(impl, source(trace, "abcd", turns), limit=limit) == [*"abcd"]
            trace("done")

        return await traced(result)

    assert run(main) == SUSPENDING[limit, turns]


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("turns", [0, 1, 3])
@pytest.mark.parametrize("item_turns", [0, 1, 3])
@pytest.mark.parametrize("factory", [None, own_task_factory])
def test_it_is_never_asked_unless_a_slot_is_free_and_never_twice_at_once(impl, door, limit, turns, item_turns, factory):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()
        running = 0

        async def counted(index):
            nonlocal running
            running += 1
            assert running <= limit
            await idle(item_turns)
            running -= 1
            return index

        class Counting(Elements):
            def __anext__(self):
                assert running < limit
                return super().__anext__()

        script = [one for index in range(8) for one in (turns, partial(counted, index))]
        assert sorted(await door(impl, Counting(trace, script), limit=limit)) == list(range(8))
        assert trace.events == ["aiter", *["anext"] * 9]

    run(main)


@pytest.mark.parametrize("turns", [0, 1])
def test_with_a_gate_it_is_asked_for_one_more_than_can_run(impl, door, turns):
    async def main():
        async def result(trace):
            gate = asyncio.Semaphore(2)
            elements = source(trace, "abcde", turns, 4)
            assert await door(impl, elements, limit=gate) == [*"abcde"]

        return [turn for turn in await traced(result) if turn]

    turns_of_it = run(main)
    asked_and_running = 0
    for event in " ".join(turns_of_it).split():
        asked_and_running += (event[0] == "?") - (event[0] == "-")
        assert asked_and_running <= 3


def test_both_sync_and_async_iterable_it_is_async(impl, door):
    class Both(Elements):
        def __iter__(self):
            raise AssertionError("it was iterated over")

        __next__ = __len__ = __getitem__ = __iter__

    async def main():
        trace = Trace()
        assert await door(impl, Both(trace, [partial(item, trace, "a")]), limit=2) == ["a"]
        assert trace.events == ["aiter", "anext", "+a", "anext", "-a"]

    run(main)


# Slices


@pytest.fixture
def clock(impl):
    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    clock = Clock()
    impl._set_clock(clock)
    return clock


async def endless(seen, clock):
    while True:
        clock.now += 0.0005
        seen.append("drawn")
        yield nothing


async def nothing():
    pass


@pytest.mark.parametrize("factory", [None, own_task_factory])
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", DOORS)
def test_an_endless_one_that_never_suspends_does_not_starve_the_loop(impl, clock, limit, name, factory):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        seen = []

        async def consumes():
            if name in ITERATED_DOORS:
                stream = impl.amap(operator.call, endless(seen, clock), limit=limit, ordered=name == "amap")
                async with stream:
                    async for result in stream:
                        pass
            else:
                await DOORS[name](impl, endless(seen, clock), limit=limit)

        caller = asyncio.create_task(consumes())
        drawn = []
        for _ in range(20):
            await asyncio.sleep(0)
            drawn.append(len(seen))
        caller.cancel()
        await asyncio.wait([caller])
        assert caller.cancelled()
        each_turn = [after - before for before, after in zip(drawn, drawn[1:])]
        assert max(each_turn) <= 3
        assert drawn[-1] >= 6
        number = len(seen)
        await idle(3)
        assert len(seen) == number

    run(main)


@asked_in_place
@pytest.mark.parametrize("limit", [1, None])
@pytest.mark.parametrize("name", [name for name in DOORS if name not in ITERATED_DOORS])
def test_a_slice_is_that_of_a_sync_one(impl, name, clock, limit):
    async def main():
        async def takes(trace, name):
            trace(name)

        async def elements(trace):
            for name in "abcdef":
                clock.now += 0.0005
                yield partial(takes, trace, name)

        return await traced(lambda trace: DOORS[name](impl, elements(trace), limit=limit))

    assert run(main) == ["", "a b", "c d", "e f"]


# What runs inside an async generator: it needs one Task and one context


async def one_hour():
    await asyncio.sleep(3600)


@pytest.mark.parametrize("factory", [None, own_task_factory])
@pytest.mark.parametrize("limit", [1, 2, None])
def test_a_timeout_inside_ends_its_block_only(impl, door, limit, factory):
    async def source():
        try:
            async with asyncio.timeout(10):
                yield partial(asyncio.sleep, 0, "before")
                await asyncio.sleep(1)
                yield partial(asyncio.sleep, 0, "within")
                await one_hour()
        except TimeoutError:
            yield partial(asyncio.sleep, 0, "after")
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(1)
        yield partial(asyncio.sleep, 0, "end")

    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        assert await door(impl, source(), limit=limit) == ["before", "within", "after", "end"]
        assert asyncio.get_running_loop().time() < 20

    run_in_virtual_time(main())


@pytest.mark.parametrize("limit", [1, 2, None])
def test_a_timeout_inside_that_is_not_caught_is_the_error_of_the_source(impl, door, limit):
    async def source(ended):
        async with asyncio.timeout(10):
            yield partial(asyncio.sleep, 0)
            try:
                await one_hour()
            finally:
                ended.append(asyncio.get_running_loop().time())

    async def main():
        ended = []
        with pytest.raises(TimeoutError):
            await door(impl, source(ended), limit=limit)
        assert ended == [10]

    run_in_virtual_time(main())


@pytest.mark.parametrize("factory", [None, own_task_factory])
@pytest.mark.parametrize("limit", [1, 2, None])
def test_a_timeout_around_all_of_it_that_is_in_time_does_nothing(impl, door, limit, factory):
    async def source():
        async with asyncio.timeout(10), asyncio.timeout_at(20):
            for index in range(3):
                yield partial(asyncio.sleep, 1, index)

    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        assert await door(impl, source(), limit=limit) == [0, 1, 2]
        await asyncio.sleep(100)

    run_in_virtual_time(main())


@pytest.mark.parametrize("factory", [None, own_task_factory])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_timeout_inside_may_be_up_while_nothing_is_wanted(impl, ordered, factory):
    """The generator stands at a yield then, and gets its cancellation there."""

    async def source():
        try:
            async with asyncio.timeout(10):
                for index in range(9):
                    yield index
        except TimeoutError:
            yield "late"
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(1)

    async def value(result):
        return result

    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        results = []
        async with impl.amap(value, source(), limit=1, ordered=ordered, buffersize=0) as stream:
            async for result in stream:
                results.append(result)
                await asyncio.sleep(6)
        assert results == [0, 1, 2, "late"]

    run_in_virtual_time(main())


@pytest.mark.parametrize("factory", [None, own_task_factory])
@pytest.mark.parametrize("limit", [1, 2, None])
def test_a_task_group_inside_spans_elements(impl, door, limit, factory):
    async def source(ended):
        async with asyncio.TaskGroup() as group:
            children = [group.create_task(asyncio.sleep(1, index)) for index in range(3)]
            for child in children:
                yield partial(asyncio.sleep, 0, await child)
        ended.append(True)

    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        ended = []
        assert await door(impl, source(ended), limit=limit) == [0, 1, 2]
        assert ended == [True]

    run_in_virtual_time(main())


# The source raises


@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("return_exceptions", [False, True])
def test_its_error_comes_after_everything_that_was_drawn_before(impl, limit, turns, return_exceptions):
    async def main():
        error = LookupError("the source's")
        for name in ITERATED_DOORS:
            trace, results = Trace(), []

            async def script():
                async for one in source(trace, "abc", turns, 3, error=error):
                    yield one

            stream = impl.amap(
                operator.call, script(), limit=limit, ordered=name == "amap", return_exceptions=return_exceptions
            )
            with pytest.raises(LookupError) as caught:
                async for result in stream:
                    results.append(result)
            assert caught.value is error
            assert not hasattr(error, "__notes__")
            assert results == [*"abc"]
            assert [event for event in trace.events if event[0] in "?r"] == ["?a", "?b", "?c", "raises"]
            assert "-c" in trace.events
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    run(main)


@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("name", ["amap, awaited", "run_all"])
def test_awaited_its_error_cancels_what_runs(impl, name, limit, turns, return_exceptions):
    async def main():
        error = LookupError("the source's")
        trace = Trace()
        script = [turns, partial(item if limit == 1 else sleeping, trace, "a"), turns, error]
        with pytest.raises(LookupError) as caught:
            await DOORS[name](impl, Elements(trace, script), limit=limit, return_exceptions=return_exceptions)
        assert caught.value is error
        trace("done")
        return trace.events

    asked = ["aiter", "anext", "+a"]
    expected = [*asked, "-a", "anext", "aclose"] if limit == 1 else [*asked, "anext", "aclose", "xa", "-a"]
    assert run(main) == [*expected, "done"]


def test_without_cancel_on_error_what_runs_goes_on(impl):
    async def main():
        trace = Trace()
        script = [partial(item, trace, "a", 3), LookupError("the source's")]
        with pytest.raises(LookupError):
            await impl.constrained_execution(Elements(trace, script), 2)
        trace("raised")
        await rest()
        return trace.events

    assert run(main) == ["aiter", "anext", "+a", "anext", "aclose", "raised", "-a"]


class Odd(BaseException):
    """No Exception, and no interrupt."""


ERRORS = [ValueError, Odd, asyncio.CancelledError, StopIteration, ExceptionGroup]


def made(error_class):
    return error_class("group", [ValueError()]) if error_class is ExceptionGroup else error_class("its own")


@pytest.mark.parametrize("where", ["__aiter__", "__anext__", "await"])
@pytest.mark.parametrize("error_class", ERRORS)
def test_errors_of_every_kind_are_raised_as_they_are(impl, door, error_class, where):
    error = made(error_class)

    class Raises(Elements):
        def __aiter__(self):
            if where == "__aiter__":
                raise error
            return super().__aiter__()

        def __anext__(self):
            if where == "__anext__":
                raise error
            return super().__anext__()

    class Pending:
        def __await__(self):
            raise error

    async def main():
        try:
            await door(impl, Raises(Trace(), [error]), limit=1)
        except BaseException as caught:
            # A coroutine that raises StopIteration raises a RuntimeError, for Python itself.
            assert (caught.__cause__ if error_class is StopIteration else caught) is error
        else:
            raise AssertionError

    run(main)


@pytest.mark.parametrize("where", ["__aiter__", "__anext__"])
def test_stop_async_iteration_where_it_is_raised(impl, door, where):
    """Out of __anext__() itself it is the end, as for `async for`; out of __aiter__() it is an error."""

    class Stops(Elements):
        def __aiter__(self):
            if where == "__aiter__":
                raise StopAsyncIteration("from __aiter__")
            return super().__aiter__()

        def __anext__(self):
            raise StopAsyncIteration

    async def main():
        if where == "__anext__":
            assert await door(impl, Stops(Trace(), []), limit=1) == []
            return
        with pytest.raises((StopAsyncIteration, RuntimeError)) as caught:
            await door(impl, Stops(Trace(), []), limit=1)
        error = caught.value
        assert "from __aiter__" in str(error if type(error) is StopAsyncIteration else error.__cause__)

    run(main)


@pytest.mark.parametrize("where", ["__aiter__", "__anext__", "await"])
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupts_leave_the_loop(impl, door, interrupt, where):
    error = interrupt("now")

    class Raises(Elements):
        def __aiter__(self):
            if where == "__aiter__":
                raise error
            return super().__aiter__()

        def __anext__(self):
            if where == "__anext__":
                raise error
            return super().__anext__()

    async def main():
        await door(impl, Raises(Trace(), [error]), limit=1)

    with pytest.raises(interrupt) as caught:
        run(main)
    assert type(caught.value) is interrupt


# Closing


async def leaves(trace, stream):
    trace("leaves")
    await stream.aclose()


async def broken_off(impl, name, trace, elements, turns, again=None):
    """Leave a stream, or cancel a call, after some turns; *again* turns later cancel what waits for that."""
    consumer = None
    if name in ITERATED_DOORS:
        stream = impl.amap(operator.call, elements, limit=2, ordered=name == "amap")
        consumer = asyncio.create_task(anext(stream))
        await idle(turns - 1)
        waits = asyncio.create_task(leaves(trace, stream))
        await idle(1)
    else:
        waits = asyncio.create_task(DOORS[name](impl, elements, limit=2))
        await idle(turns)
        trace("leaves")
        waits.cancel()
    if again is not None:
        await idle(again)
        waits.cancel()
    await asyncio.wait([waits])
    if consumer is not None:
        await asyncio.wait([consumer])
        assert type(consumer.exception()) is StopAsyncIteration
    assert waits.cancelled() == (consumer is None or again is not None)
    trace("left")


@pytest.mark.parametrize("factory", [None, own_task_factory])
@pytest.mark.parametrize("name", DOORS)
def test_a_pending_anext_is_cancelled_once_and_awaited_and_then_aclose(impl, name, factory):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()

        class Closes(Elements):
            async def __anext__(self):
                await super().__anext__()
                return await sleeping(self.trace, "anext", cleanup_turns=3)

            async def aclose(self):
                await super().aclose()
                await idle(3)
                self.trace("closed")

        await broken_off(impl, name, trace, Closes(trace, [partial(item, trace, "a")]), 4)
        await rest()
        return trace.events

    assert run(main) == "aiter anext +anext leaves xanext -anext aclose closed left".split()


@pytest.mark.parametrize("factory", [None, own_task_factory])
@pytest.mark.parametrize("name", DOORS)
def test_so_it_is_while_items_run(impl, name, factory):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()
        elements = Elements(trace, [partial(sleeping, trace, "a", 2), 1000])
        await broken_off(impl, name, trace, elements, 9)
        await rest()
        return trace.events

    events = run(main)
    first = "+a anext" if factory is None else "anext +a"
    assert events[:5] == f"aiter anext {first} leaves".split()
    assert sorted(events[5:-1]) == ["-a", "aclose", "xa"]
    assert events[-1] == "left"


@pytest.mark.parametrize("factory", [None, own_task_factory])
@pytest.mark.parametrize("name", STOPPING_DOORS)
def test_an_item_that_fails_has_it_closed_before_the_error_is_raised(impl, name, factory):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()

        async def elements():
            yield partial(failing, trace, "a", 3)
            try:
                await sleeping(trace, "anext", 3)
            finally:
                trace("closed")

        with pytest.raises(ValueError, match="^a$"):
            await DOORS[name](impl, elements(), limit=2)
        trace("raised")
        await rest()
        return trace.events

    assert (
        run(main)
        == ("+a +anext" if factory is None else "+anext +a").split() + "!a xanext -anext closed raised".split()
    )


def test_without_cancel_on_error_an_item_that_fails_lets_it_go_on(impl):
    async def main():
        trace = Trace()

        async def elements():
            yield partial(failing, trace, "a")
            await idle(4)
            yield partial(item, trace, "b")
            trace("end")

        with pytest.raises(ValueError, match="^a$"):
            await impl.constrained_execution(elements(), 1)
        trace("raised")
        await rest()
        return trace.events

    assert run(main) == "+a !a raised +b -b end".split()


@pytest.mark.parametrize("factory", [None, own_task_factory])
@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("turns", [0, 1, 2])
def test_an_element_that_arrives_in_spite_of_the_cancellation_starts_nothing(impl, name, factory, turns):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()

        async def elements():
            await sleeping(trace, "anext", turns, after="swallowed")
            try:
                yield element()
            finally:
                trace("kept" if arrived() is not None else "let go")
                await idle(turns)
                trace("closed")

        def element():
            nonlocal arrived
            never = partial(item, trace, "never")
            arrived = weakref.ref(never)
            return never

        arrived = None
        await broken_off(impl, name, trace, elements(), 4)
        await rest()
        return trace.events

    assert run(main) == ["+anext", "leaves", "xanext", "-anext", "let go", "closed", "left"]


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("factory", [None, own_task_factory])
@pytest.mark.parametrize("turns", [0, 1])
def test_one_that_ends_when_it_is_cancelled_has_ended(impl, name, factory, turns):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()

        async def elements():
            await sleeping(trace, "anext", turns, after="swallowed")
            return
            yield

        await broken_off(impl, name, trace, elements(), 4)
        await rest()
        return trace.events

    assert run(main) == "+anext leaves xanext -anext left".split()


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("turns", [3, 4, 5])
def test_an_element_that_arrives_in_the_turn_of_the_cancellation_starts_nothing(impl, name, turns):
    async def main():
        trace = Trace()
        future = asyncio.get_running_loop().create_future()

        async def elements():
            trace("asked")
            await future
            try:
                yield partial(item, trace, "never")
            finally:
                trace("closed")

        breaking = asyncio.create_task(broken_off(impl, name, trace, elements(), 4))
        await idle(turns)
        if not future.done():
            future.set_result(None)
        await breaking
        await rest()
        return trace.events

    events = run(main)
    assert events[0] == "asked" and events[-1] == "left"
    assert "+never" not in events[events.index("leaves") :]


@pytest.mark.parametrize("name", ["run_all", "amap, awaited", "amap, dropped", "as_completed, dropped"])
@pytest.mark.parametrize("factory", [None, own_task_factory])
@pytest.mark.parametrize("turns", [0, 1])
def test_an_element_that_arrives_in_the_step_in_which_the_source_is_closed_is_let_go_first(impl, name, factory, turns):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        events, arrived, held = [], [], []
        released = asyncio.Event()
        functions = name != "as_completed, dropped"

        async def first():
            events.append("first")

        async def never():
            events.append("never")

        def second():
            element = partial(never) if functions else never()
            arrived.append(weakref.ref(element))
            return element

        async def elements():
            yield first if functions else first()
            try:
                await (released.wait() if name.endswith("dropped") else idle(turns))
                stop()
                yield second()
            finally:
                events.append([element() for element in arrived])
                await idle(1)
                events.append("closed")

        if name.endswith("dropped"):
            stream = (
                impl.amap(operator.call, elements(), limit=1) if functions else impl.as_completed(elements(), limit=1)
            )
            held.append(stream)
            del stream
            stop = held.clear
            await anext(held[0])
            released.set()
        else:
            call = asyncio.create_task(DOORS[name](impl, elements(), limit=1))
            stop = call.cancel
            with pytest.raises(asyncio.CancelledError):
                await call
        await rest()
        assert not held
        return events

    assert run(main) == ["first", [None], "closed"]


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("again", [4, 5, 6])
def test_a_further_cancellation_is_passed_on_to_the_closing_and_the_waiting_goes_on(impl, name, again):
    async def main():
        trace = Trace()

        async def elements():
            try:
                await sleeping(trace, "anext", 1)
            finally:
                await sleeping(trace, "closes", 2)
            yield

        await broken_off(impl, name, trace, elements(), 4, again)
        await rest()
        return trace.events

    assert run(main) == "+anext leaves xanext -anext +closes xcloses -closes left".split()


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("attributes", [{}, {"aclose": None}])
def test_one_that_has_no_aclose_is_let_go(impl, name, attributes):
    async def main():
        trace = Trace()

        class Without:
            def __init__(self):
                self.inner = Elements(trace, [1000])

            def __aiter__(self):
                return self

            def __anext__(self):
                return self.inner.__anext__()

            def __del__(self):
                trace("gone")

        elements = [type("Has", (Without,), attributes)()]
        breaking = broken_off(impl, name, trace, elements.pop(), 4)
        await breaking
        return trace.events

    assert run(main) in ["anext leaves gone left".split(), "anext leaves left gone".split()]


NOTE = "while the source was being closed, it raised RuntimeError: of the close"


def that_fails_to_close(trace, first=None, turns=1):
    async def elements():
        try:
            if first is not None:
                yield first
            await sleeping(trace, "anext", turns)
        finally:
            await idle(turns)
            raise RuntimeError("of the close")
        yield

    return elements()


@pytest.mark.parametrize("name", STOPPING_DOORS)
@pytest.mark.parametrize("turns", [0, 1])
def test_what_the_closing_raises_becomes_a_note_on_the_error(impl, name, turns):
    async def main():
        trace = Trace()
        elements = that_fails_to_close(trace, partial(failing, trace, "a", 2), turns)
        with pytest.raises(ValueError, match="^a") as caught:
            await DOORS[name](impl, elements, limit=2)
        assert caught.value.__notes__ == [NOTE]

    run(main)


@pytest.mark.parametrize("name", [name for name in DOORS if name not in ITERATED_DOORS])
def test_so_it_does_on_the_cancellation(impl, name):
    async def main():
        caught = []

        async def calls():
            try:
                await DOORS[name](impl, that_fails_to_close(Trace()), limit=2)
            except asyncio.CancelledError as error:
                caught.append(error)
                raise

        caller = asyncio.create_task(calls())
        await idle(4)
        caller.cancel()
        await asyncio.wait([caller])
        assert caller.cancelled()
        assert [error.__notes__ for error in caught] == [[NOTE]]

    run(main)


def test_where_there_is_no_error_it_is_raised(impl):
    async def main():
        for ordered in (True, False):
            stream = impl.amap(operator.call, that_fails_to_close(Trace()), limit=2, ordered=ordered)
            asking = asyncio.create_task(anext(stream))
            await idle(4)
            with pytest.raises(RuntimeError, match="^of the close$"):
                await stream.aclose()
            with pytest.raises(StopAsyncIteration):
                await asking

            stream = impl.amap(
                operator.call, that_fails_to_close(Trace(), partial(asyncio.sleep, 0)), limit=1, ordered=ordered
            )
            with pytest.raises(RuntimeError, match="^of the close$"):
                async with stream:
                    async for _ in stream:
                        break
            error = LookupError("of the body")
            stream = impl.amap(
                operator.call, that_fails_to_close(Trace(), partial(asyncio.sleep, 0)), limit=1, ordered=ordered
            )
            with pytest.raises(LookupError) as caught:
                async with stream:
                    async for _ in stream:
                        raise error
            assert caught.value is error
            (note,) = error.__notes__
            assert note.endswith("raised RuntimeError: of the close")

    run(main)


@pytest.mark.parametrize("turns", [0, 1])
def test_where_nobody_waits_it_is_reported(impl, monkeypatch, turns):
    reports = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reports.append(str(report.exc_value)))

    async def main():
        trace = Trace()
        stream = impl.amap(operator.call, that_fails_to_close(trace, turns=turns), limit=2)
        asking = asyncio.create_task(anext(stream))
        await idle(4)
        asking.cancel()
        await asyncio.wait([asking])
        del stream, asking
        await rest()
        assert trace.events == ["+anext", "xanext", "-anext"]

    run(main)
    assert reports == ["of the close"]


@pytest.mark.parametrize("begun", [False, True])
def test_one_that_was_never_asked_is_closed_with_its_stream(impl, begun):
    async def main():
        trace = Trace()

        async def elements():
            trace("asked")
            try:
                yield 1
                yield 2
            finally:
                await idle(1)
                trace("closed")

        generator = elements()
        if begun:
            await anext(generator)
        stream = impl.amap(operator.call, generator, limit=2)
        async with stream:
            pass
        with pytest.raises(StopAsyncIteration):
            await anext(generator)
        assert trace.events == (["asked", "closed"] if begun else [])

    run(main)


# run_all and its sync generators


@pytest.mark.parametrize("name", STOPPING_DOORS)
def test_a_sync_generator_that_is_held_is_closed_too(impl, name):
    async def main():
        trace = Trace()

        def elements():
            try:
                yield partial(failing, trace, "a")
                yield partial(sleeping, trace, "b")
                yield partial(item, trace, "never")
            finally:
                trace("closed")

        generator = elements()
        with pytest.raises(ValueError, match="^a$"):
            await DOORS[name](impl, generator, limit=2)
        assert generator.gi_frame is None
        return trace.events

    assert run(main) == "+a +b !a closed xb -b".split()


# Streams in streams


@pytest.mark.parametrize("ordered", [True, False])
def test_backpressure_reaches_through_streams(impl, ordered):
    async def main():
        drawn, fetched, parsed = [], [], []

        async def urls():
            for index in range(1000):
                drawn.append(index)
                yield index

        async def fetch(url):
            await asyncio.sleep(0)
            fetched.append(url)
            return url

        async def parse(page):
            await asyncio.sleep(0)
            parsed.append(page)
            return page

        inner = impl.amap(fetch, urls(), limit=5, ordered=ordered)
        outer = impl.amap(parse, inner, limit=2, ordered=ordered)
        async with outer:
            for index in range(10):
                assert await anext(outer) == index
                await idle(20)
                assert len(parsed) == index + 1 + 4
                assert len(drawn) == len(fetched) == len(parsed) + 10
        await rest()
        assert len(drawn) == len(fetched)

    run(main)


@pytest.mark.parametrize("way", ["left", "cancelled", "dropped", "failed"])
@pytest.mark.parametrize("ordered", [True, False])
def test_closing_reaches_through_streams(impl, ordered, way):
    async def main():
        trace = Trace()

        async def elements():
            try:
                for name in "abcdefgh":
                    yield name
                await sleeping(trace, "anext")
            finally:
                await idle(2)
                trace("closed")

        async def fetch(name):
            if name in "cd":
                await sleeping(trace, f"fetch-{name}", 2)
            return name

        async def parse(name):
            if name == "b":
                if way == "failed":
                    await idle(9)
                    raise ValueError("b")
                await sleeping(trace, "parse-b", 3)
            return name

        stream = impl.amap(parse, impl.amap(fetch, elements(), limit=2, ordered=ordered), limit=2, ordered=ordered)

        async def consume():
            async with stream:
                async for _ in stream:
                    if way == "left":
                        await idle(9)
                        break

        if way == "dropped":
            assert await anext(stream) == "a"
            await idle(9)
            del consume, stream
            await rest()
        else:
            consumer = asyncio.create_task(consume())
            await idle(12)
            if way == "cancelled":
                consumer.cancel()
            await asyncio.wait([consumer])
            assert asyncio.all_tasks() == {asyncio.current_task()}
            if way == "failed":
                assert str(consumer.exception()) == "b"
            else:
                assert consumer.cancelled() == (way == "cancelled")
        return trace.events

    events = run(main)
    started = [event[1:] for event in events if event[0] == "+"]
    assert {"fetch-c", "fetch-d"} <= {*started}
    assert sorted(event[1:] for event in events if event[0] == "-") == sorted(started)
    assert sorted(event[1:] for event in events if event[0] == "x") == sorted(started)
    assert events.count("closed") == 1


@pytest.mark.parametrize("name", DOORS)
def test_an_error_comes_through_streams(impl, name):
    async def main():
        error = LookupError("the innermost source's")

        async def elements():
            for index in range(3):
                yield partial(asyncio.sleep, 0, index)
            raise error

        async def makes_function(result):
            return partial(asyncio.sleep, 0, result)

        inner = impl.amap(makes_function, impl.amap(operator.call, elements(), limit=2), limit=2)
        with pytest.raises(LookupError) as caught:
            await DOORS[name](impl, inner, limit=2)
        assert caught.value is error
        await rest()

    run(main)


# What misbehaves


def reenters_anext(elements):
    return anext(elements[0])


def reenters_aclose(elements):
    return elements[0].aclose()


BAD_AWAITABLES = [None, 5, "text", object(), [], iter(())]


@pytest.mark.parametrize("awaitable", BAD_AWAITABLES, ids=lambda bad: type(bad).__name__)
def test_an_anext_that_returns_no_awaitable_is_a_type_error(impl, door, awaitable):
    class Bad(Elements):
        def __anext__(self):
            return awaitable

    async def main():
        trace = Trace()
        with pytest.raises(TypeError) as caught:
            await door(impl, Bad(trace, []), limit=2)
        assert type(awaitable).__name__ in str(caught.value)
        await rest()
        assert trace.events == ["aiter", "aclose"]

    run(main)


@pytest.mark.parametrize("result", [None, 5, object(), iter(())], ids=lambda bad: type(bad).__name__)
def test_an_aiter_that_returns_no_async_iterator_is_a_type_error(impl, door, result):
    class Bad:
        def __aiter__(self):
            return result

    async def main():
        with pytest.raises(TypeError) as caught:
            await door(impl, Bad(), limit=2)
        assert type(result).__name__ in str(caught.value)
        await rest()

    run(main)


def test_an_aiter_that_fails_leaves_nothing_to_close(impl, door):
    """As what iter() of an iterable raises: there is no iterator."""

    class Failing:
        def __aiter__(self):
            trace("iter")
            raise KeyError

        def __anext__(self):
            trace("next")

        def aclose(self):
            trace("aclose")

    trace = Trace()

    async def main():
        with pytest.raises(KeyError) as caught:
            await door(impl, Failing())
        assert not hasattr(caught.value, "__notes__")
        return " ".join(trace.events)

    assert run(main) == "iter"


@pytest.mark.parametrize("awaitable", BAD_AWAITABLES, ids=lambda bad: type(bad).__name__)
@pytest.mark.parametrize("name", STOPPING_DOORS)
def test_an_aclose_that_returns_no_awaitable_is_noted_on_the_error(impl, name, awaitable):
    class Bad(Elements):
        def aclose(self):
            return awaitable

    async def main():
        trace = Trace()
        with pytest.raises(ValueError, match="^a") as caught:
            await DOORS[name](impl, Bad(trace, [partial(failing, trace, "a"), 9]), limit=2)
        (note,) = caught.value.__notes__
        assert note.startswith("while the source was being closed, it raised TypeError: ")
        assert type(awaitable).__name__ in note

    run(main)


@pytest.mark.parametrize("error_class", [ValueError, Odd, StopIteration, StopAsyncIteration, asyncio.CancelledError])
@pytest.mark.parametrize("where", ["aclose", "await"])
@pytest.mark.parametrize("name", STOPPING_DOORS)
def test_what_an_aclose_raises_is_noted_but_for_a_cancellation(impl, name, error_class, where):
    class Bad(Elements):
        def aclose(self):
            if where == "aclose":
                raise made(error_class)
            return super().aclose()

        async def raises(self):
            raise made(error_class)

    async def main():
        trace = Trace()
        bad = Bad(trace, [partial(failing, trace, "a"), 9])
        if where == "await":
            bad.aclose = bad.raises
        with pytest.raises(ValueError, match="^a") as caught:
            await DOORS[name](impl, bad, limit=2)
        notes = getattr(caught.value, "__notes__", [])
        if error_class is asyncio.CancelledError:
            assert notes == []
        else:
            (note,) = notes
            expected = "RuntimeError" if error_class is StopIteration else error_class.__name__
            assert note.startswith(f"while the source was being closed, it raised {expected}: ")

    run(main)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["aclose", "await", "anext"])
@pytest.mark.parametrize("name", STOPPING_DOORS)
def test_an_interrupt_out_of_the_closing_leaves_the_loop(impl, name, interrupt, where):
    class Bad(Elements):
        async def __anext__(self):
            try:
                return await super().__anext__()
            except asyncio.CancelledError:
                if where == "anext":
                    raise interrupt("now") from None
                raise

        def aclose(self):
            if where == "aclose":
                raise interrupt("now")
            return self.interrupts()

        async def interrupts(self):
            await idle(1)
            if where == "await":
                raise interrupt("now")

    async def main():
        trace = Trace()
        await DOORS[name](impl, Bad(trace, [partial(failing, trace, "a"), 9]), limit=2)

    with pytest.raises(interrupt):
        run(main)


@pytest.mark.parametrize("ask", [reenters_anext, reenters_aclose])
def test_a_generator_that_asks_itself_gets_python_s_own_error(impl, door, ask):
    async def main():
        elements = []

        async def source():
            yield partial(asyncio.sleep, 0)
            await ask(elements)
            yield

        elements.append(source())
        with pytest.raises(RuntimeError, match="asynchronous generator is already running|aclose.* already running"):
            await door(impl, elements[0], limit=1)

    run(main)


@pytest.mark.parametrize("name", DOORS)
def test_one_that_cancels_the_call_is_cancelled_itself(impl, name):
    async def main():
        trace = Trace()

        async def source():
            yield partial(sleeping, trace, "a")
            await idle(2)
            caller.cancel()
            try:
                yield partial(item, trace, "b")
                await sleeping(trace, "anext")
            finally:
                trace("closed")

        caller = asyncio.create_task(DOORS[name](impl, source(), limit=3))
        await asyncio.wait([caller])
        assert caller.cancelled()
        await rest()
        return trace.events

    events = run(main)
    assert events[0] == "+a" and events.count("closed") == 1
    assert events.count("xa") == events.count("-a") == 1
    if name not in ITERATED_DOORS:
        assert "+b" not in events


@pytest.mark.parametrize("name", [name for name in DOORS if name not in ITERATED_DOORS])
@pytest.mark.parametrize("factory", [None, own_task_factory])
@pytest.mark.parametrize("turns", [0, 2])
def test_one_that_cancels_the_call_and_then_waits_is_cancelled_once(impl, name, factory, turns):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()

        async def source():
            await idle(turns)
            caller.cancel()
            try:
                await sleeping(trace, "anext", 3)
            finally:
                await idle(3)
                trace("closed")
            yield

        caller = asyncio.create_task(DOORS[name](impl, source(), limit=3))
        await asyncio.wait([caller])
        assert caller.cancelled()
        return trace.events

    assert run(main) == "+anext xanext -anext closed".split()


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("turns", [0, 2])
def test_one_that_closes_its_own_stream_is_told_so(impl, ordered, turns):
    """As an item is: it would wait for itself."""

    async def main():
        async def source():
            yield partial(asyncio.sleep, 0)
            await idle(turns)
            await stream.aclose()

        stream = impl.amap(operator.call, source(), limit=1, ordered=ordered)
        with pytest.raises(RuntimeError, match="cannot be closed by one of its items or by its source"):
            async for _ in stream:
                pass
        await stream.aclose()
        await rest()

    run(main)


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("turns", [0, 2])
def test_one_that_cancels_its_own_task_is_an_error_of_the_source(impl, name, turns):
    async def main():
        trace = Trace()

        async def source():
            yield partial(item, trace, "a", 5)
            await idle(turns)
            asyncio.current_task().cancel("own")
            await idle(1)
            yield partial(item, trace, "never")

        with pytest.raises(asyncio.CancelledError):
            await DOORS[name](impl, source(), limit=2)
        await rest()
        assert "+never" not in trace.events

    run(main)


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("factory", [None, own_task_factory])
@pytest.mark.parametrize("turns", [0, 2])
def test_one_that_cancels_its_own_task_and_goes_on_is_cancelled_in_the_next_turn(impl, name, factory, turns):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()

        async def source():
            yield partial(asyncio.sleep, 0)
            await idle(turns)
            trace.start()
            asyncio.current_task().cancel("own")
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError as error:
                trace(f"x({error})")
                trace.stop()
                raise

        with pytest.raises(asyncio.CancelledError):
            await DOORS[name](impl, source(), limit=2)
        await rest()
        return trace.turns

    assert run(main) == ["", "x(own)"]


@pytest.mark.parametrize("name", DOORS)
def test_one_that_never_ends_its_cancellation_is_waited_for(impl, name):
    """As any item is that swallows its cancellation: a further one may help."""

    async def main():
        trace = Trace()

        class Stubborn(Elements):
            times = 0

            async def __anext__(self):
                while True:
                    try:
                        await asyncio.get_running_loop().create_future()
                    except asyncio.CancelledError:
                        self.times += 1
                        if self.times == 3:
                            raise

        elements = Stubborn(trace, [])
        breaking = asyncio.create_task(broken_off(impl, name, trace, elements, 4, again=3))
        await idle(12)
        assert not breaking.done() and elements.times == 2
        (task,) = [task for task in asyncio.all_tasks() if "gatedcoro.source" in repr(task)]
        task.cancel()
        await breaking
        await rest()
        return trace.events

    assert run(main) == "aiter leaves aclose left".split()


@pytest.mark.parametrize("factory", [None, own_task_factory])
def test_one_whose_awaitables_yield_what_no_task_takes(impl, door, factory):
    class Bad(Elements):
        def __anext__(self):
            return YieldsFive()

    class YieldsFive:
        def __await__(self):
            yield 5

    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        with pytest.raises(RuntimeError, match="got bad yield: 5"):
            await door(impl, Bad(Trace(), []), limit=1)

    run(main)


@pytest.mark.parametrize("factory", [None, own_task_factory])
def test_futures_are_awaitables_too(impl, door, factory):
    class OfFutures(Elements):
        def __anext__(self):
            future = asyncio.get_running_loop().create_future()
            if self.script:
                asyncio.get_running_loop().call_soon(future.set_result, self.take())
            else:
                future.set_exception(StopAsyncIteration())
            return future

    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()
        script = [partial(item, trace, name) for name in "abc"]
        assert await door(impl, OfFutures(trace, script), limit=2) == [*"abc"]

    run(main)


# What is no source


async def a_coroutine():
    return []


async def an_async_generator_function():
    yield


def a_generator_function():
    yield


WRONG = {
    "coroutine": (a_coroutine, "not a coroutine: await it, and pass what it returns"),
    "async generator function": (
        lambda: an_async_generator_function,
        "not the generator function an_async_generator_function: call it, and pass what it returns",
    ),
    "generator function": (
        lambda: a_generator_function,
        "not the generator function a_generator_function: call it, and pass what it returns",
    ),
    "number": (lambda: 5, r"not 5 \(int\)"),
    "None": (lambda: None, r"not None \(NoneType\)"),
    "an async iterator without __aiter__": (type("HasAnext", (), {"__anext__": None}), "not .*HasAnext"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_argument_is_a_type_error_that_says_what_would_be_right(impl, wrong):
    make, message = WRONG[wrong]
    must = "must be an iterable or an async iterable, "

    def closed(argument):
        if hasattr(argument, "close"):
            argument.close()

    async def main():
        argument = make()
        with pytest.raises(TypeError, match=f"^iterable {must}{message}"):
            impl.amap(operator.call, argument, limit=1)
        closed(argument)
        argument = make()
        with pytest.raises(TypeError, match=f"^async_fns {must}{message}"):
            await impl.run_all(argument)
        closed(argument)
        argument = make()
        with pytest.raises(TypeError, match=f"^funcs {must}{message}"):
            await impl.constrained_execution(argument, 1)
        closed(argument)

    run(main)


class RefusesOnce(asyncio.Task):
    """As a Task of the user's own might do."""

    refused = False

    def cancel(self, *args, **kwargs):
        if getattr(self.get_coro(), "__qualname__", "") == "gatedcoro.source" and not self.refused:
            self.refused = True
            raise LookupError("not now")
        return super().cancel(*args, **kwargs)


@pytest.mark.parametrize("fails", [False, True])
def test_a_source_whose_task_cannot_be_cancelled_is_let_go_of_and_that_is_the_error(impl, fails):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **kwargs: RefusesOnce(coro, loop=loop, **kwargs))

        class Source:  # no generator: asyncio would close one that goes
            def __aiter__(self):
                return self

            async def __anext__(self):
                if elements:
                    return elements.pop()
                await loop.create_future()

        elements = ["a"]

        async def async_fn(name):
            await idle(2)
            if fails:
                raise ValueError(name)
            return name

        stream = impl.amap(async_fn, Source(), limit=2)
        if fails:
            with pytest.raises(ValueError, match="a") as caught:
                await anext(stream)
            assert caught.value.__notes__ == ["while the source was being closed, it raised LookupError: not now"]
        else:
            assert await anext(stream) == "a"
            with pytest.raises(LookupError, match="not now"):
                await stream.aclose()

    run(main)
