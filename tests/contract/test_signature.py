"""The functions look and behave as the Python functions that they replace."""

import asyncio
import inspect
import os
import pickle
import subprocess
import sys
from unittest import mock

import pytest

import gatedcoro
from contract_tools import run

SIGNATURES = {
    "gated_coro": "(semaphore, coro)",
    "gather_with_concurrency": "(n, *coros)",
    "gather": "(*aws, limit=None, return_exceptions=False, cancel_on_error=False, progress=None)",
    "run_all": "(async_fns, *, limit=None, return_exceptions=False, cancel_on_error=True, progress=None)",
    "constrained_execution": "(funcs, max_runs)",
}
COROUTINE_FUNCTIONS = sorted(set(SIGNATURES) - {"gather"})


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_inspect_shows_the_parameters(impl, name):
    assert str(inspect.signature(getattr(impl, name))) == SIGNATURES[name]


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_every_function_has_its_name_and_a_docstring(impl, name):
    function = getattr(impl, name)
    assert function.__name__ == name
    assert function.__qualname__ == name
    assert function.__module__ == "gatedcoro"
    assert len(inspect.getdoc(function)) > 200


@pytest.mark.parametrize("name", COROUTINE_FUNCTIONS)
def test_what_returns_coroutines_is_taken_for_a_coroutine_function(impl, name):
    function = getattr(impl, name)
    if sys.version_info >= (3, 12):
        assert inspect.iscoroutinefunction(function)
    else:
        assert asyncio.iscoroutinefunction(function)


def test_gather_is_no_coroutine_function(impl):
    assert not inspect.iscoroutinefunction(impl.gather)
    if sys.version_info < (3, 14):
        assert not asyncio.iscoroutinefunction(impl.gather)


@pytest.mark.parametrize("name", COROUTINE_FUNCTIONS)
def test_mock_patch_makes_an_async_mock(impl, name):
    with mock.patch.object(impl, name) as stand_in:
        assert isinstance(stand_in, mock.AsyncMock)


def test_mock_patch_makes_an_ordinary_mock_of_gather(impl):
    with mock.patch.object(impl, "gather") as stand_in:
        assert not isinstance(stand_in, mock.AsyncMock)


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_functions_are_pickled_by_name(name):
    function = getattr(gatedcoro, name)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(function, protocol)) is function


def test_parameters_may_be_given_by_name(impl):
    async def main():
        assert await impl.gather_with_concurrency(n=3) == []
        assert await impl.gated_coro(semaphore=asyncio.Semaphore(1), coro=asyncio.sleep(0, "slept")) == "slept"
        assert await impl.gated_coro(coro=asyncio.sleep(0, "slept"), semaphore=asyncio.Lock()) == "slept"
        assert await impl.run_all(async_fns=[lambda: asyncio.sleep(0, 1)]) == [1]
        assert await impl.constrained_execution(max_runs=1, funcs=[lambda: asyncio.sleep(0, 1)]) == [1]

    run(main)


@pytest.mark.parametrize(
    "call",
    [
        lambda impl: impl.gather_with_concurrency(),
        lambda impl: impl.gather_with_concurrency(1, m=2),
        lambda impl: impl.gated_coro(),
        lambda impl: impl.gated_coro(None),
        lambda impl: impl.gated_coro(None, None, None),
        lambda impl: impl.gated_coro(None, semaphore=None),
        lambda impl: impl.gather(count=1),
        lambda impl: impl.run_all(),
        lambda impl: impl.run_all([], 1),
        lambda impl: impl.constrained_execution([]),
        lambda impl: impl.constrained_execution([], 1, limit=2),
    ],
)
def test_wrong_arguments_are_type_errors_at_the_call(impl, call):
    with pytest.raises(TypeError):
        call(impl)


@pytest.mark.parametrize("name", ["python", "c", "", "rust"])
def test_an_environment_variable_chooses_the_implementation(name):
    script = "import gatedcoro; print(gatedcoro.implementation, gatedcoro.gather.__name__)"
    environment = {**os.environ, "GATEDCORO_IMPLEMENTATION": name}
    # pytest's own `pythonpath` does not reach the child.
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    child = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    if name == "rust":
        assert child.returncode == 1
        assert "ImportError: GATEDCORO_IMPLEMENTATION must be 'c' or 'python'" in child.stderr
    elif name == "c" and child.returncode != 0:
        assert "ImportError: GATEDCORO_IMPLEMENTATION=c asks for the C extension" in child.stderr
    else:
        chosen, function = child.stdout.split()
        assert chosen == name or (name == "" and chosen in ("c", "python"))
        assert function == "gather"
