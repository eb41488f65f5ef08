"""The whole programs of the benchmarks: every variant does the same work, and what the documentation says of errors and Ctrl-C is so."""

import asyncio
import contextlib
import io
import sys
from pathlib import Path

import pytest

from benchmarks import harness, http_clients, measure, parts
from benchmarks.compare import competitors
from benchmarks.programs import cases, child, report, server as service
from benchmarks.programs.cases import OURS, PROGRAMS
from effort import SHORT

ROOT = Path(__file__).parents[2]
VARIANTS = [(name, variant) for name, program in PROGRAMS.items() for variant in program.variants]
COUNTS = {"crawl": 60, "llm": 80, "import": 10_000}
FAIL_AT = {"crawl": 30, "llm": 55, "import": 5}

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a signal"),
    pytest.mark.skipif(SHORT, reason="nothing here is about the build"),
]
every_variant = pytest.mark.parametrize(("name", "variant"), VARIANTS)


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("aiohttp", reason="the server is aiohttp's")
    with service.running() as running:
        yield running


def run_of(name, server, folder):
    program = PROGRAMS[name]
    if missing := program.missing():
        pytest.skip(missing)
    return child.Run(program, server, COUNTS[name], folder)


# --- The same work ----------------------------------------------------------------------------------------------------


@every_variant
def test_a_program_does_all_of_its_work_within_its_limit(name, variant, server, tmp_path):
    assert asyncio.run(run_of(name, server, tmp_path).timed(variant)) > 0


@every_variant
def test_a_program_is_one_that_people_would_write(name, variant):
    path = PROGRAMS[name].path(variant)
    source = path.read_text()
    assert 20 <= cases.lines_of_code(source) <= 60
    assert f"python -m benchmarks.programs.{path.stem} " in source and "from .." not in source
    assert path.name in (ROOT / "docs" / "programs.md").read_text()


def test_every_program_ends_with_ours():
    assert [list(program.variants)[-1] for program in PROGRAMS.values()] == [OURS] * len(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_variants_of_a_program_have_the_same_limits(name):
    if missing := PROGRAMS[name].missing():
        pytest.skip(missing)
    modules = [PROGRAMS[name].module(variant) for variant in PROGRAMS[name].variants]
    constants = [{key: value for key, value in vars(module).items() if key.isupper()} for module in modules]
    assert all(constants[0] == others for others in constants)


def test_a_page_that_is_missing_voids_a_run(server, tmp_path):
    run = run_of("crawl", server, tmp_path)
    arguments = run.prepared()
    with pytest.raises(measure.WrongResult, match="0 results for 60 items"):
        run.program.check(server, arguments, run.count, {}, 20)


def test_too_many_requests_at_once_void_a_run(server, tmp_path):
    run = run_of("crawl", server, tmp_path)
    arguments = run.prepared()
    titles = asyncio.run(run.program.module(OURS).main(*arguments))
    with pytest.raises(measure.WrongResult, match="requests at once instead of 2"):
        run.program.check(server, arguments, run.count, titles, 2)


def test_the_model_refuses_what_is_above_its_rate():
    model = service.Service()
    assert [model.within_the_rate() for _ in range(service.RATE)] == [True] * service.RATE
    refused = [model.within_the_rate() for _ in range(service.RATE)].count(False)
    assert refused == model.refused > 0


# --- Lines of code ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("", 0),
        ("a = 1\n", 1),
        ("# a comment\n\na = 1  # another\n", 1),
        ('"""A docstring\n\nof three lines."""\n\na = 1\n', 1),
        ('def f():\n    """A docstring."""\n    return """two\nlines"""\n', 3),
        ("f(\n    1,\n\n    # a comment\n    2,\n)\n", 4),
        ("a = 1; b = 2\n", 1),
        ("if a:\n    b = (1 +\n         2)\n", 3),
    ],
)
def test_lines_of_code_are_those_that_hold_code(source, lines):
    assert cases.lines_of_code(source) == lines


# --- Errors and Ctrl-C --------------------------------------------------------------------------------------------------


def after_an_error(name, variant, server, folder):
    run = run_of(name, server, folder)
    lines = []
    with contextlib.redirect_stderr(io.StringIO()):
        asyncio.run(run.into_an_error(variant, FAIL_AT[name], 1.0, lines.append))
    return lines[0]


@pytest.mark.parametrize(
    ("name", "error"), [("crawl", "ClientResponseError"), ("llm", "HTTPStatusError"), ("import", "IntegrityError")]
)
def test_with_ours_an_error_is_raised_as_it_is_and_nothing_goes_on(name, error, server, tmp_path):
    found = after_an_error(name, OURS, server, tmp_path)
    assert (found["told"], found["running"]) == (error, 0)
    # what was on its way when the server answered
    assert found["gone_on"] <= (0 if name == "import" else PROGRAMS[name].at_once(OURS))


@pytest.mark.parametrize(
    ("name", "error"), [("crawl", "ClientResponseError"), ("llm", "HTTPStatusError"), ("import", "IntegrityError")]
)
def test_with_a_task_group_an_error_is_in_a_group_and_nothing_goes_on(name, error, server, tmp_path):
    found = after_an_error(name, "taskgroup", server, tmp_path)
    assert found["told"].startswith("ExceptionGroup of") and error in found["told"]
    assert found["running"] == 0


def test_workers_over_a_queue_hide_an_error(server, tmp_path):
    found = after_an_error("crawl", "workers", server, tmp_path)
    assert (found["told"], found["running"]) == ("no error", 0)


def test_with_gather_requests_go_on_after_an_error_and_their_answers_are_lost(server, tmp_path):
    found = after_an_error("llm", "gather", server, tmp_path)
    assert found["told"] == "HTTPStatusError"
    assert server.counts()["arrived"] == COUNTS["llm"]
    assert int(found["lost"].split()[0]) > 1


def test_with_gather_an_import_writes_on_after_it_has_rolled_back(server, tmp_path):
    found = after_an_error("import", "gather", server, tmp_path)
    assert found["told"] == "IntegrityError" and found["gone_on"] > 0
    assert found["lost"] == f"{found['gone_on']:,} rows left"  # by the next commit


@pytest.mark.parametrize("name", PROGRAMS)
def test_ctrl_c_ends_ours_at_once_and_in_order(name, server):
    if missing := PROGRAMS[name].missing():
        pytest.skip(missing)
    found = report.Asked(PROGRAMS[name], server, report.QUICK).interrupt(OURS)
    assert (found["running"], found["said"]) == (0, "-")
    if name == "import":
        assert found["lost"] == "0 rows left"


def test_complaints_are_counted_by_kind():
    said = "coroutine 'f' was never awaited\nTask was destroyed but it is pending!\ncoroutine 'g' was never awaited\n"
    assert report.complaints(said) == "was never awaited (2), was destroyed but it is pending (1)"
    assert report.complaints("KeyboardInterrupt\n") == "-"


# --- What is written --------------------------------------------------------------------------------------------------


def test_a_part_of_a_page_is_written_anew(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!--- a part --->\nold\n<!--- end of a part --->\nafter\n")
    parts.write(page, "a part", "new\n")
    assert page.read_text() == "before\n<!--- a part --->\n\nnew\n\n<!--- end of a part --->\nafter\n"
    with pytest.raises(ValueError, match="no part another"):
        parts.write(page, "another", "new\n")


@pytest.mark.parametrize("part", [report.PART, http_clients.PART])
def test_the_page_has_the_parts_that_commands_write(part, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(parts.PROGRAMS.read_text())
    parts.write(page, part, "new\n")
    assert "\nnew\n" in page.read_text()


def test_columns_of_words_are_not_set_as_figures():
    assert parts.table(["", "a", "words"], [["x", "1", "y"]], ("words",)).splitlines()[1] == "| --- | ---: | --- |"


# --- Clients ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", http_clients.CLIENTS)
def test_every_client_is_measured(name, server):
    module = http_clients.CLIENTS[name][0]
    pytest.importorskip(module)
    found = http_clients.measured(server, 30, 5, [name], harness.Rounds(1, 1), competitors.BY_NAME[OURS])
    [sample] = found[name]
    assert sample.seconds > 0 and sample.opened >= 100 * 5 / 30
    # at the start and at the end of each request, at least
    assert sample.passes >= 2 and 0 < sample.part < 1 if module == "httpx" else sample.passes == sample.part == 0


def test_a_table_has_a_row_for_each_client_and_a_column_for_each_limit():
    samples = {name: [http_clients.Sample(0.001, 0.02, 10.0, 2.5, 0.25)] for name in http_clients.CLIENTS}
    rows = http_clients.written({10: samples, 50: samples}).splitlines()
    assert rows[2] == "| httpx | 1.00 | 1.00 | 20.0 | 2.5 | 25% | 10 |"
    assert len(rows) == 2 + len(http_clients.CLIENTS)
