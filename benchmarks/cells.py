"""One cell of the comparison, measured in this process: a work, N, a limit, an event loop, a quantity.

The parent (report.py) starts `python -m benchmarks cell`, hands over the cell as JSON on standard input, and reads one
JSON object a line: a sample, or why there is none. Time is measured for all tools of the cell in interleaved rounds;
the quantities that would disturb each other have runs, and memory also processes, of their own. A tool that raises, hangs or
gives a wrong result has failed: it has no figure in this cell, and the report ends with a non-zero status.
"""

import asyncio
import gc
import importlib.metadata
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import competitors, http_server, measure, works

SHORTEST_SAMPLE = 0.005  # seconds; shorter calls are repeated within one sample
LONGEST_SAMPLE = 60.0  # seconds; beyond, the tool is taken to hang


@dataclass(frozen=True)
class Cell:
    work: str
    count: int
    limit: int | None
    loop: str = "asyncio"
    quantity: str = "time"

    @property
    def title(self) -> str:
        limit = "no limit" if self.limit is None else f"n={self.limit:,}"
        loop = "" if self.loop == "asyncio" else f", {self.loop}"
        return f"{works.BY_NAME[self.work].title}, N={self.count:,}, {limit}{loop}"


UNITS = {
    "time": "us per item",
    "rss": "MB",
    "traced": "MB",
    "stall": "ms",
    "turns": "turns of the loop per 1,000 items",
}


# --- Samples ------------------------------------------------------------------------------------------------------


async def sample_time(cell: Cell, tool: competitors.Competitor, calls: int) -> float:
    """us per item. Inside: making what the tool takes, the call, its end, freeing it. Outside: gc.collect(), the check."""
    async with works.BY_NAME[cell.work].prepare(tool, cell.count, cell.limit) as call:
        gc.collect()
        results = None
        started = time.perf_counter()
        for _ in range(calls):
            results = await call()
        elapsed = time.perf_counter() - started
    _check(cell, results)
    return elapsed / (calls * cell.count) * 1e6


async def sample_rss(cell: Cell, tool: competitors.Competitor, calls: int) -> float:
    """MB by which the resident set of this fresh process grows, the items' coroutines included."""
    async with works.BY_NAME[cell.work].prepare(tool, cell.count, cell.limit) as call:
        gc.collect()
        with measure.rss_growth() as growth:
            results = await call()
    _check(cell, results)
    return growth.bytes / 1e6


async def sample_traced(cell: Cell, tool: competitors.Competitor, calls: int) -> float:
    """MB that Python allocates at the peak, the items' coroutines included."""
    async with works.BY_NAME[cell.work].prepare(tool, cell.count, cell.limit) as call:
        gc.collect()
        with measure.traced_growth() as growth:
            results = await call()
    _check(cell, results)
    return growth.bytes / 1e6


async def sample_stall(cell: Cell, tool: competitors.Competitor, calls: int) -> float:
    """ms: the longest time in which nothing else in the loop could run, making the coroutines included."""
    async with works.BY_NAME[cell.work].prepare(tool, cell.count, cell.limit) as call:
        gc.collect()
        async with measure.Heartbeat() as heartbeat:
            results = await call()
    _check(cell, results)
    return heartbeat.longest_stall() * 1e3


async def sample_turns(cell: Cell, tool: competitors.Competitor, calls: int) -> float:
    """Turns of the loop per 1,000 items."""
    async with works.BY_NAME[cell.work].prepare(tool, cell.count, cell.limit) as call:
        with measure.TurnCounter(asyncio.get_running_loop()) as counter:
            results = await call()
    _check(cell, results)
    return counter.turns / cell.count * 1000


SAMPLES = {
    "time": sample_time,
    "rss": sample_rss,
    "traced": sample_traced,
    "stall": sample_stall,
    "turns": sample_turns,
}


def _check(cell: Cell, results: Any) -> None:
    measure.check(results, range(cell.count))


# --- A process ----------------------------------------------------------------------------------------------------

Report = Callable[[dict[str, Any]], None]


def measure_cell(cell: Cell, tools: list[str], budget: float, rounds: tuple[int, int], report: Report) -> None:
    """Samples of each tool, interleaved: as many rounds as fit into `budget` seconds a tool, within `rounds`."""
    loop_factory = None
    if cell.loop == "uvloop":
        try:
            import uvloop
        except ImportError:
            for name in tools:
                report({"tool": name, "absent": "uvloop is not installed"})
            return
        loop_factory = uvloop.new_event_loop
    work = works.BY_NAME[cell.work]
    missing = work.missing()
    ready = []
    for name in tools:
        tool = competitors.BY_NAME[name]
        if absent := (missing or tool.absent()):
            report({"tool": name, "absent": absent})
        elif reason := tool.not_applicable(cell.limit):
            report({"tool": name, "not_applicable": reason})
        elif work.only_limited and not tool.limits:
            report({"tool": name, "not_applicable": "has no limit"})
        else:
            ready.append(tool)
    if cell.quantity in ("rss", "traced"):
        rounds = (1, 1)
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        try:
            plans = {
                tool.name: plan for tool in ready if (plan := _warm_up(runner, cell, tool, budget, rounds, report))
            }
            for number in range(max((rounds_of for rounds_of, _ in plans.values()), default=0)):
                turn = number % max(1, len(plans))
                order = list(plans)
                for name in order[turn:] + order[:turn]:
                    if name not in plans or number >= plans[name][0]:
                        continue
                    calls = plans[name][1]
                    try:
                        value = _sampled(runner, cell, competitors.BY_NAME[name], calls)
                    except Exception as error:
                        report({"tool": name, "failed": f"{type(error).__name__}: {error}"})
                        del plans[name]
                    else:
                        report({"tool": name, "sample": value, "calls": calls})
        finally:
            runner.run(http_server.stop())


def _warm_up(
    runner: asyncio.Runner,
    cell: Cell,
    tool: competitors.Competitor,
    budget: float,
    rounds: tuple[int, int],
    report: Report,
) -> tuple[int, int] | None:
    """How many rounds, of how many calls. The untimed first call also finds out whether the tool can do it at all."""
    small = cell
    if cell.quantity in ("rss", "traced", "turns") or cell.count > 100_000:
        small = Cell(
            cell.work,
            min(cell.count, 50 if cell.quantity in ("rss", "traced") else 1_000),
            cell.limit,
            cell.loop,
            "time",
        )  # only loads what is loaded lazily
    try:
        per_item = _sampled(runner, Cell(small.work, small.count, small.limit, small.loop), tool, 1)
    except works.NotApplicable as reason:
        report({"tool": tool.name, "not_applicable": str(reason)})
        return None
    except Exception as error:
        report({"tool": tool.name, "failed": f"{type(error).__name__}: {error}"})
        return None
    expected = max(per_item * cell.count / 1e6, 1e-6)
    calls = max(1, math.ceil(SHORTEST_SAMPLE / expected)) if cell.quantity == "time" else 1
    fewest, most = rounds
    return max(fewest, min(most, int(budget / (expected * calls)))), calls


def _sampled(runner: asyncio.Runner, cell: Cell, tool: competitors.Competitor, calls: int) -> float:
    async def within_limits() -> float:
        async with asyncio.timeout(LONGEST_SAMPLE):
            return await SAMPLES[cell.quantity](cell, tool, calls)

    return runner.run(within_limits())


def versions() -> dict[str, str]:
    found = {}
    for name in (
        "aioitertools",
        "aiometer",
        "aiostream",
        "quattro",
        "pyarallel",
        "uvloop",
        "aiohttp",
        "httpx",
        "langchain-core",
        "gatedcoro",
    ):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> int:
    request = json.load(sys.stdin)

    def report(line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)

    if request == "describe":
        report({"build": measure.build(), "versions": versions(), "version": list(sys.version_info[:3])})
        return 0
    measure_cell(Cell(**request["cell"]), request["tools"], request["budget"], tuple(request["rounds"]), report)
    return 0
