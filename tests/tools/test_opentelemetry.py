"""OpenTelemetry: its asyncio instrumentation puts wrappers in the place of asyncio.gather, create_task, to_thread and others."""

import pytest

from tools import check_main, needs

needs("opentelemetry-instrumentation-asyncio", "opentelemetry-sdk")

pytestmark = pytest.mark.usefixtures("any_turns")

INSTRUMENT = """
import asyncio
from opentelemetry import trace
from opentelemetry.instrumentation.asyncio import AsyncioInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
reader = InMemoryMetricReader()
plain = asyncio.gather
AsyncioInstrumentor().instrument(tracer_provider=provider, meter_provider=MeterProvider([reader]))
assert asyncio.gather is not plain
tracer = provider.get_tracer("tests")
"""

PREPARE = """
from doors import all_doors

async def item(i):
    with tracer.start_as_current_span(f"item {i}"):
        await asyncio.sleep(0)
        with tracer.start_as_current_span(f"inner {i}"):
            await asyncio.sleep(0)
    return i

def tree():
    '''What was traced since the last call, as {name: sorted names of children}; the roots are the children of None.'''
    spans = exporter.get_finished_spans()
    exporter.clear()
    names = {span.context.span_id: span.name for span in spans}
    children = {}
    for span in spans:
        parent = None if span.parent is None else names[span.parent.span_id]
        children.setdefault(parent, []).append(span.name)
    return {name: sorted(below) for name, below in children.items()}

counted = {}

def counts():
    '''How many processes the instrumentation has seen since the last call, by name and state.'''
    seen = {}
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name == "asyncio.process.created":
                    for point in metric.data.data_points:
                        what = point.attributes.get("name", point.attributes["type"])
                        seen[what, point.attributes["state"]] = point.value
    new = {key: seen[key] - counted.get(key, 0) for key in seen if seen[key] != counted.get(key, 0)}
    counted.update(seen)
    return new
"""


def check(impl, script, *, when="after", names=""):
    environment = {"OTEL_PYTHON_ASYNCIO_COROUTINE_NAMES_TO_TRACE": names}
    check_main(impl, PREPARE, script, tool=INSTRUMENT, when=when, environment=environment)


@pytest.mark.parametrize("when", ["before", "after"])
def test_spans_of_items_are_children_of_the_span_in_which_the_call_was_made(impl, when):
    script = """
    async def nested(call, limit, i):
        with tracer.start_as_current_span(f"parent {i}"):
            await call(limit, [lambda j=j: item(f"{i}.{j}") for j in range(3)])

    async def main():
        for name, call in all_doors(impl):
            for limit in 1, 2, None:
                with tracer.start_as_current_span("root"):
                    assert await call(limit, [lambda i=i: item(i) for i in range(5)]) == list(range(5))
                expected = {None: ["root"], "root": [f"item {i}" for i in range(5)]}
                expected.update((f"item {i}", [f"inner {i}"]) for i in range(5))
                assert tree() == expected, (name, limit)

                with tracer.start_as_current_span("root"):
                    await call(limit, [lambda i=i: nested(call, limit, i) for i in range(3)])
                seen = tree()
                assert seen["root"] == [f"parent {i}" for i in range(3)], (name, limit)
                for i in range(3):
                    assert seen[f"parent {i}"] == [f"item {i}.{j}" for j in range(3)], (name, limit)

                # A Future of a span that has ended, queued items included.
                with tracer.start_as_current_span("root"):
                    task = asyncio.ensure_future(call(limit, [lambda i=i: item(i) for i in range(5)]))
                await task
                assert tree()["root"] == [f"item {i}" for i in range(5)], (name, limit)
        with tracer.start_as_current_span("root"):
            outer = impl.gather(*map(item, range(5)), limit=1)
        await outer
        assert tree()["root"] == [f"item {i}" for i in range(5)]
    """
    check(impl, script, when=when)


def test_a_call_is_one_process_to_the_functions_that_take_it(impl):
    """The instrumentation counts what asyncio's functions are given, under its name; items of ours are not given to them."""
    script = """
    async def fails():
        raise LookupError

    async def main():
        def calls():
            return {
                "gather_with_concurrency": impl.gather_with_concurrency(2, item(1), item(2), item(3)),
                "run_all": impl.run_all([lambda: item(1)] * 3, limit=2),
                "constrained_execution": impl.constrained_execution([lambda: item(1)] * 3, 2),
                "gated_coro": impl.gated_coro(asyncio.Semaphore(1), item(1)),
                "future": impl.gather(item(1), item(2), limit=1),
            }

        for take in (
            asyncio.gather,
            lambda call: asyncio.wait_for(call, 60),
            lambda call: asyncio.wait([asyncio.ensure_future(call)]),
        ):
            counts()
            for name, call in calls().items():
                await take(call)
                await asyncio.sleep(0)
                seen = counts()
                assert seen.get((name, "finished"), 0) >= 1, (name, seen)
                assert all(what in (name, "future") for what, _ in seen), (name, seen)
        for create_task in asyncio.create_task, None:
            for name, call in calls().items():
                if name == "future":
                    await call
                    counts()
                    continue
                if create_task is not None:
                    await create_task(call)
                else:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(call)
                seen = counts()
                assert set(seen) == {(name, "finished")}, (name, seen)

        for name, call in {
            "gather_with_concurrency": impl.gather_with_concurrency(2, item(1), fails(), item(3)),
            "gated_coro": impl.gated_coro(asyncio.Semaphore(1), fails()),
            "future": impl.gather(fails(), item(1), limit=1),
        }.items():
            [error] = await asyncio.gather(call, return_exceptions=True)
            assert isinstance(error, LookupError)
            await asyncio.sleep(0)
            assert counts() == {(name, "exception"): 1}, name
    """
    check(impl, script)


def test_calls_can_be_traced_by_their_names(impl):
    script = """
    async def main():
        with tracer.start_as_current_span("root"):
            await asyncio.gather(
                impl.gather_with_concurrency(2, item(1), item(2), item(3)),
                *[impl.gated_coro(asyncio.Semaphore(1), item(i)) for i in (4, 5)],
            )
        seen = tree()
        traced = ["asyncio coro-gated_coro"] * 2 + ["asyncio coro-gather_with_concurrency"]
        assert seen["root"] == traced + [f"item {i}" for i in range(1, 6)], seen
    """
    check(impl, script, names="gather_with_concurrency, gated_coro")


def test_threads_of_items_are_traced_within_them(impl):
    script = """
    import functools

    def work(i):
        with tracer.start_as_current_span(f"work {i}"):
            return i

    async def threaded(i):
        with tracer.start_as_current_span(f"item {i}"):
            return await asyncio.to_thread(work, i)

    async def main():
        for name, call in all_doors(impl):
            for limit in 2, None:
                with tracer.start_as_current_span("root"):
                    assert await call(limit, [lambda i=i: threaded(i) for i in range(4)]) == list(range(4))
                seen = tree()
                assert seen["root"] == [f"item {i}" for i in range(4)], (name, limit)
                assert all(seen[f"item {i}"] == [f"work {i}"] for i in range(4)), (name, limit)
                assert counts()["work", "finished"] == 4
    """
    check(impl, script)


def test_items_that_use_the_instrumented_functions_themselves(impl):
    """Each of them goes through the wrappers once, however deep."""
    script = """
    async def uses(depth):
        if depth == 0:
            return 1
        [a], b = await asyncio.gather(
            impl.gather_with_concurrency(1, uses(depth - 1)), asyncio.wait_for(uses(depth - 1), 60)
        )
        return a + b

    async def main():
        for _, call in all_doors(impl):
            for limit in 1, 2, None:
                assert await call(limit, [lambda: uses(4)] * 3) == [16] * 3
        assert counts()["gather_with_concurrency", "finished"] == 15 * 3 * 3 * 7
    """
    check(impl, script)


def test_once_it_is_uninstrumented_nothing_is_left(impl):
    script = """
    async def main():
        await asyncio.gather(impl.gather_with_concurrency(1, item(1)), impl.gather(item(2)))
        assert counts()
        AsyncioInstrumentor().uninstrument()
        assert asyncio.gather is plain
        await asyncio.gather(impl.gather_with_concurrency(1, item(1)), impl.gather(item(2)))
        assert counts() == {}
    """
    check(impl, script)
