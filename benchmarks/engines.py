"""`python -m benchmarks engines`: work at a dask scheduler, through `amap` with a limit and through what dask has itself.

A scheduler in a process of its own, two workers of one thread each in theirs, the client in this one. The ways take turns; a figure is the
median of the rounds. Every result is checked, and a way with a limit of which more than the limit waited or ran at the scheduler at any moment gives
no figure. What is counted at the scheduler is counted whenever a task there changes its state, by a plugin.

Memory is that of 100,000 inputs at a scheduler without workers, so that all of them wait: how much larger the client's process becomes, and the
scheduler's, each in a fresh process.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import itertools
import logging
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from gatedcoro import amap, gather

from . import harness, measure, parts

PAGE = harness.ROOT / "docs" / "engines.md"
PART = "what work at dask costs"
PACKAGES = ("distributed", "tornado")

WORKERS = 2
LIMIT = 20
PAUSE = 0.01  # seconds, of a function that takes time
FINISHED = ("memory", "erred", "released", "forgotten")

Sample = dict[str, float]


# --- What workers do ------------------------------------------------------------------------------------------------


def nothing(number: int) -> int:
    return number


def sleeping(number: int) -> int:
    time.sleep(PAUSE)
    return number


# --- The ways -------------------------------------------------------------------------------------------------------

Function = Callable[[int], int]
Heard = Callable[[], None]  # to be called for each result


async def at_dask(client: Any, function: Function, number: int) -> int:
    """The adapter of docs/engines.md, but for its translation of errors."""
    future = client.submit(function, number, pure=False)
    try:
        fetching: asyncio.Task[int] = asyncio.ensure_future(future.result())
        fetching.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return await asyncio.shield(fetching)
    finally:
        future.release()


async def by_amap(client: Any, function: Function, count: int, heard: Heard, limit: int = LIMIT) -> list[int]:
    results = []
    async for result in amap(partial(at_dask, client, function), range(count), limit=limit):
        heard()
        results.append(result)
    return results


async def by_map_and_gather(client: Any, function: Function, count: int, heard: Heard) -> list[int]:
    results: list[int] = await client.gather(client.map(function, range(count), pure=False))
    heard()
    return results


async def by_map_and_as_completed(client: Any, function: Function, count: int, heard: Heard) -> list[int]:
    from dask.distributed import as_completed

    futures = client.map(function, range(count), pure=False)
    results = []
    async for _, result in as_completed(futures, with_results=True):
        heard()
        results.append(result)
    return sorted(results)


async def by_as_completed_and_add(client: Any, function: Function, count: int, heard: Heard) -> list[int]:
    """A window by hand: another one is added for each that has ended."""
    from dask.distributed import as_completed

    ahead = (client.submit(function, number, pure=False) for number in range(count))
    window = as_completed(itertools.islice(ahead, LIMIT), with_results=True)
    results = []
    async for future, result in window:
        heard()
        results.append(result)
        future.release()
        for another in itertools.islice(ahead, 1):
            window.add(another)
    return sorted(results)


@dataclasses.dataclass(frozen=True)
class Way:
    run: Callable[[Any, Function, int, Heard], Awaitable[list[int]]]
    limit: int | None


OURS = f"amap(submit, limit={LIMIT})"
WAYS = {
    OURS: Way(by_amap, LIMIT),
    "client.map, client.gather": Way(by_map_and_gather, None),
    "client.map, as_completed": Way(by_map_and_as_completed, None),
    f"as_completed, add: {LIMIT} ahead": Way(by_as_completed_and_add, LIMIT),
}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is done."""

    tasks: int  # that do nothing
    sleeping: int
    waiting: int  # inputs of which none is finished
    rounds: int
    limits: tuple[int, ...]
    waits: tuple[str, ...]  # the ways whose memory is looked at
    beside: bool = False  # whether that is done beside the rest, which it disturbs


FULL = Size(tasks=500, sleeping=200, waiting=100_000, rounds=5, limits=(2, 4, 10, 20, 100), waits=tuple(WAYS))
QUICK = Size(tasks=60, sleeping=20, waiting=200, rounds=1, limits=(2, 100), waits=(OURS,), beside=True)


# --- At the scheduler -----------------------------------------------------------------------------------------------


class Counting:
    """A plugin of the scheduler: the most tasks that it had at a time, and the most of these that were not finished."""

    name = "counting"

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.unfinished = self.most = self.most_unfinished = 0

    def count(self) -> None:
        self.most = max(self.most, len(self.scheduler.tasks))
        self.most_unfinished = max(self.most_unfinished, self.unfinished)

    def update_graph(self, *what: Any, **more: Any) -> None:
        self.count()

    def transition(self, key: Any, start: str, finish: str, *what: Any, **more: Any) -> None:
        self.unfinished += (finish not in FINISHED) - (start not in FINISHED)
        self.count()


def count_anew(dask_scheduler: Any) -> None:
    dask_scheduler.counting.most = dask_scheduler.counting.most_unfinished = 0


def counted(dask_scheduler: Any) -> tuple[int, int, int]:
    """The most tasks, the most unfinished ones, those that are there."""
    found = dask_scheduler.counting
    return found.most, found.most_unfinished, len(dask_scheduler.tasks)


def resident(dask_scheduler: Any) -> int:
    return measure.resident()


def end(dask_scheduler: Any) -> None:
    dask_scheduler.the_end.set()


async def serve(workers: int, report: harness.Report) -> None:
    """A scheduler and its workers, until `end` runs there."""
    from dask.distributed import LocalCluster, SchedulerPlugin

    counting = type("Plugin", (Counting, SchedulerPlugin), {})
    options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": "CRITICAL"}
    async with LocalCluster(**options, asynchronous=True) as cluster:
        scheduler = cluster.scheduler
        scheduler.the_end = asyncio.Event()
        scheduler.counting = counting(scheduler)
        scheduler.add_plugin(scheduler.counting)
        report({"address": cluster.scheduler_address})
        asked_by = os.getppid()
        while not scheduler.the_end.is_set() and os.getppid() == asked_by:  # that one may have been killed
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(scheduler.the_end.wait(), 1)


@contextlib.asynccontextmanager
async def scheduler_elsewhere(workers: int) -> AsyncIterator[str]:
    """Its address; the scheduler has a process of its own."""
    from dask.distributed import Client

    with harness.child(["benchmarks.engines", "--child"], {"workers": workers}) as child:
        lines = child.lines()
        found = await asyncio.to_thread(next, lines, None)
        if found is None:
            raise harness.Failed(child.said()[-500:])
        address = found["address"]
        try:
            yield address
        finally:
            async with Client(address, asynchronous=True, set_as_default=False) as client:
                await client.run_on_scheduler(end)
            await asyncio.to_thread(list, lines)


# --- Figures ----------------------------------------------------------------------------------------------------------


async def nothing_left(client: Any) -> tuple[int, int]:
    """The most tasks, the most unfinished ones; waits until the scheduler has forgotten them all."""
    while True:
        most, unfinished, left = await client.run_on_scheduler(counted)
        if not left:
            return most, unfinished
        await asyncio.sleep(0.01)


def check_limit(name: str, unfinished: int, limit: int | None) -> None:
    if limit is not None and not 1 < unfinished <= limit:
        raise measure.WrongResult(f"{name}: {unfinished} at once instead of {limit}")


async def sample(client: Any, name: str, size: Size) -> Sample:
    """Each figure of a column, once."""
    way = WAYS[name]
    heard: list[float] = []
    await client.run_on_scheduler(count_anew)
    began = time.perf_counter()
    results = await way.run(client, nothing, size.tasks, lambda: heard.append(time.perf_counter()))
    ended = time.perf_counter()
    measure.check(results, range(size.tasks))
    del results
    await nothing_left(client)
    then = time.perf_counter()
    measure.check(await way.run(client, sleeping, size.sleeping, lambda: None), range(size.sleeping))
    slept = time.perf_counter() - then
    most, unfinished = await nothing_left(client)
    check_limit(name, unfinished, way.limit)
    return {
        "tasks": size.tasks / (ended - began),
        "sleeping": size.sleeping / slept,
        "first": (heard[0] - began) * 1e3,
        "unfinished": unfinished,
        "most": most,
    }


async def sample_of_limit(client: Any, limit: int, size: Size) -> Sample:
    found = {}
    await client.run_on_scheduler(count_anew)
    for name, function, count in (("tasks", nothing, size.tasks), ("sleeping", sleeping, size.sleeping)):
        began = time.perf_counter()
        measure.check(await by_amap(client, function, count, lambda: None, limit), range(count))
        found[name] = count / (time.perf_counter() - began)
    _, unfinished = await nothing_left(client)
    check_limit(f"limit {limit}", unfinished, limit)
    return found


async def waiting_here(address: str, way: str, count: int) -> Sample:
    """What 100,000 inputs cost while they wait, in this process and at the scheduler, which has no worker."""
    from dask.distributed import Client

    expected = WAYS[way].limit or count
    async with Client(address, asynchronous=True) as client:
        before = await client.run_on_scheduler(resident)
        with measure.rss_growth() as growth:
            call = asyncio.ensure_future(WAYS[way].run(client, nothing, count, lambda: None))
            there = 0
            while there < expected:
                await asyncio.sleep(0.05)
                if call.done():
                    raise measure.WrongResult(f"{way}: it is over, without a worker: {call.exception()!r}")
                _, _, there = await client.run_on_scheduler(counted)
        after = await client.run_on_scheduler(resident)
        if there != expected:
            raise measure.WrongResult(f"{way}: {there} at the scheduler instead of {expected}")
        call.cancel()
        await asyncio.wait([call])
    return {"client": growth.bytes / 1e6, "scheduler": (after - before) / 1e6}


async def waiting(way: str, count: int) -> Sample:
    async with scheduler_elsewhere(workers=0) as address:
        request = {"address": address, "way": way, "count": count}
        [answer] = await asyncio.to_thread(lambda: [*harness.asked(["benchmarks.engines", "--child"], request)])
        return dict(answer)


def no_reports() -> None:
    """Of connections that the other side has closed: schedulers end here while clients are there."""
    importlib.import_module("distributed")  # which sets its own level
    logging.getLogger("distributed").setLevel(logging.CRITICAL)


def child(request: dict[str, Any], report: harness.Report) -> None:
    no_reports()
    if "workers" in request:
        asyncio.run(serve(request["workers"], report))
    else:
        report(asyncio.run(waiting_here(**request)))


# --- The tables -----------------------------------------------------------------------------------------------------

ROWS = {  # a figure: what it is, how it is written
    "tasks": ("functions that do nothing, a second", "{:,.0f}"),
    "sleeping": (f"functions of {PAUSE * 1e3:.0f} ms, a second ({WORKERS / PAUSE:.0f} at best)", "{:,.0f}"),
    "first": ("the first result that the caller sees, of {tasks:,}: ms", "{:,.0f}"),
    "unfinished": ("most at the scheduler that wait or run, of {tasks:,}", "{:,.0f}"),
    "most": ("the same, with results that are still there", "{:,.0f}"),
    "client": ("memory of the client while {waiting:,} inputs wait, MB", "{:,.1f}"),
    "scheduler": ("memory of the scheduler, MB", "{:,.1f}"),
}


def median(samples: Sequence[Sample], name: str) -> float | None:
    values = [one[name] for one in samples if name in one]
    return statistics.median(values) if values else None


def written(found: dict[str, list[Sample]], size: Size) -> str:
    rows = []
    for name, (title, form) in ROWS.items():
        values = [median(samples, name) for samples in found.values()]
        cells = ["" if value is None else form.format(value) for value in values]
        rows.append([title.format(**dataclasses.asdict(size)), *cells])
    return parts.table(["", *(f"`{way}`" if way == OURS else way for way in found)], rows)


def written_limits(found: dict[int, list[Sample]]) -> str:
    rows = [
        [f"`limit={limit}`", *(f"{median(samples, name) or 0:,.0f}" for name in ("tasks", "sleeping"))]
        for limit, samples in found.items()
    ]
    return parts.table(["", *(ROWS[name][0] for name in ("tasks", "sleeping"))], rows)


# --- The command ----------------------------------------------------------------------------------------------------


async def measured(size: Size) -> tuple[dict[str, list[Sample]], dict[int, list[Sample]]]:
    from dask.distributed import Client

    found: dict[str, list[Sample]] = {way: [] for way in WAYS}
    of_limits: dict[int, list[Sample]] = {limit: [] for limit in size.limits}

    async def at_work() -> None:
        async with scheduler_elsewhere(WORKERS) as address:
            async with Client(address, asynchronous=True) as client:
                await client.wait_for_workers(WORKERS)
                await client.gather(client.map(sleeping, range(20), pure=False))  # whatever is imported is imported
                for _, order in measure.in_turns(list(WAYS), size.rounds):
                    for way in order:
                        found[way].append(await sample(client, way, size))
                for _, order in measure.in_turns([*map(str, size.limits)], size.rounds):
                    for limit in map(int, order):
                        of_limits[limit].append(await sample_of_limit(client, limit, size))

    async def waits(way: str) -> None:
        found[way].append(await waiting(way, size.waiting))

    await gather(at_work(), *map(waits, size.waits), limit=1 + size.beside)
    return found, of_limits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quick", action="store_true", help="seconds: are results and limits right? Its figures say nothing"
    )
    parser.add_argument("--docs", action="store_true", help="also write the tables into docs/engines.md")


def main(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("distributed") is None:
        print("nothing measured: distributed is not installed")
        return 1
    no_reports()
    size = QUICK if options.quick else FULL
    found, of_limits = asyncio.run(measured(size))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    head = parts.made("engines" + " --quick" * options.quick, ()).rstrip(".\n") + f"; {versions}.\n"
    text = f"{head}\n{written(found, size)}\n{written_limits(of_limits)}"
    print(text)
    if options.docs:
        parts.write(PAGE, PART, text)
    return 0


if __name__ == "__main__":  # a process that is asked
    assert sys.argv[1:] == ["--child"]
    sys.exit(harness.answer(child))
