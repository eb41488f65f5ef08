"""Everything that one might run many coroutines with, behind one call: `await run(item, count, limit)`.

An adapter makes what its tool wants (coroutines, partials, a source) itself, so that this is inside the timed region,
and gives the results in the order of the items where the tool keeps it. Beside each stands what it gives up.
"""

import asyncio
import functools
import importlib.util
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from .works import Item

Run = Callable[[Item, int, int | None], Awaitable[list[int]]]


# --- What people write by hand ------------------------------------------------------------------------------------


async def langchain_gated(semaphore: asyncio.Semaphore, coro: Awaitable[Any]) -> Any:
    async with semaphore:
        return await coro


async def langchain_gather(n: int | None, *coros: Coroutine[Any, Any, Any]) -> list[Any]:
    """The algorithm of langchain_core.runnables.utils, restated."""
    if n is None:
        return await asyncio.gather(*coros)
    gate = asyncio.Semaphore(n)
    return await asyncio.gather(*[langchain_gated(gate, coro) for coro in coros])


async def langchain(item: Item, count: int, limit: int | None) -> list[int]:
    return await langchain_gather(limit, *[item(index) for index in range(count)])


async def asyncio_gather(item: Item, count: int, limit: int | None) -> list[int]:
    return await asyncio.gather(*[item(index) for index in range(count)])


async def task_group(item: Item, count: int, limit: int | None) -> list[int]:
    async with asyncio.TaskGroup() as group:
        if limit is None:
            tasks = [group.create_task(_as_coroutine(item(index))) for index in range(count)]
        else:
            gate = asyncio.Semaphore(limit)
            tasks = [group.create_task(langchain_gated(gate, item(index))) for index in range(count)]
    return [task.result() for task in tasks]


def _as_coroutine(awaitable: Any) -> Any:
    return awaitable


async def lazy_pump(item: Item, count: int, limit: int | None) -> list[int]:
    """A Task per item, made when a slot frees: by the done callback of the one that freed it."""
    loop = asyncio.get_running_loop()
    everything_ended = loop.create_future()
    queue = enumerate([item(index) for index in range(count)])
    results: list[Any] = [None] * count
    tasks: dict[asyncio.Future[int], int] = {}

    def start_next() -> None:
        for index, coro in queue:
            task = loop.create_task(_as_coroutine(coro))
            tasks[task] = index
            task.add_done_callback(ended)
            return
        if not tasks and not everything_ended.done():
            everything_ended.set_result(None)

    def ended(task: asyncio.Future[int]) -> None:
        index = tasks.pop(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            results[index] = task.result()
        elif not everything_ended.done():
            everything_ended.set_exception(error)
        start_next()

    for _ in range(count if limit is None else min(limit, count)):
        start_next()
    if count:
        await everything_ended
    return results


async def pool_gather(n: int | None, *coros: Coroutine[Any, Any, Any]) -> list[Any]:
    """n workers that take the next coroutine from a shared iterator: what experts write by hand."""
    queue = enumerate(coros)
    results: list[Any] = [None] * len(coros)

    async def worker() -> None:
        for index, coro in queue:
            results[index] = await coro

    workers = len(coros) if n is None else min(n, len(coros))
    await asyncio.gather(*[worker() for _ in range(workers)])
    return results


async def pool(item: Item, count: int, limit: int | None) -> list[int]:
    return await pool_gather(limit, *[item(index) for index in range(count)])


# --- Packages -----------------------------------------------------------------------------------------------------


async def aioitertools(item: Item, count: int, limit: int | None) -> list[int]:
    from aioitertools.asyncio import gather

    return await gather(*[item(index) for index in range(count)], limit=-1 if limit is None else limit)


async def aiometer(item: Item, count: int, limit: int | None) -> list[int]:
    from aiometer import run_all

    return await run_all([functools.partial(item, index) for index in range(count)], max_at_once=limit)


async def aiostream(item: Item, count: int, limit: int | None) -> list[int]:
    from aiostream import stream

    map_: Any = stream.map  # its type asks for more than one source
    results: Any = await stream.list(map_(stream.iterate(range(count)), item, task_limit=limit))
    return list(results)


async def quattro(item: Item, count: int, limit: int | None) -> list[int]:
    from quattro import gather

    coros = [item(index) for index in range(count)]
    return list(await (gather(*coros) if limit is None else gather(*coros, concurrency_limit=limit)))


async def pyarallel(item: Item, count: int, limit: int | None) -> list[int]:
    from pyarallel import async_parallel_map

    assert limit is not None
    return (await async_parallel_map(item, range(count), concurrency=limit)).values()


# --- Ours ---------------------------------------------------------------------------------------------------------


async def reference_gather(n: int | None, *coros: Coroutine[Any, Any, Any]) -> list[Any]:
    from gatedcoro._reference import gather_with_concurrency

    return await gather_with_concurrency(n, *coros)


async def reference(item: Item, count: int, limit: int | None) -> list[int]:
    from gatedcoro._reference import gather_with_concurrency

    return await gather_with_concurrency(limit, *[item(index) for index in range(count)])


async def ours_gather(n: int | None, *coros: Coroutine[Any, Any, Any]) -> list[Any]:
    from gatedcoro._core import gather_with_concurrency

    return await gather_with_concurrency(n, *coros)


async def ours(item: Item, count: int, limit: int | None) -> list[int]:
    from gatedcoro._core import gather_with_concurrency

    return await gather_with_concurrency(limit, *[item(index) for index in range(count)])


async def ours_per_item_gather(n: int | None, *coros: Coroutine[Any, Any, Any]) -> list[Any]:
    from gatedcoro import _core

    previous = _core._set_task_reuse(False)
    try:
        return await _core.gather_with_concurrency(n, *coros)
    finally:
        _core._set_task_reuse(previous)


async def ours_per_item(item: Item, count: int, limit: int | None) -> list[int]:
    return await ours_per_item_gather(limit, *[item(index) for index in range(count)])


async def ours_run_all(item: Item, count: int, limit: int | None) -> list[int]:
    from gatedcoro._core import run_all

    return await run_all([functools.partial(item, index) for index in range(count)], limit=limit)


# --- The table ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Competitor:
    """A tool, and what an item has under it. tests/project/test_benchmarks.py finds each of the five out by experiment."""

    name: str
    title: str
    run: Run
    gather: Callable[..., Awaitable[list[Any]]] | None = None  # gather(n, *coroutines), where it has this shape
    needs: str | None = None  # the module that must be importable
    since: tuple[int, int] = (3, 11)  # the Python that it asks for
    limits: bool = True  # keeps to a limit
    unlimited: bool = True  # can do without one
    own_task: bool = True  # asyncio.current_task() is another one in each item
    own_context: bool = True  # a context variable set by an item is unseen by the others
    order: bool = True  # the results come in the order of the items
    own_error: bool = True  # an item's error costs no other item its run, and the call no slot
    fail_fast: bool = True  # the caller hears of an error before items that run already would have ended

    def absent(self) -> str | None:
        """Why the running interpreter cannot have it, or None."""
        if sys.version_info < self.since:
            return "does not support Python {}.{}".format(*sys.version_info)
        if self.needs is None:
            return None
        try:
            found = importlib.util.find_spec(self.needs) is not None
        except ImportError:
            found = False
        return None if found else f"{self.needs} is not installed"

    def not_applicable(self, limit: int | None) -> str | None:
        """Why it cannot express a call with this limit, or None."""
        if limit is None and not self.unlimited:
            return "cannot do without a limit"
        return None

    @property
    def gives_up(self) -> list[str]:
        kept = {
            "the limit": self.limits,
            "own Task": self.own_task,
            "own context": self.own_context,
            "order": self.order,
            "own error": self.own_error,
            "fail-fast": self.fail_fast,
        }
        return [what for what, is_kept in kept.items() if not is_kept]


OURS = "gatedcoro"
COMPETITORS = [
    Competitor(OURS, "gatedcoro", ours, ours_gather, "gatedcoro._core"),
    Competitor(
        "gatedcoro-per-item", "gatedcoro, Task per item", ours_per_item, ours_per_item_gather, "gatedcoro._core"
    ),
    Competitor("gatedcoro-run-all", "gatedcoro run_all", ours_run_all, None, "gatedcoro._core", own_error=False),
    Competitor("reference", "gatedcoro in Python", reference, reference_gather, "gatedcoro._reference"),
    Competitor("langchain", "LangChain's helper", langchain, langchain_gather),
    Competitor("asyncio-gather", "asyncio.gather", asyncio_gather, None, limits=False),
    Competitor("task-group", "TaskGroup + Semaphore", task_group, None, own_error=False),
    Competitor("lazy-pump", "lazy pump in Python", lazy_pump, None),
    Competitor(
        "pool",
        "pool of n workers",
        pool,
        pool_gather,
        unlimited=False,
        own_task=False,
        own_context=False,
        own_error=False,
    ),
    Competitor("aioitertools", "aioitertools", aioitertools, None, "aioitertools", own_error=False),
    Competitor("aiometer", "aiometer", aiometer, None, "aiometer", own_error=False),
    Competitor("aiostream", "aiostream", aiostream, None, "aiostream", own_error=False, fail_fast=False),
    Competitor("quattro", "quattro", quattro, None, "quattro", own_error=False),
    Competitor("pyarallel", "pyarallel", pyarallel, None, "pyarallel", (3, 12), unlimited=False, fail_fast=False),
]


async def making(item: Item, count: int, limit: int | None) -> list[int]:
    """Makes the coroutines and closes them: what memory and stall are before any tool has done anything."""
    for coro in [item(index) for index in range(count)]:
        coro.close()
    return list(range(count))


FLOOR = Competitor(
    "making",
    "only making coroutines",
    making,
    limits=False,
    own_task=False,
    own_context=False,
    own_error=False,
    fail_fast=False,
)  # no competitor: beside the figures of memory and stall, to be subtracted in thought
BY_NAME = {competitor.name: competitor for competitor in [*COMPETITORS, FLOOR]}
