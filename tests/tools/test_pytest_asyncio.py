"""pytest-asyncio: gatherings in fixtures and tests, on loops that live for a test, a class, a module or the session."""

import os
import subprocess
import sys
import textwrap

import pytest

from implementations import package_parent, reuses_tasks
from tools import needs

needs("pytest-asyncio")


CONFTEST = """
import asyncio
import importlib
import os

import pytest
import pytest_asyncio

impl_ = importlib.import_module(os.environ["IMPLEMENTATION"])
impl_._set_task_reuse(os.environ["REUSE"] == "True")


@pytest.fixture(scope="session")
def impl():
    return impl_


async def item(i, turns=1):
    for _ in range(turns):
        await asyncio.sleep(0)
    return i


@pytest.fixture(scope="session")
def calls(impl):
    '''Every way in, as calls that return [0, 1, 2, 3, 4].'''
    gate = asyncio.Semaphore(2)
    return {
        "gather_with_concurrency": lambda limit: impl.gather_with_concurrency(limit, *map(item, range(5))),
        "gather": lambda limit: impl.gather(*map(item, range(5)), limit=limit),
        "run_all": lambda limit: impl.run_all([lambda i=i: item(i) for i in range(5)], limit=limit),
        "constrained_execution": lambda limit: impl.constrained_execution([lambda i=i: item(i) for i in range(5)], limit),
    }


def fixture(scope):
    '''An async fixture that gathers before and after its tests, and leaves a call and a semaphore to them.'''

    @pytest_asyncio.fixture(scope=scope, loop_scope=scope, name=f"{scope}_fixture")
    async def function(impl, calls):
        loop = asyncio.get_running_loop()
        for call in calls.values():
            assert await call(2) == list(range(5))
        gate = asyncio.Semaphore(2)
        pending = impl.gather(*(item(i, 3) for i in range(5)), limit=gate)
        yield loop, pending, gate
        assert loop is asyncio.get_running_loop()
        assert await pending == list(range(5))
        assert await impl.gather(*map(item, range(5)), limit=gate) == list(range(5))
        for call in calls.values():
            assert await call(None) == list(range(5))
        assert gate._value == 2

    return function


function_fixture, class_fixture, module_fixture, package_fixture, session_fixture = map(
    fixture, ["function", "class", "module", "package", "session"]
)
"""

TEST_FILE = """
import asyncio

import pytest

from conftest import item

SCOPE = {scope!r}
pytestmark = pytest.mark.asyncio(loop_scope=SCOPE)


@pytest.fixture
def mine(request):
    return request.getfixturevalue(f"{{SCOPE}}_fixture")


@pytest.mark.parametrize("turn", range(3))
class TestInAClass:
    @pytest.mark.parametrize("limit", [1, 2, None])
    async def test_it_gathers(self, impl, calls, mine, limit, turn):
        loop, pending, gate = mine
        assert loop is asyncio.get_running_loop()
        for call in calls.values():
            assert await call(limit) == list(range(5))
        # The fixture's semaphore, its Future, and both at once.
        assert await impl.gather(*map(item, range(5)), limit=gate) == list(range(5))
        if turn:
            assert await pending == list(range(5))
        assert await asyncio.gather(*[impl.gated_coro(gate, item(i)) for i in range(5)]) == list(range(5))

    async def test_what_an_error_leaves_queued_goes_on_or_is_closed_with_the_loop(self, impl, mine, turn):
        async def fails():
            raise LookupError

        with pytest.raises(LookupError):
            await impl.gather_with_concurrency(1, fails(), *(item(i, 2) for i in range(5)))
        with pytest.raises(LookupError):
            await impl.run_all([fails, *[lambda: item(1)] * 5], limit=1)

    async def test_a_call_that_is_left_running_is_cancelled_with_the_loop_or_goes_on(self, impl, mine, turn):
        impl.gather(*(asyncio.sleep(3600) for _ in range(5)), limit=2)
        task = asyncio.create_task(impl.gather_with_concurrency(2, *(asyncio.sleep(3600) for _ in range(5))))
        await asyncio.sleep(0)
        TestInAClass.kept = task


async def test_a_function(impl, calls, mine):
    loop, pending, gate = mine
    assert await pending == list(range(5))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await impl.gather(item(1), item(2), limit=gate)
    assert gate._value == 2
"""


def run_pytest(impl, folder, *arguments):
    environment = {
        "IMPLEMENTATION": impl.__name__,
        "REUSE": str(reuses_tasks(impl)),
        "PYTHONPATH": package_parent(impl),
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:ddtrace", *arguments, str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("mode", ["strict", "auto", "strict, debug"])
def test_on_loops_of_every_scope(impl, tmp_path, mode):
    scopes = ["function", "class", "module", "package", "session"]
    # Two modules of each, so that a loop ends, or goes on, in between; in debug mode everything takes many times as long.
    names = ["first"] if "debug" in mode else ["first", "second"]
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for scope in scopes:
        for name in names:
            (tmp_path / f"test_{scope}_{name}.py").write_text(TEST_FILE.format(scope=scope))
    (tmp_path / "pytest.ini").write_text(
        textwrap.dedent(
            f"""
            [pytest]
            asyncio_mode = {mode.split(",")[0]}
            asyncio_debug = {"debug" in mode}
            asyncio_default_fixture_loop_scope = function
            filterwarnings = error
            """
        )
    )
    done = run_pytest(impl, tmp_path)
    tests = len(scopes) * len(names) * (3 * (3 + 2) + 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tests} passed" in done.stdout, done.stdout
    assert done.stderr == ""
