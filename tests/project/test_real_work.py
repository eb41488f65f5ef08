"""`python -m benchmarks real` measures what it says: results and limits are checked at the server. (No time is asserted.)"""

import argparse
import asyncio
import dataclasses
import functools
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from benchmarks import harness, http_server, measure, system_calls
from benchmarks.compare import cells, competitors, figures
from benchmarks.http_server import Kind
from benchmarks.real import report, rows, servers, works
from effort import SHORT

pytestmark = pytest.mark.skipif(SHORT, reason="nothing here is about the build")

ROOT = Path(__file__).parents[2]
every_work = pytest.mark.parametrize("work", works.WORKS, ids=lambda work: work.name)
CHECKED_BY_THE_SERVER = [work for work in works.WORKS if work.first is not None]
checked_by_the_server = pytest.mark.parametrize("work", CHECKED_BY_THE_SERVER, ids=lambda work: work.name)


def measured(cell, tools, rounds=1):
    lines = []
    cells.measure_cell(cell, tools, harness.Rounds(rounds, rounds), lines.append)
    return lines


def skip_without(work):
    if reason := work.missing():
        pytest.skip(reason)
    if work.within:
        pytest.skip("runs in a network namespace of its own")


# --- The works ------------------------------------------------------------------------------------------------------


@every_work
def test_a_work_gives_every_result_and_keeps_the_limit(work):
    skip_without(work)
    [line] = measured(cells.Cell(work.name, 25, 10, quantity="parts"), ["langchain"])
    assert line["sample"].keys() == cells.QUANTITIES["parts"].parts.keys()


async def first_run(work, run):
    tool = competitors.Competitor("liar", "keeps another limit", run)
    try:
        async with work.first(tool, 12, 5) as call:
            await call()
    finally:
        await works.close()


async def one_more(item, count, limit):
    return await competitors.BY_NAME["langchain"].run(item, count, limit + 1)


async def one_less(item, count, limit):
    return await competitors.BY_NAME["langchain"].run(item, count, limit - 1)


@checked_by_the_server
def test_the_server_sees_too_many_at_once(work):
    skip_without(work)
    if work.name == "asyncpg":
        pytest.skip("its pool has as many connections as the limit")
    with pytest.raises(AssertionError, match=r"6 (requests )?at once instead of 5"):
        asyncio.run(first_run(work, one_more))


@pytest.mark.parametrize("name", ["aiohttp", "asyncpg", "redis"])
def test_the_server_sees_too_few_at_once(name, monkeypatch):
    if name == "aiohttp":
        work = works.http(name, "a title", works.aiohttp_client, "aiohttp", Kind(delay=0, patience=0.3))
    else:
        work = works.BY_NAME[name]
    skip_without(work)
    monkeypatch.setattr(works, "PATIENCE", 0.3)
    with pytest.raises(AssertionError, match=r"4 (requests )?at once instead of 5"):
        asyncio.run(first_run(work, one_less))


def test_too_many_items_at_once_void_a_sample():
    cell = cells.Cell("sleep0", 10, 3, quantity="parts")
    with pytest.raises(AssertionError, match="liar: 4 items at once instead of 3"):
        asyncio.run(cells.sample_parts(cell, competitors.Competitor("liar", "one more", one_more)))


@pytest.mark.parametrize("kind", [Kind(delay=0), Kind(delay=0, awake=True), Kind(delay=0.001), Kind(delay=0, tls=True)])
def test_a_server_of_each_kind_answers(kind):
    if kind.tls:
        pytest.importorskip("trustme")

    async def main():
        server = await http_server.running(kind)
        try:
            await server.expect(3)
            bodies = await asyncio.gather(*[server._get(f"/{index}") for index in range(3)])
            return bodies, await server.peak()
        finally:
            await http_server.stop()

    assert asyncio.run(main()) == (["0", "1", "2"], 3)


def test_servers_run_on_other_cores():
    if measure.cores() is None:
        pytest.skip("there are no two cores")

    async def main():
        server = await http_server.running()
        try:
            return os.sched_getaffinity(server.process.pid), os.sched_getaffinity(0)
        finally:
            await http_server.stop()

    before = os.sched_getaffinity(0)
    with measure.on_a_core_of_its_own():
        theirs, ours = asyncio.run(main())
    assert len(ours) == 1 and not ours & theirs and ours | theirs == before == os.sched_getaffinity(0)


@pytest.mark.parametrize("server", [servers.redis, servers.postgres], ids=lambda server: server.__name__)
def test_a_server_is_gone_when_it_was_put_away(server):
    if reason := {servers.redis: servers.no_redis, servers.postgres: servers.no_postgres}[server]():
        pytest.skip(reason)

    async def main():
        async with server() as where:
            port = where if isinstance(where, int) else int(where.rpartition(":")[2].partition("/")[0])
            assert servers.accepts(port)
        assert not servers.accepts(port)

    asyncio.run(main())


# --- The quantities -------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_turn_lasts_from_one_answer_of_the_selector_to_the_next_question(monkeypatch):
    wall, own = Clock(), Clock()
    monkeypatch.setattr(measure, "time", types.SimpleNamespace(perf_counter=wall, thread_time=own))

    async def main():
        loop = asyncio.get_running_loop()
        select = loop._selector.select

        def slow(timeout=None):
            wall.now += 100.0
            return select(timeout)

        loop._selector.select = slow
        with measure.TurnCounter(loop) as counter:
            for number in range(5):
                wall.now += number
                own.now += number / 2
                await asyncio.sleep(0)
        return counter

    counter = asyncio.run(main())
    assert (counter.turns, counter.longest, counter.longest_own) == (5, 4.0, 2.0)


def test_system_calls_are_counted():
    if reason := system_calls.no_counter():
        pytest.skip(reason)

    async def main():
        sink = os.open(os.devnull, os.O_WRONLY)
        async with system_calls.counted() as counted:
            for _ in range(1_000):
                os.write(sink, b"x")
        os.close(sink)
        return counted

    counted = asyncio.run(main())
    assert 1_000 <= counted["sends"] <= 1_020 and counted["calls"] >= counted["sends"] + counted["polls"]


def test_the_extension_of_another_checkout_is_measured_beside_this_one():
    pytest.importorskip("gatedcoro._core")
    other = competitors.of_another_checkout(str(ROOT))
    assert other.gather is not competitors.BY_NAME["gatedcoro"].gather
    cell = cells.Cell("sleep0", 20, 5, quantity="parts")
    lines = list(cells.asked(cell, ["gatedcoro", other.name], harness.Rounds(2, 2), sys.executable, against=str(ROOT)))
    assert [line["tool"] for line in lines] == ["gatedcoro", "before", "before", "gatedcoro"]
    assert all("sample" in line for line in lines)


def test_what_a_measuring_process_is_started_within_reaches_it():
    within = ("sh", "-c", 'MARK=there exec "$@"', "sh")
    lines = list(
        cells.asked(cells.Cell("nothing", 5, 2), ["pool"], harness.Rounds(1, 1), sys.executable, within=within)
    )
    assert "sample" in lines[0]


# --- Rows, goals, the report ------------------------------------------------------------------------------------------


def test_every_work_is_in_a_row_and_every_cell_is_planned_once():
    assert {row.work for row in rows.ROWS} == set(works.BY_NAME)
    for quick in (False, True):
        planned = [cell for row in rows.ROWS for cell in row.cells(quick)]
        assert len(planned) == len(set(planned))
        assert all(cell.count >= 2 * cell.limit for cell in planned)


def test_a_goal_compares_with_the_best_of_the_others():
    goal = rows.Goal("wall", 1.03, ("langchain", "pool"))
    samples = {"gatedcoro": [10.0, 20.0, 30.0], "langchain": [11.0, 22.0, 33.0], "pool": [8.0, 16.0, 24.0]}
    assert goal.figure(samples) == 1.25 and not goal.met(1.25) and goal.met(1.03)
    assert goal.figure({"gatedcoro": [1.0], "langchain": [1.0]}) is None
    assert rows.Goal("wall", 1.0, ("before",)).figure(samples) is None


def test_every_goal_is_about_a_part_and_known_tools():
    for row in rows.ROWS:
        for goal in row.goals:
            assert goal.part in cells.PARTS and set(goal.of) <= {*row.tools, competitors.BEFORE}
            assert set(goal.limits) & set(row.limits) or row.limits == rows.FEW
    assert {*rows.BY_PROCESSOR_TIME, *rows.BY_PROCESSOR_TIME.values()} <= set(cells.PARTS)


def made_up(ours=1.0):
    results = figures.Results(
        "2026-01-01",
        "python -m benchmarks real",
        {"cpu": "a CPU", "cores": 2, "system": "Linux 6", "architecture": "x86_64", "notes": ["No notes."]},
        [{"name": "CPython 3.13.0", "build": "CPython 3.13.0 (GCC)", "versions": {}}],
        False,
    )
    for limit in (10, 1_000):
        for part in (*cells.QUANTITIES["parts"].parts, "calls", "sends"):
            for tool in ("gatedcoro", "langchain", "lazy-pump", "pool", "before"):
                cell = cells.Cell("redis", 2_000, limit, quantity=part)
                value = ours if tool == "gatedcoro" else 1.0
                results.samples["CPython 3.13.0", cell, tool] = [value, value * 1.01]
    results.add_reason(
        "absent", ("CPython 3.13.0", cells.Cell("asyncpg", 2_000, 10, quantity="parts"), "pool"), "no such thing"
    )
    return results


@pytest.mark.parametrize(("ours", "missed"), [(1.0, 0), (1.2, 7)])
def test_the_report_says_which_goals_are_missed(ours, missed):
    results = made_up(ours)
    text = report.written(results, processor_time=False)
    assert text.count("**no**") == missed and f"{7 - missed} of 7 met" in text
    assert "a command, redis-py, N=2,000, n=10" in text and "no such thing" in text
    assert text.startswith(report.FIGURES) and report.FIGURES in report.PAGE.read_text()


def test_by_processor_time_a_part_is_judged_once():
    found = [(one.goal.part, one.cell.limit) for one in report.judged(made_up(), True)]
    assert ("wall", 10) not in found and len(found) == len(set(found)) == 6


@pytest.mark.parametrize(("goals", "status"), [([], 0), (["--goals"], 1)])
def test_a_missed_goal_is_an_exit_status_where_it_is_asked_for(goals, status, tmp_path, capsys):
    made_up(1.2).save(tmp_path)
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    assert report.main(parser.parse_args(["--redraw", "--output", str(tmp_path), *goals])) == status
    assert "MISSED" in capsys.readouterr().out and (tmp_path / "summary.md").exists()


def test_what_there_is_not_is_an_exit_status_and_a_sentence(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    assert report.main(parser.parse_args(["--only", "no such row", "--quick", "--output", str(tmp_path)])) == 2
    assert "no row" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="without --redraw first"):
        report.main(parser.parse_args(["--redraw", "--output", str(tmp_path / "nothing")]))


def test_the_command_runs(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "real", "--quick", "--only", "aiosqlite", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "results.json").read_text())["quick"]


def test_notes_say_what_the_machine_cannot_show(monkeypatch):
    monkeypatch.setattr(works, "no_netem", functools.partial(str, "no such kernel"))
    monkeypatch.setattr(system_calls, "perf_counts", frozenset)
    monkeypatch.setattr(system_calls, "_strace_attaches", bool)
    monkeypatch.setattr(measure, "cores", lambda: None)
    text = " ".join(report.notes(calls=True))
    assert "no such kernel" in text and "neither perf" in text and "share what cores there are" in text
    assert "neither perf" not in " ".join(report.notes(calls=False))


def test_an_absent_package_or_server_is_named():
    work = dataclasses.replace(works.BY_NAME["redis"], needs="redis no_such_package")
    assert work.missing() in ("no_such_package is not installed", "redis is not installed")
    assert dataclasses.replace(work, needs=None, without=lambda: "no server").missing() == "no server"
