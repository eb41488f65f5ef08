"""The figures that gatedcoro set out to reach, measured: `python -m benchmarks bars`.

A *contest* measures its contenders in one process, in interleaved rounds, and keeps every sample (us per item,
or bytes, or ms). A *bar* turns the samples of a contest into one figure per process: the median over the rounds of
baseline / ours within a round. The figure of the table is the median over fresh processes; its spread is their range.

Inside the timed region: the call and awaiting it; with `--made-inside` also making the coroutines and freeing them, which
costs each contender the same and so lowers every ratio (the report always measures like that). Outside: the check of the
results, `gc.collect()` before each sample, one untimed round as a warm-up. The garbage collector is on.
The contests of memory and stall make the coroutines before they measure, with `gc.freeze()`, so that they count
what the tool adds.
"""

import argparse
import asyncio
import contextlib
import functools
import gc
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import competitors, measure, works

COUNT = 20_000
LIMIT = 10
MOST_ROUNDS, ENOUGH_SECONDS = 41, 1.0  # of a contest in one process
ROOT = Path(__file__).resolve().parent.parent

Samples = dict[str, list[float]]  # contender -> one sample per round
Sample = Callable[[], Awaitable[float]]


# --- Contests -----------------------------------------------------------------------------------------------------


Gather = Callable[..., Awaitable[list[int]]]  # gather(limit, *coroutines)


@dataclass(frozen=True)
class Setting:
    subject: Any  # the module that is measured
    made_inside: bool = False  # whether the coroutines are made inside the timed region
    clock: Callable[[], float] = time.perf_counter


@dataclass(frozen=True)
class Contest:
    """`contenders(setting)` gives, by name, a coroutine function that takes one sample and checks its results."""

    name: str
    contenders: Callable[[Setting], dict[str, Sample]]
    unit: str = "us per item"
    own_process: bool = False  # one contender per fresh process, one sample
    needs: tuple[str, ...] = ("gather_with_concurrency",)


def timed(setting: Setting, gather: Gather, item: works.Item, count: int, limit: int | None, calls: int = 1) -> Sample:
    """A sample: us per item of `calls` calls of `count` items."""

    async def sample() -> float:
        outcomes = []
        if setting.made_inside:
            started = setting.clock()
            for _ in range(calls):
                outcomes.append(await gather(limit, *[item(index) for index in range(count)]))
        else:
            batches = [[item(index) for index in range(count)] for _ in range(calls)]
            started = setting.clock()
            for batch in batches:
                outcomes.append(await gather(limit, *batch))
        elapsed = setting.clock() - started
        expected = list(range(count))
        for outcome in outcomes:
            measure.check(outcome, expected)
        return elapsed / (count * calls) * 1e6

    return sample


def reuse(subject: Any, wanted: bool, sample: Sample) -> Sample:
    """The sample, taken with Task reuse switched on or off."""

    async def switched() -> float:
        previous = subject._set_task_reuse(wanted)
        try:
            return await sample()
        finally:
            subject._set_task_reuse(previous)

    return switched


def both_modes(subject: Any, sample: Sample) -> dict[str, Sample]:
    if not hasattr(subject, "_set_task_reuse"):
        return {"ours": sample}
    return {"ours": reuse(subject, True, sample), "ours, no reuse": reuse(subject, False, sample)}


def limited(item: works.Item, count: int, limit: int, calls: int = 1) -> Callable[[Setting], dict[str, Sample]]:
    def contenders(setting: Setting) -> dict[str, Sample]:
        def of(gather: Gather) -> Sample:
            return timed(setting, gather, item, count, limit, calls)

        return {
            "LangChain": of(competitors.langchain_gather),
            "pool": of(competitors.pool_gather),
            **both_modes(setting.subject, of(setting.subject.gather_with_concurrency)),
        }

    return contenders


def unlimited(item: works.Item) -> Callable[[Setting], dict[str, Sample]]:
    async def gather(limit: None, *coros: Awaitable[int]) -> list[int]:
        return await asyncio.gather(*coros)

    return lambda setting: {
        "asyncio.gather": timed(setting, gather, item, COUNT, None),
        **both_modes(setting.subject, timed(setting, setting.subject.gather_with_concurrency, item, COUNT, None)),
    }


def free_semaphore(setting: Setting) -> dict[str, Sample]:
    """Awaits `gated_coro(semaphore, coro)`, one after another, in one Task."""

    def through(gated_coro: Callable[..., Awaitable[int]]) -> Sample:
        async def sample() -> float:
            semaphore = asyncio.Semaphore(LIMIT)
            nothing, total = works.nothing, 0
            if setting.made_inside:
                started = setting.clock()
                for index in range(COUNT):
                    total += await gated_coro(semaphore, nothing(index))
            else:
                coros = [nothing(index) for index in range(COUNT)]
                started = setting.clock()
                for coro in coros:
                    total += await gated_coro(semaphore, coro)
            elapsed = setting.clock() - started
            measure.check([total, semaphore._value], [COUNT * (COUNT - 1) // 2, LIMIT])
            return elapsed / COUNT * 1e6

        return sample

    return {"LangChain": through(competitors.langchain_gated), "ours": through(setting.subject.gated_coro)}


def front_doors(item: works.Item) -> Callable[[Setting], dict[str, Sample]]:
    def contenders(setting: Setting) -> dict[str, Sample]:
        def gather(limit: int, *coros: Awaitable[int]) -> Awaitable[list[int]]:
            found: Awaitable[list[int]] = setting.subject.gather(*coros, limit=limit)
            return found

        def gather_with_concurrency(limit: int, *coros: Awaitable[int]) -> Awaitable[list[int]]:
            found: Awaitable[list[int]] = setting.subject.gather_with_concurrency(limit, *coros)
            return found

        return {
            "gather_with_concurrency": timed(setting, gather_with_concurrency, item, COUNT, LIMIT),
            "gather": timed(setting, gather, item, COUNT, LIMIT),
        }

    return contenders


def callables(count: int) -> Callable[[Setting], dict[str, Sample]]:
    """The same list of callables, made before the timed region: called first, or handed to run_all."""

    def contenders(setting: Setting) -> dict[str, Sample]:
        functions = [functools.partial(works.nothing, index) for index in range(count)]
        expected = list(range(count))

        def of(call: Callable[[], Awaitable[list[int]]]) -> Sample:
            async def sample() -> float:
                started = setting.clock()
                outcome = await call()
                elapsed = setting.clock() - started
                measure.check(outcome, expected)
                return elapsed / count * 1e6

            return sample

        subject = setting.subject
        return {
            "called first": of(lambda: subject.gather_with_concurrency(LIMIT, *[function() for function in functions])),
            "run_all": of(lambda: subject.run_all(functions, limit=LIMIT)),
        }

    return contenders


Quantity = Callable[[Gather, int], Awaitable[float]]


def large(quantity: Quantity, count: int, with_baseline: bool = True) -> Callable[[Setting], dict[str, Sample]]:
    def contenders(setting: Setting) -> dict[str, Sample]:
        def of(gather: Gather) -> Sample:
            return functools.partial(quantity, gather, count)

        rivals = {"LangChain": of(competitors.langchain_gather)} if with_baseline else {}
        return {**rivals, **both_modes(setting.subject, of(setting.subject.gather_with_concurrency))}

    return contenders


async def extra_rss(gather: Gather, count: int) -> float:
    """MB by which the resident set grows beyond what it was when the coroutines had been made."""
    coros = [works.sleep0(index) for index in range(count)]
    with measure.frozen_gc(), measure.rss_growth() as growth:
        results = await gather(LIMIT, *coros)
    measure.check(results, list(range(count)))
    return growth.bytes / 1e6


async def extra_traced(gather: Gather, count: int) -> float:
    """Traced bytes an item, at the peak, beyond the coroutines and the result list."""
    coros = [works.sleep0(index) for index in range(count)]
    result_list = 8 * count
    with measure.frozen_gc(), measure.traced_growth() as growth:
        results = await gather(LIMIT, *coros)
    measure.check(results, list(range(count)))
    return (growth.bytes - result_list) / count


async def stall_of_the_call(gather: Gather, count: int) -> float:
    """ms: the longest stall from the call to its end."""
    coros = [works.sleep0(index) for index in range(count)]
    with measure.frozen_gc():
        async with measure.Heartbeat() as heartbeat:
            results = await gather(LIMIT, *coros)
    measure.check(results, list(range(count)))
    return heartbeat.longest_stall() * 1e3


async def stall_while_running(gather: Gather, count: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """ms: the longest stall from the first item's start to the last item's end."""
    started: list[float] = []
    ended = [0.0]
    last_ones = count - 2 * LIMIT

    async def item(index: int) -> int:
        if not started:
            started.append(clock())
        await asyncio.sleep(0)
        if index >= last_ones:
            ended[0] = clock()
        return index

    coros = [item(index) for index in range(count)]
    with measure.frozen_gc():
        async with measure.Heartbeat(clock=clock) as heartbeat:
            results = await gather(LIMIT, *coros)
    measure.check(results, list(range(count)))
    return heartbeat.longest_stall(started[0], ended[0]) * 1e3


async def own_stall_while_running(gather: Gather, count: int) -> float:
    """The same in the thread's processor time: what other processes of a busy machine take is left out."""
    return await stall_while_running(gather, count, time.thread_time)


WORKS = {"nothing": works.nothing, "sleep(0)": works.sleep0, "future": works.future}
CONTESTS = [
    *[Contest(f"n=10, {name}", limited(item, COUNT, LIMIT)) for name, item in WORKS.items()],
    *[Contest(f"n=None, {name}", unlimited(item)) for name, item in WORKS.items()],
    Contest("20 items, n=5, sleep(0)", limited(works.sleep0, 20, 5, calls=200)),
    Contest("gated_coro, free semaphore, nothing", free_semaphore, needs=("gated_coro",)),
    *[
        Contest(f"gather(limit=10), {name}", front_doors(item), needs=("gather", "gather_with_concurrency"))
        for name, item in WORKS.items()
    ],
    *[
        Contest(f"run_all, nothing, N={count:,}", callables(count), needs=("run_all", "gather_with_concurrency"))
        for count in (COUNT, 200_000)
    ],
    Contest("N=100,000, extra RSS", large(extra_rss, 100_000), "MB", own_process=True),
    Contest("N=100,000, extra traced", large(extra_traced, 100_000), "bytes per item", own_process=True),
    Contest("N=100,000, stall", large(stall_of_the_call, 100_000), "ms", own_process=True),
    Contest(
        "N=1,000,000, own stall while running",
        large(own_stall_while_running, 1_000_000, False),
        "ms of processor time",
        own_process=True,
    ),
    Contest("N=1,000,000, stall while running", large(stall_while_running, 1_000_000, False), "ms", own_process=True),
    Contest("N=1,000,000, extra traced", large(extra_traced, 1_000_000, False), "bytes per item", own_process=True),
]


# --- Bars ---------------------------------------------------------------------------------------------------------


def ratio(over: str, under: str) -> Callable[[Samples], float]:
    """The median over the rounds of `over` / `under` within a round."""
    return lambda samples: statistics.median(a / b for a, b in zip(samples[over], samples[under], strict=True))


def difference(ours: str, theirs: str) -> Callable[[Samples], float]:
    return lambda samples: statistics.median(a - b for a, b in zip(samples[ours], samples[theirs], strict=True))


def value(contender: str) -> Callable[[Samples], float]:
    return lambda samples: statistics.median(samples[contender])


@dataclass(frozen=True)
class Bar:
    """One figure to reach. `wanted` is by minor version of CPython, or one number for all ("")."""

    issue: int
    contest: str
    title: str
    figure: Callable[[Samples], float]
    wanted: dict[str, float]
    unit: str = "x"
    at_most: bool = False
    mode: str = ""  # the contender that it is about, where Task reuse matters

    def wanted_on(self, version: str) -> float | None:
        return self.wanted.get(version, self.wanted.get(""))

    def met(self, figure: float, version: str) -> bool | None:
        wanted = self.wanted_on(version)
        if wanted is None:
            return None
        return figure <= wanted if self.at_most else figure >= 0.9 * wanted


def _by_version(*wanted: float) -> dict[str, float]:
    return dict(zip(("3.11", "3.13", "3.14"), wanted, strict=True))


_REUSED, _PER_ITEM = "ours", "ours, no reuse"


def _ratio_bars(issue: int, contender: str, contest: str, baseline: str, *wanted: float) -> Bar:
    return Bar(
        issue,
        contest,
        f"{contest}: {baseline} / {contender}",
        ratio(baseline, contender),
        _by_version(*wanted),
        mode=contender if "gated_coro" not in contest else "",
    )


def _mode_bars(contender: str) -> Iterator[Bar]:
    """Bars that hold with and without reuse, and are therefore measured both ways."""
    yield Bar(
        3,
        "N=100,000, extra RSS",
        f"N=100,000, extra RSS: {contender} / LangChain",
        ratio(contender, "LangChain"),
        {"": 0.1},
        at_most=True,
        mode=contender,
    )
    yield Bar(
        3,
        "N=100,000, extra traced",
        f"N=100,000, extra traced: {contender} / LangChain",
        ratio(contender, "LangChain"),
        {"": 0.1},
        at_most=True,
        mode=contender,
    )
    yield Bar(
        3,
        "N=100,000, stall",
        f"N=100,000, stall: {contender} / LangChain",
        ratio(contender, "LangChain"),
        {"": 0.05},
        at_most=True,
        mode=contender,
    )
    yield Bar(
        3,
        "N=1,000,000, stall while running",
        f"N=1,000,000, stall while running: {contender}",
        value(contender),
        {"": 20.0},
        "ms",
        at_most=True,
        mode=contender,
    )
    yield Bar(
        3,
        "N=1,000,000, own stall while running",
        f"N=1,000,000, the same in processor time: {contender}",
        value(contender),
        {"": 20.0},
        "ms",
        at_most=True,
        mode=contender,
    )
    yield Bar(
        3,
        "N=1,000,000, extra traced",
        f"N=1,000,000, extra bytes an item: {contender}",
        value(contender),
        {"": 16.0},
        "bytes",
        at_most=True,
        mode=contender,
    )


BARS = [
    _ratio_bars(3, _PER_ITEM, "n=10, nothing", "LangChain", 2.6, 8, 9),
    _ratio_bars(3, _PER_ITEM, "n=10, sleep(0)", "LangChain", 3, 4, 5),
    _ratio_bars(3, _PER_ITEM, "n=10, future", "LangChain", 2.6, 2.8, 3.5),
    _ratio_bars(3, _PER_ITEM, "n=None, nothing", "asyncio.gather", 1.7, 5, 5),
    _ratio_bars(3, _PER_ITEM, "n=None, sleep(0)", "asyncio.gather", 1.4, 1.6, 1.6),
    _ratio_bars(3, _PER_ITEM, "n=None, future", "asyncio.gather", 1.3, 1.4, 1.5),
    _ratio_bars(3, _PER_ITEM, "20 items, n=5, sleep(0)", "LangChain", 1.8, 2.5, 3),
    _ratio_bars(3, "ours", "gated_coro, free semaphore, nothing", "LangChain", 2.5, 3, 3),
    *_mode_bars(_PER_ITEM),
    _ratio_bars(4, _REUSED, "n=10, nothing", "LangChain", 45, 30, 28),
    _ratio_bars(4, _REUSED, "n=10, sleep(0)", "LangChain", 8, 6.5, 5.8),
    _ratio_bars(4, _REUSED, "n=10, future", "LangChain", 4.5, 3.3, 3.7),
    _ratio_bars(4, _REUSED, "n=None, nothing", "asyncio.gather", 25, 20, 18),
    # No bar of issue 4, but reuse must not cost what issue 3 asks for.
    _ratio_bars(3, _REUSED, "n=None, sleep(0)", "asyncio.gather", 1.4, 1.6, 1.6),
    _ratio_bars(3, _REUSED, "n=None, future", "asyncio.gather", 1.3, 1.4, 1.5),
    _ratio_bars(4, _REUSED, "20 items, n=5, sleep(0)", "LangChain", 3, 3.5, 3.5),
    *[
        Bar(
            4,
            f"n=10, {work}",
            f"n=10, {work}: {_REUSED} - pool",
            difference(_REUSED, "pool"),
            {"": 0.2},
            "us",
            True,
            _REUSED,
        )
        for work in WORKS
    ],
    *_mode_bars(_REUSED),
    *[
        Bar(
            5,
            f"gather(limit=10), {work}",
            f"gather(limit=10) / gather_with_concurrency(10), {work}",
            ratio("gather", "gather_with_concurrency"),
            {"": 1.1},
            at_most=True,
        )
        for work in WORKS
    ],
    *[
        Bar(
            5,
            f"run_all, nothing, N={count:,}",
            f"run_all / coroutines made first, nothing, N={count:,}",
            ratio("run_all", "called first"),
            {"": 0.8},
            at_most=True,
        )
        for count in (COUNT, 200_000)
    ],
]


# --- One process --------------------------------------------------------------------------------------------------


def measure_here(names: list[str], setting: Setting, rounds: int, skip: str | None, only: str | None) -> dict[str, Any]:
    """Runs the named contests in this process; gives the samples by contest and contender."""
    subject = setting.subject
    if skip == _REUSED:
        subject._set_task_reuse(False)  # also in the contests that do not compare the two
    found: dict[str, Any] = {"samples": {}, "absent": []}
    with asyncio.Runner() as runner:
        for contest in CONTESTS:
            if contest.name not in names:
                continue
            if not all(hasattr(subject, name) for name in contest.needs):
                found["absent"].append(contest.name)
                continue
            contenders = contest.contenders(setting)
            if skip is not None:
                contenders.pop(skip, None)
            if only is not None:
                contenders = {only: contenders[only]}
            samples: Samples = {name: [] for name in contenders}
            number, last, began = 0, 0 if contest.own_process else rounds, time.perf_counter()
            while number <= last:
                order = list(contenders)
                turn = number % len(order)
                for name in order[turn:] + order[:turn]:
                    gc.collect()
                    sample = runner.run(_awaited(contenders[name]))
                    if contest.own_process or number > 0:
                        samples[name].append(sample)
                if number == 1:  # short rounds are noisy, and cheap to repeat
                    took = time.perf_counter() - began
                    last = max(rounds, min(MOST_ROUNDS, int(ENOUGH_SECONDS / took)))
                number += 1
            found["samples"][contest.name] = samples
    return found


async def _awaited(sample: Sample) -> float:
    return await sample()


def contenders_of(contest: Contest, skip: str | None) -> list[str]:
    """The contenders' names, without importing the subject into this process."""
    names = [name for name in ("LangChain", _REUSED, _PER_ITEM) if name != skip]
    return [name for name in names if name != "LangChain" or "1,000,000" not in contest.name]


# --- The parent: fresh processes, and the table ---------------------------------------------------------------------


@dataclass
class Measured:
    version: str = "?"
    build: str = ""
    figures: dict[str, list[float]] = field(default_factory=dict)  # bar's title -> one per process
    micros: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # contest -> contender -> medians
    failures: list[str] = field(default_factory=list)


def _child(python: str, arguments: list[str], timeout: float = 300) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [python, "-m", "benchmarks", "bars", "--child", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _progress(words: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{words:100}\r", end="", file=sys.stderr, flush=True)


def measure_python(python: str, bars: list[Bar], options: argparse.Namespace) -> Measured:
    measured = Measured()
    skip = _PER_ITEM if options.reuse else _REUSED if options.no_reuse else None
    contests = [contest for contest in CONTESTS if contest.name in {bar.contest for bar in bars}]
    base = ["--module", options.module, "--rounds", str(options.rounds)]
    if options.made_inside:
        base.append("--made-inside")
    if options.processor_time:
        base.append("--processor-time")
    if skip is not None:
        base += ["--skip", skip]
    together = [contest.name for contest in contests if not contest.own_process]
    for number in range(options.processes):
        _progress(f"{python}: process {number + 1} of {options.processes}")
        samples: dict[str, Samples] = {}
        runs = [[*base, *(part for name in together for part in ("--contest", name))]] if together else []
        runs += [
            [*base, "--contest", contest.name, "--only-contender", contender]
            for contest in contests
            if contest.own_process
            for contender in contenders_of(contest, skip)
        ]
        for arguments in runs:
            try:
                answer = _child(python, arguments)
            except (RuntimeError, subprocess.TimeoutExpired) as failure:
                measured.failures.append(f"{' '.join(arguments[4:])}: {failure}")
                continue
            measured.version, measured.build = answer["version"], answer["build"]
            for name, of_contest in answer["samples"].items():
                samples.setdefault(name, {}).update(of_contest)
            if number == 0:
                measured.failures += [f"{name}: {options.module} does not have it yet" for name in answer["absent"]]
        for bar in bars:
            with contextlib.suppress(KeyError):
                measured.figures.setdefault(bar.title, []).append(bar.figure(samples[bar.contest]))
        for name, of_contest in samples.items():
            for contender, values in of_contest.items():
                measured.micros.setdefault(name, {}).setdefault(contender, []).append(statistics.median(values))
    _progress("")
    return measured


def print_table(python: str, measured: Measured, bars: list[Bar], options: argparse.Namespace) -> bool:
    minor = ".".join(measured.version.split(".")[:2])
    print(
        f"\n{measured.build}  ({python}; {options.module}; coroutines made "
        f"{'inside' if options.made_inside else 'before'} the timed region; "
        f"{'processor' if options.processor_time else 'wall'} time; median and range of {options.processes} fresh processes)"
    )
    print(f"{'issue':5}  {'what':74} {'bar':>9} {'figure':>9}  {'range':>17}  met")
    all_met = True
    for bar in bars:
        values = measured.figures.get(bar.title)
        if not values:
            continue
        figure = statistics.median(values)
        wanted, met = bar.wanted_on(minor), bar.met(figure, minor)
        all_met &= met is not False
        bound = "-" if wanted is None else f"{'<=' if bar.at_most else '>='} {wanted:g}"
        verdict = "-" if met is None else "yes" if met else "NO"
        if met and not bar.at_most and wanted is not None and figure < wanted:
            verdict = "yes (0.9)"
        print(
            f"{bar.issue:5}  {bar.title:74} {bound:>9} {figure:9.3g}  {min(values):8.3g}-{max(values):<8.3g}  {verdict}"
        )
    print("\nmedian of the processes' medians")
    units = {contest.name: contest.unit for contest in CONTESTS}
    for name, contenders in measured.micros.items():
        shown = ", ".join(f"{contender} {statistics.median(values):.3g}" for contender, values in contenders.items())
        print(f"  {name + ' (' + units[name] + ')':52} {shown}")
    for failure in measured.failures:
        print(f"  not measured: {failure}")
    return all_met


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--python", action="append", metavar="PATH", help="an interpreter to measure (repeatable)")
    parser.add_argument("--no-reuse", action="store_true", help="only with a Task per item")
    parser.add_argument("--reuse", action="store_true", help="only with Task reuse")
    parser.add_argument(
        "--issue", type=int, action="append", choices=(3, 4, 5), help="only the figures of this issue of the project's"
    )
    parser.add_argument("--only", metavar="TEXT", action="append", help="only bars whose contest contains TEXT")
    parser.add_argument("--processes", type=int, default=5, help="fresh processes (5)")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds in each process, at least (7)")
    parser.add_argument("--quick", action="store_true", help="2 processes, 3 rounds, nothing over N=20,000")
    parser.add_argument("--made-inside", action="store_true", help="make the coroutines inside the timed region")
    parser.add_argument(
        "--processor-time", action="store_true", help="time by the thread's processor time (for a busy machine)"
    )
    parser.add_argument("--module", default="gatedcoro._core", help="what is measured (gatedcoro._core)")
    parser.add_argument("--json", metavar="FILE", help="write every figure to FILE as well")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--contest", action="append", help=argparse.SUPPRESS)
    parser.add_argument("--skip", help=argparse.SUPPRESS)
    parser.add_argument("--only-contender", help=argparse.SUPPRESS)


def main(options: argparse.Namespace) -> int:
    if options.child:
        clock = time.thread_time if options.processor_time else time.perf_counter
        setting = Setting(importlib.import_module(options.module), options.made_inside, clock)
        found = measure_here(options.contest, setting, options.rounds, options.skip, options.only_contender)
        print(json.dumps({**found, "version": platform.python_version(), "build": measure.build()}))
        return 0
    if options.quick:
        options.processes, options.rounds = min(options.processes, 2), min(options.rounds, 3)
    bars = [
        bar
        for bar in BARS
        if (not options.issue or bar.issue in options.issue)
        and (not options.only or any(text in bar.contest for text in options.only))
        and not (options.no_reuse and bar.mode == _REUSED)
        and not (options.reuse and bar.mode == _PER_ITEM)
        and not (options.quick and ("100,000" in bar.contest or "1,000,000" in bar.contest or "200,000" in bar.contest))
    ]
    all_met = True
    written = {}
    for python in options.python or [sys.executable]:
        measured = measure_python(python, bars, options)
        all_met &= print_table(python, measured, bars, options)
        written[python] = vars(measured)
    if options.json:
        Path(options.json).write_text(json.dumps(written, indent=1))
    return 0 if all_met else 1
