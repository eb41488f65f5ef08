"""ddtrace: its asyncio integration, which patches create_task() in place, its lock profiler, its sampling profiler."""

import pytest

from tools import check_main, needs

needs("ddtrace")

pytestmark = pytest.mark.usefixtures("any_turns")

ENVIRONMENT = {
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "DD_TRACE_STARTUP_LOGS": "false",
}

PATCH = """
import ddtrace
ddtrace.patch(asyncio=True)
"""

SPANS = """
import contextvars
import ddtrace
from ddtrace.internal import core
from ddtrace.trace import TraceFilter, tracer
from doors import all_doors, doors

class KeepNothing(TraceFilter):
    def process_trace(self, trace):
        return None

tracer.configure(trace_processors=[KeepNothing()])

events = []
core.on("asyncio.create_task", lambda data: (events.append("created"), data.update(made=len(events))))
core.on("asyncio.execute_task", lambda data: events.append("run" if "made" in data else "not the data of its creation"))

async def item(i, turns=1):
    assert type(asyncio.current_task()) is asyncio.Task  # of create_task()'s making
    with tracer.trace(f"item {i}") as span:
        for _ in range(turns):
            await asyncio.sleep(0)
        with tracer.trace("inner") as inner:
            await asyncio.sleep(0)
    assert inner.parent_id == span.span_id
    return span.parent_id

def items(count, turns=1):
    return [lambda i=i: item(i, turns) for i in range(count)]
"""


def check(impl, *script, tool=PATCH, environment=None, **options):
    check_main(impl, *script, tool=tool, environment={**ENVIRONMENT, **(environment or {})}, **options)


@pytest.mark.parametrize("when", ["before", "after"])
def test_items_are_children_of_the_span_in_which_the_call_was_made(impl, when):
    script = """
    async def main():
        for name, call in all_doors(impl):
            for limit in 1, 2, None:
                for turns in 0, 1, 3:
                    with tracer.trace("root"), tracer.trace("caller") as caller:
                        events.clear()
                        parents = await call(limit, items(6, turns))
                    assert parents == [caller.span_id] * 6, (name, limit, turns)
                    assert sorted(events) == ["created"] * 6 + ["run"] * 6, (name, limit, turns, events)
                    # In what was the caller's span, nothing has changed.
                    assert tracer.current_span() is None
                assert await call(limit, items(3)) == [None] * 3, (name, limit)
    """
    check(impl, SPANS, script, when=when)


def test_concurrent_and_nested_calls_each_have_their_parent(impl):
    script = """
    async def parent(call, limit, i):
        with tracer.trace(f"parent {i}") as span:
            assert await call(limit, items(4)) == [span.span_id] * 4
        return span.parent_id

    async def main():
        for name, call in all_doors(impl):
            for limit in 1, 2, None:
                with tracer.trace("root") as root:
                    parents = await call(limit, [lambda i=i: parent(call, limit, i) for i in range(4)])
                assert parents == [root.span_id] * 4, (name, limit)

                async def on_its_own(i):
                    with tracer.trace(f"caller {i}") as caller:
                        assert await call(limit, items(4, i)) == [caller.span_id] * 4, (name, limit)

                await asyncio.gather(*map(on_its_own, range(3)))
    """
    check(impl, SPANS, script)


def test_what_starts_after_the_error_of_a_call_is_still_within_its_span(impl):
    script = """
    async def fails():
        raise LookupError

    async def main():
        for limit in 1, 2:
            for calls in "gather_with_concurrency", "gather", "gather(limit=semaphore)", "constrained_execution":
                seen = []

                async def notes(i):
                    seen.append(await item(i))

                with tracer.trace("root") as root:
                    try:
                        await doors(impl)[calls](limit, [fails, *(lambda i=i: notes(i) for i in range(4))])
                    except LookupError:
                        while len(seen) < 4:
                            await asyncio.sleep(0)
                assert seen == [root.span_id] * 4, (calls, limit)
    """
    check(impl, SPANS, script)


def test_after_the_end_of_the_span_items_are_where_a_task_made_then_would_be(impl):
    """ddtrace asks for the active span when a Task is made, and a span that has ended is none."""
    script = """
    async def main():
        loop = asyncio.get_running_loop()
        for limit in 1, 2, None:
            with tracer.trace("root") as root, tracer.trace("caller") as caller:
                outer = impl.gather(*[call() for call in items(5)], limit=limit)
                context = contextvars.copy_context()
            made_later = context.run(loop.create_task, item("later"))
            started = 5 if limit is None else limit
            parents = await outer
            assert parents == [caller.span_id] * started + [await made_later] * (5 - started), (limit, parents)

            # A call in a Task of its own goes on where that Task is.
            with tracer.trace("root") as root:
                task = asyncio.create_task(impl.gather_with_concurrency(limit, *[call() for call in items(5)]))
            assert await task == [root.span_id] * 5, limit
    """
    check(impl, SPANS, script)


def test_once_it_is_unpatched_tasks_are_of_our_own_again(impl):
    script = """
    async def kind():
        return type(asyncio.current_task())

    async def main():
        assert await impl.gather(kind(), kind(), limit=1) == [asyncio.Task] * 2
        from ddtrace.contrib.internal.asyncio.patch import unpatch
        unpatch()
        assert asyncio.Task not in await impl.gather(kind(), kind(), limit=1)
        ddtrace.patch(asyncio=True)
        patched = await impl.gather(kind(), kind(), limit=1)

    import ddtrace    """
    check(impl, SPANS, script)


# The lock profiler puts an object that is no class in the place of asyncio.Semaphore

COLLECT = """
from ddtrace.profiling.collector import asyncio as collectors
kinds = collectors.AsyncioSemaphoreCollector, collectors.AsyncioBoundedSemaphoreCollector, collectors.AsyncioLockCollector
active = [kind(capture_pct=100) for kind in kinds]
original = asyncio.Semaphore
gates = {"made before": asyncio.Semaphore(2)}
for collector in active:
    collector.start()
assert not isinstance(asyncio.Semaphore, type)
"""

GATES = """
from doors import all_doors, cancelled_after

gates["made after"] = asyncio.Semaphore(2)
gates["bounded"] = asyncio.BoundedSemaphore(2)
gates["a lock"] = asyncio.Lock()
gates["of a subclass"] = type("Sub", (original,), {})(2)
assert type(gates["made after"]) is not original

def free(gate):
    return 1 - gate.locked() if isinstance(gate, asyncio.locks.Lock) or not hasattr(gate, "_value") else gate._value

async def use_them(gates):
    for name, call in all_doors(impl):
        for limit in 1, 2, None:
            assert await call(limit, [lambda i=i: asyncio.sleep(0, i) for i in range(5)]) == list(range(5)), name
    for name, gate in gates.items():
        slots = free(gate)
        running, most = [], []

        async def item(i, turns=2):
            running.append(i)
            most.append(len(running))
            try:
                for _ in range(turns):
                    await asyncio.sleep(0)
                return i
            finally:
                running.remove(i)

        for call in (
            lambda: impl.gather(*map(item, range(6)), limit=gate),
            lambda: asyncio.gather(*[impl.gated_coro(gate, item(i)) for i in range(6)]),
            lambda: impl.run_all([lambda i=i: item(i) for i in range(6)], limit=gate),
            lambda: impl.constrained_execution([lambda i=i: item(i) for i in range(6)], gate),
        ):
            most.clear()
            assert await call() == list(range(6)), name
            assert (max(most), free(gate)) == (slots, slots), name
            # Cancelled while some run and one waits, nothing stays taken.
            await cancelled_after(4, call())
            for _ in range(4):
                await asyncio.sleep(0)
            assert (running, free(gate)) == ([], slots), name

async def main():
    await use_them(gates)
    for collector in active:
        collector.stop()
    assert asyncio.Semaphore is original
    await use_them({"before and after": gates["made after"], "after": asyncio.Semaphore(2)})
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_gates_while_the_lock_profiler_runs_and_when_it_has_stopped(impl, when):
    check(impl, GATES, tool=COLLECT, when=when)


@pytest.mark.parametrize("when", ["before", "after"])
def test_under_the_sampling_profiler(impl, when):
    """It reads Tasks and their coroutines out of the process's memory, in a thread of its own, and links Tasks."""
    profile = """
    from ddtrace.profiling import Profiler
    profiler = Profiler()
    profiler.start()
    """
    script = """
    from doors import doors

    async def item(i):
        await asyncio.sleep(0)
        return sum(range(i))

    async def main():
        for call in doors(impl).values():
            for limit in 3, None:
                assert len(await call(limit, [lambda i=i: item(i) for i in range(2000)])) == 2000
    """
    stop = "profiler.stop(flush=False)"
    check(impl, script, tool=profile, when=when, then=stop, environment={"DD_PROFILING_ENABLED": "1"})
