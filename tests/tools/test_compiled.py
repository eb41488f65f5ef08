"""Coroutines that Cython and mypyc have compiled: as items, as functions, as gates, and around ours."""

import asyncio
import collections.abc
import functools
import importlib.util
import os
import subprocess
import sys
import types

import pytest

from contract_tools import idle, run
from doors import all_doors, doors
from tools import needs

needs("Cython", "mypy", "setuptools")

# mypyc's coroutines are thrown into by three arguments.
pytestmark = pytest.mark.filterwarnings("ignore:the .type, exc, tb. signature of throw:DeprecationWarning")

SOURCE = '''
import asyncio
import contextvars
from typing import Any, Callable, List, Optional

variable: "contextvars.ContextVar[str]" = contextvars.ContextVar("variable", default="default")


async def plain(i: int, turns: int = 1) -> int:
    for _ in range(turns):
        await asyncio.sleep(0)
    return i


async def fails(error: BaseException) -> int:
    await asyncio.sleep(0)
    raise error


async def cleans_up(name: str, ended: List[str]) -> str:
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError as error:
        ended.append(name + " " + ",".join([str(arg) for arg in error.args]))
        await asyncio.sleep(0)
        raise
    finally:
        ended.append(name)
    return name


async def sets(value: str) -> List[str]:
    before = variable.get()
    variable.set(value)
    await asyncio.sleep(0)
    return [before, variable.get()]


async def current() -> Any:
    await asyncio.sleep(0)
    return asyncio.current_task()


class Client:
    def __init__(self, base: int) -> None:
        self.base = base

    async def method(self, i: int) -> int:
        return self.base + await plain(i)


class Gate:
    """An async context manager."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0

    async def __aenter__(self) -> "Gate":
        await asyncio.sleep(0)
        self.inside += 1
        self.most = max(self.most, self.inside)
        return self

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> Optional[bool]:
        await asyncio.sleep(0)
        self.inside -= 1
        return None


async def calls(gather_with_concurrency: Callable[..., Any], gather: Callable[..., Any]) -> List[Any]:
    """Uses our functions from compiled code."""
    first = await gather_with_concurrency(2, plain(1), plain(2), plain(3))
    second = await gather(plain(1), plain(2), limit=1)
    return [first, second]
'''


def load(name, folder):
    [extension] = [
        path for path in folder.iterdir() if path.name.startswith(f"{name}.") and path.suffix in (".so", ".pyd")
    ]
    spec = importlib.util.spec_from_file_location(name, extension)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMPILE = {
    "cython": "from Cython.Build import cythonize; extensions = cythonize(['compiled_by_cython.py'], language_level=3)",
    "mypyc": "from mypyc.build import mypycify; extensions = mypycify(['compiled_by_mypyc.py'], opt_level='0')",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module", params=COMPILE)
def compiled(request, folder):
    """The source above as an extension module."""
    name = f"compiled_by_{request.param}"
    (folder / f"{name}.py").write_text(SOURCE)
    setup = f"from setuptools import setup; {COMPILE[request.param]}; setup(name={name!r}, ext_modules=extensions)"
    done = subprocess.run(
        [sys.executable, "-c", setup, "-q", "build_ext", "--inplace"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "CFLAGS": "-O0"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    os.remove(folder / f"{name}.py")
    return load(name, folder)


def test_they_are_coroutines_that_are_not_native(compiled):
    coroutine = compiled.plain(1)
    assert isinstance(coroutine, collections.abc.Coroutine)
    assert type(coroutine) is not types.CoroutineType
    coroutine.close()


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_as_items_and_as_functions(impl, compiled, turns):
    async def main():
        for name, call in all_doors(impl):
            for limit in 1, 2, None:
                functions = [functools.partial(compiled.plain, i, turns) for i in range(5)]
                assert await call(limit, functions) == list(range(5)), (name, limit)
                methods = [functools.partial(compiled.Client(10).method, i) for i in range(5)]
                assert await call(limit, methods) == list(range(10, 15)), (name, limit)

    run(main)


def test_their_errors(impl, compiled):
    async def main():
        for name, call in all_doors(impl):
            for limit in 1, 2, None:
                for error in LookupError("why"), asyncio.CancelledError("why"):
                    with pytest.raises(type(error)) as caught:
                        await call(limit, [functools.partial(compiled.fails, error)])
                    assert caught.value.args == ("why",), (name, limit)
        results = await impl.gather(
            compiled.plain(1), compiled.fails(LookupError("why")), compiled.plain(2), limit=1, return_exceptions=True
        )
        assert [results[0], str(results[1]), results[2]] == [1, "why", 2]

    run(main)


def test_they_are_cancelled_and_clean_up(impl, compiled):
    async def main():
        for name, call in doors(impl).items():
            ended = []
            task = asyncio.ensure_future(
                call(2, [functools.partial(compiled.cleans_up, name, ended) for name in "abc"])
            )
            await idle(4)
            task.cancel("why")
            with pytest.raises(asyncio.CancelledError):
                await task
            await idle(3)
            # asyncio.gather, which gated_coro is under here, cancels those that wait, too.
            assert ended == ["a why", "b why", "a", "b"], name

    run(main)


def test_queued_ones_are_closed_without_a_warning(impl, compiled):
    async def main():
        items = [compiled.plain(i) for i in range(4)]
        impl.gather_with_concurrency(2, *items).close()
        for coroutine in items:
            with pytest.raises((RuntimeError, StopIteration)):
                coroutine.send(None)
        outer = impl.gather(compiled.cleans_up("a", []), *(compiled.plain(i) for i in range(4)), limit=1)
        await idle(3)
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer

    run(main)


def test_each_has_a_context_and_a_task_of_its_own(impl, compiled):
    async def main():
        compiled.variable.set("caller")
        for name, call in all_doors(impl):
            for limit in 1, 2, None:
                seen = await call(limit, [functools.partial(compiled.sets, str(i)) for i in range(5)])
                assert seen == [["caller", str(i)] for i in range(5)], (name, limit)
                tasks = await call(limit, [compiled.current] * 5)
                assert len({id(task) for task in tasks}) == 5, (name, limit)
        assert compiled.variable.get() == "caller"

    run(main)


def test_a_task_answers_with_the_compiled_coroutine(impl, compiled):
    async def main():
        coroutine = compiled.current()
        for wrapped in coroutine, compiled.current():
            [task] = await impl.gather(wrapped, limit=1)
            assert task.get_coro() is wrapped
            assert asyncio.coroutines._format_coroutine(wrapped) in repr(task)

    run(main)


def test_a_compiled_gate(impl, compiled):
    async def main():
        gate = compiled.Gate()
        assert await impl.gather(*(compiled.plain(i) for i in range(5)), limit=gate) == list(range(5))
        assert await impl.gather(*[impl.gated_coro(gate, compiled.plain(i)) for i in range(5)]) == list(range(5))
        assert gate.inside == 0
        assert gate.most == 5  # it lets everybody in
        with pytest.raises(LookupError):
            await impl.gated_coro(gate, compiled.fails(LookupError()))
        assert gate.inside == 0

    run(main)


def test_our_functions_called_by_compiled_code(impl, compiled):
    async def main():
        assert await compiled.calls(impl.gather_with_concurrency, impl.gather) == [[1, 2, 3], [1, 2]]
        # And as items, that gather in turn.
        call = functools.partial(compiled.calls, impl.gather_with_concurrency, impl.gather)
        assert await impl.run_all([call] * 3, limit=2) == [[[1, 2, 3], [1, 2]]] * 3

    run(main)


def test_the_same_coroutine_twice(impl, compiled):
    async def outcome_of(awaits):
        try:
            return await awaits
        except RuntimeError as error:
            return str(error)

    async def one_after_the_other(first, second):
        return [await first, await second]

    async def main():
        coroutine = compiled.plain(1)
        assert await impl.gather(coroutine, coroutine) == [1, 1]
        coroutine = compiled.plain(1)
        expected = await outcome_of(one_after_the_other(coroutine, coroutine))
        coroutine = compiled.plain(1)
        assert await outcome_of(impl.gather_with_concurrency(1, coroutine, coroutine)) == expected

    run(main)
