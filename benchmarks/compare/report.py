"""The comparison: `python -m benchmarks report`. Plans the cells, has each measured in a process of its own, writes one folder.

One axis is varied at a time around a centre (N=10,000, n=10, `sleep(0)`): N, the limit, the kind of work, the event loop,
the interpreter. A cell of which a tool is predicted to need more than 20 s is skipped for this tool, and listed.
"""

import argparse
import datetime
import json
import math
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import harness, measure, parts
from ..harness import ROOT, Python
from . import cells, competitors, summary, works
from .cells import Cell
from .figures import BASIC_WORKS, CENTRE_LIMIT, CENTRE_WORK, Results

OUTPUT = ROOT / "benchmarks" / "results"  # which git ignores
DOCS = ROOT / "docs"
LONGEST_CELL = 20.0  # seconds for one sample, as predicted
SLOWER_WHEN = {"traced": 4.0, "stall": 1.2}  # how much slower than the timed run


@dataclass(frozen=True)
class Scale:
    """How much is measured: `--quick` or not."""

    centre: int
    counts: tuple[int, ...]
    limits: tuple[int | None, ...]
    memory_counts: tuple[int, ...]
    rounds: harness.Rounds  # of timed runs
    loops: tuple[str, ...]
    http_count: int  # with a limit of 1,000


FULL = Scale(
    centre=10_000,
    counts=(10, 100, 1_000, 10_000, 100_000, 1_000_000),
    limits=(1, 10, 100, 1_000, 10_000, None),
    memory_counts=(1_000, 10_000, 100_000, 1_000_000),
    rounds=harness.Rounds(3, 25, seconds=1.0),
    loops=("asyncio", "uvloop"),
    http_count=2_000,
)
QUICK = Scale(
    centre=1_000,
    counts=(10, 100, 1_000, 10_000),
    limits=(1, 10, 100, None),
    memory_counts=(10_000,),
    rounds=harness.Rounds(3, 5, seconds=0.05),
    loops=("asyncio",),
    http_count=0,
)


@dataclass
class Job:
    python: Python
    cell: Cell
    tools: list[str]
    title: str
    processes: int = 1


def plan(pythons: list[Python], scale: Scale, tools: list[str]) -> Iterator[Job]:
    """In the order that lets each cell be predicted from smaller ones."""
    for number, python in enumerate(pythons):
        cells: list[Cell] = []
        if number == 0:
            cells += [Cell(CENTRE_WORK, count, CENTRE_LIMIT) for count in scale.counts if count <= scale.centre]
            cells += [Cell(work, scale.centre, CENTRE_LIMIT) for work in BASIC_WORKS if work != CENTRE_WORK]
            cells += [Cell(CENTRE_WORK, scale.centre, limit) for limit in scale.limits if limit != CENTRE_LIMIT]
            cells += [
                Cell(work.name, work.count if scale is FULL else work.quick_count, work.limit)
                for work in works.WORKS
                if work.name not in BASIC_WORKS
            ]
            cells += [Cell("aiohttp", scale.http_count, 1_000)] if scale.http_count else []
            cells += [
                Cell(work, scale.centre, CENTRE_LIMIT, loop)
                for loop in scale.loops
                if loop != "asyncio"
                for work in BASIC_WORKS
            ]
            cells += [Cell(CENTRE_WORK, count, CENTRE_LIMIT) for count in scale.counts if count > scale.centre]
            cells += [Cell(work, scale.centre, CENTRE_LIMIT, quantity="turns") for work in BASIC_WORKS]
            cells += [Cell(CENTRE_WORK, count, CENTRE_LIMIT, quantity="stall") for count in scale.memory_counts]
        else:
            cells += [Cell(work, scale.centre, CENTRE_LIMIT) for work in BASIC_WORKS]
        for cell in cells:
            with_floor = [*tools, competitors.FLOOR.name] if cell.quantity == "stall" else tools
            yield Job(python, cell, with_floor, f"{python.name}: {cell.quantity}, {cell.title}")
        if number == 0:
            for quantity in ("rss", "traced"):
                for count in scale.memory_counts:
                    if quantity == "traced" and (count > 100_000 or scale is QUICK):
                        continue
                    cell = Cell(CENTRE_WORK, count, CENTRE_LIMIT, quantity=quantity)
                    processes = 3 if scale is FULL and count <= 100_000 else 1
                    for tool in [*tools, competitors.FLOOR.name]:
                        title = f"{python.name}: {quantity}, {cell.title}, {tool}"
                        yield Job(python, cell, [tool], title, processes)


# --- Measuring ----------------------------------------------------------------------------------------------------


def predicted(results: Results, python: str, cell: Cell, tool: str) -> float | None:
    """Seconds for one sample, from the times measured at smaller N; growth of the time per item goes on as it was."""
    known: dict[int, float] = {}
    for (of_python, of_cell, of_tool), samples in results.samples.items():
        of_this = of_cell == Cell(cell.work, of_cell.count, cell.limit)  # timed, on the stock loop, at any N
        if of_this and (of_python, of_tool) == (python, tool):
            known[of_cell.count] = statistics.median(samples)
    if not known:
        return None
    points = sorted(known.items())
    count, micros = points[-1]
    growth = 0.0
    if len(points) > 1 and count >= 1_000:
        before, micros_before = points[-2]
        growth = min(1.0, max(0.0, math.log(micros / micros_before) / math.log(count / before)))
    if cell.count > count:
        micros *= (cell.count / count) ** growth
    return micros * cell.count / 1e6 * SLOWER_WHEN.get(cell.quantity, 1.0)


def run(job: Job, scale: Scale, results: Results) -> None:
    """Measures one job; what it prints goes into the results as it comes."""
    tools = []
    for tool in job.tools:
        key = (job.python.name, job.cell, tool)
        seconds = predicted(results, job.python.name, job.cell, tool)
        time_cell = Cell(job.cell.work, job.cell.count, job.cell.limit, job.cell.loop)
        if seconds is not None and seconds > LONGEST_CELL:
            results.add_reason("skipped", key, f"predicted to take {seconds:.0f} s")
        elif job.cell.quantity != "time" and (
            reason := results.reasons.get("skipped", {}).get((key[0], time_cell, tool))
        ):
            results.add_reason("skipped", key, reason)
        else:
            tools.append(tool)
    if not tools:
        return
    rounds = harness.Rounds(3, 3) if job.cell.quantity in ("stall", "turns") else scale.rounds
    for _ in range(job.processes):
        try:
            _run_once(job, tools, rounds, results)
        except harness.Failed as failure:
            raise harness.Failed(f"{job.title}: {failure}") from None


def _run_once(job: Job, tools: list[str], rounds: harness.Rounds, results: Results) -> None:
    for line in cells.asked(job.cell, tools, rounds, job.python.path):
        key = (job.python.name, job.cell, line["tool"])
        if "sample" in line:
            if key not in results.reasons.get("failed", {}):
                results.samples.setdefault(key, []).append(line["sample"])
        else:
            (kind,) = {"absent", "not_applicable", "failed"} & line.keys()
            results.add_reason(kind, key, line[kind])
            results.samples.pop(key, None)


def measure_all(pythons: list[Python], scale: Scale, tools: list[str], results: Results, output: Path) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    jobs = list(plan(pythons, scale, tools))
    columns = (BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(jobs))
        for job in jobs:
            progress.update(task, description=job.title)
            run(job, scale, results)
            results.save(output)  # so that an interrupted report is not lost: --redraw makes the rest of it
            progress.advance(task)


# --- The command --------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a minute: fewer and smaller cells, fewer rounds")
    parser.add_argument(
        "--python",
        action="append",
        metavar="PATH",
        help="an interpreter (repeatable; the first is measured in full, the others at the centre)",
    )
    parser.add_argument("--compare", metavar="OLD.json", help="say what changed since these results")
    parser.add_argument("--output", metavar="FOLDER", default=str(OUTPUT), help="benchmarks/results/")
    parser.add_argument(
        "--tool",
        action="append",
        choices=[tool.name for tool in competitors.COMPETITORS],
        help="only these (repeatable)",
    )
    parser.add_argument(
        "--redraw", action="store_true", help="do not measure: write summary and plots of results.json anew"
    )
    parser.add_argument(
        "--docs",
        action="store_true",
        help="also write what the documentation shows: docs/measured.md, docs/overview.svg",
    )


def main(options: argparse.Namespace) -> int:
    from . import plots  # which wants matplotlib

    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    if options.redraw:
        results = Results.from_json(harness.stored(output / "results.json"))
    else:
        old = json.loads(Path(options.compare).read_text()) if options.compare else None
        pythons = [harness.described(path) for path in options.python or [sys.executable]]
        command = " ".join(
            ["python -m benchmarks report"]
            + ["--quick"] * options.quick
            + ["--python PATH"] * len(options.python or [])
            + [f"--tool {tool}" for tool in options.tool or []]
        )
        results = Results(
            made=datetime.date.today().isoformat(),
            command=command,
            machine=measure.machine(),
            pythons=[{"name": python.name, "build": python.build, "versions": python.versions} for python in pythons],
            quick=options.quick,
        )
        tools = options.tool or [tool.name for tool in competitors.COMPETITORS]
        measure_all(pythons, QUICK if options.quick else FULL, tools, results, output)
        if old is not None:
            comparison = summary.compared(Results.from_json(old), results)
            (output / "compare.md").write_text(comparison)
            print(comparison)
    drawn = plots.draw_all(results, output)
    (output / "summary.md").write_text(summary.written(results, drawn))
    (output / "readme-section.md").write_text(summary.readme_section(results))
    if options.docs:
        (DOCS / "overview.svg").write_bytes((output / "overview.svg").read_bytes())
        _, of_goals, _ = parts.split(parts.MEASURED, parts.SEMAPHORES)
        parts.MEASURED.write_text(
            f"{summary.written(results, ['overview'])}\n<!--- {parts.SEMAPHORES} --->\n{of_goals}<!--- end of {parts.SEMAPHORES} --->\n"
        )
    print(f"{output / 'summary.md'}: {len(results.samples)} figures")
    failed = results.reasons.get("failed", {})
    for (python, cell, tool), reason in failed.items():
        print(f"failed: {tool} ({python}, {cell.quantity}, {cell.title}): {reason}", file=sys.stderr)
    return 1 if failed else 0
