"""The demo behind `python -m gatedcoro`: the same work under LangChain's algorithm and under gatedcoro.

First what users do: thousands of HTTP requests, 50 at a time, to a service in another process. Then what is left when the items
cost nothing: the engine alone. For each kind of work, both take turns:

    timed rounds    medians are shown; the coroutines are made before the clock starts
    one pass with a heartbeat on the event loop: the longest stall
    one pass under tracemalloc: peak memory beyond the coroutines, which the caller made

Then what a stream is for (_demo_streams.py): many items, two stages, a slow reader. Each pass checks that the results are right.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import gatedcoro
from gatedcoro import _demo_streams
from gatedcoro._demo_measure import (
    Heartbeat,
    WrongResult,
    check,
    future,
    in_turns,
    langchain_gather,
    nothing,
    sleep0,
    traced_growth,
)
from gatedcoro._demo_streams import Streams

Item: TypeAlias = Callable[[int], Coroutine[Any, Any, Any]]
Gather: TypeAlias = Callable[..., Awaitable[list[Any]]]

STALL_FLOOR = 0.002  # a shorter gap says more about timers than about the work


CONTENDERS: dict[str, Gather] = {"langchain": langchain_gather, "gatedcoro": gatedcoro.gather_with_concurrency}


# The work.


class Client:
    """A small HTTP client that keeps its connections."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def get(self, path: str) -> Any:
        connection = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = connection
        try:
            writer.write(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % path.encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
        except BaseException:
            writer.close()  # the rest of an answer may still be to come
            raise
        self.idle.append(connection)
        return json.loads(body)

    async def square(self, i: int) -> int:
        answer = await self.get(f"/item/{i}")
        return int(answer["square"])

    async def close(self) -> None:
        for _, writer in self.idle:
            writer.close()
        for _, writer in self.idle:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        self.idle.clear()


@contextlib.contextmanager
def http_service() -> Iterator[int]:
    """The service, as a process of its own; gives its port."""
    program = Path(__file__).with_name("_demo_server.py")
    with subprocess.Popen(
        [sys.executable, "-P", str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()  # which is what it waits for
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()


@dataclass
class Work:
    key: str
    title: str
    item: Item
    items: int
    limit: int
    expected: Callable[[int], int] = lambda i: i
    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in CONTENDERS})
    stall: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)

    def heading(self) -> str:
        return f"{self.items:,} {self.title}, {self.limit} at a time"

    def coros(self, count: int) -> list[Coroutine[Any, Any, Any]]:
        return [self.item(i) for i in range(count)]

    def check(self, name: str, results: list[Any], count: int) -> None:
        try:
            check(results, [self.expected(i) for i in range(count)])
        except WrongResult as error:
            raise WrongResult(f"{name} gave wrong results for {self.heading()}: {error}") from None


def all_work(client: Client, quick: bool) -> list[Work]:
    items = 5_000 if quick else 40_000
    return [
        Work("http", "HTTP requests", client.square, 500 if quick else 4_000, 50, lambda i: i * i),
        Work("nothing", "items that do nothing", nothing, items, 10),
        Work("sleep(0)", "items that await sleep(0)", sleep0, items, 10),
        Work("future", "items that await a future", future, items, 10),
    ]


# The measuring.


async def one_pass(work: Work, name: str, count: int) -> float:
    """Runs `count` items, checks what came back, and returns the seconds from the call to the last result."""
    coros = work.coros(count)
    start = time.perf_counter()
    results = await CONTENDERS[name](work.limit, *coros)
    seconds = time.perf_counter() - start
    work.check(name, results, count)
    return seconds


async def longest_stall(work: Work, name: str) -> float:
    coros = work.coros(work.items)
    async with Heartbeat() as heartbeat:
        results = await CONTENDERS[name](work.limit, *coros)
    work.check(name, results, work.items)
    return heartbeat.longest_stall()


async def peak_extra_memory(work: Work, name: str) -> int:
    coros = work.coros(work.items)
    with traced_growth() as growth:
        results = await CONTENDERS[name](work.limit, *coros)
    work.check(name, results, work.items)
    return int(growth.bytes)


ROUNDS = 3


async def measure(work: Work, progress: Progress, deadline: float) -> None:
    """Fills in the work's figures. After the deadline no further timed round begins."""
    for name in CONTENDERS:
        progress.step(f"{work.heading()}: warming up")
        await one_pass(work, name, min(work.items, 500))
    for number, order in in_turns(CONTENDERS, ROUNDS):
        in_time = number == 0 or time.perf_counter() < deadline
        for name in order:
            progress.step(f"{work.heading()}: round {number + 1} of {ROUNDS}, {LABELS[name]}")
            if in_time:
                gc.collect()
                work.seconds[name].append(await one_pass(work, name, work.items))
    for name in CONTENDERS:
        progress.step(f"{work.heading()}: longest stall, {LABELS[name]}")
        gc.collect()
        work.stall[name] = await longest_stall(work, name)
    for name in CONTENDERS:
        progress.step(f"{work.heading()}: memory, {LABELS[name]}")
        gc.collect()
        work.memory[name] = await peak_extra_memory(work, name)


STEPS_PER_WORK = len(CONTENDERS) * (1 + ROUNDS + 2)


async def run(port: int, quick: bool, progress: Progress) -> tuple[list[Work], Streams, int]:
    """All the work, measured, and the highest number of requests that the service saw at once."""
    seconds_for_rounds = 3.0 if quick else 18.0
    client = Client(port)
    works = all_work(client, quick)
    try:
        begin = time.perf_counter()
        for number, work in enumerate(works, 1):
            await measure(work, progress, begin + seconds_for_rounds * number / len(works))
        peak = int(await client.get("/peak"))
    finally:
        await client.close()
    if peak > works[0].limit:
        raise WrongResult(f"the service saw {peak} requests at once, the limit was {works[0].limit}")
    streams = Streams(5_000 if quick else 100_000)
    await streams.measure(progress.step)
    return works, streams, peak


# What is shown while it runs: on stderr, and only to a person.


class Progress:
    """Shows nothing; what the others have in common."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0

    def step(self, text: str) -> None:
        """Says what begins now."""
        self.show(text)
        self.done += 1

    def show(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class LineProgress(Progress):
    def show(self, text: str) -> None:
        percent = 100 * self.done // self.total
        print(f"\r\x1b[K{percent:3d} %  {text}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


class RichProgress(Progress):
    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        super().__init__(total)
        self.bar = Progress(
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self.task = self.bar.add_task("", total=total)
        self.bar.start()

    def show(self, text: str) -> None:
        self.bar.update(self.task, completed=self.done, description=text, refresh=True)

    def close(self) -> None:
        self.bar.stop()


def rich_is_there() -> bool:
    try:
        import rich.progress
        import rich.table  # noqa: F401
    except ImportError:
        return False
    return True


def progress_for(total: int) -> Progress:
    if not sys.stderr.isatty():
        return Progress(total)
    return RichProgress(total) if rich_is_there() else LineProgress(total)


# The outcome.

LABELS = {"langchain": "LangChain's", "gatedcoro": "gatedcoro"}
HEADS = ["", "LangChain's", "gatedcoro", "ratio"]
HEADS_OF_STREAMS = ["", *_demo_streams.WAYS]
TIME, MEMORY, STALL = "time", "peak extra memory", "longest stall of the event loop"


def shown_seconds(seconds: float) -> str:
    if seconds >= 10:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:,.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.1f} ms"


def shown_stall(seconds: float) -> str:
    return shown_seconds(seconds) if seconds >= STALL_FLOOR else f"under {STALL_FLOOR * 1e3:.0f} ms"


def shown_bytes(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"


def shown_ratio(theirs: float, ours: float, floor: float = 0.0) -> str:
    """How many times less ours is; where it lies under the floor of what can be told, at least how many times."""
    if theirs < floor and ours < floor:
        return "same"
    ratio = theirs / max(ours, floor, 1e-9)
    return ("over " if ours < floor else "") + (f"{ratio:.0f}x" if ratio >= 20 else f"{ratio:.1f}x")


def rows_of(work: Work) -> list[list[str]]:
    theirs, ours = (statistics.median(work.seconds[name]) for name in CONTENDERS)
    their_memory, our_memory = (work.memory[name] for name in CONTENDERS)
    their_stall, our_stall = (work.stall[name] for name in CONTENDERS)
    return [
        [TIME, shown_seconds(theirs), shown_seconds(ours), shown_ratio(theirs, ours)],
        [
            MEMORY,
            shown_bytes(their_memory),
            shown_bytes(our_memory),
            shown_ratio(their_memory, our_memory),
        ],
        [
            STALL,
            shown_stall(their_stall),
            shown_stall(our_stall),
            shown_ratio(their_stall, our_stall, STALL_FLOOR),
        ],
    ]


def rows_of_streams(streams: Streams) -> list[list[str]]:
    return [
        [TIME, *map(shown_seconds, streams.seconds.values())],
        [MEMORY, *map(shown_bytes, streams.memory.values())],
        [STALL, *map(shown_stall, streams.stall.values())],
    ]


Sections: TypeAlias = list[tuple[str, list[list[str]]]]


def tables_of(works: list[Work], streams: Streams) -> list[tuple[list[str], Sections]]:
    """The heads of each table, and its sections: a heading, and rows."""
    return [
        (HEADS, [(work.heading(), rows_of(work)) for work in works]),
        (HEADS_OF_STREAMS, [(streams.heading(), rows_of_streams(streams))]),
    ]


def about() -> str:
    implementation = "C extension" if gatedcoro.implementation == "c" else "Python implementation"
    return (
        f"gatedcoro {gatedcoro.__version__} ({implementation}), {platform.python_implementation()} "
        f"{platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    )


def print_plain_table(heads: list[str], sections: Sections) -> None:
    def line(cells: list[str]) -> str:
        return f"  {cells[0]:<34}{cells[1]:>12}{cells[2]:>13}{cells[3]:>13}".rstrip()

    print(line(heads))
    for heading, rows in sections:
        print(heading)
        for row in rows:
            print(line(row))


def print_rich_table(heads: list[str], sections: Sections) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_edge=False, pad_edge=False)
    for head in heads:
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    for heading, rows in sections:
        table.add_row(f"[bold]{heading}[/bold]")
        for number, row in enumerate(rows):
            table.add_row("  " + row[0], row[1], row[2], f"[bold]{row[3]}[/bold]", end_section=number == 2)
    Console().print(table)


def print_outcome(works: list[Work], streams: Streams, peak: int, seconds: float) -> None:
    print(about())
    if gatedcoro.implementation != "c":
        print("NOTE: the C extension is not built for this Python, or not chosen. These are the figures of the")
        print("      Python implementation, which is lazy too, but not fast. In a checkout: pip install -e .")
    print_table = print_rich_table if sys.stdout.isatty() and rich_is_there() else print_plain_table
    for heads, sections in tables_of(works, streams):
        print()
        print_table(heads, sections)
    rounds = min(len(samples) for work in works for samples in work.seconds.values())
    print()
    print("All gave the same results, and the HTTP service never saw more than", peak, "requests at once.")
    print("asyncio: as_completed over a Task for each item, a Semaphore for each stage. workers: as many as may run at")
    print("once, a queue behind each stage, results out of order. gatedcoro: amap of amap, results in order.")
    print("LangChain's: its algorithm, asyncio.gather with a Semaphore around each item. ratio: LangChain's figure")
    print(
        f"divided by gatedcoro's. Time: median of {rounds} {'rounds' if rounds > 1 else 'round'}, taken in turns. Memory: beyond the coroutines,"
    )
    print(f"which the caller made. Stall: how late a 1 ms timer came at worst. It all took {seconds:.0f} s.")


def as_json(works: list[Work], streams: Streams, peak: int, seconds: float) -> str:
    def compared(figures: dict[str, Any]) -> dict[str, Any]:
        return {**figures, "ratio": figures["langchain"] / max(figures["gatedcoro"], 1e-9)}

    return json.dumps(
        {
            "gatedcoro": gatedcoro.__version__,
            "implementation": gatedcoro.implementation,
            "python": platform.python_version(),
            "python_implementation": platform.python_implementation(),
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "seconds": seconds,
            "peak_requests_at_once": peak,
            "same_results": True,
            "works": [
                {
                    "work": work.key,
                    "items": work.items,
                    "limit": work.limit,
                    "rounds": work.seconds,
                    "seconds": compared({name: statistics.median(work.seconds[name]) for name in CONTENDERS}),
                    "peak_extra_bytes": compared(work.memory),
                    "longest_stall_seconds": compared(work.stall),
                }
                for work in works
            ],
            "streams": {
                "items": streams.items,
                "seconds": streams.seconds,
                "peak_extra_bytes": streams.memory,
                "longest_stall_seconds": streams.stall,
            },
        },
        indent=2,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gatedcoro",
        description="Runs the same work under LangChain's algorithm and under gatedcoro on this machine, checks that both give "
        "the same results, and shows time, memory and the longest stall of the event loop; then a stream in two stages, beside "
        "the ways in which that is written today.",
    )
    parser.add_argument("--quick", action="store_true", help="a few seconds instead of half a minute")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--version", action="version", version=f"gatedcoro {gatedcoro.__version__}")
    options = parser.parse_args(arguments)
    # Ctrl-C in the middle of LangChain's algorithm leaves its queued coroutines behind; that is not news to whoever pressed it.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    begin = time.perf_counter()
    progress = Progress(0)
    try:
        with http_service() as port:
            progress = progress_for(STEPS_PER_WORK * len(all_work(Client(port), options.quick)) + _demo_streams.STEPS)
            try:
                works, streams, peak = asyncio.run(run(port, options.quick, progress))
            finally:
                progress.close()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except WrongResult as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - begin
    if options.json:
        print(as_json(works, streams, peak, seconds))
    else:
        print_outcome(works, streams, peak, seconds)
    return 0
