"""Time of a call, by work and N, on the running interpreter: `pytest benchmarks`.

The results of every call are checked, outside the timed region, and a wrong one fails the benchmark. One `asyncio.Runner`
lives across the rounds of a benchmark. A round is as many calls as make 1,000 items, and its time that of one call. The
garbage collector is on, and collects before each round; what existed before the benchmark is frozen.
"""

import asyncio
import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest

from . import competitors, http_server, measure, works

pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed: pip install -e '.[benchmark]'")

ALL = [tool.name for tool in competitors.COMPETITORS]
FEW = [competitors.OURS, "langchain", "pool"]


class ClockInLoop:
    """A clock for pytest-benchmark that runs only while the call is awaited: the runner's own work is not counted."""

    def __init__(self) -> None:
        self.elapsed = 0.0

    def __call__(self) -> float:
        return self.elapsed

    async def timed(self, call: works.Call, calls: int) -> Any:
        """Awaits `calls` calls, and goes on by the time that one took."""
        results = None
        started = time.perf_counter()
        for _ in range(calls):
            results = await call()
        self.elapsed += (time.perf_counter() - started) / calls
        return results


CLOCK = ClockInLoop()
pytestmark = pytest.mark.benchmark(timer=CLOCK)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        try:
            with measure.frozen_gc():
                yield runner
        finally:
            runner.run(http_server.stop())


def measure_call(
    benchmark: Any,
    runner: asyncio.Runner,
    tool: competitors.Competitor,
    work: works.Work,
    count: int,
    limit: int | None,
) -> None:
    if absent := tool.absent() or work.missing():
        pytest.skip(absent)
    if reason := tool.not_applicable(limit) or ("has no limit" if work.only_limited and not tool.limits else None):
        pytest.skip(f"not applicable: {reason}")

    async def once() -> None:
        async with work.prepare(tool, count, limit) as call:
            gc.collect()
            results = await CLOCK.timed(call, calls=max(1, 1_000 // count) if count < 100 else 1)
        measure.check(results, range(count))

    started = time.perf_counter()
    try:
        runner.run(once())
    except works.NotApplicable as reason:
        pytest.skip(f"not applicable: {reason}")
    took = time.perf_counter() - started
    benchmark.group = f"{work.title}, N={count:,}, n={limit}"
    benchmark.extra_info["gives_up"] = tool.gives_up
    rounds = max(5, int(benchmark._max_time / took))
    benchmark.pedantic(lambda: runner.run(once()), rounds=rounds, warmup_rounds=1)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("count", [20, 1_000])
@pytest.mark.parametrize("work", [works.NOTHING, works.SLEEP0, works.FUTURE], ids=lambda work: work.name)
def test_basic_works(benchmark: Any, runner: asyncio.Runner, work: works.Work, count: int, name: str) -> None:
    """One call with n=10, items that do nothing, `await sleep(0)`, or await a future set by a callback.

    Inside: making the coroutines (or callables, or source), the call, awaiting it, freeing them.
    """
    measure_call(benchmark, runner, competitors.BY_NAME[name], work, count, 10)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("work", works.WORKS[3:], ids=lambda work: work.name)
def test_other_works(benchmark: Any, runner: asyncio.Runner, work: works.Work, name: str) -> None:
    """One call: waiting 1 ms, a queue, HTTP over loopback, an abatch of LangChain, one in a hundred slow or failing.

    Inside: the same, and for HTTP opening the connections; the server, the client and the queue are made outside.
    """
    measure_call(benchmark, runner, competitors.BY_NAME[name], work, work.quick_count, work.limit)
