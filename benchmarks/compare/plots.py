"""The plots of the report, as SVG and PNG: readable in black and white, and at the width of a README.

Lines carry their tool's name at their end, and differ by marker and dash. Spread is shown: quartiles as whiskers.
"""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from ..harness import spread
from . import competitors, works
from .cells import Cell
from .figures import BASIC_WORKS, CENTRE_LIMIT, CENTRE_WORK, Results

WIDTH = 8.4  # inches: a README's column at 100 dots an inch
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "gatedcoro",  # the same figures give the same file
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
}
MARKERS = "osD^vPX*<>d"  # once more, filled, where there are more tools than these
DASHES: Sequence[Any] = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))]
OURS_INK, OTHERS_INK, FAINT_INK = "#000000", "#6f6f6f", "#c9c9c9"


def plain_number(value: float, _position: object = None) -> str:
    if value >= 1:
        return f"{value:,.0f}" if value == round(value) or value >= 100 else f"{value:.3g}"
    return f"{value:.10f}".rstrip("0").rstrip(".")


def is_ours(tool: str) -> bool:
    return tool.startswith(competitors.OURS)


def _fill(tool: str, number: int) -> str:
    return OURS_INK if is_ours(tool) else "white" if number < len(MARKERS) else OTHERS_INK


def draw_all(results: Results, output: Path) -> list[str]:
    """Draws what the results have; gives the names of the files, without their endings."""
    python = results.pythons[0]["name"]
    drawn = []
    with plt.rc_context(STYLE):  # type: ignore[arg-type]
        for name, draw in PLOTS.items():
            figure = draw(results, python)
            if figure is not None:
                _save(figure, output / name)
                drawn.append(name)
        for work in works.WORKS:
            figure = work_bars(results, python, work.name)
            if figure is not None:
                _save(figure, output / f"work-{work.name}")
                drawn.append(f"work-{work.name}")
    return drawn


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=160, metadata={"Software": None})
    plt.close(figure)


# --- Lines --------------------------------------------------------------------------------------------------------


def _lines(
    results: Results,
    python: str,
    cells: list[Cell],
    position: Callable[[Cell], float],
    title: str,
    x_label: str,
    y_label: str,
    floor: float | None = None,
    floor_note: str = "",
) -> Figure | None:
    cells = [cell for cell in cells if (python, cell) in results.cells()]
    if len(cells) < 2:
        return None
    tools = [tool for tool in competitors.BY_NAME if any((python, cell, tool) in results.samples for cell in cells)]
    figure, axes = plt.subplots(figsize=(WIDTH, 5.0))
    figure.subplots_adjust(left=0.09, right=0.745, top=0.91, bottom=0.11)
    axes.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label)
    ends = []
    for number, tool in enumerate(tools):
        points = [
            (position(cell), results.samples[python, cell, tool])
            for cell in cells
            if (python, cell, tool) in results.samples
        ]
        xs = [x for x, _ in points]
        ys = [max(statistics.median(samples), floor or 0) for _, samples in points]
        around = [spread(samples) for _, samples in points]
        errors = [
            [max(0.0, y - max(low, floor or 0)) for y, (low, _) in zip(ys, around, strict=True)],
            [max(0.0, high - y) for y, (_, high) in zip(ys, around, strict=True)],
        ]
        ours = tool == competitors.OURS
        axes.errorbar(
            xs,
            ys,
            yerr=errors,
            capsize=2.5,
            elinewidth=0.8,
            marker=MARKERS[number % len(MARKERS)],
            markersize=6 if ours else 4.5,
            markerfacecolor=_fill(tool, number),
            linestyle="-" if ours else DASHES[1:][number % (len(DASHES) - 1)],
            linewidth=2.4 if ours else 1.0,
            color=OURS_INK if is_ours(tool) else OTHERS_INK,
            zorder=3 if ours else 2,
        )
        ends.append((xs[-1], ys[-1], tool, number))
    all_xs = sorted({position(cell) for cell in cells})
    axes.xaxis.set_major_locator(FixedLocator(all_xs))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(plain_number))
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(plain_number))
    axes.grid(axis="y", linewidth=0.4, color=FAINT_INK)
    axes.set_title(title)
    if floor_note:
        axes.text(0.01, 0.01, floor_note, transform=axes.transAxes, fontsize=8)
    _name_lines(axes, ends)
    return figure


def _name_lines(axes: Axes, ends: list[tuple[float, float, str, int]]) -> None:
    """Writes each line's marker and name right of the plot, as near to its end as the other names allow."""
    figure = axes.figure
    figure.canvas.draw()
    to_axes = axes.transAxes.inverted()
    placed = sorted(
        (float(to_axes.transform(axes.transData.transform((x, y)))[1]), x, y, tool, number)
        for x, y, tool, number in ends
    )
    gap = 0.042
    heights = [height for height, *_ in placed]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + gap)
    overflow = heights[-1] - 1.0
    if overflow > 0:
        heights[-1] = 1.0
        for index in range(len(heights) - 2, -1, -1):
            heights[index] = min(heights[index], heights[index + 1] - gap)
    for height, (_, x, y, tool, number) in zip(heights, placed, strict=True):
        axes.annotate(
            "",
            xy=(x, y),
            xytext=(1.045, height),
            textcoords="axes fraction",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": FAINT_INK, "shrinkA": 0, "shrinkB": 4},
        )
        axes.plot(
            [1.055],
            [height],
            transform=axes.transAxes,
            clip_on=False,
            marker=MARKERS[number % len(MARKERS)],
            markersize=4.5,
            color=OURS_INK if is_ours(tool) else OTHERS_INK,
            markerfacecolor=_fill(tool, number),
        )
        axes.text(
            1.075,
            height,
            competitors.BY_NAME[tool].title,
            transform=axes.transAxes,
            va="center",
            fontsize=8.5,
            weight="bold" if tool == competitors.OURS else "normal",
        )


def _cells_of(results: Results, quantity: str) -> list[Cell]:
    return sorted(
        {
            cell
            for _, cell in results.cells()
            if (cell.work, cell.loop, cell.quantity) == (CENTRE_WORK, "asyncio", quantity)
        },
        key=lambda cell: (cell.count, _infinite_if_none(cell.limit)),
    )


def _infinite_if_none(limit: int | None) -> float:
    return float("inf") if limit is None else limit


def _against_count(quantity: str, title: str, y_label: str, **more: Any) -> Callable[[Results, str], Figure | None]:
    def draw(results: Results, python: str) -> Figure | None:
        cells = [cell for cell in _cells_of(results, quantity) if cell.limit == CENTRE_LIMIT]
        return _lines(
            results,
            python,
            cells,
            lambda cell: cell.count,
            f"{title} (sleep(0), n=10, {python})",
            "N, the number of items",
            y_label,
            **more,
        )

    return draw


def time_against_limit(results: Results, python: str) -> Figure | None:
    cells = _cells_of(results, "time")
    counts = [cell.count for cell in cells if cell.limit != CENTRE_LIMIT]
    if not counts:
        return None
    centre = statistics.mode(counts)
    cells = [cell for cell in cells if cell.count == centre]
    limits = [cell.limit for cell in cells if cell.limit is not None]
    beyond = max(limits) * 10  # where "no limit" stands
    figure = _lines(
        results,
        python,
        cells,
        lambda cell: beyond if cell.limit is None else cell.limit,
        f"Time per item against the limit (sleep(0), N={centre:,}, {python})",
        "n, the limit",
        "us per item",
    )
    if figure is not None and any(cell.limit is None for cell in cells):
        axes = figure.axes[0]
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _position: "no limit" if value == beyond else plain_number(value))
        )
    return figure


# --- Bars and dots --------------------------------------------------------------------------------------------------


def _comparison_of_works(results: Results, python: str, name: str) -> Cell | None:
    """The cell in which the tools are compared on this work."""
    found = [
        cell
        for of_python, cell in results.cells()
        if (of_python, cell.work, cell.loop, cell.quantity) == (python, name, "asyncio", "time")
    ]
    if name in BASIC_WORKS:
        centre = max(
            (
                cell.count
                for of_python, cell in results.cells()
                if (of_python, cell.work, cell.quantity) == (python, "nothing", "time")
            ),
            default=None,
        )
        found = [cell for cell in found if cell.limit == CENTRE_LIMIT and cell.count == centre]
    return min(found, key=lambda cell: _infinite_if_none(cell.limit), default=None)


def _shown(value: float) -> str:
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _name_rows(axes: Axes, tools: list[str]) -> None:
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(tools) - 0.4, -0.6)  # the first on top
    axes.set_yticks(range(len(tools)), [competitors.BY_NAME[tool].title for tool in tools])
    for label, tool in zip(axes.get_yticklabels(), tools, strict=True):
        label.set_fontweight("bold" if tool == competitors.OURS else "normal")


def overview(results: Results, python: str) -> Figure | None:
    """The three basic works side by side, on a logarithmic axis: dots, since the length of a bar would mean nothing."""
    found = [_comparison_of_works(results, python, name) for name in BASIC_WORKS]
    cells = [cell for cell in found if cell is not None]
    if len(cells) < len(BASIC_WORKS):
        return None
    tools = results.tools_of(python, cells[1])
    height = 1.05 + 0.215 * len(tools)
    figure, grid = plt.subplots(1, len(cells), figsize=(WIDTH, height))
    figure.subplots_adjust(left=0.205, right=0.985, top=1 - 0.58 / height, bottom=0.32 / height, wspace=0.1)
    for axes, cell in zip(grid, cells, strict=True):
        axes.set_xscale("log")
        values = [value for tool in tools if (value := results.median(python, cell, tool)) is not None]
        _name_rows(axes, tools)
        if axes is not grid[0]:
            axes.set_yticklabels([])
        for row, tool in enumerate(tools):
            value = results.median(python, cell, tool)
            if value is None:
                continue
            low, high = spread(results.samples[python, cell, tool])
            axes.plot([min(values) / 2, value], [row, row], linewidth=0.5, color=FAINT_INK, zorder=1)
            axes.errorbar(
                value,
                row,
                xerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
                capsize=2.5,
                elinewidth=0.9,
                marker="o",
                markersize=6.5 if tool == competitors.OURS else 5,
                color="black",
                markerfacecolor="black" if tool == competitors.OURS else "#8a8a8a" if is_ours(tool) else "white",
            )
            axes.annotate(
                _shown(value),
                (max(value, high), row),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                weight="bold" if tool == competitors.OURS else "normal",
            )
        axes.set_xlim(min(values) / 1.7, max(values) * 4)
        axes.xaxis.set_major_locator(LogLocator(base=10))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(plain_number))
        axes.set_title(works.BY_NAME[cell.work].title, fontsize=9)
    figure.suptitle(
        f"us per item, N={cells[0].count:,}, n={cells[0].limit}, {python} (logarithmic; left is better; whiskers: quartiles)",
        x=0.01,
        y=1 - 0.06 / height,
        va="top",
        ha="left",
        fontsize=10,
        weight="bold",
    )
    return figure


def work_bars(results: Results, python: str, name: str) -> Figure | None:
    """Time per item by tool, the fastest on top."""
    cell = _comparison_of_works(results, python, name)
    if cell is None:
        return None
    tools = results.tools_of(python, cell)
    height = 0.8 + 0.25 * len(tools)
    figure, axes = plt.subplots(figsize=(WIDTH, height))
    figure.subplots_adjust(left=0.22, right=0.95, top=1 - 0.35 / height, bottom=0.45 / height)
    longest = max(max(spread(results.samples[python, cell, tool])) for tool in tools)
    for row, tool in enumerate(tools):
        samples = results.samples[python, cell, tool]
        value = statistics.median(samples)
        low, high = spread(samples)
        axes.barh(
            row,
            value,
            height=0.66,
            xerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
            color="black" if tool == competitors.OURS else "#8a8a8a" if is_ours(tool) else "white",
            edgecolor="black",
            linewidth=0.8,
            error_kw={"elinewidth": 0.9, "capsize": 2.5, "ecolor": "#555555"},
        )
        axes.text(
            max(value, high) + 0.015 * longest,
            row,
            _shown(value),
            va="center",
            fontsize=8,
            weight="bold" if tool == competitors.OURS else "normal",
        )
    _name_rows(axes, tools)
    axes.set_xlim(0, longest * 1.1)
    axes.xaxis.set_major_formatter(FuncFormatter(plain_number))
    title = works.BY_NAME[cell.work].title
    limit = "no limit" if cell.limit is None else f"n={cell.limit:,}"
    axes.set_title(f"{title[0].upper()}{title[1:]} (N={cell.count:,}, {limit}, {python})")
    axes.set_xlabel("us per item (median; whiskers: quartiles)")
    return figure


PLOTS: dict[str, Callable[[Results, str], Figure | None]] = {
    "overview": overview,
    "time-against-count": _against_count("time", "Time per item against N", "us per item"),
    "memory-against-count": _against_count(
        "rss", "Memory against N", "growth of the resident set, MB", floor=0.1, floor_note="0.1 MB: 0.1 MB or less"
    ),
    "traced-memory-against-count": _against_count("traced", "Traced memory against N", "MB at the peak"),
    "stall-against-count": _against_count(
        "stall", "Longest stall of the event loop against N", "ms", floor=2.0, floor_note="2 ms: 2 ms or less"
    ),
    "time-against-limit": time_against_limit,
}
