"""Something else may stand in the place of what is used of asyncio: an instrumented version, unittest.mock's, an object of another kind.

Then nothing is cut short that it would have allowed to cut short, and the general way works; at worst the import fails in clear
words. Whether the replacement comes before the import, lasts only while it takes place, or comes after it.
"""

import ast
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import types

import pytest

import gatedcoro
from effort import SHORT
from implementations import package_parent
from in_subprocess import check_script

TESTS = pathlib.Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
PROGRAM = TESTS / "support" / "stand_in_program.py"

NAMES = {
    "asyncio": """BaseEventLoop BoundedSemaphore CancelledError Future Semaphore Task _get_running_loop base_events
        base_futures coroutines current_task events exceptions future_add_to_awaited_by future_discard_from_awaited_by
        futures gather get_event_loop get_running_loop iscoroutine isfuture locks tasks wait""",
    "asyncio.base_events": "BaseEventLoop",
    "asyncio.base_futures": "isfuture",
    "asyncio.coroutines": "_is_coroutine iscoroutine",
    "asyncio.events": "_get_event_loop _get_running_loop _set_running_loop get_event_loop get_running_loop",
    "asyncio.exceptions": "CancelledError",
    "asyncio.futures": "Future _get_loop future_add_to_awaited_by future_discard_from_awaited_by isfuture",
    "asyncio.locks": "BoundedSemaphore Semaphore _ContextManagerMixin",
    "asyncio.tasks": """Task _current_tasks _enter_task _leave_task _py_current_task _py_enter_task _py_leave_task
        current_task wait""",
    "_asyncio": """Future Task _current_tasks _enter_task _get_event_loop _get_running_loop _leave_task
        _set_running_loop _swap_current_task current_task get_event_loop get_running_loop""",
    "_collections": "OrderedDict deque",
    "_collections_abc": "Coroutine",
    "collections": "OrderedDict deque",
    "collections.abc": "Coroutine",
    "inspect": "isawaitable markcoroutinefunction",
}
TABLE = [(module, name) for module, names in NAMES.items() for name in names.split()]

# What cannot be done without, in both implementations or one of them: the import fails and says so.
ANY = {"object", "callable", "function"}
REFUSED = {
    ("_asyncio", "Future"): {"c": ANY | {"subclass"}},
    ("_asyncio", "Task"): {"c": ANY | {"subclass"}},
    ("_collections_abc", "Coroutine"): {"c": ANY, "python": ANY},
    ("inspect", "isawaitable"): {"c": {"object"}, "python": {"object"}},
}
if sys.version_info >= (3, 13):  # they are one module
    REFUSED["collections.abc", "Coroutine"] = REFUSED["_collections_abc", "Coroutine"]
if sys.version_info < (3, 12):
    REFUSED["asyncio.tasks", "current_task"] = {"python": {"object"}}


def implementations():
    built = importlib.util.find_spec("gatedcoro._core") is not None
    return [*(["c"] if built else []), *([] if SHORT and built else ["python"])]


@pytest.fixture(scope="module")
def outcomes():
    """{(module, name): [[implementation, stand-in, when, how it ended, how asyncio alone ends], ...]}"""
    there = [f"{module}:{name}" for module, name in TABLE if hasattr(importlib.import_module(module), name)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "faulthandler", str(PROGRAM), ",".join(implementations()), *there],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": package_parent(gatedcoro), "PYTHONWARNINGS": ""},
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = {}
    for line in done.stdout.splitlines():
        one, *case = json.loads(line)
        found.setdefault(tuple(one.split(":")), []).append(case)
    return found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each case runs in a process of its own, and they are many")
@pytest.mark.parametrize("module, name", TABLE)
def test_it_works_or_the_import_fails_in_clear_words(outcomes, module, name):
    if not hasattr(importlib.import_module(module), name):
        pytest.skip(f"this Python has no {module}.{name}")
    cases = outcomes[module, name]
    assert len(cases) >= 8 * len(implementations())
    for implementation, stand_in, when, ends, asyncio_ends in cases:
        refused = stand_in in REFUSED.get((module, name), {}).get(implementation, ())
        case = f"{implementation}: {stand_in}, {when} the import"
        if refused and when != "after":
            # It names what is wrong, and what stands in its place.
            defining = "_collections_abc" if name == "Coroutine" else module
            assert (
                ends.startswith("ImportError: ")
                and f"{defining}.{name}" in ends
                and ("it is <" in ends or "they are <" in ends)
            ), (case, ends)
        elif asyncio_ends == "works" or when == "during":
            assert ends == "works", (case, ends)
        else:  # asyncio itself needs it: an exception, but no crash
            assert "killed" not in ends, (case, ends)


# ---- what is instrumented is called ----

WHENS = ["before", "after"]

REIMPORT = """
import functools, importlib

def fresh():
    for name in [name for name in sys.modules if name.partition(".")[0] == "gatedcoro"]:
        del sys.modules[name]
    return importlib.import_module(impl_name)

impl_name = impl.__name__
when = sys.argv[1]
calls = 0

def counted(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        global calls
        calls += 1
        return function(*args, **kwargs)
    return wrapper

async def item(i):
    await asyncio.sleep(0)
    return i
"""


def check_replaced(impl, when, script):
    """Run a script that replaces something before or after it imports the implementation anew, by fresh()."""
    check_script(impl, REIMPORT + script + "\nprint('ok')", arguments=[when])


@pytest.mark.parametrize("when", WHENS)
def test_a_method_of_the_semaphore_classes_is_called_as_often_as_by_async_with(impl, when):
    check_replaced(
        impl,
        when,
        """
async def uses(one):
    global calls
    for make in asyncio.Semaphore, asyncio.BoundedSemaphore:
        gate = make(1)
        calls = 0
        for i in range(3):
            assert await one(gate, item(i)) == i
        assert await asyncio.gather(*(one(gate, item(i)) for i in range(3))) == [0, 1, 2]
        yield calls

async def with_statement(gate, coroutine):
    async with gate:
        return await coroutine

async def main():
    for cls in asyncio.Semaphore, asyncio.BoundedSemaphore:
        for name in "acquire", "locked", "release", "_wake_up_next", "__aenter__", "__aexit__":
            module = fresh()
            original, inherited = getattr(cls, name), name not in vars(cls)
            setattr(cls, name, counted(original))
            if when == "before":
                module = fresh()
            seen = [[count async for count in uses(one)] for one in (with_statement, module.gated_coro)]
            assert seen[0] == seen[1] and any(seen[0]), (cls, name, seen)
            (delattr(cls, name) if inherited else setattr(cls, name, original))

asyncio.run(main())
""",
    )


@pytest.mark.parametrize("when", WHENS)
def test_a_create_task_in_the_place_of_asyncio_s_makes_the_tasks(impl, when):
    check_replaced(
        impl,
        when,
        """
def count_of(module):
    async def main():
        global calls
        calls = 0
        assert await module.gather(*map(item, range(5)), limit=2) == list(range(5))
        return calls
    with asyncio.Runner(loop_factory=lambda: asyncio.new_event_loop()) as runner:
        return runner.run(main())

original = asyncio.BaseEventLoop.create_task
module = fresh()
asyncio.BaseEventLoop.create_task = counted(original)
if when == "before":
    module = fresh()
assert count_of(module) == 5
asyncio.BaseEventLoop.create_task = original
assert count_of(module) == 0

# A class of loops that makes its own, where asyncio's would be.
class Loop(asyncio.SelectorEventLoop):
    create_task = counted(original)

module = fresh()
kept = asyncio.BaseEventLoop
asyncio.base_events.BaseEventLoop = asyncio.BaseEventLoop = Loop
if when == "before":
    module = fresh()
asyncio.new_event_loop, kept_new = Loop, asyncio.new_event_loop
assert count_of(module) == 5
asyncio.new_event_loop = kept_new
assert count_of(module) == 0
""",
    )


@pytest.mark.parametrize("when", WHENS)
def test_a_subclass_where_the_semaphore_class_would_be_counts_in_its_own_way(impl, when):
    check_replaced(
        impl,
        when,
        """
original = asyncio.Semaphore

class Counting(original):
    acquire = counted(original.acquire)

if when == "before":
    asyncio.locks.Semaphore = asyncio.Semaphore = Counting
module = fresh()
asyncio.locks.Semaphore = asyncio.Semaphore = Counting

async def main():
    for make, expected in (original, 0), (Counting, 3):
        global calls
        calls = 0
        gate = make(2)
        for i in range(3):
            assert await module.gated_coro(gate, item(i)) == i
        assert calls == expected, (make, calls)

asyncio.run(main())
""",
    )


# ---- that no name is forgotten ----


def without_what_is_missing(taken):
    """Leave out what other versions of Python have."""
    return {(module, name) for module, name in taken if hasattr(importlib.import_module(module), name)}


def sources():
    return {path.name: path.read_text() for path in [*(ROOT / "src").glob("*/*.h"), ROOT / "src" / "_core.c"]}


needs_the_sources = pytest.mark.skipif(not (ROOT / "src").exists(), reason="the tests stand alone here")


@needs_the_sources
def test_the_table_has_every_name_that_the_c_takes():
    files = sources()
    text = "\n".join(files.values())
    taken = set()
    imports = re.findall(r"(?:IMPORT\w*|import_\w+)\(([^;{]*?)\)\s*[;)\n]", text)
    for arguments in imports:
        strings = [string for string in re.findall(r'"([\w.]+)"|(GATHER_GET_EVENT_LOOP)', arguments)]
        strings = [string or macro for string, macro in strings]
        if len(strings) < 2 or strings[0].startswith("gatedcoro."):
            continue
        module, name, *rest = strings
        names = re.findall(r'GATHER_GET_EVENT_LOOP "(\w+)"', files["compat.h"]) if name.isupper() else [name]
        modules = [module, *(word for word in rest if word.startswith(("_asyncio", "asyncio")))]
        taken |= {(module, name) for module in modules for name in names}
    assert len(taken) > 25
    # What is asked of the modules at the time.
    strings = dict(re.findall(r'X\((\w+), "(\w+)"\)', files["state.h"]))
    for text in files.values():
        for module, field in re.findall(r"state->asyncio_(tasks|futures),\s*(?:enters \? )?state->str_(\w+)", text):
            taken.add((f"asyncio.{module}", strings[field]))
    assert ("asyncio.tasks", "Task") in taken and ("asyncio.tasks", "current_task") in taken
    assert without_what_is_missing(taken) <= set(TABLE)


@needs_the_sources
def test_what_is_found_in_c_types_cannot_be_replaced_but_with_the_type():
    _asyncio = pytest.importorskip("_asyncio")
    types_of = {
        "&PyCoro_Type": types.CoroutineType,
        "state->task_base": _asyncio.Task,
        "state->future_base": _asyncio.Future,
    }
    found = re.findall(r'find_(?:getset|method)\(([^,()]+),\s*"(\w+)"\)', sources()["_core.c"])
    assert len(found) >= 6
    for type_name, attribute in found:
        with pytest.raises(TypeError):
            setattr(types_of[type_name], attribute, None)
    assert {("_asyncio", "Task"), ("_asyncio", "Future")} <= set(TABLE)


def test_the_table_has_every_name_that_the_reference_takes():
    files = (pathlib.Path(gatedcoro.__file__).parent / "_reference").glob("*.py")
    taken, by_the_way = set(), set()
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "").lstrip("_").startswith("taken"):
            strings = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            name, *modules = strings or [None]
            if node.func.id == "taken_class_of":
                modules = modules[:1]  # then a method
            taken |= {(module, name) for module in modules}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call):
            if "module" in (getattr(node.value.func, "id", None), getattr(node.value.func, "attr", None)):
                taken.add((node.value.args[0].value, node.attr))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in ("asyncio", "collections", "inspect"):
                by_the_way.add((node.value.id, node.attr))
    assert len(taken) > 20
    assert without_what_is_missing(taken) <= set(TABLE)
    of_inspect = {  # which is not asyncio's
        *(
            "CORO_CREATED",
            "CORO_RUNNING",
            "CORO_SUSPENDED",
            "CORO_CLOSED",
            "CO_ITERABLE_COROUTINE",
            "getcoroutinestate",
        ),
    }
    assert by_the_way - {("inspect", name) for name in of_inspect} <= set(TABLE)
