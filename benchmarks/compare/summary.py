"""The words and tables of the report, in Markdown."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence

from ..harness import spread
from . import competitors, works
from .cells import QUANTITIES, Cell
from .figures import BASIC_WORKS, CENTRE_LIMIT, CENTRE_WORK, Results

STALL_FLOOR = 2.0  # ms: a timer of 1 ms cannot tell shorter stalls from its own jitter
FLOORS = {"stall": STALL_FLOOR, "rss": 0.5, "traced": 0.01}  # below, two figures are taken to be the same


def number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def figure(samples: list[float], quantity: str) -> str:
    """The median, and half the distance between the quartiles as a percentage of it."""
    median = statistics.median(samples)
    if quantity == "stall" and median < STALL_FLOOR:
        return f"under {STALL_FLOOR:g}"
    low, high = spread(samples)
    if len(samples) == 1 or median == 0:
        return number(median)
    return f"{number(median)} ±{(high - low) / 2 / median * 100:.0f}%"


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def title_of(tool: str) -> str:
    title = competitors.BY_NAME[tool].title
    return f"**{title}**" if tool == competitors.OURS else title


# --- Sections -----------------------------------------------------------------------------------------------------


def faster_than_ours(results: Results) -> str:
    rows = []
    for python, cell in results.cells():
        ours = results.samples.get((python, cell, competitors.OURS))
        if ours is None or cell.quantity == "turns":
            continue
        for tool in results.tools_of(python, cell):
            if tool.startswith(competitors.OURS) or tool in ("reference", competitors.FLOOR.name):
                continue
            theirs = results.samples[python, cell, tool]
            floor = FLOORS.get(cell.quantity, 0.0)
            mine, other = max(statistics.median(ours), floor), max(statistics.median(theirs), floor)
            if other < mine:
                clear = max(theirs) < min(ours) and (len(ours) > 1 or other < 0.98 * mine)
                rows.append(
                    (
                        mine / other,
                        clear,
                        [
                            title_of(tool),
                            f"{QUANTITIES[cell.quantity].title}: {cell.title} ({python})",
                            f"{number(other)} {QUANTITIES[cell.quantity].unit}",
                            number(mine),
                            f"{mine / other:.2f}x" + ("" if clear else " (within the noise)"),
                            ", ".join(competitors.BY_NAME[tool].gives_up) or "nothing",
                        ],
                    )
                )
    rows.sort(key=lambda row: (not row[1], -row[0]))
    if not any(tool == competitors.OURS for _, _, tool in results.samples):
        return "gatedcoro's C extension was not there: nothing to be ahead of.\n"
    if not rows:
        return "No other tool was faster, smaller or smoother than gatedcoro in any cell.\n"
    return table(["tool", "where", "its figure", "gatedcoro", "ahead by", "it gives up"], [row[2] for row in rows])


def what_each_gives_up() -> str:
    def yes(kept: bool) -> str:
        return "yes" if kept else "**no**"

    return table(
        ["tool", "keeps a limit", "own Task", "own context", "order", "own error", "fail-fast"],
        [
            [
                title_of(tool.name),
                yes(tool.limits),
                yes(tool.own_task),
                yes(tool.own_context),
                yes(tool.order),
                yes(tool.own_error),
                yes(tool.fail_fast),
            ]
            for tool in competitors.COMPETITORS
        ],
    )


def axis_table(results: Results, python: str, cells: list[Cell], head: Callable[[Cell], str]) -> str:
    cells = [cell for cell in cells if (python, cell) in results.cells()]
    tools = [tool for tool in competitors.BY_NAME if any((python, cell, tool) in results.samples for cell in cells)]
    last = cells[-1] if cells else None

    def order(tool: str) -> float:
        found = [value for cell in cells if (value := results.median(python, cell, tool)) is not None]
        of_last = results.median(python, last, tool) if last is not None else None
        return of_last if of_last is not None else 1e9 + found[-1]

    rows = []
    for tool in sorted(tools, key=order):
        row = [title_of(tool)]
        for cell in cells:
            samples = results.samples.get((python, cell, tool))
            row.append(figure(samples, cell.quantity) if samples else _why_not(results, python, cell, tool))
        rows.append(row)
    return table(["", *map(head, cells)], rows)


def _why_not(results: Results, python: str, cell: Cell, tool: str) -> str:
    for kind, shown in (
        ("skipped", "over 20 s"),
        ("not_applicable", "n/a"),
        ("absent", "absent"),
        ("failed", "FAILED"),
    ):
        if (python, cell, tool) in results.reasons.get(kind, {}):
            return shown
    return ""


def not_measured(results: Results) -> str:
    lines = []
    for kind, title in (
        ("failed", "Failed"),
        ("skipped", "Skipped"),
        ("absent", "Absent"),
        ("not_applicable", "Not applicable"),
    ):
        grouped: dict[tuple[str, tuple[str, ...]], list[str]] = {}  # the reason and its cells -> the tools
        cells_of: dict[tuple[str, str], list[str]] = {}
        for (python, cell, tool), reason in results.reasons.get(kind, {}).items():
            words = reason if kind != "skipped" else "predicted to take over 20 s"
            cells_of.setdefault((tool, words), []).append(f"{QUANTITIES[cell.quantity].title}: {cell.title} ({python})")
        for (tool, words), where in cells_of.items():
            grouped.setdefault((words, tuple(where)), []).append(title_of(tool))
        for (words, places), tools in grouped.items():
            shown = "; ".join(places) if len(places) <= 3 else f"{len(places)} cells, such as {places[0]}"
            lines.append(f"- {title}: {', '.join(tools)}: {words} ({shown})")
    return "\n".join(lines) + "\n" if lines else "Everything was measured.\n"


# --- Documents ----------------------------------------------------------------------------------------------------


def written(results: Results, plots: Sequence[str] = ()) -> str:
    """All of it; `plots` names those that lie beside it."""

    def image(name: str, words: str) -> str:
        return f"![{words}]({name}.svg)\n" if name in plots else ""

    first = results.pythons[0]["name"]
    present = [cell for python, cell in results.cells() if python == first]
    centre = max((cell.count for cell in present if cell.work == "nothing"), default=0)

    def along(quantity: str) -> list[Cell]:
        return sorted(
            (
                cell
                for cell in present
                if (cell.work, cell.limit, cell.loop, cell.quantity) == (CENTRE_WORK, CENTRE_LIMIT, "asyncio", quantity)
            ),
            key=lambda cell: cell.count,
        )

    limits = sorted(
        (
            cell
            for cell in present
            if (cell.work, cell.count, cell.loop, cell.quantity) == (CENTRE_WORK, centre, "asyncio", "time")
        ),
        key=lambda cell: float("inf") if cell.limit is None else cell.limit,
    )
    basic = [Cell(work, centre, CENTRE_LIMIT) for work in BASIC_WORKS]
    machine = results.machine
    parts = [
        "# What bounded gathering costs\n",
        f"Made on {results.made} by `{results.command}` on {machine['cpu']}, {machine['cores']} cores, {machine['system']} "
        f"({machine['architecture']}), with {'; '.join(python['build'] for python in results.pythons)}. "
        + ", ".join(f"{name} {version}" for name, version in results.pythons[0]["versions"].items())
        + ".\n",
        "A figure is the median of its samples; ± is half the distance between the quartiles (the range, of fewer than four "
        "samples). All tools of a cell are measured in one process, in interleaved rounds, after one untimed call each: "
        f"{'3 to 5 rounds' if results.quick else 'as many as fit into a second for each tool, 3 to 25'} (stall and turns: 3). Inside "
        "the timed region: making the coroutines, callables or source that the tool takes, the call, its end, freeing what it "
        "made. Outside: `gc.collect()` before each sample (the collector is on while it runs), the check of every result, "
        "starting servers and clients. Calls shorter than 5 ms are repeated within a sample. Memory and stall count the making of the "
        "coroutines too, what this alone costs stands beside them; memory is from fresh processes, one for each sample.\n",
        "## Where another tool is ahead\n",
        faster_than_ours(results),
        "## What each gives up\n",
        what_each_gives_up(),
        "Own Task: each item runs in a Task of its own. Own context: what it sets in a context variable, no other item sees. "
        "Own error: an item's error costs no other item its run, and the call no slot. Fail-fast: the caller hears of an error "
        "before items that run already would have ended.\n",
        f"## Time per item by kind of work, us ({first}, N={centre:,}, n={CENTRE_LIMIT})\n",
        image("overview", "us per item by tool, for items that do nothing, sleep(0), and wait for a future"),
        axis_table(results, first, basic, lambda cell: works.BY_NAME[cell.work].title),
    ]
    for work in works.WORKS:
        cells = [
            cell
            for cell in present
            if cell.work == work.name and cell.quantity == "time" and work.name not in BASIC_WORKS
        ]
        if cells:
            parts += [
                f"### {work.title[0].upper()}{work.title[1:]}\n",
                image(f"work-{work.name}", f"us per item by tool: {work.title}"),
                axis_table(results, first, cells, lambda cell: f"N={cell.count:,}, n={cell.limit:,}"),
            ]
    for title, plot, cells in (
        ("Time per item against N, us", "time-against-count", along("time")),
        ("Time per item against the limit, us", "time-against-limit", limits),
        ("Memory against N: growth of the resident set, MB", "memory-against-count", along("rss")),
        ("Memory against N: traced, MB", "traced-memory-against-count", along("traced")),
        ("Longest stall of the event loop against N, ms", "stall-against-count", along("stall")),
    ):
        if not cells:
            continue
        head = _limit_head if plot == "time-against-limit" else _count_head
        parts += [
            f"## {title}\n",
            image(plot, title),
            axis_table(results, first, cells, head),
        ]
    turns = [Cell(work, centre, CENTRE_LIMIT, quantity="turns") for work in BASIC_WORKS]
    parts += [
        "## Turns of the event loop per 1,000 items\n",
        axis_table(results, first, turns, lambda cell: works.BY_NAME[cell.work].title),
    ]
    uvloop = [Cell(work, centre, CENTRE_LIMIT, "uvloop") for work in BASIC_WORKS]
    if any(cell in present for cell in uvloop):
        parts += [
            "## On uvloop, us per item\n",
            axis_table(results, first, uvloop, lambda cell: works.BY_NAME[cell.work].title),
        ]
    for python in results.pythons[1:]:
        parts += [
            f"## On {python['name']}, us per item (N={centre:,}, n={CENTRE_LIMIT})\n",
            axis_table(results, python["name"], basic, lambda cell: works.BY_NAME[cell.work].title),
        ]
    parts += ["## Not measured\n", not_measured(results)]
    return "\n".join(part for part in parts if part)


def _limit_head(cell: Cell) -> str:
    return "no limit" if cell.limit is None else f"n={cell.limit:,}"


def _count_head(cell: Cell) -> str:
    return f"N={cell.count:,}"


README_TOOLS = ("gatedcoro", "gatedcoro-per-item", "langchain", "asyncio-gather", "pool", "aioitertools", "making")


def readme_section(results: Results) -> str:
    """One plot and one small table for the README, with the command, the machine and the date; of what --docs writes."""
    first = results.pythons[0]["name"]
    centre = max(
        (cell.count for python, cell in results.cells() if python == first and cell.work == "nothing"), default=0
    )
    largest = max(
        (
            cell.count
            for python, cell in results.cells()
            if python == first and cell.quantity == "stall" and cell.count <= 100_000
        ),
        default=0,
    )
    columns = [
        *[(f"{works.BY_NAME[work].title}, us per item", Cell(work, centre, CENTRE_LIMIT)) for work in BASIC_WORKS],
        (f"memory, MB (N={largest:,})", Cell(CENTRE_WORK, largest, CENTRE_LIMIT, quantity="rss")),
        (f"longest stall, ms (N={largest:,})", Cell(CENTRE_WORK, largest, CENTRE_LIMIT, quantity="stall")),
    ]
    rows = []
    for tool in README_TOOLS:
        if not any((first, cell, tool) in results.samples for _, cell in columns):
            continue
        row = [title_of(tool)]
        for _, cell in columns:
            samples = results.samples.get((first, cell, tool))
            row.append(figure(samples, cell.quantity).partition(" ±")[0] if samples else "-")
        gives_up = ", ".join(competitors.BY_NAME[tool].gives_up) or "-"
        row.append("runs nothing" if tool == competitors.FLOOR.name else gives_up)
        rows.append(row)
    return "\n".join(
        [
            "![Time per item by tool](docs/overview.svg)\n",
            table(["", *[title for title, _ in columns], "gives up"], rows),
            f"Median figures at N={centre:,}, n={CENTRE_LIMIT} on {first}, {results.machine['cpu']}, {results.machine['cores']} cores, "
            f"{results.made}; made by `{results.command}`. Making the coroutines is counted everywhere, and its part of memory and stall is the last row. All tools, all axes, and "
            f"where another tool is ahead: [docs/measured.md](docs/measured.md).\n",
        ]
    )


# --- Comparing two reports ------------------------------------------------------------------------------------------


def compared(old: Results, new: Results) -> str:
    """What changed from one report to another, machine-wide change divided out: that of the tools that are not ours."""
    rows = []
    changes = {
        key: statistics.median(samples) / statistics.median(before)
        for key, samples in new.samples.items()
        if (before := old.samples.get(key)) and statistics.median(before) > 0 and statistics.median(samples) > 0
    }

    def of_the_machine(python: str, cell: Cell, tool: str) -> tuple[float, float]:
        """The change of the other tools that are not ours, and how far one of them is from it (as a logarithm).

        In this cell, or if they are too few there, in all of its quantity.
        """
        if cell.quantity in ("traced", "turns"):
            return 1.0, 0.0
        others = [
            (key, change)
            for key, change in changes.items()
            if key[1].quantity == cell.quantity and key[2] != tool and not key[2].startswith(competitors.OURS)
        ]
        here = [change for key, change in others if key[:2] == (python, cell)]
        found = here if len(here) >= 2 else [change for _, change in others]
        if not found:
            return 1.0, 0.0
        everywhere = statistics.median(found)
        return everywhere, max(abs(math.log(change / everywhere)) for change in found)

    for (python, cell, tool), change in changes.items():
        everywhere, disagreement = of_the_machine(python, cell, tool)
        relative = change / everywhere
        before = old.samples[python, cell, tool]
        now = new.samples[python, cell, tool]
        after = [value / everywhere for value in now]
        apart = max(after) < min(before) or min(after) > max(before)
        if apart and abs(math.log(relative)) > max(disagreement, math.log(1.05)):
            row = [
                title_of(tool),
                f"{QUANTITIES[cell.quantity].title}: {cell.title} ({python})",
                number(statistics.median(before)),
                number(statistics.median(now)),
                f"{everywhere:.2f}x",
                f"{relative:.2f}x",
            ]
            rows.append((relative, row))
    rows.sort(key=lambda row: -abs(row[0] - 1))
    same = len(set(old.samples) & set(new.samples)) - len(rows)
    head = (
        f"# {old.made} to {new.made}\n\nMore than noise: no sample of one report lies within the range of the other's, once the "
        "median change of the tools that are not ours (the machine) is divided out; and the rest is over 5 %, and more than those "
        "tools' changes differ among themselves.\n\n"
    )
    if old.machine != new.machine:
        head += "The machines differ: compare with care.\n\n"
    if not rows:
        return head + f"Nothing changed by more than noise ({same} figures compared).\n"
    return (
        head
        + table(["tool", "where", "before", "after", "machine", "change"], [row[1] for row in rows])
        + (f"\n{same} other figures did not change by more than noise.\n")
    )
