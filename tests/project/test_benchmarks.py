"""The benchmarks measure what they say, and say nothing that is not so. (What they measure is no business of a test.)"""

import ast
import asyncio
import contextvars
import dataclasses
import gc
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import gatedcoro.langchain
from benchmarks import goals, harness, http_server, instructions, langchain_abatch, measure, parts, system_calls
from benchmarks.compare import cells, competitors, figures, report, semaphores, summary, works
from contract_tools import Running
from effort import SHORT

pytestmark = pytest.mark.skipif(SHORT, reason="nothing here is about the build")

variable = contextvars.ContextVar("variable", default=None)


# --- What each tool gives up: by experiment -------------------------------------------------------------------------


def own_task_and_context(tool):
    tasks, leaked = [], []

    async def item(index):
        tasks.append(asyncio.current_task())  # held, so that no two have one identity
        leaked.append(variable.get())
        variable.set(index)
        await asyncio.sleep(0)
        return index

    asyncio.run(_list(tool, item, 12, 3))
    return len(set(tasks)) == 12, leaked == [None] * 12


def order(tool):
    async def item(index):
        for _ in range(10 - index):
            await asyncio.sleep(0)
        return index

    return asyncio.run(_list(tool, item, 9, 3)) == list(range(9))


def fail_fast(tool):
    async def experiment():
        release = asyncio.Event()

        async def item(index):
            if index == 0:
                await release.wait()
            elif index == 1:
                raise ValueError(index)
            return index

        call = asyncio.ensure_future(_list(tool, item, 2, 2))
        for _ in range(200):
            await asyncio.sleep(0)
        told = call.done()
        release.set()
        await asyncio.wait([call])
        assert call.exception() is not None
        return told

    return asyncio.run(experiment())


def own_error(tool):
    async def experiment():
        ended = []

        async def item(index):
            for _ in range(3):
                await asyncio.sleep(0)
            if index in (1, 4, 5):
                raise ValueError(index)
            ended.append(index)
            return index

        call = asyncio.ensure_future(_list(tool, item, 9, 3))
        await asyncio.wait([call])
        assert call.exception() is not None
        for _ in range(200):
            await asyncio.sleep(0)
        return sorted(ended) == [0, 2, 3, 6, 7, 8]

    return asyncio.run(experiment())


def limit(tool):
    running = Running()

    async def item(index):
        with running:
            for _ in range(20):
                await asyncio.sleep(0)
        return index

    asyncio.run(_list(tool, item, 12, 3))
    return running.most == 3


async def _list(tool, item, count, limit):
    return list(await tool.run(item, count, limit))


@pytest.mark.filterwarnings("ignore")  # some tools drop coroutines without closing them
@pytest.mark.parametrize("tool", competitors.COMPETITORS, ids=lambda tool: tool.name)
def test_a_tool_gives_up_what_the_report_says(tool):
    if absent := tool.absent():
        pytest.skip(absent)
    own_task, own_context = own_task_and_context(tool)
    found = {
        "limits": limit(tool),
        "own_task": own_task,
        "own_context": own_context,
        "order": order(tool),
        "own_error": own_error(tool),
        "fail_fast": fail_fast(tool),
    }
    gc.collect()  # here, where warnings are ignored
    assert found == {name: getattr(tool, name) for name in found}


@pytest.mark.parametrize("tool", competitors.COMPETITORS, ids=lambda tool: tool.name)
@pytest.mark.parametrize("limit", [1, 3, 50, None])
def test_a_tool_returns_every_result(tool, limit):
    if reason := (tool.absent() or tool.not_applicable(limit)):
        pytest.skip(reason)
    for work in (works.NOTHING, works.SLEEP0, works.FUTURE):
        results = asyncio.run(_prepared(work, tool, 20, limit))
        measure.check(results, range(20))


@pytest.mark.parametrize("work", [work for work in works.WORKS if work.needs is None], ids=lambda work: work.name)
def test_a_work_gives_the_indices_back(work):
    measure.check(asyncio.run(_prepared(work, competitors.BY_NAME["langchain"], 101, 10)), range(101))


@pytest.mark.parametrize("tool", competitors.STREAMS, ids=lambda tool: tool.name)
def test_a_tool_that_streams_does_what_its_row_says(tool):
    if absent := tool.absent():
        pytest.skip(absent)
    for count in (0, 1, 30):
        for work in (works.NOTHING, works.SLEEP0, works.FUTURE):
            measure.check(asyncio.run(_prepared(work, tool, count, 3)), range(count))
    own_task, own_context = own_task_and_context(tool)
    kept = {"own_task": own_task, "own_context": own_context, "limits": limit(tool)}
    assert kept == {name: getattr(tool, name) for name in kept}
    if tool.each is not None:
        assert order_of_what_is_read(tool) == tool.order


def order_of_what_is_read(tool):
    async def item(index):
        for _ in range(0 if index else 50):
            await asyncio.sleep(0)
        return index

    results = []
    asyncio.run(tool.each(item, iter(range(9)), 3, results.append))
    assert sorted(results) == list(range(9))
    return results == list(range(9))


@pytest.mark.parametrize("quantity", cells.READ)
@pytest.mark.parametrize("fault", ["loses", "swaps"])
def test_a_stream_with_wrong_results_has_no_figure(quantity, fault):
    async def faulty(item, source, limit):
        first, second, *others = source
        for index in others if fault == "loses" else [second, first, *others]:
            yield index

    tool = competitors.streaming("only-reading", "faulty", competitors.streams.iterated(faulty), stream=faulty)
    with pytest.raises(measure.WrongResult):
        asyncio.run(cells.QUANTITIES[quantity].sample(cells.Cell("nothing", 10, 2, quantity=quantity), tool))


def test_a_tool_that_gives_no_results_one_by_one_is_not_read_from():
    for quantity in cells.READ:
        [line] = measured(cells.Cell("nothing", 10, 2, quantity=quantity), ["langchain"])
        assert line == {"tool": "langchain", "not_applicable": "gives no results one by one"}


class LetsOneMoreIn(asyncio.Semaphore):
    def __init__(self, value):
        super().__init__(value + 1)


class LosesASlot(asyncio.Semaphore):
    def release(self):
        if self._value < 2:
            super().release()


class ServesTheLastFirst(asyncio.Semaphore):
    def release(self):
        self._waiters = self._waiters and type(self._waiters)(reversed(self._waiters))
        super().release()


@pytest.mark.parametrize("semaphore", [LetsOneMoreIn, LosesASlot, ServesTheLastFirst])
@pytest.mark.parametrize("work", semaphores.BY_NAME)
def test_a_semaphore_that_is_wrong_has_no_figure(work, semaphore, monkeypatch):
    monkeypatch.setitem(competitors.BY_NAME, "wrong", competitors.a_semaphore("wrong", "wrong", semaphore))
    [line] = measured(cells.Cell(work, 40, 4), ["wrong"])
    assert line["failed"].startswith("WrongCount")


def test_what_is_no_class_of_semaphores_is_not_measured_as_one():
    for work in semaphores.BY_NAME:
        [line] = measured(cells.Cell(work, 10, 2), ["langchain"])
        assert line == {"tool": "langchain", "not_applicable": "is no class of semaphores"}


async def _prepared(work, tool, count, limit):
    async with work.prepare(tool, count, limit) as call:
        return await call()


# --- The quantities -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [[0, 1], [0, 1, 3], [0, 2, 1], [0, 1, 2, 3], [0, 1, None]])
def test_a_wrong_result_is_refused(outcome):
    with pytest.raises(measure.WrongResult):
        measure.check(outcome, range(3))


def test_the_longest_stall_is_the_longest_gap_between_beats_less_the_beat():
    heartbeat = measure.Heartbeat(beats=[0.000, 0.001, 0.002, 0.012, 0.013, 0.033])
    heartbeat._entered, heartbeat._left = 0.0015, 0.033
    assert heartbeat.longest_stall() == pytest.approx(0.019)
    assert heartbeat.longest_stall(0.002, 0.013) == pytest.approx(0.009)


def test_a_stretch_without_a_beat_is_a_stall():
    heartbeat = measure.Heartbeat(beats=[0.0])
    heartbeat._entered, heartbeat._left = 0.0, 0.5
    assert heartbeat.longest_stall() == pytest.approx(0.499)


def test_turns_of_the_loop_are_counted():
    async def main():
        with measure.TurnCounter(asyncio.get_running_loop()) as counter:
            for _ in range(10):
                await asyncio.sleep(0)
        return counter.turns

    assert asyncio.run(main()) == 10


def test_traced_growth_is_the_peak_of_what_is_allocated():
    with measure.traced_growth() as growth:
        del [bytearray(1_000_000) for _ in range(1)][:]
    assert 1_000_000 < growth.bytes < 1_100_000


def test_the_server_reports_how_many_requests_it_held():
    async def main():
        server = await http_server.running()
        try:
            await server.expect(5)
            bodies = await asyncio.gather(*[server._get(f"/{index}") for index in range(5)])
            first = await server.peak()
            await server.expect(1)
            bodies += [await server._get(f"/{index}") for index in range(5)]
            return bodies, first, await server.peak()
        finally:
            await http_server.stop()

    bodies, many, one = asyncio.run(main())
    assert bodies == ["0", "1", "2", "3", "4"] * 2
    assert (many, one) == (5, 1)


def test_too_many_requests_at_once_void_a_figure():
    async def main():
        unlimited = competitors.Competitor("liar", "ignores its limit", competitors.asyncio_gather)
        try:
            async with works._counted_requests(unlimited, 5, 2) as server:
                await asyncio.gather(*[server._get(f"/{index}") for index in range(5)])
        finally:
            await http_server.stop()

    with pytest.raises(AssertionError, match="5 requests at once instead of 2"):
        asyncio.run(main())


# --- A cell ---------------------------------------------------------------------------------------------------------


def measured(cell, tools, rounds=(2, 2)):
    lines = []
    cells.measure_cell(cell, tools, harness.Rounds(*rounds), lines.append)
    return lines


def test_the_rounds_of_a_cell_are_interleaved():
    tools = [line["tool"] for line in measured(cells.Cell("nothing", 10, 2), ["langchain", "pool", "task-group"])]
    assert tools == ["langchain", "pool", "task-group", "pool", "task-group", "langchain"]


def test_what_a_tool_cannot_express_is_not_applicable():
    assert measured(cells.Cell("nothing", 10, None), ["pool"]) == [
        {"tool": "pool", "not_applicable": "cannot do without a limit"}
    ]
    assert measured(cells.Cell("sleep1ms", 10, 2), ["asyncio-gather"]) == [
        {"tool": "asyncio-gather", "not_applicable": "has no limit"}
    ]


@pytest.mark.parametrize("quantity", cells.QUANTITIES)
def test_every_quantity_has_a_figure(quantity):
    if quantity == "calls" and (reason := system_calls.no_counter()):
        pytest.skip(reason)
    tool = "gatedcoro-stream" if quantity in cells.READ else "langchain"
    if absent := competitors.BY_NAME[tool].absent():
        pytest.skip(absent)
    lines = measured(cells.Cell("sleep0", 50, 5, quantity=quantity), [tool])
    samples = [line["sample"] for line in lines]
    if parts := cells.QUANTITIES[quantity].parts:
        samples = [value for sample in samples for value in sample.values()]
        assert all(sample.keys() <= parts.keys() for sample in (line["sample"] for line in lines))
    assert samples and all(sample >= 0 for sample in samples)


def test_what_is_made_before_is_not_counted():
    [inside] = measured(cells.Cell("sleep0", 2_000, 5, quantity="traced"), ["pool"])
    [before] = measured(cells.Cell("sleep0", 2_000, 5, quantity="traced", made=cells.COROUTINES), ["pool"])
    assert before["sample"] < inside["sample"] / 2


def test_ratios_are_of_as_many_rounds_of_each():
    lines = []
    rounds = harness.Rounds(2, 1_000, seconds=0.05, paired=True)
    cells.measure_cell(cells.Cell("sleep0", 2_000, 5), ["langchain", "pool"], rounds, lines.append)
    tools = [line["tool"] for line in lines]
    assert tools.count("langchain") == tools.count("pool") >= 2


def test_a_child_says_what_went_wrong():
    with pytest.raises(harness.Failed, match="no_such_work"):
        list(cells.asked(cells.Cell("no_such_work", 10, 2), ["pool"], harness.Rounds(1, 1), sys.executable))


def test_a_child_is_asked_and_answers():
    lines = list(cells.asked(cells.Cell("nothing", 10, 2), ["pool"], harness.Rounds(2, 2), sys.executable))
    assert [line["tool"] for line in lines] == ["pool", "pool"] and all("sample" in line for line in lines)


def test_the_comparison_has_no_circles():
    """Each file imports from those before it."""
    order = ["works", "streams", "semaphores", "competitors", "cells", "figures", "summary", "plots", "report"]
    for name in order:
        tree = ast.parse(Path(cells.__file__).with_name(f"{name}.py").read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
        imported = {node.module or alias.name for node in imports for alias in node.names}
        assert imported <= set(order[: order.index(name)]), name


def test_a_tool_that_loses_a_result_fails_the_cell(monkeypatch):
    async def forgetful(item, count, limit):
        return [await item(index) for index in range(count - 1)]

    monkeypatch.setitem(competitors.BY_NAME, "pool", competitors.Competitor("pool", "forgetful", forgetful))
    lines = measured(cells.Cell("nothing", 10, 2), ["pool", "langchain"])
    assert [line for line in lines if line["tool"] == "pool"] == [
        {"tool": "pool", "failed": "WrongResult: 9 results for 10 items; the first wrong one: []"}
    ]
    assert len(lines) == 3


def test_a_result_that_is_wrong_once_voids_the_figure(monkeypatch):
    calls = []

    async def unreliable(item, count, limit):
        calls.append(None)
        return [await item(index) for index in range(count - (len(calls) == 3))]

    tool = competitors.Competitor("pool", "unreliable", unreliable)
    monkeypatch.setitem(competitors.BY_NAME, "pool", tool)
    monkeypatch.setattr(harness, "SHORTEST_SAMPLE", 0.0)
    lines = measured(cells.Cell("nothing", 10, 2), ["pool"], rounds=(5, 5))
    assert ["sample" in line for line in lines] == [True, False] and "WrongResult" in lines[1]["failed"]


# --- Batches of LangChain -----------------------------------------------------------------------------------------

needs_langchain = pytest.mark.skipif(find_spec("langchain_core") is None, reason="needs langchain-core")
others_deprecations = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


@needs_langchain
@others_deprecations
@pytest.mark.parametrize(
    ("function", "column"),
    [(name, column) for name, function in langchain_abatch.FUNCTIONS.items() for column in function.columns],
)
def test_a_batch_has_its_figures_in_every_column(function, column):
    try:
        figures = langchain_abatch.measure_cell(function, column, 30, 3)
        assert gatedcoro.langchain.installed() == (column == "swapped")
    finally:
        gatedcoro.langchain.uninstall()
    # In a process that is not fresh, memory may have shrunk.
    assert figures.keys() == {"seconds", "bytes", "stall"} and figures["seconds"] > 0 and figures["stall"] >= 0


@pytest.mark.parametrize(
    "outputs", [[(0, "a")], [(0, "a"), (0, "a")], [(0, "b"), (1, "a")], [(0, "a"), (1, "b"), (1, "b")]]
)
def test_a_wrong_batch_as_completed_has_no_figure(outputs):
    function = langchain_abatch.FUNCTIONS["abatch_as_completed"]
    function.check([(1, "b"), (0, "a")], ["a", "b"])
    with pytest.raises(measure.WrongResult):
        function.check(outputs, ["a", "b"])


@needs_langchain
@others_deprecations
@pytest.mark.parametrize("situation", langchain_abatch.SITUATIONS, ids=lambda situation: situation.title)
def test_the_calls_that_are_saved_are_those_of_the_documentation(situation):
    calls = [langchain_abatch.calls_made(situation, way) for way in langchain_abatch.WAYS]
    assert calls[0] == langchain_abatch.CALLED and max(calls[1:]) <= 25 + langchain_abatch.AT_ONCE
    row = " | ".join([f"`{situation.function}`", situation.title, *map(str, calls)])
    assert f"| {row} |" in (Path(__file__).parents[2] / "docs" / "langchain.md").read_text(encoding="utf-8")


# --- The report -----------------------------------------------------------------------------------------------------

PYTHON = "CPython 3.13.0"


def made_up(scale=1.0):
    """Results in which the pool is ahead where items do nothing."""
    results = figures.Results(
        "2026-01-01",
        "python -m benchmarks report",
        {"cpu": "a CPU", "cores": 2, "system": "Linux 6", "architecture": "x86_64"},
        [{"name": PYTHON, "build": "CPython 3.13.0 (GCC, PGO)", "versions": {}}],
        False,
    )
    medians = {"gatedcoro": 1.0, "langchain": 9.0, "pool": 1.5}
    for work in figures.BASIC_WORKS:
        for count in (10, 100, 1_000, 10_000):
            for limit in (1, 10, None):
                for tool, micros in medians.items():
                    if limit is None and tool == "pool":
                        results.add_reason("not_applicable", (PYTHON, cells.Cell(work, count, limit), tool), "no limit")
                        continue
                    if work == "nothing" and tool == "pool":
                        micros = 0.5
                    factor = scale if tool == "gatedcoro" else 1.0
                    samples = [micros * factor * noise for noise in (0.99, 1.0, 1.01, 1.0)]
                    results.samples[PYTHON, cells.Cell(work, count, limit), tool] = samples
    for quantity in ("rss", "stall", "turns"):
        for count in (1_000, 10_000):
            for tool, value in medians.items():
                results.samples[PYTHON, cells.Cell("sleep0", count, 10, quantity=quantity), tool] = [value]
    return results


def test_results_survive_json():
    results = made_up()
    assert figures.Results.from_json(json.loads(json.dumps(results.as_json()))) == results


def test_the_tool_that_is_ahead_is_shown_first():
    text = summary.written(made_up())
    assert text.index("## Where another tool is ahead") < text.index(
        "| pool of n workers | time: nothing, N=10,000, n=10"
    )
    assert text.index("| pool of n workers | time: nothing") < text.index("## What each gives up")
    assert "2.00x" in text


def test_nothing_is_said_to_be_ahead_of_what_was_not_measured():
    results = made_up()
    results.samples = {key: samples for key, samples in results.samples.items() if key[2] != "gatedcoro"}
    assert "was not there" in summary.faster_than_ours(results)


def test_a_cell_without_a_figure_says_why():
    assert "| pool of n workers | 0.50 ±0% | 0.50 ±0% | n/a |" in summary.axis_table(
        made_up(), PYTHON, [cells.Cell("nothing", 10_000, limit) for limit in (1, 10, None)], str
    )
    assert "Not applicable: pool of n workers: no limit (12 cells, such as time: nothing, N=10" in summary.not_measured(
        made_up()
    )


def test_the_readme_section_names_command_machine_and_date():
    text = summary.readme_section(made_up())
    assert all(words in text for words in ("python -m benchmarks report", "a CPU", "2026-01-01", "overview.svg"))


def test_a_comparison_says_only_what_is_more_than_noise():
    assert "Nothing changed" in summary.compared(made_up(), made_up(1.02))
    slower = summary.compared(made_up(), made_up(1.5))
    assert "| **gatedcoro** |" in slower and "1.50x" in slower and "| LangChain's helper |" not in slower


def test_a_machine_that_was_slower_is_no_change():
    slow_machine = made_up()
    slow_machine.samples = {
        key: [1.5 * sample for sample in samples] if key[1].quantity != "turns" else samples
        for key, samples in slow_machine.samples.items()
    }
    assert "Nothing changed" in summary.compared(made_up(), slow_machine)


def test_growth_of_the_time_per_item_is_expected_to_go_on():
    results = made_up()
    for count, micros in ((1_000, 10.0), (10_000, 100.0)):
        results.samples[PYTHON, cells.Cell("sleep0", count, 10), "langchain"] = [micros]
    seconds = report.predicted(results, PYTHON, cells.Cell("sleep0", 100_000, 10), "langchain")
    assert seconds == pytest.approx(100.0)
    assert report.predicted(results, PYTHON, cells.Cell("queue", 1_000, 10), "langchain") is None


def test_a_cell_that_would_take_too_long_is_skipped_and_listed():
    results = made_up()
    cell = cells.Cell("sleep0", 10_000_000, 10)
    job = report.Job(harness.Python("no-such-python", PYTHON), cell, ["langchain"], "a title")
    report.run(job, report.FULL, results)
    assert results.reasons["skipped"][PYTHON, cell, "langchain"] == "predicted to take 90 s"


def test_every_cell_is_planned_once():
    for scale in (report.FULL, report.QUICK):
        pythons = [harness.Python("a", "CPython 3.13.0"), harness.Python("b", "CPython 3.14.0")]
        planned = [
            (job.python.name, job.cell, tool)
            for job in report.plan(pythons, scale, ["pool", "langchain"])
            for tool in job.tools
        ]
        assert len(planned) == len(set(planned))


def test_the_plots_are_drawn_as_svg_and_png(tmp_path):
    plots = pytest.importorskip("benchmarks.compare.plots", reason="matplotlib is not installed")
    drawn = plots.draw_all(made_up(), tmp_path)
    assert {"overview", "time-against-count", "time-against-limit", "memory-against-count"} <= set(drawn)
    for name in drawn:
        assert (tmp_path / f"{name}.svg").stat().st_size > 1_000
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("value", "shown"), [(1, "1"), (10_000, "10,000"), (1e6, "1,000,000"), (0.5, "0.5"), (0.05, "0.05"), (2.5, "2.5")]
)
def test_axes_have_plain_numbers(value, shown):
    plots = pytest.importorskip("benchmarks.compare.plots", reason="matplotlib is not installed")
    assert plots.plain_number(value) == shown


def test_results_hold_no_path():
    results = made_up()
    results.pythons = [{"name": PYTHON, "build": measure.build(), "versions": measure.versions()}]
    assert sys.executable not in json.dumps(results.as_json())


# --- Goals and instructions ------------------------------------------------------------------------------------------


def test_a_goal_is_met_at_nine_tenths_of_it():
    goal = goals.Goal("contest", "title", harness.ratio("theirs", "ours"), {"3.13": 8.0})
    assert goal.met(7.2, "3.13") and not goal.met(7.19, "3.13") and goal.met(9.0, "3.12") is None
    most = goals.Goal("contest", "title", harness.ratio("theirs", "ours"), {"": 1.1}, at_most=True)
    assert most.met(1.1, "3.12") and not most.met(1.11, "3.12")


def test_a_ratio_is_the_median_of_the_rounds():
    assert harness.ratio("theirs", "ours")({"theirs": [10.0, 30.0, 90.0], "ours": [1.0, 10.0, 10.0]}) == 9.0
    assert harness.difference("ours", "pool")({"ours": [1.0, 2.0, 3.0], "pool": [0.9, 1.7, 2.8]}) == pytest.approx(0.2)


def test_every_goal_has_its_contest():
    names = {contest.name for contest in goals.CONTESTS}
    assert {goal.contest for goal in goals.GOALS} <= names
    assert len(names) == len(goals.CONTESTS)
    assert len({goal.title for goal in goals.GOALS}) == len(goals.GOALS)


@pytest.mark.parametrize("contest", goals.CONTESTS, ids=lambda contest: contest.name)
def test_every_tool_of_a_contest_can_be_measured_in_it(contest, monkeypatch):
    if reasons := [
        without for tool in contest.tools if (without := cells.why_not(contest.cell, competitors.BY_NAME[tool]))
    ]:
        assert {kind for kind, _ in reasons} == {"absent"}
        pytest.skip(reasons[0][1])
    monkeypatch.setattr(harness, "SHORTEST_SAMPLE", 0.0)
    lines = measured(dataclasses.replace(contest.cell, count=50), list(contest.tools), rounds=(1, 1))
    assert {line["tool"] for line in lines} == set(contest.tools)
    assert all("sample" in line for line in lines), lines


def test_the_documentation_shows_every_goal_of_semaphores():
    shown = {(contest, f"{contest}: {over} / {under}") for _, contest, over, under in goals.IN_THE_DOCUMENTATION}
    assert shown == {(goal.contest, goal.title) for goal in goals.GOALS if "semaphore" in goal.contest}
    measured = goals.Measured("build")
    for _, contest, over, under in goals.IN_THE_DOCUMENTATION:
        measured.figures[f"{contest}: {over} / {under}"] = [3.0, 2.0, 4.0]
        measured.medians.setdefault(contest, {}).update({over: [6.0], under: [2.0]})
    page = goals.documented([(harness.Python("", "CPython 3.13.0"), measured)], "goals --docs")
    assert page.count("| 6 / 2 = 3 |") == len(shown) and "CPython 3.13.0" in page


def test_a_part_of_a_page_is_replaced_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!--- of --->\nold\n<!--- end of of --->\nafter\n")
    parts.write(page, "of", "new\n")
    assert page.read_text() == "before\n<!--- of --->\n\nnew\n\n<!--- end of of --->\nafter\n"
    with pytest.raises(ValueError, match="no part other"):
        parts.write(page, "other", "new\n")


def test_the_path_that_grew_is_named():
    grown, notes = instructions.compared(
        {"a": 110.0, "b": 102.0, "c": 90.0, "d": 5.0}, {"a": 100.0, "b": 100.0, "c": 100.0}, 0.03
    )
    assert grown == ["a: 100 -> 110 instructions per item (+10.0%, tolerance 3%)"]
    assert [note.split(":")[0] for note in notes] == ["c", "d"]


def test_the_stored_baseline_names_paths_that_exist():
    if not instructions.BASELINE.exists():
        pytest.skip("no baseline is stored")
    stored = json.loads(instructions.BASELINE.read_text())
    assert 0 < stored["tolerance"] < 0.2
    for counts in stored["baselines"].values():
        assert set(counts) <= set(instructions.PATHS)
