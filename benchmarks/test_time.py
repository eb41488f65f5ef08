"""Time of a call, by work and N, on the running interpreter: `pytest benchmarks`.

The results of every call are checked, outside the timed region, and a wrong one fails the benchmark. One `asyncio.Runner`
lives across the rounds of a benchmark. A round is as many calls as make 1,000 items, and its time that of one call. The
garbage collector is on, and collects before each round; what existed before the benchmark is frozen.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from . import http_server, measure
from .compare import cells, competitors, works

pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed: pip install -e '.[benchmark]'")

ALL = [tool.name for tool in competitors.COMPETITORS]
FEW = [competitors.OURS, "langchain", "pool"]


class Clock:
    """A clock for pytest-benchmark that goes on by what a sample says: the runner's own work is not counted."""

    elapsed = 0.0

    def __call__(self) -> float:
        return self.elapsed


CLOCK = Clock()
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
    cell = cells.Cell(work.name, count, limit)
    if without := cells.why_not(cell, tool):
        pytest.skip(": ".join(without))
    calls = max(1, 1_000 // count) if count < 100 else 1

    def once() -> None:
        CLOCK.elapsed += runner.run(cells.sample_time(cell, tool, calls)) * count / 1e6

    started = time.perf_counter()
    once()
    took = time.perf_counter() - started
    benchmark.group = f"{work.title}, N={count:,}, n={limit}"
    benchmark.extra_info["gives_up"] = tool.gives_up
    rounds = max(benchmark._min_rounds, int(benchmark._max_time / took))  # 5 unless the command line says otherwise
    benchmark.pedantic(once, rounds=rounds, warmup_rounds=1)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("count", [20, 1_000])
@pytest.mark.parametrize("work", works.BASIC, ids=lambda work: work.name)
def test_basic_works(benchmark: Any, runner: asyncio.Runner, work: works.Work, count: int, name: str) -> None:
    """One call with n=10, items that do nothing, `await sleep(0)`, or await a future set by a callback.

    Inside: making the coroutines (or callables, or source), the call, awaiting it, freeing them.
    """
    measure_call(benchmark, runner, competitors.BY_NAME[name], work, count, 10)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("work", [work for work in works.WORKS if work not in works.BASIC], ids=lambda work: work.name)
def test_other_works(benchmark: Any, runner: asyncio.Runner, work: works.Work, name: str) -> None:
    """One call: waiting 1 ms, a queue, HTTP over loopback, an abatch of LangChain, one in a hundred slow or failing.

    Inside: the same, and for HTTP opening the connections; the server, the client and the queue are made outside.
    """
    measure_call(benchmark, runner, competitors.BY_NAME[name], work, work.quick_count, work.limit)
