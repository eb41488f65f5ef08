"""A Task that runs several items keeps its id(); GATEDCORO_TASK_REUSE=0 in the environment turns that off."""

import asyncio
import contextvars
import functools
import os
import pathlib
import subprocess
import sys
import weakref

import pytest

from contract_tools import run
from implementations import FREE_THREADED
from in_subprocess import paths_for, run_script

WRONG = ["", "2", " 0", "no"]


async def tasks_of(impl, turns):
    """Return one number for each of some items that run one after the other: the address of its Task."""

    async def item():
        for _ in range(turns):
            await asyncio.sleep(0)
        return id(asyncio.current_task())

    return await impl.gather_with_concurrency(1, *(item() for _ in range(5)))


def neighbours(addresses):
    """How many items ran in the Task of the one before.

    A Task of its own is made in the last step of the one before, so it has another address.
    """
    return sum(one == other for one, other in zip(addresses, addresses[1:]))


@pytest.mark.parametrize("turns", [1, 2, 5])
def test_items_share_a_task_in_c_only_and_not_if_that_is_turned_off(impl, request, turns):
    reuses = (
        request.node.callspec.params["impl"] == "c"
        and os.environ.get("GATEDCORO_TASK_REUSE") != "0"
        and not FREE_THREADED
    )
    assert neighbours(run(lambda: tasks_of(impl, turns))) == (4 if reuses else 0)


class InAContextVariable:
    def __init__(self):
        self.variable = contextvars.ContextVar("state", default=None)

    def get(self):
        return self.variable.get()

    def set(self, value):
        self.variable.set(value)


class UnderTheTask:
    def __init__(self, mapping):
        self.mapping = mapping

    def get(self):
        return self.mapping.get(asyncio.current_task())

    def set(self, value):
        self.mapping[asyncio.current_task()] = value


class UnderAWeakReference:
    def __init__(self):
        self.mapping = {}

    def get(self):
        return self.mapping.get(weakref.ref(asyncio.current_task()))

    def set(self, value):
        self.mapping[weakref.ref(asyncio.current_task())] = value


KEEPERS = {
    "in a context variable": InAContextVariable,
    "under the Task": lambda: UnderTheTask({}),
    "under the Task, weakly": lambda: UnderTheTask(weakref.WeakKeyDictionary()),
    "under a weak reference": UnderAWeakReference,
}


@pytest.mark.parametrize("turns", [0, 1, 3])
@pytest.mark.parametrize("n", [1, 2, None])
@pytest.mark.parametrize("kept", KEEPERS)
def test_state_that_is_kept_as_the_readme_says_is_the_item_s_own(impl, kept, n, turns):
    async def main():
        state = KEEPERS[kept]()

        async def item(index):
            before = state.get()
            state.set(index)
            for _ in range(turns):
                await asyncio.sleep(0)
            return before, state.get()

        expected = [(None, index) for index in range(6)]
        assert await impl.gather_with_concurrency(n, *map(item, range(6))) == expected
        assert await impl.gather(*map(item, range(6)), limit=n) == expected
        assert await impl.run_all([functools.partial(item, index) for index in range(6)], limit=n) == expected

    run(main)


SCRIPT = """
import asyncio, sys
sys.path[:0] = {paths!r}
import gatedcoro
from test_reused_tasks import neighbours, tasks_of
print(gatedcoro.implementation, neighbours(asyncio.run(tasks_of(gatedcoro, 1))))
"""


def run_with(impl, value):
    """Run a process in which the variable has that value, or is not set."""
    paths = [str(pathlib.Path(__file__).parent), *paths_for(impl)]
    environment = {name: text for name, text in os.environ.items() if name != "GATEDCORO_TASK_REUSE"}
    environment["GATEDCORO_IMPLEMENTATION"] = "python" if "_reference" in impl.__name__ else "c"
    if value is not None:
        environment["GATEDCORO_TASK_REUSE"] = value
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(paths=paths)], capture_output=True, text=True, env=environment, timeout=120
    )


@pytest.mark.parametrize("value", [None, "0", "1"])
def test_the_variable_is_read_at_import(impl, value):
    done = run_with(impl, value)
    in_c = "_core" in impl.__name__
    reuses = in_c and value != "0" and not FREE_THREADED
    assert done.stdout == f"{'c' if in_c else 'python'} {4 if reuses else 0}\n", done.stderr


@pytest.mark.parametrize("value", WRONG)
def test_any_other_value_is_an_import_error_that_names_it(impl, value):
    done = run_with(impl, value)
    assert done.returncode == 1 and done.stdout == ""
    message = f"ImportError: GATEDCORO_TASK_REUSE must be '0' or '1', or not be set; it is {value!r}"
    assert done.stderr.splitlines()[-1] == message
    assert "GATEDCORO_IMPLEMENTATION" not in done.stderr and "During handling" not in done.stderr


def test_each_implementation_looks_for_itself(impl):
    """The package is imported already when somebody asks for the other implementation."""
    script = """
        import os, sys
        del sys.modules[impl.__name__]
        os.environ["GATEDCORO_TASK_REUSE"] = "no"
        try:
            importlib.import_module(impl.__name__)
        except ImportError as error:
            print(error)
    """
    done = run_script(impl, script, environment={"GATEDCORO_TASK_REUSE": "1"})
    assert done.stdout == "GATEDCORO_TASK_REUSE must be '0' or '1', or not be set; it is 'no'\n", done.stderr
