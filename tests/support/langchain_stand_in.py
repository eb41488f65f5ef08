"""A package that looks like langchain_core to the swap, for tests that are about the swap and not about LangChain.

Its helpers are not LangChain's to the letter, so the swap finds them unknown: a test either teaches it their bodies
(`known_helpers`) or filters the warning (`IGNORE_WARNINGS`).
"""

import dataclasses
import textwrap

from gatedcoro.langchain import _drift, _swap

UTILS = '''
    import asyncio
    from collections.abc import Coroutine
    from typing import Any


    async def gated_coro(semaphore: asyncio.Semaphore, coro: Coroutine[Any, Any, Any]) -> Any:
        """Await `coro` while holding `semaphore`."""
        async with semaphore:
            outcome = await coro
            return outcome


    async def gather_with_concurrency(n: int | None, *coros: Coroutine[Any, Any, Any]) -> list[Any]:
        """Await all of `coros`, at most `n` at a time."""
        if n is None:
            return await asyncio.gather(*coros)
        slots = asyncio.Semaphore(n)
        return await asyncio.gather(*[gated_coro(slots, coro) for coro in coros])
'''

IMPORTS = """
    from langchain_core.runnables import utils
    from langchain_core.runnables.utils import gated_coro, gather_with_concurrency as gather_by_another_name
"""

RUNNABLE = '''
    import abc
    from collections.abc import AsyncIterator, Sequence
    from typing import Any


    class Runnable(abc.ABC):
        async def abatch_as_completed(
            self, inputs: Sequence[Any], config: Any = None, *, return_exceptions: bool = False, **kwargs: Any
        ) -> AsyncIterator[tuple[int, Any]]:
            """Yield the index and the output of each of `inputs`."""
            for index, value in enumerate(inputs):
                yield index, await self.ainvoke(value, config, **kwargs)
'''

BASE = IMPORTS + RUNNABLE

EXECUTOR = '''
    async def gated(semaphore, coro):
        """Await `coro` while holding `semaphore`."""
        async with semaphore:
            outcome = await coro
            return outcome
'''

TABLES = ("LANGCHAIN_HELPERS", "LANGCHAIN_METHODS", "LANGGRAPH_HELPERS", "HELPERS")

IGNORE_WARNINGS = ["-W", "ignore:langchain_core.runnables:RuntimeWarning"]


def write_module(folder, name, source=""):
    """Write a module, and the packages that it lies in, below `folder`."""
    *packages, module = name.split(".")
    for package in packages:
        folder = folder / package
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()
    (folder / f"{module}.py").write_text(textwrap.dedent(source))


def write_langchain(folder, utils=UTILS, base=BASE):
    write_module(folder, "langchain_core.runnables.utils", utils)
    write_module(folder, "langchain_core.runnables.base", base)


def write_langgraph(folder, executor=EXECUTOR):
    write_module(folder, "langgraph.pregel._executor", executor)


def known_helpers(folder):
    """The swap's tables, with the bodies of this stand-in as the known ones."""
    bodies = {}
    for name, source in (("known_utils", UTILS), ("known_base", RUNNABLE), ("known_executor", EXECUTOR)):
        path = folder / f"{name}.py"
        path.write_text(textwrap.dedent(source))
        namespace = {}
        exec(compile(path.read_text(), str(path), "exec"), namespace)
        namespace.update(vars(namespace.get("Runnable", object)))
        for helper in _swap.HELPERS:
            if helper.name in namespace:
                bodies[helper.name] = (_drift.fingerprints(namespace[helper.name]),)

    def learned(helpers):
        return tuple(
            dataclasses.replace(helper, known=dataclasses.replace(helper.known, bodies=bodies[helper.name]))
            for helper in helpers
        )

    return {name: learned(vars(_swap)[name]) for name in TABLES}
