"""Real work, gatedcoro beside what people write by hand: `python -m benchmarks real`.

A cell is a work and a limit. Its tools are measured in one process, in interleaved rounds, after one untimed call each that looks
at the limit with the server's eyes; the server is another process, on another core where there are two. Two quantities: the parts
of a call (compare/cells.py: time, turns, latencies), and, in rounds of their own, its system calls.
"""

import argparse
import datetime
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import harness, measure, system_calls
from ..compare import cells, competitors
from ..compare.cells import PARTS, QUANTITIES, WORKS, Cell
from ..compare.competitors import BEFORE, OURS
from ..compare.figures import Results
from ..compare.summary import number, table, title_of
from ..harness import ROOT, Python, spread
from . import servers, works
from .rows import ROWS, Goal, Row

OUTPUT = ROOT / "benchmarks" / "results" / "real"  # which git ignores
PAGE = ROOT / "docs" / "real-work.md"
FIGURES = "## The figures\n"  # below it the page is made by --docs
ROUNDS, COUNTED_ROUNDS = 15, 3
RATIOS = ("wall", "cpu", "longest-turn", "p50", "p99")
EACH = (
    "wall",
    "cpu",
    "user",
    "kernel",
    "turns",
    "longest-turn",
    "longest-own-turn",
    "p50",
    "p99",
    "waits",
    "server-waits",
    "preemptions",
)
COUNTED = tuple(QUANTITIES["calls"].parts)


# --- Measuring ----------------------------------------------------------------------------------------------------


def rows_of(only: Sequence[str] | None) -> list[Row]:
    return [row for row in ROWS if not only or any(text in f"{row.section}, {row.work}, {row.loop}" for text in only)]


def plan(rows: Sequence[Row], options: argparse.Namespace) -> Iterator[tuple[Row, Cell]]:
    for row in rows:
        for cell in row.cells(options.quick):
            if options.limit and cell.limit not in options.limit:
                continue
            yield row, cell
            if options.calls:
                yield row, replace(cell, quantity="calls")


def measure_one(python: Python, row: Row, cell: Cell, options: argparse.Namespace, results: Results) -> None:
    work = WORKS[cell.work]
    tools = [*dict.fromkeys((*row.tools, *(options.tool or []))), *[BEFORE] * bool(options.against)]
    if cell.quantity == "calls" and (reason := system_calls.no_counter()):
        work_is_absent: str | None = reason
    else:
        work_is_absent = (
            work.missing() if work.within else None
        )  # which may say that there is nothing to start it within
    if work_is_absent:
        for tool in tools:
            results.add_reason("absent", (python.name, cell, tool), work_is_absent)
        return
    number = min(options.rounds, COUNTED_ROUNDS) if cell.quantity == "calls" else options.rounds
    rounds = harness.Rounds(number, number, paired=True)
    try:
        for line in cells.asked(cell, tools, rounds, python.path, None, options.against, work.within):
            tool = line["tool"]
            if "sample" in line:
                for part, value in line["sample"].items():
                    key = python.name, replace(cell, quantity=part), tool
                    results.samples.setdefault(key, []).append(value)
            else:
                (kind,) = {"absent", "not_applicable", "failed"} & line.keys()
                results.add_reason(kind, (python.name, cell, tool), line[kind])
                for part in QUANTITIES[cell.quantity].parts:
                    results.samples.pop((python.name, replace(cell, quantity=part), tool), None)
    except harness.Failed as failure:
        for tool in tools:
            results.add_reason("failed", (python.name, cell, tool), str(failure))


# --- Goals --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    python: str
    cell: Cell
    goal: Goal
    figure: float

    @property
    def title(self) -> str:
        others = "the best by hand" if len(self.goal.of) > 1 else title(*self.goal.of)
        return f"{self.cell.title}: {PARTS[self.goal.part][0]} / {others}"


def title(tool: str) -> str:
    return "gatedcoro of the other checkout" if tool == BEFORE else title_of(tool)


def samples_of(results: Results, python: str, cell: Cell, part: str) -> dict[str, list[float]]:
    wanted = replace(cell, quantity=part)
    return {tool: found for (of, at, tool), found in results.samples.items() if (of, at) == (python, wanted)}


def measured_cells(results: Results, python: str, row: Row) -> list[Cell]:
    """Of a row, as `parts` cells, in the order of the limits."""
    found = {
        replace(cell, quantity="parts")
        for of, cell in results.cells()
        if of == python and (cell.work, cell.loop) == (row.work, row.loop)
    }
    return sorted(found, key=lambda cell: cell.limit or 0)


def judged(results: Results, processor_time: bool) -> Iterator[Judged]:
    for python in results.pythons:
        for row in ROWS:
            for cell in measured_cells(results, python["name"], row):
                for goal in row.goals_of(cell, processor_time):
                    figure = goal.figure(samples_of(results, python["name"], cell, goal.part))
                    if figure is not None:
                        yield Judged(python["name"], cell, goal, figure)


# --- Words --------------------------------------------------------------------------------------------------------


def relative(samples: dict[str, list[float]], tool: str) -> str:
    """Of ours = 1: the median over the rounds, and half the distance between the quartiles."""
    ratios = [theirs / ours for theirs, ours in zip(samples[tool], samples[OURS], strict=True) if ours]
    if not ratios:
        return "-"
    low, high = spread(ratios)
    return f"{statistics.median(ratios):.2f}" + (f" ±{(high - low) / 2:.2f}" if len(ratios) > 1 else "")


def ratio_table(results: Results, python: str, rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        for cell in measured_cells(results, python, row):
            tools = [tool for tool in samples_of(results, python, cell, "wall") if tool != OURS]
            for tool in tools:
                line = [cell.title, title(tool)]
                for part in RATIOS:
                    samples = samples_of(results, python, cell, part)
                    complete = OURS in samples and len(samples.get(tool, ())) == len(samples[OURS])
                    line.append(relative(samples, tool) if complete else "-")
                lines.append(line)
    return table(["theirs / ours", "tool", *[PARTS[part][0] for part in RATIOS]], lines)


def each_table(results: Results, python: str, rows: Sequence[Row], parts: Sequence[str]) -> str:
    lines = []
    for row in rows:
        for cell in measured_cells(results, python, row):
            by_part = {part: samples_of(results, python, cell, part) for part in parts}
            for tool in dict.fromkeys(tool for samples in by_part.values() for tool in samples):
                figures = [by_part[part].get(tool) for part in parts]
                shown = [number(statistics.median(found)) if found else "-" for found in figures]
                lines.append([cell.title, title(tool), *shown])
    return table(["", "tool", *["{}, {}".format(*PARTS[part]) for part in parts]], lines)


def goal_table(found: Sequence[Judged]) -> str:
    return table(
        ["goal", "at most", "figure", "met"],
        [[one.title, f"{one.goal.at_most:g}", f"{one.figure:.2f}", "yes" if met(one) else "**no**"] for one in found],
    )


def met(one: Judged) -> bool:
    return one.goal.met(one.figure)


def not_measured(results: Results) -> str:
    found = {
        f"- {cell.title} ({QUANTITIES[cell.quantity].title}): {kind.replace('_', ' ')}: {reason}"
        for kind, of_kind in results.reasons.items()
        for (_, cell, _), reason in of_kind.items()
    }
    return "\n".join(sorted(found)) + "\n" if found else "Everything was measured.\n"


def written(results: Results, processor_time: bool) -> str:
    machine = results.machine
    found = list(judged(results, processor_time))
    missed = [one for one in found if not met(one)]
    judged_by = " Judged by processor time, since other processes were busy." if processor_time else ""
    parts = [
        FIGURES,
        f"Made on {results.made} by `{results.command}` on {machine['cpu']}, {machine['cores']} cores, {machine['system']} "
        f"({machine['architecture']}), with {'; '.join(python['build'] for python in results.pythons)}. "
        + ", ".join(f"{name} {version}" for name, version in results.pythons[0]["versions"].items())
        + ".\n",
        " ".join(filter(None, machine["notes"])) + "\n",
        "A ratio is the median over the interleaved rounds of the other tool's figure over gatedcoro's within a round; ± is half "
        "the distance between the quartiles. Above 1, gatedcoro is ahead.\n",
        "### Goals\n",
        f"{len(found) - len(missed)} of {len(found)} met. A figure is gatedcoro's part over that of the other; the best by "
        "hand is the best of LangChain's helper, the lazy pump and the pool."
        f"{judged_by}\n",
        goal_table(found),
    ]
    for python in results.pythons:
        several = f" ({python['name']})" if len(results.pythons) > 1 else ""
        for section in dict.fromkeys(row.section for row in ROWS):
            rows = [row for row in ROWS if row.section == section and measured_cells(results, python["name"], row)]
            if not rows:
                continue
            parts += [
                f"### {section}{several}\n",
                ratio_table(results, python["name"], rows),
                each_table(results, python["name"], rows, EACH),
            ]
            if any(
                samples_of(results, python["name"], cell, "calls")
                for row in rows
                for cell in measured_cells(results, python["name"], row)
            ):
                parts.append(
                    each_table(
                        results,
                        python["name"],
                        rows,
                        [part for part in COUNTED if any(key[1].quantity == part for key in results.samples)],
                    )
                )
    parts += ["### Not measured\n", not_measured(results)]
    return "\n".join(parts)


def notes(calls: bool) -> list[str]:
    """What this machine can and cannot show."""
    pinned = measure.cores()
    return [
        "The client has a core of its own, the servers have the others."
        if pinned
        else "Clients and servers share what cores there are.",
        f"Servers: aiohttp's and httpx's is benchmarks/http_server.py; {'; '.join(servers.versions()) or 'no others'}.",
        f"Load of the machine at the start: {os.getloadavg()[0]:.1f}." if hasattr(os, "getloadavg") else "",
        system_calls.described() if calls else "",
        f"Delays: by the server's call_later; by tc netem not ({reason})."
        if (reason := works.no_netem())
        else "Delays: by the server's call_later, and by tc netem.",
    ]


# --- The command --------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quick", action="store_true", help="one short round of everything: results and limits, no figures"
    )
    parser.add_argument(
        "--only", metavar="TEXT", action="append", help="only rows whose section, work or loop contains TEXT"
    )
    parser.add_argument("--limit", metavar="N", type=int, action="append", help="only with this limit (repeatable)")
    parser.add_argument("--python", action="append", metavar="PATH", help="an interpreter to measure (repeatable)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"interleaved rounds ({ROUNDS})")
    parser.add_argument("--tool", action="append", choices=sorted(competitors.BY_NAME), help="these, too (repeatable)")
    parser.add_argument(
        "--against", metavar="TREE", help="also the extension of another checkout, built in place there"
    )
    parser.add_argument("--calls", action="store_true", help="also count system calls")
    parser.add_argument("--goals", action="store_true", help="end with status 1 if a goal is missed")
    parser.add_argument("--processor-time", action="store_true", help="judge by processor time (for a busy machine)")
    parser.add_argument("--output", metavar="FOLDER", default=str(OUTPUT), help="benchmarks/results/real/")
    parser.add_argument("--redraw", action="store_true", help="do not measure: write the words of results.json anew")
    parser.add_argument("--docs", action="store_true", help="also write the figures of docs/real-work.md")


def main(options: argparse.Namespace) -> int:
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    if options.redraw:
        results = Results.from_json(harness.stored(output / "results.json"))
    else:
        results = measured(options, output)
        if not results.samples and not results.reasons:
            print(f"no row has what is asked for: {results.command}", file=sys.stderr)
            return 2
    text = written(results, options.processor_time)
    (output / "summary.md").write_text("# Real work\n\n" + text)
    if options.docs:
        kept = PAGE.read_text().partition(FIGURES)[0]
        PAGE.write_text(kept + text)
    found = list(judged(results, options.processor_time))
    missed = [one for one in found if not met(one)]
    if not results.quick:
        for one in found:
            verdict = "met" if met(one) else "MISSED"
            print(f"{verdict:7} {one.figure:5.2f} <= {one.goal.at_most:<5g} {one.title} ({one.python})")
    print(f"{output / 'summary.md'}: {len(results.samples)} figures")
    print(not_measured(results), end="")
    failed = results.reasons.get("failed", {})
    for (_, cell, tool), reason in failed.items():
        print(f"failed: {tool} ({cell.title}): {reason}", file=sys.stderr)
    return 1 if failed or (options.goals and missed and not results.quick) else 0


def measured(options: argparse.Namespace, output: Path) -> Results:
    pythons = [harness.described(path) for path in options.python or [sys.executable]]
    if options.quick:
        options.rounds = 1
    words = ["python -m benchmarks real"]
    words += [f"--{name.replace('_', '-')}" for name in ("quick", "calls", "processor_time") if getattr(options, name)]
    words += [f"--only {text!r}" for text in options.only or []] + [f"--limit {limit}" for limit in options.limit or []]
    words += ["--python PATH"] * len(options.python or []) + ["--against TREE"] * bool(options.against)
    words += [f"--rounds {options.rounds}"] * (options.rounds != ROUNDS and not options.quick)
    results = Results(
        made=datetime.date.today().isoformat(),
        command=" ".join(words),
        machine={**measure.machine(), "notes": notes(options.calls)},
        pythons=[{"name": python.name, "build": python.build, "versions": python.versions} for python in pythons],
        quick=options.quick,
    )
    jobs = [(python, row, cell) for python in pythons for row, cell in plan(rows_of(options.only), options)]
    for done, (python, row, cell) in enumerate(jobs, 1):
        if sys.stderr.isatty():
            print(f"\r\x1b[K{done}/{len(jobs)} {cell.title}\r", end="", file=sys.stderr)
        measure_one(python, row, cell, options, results)
        results.save(output)
    return results
