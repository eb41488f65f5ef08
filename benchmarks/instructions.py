"""Instructions per item, counted by cachegrind: `python -m benchmarks instructions`.

(count at 2N less count at N) / N, so that what happens once a process or once a call drops out. PYTHONHASHSEED=0, the garbage
collector off, the engine's clock standing still (no slice ends). Making the item's coroutine and what the item itself does are
counted. This is the one stored number that a run is compared with: `baselines/instructions.json` has a baseline for each interpreter,
compiler and valgrind, and a tolerance. `--update` stores what was counted.
"""

import argparse
import asyncio
import concurrent.futures
import functools
import gc
import importlib
import itertools
import json
import os
import platform
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from gatedcoro._demo_measure import future, nothing, sleep0

from . import harness, measure
from .compare import competitors, semaphores
from .compare.works import Item

BASELINE = Path(__file__).parent / "baselines" / "instructions.json"
COUNT = 2_000
TOLERANCE = 0.03
WORKS = {"nothing": nothing, "sleep(0)": sleep0, "future": future}
SEMAPHORES = {
    "semaphore-entered": "async with, free",
    "semaphore-acquired": "acquire() and release(), free",
    "semaphore-shared": "shared over sleep(0)",
    "semaphore-released": "waiters let in in one turn",
}

CodePath = Callable[[Any, int], Coroutine[Any, Any, list[int]]]  # the subject, N -> the results


# --- Paths --------------------------------------------------------------------------------------------------------


def gathered(limit: int | None, item: Item, reuse: bool = True) -> CodePath:
    async def run(subject: Any, count: int) -> list[int]:
        subject._set_task_reuse(reuse)
        results: list[int] = await subject.gather_with_concurrency(limit, *[item(index) for index in range(count)])
        return results

    return run


def future_gathered(item: Item) -> CodePath:
    async def run(subject: Any, count: int) -> list[int]:
        results: list[int] = await subject.gather(*[item(index) for index in range(count)], limit=10)
        return results

    return run


async def called(subject: Any, count: int) -> list[int]:
    results: list[int] = await subject.run_all([functools.partial(nothing, i) for i in range(count)], limit=10)
    return results


def streamed(item: Item, async_source: bool = False, **options: Any) -> CodePath:
    async def indices(count: int) -> AsyncIterator[int]:
        for index in range(count):
            yield index

    async def run(subject: Any, count: int) -> list[int]:
        source = indices(count) if async_source else range(count)
        return sorted([result async for result in subject.amap(item, source, limit=10, **options)])

    return run


async def stream_awaited(subject: Any, count: int) -> list[int]:
    results: list[int] = await subject.amap(nothing, range(count), limit=10)
    return results


async def gated(subject: Any, count: int) -> list[int]:
    semaphore = asyncio.Semaphore(10)
    return [await subject.gated_coro(semaphore, nothing(index)) for index in range(count)]


async def gated_by_ours(subject: Any, count: int) -> list[int]:
    semaphore = subject.Semaphore(10)
    return [await subject.gated_coro(semaphore, nothing(index)) for index in range(count)]


def gathered_by_ours(item: Item) -> CodePath:
    async def run(subject: Any, count: int) -> list[int]:
        limit = subject.Semaphore(10)
        results: list[int] = await subject.gather(*[item(index) for index in range(count)], limit=limit)
        return results

    return run


def with_semaphore(work: str, of_asyncio: bool = False) -> CodePath:
    """A work of semaphores; with all slots held, as many as there are items."""
    released = work == "semaphore-released"

    async def run(subject: Any, count: int) -> list[int]:
        make = asyncio.Semaphore if of_asyncio else subject.Semaphore
        tool = competitors.a_semaphore("counted", "counted", make)
        async with semaphores.BY_NAME[work].prepare(tool, count, count if released else 10) as call:
            return list(await call())

    return run


def other(tool: str, item: Item, limit: int | None) -> CodePath:
    async def run(_subject: Any, count: int) -> list[int]:
        return await competitors.BY_NAME[tool].run(item, count, limit)

    return run


PATHS: dict[str, CodePath] = {
    **{f"n=10, {name}": gathered(10, item) for name, item in WORKS.items()},
    **{f"n=10, {name}, a Task per item": gathered(10, item, reuse=False) for name, item in WORKS.items()},
    **{f"n=None, {name}": gathered(None, item) for name, item in WORKS.items()},
    "gather(limit=10), sleep(0)": future_gathered(sleep0),
    "run_all(limit=10), nothing": called,
    "gated_coro, free semaphore, nothing": gated,
    **{f"Semaphore, {title}": with_semaphore(work) for work, title in SEMAPHORES.items()},
    "gated_coro, free Semaphore of ours, nothing": gated_by_ours,
    **{f"gather(limit=Semaphore), {name}": gathered_by_ours(item) for name, item in WORKS.items()},
    **{f"amap(limit=10), {name}": streamed(item) for name, item in WORKS.items()},
    "amap(limit=10, ordered=False), nothing": streamed(nothing, ordered=False),
    "amap(limit=10), async source, nothing": streamed(nothing, async_source=True),
    "await amap(limit=10), nothing": stream_awaited,
}
OTHERS: dict[str, CodePath] = {  # for comparison; they have no baseline
    f"{title}, {name}": other(tool, item, limit)
    for title, tool, limit in (
        ("LangChain's, n=10", "langchain", 10),
        ("pool, n=10", "pool", 10),
        ("asyncio.gather", "asyncio-gather", None),
    )
    for name, item in WORKS.items()
}
TASKS_FROM_C = "only a Task per item, from C, nothing"
OTHERS[TASKS_FROM_C] = other("task-from-c", nothing, 10)
OTHERS |= {
    f"asyncio.Semaphore, {title}": with_semaphore(work, of_asyncio=True)
    for work, title in SEMAPHORES.items()
    if work != "semaphore-released"  # with asyncio's, the square of the number
}
OTHERS["a plain loop that calls, nothing"] = other("loop-of-calls", nothing, None)


# --- Counting -----------------------------------------------------------------------------------------------------


def run_here(path: str, count: int, module: str) -> None:
    gc.disable()
    subject = importlib.import_module(module)
    subject._set_clock((0.0).__float__)  # how many slices a run takes would depend on how fast valgrind is
    results = asyncio.run({**PATHS, **OTHERS}[path](subject, count))
    measure.check(results, range(count))


def run_each(paths: Sequence[str], module: str) -> None:
    """What cachegrind watches."""
    harness.run_in_forks(
        functools.partial(run_here, path, count, module) for path, count in itertools.product(paths, (COUNT, 2 * COUNT))
    )


def per_item(paths: Sequence[str], module: str) -> dict[str, float]:
    program = f"from benchmarks.instructions import run_each; run_each({list(paths)!r}, {module!r})"
    counts = harness.instructions(program)
    return {path: (twice - once) / COUNT for path, once, twice in zip(paths, counts[::2], counts[1::2], strict=True)}


def key(module: str) -> str:
    """What must be the same for two counts to be compared: interpreter, its build, the extension's compiler, valgrind."""
    valgrind = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    origin = importlib.import_module(module).__file__ or ""
    made_by = "Python"
    if not origin.endswith(".py"):
        found = re.findall(rb"(GCC: \([^)]*\) [\d.]+|clang version [\d.]+)", Path(origin).read_bytes())
        # clang's output also names the gcc whose start-up files it was linked with
        clang = [name for name in found if name.startswith(b"clang")]
        made_by = (clang or found or [b"an unknown compiler"])[0].decode()
    return f"{measure.build()}; extension: {made_by}; {valgrind}; {platform.machine()}"


def compared(counts: dict[str, float], baseline: dict[str, float], tolerance: float) -> tuple[list[str], list[str]]:
    """What grew beyond the tolerance, and what else there is to say."""
    grown, notes = [], []
    for path, count in counts.items():
        before = baseline.get(path)
        if before is None:
            notes.append(f"{path}: no baseline ({count:,.0f} instructions per item)")
            continue
        change = count / before - 1
        words = (
            f"{path}: {before:,.0f} -> {count:,.0f} instructions per item ({change:+.1%}, tolerance {tolerance:.0%})"
        )
        if change > tolerance:
            grown.append(words)
        elif change < -tolerance:
            notes.append(f"{words}; store it with --update")
    return grown, notes


# --- The command --------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--update", action="store_true", help="store what was counted as the baseline")
    parser.add_argument("--all", action="store_true", help="count LangChain's, the pool and asyncio.gather as well")
    parser.add_argument("--only", metavar="TEXT", action="append", help="only paths that contain TEXT")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many valgrinds at once")
    parser.add_argument("--module", default="gatedcoro._core", help="what is measured (gatedcoro._core)")


def main(options: argparse.Namespace) -> int:
    if harness.no_valgrind():
        return 0
    subject = importlib.import_module(options.module)
    names = [
        name
        for name in {**PATHS, **(OTHERS if options.all else {})}
        if not options.only or any(text in name for text in options.only)
    ]
    if not names:
        print("nothing to count: no path contains that text")
        return 2
    lacking = {"gather(limit=10), sleep(0)": "gather", "run_all(limit=10), nothing": "run_all"}
    lacking |= {name: "amap" for name in PATHS if "amap" in name}
    lacking |= {name: "Semaphore" for name in PATHS if "Semaphore" in name}
    names = [name for name in names if hasattr(subject, lacking.get(name, "gather_with_concurrency"))]
    if TASKS_FROM_C in names and (
        absent := competitors.BY_NAME["task-from-c"].absent()
    ):  # else compiled, for the children
        names.remove(TASKS_FROM_C)
        print(f"not counted: {TASKS_FROM_C}: {absent}")
    counts: dict[str, float] = {}
    shares = [names[index :: options.jobs] for index in range(min(options.jobs, len(names)))]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as threads:
        for of_share in threads.map(functools.partial(per_item, module=options.module), shares):
            for name, count in of_share.items():
                print(f"{count:10,.0f}  {name}", flush=True)
                counts[name] = round(count, 1)
    stored: dict[str, Any] = (
        json.loads(BASELINE.read_text()) if BASELINE.exists() else {"tolerance": TOLERANCE, "baselines": {}}
    )
    of_ours = {name: count for name, count in counts.items() if name in PATHS}
    found = key(options.module)
    if options.update:
        stored["baselines"].setdefault(found, {}).update(of_ours)
        BASELINE.write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n")
        print(f"stored for {found}")
        return 0
    if found not in stored["baselines"]:
        print(f"no baseline for {found}\n(python -m benchmarks instructions --update stores one)")
        return 0
    baseline, tolerance = stored["baselines"][found], stored["tolerance"]
    for name, count in of_ours.items():
        if count > baseline.get(name, count) * (1 + tolerance):
            # what lies where in memory moves a count by a percent or two: once more, alone
            of_ours[name] = min(count, round(per_item([name], options.module)[name], 1))
    grown, notes = compared(of_ours, baseline, tolerance)
    print("\n".join(notes + [f"GREW: {words}" for words in grown]) or "as the baseline")
    return 1 if grown else 0
