"""The Task of a source that is an async iterable: cancelled, stepped, closed or looked at by others, gone with its loop."""

import asyncio
import gc
import inspect
import io
import operator
import sys
import textwrap
import weakref
from functools import partial

import pytest

from contract_tools import HAS_CALL_GRAPH, HAS_EAGER_TASKS, Answer, Answers, Trace, idle, item, run, sleeping
from implementations import asked_in_place
from in_subprocess import check_script

DOORS = {
    "run_all": lambda impl, source, limit: impl.run_all(source, limit=limit),
    "amap": lambda impl, source, limit: listed(impl.amap(operator.call, source, limit=limit)),
    "amap, awaited": lambda impl, source, limit: awaited(impl.amap(operator.call, source, limit=limit)),
}


async def listed(stream):
    async with stream:
        return [result async for result in stream]


async def awaited(stream):
    return await stream


def plain_factory(loop, coroutine, **options):
    return asyncio.Task(coroutine, loop=loop, **options)


FACTORIES = {"own Tasks": None, "the loop's Tasks": plain_factory}


@pytest.fixture(params=DOORS)
def door(request):
    return DOORS[request.param]


@pytest.fixture(params=FACTORIES)
def factory(request):
    return FACTORIES[request.param]


def source_task():
    (task,) = [task for task in asyncio.all_tasks() if "gatedcoro.source" in repr(task)]
    return task


async def rest():
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


class Elements:
    """An async iterator without the methods of a generator: *script* has functions, and numbers of turns before them."""

    def __init__(self, trace, script, closing_turns=0):
        self.trace = trace
        self.script = list(script)
        self.closing_turns = closing_turns

    def __aiter__(self):
        self.trace("aiter")
        return self

    async def __anext__(self):
        self.trace("anext")
        if not self.script:
            raise StopAsyncIteration
        if isinstance(self.script[0], int):
            try:
                await idle(self.script.pop(0))
            except asyncio.CancelledError:
                self.trace("x")
                raise
        return self.script.pop(0)

    async def aclose(self):
        self.trace("aclose")
        try:
            await idle(self.closing_turns)
            self.trace("closed")
        except asyncio.CancelledError:
            self.trace("xaclose")
            raise


async def outcome_of(call):
    try:
        return await call
    except BaseException as error:
        return repr(error)


# Cancelled by others. The phases are those of src/engine/iteration.h.

PHASES = {
    # script, limit, turns until the cancellation, what has been told before and is told from there on
    "unbegun": ([], 1, 1, "", "aclose"),
    "at work": ([99], 1, 4, "aiter anext", "x aclose closed"),
    "at work, while an item runs": (["a", 99], 2, 4, "aiter anext +a anext", "x aclose closed xa -a"),
    "idle": (["a", "b"], 1, 4, "aiter anext +a", "aclose closed xa -a"),
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_cancellation_is_an_error_of_the_source(impl, door, factory, phase):
    script, limit, turns, before, after = PHASES[phase]

    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()
        script_of_it = [partial(sleeping, trace, one) if isinstance(one, str) else one for one in script]
        call = asyncio.Task(outcome_of(door(impl, Elements(trace, script_of_it, 2), limit)))
        await idle(turns)
        trace("cancels")
        task = source_task()
        assert task.cancel("by hand")
        await idle(6)
        if door is DOORS["amap"] and "+a" in before:
            for one in asyncio.all_tasks():
                if "sleeping" in repr(one):  # what was drawn before goes on
                    one.cancel()
        assert "CancelledError('by hand')" in await call or "+a" in before
        await rest()
        assert task.done()
        return trace.events

    events = run(main)
    at = events.index("cancels")
    told_before, told_after = before.split(), after.split()
    assert sorted(events[:at]) == sorted(told_before)
    if phase == "unbegun":
        assert events[at + 1 :] == told_after  # as far as that takes no turn
    else:
        assert sorted(events[at + 1 :]) == sorted(told_after)
        assert [one for one in events if one in ("x", "aclose", "closed")] == [
            one for one in told_after if one in ("x", "aclose", "closed")
        ]


def test_at_work_it_may_be_swallowed_as_in_any_task(impl, door, factory):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()

        async def source():
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                trace("swallowed")
            yield partial(item, trace, "a")
            yield partial(item, trace, "b")

        call = asyncio.Task(door(impl, source(), 1))
        await idle(4)
        source_task().cancel()
        assert await call == ["a", "b"]
        return trace.events

    assert run(main) == "swallowed +a -a +b -b".split()


def test_idle_a_generator_gets_it_at_its_yield_and_may_go_on(impl, door, factory):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()

        async def source():
            try:
                yield partial(item, trace, "a", 9)
            except asyncio.CancelledError as error:
                trace(error)
                await idle(1)
            yield partial(item, trace, "b")
            trace("end")

        call = asyncio.Task(door(impl, source(), 1))
        await idle(5)
        source_task().cancel("by hand")
        assert await call == ["a", "b"]
        return trace.events

    assert run(main) == ["+a", "by hand", "-a", "+b", "-b", "end"]


@asked_in_place
@pytest.mark.parametrize("turns", [0, 1, 2])
@pytest.mark.parametrize("generator", [False, True])
def test_idle_it_comes_before_the_pass_that_wants_an_element(impl, door, factory, turns, generator):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()

        async def cancels():
            await idle(turns)
            source_task().cancel("by an item")
            trace("cancels")

        async def source():
            try:
                yield cancels
            except asyncio.CancelledError as error:
                trace(error)
                raise
            trace("never")

        elements = source() if generator else Elements(trace, [cancels, 1, partial(item, trace, "never")])
        with pytest.raises(asyncio.CancelledError):
            await door(impl, elements, 1)
        await rest()
        return trace.events

    events = run(main)
    if generator:
        assert events == ["cancels", "by an item"]
    else:
        assert [event for event in events if event != "aiter"] == ["anext", "cancels", "aclose", "closed"]


def test_closing_it_reaches_the_aclose(impl, factory):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()
        call = asyncio.Task(impl.run_all(Elements(trace, [99], 99), limit=1))
        await idle(4)
        call.cancel()
        await idle(4)
        source_task().cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        await rest()
        return trace.events

    assert run(main) == "aiter anext x aclose xaclose".split()


def test_over_its_task_is_a_finished_one(impl, door, factory):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        tasks = []

        async def source():
            tasks.append(asyncio.current_task())
            yield partial(asyncio.sleep, 0)

        await door(impl, source(), 1)
        await idle(2)
        (task,) = tasks
        assert task.done() and not task.cancelled() and task.result() is None
        assert not task.cancel()
        coroutine = task.get_coro()
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            coroutine.send(None)
        coroutine.close()

    run(main)


@pytest.mark.parametrize("turns", range(1, 12))
def test_all_tasks_cancelled_at_any_moment_nothing_starts_any_more(impl, door, factory, turns):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()

        async def source():
            for name in "abcdef":
                await idle(1)
                yield partial(item, trace, name, 2)

        call = asyncio.Task(door(impl, source(), 2))
        await idle(turns)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        trace("cancelled")
        await asyncio.wait([call])
        assert call.cancelled()
        await rest()
        return trace.events

    events = run(main)
    assert [event for event in events[events.index("cancelled") :] if event[0] in "+-"] == []


# Stepped or closed by hand


@pytest.mark.parametrize("phase", ["unbegun", "at work", "idle"])
def test_closed_by_hand_it_ends_the_call(impl, door, factory, phase):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()
        script = [99] if phase == "at work" else [partial(item, trace, "a", 6), partial(item, trace, "never")]
        call = asyncio.Task(outcome_of(door(impl, Elements(trace, script), 1)))
        await idle(1 if phase == "unbegun" else 4)
        task = source_task()
        task.get_coro().close()
        assert await call == "CancelledError()"
        task.cancel()
        await asyncio.wait([task])
        assert repr(task.exception()) == "RuntimeError('cannot reuse already awaited coroutine')"
        return trace.events

    events = run(main)
    assert "+never" not in events
    assert ("-a" in events) == ("+a" in events) == (phase == "idle")


def test_closed_by_hand_it_closes_what_it_has_asked_for(impl, door, factory):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        answer = Answer()
        call = asyncio.Task(outcome_of(door(impl, Answers(answer), 1)))
        await idle(4)
        task = source_task()
        assert answer.closed == 0
        task.get_coro().close()
        assert answer.closed == 1
        assert await call == "CancelledError()"
        task.cancel()
        await asyncio.wait([task])
        assert answer.closed == 1 and task.exception() is not None

    run(main)


@pytest.mark.parametrize("phase", ["unbegun", "at work", "idle"])
def test_thrown_into_by_hand_that_is_its_error(impl, door, factory, phase):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()
        script = [99] if phase == "at work" else [partial(item, trace, "a", 6), partial(item, trace, "never")]
        call = asyncio.Task(outcome_of(door(impl, Elements(trace, script), 1)))
        await idle(1 if phase == "unbegun" else 4)
        task = source_task()
        try:
            task.get_coro().throw(LookupError("by hand"))
        except (LookupError, StopIteration):
            pass
        assert await call == "LookupError('by hand')"
        task.cancel()
        await asyncio.wait([task])
        task.exception()
        assert "+never" not in trace.events

    run(main)


@pytest.mark.parametrize("phase", ["unbegun", "at work", "idle"])
def test_stepped_by_hand_it_stays_in_one_piece(impl, door, factory, phase):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        trace = Trace()
        script = [partial(item, trace, "a", 6), 1, partial(item, trace, "b")]
        if phase == "at work":
            script.insert(0, 9)
        call = asyncio.Task(outcome_of(door(impl, Elements(trace, script), 1)))
        await idle(1 if phase == "unbegun" else 4)
        task = source_task()
        for _ in range(3):
            try:
                task.get_coro().send(None)
            except BaseException as error:
                trace(type(error).__name__)
        await idle(20)
        for one in asyncio.all_tasks() - {asyncio.current_task()}:
            one.cancel()
        await asyncio.wait([call, task])
        task.cancelled() or task.exception()
        await rest()
        started = [event[1:] for event in trace.events if event[0] == "+"]
        assert started == sorted({*started})
        assert started == ["a", "b"] or phase != "idle"  # an element that nobody wanted yet is kept

    run(main)


def test_stepped_by_itself_it_says_that_it_is_being_executed(impl, door, factory):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        seen = []

        async def source():
            coroutine = asyncio.current_task().get_coro()
            assert coroutine.cr_running
            for do in (lambda: coroutine.send(None), coroutine.close, lambda: coroutine.throw(LookupError())):
                try:
                    do()
                except ValueError as error:
                    seen.append(str(error))
            yield partial(asyncio.sleep, 0, "a")

        assert await door(impl, source(), 1) == ["a"]
        assert seen == ["coroutine already executing"] * 3

    run(main)


# What a task factory may do


def wrapping(loop, coroutine, **options):
    async def wraps():
        return await coroutine

    return asyncio.Task(wraps(), loop=loop, **options)


@pytest.mark.parametrize("turns", [1, 2, 3, 4])
@pytest.mark.parametrize("closed", [False, True])
def test_a_wrapped_one_that_never_begins_or_is_abandoned_ends_the_call(impl, door, turns, closed):
    async def main():
        asyncio.get_running_loop().set_task_factory(wrapping)
        before = asyncio.all_tasks()
        trace = Trace()
        call = asyncio.Task(door(impl, Elements(trace, [2, partial(item, trace, "a", 3), 9]), 1))
        await idle(turns)
        for task in asyncio.all_tasks() - before - {call}:
            if closed:
                task.get_coro().close()
            task.cancel()
        await idle(3)
        call.cancel()
        await asyncio.wait([call])
        for task in asyncio.all_tasks() - before:
            await asyncio.wait([task])
        assert call.cancelled() or isinstance(call.exception(), RuntimeError)

    asyncio.run(main())


def test_a_factory_that_fails_is_an_error_of_the_call(impl, door):
    def fails(loop, coroutine, **options):
        if "source" in repr(coroutine) or "Iteration" in repr(coroutine) or "AsyncIterable" in repr(coroutine):
            raise MemoryError("no Task")
        return asyncio.Task(coroutine, loop=loop, **options)

    async def main():
        asyncio.get_running_loop().set_task_factory(fails)
        trace = Trace()
        with pytest.raises(MemoryError, match="no Task"):
            await door(impl, Elements(trace, []), 1)
        await rest()

    run(main)


def test_a_factory_that_makes_its_task_sees_the_caller_as_the_current_one(impl, door):
    async def main():
        seen = []

        def factory(loop, coroutine, **options):
            seen.append(asyncio.current_task())
            return asyncio.Task(coroutine, loop=loop, **options)

        asyncio.get_running_loop().set_task_factory(factory)
        assert await door(impl, Elements(Trace(), []), 1) == []
        asyncio.get_running_loop().set_task_factory(None)
        assert seen == [asyncio.current_task()]

    run(main)


@pytest.mark.parametrize("name", ["run_all", "amap"])
def test_where_its_task_cannot_be_made_nothing_keeps_the_caller(impl, name):
    """Neither who has been given its coroutine, nor who keeps the stream."""
    refused = []

    def refuses(loop, coroutine, **options):
        refused.append(coroutine)
        raise MemoryError("no Task")

    async def calls(stream):
        call = impl.run_all(Elements(Trace(), [])) if stream is None else anext(stream)
        with pytest.raises(MemoryError, match="no Task"):
            await call

    async def main():
        stream = None if name == "run_all" else impl.amap(operator.call, Elements(Trace(), []))
        caller = asyncio.create_task(calls(stream))
        asyncio.get_running_loop().set_task_factory(refuses)
        await asyncio.wait([caller])
        asyncio.get_running_loop().set_task_factory(None)
        caller.result()
        gone = weakref.ref(caller)
        del caller
        await idle(1)
        gc.collect()
        assert len(refused) == 1 and gone() is None

    run(main)


@pytest.mark.skipif(not HAS_EAGER_TASKS, reason="eager_task_factory is new in 3.12")
@pytest.mark.parametrize("turns", [0, 1])
def test_an_eager_factory_makes_its_first_step_in_the_call(impl, door, turns):
    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        trace = Trace()
        script = [one for name in "abc" for one in (turns, partial(item, trace, name, turns))]
        assert await door(impl, Elements(trace, script), 2) == [*"abc"]
        await rest()

    run(main)


# Introspection


@pytest.mark.parametrize("state", ["created", "running", "at work"])
def test_its_coroutine_answers_what_any_coroutine_does(impl, door, factory, state):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        seen = []
        pending = asyncio.get_running_loop().create_future()

        async def source():
            if state == "running":
                look(asyncio.current_task())
            if state == "at work":
                await pending
            yield partial(asyncio.sleep, 0, "a")

        def look(task):
            coroutine = task.get_coro()
            assert asyncio.iscoroutine(coroutine) and inspect.isawaitable(coroutine)
            assert coroutine.__name__ == coroutine.__qualname__ == "gatedcoro.source"
            seen.append((inspect.getcoroutinestate(coroutine), bool(coroutine.cr_running)))
            assert coroutine.cr_code is None and coroutine.cr_frame is None and coroutine.cr_origin is None
            assert "gatedcoro.source" in repr(task)
            assert task.get_stack() == []
            printed = io.StringIO()
            task.print_stack(file=printed)
            assert "gatedcoro.source" in printed.getvalue()
            if state == "at work" and not HAS_CALL_GRAPH:
                assert coroutine.cr_await is not None
            elif state == "created":
                assert getattr(coroutine, "cr_await", None) is None

        call = asyncio.Task(door(impl, source(), 1))
        await idle(1 if state == "created" else 4)
        if state in ("created", "at work"):
            look(source_task())
        if not pending.done():
            pending.set_result(None)
        await call
        await idle(2)
        return seen

    seen = run(main)
    expected = {
        # Up to 3.14 inspect looks at the frame, and there is none.
        "created": [("CORO_CLOSED" if sys.version_info < (3, 15) else "CORO_CREATED", False)],
        "running": [("CORO_RUNNING", True)],
        "at work": [("CORO_SUSPENDED", False)],
    }
    assert seen == expected[state]


def test_idle_and_over_it_answers_too(impl, door, factory):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)

        async def source():
            yield partial(idle, 6)
            yield partial(idle, 1)

        call = asyncio.Task(door(impl, source(), 1))
        await idle(4)
        task = source_task()
        coroutine = task.get_coro()
        assert inspect.getcoroutinestate(coroutine) == "CORO_SUSPENDED"
        assert task.get_stack() == [] and "gatedcoro.source" in repr(task)
        with pytest.raises(RuntimeError, match="being awaited already"):
            coroutine.__await__()
        await call
        await idle(2)
        assert inspect.getcoroutinestate(coroutine) == "CORO_CLOSED"
        assert task.get_stack() == [] and "gatedcoro.source" in repr(task)
        assert getattr(coroutine, "cr_await", None) is None

    run(main)


def test_it_is_among_all_tasks_from_the_first_turn_to_its_end(impl, door, factory):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)

        def sources():
            return sum("gatedcoro.source" in repr(task) for task in asyncio.all_tasks())

        async def source():
            assert sources() == 1
            yield partial(idle, 1)
            await idle(1)
            yield partial(idle, 1)

        call = asyncio.Task(door(impl, source(), 1))
        assert sources() == 0
        await idle(1)
        assert sources() == 1
        await call
        await idle(1)
        assert sources() == 0

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Task.get_context() is new in 3.12")
def test_get_context_is_the_one_context_of_all_its_code(impl, door, factory):
    import contextvars

    variable = contextvars.ContextVar("variable")

    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        contexts = []

        async def source():
            for index in range(3):
                contexts.append(asyncio.current_task().get_context())
                variable.set(index)
                assert contexts[0][variable] == index
                yield partial(asyncio.sleep, 0)

        await door(impl, source(), 1)
        assert all(context is contexts[0] for context in contexts)
        assert variable not in contextvars.copy_context()

    run(main)


@pytest.mark.skipif(not HAS_CALL_GRAPH, reason="the call graph is new in 3.14")
def test_the_call_graph_can_be_captured_inside_and_from_outside(impl, door, factory):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        names = []

        async def inner():
            await asyncio.sleep(0)
            graph = asyncio.capture_call_graph()
            names.extend(entry.frame.f_code.co_name for entry in graph.call_stack)
            asyncio.print_call_graph(file=io.StringIO())
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        async def source():
            await inner()
            yield partial(idle, 3)
            yield partial(idle, 1)

        call = asyncio.Task(door(impl, source(), 1))
        for _ in range(8):
            await idle(1)
            for task in asyncio.all_tasks():
                asyncio.capture_call_graph(task)
                asyncio.print_call_graph(task, file=io.StringIO())
        await call
        assert names[0] == "inner"

    run(main)


# References, and the end of the loop


@pytest.mark.parametrize("limit", [1, 2])
def test_nothing_is_left_for_the_garbage_collector(impl, door, factory, limit):
    async def main():
        asyncio.get_running_loop().set_task_factory(factory)

        class Element:
            pass

        alive = []

        def element():
            made = Element()
            alive.append(weakref.ref(made))
            return partial(uses, made)

        async def uses(made):
            await asyncio.sleep(0)

        async def source():
            alive.append(weakref.ref(asyncio.current_task()))
            for index in range(4):
                await idle(index % 2)
                yield element()

        gc.collect()
        gc.disable()
        try:
            await door(impl, source(), limit)
            await idle(2)
            assert [ref() for ref in alive] == [None] * 5
        finally:
            gc.enable()

    run(main)


SCRIPT = """
    import itertools, operator
    from contract_tools import Answer, Answers, idle

    def plain_factory(loop, coroutine, **options):
        return asyncio.Task(coroutine, loop=loop, **options)

    async def nothing():
        pass

    async def waits():
        await asyncio.get_running_loop().create_future()

    closed, kept = [], []  # what closed itself as nobody kept it; what is kept and has to be closed

    class source:
        def __init__(self, *awaited):
            self.awaited = iter(awaited)

        def __aiter__(self):
            return self

        async def __anext__(self):
            try:
                await next(self.awaited)()
            except GeneratorExit:
                closed.append(True)
                raise
            return waits

    def source_of_answers(*awaited):
        kept[:] = [Answer(None if one is waits else waits) for one in awaited]
        return Answers(*kept)

    PHASES = {"at work at once": (1, waits, waits, 1), "at work": (4, waits, waits, 1), "idle": (4, nothing, waits, 1),
              "at work, with an item": (4, nothing, waits, 2)}

    cases = itertools.product((None, plain_factory), ("run_all", "amap"), (source, source_of_answers), PHASES.items())
    for factory, door, make_source, (name, (turns, first, then, limit)) in cases:
        async def main():
            loop.set_task_factory(factory)
            if door == "run_all":
                call = impl.run_all(make_source(first, then), limit=limit)
            else:
                call = anext(impl.amap(operator.call, make_source(first, then), limit=limit))
            task = asyncio.Task(call)
            task._log_destroy_pending = False
            await idle(turns)

        closed.clear()
        kept.clear()
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: print(name, door, context["message"]))
        loop.run_until_complete(main())
        loop.close()
        del loop
        gc.collect()
        gc.collect()
        closed += [True for answer in kept for _ in range(answer.closed)]
        assert closed == [True] * (name != "idle"), (factory, door, make_source, name, closed)
"""


def test_gone_with_a_closed_loop_nothing_is_reported(impl):
    check_script(impl, textwrap.dedent(SCRIPT) + 'print("ok")\n')


@pytest.mark.parametrize("factory", ["None", "plain_factory"])
def test_a_stream_that_goes_after_its_loop_closes_what_its_source_was_asked_for(impl, factory):
    check_script(
        impl,
        f"""
        from contract_tools import Answer, Answers, idle

        def plain_factory(loop, coroutine, **options):
            return asyncio.Task(coroutine, loop=loop, **options)

        async def main():
            loop.set_task_factory({factory})
            task = asyncio.create_task(anext(stream))
            await idle(4)
            task.cancel()
            await idle(2)

        answer = Answer()
        stream = impl.amap(repr, Answers(answer), limit=1)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        gc.collect()
        assert answer.closed == 0
        del stream
        assert answer.closed == 1
        gc.collect()
        assert answer.closed == 1
        print("ok")
        """,
    )
