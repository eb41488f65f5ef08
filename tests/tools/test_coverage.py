"""coverage, by each of its cores, and a trace function: the lines and branches of items are seen as with the usual recipe."""

import sys

import pytest

from in_subprocess import check_script
from tools import needs

needs("coverage")

pytestmark = pytest.mark.usefixtures("any_turns")

ITEMS = """
import asyncio


async def item(i):
    if i % 2:
        await asyncio.sleep(0)
        kind = "odd"
    else:
        kind = "even"
    for _ in range(i % 3):
        await asyncio.sleep(0)
    try:
        if i == 4:
            raise LookupError(i)
        value = await inner(i)
    except LookupError:
        value = -1
    finally:
        kind += "!"
    async with Manager() as entered:
        assert entered
    async for number in numbers(i):
        value += number
    return kind, value


async def inner(i):
    if i > 100:
        return "never"
    await asyncio.sleep(0)
    return i


class Manager:
    async def __aenter__(self):
        await asyncio.sleep(0)
        return True

    async def __aexit__(self, *exception):
        if exception[0] is not None:
            return "never"
        await asyncio.sleep(0)


async def numbers(count):
    for number in range(count):
        yield number
        await asyncio.sleep(0)


async def cancelled():
    try:
        await asyncio.sleep(3600)
        return "never"
    except asyncio.CancelledError:
        await asyncio.sleep(0)
        raise
"""

USE = """
from doors import all_doors, cancelled_after
folder = sys.argv[1]
sys.path.insert(0, folder)
file = folder + "/items.py"

async def use(call, limit):
    import items
    got = await call(limit, [lambda i=i: items.item(i) for i in range(6)])
    assert got == [("even!", 0), ("odd!", 1), ("even!", 3), ("odd!", 6), ("even!", 5), ("odd!", 15)], got
    await cancelled_after(4, call(limit, [items.cancelled] * (limit or 2)))

"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "items.py").write_text(ITEMS)
    return str(tmp_path)


CORES = {
    "ctrace": ("ctrace", False),
    "ctrace, branches": ("ctrace", True),
    "pytrace": ("pytrace", False),
    "pytrace, branches": ("pytrace", True),
    "sysmon": ("sysmon", False),
    **({"sysmon, branches": ("sysmon", True)} if sys.version_info >= (3, 14) else {}),
}


@pytest.mark.parametrize("core", CORES)
def test_lines_and_branches_of_items(impl, folder, core):
    core, branch = CORES[core]
    script = (
        USE
        + f"""
import coverage

def covered(call, limit):
    sys.modules.pop("items", None)
    measure = coverage.Coverage(data_file=None, config_file=False, branch={branch}, include=[file], messages=False)
    measure.start()
    asyncio.run(use(call, limit))
    measure.stop()
    assert dict(measure.sys_info())["core"].lower().startswith({core!r}[:5]), dict(measure.sys_info())["core"]
    _, statements, _, missing, _ = measure.analysis2(file)
    data = measure.get_data()
    return len(statements), missing, sorted(data.arcs(file) or [])

for limit in 1, 2, None:
    expected = None
    for name, call in all_doors(impl):
        got = covered(call, limit)
        if expected is None:
            expected = got
            statements, missing, arcs = got
            assert statements > 40 and [open(file).readlines()[line - 1].strip() for line in missing] == ['return "never"'] * 3
            assert bool(arcs) == {branch}
        assert got == expected, (name, limit, got, expected)
print("ok")
"""
    )
    check_script(impl, script, arguments=[folder], environment={"COVERAGE_CORE": core}, warnings_are_errors=False)


def test_a_trace_function_sees_what_it_sees_with_the_recipe(impl, folder):
    """By items one after another, all that happens in their file: calls, lines, returns and exceptions, in that order."""
    script = (
        USE
        + """
def traced(call):
    sys.modules.pop("items", None)
    seen = []

    def trace(frame, event, argument):
        if frame.f_code.co_filename != file:
            return None
        if event in ("return", "exception"):
            argument = type(argument).__name__ if event == "return" else argument[0].__name__
        seen.append((event, frame.f_code.co_name, frame.f_lineno, argument))
        return trace

    sys.settrace(trace)
    try:
        asyncio.run(use(call, 1))
    finally:
        sys.settrace(None)
    return seen

expected = None
for name, call in all_doors(impl):
    got = traced(call)
    assert len(got) > 200
    if expected is None:
        expected = got
    assert got == expected, name
print("ok")
"""
    )
    check_script(impl, script, arguments=[folder], warnings_are_errors=False)


def test_profiled_and_traced_in_threads_too(impl, folder):
    script = (
        USE
        + """
import threading
counts = {}

def profile(frame, event, argument):
    if frame.f_code.co_filename == file:
        counts[event, frame.f_code.co_name] = counts.get((event, frame.f_code.co_name), 0) + 1

def profiled(call, limit):
    sys.modules.pop("items", None)
    counts.clear()
    threading.setprofile(profile)
    thread = threading.Thread(target=lambda: asyncio.run(use(call, limit)))
    thread.start()
    thread.join()
    threading.setprofile(None)
    return dict(counts)

for limit in 1, 2, None:
    expected = None
    for name, call in all_doors(impl):
        got = profiled(call, limit)
        if expected is None:
            expected = got
        assert got and got == expected, (name, limit, got, expected)
print("ok")
"""
    )
    check_script(impl, script, arguments=[folder], warnings_are_errors=False)
