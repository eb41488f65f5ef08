"""gatedcoro against the figures that it is to reach: `python -m benchmarks goals`.

A *contest* is a cell of the comparison and the tools that are measured in it. A *goal* turns the samples of a contest in one process
into a figure: the median over the rounds of baseline / ours within a round. The figure of the table is the median over fresh
processes; its spread is their range.

The coroutines are made before the timed region (and before memory and stall are measured: what counts is what the tool adds); with
`--made-inside` they are made, and freed, within it, which costs each tool the same and so lowers every ratio. The rest is as in
compare/cells.py. To add a goal: a row of CONTESTS, unless there is one, and a row of GOALS.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import harness, parts
from .compare import cells
from .compare.cells import CALLABLES, COROUTINES, INSIDE, Cell
from .harness import Samples, difference, ratio, value

COUNT, LIMIT, LARGE, HUGE = 20_000, 10, 100_000, 1_000_000
MOST_ROUNDS, ENOUGH_SECONDS = 41, 1.0  # of a contest in one process: short rounds are noisy, and cheap to repeat
WORKS = {"nothing": "nothing", "sleep(0)": "sleep0", "future": "future"}
OURS, PER_ITEM, FROM_C = "gatedcoro", "gatedcoro-per-item", "task-from-c"
RUN_ALL, LOOP, LOOP_OF_CALLS, PARTIALS = "gatedcoro-run-all", "loop", "loop-of-calls", "making-partials"
STREAM, UNORDERED, ASYNC_SOURCE = "gatedcoro-stream", "gatedcoro-stream-unordered", "gatedcoro-stream-async-source"
AWAITED, POOL_AND_QUEUE, READER = "gatedcoro-awaited", "pool-queue", "only-reading"
OTHER_STREAMS = (
    "as-completed",
    "aiometer-amap",
    "aiostream-map",
    "aiostream-map-unordered",
    "streamable",
    "streamable-unordered",
    "pyarallel-iter",
    "pyarallel-iter-unordered",
)
PLAIN, ASYNC, LAZY = "gatedcoro-as-completed", "gatedcoro-as-completed-async", "gatedcoro-as-completed-lazy"
OF_TASKS = "gatedcoro-as-completed-of-tasks"
BESIDE_ASYNCIO = {  # ours -> asyncio's, with a semaphore around each item if there is a limit
    PLAIN: "as-completed",
    ASYNC: "as-completed-async",
    LAZY: "as-completed-async",
    OF_TASKS: "as-completed-of-tasks",
}
ASYNCIO_SEMAPHORE, SEMAPHORE, WAITERS = "asyncio-semaphore", "gatedcoro-semaphore", 10_000
SEMAPHORES_ALONE = {  # work -> title, count, limit, quantity, what is wanted
    "semaphore-entered": ("async with, free", COUNT, LIMIT, "time", (4, 3.2, 3.3)),
    "semaphore-acquired": ("acquire() and release(), free", COUNT, LIMIT, "time", (5, 3.5, 3)),
    "semaphore-shared": ("1,000 tasks share 10 slots over sleep(0)", COUNT, LIMIT, "time", (1.3, 1.3, 1.3)),
    "semaphore-released": ("10,000 waiters let in in one turn", WAITERS, WAITERS, "time-of-one", (20, 20, 20)),
}
LANGCHAIN_GATED, GATED, GATED_BY_OURS = "langchain-gated-coro", "gatedcoro-gated-coro", "gatedcoro-gated-coro-semaphore"
GATED_CONTESTS = {  # what is made before -> name
    COROUTINES: "gated_coro, free semaphore, nothing",
    INSIDE: "gated_coro in a loop, free semaphore, nothing",
}
TASKS_FROM_C = "n=10, nothing, only Tasks"
BESIDE_LOOPS, PARTIALS_MADE = "run_all beside plain loops, nothing", "run_all, nothing, what is called made inside"


# --- Contests -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contest:
    name: str
    cell: Cell
    tools: tuple[str, ...]
    alone: bool = False  # one tool per fresh process, one sample


def made_before(name: str, work: str, count: int, limit: int | None, *tools: str) -> Contest:
    return Contest(name, Cell(work, count, limit, made=COROUTINES), tools)


def large(name: str, quantity: str, count: int, *tools: str) -> Contest:
    cell = Cell("sleep0", count, LIMIT, quantity=quantity, made=COROUTINES)
    return Contest(f"N={count:,}, {name}", cell, (*tools, OURS, PER_ITEM), alone=True)


def read(name: str, quantity: str, count: int, limit: int, *tools: str) -> Contest:
    """Results are read one by one, and not kept."""
    return Contest(f"stream, N={count:,}, {name}", Cell("sleep0", count, limit, quantity=quantity), tools, alone=True)


READ_QUANTITIES = {"memory": "read-traced", "stall": "read-stall", "own stall": "own-read-stall"}
AWAITED_BESIDE_RUN_ALL, FROM_ASYNC = "stream awaited, nothing", "stream from an async source, nothing"
AGAINST_OTHERS = "streams of others, sleep(0)"
SLOWLY_READ = "stream read slowly, n=100"
AS_COMPLETED = 10_000
CONTESTS = [
    *[
        made_before(f"n=10, {title}", work, COUNT, LIMIT, "langchain", "pool", OURS, PER_ITEM)
        for title, work in WORKS.items()
    ],
    *[
        made_before(f"n=None, {title}", work, COUNT, None, "asyncio-gather", OURS, PER_ITEM)
        for title, work in WORKS.items()
    ],
    made_before(TASKS_FROM_C, "nothing", COUNT, LIMIT, FROM_C, PER_ITEM),
    made_before("20 items, n=5, sleep(0)", "sleep0", 20, 5, "langchain", "pool", OURS, PER_ITEM),
    *[
        Contest(name, Cell("nothing", COUNT, LIMIT, made=made), (LANGCHAIN_GATED, GATED, GATED_BY_OURS))
        for made, name in GATED_CONTESTS.items()
    ],
    *[
        Contest(f"semaphore, {title}", Cell(work, count, limit, quantity=quantity), (ASYNCIO_SEMAPHORE, SEMAPHORE))
        for work, (title, count, limit, quantity, _) in SEMAPHORES_ALONE.items()
    ],
    *[
        made_before(
            f"gather(limit=semaphore), {title}", work, COUNT, LIMIT, "gatedcoro-gather", "gatedcoro-gather-semaphore"
        )
        for title, work in WORKS.items()
    ],
    *[
        made_before(f"gather(limit=10), {title}", work, COUNT, LIMIT, "gatedcoro-handed-on", "gatedcoro-gather")
        for title, work in WORKS.items()
    ],
    *[
        Contest(
            f"run_all, nothing, N={count:,}",
            Cell("nothing", count, LIMIT, made=CALLABLES),
            (OURS, RUN_ALL),  # the first calls the callables, and gathers what they return
        )
        for count in (COUNT, 200_000)
    ],
    Contest(BESIDE_LOOPS, Cell("nothing", COUNT, LIMIT, made=CALLABLES), (OURS, RUN_ALL, LOOP, LOOP_OF_CALLS)),
    Contest(PARTIALS_MADE, Cell("nothing", COUNT, LIMIT), (OURS, RUN_ALL, PARTIALS)),
    large("extra RSS", "rss", LARGE, "langchain"),
    large("extra traced", "added", LARGE, "langchain"),
    large("stall", "stall", LARGE, "langchain"),
    large("own stall while running", "own-stall-while-running", HUGE),
    large("stall while running", "stall-while-running", HUGE),
    large("extra traced", "added", HUGE),
    *[
        Contest(f"stream, n=10, {title}", Cell(work, COUNT, LIMIT), (POOL_AND_QUEUE, STREAM, UNORDERED))
        for title, work in WORKS.items()
    ],
    Contest(AWAITED_BESIDE_RUN_ALL, Cell("nothing", COUNT, LIMIT), (RUN_ALL, AWAITED)),
    Contest(FROM_ASYNC, Cell("nothing", COUNT, LIMIT), (UNORDERED, ASYNC_SOURCE)),
    Contest(SLOWLY_READ, Cell("sleep0", 200, 100, quantity="slowly-read"), (READER, STREAM, UNORDERED)),
    Contest(AGAINST_OTHERS, Cell("sleep0", 2_000, LIMIT), (STREAM, UNORDERED, *OTHER_STREAMS)),
    *[
        read(name, quantity, count, LIMIT, STREAM, UNORDERED, *others)
        for count, others in ((HUGE, (ASYNC_SOURCE, LAZY)), (COUNT, OTHER_STREAMS))
        for name, quantity in READ_QUANTITIES.items()
    ],
    *[
        Contest(
            f"as_completed, n={limit}, {title}",
            Cell(work, AS_COMPLETED, limit),
            (PLAIN, ASYNC, LAZY, "as-completed", "as-completed-async")
            + ((OF_TASKS, "as-completed-of-tasks") if limit is None else ()),
        )
        for limit in (LIMIT, None)
        for title, work in WORKS.items()
    ],
]


# --- Goals --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """`wanted` is by minor version of CPython, or one number for all ("")."""

    contest: str
    title: str
    figure: Callable[[Samples], float]
    wanted: dict[str, float]
    unit: str = "x"
    at_most: bool = False
    mode: str = ""  # the tool that it is about, where Task reuse matters

    def wanted_on(self, version: str) -> float | None:
        return self.wanted.get(version, self.wanted.get(""))

    def met(self, figure: float, version: str) -> bool | None:
        wanted = self.wanted_on(version)
        if wanted is None:
            return None
        return figure <= wanted if self.at_most else figure >= 0.9 * wanted


def faster(contest: str, baseline: str, tool: str, *wanted: float) -> Goal:
    """How many times faster than the baseline, on 3.11, 3.13 and 3.14."""
    return Goal(
        contest,
        f"{contest}: {baseline} / {tool}",
        ratio(baseline, tool),
        dict(zip(("3.11", "3.13", "3.14"), wanted, strict=True)),
        mode=tool if tool in (OURS, PER_ITEM) else "",
    )


def at_most(contest: str, what: str, figure: Callable[[Samples], float], wanted: float, unit: str, mode: str) -> Goal:
    return Goal(contest, f"{contest}: {what}", figure, {"": wanted}, unit, True, mode)


def beyond_gather(samples: Samples) -> float:
    """us: what `run_all` costs above a loop that calls and awaits the same, less what `gather_with_concurrency` costs above a loop that
    awaits the same coroutines. Each calls every function once; the last two before they await anything."""
    rounds = zip(*(samples[tool] for tool in (RUN_ALL, LOOP_OF_CALLS, OURS, LOOP)), strict=True)
    beyond: list[float] = [(run_all - calls) - (ours - loop) for run_all, calls, ours, loop in rounds]
    return statistics.median(beyond)


def share_of_partials(samples: Samples) -> float:
    """Making and freeing the partials, of what `run_all` costs above `gather_with_concurrency`, both with making what they are given."""
    rounds = zip(*(samples[tool] for tool in (PARTIALS, RUN_ALL, OURS)), strict=True)
    shares: list[float] = [made / (run_all - ours) for made, run_all, ours in rounds]
    return statistics.median(shares)


def small_and_smooth(tool: str) -> Iterator[Goal]:
    """With and without Task reuse."""
    for contest, wanted in (("extra RSS", 0.1), ("extra traced", 0.1), ("stall", 0.05)):
        yield at_most(f"N={LARGE:,}, {contest}", f"{tool} / langchain", ratio(tool, "langchain"), wanted, "x", tool)
    for contest, wanted, unit in (
        ("stall while running", 20.0, "ms"),
        ("own stall while running", 20.0, "ms of processor time"),
        ("extra traced", 16.0, "bytes per item"),
    ):
        yield at_most(f"N={HUGE:,}, {contest}", tool, value(tool), wanted, unit, tool)


def streams() -> Iterator[Goal]:
    """Beside the hand-written pool, `run_all`, and whatever else gives results one by one."""
    for work, wanted in (("nothing", 0.25), ("sleep(0)", 0.7), ("future", 0.8)):
        for tool in (STREAM, UNORDERED):
            contest = f"stream, n=10, {work}"
            yield at_most(contest, f"{tool} / {POOL_AND_QUEUE}", ratio(tool, POOL_AND_QUEUE), wanted, "x", "")
    yield at_most(AWAITED_BESIDE_RUN_ALL, f"{AWAITED} / {RUN_ALL}", ratio(AWAITED, RUN_ALL), 1.1, "x", "")
    yield at_most(FROM_ASYNC, f"{ASYNC_SOURCE} - {UNORDERED}", difference(ASYNC_SOURCE, UNORDERED), 0.3, "us", "")
    for tool in (STREAM, UNORDERED):
        # What is left is the item itself: while the reader pauses nothing is done.
        yield at_most(SLOWLY_READ, f"{tool} - {READER}", difference(tool, READER), 20.0, "us", "")
    for tool in (STREAM, UNORDERED, ASYNC_SOURCE, LAZY):
        for name, wanted, unit in (("memory", 1.0, "MB"), ("stall", 10.0, "ms"), ("own stall", 10.0, "ms")):
            yield at_most(f"stream, N={HUGE:,}, {name}", tool, value(tool), wanted, unit, "")
    for other in OTHER_STREAMS:
        ours = STREAM if other in ("aiostream-map", "streamable", "pyarallel-iter") else UNORDERED
        yield at_most(AGAINST_OTHERS, f"{ours} / {other}", ratio(ours, other), 1.0, "x", "")
        # Up to a few objects, and what a timer of a millisecond can tell.
        for name, floor, unit in (("memory", 0.05, "MB"), ("stall", 1.0, "ms"), ("own stall", 1.0, "ms")):
            contest = f"stream, N={COUNT:,}, {name}"
            yield at_most(contest, f"{ours} - {other}", difference(ours, other), floor, unit, "")


def beside_asyncio() -> Iterator[Goal]:
    """as_completed beside asyncio's: a semaphore around each item costs the more."""
    for contest in CONTESTS:
        if contest.name.startswith("as_completed"):
            for ours, theirs in BESIDE_ASYNCIO.items():
                if ours in contest.tools:
                    wanted = 1.0 if contest.cell.limit is None else 0.6
                    yield at_most(contest.name, f"{ours} / {theirs}", ratio(ours, theirs), wanted, "x", "")


GOALS = [
    faster("n=10, nothing", "langchain", OURS, 45, 30, 28),
    faster("n=10, sleep(0)", "langchain", OURS, 8, 6.5, 5.8),
    faster("n=10, future", "langchain", OURS, 4.5, 3.3, 3.7),
    faster("n=10, nothing", "langchain", PER_ITEM, 2.6, 8, 9),
    faster("n=10, sleep(0)", "langchain", PER_ITEM, 3, 4, 5),
    faster("n=10, future", "langchain", PER_ITEM, 2.6, 2.8, 3.5),
    faster("n=None, nothing", "asyncio-gather", OURS, 25, 20, 18),
    faster("n=None, sleep(0)", "asyncio-gather", OURS, 1.4, 1.6, 1.6),
    faster("n=None, future", "asyncio-gather", OURS, 1.3, 1.4, 1.5),
    faster("n=None, nothing", "asyncio-gather", PER_ITEM, 1.7, 5, 5),
    faster("n=None, sleep(0)", "asyncio-gather", PER_ITEM, 1.4, 1.6, 1.6),
    faster("n=None, future", "asyncio-gather", PER_ITEM, 1.3, 1.4, 1.5),
    faster("20 items, n=5, sleep(0)", "langchain", OURS, 3, 3.5, 3.5),
    faster("20 items, n=5, sleep(0)", "langchain", PER_ITEM, 1.8, 2.5, 3),
    *[
        faster(contest, LANGCHAIN_GATED, tool, *wanted)
        for contest in GATED_CONTESTS.values()
        for tool, wanted in ((GATED, (3, 3, 3)), (GATED_BY_OURS, (4, 4, 3.5)))
    ],
    *[
        faster(f"semaphore, {title}", ASYNCIO_SEMAPHORE, SEMAPHORE, *wanted)
        for title, _, _, _, wanted in SEMAPHORES_ALONE.values()
    ],
    *[
        at_most(
            f"gather(limit=semaphore), {work}",
            "gatedcoro-gather-semaphore / gatedcoro-gather",
            ratio("gatedcoro-gather-semaphore", "gatedcoro-gather"),
            1.1,
            "x",
            "",
        )
        for work in WORKS
    ],
    *[at_most(f"n=10, {work}", f"{OURS} - pool", difference(OURS, "pool"), 0.2, "us", OURS) for work in WORKS],
    at_most(
        TASKS_FROM_C,
        f"{PER_ITEM} - {FROM_C}",
        difference(PER_ITEM, FROM_C),
        0.15,
        "us",
        PER_ITEM,
    ),
    *[
        at_most(
            f"gather(limit=10), {work}",
            "gather / gather_with_concurrency",
            ratio("gatedcoro-gather", "gatedcoro-handed-on"),
            1.1,
            "x",
            "",
        )
        for work in WORKS
    ],
    *[
        at_most(f"run_all, nothing, N={count:,}", f"run_all / {OURS}", ratio(RUN_ALL, OURS), 0.8, "x", "")
        for count in (COUNT, 200_000)
    ],
    at_most(BESIDE_LOOPS, f"({RUN_ALL} - {LOOP_OF_CALLS}) - ({OURS} - {LOOP})", beyond_gather, 0.05, "us", ""),
    Goal(PARTIALS_MADE, f"{PARTIALS_MADE}: {PARTIALS} / ({RUN_ALL} - {OURS})", share_of_partials, {}),
    *small_and_smooth(OURS),
    *small_and_smooth(PER_ITEM),
    *streams(),
    *beside_asyncio(),
]


# --- Measuring ----------------------------------------------------------------------------------------------------


BY_PROCESSOR = {"time": "processor-time", "time-of-one": "processor-time-of-one"}


@dataclass
class Measured:
    build: str
    figures: dict[str, list[float]] = field(default_factory=dict)  # goal's title -> one per process
    medians: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # contest -> tool -> one per process
    without: dict[str, str] = field(default_factory=dict)  # contest and tool -> why


def measured_on(python: harness.Python, goals: list[Goal], options: argparse.Namespace) -> Measured:
    measured = Measured(python.build)
    skipped = PER_ITEM if options.reuse else OURS if options.no_reuse else None
    contests = [contest for contest in CONTESTS if contest.name in {goal.contest for goal in goals}]
    for number in range(options.processes):
        for contest in contests:
            if sys.stderr.isatty():
                print(
                    f"\r\x1b[K{python.name}: {number + 1}/{options.processes}, {contest.name}\r",
                    end="",
                    file=sys.stderr,
                )
            samples = samples_of(contest, python, skipped, options, measured)
            for goal in goals:
                if goal.contest == contest.name and samples:
                    try:
                        measured.figures.setdefault(goal.title, []).append(goal.figure(samples))
                    except (KeyError, ValueError):  # a tool without samples, or that failed after some
                        continue
            for tool, values in samples.items():
                medians = measured.medians.setdefault(contest.name, {})
                medians.setdefault(tool, []).append(statistics.median(values))
    return measured


def samples_of(
    contest: Contest, python: harness.Python, skipped: str | None, options: argparse.Namespace, measured: Measured
) -> dict[str, list[float]]:
    """One process's samples of each tool; or, of tools that are alone, those of one process each."""
    cell = contest.cell
    # Where the two modes are compared each is a tool; elsewhere what is left out is left out by the environment.
    tools = [tool for tool in contest.tools if tool != skipped or PER_ITEM not in contest.tools]
    environment = {"PYTHONHASHSEED": "0", **({"GATEDCORO_TASK_REUSE": "0"} if options.no_reuse else {})}
    if cell.quantity in BY_PROCESSOR:
        made = INSIDE if options.made_inside and cell.made == COROUTINES else cell.made
        quantity = BY_PROCESSOR[cell.quantity] if options.processor_time else cell.quantity
        cell = replace(cell, quantity=quantity, made=made)
    rounds = harness.Rounds(options.rounds, max(options.rounds, MOST_ROUNDS), ENOUGH_SECONDS / len(tools), paired=True)
    samples: dict[str, list[float]] = {}
    for group in [[tool] for tool in tools] if contest.alone else [tools]:
        alone = harness.Rounds(1, 1)
        try:
            for line in cells.asked(cell, group, alone if contest.alone else rounds, python.path, environment):
                if "sample" in line:
                    samples.setdefault(line["tool"], []).append(line["sample"])
                else:
                    (why,) = {"absent", "not_applicable", "failed"} & line.keys()
                    samples.pop(line["tool"], None)
                    measured.without[f"{contest.name}, {line['tool']}"] = f"{why}: {line[why]}"
        except harness.Failed as failure:
            measured.without[f"{contest.name}, {', '.join(group)}"] = f"failed: {failure}"
    return samples


# --- The command --------------------------------------------------------------------------------------------------


def print_table(python: harness.Python, measured: Measured, goals: list[Goal], options: argparse.Namespace) -> bool:
    minor = python.version.rpartition(".")[0]
    print(
        f"\n{python.build}  ({python.path}; coroutines made {'inside' if options.made_inside else 'before'} the timed region; "
        f"{'processor' if options.processor_time else 'wall'} time; median and range of {options.processes} fresh processes)"
    )
    width = max((len(title) for title in measured.figures), default=0)
    print(f"{'what':{width}} {'goal':>9} {'figure':>9}  {'range':>17}  met")
    all_met = True
    for goal in goals:
        figures = measured.figures.get(goal.title)
        if not figures:
            continue
        figure = statistics.median(figures)
        wanted, met = goal.wanted_on(minor), goal.met(figure, minor)
        all_met &= met is not False
        bound = "-" if wanted is None else f"{'<=' if goal.at_most else '>='} {wanted:g}"
        verdict = "-" if met is None else "yes" if met else "NO"
        if met and not goal.at_most and wanted is not None and figure < wanted:
            verdict = "yes (0.9)"
        print(f"{goal.title:{width}} {bound:>9} {figure:9.3g}  {min(figures):8.3g}-{max(figures):<8.3g}  {verdict}")
    print("\nmedian of the processes' medians")
    units = {contest.name: cells.QUANTITIES[contest.cell.quantity].unit for contest in CONTESTS}
    for name, tools in measured.medians.items():
        shown = ", ".join(f"{tool} {statistics.median(values):.3g}" for tool, values in tools.items())
        print(f"  {name + ' (' + units[name] + ')':56} {shown}")
    for what, why in measured.without.items():
        print(f"  not measured: {what}: {why}")
    return all_met and not any(why.startswith("failed") for why in measured.without.values())


IN_THE_DOCUMENTATION = [  # of --docs: words, contest, over, under
    *[
        (f"{title}: asyncio's, ours", f"semaphore, {title}", ASYNCIO_SEMAPHORE, SEMAPHORE)
        for title, *_ in SEMAPHORES_ALONE.values()
    ],
    *[
        (
            f"`gated_coro` on a free one{how}: LangChain's with asyncio's, ours with {whose}",
            contest,
            LANGCHAIN_GATED,
            tool,
        )
        for contest, how in zip(GATED_CONTESTS.values(), ("", ", each coroutine made in its turn"), strict=True)
        for tool, whose in ((GATED_BY_OURS, "ours"), (GATED, "asyncio's"))
    ],
    *[
        (
            f"`gather` of items, {work}: limit=semaphore, limit=10",
            f"gather(limit=semaphore), {work}",
            "gatedcoro-gather-semaphore",
            "gatedcoro-gather",
        )
        for work in WORKS
    ],
]


def documented(found: list[tuple[harness.Python, Measured]], command: str) -> str:
    """The part of docs/measured.md about semaphores."""
    rows = []
    for words, contest, over, under in IN_THE_DOCUMENTATION:
        row = [words]
        for _, measured in found:
            first, second = (statistics.median(measured.medians[contest][tool]) for tool in (over, under))
            figure = statistics.median(measured.figures[f"{contest}: {over} / {under}"])
            row.append(f"{first:.3g} / {second:.3g} = {figure:.3g}")
        rows.append(row)
    processes = len(next(iter(found[0][1].figures.values())))
    return (
        f"## Semaphores\n\n{parts.made(command, ())}\nus an item (an entry, an acquisition, a coroutine), and how many times as long: the median over "
        f"{processes} fresh processes of the median over interleaved rounds.\n\n"
        + parts.table(["", *[python.name for python, _ in found]], rows)
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--python", action="append", metavar="PATH", help="an interpreter to measure (repeatable)")
    parser.add_argument("--no-reuse", action="store_true", help="only with a Task per item")
    parser.add_argument("--reuse", action="store_true", help="only with Task reuse")
    parser.add_argument("--only", metavar="TEXT", action="append", help="only goals whose contest contains TEXT")
    parser.add_argument("--processes", type=int, default=5, help="fresh processes (5)")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds in each process, at least (7)")
    parser.add_argument("--quick", action="store_true", help="2 processes, 3 rounds, nothing over N=20,000")
    parser.add_argument("--made-inside", action="store_true", help="make the coroutines inside the timed region")
    parser.add_argument(
        "--processor-time", action="store_true", help="time by the thread's processor time (for a busy machine)"
    )
    parser.add_argument("--docs", action="store_true", help="also write docs/measured.md's part about semaphores")
    parser.add_argument("--json", metavar="FILE", help="write every figure to FILE as well")


def main(options: argparse.Namespace) -> int:
    if options.quick:
        options.processes, options.rounds = min(options.processes, 2), min(options.rounds, 3)
    sizes = {contest.name: contest.cell.count for contest in CONTESTS}
    goals = [
        goal
        for goal in GOALS
        if (not options.only or any(text in goal.contest for text in options.only))
        and not (options.no_reuse and goal.mode == OURS)
        and not (options.reuse and goal.mode == PER_ITEM)
        and not (options.quick and sizes[goal.contest] > COUNT)
    ]
    all_met = True
    written, found = {}, []
    for path in options.python or [sys.executable]:
        python = harness.described(path)
        measured = measured_on(python, goals, options)
        all_met &= print_table(python, measured, goals, options)
        written[python.name] = vars(measured)
        found.append((python, measured))
    if options.json:
        Path(options.json).write_text(json.dumps(written, indent=1))
    if options.docs:
        command = " ".join(["goals --only semaphore --docs", *["--python PATH" for _ in options.python or ()]])
        parts.write(parts.MEASURED, parts.SEMAPHORES, documented(found, command))
    return 0 if all_met else 1
