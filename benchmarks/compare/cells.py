"""One cell of the comparison: a work, N, a limit, an event loop, a quantity, and what is made before it is measured.

The parent (report.py, goals.py) asks `python -m benchmarks cell`, and reads one JSON object a line: a sample, or why there is none.
Time is measured for all tools of the cell in interleaved rounds; the quantities that would disturb each other have runs, and
memory also processes, of their own. A tool that raises, hangs or gives a wrong result has failed: it has no figure in this cell.
"""

import asyncio
import contextlib
import functools
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .. import harness, measure, system_calls
from ..real import works as real_works
from . import competitors, semaphores, streams, works
from .competitors import Competitor

WORKS = works.BY_NAME | semaphores.BY_NAME | real_works.BY_NAME
INSIDE, COROUTINES, CALLABLES = "nothing", "coroutines", "callables"


@dataclass(frozen=True)
class Cell:
    work: str
    count: int
    limit: int | None
    loop: str = "asyncio"
    quantity: str = "time"
    made: str = INSIDE  # before the timed region; what is not made before is made inside, as the tool wants it

    @property
    def title(self) -> str:
        limit = "no limit" if self.limit is None else f"n={self.limit:,}"
        loop = "" if self.loop == "asyncio" else f", {self.loop}"
        return f"{WORKS[self.work].title}, N={self.count:,}, {limit}{loop}"


def why_not(cell: Cell, tool: Competitor) -> tuple[str, str] | None:
    """Why there is no figure of this tool in the cell: absent or not_applicable, and the reason."""
    work = WORKS[cell.work]
    if absent := (work.missing() or tool.absent()):
        return "absent", absent
    if reason := tool.not_applicable(cell.limit):
        return "not_applicable", reason
    if work.only_limited and not tool.limits:
        return "not_applicable", "has no limit"
    if work.only_semaphore and tool.semaphore is None:
        return "not_applicable", "is no class of semaphores"
    if (work.only_gather or cell.made == COROUTINES) and tool.gather is None:
        return "not_applicable", "not a gather(n, *coroutines)"
    if cell.quantity in READ and tool.each is None:
        return "not_applicable", "gives no results one by one"
    if cell.quantity == SLOWLY_READ and tool.stream is None:
        return "not_applicable", "not an async iterator"
    if cell.made == CALLABLES and tool.call_all is None:
        return "not_applicable", "takes no list of callables"
    if cell.made != INSIDE and work.item is None:
        return "not_applicable", "its items cannot be made before"
    return None


@contextlib.asynccontextmanager
async def prepared(
    cell: Cell, tool: Competitor, calls: int = 1, first: bool = False
) -> AsyncIterator[Sequence[works.Call]]:
    """What is outside: servers, clients, `gc.collect()`, whatever is made before, and freeing that."""
    work = WORKS[cell.work]
    with tool.around():
        if cell.made == INSIDE:
            prepare = (work.first if first else None) or work.prepare
            async with prepare(tool, cell.count, cell.limit) as call:
                gc.collect()
                yield [call] * calls
        elif cell.made == COROUTINES:
            assert work.item is not None and tool.gather is not None
            gc.collect()
            batches = [[work.item(index) for index in range(cell.count)] for _ in range(calls)]
            yield [functools.partial(_gathered, tool.gather, cell.limit, batch) for batch in batches]
        else:
            assert work.item is not None and tool.call_all is not None
            functions = [functools.partial(work.item, index) for index in range(cell.count)]
            gc.collect()
            yield [functools.partial(tool.call_all, cell.limit, functions)] * calls


def _gathered(gather: competitors.Gather, limit: int | None, batch: list[Any]) -> Awaitable[list[Any]]:
    return gather(limit, *batch)


# --- Samples ------------------------------------------------------------------------------------------------------


async def sample_time(
    cell: Cell, tool: Competitor, calls: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """us per item. Inside: making what the tool takes, the call, its end, freeing it. Outside: `prepared`, the check."""
    outcomes = []
    async with prepared(cell, tool, calls) as ready:
        started = clock()
        for call in ready:
            outcomes.append(await call())
        elapsed = clock() - started
    for results in outcomes:
        measure.check(results, range(cell.count))
    return elapsed / (calls * cell.count) * 1e6


async def sample_one_call(cell: Cell, tool: Competitor, clock: Callable[[], float] = time.perf_counter) -> float:
    """The same of a call that cannot be repeated."""
    return await sample_time(cell, tool, 1, clock)


@contextlib.asynccontextmanager
async def once(cell: Cell, tool: Competitor) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """One call, checked afterwards. What is made before is no business of the garbage collector."""
    outcomes = []

    async def call() -> None:
        outcomes.append(await ready[0]())

    async with prepared(cell, tool) as ready:
        with measure.frozen_gc() if cell.made != INSIDE else contextlib.nullcontext():
            yield call
    measure.check(outcomes[0], range(cell.count))


async def sample_rss(cell: Cell, tool: Competitor) -> float:
    """MB by which the resident set of this fresh process grows, the items' coroutines included where they are made inside."""
    async with once(cell, tool) as call:
        with measure.rss_growth() as growth:
            await call()
    return growth.bytes / 1e6


async def sample_traced(cell: Cell, tool: Competitor) -> float:
    """MB that Python allocates at the peak, the items' coroutines included where they are made inside."""
    async with once(cell, tool) as call:
        with measure.traced_growth() as growth:
            await call()
    return growth.bytes / 1e6


async def sample_added(cell: Cell, tool: Competitor) -> float:
    """Bytes an item that Python allocates at the peak, beyond the list of the results."""
    result_list = 8 * cell.count
    return (await sample_traced(cell, tool) * 1e6 - result_list) / cell.count


async def sample_stall(cell: Cell, tool: Competitor) -> float:
    """ms: the longest time in which nothing else in the loop could run, making the coroutines included where that is inside."""
    async with once(cell, tool) as call, measure.Heartbeat() as heartbeat:
        await call()
    return heartbeat.longest_stall() * 1e3


async def sample_stall_while_running(
    cell: Cell, tool: Competitor, clock: Callable[[], float] = time.perf_counter
) -> float:
    """ms: the longest stall from the first item's start to the last item's end. The items await sleep(0) and look at the clock."""
    assert tool.gather is not None
    started: list[float] = []
    ended = [0.0]
    last_ones = cell.count - 2 * (cell.limit or cell.count)

    async def item(index: int) -> int:
        if not started:
            started.append(clock())
        await asyncio.sleep(0)
        if index >= last_ones:
            ended[0] = clock()
        return index

    coros = [item(index) for index in range(cell.count)]
    with tool.around(), measure.frozen_gc():
        async with measure.Heartbeat(clock=clock) as heartbeat:
            results = await tool.gather(cell.limit, *coros)
    measure.check(results, range(cell.count))
    return heartbeat.longest_stall(started[0], ended[0]) * 1e3


async def sample_turns(cell: Cell, tool: Competitor) -> float:
    """Turns of the loop per 1,000 items."""
    async with once(cell, tool) as call:
        with measure.TurnCounter(asyncio.get_running_loop()) as counter:
            await call()
    return counter.turns / cell.count * 1000


class Watched:
    """A tool, with each item clocked, and the number of those that run at once counted."""

    def __init__(self, tool: Competitor) -> None:
        self.tool = replace(tool, run=self._run)
        self.latencies: list[float] = []
        self.running = self.most = 0
        self._tool = tool

    def _run(self, item: works.Item, count: int, limit: int | None) -> Awaitable[list[int]]:
        clock, ended = time.perf_counter, self.latencies.append

        async def clocked(index: int) -> int:
            self.running += 1
            if self.running > self.most:
                self.most = self.running
            began = clock()
            try:
                return await item(index)
            finally:
                ended(clock() - began)
                self.running -= 1

        return self._tool.run(clocked, count, limit)

    def check(self, cell: Cell, all_of_them: bool) -> None:
        """Some may have ended before as many have started as may run; not where the server holds them."""
        expected = real_works.at_once(cell.count, cell.limit)
        if self.most > expected or (all_of_them and self.most < expected):
            raise AssertionError(f"{self._tool.name}: {self.most} items at once instead of {expected}")


async def sample_parts(cell: Cell, tool: Competitor, first: bool = False) -> dict[str, float]:
    """Every part of one call of real work, the processor's time that of this process. Each item is clocked, at 0.3 us."""
    import resource

    watched = Watched(tool)
    loop = asyncio.get_running_loop()
    counter = measure.TurnCounter(loop) if isinstance(loop, asyncio.BaseEventLoop) else None
    async with prepared(cell, watched.tool, first=first) as [call]:
        with counter or contextlib.nullcontext():
            children_before = measure.waits_of_children()
            before = resource.getrusage(resource.RUSAGE_SELF)
            began = time.perf_counter()
            results = await call()
            wall = time.perf_counter() - began
            after = resource.getrusage(resource.RUSAGE_SELF)
            children_after = measure.waits_of_children()
    measure.check(results, range(cell.count))
    watched.check(cell, all_of_them=first and WORKS[cell.work].first is not None)
    latencies = sorted(watched.latencies)
    user, kernel = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    parts = {
        "wall": wall / cell.count * 1e6,
        "cpu": (user + kernel) / cell.count * 1e6,
        "user": user / cell.count * 1e6,
        "kernel": kernel / cell.count * 1e6,
        "p50": latencies[len(latencies) // 2] * 1e3,
        "p99": latencies[len(latencies) * 99 // 100] * 1e3,
        "waits": (after.ru_nvcsw - before.ru_nvcsw) / cell.count,
        "server-waits": (children_after - children_before) / cell.count,
        "preemptions": (after.ru_nivcsw - before.ru_nivcsw) / cell.count,
    }
    if counter is not None:
        parts["turns"] = counter.turns / cell.count
        parts["longest-turn"] = counter.longest * 1e3
        parts["longest-own-turn"] = counter.longest_own * 1e3
    return parts


async def sample_calls(cell: Cell, tool: Competitor, first: bool = False) -> dict[str, float]:
    """System calls of this process, and cycles where the machine counts them, per item."""
    async with prepared(cell, tool, first=first) as [call], system_calls.counted() as counted:
        results = await call()
    measure.check(results, range(cell.count))
    return {name: count / cell.count for name, count in counted.items()}


class Reader:
    """Takes results and keeps none of them; still, each is checked, or the sum of those that come out of order."""

    def __init__(self, cell: Cell, tool: Competitor) -> None:
        self.count = self.total = self.wrong = 0
        self._cell, self._tool = cell, tool

    def take(self, result: int) -> None:
        self.wrong += self._tool.order and result != self.count
        self.count += 1
        self.total += result

    def check(self) -> None:
        expected = self._cell.count
        if self.wrong or (self.count, self.total) != (expected, expected * (expected - 1) // 2):
            raise measure.WrongResult(
                f"{self._tool.name}: {self.count} results for {expected} items, {self.wrong} of them out of place"
            )


async def read(cell: Cell, tool: Competitor) -> None:
    item = WORKS[cell.work].item
    assert item is not None and tool.each is not None
    reader = Reader(cell, tool)
    await tool.each(item, streams.numbers(cell.count), cell.limit, reader.take)
    reader.check()


async def sample_read_traced(cell: Cell, tool: Competitor) -> float:
    """MB that Python allocates at the peak while results are read, and not kept."""
    with measure.frozen_gc(), measure.traced_growth() as growth:
        await read(cell, tool)
    return growth.bytes / 1e6


async def sample_read_stall(cell: Cell, tool: Competitor, clock: Callable[[], float] = time.perf_counter) -> float:
    """ms: the longest stall while results are read, and not kept."""
    with measure.frozen_gc():
        async with measure.Heartbeat(clock=clock) as heartbeat:
            await read(cell, tool)
    return heartbeat.longest_stall() * 1e3


async def sample_slowly_read(cell: Cell, tool: Competitor) -> float:
    """us of processor time per result, with a reader that takes a millisecond for each."""
    item = WORKS[cell.work].item
    assert item is not None and tool.stream is not None
    reader = Reader(cell, tool)
    began = time.thread_time()
    async for result in tool.stream(item, streams.numbers(cell.count), cell.limit):
        reader.take(result)
        await asyncio.sleep(0.001)
    spent = time.thread_time() - began
    reader.check()
    return spent / cell.count * 1e6


SLOWLY_READ = "slowly-read"
READ = ("read-traced", "read-stall", "own-read-stall", SLOWLY_READ)


@dataclass(frozen=True)
class Quantity:
    title: str
    unit: str
    sample: Callable[..., Awaitable[Any]]
    timed: bool = False  # the sample takes a number of calls
    fresh: bool = False  # means something only once, in a fresh process
    small_first: bool = False  # the first run only loads what is loaded lazily
    parts: Mapping[str, tuple[str, str]] = field(
        default_factory=dict
    )  # name -> title and unit, of a sample that has several


QUANTITIES = {
    "time": Quantity("time", "us per item", sample_time, timed=True),
    "processor-time": Quantity(
        "processor time", "us per item", functools.partial(sample_time, clock=time.thread_time), timed=True
    ),
    "time-of-one": Quantity("time of one call", "us per item", sample_one_call),
    "processor-time-of-one": Quantity(
        "processor time of one call", "us per item", functools.partial(sample_one_call, clock=time.thread_time)
    ),
    "rss": Quantity("memory (resident)", "MB", sample_rss, fresh=True, small_first=True),
    "traced": Quantity("memory (traced)", "MB", sample_traced, fresh=True, small_first=True),
    "added": Quantity("memory (traced, per item)", "bytes per item", sample_added, fresh=True, small_first=True),
    "stall": Quantity("longest stall", "ms", sample_stall),
    "stall-while-running": Quantity("longest stall while running", "ms", sample_stall_while_running),
    # processor time: what other processes of a busy machine take is left out
    "own-stall-while-running": Quantity(
        "longest stall while running, processor time",
        "ms of processor time",
        functools.partial(sample_stall_while_running, clock=time.thread_time),
    ),
    "read-traced": Quantity("memory (traced), results read", "MB", sample_read_traced, fresh=True, small_first=True),
    "read-stall": Quantity("longest stall, results read", "ms", sample_read_stall),
    "own-read-stall": Quantity(
        "longest stall, results read, processor time",
        "ms of processor time",
        functools.partial(sample_read_stall, clock=time.thread_time),
    ),
    SLOWLY_READ: Quantity(
        "processor time, results read slowly", "us of processor time per item", sample_slowly_read, small_first=True
    ),
    "turns": Quantity("turns of the loop", "turns of the loop per 1,000 items", sample_turns, small_first=True),
    "parts": Quantity(
        "parts of real work",
        "",
        sample_parts,
        parts={
            "wall": ("wall time", "us per item"),
            "cpu": ("processor time", "us per item"),
            "user": ("user time", "us per item"),
            "kernel": ("kernel time", "us per item"),
            "turns": ("turns of the loop", "per item"),
            "longest-turn": ("longest turn", "ms"),
            "longest-own-turn": ("longest turn, processor time", "ms"),
            "p50": ("latency of an item, p50", "ms"),
            "p99": ("latency of an item, p99", "ms"),
            "waits": ("context switches to wait", "per item"),
            "server-waits": ("of the servers", "per item"),
            "preemptions": ("context switches by preemption", "per item"),
        },
    ),
    "calls": Quantity(
        "system calls",
        "",
        sample_calls,
        parts={
            "calls": ("system calls", "per item"),
            "sends": ("of these, sends", "per item"),
            "receives": ("of these, receives", "per item"),
            "polls": ("of these, polls", "per item"),
            "cycles": ("cycles", "per item"),
            "instructions": ("instructions", "per item"),
        },
    ),
}


PARTS = {name: part for quantity in QUANTITIES.values() for name, part in quantity.parts.items()}


def unit_of(quantity: str) -> str:
    """Of a quantity, or of a part of one."""
    return PARTS[quantity][1] if quantity in PARTS else QUANTITIES[quantity].unit


# --- A process ----------------------------------------------------------------------------------------------------


def contender(cell: Cell, tool: Competitor) -> harness.Contender:
    quantity = QUANTITIES[cell.quantity]

    async def sample(calls: int) -> Any:
        return await (quantity.sample(cell, tool, calls) if quantity.timed else quantity.sample(cell, tool))

    async def warm_up(calls: int) -> float:
        if quantity.parts:
            return (await sample_parts(cell, tool, first=True))["wall"] * cell.count / 1e6
        first = replace(cell, quantity="time")
        if quantity.small_first or cell.count > 100_000:
            first = replace(first, count=min(cell.count, 50 if quantity.fresh else 1_000))
        return await sample_time(first, tool, calls) * cell.count / 1e6

    return harness.Contender(tool.name, warm_up, sample, repeated=quantity.timed)


def measure_cell(cell: Cell, tools: list[str], rounds: harness.Rounds, report: harness.Report) -> None:
    """Reports samples of each tool, or why there is none."""
    loop_factory = None
    if cell.loop == "uvloop":
        try:
            import uvloop
        except ImportError:
            for name in tools:
                report({"tool": name, "absent": "uvloop is not installed"})
            return
        loop_factory = uvloop.new_event_loop
    ready = []
    for name in tools:
        tool = competitors.BY_NAME[name]
        if without := why_not(cell, tool):
            report({"tool": name, without[0]: without[1]})
        else:
            ready.append(contender(cell, tool))
    if QUANTITIES[cell.quantity].fresh:
        rounds = harness.Rounds(1, 1)
    of_its_own = WORKS[cell.work].name in real_works.BY_NAME
    with measure.on_a_core_of_its_own() if of_its_own else contextlib.nullcontext():
        harness.hold(ready, rounds, report, loop_factory, real_works.close)


def asked(
    cell: Cell,
    tools: list[str],
    rounds: harness.Rounds,
    python: str,
    environment: dict[str, str] | None = None,
    against: str | None = None,
    within: Sequence[str] = (),
) -> Iterator[harness.Line]:
    """The lines of a cell that is measured in a process of its own, which `within` starts if it is a command."""
    request = {"cell": asdict(cell), "tools": tools, "rounds": asdict(rounds), "against": against}
    return harness.asked(["benchmarks", "cell"], request, python, environment, within)


def main() -> int:
    def handle(request: Any, report: harness.Report) -> None:
        if request["against"] is not None:
            competitors.BY_NAME[competitors.BEFORE] = competitors.of_another_checkout(request["against"])
        measure_cell(Cell(**request["cell"]), request["tools"], harness.Rounds(**request["rounds"]), report)

    return harness.answer(handle)
